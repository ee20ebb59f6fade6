"""Stage 1 on arm64: tables of a guest at guest addresses, each word of which is itself translated by stage 2.

The specification ends where the guest's own tables begin; what is said of them here is for this comparison only.

Source: Arm DDI 0487, AArch64.S1Translate, AArch64.S1Walk, AArch64.S1DisabledOutput, the stage 1 descriptor formats.
"""

from __future__ import annotations

from typing import Final

import attrs
import numpy as np

from bulkhead.fuzz.walks.compare import OUTSIDE
from bulkhead.fuzz.walks.tables import ENTRIES, FRAME, OUTPUT_BITS, PAGE_BITS, Words, span_bits
from bulkhead.mmu.cases import TARGET, TARGETS
from bulkhead.mmu.expect import OutsideRamError, Second
from bulkhead.mmu.explained import Otherwise
from impl.xen.mmu.machine import FREE, FirstStage, Mmu
from spec.memory import walk
from spec.memory.walk import Fault, Kind

KINDS: Final = (0x00, 0x04, 0x08, 0x0C, 0x44, 0xFF, 0xBB, 0xF4, 0x4F, 0xAF, 0x33, 0x77, 0xEE, 0x9D, 0x5B, 0xC8)
"""Of memory, by MAIR: device, not cached, write-back and write-through, lasting and transient, alike or not."""


@attrs.frozen
class Stop:
    """A fault before the last address was known.  second: it is of stage 2.  walking: it met the walk of stage 1."""

    fault: int
    level: int
    second: bool = False
    walking: bool = False


@attrs.frozen
class Reached:
    """Where stage 1 leads.  ipa: bytes.  level: of the leaf.  write: it permits a write.  attr, share: of MAIR, SH."""

    ipa: int
    level: int
    write: bool
    attr: int
    share: int


class UnknowableError(Exception):
    """A table of stage 1 lies in memory of the payload, of which nobody knows what it holds."""


def lead(registers: FirstStage, second: Second, va: int, pa_bits: int) -> Stop | Reached:
    """The walk of stage 1 for a privileged access.  va: [64 bits].  pa_bits: of the processor.

    Errors: UnknowableError.
    """
    bits = 64 - (registers.tcr & 0x3F)
    limit = min(OUTPUT_BITS[registers.tcr >> 32 & 7], pa_bits)
    reserved = {3} if isinstance(second, Otherwise) and second.top_blocks else {0, 3}
    if va >> bits:
        return Stop(Fault.TRANSLATION, 0)
    table, may_write = registers.ttbr & FRAME, True
    if table >> limit:
        return Stop(Fault.ADDRESS_SIZE, 0)
    for level in range(3 - (bits - PAGE_BITS - 1) // 9, 4):
        read = _word(second, table + (va >> span_bits(level)) % ENTRIES * 8, level)
        if isinstance(read, Stop):
            wrong = isinstance(second, Otherwise) and second.first_level
            return attrs.evolve(read, level=level) if wrong else read
        if not read & 1 or (not read & 2 and level in reserved):
            return Stop(Fault.TRANSLATION, level)
        leaf = not read & 2 or level == 3
        size = 1 << span_bits(level)
        if (read & FRAME) >> limit:
            return Stop(Fault.ADDRESS_SIZE, level)
        if leaf:
            if not read >> 10 & 1:
                return Stop(Fault.ACCESS_FLAG, level)
            may_write &= not read >> 7 & 1
            attr = registers.mair >> 8 * (read >> 2 & 7) & 0xFF
            return Reached(read & FRAME & -size | va % size, level, may_write, attr, read >> 8 & 3)
        # APTable: no writes below here
        may_write &= not read >> 62 & 1
        table = read & FRAME
    raise AssertionError("level 3 has leaves only")


def _word(second: Second, ipa: int, level: int) -> int | Stop:
    """A descriptor of stage 1.  level: of the table that holds it."""
    try:
        end = second.translate(ipa)
    except OutsideRamError as stop:
        return Stop(OUTSIDE, stop.args[0], walking=True)
    if end.fault != Fault.NONE:
        return Stop(end.fault, end.level, second=True, walking=True)
    if not walk.permits(end, Kind.READ):
        return Stop(Fault.PERMISSION, end.level, second=True, walking=True)
    if end.frame < FREE >> PAGE_BITS:
        raise UnknowableError
    try:
        return second.word(end.frame, ipa % (1 << PAGE_BITS) >> 3)
    except KeyError:
        return Stop(OUTSIDE, level)


def first_stage(mmu: Mmu, window: int, addresses: Words, rng: np.random.Generator) -> FirstStage:
    """Fill the frames of the window with tables of stage 1, which lead to each other and to some addresses.

    window: guest address.  addresses: guest addresses to come near, uint64[n], n > 0.
    """
    size = (TARGETS, ENTRIES)
    # a twelfth of the tables is in pages of which half fault; and some are anywhere
    page = np.where(rng.random(size) < 0.08, rng.integers(ENTRIES, size=size), rng.integers(TARGETS, size=size))
    inside = np.uint64(window) + page.astype(np.uint64) * np.uint64(1 << PAGE_BITS)
    word = np.where(rng.random(size) < 0.6, inside, rng.choice(addresses, size)) & np.uint64(FRAME)
    form = rng.choice(np.array([3, 1, 0, 2], np.uint64), size, p=[0.75, 0.21, 0.02, 0.02])
    kind = rng.integers(8, size=size, dtype=np.uint64) << np.uint64(2)
    anything = rng.integers(1 << 64, size=size, dtype=np.uint64)
    # AP, nG and bits that translate nothing; SH
    word |= form | kind | anything & np.uint64(0x0070_0000_0000_08E0 | 0xF << 55)
    word |= rng.choice(np.array([0, 2, 3], np.uint64), size) << np.uint64(8)
    word |= np.where(rng.random(size) < 0.95, np.uint64(1 << 10), np.uint64(0))
    word |= np.where(rng.random(size) < 0.2, anything & np.uint64(0x1F << 59), np.uint64(0))
    # the guest's addresses have up to 48 bits; beyond what it says itself is a fault of stage 1
    word &= np.where(rng.random(size) < 0.03, np.uint64((1 << 64) - 1), np.uint64(_inside(mmu)))
    mmu.pages[TARGET:TARGET + TARGETS] = word
    bits = int(rng.choice([25, 30, 31, 36, 39, 40, 42, 47, 48]))
    ips = [each for each, wide in enumerate(OUTPUT_BITS) if wide <= mmu.processor.pa_bits]
    chosen = ips[-1] if rng.random() < 0.8 else int(rng.choice(ips))
    mair = sum(int(each) << 8 * place for place, each in enumerate(rng.choice(KINDS, 8)))
    root = window + (int(rng.integers(TARGETS)) << PAGE_BITS)
    if rng.random() < 0.05:
        root = int(rng.choice(addresses)) & FRAME
    # EPD1: no second range
    return FirstStage(root, chosen << 32 | 1 << 23 | 64 - bits, mair)


def _inside(mmu: Mmu) -> int:
    """All bits but those of addresses that the processor has not."""
    return (1 << 64) - 1 & ~(FRAME & -(1 << mmu.processor.pa_bits))


def near(registers: FirstStage, count: int, rng: np.random.Generator) -> Words:
    """Addresses for stage 1: mostly within its range."""
    bits = 64 - (registers.tcr & 0x3F)
    inside = rng.integers(1 << bits, size=count, dtype=np.uint64)
    beyond = rng.integers(1 << 64, size=count, dtype=np.uint64)
    found: Words = np.where(rng.random(count) < 0.97, inside, beyond)
    return found


__all__ = ["Reached", "Stop", "UnknowableError", "first_stage", "lead", "near"]
