"""Changing the version of one's own grant table.

Xen does it in one go, under the lock of the table, over as many frames as the table has.  Here
``set_version`` decides and begins; then one frame is one step, and the table ``version_change`` says how
far it has come.  To version 2: status frames are added, the frames of entries are cleared, and the first
eight entries are written again (``finish_version_2``).  To version 1: the status frames are unmapped and
withdrawn from the domain, the frames of entries are cleared, the first eight entries are written again
(``finish_version_1``), and the status frames go back to the heap.

Source: xen/common/grant_table.c (gnttab_set_version, gnttab_populate_status_frames,
gnttab_unpopulate_status_frames), Xen 4.17.
"""

from __future__ import annotations

from spec.deviations import happens
from spec.domain.privilege import is_alive
from spec.errors import EBUSY, EINVAL, ENOMEM, ENOSYS, ERANGE
from spec.grant.access import is_pinned
from spec.grant.entries import (
    PERMIT_ACCESS,
    RESERVED_ENTRIES,
    TRANSITIVE,
    FrameV2,
    StatusV2,
    entry_count,
    place_status,
    place_v2,
    read_head_v2,
    read_second_v2,
    read_v1,
)
from spec.grant.table import add_status_frame, status_frames_for, status_lane
from spec.language import (
    ALL,
    DEVIATIONS,
    U16,
    U32,
    Boolean,
    Deviation,
    DomId,
    Gfn,
    GrantRef,
    Index,
    Kind,
    Mfn,
    Outcome,
    Word,
    accept,
    bits_of,
    both,
    count,
    crash,
    decode,
    either,
    encode,
    every,
    evolve,
    field,
    fill,
    ite,
    layout,
    legal,
    neg,
    one_of,
    put,
    refuse,
    restart,
    span,
    transition,
    volatile,
)
from spec.memory import frames, heap, p2m
from spec.state import NOBODY, ActiveGrant, P2mEntry, P2mType, State, Use

LARGEST_FRAME_V1 = (1 << 32) - 1
"""A version 1 entry has 32 bits for the frame number."""

DEVIATIONS["DEV-2"] = Deviation("DEV-2", "The hypervisor stops (arm32, with grant version 2 permitted)")
DEVIATIONS["DEV-32"] = Deviation("DEV-32", "A status frame is freed although its domain still reaches it")


# ---- the decision


def is_used_beyond(row: ActiveGrant, granter: DomId, ref: GrantRef, domain: DomId, entries: int) -> Boolean:
    """A grant in use that is not one of the reserved ones."""
    return both(granter == domain, ref >= RESERVED_ENTRIES, ref < entries, is_pinned(row))


def _beyond_is_used(s: State, domain: DomId) -> Boolean:
    return count(s.active_grant, is_used_beyond, domain, entry_count(s, domain)) > 0


def _cannot_be_expressed(s: State, domain: DomId) -> Boolean:
    """One of the first eight entries has no equal in version 1."""
    found: Boolean = False
    for each in range(8):
        head = read_head_v2(s, domain, GrantRef(each))
        frame = decode(FrameV2, read_second_v2(s, domain, GrantRef(each))).frame
        found = either(
            found, head.type == TRANSITIVE, both(head.type == PERMIT_ACCESS, frame > LARGEST_FRAME_V1)
        )
    return found


@transition(hypercall="GNTTABOP_set_version")
def set_version(s: State, caller: DomId, version: U32, memory_left: bool) -> Outcome[State]:
    """Begin to change the version of the caller's own table; nothing more to do if it has that version.

    version: 1 or 2.  memory_left: Xen's heap has frames for all status words, if they are needed.
    In every case the field ``version`` is overwritten with the version that the table then has.
    Errors: EINVAL for another version; ENOSYS for version 2 if the domain may not have it (the rule on Arm); EBUSY if a
    grant beyond the first eight is in use; ENOMEM; ERANGE if one of the first eight entries is transitive or names a
    frame beyond 32 bits.
    Source: xen/common/grant_table.c (gnttab_set_version), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    legal(s.version_change[caller].to == 0, "the lock of the table is free, and the domain was not crashed")
    row = s.domain[caller]
    if neg(one_of(version, 1, 2)):
        return refuse(s, -EINVAL)
    if version == 2 and row.max_grant_version == 1:
        return refuse(s, -ENOSYS)
    if version == row.grant_version:
        return accept(s)
    # the toolstack's own grants may stay in use
    if _beyond_is_used(s, caller):
        return refuse(s, -EBUSY)
    if version == 2 and not memory_left:
        return refuse(s, -ENOMEM)
    if version == 1 and _cannot_be_expressed(s, caller):
        return refuse(s, -ERANGE)
    return restart(put(s, "version_change", caller, to=version, cleared=0, withdrawn=0))


# ---- the frames


def _goes_on(s: State, caller: DomId) -> None:
    """The caller's change of version has not been stopped."""
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    legal(neg(s.version_change[caller].stopped), "a domain that was crashed makes no hypercall")


def _stop(s: State, caller: DomId) -> Outcome[State]:
    """Crash the caller in the middle of its change of version: what was withdrawn stays so, and the lock is let go."""
    return crash(put(s, "version_change", caller, stopped=True), caller)


def _add(s: State, caller: DomId, mfn: Mfn, *, repaired: bool) -> Outcome[State]:
    row = s.domain[caller]
    _goes_on(s, caller)
    legal(both(s.version_change[caller].to == 2, row.grant_version == 1), "a change to version 2 is under way")
    legal(row.status_frames < status_frames_for(row.grant_frames), "there are too few status frames")
    return restart(add_status_frame(s, caller, mfn, repaired=repaired))


@transition(hypercall="GNTTABOP_set_version")
def populate_status_frame(s: State, caller: DomId, mfn: Mfn) -> Outcome[State]:
    """To version 2: one status frame more.

    mfn: chosen by Xen's heap.
    Source: xen/common/grant_table.c (gnttab_populate_status_frames), Xen 4.17.
    """
    return _add(s, caller, mfn, repaired=False)


@transition(hypercall="GNTTABOP_set_version", repairs="populate_status_frame")
def populate_status_frame_repaired(s: State, caller: DomId, mfn: Mfn) -> Outcome[State]:
    """``populate_status_frame`` without DEV-31."""
    return _add(s, caller, mfn, repaired=True)


def _is_ram_of(row: P2mEntry, domain: DomId, _gfn: Gfn, owner: DomId, mfn: Mfn) -> Boolean:
    return both(domain == owner, one_of(row.type, P2mType.RAM_RW, P2mType.RAM_RO), row.mfn == mfn)


def _next_status_frame(s: State, caller: DomId) -> Mfn:
    """The status frame that is taken back next."""
    change = s.version_change[caller]
    _goes_on(s, caller)
    legal(both(change.to == 1, s.domain[caller].grant_version == 2), "a change to version 1 is under way")
    legal(change.withdrawn < s.domain[caller].status_frames, "a status frame is left")
    return s.status_frame[caller, change.withdrawn].mfn


@transition(hypercall="GNTTABOP_set_version")
def unmap_status_frame(s: State, caller: DomId) -> Outcome[State]:
    """To version 1: take the next status frame out of the caller's stage 2, where it is on record.

    The caller is crashed if other memory is mapped there by now.
    Source: xen/common/grant_table.c (gnttab_unpopulate_status_frames), Xen 4.17.
    """
    mfn = _next_status_frame(s, caller)
    frame = s.frame[mfn]
    legal(frame.mapped, "it is on record as mapped")
    legal(neg(s.orphan[caller, frame.gfn].pending), "no insertion of this domain is under way here")
    # it was mapped by itself, not as part of a larger block: no table page is needed
    removed = p2m.remove_page(s, caller, frame.gfn, mfn, tables_left=True)
    if removed.kind != Kind.DONE:
        return _stop(s, caller)
    return restart(put(removed.state, "frame", mfn, mapped=False))


def _withdraw(s: State, caller: DomId, *, repaired: bool) -> Outcome[State]:
    mfn = _next_status_frame(s, caller)
    frame, owner = s.frame[mfn], s.domain[caller]
    legal(neg(frame.mapped), "it was unmapped where it is on record")
    legal(
        every(s.orphan, (caller, ALL), lambda row, _domain, _gfn: neg(both(row.recorded, row.mfn == mfn))),
        "no insertion of this domain is under way",
    )
    # DEV-2
    if not repaired and both(s.settings[Index(0)].arm32, frame.allocated, frame.references == 1):
        return crash(happens(s, "dev2"), NOBODY)
    still_mapped = count(s.p2m, _is_ram_of, caller, mfn) > 0
    left = frame.references - ite(frame.allocated, 1, 0)
    # (repaired) DEV-32
    if repaired and still_mapped:
        return _stop(s, caller)
    # somebody else uses the frame: through a grant of it, or as foreign memory
    if left > 0:
        return _stop(put(s, "frame", mfn, allocated=False, references=left), caller)
    s = happens(s, "dev32", still_mapped)
    s = put(s, "domain", caller, xenheap_pages=owner.xenheap_pages - ite(frame.allocated, 1, 0))
    s = put(s, "frame", mfn, use=Use.XEN, owner=NOBODY, allocated=False, references=0)
    return restart(put(s, "version_change", caller, withdrawn=s.version_change[caller].withdrawn + 1))


@transition(hypercall="GNTTABOP_set_version")
def withdraw_status_frame(s: State, caller: DomId) -> Outcome[State]:
    """To version 1: take the next status frame back from the caller.  It stays listed until the change is finished.

    The caller is crashed if anybody has a reference on it (see also DEV-2 and DEV-32).
    Source: xen/common/grant_table.c (gnttab_unpopulate_status_frames), Xen 4.17.
    """
    return _withdraw(s, caller, repaired=False)


@transition(hypercall="GNTTABOP_set_version", repairs="withdraw_status_frame")
def withdraw_status_frame_repaired(s: State, caller: DomId) -> Outcome[State]:
    """``withdraw_status_frame`` without DEV-2 and DEV-32."""
    return _withdraw(s, caller, repaired=True)


def _is_prepared(s: State, caller: DomId) -> Boolean:
    """The status frames are as the new version wants them: all there, or all withdrawn."""
    change, row = s.version_change[caller], s.domain[caller]
    return either(
        both(change.to == 2, row.grant_version == 1, row.status_frames >= status_frames_for(row.grant_frames)),
        both(change.to == 1, row.grant_version == 2, change.withdrawn == row.status_frames),
    )


@transition(hypercall="GNTTABOP_set_version")
def clear_grant_frame(s: State, caller: DomId) -> Outcome[State]:
    """Clear one frame of entries, from the second on.

    Source: xen/common/grant_table.c (gnttab_set_version), Xen 4.17.
    """
    change = s.version_change[caller]
    _goes_on(s, caller)
    legal(_is_prepared(s, caller), "the status frames are dealt with")
    legal(change.cleared + 1 < s.domain[caller].grant_frames, "a frame is left")
    mfn = s.grant_frame[caller, change.cleared + 1].mfn
    s = fill(s, "word", (mfn, span(Index(0), frames.WORDS)), lambda _row, _mfn, _i: {"raw": 0})
    return restart(put(s, "version_change", caller, cleared=change.cleared + 1))


# ---- the first eight entries


def _may_finish(s: State, caller: DomId) -> None:
    _goes_on(s, caller)
    legal(_is_prepared(s, caller), "the status frames are dealt with")
    legal(s.version_change[caller].cleared + 1 == s.domain[caller].grant_frames, "all other frames are cleared")
    legal(neg(_beyond_is_used(s, caller)), "the lock was held all the time: no grant has come into use meanwhile")


def _rewritten(s: State, caller: DomId, words: list[Word]) -> State:
    """The first frame of entries with these words at its beginning and nothing else in it."""
    mfn = s.grant_frame[caller, 0].mfn
    s = fill(s, "word", (mfn, span(Index(0), frames.WORDS)), lambda _row, _mfn, _i: {"raw": 0})
    for each, word in enumerate(words):
        s = put(s, "word", (mfn, Index(each)), raw=word)
    return s


@transition(hypercall="GNTTABOP_set_version")
def finish_version_2(s: State, caller: DomId) -> Outcome[State]:
    """Version 2 begins: the first eight entries are kept, with their marks moved to the status words.

    Source: xen/common/grant_table.c (gnttab_set_version), Xen 4.17.
    """
    _may_finish(s, caller)
    legal(s.version_change[caller].to == 2, "a change to version 2 is under way")
    words, marks = [], []
    for each in range(8):
        entry, word = read_v1(s, caller, GrantRef(each))
        words.append(encode(evolve(entry, reading=False, writing=False, frame=U32(0)), word))
        words.append(encode(FrameV2(frame=Gfn(entry.frame))))
        marks.append(entry)
    s = put(s, "domain", caller, grant_version=2)
    s = put(s, "version_change", caller, to=0, cleared=0)
    s = _rewritten(s, caller, words)
    for first in (0, 4):
        lanes = decode(StatusV2, Word(0))
        for each in range(4):
            entry = marks[first + each]
            lanes = evolve(lanes, **{"reading" + str(each): entry.reading, "writing" + str(each): entry.writing})
        s = put(s, "word", place_status(s, caller, GrantRef(first)), raw=encode(lanes))
    return accept(s)


@layout
class FlagsV1:
    """A version 1 entry with its flags as one number."""

    flags: U16 = field(0, 16)
    domid: DomId = field(16, 16)
    frame: U32 = field(32, 32)


def _or(one: U16, other: U16) -> U16:
    """The bits that are set in one number or the other."""
    total = 0
    for each in range(16):
        total = total + ite(either(bits_of(one, each, 1) == 1, bits_of(other, each, 1) == 1), 1 << each, 0)
    return U16(total)


@transition(hypercall="GNTTABOP_set_version")
def finish_version_1(s: State, caller: DomId) -> Outcome[State]:
    """Version 1 begins: the first eight entries are kept if they permit access, with their marks moved to the flags.

    A frame number that the granter has meanwhile made too large loses its upper bits.
    Source: xen/common/grant_table.c (gnttab_set_version), Xen 4.17.
    """
    _may_finish(s, caller)
    legal(s.version_change[caller].to == 1, "a change to version 1 is under way")
    words = []
    for each in range(8):
        ref = GrantRef(each)
        seen = decode(FlagsV1, volatile(s.word[place_v2(s, caller, ref)].raw))
        frame = decode(FrameV2, read_second_v2(s, caller, ref)).frame
        flags = _or(seen.flags, status_lane(s, caller, ref))
        kept = seen.flags % 4 == PERMIT_ACCESS
        word = encode(evolve(
            seen, flags=ite(kept, flags, 0), domid=ite(kept, seen.domid, 0), frame=ite(kept, frame % (1 << 32), 0),
        ))
        # it is the granter's memory, who may rewrite it at once
        words.append(volatile(word))
    s = put(s, "domain", caller, grant_version=1)
    return restart(_rewritten(s, caller, words))


@transition(hypercall="GNTTABOP_set_version")
def free_status_frame(s: State, caller: DomId) -> Outcome[State]:
    """After the change to version 1: the last of the withdrawn status frames goes back to the heap.

    Source: xen/common/grant_table.c (gnttab_unpopulate_status_frames), Xen 4.17.
    """
    change, row = s.version_change[caller], s.domain[caller]
    _goes_on(s, caller)
    legal(both(change.to == 1, row.grant_version == 1), "version 1 has begun")
    number = row.status_frames - 1
    s = heap.unshare_page(s, s.status_frame[caller, number].mfn)
    s = put(s, "status_frame", (caller, number), present=False)
    s = put(s, "domain", caller, status_frames=number)
    if number > 0:
        return restart(put(s, "version_change", caller, withdrawn=number))
    return accept(put(s, "version_change", caller, to=0, cleared=0, withdrawn=0))
