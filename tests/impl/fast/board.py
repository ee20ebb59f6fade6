"""A small board with three domains, and guests that call Xen on it."""

from __future__ import annotations

from struct import pack
from typing import Any

from impl.boards.ram import Bank, Ram
from impl.fast import abi
from impl.fast.machine import Config, DomainConfig, Machine, Observation

RAM_BASE = 0x40000000
DOMU_BASE = 0x40000          # gfn of a domU's RAM
ARGUMENT = 0x1000            # offsets in a domain's RAM: of the argument struct,
LISTS = 0x2000, 0x3000, 0x4000      # and of lists


def board(arch: str = "arm64", *, megabytes: int = 32, domains: Any = None, **options: Any) -> Machine:
    """dom0 (1:1, control and hardware), domU 1 and domU 2, as far as `domains` does not say otherwise."""
    if domains is None:
        domains = [dom0(), domu(1), domu(2)]
    if arch == "arm32":
        options.setdefault("xenheap_pages", 512)
    return Machine(Ram([Bank(RAM_BASE, megabytes << 20)]), Config(arch=arch, domains=domains, **options))


def dom0(**options: Any) -> DomainConfig:
    return DomainConfig(0, **{"pages": 512, "privileged": True, "is_hardware": True, "direct_map": True, **options})


def domu(number: int, **options: Any) -> DomainConfig:
    return DomainConfig(number, **{"pages": 256, "base_gfn": DOMU_BASE, **options})


class Guest:
    """A domain's vCPU 0 with its RAM."""

    def __init__(self, machine: Machine, number: int) -> None:
        self.machine = machine
        self.id = number
        self.domain = machine.domains[number]
        self.base = self.domain.p2m.lowest_mapped_gfn << 12

    def put(self, address: int, data: bytes) -> None:
        for i in range(0, len(data), 8):
            word = data[i:i + 8]
            size = 1 << (len(word).bit_length() - 1)
            assert size == len(word)
            seen = self.machine.store(self.id, 0, address + i, size, int.from_bytes(word, "little"))
            assert seen.kind == "value"

    def get(self, address: int, size: int) -> bytes:
        data = b""
        for i in range(0, size, 2):
            seen = self.machine.load(self.id, 0, address + i, 2)
            assert seen.value is not None
            data += seen.value.to_bytes(2, "little")
        return data

    def list_at(self, which: int, values: list[int]) -> int:
        address = self.base + LISTS[which]
        self.put(address, pack(f"<{len(values)}Q", *values))
        return address

    def call(self, number: int, *arguments: int) -> Observation:
        register = 16 if self.domain.width == 64 else 12
        return self.machine.hypercall(self.id, 0, {register: number, **dict(enumerate(arguments))})

    def result(self, seen: Observation) -> int:
        assert seen.kind == "value", seen
        assert seen.registers is not None
        value = seen.registers[0]
        bits = self.domain.width
        return value - (1 << bits) if value >> bits - 1 else value

    def memory_op(self, operation: int, data: bytes, extent: int = 0) -> int:
        return self.result(self.memory_op_raw(operation, data, extent))

    def memory_op_raw(self, operation: int, data: bytes, extent: int = 0) -> Observation:
        padded = data.ljust(-(-len(data) // 8) * 8, b"\0")
        self.put(self.base + ARGUMENT, padded)
        return self.call(abi.HYPERCALL_MEMORY_OP, operation | extent << 6, self.base + ARGUMENT)

    def reservation(self, operation: int, gfns: list[int], *, domid: int = abi.DOMID_SELF, order: int = 0,
                    flags: int = 0, extent: int = 0, number: int | None = None) -> Observation:
        address = self.list_at(0, gfns)
        count = len(gfns) if number is None else number
        return self.memory_op_raw(operation, abi.MEMORY_RESERVATION.pack(address, count, order, flags, domid), extent)

    def populate(self, gfns: list[int], **options: Any) -> int:
        return self.result(self.reservation(abi.XENMEM_populate_physmap, gfns, **options))

    def decrease(self, gfns: list[int], **options: Any) -> int:
        return self.result(self.reservation(abi.XENMEM_decrease_reservation, gfns, **options))

    def increase(self, number: int, **options: Any) -> int:
        return self.result(self.reservation(abi.XENMEM_increase_reservation, [], number=number, **options))

    def add(self, space: int, idx: int, gfn: int, *, domid: int = abi.DOMID_SELF, size: int = 0,
            extent: int = 0) -> int:
        return self.memory_op(abi.XENMEM_add_to_physmap, abi.ADD_TO_PHYSMAP.pack(domid, size, space, idx, gfn), extent)

    def batch(self, space: int, elements: list[tuple[int, int]], *, domid: int = abi.DOMID_SELF, foreign: int = 0,
              extent: int = 0) -> tuple[Observation, list[int]]:
        idxs = self.list_at(0, [idx for idx, _ in elements])
        gfns = self.list_at(1, [gfn for _, gfn in elements])
        errs = self.list_at(2, [0x5555555555555555] * len(elements))
        seen = self.memory_op_raw(abi.XENMEM_add_to_physmap_batch, abi.ADD_TO_PHYSMAP_BATCH.pack(
            domid, space, len(elements), foreign, idxs, gfns, errs), extent)
        data = self.get(errs, 4 * len(elements))
        return seen, [abi.S32.unpack_from(data, 4 * i)[0] for i in range(len(elements))]

    def foreign(self, owner: int, idx: int, gfn: int, *, domid: int = abi.DOMID_SELF) -> int:
        """The element's own result of a foreign map."""
        seen, errors = self.batch(abi.XENMAPSPACE_gmfn_foreign, [(idx, gfn)], domid=domid, foreign=owner)
        assert self.result(seen) == 0
        return errors[0]

    def remove(self, gfn: int, *, domid: int = abi.DOMID_SELF) -> int:
        return self.memory_op(abi.XENMEM_remove_from_physmap, abi.REMOVE_FROM_PHYSMAP.pack(domid, gfn))

    def statistic(self, operation: int, domid: int = abi.DOMID_SELF) -> int:
        return self.memory_op(operation, pack("<H", domid))

    def domctl(self, command: int, domid: int, union: bytes = b"", *, version: int = 0x15) -> int:
        return self.result(self.domctl_raw(command, domid, union, version=version))

    def domctl_raw(self, command: int, domid: int, union: bytes = b"", *, version: int = 0x15) -> Observation:
        data = abi.DOMCTL_HEADER.pack(command, version, domid) + union.ljust(128, b"\0")
        self.put(self.base + ARGUMENT, data)
        return self.call(abi.HYPERCALL_DOMCTL, self.base + ARGUMENT)

    def union(self, size: int) -> bytes:
        """What a domctl wrote back."""
        return self.get(self.base + ARGUMENT + 16, size)


def guests(machine: Machine) -> list[Guest]:
    return [Guest(machine, number) for number in sorted(machine.domains)]


def check_heap(machine: Machine) -> None:
    """Every frame is free on one list, or owned and on its domain's list, and the totals agree."""
    frames = machine.frames
    free = 0
    for zone, lists in frames.lists.items():
        here = 0
        for order, blocks in enumerate(lists):
            for mfn in blocks:
                assert mfn % (1 << order) == 0
                assert frames.order[frames.index(mfn)] == order
                first = frames.index(mfn)
                rows = frames.count_info[first:first + (1 << order)]
                assert all(int(row) & frames.STATE == frames.STATE_FREE for row in rows)
                here += 1 << order
        assert here == frames.avail[zone]
        free += here
    assert free == frames.total_avail
    for domain in machine.domains.values():
        assert domain.tot_pages == sum(1 for _ in domain.page_list)
        assert all(frames.owner_of(mfn) == domain.id for mfn in domain.page_list)


def check_tlb(machine: Machine) -> None:
    """What the TLB holds is what a fresh walk finds."""
    for domain in machine.domains.values():
        cached, domain.p2m.tlb = domain.p2m.tlb, {}
        for gfn, (mfn, _) in cached.items():
            walk = domain.p2m.walk(gfn << 12, write=False)
            assert (walk.fault, walk.mfn) == ("", mfn)
