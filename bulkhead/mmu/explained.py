"""Where QEMU 7.2 walks otherwise than the specification, and why that is no flaw of the specification.

Each entry predicts QEMU's answer exactly: a difference that an entry does not foresee stays a difference.  What QEMU
does was found out by this comparison.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs
import numpy as np

from bulkhead.fuzz.walks.tables import PAGE_BITS
from bulkhead.mmu.expect import NONE, RESERVED, Bytes, Second, attributes, cached, combine
from impl.xen.mmu.machine import Processor
from spec.language import U8, Gfn, Mfn, Word, decode, evolve
from spec.memory import walk
from spec.memory.descriptors import Descriptor
from spec.memory.geometry import Geometry, index
from spec.memory.walk import Fault, Translation


@attrs.frozen
class Otherwise(Second):
    """Stage 2 with what an entry says.

    blocked: no walk is begun.  top_blocks: a block at level 0 maps 512 GB.  ignored: bits of a word that are not
    looked at.  narrow: addresses of tables have 32 bits.  reserved: MemAttr and SH that are reserved mean something.
    first_level: a fault of stage 2 on a walk of stage 1 has the level at which stage 1 was.  mixed: device memory of
    one stage is ordered by the inner cacheability of the other.  lasting: transient memory that is written through is
    not transient.  two_bits: bits 54:53 together say who may execute, of which EL1 is allowed by 00 and 11.
    unread: on arm32, too, what may not be read may be executed.
    """

    blocked: bool = False
    top_blocks: bool = False
    ignored: int = 0
    narrow: bool = False
    reserved: bool = False
    first_level: bool = False
    mixed: bool = False
    lasting: bool = False
    two_bits: bool = False
    unread: bool = False

    def word(self, table: int, index: int) -> Word:
        """A word of a frame, as QEMU reads it.  Errors: KeyError."""
        frame = table & (1 << 32 - PAGE_BITS) - 1 if self.narrow else table
        word = super().word(frame, index) & ~self.ignored
        return Word(word ^ (word >> 53 & 1) << 54 if self.two_bits else word)

    def translate(self, ipa: int) -> Translation:
        """The walk of an address, as QEMU makes it.  Errors: OutsideRamError."""
        if self.blocked:
            return Translation(fault=U8(Fault.TRANSLATION))
        found = super().translate(ipa)
        gfn = Gfn(ipa >> PAGE_BITS)
        if self.top_blocks and found.fault == Fault.TRANSLATION and found.level == 0 and gfn < self.shape.ipa_frames:
            entry = decode(Descriptor, self.word(self.root, index(gfn, 0)))
            if entry.valid:
                found = _top_block(entry, gfn, self.shape)
        if self.unread and found.fault == Fault.NONE and not found.read:
            wider = evolve(self.shape, arm32=False)
            found = attrs.evolve(self, shape=wider, unread=False).translate(ipa)
        if self.reserved and found.memattr & 3 == 0 and found.memattr:
            found = evolve(found, memattr=U8(found.memattr | 3))
        if self.reserved and found.sh == RESERVED:
            found = evolve(found, sh=U8(NONE))
        return found

    def attributes(self, first: Bytes, first_share: Bytes, memory: Bytes, share: Bytes) -> tuple[Bytes, Bytes]:
        """ATTR and SH of both stages, as QEMU combines them."""
        if self.reserved:
            first_share = np.where(first_share == RESERVED, NONE, first_share).astype(np.uint8)
        return attributes(_both(self.mixed, self.lasting)[first, memory], first_share, share)


@functools.cache
def _both(mixed: bool, lasting: bool) -> Bytes:
    """ATTR of both stages, by that of stage 1 and MemAttr."""
    return np.array([[_combined(first, second, mixed, lasting) for second in range(16)] for first in range(256)],
                    np.uint8)


def _combined(first: int, second: int, mixed: bool, lasting: bool) -> int:
    device = first >> 4 == 0 or second >> 2 == 0
    if mixed and device:
        inner = (second & 3) << 2 if second >> 2 == 0 else cached(0xF, second & 3)
        return next((each for each in (0, 4, 8) if each in {first & 0xF, inner}), 0xC)
    found = combine(first, second)
    if lasting and not device and second & 3:
        found |= _lasting(first >> 4, second >> 2) << 4 | _lasting(first & 0xF, second & 3)
    return found


def _lasting(first: int, second: int) -> int:
    """The bit that says of half of ATTR that it is not transient, if QEMU sets it.  first, second: as ``cached``."""
    return 8 if second == 2 and first & 4 and first != 4 else 0


def _top_block(entry: Descriptor, gfn: Gfn, shape: Geometry) -> Translation:
    """What a block at level 0 would map."""
    frame: Mfn = walk.output(entry, gfn, 0)
    return Translation(fault=U8(walk.leaf_fault(entry, entry.frame, shape.output_frames)), level=U8(0), frame=frame,
                       read=entry.read, write=entry.write, execute=walk.may_fetch(entry, shape.arm32),
                       memattr=entry.memattr, sh=entry.sh)


@attrs.frozen
class Entry:
    """A known difference.

    name: in one line.  right: "the specification", "QEMU" or "both".  reason, source: why, by the Arm documents.
    applies: where it can be met.  change: of ``Otherwise``.
    """

    name: str
    right: str
    reason: str
    source: str
    applies: Callable[[Processor, Geometry], bool]
    change: dict[str, bool | int]


EXPLAINED: Final = (
    Entry(
        "input larger than the output", "the specification",
        ("QEMU refuses every walk whose input size is larger than the output size in VTCR_EL2.PS; the architecture "
         "compares it with the size that the processor implements."),
        "Arm DDI 0487, AArch64.S2MinTxSZ, AArch64.S2TxSZFaults",
        lambda processor, shape: not processor.arm32 and shape.ipa_bits > shape.output_bits, {"blocked": True},
    ),
    Entry(
        "start at level 0 with a small output", "the specification",
        ("QEMU refuses a start at level 0 if VTCR_EL2.PS says 42 bits or less; the architecture does so if the "
         "processor implements less than 44."),
        "Arm DDI 0487, AArch64.S2InvalidSL",
        lambda processor, shape: not processor.arm32 and shape.start_level == 0 and shape.output_bits <= 42,
        {"blocked": True},
    ),
    Entry(
        "block at level 0", "the specification",
        ("QEMU lets a block at level 0 of either stage map 512 GB; with the 4 KB granule and 48-bit addresses "
         "(VTCR_EL2.DS = 0) it is reserved, and a translation fault."),
        "Arm DDI 0487, AArch64.DecodeDescriptorType; VMSAv8-64 descriptor formats",
        lambda processor, shape: not processor.arm32, {"top_blocks": True},
    ),
    Entry(
        "bits 47:40 of an Armv7 descriptor", "both",
        ("Armv7 has no address size fault, and software keeps the bits zero.  QEMU ignores them on Armv7 processors.  "
         "The specification faults as AArch32 of Armv8 does, of which QEMU's processor agrees."),
        "Arm DDI 0406C, long-descriptor format (UNK/SBZP); Arm DDI 0487, AArch32.S2Walk",
        lambda processor, shape: processor.version == 7, {"ignored": 0xFF << 40},
    ),
    Entry(
        "table above 4 GB", "the specification",
        ("A 32-bit QEMU reads a table at the low 32 bits of its address; the architecture has 40."),
        "Arm DDI 0406C, TranslationTableWalkLD; Arm DDI 0487, AArch32.S2Walk",
        lambda processor, shape: processor.arm32, {"narrow": True},
    ),
    Entry(
        "level of a stage 2 fault on a walk of stage 1", "the specification",
        ("Where a table of stage 1 cannot be read because of stage 2, the status has the level of stage 2 that "
         "faulted.  QEMU gives the level at which stage 1 was."),
        "Arm DDI 0487, AArch64.S1Walk (returns the fault of AArch64.S2Translate), PAR_EL1.FST",
        lambda processor, shape: not processor.arm32, {"first_level": True},
    ),
    Entry(
        "device and normal memory together", "the specification",
        ("Where one stage says device and the other normal memory, the device's kind holds.  QEMU compares it with the "
         "inner cacheability of the other, as if that were a kind of device."),
        "Arm DDI 0487, S2CombineS1MemAttrs",
        lambda processor, shape: not processor.arm32, {"mixed": True},
    ),
    Entry(
        "transient memory that stage 2 writes through", "the specification",
        ("The hint that it is transient is that of stage 1.  QEMU drops it."),
        "Arm DDI 0487, S2CombineS1AttrHints",
        lambda processor, shape: not processor.arm32, {"lasting": True},
    ),
    Entry(
        "bit 53 of a leaf", "QEMU",
        ("With FEAT_XNX, bits 54:53 say who may execute: EL1 may by 00 and 11.  The specification and impl.fast look "
         "at bit 54 only.  Xen leaves bit 53 at 0, and then both mean the same."),
        "Arm DDI 0487, AArch64.S2DirectBasePermissions, AArch32.S2HasPermissionsFault (FEAT_XNX)",
        lambda processor, shape: processor.version == 8, {"two_bits": True},
    ),
    Entry(
        "instructions that may not be read", "the specification",
        ("On AArch32 what may be executed may be read.  QEMU forgets that where it has FEAT_XNX."),
        "Arm DDI 0487, AArch32.S2HasPermissionsFault",
        lambda processor, shape: processor.arm32 and processor.version == 8, {"unread": True},
    ),
    Entry(
        "reserved MemAttr or SH", "both",
        ("MemAttr with bits 1:0 clear and others set, and SH 0b01, are reserved; what memory that is, is open.  QEMU "
         "takes them for inner write-back and for not shareable.  The specification only hands the fields on."),
        "Arm DDI 0487, S2DecodeCacheability, DecodeShareability (CONSTRAINED UNPREDICTABLE)",
        lambda processor, shape: True, {"reserved": True},
    ),
)


def together(entries: Iterable[Entry], pure: Second) -> Otherwise:
    """Stage 2 with all that these entries say."""
    change: dict[str, Any] = {}
    for each in entries:
        change |= each.change
    return Otherwise(pure.rows, pure.root, pure.shape, **change)


def refused(processor: Processor, shape: Geometry) -> bool:
    """QEMU begins no walk of this shape."""
    return any(each.applies(processor, shape) and "blocked" in each.change for each in EXPLAINED)


__all__ = ["EXPLAINED", "Entry", "Otherwise", "refused", "together"]
