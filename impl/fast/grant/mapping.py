"""map_grant_ref, unmap_grant_ref and unmap_and_replace.

On Arm every guest is externally paged: a mapping is a stage-2 entry of the mapper at host_addr >> 12, of type
grant_map_rw or grant_map_ro, and device mappings are refused. A direct-mapped domain behind an IOMMU also gets a 1:1
entry (iommu_map).
Source: xen/common/grant_table.c (map_grant_ref, unmap_common, unmap_common_complete), xen/arch/arm/mm.c
(create_grant_host_mapping, replace_grant_host_mapping), xen/drivers/passthrough/arm/iommu_helpers.c at 4.17.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from impl.fast import privilege
from impl.fast.abi import DOMID_IO, MASK32, p2m_grant_map_ro, p2m_grant_map_rw, p2m_iommu_map_ro, p2m_iommu_map_rw
from impl.fast.errors import XenPanic
from impl.fast.grant import entries, maptrack
from impl.fast.grant.layouts import (
    GNTMAP_application_map,
    GNTMAP_contains_pte,
    GNTMAP_device_map,
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_bad_dev_addr,
    GNTST_bad_domain,
    GNTST_bad_gntref,
    GNTST_bad_handle,
    GNTST_general_error,
    GNTST_no_space,
    GNTST_okay,
    GNTST_permission_denied,
)
from impl.fast.grant.table import DEVR_INC, DEVW_INC, HSTR_INC, HSTW_INC, OVERFLOW_SHIFT, WRITE_PINS, GrantTable

if TYPE_CHECKING:
    from impl.fast.domains import Domain
    from impl.fast.machine import Machine


class Unmap:
    """One unmap between its two phases (struct gnttab_unmap_common).

    done: GNTMAP bits that were unmapped (and readonly); mfn, granter, ref: of what was unmapped; status: for the guest,
    None where Xen leaves the field alone.
    """

    __slots__ = ("done", "granter", "mfn", "ref", "status")

    def __init__(self) -> None:
        self.done = 0
        self.mfn = 0
        self.granter: Domain | None = None
        self.ref = 0
        self.status: int | None = None


def is_iomem_page(machine: Machine, mfn: int) -> bool:
    """The frame is not RAM, or belongs to dom_io."""
    return not machine.frames.valid(mfn) or machine.frames.owner_of(mfn) == DOMID_IO


# ---- the 1:1 entries that an IOMMU needs ---------------------------------------------------------------------


def _crash_unless_hardware(machine: Machine, dom: Domain, error: int) -> int:
    if error and not dom.is_hardware:
        machine.crash_domain(dom)
    return error


def _iommu_map(machine: Machine, dom: Domain, mfn: int, writable: bool) -> int:
    """iommu_legacy_map of one frame. Returns 0 or a negative error; a domain but the hardware domain crashes then."""
    kind = p2m_iommu_map_rw if writable else p2m_iommu_map_ro
    return _crash_unless_hardware(machine, dom, dom.p2m.insert(mfn, 1, mfn, kind))


def _iommu_unmap(machine: Machine, dom: Domain, mfn: int) -> int:
    """iommu_legacy_unmap of one frame; as `_iommu_map`."""
    return _crash_unless_hardware(machine, dom, dom.p2m.remove(mfn, 1, mfn))


def _dma_get(machine: Machine, dom: Domain, mfn: int, readonly: bool) -> int:
    """Count a mapping of the frame; the first writer, or the first reader of nobody's writing, changes the IOMMU.

    Returns GNTST_okay or GNTST_general_error (counter overflow, or the entry cannot be made).
    """
    table: GrantTable = dom.grant_table
    counts = table.dma.get(mfn)
    readers, writers = counts or (0, 0)
    limit = 1 << (table.width // 2 - 1)
    if readonly:
        readers += 1
    else:
        writers += 1
    if max(readers, writers) >= limit:
        return GNTST_general_error
    # Xen counts first and takes the count back on failure: the same here, in one step
    if not readonly and writers == 1:
        error = _iommu_map(machine, dom, mfn, writable=True)
    elif readonly and readers == 1 and not writers:
        error = _iommu_map(machine, dom, mfn, writable=False)
    else:
        error = 0
    if error:
        return GNTST_general_error
    table.dma[mfn] = [readers, writers]
    return GNTST_okay


def _dma_put(machine: Machine, dom: Domain, mfn: int, readonly: bool) -> int:
    """Undo `_dma_get` for one mapping; on failure the counts stay.

    Returns GNTST_okay or GNTST_general_error. Errors: XenPanic if nothing was counted.
    """
    table: GrantTable = dom.grant_table
    readers, writers = table.dma.get(mfn, (0, 0))
    if not (readers if readonly else writers):
        raise XenPanic(f"unmap_common: no IOMMU mapping of frame {mfn:#x} was counted")
    if readonly:
        readers -= 1
    else:
        writers -= 1
    if not readers and not writers:
        error = _iommu_unmap(machine, dom, mfn)
    elif not readonly and not writers:
        error = _iommu_map(machine, dom, mfn, writable=False)
    else:
        error = 0
    if error:
        return GNTST_general_error
    if readers or writers:
        table.dma[mfn] = [readers, writers]
    else:
        del table.dma[mfn]
    return GNTST_okay


# ---- map -----------------------------------------------------------------------------------------------------


def _host_gfn(machine: Machine, host_addr: int) -> int:
    """The gfn of a host address; arm32 cuts the address to its unsigned long before the shift."""
    if machine.width == 32:
        host_addr &= MASK32
    return host_addr >> 12


def _create_host_mapping(machine: Machine, dom: Domain, host_addr: int, mfn: int, flags: int) -> int:
    """create_grant_host_mapping: any flag beside host_map and readonly makes it fail, guest-available bits included."""
    if flags & ~GNTMAP_readonly != GNTMAP_host_map:
        return GNTST_general_error
    kind = p2m_grant_map_ro if flags & GNTMAP_readonly else p2m_grant_map_rw
    if dom.p2m.insert(_host_gfn(machine, host_addr), 1, mfn, kind):
        return GNTST_general_error
    return GNTST_okay


def _replace_host_mapping(machine: Machine, dom: Domain, host_addr: int, mfn: int, new_addr: int, flags: int) -> int:
    """replace_grant_host_mapping: removes; a replacement is never possible on Arm."""
    if machine.width == 32:
        new_addr &= MASK32
    if new_addr or flags & GNTMAP_contains_pte:
        return GNTST_general_error
    # an address at which nothing is mapped is as good as the right one
    if dom.p2m.remove(_host_gfn(machine, host_addr), 1, mfn):
        return GNTST_general_error
    return GNTST_okay


def _pin(machine: Machine, dom: Domain, granter: Domain, ref: int, flags: int, increment: int) -> tuple[int, bool]:
    """The part under the granter's lock: check the entry, record the frame, count the pin.

    Returns (status, whether a new page reference was taken).
    """
    table: GrantTable = granter.grant_table
    if ref >= table.entries:
        return GNTST_bad_gntref, False
    pin = table.pin[ref]
    if pin and (table.act_domid[ref] != dom.id or pin & increment << OVERFLOW_SHIFT or table.sub_page[ref]):
        return GNTST_general_error, False
    readonly = bool(flags & GNTMAP_readonly)
    referenced = False
    if not pin or (not readonly and not pin & WRITE_PINS):
        status = entries.set_status(machine, table, ref, dom.id, readonly, mapping=True)
        if status != GNTST_okay:
            return status, False
        if not pin:
            if table.version == 1:
                gfn = entries.read(machine, table, ref) >> 32
            else:
                gfn = entries.read(machine, table, ref, 1)
            status, mfn = entries.paged_frame(machine, granter, gfn)
            if status != GNTST_okay:
                entries.reduce_status(machine, table, ref, readonly)
                return status, False
            referenced = True
            table.act_domid[ref] = dom.id
            table.act_mfn[ref] = mfn
            table.start[ref] = 0
            table.length[ref] = 4096
            table.sub_page[ref] = 0
            table.trans_domain[ref] = granter.id
            table.trans_gref[ref] = ref
    table.pin[ref] = pin + increment
    return GNTST_okay, referenced


def map_grant_ref(machine: Machine, dom: Domain, vcpu: int, host_addr: int, flags: int, ref: int,
                  granter_id: int) -> tuple[int, int, int]:
    """Map a grant of another domain (or of the caller itself, by its real id) at host_addr.

    host_addr: guest physical address, the low 12 bits do not count; flags: GNTMAP_*; ref: the granter's reference;
    granter_id: real domain id.
    Returns (status, handle, dev_bus_addr), the last two only with GNTST_okay.
    Errors: bad_gntref (no map asked for, ref out of range), general_error, bad_domain, permission_denied, no_space,
    bad_page.
    Source: xen/common/grant_table.c (map_grant_ref).
    """
    readonly = bool(flags & GNTMAP_readonly)
    increment = 0
    if flags & GNTMAP_device_map:
        increment += DEVR_INC if readonly else DEVW_INC
    if flags & GNTMAP_host_map:
        increment += HSTR_INC if readonly else HSTW_INC
    if not increment:
        return GNTST_bad_gntref, 0, 0
    # every guest on Arm is externally paged
    if flags & (GNTMAP_device_map | GNTMAP_application_map | GNTMAP_contains_pte):
        return GNTST_general_error, 0, 0
    granter = machine.domains.get(granter_id)
    if granter is None:
        return GNTST_bad_domain, 0, 0
    if privilege.grant_pair(dom, dom, granter):
        return GNTST_permission_denied, 0, 0
    own: GrantTable = dom.grant_table
    handle = maptrack.get(machine, dom, own, vcpu)
    if handle is None:
        return GNTST_no_space, 0, 0
    status, referenced = _pin(machine, dom, granter, ref, flags, increment)
    if status != GNTST_okay:
        maptrack.put(own, handle)
        return status, 0, 0

    frames = machine.frames
    table: GrantTable = granter.grant_table
    mfn = table.act_mfn[ref]
    mapped = False
    if referenced:
        owner = frames.owner_of(mfn)
    else:
        owner = frames.get_owner_and_reference(mfn) if frames.valid(mfn) else None
        referenced = owner is not None
    if owner != granter.id:
        # I/O memory, or a page that changed hands
        status = GNTST_general_error
    else:
        status = _create_host_mapping(machine, dom, host_addr, mfn, flags)
        mapped = status == GNTST_okay
        if mapped and dom is not granter and dom.needs_grant_iommu:
            status = _dma_get(machine, dom, mfn, readonly)
    if status != GNTST_okay:
        if mapped:
            _replace_host_mapping(machine, dom, host_addr, mfn, 0, flags)
        if referenced:
            frames.put_page(mfn)
        table.pin[ref] -= increment
        entries.reduce_status(machine, table, ref, readonly)
        maptrack.put(own, handle)
        return status, 0, 0
    own.map_domid[handle] = granter_id
    own.map_ref[handle] = ref
    own.map_flags[handle] = flags & 0xFFFF
    return GNTST_okay, handle, mfn << 12


# ---- unmap ---------------------------------------------------------------------------------------------------


def unmap(machine: Machine, dom: Domain, host_addr: int, dev_bus_addr: int, new_addr: int, handle: int) -> Unmap:
    """The first phase of an unmap: everything but the pins and page references, which wait for the flush.

    host_addr: 0 leaves a host mapping alone; dev_bus_addr: as host_addr, for device mappings; new_addr: of
    unmap_and_replace, else 0; handle: of the caller's maptrack.
    Status: bad_handle, bad_dev_addr, general_error; None after the caller was crashed because the granter is gone.
    Source: xen/common/grant_table.c (unmap_common).
    """
    op = Unmap()
    own: GrantTable = dom.grant_table
    if handle >= own.maptrack_limit or not own.map_flags[handle]:
        op.status = GNTST_bad_handle
        return op
    granter = machine.domains.get(own.map_domid[handle])
    if granter is None:
        machine.crash_domain(dom)
        return op
    table: GrantTable = granter.grant_table
    ref = own.map_ref[handle]
    op.granter = granter
    op.ref = ref
    if ref >= table.entries:
        op.status = GNTST_bad_handle
        return op
    flags = own.map_flags[handle]
    op.mfn = table.act_mfn[ref]
    if dev_bus_addr and flags & GNTMAP_device_map and dev_bus_addr != op.mfn << 12:
        op.status = GNTST_bad_dev_addr
        return op
    readonly = flags & GNTMAP_readonly
    if host_addr and flags & GNTMAP_host_map:
        op.status = _replace_host_mapping(machine, dom, host_addr, op.mfn, new_addr, flags)
        if op.status != GNTST_okay:
            return op
        own.map_flags[handle] &= ~GNTMAP_host_map & 0xFFFF
        op.done |= GNTMAP_host_map | readonly
    if dev_bus_addr and flags & GNTMAP_device_map:
        own.map_flags[handle] &= ~GNTMAP_device_map & 0xFFFF
        op.done |= GNTMAP_device_map | readonly
    op.status = GNTST_okay
    if not own.map_flags[handle] & (GNTMAP_device_map | GNTMAP_host_map):
        own.map_flags[handle] = 0
        maptrack.put(own, handle)
        if dom is not granter and dom.needs_grant_iommu:
            op.status = _dma_put(machine, dom, op.mfn, bool(readonly))
    return op


def complete(machine: Machine, op: Unmap) -> None:
    """The second phase: drop page references and pins, and take the marks out of the shared entry.

    Source: xen/common/grant_table.c (unmap_common_complete).
    """
    if not op.done or op.granter is None:
        return
    table: GrantTable = op.granter.grant_table
    ref = op.ref
    readonly = bool(op.done & GNTMAP_readonly)
    is_page = not is_iomem_page(machine, table.act_mfn[ref])
    if op.done & GNTMAP_device_map:
        if is_page:
            machine.frames.put_page(op.mfn)
        table.pin[ref] -= DEVR_INC if readonly else DEVW_INC
    if op.done & GNTMAP_host_map:
        if is_page:
            machine.frames.put_page(op.mfn)
        table.pin[ref] -= HSTR_INC if readonly else HSTW_INC
    entries.reduce_status(machine, table, ref, readonly)
