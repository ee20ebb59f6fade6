"""A healthy machine that was made up, and a way to damage any machine's memory and find it whole again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import numpy as np

from bulkhead.auditor.image import Image, from_words
from bulkhead.auditor.judge import Verdict, judge
from bulkhead.auditor.reach import Reach
from bulkhead.auditor.symbols import Symbols
from bulkhead.auditor.synthetic import Machine
from bulkhead.auditor.xen_memory import FIRST_DOMAIN, FREE, Domain, Xen
from impl.fast.geometry import ENTRIES, LAST_LEVEL, PAGE_BITS, shift_of
from impl.fast.walks import ADDRESS, TABLE, TYPE_SHIFT
from spec.state import P2mType

IPA = 0x40000000
HOLE = 0x0D000000


def healthy(*, arm32: bool = False) -> Machine:
    """dom0 and two domUs; dom0 has mapped two grants and a foreign page of dom1, dom2 one grant of dom1."""
    made = Machine(arm32=arm32)
    guests = [made.guest(privileged=number == 0) for number in range(3)]
    for guest in guests:
        first = made.give(guest, 32)
        for page in range(32):
            made.reach(guest, IPA + (page << PAGE_BITS), first + page)
        made.reach(guest, IPA + (2 << 20), made.give(guest, 512, 512), level=2)
        made.reach(guest, 0x08010000, 0x8040, P2mType.MMIO_DIRECT_DEV)
        if guest.number == 1:
            shared = first
    dom0, dom1, dom2 = guests
    made.reach(dom0, HOLE, shared, P2mType.GRANT_MAP_RW)
    made.grant(dom1, 40, dom0, shared)
    made.reach(dom0, HOLE + 0x1000, shared + 1, P2mType.GRANT_MAP_RO)
    made.grant(dom1, 41, dom0, shared + 1, read_only=True)
    made.reach(dom2, HOLE, shared + 2, P2mType.GRANT_MAP_RW)
    made.grant(dom1, 120, dom2, shared + 2)
    made.reach(dom0, HOLE + 0x2000, shared + 3, P2mType.MAP_FOREIGN_RW)
    made.settle()
    return made


@attrs.frozen
class Spot:
    """A leaf: where its descriptor lies [machine address], what it says, and which guest address it translates."""

    place: int
    word: int
    ipa: int

    @property
    def frame(self) -> int:
        return (self.word & ADDRESS) >> PAGE_BITS


class Patient:
    """An image that may be damaged: words of one bank of RAM, and the symbols of Xen."""

    def __init__(self, base: int, words: Any, symbols: Symbols) -> None:
        self.base, self.words, self.symbols = base, words, symbols
        self.image: Image = from_words("patient", [(base, words)])
        self.xen = Xen(self.image, symbols)
        self.vms = self.xen.vms()
        self.reach = Reach(self.image, self.vms)
        self.changed: list[tuple[int, int]] = []

    # ---- looking

    def load(self, address: int) -> int:
        return int(self.words[(address - self.base) >> 3])

    def spots(self, vm: int, level: int, kind: int) -> Iterator[Spot]:
        """The leaves of a VM of one level and one type."""
        for piece in self.reach.trees[vm].pieces():
            if piece.level == level:
                for row, index in zip(*((piece.words >> TYPE_SHIFT) & 15 == kind).nonzero(), strict=True):
                    word = int(piece.words[row, index])
                    if level == LAST_LEVEL or not word & TABLE:
                        yield Spot(int(piece.table[row]) + 8 * int(index), word,
                                   int(piece.base[row]) + (int(index) << shift_of(level)))

    def spot(self, vm: int, level: int = LAST_LEVEL, kind: int = P2mType.RAM_RW) -> Spot:
        """The last leaf of this kind: nobody shares it."""
        *_, last = self.spots(vm, level, kind)
        return last

    def table(self, vm: int, level: int) -> int:
        """The machine address of the first table of a level."""
        return next(int(piece.table[0]) for piece in self.reach.trees[vm].pieces() if piece.level == level)

    def link(self, vm: int, level: int = 2) -> Spot:
        """The entry of a level that leads to the table of `spot`."""
        ipa = self.spot(vm).ipa
        for piece in self.reach.trees[vm].pieces():
            for table, base, words in zip(piece.table.tolist(), piece.base.tolist(), piece.words, strict=True):
                index = (ipa - base) >> shift_of(level)
                if piece.level == level and 0 <= index < ENTRIES:
                    return Spot(table + 8 * index, int(words[index]), base + (index << shift_of(level)))
        raise AssertionError("no table")

    def free(self) -> int:
        """A frame that is free."""
        return self._last(FREE)

    def owned(self, number: int) -> int:
        """A frame of a domain."""
        return self._last(FIRST_DOMAIN + self.xen.domains.index(self.domain(number)))

    def _last(self, owner: int) -> int:
        low, owners = self.xen.owners[0]
        return low + int((owners == owner).nonzero()[0][-1])

    def domain(self, number: int) -> Domain:
        return next(each for each in self.xen.domains if each.number == number)

    def machine(self, address: int) -> int:
        """The machine address behind one of Xen's."""
        found = self.xen.machine(address)
        assert found is not None
        return found

    def record(self, frame: int) -> int:
        """The machine address of a frame's page_info."""
        layout = self.xen.layout
        start = self.xen.number(self.symbols.of("frametable_base_pdx"))
        place = int(self.xen._pdx(np.array([frame], np.uint64))[0]) - start
        return self.machine(layout.frame_table + place * layout.page_words * layout.word)

    def active(self, ref: int) -> int:
        """The machine address of the entry of dom1's grant that is in use."""
        layout = self.xen.layout
        table = self.xen.number(self.domain(1).address + layout.grant_table)
        pages = self.xen.number(table + layout.active)
        page, index = divmod(ref, 4096 // layout.entry_size)
        return self.machine(self.xen.number(pages + page * layout.word) + index * layout.entry_size)

    # ---- damage

    def store(self, address: int, value: int, size: int = 8) -> None:
        """A number within one word."""
        index, shift = (address - self.base) >> 3, 8 * (address % 8)
        mask = ((1 << 8 * size) - 1) << shift
        old = int(self.words[index])
        self.changed.append((index, old))
        self.words[index] = old & ~mask & (1 << 64) - 1 | value << shift & mask

    @contextmanager
    def restored(self) -> Iterator[None]:
        try:
            yield
        finally:
            for index, old in reversed(self.changed):
                self.words[index] = old
            self.changed.clear()

    def verdict(self, *, records: bool = True) -> Verdict:
        """What an audit says now."""
        xen = Xen(self.image, self.symbols) if records else None
        return judge(self.image, xen.vms() if xen else self.vms, xen)
