"""Machine frames: who owns them, who holds references, how they are handed out and taken back.

A frame's reference count is the number of its holders: the allocation itself, foreign mappings,
grant mappings, and work that is still pending.  A RAM mapping of the owner holds none.

Source: xen/arch/arm/mm.c (get_page, put_page), xen/common/page_alloc.c (assign_pages,
alloc_domheap_pages, free_domheap_pages), xen/include/xen/mm.h (put_page_alloc_ref), Xen 4.17.
"""

from __future__ import annotations

from spec.language import (
    Boolean,
    DomId,
    Gfn,
    Handle,
    Index,
    Mfn,
    both,
    either,
    every,
    fill,
    ite,
    legal,
    merged,
    neg,
    one_of,
    put,
    span,
)
from spec.memory import heap
from spec.state import NOBODY, Frame, Mapping, Orphan, P2mEntry, P2mType, Release, State, Status, Use

WORDS = 512
"""64-bit words in a frame."""
LAST_FRAME = 1 << 52
"""No machine has a frame from here up."""


# ---- who holds a reference


def is_page_of(row: Frame, _mfn: Mfn, owner: DomId) -> Boolean:
    """A page that counts in the owner's tot_pages."""
    return both(row.use == Use.DOMAIN, row.owner == owner, neg(row.extra))


def is_foreign_of(row: P2mEntry, _domain: DomId, _gfn: Gfn, mfn: Mfn) -> Boolean:
    """A foreign mapping of the frame."""
    return both(one_of(row.type, P2mType.MAP_FOREIGN_RW, P2mType.MAP_FOREIGN_RO), row.mfn == mfn)


def is_grant_use_of(row: Mapping, _domain: DomId, _handle: Handle, mfn: Mfn) -> Boolean:
    """A grant mapping of the frame."""
    return both(either(row.host, row.device), row.mfn == mfn)


def is_release_of(row: Release, _domain: DomId, _slot: Handle, mfn: Mfn) -> Boolean:
    """A grant mapping of the frame that is about to be released."""
    return both(row.held, row.mfn == mfn)


def is_orphan_of(row: Orphan, _domain: DomId, _gfn: Gfn, mfn: Mfn) -> Boolean:
    """A replaced foreign mapping of the frame whose reference is still to be dropped."""
    return both(row.held, row.mfn == mfn)


# ---- references


def can_get_page(s: State, mfn: Mfn) -> Boolean:
    """A reference can be taken: there is one already, and the counter has room.

    Source: xen/arch/arm/mm.c (page_get_owner_and_reference), Xen 4.17.
    """
    references = s.frame[mfn].references
    return both(references > 0, references + 1 < s.settings[Index(0)].reference_limit)


def get_page(s: State, mfn: Mfn) -> State:
    """Take a reference; see ``can_get_page``."""
    return put(s, "frame", mfn, references=s.frame[mfn].references + 1)


@merged
def put_page(s: State, mfn: Mfn) -> State:
    """Drop a reference; the last one frees a page of a domain.

    A frame that Xen shares with a domain stays Xen's: it is freed with the domain itself.
    Source: xen/arch/arm/mm.c (put_page), Xen 4.17.
    """
    frame = s.frame[mfn]
    dropped = put(s, "frame", mfn, references=frame.references - 1)
    if frame.references == 1 and frame.use == Use.DOMAIN:
        return _free(dropped, mfn)
    if frame.references == 1 and frame.use == Use.SHARED:
        return put(dropped, "domain", frame.owner, xenheap_pages=s.domain[frame.owner].xenheap_pages - 1)
    return dropped


@merged
def drop_allocation(s: State, mfn: Mfn) -> State:
    """Give up the reference of the allocation, if it is still there.  The caller holds another one."""
    if not s.frame[mfn].allocated:
        return s
    return put_page(put(s, "frame", mfn, allocated=False), mfn)


def _free(s: State, mfn: Mfn) -> State:
    """A page of a domain goes back to the heap.

    What a running domain gives back is its own affair; what a dying one leaves behind is scrubbed
    before anybody else gets it.
    Source: xen/common/page_alloc.c (free_domheap_pages), Xen 4.17.
    """
    frame = s.frame[mfn]
    owner = s.domain[frame.owner]
    scrub = either(owner.status != Status.ALIVE, s.settings[Index(0)].scrub_domheap)
    s = put(
        s, "domain", frame.owner,
        tot_pages=owner.tot_pages - ite(frame.extra, 0, 1), extra_pages=owner.extra_pages - ite(frame.extra, 1, 0),
    )
    s = heap.give(heap.grow_claim(s, frame.owner, ite(frame.extra, 0, 1)), 1)
    s = fill(s, "word", (mfn, span(0, WORDS)), lambda word, _mfn, _i: {"secret": either(word.secret, scrub)})
    return put(
        s, "frame", mfn,
        use=Use.FREE, owner=NOBODY, allocated=False, references=0, extra=False, mapped=False, dirty=scrub,
    )


# ---- handing out


def may_have(s: State, domain: DomId, pages: int) -> Boolean:
    """The domain may get so many pages more: it is not being destroyed and stays within its limit.

    Source: xen/common/page_alloc.c (assign_pages), Xen 4.17.
    """
    row = s.domain[domain]
    return both(row.status == Status.ALIVE, row.tot_pages + pages <= row.max_pages)


def assign_block(s: State, domain: DomId, mfn: Mfn, pages: int) -> State:
    """Hand a free block to a domain: scrubbed where needed first, then cleaned to RAM.

    mfn: first frame of the block, chosen by Xen's heap.
    The order matters: a page cleaned before it is scrubbed shows its old contents to a reader with caches off.
    Source: xen/common/page_alloc.c (alloc_heap_pages, assign_pages), Xen 4.17.
    """
    legal(every(s.frame, span(mfn, pages), lambda row, _mfn: row.use == Use.FREE), "every frame of the block is free")
    legal(mfn + pages < LAST_FRAME, "the block is RAM")
    legal(heap.available(s, domain, pages), "what the heap has promised to others is left")
    s = heap.take(heap.shrink_claim(s, domain, pages), pages)
    s = _clean_to_ram(_scrub(s, mfn, pages), mfn, pages)
    s = fill(
        s, "frame", span(mfn, pages),
        lambda _row, _mfn: {"use": Use.DOMAIN, "owner": domain, "allocated": True, "references": 1},
    )
    return put(s, "domain", domain, tot_pages=s.domain[domain].tot_pages + pages)


def _scrub(s: State, mfn: Mfn, pages: int) -> State:
    """Overwrite the frames that are marked for it; the new contents are in the caches only."""
    old = s
    s = fill(
        s, "word", (span(mfn, pages), span(0, WORDS)),
        lambda word, frame, _i: {
            "raw": ite(old.frame[frame].dirty, 0, word.raw), "secret": both(word.secret, neg(old.frame[frame].dirty)),
        },
    )
    return fill(
        s, "frame", span(mfn, pages),
        lambda row, _mfn: {"dirty": False, "unclean": either(row.unclean, row.dirty)},
    )


def _clean_to_ram(s: State, mfn: Mfn, pages: int) -> State:
    """Write the caches back, so that a reader with caches off sees the same."""
    return fill(s, "frame", span(mfn, pages), lambda _row, _mfn: {"unclean": False})
