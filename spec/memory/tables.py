"""Stage-2 tables in memory: what they hold, and what Xen means by it.

This theory stands beside the machine (``spec.state``): here a mapping is what the words of the tables say, and
what caches of the hardware still say.  Its steps are single stores: between any two of them the hardware may
walk, and cache what it finds.  Xen holds the p2m lock of a domain from the first store of a change to the flush
that ends it; ``Work`` is what it still has to do before the lock is released.

A guest frame is given as four indices, one for each level: ``gfn = ((i0 * 512 + i1) * 512 + i2) * 512 + i3``.

Source: xen/arch/arm/p2m.c, Xen 4.17.
"""

from __future__ import annotations

import enum

from spec.language import (
    ALL,
    U8,
    U16,
    Boolean,
    DomId,
    Gfn,
    Index,
    Mfn,
    Table,
    Word,
    both,
    decode,
    either,
    fill,
    ite,
    merged,
    neg,
    put,
    record,
    span,
    table,
)
from spec.memory.descriptors import ENTRIES, LEAF_LEVEL, Descriptor
from spec.memory.geometry import root_page
from spec.memory.walk import Found, Place, Translation, Words, lookup, place_of, translate, walk_from
from spec.state import NOBODY, P2mType

ONE = Index(0)
"""The key of a table of one row."""


class Use(enum.IntEnum):
    """What a frame is used for, as far as tables are concerned."""

    FREE = 0
    """In the heap."""
    POOL = 1
    """In a domain's pool of table pages, unused."""
    MEMORY = 2
    """What mappings may lead to: memory of a domain, shared by Xen with one, or a device."""
    TABLE = 3
    """A table that the hardware may walk."""
    NEW = 4
    """A table being filled: nothing leads to it yet."""
    RETIRED = 5
    """A table that nothing leads to any more, the hardware's caches included: about to be freed."""


class Phase(enum.IntEnum):
    """The store that comes next."""

    IDLE = 0
    LINK = 1
    """A new, empty table is to be linked."""
    BREAK = 2
    """The pieces of a block are written; the block is to be taken out."""
    MAKE_TABLE = 3
    """The block is out; its pieces are to be linked."""
    MAKE_LEAF = 4
    """What was mapped is out; the new leaf is to be written."""


# ---- rows


@record
class Shape:
    """The shape of all tables: see ``spec.memory.geometry.Geometry``.

    ipa_frames: guest frames that the hardware translates.  output_frames: machine frames that it can reach.
    """

    start_level: U8 = U8(0)
    root_pages: U8 = U8(1)
    ipa_frames: int = 0
    output_frames: int = 0
    arm32: bool = False


@record
class Space:
    """The address space of a domain.

    named: it has a VMID.  alive: it has a root table too, and the hardware may walk it.
    root: first of the concatenated root pages.  flush: what caches hold may be older than the tables.
    mem_access: a monitor watches the domain, so a change of permissions alone waits for the next flush.
    """

    named: bool = False
    alive: bool = False
    vmid: U16 = U16(0)
    root: Mfn = Mfn(0)
    flush: bool = False
    mem_access: bool = False


@record
class Tag:
    """A VMID: whether it is taken, and by which domain."""

    used: bool = False
    domain: DomId = NOBODY


@record
class TableFrame:
    """A machine frame.

    unflushed: it was freed by a domain, and caches may still lead to it.
    owner, level, base0 .. base2: whose table it is, its level, and the indices of the guest frames that it covers.
    linked: a word (number ``slot`` of ``parent``) or the register leads to it.
    """

    use: U8 = U8(0)
    unflushed: bool = False
    owner: DomId = NOBODY
    level: U8 = U8(0)
    base0: Index = Index(0)
    base1: Index = Index(0)
    base2: Index = Index(0)
    linked: bool = False
    parent: Mfn = Mfn(0)
    slot: Index = Index(0)


@record
class Cell:
    """Eight bytes of memory."""

    raw: Word = Word(0)


@record
class Mapped:
    """What Xen means a guest frame to be mapped to: refined by the tables.

    execute: the permission bit alone.  level: of the leaf.  hardware: no valid bit on the way is clear.
    broken: the word is being replaced, so just now every access faults.
    moved: and what is being replaced is more than permissions.
    """

    type: U8 = U8(0)
    frame: Mfn = Mfn(0)
    read: bool = False
    write: bool = False
    execute: bool = False
    level: U8 = U8(0)
    hardware: bool = False
    broken: bool = False
    moved: bool = False


@record
class Given:
    """Ghost: the domain was given the frame to map since the frame was last handed out by the heap."""

    yes: bool = False


@record
class Cached:
    """A translation that the hardware may hold.  type (ghost): decides the memory attributes."""

    cached: bool = False
    frame: Mfn = Mfn(0)
    read: bool = False
    write: bool = False
    execute: bool = False
    level: U8 = U8(0)
    type: U8 = U8(0)


@record
class CachedTable:
    """A table pointer that the hardware may hold for a guest frame and a level: more than any real one holds."""

    cached: bool = False
    table: Mfn = Mfn(0)


@record
class Work:
    """What is to be done before the p2m lock of a domain is released.

    level, i0 .. i3: which word the call is about; they stay when it is done.
    table: the frame that holds this word.  page: the table that is to be linked there.
    twice: one of the pieces in it is split as well.  piece_page: the table of the pieces of this piece.
    must_flush: a flush comes before the next store.
    inserting (ghost): a caller asked for a new mapping there.
    type .. execute, frame, valid: the leaf to be written, or the block that was there; moved: see ``Mapped``.
    """

    phase: U8 = U8(0)
    level: U8 = U8(0)
    i0: Index = Index(0)
    i1: Index = Index(0)
    i2: Index = Index(0)
    i3: Index = Index(0)
    table: Mfn = Mfn(0)
    page: Mfn = Mfn(0)
    twice: bool = False
    piece_page: Mfn = Mfn(0)
    must_flush: bool = False
    inserting: bool = False
    type: U8 = U8(0)
    frame: Mfn = Mfn(0)
    read: bool = False
    write: bool = False
    execute: bool = False
    valid: bool = False
    moved: bool = False


@record
class TableState:
    """The tables of all domains, and the caches of the hardware."""

    shape: Table[Index, Shape] = table(Shape, Index)
    space: Table[DomId, Space] = table(Space, DomId)
    tag: Table[U16, Tag] = table(Tag, U16)
    table_frame: Table[Mfn, TableFrame] = table(TableFrame, Mfn)
    cell: Table[tuple[Mfn, Index], Cell] = table(Cell, Mfn, Index)
    mapped: Table[tuple[DomId, Index, Index, Index, Index], Mapped] = table(Mapped, DomId, Index, Index, Index, Index)
    given: Table[tuple[DomId, Mfn], Given] = table(Given, DomId, Mfn, ghost=True)
    tlb: Table[tuple[U16, Index, Index, Index, Index], Cached] = table(Cached, U16, Index, Index, Index, Index)
    walk_cache: Table[tuple[U16, U8, Index, Index, Index, Index], CachedTable] = table(
        CachedTable, U16, U8, Index, Index, Index, Index
    )
    work: Table[DomId, Work] = table(Work, DomId)


# ---- guest frames


def gfn_of(i0: Index, i1: Index, i2: Index, i3: Index) -> Gfn:
    """The guest frame with these indices."""
    return Gfn(((i0 * ENTRIES + i1) * ENTRIES + i2) * ENTRIES + i3)


def index_at(level: int, i0: Index, i1: Index, i2: Index, i3: Index) -> Index:
    """The index of a level."""
    return ite(level == 0, i0, ite(level == 1, i1, ite(level == 2, i2, i3)))


def offset_in(level: int, i1: Index, i2: Index, i3: Index) -> int:
    """Where a guest frame lies in the block that a word of this level covers.  level: [1..3]."""
    return ite(level == LEAF_LEVEL, 0, ite(level == 2, i3, i2 * ENTRIES + i3))


def same_block(level: int, i0: Index, i1: Index, i2: Index, i3: Index,
               j0: Index, j1: Index, j2: Index, j3: Index) -> Boolean:
    """One word of this level covers both guest frames."""
    return both(
        i0 == j0, either(level < 1, i1 == j1), either(level < 2, i2 == j2), either(level < 3, i3 == j3)
    )


def covered(s: TableState, gfn: Gfn) -> Boolean:
    """The root table reaches so far."""
    shape = s.shape[ONE]
    return root_page(gfn, shape.start_level) < shape.root_pages


# ---- walks


def words_of(s: TableState) -> Words:
    """The contents of memory."""
    return lambda frame, position: s.cell[frame, Index(position)].raw


def root_of(s: TableState, domain: DomId, gfn: Gfn) -> Mfn:
    """The root page that translates a guest frame."""
    return Mfn(s.space[domain].root + root_page(gfn, s.shape[ONE].start_level))


@merged
def translated(s: TableState, domain: DomId, gfn: Gfn) -> Translation:
    """The hardware's walk of the domain's tables."""
    return translate(words_of(s), s.space[domain].root, s.shape[ONE], gfn)


@merged
def translated_from(s: TableState, frame: Mfn, level: int, gfn: Gfn) -> Translation:
    """The hardware's walk from a cached table pointer."""
    return walk_from(words_of(s), frame, level, gfn, s.shape[ONE])


@merged
def found(s: TableState, domain: DomId, gfn: Gfn) -> Found:
    """What Xen finds in the domain's tables."""
    if neg(covered(s, gfn)):
        return Found()
    return lookup(words_of(s), root_of(s, domain, gfn), s.shape[ONE].start_level, gfn)


def place(s: TableState, domain: DomId, gfn: Gfn, level: int) -> Place:
    """Where the word of a level is."""
    return place_of(words_of(s), root_of(s, domain, gfn), s.shape[ONE].start_level, gfn, level)


def view(row: Cell) -> Descriptor:
    """A word, as a descriptor."""
    return decode(Descriptor, row.raw)


def word_at(s: TableState, frame: Mfn, position: Index) -> Descriptor:
    """A word of a table, as a descriptor."""
    return view(s.cell[frame, position])


# ---- what rows mean


def is_mapped(row: Mapped) -> Boolean:
    """Something is mapped."""
    return row.type != P2mType.INVALID


def is_seen(row: Mapped) -> Boolean:
    """The hardware can find it at this moment."""
    return both(is_mapped(row), row.hardware, neg(row.broken))


def idle(s: TableState, domain: DomId) -> Boolean:
    """No change of the domain's tables is under way."""
    return s.work[domain].phase == Phase.IDLE


# ---- flushing


def flush_domain(s: TableState, domain: DomId) -> TableState:
    """Nothing that was cached for the domain stays: translations and table pointers.

    Source: xen/arch/arm/p2m.c (p2m_force_tlb_flush_sync), Xen 4.17.
    """
    vmid = s.space[domain].vmid
    s = fill(s, "tlb", (vmid, ALL, ALL, ALL, ALL), lambda _row, *_key: {"cached": False})
    s = fill(s, "walk_cache", (vmid, ALL, ALL, ALL, ALL, ALL), lambda _row, *_key: {"cached": False})
    s = put(s, "space", domain, flush=False)
    return put(s, "work", domain, must_flush=False)


def flush_everything(s: TableState) -> TableState:
    """Nothing that was cached for any guest stays.

    Source: xen/arch/arm/smp.c (arch_flush_tlb_mask), Xen 4.17.
    """
    s = fill(s, "tlb", (ALL, ALL, ALL, ALL, ALL), lambda _row, *_key: {"cached": False})
    return fill(s, "walk_cache", (ALL, ALL, ALL, ALL, ALL, ALL), lambda _row, *_key: {"cached": False})


def fill_mapped(s: TableState, domain: DomId, level: int, i0: Index, i1: Index, i2: Index, i3: Index,
                changes: dict[str, object], step: int = 0) -> TableState:
    """Change every row that a word of this level covers.

    step: 1 if ``frame`` in the changes is that of the first guest frame of the block, 0 otherwise.
    level: [1..3], a literal on each path.
    """
    rest = span(0, ENTRIES)
    if level == LEAF_LEVEL:
        return put(s, "mapped", (domain, i0, i1, i2, i3), **changes)
    if level == 2:
        return fill(s, "mapped", (domain, i0, i1, i2, rest),
                    lambda _row, _d, _0, _1, _2, j3: _shifted(changes, step * j3))
    return fill(s, "mapped", (domain, i0, i1, rest, rest),
                lambda _row, _d, _0, _1, j2, j3: _shifted(changes, step * (j2 * ENTRIES + j3)))


def reset_mapped(s: TableState, domain: DomId, level: int, i0: Index, i1: Index, i2: Index, i3: Index,
                 changes: dict[str, object]) -> TableState:
    """Set fields of every row that a word of this level covers to what they are in a row never written.

    level: [0..3], a literal on each path.
    """
    if level == LEAF_LEVEL:
        return put(s, "mapped", (domain, i0, i1, i2, i3), **changes)
    return fill(s, "mapped", (domain, i0, i1 if level >= 1 else ALL, i2 if level >= 2 else ALL, ALL),
                lambda _row, *_key: changes)


def _shifted(changes: dict[str, object], offset: int) -> dict[str, object]:
    """The changes of a row at this offset in its block."""
    if "frame" not in changes:
        return changes
    return {**changes, "frame": changes["frame"] + offset}  # type: ignore[operator]

