"""Stage-2 descriptors: the bits of a word of a table, and what each type of mapping means in them.

A word is *valid* for the hardware when bit 0 is set.  It is *live* for Xen when its type is not INVALID:
Xen clears bit 0 of live words to learn of the next access, and sets it again when that access faults.

Source: xen/arch/arm/include/asm/lpae.h (lpae_p2m_t), xen/arch/arm/p2m.c (p2m_set_permission,
mfn_to_p2m_entry, page_to_p2m_table), Xen 4.17; Arm DDI 0487, stage 2 of the VMSAv8-64 descriptor formats.
"""

from __future__ import annotations

import enum

from spec.language import U8, U16, Boolean, Mfn, both, either, evolve, field, flag, ite, layout, neg, one_of
from spec.state import P2mType

ENTRIES = 512
"""Words in a table."""
LEAF_LEVEL = 3
"""The last level of a walk: one word maps 4 KiB."""
LARGEST_LEVEL = 1
"""The first level at which a word can map memory: 1 GiB."""
FRAME_BITS = 36
"""Bits of an output frame: 48-bit addresses."""
PERMISSIONS = 1 << 54 | 1 << 7 | 1 << 6
"""The bits of a word that only say what is permitted."""

NORMAL = 0xF
"""MEMATTR of normal memory, write-back cacheable."""
NORMAL_NC = 0x5
"""MEMATTR of normal memory, not cacheable."""
DEVICE = 0x1
"""MEMATTR of device memory (nGnRE)."""
OUTER = 2
"""SH: outer shareable."""
INNER = 3
"""SH: inner shareable."""


class Access(enum.IntEnum):
    """What a monitor lets a guest do with a page, beside what the type of the mapping says (mem_access)."""

    N = 0
    R = 1
    W = 2
    RW = 3
    X = 4
    RX = 5
    WX = 6
    RWX = 7
    RX2RW = 8
    """Read and execute until the first write, which makes it read and write."""
    N2RWX = 9
    """Nothing until the first access, which makes it everything."""


@layout
class Descriptor:
    """A word of a stage-2 table.

    table: set for a table and for a page of level 3, clear for a block.  frame: where it leads, 36 bits.
    xn: not executable.  type: four bits that the hardware ignores.
    """

    valid: bool = flag(0)
    table: bool = flag(1)
    memattr: U8 = field(2, 4)
    read: bool = flag(6)
    write: bool = flag(7)
    sh: U8 = field(8, 2)
    af: bool = flag(10)
    frame: Mfn = field(12, 36)
    contiguous: bool = flag(52)
    xn: bool = flag(54)
    type: U8 = field(55, 4)


@layout
class Vttbr:
    """VTTBR_EL2, VTTBR: where the root table is, and the tag of translations that are cached from it."""

    frame: Mfn = field(12, 36)
    vmid: U16 = field(48, 16)


# ---- what a type means


def may_write(kind: int) -> Boolean:
    """The type lets the guest write."""
    return one_of(
        kind, P2mType.RAM_RW, P2mType.MMIO_DIRECT_DEV, P2mType.MMIO_DIRECT_NC, P2mType.MMIO_DIRECT_C,
        P2mType.MAP_FOREIGN_RW, P2mType.GRANT_MAP_RW, P2mType.IOMMU_MAP_RW,
    )


def may_execute(kind: int) -> Boolean:
    """The type lets the guest fetch instructions."""
    return one_of(kind, P2mType.RAM_RW, P2mType.RAM_RO)


def memattr_of(kind: int) -> int:
    """MEMATTR of a type."""
    return ite(kind == P2mType.MMIO_DIRECT_DEV, DEVICE, ite(kind == P2mType.MMIO_DIRECT_NC, NORMAL_NC, NORMAL))


def shareability_of(kind: int) -> int:
    """SH of a type."""
    device = one_of(kind, P2mType.MMIO_DIRECT_DEV, P2mType.MMIO_DIRECT_NC, P2mType.MMIO_DIRECT_C)
    return ite(device, OUTER, INNER)


# ---- what a monitor takes away


def lets_read(access: int) -> Boolean:
    """The monitor lets the guest read."""
    return one_of(access, Access.R, Access.RW, Access.RX, Access.RWX, Access.RX2RW)


def lets_write(access: int) -> Boolean:
    """The monitor lets the guest write."""
    return one_of(access, Access.W, Access.RW, Access.WX, Access.RWX)


def lets_execute(access: int) -> Boolean:
    """The monitor lets the guest fetch instructions."""
    return one_of(access, Access.X, Access.RX, Access.WX, Access.RWX, Access.RX2RW)


# ---- making words


def leaf(frame: Mfn, kind: int, access: int, level: int) -> Descriptor:
    """A valid word that maps memory.

    kind: a ``P2mType`` that is not INVALID.  access: an ``Access``.  level: [1..3].
    Source: xen/arch/arm/p2m.c (mfn_to_p2m_entry, p2m_set_permission), Xen 4.17.
    """
    return leaf_with(
        frame, kind, level,
        read=lets_read(access),
        write=both(may_write(kind), lets_write(access)),
        execute=both(may_execute(kind), lets_execute(access)),
    )


def leaf_with(frame: Mfn, kind: int, level: int, *, read: Boolean, write: Boolean, execute: Boolean) -> Descriptor:
    """A valid word that maps memory with these permissions."""
    return Descriptor(
        valid=True, table=level == LEAF_LEVEL, memattr=U8(memattr_of(kind)), read=read, write=write,
        sh=U8(shareability_of(kind)), af=True, frame=frame, contiguous=False, xn=neg(execute), type=U8(kind),
    )


def table_word(frame: Mfn) -> Descriptor:
    """A valid word that leads to the next table; it carries a type so that it counts as live.

    Source: xen/arch/arm/p2m.c (page_to_p2m_table), Xen 4.17.
    """
    return leaf_with(frame, P2mType.RAM_RW, LEAF_LEVEL, read=True, write=True, execute=True)


def piece(block: Descriptor, index: int, level: int) -> Descriptor:
    """The word number ``index`` of the table that takes the place of a block at ``level``.

    level: [1..2].  Everything but frame and table bit is inherited.
    Source: xen/arch/arm/p2m.c (p2m_split_superpage), Xen 4.17.
    """
    step = 1 if level == LEAF_LEVEL - 1 else ENTRIES
    return evolve(block, table=level == LEAF_LEVEL - 1, frame=Mfn(block.frame + index * step))


# ---- reading words


def is_live(entry: Descriptor) -> Boolean:
    """Xen holds this word to be in use, whatever the hardware's valid bit says.

    Source: xen/arch/arm/p2m.c (p2m_is_valid), Xen 4.17.
    """
    return entry.type != P2mType.INVALID


def leads_to_table(entry: Descriptor, level: int) -> Boolean:
    """A live word that leads to the next table.

    Source: xen/arch/arm/p2m.c (p2m_is_mapping), Xen 4.17.
    """
    return both(is_live(entry), entry.table, level < LEAF_LEVEL)


def maps_memory(entry: Descriptor, level: int) -> Boolean:
    """A live word that maps memory.

    Source: xen/arch/arm/p2m.c (p2m_is_mapping, p2m_is_superpage), Xen 4.17.
    """
    return both(is_live(entry), either(neg(entry.table), level == LEAF_LEVEL))
