"""Shrinking: a failure is kept, what does not matter goes."""

from bulkhead.fuzz.shrink import shrink


def store(number, value=1):
    return ("store", 1, 0, 8 * number, 8, value)


def test_shrink__keeps_what_the_failure_needs():
    needed = {store(3), store(57), store(90)}

    def fails(history):
        for i in range(len(history)):
            if needed <= set(history[:i + 1]):
                return i + 1
        return None

    short = shrink([store(i) for i in range(100)], fails)
    assert [store(3), store(57), store(90)] == short


def test_shrink__makes_values_simple():
    def fails(history):
        for i, stimulus in enumerate(history):
            if stimulus[0] == "hypercall" and stimulus[3].get(16) == 12:
                return i + 1
        return None

    short = shrink([("hypercall", 1, 3, {16: 12, 0: 6, 4: 9}, 2)], fails)
    assert [("hypercall", 1, 0, {16: 12}, 0)] == short


def test_shrink__stops_in_time():
    calls = []

    def fails(history):
        calls.append(1)
        return len(history)

    shrink([store(i) for i in range(1000)], fails, seconds=0)
    assert len(calls) == 1
