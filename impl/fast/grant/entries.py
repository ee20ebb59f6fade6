"""Shared entries and status words, as a peer may rewrite them at any moment: every read of Xen is one read here.

Source: xen/common/grant_table.c at 4.17 (_set_status, _set_status_v1, _set_status_v2, reduce_status_for_pin,
get_paged_frame).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from impl.fast.abi import MASK32, P2M_FOREIGN
from impl.fast.grant.layouts import (
    GNTST_bad_page,
    GNTST_general_error,
    GNTST_okay,
    GTF_permit_access,
    GTF_reading,
    GTF_readonly,
    GTF_sub_page,
    GTF_transitive,
    GTF_type_mask,
    GTF_writing,
)
from impl.fast.grant.table import WRITE_PINS

if TYPE_CHECKING:
    from impl.fast.domains import Domain
    from impl.fast.grant.table import GrantTable
    from impl.fast.machine import Machine

_CMPXCHG_ATTEMPTS: Final = 5


def read(machine: Machine, table: GrantTable, ref: int, word: int = 0) -> int:
    """One read of a 64-bit word of a shared entry; the reference is in range.

    word: 0, or 1 for the second half of a version 2 entry. Version 1: flags 15:0, domid 31:16, frame 63:32.
    Version 2, word 0: flags, domid, then page_off and length (sub-page) or trans_domid; word 1: frame or gref.
    """
    if table.before_access is not None:
        table.before_access(ref)
    if table.version == 1:
        return machine.memory.get(table.shared[ref >> 9], ref & 511)
    return machine.memory.get(table.shared[ref >> 8], (ref & 255) << 1 | word)


def write(machine: Machine, table: GrantTable, ref: int, value: int, word: int = 0) -> None:
    """Store a 64-bit word of a shared entry, as `read` numbers them."""
    if table.version == 1:
        machine.memory.put(table.shared[ref >> 9], ref & 511, value)
    else:
        machine.memory.put(table.shared[ref >> 8], (ref & 255) << 1 | word, value)


def read_status(machine: Machine, table: GrantTable, ref: int) -> int:
    """One read of the status word of a version 2 entry."""
    if table.before_access is not None:
        table.before_access(ref)
    return machine.memory.get(table.status[ref >> 11], (ref & 2047) >> 2) >> ((ref & 3) << 4) & 0xFFFF


def write_status(machine: Machine, table: GrantTable, ref: int, value: int) -> None:
    """Store the status word (16 bits) of a version 2 entry."""
    mfn, index, shift = table.status[ref >> 11], (ref & 2047) >> 2, (ref & 3) << 4
    word = machine.memory.get(mfn, index)
    machine.memory.put(mfn, index, word & ~(0xFFFF << shift) | value << shift)


def _compare_and_exchange(machine: Machine, table: GrantTable, ref: int, expected: int, value: int) -> int:
    """guest_cmpxchg of flags and domid together: what was there; the store happens if that was expected."""
    word = read(machine, table, ref)
    if word & MASK32 == expected:
        machine.memory.put(table.shared[ref >> 9], ref & 511, word & ~MASK32 | value)
    return word & MASK32


def _set_status_v1(machine: Machine, table: GrantTable, ref: int, local: int, readonly: bool, mapping: bool) -> int:
    mask = GTF_type_mask | (GTF_sub_page if mapping else 0)
    pinned = table.pin[ref]
    header = read(machine, table, ref) & MASK32
    for _ in range(_CMPXCHG_ATTEMPTS):
        # the type and the domain are looked at for the first pin only
        if not pinned and (header & mask != GTF_permit_access or header >> 16 != local):
            return GNTST_general_error
        wanted = header | GTF_reading
        if not readonly:
            wanted |= GTF_writing
            if header & GTF_readonly:
                return GNTST_general_error
        seen = _compare_and_exchange(machine, table, ref, header, wanted)
        if seen == header:
            return GNTST_okay
        header = seen
    return GNTST_general_error


def _mismatch_v2(header: int, mask: int, local: int, mapping: bool) -> bool:
    """The header of a version 2 entry does not give the domain what it wants."""
    kind = header & mask
    return header >> 16 & 0xFFFF != local or (kind != GTF_permit_access and (mapping or kind != GTF_transitive))


def _set_status_v2(machine: Machine, table: GrantTable, ref: int, local: int, readonly: bool, mapping: bool) -> int:
    mask = GTF_type_mask | (GTF_sub_page if mapping else 0)
    pinned = table.pin[ref]
    header = read(machine, table, ref)
    if not pinned and _mismatch_v2(header, mask, local, mapping):
        return GNTST_general_error
    if readonly:
        write_status(machine, table, ref, read_status(machine, table, ref) | GTF_reading)
    else:
        if header & GTF_readonly:
            return GNTST_general_error
        write_status(machine, table, ref, read_status(machine, table, ref) | GTF_reading | GTF_writing)
    # the guest sees the status before its flags are read again
    header = read(machine, table, ref)
    if not pinned:
        if _mismatch_v2(header, mask, local, mapping) or (not readonly and header & GTF_readonly):
            clear_status(machine, table, ref, GTF_reading | GTF_writing)
            return GNTST_general_error
    elif header & GTF_readonly:
        # whatever was asked for, a pinned entry that became read-only fails
        clear_status(machine, table, ref, GTF_writing)
        return GNTST_general_error
    return GNTST_okay


def set_status(machine: Machine, table: GrantTable, ref: int, local: int, readonly: bool, mapping: bool) -> int:
    """_set_status: check that the entry allows the access, and mark it as being read (and written).

    ref: in range; local: id of the domain that asks; mapping: a map, to which sub-page grants are closed.
    Returns GNTST_okay or GNTST_general_error.
    """
    if table.version == 1:
        return _set_status_v1(machine, table, ref, local, readonly, mapping)
    return _set_status_v2(machine, table, ref, local, readonly, mapping)


def clear_status(machine: Machine, table: GrantTable, ref: int, flags: int) -> None:
    """gnttab_clear_flags: clear reading or writing where the version keeps them."""
    if table.version == 1:
        write(machine, table, ref, read(machine, table, ref) & ~flags)
    else:
        write_status(machine, table, ref, read_status(machine, table, ref) & ~flags)


def reduce_status(machine: Machine, table: GrantTable, ref: int, readonly: bool) -> None:
    """reduce_status_for_pin: the status marks no more than the pins that are left."""
    pin = table.pin[ref]
    flags = 0 if pin else GTF_reading
    if not readonly and not pin & WRITE_PINS:
        flags |= GTF_writing
    if flags:
        clear_status(machine, table, ref, flags)


def paged_frame(machine: Machine, dom: Domain, gfn: int) -> tuple[int, int]:
    """get_paged_frame: (GNTST_okay, mfn with a new reference), or (GNTST_bad_page, 0).

    gfn: as the guest wrote it, cut to Xen's unsigned long.
    A read-only p2m entry is good enough even for writing.
    """
    if machine.width == 32:
        gfn &= MASK32
    mfn, kind = dom.p2m.get_page_from_gfn(gfn)
    if mfn is None:
        return GNTST_bad_page, 0
    if P2M_FOREIGN >> kind & 1:
        machine.frames.put_page(mfn)
        return GNTST_bad_page, 0
    return GNTST_okay, mfn
