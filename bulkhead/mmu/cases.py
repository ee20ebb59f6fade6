"""Tables of ``bulkhead.fuzz.walks`` in the RAM of a bare processor.

RAM is whole there, from address 0 on: a frame in which the generator put nothing holds zeros, and what lies beyond the
end is no memory.  The tables that the generator puts at the end of the output addresses are beyond it.
"""

from __future__ import annotations

from typing import Final

import attrs
import numpy as np

from bulkhead.fuzz.walks import tables as generator
from bulkhead.fuzz.walks.tables import ENTRIES, FRAME, LEAF_LEVEL, PAGE_BITS, Shape, Tables, Words, span_bits
from impl.xen.mmu.machine import FREE, PROCESSORS, RESERVED, Mmu, Processor

ELSEWHERE: Final = 1 << 29
"""Set in an address below ``RESERVED``, it leads away from what the payload uses."""
WITHIN: Final = 0xFFFF_F000
"""The bits of a frame that decide that: a 32-bit QEMU looks at no others (see ``explained``)."""

CHAIN: Final = FREE >> PAGE_BITS
"""Frames of the tables of the window, which no other table names."""
TARGET: Final = CHAIN + 16
TARGETS: Final = 64
"""Frames to which the window leads, over and over."""
_GOOD: Final = 0xF << 2 | 3 << 8 | 1 << 10 | 3 << 6 | 3
"""A page of normal memory that may be read and written."""
_FLAWS: Final = (0, 1, 6, 7, 10, 31, 39, 47)
"""Bits that are turned over in entries of the window that shall fault."""


class Rows(dict[int, list[int]]):
    """The words of each frame of RAM, read when they are asked for."""

    def __init__(self, pages: Words) -> None:
        super().__init__()
        self._pages = pages

    def __missing__(self, frame: int) -> list[int]:
        if frame not in self:
            raise KeyError(frame)
        row: list[int] = self._pages[frame].tolist()
        self[frame] = row
        return row

    def __contains__(self, frame: object) -> bool:
        return isinstance(frame, int) and frame < len(self._pages)


@attrs.frozen(eq=False)
class InRam(Tables):
    """Tables in the RAM of a processor, which is one bank."""

    def rows(self) -> dict[int, list[int]]:
        """The words of each frame, as they are now."""
        return Rows(self.banks[0][1])


def suited(shape: Shape) -> list[Processor]:
    """The processors that have addresses of these sizes, and walks from this level."""
    least = 44 if shape.start_level == 0 else 0
    return [each for each in PROCESSORS if each.arm32 == shape.arm32
            and max(shape.ipa_bits, shape.output_bits, least) <= each.pa_bits]


def make(seed: int, number: int, count: int) -> tuple[Tables, Words]:
    """Tables of a case, without any that would be where the payload is, and the addresses at which to walk them.

    seed, number, count: as for ``bulkhead.fuzz.walks.tables.make``.
    """
    case = generator.make(seed, number, count)
    root = int(_away(np.array([case.tables.vttbr & FRAME], np.uint64))[0])
    banks = tuple((first, _away(pages)) for first, pages in case.tables.banks)
    return attrs.evolve(case.tables, vttbr=case.tables.vttbr & ~FRAME | root, banks=banks), np.unique(case.addresses)


def place(mmu: Mmu, tables: Tables) -> InRam:
    """Put tables into RAM, as far as it reaches."""
    mmu.clear()
    for first, pages in tables.banks:
        if first + len(pages) <= len(mmu.pages):
            mmu.pages[first:first + len(pages)] = pages
    return InRam(tables.arm32, tables.vtcr, tables.vttbr, ((0, mmu.pages),), tables.name)


def _away(word: Words) -> Words:
    """Words that lead to no frame of the payload."""
    low = word & np.uint64(WITHIN) < np.uint64(RESERVED)
    return np.where(low & (word != 0), word | np.uint64(ELSEWHERE), word)


def open_window(mmu: Mmu, tables: Tables, shape: Shape, rng: np.random.Generator) -> int | None:
    """Make one entry of the root lead to ``TARGETS`` frames; the guest address of the first, or None if it cannot.

    Page n of the 512 that it maps is frame ``TARGET + n % TARGETS``.  The first ``TARGETS`` may be read and written; of
    the others half fault in some way.  On arm32 the address has 32 bits.
    """
    root = (tables.vttbr & FRAME) >> PAGE_BITS
    if root + shape.root_pages > len(mmu.pages):
        return None
    entries = shape.root_pages * shape.root_entries
    if shape.arm32:
        entries = min(entries, 1 << 32 - span_bits(shape.start_level))
    page, slot = divmod(int(rng.integers(entries)), shape.root_entries)
    mmu.pages[root + page, slot] = CHAIN << PAGE_BITS | 3
    last = CHAIN + LEAF_LEVEL - 1 - shape.start_level
    mmu.pages[CHAIN:last] = 0
    for table in range(CHAIN, last):
        mmu.pages[table, 0] = table + 1 << PAGE_BITS | 3
    number = np.arange(ENTRIES, dtype=np.uint64)
    word = (number % np.uint64(TARGETS) + np.uint64(TARGET)) << np.uint64(PAGE_BITS) | np.uint64(_GOOD)
    flawed = (number >= TARGETS) & (rng.random(ENTRIES) < 0.5)
    mmu.pages[last] = np.where(flawed, word ^ np.uint64(1) << rng.choice(np.array(_FLAWS, np.uint64), ENTRIES), word)
    return page << span_bits(shape.start_level - 1) | slot << span_bits(shape.start_level)


__all__ = ["CHAIN", "TARGET", "TARGETS", "InRam", "Rows", "make", "open_window", "place", "suited"]
