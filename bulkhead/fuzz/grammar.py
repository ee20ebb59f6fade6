"""What guests do in a fuzzed history: hypercalls of memory and grants, accesses, the making and the death of domains.

Most calls are likely to succeed, as the grammar looks at the implementation's state for handles, references and guest
frames that mean something now; the others are hostile: boundary frames, wrapped counts, foreign handles, forged
continuation cursors, arguments in pages that cannot be had. Everything a guest does goes through `World.run` as a
stimulus, the building of arguments too: a history is its list of stimuli, whatever made it.
The same seed on the same machine gives the same history.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from struct import pack
from typing import Any, Final, Protocol

from bulkhead.fuzz.boards import DEVICE_FRAMES, DOMU_BASE
from bulkhead.fuzz.stimuli import Stimulus
from impl.fast import abi, domctl
from impl.fast.domains import Domain
from impl.fast.grant import layouts as g
from impl.fast.machine import Machine, Observation

MASK64: Final = abi.MASK64
SELF: Final = abi.DOMID_SELF
ARGUMENT_PAGES: Final = 6
"""Guest frames at the start of a domain's RAM that hold its arguments, mostly."""
TABLE_GFN: Final = 0x60000
"""Where guests map their grant frames; status frames lie 0x20 above, shared_info 0x40."""
SPARE_GFN: Final = 0x50000
"""First of the guest frames at which nothing lies at boot."""
BLOCK_GFN: Final = 0x80000
"""First of the guest frames for blocks of 2 MB."""
REFS: Final = 24
"""References that guests offer, mostly; the first eight are the reserved ones."""
ABSENT: Final = (8, 9, 10, 12, 13, 16, 17, 20, 21, 22, 25, 29, 63)
"""Operations of memory_op that Xen on Arm does not have."""
BORN: Final = (4, 5, 6)
"""Ids of domains that are made in a history."""
CREATION: Final = domctl.CREATE.pack(0, bytes(16), 3, 0, 1, -1, 2, 1, 1, 0, 0, 0, 0, 0, 0)
_INTERESTING: Final = (0, 1, 2, 7, 8, 31, 32, 33, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 1 << 26, (1 << 31) - 1,
                       1 << 31, MASK64 >> 32, 1 << 32, 1 << 63, MASK64 - 1, MASK64)


class World(Protocol):
    """Where a history happens."""

    machine: Machine

    def run(self, stimulus: Stimulus) -> Observation | None:
        """One stimulus; None if the machine does not take it (no such domain or vCPU, not modelled)."""


class Grammar:
    """Random guests on a machine.

    world: where their stimuli go; rng: every choice comes from it; weights: of the actions, by name (None: as built
    in), which a campaign changes towards what showed something new.
    """

    def __init__(self, world: World, rng: random.Random, weights: dict[str, float] | None = None) -> None:
        self.world = world
        self.rng = rng
        self.weights = dict(WEIGHTS if weights is None else weights)
        self._names = sorted(self.weights)

    # ---- what there is now ---------------------------------------------------------------------------------------

    @property
    def machine(self) -> Machine:
        """The implementation's machine, looked at and never touched."""
        return self.world.machine

    def runners(self) -> list[Domain]:
        """The domains that run now."""
        return [domain for domain in self.machine.domains.values()
                if domain.runs and any(not vcpu.offline for vcpu in domain.vcpus.values())]

    def runner(self) -> Domain | None:
        """A domain that runs; dom0 and its privileges are met more often."""
        found = self.runners()
        if not found:
            return None
        if found[0].id == 0 and self.rng.random() < 0.25:
            return found[0]
        return self.rng.choice(found)

    def vcpu(self, domain: Domain) -> int:
        """A vCPU of the domain that is online."""
        return self.rng.choice([number for number, vcpu in domain.vcpus.items() if not vcpu.offline])

    def pages_of(self, domain: Domain) -> tuple[int, int]:
        """(first guest frame, how many) of the RAM that it had at boot, or was built with."""
        if domain.direct_map:
            return domain.p2m.lowest_mapped_gfn if domain.p2m.lowest_mapped_gfn > 0x4000 else self._direct(domain), 200
        for config in self.machine.config.domains:
            if config.domid == domain.id and config.pages:
                return config.base_gfn, min(config.pages, 200)
        return DOMU_BASE, 16

    def _direct(self, domain: Domain) -> int:
        for mfn in domain.page_list:
            return mfn
        # an implementation with a flaw may have lost the list
        frames = self.machine.frames
        for index in (frames.owner == domain.id).nonzero()[0].tolist():
            mfn = frames.mfn_of(index)
            if not frames.is_xen_heap(mfn):
                return mfn
        return 0

    def arguments(self, domain: Domain) -> int:
        """The first guest frame of its argument pages."""
        if domain.direct_map:
            return self._direct(domain)
        return self.pages_of(domain)[0]

    # ---- values ----------------------------------------------------------------------------------------------------

    def odd(self, bits: int) -> int:
        """A number that is seldom right."""
        rng = self.rng
        value = rng.choice(_INTERESTING) if rng.random() < 0.7 else rng.getrandbits(rng.randrange(1, bits + 1))
        return value & (1 << bits) - 1

    def mostly(self, value: int, bits: int, chance: float = 0.04) -> int:
        """The value, seldom an odd one."""
        return self.odd(bits) if self.rng.random() < chance else value & (1 << bits) - 1

    def edge_gfn(self) -> int:
        """A guest frame where something ends: of the IPA, of the root table, of 64 bits, of a table or block."""
        machine, rng = self.machine, self.rng
        top = 1 << machine.ipa_bits - 12
        block = BLOCK_GFN + rng.randrange(3) * 512
        return rng.choice((0, 1, top - 1, top, top + 1, MASK64 >> 12, (MASK64 >> 12) + 1, MASK64, MASK64 - 1,
                           0xFFFFF, 0x100000, 0xFFFFFFFF, block - 1, block, block + 511, block + 512,
                           machine.max_page - 1, machine.max_page, machine.memory.banks[0][0], 0x3FFFFFFF, 0x40000))

    def mapped_gfn(self, domain: Domain) -> int:
        """A guest frame of its RAM, mostly still mapped."""
        first, number = self.pages_of(domain)
        if domain.direct_map:
            first = self._direct(domain)
        return first + self.rng.randrange(ARGUMENT_PAGES if number > ARGUMENT_PAGES else 0, max(number, 1))

    def spare_gfn(self) -> int:
        """A guest frame from a small range in which nothing lay at boot."""
        return SPARE_GFN + self.rng.randrange(24)

    def gfn(self, domain: Domain) -> int:
        """Any guest frame: of RAM, spare, of a block, at an edge, or nonsense."""
        rng = self.rng
        pick = rng.random()
        if pick < 0.45:
            return self.mapped_gfn(domain)
        if pick < 0.72:
            return self.spare_gfn()
        if pick < 0.82:
            return BLOCK_GFN + rng.randrange(4) * 512 + rng.choice((0, 0, 0, 1, 255, 511))
        if pick < 0.88:
            return rng.choice((TABLE_GFN, TABLE_GFN + 1, TABLE_GFN + 0x20, TABLE_GFN + 0x40, self.arguments(domain)))
        if pick < 0.97:
            return self.edge_gfn()
        return rng.getrandbits(rng.choice((16, 36, 52, 64)))

    def domid(self, domain: Domain, other: float = 0.5) -> int:
        """A domain id: oneself, another, none, or a special one."""
        rng = self.rng
        pick = rng.random()
        if pick > other:
            return SELF if rng.random() < 0.85 else domain.id
        if pick < other * 0.85:
            return rng.choice(sorted(self.machine.domains))
        return rng.choice((abi.DOMID_IO, abi.DOMID_XEN, abi.DOMID_COW, abi.DOMID_INVALID, SELF, 4, 99, 0x7FEF,
                           rng.getrandbits(16)))

    def subject(self, domain: Domain) -> int:
        """A domain that the caller may act upon, mostly: oneself, the one it is the device model of, any for dom0."""
        rng = self.rng
        if rng.random() < 0.1:
            return self.domid(domain, 1.0)
        if domain.is_privileged and rng.random() < 0.6:
            return rng.choice(sorted(self.machine.domains))
        if domain.target is not None and rng.random() < 0.4:
            return domain.target
        return SELF

    def subject_domain(self, domain: Domain, domid: int) -> Domain:
        """The domain behind an id, or the caller."""
        return self.machine.domains.get(domid, domain)

    # ---- memory ----------------------------------------------------------------------------------------------------

    def writable(self, domain: Domain, address: int) -> int | None:
        """The frame that a guest's store to this address goes to, as far as the implementation's tables say."""
        mfn, kind = domain.p2m.find(address >> 12)
        if kind in {abi.p2m_ram_rw, abi.p2m_map_foreign_rw, abi.p2m_grant_map_rw} and self.machine.frames.valid(mfn):
            return mfn
        return None

    def put(self, domain: Domain, address: int, data: bytes) -> None:
        """Bring bytes into a guest's memory by its own stores, of the words that are not there yet."""
        rng, memory = self.rng, self.machine.memory
        vcpu = self.vcpu(domain)
        done = 0
        while done < len(data):
            at = address + done & MASK64
            size = 8
            while size > len(data) - done or at % size:
                size //= 2
            piece = data[done:done + size]
            mfn = self.writable(domain, at)
            if mfn is None and rng.random() < 0.9:
                # a store that fails is tried once for a page, not for every word
                done += min(4096 - at % 4096, len(data) - done)
                self.world.run(("store", domain.id, vcpu, at, size, int.from_bytes(piece, "little")))
                if not domain.runs:
                    return
                continue
            if mfn is None or memory.read(mfn, at & 0xFFF, size) != piece:
                self.world.run(("store", domain.id, vcpu, at, size, int.from_bytes(piece, "little")))
                if not domain.runs:
                    return
            done += size

    def place(self, domain: Domain, number: int, size: int) -> int:
        """Where an argument goes: in the domain's own page for it, seldom somewhere hostile."""
        rng = self.rng
        base = self.arguments(domain) + number << 12
        pick = rng.random()
        if pick < 0.90:
            return base
        if pick < 0.94:
            # across the end of a page, into one that may be mapped elsewhere, read-only, or not at all
            return base + 4096 - rng.choice((1, 2, 4, 8, size // 2 & ~7, max(size - 8, 0))) % 4096
        if pick < 0.98:
            offset = rng.choice((0, 8, 4096 - size if size < 4096 else 0))
            return (rng.choice((TABLE_GFN, TABLE_GFN + 0x20, TABLE_GFN + 0x40, self.spare_gfn(), self.spare_gfn(),
                                self.mapped_gfn(domain))) << 12) + offset
        return rng.choice((0, MASK64 - 7, MASK64 - 4095, self.edge_gfn() << 12 & MASK64, rng.getrandbits(64),
                           base | 1 << 63, base | 1 << 32, base + 4))

    # ---- calls -----------------------------------------------------------------------------------------------------

    def hypercall(self, domain: Domain, number: int, *arguments: int) -> Observation | None:
        """A hypercall, preempted now and then, and mostly continued when it was."""
        rng = self.rng
        vcpu = self.vcpu(domain)
        registers = {16 if domain.width == 64 else 12: number}
        mask = MASK64 if domain.width == 64 else abi.MASK32
        registers.update({i: argument & mask for i, argument in enumerate(arguments)})
        budget = rng.choice((1, 1, 2, 3, 5)) if rng.random() < 0.15 else 0
        seen = self.world.run(("hypercall", domain.id, vcpu, registers, budget))
        for _ in range(6):
            if seen is None or not seen.restart or seen.registers is None:
                break
            if rng.random() < 0.12:
                break           # given up: what is half done stays so
            if rng.random() < 0.15:
                self.meanwhile()
                if not domain.runs or vcpu not in domain.vcpus or self.machine.domains.get(domain.id) is not domain:
                    break
            registers = {i: value for i, value in enumerate(seen.registers) if value}
            budget = rng.choice((1, 2, 3)) if rng.random() < 0.4 else 0
            seen = self.world.run(("hypercall", domain.id, vcpu, registers, budget))
        return seen

    def meanwhile(self) -> None:
        """Another domain acts while a call is preempted: an access, a changed grant entry."""
        domain = self.runner()
        if domain is not None:
            self.rng.choice((self.access, self.offer, self.rewrite))(domain)

    def memory_op(self, domain: Domain, operation: int, data: bytes, extent: int = 0, page: int = 0) -> None:
        """A memory_op with its argument; the start extent is forged now and then."""
        address = self.place(domain, page, len(data))
        self.put(domain, address, data)
        if self.rng.random() < 0.05:
            extent = self.rng.choice((1, 2, 3, 31, 32, 33, self.odd(58)))
        command = operation | extent << 6
        if self.rng.random() < 0.01:
            command |= self.odd(64)
        self.hypercall(domain, abi.HYPERCALL_MEMORY_OP, command, address)

    def words(self, domain: Domain, page: int, values: Sequence[int]) -> int:
        """A list of 64-bit words in guest memory; its address."""
        address = self.place(domain, page, 8 * len(values))
        self.put(domain, address, pack(f"<{len(values)}Q", *(value & MASK64 for value in values)))
        return address

    # ---- actions: accesses -----------------------------------------------------------------------------------------

    def access(self, domain: Domain) -> None:
        """A load, store or fetch, mostly of eight bytes; sometimes across the end of a page."""
        rng = self.rng
        size = rng.choice((8, 8, 8, 4, 2, 1))
        if rng.random() < 0.3:
            # where something stands: arguments and what came back, grant entries
            gfn = self.arguments(domain) + rng.randrange(ARGUMENT_PAGES) if rng.random() < 0.7 else TABLE_GFN
            offset = rng.randrange(128 // size) * size
        else:
            gfn = self.gfn(domain)
            offset = rng.randrange(4096 // size) * size
        if rng.random() < 0.1:
            offset = rng.choice((4096 - size // 2 or 4095, 4095, 4092, 1))
        address = (gfn << 12) + offset
        if address > MASK64 - 8:
            address &= (1 << 48) - 1
        vcpu = self.vcpu(domain)
        pick = rng.random()
        if pick < 0.45:
            self.world.run(("load", domain.id, vcpu, address, size))
        elif pick < 0.9:
            value = rng.choice((0, rng.getrandbits(8 * size), (1 << 8 * size) - 1))
            self.world.run(("store", domain.id, vcpu, address, size, value))
            if rng.random() < 0.4 and domain.runs:
                self.world.run(("load", domain.id, self.vcpu(domain), address, rng.choice((size, 8, 1))))
        else:
            self.world.run(("fetch", domain.id, vcpu, address & ~3))

    def caches(self, domain: Domain) -> None:
        """An operation by set and way, or the cache turned on or off."""
        vcpu = self.vcpu(domain)
        if self.rng.random() < 0.5:
            self.world.run(("set_way", domain.id, vcpu))
        else:
            self.world.run(("toggle_cache", domain.id, vcpu, self.rng.random() < 0.5))

    # ---- actions: memory_op ----------------------------------------------------------------------------------------

    def reservation(self, domain: Domain, operation: int) -> None:
        """increase, decrease or populate, of one's own memory or of a subject's."""
        rng = self.rng
        domid = self.subject(domain)
        subject = self.subject_domain(domain, domid)
        number = rng.choice((1, 1, 2, 3, 4, 6))
        order = rng.choice((0,) * 9 + (1, 2, 3, 9, 9, 10, 11, 18, 19))
        if operation == abi.XENMEM_populate_physmap:
            step = 1 << min(order, 12)
            base = BLOCK_GFN if order else SPARE_GFN
            gfns = [base + rng.randrange(24 if not order else 4) * step for _ in range(number)]
            if rng.random() < 0.4:
                gfns = [self.mapped_gfn(subject) for _ in range(number)]
        else:
            gfns = [self.mapped_gfn(subject) if rng.random() < 0.5 else self.spare_gfn() for _ in range(number)]
            if order:
                gfns[0] = rng.choice((BLOCK_GFN + rng.randrange(4) * 512, DOMU_BASE, self.mapped_gfn(subject)))
                order = min(order, 9) if rng.random() < 0.8 else order
        if rng.random() < 0.15:
            gfns[rng.randrange(number)] = self.gfn(subject)
        flags = rng.choice((0,) * 12 + (1 << 8, 1 << 16, 1 << 17, 1 << 18, 2 << 8, 12, 13, 20, 32, 40, 1 << 8 | 1 << 17,
                                        rng.getrandbits(19)))
        address = self.words(domain, 1, gfns)
        count = self.mostly(number, 64, 0.04)
        if rng.random() < 0.02:
            count = rng.choice((1 << 26, (1 << 26) - 1, (1 << 32) - 1, 0, 1 << 32))
        if operation == abi.XENMEM_increase_reservation:
            # what is increased has no guest frame, and is hard to give back
            count = min(count, 3)
            if order > 4:
                order = rng.choice((0, 1, 19))
        elif count > 64:
            order = min(order, 1)
        data = abi.MEMORY_RESERVATION.pack(address, count, order, flags, domid)
        self.memory_op(domain, operation, data, extent=0 if rng.random() < 0.95 else rng.randrange(8))

    def increase(self, domain: Domain) -> None:
        """increase_reservation."""
        self.reservation(domain, abi.XENMEM_increase_reservation)

    def decrease(self, domain: Domain) -> None:
        """decrease_reservation."""
        self.reservation(domain, abi.XENMEM_decrease_reservation)

    def populate(self, domain: Domain) -> None:
        """populate_physmap."""
        self.reservation(domain, abi.XENMEM_populate_physmap)

    def statistic(self, domain: Domain) -> None:
        """The calls that only tell a number."""
        rng = self.rng
        operation = rng.choice((2, 3, 4, 14, 3, 4, 14, 3, 4, 14, 18, 19, 5, rng.choice(ABSENT)))
        domid = self.subject(domain) if rng.random() < 0.6 else self.domid(domain, 0.9)
        self.memory_op(domain, operation, pack("<Q", domid), extent=0 if rng.random() < 0.85 else 1)

    def add(self, domain: Domain) -> None:
        """add_to_physmap: a grant frame, shared_info, or what Arm refuses."""
        rng = self.rng
        domid = self.subject(domain)
        space = rng.choice((0, 0, 1, 1, 1, 1, 1, 2, 3, 4, 5, 5, self.odd(32)))
        idx, gfn = self._frame_of_space(domain, space)
        size = rng.choice((0, 0, 1, 3, 0xFFFF))
        if rng.random() < 0.03:
            gfn, idx = MASK64 - 1, MASK64 - 1
        self.memory_op(domain, abi.XENMEM_add_to_physmap, abi.ADD_TO_PHYSMAP.pack(domid, size, space, idx, gfn),
                       extent=0 if rng.random() < 0.9 else rng.choice((1, 2, 0x10000)))

    def _frame_of_space(self, domain: Domain, space: int) -> tuple[int, int]:
        """(index, guest frame) that suit a space of add_to_physmap."""
        rng = self.rng
        if space == abi.XENMAPSPACE_grant_table:
            idx = rng.choice((0, 0, 0, 1, 2, 3, 5))
            gfn = TABLE_GFN + idx
            if rng.random() < 0.3:
                idx, gfn = 1 << 31 | idx & 1, TABLE_GFN + 0x20 + (idx & 1)
        elif space == abi.XENMAPSPACE_shared_info:
            idx, gfn = self.mostly(0, 64, 0.1), TABLE_GFN + 0x40
        elif space == abi.XENMAPSPACE_dev_mmio:
            idx, gfn = self.device_frame(domain), self.spare_gfn()
        else:
            idx, gfn = self.gfn(domain), self.spare_gfn()
        if rng.random() < 0.1:
            idx = self.odd(64)
        if rng.random() < 0.15:
            gfn = self.gfn(domain)
        return idx & MASK64, gfn & MASK64

    def device_frame(self, domain: Domain) -> int:
        """A frame of the board's device, or beside it."""
        config = self.machine.config.domains[0]
        first = config.iomem[0][0] if config.iomem else 0
        return first + self.rng.choice((0, 1, 2, 3, DEVICE_FRAMES - 1, DEVICE_FRAMES, -1))

    def batch(self, domain: Domain) -> None:
        """add_to_physmap_batch, mostly of foreign pages."""
        rng = self.rng
        domid = self.subject(domain)
        space = rng.choice((4, 4, 4, 4, 4, 4, 1, 0, 5, 5, 2, 3, self.odd(16)))
        foreign = rng.choice(sorted(self.machine.domains)) if rng.random() < 0.7 else self.domid(domain)
        if domain.target is not None and rng.random() < 0.4:
            foreign = domain.target
        if space == abi.XENMAPSPACE_dev_mmio and rng.random() < 0.8:
            foreign = 0
        number = rng.choice((1, 1, 2, 3, 4))
        owner = self.subject_domain(domain, foreign)
        items = [self._frame_of_space(domain, space) for _ in range(number)]
        if space == abi.XENMAPSPACE_gmfn_foreign:
            items = [(self.mapped_gfn(owner) if rng.random() < 0.8 else self.gfn(owner), self.spare_gfn())
                     for _ in range(number)]
        idxs = self.words(domain, 1, [idx for idx, _ in items])
        gfns = self.words(domain, 2, [gfn for _, gfn in items])
        errs = self.place(domain, 3, 4 * number)
        size = number
        if rng.random() < 0.04:
            # a list as long as it can be takes as long as a hundred other calls
            size = 0xFFFF if rng.random() < 0.03 else rng.choice((0, number + 1, number + 2, 40))
        self.memory_op(domain, abi.XENMEM_add_to_physmap_batch,
                       abi.ADD_TO_PHYSMAP_BATCH.pack(domid, space, size, foreign, idxs, gfns, errs),
                       extent=0 if rng.random() < 0.92 else rng.choice((1, number, 0x10000)))

    def remove(self, domain: Domain) -> None:
        """remove_from_physmap."""
        domid = self.subject(domain)
        gfn = self.spare_gfn() if self.rng.random() < 0.6 else self.gfn(self.subject_domain(domain, domid))
        if self.rng.random() < 0.15:
            gfn = TABLE_GFN + self.rng.choice((0, 1, 0x20, 0x40))
        self.memory_op(domain, abi.XENMEM_remove_from_physmap, abi.REMOVE_FROM_PHYSMAP.pack(domid, gfn & MASK64))

    def claim(self, domain: Domain) -> None:
        """claim_pages."""
        rng = self.rng
        total = self.machine.frames.total_avail
        domid = rng.choice(sorted(self.machine.domains)) if rng.random() < 0.9 else self.domid(domain)
        subject = self.subject_domain(domain, domid)
        number = rng.choice((0, subject.tot_pages, subject.tot_pages + 1, subject.tot_pages + 16, subject.max_pages,
                             subject.max_pages + 1, total, total + subject.tot_pages, self.odd(64)))
        extents, order, flags = rng.choice(((0, 0, 0),) * 8 + ((8, 0, 0), (0, 1, 0), (0, 0, 1)))
        self.memory_op(domain, abi.XENMEM_claim_pages,
                       abi.MEMORY_RESERVATION.pack(extents, number & MASK64, order, flags, domid))

    def exchange(self, domain: Domain) -> None:
        """exchange, get_vnumainfo, reserved_device_memory_map: never of use on Arm, but checked."""
        rng = self.rng
        pick = rng.random()
        domid = self.subject(domain)
        if pick < 0.5:
            order_in, order_out = rng.choice(((0, 0), (0, 0), (1, 0), (0, 1), (9, 0), (19, 0), (0, 63)))
            count = rng.choice((1, 2, 3))
            other = domid if rng.random() < 0.9 else self.domid(domain)
            inside = self.words(domain, 1, [self.gfn(domain) for _ in range(count)])
            outside = self.words(domain, 2, [self.gfn(domain) for _ in range(count)])
            scaled = count << order_in >> min(order_out, 63)
            done = rng.choice((0, 0, 0, 1, count, self.odd(64)))
            self.memory_op(domain, abi.XENMEM_exchange, abi.MEMORY_EXCHANGE.pack(
                inside, self.mostly(count, 64), order_in, 0, domid, outside, self.mostly(scaled, 64), order_out,
                rng.choice((0, 0, 1 << 17, 2 << 8)), other, done))
        elif pick < 0.75:
            self.memory_op(domain, abi.XENMEM_get_vnumainfo, abi.VNUMA_TOPOLOGY_INFO.pack(
                domid, self.mostly(0, 16, 0.2), 1, 1, 1, 0, 0, 0))
        else:
            self.memory_op(domain, abi.XENMEM_reserved_device_memory_map, abi.RESERVED_DEVICE_MEMORY_MAP.pack(
                rng.choice((0, 1, 2, 1 << 31)), 4, self.arguments(domain) + 1 << 12, 0, 0, 0))

    def resource(self, domain: Domain) -> None:
        """acquire_resource: grant frames of another domain."""
        rng = self.rng
        domid = rng.choice(sorted(self.machine.domains))
        if domain.target is not None and rng.random() < 0.6:
            domid = domain.target
        if rng.random() < 0.08:
            domid = self.domid(domain)
        kind, identifier = rng.choice(((1, 0),) * 7 + ((1, 1), (1, 2), (0, 0), (2, 0), (3, 0)))
        number = rng.choice((1, 1, 2, 3, 0, 33, self.odd(32)))
        frame = rng.choice((0, 0, 0, 1, 2, 5, self.odd(64)))
        if number > 40:
            number = number if rng.random() < 0.5 else 3
        gfns = self.words(domain, 1, [self.spare_gfn() if rng.random() < 0.9 else self.gfn(domain)
                                      for _ in range(min(number, 34))])
        address = gfns if rng.random() < 0.9 else 0
        self.memory_op(domain, abi.XENMEM_acquire_resource, abi.ACQUIRE_RESOURCE.pack(
            domid, kind, identifier, number, self.mostly(0, 32, 0.04), frame, address),
            extent=0 if rng.random() < 0.93 else rng.choice((1, 2, number & 0xFFFFFF)))

    # ---- actions: grants -------------------------------------------------------------------------------------------

    def offered(self, domain: Domain) -> tuple[int, int]:
        """(granter, reference) of a grant to the domain, as the tables stand now; else any."""
        rng, machine = self.rng, self.machine
        found: list[tuple[int, int]] = []
        if rng.random() < 0.06:
            # one that is in use, mostly by somebody else
            found = [(granter.id, ref) for granter in machine.domains.values() if granter.grant_table is not None
                     for ref in granter.grant_table.array("pin")[:REFS].nonzero()[0].tolist()]
        elif rng.random() < 0.9:
            for granter in machine.domains.values():
                table = granter.grant_table
                if table is None or not table.shared:
                    continue
                step = table.version
                words = machine.memory.page(table.shared[0])[:REFS * step:step].tolist()
                found += [(granter.id, ref) for ref, word in enumerate(words)
                          if word & 3 in {1, 3} and word >> 16 & 0xFFFF == domain.id]
        if found:
            return rng.choice(found)
        return self.domid(domain, 0.9), self.mostly(rng.randrange(REFS), 32, 0.3)

    def table_address(self, domain: Domain) -> int | None:
        """Where the domain has its first grant frame mapped, or None."""
        table = domain.grant_table
        if table is None or not table.shared:
            return None
        gfn = self.machine.frames.xenheap_gfn(table.shared[0])
        return None if gfn is None else gfn << 12

    def offer(self, domain: Domain) -> None:
        """Write a grant entry: of a page, read-only or not, part of one, or transitive."""
        rng = self.rng
        address = self.table_address(domain)
        if address is None:
            self._map_table(domain)
            return
        version = domain.grant_table.version
        ref = rng.randrange(REFS)
        user = rng.choice(sorted(self.machine.domains)) if rng.random() < 0.93 else self.domid(domain)
        gfn = self.mapped_gfn(domain) if rng.random() < 0.8 else self.gfn(domain)
        flags = rng.choice((1,) * 5 + (5, 5, 5, 2, 0, 3, 1 | 8, 1 | 16, 1 | 24, rng.getrandbits(16)))
        if version == 1:
            self.put(domain, address + 8 * ref, pack("<HHI", flags, user, gfn & abi.MASK32))
            return
        kind = rng.random()
        if kind < 0.25:
            flags = 3 | flags & 4
            granter, behind = self.offered(domain)
            body = pack("<HHHHII", flags, user, granter & 0xFFFF, 0, behind & abi.MASK32, 0)
        elif kind < 0.45:
            start, length = rng.choice(((0, 4096), (16, 64), (0, 8), (4088, 8), (4095, 2), (0, 0), (0x8001, 100),
                                        (0xFFFF, 0xFFFF)))
            body = pack("<HHHHQ", flags | 0x100, user, start, length, gfn & MASK64)
        else:
            body = pack("<HHIQ", flags, user, 0, gfn & MASK64)
        self.put(domain, address + 16 * ref, body)

    def _map_table(self, domain: Domain) -> None:
        """Map the domain's first grant frame where it belongs."""
        self.memory_op(domain, abi.XENMEM_add_to_physmap, abi.ADD_TO_PHYSMAP.pack(
            SELF, 0, abi.XENMAPSPACE_grant_table, 0, TABLE_GFN))

    def rewrite(self, domain: Domain) -> None:
        """Change an entry that may be in use: clear it, turn it read-only, take marks away, name another domain."""
        rng = self.rng
        address = self.table_address(domain)
        if address is None:
            self._map_table(domain)
            return
        table = domain.grant_table
        pinned = table.array("pin")[:REFS].nonzero()[0].tolist()
        ref = rng.choice(pinned) if pinned and rng.random() < 0.8 else rng.randrange(REFS)
        at = address + 8 * table.version * ref
        self.put(domain, at, pack("<H", rng.choice((0, 1, 5, 1 | 24, 5 | 8, 3, 2, rng.getrandbits(16)))))
        if rng.random() < 0.3:
            self.put(domain, at + 2, pack("<H", self.domid(domain)))

    def grant_op(self, domain: Domain, operation: int, items: list[bytes], count: int | None = None) -> None:
        """A grant_table_op on an array of items; length and cursor are forged now and then."""
        rng = self.rng
        data = b"".join(items)
        address = self.place(domain, 4, len(data))
        self.put(domain, address, data)
        length = len(items) if count is None else count
        if rng.random() < 0.04:
            length = rng.choice((0, 1, length + 1, 33, 1 << 31, abi.MASK32, self.odd(32)))
            if length > 300:
                # most arrays end at a page that is not there: long ones are about that
                length = min(length, 300) if length < 1 << 31 else length
        if rng.random() < 0.02:
            operation |= rng.choice((1 << 12, 4096 << 12, self.odd(20) << 12, self.odd(32)))
        self.hypercall(domain, abi.HYPERCALL_GRANT_TABLE_OP, operation, address, length)

    def map(self, domain: Domain) -> None:
        """map_grant_ref."""
        rng = self.rng
        items = []
        for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
            granter, ref = self.offered(domain)
            flags = rng.choice((2,) * 6 + (6,) * 6 + (1, 3, 0, 10, 18, 2 | 1 << 16, 34, rng.getrandbits(32)))
            gfn = self.spare_gfn() if rng.random() < 0.85 else self.gfn(domain)
            items.append(g.MAP.pack((gfn << 12 & MASK64) + rng.choice((0, 0, 0, 8)) & MASK64, flags, ref & abi.MASK32,
                                    granter & 0xFFFF, rng.choice((0, -1)), 0, 0))
        self.grant_op(domain, g.GNTTABOP_map_grant_ref, items)

    def live_handles(self, domain: Domain) -> list[int]:
        """The domain's handles that are in use."""
        table = domain.grant_table
        if table is None:
            return []
        handles: list[int] = table.array("map_flags")[:table.maptrack_limit].nonzero()[0].tolist()
        return handles

    def mapped_at(self, domain: Domain, handle: int) -> int:
        """A guest frame at which the handle's page lies, from the small range that mappings go to."""
        table = domain.grant_table
        granter = self.machine.domains.get(table.map_domid[handle])
        if granter is None or granter.grant_table is None or table.map_ref[handle] >= granter.grant_table.entries:
            return self.spare_gfn()
        mfn = granter.grant_table.act_mfn[table.map_ref[handle]]
        for gfn in range(SPARE_GFN, SPARE_GFN + 24):
            found, kind = domain.p2m.find(gfn)
            if found == mfn and kind in {abi.p2m_grant_map_rw, abi.p2m_grant_map_ro}:
                return gfn
        return self.spare_gfn()

    def unmap(self, domain: Domain) -> None:
        """unmap_grant_ref, seldom unmap_and_replace."""
        rng = self.rng
        live = self.live_handles(domain)
        replace = rng.random() < 0.15
        items = []
        number = rng.choice((1, 1, 1, 2, 3, 5))
        if rng.random() < 0.03:
            number = rng.choice((33, 40, 65))
        for _ in range(number):
            handle = rng.choice(live) if live and rng.random() < 0.92 else self.odd(32)
            gfn = self.mapped_at(domain, handle) if handle in live and rng.random() < 0.85 else self.gfn(domain)
            host = gfn << 12 & MASK64 if rng.random() < 0.95 else 0
            second = 0 if rng.random() < 0.9 else rng.choice((1, host, self.odd(64)))
            items.append(g.UNMAP.pack(host, second, handle, 0))
        operation = g.GNTTABOP_unmap_and_replace if replace else g.GNTTABOP_unmap_grant_ref
        self.grant_op(domain, operation, items)

    def copy(self, domain: Domain) -> None:
        """gnttab_copy: several items, which share their sides now and then."""
        rng = self.rng
        items: list[bytes] = []
        sides: list[tuple[int, int, int]] = []
        previous: list[tuple[int, int, int]] = []
        for _ in range(rng.choice((1, 1, 2, 2, 3, 5))):
            sides = []
            for bit in range(2):
                if previous and rng.random() < 0.5:
                    sides.append(previous[bit])
                elif rng.random() < 0.55:
                    granter, ref = self.offered(domain)
                    sides.append((ref & abi.MASK32, granter & 0xFFFF, 1))
                else:
                    owner = SELF if rng.random() < 0.92 else self.domid(domain)
                    gfn = self.mapped_gfn(domain) if rng.random() < 0.8 else self.gfn(domain)
                    sides.append((gfn & MASK64, owner, 0))
            previous = sides
            flags = sides[0][2] | sides[1][2] << 1
            if rng.random() < 0.04:
                flags = rng.getrandbits(16)
            offsets = [rng.choice((0, 0, 8, 16, 4088, self.odd(16))) for _ in range(2)]
            size = rng.choice((8, 8, 16, 64, 0, 4096, 1, self.odd(16)))
            items.append(g.COPY.pack(sides[0][0], sides[0][1], offsets[0], sides[1][0], sides[1][1], offsets[1],
                                     size, flags, 0))
        self.grant_op(domain, g.GNTTABOP_copy, items)

    def table(self, domain: Domain) -> None:
        """The calls on a table as a whole: setup, sizes, versions, frames."""
        rng = self.rng
        domid = self.subject(domain)
        most = self.machine.config.opt_max_grant_frames
        pick = rng.random()
        target = self.place(domain, 5, 64)
        if pick < 0.35:
            frames = rng.choice((0, 1, 1, 2, 2, 3, most - 1, most, most + 1, self.odd(32)))
            frames = frames if frames <= 64 else frames | 1 << 20
            self.grant_op(domain, g.GNTTABOP_setup_table, [g.SETUP.pack(domid, frames, 0, target)],
                          self.mostly(1, 32, 0.05))
        elif pick < 0.45:
            self.grant_op(domain, g.GNTTABOP_query_size, [g.QUERY.pack(domid, 0, 0, 0)], self.mostly(1, 32, 0.05))
        elif pick < 0.7:
            version = rng.choice((1, 2, 2, 2, 0, 3, self.odd(32)))
            self.grant_op(domain, g.GNTTABOP_set_version, [g.SET_VERSION.pack(version)], 1)
        elif pick < 0.8:
            frames = rng.choice((0, 1, 1, 2, 3, self.odd(32)))
            self.grant_op(domain, g.GNTTABOP_get_status_frames, [g.STATUS_FRAMES.pack(frames, domid, 0, target)],
                          self.mostly(1, 32, 0.05))
        elif pick < 0.88:
            self.grant_op(domain, g.GNTTABOP_get_version, [g.GET_VERSION.pack(domid, 0)], 1)
        else:
            operation = rng.choice((g.GNTTABOP_dump_table, g.GNTTABOP_transfer, 13, 14, 63, 0xFFF))
            self.grant_op(domain, operation, [bytes(24)], 1)

    def swap(self, domain: Domain) -> None:
        """swap_grant_ref."""
        rng = self.rng
        items = [g.SWAP.pack(self.mostly(rng.randrange(REFS), 32), self.mostly(rng.randrange(REFS), 32), 0)
                 for _ in range(rng.choice((1, 2, 3)))]
        self.grant_op(domain, g.GNTTABOP_swap_grant_ref, items)

    def cache_flush(self, domain: Domain) -> None:
        """cache_flush of one's own page, of one mapped by a grant, or of another's."""
        rng, frames = self.rng, self.machine.frames
        items = []
        for _ in range(rng.choice((1, 1, 2, 3))):
            mfn, _ = domain.p2m.find(self.spare_gfn() if rng.random() < 0.6 else self.mapped_gfn(domain))
            if not frames.valid(mfn) or rng.random() < 0.1:
                mfn = rng.choice((self.machine.memory.banks[0][0] + rng.randrange(4096), self.odd(52),
                                  self.device_frame(domain)))
            offset, length = rng.choice(((0, 4096), (0, 64), (64, 64), (4095, 1), (4095, 2), (0, 0), (4096, 0),
                                         (self.odd(16), self.odd(16))))
            op = rng.choice((1, 2, 3, 3, 3, 0, 4, 1 << 31, 1 | 1 << 31))
            items.append(g.CACHE_FLUSH.pack(mfn << 12 & MASK64, offset, length, op))
        operation = g.GNTTABOP_cache_flush
        if rng.random() < 0.06:
            operation |= rng.choice((1, 2, self.odd(20))) << 12
        self.grant_op(domain, operation, items)

    # ---- actions: domctl -------------------------------------------------------------------------------------------

    def control(self, domain: Domain, command: int, domid: int, union: bytes = b"", *, version: int = 0x15) -> int:
        """A domctl; its signed result, or -1 if there was none."""
        address = self.place(domain, 0, abi.DOMCTL_SIZE)
        data = abi.DOMCTL_HEADER.pack(command, version, domid & 0xFFFF) + union.ljust(128, b"\0")
        # what the command does not read stays as it is
        used = 16 + len(union)
        self.put(domain, address, data[:used])
        seen = self.hypercall(domain, abi.HYPERCALL_DOMCTL, address)
        if seen is None or seen.kind != "value" or seen.registers is None:
            return -1
        bits = domain.width
        return seen.registers[0] - (seen.registers[0] >> bits - 1 << bits)

    def limits(self, domain: Domain) -> None:
        """max_mem, the pool of stage-2 tables, I/O memory, device mappings, set_target, cacheflush, info."""
        rng = self.rng
        domid = rng.choice(sorted(self.machine.domains)) if rng.random() < 0.9 else self.domid(domain)
        subject = self.subject_domain(domain, domid)
        command = rng.choice((11, 11, 85, 86, 86, 86, 20, 20, 39, 39, 39, 39, 46, 71, 5, 35, 15, 17, 24, 27, 3, 4, 4,
                              12))
        device = self.device_frame(domain)
        union = b""
        if command == domctl.MAX_MEM:
            union = pack("<Q", rng.choice((subject.tot_pages * 4, subject.tot_pages * 4 + 64, 0, 8000, 8000, 16000,
                                           self.odd(64))))
        elif command == domctl.SET_PAGING_MEMPOOL_SIZE:
            have = subject.p2m.pool_total
            pages = rng.choice((0, 16, 32, 40, 64, have, have + 1, max(have - 1, 0), have + 8, have + 150))
            if rng.random() < 0.02:
                # what the heap does not hold is taken frame by frame, then given back
                pages = self.odd(52)
            union = pack("<Q", (pages << 12 & MASK64) + (1 if rng.random() < 0.05 else 0))
        elif command == domctl.IOMEM_PERMISSION:
            union = pack("<QQB", device & MASK64, self.mostly(rng.choice((1, 2, 4)), 64, 0.15), rng.randrange(2))
        elif command == domctl.MEMORY_MAPPING:
            number = self.mostly(rng.choice((1, 1, 2, 3, 64, 65)), 64)
            gfn = self.spare_gfn() if rng.random() < 0.8 else self.gfn(subject)
            union = pack("<QQQII", gfn & MASK64, self.mostly(device, 64), number, rng.randrange(2), 0)
        elif command == domctl.SET_TARGET:
            union = pack("<H", self.domid(domain, 1.0) & 0xFFFF)
        elif command == domctl.CACHEFLUSH:
            union = pack("<QQ", self.gfn(subject) & MASK64, self.mostly(rng.choice((1, 2, 64)), 64, 0.1))
        elif command == domctl.SET_ADDRESS_SIZE:
            union = pack("<I", rng.choice((32, 64, 64, 16)))
        elif command == domctl.MAX_VCPUS:
            union = pack("<I", self.mostly(subject.max_vcpus, 32))
        elif command == domctl.SETVCPUCONTEXT:
            union = pack("<IIQ", rng.choice((0, 0, 1, 7)), 0, self.context(domain, subject))
        elif command == domctl.PAUSEDOMAIN and subject.controller_pause_count > 1:
            command = domctl.UNPAUSEDOMAIN
        version = 0x15 if rng.random() < 0.98 else self.odd(32)
        self.control(domain, command, domid, union, version=version)
        if command == domctl.PAUSEDOMAIN and domain.runs and rng.random() < 0.9:
            self.control(domain, domctl.UNPAUSEDOMAIN, domid)

    def context(self, domain: Domain, subject: Domain, *, exact: bool = False) -> int:
        """A vCPU context in the caller's memory, for setvcpucontext; its address. exact: nothing odd in it."""
        address = self.arguments(domain) + 2 << 12
        online = 1 if exact or self.rng.random() < 0.9 else 0
        status = 0x1D3 if subject.width == 32 else 0x3C5
        if not exact and self.rng.random() < 0.1:
            status = self.odd(64)
        self.put(domain, address, pack("<Q", online))
        self.put(domain, address + 264, pack("<QQ", status, 0))
        return address

    def build(self, domain: Domain) -> None:
        """Make a domain, give it memory, start it; any step may be left out."""
        rng = self.rng
        domid = rng.choice(BORN) if rng.random() < 0.93 else self.odd(16)
        fields: list[Any] = list(domctl.CREATE.unpack(CREATION))
        fields[8] = rng.choice((1, self.machine.config.grant_max_version))
        if rng.random() < 0.15:
            which = rng.choice((2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13))
            bits = {6: 31, 7: 31, 11: 8, 12: 16}.get(which, 32)
            fields[which] = self.odd(bits)
        elif rng.random() < 0.2:
            fields[2] = rng.choice((3, 3 | 1 << 5, 3 | 1 << 7, 1, 2, 0, 7))
        union = domctl.CREATE.pack(*fields)
        if domid not in self.machine.domains or rng.random() < 0.1:
            self.control(domain, domctl.CREATEDOMAIN, domid, union)
        born = self.machine.domains.get(domid)
        if born is None or rng.random() < 0.08 or not domain.runs:
            return
        steps: list[Callable[[], object]] = [
            lambda: self.control(domain, domctl.MAX_VCPUS, domid, pack("<I", born.max_vcpus)),
            lambda: self.control(domain, domctl.SET_ADDRESS_SIZE, domid, pack("<I", self.machine.width)),
            lambda: self.control(domain, domctl.MAX_MEM, domid, pack("<Q", rng.choice((64, 128, 4096)))),
            lambda: self.control(domain, domctl.SET_PAGING_MEMPOOL_SIZE, domid,
                                 pack("<Q", rng.choice((0, 16, 24, 64)) << 12)),
            lambda: self.give(domain, domid),
            lambda: self.control(domain, domctl.SETVCPUCONTEXT, domid,
                                 pack("<IIQ", 0, 0, self.context(domain, born))),
            lambda: self.control(domain, domctl.UNPAUSEDOMAIN, domid),
        ]
        for step in steps:
            if rng.random() < 0.93 and domain.runs:
                step()

    def give(self, domain: Domain, domid: int) -> None:
        """Populate a new domain's first pages."""
        gfns = [DOMU_BASE + i for i in range(8)]
        address = self.words(domain, 1, gfns)
        self.memory_op(domain, abi.XENMEM_populate_physmap,
                       abi.MEMORY_RESERVATION.pack(address, len(gfns), 0, 0, domid))

    def kill(self, domain: Domain) -> None:
        """Destroy a domain; mostly one that was made in this history, and mostly until it is gone."""
        rng = self.rng
        born = [number for number in self.machine.domains if number in BORN]
        dying = [number for number, other in self.machine.domains.items() if other.is_dying]
        pick = rng.random()
        if dying and pick < 0.5:
            domid = rng.choice(dying)
        elif born and pick < 0.85:
            domid = rng.choice(born)
        elif pick < 0.93:
            domid = rng.choice(sorted(self.machine.domains))
        else:
            domid = self.domid(domain)
        self.control(domain, domctl.DESTROYDOMAIN, domid)

    def noise(self, domain: Domain) -> None:
        """A hypercall that Xen does not have on Arm, or arguments without meaning."""
        rng = self.rng
        pick = rng.random()
        if pick < 0.4:
            absent = [number for number in range(64) if number not in abi.PRESENT] + [64, 65, 1 << 31, MASK64]
            self.hypercall(domain, rng.choice(absent), rng.getrandbits(64))
        elif pick < 0.7:
            self.hypercall(domain, 12, rng.randrange(64) | self.odd(26) << 6, self.odd(64))
        else:
            self.hypercall(domain, 20, rng.randrange(14), self.odd(64), self.mostly(1, 32, 0.3))

    # ---- a step ----------------------------------------------------------------------------------------------------

    def step(self) -> str:
        """One action of one domain; its name."""
        rng = self.rng
        name = rng.choices(self._names, [self.weights[each] for each in self._names])[0]
        domain = self.runner()
        if domain is None:
            return ""
        if name in _CONTROL:
            dom0 = self.machine.domains.get(0)
            # an unprivileged domain tries too, now and then
            if dom0 is not None and dom0.runs and rng.random() < 0.92:
                domain = dom0
            elif rng.random() < 0.2:
                name = "access"
        getattr(self, name)(domain)
        return name


_CONTROL: Final = frozenset({"limits", "build", "kill", "claim"})

WEIGHTS: Final[dict[str, float]] = {
    "access": 8, "caches": 0.4, "increase": 1, "decrease": 3, "populate": 5, "statistic": 1, "add": 4, "batch": 4,
    "remove": 3, "claim": 1, "exchange": 0.8, "resource": 1.5, "offer": 9, "rewrite": 2, "map": 9, "unmap": 8,
    "copy": 8, "table": 3, "swap": 1.5, "cache_flush": 2, "limits": 4, "build": 1.2, "kill": 1, "noise": 0.6,
}
"""How often each action is taken, before a campaign learns better."""
