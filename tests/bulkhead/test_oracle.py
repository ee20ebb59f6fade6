"""The specification as a machine, next to the optimised implementation: what one does, the other does."""

from __future__ import annotations

import random
from struct import pack
from typing import Any

import attrs
import pytest

from bulkhead import trace as t
from bulkhead.oracle.machine import MisuseError, Oracle, UnmodelledError
from bulkhead.oracle.projection import Comparison, Difference
from bulkhead.oracle.properties import Properties, properties
from bulkhead.oracle.run import Pair, machine_of, recorded, run
from bulkhead.oracle.state_of import oracle_of, shape_of
from bulkhead.problems import BadInputError
from impl.fast.projection import Projector
from spec.language import DomId

BASE = 0x40000000
ARGUMENT, LIST, SECOND, THIRD = BASE + 0x1000, BASE + 0x2000, BASE + 0x3000, BASE + 0x4000
SELF = 0x7FF0
POPULATE, DECREASE, INCREASE, ADD, BATCH, REMOVE, ACQUIRE = 6, 1, 0, 7, 23, 15, 28


def machine(arch: str = "arm64", *, domains: tuple[t.Domain, ...] = (), **config: Any) -> t.Trace:
    """A board with dom0 and two domUs."""
    if arch == "arm32":
        config.setdefault("xenheap_pages", 512)
    return t.Trace(t.Board(ram=(t.Bank(BASE, 32 << 20),)), t.Configuration(arch=arch, **config), domains or (
        t.Domain(0, 512, privileged=True, is_hardware=True, direct_map=True, max_pages=2048, iomem=((0x900, 64),)),
        t.Domain(1, 256, max_pages=1200, vcpus=2), t.Domain(2, 64, max_pages=80, p2m_pool_pages=16),
    ), ())


class Both:
    """Guests on both sides; every stimulus is compared, and so are the properties of the specification."""

    def __init__(self, trace: t.Trace) -> None:
        self.pair = Pair(machine_of(trace))
        assert self.pair.oracle is not None
        assert self.pair.comparison is not None
        self.oracle: Oracle = self.pair.oracle
        self.comparison: Comparison = self.pair.comparison
        self.properties = Properties(self.oracle)
        self.given: list[t.Stimulus] = []
        rows = self.oracle.state.domain
        self.bases = {domain.domid: rows[DomId(domain.domid)].lowest_gfn << 12 for domain in trace.domains}

    def give(self, stimulus: t.Stimulus) -> Any:
        self.given.append(stimulus)
        _, seen, found = self.pair.give(stimulus)
        assert [] == [each.text for each in found], stimulus
        assert [] == [str(each) for each in self.properties.after()], stimulus
        return seen

    def put(self, domain: int, address: int, data: bytes) -> None:
        for i in range(0, len(data), 8):
            word = int.from_bytes(data[i:i + 8], "little")
            assert self.give(t.Store(domain, 0, address + i, 8, word)).kind == "value"

    def call(self, domain: int, *arguments: int, number: int = 12) -> Any:
        bits = self.oracle.guests[domain].width
        return self.give(t.Hypercall(domain, 0, {16 if bits == 64 else 12: number, **dict(enumerate(arguments))}))

    def result(self, domain: int, *arguments: int, number: int = 12) -> int:
        seen = self.call(domain, *arguments, number=number)
        assert seen.kind == "value"
        bits = self.oracle.guests[domain].width
        value: int = seen.registers[0]
        return value - (1 << bits) if value >> bits - 1 else value

    def reservation(self, domain: int, operation: int, gfns: list[int], *, order: int = 0, flags: int = 0,
                    subject: int = SELF, start: int = 0) -> Any:
        base = self.argument(domain)
        self.put(domain, base + LIST - ARGUMENT, pack(f"<{len(gfns)}Q", *gfns))
        self.put(domain, base, pack("<QQIIHxxxxxx", base + LIST - ARGUMENT, len(gfns), order, flags, subject))
        return self.call(domain, operation | start << 6, base)

    def memory_op(self, domain: int, operation: int, data: bytes) -> int:
        base = self.argument(domain)
        self.put(domain, base, data.ljust(-(-len(data) // 8) * 8, b"\0"))
        return self.result(domain, operation, base)

    def domctl(self, command: int, domain: int, data: bytes, caller: int = 0) -> Any:
        base = self.argument(caller)
        self.put(caller, base, (pack("<IIH6x", command, 0x15, domain) + data).ljust(144, b"\0"))
        return self.call(caller, base, number=36)

    def argument(self, domain: int) -> int:
        return self.bases[domain] + 0x1000

    def whole(self) -> None:
        assert [] == [each.text for each in self.comparison.whole()]
        for number, domain in self.pair.machine.domains.items():
            here, there = self.oracle.shapes[number], shape_of(domain)
            assert {key: (node.mfn, node.valid) for key, node in there.tables.items()} == {
                key: (node.mfn, node.valid) for key, node in here.tables.items()}
            assert dict(there.blocks) == dict(here.blocks)


@pytest.mark.parametrize("arch", ["arm64", "arm32"])
def test_oracle_of__is_the_state_after_boot(arch: str) -> None:
    both = Both(machine(arch))

    both.whole()
    assert [] == [str(each) for each in properties(both.oracle)]


@pytest.mark.parametrize("arch", ["arm64", "arm32"])
def test_populate_and_decrease__are_the_same_on_both(arch: str) -> None:
    both = Both(machine(arch))

    assert both.reservation(1, POPULATE, [0x50000, 0x50001, 0x60000]).registers[0] == 3
    both.give(t.Store(1, 0, 0x50000FFC, 8, 0x1122334455667788))
    assert both.give(t.Load(1, 1, 0x50001000, 4)).value == 0x11223344
    assert both.reservation(1, DECREASE, [0x50000, 0x70000, 0x50001]).registers[0] == 1
    assert both.give(t.Load(1, 0, 0x50000000)).kind == "fault"
    both.whole()


def test_populate__of_a_block_is_split_when_a_page_of_it_goes() -> None:
    both = Both(machine())

    assert both.reservation(1, POPULATE, [0x80000], order=9).registers[0] == 1
    assert both.reservation(1, DECREASE, [0x80005]).registers[0] == 1
    assert both.reservation(1, POPULATE, [0x80000], order=9, flags=1 << 16).registers[0] == 0
    both.whole()


def test_populate__stops_where_the_pool_of_tables_runs_dry() -> None:
    both = Both(machine())
    regions = [0x100000 + (i << 9) for i in range(16)]

    done = both.reservation(2, POPULATE, regions).registers[0]

    assert 0 < done < 16
    both.whole()


def test_populate__goes_on_where_it_was_preempted() -> None:
    both = Both(machine())
    both.give(t.Preempt(2))

    seen = both.reservation(1, POPULATE, [0x50000, 0x50001, 0x50002, 0x50003])

    assert seen.kind == "restart"
    assert (6 | 2 << 6, both.argument(1)) == tuple(seen.registers[:2])
    assert both.call(1, *seen.registers[:2]).registers[0] == 4


def test_populate__refuses_what_the_heap_has_promised_to_others() -> None:
    both = Both(machine())
    both.domctl(11, 2, pack("<Q", 1 << 20))
    free = both.oracle.state.heap[0].free

    assert both.memory_op(0, 24, pack("<QQIIHxxxxxx", 0, 64 + free, 0, 0, 2)) == 0
    assert both.reservation(1, POPULATE, [0x50000]).registers[0] == 0
    assert both.reservation(2, POPULATE, [0x50000]).registers[0] == 1


def test_accesses__meet_the_faults_that_xen_repairs() -> None:
    both = Both(machine())

    both.give(t.Fetch(1, 0, BASE))
    both.give(t.SetWay(1, 1))
    both.give(t.Store(1, 0, BASE + 0xFF9, 8, 1 << 40))
    both.give(t.ToggleCache(1, 1, enabled=True))
    both.give(t.Load(1, 0, BASE + (256 << 12) - 4, 8))
    both.give(t.Load(1, 0, 1 << 44, 1))
    both.whole()


def test_add_to_physmap__maps_grant_frames_that_the_table_grows_for() -> None:
    both = Both(machine(grant_max_version=2))

    assert both.memory_op(1, ADD, pack("<HHIQQ", SELF, 0, 1, 3, 0x50000)) == 0
    assert both.memory_op(1, ADD, pack("<HHIQQ", SELF, 0, 1, 3, 0x50001)) == -16
    assert both.memory_op(1, REMOVE, pack("<H6xQ", SELF, 0x50000)) == 0
    assert both.memory_op(1, ADD, pack("<HHIQQ", SELF, 0, 1, 64, 0x50001)) == -22
    assert both.memory_op(1, ADD, pack("<HHIQQ", SELF, 0, 0, 0, 0x50001)) == 0
    both.whole()


def test_add_to_physmap_batch__maps_foreign_pages_one_by_one() -> None:
    both = Both(machine())
    base = both.argument(0)
    both.put(0, base + 0x1000, pack("<4Q", 0x40000, 0x40001, 0x90000, 0x40003))
    both.put(0, base + 0x2000, pack("<4Q", 0x200000, 0x200001, 0x200002, 0x200003))

    result = both.memory_op(0, BATCH, pack("<HHHHQQQ", SELF, 4, 4, 1, base + 0x1000, base + 0x2000, base + 0x3000))

    assert result == 0
    assert both.give(t.Load(0, 0, base + 0x3008, 4)).value == (1 << 32) - 22
    assert both.give(t.Load(0, 0, 0x200002000)).kind == "fault"
    both.whole()


def test_acquire_resource__maps_another_domains_grant_frames() -> None:
    both = Both(machine(domains=(
        t.Domain(0, 512, privileged=True, is_hardware=True, direct_map=True), t.Domain(1, 64, target=2),
        t.Domain(2, 64))))
    both.put(1, LIST, pack("<3Q", 0x60000, 0x60001, 0x60002))

    assert both.memory_op(1, ACQUIRE, pack("<HHIIIQQ", 2, 1, 0, 3, 0, 0, LIST)) == 0
    assert both.memory_op(2, ACQUIRE, pack("<HHIIIQQ", 1, 1, 0, 3, 0, 0, LIST)) == -1
    both.whole()


def create(both: Both, number: int = 0) -> int:
    fields = pack("<I16sIIIiiiIIIBxHII", 0, bytes(16), 3, 0, 1, -1, -1, -1, 1, 0, 0, 0, 0, 32, 0)
    seen = both.domctl(1, number, fields)
    assert seen.registers[0] == 0
    made: int = both.give(t.Load(0, 0, both.argument(0) + 8, 2)).value
    return made


@pytest.mark.parametrize("every", [None, 1, 3])
def test_domains__are_built_and_destroyed_the_same_on_both(every: int | None) -> None:
    both = Both(machine())
    number = create(both)
    assert both.domctl(86, number, pack("<Q", 24 << 12)).registers[0] == 0
    assert both.domctl(11, number, pack("<Q", 4 * 600)).registers[0] == 0
    assert both.reservation(0, POPULATE, [0x40000, 0x40001, 0x50000], subject=number).registers[0] == 3
    assert both.reservation(0, POPULATE, [0x80000], order=9 if every is None else 1, subject=number).registers[0] == 1
    assert both.domctl(20, number, pack("<QQB", 0x900, 8, 1)).registers[0] == 0
    assert both.domctl(39, number, pack("<QQQI", 0x9000, 0x900, 8, 1)).registers[0] == 0
    assert both.domctl(4, number, b"").registers[0] == 0

    for _ in range(2000):
        if every is not None:
            both.give(t.Preempt(every))
        seen = both.domctl(2, number, b"")
        if seen.kind == "value":
            break

    assert seen.registers[0] == 0
    assert number not in both.oracle.guests
    both.whole()


def test_destroydomain__leaves_a_zombie_while_others_hold_its_pages() -> None:
    both = Both(machine())
    base = both.argument(0)
    both.put(0, base + 0x1000, pack("<Q", 0x40003))
    both.put(0, base + 0x2000, pack("<Q", 0x200000))
    both.memory_op(0, BATCH, pack("<HHHHQQQ", SELF, 4, 1, 2, base + 0x1000, base + 0x2000, base + 0x3000))

    assert both.domctl(2, 2, b"").registers[0] == 0
    assert both.oracle.exists(2)
    assert both.memory_op(0, REMOVE, pack("<H6xQ", SELF, 0x200000)) == 0
    assert not both.oracle.exists(2)
    both.whole()


def test_random_calls__are_the_same_on_both() -> None:
    rng = random.Random(20261124)
    both = Both(machine(grant_max_version=2))
    for _ in range(400):
        domain = rng.choice([0, 1, 1, 2])
        gfns = [rng.choice([0x40010, 0x50000, 0x80000, 1 << 28, (1 << 64) - 1]) + rng.randrange(4) & (1 << 64) - 1
                for _ in range(rng.randrange(1, 4))]
        if rng.random() < 0.1:
            both.give(t.Preempt(rng.randrange(1, 4)))
        kind = rng.randrange(4)
        if kind == 0:
            both.give(t.Load(domain, 0, BASE + rng.randrange(1 << 20), rng.choice([1, 2, 4, 8])))
        elif kind == 1:
            both.reservation(domain, rng.choice([POPULATE, DECREASE, INCREASE]), gfns, order=rng.choice([0, 0, 1]),
                             subject=rng.choice([SELF, SELF, 1, 2, 9]), start=rng.choice([0, 0, 1]))
        elif kind == 2:
            both.call(domain, rng.randrange(30), both.argument(domain) + rng.choice([0, 0x800, 0x2000]))
        else:
            both.memory_op(domain, rng.choice([ADD, REMOVE, 3, 4, 14, 26]),
                           pack("<HHIQQ", rng.choice([SELF, 1]), 0, rng.randrange(3), rng.randrange(3), gfns[0]))
    both.whole()
    assert [] == [str(each) for each in properties(both.oracle)]


# ---- choices and differences


def test_choices__that_are_not_legal_are_a_difference() -> None:
    pair = Pair(machine_of(machine()), "spec")
    oracle = pair.oracle
    assert oracle is not None
    taken = next(iter(oracle.state.p2m.keys()))
    mfn = oracle.state.p2m[taken].mfn
    for address, word in ((ARGUMENT, LIST), (ARGUMENT + 8, 1), (ARGUMENT + 24, SELF), (LIST, 0x50000)):
        oracle.store(1, 0, address, 8, word, ())

    seen = oracle.hypercall(1, 0, {16: 12, 0: POPULATE, 1: ARGUMENT}, [("frame", mfn)])

    assert seen.kind == "illegal"
    assert "every frame of the block is free" in seen.reason


def test_comparison__points_at_a_row_and_at_a_word_that_differ() -> None:
    fast = machine_of(machine())
    oracle = oracle_of(fast)
    comparison = Comparison(oracle, fast, Projector(fast))
    mfn = fast.domains[1].p2m.find(0x40000)[0]
    fast.memory.put(mfn, 3, 99)
    fast.domains[1].max_pages += 1

    seen = fast.store(1, 0, BASE, 8, 5)
    expected = oracle.store(1, 0, BASE, 8, 5, seen.choices)
    found = comparison.after(expected, seen)

    assert [each.what for each in found] == ["domain", "memory"]
    assert "max_pages 1200 by the specification, 1201 in the implementation" in found[0].text
    assert f"mfn {mfn:#x} + 0x18 holds 0x0 by the specification, 0x63 in the implementation" in found[1].text


def test_snapshot__brings_the_oracle_back() -> None:
    both = Both(machine())
    oracle = both.oracle
    saved, before = oracle.snapshot(), oracle.state
    both.reservation(1, POPULATE, [0x50000])

    oracle.restore(saved)

    assert before is oracle.state
    assert oracle.load(1, 0, 0x50000000).kind == "fault"


def test_properties__name_the_row_that_breaks_them() -> None:
    oracle = oracle_of(machine_of(machine()))
    row = oracle.state.domain[DomId(1)]
    oracle.state = type(oracle.state)(**{**oracle.state.__dict__, "domain": oracle.state.domain.put(
        DomId(1), {"tot_pages": row.tot_pages + 1})})

    assert "INV-DOMAIN-PAGES does not hold of domain[0x1]" in [str(each) for each in properties(oracle)]


@pytest.mark.parametrize(("stimulus", "says"), [
    (t.Load(9, 0, 0, 8), "no domain 9"), (t.Load(1, 7, 0, 8), "no vCPU 7"), (t.Store(1, 0, 0, 1, 256), "does not fit"),
    (t.Hypercall(1, 0, {16: 32}), "not modelled"),
])
def test_run__says_which_stimulus_cannot_be_given(stimulus: t.Stimulus, says: str) -> None:
    for on in ("spec", "fast", "both"):
        with pytest.raises(BadInputError, match=rf"stimuli\[0\]: .*{says}"):
            run(attrs.evolve(machine(), stimuli=(stimulus,)), on)


def test_oracle__refuses_what_no_guest_can_do() -> None:
    oracle = oracle_of(machine_of(machine()))

    with pytest.raises(MisuseError):
        oracle.load(1, 0, 0, 3)
    with pytest.raises(MisuseError):
        oracle.fetch(1, 0, 2)
    with pytest.raises(MisuseError):
        oracle.preempt_after(0)
    with pytest.raises(MisuseError):
        oracle.hypercall(1, 0, [0])
    with pytest.raises(UnmodelledError):
        oracle.hypercall(1, 0, {16: 13})


# ---- traces


def whole_trace() -> t.Trace:
    both = Both(machine())
    both.reservation(1, POPULATE, [0x50000, 0x60000])
    both.give(t.Store(1, 0, 0x50000000, 8, 1))
    both.give(t.Load(1, 0, 0x70000000, 8))
    return attrs.evolve(machine(), stimuli=tuple(both.given))


def test_recorded__runs_alike_on_either_side() -> None:
    trace = recorded(whole_trace())

    assert trace.seen
    for on in ("spec", "fast", "both"):
        assert run(trace, on).first is None


def test_run__without_an_implementation_makes_its_own_choices() -> None:
    result = run(whole_trace(), "spec")

    calls = [step.spec for step in result.steps if isinstance(step.stimulus, t.Hypercall)]
    assert [2] == [call.registers[0] for call in calls if call is not None and call.registers is not None]


def test_run__finds_what_differs_from_the_trace() -> None:
    trace = recorded(whole_trace())
    wrong = attrs.evolve(trace, seen=(*trace.seen[:-1], t.Seen("value", value=0)))

    first = run(wrong).first

    assert first is not None
    assert [Difference("recorded", "value in the trace, fault now")] == list(first.differences)
