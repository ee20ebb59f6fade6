"""Taking a grant mapping back, in two phases with one TLB flush between them.

Phase 1 takes the page out of the mapper's stage 2 and frees the maptrack entry; what it took for the
mapping (a page reference and a pin) waits in the table ``release``.  The flush follows, for up to
32 items at once.  Phase 2 (``complete_unmap``) drops what was taken, item by item.  So the granter
sees its page as unused, and the page can be freed, only when nobody can reach it any more.

Source: xen/common/grant_table.c (unmap_common, unmap_common_complete), xen/arch/arm/mm.c
(replace_grant_host_mapping), Xen 4.17.
"""

from __future__ import annotations

from spec.domain.privilege import exists, is_alive
from spec.errors import GNTST_BAD_DEV_ADDR, GNTST_BAD_HANDLE, GNTST_GENERAL_ERROR
from spec.grant.access import drop_pin
from spec.grant.device import has_direct_devices, leave_for_devices
from spec.grant.entries import entry_count
from spec.grant.invariants import MAPTRACK_ENTRIES, is_live
from spec.grant.map import guest_frame
from spec.language import (
    DEVIATIONS,
    U64,
    Deviation,
    DomId,
    Gfn,
    Handle,
    Index,
    Kind,
    Outcome,
    accept,
    both,
    crash,
    ite,
    legal,
    merged,
    neg,
    one_of,
    put,
    refuse,
    transition,
)
from spec.memory import frames, p2m
from spec.memory.width import machine_word
from spec.state import P2mType, State

DEVIATIONS["DEV-1"] = Deviation("DEV-1", "A grant is released although its page stays mapped")


def _stale(s: State, caller: DomId, handle: Handle, gfn: Gfn) -> State:
    """Nothing is claimed any more of the row that the released handle had made, if it is still there (DEV-1)."""
    row = s.p2m[caller, gfn]
    left = both(one_of(row.type, P2mType.GRANT_MAP_RW, P2mType.GRANT_MAP_RO), row.handle == handle)
    return put(s, "p2m", (caller, gfn), stale=ite(left, True, row.stale))


def _phase1(
    s: State, caller: DomId, host_addr: U64, new_addr: U64, handle: Handle, slot: Index, tables_left: bool, *,
    repaired: bool,
) -> Outcome[State]:
    """Take one mapping out of the caller's stage 2; see ``unmap_grant_ref``."""
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    legal(neg(s.release[caller, Handle(slot)].held), "the place for pending work is free")
    if handle >= s.domain[caller].maptrack_frames * MAPTRACK_ENTRIES:
        return refuse(s, GNTST_BAD_HANDLE)
    row = s.mapping[caller, handle]
    if not is_live(row):
        return refuse(s, GNTST_BAD_HANDLE)
    # the granter has gone and was forgotten
    if not exists(s, row.granter):
        return crash(s, caller)
    if row.ref >= entry_count(s, row.granter):
        return refuse(s, GNTST_BAD_HANDLE)
    # a device mapping has a bus address, which must be right; on Arm there is none
    if row.device:
        return refuse(s, GNTST_BAD_DEV_ADDR)
    # no address: nothing is unmapped, the handle stays in use, and that is no error
    if host_addr == 0:
        return accept(s)
    # only a host without translation could put another page in its place
    if machine_word(s, new_addr) != 0:
        return refuse(s, GNTST_GENERAL_ERROR)
    gfn = guest_frame(s, host_addr)
    # (repaired) DEV-1
    if repaired and gfn != row.gfn:
        return refuse(s, GNTST_GENERAL_ERROR)
    return _take_out(s, caller, gfn, handle, slot, tables_left)


@merged
def _take_out(s: State, caller: DomId, gfn: Gfn, handle: Handle, slot: Index, tables_left: bool) -> Outcome[State]:
    """Remove what is mapped at ``gfn`` and free the handle (DEV-1)."""
    row = s.mapping[caller, handle]
    mfn = s.active_grant[row.granter, row.ref].mfn
    removed = p2m.remove_page(s, caller, gfn, mfn, tables_left)
    # another frame is mapped there, or it is part of a larger block that cannot be split
    if removed.kind != Kind.DONE:
        return refuse(s, GNTST_GENERAL_ERROR)
    after = _stale(removed.state, caller, handle, row.gfn)
    after = put(after, "mapping", (caller, handle), host=False)
    after = put(
        after, "release", (caller, slot),
        held=True, readonly=row.readonly, granter=row.granter, ref=row.ref, mfn=mfn,
    )
    if caller == row.granter or not has_direct_devices(s, caller):
        return accept(after)
    return leave_for_devices(after, caller, mfn, row.readonly)


UNREACHABLE: dict[int | Kind, str] = {
    GNTST_BAD_DEV_ADDR: "no maptrack entry stands for a device mapping (INV-GNT-NO-DEVICE-MAPS)",
    Kind.CRASH: "the granter of a mapping can be looked up (INV-GNT-PARTIES)",
}
KEEPS = ("REPAIRED-DEVICE", "REPAIRED-REFERENCE")
"""The repaired steps mend DEV-1; DEV-10 and DEV-15 of what they call are still there."""


@transition(hypercall="GNTTABOP_unmap_grant_ref", unreachable=UNREACHABLE)
def unmap_grant_ref(s: State, caller: DomId, host_addr: U64, dev_bus_addr: U64, handle: Handle,
                    slot: Index, tables_left: bool) -> Outcome[State]:
    """Phase 1 of taking back one mapping.

    host_addr: where it is mapped, 0 to leave it there (DEV-1).
    dev_bus_addr: of no account, since no device mapping exists.
    slot: place for the pending work, one for each item of a batch.
    tables_left: the caller's pool has the table pages that it takes to split a larger block.
    Errors: bad_handle if it is not in use; general_error if another frame is mapped at the address, or without table
    pages, or (the mapping being gone nevertheless) if it could not be taken from the caller's devices.
    Source: xen/common/grant_table.c (unmap_common), Xen 4.17.
    """
    return _phase1(s, caller, host_addr, U64(0), handle, slot, tables_left, repaired=False)


@transition(hypercall="GNTTABOP_unmap_grant_ref", repairs="unmap_grant_ref", unreachable=UNREACHABLE, keeps=KEEPS)
def unmap_grant_ref_repaired(s: State, caller: DomId, host_addr: U64, dev_bus_addr: U64, handle: Handle,
                             slot: Index, tables_left: bool) -> Outcome[State]:
    """``unmap_grant_ref`` without DEV-1."""
    return _phase1(s, caller, host_addr, U64(0), handle, slot, tables_left, repaired=True)


@transition(hypercall="GNTTABOP_unmap_and_replace", unreachable=UNREACHABLE)
def unmap_and_replace(s: State, caller: DomId, host_addr: U64, new_addr: U64, handle: Handle, slot: Index,
                      tables_left: bool) -> Outcome[State]:
    """Phase 1 of taking back one mapping; to put another page in its place is never possible on Arm.

    new_addr: must be 0.
    Errors: bad_handle; general_error, also for a new address.
    Source: xen/common/grant_table.c (unmap_and_replace), Xen 4.17.
    """
    return _phase1(s, caller, host_addr, new_addr, handle, slot, tables_left, repaired=False)


@transition(hypercall="GNTTABOP_unmap_and_replace", repairs="unmap_and_replace", unreachable=UNREACHABLE, keeps=KEEPS)
def unmap_and_replace_repaired(s: State, caller: DomId, host_addr: U64, new_addr: U64, handle: Handle, slot: Index,
                               tables_left: bool) -> Outcome[State]:
    """``unmap_and_replace`` without DEV-1."""
    return _phase1(s, caller, host_addr, new_addr, handle, slot, tables_left, repaired=True)


@transition(hypercall="GNTTABOP_unmap_grant_ref")
def complete_unmap(s: State, caller: DomId, slot: Index) -> Outcome[State]:
    """Phase 2, after the TLB flush: drop the page reference and the pin of one mapping that was taken out.

    Source: xen/common/grant_table.c (unmap_common_complete), Xen 4.17.
    """
    row = s.release[caller, Handle(slot)]
    legal(row.held, "there is something to release")
    s = put(s, "release", (caller, slot), held=False)
    s = frames.put_page(s, row.mfn)
    return accept(drop_pin(s, row.granter, row.ref, row.readonly))
