"""Xen's own records in an image: its domains, the owner of each frame, the grants in use, and the devices it drives.

Everything is found from symbols through Xen's page tables.  Where structs lie within each other was taken from a build
of Xen 4.17.5 with Debian's configuration; pointers that lead back (from a domain's p2m and grant table to the domain)
are checked before anything is believed, so that another build is noticed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from bulkhead.auditor.image import Image
from bulkhead.auditor.symbols import ROOTS, START, Symbols
from bulkhead.auditor.vms import FIRST_RESERVED_DOMID, MOST_VMS, Vm, vm_of
from bulkhead.problems import BadInputError
from impl.fast.geometry import LAST_LEVEL, PAGE_BITS, PAGE_BYTES, Geometry, GeometryError, shift_of
from impl.fast.walks import ADDRESS, TABLE, VALID, Words, descriptors, is_leaf, leaves

XEN, FREE, UNKNOWN, FIRST_DOMAIN = 0, 1, 2, 3
"""Owners of frames: Xen itself, nobody, somebody whom the records do not name; then the domains, in their order."""
MOST_GRANTS: Final = 1 << 20
MOST_DEVICE_FRAMES: Final = 1 << 20
_SEARCHED: Final = 1 << 20
"""Words that are searched for Xen's header at a time."""
_BAD: Final = "the symbols do not fit this image"


@attrs.frozen
class Layout:
    """Where fields lie [bytes].

    word: of a pointer; header, magic: of Xen's image; frame_table: virtual address of the first struct page_info.
    Sources, Xen 4.17: xen/include/xen/sched.h (struct domain), asm/p2m.h (struct p2m_domain), asm/mm.h (struct
    page_info, PGC_*), xen/common/grant_table.c (struct grant_table, active_grant_entry), asm/config.h.
    """

    word: int
    geometry: Geometry
    header: int
    magic: int
    frame_table: int
    # struct domain
    next: int
    grant_table: int
    dying: int
    privileged: int
    target: int
    vttbr: int
    p2m_domain: int
    # struct grant_table
    frames: int
    active: int
    table_domain: int
    # struct active_grant_entry
    entry_size: int
    entry_mfn: int
    # struct page_info, in words
    page_words: int
    page_count: int
    page_owner: int


LAYOUTS: Final = {
    False: Layout(
        word=8, geometry=Geometry(48, 0), header=0x38, magic=0x644D5241, frame_table=32 << 30, next=136,
        grant_table=264, dying=320, privileged=393, target=400, vttbr=568, p2m_domain=712, frames=40, active=72,
        table_domain=128, entry_size=40, entry_mfn=24, page_words=7, page_count=2, page_owner=4),
    True: Layout(
        word=4, geometry=Geometry(32, 1, 40, arm32=True), header=0x24, magic=0x016F2818, frame_table=32 << 20, next=88,
        grant_table=164, dying=196, privileged=249, target=256, vttbr=416, p2m_domain=496, frames=40, active=60,
        table_domain=88, entry_size=32, entry_mfn=20, page_words=8, page_count=2, page_owner=4),
}
"""arm64 and arm32."""


@attrs.frozen
class Domain:
    """A domain as Xen knows it.

    address: virtual address of its struct.  target: number of the domain that it serves as a device model, or None.
    """

    number: int
    address: int
    vttbr: int
    privileged: bool
    dying: bool
    target: int | None = None

    @property
    def name(self) -> str:
        """As Xen's console prints it."""
        return {0x7FF1: "DOM_IO", 0x7FF2: "DOM_XEN"}.get(self.number, f"dom{self.number}")


@attrs.frozen
class Active:
    """A grant that is in use.

    granter, mapper: numbers of domains.  frame: machine frame.  pin: how often it is used, four counts of 8 bits.
    """

    granter: int
    ref: int
    mapper: int
    frame: int
    pin: int

    @property
    def writable(self) -> bool:
        """Somebody maps it for writing: the processor or a device."""
        return bool(self.pin & 0x00FF00FF)


class Memory:
    """Xen's memory in an image. Errors: BadInputError if it is not there, or is another one than the symbols are of.

    address: machine address of Xen's first byte, None to search for it.
    """

    def __init__(self, image: Image, symbols: Symbols, address: int | None = None) -> None:
        self.image, self.symbols, self.layout = image, symbols, LAYOUTS[symbols.arm32]
        self.offset = symbols.of(ROOTS[symbols.arm32]) - symbols.of(START)
        found = [address] if address is not None else self._headers()
        self.root = 0
        for each in found:
            self.root = each + self.offset
            if self.machine(symbols.of(START)) == each:
                break
        else:
            raise BadInputError(f"Xen was not found in the image: {_BAD}")
        self.address: int = each

    # ---- virtual memory

    def _headers(self) -> Iterator[int]:
        """Pages that begin like an image of Xen or another kernel."""
        layout = self.layout
        for base, words in self.image.banks.banks:
            # piece by piece: Xen is mostly near the start, and every page that is looked at is read from the file
            for start in range(0, len(words), _SEARCHED):
                column = words[start + (layout.header >> 3):start + _SEARCHED:PAGE_BYTES >> 3]
                half = column >> np.uint64(32) if layout.header & 4 else column & np.uint64(0xFFFF_FFFF)
                for page in np.flatnonzero(half == layout.magic).tolist():
                    yield base + 8 * start + page * PAGE_BYTES

    def machine(self, address: int) -> int | None:
        """The machine address behind one of Xen's own addresses, None where nothing is mapped [bytes]."""
        found = self._machine(np.array([address], np.uint64))
        return None if found is None else int(found[0])

    def _machine(self, address: Words) -> Words | None:
        """Machine addresses of many, None if one of them is not mapped.

        Source: Arm DDI 0487 D5.2 (stage 1 of EL2 has the same walk); the permissions do not matter here.
        """
        word, level = descriptors(self.image.banks, self.root, self.layout.geometry, address)
        form = word & np.uint64(VALID | TABLE)
        leaf = np.where(level == LAST_LEVEL, VALID | TABLE, VALID)
        if not ((level > 0) & (form == leaf)).all():
            return None
        inside = (np.uint64(1) << (np.uint64(39) - np.uint64(9) * level.astype(np.uint64))) - np.uint64(1)
        return np.asarray(word & np.uint64(ADDRESS) & ~inside | address & inside)

    def pages(self, address: int, count: int) -> Words:
        """Whole pages of Xen's memory, uint64[512 * count]; not copied where they follow each other."""
        where = self._machine(np.uint64(address) + np.arange(count, dtype=np.uint64) * np.uint64(PAGE_BYTES))
        if where is None or not self.image.banks.hold(where).all():
            raise BadInputError(f"Xen's memory at {address:#x} is not in the image: {_BAD}")
        words, first = self.image.banks.one_bank(where >> np.uint64(3))
        if words is not None and (where[1:] - where[:-1] == PAGE_BYTES).all():
            start = int(where[0] >> np.uint64(3)) - first
            return words[start:start + 512 * count]
        rows = self.image.banks.rows(where)
        return rows.read(0, count, np.empty((count, 512), np.uint64)).reshape(-1)

    def bytes(self, address: int, size: int) -> bytes:
        """Some of Xen's memory."""
        first = address - address % PAGE_BYTES
        words = self.pages(first, -(-(address + size - first) // PAGE_BYTES))
        low = (address - first) >> 3
        high = -(-(address - first + size) // 8)
        return words[low:high].tobytes()[address % 8:address % 8 + size]

    def number(self, address: int, size: int = 0) -> int:
        """An unsigned number; size: bytes, by default those of a pointer."""
        return int.from_bytes(self.bytes(address, size or self.layout.word), "little")

    def named(self, name: str) -> int:
        """The number at a symbol, of a pointer's size."""
        return self.number(self.symbols.of(name))

    # ---- records

    def _pdx(self, frame: Words) -> Words:
        """The numbers of frames without the holes between banks."""
        low = np.uint64(self.named("pfn_pdx_bottom_mask"))
        high = np.uint64(self.named("pfn_top_mask"))
        shift = np.uint64(self.number(self.symbols.of("pfn_pdx_hole_shift"), 4))
        return frame & low | (frame & high) >> shift

    def count_info(self, frame: int) -> int:
        """Where the count of references to a frame lies, with its state above it [machine address].

        Errors: BadInputError. Source: asm/mm.h (struct page_info, mfn_to_page), Xen 4.17.
        """
        layout = self.layout
        number = int(self._pdx(np.array([frame], np.uint64))[0]) - self.named("frametable_base_pdx")
        found = self.machine(layout.frame_table + (number * layout.page_words + layout.page_count) * layout.word)
        if found is None:
            raise BadInputError(f"the frame table has no entry for frame {frame:#x}: {_BAD}")
        return found

    def domains_now(self) -> Iterator[Domain]:
        """Every domain in Xen's list. Errors: BadInputError."""
        layout, symbols = self.layout, self.symbols
        at = self.named("domain_list")
        seen: dict[int, int] = {}
        found: list[tuple[Domain, int]] = []
        while at:
            if at in seen or len(seen) > MOST_VMS:
                raise BadInputError(f"the list of domains is endless: {_BAD}")
            domain = self.domain_at(at)
            if self.number(at + layout.p2m_domain) != at or domain.number >= FIRST_RESERVED_DOMID:
                raise BadInputError(f"the domain at {at:#x} is none: {_BAD}")
            seen[at] = domain.number
            found.append((domain, self.number(at + layout.target)))
            at = self.number(at + layout.next)
        if not found:
            raise BadInputError(f"{symbols.name}: Xen had no domains yet")
        for domain, target in found:
            yield attrs.evolve(domain, target=seen.get(target))

    def domain_at(self, at: int) -> Domain:
        """The domain whose struct lies at a virtual address."""
        layout = self.layout
        privileged, dying = self.number(at + layout.privileged, 1), self.number(at + layout.dying, 4)
        return Domain(self.number(at, 2), at, self.number(at + layout.vttbr, 8), bool(privileged), bool(dying))

    def active_now(self, domains: Iterable[Domain]) -> Iterator[Active]:
        """All grants in use that these domains have given.

        Errors: BadInputError. Source: xen/common/grant_table.c (_active_entry), Xen 4.17.
        """
        layout = self.layout
        for domain in domains:
            table = self.number(domain.address + layout.grant_table)
            if not table:
                continue
            if self.number(table + layout.table_domain) != domain.address:
                raise BadInputError(f"the grant table of {domain.name} belongs to somebody else: {_BAD}")
            frames = self.number(table + layout.frames, 4)
            each_page = PAGE_BYTES // layout.entry_size
            entries = frames * PAGE_BYTES // 8
            if entries > MOST_GRANTS:
                raise BadInputError(f"the grant table of {domain.name} has {frames} frames: {_BAD}")
            pages = self.number(table + layout.active)
            for page in range(-(-entries // each_page)):
                at = self.number(pages + page * layout.word)
                data = np.frombuffer(self.bytes(at, each_page * layout.entry_size), np.uint8)
                rows = data.reshape(each_page, layout.entry_size)
                pins = rows[:, :4].copy().view(np.uint32)[:, 0]
                for index in np.flatnonzero(pins).tolist():
                    entry = rows[index].tobytes()
                    mfn = int.from_bytes(entry[layout.entry_mfn:layout.entry_mfn + layout.word], "little")
                    yield Active(domain.number, page * each_page + index, int.from_bytes(entry[4:6], "little"), mfn,
                                 int(pins[index]))


class Xen(Memory):
    """Xen in an image, with all its records. Parameters and errors: as of `Memory`."""

    def __init__(self, image: Image, symbols: Symbols, address: int | None = None) -> None:
        super().__init__(image, symbols, address)
        self.domains = tuple(self.domains_now())
        self.special = tuple(self._special())
        self.owners = self._owners()
        self.active = tuple(self.active_now(self.domains))
        self.devices = self._devices()

    # ---- domains

    def _special(self) -> Iterator[Domain]:
        """DOM_XEN and DOM_IO, which own frames and run nowhere."""
        for name in ("dom_xen", "dom_io"):
            if at := self.named(name):
                yield self.domain_at(at)

    def vms(self) -> list[Vm]:
        """The domains as VMs, with the VTCR that Xen uses for all.

        Source: xen/arch/arm/p2m.c (setup_virt_paging, p2m_load_VTTBR), Xen 4.17.
        """
        if self.symbols.arm32:
            geometry = Geometry.named("arm32")
        else:
            bits = self.number(self.symbols.of("p2m_ipa_bits"), 4)
            level = self.number(self.symbols.of("p2m_root_level"), 4)
            try:
                geometry = Geometry(bits, level, bits)
            except GeometryError as problem:
                raise BadInputError(f"{problem}: {_BAD}") from None
        return [vm_of(each.name, each.vttbr, geometry.vtcr(), arm32=self.symbols.arm32, domain=each.number)
                for each in self.domains]

    def owner_name(self, owner: int) -> str:
        """An owner in words."""
        if owner < FIRST_DOMAIN:
            return ("Xen", "free", "nobody known")[owner]
        return (*self.domains, *self.special)[owner - FIRST_DOMAIN].name

    # ---- frames

    def _owners(self) -> list[tuple[int, npt.NDArray[np.uint16]]]:
        """For each range of RAM its first frame and the owner of each frame.

        Sources: asm/mm.h (mfn_to_page, PGC_state), xen/include/xen/pdx.h (pfn_to_pdx), Xen 4.17.
        """
        layout = self.layout
        size = layout.page_words * layout.word
        count = (self.named("frametable_virt_end") - layout.frame_table) // size
        base = self.named("frametable_base_pdx")
        last = np.array([(start + length - 1) >> PAGE_BITS for start, length in self.image.ram], np.uint64)
        # what lies beyond the image's RAM is not asked for
        count = min(count, int(self._pdx(last).max()) + 1 - base)
        if count <= 0:
            raise BadInputError(f"the frame table has no entries for this RAM: {_BAD}")
        words = self.pages(layout.frame_table, -(-count * size // PAGE_BYTES))
        kind: Any = np.uint64 if layout.word == 8 else np.uint32
        table = words.view(kind)[:count * layout.page_words].reshape(count, layout.page_words)
        known = (*self.domains, *self.special)
        pointers = np.array(sorted((each.address, place + FIRST_DOMAIN) for place, each in enumerate(known)), np.uint64)
        found = []
        for low, length in ((base_ >> PAGE_BITS, size_ >> PAGE_BITS) for base_, size_ in self.image.ram):
            place = self._pdx(np.arange(low, low + length, dtype=np.uint64)) - np.uint64(base)
            owner = np.full(length, UNKNOWN, np.uint16)
            for start in range(0, length, 1 << 16):
                part = place[start:start + (1 << 16)]
                inside = np.flatnonzero(part < np.uint64(count))
                rows = table[part[inside].view(np.int64)]
                owner[start + inside] = self._owner(rows[:, layout.page_count], rows[:, layout.page_owner], pointers)
            found.append((low, owner))
        return found

    def _owner(self, count: npt.NDArray[Any], pointer: npt.NDArray[Any], known: Words) -> npt.NDArray[np.uint16]:
        """The owners of some frames, by the count_info and domain pointer of each."""
        bits = 8 * self.layout.word
        count = count.astype(np.uint64)
        pointer = pointer.astype(np.uint64)
        place = np.searchsorted(known[:, 0], pointer)
        place[place == len(known)] = 0
        owner = np.where(known[place, 0] == pointer, known[place, 1], UNKNOWN).astype(np.uint16)
        # without a reference the place of the pointer holds something else
        held = np.uint64(1 << (bits - 1) | (1 << (bits - 10)) - 1)
        owner[(pointer == 0) | ((count & held) == 0)] = XEN
        owner[(count >> np.uint64(bits - 9)) & np.uint64(3) == 3] = FREE
        return owner

    def owner(self, frame: int) -> int:
        """The owner of one frame; UNKNOWN outside RAM."""
        for low, owner in self.owners:
            if 0 <= frame - low < len(owner):
                return int(owner[frame - low])
        return UNKNOWN

    def _devices(self) -> Words:
        """Frames outside RAM that Xen has mapped for itself, ascending: the interrupt controller, the console, ..."""
        banks, geometry = self.image.banks, self.layout.geometry
        found = [np.empty(0, np.uint64)]
        for chunk in leaves(banks, self.root, geometry).chunks():
            word = chunk.descriptor[is_leaf(chunk.descriptor, chunk.level, geometry)]
            span = 1 << (shift_of(chunk.level) - PAGE_BITS)
            first = (word & np.uint64(ADDRESS)) >> np.uint64(PAGE_BITS) & ~np.uint64(span - 1)
            ram = np.zeros(len(first), np.bool_)
            for base, size in self.image.ram:
                ram |= (first < (base + size) >> PAGE_BITS) & (first + np.uint64(span) > base >> PAGE_BITS)
            first = first[~ram]
            if len(first) * span > MOST_DEVICE_FRAMES:
                raise BadInputError(f"Xen has mapped more than {MOST_DEVICE_FRAMES} frames outside RAM: {_BAD}")
            if len(first):
                found.append(np.add.outer(first, np.arange(span, dtype=np.uint64)).reshape(-1))
        return np.unique(np.concatenate(found))
