"""Tests of taking a grant mapping back: every refusal in Xen's order, both phases, and the deviation."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from spec.errors import GNTST_BAD_DEV_ADDR, GNTST_BAD_HANDLE, GNTST_GENERAL_ERROR
from spec.grant.entries import EntryV1, place_v1
from spec.grant.unmap import (
    complete_unmap,
    unmap_and_replace,
    unmap_and_replace_repaired,
    unmap_grant_ref,
    unmap_grant_ref_repaired,
)
from spec.language import U64, DomId, Gfn, GrantRef, Handle, Index, Kind, Mfn, Outcome, decode, put
from spec.language.outcomes import IllegalChoice
from spec.state import P2mType, State, Status, Use
from tests.spec.machine import (
    ADDRESS,
    DOM0,
    GRANTER,
    HOLE,
    MAPPER,
    PAGE,
    broken,
    frame_of,
    grant_v1,
    machine,
    mapped_grant,
    sound,
    with_domain,
    with_row,
)

REF, HANDLE, SLOT = GrantRef(9), Handle(3), Index(0)
ELSEWHERE = Gfn(HOLE + 1)


def mapped(*, readonly: bool = False, user: DomId = MAPPER, s: State | None = None) -> State:
    """The granter's first page is mapped at HOLE, under handle 3."""
    s = grant_v1(machine() if s is None else s, GRANTER, REF, user)
    return mapped_grant(s, GRANTER, REF, user, HANDLE, HOLE, readonly=readonly)


def unmap(s: State, gfn: int = HOLE, *, handle: int = HANDLE, caller: DomId = MAPPER, bus: int = 0,
          tables_left: bool = True) -> Outcome[State]:
    """Phase 1."""
    return unmap_grant_ref(s, caller, U64(gfn * ADDRESS), U64(bus), Handle(handle), SLOT, tables_left)


def replace(s: State, new_addr: int, gfn: int = HOLE) -> Outcome[State]:
    """Phase 1 of unmap_and_replace."""
    return unmap_and_replace(s, MAPPER, U64(gfn * ADDRESS), U64(new_addr), HANDLE, SLOT, tables_left=True)


# ---- refusals, in order


def test_unmap__refuses_a_handle_beyond_the_maptrack() -> None:
    assert unmap(mapped(), handle=256).code == GNTST_BAD_HANDLE


def test_unmap__refuses_a_handle_that_is_not_in_use() -> None:
    assert unmap(mapped(), handle=4).code == GNTST_BAD_HANDLE


def test_unmap__refuses_the_handle_of_another_domain() -> None:
    assert unmap(mapped(), caller=DOM0).code == GNTST_BAD_HANDLE


def test_unmap__crashes_a_mapper_whose_granter_is_gone() -> None:
    outcome = unmap(put(mapped(), "domain", GRANTER, status=Status.UNLISTED))
    assert (outcome.kind, outcome.output) == (Kind.CRASH, {"domain": MAPPER})


def test_unmap__refuses_a_reference_that_is_not_bound_any_more() -> None:
    assert unmap(put(mapped(), "domain", GRANTER, grant_frames=0)).code == GNTST_BAD_HANDLE


def test_unmap__refuses_the_first_reference_beyond_the_table() -> None:
    s = put(mapped(), "mapping", (MAPPER, HANDLE), ref=512)
    assert unmap(s).code == GNTST_BAD_HANDLE


def test_unmap__refuses_a_wrong_bus_address_of_a_device_mapping() -> None:
    s = put(mapped(), "mapping", (MAPPER, HANDLE), device=True)
    assert unmap(s, bus=ADDRESS).code == GNTST_BAD_DEV_ADDR


def test_unmap__does_not_look_at_the_bus_address_of_a_host_mapping() -> None:
    assert unmap(mapped(), bus=ADDRESS).code == 0


def test_unmap__without_an_address_unmaps_nothing_and_is_no_error() -> None:
    s = mapped()
    outcome = unmap(s, 0)
    assert (outcome.code, outcome.state) == (0, s)


@pytest.mark.parametrize("kind", [P2mType.RAM_RW, P2mType.RAM_RO, P2mType.MAP_FOREIGN_RW, P2mType.GRANT_MAP_RW])
def test_unmap__refuses_an_address_at_which_another_frame_is_mapped(kind: P2mType) -> None:
    s = with_row(mapped(), MAPPER, ELSEWHERE, Mfn(frame_of(GRANTER) + 1), kind)
    assert unmap(s, ELSEWHERE).code == GNTST_GENERAL_ERROR


def test_unmap__refuses_the_callers_own_page() -> None:
    s = mapped()
    outcome = unmap(s, PAGE)
    assert (outcome.code, outcome.state) == (GNTST_GENERAL_ERROR, s)


def test_unmap__needs_a_free_place_for_its_pending_work() -> None:
    with pytest.raises(IllegalChoice):
        unmap(put(mapped(), "release", (MAPPER, SLOT), held=True))


@pytest.mark.parametrize("gfn", [HOLE, PAGE])
def test_unmap_and_replace__refuses_a_new_address(gfn: Gfn) -> None:
    assert replace(mapped(), PAGE * ADDRESS, gfn).code == GNTST_GENERAL_ERROR


def test_unmap_and_replace__looks_at_the_handle_first() -> None:
    assert replace(machine(), PAGE * ADDRESS).code == GNTST_BAD_HANDLE


def test_unmap_and_replace__without_a_new_address_is_an_unmap() -> None:
    s = mapped()
    assert replace(s, 0).state == unmap(s).state


# ---- phase 1


def test_unmap__takes_the_page_out_of_stage_2() -> None:
    s = mapped()
    after = sound(unmap(s), s, MAPPER).state
    assert after.p2m[MAPPER, HOLE].type == P2mType.INVALID


def test_unmap__keeps_pin_and_reference_until_the_tlb_is_flushed() -> None:
    after = unmap(mapped()).state
    assert (after.active_grant[GRANTER, REF].host_writers, after.frame[frame_of(GRANTER)].references) == (1, 2)


def test_unmap__frees_the_handle() -> None:
    s = unmap(mapped()).state
    again = unmap_grant_ref(s, MAPPER, U64(HOLE * ADDRESS), U64(0), HANDLE, Index(1), tables_left=True)
    assert again.code == GNTST_BAD_HANDLE


def test_unmap__ignores_the_lowest_bits_of_the_address() -> None:
    s = mapped()
    after = unmap_grant_ref(s, MAPPER, U64(HOLE * ADDRESS + 0xFFF), U64(0), HANDLE, SLOT, tables_left=True).state
    assert after.p2m[MAPPER, HOLE].type == P2mType.INVALID


# ---- phase 2


@pytest.mark.parametrize("readonly", [False, True])
def test_complete_unmap__drops_the_pin_and_the_reference(readonly: bool) -> None:
    s = unmap(mapped(readonly=readonly)).state
    after = sound(complete_unmap(s, MAPPER, SLOT), s, MAPPER).state
    active = after.active_grant[GRANTER, REF]
    assert (active.host_writers, active.host_readers, after.frame[frame_of(GRANTER)].references) == (0, 0, 1)


def test_complete_unmap__clears_the_marks() -> None:
    s = complete_unmap(unmap(mapped()).state, MAPPER, SLOT).state
    entry = decode(EntryV1, s.word[place_v1(s, GRANTER, REF)].raw)
    assert (entry.reading, entry.writing) == (False, False)


def test_complete_unmap__keeps_the_reading_mark_for_a_reader_that_is_left() -> None:
    s = mapped_grant(mapped(), GRANTER, REF, MAPPER, 4, ELSEWHERE, readonly=True)
    s = complete_unmap(unmap(s).state, MAPPER, SLOT).state
    entry = decode(EntryV1, s.word[place_v1(s, GRANTER, REF)].raw)
    assert (entry.reading, entry.writing) == (True, False)


def test_complete_unmap__frees_a_page_that_only_the_mapping_kept() -> None:
    s = unmap(mapped()).state
    s = put(s, "frame", frame_of(GRANTER), allocated=False, references=1)
    s = put(s, "p2m", (GRANTER, PAGE), type=0, hardware=False)
    assert complete_unmap(s, MAPPER, SLOT).state.frame[frame_of(GRANTER)].use == Use.FREE


def test_complete_unmap__has_something_to_release() -> None:
    with pytest.raises(IllegalChoice):
        complete_unmap(mapped(), MAPPER, SLOT)


# ---- DEV-1: a wrong address


def test_unmap__of_another_address_leaves_the_mapping_in_place() -> None:
    after = complete_unmap(unmap(mapped(), ELSEWHERE).state, MAPPER, SLOT).state
    row = after.p2m[MAPPER, HOLE]
    assert (row.type, row.stale, after.active_grant[GRANTER, REF].host_writers) == (P2mType.GRANT_MAP_RW, True, 0)
    assert broken(after) == []


@pytest.mark.parametrize("call", [
    lambda s: unmap_grant_ref_repaired(s, MAPPER, U64(ELSEWHERE * ADDRESS), U64(0), HANDLE, SLOT, tables_left=True),
    lambda s: unmap_and_replace_repaired(s, MAPPER, U64(ELSEWHERE * ADDRESS), U64(0), HANDLE, SLOT, tables_left=True),
])
def test_unmap_repaired__refuses_another_address(call: Callable[[State], Outcome[State]]) -> None:
    s = mapped()
    outcome = call(s)
    assert (outcome.code, outcome.state) == (GNTST_GENERAL_ERROR, s)


def test_unmap_repaired__accepts_the_right_address() -> None:
    s = mapped()
    outcome = unmap_grant_ref_repaired(s, MAPPER, U64(HOLE * ADDRESS), U64(0), HANDLE, SLOT, tables_left=True)
    assert outcome.state == unmap(s).state


# ---- devices of a direct-mapped domain


def direct(*, readonly: bool = False) -> State:
    """dom0 is direct-mapped, has an IOMMU, and has mapped the granter's page under handle 3."""
    s = with_domain(machine((GRANTER, MAPPER)), DOM0, direct_mapped=True, iommu=True)
    return mapped(readonly=readonly, user=DOM0, s=s)


def for_devices(s: State) -> int:
    """How dom0's devices reach the granter's page."""
    return s.p2m[DOM0, Gfn(frame_of(GRANTER))].type


@pytest.mark.parametrize("readonly", [False, True])
def test_unmap__takes_the_frame_from_the_devices_with_the_last_mapping(readonly: bool) -> None:
    assert for_devices(unmap(direct(readonly=readonly), caller=DOM0).state) == P2mType.INVALID


def test_unmap__leaves_devices_the_right_to_read_with_the_last_writable_mapping() -> None:
    s = mapped_grant(direct(), GRANTER, REF, DOM0, 4, ELSEWHERE, readonly=True)
    assert for_devices(unmap(s, caller=DOM0).state) == P2mType.IOMMU_MAP_RO


def test_unmap__leaves_devices_their_rights_while_a_writable_mapping_is_left() -> None:
    s = mapped_grant(direct(), GRANTER, REF, DOM0, 4, ELSEWHERE)
    assert for_devices(unmap(s, caller=DOM0).state) == P2mType.IOMMU_MAP_RW


def test_unmap__of_one_of_two_read_only_mappings_leaves_what_is_mapped_in_their_place() -> None:
    s = mapped_grant(direct(readonly=True), GRANTER, REF, DOM0, 4, ELSEWHERE, readonly=True)
    s = with_row(s, DOM0, Gfn(frame_of(GRANTER)), Mfn(frame_of(GRANTER) + 1), P2mType.MAP_FOREIGN_RW)
    assert for_devices(unmap(s, caller=DOM0).state) == P2mType.MAP_FOREIGN_RW


def test_unmap__reports_an_error_and_keeps_the_count_if_something_else_is_mapped_for_the_devices() -> None:
    s = with_row(direct(), DOM0, Gfn(frame_of(GRANTER)), Mfn(frame_of(GRANTER) + 1), P2mType.MAP_FOREIGN_RW)
    outcome = unmap(s, caller=DOM0)
    assert (outcome.kind, outcome.code) == (Kind.PARTIAL, GNTST_GENERAL_ERROR)
    assert outcome.state.device_use[DOM0, frame_of(GRANTER)].writers == 1
    assert outcome.state.deviation[Index(0)].dev10
    assert not outcome.state.mapping[DOM0, HANDLE].host


def test_unmap_grant_ref__fails_if_a_block_cannot_be_split() -> None:
    s = put(mapped(), "domain", MAPPER, pool_free=0)
    outcome = unmap(s, tables_left=False)
    assert outcome.code == GNTST_GENERAL_ERROR
    assert outcome.state is s


def test_unmap_grant_ref__has_tables_while_the_pool_is_full() -> None:
    with pytest.raises(IllegalChoice):
        unmap(mapped(), tables_left=False)
