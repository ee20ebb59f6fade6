"""Deviations of the real Xen that spoil more than one row: a ghost flag for each.

Every property is claimed for states that none of them has touched.  Where a flaw can be mended within one
step, a *repaired* step stands beside the real one and never sets the flag: so the properties hold always of a
Xen in which the repaired steps take the place of the real ones, as far as no other flag is set.  A deviation
that spoils one row only marks that row (``P2mEntry.stale`` for DEV-1); one that spoils one property only
(``dev31``, ``dev33``) is named there.
"""

from __future__ import annotations

from spec.language import Boolean, Index, either, ite, neg, put
from spec.state import State


def untouched(s: State) -> Boolean:
    """No deviation that has a flag has happened since boot."""
    row = s.deviation[Index(0)]
    return neg(either(
        row.dev2, row.dev3, row.dev10, row.dev11, row.dev12, row.dev13, row.dev14, row.dev21, row.dev22, row.dev32,
    ))


def happens(s: State, deviation: str, when: Boolean = True) -> State:
    """The deviation happens now, if the condition that triggers it is met.

    deviation: name of its flag, e.g. ``dev3``.
    """
    if isinstance(when, bool) and not when:
        return s
    before = getattr(s.deviation[Index(0)], deviation)
    return put(s, "deviation", Index(0), **{deviation: ite(when, True, before)})
