"""What the processor says of a translation: PAR and, where it aborted instead, the syndrome.

PAR_EL1 of arm64 and the 64-bit PAR of arm32 have the same form for what is read here; so have ESR_EL2 and HSR.

Source: Arm DDI 0487, PAR_EL1, ESR_ELx (ISS of a data abort); DDI 0406C, PAR (64-bit format), HSR.
"""

from __future__ import annotations

import enum
from typing import Final, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

Words: TypeAlias = NDArray[np.uint64]
Bytes: TypeAlias = NDArray[np.uint8]
Flags: TypeAlias = NDArray[np.bool_]

ADDRESS: Final = 0x0000_FFFF_FFFF_F000
_ABORTS: Final = (0x20, 0x25)
"""Classes of an abort of a guest's fetch, and of a data abort of the payload itself."""


class Fault(enum.IntEnum):
    """Why an address has no translation."""

    NONE = 0
    TRANSLATION = 1
    ADDRESS_SIZE = 2
    ACCESS_FLAG = 3
    PERMISSION = 4
    EXTERNAL_ABORT = 5
    """A descriptor could not be read: no memory is there."""
    OTHER = 6
    """A status that no walk here should give."""


_KINDS: Final = {0b0000: Fault.ADDRESS_SIZE, 0b0001: Fault.TRANSLATION, 0b0010: Fault.ACCESS_FLAG,
                 0b0011: Fault.PERMISSION, 0b0101: Fault.EXTERNAL_ABORT}
"""Faults by bits 5:2 of a status; bits 1:0 are the level."""
_FAULT: Final = np.array([_KINDS.get(each, Fault.OTHER) for each in range(16)], np.uint8)


@attrs.frozen(eq=False)
class Answers:
    """How translations ended, each uint8[n] but for the address.

    address: uint64[n], machine address of the page [bytes], 0 where there is a fault.  fault: a ``Fault``.  level: of
    the fault [0..3]; 0 where there is none: PAR does not say it.  second: the fault is of stage 2.
    walking: it met the walk of stage 1.  memory, share: ATTR and SH of PAR, 0 where there is a fault.
    """

    address: Words
    fault: Bytes
    level: Bytes
    second: Flags
    walking: Flags
    memory: Bytes
    share: Bytes

    def __len__(self) -> int:
        return len(self.address)


def decode(par: Words, syndrome: Words) -> Answers:
    """What the registers say.

    par: uint64[n], 0 for a fetch.  syndrome: uint64[n], of the abort that came instead, 0: none.
    """
    aborted = syndrome != 0
    failed = aborted | (par & np.uint64(1) != 0)
    status = np.where(aborted, syndrome, par >> np.uint64(1)).astype(np.uint8) & np.uint8(0x3F)
    fault = np.where(failed, _FAULT[status >> 2], Fault.NONE).astype(np.uint8)
    fault[aborted & ~np.isin(syndrome >> np.uint64(26) & np.uint64(0x3F), _ABORTS)] = Fault.OTHER
    # an abort says whether stage 1 was being walked, and not of which stage it is
    walking = np.where(aborted, syndrome >> np.uint64(7), par >> np.uint64(8)) & np.uint64(1) != 0

    def said(where: Flags, value: Words, mask: int) -> Words:
        return np.where(where, value & np.uint64(mask), np.uint64(0))

    return Answers(
        said(~failed, par, ADDRESS), fault, said(failed, status, 3).astype(np.uint8),
        failed & ~aborted & (par >> np.uint64(9) & np.uint64(1) != 0), failed & walking,
        said(~failed, par >> np.uint64(56), 0xFF).astype(np.uint8),
        said(~failed, par >> np.uint64(7), 3).astype(np.uint8),
    )


__all__ = ["ADDRESS", "Answers", "Fault", "decode"]
