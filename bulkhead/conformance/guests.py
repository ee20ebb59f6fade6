"""Guests of real Xen: the fuzzer's grammar, without what would end a payload or the whole session.

`Batch` takes the grammar's stimuli. The twin of ``impl.fast`` takes each at once, so that the grammar knows what comes
of it; real Xen takes all of them later, in one go. What cannot be driven there is left out, and counted by its reason.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

import attrs

from bulkhead.fuzz.grammar import ARGUMENT_PAGES, WEIGHTS, Grammar
from bulkhead.fuzz.stimuli import Stimulus, called, give
from impl.fast import abi, domctl
from impl.fast.domains import Domain
from impl.fast.errors import BadStimulus, NotModelled
from impl.fast.grant.layouts import (
    CACHE_FLUSH,
    COPY,
    MAP,
    UNMAP,
    GNTMAP_host_map,
    GNTTABOP_cache_flush,
    GNTTABOP_copy,
    GNTTABOP_get_status_frames,
    GNTTABOP_map_grant_ref,
    GNTTABOP_setup_table,
    GNTTABOP_unmap_and_replace,
    GNTTABOP_unmap_grant_ref,
)
from impl.fast.machine import Machine, Observation
from impl.xen.kinds import GUEST_EMULATED

if TYPE_CHECKING:
    from bulkhead.conformance.machines import Twins

STUCK: Final = 1
"""Accesses of a batch that may be tried for ever: each costs 20 ms, in which Xen could answer a hundred calls."""
LONGEST: Final = 4000
"""Stimuli of a batch at most."""
LOST: Final = 0.1
"""How often a guest that has lost the pages of its arguments uses them all the same."""
MOST_DEVICE_FRAMES: Final = 80
SHARED_INFO: Final = 0x40
CPU_TIME: Final = 0x48
"""Where the argument of getdomaininfo has that frame's number, and that time. Source: xen/include/public/domctl.h."""
_DEVICE: Final = (abi.p2m_mmio_direct_dev, abi.p2m_mmio_direct_nc, abi.p2m_mmio_direct_c)
_GRANTED: Final = (abi.p2m_grant_map_rw, abi.p2m_grant_map_ro)
_STAGE1_BITS: Final = 39
"""Width of the payload's identity map when its MMU is on."""
_MOVES: Final = frozenset({abi.XENMEM_decrease_reservation, abi.XENMEM_add_to_physmap, abi.XENMEM_populate_physmap,
                           abi.XENMEM_add_to_physmap_batch, abi.XENMEM_remove_from_physmap,
                           abi.XENMEM_acquire_resource})

_MEMORY, _GRANTS = abi.HYPERCALL_MEMORY_OP, abi.HYPERCALL_GRANT_TABLE_OP
_HANDLES: Final[dict[tuple[int, int], tuple[int, ...]]] = {
    (_MEMORY, abi.XENMEM_increase_reservation): (0,), (_MEMORY, abi.XENMEM_decrease_reservation): (0,),
    (_MEMORY, abi.XENMEM_populate_physmap): (0,), (_MEMORY, abi.XENMEM_exchange): (0, 32),
    (_MEMORY, abi.XENMEM_add_to_physmap_batch): (8, 16, 24), (_MEMORY, abi.XENMEM_acquire_resource): (24,),
    (_MEMORY, abi.XENMEM_reserved_device_memory_map): (8,),
    (_GRANTS, GNTTABOP_setup_table): (16,), (_GRANTS, GNTTABOP_get_status_frames): (8,),
}
"""Where an argument has guest addresses. Source: xen/include/public (memory.h, grant_table.h), Xen 4.17."""

_LISTS: Final = {
    abi.XENMEM_increase_reservation: (0,), abi.XENMEM_decrease_reservation: (0,), abi.XENMEM_populate_physmap: (0,),
    abi.XENMEM_exchange: (0,), abi.XENMEM_add_to_physmap_batch: (8, 16), abi.XENMEM_acquire_resource: (24,),
}
_NUMBERS: Final = {abi.XENMEM_add_to_physmap: (8, 16), abi.XENMEM_remove_from_physmap: (8,)}
"""Where a memory_op's argument has guest addresses of lists of frame numbers, and such numbers."""
MOST_ITEMS: Final = 64
"""Items of a call that are looked at."""
MOST_LISTED: Final = 16
"""Numbers of a list that are looked at."""

LEFT_OUT: Final = {
    "own pages": "the payload's own pages are not touched: it would run no more",
    "device": "what a device answers is the device's, not Xen's",
    "stage 1": "an address that the guest's own stage 1 does not let through",
    "alignment": "an instruction at an address that is not a multiple of 4",
    "width": "a guest of 32 bits has no such address",
    "stuck": f"an access that is tried for ever costs 20 ms: {STUCK} a batch",
    "cache off": "the payload writes other registers before SCTLR, at which Xen stops watching a cache that is on",
    "set/way": "QEMU's Cortex-A15 does not trap cache operations by set and way",
    "name": "the machine address of a frame that Xen has not shown",
    "overlap": "a grant copy within one frame whose parts overlap: what becomes of it hangs on the order of memcpy",
    "DEV-34": "comes late in every other session only, as it ends the machine",
    "DEV-35": "comes late in every other session only, as it ends the machine",
    "DEV-1": "comes late in every other session only, as the comparison may have to end after it",
    "DEV-3": "comes late in every other session only, as the comparison may have to end after it",
    "pause": "a vCPU that is paused amid a program does not finish it",
    "no payload": "a domain made at run time has no payload to run",
    "context": "a vCPU whose registers are set runs its payload no more",
    "life": "a domain with a payload is destroyed only at the end of a session",
    "pool": "a pool of more pages than there are takes Xen seconds",
    "memory": "whether Xen has so much memory left hangs on what it uses itself",
    "I/O memory": "a range of very many frames of I/O memory takes the specification long",
    "not modelled": "a call that Xen has and the specification leaves out",
}
"""What is not given to real Xen, by the names of `Batch.left_out`."""


@attrs.frozen
class Taken:
    """Frames that the twin populated a domain with: name of the first, domain, first gfn, how many."""

    name: int
    domain: int
    gfn: int
    frames: int


@attrs.frozen
class Given:
    """A stimulus of a batch.

    choices: that the twin made meanwhile; foreseen: how it ended there, and register 0; taken: where new frames went;
    forgets: domains that are gone with it.
    """

    stimulus: Stimulus
    choices: tuple[tuple[str, int], ...]
    foreseen: tuple[str, int | None]
    taken: tuple[Taken, ...] = ()
    forgets: int = 0


def foreseen(seen: Observation) -> tuple[str, int | None]:
    """How a stimulus ended, and register 0: what is looked at of it to tell whether a twin is right."""
    return seen.kind, None if seen.registers is None else seen.registers[0]


class Batch:
    """Stimuli in the making.

    twins: the machine; names: Xen's frames behind names that the twin uses; late: deviations may come about after which
    nothing can be compared; ending: domains with a payload may be destroyed.
    given: what real Xen is to be given; placed: guest frame at which a domain's handle was mapped; left_out: by reason;
    over: nothing more is to be added after this, as a domain or the machine ended; spoilt: a payload's own page was
    moved or written, so that nothing of this may be given.
    """

    def __init__(self, twins: Twins, names: Mapping[int, int] | None = None, *, late: bool = True,
                 ending: bool = False) -> None:
        self.twins = twins
        self.names = dict(names or {})
        self.machine: Machine = twins.fast
        self.late, self.ending = late, ending
        self.given: list[Given] = []
        self.placed = dict(twins.placed)
        self.left_out: Counter[str] = Counter()
        self.over = False
        self.spoilt = False
        self._stuck = 0

    def run(self, stimulus: Stimulus) -> Observation | None:
        """One stimulus; None if it is left out."""
        if self.over or self.spoilt or len(self.given) >= LONGEST:
            return None
        kind, number, vcpu, *rest = stimulus
        if (number, vcpu) not in self.twins.xen.boxes:
            return self._leave("no payload")
        domain = self.machine.domains.get(number)
        if domain is None:
            return None
        if kind == "hypercall":
            stimulus = (kind, number, vcpu, rest[0], 0)
            why = self._refused_call(domain, vcpu, rest[0])
        elif kind in {"load", "store", "fetch"}:
            why = self._refused_access(domain, vcpu, kind, *rest)
            if kind == "store" and rest[1] == 8 and not rest[2] & 0xFFF and self.twins.is_made_up(rest[2] >> 12):
                # a machine address, as Xen knows it
                name = self.names.get(rest[2] >> 12)
                why = why or ("" if name is not None else "name")
                stimulus = (kind, number, vcpu, rest[0], 8, (name or 0) << 12)
        elif kind == "set_way":
            why = "set/way" if self.machine.width == 32 else ""
        else:
            state = domain.vcpus[vcpu]
            why = "cache off" if state.traps_vm and state.cache_on else ""
        if why:
            return self._leave(why)
        there = len(self.machine.domains)
        try:
            seen = give(self.machine, stimulus)
        except (BadStimulus, NotModelled):
            return self._leave("not modelled")
        if seen.kind == "stuck":
            self._stuck += 1
            if self._stuck > STUCK:
                return self._leave("stuck")
        taken = tuple(self._after(domain, stimulus, seen))
        for name in chain((name for kind, name in seen.choices if kind == "frame"),
                          *(range(each.name, each.name + each.frames) for each in taken)):
            # it came free, and is another frame's from now on
            self.names.pop(name, None)
        shown = foreseen(seen)
        self.given.append(Given(stimulus, seen.choices, shown, taken,
                                max(there - len(self.machine.domains), 0)))
        if kind == "hypercall" and shown == ("value", 0):
            self._forget_facts(domain, vcpu, stimulus[3])
        return seen

    def _forget_facts(self, domain: Domain, vcpu: int, registers: dict[int, int]) -> None:
        """Getdomaininfo tells what only Xen knows: how long a domain has run, and where its shared_info is.

        The guest puts zeros there; of the frame, it looks at it before.
        """
        if called(registers)[0] == abi.HYPERCALL_DOMCTL and domain.runs:
            address = registers.get(0, 0)
            if self._argument(domain, address, 4) == domctl.GETDOMAININFO.to_bytes(4, "little"):
                frame, spent = (address + each & self.machine.address_mask for each in (SHARED_INFO, CPU_TIME))
                if frame % 4096 <= 4088:
                    self.run(("load", domain.id, vcpu, frame, 8))
                self.run(("store", domain.id, vcpu, frame, 8, 0))
                self.run(("store", domain.id, vcpu, spent, 8, 0))

    def _leave(self, why: str) -> Observation | None:
        self.left_out[why] += 1
        return None

    def _refused_access(self, domain: Domain, vcpu: int, kind: str, address: int, size: int = 4, _value: int = 0
                        ) -> str:
        last = address + size - 1
        kept = self.twins.kept[domain.id]
        if address >> 12 in kept or last >> 12 in kept:
            return "own pages"
        if domain.width == 32 and last >> 32:
            return "width"
        if last >> (_STAGE1_BITS if domain.vcpus[vcpu].cache_on else self.machine.ipa_bits):
            return "stage 1"
        if kind == "fetch" and address & 3:
            return "alignment"
        machine = self.twins.xen.kind
        emulated = GUEST_EMULATED[machine.gic] if domain.id else machine.emulated
        if any(domain.p2m.find(each >> 12)[1] in _DEVICE or any(base <= each < base + size for base, size in emulated)
               for each in (address, last)):
            return "device"
        return ""

    def _refused_call(self, domain: Domain, vcpu: int, registers: dict[int, int]) -> str:
        number, operation = called(registers)
        if domain.width == 64 and domain.vcpus[vcpu].cache_on and any(
                each >> _STAGE1_BITS for each in self._handles(domain, number, operation, registers)):
            return "stage 1"
        if number == abi.HYPERCALL_DOMCTL:
            data = self._argument(domain, registers.get(0, 0), abi.DOMCTL_SIZE)
            return "" if data is None else self._refused_control(domain.id, data)
        if number == abi.HYPERCALL_MEMORY_OP and any(
                map(self.twins.is_made_up, self._frames(domain, operation, registers))):
            # getdomaininfo tells a frame's number, and guests use whatever they find in their memory
            return "name"
        check = _CHECKS.get((number, operation))
        return "" if check is None else check(self, domain, registers)

    def _handles(self, domain: Domain, number: int, operation: int, registers: dict[int, int]) -> list[int]:
        """The guest addresses that a call names: of its argument, and those in it."""
        address = registers.get(0 if number == abi.HYPERCALL_DOMCTL else 1, 0)
        if number == abi.HYPERCALL_DOMCTL:
            data = self._argument(domain, address, 4)
            places: tuple[int, ...] = (24,) if data == domctl.SETVCPUCONTEXT.to_bytes(4, "little") else ()
        else:
            places = _HANDLES.get((number, operation), ())
        return [address, *(word for place in places for word in self._words(domain, address + place, 1))]

    def _frames(self, domain: Domain, operation: int, registers: dict[int, int]) -> list[int]:
        """The frame numbers that a memory_op names, the first of each list."""
        address = registers.get(1, 0)
        start, found = registers.get(0, 0) >> 6, list[int]()
        for place in _NUMBERS.get(operation, ()):
            found += self._words(domain, address + place, 1)
        for place in _LISTS.get(operation, ()):
            for first in self._words(domain, address + place, 1):
                found += self._words(domain, first + 8 * start, MOST_LISTED)
        return found

    def _words(self, domain: Domain, address: int, most: int) -> list[int]:
        """So many words of a guest's memory, as far as there are any."""
        found: list[int] = []
        for i in range(most):
            word = self._argument(domain, address + 8 * i, 8)
            if word is None:
                break
            found.append(int.from_bytes(word, "little"))
        return found

    def _items(self, domain: Domain, registers: dict[int, int], layout: Struct
               ) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """The items of a grant_table_op, as far as they can be read: guest address and fields."""
        for i in range(min(registers.get(2, 0) & abi.MASK32, MOST_ITEMS)):
            address = registers.get(1, 0) + layout.size * i
            data = self._argument(domain, address, layout.size)
            if data is None:
                break
            yield address, layout.unpack(data)

    def _refused_copy(self, domain: Domain, registers: dict[int, int]) -> str:
        """Whether source and destination may overlap in one frame."""
        for _, (_, source, start, _, destination, end, length, *_) in self._items(domain, registers, COPY):
            if start == end or abs(start - end) >= length:
                continue
            owners = [self.machine.domain_by_any_id(domain, number) for number in (source, destination)]
            # an entry of version 2 may stand for one of another domain
            if owners[0] is owners[1] or any(each is not None and each.grant_table.version != 1 for each in owners):
                return "overlap"
        return ""

    def _refused_increase(self, domain: Domain, registers: dict[int, int]) -> str:
        """What is increased lies nowhere, but a domain that is mapped one to one may name it."""
        data = self._argument(domain, registers.get(1, 0), abi.MEMORY_RESERVATION.size)
        if data is None:
            return ""
        subject = self.machine.domain_by_any_id(domain, abi.MEMORY_RESERVATION.unpack(data)[4])
        return "name" if subject is not None and subject.direct_map else ""

    def _refused_decrease(self, domain: Domain, registers: dict[int, int]) -> str:
        """Whether it names a page of the domain's own where it is mapped through a grant."""
        data = self._argument(domain, registers.get(1, 0), abi.MEMORY_RESERVATION.size)
        if data is None or self.late:
            return ""
        extents, count, order, _, domid = abi.MEMORY_RESERVATION.unpack(data)
        subject = self.machine.domain_by_any_id(domain, domid)
        if subject is None:
            return ""
        start = registers.get(0, 0) >> 6
        for i in range(start, min(count, start + 64)):
            word = self._argument(domain, extents + 8 * i, 8)
            if word is None:
                break
            first = int.from_bytes(word, "little")
            for mfn, kind in map(subject.p2m.find, range(first, first + (1 << min(order, 9)))):
                if kind in _GRANTED and self.machine.frames.owner_of(mfn) == subject.id:
                    return "DEV-3"
        return ""

    def _refused_claim(self, domain: Domain, registers: dict[int, int]) -> str:
        """Whether so much memory is left may hang on what Xen uses itself."""
        if registers.get(0, 0) != abi.XENMEM_claim_pages:
            # goes on where none began
            return ""
        data = self._argument(domain, registers.get(1, 0), abi.MEMORY_RESERVATION.size)
        pages = 0 if data is None else abi.MEMORY_RESERVATION.unpack(data)[1]
        most = self.twins.xen.kind.ram_size >> 12
        return "memory" if most // 2 < self.machine.frames.outstanding_claims + pages < 3 * most else ""

    def _refused_batch(self, domain: Domain, registers: dict[int, int]) -> str:
        data = self._argument(domain, registers.get(1, 0), abi.ADD_TO_PHYSMAP_BATCH.size)
        if data is None or self.late:
            return ""
        _, space, _, foreign, *_ = abi.ADD_TO_PHYSMAP_BATCH.unpack(data)
        ends = space == abi.XENMAPSPACE_gmfn_foreign and foreign == abi.DOMID_IO and self.machine.width == 64
        return "DEV-35" if ends and domain.is_privileged else ""

    def _refused_unmap(self, domain: Domain, registers: dict[int, int]) -> str:
        if self.late:
            return ""
        table = domain.grant_table
        for _, (host, _, handle, _) in self._items(domain, registers, UNMAP):
            if handle >= table.maptrack_limit or not table.map_flags[handle] & GNTMAP_host_map:
                continue
            granter = self.machine.domains.get(table.map_domid[handle])
            frame = None if granter is None else granter.grant_table.act_mfn[table.map_ref[handle]]
            # another mapping of the same frame would do, too
            if self.placed.get((domain.id, handle)) != host >> 12 or domain.p2m.find(host >> 12)[0] != frame:
                return "DEV-1"
        return ""

    def _note_maps(self, domain: Domain, registers: dict[int, int]) -> None:
        """At which guest frame each handle was mapped."""
        for _, (host, _, _, _, status, handle, _) in self._items(domain, registers, MAP):
            if status == 0:
                self.placed[domain.id, handle] = host >> 12

    def _refused_flush(self, domain: Domain, registers: dict[int, int]) -> str:
        frames, ends = self.machine.frames, ""
        for place, (address, offset, length, operation) in self._items(domain, registers, CACHE_FLUSH):
            mfn = address >> 12
            if self.twins.is_made_up(mfn) and (place & 7 or mfn not in self.names):
                # put together from pieces, it is no name that Xen has
                return "name"
            if frames.valid(mfn) and frames.owner_of(mfn) is None and not any(
                    meant == mfn and frames.owner_of(name) is not None for name, meant in self.names.items()):
                # perhaps a frame of a domain that was made at run time, or one that Xen has taken again meanwhile
                return "name"
            line = self.machine.config.cache_line
            if self.machine.width == 64 and operation == 2 and offset % line and length < line - offset % line:
                ends = "" if self.late else "DEV-34"
        return ends

    def _argument(self, domain: Domain, address: int, size: int) -> bytes | None:
        """Bytes of a guest's memory as the twin has it, or None."""
        data = b""
        address &= self.machine.address_mask
        while size:
            mfn, kind = domain.p2m.find(address >> 12)
            part = min(size, 4096 - address % 4096)
            if kind in _DEVICE or not self.machine.frames.valid(mfn):
                return None
            data += self.machine.memory.read(mfn, address % 4096, part)
            address, size = address + part, size - part
        return data

    def _refused_control(self, caller: int, data: bytes) -> str:
        command, _, domid = abi.DOMCTL_HEADER.unpack_from(data)
        own = domid in self.twins.kept
        words = [int.from_bytes(data[16 + 8 * i:24 + 8 * i], "little") for i in range(3)]
        other = self.machine.domains.get(domid)
        if command == domctl.DESTROYDOMAIN and own and domid != caller and not (self.ending and domid):
            return "life"
        if command == domctl.PAUSEDOMAIN and own:
            return "pause"
        if command == domctl.UNPAUSEDOMAIN and other is not None and any(not v.offline for v in other.vcpus.values()):
            return "pause" if own else "no payload"
        if command == domctl.SETVCPUCONTEXT and own:
            return "context"
        if command == domctl.SETVCPUCONTEXT and other is not None and not other.controller_pause_count:
            # it would run at once
            return "no payload"
        if command == domctl.SET_PAGING_MEMPOOL_SIZE and words[0] >> 12 > 2048:
            return "pool"
        if command in {domctl.IOMEM_PERMISSION, domctl.MEMORY_MAPPING}:
            frames = words[1] if command == domctl.IOMEM_PERMISSION else words[2]
            if frames > MOST_DEVICE_FRAMES:
                return "I/O memory"
        if command == domctl.IOMEM_PERMISSION and other is not None and not data[32]:
            below = [high for low, high in other.iomem if low <= words[0]]
            if below and words[0] - below[-1] > MOST_DEVICE_FRAMES and any(
                    words[0] < low < words[0] + words[1] for low, _ in other.iomem):
                # DEV-37 permits all of those between, too
                return "I/O memory"
        return ""

    def _after(self, domain: Domain, stimulus: Stimulus, seen: Observation) -> list[Taken]:
        """What has to be known of a stimulus that the twin took; the frames that it populated a domain with."""
        if seen.kind in {"crash", "panic", "restart"}:
            # a call that asks to be made again, and was not preempted, is made for ever
            self.over = True
            return []
        if not self.twins.kept_frames.isdisjoint(self.machine.memory.written):
            self.spoilt = True
        if stimulus[0] != "hypercall":
            return []
        registers = stimulus[3]
        number, operation = called(registers)
        if number == abi.HYPERCALL_DOMCTL:
            alive = (self.machine.domains.get(each) for each in self.twins.kept)
            self.over = any(each is None or each.is_dying for each in alive)
        if (number, operation) == (_GRANTS, GNTTABOP_map_grant_ref):
            self._note_maps(domain, registers)
        if number != abi.HYPERCALL_MEMORY_OP:
            return []
        if operation in _MOVES:
            self.spoilt = self.spoilt or not self.twins.payloads_whole()
        if operation == abi.XENMEM_populate_physmap and seen.choices:
            return self._populated(domain, registers, seen)
        return []

    def _populated(self, domain: Domain, registers: dict[int, int], seen: Observation) -> list[Taken]:
        """Where each new frame of populate_physmap went."""
        data = self._argument(domain, registers.get(1, 0), abi.MEMORY_RESERVATION.size)
        if data is None:
            return []
        extents, count, order, _, domid = abi.MEMORY_RESERVATION.unpack(data)
        subject = self.machine.domain_by_any_id(domain, domid)
        if subject is None or subject.direct_map:
            return []
        taken: list[Taken] = []
        names = [name for kind, name in seen.choices if kind == "frame"]
        start = registers.get(0, 0) >> 6
        for i in range(start, min(count, start + 4096)):
            word = self._argument(domain, extents + 8 * i, 8) if names else None
            if word is None:
                break
            gfn = int.from_bytes(word, "little")
            if subject.p2m.find(gfn)[0] == names[0]:
                taken.append(Taken(names.pop(0), subject.id, gfn, 1 << order))
        return taken


_CHECKS: Final[dict[tuple[int, int], Callable[[Batch, Domain, dict[int, int]], str]]] = {
    (_MEMORY, abi.XENMEM_increase_reservation): Batch._refused_increase,
    (_MEMORY, abi.XENMEM_decrease_reservation): Batch._refused_decrease,
    (_MEMORY, abi.XENMEM_claim_pages): Batch._refused_claim,
    (_MEMORY, abi.XENMEM_add_to_physmap_batch): Batch._refused_batch,
    (_GRANTS, GNTTABOP_cache_flush): Batch._refused_flush,
    (_GRANTS, GNTTABOP_copy): Batch._refused_copy,
    (_GRANTS, GNTTABOP_unmap_grant_ref): Batch._refused_unmap,
    (_GRANTS, GNTTABOP_unmap_and_replace): Batch._refused_unmap,
}
"""Why a call is left out, by hypercall and operation."""


class Guests(Grammar):
    """The grammar, for domains that have a payload.

    batch: where stimuli go; only: the one domain that acts, or None for all.
    """

    def __init__(self, batch: Batch, rng: random.Random, weights: dict[str, float] | None = None,
                 only: int | None = None) -> None:
        chosen = weights or (CALM if only is None else ALONE)
        super().__init__(batch, rng, chosen)
        self.twins = batch.twins
        self._arguments: dict[int, int] = {}
        self.payloads = {only} if only is not None else set(batch.twins.kept)

    def arguments(self, domain: Domain) -> int:
        """The first guest frame of its argument pages: others, mostly, when it has lost them."""
        first = self._arguments.get(domain.id, super().arguments(domain))
        if self._are_its_own(domain, first) or self.rng.random() < LOST:
            return first
        start, kept = self.pages_of(domain)[0], self.twins.kept.get(domain.id, range(0))
        for page in range(start, kept.start - ARGUMENT_PAGES, ARGUMENT_PAGES):
            if self._are_its_own(domain, page):
                self._arguments[domain.id] = page
                return page
        return first

    @staticmethod
    def _are_its_own(domain: Domain, first: int) -> bool:
        """Argument pages from a guest frame on are RAM that the domain can write."""
        return all(domain.p2m.find(first + i)[1] == abi.p2m_ram_rw for i in range(ARGUMENT_PAGES))

    def runners(self) -> list[Domain]:
        """The domains that run now, and have a payload."""
        return [domain for domain in super().runners() if domain.id in self.payloads]


CALM: Final[dict[str, float]] = {**WEIGHTS, "kill": 0.6, "caches": 0.1}
"""Weights for real Xen: fewer of what the specification takes long for."""
ALONE: Final[dict[str, float]] = {name: weight for name, weight in CALM.items()
                                  if name not in {"limits", "build", "kill", "claim"}}
"""Weights for one domU alone: without what only dom0 may do."""

__all__ = ["ALONE", "CALM", "LEFT_OUT", "Batch", "Given", "Guests", "Taken", "foreseen"]
