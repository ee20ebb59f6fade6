"""When Xen believes a shared entry, and what it tells the granter.

``set_status`` looks at the entry of a grant that is about to be used (or used for more than before)
and sets its reading and writing bits; ``reduce_status`` clears what the remaining pins no longer
justify.  Both record in the ghost ``consent`` what the entry said and what the granter was told.
"""

from __future__ import annotations

from typing import Any

from spec.errors import GNTST_GENERAL_ERROR
from spec.grant.entries import (
    PERMIT_ACCESS,
    TRANSITIVE,
    EntryV1,
    Header,
    HeadV2,
    read_head_v2,
    read_v1,
    store_status,
    store_v1,
)
from spec.language import (
    Boolean,
    DomId,
    Gfn,
    GrantRef,
    Outcome,
    accept,
    both,
    either,
    evolve,
    ite,
    merged,
    neg,
    one_of,
    partial,
    put,
    refuse,
)
from spec.state import ActiveGrant, P2mType, State

LARGEST_COUNT = 128
"""A pin counter stops here: its highest bit is the sign that it is full."""


def is_pinned(active: ActiveGrant) -> Boolean:
    """The grant is in use."""
    return active.host_writers + active.host_readers + active.device_writers + active.device_readers > 0


def is_written(active: ActiveGrant) -> Boolean:
    """The grant is in use for writing."""
    return active.host_writers + active.device_writers > 0


def is_full(active: ActiveGrant, readonly: Boolean) -> Boolean:
    """The counter that one more use would raise is at its limit."""
    return ite(readonly, active.host_readers, active.host_writers) >= LARGEST_COUNT


def is_own_memory(s: State, domain: DomId, gfn: Gfn) -> Boolean:
    """The domain has a page of its own there: neither a device nor a page of another domain.

    Source: xen/common/grant_table.c (get_paged_frame), Xen 4.17.
    """
    row = s.p2m[domain, gfn]
    return both(
        one_of(row.type, P2mType.RAM_RW, P2mType.RAM_RO, P2mType.GRANT_MAP_RW, P2mType.GRANT_MAP_RO),
        s.frame[row.mfn].owner == domain,
    )


def add_pin(s: State, granter: DomId, ref: GrantRef, readonly: Boolean, **recorded: Any) -> State:
    """One use more; on the first one also what is ``recorded`` of the grant."""
    active = s.active_grant[granter, ref]
    return put(
        s, "active_grant", (granter, ref),
        host_readers=active.host_readers + ite(readonly, 1, 0), host_writers=active.host_writers + ite(readonly, 0, 1),
        **recorded,
    )


def drop_pin(s: State, granter: DomId, ref: GrantRef, readonly: Boolean) -> State:
    """One use less, and the marks that it leaves unjustified.

    The counters are bytes of one word.
    Source: xen/common/grant_table.c (unmap_common_complete, release_grant_for_copy), Xen 4.17.
    """
    active = s.active_grant[granter, ref]
    writers = active.host_writers - ite(readonly, 0, 1)
    readers = active.host_readers - ite(either(readonly, writers < 0), 1, 0)
    s = put(s, "active_grant", (granter, ref),
            host_writers=ite(writers < 0, 255, writers), host_readers=ite(readers < 0, 255, readers))
    return reduce_status(s, granter, ref, readonly)


def _admits(entry: EntryV1 | HeadV2, user: DomId, *, for_map: bool, transitive: bool) -> Boolean:
    """The entry permits access, and to this domain.

    Only a map minds the sub-page flag; only a copy under version 2 may go through a transitive grant.
    """
    permits = entry.type == PERMIT_ACCESS
    if for_map:
        permits = both(permits, neg(entry.sub_page))
    elif transitive:
        permits = either(permits, entry.type == TRANSITIVE)
    return both(permits, entry.domid == user)


@merged
def set_status(s: State, granter: DomId, ref: GrantRef, user: DomId, readonly: bool,
               *, for_map: bool) -> Outcome[State]:
    """Check the shared entry and mark it as read, and as written if asked; ``entry`` of the answer is what it said.

    Errors: general_error; under version 2 the marks may have changed then, since they are set before
    Xen looks a second time.

    Source: xen/common/grant_table.c (_set_status), Xen 4.17.
    """
    if s.domain[granter].grant_version == 1:
        return _set_status_v1(s, granter, ref, user, readonly, for_map=for_map)
    return _set_status_v2(s, granter, ref, user, readonly, for_map=for_map)


def _set_status_v1(s: State, granter: DomId, ref: GrantRef, user: DomId, readonly: bool,
                   *, for_map: bool) -> Outcome[State]:
    """One compare-and-exchange: what was checked is what is marked.

    Xen tries five times and then refuses; a refusal for that reason changes nothing either.
    Source: xen/common/grant_table.c (_set_status_v1), Xen 4.17.
    """
    active = s.active_grant[granter, ref]
    entry, word = read_v1(s, granter, ref)
    # type and domain were accepted when the first pin was taken, and are not looked at again
    if not is_pinned(active) and not _admits(entry, user, for_map=for_map, transitive=False):
        return refuse(s, GNTST_GENERAL_ERROR)
    if not readonly and entry.readonly:
        return refuse(s, GNTST_GENERAL_ERROR)
    marked = evolve(entry, reading=True, writing=either(entry.writing, neg(readonly)))
    return accept(store_v1(s, granter, ref, marked, word), entry=_header(entry))


def _set_status_v2(s: State, granter: DomId, ref: GrantRef, user: DomId, readonly: bool,
                   *, for_map: bool) -> Outcome[State]:
    """Check, mark, check again: the granter may have changed its mind before it saw the mark.

    Source: xen/common/grant_table.c (_set_status_v2), Xen 4.17.
    """
    active = s.active_grant[granter, ref]
    entry = read_head_v2(s, granter, ref)
    if not is_pinned(active) and not _admits(entry, user, for_map=for_map, transitive=True):
        return refuse(s, GNTST_GENERAL_ERROR)
    if not readonly and entry.readonly:
        return refuse(s, GNTST_GENERAL_ERROR)
    marked = store_status(s, granter, ref, reading=True, writing=None if readonly else True)
    entry = read_head_v2(marked, granter, ref)
    if not is_pinned(active):
        # not permitted any more: nobody uses the grant, so both marks go
        if not _admits(entry, user, for_map=for_map, transitive=True) or (not readonly and entry.readonly):
            return partial(store_status(marked, granter, ref, reading=False, writing=False), GNTST_GENERAL_ERROR)
    # read-only by now: the readers stay, nobody writes
    elif entry.readonly:
        return partial(store_status(marked, granter, ref, writing=False), GNTST_GENERAL_ERROR)
    return accept(marked, entry=_header(entry))


def _header(entry: EntryV1 | HeadV2) -> Header:
    """What both versions say."""
    return Header(entry.type, entry.readonly, entry.sub_page, entry.domid)


def record_consent(s: State, granter: DomId, ref: GrantRef, entry: Header, readonly: bool,
                   gfn: Gfn, *, sub_page: Boolean) -> State:
    """Ghost: what the entry said when it was marked.  While the grant is in use only the right to write is added."""
    before = s.consent[granter, ref]
    if not is_pinned(s.active_grant[granter, ref]):
        return put(s, "consent", (granter, ref), permits=True, writable=neg(entry.readonly), domid=entry.domid,
                   gfn=gfn, sub_page=sub_page, reading=True, writing=either(before.writing, neg(readonly)))
    return put(s, "consent", (granter, ref), writable=either(before.writable, neg(entry.readonly)),
               reading=True, writing=either(before.writing, neg(readonly)))


@merged
def reduce_status(s: State, granter: DomId, ref: GrantRef, readonly: Boolean) -> State:
    """Clear the marks that no remaining pin justifies, after a use that was ``readonly`` has ended or failed.

    Source: xen/common/grant_table.c (reduce_status_for_pin), Xen 4.17.
    """
    active = s.active_grant[granter, ref]
    unread = neg(is_pinned(active))
    unwritten = both(neg(readonly), neg(is_written(active)))
    # somebody still uses the grant in this way: nothing to clear
    if not unread and not unwritten:
        return s
    s = _unmark(s, granter, ref, unread, unwritten)
    before = s.consent[granter, ref]
    return put(
        s, "consent", (granter, ref),
        permits=both(before.permits, neg(unread)),
        writable=both(before.writable, neg(unread)),
        reading=both(before.reading, neg(unread)),
        writing=both(before.writing, neg(unwritten)),
    )


def _unmark(s: State, granter: DomId, ref: GrantRef, unread: Boolean, unwritten: Boolean) -> State:
    if s.domain[granter].grant_version == 1:
        entry, word = read_v1(s, granter, ref)
        kept = evolve(entry, reading=both(entry.reading, neg(unread)), writing=both(entry.writing, neg(unwritten)))
        return store_v1(s, granter, ref, kept, word)
    return store_status(s, granter, ref, reading=False if unread else None, writing=False if unwritten else None)
