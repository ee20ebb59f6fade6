"""What the hardware does by itself, at any time: it caches translations, and pointers to tables.

It may use a cached pointer to walk on, although the tables above have changed, until the VMID is flushed.

Source: Arm DDI 0487, translation lookaside buffers, intermediate caching of translation table walks.
"""

from __future__ import annotations

from spec.language import U8, U16, DomId, Index, Outcome, accept, both, legal, put, transition
from spec.memory.descriptors import LEAF_LEVEL
from spec.memory.tables import (
    ONE,
    TableState,
    gfn_of,
    index_at,
    place,
    translated,
    translated_from,
    word_at,
)
from spec.memory.walk import Fault, Translation


def loaded(s: TableState, vmid: U16) -> DomId:
    """The domain whose tables the hardware walks under a VMID."""
    domain = s.tag[vmid].domain
    legal(both(s.tag[vmid].used, s.space[domain].alive), "a domain with tables has this VMID")
    return domain


def _cache(s: TableState, vmid: U16, i0: Index, i1: Index, i2: Index, i3: Index, walked: Translation) -> TableState:
    return put(
        s, "tlb", (vmid, i0, i1, i2, i3), cached=True, frame=walked.frame, read=walked.read, write=walked.write,
        execute=walked.execute, level=walked.level, type=walked.type,
    )


@transition(theory="tables")
def cache_translation(s: TableState, vmid: U16, i0: Index, i1: Index, i2: Index, i3: Index) -> Outcome[TableState]:
    """The hardware walks from the root and caches the translation.  A fault is never cached."""
    domain = loaded(s, vmid)
    walked = translated(s, domain, gfn_of(i0, i1, i2, i3))
    legal(walked.fault == Fault.NONE, "the walk ends at a leaf")
    return accept(_cache(s, vmid, i0, i1, i2, i3, walked))


@transition(theory="tables")
def cache_table(s: TableState, vmid: U16, i0: Index, i1: Index, i2: Index, i3: Index, level: U8) -> Outcome[TableState]:
    """The hardware walks from the root and caches the pointer to the table of a level [1..3]."""
    domain = loaded(s, vmid)
    legal(both(s.shape[ONE].start_level < level, level <= LEAF_LEVEL), "a table below the root")
    gfn = gfn_of(i0, i1, i2, i3)
    legal(gfn < s.shape[ONE].ipa_frames, "an address that is walked at all")
    way = place(s, domain, gfn, level)
    legal(way.hardware, "every word on the way is valid")
    return accept(put(s, "walk_cache", (vmid, level, i0, i1, i2, i3), cached=True, table=way.table))


@transition(theory="tables")
def cache_next_table(s: TableState, vmid: U16, i0: Index, i1: Index, i2: Index, i3: Index,
                     level: U8) -> Outcome[TableState]:
    """The hardware walks on from a cached table pointer of a level and caches the next."""
    loaded(s, vmid)
    cached = s.walk_cache[vmid, level, i0, i1, i2, i3]
    legal(both(cached.cached, level < LEAF_LEVEL), "a cached pointer to a table that is not the last")
    entry = word_at(s, cached.table, index_at(level, i0, i1, i2, i3))
    legal(both(entry.valid, entry.table), "the word leads to a table")
    return accept(put(s, "walk_cache", (vmid, level + 1, i0, i1, i2, i3), cached=True, table=entry.frame))


@transition(theory="tables")
def cache_from_table(s: TableState, vmid: U16, i0: Index, i1: Index, i2: Index, i3: Index,
                     level: U8) -> Outcome[TableState]:
    """The hardware finishes a walk from a cached table pointer of a level and caches the translation."""
    loaded(s, vmid)
    cached = s.walk_cache[vmid, level, i0, i1, i2, i3]
    legal(cached.cached, "a cached pointer")
    walked = translated_from(s, cached.table, level, gfn_of(i0, i1, i2, i3))
    legal(walked.fault == Fault.NONE, "the walk ends at a leaf")
    return accept(_cache(s, vmid, i0, i1, i2, i3, walked))
