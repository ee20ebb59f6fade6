"""Makes a difference between walks small: few addresses, few entries, few bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs
import numpy as np

from bulkhead.fuzz.walks.compare import (
    ACCESSES,
    CHUNKS,
    WAYS,
    XEN,
    Answers,
    Difference,
    Ways,
    by_specification,
    fast,
    looked_up_by_specification,
    spec_geometry,
)
from bulkhead.fuzz.walks.tables import ENTRIES, PAGE_BITS, Tables
from spec.language import Gfn, Mfn, Word, decode
from spec.memory import geometry, walk
from spec.memory.descriptors import Vttbr
from spec.memory.walk import Kind

MOST_TRIES: Final = 3000
"""Smaller tables that are tried."""


class _Shrinker:
    """One difference, made smaller step by step."""

    def __init__(self, found: Difference, module: Any) -> None:
        self.module, self.signature = module, found.signature
        self.kind = next((kind for kind in Kind if kind.name.lower() == found.access), None)
        self.best, self.tries = found, 0

    def run(self) -> Difference:
        """The smallest that was found."""
        self._addresses()
        self._entries()
        self._bits()
        self._banks()
        return self.best

    def _holds(self, tables: Tables, addresses: Sequence[int]) -> bool:
        """The difference is still there; then it is the best one."""
        if self.tries >= MOST_TRIES:
            return False
        self.tries += 1
        last = addresses[-1]
        try:
            expected = self._expected(tables, last)
            ways = Ways.of(tables, self.module)
        except (ValueError, KeyError):
            return False
        for name, actual in self._actual(ways, addresses):
            if expected.differ(actual)[0]:
                made = Difference(tables, tuple(addresses), name, self.best.access, expected.at(0), actual.at(0))
                if made.signature == self.signature:
                    self.best = made
                    return True
        return False

    def _expected(self, tables: Tables, ipa: int) -> Answers:
        return looked_up_by_specification(tables, [ipa]) if self.kind is None \
            else by_specification(tables, [ipa], self.kind)

    def _actual(self, ways: Ways, addresses: Sequence[int]) -> Iterator[tuple[str, Answers]]:
        """What each way says of the last address.  Small batches are made so large that arrays are used."""
        few, ipa = self.module.FEW, np.array(addresses, np.uint64)
        batches = [ipa] if len(ipa) > few else [
            np.resize(ipa[::-1], few + 8)[::-1],
            # one address far beyond makes the array walk read every level for each address
            np.concatenate([np.full(few, (1 << 64) - 1, np.uint64), ipa]),
        ]
        access = None if self.kind is None else ACCESSES[self.kind][1]
        for batch in [ipa[-1:], *batches]:
            # one address is looked up by the scalar walk
            if access is None:
                yield XEN, ways.as_xen(batch)[slice(-1, None)]
                continue
            for name, way in WAYS.items():
                if (name == "one by one") == (len(batch) == 1):
                    yield name, way(ways, batch, access)[slice(-1, None)]
        if access is not None and self.best.way == CHUNKS:
            yield CHUNKS, ways.in_chunks(ipa, access)[slice(-1, None)]

    def _addresses(self) -> None:
        """Alone, or with as few others as it takes."""
        addresses = self.best.addresses
        if self._holds(self.best.tables, addresses[-1:]):
            return
        others, step = list(addresses[:-1]), max(1, len(addresses) // 2)
        while step:
            at = 0
            while at < len(others):
                fewer = others[:at] + others[at + step:]
                if self._holds(self.best.tables, [*fewer, addresses[-1]]):
                    others = fewer
                else:
                    at += step
            step //= 2

    def _entries(self) -> None:
        """Only the entries that matter: of those that the walks read, or of all, what is left without halves."""
        words = entries_of(self.best.tables)
        path = set().union(*(_path(self.best.tables, each) for each in self.best.addresses))
        kept = {each: word for each, word in words.items() if each in path}
        if self._holds(_with(self.best.tables, kept), self.best.addresses):
            words = kept
        step = max(1, len(words) // 2)
        while step:
            keys, at = sorted(words), 0
            while at < len(keys):
                gone = set(keys[at:at + step])
                fewer = {each: word for each, word in words.items() if each not in gone}
                if self._holds(_with(self.best.tables, fewer), self.best.addresses):
                    words, keys = fewer, sorted(fewer)
                else:
                    at += step
            step //= 2

    def _bits(self) -> None:
        """Only the bits that matter, in entries, register and address."""
        for entry in sorted(entries_of(self.best.tables)):
            for bit in reversed(range(64)):
                words = entries_of(self.best.tables)
                if words.get(entry, 0) >> bit & 1:
                    words[entry] &= ~(1 << bit)
                    self._holds(_with(self.best.tables, words), self.best.addresses)
        self._holds(attrs.evolve(self.best.tables, vttbr=self.best.tables.vttbr & (1 << 48) - 1), self.best.addresses)
        for bit in reversed(range(64)):
            *others, last = self.best.addresses
            if last >> bit & 1:
                self._holds(self.best.tables, [*others, last & ~(1 << bit)])

    def _banks(self) -> None:
        """Only the RAM that matters."""
        for bank in self.best.tables.banks:
            self._holds(attrs.evolve(self.best.tables, banks=tuple(
                each for each in self.best.tables.banks if each is not bank)), self.best.addresses)


def shrunk(found: Difference, module: Any = fast) -> Difference:
    """The same kind of difference with as few addresses, entries and bits as were found to show it."""
    return _Shrinker(found, module).run()


def entries_of(tables: Tables) -> dict[tuple[int, int], int]:
    """Every word that is not zero, by frame and index."""
    return {(first + int(page), int(index)): int(pages[page, index])
            for first, pages in tables.banks for page, index in zip(*np.nonzero(pages), strict=True)}


def _with(tables: Tables, entries: dict[tuple[int, int], int]) -> Tables:
    """The same RAM with only these words."""
    banks = tuple((first, np.zeros_like(pages)) for first, pages in tables.banks)
    for (frame, index), word in entries.items():
        for first, pages in banks:
            if 0 <= frame - first < len(pages):
                pages[frame - first, index] = word
    return attrs.evolve(tables, banks=banks)


def _path(tables: Tables, ipa: int) -> set[tuple[int, int]]:
    """The words that the specification's walks of an address read."""
    rows, read = tables.rows(), set()

    def words(table: Mfn, index: int) -> Word:
        read.add((int(table), index))
        return Word(rows.get(table, [0] * ENTRIES)[index])

    shape, root = spec_geometry(tables), decode(Vttbr, Word(tables.vttbr)).frame
    walk.walk(words, Word(tables.vttbr), shape, ipa)
    gfn = Gfn(ipa >> PAGE_BITS)
    walk.lookup(words, Mfn(root + geometry.root_page(gfn, shape.start_level)), shape.start_level, gfn)
    return read


__all__ = ["entries_of", "shrunk"]
