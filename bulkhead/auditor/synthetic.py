"""A machine's memory that was made up: stage-2 tables, and Xen's records in the form in which Xen 4.17 keeps them.

Tests damage such images, and the benchmark times them; nothing in them ever ran.
"""

from __future__ import annotations

from typing import Final

import attrs
import numpy as np

from bulkhead.auditor.image import Image, from_words
from bulkhead.auditor.symbols import ROOTS, START, Symbols
from bulkhead.auditor.vms import Vm
from bulkhead.auditor.xen_memory import LAYOUTS
from impl.fast.bench.trees import words_of
from impl.fast.geometry import ENTRIES, LAST_LEVEL, PAGE_BITS, PAGE_BYTES, Geometry, shift_of
from impl.fast.walks import ADDRESS, TABLE, Words
from spec.language import Mfn, encode
from spec.memory.descriptors import Access, leaf
from spec.state import P2mType

VIRTUAL_START: Final = 0x200000
"""Xen's first byte, as in Xen 4.17."""
UART: Final = 0x1C090000
"""The one device that Xen drives [machine address]."""
_ROOT, _VARIABLES, _XEN_PAGES, _DEVICE = 0x1000, 0x2000, 16, 0x100000
_NAMES: Final = (
    "domain_list", "dom_xen", "dom_io", "frametable_virt_end", "frametable_base_pdx", "pfn_pdx_bottom_mask",
    "pfn_top_mask", "pfn_pdx_hole_shift", "p2m_ipa_bits", "p2m_root_level")
_HEAP: Final = {False: 1 << 47, True: 0x40000000}
"""Where Xen sees RAM: the direct map, or on arm32 the heap."""
_IN_USE: Final = 1
"""A reference count."""


@attrs.frozen
class Guest:
    """A domain of the machine. address: of its struct, as Xen sees it; table: of its grant table; root: frame."""

    number: int
    address: int
    table: int
    root: int


class Machine:
    """Memory in the making: frames are taken from the start of RAM.

    base, size: of RAM [bytes]; on arm32 it must fit the heap.  geometry: of stage 2.
    """

    def __init__(self, *, arm32: bool = False, base: int = 0x40000000, size: int = 64 << 20) -> None:
        self.arm32, self.base, self.size = arm32, base, size
        self.layout = LAYOUTS[arm32]
        self.geometry = Geometry.named("arm32") if arm32 else Geometry(44, 0, 44)
        self.words: Words = words_of(size)
        self.next = base >> PAGE_BITS
        self.guests: list[Guest] = []
        self.xen = self.take(_XEN_PAGES) << PAGE_BITS
        self.heap = _HEAP[arm32]
        self._lay_xen()

    # ---- memory

    def take(self, count: int = 1, align: int = 1) -> int:
        """Frames in a row; the number of the first."""
        first = -(-self.next // align) * align
        self.next = first + count
        if self.next << PAGE_BITS > self.base + self.size:
            raise MemoryError("the machine has no more RAM")
        return first

    def store(self, address: int, value: int, size: int = 8) -> None:
        """A number at a machine address [bytes]; it lies within one word."""
        index, shift = (address - self.base) >> 3, 8 * (address % 8)
        mask = ((1 << 8 * size) - 1) << shift
        self.words[index] = int(self.words[index]) & ~mask & (1 << 64) - 1 | value << shift & mask

    def load(self, address: int) -> int:
        """The word at a machine address."""
        return int(self.words[(address - self.base) >> 3])

    def seen(self, address: int) -> int:
        """A machine address as Xen sees it."""
        return address - self.base + self.heap

    def map(self, root: int, geometry: Geometry, address: int, word: int, level: int = LAST_LEVEL) -> int:
        """Put a descriptor into tables, which are made as needed; where it lies [machine address in bytes].

        root: frame of the first table.  level: of the leaf.
        """
        table, at = root << PAGE_BITS, geometry.start_level
        while True:
            index = address >> shift_of(at)
            place = table + 8 * (index if at == geometry.start_level else index % ENTRIES)
            if at == level:
                self.store(place, word)
                return place
            if not self.load(place):
                self.store(place, self.take() << PAGE_BITS | TABLE_WORD)
            table, at = self.load(place) & ADDRESS, at + 1

    # ---- Xen

    def _lay_xen(self) -> None:
        layout = self.layout
        self.store(self.xen + layout.header, layout.magic, 4)
        address = {name: VIRTUAL_START + _VARIABLES + 8 * place for place, name in enumerate(_NAMES)}
        address |= {START: VIRTUAL_START, ROOTS[self.arm32]: VIRTUAL_START + _ROOT}
        self.symbols = Symbols("made up", self.arm32, address)
        self.xen_root = (self.xen + _ROOT) >> PAGE_BITS
        for page in range(_XEN_PAGES):
            self._map_xen(VIRTUAL_START + page * PAGE_BYTES, self.xen + page * PAGE_BYTES)
        for start in range(0, self.size, 2 << 20):
            self._map_xen(self.heap + start, self.base + start, LAST_LEVEL - 1)
        self._map_xen(VIRTUAL_START + _DEVICE, UART)
        frames = self.size >> PAGE_BITS
        record = layout.page_words * layout.word
        self.frame_table = self.take(-(-frames * record // PAGE_BYTES)) << PAGE_BITS
        for offset in range(0, frames * record, PAGE_BYTES):
            self._map_xen(layout.frame_table + offset, self.frame_table + offset)
        self.own(self.base >> PAGE_BITS, frames, None, free=True)
        for name, value in (
            ("frametable_virt_end", layout.frame_table + frames * record),
            ("frametable_base_pdx", self.base >> PAGE_BITS), ("pfn_pdx_bottom_mask", (1 << 8 * layout.word) - 1),
            ("p2m_ipa_bits", self.geometry.ipa_bits), ("p2m_root_level", self.geometry.start_level),
        ):
            self.set(name, value)
        self.special = [self._struct(0x7FF2), self._struct(0x7FF1)]
        self.set("dom_xen", self.special[0])
        self.set("dom_io", self.special[1])

    def _map_xen(self, address: int, machine: int, level: int = LAST_LEVEL) -> None:
        word = machine | (TABLE_WORD if level == LAST_LEVEL else TABLE_WORD & ~TABLE)
        self.map(self.xen_root, self.layout.geometry, address, word, level)

    def set(self, name: str, value: int) -> None:
        """Give one of Xen's variables a value."""
        self.store(self.xen + self.symbols.of(name) - VIRTUAL_START, value, self.layout.word)

    def own(self, first: int, count: int, owner: int | None, *, free: bool = False) -> None:
        """Say in the frame table whose some frames are: a domain's struct, nobody's (free) or Xen's."""
        layout = self.layout
        bits = 8 * layout.word
        info = 3 << (bits - 9) if free else 0 if owner is None else 1 << (bits - 1) | _IN_USE
        kind = np.dtype(f"u{layout.word}")
        start = (self.frame_table - self.base) // layout.word
        start += (first - (self.base >> PAGE_BITS)) * layout.page_words
        rows = self.words.view(kind)[start:start + count * layout.page_words].reshape(count, layout.page_words)
        rows[:, layout.page_count] = info
        rows[:, layout.page_owner] = owner or 0

    def _struct(self, number: int, root: int = 0) -> int:
        """A struct domain; its address as Xen sees it."""
        layout = self.layout
        at = self.take() << PAGE_BITS
        self.store(at, number, 2)
        self.store(at + layout.vttbr, (number + 1) << 48 | root << PAGE_BITS if root else 0)
        self.store(at + layout.p2m_domain, self.seen(at), layout.word)
        return self.seen(at)

    def guest(self, *, privileged: bool = False) -> Guest:
        """A new domain, with empty tables and a grant table of one frame."""
        layout, number = self.layout, len(self.guests)
        root = self.take(self.geometry.root_pages, self.geometry.root_pages)
        address = self._struct(number, root)
        machine = address - self.heap + self.base
        self.store(machine + layout.privileged, int(privileged), 1)
        table, pages = self.take() << PAGE_BITS, self.take() << PAGE_BITS
        self.store(machine + layout.grant_table, self.seen(table), layout.word)
        self.store(table + layout.table_domain, address, layout.word)
        self.store(table + layout.frames, 1, 4)
        self.store(table + layout.active, self.seen(pages), layout.word)
        for page in range(-(-ENTRIES // (PAGE_BYTES // layout.entry_size))):
            self.store(pages + page * layout.word, self.seen(self.take() << PAGE_BITS), layout.word)
        if self.guests:
            self.store(self.guests[-1].address - self.heap + self.base + layout.next, address, layout.word)
        else:
            self.set("domain_list", address)
        made = Guest(number, address, table, root)
        self.guests.append(made)
        return made

    def give(self, guest: Guest, count: int = 1, align: int = 1) -> int:
        """Frames of a domain's own; the number of the first."""
        first = self.take(count, align)
        self.own(first, count, guest.address)
        return first

    def reach(self, guest: Guest, ipa: int, frame: int, kind: int = P2mType.RAM_RW, level: int = LAST_LEVEL) -> int:
        """Map a frame as Xen does; the machine address of the descriptor."""
        return self.map(guest.root, self.geometry, ipa, int(encode(leaf(Mfn(frame), kind, Access.RWX, level))), level)

    def grant(self, granter: Guest, ref: int, mapper: Guest, frame: int, *, read_only: bool = False) -> int:
        """A grant that the mapper has mapped once; the machine address of its entry."""
        layout = self.layout
        page, index = divmod(ref, PAGE_BYTES // layout.entry_size)
        pages = self._pointer(granter.table + layout.active)
        at = self._pointer(pages + page * layout.word) + index * layout.entry_size
        self.store(at, 1 << 8 if read_only else 1, 4)
        self.store(at + 4, mapper.number, 2)
        self.store(at + layout.entry_mfn, frame, layout.word)
        return at

    def _pointer(self, address: int) -> int:
        """What a pointer of Xen's points to [machine address]."""
        word = self.load(address - address % 8) >> 8 * (address % 8)
        return (word & (1 << 8 * self.layout.word) - 1) - self.heap + self.base

    # ---- the image

    def image(self) -> Image:
        """What an audit reads."""
        return from_words("made up", [(self.base, self.words)])

    def settle(self) -> None:
        """Say in the frame table that what was taken so far, and is no domain's, is Xen's."""
        layout = self.layout
        count = self.next - (self.base >> PAGE_BITS)
        kind = np.dtype(f"u{layout.word}")
        start = (self.frame_table - self.base) // layout.word
        rows = self.words.view(kind)[start:start + count * layout.page_words].reshape(count, layout.page_words)
        rows[rows[:, layout.page_owner] == 0, layout.page_count] = 0

    def vms(self) -> list[Vm]:
        """The domains as VMs."""
        shape, made = self.geometry, []
        for each in self.guests:
            vttbr = (each.number + 1) << 48 | each.root << PAGE_BITS
            made.append(Vm(f"dom{each.number}", vttbr, shape.vtcr(), shape, each.number))
        return made


TABLE_WORD: Final = int(encode(leaf(Mfn(0), P2mType.RAM_RW, Access.RWX, LAST_LEVEL)))
"""What Xen writes beside the address of a table."""
