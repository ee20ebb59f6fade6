"""Table frames for a guest's address space: the grant_table space of add_to_physmap, and acquire_resource.

Source: xen/common/grant_table.c at 4.17 (gnttab_map_frame, gnttab_get_shared_frame_mfn, gnttab_get_status_frame_mfn,
gnttab_resource_max_frames, gnttab_acquire_resource).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from impl.fast.abi import EBUSY, EINVAL, MASK32
from impl.fast.grant import layouts
from impl.fast.grant.table import GrantTable, grow

if TYPE_CHECKING:
    from impl.fast.domains import Domain
    from impl.fast.machine import Machine


def _shared_frame(machine: Machine, dom: Domain, idx: int) -> tuple[int, int]:
    """(0, mfn) of a shared frame, the table growing to it if it may; else (-EINVAL, 0), also when memory is short."""
    table: GrantTable = dom.grant_table
    if len(table.shared) <= idx < table.max_grant_frames:
        grow(machine, dom, table, idx + 1)
    if idx >= len(table.shared):
        return -EINVAL, 0
    return 0, table.shared[idx]


def _status_frame(machine: Machine, dom: Domain, idx: int) -> tuple[int, int]:
    """As `_shared_frame` for a status frame: each takes eight shared frames more."""
    table: GrantTable = dom.grant_table
    if idx >= len(table.status):
        grant_frames = layouts.status_to_grant_frames(idx + 1)
        if grant_frames <= table.max_grant_frames:
            grow(machine, dom, table, grant_frames)
    if idx >= len(table.status):
        return -EINVAL, 0
    return 0, table.status[idx]


def map_grant_frame(machine: Machine, dom: Domain, idx: int, gfn: int) -> tuple[int, int]:
    """gnttab_map_frame: the frame for XENMAPSPACE_grant_table, with a reference that the caller drops when done.

    idx: frame number, cut to 32 bits; in a version 2 table bit 31 selects status frames; gfn: where it will be mapped.
    Returns (0, mfn), or (error, 0): -EINVAL beyond the limits or out of memory, -EBUSY if no reference can be had.
    """
    table: GrantTable = dom.grant_table
    idx &= MASK32
    if table.version == 2 and idx & layouts.XENMAPIDX_grant_table_status:
        error, mfn = _status_frame(machine, dom, idx & ~layouts.XENMAPIDX_grant_table_status)
    else:
        error, mfn = _shared_frame(machine, dom, idx)
    if error:
        return error, 0
    if not machine.frames.get_page(mfn, dom.id):
        return -EBUSY, 0
    return 0, mfn


def resource_max_frames(dom: Domain, resource_id: int) -> int:
    """gnttab_resource_max_frames: the size of the resource in frames; 0 for status, as Arm is built for version 1."""
    table: GrantTable = dom.grant_table
    return table.max_grant_frames if resource_id == layouts.RESOURCE_SHARED else 0


def acquire(machine: Machine, dom: Domain, resource_id: int, frame: int, number: int) -> tuple[int, list[int]]:
    """gnttab_acquire_resource: the frames [frame, frame + number) of a table, which grows to hold them.

    resource_id: 0 shared, 1 status; frame: 0..2**32-1.
    Returns (number, mfns), or (-EINVAL, []): no frames, unknown id, status of a version 1 table, beyond the limits.
    No reference is taken.
    """
    table: GrantTable = dom.grant_table
    if not number:
        return -EINVAL, []
    last = frame + number - 1 & MASK32
    if resource_id == layouts.RESOURCE_SHARED:
        error, _ = _shared_frame(machine, dom, last)
        mfns = table.shared
    elif resource_id == layouts.RESOURCE_STATUS and table.version == 2:
        error, _ = _status_frame(machine, dom, last)
        mfns = table.status
    else:
        error, mfns = -EINVAL, []
    if error:
        return error, []
    return number, mfns[frame:frame + number]
