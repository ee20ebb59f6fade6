"""Mapping the frames of another domain's grant table: for a toolstack or a device model.

Source: xen/common/memory.c (acquire_resource), xen/common/grant_table.c (gnttab_acquire_resource),
xen/arch/arm/p2m.c (set_foreign_p2m_entry), Xen 4.17.
"""

from __future__ import annotations

from spec.domain.privilege import exists, is_alive, may_serve
from spec.errors import EINVAL, EIO, EOPNOTSUPP, EPERM, ESRCH
from spec.language import (
    U16,
    U32,
    U64,
    Boolean,
    DomId,
    Gfn,
    Outcome,
    accept,
    ite,
    legal,
    refuse,
    transition,
    within,
)
from spec.memory import frames
from spec.memory.physmap import map_foreign_page
from spec.memory.width import own_width
from spec.state import P2mType, State

IOREQ_SERVER = 0
GRANT_TABLE = 1
VMTRACE = 2

SHARED_ENTRIES = 0
"""Identifier of the frames of entries.  Those of status words have none on Arm: their number is 0."""
LARGEST_BATCH = (1 << 26) - 1
CHUNK = 32
"""Frames are looked up so many at once; an error behind the first of them reads EIO."""


def _is_unknown(kind: U16) -> Boolean:
    """The type has no size: an error number is taken for one, and found out later."""
    return kind > VMTRACE


def _size(s: State, domain: DomId, kind: U16, identifier: U32) -> U32:
    """Frames that a resource of a known type may have.

    Source: xen/common/memory.c (resource_max_frames), Xen 4.17.
    """
    grants = ite(identifier == SHARED_ENTRIES, s.domain[domain].max_grant_frames, 0)
    return U32(ite(kind == GRANT_TABLE, grants, 0))


@transition(hypercall="XENMEM_acquire_resource")
def acquire_resource(s: State, caller: DomId, domain: DomId, kind: U16, identifier: U32, frame: U64, nr_frames: U32,
                     padding: U32, list_given: bool, cursor: U64, chunk: U64, gfn: Gfn, tables_left: bool
                     ) -> Outcome[State]:
    """Map one frame of a resource of another domain, for reading and writing: element ``cursor`` of ``nr_frames``.

    kind, identifier: what resource; on Arm there is the grant table.  frame: the first of its frames that is wanted.
    list_given: there is a list of guest frames, of which ``gfn`` is the one at ``cursor``; without it the answer is the
    size.  chunk: the element at which the present chunk of 32 began.
    A grant table that is too small for all that is wanted grows first (``grow_for_frame``).
    Errors: EINVAL for padding, or frames that 32 bits cannot number; ESRCH; EPERM for the caller itself, or one that
    is neither a control domain nor the device model; EINVAL if there is no such resource; EINVAL for a length without a
    list, or a cursor behind the end; EOPNOTSUPP for an unknown type; EINVAL if the table is too small; then EINVAL if
    no reference can be taken, and ENOMEM, EINVAL, ENOENT as for a mapping, all of which read EIO behind the first of a
    chunk.
    Source: xen/common/memory.c (acquire_resource), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    if padding != 0:
        return refuse(s, -EINVAL)
    if frame + nr_frames >= 1 << 32:
        return refuse(s, -EINVAL)
    # DOMID_SELF is no remote domain, and neither is the caller
    if domain == caller:
        return refuse(s, -EPERM)
    if not exists(s, domain):
        return refuse(s, -ESRCH)
    if not may_serve(s, caller, domain):
        return refuse(s, -EPERM)
    if not _is_unknown(kind) and _size(s, domain, kind, identifier) == 0:
        return refuse(s, -EINVAL)
    if not list_given:
        if nr_frames != 0 or cursor != 0:
            return refuse(s, -EINVAL)
        # the size of an unknown type is an error number, as an unsigned one
        return accept(s, nr_frames=ite(_is_unknown(kind), (1 << 32) - EOPNOTSUPP, _size(s, domain, kind, identifier)))
    if cursor >= nr_frames:
        return refuse(s, -EINVAL)
    if nr_frames > LARGEST_BATCH:
        return refuse(s, -EINVAL)
    if _is_unknown(kind):
        return refuse(s, -EOPNOTSUPP)
    legal(within(cursor, chunk, CHUNK), "the element lies in the present chunk")
    return _map_frame(s, caller, domain, frame, nr_frames, cursor, chunk, own_width(s, gfn), tables_left)


def _map_frame(s: State, caller: DomId, domain: DomId, frame: U64, nr_frames: U32, cursor: U64, chunk: U64, gfn: Gfn,
               tables_left: bool) -> Outcome[State]:
    """One frame of a grant table's entries."""
    # the last frame of the chunk must be there
    left = nr_frames - chunk
    last = frame + chunk + ite(left < CHUNK, left, CHUNK) - 1
    if last >= s.domain[domain].grant_frames:
        return refuse(s, -EINVAL)
    mfn = s.grant_frame[domain, frame + cursor].mfn
    first = cursor == chunk
    if s.frame[mfn].owner != domain or not frames.can_get_page(s, mfn):
        return refuse(s, ite(first, -EINVAL, -EIO))
    entered = map_foreign_page(s, caller, gfn, mfn, P2mType.MAP_FOREIGN_RW, tables_left)
    if entered.code != 0:
        return refuse(s, ite(first, entered.code, -EIO))
    return accept(entered.state)
