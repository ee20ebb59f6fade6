"""Stage-2 translation tables of one domain, in real LPAE descriptors in the board's RAM.

Xen keeps the type of a mapping in bits 58:55, which the hardware ignores; an entry is live when its type is not
invalid, whatever its hardware valid bit says. Stores follow break-before-make; the TLB is modelled a VMID.
Source: xen/arch/arm/p2m.c at 4.17; Arm DDI 0487 section D8 (stage 2, 4 KB granule, long descriptors).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from impl.fast import abi
from impl.fast.abi import EILSEQ, EINVAL, ENOENT, ENOMEM, ERESTART, INVALID_MFN
from impl.fast.errors import XenPanic

if TYPE_CHECKING:
    from impl.fast.domains import Domain
    from impl.fast.machine import Machine

VALID = 1
TABLE = 2
READ = 1 << 6
WRITE = 1 << 7
AF = 1 << 10
XN = 1 << 54
TYPE_SHIFT = 55
FRAME = ((1 << 48) - 1) & ~0xFFF
PERMISSIONS = XN | WRITE | READ

_SH_OUTER = 2 << 8
_SH_INNER = 3 << 8
_NORMAL_WB = 0xF << 2
_DEVICE_NGNRE = 0x1 << 2
_NORMAL_NC = 0x5 << 2
_INVALID_GFN = (1 << 64) - 1
_ZERO = bytes(4096)
_NOT_VALID = np.uint64(~VALID & abi.MASK64)
_INDICES = np.arange(512, dtype=np.uint64)


def _steps(first: int, step: int) -> NDArray[np.uint64]:
    """The 512 descriptors first, first + step, ...."""
    return np.uint64(first) + _INDICES * np.uint64(step)


def _attributes(p2m_type: int) -> int:
    """Everything of a leaf but the frame and the table bit. Source: mfn_to_p2m_entry, p2m_set_permission."""
    word = VALID | READ | AF | p2m_type << TYPE_SHIFT
    if p2m_type == abi.p2m_mmio_direct_dev:
        word |= _DEVICE_NGNRE | _SH_OUTER
    elif p2m_type == abi.p2m_mmio_direct_nc:
        word |= _NORMAL_NC | _SH_OUTER
    elif p2m_type == abi.p2m_mmio_direct_c:
        word |= _NORMAL_WB | _SH_OUTER
    else:
        word |= _NORMAL_WB | _SH_INNER
    if p2m_type not in {abi.p2m_ram_rw, abi.p2m_ram_ro}:
        word |= XN
    if p2m_type not in {abi.p2m_invalid, abi.p2m_ram_ro, abi.p2m_map_foreign_ro, abi.p2m_grant_map_ro,
                        abi.p2m_iommu_map_ro}:
        word |= WRITE
    return word


_ATTRIBUTES = tuple(_attributes(t) for t in range(12))
_TABLE_ATTRIBUTES = _ATTRIBUTES[abi.p2m_ram_rw] | TABLE


class Entry(NamedTuple):
    """What a lookup finds.

    mfn: machine frame of the gfn itself, INVALID_MFN if nothing is mapped; type: 0..11; order: of the mapping, or of
    the empty range around the gfn (0, 9, 18, or 27 at a level-0 root); level: 0..3; valid: the hardware valid bit;
    readable, writable, executable: what the descriptor allows (False without mapping).
    """

    mfn: int
    type: int
    order: int
    level: int
    valid: bool
    readable: bool
    writable: bool
    executable: bool


class Walk(NamedTuple):
    """What the hardware finds for an access.

    fault: "" or "translation" or "permission"; level: where the walk ended; mfn: the frame if there was no fault.
    """

    fault: str
    level: int
    mfn: int


class P2m:
    """The stage-2 table of one domain (struct p2m_domain and its pool of table pages).

    root: first of `root_pages` concatenated root frames; max_mapped_gfn, lowest_mapped_gfn as in Xen (0 and all ones at
    first; updated by insertion only); tables: frame -> (level, first gfn) of each table below the root, newest first;
    freelist: free pool frames, next first; pool_total: frames in the pool, used ones included (the hardware domain
    takes tables from the heap instead).
    """

    def __init__(self, machine: Machine, domain: Domain) -> None:
        self.machine = machine
        self.domain = domain
        self.memory = machine.memory
        self.root_level = machine.root_level
        self.root_pages = machine.root_pages
        self.root: int | None = None
        self.vmid = 0
        self.max_mapped_gfn = 0
        self.lowest_mapped_gfn = _INVALID_GFN if machine.width == 64 else abi.MASK32
        self.need_flush = False
        self.tables: OrderedDict[int, tuple[int, int]] = OrderedDict()
        self.freelist: OrderedDict[int, None] = OrderedDict()
        self.pool_total = 0
        self.tlb: dict[int, tuple[int, int]] = {}       # gfn -> (mfn, attributes of the descriptor)
        self.flushes = 0

    # ---- table pages ------------------------------------------------------------------------------------------

    def _alloc_page(self) -> int | None:
        """p2m_alloc_page: a frame for a table, or None."""
        frames = self.machine.frames
        if self.domain.is_hardware:
            if frames.forced and frames.forced[0][0] == "table":
                frames.forced[0] = ("frame", frames.forced[0][1])
            return frames.alloc_domheap(None, 0, kind="table")
        if not self.freelist:
            return None
        mfn = next(iter(self.freelist))
        if frames.forced and frames.forced[0][0] == "table":
            wanted = frames.forced.popleft()[1]
            if wanted in self.freelist:
                mfn = wanted
        del self.freelist[mfn]
        frames.choices.append(("table", mfn))
        return mfn

    def _free_page(self, mfn: int) -> None:
        """p2m_free_page: back to the pool's tail, or to the heap for the hardware domain."""
        if self.domain.is_hardware:
            self.machine.frames.free_domheap(mfn)
        else:
            self.freelist[mfn] = None

    def set_allocation(self, pages: int, *, preemptible: bool) -> int:
        """p2m_set_allocation: grow or shrink the pool to `pages` frames.

        Returns 0, -ENOMEM (no heap, or too few free pool frames), or -ERESTART.
        """
        frames = self.machine.frames
        while True:
            if self.pool_total < pages:
                mfn = frames.alloc_domheap(None, 0)
                if mfn is None:
                    return -ENOMEM
                self.pool_total += 1
                self.freelist[mfn] = None
            elif self.pool_total > pages:
                if not self.freelist:
                    return -ENOMEM
                mfn, _ = self.freelist.popitem(last=False)
                self.pool_total -= 1
                frames.free_domheap(mfn)
            else:
                return 0
            if preemptible and self.machine.preempt_check():
                return -ERESTART

    # ---- stores -----------------------------------------------------------------------------------------------

    def _store(self, mfn: int, index: int, word: int) -> None:
        """write_pte: a live hardware-valid entry is only ever replaced through an invalid one."""
        self.memory.put(mfn, index, word)

    def flush(self) -> None:
        """p2m_force_tlb_flush_sync: drop what the TLB holds for the VMID."""
        self.tlb.clear()
        self.need_flush = False
        self.flushes += 1

    def unlock(self) -> None:
        """p2m_write_unlock: the deferred flush happens here."""
        if self.need_flush:
            self.flush()

    # ---- reading ----------------------------------------------------------------------------------------------

    def lookup(self, gfn: int) -> Entry:
        """p2m_get_entry: what is mapped at a gfn, whether or not the hardware valid bit is set.

        gfn: 0..2**52-1 (arm32: 0..2**32-1).
        """
        level = self.root_level
        if gfn > self.max_mapped_gfn:
            while level < 3:
                if (gfn >> 9 * (3 - level)) << 9 * (3 - level) > self.max_mapped_gfn:
                    break
                level += 1
            return Entry(INVALID_MFN, 0, 9 * (3 - level), level, False, False, False, False)
        shift = 9 * (3 - level)
        index = gfn >> shift
        if self.root is None or index >= self.root_pages << 9:
            return Entry(INVALID_MFN, 0, shift, level, False, False, False, False)
        get = self.memory.get
        word = get(self.root, index)
        while level < 3 and word >> TYPE_SHIFT & 15 and word & TABLE:
            level += 1
            shift -= 9
            word = get((word & FRAME) >> 12, gfn >> shift & 511)
        p2m_type = word >> TYPE_SHIFT & 15
        if not p2m_type:
            return Entry(INVALID_MFN, 0, shift, level, False, False, False, False)
        return Entry(((word & FRAME) >> 12) + (gfn & ((1 << shift) - 1)), p2m_type, shift, level, bool(word & VALID),
                     bool(word & READ), bool(word & WRITE), not word & XN)

    def find(self, gfn: int) -> tuple[int, int]:
        """(mfn, type) of a gfn: `lookup` without the rest."""
        if gfn > self.max_mapped_gfn:
            return INVALID_MFN, 0
        level = self.root_level
        shift = 9 * (3 - level)
        index = gfn >> shift
        if self.root is None or index >= self.root_pages << 9:
            return INVALID_MFN, 0
        get = self.memory.get
        word = get(self.root, index)
        while level < 3 and word >> TYPE_SHIFT & 15 and word & TABLE:
            level += 1
            shift -= 9
            word = get((word & FRAME) >> 12, gfn >> shift & 511)
        p2m_type = word >> TYPE_SHIFT & 15
        if not p2m_type:
            return INVALID_MFN, 0
        return ((word & FRAME) >> 12) + (gfn & ((1 << shift) - 1)), p2m_type

    def get_page_from_gfn(self, gfn: int) -> tuple[int | None, int]:
        """(frame with a new reference, type); the frame is None unless any RAM that may be had from this domain.

        A foreign map gives the frame whoever owns it; everything else only if this domain owns it.
        Source: p2m_get_page_from_gfn, as of the change for XSA-473.
        """
        mfn, p2m_type = self.find(gfn)
        frames = self.machine.frames
        if not abi.P2M_ANY_RAM >> p2m_type & 1 or not frames.valid(mfn):
            return None, p2m_type
        if abi.P2M_FOREIGN >> p2m_type & 1:
            owner = frames.get_owner_and_reference(mfn)
            if owner is None:
                return None, p2m_type
            if owner == self.domain.id:
                raise XenPanic("p2m_get_page_from_gfn: foreign map of a frame of the domain itself")
            return mfn, p2m_type
        return (mfn if frames.get_page(mfn, self.domain.id) else None), p2m_type

    def walk(self, ipa: int, *, write: bool, fetch: bool = False) -> Walk:
        """The architectural walk, through the TLB: valid bits and permissions as the hardware reads them."""
        gfn = ipa >> 12
        hit = self.tlb.get(gfn)
        if hit is None:
            if ipa >> self.machine.ipa_bits or self.root is None:
                return Walk("translation", self.root_level, 0)
            level = self.root_level
            shift = 9 * (3 - level)
            get = self.memory.get
            word = get(self.root, gfn >> shift)
            while word & VALID and level < 3 and word & TABLE:
                level += 1
                shift -= 9
                word = get((word & FRAME) >> 12, gfn >> shift & 511)
            # no block at level 0; a level-3 entry needs both low bits
            if not word & VALID or level == 0 or (level == 3 and not word & TABLE):
                return Walk("translation", level, 0)
            hit = (((word & FRAME) >> 12) + (gfn & ((1 << shift) - 1)), word & PERMISSIONS | level)
            self.tlb[gfn] = hit
        mfn, attributes = hit
        if (fetch and (attributes & XN or not attributes & READ)) or (write and not attributes & WRITE) or (
                not write and not fetch and not attributes & READ):
            return Walk("permission", attributes & 3, 0)
        return Walk("", attributes & 3, mfn)

    # ---- writing ----------------------------------------------------------------------------------------------

    def _add_table(self, page: int, level: int, gfn: int) -> None:
        """Note a new table of a level, which covers a gfn."""
        shift = 9 * (4 - level)
        self.tables[page] = (level, gfn >> shift << shift)
        self.tables.move_to_end(page, last=False)

    def _create_table(self, mfn: int, index: int, level: int, gfn: int) -> bool:
        """p2m_create_table: a zeroed table of a level behind an empty entry; False without a frame for it."""
        page = self._alloc_page()
        if page is None:
            return False
        self._add_table(page, level, gfn)
        self.memory.write(page, 0, _ZERO)
        self._store(mfn, index, page << 12 | _TABLE_ATTRIBUTES)
        return True

    def _put_l3_page(self, word: int) -> None:
        """p2m_put_l3_page: a foreign map drops its reference, a xenheap page forgets its gfn."""
        mfn = (word & FRAME) >> 12
        p2m_type = word >> TYPE_SHIFT & 15
        if abi.P2M_FOREIGN >> p2m_type & 1:
            self.machine.frames.put_page(mfn)
        elif abi.P2M_RAM >> p2m_type & 1 and self.machine.frames.is_xen_heap(mfn):
            self.machine.frames.set_xenheap_gfn(mfn, None)

    def _free_entry(self, word: int, level: int) -> None:
        """p2m_free_entry: what a replaced entry held; a table goes with all below it."""
        if not word >> TYPE_SHIFT & 15:
            return
        if level == 3 or not word & TABLE:
            if level == 3:
                self._put_l3_page(word)
            return
        table = (word & FRAME) >> 12
        for index in range(512):
            below = self.memory.get(table, index)
            if below:
                self._free_entry(below, level + 1)
        if self.need_flush:
            self.flush()
        del self.tables[table]
        self._free_page(table)

    def _split(self, word: int, level: int, target: int, gfn: int) -> tuple[int, bool]:
        """p2m_split_superpage: (the table descriptor to put in place of a block, whether all went well).

        Without a frame at the first level the block itself comes back.
        """
        page = self._alloc_page()
        if page is None:
            return word, False
        below = level + 1
        self._add_table(page, below, gfn)
        step = 1 << 9 * (3 - below) + 12
        first = word & FRAME
        rest = word & ~FRAME & ~TABLE | (TABLE if below == 3 else 0)
        self.memory.touch(page)
        self.memory.page(page)[:] = _steps(first | rest, step)
        ok = True
        if below != target:
            index = gfn >> 9 * (3 - below) & 511
            inner, ok = self._split(self.memory.get(page, index), below, target, gfn)
            if ok or inner & TABLE:
                self.memory.put(page, index, inner)
        return page << 12 | _TABLE_ATTRIBUTES, ok

    def _set_entry(self, gfn: int, order: int, mfn: int, p2m_type: int) -> int:
        """__p2m_set_entry: one 4 KB, 2 MB or 1 GB mapping; mfn INVALID_MFN removes."""
        removing = mfn == INVALID_MFN
        target = 3 - order // 9
        level = self.root_level
        shift = 9 * (3 - level)
        index = gfn >> shift
        if index >= self.root_pages << 9 or self.root is None:
            return -EINVAL
        memory = self.memory
        table = self.root + (index >> 9)
        index &= 511
        word = memory.get(table, index)
        while level < target:
            if not word >> TYPE_SHIFT & 15:
                if removing:
                    return 0
                if not self._create_table(table, index, level + 1, gfn):
                    return -ENOENT
                word = memory.get(table, index)
            if not word & TABLE:
                break
            level += 1
            shift -= 9
            table = (word & FRAME) >> 12
            index = gfn >> shift & 511
            word = memory.get(table, index)
        if level < target:
            split, ok = self._split(word, level, target, gfn)
            if not ok:
                # nothing was allocated: Xen then frees the block itself, which drops nothing
                self._free_entry(split, level)
                return -ENOMEM
            self._store(table, index, 0)
            self.flush()
            self._store(table, index, split)
            word = split
            while level < target and word & TABLE:
                level += 1
                shift -= 9
                table = (word & FRAME) >> 12
                index = gfn >> shift & 511
                word = memory.get(table, index)
        if word & VALID or removing:
            self._store(table, index, 0)
        new = 0
        if removing:
            if word & VALID:
                self.need_flush = True
        else:
            if word & VALID:
                self.flush()
            new = mfn << 12 & FRAME | _ATTRIBUTES[p2m_type] | (TABLE if level == 3 else 0)
            self._store(table, index, new)
            self.max_mapped_gfn = max(self.max_mapped_gfn, gfn + (1 << order) - 1)
            self.lowest_mapped_gfn = min(self.lowest_mapped_gfn, gfn)
        # compared by frame, as Xen does: frame 0 removed, or the same frame mapped again, drops nothing
        if word >> TYPE_SHIFT & 15 and (word ^ new) & FRAME:
            self._free_entry(word, level)
        return 0

    def set_entries(self, gfn: int, number: int, mfn: int, p2m_type: int) -> int:
        """p2m_set_entry: a range, in the largest aligned mappings; earlier chunks stay when a later one fails.

        mfn: first frame, or INVALID_MFN to remove.
        Returns 0 or -ENOMEM (dying, or no frame to split a block), -ENOENT (no frame for a table), -EINVAL (beyond the
        root table).
        """
        if self.domain.is_dying:
            return -ENOMEM
        removing = mfn == INVALID_MFN
        while number:
            mask = gfn | number | (0 if removing else mfn)
            if not mask & (1 << 18) - 1:
                order = 18
            elif not mask & 511:
                order = 9
            else:
                order = 0
            rc = self._set_entry(gfn, order, mfn, p2m_type)
            if rc:
                return rc
            gfn += 1 << order
            if not removing:
                mfn += 1 << order
            number -= 1 << order
        return 0

    def insert(self, gfn: int, number: int, mfn: int, p2m_type: int) -> int:
        """p2m_insert_mapping: `number` frames from mfn on, at gfn; replaces silently. Errors as `set_entries`."""
        rc = self.set_entries(gfn, number, mfn, p2m_type)
        self.unlock()
        return rc

    def remove(self, gfn: int, number: int, mfn: int) -> int:
        """p2m_remove_mapping: nothing is removed, -EILSEQ, if any RAM in the range is not the frame named.

        Empty and MMIO entries do not stop it. Other errors as `set_entries`.
        """
        i = 0
        valid = self.machine.frames.valid(mfn)
        while i < number:
            entry = self.lookup(gfn + i)
            if abi.P2M_ANY_RAM >> entry.type & 1 and (not valid or mfn + i != entry.mfn):
                return -EILSEQ
            size = 1 << entry.order
            i += size - (gfn + i & size - 1)
        rc = self.set_entries(gfn, number, INVALID_MFN, abi.p2m_invalid)
        self.unlock()
        return rc

    # ---- the valid bit ----------------------------------------------------------------------------------------

    def _invalidate_table(self, mfn: int) -> None:
        """p2m_invalidate_table: clear the hardware valid bit of every entry."""
        page = self.memory.page(mfn)
        if page.any():
            self.memory.touch(mfn)
            page &= _NOT_VALID
        self.need_flush = True

    def invalidate_root(self) -> None:
        """p2m_invalidate_root: 4.17.0 clears as many root pages as the root level says, not as there are."""
        if self.root is not None:
            for i in range(min(self.root_level, self.root_pages)):
                self._invalidate_table(self.root + i)
        self.unlock()

    def resolve_translation_fault(self, gfn: int) -> bool:
        """p2m_resolve_translation_fault: set the valid bit of the first live entry that lacks it."""
        if gfn > self.max_mapped_gfn or self.root is None:
            return False
        level = self.root_level
        shift = 9 * (3 - level)
        index = gfn >> shift
        if index >= self.root_pages << 9:
            return False
        table = self.root + (index >> 9)
        index &= 511
        word = self.memory.get(table, index)
        while level < 3 and word & VALID and word >> TYPE_SHIFT & 15 and word & TABLE:
            level += 1
            shift -= 9
            table = (word & FRAME) >> 12
            index = gfn >> shift & 511
            word = self.memory.get(table, index)
        if word & VALID:
            return True
        if not word >> TYPE_SHIFT & 15:
            return False
        if level < 3 and word & TABLE:
            self._invalidate_table((word & FRAME) >> 12)
        self._store(table, index, word | VALID)
        self.unlock()
        return True

    # ---- life cycle -------------------------------------------------------------------------------------------

    def create(self) -> int:
        """p2m_init: VMID, zeroed root, 16 pool pages. Returns 0, -EBUSY (no VMID), -ENOMEM."""
        vmid = self.machine.alloc_vmid()
        if vmid is None:
            return -abi.EBUSY
        self.vmid = vmid
        root = self.machine.frames.alloc_domheap(None, self.root_pages.bit_length() - 1)
        if root is None:
            return -ENOMEM
        self.root = root
        self.memory.clear(root, self.root_pages)
        self.flush()
        return self.set_allocation(16, preemptible=False)

    def relinquish_mappings(self) -> int:
        """relinquish_p2m_mapping: remove every mapping of a dying domain; 0 or -ERESTART (checked each 512)."""
        count = 0
        gfn = self.lowest_mapped_gfn
        end = self.max_mapped_gfn + 1
        rc = 0
        while gfn < end:
            entry = self.lookup(gfn)
            count += 1
            if not count % 512 and self.machine.preempt_check():
                rc = -ERESTART
                break
            if entry.mfn != INVALID_MFN:
                rc = self._set_entry(gfn, entry.order, INVALID_MFN, abi.p2m_invalid)
                if rc:
                    break
            gfn = (gfn >> entry.order) + 1 << entry.order
        self.lowest_mapped_gfn = gfn
        self.unlock()
        return rc

    def teardown(self, *, preemptible: bool) -> int:
        """p2m_teardown: clear the root, flush, free every table; 0 or -ERESTART (checked each 512)."""
        if not self.tables:
            return 0
        if self.root is not None:
            self.memory.clear(self.root, self.root_pages)
        self.flush()
        count = 0
        rc = 0
        while self.tables:
            page, _ = self.tables.popitem(last=False)
            self._free_page(page)
            count += 1
            if preemptible and not count % 512 and self.machine.preempt_check():
                rc = -ERESTART
                break
        self.unlock()
        return rc

    def teardown_allocation(self) -> int:
        """p2m_teardown_allocation: the pool goes back to the heap; 0 or -ERESTART."""
        return self.set_allocation(0, preemptible=True)

    def final_teardown(self) -> None:
        """p2m_final_teardown: what is left, the root and the VMID."""
        self.teardown(preemptible=False)
        self.set_allocation(0, preemptible=False)
        if self.root is not None:
            self.machine.frames.free_domheap(self.root, self.root_pages.bit_length() - 1)
            self.root = None
        self.machine.free_vmid(self.vmid)
        self.tlb.clear()

    # ---- snapshots ----------------------------------------------------------------------------------------------

    def save(self) -> tuple[Any, ...]:
        """A copy of everything that is not in RAM, for `load`."""
        return (self.root, self.vmid, self.max_mapped_gfn, self.lowest_mapped_gfn, self.need_flush,
                OrderedDict(self.tables), OrderedDict(self.freelist), self.pool_total, dict(self.tlb), self.flushes)

    def load(self, saved: tuple[Any, ...]) -> None:
        """Back to what `save` returned, which may be used again."""
        (self.root, self.vmid, self.max_mapped_gfn, self.lowest_mapped_gfn, self.need_flush,
         tables, freelist, self.pool_total, tlb, self.flushes) = saved
        self.tables, self.freelist, self.tlb = OrderedDict(tables), OrderedDict(freelist), dict(tlb)


def lookup(domain: Domain, gfn: int) -> Entry:
    """What is mapped at a gfn of a domain; see P2m.lookup."""
    return domain.p2m.lookup(gfn)


def insert(domain: Domain, gfn: int, mfn: int, order: int, p2m_type: int) -> int:
    """guest_physmap_add_entry: map 2**order frames; 0 or a negative error of P2m.insert."""
    return domain.p2m.insert(gfn, 1 << order, mfn, p2m_type)


def remove(domain: Domain, gfn: int, mfn: int, order: int = 0) -> int:
    """guest_physmap_remove_page: unmap 2**order frames; 0 or a negative error of P2m.remove."""
    return domain.p2m.remove(gfn, 1 << order, mfn)
