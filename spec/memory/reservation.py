"""Getting memory and giving it back, one extent or page at a time.

Source: xen/common/memory.c (populate_physmap, increase_reservation, decrease_reservation,
guest_remove_page), Xen 4.17.
"""

from __future__ import annotations

from spec.deviations import happens
from spec.domain.privilege import exists, is_alive, may_act_on
from spec.errors import E2BIG, EINVAL, ENOMEM, ENXIO, EPERM, ESRCH
from spec.language import (
    DEVIATIONS,
    Boolean,
    Deviation,
    DomId,
    Gfn,
    Index,
    Mfn,
    Outcome,
    accept,
    both,
    every,
    fill,
    ite,
    legal,
    one_of,
    partial,
    refuse,
    span,
    transition,
    two_to,
)
from spec.memory import frames, heap, p2m
from spec.state import P2mType, State, Status, Use

LARGEST_ORDER = 18
"""No caller may ask for more than 2**18 pages (1 GB) in one extent."""

DEVIATIONS["DEV-3"] = Deviation("DEV-3", "A page is freed although its owner still reaches it")


def largest_order(s: State, caller: DomId) -> int:
    """The largest extent that a caller may ask for, by its class.

    Source: xen/common/memory.c (max_order), xen/arch/arm/include/asm/config.h, Xen 4.17.
    """
    row = s.domain[caller]
    return ite(row.control, LARGEST_ORDER, ite(row.hardware, 10, ite(row.passthrough, 10, 9)))


@transition(hypercall="XENMEM_populate_physmap")
def populate_extent(
    s: State, caller: DomId, domain: DomId, gfn: Gfn, order: int, mfn: Mfn, done: int
) -> Outcome[State]:
    """Give a domain one block of memory at consecutive guest frames.

    order: the block has 2**order pages.  mfn: where, chosen by Xen's heap (a direct-mapped domain gets mfn = gfn).
    done: pages mapped before the pool of table pages ran dry, normally all.
    Errors: ESRCH; EPERM if the caller may not act on the domain; EINVAL if the order is above the caller's limit,
    a direct-mapped domain does not own every frame of the range, or a gfn lies beyond the root table; E2BIG over the
    domain's limit; ENOMEM while it is being destroyed or if what is free is promised to others; without table pages as
    ``p2m.lacking``.  The batch stops there and reports the extents done so far.  A block that could not be mapped stays
    with the domain, unmapped.
    Source: xen/common/memory.c (populate_physmap), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    if not exists(s, domain):
        return refuse(s, -ESRCH)
    if not may_act_on(s, caller, domain):
        return refuse(s, -EPERM)
    if order > largest_order(s, caller):
        return refuse(s, -EINVAL)
    pages = two_to(order, LARGEST_ORDER)
    if s.domain[domain].direct_mapped:
        return _populate_direct(s, domain, gfn, pages, done)
    if s.domain[domain].status != Status.ALIVE:
        return refuse(s, -ENOMEM)
    # the rest of the heap is promised to others
    if not heap.available(s, domain, pages):
        return refuse(s, -ENOMEM)
    if not frames.may_have(s, domain, pages):
        return refuse(s, -E2BIG)
    s = frames.assign_block(s, domain, mfn, pages)
    entered = p2m.insert_range(s, domain, gfn, mfn, pages, done, P2mType.RAM_RW)
    # the block stays with the domain whatever became of the mapping
    end = s.settings[Index(0)].root_pages
    after = fill(
        entered.state, "frame", span(mfn, pages),
        lambda _row, frame: {"gfn": ite(gfn + (frame - mfn) < end, gfn + (frame - mfn), 0)},
    )
    return accept(after) if entered.code == 0 else partial(after, entered.code)


def _populate_direct(s: State, domain: DomId, gfn: Gfn, pages: int, done: int) -> Outcome[State]:
    """A direct-mapped domain gets back frames that it owns already, each at its own number."""
    if gfn + pages > frames.LAST_FRAME:
        return refuse(s, -EINVAL)
    if not every(s.frame, span(gfn, pages), lambda row, _mfn: _can_be_taken_by(s, row, domain)):
        return refuse(s, -EINVAL)
    entered = p2m.insert_range(s, domain, gfn, Mfn(gfn), pages, done, P2mType.RAM_RW)
    return entered if entered.code != 0 else accept(entered.state)


def _can_be_taken_by(s: State, row: object, domain: DomId) -> Boolean:
    """A reference on the frame can be taken in the name of the domain."""
    limit = s.settings[Index(0)].reference_limit
    return both(
        one_of(row.use, Use.DOMAIN, Use.SHARED), row.owner == domain,  # type: ignore[attr-defined]
        row.references > 0, row.references + 1 < limit,  # type: ignore[attr-defined]
    )


@transition(hypercall="XENMEM_increase_reservation")
def increase_extent(s: State, caller: DomId, domain: DomId, order: int, mfn: Mfn) -> Outcome[State]:
    """Give a domain one block of memory that is mapped nowhere.

    order, mfn: as for ``populate_extent``.
    Errors: ESRCH; EPERM; EINVAL for the order; ENOMEM while it is being destroyed or if what is free is promised to
    others; E2BIG.
    Source: xen/common/memory.c (increase_reservation), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    if not exists(s, domain):
        return refuse(s, -ESRCH)
    if not may_act_on(s, caller, domain):
        return refuse(s, -EPERM)
    if order > largest_order(s, caller):
        return refuse(s, -EINVAL)
    pages = two_to(order, LARGEST_ORDER)
    if s.domain[domain].status != Status.ALIVE:
        return refuse(s, -ENOMEM)
    # the rest of the heap is promised to others
    if not heap.available(s, domain, pages):
        return refuse(s, -ENOMEM)
    if not frames.may_have(s, domain, pages):
        return refuse(s, -E2BIG)
    return accept(frames.assign_block(s, domain, mfn, pages))


def _decrease(s: State, caller: DomId, domain: DomId, gfn: Gfn, tables_left: bool, repaired: bool) -> Outcome[State]:
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    if not exists(s, domain):
        return refuse(s, -ESRCH)
    if not may_act_on(s, caller, domain):
        return refuse(s, -EPERM)
    row = s.p2m[domain, gfn]
    # a hole, or a device
    if not p2m.is_any_ram(row):
        return refuse(s, -EINVAL)
    # (repaired) DEV-3
    if repaired and not one_of(row.type, *p2m.RAM):
        return refuse(s, -EINVAL)
    mfn = row.mfn
    # another domain's page
    if s.frame[mfn].owner != domain or not frames.can_get_page(s, mfn):
        return refuse(s, -ENXIO)
    removed = p2m.remove_page(frames.get_page(s, mfn), domain, gfn, mfn, tables_left)
    if removed.code != 0:
        return refuse(s, removed.code)
    after = removed.state
    # a direct-mapped domain must get the same frame again, so it keeps it
    if s.domain[domain].direct_mapped:
        return accept(frames.put_page(after, mfn))
    # DEV-3
    after = happens(after, "dev3", is_still_mapped(after, domain, mfn))
    return accept(frames.put_page(frames.drop_allocation(after, mfn), mfn))


def is_still_mapped(s: State, domain: DomId, mfn: Mfn) -> Boolean:
    """The page of a domain is mapped as its RAM, at the place on record."""
    frame = s.frame[mfn]
    row = s.p2m[domain, frame.gfn]
    return both(frame.use == Use.DOMAIN, one_of(row.type, *p2m.RAM), row.mfn == mfn)


@transition(hypercall="XENMEM_decrease_reservation")
def decrease_page(s: State, caller: DomId, domain: DomId, gfn: Gfn, tables_left: bool) -> Outcome[State]:
    """Take one page of an extent back from a domain.

    A page that others still use leaves the mapping at once and the domain's account with its last reference.
    tables_left: the domain's pool has the table pages that it takes to split a larger block.
    Errors: ESRCH; EPERM; EINVAL if no memory is mapped there; ENXIO for another domain's page, or one of Xen's whose
    references are gone; ENOMEM while the domain is being destroyed, or without table pages.  The batch stops there.
    Source: xen/common/memory.c (guest_remove_page), Xen 4.17.
    """
    return _decrease(s, caller, domain, gfn, tables_left, repaired=False)


@transition(hypercall="XENMEM_decrease_reservation", repairs="decrease_page")
def decrease_page_repaired(s: State, caller: DomId, domain: DomId, gfn: Gfn, tables_left: bool) -> Outcome[State]:
    """``decrease_page`` without DEV-3."""
    return _decrease(s, caller, domain, gfn, tables_left, repaired=True)
