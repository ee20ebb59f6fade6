"""The frame table (struct page_info) as arrays, and the buddy heap.

`count_info` has the width of Xen's unsigned long: 64 bits on arm64, 32 on arm32. From the top (W bits): W-1 allocated
(need_scrub while free), W-2 xen_heap, W-7 broken, W-9..W-8 state (0 in use, 3 free), W-10 extra, below the references.
`type_info`: W-1 writable, W-3..W-2 count, below the gfn of a xenheap page (all ones: none).
Source: xen/arch/arm/include/asm/mm.h, xen/arch/arm/mm.c, xen/common/page_alloc.c at 4.17.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

import numpy as np

from impl.fast import abi
from impl.fast.errors import XenPanic

if TYPE_CHECKING:
    from impl.fast.domains import Domain
    from impl.fast.memory import Memory

MEMF_no_refcount = 1 << 0
MEMF_no_owner = 1 << 1
MEMF_no_scrub = 1 << 2

_NOBODY = -1        # owner of a frame that belongs to no domain
_CLEAN = -1         # first_dirty of a block without a dirty frame


class Frames:
    """One row a frame of RAM, and the free lists by zone and order.

    memory: the board's RAM; width: 64 or 32; xenheap: (first mfn, frames) of arm32's separate Xen heap, or None;
    scrub_domheap: Xen's option of that name.

    Arrays, indexed by `index(mfn)`: count_info, type_info uint64; owner int32 (domain id, -1 nobody); order int8 (of a
    free block, at its first frame; else -1); first_dirty int32 (frames into that block; -1 clean).
    """

    def __init__(self, memory: Memory, width: int, xenheap: tuple[int, int] | None, scrub_domheap: bool) -> None:
        self.memory = memory
        self.width = width
        self.xenheap = xenheap
        self.scrub_domheap = scrub_domheap
        self.ALLOCATED = 1 << (width - 1)
        self.NEED_SCRUB = self.ALLOCATED
        self.XEN_HEAP = 1 << (width - 2)
        self.STATE = 3 << (width - 9)
        self.STATE_FREE = 3 << (width - 9)
        self.EXTRA = 1 << (width - 10)
        self.COUNT = (1 << (width - 10)) - 1
        self.TYPE_WRITABLE = 1 << (width - 1)
        self.TYPE_COUNT_ONE = 1 << (width - 3)
        self.GFN = (1 << (width - 3)) - 1
        self.INVALID_GFN = self.GFN         # recorded gfn of a xenheap page that is mapped nowhere
        self._first = [first for first, _ in memory.banks]
        self._base: list[int] = []
        total = 0
        for _, frames in memory.banks:
            self._base.append(total)
            total += frames
        self.total_pages = total
        self.count_info = np.zeros(total, np.uint64)
        self.type_info = np.zeros(total, np.uint64)
        self.owner = np.full(total, _NOBODY, np.int32)
        self.order = np.full(total, -1, np.int8)
        self.first_dirty = np.full(total, _CLEAN, np.int32)
        self._bind()
        self.lists: dict[int, list[OrderedDict[int, None]]] = {}     # zone -> one list an order; heads first
        self.avail: dict[int, int] = {}                              # zone -> free frames
        self.total_avail = 0
        self.outstanding_claims = 0
        self.domains: dict[int, Domain] = {}     # every domain that is not completely destroyed
        self.choices: list[tuple[str, int]] = []        # what was chosen since the stimulus began
        self.forced: deque[tuple[str, int]] = deque()   # what to choose next, where legal

    def _bind(self) -> None:
        """Views that read and write single rows faster than numpy does."""
        self._count = self.count_info.data
        self._type = self.type_info.data
        self._owner = self.owner.data
        self._order = self.order.data
        self._dirty = self.first_dirty.data

    # ---- rows ---------------------------------------------------------------------------------------------

    def index(self, mfn: int) -> int:
        """The row of a frame; the frame must be RAM."""
        first = self._first
        if len(first) == 1:
            return mfn - first[0]
        i = bisect_right(first, mfn) - 1
        return mfn - first[i] + self._base[i]

    def mfn_of(self, index: int) -> int:
        """The frame of a row."""
        i = bisect_right(self._base, index) - 1
        return index - self._base[i] + self._first[i]

    def valid(self, mfn: int) -> bool:
        """mfn_valid: the frame has a row."""
        return self.memory.holds(mfn)

    def owner_of(self, mfn: int) -> int | None:
        """The id of the domain that owns a frame, or None. The frame must be RAM."""
        owner: int = self._owner[self.index(mfn)]
        return None if owner == _NOBODY else owner

    def count(self, mfn: int) -> int:
        """The references to a frame."""
        info: int = self._count[self.index(mfn)]
        return info & self.COUNT

    def info(self, mfn: int) -> int:
        """count_info of a frame."""
        info: int = self._count[self.index(mfn)]
        return info

    def is_allocated(self, mfn: int) -> bool:
        """The frame is in use and still carries its allocation reference."""
        info: int = self._count[self.index(mfn)]
        return bool(info & self.ALLOCATED) and info & self.STATE != self.STATE_FREE

    def is_free(self, mfn: int) -> bool:
        """The frame is on a free list."""
        info: int = self._count[self.index(mfn)]
        return info & self.STATE == self.STATE_FREE

    def is_xen_heap(self, mfn: int) -> bool:
        """is_xen_heap_mfn: on arm64 a bit of count_info, on arm32 a region. Any integer may be asked."""
        if self.width == 32:
            return self.xenheap is not None and 0 <= mfn - self.xenheap[0] < self.xenheap[1]
        return self.memory.holds(mfn) and bool(self._count[self.index(mfn)] & self.XEN_HEAP)

    def xenheap_gfn(self, mfn: int) -> int | None:
        """The gfn at which a xenheap page is mapped, or None. Source: page_get_xenheap_gfn."""
        gfn: int = self._type[self.index(mfn)] & self.GFN
        return None if gfn == self.INVALID_GFN else gfn

    def set_xenheap_gfn(self, mfn: int, gfn: int | None) -> None:
        """Record where a xenheap page is mapped (None: nowhere)."""
        i = self.index(mfn)
        self._type[i] = self._type[i] & ~self.GFN | ((self.INVALID_GFN if gfn is None else gfn) & self.GFN)

    # ---- references -----------------------------------------------------------------------------------------

    def get_owner_and_reference(self, mfn: int) -> int | None:
        """Take a reference; the owner's id, or None if the frame has no reference yet or too many."""
        i = self.index(mfn)
        info = self._count[i]
        # count 0: not allocated; the last but one value would wrap
        if (info + 1) & self.COUNT <= 1:
            return None
        self._count[i] = info + 1
        owner: int = self._owner[i]
        return owner

    def get_page(self, mfn: int, domain: int) -> bool:
        """Take a reference to a frame that the domain (an id) owns; False, and nothing is taken, otherwise."""
        i = self.index(mfn)
        info = self._count[i]
        if (info + 1) & self.COUNT <= 1 or self._owner[i] != domain:
            return False
        self._count[i] = info + 1
        return True

    def put_page(self, mfn: int) -> None:
        """Drop a reference; the last one gives the frame back to the heap."""
        i = self.index(mfn)
        info = self._count[i]
        if not info & self.COUNT:
            raise XenPanic(f"put_page: frame {mfn:#x} has no reference")
        info -= 1
        self._count[i] = info
        if not info & self.COUNT:
            self.free_domheap(mfn)

    def put_page_alloc_ref(self, mfn: int) -> None:
        """Clear `allocated` and drop its reference, once; the caller holds another one."""
        i = self.index(mfn)
        if self._count[i] & self.ALLOCATED:
            self._count[i] &= ~self.ALLOCATED
            self.put_page(mfn)

    # ---- the heap ---------------------------------------------------------------------------------------------

    def add_to_heap(self, first: int, frames: int) -> None:
        """Give a range of frames to the heap, in the largest aligned blocks. Source: _init_heap_pages."""
        mfn, end = first, first + frames
        if mfn == 0:        # Xen keeps frame 0 out: a merge with it would cross zones
            mfn = 1
        while mfn < end:
            order = min(abi.MAX_ORDER, (end - mfn).bit_length() - 1, (mfn & -mfn).bit_length() - 1)
            self._free_heap(mfn, order, need_scrub=False)
            mfn += 1 << order

    def _zone(self, mfn: int) -> int:
        if self.width == 32 and self.xenheap is not None and 0 <= mfn - self.xenheap[0] < self.xenheap[1]:
            return 0
        return mfn.bit_length() or 1

    def _free_heap(self, mfn: int, order: int, *, need_scrub: bool) -> None:
        """free_heap_pages: mark free, merge with buddies."""
        first = self.index(mfn)
        info = self.STATE_FREE | (self.NEED_SCRUB if need_scrub else 0)
        if order == 0:
            self._count[first] = info
            self._owner[first] = _NOBODY
        else:
            self.count_info[first:first + (1 << order)] = info
            self.owner[first:first + (1 << order)] = _NOBODY
        zone = self._zone(mfn)
        if zone not in self.lists:
            self.lists[zone] = [OrderedDict() for _ in range(abi.MAX_ORDER + 1)]
            self.avail[zone] = 0
        lists = self.lists[zone]
        self.avail[zone] += 1 << order
        self.total_avail += 1 << order
        dirty = 0 if need_scrub else _CLEAN
        orders, dirties, holds = self._order, self._dirty, self.memory.holds
        while order < abi.MAX_ORDER:
            buddy = mfn ^ (1 << order)
            if not holds(buddy):
                break
            b = self.index(buddy)
            # only the first frame of a free block carries an order
            if orders[b] != order or buddy not in lists[order]:
                break
            del lists[order][buddy]
            orders[b] = -1
            if buddy < mfn:
                if dirties[b] != _CLEAN:
                    dirty = dirties[b]
                elif dirty != _CLEAN:
                    dirty += 1 << order
                mfn = buddy
            elif dirty == _CLEAN and dirties[b] != _CLEAN:
                dirty = dirties[b] + (1 << order)
            order += 1
        self._add_free(lists, mfn, order, dirty)

    def _add_free(self, lists: list[OrderedDict[int, None]], mfn: int, order: int, dirty: int) -> None:
        """page_list_add_scrub: dirty blocks go to the tail of their list, clean ones to its head."""
        i = self.index(mfn)
        self._order[i] = order
        self._dirty[i] = dirty
        lists[order][mfn] = None
        if dirty == _CLEAN:
            lists[order].move_to_end(mfn, last=False)

    def _free_buddy(self, zone_lo: int, zone_hi: int, order: int, unscrubbed: bool) -> tuple[int, int] | None:
        """get_free_buddy: (first frame, order) of the block to cut from, taken off its list."""
        for zone in sorted(self.lists, reverse=True):
            if not zone_lo <= zone <= zone_hi or self.avail[zone] < 1 << order:
                continue
            for j in range(order, abi.MAX_ORDER + 1):
                blocks = self.lists[zone][j]
                if not blocks:
                    continue
                mfn = next(iter(blocks))
                if order == 0 or unscrubbed or self._dirty[self.index(mfn)] == _CLEAN:
                    del blocks[mfn]
                    return mfn, j
                blocks.move_to_end(mfn)
        return None

    def _forced_block(self, zone_lo: int, zone_hi: int, order: int) -> tuple[int, int, int] | None:
        """(wanted frame, first frame and order of its block) if the next forced choice is a legal frame."""
        if not self.forced or self.forced[0][0] != "frame":
            return None
        wanted = self.forced.popleft()[1]
        if wanted & ((1 << order) - 1) or not self.memory.holds(wanted):
            return None
        zone = self._zone(wanted)
        if not zone_lo <= zone <= zone_hi or zone not in self.lists:
            return None
        for j in range(order, abi.MAX_ORDER + 1):
            head = wanted >> j << j
            if head in self.lists[zone][j]:
                del self.lists[zone][j][head]
                return wanted, head, j
        return None

    def _alloc_heap(self, zone_lo: int, zone_hi: int, order: int, memflags: int, domain: Domain | None) -> int | None:
        """alloc_heap_pages: the first of 2**order frames, marked in use, or None."""
        request = 1 << order
        if order > abi.MAX_ORDER:
            return None
        # claimed frames are not there for others
        if self.outstanding_claims + request > self.total_avail and (
                memflags & MEMF_no_refcount or domain is None or domain.outstanding_pages < request):
            return None
        forced = self._forced_block(zone_lo, zone_hi, order)
        if forced is not None:
            wanted, mfn, block = forced
        else:
            found = self._free_buddy(zone_lo, zone_hi, order, bool(memflags & MEMF_no_scrub))
            if found is None and not memflags & MEMF_no_scrub:
                found = self._free_buddy(zone_lo, zone_hi, order, unscrubbed=True)
            if found is None:
                return None
            mfn, block = found
            wanted = mfn + (1 << block) - request       # Xen keeps the upper half at each cut
        zone = self._zone(mfn)
        lists = self.lists[zone]
        i = self.index(mfn)
        dirty = self._dirty[i]
        self._order[i] = -1
        any_dirty = dirty != _CLEAN
        while block != order:
            block -= 1
            half = 1 << block
            low_dirty = dirty if dirty != _CLEAN and dirty < half else _CLEAN
            high_dirty = _CLEAN if dirty == _CLEAN else max(0, dirty - half)
            if wanted >= mfn + half:
                self._add_free(lists, mfn, block, low_dirty)
                mfn, dirty = mfn + half, high_dirty
            else:
                self._add_free(lists, mfn + half, block, high_dirty)
                dirty = low_dirty
        self.avail[zone] -= request
        self.total_avail -= request
        first = self.index(mfn)
        if any_dirty:
            for k in range(first, first + request):
                if self._count[k] & self.NEED_SCRUB and not memflags & MEMF_no_scrub:
                    self.memory.clear(self.mfn_of(k))
        if order == 0:
            self._count[first] = 0
            self._type[first] = self.INVALID_GFN
            self._owner[first] = _NOBODY
        else:
            self.count_info[first:first + request] = 0
            self.type_info[first:first + request] = self.INVALID_GFN
            self.owner[first:first + request] = _NOBODY
        return mfn

    def alloc_domheap(self, domain: Domain | None, order: int = 0, memflags: int = 0, *, address_bits: int = 0,
                      kind: str = "frame") -> int | None:
        """alloc_domheap_pages: 2**order frames, assigned to the domain if one is given.

        order: 0..18; memflags: MEMF_*; address_bits: width of the machine addresses wanted, 0 for any;
        kind: the name under which the choice is logged, "frame" or "table".
        Returns the first mfn, or None if the heap is short, claims forbid it or the domain may not have more.
        """
        zone_hi = 64 if not address_bits else max(1, address_bits - abi.PAGE_SHIFT)
        if memflags & MEMF_no_owner:
            memflags |= MEMF_no_refcount
        mfn = self._alloc_heap(1, zone_hi, order, memflags, domain)
        if mfn is None:
            return None
        if domain is not None and not memflags & MEMF_no_owner:
            if memflags & MEMF_no_refcount:
                first = self.index(mfn)
                self.count_info[first:first + (1 << order)] = self.EXTRA
            if self.assign(mfn, 1 << order, domain, memflags):
                self._free_heap(mfn, order, need_scrub=bool(memflags & MEMF_no_scrub))
                return None
        self.choices.append((kind, mfn))
        return mfn

    def alloc_xenheap(self, order: int = 0) -> int | None:
        """alloc_xenheap_pages: 2**order frames for Xen itself, contents as they are; the first mfn or None.

        The choice is logged as a "frame".
        """
        if self.width == 32:
            mfn = self._alloc_heap(0, 0, order, MEMF_no_scrub, None)
        else:
            mfn = self._alloc_heap(1, 64, order, MEMF_no_scrub, None)
            if mfn is not None:
                first = self.index(mfn)
                self.count_info[first:first + (1 << order)] |= np.uint64(self.XEN_HEAP)
        if mfn is not None:
            self.choices.append(("frame", mfn))
        return mfn

    def free_xenheap(self, mfn: int, order: int = 0) -> None:
        """free_xenheap_pages: back to the heap, to be scrubbed (not on arm32)."""
        self._free_heap(mfn, order, need_scrub=self.width == 64)

    def free_domheap(self, mfn: int, order: int = 0) -> None:
        """free_domheap_pages: what the last put_page does; a xenheap page is taken from its domain but not freed."""
        first = self.index(mfn)
        owner = self._owner[first]
        domain = None if owner == _NOBODY else self.domains.get(owner)
        number = 1 << order
        if self.is_xen_heap(mfn):
            if domain is None:
                raise XenPanic(f"free_domheap_pages: xenheap frame {mfn:#x} without owner")
            for k in range(number):
                domain.xenpage_list.pop(mfn + k, None)
            domain.xenheap_pages -= number
            if domain.xenheap_pages == 0:
                domain.put()
            return
        if domain is None:
            self._free_heap(mfn, order, need_scrub=True)
            return
        for k in range(number):
            domain.page_list.pop(mfn + k, None)
            if self._count[first + k] & self.EXTRA:
                domain.extra_pages -= 1
        drop_reference = self.adjust_tot_pages(domain, -number) == 0
        self._free_heap(mfn, order, need_scrub=domain.is_dying != 0 or self.scrub_domheap)
        if drop_reference:
            domain.put()

    def disown(self, mfn: int) -> None:
        """page_set_owner(page, NULL)."""
        self._owner[self.index(mfn)] = _NOBODY

    # ---- accounting ---------------------------------------------------------------------------------------------

    def adjust_tot_pages(self, domain: Domain, pages: int) -> int:
        """domain_adjust_tot_pages: the new tot_pages; a claim shrinks by what is allocated (and grows by frees)."""
        domain.tot_pages += pages
        if domain.outstanding_pages:
            after = max(0, domain.outstanding_pages - pages)
            self.outstanding_claims += after - domain.outstanding_pages
            domain.outstanding_pages = after
        return domain.tot_pages

    def assign(self, mfn: int, number: int, domain: Domain, memflags: int = 0) -> int:
        """assign_pages: the frames become the domain's, allocated, with one reference each.

        Returns 0 or a negative error: EINVAL dying, EPERM tot above max, E2BIG too many.
        """
        if domain.is_dying:
            return -abi.EINVAL
        first = self.index(mfn)
        if self._count[first] & self.EXTRA:
            domain.extra_pages += number
            memflags &= ~MEMF_no_refcount
        elif not memflags & MEMF_no_refcount:
            total = domain.tot_pages - domain.extra_pages
            if total > domain.max_pages:
                return -abi.EPERM
            if number > domain.max_pages - total:
                return -abi.E2BIG
        if not memflags & MEMF_no_refcount and self.adjust_tot_pages(domain, number) == number:
            domain.get()
        keep = self.EXTRA
        if number == 1:
            self._owner[first] = domain.id
            self._count[first] = self._count[first] & keep | self.ALLOCATED | 1
            domain.page_list[mfn] = None
        else:
            self.owner[first:first + number] = domain.id
            rows = self.count_info[first:first + number]
            rows[:] = rows & np.uint64(keep) | np.uint64(self.ALLOCATED | 1)
            domain.page_list.update(dict.fromkeys(range(mfn, mfn + number)))
        return 0

    def share_xen_page(self, mfn: int, domain: Domain, *, writable: bool = True) -> None:
        """share_xen_page_with_guest: a xenheap page becomes visible to a domain, allocated with one reference."""
        i = self.index(mfn)
        if self._owner[i] == domain.id:
            return
        kind = self.TYPE_WRITABLE if writable else 0
        self._type[i] = self._type[i] & self.GFN | kind | self.TYPE_COUNT_ONE
        self._owner[i] = domain.id
        if not domain.is_dying:
            self._count[i] |= self.ALLOCATED | 1
            domain.xenheap_pages += 1
            if domain.xenheap_pages == 1:
                domain.get()
            domain.xenpage_list[mfn] = None

    def set_outstanding(self, domain: Domain, pages: int) -> int:
        """domain_set_outstanding_pages: 0, or -EINVAL (a claim exists, or not in tot+1..max), -ENOMEM."""
        if pages == 0:
            self.outstanding_claims -= domain.outstanding_pages
            domain.outstanding_pages = 0
            return 0
        if domain.outstanding_pages:
            return -abi.EINVAL
        total = domain.tot_pages - domain.extra_pages
        if pages <= total or pages > domain.max_pages:
            return -abi.EINVAL
        claim = pages - total
        if claim > self.total_avail - self.outstanding_claims:
            return -abi.ENOMEM
        domain.outstanding_pages = claim
        self.outstanding_claims += claim
        return 0

    # ---- snapshots ------------------------------------------------------------------------------------------------

    def save(self) -> tuple[Any, ...]:
        """A copy of the table and of the free lists, for `load`."""
        lists = {zone: [OrderedDict(blocks) for blocks in orders] for zone, orders in self.lists.items()}
        return (self.count_info.copy(), self.type_info.copy(), self.owner.copy(), self.order.copy(),
                self.first_dirty.copy(), lists, dict(self.avail), self.total_avail, self.outstanding_claims)

    def load(self, saved: tuple[Any, ...]) -> None:
        """Back to what `save` returned, which may be used again."""
        self.count_info[:], self.type_info[:], self.owner[:], self.order[:], self.first_dirty[:] = saved[:5]
        self.lists = {zone: [OrderedDict(blocks) for blocks in orders] for zone, orders in saved[5].items()}
        self.avail = dict(saved[6])
        self.total_avail, self.outstanding_claims = saved[7], saved[8]
