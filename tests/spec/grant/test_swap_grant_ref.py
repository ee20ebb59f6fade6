"""Tests of the exchange of two entries."""

from __future__ import annotations

import pytest

from spec.errors import GNTST_BAD_GNTREF, GNTST_EAGAIN
from spec.grant.entries import place_status, place_v1, place_v2
from spec.grant.table import swap_grant_ref
from spec.language import GrantRef, Index, Outcome
from spec.state import State
from tests.spec.machine import (
    GRANTER,
    HOLE,
    MAPPER,
    OTHER,
    grant_v1,
    grant_v2,
    machine,
    mapped_grant,
    sound,
    status_frame_of,
    store,
)


def swap(s: State, a: int, b: int) -> Outcome[State]:
    """swap_grant_ref by the granter."""
    return swap_grant_ref(s, GRANTER, GrantRef(a), GrantRef(b))


@pytest.mark.parametrize(("version", "bound"), [(1, 512), (2, 256)])
def test_swap_grant_ref__refuses_a_first_reference_that_is_not_bound(version: int, bound: int) -> None:
    assert swap(machine(version=version), bound, bound).code == GNTST_BAD_GNTREF


def test_swap_grant_ref__refuses_a_second_reference_that_is_not_bound() -> None:
    assert swap(machine(), 1, 512).code == GNTST_BAD_GNTREF


def test_swap_grant_ref__has_nothing_to_do_for_one_entry_even_in_use() -> None:
    s = mapped_grant(grant_v1(machine(), GRANTER, 9, MAPPER), GRANTER, 9, MAPPER, 0, HOLE)
    assert swap(s, 9, 9).state is s


def test_swap_grant_ref__of_one_entry_in_use_with_itself_is_no_error() -> None:
    """Whether an entry is in use matters only if it is to be exchanged with another."""
    s = mapped_grant(grant_v1(machine(), GRANTER, 9, MAPPER), GRANTER, 9, MAPPER, 0, HOLE)
    assert swap(s, 9, 9).code == 0


@pytest.mark.parametrize(("a", "b"), [(9, 10), (10, 9)])
def test_swap_grant_ref__refuses_an_entry_in_use(a: int, b: int) -> None:
    s = mapped_grant(grant_v1(machine(), GRANTER, 9, MAPPER), GRANTER, 9, MAPPER, 0, HOLE)
    assert swap(s, a, b).code == GNTST_EAGAIN


def test_swap_grant_ref__exchanges_two_entries_of_version_1() -> None:
    s = grant_v1(grant_v1(machine(), GRANTER, 9, MAPPER), GRANTER, 10, OTHER)
    first, second = place_v1(s, GRANTER, GrantRef(9)), place_v1(s, GRANTER, GrantRef(10))
    after = sound(swap(s, 9, 10), s, GRANTER).state
    assert (after.word[first], after.word[second]) == (s.word[second], s.word[first])


def test_swap_grant_ref__exchanges_both_words_of_entries_of_version_2() -> None:
    s = grant_v2(grant_v2(machine(version=2), GRANTER, 9, MAPPER), GRANTER, 10, OTHER, gfn=HOLE)
    mfn, index = place_v2(s, GRANTER, GrantRef(9))
    after = sound(swap(s, 9, 10), s, GRANTER).state
    words = [s.word[mfn, Index(index + each)].raw for each in range(4)]
    assert [after.word[mfn, Index(index + each)].raw for each in range(4)] == [*words[2:], *words[:2]]


def test_swap_grant_ref__exchanges_status_words_that_are_neighbours() -> None:
    s = machine(version=2)
    place = place_status(s, GRANTER, GrantRef(8))
    after = swap(store(s, *place, 0x4444_3333_2222_1111), 9, 10).state
    assert after.word[place].raw == 0x4444_2222_3333_1111


def test_swap_grant_ref__exchanges_status_words_far_apart() -> None:
    s = store(machine(version=2), status_frame_of(GRANTER), 0, 0x4444_3333_2222_1111)
    s = store(s, status_frame_of(GRANTER), 25, 0x8888_7777_6666_5555)
    after = swap(s, 1, 103).state
    found = [after.word[status_frame_of(GRANTER), Index(each)].raw for each in (0, 25)]
    assert found == [0x4444_3333_8888_1111, 0x2222_7777_6666_5555]
