"""Rare behaviours as small programs: each makes a history that random guests would seldom find.

A program is a function of a `Program` (a grammar with exact calls) on one machine. What it does not need to say (where
arguments lie, which vCPU) is the grammar's; nothing in it is random. A campaign begins with them all on each of its
machines.
"""

from __future__ import annotations

import argparse
import contextlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
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
FAR_GFN: Final = 0x8000000
"""A guest frame with which no other shares a table."""
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
        self.control(domctl.SET_ADDRESS_SIZE, domid, pack("<I", self.world.machine.width))
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
    "transitive-grants-change-while-in-use", "version-2-is-left-with-odd-entries", "entries-are-swapped",
    "version-2-is-left-while-a-status-frame-is-held", "version-2-is-left-with-two-status-frames",
    "frames-of-a-table-are-mapped-at-one-place",
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
    take_everything(p)
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
    # an interrupt controller that the board has not is found later
    fields = list(domctl.CREATE.unpack(CREATION))
    for gic in (1, 2):
        fields[11] = gic
        p.control(domctl.CREATEDOMAIN, 4, domctl.CREATE.pack(*fields))
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
    # as many pages as a register of 32 bits can say
    p.control(domctl.SET_PAGING_MEMPOOL_SIZE, 3, pack("<Q", abi.MASK32 << 12))


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
    first = p.config.domains[0].iomem[0][0]
    p.control(domctl.IOMEM_PERMISSION, 3, pack("<QQB", first, 1, 1))
    p.control(domctl.MEMORY_MAPPING, 3, pack("<QQQII", BLOCK_GFN + 6, first, 1, 1, 0))
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
    p.foreign(0, 2, [(p.gfn(2, 1), BLOCK_GFN + 4)], domid=1)
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
    # entries, status words, and what is neither
    for identifier in range(3):
        p.resource(0, 1, [SPARE_GFN + identifier], identifier=identifier)
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
def frames_of_a_table_are_mapped_at_one_place(p: Program) -> None:
    """Frames of entries and of status words, each tried at a second place, moved, and tried where the other one is."""
    p.table(1)
    p.version(1, 2)
    status, entries = 1 << 31, 0
    for idx, gfn in ((status, 0x20), (status, 0x21), (entries, 0x22), (entries, 0), (status, 0)):
        p.add(1, abi.XENMAPSPACE_grant_table, idx, TABLE_GFN + gfn)
    p.remove(1, TABLE_GFN)
    for idx, gfn in ((entries, 0x22), (entries, 0x23), (status, 0x23)):
        p.add(1, abi.XENMAPSPACE_grant_table, idx, TABLE_GFN + gfn)
    p.remove(1, TABLE_GFN + 0x20)
    for idx, gfn in ((entries, 0x20), (status, 0x21), (status, 0x20)):
        p.add(1, abi.XENMAPSPACE_grant_table, idx, TABLE_GFN + gfn)
    for gfn in (0, 0x20, 0x21, 0x22, 0x23):
        p.load(1, TABLE_GFN + gfn << 12)


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
    for other in (0, 1, 3):
        p.map(other, [(SPARE_GFN, 6, 9, 1), (SPARE_GFN, 2, 9, 1)])
        p.copy(other, [(9, 1, 0, p.gfn(other, 0), SELF, 0, 8, 1), (p.gfn(other, 0), SELF, 0, 9, 1, 0, 8, 2)])
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
                                  (1 << 40, first, 1, 1), (0x70, first, 2, 1), (0x70, first + 1, 1, 0),
                                  (abi.MASK64, first + 10, 2, 1)):
        p.control(domctl.MEMORY_MAPPING, 3, pack("<QQQII", gfn, mfn, number, add, 0))
    p.control(domctl.MEMORY_MAPPING, 3, pack("<QQQII", p.gfn(3, 0), first, 1, 0, 0))
    # across the end of what the root table maps
    tree = p.domain(3).p2m
    last = (tree.root_pages << 9 * (4 - tree.root_level)) - 1
    p.control(domctl.MEMORY_MAPPING, 3, pack("<QQQII", last, first, 2, 1, 0))
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
                                      (own | 1 << 32, 0, 8, 2), (p.world.machine.memory.banks[0][0], 0, 8, 1)):
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


@_seed
def accesses_across_the_end_of_a_page(p: Program) -> None:
    """Loads and stores that begin in one page and end in another: RAM, read-only, of a device, or none at all."""
    device = p.config.domains[0].iomem[0][0]
    p.table(1)
    p.offer(1, 9, 2, p.gfn(1, 0), flags=5)
    p.map(2, [(SPARE_GFN + 1, 6, 9, 1)])
    p.reservation(2, abi.XENMEM_populate_physmap, [SPARE_GFN, SPARE_GFN + 2])
    p.control(domctl.IOMEM_PERMISSION, 2, pack("<QQB", device, 1, 1))
    p.control(domctl.MEMORY_MAPPING, 2, pack("<QQQII", SPARE_GFN + 3, device, 1, 1, 0))
    p.store(1, p.gfn(1, 0) << 12, 0x1122334455667788)
    for gfn in (p.gfn(2, 0), p.gfn(2, 1), SPARE_GFN, SPARE_GFN + 2):
        p.store(2, gfn << 12, 0x0102030405060708)
        p.store(2, (gfn << 12) + 4088, 0x1112131415161718)
    for gfn in (p.gfn(2, 0), SPARE_GFN - 1, SPARE_GFN, SPARE_GFN + 1, SPARE_GFN + 2, SPARE_GFN + 3, SPARE_GFN + 4):
        for size, before in ((8, 3), (4, 3), (2, 1), (8, 8), (1, 1)):
            at = (gfn + 1 << 12) - before
            p.load(2, at, size)
            p.store(2, at, (1 << 8 * size) - 2, size)
            p.load(2, at, size)
    for kind in ("store", "load"):
        p.world.run((kind, 2, 0, (1 << p.world.machine.ipa_bits) - 4, 8, *([5] if kind == "store" else [])))
    for gfn in (SPARE_GFN, SPARE_GFN + 1, SPARE_GFN + 3, SPARE_GFN + 4, TABLE_GFN):
        p.world.run(("fetch", 2, 0, gfn << 12))
        p.world.run(("fetch", 1, 0, gfn << 12))


@_seed
def frames_of_xen_are_given_to_guests(p: Program) -> None:
    """What was in grant frames, status frames, shared_info and pages of the dead is not read by who comes next."""
    for number in (1, 2):
        p.table(number)
        p.version(number, 2)
        p.add(number, abi.XENMAPSPACE_grant_table, 1 << 31, TABLE_GFN + 0x20)
        p.store(number, (TABLE_GFN + 0x20 << 12) + 8, 0x77)
    p.version(1, 1)
    p.create(4, pages=16)
    if p.has(4):
        p.table(4, 2)
        p.add(4, abi.XENMAPSPACE_shared_info, 0, TABLE_GFN + 0x40)
        for gfn in (TABLE_GFN, TABLE_GFN + 1, TABLE_GFN + 0x40, DOMU_BASE + 6, DOMU_BASE + 9):
            p.store(4, (gfn << 12) + 8, 0x5A5A5A5A)
        p.store(1, (p.gfn(1, 0) << 12) + 8, 0x3333)
        p.reservation(1, abi.XENMEM_decrease_reservation, [p.gfn(1, 0)])
        p.destroy(4)
    p.control(domctl.MAX_MEM, 2, pack("<Q", 4 * 100000))
    for first in range(0, 1 << 14, 512):
        before = p.domain(2).tot_pages if p.has(2) else 0
        p.reservation(2, abi.XENMEM_populate_physmap, [BLOCK_GFN + first], order=9)
        if not p.has(2) or p.domain(2).tot_pages == before:
            break
    for first in range(0, 1 << 10, 64):
        p.reservation(2, abi.XENMEM_populate_physmap, [0x60800 + first + i for i in range(64)])


@_seed
def pages_are_given_up_while_others_use_them(p: Program) -> None:
    """A page that others have mapped, by a grant or as a foreign one, is given back; then its owner dies, and they."""
    p.create(4, pages=16)
    if not p.has(4):
        return
    p.table(4)
    p.offer(4, 9, 1, DOMU_BASE + 6)
    p.offer(4, 10, 1, DOMU_BASE + 7, flags=5)
    p.map(1, [(SPARE_GFN, 2, 9, 4), (SPARE_GFN + 1, 6, 10, 4), (SPARE_GFN + 2, 6, 10, 4)])
    p.foreign(0, 4, [(DOMU_BASE + 8, SPARE_GFN + 3), (DOMU_BASE + 6, SPARE_GFN + 4)])
    p.control(domctl.SET_TARGET, 4, pack("<H", 3))
    p.foreign(4, 3, [(p.gfn(3, 0), SPARE_GFN + 5), (p.gfn(3, 1), SPARE_GFN + 6)])
    p.reservation(4, abi.XENMEM_decrease_reservation, [DOMU_BASE + 6, DOMU_BASE + 7, DOMU_BASE + 8, DOMU_BASE + 6])
    p.reservation(3, abi.XENMEM_decrease_reservation, [p.gfn(3, 0)])
    p.load(1, SPARE_GFN << 12)
    p.load(0, SPARE_GFN + 3 << 12)
    seen = p.control(domctl.DESTROYDOMAIN, 4, preempt=1)
    for gfn in (SPARE_GFN + 5, SPARE_GFN + 6, DOMU_BASE + 10):
        p.remove(0, gfn, domid=4)
        p.reservation(0, abi.XENMEM_decrease_reservation, [gfn], domid=4)
    p.add(0, abi.XENMAPSPACE_shared_info, 0, SPARE_GFN + 9, domid=4)
    p.add(0, abi.XENMAPSPACE_grant_table, 1, SPARE_GFN + 9, domid=4)
    p.resource(0, 4, [SPARE_GFN + 10], frame=1)
    p.control(domctl.GETDOMAININFO, 4)
    p.finish(0, seen)
    p.destroy(4)
    p.control(domctl.GETDOMAININFO, 4)
    for gfn in (SPARE_GFN, SPARE_GFN + 1, SPARE_GFN + 2):
        p.unmap(1, [(gfn, handle) for handle in p.handles(1)[:1]])
    p.remove(0, SPARE_GFN + 3)
    p.remove(0, SPARE_GFN + 4)


@_seed
def frames_of_xen_are_mapped_twice(p: Program) -> None:
    """Grant frames and shared_info at a second place, over other pages, moved after a removal, beyond the tables."""
    top = 1 << p.world.machine.ipa_bits - 12
    for number in (0, 1, 3):
        for space, idx in ((abi.XENMAPSPACE_shared_info, 0), (abi.XENMAPSPACE_grant_table, 0),
                           (abi.XENMAPSPACE_grant_table, 1)):
            for gfn in (top, top - 1, SPARE_GFN + 1, SPARE_GFN + 2, SPARE_GFN + 1):
                p.add(number, space, idx, gfn)
            p.remove(number, top - 1)
            p.add(number, space, idx, p.gfn(number, 4))
            p.store(number, p.gfn(number, 4) << 12, 0x11)
            p.grant_op(number, g.GNTTABOP_setup_table, g.SETUP.pack(SELF, 2, 0, p.page(number, 5)), 1)
            p.foreign(0, number, [(p.gfn(number, 4), SPARE_GFN + 8)])
            p.reservation(number, abi.XENMEM_decrease_reservation, [p.gfn(number, 4)])
            p.add(number, space, idx, p.gfn(number, 4))
        p.add(number, abi.XENMAPSPACE_shared_info, 1, SPARE_GFN + 3)
        for idx in (p.config.opt_max_grant_frames - 1, p.config.opt_max_grant_frames, 1 << 31, 1 << 31 | 1,
                    1 << 32, abi.MASK32, abi.MASK64):
            p.add(number, abi.XENMAPSPACE_grant_table, idx, SPARE_GFN + 4)
            p.remove(number, SPARE_GFN + 4)


@_seed
def dom0_maps_grants_behind_an_iommu(p: Program) -> None:
    """Readers and writers of one page come and go: the 1:1 entry of the IOMMU follows, one frame at a time."""
    p.table(0)
    p.table(1)
    for ref in (9, 10, 11):
        p.offer(1, ref, 0, p.gfn(1, ref))
        p.offer(0, ref, 0, p.gfn(0, ref))
    for order in ((6, 2), (2, 6), (6, 6, 2), (2, 2), (6, 6), (2, 6, 2, 6)):
        for ref in (9, 10):
            before = set(p.handles(0))
            for number, flags in enumerate(order):
                p.map(0, [(SPARE_GFN + number, flags, ref, 1)])
            taken = [handle for handle in p.handles(0) if handle not in before]
            for number, handle in enumerate(taken if ref == 9 else taken[::-1]):
                p.unmap(0, [(SPARE_GFN + (number if ref == 9 else len(taken) - 1 - number), handle)])
    # over a 1:1 entry, and what is there when it goes
    frame = p.domain(1).p2m.find(p.gfn(1, 11))[0]
    p.map(0, [(SPARE_GFN, 2, 11, 1)])
    p.load(0, frame << 12)
    p.store(0, (frame << 12) + 8, 7)
    p.map(0, [(frame, 6, 11, 1), (SPARE_GFN + 1, 6, 11, 1)])
    p.load(0, frame << 12)
    p.map(0, [(SPARE_GFN + 2, 2, 9, 0), (SPARE_GFN + 3, 6, 10, 0)])
    for handle in p.handles(0):
        for gfn in (SPARE_GFN, SPARE_GFN + 1, SPARE_GFN + 2, SPARE_GFN + 3, frame):
            p.unmap(0, [(gfn, handle)])
    # another frame in its place: what the last mapping would remove is not there
    for ref, replace in ((11, None), (10, 0)):
        before, frame = set(p.handles(0)), p.domain(1).p2m.find(p.gfn(1, ref))[0]
        p.map(0, [(SPARE_GFN + 4, 2, ref, 1), (frame, 6, 9, 1)])
        taken = [handle for handle in p.handles(0) if handle not in before]
        for gfn, handle in zip((SPARE_GFN + 4, frame), taken, strict=False):
            p.unmap(0, [(gfn, handle)], replace=replace)


@_seed
def control_calls_at_their_edges(p: Program) -> None:
    """Each domctl with the numbers at which a rule of it ends."""
    device = p.config.domains[0].iomem[0][0]
    p.control(domctl.CREATEDOMAIN, 4, CREATION)
    for domid in (2, 4):
        for size in (32, 16, 64, 0, 65):
            p.control(domctl.SET_ADDRESS_SIZE, domid, pack("<I", size))
    for domid, number in ((4, 0), (4, 2), (4, 1), (4, 1), (0, 2), (3, 2), (3, 1), (99, 1)):
        p.control(domctl.SETVCPUCONTEXT, 4, pack("<IIQ", 0, 0, p.page(0, 2)))
        p.control(domctl.MAX_VCPUS, domid, pack("<I", number))
    p.control(domctl.UNPAUSEDOMAIN, 4)
    p.control(domctl.GETDOMAININFO, 4)
    contexts_in_every_mode(p)
    for domid in (0, 1, 2, 3, 4, 5, 0x7FEF, 0x7FF0, 0xFFFF):
        p.control(domctl.GETDOMAININFO, domid)
    p.control(domctl.GETDOMAININFO, 2, number=1)
    p.control(domctl.GETDOMAININFO, 99, number=1)
    p.control(domctl.GETDOMAININFO, 1, number=1)
    for limit in (0, 3, 4, 800, (1 << 34) - 1, 1 << 34, abi.MASK64):
        p.control(domctl.MAX_MEM, 2, pack("<Q", limit))
        p.memory_op(2, abi.XENMEM_maximum_reservation, pack("<H", SELF))
        p.control(domctl.GETDOMAININFO, 2)
    for size in (1 << 32, 1 << 63, abi.MASK64 - 4095, 33 << 12, (33 << 12) + 1, (34 << 12) - 1, 33 << 12, 0, 32 << 12):
        seen = p.control(domctl.SET_PAGING_MEMPOOL_SIZE, 2, pack("<Q", size), preempt=2)
        # a pool without bounds takes all frames there are, one by one: it is given up
        p.finish(0, seen) if size < 1 << 32 else None
        p.control(domctl.GET_PAGING_MEMPOOL_SIZE, 2)
    for domid, target in ((4, 4), (4, 99), (4, 0x7FF0), (4, 2), (4, 3), (1, 3), (2, 2)):
        p.control(domctl.SET_TARGET, domid, pack("<H", target))
    p.control(domctl.CREATEDOMAIN, 5, CREATION)
    p.control(domctl.SET_TARGET, 5, pack("<H", 4))
    p.destroy(4)
    p.control(domctl.GETDOMAININFO, 4)
    p.destroy(5)
    p.control(domctl.GETDOMAININFO, 4)
    p.control(domctl.SETDOMAINHANDLE, 2, bytes(range(16)))
    p.control(domctl.GETDOMAININFO, 2)
    for start, number in ((0, 0), (0, 1 << 18), (0, (1 << 18) + 1), (abi.MASK64, 1), (abi.MASK64, 2), (abi.MASK32, 2),
                          (abi.MASK64 - 5, 5), (abi.MASK64 - 5, 6)):
        p.control(domctl.CACHEFLUSH, 2, pack("<QQ", start, number))
    for domid in (0, 2, 3, 99):
        for command in (domctl.RESUMEDOMAIN, domctl.UNPAUSEDOMAIN, domctl.PAUSEDOMAIN, domctl.GETDOMAININFO,
                        domctl.UNPAUSEDOMAIN, domctl.UNPAUSEDOMAIN, domctl.SETTIMEOFFSET, 1000, 0, 64, 28, 79):
            p.control(command, domid)
            p.control(command, domid, number=2)
    p.control(domctl.MEMORY_MAPPING, 99, pack("<QQQII", SPARE_GFN, device, 1, 1, 0))
    for version in (0x14, 0x16, 0):
        p.put(0, p.page(0, 0) + 4, pack("<I", version))
        p.call(0, abi.HYPERCALL_DOMCTL, p.page(0, 0))


def contexts_in_every_mode(p: Program) -> None:
    """Contexts of domains that can be started: vCPUs that there are, modes of the status registers."""
    page = p.page(0, 2)
    for domid, vcpu, context in ((0, 0, page), (2, 0, page), (2, 1, page), (3, 1, page), (3, 2, page), (2, 0, 0),
                                 (4, 0, 0), (4, 0, 1 << 45), (4, 1, page), (4, 0, page)):
        p.control(domctl.SETVCPUCONTEXT, domid, pack("<IIQ", vcpu, 0, context))
        p.control(domctl.GETDOMAININFO, domid)
    for online, status, saved, banks in (
            *((1, 0x3C0 | mode, 0, 0) for mode in (0, 1, 4, 5, 8, 9, 12, 13, 0x10, 0x13, 0x16, 0x17, 0x1A, 0x1B, 0x1F)),
            (1, 0x1D3, 0x10, 0), (1, 0x1D3, 0x3C5, 0), (1, 0x3C5, 0x3C9, 0), (1, 0x3C5, 0x3C4, 0), (1, 0x1D3, 0, 0x1D5),
            (1, 0x1D3, 0, 0x1D1), (0, 0x3C5, 0, 0), (2, 0x3C5, 0, 0), (3, 0x3C5, 0, 0), (1, 0x1D3, 1 << 40, 0)):
        p.put(0, page, pack("<Q", online))
        p.put(0, page + 264, pack("<QQ4I", status, saved, 0, 0, 0, banks))
        p.control(domctl.SETVCPUCONTEXT, 3, pack("<IIQ", 1, 0, page))
        p.control(domctl.GETDOMAININFO, 3)
        p.world.run(("load", 3, 1, p.page(3, 0), 8))


@_seed
def contexts_of_32_bits(p: Program) -> None:
    """A domain of 32 bits is made on arm64: its registers, its status registers, what its aborts look like."""
    p.control(domctl.CREATEDOMAIN, 4, CREATION)
    p.control(domctl.MAX_VCPUS, 4, pack("<I", 1))
    p.control(domctl.SET_ADDRESS_SIZE, 4, pack("<I", 32))
    p.control(domctl.MAX_MEM, 4, pack("<Q", 4 * 64))
    p.control(domctl.SET_PAGING_MEMPOOL_SIZE, 4, pack("<Q", 32 << 12))
    page = p.page(0, 2)
    for status, saved, banks in ((0x3C5, 0, 0), (0x1DA, 0, 0), (0x1D3, 0x3C5, 0), (0x1D3, 1 << 40, 0), (0x1D3, 0,
                                 0x3C5),
                                 (0x1D3, 0, 0x1D7), (0x1D0, 0x1DF, 0x1DB)):
        p.put(0, page, pack("<Q", 1))
        p.put(0, page + 264, pack("<QQ4I", status, saved, 0, banks, 0, banks))
        p.control(domctl.SETVCPUCONTEXT, 4, pack("<IIQ", 0, 0, page))
    p.reservation(0, abi.XENMEM_populate_physmap, [DOMU_BASE + i for i in range(8)], domid=4)
    p.control(domctl.SET_ADDRESS_SIZE, 4, pack("<I", 64))
    p.control(domctl.UNPAUSEDOMAIN, 4)
    p.load(4, SPARE_GFN << 12)
    p.world.run(("fetch", 4, 0, SPARE_GFN << 12))
    p.table(4)
    p.memory_op(4, abi.XENMEM_maximum_gpfn, pack("<H", SELF))
    p.call(4, 63)
    p.call(4, abi.HYPERCALL_MEMORY_OP, 99)
    p.world.run(("hypercall", 4, 0, {16: 12, 12: 20, 0: 2, 1: 1 << 33, 2: 1 << 32}, 0))
    p.world.run(("set_way", 4, 0))


@_seed
def creations_at_their_edges(p: Program) -> None:
    """Each field of createdomain at the values where its rule ends; every domain that comes of it is destroyed."""
    fields = list(domctl.CREATE.unpack(CREATION))
    most, tracks = p.config.opt_max_grant_frames, p.config.opt_max_maptrack_frames
    changes: list[dict[int, int]] = [
        *({2: flags, 3: options} for flags in (1, 2, 3, 7, 3 | 1 << 5, 3 | 1 << 7, 3 | 1 << 5 | 1 << 7, 3 | 1 << 8)
          for options in (0, 1, 2)),
        *({4: number, 11: gic} for number in (0, 1, 7, 8, 9, 127, 128, 129) for gic in (0, 1, 2, 3)),
        *({6: number} for number in (-2, -1, 0, 1, most, most + 1)), *({7: number} for number in (-1, 0, tracks,
        tracks + 1)),
        *({8: number} for number in (0, 1, 2, 3, 16, 17)), {9: 1}, {10: 1}, {10: 1, 4: 0}, {12: 1},
        *({13: number} for number in (1, 31, 32, 960, 988, 989, 992, 1 << 31, abi.MASK32 - 30, abi.MASK32)), {14: 5},
    ]
    for change in changes:
        made = list(fields)
        for place, value in change.items():
            made[place] = value
        p.control(domctl.CREATEDOMAIN, 5, domctl.CREATE.pack(*made))
        p.load(0, p.page(0, 0) + 8)
        if 5 in p.world.machine.domains:
            p.resource(0, 5, [], count=0)
            p.control(domctl.MAX_VCPUS, 5, pack("<I", made[4]))
            p.destroy(5)
    for domid, gone in ((0, 0), (0, 4), (0, 0), (0x7FF0, 5), (0xFFFF, 6), (0x7FEF, 0), (0x7FEE, 0), (6, 0), (0, 0)):
        p.destroy(gone) if gone in p.world.machine.domains and gone else None
        p.control(domctl.CREATEDOMAIN, domid, CREATION)
        p.load(0, p.page(0, 0) + 8)
    p.put(0, p.page(0, 0) + 24, bytes(range(16)))
    p.control(domctl.CREATEDOMAIN, 0, domctl.CREATE.pack(0, bytes(range(16)), *fields[2:]))
    p.control(domctl.GETDOMAININFO, 8)


@_seed
def ranges_of_devices_are_split_and_joined(p: Program) -> None:
    """Permissions that meet, overlap and leave a hole; each frame tried after each change; calls of a device model."""
    first = p.config.domains[0].iomem[0][0]
    for start, number, allow in ((4, 4, 1), (8, 2, 1), (12, 2, 1), (3, 1, 1), (5, 2, 0), (9, 6, 1), (0, 2, 1), (0, 64,
                                 1),
                                 (7, 1, 0), (6, 1, 0), (8, 1, 0), (0, 1, 0), (63, 1, 0), (60, 4, 0), (0, 64, 0), (2,
                                 0, 1),
                                 (4, 4, 1), (4, 4, 0), (4, 4, 1),
                                 (4, 2, 0), (6, 2, 0), (63, 2, 1), (0, 65, 0)):
        p.control(domctl.IOMEM_PERMISSION, 2, pack("<QQB", first + start, number, allow))
        for frame in (0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14, 63):
            p.control(domctl.MEMORY_MAPPING, 2, pack("<QQQII", SPARE_GFN + frame, first + frame, 1, 1, 0))
        p.control(domctl.MEMORY_MAPPING, 2, pack("<QQQII", SPARE_GFN + 100, first + 3, 3, 1, 0), number=1)
        # who has no I/O memory left may not name an order of 10
        p.memory_op(2, abi.XENMEM_exchange, abi.MEMORY_EXCHANGE.pack(
            p.page(2, 1), 1, 10, 0, SELF, p.page(2, 2), 1, 10, 0, SELF, 0))
        for frame in range(64):
            p.control(domctl.MEMORY_MAPPING, 2, pack("<QQQII", SPARE_GFN + frame, first + frame, 64 - frame, 0, 0)) \
                if frame in (0, 1) else None
    wide = 48 if p.world.machine.width == 64 else 40
    p.control(domctl.IOMEM_PERMISSION, 0, pack("<QQB", first, 64, 1))
    for gfn, mfn, number in ((0x50, first, 64), (0x50, first, 65), (0x50, first, 0), (0x50, first, abi.MASK64),
                             (0x50, (1 << wide - 12) - 1, 1), (0x50, (1 << wide - 12) - 1, 2), (0x50, 1 << wide - 12,
                             1),
                             (abi.MASK64, first, 1), (abi.MASK64 - 1, first, 2), (abi.MASK32, first, 2), (0x50,
                             first - 1, 2),
                             (0x50, first + 63, 2)):
        for add in (1, 0):
            p.control(domctl.MEMORY_MAPPING, 0, pack("<QQQII", gfn, mfn, number, add, 0))
    p.control(domctl.IOMEM_PERMISSION, 0, pack("<QQB", abi.MASK64, 1, 1))
    p.control(domctl.IOMEM_PERMISSION, 0, pack("<QQB", abi.MASK64, 2, 1))


@_seed
def permission_for_devices_is_taken_back_from_a_hole(p: Program) -> None:
    """Devices are taken back from within a hole of what is permitted: Xen permits those before (DEV-37)."""
    first = p.config.domains[0].iomem[0][0]
    for start, number in ((3, 2), (3, 3), (2, 3), (3, 1), (6, 2), (1, 4), (4, 1)):
        for at, some, allow in ((0, 16, 0), (0, 2, 1), (4, 2, 1), (start, number, 0)):
            p.control(domctl.IOMEM_PERMISSION, 3, pack("<QQB", first + at, some, allow))
        for frame in range(8):
            for add in (1, 0):
                p.control(domctl.MEMORY_MAPPING, 3, pack("<QQQII", SPARE_GFN + frame, first + frame, 1, add, 0))
    # three parts, of which the second goes
    for at, some, allow in ((0, 16, 0), (0, 1, 1), (4, 1, 1), (8, 1, 1), (2, 4, 0)):
        p.control(domctl.IOMEM_PERMISSION, 3, pack("<QQB", first + at, some, allow))
    for frame in range(10):
        p.control(domctl.MEMORY_MAPPING, 3, pack("<QQQII", SPARE_GFN + frame, first + frame, 1, 1, 0))


@_seed
def memory_calls_at_their_edges(p: Program) -> None:
    """Each memory_op with start extents, paddings, flags and lists at which a rule of it ends."""
    full = abi.MASK64
    for number in (0, 1, 2):
        own = p.domain(number).id if number in p.world.machine.domains else 0
        words = {2: b"", 3: pack("<H", SELF), 4: pack("<H", SELF), 14: pack("<H", SELF), 18: b"", 19: b"",
                 15: abi.REMOVE_FROM_PHYSMAP.pack(SELF, p.gfn(number, 1)),
                 24: abi.MEMORY_RESERVATION.pack(0, 0, 0, 0, own),
                 11: abi.MEMORY_EXCHANGE.pack(p.page(number, 1), 1, 0, 0, SELF, p.page(number, 2), 1, 0, 0, SELF, 0),
                 26: abi.VNUMA_TOPOLOGY_INFO.pack(SELF, 0, 1, 1, 1, 0, 0, 0),
                 27: abi.RESERVED_DEVICE_MEMORY_MAP.pack(0, 4, p.page(number, 1), 0, 0, 0),
                 7: abi.ADD_TO_PHYSMAP.pack(SELF, 0, 1, 0, SPARE_GFN),
                 23: abi.ADD_TO_PHYSMAP_BATCH.pack(SELF, 1, 0, 0, p.page(number, 1), p.page(number, 2), p.page(number,
                 3)),
                 28: abi.ACQUIRE_RESOURCE.pack(2, 1, 0, 1, 0, 0, p.page(number, 1))}
        for operation, data in words.items():
            for extent in (1, 2, 0xFFFF, 0x10000, 0x10001, (1 << 26) - 1, 1 << 26, 1 << 57, 0):
                p.memory_op(number, operation, data, extent)
            p.call(number, abi.HYPERCALL_MEMORY_OP, operation, 1 << 45)
            p.call(number, abi.HYPERCALL_MEMORY_OP, operation | 1 << 32, p.page(number, 0))
    for flags in (0, 1, 2, 3, 1 << 31):
        p.memory_op(1, 27, abi.RESERVED_DEVICE_MEMORY_MAP.pack(flags, 7, p.page(1, 1), 0, 0, 0))
    for pad in (0, 1):
        for domid in (SELF, 1, 2, 99, 0):
            p.memory_op(1, 26, abi.VNUMA_TOPOLOGY_INFO.pack(domid, pad, 1, 1, 1, 0, 0, 0))
    exchanges(p)
    claims_of_odd_forms(p)
    for number in (0, 1):
        for size, idx, gfn, extent in ((0, 0, 0, 0), (3, 0, SPARE_GFN, 3), (3, 0, SPARE_GFN, 2), (2, 0, SPARE_GFN, 3),
                                       (2, full, SPARE_GFN, 0), (2, 0, full - 1, 0), (0, 0, full, 0), (2, 0, full - 2,
                                       0),
                                       (2, full - 2, 0, 0), (0, full, full - 1, 0)):
            p.add(number, abi.XENMAPSPACE_gmfn_range, idx, gfn, size=size, extent=extent)
        for space in (0, 1, 2, 3, 4, 5, 6, 7, 0xFFFF):
            for domid in (SELF, number, 2, 0, 99):
                p.add(number, space, 0, full, domid=domid)
                p.add(number, space, 5, SPARE_GFN + 7, domid=domid)
                p.remove(number, SPARE_GFN + 7)
    p.add(1, 1, 0, abi.MASK32)


def exchanges(p: Program) -> None:
    """exchange: orders, counts, progress, domains, lists that cannot be read, pages that are no RAM."""
    for number in (0, 1):
        for nr_in, order_in, nr_out, order_out, done, other, flags, gfn in (
                (1, 0, 1, 0, 0, SELF, 0, None), (1, 9, 1, 9, 0, SELF, 0, None), (1, 10, 1, 10, 0, SELF, 0, None),
                (1, 18, 1, 18, 0, SELF, 0, None), (1, 19, 1, 0, 0, SELF, 0, None), (1, 0, 1, 19, 0, SELF, 0, None),
                (2, 0, 1, 1, 0, SELF, 0, None), (1, 1, 2, 0, 0, SELF, 0, None), (2, 0, 2, 0, 3, SELF, 0, None),
                (2, 0, 2, 0, 2, SELF, 0, None), (2, 0, 2, 0, 1, SELF, 0, None), (4, 0, 2, 1, 1, SELF, 0, None),
                (4, 0, 2, 1, 3, SELF, 0, None), (0, 0, 0, 0, 0, SELF, 0, None), (1, 0, 1, 0, 0, 2, 0, None),
                (abi.MASK64, 0, abi.MASK64, 0, 0, SELF, 0, None), (abi.MASK64, 1, abi.MASK64, 1, 0, SELF, 0, None),
                (1 << 63, 1, 1 << 63, 1, 0, SELF, 0, None), ((1 << 63) - 1, 1, (1 << 63) - 1, 1, 0, SELF, 0, None),
                (1 << 31, 1, 1 << 31, 1, 0, SELF, 0, None), (1 << 32, 0, 1 << 32, 0, 0, SELF, 0, None),
                (2, 0, 1, 0, 0, SELF, 0, None), (1, 0, 1, 0, 0, SELF, 2 << 8, None), (1, 0, 1, 0, 0, SELF, 1 << 8,
                None),
                (1, 0, 1, 0, 0, SELF, 1 << 17 | 2 << 8, None), (1, 0, 1, 0, 0, SELF, 0, 0x7777)):
            for domid in (SELF, number, 2 - number, 99):
                p.put(number, p.page(number, 1), pack("<4Q", *([p.gfn(number, 1) if gfn is None else gfn] * 4)))
                p.memory_op(number, abi.XENMEM_exchange, abi.MEMORY_EXCHANGE.pack(
                    p.page(number, 1), nr_in, order_in, 0, domid, p.page(number, 2), nr_out, order_out, flags,
                    domid if other == SELF else other, done))
        p.memory_op(number, abi.XENMEM_exchange, abi.MEMORY_EXCHANGE.pack(1 << 45, 1, 0, 0, SELF, 0, 1, 0, 0, SELF, 0))
        p.memory_op(number, abi.XENMEM_exchange, abi.MEMORY_EXCHANGE.pack(1 << 45, 9, 0, 0, SELF, 0, 9, 0, 0, SELF, 7))


def claims_of_odd_forms(p: Program) -> None:
    """claim_pages with fields that must be zero, by whom it may not, and at the sizes where its rules end."""
    have = p.domain(2).tot_pages if p.has(2) else 0
    most = p.domain(2).max_pages if p.has(2) else 0
    for extents, pages, order, flags, domid in ((1, 4, 0, 0, 2), (1 << 32, 4, 0, 0, 2), (0, 4, 1, 0, 2), (0, 4, 0, 1,
                                                2),
                                                (0, have, 0, 0, 2), (0, have + 1, 0, 0, 2), (0, 0, 0, 0, 2),
                                                (0, most, 0, 0, 2), (0, 0, 0, 0, 2), (0, most + 1, 0, 0, 2),
                                                (0, have + 1, 0, 0, SELF), (0, abi.MASK32 + 1 + have + 1, 0, 0, 2),
                                                (0, 0, 0, 0, 2), (0, have + 3, 0, 0, 99)):
        for number in (2, 0):
            p.memory_op(number, abi.XENMEM_claim_pages, abi.MEMORY_RESERVATION.pack(extents, pages, order, flags,
            domid))


@_seed
def lists_are_taken_in_parts(p: Program) -> None:
    """Batches of every space, begun in the middle, preempted, with lists that end or cannot be written."""
    device = p.config.domains[0].iomem[0][0]
    for number, space, other, items in (
            (1, 4, 2, [(p.gfn(2, 1), SPARE_GFN), (0x7777, SPARE_GFN + 1), (p.gfn(2, 2), SPARE_GFN + 2)]),
            (1, 4, 2, [(p.gfn(2, 1), SPARE_GFN), (p.gfn(2, 1), abi.MASK64), (p.gfn(2, 2), SPARE_GFN + 2)]),
            (1, 4, 2, [(p.gfn(2, 1), abi.MASK32), (p.gfn(2, 2), SPARE_GFN + 3)]),
            (1, 1, 0, [(0, SPARE_GFN + 4), (1, SPARE_GFN + 5), (0, SPARE_GFN + 6)]),
            (1, 0, 0, [(0, SPARE_GFN + 7), (1, SPARE_GFN + 8)]), (1, 2, 0, [(0, SPARE_GFN)]), (1, 3, 0, [(0,
            SPARE_GFN)]),
            (0, 5, 0, [(device, SPARE_GFN), (device + 1, SPARE_GFN + 1), (0, SPARE_GFN + 2)]),
            (0, 5, 1, [(device, SPARE_GFN)]), (1, 5, 0, [(device, SPARE_GFN)]), (1, 6, 0, [(0, SPARE_GFN)]),
            (1, 4, 1, [(p.gfn(1, 1), SPARE_GFN)]), (1, 4, SELF, [(p.gfn(1, 1), SPARE_GFN)]),
            (0, 4, 0x7FF1, [(1, SPARE_GFN)]), (1, 4, 0x7FF2, [(0, SPARE_GFN)]), (1, 4, 3, [(p.gfn(3, 0), SPARE_GFN)]),
            (0, 4, 1, [(p.gfn(1, 1), SPARE_GFN), (SPARE_GFN + 4, SPARE_GFN + 1)])):
        p.foreign(number, other, items, space=space)
        p.foreign(number, other, items, space=space, preempt=1)
        p.foreign(number, other, items, space=space, domid=2)
        for _, gfn in items:
            p.load(number, gfn << 12 & (1 << 47) - 1)
            p.remove(number, gfn)
        idxs, gfns, errs = (p.page(number, page) for page in (1, 2, 3))
        for size, extent, lists in ((len(items), 1, (idxs, gfns, errs)), (len(items), len(items), (idxs, gfns, errs)),
                                    (len(items), len(items) + 1, (idxs, gfns, errs)), (0, 0, (idxs, gfns, errs)),
                                    (0, 1, (idxs, gfns, errs)), (1, 0, (1 << 45, gfns, errs)), (1, 0, (idxs, 1 << 45,
                                    errs)),
                                    (1, 0, (idxs, gfns, 1 << 45)), (1, 0x10000, (idxs, gfns, errs))):
            p.memory_op(number, abi.XENMEM_add_to_physmap_batch,
                        abi.ADD_TO_PHYSMAP_BATCH.pack(SELF, space, size, other, *lists), extent)
            for _, gfn in items[:1]:
                p.remove(number, gfn)
    for kind, identifier, frames, pad, first, where, extent in (
            (1, 0, 1, 1, 0, 1, 0), (1, 0, 1, 0, abi.MASK32, 1, 0), (1, 0, 1, 0, abi.MASK32 - 1, 1, 0),
            (1, 0, 0, 0, 0, 1, 0), (1, 0, 1, 0, 0, 1, 1), (1, 0, 2, 0, 0, 1, 1), (1, 0, 2, 0, 0, 1, 2), (1, 0, 0, 0,
            0, 0, 1),
            (1, 0, 1, 0, 0, 0, 0), (1, 1, 1, 0, 0, 1, 0), (1, 2, 0, 0, 0, 0, 0), (0, 0, 0, 0, 0, 0, 0), (2, 0, 0, 0,
            0, 0, 0),
            (3, 0, 0, 0, 0, 0, 0), (7, 0, 1, 0, 0, 1, 0), (1, 0, 1 << 26, 0, 0, 1, 0), (1, 0, (1 << 26) - 1, 0, 0, 1,
            0),
            (1, 0, 2, 0, p.config.opt_max_grant_frames - 1, 1, 0), (1, 0, 1, 0, 0, 1 << 45, 0)):
        for number in (1, 0):
            p.put(number, p.page(number, 1), pack("<2Q", SPARE_GFN + 11, SPARE_GFN + 12))
            p.memory_op(number, abi.XENMEM_acquire_resource, abi.ACQUIRE_RESOURCE.pack(
                2, kind, identifier, frames, pad, first, where if where != 1 else p.page(number, 1)), extent)


@_seed
def entries_of_every_form(p: Program) -> None:
    """A grant entry with each flag, looked at by map and copy, for reading and writing, by whom it names and others."""
    for number in (1, 2):
        p.table(number)
    for version in (1, 2):
        p.version(1, version)
        mine = p.gfn(2, 0)
        for flags in (0, 1, 2, 3, 5, 7, 9, 0x11, 0x19, 0x21, 0x101, 0x105, 0x103, 0x1D, 0xFFFF):
            for user in (2, 3):
                p.offer(1, 9, user, p.gfn(1, 0), flags=flags)
                for wanted in (6, 2):
                    p.map(2, [(SPARE_GFN, wanted, 9, 1)])
                    p.copy(2, [(9, 1, 0, mine, SELF, 0, 8, 1), (mine, SELF, 0, 9, 1, 0, 8, 2)])
                    p.map(2, [(SPARE_GFN + 1, 8 - wanted, 9, 1)])
                    for handle in p.handles(2):
                        p.unmap(2, [(SPARE_GFN, handle)])
                        p.unmap(2, [(SPARE_GFN + 1, handle)])
                p.load(1, (TABLE_GFN << 12) + 8 * 9 * version)
        p.copy(2, [(9, 1, 0, mine, SELF, 0, 8, 1)])
    for ref in (511, 512, 1023, 1024, 255, 256, 1 << 31, abi.MASK32):
        p.map(2, [(SPARE_GFN, 2, ref, 1)])
        p.copy(2, [(ref, 1, 0, p.gfn(2, 0), SELF, 0, 8, 1)])


@_seed
def copies_at_their_edges(p: Program) -> None:
    """Copies whose bounds end where a page or a grant does, that share a side with the one before, or change it."""
    for number in (1, 2):
        p.table(number)
    mine, other = p.gfn(2, 0), p.gfn(2, 1)
    p.store(2, mine << 12, 0x1234)
    p.store(1, p.gfn(1, 0) << 12, 0x5678)
    p.store(1, p.gfn(1, 1) << 12, 0x9ABC)
    p.offer(1, 9, 2, p.gfn(1, 0), flags=5)
    p.offer(1, 10, 2, p.gfn(1, 1))
    p.offer(1, 11, 3, p.gfn(1, 2))
    p.offer(1, 12, 2, 0x7777)
    p.offer(2, 9, 2, p.gfn(2, 2))
    for source, dest, size in ((0, 0, 4096), (0, 0, 4097), (1, 0, 4096), (0, 1, 4096), (4095, 4095, 1), (4095, 0, 2),
                               (0, 4095, 2), (4096, 0, 0), (0, 4096, 0), (4097, 0, 0), (0, 4097, 0), (8, 16, 0)):
        p.copy(2, [(10, 1, source, mine, SELF, dest, size, 1)])
        p.copy(2, [(mine, SELF, source, other, SELF, dest, size, 0)])
    first, second = (9, 1, 0, mine, SELF, 0, 8, 1), (10, 1, 0, mine, SELF, 8, 8, 1)
    own, into = (mine, SELF, 0, other, SELF, 8, 8, 0), (mine, SELF, 0, 10, 1, 8, 8, 2)
    for items in ([first, second, first], [first, own], [own, first], [own, into, own], [into, first, second],
                  [(9, SELF, 0, mine, SELF, 0, 8, 1), (9, 2, 0, mine, SELF, 0, 8, 1)], [(9, 1, 0, mine, 2, 0, 8, 1)],
                  [(9, 1, 0, mine, SELF, 0, 8, 0)], [(11, 1, 0, mine, SELF, 0, 8, 1), second, first],
                  [(12, 1, 0, mine, SELF, 0, 8, 1), second], [(10, 1, 0, 9, 1, 0, 8, 3), second],
                  [first, (9, 1, 8, 0x7777, SELF, 0, 8, 1), first], [(0x7777, SELF, 0, mine, SELF, 0, 8, 0), own],
                  [(9, 1, 0, 9, 1, 0, 8, 3)], [(9, 99, 0, mine, SELF, 0, 8, 1), first], [(mine, SELF, 0, 9, 99, 0, 8,
                  2)],
                  [(9 | 1 << 40, 1, 0, mine, SELF, 0, 8, 1), (9, 1, 0, mine, SELF, 0, 8, 1), first],
                  [(mine | 1 << 40, SELF, 0, other, SELF, 0, 8, 0)], [first] * 3, [(mine, SELF, 0, mine, SELF, 8, 8,
                  0)],
                  [first, (9, 1, 4090, mine, SELF, 0, 8, 1), second],
                  [own, (mine, SELF, 0, other, SELF, 8, 8, 1)], [own, (mine, SELF, 0, other, SELF, 8, 8, 2)],
                  [own, (0, SELF, 0, other, SELF, 16, 8, 0)], [own, (mine, SELF, 0, 0, SELF, 8, 8, 0)],
                  [(9, SELF, 0, mine, SELF, 0, 8, 1), own, (9, SELF, 0, other, SELF, 0, 8, 0)], [(9, 1, 0, mine, SELF,
                  0, 8, 0xFFFD)]):
        p.copy(2, items)
        p.load(2, (mine << 12) + 8)
        p.copy(2, items, preempt=1)
        p.load(1, (TABLE_GFN << 12) + 8 * 9)
        p.load(1, (TABLE_GFN << 12) + 8 * 10)
    p.copy(3, [(11, 1, 0, p.gfn(3, 0), SELF, 0, 8, 1), (p.gfn(3, 0), SELF, 0, 11, 1, 8, 8, 2)])
    p.copy(0, [(11, 1, 0, p.gfn(0, 0), SELF, 0, 8, 1)])


@_seed
def entries_are_swapped(p: Program) -> None:
    """Swaps in both versions: the same entry twice, pinned ones, beyond the table, with marks in the status words."""
    p.table(1)
    for version in (1, 2):
        p.version(1, version)
        for ref in (1, 9, 10, 11):
            p.offer(1, ref, 2, p.gfn(1, ref), flags=5 if ref == 10 else 1)
        p.add(1, abi.XENMAPSPACE_grant_table, 1 << 31, TABLE_GFN + 0x20)
        p.store(1, (TABLE_GFN + 0x20 << 12) + 2 * 9, 0x18, 2)
        p.store(1, (TABLE_GFN + 0x20 << 12) + 2 * 10, 0x88, 2)
        p.map(2, [(SPARE_GFN, 6, 11, 1)])
        last = 512 // version * 1
        for one, two in ((9, 10), (9, 9), (9, 11), (11, 9), (1, 9), (last - 1, 9), (last, 9), (9, last), (1 << 31, 9),
                         (11, 11), (9, abi.MASK32)):
            p.grant_op(1, g.GNTTABOP_swap_grant_ref, g.SWAP.pack(one, two, 7), 1)
            for ref in (1, 9, 10, 11):
                p.load(1, (TABLE_GFN << 12) + 8 * version * ref)
        for handle in p.handles(2):
            p.unmap(2, [(SPARE_GFN, handle)])
        p.store(1, (TABLE_GFN << 12) + 8 * version, 1 | 2 << 16 | 8 << 0)
        for ref in (9, 10, 11):
            p.offer(1, ref, 2, 0, flags=0)


@_seed
def tables_are_asked_about(p: Program) -> None:
    """The calls on a table as a whole: counts, sizes, limits, lists that cannot be written, of oneself and a target."""
    most = p.config.opt_max_grant_frames
    for version in (1, 2):
        for number, domid in ((1, SELF), (1, 1), (1, 2), (0, 2), (2, 1), (1, 99)):
            p.version(number, version)
            target = p.page(number, 5)
            for frames in (0, 1, 2, most, most + 1, abi.MASK32):
                for where in (target, 1 << 45, target + 4092):
                    p.put(number, target, bytes(32))
                    p.grant_op(number, g.GNTTABOP_setup_table, g.SETUP.pack(domid, frames, 9, where), 1)
                    p.grant_op(number, g.GNTTABOP_get_status_frames, g.STATUS_FRAMES.pack(frames, domid, 9, where), 1)
            for count in (0, 1, 2):
                p.grant_op(number, g.GNTTABOP_setup_table, g.SETUP.pack(domid, 1, 9, target), count)
                p.grant_op(number, g.GNTTABOP_query_size, g.QUERY.pack(domid, 7, 7, 9), count)
                p.grant_op(number, g.GNTTABOP_get_status_frames, g.STATUS_FRAMES.pack(1, domid, 9, target), count)
                p.grant_op(number, g.GNTTABOP_get_version, g.GET_VERSION.pack(domid, 9), count)
                p.grant_op(number, g.GNTTABOP_set_version, g.SET_VERSION.pack(version), count)
        for operation in (2, 6, 8, 9, 10, 3, 4, 13, 14):
            p.call(1, abi.HYPERCALL_GRANT_TABLE_OP, operation, 1 << 45, 1)
            p.call(1, abi.HYPERCALL_GRANT_TABLE_OP, operation | 1 << 12, p.page(1, 4), 1)
            p.call(1, abi.HYPERCALL_GRANT_TABLE_OP, operation, p.page(1, 4), 1 << 31)
            # the argument can be read, and not written
            p.call(1, abi.HYPERCALL_GRANT_TABLE_OP, operation, p.page(1, 4) + 4096 - 8, 1)
    for version in (0, 3, abi.MASK32):
        p.version(1, version)


@_seed
def arguments_end_in_pages_that_cannot_be_written(p: Program) -> None:
    """Each call with its argument across into a read-only page, a missing one, or wholly in a read-only one."""
    p.table(1)
    p.table(2)
    edge = SPARE_GFN + 13
    p.reservation(1, abi.XENMEM_populate_physmap, [edge])
    p.offer(2, 9, 1, p.gfn(2, 0), flags=5)
    p.offer(1, 9, 1, p.gfn(1, 4), flags=5)
    item = {0: g.MAP.pack(SPARE_GFN + 8 << 12, 6, 9, 2, 0, 0, 0), 1: g.UNMAP.pack(SPARE_GFN << 12, 0, 0, 0),
            2: g.SETUP.pack(SELF, 1, 0, p.page(1, 5)), 5: g.COPY.pack(p.gfn(1, 0), SELF, 0, p.gfn(1, 1), SELF, 0, 8,
            0, 0),
            6: g.QUERY.pack(SELF, 0, 0, 0), 7: g.UNMAP.pack(SPARE_GFN << 12, 0, 0, 0), 8: g.SET_VERSION.pack(1),
            9: g.STATUS_FRAMES.pack(1, SELF, 0, p.page(1, 5)), 10: g.GET_VERSION.pack(SELF, 0), 11: g.SWAP.pack(9, 10,
            0),
            12: g.CACHE_FLUSH.pack(p.domain(1).p2m.find(p.gfn(1, 0))[0] << 12, 0, 8, 1)}
    readonly = p.gfn(1, 4) << 12
    for operation, data in item.items():
        p.put(1, readonly, data)
        # one's own page, read-only through a grant of it
        p.map(1, [(edge + 1, 6, 9, 1)])
        for distance in (len(data), len(data) // 2, 8, 4):
            address = (edge + 1 << 12) - distance
            p.put(1, readonly, data[distance:])
            p.put(1, address, data[:distance])
            p.call(1, abi.HYPERCALL_GRANT_TABLE_OP, operation, address, 1)
            p.call(1, abi.HYPERCALL_GRANT_TABLE_OP, operation, address, 2)
        p.put(1, readonly, data)
        p.call(1, abi.HYPERCALL_GRANT_TABLE_OP, operation, edge + 1 << 12, 1)
        for handle in p.handles(1):
            p.unmap(1, [(edge + 1, handle), (SPARE_GFN + 8, handle)])
        for distance in (len(data), len(data) - 1, 4):
            p.call(1, abi.HYPERCALL_GRANT_TABLE_OP, operation, (edge + 1 << 12) - distance, 2)


@_seed
def mappings_are_undone_in_every_way(p: Program) -> None:
    """Unmaps with and without an address, at a wrong place, of handles that are gone or foreign, by both operations."""
    p.table(1)
    for ref in (9, 10):
        p.offer(1, ref, 2, p.gfn(1, ref))
        p.offer(1, ref + 2, 3, p.gfn(1, ref))
    for flags in (0, 1, 2, 3, 6, 7, 10, 18, 34, 2 | 1 << 16, 2 | 1 << 20, 6 | 1 << 17):
        p.map(2, [(SPARE_GFN, flags, 9, 1)])
        p.map(3, [(SPARE_GFN, flags, 11, 1)])
    p.map(2, [(SPARE_GFN + 1, 2, 10, 1), (SPARE_GFN + 2, 6, 10, 1), (1 << 40, 2, 9, 1), (p.gfn(2, 3), 2, 9, 1)])
    for handle in p.handles(2):
        for gfn, dev, replace in ((0, 0, None), (SPARE_GFN + 1, 0, 8), (SPARE_GFN + 1, 0, 1 << 32),
                                  (SPARE_GFN + 1, 4096, None), (p.gfn(2, 5), 0, None), (0, 8, None),
                                  (SPARE_GFN, 0, 0), (SPARE_GFN + 1, 0, None), (SPARE_GFN + 2, 0, None),
                                  (SPARE_GFN, 0, None)):
            p.unmap(2, [(gfn, handle)], replace=replace, dev=dev)
        p.load(1, (TABLE_GFN << 12) + 8 * 9)
        p.load(1, (TABLE_GFN << 12) + 8 * 10)
    for handle in (0, 255, 256, 1 << 31, abi.MASK32):
        p.unmap(2, [(SPARE_GFN, handle), (0, handle)])
        p.unmap(1, [(SPARE_GFN, handle)])
    for gfn in (SPARE_GFN, SPARE_GFN + 1, SPARE_GFN + 2):
        p.load(2, gfn << 12)
        p.remove(2, gfn)
        p.reservation(2, abi.XENMEM_decrease_reservation, [gfn])


@_seed
def transitive_grants_change_while_in_use(p: Program) -> None:
    """A copy writes into the table that its own source comes from: the grant behind is another one when asked again."""
    for number in (1, 2):
        p.table(number)
        p.version(number, 2)
    for ref in (9, 10):
        p.offer(1, ref, 2, p.gfn(1, ref))
    p.part(1, 11, 2, p.gfn(1, 9), 0, 64)
    # the caller may write its own table through a grant, so that both sides of all items name the same domain
    p.offer(2, 20, 2, TABLE_GFN)
    at = TABLE_GFN << 12
    for behind in (9, 10, 11, 12):
        for first in (0, 1):
            p.passed_on(2, 9, 2, 1, 9)
            p.store(1, p.gfn(1, 9) << 12, behind, 4)
            use = (9, 2, 0, 20, 2, 16 * 9 + 8, 4, 3)
            again = (9, 2, 0, 9, 2, 16, 8, 3)
            p.copy(2, [use, again] if first else [use, again, (9, 2, 0, 20, 2, 16 * 21, 8, 3), again])
            p.load(2, at + 16 * 9 + 8)
            p.load(2, p.gfn(2, 0) << 12)
            p.load(1, p.gfn(1, 9) << 12)
    # the same with an entry that becomes one of another kind, another user's, or read-only
    for word in (1 | 2 << 16, 3 | 3 << 16, 7 | 2 << 16, 0):
        p.passed_on(2, 9, 2, 1, 9)
        p.store(1, p.gfn(1, 9) << 12, word, 4)
        p.copy(2, [(9, 2, 0, 20, 2, 16 * 9, 4, 3), (9, 2, 0, 9, 2, 16, 8, 3)])
        p.load(2, at + 16 * 9)
    # and a direct one
    for word in (0, 1 | 3 << 16, 5 | 2 << 16, 3 | 2 << 16):
        p.offer(2, 10, 2, p.gfn(2, 1))
        p.store(2, p.gfn(2, 1) << 12, word, 4)
        p.copy(2, [(10, 2, 0, 20, 2, 16 * 10, 4, 3), (10, 2, 0, 10, 2, 16, 8, 3)])
        p.load(2, at + 16 * 10)
    p.offer(2, 11, 2, p.gfn(2, 2))
    p.store(2, p.gfn(2, 2) << 12, p.gfn(2, 3))
    p.copy(2, [(11, 2, 0, 20, 2, 16 * 11 + 8, 8, 3), (11, 2, 0, 11, 2, 16, 8, 3)])
    p.load(2, p.gfn(2, 3) << 12)


def take_everything(p: Program) -> None:
    """dom0 takes all memory that is left."""
    p.control(domctl.MAX_MEM, 1, pack("<Q", 4 * 100000))
    p.control(domctl.MAX_MEM, 0, pack("<Q", 4 * 100000))
    for order in (9, 9, 9, 9, 9, 9, 9, 9, 5, 5, 4, 3, 2, 1, 0, 0, 0):
        p.reservation(0, abi.XENMEM_increase_reservation, [], count=3, order=order)
    for _ in range(12):
        p.reservation(0, abi.XENMEM_increase_reservation, [], count=7, order=0)


def give_dirty(p: Program, pages: Iterable[int]) -> None:
    """Pages of domU 1 are given back, not empty: as long as it lives, nobody scrubs them."""
    for page in pages:
        for offset in (0, 8, 16, 64, 2048, 4088):
            p.store(1, (p.gfn(1, page) << 12) + offset, 0x00B5_5555_5555_5FFF)
        p.reservation(1, abi.XENMEM_decrease_reservation, [p.gfn(1, page)])


@_seed
def new_tables_lie_where_guests_have_written(p: Program) -> None:
    """With all other memory taken, the tables, grant frames and maptrack of a new domain come from a guest's pages."""
    p.table(1)
    p.version(1, 2)
    p.version(2, 2)
    take_everything(p)
    give_dirty(p, range(40, 140))
    p.create(4, pages=4, pool=20, version=p.config.grant_max_version)
    if p.has(4):
        p.table(4, 2)
        p.version(4, 2)
        p.add(4, abi.XENMAPSPACE_grant_table, 1 << 31, TABLE_GFN + 0x20)
        p.add(4, abi.XENMAPSPACE_shared_info, 0, TABLE_GFN + 0x40)
        for gfn in (TABLE_GFN, TABLE_GFN + 1, TABLE_GFN + 0x20, TABLE_GFN + 0x40, DOMU_BASE, DOMU_BASE + 1, 0, 1, 512):
            for offset in (0, 8, 64, 4088):
                p.load(4, (gfn << 12) + offset)
        p.offer(1, 9, 4, p.gfn(1, 0))
        p.map(4, [(SPARE_GFN, 6, 9, 1)])
        p.memory_op(0, abi.XENMEM_maximum_gpfn, pack("<H", 4))
    p.add(1, abi.XENMAPSPACE_grant_table, 1, TABLE_GFN + 1)
    p.load(1, (TABLE_GFN + 1 << 12) + 8)
    for gfn in (SPARE_GFN, 0x150000, 0x151000):
        p.reservation(0, abi.XENMEM_populate_physmap, [gfn])
        p.reservation(2, abi.XENMEM_populate_physmap, [gfn])
        p.load(2, (gfn << 12) + 8)
    p.destroy(4)


@_seed
def domains_with_blocks_die(p: Program) -> None:
    """Blocks of 2 MB and of other sizes, some of them split, are given to a domain that then dies."""
    p.create(4, pages=4, pool=40)
    p.control(domctl.MAX_MEM, 4, pack("<Q", 4 * 4000))
    for number, order in enumerate((9, 3, 1, 9)):
        p.reservation(0, abi.XENMEM_populate_physmap, [BLOCK_GFN + (number << 9)], domid=4, order=order)
    p.reservation(0, abi.XENMEM_increase_reservation, [], domid=4, count=2, order=2)
    p.reservation(0, abi.XENMEM_decrease_reservation, [BLOCK_GFN + 3, BLOCK_GFN + 512 + 3], domid=4)
    p.store(4, (BLOCK_GFN + 5 << 12) + 8, 77)
    p.destroy(4, preempt=(1, 5, 520, 300))
    p.create(4, pages=4)
    p.reservation(1, abi.XENMEM_populate_physmap, [BLOCK_GFN], order=9)
    p.load(1, (BLOCK_GFN + 5 << 12) + 8)


@_seed
def tables_grow_into_the_last_frames(p: Program) -> None:
    """One frame more comes back each time, and a grant table, its versions and a maptrack try to grow into them."""
    p.table(1)
    p.offer(1, 9, 2, p.gfn(1, 0))
    p.offer(1, 10, 3, p.gfn(1, 1))
    p.control(domctl.SET_TARGET, 3, pack("<H", 1))
    take_everything(p)

    def gives(pages: Iterable[int]) -> Iterator[int]:
        for page in pages:
            yield page
            give_dirty(p, [20 + page])

    for _ in gives(range(2)):
        p.map(2, [(SPARE_GFN, 2, 9, 1)])
        p.map(3, [(SPARE_GFN, 2, 10, 1)])
        p.version(2, 2)
    for _ in gives(range(2, 10)):
        p.add(2, abi.XENMAPSPACE_grant_table, 1, TABLE_GFN + 1)
    for _ in gives(range(10, 18)):
        p.grant_op(2, g.GNTTABOP_setup_table, g.SETUP.pack(SELF, 3, 0, p.page(2, 5)), 1)
    for _ in gives(range(18, 26)):
        p.resource(0, 1, [SPARE_GFN + 4], frame=1)
    for _ in gives(range(26, 30)):
        p.version(1, 2)
        p.add(1, abi.XENMAPSPACE_grant_table, 1 << 31 | 1, TABLE_GFN + 0x21)
    for _ in gives(range(30, 40)):
        p.control(domctl.CREATEDOMAIN, 4, CREATION)
        p.control(domctl.SET_PAGING_MEMPOOL_SIZE, 2, pack("<Q", 33 << 12))
        p.control(domctl.SET_PAGING_MEMPOOL_SIZE, 2, pack("<Q", 32 << 12))


@_seed
def blocks_larger_than_one_may_ask_for(p: Program) -> None:
    """Orders beyond what a domain, one with I/O memory and a control domain may name, while memory is not the limit."""
    for number in (1, 2, 3, 0):
        p.control(domctl.MAX_MEM, number, pack("<Q", 4 * 100000))
    device = p.config.domains[0].iomem[0][0]
    for number in (1, 3, 2, 0):
        for order in (10, 11, 9):
            if number == 2:
                p.control(domctl.IOMEM_PERMISSION, 2, pack("<QQB", device, 1, order == 11))
            p.reservation(number, abi.XENMEM_increase_reservation, [], count=1, order=order)
            gfn = 0x100000 + (number << 16) + (order << 12)
            p.reservation(number, abi.XENMEM_populate_physmap, [gfn], order=order)
            p.load(number, gfn + 5 << 12)
            p.reservation(number, abi.XENMEM_decrease_reservation, [gfn], order=order)
        p.reservation(number, abi.XENMEM_decrease_reservation, [p.gfn(number, 1)], order=19)
        p.reservation(number, abi.XENMEM_populate_physmap, [0x300000], order=18, flags=1 << 16)
        p.reservation(number, abi.XENMEM_populate_physmap, [0x300000], order=19, flags=1 << 16)


@_seed
def deaths_are_preempted_at_every_check(p: Program) -> None:
    """A domain that maps grants and foreign pages is destroyed one item at a time, another one two at a time."""
    for check in (1, 2):
        p.create(4, pages=10, pool=20, grant_frames=2, maptrack_frames=2)
        p.table(1)
        p.table(4, 2)
        for ref in (9, 10):
            p.offer(1, ref, 4, p.gfn(1, ref), flags=5 if ref == 9 else 1)
            p.offer(4, ref, 1, DOMU_BASE + ref)
        p.map(4, [(SPARE_GFN + i, 6, 9, 1) for i in range(3)] + [(SPARE_GFN + 4, 2, 10, 1)])
        if check == 2:
            # more handles than one frame of maptrack holds
            for _ in range(6):
                p.map(4, [(SPARE_GFN + 8 + i % 8, 6, 9, 1) for i in range(45)])
            p.map(1, [(SPARE_GFN, 2, 9, 4), (SPARE_GFN + 1, 2, 10, 4)])
        p.reservation(0, abi.XENMEM_populate_physmap, [0x100000 + (i << 9) for i in range(6)], domid=4)
        p.add(4, abi.XENMAPSPACE_shared_info, 0, TABLE_GFN + 0x40)
        for _ in range(80):
            seen = p.control(domctl.DESTROYDOMAIN, 4, preempt=check)
            if seen is None or not seen.restart:
                break
        p.destroy(4)
        for handle in p.handles(1):
            p.unmap(1, [(SPARE_GFN, handle)])


@_seed
def death_of_a_domain_with_many_tables(p: Program) -> None:
    """More tables and mappings than are cleared between two checks."""
    p.create(4, pages=0, pool=560)
    p.control(domctl.MAX_MEM, 4, pack("<Q", 4 * 1000))
    for first in range(0, 516, 43):
        p.reservation(0, abi.XENMEM_populate_physmap, [0x100000 + (first + i << 9) for i in range(43)], domid=4)
    for check in (1, 1, 100, 400, 1, 1):
        seen = p.control(domctl.DESTROYDOMAIN, 4, preempt=check)
        if seen is None or not seen.restart:
            return
    # one check a page, one a table of mappings, then one in the tables
    p.control(domctl.DESTROYDOMAIN, 4, preempt=516)
    for _ in range(40):
        p.control(domctl.DESTROYDOMAIN, 4, preempt=1)
    p.destroy(4)


@_seed
def vcpus_share_the_handles(p: Program) -> None:
    """One vCPU has all handles; the other one takes of them, gives back what is not its own, and both take the last."""
    p.table(1)
    p.offer(1, 9, 3, p.gfn(1, 0), flags=5)
    p.offer(1, 10, 3, p.gfn(1, 0), flags=5)
    p.offer(1, 11, 3, p.gfn(1, 0), flags=5)

    def maps(vcpu: int, number: int, ref: int) -> None:
        address = p.page(3, 4)
        p.put(3, address, b"".join(g.MAP.pack(SPARE_GFN + i % 24 << 12, 6, ref, 1, 0, 0, 0) for i in range(number)))
        p.call(3, abi.HYPERCALL_GRANT_TABLE_OP, g.GNTTABOP_map_grant_ref, address, number, vcpu=vcpu)

    def unmaps(vcpu: int, handles: Sequence[int]) -> None:
        address = p.page(3, 4)
        p.put(3, address, b"".join(g.UNMAP.pack(SPARE_GFN << 12, 0, handle, 0) for handle in handles))
        p.call(3, abi.HYPERCALL_GRANT_TABLE_OP, g.GNTTABOP_unmap_grant_ref, address, len(handles), vcpu=vcpu)

    for first in (0, 1):
        for _ in range(p.config.opt_max_maptrack_frames):
            for ref in (9, 10):
                maps(first, 100, ref)
        # what is left in the last frame of the maptrack, by turns
        for number in range(30):
            maps(number % 2, 2, 11)
        unmaps(1 - first, p.handles(3)[:6])
        maps(1 - first, 8, 11)
        maps(first, 8, 11)
        for start in range(0, 1024, 60):
            unmaps(start // 60 % 2, p.handles(3)[:60])
        p.unmap(3, [(SPARE_GFN, 0)])


@_seed
def failed_maps_take_no_handle(p: Program) -> None:
    """With few handles left, more maps fail than there are handles, each way; then there are as many as before."""
    p.table(1)
    for ref in range(12, 20):
        p.offer(1, ref, 2, p.gfn(1, 0), flags=5)
    p.offer(1, 9, 2, p.gfn(1, 0))
    p.offer(1, 10, 3, p.gfn(1, 0))
    p.offer(1, 11, 2, 0x7777)
    left = 256 * p.config.opt_max_maptrack_frames - 30
    for ref in range(12, 20):
        p.map(2, [(SPARE_GFN + i % 24, 6, ref, 1) for i in range(min(100, left))])
        left -= min(100, left)
    for way in ((SPARE_GFN, 2, 10, 1), (SPARE_GFN, 2, 11, 1), (SPARE_GFN, 2 | 1 << 16, 9, 1), (1 << 40, 2, 9, 1),
                (SPARE_GFN, 2, 5000, 1), (SPARE_GFN, 2, 9, 99)):
        before = set(p.handles(2))
        p.map(2, [way] * 40)
        p.map(2, [(SPARE_GFN, 2, 9, 1)])
        p.unmap(2, [(SPARE_GFN, handle) for handle in p.handles(2) if handle not in before])
    p.map(2, [(SPARE_GFN, 2, 9, 1)] * 40)


@_seed
def version_2_is_left_with_odd_entries(p: Program) -> None:
    """Each reserved entry in a form that version 1 has, or has not: types, marks, sub-pages, frames of more bits."""
    p.table(1)
    p.add(1, abi.XENMAPSPACE_grant_table, 1 << 31, TABLE_GFN + 0x20)
    for ref in (0, 1, 7, 8, 9):
        for flags, word in ((0, 1 << 32), (2, 1 << 32), (3, 0), (1, 1 << 32), (1, abi.MASK32), (0x105, 7), (2, 7),
                            (0, 0)):
            p.version(1, 2)
            p.add(1, abi.XENMAPSPACE_grant_table, 1 << 31, TABLE_GFN + 0x20)
            at = (TABLE_GFN << 12) + 16 * ref
            p.store(1, at, flags | 2 << 16 | 5 << 32)
            p.store(1, at + 8, word)
            p.store(1, (TABLE_GFN + 0x20 << 12) + 2 * ref, 0x18, 2)
            p.version(1, 1)
            p.load(1, (TABLE_GFN << 12) + 8 * ref)
            p.load(1, (TABLE_GFN << 12) + 16 * ref)
            p.store(1, at, 0)
            p.store(1, at + 8, 0)
            p.version(1, 1)
    p.offer(1, 1, 2, p.gfn(1, 0))
    p.offer(1, 9, 2, p.gfn(1, 0))
    for ref in (1, 9):
        for version in (2, 1, 2):
            p.map(2, [(SPARE_GFN, 6, ref, 1)])
            p.version(1, version)
            for handle in p.handles(2):
                p.unmap(2, [(SPARE_GFN, handle)])
            p.version(1, version)


@_seed
def dom0_maps_a_block_over_its_tables(p: Program) -> None:
    """Frames that dom0 is given are mapped 1:1, first one by one, then as a block, which frees their table."""
    p.control(domctl.MAX_MEM, 0, pack("<Q", 4 * 100000))
    blocks: list[int] = []
    for _ in range(2):
        before = set(p.domain(0).page_list)
        p.reservation(0, abi.XENMEM_increase_reservation, [], count=1, order=9)
        for first in sorted(set(p.domain(0).page_list) - before)[:1]:
            blocks = [first]
            p.reservation(0, abi.XENMEM_populate_physmap, [first + 3, first + 511, first + 600])
            p.store(0, (first + 3 << 12) + 8, 5)
            p.reservation(0, abi.XENMEM_populate_physmap, [first], order=9)
            p.load(0, (first + 3 << 12) + 8)
            p.reservation(0, abi.XENMEM_decrease_reservation, [first + 4])
            p.load(0, (first + 4 << 12) + 8)
            p.reservation(0, abi.XENMEM_populate_physmap, [first], order=9)
    p.world.run(("set_way", 0, 0))
    p.load(0, p.page(0, 0))
    # dom0 has its tables from the heap: soon there is none to split a block with
    take_everything(p)
    for block in blocks:
        for number in range(1, 512, 100):
            p.resource(0, 1, [block + number])


@_seed
def last_page_goes_within_a_call(p: Program) -> None:
    """A call replaces the mapping that holds a dead domain; the next item of the same call names that domain."""
    p.create(4, pages=4)
    p.table(1)
    p.offer(1, 9, 0, p.gfn(1, 0))
    for gfn in (SPARE_GFN, SPARE_GFN + 1):
        p.foreign(0, 4, [(DOMU_BASE, gfn)])
    p.destroy(4)
    p.remove(0, SPARE_GFN + 1)
    p.control(domctl.GETDOMAININFO, 4)
    p.map(0, [(SPARE_GFN + 2, 2, 9, 4), (SPARE_GFN, 2, 9, 1), (SPARE_GFN + 2, 2, 9, 4), (SPARE_GFN + 3, 2, 9, 1)])
    p.control(domctl.GETDOMAININFO, 4)


@_seed
def resource_takes_the_last_page_for_a_table(p: Program) -> None:
    """A device model maps its target's grant frames: the second one far away, with one page too few for the tables."""
    p.table(3, 2)
    p.control(domctl.SET_TARGET, 2, pack("<H", 3))
    p.resource(2, 3, [SPARE_GFN])
    used = p.domain(2).p2m.pool_total - len(p.domain(2).p2m.freelist)
    p.control(domctl.SET_PAGING_MEMPOOL_SIZE, 2, pack("<Q", used + 1 << 12))
    for frame in (0, 1):
        p.resource(2, 3, [SPARE_GFN + 1, FAR_GFN], frame=frame)
        p.resource(2, 3, [SPARE_GFN + 1, SPARE_GFN + 2])
    p.control(domctl.GET_PAGING_MEMPOOL_SIZE, 2)
    p.control(domctl.SET_PAGING_MEMPOOL_SIZE, 2, pack("<Q", used << 12))


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
    parser = argparse.ArgumentParser(prog="python -m bulkhead.fuzz.seeds", description="Write every seed as a vector.")
    parser.add_argument("directory", type=Path)
    directory: Path = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    for name in SEEDS:
        # version 2 of the grant tables where a program is about it; the most usual machine for the others
        scenario = Scenario("foundation-v8", 2 if name in OF_VERSION_2 else 0)
        trace.write(vector(name, scenario), directory / f"{name}.json")


__all__ = ["SEEDS", "Program", "history", "suits", "vector"]


if __name__ == "__main__":
    main()
