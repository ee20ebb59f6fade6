"""The machines of a campaign on real Xen, and their twins: specification and ``impl.fast`` in the state of Xen's boot.

The twin of ``impl.fast`` only foresees: the grammar of guests looks at it to know what makes sense, and it tells how
many choices Xen has to make. The specification is what Xen is compared with.

Frames of domains have the machine addresses that they have in Xen, read from its tables. Frames that Xen keeps for
itself, or that no table shows, have made-up names: those of a second bank of RAM, which real Xen does not have.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import attrs
import numpy as np

from bulkhead.conformance.devices import Window, with_windows
from bulkhead.conformance.records import records_of
from bulkhead.conformance.stage2 import Leaf, Tracker, row
from bulkhead.oracle.machine import Oracle
from bulkhead.oracle.state_of import oracle_of, shape_of
from impl.boards.ram import Bank, Ram
from impl.fast import abi, domctl
from impl.fast import boot as fast_boot
from impl.fast.frames import Frames
from impl.fast.machine import Config as FastConfig
from impl.fast.machine import DomainConfig
from impl.fast.machine import Machine as FastMachine
from impl.fast.projection import project_p2m
from impl.xen.config import Config, Guest
from impl.xen.errors import Refused
from impl.xen.kinds import KINDS, Kind
from impl.xen.machine import Machine
from impl.xen.tables import DEVICE_TYPES
from spec.language import Index, put

MADE_UP: Final = 0x1A0000
"""First frame of the bank of made-up names; above the RAM of every kind, and no number that guests like to try."""
MADE_UP_FRAMES: Final = 1 << 18
PAGES: Final = 2048
FLAVOURS: Final = 4
_DEVICE: Final = {"arm64-gicv2": 0x100, "arm64-gicv3": 0x100, "armhf-virt": 0x100, "vexpress-a15": 0x1C0A0}
"""A frame of flash (Versatile Express: of a UART), which dom0 may map elsewhere, and give to others."""
_PA_BITS: Final = {"arm64": 44, "armhf": 40}


@attrs.frozen
class Place:
    """A machine of a campaign: a kind of `impl.xen.kinds.KINDS`, and which flavour of it, 0..FLAVOURS-1."""

    kind: str
    flavour: int = 0

    @property
    def name(self) -> str:
        """As it stands in reports."""
        return f"{self.kind}/{self.flavour}"


def places(kinds: tuple[str, ...] = ()) -> tuple[Place, ...]:
    """Every flavour of the kinds (none: of all), one flavour of each after the other. Errors: Refused."""
    for name in kinds:
        if name not in KINDS:
            raise Refused(f"there is no machine {name!r}: it is one of {', '.join(KINDS)}")
    return tuple(Place(kind, flavour) for flavour in range(FLAVOURS) for kind in kinds or tuple(KINDS))


def configuration(place: Place) -> Config:
    """How real Xen is booted: dom0 and three domUs, the third with two vCPUs and a short pool of tables.

    Frames come to domains scrubbed: which one comes is Xen's choice, so nobody knows what an earlier owner has left.
    Xen is to say nothing of what guests do wrong: its console takes longer than its answers.
    """
    flavour = place.flavour
    tight = flavour == 3
    guests = (Guest(PAGES, max_pages=PAGES + (40 if tight else 1500)), Guest(PAGES, max_pages=PAGES + 1100),
              Guest(PAGES, vcpus=2, max_pages=PAGES + 32, pool_pages=20))
    return Config(
        place.kind, guests=guests, dom0_pages=PAGES, xsm="silo" if flavour == 2 else "dummy",
        grant_max_version=1 if flavour == 0 else 2, opt_max_grant_frames=(6, 12, 4, 3)[flavour],
        opt_max_maptrack_frames=(3, 2, 3, 1)[flavour], grant_transitive=not tight, scrub_domheap=True,
        options="guest_loglvl=none")


def twin_configuration(config: Config, kind: Kind, window: tuple[int, int, int, int] | None) -> FastConfig:
    """The same for `impl.fast`. window: where GICC is mapped, as `gic_frames` of its configuration."""
    device = _DEVICE[kind.name]
    domains = [DomainConfig(0, config.dom0_pages, privileged=True, is_hardware=True, direct_map=True,
                            iomem=((device, 1),))]
    domains += [DomainConfig(number, guest.pages, vcpus=guest.vcpus, max_pages=guest.max_pages,
                             p2m_pool_pages=guest.pool_pages, width=guest.width)
                for number, guest in enumerate(config.guests, 1)]
    return FastConfig(
        arch="arm64" if kind.arch == "arm64" else "arm32", pa_bits=config.pa_bits or _PA_BITS[kind.arch],
        xsm=config.xsm, grant_max_version=2 if config.grant_max_version == 2 else 1,
        opt_max_grant_frames=config.opt_max_grant_frames, opt_max_maptrack_frames=config.opt_max_maptrack_frames,
        grant_transitive=config.grant_transitive, scrub_domheap=config.scrub_domheap,
        xenheap_pages=None if kind.arch == "arm64" else 8192, gic_version=3 if kind.gic == 3 else 2,
        gic_frames=window, vpmu=True, domains=domains)


class _MadeUpFirst(Frames):
    """Frames are made-up ones as long as there are any: never one of Xen's whose use nobody knows."""

    def _free_buddy(self, zone_lo: int, zone_hi: int, order: int, unscrubbed: bool) -> tuple[int, int] | None:
        zone = MADE_UP.bit_length()
        found = None
        if zone_lo <= zone <= zone_hi:
            found = (super()._free_buddy(zone, zone, order, unscrubbed)
                     or super()._free_buddy(zone, zone, order, unscrubbed=True))
        return found or super()._free_buddy(zone_lo, zone_hi, order, unscrubbed)


class _Twin(FastMachine):
    """Foresees what real Xen will do, with other frames."""

    allocator = _MadeUpFirst


class Twins:
    """Real Xen, just booted, and both twins in its state.

    xen: booted from `configuration`. trackers: of each domain's tables; kept: first and one more than the last frame
    that a domain's payload keeps, as a range of gfns; kept_frames: the machine frames behind them.
    records: Xen's own, None without its symbols; windows: dom0's devices; placed: guest frame at which each handle
    (domain, number) was mapped.
    Errors: Refused if the twins cannot be brought into Xen's state.
    """

    def __init__(self, xen: Machine) -> None:
        self.xen = xen
        kind = xen.kind
        self.trackers = {domain: Tracker(xen.qemu.words, kind.ram_base, xen.roots(domain)) for domain in xen.domains}
        self.kept = {domain: range(low >> 12, high >> 12)
                     for domain, (low, high) in ((each, xen.kept(each)) for each in xen.domains)}
        self.records = records_of(xen)
        self.windows: list[Window] = []
        self.placed: dict[tuple[int, int], int] = {}
        facts = {domain: self._facts(domain) for domain in xen.domains}
        with xen.qemu.stopped():
            for tracker in self.trackers.values():
                tracker.update()
        self._leaves = {number: tracker.leaves() for number, tracker in self.trackers.items()}
        self._permitted = self._permissions()
        with xen.qemu.stopped():
            config = twin_configuration(xen.config, kind, self._window())
            self.fast = self._build(config, facts)
            self._contents()
        self._homes = {(domain, gfn): self.fast.domains[domain].p2m.find(gfn)[0]
                       for domain, kept in self.kept.items() for gfn in kept}
        self.kept_frames = frozenset(self._homes.values())
        self.oracle = self._oracle()
        self._leaves.clear()

    def tracker(self, domain: int) -> Tracker | None:
        """The tables of a domain; of one that was made at run time, as Xen's records had them last."""
        made = self.records.made if self.records is not None else {}
        return self.trackers.get(domain) or made.get(domain)

    def update(self) -> dict[int, dict[int, int]]:
        """Read Xen's tables, while the machine stands still: what changed in those of each domain."""
        changed = {domain: tracker.update() for domain, tracker in self.trackers.items()}
        if self.records is not None:
            changed.update(self.records.update())
        return changed

    def is_made_up(self, name: int) -> bool:
        """A name of the bank that real Xen does not have, or of arm32's own heap, from which domains get nothing."""
        heap = self.fast.frames.xenheap
        return MADE_UP <= name < MADE_UP + MADE_UP_FRAMES or (heap is not None and heap[0] <= name < sum(heap))

    def payloads_whole(self) -> bool:
        """Every payload's own pages are still where they were, as far as the twin knows."""
        domains = self.fast.domains
        return all(domain not in domains or domains[domain].p2m.find(gfn)[0] == mfn
                   for (domain, gfn), mfn in self._homes.items())

    def _facts(self, domain: int) -> tuple[int, int, int]:
        """(current pages, greatest number, highest gfn) of a domain, as Xen tells it."""
        program = self.xen.program(domain)
        address = self.xen.ram(domain)[0]
        program.put(address, struct.pack("<Q", abi.DOMID_SELF))
        items = [program.hypercall(abi.HYPERCALL_MEMORY_OP, operation, address) for operation in (
            abi.XENMEM_current_reservation, abi.XENMEM_maximum_reservation, abi.XENMEM_maximum_gpfn)]
        run = self.xen.run(domain, 0, program)
        if run.loss is not None:
            raise Refused(f"domain {domain} did not answer: {run.loss.reason}")
        return tuple(run.result(item) for item in items)  # type: ignore[return-value]

    def _permissions(self) -> set[int]:
        """First frames of dom0's devices that it may give to others: a frame buffer in reserved memory is none."""
        found = set()
        for first, leaves in _runs(self._leaves[0]):
            frames = sum(leaf.frames for leaf in leaves)
            if first.type in DEVICE_TYPES and self._may_give(first.mfn, frames):
                found.add(first.mfn)
                # Xen permits one frame too many
                if self._may_give(first.mfn + frames, 1):
                    self.windows.append(Window(range(first.mfn + frames, first.mfn + frames + 1), 0))
        return found

    def _may_give(self, mfn: int, frames: int) -> bool:
        """dom0 may give all of a range: it gives it to itself."""
        return self.xen.domctl(domctl.IOMEM_PERMISSION, 0, struct.pack("<QQB", mfn, frames, 1)) == 0

    def _window(self) -> tuple[int, int, int, int] | None:
        """Where domUs, and dom0, have the virtual interface of a GICv2."""
        found = [leaf for leaf in self._leaves[1] if leaf.type in DEVICE_TYPES]
        if not found:
            return None
        first = min(found, key=lambda leaf: leaf.gfn)
        own = next(leaf.gfn for leaf in self._leaves[0] if leaf.mfn == first.mfn)
        return first.gfn, own, first.mfn, len(found)

    def _build(self, config: FastConfig, facts: dict[int, tuple[int, int, int]]) -> FastMachine:
        kind = self.xen.kind
        banks = Bank(kind.ram_base, kind.ram_size), Bank(MADE_UP << 12, MADE_UP_FRAMES << 12)
        machine = _Twin(Ram(banks), attrs.evolve(config, domains=()))
        machine.config = config
        # where QEMU puts Xen is elsewhere: it does not own the start of RAM
        machine.frames.add_to_heap(*machine.xen_frames)
        machine.max_page = kind.ram_base + kind.ram_size >> 12
        machine.max_page_bits = (machine.max_page - 1).bit_length() + 12
        for wanted in config.domains:
            pages, most, highest = facts[wanted.domid]
            fast_boot._build(machine, attrs.evolve(wanted, pages=0, max_pages=most))
            self._map(machine, wanted.domid)
            domain = machine.domains[wanted.domid]
            domain.p2m.max_mapped_gfn = highest
            if domain.tot_pages != pages:
                raise Refused(f"domain {domain.id} has {pages} pages, of which its tables show {domain.tot_pages}")
        for domain in machine.domains.values():
            fast_boot.unpause(machine, domain)
            self._validate(machine, domain.id)
        machine.memory.begin()
        machine.frames.choices.clear()
        return machine

    def _map(self, machine: FastMachine, number: int) -> None:
        """Give a domain what Xen's tables show that it has."""
        domain = machine.domains[number]
        for first, leaves in _runs(self._leaves[number]):
            if first.type in DEVICE_TYPES:
                frames = range(first.mfn, first.mfn + sum(leaf.frames for leaf in leaves))
                if number == 0 and first.gfn == first.mfn:
                    self.windows.append(Window(frames, first.type, frames.start in self._permitted))
                elif domain.p2m.insert(first.gfn, len(frames), first.mfn, first.type):
                    raise Refused(f"domain {number}: its device at {first.gfn:#x} cannot be mapped")
                continue
            for leaf in leaves:
                order = leaf.frames.bit_length() - 1
                machine.force([("frame", leaf.mfn)])
                if machine.frames.alloc_domheap(domain, order) != leaf.mfn or domain.p2m.insert(
                        leaf.gfn, leaf.frames, leaf.mfn, leaf.type):
                    raise Refused(f"domain {number}: frame {leaf.mfn:#x} of its RAM cannot be had by its twin")

    def _validate(self, machine: FastMachine, number: int) -> None:
        """The payload ran already: what it touched is valid for the hardware again."""
        p2m = machine.domains[number].p2m
        leaves = [leaf for leaf in self._leaves[number] if p2m.find(leaf.gfn)[1]]
        for leaf in leaves:
            # a level of its tables after the other
            while leaf.valid and p2m.walk(leaf.gfn << 12, write=False).fault and p2m.resolve_translation_fault(
                    leaf.gfn):
                pass
        made = project_p2m(machine.domains[number])
        for gfn, leaf in ((leaf.gfn, leaf) for leaf in leaves if leaf.type not in DEVICE_TYPES):
            own = made.get((number, gfn))
            if own != row(leaf):
                raise Refused(f"domain {number}: Xen maps gfn {gfn:#x} as {row(leaf)}, its twin as {own}")

    def _contents(self) -> None:
        """What RAM holds after boot, the payload's own pages apart."""
        base, ram = self.xen.kind.ram_base, self.xen.qemu.words
        for number, leaves in self._leaves.items():
            kept = self.kept[number]
            for leaf in leaves:
                if leaf.type in DEVICE_TYPES:
                    continue
                start = (leaf.mfn << 12) - base >> 3
                pages = ram[start:start + 512 * leaf.frames].reshape(-1, 512)
                for index in np.flatnonzero(pages.any(axis=1)).tolist():
                    if leaf.gfn + index not in kept:
                        self.fast.memory.write(leaf.mfn + index, 0, pages[index].tobytes())
        self.fast.memory.begin()

    def _oracle(self) -> Oracle:
        """The specification in the same state; dom0's devices then are in both twins."""
        oracle = oracle_of(self.fast)
        # RAM ends where the real bank does
        oracle.state = put(oracle.state, "settings", Index(0), max_page=self.fast.max_page)
        oracle.host = attrs.evolve(oracle.host, ram=tuple(reversed(oracle.host.ram)))
        oracle.state = with_windows(oracle.state, tuple(self.windows), oracle.logs)
        dom0 = self.fast.domains[0]
        highest = dom0.p2m.max_mapped_gfn
        for window in self.windows:
            first, frames = window.frames.start, len(window.frames)
            if window.permitted:
                dom0.permit_iomem(first, first + frames - 1)
            if window.type and dom0.p2m.insert(first, frames, first, window.type):
                raise Refused(f"domain 0: its device at {first:#x} cannot be mapped")
        dom0.p2m.max_mapped_gfn = highest
        oracle.shapes = oracle.shapes.set(0, shape_of(dom0))
        self.fast.memory.begin()
        self.fast.frames.choices.clear()
        return oracle


def _runs(leaves: list[Leaf]) -> list[tuple[Leaf, list[Leaf]]]:
    """Leaves that follow each other in guest and machine addresses, with the same type: (the first, all)."""
    found: list[tuple[Leaf, list[Leaf]]] = []
    for leaf in leaves:
        if found:
            last = found[-1][1][-1]
            if (last.gfn + last.frames, last.mfn + last.frames, last.type) == (leaf.gfn, leaf.mfn, leaf.type):
                found[-1][1].append(leaf)
                continue
        found.append((leaf, [leaf]))
    return found


def boot(place: Place, installation: Any = None) -> Twins:
    """A machine with its twins. Errors: NotSetUp, BootFailed, Refused."""
    xen = Machine(configuration(place), installation)
    try:
        return Twins(xen)
    except BaseException:
        xen.close()
        raise


__all__ = ["FLAVOURS", "MADE_UP", "Place", "Twins", "boot", "configuration", "places", "twin_configuration"]
