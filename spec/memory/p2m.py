"""The stage-2 mapping of a domain: what each guest frame is mapped to.

Insertion never looks at what was there before: it replaces silently.  What a replaced or removed
entry held is let go: a foreign mapping drops its reference, a frame that Xen shares with the domain
forgets where it was mapped.  A grant mapping holds nothing here: its reference is the maptrack's.

Source: xen/arch/arm/p2m.c (__p2m_set_entry, p2m_free_entry, p2m_put_l3_page, p2m_remove_mapping), Xen 4.17.
"""

from __future__ import annotations

from spec.deviations import happens
from spec.errors import EILSEQ, EINVAL, ENOENT, ENOMEM
from spec.language import (
    ALL,
    DEVIATIONS,
    Boolean,
    Deviation,
    DomId,
    Gfn,
    Handle,
    Index,
    Mfn,
    Outcome,
    accept,
    both,
    either,
    every,
    fill,
    implies,
    ite,
    legal,
    merged,
    neg,
    one_of,
    partial,
    put,
    refuse,
    span,
    transition,
)
from spec.memory.frames import put_page
from spec.state import P2mEntry, P2mType, State, Status, Use

RAM = (P2mType.RAM_RW, P2mType.RAM_RO)
FOREIGN = (P2mType.MAP_FOREIGN_RW, P2mType.MAP_FOREIGN_RO)
GRANT = (P2mType.GRANT_MAP_RW, P2mType.GRANT_MAP_RO)
DEVICE = (P2mType.MMIO_DIRECT_DEV, P2mType.MMIO_DIRECT_NC, P2mType.MMIO_DIRECT_C)

DEVIATIONS["DEV-15"] = Deviation(
    "DEV-15",
    "A page reference is leaked",
    condition="a guest frame at which a foreign frame is mapped is mapped to the same frame again (foreign or granted)",
    source="xen/arch/arm/p2m.c (__p2m_set_entry), Xen 4.17",
    consequence=(
        "the reference of the replaced foreign mapping is never dropped: the frame is not freed when its owner gives "
        "it up or is destroyed, and the owner stays a zombie; nobody gains access"
    ),
    trace="dom0 maps frame g of domain A at p with XENMAPSPACE_gmfn_foreign, twice",
    public="only a domain privileged over the owner can bring it about, and nobody gains access",
)
DEVIATIONS["DEV-33"] = Deviation(
    "DEV-33",
    "A frame stays on record as mapped where it is not",
    condition=(
        "a domain maps a grant of one of the frames that Xen shares with it, to itself, at the very guest frame at "
        "which it has mapped that frame already, and takes the grant back"
    ),
    source="xen/arch/arm/p2m.c (__p2m_set_entry), Xen 4.17",
    consequence=(
        "an entry that is replaced by one of the same frame is not let go, and a grant mapping has no record to "
        "correct: the frame cannot be mapped again, and a status frame cannot be taken back once other memory is "
        "mapped there"
    ),
    trace=(
        "add_to_physmap(grant_table, 0, G); grant G to oneself; map_grant_ref(G); unmap_grant_ref; "
        "add_to_physmap(grant_table, 0, H) -> EBUSY"
    ),
    public="a domain harms itself alone",
)

TABLE_ENTRIES = 512
MOST_TABLES = 6
"""Tables that an insertion may need beside one for each 512 pages: a new branch at each end of the range."""


# ---- what an entry means


def is_live(row: P2mEntry) -> Boolean:
    """Something is mapped, whether or not the hardware's valid bit is set."""
    return row.type != P2mType.INVALID


def maps_the_same(one: P2mEntry, other: P2mEntry) -> Boolean:
    """Both entries map the same frame as the same type."""
    return both(one.type == other.type, one.mfn == other.mfn)


def is_any_ram(row: P2mEntry) -> Boolean:
    """The entry maps memory: own, foreign or granted; not a device."""
    return one_of(row.type, *RAM, *FOREIGN, *GRANT)


def is_readable(row: P2mEntry) -> Boolean:
    """The guest may read here."""
    return is_live(row)


def is_writable(row: P2mEntry) -> Boolean:
    """The guest may write here."""
    return one_of(
        row.type, P2mType.RAM_RW, P2mType.MAP_FOREIGN_RW, P2mType.GRANT_MAP_RW, P2mType.IOMMU_MAP_RW, *DEVICE
    )


def is_executable(row: P2mEntry) -> Boolean:
    """The guest may fetch instructions from here."""
    return one_of(row.type, *RAM)


# ---- what may be cached


def flush_tlb(s: State, domain: DomId) -> State:
    """Nothing that a TLB has cached under the domain's VMID is left.

    Store by store, with the flush that may still be pending, this is told by ``spec.memory.tables``.
    Source: xen/arch/arm/p2m.c (p2m_force_tlb_flush_sync, p2m_tlb_flush_sync), Xen 4.17.
    """
    return fill(s, "tlb", (domain, ALL), lambda _row, _domain, _gfn: {"present": False})


@transition(actor="domain")
def cache_mapping(s: State, domain: DomId, gfn: Gfn) -> Outcome[State]:
    """A TLB caches a translation: the hardware does so at any time, for any address that it can translate.

    Source: Arm DDI 0487, Translation Lookaside Buffers.
    """
    row = s.p2m[domain, gfn]
    legal(both(s.domain[domain].status == Status.ALIVE, is_live(row), row.hardware), "the hardware can translate it")
    return accept(put(s, "tlb", (domain, gfn), present=True, mfn=row.mfn, writable=is_writable(row),
                      executable=is_executable(row)))


@transition(actor="domain")
def forget_mapping(s: State, domain: DomId, gfn: Gfn) -> Outcome[State]:
    """A TLB gives up a translation: the hardware does so at any time.

    Source: Arm DDI 0487, Translation Lookaside Buffers.
    """
    return accept(put(s, "tlb", (domain, gfn), present=False))


# ---- insertion


@merged
def insert_page(
    s: State, domain: DomId, gfn: Gfn, mfn: Mfn, kind: int, *, handle: Handle = Handle(0)
) -> Outcome[State]:
    """Map one frame at one guest frame, replacing what is there.

    gfn: any; the root table decides.  handle: of the grant mapping, for a granted page.
    Errors: ENOMEM while the domain is being destroyed; EINVAL beyond the root table.
    """
    if s.domain[domain].status != Status.ALIVE:
        return refuse(s, -ENOMEM)
    if gfn >= s.settings[Index(0)].root_pages:
        return refuse(s, -EINVAL)
    legal(neg(s.orphan[domain, gfn].pending), "no insertion of this domain is under way here")
    old = s.p2m[domain, gfn]
    # break before make: the flush lies between the old entry and the new one
    s = put(flush_tlb(s, domain), "p2m", (domain, gfn), type=kind, mfn=mfn, hardware=True, handle=handle, stale=False)
    s = _widen(s, domain, gfn, gfn)
    if is_live(old) and old.mfn != mfn:
        return accept(_let_go(s, old))
    # the same frame again, perhaps with other rights: nothing is let go, neither a foreign mapping's reference (DEV-15)
    # nor the record of where one of Xen's own frames is mapped (DEV-33)
    frame = s.frame[mfn]
    s = happens(s, "dev33", both(one_of(old.type, *RAM), neg(one_of(kind, *RAM)), frame.use == Use.SHARED))
    return accept(put(s, "frame", mfn, lost=frame.lost + ite(one_of(old.type, *FOREIGN), 1, 0)))


def insert_range(s: State, domain: DomId, gfn: Gfn, mfn: Mfn, pages: int, done: int, kind: int) -> Outcome[State]:
    """Map a block at consecutive guest frames; what the replaced entries held waits in ``orphan``.

    done: pages that were mapped, all of them unless the domain's pool of table pages ran dry.
    Errors: as ``insert_page``; without a table page as ``lacking``, EINVAL at the end of the root table (what is mapped
    so far stays).
    """
    if s.domain[domain].status != Status.ALIVE:
        return refuse(s, -ENOMEM)
    root = s.settings[Index(0)].root_pages
    if gfn >= root:
        return refuse(s, -EINVAL)
    fitting = ite(gfn + pages > root, root - gfn, pages)
    legal(both(0 <= done, done <= fitting), "no more is mapped than was asked for")
    legal(implies(done < fitting, tables_may_lack(s, domain, pages)), "tables lack only if the pool is nearly empty")
    legal(
        every(s.orphan, (domain, span(gfn, done)), lambda row, _d, _g: neg(row.pending)),
        "no insertion of this domain is under way here",
    )
    old = s
    s = fill(s, "orphan", (domain, span(gfn, done)), lambda _row, d, g: _orphaned(old, d, g, mfn + (g - gfn)))
    s = fill(
        flush_tlb(s, domain), "p2m", (domain, span(gfn, done)),
        lambda _row, _d, g: {"type": kind, "mfn": mfn + (g - gfn), "hardware": True, "handle": 0, "stale": False},
    )
    if done == 0:
        return partial(s, lacking(old, domain, gfn))
    s = _widen(s, domain, gfn, Gfn(gfn + done - 1))
    if done == pages:
        return accept(s)
    if done == fitting:
        return partial(s, -EINVAL)
    return partial(s, lacking(old, domain, Gfn(gfn + done)))


def tables_may_lack(s: State, domain: DomId, pages: int) -> Boolean:
    """The pool may be too small for an insertion of so many pages.

    How many tables an insertion really takes depends on the shape of the tree, which is abstracted here;
    the hardware domain takes its tables from the heap, which may be empty at any moment.
    """
    row = s.domain[domain]
    return either(row.hardware, row.pool_free < pages // TABLE_ENTRIES + MOST_TABLES)


def lacking(s: State, domain: DomId, gfn: Gfn) -> int:
    """What is answered if the page for a table that an insertion takes is not there.

    ENOMEM if something is mapped there already: then it is part of a larger block, which cannot be split.
    ENOENT if nothing is: a table is missing on the way.
    Source: xen/arch/arm/p2m.c (__p2m_set_entry, p2m_next_level, p2m_split_superpage), Xen 4.17.
    """
    return ite(is_live(s.p2m[domain, gfn]), -ENOMEM, -ENOENT)


def _orphaned(old: State, domain: DomId, gfn: Gfn, mfn: Mfn) -> dict[str, object]:
    """What the replaced entry leaves to be done, if another frame than ``mfn`` was mapped."""
    row = old.p2m[domain, gfn]
    other = neg(row.mfn == mfn)
    recorded = both(other, one_of(row.type, *RAM), old.frame[row.mfn].use == Use.SHARED)
    held = both(other, one_of(row.type, *FOREIGN))
    return {"pending": either(held, recorded), "held": held, "recorded": recorded, "mfn": row.mfn}


def _widen(s: State, domain: DomId, first: Gfn, last: Gfn) -> State:
    """Guest frames from ``first`` to ``last`` have been mapped at some time.

    Source: xen/arch/arm/p2m.c (__p2m_set_entry), Xen 4.17.
    """
    row = s.domain[domain]
    return put(
        s, "domain", domain,
        highest_gfn=ite(last > row.highest_gfn, last, row.highest_gfn),
        lowest_gfn=ite(first < row.lowest_gfn, first, row.lowest_gfn),
    )


@merged
def _let_go(s: State, row: P2mEntry) -> State:
    """Drop what a replaced or removed entry held.

    Source: xen/arch/arm/p2m.c (p2m_put_l3_page), Xen 4.17.
    """
    if one_of(row.type, *FOREIGN):
        return put_page(s, row.mfn)
    if one_of(row.type, *RAM) and s.frame[row.mfn].use == Use.SHARED:
        return put(s, "frame", row.mfn, mapped=False)
    return s


@transition(actor="")
def put_orphan(s: State, domain: DomId, gfn: Gfn) -> Outcome[State]:
    """Finish one replacement of an insertion: drop the reference, or forget where a shared frame was mapped.

    Source: xen/arch/arm/p2m.c (p2m_free_entry, p2m_put_l3_page), Xen 4.17.
    """
    row = s.orphan[domain, gfn]
    legal(row.pending, "something was replaced here")
    s = put(s, "orphan", (domain, gfn), pending=False, held=False, recorded=False)
    if row.held:
        return accept(put_page(s, row.mfn))
    return accept(put(s, "frame", row.mfn, mapped=False))


# ---- removal


@merged
def remove_page(s: State, domain: DomId, gfn: Gfn, mfn: Mfn, tables_left: bool) -> Outcome[State]:
    """Unmap one guest frame if it maps this frame, or if it maps no memory at all.

    tables_left: the domain's pool has the table pages that it takes to split a larger block.
    Errors: EILSEQ if other memory is mapped there; ENOMEM while the domain is being destroyed, or without table pages;
    EINVAL beyond the root table.
    Source: xen/arch/arm/p2m.c (p2m_remove_mapping, __p2m_set_entry), Xen 4.17.
    """
    row = s.p2m[domain, gfn]
    if is_any_ram(row) and row.mfn != mfn:
        return refuse(s, -EILSEQ)
    if s.domain[domain].status != Status.ALIVE:
        return refuse(s, -ENOMEM)
    if gfn >= s.settings[Index(0)].root_pages:
        return refuse(s, -EINVAL)
    if not is_live(row):
        return accept(s)
    if not tables_left:
        legal(tables_may_lack(s, domain, 1), "tables are missing only if the pool is nearly empty")
        return refuse(s, -ENOMEM)
    after = put(s, "p2m", (domain, gfn), type=P2mType.INVALID, hardware=False, handle=0, stale=False)
    return accept(_let_go(flush_tlb(after, domain), row))
