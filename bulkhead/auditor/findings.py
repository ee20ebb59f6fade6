"""What an audit can find, and how it is said."""

from __future__ import annotations

from typing import Final

import attrs

from bulkhead.audit import NOT_CHECKED, VIOLATION
from bulkhead.layout import size_text

VIOLATIONS: Final = {
    "table-page": "a VM reaches a page of stage-2 tables",
    "table-shared": "a table page is used twice, by two VMs or within one",
    "table-owned": "a table page is not Xen's by Xen's own records",
    "xen-memory": "a VM reaches memory that is Xen's by Xen's own records",
    "xen-device": "a VM reaches a device that Xen itself drives",
    "freed-frame": "a VM reaches a frame that is free by Xen's own records",
    "unexplained": "a VM has the memory of another one as its own",
    "grant-missing": "a page is mapped as granted, and no grant to this VM is in use for it",
    "grant-rights": "a page is mapped for writing, and its grant is for reading only",
    "foreign-unprivileged": "a VM without privilege maps another VM's memory as foreign",
    "excess-rights": "a mapping permits more than its type does",
    "memory-type": "a mapping has another memory type or shareability than its type",
    "device-ram": "RAM is mapped as a device",
    "not-ram": "memory is mapped where the machine has no RAM",
    "descriptor": "a descriptor that Xen never writes: reserved bits or forms, bad alignment, a table outside RAM",
    "vmid": "two VMs have the same VMID, so that each may use what the other's walks have cached",
}
DOUBTS: Final = {
    "truncated": "the image lacks a part of the machine's RAM",
    "owner-unknown": "Xen's records do not say whose a frame is",
    "vm-list": "the VMs that were given are not those that Xen knows",
    "too-many": "so much is shared that not all of it was looked at",
}


@attrs.frozen
class Finding:
    """One thing that is not as it should be.

    kind: a key of VIOLATIONS or DOUBTS.  vm: its name, or "".  machine: address in bytes, None if there is none.
    size: bytes.  ipa: guest address in bytes, None if it is not known.  why: in words.
    """

    kind: str
    vm: str
    why: str
    machine: int | None = None
    size: int = 0
    ipa: int | None = None

    @property
    def severity(self) -> str:
        """It is a violation, or says that something is not checked."""
        return VIOLATION if self.kind in VIOLATIONS else NOT_CHECKED

    @property
    def text(self) -> str:
        """All of it, on one line."""
        where = [self.vm] if self.vm else []
        if self.ipa is not None:
            where.append(f"IPA {self.ipa:#x}")
        if self.machine is not None:
            where.append(f"machine {self.machine:#x}, {size_text(self.size)}")
        return f"{', '.join(where)}: {self.why}" if where else self.why
