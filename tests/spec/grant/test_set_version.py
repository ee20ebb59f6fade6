"""Tests of a change of version: the decision, the frames, and what survives of the first eight entries."""

from __future__ import annotations

import pytest

from spec.errors import EBUSY, EINVAL, ENOMEM, ENOSYS, ERANGE
from spec.grant.entries import (
    ACCEPT_TRANSFER,
    PERMIT_ACCESS,
    TRANSITIVE,
    EntryV1,
    HeadV2,
    StatusV2,
    place_status,
    place_v1,
    place_v2,
)
from spec.grant.table import is_changing
from spec.grant.version import (
    clear_grant_frame,
    finish_version_1,
    finish_version_2,
    free_status_frame,
    populate_status_frame,
    populate_status_frame_repaired,
    set_version,
    unmap_status_frame,
    withdraw_status_frame,
    withdraw_status_frame_repaired,
)
from spec.language import U32, Gfn, GrantRef, Index, Kind, Mfn, Outcome, Word, decode, encode, put
from spec.language.outcomes import IllegalChoice
from spec.state import NOBODY, P2mType, State, Use
from tests.spec.machine import (
    DOM0,
    FREE,
    GRANTER,
    HOLE,
    MAPPER,
    PAGE,
    broken,
    broken_between,
    fields,
    grant_frame_of,
    grant_v1,
    grant_v2,
    machine,
    mapped_grant,
    mapped_shared_frame,
    sound,
    status_frame_of,
    store,
    transitive,
    with_domain,
    with_grant_frame,
    with_page,
    with_row,
)


def change(s: State, version: int, *, memory_left: bool = True) -> Outcome[State]:
    """set_version by the granter: the decision."""
    return set_version(s, GRANTER, U32(version), memory_left)


def to_2(s: State) -> State:
    """The whole change to version 2, of a table of one frame or more."""
    s = populate_status_frame(change(s, 2).state, GRANTER, FREE).state
    while s.version_change[GRANTER].cleared + 1 < s.domain[GRANTER].grant_frames:
        s = clear_grant_frame(s, GRANTER).state
    return finish_version_2(s, GRANTER).state


def to_1(s: State) -> State:
    """The whole change to version 1."""
    s = withdraw_status_frame(change(s, 1).state, GRANTER).state
    while s.version_change[GRANTER].cleared + 1 < s.domain[GRANTER].grant_frames:
        s = clear_grant_frame(s, GRANTER).state
    return free_status_frame(finish_version_1(s, GRANTER).state, GRANTER).state


def entry_v1(s: State, ref: int) -> EntryV1:
    """A version 1 entry of the granter."""
    return decode(EntryV1, s.word[place_v1(s, GRANTER, GrantRef(ref))].raw)


def words_v2(s: State, ref: int) -> tuple[Word, Word]:
    """The two words of a version 2 entry of the granter."""
    mfn, index = place_v2(s, GRANTER, GrantRef(ref))
    return s.word[mfn, index].raw, s.word[mfn, Index(index + 1)].raw


# ---- the decision


@pytest.mark.parametrize("version", [0, 3])
def test_set_version__refuses_another_version(version: int) -> None:
    assert change(machine(), version).code == -EINVAL


def test_set_version__refuses_version_2_to_a_domain_limited_to_1() -> None:
    s = with_domain(machine(), GRANTER, max_grant_version=1)
    assert change(s, 2).code == -ENOSYS


def test_set_version__leaves_version_1_to_a_domain_limited_to_1() -> None:
    """The limit is asked about for version 2 alone."""
    s = with_domain(machine(), GRANTER, max_grant_version=1)
    assert change(s, 1).code == 0


@pytest.mark.parametrize("version", [1, 2])
def test_set_version__has_nothing_to_do_for_the_same_version(version: int) -> None:
    s = machine(version=version)
    outcome = change(s, version)
    assert (outcome.kind, outcome.state) == (Kind.DONE, s)


def test_set_version__refuses_while_a_grant_beyond_the_first_eight_is_in_use() -> None:
    s = mapped_grant(grant_v1(machine(), GRANTER, 8, MAPPER), GRANTER, 8, MAPPER, 0, HOLE)
    assert change(s, 2, memory_left=False).code == -EBUSY


def test_set_version__allows_the_first_eight_to_be_in_use() -> None:
    s = mapped_grant(grant_v1(machine(), GRANTER, 7, MAPPER), GRANTER, 7, MAPPER, 0, HOLE)
    assert change(s, 2).kind is Kind.RESTART


def test_set_version__is_not_hindered_by_another_domains_grants() -> None:
    s = mapped_grant(grant_v1(machine(), MAPPER, 8, GRANTER), MAPPER, 8, GRANTER, 0, HOLE)
    assert change(s, 2).kind is Kind.RESTART


def test_set_version__refuses_version_2_without_memory() -> None:
    assert change(machine(), 2, memory_left=False).code == -ENOMEM


def test_set_version__needs_no_memory_for_version_1() -> None:
    assert change(machine(version=2), 1, memory_left=False).kind is Kind.RESTART


def test_set_version__refuses_version_1_while_a_reserved_entry_is_transitive() -> None:
    s = transitive(machine(version=2), GRANTER, 7, MAPPER, DOM0, 1)
    assert change(s, 1).code == -ERANGE


def test_set_version__refuses_version_1_while_a_reserved_entry_names_a_large_frame() -> None:
    s = grant_v2(machine(version=2), GRANTER, 0, MAPPER, gfn=Gfn(1 << 32))
    assert change(s, 1).code == -ERANGE


def test_set_version__takes_the_largest_frame_that_version_1_can_name() -> None:
    s = grant_v2(machine(version=2), GRANTER, 0, MAPPER, gfn=Gfn((1 << 32) - 1))
    assert change(s, 1).kind is Kind.RESTART


def test_set_version__to_2_does_not_mind_how_entries_of_version_1_would_read() -> None:
    """Only a change to version 1 asks whether an entry is transitive."""
    assert change(grant_v1(machine(), GRANTER, 0, MAPPER, type=TRANSITIVE), 2).kind is Kind.RESTART


def test_set_version__does_not_mind_such_entries_beyond_the_reserved_ones() -> None:
    s = grant_v2(machine(version=2), GRANTER, 8, MAPPER, gfn=Gfn(1 << 32))
    assert change(s, 1).kind is Kind.RESTART


# ---- to version 2


def test_populate_status_frame__shares_a_frame_of_the_heap() -> None:
    s = change(machine(), 2).state
    outcome = sound(populate_status_frame(s, GRANTER, FREE), s, GRANTER)
    assert outcome.state.status_frame[GRANTER, 0].mfn == FREE
    assert (outcome.state.frame[FREE].use, outcome.state.frame[FREE].owner) == (Use.SHARED, GRANTER)


def test_populate_status_frame__adds_no_more_than_are_needed() -> None:
    s = populate_status_frame(change(machine(), 2).state, GRANTER, FREE).state
    with pytest.raises(IllegalChoice):
        populate_status_frame(s, GRANTER, Mfn(FREE + 1))


def test_populate_status_frame_repaired__writes_the_cleared_frame_back() -> None:
    s = populate_status_frame_repaired(change(machine(), 2).state, GRANTER, FREE).state
    assert not s.frame[FREE].unclean


def test_clear_grant_frame__clears_from_the_second_frame_on() -> None:
    s = with_grant_frame(grant_v1(machine(), GRANTER, 3, MAPPER), GRANTER, 1)
    s = grant_v1(s, GRANTER, 600, MAPPER)
    s = populate_status_frame(change(s, 2).state, GRANTER, FREE).state
    outcome = sound(clear_grant_frame(s, GRANTER), s, GRANTER)
    assert entry_v1(outcome.state, 600) == fields(EntryV1)
    assert entry_v1(outcome.state, 3).domid == MAPPER


def test_finish_version_2__waits_for_the_status_frames() -> None:
    with pytest.raises(IllegalChoice):
        finish_version_2(change(machine(), 2).state, GRANTER)


def test_finish_version_2__waits_for_the_frames_to_be_cleared() -> None:
    s = with_grant_frame(machine(), GRANTER, 1)
    s = populate_status_frame(change(s, 2).state, GRANTER, FREE).state
    with pytest.raises(IllegalChoice):
        finish_version_2(s, GRANTER)


def test_finish_version_2__keeps_a_reserved_entry() -> None:
    s = to_2(grant_v1(machine(), GRANTER, 5, MAPPER, readonly=True))
    head, second = words_v2(s, 5)
    assert (decode(HeadV2, head), second) == (fields(HeadV2, type=PERMIT_ACCESS, readonly=True, domid=MAPPER), PAGE)


def test_finish_version_2__keeps_flags_that_xen_gives_no_meaning() -> None:
    s = machine()
    mfn, index = place_v1(s, GRANTER, GrantRef(5))
    s = to_2(store(s, mfn, index, PAGE << 32 | 0xBEEF))
    assert words_v2(s, 5) == (0xBEEF & ~0x18, PAGE)


def test_finish_version_2__moves_the_marks_to_the_status_words() -> None:
    s = grant_v1(machine(), GRANTER, 0, MAPPER, reading=True, writing=True)
    s = to_2(grant_v1(s, GRANTER, 6, MAPPER, reading=True))
    first = decode(StatusV2, s.word[place_status(s, GRANTER, GrantRef(0))].raw)
    second = decode(StatusV2, s.word[place_status(s, GRANTER, GrantRef(6))].raw)
    assert (first, second) == (fields(StatusV2, reading0=True, writing0=True), fields(StatusV2, reading2=True))


def test_finish_version_2__clears_what_is_not_reserved() -> None:
    s = to_2(grant_v1(machine(), GRANTER, 16, MAPPER))
    assert [s.word[grant_frame_of(GRANTER), Index(each)].raw for each in range(512)] == [0] * 512


def test_finish_version_2__ends_the_change() -> None:
    s = machine()
    after = to_2(s)
    assert (after.domain[GRANTER].grant_version, after.version_change[GRANTER].to) == (2, 0)
    assert broken(after) == []


def test_finish_version_2__leaves_a_reserved_grant_in_use() -> None:
    s = mapped_grant(grant_v1(machine(), GRANTER, 1, MAPPER), GRANTER, 1, MAPPER, 0, HOLE)
    after = to_2(s)
    assert after.active_grant[GRANTER, GrantRef(1)] == s.active_grant[GRANTER, GrantRef(1)]
    assert broken(after) == []


# ---- to version 1


def test_withdraw_status_frame__takes_the_frame_from_the_domain() -> None:
    s = change(machine(version=2), 1).state
    outcome = sound(withdraw_status_frame(s, GRANTER), s, GRANTER)
    frame = outcome.state.frame[status_frame_of(GRANTER)]
    assert (frame.use, frame.owner, frame.references) == (Use.XEN, NOBODY, 0)


def test_unmap_status_frame__unmaps_it_where_it_is_on_record() -> None:
    s = mapped_shared_frame(machine(version=2), GRANTER, HOLE, status_frame_of(GRANTER))
    s = change(s, 1).state
    outcome = sound(unmap_status_frame(s, GRANTER), s, GRANTER)
    assert outcome.state.p2m[GRANTER, HOLE].type == P2mType.INVALID
    assert not outcome.state.frame[status_frame_of(GRANTER)].mapped


def test_withdraw_status_frame__waits_until_the_frame_is_unmapped() -> None:
    s = mapped_shared_frame(machine(version=2), GRANTER, HOLE, status_frame_of(GRANTER))
    with pytest.raises(IllegalChoice):
        withdraw_status_frame(change(s, 1).state, GRANTER)


def test_unmap_status_frame__crashes_a_domain_that_has_mapped_other_memory_where_the_frame_is_on_record() -> None:
    s = put(machine(version=2), "frame", status_frame_of(GRANTER), mapped=True, gfn=PAGE)
    outcome = unmap_status_frame(change(s, 1).state, GRANTER)
    assert (outcome.kind, outcome.output) == (Kind.CRASH, {"domain": GRANTER})


def test_unmap_status_frame__forgets_a_record_that_a_grant_mapping_has_replaced() -> None:
    s = mapped_shared_frame(machine(version=2), GRANTER, HOLE, status_frame_of(GRANTER))
    s = mapped_grant(grant_v2(s, GRANTER, 3, GRANTER, gfn=HOLE), GRANTER, 3, GRANTER, 0, HOLE)
    after = unmap_status_frame(change(s, 1).state, GRANTER).state
    assert (s.frame[status_frame_of(GRANTER)].mapped, after.frame[status_frame_of(GRANTER)].mapped) == (True, False)


def test_withdraw_status_frame__crashes_a_domain_whose_frame_somebody_uses() -> None:
    s = mapped_shared_frame(machine(version=2), GRANTER, HOLE, status_frame_of(GRANTER))
    s = mapped_grant(grant_v2(s, GRANTER, 3, MAPPER, gfn=HOLE), GRANTER, 3, MAPPER, 0, HOLE)
    s = unmap_status_frame(change(s, 1).state, GRANTER).state
    outcome = sound(withdraw_status_frame(s, GRANTER), s, GRANTER)
    assert outcome.kind is Kind.CRASH
    assert outcome.state.frame[status_frame_of(GRANTER)].references == 1
    # nobody waits for the table's lock
    assert not is_changing(outcome.state, GRANTER)


def test_withdraw_status_frame__stops_the_hypervisor_on_arm32() -> None:
    s = change(machine(version=2, arm32=True), 1).state
    outcome = withdraw_status_frame(s, GRANTER)
    assert (outcome.output, outcome.state.deviation[Index(0)].dev2) == ({"domain": NOBODY}, True)


def test_withdraw_status_frame_repaired__does_not_stop_it() -> None:
    s = change(machine(version=2, arm32=True), 1).state
    outcome = sound(withdraw_status_frame_repaired(s, GRANTER), s, GRANTER)
    assert outcome.kind is Kind.RESTART


def direct_mapped_twice() -> State:
    """dom0 has mapped its status frame at the guest frame of the same number, which nobody has on record."""
    s = with_domain(machine(), GRANTER, version=2, direct_mapped=True)
    return with_row(s, GRANTER, Gfn(status_frame_of(GRANTER)), status_frame_of(GRANTER), P2mType.RAM_RW)


def test_withdraw_status_frame__frees_a_frame_that_is_mapped_without_record() -> None:
    outcome = withdraw_status_frame(change(direct_mapped_twice(), 1).state, GRANTER)
    assert outcome.state.deviation[Index(0)].dev32


def test_withdraw_status_frame_repaired__crashes_the_domain_instead() -> None:
    outcome = withdraw_status_frame_repaired(change(direct_mapped_twice(), 1).state, GRANTER)
    assert (outcome.kind, outcome.state.deviation[Index(0)].dev32) == (Kind.CRASH, False)


def test_finish_version_1__keeps_a_reserved_entry_with_its_marks() -> None:
    s = grant_v2(machine(version=2), GRANTER, 2, MAPPER, readonly=True)
    s = store(s, *place_status(s, GRANTER, GrantRef(2)), encode(fields(StatusV2, reading2=True)))
    expected = fields(EntryV1, type=PERMIT_ACCESS, readonly=True, reading=True, domid=MAPPER, frame=PAGE)
    assert entry_v1(to_1(s), 2) == expected


def test_finish_version_1__adds_whatever_the_granter_has_put_into_the_status_word() -> None:
    s = grant_v2(machine(version=2), GRANTER, 2, MAPPER)
    s = store(s, *place_status(s, GRANTER, GrantRef(2)), 0x8204 << 32)
    after = to_1(s)
    assert after.word[place_v1(after, GRANTER, GrantRef(2))].raw & 0xFFFF == 0x8205


def test_finish_version_1__drops_a_reserved_entry_that_permits_no_access() -> None:
    s = grant_v2(machine(version=2), GRANTER, 2, MAPPER, type=ACCEPT_TRANSFER)
    assert entry_v1(to_1(s), 2) == fields(EntryV1)


def test_finish_version_1__cuts_the_frame_number_of_an_entry_that_was_rewritten_meanwhile() -> None:
    s = withdraw_status_frame(change(grant_v2(machine(version=2), GRANTER, 2, MAPPER), 1).state, GRANTER).state
    s = grant_v2(s, GRANTER, 2, MAPPER, gfn=Gfn((1 << 32) + 7))
    assert entry_v1(finish_version_1(s, GRANTER).state, 2).frame == 7


def test_finish_version_1__clears_what_is_not_reserved() -> None:
    s = to_1(grant_v2(with_grant_frame(machine(version=2), GRANTER, 1), GRANTER, 300, MAPPER))
    assert [s.word[grant_frame_of(GRANTER, 1), Index(each)].raw for each in range(512)] == [0] * 512


def test_free_status_frame__gives_the_frame_back_to_the_heap_to_be_scrubbed() -> None:
    after = to_1(machine(version=2))
    frame = after.frame[status_frame_of(GRANTER)]
    assert (frame.use, frame.dirty, after.domain[GRANTER].status_frames) == (Use.FREE, True, 0)
    assert broken(after) == []


def test_set_version__there_and_back_again() -> None:
    s = grant_v1(machine(), GRANTER, 4, MAPPER)
    after = to_1(to_2(s))
    assert (after.domain[GRANTER].grant_version, entry_v1(after, 4)) == (1, entry_v1(s, 4))
    assert broken(after) == []


def test_version__changes_for_its_own_domain_only() -> None:
    s = machine()
    after = put(s, "domain", GRANTER, grant_version=2)
    assert "TWO-GNT-VERSION of domain[1]" in broken_between(s, after, DOM0)


def test_version__does_not_change_under_a_grant_in_use() -> None:
    s = mapped_grant(grant_v1(machine(), GRANTER, 9, MAPPER), GRANTER, 9, MAPPER, 0, HOLE)
    after = put(s, "domain", GRANTER, grant_version=2)
    assert "TWO-GNT-VERSION-UNUSED of active_grant[1, 9]" in broken_between(s, after, GRANTER)


def test_status_frames__are_more_under_a_larger_table() -> None:
    s = with_domain(machine(), GRANTER, max_grant_frames=16)
    for number in range(1, 9):
        s = with_grant_frame(s, GRANTER, number)
    s = change(s, 2).state
    s = populate_status_frame(populate_status_frame(s, GRANTER, FREE).state, GRANTER, Mfn(FREE + 1)).state
    for _ in range(8):
        s = clear_grant_frame(s, GRANTER).state
    assert finish_version_2(s, GRANTER).state.domain[GRANTER].status_frames == 2


def test_withdraw_status_frame__does_not_mind_a_page_of_ram_elsewhere() -> None:
    s = with_page(machine(version=2), GRANTER, HOLE, Mfn(0x7000))
    s = change(s, 1).state
    assert sound(withdraw_status_frame(s, GRANTER), s, GRANTER).kind is Kind.RESTART
