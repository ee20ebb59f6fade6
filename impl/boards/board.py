"""An emulated board: all that the implementation needs to know of the hardware below Xen."""

from __future__ import annotations

import json
from typing import Any

import attrs

from impl.boards.platforms import Bringup
from impl.boards.ram import Bank, Ram
from impl.boards.stage2 import Stage2
from impl.boards.tree import Interrupt, Region


@attrs.frozen
class Cpu:
    """One processor.

    mpidr: affinity as in MPIDR (Aff3 in bits 39:32, Aff2..Aff0 in bits 23:0).
    kind: its compatible string.
    method: enable method that Xen would use: ``boot`` for the CPU that Xen starts on, ``psci``, ``spin-table``,
    ``platform``, or ``none``; release_address: physical address of its spin-table word, or None.
    online: Xen starts it; note: why not, or an empty text.
    """

    mpidr: int
    kind: str
    method: str
    release_address: int | None
    online: bool
    note: str = ""


@attrs.frozen
class Gic:
    """The interrupt controller, with the sizes that Xen works with.

    version: 2 or 3.
    distributor: GICD.
    cpu, hypervisor, virtual_cpu: GICC, GICH and GICV; always there for version 2; for version 3 where it can serve
    guests with a GICv2, else None.
    redistributors: GICR, empty for version 2; redistributor_stride: bytes, 0 where the hardware says.
    its: interrupt translation services; v2m: message frames of a GICv2.
    maintenance: the interrupt of the list registers.
    """

    version: int
    distributor: Region
    cpu: Region | None
    hypervisor: Region | None
    virtual_cpu: Region | None
    redistributors: tuple[Region, ...]
    redistributor_stride: int
    its: tuple[Region, ...]
    v2m: tuple[Region, ...]
    maintenance: Interrupt

    @property
    def regions(self) -> tuple[tuple[str, Region], ...]:
        """Every region with the name that Arm gives it."""
        named = [("GICD", self.distributor), ("GICC", self.cpu), ("GICH", self.hypervisor), ("GICV", self.virtual_cpu)]
        named += [("GICR", one) for one in self.redistributors]
        named += [("ITS", one) for one in self.its] + [("V2M", one) for one in self.v2m]
        return tuple((name, one) for name, one in named if one is not None)


@attrs.frozen
class Timers:
    """The generic timer of each CPU: four PPIs, and the frequency in Hz (None: CNTFRQ says)."""

    secure: Interrupt
    physical: Interrupt
    virtual: Interrupt
    hypervisor: Interrupt
    frequency: int | None


@attrs.frozen
class Uart:
    """A UART that Xen has a driver for.

    kind: its compatible string; region: of its registers; reg_shift: registers lie 2**reg_shift bytes apart.
    interrupt: None where Xen finds none at the GIC; console: the tree names it for output.
    """

    kind: str
    region: Region
    interrupt: Interrupt | None
    reg_shift: int
    console: bool


@attrs.frozen
class Psci:
    """Firmware that starts and stops CPUs.

    version: ``0.1``, ``0.2`` or ``1.0``, as the tree says; method: ``smc`` or ``hvc``.
    cpu_on: number of the call (32 bits for 0.1 and for arm32, 64-bit convention for arm64).
    usable: Xen uses it (it must be called by SMC).
    """

    version: str
    method: str
    cpu_on: int | None
    usable: bool


@attrs.frozen
class Smmu:
    """A system MMU.

    kind: its compatible string; region: of its registers; interrupts: at the GIC, at most 16.
    driver: Xen 4.17 with its default configuration has a driver (SMMU v1 and v2; v3 only as a technology preview).
    """

    kind: str
    region: Region
    interrupts: tuple[Interrupt, ...]
    driver: bool


@attrs.frozen
class Board:
    """A board that Xen 4.17 starts on.

    name: of the entry or file; model, compatible: of the tree's root.
    architecture: ``arm32`` or ``arm64``; cpu_kind: of the boot CPU.
    pa_bits: width of a physical address; vmid_bits: 8 or 16; stage2: the geometry that Xen chooses.
    banks: RAM, whole frames, ascending and disjoint; reserved: ranges that Xen gives to
    nobody, ascending; they may lie outside of RAM, or overlap.
    platform: Xen's name; bringup, reset, dom0_maps, hidden, quirks: as of `impl.boards.platforms.Platform`.
    """

    name: str
    model: str
    compatible: tuple[str, ...]
    architecture: str
    cpus: tuple[Cpu, ...]
    cpu_kind: str
    pa_bits: int
    vmid_bits: int
    stage2: Stage2
    banks: tuple[Bank, ...]
    reserved: tuple[Region, ...]
    gic: Gic
    timers: Timers
    uarts: tuple[Uart, ...]
    psci: Psci | None
    smmus: tuple[Smmu, ...]
    platform: str
    bringup: Bringup
    reset: str
    dom0_maps: tuple[Region, ...]
    hidden: tuple[str, ...]
    quirks: tuple[str, ...]

    @property
    def ipa_bits(self) -> int:
        """Width of a guest's physical address."""
        return self.stage2.ipa_bits

    @property
    def ram_size(self) -> int:
        """Bytes of RAM in all banks."""
        return sum(bank.size for bank in self.banks)

    @property
    def console(self) -> Uart | None:
        """The UART that Xen writes to unless its command line says otherwise."""
        return next((uart for uart in self.uarts if uart.console), None)

    @property
    def online(self) -> tuple[Cpu, ...]:
        """The CPUs that Xen starts, the boot CPU first."""
        return tuple(cpu for cpu in self.cpus if cpu.online)

    def ram(self) -> Ram:
        """New memory for the board, all zero.

        Errors: BadBank if the host refuses to map so much address space.
        """
        return Ram(self.banks)

    def facts(self) -> dict[str, Any]:
        """All of it as the values that JSON has; addresses and sizes in bytes, interrupts as INTIDs."""
        plain: dict[str, Any] = json.loads(json.dumps(attrs.asdict(self)))
        return plain
