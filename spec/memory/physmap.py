"""Mapping special pages, other domains' pages and devices into a domain's stage 2, and taking them out again.

What may be mapped stands in a number of *spaces*.  A frame that Xen shares with the domain (shared information,
grant and status frames) is mapped at one place only, which Xen records.  A page of another domain takes a
reference that is kept until it is unmapped.

Source: xen/common/memory.c (xenmem_add_to_physmap, xenmem_add_to_physmap_batch, xatp_permission_check),
xen/arch/arm/mm.c (xenmem_add_to_physmap_one), Xen 4.17.
"""

from __future__ import annotations

from spec.deviations import happens
from spec.domain.privilege import exists, is_alive, is_control, may_act_on
from spec.errors import (
    EACCES,
    EBUSY,
    EDOM,
    EILSEQ,
    EINVAL,
    ENOENT,
    ENOMEM,
    ENOSYS,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
    ESRCH,
)
from spec.grant.table import grant_frame_for
from spec.language import (
    U16,
    U32,
    U64,
    Boolean,
    DomId,
    Gfn,
    Index,
    Mfn,
    Outcome,
    accept,
    both,
    crash,
    ite,
    legal,
    merged,
    neg,
    one_of,
    put,
    refuse,
    transition,
)
from spec.language.outcomes import Kind
from spec.language.registry import DEVIATIONS, Deviation
from spec.memory import frames, p2m
from spec.memory.width import machine_word, own_width
from spec.state import DOMID_IO, DOMID_SELF, DOMID_XEN, NOBODY, P2mType, State, Status

DEVIATIONS["DEV-35"] = Deviation("DEV-35", "The hypervisor stops at a call of the control domain")

SPACE_SHARED_INFO = 0
SPACE_GRANT_TABLE = 1
SPACE_GMFN = 2
SPACE_GMFN_RANGE = 3
SPACE_GMFN_FOREIGN = 4
SPACE_DEV_MMIO = 5

LARGEST_CURSOR = (1 << 16) - 1
"""A continuation's cursor has to fit the 16 bits of the size."""
WRAP = 1 << 64
"""Frame numbers and indices of the interface are 64 bits wide."""


def is_no_frame(s: State, gfn: Gfn) -> Boolean:
    """The number that stands for "no guest frame": all ones of a machine word."""
    return own_width(s, gfn) == ite(s.settings[Index(0)].arm32, (1 << 32) - 1, (1 << 64) - 1)


# ---- what every mapping of one page has in common


@merged
def enter(s: State, domain: DomId, gfn: Gfn, mfn: Mfn, kind: int, tables_left: bool) -> Outcome[State]:
    """Map one page, if there are pages left for the tables that this takes.

    Errors: ENOMEM while the domain is being destroyed; EINVAL beyond the root table; without table pages as
    ``p2m.lacking``.
    Source: xen/arch/arm/p2m.c (p2m_set_entry), Xen 4.17.
    """
    if s.domain[domain].status != Status.ALIVE:
        return refuse(s, -ENOMEM)
    if gfn >= s.settings[Index(0)].root_pages:
        return refuse(s, -EINVAL)
    if not tables_left:
        legal(p2m.tables_may_lack(s, domain, 1), "tables are missing only if the pool is nearly empty")
        return refuse(s, p2m.lacking(s, domain, gfn))
    return p2m.insert_page(s, domain, gfn, mfn, kind)


@merged
def map_shared_page(s: State, domain: DomId, gfn: Gfn, mfn: Mfn, tables_left: bool) -> Outcome[State]:
    """Map a frame that Xen shares with the domain, at one place only.

    Errors: EBUSY if it is on record as mapped somewhere; else as ``enter``.
    Source: xen/arch/arm/mm.c (xenmem_add_to_physmap_one), Xen 4.17.
    """
    if s.frame[mfn].mapped:
        return refuse(s, -EBUSY)
    entered = enter(s, domain, gfn, mfn, P2mType.RAM_RW, tables_left)
    if entered.code != 0:
        return refuse(s, entered.code)
    return accept(put(entered.state, "frame", mfn, mapped=True, gfn=gfn))


@merged
def map_foreign_page(s: State, domain: DomId, gfn: Gfn, mfn: Mfn, kind: int, tables_left: bool) -> Outcome[State]:
    """Map another domain's page, with a reference that is kept until it is unmapped.

    The caller has made sure that a reference can be taken.  Errors: as ``enter``; the reference is given back then.
    Source: xen/arch/arm/mm.c (xenmem_add_to_physmap_one), xen/arch/arm/p2m.c (set_foreign_p2m_entry), Xen 4.17.
    """
    entered = enter(frames.get_page(s, mfn), domain, gfn, mfn, kind, tables_left)
    if entered.code != 0:
        return refuse(s, entered.code)
    return accept(entered.state)


# ---- the spaces


def _shared_info(s: State, domain: DomId, idx: U64, gfn: Gfn, tables_left: bool) -> Outcome[State]:
    if idx != 0:
        return refuse(s, -EINVAL)
    return map_shared_page(s, domain, gfn, s.domain[domain].shared_info, tables_left)


def _grant_table(s: State, domain: DomId, idx: U64, gfn: Gfn, tables_left: bool) -> Outcome[State]:
    found = grant_frame_for(s, domain, idx)
    if found.code != 0:
        return refuse(s, found.code)
    return map_shared_page(s, domain, gfn, found.output["mfn"], tables_left)


def _dev_mmio(s: State, domain: DomId, idx: U64, gfn: Gfn, tables_left: bool) -> Outcome[State]:
    # not permitted is not an error: nothing is mapped
    if idx >= frames.LAST_FRAME or not s.iomem[domain, Mfn(idx)].allowed:
        return accept(s)
    return enter(s, domain, gfn, Mfn(idx), P2mType.MMIO_DIRECT_C, tables_left)


def foreign_owner(caller: DomId, foreign: DomId) -> DomId:
    """The domain that a caller means: DOMID_SELF is the caller itself."""
    return ite(foreign == DOMID_SELF, caller, foreign)


def _foreign(s: State, caller: DomId, domain: DomId, foreign: DomId, idx: U64, gfn: Gfn, tables_left: bool, *,
             repaired: bool) -> Outcome[State]:
    """One page of another domain; Xen's own pages (DOMID_IO, DOMID_XEN) are found, but none can be mapped here."""
    owner = foreign_owner(caller, foreign)
    # the caller's own id is not accepted, DOMID_SELF is
    if foreign == caller:
        return refuse(s, -ESRCH)
    # DEV-35
    if not repaired and both(owner == DOMID_IO, idx == 0, is_control(s, domain), neg(s.settings[Index(0)].arm32)):
        return crash(happens(s, "dev35"), NOBODY)
    if one_of(owner, DOMID_IO, DOMID_XEN):
        return refuse(s, ite(is_control(s, domain), -EINVAL, -EPERM))
    if not exists(s, owner):
        return refuse(s, -ESRCH)
    if owner == domain:
        return refuse(s, -EINVAL)
    if not may_act_on(s, domain, owner):
        return refuse(s, -EPERM)
    row = s.p2m[owner, own_width(s, Gfn(idx))]
    # neither a hole, a device, nor what the owner itself has from somebody else
    if not one_of(row.type, *p2m.RAM):
        return refuse(s, -EINVAL)
    mfn = row.mfn
    # the page has gone from its owner meanwhile, which is being destroyed
    if s.frame[mfn].owner != owner or not frames.can_get_page(s, mfn):
        return refuse(s, -EINVAL)
    kind = ite(row.type == P2mType.RAM_RW, P2mType.MAP_FOREIGN_RW, P2mType.MAP_FOREIGN_RO)
    return map_foreign_page(s, domain, gfn, mfn, kind, tables_left)


def _one_page(s: State, caller: DomId, domain: DomId, space: U32, foreign: DomId, idx: U64, gfn: Gfn,
              tables_left: bool, *, repaired: bool) -> Outcome[State]:
    """One page of any space.

    Source: xen/arch/arm/mm.c (xenmem_add_to_physmap_one), Xen 4.17.
    """
    idx = machine_word(s, idx)
    if space == SPACE_GRANT_TABLE:
        return _grant_table(s, domain, idx, gfn, tables_left)
    if space == SPACE_SHARED_INFO:
        return _shared_info(s, domain, idx, gfn, tables_left)
    if space == SPACE_GMFN_FOREIGN:
        return _foreign(s, caller, domain, foreign, idx, gfn, tables_left, repaired=repaired)
    if space == SPACE_DEV_MMIO:
        return _dev_mmio(s, domain, idx, gfn, tables_left)
    return refuse(s, -ENOSYS)


# ---- the calls


@transition(hypercall="XENMEM_add_to_physmap")
def add_to_physmap(s: State, caller: DomId, domain: DomId, space: U32, idx: U64, gfn: Gfn, size: U16, cursor: U64,
                   tables_left: bool) -> Outcome[State]:
    """Map a page of Xen's at a guest frame.

    space: what ``idx`` counts.  size, cursor: of a range, which no space of Arm has; 0 otherwise.
    tables_left: the domain's pool has the table pages that this takes.
    A grant table that is too small grows first (``grow_for_frame``).
    Errors: EDOM for a cursor above 16 bits; ENOSYS for pages of another domain; ESRCH; EACCES for a device, unless the
    hardware domain maps it for itself; EPERM; EINVAL for no guest frame; of a range EILSEQ, EOVERFLOW or ENOSYS; then
    by space: EINVAL for a wrong index, EBUSY if the frame is mapped or being given up, ENOSYS; ENOMEM, EINVAL, ENOENT
    as ``enter``.
    Source: xen/common/memory.c (do_memory_op, xenmem_add_to_physmap), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    if cursor > LARGEST_CURSOR:
        return refuse(s, -EDOM)
    if space == SPACE_GMFN_FOREIGN:
        return refuse(s, -ENOSYS)
    if not exists(s, domain):
        return refuse(s, -ESRCH)
    if space == SPACE_DEV_MMIO and not _may_map_devices(s, caller, domain):
        return refuse(s, -EACCES)
    if not may_act_on(s, caller, domain):
        return refuse(s, -EPERM)
    if is_no_frame(s, gfn):
        return refuse(s, -EINVAL)
    if space == SPACE_GMFN_RANGE:
        return _range(s, idx, gfn, size, cursor)
    # it maps no pages of other domains
    return _one_page(s, caller, domain, space, DOMID_SELF, idx, own_width(s, gfn), tables_left, repaired=True)


def _may_map_devices(s: State, caller: DomId, domain: DomId) -> Boolean:
    return both(s.domain[domain].hardware, caller == domain)


def _range(s: State, idx: U64, gfn: Gfn, size: U16, cursor: U64) -> Outcome[State]:
    """A range of the caller's own frames, which Arm does not have."""
    if size < cursor:
        return refuse(s, -EILSEQ)
    if gfn + size >= WRAP or idx + size >= WRAP:
        return refuse(s, -EOVERFLOW)
    # nothing is left to be done
    if size == cursor:
        return accept(s)
    return refuse(s, -ENOSYS)


def _batch(s: State, caller: DomId, domain: DomId, space: U32, foreign: DomId, idx: U64, gfn: Gfn, size: U16,
           cursor: U64, tables_left: bool, *, repaired: bool) -> Outcome[State]:
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    if cursor > LARGEST_CURSOR:
        return refuse(s, -EDOM)
    if space == SPACE_GMFN_RANGE:
        return refuse(s, -EOPNOTSUPP)
    if not exists(s, domain):
        return refuse(s, -ESRCH)
    if space == SPACE_DEV_MMIO and not _may_map_devices(s, caller, domain):
        return refuse(s, -EACCES)
    if not may_act_on(s, caller, domain):
        return refuse(s, -EPERM)
    if size < cursor:
        return refuse(s, -EILSEQ)
    if size == cursor:
        if cursor != 0:
            return refuse(s, -EILSEQ)
        return accept(s)
    if space == SPACE_DEV_MMIO and foreign != 0:
        return refuse(s, -EOPNOTSUPP)
    if is_no_frame(s, gfn):
        return refuse(s, -EINVAL)
    done = _one_page(s, caller, domain, space, foreign, idx, own_width(s, gfn), tables_left, repaired=repaired)
    if done.kind == Kind.CRASH:
        return done
    return accept(done.state, error=done.code)


@transition(hypercall="XENMEM_add_to_physmap_batch")
def add_to_physmap_batch(s: State, caller: DomId, domain: DomId, space: U32, foreign: DomId, idx: U64, gfn: Gfn,
                         size: U16, cursor: U64, tables_left: bool) -> Outcome[State]:
    """Map one page of a batch: element ``cursor`` of ``size``.  What becomes of it stands in its own ``error``.

    foreign: whose page, for space gmfn_foreign: a domain id (not the caller's) or DOMID_SELF; for a device 0.
    Errors: EDOM; EOPNOTSUPP for a range; ESRCH; EACCES; EPERM; EILSEQ for a cursor behind the end; EOPNOTSUPP for a
    device if ``foreign`` is not 0; EINVAL for no guest frame.  Of the element alone: as ``add_to_physmap``, and of
    another domain's page ESRCH, EINVAL (the domain itself, or no RAM of its owner there), EPERM if the domain may not
    act on the owner.
    Source: xen/common/memory.c (do_memory_op, xenmem_add_to_physmap_batch), Xen 4.17.
    """
    return _batch(s, caller, domain, space, foreign, idx, gfn, size, cursor, tables_left, repaired=False)


@transition(hypercall="XENMEM_add_to_physmap_batch", repairs="add_to_physmap_batch", keeps=("REPAIRED-REFERENCE",))
def add_to_physmap_batch_repaired(s: State, caller: DomId, domain: DomId, space: U32, foreign: DomId, idx: U64,
                                  gfn: Gfn, size: U16, cursor: U64, tables_left: bool) -> Outcome[State]:
    """``add_to_physmap_batch`` without DEV-35; it still has DEV-15."""
    return _batch(s, caller, domain, space, foreign, idx, gfn, size, cursor, tables_left, repaired=True)


@transition(hypercall="XENMEM_remove_from_physmap")
def remove_from_physmap(s: State, caller: DomId, domain: DomId, gfn: Gfn, cursor: U64, tables_left: bool
                        ) -> Outcome[State]:
    """Unmap a page of memory from a guest frame; a page of the domain itself stays its own, mapped nowhere.

    cursor: must be 0.  tables_left: the domain's pool has the table pages that it takes to split a larger block.
    Errors: EINVAL for a cursor; ESRCH; EPERM; ENOENT if neither the domain's own memory nor another domain's is mapped
    there, or no reference on it can be taken; ENOMEM while the domain is being destroyed, or without table pages.
    Source: xen/common/memory.c (do_memory_op), xen/arch/arm/p2m.c (p2m_get_page_from_gfn), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    if cursor != 0:
        return refuse(s, -EINVAL)
    if not exists(s, domain):
        return refuse(s, -ESRCH)
    if not may_act_on(s, caller, domain):
        return refuse(s, -EPERM)
    place = own_width(s, gfn)
    row = s.p2m[domain, place]
    if not p2m.is_any_ram(row):
        return refuse(s, -ENOENT)
    # a granted page is not the domain's, unless it granted it to itself
    if not one_of(row.type, *p2m.FOREIGN) and s.frame[row.mfn].owner != domain:
        return refuse(s, -ENOENT)
    if not frames.can_get_page(s, row.mfn):
        return refuse(s, -ENOENT)
    removed = p2m.remove_page(frames.get_page(s, row.mfn), domain, place, row.mfn, tables_left)
    if removed.code != 0:
        return refuse(s, removed.code)
    return accept(frames.put_page(removed.state, row.mfn))
