"""Hypercall 36, domctl: the life of domains, their limits and their devices, as far as memory and grants need it.

What the specification leaves out (pausing, vCPUs, names) is kept here, after the checks that are common to all.

Source: xen/common/domctl.c (do_domctl), xen/arch/arm/domctl.c, xen/common/domain.c, xen/arch/arm/domain.c, Xen 4.17.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any, Literal

import attrs

from bulkhead.oracle import abi
from bulkhead.oracle.grants_table import active_frames_for
from bulkhead.oracle.machine import MASK32, Guest, Oracle, Restart, UnmodelledError, Vcpu
from bulkhead.oracle.shape import Shape
from bulkhead.oracle.tables import Logged
from bulkhead.oracle.teardown import destroy, forget
from spec.domain.lifecycle import FIRST_POOL, CreateFlags
from spec.domain.privilege import is_control, may_serve
from spec.errors import (
    EACCES,
    EBUSY,
    EFAULT,
    EINVAL,
    ENODEV,
    ENOMEM,
    ENOSYS,
    EOVERFLOW,
    EPERM,
    ERESTART,
    ESRCH,
)
from spec.language import TRANSITIONS, DomId, Outcome, Word, decode, put
from spec.language.outcomes import Kind, legal
from spec.memory import heap
from spec.state import DOMID_IO, FIRST_RESERVED, P2mType, Permission, State, Status

CREATE, DESTROY, PAUSE, UNPAUSE, INFO = 1, 2, 3, 4, 5
MAX_MEM, SET_CONTEXT, MAX_VCPUS, SET_HANDLE, IOMEM_PERMISSION = 11, 12, 15, 17, 20
SET_TIME_OFFSET, RESUME, SET_ADDRESS_SIZE = 24, 27, 35
ASSIGN, BIND, MEMORY_MAPPING, IOPORT_MAPPING, DEASSIGN, TEST_ASSIGN, SET_TARGET, UNBIND = 37, 38, 39, 40, 47, 45, 46, 48
VM_EVENT, CACHE_FLUSH, GET_POOL, SET_POOL = 56, 71, 85, 86
_ELSEWHERE = frozenset({9, 13, 14, 16, 18, 19, 23, 25, 29, 37, 38, 45, 47, 48, 50, 56, 66, 68, 69, 74, 77, 79, 81})
"""Those that Xen on Arm has and that are not modelled."""

_BEFORE_GRANTS = FIRST_POOL + 2
"""Choices of frames before a new domain's grant table: its root, its pool, its shared information."""
_MOST_PAUSES = 255
_MOST_SPIS = 988
_MOST_FLUSHED = 1 << 18
_MOST_FRAMES = 1 << 12
_CONTEXT_SIZE = 352


def do_domctl(oracle: Oracle, caller: int, registers: list[int]) -> int | Restart:
    """domctl(argument address in register 0): the result (signed), or Restart. Errors: UnmodelledError."""
    address = registers[0]
    data = oracle.read(caller, address, abi.DOMCTL_SIZE)
    if data is None:
        return -EFAULT
    command, version, domid = abi.DOMCTL_HEADER.unpack_from(data)
    if version != abi.DOMCTL_VERSION:
        return -EACCES
    call = _Call(oracle, caller, address, bytearray(data))
    rc = call.run(command, domid)
    if rc == -ERESTART:
        return Restart(address)
    if call.copies_back and rc == 0 and not oracle.write(caller, address, bytes(call.data)):
        return -EFAULT
    return rc


def _is_allowed(row: Permission) -> bool:
    return row.allowed


class _Call:
    """One call: who makes it, where its argument is, and the argument's 144 bytes."""

    def __init__(self, oracle: Oracle, caller: int, address: int, data: bytearray) -> None:
        self.oracle = oracle
        self.caller = caller
        self.address = address
        self.data = data
        self.copies_back = False

    def _number(self, offset: int, size: int) -> int:
        at = abi.DOMCTL_UNION + offset
        return int.from_bytes(self.data[at:at + size], "little")

    def _ulong(self, offset: int) -> int:
        return self._number(offset, 8) & self.oracle.host.address_mask

    def _step(self, name: str, **arguments: Any) -> Outcome[State]:
        return self.oracle.step(name, caller=self.caller, **arguments)

    def run(self, command: int, domid: int) -> int:
        """The operation: 0 or a negative error; -ERESTART when preempted."""
        if command == CREATE:
            return self.create(domid)
        if command in _STEPS:
            return _STEPS[command](self, domid)
        refused = self._refused(command, domid)
        if refused:
            return refused
        if command in _OTHERS:
            return _OTHERS[command](self, domid)
        if command in _ELSEWHERE:
            raise UnmodelledError(f"domctl {command} is not modelled")
        # what is x86's, or unknown, ends in the architecture's default
        return -ENOSYS

    def _refused(self, command: int, domid: int) -> int:
        """The checks that all have in common, for what has no step: 0 or a negative error."""
        s = self.oracle.state
        known = self.oracle.exists(domid)
        special: int | None = {ASSIGN: DOMID_IO, DEASSIGN: DOMID_IO, TEST_ASSIGN: abi.DOMID_INVALID,
                               VM_EVENT: abi.DOMID_INVALID}.get(command)
        if not known and command != INFO and domid != special:
            return -ESRCH
        serves = command in {IOPORT_MAPPING, BIND, UNBIND, INFO}
        if serves and known:
            return 0 if may_serve(s, DomId(self.caller), DomId(domid)) else -EPERM
        return 0 if is_control(s, DomId(self.caller)) else -EPERM

    # ---- building --------------------------------------------------------------------------------------------------

    def create(self, wanted: int) -> int:
        """createdomain: begun, built frame by frame, listed."""
        oracle = self.oracle
        chosen = 0 < wanted < FIRST_RESERVED
        fields = list(abi.CREATE.unpack_from(self.data, abi.DOMCTL_UNION))
        (_, handle, flags, iommu_opts, max_vcpus, _, grant_frames, maptrack_frames, grant_opts, _, pool, _, _, spis,
         _) = fields
        number = wanted if chosen else self._next_id()
        if number is None:
            return -ENOMEM
        if not chosen and is_control(oracle.state, DomId(self.caller)):
            oracle.last_domid = number
        gic = fields[11] or oracle.host.gic_version - 1
        arguments: dict[str, Any] = {
            "domain": number, "chosen": chosen, "flags": flags, "iommu_options": iommu_opts,
            "grant_options": grant_opts,
            "default_grant_frames": grant_frames < 0, "grant_frames": grant_frames & MASK32,
            "default_maptrack_frames": maptrack_frames < 0, "maptrack_frames": maptrack_frames & MASK32,
            "fits": self._fits(fields, gic), "vmids_left": len(oracle.guests) < oracle.host.vmids}
        # what is wrong with the grant table is found when the tables and the shared information are there
        tried = TRANSITIONS["create_domain"].function(oracle.state, caller=self.caller, memory_left=True, **arguments)
        taken = oracle.queued("frame")
        outcome = self._step("create_domain", **arguments,
                             memory_left=tried.code != -EINVAL or taken is None or taken >= _BEFORE_GRANTS)
        if outcome.kind is not Kind.DONE:
            # the grant table, whose limits are wrong, would have come last
            oracle.pass_through()
            return int(outcome.code)
        # a guest has 32 bits until its width is set, whatever Xen's own is
        oracle.guests = oracle.guests.set(number, Guest(32, max_vcpus, handle=handle))
        oracle.shapes = oracle.shapes.set(number, Shape(oracle.host.root_level))
        window = oracle.host.gic_window if oracle.host.gic_version == 2 else None
        rc = self._build(number, gic, spis, window)
        if rc == 0 and pool:
            rc = -ESRCH
        if rc:
            oracle.step("abandon_domain", domain=number)
            forget(oracle, number)
            oracle.pass_through()
            return rc
        oracle.step("list_domain", domain=number)
        if window is not None:
            self._map_window(number, window)
        fields[11], fields[-1] = gic, 0
        abi.CREATE.pack_into(self.data, abi.DOMCTL_UNION, *fields)
        self.data[8:10] = number.to_bytes(2, "little")
        self.copies_back = True
        return 0

    def _next_id(self) -> int | None:
        """The next id after the one given last; that one is not tried again."""
        last = self.oracle.last_domid
        number = last + 1
        while number != last:
            if number >= FIRST_RESERVED:
                number = 1
            if self.oracle.state.domain[DomId(number)].status == Status.ABSENT:
                return number
            number += 1
        return None

    def _fits(self, fields: list[Any], gic: int) -> bool:
        """vCPUs, firmware and performance counters are such as the host can give.

        Source: xen/common/domain.c (sanitise_domain_config), xen/arch/arm/domain.c, Xen 4.17.
        """
        max_vcpus, vmtrace, tee = fields[4], fields[9], fields[12]
        asked = decode(CreateFlags, Word(fields[2]))
        most = {1: 8, 2: 128 if self.oracle.host.width == 64 else 0}.get(gic, 0)
        return bool(1 <= max_vcpus <= most and not vmtrace and not tee
                    and (not asked.vpmu or self.oracle.host.vpmu))

    def _build(self, number: int, gic: int, spis: int, window: tuple[int, int, int, int] | None) -> int:
        """Tables, shared information, grant table: 0 or a negative error."""
        oracle, host = self.oracle, self.oracle.host
        if not self._built("build_root", number, host.root_frames):
            return -ENOMEM
        for _ in range(FIRST_POOL):
            mfn = self._built("build_pool", number)
            if not mfn:
                return -ENOMEM
            oracle.guest(number, pool=(*oracle.guests[number].pool, mfn))
        mfn = self._built("build_shared_info", number)
        if not mfn:
            return -ENOMEM
        oracle.list_frames(mfn)
        if gic != host.gic_version - 1:
            return -ENODEV
        if (spis + 31 & MASK32) // 32 * 32 > _MOST_SPIS:
            return -EINVAL
        hidden = oracle.frames_for(active_frames_for(1, arm32=host.width == 32))
        if hidden is None:
            return -ENOMEM
        for each in hidden:
            oracle.take_hidden(each)
        oracle.guest(number, active=tuple(hidden))
        mfn = self._built("build_grant_table", number)
        if not mfn:
            return -ENOMEM
        oracle.list_frames(mfn)
        return 0

    def _built(self, name: str, number: int, frames: int = 1) -> int:
        """A block of frames that a new domain gets, each by a step: the first, or 0 if the heap has none."""
        oracle = self.oracle
        first = oracle.choice("frame")
        if first is None and heap.unclaimed(oracle.state, 1):
            # how free frames lie is not modelled, nor which of them are arm32's Xen heap
            legal(frames > 1 or oracle.host.width == 32, "a frame is had while one is free")
            return 0
        for page in range(frames):
            if oracle.step(name, domain=number, mfn=(first or 0) + page).kind is not Kind.DONE:
                return 0
        return first or 0

    def _map_window(self, number: int, window: tuple[int, int, int, int]) -> None:
        """The interrupt controller's CPU interface, which Xen maps for every domain itself."""
        oracle = self.oracle
        gfn, _, mfn, pages = window
        change = oracle.change(number)
        change.insert(gfn, mfn, pages)
        oracle.commit(number, change)
        s = oracle.state
        for i in range(pages):
            s = put(s, "p2m", (number, gfn + i), type=P2mType.MMIO_DIRECT_DEV, mfn=mfn + i, hardware=True)
            s = put(s, "iomem", (number, mfn + i), left=True)
        oracle.state = put(s, "domain", number, lowest_gfn=gfn, highest_gfn=gfn + pages - 1)

    # ---- what has steps --------------------------------------------------------------------------------------------

    def destroy(self, domid: int) -> int:
        """``destroydomain``."""
        return destroy(self.oracle, self.caller, domid)

    def unpause(self, domid: int) -> int:
        """unpausedomain: the last pause that goes for the first time lets the domain run."""
        refused = self._refused(UNPAUSE, domid)
        if refused:
            return int(self._step("finish_creation", domain=domid).code)
        guest = self.oracle.guests[domid]
        if not guest.pauses:
            return -EINVAL
        self.oracle.guest(domid, pauses=guest.pauses - 1)
        if guest.pauses == 1:
            finished = self.oracle.state.domain[DomId(domid)].created
            self._step("finish_creation", domain=domid)
            if not finished and not self.oracle.state.domain[DomId(domid)].iommu:
                self.oracle.invalidate_root(domid)
        return 0

    def max_mem(self, domid: int) -> int:
        """max_mem."""
        return int(self._step("max_mem", domain=domid, kilobytes=self._number(0, 8)).code)

    def set_target(self, domid: int) -> int:
        """set_target."""
        return int(self._step("set_target", domain=domid, target=self._number(0, 2)).code)

    def get_pool(self, domid: int) -> int:
        """get_paging_mempool_size."""
        outcome = self._step("get_paging_mempool_size", domain=domid)
        if outcome.kind is Kind.DONE:
            self.data[16:24] = outcome.output["size"].to_bytes(8, "little")
            self.copies_back = True
        return int(outcome.code)

    def set_pool(self, domid: int) -> int:
        """set_paging_mempool_size, page by page."""
        oracle, size = self.oracle, self._number(0, 8)
        while True:
            row = oracle.state.domain[DomId(domid)]
            grows, mfn = row.pool_pages << 12 < size, 0
            pool = oracle.guests[domid].pool if domid in oracle.guests else ()
            may = (domid in oracle.guests and is_control(oracle.state, DomId(self.caller)) and not size & 0xFFF)
            chosen = None
            if may and grows:
                chosen = oracle.choice("frame")
                mfn = chosen or 0
            elif may and row.pool_pages << 12 > size and pool:
                mfn = pool[0]
            outcome = self._step("set_paging_mempool_size", domain=domid, size=size, mfn=mfn,
                                 memory_left=chosen is not None)
            if outcome.kind is not Kind.RESTART:
                return int(outcome.code)
            oracle.guest(domid, pool=(*pool, mfn) if grows else pool[1:])
            if oracle.preempted():
                return -ERESTART

    def iomem_permission(self, domid: int) -> int:
        """iomem_permission."""
        mfn, pages, allow, rows = self._ulong(0), self._ulong(8), bool(self._number(16, 1)), self.oracle.state.iomem
        assert isinstance(rows, Logged)
        below = None if allow else rows.last_before(domid, mfn, _is_allowed)
        if below is not None and mfn - below > _MOST_FRAMES and (
                rows.last_before(domid, mfn + pages, _is_allowed) or 0) > mfn and not rows[domid, mfn].allowed:
            raise UnmodelledError(f"iomem_permission that gives {mfn - below - 1} frames away")
        return int(self._step("iomem_permission", domain=domid, mfn=mfn, pages=pages, allow=allow,
                              below=below or 0).code)

    def memory_mapping(self, domid: int) -> int:
        """memory_mapping."""
        oracle = self.oracle
        gfn, mfn, pages, add = self._ulong(0), self._ulong(8), self._ulong(16), bool(self._number(24, 4))
        change, done = None, pages
        if 0 < pages <= 64:
            change, done, _ = oracle.planned(domid, gfn, mfn, pages, removing=not add)
        outcome = self._step("memory_mapping", domain=domid, gfn=gfn, mfn=mfn, pages=pages, add=add, done=done)
        if change is not None and outcome.kind in {Kind.DONE, Kind.PARTIAL}:
            if add:
                oracle.settle(domid, change, gfn, done)
            else:
                oracle.commit(domid, change)
        return int(outcome.code)

    # ---- what has none ---------------------------------------------------------------------------------------------

    def pause(self, domid: int) -> int:
        """``pausedomain``."""
        if domid == self.caller:
            return -EINVAL
        guest = self.oracle.guests[domid]
        if guest.pauses + 1 > _MOST_PAUSES:
            return -EOVERFLOW
        self.oracle.guest(domid, pauses=guest.pauses + 1)
        return 0

    def resume(self, domid: int) -> int:
        """``resumedomain``."""
        if domid == self.caller:
            return -EINVAL
        self.oracle.guest(domid, shutdown=None)
        return 0

    def set_handle(self, domid: int) -> int:
        """``setdomainhandle``."""
        self.oracle.guest(domid, handle=bytes(self.data[16:32]))
        return 0

    def set_time_offset(self, _domid: int) -> int:
        """``settimeoffset``."""
        return 0

    def max_vcpus(self, domid: int) -> int:
        """max_vcpus: the vCPUs are made, off at first."""
        guest = self.oracle.guests[domid]
        if domid == self.caller or self._number(0, 4) != guest.max_vcpus:
            return -EINVAL
        missing = {number: Vcpu(online=False) for number in range(guest.max_vcpus) if number not in guest.vcpus}
        self.oracle.guest(domid, vcpus=guest.vcpus.update(missing))
        return 0

    def set_context(self, domid: int) -> int:
        """setvcpucontext: a vCPU can run, or is reset."""
        number, context = self._number(0, 4), self._ulong(8)
        guest = self.oracle.guests[domid]
        if domid == self.caller or number not in guest.vcpus:
            return -EINVAL
        vcpu = guest.vcpus[number]
        online = False
        if context:
            data = self.oracle.read(self.caller, context, _CONTEXT_SIZE)
            if data is None:
                return -EFAULT
            if not _may_start(guest, data):
                return -EINVAL
            online = bool(data[0] & 1)
        self.oracle.guest(domid, vcpus=guest.vcpus.set(number, attrs.evolve(vcpu, online=online)))
        return 0

    def set_address_size(self, domid: int) -> int:
        """set_address_size."""
        size = self._number(0, 4)
        if self.oracle.host.width == 32:
            return 0 if size == 32 else -EINVAL
        if size not in {32, 64}:
            return -EINVAL
        if self.oracle.state.domain[DomId(domid)].tot_pages:
            return -EBUSY
        width: Literal[64, 32] = 64 if size == 64 else 32
        self.oracle.guest(domid, width=width)
        return 0

    def cache_flush(self, _domid: int) -> int:
        """cacheflush: caches are coherent here."""
        first, pages = self._ulong(0), self._number(8, 8)
        wrapped = first + pages & self.oracle.host.address_mask
        return -EINVAL if pages > _MOST_FLUSHED or wrapped < first else 0

    def info(self, domid: int) -> int:
        """getdomaininfo: of the domain, or of the next one."""
        oracle = self.oracle
        if not oracle.exists(domid):
            if domid >= FIRST_RESERVED:
                return -EINVAL
            above = [number for number in oracle.guests if number >= domid]
            if not above:
                return -ESRCH
            domid = min(above)
        row, guest = oracle.state.domain[DomId(domid)], oracle.guests[domid]
        online = sum(1 for vcpu in guest.vcpus.values() if vcpu.online)
        flags = 1 << 1 | 1 << 8 | (1 if row.status == Status.DEAD else 0)
        flags |= (1 << 2 if guest.shutdown is not None else 0) | (1 << 3 if guest.pauses else 0)
        flags |= 1 << 5 if online and domid == self.caller else 0
        flags |= (0xFFFF if guest.shutdown is None else guest.shutdown) << 16
        abi.DOMAIN_INFO.pack_into(
            self.data, abi.DOMCTL_UNION, domid, 0, flags, row.tot_pages, row.max_pages, row.claimed, 0, 0,
            row.shared_info, 0, online, max(guest.vcpus, default=MASK32), 0, guest.handle, 0, oracle.host.ipa_bits,
            0, 0, 0, 0)
        self.data[8:10] = domid.to_bytes(2, "little")
        self.copies_back = True
        return 0


def _may_start(guest: Guest, context: bytes) -> bool:
    """The status registers are such as a guest of this width may have; saved ones only if not zero.

    Source: xen/arch/arm/domain.c (arch_set_info_guest), Xen 4.17.
    """
    status, saved_el1 = Struct("<QQ").unpack_from(context, 264)
    saved = (saved_el1,)
    if guest.width == 32:
        saved = (saved_el1 & MASK32, *Struct("<4I").unpack_from(context, 280))
    return all(_is_guest_mode(guest, each) for each in (status, *(each for each in saved if each)))


def _is_guest_mode(guest: Guest, status: int) -> bool:
    if guest.width == 32:
        return status & 0x1F in {0x10, 0x11, 0x12, 0x13, 0x17, 0x1B, 0x1F}
    return not status & 0x10 and status & 0xF in {0, 4, 5}


_Operation = Callable[[_Call, int], int]
_STEPS: dict[int, _Operation] = {
    DESTROY: _Call.destroy, UNPAUSE: _Call.unpause, MAX_MEM: _Call.max_mem, SET_TARGET: _Call.set_target,
    GET_POOL: _Call.get_pool, SET_POOL: _Call.set_pool, IOMEM_PERMISSION: _Call.iomem_permission,
    MEMORY_MAPPING: _Call.memory_mapping,
}
_OTHERS: dict[int, _Operation] = {
    PAUSE: _Call.pause, INFO: _Call.info, RESUME: _Call.resume, SET_HANDLE: _Call.set_handle,
    SET_TIME_OFFSET: _Call.set_time_offset, MAX_VCPUS: _Call.max_vcpus, SET_CONTEXT: _Call.set_context,
    SET_ADDRESS_SIZE: _Call.set_address_size, CACHE_FLUSH: _Call.cache_flush,
}
