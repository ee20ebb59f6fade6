"""What nobody can break about memory.

One-state properties tie frames, stage-2 rows and accounts together; two-state properties say who may
change them.
"""

from __future__ import annotations

from spec.domain.privilege import exists, may_act_on, may_serve
from spec.grant.access import is_pinned
from spec.grant.device import has_direct_devices
from spec.grant.invariants import gives_up_mapping, holds_page
from spec.language import (
    Boolean,
    DomId,
    Gfn,
    GrantRef,
    Index,
    Mfn,
    VcpuId,
    both,
    count,
    either,
    implies,
    invariant,
    ite,
    neg,
    one_of,
    two_state,
    within,
)
from spec.memory.frames import (
    LAST_FRAME,
    WORDS,
    can_get_page,
    is_foreign_of,
    is_grant_use_of,
    is_orphan_of,
    is_page_of,
    is_release_of,
)
from spec.memory.p2m import (
    DEVICE,
    FOREIGN,
    MOST_TABLES,
    RAM,
    TABLE_ENTRIES,
    is_executable,
    is_live,
    is_writable,
    maps_the_same,
)
from spec.memory.reservation import LARGEST_ORDER
from spec.state import FIRST_RESERVED, NOBODY, ActiveGrant, P2mEntry, P2mType, State, Status, Use, Vcpu

MOST_MAPPED_AT_ONCE = 64
"""Guest frames that one call may map to a device."""
LARGEST_ROOT = 1 << 36
LARGEST_ROOT_ARM32 = 1 << 28
"""Guest frames under the largest root table: 48 bits of address, on arm32 40."""
MOST_TABLES_OF_A_BLOCK = (1 << LARGEST_ORDER) // TABLE_ENTRIES + MOST_TABLES
"""Pages for tables that the largest block could take."""


def is_taken(s: State, mfn: Mfn) -> Boolean:
    """The frame belongs to a domain or is shared with one."""
    return one_of(s.frame[mfn].use, Use.DOMAIN, Use.SHARED)


# ---- configuration


@invariant("INV-SETTINGS", over="settings", fulfils="SR-MEM-21")
def settings_are_possible(s: State, i: Index) -> bool:
    """The root table covers at most 2**36 guest frames, on arm32 2**28; addresses name at most 2**52 machine frames."""
    row = s.settings[i]
    return both(
        row.root_pages <= ite(row.arm32, LARGEST_ROOT_ARM32, LARGEST_ROOT), row.physical_pages <= LAST_FRAME,
    )


# ---- frames


@invariant("INV-FRAME-REFERENCES", over="frame", fulfils=("SR-MEM-7", "SR-MEM-21", "SR-GNT-9"),
           catches=("XSA-224c", "XSA-26a"),
           assertion="xen/arch/arm/mm.c (put_page): the count of references is not zero")
def references_are_counted(s: State, mfn: Mfn) -> bool:
    """A frame has as many references as it has holders: the allocation, foreign mappings, grant mappings, copies under
    way, pending work; and those that DEV-15 has left behind.
    """
    frame = s.frame[mfn]
    return frame.references == (
        ite(frame.allocated, 1, 0)
        + count(s.p2m, is_foreign_of, mfn)
        + count(s.mapping, is_grant_use_of, mfn)
        + count(s.release, is_release_of, mfn)
        + count(s.orphan, is_orphan_of, mfn)
        + count(s.copy_side, holds_page, mfn)
        + frame.lost
    )


@invariant("INV-FRAME-UNUSED", over="frame", fulfils=("SR-MEM-3", "SR-MEM-7"), catches=("XSA-26a", "XSA-255a"))
def unused_frames_are_nobodys(s: State, mfn: Mfn) -> bool:
    """A frame that no domain has belongs to nobody, is held by nobody and is recorded as mapped nowhere."""
    frame = s.frame[mfn]
    return implies(
        neg(is_taken(s, mfn)),
        both(frame.owner == NOBODY, frame.references == 0, neg(frame.allocated), neg(frame.mapped), neg(frame.extra)),
    )


@invariant("INV-FRAME-OWNER", over="frame", fulfils=("SR-MEM-3", "SR-MEM-9"))
def owned_frames_have_an_owner(s: State, mfn: Mfn) -> bool:
    """A frame of a domain, or shared with one, has an owner that still exists; a page of a domain has a holder."""
    frame = s.frame[mfn]
    return both(
        implies(is_taken(s, mfn), s.domain[frame.owner].status != Status.ABSENT),
        implies(frame.use == Use.DOMAIN, frame.references > 0),
    )


@invariant("INV-FRAME-COUNTED", over="frame", fulfils=("SR-MEM-9", "SR-MEM-23"))
def every_page_counts(s: State, mfn: Mfn) -> bool:
    """On Arm no page of a domain is left out of its account; Xen has a mapping on record for its own frames only."""
    frame = s.frame[mfn]
    return both(neg(frame.extra), implies(frame.mapped, frame.use == Use.SHARED))


@invariant("INV-FRAME-DIRECT", over="frame", fulfils=("SR-MEM-3", "SR-MEM-14"))
def direct_mapped_pages_stay(s: State, mfn: Mfn) -> bool:
    """A page of a running direct-mapped domain stays allocated to it."""
    frame = s.frame[mfn]
    owner = s.domain[frame.owner]
    return implies(
        both(frame.use == Use.DOMAIN, owner.direct_mapped, owner.status == Status.ALIVE), frame.allocated
    )


@invariant("INV-FRAME-CLEAN", over="frame", fulfils="SR-MEM-5", catches=("XSA-364",))
def owned_frames_are_ready(s: State, mfn: Mfn) -> bool:
    """A page that a domain has is not waiting to be scrubbed."""
    frame = s.frame[mfn]
    return implies(frame.use != Use.FREE, neg(frame.dirty))


@invariant("INV-FRAME-TABLE-CLEAN", over="frame", fulfils="SR-MEM-18")
def table_pages_are_in_memory(s: State, mfn: Mfn) -> bool:
    """Of a page of stage-2 tables, which the hardware may read past the caches, memory holds what the caches hold."""
    frame = s.frame[mfn]
    return implies(frame.use == Use.TABLE, neg(frame.unclean))


@invariant("INV-WORD-SECRET", over="word", fulfils="SR-MEM-5", catches=("XSA-100",))
def secrets_are_not_handed_out(s: State, mfn: Mfn, i: Index) -> bool:
    """No frame that a domain has holds what Xen or a domain that died has left; a free one that does is marked for
    scrubbing.
    """
    frame = s.frame[mfn]
    return implies(
        s.word[mfn, i].secret, both(neg(is_taken(s, mfn)), implies(frame.use == Use.FREE, frame.dirty))
    )


# ---- domains


@invariant("INV-DOMAIN-PAGES", over="domain", fulfils="SR-MEM-9")
def pages_are_counted(s: State, domain: DomId) -> bool:
    """A domain's tot_pages is the number of its pages."""
    return s.domain[domain].tot_pages == count(s.frame, is_page_of, domain)


@invariant("INV-DOMAIN-RESERVED", over="domain", fulfils=("SR-MEM-1", "SR-MEM-12"))
def reserved_ids_are_no_domains(s: State, domain: DomId) -> bool:
    """The reserved ids, "nobody" among them, are not domains; an id that is not in use has no rights."""
    row = s.domain[domain]
    return both(
        implies(domain >= FIRST_RESERVED, row.status == Status.ABSENT),
        implies(row.status == Status.ABSENT, both(neg(row.control), neg(row.device_model), neg(row.direct_mapped))),
        row.status <= Status.UNLISTED,
    )


# ---- stage 2


@invariant("INV-P2M-RAM", over="p2m", fulfils=("SR-MEM-1", "SR-MEM-14"),
           except_for=("DEV-3",), catches=("XSA-284", "XSA-222a", "XSA-247"))
def ram_rows_map_own_memory(s: State, domain: DomId, gfn: Gfn) -> bool:
    """What a running domain has mapped as RAM is its own: a page still allocated to it, or one that Xen shares with it,
    mapped at the one place on record (of a direct-mapped domain there is no record).
    """
    row = s.p2m[domain, gfn]
    frame = s.frame[row.mfn]
    return implies(
        both(one_of(row.type, *RAM), s.domain[domain].status == Status.ALIVE),
        both(
            is_taken(s, row.mfn),
            frame.owner == domain,
            implies(frame.use == Use.DOMAIN, frame.allocated),
            either(
                s.domain[domain].direct_mapped,
                both(frame.gfn == gfn, implies(frame.use == Use.SHARED, frame.mapped)),
            ),
        ),
    )


@invariant("INV-P2M-FOREIGN", over="p2m", fulfils="SR-MEM-1")
def foreign_rows_are_by_privilege(s: State, domain: DomId, gfn: Gfn) -> bool:
    """What a running domain has mapped from another one is that of a domain on which it may act, and not its own."""
    row = s.p2m[domain, gfn]
    owner = s.frame[row.mfn].owner
    return implies(
        both(one_of(row.type, *FOREIGN), s.domain[domain].status == Status.ALIVE),
        both(is_taken(s, row.mfn), owner != domain, may_act_on(s, domain, owner)),
    )


@invariant("INV-P2M-DEVICE", over="p2m", fulfils=("SR-MEM-1", "SR-MEM-4"), except_for=("DEV-23",), catches=("SUP-18",))
def device_rows_are_permitted(s: State, domain: DomId, gfn: Gfn) -> bool:
    """Device memory is mapped only where the domain is permitted to have it, or was when it was mapped."""
    row = s.p2m[domain, gfn]
    permission = s.iomem[domain, row.mfn]
    return implies(one_of(row.type, *DEVICE), either(permission.allowed, permission.left))


@invariant("INV-P2M-MEMORY", over="p2m", fulfils="SR-MEM-4")
def memory_is_mapped_as_memory(s: State, domain: DomId, gfn: Gfn) -> bool:
    """What is mapped otherwise than as a device is memory, also where a mapping has outlived what it was made for."""
    row = s.p2m[domain, gfn]
    return implies(both(is_live(row), neg(one_of(row.type, *DEVICE))), s.frame[row.mfn].use != Use.NO_RAM)


@invariant("INV-P2M-RANGE", over="p2m", fulfils=("SR-MEM-19", "SR-MEM-21"), catches=("XSA-301a", "XSA-301b"),
           assertion="xen/arch/arm/p2m.c (p2m_get_entry): a gfn up to the highest mapped one lies under the root table")
def rows_lie_under_the_root(s: State, domain: DomId, gfn: Gfn) -> bool:
    """What is mapped lies under the root table, between lowest and highest gfn on record, of a domain that exists."""
    row, owner = s.p2m[domain, gfn], s.domain[domain]
    return both(
        row.type <= P2mType.IOMMU_MAP_RO,
        implies(
            is_live(row),
            both(
                gfn < s.settings[Index(0)].root_pages, owner.lowest_gfn <= gfn, gfn <= owner.highest_gfn,
                owner.status != Status.ABSENT,
            ),
        ),
    )


@invariant("INV-P2M-VALID", over="p2m", fulfils="SR-MEM-15", catches=("XSA-393",))
def removed_rows_cannot_come_back(s: State, domain: DomId, gfn: Gfn) -> bool:
    """An entry with nothing behind it is not valid for the hardware either, so no fault can revive it."""
    row = s.p2m[domain, gfn]
    return implies(neg(is_live(row)), both(neg(row.hardware), neg(row.stale)))


@invariant("INV-TLB", over="tlb", fulfils=("SR-MEM-1", "SR-MEM-3", "SR-MEM-17", "SR-GNT-7"), catches=("XSA-222a",))
def cached_translations_are_current(s: State, domain: DomId, gfn: Gfn) -> bool:
    """What a TLB has cached is what the domain's stage 2 holds now: the same frame, and no more rights."""
    cached, row = s.tlb[domain, gfn], s.p2m[domain, gfn]
    return implies(
        cached.present,
        both(
            is_live(row), row.mfn == cached.mfn,
            implies(cached.writable, is_writable(row)), implies(cached.executable, is_executable(row)),
        ),
    )


# ---- pending work


@invariant("INV-ORPHAN", over="orphan", fulfils=("SR-MEM-7", "SR-MEM-23"), except_for=("DEV-3",))
def orphans_are_what_was_replaced(s: State, domain: DomId, gfn: Gfn) -> bool:
    """What an insertion has still to let go is one reference, or one record that is no longer true."""
    row = s.orphan[domain, gfn]
    frame, now = s.frame[row.mfn], s.p2m[domain, gfn]
    return both(
        row.pending == either(row.held, row.recorded),
        neg(both(row.held, row.recorded)),
        implies(row.recorded, both(frame.use == Use.SHARED, frame.owner == domain)),
        implies(
            both(row.recorded, s.domain[domain].status == Status.ALIVE,
                 neg(s.domain[domain].direct_mapped)),
            both(frame.gfn == gfn, frame.mapped, neg(both(one_of(now.type, *RAM), now.mfn == row.mfn))),
        ),
    )


# ---- who may change what


@two_state("TWO-P2M-ACTOR", over="p2m", fulfils="SR-MEM-12")
def rows_change_by_right(old: State, new: State, actor: DomId, domain: DomId, gfn: Gfn) -> bool:
    """A guest frame is mapped, remapped or unmapped only on behalf of a domain that may act on its domain,
    or by Xen while it destroys that domain.
    """
    same = maps_the_same(old.p2m[domain, gfn], new.p2m[domain, gfn])
    return either(same, may_act_on(old, actor, domain), old.domain[domain].status == Status.DYING)


@two_state("TWO-FRAME-OWNER", over="frame", fulfils=("SR-MEM-3", "SR-MEM-5", "SR-MEM-6", "SR-MEM-12"),
           catches=("XSA-284",))
def owners_change_through_the_heap(old: State, new: State, actor: DomId, mfn: Mfn) -> bool:
    """A frame goes from one owner to another only through the heap, and to a domain that is not being destroyed."""
    before, after = old.frame[mfn], new.frame[mfn]
    return both(
        implies(before.owner != after.owner, either(before.owner == NOBODY, after.owner == NOBODY)),
        implies(
            both(before.use == Use.FREE, after.use == Use.DOMAIN),
            both(
                old.domain[after.owner].status == Status.ALIVE, may_act_on(old, actor, after.owner),
                neg(after.unclean), neg(after.dirty),
            ),
        ),
    )


def _uses(row: ActiveGrant, _granter: DomId, _ref: GrantRef, user: DomId, mfn: Mfn) -> Boolean:
    return both(is_pinned(row), row.domid == user, row.mfn == mfn)


def _maps(row: P2mEntry, domain: DomId, _gfn: Gfn, user: DomId, mfn: Mfn) -> Boolean:
    return both(domain == user, is_live(row), row.mfn == mfn)


@two_state("TWO-FRAME-CLEANED", over="frame", fulfils="SR-MEM-12")
def caches_are_cleaned_by_users(old: State, new: State, actor: DomId, mfn: Mfn) -> bool:
    """What the caches alone hold of a domain's page is written back, or dropped, only on behalf of a domain that has it
    mapped, or that may act on the owner or has the page in use through a grant: then while Xen holds the page.
    """
    before, after = old.frame[mfn], new.frame[mfn]
    return implies(
        both(is_taken(old, mfn), before.owner == after.owner, before.unclean, neg(after.unclean)),
        either(
            count(old.p2m, _maps, actor, mfn) > 0,
            both(can_get_page(old, mfn),
                 either(may_act_on(old, actor, before.owner), count(old.active_grant, _uses, actor, mfn) > 0)),
        ),
    )


def _is_under_way(row: Vcpu, domain: DomId, _vcpu: VcpuId, flushing: DomId) -> Boolean:
    return both(domain == flushing, row.flush_due, row.flushed > 0)


@two_state("TWO-FLUSH-COUNTED", over="frame", fulfils=("SR-MEM-12", "SR-MEM-15"))
def flushes_go_on(old: State, new: State, actor: DomId, mfn: Mfn) -> bool:
    """A page is written back only while Xen can hold it and look its owner up, or because all that a domain maps is
    flushed: then it counts as flushed, so that the flush comes to an end.
    """
    before, after = old.frame[mfn], new.frame[mfn]
    return implies(
        both(is_taken(old, mfn), before.owner == after.owner, before.unclean, neg(after.unclean)),
        either(both(can_get_page(old, mfn), exists(old, before.owner)), count(new.vcpu, _is_under_way, actor) > 0),
    )


@two_state("TWO-WORD-DEVICE", over="word", fulfils="SR-MEM-4")
def devices_hold_no_memory(old: State, new: State, actor: DomId, mfn: Mfn, i: Index) -> bool:
    """What is stored where no memory is goes to the device: as memory it is neither kept nor read."""
    return implies(
        both(old.frame[mfn].use == Use.NO_RAM, new.frame[mfn].use == Use.NO_RAM),
        old.word[mfn, i].raw == new.word[mfn, i].raw,
    )


@two_state("TWO-WORD-TABLE", over="word", fulfils=("SR-MEM-1", "SR-MEM-4"))
def table_pages_begin_empty(old: State, new: State, actor: DomId, mfn: Mfn, i: Index) -> bool:
    """A frame that becomes a page for stage-2 tables is cleared: nothing that it held is taken for a mapping."""
    return implies(
        both(old.frame[mfn].use != Use.TABLE, new.frame[mfn].use == Use.TABLE, within(i, 0, WORDS)),
        new.word[mfn, i].raw == 0,
    )


@two_state("TWO-DOMAIN-LIMIT", over="domain", fulfils="SR-MEM-22", catches=("XSA-383", "XSA-385"))
def memory_grows_to_the_limit(old: State, new: State, actor: DomId, domain: DomId) -> bool:
    """A domain's memory grows only up to its limit, and only while it is not being destroyed."""
    before, after = old.domain[domain], new.domain[domain]
    return implies(
        after.tot_pages > before.tot_pages,
        both(after.tot_pages <= after.max_pages, before.status == Status.ALIVE),
    )


@two_state("TWO-DOMAIN-ORDER", over="domain", fulfils=("SR-MEM-11", "SR-MEM-24"), catches=("XSA-31", "XSA-158"))
def blocks_are_bounded(old: State, new: State, actor: DomId, domain: DomId) -> bool:
    """One step gives a domain at most as much as the class of the caller may ask for in one block."""
    caller = old.domain[actor]
    most = ite(caller.control, 1 << 18, ite(either(caller.hardware, caller.passthrough), 1 << 10, 1 << 9))
    return new.domain[domain].tot_pages <= old.domain[domain].tot_pages + most


def _becomes_device(old: State, new: State, domain: DomId, gfn: Gfn) -> Boolean:
    """The step has mapped a device here."""
    before, after = old.p2m[domain, gfn], new.p2m[domain, gfn]
    return both(one_of(after.type, *DEVICE), neg(maps_the_same(before, after)))


@two_state("TWO-P2M-DEVICE-BLOCK", over="p2m", fulfils="SR-MEM-24", catches=("XSA-125",))
def device_ranges_are_bounded(old: State, new: State, actor: DomId, domain: DomId, gfn: Gfn) -> bool:
    """One step maps a device at no two guest frames that lie 64 or more apart: its work is bounded."""
    return implies(
        gfn >= MOST_MAPPED_AT_ONCE,
        neg(both(
            _becomes_device(old, new, domain, gfn),
            _becomes_device(old, new, domain, Gfn(gfn - MOST_MAPPED_AT_ONCE)),
        )),
    )


@two_state("TWO-P2M-DEVICE-RIGHT", over="p2m", fulfils=("SR-MEM-4", "SR-MEM-12"))
def devices_are_mapped_by_right(old: State, new: State, actor: DomId, domain: DomId, gfn: Gfn) -> bool:
    """A device is mapped on behalf of the hardware domain, for itself, or of one that serves the domain and may have
    the device itself.
    """
    own = both(actor == domain, old.domain[domain].hardware)
    serving = both(may_serve(old, actor, domain), old.iomem[actor, new.p2m[domain, gfn].mfn].allowed)
    return implies(_becomes_device(old, new, domain, gfn), either(own, serving))


@two_state("TWO-P2M-NEW-VALID", over="p2m", fulfils="SR-MEM-15")
def new_rows_are_valid(old: State, new: State, actor: DomId, domain: DomId, gfn: Gfn) -> bool:
    """What is newly mapped the hardware reaches at once."""
    before, after = old.p2m[domain, gfn], new.p2m[domain, gfn]
    return implies(both(is_live(after), neg(maps_the_same(before, after))), after.hardware)


@two_state("TWO-P2M-DIRECT", over="p2m", fulfils="SR-MEM-14")
def direct_mapped_memory_is_one_to_one(old: State, new: State, actor: DomId, domain: DomId, gfn: Gfn) -> bool:
    """A direct-mapped domain gets memory of its own only at the guest frame of the same number."""
    before, after = old.p2m[domain, gfn], new.p2m[domain, gfn]
    return implies(
        both(old.domain[domain].direct_mapped, one_of(after.type, *RAM), neg(maps_the_same(before, after)),
             new.frame[after.mfn].use == Use.DOMAIN),
        after.mfn == gfn,
    )


@two_state("TWO-P2M-BOUNDS", over="domain", fulfils="SR-MEM-19")
def bounds_are_where_something_is_mapped(old: State, new: State, actor: DomId, domain: DomId) -> bool:
    """Lowest and highest gfn on record of a running domain change only to where something has just been mapped; where
    devices are to reach a grant one to one, it may have been taken back at once.
    """
    before, after = old.domain[domain], new.domain[domain]
    lowest, highest = new.p2m[domain, after.lowest_gfn], new.p2m[domain, after.highest_gfn]
    running = both(before.status == Status.ALIVE, after.status == Status.ALIVE)
    return implies(both(running, neg(has_direct_devices(old, domain))), both(
        implies(before.lowest_gfn != after.lowest_gfn, is_live(lowest)),
        implies(before.highest_gfn != after.highest_gfn, is_live(highest)),
    ))


@two_state("TWO-FRAME-MAPPED", over="frame", fulfils="SR-MEM-3", except_for=("DEV-3",),
           catches=("XSA-222a", "XSA-222b", "XSA-247", "XSA-252"))
def mapped_pages_are_not_freed(old: State, new: State, actor: DomId, mfn: Mfn) -> bool:
    """A page leaves its running owner only when the place on record as its own no longer maps it."""
    before, after = old.frame[mfn], new.frame[mfn]
    home = new.p2m[before.owner, before.gfn]
    return implies(
        both(before.use == Use.DOMAIN, after.use != Use.DOMAIN, old.domain[before.owner].status == Status.ALIVE),
        neg(both(one_of(home.type, *RAM), home.mfn == mfn)),
    )


@two_state("TWO-FRAME-PLACED", over="frame", fulfils=("SR-MEM-16", "SR-MEM-23"))
def new_pages_are_mapped(old: State, new: State, actor: DomId, mfn: Mfn) -> bool:
    """A page that a domain is given at a guest frame is mapped there, as long as its pool has all the pages for tables
    that the largest block could take.
    """
    before, after = old.frame[mfn], new.frame[mfn]
    owner = old.domain[after.owner]
    row = new.p2m[after.owner, after.gfn]
    return implies(
        both(before.use == Use.FREE, after.use == Use.DOMAIN, before.gfn != after.gfn, after.gfn != 0,
             neg(owner.hardware), owner.pool_free >= MOST_TABLES_OF_A_BLOCK),
        both(one_of(row.type, *RAM), row.mfn == mfn),
    )


@two_state("TWO-P2M-HELD", over="p2m", fulfils=("SR-MEM-7", "SR-MEM-8"))
def mapped_pages_could_be_held(old: State, new: State, actor: DomId, domain: DomId, gfn: Gfn) -> bool:
    """What a domain has already and what is newly mapped for it as its own is a frame of which Xen can take a
    reference; its page of shared information is mapped without.
    """
    before, after = old.p2m[domain, gfn], new.p2m[domain, gfn]
    return implies(
        both(one_of(after.type, *RAM), neg(maps_the_same(before, after)), old.frame[after.mfn].owner == domain,
             after.mfn != old.domain[domain].shared_info),
        can_get_page(old, after.mfn),
    )


@two_state("TWO-P2M-FOREIGN-KNOWN", over="p2m", fulfils=("SR-MEM-1", "SR-MEM-12"))
def foreign_rows_begin_with_a_known_owner(old: State, new: State, actor: DomId, domain: DomId, gfn: Gfn) -> bool:
    """What is newly mapped from another domain is of one that can be looked up: its destruction is not complete."""
    before, after = old.p2m[domain, gfn], new.p2m[domain, gfn]
    return implies(
        both(one_of(after.type, *FOREIGN), neg(maps_the_same(before, after))), exists(old, old.frame[after.mfn].owner)
    )


@two_state("TWO-P2M-DEVICE-TAKEN", over="p2m", fulfils=("SR-MEM-4", "SR-MEM-12"))
def devices_are_taken_away_by_right(old: State, new: State, actor: DomId, domain: DomId, gfn: Gfn) -> bool:
    """A device is unmapped, with nothing in its place, only on behalf of a domain that serves the domain, or because
    the domain gives up a grant mapping or a status frame by that address (or fails to map a grant there), or is being
    destroyed.
    """
    before, after = old.p2m[domain, gfn], new.p2m[domain, gfn]
    return implies(
        both(one_of(before.type, *DEVICE), neg(is_live(after))),
        either(may_serve(old, actor, domain), gives_up_mapping(old, new, domain), old.version_change[domain].to == 1,
               has_direct_devices(old, domain), old.domain[domain].status == Status.DYING),
    )


@two_state("TWO-P2M-GRANT-TAKEN", over="p2m", fulfils=("SR-GNT-7", "SR-MEM-12"))
def granted_pages_are_taken_out_by_their_unmapping(old: State, new: State, actor: DomId, domain: DomId, gfn: Gfn
                                                   ) -> bool:
    """A page that another domain granted is unmapped, with nothing in its place, only because the domain gives up a
    grant mapping (or fails to map another grant there), or is being destroyed.
    """
    before, after = old.p2m[domain, gfn], new.p2m[domain, gfn]
    return implies(
        both(one_of(before.type, P2mType.GRANT_MAP_RW, P2mType.GRANT_MAP_RO), neg(before.stale), neg(is_live(after)),
             old.frame[before.mfn].owner != domain),
        either(gives_up_mapping(old, new, domain), has_direct_devices(old, domain),
               old.domain[domain].status != Status.ALIVE),
    )


@two_state("TWO-FRAME-GIVEN-BACK", over="frame", fulfils=("SR-MEM-3", "SR-MEM-12"))
def pages_are_given_back_where_they_are_mapped(old: State, new: State, actor: DomId, mfn: Mfn) -> bool:
    """The allocation of a running domain's page ends only by a guest frame at which the domain has it mapped."""
    before, after = old.frame[mfn], new.frame[mfn]
    return implies(
        both(before.use == Use.DOMAIN, before.allocated, neg(after.allocated),
             old.domain[before.owner].status == Status.ALIVE),
        count(old.p2m, _maps, before.owner, mfn) > 0,
    )
