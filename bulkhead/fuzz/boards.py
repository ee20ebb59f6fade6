"""Small machines for the fuzzer: the banks and widths of an emulated board, little RAM, small domains.

Each board comes in several flavours, so that limits, versions and policies are all met: a full heap, a short stage-2
pool, few maptrack frames, grant tables of version 2, SILO, an IOMMU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import attrs

from bulkhead.problems import BadInputError
from impl.boards.board import Board
from impl.boards.catalogue import CATALOGUE, load
from impl.boards.problems import BadBoard
from impl.boards.ram import Bank, Ram
from impl.fast.machine import Config, DomainConfig, Machine

MB: Final = 1 << 20
FIRST_BANK: Final = 20 * MB
"""RAM that is kept of a board's first bank; enough for two domains with a block of 2 MB each."""
LARGE_BANK: Final = 48 * MB
"""The same where every VMID is to be given to a domain with tables of its own."""
OTHER_BANK: Final = 2 * MB
"""RAM that is kept of each further bank: the frame numbers stay as far apart as on the board."""
DOMU_BASE: Final = 0x40000
"""First guest frame of a domU's RAM."""
DEVICE_FRAMES: Final = 64
"""Frames of a device that dom0 may map, and may give away."""
DOM0_PAGES: Final = 256
FLAVOURS: Final = 6
"""How many flavours a board has."""

MachineFactory = Callable[[Ram, Config], Machine]


@attrs.frozen
class Scenario:
    """One machine to fuzz: a board's name, and which flavour of it, 0..FLAVOURS-1."""

    board: str
    flavour: int = 0

    @property
    def name(self) -> str:
        """As it stands in reports."""
        return f"{self.board}/{self.flavour}"


Place: TypeAlias = Scenario | tuple[tuple[Bank, ...], Config]
"""Where histories happen: a scenario, or RAM and a configuration."""


def board_names() -> tuple[str, ...]:
    """The boards that come with the project."""
    return tuple(entry.name for entry in CATALOGUE)


def find_board(name: str) -> Board:
    """The board of that name. Errors: BadInputError."""
    try:
        return load(name)
    except BadBoard as problem:
        raise BadInputError(str(problem)) from None


def scenarios(names: tuple[str, ...]) -> tuple[Scenario, ...]:
    """Every flavour of the boards, one flavour of each board after the other. Errors: BadInputError."""
    for name in names:
        find_board(name)
    return tuple(Scenario(name, flavour) for flavour in range(FLAVOURS) for name in names)


def banks(board: Board, flavour: int = 0) -> tuple[Bank, ...]:
    """The board's banks, each cut to a few MB."""
    first = LARGE_BANK if flavour == 5 else FIRST_BANK
    return tuple(Bank(bank.base, min(bank.size, OTHER_BANK if number else first))
                 for number, bank in enumerate(board.banks))


def device(board: Board) -> int:
    """The first frame of a device that no RAM overlaps: a UART's, else what lies below RAM."""
    for uart in board.uarts:
        return uart.region.base >> 12
    return (board.banks[0].base >> 12) - DEVICE_FRAMES


@functools.cache
def configuration(scenario: Scenario) -> tuple[tuple[Bank, ...], Config]:
    """RAM and configuration of a scenario.

    dom0 (1:1, hardware and control), domU 1 (device model of domU 2), domU 2, and domU 3 with two vCPUs and a short
    stage-2 pool. Errors: BadInputError.
    """
    board = find_board(scenario.board)
    flavour = scenario.flavour
    arm64 = board.architecture == "arm64"
    mmio = device(board)
    gic: Any = None
    if board.gic.version == 2 and board.gic.cpu is not None and board.gic.virtual_cpu is not None:
        gic = (0x3002, board.gic.cpu.base >> 12, board.gic.virtual_cpu.base >> 12, 2)
    tight = flavour == 1
    domains = (
        DomainConfig(0, DOM0_PAGES, vcpus=2, privileged=True, is_hardware=True, direct_map=True,
                     max_pages=DOM0_PAGES + 512, iomem=((mmio, DEVICE_FRAMES),), iommu=flavour == 4,
                     devices=((mmio, mmio, 1),)),
        DomainConfig(1, 512 + 48, base_gfn=DOMU_BASE, max_pages=600 if tight else 2000, target=2, p2m_pool_pages=40),
        DomainConfig(2, 128, base_gfn=DOMU_BASE, max_pages=160 if tight else 1200, p2m_pool_pages=32),
        DomainConfig(3, 64, base_gfn=DOMU_BASE + 0x100, vcpus=2, max_pages=96, p2m_pool_pages=16,
                     iomem=((mmio, 2),) if flavour == 2 else ()),
    )
    return banks(board, flavour), Config(
        arch="arm64" if arm64 else "arm32",
        pa_bits=board.pa_bits,
        vmid_bits=16 if board.vmid_bits == 16 else 8,
        xsm="silo" if flavour in {3, 5} else "dummy",
        grant_max_version=2 if flavour in {2, 4, 5} else 1,
        opt_max_grant_frames=(6, 3, 12, 4, 6, 20)[flavour],
        opt_max_maptrack_frames=(3, 1, 2, 3, 3, 2)[flavour],
        grant_transitive=flavour != 5,
        iommu_shares_p2m=flavour == 4,
        scrub_domheap=flavour == 3,
        xen_pages=16,
        xenheap_pages=None if arm64 else 512,
        gic_version=3 if board.gic.version == 3 else 2,
        gic_frames=gic if flavour in {0, 4} else None,
        iommu=flavour == 4,
        vpmu=flavour == 2,
        cache_line=32 if flavour == 4 else 64,
        domains=domains,
    )


def boot(scenario: Place, factory: MachineFactory | None = None) -> Machine:
    """The implementation's machine of a scenario, or of RAM and configuration, when its first guest instruction runs.

    factory: what makes the machine, for one with a flaw built in (None: `Machine`). Errors: BadInputError.
    """
    ram, config = configuration(scenario) if isinstance(scenario, Scenario) else scenario
    return (factory or Machine)(Ram(ram), config)


__all__ = ["FLAVOURS", "MachineFactory", "Place", "Scenario", "banks", "board_names", "boot", "configuration", "device",
           "find_board", "scenarios"]
