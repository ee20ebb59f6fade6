"""A domain's stage-2 tables in the RAM of the running machine, followed as they change.

A table page that is as it was is not read again: only its words are compared.
"""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray

from impl.xen import tables
from impl.xen.tables import FRAME, Leaf, Roots, leaf_of

Words = NDArray[np.uint64]
_TYPE_SHIFT = np.uint64(55)
_VALID = np.uint64(1)
_DEVICES = np.array(sorted(tables.DEVICE_TYPES), np.uint64)


@attrs.define
class _Page:
    """A table page as it was. address: of its frame; reached: by the hardware; below: (address, reached) by index."""

    address: int
    reached: bool
    words: Words
    below: dict[int, tuple[int, bool]]


class Tracker:
    """The tables of one domain.

    words: RAM; ram_base: its machine address; roots: where the tables are.
    """

    def __init__(self, words: Words, ram_base: int, roots: Roots) -> None:
        self.words = words
        self.ram_base = ram_base
        self.roots = roots
        self._pages: dict[tuple[int, int], _Page] = {}

    def update(self) -> dict[int, int]:
        """Read what changed since the last time: frames of each changed leaf by gfn. The machine should stand still."""
        roots, changed = self.roots, dict[int, int]()
        seen: set[tuple[int, int]] = set()
        pending = [(roots.level, i << 9 * (4 - roots.level), roots.table + 4096 * i, True) for i in range(roots.pages)]
        while pending:
            level, base, address, reached = pending.pop()
            key = level, base
            start = address - self.ram_base >> 3
            if not 0 <= start <= len(self.words) - 512:
                continue
            seen.add(key)
            page = self.words[start:start + 512]
            known = self._pages.get(key)
            if known is None or known.address != address or known.reached != reached or not np.array_equal(
                    known.words, page):
                known = self._read(level, base, address, reached, page.copy(), known, changed)
                self._pages[key] = known
            shift = 9 * (3 - level)
            pending += [(level + 1, base + (index << shift), below, valid)
                        for index, (below, valid) in known.below.items()]
        for key in self._pages.keys() - seen:
            level, base = key
            gone = self._pages.pop(key)
            self._note(level, base, gone.words, np.zeros(512, np.uint64), changed)
        return changed

    def _read(self, level: int, base: int, address: int, reached: bool, words: Words, known: _Page | None,
              changed: dict[int, int]) -> _Page:
        below = {}
        if level < 3:
            for index in (words & np.uint64(2)).nonzero()[0].tolist():
                word = int(words[index])
                if word >> 55 & 15 or word & 1:
                    below[index] = word & FRAME, reached and bool(word & 1)
        before = np.zeros(512, np.uint64) if known is None else known.words
        if known is not None and known.reached != reached:
            # every leaf is reached in another way
            before = ~words
        self._note(level, base, before, words, changed)
        return _Page(address, reached, words, below)

    @staticmethod
    def _note(level: int, base: int, before: Words, after: Words, changed: dict[int, int]) -> None:
        """The gfns of leaves that differ."""
        for index in (before != after).nonzero()[0].tolist():
            for word in (int(before[index]), int(after[index])):
                if level == 3 or (level > 0 and not word & 2 and word >> 55 & 15):
                    first, span = base + (index << 9 * (3 - level)), 1 << 9 * (3 - level)
                    changed[first] = max(span, changed.get(first, 0))
                    break

    def leaves(self, *, devices: bool = True) -> list[Leaf]:
        """All leaves as of the last update, by gfn. devices: those of devices too, of which dom0 has very many."""
        found = []
        for (level, base), page in self._pages.items():
            words = page.words
            kinds = words >> _TYPE_SHIFT & np.uint64(15)
            wanted = (kinds != 0) | (words & _VALID != 0)
            live = (wanted if devices else wanted & ~np.isin(kinds, _DEVICES)).nonzero()[0].tolist()
            shift = 9 * (3 - level)
            for index in live:
                word = int(words[index])
                if level == 3 or (level > 0 and not word & 2):
                    found.append(leaf_of(word, base + (index << shift), level, valid=page.reached and bool(word & 1)))
        return sorted(found, key=lambda leaf: leaf.gfn)

    def find(self, gfn: int) -> Leaf | None:
        """What maps a gfn as of the last update, as a leaf of that frame alone, or None."""
        roots = self.roots
        # a whole root table may reach further than guest addresses do
        if gfn >> 9 * (4 - roots.level) >= roots.pages:
            return None
        level = roots.level
        while True:
            shift = 9 * (3 - level)
            base = gfn >> shift + 9 << shift + 9
            page = self._pages.get((level, base))
            if page is None:
                return None
            index = gfn - base >> shift
            word = int(page.words[index])
            if not word & 1 and not word >> 55 & 15:
                return None
            if level < 3 and word & 2:
                level += 1
                continue
            if level == 0:
                return None
            leaf = leaf_of(word, base + (index << shift), level, valid=page.reached and bool(word & 1))
            return attrs.evolve(leaf, gfn=gfn, mfn=leaf.mfn + gfn - leaf.gfn)

    def levels(self) -> dict[int, int]:
        """How many table pages there are at each level, the root's included."""
        found: dict[int, int] = {}
        for level, _ in self._pages:
            found[level] = found.get(level, 0) + 1
        return found


def row(leaf: Leaf) -> tuple[int | bool, ...]:
    """A leaf of one frame as a row of the neutral projection."""
    return leaf.mfn, leaf.type, leaf.valid, leaf.readable, leaf.writable, leaf.executable


__all__ = ["Leaf", "Tracker", "row", "tables"]
