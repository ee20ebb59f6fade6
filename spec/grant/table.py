"""The table that a domain writes its grants into: its frames, and what a domain may ask about it.

The frames are Xen's own, shared with the domain, which maps them like other special pages
(``XENMEM_add_to_physmap``).  A table only grows.  Xen grows it by as many frames as are needed, all of
them or none, while it holds the lock of the table; here one step grows it by one frame, and a step that
has more to do ends with ``restart``.

Source: xen/common/grant_table.c (gnttab_grow_table, gnttab_setup_table, gnttab_map_frame and others), Xen 4.17.
"""

from __future__ import annotations

from spec.deviations import happens
from spec.domain.privilege import exists, is_alive, may_act_on
from spec.errors import (
    EBUSY,
    EINVAL,
    ENOSYS,
    EOPNOTSUPP,
    EPERM,
    ESRCH,
    GNTST_BAD_DOMAIN,
    GNTST_BAD_GNTREF,
    GNTST_EAGAIN,
    GNTST_GENERAL_ERROR,
    GNTST_PERMISSION_DENIED,
)
from spec.grant.access import is_pinned
from spec.grant.entries import ENTRIES_V2, STATUS_WORDS, entry_count, place_status, place_v1, place_v2
from spec.language import (
    DEVIATIONS,
    U16,
    U32,
    U64,
    Boolean,
    Deviation,
    DomId,
    GrantRef,
    Index,
    Mfn,
    Outcome,
    Word,
    accept,
    both,
    decode,
    encode,
    evolve,
    field,
    ite,
    layout,
    legal,
    merged,
    neg,
    one_of,
    put,
    refuse,
    restart,
    transition,
    volatile,
)
from spec.memory import frames, heap
from spec.state import DOMID_SELF, State, Status

GRANT_FRAMES_A_STATUS_FRAME = STATUS_WORDS // ENTRIES_V2
"""Frames of version 2 entries whose status words fill one frame."""
STATUS_INDEX = 1 << 31
"""Under version 2 this bit of an index of ``XENMEM_add_to_physmap`` asks for a status frame."""

DEVIATIONS["DEV-31"] = Deviation("DEV-31", "A frame shared with a domain still shows what was in it")


# ---- frames


def status_frames_for(grant_frames: int) -> int:
    """How many status frames belong to so many frames of version 2 entries."""
    return (grant_frames + GRANT_FRAMES_A_STATUS_FRAME - 1) // GRANT_FRAMES_A_STATUS_FRAME


def is_changing(s: State, domain: DomId) -> Boolean:
    """The version of the domain's table is being changed: the lock of the table is held."""
    change = s.version_change[domain]
    return both(change.to > 0, neg(change.stopped))


def share_frame(s: State, domain: DomId, mfn: Mfn, *, repaired: bool = False) -> State:
    """Take a frame from Xen's heap, clear it and share it with a domain.

    A domain that is being destroyed becomes its owner as well, but there is no reference then, so nobody can use it.
    (repaired) Without DEV-31.
    Source: xen/common/page_alloc.c (alloc_heap_pages), xen/arch/arm/mm.c (share_xen_page_with_guest), Xen 4.17.
    """
    row = s.domain[domain]
    legal(heap.unclaimed(s, 1), "what the heap has promised to domains is left")
    legal(mfn + 1 < frames.LAST_FRAME, "the frame is RAM")
    living = neg(one_of(row.status, Status.DYING, Status.DEAD))
    s = heap.share_page(s, domain, mfn)
    s = put(s, "frame", mfn, allocated=living, references=ite(living, 1, 0), unclean=not repaired)
    s = put(s, "domain", domain, xenheap_pages=row.xenheap_pages + ite(living, 1, 0))
    return s if repaired else happens(s, "dev31")


@merged
def _grow_by_one(s: State, domain: DomId, mfn: Mfn, status_mfn: Mfn, *, repaired: bool) -> State:
    """One frame of entries more, and with it, under version 2, a status frame if one is needed."""
    row = s.domain[domain]
    number = row.grant_frames
    s = share_frame(s, domain, mfn, repaired=repaired)
    s = put(s, "grant_frame", (domain, number), present=True, mfn=mfn)
    s = put(s, "domain", domain, grant_frames=number + 1)
    if row.grant_version != 2 or status_frames_for(number + 1) <= row.status_frames:
        return s
    return add_status_frame(s, domain, status_mfn, repaired=repaired)


def add_status_frame(s: State, domain: DomId, mfn: Mfn, *, repaired: bool) -> State:
    """One frame of status words more."""
    number = s.domain[domain].status_frames
    s = share_frame(s, domain, mfn, repaired=repaired)
    s = put(s, "status_frame", (domain, number), present=True, mfn=mfn)
    return put(s, "domain", domain, status_frames=number + 1)


# ---- setup_table and get_status_frames


def subject_of(caller: DomId, domain: DomId) -> DomId:
    """The domain that a caller means."""
    return ite(domain == DOMID_SELF, caller, domain)


def _setup_table(s: State, caller: DomId, domain: DomId, nr_frames: U32, memory_left: bool, mfn: Mfn, status_mfn: Mfn,
                 *, repaired: bool) -> Outcome[State]:
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    subject = subject_of(caller, domain)
    if not exists(s, subject):
        return refuse(s, GNTST_BAD_DOMAIN)
    if not may_act_on(s, caller, subject):
        return refuse(s, GNTST_PERMISSION_DENIED)
    legal(neg(is_changing(s, subject)), "the lock of the table is free")
    row = s.domain[subject]
    if nr_frames > row.max_grant_frames:
        return refuse(s, GNTST_GENERAL_ERROR)
    # large enough: a table never shrinks
    if nr_frames <= row.grant_frames:
        return accept(s)
    if not memory_left:
        return refuse(s, GNTST_GENERAL_ERROR)
    return restart(_grow_by_one(s, subject, mfn, status_mfn, repaired=repaired))


@transition(hypercall="GNTTABOP_setup_table")
def setup_table(s: State, caller: DomId, domain: DomId, nr_frames: U32, memory_left: bool, mfn: Mfn, status_mfn: Mfn
                ) -> Outcome[State]:
    """Make a grant table at least so many frames large; ``recorded_gfn`` then says what each element of the list is.

    domain: a domain id or DOMID_SELF.  nr_frames: frames that the caller has room for in its list.
    memory_left: Xen's heap has a frame.  mfn, status_mfn: the frames that it gives, the second one if the new entries
    need another status frame.
    Errors: bad_domain; permission_denied; general_error above the domain's limit, or without memory.
    Source: xen/common/grant_table.c (gnttab_setup_table, gnttab_grow_table), Xen 4.17.
    """
    return _setup_table(s, caller, domain, nr_frames, memory_left, mfn, status_mfn, repaired=False)


@transition(hypercall="GNTTABOP_setup_table", repairs="setup_table")
def setup_table_repaired(s: State, caller: DomId, domain: DomId, nr_frames: U32, memory_left: bool, mfn: Mfn,
                         status_mfn: Mfn) -> Outcome[State]:
    """``setup_table`` without DEV-31."""
    return _setup_table(s, caller, domain, nr_frames, memory_left, mfn, status_mfn, repaired=True)


@transition(hypercall="GNTTABOP_get_status_frames")
def get_status_frames(s: State, caller: DomId, domain: DomId, nr_frames: U32) -> Outcome[State]:
    """Ask where the status frames are mapped; ``recorded_gfn`` then says what each element of the list is.

    domain: a domain id or DOMID_SELF.  nr_frames: how many of them.
    Errors: bad_domain; permission_denied; general_error if there are fewer (none under version 1).
    Source: xen/common/grant_table.c (gnttab_get_status_frames), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    subject = subject_of(caller, domain)
    if not exists(s, subject):
        return refuse(s, GNTST_BAD_DOMAIN)
    if not may_act_on(s, caller, subject):
        return refuse(s, GNTST_PERMISSION_DENIED)
    if nr_frames > s.domain[subject].status_frames:
        return refuse(s, GNTST_GENERAL_ERROR)
    return accept(s)


def recorded_gfn(s: State, domain: DomId, index: U32, *, status: bool) -> U64:
    """One element of the list: where the frame of this number is mapped, all ones (of a machine word) if nowhere.

    Errors: an element that cannot be stored makes the status bad_virt_addr, and the others are stored all the same.
    Source: xen/arch/arm/include/asm/grant_table.h (gnttab_shared_gfn, gnttab_status_gfn), Xen 4.17.
    """
    mfn = (s.status_frame if status else s.grant_frame)[domain, index].mfn
    frame = s.frame[mfn]
    return U64(ite(frame.mapped, frame.gfn, ite(s.settings[Index(0)].arm32, (1 << 32) - 1, (1 << 64) - 1)))


# ---- queries


@transition(hypercall="GNTTABOP_query_size")
def query_size(s: State, caller: DomId, domain: DomId) -> Outcome[State]:
    """Ask how many frames a grant table has, and how many it may have.

    domain: a domain id or DOMID_SELF.
    Errors: bad_domain; permission_denied.
    Source: xen/common/grant_table.c (gnttab_query_size), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    subject = subject_of(caller, domain)
    if not exists(s, subject):
        return refuse(s, GNTST_BAD_DOMAIN)
    if not may_act_on(s, caller, subject):
        return refuse(s, GNTST_PERMISSION_DENIED)
    row = s.domain[subject]
    return accept(s, nr_frames=row.grant_frames, max_nr_frames=row.max_grant_frames)


@transition(hypercall="GNTTABOP_get_version")
def get_version(s: State, caller: DomId, domain: DomId) -> Outcome[State]:
    """Ask which version a grant table has.

    domain: a domain id or DOMID_SELF.
    Errors: ESRCH; EPERM; both are errors of the call, since there is no status field.
    Source: xen/common/grant_table.c (gnttab_get_version), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    subject = subject_of(caller, domain)
    if not exists(s, subject):
        return refuse(s, -ESRCH)
    if not may_act_on(s, caller, subject):
        return refuse(s, -EPERM)
    return accept(s, version=s.domain[subject].grant_version)


@transition(hypercall="GNTTABOP_dump_table")
def dump_table(s: State, caller: DomId) -> Outcome[State]:
    """Not implemented.

    Errors: ENOSYS.
    Source: xen/common/grant_table.c (do_grant_table_op), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    return refuse(s, -ENOSYS)


@transition(hypercall="GNTTABOP_transfer")
def transfer(s: State, caller: DomId) -> Outcome[State]:
    """Give a page away: only guests without translation can, and Arm has none.

    Errors: EOPNOTSUPP, before any item is looked at.
    Source: xen/common/grant_table.c (gnttab_transfer), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    return refuse(s, -EOPNOTSUPP)


# ---- a frame of the table for a mapping


def is_status_index(s: State, domain: DomId, idx: U64) -> Boolean:
    """The index asks for a status frame.  Only its lowest 32 bits count."""
    return both(s.domain[domain].grant_version == 2, idx % (1 << 32) >= STATUS_INDEX)


def frame_number(s: State, domain: DomId, idx: U64) -> U32:
    """Which frame of entries, or of status words, the index asks for."""
    low = idx % (1 << 32)
    return U32(ite(is_status_index(s, domain, idx), low - STATUS_INDEX, low))


def frames_wanted(s: State, domain: DomId, idx: U64) -> int:
    """How large the table must be to have the frame that the index asks for."""
    number = frame_number(s, domain, idx)
    return ite(is_status_index(s, domain, idx), GRANT_FRAMES_A_STATUS_FRAME * (number + 1), number + 1)


def has_frame(s: State, domain: DomId, idx: U64) -> Boolean:
    """The table has the frame that the index asks for."""
    row, number = s.domain[domain], frame_number(s, domain, idx)
    return number < ite(is_status_index(s, domain, idx), row.status_frames, row.grant_frames)


def grant_frame_for(s: State, domain: DomId, idx: U64) -> Outcome[State]:
    """The frame (``mfn`` of the answer) that space grant_table of ``XENMEM_add_to_physmap`` maps.

    To be called when ``grow_for_frame`` has nothing more to do.  ``acquire_resource`` asks for frames of entries alone,
    so with an index below 2**31: on Arm the size of its status frames is 0.
    Errors: EINVAL if the table has no such frame; EBUSY if no reference on it can be taken.
    Source: xen/common/grant_table.c (gnttab_map_frame), Xen 4.17.
    """
    if not has_frame(s, domain, idx):
        return refuse(s, -EINVAL)
    number = frame_number(s, domain, idx)
    mfn = ite(is_status_index(s, domain, idx), s.status_frame[domain, number].mfn, s.grant_frame[domain, number].mfn)
    if s.frame[mfn].owner != domain or not frames.can_get_page(s, mfn):
        return refuse(s, -EBUSY)
    return accept(s, mfn=mfn)


def _grow_for_frame(s: State, caller: DomId, domain: DomId, idx: U64, begun: bool, memory_left: bool, mfn: Mfn,
                    status_mfn: Mfn, *, repaired: bool) -> Outcome[State]:
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    if not exists(s, domain):
        return refuse(s, -ESRCH)
    if not may_act_on(s, caller, domain):
        return refuse(s, -EPERM)
    legal(neg(is_changing(s, domain)), "the lock of the table is free")
    if ite(begun, s.domain[domain].grant_frames >= frames_wanted(s, domain, idx), has_frame(s, domain, idx)):
        return accept(s)
    if frames_wanted(s, domain, idx) > s.domain[domain].max_grant_frames:
        return refuse(s, -EINVAL)
    if not memory_left:
        return refuse(s, -EINVAL)
    return restart(_grow_by_one(s, domain, mfn, status_mfn, repaired=repaired))


@transition(hypercall="XENMEM_add_to_physmap")
def grow_for_frame(s: State, caller: DomId, domain: DomId, idx: U64, begun: bool, memory_left: bool, mfn: Mfn,
                   status_mfn: Mfn) -> Outcome[State]:
    """Make a grant table large enough for a frame that is to be mapped, by ``XENMEM_add_to_physmap`` or as a resource.

    idx: as for ``grant_frame_for``.  begun: a step of this call has made the table larger already; for a status frame
    that is missing Xen adds all the frames of entries whose status words it could hold.
    memory_left, mfn, status_mfn: as for ``setup_table``.
    Errors: ESRCH; EPERM; EINVAL above the domain's limit, or without memory.
    Source: xen/common/grant_table.c (gnttab_get_shared_frame_mfn, gnttab_get_status_frame_mfn), Xen 4.17.
    """
    return _grow_for_frame(s, caller, domain, idx, begun, memory_left, mfn, status_mfn, repaired=False)


@transition(hypercall="XENMEM_add_to_physmap", repairs="grow_for_frame")
def grow_for_frame_repaired(s: State, caller: DomId, domain: DomId, idx: U64, begun: bool, memory_left: bool, mfn: Mfn,
                            status_mfn: Mfn) -> Outcome[State]:
    """``grow_for_frame`` without DEV-31."""
    return _grow_for_frame(s, caller, domain, idx, begun, memory_left, mfn, status_mfn, repaired=True)


# ---- the maptrack


@transition(hypercall="GNTTABOP_map_grant_ref")
def grow_maptrack(s: State, caller: DomId) -> Outcome[State]:
    """Give the caller one maptrack frame more, when Xen has no free entry for its next mapping.

    The frame itself is one of Xen's heap and not modelled.
    Source: xen/common/grant_table.c (get_maptrack_handle), Xen 4.17.
    """
    row = s.domain[caller]
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    legal(row.maptrack_frames < row.max_maptrack_frames, "the maptrack is below its limit")
    return accept(put(s, "domain", caller, maptrack_frames=row.maptrack_frames + 1))


# ---- swap_grant_ref


@layout
class Lanes:
    """Four status words, each of one entry of version 2."""

    lane0: U16 = field(0, 16)
    lane1: U16 = field(16, 16)
    lane2: U16 = field(32, 16)
    lane3: U16 = field(48, 16)


@transition(hypercall="GNTTABOP_swap_grant_ref")
def swap_grant_ref(s: State, caller: DomId, ref_a: GrantRef, ref_b: GrantRef) -> Outcome[State]:
    """Exchange two entries of the caller's own table, under version 2 with their status words.

    Errors: bad_gntref; eagain if one of them is in use.
    Source: xen/common/grant_table.c (swap_grant_ref), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    legal(neg(is_changing(s, caller)), "the lock of the table is free")
    if ref_a >= entry_count(s, caller):
        return refuse(s, GNTST_BAD_GNTREF)
    if ref_b >= entry_count(s, caller):
        return refuse(s, GNTST_BAD_GNTREF)
    if ref_a == ref_b:
        return accept(s)
    if is_pinned(s.active_grant[caller, ref_a]):
        return refuse(s, GNTST_EAGAIN)
    if is_pinned(s.active_grant[caller, ref_b]):
        return refuse(s, GNTST_EAGAIN)
    if s.domain[caller].grant_version == 1:
        return accept(_swap_words(s, place_v1(s, caller, ref_a), place_v1(s, caller, ref_b)))
    (frame_a, first_a), (frame_b, first_b) = place_v2(s, caller, ref_a), place_v2(s, caller, ref_b)
    s = _swap_words(s, (frame_a, first_a), (frame_b, first_b))
    s = _swap_words(s, (frame_a, Index(first_a + 1)), (frame_b, Index(first_b + 1)))
    return accept(_swap_status(s, caller, ref_a, ref_b))


def _swap_words(s: State, a: tuple[Mfn, Index], b: tuple[Mfn, Index]) -> State:
    """Exchange two words of memory, as they stand now."""
    word_a, word_b = volatile(s.word[a].raw), volatile(s.word[b].raw)
    return put(put(s, "word", a, raw=word_b), "word", b, raw=word_a)


def _swap_status(s: State, domain: DomId, ref_a: GrantRef, ref_b: GrantRef) -> State:
    """Exchange two status words; they may be neighbours in one word of memory."""
    lane_a, lane_b = status_lane(s, domain, ref_a), status_lane(s, domain, ref_b)
    return _store_lane(_store_lane(s, domain, ref_a, lane_b), domain, ref_b, lane_a)


def status_lane(s: State, domain: DomId, ref: GrantRef) -> U16:
    """The status word of an entry of version 2, as it stands now."""
    seen = decode(Lanes, volatile(s.word[place_status(s, domain, ref)].raw))
    found = U16(0)
    for each in range(4):
        found = ite(ref % 4 == each, getattr(seen, "lane" + str(each)), found)
    return found


def _store_lane(s: State, domain: DomId, ref: GrantRef, value: U16) -> State:
    place = place_status(s, domain, ref)
    word: Word = volatile(s.word[place].raw)
    seen = decode(Lanes, word)
    for each in range(4):
        old = getattr(seen, "lane" + str(each))
        seen = evolve(seen, **{"lane" + str(each): ite(ref % 4 == each, value, old)})
    return put(s, "word", place, raw=encode(seen, word))
