"""Arguments of one grant_table_op call in the caller's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from impl.fast.guestcopy import Fault, copy_from_guest, copy_to_guest

if TYPE_CHECKING:
    from struct import Struct

    from impl.fast.domains import Domain
    from impl.fast.machine import Machine


class Call:
    """The caller: machine, domain and vCPU."""

    __slots__ = ("dom", "machine", "mask", "vcpu")

    def __init__(self, machine: Machine, dom: Domain, vcpu: int) -> None:
        self.machine = machine
        self.dom = dom
        self.vcpu = vcpu
        self.mask = machine.address_mask

    def read(self, address: int, size: int) -> bytes | None:
        """copy_from_guest: the bytes, or None if not all can be had."""
        data = copy_from_guest(self.dom, self.vcpu, address & self.mask, size)
        return None if isinstance(data, Fault) else data

    def write(self, address: int, data: bytes) -> bool:
        """copy_to_guest: all was written; pages before the one that could not be had are written in any case."""
        return copy_to_guest(self.dom, self.vcpu, address & self.mask, data) is None

    def put(self, layout: Struct, address: int, value: int) -> bool:
        """Write back one field."""
        return self.write(address, layout.pack(value))
