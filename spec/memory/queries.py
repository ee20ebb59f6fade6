"""What a domain may ask about memory, and what Arm does not have.

Source: xen/common/memory.c (do_memory_op, memory_exchange), xen/arch/arm/mm.c (arch_memory_op), Xen 4.17.
"""

from __future__ import annotations

from spec.domain.privilege import exists, is_alive, may_act_on
from spec.errors import EINVAL, ENOSYS, EOPNOTSUPP, EPERM, ESRCH
from spec.language import (
    U16,
    U32,
    U64,
    Boolean,
    DomId,
    Gfn,
    Index,
    Outcome,
    accept,
    both,
    either,
    ite,
    legal,
    neg,
    refuse,
    transition,
)
from spec.memory import p2m
from spec.memory.reservation import LARGEST_ORDER, largest_order
from spec.memory.width import own_width
from spec.state import State, Use

NODE_EXACT = 1 << 17
"""Flag of a reservation: the node that is named, or none."""


def _may_ask(s: State, caller: DomId, domain: DomId, cursor: U64) -> int:
    """0, or the error with which a question about a domain's memory is refused."""
    return ite(
        cursor != 0, -EINVAL, ite(neg(exists(s, domain)), -ESRCH, ite(neg(may_act_on(s, caller, domain)), -EPERM, 0))
    )


@transition(hypercall="XENMEM_current_reservation")
def current_reservation(s: State, caller: DomId, domain: DomId, cursor: U64) -> Outcome[State]:
    """Ask how many pages a domain has.

    cursor: must be 0.
    Errors: EINVAL for a cursor; ESRCH; EPERM.
    Source: xen/common/memory.c (do_memory_op), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    error = _may_ask(s, caller, domain, cursor)
    if error != 0:
        return refuse(s, error)
    return accept(s, value=s.domain[domain].tot_pages)


@transition(hypercall="XENMEM_maximum_reservation")
def maximum_reservation(s: State, caller: DomId, domain: DomId, cursor: U64) -> Outcome[State]:
    """Ask how many pages a domain may have.  On arm32 a limit of all ones reads as -1.

    cursor: must be 0.
    Errors: EINVAL for a cursor; ESRCH; EPERM.
    Source: xen/common/memory.c (do_memory_op), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    error = _may_ask(s, caller, domain, cursor)
    if error != 0:
        return refuse(s, error)
    return accept(s, value=s.domain[domain].max_pages)


@transition(hypercall="XENMEM_maximum_gpfn")
def maximum_gpfn(s: State, caller: DomId, domain: DomId, cursor: U64) -> Outcome[State]:
    """Ask for the highest guest frame that was ever mapped for a domain.

    cursor: must be 0.
    Errors: EINVAL for a cursor; ESRCH; EPERM.
    Source: xen/common/memory.c (do_memory_op), xen/arch/arm/mm.c (domain_get_maximum_gpfn), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    error = _may_ask(s, caller, domain, cursor)
    if error != 0:
        return refuse(s, error)
    return accept(s, value=s.domain[domain].highest_gfn)


@transition(hypercall="XENMEM_maximum_ram_page")
def maximum_ram_page(s: State, caller: DomId, cursor: U64) -> Outcome[State]:
    """Ask for the number of frames below the end of the machine's RAM; every domain may.

    cursor: must be 0.
    Errors: EINVAL for a cursor.
    Source: xen/common/memory.c (do_memory_op), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    if cursor != 0:
        return refuse(s, -EINVAL)
    return accept(s, value=s.settings[Index(0)].max_page)


@transition(hypercall="XENMEM_get_sharing_freed_pages")
def sharing_counters(s: State, caller: DomId) -> Outcome[State]:
    """Ask how many pages are shared, or were saved by sharing: on Arm none.

    Source: xen/arch/arm/mm.c (arch_memory_op), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    return accept(s, value=0)


@transition(hypercall="XENMEM_machphys_mapping")
def absent_memory_operation(s: State, caller: DomId) -> Outcome[State]:
    """A memory operation that Arm does not have.

    The lists and the place of the machine-to-physical table (5, 12, 25), number 8, the memory maps (9, 10, 13),
    populate-on-demand targets (16, 17), paging and sharing (20, 22), ``access_op`` (21) in a Xen built without it, and
    every number above 28.
    Errors: ENOSYS.
    Source: xen/arch/arm/mm.c (arch_memory_op), xen/include/xen/mem_access.h (mem_access_memop), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    return refuse(s, -ENOSYS)


@transition(hypercall="XENMEM_get_vnumainfo")
def get_vnumainfo(s: State, caller: DomId, domain: DomId, padding: U16, cursor: U64) -> Outcome[State]:
    """Ask for a domain's virtual nodes, of which none has any on Arm.

    padding, cursor: must be 0.
    Errors: EINVAL for a cursor or padding; ESRCH; EPERM; EOPNOTSUPP.
    Source: xen/common/memory.c (do_memory_op), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    if cursor != 0:
        return refuse(s, -EINVAL)
    if padding != 0:
        return refuse(s, -EINVAL)
    if not exists(s, domain):
        return refuse(s, -ESRCH)
    if not may_act_on(s, caller, domain):
        return refuse(s, -EPERM)
    return refuse(s, -EOPNOTSUPP)


@transition(hypercall="XENMEM_reserved_device_memory_map")
def reserved_device_memory_map(s: State, caller: DomId, flags: U32, cursor: U64) -> Outcome[State]:
    """Ask for the memory that devices need for themselves: on Arm an empty list.

    flags: bit 0 alone is known.  cursor: must be 0.
    Errors: EINVAL for a cursor or another flag.
    Source: xen/common/memory.c (do_memory_op), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    if cursor != 0:
        return refuse(s, -EINVAL)
    if flags > 1:
        return refuse(s, -EINVAL)
    return accept(s, entries=0)


# ---- exchange


def _node_is_refused(s: State, caller: DomId, flags: U32) -> Boolean:
    """A reservation names a node that there is not: the machine has node 0 only.

    flags: bits 15:8 are the node and one more, 0 for none.
    Source: xen/common/memory.c (propagate_node), Xen 4.17.
    """
    row = s.domain[caller]
    node = (flags // 256) % 256
    exact = (flags // NODE_EXACT) % 2 == 1
    return ite(either(row.control, row.hardware), node > 1, both(node > 0, exact))


def _shifted(extents: U64, order: int) -> int:
    """Pages in so many extents of an order that the caller may use."""
    pages = extents * (1 << LARGEST_ORDER)
    for each in range(LARGEST_ORDER):
        pages = ite(order == each, extents * (1 << each), pages)
    return pages


def _sizes_agree(s: State, in_extents: U64, in_order: int, out_extents: U64, out_order: int) -> Boolean:
    """Both lists name as many pages, and fewer than a machine word can count."""
    word = ite(s.settings[Index(0)].arm32, 1 << 32, 1 << 64)
    pages = _shifted(in_extents, in_order)
    return both(pages < word, pages == _shifted(out_extents, out_order))


@transition(hypercall="XENMEM_exchange")
def exchange(s: State, caller: DomId, domain: DomId, out_domain: DomId, in_extents: U64, in_order: int,
             out_extents: U64, out_order: int, exchanged: U64, flags: U32, gfn: Gfn, cursor: U64) -> Outcome[State]:
    """Exchange blocks of a domain's memory for others: never done on Arm, where no page can be taken from a domain.

    Only a call that has nothing left to do succeeds.
    in_extents, out_extents: lengths of the two lists; in_order, out_order: of the blocks in them.
    exchanged: extents that an earlier call has done, which a guest may forge.  gfn: the next page to be given.
    Errors: EINVAL for a cursor; EPERM for an order above the caller's limit; EINVAL if more is done than there is, the
    two domains differ, or the sizes of the lists overflow or differ; EINVAL for a node; ESRCH; EPERM; EINVAL if no RAM
    is mapped at ``gfn``; EOPNOTSUPP.
    Source: xen/common/memory.c (memory_exchange), xen/arch/arm/mm.c (steal_page), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    if cursor != 0:
        return refuse(s, -EINVAL)
    if ite(in_order > out_order, in_order, out_order) > largest_order(s, caller):
        return refuse(s, -EPERM)
    if exchanged > in_extents:
        return refuse(s, -EINVAL)
    if domain != out_domain:
        return refuse(s, -EINVAL)
    if not _sizes_agree(s, in_extents, in_order, out_extents, out_order):
        return refuse(s, -EINVAL)
    if exchanged == in_extents:
        return accept(s)
    if _node_is_refused(s, caller, flags):
        return refuse(s, -EINVAL)
    if not exists(s, domain):
        return refuse(s, -ESRCH)
    if not may_act_on(s, caller, domain):
        return refuse(s, -EPERM)
    row = s.p2m[domain, own_width(s, gfn)]
    if not p2m.is_live(row) or s.frame[row.mfn].use == Use.NO_RAM:
        return refuse(s, -EINVAL)
    return refuse(s, -EOPNOTSUPP)
