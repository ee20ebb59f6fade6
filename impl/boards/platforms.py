"""What Xen 4.17 knows of platforms beyond their device tree.

Source: xen/arch/arm/platforms/*.c; which files are built for which architecture: its Makefile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from impl.boards.tree import Region

PAGE = 4096


@attrs.frozen
class Bringup:
    """How the other CPUs are started.

    method: ``psci`` (a call of the firmware), ``spin-table`` (a 64-bit entry address at each CPU's release address,
    then an event), ``sys-flags``, ``sysram``, ``aux-core-boot`` or ``icram`` (a 32-bit entry address at `address`),
    ``mixed`` (not all CPUs alike), or ``none``.
    address: where the entry address is written, for the methods of a platform; else None.
    interrupt: an SGI is sent to the CPU afterwards.
    """

    method: str
    address: int | None = None
    interrupt: bool = False


@attrs.frozen
class Platform:
    """A platform that Xen has code for.

    name: Xen's own; architectures: for which its code is built; compatible: of the root node.
    bringup: of the other CPUs where there is no PSCI (arm32 only); None: PSCI alone.
    reset: how Xen resets the board, in words.
    maps: regions that dom0 gets beside those in the tree; hidden: compatible strings of nodes that dom0 does not see.
    quirks: peculiarities of the hardware that Xen handles, in words.
    stride_64k: the GIC's frames lie 64 KB apart (PLATFORM_QUIRK_GIC_64K_STRIDE).
    """

    name: str
    architectures: tuple[str, ...]
    compatible: tuple[str, ...]
    bringup: Bringup | None = None
    reset: str = ""
    maps: tuple[Region, ...] = ()
    hidden: tuple[str, ...] = ()
    quirks: tuple[str, ...] = ()
    stride_64k: bool = False


_EXYNOS_RESET = "write 1 at 0x400 of the power management unit"
_EXYNOS_HIDDEN = ("samsung,exynos4210-mct", "samsung,secure-firmware")
_MCT = "Xen starts the free-running counter: bit 8 of G_TCON, at 0x240 of the multi-core timer"
_UART_PAGE = "all UARTs are hidden from dom0: they share a page with Xen's"
_OMAP_COUNTER = "Xen programs the real-time counter at 0x48243200 from the clock that it reads at 0x4ae06110"
_OMAP_BRINGUP = Bringup("aux-core-boot", 0x48281804, interrupt=True)

GENERIC: Final = Platform("Generic System", ("arm32", "arm64"), ())

PLATFORMS: Final = (
    Platform(
        "VERSATILE EXPRESS", ("arm32",), ("arm,vexpress",),
        bringup=Bringup("sys-flags", 0x1C010030, interrupt=True),
        reset="write 3 at 0x1c020000, then 1 at 0x1c020004 (SP810)",
        hidden=("arm,cci-400", "arm,cci-400-pmu", "arm,hdlcd", "arm,vexpress-reset", "arm,vexpress-reboot",
                "arm,vexpress-shutdown"),
    ),
    Platform("Broadcom B15", ("arm32",), ("brcm,bcm7445d0",)),
    Platform(
        "SAMSUNG EXYNOS5250", ("arm32",), ("samsung,exynos5250",),
        bringup=Bringup("sysram", interrupt=True), reset=_EXYNOS_RESET,
        maps=(Region(0x10000000, PAGE), Region(0x12DD0000, 2 * PAGE)), hidden=_EXYNOS_HIDDEN, quirks=(_MCT,),
    ),
    Platform(
        "SAMSUNG EXYNOS5", ("arm32",), ("samsung,exynos5410",),
        bringup=Bringup("sysram", interrupt=True), reset=_EXYNOS_RESET, hidden=_EXYNOS_HIDDEN,
        quirks=(_MCT, "a CPU that is off is switched on through the power management unit, at most 10 times 1 ms"),
    ),
    Platform("CALXEDA MIDWAY", ("arm32",), ("calxeda,ecx-2000",)),
    Platform(
        "TI OMAP5", ("arm32",), ("ti,omap5",), bringup=_OMAP_BRINGUP,
        maps=(Region(0x4AE06000, 2 * PAGE), Region(0x48243000, PAGE), Region(0x48281000, PAGE),
              Region(0x40300000, 32 * PAGE)),
        quirks=(_OMAP_COUNTER,),
    ),
    Platform("TI DRA7", ("arm32",), ("ti,dra7",), bringup=_OMAP_BRINGUP, quirks=(_OMAP_COUNTER,)),
    Platform("Renesas R-Car Gen2", ("arm32",), ("renesas,lager",),
             bringup=Bringup("icram", 0xE63C0FFC, interrupt=True)),
    Platform("SEATTLE", ("arm64",), ("amd,seattle",), reset="PSCI SYSTEM_RESET"),
    Platform(
        "Allwinner ARMv7", ("arm32", "arm64"),
        ("allwinner,sun6i-a31", "allwinner,sun6i-a31s", "allwinner,sun7i-a20", "allwinner,sun8i-a23",
         "allwinner,sun8i-a33", "allwinner,sun8i-h2-plus", "allwinner,sun8i-h3"),
        reset="through the watchdog", hidden=("snps,dw-apb-uart",), quirks=(_UART_PAGE,),
    ),
    Platform(
        "Allwinner ARMv8", ("arm32", "arm64"),
        ("allwinner,sun50i-a64", "allwinner,sun50i-h5", "allwinner,sun50i-h6"),
        reset="PSCI", hidden=("snps,dw-apb-uart",), quirks=(_UART_PAGE,),
    ),
    Platform("THUNDERX", ("arm64",), ("cavium,thunder-88xx",), hidden=("cavium,smmu-v2",)),
    Platform(
        "APM X-GENE STORM", ("arm64",), ("apm,xgene-storm",), reset="write 1 at 0x17000014",
        quirks=("the GIC's frames lie 64 KB apart: Xen takes GICC and GICV as 128 KB where GICC is given below 8 KB",
                "old firmware gives the secure GICD at 0x78010000: Xen refuses it"),
        stride_64k=True,
    ),
    Platform("Raspberry Pi 4", ("arm64",), ("brcm,bcm2711",),
             reset="through the watchdog of brcm,bcm2835-pm",
             hidden=("brcm,bcm2835-aux-spi", "brcm,bcm2835-aux", "brcm,bcm2835-pm")),
)


def find(machine: Sequence[str], architecture: str) -> Platform:
    """The first platform, in Xen's order, whose compatible strings the root node has; GENERIC where none has.

    machine: the root's compatible strings; architecture: ``arm32`` or ``arm64``.
    Source: platform_init.
    """
    mine = {text.lower() for text in machine}
    for platform in PLATFORMS:
        if architecture in platform.architectures and not mine.isdisjoint(platform.compatible):
            return platform
    return GENERIC
