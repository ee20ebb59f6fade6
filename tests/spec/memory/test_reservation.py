"""Tests of populate_physmap, increase_reservation and decrease_reservation."""

from __future__ import annotations

from typing import Any

import pytest

from spec.errors import E2BIG, EINVAL, ENOENT, ENOMEM, ENXIO, EPERM, ESRCH
from spec.language import DomId, Gfn, GrantRef, Handle, Index, Kind, Mfn, Outcome, put
from spec.language.outcomes import IllegalChoice
from spec.memory.heap import HEAP
from spec.memory.p2m import put_orphan
from spec.memory.reservation import (
    decrease_page,
    decrease_page_repaired,
    increase_extent,
    largest_order,
    populate_extent,
)
from spec.state import P2mType, State, Status, Use
from tests.spec.machine import (
    DOM0,
    FREE,
    GRANTER,
    HOLE,
    MAPPER,
    OTHER,
    PAGE,
    PAGES,
    UNKNOWN,
    frame_of,
    grant_v1,
    machine,
    mapped_grant,
    mapped_shared_frame,
    shared_info_of,
    sound,
    with_row,
)

NOBODY = DomId(0x7FFF)


def populate(s: State, *, caller: DomId = MAPPER, domain: DomId = MAPPER, gfn: int = HOLE, order: int = 0,
             mfn: int = FREE, done: int | None = None) -> Outcome[State]:
    """One extent of populate_physmap by the mapper for itself."""
    return populate_extent(
        s, caller, domain, Gfn(gfn), order, Mfn(mfn), 1 << order if done is None else done
    )


def increase(s: State, *, caller: DomId = MAPPER, domain: DomId = MAPPER, order: int = 0, mfn: int = FREE
             ) -> Outcome[State]:
    """One extent of increase_reservation by the mapper for itself."""
    return increase_extent(s, caller, domain, order, Mfn(mfn))


def decrease(s: State, *, caller: DomId = MAPPER, domain: DomId = MAPPER, gfn: int = PAGE, tables_left: bool = True
             ) -> Outcome[State]:
    """One page of decrease_reservation by the mapper for itself."""
    return decrease_page(s, caller, domain, Gfn(gfn), tables_left)


LIMIT = machine().settings[Index(0)].reference_limit


def direct(s: State) -> State:
    """The state in which the control domain is direct-mapped and has frame 0x5800 of its own at its number."""
    s = put(s, "domain", DOM0, direct_mapped=True, tot_pages=s.domain[DOM0].tot_pages + 1)
    s = put(s, "frame", Mfn(0x5800), use=Use.DOMAIN, owner=DOM0, allocated=True, references=1, gfn=Gfn(0x5800))
    return with_row(s, DOM0, Gfn(0x5800), Mfn(0x5800), P2mType.RAM_RW)


# ---- the limit of an order


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, 9), ({"passthrough": True}, 10), ({"hardware": True}, 10), ({"control": True}, 18)],
)
def test_largest_order__follows_the_class_of_the_caller(fields: dict[str, bool], expected: int) -> None:
    assert expected == largest_order(put(machine(), "domain", MAPPER, **fields), MAPPER)


# ---- populate


def test_populate__refuses_an_unknown_domain() -> None:
    assert populate(machine(), domain=UNKNOWN, order=10).code == -ESRCH


def test_populate__refuses_a_caller_without_rights() -> None:
    assert populate(machine(), domain=GRANTER, order=10).code == -EPERM


def test_populate__refuses_an_order_above_the_callers_limit() -> None:
    assert populate(machine(), order=10).code == -EINVAL


def test_populate__of_the_callers_largest_order_lacks_memory_alone() -> None:
    assert populate(machine(), order=9).code == -ENOMEM


def test_populate__refuses_a_dying_domain() -> None:
    s = put(machine(), "domain", GRANTER, status=Status.DYING)
    assert populate(s, caller=DOM0, domain=GRANTER).code == -ENOMEM


def test_populate__refuses_what_is_promised_to_others() -> None:
    s = put(put(machine(), "heap", HEAP, claimed=64), "domain", MAPPER, max_pages=PAGES)
    assert populate(s).code == -ENOMEM


def test_populate__refuses_more_than_the_domain_may_have() -> None:
    s = put(machine(), "domain", MAPPER, max_pages=PAGES + 3)
    assert populate(s, order=2).code == -E2BIG


def test_populate__takes_free_frames_only() -> None:
    with pytest.raises(IllegalChoice):
        populate(machine(), mfn=frame_of(GRANTER))


def test_populate__keeps_a_block_that_lies_beyond_the_root() -> None:
    outcome = populate(machine(), gfn=1 << 28)
    assert outcome.code == -EINVAL
    assert (Use.DOMAIN, MAPPER) == (outcome.state.frame[FREE].use, outcome.state.frame[FREE].owner)


def test_populate__keeps_a_block_that_could_not_be_mapped() -> None:
    s = put(machine(), "domain", MAPPER, pool_free=0)
    outcome = populate(s, order=1, done=1)
    assert (Kind.PARTIAL, -ENOENT) == (outcome.kind, outcome.code)
    assert P2mType.INVALID == outcome.state.p2m[MAPPER, Gfn(HOLE + 1)].type
    assert PAGES + 2 == outcome.state.domain[MAPPER].tot_pages


def test_populate__runs_out_of_tables_only_if_the_pool_is_nearly_empty() -> None:
    with pytest.raises(IllegalChoice):
        populate(machine(), order=1, done=0)


def test_populate__gives_the_domain_its_pages() -> None:
    s = machine()
    after = sound(populate(s, order=2), s, MAPPER).state
    frame, row = after.frame[Mfn(FREE + 3)], after.p2m[MAPPER, Gfn(HOLE + 3)]
    assert (Use.DOMAIN, MAPPER, True, 1) == (frame.use, frame.owner, frame.allocated, frame.references)
    assert (P2mType.RAM_RW, FREE + 3) == (row.type, row.mfn)
    assert (PAGES + 4, 60) == (after.domain[MAPPER].tot_pages, after.heap[HEAP].free)


def test_populate__scrubs_what_a_dead_domain_left() -> None:
    s = put(machine(), "frame", FREE, dirty=True)
    s = put(s, "word", (FREE, Index(3)), raw=77, secret=True)
    after = sound(populate(s), s, MAPPER).state
    word, frame = after.word[FREE, Index(3)], after.frame[FREE]
    assert (0, False, False, False) == (word.raw, word.secret, frame.dirty, frame.unclean)


def test_populate__replaces_a_page_silently() -> None:
    s = machine()
    after = sound(populate(s, gfn=PAGE), s, MAPPER).state
    old = after.frame[frame_of(MAPPER)]
    assert FREE == after.p2m[MAPPER, PAGE].mfn
    assert (MAPPER, True) == (old.owner, old.allocated)


def test_populate__over_a_shared_page_forgets_where_that_was() -> None:
    s = mapped_shared_frame(machine(), MAPPER, HOLE, shared_info_of(MAPPER))
    s = sound(populate(s), s, MAPPER).state
    assert s.orphan[MAPPER, HOLE].recorded
    after = sound(put_orphan(s, MAPPER, HOLE), s, NOBODY).state
    assert not after.frame[shared_info_of(MAPPER)].mapped


def test_populate__over_a_foreign_page_drops_its_reference() -> None:
    s = put(machine(), "domain", MAPPER, device_model=True, target=GRANTER)
    s = with_row(s, MAPPER, HOLE, frame_of(GRANTER), P2mType.MAP_FOREIGN_RW)
    s = sound(populate(s), s, MAPPER).state
    after = sound(put_orphan(s, MAPPER, HOLE), s, NOBODY).state
    assert 1 == after.frame[frame_of(GRANTER)].references


def test_populate_direct__gets_back_a_frame_of_its_own() -> None:
    s = decrease(direct(machine()), caller=DOM0, domain=DOM0, gfn=0x5800).state
    assert P2mType.INVALID == s.p2m[DOM0, Gfn(0x5800)].type
    outcome = sound(populate(s, caller=DOM0, domain=DOM0, gfn=0x5800, mfn=0x5800), s, DOM0)
    row = outcome.state.p2m[DOM0, Gfn(0x5800)]
    assert (0, P2mType.RAM_RW, 0x5800) == (outcome.code, row.type, row.mfn)


def test_populate_direct__refuses_a_frame_that_is_not_its_own() -> None:
    s = direct(machine())
    assert populate(s, caller=DOM0, domain=DOM0, gfn=FREE).code == -EINVAL


@pytest.mark.parametrize(("references", "code"), [(0, -EINVAL), (1, 0), (LIMIT - 2, 0), (LIMIT - 1, -EINVAL)])
def test_populate_direct__takes_a_reference_meanwhile(references: int, code: int) -> None:
    s = decrease(direct(machine()), caller=DOM0, domain=DOM0, gfn=0x5800).state
    s = put(s, "frame", Mfn(0x5800), references=references)
    assert populate(s, caller=DOM0, domain=DOM0, gfn=0x5800).code == code


def test_populate_direct__refuses_numbers_that_no_frame_has() -> None:
    s = direct(machine())
    assert populate(s, caller=DOM0, domain=DOM0, gfn=1 << 52).code == -EINVAL


def test_populate__a_frame_behind_the_end_of_the_tables_is_on_record_nowhere() -> None:
    s = machine()
    last = s.settings[Index(0)].root_pages - 1
    after = populate(s, gfn=last, order=1, done=1).state
    assert (last, 0) == (after.frame[FREE].gfn, after.frame[Mfn(FREE + 1)].gfn)


# ---- increase


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({"domain": UNKNOWN, "order": 10}, ESRCH), ({"domain": GRANTER, "order": 10}, EPERM), ({"order": 10}, EINVAL),
     ({"order": 6}, E2BIG)],
)
def test_increase__refuses_in_order(changes: dict[str, Any], expected: int) -> None:
    assert -expected == increase(machine(), **changes).code


def test_increase__refuses_a_dying_domain() -> None:
    s = put(machine(), "domain", GRANTER, status=Status.DYING)
    assert increase(s, caller=DOM0, domain=GRANTER).code == -ENOMEM


def test_increase__of_the_callers_largest_order_lacks_memory_alone() -> None:
    """512 pages may be asked for, but there are not so many."""
    assert increase(machine(), order=9).code == -ENOMEM


def test_increase__maps_nothing() -> None:
    s = machine()
    after = sound(increase(s, order=1), s, MAPPER).state
    row = after.domain[MAPPER]
    assert (PAGES + 2, s.domain[MAPPER].highest_gfn) == (row.tot_pages, row.highest_gfn)


# ---- decrease


@pytest.mark.parametrize(
    ("changes", "expected"), [({"domain": UNKNOWN}, ESRCH), ({"domain": GRANTER}, EPERM), ({"gfn": HOLE}, EINVAL)]
)
def test_decrease__refuses_in_order(changes: dict[str, Any], expected: int) -> None:
    assert -expected == decrease(machine(), **changes).code


def test_decrease__refuses_a_page_of_another_domain() -> None:
    s = mapped_grant(grant_v1(machine(), GRANTER, 9, MAPPER), GRANTER, 9, MAPPER, 0, HOLE)
    assert decrease(s, gfn=HOLE).code == -ENXIO


def test_decrease__refuses_a_page_whose_references_are_full() -> None:
    assert decrease(machine(reference_limit=2)).code == -ENXIO


def test_decrease__refuses_a_dying_domain() -> None:
    s = put(machine(), "domain", GRANTER, status=Status.DYING)
    assert decrease(s, caller=DOM0, domain=GRANTER).code == -ENOMEM


def test_decrease__frees_the_page() -> None:
    s = machine()
    after = sound(decrease(s), s, MAPPER).state
    assert (Use.FREE, PAGES - 1, 65) == (
        after.frame[frame_of(MAPPER)].use, after.domain[MAPPER].tot_pages, after.heap[HEAP].free,
    )


@pytest.mark.parametrize("scrub", [True, False])
def test_decrease__a_running_domains_page_is_scrubbed_only_on_request(scrub: bool) -> None:
    assert scrub == decrease(machine(scrub_domheap=scrub)).state.frame[frame_of(MAPPER)].dirty


def test_decrease__a_page_in_use_stays_until_the_last_reference_goes() -> None:
    s = mapped_grant(grant_v1(machine(), GRANTER, 9, MAPPER), GRANTER, 9, MAPPER, 0, HOLE)
    after = sound(decrease(s, caller=GRANTER, domain=GRANTER), s, GRANTER).state
    frame = after.frame[frame_of(GRANTER)]
    assert (Use.DOMAIN, False, 1) == (frame.use, frame.allocated, frame.references)
    assert (P2mType.INVALID, PAGES) == (after.p2m[GRANTER, PAGE].type, after.domain[GRANTER].tot_pages)


def test_decrease__of_shared_information_gives_up_its_allocation() -> None:
    s = mapped_shared_frame(machine(), MAPPER, HOLE, shared_info_of(MAPPER))
    after = sound(decrease(s, gfn=HOLE), s, MAPPER).state
    frame = after.frame[shared_info_of(MAPPER)]
    assert (Use.SHARED, False, 0, False) == (frame.use, frame.allocated, frame.references, frame.mapped)


def test_decrease__a_direct_mapped_domain_keeps_the_frame() -> None:
    s = direct(machine())
    after = sound(decrease(s, caller=DOM0, domain=DOM0, gfn=0x5800), s, DOM0).state
    frame = after.frame[Mfn(0x5800)]
    assert (Use.DOMAIN, True, 1) == (frame.use, frame.allocated, frame.references)


def test_decrease__serves_the_device_model() -> None:
    s = put(machine(), "domain", OTHER, device_model=True, target=GRANTER)
    assert sound(decrease(s, caller=OTHER, domain=GRANTER), s, OTHER).code == 0


def granted_to_itself() -> State:
    """The mapper has mapped a page of its own through a grant to itself."""
    return mapped_grant(grant_v1(machine(), MAPPER, 9, MAPPER), MAPPER, 9, MAPPER, 0, HOLE)


def test_decrease__through_a_grant_to_itself_is_a_deviation() -> None:
    after = decrease(granted_to_itself(), gfn=HOLE).state
    frame = after.frame[frame_of(MAPPER)]
    assert (False, P2mType.RAM_RW, True) == (
        frame.allocated, after.p2m[MAPPER, PAGE].type, after.deviation[Index(0)].dev3,
    )
    assert after.mapping[MAPPER, Handle(0)].ref == GrantRef(9)


def test_decrease_repaired__takes_ram_only() -> None:
    assert decrease_page_repaired(granted_to_itself(), MAPPER, MAPPER, HOLE, tables_left=True).code == -EINVAL


def test_decrease_repaired__takes_a_page_of_ram() -> None:
    s = machine()
    outcome = sound(decrease_page_repaired(s, MAPPER, MAPPER, PAGE, tables_left=True), s, MAPPER)
    assert (0, Use.FREE) == (outcome.code, outcome.state.frame[frame_of(MAPPER)].use)


def test_decrease_page__fails_if_a_block_cannot_be_split() -> None:
    s = put(machine(), "domain", MAPPER, pool_free=0)
    outcome = decrease(s, tables_left=False)
    assert outcome.code == -ENOMEM
    assert outcome.state is s


def test_populate_extent__answers_enomem_where_a_block_would_be_split() -> None:
    s = put(machine(), "domain", MAPPER, pool_free=0)
    assert (-ENOENT, -ENOMEM) == (populate(s, gfn=HOLE, done=0).code, populate(s, gfn=PAGE, done=0).code)
