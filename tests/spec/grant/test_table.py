"""Tests of the frames of grant tables and of what may be asked about them."""

from __future__ import annotations

import pytest

from spec.errors import (
    EBUSY,
    EINVAL,
    ENOSYS,
    EOPNOTSUPP,
    EPERM,
    ESRCH,
    GNTST_BAD_DOMAIN,
    GNTST_GENERAL_ERROR,
    GNTST_PERMISSION_DENIED,
)
from spec.grant.table import (
    dump_table,
    get_status_frames,
    get_version,
    grant_frame_for,
    grow_for_frame,
    grow_maptrack,
    query_size,
    recorded_gfn,
    setup_table,
    setup_table_repaired,
    status_frames_for,
    transfer,
)
from spec.language import U32, U64, DomId, Index, Kind, Mfn, Outcome, put
from spec.language.outcomes import IllegalChoice
from spec.state import DOMID_SELF, State, Status, Use
from tests.spec.machine import (
    DOM0,
    FREE,
    GRANTER,
    HOLE,
    MAPPER,
    UNKNOWN,
    broken,
    broken_between,
    grant_frame_of,
    machine,
    mapped_shared_frame,
    sound,
    status_frame_of,
    with_domain,
)

SECOND = Mfn(FREE + 1)
STATUS_BIT = 1 << 31


def setup(s: State, caller: DomId, domain: DomId, frames: int, *, memory_left: bool = True, first: Mfn = FREE
          ) -> Outcome[State]:
    """setup_table, once."""
    return setup_table(s, caller, domain, U32(frames), memory_left, first, SECOND)


# ---- setup_table


def test_setup_table__refuses_an_unknown_domain() -> None:
    assert setup(machine(), GRANTER, UNKNOWN, 9).code == GNTST_BAD_DOMAIN


def test_setup_table__refuses_a_domain_without_rights_over_the_other() -> None:
    assert setup(machine(), MAPPER, GRANTER, 9).code == GNTST_PERMISSION_DENIED


def test_setup_table__refuses_more_than_the_limit() -> None:
    assert setup(machine(), GRANTER, GRANTER, 5).code == GNTST_GENERAL_ERROR


def test_setup_table__grows_up_to_the_limit() -> None:
    s = machine()
    assert sound(setup(s, GRANTER, GRANTER, 4), s, GRANTER).kind is Kind.RESTART


def test_setup_table__refuses_without_memory() -> None:
    assert setup(machine(), GRANTER, GRANTER, 2, memory_left=False).code == GNTST_GENERAL_ERROR


def test_setup_table__does_not_need_memory_for_frames_that_are_there() -> None:
    assert setup(machine(), GRANTER, GRANTER, 1, memory_left=False).code == 0


@pytest.mark.parametrize("caller", [GRANTER, DOM0])
def test_setup_table__is_permitted_to_the_domain_itself_and_to_the_control_domain(caller: DomId) -> None:
    assert setup(machine(), caller, GRANTER, 1).kind is Kind.DONE


def test_setup_table__takes_domid_self_for_the_caller() -> None:
    after = setup(machine(), GRANTER, DOMID_SELF, 2).state
    assert after.domain[GRANTER].grant_frames == 2


def test_setup_table__never_shrinks_a_table() -> None:
    s = setup(machine(), GRANTER, GRANTER, 2).state
    assert setup(s, GRANTER, GRANTER, 0).state.domain[GRANTER].grant_frames == 2


def test_setup_table__grows_by_one_frame_and_asks_to_go_on() -> None:
    s = machine()
    outcome = sound(setup(s, GRANTER, GRANTER, 3), s, GRANTER)
    assert (outcome.kind, outcome.state.domain[GRANTER].grant_frames) == (Kind.RESTART, 2)


def test_setup_table__shares_a_cleared_frame_of_the_heap() -> None:
    s = put(machine(), "word", (FREE, Index(3)), raw=0x1234)
    after = setup(s, GRANTER, GRANTER, 2).state
    frame = after.frame[FREE]
    assert (frame.use, frame.owner, frame.references, after.word[FREE, Index(3)].raw) == (Use.SHARED, GRANTER, 1, 0)
    assert after.grant_frame[GRANTER, 1].mfn == FREE


def test_setup_table__takes_only_a_free_frame() -> None:
    with pytest.raises(IllegalChoice):
        setup(machine(), GRANTER, GRANTER, 2, first=grant_frame_of(MAPPER))


def test_setup_table__gives_a_dying_domain_a_frame_that_nobody_can_use() -> None:
    s = with_domain(machine(), GRANTER, status=Status.DYING)
    after = setup(s, DOM0, GRANTER, 2).state
    assert (after.frame[FREE].owner, after.frame[FREE].references) == (GRANTER, 0)


def test_setup_table__needs_no_new_status_frame_for_eight_frames_of_entries() -> None:
    after = setup(machine(version=2), GRANTER, GRANTER, 2).state
    assert after.domain[GRANTER].status_frames == 1


def test_setup_table__adds_a_status_frame_for_the_ninth_frame_of_entries() -> None:
    s = with_domain(machine(), GRANTER, version=2, max_grant_frames=16)
    for number in range(1, 9):
        s = setup_table(s, GRANTER, GRANTER, U32(9), True, Mfn(FREE + number), FREE).state
    assert (s.domain[GRANTER].grant_frames, s.domain[GRANTER].status_frames) == (9, 2)
    assert s.status_frame[GRANTER, 1].mfn == FREE
    assert broken(s) == []


def test_setup_table__leaves_a_cleared_frame_in_the_caches_only() -> None:
    assert setup(machine(), GRANTER, GRANTER, 2).state.frame[FREE].unclean


def test_setup_table_repaired__writes_a_cleared_frame_back_to_memory() -> None:
    s = machine()
    after = setup_table_repaired(s, GRANTER, GRANTER, U32(2), True, FREE, SECOND).state
    assert not after.frame[FREE].unclean
    assert broken(after) == []


# ---- where the frames are


def test_recorded_gfn__is_where_the_frame_is_mapped() -> None:
    s = mapped_shared_frame(machine(), GRANTER, HOLE, grant_frame_of(GRANTER))
    assert recorded_gfn(s, GRANTER, U32(0), status=False) == HOLE


@pytest.mark.parametrize(("arm32", "expected"), [(False, 0xFFFFFFFFFFFFFFFF), (True, 0xFFFFFFFF)])
def test_recorded_gfn__is_all_ones_of_a_machine_word_if_the_frame_is_mapped_nowhere(arm32: bool, expected: int) -> None:
    assert recorded_gfn(machine(arm32=arm32), GRANTER, U32(0), status=False) == expected


def test_recorded_gfn__tells_of_status_frames_too() -> None:
    s = mapped_shared_frame(machine(version=2), GRANTER, HOLE, status_frame_of(GRANTER))
    assert recorded_gfn(s, GRANTER, U32(0), status=True) == HOLE


# ---- get_status_frames


def test_get_status_frames__refuses_an_unknown_domain() -> None:
    assert get_status_frames(machine(), GRANTER, UNKNOWN, U32(9)).code == GNTST_BAD_DOMAIN


def test_get_status_frames__refuses_a_domain_without_rights_over_the_other() -> None:
    assert get_status_frames(machine(), MAPPER, GRANTER, U32(9)).code == GNTST_PERMISSION_DENIED


def test_get_status_frames__refuses_any_under_version_1() -> None:
    assert get_status_frames(machine(), GRANTER, GRANTER, U32(1)).code == GNTST_GENERAL_ERROR


def test_get_status_frames__accepts_none_under_version_1() -> None:
    assert get_status_frames(machine(), GRANTER, GRANTER, U32(0)).code == 0


def test_get_status_frames__accepts_as_many_as_there_are() -> None:
    s = machine(version=2)
    assert [get_status_frames(s, GRANTER, DOMID_SELF, U32(n)).code for n in (1, 2)] == [0, GNTST_GENERAL_ERROR]


# ---- queries


def test_query_size__refuses_an_unknown_domain() -> None:
    assert query_size(machine(), GRANTER, UNKNOWN).code == GNTST_BAD_DOMAIN


def test_query_size__refuses_a_domain_without_rights_over_the_other() -> None:
    assert query_size(machine(), MAPPER, GRANTER).code == GNTST_PERMISSION_DENIED


def test_query_size__tells_the_frames_there_are_and_the_limit() -> None:
    assert query_size(machine(), GRANTER, DOMID_SELF).output == {"nr_frames": 1, "max_nr_frames": 4}


def test_get_version__refuses_an_unknown_domain() -> None:
    assert get_version(machine(), GRANTER, UNKNOWN).code == -ESRCH


def test_get_version__refuses_a_domain_without_rights_over_the_other() -> None:
    assert get_version(machine(), MAPPER, GRANTER).code == -EPERM


@pytest.mark.parametrize("version", [1, 2])
def test_get_version__tells_the_version(version: int) -> None:
    assert get_version(machine(version=version), DOM0, GRANTER).output == {"version": version}


def test_dump_table__is_not_implemented() -> None:
    assert dump_table(machine(), GRANTER).code == -ENOSYS


def test_transfer__is_not_supported() -> None:
    assert transfer(machine(), GRANTER).code == -EOPNOTSUPP


# ---- a frame for a mapping


def grow(s: State, idx: int, *, caller: DomId = GRANTER, domain: DomId = GRANTER, memory_left: bool = True
         ) -> Outcome[State]:
    """grow_for_frame, once."""
    return grow_for_frame(s, caller, domain, U64(idx), False, memory_left, FREE, SECOND)


def test_grow_for_frame__refuses_an_unknown_domain() -> None:
    assert grow(machine(), 1, domain=UNKNOWN).code == -ESRCH


def test_grow_for_frame__refuses_a_domain_without_rights_over_the_other() -> None:
    assert grow(machine(), 1, caller=MAPPER).code == -EPERM


@pytest.mark.parametrize("idx", [4, (1 << 32) - 1, STATUS_BIT])
def test_grow_for_frame__refuses_more_than_the_limit(idx: int) -> None:
    assert grow(machine(), idx).code == -EINVAL


def test_grow_for_frame__refuses_without_memory() -> None:
    assert grow(machine(), 1, memory_left=False).code == -EINVAL


def test_grow_for_frame__has_nothing_to_do_for_a_frame_that_is_there() -> None:
    s = machine()
    assert grow(s, 0, memory_left=False).state is s


def test_grow_for_frame__looks_at_the_lowest_32_bits_of_the_index() -> None:
    s = machine()
    assert grow(s, 1 << 32, memory_left=False).state is s


def test_grow_for_frame__grows_the_table_by_one_frame() -> None:
    s = machine()
    outcome = sound(grow(s, 3), s, GRANTER)
    assert (outcome.kind, outcome.state.domain[GRANTER].grant_frames) == (Kind.RESTART, 2)


def test_grow_for_frame__grows_the_entries_for_a_status_frame() -> None:
    s = with_domain(machine(), GRANTER, version=2, max_grant_frames=16)
    for number in range(1, 16):
        s = grow_for_frame(s, GRANTER, GRANTER, U64(STATUS_BIT + 1), number > 1, True, Mfn(FREE + number), FREE).state
    assert (s.domain[GRANTER].grant_frames, s.domain[GRANTER].status_frames) == (16, 2)
    assert grow_for_frame(s, GRANTER, GRANTER, U64(STATUS_BIT + 1), True, False, FREE, FREE).kind is Kind.DONE


def test_grow_for_frame__refuses_a_status_frame_whose_entries_pass_the_limit() -> None:
    assert grow(machine(version=2), STATUS_BIT + 1).code == -EINVAL


def test_grant_frame_for__refuses_a_frame_that_is_not_there() -> None:
    assert grant_frame_for(machine(), GRANTER, U64(1)).code == -EINVAL


def test_grant_frame_for__is_busy_when_no_reference_can_be_taken() -> None:
    s = put(machine(), "frame", grant_frame_of(GRANTER), allocated=False, references=0)
    assert grant_frame_for(s, GRANTER, U64(0)).code == -EBUSY


def test_grant_frame_for__finds_a_frame_of_entries() -> None:
    assert grant_frame_for(machine(), GRANTER, U64(0)).output == {"mfn": grant_frame_of(GRANTER)}


def test_grant_frame_for__finds_a_status_frame() -> None:
    assert grant_frame_for(machine(version=2), GRANTER, U64(STATUS_BIT)).output == {"mfn": status_frame_of(GRANTER)}


# ---- the maptrack


def test_grow_maptrack__adds_a_frame() -> None:
    s = machine()
    outcome = sound(grow_maptrack(s, MAPPER), s, MAPPER)
    assert outcome.state.domain[MAPPER].maptrack_frames == 2


def test_grow_maptrack__ends_at_the_limit() -> None:
    s = grow_maptrack(machine(), MAPPER).state
    with pytest.raises(IllegalChoice):
        grow_maptrack(s, MAPPER)


@pytest.mark.parametrize(("frames", "expected"), [(0, 0), (1, 1), (8, 1), (9, 2), (64, 8)])
def test_status_frames_for__is_one_for_eight(frames: int, expected: int) -> None:
    assert status_frames_for(frames) == expected


def test_growth__is_by_right_only() -> None:
    s = machine()
    after = setup(s, GRANTER, GRANTER, 2).state
    assert "TWO-GNT-TABLE-GROWS of domain[1]" in broken_between(s, after, MAPPER)
