"""Cache maintenance by machine address, for a page of one's own or one that is granted and in use.

Source: xen/common/grant_table.c (gnttab_cache_flush, _cache_flush, grant_map_exists), Xen 4.17.
"""

from __future__ import annotations

from spec.deviations import happens
from spec.domain.privilege import exists, is_alive
from spec.errors import EILSEQ, EINVAL, EPERM
from spec.grant.access import is_pinned
from spec.grant.entries import FRAME_LENGTH, entry_count
from spec.language import (
    U16,
    U32,
    U64,
    Boolean,
    DomId,
    GrantRef,
    Index,
    Mfn,
    Outcome,
    accept,
    bits_of,
    both,
    count,
    crash,
    either,
    legal,
    neg,
    put,
    refuse,
    restart,
    transition,
)
from spec.language.registry import DEVIATIONS, Deviation
from spec.memory import frames
from spec.memory.width import machine_word
from spec.state import NOBODY, ActiveGrant, State, Use

DEVIATIONS["DEV-34"] = Deviation("DEV-34", "The hypervisor does not come back from a cache operation")

PAGE = 4096
CLEAN = 1
INVALIDATE = 2
LINES = (16, 32, 64, 128, 256, 512, 1024, 2048)
"""What a line of a data cache may have, in bytes. Source: Arm DDI 0487J.a, CTR_EL0.DminLine and CCSIDR_EL1.LineSize."""
CHUNK = 1 << 12
"""Grants that are looked at before Xen asks whether there is other work."""


def is_use_of(row: ActiveGrant, granter: DomId, ref: GrantRef, owner: DomId, user: DomId, mfn: Mfn, first: GrantRef
              ) -> Boolean:
    """A grant by which the user has the frame in use, among ``CHUNK`` of them."""
    return both(
        granter == owner, first <= ref, ref < first + CHUNK, is_pinned(row), row.domid == user, row.mfn == mfn
    )


def _triggers(s: State, offset: U16, length: U16) -> Boolean:
    """What DEV-34 hangs on."""
    # it begins within a line of the cache, and ends before this line does
    line = s.settings[Index(0)].cache_line
    return either(*[both(line == size, offset % size != 0, offset % size + length < size) for size in LINES])


def _flush(s: State, caller: DomId, dev_bus_addr: U64, offset: U16, length: U16, op: U32, cursor: GrantRef, *,
           repaired: bool) -> Outcome[State]:
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    if offset >= PAGE or length > PAGE or offset + length > PAGE or op > CLEAN + INVALIDATE:
        return refuse(s, -EINVAL)
    if length == 0 or op == 0:
        return accept(s) if cursor == 0 else refuse(s, -EILSEQ)
    mfn = Mfn(machine_word(s, U64(dev_bus_addr // PAGE)))
    frame = s.frame[mfn]
    if frame.use == Use.NO_RAM:
        return refuse(s, -EINVAL)
    if not exists(s, frame.owner) or not frames.can_get_page(s, mfn):
        return refuse(s, -EPERM)
    if frame.owner != caller and count(s.active_grant, is_use_of, frame.owner, caller, mfn, cursor) == 0:
        if cursor + CHUNK < entry_count(s, frame.owner):
            return restart(s, cursor=cursor + CHUNK)
        return refuse(s, -EINVAL)
    # DEV-34
    if not repaired and op == INVALIDATE and _triggers(s, offset, length):
        s = happens(s, "dev34")
        if not s.settings[Index(0)].arm32:
            return crash(s, NOBODY)
    # only then is nothing of the page in the caches alone
    whole = both(bits_of(op, 0, 1) == 1, offset == 0, length == FRAME_LENGTH)
    return accept(put(s, "frame", mfn, unclean=both(frame.unclean, neg(whole))))


@transition(hypercall="GNTTABOP_cache_flush")
def cache_flush(s: State, caller: DomId, dev_bus_addr: U64, offset: U16, length: U16, op: U32, cursor: GrantRef
                ) -> Outcome[State]:
    """Write cached contents of a part of a page back to memory, or drop them, or both.

    dev_bus_addr: machine address, as map_grant_ref returned it.  offset, length: in bytes, within the page.
    op: 1 writes back, 2 drops, 3 does both.
    cursor: 0, or where to go on looking for the grant: a continuation, which the caller can forge.
    A part that is dropped without having been written back reads as memory has it; which that is, is not modelled.
    Errors (of the call): EINVAL beyond the page, for another op or a frame that is not RAM; EILSEQ if there is nothing
    to do but a cursor; EPERM if nobody owns the frame; EINVAL if the caller has no grant of it in use.
    Source: xen/common/grant_table.c (_cache_flush), Xen 4.17.
    """
    return _flush(s, caller, dev_bus_addr, offset, length, op, cursor, repaired=False)


@transition(hypercall="GNTTABOP_cache_flush", repairs="cache_flush")
def cache_flush_repaired(s: State, caller: DomId, dev_bus_addr: U64, offset: U16, length: U16, op: U32,
                         cursor: GrantRef) -> Outcome[State]:
    """``cache_flush`` without DEV-34."""
    return _flush(s, caller, dev_bus_addr, offset, length, op, cursor, repaired=True)
