"""GNTTABOP_cache_flush: clean or invalidate the data cache for one's own page, or one mapped by a grant.

RAM here is what all observers see at once, so the flush itself does nothing.
Source: xen/common/grant_table.c at 4.17 (_cache_flush, grant_map_exists).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from impl.fast.abi import EILSEQ, EINVAL, EPERM, MASK32
from impl.fast.errors import XenPanic
from impl.fast.grant.layouts import CONTINUATION_ARG_SHIFT, GNTTAB_CACHE_CLEAN, GNTTAB_CACHE_INVAL

if TYPE_CHECKING:
    from impl.fast.domains import Domain
    from impl.fast.grant.table import GrantTable
    from impl.fast.machine import Machine

_CHUNK: Final = 1 << CONTINUATION_ARG_SHIFT


def grant_map_exists(table: GrantTable, local: int, mfn: int, cursor: int) -> tuple[int, int]:
    """Look through one chunk of 4096 references for one pinned by the domain `local` with this frame.

    Returns (0, cursor) found, (1, new cursor) not yet, (-EINVAL, cursor) not at all.
    """
    entries = table.entries
    end = min(cursor + _CHUNK & MASK32, entries)
    if cursor < end:
        pinned = np.flatnonzero(table.array("pin")[cursor:end])
        for ref in (pinned + cursor).tolist():
            if table.act_domid[ref] == local and table.act_mfn[ref] == mfn:
                return 0, cursor
        if end < entries:
            return 1, end
    return -EINVAL, cursor


def _runs_away(offset: int, length: int, line: int) -> bool:
    """What is left of a length, once its first incomplete line is off, is below 0, and Xen counts without a sign.

    Source: xen/arch/arm/include/asm/page.h at 4.17.5 (invalidate_dcache_va_range).
    """
    into = offset & line - 1
    return bool(into) and length < line - into


def cache_flush(machine: Machine, dom: Domain, address: int, offset: int, length: int, op: int,
                cursor: int) -> tuple[int, int]:
    """One step of one item.

    address: a machine address; offset, length: bytes in its page; op: GNTTAB_CACHE_*; cursor: reference to go on from,
    as a continuation (or the guest itself) gives it.
    Returns (result, cursor): 0 done, 1 to be continued at the cursor, or a negative errno: EINVAL (bounds, op, not RAM,
    no such grant), EILSEQ (nothing to do, yet a cursor), EPERM (the page belongs to nobody with a grant table).
    Errors: XenPanic on arm64, see `_runs_away`.
    """
    # the flag that names a grant is among the unknown ones
    if offset >= 4096 or length > 4096 or offset + length > 4096 or op & ~(GNTTAB_CACHE_INVAL | GNTTAB_CACHE_CLEAN):
        return -EINVAL, cursor
    if not length or not op:
        return (-EILSEQ if cursor else 0), cursor
    mfn = address >> 12
    if machine.width == 32:
        mfn &= MASK32
    frames = machine.frames
    if not frames.valid(mfn):
        return -EINVAL, cursor
    owner_id = frames.get_owner_and_reference(mfn)
    owner = None if owner_id is None else machine.domains.get(owner_id)
    if owner is None or owner.grant_table is None:
        # the reference, if one was taken, is lost
        return -EPERM, cursor
    result = 0
    if owner is not dom:
        result, cursor = grant_map_exists(owner.grant_table, dom.id, mfn, cursor)
    if not result and op == GNTTAB_CACHE_INVAL and _runs_away(offset, length, machine.config.cache_line):
        if machine.width == 64:
            raise XenPanic("invalidate_dcache_va_range does not come to an end")
        # arm32 is through with its whole address space in a while
    frames.put_page(mfn)
    return result, cursor
