"""Rare behaviours as small programs: each makes a history that random guests would seldom find.

A program is a function of a `Program` (a grammar with exact calls) on one machine. What it does not need to say (where
arguments lie, which vCPU) is the grammar's; nothing in it is random. A campaign begins with them all on each of its
machines.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from struct import pack
from typing import Any, Final

from bulkhead import trace
from bulkhead.fuzz.boards import DOMU_BASE, Scenario, configuration
from bulkhead.fuzz.grammar import BLOCK_GFN, CREATION, SPARE_GFN, TABLE_GFN, Grammar, World
from bulkhead.fuzz.job import History
from bulkhead.fuzz.vectors import to_trace
from bulkhead.fuzz.world import FoundError, Single
from impl.fast import abi, domctl
from impl.fast.domains import Domain
from impl.fast.grant import layouts as g
from impl.fast.machine import Observation

SELF: Final = abi.DOMID_SELF
Seed = Callable[["Program"], None]


class Program:
    """Guests that do exactly what they are told. world: where the stimuli go."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.grammar = Grammar(world, random.Random(0))
        self.config = world.machine.config

    def domain(self, number: int) -> Domain:
        """A domain by its id."""
        return self.world.machine.domains[number]

    def has(self, number: int) -> bool:
        """The domain exists, and runs."""
        found = self.world.machine.domains.get(number)
        return found is not None and found.runs and any(not vcpu.offline for vcpu in found.vcpus.values())

    def page(self, number: int, page: int) -> int:
        """Address of one of a domain's argument pages, 0 to 5; somewhere if the domain is gone."""
        if number not in self.world.machine.domains:
            return DOMU_BASE + page << 12
        return self.grammar.arguments(self.domain(number)) + page << 12

    def gfn(self, number: int, page: int) -> int:
        """A guest frame of a domain's RAM behind its argument pages; somewhere if the domain is gone."""
        if number not in self.world.machine.domains:
            return DOMU_BASE + 6 + page
        return self.grammar.arguments(self.domain(number)) + 6 + page

    def put(self, number: int, address: int, data: bytes) -> None:
        """Bytes by stores; nothing if the domain does not run."""
        if self.has(number):
            self.grammar.put(self.domain(number), address, data)

    def call(self, number: int, hypercall: int, *arguments: int, preempt: int = 0, vcpu: int = 0) -> Observation | None:
        """One hypercall; preempt: the check that fires, or 0."""
        domain = self.world.machine.domains.get(number)
        if domain is None:
            return None
        registers = {16 if domain.width == 64 else 12: hypercall}
        mask = abi.MASK64 if domain.width == 64 else abi.MASK32
        registers.update({i: argument & mask for i, argument in enumerate(arguments)})
        return self.world.run(("hypercall", number, vcpu, registers, preempt))

    def finish(self, number: int, seen: Observation | None) -> None:
        """Continue a preempted call to its end."""
        while seen is not None and seen.restart and seen.registers is not None and self.has(number):
            registers = {i: value for i, value in enumerate(seen.registers) if value}
            seen = self.world.run(("hypercall", number, 0, registers, 0))

    def load(self, number: int, address: int, size: int = 8) -> None:
        """A load."""
        self.world.run(("load", number, 0, address, size))

    def store(self, number: int, address: int, value: int, size: int = 8) -> None:
        """A store."""
        self.world.run(("store", number, 0, address, size, value))

    # ---- memory ----------------------------------------------------------------------------------------------------

    def memory_op(self, number: int, operation: int, data: bytes, extent: int = 0, preempt: int = 0
                  ) -> Observation | None:
        """A memory_op with its argument in page 0."""
        address = self.page(number, 0)
        self.put(number, address, data)
        return self.call(number, abi.HYPERCALL_MEMORY_OP, operation | extent << 6, address, preempt=preempt)

    def reservation(self, number: int, operation: int, gfns: Sequence[int], *, domid: int = SELF, order: int = 0,
                    flags: int = 0, count: int | None = None, extent: int = 0, preempt: int = 0) -> Observation | None:
        """increase, decrease, populate."""
        address = self.page(number, 1)
        self.put(number, address, pack(f"<{len(gfns)}Q", *gfns))
        data = abi.MEMORY_RESERVATION.pack(address, len(gfns) if count is None else count, order, flags, domid)
        return self.memory_op(number, operation, data, extent, preempt)

    def add(self, number: int, space: int, idx: int, gfn: int, *, domid: int = SELF, size: int = 0,
            extent: int = 0) -> None:
        """add_to_physmap."""
        self.memory_op(number, abi.XENMEM_add_to_physmap, abi.ADD_TO_PHYSMAP.pack(domid, size, space, idx, gfn), extent)

    def foreign(self, number: int, owner: int, items: Sequence[tuple[int, int]], *, domid: int = SELF,
                space: int = abi.XENMAPSPACE_gmfn_foreign, preempt: int = 0) -> None:
        """add_to_physmap_batch."""
        idxs, gfns, errs = (self.page(number, page) for page in (1, 2, 3))
        self.put(number, idxs, pack(f"<{len(items)}Q", *(idx for idx, _ in items)))
        self.put(number, gfns, pack(f"<{len(items)}Q", *(gfn for _, gfn in items)))
        self.finish(number, self.memory_op(number, abi.XENMEM_add_to_physmap_batch, abi.ADD_TO_PHYSMAP_BATCH.pack(
            domid, space, len(items), owner, idxs, gfns, errs), preempt=preempt))

    def remove(self, number: int, gfn: int, domid: int = SELF) -> None:
        """remove_from_physmap."""
        self.memory_op(number, abi.XENMEM_remove_from_physmap, abi.REMOVE_FROM_PHYSMAP.pack(domid, gfn))

    def claim(self, domid: int, pages: int) -> None:
        """claim_pages by dom0."""
        self.memory_op(0, abi.XENMEM_claim_pages, abi.MEMORY_RESERVATION.pack(0, pages, 0, 0, domid))

    def resource(self, number: int, domid: int, gfns: Sequence[int], *, frame: int = 0, kind: int = 1,
                 identifier: int = 0, count: int | None = None, preempt: int = 0) -> None:
        """acquire_resource."""
        address = self.page(number, 1)
        self.put(number, address, pack(f"<{len(gfns)}Q", *gfns))
        self.finish(number, self.memory_op(number, abi.XENMEM_acquire_resource, abi.ACQUIRE_RESOURCE.pack(
            domid, kind, identifier, len(gfns) if count is None else count, 0, frame, address if gfns else 0),
            preempt=preempt))

    # ---- control ---------------------------------------------------------------------------------------------------

    def control(self, command: int, domid: int, union: bytes = b"", *, preempt: int = 0, number: int = 0
                ) -> Observation | None:
        """A domctl by dom0."""
        address = self.page(number, 0)
        self.put(number, address, abi.DOMCTL_HEADER.pack(command, 0x15, domid) + union.ljust(128, b"\0"))
        return self.call(number, abi.HYPERCALL_DOMCTL, address, preempt=preempt)

    def create(self, domid: int, *, pool: int = 32, pages: int = 8, version: int = 1, grant_frames: int = 2,
               maptrack_frames: int = 1, vcpus: int = 1) -> None:
        """A new domain that runs, with pages from DOMU_BASE on."""
        fields: list[Any] = list(domctl.CREATE.unpack(CREATION))
        fields[4], fields[6], fields[7], fields[8] = vcpus, grant_frames, maptrack_frames, version
        self.control(domctl.CREATEDOMAIN, domid, domctl.CREATE.pack(*fields))
        if domid not in self.world.machine.domains:
            return
        self.control(domctl.MAX_VCPUS, domid, pack("<I", vcpus))
        self.control(domctl.MAX_MEM, domid, pack("<Q", 4 * (pages + 64)))
        self.control(domctl.SET_PAGING_MEMPOOL_SIZE, domid, pack("<Q", pool << 12))
        if pages:
            self.reservation(0, abi.XENMEM_populate_physmap, [DOMU_BASE + i for i in range(pages)], domid=domid)
        born = self.domain(domid)
        for vcpu in range(vcpus):
            context = self.grammar.context(self.domain(0), born, exact=True)
            self.control(domctl.SETVCPUCONTEXT, domid, pack("<IIQ", vcpu, 0, context))
        self.control(domctl.UNPAUSEDOMAIN, domid)

    def destroy(self, domid: int, *, preempt: Iterable[int] = ()) -> None:
        """Destroy a domain; preempt: the checks that fire, for one call after the other."""
        for check in preempt:
            seen = self.control(domctl.DESTROYDOMAIN, domid, preempt=check)
            if seen is None or not seen.restart:
                return
        self.finish(0, self.control(domctl.DESTROYDOMAIN, domid))

    # ---- grants ----------------------------------------------------------------------------------------------------

    def grant_op(self, number: int, operation: int, data: bytes, count: int, *, preempt: int = 0, page: int = 4
                 ) -> Observation | None:
        """A grant_table_op with its array in a page."""
        address = self.page(number, page)
        self.put(number, address, data)
        return self.call(number, abi.HYPERCALL_GRANT_TABLE_OP, operation, address, count, preempt=preempt)

    def table(self, number: int, frames: int = 1) -> None:
        """Map the domain's first grant frames."""
        for idx in range(frames):
            self.add(number, abi.XENMAPSPACE_grant_table, idx, TABLE_GFN + idx)

    def version(self, number: int, version: int, preempt: int = 0) -> None:
        """set_version."""
        self.grant_op(number, g.GNTTABOP_set_version, g.SET_VERSION.pack(version), 1, preempt=preempt)

    def offer(self, number: int, ref: int, user: int, gfn: int, flags: int = 1) -> None:
        """A grant of a whole page."""
        at = TABLE_GFN << 12
        if not self.has(number) or self.domain(number).grant_table.version == 1:
            self.put(number, at + 8 * ref, pack("<HHI", flags, user, gfn))
        else:
            self.put(number, at + 16 * ref, pack("<HHIQ", flags, user, 0, gfn))

    def part(self, number: int, ref: int, user: int, gfn: int, start: int, length: int, flags: int = 1) -> None:
        """A grant of a part of a page (version 2)."""
        self.put(number, (TABLE_GFN << 12) + 16 * ref, pack("<HHHHQ", flags | 0x100, user, start, length, gfn))

    def passed_on(self, number: int, ref: int, user: int, granter: int, behind: int, flags: int = 3) -> None:
        """A transitive grant (version 2)."""
        self.put(number, (TABLE_GFN << 12) + 16 * ref, pack("<HHHHII", flags, user, granter, 0, behind, 0))

    def map(self, number: int, items: Sequence[tuple[int, int, int, int]], preempt: int = 0) -> None:
        """map_grant_ref of (guest frame, flags, reference, granter)."""
        data = b"".join(g.MAP.pack(gfn << 12, flags, ref, granter, 0, 0, 0) for gfn, flags, ref, granter in items)
        self.finish(number, self.grant_op(number, g.GNTTABOP_map_grant_ref, data, len(items), preempt=preempt))

    def unmap(self, number: int, items: Sequence[tuple[int, int]], *, replace: int | None = None, dev: int = 0,
              preempt: int = 0) -> None:
        """unmap_grant_ref (or unmap_and_replace) of (guest frame, handle)."""
        second = dev if replace is None else replace
        operation = g.GNTTABOP_unmap_grant_ref if replace is None else g.GNTTABOP_unmap_and_replace
        data = b"".join(g.UNMAP.pack(gfn << 12, second, handle, 0) for gfn, handle in items)
        self.finish(number, self.grant_op(number, operation, data, len(items), preempt=preempt))

    def copy(self, number: int, items: Sequence[tuple[int, ...]], preempt: int = 0) -> None:
        """gnttab_copy of (source, its domain, offset, destination, its domain, offset, length, flags)."""
        data = b"".join(g.COPY.pack(*item, 0) for item in items)
        self.finish(number, self.grant_op(number, g.GNTTABOP_copy, data, len(items), preempt=preempt))

    def handles(self, number: int) -> list[int]:
        """Handles in use."""
        if number not in self.world.machine.domains:
            return []
        return self.grammar.live_handles(self.domain(number))


# ---- the programs ----------------------------------------------------------------------------------------------------

SEEDS: dict[str, Seed] = {}
OF_VERSION_2: Final = frozenset({
    "versions-go-round", "version-2-is-left", "transitive-grants", "parts-of-pages",
    "version-2-is-left-while-a-status-frame-is-held", "version-2-is-left-with-two-status-frames",
})
"""Programs about grant tables of version 2."""


def _seed(function: Seed) -> Seed:
    SEEDS[function.__name__.replace("_", "-")] = function
    return function


@_seed
def pins_of_one_grant_overflow(p: Program) -> None:
    """A read-only grant is mapped until its counter takes no more."""
    p.table(1)
    p.offer(1, 9, 2, p.gfn(1, 0), flags=5)
    for first in range(0, 160, 40):
        p.map(2, [(SPARE_GFN + i % 24, 6, 9, 1) for i in range(first, first + 40)])
    p.unmap(2, [(SPARE_GFN, handle) for handle in p.handles(2)[:40]])
    p.unmap(2, [(SPARE_GFN + 1, handle) for handle in p.handles(2)[:33]], preempt=1)
    p.destroy(2)


@_seed
def writable_pins_overflow(p: Program) -> None:
    """A grant is mapped writable until its counter takes no more, then copied from."""
    p.table(1)
    p.offer(1, 9, 3, p.gfn(1, 0))
    for first in range(0, 136, 34):
        p.map(3, [(SPARE_GFN + i % 24, 2, 9, 1) for i in range(first, first + 34)])
    p.copy(3, [(9, 1, 0, p.gfn(3, 0), SELF, 0, 8, 1), (p.gfn(3, 0), SELF, 0, 9, 1, 0, 8, 2)])


@_seed
def maptrack_is_full(p: Program) -> None:
    """More mappings than the maptrack frames hold, by two references and two vCPUs."""
    p.table(1)
    for ref in range(8, 20):
        p.offer(1, ref, 3, p.gfn(1, ref), flags=5)
    for number in range(20):
        p.map(3, [(SPARE_GFN + i % 24, 6, 8 + i % 12, 1) for i in range(number * 40, number * 40 + 40)])
    p.unmap(3, [(SPARE_GFN, handle) for handle in p.handles(3)[:32]])
    p.map(3, [(SPARE_GFN, 6, 9, 1)] * 3)
    p.destroy(3, preempt=(1, 1, 2))


@_seed
def claims_and_what_they_leave(p: Program) -> None:
    """Claims of everything, of too much, twice; allocation with and without them; cancelled."""
    free = p.world.machine.frames.total_avail
    two = p.domain(2)
    p.control(domctl.MAX_MEM, 2, pack("<Q", 4 * 100000))
    p.claim(2, two.tot_pages)
    p.claim(2, two.tot_pages + 1)
    p.claim(2, two.tot_pages + 1)
    p.claim(2, 0)
    p.claim(2, two.tot_pages + free)
    p.reservation(1, abi.XENMEM_populate_physmap, [SPARE_GFN])
    p.claim(3, p.domain(3).tot_pages + 1)
    p.reservation(2, abi.XENMEM_populate_physmap, [SPARE_GFN, SPARE_GFN + 1])
    p.control(domctl.SET_PAGING_MEMPOOL_SIZE, 1, pack("<Q", 64 << 12))
    p.control(domctl.CREATEDOMAIN, 4, CREATION)
    p.table(1)
    p.add(1, abi.XENMAPSPACE_grant_table, 1, TABLE_GFN + 1)
    p.claim(2, 0)
    p.claim(2, two.tot_pages + free + 100)
    p.claim(99, 1)
    p.claim(2, p.domain(2).tot_pages + 5)
    p.destroy(2)
    p.claim(2, 1)


@_seed
def heap_is_exhausted(p: Program) -> None:
    """dom0 and domU 1 take all memory that is left; then nothing can be had by anybody."""
    p.control(domctl.MAX_MEM, 1, pack("<Q", 4 * 100000))
    p.control(domctl.MAX_MEM, 0, pack("<Q", 4 * 100000))
    for order in (9, 9, 9, 9, 9, 9, 9, 9, 5, 5, 4, 3, 2, 1, 0, 0, 0):
        p.reservation(0, abi.XENMEM_increase_reservation, [], count=3, order=order)
    for _ in range(12):
        p.reservation(0, abi.XENMEM_increase_reservation, [], count=7, order=0)
    for number in (1, 2):
        p.table(number)
        p.reservation(number, abi.XENMEM_populate_physmap, [SPARE_GFN])
        p.add(number, abi.XENMAPSPACE_grant_table, 1, TABLE_GFN + 1)
        p.grant_op(number, g.GNTTABOP_setup_table, g.SETUP.pack(SELF, 2, 0, p.page(number, 5)), 1)
        p.version(number, 2)
    p.offer(1, 9, 2, p.gfn(1, 0))
    p.map(2, [(SPARE_GFN, 2, 9, 1)])
    p.control(domctl.SET_PAGING_MEMPOOL_SIZE, 2, pack("<Q", 64 << 12))
    for domid in (4, 5):
        p.control(domctl.CREATEDOMAIN, domid, CREATION)
    p.resource(1, 2, [SPARE_GFN + 4], frame=1)
    p.add(0, abi.XENMAPSPACE_grant_table, 1, TABLE_GFN + 1)
    # a few frames come back, too few for what is asked next
    for pages in range(1, 40):
        p.reservation(1, abi.XENMEM_decrease_reservation, [p.gfn(1, 20 + pages)])
        p.control(domctl.CREATEDOMAIN, 4, CREATION)


@_seed
def tables_run_dry(p: Program) -> None:
    """The short pool of domU 3: mappings far apart, until there is no page for a table, of every kind of call."""
    p.table(1)
    p.table(3)
    p.offer(1, 9, 3, p.gfn(1, 0))
    p.offer(3, 9, 3, p.gfn(3, 0))
    for number in range(14):
        p.reservation(3, abi.XENMEM_populate_physmap, [0x100000 + (number << 10)])
        p.map(3, [(0x140000 + (number << 10), 2, 9, 1)])
    p.add(3, abi.XENMAPSPACE_shared_info, 0, 0x180000)
    p.add(3, abi.XENMAPSPACE_grant_table, 1, 0x181000)
    p.foreign(3, 1, [(p.gfn(1, 1), 0x182000)])
    p.foreign(1, 2, [(p.gfn(2, 1), 0x182000)])
    p.control(domctl.MEMORY_MAPPING, 3, pack("<QQQII", 0x183000, p.config.domains[0].iomem[0][0], 1, 1, 0))
    p.control(domctl.IOMEM_PERMISSION, 3, pack("<QQB", p.config.domains[0].iomem[0][0], 4, 1))
    p.control(domctl.MEMORY_MAPPING, 3, pack("<QQQII", 0x1831FE, p.config.domains[0].iomem[0][0], 4, 1, 0))
    p.control(domctl.SET_TARGET, 3, pack("<H", 2))
    p.resource(3, 2, [0x184000])
    p.control(domctl.SET_PAGING_MEMPOOL_SIZE, 3, pack("<Q", 0))
    p.control(domctl.SET_PAGING_MEMPOOL_SIZE, 3, pack("<Q", 400 << 12), preempt=1)
    p.reservation(3, abi.XENMEM_populate_physmap, [0x190000, 0x1A0000])


@_seed
def blocks_are_split_without_a_page_for_it(p: Program) -> None:
    """A block of 2 MB in a pool that is too short to split it: decrease, remove, map over it."""
    p.control(domctl.MAX_MEM, 3, pack("<Q", 4 * 4000))
    p.reservation(0, abi.XENMEM_populate_physmap, [BLOCK_GFN], domid=3, order=9)
    p.reservation(0, abi.XENMEM_populate_physmap, [BLOCK_GFN + 512], domid=3, order=9)
    p.table(1)
    p.offer(1, 9, 3, p.gfn(1, 0))
    for number in range(14):
        p.reservation(3, abi.XENMEM_populate_physmap, [0x100000 + (number << 10)])
    p.reservation(3, abi.XENMEM_decrease_reservation, [BLOCK_GFN + 3])
    p.remove(3, BLOCK_GFN + 4)
    p.map(3, [(BLOCK_GFN + 5, 2, 9, 1)])
    p.load(3, BLOCK_GFN + 511 << 12)
    p.reservation(3, abi.XENMEM_decrease_reservation, [BLOCK_GFN], order=9)
    p.unmap(3, [(BLOCK_GFN + 512, handle) for handle in p.handles(3)])


@_seed
def blocks_are_split_and_freed(p: Program) -> None:
    """A block of 2 MB split by a decrease, a removal and a mapping over it; blocks put over tables."""
    p.reservation(1, abi.XENMEM_populate_physmap, [BLOCK_GFN], order=9)
    p.store(1, (BLOCK_GFN + 7 << 12) + 8, 42)
    p.reservation(1, abi.XENMEM_decrease_reservation, [BLOCK_GFN + 3])
    p.load(1, (BLOCK_GFN + 7 << 12) + 8)
    p.remove(1, BLOCK_GFN + 4)
    p.reservation(1, abi.XENMEM_populate_physmap, [BLOCK_GFN + 3])
    p.reservation(1, abi.XENMEM_populate_physmap, [BLOCK_GFN], order=9)
    p.reservation(1, abi.XENMEM_decrease_reservation, [BLOCK_GFN], order=9)
    p.reservation(0, abi.XENMEM_populate_physmap, [0x100000], domid=1, order=18)


@_seed
def versions_go_round(p: Program) -> None:
    """Version 2 and back, with reserved entries, pins, status frames mapped and in use; preempted."""
    for number in (1, 2):
        p.table(number)
        p.version(number, 2)
        p.add(number, abi.XENMAPSPACE_grant_table, 1 << 31, TABLE_GFN + 0x20)
        p.load(number, TABLE_GFN + 0x20 << 12)
    if p.domain(1).grant_table.version != 2:
        return
    p.offer(1, 1, 2, p.gfn(1, 0))
    p.offer(1, 9, 2, p.gfn(1, 1))
    p.map(2, [(SPARE_GFN, 2, 9, 1)])
    p.version(1, 1)
    p.unmap(2, [(SPARE_GFN, handle) for handle in p.handles(2)])
    p.map(2, [(SPARE_GFN, 2, 1, 1)])
    p.store(1, (TABLE_GFN << 12) + 16 * 2, 3 | 2 << 16)
    p.version(1, 1)
    p.store(1, (TABLE_GFN << 12) + 16 * 2, 1 | 2 << 16)
    p.store(1, (TABLE_GFN << 12) + 16 * 2 + 8, 1 << 32)
    p.version(1, 1)
    p.store(1, (TABLE_GFN << 12) + 16 * 2 + 8, 5)
    p.grant_op(1, g.GNTTABOP_setup_table, g.SETUP.pack(SELF, 3, 0, p.page(1, 5)), 1)
    p.grant_op(1, g.GNTTABOP_get_status_frames, g.STATUS_FRAMES.pack(1, SELF, 0, p.page(1, 5)), 1)


@_seed
def version_2_is_left(p: Program) -> None:
    """Back to version 1 with nothing in the way: status frames are taken back from where they are mapped."""
    p.table(1)
    p.version(1, 2)
    p.add(1, abi.XENMAPSPACE_grant_table, 1 << 31, TABLE_GFN + 0x20)
    p.offer(1, 1, 2, p.gfn(1, 0), flags=5)
    p.version(1, 1)
    p.load(1, TABLE_GFN + 0x20 << 12)
    p.version(1, 2)
    p.version(1, 2)


@_seed
def version_2_is_left_while_a_status_frame_is_held(p: Program) -> None:
    """A device model has the status frame mapped when its owner leaves version 2: the owner is crashed."""
    p.table(2)
    p.version(2, 2)
    p.resource(1, 2, [SPARE_GFN], identifier=1)
    p.add(2, abi.XENMAPSPACE_grant_table, 1 << 31, TABLE_GFN + 0x20)
    p.foreign(1, 2, [(TABLE_GFN + 0x20, SPARE_GFN + 1)])
    p.version(2, 1)
    p.load(2, DOMU_BASE << 12)


@_seed
def version_2_is_left_with_two_status_frames(p: Program) -> None:
    """A table with more than eight frames has two status frames, both mapped, one of them moved, when it goes back."""
    p.table(1)
    p.version(1, 2)
    p.grant_op(1, g.GNTTABOP_setup_table, g.SETUP.pack(SELF, 9, 0, p.page(1, 5)), 1)
    for idx in range(2):
        p.add(1, abi.XENMAPSPACE_grant_table, 1 << 31 | idx, TABLE_GFN + 0x20 + idx)
    p.version(1, 1)
    p.version(1, 2)
    p.destroy(1, preempt=(1, 2))


@_seed
def strangers_ask(p: Program) -> None:
    """Domains without any right, and ids that nobody has, in every call that names a domain."""
    device = p.config.domains[0].iomem[0][0]
    unions = {domctl.MAX_MEM: pack("<Q", 8000), domctl.SET_PAGING_MEMPOOL_SIZE: pack("<Q", 32 << 12),
              domctl.IOMEM_PERMISSION: pack("<QQB", device, 1, 1), domctl.SET_TARGET: pack("<H", 2),
              domctl.MEMORY_MAPPING: pack("<QQQII", SPARE_GFN, device, 1, 1, 0), domctl.CREATEDOMAIN: CREATION,
              domctl.CACHEFLUSH: pack("<QQ", 0, 1), domctl.MAX_VCPUS: pack("<I", 1)}
    for command in (1, 2, 3, 4, 5, 11, 15, 20, 39, 46, 71, 85, 86):
        for number, domid in ((0, 99), (2, 1), (2, 99), (0, 0x7FF0), (1, 2)):
            if command not in {2, 3} or number != 0:
                p.control(command, domid, unions.get(command, b""), number=number)
    for domid in (99, 1, 0, 0x7FF1, 0x7FF2, 0x7FF4):
        for operation in (2, 3, 4, 14):
            for extent in (0, 1):
                p.memory_op(2, operation, pack("<Q", domid), extent)
        for operation in (0, 1, 6):
            p.reservation(2, operation, [SPARE_GFN], domid=domid)
        p.add(2, abi.XENMAPSPACE_grant_table, 0, SPARE_GFN, domid=domid)
        p.remove(2, p.gfn(2, 0), domid=domid)
        p.foreign(2, domid, [(p.gfn(1, 0), SPARE_GFN)])
        p.foreign(0, domid, [(p.gfn(1, 0), SPARE_GFN)])
        p.foreign(2, 0, [(p.gfn(1, 0), SPARE_GFN)], domid=domid)
        p.resource(2, domid, [SPARE_GFN])
        p.memory_op(2, abi.XENMEM_get_vnumainfo, abi.VNUMA_TOPOLOGY_INFO.pack(domid, 0, 1, 1, 1, 0, 0, 0))
        p.memory_op(2, abi.XENMEM_exchange, abi.MEMORY_EXCHANGE.pack(
            p.page(2, 1), 1, 0, 0, domid, p.page(2, 2), 1, 0, 0, domid, 0))
        p.memory_op(2, abi.XENMEM_claim_pages, abi.MEMORY_RESERVATION.pack(0, 1, 0, 0, domid))
        p.grant_op(2, g.GNTTABOP_setup_table, g.SETUP.pack(domid, 1, 0, p.page(2, 5)), 1)
        p.grant_op(2, g.GNTTABOP_query_size, g.QUERY.pack(domid, 0, 0, 0), 1)
        p.grant_op(2, g.GNTTABOP_get_status_frames, g.STATUS_FRAMES.pack(1, domid, 0, p.page(2, 5)), 1)
        p.grant_op(2, g.GNTTABOP_get_version, g.GET_VERSION.pack(domid, 0), 1)
        p.map(2, [(SPARE_GFN, 2, 9, domid)])
        p.copy(2, [(9, domid, 0, p.gfn(2, 0), SELF, 0, 8, 1), (p.gfn(2, 0), domid, 0, p.gfn(2, 1), SELF, 0, 8, 0)])


@_seed
def transitive_grants(p: Program) -> None:
    """Grants of grants, copied through: good ones, chains, denied, of a domain that is gone, and pinned before."""
    for number in (1, 2, 3):
        p.table(number)
        p.version(number, 2)
    if p.domain(1).grant_table.version != 2:
        return
    p.offer(1, 9, 2, p.gfn(1, 0))
    p.offer(1, 10, 2, p.gfn(1, 1), flags=5)
    p.part(1, 11, 2, p.gfn(1, 2), 16, 64)
    p.offer(1, 12, 3, p.gfn(1, 3))
    p.passed_on(1, 13, 2, 3, 9)
    p.offer(1, 14, 2, 0xFFFFF)
    for ref, behind in ((9, 9), (10, 10), (11, 11), (12, 12), (13, 13), (14, 14), (15, 5000)):
        p.passed_on(2, ref, 3, 1, behind)
    p.passed_on(2, 16, 3, 2, 17)
    p.passed_on(2, 17, 3, 2, 16)
    p.passed_on(2, 18, 3, 99, 9)
    p.passed_on(2, 19, 3, 3, 9)
    p.offer(3, 9, 2, p.gfn(3, 3))
    mine = p.gfn(3, 0)
    for ref in range(9, 20):
        p.copy(3, [(ref, 2, 16, mine, SELF, 0, 8, 1), (mine, SELF, 0, ref, 2, 16, 8, 2)])
    p.copy(3, [(9, 2, 0, mine, SELF, 0, 8, 1)] * 4, preempt=2)
    p.copy(3, [(9, 2, 0, 9, 2, 8, 8, 3), (10, 2, 0, 9, 2, 8, 8, 3), (9, 2, 0, 10, 2, 8, 8, 3)])
    p.map(2, [(SPARE_GFN, 2, 9, 1)])
    p.copy(3, [(9, 2, 0, mine, SELF, 0, 8, 1)])
    p.map(3, [(SPARE_GFN, 2, 9, 2)])
    p.passed_on(2, 9, 3, 1, 9, flags=3 | 4)
    p.copy(3, [(9, 2, 0, mine, SELF, 0, 8, 1), (mine, SELF, 0, 9, 2, 0, 8, 2)])
    p.destroy(1)
    p.copy(3, [(10, 2, 0, mine, SELF, 0, 8, 1)])


@_seed
def parts_of_pages(p: Program) -> None:
    """Sub-page grants: copied within, across and beyond their bounds; never mapped; pinned by a copy with the other."""
    for number in (1, 2):
        p.table(number)
        p.version(number, 2)
    if p.domain(1).grant_table.version != 2:
        return
    p.part(1, 9, 2, p.gfn(1, 0), 16, 64)
    p.part(1, 10, 2, p.gfn(1, 0), 0xFFFF, 0xFFFF)
    mine = p.gfn(2, 0)
    for offset, size in ((16, 64), (15, 8), (16, 65), (80, 0), (72, 8), (4095, 2), (0, 4096)):
        p.copy(2, [(9, 1, offset, mine, SELF, 0, size, 1), (mine, SELF, 0, 9, 1, offset, size, 2)])
    p.copy(2, [(10, 1, 0x7FFF, mine, SELF, 0, 1, 1), (9, 1, 16, 9, 1, 24, 8, 3)])
    p.map(2, [(SPARE_GFN, 2, 9, 1), (SPARE_GFN, 6, 10, 1)])


@_seed
def entries_are_rewritten_while_in_use(p: Program) -> None:
    """A granter clears, changes and takes marks off an entry that is mapped; then it is mapped again and unmapped."""
    p.table(1)
    p.offer(1, 9, 2, p.gfn(1, 0))
    p.map(2, [(SPARE_GFN, 6, 9, 1)])
    p.offer(1, 9, 2, p.gfn(1, 5), flags=0)
    p.map(2, [(SPARE_GFN + 1, 6, 9, 1), (SPARE_GFN + 2, 2, 9, 1)])
    p.offer(1, 9, 3, p.gfn(1, 5), flags=1)
    p.map(3, [(SPARE_GFN, 6, 9, 1)])
    p.map(2, [(SPARE_GFN + 3, 2, 9, 1)])
    p.offer(1, 9, 2, p.gfn(1, 5), flags=5)
    p.map(2, [(SPARE_GFN + 3, 2, 9, 1)])
    p.copy(2, [(9, 1, 0, p.gfn(2, 0), SELF, 0, 8, 1), (p.gfn(2, 0), SELF, 0, 9, 1, 0, 8, 2)])
    p.reservation(1, abi.XENMEM_decrease_reservation, [p.gfn(1, 0)])
    p.copy(2, [(9, 1, 0, p.gfn(2, 0), SELF, 0, 8, 1)])
    p.unmap(2, [(SPARE_GFN + 20, p.handles(2)[0] if p.handles(2) else 0)])
    p.unmap(2, [(SPARE_GFN, handle) for handle in p.handles(2)])
    p.unmap(2, [(SPARE_GFN, 0), (SPARE_GFN, 0)])


@_seed
def granter_dies_while_its_page_is_mapped(p: Program) -> None:
    """Its mappings outlive it, until the mapper lets go, or dies as well."""
    p.create(4)
    if not p.has(4):
        return
    p.table(4)
    p.offer(4, 9, 1, DOMU_BASE + 6)
    p.offer(4, 10, 1, DOMU_BASE + 7, flags=5)
    p.map(1, [(SPARE_GFN, 2, 9, 4), (SPARE_GFN + 1, 6, 10, 4)])
    p.destroy(4, preempt=(1, 2, 1))
    p.map(1, [(SPARE_GFN + 2, 6, 10, 4)])
    p.copy(1, [(10, 4, 0, p.gfn(1, 0), SELF, 0, 8, 1), (9, 4, 0, p.gfn(1, 0), SELF, 0, 8, 1)])
    p.load(1, SPARE_GFN << 12)
    for handle, gfn in zip(p.handles(1), (SPARE_GFN, SPARE_GFN + 1), strict=False):
        p.unmap(1, [(gfn, handle)])
    p.unmap(1, [(SPARE_GFN, 0)])


@_seed
def mapper_dies(p: Program) -> None:
    """A domain with mappings, foreign pages and a device model is destroyed, preempted at each check."""
    p.create(4, pages=16)
    p.table(1)
    p.offer(1, 9, 4, p.gfn(1, 0))
    p.offer(1, 10, 4, p.gfn(1, 1), flags=5)
    if not p.has(4):
        return
    p.map(4, [(SPARE_GFN, 2, 9, 1), (SPARE_GFN + 1, 6, 10, 1), (SPARE_GFN + 2, 6, 9, 1)])
    p.control(domctl.SET_TARGET, 4, pack("<H", 3))
    p.foreign(4, 3, [(p.gfn(3, 0), SPARE_GFN + 5), (p.gfn(3, 1), SPARE_GFN + 6)], preempt=1)
    p.resource(4, 3, [SPARE_GFN + 7])
    p.destroy(3)
    for check in (1, 1, 1):
        seen = p.control(domctl.DESTROYDOMAIN, 4, preempt=check)
        if seen is None or not seen.restart:
            break
        # dom0 still names it
        p.reservation(0, abi.XENMEM_decrease_reservation, [DOMU_BASE + 9], domid=4)
        p.reservation(0, abi.XENMEM_populate_physmap, [SPARE_GFN + 9], domid=4)
        p.remove(0, DOMU_BASE + 10, domid=4)
        p.add(0, abi.XENMAPSPACE_grant_table, 0, SPARE_GFN + 10, domid=4)
        first = p.config.domains[0].iomem[0][0]
        p.control(domctl.IOMEM_PERMISSION, 4, pack("<QQB", first, 1, 1))
        p.control(domctl.MEMORY_MAPPING, 4, pack("<QQQII", SPARE_GFN + 11, first, 1, 1, 0))
        p.control(domctl.SET_PAGING_MEMPOOL_SIZE, 4, pack("<Q", 64 << 12))
    p.destroy(4, preempt=(1, 2, 3, 1, 1))
    p.create(4)


@_seed
def target_dies_first(p: Program) -> None:
    """The device model holds its target: the target is gone when the model is."""
    p.foreign(1, 2, [(p.gfn(2, 0), SPARE_GFN), (p.gfn(2, 1), SPARE_GFN + 1)])
    p.resource(1, 2, [SPARE_GFN + 2, SPARE_GFN + 3], preempt=1)
    p.destroy(2)
    p.load(1, SPARE_GFN << 12)
    p.remove(1, SPARE_GFN)
    p.foreign(1, 2, [(p.gfn(2, 1), SPARE_GFN + 4)]) if 2 in p.world.machine.domains else None
    p.remove(1, SPARE_GFN + 1)
    p.remove(1, SPARE_GFN + 2)
    p.destroy(1)


@_seed
def resources_in_chunks(p: Program) -> None:
    """acquire_resource of more than 32 frames, preempted, forged, at the ends of the table, and without a list."""
    most = p.config.opt_max_grant_frames
    p.resource(0, 1, [SPARE_GFN + i for i in range(most)])
    p.resource(0, 1, [SPARE_GFN + i for i in range(most + 1)])
    p.resource(0, 1, [SPARE_GFN + i for i in range(33)], preempt=1)
    p.resource(0, 1, [], count=0)
    p.resource(0, 1, [], count=1)
    p.resource(0, 1, [SPARE_GFN], identifier=1)
    p.resource(0, 1, [SPARE_GFN], kind=3)
    p.resource(0, 1, [SPARE_GFN, abi.MASK64, SPARE_GFN + 1])
    p.resource(0, 1, [SPARE_GFN, (1 << p.world.machine.ipa_bits - 12) + 5, SPARE_GFN + 1])
    p.resource(0, 0, [SPARE_GFN])
    p.resource(0, 99, [SPARE_GFN])
    p.resource(1, 3, [SPARE_GFN])
    p.resource(0, 1, [SPARE_GFN], frame=(1 << 32) - 1)
    p.resource(0, 1, [SPARE_GFN], frame=1 << 32)


@_seed
def device_memory(p: Program) -> None:
    """I/O memory is given, mapped, read, taken; device mappings beside it; wrapped and too long ranges."""
    first = p.config.domains[0].iomem[0][0]
    for number, allow in ((4, 1), (0, 1), (4, 0), (2, 1)):
        p.control(domctl.IOMEM_PERMISSION, 3, pack("<QQB", first, number, allow))
    for gfn, mfn, number, add in ((0x50, first, 2, 1), (0x52, first, 3, 1), (0x50, first, 65, 1), (0x50, first, 2, 0),
                                  (abi.MASK64, first, 2, 1), (0x60, 1 << 40, 1, 1), (0x60, abi.MASK64, 2, 1),
                                  (1 << 40, first, 1, 1), (0x70, first, 2, 1), (0x70, first + 1, 1, 0)):
        p.control(domctl.MEMORY_MAPPING, 3, pack("<QQQII", gfn, mfn, number, add, 0))
    p.control(domctl.MEMORY_MAPPING, 3, pack("<QQQII", p.gfn(3, 0), first, 1, 0, 0))
    p.load(3, 0x70 << 12)
    p.store(3, 0x70 << 12, 5)
    p.world.run(("fetch", 3, 0, 0x70 << 12))
    p.add(0, abi.XENMAPSPACE_dev_mmio, first + 2, SPARE_GFN)
    p.add(0, abi.XENMAPSPACE_dev_mmio, first + 64, SPARE_GFN + 1)
    p.add(3, abi.XENMAPSPACE_dev_mmio, first, SPARE_GFN)
    p.load(0, SPARE_GFN << 12)
    p.control(domctl.IOMEM_PERMISSION, 0, pack("<QQB", first, 64, 0))
    p.control(domctl.IOMEM_PERMISSION, 3, pack("<QQB", first, 1, 1))
    p.control(domctl.MEMORY_MAPPING, 2, pack("<QQQII", 0x50, first, 1, 1, 0), number=1)


@_seed
def arguments_in_hostile_places(p: Program) -> None:
    """Arrays that end where a page ends, in grant frames, read-only and foreign pages, and in pages that go away."""
    p.table(1)
    p.table(2)
    p.offer(2, 9, 1, p.gfn(2, 0), flags=5)
    p.offer(2, 10, 1, p.gfn(2, 1))
    p.map(1, [(SPARE_GFN, 6, 9, 2), (SPARE_GFN + 1, 2, 10, 2)])
    p.offer(1, 9, 1, p.gfn(1, 0), flags=5)
    p.map(1, [(SPARE_GFN + 2, 6, 9, 1), (SPARE_GFN + 3, 2, 9, 1)])
    item = g.MAP.pack(SPARE_GFN + 8 << 12, 6, 9, 2, 0, 0, 0)
    edge = SPARE_GFN + 12
    p.reservation(1, abi.XENMEM_populate_physmap, [edge])
    for address in ((edge + 1 << 12) - 32, (edge + 1 << 12) - 16, TABLE_GFN << 12, SPARE_GFN << 12, SPARE_GFN + 1 << 12,
                    SPARE_GFN + 2 << 12, 0, 1 << 63, (1 << p.world.machine.ipa_bits) - 32):
        p.put(1, address, item) if address < 1 << 40 else None
        for count in (1, 2):
            p.call(1, abi.HYPERCALL_GRANT_TABLE_OP, g.GNTTABOP_map_grant_ref, address, count)
        p.call(1, abi.HYPERCALL_MEMORY_OP, abi.XENMEM_current_reservation, address)
        p.call(1, abi.HYPERCALL_MEMORY_OP, abi.XENMEM_reserved_device_memory_map, address)
        p.call(1, abi.HYPERCALL_DOMCTL, address)
    p.reservation(1, abi.XENMEM_decrease_reservation, [p.gfn(1, 1), DOMU_BASE, DOMU_BASE + 1])
    p.call(1, abi.HYPERCALL_MEMORY_OP, abi.XENMEM_current_reservation, DOMU_BASE << 12)


@_seed
def calls_are_preempted_everywhere(p: Program) -> None:
    """Each kind of call stopped at its first and second check, continued, and continued with a forged cursor."""
    p.table(1)
    for ref in range(8, 14):
        p.offer(1, ref, 2, p.gfn(1, ref))
    for check in (1, 2):
        p.finish(1, p.reservation(1, abi.XENMEM_populate_physmap, [SPARE_GFN + 8 + i for i in range(4)], preempt=check))
        p.finish(1, p.reservation(1, abi.XENMEM_decrease_reservation, [SPARE_GFN + 8 + i for i in range(4)],
                                  preempt=check))
        p.finish(1, p.reservation(1, abi.XENMEM_increase_reservation, [], count=4, preempt=check))
        p.map(2, [(SPARE_GFN + i, 2, 8 + i, 1) for i in range(4)], preempt=check)
        p.copy(2, [(8 + i, 1, 0, p.gfn(2, 0), SELF, 8 * i, 8, 1) for i in range(4)], preempt=check)
        p.unmap(2, [(SPARE_GFN + i % 4, handle) for i, handle in enumerate((p.handles(2) * 20)[:70])], preempt=check)
        swaps = b"".join(g.SWAP.pack(14 + i, 15 + i, 0) for i in range(4))
        p.finish(1, p.grant_op(1, g.GNTTABOP_swap_grant_ref, swaps, 4, preempt=check))
        flush = g.CACHE_FLUSH.pack(p.domain(1).p2m.find(p.gfn(1, 0))[0] << 12, 0, 64, 3) * 3
        p.finish(1, p.grant_op(1, g.GNTTABOP_cache_flush, flush, 3, preempt=check))
        p.control(domctl.SET_PAGING_MEMPOOL_SIZE, 2, pack("<Q", (32 + 300 * check) << 12), preempt=check)
        p.finish(0, p.control(domctl.SET_PAGING_MEMPOOL_SIZE, 2, pack("<Q", 32 << 12), preempt=check))
    p.reservation(1, abi.XENMEM_populate_physmap, [SPARE_GFN], extent=1)
    p.reservation(1, abi.XENMEM_populate_physmap, [SPARE_GFN], extent=(1 << 26) - 1)


@_seed
def cache_flush_looks_through_large_tables(p: Program) -> None:
    """A flush of another's page by a grant far up in its table, with cursors of one's own making."""
    most = p.config.opt_max_grant_frames
    p.table(1, most)
    ref = 512 * (most - 1) + 5
    at = (TABLE_GFN + most - 1 << 12) + 8 * 5
    p.put(1, at, pack("<HHI", 1, 2, p.gfn(1, 0)))
    p.map(2, [(SPARE_GFN, 2, ref, 1)])
    mfn = p.domain(1).p2m.find(p.gfn(1, 0))[0]
    other = p.domain(1).p2m.find(p.gfn(1, 1))[0]
    device = p.config.domains[0].iomem[0][0]
    own = p.domain(2).p2m.find(p.gfn(2, 0))[0]
    for frame, offset, length, op in ((mfn, 0, 4096, 3), (other, 0, 64, 1), (mfn, 0, 0, 3), (mfn, 0, 8, 0),
                                      (mfn, 4095, 2, 1), (device, 0, 8, 1), (mfn, 0, 8, 1 << 31), (own, 0, 8, 2),
                                      (p.world.machine.memory.banks[0][0], 0, 8, 1)):
        item = g.CACHE_FLUSH.pack(frame << 12, offset, length, op)
        p.finish(2, p.grant_op(2, g.GNTTABOP_cache_flush, item * 2, 2, preempt=1))
        for cursor in (1, 2, 1 << 19):
            p.call(2, abi.HYPERCALL_GRANT_TABLE_OP, g.GNTTABOP_cache_flush | cursor << 12, p.page(2, 4), 2)


@_seed
def caches_by_set_and_way(p: Program) -> None:
    """A trapped set/way operation invalidates the root; accesses repair it level by level; the cache is toggled."""
    p.reservation(1, abi.XENMEM_populate_physmap, [BLOCK_GFN], order=9)
    for number in (1, 0):
        p.world.run(("set_way", number, 0))
        p.world.run(("set_way", number, 0))
        p.load(number, p.gfn(number, 0) << 12)
        p.world.run(("toggle_cache", number, 0, True))
        p.load(number, p.gfn(number, 1) << 12)
        p.world.run(("fetch", number, 0, p.gfn(number, 1) << 12))
        p.world.run(("toggle_cache", number, 0, False))
        p.world.run(("set_way", number, 0))
        p.world.run(("toggle_cache", number, 0, False))
        p.store(number, p.gfn(number, 2) << 12, 7)
    p.load(1, BLOCK_GFN + 5 << 12)
    p.load(1, 1 << 47)
    p.load(1, (p.gfn(1, 0) << 12) | 1 << 47)


@_seed
def domains_come_and_go(p: Program) -> None:
    """Ids that are taken, wrapped and forbidden; a domain created by every odd configuration; pauses to the limit."""
    p.create(4)
    p.control(domctl.CREATEDOMAIN, 4, CREATION)
    for domid in (0, 0x7FF0, 0xFFFF, 0x7FEF):
        p.control(domctl.CREATEDOMAIN, domid, CREATION)
    fields = domctl.CREATE.unpack(CREATION)
    for place, value in ((2, 0), (2, 1 << 5), (2, 3 | 1 << 5), (2, 3 | 1 << 7), (3, 1), (4, 0), (4, 9), (4, 200),
                         (6, 0), (6, 1000), (7, 5000), (8, 0), (8, 2), (8, 3), (9, 1), (10, 1), (11, 3), (12, 1),
                         (13, 2000)):
        changed = list(fields)
        changed[place] = value
        p.control(domctl.CREATEDOMAIN, 5, domctl.CREATE.pack(*changed))
        if 5 in p.world.machine.domains:
            p.destroy(5)
    for _ in range(257):
        p.call(0, abi.HYPERCALL_DOMCTL, p.page(0, 0))
    p.control(domctl.DESTROYDOMAIN, 0)
    p.control(domctl.DESTROYDOMAIN, 99)
    p.control(domctl.DESTROYDOMAIN, 1, number=2)


@_seed
def domain_is_born_paused_too_often(p: Program) -> None:
    """Pauses count to a limit; a domain that was never started is destroyed."""
    p.control(domctl.CREATEDOMAIN, 4, CREATION)
    p.control(domctl.PAUSEDOMAIN, 2)
    for _ in range(256):
        p.call(0, abi.HYPERCALL_DOMCTL, p.page(0, 0))
    p.control(domctl.UNPAUSEDOMAIN, 2)
    p.control(domctl.GETDOMAININFO, 2)
    p.control(domctl.GETDOMAININFO, 5)
    p.control(domctl.PAUSEDOMAIN, 0)
    p.destroy(4, preempt=(1,))


@_seed
def every_vmid_is_taken(p: Program) -> None:
    """Domains without memory until there is no VMID; then one goes, and its VMID is given again."""
    for number in range(4, 300):
        p.control(domctl.CREATEDOMAIN, number, CREATION)
        if number not in p.world.machine.domains:
            break
    p.destroy(4)
    p.control(domctl.CREATEDOMAIN, 4, CREATION)


@_seed
def reservations_at_the_edges(p: Program) -> None:
    """Orders, counts, flags and guest frames at which a rule ends, for dom0, a pass-through domain and others."""
    top = 1 << p.world.machine.ipa_bits - 12
    for number in (0, 1, 3):
        for order in (9, 10, 11, 18, 19, 31):
            p.reservation(number, abi.XENMEM_increase_reservation, [], count=1, order=order)
        for flags in (12, 13, 20, 40, 1 << 8, 2 << 8, 1 << 16, 1 << 17 | 2 << 8, 1 << 17 | 1 << 8, 1 << 18):
            p.reservation(number, abi.XENMEM_populate_physmap, [SPARE_GFN + 9], flags=flags)
        for count in (0, 1 << 26, (1 << 26) - 1, abi.MASK64):
            p.reservation(number, abi.XENMEM_decrease_reservation, [0x7777], count=count)
        for gfn in (top - 1, top, abi.MASK64, abi.MASK64 >> 12, 0):
            p.reservation(number, abi.XENMEM_populate_physmap, [gfn])
            p.load(number, gfn << 12 & (1 << 52) - 1)
            p.reservation(number, abi.XENMEM_decrease_reservation, [gfn])
        p.reservation(number, abi.XENMEM_populate_physmap, [top - 1], order=1)
        p.reservation(number, abi.XENMEM_decrease_reservation, [p.gfn(number, 2), p.gfn(number, 2)])
        p.reservation(number, abi.XENMEM_populate_physmap, [p.gfn(number, 2)])
    p.control(domctl.MAX_MEM, 1, pack("<Q", 0))
    p.reservation(1, abi.XENMEM_populate_physmap, [SPARE_GFN])
    p.reservation(1, abi.XENMEM_increase_reservation, [], count=1)


def history(name: str, scenario: Scenario) -> History:
    """One seed on one machine. Errors: KeyError if there is no such seed."""
    world = Single(scenario)
    program = Program(world)
    # if the implementation breaks down, that is the history's point
    with contextlib.suppress(FoundError):
        SEEDS[name](program)
    return tuple(world.history)


def suits(name: str, scenario: Scenario) -> bool:
    """The seed shows something on this machine: those of version 2 need it."""
    _, config = configuration(scenario)
    return config.grant_max_version == 2 or name not in OF_VERSION_2


def vector(name: str, scenario: Scenario) -> trace.Trace:
    """One seed as a trace, with what the implementation shows."""
    history_of = history(name, scenario)
    world = Single(scenario)
    shown = [world.run(stimulus) for stimulus in history_of]
    about = (SEEDS[name].__doc__ or "").strip()
    return to_trace(scenario, history_of, name=name, about=about, seen=shown)


def main() -> None:
    """Write every seed as a vector: ``python -m bulkhead.fuzz.seeds DIRECTORY``."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m bulkhead.fuzz.seeds DIRECTORY")
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name in SEEDS:
        # version 2 of the grant tables where a program is about it; the most usual machine for the others
        scenario = Scenario("foundation-v8", 2 if name in OF_VERSION_2 else 0)
        trace.write(vector(name, scenario), directory / f"{name}.json")


__all__ = ["SEEDS", "Program", "history", "suits", "vector"]


if __name__ == "__main__":
    main()
