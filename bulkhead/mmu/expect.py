"""What the specification says of addresses, in the form in which ``impl.xen.mmu.par`` says it of the processor.

Memory attributes are no part of the specification's walk beyond the fields of the leaf: how they combine with those of
stage 1 is said here.

Source: Arm DDI 0487, S2CombineS1MemAttrs, S2CombineS1Shareability, EffectiveShareability, EncodePARAttrs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from bulkhead.fuzz.walks.compare import OUTSIDE, spec_geometry
from bulkhead.fuzz.walks.tables import PAGE_BITS, Tables, Words
from spec.language import Gfn, Mfn, Word, decode
from spec.memory import walk
from spec.memory.descriptors import Vttbr
from spec.memory.geometry import Geometry
from spec.memory.walk import Fault, Kind, Translation

Bytes: TypeAlias = NDArray[np.uint8]
NONE, RESERVED, OUTER, INNER = range(4)
"""SH."""
UNKNOWN: Final = 0x01
"""ATTR that no memory has: stands for what the architecture leaves open."""


class OutsideRamError(Exception):
    """A walk asked for a word that is not in RAM.  The argument is the level of the table."""


@attrs.frozen
class Second:
    """The specification's stage 2 of some tables.  rows: the words of each frame of RAM."""

    rows: dict[int, list[int]]
    root: Mfn
    shape: Geometry

    @staticmethod
    def of(tables: Tables) -> Second:
        """The tables as they are now."""
        return Second(tables.rows(), decode(Vttbr, Word(tables.vttbr)).frame, spec_geometry(tables))

    def translate(self, ipa: int) -> Translation:
        """The walk of an address.  Errors: OutsideRamError."""
        try:
            return walk.translate(self.word, self.root, self.shape, Gfn(ipa >> PAGE_BITS))
        except KeyError:
            # which word it was is found out by walking again
            return walk.translate(self._counting(), self.root, self.shape, Gfn(ipa >> PAGE_BITS))

    def word(self, table: int, index: int) -> Word:
        """A word of a frame.  Errors: KeyError if the frame is not RAM."""
        return Word(self.rows[table][index])

    def attributes(self, first: Bytes, first_share: Bytes, memory: Bytes, share: Bytes) -> tuple[Bytes, Bytes]:
        """ATTR and SH of both stages: see ``attributes``."""
        return attributes(_BOTH[first, memory], first_share, share)

    def _counting(self) -> walk.Words:
        """Memory for one walk, which asks for one word a level, from 0 on; what it asks above its start is unused."""
        level = -1

        def word(table: Mfn, index: int) -> Word:
            nonlocal level
            level += 1
            try:
                return self.word(table, index)
            except KeyError:
                if level < self.shape.start_level:
                    return Word(0)
                raise OutsideRamError(level) from None

        return word


@attrs.frozen(eq=False)
class Leaves:
    """How the walks of addresses end, whatever the access: uint8[n], but for address uint64[n, bytes].

    fault: but for permissions, by ``bulkhead.fuzz.walks.compare.FAULTS``.  level: of the fault or leaf.
    allowed: bit 0: to read, bit 1: to write, bit 2: to execute.  memory, share: MemAttr and SH of the leaf.
    """

    address: Words
    fault: Bytes
    level: Bytes
    allowed: Bytes
    memory: Bytes
    share: Bytes


def leaves(second: Second, addresses: Sequence[int]) -> Leaves:
    """Walk every address by the specification."""
    found: list[tuple[int, ...]] = []
    for ipa in addresses:
        try:
            end = second.translate(ipa)
        except OutsideRamError as stop:
            found.append((0, OUTSIDE, stop.args[0], 0, 0, 0))
            continue
        allowed = sum(walk.permits(end, kind) << kind for kind in Kind)
        address = end.frame << PAGE_BITS if end.fault == Fault.NONE else 0
        found.append((address, end.fault, end.level, allowed, end.memattr, end.sh))
    field = np.array(found, np.uint64).reshape(-1, 6).T
    return Leaves(field[0], *field[1:].astype(np.uint8))


# ---- attributes of both stages together


def combine(first: int, second: int) -> int:
    """ATTR of both stages.

    first: of stage 1, as in MAIR [0..255, none that is reserved].  second: MemAttr [0..15].
    """
    if second >> 2 == 0:
        device = (second & 3) << 2
        return min(first, device) if first >> 4 == 0 else device
    if first >> 4 == 0:
        return first
    if second & 3 == 0:
        return UNKNOWN
    return cached(first >> 4, second >> 2) << 4 | cached(first & 0xF, second & 3)


def cached(first: int, second: int) -> int:
    """Cacheability of normal memory.  first: a half of ATTR.  second: 1 none, 2 write-through, 3 write-back."""
    if first == 4 or second == 1:
        return 4
    if second == 2:
        # write-through, and what stage 1 says of allocation and of how long it lasts
        return first & ~(1 << 2)
    return first


_BOTH: Final = np.array([[combine(first, second) for second in range(16)] for first in range(256)], np.uint8)


def attributes(attr: Bytes, first: Bytes, second: Bytes) -> tuple[Bytes, Bytes]:
    """ATTR and SH as PAR has them; ``UNKNOWN`` and ``RESERVED`` where the architecture leaves it open.

    attr: of both stages.  first, second: SH of either.
    """
    outer = (first == OUTER) | (second == OUTER) | (attr >> 4 == 0) & (attr != UNKNOWN) | (attr == 0x44)
    unclear = (first == RESERVED) | (second == RESERVED) | (attr == UNKNOWN)
    inner = (first == INNER) | (second == INNER)
    return attr, np.select([outer, unclear, inner], [OUTER, RESERVED, INNER], NONE).astype(np.uint8)


__all__ = ["NONE", "RESERVED", "UNKNOWN", "Bytes", "Leaves", "OutsideRamError", "Second", "attributes", "cached",
           "combine", "leaves"]
