"""What a control domain decides about another domain: how much memory it may have, and which devices.

Source: xen/common/domctl.c (do_domctl), Xen 4.17.
"""

from __future__ import annotations

from spec.deviations import happens
from spec.domain.privilege import exists, is_alive, is_control, may_serve
from spec.errors import E2BIG, EILSEQ, EINVAL, ENOMEM, EPERM, ESRCH
from spec.language import (
    DEVIATIONS,
    U64,
    Boolean,
    Deviation,
    DomId,
    Gfn,
    Index,
    Mfn,
    Outcome,
    accept,
    both,
    count,
    either,
    every,
    fill,
    ite,
    legal,
    neg,
    partial,
    put,
    refuse,
    span,
    transition,
)
from spec.memory import p2m
from spec.memory.frames import LAST_FRAME
from spec.memory.width import machine_word
from spec.state import P2mType, Permission, State, Status

MOST_PAGES = (1 << 32) - 1
MOST_MAPPED_AT_ONCE = 64

DEVIATIONS["DEV-23"] = Deviation(
    "DEV-23",
    "A device stays mapped when the permission for it is taken back",
    condition="iomem_permission takes back a range of which the domain has a page mapped",
    source="xen/common/domctl.c (XEN_DOMCTL_iomem_permission), xen/include/xen/iocap.h (iomem_deny_access), Xen 4.17",
    consequence=(
        "the domain goes on reaching the device; the control domain has to unmap it as well (memory_mapping), before "
        "it takes the permission back, because it may not unmap it afterwards"
    ),
    trace="iomem_permission(d, m, allow); memory_mapping(d, g, m, add); iomem_permission(d, m, deny)",
    public="only a control domain can bring it about, and it can undo it",
)
DEVIATIONS["DEV-37"] = Deviation(
    "DEV-37",
    "To take back the permission for some devices permits others",
    condition=(
        "iomem_permission takes back a range whose first frame the domain may not have, but some of the others, and "
        "some below"
    ),
    source="xen/common/rangeset.c (rangeset_remove_range), Xen 4.17",
    consequence=(
        "the domain is permitted to have every frame between the last one below and the range, RAM and Xen's own among "
        "them, though nobody gave them to it; to map one, it still takes a control domain that may have it too"
    ),
    trace=(
        "iomem_permission(d, 0, 2, allow); iomem_permission(d, 4, 2, allow); iomem_permission(d, 3, 2, deny): d may "
        "have frame 2"
    ),
    public=(
        "only a control domain can bring it about; it is known: Xen's commit e118fc98e7 (April 2025) mends it, and "
        "4.17.5 is older"
    ),
)


@transition(hypercall="XEN_DOMCTL_max_mem")
def max_mem(s: State, caller: DomId, domain: DomId, kilobytes: U64) -> Outcome[State]:
    """Set how much memory a domain may have; what it has already stays its own.

    kilobytes: rounded down to pages, and to what 32 bits can count.
    Errors: ESRCH; EPERM.
    Source: xen/common/domctl.c (XEN_DOMCTL_max_mem), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    if not exists(s, domain):
        return refuse(s, -ESRCH)
    if not is_control(s, caller):
        return refuse(s, -EPERM)
    pages = kilobytes // 4
    return accept(put(s, "domain", domain, max_pages=ite(pages > MOST_PAGES, MOST_PAGES, pages)))


@transition(hypercall="XEN_DOMCTL_set_target")
def set_target(s: State, caller: DomId, domain: DomId, target: DomId) -> Outcome[State]:
    """Make a domain the device model of another one, for as long as it lives.

    Errors: ESRCH for the domain; EPERM; ESRCH for the target; EINVAL if they are the same or the domain has a target.
    Source: xen/common/domctl.c (XEN_DOMCTL_set_target), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    if not exists(s, domain):
        return refuse(s, -ESRCH)
    if not is_control(s, caller):
        return refuse(s, -EPERM)
    if not exists(s, target):
        return refuse(s, -ESRCH)
    if domain == target:
        return refuse(s, -EINVAL)
    if s.domain[domain].device_model:
        return refuse(s, -EINVAL)
    return accept(put(s, "domain", domain, device_model=True, target=target))


# ---- devices


def is_permitted_to(row: Permission, domain: DomId, _mfn: Mfn, owner: DomId) -> Boolean:
    """A frame that the domain may map as a device."""
    return both(row.allowed, domain == owner)


def may_reach_devices(s: State, domain: DomId, mfn: Mfn, pages: int) -> Boolean:
    """The domain is permitted to have every frame of the range."""
    return every(s.iomem, (domain, span(mfn, pages)), lambda row, _domain, _mfn: row.allowed)


def _may_not_have(row: Permission, _domain: DomId, _mfn: Mfn) -> Boolean:
    return neg(row.allowed)


def _is_widened(s: State, domain: DomId, first: Mfn, pages: U64, below: Mfn) -> Boolean:
    """What is taken back begins between two ranges that the domain may have, and reaches into the second (DEV-37)."""
    if either(s.iomem[domain, first].allowed, every(s.iomem, (domain, span(first, pages)), _may_not_have)):
        return False
    if every(s.iomem, (domain, span(Mfn(0), first)), _may_not_have):
        return False
    between = span(below + 1, first - below - 1)
    legal(
        both(below < first, s.iomem[domain, below].allowed, every(s.iomem, (domain, between), _may_not_have)),
        "it is the last frame under the range that the domain may have",
    )
    return True


def _permission(s: State, caller: DomId, domain: DomId, mfn: U64, pages: U64, allow: bool, below: Mfn, *,
                repaired: bool) -> Outcome[State]:
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    if not exists(s, domain):
        return refuse(s, -ESRCH)
    if not is_control(s, caller):
        return refuse(s, -EPERM)
    mfn, pages = machine_word(s, mfn), machine_word(s, pages)
    # no pages from frame 0 on are all that there are
    if pages == 0:
        return refuse(s, ite(mfn == 0, -EPERM, -EINVAL))
    if mfn + pages > ite(s.settings[Index(0)].arm32, 1 << 32, 1 << 64):
        return refuse(s, -EINVAL)
    # nobody may have what no machine has
    if mfn + pages > LAST_FRAME:
        return refuse(s, -EPERM)
    first = Mfn(mfn)
    if not may_reach_devices(s, caller, first, pages):
        return refuse(s, -EPERM)
    # DEV-37
    if not repaired and not allow and _is_widened(s, domain, first, pages, below):
        s = fill(
            happens(s, "dev37"), "iomem", (domain, span(below + 1, first - below - 1)),
            lambda _row, _domain, _mfn: {"allowed": True},
        )
    old = s
    s = fill(
        s, "iomem", (domain, span(first, pages)),
        lambda row, _d, m: {
            # nobody passes on what it has not itself
            "allowed": both(allow, old.iomem[caller, m].allowed),
            "left": either(row.left, both(neg(allow), row.allowed)),
        },
    )
    left = count(s.iomem, is_permitted_to, domain) > 0
    return accept(put(s, "domain", domain, passthrough=either(allow, both(old.domain[domain].passthrough, left))))


@transition(hypercall="XEN_DOMCTL_iomem_permission")
def iomem_permission(s: State, caller: DomId, domain: DomId, mfn: U64, pages: U64, allow: bool, below: Mfn
                     ) -> Outcome[State]:
    """Permit a domain to map a range of device memory, or take that back; what it has mapped stays mapped.

    mfn, pages: the range.  below: the last frame under it that the domain may have, if there is any (for DEV-37).
    Errors: ESRCH; EPERM unless the caller is a control domain; EINVAL if the range is empty or wraps; EPERM if the
    caller itself may not have all of it.
    Source: xen/common/domctl.c (XEN_DOMCTL_iomem_permission), xen/common/rangeset.c, Xen 4.17.
    """
    return _permission(s, caller, domain, mfn, pages, allow, below, repaired=False)


@transition(hypercall="XEN_DOMCTL_iomem_permission", repairs="iomem_permission", keeps=("REPAIRED-PERMISSION",))
def iomem_permission_repaired(s: State, caller: DomId, domain: DomId, mfn: U64, pages: U64, allow: bool, below: Mfn
                              ) -> Outcome[State]:
    """``iomem_permission`` without DEV-37; it still has DEV-23."""
    return _permission(s, caller, domain, mfn, pages, allow, below, repaired=True)


@transition(hypercall="XEN_DOMCTL_memory_mapping")
def memory_mapping(s: State, caller: DomId, domain: DomId, gfn: U64, mfn: U64, pages: U64, add: bool, done: int
                   ) -> Outcome[State]:
    """Map a range of device memory into a domain, or unmap it.

    gfn, mfn, pages: the range, at most 64 pages.  done: pages that were mapped or unmapped, all of them unless the pool
    of tables ran dry.
    Errors: ESRCH; EPERM unless the caller is a control domain or the device model; EINVAL if a range is empty or wraps,
    or no address reaches its end; E2BIG; EPERM unless caller and domain may both have all of it; to map: as
    ``p2m.insert_range``, and what was mapped before the error stays; to unmap: EILSEQ if memory is mapped there, ENOMEM
    while the domain is being destroyed, or if there is no table page to split a larger block.
    Source: xen/common/domctl.c (XEN_DOMCTL_memory_mapping), xen/arch/arm/p2m.c (map_mmio_regions), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    if not exists(s, domain):
        return refuse(s, -ESRCH)
    if not may_serve(s, caller, domain):
        return refuse(s, -EPERM)
    gfn, mfn, pages = machine_word(s, gfn), machine_word(s, mfn), machine_word(s, pages)
    if pages == 0 or mfn + pages > s.settings[Index(0)].physical_pages:
        return refuse(s, -EINVAL)
    if gfn + pages > ite(s.settings[Index(0)].arm32, 1 << 32, 1 << 64):
        return refuse(s, -EINVAL)
    if pages > MOST_MAPPED_AT_ONCE:
        return refuse(s, -E2BIG)
    if not may_reach_devices(s, caller, Mfn(mfn), pages):
        return refuse(s, -EPERM)
    if not may_reach_devices(s, domain, Mfn(mfn), pages):
        return refuse(s, -EPERM)
    if add:
        return p2m.insert_range(s, domain, Gfn(gfn), Mfn(mfn), pages, done, P2mType.MMIO_DIRECT_DEV)
    return _unmap_devices(s, domain, Gfn(gfn), pages, done)


def _unmap_devices(s: State, domain: DomId, gfn: Gfn, pages: U64, done: int) -> Outcome[State]:
    """Clear a range in which no memory is mapped: what is permitted as a device is none (INV-IOMEM-DEVICE).

    Source: xen/arch/arm/p2m.c (p2m_remove_mapping), Xen 4.17.
    """
    if not every(s.p2m, (domain, span(gfn, pages)), lambda row, _domain, _gfn: neg(p2m.is_any_ram(row))):
        return refuse(s, -EILSEQ)
    if s.domain[domain].status != Status.ALIVE:
        return refuse(s, -ENOMEM)
    root = s.settings[Index(0)].root_pages
    if gfn >= root:
        return refuse(s, -EINVAL)
    fitting = ite(gfn + pages > root, root - gfn, pages)
    legal(both(0 <= done, done <= fitting), "no more is unmapped than was asked for")
    stops = both(p2m.tables_may_lack(s, domain, 1), p2m.is_live(s.p2m[domain, Gfn(gfn + done)]))
    legal(either(done == fitting, stops), "tables are missing only if the pool is nearly empty, for a larger block")
    cleared = fill(
        p2m.flush_tlb(s, domain), "p2m", (domain, span(gfn, done)),
        lambda _row, _domain, _gfn: {"type": P2mType.INVALID, "hardware": False, "handle": 0, "stale": False},
    )
    # what lies before is cleared all the same
    if done < fitting:
        return partial(cleared, -ENOMEM)
    return partial(cleared, -EINVAL) if fitting < pages else accept(cleared)
