"""Mapping a granted page into the mapper's stage 2.

Source: xen/common/grant_table.c (map_grant_ref), xen/arch/arm/mm.c (create_grant_host_mapping),
xen/arch/arm/p2m.c, Xen 4.17.
"""

from __future__ import annotations

from typing import NamedTuple

from spec.domain.privilege import exists, is_alive, pair_allowed
from spec.errors import (
    GNTST_BAD_DOMAIN,
    GNTST_BAD_GNTREF,
    GNTST_BAD_PAGE,
    GNTST_GENERAL_ERROR,
    GNTST_NO_SPACE,
    GNTST_PERMISSION_DENIED,
)
from spec.grant.access import (
    add_pin,
    is_full,
    is_own_memory,
    is_pinned,
    is_written,
    record_consent,
    reduce_status,
    set_status,
)
from spec.grant.device import enter_for_devices, has_direct_devices
from spec.grant.entries import FRAME_LENGTH, entry_count, read_frame
from spec.grant.invariants import MAPTRACK_ENTRIES, is_live, is_live_of
from spec.language import (
    U16,
    U64,
    Boolean,
    DomId,
    Gfn,
    GrantRef,
    Handle,
    Kind,
    Mfn,
    Outcome,
    VcpuId,
    Word,
    accept,
    both,
    count,
    decode,
    field,
    flag,
    ite,
    layout,
    legal,
    merged,
    neg,
    partial,
    put,
    refuse,
    transition,
)
from spec.memory import frames, p2m
from spec.memory.width import machine_word
from spec.state import P2mType, State

PAGE = 4096
MOST_VCPUS = 128
"""Each vCPU that has used the maptrack keeps one free entry for itself."""


@layout
class MapFlags:
    """What a mapper asks for."""

    device_map: bool = flag(0)
    host_map: bool = flag(1)
    readonly: bool = flag(2)
    application_map: bool = flag(3)
    contains_pte: bool = flag(4)
    other: U16 = field(5, 11)
    guest_available: U16 = field(16, 16)


def guest_frame(s: State, address: U64) -> Gfn:
    """The guest frame of an address, of which arm32 keeps 32 bits.

    Source: xen/arch/arm/mm.c (create_grant_host_mapping, replace_grant_host_mapping), Xen 4.17.
    """
    return Gfn(machine_word(s, address) // PAGE)


def may_run_out(s: State, mapper: DomId) -> Boolean:
    """The maptrack may be full: what is live, and one entry that each vCPU keeps, could fill it.

    Which vCPU's list a free entry stands on is abstracted, and so is whether the heap had a page for
    one more maptrack frame when none was free.
    """
    return count(s.mapping, is_live_of, mapper) + MOST_VCPUS >= s.domain[mapper].maptrack_frames * MAPTRACK_ENTRIES


class Wish(NamedTuple):
    """One mapping as it was asked for.  plain: no flag is set but those that Arm knows."""

    caller: DomId
    granter: DomId
    ref: GrantRef
    gfn: Gfn
    readonly: bool
    plain: bool
    handle: Handle
    tables_left: bool
    vcpu: VcpuId


@transition(hypercall="GNTTABOP_map_grant_ref")
def map_grant_ref(s: State, caller: DomId, granter: DomId, ref: GrantRef, host_addr: U64, flags: Word,
                  handle: Handle, space_left: bool, tables_left: bool, vcpu: VcpuId) -> Outcome[State]:
    """Map one granted page at a guest address of the caller.

    granter: a domain id, the caller's own included; DOMID_SELF is not one.  host_addr: its lowest 12 bits are ignored.
    flags: ``MapFlags``.  handle: chosen by Xen among the caller's unused maptrack entries.
    space_left: whether Xen found one.  tables_left: whether a table page was at hand if one was needed.
    vcpu: whose list the handle goes back to.
    Errors: bad_gntref if nothing is to be mapped or the reference is not bound; general_error for a device,
    application or PTE mapping, an entry that does not permit it, a full counter or a failed insertion;
    bad_domain; permission_denied; no_space; bad_page if the granter has no page of its own there.
    After a failure the marks in the shared entry may have been set and cleared again; nothing else changes, but
    that an insertion undone for the sake of devices leaves nothing at the address.
    Source: xen/common/grant_table.c (map_grant_ref), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    asked = decode(MapFlags, flags)
    # neither kind of mapping is asked for
    if not asked.device_map and not asked.host_map:
        return refuse(s, GNTST_BAD_GNTREF)
    # guests on Arm are translated: only host mappings by address exist
    if asked.device_map or asked.application_map or asked.contains_pte:
        return refuse(s, GNTST_GENERAL_ERROR)
    if not exists(s, granter):
        return refuse(s, GNTST_BAD_DOMAIN)
    if not pair_allowed(s, caller, granter):
        return refuse(s, GNTST_PERMISSION_DENIED)
    if not space_left:
        legal(may_run_out(s, caller), "the maptrack runs out only when it can be full")
        return refuse(s, GNTST_NO_SPACE)
    legal(handle < s.domain[caller].maptrack_frames * MAPTRACK_ENTRIES, "the handle is inside the maptrack")
    legal(neg(is_live(s.mapping[caller, handle])), "the handle is not in use")
    if ref >= entry_count(s, granter):
        return refuse(s, GNTST_BAD_GNTREF)
    wish = Wish(caller, granter, ref, guest_frame(s, host_addr), asked.readonly,
                both(asked.other == 0, asked.guest_available == 0), handle, tables_left, vcpu)
    active = s.active_grant[granter, ref]
    # nobody uses the grant yet
    if not is_pinned(active):
        return _map_unused(s, wish)
    # in use already: only by the same domain, up to the limit, and never through a window or another grant
    if active.domid != caller or is_full(active, asked.readonly) or active.sub_page:
        return refuse(s, GNTST_GENERAL_ERROR)
    # nobody writes yet, but this use will
    if not asked.readonly and not is_written(active):
        return _map_to_write(s, wish)
    return _map_again(s, wish)


@merged
def _map_unused(s: State, wish: Wish) -> Outcome[State]:
    """First use: the entry must permit it, and names the frame by the granter's own stage 2."""
    granter, ref = wish.granter, wish.ref
    marked = set_status(s, granter, ref, wish.caller, wish.readonly, for_map=True)
    if marked.kind != Kind.DONE:
        return marked
    gfn = read_frame(marked.state, granter, ref)
    mfn = s.p2m[granter, gfn].mfn
    # a hole, a device, another domain's page, or a frame with too many references
    if not is_own_memory(s, granter, gfn) or not frames.can_get_page(s, mfn):
        return partial(reduce_status(marked.state, granter, ref, wish.readonly), GNTST_BAD_PAGE)
    entered = _enter(marked.state, wish, mfn)
    if entered.kind != Kind.DONE:
        return partial(reduce_status(entered.state, granter, ref, wish.readonly), entered.code)
    entry = marked.output["entry"]
    after = record_consent(entered.state, granter, ref, entry, wish.readonly, gfn, sub_page=entry.sub_page)
    after = add_pin(
        after, granter, ref, wish.readonly,
        domid=wish.caller, mfn=mfn, start=0, length=FRAME_LENGTH, sub_page=False, trans_domid=granter, trans_ref=ref,
    )
    return _recorded(after, wish, mfn)


@merged
def _map_to_write(s: State, wish: Wish) -> Outcome[State]:
    """In use for reading: the entry must still let it be written; the frame stays the one on record."""
    granter, ref = wish.granter, wish.ref
    marked = set_status(s, granter, ref, wish.caller, wish.readonly, for_map=True)
    if marked.kind != Kind.DONE:
        return marked
    active = s.active_grant[granter, ref]
    entered = _enter(marked.state, wish, active.mfn)
    if entered.kind != Kind.DONE:
        return partial(reduce_status(entered.state, granter, ref, wish.readonly), entered.code)
    entry = marked.output["entry"]
    after = record_consent(entered.state, granter, ref, entry, wish.readonly, Gfn(0), sub_page=entry.sub_page)
    return _recorded(add_pin(after, granter, ref, wish.readonly), wish, active.mfn)


@merged
def _map_again(s: State, wish: Wish) -> Outcome[State]:
    """In use in this way already: the shared entry is not looked at."""
    mfn = s.active_grant[wish.granter, wish.ref].mfn
    entered = _enter(s, wish, mfn)
    if entered.kind != Kind.DONE:
        return entered
    return _recorded(add_pin(entered.state, wish.granter, wish.ref, wish.readonly), wish, mfn)


@merged
def _enter(s: State, wish: Wish, mfn: Mfn) -> Outcome[State]:
    """Take a page reference and enter the frame into the caller's stage 2, replacing what is there."""
    # too many references, or not the granter's any more
    if not frames.can_get_page(s, mfn) or s.frame[mfn].owner != wish.granter:
        return refuse(s, GNTST_GENERAL_ERROR)
    if not wish.plain:
        return refuse(s, GNTST_GENERAL_ERROR)
    if not wish.tables_left:
        legal(p2m.tables_may_lack(s, wish.caller, 1), "tables are missing only if the pool is nearly empty")
        return refuse(s, GNTST_GENERAL_ERROR)
    kind = ite(wish.readonly, P2mType.GRANT_MAP_RO, P2mType.GRANT_MAP_RW)
    entered = p2m.insert_page(frames.get_page(s, mfn), wish.caller, wish.gfn, mfn, kind, handle=wish.handle)
    if entered.kind != Kind.DONE:
        return refuse(s, GNTST_GENERAL_ERROR)
    if wish.caller == wish.granter or not has_direct_devices(s, wish.caller):
        return entered
    reachable = enter_for_devices(entered.state, wish.caller, mfn, wish.readonly)
    # the mapping goes again; what was at the address before it does not come back
    if reachable.kind != Kind.DONE:
        # it is no part of a larger block: no table page is needed
        removed = p2m.remove_page(entered.state, wish.caller, wish.gfn, mfn, tables_left=True)
        return partial(frames.put_page(removed.state, mfn), GNTST_GENERAL_ERROR)
    return reachable


def _recorded(s: State, wish: Wish, mfn: Mfn) -> Outcome[State]:
    """The maptrack entry, and what the caller is told."""
    after = put(
        s, "mapping", (wish.caller, wish.handle),
        host=True, device=False, readonly=wish.readonly, granter=wish.granter, ref=wish.ref, vcpu=wish.vcpu,
        gfn=wish.gfn, mfn=mfn,
    )
    return accept(after, handle=wish.handle, dev_bus_addr=mfn * PAGE)
