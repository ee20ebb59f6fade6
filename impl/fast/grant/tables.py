"""The calls that concern a table as a whole, or two entries of it.

Each returns the hypercall's result: 0 or a negative errno. Statuses (GNTST_*) go into the argument.
Source: xen/common/grant_table.c at 4.17 (gnttab_setup_table, gnttab_query_size, gnttab_set_version,
gnttab_get_status_frames, gnttab_get_version, swap_grant_ref).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from impl.fast import privilege
from impl.fast.abi import (
    EBUSY,
    EFAULT,
    EINVAL,
    ENOSYS,
    ERANGE,
    ESRCH,
    MASK32,
    MASK64,
)
from impl.fast.grant import entries, layouts
from impl.fast.grant.layouts import (
    RESERVED_ENTRIES,
    GNTST_bad_domain,
    GNTST_bad_gntref,
    GNTST_bad_virt_addr,
    GNTST_eagain,
    GNTST_general_error,
    GNTST_okay,
    GNTST_permission_denied,
    GTF_permit_access,
    GTF_reading,
    GTF_transitive,
    GTF_type_mask,
    GTF_writing,
)
from impl.fast.grant.table import GrantTable, grow, populate_status_frames, unpopulate_status_frames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from impl.fast.domains import Domain
    from impl.fast.grant.guest import Call


def _subject(call: Call, domid: int) -> tuple[Domain | None, int]:
    """The domain that a call is about, if the caller may ask about it; and the status so far.

    Status: bad_domain, permission_denied.
    """
    dom = call.machine.domain_by_any_id(call.dom, domid)
    if dom is None:
        return None, GNTST_bad_domain
    if privilege.target(call.dom, dom):
        return None, GNTST_permission_denied
    return dom, GNTST_okay


def _list_gfns(call: Call, mfns: Sequence[int], frame_list: int) -> int:
    """Write the gfn of each frame, all ones if it is mapped nowhere; a fault is remembered, and the list goes on.

    All ones has the width of Xen's unsigned long, so a 32-bit Xen leaves the upper half zero.
    """
    nowhere = MASK64 if call.machine.width == 64 else MASK32
    status = GNTST_okay
    for i, mfn in enumerate(mfns):
        gfn = call.machine.frames.xenheap_gfn(mfn)
        if not call.put(layouts.U64, frame_list + 8 * i, nowhere if gfn is None else gfn):
            status = GNTST_bad_virt_addr
    return status


def setup_table(call: Call, uop: int, count: int) -> int:
    """Grow a table to nr_frames frames and list their gfns.

    Result: EINVAL (count not 1), EFAULT. Status: bad_domain, permission_denied, general_error, bad_virt_addr.
    """
    if count != 1:
        return -EINVAL
    data = call.read(uop, layouts.SETUP.size)
    if data is None:
        return -EFAULT
    domid, nr_frames, _, frame_list = layouts.SETUP.unpack(data)
    dom, status = _subject(call, domid)
    if dom is not None:
        table: GrantTable = dom.grant_table
        short = nr_frames > len(table.shared) or (
            table.version > 1 and layouts.grant_to_status_frames(nr_frames) > len(table.status))
        if nr_frames > table.max_grant_frames or (short and grow(call.machine, dom, table, nr_frames)):
            status = GNTST_general_error
        else:
            status = _list_gfns(call, table.shared[:nr_frames], frame_list)
    return 0 if call.put(layouts.STATUS, uop + layouts.SETUP_STATUS_OFFSET, status) else -EFAULT


def query_size(call: Call, uop: int, count: int) -> int:
    """The current and greatest number of frames.

    Result: EINVAL (count not 1), EFAULT. Status: bad_domain, permission_denied.
    """
    if count != 1:
        return -EINVAL
    data = call.read(uop, layouts.QUERY.size)
    if data is None:
        return -EFAULT
    domid, nr_frames, max_nr_frames, _ = layouts.QUERY.unpack(data)
    dom, status = _subject(call, domid)
    if dom is not None:
        nr_frames, max_nr_frames = len(dom.grant_table.shared), dom.grant_table.max_grant_frames
    # the whole struct goes back, the padding as it came
    reply = bytearray(data)
    reply[4:14] = layouts.QUERY.pack(domid, nr_frames, max_nr_frames, status)[4:14]
    return 0 if call.write(uop, bytes(reply)) else -EFAULT


def get_status_frames(call: Call, uop: int, count: int) -> int:
    """List the gfns of status frames.

    Result: EINVAL (count not 1), EFAULT. Status: bad_domain, permission_denied, general_error (more than there are),
    bad_virt_addr.
    """
    if count != 1:
        return -EINVAL
    data = call.read(uop, layouts.STATUS_FRAMES.size)
    if data is None:
        return -EFAULT
    nr_frames, domid, _, frame_list = layouts.STATUS_FRAMES.unpack(data)
    dom, status = _subject(call, domid)
    if dom is not None:
        listed = dom.grant_table.status
        status = (GNTST_general_error if nr_frames > len(listed)
                  else _list_gfns(call, listed[:nr_frames], frame_list))
    return 0 if call.put(layouts.STATUS, uop + layouts.STATUS_FRAMES_STATUS_OFFSET, status) else -EFAULT


def get_version(call: Call, uop: int) -> int:
    """The version of a table. Result: EFAULT, ESRCH, EPERM."""
    data = call.read(uop, layouts.GET_VERSION.size)
    if data is None:
        return -EFAULT
    dom = call.machine.domain_by_any_id(call.dom, layouts.GET_VERSION.unpack(data)[0])
    if dom is None:
        return -ESRCH
    denied = privilege.target(call.dom, dom)
    if denied:
        return denied
    address = uop + layouts.GET_VERSION_VERSION_OFFSET
    return 0 if call.put(layouts.U32, address, dom.grant_table.version) else -EFAULT


# ---- set_version ---------------------------------------------------------------------------------------------


def _preserve_v1(call: Call, table: GrantTable) -> list[tuple[int, int, int]]:
    """(flags, domid, frame) of the reserved entries of a version 1 table."""
    kept = []
    for ref in range(RESERVED_ENTRIES):
        word = entries.read(call.machine, table, ref)
        kept.append((word & 0xFFFF, word >> 16 & 0xFFFF, word >> 32))
    return kept


def _representable(call: Call, table: GrantTable) -> bool:
    """Version 1 can hold the reserved entries: none transitive, no frame of 2**32 or more."""
    for ref in range(RESERVED_ENTRIES):
        kind = entries.read(call.machine, table, ref) & GTF_type_mask
        if kind == GTF_transitive:
            return False
        if kind == GTF_permit_access and entries.read(call.machine, table, ref, 1) >> 32:
            return False
    return True


def _preserve_v2(call: Call, table: GrantTable) -> list[tuple[int, int, int]]:
    """As `_preserve_v1`, of a version 2 table: status joins the flags, and only permit_access entries survive."""
    kept = []
    for ref in range(RESERVED_ENTRIES):
        flags = entries.read(call.machine, table, ref) & 0xFFFF
        if flags & GTF_type_mask == GTF_permit_access:
            flags |= entries.read_status(call.machine, table, ref)
            domid = entries.read(call.machine, table, ref) >> 16 & 0xFFFF
            kept.append((flags, domid, entries.read(call.machine, table, ref, 1) & MASK32))
        else:
            kept.append((0, 0, 0))
    return kept


def _change_version(call: Call, table: GrantTable, version: int) -> int:
    """The change itself, once version is known to be another and allowed. Result: EBUSY, ENOMEM, ERANGE."""
    machine, dom = call.machine, call.dom
    if table.array("pin")[RESERVED_ENTRIES:table.entries].any():
        return -EBUSY
    if table.version == 1:
        error = populate_status_frames(machine, dom, table, len(table.shared))
        if error:
            return error
        kept = _preserve_v1(call, table)
    else:
        if not _representable(call, table):
            return -ERANGE
        kept = _preserve_v2(call, table)
        error = unpopulate_status_frames(machine, dom, table)
        if error:
            return error
    for mfn in table.shared:
        machine.memory.clear(mfn)
    marks = GTF_reading | GTF_writing
    table.version = version
    for ref, (flags, domid, frame) in enumerate(kept):
        if version == 1:
            entries.write(machine, table, ref, flags | domid << 16 | frame << 32)
        else:
            entries.write_status(machine, table, ref, flags & marks)
            entries.write(machine, table, ref, flags & ~marks | domid << 16)
            entries.write(machine, table, ref, frame, 1)
    return 0


def set_version(call: Call, uop: int) -> int:
    """Change the caller's table to version 1 or 2; the version in force is written back whatever the result.

    Result: EFAULT, EINVAL (no such version), ENOSYS (limit 1), EBUSY (a pinned entry beyond the reserved ones; a status
    frame in use: the caller crashes), ENOMEM, ERANGE (a reserved entry that version 1 cannot hold).
    Errors: XenPanic on arm32 when version 2 is left.
    """
    data = call.read(uop, layouts.SET_VERSION.size)
    if data is None:
        return -EFAULT
    version = layouts.SET_VERSION.unpack(data)[0]
    table: GrantTable = call.dom.grant_table
    if version not in {1, 2}:
        result = -EINVAL
    elif version == 2 and table.max_version == 1:
        result = -ENOSYS
    elif version == table.version:
        result = 0
    else:
        result = _change_version(call, table, version)
    return result if call.put(layouts.SET_VERSION, uop, table.version) else -EFAULT


# ---- swap_grant_ref ------------------------------------------------------------------------------------------


def swap_grant_ref(call: Call, ref_a: int, ref_b: int) -> int:
    """Exchange two entries of the caller's own table. Status: bad_gntref, eagain (one is pinned)."""
    machine = call.machine
    table: GrantTable = call.dom.grant_table
    if ref_a >= table.entries or ref_b >= table.entries:
        return GNTST_bad_gntref
    if ref_a == ref_b:
        return GNTST_okay
    if table.pin[ref_a] or table.pin[ref_b]:
        return GNTST_eagain
    for word in range(table.version):
        value_a = entries.read(machine, table, ref_a, word)
        value_b = entries.read(machine, table, ref_b, word)
        entries.write(machine, table, ref_a, value_b, word)
        entries.write(machine, table, ref_b, value_a, word)
    if table.version == 2:
        status_a = entries.read_status(machine, table, ref_a)
        entries.write_status(machine, table, ref_a, entries.read_status(machine, table, ref_b))
        entries.write_status(machine, table, ref_b, status_a)
    return GNTST_okay
