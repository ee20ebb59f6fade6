"""What holds of stage-2 tables and of the caches of the hardware, after every single store."""

from __future__ import annotations

from spec.language import (
    U8,
    U16,
    Boolean,
    DomId,
    Index,
    Mfn,
    both,
    either,
    implies,
    invariant,
    ite,
    neg,
    one_of,
    two_state,
    within,
)
from spec.memory.descriptors import (
    ENTRIES,
    LEAF_LEVEL,
    Descriptor,
    is_live,
    leads_to_table,
    maps_memory,
    may_execute,
    may_write,
    memattr_of,
    shareability_of,
)
from spec.memory.geometry import frames_below, root_page
from spec.memory.tables import (
    ONE,
    Mapped,
    Phase,
    TableFrame,
    TableState,
    Use,
    Work,
    covered,
    found,
    gfn_of,
    index_at,
    is_mapped,
    is_seen,
    offset_in,
    place,
    root_of,
    same_block,
    translated,
    translated_from,
    word_at,
)
from spec.memory.walk import Fault, Translation
from spec.state import P2mType

MAX_OUTPUT_FRAMES = 1 << 36
"""Frames that a word can name."""


# ---- the shape


@invariant("INV-TAB-SHAPE", over="shape", fulfils="SR-MEM-18", theory="tables")
def shape_is_allowed(s: TableState, key: Index) -> Boolean:
    """The tables have a shape that the architecture allows: see ``spec.memory.geometry``."""
    row = s.shape[key]
    return implies(key == ONE, both(
        row.start_level <= 2,
        one_of(row.root_pages, 1, 2, 4, 8, 16),
        implies(row.start_level == 0, row.root_pages == 1),
        0 < row.ipa_frames,
        implies(row.start_level == 0, row.ipa_frames <= frames_below(-1)),
        implies(row.start_level == 1, row.ipa_frames <= row.root_pages * frames_below(0)),
        implies(row.start_level == 2, row.ipa_frames <= row.root_pages * frames_below(1)),
        row.output_frames <= MAX_OUTPUT_FRAMES,
    ))


# ---- table pages


def is_base(row: TableFrame, level: int, i0: Index, i1: Index, i2: Index) -> Boolean:
    """The table is the one of this level that translates a guest frame."""
    return both(
        row.level == level,
        row.base0 == ite(level >= 1, i0, 0),
        row.base1 == ite(level >= 2, i1, 0),
        row.base2 == ite(level >= 3, i2, 0),
    )


def is_table_of(row: TableFrame, domain: DomId) -> Boolean:
    """The frame is a table of the domain."""
    return both(row.use == Use.TABLE, row.owner == domain)


@invariant("INV-TAB-ROOT", over="mapped", fulfils="SR-MEM-18", theory="tables")
def root_is_a_table(s: TableState, domain: DomId, i0: Index, i1: Index, i2: Index, i3: Index) -> Boolean:
    """Each page of a root table is a table of its domain, of the start level, for its own guest frames."""
    gfn = gfn_of(i0, i1, i2, i3)
    start = s.shape[ONE].start_level
    row = s.table_frame[root_of(s, domain, gfn)]
    return implies(both(s.space[domain].alive, covered(s, gfn)), both(
        is_table_of(row, domain), row.linked, row.parent == root_of(s, domain, gfn),
        is_root_base(row, start, root_page(gfn, start)),
        s.space[domain].root + root_page(gfn, start) < s.shape[ONE].output_frames,
    ))


def is_root_base(row: TableFrame, start: int, page: int) -> Boolean:
    """The table is this page of a root table."""
    return both(
        row.level == start, row.base0 == ite(start == 1, page, 0), row.base1 == ite(start == 2, page, 0),
        row.base2 == 0,
    )


def is_split(work: Work) -> Boolean:
    """A block is being split."""
    return one_of(work.phase, Phase.BREAK, Phase.MAKE_TABLE)


def is_to_be_linked(work: Work, frame: Mfn) -> Boolean:
    """The frame is the table that the call under way will link, or the one to which a word of that table leads."""
    return either(
        both(either(is_split(work), work.phase == Phase.LINK), work.page == frame),
        both(is_split(work), work.twice, work.piece_page == frame),
    )


@invariant("INV-TAB-PAGE", over="table_frame", fulfils="SR-MEM-18", theory="tables")
def table_has_an_owner(s: TableState, frame: Mfn) -> Boolean:
    """A table belongs to a domain that has a root table; one of the start level is part of that root table."""
    row = s.table_frame[frame]
    space, start = s.space[row.owner], s.shape[ONE].start_level
    return both(
        implies(row.use != Use.FREE, frame < s.shape[ONE].output_frames),
        implies(one_of(row.use, Use.TABLE, Use.NEW), both(space.alive, start <= row.level, row.level <= LEAF_LEVEL)),
        implies(row.use == Use.NEW, both(start < row.level, is_to_be_linked(s.work[row.owner], frame))),
        implies(both(row.use == Use.TABLE, row.level == start),
                within(frame, space.root, s.shape[ONE].root_pages)),
        implies(row.unflushed, row.use == Use.FREE),
    )


@invariant("INV-TAB-CHILD", over="cell", fulfils="SR-MEM-18", theory="tables")
def word_leads_to_its_own_table(s: TableState, frame: Mfn, position: Index) -> Boolean:
    """A word that leads to a table leads to one of the same domain and the next level, for its own guest frames.

    That table is led to by no other word: it says which one it is.
    """
    row, entry = s.table_frame[frame], word_at(s, frame, position)
    child = s.table_frame[entry.frame]
    return implies(both(row.use == Use.TABLE, leads_to_table(entry, row.level)), both(
        is_table_of(child, row.owner), child.linked, child.parent == frame, child.slot == position,
        child.level == row.level + 1,
        child.base0 == ite(row.level == 0, position, row.base0),
        child.base1 == ite(row.level == 1, position, row.base1),
        child.base2 == ite(row.level == 2, position, row.base2),
    ))


@invariant("INV-TAB-LINKED", over="table_frame", fulfils="SR-MEM-18", theory="tables")
def linked_tables_are_led_to(s: TableState, frame: Mfn) -> Boolean:
    """A table to which something is said to lead is part of a root table, or the word on record does lead to it."""
    row = s.table_frame[frame]
    above = s.table_frame[row.parent]
    entry = word_at(s, row.parent, row.slot)
    return implies(row.linked, both(
        row.use == Use.TABLE,
        either(row.level == s.shape[ONE].start_level, both(
            is_table_of(above, row.owner), above.level + 1 == row.level, row.slot < ENTRIES,
            leads_to_table(entry, above.level), entry.frame == frame,
        )),
    ))


@invariant("INV-TAB-FORM", over="cell", fulfils="SR-MEM-18", theory="tables")
def words_are_well_formed(s: TableState, frame: Mfn, position: Index) -> Boolean:
    """Each word of a table has the form of a descriptor of its level; what the hardware accepts is live for Xen."""
    row, entry = s.table_frame[frame], word_at(s, frame, position)
    return implies(row.use == Use.TABLE, is_well_formed(entry, row.level, s.shape[ONE].output_frames))


def is_well_formed(entry: Descriptor, level: int, output_frames: int) -> Boolean:
    """The word is empty, leads to a table, or is a leaf with the attributes of its type."""
    return both(
        implies(entry.valid, is_live(entry)),
        implies(is_live(entry), entry.frame < output_frames),
        implies(maps_memory(entry, level), both(
            1 <= level, entry.table == (level == LEAF_LEVEL), entry.af, neg(entry.contiguous),
            entry.memattr == memattr_of(entry.type), entry.sh == shareability_of(entry.type),
            fits(entry.frame, level, output_frames),
        )),
    )


def fits(frame: Mfn, level: int, output_frames: int) -> Boolean:
    """A block of this level may begin at the frame: aligned to its size, and the machine reaches to its end."""
    return both(
        frame < output_frames,
        implies(level == 2, both(frame % ENTRIES == 0, frame + frames_below(2) <= output_frames)),
        implies(level == 1, both(frame % (ENTRIES * ENTRIES) == 0, frame + frames_below(1) <= output_frames)),
    )


# ---- the tables are the mappings


@invariant("INV-TAB-REFINES", over="mapped", fulfils=("SR-MEM-18", "SR-MEM-15"), theory="tables")
def walk_is_the_mapping(s: TableState, domain: DomId, i0: Index, i1: Index, i2: Index, i3: Index) -> Boolean:
    """The hardware's walk of the tables gives exactly what Xen holds to be mapped, or a fault while it is replaced."""
    row, gfn = s.mapped[domain, i0, i1, i2, i3], gfn_of(i0, i1, i2, i3)
    walked = translated(s, domain, gfn)
    goes_through = walked.fault == Fault.NONE
    return implies(s.space[domain].alive, both(
        goes_through == both(is_seen(row), gfn < s.shape[ONE].ipa_frames),
        implies(goes_through, both(
            walked.frame == row.frame, walked.level == row.level, walked.type == row.type,
            walked.read == row.read, walked.write == row.write,
            walked.execute == both(row.execute, either(neg(s.shape[ONE].arm32), row.read)),
            walked.memattr == memattr_of(row.type), walked.sh == shareability_of(row.type),
        )),
    ))


@invariant("INV-TAB-LOOKUP", over="mapped", fulfils="SR-MEM-18", theory="tables")
def lookup_is_the_mapping(s: TableState, domain: DomId, i0: Index, i1: Index, i2: Index, i3: Index) -> Boolean:
    """What Xen reads in the tables is what it holds to be mapped."""
    row = s.mapped[domain, i0, i1, i2, i3]
    seen = found(s, domain, gfn_of(i0, i1, i2, i3))
    return implies(s.space[domain].alive, both(
        seen.live == both(is_mapped(row), neg(row.broken)),
        implies(seen.live, both(
            seen.frame == row.frame, seen.level == row.level, seen.type == row.type, seen.hardware == row.hardware,
            seen.read == row.read, seen.write == row.write, seen.execute == row.execute,
        )),
    ))


@invariant("INV-TAB-MEMORY", over="mapped", fulfils=("SR-MEM-2", "SR-MEM-18"), theory="tables")
def mapping_leads_to_memory(s: TableState, domain: DomId, i0: Index, i1: Index, i2: Index, i3: Index) -> Boolean:
    """What is mapped is memory that the domain was given: never a table, never a free frame."""
    row = s.mapped[domain, i0, i1, i2, i3]
    return implies(is_mapped(row), both(
        s.space[domain].alive, s.table_frame[row.frame].use == Use.MEMORY, s.given[domain, row.frame].yes,
        row.type <= P2mType.IOMMU_MAP_RO,
    ))


@invariant("INV-TAB-RIGHTS", over="mapped", fulfils="SR-MEM-18", theory="tables")
def rights_are_those_of_the_type(s: TableState, domain: DomId, i0: Index, i1: Index, i2: Index, i3: Index) -> Boolean:
    """A mapping permits no more than its type does."""
    row = s.mapped[domain, i0, i1, i2, i3]
    return implies(is_mapped(row), both(
        implies(row.write, may_write(row.type)), implies(row.execute, may_execute(row.type)),
    ))


# ---- changes under way


def in_work(work: Work, i0: Index, i1: Index, i2: Index, i3: Index) -> Boolean:
    """The word that the call is about covers the guest frame."""
    return same_block(work.level, work.i0, work.i1, work.i2, work.i3, i0, i1, i2, i3)


def is_broken_phase(work: Work) -> Boolean:
    """A word was taken out and is about to be written again."""
    return one_of(work.phase, Phase.MAKE_TABLE, Phase.MAKE_LEAF)


@invariant("INV-TAB-WORK", over="work", fulfils="SR-MEM-18", theory="tables")
def work_is_about_its_word(s: TableState, domain: DomId) -> Boolean:
    """What Xen still has to store fits the word for which it is meant."""
    work, space, shape = s.work[domain], s.space[domain], s.shape[ONE]
    gfn = gfn_of(work.i0, work.i1, work.i2, work.i3)
    here = place(s, domain, gfn, work.level)
    entry = word_at(s, work.table, index_at(work.level, work.i0, work.i1, work.i2, work.i3))
    row, page = s.table_frame[work.table], s.table_frame[work.page]
    inner = s.table_frame[work.piece_page]
    split = is_split(work)
    leaf = work.phase == Phase.MAKE_LEAF
    return both(
        work.phase <= Phase.MAKE_LEAF,
        s.mapped[domain, work.i0, work.i1, work.i2, work.i3].broken == is_broken_phase(work),
        implies(work.phase != Phase.IDLE, both(
            space.alive, covered(s, gfn), shape.start_level <= work.level, work.level <= LEAF_LEVEL,
            here.exists, here.table == work.table,
            is_table_of(row, domain), is_base(row, work.level, work.i0, work.i1, work.i2),
        )),
        implies(one_of(work.phase, Phase.LINK, Phase.MAKE_TABLE, Phase.MAKE_LEAF), neg(is_live(entry))),
        implies(either(split, work.phase == Phase.LINK), both(
            work.level < LEAF_LEVEL, page.use == Use.NEW, page.owner == domain,
            is_base(page, work.level + 1, work.i0, work.i1, work.i2),
            page.parent == work.table, page.slot == index_at(work.level, work.i0, work.i1, work.i2, work.i3),
        )),
        implies(both(split, work.twice), both(
            work.level == 1, inner.use == Use.NEW, inner.owner == domain,
            is_base(inner, LEAF_LEVEL, work.i0, work.i1, work.i2),
            inner.parent == work.page, inner.slot == work.i2,
        )),
        implies(either(split, leaf), both(
            P2mType.RAM_RW <= work.type, work.type <= P2mType.IOMMU_MAP_RO, 1 <= work.level,
            fits(work.frame, work.level, shape.output_frames),
        )),
        implies(work.phase == Phase.BREAK, both(
            maps_memory(entry, work.level), entry.type == work.type, entry.frame == work.frame, entry.read == work.read,
            entry.write == work.write, entry.xn == neg(work.execute), entry.valid == work.valid,
        )),
        implies(split, work.moved),
        # a store that moves memory waits for its flush
        implies(both(is_broken_phase(work), work.moved, neg(work.must_flush)), neg(space.flush)),
    )


@invariant("INV-TAB-NEW", over="cell", fulfils="SR-MEM-18", theory="tables")
def new_table_is_filled(s: TableState, frame: Mfn, position: Index) -> Boolean:
    """A table that is about to be linked is empty, or holds the pieces of the block whose place it takes.

    Of a block of 1 GiB that is split down to pages, one of the words leads to a table with the pieces of its piece.
    """
    row, entry = s.table_frame[frame], word_at(s, frame, position)
    work, output_frames = s.work[row.owner], s.shape[ONE].output_frames
    step = ite(row.level == LEAF_LEVEL, position, position * ENTRIES)
    inner = row.level == work.level + 2
    first = work.frame + ite(inner, work.i2 * ENTRIES, 0)
    leads = both(neg(inner), work.twice, position == work.i2)
    return implies(row.use == Use.NEW, both(
        either(row.level == work.level + 1, both(inner, work.twice)),
        implies(work.phase == Phase.LINK, both(neg(entry.valid), neg(is_live(entry)))),
        implies(work.phase != Phase.LINK, is_well_formed(entry, row.level, output_frames)),
        implies(both(work.phase != Phase.LINK, leads), both(
            leads_to_table(entry, row.level), entry.valid, entry.frame == work.piece_page,
        )),
        implies(both(work.phase != Phase.LINK, neg(leads)), both(
            maps_memory(entry, row.level), entry.type == work.type, entry.frame == first + step,
            entry.read == work.read, entry.write == work.write, entry.xn == neg(work.execute),
            entry.valid == work.valid,
        )),
    ))


@invariant("INV-TAB-BROKEN", over="mapped", fulfils="SR-MEM-18", theory="tables")
def broken_rows_are_being_replaced(s: TableState, domain: DomId, i0: Index, i1: Index, i2: Index, i3: Index) -> Boolean:
    """Exactly what is being replaced faults, and what Xen means it to be is what it is about to store."""
    row, work = s.mapped[domain, i0, i1, i2, i3], s.work[domain]
    here = in_work(work, i0, i1, i2, i3)
    replaced = both(here, is_broken_phase(work))
    return both(
        row.broken == replaced,
        row.moved == both(replaced, work.moved),
        implies(both(here, either(is_broken_phase(work), work.phase == Phase.BREAK)), both(
            is_mapped(row), row.type == work.type, row.frame == work.frame + offset_in(work.level, i1, i2, i3),
            row.read == work.read, row.write == work.write, row.execute == work.execute, row.level == work.level,
        )),
    )


@invariant("INV-TAB-FLUSH", over="work", fulfils="SR-MEM-17", theory="tables")
def awaited_flushes_are_pending(s: TableState, domain: DomId) -> Boolean:
    """Where the next store waits for a flush, a flush is pending."""
    return implies(s.work[domain].must_flush, s.space[domain].flush)


# ---- what caches may hold


def serves(s: TableState, vmid: U16) -> Boolean:
    """The hardware may walk and cache under this VMID."""
    return both(s.tag[vmid].used, s.space[s.tag[vmid].domain].alive)


@invariant("INV-TLB-VMID", over="space", fulfils="SR-MEM-17", theory="tables")
def vmid_is_its_own(s: TableState, domain: DomId) -> Boolean:
    """A domain's VMID belongs to no other domain."""
    space = s.space[domain]
    tag = s.tag[space.vmid]
    return both(
        implies(space.named, both(tag.used, tag.domain == domain, space.vmid != 0)),
        implies(space.alive, space.named),
    )


@invariant("INV-TLB-TAG", over="tag", fulfils="SR-MEM-17", theory="tables")
def tag_names_its_domain(s: TableState, vmid: U16) -> Boolean:
    """A VMID in use is that of its domain."""
    tag = s.tag[vmid]
    return implies(tag.used, both(s.space[tag.domain].named, s.space[tag.domain].vmid == vmid))


@invariant("INV-TLB-RANGE", over="tlb", fulfils="SR-MEM-17", theory="tables")
def cached_is_in_range(s: TableState, vmid: U16, i0: Index, i1: Index, i2: Index, i3: Index) -> Boolean:
    """No translation of an address that is too large is cached."""
    return implies(s.tlb[vmid, i0, i1, i2, i3].cached, gfn_of(i0, i1, i2, i3) < s.shape[ONE].ipa_frames)


@invariant("INV-TLB-TABLE-RANGE", over="walk_cache", fulfils="SR-MEM-17", theory="tables")
def cached_table_is_in_range(s: TableState, vmid: U16, level: U8, i0: Index, i1: Index, i2: Index, i3: Index
                             ) -> Boolean:
    """No table pointer for an address that is too large is cached."""
    cached = s.walk_cache[vmid, level, i0, i1, i2, i3].cached
    return implies(cached, gfn_of(i0, i1, i2, i3) < s.shape[ONE].ipa_frames)


@invariant("INV-TLB-CURRENT", over="tlb", fulfils=("SR-MEM-17", "SR-GNT-7"), theory="tables")
def cached_is_current(s: TableState, vmid: U16, i0: Index, i1: Index, i2: Index, i3: Index) -> Boolean:
    """Unless a flush is pending, a cached translation is what the tables say now."""
    domain = s.tag[vmid].domain
    cached, row = s.tlb[vmid, i0, i1, i2, i3], s.mapped[domain, i0, i1, i2, i3]
    return implies(both(cached.cached, serves(s, vmid), neg(s.space[domain].flush)), both(
        is_seen(row), cached.frame == row.frame, cached.level == row.level, cached.type == row.type,
        cached.read == row.read, cached.write == row.write,
        cached.execute == both(row.execute, either(neg(s.shape[ONE].arm32), row.read)),
    ))


@invariant("INV-TLB-BREAK", over="tlb", fulfils="SR-MEM-17", theory="tables")
def cached_never_contradicts(s: TableState, vmid: U16, i0: Index, i1: Index, i2: Index, i3: Index) -> Boolean:
    """Break before make: what is cached and what is mapped are never two different frames, sizes or attributes."""
    domain = s.tag[vmid].domain
    cached, row = s.tlb[vmid, i0, i1, i2, i3], s.mapped[domain, i0, i1, i2, i3]
    return implies(both(cached.cached, serves(s, vmid), is_mapped(row), neg(row.moved)), both(
        cached.frame == row.frame, cached.level == row.level, cached.type == row.type,
    ))


def is_reachable(s: TableState, domain: DomId, frame: Mfn) -> Boolean:
    """A cache may still lead a domain to this frame: it had it, and nobody has got it since."""
    row = s.table_frame[frame]
    return both(s.given[domain, frame].yes, either(row.use == Use.MEMORY, both(row.use == Use.FREE, row.unflushed)))


@invariant("INV-TLB-REUSE", over="tlb", fulfils=("SR-MEM-3", "SR-MEM-17", "SR-GNT-7"), theory="tables")
def cached_frame_is_not_reused(s: TableState, vmid: U16, i0: Index, i1: Index, i2: Index, i3: Index) -> Boolean:
    """A frame that a cached translation leads to has not been handed out again, and is flushed before it is."""
    cached = s.tlb[vmid, i0, i1, i2, i3]
    return implies(both(cached.cached, serves(s, vmid)), is_reachable(s, s.tag[vmid].domain, cached.frame))


@invariant("INV-TLB-TABLE", over="walk_cache", fulfils="SR-MEM-17", theory="tables")
def cached_table_is_a_table(s: TableState, vmid: U16, level: U8, i0: Index, i1: Index, i2: Index, i3: Index) -> Boolean:
    """A cached table pointer leads to a table of the domain, of its level, for these guest frames: never reused."""
    cached = s.walk_cache[vmid, level, i0, i1, i2, i3]
    row = s.table_frame[cached.table]
    return implies(both(cached.cached, serves(s, vmid)), both(
        s.shape[ONE].start_level < level, level <= LEAF_LEVEL, is_table_of(row, s.tag[vmid].domain),
        is_base(row, level, i0, i1, i2),
    ))


@invariant("INV-TLB-WALK", over="walk_cache", fulfils="SR-MEM-17", theory="tables")
def cached_table_is_current(s: TableState, vmid: U16, level: U8, i0: Index, i1: Index, i2: Index, i3: Index) -> Boolean:
    """Unless a flush is pending, a cached table pointer is what the tables say now."""
    domain = s.tag[vmid].domain
    cached, row = s.walk_cache[vmid, level, i0, i1, i2, i3], s.mapped[domain, i0, i1, i2, i3]
    way = place(s, domain, gfn_of(i0, i1, i2, i3), level)
    return implies(both(cached.cached, serves(s, vmid), neg(s.space[domain].flush)), both(
        covered(s, gfn_of(i0, i1, i2, i3)), gfn_of(i0, i1, i2, i3) < s.shape[ONE].ipa_frames,
        way.hardware, way.table == cached.table,
        implies(both(is_mapped(row), neg(row.broken)), level <= row.level),
    ))


@invariant("INV-TLB-STALE", over="walk_cache", fulfils=("SR-MEM-17", "SR-MEM-3"), theory="tables")
def stale_walk_is_harmless(s: TableState, vmid: U16, level: U8, i0: Index, i1: Index, i2: Index, i3: Index) -> Boolean:
    """A walk from a cached table pointer, however old, reaches no frame that was handed out again, and never
    contradicts what is mapped.
    """
    domain = s.tag[vmid].domain
    cached, row = s.walk_cache[vmid, level, i0, i1, i2, i3], s.mapped[domain, i0, i1, i2, i3]
    walked = translated_from(s, cached.table, level, gfn_of(i0, i1, i2, i3))
    return implies(both(cached.cached, serves(s, vmid), walked.fault == Fault.NONE), both(
        is_reachable(s, domain, walked.frame),
        implies(both(is_mapped(row), neg(row.moved)), contradicts_nothing(walked, row)),
    ))


def contradicts_nothing(walked: Translation, row: Mapped) -> Boolean:
    """A walk and a mapping lead to the same frame in the same way."""
    return both(walked.frame == row.frame, walked.level == row.level, walked.type == row.type)


# ---- what one store may do


@two_state("TWO-TAB-STORE", over="mapped", fulfils="SR-MEM-18", theory="tables")
def store_gives_old_fault_or_new(before: TableState, after: TableState, actor: DomId, domain: DomId,
                                 i0: Index, i1: Index, i2: Index, i3: Index) -> Boolean:
    """A store never turns one translation into another: there is a fault between the old and the new."""
    old, new = before.mapped[domain, i0, i1, i2, i3], after.mapped[domain, i0, i1, i2, i3]
    return implies(both(is_seen(old), is_seen(new)), same_mapping(old, new))


def same_mapping(old: Mapped, new: Mapped) -> Boolean:
    """Both rows say the same, apart from the valid bit."""
    return both(
        old.type == new.type, old.frame == new.frame, old.level == new.level, old.read == new.read,
        old.write == new.write, old.execute == new.execute,
    )


@two_state("TWO-TAB-ELSEWHERE", over="mapped", fulfils="SR-MEM-18", theory="tables")
def nothing_changes_elsewhere(before: TableState, after: TableState, actor: DomId, domain: DomId,
                              i0: Index, i1: Index, i2: Index, i3: Index) -> Boolean:
    """Only what the word of the call under way covers changes."""
    old, new = before.mapped[domain, i0, i1, i2, i3], after.mapped[domain, i0, i1, i2, i3]
    return either(
        in_work(after.work[domain], i0, i1, i2, i3),
        both(same_mapping(old, new), old.hardware == new.hardware, old.broken == new.broken, old.moved == new.moved),
    )


@two_state("TWO-TAB-REPAIR", over="mapped", fulfils="SR-MEM-15", theory="tables")
def repair_gives_nothing_new(before: TableState, after: TableState, actor: DomId, domain: DomId,
                             i0: Index, i1: Index, i2: Index, i3: Index) -> Boolean:
    """What the hardware comes to see is what Xen held to be mapped already, unless a caller asked for a new mapping."""
    old, new = before.mapped[domain, i0, i1, i2, i3], after.mapped[domain, i0, i1, i2, i3]
    return implies(
        both(neg(is_seen(old)), is_seen(new), neg(after.work[domain].inserting)),
        both(is_mapped(old), either(same_mapping(old, new), old.moved), old.type == new.type, old.frame == new.frame,
             old.read == new.read, old.write == new.write, old.execute == new.execute),
    )


@two_state("TWO-TAB-CLEARED", over="cell", fulfils=("SR-MEM-17", "SR-MEM-18"), theory="tables")
def taken_out_words_are_flushed(before: TableState, after: TableState, actor: DomId, frame: Mfn, position: Index
                                ) -> Boolean:
    """When a word of a table is not valid any more a flush is pending: what it led to may still be cached."""
    table = before.table_frame[frame]
    return implies(
        both(table.use == Use.TABLE, after.table_frame[frame].use == Use.TABLE, position < ENTRIES,
             word_at(before, frame, position).valid, neg(word_at(after, frame, position).valid)),
        after.space[table.owner].flush,
    )


@two_state("TWO-TAB-BREAK", over="work", fulfils="SR-MEM-18", theory="tables")
def only_valid_words_are_broken(before: TableState, after: TableState, actor: DomId, domain: DomId) -> Boolean:
    """A word is taken out before the new leaf is written only if the hardware accepted it."""
    work = after.work[domain]
    old = word_at(before, work.table, index_at(work.level, work.i0, work.i1, work.i2, work.i3))
    return implies(both(work.phase == Phase.MAKE_LEAF, before.work[domain].phase == Phase.IDLE), old.valid)


@two_state("TWO-TAB-HANDED-OUT", over="table_frame", fulfils=("SR-MEM-3", "SR-MEM-17"), theory="tables")
def flushed_frames_are_handed_out(before: TableState, after: TableState, actor: DomId, frame: Mfn) -> Boolean:
    """That caches may still lead to a free frame is forgotten only when it is handed out."""
    return implies(
        both(before.table_frame[frame].unflushed, neg(after.table_frame[frame].unflushed)),
        after.table_frame[frame].use != Use.FREE,
    )
