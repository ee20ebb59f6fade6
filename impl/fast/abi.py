"""Numbers, errors and struct layouts that guests of Xen 4.17 on Arm see.

Every struct has one layout on arm32 and arm64: handles, xen_pfn_t and xen_ulong_t take 8 bytes, aligned to 8, on both.
Source: xen/include/public (memory.h, domctl.h, grant_table.h, errno.h) at 4.17.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 4096
PAGE_MASK: Final = PAGE_SIZE - 1
MASK32: Final = (1 << 32) - 1
MASK64: Final = (1 << 64) - 1
INVALID_MFN: Final = MASK64            # in results of lookups; a 32-bit Xen has all ones of 32 bits, unseen by guests

# ---- errors (public/errno.h) --------------------------------------------------------------------------------
EPERM: Final = 1
ENOENT: Final = 2
ESRCH: Final = 3
EIO: Final = 5
ENXIO: Final = 6
E2BIG: Final = 7
EAGAIN: Final = 11
ENOMEM: Final = 12
EACCES: Final = 13
EFAULT: Final = 14
EBUSY: Final = 16
EEXIST: Final = 17
EXDEV: Final = 18
ENODEV: Final = 19
EINVAL: Final = 22
ENOSPC: Final = 28
EDOM: Final = 33
ERANGE: Final = 34
ENOSYS: Final = 38
ENODATA: Final = 61
EOVERFLOW: Final = 75
EILSEQ: Final = 84
ERESTART: Final = 85
EOPNOTSUPP: Final = 95
ENOBUFS: Final = 105

# ---- domain ids (public/xen.h) ------------------------------------------------------------------------------
DOMID_FIRST_RESERVED: Final = 0x7FF0
DOMID_SELF: Final = 0x7FF0
DOMID_IO: Final = 0x7FF1
DOMID_XEN: Final = 0x7FF2
DOMID_COW: Final = 0x7FF3
DOMID_INVALID: Final = 0x7FF4

# ---- hypercalls ---------------------------------------------------------------------------------------------
HYPERCALL_MEMORY_OP: Final = 12
HYPERCALL_GRANT_TABLE_OP: Final = 20
HYPERCALL_DOMCTL: Final = 36
# the numbers that Xen on Arm has (memory_op, grant_table_op and domctl are modelled)
PRESENT: Final = frozenset({7, 12, 13, 17, 18, 20, 21, 24, 29, 32, 33, 34, 35, 36, 42})

# ---- memory_op ----------------------------------------------------------------------------------------------
MEMOP_EXTENT_SHIFT: Final = 6
MEMOP_CMD_MASK: Final = (1 << MEMOP_EXTENT_SHIFT) - 1
XENMEM_increase_reservation: Final = 0
XENMEM_decrease_reservation: Final = 1
XENMEM_maximum_ram_page: Final = 2
XENMEM_current_reservation: Final = 3
XENMEM_maximum_reservation: Final = 4
XENMEM_populate_physmap: Final = 6
XENMEM_add_to_physmap: Final = 7
XENMEM_exchange: Final = 11
XENMEM_maximum_gpfn: Final = 14
XENMEM_remove_from_physmap: Final = 15
XENMEM_get_sharing_freed_pages: Final = 18
XENMEM_get_sharing_shared_pages: Final = 19
XENMEM_access_op: Final = 21
XENMEM_add_to_physmap_batch: Final = 23
XENMEM_claim_pages: Final = 24
XENMEM_reserved_device_memory_map: Final = 27
XENMEM_get_vnumainfo: Final = 26
XENMEM_acquire_resource: Final = 28

XENMAPSPACE_shared_info: Final = 0
XENMAPSPACE_grant_table: Final = 1
XENMAPSPACE_gmfn: Final = 2
XENMAPSPACE_gmfn_range: Final = 3
XENMAPSPACE_gmfn_foreign: Final = 4
XENMAPSPACE_dev_mmio: Final = 5

XENMEMF_populate_on_demand: Final = 1 << 16
XENMEMF_exact_node_request: Final = 1 << 17
XENMEMF_vnode: Final = 1 << 18

XENMEM_resource_ioreq_server: Final = 0
XENMEM_resource_grant_table: Final = 1
XENMEM_resource_vmtrace_buf: Final = 2

MAX_ORDER: Final = 18
DOMU_MAX_ORDER: Final = 9
PTDOM_MAX_ORDER: Final = 10
HWDOM_MAX_ORDER: Final = 10
CTLDOM_MAX_ORDER: Final = 18

MEMORY_RESERVATION: Final = Struct("<QQIIHxxxxxx")     # extent_start nr_extents order mem_flags domid (32 bytes)
MEMORY_EXCHANGE: Final = Struct("<QQIIHxxxxxxQQIIHxxxxxxQ")
MEMORY_DOMAIN: Final = Struct("<H")
ADD_TO_PHYSMAP: Final = Struct("<HHIQQ")               # domid size space idx gpfn
ADD_TO_PHYSMAP_BATCH: Final = Struct("<HHHHQQQ")       # domid space size foreign_domid/res0 idxs gpfns errs
REMOVE_FROM_PHYSMAP: Final = Struct("<HxxxxxxQ")       # domid gpfn
ACQUIRE_RESOURCE: Final = Struct("<HHIIIQQ")           # domid type id nr_frames pad frame frame_list
RESERVED_DEVICE_MEMORY_MAP: Final = Struct("<IIQHBBxxxx")
VNUMA_TOPOLOGY_INFO: Final = Struct("<HHIIIQQQ")
U64: Final = Struct("<Q")
S32: Final = Struct("<i")

# ---- p2m types (xen/arch/arm/include/asm/p2m.h) ---------------------------------------------------------------
p2m_invalid: Final = 0
p2m_ram_rw: Final = 1
p2m_ram_ro: Final = 2
p2m_mmio_direct_dev: Final = 3
p2m_mmio_direct_nc: Final = 4
p2m_mmio_direct_c: Final = 5
p2m_map_foreign_rw: Final = 6
p2m_map_foreign_ro: Final = 7
p2m_grant_map_rw: Final = 8
p2m_grant_map_ro: Final = 9
p2m_iommu_map_rw: Final = 10
p2m_iommu_map_ro: Final = 11

# one bit a type, tested as RAM >> type & 1
P2M_RAM: Final = 1 << p2m_ram_rw | 1 << p2m_ram_ro
P2M_FOREIGN: Final = 1 << p2m_map_foreign_rw | 1 << p2m_map_foreign_ro
P2M_GRANT: Final = 1 << p2m_grant_map_rw | 1 << p2m_grant_map_ro
P2M_ANY_RAM: Final = P2M_RAM | P2M_FOREIGN | P2M_GRANT

# ---- domctl ---------------------------------------------------------------------------------------------------
DOMCTL_INTERFACE_VERSION: Final = 0x15
DOMCTL_SIZE: Final = 144
DOMCTL_HEADER: Final = Struct("<IIHxxxxxx")            # cmd interface_version domain


def is_ram(p2m_type: int) -> bool:
    """The type is ram_rw or ram_ro."""
    return bool(P2M_RAM >> p2m_type & 1)


def is_foreign(p2m_type: int) -> bool:
    """The type is a mapping of another domain's page that holds a reference."""
    return bool(P2M_FOREIGN >> p2m_type & 1)


def is_any_ram(p2m_type: int) -> bool:
    """The type is RAM, a foreign map or a grant map."""
    return bool(P2M_ANY_RAM >> p2m_type & 1)


def signed64(value: int) -> int:
    """A 64-bit register read as signed."""
    value &= MASK64
    return value - (1 << 64) if value >> 63 else value
