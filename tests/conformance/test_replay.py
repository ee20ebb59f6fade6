"""``bulkhead replay --on xen``: a trace on real Xen, compared with what stands in it."""

import pytest

from bulkhead.oracle.run import run
from bulkhead.problems import BadInputError
from bulkhead.trace import Bank, Board, Configuration, Domain, Hypercall, Load, Preempt, Seen, Store, Trace

DOMAINS = (Domain(0, 8192, privileged=True, is_hardware=True, direct_map=True), Domain(1, 512))
VERSION = Hypercall(1, 0, ((0, 0), (16, 17)))


def trace(*stimuli, seen=(), configuration=None):
    """A trace of a machine that QEMU has."""
    return Trace(board=Board(ram=(Bank(0x40000000, 1 << 30),)), config=configuration or Configuration(arch="arm64"),
                 domains=DOMAINS, stimuli=stimuli, seen=seen)


@pytest.mark.usefixtures("installation")
def test_replay__finds_what_the_trace_says_and_the_first_difference():
    one = trace(VERSION, Store(1, 0, 0x40000000, 8, 5), Load(1, 0, 0x40000000, 8),
                seen=(Seen("value", ((0, 0x40011),)), Seen("value"), Seen("value", value=6)))
    first = run(one, "xen").first
    assert first is not None
    assert (first.number, first.differences[0].text) == (2, "value 0x6 in the trace, 0x5 now")


@pytest.mark.parametrize(("one", "reason"), [
    (trace(VERSION, configuration=Configuration(arch="arm64", iommu=True)), "no IOMMU"),
    (trace(Preempt(1), VERSION), "preempts hypercalls"),
])
def test_replay__refuses_in_one_line_what_cannot_be_driven(one, reason):
    with pytest.raises(BadInputError, match=reason):
        run(one, "xen")
