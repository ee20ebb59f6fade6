"""GNTTABOP_copy: bytes between two pages, each named by a grant or by the caller's own frame.

The two buffers stay acquired from item to item of one call, as long as domain ids and references repeat; domains are
looked up and checked when the ids change.
Source: xen/common/grant_table.c at 4.17 (gnttab_copy and its helpers, acquire_grant_for_copy, release_grant_for_copy).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from impl.fast import privilege
from impl.fast.abi import DOMID_SELF, MASK32
from impl.fast.grant import entries
from impl.fast.grant.layouts import (
    GNTCOPY_dest_gref,
    GNTCOPY_source_gref,
    GNTST_bad_copy_arg,
    GNTST_bad_domain,
    GNTST_bad_gntref,
    GNTST_general_error,
    GNTST_okay,
    GNTST_permission_denied,
    GTF_sub_page,
    GTF_transitive,
    GTF_type_mask,
)
from impl.fast.grant.table import HSTR_INC, HSTW_INC, OVERFLOW_SHIFT, WRITE_PINS, GrantTable

if TYPE_CHECKING:
    from impl.fast.domains import Domain
    from impl.fast.machine import Machine

RESTART: Final = 85         # ERESTART as a positive status: the item is to be tried again
_START_MASK: Final = 0x7FFF     # act->start has 15 bits


class Copy(NamedTuple):
    """The fields of one gnttab_copy: u is a reference (low 32 bits) or a gfn."""

    source_u: int
    source_domid: int
    source_offset: int
    dest_u: int
    dest_domid: int
    dest_offset: int
    len: int
    flags: int


class Window(NamedTuple):
    """What an acquired grant gives. page: the frame whose reference is held; mfn: the frame that is copied.

    start, length: the bytes that may be copied. page and mfn differ after a read-only pin was upgraded on a changed
    entry.
    """

    mfn: int
    page: int
    start: int
    length: int


class Buffer:
    """One side of a copy, kept across items (struct gnttab_copy_buf).

    u: 64 bits, of which a reference sets the low 32.
    """

    __slots__ = ("domain", "domid", "have_grant", "length", "mapped", "mfn", "page", "read_only", "start", "u")

    def __init__(self, *, read_only: bool) -> None:
        self.read_only = read_only
        self.domain: Domain | None = None
        self.domid = 0
        self.u = 0
        self.start = 0
        self.length = 0
        self.mfn = 0
        self.page: int | None = None
        self.have_grant = False
        self.mapped = False


# ---- acquiring a grant ---------------------------------------------------------------------------------------


def release(machine: Machine, granter: Domain, ref: int, readonly: bool) -> None:
    """release_grant_for_copy: undo `acquire`, but for the page reference; follows one level of transitivity."""
    table: GrantTable = granter.grant_table
    target, target_ref = granter.id, ref
    if table.version != 1:
        target, target_ref = table.trans_domain[ref], table.trans_gref[ref]
    table.pin[ref] -= HSTR_INC if readonly else HSTW_INC
    entries.reduce_status(machine, table, ref, readonly)
    if target != granter.id:
        release(machine, machine.domains[target], target_ref, readonly)


def _acquire_transitive(machine: Machine, granter: Domain, ref: int, local: int, readonly: bool,
                        allowed: bool) -> tuple[int, Window | None]:
    """The transitive branch of acquire_grant_for_copy, up to the pin. The active entry is recorded as a sub-page."""
    table: GrantTable = granter.grant_table
    old_pin = table.pin[ref]
    if not old_pin or (not readonly and not old_pin & WRITE_PINS):
        status = entries.set_status(machine, table, ref, local, readonly, mapping=False)
        if status != GNTST_okay:
            return status, None
    target = None
    target_ref = 0
    if allowed:
        target_id = entries.read(machine, table, ref) >> 32 & 0xFFFF
        target_ref = entries.read(machine, table, ref, 1) & MASK32
        # one level, and not back to the granter itself
        target = None if target_id == granter.id else machine.domains.get(target_id)
    if target is None:
        entries.reduce_status(machine, table, ref, readonly)
        return GNTST_general_error, None
    status, window = acquire(machine, target, target_ref, granter.id, readonly, allow_transitive=False)
    if window is None:
        entries.reduce_status(machine, table, ref, readonly)
        return status, None
    # the locks were dropped meanwhile: whatever changed makes the whole item start again
    if table.version != 2 or table.pin[ref] != old_pin or (old_pin and (
            table.act_domid[ref] != local or table.act_mfn[ref] != window.mfn or table.start[ref] != window.start
            or table.length[ref] != window.length or table.trans_domain[ref] != target.id
            or table.trans_gref[ref] != target_ref or not table.sub_page[ref])):
        release(machine, target, target_ref, readonly)
        entries.reduce_status(machine, table, ref, readonly)
        machine.frames.put_page(window.page)
        return RESTART, None
    if not old_pin:
        _record(table, ref, local, window, sub_page=True, target=target.id, target_ref=target_ref)
    return GNTST_okay, window


def _record(table: GrantTable, ref: int, local: int, window: Window, *, sub_page: bool, target: int,
            target_ref: int) -> None:
    table.act_domid[ref] = local
    table.sub_page[ref] = sub_page
    table.start[ref] = window.start & _START_MASK
    table.length[ref] = window.length
    table.trans_domain[ref] = target
    table.trans_gref[ref] = target_ref
    table.act_mfn[ref] = window.mfn


def _acquire_direct(machine: Machine, granter: Domain, ref: int, local: int,
                    readonly: bool) -> tuple[int, Window | None]:
    """The branch for a first pin, or a first write pin, of an entry that names a frame."""
    table: GrantTable = granter.grant_table
    status = entries.set_status(machine, table, ref, local, readonly, mapping=False)
    if status != GNTST_okay:
        return status, None
    sub_page = False
    start, length = 0, 4096
    if table.version == 1:
        gfn = entries.read(machine, table, ref) >> 32
    else:
        sub_page = bool(entries.read(machine, table, ref) & GTF_sub_page)
        gfn = entries.read(machine, table, ref, 1)
    status, mfn = entries.paged_frame(machine, granter, gfn)
    if status != GNTST_okay:
        entries.reduce_status(machine, table, ref, readonly)
        return status, None
    if sub_page:
        start = entries.read(machine, table, ref) >> 32 & 0xFFFF
        length = entries.read(machine, table, ref) >> 48
    window = Window(mfn, mfn, start, length)
    if not table.pin[ref]:
        _record(table, ref, local, window, sub_page=sub_page, target=granter.id, target_ref=ref)
    return GNTST_okay, window


def acquire(machine: Machine, granter: Domain, ref: int, local: int, readonly: bool, *,
            allow_transitive: bool) -> tuple[int, Window | None]:
    """acquire_grant_for_copy: pin a grant for a copy, with one reference to its page.

    ref: any 32 bits; local: id of the domain that is granted access.
    Returns (status, window or None): bad_gntref, general_error, bad_page, bad_domain, or RESTART (positive).
    """
    table: GrantTable = granter.grant_table
    if ref >= table.entries:
        return GNTST_bad_gntref, None
    pin = table.pin[ref]
    increment = HSTR_INC if readonly else HSTW_INC
    if pin and (table.act_domid[ref] != local or pin & increment << OVERFLOW_SHIFT):
        return GNTST_general_error, None
    if table.version != 1 and entries.read(machine, table, ref) & GTF_type_mask == GTF_transitive:
        status, window = _acquire_transitive(machine, granter, ref, local, readonly, allow_transitive)
    elif not pin or (not readonly and not pin & WRITE_PINS):
        status, window = _acquire_direct(machine, granter, ref, local, readonly)
    else:
        mfn = table.act_mfn[ref]
        owner = machine.frames.get_owner_and_reference(mfn)
        # a dying granter may have pins without page references
        if owner != granter.id or granter.is_dying:
            if owner is not None:
                machine.frames.put_page(mfn)
            entries.reduce_status(machine, table, ref, readonly)
            return GNTST_bad_domain, None
        status, window = GNTST_okay, Window(mfn, mfn, 0, 0)
    if window is None:
        return status, None
    table.pin[ref] += increment
    return GNTST_okay, Window(table.act_mfn[ref], window.page, table.start[ref], table.length[ref])


# ---- buffers -------------------------------------------------------------------------------------------------


class Copier:
    """The state of one GNTTABOP_copy call: both buffers."""

    def __init__(self, machine: Machine, dom: Domain) -> None:
        self.machine = machine
        self.dom = dom
        self.source = Buffer(read_only=True)
        self.dest = Buffer(read_only=False)

    def _release(self, buffer: Buffer) -> None:
        """gnttab_copy_release_buf."""
        buffer.mapped = False
        if buffer.have_grant and buffer.domain is not None:
            release(self.machine, buffer.domain, buffer.u & MASK32, buffer.read_only)
            buffer.have_grant = False
        if buffer.page is not None:
            page, buffer.page = buffer.page, None
            self.machine.frames.put_page(page)

    def release(self) -> None:
        """Give both pages back, the source's first; the domains stay looked up."""
        self._release(self.source)
        self._release(self.dest)

    def _lock_domain(self, buffer: Buffer, domid: int, is_gref: int) -> int:
        """gnttab_copy_lock_domain."""
        if domid != DOMID_SELF and not is_gref:
            return GNTST_permission_denied
        buffer.domain = self.machine.domain_by_any_id(self.dom, domid)
        if buffer.domain is None:
            return GNTST_bad_domain
        buffer.domid = domid
        return GNTST_okay

    def _lock_domains(self, op: Copy) -> int:
        """gnttab_copy_lock_domains: both, or neither."""
        source, dest = self.source, self.dest
        status = self._lock_domain(source, op.source_domid, op.flags & GNTCOPY_source_gref)
        if status == GNTST_okay:
            status = self._lock_domain(dest, op.dest_domid, op.flags & GNTCOPY_dest_gref)
        if status == GNTST_okay and source.domain is not None and dest.domain is not None and privilege.grant_pair(
                self.dom, source.domain, dest.domain):
            status = GNTST_permission_denied
        if status != GNTST_okay:
            source.domain = dest.domain = None
        return status

    def _claim(self, buffer: Buffer, u: int, is_gref: int) -> int:
        """gnttab_copy_claim_buf: acquire the grant or the frame."""
        if buffer.domain is None:
            return GNTST_bad_domain
        if is_gref:
            status, window = acquire(
                self.machine, buffer.domain, u & MASK32, self.dom.id, buffer.read_only,
                allow_transitive=self.machine.config.grant_transitive)
            if window is None:
                return status
            buffer.mfn, buffer.page, buffer.start, buffer.length = window
            # a reference leaves the upper half of the union as it was
            buffer.u = buffer.u & ~MASK32 | u & MASK32
            buffer.have_grant = True
        else:
            status, mfn = entries.paged_frame(self.machine, buffer.domain, u)
            if status != GNTST_okay:
                return status
            buffer.mfn = buffer.page = mfn
            buffer.u = u
            buffer.start, buffer.length = 0, 4096
        buffer.mapped = True
        return GNTST_okay

    @staticmethod
    def _valid(buffer: Buffer, u: int, is_gref: int) -> bool:
        """gnttab_copy_buf_valid: the buffer may serve again; for a frame nobody asks whether a grant gave it."""
        if not buffer.mapped:
            return False
        if is_gref:
            return buffer.have_grant and (buffer.u ^ u) & MASK32 == 0
        return buffer.u == u

    def _transfer(self, op: Copy) -> int:
        """gnttab_copy_buf: the bounds, then the bytes."""
        source, dest = self.source, self.dest
        if op.source_offset + op.len > 4096 or op.dest_offset + op.len > 4096:
            return GNTST_bad_copy_arg
        if op.source_offset < source.start or op.source_offset + op.len > source.start + source.length:
            return GNTST_general_error
        if op.dest_offset < dest.start or op.dest_offset + op.len > dest.start + dest.length:
            return GNTST_general_error
        if op.len:
            memory = self.machine.memory
            memory.write(dest.mfn, op.dest_offset, memory.read(source.mfn, op.source_offset, op.len))
        return GNTST_okay

    def copy(self, op: Copy) -> int:
        """One item (gnttab_copy_one). Returns its status, or RESTART (positive): nothing was done, try again.

        Errors, in order: permission_denied, bad_domain, (source, then destination) bad_gntref, general_error, bad_page,
        bad_domain; then bad_copy_arg, general_error.
        """
        source, dest = self.source, self.dest
        if (source.domain is None or op.source_domid != source.domid
                or dest.domain is None or op.dest_domid != dest.domid):
            self.release()
            source.domain = dest.domain = None
            status = self._lock_domains(op)
            if status != GNTST_okay:
                return status
        is_gref = op.flags & GNTCOPY_source_gref
        if not self._valid(source, op.source_u, is_gref):
            self._release(source)
            status = self._claim(source, op.source_u, is_gref)
            if status != GNTST_okay:
                return status
        is_gref = op.flags & GNTCOPY_dest_gref
        if not self._valid(dest, op.dest_u, is_gref):
            self._release(dest)
            status = self._claim(dest, op.dest_u, is_gref)
            if status != GNTST_okay:
                return status
        return self._transfer(op)
