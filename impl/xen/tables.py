"""Xen's live stage-2 tables, read out of the RAM of the running machine.

Sources: Arm DDI 0487 (D8.3: VMSAv8-64 stage 2 descriptors; D17: VTCR_EL2, VTTBR_EL2), Arm DDI 0406C (B3.6: LPAE; B4:
VTCR); the software-defined bits are Xen's (p2m type, bits 58:55).
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import numpy as np
from numpy.typing import NDArray

FRAME = 0x0000_FFFF_FFFF_F000
_TYPE_SHIFT = 55
Words = NDArray[np.uint64]


@attrs.frozen
class Roots:
    """Where a domain's tables are.

    vttbr, vtcr: as read; width: 64 or 32 bits of Xen; hcr: HCR_EL2 (HCR).
    """

    vttbr: int
    vtcr: int
    width: int
    hcr: int = 0

    @property
    def table(self) -> int:
        """Machine address of the first root page."""
        return self.vttbr & FRAME

    @property
    def vmid(self) -> int:
        """The VMID: 8 bits, or 16 where VTCR_EL2.VS says so."""
        bits = 16 if self.width == 64 and self.vtcr >> 19 & 1 else 8
        return self.vttbr >> 48 & ((1 << bits) - 1)

    @property
    def ipa_bits(self) -> int:
        """Bits of a guest address that is translated."""
        if self.width == 64:
            return 64 - (self.vtcr & 63)
        size = self.vtcr & 15
        # T0SZ is signed on 32 bits: S is its sign
        return 32 - (size - 16 if size & 8 else size)

    @property
    def level(self) -> int:
        """The level at which the walk begins."""
        start = self.vtcr >> 6 & 3
        return 2 - start if self.width == 64 else 2 - (start & 1)

    @property
    def pages(self) -> int:
        """Root pages, which lie in a row."""
        return 1 << max(0, self.ipa_bits - 12 - 9 * (4 - self.level))


@attrs.frozen
class Leaf:
    """What one entry maps. gfn, mfn: of its first frame; level: 1 to 3; valid: the hardware finds it; type: Xen's."""

    gfn: int
    mfn: int
    level: int
    valid: bool
    type: int
    readable: bool
    writable: bool
    executable: bool
    word: int

    @property
    def frames(self) -> int:
        """How many frames it maps."""
        return int(1 << 9 * (3 - self.level))


def leaf_of(word: int, gfn: int, level: int, *, valid: bool) -> Leaf:
    """What an entry says. gfn: of its first frame; valid: the hardware finds it."""
    return Leaf(gfn, (word & FRAME) >> 12, level, valid, word >> _TYPE_SHIFT & 15, bool(word & 64), bool(word & 128),
                not word >> 54 & 1, word)


def leaves(words: Words, ram_base: int, roots: Roots) -> Iterator[Leaf]:
    """All leaves of a domain, those with a type but no valid bit too, in no particular order.

    words: RAM; ram_base: its machine address. Tables outside of RAM are left out.
    """
    tables = [(roots.table + 4096 * i, i << 9 * (4 - roots.level), roots.level, True) for i in range(roots.pages)]
    while tables:
        table, base, level, reached = tables.pop()
        start = (table - ram_base) >> 3
        if not 0 <= start <= len(words) - 512:
            continue
        page = words[start:start + 512]
        live = np.nonzero((page >> np.uint64(_TYPE_SHIFT) & np.uint64(15)) | (page & np.uint64(1)))[0].tolist()
        for index in live:
            word = int(page[index])
            gfn = base + (index << 9 * (3 - level))
            valid = reached and bool(word & 1)
            if level < 3 and word & 2:
                tables.append((word & FRAME, gfn, level + 1, valid))
            elif level > 0:
                yield leaf_of(word, gfn, level, valid=valid)


def find(words: Words, ram_base: int, roots: Roots, gfn: int) -> Leaf | None:
    """The leaf that maps a frame, or None."""
    if gfn >> (roots.ipa_bits - 12):
        return None
    table, level, reached = roots.table, roots.level, True
    index = gfn >> 9 * (3 - level)
    while True:
        start = (table - ram_base) // 8 + index
        if not 0 <= start < len(words):
            return None
        word = int(words[start])
        if not word & 1 and not word >> _TYPE_SHIFT & 15:
            return None
        reached = reached and bool(word & 1)
        if level < 3 and word & 2:
            table, level = word & FRAME, level + 1
            index = gfn >> 9 * (3 - level) & 511
            continue
        if level == 0:
            return None
        offset = gfn & ((1 << 9 * (3 - level)) - 1)
        leaf = leaf_of(word, gfn, level, valid=reached)
        return attrs.evolve(leaf, mfn=leaf.mfn + offset)


DEVICE_TYPES = frozenset({3, 4, 5})
"""p2m types of mapped devices (direct, non-cacheable, cacheable). Source: asm/p2m.h; fact sheet "memory"."""


def rows(words: Words, ram_base: int, roots: Roots, domain: int, *, devices: bool = False
         ) -> dict[tuple[int, int], tuple[int | bool, ...]]:
    """The p2m of a domain in the neutral rows of impl.fast.projection.project_p2m, one for each 4 KB.

    devices: with the devices, of which dom0 of a `virt` board has hundreds of gigabytes.
    """
    made: dict[tuple[int, int], tuple[int | bool, ...]] = {}
    for leaf in leaves(words, ram_base, roots):
        if leaf.type in DEVICE_TYPES and not devices:
            continue
        rest = (leaf.type, leaf.valid, leaf.readable, leaf.writable, leaf.executable)
        for i in range(leaf.frames):
            made[domain, leaf.gfn + i] = (leaf.mfn + i, *rest)
    return made
