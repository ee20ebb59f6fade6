"""A guest's accesses, the faults that they meet, and the valid bit by which Xen notices an access.

Xen may clear the hardware's valid bit of an entry that it still holds as mapped: to see what a guest has
accessed since its caches were flushed.  The access then faults, and the fault repairs the entry: it is made
valid as it was.  What Xen does not hold as mapped is never repaired.

Source: xen/arch/arm/p2m.c (p2m_invalidate_root, p2m_resolve_translation_fault, p2m_set_way_flush,
p2m_toggle_cache, p2m_flush_vm), xen/arch/arm/traps.c (do_trap_stage2_abort_guest), Xen 4.17.
"""

from __future__ import annotations

from spec.domain.privilege import is_alive, may_act_on
from spec.language import (
    ALL,
    Boolean,
    DomId,
    Gfn,
    Index,
    Outcome,
    VcpuId,
    accept,
    both,
    count,
    either,
    every,
    fill,
    implies,
    invariant,
    ite,
    legal,
    neg,
    one_of,
    put,
    refuse,
    restart,
    span,
    stuck,
    transition,
    two_state,
)
from spec.memory import p2m
from spec.state import P2mEntry, State, Status, Vcpu

TRANSLATION = 1
"""A stage-2 translation fault: the hardware finds no valid entry."""
ABORT = 14
"""The guest takes an abort, as if the address had no memory behind it."""
UNDEFINED = 38
"""The guest takes an exception: the instruction is not defined."""

ROOT_PAGE = 1 << 27
"""Guest frames under one page of a root table of level 1."""


# ---- accesses of a guest: loads and stores are in ``guest``


def reaches(row: P2mEntry) -> Boolean:
    """The hardware finds a valid entry."""
    return both(row.hardware, p2m.is_live(row))


@transition(actor="domain")
def guest_fetch(s: State, domain: DomId, gfn: Gfn, vcpu: VcpuId) -> Outcome[State]:
    """A guest fetches an instruction.

    Errors: the kind of the fault, TRANSLATION.  Where it may not execute, the vCPU faults again and again.
    Source: Arm ARM DDI 0487, D5 (stage 2 translation); xen/arch/arm/traps.c (do_trap_stage2_abort_guest), Xen 4.17.
    """
    legal(is_alive(s, domain), "a domain that is not alive does not run")
    row = s.p2m[domain, gfn]
    if not reaches(row):
        return refuse(s, -TRANSLATION)
    if not p2m.is_executable(row):
        return stuck(s, vcpu)
    return accept(s)


# ---- faults


def block_pages(order: int) -> int:
    """Guest frames under one entry: of a page, a block of 2 MB or one of 1 GB."""
    return ite(order == 18, 1 << 18, ite(order == 9, 1 << 9, 1))


def block_start(gfn: Gfn, order: int) -> Gfn:
    """The first guest frame under the entry."""
    return Gfn(gfn - ite(order == 18, gfn % (1 << 18), ite(order == 9, gfn % (1 << 9), 0)))


@transition(actor="domain")
def translation_fault(s: State, domain: DomId, gfn: Gfn, at_leaf: bool, order: int) -> Outcome[State]:
    """An access met an entry that is not valid: repair it and let the guest try again, or report the fault.

    at_leaf: the entry is that of the mapping itself, of 2**order pages (0, 9 or 18); otherwise one of a table above it,
    whose own entries become invalid in turn: the guest then faults again, one level further down.
    Errors: ABORT if Xen has nothing mapped there.
    Source: xen/arch/arm/p2m.c (p2m_resolve_translation_fault), Xen 4.17.
    """
    legal(is_alive(s, domain), "a domain that is not alive does not run")
    row = s.p2m[domain, gfn]
    if gfn > s.domain[domain].highest_gfn:
        return refuse(s, -ABORT)
    # somebody has just repaired it
    if reaches(row):
        return restart(s)
    if not p2m.is_live(row):
        return refuse(s, -ABORT)
    if not at_leaf:
        return restart(s)
    legal(one_of(order, 0, 9, 18), "an entry maps a page, 2 MB or 1 GB")
    first, pages = block_start(gfn, order), block_pages(order)
    legal(
        every(s.p2m, (domain, span(first, pages)), lambda each, _d, _g: both(p2m.is_live(each), neg(each.hardware))),
        "one entry maps the whole block, and is not valid",
    )
    return restart(fill(s, "p2m", (domain, span(first, pages)), lambda _row, _d, _g: {"hardware": True}))


# ---- the valid bit


def invalidated_pages(s: State) -> int:
    """Guest frames whose root entries lose their valid bit.

    4.17 takes the level of the root for the number of its pages: of a root of level 0 none is invalidated, of one of
    level 1 only the first page.
    Source: xen/arch/arm/p2m.c (p2m_invalidate_root), Xen 4.17.
    """
    return ite(s.settings[Index(0)].root_level == 0, 0, ROOT_PAGE)


def invalidate_root(s: State, domain: DomId) -> State:
    """Nothing under the root's entries is valid for the hardware any more; what is mapped stays mapped."""
    pages = invalidated_pages(s)
    return fill(
        p2m.flush_tlb(s, domain), "p2m", (domain, ALL),
        lambda row, _domain, gfn: {"hardware": both(row.hardware, gfn >= pages)},
    )


# ---- cache maintenance by set and way


@transition(actor="domain")
def set_way_flush(s: State, domain: DomId, vcpu: VcpuId) -> Outcome[State]:
    """A guest cleans its caches by set and way, which Xen turns into a flush of all its memory.

    Errors: UNDEFINED if the domain's stage 2 is shared with an IOMMU.
    Source: xen/arch/arm/p2m.c (p2m_set_way_flush), Xen 4.17.
    """
    legal(is_alive(s, domain), "a domain that is not alive does not run")
    if s.domain[domain].iommu:
        return refuse(s, -UNDEFINED)
    # flushed already: from now on what counts is when the caches are switched
    if s.vcpu[domain, vcpu].traps:
        return accept(s)
    return accept(put(s, "vcpu", (domain, vcpu), traps=True, flush_due=True, flushed=Gfn(0)))


@transition(actor="domain")
def toggle_cache(s: State, domain: DomId, vcpu: VcpuId, enabled: bool) -> Outcome[State]:
    """A guest whose cache maintenance is watched switches its caches on or off.

    enabled: they are on from now on, and are not watched any more.
    Source: xen/arch/arm/p2m.c (p2m_toggle_cache), Xen 4.17.
    """
    legal(is_alive(s, domain), "a domain that is not alive does not run")
    legal(s.vcpu[domain, vcpu].traps, "the registers are watched")
    return accept(put(s, "vcpu", (domain, vcpu), traps=neg(enabled), flush_due=True, flushed=Gfn(0)))


def _is_flushed(row: P2mEntry, _domain: DomId, _gfn: Gfn) -> Boolean:
    """A flush looks at what the hardware can reach, which is all that can have been accessed."""
    return both(p2m.is_any_ram(row), row.hardware)


@transition(actor="domain")
def flush_page(s: State, domain: DomId, vcpu: VcpuId, gfn: Gfn) -> Outcome[State]:
    """Write the next page of a vCPU's memory back, before the vCPU runs on.

    gfn: the next that the hardware can reach.
    Source: xen/arch/arm/p2m.c (p2m_cache_flush_range), Xen 4.17.
    """
    row = s.vcpu[domain, vcpu]
    legal(both(is_alive(s, domain), row.flush_due), "a flush is due")
    legal(gfn >= row.flushed, "pages are flushed in order")
    legal(_is_flushed(s.p2m[domain, gfn], domain, gfn), "the page can have been accessed")
    legal(
        every(s.p2m, (domain, span(row.flushed, gfn - row.flushed)), lambda e, d, g: neg(_is_flushed(e, d, g))),
        "no page is left out",
    )
    s = put(s, "vcpu", (domain, vcpu), flushed=gfn + 1)
    return restart(put(s, "frame", s.p2m[domain, gfn].mfn, unclean=False))


@transition(actor="domain")
def finish_flush(s: State, domain: DomId, vcpu: VcpuId) -> Outcome[State]:
    """All memory was flushed: watch from now on what is accessed.

    Source: xen/arch/arm/p2m.c (p2m_flush_vm), Xen 4.17.
    """
    row = s.vcpu[domain, vcpu]
    highest = s.domain[domain].highest_gfn
    legal(both(is_alive(s, domain), row.flush_due), "a flush is due")
    legal(
        every(s.p2m, (domain, span(row.flushed, highest + 1 - row.flushed)), lambda e, d, g: neg(_is_flushed(e, d, g))),
        "no page is left out",
    )
    s = put(s, "vcpu", (domain, vcpu), flush_due=False, flushed=Gfn(0))
    return accept(invalidate_root(s, domain))


# ---- what nobody can break


@invariant("INV-FLUSH-UNSHARED", over="vcpu", fulfils=("SR-MEM-15", "SR-MEM-21"),
           assertion="xen/arch/arm/p2m.c (p2m_invalidate_root): the domain's stage 2 is not shared with an IOMMU")
def flushes_are_of_unshared_tables(s: State, domain: DomId, vcpu: VcpuId) -> bool:
    """A flush is due, or cache maintenance watched, only for a domain that shares its stage 2 with no IOMMU."""
    row = s.vcpu[domain, vcpu]
    return implies(either(row.flush_due, row.traps), neg(s.domain[domain].iommu))


@two_state("TWO-P2M-VALID", over="p2m", fulfils="SR-MEM-15")
def repairs_add_nothing(old: State, new: State, actor: DomId, domain: DomId, gfn: Gfn) -> bool:
    """An entry becomes valid for the hardware only if it is mapped; one that was mapped before stays the same mapping,
    or was mapped anew on behalf of a domain that may do so.
    """
    before, after = old.p2m[domain, gfn], new.p2m[domain, gfn]
    return implies(
        both(after.hardware, neg(before.hardware)),
        both(
            p2m.is_live(after),
            either(
                both(before.type == after.type, before.mfn == after.mfn, before.handle == after.handle),
                may_act_on(old, actor, domain),
            ),
        ),
    )


def _is_due(row: Vcpu, domain: DomId, _vcpu: VcpuId, flushing: DomId) -> Boolean:
    return both(domain == flushing, row.flush_due)


@two_state("TWO-P2M-INVALIDATED", over="p2m", fulfils="SR-MEM-15")
def mappings_are_invalidated_at_the_root(old: State, new: State, actor: DomId, domain: DomId, gfn: Gfn) -> bool:
    """What stays mapped loses its valid bit only where Xen invalidates the entries of the root: when a flush ends, or
    before the domain first runs.
    """
    before, after = old.p2m[domain, gfn], new.p2m[domain, gfn]
    stays = both(p2m.is_live(after), p2m.maps_the_same(before, after))
    ends = count(new.vcpu, _is_due, domain) < count(old.vcpu, _is_due, domain)
    return implies(both(stays, before.hardware, neg(after.hardware)), both(
        gfn < invalidated_pages(old), either(ends, neg(old.domain[domain].created)),
    ))


@invariant("INV-FLUSH-CURSOR", over="vcpu", fulfils="SR-MEM-15")
def flushes_begin_at_the_first_page(s: State, domain: DomId, vcpu: VcpuId) -> bool:
    """No page counts as flushed while no flush is due: the next one leaves none out."""
    row = s.vcpu[domain, vcpu]
    return implies(neg(row.flush_due), row.flushed == 0)


@two_state("TWO-FLUSH-CLEANED", over="vcpu", fulfils=("SR-MEM-5", "SR-MEM-15"))
def flushed_pages_are_clean(old: State, new: State, actor: DomId, domain: DomId, vcpu: VcpuId) -> bool:
    """A flush passes a page only when nothing of it is in the caches alone."""
    before, after = old.vcpu[domain, vcpu], new.vcpu[domain, vcpu]
    last = new.p2m[domain, Gfn(after.flushed - 1)]
    return implies(both(after.flush_due, before.flushed < after.flushed), neg(new.frame[last.mfn].unclean))


@two_state("TWO-FLUSH-WATCHED", over="vcpu", fulfils="SR-MEM-15")
def flushes_are_of_watched_caches(old: State, new: State, actor: DomId, domain: DomId, vcpu: VcpuId) -> bool:
    """A flush comes due only where a vCPU's caches are watched, or were until now; when that begins or ends, all memory
    is to be flushed, from the first page on.
    """
    before, after = old.vcpu[domain, vcpu], new.vcpu[domain, vcpu]
    return both(
        implies(both(after.flush_due, neg(before.flush_due)), either(before.traps, after.traps)),
        implies(both(before.traps != after.traps, old.domain[domain].status == Status.ALIVE),
                both(after.flush_due, after.flushed == 0)),
    )


@two_state("TWO-FLUSH-ENDS", over="p2m", fulfils="SR-MEM-15")
def flushed_memory_is_watched(old: State, new: State, actor: DomId, domain: DomId, gfn: Gfn) -> bool:
    """When a flush of a running domain ends, the hardware reaches nothing under the entries of the root that Xen
    invalidates: what is accessed from now on shows.
    """
    ends = count(new.vcpu, _is_due, domain) < count(old.vcpu, _is_due, domain)
    return implies(
        both(ends, new.domain[domain].status == Status.ALIVE, gfn < invalidated_pages(old)),
        neg(new.p2m[domain, gfn].hardware),
    )
