"""Birth and death of a domain's grant table.

Source: xen/common/grant_table.c at 4.17 (grant_table_init, gnttab_release_mappings, grant_table_destroy).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from impl.fast.abi import EINVAL
from impl.fast.errors import XenPanic
from impl.fast.grant import entries
from impl.fast.grant.layouts import (
    INITIAL_NR_GRANT_FRAMES,
    MAPTRACK_PER_FRAME,
    GNTMAP_device_map,
    GNTMAP_host_map,
    GNTMAP_readonly,
)
from impl.fast.grant.mapping import is_iomem_page
from impl.fast.grant.table import (
    DEVR_INC,
    DEVR_MASK,
    DEVW_INC,
    DEVW_MASK,
    HSTR_INC,
    HSTR_MASK,
    HSTW_INC,
    HSTW_MASK,
    GrantTable,
    grow,
)

if TYPE_CHECKING:
    from impl.fast.domains import Domain
    from impl.fast.machine import Machine


def create(machine: Machine, dom: Domain) -> int:
    """grant_table_init: a version 1 table with one frame, from the limits in the domain.

    dom.max_grant_version: 1 or 2; dom.max_grant_frames, dom.max_maptrack_frames: negative for the machine's limits,
    which then take their place.
    Returns 0, -EINVAL (a version or size beyond the machine's limits), -ENOMEM; then the domain has no table.
    """
    options = machine.config
    if not 0 < dom.max_grant_version <= options.grant_max_version:
        return -EINVAL
    grant_frames = options.opt_max_grant_frames if dom.max_grant_frames < 0 else dom.max_grant_frames
    maptrack_frames = options.opt_max_maptrack_frames if dom.max_maptrack_frames < 0 else dom.max_maptrack_frames
    if (not INITIAL_NR_GRANT_FRAMES <= grant_frames <= options.opt_max_grant_frames
            or maptrack_frames > options.opt_max_maptrack_frames):
        return -EINVAL
    table = GrantTable(dom.id, machine.width, dom.max_vcpus, max_version=dom.max_grant_version,
                       max_grant_frames=grant_frames, max_maptrack_frames=maptrack_frames)
    dom.grant_table = table
    dom.max_grant_frames, dom.max_maptrack_frames = grant_frames, maptrack_frames
    error = grow(machine, dom, table, 0)
    if error:
        dom.grant_table = None
    return error


def _release_handle(machine: Machine, table: GrantTable, handle: int) -> None:
    """Undo one mapping of a dying domain: pins, marks, page references. Its p2m entry goes with the p2m."""
    flags = table.map_flags[handle]
    if not flags & (GNTMAP_device_map | GNTMAP_host_map):
        return
    granter = machine.domains.get(table.map_domid[handle])
    if granter is None:
        table.map_flags[handle] = 0
        return
    other: GrantTable = granter.grant_table
    ref = table.map_ref[handle]
    readonly = bool(flags & GNTMAP_readonly)
    mfn = other.act_mfn[ref]
    is_page = not is_iomem_page(machine, mfn)
    for bit, increment, mask in (
            (GNTMAP_device_map, DEVR_INC if readonly else DEVW_INC, DEVR_MASK if readonly else DEVW_MASK),
            (GNTMAP_host_map, HSTR_INC if readonly else HSTW_INC, HSTR_MASK if readonly else HSTW_MASK)):
        if flags & bit:
            if not other.pin[ref] & mask:
                raise XenPanic(f"gnttab_release_mappings: reference {ref} of domain {granter.id} is not pinned")
            other.pin[ref] -= increment
            if is_page:
                machine.frames.put_page(mfn)
    entries.reduce_status(machine, other, ref, readonly)
    table.map_flags[handle] = 0
    table.dma.pop(mfn, None)


def release_mappings(machine: Machine, dom: Domain, budget: int | None = None) -> bool:
    """gnttab_release_mappings: take back every mapping of a dying domain, from the last handle down.

    budget: maptrack frames to do at most, at least 1; None: as many as the machine's preemption hook allows, which is
    asked after each frame.
    Returns True when done, False when there is more to do (-ERESTART in Xen).
    """
    table: GrantTable = dom.grant_table
    while table.maptrack_limit:
        first = table.maptrack_limit - MAPTRACK_PER_FRAME
        live = table.array("map_flags")[first:table.maptrack_limit].nonzero()[0]
        for offset in live[::-1].tolist():
            _release_handle(machine, table, first + offset)
        table.maptrack_limit = first
        machine.frames.free_xenheap(table.maptrack_frames.pop())
        if budget is not None:
            budget -= 1
        # nothing is asked after the frame of handle 0
        if first and (machine.preempt_check() if budget is None else not budget):
            return False
    return True


def destroy(machine: Machine, dom: Domain) -> None:
    """grant_table_destroy: give back every frame; nobody holds a reference to one any more."""
    table: GrantTable | None = dom.grant_table
    if table is None:
        return
    for frames in (table.shared, table.active_frames, table.status):
        for mfn in frames:
            machine.frames.free_xenheap(mfn)
    dom.grant_table = None
