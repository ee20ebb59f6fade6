"""dom0's devices as ranges in the specification's tables."""

from bulkhead.conformance.devices import Window, with_windows
from bulkhead.oracle.tables import empty_state
from spec.language import put, span
from spec.language.tables import every
from spec.state import P2mType

WINDOW = Window(range(0x9000, 0x9010), P2mType.MMIO_DIRECT_C)
RESERVED = Window(range(0xA000, 0xA001), P2mType.MMIO_DIRECT_C, permitted=False)


def state():
    made, logs = empty_state(((0x40000, 16),))
    return with_windows(made, (WINDOW, RESERVED), logs)


def test_window__is_mapped_one_to_one_in_dom0_only():
    s = state()
    assert (s.p2m[0, 0x9003].type, s.p2m[0, 0x9003].mfn) == (P2mType.MMIO_DIRECT_C, 0x9003)
    assert s.p2m[1, 0x9003].type == P2mType.INVALID
    assert s.p2m[0, 0x9010].type == P2mType.INVALID


def test_window__is_dom0s_to_give_unless_it_is_reserved():
    s = state()
    assert [s.iomem[0, frame].allowed for frame in (0x9000, 0xA000, 0xB000)] == [True, False, False]


def test_window__keeps_what_is_written():
    s = put(state(), "p2m", (0, 0x9003), type=P2mType.INVALID, mfn=0)
    assert s.p2m[0, 0x9003].type == P2mType.INVALID
    assert s.p2m[0, 0x9004].mfn == 0x9004


def test_every__asks_windows_within_a_long_span():
    s = state()
    assert every(s.iomem, (0, span(0x9000, 16)), lambda row, _domain, _mfn: row.allowed)
    assert not every(s.p2m, (0, span(0, 1 << 30)), lambda row, _domain, _gfn: row.type == P2mType.INVALID)
    assert every(s.p2m, (1, span(0, 1 << 30)), lambda row, _domain, _gfn: row.type == P2mType.INVALID)
