"""Tests of a domain's pool of pages for its stage-2 tables."""

from __future__ import annotations

import pytest

from spec.errors import EINVAL, ENOMEM, EPERM, ESRCH
from spec.language import U64, DomId, Kind, Mfn, Outcome, put
from spec.language.outcomes import IllegalChoice
from spec.memory.heap import HEAP
from spec.memory.pool import get_paging_mempool_size, give_table, set_paging_mempool_size, take_table
from spec.state import State, Use
from tests.spec.machine import ADDRESS, DOM0, FREE, GRANTER, MAPPER, POOL, UNKNOWN, machine, pool_frame_of, sound

NOBODY = DomId(0x7FFF)


def resize(s: State, pages: int, *, mfn: Mfn = FREE, memory_left: bool = True) -> Outcome[State]:
    """One step of making the granter's pool so many pages large."""
    return set_paging_mempool_size(s, DOM0, GRANTER, U64(pages * ADDRESS), mfn, memory_left)


@pytest.mark.parametrize(
    ("caller", "domain", "size", "expected"),
    [(MAPPER, UNKNOWN, 1, ESRCH), (MAPPER, GRANTER, 1, EPERM), (DOM0, GRANTER, 4097, EINVAL)],
)
def test_set_size__refuses_in_order(caller: DomId, domain: DomId, size: int, expected: int) -> None:
    assert -expected == set_paging_mempool_size(machine(), caller, domain, U64(size), FREE, memory_left=True).code


def test_set_size__counts_32_bits_of_pages_on_arm32() -> None:
    assert resize(machine(arm32=True), 1 << 32).code == -EINVAL


def test_set_size__accepts_an_ordinary_size_on_arm32() -> None:
    """Only a number of pages that takes more than 32 bits is refused there."""
    assert resize(machine(arm32=True), POOL + 1).kind is Kind.RESTART


def test_set_size__counts_more_on_arm64() -> None:
    assert resize(machine(), 1 << 32).kind is Kind.RESTART


def test_set_size__fails_without_memory() -> None:
    assert resize(machine(), POOL + 1, memory_left=False).code == -ENOMEM


def test_set_size__leaves_what_is_promised() -> None:
    s = put(machine(), "heap", HEAP, claimed=64)
    assert resize(s, POOL + 1).code == -ENOMEM


def test_set_size__takes_a_frame_of_the_heap() -> None:
    s = machine()
    outcome = sound(resize(s, POOL + 2), s, DOM0)
    row = outcome.state.domain[GRANTER]
    assert Kind.RESTART == outcome.kind
    assert (POOL + 1, s.domain[GRANTER].pool_free + 1) == (row.pool_pages, row.pool_free)
    assert (Use.TABLE, 63) == (outcome.state.frame[FREE].use, outcome.state.heap[HEAP].free)


def test_set_size__writes_a_cleared_frame_back_to_memory() -> None:
    """What was in the caches alone of a frame is not left there when it becomes a page for tables."""
    s = put(machine(), "frame", FREE, unclean=True)
    assert not sound(resize(s, POOL + 1), s, DOM0).state.frame[FREE].unclean


def test_set_size__gives_an_unused_page_back_to_be_scrubbed() -> None:
    s = machine()
    page = pool_frame_of(GRANTER)
    after = sound(resize(s, 1, mfn=page), s, DOM0).state
    assert (Use.FREE, True, 65) == (after.frame[page].use, after.frame[page].dirty, after.heap[HEAP].free)


def test_set_size__takes_no_page_of_another_pool() -> None:
    with pytest.raises(IllegalChoice):
        resize(machine(), 1, mfn=pool_frame_of(MAPPER))


def test_set_size__fails_when_every_page_is_in_use() -> None:
    s = put(machine(), "domain", GRANTER, pool_free=0)
    assert resize(s, 1, mfn=pool_frame_of(GRANTER)).code == -ENOMEM


def test_set_size__is_done_at_the_size() -> None:
    s = machine()
    outcome = resize(s, POOL)
    assert Kind.DONE == outcome.kind
    assert outcome.state is s


@pytest.mark.parametrize(("caller", "domain", "expected"), [(MAPPER, UNKNOWN, ESRCH), (MAPPER, GRANTER, EPERM)])
def test_get_size__refuses_in_order(caller: DomId, domain: DomId, expected: int) -> None:
    assert -expected == get_paging_mempool_size(machine(), caller, domain).code


def test_get_size__answers_in_bytes() -> None:
    assert POOL * ADDRESS == get_paging_mempool_size(machine(), DOM0, GRANTER).output["size"]


def test_table__is_taken_from_the_pool_and_given_back() -> None:
    s = machine()
    taken = sound(take_table(s, GRANTER), s, NOBODY).state
    assert s.domain[GRANTER].pool_free - 1 == taken.domain[GRANTER].pool_free
    assert s.domain[GRANTER].pool_free == give_table(taken, GRANTER).state.domain[GRANTER].pool_free


def test_table__cannot_be_taken_from_an_empty_pool() -> None:
    s = put(machine(), "domain", GRANTER, pool_free=0)
    with pytest.raises(IllegalChoice):
        take_table(s, GRANTER)
