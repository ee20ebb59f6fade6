"""In how many ways a VM can reach memory, and what a descriptor says of it."""

from __future__ import annotations

from typing import Final

import attrs

from bulkhead.auditor.tree import Piece
from bulkhead.auditor.vms import Vm
from bulkhead.mappings import HARDWARE, HYPERVISOR, UNREACHABLE
from impl.fast.geometry import LAST_LEVEL
from impl.fast.walks import ACCESSED, ADDRESS, NO_EXECUTE, READ, TABLE, TYPE_SHIFT, VALID, WRITE
from spec.state import P2mType

LAST_TYPE: Final = max(P2mType)
_BITS: Final = ~(ADDRESS | VALID | TABLE) & (1 << 64) - 1
_MEMORY: Final = {
    0: "device-nGnRnE", 1: "device-nGnRE", 2: "device-nGRE", 3: "device-GRE", 5: "normal-nc", 15: "normal"}


@attrs.frozen
class Kind:
    """One way in which one VM reaches memory.

    vm: its place in the list of VMs.  bits: a descriptor without address, valid and table bit.  valid: HARDWARE,
    HYPERVISOR or UNREACHABLE.
    """

    vm: int
    bits: int
    valid: str
    arm32: bool

    @property
    def type(self) -> int:
        """Xen's p2m type [0..15]."""
        return self.bits >> TYPE_SHIFT & 15

    @property
    def memory(self) -> str:
        """Memory type of stage 2."""
        value = self.bits >> 2 & 15
        if value in _MEMORY:
            return _MEMORY[value]
        return "reserved" if value in (4, 8, 12) else f"normal-{value:#x}"

    @property
    def shareability(self) -> int:
        """SH [0..3]."""
        return self.bits >> 8 & 3

    @property
    def access(self) -> str:
        """What the guest may do, as in ``rwx``; AArch32 executes only what it may read."""
        read = bool(self.bits & READ)
        execute = not self.bits & NO_EXECUTE and (read or not self.arm32)
        return ("r" if read else "-") + ("w" if self.bits & WRITE else "-") + ("x" if execute else "-")


def kind_of(number: int, vm: Vm, piece: Piece, word: int) -> Kind:
    """The kind of a leaf; number: the VM's place in the list."""
    if piece.beyond or not word & ACCESSED or is_reserved(piece.level, word):
        valid = UNREACHABLE
    else:
        valid = HARDWARE if piece.reached and word & VALID else HYPERVISOR
    return Kind(number, word & _BITS, valid, vm.geometry.arm32)


def is_reserved(level: int, word: int) -> bool:
    """A leaf where there is none, or of no form. Source: Arm DDI 0487 D5.3 (reserved encodings)."""
    return level == 0 or (level == LAST_LEVEL and not word & TABLE)


def type_name(kind: int) -> str:
    """Xen's name of a p2m type [0..15]."""
    return P2mType(kind).name.lower() if 0 < kind <= LAST_TYPE else f"type {kind}"


def how(kind: Kind) -> str:
    """How a VM reaches something, in words."""
    closed = "" if kind.valid != UNREACHABLE else ", though no access gets through"
    return f"{type_name(kind.type)}, {kind.access}{closed}"
