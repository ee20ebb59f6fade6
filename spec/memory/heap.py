"""Xen's heap: how many frames are free, how many of them are promised, and how frames leave it and come back.

The claims of all domains together never exceed the free frames, so a claim can always be honoured.

Source: xen/common/page_alloc.c (alloc_heap_pages, domain_adjust_tot_pages, alloc_xenheap_pages,
free_xenheap_pages), xen/arch/arm/mm.c (share_xen_page_with_guest), Xen 4.17.
"""

from __future__ import annotations

from spec.language import (
    Boolean,
    DomId,
    Gfn,
    Index,
    Mfn,
    both,
    either,
    fill,
    ite,
    legal,
    neg,
    put,
    span,
)
from spec.state import NOBODY, Claim, Frame, State, Use

HEAP = Index(0)
WORDS = 512
"""64-bit words in a frame."""


def is_free(row: Frame, _mfn: Mfn) -> Boolean:
    """A frame that can be handed out."""
    return row.use == Use.FREE


def is_claimed(row: Claim, _domain: DomId, _i: int) -> Boolean:
    """A page of a claim."""
    return row.held


def available(s: State, domain: DomId, pages: int) -> Boolean:
    """So many pages can be had for a domain without touching what is promised to others.

    Source: xen/common/page_alloc.c (alloc_heap_pages), Xen 4.17.
    """
    return both(pages <= s.heap[HEAP].free, either(unclaimed(s, pages), s.domain[domain].claimed >= pages))


def unclaimed(s: State, pages: int) -> Boolean:
    """So many pages can be had without touching what is promised to a domain."""
    heap = s.heap[HEAP]
    return heap.claimed + pages <= heap.free


def take(s: State, pages: int) -> State:
    """So many frames leave the heap."""
    return put(s, "heap", HEAP, free=s.heap[HEAP].free - pages)


def give(s: State, pages: int) -> State:
    """So many frames come back to the heap."""
    return put(s, "heap", HEAP, free=s.heap[HEAP].free + pages)


def shrink_claim(s: State, domain: DomId, pages: int) -> State:
    """A domain got pages: its claim is reduced by as many, and ends at none.

    Source: xen/common/page_alloc.c (domain_adjust_tot_pages), Xen 4.17.
    """
    old = s.domain[domain].claimed
    return set_claim(s, domain, ite(old > pages, old - pages, 0))


def grow_claim(s: State, domain: DomId, pages: int) -> State:
    """A domain gave pages back, at most one at a time: a claim that it still has grows by as many.

    Source: xen/common/page_alloc.c (domain_adjust_tot_pages), Xen 4.17.
    """
    old = s.domain[domain].claimed
    grown = ite(old > 0, old + pages, 0)
    s = put(s, "claim", (domain, old), held=either(s.claim[domain, old].held, grown > old))
    return _counted(s, domain, grown)


def set_claim(s: State, domain: DomId, claimed: int) -> State:
    """The domain's claim is reduced to so many pages."""
    old = s.domain[domain].claimed
    s = fill(s, "claim", (domain, span(claimed, old - claimed)), lambda _row, _domain, _i: {"held": False})
    return _counted(s, domain, claimed)


def stake_claim(s: State, domain: DomId, claimed: int) -> State:
    """The domain, which has no claim, gets one."""
    s = fill(s, "claim", (domain, span(0, claimed)), lambda _row, _domain, _i: {"held": True})
    return _counted(s, domain, claimed)


def _counted(s: State, domain: DomId, claimed: int) -> State:
    old, together = s.domain[domain].claimed, s.heap[HEAP].claimed + claimed
    # less than nothing would be a bug of Xen's, at which it stops: excluded by INV-CLAIM-SUM
    s = put(s, "heap", HEAP, claimed=ite(together > old, together - old, 0))
    return put(s, "domain", domain, claimed=claimed)


# ---- frames that Xen shares with a domain


def share_page(s: State, domain: DomId, mfn: Mfn) -> State:
    """A frame of Xen's heap, cleared, becomes one that Xen shares with the domain.

    mfn: which one, chosen by the heap; ask ``unclaimed`` first.
    It is cleared in the caches only: a guest that reads it with its caches off may see what was there before.
    Source: xen/arch/arm/domain.c (arch_domain_create), xen/common/grant_table.c (gnttab_grow_table),
    xen/arch/arm/mm.c (share_xen_page_with_guest), Xen 4.17.
    """
    legal(s.frame[mfn].use == Use.FREE, "the frame is free")
    s = take(s, 1)
    s = fill(s, "word", (mfn, span(0, WORDS)), lambda _word, _mfn, _i: {"raw": 0, "secret": False})
    s = put(
        s, "frame", mfn,
        use=Use.SHARED, owner=domain, allocated=True, references=1, extra=False, mapped=False, gfn=Gfn(0), dirty=False,
        unclean=True,
    )
    return put(s, "domain", domain, xenheap_pages=s.domain[domain].xenheap_pages + 1)


def unshare_page(s: State, mfn: Mfn) -> State:
    """A frame that Xen shared with a domain goes back to the heap, to be scrubbed before its next use.

    Nobody else holds a reference.
    Source: xen/common/page_alloc.c (free_xenheap_pages), Xen 4.17.
    """
    frame = s.frame[mfn]
    s = put(
        s, "domain", frame.owner,
        xenheap_pages=s.domain[frame.owner].xenheap_pages - ite(frame.references > 0, 1, 0),
    )
    s = give(s, 1)
    s = fill(s, "word", (mfn, span(0, WORDS)), lambda _word, _mfn, _i: {"secret": True})
    return put(
        s, "frame", mfn,
        use=Use.FREE, owner=NOBODY, allocated=False, references=0, extra=False, mapped=False, dirty=True,
    )


# ---- pages of stage-2 tables


def take_table_page(s: State, domain: DomId, mfn: Mfn, root: Boolean) -> State:
    """A free frame becomes a page of stage-2 tables: of the domain's pool, or of its root.

    Source: xen/arch/arm/p2m.c (p2m_set_allocation, p2m_allocate_root), Xen 4.17.
    """
    legal(s.frame[mfn].use == Use.FREE, "the frame is free")
    s = take(s, 1)
    s = fill(s, "word", (mfn, span(0, WORDS)), lambda _word, _mfn, _i: {"raw": 0, "secret": True})
    return put(s, "frame", mfn, use=Use.TABLE, pool=domain, root=root, dirty=False, unclean=False)


def free_table_page(s: State, mfn: Mfn) -> State:
    """A page of stage-2 tables goes back to the heap, to be scrubbed before its next use.

    Source: xen/common/page_alloc.c (free_domheap_pages), Xen 4.17.
    """
    s = give(s, 1)
    s = fill(s, "word", (mfn, span(0, WORDS)), lambda _word, _mfn, _i: {"secret": True})
    return put(s, "frame", mfn, use=Use.FREE, pool=NOBODY, root=False, dirty=True)


def is_pool_page_of(row: Frame, _mfn: Mfn, domain: DomId) -> Boolean:
    """A page in a domain's p2m pool, used or not."""
    return both(row.use == Use.TABLE, row.pool == domain, neg(row.root))
