"""Hypercall 12, memory_op: every operation that Xen on Arm has, with its errors in Xen's order.

The command's low six bits name the operation, the others are the extent to start at: a continuation puts them there,
and a guest may.
Source: xen/common/memory.c (do_memory_op and what it calls), xen/arch/arm/mm.c (xenmem_add_to_physmap_one) at 4.17.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from impl.fast import abi, privilege
from impl.fast.abi import (
    EACCES,
    EBUSY,
    EDOM,
    EFAULT,
    EILSEQ,
    EINVAL,
    EIO,
    ENOENT,
    ENOSYS,
    ENXIO,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
    ESRCH,
    INVALID_MFN,
    MASK32,
    MASK64,
    MEMOP_CMD_MASK,
    MEMOP_EXTENT_SHIFT,
)
from impl.fast.errors import XenPanic
from impl.fast.guestcopy import Fault, copy_from_guest, copy_to_guest, read_word
from impl.fast.machine import Restart

if TYPE_CHECKING:
    from impl.fast.domains import Domain
    from impl.fast.machine import Machine

_EXTENTS_MAX = MASK32 >> MEMOP_EXTENT_SHIFT     # more can not be encoded in a continuation
_NUMA_NO_NODE = 0xFF


def do_memory_op(machine: Machine, caller: Domain, vcpu: int, registers: list[int]) -> int | Restart:
    """memory_op(command in register 0, argument address in register 1).

    Returns the signed result, or Restart.
    Errors: those of each operation; -ENOSYS for operations that Arm lacks.
    """
    command, argument = registers[0], registers[1]
    operation = command & MEMOP_CMD_MASK
    start = command >> MEMOP_EXTENT_SHIFT
    call = _Call(machine, caller, vcpu, command, argument)
    if operation in {abi.XENMEM_increase_reservation, abi.XENMEM_decrease_reservation, abi.XENMEM_populate_physmap}:
        return call.reservation(operation, start)
    if operation in {abi.XENMEM_current_reservation, abi.XENMEM_maximum_reservation, abi.XENMEM_maximum_gpfn}:
        return call.statistic(operation, start)
    if operation == abi.XENMEM_add_to_physmap:
        return call.add_to_physmap(start)
    if operation == abi.XENMEM_add_to_physmap_batch:
        return call.add_to_physmap_batch(start)
    if operation == abi.XENMEM_remove_from_physmap:
        return call.remove_from_physmap(start)
    if operation == abi.XENMEM_acquire_resource:
        return call.acquire_resource(start)
    if operation == abi.XENMEM_exchange:
        return call.exchange(start)
    if operation == abi.XENMEM_claim_pages:
        return call.claim_pages(start)
    if operation == abi.XENMEM_maximum_ram_page:
        return -EINVAL if start else machine.max_page
    if operation == abi.XENMEM_get_vnumainfo:
        return call.get_vnumainfo(start)
    if operation == abi.XENMEM_reserved_device_memory_map:
        return call.reserved_device_memory_map(start)
    # the architecture's part compares the whole command, cut to an int: a start extent makes it unknown
    if command & MASK32 in {abi.XENMEM_get_sharing_freed_pages, abi.XENMEM_get_sharing_shared_pages}:
        return 0
    return -ENOSYS


def max_order(domain: Domain) -> int:
    """The largest extent that a caller may name: 9, 10 with I/O memory or as hardware domain, 18 for control."""
    order = abi.DOMU_MAX_ORDER
    if domain.has_iomem:
        order = max(order, abi.PTDOM_MAX_ORDER)
    if domain.is_privileged:
        order = max(order, abi.CTLDOM_MAX_ORDER)
    if domain.is_hardware:
        order = max(order, abi.HWDOM_MAX_ORDER)
    return min(order, abi.MAX_ORDER)


def node_allowed(caller: Domain, mem_flags: int) -> bool:
    """propagate_node: hardware and control domains may name node 0; others may name any, but not exactly."""
    node = (mem_flags >> 8) - 1 & 0xFF
    if node == _NUMA_NO_NODE:
        return True
    if caller.is_hardware or caller.is_privileged:
        return node == 0
    return not mem_flags & abi.XENMEMF_exact_node_request


def remove_page(machine: Machine, domain: Domain, gfn: int) -> int:
    """guest_remove_page: take a page from a domain. Returns 0, -EINVAL (no RAM there), -ENXIO (of another), or p2m's.

    A direct-mapped domain keeps the allocation.
    """
    frames = machine.frames
    mfn, _ = domain.p2m.find(gfn)
    if not frames.valid(mfn):
        return -EINVAL
    if not frames.get_page(mfn, domain.id):
        return -ENXIO
    rc = domain.p2m.remove(gfn, 1, mfn)
    if not rc and not domain.direct_map:
        frames.put_page_alloc_ref(mfn)
    frames.put_page(mfn)
    return rc if rc != -ENOENT else -EINVAL


class _Call:
    """One memory_op call: who calls, and where the argument is."""

    __slots__ = ("argument", "caller", "command", "machine", "ulong", "vcpu")

    def __init__(self, machine: Machine, caller: Domain, vcpu: int, command: int, argument: int) -> None:
        self.machine = machine
        self.caller = caller
        self.vcpu = vcpu
        self.command = command
        self.argument = argument
        self.ulong = machine.address_mask       # of Xen's unsigned long

    def _copy(self, address: int, size: int) -> bytes | None:
        data = copy_from_guest(self.caller, self.vcpu, address, size)
        return None if isinstance(data, Fault) else data

    def _write(self, address: int, data: bytes) -> bool:
        return copy_to_guest(self.caller, self.vcpu, address, data) is None

    def _continue(self, operation: int, extent: int) -> Restart:
        return Restart(operation | extent << MEMOP_EXTENT_SHIFT, self.argument)

    # ---- increase, decrease, populate ---------------------------------------------------------------------------

    def reservation(self, operation: int, start: int) -> int | Restart:
        """XENMEM_increase_reservation, decrease_reservation, populate_physmap: the number of extents done.

        Every failure, of the arguments too, returns the extents done so far.
        """
        data = self._copy(self.argument, 32)
        if data is None:
            return start
        extents, number, order, mem_flags, domid = abi.MEMORY_RESERVATION.unpack(data)
        if number > _EXTENTS_MAX or start >= number:
            return start
        domain = self.machine.domain_by_any_id(self.caller, domid)
        if domain is None:
            return start
        address_bits = mem_flags & 0xFF
        if address_bits and address_bits < self.machine.max_page_bits:
            if address_bits <= abi.PAGE_SHIFT:
                return start
        else:
            address_bits = 0
        # no domain has a virtual NUMA layout, so a virtual node is accepted and means nothing
        if not mem_flags & abi.XENMEMF_vnode and not node_allowed(self.caller, mem_flags):
            return start
        if privilege.target(self.caller, domain):
            return start
        on_demand = operation == abi.XENMEM_populate_physmap and bool(mem_flags & abi.XENMEMF_populate_on_demand)
        if order > (abi.MAX_ORDER if on_demand else max_order(self.caller)):
            return start
        if operation == abi.XENMEM_populate_physmap:
            done, preempted = self._populate(domain, extents, start, number, order, address_bits, on_demand)
        elif operation == abi.XENMEM_decrease_reservation:
            done, preempted = self._decrease(domain, extents, start, number, order)
        else:
            done, preempted = self._increase(domain, start, number, order, address_bits)
        return self._continue(operation, done) if preempted else done

    def _increase(self, domain: Domain, start: int, number: int, order: int, address_bits: int) -> tuple[int, bool]:
        """(extents done, preempted): frames for the domain, mapped nowhere."""
        machine = self.machine
        for i in range(start, number):
            if i != start and machine.preempt_check():
                return i, True
            if machine.frames.alloc_domheap(domain, order, address_bits=address_bits) is None:
                return i, False
        return number, False

    def _populate(self, domain: Domain, extents: int, start: int, number: int, order: int, address_bits: int,
                  on_demand: bool) -> tuple[int, bool]:
        """(extents done, preempted): frames for the domain at the gfns that the list names."""
        machine = self.machine
        frames = machine.frames
        for i in range(start, number):
            if i != start and machine.preempt_check():
                return i, True
            gfn = read_word(self.caller, self.vcpu, extents + 8 * i)
            # populate-on-demand does not exist on Arm, for oneself or others
            if gfn is None or on_demand:
                return i, False
            gfn &= self.ulong
            if domain.direct_map:
                for mfn in range(gfn, gfn + (1 << order)):
                    if not frames.valid(mfn) or not frames.get_page(mfn, domain.id):
                        return i, False
                    frames.put_page(mfn)
                first = gfn
            else:
                allocated = frames.alloc_domheap(domain, order, address_bits=address_bits)
                if allocated is None:
                    return i, False
                first = allocated
            # a block that cannot be mapped stays the domain's
            if domain.p2m.insert(gfn, 1 << order, first, abi.p2m_ram_rw):
                return i, False
        return number, False

    def _decrease(self, domain: Domain, extents: int, start: int, number: int, order: int) -> tuple[int, bool]:
        """(extents done, preempted): pages given back; those of a failing extent before the failure stay given."""
        machine = self.machine
        for i in range(start, number):
            if i != start and machine.preempt_check():
                return i, True
            gfn = read_word(self.caller, self.vcpu, extents + 8 * i)
            if gfn is None:
                return i, False
            for j in range(1 << order):
                if remove_page(machine, domain, gfn + j & self.ulong):
                    return i, False
        return number, False

    # ---- numbers --------------------------------------------------------------------------------------------------

    def statistic(self, operation: int, start: int) -> int:
        """XENMEM_current_reservation, maximum_reservation, maximum_gpfn. Errors: EINVAL EFAULT ESRCH EPERM."""
        if start:
            return -EINVAL
        data = self._copy(self.argument, 2)
        if data is None:
            return -EFAULT
        domain = self.machine.domain_by_any_id(self.caller, int.from_bytes(data, "little"))
        if domain is None:
            return -ESRCH
        if privilege.target(self.caller, domain):
            return -EPERM
        if operation == abi.XENMEM_current_reservation:
            return domain.tot_pages - domain.extra_pages
        if operation == abi.XENMEM_maximum_reservation:
            return domain.max_pages
        return domain.p2m.max_mapped_gfn

    def claim_pages(self, start: int) -> int:
        """XENMEM_claim_pages. Errors: EINVAL EFAULT EINVAL (fields, domain) EPERM, then of the claim EINVAL ENOMEM."""
        if start:
            return -EINVAL
        data = self._copy(self.argument, 32)
        if data is None:
            return -EFAULT
        extents, number, order, mem_flags, domid = abi.MEMORY_RESERVATION.unpack(data)
        if extents & self.ulong or order or mem_flags:
            return -EINVAL
        domain = self.machine.domain_by_id(domid)
        if domain is None:
            return -EINVAL
        if privilege.priv(self.caller):
            return -EPERM
        return self.machine.frames.set_outstanding(domain, number & self.ulong)

    def exchange(self, start: int) -> int:
        """XENMEM_exchange: Arm can steal no page, so that nothing is ever exchanged; nr_exchanged is written back."""
        if start:
            return -EINVAL
        data = self._copy(self.argument, 72)
        if data is None:
            return -EFAULT
        (list_in, nr_in, order_in, _, domid_in,
         _, nr_out, order_out, flags_out, domid_out, exchanged) = abi.MEMORY_EXCHANGE.unpack(data)
        rc, exchanged = self._exchange(list_in, nr_in, order_in, domid_in, nr_out, order_out, flags_out, domid_out,
                                       exchanged)
        if rc == 0:
            return 0
        if not self._write(self.argument + 64, abi.U64.pack(exchanged)):
            return -EFAULT
        return rc

    def _exchange(self, list_in: int, nr_in: int, order_in: int, domid_in: int, nr_out: int, order_out: int,
                  flags_out: int, domid_out: int, exchanged: int) -> tuple[int, int]:
        """(error or 0, nr_exchanged to write back)."""
        if max(order_in, order_out) > max_order(self.caller):
            return -EPERM, exchanged
        if (exchanged > nr_in or domid_in != domid_out or self.ulong >> order_in < nr_in
                or self.ulong >> order_out < nr_out or nr_in << order_in != nr_out << order_out):
            return -EINVAL, exchanged
        if exchanged == nr_in:
            return 0, exchanged
        if not node_allowed(self.caller, flags_out):
            return -EINVAL, exchanged
        domain = self.machine.domain_by_any_id(self.caller, domid_in)
        if domain is None:
            return -ESRCH, exchanged
        if privilege.target(self.caller, domain):
            return -EPERM, exchanged
        chunk = max(order_out - order_in, 0)
        exchanged = exchanged >> chunk << chunk
        gfn = read_word(self.caller, self.vcpu, list_in + 8 * exchanged)
        if gfn is None:
            return -EFAULT, exchanged
        mfn, _ = domain.p2m.find(gfn & self.ulong)
        if not self.machine.frames.valid(mfn):
            return -EINVAL, exchanged
        return -EOPNOTSUPP, exchanged

    def get_vnumainfo(self, start: int) -> int:
        """XENMEM_get_vnumainfo: no domain has one. Errors: EINVAL EFAULT EINVAL (pad) ESRCH EPERM EOPNOTSUPP."""
        if start:
            return -EINVAL
        data = self._copy(self.argument, 40)
        if data is None:
            return -EFAULT
        domid, pad = abi.VNUMA_TOPOLOGY_INFO.unpack(data)[:2]
        if pad:
            return -EINVAL
        domain = self.machine.domain_by_any_id(self.caller, domid)
        if domain is None:
            return -ESRCH
        if privilege.target(self.caller, domain):
            return -EPERM
        return -EOPNOTSUPP

    def reserved_device_memory_map(self, start: int) -> int:
        """XENMEM_reserved_device_memory_map: an empty list. Errors: EINVAL EFAULT EINVAL (flags)."""
        if start:
            return -EINVAL
        data = self._copy(self.argument, 24)
        if data is None:
            return -EFAULT
        if int.from_bytes(data[:4], "little") & ~1:
            return -EINVAL
        return 0 if self._write(self.argument, data[:4] + bytes(4) + data[8:]) else -EFAULT

    # ---- the physmap ----------------------------------------------------------------------------------------------

    def _permission(self, domain: Domain, space: int) -> int:
        """xatp_permission_check: device memory only for the hardware domain on itself, then TARGET."""
        if space == abi.XENMAPSPACE_dev_mmio and (not domain.is_hardware or domain is not self.caller):
            return -EACCES
        return privilege.target(self.caller, domain)

    def add_to_physmap(self, start: int) -> int:
        """XENMEM_add_to_physmap. Errors: EDOM EFAULT ENOSYS ESRCH EACCES EPERM EINVAL, then of the space.

        A range (space 3) is refused element by element, so that it never needs a continuation.
        """
        if start != start & 0xFFFF:
            return -EDOM
        data = self._copy(self.argument, 24)
        if data is None:
            return -EFAULT
        domid, size, space, idx, gpfn = abi.ADD_TO_PHYSMAP.unpack(data)
        if space == abi.XENMAPSPACE_gmfn_foreign:
            return -ENOSYS
        domain = self.machine.domain_by_any_id(self.caller, domid)
        if domain is None:
            return -ESRCH
        rc = self._permission(domain, space)
        if rc:
            return rc
        if gpfn & self.ulong == self.ulong:
            return -EINVAL
        if space != abi.XENMAPSPACE_gmfn_range:
            return self._add_one(domain, space, abi.DOMID_INVALID, idx & self.ulong, gpfn & self.ulong)
        if size < start:
            return -EILSEQ
        if gpfn + size > MASK64 or idx + size > MASK64:
            return -EOVERFLOW
        return -ENOSYS if size > start else 0

    def add_to_physmap_batch(self, start: int) -> int | Restart:
        """XENMEM_add_to_physmap_batch: each element's result goes to the list of errors, the call goes on.

        Errors: EDOM EFAULT EOPNOTSUPP ESRCH EACCES EPERM EILSEQ EOPNOTSUPP (res0), then EFAULT or EINVAL at an element.
        """
        if start != start & 0xFFFF:
            return -EDOM
        data = self._copy(self.argument, 32)
        if data is None:
            return -EFAULT
        domid, space, size, foreign, idxs, gpfns, errs = abi.ADD_TO_PHYSMAP_BATCH.unpack(data)
        if space == abi.XENMAPSPACE_gmfn_range:
            return -EOPNOTSUPP
        domain = self.machine.domain_by_any_id(self.caller, domid)
        if domain is None:
            return -ESRCH
        rc = self._permission(domain, space)
        if rc:
            return rc
        if size < start:
            return -EILSEQ
        if size == start:
            return -EILSEQ if start else 0
        if space == abi.XENMAPSPACE_dev_mmio and foreign:
            return -EOPNOTSUPP
        extent = start
        while size > extent:
            idx = read_word(self.caller, self.vcpu, idxs + 8 * extent)
            if idx is None:
                return -EFAULT
            gpfn = read_word(self.caller, self.vcpu, gpfns + 8 * extent)
            if gpfn is None:
                return -EFAULT
            if gpfn & self.ulong == self.ulong:
                return -EINVAL
            rc = self._add_one(domain, space, foreign, idx & self.ulong, gpfn & self.ulong)
            if not self._write(errs + 4 * extent, abi.S32.pack(rc)):
                return -EFAULT
            extent += 1
            if size > extent and self.machine.preempt_check():
                return self._continue(abi.XENMEM_add_to_physmap_batch, extent)
        return 0

    def _add_one(self, domain: Domain, space: int, foreign: int, idx: int, gfn: int) -> int:
        """xenmem_add_to_physmap_one: 0 or a negative error."""
        frames = self.machine.frames
        held = False
        if space == abi.XENMAPSPACE_grant_table:
            from impl.fast.grant import physmap
            rc, mfn = physmap.map_grant_frame(self.machine, domain, idx, gfn)
            if rc:
                return rc
            held = True
            p2m_type = abi.p2m_ram_rw
        elif space == abi.XENMAPSPACE_shared_info:
            if idx:
                return -EINVAL
            mfn = domain.shared_info if domain.shared_info is not None else INVALID_MFN
            p2m_type = abi.p2m_ram_rw
        elif space == abi.XENMAPSPACE_gmfn_foreign:
            rc, mfn, p2m_type = self._foreign_page(domain, foreign, idx)
            if rc:
                return rc
        elif space == abi.XENMAPSPACE_dev_mmio:
            if not domain.iomem_permitted(idx, idx):
                return 0
            return domain.p2m.insert(gfn, 1, idx, abi.p2m_mmio_direct_c)
        else:
            return -ENOSYS
        if not abi.P2M_RAM >> p2m_type & 1 or not frames.is_xen_heap(mfn):
            rc = domain.p2m.insert(gfn, 1, mfn, p2m_type)
        elif frames.xenheap_gfn(mfn) is None:
            rc = domain.p2m.set_entries(gfn, 1, mfn, p2m_type)
            if not rc:
                frames.set_xenheap_gfn(mfn, gfn)
            domain.p2m.unlock()
        else:
            # it must be unmapped first, or the first gfn would be left as a hole
            rc = -EBUSY
        # a foreign map keeps its reference until it is unmapped
        if held or (rc and space == abi.XENMAPSPACE_gmfn_foreign):
            frames.put_page(mfn)
        return rc

    def _foreign_page(self, domain: Domain, foreign: int, idx: int) -> tuple[int, int, int]:
        """(0 or error, frame with a reference, type to map it as). Errors: ESRCH EINVAL EPERM EINVAL; XenPanic."""
        none = (INVALID_MFN, 0)
        # the caller may not name itself by number; DOMID_IO and DOMID_XEN exist, but offer no page
        if foreign == self.caller.id:
            return -ESRCH, *none
        if foreign == abi.DOMID_IO and not idx and domain.is_privileged and self.machine.width == 64:
            raise XenPanic("p2m_next_level: domain IO has no root table")
        if foreign in {abi.DOMID_IO, abi.DOMID_XEN}:
            return (-EINVAL if domain.is_privileged else -EPERM), *none
        owner = self.machine.domain_by_any_id(self.caller, foreign)
        if owner is None:
            return -ESRCH, *none
        if owner is domain:
            return -EINVAL, *none
        if privilege.target(domain, owner):
            return -EPERM, *none
        mfn, p2m_type = owner.p2m.get_page_from_gfn(idx)
        if mfn is None:
            return -EINVAL, *none
        if not abi.P2M_RAM >> p2m_type & 1:
            self.machine.frames.put_page(mfn)
            return -EINVAL, *none
        return 0, mfn, abi.p2m_map_foreign_rw if p2m_type == abi.p2m_ram_rw else abi.p2m_map_foreign_ro

    def remove_from_physmap(self, start: int) -> int:
        """XENMEM_remove_from_physmap: the mapping goes, the page stays. Errors: EINVAL EFAULT ESRCH EPERM ENOENT."""
        if start:
            return -EINVAL
        data = self._copy(self.argument, 16)
        if data is None:
            return -EFAULT
        domid, gpfn = abi.REMOVE_FROM_PHYSMAP.unpack(data)
        domain = self.machine.domain_by_any_id(self.caller, domid)
        if domain is None:
            return -ESRCH
        if privilege.target(self.caller, domain):
            return -EPERM
        gfn = gpfn & self.ulong
        mfn, _ = domain.p2m.get_page_from_gfn(gfn)
        if mfn is None:
            return -ENOENT
        rc = domain.p2m.remove(gfn, 1, mfn)
        self.machine.frames.put_page(mfn)
        return rc

    # ---- resources ------------------------------------------------------------------------------------------------

    def acquire_resource(self, start: int) -> int | Restart:
        """XENMEM_acquire_resource: another domain's grant frames mapped into the caller as foreign pages.

        Errors: EFAULT EINVAL (pad, range) ESRCH EPERM EINVAL (no such resource, list, count), EOPNOTSUPP for an unknown
        type; EIO after the first element of a chunk of 32.
        """
        data = self._copy(self.argument, 32)
        if data is None:
            return -EFAULT
        domid, kind, number, nr_frames, pad, frame, frame_list = abi.ACQUIRE_RESOURCE.unpack(data)
        if pad or frame >> 32 or frame + nr_frames >> 32:
            return -EINVAL
        domain = self.machine.domain_by_id(domid)
        if domain is None:
            return -ESRCH
        if domain is self.caller or privilege.dm_priv(self.caller, domain):
            return -EPERM
        most = self._resource_size(domain, kind, number)
        if not most:
            return -EINVAL
        if not frame_list & self.ulong:
            if nr_frames or start:
                return -EINVAL
            return 0 if self._write(self.argument + 8, most.to_bytes(4, "little")) else -EFAULT
        if start >= nr_frames or nr_frames > _EXTENTS_MAX:
            return -EINVAL
        if kind != abi.XENMEM_resource_grant_table:
            return -EOPNOTSUPP
        from impl.fast.grant import physmap
        extent = start
        while True:
            todo = min(32, nr_frames - extent)
            rc, mfns = physmap.acquire(self.machine, domain, number, frame + extent, todo)
            if rc < 0:
                return rc
            rc = self._map_resource(domain, mfns, frame_list + 8 * extent)
            if rc:
                return rc
            extent += todo
            if extent == nr_frames:
                return 0
            if self.machine.preempt_check():
                return self._continue(abi.XENMEM_acquire_resource, extent)

    @staticmethod
    def _resource_size(domain: Domain, kind: int, number: int) -> int:
        """resource_max_frames: frames of a resource; an unknown type gives an error read as unsigned."""
        if kind == abi.XENMEM_resource_grant_table:
            return domain.max_grant_frames if number == 0 else 0
        if kind in {abi.XENMEM_resource_ioreq_server, abi.XENMEM_resource_vmtrace_buf}:
            return 0
        return -EOPNOTSUPP & MASK32

    def _map_resource(self, domain: Domain, mfns: list[int], address: int) -> int:
        """Map one chunk at the gfns that the caller's list names: set_foreign_p2m_entry for each."""
        data = self._copy(address, 8 * len(mfns))
        if data is None:
            return -EFAULT
        frames = self.machine.frames
        for i, mfn in enumerate(mfns):
            gfn = int.from_bytes(data[8 * i:8 * i + 8], "little") & self.ulong
            rc = -EINVAL
            if frames.get_page(mfn, domain.id):
                rc = self.caller.p2m.insert(gfn, 1, mfn, abi.p2m_map_foreign_rw)
                if rc:
                    frames.put_page(mfn)
            if rc:
                return rc if i == 0 else -EIO
        return 0
