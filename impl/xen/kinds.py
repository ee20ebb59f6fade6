"""The kinds of machine on which real Xen runs here: what QEMU is told, and where things lie.

Sources: QEMU 7.2 (hw/arm/virt.c, hw/arm/vexpress.c: maps of memory), fact sheet "boards"; the holes were tried out.
"""

from __future__ import annotations

from typing import Final

import attrs

from impl.xen.errors import Refused
from impl.xen.install import Arch

MEGABYTE: Final = 1 << 20


@attrs.frozen
class Kind:
    """A kind of machine.

    arch: Debian's name of Xen's architecture; gic: version of the interrupt controller; machine: QEMU's -M;
    processors: QEMU's -cpu by the width of physical addresses in bits, the usual one first ("": the board's own);
    ram_base: machine address; ram_size: bytes; modules: where the guests' images are put, 1 MB apart;
    hole: a guest address of dom0 at which nothing is, with room for 16 MB; emulated: where Xen answers dom0 in place of
    the interrupt controller, as (address, bytes); base_tree: the board of ours from
    which Xen's device tree is made ("": from QEMU's own); arguments: more of Xen's command line.
    """

    name: str
    arch: Arch
    gic: int
    machine: str
    processors: dict[int, str]
    ram_base: int
    ram_size: int
    modules: int
    hole: int
    emulated: tuple[tuple[int, int], ...]
    base_tree: str = ""
    arguments: str = ""
    most_cpus: int = 8

    @property
    def width(self) -> int:
        """Bits of Xen's own registers."""
        return 64 if self.arch == "arm64" else 32

    @property
    def qemu(self) -> str:
        """The program."""
        return "qemu-system-aarch64" if self.arch == "arm64" else "qemu-system-arm"


GUEST_EMULATED: Final = {2: ((0x3001000, 0x1000),), 3: ((0x3001000, 0x10000), (0x3020000, 0x1000000))}
"""Where Xen answers a domU in place of the interrupt controller, by its version: (address, bytes).

Source: xen/include/public/arch-arm.h (GUEST_GICD_BASE and its fellows), xen/arch/arm/vgic-v2.c, vgic-v3.c.
"""
_VIRT: Final = {2: ((0x8000000, 0x1000),), 3: ((0x8000000, 0x10000), (0x80A0000, 0xF60000))}
_ARM64: Final = {44: "cortex-a57", 40: "cortex-a53", 48: "neoverse-n1"}

KINDS: Final = {kind.name: kind for kind in (
    Kind("arm64-gicv2", "arm64", 2, "virt,virtualization=on,gic-version=2", _ARM64,
         0x40000000, 1024 * MEGABYTE, 0x4A000000, 0x0D000000, _VIRT[2]),
    Kind("arm64-gicv3", "arm64", 3, "virt,virtualization=on,gic-version=3", _ARM64,
         0x40000000, 1024 * MEGABYTE, 0x4A000000, 0x0D000000, _VIRT[3]),
    Kind("armhf-virt", "armhf", 2, "virt,virtualization=on,gic-version=2", {40: "cortex-a15"},
         0x40000000, 1024 * MEGABYTE, 0x6A000000, 0x0D000000, _VIRT[2]),
    Kind("vexpress-a15", "armhf", 2, "vexpress-a15,secure=off,virtualization=on", {40: ""},
         0x80000000, 1024 * MEGABYTE, 0xAA000000, 0x50000000, ((0x2C001000, 0x1000),), "vexpress-a15",
         "dtuart=serial0", 2),
)}


def kind(name: str) -> Kind:
    """A kind by its name. Errors: Refused."""
    found = KINDS.get(name)
    if found is None:
        raise Refused(f"there is no machine {name!r}: it is one of {', '.join(KINDS)}")
    return found
