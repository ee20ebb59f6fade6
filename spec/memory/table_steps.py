"""What Xen does to stage-2 tables, one store a step.

Each change is a few steps, and ``Work`` says which store comes next; Xen holds the p2m lock of the domain meanwhile.
A page that the hardware cannot reach is filled in one step: that no single store into such a page matters is
proved of ``store_anywhere`` (and of ``invalidate_word``, for the words of a table behind an invalid one).

A block that is split by two levels is split twice here; Xen fills both new tables first and links them at once.
A change of permissions whose flush Xen defers to the end of its call (mem_access) is flushed here before the next
insertion.
Source: xen/arch/arm/p2m.c, Xen 4.17.
"""

from __future__ import annotations

from spec.errors import EINVAL, ENOMEM
from spec.language import (
    U8,
    Boolean,
    DomId,
    Index,
    Mfn,
    Outcome,
    Word,
    accept,
    both,
    decode,
    either,
    encode,
    every,
    evolve,
    fill,
    implies,
    ite,
    legal,
    neg,
    one_of,
    put,
    refuse,
    span,
    transition,
)
from spec.memory.descriptors import (
    ENTRIES,
    LEAF_LEVEL,
    Descriptor,
    is_live,
    leads_to_table,
    leaf,
    leaf_with,
    maps_memory,
    piece,
    table_word,
)
from spec.memory.geometry import LEVELS, frames_below
from spec.memory.tables import (
    ONE,
    Phase,
    TableState,
    Use,
    covered,
    fill_mapped,
    gfn_of,
    idle,
    index_at,
    place,
    reset_mapped,
    view,
    word_at,
)
from spec.state import P2mType

UNMAPPED: dict[str, object] = {
    "type": 0, "frame": 0, "read": False, "write": False, "execute": False, "level": 0,
    "hardware": False, "broken": False, "moved": False,
}


def literal(level: int, lowest: int, highest: int) -> int:
    """The level, known to lie between the two, as a plain number: each is a path of its own."""
    for each in LEVELS:
        if lowest <= each < highest:
            if level == each:
                return each
    return highest


def aim(s: TableState, domain: DomId, level: int, i0: Index, i1: Index, i2: Index, i3: Index,
        **changes: object) -> TableState:
    """The call under way is about the word of this level that covers a guest frame."""
    return put(s, "work", domain, level=level, i0=i0, i1=i1, i2=i2, i3=i3, **changes)


def store(s: TableState, frame: Mfn, position: Index, entry: Descriptor) -> TableState:
    """Write a word of a table."""
    return put(s, "cell", (frame, position), raw=encode(entry))


def set_valid(s: TableState, frame: Mfn, position: Index, valid: bool) -> TableState:
    """Set or clear the valid bit of a word of a table."""
    raw = s.cell[frame, position].raw
    return put(s, "cell", (frame, position), raw=encode(evolve(decode(Descriptor, raw), valid=valid), raw))


def clear(s: TableState, frame: Mfn, position: Index) -> TableState:
    """Write zero to a word of a table.

    Source: xen/arch/arm/p2m.c (p2m_remove_pte), Xen 4.17.
    """
    return put(s, "cell", (frame, position), raw=Word(0))


def unlink(s: TableState, entry: Descriptor, level: int) -> TableState:
    """Nothing but caches leads to the table that this word led to, if it led to one."""
    if level == LEAF_LEVEL:
        return s
    row = s.table_frame[entry.frame]
    return put(s, "table_frame", entry.frame, linked=both(row.linked, neg(leads_to_table(entry, level))))


def at_rest(s: TableState, domain: DomId, i0: Index, i1: Index, i2: Index, i3: Index) -> Boolean:
    """No change of the domain's tables is half done, here in particular."""
    return both(idle(s, domain), neg(s.mapped[domain, i0, i1, i2, i3].broken))


def may_begin(s: TableState, domain: DomId, i0: Index, i1: Index, i2: Index, i3: Index) -> Boolean:
    """The p2m lock was just taken: nothing is half done, and what was to be flushed was flushed when it was released.

    Source: xen/arch/arm/p2m.c (p2m_write_unlock), Xen 4.17.
    """
    return both(at_rest(s, domain, i0, i1, i2, i3), neg(s.space[domain].flush))


# ---- a missing table


@transition(theory="tables")
def prepare_table(s: TableState, domain: DomId, i0: Index, i1: Index, i2: Index, i3: Index, level: U8,
                  page: Mfn) -> Outcome[TableState]:
    """Take a page for the table that is missing below a word, and clear it.

    level: of the word [0..2].  page: of the domain's pool, chosen by Xen.
    Errors: ENOMEM while the domain has no tables; EINVAL beyond the root table.
    Source: xen/arch/arm/p2m.c (p2m_next_level, p2m_create_table), Xen 4.17.
    """
    if not s.space[domain].alive:
        return refuse(s, -ENOMEM)
    gfn = gfn_of(i0, i1, i2, i3)
    if not covered(s, gfn):
        return refuse(s, -EINVAL)
    legal(may_begin(s, domain, i0, i1, i2, i3), "the p2m lock was just taken")
    legal(s.table_frame[page].use == Use.POOL, "an unused page of the pool")
    legal(both(s.shape[ONE].start_level <= level, level < LEAF_LEVEL), "a level at which tables are linked")
    here = place(s, domain, gfn, level)
    position = index_at(level, i0, i1, i2, i3)
    legal(here.exists, "the walk has come so far")
    legal(neg(is_live(word_at(s, here.table, position))), "there is no table yet")
    s = fill(s, "cell", (page, span(0, ENTRIES)), lambda _row, _m, _i: {"raw": 0})
    s = put(
        s, "table_frame", page, use=Use.NEW, owner=domain, level=level + 1, base0=i0, base1=ite(level >= 1, i1, 0),
        base2=ite(level >= 2, i2, 0), linked=False, parent=here.table, slot=position,
    )
    return accept(aim(s, domain, level, i0, i1, i2, i3, phase=Phase.LINK, table=here.table, page=page, inserting=True,
                      must_flush=False))


@transition(theory="tables")
def link_table(s: TableState, domain: DomId) -> Outcome[TableState]:
    """Let the word lead to the new, empty table.

    Source: xen/arch/arm/p2m.c (p2m_create_table), Xen 4.17.
    """
    work = s.work[domain]
    legal(work.phase == Phase.LINK, "an empty table is ready")
    position = index_at(work.level, work.i0, work.i1, work.i2, work.i3)
    s = store(s, work.table, position, table_word(work.page))
    s = put(s, "table_frame", work.page, use=Use.TABLE, linked=True)
    return accept(put(s, "work", domain, phase=Phase.IDLE))


# ---- splitting a block


@transition(theory="tables")
def prepare_split(s: TableState, domain: DomId, i0: Index, i1: Index, i2: Index, i3: Index, level: U8,
                  page: Mfn) -> Outcome[TableState]:
    """Take a page for the table that will take the place of a block, and write the pieces of the block into it.

    level: of the block [1..2].  page: of the domain's pool, chosen by Xen.
    Errors: as ``prepare_table``.
    Source: xen/arch/arm/p2m.c (p2m_split_superpage), Xen 4.17.
    """
    if not s.space[domain].alive:
        return refuse(s, -ENOMEM)
    gfn = gfn_of(i0, i1, i2, i3)
    if not covered(s, gfn):
        return refuse(s, -EINVAL)
    legal(may_begin(s, domain, i0, i1, i2, i3), "the p2m lock was just taken")
    legal(s.table_frame[page].use == Use.POOL, "an unused page of the pool")
    legal(one_of(level, 1, 2), "blocks are of 1 GiB or 2 MiB")
    legal(s.shape[ONE].start_level <= level, "a level of the tables")
    level = U8(literal(level, 1, 2))
    here = place(s, domain, gfn, level)
    legal(here.exists, "the walk has come so far")
    position = index_at(level, i0, i1, i2, i3)
    block = word_at(s, here.table, position)
    legal(maps_memory(block, level), "a block is mapped here")
    s = fill(s, "cell", (page, span(0, ENTRIES)), lambda _row, _m, i: {"raw": encode(piece(block, i, level))})
    s = put(
        s, "table_frame", page, use=Use.NEW, owner=domain, level=level + 1, base0=i0, base1=i1,
        base2=ite(level >= 2, i2, 0), linked=False, parent=here.table, slot=position,
    )
    return accept(aim(
        s, domain, level, i0, i1, i2, i3, phase=Phase.BREAK, table=here.table, page=page, inserting=False,
        twice=False, must_flush=False, type=block.type, frame=block.frame, read=block.read, write=block.write,
        execute=neg(block.xn), valid=block.valid, moved=True,
    ))


@transition(theory="tables")
def split_piece(s: TableState, domain: DomId, page: Mfn) -> Outcome[TableState]:
    """Of a block of 1 GiB that is split down to pages, split the piece of 2 MiB with the page that is meant, too.

    Nothing leads to either table yet.  If the pool has no page for the second one Xen gives the first one back: then
    nothing was begun.
    page: of the domain's pool, chosen by Xen.
    Source: xen/arch/arm/p2m.c (p2m_split_superpage), Xen 4.17.
    """
    work = s.work[domain]
    legal(both(work.phase == Phase.BREAK, work.level == 1, neg(work.twice)), "the pieces of 2 MiB are written")
    legal(s.table_frame[page].use == Use.POOL, "an unused page of the pool")
    block = word_at(s, work.page, work.i2)
    s = fill(s, "cell", (page, span(0, ENTRIES)), lambda _row, _m, i: {"raw": encode(piece(block, i, 2))})
    s = put(s, "table_frame", page, use=Use.NEW, owner=domain, level=LEAF_LEVEL, base0=work.i0, base1=work.i1,
            base2=work.i2, linked=False, parent=work.page, slot=work.i2)
    s = store(s, work.page, work.i2, table_word(page))
    return accept(put(s, "work", domain, twice=True, piece_page=page))


@transition(theory="tables")
def break_block(s: TableState, domain: DomId) -> Outcome[TableState]:
    """Take the block out: until its pieces are linked, every access there faults.

    Source: xen/arch/arm/p2m.c (__p2m_set_entry), Xen 4.17.
    """
    work = s.work[domain]
    legal(work.phase == Phase.BREAK, "the pieces are written")
    level = literal(work.level, 1, 2)
    s = clear(s, work.table, index_at(level, work.i0, work.i1, work.i2, work.i3))
    s = fill_mapped(s, domain, level, work.i0, work.i1, work.i2, work.i3, {"broken": True, "moved": True})
    s = put(s, "space", domain, flush=True)
    return accept(put(s, "work", domain, phase=Phase.MAKE_TABLE, must_flush=True))


@transition(theory="tables")
def make_table(s: TableState, domain: DomId) -> Outcome[TableState]:
    """Link the pieces in the place of the block.

    Source: xen/arch/arm/p2m.c (__p2m_set_entry), Xen 4.17.
    """
    work = s.work[domain]
    legal(both(work.phase == Phase.MAKE_TABLE, neg(work.must_flush)), "the block is out, and no cache holds it")
    level = literal(work.level, 1, 2)
    way = place(s, domain, gfn_of(work.i0, work.i1, work.i2, work.i3), level)
    s = store(s, work.table, index_at(level, work.i0, work.i1, work.i2, work.i3), table_word(work.page))
    s = put(s, "table_frame", work.page, use=Use.TABLE, linked=True)
    s = fill_mapped(
        s, domain, level, work.i0, work.i1, work.i2, work.i3,
        {"broken": False, "moved": False, "level": level + 1, "hardware": both(way.hardware, work.valid)},
    )
    if level == 1:
        if work.twice:
            s = put(s, "table_frame", work.piece_page, use=Use.TABLE, linked=True)
            s = fill_mapped(s, domain, 2, work.i0, work.i1, work.i2, work.i3, {"level": LEAF_LEVEL})
    return accept(put(s, "work", domain, phase=Phase.IDLE))


# ---- mapping


@transition(theory="tables")
def insert_leaf(s: TableState, domain: DomId, i0: Index, i1: Index, i2: Index, i3: Index, level: U8, frame: Mfn,
           kind: U8, access: U8) -> Outcome[TableState]:
    """Map a page or a block, or change what is mapped; a valid word is first taken out.

    level: [1..3].  frame: first of the frames.  kind: a ``P2mType``.  access: an ``Access``.
    Errors: as ``prepare_table``.
    Source: xen/arch/arm/p2m.c (__p2m_set_entry, p2m_set_entry), Xen 4.17.
    """
    if not s.space[domain].alive:
        return refuse(s, -ENOMEM)
    gfn = gfn_of(i0, i1, i2, i3)
    if not covered(s, gfn):
        return refuse(s, -EINVAL)
    legal(may_begin(s, domain, i0, i1, i2, i3), "the p2m lock was just taken")
    legal(both(P2mType.RAM_RW <= kind, kind <= P2mType.IOMMU_MAP_RO), "a type of mapping")
    legal(one_of(level, 1, 2, 3), "4 KiB, 2 MiB or 1 GiB")
    legal(s.shape[ONE].start_level <= level, "a level of the tables")
    legal(implies(s.space[domain].mem_access, level == LEAF_LEVEL), "a monitor watches single pages")
    level = U8(literal(level, 1, 3))
    here = place(s, domain, gfn, level)
    legal(here.exists, "tables lead down to this level")
    size = frames_below(level)
    legal(both(frame % size == 0, gfn % size == 0), "the size is chosen by what both numbers are multiples of")
    legal(frame + size <= s.shape[ONE].output_frames, "the machine reaches so far")
    legal(every(s.table_frame, span(frame, size), lambda row, _m: row.use == Use.MEMORY), "memory, not tables")
    position = index_at(level, i0, i1, i2, i3)
    old = word_at(s, here.table, position)
    new = leaf(frame, kind, access, level)
    meant: dict[str, object] = {
        "type": kind, "frame": frame, "read": new.read, "write": new.write, "execute": neg(new.xn), "level": level,
    }
    s = fill(s, "given", (domain, span(frame, size)), lambda _row, _d, _m: {"yes": True})
    s = unlink(s, old, level)
    s = aim(s, domain, level, i0, i1, i2, i3, inserting=True, table=here.table, must_flush=False,
            **{name: meant[name] for name in ("type", "frame", "read", "write", "execute")})
    if not old.valid:
        s = store(s, here.table, position, new)
        return accept(fill_mapped(s, domain, level, i0, i1, i2, i3,
                                  {**meant, "broken": False, "moved": False, "hardware": here.hardware}, 1))
    s = clear(s, here.table, position)
    s = put(s, "space", domain, flush=True)
    # a monitor changes permissions alone: what is cached is the same memory, and the flush can wait
    waits = both(s.space[domain].mem_access, maps_memory(old, level), same_but_permissions(old, new))
    s = fill_mapped(s, domain, level, i0, i1, i2, i3, {**meant, "broken": True, "moved": neg(waits)}, 1)
    return accept(put(s, "work", domain, phase=Phase.MAKE_LEAF, moved=neg(waits), must_flush=neg(waits)))


def same_but_permissions(old: Descriptor, new: Descriptor) -> Boolean:
    """Two words differ at most in what they permit.

    Source: xen/arch/arm/include/asm/lpae.h (P2M_CLEAR_PERM), Xen 4.17.
    """
    return both(
        old.valid == new.valid, old.table == new.table, old.memattr == new.memattr, old.sh == new.sh, old.af == new.af,
        old.frame == new.frame, old.contiguous == new.contiguous, old.type == new.type,
    )


@transition(theory="tables")
def make_leaf(s: TableState, domain: DomId) -> Outcome[TableState]:
    """Write the new leaf.

    Source: xen/arch/arm/p2m.c (__p2m_set_entry), Xen 4.17.
    """
    work = s.work[domain]
    legal(both(work.phase == Phase.MAKE_LEAF, neg(work.must_flush)), "the old word is out, and no cache holds it")
    level = literal(work.level, 1, 3)
    way = place(s, domain, gfn_of(work.i0, work.i1, work.i2, work.i3), level)
    new = leaf_with(work.frame, work.type, level, read=work.read, write=work.write, execute=work.execute)
    s = store(s, work.table, index_at(level, work.i0, work.i1, work.i2, work.i3), new)
    s = fill_mapped(s, domain, level, work.i0, work.i1, work.i2, work.i3,
                    {"broken": False, "moved": False, "hardware": way.hardware})
    return accept(put(s, "work", domain, phase=Phase.IDLE))


@transition(theory="tables")
def remove_word(s: TableState, domain: DomId, i0: Index, i1: Index, i2: Index, i3: Index,
                level: U8) -> Outcome[TableState]:
    """Unmap a page or a block, or everything below a table; the flush waits until the lock is released.

    level: [1..3].
    Errors: as ``prepare_table``.
    Source: xen/arch/arm/p2m.c (__p2m_set_entry), Xen 4.17.
    """
    if not s.space[domain].alive:
        return refuse(s, -ENOMEM)
    gfn = gfn_of(i0, i1, i2, i3)
    if not covered(s, gfn):
        return refuse(s, -EINVAL)
    legal(at_rest(s, domain, i0, i1, i2, i3), "no other change is half done")
    legal(one_of(level, 1, 2, 3), "4 KiB, 2 MiB or 1 GiB")
    legal(s.shape[ONE].start_level <= level, "a level of the tables")
    level = U8(literal(level, 1, 3))
    here = place(s, domain, gfn, level)
    # nothing is mapped there
    if not here.exists:
        return accept(s)
    return accept(_take_out(s, domain, level, i0, i1, i2, i3, here.table))


def _take_out(s: TableState, domain: DomId, level: int, i0: Index, i1: Index, i2: Index, i3: Index,
              frame: Mfn) -> TableState:
    """Clear the word of a level that covers a guest frame."""
    position = index_at(level, i0, i1, i2, i3)
    old = word_at(s, frame, position)
    s = clear(s, frame, position)
    s = unlink(s, old, level)
    s = reset_mapped(s, domain, level, i0, i1, i2, i3, UNMAPPED)
    s = put(s, "space", domain, flush=either(s.space[domain].flush, old.valid))
    return aim(s, domain, level, i0, i1, i2, i3, inserting=False)


# ---- the valid bit


@transition(theory="tables")
def invalidate_word(s: TableState, domain: DomId, i0: Index, i1: Index, i2: Index, i3: Index,
                    level: U8) -> Outcome[TableState]:
    """Clear the valid bit of a word, to learn of the next access: of a word of the root, or below an invalid one.

    level: [0..3].
    Source: xen/arch/arm/p2m.c (p2m_invalidate_root, p2m_invalidate_table), Xen 4.17.
    """
    gfn = gfn_of(i0, i1, i2, i3)
    legal(both(s.space[domain].alive, covered(s, gfn)), "a word of the domain's tables")
    legal(at_rest(s, domain, i0, i1, i2, i3), "no other change is half done")
    legal(both(s.shape[ONE].start_level <= level, level <= LEAF_LEVEL), "a level of the tables")
    level = U8(literal(level, 0, 3))
    here = place(s, domain, gfn, level)
    legal(here.exists, "a word of the domain's tables")
    position = index_at(level, i0, i1, i2, i3)
    old = word_at(s, here.table, position)
    legal(old.valid, "words that are not valid are left alone")
    s = set_valid(s, here.table, position, valid=False)
    s = reset_mapped(s, domain, level, i0, i1, i2, i3, {"hardware": False})
    s = put(s, "space", domain, flush=True)
    return accept(aim(s, domain, level, i0, i1, i2, i3, inserting=False))


@transition(theory="tables")
def resolve_fault(s: TableState, domain: DomId, i0: Index, i1: Index, i2: Index, i3: Index,
                  level: U8) -> Outcome[TableState]:
    """A guest met a word without valid bit: if it is live, set the bit; the words of a table behind it lose theirs.

    level: of the first word on the way that is not valid, or that maps memory [0..3].
    Errors: EINVAL if nothing is mapped there: the fault is the guest's.
    Source: xen/arch/arm/p2m.c (p2m_resolve_translation_fault), Xen 4.17.
    """
    gfn = gfn_of(i0, i1, i2, i3)
    if not both(s.space[domain].alive, covered(s, gfn)):
        return refuse(s, -EINVAL)
    legal(at_rest(s, domain, i0, i1, i2, i3), "no other change is half done")
    legal(both(s.shape[ONE].start_level <= level, level <= LEAF_LEVEL), "a level of the tables")
    level = U8(literal(level, 0, 3))
    here = place(s, domain, gfn, level)
    legal(here.hardware, "all words before it are valid")
    position = index_at(level, i0, i1, i2, i3)
    entry = word_at(s, here.table, position)
    # somebody else has repaired it
    if entry.valid:
        return accept(s)
    if not is_live(entry):
        return refuse(s, -EINVAL)
    s = aim(s, domain, level, i0, i1, i2, i3, inserting=False)
    # a word of level 0 never maps memory
    if either(level == 0, leads_to_table(entry, level)):
        s = fill(s, "cell", (entry.frame, span(0, ENTRIES)),
                 lambda row, _m, _i: {"raw": encode(evolve(view(row), valid=False), row.raw)})
        s = put(s, "space", domain, flush=True)
        return accept(set_valid(s, here.table, position, valid=True))
    s = set_valid(s, here.table, position, valid=True)
    return accept(fill_mapped(s, domain, level, i0, i1, i2, i3, {"hardware": True}))
