"""Changes of a stage-2 tree, millions of pages at a time, that leave what Xen's one-by-one changes would leave.

Xen 4.17 sets one entry after the other (xen/arch/arm/p2m.c, p2m_set_entry). Here the tables that a batch needs are
found, made or split once each, in the order in which single steps would need them, and then all entries are stored at
once. So a batch stops at the same item, with the same tables in place, when table pages run out; only which page
serves for which table may differ. `set_one` and `clear_one` are the single steps.

An entry is live when its p2m type is not 0 (Xen's rule); the valid bit does not matter. What happens to an entry that
is overwritten (references to drop) is the caller's business: it is told of each in `Outcome.displaced`.

Source: xen/arch/arm/p2m.c at 4.17 (p2m_set_entry, __p2m_set_entry, p2m_next_level, p2m_split_superpage,
p2m_free_entry, p2m_set_permission, mfn_to_p2m_entry).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from impl.fast.geometry import ENTRIES, INDEX_BITS, LAST_LEVEL, PAGE_BITS, Geometry
from impl.fast.walks import (
    ACCESSED,
    ADDRESS,
    MEMATTR_SHIFT,
    NO_EXECUTE,
    READ,
    SHARE_SHIFT,
    TABLE,
    TYPE,
    TYPE_SHIFT,
    VALID,
    WRITE,
    Banks,
    BanksLike,
    Bytes,
    Levels,
    Rule,
    Words,
    _Bank,
    descriptors,
)

ENOENT: Final = 2
ENOMEM: Final = 12
EINVAL: Final = 22

BATCH: Final = 1 << 16
"""Items that are stored together."""
MFN_BITS: Final = 36


class RangeError(ValueError):
    """An argument that no change of a tree can use, or a tree that is not one of Xen's; the message says which."""


class Type(IntEnum):
    """Xen's p2m types. Source: xen/include/asm-arm/p2m.h (p2m_type_t), 4.17."""

    INVALID = 0
    RAM_RW = 1
    RAM_RO = 2
    MMIO_DIRECT_DEV = 3
    MMIO_DIRECT_NC = 4
    MMIO_DIRECT_C = 5
    MAP_FOREIGN_RW = 6
    MAP_FOREIGN_RO = 7
    GRANT_MAP_RW = 8
    GRANT_MAP_RO = 9
    IOMMU_MAP_RW = 10
    IOMMU_MAP_RO = 11


class Permit(IntEnum):
    """What mem_access leaves of a type's permissions. Source: xen/include/xen/p2m-common.h (p2m_access_t), 4.17."""

    N = 0
    R = 1
    W = 2
    RW = 3
    X = 4
    RX = 5
    WX = 6
    RWX = 7
    RX2RW = 8
    N2RWX = 9


_READ_ONLY: Final = {Type.RAM_RO, Type.MAP_FOREIGN_RO, Type.GRANT_MAP_RO, Type.IOMMU_MAP_RO}
_EXECUTABLE: Final = {Type.RAM_RW, Type.RAM_RO}
_DEVICE: Final = {Type.MMIO_DIRECT_DEV: 1, Type.MMIO_DIRECT_NC: 5, Type.MMIO_DIRECT_C: 15}
# read 1, write 2, execute 4
_LEFT: Final = (0, 1, 2, 3, 4, 5, 6, 7, 5, 0)


@cache
def page_bits(type: int, permit: int = Permit.RWX) -> int:
    """All bits of a level-3 entry but its address, as Xen makes it for a type [64 bits].

    type: [1..11]. permit: [0..9]. A block lacks TABLE.
    Errors: RangeError for values that are no type or no permission.
    Source: xen/arch/arm/p2m.c (mfn_to_p2m_entry, p2m_set_permission), 4.17.
    """
    if type not in range(1, 12) or permit not in range(10):
        raise RangeError(f"type {type} with access {permit} makes no entry")
    left = _LEFT[permit]
    word = VALID | TABLE | ACCESSED | type << TYPE_SHIFT
    word |= _DEVICE.get(Type(type), 15) << MEMATTR_SHIFT | (2 if type in _DEVICE else 3) << SHARE_SHIFT
    if left & 1:
        word |= READ
    if left & 2 and type not in _READ_ONLY:
        word |= WRITE
    if not (left & 4 and type in _EXECUTABLE):
        word |= NO_EXECUTE
    return word


TABLE_BITS: Final = page_bits(Type.RAM_RW)
"""The bits of an entry that names a table: those of a page of ram_rw, so that its type is not 0."""


class Pool(Protocol):
    """Where table pages come from and go to."""

    def take(self, count: int) -> Words:
        """Addresses of at most `count` free pages of RAM, uint64[k, bytes]; fewer when there are no more."""

    def give(self, address: Words) -> None:
        """Take back pages that serve no longer, uint64[k, bytes]."""


class Displaced(NamedTuple):
    """Entries that were live and lead to another frame now, or to none, in the order of the changes.

    Entries of a table that a block replaced, or that was cleared as a whole, are among them.
    """

    item: NDArray[np.int64]
    """The item that did it, int64[k]; for contiguous ranges the page offset at which its chunk begins."""
    descriptor: Words
    """The old entry, uint64[k]."""
    level: Levels
    """Its level, int8[k, 1..3]."""


_NONE: Final = Displaced(np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, np.int8))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a batch did."""

    done: int
    """Items that are done [0..n]; for contiguous ranges pages."""
    error: int = 0
    """0, or why the next item failed: EINVAL beyond the root, ENOENT without a page for a missing table, ENOMEM
    without a page for a split."""
    displaced: Displaced = _NONE


class Entries(NamedTuple):
    """What Xen's lookup says of guest frames."""

    mfn: Words
    """Machine frame, uint64[n]; 0 where nothing is mapped."""
    type: Bytes
    """p2m type, uint8[n]; 0 where nothing is mapped."""
    level: Levels
    """Level of the entry, int8[n]: 1 for 1 GB, 2 for 2 MB, 3 for 4 KB; the level where the lookup ended if unmapped."""


class _Stop(Exception):
    """An item cannot be done."""

    def __init__(self, error: int) -> None:
        super().__init__(error)
        self.error = error


@dataclass(slots=True)
class _Log:
    """Displaced entries while they gather."""

    item: list[NDArray[np.int64]] = field(default_factory=list)
    word: list[Words] = field(default_factory=list)
    level: list[Levels] = field(default_factory=list)

    def add(self, item: NDArray[np.int64] | int, word: Words, level: int) -> None:
        self.item.append(np.full(len(word), item, np.int64) if isinstance(item, int) else item)
        self.word.append(word)
        self.level.append(np.full(len(word), level, np.int8))

    def result(self) -> Displaced:
        if not self.item:
            return _NONE
        return Displaced(np.concatenate(self.item), np.concatenate(self.word), np.concatenate(self.level))


class Stage2:
    """One guest's tree, to be changed.

    memory: RAM banks, writable. root: address of the first table [bytes, whole zeroed pages of RAM].
    pool: table pages. touch: called with the machine frames (uint64[k]) of tables before words of them are stored.

    Errors: RangeError if the root is not RAM or no page.
    """

    __slots__ = ("_banks", "_parts", "_pool", "_touch", "geometry", "root")

    def __init__(
        self,
        memory: BanksLike,
        root: int,
        geometry: Geometry,
        pool: Pool,
        touch: Callable[[Words], None] | None = None,
    ) -> None:
        self._banks = Banks.of(memory)
        self._parts = self._banks._parts
        pages = np.uint64(root & ADDRESS) + (np.arange(geometry.root_pages, dtype=np.uint64) << np.uint64(PAGE_BITS))
        if root & ~ADDRESS or not self._banks.hold(pages).all():
            raise RangeError(f"the first table at {root:#x} is not made of pages of RAM")
        self.root, self.geometry, self._pool, self._touch = root, geometry, pool, touch

    # ---- one entry -------------------------------------------------------------------------------------------------

    def set_one(self, gfn: int, mfn: int, order: int = 0, type: int = Type.RAM_RW, permit: int = Permit.RWX) -> Outcome:
        """Map one page or block, as Xen's single step does.

        gfn, mfn: [frames, < 2^36], both multiples of 1 << order. order: 0 (4 KB), 9 (2 MB) or 18 (1 GB).
        Returns `done` 0 or 1. Errors: RangeError for arguments that are not of that form.
        """
        target = self._target(order)
        if mfn >> MFN_BITS or (gfn | mfn) & ((1 << order) - 1) or gfn < 0 or mfn < 0:
            raise RangeError(f"gfn {gfn:#x} and mfn {mfn:#x} do not fit a page of order {order}")
        return self._one(gfn, target, mfn << PAGE_BITS | _leaf_bits(page_bits(type, permit), target))

    def clear_one(self, gfn: int, order: int = 0) -> Outcome:
        """Unmap one page or block, whatever is there, as Xen's single step does; arguments as for `set_one`."""
        target = self._target(order)
        if gfn & ((1 << order) - 1) or gfn < 0:
            raise RangeError(f"gfn {gfn:#x} does not fit a page of order {order}")
        return self._one(gfn, target, 0)

    def _one(self, gfn: int, target: int, word: int) -> Outcome:
        log = _Log()
        try:
            self._step(gfn, target, word, 0, log)
        except _Stop as stop:
            return Outcome(0, stop.error)
        return Outcome(1, 0, log.result())

    def _step(self, gfn: int, target: int, word: int, item: int, log: _Log) -> None:
        """Write one entry of level `target`; 0 removes."""
        if gfn >= self.geometry.root_gfns:
            raise _Stop(EINVAL)
        table = self._table(gfn, target, word != 0)
        if table is None:
            return
        index = table + (gfn >> INDEX_BITS * (LAST_LEVEL - target) & ENTRIES - 1)
        part = self._part(index)
        old = part.view[index - part.first]
        self._will_write(index)
        part.view[index - part.first] = word
        if old & TYPE and (old ^ word) & ADDRESS:
            self._free(old, target, item, log)

    # ---- tables ----------------------------------------------------------------------------------------------------

    def _target(self, order: int) -> int:
        """The level of entries of an order."""
        if order not in {0, INDEX_BITS, 2 * INDEX_BITS}:
            raise RangeError(f"no entry has order {order}")
        target = LAST_LEVEL - order // INDEX_BITS
        if target < self.geometry.start_level:
            raise RangeError(f"a tree that starts at level {self.geometry.start_level} has no entry of order {order}")
        return target

    def _part(self, index: int) -> _Bank:
        """The bank of a word, by its address / 8."""
        for part in self._parts:
            if 0 <= index - part.first < part.count:
                return part
        raise RangeError(f"a table at {index << 3 & ADDRESS:#x} is not RAM")

    def _will_write(self, index: int) -> None:
        if self._touch is not None:
            self._touch(np.array([index >> INDEX_BITS], np.uint64))

    def _page(self) -> int | None:
        """A zeroed page of the pool, as address / 8, or None."""
        got = self._pool.take(1)
        if not len(got):
            return None
        index = int(got[0]) >> 3
        part = self._part(index)
        self._will_write(index)
        part.words[index - part.first : index - part.first + ENTRIES] = 0
        return index

    def _table(self, gfn: int, target: int, insert: bool) -> int | None:
        """The table of level `target` for a frame, as address / 8: found, made or split off.

        None if it is missing and nothing is to be inserted. Raises _Stop without pages.
        """
        level = self.geometry.start_level
        shift = INDEX_BITS * (LAST_LEVEL - level)
        # the index into concatenated root pages may exceed 511
        index = (self.root >> 3) + (gfn >> shift)
        if level == target:
            return index & -ENTRIES
        while True:
            part = self._part(index)
            word = part.view[index - part.first]
            if not word & TYPE:
                if not insert:
                    return None
                page = self._page()
                if page is None:
                    raise _Stop(ENOENT)
                word = page << 3 | TABLE_BITS
                self._will_write(index)
                part.view[index - part.first] = word
            elif not word & TABLE:
                split = self._split(word, level, target, gfn)
                if split is None:
                    raise _Stop(ENOMEM)
                word = split
                self._will_write(index)
                part.view[index - part.first] = word
            level += 1
            table = (word & ADDRESS) >> 3
            if level == target:
                return table
            shift -= INDEX_BITS
            index = table + (gfn >> shift & ENTRIES - 1)

    def _split(self, word: int, level: int, target: int, gfn: int) -> int | None:
        """A table of level `level` + 1 that maps what the block `word` maps, down to `target` around `gfn`.

        None without pages: then all pages that were taken are given back, and the block stays.
        """
        page = self._page()
        if page is None:
            return None
        level += 1
        size = 1 << (PAGE_BITS + INDEX_BITS * (LAST_LEVEL - level))
        part = self._part(page)
        row = part.words[page - part.first : page - part.first + ENTRIES]
        row[:] = np.arange(ENTRIES, dtype=np.uint64) * np.uint64(size) + np.uint64(word)
        if level == LAST_LEVEL:
            row |= np.uint64(TABLE)
        if level < target:
            at = gfn >> INDEX_BITS * (LAST_LEVEL - level) & ENTRIES - 1
            inner = self._split(int(row[at]), level, target, gfn)
            if inner is None:
                self._pool.give(np.array([page << 3], np.uint64))
                return None
            row[at] = inner
        return page << 3 | TABLE_BITS

    def _free(self, old: int, level: int, item: int, log: _Log) -> None:
        """An entry has gone: note its leaves, give back its tables."""
        if level == LAST_LEVEL or not old & TABLE:
            log.add(item, np.array([old], np.uint64), level)
            return
        table = (old & ADDRESS) >> 3
        part = self._part(table)
        row = part.words[table - part.first : table - part.first + ENTRIES]
        live = row[(row & np.uint64(TYPE)) != 0]
        if level + 1 == LAST_LEVEL:
            log.add(item, live, LAST_LEVEL)
        else:
            for each in live.tolist():
                self._free(each, level + 1, item, log)
        self._pool.give(np.array([table << 3], np.uint64))

    # ---- many entries ----------------------------------------------------------------------------------------------

    def set(
        self, gfn: Words, mfn: Words, order: int = 0, type: int = Type.RAM_RW, permit: int = Permit.RWX
    ) -> Outcome:
        """Map many pages or blocks of one order: as `set_one` on each, in their order, until one fails.

        gfn, mfn: uint64[n, frames, < 2^36], all multiples of 1 << order; a gfn may occur again, the last counts.
        Errors: RangeError for arguments that are not of that form.
        """
        target = self._target(order)
        gfn, mfn = _frames(gfn, order), _frames(mfn, order)
        if len(gfn) != len(mfn):
            raise RangeError("guest and machine frames are not equally many")
        if len(mfn) and int(mfn.max()) >> MFN_BITS:
            raise RangeError(f"mfn {int(mfn.max()):#x} has more than 36 bits")
        bits = np.uint64(_leaf_bits(page_bits(type, permit), target))
        log = _Log()
        done = 0
        for start in range(0, len(gfn), BATCH):
            word = mfn[start : start + BATCH] << np.uint64(PAGE_BITS)
            word |= bits
            count, error = self._batch(gfn[start : start + BATCH], word, target, start, log)
            done += count
            if error:
                return Outcome(done, error, log.result())
        return Outcome(done, 0, log.result())

    def clear(self, gfn: Words, order: int = 0) -> Outcome:
        """Unmap many pages or blocks of one order: as `clear_one` on each, in their order, until one fails."""
        target = self._target(order)
        gfn = _frames(gfn, order)
        log = _Log()
        done = 0
        for start in range(0, len(gfn), BATCH):
            count, error = self._batch(gfn[start : start + BATCH], None, target, start, log)
            done += count
            if error:
                return Outcome(done, error, log.result())
        return Outcome(done, 0, log.result())

    def populate(self, gfn: Words, mfn: Words, order: int = 0) -> Outcome:
        """Map extents as ram_rw, in their order, until one fails; `done` counts whole extents.

        gfn, mfn: first frames, uint64[n]. order: of the extents [0..18]. Each is mapped as `insert` maps it, so a block
        is used where the alignment of both allows. What an extent that fails mapped already stays.
        Source: xen/common/memory.c (populate_physmap), xen/arch/arm/p2m.c (guest_physmap_add_entry), 4.17.
        """
        if order == 0:
            return self.set(gfn, mfn)
        if not 0 < order <= 18:
            raise RangeError(f"no extent has order {order}")
        gfn, mfn = _frames(gfn, 0), _frames(mfn, 0)
        if len(gfn) != len(mfn):
            raise RangeError("guest and machine frames are not equally many")
        log = _Log()
        done = 0
        use = self._orders(gfn | mfn, order)
        cuts = np.flatnonzero(use[1:] != use[:-1]) + 1
        for first, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(gfn)], strict=True):
            if first == end:
                break
            each = int(use[first])
            per = 1 << (order - each)
            # a few extents at a time: their pages together fill one batch
            step = max(1, BATCH // per)
            for start in range(first, end, step):
                part = slice(start, min(start + step, end))
                inside = np.arange(per, dtype=np.uint64) << np.uint64(each)
                got = self.set(
                    np.add.outer(gfn[part], inside).reshape(-1), np.add.outer(mfn[part], inside).reshape(-1), each
                )
                if len(got.displaced.item):
                    log.item.append(got.displaced.item // per + start)
                    log.word.append(got.displaced.descriptor)
                    log.level.append(got.displaced.level)
                done += got.done // per
                if got.error:
                    return Outcome(done, got.error, log.result())
        return Outcome(done, 0, log.result())

    def _orders(self, low: Words, order: int) -> NDArray[np.int64]:
        """The order of the entries that make up extents of `order` whose frames together have the bits `low`."""
        use = np.zeros(len(low), np.int64)
        for each in (INDEX_BITS, 2 * INDEX_BITS):
            if each <= order and LAST_LEVEL - each // INDEX_BITS >= self.geometry.start_level:
                use[(low & np.uint64((1 << each) - 1)) == 0] = each
        return use

    def insert(self, gfn: int, mfn: int, pages: int, type: int = Type.RAM_RW, permit: int = Permit.RWX) -> Outcome:
        """Map a contiguous range with the blocks that Xen would choose; `done` counts pages.

        gfn, mfn: first frames [< 2^36]. pages: [0..]. Source: xen/arch/arm/p2m.c (p2m_set_entry), 4.17.
        """
        if min(gfn, mfn, pages) < 0 or mfn + pages > 1 << MFN_BITS or gfn + pages >= 1 << 63:
            raise RangeError(f"{pages} pages from gfn {gfn:#x} at mfn {mfn:#x} are no range")
        return self._range(gfn, mfn, pages, lambda guest, frame, order: self.set(guest, frame, order, type, permit))

    def remove(self, gfn: int, pages: int) -> Outcome:
        """Unmap a contiguous range, in the blocks that Xen would choose; `done` counts pages.

        Holes are no error. A block that reaches out of the range is split.
        """
        if min(gfn, pages) < 0 or gfn + pages >= 1 << 63:
            raise RangeError(f"{pages} pages from gfn {gfn:#x} are no range")
        return self._range(gfn, None, pages, lambda guest, frame, order: self.clear(guest, order))

    def _range(
        self, gfn: int, mfn: int | None, pages: int, change: Callable[[Words, Words, int], Outcome]
    ) -> Outcome:
        log = _Log()
        done = 0
        most = INDEX_BITS * (LAST_LEVEL - max(1, self.geometry.start_level))
        for first, count, order in chunks(gfn, mfn, pages, most):
            # bounded scratch, however long the range is
            for start in range(0, count, BATCH):
                inside = np.arange(start, min(start + BATCH, count), dtype=np.uint64) << np.uint64(order)
                inside += np.uint64(first)
                got = change(inside + np.uint64(gfn), inside + np.uint64(mfn or 0), order)
                if len(got.displaced.item):
                    log.item.append((got.displaced.item + start << order) + first)
                    log.word.append(got.displaced.descriptor)
                    log.level.append(got.displaced.level)
                done += got.done << order
                if got.error:
                    return Outcome(done, got.error, log.result())
        return Outcome(done, 0, log.result())

    def protect(self, gfn: Words, permit: int) -> Outcome:
        """Change the permission of many frames, page by page as mem_access does: blocks are split, holes are skipped.

        gfn: uint64[n, frames]. permit: what to leave of the types' permissions [0..9].
        Source: xen/arch/arm/mem_access.c (p2m_set_mem_access), 4.17: there all later mappings are pages too.
        """
        gfn = _frames(gfn, 0)
        # the frames stay: nothing is displaced
        bits = np.array([0, *(page_bits(each, permit) for each in range(1, 12)), 0, 0, 0, 0], np.uint64)
        log = _Log()
        for start in range(0, len(gfn), BATCH):
            guest = gfn[start : start + BATCH]
            mfn, type, _ = self.lookup(guest)
            if int(type.max()) > Type.IOMMU_MAP_RO:
                raise RangeError("an entry has a type that is none")
            at = np.flatnonzero(type)
            if not len(at):
                continue
            word = (mfn[at] << np.uint64(PAGE_BITS)) | bits[type[at]]
            count, error = self._batch(guest[at], word, LAST_LEVEL, 0, log)
            if error:
                return Outcome(start + int(at[count]), error, log.result())
        return Outcome(len(gfn), 0, log.result())

    def lookup(self, gfn: Words) -> Entries:
        """What is mapped at guest frames, live entries counted whether the hardware sees them or not.

        gfn: uint64[n, frames]. Source: xen/arch/arm/p2m.c (p2m_get_entry), 4.17.
        """
        gfn = _frames(gfn, 0)
        far = gfn >= self.geometry.root_gfns
        ipa = np.where(far, np.uint64(0), gfn) << np.uint64(PAGE_BITS)
        word, level = descriptors(self._banks, self.root, self.geometry, ipa, Rule.XEN)
        if (level < 0).any():
            raise RangeError("the tree leads to a table that is not RAM")
        word[far] = 0
        type = (word >> np.uint64(TYPE_SHIFT)).astype(np.uint8) & np.uint8(15)
        pages = _PAGES[level]
        mfn = ((word & np.uint64(ADDRESS)) >> np.uint64(PAGE_BITS)) + (gfn & pages)
        mfn[type == 0] = 0
        return Entries(mfn, type, level)

    def _batch(self, gfn: Words, word: Words | None, target: int, item: int, log: _Log) -> tuple[int, int]:
        """Store one batch of entries of one level; None removes. How many are done, and the error of the next."""
        if not len(gfn):
            return 0, 0
        error = 0
        if int(gfn.max()) >= self.geometry.root_gfns:
            end = int(np.argmax(gfn >= self.geometry.root_gfns))
            gfn, word, error = gfn[:end], None if word is None else word[:end], EINVAL
            if not end:
                return 0, error
        if target < LAST_LEVEL and self._replaces_tables(gfn, target):
            return self._one_by_one(gfn, word, target, item, log, error)
        slots, where, count, error = self._slots(gfn, target, word is not None, error)
        self._store(slots, None if word is None else word[:count], target, item, where, log)
        return count, error

    def _one_by_one(
        self, gfn: Words, word: Words | None, target: int, item: int, log: _Log, error: int
    ) -> tuple[int, int]:
        """Some block replaces a table, whose page later items may take: no shortcut."""
        words = [0] * len(gfn) if word is None else word.tolist()
        for i, (each, value) in enumerate(zip(gfn.tolist(), words, strict=True)):
            try:
                self._step(each, target, value, item + i, log)
            except _Stop as stop:
                return i, stop.error
        return len(words), error

    def _runs(self, gfn: Words, target: int) -> tuple[Words, NDArray[np.int64]]:
        """First frame and length of each run of items that share a table of level `target`."""
        key = gfn >> np.uint64(INDEX_BITS * (LAST_LEVEL + 1 - target))
        cuts = np.flatnonzero(key[1:] != key[:-1])
        first = np.concatenate(([0], cuts + 1))
        return gfn[first], np.diff(np.append(first, len(gfn)))

    def _replaces_tables(self, gfn: Words, target: int) -> bool:
        """A live table stands where one of the blocks shall stand."""
        ends = descriptors(self._banks, self.root, self.geometry, gfn << np.uint64(PAGE_BITS), Rule.XEN)
        return bool(((ends[1] > target) | (ends[1] < 0)).any())

    def _slots(
        self, gfn: Words, target: int, insert: bool, error: int
    ) -> tuple[Words, NDArray[np.int64] | None, int, int]:
        """The entries to be written as addresses / 8, uint64[k], their tables made ready in the order of first use.

        Also the items they belong to (None: all in order), how many items can be done, and the error of the next.
        """
        first, length = self._runs(gfn, target)
        key = first >> np.uint64(INDEX_BITS * (LAST_LEVEL + 1 - target))
        again: NDArray[np.int64] | None = None
        if len(key) < 2 or (key[1:] > key[:-1]).all():
            order = list(range(len(key)))
        else:
            again = _first_like(key)
            order = np.flatnonzero(again == np.arange(len(key))).tolist()
        table = np.zeros(len(first), np.uint64)
        there = np.ones(len(first), np.bool_)
        guests = first.tolist()
        count = len(gfn)
        for at in order:
            try:
                found = self._table(guests[at], target, insert)
            except _Stop as stop:
                count, error = int(length[:at].sum()), stop.error
                break
            if found is None:
                there[at] = False
            else:
                table[at] = found
        if again is not None:
            # a run takes the table of the first run with its key
            table, there = table[again], there[again]
        slots = np.repeat(table, length)[:count]
        slots += (gfn[:count] >> np.uint64(INDEX_BITS * (LAST_LEVEL - target))) & np.uint64(ENTRIES - 1)
        if there.all():
            return slots, None, count, error
        where = np.flatnonzero(np.repeat(there, length)[:count])
        return slots[where], where, count, error

    def _store(
        self,
        slots: Words,
        word: Words | None,
        target: int,
        item: int,
        where: NDArray[np.int64] | None,
        log: _Log,
    ) -> None:
        """Write all entries, and note what they displace.

        slots: addresses / 8, all RAM. where: the items they belong to, if not all in order.
        """
        if not len(slots):
            return
        if self._touch is not None:
            frames = slots >> np.uint64(INDEX_BITS)
            self._touch(np.unique(frames[np.append(True, frames[1:] != frames[:-1])]))
        for part in self._parts:
            place = slots - np.uint64(part.first)
            if int(place.max()) < part.count:
                self._store_in(part, place.view(np.int64), word, target, item, where, log)
                return
        own = _Log()
        for part in self._parts:
            place = slots - np.uint64(part.first)
            mine = np.flatnonzero(place < part.count)
            if len(mine):
                at = mine if where is None else where[mine]
                mine_word = None if word is None else word[mine]
                self._store_in(part, place[mine].view(np.int64), mine_word, target, item, at, own)
        # several banks: back into the order of the items
        said = own.result()
        if len(said.item):
            sort = np.argsort(said.item, kind="stable")
            log.item.append(said.item[sort])
            log.word.append(said.descriptor[sort])
            log.level.append(said.level[sort])

    def _store_in(
        self,
        part: _Bank,
        place: NDArray[np.int64],
        word: Words | None,
        target: int,
        item: int,
        where: NDArray[np.int64] | None,
        log: _Log,
    ) -> None:
        """`_store` in one bank."""
        old = part.words.take(place, mode="clip")
        new: Words | int = 0 if word is None else word
        last: NDArray[np.intp] | None = None
        if len(place) > 1 and not (place[1:] > place[:-1]).all():
            # a slot may occur again: then the later item displaces what the earlier one wrote
            ordered = np.sort(place)
            if (ordered[1:] == ordered[:-1]).any():
                order = np.argsort(place, kind="stable")
                same = place[order[1:]] == place[order[:-1]]
                old[order[1:][same]] = 0 if word is None else word[order[:-1][same]]
                last = order[np.append(~same, True)]
        if int(np.bitwise_or.reduce(old)) & TYPE:
            gone = ((old & np.uint64(TYPE)) != 0) & (((old ^ new) & np.uint64(ADDRESS)) != 0)
            at = np.flatnonzero(gone)
            if len(at):
                items = (at if where is None else where[at]) + item
                log.add(items.astype(np.int64), old[at], target)
        if last is not None:
            part.words[place[last]] = 0 if word is None else word[last]
        else:
            part.words[place] = new


_PAGES: Final = np.array([0, (1 << 18) - 1, (1 << 9) - 1, 0], np.uint64)


def _first_like(key: Words) -> NDArray[np.int64]:
    """For each key the place of the first that equals it, int64[n]; key: uint64[n]."""
    low = int(key.min())
    span = int(key.max()) - low + 1
    if span > 4 * len(key):
        _, once, again = np.unique(key, return_index=True, return_inverse=True)
        return once[again]
    place = (key - np.uint64(low)).view(np.int64)
    first = np.empty(span, np.int64)
    # of equal keys the last store counts: that is the first of them
    first[place[::-1]] = np.arange(len(key) - 1, -1, -1)
    return first[place]


def _leaf_bits(bits: int, level: int) -> int:
    """The bits of a page as those of a leaf of `level`."""
    return bits if level == LAST_LEVEL else bits & ~TABLE


def _frames(frame: Words, order: int) -> Words:
    """Frames as an array that can be used."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint64 or frame.ndim != 1:
        raise RangeError("the frames are no one-dimensional uint64 array")
    if order and int(np.bitwise_or.reduce(frame)) & ((1 << order) - 1):
        raise RangeError(f"some frames do not fit pages of order {order}")
    return frame


def chunks(gfn: int, mfn: int | None, pages: int, most: int = 18) -> Iterator[tuple[int, int, int]]:
    """How Xen cuts a contiguous range: (first page, how many entries, their order) of each stretch.

    gfn, mfn: first frames; mfn None when removing. pages: [0..]. most: the largest order of an entry [0, 9, 18].
    Before each entry Xen looks at the low bits of gfn, mfn and the pages that remain, all together: a range whose end
    is not aligned as its beginning is cut into pages throughout.
    Source: xen/arch/arm/p2m.c (p2m_set_entry), 4.17.
    """
    done = 0
    while done < pages:
        low = (gfn + done) | (0 if mfn is None else mfn + done) | (pages - done)
        order = 0
        while order < most and not low & ((1 << (order + INDEX_BITS)) - 1):
            order += INDEX_BITS
        count = (pages - done) >> order
        if order < most:
            # the next order comes into use where gfn, mfn and the rest are aligned to it at once
            size = 1 << (order + INDEX_BITS)
            ahead = -(gfn + done) % size
            frames_agree = mfn is None or (mfn - gfn) % size == 0
            if frames_agree and (gfn + pages) % size == 0 and ahead < pages - done:
                count = ahead >> order
        yield done, count, order
        done += count << order
