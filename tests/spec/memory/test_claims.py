"""Tests of claims and of the account of the heap."""

from __future__ import annotations

import pytest

from spec.errors import EINVAL, ENOMEM, EPERM
from spec.language import U32, U64, DomId, Gfn, Index, Mfn, Outcome, put
from spec.memory.claims import claim_pages, claim_pages_repaired
from spec.memory.heap import HEAP
from spec.memory.reservation import decrease_page, increase_extent, populate_extent
from spec.state import DOMID_SELF, State, Status
from tests.spec.machine import DOM0, FREE, GRANTER, HOLE, MAPPER, OTHER, PAGE, PAGES, UNKNOWN, machine, sound


def claim(s: State, pages: int, *, caller: DomId = DOM0, domain: DomId = GRANTER, list_given: bool = False,
          order: int = 0, flags: int = 0, cursor: int = 0) -> Outcome[State]:
    """claim_pages by the control domain for the granter."""
    return claim_pages(s, caller, domain, U64(pages), list_given, U32(order), U32(flags), U64(cursor))


def claims(s: State, domain: DomId = GRANTER) -> tuple[int, int, int]:
    """The domain's claim, that of all domains, and the free frames."""
    return s.domain[domain].claimed, s.heap[HEAP].claimed, s.heap[HEAP].free


@pytest.mark.parametrize(
    ("list_given", "order", "flags", "cursor"), [(True, 0, 0, 0), (False, 1, 0, 0), (False, 0, 1, 0), (False, 0, 0, 1)]
)
def test_claim__refuses_what_a_claim_has_not(list_given: bool, order: int, flags: int, cursor: int) -> None:
    outcome = claim(
        machine(), 10, caller=MAPPER, list_given=list_given, order=order, flags=flags, cursor=cursor
    )
    assert outcome.code == -EINVAL


@pytest.mark.parametrize("domain", [UNKNOWN, DOMID_SELF])
def test_claim__refuses_a_domain_that_cannot_be_looked_up(domain: DomId) -> None:
    assert claim(machine(), 10, caller=MAPPER, domain=domain).code == -EINVAL


def test_claim__refuses_all_but_control_domains() -> None:
    assert claim(machine(), 10, caller=GRANTER).code == -EPERM


def test_claim__refuses_a_second_claim() -> None:
    s = claim(machine(), 10).state
    assert claim(s, 11).code == -EINVAL


def test_claim__refuses_what_the_domain_has_already() -> None:
    assert claim(machine(), PAGES).code == -EINVAL


def test_claim__refuses_more_than_the_domain_may_have() -> None:
    assert claim(machine(), 65).code == -EINVAL


def test_claim__refuses_more_than_is_free() -> None:
    s = put(machine(), "heap", HEAP, free=5)
    assert claim(s, PAGES + 6).code == -ENOMEM


def test_claim__refuses_what_is_promised_to_others() -> None:
    s = claim(machine(), PAGES + 40).state
    assert claim(s, PAGES + 25, domain=MAPPER).code == -ENOMEM


def test_claim__counts_the_pages_that_the_domain_has() -> None:
    s = machine()
    assert (2, 2, 64) == claims(sound(claim(s, PAGES + 2), s, DOM0).state)


def test_claim__of_no_page_gives_it_up() -> None:
    s = claim(machine(), PAGES + 2).state
    assert (0, 0, 64) == claims(sound(claim(s, 0), s, DOM0).state)


def test_claim__shrinks_as_pages_are_allocated() -> None:
    s = claim(machine(), PAGES + 10).state
    after = sound(increase_extent(s, DOM0, GRANTER, 2, FREE), s, DOM0).state
    assert (6, 6, 60) == claims(after)


def test_claim__ends_when_more_is_allocated() -> None:
    s = claim(machine(), PAGES + 3).state
    assert (0, 0, 60) == claims(increase_extent(s, DOM0, GRANTER, 2, FREE).state)


def test_claim__grows_when_a_page_is_given_back() -> None:
    s = claim(machine(), PAGES + 3).state
    after = sound(decrease_page(s, GRANTER, GRANTER, PAGE, tables_left=True), s, GRANTER).state
    assert (4, 4, 65) == claims(after)


def test_claim__that_has_ended_does_not_grow() -> None:
    s = machine()
    assert (0, 0, 65) == claims(sound(decrease_page(s, GRANTER, GRANTER, PAGE, tables_left=True), s, GRANTER).state)


def test_claim__keeps_other_domains_from_the_frames() -> None:
    s = claim(machine(), PAGES + 56).state
    s = put(s, "domain", MAPPER, max_pages=100)
    assert increase_extent(s, DOM0, MAPPER, 4, FREE).code == -ENOMEM
    assert populate_extent(s, MAPPER, MAPPER, HOLE, 4, FREE, 16).code == -ENOMEM


def test_claim__lets_its_domain_have_them() -> None:
    s = claim(machine(), PAGES + 56).state
    assert increase_extent(s, DOM0, GRANTER, 4, FREE).code == 0


def test_claim__leaves_what_is_not_promised_to_all() -> None:
    s = claim(machine(), PAGES + 56).state
    assert increase_extent(s, DOM0, MAPPER, 3, FREE).code == 0


def test_claim__for_a_dying_domain_is_a_deviation() -> None:
    s = put(machine(), "domain", GRANTER, status=Status.DYING)
    after = claim(s, PAGES + 1).state
    assert (1, True) == (after.domain[GRANTER].claimed, after.deviation[Index(0)].dev21)


def test_claim_repaired__refuses_a_dying_domain() -> None:
    s = put(machine(), "domain", GRANTER, status=Status.DYING)
    outcome = claim_pages_repaired(s, DOM0, GRANTER, U64(PAGES + 1), False, U32(0), U32(0), U64(0))
    assert outcome.code == -EINVAL


def test_claim_repaired__accepts_a_living_domain() -> None:
    """For a domain that runs it does what the hypercall does now."""
    s = machine()
    outcome = claim_pages_repaired(s, DOM0, GRANTER, U64(PAGES + 1), False, U32(0), U32(0), U64(0))
    assert (outcome.code, outcome.state) == (0, claim(s, PAGES + 1).state)


def test_heap__counts_a_freed_page() -> None:
    s = machine()
    after = decrease_page(s, OTHER, OTHER, Gfn(PAGE + 1), tables_left=True).state
    assert 65 == after.heap[HEAP].free
    assert Mfn(0x4001) == s.p2m[OTHER, Gfn(PAGE + 1)].mfn


def test_populate__a_domain_gets_the_last_page_that_it_has_claimed() -> None:
    s = put(machine(), "domain", MAPPER, claimed=1)
    s = put(s, "heap", HEAP, claimed=s.heap[HEAP].free)
    assert populate_extent(s, MAPPER, MAPPER, Gfn(HOLE), 0, Mfn(FREE), 1).code == 0
