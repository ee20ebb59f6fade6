"""A domain's pool of pages for its stage-2 tables.

An insertion takes pages from the pool, a removal gives them back; how many depends on the shape of the tables,
which is abstracted here, so both are steps of their own.  The hardware domain takes its tables from the heap.

Source: xen/arch/arm/p2m.c (p2m_alloc_page, p2m_free_page, p2m_set_allocation, arch_set_paging_mempool_size), Xen 4.17.
"""

from __future__ import annotations

from spec.domain.privilege import exists, is_alive, is_control
from spec.errors import EINVAL, ENOMEM, EPERM, ESRCH
from spec.language import (
    U64,
    DomId,
    Index,
    Mfn,
    Outcome,
    accept,
    both,
    legal,
    neg,
    one_of,
    put,
    refuse,
    restart,
    transition,
)
from spec.memory import heap
from spec.state import State, Status, Use

PAGE = 4096


@transition(actor="")
def take_table(s: State, domain: DomId) -> Outcome[State]:
    """An insertion takes one page of the pool for a table.

    Source: xen/arch/arm/p2m.c (p2m_alloc_page), Xen 4.17.
    """
    row = s.domain[domain]
    legal(both(row.status == Status.ALIVE, neg(row.hardware)), "mappings are inserted for a running domain")
    legal(row.pool_free > 0, "a page is left in the pool")
    return accept(put(s, "domain", domain, pool_free=row.pool_free - 1))


@transition(actor="")
def give_table(s: State, domain: DomId) -> Outcome[State]:
    """A table that is not needed any more goes back to the pool.

    Source: xen/arch/arm/p2m.c (p2m_free_page, p2m_teardown), Xen 4.17.
    """
    row = s.domain[domain]
    legal(one_of(row.status, Status.ALIVE, Status.DYING), "mappings are replaced or removed")
    legal(row.pool_free < row.pool_pages, "a page of the pool is in use")
    return accept(put(s, "domain", domain, pool_free=row.pool_free + 1))


def grow_pool(s: State, domain: DomId, mfn: Mfn) -> State:
    """One page more in the pool; ask ``heap.unclaimed`` first."""
    row = s.domain[domain]
    s = heap.take_table_page(s, domain, mfn, False)
    return put(s, "domain", domain, pool_pages=row.pool_pages + 1, pool_free=row.pool_free + 1)


def shrink_pool(s: State, domain: DomId, mfn: Mfn) -> State:
    """One unused page of the pool goes back to the heap."""
    row, frame = s.domain[domain], s.frame[mfn]
    legal(both(frame.use == Use.TABLE, frame.pool == domain, neg(frame.root)), "the page is one of the pool")
    s = heap.free_table_page(s, mfn)
    return put(s, "domain", domain, pool_pages=row.pool_pages - 1, pool_free=row.pool_free - 1)


@transition(hypercall="XEN_DOMCTL_set_paging_mempool_size")
def set_paging_mempool_size(s: State, caller: DomId, domain: DomId, size: U64, mfn: Mfn, memory_left: bool
                            ) -> Outcome[State]:
    """Make a domain's pool so many bytes large: one page a step.

    size: a multiple of 4096.  memory_left: the heap has a page to give.  mfn: which page, of the heap or of the pool.
    Errors: ESRCH; EPERM; EINVAL for a size that is no number of pages; ENOMEM if the heap has none, or every page of
    the pool is in use.  What was done before stays.
    Source: xen/arch/arm/p2m.c (arch_set_paging_mempool_size, p2m_set_allocation), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    if not exists(s, domain):
        return refuse(s, -ESRCH)
    if not is_control(s, caller):
        return refuse(s, -EPERM)
    if size % PAGE != 0:
        return refuse(s, -EINVAL)
    pages = size // PAGE
    # more than arm32 can count
    if s.settings[Index(0)].arm32 and pages >= 1 << 32:
        return refuse(s, -EINVAL)
    row = s.domain[domain]
    if row.pool_pages < pages:
        if not memory_left or not heap.unclaimed(s, 1):
            return refuse(s, -ENOMEM)
        return restart(grow_pool(s, domain, mfn))
    if row.pool_pages > pages:
        if row.pool_free == 0:
            return refuse(s, -ENOMEM)
        return restart(shrink_pool(s, domain, mfn))
    return accept(s)


@transition(hypercall="XEN_DOMCTL_get_paging_mempool_size")
def get_paging_mempool_size(s: State, caller: DomId, domain: DomId) -> Outcome[State]:
    """Ask how many bytes a domain's pool has.

    Errors: ESRCH; EPERM.
    Source: xen/arch/arm/p2m.c (arch_get_paging_mempool_size), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    if not exists(s, domain):
        return refuse(s, -ESRCH)
    if not is_control(s, caller):
        return refuse(s, -EPERM)
    return accept(s, size=s.domain[domain].pool_pages * PAGE)
