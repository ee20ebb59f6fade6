"""The end of a domain's grants: as a mapper, as a granter, and of its table.

As a mapper: each mapping that lives is released, with its pin and its page reference; its stage-2 row goes
with the rest of the domain's stage 2.  As a granter: nothing is revoked.  Its pages stay allocated, by the
references of those who map them, and with them the domain stays, until the last mapper has let go.  Only
then are the frames of its table freed.

Source: xen/common/grant_table.c (gnttab_release_mappings, grant_table_warn_active_grants,
grant_table_destroy), Xen 4.17.
"""

from __future__ import annotations

from spec.domain.privilege import exists
from spec.grant.access import drop_pin, is_pinned
from spec.grant.invariants import MAPTRACK_ENTRIES, is_live
from spec.language import (
    Boolean,
    DomId,
    GrantRef,
    Handle,
    Index,
    Mfn,
    Outcome,
    VcpuId,
    accept,
    both,
    count,
    ite,
    legal,
    put,
    restart,
    transition,
)
from spec.memory import frames, heap
from spec.state import ActiveGrant, CopySide, FrameOf, Mapping, Stage, State, Status

# ---- the mapper


def is_live_from(row: Mapping, domain: DomId, handle: Handle, mapper: DomId, first: int) -> Boolean:
    """A mapping by this domain whose handle is ``first`` or above."""
    return both(is_live(row), domain == mapper, handle >= first)


@transition(actor="")
def release_mapping(s: State, domain: DomId, handle: Handle) -> Outcome[State]:
    """Release one grant mapping of a domain that is being destroyed.

    handle: of a mapping that lives; Xen goes from the highest to the lowest.
    If the granter cannot be looked up any more there is nothing to give back.
    Source: xen/common/grant_table.c (gnttab_release_mappings), Xen 4.17.
    """
    owner, row = s.domain[domain], s.mapping[domain, handle]
    legal(both(owner.status == Status.DYING, owner.stage == Stage.GRANTS), "the domain's grants are being released")
    legal(is_live(row), "the maptrack entry stands for a mapping")
    s = put(s, "mapping", (domain, handle), host=False, device=False)
    if not exists(s, row.granter):
        return restart(s)
    # Xen forgets how many mappings of the frame it had counted
    s = put(s, "device_use", (domain, row.mfn), readers=0, writers=0)
    s = drop_pin(s, row.granter, row.ref, row.readonly)
    return restart(frames.put_page(s, row.mfn))


@transition(actor="")
def free_maptrack_frame(s: State, domain: DomId) -> Outcome[State]:
    """Free the last maptrack frame of a domain that is being destroyed, when nothing in it lives.

    Source: xen/common/grant_table.c (gnttab_release_mappings), Xen 4.17.
    """
    owner = s.domain[domain]
    legal(both(owner.status == Status.DYING, owner.stage == Stage.GRANTS), "the domain's grants are being released")
    legal(owner.maptrack_frames > 0, "a maptrack frame is left")
    number = owner.maptrack_frames - 1
    legal(
        count(s.mapping, is_live_from, domain, number * MAPTRACK_ENTRIES) == 0, "what it had mapped there was released"
    )
    s = put(s, "domain", domain, maptrack_frames=number)
    return restart(s) if number > 0 else accept(s)


# ---- the granter


def is_pinned_of(row: ActiveGrant, granter: DomId, _ref: GrantRef, domain: DomId) -> Boolean:
    """A grant of this domain that is in use."""
    return both(granter == domain, is_pinned(row))


def lists_frame(row: FrameOf, _domain: DomId, _number: int, mfn: Mfn) -> Boolean:
    """The frame is listed as one of a grant table, or of its status words."""
    return both(row.present, row.mfn == mfn)


def looks_up(row: CopySide, _caller: DomId, _vcpu: VcpuId, _side: Index, domain: DomId) -> Boolean:
    """A copy under way has looked the domain up."""
    return both(row.known, row.domain == domain)


def _may_free(s: State, domain: DomId, mfn: Mfn) -> None:
    legal(s.domain[domain].status == Status.UNLISTED, "nobody can look the domain up")
    legal(count(s.active_grant, is_pinned_of, domain) == 0, "none of its grants is in use, or its pages would keep it")
    legal(count(s.copy_side, looks_up, domain) == 0, "no call that has looked it up is under way")
    # what is left of a domain that was never built has the reference of its allocation still
    frame = s.frame[mfn]
    legal(frame.references == ite(frame.allocated, 1, 0), "nobody else has a reference on the frame")


@transition(actor="")
def free_grant_frame(s: State, domain: DomId) -> Outcome[State]:
    """Free the last frame of entries of a domain that is gone.

    Source: xen/common/grant_table.c (grant_table_destroy), Xen 4.17.
    """
    legal(s.domain[domain].grant_frames > 0, "a frame is left")
    number = s.domain[domain].grant_frames - 1
    mfn = s.grant_frame[domain, number].mfn
    _may_free(s, domain, mfn)
    s = put(heap.unshare_page(s, mfn), "grant_frame", (domain, number), present=False)
    s = put(s, "domain", domain, grant_frames=number)
    return restart(s) if number > 0 else accept(s)


@transition(actor="")
def free_last_status_frame(s: State, domain: DomId) -> Outcome[State]:
    """Free the last frame of status words of a domain that is gone.

    Source: xen/common/grant_table.c (grant_table_destroy), Xen 4.17.
    """
    legal(s.domain[domain].status_frames > 0, "a frame is left")
    number = s.domain[domain].status_frames - 1
    mfn = s.status_frame[domain, number].mfn
    _may_free(s, domain, mfn)
    s = put(heap.unshare_page(s, mfn), "status_frame", (domain, number), present=False)
    s = put(s, "domain", domain, status_frames=number)
    # a change of version that was stopped ends with the frames
    if number == 0:
        return accept(put(s, "version_change", domain, to=0, cleared=0, withdrawn=0, stopped=False))
    withdrawn = s.version_change[domain].withdrawn
    return restart(put(s, "version_change", domain, withdrawn=ite(withdrawn > number, number, withdrawn)))
