"""Copying bytes between pages, each named by a grant or (the caller's own) by frame number.

One item of the hypercall is several steps, in Xen's order: look the two domains up; give back what
the last item used, if this one needs something else; claim the source, then the destination; copy.
What was claimed stays claimed for the next items (table ``copy_side``) and is given back at an error
and at the end of the call.  A transitive grant is claimed in three steps, between which Xen holds no
lock: mark its entry, claim the grant behind it as the intermediate domain, look again and pin it.

Source: xen/common/grant_table.c (gnttab_copy and what it calls), Xen 4.17.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from spec.deviations import happens
from spec.domain.privilege import exists, is_alive, is_control, pair_allowed
from spec.errors import (
    GNTST_BAD_COPY_ARG,
    GNTST_BAD_DOMAIN,
    GNTST_BAD_GNTREF,
    GNTST_BAD_PAGE,
    GNTST_GENERAL_ERROR,
    GNTST_PERMISSION_DENIED,
)
from spec.grant.access import (
    add_pin,
    drop_pin,
    is_full,
    is_own_memory,
    is_pinned,
    is_written,
    record_consent,
    reduce_status,
    set_status,
)
from spec.grant.entries import (
    FRAME_LENGTH,
    TRANSITIVE,
    FrameV2,
    TransitiveV2,
    entry_count,
    read_head_v2,
    read_second_v2,
    read_v1,
)
from spec.grant.invariants import REFERENCES, SOURCE
from spec.language import (
    DEVIATIONS,
    U8,
    U16,
    U64,
    Boolean,
    Deviation,
    DomId,
    Gfn,
    GrantRef,
    Index,
    Kind,
    Mfn,
    Outcome,
    VcpuId,
    Word,
    accept,
    both,
    decode,
    either,
    encode,
    field,
    fill,
    ite,
    layout,
    legal,
    merged,
    neg,
    partial,
    put,
    refuse,
    restart,
    span,
    transition,
    within,
)
from spec.memory import frames
from spec.memory.width import machine_word, own_width
from spec.state import DOMID_SELF, Contents, CopySide, State

DESTINATION = Index(1)

DEVIATIONS["DEV-11"] = Deviation(
    "DEV-11",
    "A copy accesses one page and holds a reference on another",
    condition=(
        "a grant in use for reading is claimed as the destination of a copy, and its granter has meanwhile put "
        "another frame (or, under version 2, another kind of entry) into the shared entry"
    ),
    source="xen/common/grant_table.c (acquire_grant_for_copy), Xen 4.17",
    consequence=(
        "the bytes go to the frame on record, of which no reference is held and which may be freed while the claim "
        "lasts; if the grant on record is a transitive one, a page that was granted read-only is written, and a pin "
        "that was never taken is dropped from it"
    ),
    trace="B maps A's grant r read-only; A changes the frame of entry r; B copies to grant r",
    public="it is published: XSA-500, CVE-2026-62428, mended in July 2026",
)
DEVIATIONS["DEV-12"] = Deviation("DEV-12", "A copy reaches a page that was not granted")
DEVIATIONS["DEV-13"] = Deviation("DEV-13", "A transitive grant is in use without its marks")
DEVIATIONS["DEV-14"] = Deviation("DEV-14", "The pin behind a transitive grant is never dropped")


# ---- the domains


def _is_idle(row: CopySide) -> Boolean:
    """Nothing is held for this side."""
    return both(neg(row.holding), neg(row.granted), neg(row.nested), neg(row.asking))


@transition(hypercall="GNTTABOP_copy")
def copy_domains(s: State, caller: DomId, vcpu: VcpuId, source: DomId, source_gref: bool,
                 destination: DomId, destination_gref: bool) -> Outcome[State]:
    """Look up the two domains of an item.

    source, destination: a domain id or DOMID_SELF.  source_gref, destination_gref: the page is named by a grant.
    Errors: permission_denied if a page of another domain is named by frame number, or the two may not be
    connected; bad_domain.
    Source: xen/common/grant_table.c (gnttab_copy_lock_domains), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    legal(neg(s.copy_side[caller, vcpu, SOURCE].known), "the domains of the item before were given back")
    legal(neg(s.copy_side[caller, vcpu, DESTINATION].known), "the domains of the item before were given back")
    # only the caller's own pages are known by frame number
    if source != DOMID_SELF and not source_gref:
        return refuse(s, GNTST_PERMISSION_DENIED)
    giver = ite(source == DOMID_SELF, caller, source)
    if not exists(s, giver):
        return refuse(s, GNTST_BAD_DOMAIN)
    if destination != DOMID_SELF and not destination_gref:
        return refuse(s, GNTST_PERMISSION_DENIED)
    taker = ite(destination == DOMID_SELF, caller, destination)
    if not exists(s, taker):
        return refuse(s, GNTST_BAD_DOMAIN)
    if not either(is_control(s, caller), pair_allowed(s, giver, taker)):
        return refuse(s, GNTST_PERMISSION_DENIED)
    s = put(s, "copy_side", (caller, vcpu, SOURCE), known=True, domid=source, domain=giver)
    return accept(put(s, "copy_side", (caller, vcpu, DESTINATION), known=True, domid=destination, domain=taker))


@transition(hypercall="GNTTABOP_copy")
def copy_forget(s: State, caller: DomId, vcpu: VcpuId) -> Outcome[State]:
    """Give the two domains back.

    Source: xen/common/grant_table.c (gnttab_copy_unlock_domains), Xen 4.17.
    """
    legal(_is_idle(s.copy_side[caller, vcpu, SOURCE]), "the source was given back")
    legal(_is_idle(s.copy_side[caller, vcpu, DESTINATION]), "the destination was given back")
    s = put(s, "copy_side", (caller, vcpu, SOURCE), known=False)
    return accept(put(s, "copy_side", (caller, vcpu, DESTINATION), known=False))


# ---- claims


class Found(NamedTuple):
    """A page that was claimed: the frame to access, the one that a reference is held on, and the window."""

    mfn: Mfn
    page: Mfn
    start: U16
    length: U16


def _claim_page(s: State, caller: DomId, vcpu: VcpuId, side: Index, gmfn: U64) -> Outcome[State]:
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    row = s.copy_side[caller, vcpu, side]
    legal(both(row.known, _is_idle(row)), "the domain is known, and what was claimed before was given back")
    gfn = Gfn(machine_word(s, gmfn))
    mfn = s.p2m[row.domain, gfn].mfn
    # a hole, a device, another domain's page, or a frame with too many references
    if not is_own_memory(s, row.domain, gfn) or not frames.can_get_page(s, mfn):
        return refuse(s, GNTST_BAD_PAGE)
    # DEV-12
    s = happens(s, "dev12", neg(row.domain == caller))
    return accept(put(
        frames.get_page(s, mfn), "copy_side", (caller, vcpu, side),
        holding=True, page=mfn, claimed=True, key=gmfn, mfn=mfn, start=0, length=FRAME_LENGTH,
    ))


@transition(hypercall="GNTTABOP_copy")
def copy_claim_page(s: State, caller: DomId, vcpu: VcpuId, side: Index, gmfn: U64) -> Outcome[State]:
    """Claim a page by frame number (DEV-12).

    Errors: bad_page.
    Source: xen/common/grant_table.c (gnttab_copy_claim_buf), Xen 4.17.
    """
    return _claim_page(s, caller, vcpu, side, gmfn)


@transition(hypercall="GNTTABOP_copy", repairs="copy_claim_page")
def copy_claim_page_repaired(s: State, caller: DomId, vcpu: VcpuId, side: Index, gmfn: U64) -> Outcome[State]:
    """``copy_claim_page`` without DEV-12."""
    if s.copy_side[caller, vcpu, side].domain != caller:
        return refuse(s, GNTST_PERMISSION_DENIED)
    return _claim_page(s, caller, vcpu, side, gmfn)


def is_transitive(s: State, granter: DomId, ref: GrantRef) -> Boolean:
    """The entry is a transitive one, as it stands now."""
    return both(s.domain[granter].grant_version == 2, read_head_v2(s, granter, ref).type == TRANSITIVE)


def _barred(s: State, granter: DomId, ref: GrantRef, user: DomId, readonly: bool) -> Boolean:
    """The grant is in use by another domain, or in this way as often as it can be."""
    active = s.active_grant[granter, ref]
    return both(is_pinned(active), either(neg(active.domid == user), is_full(active, readonly)))


@merged
def _acquire(s: State, granter: DomId, ref: GrantRef, user: DomId, readonly: bool, *,
             repaired: bool = False) -> Outcome[State]:
    """Pin a grant that is not transitive, and take a reference on its page; ``found`` of the answer tells which."""
    active = s.active_grant[granter, ref]
    if not is_pinned(active):
        return _acquire_unused(s, granter, ref, user, readonly)
    # nobody writes yet, but this use will
    if not readonly and not is_written(active):
        return _acquire_to_write(s, granter, ref, user, repaired=repaired)
    # in use in this way already: the shared entry is not looked at
    page = s.frame[active.mfn]
    if not frames.can_get_page(s, active.mfn) or page.owner != granter or not is_alive(s, granter):
        return refuse(s, GNTST_BAD_DOMAIN)
    s = add_pin(frames.get_page(s, active.mfn), granter, ref, readonly)
    return accept(s, found=Found(active.mfn, active.mfn, active.start, active.length))


def _window(s: State, granter: DomId, ref: GrantRef) -> tuple[Gfn, Boolean, U16, U16]:
    """The page that an entry names now, whether it is a sub-page grant, and its window."""
    if s.domain[granter].grant_version == 1:
        return Gfn(read_v1(s, granter, ref)[0].frame), False, U16(0), U16(FRAME_LENGTH)
    head = read_head_v2(s, granter, ref)
    gfn = own_width(s, decode(FrameV2, read_second_v2(s, granter, ref)).frame)
    if not head.sub_page:
        return gfn, False, U16(0), U16(FRAME_LENGTH)
    # Xen keeps 15 bits of the start
    return gfn, True, U16(head.start % (1 << 15)), head.length


def _acquire_unused(s: State, granter: DomId, ref: GrantRef, user: DomId, readonly: bool) -> Outcome[State]:
    """First use: the entry must permit it, and names the frame by the granter's own stage 2."""
    marked = set_status(s, granter, ref, user, readonly, for_map=False)
    if marked.kind != Kind.DONE:
        return marked
    gfn, sub_page, start, length = _window(marked.state, granter, ref)
    mfn = s.p2m[granter, gfn].mfn
    if not is_own_memory(s, granter, gfn) or not frames.can_get_page(s, mfn):
        return partial(reduce_status(marked.state, granter, ref, readonly), GNTST_BAD_PAGE)
    after = record_consent(marked.state, granter, ref, marked.output["entry"], readonly, gfn, sub_page=sub_page)
    after = add_pin(
        frames.get_page(after, mfn), granter, ref, readonly,
        domid=user, mfn=mfn, start=start, length=length, sub_page=sub_page, trans_domid=granter, trans_ref=ref,
    )
    return accept(after, found=Found(mfn, mfn, start, length))


def _acquire_to_write(s: State, granter: DomId, ref: GrantRef, user: DomId, *, repaired: bool) -> Outcome[State]:
    """In use for reading: the entry must still let it be written.

    The reference is taken on the page that the entry names now, but the frame on record is accessed (DEV-11).
    (repaired) The page must be the one on record.
    """
    active = s.active_grant[granter, ref]
    marked = set_status(s, granter, ref, user, False, for_map=False)
    if marked.kind != Kind.DONE:
        return marked
    gfn, sub_page, _, _ = _window(marked.state, granter, ref)
    page = s.p2m[granter, gfn].mfn
    if not is_own_memory(s, granter, gfn) or not frames.can_get_page(s, page):
        return partial(reduce_status(marked.state, granter, ref, False), GNTST_BAD_PAGE)
    mixed = either(neg(page == active.mfn), neg(active.trans_domid == granter))
    if repaired and mixed:
        return partial(reduce_status(marked.state, granter, ref, False), GNTST_GENERAL_ERROR)
    after = record_consent(marked.state, granter, ref, marked.output["entry"], False, Gfn(0), sub_page=sub_page)
    after = happens(add_pin(frames.get_page(after, page), granter, ref, False), "dev11", mixed)
    return accept(after, found=Found(active.mfn, page, active.start, active.length))


def _claim_grant(
    s: State, caller: DomId, vcpu: VcpuId, side: Index, ref: GrantRef, *, repaired: bool
) -> Outcome[State]:
    row = s.copy_side[caller, vcpu, side]
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    legal(both(row.known, _is_idle(row)), "the domain is known, and what was claimed before was given back")
    readonly = side == SOURCE
    if ref >= entry_count(s, row.domain):
        return refuse(s, GNTST_BAD_GNTREF)
    if _barred(s, row.domain, ref, caller, readonly):
        return refuse(s, GNTST_GENERAL_ERROR)
    legal(neg(is_transitive(s, row.domain, ref)), "the entry is not a transitive one")
    taken = _acquire(s, row.domain, ref, caller, readonly, repaired=repaired)
    if taken.kind != Kind.DONE:
        return taken
    found = taken.output["found"]
    return accept(put(
        taken.state, "copy_side", (caller, vcpu, side),
        holding=True, claimed=True, granted=True, ref=ref, key=row.key - row.key % REFERENCES + ref,
        mfn=found.mfn, page=found.page, start=found.start, length=found.length,
    ))


@transition(hypercall="GNTTABOP_copy")
def copy_claim_grant(s: State, caller: DomId, vcpu: VcpuId, side: Index, ref: GrantRef) -> Outcome[State]:
    """Claim a page by a grant that is not transitive.

    Errors: bad_gntref; general_error if another domain uses it, a counter is full, or the entry does not permit it;
    bad_page; bad_domain if the page on record is not the granter's any more, or the granter is being destroyed.
    After a failure the marks in the shared entry may have been set and cleared again.
    Source: xen/common/grant_table.c (acquire_grant_for_copy), Xen 4.17.
    """
    return _claim_grant(s, caller, vcpu, side, ref, repaired=False)


@transition(hypercall="GNTTABOP_copy", repairs="copy_claim_grant")
def copy_claim_grant_repaired(s: State, caller: DomId, vcpu: VcpuId, side: Index, ref: GrantRef) -> Outcome[State]:
    """``copy_claim_grant`` without DEV-11: a grant in use must still name the page on record."""
    return _claim_grant(s, caller, vcpu, side, ref, repaired=True)


@transition(hypercall="GNTTABOP_copy")
def copy_claim_transitive(s: State, caller: DomId, vcpu: VcpuId, side: Index, ref: GrantRef) -> Outcome[State]:
    """First step of claiming a page by a transitive grant: check and mark its entry, and note what is behind it.

    Errors: bad_gntref; general_error as in ``copy_claim_grant``, and if transitive grants are switched off, or the
    grant behind is one of the same domain or of an unknown one.
    Source: xen/common/grant_table.c (acquire_grant_for_copy), Xen 4.17.
    """
    row = s.copy_side[caller, vcpu, side]
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    legal(both(row.known, _is_idle(row)), "the domain is known, and what was claimed before was given back")
    granter, readonly = row.domain, side == SOURCE
    if ref >= entry_count(s, granter):
        return refuse(s, GNTST_BAD_GNTREF)
    if _barred(s, granter, ref, caller, readonly):
        return refuse(s, GNTST_GENERAL_ERROR)
    legal(is_transitive(s, granter, ref), "the entry is a transitive one")
    active = s.active_grant[granter, ref]
    asked = _mark_transitive(s, granter, ref, caller, readonly)
    if asked.kind != Kind.DONE:
        return asked
    head = read_head_v2(asked.state, granter, ref)
    behind = DomId(head.start)
    allowed = s.settings[Index(0)].transitive_grants
    if not allowed or behind == granter or not exists(s, behind):
        return partial(reduce_status(asked.state, granter, ref, readonly), GNTST_GENERAL_ERROR)
    return accept(put(
        asked.state, "copy_side", (caller, vcpu, side),
        asking=True, ref=ref, trans_domid=behind,
        trans_ref=decode(TransitiveV2, read_second_v2(asked.state, granter, ref)).ref,
        old_writers=active.host_writers, old_readers=active.host_readers,
    ))


@merged
def _mark_transitive(s: State, granter: DomId, ref: GrantRef, user: DomId, readonly: bool) -> Outcome[State]:
    """Mark the entry of a transitive grant, unless it is in use in this way already."""
    active = s.active_grant[granter, ref]
    if is_pinned(active) and (readonly or is_written(active)):
        return accept(s)
    marked = set_status(s, granter, ref, user, readonly, for_map=False)
    if marked.kind != Kind.DONE:
        return marked
    return accept(record_consent(marked.state, granter, ref, marked.output["entry"], readonly, Gfn(0), sub_page=True))


@transition(hypercall="GNTTABOP_copy")
def copy_claim_nested(s: State, caller: DomId, vcpu: VcpuId, side: Index) -> Outcome[State]:
    """Second step: claim the grant behind, on behalf of the domain that passed it on.

    Errors: as ``copy_claim_grant``; general_error also if the grant behind is transitive itself.
    Source: xen/common/grant_table.c (acquire_grant_for_copy), Xen 4.17.
    """
    row = s.copy_side[caller, vcpu, side]
    legal(both(row.asking, neg(row.nested)), "a transitive grant is being claimed")
    granter, ref, user, readonly = row.trans_domid, row.trans_ref, row.domain, side == SOURCE
    if not exists(s, granter):
        return refuse(s, GNTST_GENERAL_ERROR)
    if ref >= entry_count(s, granter):
        return refuse(s, GNTST_BAD_GNTREF)
    if _barred(s, granter, ref, user, readonly):
        return refuse(s, GNTST_GENERAL_ERROR)
    # one level only
    if is_transitive(s, granter, ref):
        active = s.active_grant[granter, ref]
        if is_pinned(active) and (readonly or is_written(active)):
            return refuse(s, GNTST_GENERAL_ERROR)
        marked = set_status(s, granter, ref, user, readonly, for_map=False)
        if marked.kind != Kind.DONE:
            return marked
        return partial(reduce_status(marked.state, granter, ref, readonly), GNTST_GENERAL_ERROR)
    taken = _acquire(s, granter, ref, user, readonly)
    if taken.kind != Kind.DONE:
        return taken
    found = taken.output["found"]
    return accept(put(
        taken.state, "copy_side", (caller, vcpu, side),
        nested=True, holding=True, mfn=found.mfn, page=found.page, start=found.start, length=found.length,
    ))


@transition(hypercall="GNTTABOP_copy")
def copy_finish_transitive(s: State, caller: DomId, vcpu: VcpuId, side: Index) -> Outcome[State]:
    """Third step: if the transitive grant is used as before and means the same, pin it; else the item starts again.

    Source: xen/common/grant_table.c (acquire_grant_for_copy), Xen 4.17.
    """
    row = s.copy_side[caller, vcpu, side]
    legal(both(row.asking, row.nested), "the grant behind was claimed")
    granter, ref, readonly = row.domain, row.ref, side == SOURCE
    active = s.active_grant[granter, ref]
    used = row.old_writers + row.old_readers > 0
    if (s.domain[granter].grant_version != 2 or active.host_writers != row.old_writers
            or active.host_readers != row.old_readers):
        return restart(s)
    if used and not _means_the_same(s, caller, row):
        return restart(s)
    consent = s.consent[granter, ref]
    seen = both(consent.permits, consent.domid == caller, consent.reading,
                either(readonly, both(consent.writable, consent.writing)))
    s = add_pin(
        s, granter, ref, readonly,
        domid=caller, mfn=row.mfn, start=row.start % (1 << 15), length=row.length, sub_page=True,
        trans_domid=row.trans_domid, trans_ref=row.trans_ref,
    )
    return accept(put(happens(s, "dev13", neg(seen)), "copy_side", (caller, vcpu, side), asking=False, granted=True,
                      claimed=True, key=row.key - row.key % REFERENCES + ref))


def _means_the_same(s: State, caller: DomId, row: CopySide) -> Boolean:
    """What is on record of the transitive grant is what was claimed behind it now."""
    active = s.active_grant[row.domain, row.ref]
    return both(
        active.domid == caller, active.mfn == row.mfn, active.start == row.start, active.length == row.length,
        active.trans_domid == row.trans_domid, active.trans_ref == row.trans_ref, active.sub_page,
    )


@transition(hypercall="GNTTABOP_copy")
def copy_abandon(s: State, caller: DomId, vcpu: VcpuId, side: Index) -> Outcome[State]:
    """A transitive grant could not be claimed: take its marks back.

    Source: xen/common/grant_table.c (acquire_grant_for_copy), Xen 4.17.
    """
    row = s.copy_side[caller, vcpu, side]
    legal(both(row.asking, neg(row.nested)), "the grant behind was not claimed, or was given back")
    s = reduce_status(s, row.domain, row.ref, side == SOURCE)
    return accept(put(s, "copy_side", (caller, vcpu, side), asking=False))


# ---- giving back


@transition(hypercall="GNTTABOP_copy")
def copy_release_page(s: State, caller: DomId, vcpu: VcpuId, side: Index) -> Outcome[State]:
    """Give back a page that was claimed by frame number.

    Source: xen/common/grant_table.c (gnttab_copy_release_buf), Xen 4.17.
    """
    row = s.copy_side[caller, vcpu, side]
    legal(both(row.holding, neg(row.granted), neg(row.nested)), "a page is claimed by frame number")
    s = put(s, "copy_side", (caller, vcpu, side), holding=False, claimed=False)
    return accept(frames.put_page(s, row.page))


@transition(hypercall="GNTTABOP_copy")
def copy_release_grant(s: State, caller: DomId, vcpu: VcpuId, side: Index) -> Outcome[State]:
    """Give back a grant that was claimed, and its page; or the first half of a transitive one.

    Whether it is a transitive one, Xen learns from the active entry (DEV-11, DEV-14).
    Source: xen/common/grant_table.c (release_grant_for_copy), Xen 4.17.
    """
    row = s.copy_side[caller, vcpu, side]
    legal(row.granted, "a grant is claimed")
    active = s.active_grant[row.domain, row.ref]
    key = (caller, vcpu, side)
    # the grant behind it comes next, and the page with it
    if s.domain[row.domain].grant_version == 2 and active.trans_domid != row.domain:
        s = put(s, "copy_side", key, granted=False, claimed=False, nested=True,
                trans_domid=active.trans_domid, trans_ref=active.trans_ref)
        return accept(drop_pin(s, row.domain, row.ref, side == SOURCE))
    s = put(s, "copy_side", key, granted=False, claimed=False, nested=False, holding=False)
    # DEV-14
    s = happens(s, "dev14", row.nested)
    return accept(frames.put_page(drop_pin(s, row.domain, row.ref, side == SOURCE), row.page))


@transition(hypercall="GNTTABOP_copy")
def copy_release_nested(s: State, caller: DomId, vcpu: VcpuId, side: Index) -> Outcome[State]:
    """Give back the grant behind a transitive one, and its page.

    Source: xen/common/grant_table.c (release_grant_for_copy), Xen 4.17.
    """
    row = s.copy_side[caller, vcpu, side]
    legal(both(row.nested, neg(row.granted)), "the grant behind a transitive one is claimed")
    s = put(s, "copy_side", (caller, vcpu, side), nested=False, holding=False)
    return accept(frames.put_page(drop_pin(s, row.trans_domid, row.trans_ref, side == SOURCE), row.page))


# ---- the bytes


@layout
class Bytes:
    """The eight bytes of a word."""

    byte0: U8 = field(0, 8)
    byte1: U8 = field(8, 8)
    byte2: U8 = field(16, 8)
    byte3: U8 = field(24, 8)
    byte4: U8 = field(32, 8)
    byte5: U8 = field(40, 8)
    byte6: U8 = field(48, 8)
    byte7: U8 = field(56, 8)


def byte_of(low: Bytes, high: Bytes, number: int, shift: int) -> U8:
    """Byte ``number + shift`` of two words that follow one another.  number, shift: [0..7]."""
    found = U8(0)
    for each in range(8):
        place = number + each
        source = low if place < 8 else high
        found = ite(shift == each, getattr(source, "byte" + str(place % 8)), found)
    return found


def spliced(previous: Word, index: Index, low: Word, high: Word, shift: int, first: int, length: int) -> Word:
    """A word of the destination: the bytes of the window come from the source, the others stay.

    low, high: the two words of the source that its bytes come from.  shift: bytes by which the source lies
    further.  first, length: the window, in bytes of the page.
    """
    old, below, above = decode(Bytes, previous), decode(Bytes, low), decode(Bytes, high)
    new = []
    for each in range(8):
        inside = within(8 * index + each, first, length)
        new.append(ite(inside, byte_of(below, above, each, shift), getattr(old, "byte" + str(each))))
    return encode(Bytes(*new))


def copied_word(
    s: State, source: Mfn, row: Contents, index: Index, distance: int, first: int, length: int
) -> dict[str, Any]:
    """What becomes of one word of the destination.

    distance: bytes from destination to source window, may be negative.
    """
    low = s.word[source, Index(index + distance // 8)]
    high = s.word[source, Index(index + distance // 8 + 1)]
    return {
        "raw": spliced(row.raw, index, low.raw, high.raw, distance % 8, first, length),
        "secret": either(row.secret, low.secret, both(distance % 8 > 0, high.secret)),
    }


@transition(hypercall="GNTTABOP_copy")
def copy_bytes(s: State, caller: DomId, vcpu: VcpuId, source_offset: U16, destination_offset: U16, length: U16
               ) -> Outcome[State]:
    """Copy bytes from the claimed source page to the claimed destination page.

    source_offset, destination_offset, length: in bytes.
    Errors: bad_copy_arg beyond a page; general_error outside what was granted.
    Source: xen/common/grant_table.c (gnttab_copy_buf), Xen 4.17.
    """
    source, destination = s.copy_side[caller, vcpu, SOURCE], s.copy_side[caller, vcpu, DESTINATION]
    legal(both(source.claimed, destination.claimed), "both pages are claimed")
    if source_offset + length > FRAME_LENGTH or destination_offset + length > FRAME_LENGTH:
        return refuse(s, GNTST_BAD_COPY_ARG)
    if source_offset < source.start or source_offset + length > source.start + source.length:
        return refuse(s, GNTST_GENERAL_ERROR)
    if destination_offset < destination.start or destination_offset + length > destination.start + destination.length:
        return refuse(s, GNTST_GENERAL_ERROR)
    s = put(s, "copied", (caller, vcpu), moment=s.copied[caller, vcpu].moment + 1, source=source_offset,
            destination=destination_offset, length=length)
    first = destination_offset // 8
    words = (destination_offset + length + 7) // 8 - first
    distance = source_offset - destination_offset
    return accept(fill(
        s, "word", (destination.mfn, span(Index(first), words)),
        lambda row, _mfn, index: copied_word(s, source.mfn, row, index, distance, destination_offset, length),
    ))
