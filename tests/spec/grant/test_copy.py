"""Tests of copies: every refusal in Xen's order, what is kept between items, transitive grants, and the bytes."""

from __future__ import annotations

from typing import Any

import pytest

from spec.errors import (
    GNTST_BAD_COPY_ARG,
    GNTST_BAD_DOMAIN,
    GNTST_BAD_GNTREF,
    GNTST_BAD_PAGE,
    GNTST_GENERAL_ERROR,
    GNTST_PERMISSION_DENIED,
)
from spec.grant.copy import (
    copy_abandon,
    copy_bytes,
    copy_claim_grant,
    copy_claim_grant_repaired,
    copy_claim_nested,
    copy_claim_page,
    copy_claim_page_repaired,
    copy_claim_transitive,
    copy_domains,
    copy_finish_transitive,
    copy_forget,
    copy_release_grant,
    copy_release_nested,
    copy_release_page,
)
from spec.grant.entries import EntryV1, StatusV2, place_status, place_v1
from spec.language import U16, U64, DomId, Gfn, GrantRef, Index, Kind, Outcome, VcpuId, decode, encode, put
from spec.language.outcomes import IllegalChoice
from spec.state import DOMID_SELF, P2mType, State, Status
from tests.spec.machine import (
    DOM0,
    GRANTER,
    HOLE,
    MAPPER,
    OTHER,
    PAGE,
    UNKNOWN,
    broken,
    fields,
    frame_of,
    grant_v1,
    grant_v2,
    machine,
    mapped_grant,
    sound,
    store,
    transitive,
    with_row,
)

REF, BEHIND = GrantRef(9), GrantRef(20)
CPU = VcpuId(0)
SOURCE, DESTINATION = Index(0), Index(1)


def domains(s: State, source: DomId = GRANTER, destination: DomId = DOMID_SELF, *,
            by_grant: tuple[bool, bool] = (True, False)) -> Outcome[State]:
    """Look up source and destination for the mapper."""
    return copy_domains(s, MAPPER, CPU, source, by_grant[0], destination, by_grant[1])


def granted(version: int = 1, **fields: Any) -> State:
    """The granter's entry 9 permits the mapper to use its first page."""
    return (grant_v1 if version == 1 else grant_v2)(machine(version=version), GRANTER, REF, MAPPER, **fields)


def begun(s: State | None = None, *, version: int = 1) -> State:
    """A copy from the granter to the mapper whose domains are looked up."""
    return domains(granted(version) if s is None else s, by_grant=(True, False)).state


def towards(s: State) -> State:
    """A copy from the mapper to the granter whose domains are looked up."""
    return domains(s, DOMID_SELF, GRANTER, by_grant=(False, True)).state


def claim(s: State, side: Index = SOURCE, ref: GrantRef = REF) -> Outcome[State]:
    """Claim a page by a grant."""
    return copy_claim_grant(s, MAPPER, CPU, side, ref)


def claim_page(s: State, gfn: int, side: Index = DESTINATION) -> Outcome[State]:
    """Claim a page by frame number."""
    return copy_claim_page(s, MAPPER, CPU, side, U64(gfn))


def pins(s: State, granter: DomId = GRANTER, ref: GrantRef = REF) -> tuple[int, int]:
    """Writers and readers of a grant."""
    active = s.active_grant[granter, ref]
    return active.host_writers, active.host_readers


# ---- the domains


def test_copy_domains__refuses_a_frame_number_of_another_domain_as_source() -> None:
    assert domains(granted(), UNKNOWN, UNKNOWN, by_grant=(False, False)).code == GNTST_PERMISSION_DENIED


def test_copy_domains__refuses_a_frame_number_even_of_the_callers_own_id() -> None:
    assert domains(granted(), MAPPER, by_grant=(False, False)).code == GNTST_PERMISSION_DENIED


def test_copy_domains__refuses_an_unknown_source() -> None:
    assert domains(granted(), UNKNOWN, UNKNOWN, by_grant=(True, False)).code == GNTST_BAD_DOMAIN


def test_copy_domains__refuses_a_frame_number_of_another_domain_as_destination() -> None:
    assert domains(granted(), GRANTER, UNKNOWN, by_grant=(True, False)).code == GNTST_PERMISSION_DENIED


def test_copy_domains__refuses_an_unknown_destination() -> None:
    assert domains(granted(), GRANTER, UNKNOWN, by_grant=(True, True)).code == GNTST_BAD_DOMAIN


def test_copy_domains__refuses_to_connect_two_ordinary_domains_under_silo() -> None:
    assert domains(machine(silo=True)).code == GNTST_PERMISSION_DENIED


def test_copy_domains__lets_a_control_domain_connect_any_two_under_silo() -> None:
    s = machine(silo=True)
    assert copy_domains(s, DOM0, CPU, GRANTER, True, MAPPER, True).code == 0


def test_copy_domains__takes_domid_self_for_the_caller() -> None:
    s = domains(granted()).state
    assert (s.copy_side[MAPPER, CPU, SOURCE].domain, s.copy_side[MAPPER, CPU, DESTINATION].domain) == (GRANTER, MAPPER)


def test_copy_domains__keeps_the_ids_as_the_caller_wrote_them() -> None:
    s = domains(granted()).state
    assert (s.copy_side[MAPPER, CPU, SOURCE].domid, s.copy_side[MAPPER, CPU, DESTINATION].domid) == (
        GRANTER, DOMID_SELF,
    )


def test_copy_forget__gives_the_domains_back() -> None:
    s = copy_forget(begun(), MAPPER, CPU).state
    assert not s.copy_side[MAPPER, CPU, SOURCE].known


def test_copy_forget__waits_until_the_pages_are_given_back() -> None:
    with pytest.raises(IllegalChoice):
        copy_forget(claim(begun()).state, MAPPER, CPU)


# ---- a page by frame number


@pytest.mark.parametrize("kind", [P2mType.MMIO_DIRECT_C, P2mType.MAP_FOREIGN_RW, P2mType.GRANT_MAP_RW])
def test_copy_claim_page__refuses_what_is_not_the_domains_own_memory(kind: P2mType) -> None:
    s = with_row(begun(), MAPPER, HOLE, frame_of(OTHER), kind)
    assert claim_page(s, HOLE).code == GNTST_BAD_PAGE


def test_copy_claim_page__refuses_a_hole() -> None:
    assert claim_page(begun(), HOLE).code == GNTST_BAD_PAGE


def test_copy_claim_page__refuses_a_page_with_too_many_references() -> None:
    s = begun(grant_v1(machine(reference_limit=2), GRANTER, REF, MAPPER))
    assert claim_page(s, PAGE).code == GNTST_BAD_PAGE


def test_copy_claim_page__takes_a_reference_and_gives_it_back() -> None:
    s = begun()
    held = sound(claim_page(s, PAGE), s, MAPPER).state
    after = sound(copy_release_page(held, MAPPER, CPU, DESTINATION), held, MAPPER).state
    assert [each.frame[frame_of(MAPPER)].references for each in (held, after)] == [2, 1]


def test_copy_claim_page__notes_the_frame_number_that_was_given() -> None:
    """A later item that names the same frame number is served from the page that is claimed."""
    assert claim_page(begun(), PAGE + 1).state.copy_side[MAPPER, CPU, DESTINATION].key == PAGE + 1


def test_copy_claim_page__reaches_another_domain_that_was_looked_up_for_a_grant() -> None:
    outcome = claim_page(begun(machine()), PAGE, SOURCE)
    assert outcome.state.copy_side[MAPPER, CPU, SOURCE].mfn == frame_of(GRANTER)
    assert outcome.state.deviation[Index(0)].dev12


def test_copy_claim_page_repaired__refuses_another_domains_page() -> None:
    outcome = copy_claim_page_repaired(begun(machine()), MAPPER, CPU, SOURCE, U64(PAGE))
    assert outcome.code == GNTST_PERMISSION_DENIED


def test_copy_claim_page_repaired__accepts_the_callers_own_page() -> None:
    s = begun()
    assert copy_claim_page_repaired(s, MAPPER, CPU, DESTINATION, U64(PAGE)).state == claim_page(s, PAGE).state


# ---- a page by a grant


@pytest.mark.parametrize(("version", "bound"), [(1, 512), (2, 256)])
def test_copy_claim_grant__refuses_a_reference_that_is_not_bound(version: int, bound: int) -> None:
    assert claim(begun(version=version), ref=GrantRef(bound)).code == GNTST_BAD_GNTREF


def test_copy_claim_grant__refuses_a_grant_in_use_by_another_domain() -> None:
    s = mapped_grant(grant_v1(machine(), GRANTER, REF, OTHER), GRANTER, REF, OTHER, 0, HOLE)
    assert claim(begun(grant_v1(s, GRANTER, REF, MAPPER))).code == GNTST_GENERAL_ERROR


@pytest.mark.parametrize(("side", "counter"), [(SOURCE, "host_readers"), (DESTINATION, "host_writers")])
def test_copy_claim_grant__refuses_a_full_counter(side: Index, counter: str) -> None:
    s = mapped_grant(granted(), GRANTER, REF, MAPPER, 0, HOLE)
    s = put(s, "active_grant", (GRANTER, REF), **{counter: 128})
    s = begun(s) if side == SOURCE else towards(s)
    assert claim(s, side).code == GNTST_GENERAL_ERROR


@pytest.mark.parametrize("version", [1, 2])
def test_copy_claim_grant__refuses_an_entry_that_permits_no_access(version: int) -> None:
    assert claim(begun(granted(version, type=0))).code == GNTST_GENERAL_ERROR


def test_copy_claim_grant__refuses_an_entry_for_another_domain() -> None:
    assert claim(begun(grant_v1(machine(), GRANTER, REF, OTHER))).code == GNTST_GENERAL_ERROR


@pytest.mark.parametrize("version", [1, 2])
def test_copy_claim_grant__refuses_a_write_to_a_read_only_grant(version: int) -> None:
    assert claim(towards(granted(version, readonly=True)), DESTINATION).code == GNTST_GENERAL_ERROR


@pytest.mark.parametrize("version", [1, 2])
def test_copy_claim_grant__refuses_a_page_that_the_granter_does_not_have(version: int) -> None:
    s = begun(granted(version, gfn=HOLE))
    outcome = claim(s)
    assert (outcome.kind, outcome.code) == (Kind.PARTIAL, GNTST_BAD_PAGE)
    assert broken(outcome.state) == []


def test_copy_claim_grant__of_a_grant_in_use_refuses_a_dying_granter() -> None:
    s = mapped_grant(granted(), GRANTER, REF, MAPPER, 0, HOLE, readonly=True)
    assert claim(begun(put(s, "domain", GRANTER, status=Status.DYING))).code == GNTST_BAD_DOMAIN


def test_copy_claim_grant__of_an_unused_grant_accepts_a_dying_granter() -> None:
    assert claim(begun(put(granted(), "domain", GRANTER, status=Status.DYING))).code == 0


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("side", "pinned"), [(SOURCE, (0, 1)), (DESTINATION, (1, 0))])
def test_copy_claim_grant__pins_the_grant_and_lets_it_go(version: int, side: Index, pinned: tuple[int, int]) -> None:
    s = begun(version=version) if side == SOURCE else towards(granted(version))
    held = sound(claim(s, side), s, MAPPER).state
    after = sound(copy_release_grant(held, MAPPER, CPU, side), held, MAPPER).state
    assert (pins(held), pins(after)) == (pinned, (0, 0))
    assert [each.frame[frame_of(GRANTER)].references for each in (held, after)] == [2, 1]


def test_copy_claim_grant__tells_the_granter_as_long_as_it_lasts() -> None:
    held = claim(begun()).state
    after = copy_release_grant(held, MAPPER, CPU, SOURCE).state
    entries = [decode(EntryV1, each.word[place_v1(each, GRANTER, REF)].raw) for each in (held, after)]
    assert [(each.reading, each.writing) for each in entries] == [(True, False), (False, False)]


def test_copy_claim_grant__ignores_the_sub_page_flag_under_version_1() -> None:
    held = claim(begun(granted(1, sub_page=True))).state
    row = held.copy_side[MAPPER, CPU, SOURCE]
    assert (row.start, row.length) == (0, 4096)


def test_copy_claim_grant__takes_the_window_of_a_sub_page_grant() -> None:
    held = claim(begun(granted(2, sub_page=True, start=256, length=128))).state
    row = held.copy_side[MAPPER, CPU, SOURCE]
    assert (row.start, row.length, held.active_grant[GRANTER, REF].sub_page) == (256, 128, True)


def test_copy_claim_grant__takes_no_window_of_a_grant_of_a_whole_page() -> None:
    held = claim(begun(granted(2, start=256, length=128))).state
    row = held.copy_side[MAPPER, CPU, SOURCE]
    assert (row.start, row.length, held.active_grant[GRANTER, REF].sub_page) == (0, 4096, False)


def test_copy_claim_grant__notes_the_reference_in_the_lowest_32_bits_of_what_was_claimed_before() -> None:
    s = put(begun(), "copy_side", (MAPPER, CPU, SOURCE), key=(7 << 32) + 5)
    assert claim(s).state.copy_side[MAPPER, CPU, SOURCE].key == (7 << 32) + REF


def test_copy_claim_grant__of_a_grant_in_use_takes_the_frame_on_record() -> None:
    s = mapped_grant(granted(), GRANTER, REF, MAPPER, 0, HOLE, readonly=True)
    held = claim(begun(grant_v1(s, GRANTER, REF, MAPPER, gfn=Gfn(PAGE + 1)))).state
    assert held.copy_side[MAPPER, CPU, SOURCE].mfn == frame_of(GRANTER)


@pytest.mark.parametrize("now", [{"readonly": True}, {"type": 0}])
def test_copy_claim_grant__of_a_grant_in_use_to_write_does_not_look_at_its_entry_again(now: dict[str, Any]) -> None:
    """The granter has made the entry read-only, or has taken the grant back, since it was mapped writable."""
    s = mapped_grant(granted(), GRANTER, REF, MAPPER, 0, HOLE)
    outcome = claim(towards(grant_v1(s, GRANTER, REF, MAPPER, **now)), DESTINATION)
    assert (outcome.code, pins(outcome.state)) == (0, (2, 0))


def test_copy_claim_grant__to_write_refuses_an_entry_that_names_another_domains_page_by_now() -> None:
    """In use for reading: where the entry points to now must still be the granter's own memory."""
    s = mapped_grant(granted(), GRANTER, REF, MAPPER, 0, HOLE, readonly=True)
    s = with_row(s, GRANTER, HOLE, frame_of(OTHER), P2mType.MAP_FOREIGN_RW)
    outcome = claim(towards(grant_v1(s, GRANTER, REF, MAPPER, gfn=HOLE)), DESTINATION)
    assert (outcome.kind, outcome.code) == (Kind.PARTIAL, GNTST_BAD_PAGE)


def rewritten() -> State:
    """The mapper has the granter's first page mapped read-only; the granter has put its second into the entry."""
    s = mapped_grant(granted(), GRANTER, REF, MAPPER, 0, HOLE, readonly=True)
    return towards(grant_v1(s, GRANTER, REF, MAPPER, gfn=Gfn(PAGE + 1)))


def test_copy_claim_grant__to_write_holds_one_page_and_accesses_another() -> None:
    outcome = claim(rewritten(), DESTINATION)
    row = outcome.state.copy_side[MAPPER, CPU, DESTINATION]
    assert (row.page - frame_of(GRANTER), row.mfn - frame_of(GRANTER)) == (1, 0)
    assert outcome.state.deviation[Index(0)].dev11


def test_copy_claim_grant_repaired__refuses_that() -> None:
    outcome = copy_claim_grant_repaired(rewritten(), MAPPER, CPU, DESTINATION, REF)
    assert outcome.code == GNTST_GENERAL_ERROR
    assert not outcome.state.deviation[Index(0)].dev11


def test_copy_claim_grant_repaired__to_write_accepts_the_page_on_record() -> None:
    """Nothing is mixed if the entry names the page that is in use for reading."""
    s = towards(mapped_grant(granted(), GRANTER, REF, MAPPER, 0, HOLE, readonly=True))
    assert sound(copy_claim_grant_repaired(s, MAPPER, CPU, DESTINATION, REF), s, MAPPER).code == 0


# ---- transitive grants


def passed_on(**fields: Any) -> State:
    """OTHER grants its page to the granter, which passes the grant on to the mapper."""
    s = grant_v2(machine(version=2), OTHER, BEHIND, GRANTER)
    return transitive(s, GRANTER, REF, MAPPER, OTHER, BEHIND, **fields)


def ask(s: State, side: Index = SOURCE, ref: GrantRef = REF) -> Outcome[State]:
    """First step."""
    return copy_claim_transitive(s, MAPPER, CPU, side, ref)


def held_through(s: State, side: Index = SOURCE) -> State:
    """All three steps."""
    s = begun(s) if side == SOURCE else towards(s)
    s = copy_claim_nested(ask(s, side).state, MAPPER, CPU, side).state
    return copy_finish_transitive(s, MAPPER, CPU, side).state


def test_copy_claim_transitive__refuses_a_reference_that_is_not_bound() -> None:
    assert ask(begun(passed_on()), ref=GrantRef(256)).code == GNTST_BAD_GNTREF


def test_copy_claim_transitive__refuses_an_entry_for_another_domain() -> None:
    s = transitive(passed_on(), GRANTER, REF, OTHER, OTHER, BEHIND)
    assert ask(begun(s)).code == GNTST_GENERAL_ERROR


def test_copy_claim_transitive__refuses_a_write_to_a_read_only_grant() -> None:
    assert ask(towards(passed_on(readonly=True)), DESTINATION).code == GNTST_GENERAL_ERROR


@pytest.mark.parametrize("behind", [GRANTER, UNKNOWN])
def test_copy_claim_transitive__refuses_a_grant_behind_of_itself_or_of_nobody(behind: DomId) -> None:
    s = transitive(passed_on(), GRANTER, REF, MAPPER, behind, BEHIND)
    outcome = ask(begun(s))
    assert (outcome.kind, outcome.code) == (Kind.PARTIAL, GNTST_GENERAL_ERROR)


def test_copy_claim_transitive__refuses_when_they_are_switched_off() -> None:
    s = transitive(machine(version=2, transitive_grants=False), GRANTER, REF, MAPPER, OTHER, BEHIND)
    assert ask(begun(s)).code == GNTST_GENERAL_ERROR


@pytest.mark.parametrize("side", [SOURCE, DESTINATION])
def test_copy_claim_transitive__of_a_grant_in_use_does_not_look_whether_it_is_read_only_by_now(side: Index) -> None:
    s = held_through(passed_on(), side)
    s = transitive(s, GRANTER, REF, MAPPER, OTHER, BEHIND, readonly=True)
    s = copy_domains(s, MAPPER, VcpuId(1), GRANTER, True, GRANTER, True).state
    assert sound(copy_claim_transitive(s, MAPPER, VcpuId(1), side, REF), s, MAPPER).code == 0


def test_copy_claim_transitive__accepts_a_grant_that_comes_back_to_its_granter() -> None:
    s = grant_v2(machine(version=2), MAPPER, BEHIND, GRANTER)
    held = held_through(transitive(s, GRANTER, REF, MAPPER, MAPPER, BEHIND))
    assert held.copy_side[MAPPER, CPU, SOURCE].mfn == frame_of(MAPPER)


def test_copy_claim_nested__refuses_a_reference_that_is_not_bound() -> None:
    s = transitive(passed_on(), GRANTER, REF, MAPPER, OTHER, 256)
    assert copy_claim_nested(ask(begun(s)).state, MAPPER, CPU, SOURCE).code == GNTST_BAD_GNTREF


def test_copy_claim_nested__refuses_a_grant_behind_that_is_not_for_the_one_who_passes_it_on() -> None:
    s = grant_v2(passed_on(), OTHER, BEHIND, MAPPER)
    assert copy_claim_nested(ask(begun(s)).state, MAPPER, CPU, SOURCE).code == GNTST_GENERAL_ERROR


def test_copy_claim_nested__refuses_a_second_transitive_grant() -> None:
    s = transitive(passed_on(), OTHER, BEHIND, GRANTER, DOM0, 1)
    outcome = copy_claim_nested(ask(begun(s)).state, MAPPER, CPU, SOURCE)
    assert (outcome.kind, outcome.code) == (Kind.PARTIAL, GNTST_GENERAL_ERROR)


def test_copy_claim_nested__leaves_the_status_word_of_a_second_transitive_grant_that_is_for_another_domain() -> None:
    s = transitive(passed_on(), OTHER, BEHIND, MAPPER, DOM0, 1)
    s = ask(begun(store(s, *place_status(s, OTHER, BEHIND), encode(fields(StatusV2, reading0=True))))).state
    outcome = copy_claim_nested(s, MAPPER, CPU, SOURCE)
    assert (outcome.kind, outcome.code, outcome.state) == (Kind.REFUSED, GNTST_GENERAL_ERROR, s)


@pytest.mark.parametrize("side", [SOURCE, DESTINATION])
def test_copy_claim_nested__does_not_mark_a_second_transitive_grant_that_is_in_use(side: Index) -> None:
    s = mapped_grant(passed_on(), OTHER, BEHIND, GRANTER, 0, HOLE, readonly=side == SOURCE)
    s = transitive(s, OTHER, BEHIND, GRANTER, DOM0, 1)
    s = store(s, *place_status(s, OTHER, BEHIND), 0)
    s = ask(begun(s) if side == SOURCE else towards(s), side).state
    outcome = copy_claim_nested(s, MAPPER, CPU, side)
    assert (outcome.kind, outcome.code, outcome.state) == (Kind.REFUSED, GNTST_GENERAL_ERROR, s)


def test_copy_claim_nested__marks_a_second_transitive_grant_that_is_only_read_so_far() -> None:
    """To write through it, its entry is marked before it is refused; the mark that it is read stays."""
    s = mapped_grant(passed_on(), OTHER, BEHIND, GRANTER, 0, HOLE, readonly=True)
    s = transitive(s, OTHER, BEHIND, GRANTER, DOM0, 1)
    s = ask(towards(store(s, *place_status(s, OTHER, BEHIND), 0)), DESTINATION).state
    outcome = copy_claim_nested(s, MAPPER, CPU, DESTINATION)
    word = outcome.state.word[place_status(s, OTHER, BEHIND)].raw
    assert (outcome.kind, outcome.code, word) == (
        Kind.PARTIAL, GNTST_GENERAL_ERROR, encode(fields(StatusV2, reading0=True)),
    )


def test_copy_abandon__ends_the_claim() -> None:
    """Nothing is left to be given back, so the domains can be forgotten."""
    s = ask(begun(passed_on())).state
    assert copy_forget(copy_abandon(s, MAPPER, CPU, SOURCE).state, MAPPER, CPU).kind is Kind.DONE


def test_copy_abandon__takes_the_marks_back() -> None:
    s = grant_v2(passed_on(), OTHER, BEHIND, MAPPER)
    s = copy_claim_nested(ask(begun(s)).state, MAPPER, CPU, SOURCE).state
    after = sound(copy_abandon(s, MAPPER, CPU, SOURCE), s, MAPPER).state
    assert after.word[place_status(s, GRANTER, REF)].raw == 0


def test_copy_finish_transitive__pins_both_grants() -> None:
    held = held_through(passed_on())
    assert (pins(held), pins(held, OTHER, BEHIND)) == ((0, 1), (0, 1))
    assert held.copy_side[MAPPER, CPU, SOURCE].mfn == frame_of(OTHER)
    assert broken(held) == []


def test_copy_finish_transitive__marks_both_entries() -> None:
    held = held_through(passed_on())
    words = [held.word[place_status(held, GRANTER, REF)].raw, held.word[place_status(held, OTHER, BEHIND)].raw]
    assert [decode(StatusV2, words[0]).reading1, decode(StatusV2, words[1]).reading0] == [True, True]


def test_copy_finish_transitive__starts_again_if_the_grant_came_into_use_meanwhile() -> None:
    s = copy_claim_nested(ask(begun(passed_on())).state, MAPPER, CPU, SOURCE).state
    s = put(s, "active_grant", (GRANTER, REF), host_readers=1, domid=MAPPER)
    assert copy_finish_transitive(s, MAPPER, CPU, SOURCE).kind is Kind.RESTART


def test_copy_finish_transitive__shares_a_grant_in_use_that_means_the_same() -> None:
    """A second virtual CPU copies through the grant while the first one holds it."""
    second = VcpuId(1)
    s = copy_domains(held_through(passed_on()), MAPPER, second, GRANTER, True, DOMID_SELF, False).state
    s = copy_claim_transitive(s, MAPPER, second, SOURCE, REF).state
    s = copy_claim_nested(s, MAPPER, second, SOURCE).state
    outcome = sound(copy_finish_transitive(s, MAPPER, second, SOURCE), s, MAPPER)
    assert (outcome.kind, pins(outcome.state)) == (Kind.DONE, (0, 2))


def test_copy_finish_transitive__starts_again_if_the_version_was_changed_meanwhile() -> None:
    s = copy_claim_nested(ask(begun(passed_on())).state, MAPPER, CPU, SOURCE).state
    s = put(s, "domain", GRANTER, grant_version=1)
    assert copy_finish_transitive(s, MAPPER, CPU, SOURCE).kind is Kind.RESTART


def test_copy_release_grant__of_a_transitive_one_lets_both_go() -> None:
    held = held_through(passed_on())
    half = sound(copy_release_grant(held, MAPPER, CPU, SOURCE), held, MAPPER).state
    after = sound(copy_release_nested(half, MAPPER, CPU, SOURCE), half, MAPPER).state
    assert (pins(after), pins(after, OTHER, BEHIND)) == ((0, 0), (0, 0))
    assert after.frame[frame_of(OTHER)].references == 1


def test_copy_release_grant__forgets_the_pin_behind_when_the_version_was_changed() -> None:
    s = put(held_through(passed_on()), "domain", GRANTER, grant_version=1)
    after = copy_release_grant(s, MAPPER, CPU, SOURCE).state
    assert (after.deviation[Index(0)].dev14, pins(after, OTHER, BEHIND)) == (True, (0, 1))


def test_copy_release_grant__has_nothing_left_to_give_back_when_the_pin_behind_is_forgotten() -> None:
    s = put(held_through(passed_on()), "domain", GRANTER, grant_version=1)
    after = copy_release_grant(s, MAPPER, CPU, SOURCE).state
    assert copy_forget(after, MAPPER, CPU).kind is Kind.DONE


def test_copy_release_grant__of_a_rewritten_transitive_one_turns_to_the_grant_behind() -> None:
    s = domains(passed_on(), GRANTER, GRANTER, by_grant=(True, True)).state
    s = copy_claim_nested(ask(s).state, MAPPER, CPU, SOURCE).state
    s = grant_v2(copy_finish_transitive(s, MAPPER, CPU, SOURCE).state, GRANTER, REF, MAPPER)
    s = copy_release_grant(claim(s, DESTINATION).state, MAPPER, CPU, DESTINATION).state
    row = s.copy_side[MAPPER, CPU, DESTINATION]
    assert s.deviation[Index(0)].dev11
    assert (row.nested, row.trans_domid, row.trans_ref) == (True, OTHER, BEHIND)


# ---- the bytes

PATTERN = 0x0706050403020100


def claimed(s: State | None = None) -> State:
    """From the granter's first page to the mapper's, both claimed; the source holds a pattern."""
    s = claim_page(claim(begun(s)).state, PAGE).state
    for index in range(512):
        s = store(s, frame_of(GRANTER), index, (PATTERN + 0x0808080808080808 * (index % 31)) % (1 << 64))
    return s


def copied(s: State, source: int, destination: int, length: int) -> Outcome[State]:
    """copy_bytes."""
    return copy_bytes(s, MAPPER, CPU, U16(source), U16(destination), U16(length))


def contents(s: State, domain: DomId) -> bytes:
    """The first page of a domain, byte by byte."""
    return b"".join(s.word[frame_of(domain), Index(each)].raw.to_bytes(8, "little") for each in range(512))


@pytest.mark.parametrize(("source", "destination", "length"), [(4096, 0, 1), (0, 4095, 2), (1, 0, 4096), (0, 0, 5000)])
def test_copy_bytes__refuses_to_pass_a_page(source: int, destination: int, length: int) -> None:
    assert copied(claimed(), source, destination, length).code == GNTST_BAD_COPY_ARG


@pytest.mark.parametrize(("source", "length", "expected"), [
    (256, 128, 0), (255, 1, GNTST_GENERAL_ERROR), (256, 129, GNTST_GENERAL_ERROR), (300, 84, 0), (384, 0, 0),
    (385, 0, GNTST_GENERAL_ERROR),
])
def test_copy_bytes__stays_within_the_window_of_the_source(source: int, length: int, expected: int) -> None:
    s = claimed(granted(2, sub_page=True, start=256, length=128))
    assert copied(s, source, 0, length).code == expected


def test_copy_bytes__stays_within_the_window_of_the_destination() -> None:
    s = towards(granted(2, sub_page=True, start=256, length=128))
    s = claim(claim_page(s, PAGE, SOURCE).state, DESTINATION).state
    assert [copied(s, 0, place, 64).code for place in (192, 256, 320, 321)] == [
        GNTST_GENERAL_ERROR, 0, 0, GNTST_GENERAL_ERROR,
    ]


def test_copy_bytes__of_none_is_no_error() -> None:
    s = claimed()
    assert contents(copied(s, 5, 7, 0).state, MAPPER) == contents(s, MAPPER)


@pytest.mark.parametrize(("source", "destination", "length"), [
    (0, 0, 4096), (0, 0, 8), (3, 0, 8), (0, 3, 8), (13, 2, 1), (7, 4, 100), (4095, 4095, 1), (1, 4000, 96),
    (2049, 5, 777),
])
def test_copy_bytes__moves_just_these_bytes(source: int, destination: int, length: int) -> None:
    s = claimed()
    after = copied(s, source, destination, length).state
    expected = bytearray(contents(s, MAPPER))
    expected[destination:destination + length] = contents(s, GRANTER)[source:source + length]
    assert contents(after, MAPPER) == bytes(expected)


def test_copy_bytes__needs_both_pages() -> None:
    with pytest.raises(IllegalChoice):
        copied(begun(), 0, 0, 8)
