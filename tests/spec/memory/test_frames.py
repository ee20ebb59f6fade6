"""Tests of frames: references, freeing and handing out."""

from __future__ import annotations

import pytest

from spec.language import U8, DomId, Index, Mfn, put
from spec.language.outcomes import IllegalChoice
from spec.memory.frames import (
    assign_block,
    can_get_page,
    drop_allocation,
    get_page,
    may_have,
    put_page,
)
from spec.memory.heap import HEAP, share_page, unshare_page
from spec.state import NOBODY, Frame, Status, Use
from tests.spec.machine import FREE, GRANTER, MAPPER, PAGES, broken, frame_of, machine, shared_info_of

PAGE = frame_of(GRANTER)


@pytest.mark.parametrize(("references", "expected"), [(0, False), (1, True), (3, True), (4, False)])
def test_get_page__needs_a_reference_and_room_for_another(references: int, expected: bool) -> None:
    s = put(machine(reference_limit=5), "frame", PAGE, references=references)
    assert expected == can_get_page(s, PAGE)


def test_put_page__takes_back_what_get_page_took() -> None:
    s = machine()
    assert s.frame[PAGE] == put_page(get_page(s, PAGE), PAGE).frame[PAGE]


def test_put_page__the_last_reference_frees_a_page() -> None:
    after = put_page(put(machine(), "frame", PAGE, allocated=False), PAGE)
    assert Frame(use=U8(Use.FREE), gfn=after.frame[PAGE].gfn) == after.frame[PAGE]
    assert (PAGES - 1, 65) == (after.domain[GRANTER].tot_pages, after.heap[HEAP].free)


def test_put_page__the_last_reference_leaves_a_shared_frame_with_xen() -> None:
    mfn = shared_info_of(GRANTER)
    s = machine()
    after = put_page(put(s, "frame", mfn, allocated=False), mfn)
    assert (Use.SHARED, GRANTER, 0) == (after.frame[mfn].use, after.frame[mfn].owner, after.frame[mfn].references)
    assert s.domain[GRANTER].xenheap_pages - 1 == after.domain[GRANTER].xenheap_pages


@pytest.mark.parametrize("status", [Status.DYING, Status.DEAD])
def test_put_page__what_a_dying_domain_leaves_is_to_be_scrubbed(status: Status) -> None:
    s = put(put(machine(), "frame", PAGE, allocated=False), "domain", GRANTER, status=status)
    after = put_page(s, PAGE)
    assert (True, True) == (after.frame[PAGE].dirty, after.word[PAGE, Index(511)].secret)


def test_drop_allocation__is_done_once() -> None:
    s = drop_allocation(get_page(machine(), PAGE), PAGE)
    assert (False, 1) == (s.frame[PAGE].allocated, s.frame[PAGE].references)
    assert drop_allocation(s, PAGE) is s


@pytest.mark.parametrize(("pages", "expected"), [(56, True), (57, False)])
def test_may_have__up_to_the_limit(pages: int, expected: bool) -> None:
    assert expected == may_have(machine(), GRANTER, pages)


def test_may_have__nothing_while_being_destroyed() -> None:
    assert not may_have(put(machine(), "domain", GRANTER, status=Status.DYING), GRANTER, 0)


def test_assign_block__hands_every_frame_out() -> None:
    s = assign_block(machine(), MAPPER, FREE, 4)
    assert [MAPPER] * 4 + [NOBODY] == [s.frame[Mfn(FREE + i)].owner for i in range(5)]
    assert broken(s) == []


def test_assign_block__needs_every_frame_to_be_free() -> None:
    with pytest.raises(IllegalChoice):
        assign_block(machine(), MAPPER, Mfn(FREE + 63), 2)


def test_assign_block__leaves_what_is_promised_to_others() -> None:
    with pytest.raises(IllegalChoice):
        assign_block(put(machine(), "heap", HEAP, claimed=63), MAPPER, FREE, 2)


def test_assign_block__scrubs_a_dirty_frame_and_leaves_a_clean_one() -> None:
    s = put(machine(), "frame", FREE, dirty=True)
    for i in (0, 1):
        s = put(s, "word", (Mfn(FREE + i), Index(0)), raw=5)
    s = assign_block(s, MAPPER, FREE, 2)
    assert (0, 5) == (s.word[FREE, Index(0)].raw, s.word[Mfn(FREE + 1), Index(0)].raw)


def test_assign_block__writes_the_caches_back() -> None:
    s = put(put(machine(), "frame", FREE, dirty=True), "frame", Mfn(FREE + 1), unclean=True)
    s = assign_block(s, MAPPER, FREE, 2)
    assert (False, False) == (s.frame[FREE].unclean, s.frame[Mfn(FREE + 1)].unclean)


def test_share_page__clears_the_frame_and_counts_it() -> None:
    s = put(machine(), "word", (FREE, Index(1)), raw=9)
    after = share_page(s, DomId(GRANTER), FREE)
    assert (Use.SHARED, 1, 0) == (after.frame[FREE].use, after.frame[FREE].references, after.word[FREE, Index(1)].raw)
    assert s.domain[GRANTER].xenheap_pages + 1 == after.domain[GRANTER].xenheap_pages


def test_unshare_page__gives_it_back_to_be_scrubbed() -> None:
    s = machine()
    after = unshare_page(share_page(s, GRANTER, FREE), FREE)
    assert (Use.FREE, NOBODY, True) == (after.frame[FREE].use, after.frame[FREE].owner, after.frame[FREE].dirty)
    assert (64, s.domain[GRANTER].xenheap_pages) == (after.heap[HEAP].free, after.domain[GRANTER].xenheap_pages)
