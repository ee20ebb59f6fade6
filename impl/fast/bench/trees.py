"""Stage-2 trees to measure: built by array operations, with their table pages in random order, as after long use."""

import mmap
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from impl.fast.geometry import ENTRIES, PAGE_BITS, PAGE_BYTES, Geometry, shift_of
from impl.fast.walks import ADDRESS, TABLE, VALID, Banks, Words

RAM_RW = 0x7FF | 1 << 55
"""A page of ram_rw as Xen writes it; a block lacks TABLE."""
GIB = 1 << 30
_NORESERVE = 0x4000


def words_of(size: int) -> Words:
    """Zeroed words of `size` bytes that take host memory only where they are touched."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
    return np.frombuffer(mmap.mmap(-1, size, flags=flags), np.uint64)


@dataclass
class Pool:
    """Table pages of one bank, handed out in random order.

    base: [bytes]; words: uint64[512 * pages].
    """

    base: int
    words: Words
    order: NDArray[np.int64]
    used: int = 0

    @staticmethod
    def of(base: int, pages: int, generator: np.random.Generator) -> "Pool":
        """A pool of `pages` zeroed pages at machine address `base`."""
        return Pool(base, words_of(pages * PAGE_BYTES), generator.permutation(pages).astype(np.int64))

    def take(self, count: int) -> Words:
        """The addresses of `count` pages, uint64[count, bytes]."""
        chosen = self.order[self.used : self.used + count]
        if len(chosen) < count:
            raise MemoryError("the pool of table pages is empty")
        self.used += count
        return np.uint64(self.base) + (chosen.astype(np.uint64) << np.uint64(PAGE_BITS))

    def put(self, address: Words, value: Words) -> None:
        """Store words at machine addresses, uint64[n] each."""
        self.words[((address - np.uint64(self.base)) >> np.uint64(3)).view(np.int64)] = value


@dataclass
class Tree:
    """One guest's tables."""

    root: int
    geometry: Geometry
    tables: int
    leaves: int


def build(pool: Pool, geometry: Geometry, leaves: dict[int, tuple[Words, Words]], low: int = RAM_RW) -> Tree:
    """A tree with the given leaves.

    leaves: level -> (guest addresses ascending, machine addresses), uint64[n, bytes] each.
    low: the attributes of a page.
    """
    start = geometry.start_level
    pages = geometry.root_pages
    run = pool.take(pages) if pages == 1 else None
    if run is None:
        # concatenated: consecutive and aligned, so from the pool's end, where nothing was taken
        raise MemoryError("concatenated roots are laid by hand")
    root = int(run[0])
    tables = {start: (np.zeros(1, np.uint64), run)}
    for level in range(start + 1, 4):
        wanted = [ipa >> np.uint64(shift_of(level - 1)) for at, (ipa, _) in leaves.items() if at >= level]
        prefix = np.unique(np.concatenate(wanted)) if wanted else np.empty(0, np.uint64)
        address = pool.take(len(prefix))
        tables[level] = (prefix, address)
        pool.put(_slot(tables[level - 1], prefix, level - 1), address | np.uint64(low | VALID | TABLE))
    for level, (ipa, target) in leaves.items():
        bits = np.uint64(low | TABLE if level == 3 else low & ~TABLE)
        pool.put(_slot(tables[level], ipa >> np.uint64(shift_of(level)), level), target | bits)
    count = sum(len(address) for _, address in tables.values())
    return Tree(root, geometry, count, sum(len(ipa) for ipa, _ in leaves.values()))


def _slot(tables: tuple[Words, Words], key: Words, level: int) -> Words:
    """The address of the entry for each key (guest address >> shift of the level)."""
    prefix, address = tables
    above = key >> np.uint64(9)
    # keys ascend: find each table once
    at = np.searchsorted(prefix, above)
    return address[at] + ((key & np.uint64(ENTRIES - 1)) << np.uint64(3))


def all_pages(pool: Pool, geometry: Geometry, target: Words) -> Tree:
    """A guest whose memory from address 0 is all 4 KB pages, to the given machine addresses.

    geometry: one that starts at level 1 with one page. target: uint64[n, bytes], n a multiple of 512.
    """
    rows = target.reshape(-1, ENTRIES)
    last = pool.take(len(rows))
    middle = pool.take(-(-len(rows) // ENTRIES))
    root = pool.take(1)
    table = np.uint64(RAM_RW)
    place = ((last - np.uint64(pool.base)) >> np.uint64(PAGE_BITS)).view(np.int64)
    pool.words.reshape(-1, ENTRIES)[place] = rows | table
    slot = np.arange(len(rows), dtype=np.uint64)
    pool.put(middle[slot >> np.uint64(9)] + ((slot & np.uint64(ENTRIES - 1)) << np.uint64(3)), last | table)
    pool.put(root[0] + (np.arange(len(middle), dtype=np.uint64) << np.uint64(3)), middle | table)
    return Tree(int(root[0]), geometry, 1 + len(middle) + len(last), len(target))


def mixed(pool: Pool, geometry: Geometry, generator: np.random.Generator) -> Tree:
    """A guest of 4 GB: one block of 1 GB, and 3 GB of which each 2 MB are one block or 512 pages by chance."""
    big = np.uint64(1 << 21)
    slots: Words = np.arange(GIB, 4 * GIB, 1 << 21, dtype=np.uint64)
    block = generator.random(len(slots)) < 0.5
    offsets: Words = np.arange(0, 1 << 21, PAGE_BYTES, dtype=np.uint64)
    pages: Words = np.add.outer(slots[~block], offsets).reshape(-1)
    frames = generator.permutation(len(pages)).astype(np.uint64) << np.uint64(PAGE_BITS)
    blocks: Words = (generator.permutation(int(block.sum())).astype(np.uint64) + np.uint64(2048)) * big
    return build(
        pool,
        geometry,
        {
            1: (np.zeros(1, np.uint64), np.array([16 * GIB], np.uint64)),
            2: (slots[block], np.uint64(4 * GIB) + blocks),
            3: (pages, frames),
        },
    )


def banks(pool: Pool) -> Banks:
    """The pool as memory."""
    return Banks([(pool.base, pool.words)])


__all__ = ["ADDRESS", "Pool", "Tree", "all_pages", "banks", "build", "mixed", "words_of"]
