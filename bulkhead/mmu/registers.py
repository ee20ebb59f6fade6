"""Which values of VTCR begin a walk: every input size with every start level.

The specification refuses the others (``spec.memory.geometry.of_vtcr``); the processor answers every address with a
translation fault before the first lookup.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from bulkhead.fuzz.walks.tables import ENTRIES, OUTPUT_BITS, PAGE_BITS
from impl.xen.mmu.machine import RESERVED, Mmu, Processor
from impl.xen.mmu.par import Fault, decode
from spec.memory import geometry

_ROOT: Final = RESERVED >> PAGE_BITS
_MOST_ROOTS: Final = 16
_WALKS: Final = 0x8000_3500
"""VTCR's cacheability of walks, and the bit that reads as one."""


def values(processor: Processor) -> Iterator[int]:
    """Every VTCR that differs in input size or start level.

    Left out are inputs of less than 32 bits and a start at level 3, which the specification does not model, and on
    arm32 a wrong sign of T0SZ, which is unpredictable.
    """
    for start in range(4 if processor.arm32 else 3):
        # 32 bits and more: T0SZ of arm32 is then 0 or negative
        for bits in range(32, 41 if processor.arm32 else 65):
            if processor.arm32:
                size = 32 - bits & 0xF
                yield _WALKS | start << 6 | size >> 3 << 4 | size
            else:
                yield _WALKS | OUTPUT_BITS.index(processor.pa_bits) << 16 | start << 6 | 64 - bits


def accepted(processor: Processor, vtcr: int) -> bool:
    """The specification knows this shape, and the processor has addresses of its size."""
    try:
        shape = geometry.of_vtcr(vtcr, arm32=processor.arm32)
    except ValueError:
        return False
    return shape.ipa_bits <= processor.pa_bits and (shape.start_level > 0 or processor.pa_bits >= 44)


def begun(mmu: Mmu, vtcr: int) -> bool:
    """The processor begins a walk: the first address then faults deep in the tables, which lead on to the last."""
    mmu.clear()
    for table in range(_MOST_ROOTS + 3):
        below = max(table, _MOST_ROOTS - 1) + 1
        mmu.pages[_ROOT + table] = np.full(ENTRIES, _ROOT + below << PAGE_BITS | 3, np.uint64)
    mmu.install(vtcr, _ROOT << PAGE_BITS)
    found = decode(*mmu.translate(np.zeros(1, np.uint64), np.zeros(1, np.uint8)))
    return (int(found.fault[0]), int(found.level[0])) != (Fault.TRANSLATION, 1 if mmu.processor.arm32 else 0)


__all__ = ["accepted", "begun", "values"]
