"""Deviations of the real Xen that spoil more than one row: a ghost flag for each.

Every property is claimed for states that none of them has touched.  Where a flaw can be mended within one
step, a *repaired* step stands beside the real one and never sets the flag: so the properties hold always of a
Xen in which the repaired steps take the place of the real ones, as far as no other flag is set.  A deviation
that spoils one row only marks that row (``P2mEntry.stale`` for DEV-1); one that spoils one property only
(``dev31``, ``dev33``) is named there.
"""

from __future__ import annotations

from spec.language import Boolean, DomId, Gfn, Index, Mfn, both, either, implies, ite, neg, put, two_state
from spec.language.records import columns
from spec.state import Deviated, State


def untouched(s: State) -> Boolean:
    """No deviation that has a flag has happened since boot."""
    row = s.deviation[Index(0)]
    return neg(either(
        row.dev2, row.dev3, row.dev10, row.dev11, row.dev12, row.dev13, row.dev14, row.dev21, row.dev22, row.dev32,
        row.dev34, row.dev35, row.dev37,
    ))


def happens(s: State, deviation: str, when: Boolean = True) -> State:
    """The deviation happens now, if the condition that triggers it is met.

    deviation: name of its flag, e.g. ``dev3``.
    """
    if isinstance(when, bool) and not when:
        return s
    before = getattr(s.deviation[Index(0)], deviation)
    return put(s, "deviation", Index(0), **{deviation: ite(when, True, before)})


# ---- what a repaired step must not do

OF_DEVICES = "dev10"
"""The flag of the deviation that a property of its own is about."""


@two_state("REPAIRED-FLAG", over="deviation", fulfils="SR-MEM-1", of_repaired=True)
def no_deviation_is_flagged(old: State, new: State, _actor: DomId, number: Index) -> bool:
    """A step in which a deviation is mended raises no flag; DEV-10's is a matter of its own."""
    before, after = old.deviation[number], new.deviation[number]
    return both(*[
        implies(getattr(after, each), getattr(before, each)) for each in columns(Deviated) if each != OF_DEVICES
    ])


@two_state("REPAIRED-DEVICE", over="deviation", fulfils="SR-MEM-1", of_repaired=True)
def no_device_use_is_lost(old: State, new: State, _actor: DomId, number: Index) -> bool:
    """A step in which a deviation is mended keeps count of the mappings for devices."""
    return implies(new.deviation[number].dev10, old.deviation[number].dev10)


@two_state("REPAIRED-MAPPING", over="p2m", fulfils="SR-MEM-1", of_repaired=True)
def no_mapping_is_left(old: State, new: State, _actor: DomId, domain: DomId, gfn: Gfn) -> bool:
    """A step in which a deviation is mended leaves no mapping whose grant was released."""
    return implies(new.p2m[domain, gfn].stale, old.p2m[domain, gfn].stale)


@two_state("REPAIRED-REFERENCE", over="frame", fulfils="SR-MEM-7", of_repaired=True)
def no_reference_is_lost(old: State, new: State, _actor: DomId, mfn: Mfn) -> bool:
    """A step in which a deviation is mended leaves no reference that nobody will drop."""
    return new.frame[mfn].lost <= old.frame[mfn].lost


@two_state("REPAIRED-PERMISSION", over="iomem", fulfils="SR-MEM-4", of_repaired=True)
def no_permission_is_left(old: State, new: State, _actor: DomId, domain: DomId, mfn: Mfn) -> bool:
    """A step in which a deviation is mended leaves nothing mapped for which the permission was taken back."""
    return implies(new.iomem[domain, mfn].left, old.iomem[domain, mfn].left)
