"""A domain's grant table: shared frames in RAM, active entries and maptrack as arrays.

Source: xen/common/grant_table.c at 4.17 (struct grant_table, gnttab_grow_table, gnttab_populate_status_frames,
gnttab_unpopulate_status_frames).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from impl.fast import abi
from impl.fast.errors import XenPanic
from impl.fast.grant import layouts

if TYPE_CHECKING:
    from collections.abc import Callable

    from impl.fast.domains import Domain
    from impl.fast.machine import Machine

Array = NDArray[Any]

# active.pin: four counters of 8 bits
HSTW_INC: Final = 1 << 0
HSTR_INC: Final = 1 << 8
DEVW_INC: Final = 1 << 16
DEVR_INC: Final = 1 << 24
HSTW_MASK: Final = 0xFF << 0
HSTR_MASK: Final = 0xFF << 8
DEVW_MASK: Final = 0xFF << 16
DEVR_MASK: Final = 0xFF << 24
WRITE_PINS: Final = HSTW_MASK | DEVW_MASK
OVERFLOW_SHIFT: Final = 7           # a counter with its bit 7 set takes no more pins

MAPTRACK_TAIL: Final = 0xFFFFFFFF   # end of a free list

# sizeof(struct active_grant_entry) in a release build: the pointer, the frame number and the lock differ in width
_ACTIVE_ENTRY_SIZE: Final = {64: 40, 32: 32}

_ACTIVE: Final[tuple[tuple[str, DTypeLike], ...]] = (
    ("pin", np.uint32), ("act_domid", np.uint16), ("start", np.uint16), ("length", np.uint16),
    ("sub_page", np.uint8), ("trans_domain", np.int32), ("trans_gref", np.uint32), ("act_mfn", np.uint64),
)
_MAPTRACK: Final[tuple[tuple[str, DTypeLike], ...]] = (
    ("map_ref", np.uint32), ("map_flags", np.uint16), ("map_domid", np.uint16), ("map_vcpu", np.uint32),
)
_SCALARS: Final = ("version", "maptrack_limit")
_LISTS: Final = ("shared", "status", "active_frames", "maptrack_frames", "vcpu_head", "vcpu_tail")


class GrantTable:
    """The grant state of one domain.

    domid: the domain; width: 64 or 32, of Xen's unsigned long; vcpus: how many it may have; the limits in frames.

    shared, status, active_frames, maptrack_frames: the mfns of the frames, in order.
    Active entries, one row a reference [0, 512 * grant frames): pin uint32, act_domid uint16, start uint16 (15 bits
    used), length uint16, sub_page uint8, trans_domain int32, trans_gref uint32, act_mfn uint64. A row means something
    while pinned.
    Maptrack, one row a handle [0, maptrack_limit): map_ref uint32 (the next handle while free), map_flags uint16,
    map_domid uint16, map_vcpu uint32.
    The attributes are memoryviews for single rows; `array(name)` gives the numpy array below.
    vcpu_head, vcpu_tail: each vCPU's free list of handles.
    dma: mfn -> [readers, writers], the 1:1 mappings that the IOMMU needs.
    before_access: called with a reference before each read of its shared entry; tests rewrite memory there, as a peer
    may.
    """

    __slots__ = ("_arrays", "act_domid", "act_mfn", "active_frames", "active_per_frame", "before_access", "dma",
                 "domid", "length", "map_domid", "map_flags", "map_ref", "map_vcpu", "maptrack_frames",
                 "maptrack_limit", "max_grant_frames", "max_maptrack_frames", "max_version", "pin", "shared", "start",
                 "status", "sub_page", "trans_domain", "trans_gref", "vcpu_head", "vcpu_tail", "version", "width")

    def __init__(self, domid: int, width: int, vcpus: int, *, max_version: int, max_grant_frames: int,
                 max_maptrack_frames: int) -> None:
        self.domid = domid
        self.width = width
        self.max_version = max_version
        self.max_grant_frames = max_grant_frames
        self.max_maptrack_frames = max_maptrack_frames
        self.active_per_frame = abi.PAGE_SIZE // _ACTIVE_ENTRY_SIZE[width]
        self.version = 1
        self.shared: list[int] = []
        self.status: list[int] = []
        self.active_frames: list[int] = []
        self.maptrack_frames: list[int] = []
        self.maptrack_limit = 0
        self.vcpu_head = [MAPTRACK_TAIL] * vcpus
        self.vcpu_tail = [MAPTRACK_TAIL] * vcpus
        self.dma: dict[int, list[int]] = {}
        self.before_access: Callable[[int], None] | None = None
        self._arrays: dict[str, Array] = {}
        self.pin: memoryview
        self.act_domid: memoryview
        self.start: memoryview
        self.length: memoryview
        self.sub_page: memoryview
        self.trans_domain: memoryview
        self.trans_gref: memoryview
        self.act_mfn: memoryview
        self.map_ref: memoryview
        self.map_flags: memoryview
        self.map_domid: memoryview
        self.map_vcpu: memoryview
        for name, dtype in _ACTIVE + _MAPTRACK:
            self._bind(name, np.zeros(0, dtype))

    # ---- arrays ----------------------------------------------------------------------------------------------

    def _bind(self, name: str, rows: Array) -> None:
        self._arrays[name] = rows
        setattr(self, name, memoryview(rows.data))

    def _resize(self, columns: tuple[tuple[str, DTypeLike], ...], rows: int) -> None:
        """Give the columns exactly so many rows, new ones zero."""
        for name, dtype in columns:
            old = self._arrays[name]
            new: Array = np.zeros(rows, dtype)
            kept = min(rows, len(old))
            new[:kept] = old[:kept]
            self._bind(name, new)

    def array(self, name: str) -> Array:
        """The numpy array of a column, for work on many rows."""
        return self._arrays[name]

    @property
    def entries(self) -> int:
        """nr_grant_entries: the number of references that the table holds."""
        return len(self.shared) * (layouts.V1_PER_FRAME if self.version == 1 else layouts.V2_PER_FRAME)

    def active_frames_for(self, grant_frames: int) -> int:
        """Frames that the active entries of so many grant frames take (always sized for version 1)."""
        return -(-grant_frames * layouts.V1_PER_FRAME // self.active_per_frame)

    def add_maptrack_frame(self, mfn: int) -> None:
        """The maptrack has one frame more: 256 handles, zero."""
        self.maptrack_frames.append(mfn)
        self.maptrack_limit += layouts.MAPTRACK_PER_FRAME
        # rows double, so that a table of many frames is copied seldom
        if len(self.map_ref) < self.maptrack_limit:
            self._resize(_MAPTRACK, max(self.maptrack_limit, 2 * len(self.map_ref)))
        fresh = slice(self.maptrack_limit - layouts.MAPTRACK_PER_FRAME, self.maptrack_limit)
        for name, _ in _MAPTRACK:
            self._arrays[name][fresh] = 0

    # ---- snapshots -------------------------------------------------------------------------------------------

    def snapshot(self) -> tuple[Any, ...]:
        """A copy of the whole table but its frames' contents, for `restore`."""
        return (
            {name: getattr(self, name) for name in _SCALARS},
            {name: list(getattr(self, name)) for name in _LISTS},
            {name: rows.copy() for name, rows in self._arrays.items()},
            {mfn: list(counts) for mfn, counts in self.dma.items()},
        )

    def restore(self, saved: tuple[Any, ...]) -> None:
        """Back to what `snapshot` returned, which may be used again."""
        scalars, lists, arrays, dma = saved
        for name, value in scalars.items():
            setattr(self, name, value)
        for name, value in lists.items():
            setattr(self, name, list(value))
        for name, rows in arrays.items():
            if len(rows) == len(self._arrays[name]):
                self._arrays[name][:] = rows
            else:
                self._bind(name, rows.copy())
        self.dma = {mfn: list(counts) for mfn, counts in dma.items()}


# ---- frames --------------------------------------------------------------------------------------------------


def _allocate(machine: Machine, number: int) -> list[int] | None:
    """So many zeroed frames of Xen's heap, or None with nothing taken."""
    frames: list[int] = []
    for _ in range(number):
        mfn = machine.frames.alloc_xenheap()
        if mfn is None:
            _free(machine, frames)
            return None
        machine.memory.clear(mfn)
        frames.append(mfn)
    return frames


def _free(machine: Machine, frames: list[int]) -> None:
    for mfn in frames:
        machine.frames.free_xenheap(mfn)


def populate_status_frames(machine: Machine, dom: Domain, table: GrantTable, grant_frames: int) -> int:
    """gnttab_populate_status_frames: enough status frames for so many grant frames.

    Returns 0, or -ENOMEM with nothing changed.
    """
    fresh = _allocate(machine, max(0, layouts.grant_to_status_frames(grant_frames) - len(table.status)))
    if fresh is None:
        return -abi.ENOMEM
    for mfn in fresh:
        machine.frames.share_xen_page(mfn, dom)
    table.status += fresh
    return 0


def grow(machine: Machine, dom: Domain, table: GrantTable, grant_frames: int) -> int:
    """gnttab_grow_table: active entries, then shared frames, then (version 2) status frames.

    grant_frames: wanted, at most the domain's maximum; raised to 1.
    Returns 0, or -ENOMEM with nothing changed.
    """
    grant_frames = max(grant_frames, layouts.INITIAL_NR_GRANT_FRAMES)
    active = _allocate(machine, max(0, table.active_frames_for(grant_frames) - len(table.active_frames)))
    if active is None:
        return -abi.ENOMEM
    shared = _allocate(machine, max(0, grant_frames - len(table.shared)))
    if shared is None:
        _free(machine, active)
        return -abi.ENOMEM
    if table.version > 1 and populate_status_frames(machine, dom, table, grant_frames):
        _free(machine, shared)
        _free(machine, active)
        return -abi.ENOMEM
    for mfn in shared:
        machine.frames.share_xen_page(mfn, dom)
    table.active_frames += active
    table.shared += shared
    table._resize(_ACTIVE, len(table.shared) * layouts.V1_PER_FRAME)
    return 0


def unpopulate_status_frames(machine: Machine, dom: Domain, table: GrantTable) -> int:
    """gnttab_unpopulate_status_frames: take the status frames out of the p2m and free them.

    Returns 0, or an error after which the domain is crashed: the p2m's, or -EBUSY for a frame that somebody holds.
    Errors: XenPanic on arm32, where the reference count of a frame without the xen_heap bit fails Xen's own check.
    """
    frames = machine.frames
    for mfn in table.status:
        gfn = frames.xenheap_gfn(mfn)
        if gfn is not None:
            error = dom.p2m.remove(gfn, 1, mfn)
            if error:
                machine.crash_domain(dom)
                return error
        # Xen takes a xenheap page for safe by its xen_heap bit, which arm32 never sets
        if frames.info(mfn) & frames.ALLOCATED and frames.info(mfn) & (frames.XEN_HEAP | frames.COUNT) <= 1:
            raise XenPanic(f"put_page_alloc_ref: status frame {mfn:#x} has no other reference")
        frames.put_page_alloc_ref(mfn)
        if frames.info(mfn) & ~frames.XEN_HEAP:
            machine.crash_domain(dom)
            return -abi.EBUSY
        frames.owner[frames.index(mfn)] = -1
    _free(machine, table.status)
    table.status = []
    return 0
