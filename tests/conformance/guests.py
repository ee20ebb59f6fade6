"""What guests of real Xen do in these tests: structs in their memory, and calls."""

from __future__ import annotations

import struct
from typing import Any

from impl.xen.machine import Machine, Run
from impl.xen.mailbox import Ref

DOMID_SELF = 0x7FF0
MEMORY_OP, XEN_VERSION, GRANT_TABLE_OP = 12, 17, 20
EFAULT = 14


class Call:
    """A guest's vCPU with a page for arguments."""

    def __init__(self, machine: Machine, domain: int, vcpu: int = 0) -> None:
        self.machine, self.domain, self.vcpu = machine, domain, vcpu
        self.base = self.machine.ram(self.domain)[0]
        self.page = self.base + 0x1000
        self.program = self.machine.program(self.domain, self.vcpu)

    def go(self) -> Run:
        """Run what was collected, all of it."""
        run = self.machine.run(self.domain, self.vcpu, self.program)
        assert run.loss is None, run.loss
        self.program = self.machine.program(self.domain, self.vcpu)
        return run

    def struct(self, offset: int, form: str, *values: Any) -> int:
        """Put a struct into the page of arguments; its address."""
        self.program.put(self.page + offset, struct.pack("<" + form, *values))
        return self.page + offset

    def reservation(self, command: int, gfn: int, offset: int = 0x100) -> int:
        """memory_op populate (6) or decrease (1) of one page; the item of the call."""
        extents = self.struct(offset + 0x40, "Q", gfn)
        return self.program.hypercall(
            MEMORY_OP, command, self.struct(offset, "QQIIHxxxxxx", extents, 1, 0, 0, DOMID_SELF))

    def grant_table_at(self, ipa: int) -> int:
        """Map the first frame of the own grant table; the item of the call."""
        return self.program.hypercall(
            MEMORY_OP, 7, self.struct(0x200, "HHIQQ", DOMID_SELF, 0, 1, 0, ipa >> 12))

    def map(self, granter: int, ref: int, ipa: int, *, readonly: bool = False, offset: int = 0x300
            ) -> tuple[int, int, int]:
        """Map a grant; the items of the call, of the status and of the handle."""
        flags = 6 if readonly else 2
        address = self.struct(offset, "QIIHhIQ", ipa, flags, ref, granter, 0x77, 0, 0)
        call = self.program.hypercall(GRANT_TABLE_OP, 0, address, 1)
        return call, self.program.load(address + 18, 2), self.program.load(address + 20, 4)

    def unmap(self, handle: int, ipa: int, offset: int = 0x380) -> tuple[int, int]:
        """Unmap the handle of an earlier item; the items of the call and of the status."""
        address = self.struct(offset, "QQIhxx", ipa, 0, 0, 0x77)
        self.program.store(address + 16, 4, Ref(handle))
        return self.program.hypercall(GRANT_TABLE_OP, 1, address, 1), self.program.load(address + 20, 2)


def grant_entry(flags: int, domain: int, gfn: int) -> int:
    """A grant entry of version 1 as one word."""
    return flags | domain << 16 | gfn << 32
