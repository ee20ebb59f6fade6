"""A bare processor under QEMU, with RAM from address 0 and nothing else, that translates addresses.

QEMU's machine "none" has a processor and RAM: whatever is not RAM answers with an external abort, so that every walk
has one answer.  The processor stands still unless it translates.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile
import time
from types import TracebackType
from typing import Final, Self

import attrs
import numpy as np
from numpy.typing import NDArray

from impl.boards.vendor import FetchError, run_tool
from impl.xen.errors import NotSetUp, QemuError
from impl.xen.mmu.par import Words
from impl.xen.qemu import Qemu

MEGABYTE: Final = 1 << 20
PAGE: Final = 4096
RAM: Final = 3074 * MEGABYTE
"""Bytes of RAM: more than where Xen's tables lie on QEMU's boards, and less than the least output size."""
RESERVED: Final = 64 * MEGABYTE
"""What lies below belongs to the payload: no table may be there."""
FREE: Final = 48 * MEGABYTE
"""From here to RESERVED the payload touches nothing: room for tables that the host adds."""
_CONTROL: Final = 0x10_0000
_LIST: Final = 0x20_0000
MOST: Final = 1 << 20
"""Addresses in one batch."""
_SECONDS: Final = 60.0
"""For one batch, on a busy machine."""
_PAUSE: Final = 0.0002
"""Seconds between two looks at whether a batch is done."""

READ, WRITE, FETCH = range(3)
"""What an address is translated for."""
VM, DC, RW = 1, 1 << 12, 1 << 31
"""HCR: stage 2 is on; the guest's memory is cacheable while stage 1 is off; EL1 is arm64."""
_SCTLR: Final = {False: 0x30D0_0800, True: 0x00C5_0078}
"""SCTLR_EL1, SCTLR: what reads as one, by arm32."""
_MMU_ON: Final = 1
HVC: Final = {False: 0xD400_0002, True: 0xE140_0070}
"""The instruction HVC #0, by arm32."""

SOURCE: Final = pathlib.Path(__file__).parent / "oracle.c"
_FLAGS: Final = (
    "-O2", "-std=gnu11", "-ffreestanding", "-fno-builtin", "-fno-pic", "-no-pie", "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables", "-mgeneral-regs-only", "-Wall", "-Wextra", "-Werror", "-nostdlib", "-static",
    "-Wl,-n,--build-id=none,--section-start=.head=0,-Ttext=0x2000,-e,_start,--no-warn-rwx-segments",
)


@attrs.frozen
class Processor:
    """A processor of QEMU.

    name: QEMU's -cpu.  arm32: it begins in Hyp mode.  pa_bits: of a machine address that the granule of 4 KB reaches
    [40..48].  version: of the architecture [7, 8].  va_bits: of an address while stage 1 is off [40..52].
    """

    name: str
    arm32: bool
    pa_bits: int
    version: int = 8
    va_bits: int = attrs.field()

    @va_bits.default
    def _same(self) -> int:
        return self.pa_bits

    @property
    def program(self) -> str:
        """QEMU's program."""
        return "qemu-system-arm" if self.arm32 else "qemu-system-aarch64"

    @property
    def label(self) -> str:
        """The name in reports: QEMU's "max" is two processors."""
        return f"{self.name} ({'arm32' if self.arm32 else 'arm64'})"


PROCESSORS: Final = (
    Processor("cortex-a35", False, 40), Processor("cortex-a53", False, 40), Processor("cortex-a57", False, 44),
    Processor("cortex-a72", False, 44), Processor("cortex-a76", False, 40), Processor("neoverse-n1", False, 48),
    Processor("a64fx", False, 40), Processor("max", False, 48, va_bits=52),
    Processor("cortex-a7", True, 40, 7), Processor("cortex-a15", True, 40, 7), Processor("max", True, 40),
)


@attrs.frozen
class FirstStage:
    """Stage 1 is on.  ttbr, tcr, mair: TTBR0_EL1, TCR_EL1, MAIR_EL1 (arm32: TTBR0, TTBCR, MAIR1:MAIR0)."""

    ttbr: int
    tcr: int
    mair: int


class Mmu:
    """A processor that waits for addresses.

    pages: RAM, uint64[pages, 512], for tables: what lies below ``RESERVED`` is the payload's.
    Errors: NotSetUp without QEMU or compiler; QemuError if it does not start.
    """

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        if shutil.which(processor.program) is None:
            raise NotSetUp(f"{processor.program} is not installed: run `make conformance-setup`")
        image = build(processor)
        self._qemu = Qemu([processor.program, "-M", "none", "-cpu", f"{processor.name},has_el3=off", "-accel", "tcg",
                           "-m", f"{RAM // MEGABYTE}M"], 0, RAM)
        self._qemu.bytes[:len(image)] = np.frombuffer(image, np.uint8)
        self.pages: NDArray[np.uint64] = self._qemu.words.reshape(-1, PAGE // 8)
        self._control = self._qemu.halves[_CONTROL >> 2:(_CONTROL >> 2) + 4]
        self._registers = self._qemu.words[(_CONTROL >> 3) + 2:(_CONTROL >> 3) + 11]
        self._list = self._qemu.words[_LIST >> 3:(_LIST >> 3) + 3 * MOST].reshape(-1, 3)
        self._run(3)

    @property
    def version(self) -> str:
        """Of QEMU, with that of its package."""
        said = self._qemu.monitor.command("query-version")
        number = ".".join(str(said["qemu"][each]) for each in ("major", "minor", "micro"))
        return f"{number} {said['package']}".strip()

    def clear(self) -> None:
        """Everything from ``FREE`` up is zero again, and the host's memory for it is given back."""
        for size in (FREE, RAM):
            self._qemu.resize_memory(size)

    def install(self, vtcr: int, vttbr: int, *, cached: bool = True, first: FirstStage | None = None,
                window: int = 0, vectors: int = 0) -> None:
        """Set the registers for what is translated next.

        vtcr, vttbr: VTCR_EL2, VTTBR_EL2 (VTCR, VTTBR).  first: stage 1 is on; without, it is off, and memory is then
        normal if ``cached`` (HCR.DC), else device.  window: arm32: machine address of the entry of stage 1 that leads
        from the first GB to any GB; addresses may then have 40 bits.  vectors: guest address of a page of HVC
        instructions, which the fetches of a batch need: where they succeed, anything may follow.
        """
        arm32 = self.processor.arm32
        hcr = VM | (0 if arm32 else RW) | (DC if cached and first is None else 0)
        sctlr = _SCTLR[arm32] | (_MMU_ON if first else 0)
        first = first or FirstStage(0, 0, 0)
        self._registers[:] = np.array([vttbr, vtcr, hcr, sctlr, first.tcr, first.ttbr, first.mair, window, vectors],
                                      np.uint64)

    def translate(self, addresses: Words, access: NDArray[np.uint8]) -> tuple[Words, Words]:
        """Translate; PAR and syndrome of each, as ``par.decode`` takes them.

        addresses: uint64[n, bytes], n up to ``MOST``; arm32: of 32 bits, or with a window of 40.
        access: uint8[n], READ, WRITE or FETCH.  What a fetch finds must be no instruction that can do harm: on arm64
        0, on arm32 no memory; on both HVC.
        Errors: QemuError if no answer comes.
        """
        count = len(addresses)
        self._list[:count, 0] = addresses & ~np.uint64(3) | access
        self._control[2] = count
        self._control[0] += np.uint32(1)
        self._run(1, int(self._control[0]))
        return self._list[:count, 1].copy(), self._list[:count, 2].copy()

    def _run(self, place: int, wanted: int = 1) -> None:
        """Let the processor run until a word of the control page is as wanted."""
        until = time.monotonic() + _SECONDS
        self._qemu.monitor.command("cont")
        while self._control[place] != wanted:
            if time.monotonic() > until or not self._qemu.alive:
                raise QemuError(f"{self.processor.label} does not answer")
            time.sleep(_PAUSE)
        self._qemu.monitor.command("stop")

    def close(self) -> None:
        """End it."""
        self._qemu.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


def build(processor: Processor) -> bytes:
    """The payload for a processor, compiled from its source.  Errors: NotSetUp."""
    prefix = "arm-linux-gnueabihf-" if processor.arm32 else "aarch64-linux-gnu-"
    if shutil.which(f"{prefix}gcc") is None:
        raise NotSetUp(f"{prefix}gcc is not installed: run `make conformance-setup`")
    machine = ("-marm", "-march=armv7ve", "-mfpu=vfpv3-d16") if processor.arm32 else ("-mstrict-align",)
    with tempfile.TemporaryDirectory(prefix="bulkhead-mmu-") as name:
        work = pathlib.Path(name)
        try:
            run_tool([f"{prefix}gcc", *_FLAGS, *machine, "-o", "linked", str(SOURCE)],
                     {**os.environ, "LC_ALL": "C"}, work)
            run_tool([f"{prefix}objcopy", "-O", "binary", "linked", "image"], dict(os.environ), work)
        except FetchError as problem:
            raise NotSetUp(str(problem)) from None
        return (work / "image").read_bytes()


__all__ = ["FETCH", "FREE", "HVC", "PAGE", "PROCESSORS", "RAM", "READ", "RESERVED", "WRITE", "FirstStage", "Mmu",
           "Processor", "build"]
