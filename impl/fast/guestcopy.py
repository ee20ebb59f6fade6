"""Copies between Xen and a guest's memory, page by page, as a hypercall's arguments travel.

Stage 1 is the identity. A page is had if the hardware's translation with the wanted permission succeeds, or, when that
fails, if the software lookup finds plain RAM (writable for a write); it must be RAM that the domain itself owns.
Source: xen/arch/arm/guestcopy.c (copy_guest), xen/arch/arm/p2m.c (get_page_from_gva) at 4.17.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from impl.fast import abi

if TYPE_CHECKING:
    from impl.fast.domains import Domain


class Fault(NamedTuple):
    """A copy that stopped. done: bytes copied before the first page that could not be had."""

    done: int


def guest_page(domain: Domain, address: int, *, write: bool) -> int | None:
    """get_page_from_gva: the frame behind a guest virtual address, or None; no reference is kept.

    address: any integer, cut to the width of Xen's addresses.
    """
    machine = domain.machine
    address &= machine.address_mask
    p2m = domain.p2m
    fault, _, mfn = p2m.walk(address, write=write)
    if fault:
        mfn, p2m_type = p2m.find(address >> 12)
        if not abi.P2M_RAM >> p2m_type & 1 or (write and p2m_type != abi.p2m_ram_rw):
            return None
    frames = machine.frames
    if not frames.valid(mfn):
        return None
    i = frames.index(mfn)
    if frames._owner[i] != domain.id or (frames._count[i] + 1) & frames.COUNT <= 1:
        return None
    return mfn


def copy_from_guest(domain: Domain, vcpu: int, address: int, nbytes: int) -> bytes | Fault:
    """raw_copy_from_guest: `nbytes` from a guest address, or how far it came.

    vcpu: the caller's; its translation is the domain's, as stage 1 is the identity.
    """
    offset = address & 0xFFF
    if offset + nbytes <= 4096:
        mfn = guest_page(domain, address, write=False)
        if mfn is None:
            return Fault(0) if nbytes else b""
        return domain.machine.memory.read(mfn, offset, nbytes)
    parts = []
    done = 0
    while done < nbytes:
        size = min(nbytes - done, 4096 - offset)
        mfn = guest_page(domain, address + done, write=False)
        if mfn is None:
            return Fault(done)
        parts.append(domain.machine.memory.read(mfn, offset, size))
        done += size
        offset = 0
    return b"".join(parts)


def copy_to_guest(domain: Domain, vcpu: int, address: int, data: bytes) -> Fault | None:
    """raw_copy_to_guest: None if all was written; else how far it came (the pages before are written)."""
    offset = address & 0xFFF
    done = 0
    while done < len(data):
        size = min(len(data) - done, 4096 - offset)
        mfn = guest_page(domain, address + done, write=True)
        if mfn is None:
            return Fault(done)
        domain.machine.memory.write(mfn, offset, data[done:done + size] if size != len(data) else data)
        done += size
        offset = 0
    return None


def read_word(domain: Domain, vcpu: int, address: int) -> int | None:
    """A 64-bit word of guest memory, or None if it cannot be read."""
    data = copy_from_guest(domain, vcpu, address, 8)
    return None if isinstance(data, Fault) else int.from_bytes(data, "little")


def write_word(domain: Domain, vcpu: int, address: int, value: int) -> bool:
    """Store a 64-bit word in guest memory; False if it cannot be written (whole)."""
    return copy_to_guest(domain, vcpu, address, (value & abi.MASK64).to_bytes(8, "little")) is None
