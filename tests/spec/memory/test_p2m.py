"""Tests of stage-2 mappings: meaning, insertion, replacement and removal."""

from __future__ import annotations

import pytest

from spec.errors import EILSEQ, EINVAL, ENOENT, ENOMEM
from spec.language import U8, DomId, Gfn, Index, Kind, Mfn, put
from spec.language.outcomes import IllegalChoice
from spec.memory.p2m import (
    MOST_TABLES,
    cache_mapping,
    forget_mapping,
    insert_page,
    insert_range,
    is_any_ram,
    is_executable,
    is_live,
    is_readable,
    is_writable,
    put_orphan,
    remove_page,
)
from spec.state import P2mEntry, P2mType, Status
from tests.spec.machine import (
    DOM0,
    GRANTER,
    HOLE,
    MAPPER,
    PAGE,
    PAGES,
    frame_of,
    machine,
    mapped_shared_frame,
    shared_info_of,
    sound,
    with_row,
)

DEVICE = Mfn(0x9000)
SHARED = shared_info_of(MAPPER)

RIGHTS = {
    P2mType.INVALID: "", P2mType.RAM_RW: "rwx", P2mType.RAM_RO: "rx", P2mType.MMIO_DIRECT_DEV: "rw",
    P2mType.MMIO_DIRECT_NC: "rw", P2mType.MMIO_DIRECT_C: "rw", P2mType.MAP_FOREIGN_RW: "rw",
    P2mType.MAP_FOREIGN_RO: "r", P2mType.GRANT_MAP_RW: "rw", P2mType.GRANT_MAP_RO: "r",
    P2mType.IOMMU_MAP_RW: "rw", P2mType.IOMMU_MAP_RO: "r",
}


@pytest.mark.parametrize("kind", P2mType)
def test_rights__of_each_type(kind: P2mType) -> None:
    row = P2mEntry(type=U8(kind))
    found = "".join(
        letter for letter, has in (("r", is_readable(row)), ("w", is_writable(row)), ("x", is_executable(row))) if has
    )
    assert RIGHTS[kind] == found


@pytest.mark.parametrize("kind", P2mType)
def test_any_ram__is_memory_and_neither_a_device_nor_for_devices(kind: P2mType) -> None:
    expected = kind in (
        P2mType.RAM_RW, P2mType.RAM_RO, P2mType.MAP_FOREIGN_RW, P2mType.MAP_FOREIGN_RO, P2mType.GRANT_MAP_RW,
        P2mType.GRANT_MAP_RO,
    )
    assert expected == is_any_ram(P2mEntry(type=U8(kind)))


def test_live__does_not_ask_for_the_valid_bit() -> None:
    assert is_live(P2mEntry(type=U8(P2mType.RAM_RW), hardware=False))


# ---- what may be cached


def test_cache__holds_the_frame_and_the_rights() -> None:
    s = machine()
    cached = sound(cache_mapping(s, MAPPER, PAGE), s, MAPPER).state.tlb[MAPPER, PAGE]
    assert (True, frame_of(MAPPER), True, True) == (cached.present, cached.mfn, cached.writable, cached.executable)


def test_cache__gives_no_right_that_the_mapping_has_not() -> None:
    s = with_row(machine(), DOM0, HOLE, frame_of(GRANTER), P2mType.MAP_FOREIGN_RO)
    cached = sound(cache_mapping(s, DOM0, HOLE), s, DOM0).state.tlb[DOM0, HOLE]
    assert (True, False, False) == (cached.present, cached.writable, cached.executable)


def test_cache__holds_only_what_the_hardware_can_translate() -> None:
    with pytest.raises(IllegalChoice):
        cache_mapping(put(machine(), "p2m", (MAPPER, PAGE), hardware=False), MAPPER, PAGE)


def test_cache__may_give_up_what_it_holds() -> None:
    s = cache_mapping(machine(), MAPPER, PAGE).state
    assert not sound(forget_mapping(s, MAPPER, PAGE), s, MAPPER).state.tlb[MAPPER, PAGE].present


def test_cache__holds_nothing_once_a_page_is_unmapped() -> None:
    s = cache_mapping(machine(), MAPPER, PAGE).state
    assert not remove_page(s, MAPPER, PAGE, frame_of(MAPPER), tables_left=True).state.tlb[MAPPER, PAGE].present


# ---- insertion


def test_insert__refuses_a_dying_domain() -> None:
    s = put(machine(), "domain", MAPPER, status=Status.DYING)
    assert insert_page(s, MAPPER, Gfn(1 << 28), DEVICE, P2mType.MMIO_DIRECT_C).code == -ENOMEM


def test_insert__refuses_a_guest_frame_beyond_the_root() -> None:
    assert insert_page(machine(), MAPPER, Gfn(1 << 28), DEVICE, P2mType.MMIO_DIRECT_C).code == -EINVAL


def test_insert__makes_a_valid_entry() -> None:
    row = insert_page(machine(), MAPPER, HOLE, DEVICE, P2mType.MMIO_DIRECT_C).state.p2m[MAPPER, HOLE]
    assert (P2mType.MMIO_DIRECT_C, DEVICE, True) == (row.type, row.mfn, row.hardware)


@pytest.mark.parametrize("gfn", [Gfn(1), HOLE])
def test_insert__remembers_the_lowest_and_the_highest(gfn: Gfn) -> None:
    row = insert_page(machine(), MAPPER, gfn, DEVICE, P2mType.MMIO_DIRECT_C).state.domain[MAPPER]
    assert (min(gfn, PAGE), max(gfn, PAGE + PAGES - 1)) == (row.lowest_gfn, row.highest_gfn)


def test_insert__over_ram_leaves_the_page_with_its_owner() -> None:
    s = insert_page(machine(), MAPPER, PAGE, DEVICE, P2mType.MMIO_DIRECT_C).state
    assert (MAPPER, 1) == (s.frame[frame_of(MAPPER)].owner, s.frame[frame_of(MAPPER)].references)


def test_insert__over_a_foreign_page_drops_its_reference() -> None:
    s = with_row(machine(), DOM0, HOLE, frame_of(GRANTER), P2mType.MAP_FOREIGN_RO)
    assert 1 == insert_page(s, DOM0, HOLE, DEVICE, P2mType.MMIO_DIRECT_C).state.frame[frame_of(GRANTER)].references


def test_insert__over_a_shared_page_forgets_where_it_was() -> None:
    s = mapped_shared_frame(machine(), MAPPER, HOLE, SHARED)
    assert not insert_page(s, MAPPER, HOLE, DEVICE, P2mType.MMIO_DIRECT_C).state.frame[SHARED].mapped


def test_insert__of_the_same_foreign_page_loses_a_reference() -> None:
    s = with_row(machine(), DOM0, HOLE, frame_of(GRANTER), P2mType.MAP_FOREIGN_RO)
    frame = insert_page(s, DOM0, HOLE, frame_of(GRANTER), P2mType.MAP_FOREIGN_RW).state.frame[frame_of(GRANTER)]
    assert (2, 1) == (frame.references, frame.lost)


# ---- ranges


def test_insert_range__refuses_a_dying_domain() -> None:
    s = put(machine(), "domain", MAPPER, status=Status.DYING)
    assert insert_range(s, MAPPER, HOLE, DEVICE, 4, 4, P2mType.MMIO_DIRECT_DEV).code == -ENOMEM


def test_insert_range__ends_with_an_error_at_the_end_of_the_root() -> None:
    outcome = insert_range(machine(), MAPPER, Gfn((1 << 28) - 3), DEVICE, 4, 3, P2mType.MMIO_DIRECT_DEV)
    last = outcome.state.p2m[MAPPER, Gfn((1 << 28) - 1)]
    assert (-EINVAL, P2mType.MMIO_DIRECT_DEV) == (outcome.code, last.type)


def test_insert_range__refuses_a_range_beyond_the_root() -> None:
    assert insert_range(machine(), MAPPER, Gfn(1 << 28), DEVICE, 4, 0, P2mType.MMIO_DIRECT_DEV).code == -EINVAL


def test_insert_range__maps_consecutive_frames() -> None:
    s = insert_range(machine(), MAPPER, HOLE, DEVICE, 3, 3, P2mType.MMIO_DIRECT_DEV).state
    assert [DEVICE, DEVICE + 1, DEVICE + 2, 0] == [s.p2m[MAPPER, Gfn(HOLE + i)].mfn for i in range(4)]
    assert HOLE + 2 == s.domain[MAPPER].highest_gfn


def test_insert_range__stops_where_tables_run_out() -> None:
    s = put(machine(), "domain", MAPPER, pool_free=0)
    outcome = insert_range(s, MAPPER, HOLE, DEVICE, 3, 2, P2mType.MMIO_DIRECT_DEV)
    assert (Kind.PARTIAL, -ENOENT, HOLE + 1) == (outcome.kind, outcome.code, outcome.state.domain[MAPPER].highest_gfn)


def test_insert_range__without_a_single_page_touches_no_bound() -> None:
    s = put(machine(), "domain", MAPPER, pool_free=0)
    outcome = insert_range(s, MAPPER, HOLE, DEVICE, 3, 0, P2mType.MMIO_DIRECT_DEV)
    assert (Kind.PARTIAL, -ENOENT) == (outcome.kind, outcome.code)
    assert s.domain[MAPPER] == outcome.state.domain[MAPPER]


def test_insert_range__maps_no_more_than_was_asked_for() -> None:
    with pytest.raises(IllegalChoice):
        insert_range(machine(), MAPPER, HOLE, DEVICE, 3, 4, P2mType.MMIO_DIRECT_DEV)


def test_insert_range__leaves_replaced_references_for_later() -> None:
    s = with_row(machine(), DOM0, HOLE, frame_of(GRANTER), P2mType.MAP_FOREIGN_RO)
    s = insert_range(s, DOM0, HOLE, DEVICE, 2, 2, P2mType.MMIO_DIRECT_DEV).state
    assert (True, 2) == (s.orphan[DOM0, HOLE].held, s.frame[frame_of(GRANTER)].references)
    s = put_orphan(s, DOM0, HOLE).state
    assert (False, 1) == (s.orphan[DOM0, HOLE].pending, s.frame[frame_of(GRANTER)].references)


def test_put_orphan__needs_something_to_do() -> None:
    with pytest.raises(IllegalChoice):
        put_orphan(machine(), DOM0, HOLE)


# ---- removal


def test_remove__refuses_other_memory() -> None:
    assert remove_page(machine(), MAPPER, PAGE, frame_of(GRANTER), tables_left=True).code == -EILSEQ


def test_remove__refuses_a_dying_domain() -> None:
    s = put(machine(), "domain", MAPPER, status=Status.DYING)
    assert remove_page(s, MAPPER, PAGE, frame_of(MAPPER), tables_left=True).code == -ENOMEM


def test_remove__refuses_a_guest_frame_beyond_the_root() -> None:
    assert remove_page(machine(), MAPPER, Gfn(1 << 28), DEVICE, tables_left=True).code == -EINVAL


def test_remove__of_a_hole_is_no_error() -> None:
    s = machine()
    outcome = remove_page(s, MAPPER, HOLE, frame_of(MAPPER), tables_left=True)
    assert outcome.code == 0
    assert outcome.state is s


def test_remove__takes_a_device_whatever_frame_was_named() -> None:
    s = with_row(machine(), MAPPER, HOLE, DEVICE, P2mType.MMIO_DIRECT_DEV)
    after = remove_page(s, MAPPER, HOLE, frame_of(MAPPER), tables_left=True).state
    assert P2mType.INVALID == after.p2m[MAPPER, HOLE].type


def test_remove__clears_the_valid_bit() -> None:
    row = remove_page(machine(), MAPPER, PAGE, frame_of(MAPPER), tables_left=True).state.p2m[MAPPER, PAGE]
    assert (P2mType.INVALID, False) == (row.type, row.hardware)


@pytest.mark.parametrize(("pool_free", "illegal"), [(MOST_TABLES - 1, False), (MOST_TABLES, True)])
def test_remove__lacks_a_table_only_if_the_pool_has_too_few(pool_free: int, illegal: bool) -> None:
    """Six free pages are enough for whatever tables one page may take; five may be too few."""
    s = put(machine(), "domain", MAPPER, pool_free=pool_free)
    if illegal:
        with pytest.raises(IllegalChoice):
            remove_page(s, MAPPER, PAGE, frame_of(MAPPER), tables_left=False)
    else:
        assert remove_page(s, MAPPER, PAGE, frame_of(MAPPER), tables_left=False).code == -ENOMEM


def test_remove__forgets_where_a_shared_page_was() -> None:
    s = mapped_shared_frame(machine(), MAPPER, HOLE, SHARED)
    assert not remove_page(s, MAPPER, HOLE, SHARED, tables_left=True).state.frame[SHARED].mapped


def test_remove__never_lowers_the_highest_guest_frame() -> None:
    s = machine()
    gfn = Gfn(PAGE + PAGES - 1)
    after = remove_page(s, DomId(MAPPER), gfn, Mfn(frame_of(MAPPER) + PAGES - 1), tables_left=True).state
    assert gfn == after.domain[MAPPER].highest_gfn
    assert s.settings[Index(0)] == after.settings[Index(0)]
