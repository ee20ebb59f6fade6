"""The width of numbers: what arm32 keeps of a 64-bit argument in an ``unsigned long``."""

from __future__ import annotations

from spec.language import U64, Gfn, Index, ite
from spec.state import State


def machine_word(s: State, value: U64) -> U64:
    """A number as a register holds it: arm32 cuts it to 32 bits, without an error."""
    return U64(ite(s.settings[Index(0)].arm32, value % (1 << 32), value))


def own_width(s: State, gfn: Gfn) -> Gfn:
    """The guest frame as Xen keeps it: arm32 cuts it to 32 bits, without an error."""
    return Gfn(machine_word(s, U64(gfn)))
