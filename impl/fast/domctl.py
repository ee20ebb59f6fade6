"""Hypercall 36, domctl: the life of domains, their limits and their I/O memory, as far as memory and grants need it.

The others that Arm has raise NotModelled, after the checks that are common to all; those it lacks give -ENOSYS.
Source: xen/common/domctl.c (do_domctl), xen/arch/arm/domctl.c, xen/common/domain.c at 4.17.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any

from impl.fast import abi, privilege
from impl.fast.abi import (
    E2BIG,
    EACCES,
    EBUSY,
    EEXIST,
    EFAULT,
    EINVAL,
    ENOMEM,
    ENOSYS,
    EOVERFLOW,
    EPERM,
    ERESTART,
    ESRCH,
    MASK32,
)
from impl.fast.boot import construct, free_shared_info, unpause
from impl.fast.domains import Domain, Dying, Vcpu
from impl.fast.errors import NotModelled
from impl.fast.guestcopy import Fault, copy_from_guest, copy_to_guest
from impl.fast.machine import Restart
from impl.fast.teardown import kill

if TYPE_CHECKING:
    from impl.fast.machine import Machine

CREATEDOMAIN, DESTROYDOMAIN, PAUSEDOMAIN, UNPAUSEDOMAIN, GETDOMAININFO = 1, 2, 3, 4, 5
MAX_MEM, SETVCPUCONTEXT, MAX_VCPUS, SETDOMAINHANDLE, IOMEM_PERMISSION = 11, 12, 15, 17, 20
GETVCPUCONTEXT, SETTIMEOFFSET, RESUMEDOMAIN, SET_ADDRESS_SIZE = 13, 24, 27, 35
BIND_PT_IRQ, MEMORY_MAPPING, IOPORT_MAPPING, SET_TARGET, UNBIND_PT_IRQ, CACHEFLUSH = 38, 39, 40, 46, 48, 71
ASSIGN_DEVICE, DEASSIGN_DEVICE, TEST_ASSIGN_DEVICE, VM_EVENT_OP = 37, 47, 45, 56
GET_PAGING_MEMPOOL_SIZE, SET_PAGING_MEMPOOL_SIZE, SOFT_RESET = 85, 86, 79

# those that Arm has beside _OPERATIONS; set_access_required (64) needs mem_access, which is not built by default
_PRESENT = frozenset({9, 13, 14, 16, 18, 19, 23, 25, 29, 37, 38, 45, 47, 48, 50, 56, 66, 68, 69, 74, 77, 79, 81})

# ssidref handle flags iommu_opts max_vcpus max_evtchn_port max_grant_frames max_maptrack_frames grant_opts vmtrace_size
# cpupool_id, then of the architecture: gic_version tee_type nr_spis clock_frequency
CREATE = Struct("<I16sIIIiiiIIIBxHII")
_CREATE_FLAGS = 0xFF
_CDF_HVM, _CDF_HAP, _CDF_IOMMU, _CDF_VPMU = 1, 2, 1 << 5, 1 << 7
DOMAIN_INFO = Struct("<HHIQQQQQQQIII16sIB7xBxHII4x")
_INVALID_SHUTDOWN = 0xFFFF
_MAX_PAUSES = 255


def do_domctl(machine: Machine, caller: Domain, vcpu: int, registers: list[int]) -> int | Restart:
    """domctl(argument address in register 0).

    Returns the signed result, or Restart.
    Errors: EFAULT, EACCES (interface version), ESRCH, EPERM, then those of the operation; EFAULT at the copy back.
    """
    address = registers[0]
    data = copy_from_guest(caller, vcpu, address, abi.DOMCTL_SIZE)
    if isinstance(data, Fault):
        return -EFAULT
    command, version, domid = abi.DOMCTL_HEADER.unpack_from(data)
    if version != abi.DOMCTL_INTERFACE_VERSION:
        return -EACCES
    domain: Domain | None = None
    if command == CREATEDOMAIN:
        pass
    elif command in {ASSIGN_DEVICE, DEASSIGN_DEVICE} and domid in {abi.DOMID_IO, abi.DOMID_INVALID}:
        if domid == abi.DOMID_INVALID:
            return -ESRCH
    elif not (command in {TEST_ASSIGN_DEVICE, VM_EVENT_OP} and domid == abi.DOMID_INVALID):
        domain = machine.domain_by_id(domid)
        if domain is None and command != GETDOMAININFO:
            return -ESRCH
    if command in {IOPORT_MAPPING, MEMORY_MAPPING, BIND_PT_IRQ, UNBIND_PT_IRQ}:
        rc = privilege.dm_priv(caller, domain)
    elif command == GETDOMAININFO:
        rc = privilege.xs_priv(caller, domain)
    else:
        rc = privilege.priv(caller)
    if rc:
        return rc
    call = _Call(machine, caller, vcpu, address, bytearray(data))
    if command == CREATEDOMAIN:
        rc = call.create(domid)
    elif command == GETDOMAININFO:
        rc = call.info(domain, domid)
    elif command in _OPERATIONS and domain is not None:
        rc = _OPERATIONS[command](call, domain)
    elif command in _PRESENT:
        raise NotModelled(f"domctl {command} is not modelled")
    else:
        # what is x86's, or unknown, ends in the architecture's default
        return -ENOSYS
    if rc == -ERESTART:
        return Restart(address)
    if call.copyback and copy_to_guest(caller, vcpu, address, bytes(call.data)) is not None:
        return -EFAULT
    return rc


class _Call:
    """One domctl: who calls, where the argument is, and its 144 bytes."""

    def __init__(self, machine: Machine, caller: Domain, vcpu: int, address: int, data: bytearray) -> None:
        self.machine = machine
        self.caller = caller
        self.vcpu = vcpu
        self.address = address
        self.data = data
        self.copyback = False

    def _u64(self, offset: int) -> int:
        """A 64-bit field of the union, cut to Xen's unsigned long where the caller of this says so."""
        return int.from_bytes(self.data[16 + offset:24 + offset], "little")

    def _u32(self, offset: int) -> int:
        return int.from_bytes(self.data[16 + offset:20 + offset], "little")

    def _ulong(self, offset: int) -> int:
        return self._u64(offset) & self.machine.address_mask

    # ---- life -------------------------------------------------------------------------------------------------------

    def create(self, wanted: int) -> int:
        """Createdomain. Errors: EEXIST ENOMEM (id), EINVAL (configuration), ENOMEM EBUSY ENODEV EINVAL ESRCH."""
        machine = self.machine
        number = wanted
        if 0 < wanted < abi.DOMID_FIRST_RESERVED:
            if wanted in machine.domains:
                return -EEXIST
        else:
            # the search starts after the id given last, and never tries that one again
            last = machine.last_domid
            number = last + 1
            while number != last:
                if number == abi.DOMID_FIRST_RESERVED:
                    number = 1
                if number not in machine.domains:
                    break
                number += 1
            if number == last:
                return -ENOMEM
            machine.last_domid = number
        fields = list(CREATE.unpack_from(self.data, 16))
        rc = self._sanitise(fields)
        if rc:
            return rc
        (_, handle, flags, _, max_vcpus, _, grant_frames, maptrack_frames, grant_opts, _, pool, gic, _, spis,
         _) = fields
        domain = Domain(machine, number, max_vcpus=max_vcpus, iommu=bool(flags & _CDF_IOMMU))
        domain.is_dying = Dying.alive
        # whatever Xen's own width is, until it is said
        domain.width = 32
        rc = construct(machine, domain, grants=(grant_opts & 15, grant_frames, maptrack_frames),
                       gic=gic, spis=spis)
        if rc:
            return rc
        if pool:
            unmake(machine, domain)
            return -ESRCH
        domain.handle = handle
        machine.domains[number] = domain
        for name in sorted(machine.domains):        # the list is kept in order of id
            machine.domains[name] = machine.domains.pop(name)
        fields[-1] = 0                              # clock_frequency: the board's device tree gives none
        CREATE.pack_into(self.data, 16, *fields)
        self.data[8:10] = number.to_bytes(2, "little")
        self.copyback = True
        return 0

    def _sanitise(self, fields: list[Any]) -> int:
        """sanitise_domain_config and its Arm part: 0 or -EINVAL; a native GIC is named."""
        _, _, flags, iommu_opts, max_vcpus, _, _, _, grant_opts, vmtrace, _, gic, tee, _, _ = fields
        config = self.machine.config
        if flags & ~_CREATE_FLAGS or grant_opts & ~15 or max_vcpus < 1:
            return -EINVAL
        if flags & _CDF_IOMMU:
            # bit 0, no shared tables, is refused on Arm
            if iommu_opts or not config.iommu:
                return -EINVAL
        elif iommu_opts:
            return -EINVAL
        if vmtrace or (flags & _CDF_VPMU and not config.vpmu):
            return -EINVAL
        if flags & ~(_CDF_IOMMU | _CDF_VPMU) != _CDF_HVM | _CDF_HAP:
            return -EINVAL
        if gic == 0:
            gic = fields[11] = config.gic_version - 1
        most = {1: 8, 2: 128 if self.machine.width == 64 else 0}.get(gic, 0)
        if max_vcpus > most or tee:
            return -EINVAL
        return 0

    def destroy(self, domain: Domain) -> int:
        """Destroydomain. Errors: EINVAL for oneself; -ERESTART when preempted."""
        return kill(self.machine, self.caller, domain)

    def pause(self, domain: Domain) -> int:
        """Pausedomain. Errors: EINVAL for oneself, EOVERFLOW at 256."""
        if domain is self.caller:
            return -EINVAL
        if domain.controller_pause_count + 1 > _MAX_PAUSES:
            return -EOVERFLOW
        domain.controller_pause_count += 1
        return 0

    def unpause(self, domain: Domain) -> int:
        """Unpausedomain. Errors: EINVAL if it is not paused."""
        if not domain.controller_pause_count:
            return -EINVAL
        unpause(self.machine, domain)
        return 0

    def resume(self, domain: Domain) -> int:
        """Resumedomain. Errors: EINVAL for oneself."""
        if domain is self.caller:
            return -EINVAL
        domain.shutdown_code = None
        return 0

    def info(self, domain: Domain | None, wanted: int) -> int:
        """getdomaininfo: of the domain, or of the next one. Errors: EINVAL (reserved id), ESRCH, EPERM."""
        if domain is None:
            if wanted >= abi.DOMID_FIRST_RESERVED:
                return -EINVAL
            above = [number for number in self.machine.domains if number >= wanted]
            if not above:
                return -ESRCH
            domain = self.machine.domains[min(above)]
            # the caller is a control domain here, or the lookup without domain was refused
        online = [vcpu for vcpu in domain.vcpus.values() if not vcpu.offline]
        flags = 1 << 1 | 1 << 8
        flags |= 1 if domain.is_dying == Dying.dead else 0
        flags |= 1 << 2 if domain.shutdown_code is not None else 0
        flags |= 1 << 3 if domain.controller_pause_count else 0
        flags |= 1 << 5 if online and domain is self.caller else 0
        flags |= (_INVALID_SHUTDOWN if domain.shutdown_code is None else domain.shutdown_code) << 16
        DOMAIN_INFO.pack_into(
            self.data, 16, domain.id, 0, flags, domain.tot_pages - domain.extra_pages, domain.max_pages,
            domain.outstanding_pages, 0, 0, domain.shared_info or 0, 0, len(online),
            max(domain.vcpus, default=MASK32), 0, domain.handle, 0, self.machine.ipa_bits, 0, 0, 0, 0)
        self.data[8:10] = domain.id.to_bytes(2, "little")
        self.copyback = True
        return 0

    # ---- vCPUs ------------------------------------------------------------------------------------------------------

    def max_vcpus(self, domain: Domain) -> int:
        """max_vcpus: make the vCPUs, off at first. Errors: EINVAL for oneself or another number than at creation."""
        if domain is self.caller or self._u32(0) != domain.max_vcpus:
            return -EINVAL
        for number in range(domain.max_vcpus):
            if number not in domain.vcpus:
                domain.vcpus[number] = Vcpu(number, running=False)
        return 0

    def set_context(self, domain: Domain) -> int:
        """setvcpucontext: a vCPU becomes able to run. Errors: EINVAL EFAULT EINVAL (mode of the program status)."""
        number = self._u32(0)
        if domain is self.caller or number >= domain.max_vcpus or number not in domain.vcpus:
            return -EINVAL
        vcpu = domain.vcpus[number]
        context = self._ulong(8)
        if not context:
            vcpu.initialised, vcpu.offline = False, True
            return 0
        data = copy_from_guest(self.caller, self.vcpu, context, 352)
        if isinstance(data, Fault):
            return -EFAULT
        if not _context_allowed(domain, data):
            return -EINVAL
        vcpu.initialised = True
        vcpu.offline = not data[0] & 1
        return 0

    def set_address_size(self, domain: Domain) -> int:
        """set_address_size. Errors: EBUSY once it has pages (arm64), EINVAL for a width that there is not."""
        size = self._u32(0)
        if self.machine.width == 32:
            return 0 if size == 32 else -EINVAL
        if size not in {32, 64}:
            return -EINVAL
        if domain.tot_pages - domain.extra_pages:
            return -EBUSY
        domain.width = size
        return 0

    # ---- limits -----------------------------------------------------------------------------------------------------

    def max_mem(self, domain: Domain) -> int:
        """max_mem: the limit in KB; it may lie below what the domain has."""
        domain.max_pages = min(self._u64(0) >> 2, MASK32)
        return 0

    def get_pool(self, domain: Domain) -> int:
        """get_paging_mempool_size: in bytes."""
        self.data[16:24] = (domain.p2m.pool_total << 12).to_bytes(8, "little")
        self.copyback = True
        return 0

    def set_pool(self, domain: Domain) -> int:
        """set_paging_mempool_size. Errors: EINVAL (no whole pages, too large), ENOMEM; -ERESTART when preempted."""
        size = self._u64(0)
        pages = size >> 12
        if size & 0xFFF or pages > self.machine.address_mask:
            return -EINVAL
        return domain.p2m.set_allocation(pages, preemptible=True)

    def set_target(self, domain: Domain) -> int:
        """set_target: the domain becomes the device model of another. Errors: ESRCH EINVAL."""
        target = self.machine.domain_by_id(int.from_bytes(self.data[16:18], "little"))
        # a dead domain whose last reference is gone can not be had
        if target is None:
            return -ESRCH
        if target is domain or domain.target is not None:
            return -EINVAL
        target.get()
        domain.target = target.id
        domain.holds_target = True
        return 0

    def set_handle(self, domain: Domain) -> int:
        """Setdomainhandle."""
        domain.handle = bytes(self.data[16:32])
        return 0

    # ---- I/O memory and caches --------------------------------------------------------------------------------------

    def iomem_permission(self, domain: Domain) -> int:
        """iomem_permission. Errors: EINVAL (wrap, so always for no frames), EPERM if the caller lacks it."""
        mask = self.machine.address_mask
        first, number = self._ulong(0), self._ulong(8)
        last = first + number - 1 & mask
        if last < first:
            return -EINVAL
        if not self.caller.iomem_permitted(first, last):
            return -EPERM
        if self.data[32]:
            domain.permit_iomem(first, last)
        else:
            domain.deny_iomem(first, last)
        return 0

    def memory_mapping(self, domain: Domain) -> int:
        """memory_mapping: device frames into a domain, or out. Errors: EINVAL E2BIG (64) EPERM, then of the p2m."""
        mask = self.machine.address_mask
        gfn, first, number = self._ulong(0), self._ulong(8), self._ulong(16)
        last = first + number - 1 & mask
        address_bits = 48 if self.machine.width == 64 else 40
        if last < first or (first | last) >> address_bits - 12 or gfn + number - 1 & mask < gfn:
            return -EINVAL
        if number > 64:
            return -E2BIG
        if not self.caller.iomem_permitted(first, last) or not domain.iomem_permitted(first, last):
            return -EPERM
        if self._u32(24):
            return domain.p2m.insert(gfn, number, first, abi.p2m_mmio_direct_dev)
        return domain.p2m.remove(gfn, number, first)

    def cacheflush(self, domain: Domain) -> int:
        """cacheflush: nothing that a guest with coherent caches sees. Errors: EINVAL (2**18 pages, wrap)."""
        start, number = self._ulong(0), self._u64(8)
        if number > 1 << abi.MAX_ORDER or start + number & self.machine.address_mask < start:
            return -EINVAL
        return 0


def unmake(machine: Machine, domain: Domain) -> None:
    """Undo `construct` for a domain that never became visible."""
    from impl.fast.grant import lifecycle
    domain.is_dying = Dying.dead
    domain.p2m.final_teardown()
    free_shared_info(machine, domain)
    lifecycle.destroy(machine, domain)


def _context_allowed(domain: Domain, context: bytes) -> bool:
    """The checks of arch_set_info_guest: the status registers, saved ones only if not zero."""
    cpsr, spsr_el1 = Struct("<QQ").unpack_from(context, 264)
    if domain.width == 32:
        saved = (spsr_el1 & MASK32, *Struct("<4I").unpack_from(context, 280))
    else:
        saved = (spsr_el1,)
    return _mode_allowed(domain, cpsr) and all(_mode_allowed(domain, status) for status in saved if status)


def _mode_allowed(domain: Domain, status: int) -> bool:
    """is_guest_pv32_psr, is_guest_pv64_psr: a mode that a guest of this width may be in."""
    if domain.width == 32:
        return status & 0x1F in {0x10, 0x11, 0x12, 0x13, 0x17, 0x1B, 0x1F}
    return not status & 0x10 and status & 0xF in {0x0, 0x4, 0x5}


_OPERATIONS = {
    DESTROYDOMAIN: _Call.destroy,
    PAUSEDOMAIN: _Call.pause,
    UNPAUSEDOMAIN: _Call.unpause,
    RESUMEDOMAIN: _Call.resume,
    MAX_MEM: _Call.max_mem,
    SETVCPUCONTEXT: _Call.set_context,
    MAX_VCPUS: _Call.max_vcpus,
    SETDOMAINHANDLE: _Call.set_handle,
    IOMEM_PERMISSION: _Call.iomem_permission,
    SETTIMEOFFSET: lambda call, domain: 0,
    SET_ADDRESS_SIZE: _Call.set_address_size,
    MEMORY_MAPPING: _Call.memory_mapping,
    SET_TARGET: _Call.set_target,
    CACHEFLUSH: _Call.cacheflush,
    GET_PAGING_MEMPOOL_SIZE: _Call.get_pool,
    SET_PAGING_MEMPOOL_SIZE: _Call.set_pool,
}
