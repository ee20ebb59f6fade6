"""Claims: frames promised to a domain that is being built, before it gets them.

Source: xen/common/memory.c (do_memory_op), xen/common/page_alloc.c (domain_set_outstanding_pages), Xen 4.17.
"""

from __future__ import annotations

from spec.deviations import happens
from spec.domain.privilege import exists, is_alive, is_control
from spec.errors import EINVAL, ENOMEM, EPERM
from spec.language import (
    DEVIATIONS,
    U32,
    U64,
    Deviation,
    DomId,
    Outcome,
    accept,
    legal,
    one_of,
    refuse,
    transition,
)
from spec.memory import heap
from spec.state import State, Status

DEVIATIONS["DEV-21"] = Deviation(
    "DEV-21",
    "A claim outlives its domain",
    condition="claim_pages is called for a domain whose destruction has begun",
    source="xen/common/page_alloc.c (domain_set_outstanding_pages), Xen 4.17",
    consequence=(
        "nothing gives the claim up when the domain is gone: the frames promised to it cannot be had by anybody until "
        "the machine restarts; only a control domain can do it"
    ),
    trace="destroydomain(d) is under way; claim_pages(d, n) -> 0; d is gone; n frames stay promised",
    public="only a control domain can bring it about",
)


def _claim(s: State, caller: DomId, domain: DomId, pages: U64, list_given: bool, order: U32, flags: U32, cursor: U64,
           *, repaired: bool) -> Outcome[State]:
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    if cursor != 0:
        return refuse(s, -EINVAL)
    if list_given:
        return refuse(s, -EINVAL)
    if order != 0:
        return refuse(s, -EINVAL)
    if flags != 0:
        return refuse(s, -EINVAL)
    # DOMID_SELF is not accepted
    if not exists(s, domain):
        return refuse(s, -EINVAL)
    if not is_control(s, caller):
        return refuse(s, -EPERM)
    row = s.domain[domain]
    if pages == 0:
        return accept(heap.set_claim(s, domain, 0))
    if row.claimed != 0:
        return refuse(s, -EINVAL)
    # pages that the domain has already count
    if pages <= row.tot_pages:
        return refuse(s, -EINVAL)
    if pages > row.max_pages:
        return refuse(s, -EINVAL)
    # (repaired) a domain that is being destroyed needs no memory
    if repaired and row.status != Status.ALIVE:
        return refuse(s, -EINVAL)
    if not heap.unclaimed(s, pages - row.tot_pages):
        return refuse(s, -ENOMEM)
    after = heap.stake_claim(s, domain, pages - row.tot_pages)
    return accept(happens(after, "dev21", one_of(row.status, Status.DYING, Status.DEAD)))


@transition(hypercall="XENMEM_claim_pages")
def claim_pages(s: State, caller: DomId, domain: DomId, pages: U64, list_given: bool, order: U32, flags: U32,
                cursor: U64) -> Outcome[State]:
    """Promise a domain that it can have so many pages in all, or give its claim up.

    pages: those that it has already included; 0 gives the claim up.
    list_given, order, flags, cursor: must be no list and 0.
    Errors: EINVAL for one of those; EINVAL if there is no such domain; EPERM unless the caller is a control domain;
    EINVAL if it has a claim already, has so many pages, or may not have so many; ENOMEM if too few are free and
    unclaimed.
    Source: xen/common/page_alloc.c (domain_set_outstanding_pages), Xen 4.17.
    """
    return _claim(s, caller, domain, pages, list_given, order, flags, cursor, repaired=False)


@transition(hypercall="XENMEM_claim_pages", repairs="claim_pages")
def claim_pages_repaired(s: State, caller: DomId, domain: DomId, pages: U64, list_given: bool, order: U32, flags: U32,
                         cursor: U64) -> Outcome[State]:
    """``claim_pages`` without DEV-21: a domain that is being destroyed gets no claim."""
    return _claim(s, caller, domain, pages, list_given, order, flags, cursor, repaired=True)
