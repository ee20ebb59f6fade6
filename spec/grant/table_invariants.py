"""What nobody can break about grant tables: which frames they have, which version, and who changes them.

While the version of a table is being changed (``version_change``) status frames may be missing already, or
still; that is said in each property.
"""

from __future__ import annotations

from spec.domain.privilege import exists, may_act_on, pair_allowed
from spec.grant.access import is_pinned, is_written
from spec.grant.entries import ENTRIES_V2, RESERVED_ENTRIES, StatusV2, place_v2, told
from spec.grant.invariants import SOURCE, is_copied_already, is_live, is_more_used
from spec.grant.table import status_frames_for
from spec.grant.teardown import lists_frame
from spec.language import (
    Boolean,
    DomId,
    Gfn,
    GrantRef,
    Handle,
    Index,
    Mfn,
    VcpuId,
    both,
    count,
    decode,
    either,
    encode,
    implies,
    invariant,
    ite,
    neg,
    one_of,
    two_state,
    within,
)
from spec.memory.frames import WORDS
from spec.memory.p2m import FOREIGN, RAM, is_any_ram, is_writable, maps_the_same
from spec.state import CopySide, P2mEntry, State, Status, Use

# ---- the frames of a table


@invariant("INV-GNT-TABLE-FRAME", over="grant_frame", fulfils=("SR-MEM-2", "SR-GNT-17"))
def grant_frames_are_shared(s: State, domain: DomId, number: int) -> bool:
    """A table has as many frames of entries as it says, each of them one that Xen shares with its domain."""
    row = s.grant_frame[domain, number]
    frame = s.frame[row.mfn]
    return both(
        row.present == (number < s.domain[domain].grant_frames),
        implies(row.present, both(frame.use == Use.SHARED, frame.owner == domain)),
    )


@invariant("INV-GNT-STATUS-FRAME", over="status_frame", fulfils=("SR-MEM-2", "SR-GNT-17"))
def status_frames_are_shared(s: State, domain: DomId, number: int) -> bool:
    """A table has as many status frames as it says, each of them one that Xen shares with its domain, or has taken back
    while the version is being changed.
    """
    row = s.status_frame[domain, number]
    frame = s.frame[row.mfn]
    return both(
        row.present == (number < s.domain[domain].status_frames),
        implies(row.present, ite(
            number < s.version_change[domain].withdrawn,
            both(frame.use == Use.XEN, frame.references == 0),
            both(frame.use == Use.SHARED, frame.owner == domain),
        )),
    )


@invariant("INV-GNT-LISTED-ONCE", over="frame", fulfils="SR-GNT-17")
def frames_are_listed_once(s: State, mfn: Mfn) -> bool:
    """No frame is in two places of grant tables."""
    return count(s.grant_frame, lists_frame, mfn) + count(s.status_frame, lists_frame, mfn) <= 1


@invariant("INV-GNT-SHARED-INFO", over="domain", fulfils="SR-GNT-17")
def shared_information_is_no_table(s: State, domain: DomId) -> bool:
    """A domain's page of shared information is no frame of a grant table."""
    row = s.domain[domain]
    frame = s.frame[row.shared_info]
    return implies(
        both(frame.use == Use.SHARED, frame.owner == domain, row.status != Status.ABSENT),
        count(s.grant_frame, lists_frame, row.shared_info) + count(s.status_frame, lists_frame, row.shared_info) == 0,
    )


@invariant("INV-GNT-TABLE", over="domain", fulfils=("SR-GNT-10", "SR-GNT-17"))
def tables_are_within_limits(s: State, domain: DomId) -> bool:
    """A domain's table stays within its limits, of frames and of version, and has the status frames of its version."""
    row, change = s.domain[domain], s.version_change[domain]
    wanted = status_frames_for(row.grant_frames)
    living = one_of(row.status, Status.ALIVE, Status.DYING, Status.DEAD)
    return both(
        row.grant_frames <= row.max_grant_frames,
        implies(row.grant_frames > 0, both(
            one_of(row.grant_version, 1, 2), row.grant_version <= row.max_grant_version,
        )),
        implies(living, row.grant_frames > 0),
        implies(both(living, row.grant_version == 2), row.status_frames == wanted),
        implies(both(living, row.grant_version == 1, change.to == 0), row.status_frames == 0),
        implies(both(living, change.to == 2), both(row.grant_version == 1, row.status_frames <= wanted)),
        implies(both(living, change.to == 1), both(row.status_frames > 0, row.status_frames <= wanted)),
    )


@invariant("INV-GNT-CHANGE", over="version_change", fulfils="SR-GNT-10")
def changes_are_consistent(s: State, domain: DomId) -> bool:
    """How far a change of version has come fits the table."""
    row, change = s.domain[domain], s.version_change[domain]
    return both(
        change.to <= 2, change.to <= row.max_grant_version,
        implies(change.to == 0, both(change.withdrawn == 0, change.cleared == 0)),
        implies(change.to == 2, change.withdrawn == 0),
        implies(both(change.to == 1, row.grant_version == 1), change.withdrawn == row.status_frames),
        implies(change.stopped, both(change.to == 1, row.grant_version == 2, row.status_frames > 0)),
        change.withdrawn <= row.status_frames,
    )


@invariant("INV-GNT-TABLE-CLEAN", over="frame", fulfils="SR-MEM-6", except_for=("DEV-31",), catches=("XSA-364",))
def shared_frames_are_clean(s: State, mfn: Mfn) -> bool:
    """Of a frame that Xen shares with a domain, memory holds what the caches hold."""
    frame = s.frame[mfn]
    return implies(both(frame.use == Use.SHARED, neg(s.deviation[Index(0)].dev31)), neg(frame.unclean))


# ---- as long as somebody may touch an entry


def _is_whole(s: State, domain: DomId) -> Boolean:
    """The domain has a grant table, with the status frames of its version."""
    row = s.domain[domain]
    return both(
        row.grant_frames > 0, one_of(row.grant_version, 1, 2),
        implies(row.grant_version == 2, row.status_frames == status_frames_for(row.grant_frames)),
    )


@invariant("INV-GNT-PINNED-TABLE", over="active_grant", fulfils=("SR-GNT-9", "SR-GNT-15"))
def used_tables_are_whole(s: State, granter: DomId, ref: GrantRef) -> bool:
    """As long as a grant is in use, so that Xen will yet write its marks, its table is there."""
    return implies(is_pinned(s.active_grant[granter, ref]), _is_whole(s, granter))


@invariant("INV-GNT-COPY-TABLE", over="copy_side", fulfils=("SR-GNT-9", "SR-GNT-15"))
def tables_of_copies_are_whole(s: State, domain: DomId, vcpu: VcpuId, side: Index) -> bool:
    """As long as a copy has looked a domain up, the domain's table is there; so is the entry that is being claimed."""
    row = s.copy_side[domain, vcpu, side]
    return both(
        implies(row.known, _is_whole(s, row.domain)),
        implies(row.asking, row.ref < s.domain[row.domain].grant_frames * ENTRIES_V2),
    )


# ---- where they are mapped


@invariant("INV-FRAME-GFN", over="frame", fulfils="SR-MEM-23", except_for=("DEV-33",))
def recorded_frames_are_mapped(s: State, mfn: Mfn) -> bool:
    """Where Xen has on record that a running domain maps one of the frames shared with it, it is mapped, or the record
    is about to be corrected.
    """
    frame = s.frame[mfn]
    row, orphan = s.p2m[frame.owner, frame.gfn], s.orphan[frame.owner, frame.gfn]
    return implies(
        both(frame.mapped, frame.use == Use.SHARED, s.domain[frame.owner].status == Status.ALIVE,
             neg(s.deviation[Index(0)].dev33)),
        either(both(one_of(row.type, *RAM), row.mfn == mfn), both(orphan.recorded, orphan.mfn == mfn)),
    )


@invariant("INV-GNT-SILO", over="mapping", fulfils=("SR-GNT-1", "SR-MEM-12"))
def mappings_are_between_permitted_pairs(s: State, domain: DomId, handle: Handle) -> bool:
    """Under SILO a grant is mapped only by its own granter, or where one of the two is a control domain."""
    row = s.mapping[domain, handle]
    return implies(is_live(row), pair_allowed(s, domain, row.granter))


# ---- who may change what


@two_state("TWO-GNT-TABLE-GROWS", over="domain", fulfils=("SR-MEM-12", "SR-GNT-17"))
def tables_grow_by_right(old: State, new: State, actor: DomId, domain: DomId) -> bool:
    """A table gets frames only on behalf of a domain that may act on its domain, one at a time; it loses frames of
    entries only when its domain is gone.
    """
    before, after = old.domain[domain], new.domain[domain]
    return both(
        implies(after.grant_frames > before.grant_frames, both(
            either(may_act_on(old, actor, domain), before.status == Status.BUILDING),
            after.grant_frames == before.grant_frames + 1,
        )),
        implies(after.grant_frames < before.grant_frames,
                one_of(before.status, Status.BUILDING, Status.UNLISTED)),
        implies(after.status_frames > before.status_frames, may_act_on(old, actor, domain)),
    )


@two_state("TWO-GNT-VERSION", over="domain", fulfils=("SR-GNT-10", "SR-MEM-12"))
def versions_change_by_their_domain(old: State, new: State, actor: DomId, domain: DomId) -> bool:
    """A table's version is changed on behalf of its own domain alone, and only to what the domain may have."""
    before, after = old.domain[domain], new.domain[domain]
    return implies(
        both(neg(before.grant_version == after.grant_version), before.status == Status.ALIVE),
        both(actor == domain, after.grant_version <= before.max_grant_version),
    )


@two_state("TWO-GNT-VERSION-UNUSED", over="active_grant", fulfils="SR-GNT-10")
def versions_change_when_unused(old: State, new: State, actor: DomId, granter: DomId, ref: GrantRef) -> bool:
    """When a change of the version of a table begins, and when it takes effect, no grant but the reserved ones is in
    use.
    """
    begins = both(old.version_change[granter].to == 0, new.version_change[granter].to != 0)
    return implies(
        either(begins, neg(old.domain[granter].grant_version == new.domain[granter].grant_version)),
        either(ref < RESERVED_ENTRIES, neg(is_pinned(old.active_grant[granter, ref]))),
    )


def _is_cleared(old: State, new: State, domain: DomId, mfn: Mfn, i: Index) -> Boolean:
    """The step has cleared this word of a table whose version changes, or is meant to: behind the entries that stay."""
    before, after = old.version_change[domain], new.version_change[domain]
    changed = neg(old.domain[domain].grant_version == new.domain[domain].grant_version)
    kept = ite(new.domain[domain].grant_version == 1, RESERVED_ENTRIES, 2 * RESERVED_ENTRIES)
    return either(
        both(changed, mfn == old.grant_frame[domain, 0].mfn, i >= kept),
        both(after.cleared == before.cleared + 1, mfn == old.grant_frame[domain, after.cleared].mfn),
    )


@two_state("TWO-GNT-VERSION-CLEARS", over="word", fulfils=("SR-GNT-10", "SR-GNT-1"))
def versions_change_with_empty_entries(old: State, new: State, actor: DomId, mfn: Mfn, i: Index) -> bool:
    """When the version of a table changes no entry but the reserved ones grants anything: its words are cleared."""
    return implies(
        both(old.domain[actor].status == Status.ALIVE, within(i, 0, WORDS), _is_cleared(old, new, actor, mfn, i)),
        new.word[mfn, i].raw == 0,
    )


@two_state("TWO-GNT-VERSION-ENTRIES", over="word", fulfils="SR-GNT-10")
def entries_change_with_the_version(old: State, new: State, actor: DomId, mfn: Mfn, i: Index) -> bool:
    """While a table is being changed from version 2, whose marks are elsewhere, Xen writes its first entries only in
    the step that changes it; all else that is written there the domain has written itself.
    """
    change, first = old.version_change[actor], old.grant_frame[actor, 0]
    return implies(
        both(change.to == 1, neg(change.stopped), old.domain[actor].grant_version == 2, first.present,
             mfn == first.mfn, neg(_may_write(old, actor, mfn)), old.domain[actor].status == Status.ALIVE,
             neg(old.word[mfn, i].raw == new.word[mfn, i].raw)),
        neg(old.domain[actor].grant_version == new.domain[actor].grant_version),
    )


@two_state("TWO-GNT-ENTRY-KEPT", over="active_grant", fulfils=("SR-GNT-2", "SR-GNT-10"))
def entries_in_use_are_not_moved(old: State, new: State, actor: DomId, granter: DomId, ref: GrantRef) -> bool:
    """Of a grant in use in a table of version 2, whose marks are elsewhere, Xen does not write the entry; only a change
    of version does.
    """
    place = place_v2(old, granter, ref)
    return implies(
        both(is_pinned(old.active_grant[granter, ref]), old.version_change[granter].to == 0,
             neg(_may_write(old, actor, place[0])),
             old.domain[granter].grant_version == 2, old.domain[granter].status == Status.ALIVE),
        old.word[place].raw == new.word[place].raw,
    )


@two_state("TWO-P2M-FOREIGN-NEW", over="p2m", fulfils="SR-MEM-12")
def foreign_rows_begin_with_what_their_owner_has(old: State, new: State, actor: DomId, domain: DomId, gfn: Gfn) -> bool:
    """What is newly mapped from another domain is memory that this domain has mapped itself, or a frame of its grant
    table.
    """
    before, after = old.p2m[domain, gfn], new.p2m[domain, gfn]
    owner = old.frame[after.mfn].owner
    return implies(
        both(one_of(after.type, *FOREIGN), neg(maps_the_same(before, after))),
        either(count(old.p2m, _is_ram_at, owner, after.mfn) > 0, count(old.grant_frame, lists_frame, after.mfn) > 0),
    )


def _is_ram_at(row: P2mEntry, domain: DomId, _gfn: Gfn, user: DomId, mfn: Mfn) -> Boolean:
    return both(domain == user, one_of(row.type, *RAM), row.mfn == mfn)


def _frame_in_turn(s: State, domain: DomId) -> Mfn:
    """The status frame that a change to version 1 takes back next."""
    return s.status_frame[domain, s.version_change[domain].withdrawn].mfn


def _stops(old: State, new: State, domain: DomId) -> Boolean:
    """The step stops the domain in the middle of a change of version."""
    return both(new.version_change[domain].stopped, neg(old.version_change[domain].stopped))


@two_state("TWO-GNT-VERSION-STOPPED", over="version_change", fulfils="SR-GNT-10")
def changes_stop_for_a_reason(old: State, new: State, actor: DomId, domain: DomId) -> bool:
    """A domain is stopped in the middle of a change of version only for a status frame that it still maps, or has
    mapped other memory over, or that somebody else uses.
    """
    mfn = _frame_in_turn(old, domain)
    frame = old.frame[mfn]
    row = old.p2m[domain, frame.gfn]
    mapped = count(old.p2m, _is_ram_at, domain, mfn) > 0
    replaced = both(frame.mapped, neg(both(one_of(row.type, *RAM), row.mfn == mfn)))
    return implies(
        _stops(old, new, domain),
        both(actor == domain, either(mapped, replaced, frame.references > ite(frame.allocated, 1, 0))),
    )


@two_state("TWO-GNT-MAPTRACK", over="domain", fulfils=("SR-GNT-6", "SR-GNT-14"))
def maptracks_change_by_their_domain(old: State, new: State, actor: DomId, domain: DomId) -> bool:
    """A maptrack grows on behalf of its own domain alone, and shrinks only when that domain is destroyed."""
    before, after = old.domain[domain], new.domain[domain]
    return both(
        implies(after.maptrack_frames > before.maptrack_frames,
                either(actor == domain, before.status == Status.BUILDING)),
        implies(after.maptrack_frames < before.maptrack_frames, neg(before.status == Status.ALIVE)),
    )


@two_state("TWO-GNT-COPY-SILO", over="copy_side", fulfils=("SR-GNT-13", "SR-MEM-12"))
def copies_are_between_permitted_pairs(old: State, new: State, actor: DomId, domain: DomId, vcpu: VcpuId, side: Index
                                       ) -> bool:
    """Under SILO a copy is begun only for a control domain, or between a domain and itself or a control domain."""
    before, after = old.copy_side[domain, vcpu, side], new.copy_side[domain, vcpu, side]
    source, destination = new.copy_side[domain, vcpu, SOURCE], new.copy_side[domain, vcpu, Index(1)]
    return implies(
        both(after.known, neg(before.known)),
        both(
            source.known, destination.known,
            either(old.domain[domain].control, pair_allowed(old, source.domain, destination.domain)),
        ),
    )


@two_state("TWO-GNT-TRANSITIVE-TOLD", over="copy_side", fulfils=("SR-GNT-3", "SR-GNT-12"))
def passing_on_is_told(old: State, new: State, actor: DomId, domain: DomId, vcpu: VcpuId, side: Index) -> bool:
    """When the claim of a transitive grant begins, its granter has been told that the page is read, and if it is the
    destination of the copy that it is written, and has permitted that.
    """
    row = new.copy_side[domain, vcpu, side]
    consent = new.consent[row.domain, row.ref]
    return implies(
        both(row.asking, neg(old.copy_side[domain, vcpu, side].asking)),
        both(consent.permits, consent.reading, either(side == SOURCE, both(consent.writable, consent.writing))),
    )


# ---- contents


def _writes(row: P2mEntry, domain: DomId, _gfn: Gfn, writer: DomId, mfn: Mfn) -> Boolean:
    return both(domain == writer, is_writable(row), row.mfn == mfn)


def _is_target(row: CopySide, domain: DomId, _vcpu: VcpuId, side: Index, writer: DomId, mfn: Mfn) -> Boolean:
    return both(domain == writer, row.claimed, neg(side == SOURCE), row.mfn == mfn)


def _may_write(s: State, writer: DomId, mfn: Mfn) -> Boolean:
    """The domain can write the page by its own stage 2, or has claimed it as the target of a copy."""
    return either(count(s.p2m, _writes, writer, mfn) > 0, count(s.copy_side, _is_target, writer, mfn) > 0)


@two_state("TWO-WORD-WRITER", over="word", fulfils=("SR-GNT-8", "SR-GNT-13", "SR-MEM-12", "SR-MEM-13"))
def pages_are_written_by_right(old: State, new: State, actor: DomId, mfn: Mfn, i: Index) -> bool:
    """A page of a domain is written only on behalf of one that can write it by its own stage 2, or that has claimed it
    as the target of a copy.
    """
    return implies(
        both(old.frame[mfn].use == Use.DOMAIN, neg(old.word[mfn, i].raw == new.word[mfn, i].raw)),
        _may_write(old, actor, mfn),
    )


def _reaches_to_write(row: P2mEntry, domain: DomId, gfn: Gfn, writer: DomId, mfn: Mfn) -> Boolean:
    return both(row.hardware, _writes(row, domain, gfn, writer, mfn))


@two_state("TWO-WORD-REACHED", over="word", fulfils=("SR-MEM-13", "SR-MEM-15"))
def pages_are_written_where_the_hardware_reaches(old: State, new: State, actor: DomId, mfn: Mfn, i: Index) -> bool:
    """A guest writes a page of a domain only where its stage 2 is valid for the hardware; Xen writes there only results
    of the guest's own call, or the target of its copy.
    """
    before, after = old.argument[actor], new.argument[actor]
    result = both(neg(before.moment == after.moment), after.wrote, after.mfn == mfn)
    return implies(
        both(old.frame[mfn].use == Use.DOMAIN, neg(old.word[mfn, i].raw == new.word[mfn, i].raw)),
        either(result, count(old.p2m, _reaches_to_write, actor, mfn) > 0,
               count(old.copy_side, _is_target, actor, mfn) > 0),
    )


# ---- how use begins, and what a change of version leaves


def _marks_stay(old: State, new: State, granter: DomId, ref: GrantRef) -> Boolean:
    """What the granter's memory says of the grant is what it said before."""
    (was_read, was_written), (is_read, writes) = told(old, granter, ref), told(new, granter, ref)
    return both(was_read == is_read, was_written == writes)


@two_state("TWO-GNT-MARKS-LEFT", over="active_grant", fulfils="SR-GNT-3")
def marks_are_set_once(old: State, new: State, actor: DomId, granter: DomId, ref: GrantRef) -> bool:
    """When a grant comes into more use in a way in which it was used already, Xen leaves its marks as they stand in
    memory.
    """
    before, after = old.active_grant[granter, ref], new.active_grant[granter, ref]
    return implies(
        both(is_pinned(before), is_written(before) == is_written(after), is_more_used(before, after)),
        _marks_stay(old, new, granter, ref),
    )


@two_state("TWO-GNT-TRANSITIVE-BEGINS", over="copy_side", fulfils="SR-GNT-12")
def passing_on_begins_by_right(old: State, new: State, actor: DomId, domain: DomId, vcpu: VcpuId, side: Index) -> bool:
    """A transitive grant is claimed only where they are switched on, and only one of a further domain that can be
    looked up; if it is used in this way already, its marks are left as they are.
    """
    before, after = old.copy_side[domain, vcpu, side], new.copy_side[domain, vcpu, side]
    active = old.active_grant[after.domain, after.ref]
    return implies(both(after.asking, neg(before.asking)), both(
        old.settings[Index(0)].transitive_grants, exists(old, after.trans_domid), after.trans_domid != after.domain,
        implies(is_copied_already(active, side), _marks_stay(old, new, after.domain, after.ref)),
    ))


@two_state("TWO-GNT-VERSION-STATUS", over="word", fulfils=("SR-GNT-3", "SR-GNT-10"))
def status_words_begin_with_marks(old: State, new: State, actor: DomId, mfn: Mfn, i: Index) -> bool:
    """When version 2 begins the status words of the entries that stay hold marks and nothing else."""
    status = decode(StatusV2, new.word[mfn, i].raw)
    return implies(
        both(old.domain[actor].grant_version == 1, new.domain[actor].grant_version == 2,
             old.domain[actor].status == Status.ALIVE, mfn == new.status_frame[actor, 0].mfn,
             within(i, 0, RESERVED_ENTRIES // 4)),
        encode(status) == new.word[mfn, i].raw,
    )


@two_state("TWO-GNT-VERSION-CURSOR", over="version_change", fulfils="SR-GNT-10")
def cleared_frames_are_counted(old: State, new: State, actor: DomId, domain: DomId) -> bool:
    """While the version of a table changes, Xen writes several entries of the frame that is to be cleared next only
    when it clears the frame, and then goes on to the next: the change comes to an end.
    """
    before, after = old.version_change[domain], new.version_change[domain]
    behind = old.grant_frame[domain, before.cleared + 1]
    written = [neg(old.word[behind.mfn, Index(i)].raw == new.word[behind.mfn, Index(i)].raw) for i in (0, WORDS - 1)]
    return implies(
        both(before.to != 0, neg(before.stopped), behind.present, *written, neg(_may_write(old, actor, behind.mfn)),
             old.domain[domain].status == Status.ALIVE),
        either(after.cleared == before.cleared + 1, after.to == 0),
    )


@two_state("TWO-GNT-VERSION-REPLACED", over="version_change", fulfils="SR-GNT-10")
def changes_stop_where_nothing_was_unmapped(old: State, new: State, actor: DomId, domain: DomId) -> bool:
    """A change that stops at a status frame that is on record as mapped stops because other memory is mapped there, or
    because nothing can be.
    """
    mfn = _frame_in_turn(old, domain)
    frame = old.frame[mfn]
    row = old.p2m[domain, frame.gfn]
    return implies(
        both(_stops(old, new, domain), frame.mapped),
        either(both(is_any_ram(row), row.mfn != mfn), frame.gfn >= old.settings[Index(0)].root_pages),
    )


@two_state("TWO-GNT-VERSION-WAITS", over="version_change", fulfils="SR-GNT-10")
def replaced_frames_stay_on_record(old: State, new: State, actor: DomId, domain: DomId) -> bool:
    """A status frame that is to be taken back, and in whose place on record other memory is mapped, is not taken to be
    unmapped, unless the domain maps it elsewhere (which a direct-mapped one may) and takes it out there.
    """
    before = old.version_change[domain]
    mfn = _frame_in_turn(old, domain)
    frame = old.frame[mfn]
    row = old.p2m[domain, frame.gfn]
    return implies(
        both(before.to == 1, old.domain[domain].grant_version == 2, neg(before.stopped), frame.mapped,
             before.withdrawn < old.domain[domain].status_frames, old.domain[domain].status == Status.ALIVE,
             is_any_ram(row), row.mfn != mfn, neg(old.orphan[domain, frame.gfn].pending),
             neg(old.domain[domain].direct_mapped), count(old.p2m, _is_ram_at, domain, mfn) == 0),
        new.frame[mfn].mapped,
    )


@two_state("TWO-GNT-VERSION-LET-GO", over="version_change", fulfils=("SR-GNT-10", "SR-MEM-7"))
def stopped_frames_are_let_go(old: State, new: State, actor: DomId, domain: DomId) -> bool:
    """When a change stops because somebody else uses a status frame, that frame is not allocated any more: it goes with
    its last user.
    """
    mfn = _frame_in_turn(old, domain)
    mapped = count(old.p2m, _is_ram_at, domain, mfn) > 0
    return implies(
        both(_stops(old, new, domain), neg(old.frame[mfn].mapped), neg(mapped)),
        neg(new.frame[mfn].allocated),
    )
