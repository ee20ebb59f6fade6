"""The tree of a domain's stage-2 tables: which tables there are, which blocks, and which table entries are valid.

The specification says what is mapped where; how many tables that takes, it leaves open. Here is Xen's own way, without
descriptors: so it is known when a pool runs dry, how far a walk comes, and how large an entry is.

Source: xen/arch/arm/p2m.c (__p2m_set_entry, p2m_set_entry, p2m_split_superpage, p2m_free_entry, p2m_get_entry,
p2m_invalidate_root, p2m_resolve_translation_fault), Xen 4.17.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import attrs
import immutables

from spec.errors import EINVAL, ENOENT, ENOMEM

LEAF = 3
_BITS = 9

Key = tuple[int, int]


class Node(NamedTuple):
    """A table. mfn: its page; valid: the entry that leads to it; number: counted from the first table made."""

    mfn: int
    valid: bool
    number: int


def _step(level: int) -> int:
    """Bits of a gfn below the index of a level."""
    return _BITS * (LEAF - level)


@attrs.frozen
class Shape:
    """One domain's tree.

    root_level: 0 or 1. tables: (level of the table, gfn >> bits that it covers) -> table; the root is not among them.
    blocks: (level, gfn >> bits below its index) of each mapping of 2 MB or 1 GB. made: tables made so far.
    """

    root_level: int
    tables: immutables.Map[Key, Node] = attrs.field(factory=immutables.Map)
    blocks: immutables.Map[Key, bool] = attrs.field(factory=immutables.Map)
    made: int = 0

    def order_at(self, gfn: int, highest: int) -> int:
        """Order of the mapping at a gfn, or of the empty range around it. highest: gfn ever mapped."""
        level = self.root_level
        if gfn > highest:
            while level < LEAF and (gfn >> _step(level)) << _step(level) <= highest:
                level += 1
            return _step(level)
        while level < LEAF and (level + 1, gfn >> _step(level)) in self.tables:
            level += 1
        return _step(level)

    def in_block(self, gfn: int) -> bool:
        """The gfn is part of a block."""
        return any((level, gfn >> _step(level)) in self.blocks for level in range(self.root_level, LEAF))

    def reached(self, gfn: int) -> bool:
        """Every table entry on the way to a gfn is valid."""
        level = self.root_level
        while level < LEAF:
            node = self.tables.get((level + 1, gfn >> _step(level)))
            if node is None:
                return True
            if not node.valid:
                return False
            level += 1
        return True

    def invalidated(self, root_pages: int) -> Shape:
        """The entries of so many pages of the root are not valid any more."""
        top = self.root_level + 1
        tables = self.tables
        for (level, index), node in self.tables.items():
            if level == top and index < root_pages << _BITS:
                tables = tables.set((level, index), node._replace(valid=False))
        return attrs.evolve(self, tables=tables)

    def repaired(self, gfn: int) -> Shape | None:
        """The first invalid table entry on the way to a gfn made valid, and those in that table invalid.

        None if all are valid: the entry at which the walk ends is meant.
        """
        level = self.root_level
        while level < LEAF:
            key = level + 1, gfn >> _step(level)
            node = self.tables.get(key)
            if node is None:
                return None
            if not node.valid:
                tables = self.tables.set(key, node._replace(valid=True))
                for (below, index), child in self.tables.items():
                    if below == level + 2 and index >> _BITS == key[1]:
                        tables = tables.set((below, index), child._replace(valid=False))
                return attrs.evolve(self, tables=tables)
            level += 1
        return None


class Change:
    """A change of a tree that is being worked out.

    take: asks for a page for a table, with the pages that came back so far; None if there is none.
    taken, given: the pages that were had and that came back, in order. unused: for whoever asks, those left.
    """

    def __init__(self, shape: Shape, take: Callable[[list[int]], int | None]) -> None:
        self.root_level = shape.root_level
        self._shape = shape
        self._tables = shape.tables.mutate()
        self._blocks = shape.blocks.mutate()
        self._made = shape.made
        self._take = take
        self.taken: list[int] = []
        self.given: list[int] = []
        self.unused: list[int] = []

    def shape(self) -> Shape:
        """The tree afterwards; nothing can be changed any more."""
        return attrs.evolve(self._shape, tables=self._tables.finish(), blocks=self._blocks.finish(), made=self._made)

    def _page(self) -> int | None:
        mfn = self._take(self.given)
        if mfn is not None:
            self.taken.append(mfn)
        return mfn

    def _add(self, level: int, index: int, mfn: int) -> None:
        self._tables[level, index] = Node(mfn, True, self._made)
        self._made += 1

    def insert(self, gfn: int, mfn: int, pages: int, end: int = 1 << 64) -> tuple[int, int]:
        """Map a range: (pages mapped, 0 or a negative error).

        end: the first gfn that the root table does not cover.
        Errors: EINVAL there, ENOENT without a page for a table, ENOMEM without one to split a block.
        """
        return self._range(gfn, mfn, pages, removing=False, end=end)

    def remove(self, gfn: int, pages: int, end: int = 1 << 64) -> tuple[int, int]:
        """Unmap a range, as ``insert``: ENOMEM without a page to split a block."""
        return self._range(gfn, 0, pages, removing=True, end=end)

    def _range(self, gfn: int, mfn: int, pages: int, *, removing: bool, end: int = 1 << 64) -> tuple[int, int]:
        done = 0
        while done < pages:
            if gfn >= end:
                return done, -EINVAL
            mask = gfn | pages - done | (0 if removing else mfn)
            order = 18 if not mask & (1 << 18) - 1 else 9 if not mask & 511 else 0
            error = self.entry(gfn, order, removing=removing)
            if error:
                return done, error
            done += 1 << order
            gfn += 1 << order
            mfn += 1 << order
        return done, 0

    def entry(self, gfn: int, order: int, *, removing: bool) -> int:
        """Map or unmap one entry of an order (0, 9, 18): 0 or a negative error."""
        target = LEAF - order // _BITS
        level = self.root_level
        while level < target:
            index = gfn >> _step(level)
            if (level + 1, index) not in self._tables:
                if (level, index) in self._blocks:
                    break
                if removing:
                    return 0
                page = self._page()
                if page is None:
                    return -ENOENT
                self._add(level + 1, index, page)
            level += 1
        if level < target and not self._split(gfn, level, target):
            return -ENOMEM
        if target == LEAF:
            return 0
        key = target, gfn >> _step(target)
        if (target + 1, key[1]) in self._tables:
            self._drop(target + 1, key[1])
        if not removing:
            self._blocks[key] = True
        elif key in self._blocks:
            del self._blocks[key]
        return 0

    def _split(self, gfn: int, level: int, target: int) -> bool:
        """Replace a block by tables down to a level; False, and nothing is changed, without pages for them."""
        pages: list[int] = []
        for _ in range(level, target):
            page = self._page()
            if page is None:
                self.given += pages
                return False
            pages.append(page)
        del self._blocks[level, gfn >> _step(level)]
        for page in pages:
            index = gfn >> _step(level)
            self._add(level + 1, index, page)
            level += 1
            if level < LEAF:
                for each in range(index << _BITS, (index + 1) << _BITS):
                    self._blocks[level, each] = True
                if level < target:
                    del self._blocks[level, gfn >> _step(level)]
        return True

    def _drop(self, level: int, index: int) -> None:
        """Free a table with all that is below it: the tables below first."""
        tables, blocks = self._tables.finish(), self._blocks.finish()
        self._tables, self._blocks = tables.mutate(), blocks.mutate()
        gone = [key for key in tables if key[0] >= level and key[1] >> _BITS * (key[0] - level) == index]
        for key in sorted(gone, key=lambda key: (-key[0], key[1])):
            self.given.append(tables[key].mfn)
            del self._tables[key]
        for key in blocks:
            if key[0] >= level and key[1] >> _BITS * (key[0] - level + 1) == index:
                del self._blocks[key]
