"""Pages of tables, frames and VMIDs: when each may be used again.

A table that was taken out is freed with all that is below it.  Freeing a table has two steps here: it is *retired*
when Xen's recursion enters it, after the flush; it goes back to the pool when the recursion leaves it.

Source: xen/arch/arm/p2m.c, xen/common/page_alloc.c, Xen 4.17.
"""

from __future__ import annotations

from spec.errors import EBUSY
from spec.language import (
    ALL,
    U16,
    Boolean,
    DomId,
    Index,
    Mfn,
    Outcome,
    Word,
    accept,
    both,
    either,
    every,
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
from spec.memory.descriptors import ENTRIES, is_live
from spec.memory.table_steps import UNMAPPED, aim, at_rest, clear, literal, unlink
from spec.memory.tables import (
    ONE,
    TableFrame,
    TableState,
    Use,
    covered,
    flush_domain,
    flush_everything,
    gfn_of,
    idle,
    index_at,
    is_mapped,
    reset_mapped,
    root_of,
    view,
    word_at,
)
from spec.state import NOBODY

# ---- flushing


@transition(theory="tables")
def flush_caches(s: TableState, domain: DomId) -> Outcome[TableState]:
    """Flush what caches hold for a domain's VMID: before a store that needs it, and when the p2m lock is released.

    Source: xen/arch/arm/p2m.c (p2m_tlb_flush_sync, p2m_write_unlock), Xen 4.17.
    """
    legal(s.space[domain].alive, "the domain has tables")
    return accept(flush_domain(s, domain))


# ---- table pages


@transition(theory="tables")
def retire_table(s: TableState, domain: DomId, page: Mfn) -> Outcome[TableState]:
    """Begin to free a table that was taken out: after a flush, if one is pending, only Xen still reads it.

    Source: xen/arch/arm/p2m.c (p2m_free_entry), Xen 4.17.
    """
    row = s.table_frame[page]
    legal(idle(s, domain), "no other change is half done")
    legal(both(s.space[domain].alive, row.use == Use.TABLE, row.owner == domain), "a table of the domain")
    legal(neg(row.linked), "nothing but caches leads to it")
    if s.space[domain].flush:
        s = flush_domain(s, domain)
    s = fill(s, "table_frame", ALL,
             lambda child, _m: {"linked": both(child.linked, neg(both(child.use == Use.TABLE, child.parent == page)))})
    return accept(put(s, "table_frame", page, use=Use.RETIRED))


@transition(theory="tables")
def free_table(s: TableState, page: Mfn) -> Outcome[TableState]:
    """Give a retired table back to the pool.

    Source: xen/arch/arm/p2m.c (p2m_free_page), Xen 4.17.
    """
    legal(s.table_frame[page].use == Use.RETIRED, "nothing can reach it")
    return accept(put(s, "table_frame", page, use=Use.POOL))


# ---- frames


def hand_out(s: TableState, page: Mfn) -> TableState:
    """The heap gives a frame away: if a domain had it last, no cache of any guest may still lead to it.

    Source: xen/common/page_alloc.c (alloc_heap_pages), xen/include/xen/mm.h (accumulate_tlbflush), Xen 4.17.
    """
    if s.table_frame[page].unflushed:
        s = flush_everything(s)
    return fill(s, "given", (ALL, page), lambda _row, _d, _m: {"yes": False})


@transition(theory="tables")
def take_frame(s: TableState, page: Mfn, for_tables: bool) -> Outcome[TableState]:
    """Take a frame from the heap, as memory that can be mapped or as a page of a pool of tables.

    Source: xen/common/page_alloc.c (alloc_heap_pages), xen/arch/arm/p2m.c (p2m_set_allocation), Xen 4.17.
    """
    legal(s.table_frame[page].use == Use.FREE, "a free frame")
    legal(page < s.shape[ONE].output_frames, "a frame of the machine")
    s = hand_out(s, page)
    return accept(put(s, "table_frame", page, use=ite(for_tables, Use.POOL, Use.MEMORY), unflushed=False))


@transition(theory="tables")
def free_frame(s: TableState, page: Mfn) -> Outcome[TableState]:
    """Memory that no domain maps any more goes back to the heap; a flush may still be pending.

    That nothing maps it is what references and ownership ensure (``spec.memory.frames``).
    Source: xen/common/page_alloc.c (free_heap_pages), Xen 4.17.
    """
    legal(s.table_frame[page].use == Use.MEMORY, "memory")
    legal(every(s.mapped, (ALL, ALL, ALL, ALL, ALL), lambda row, *_key: neg(both(is_mapped(row), row.frame == page))),
          "nothing maps it")
    return accept(put(s, "table_frame", page, use=Use.FREE, unflushed=True))


@transition(theory="tables")
def shrink_pool(s: TableState, page: Mfn) -> Outcome[TableState]:
    """An unused page of a pool goes back to the heap.

    Source: xen/arch/arm/p2m.c (p2m_set_allocation), Xen 4.17.
    """
    legal(s.table_frame[page].use == Use.POOL, "an unused page of a pool")
    return accept(put(s, "table_frame", page, use=Use.FREE, unflushed=False))


@transition(theory="tables")
def store_anywhere(s: TableState, page: Mfn, position: Index, word: Word) -> Outcome[TableState]:
    """Anybody stores anything into a frame that is no table: no translation changes."""
    use = s.table_frame[page].use
    legal(neg(one_of(use, Use.TABLE, Use.NEW)), "no table")
    return accept(put(s, "cell", (page, position), raw=word))


# ---- address spaces


@transition(theory="tables")
def take_vmid(s: TableState, domain: DomId, vmid: U16) -> Outcome[TableState]:
    """Give a domain a VMID that no other has.

    vmid: chosen by Xen; 0 is never given.
    Errors: EBUSY if there is none.
    Source: xen/arch/arm/p2m.c (p2m_alloc_vmid), Xen 4.17.
    """
    legal(neg(s.space[domain].named), "the domain has none")
    if either(vmid == 0, s.tag[vmid].used):
        return refuse(s, -EBUSY)
    s = put(s, "tag", vmid, used=True, domain=domain)
    return accept(put(s, "space", domain, named=True, vmid=vmid))


def root_pages(s: TableState, root: Mfn) -> object:
    """The frames of a root table."""
    return span(root, s.shape[ONE].root_pages)


@transition(theory="tables")
def make_root(s: TableState, domain: DomId, root: Mfn) -> Outcome[TableState]:
    """Clear the pages of the root table, and flush what caches hold for the VMID from its last use.

    root: first of as many frames as are concatenated, aligned to their number.
    Source: xen/arch/arm/p2m.c (p2m_alloc_table, p2m_allocate_root), Xen 4.17.
    """
    shape = s.shape[ONE]
    start = shape.start_level
    legal(both(s.space[domain].named, neg(s.space[domain].alive)), "a domain with a VMID and without tables")
    legal(idle(s, domain), "no change is half done")
    legal(every(s.table_frame, root_pages(s, root), lambda row, _m: row.use == Use.POOL), "unused pages of the pool")
    s = fill(s, "cell", (root_pages(s, root), span(0, ENTRIES)), lambda _row, _m, _i: {"raw": 0})
    s = fill(
        s, "table_frame", root_pages(s, root),
        lambda _row, m: {
            "use": Use.TABLE, "owner": domain, "level": start, "linked": True, "parent": m, "slot": 0,
            "base0": ite(start == 1, m - root, 0), "base1": ite(start == 2, m - root, 0), "base2": 0,
        },
    )
    s = put(s, "space", domain, alive=True, root=root)
    return accept(flush_domain(s, domain))


@transition(theory="tables")
def clear_root_word(s: TableState, domain: DomId, i0: Index, i1: Index, i2: Index) -> Outcome[TableState]:
    """A dying domain's root table is cleared, word by word.

    i0 .. i2: indices of a guest frame; those below the start level do not matter.
    Source: xen/arch/arm/p2m.c (p2m_teardown), Xen 4.17.
    """
    gfn = gfn_of(i0, i1, i2, Index(0))
    legal(both(s.space[domain].alive, covered(s, gfn)), "a word of the root table")
    legal(at_rest(s, domain, i0, i1, i2, Index(0)), "no change is half done")
    level = literal(s.shape[ONE].start_level, 0, 2)
    frame = root_of(s, domain, gfn)
    position = index_at(level, i0, i1, i2, Index(0))
    old = word_at(s, frame, position)
    s = clear(s, frame, position)
    s = unlink(s, old, level)
    s = reset_mapped(s, domain, level, i0, i1, i2, Index(0), UNMAPPED)
    s = put(s, "space", domain, flush=True)
    return accept(aim(s, domain, level, i0, i1, i2, Index(0), inserting=False))


def is_clear(s: TableState, domain: DomId) -> Boolean:
    """No word of the root table is live."""
    return every(s.cell, (root_pages(s, s.space[domain].root), span(0, ENTRIES)),
                 lambda row, _m, _i: neg(is_live(view(row))))


@transition(theory="tables")
def abandon_tables(s: TableState, domain: DomId) -> Outcome[TableState]:
    """After the root table of a dying domain is cleared and flushed, nothing leads to its other tables.

    Source: xen/arch/arm/p2m.c (p2m_teardown), Xen 4.17.
    """
    start = s.shape[ONE].start_level
    legal(both(s.space[domain].alive, neg(s.space[domain].flush), idle(s, domain)), "the caches were flushed")
    legal(is_clear(s, domain), "the root table is clear")
    return accept(fill(s, "table_frame", ALL, lambda row, _m: {
        "use": ite(_is_below_root_of(row, domain, start), Use.RETIRED, row.use),
        "linked": both(row.linked, neg(_is_below_root_of(row, domain, start))),
    }))


def _is_below_root_of(row: TableFrame, domain: DomId, start: int) -> Boolean:
    """A table of the domain that is no page of its root table."""
    return both(row.use == Use.TABLE, row.owner == domain, row.level != start)


def is_root_of(row: TableFrame, domain: DomId, start: int) -> Boolean:
    """A page of the root table: the only tables of the start level."""
    return both(row.use == Use.TABLE, row.owner == domain, row.level == start)


@transition(theory="tables")
def destroy_root(s: TableState, domain: DomId) -> Outcome[TableState]:
    """Free the root table and the VMID of a domain that has no other tables.

    Source: xen/arch/arm/p2m.c (p2m_final_teardown, p2m_free_vmid), Xen 4.17.
    """
    space = s.space[domain]
    start = s.shape[ONE].start_level
    legal(both(space.alive, neg(space.flush), idle(s, domain)), "the caches were flushed")
    legal(is_clear(s, domain), "the root table is clear")
    legal(
        every(s.table_frame, ALL,
              lambda row, _m: implies(both(one_of(row.use, Use.TABLE, Use.NEW), row.owner == domain),
                                      row.level == start)),
        "the list of its other tables is empty",
    )
    s = fill(
        s, "table_frame", ALL,
        lambda row, _m: {
            "use": ite(is_root_of(row, domain, start), Use.FREE, row.use),
            "linked": both(row.linked, neg(is_root_of(row, domain, start))),
        },
    )
    s = put(s, "tag", space.vmid, used=False, domain=NOBODY)
    return accept(put(s, "space", domain, named=False, alive=False))
