"""Hypercall numbers, operations and structs of Xen 4.17's public interface, as the specification's machine reads them.

One layout on arm64 and arm32: handles, frame numbers and unsigned longs of the interface have 64 bits.
Source: xen/include/public (memory.h, domctl.h, arch-arm.h), Xen 4.17.
"""

from __future__ import annotations

from struct import Struct

MEMORY_OP, GRANT_TABLE_OP, DOMCTL = 12, 20, 36
PRESENT = frozenset({7, 12, 13, 17, 18, 20, 21, 24, 29, 32, 33, 34, 35, 36, 42})
"""Hypercalls that Xen on Arm has; of these three are modelled."""

DOMID_INVALID = 0x7FF4
OPERATION_BITS = 6
"""Bits of memory_op's command that name the operation; those above count the extents that are done."""
MOST_EXTENTS = (1 << 32) - 1 >> OPERATION_BITS

INCREASE_RESERVATION, DECREASE_RESERVATION, MAXIMUM_RAM_PAGE = 0, 1, 2
CURRENT_RESERVATION, MAXIMUM_RESERVATION, POPULATE_PHYSMAP, ADD_TO_PHYSMAP = 3, 4, 6, 7
EXCHANGE, MAXIMUM_GPFN, REMOVE_FROM_PHYSMAP = 11, 14, 15
SHARING_FREED, SHARING_SHARED = 18, 19
ADD_TO_PHYSMAP_BATCH, CLAIM_PAGES, GET_VNUMAINFO = 23, 24, 26
RESERVED_DEVICE_MEMORY_MAP, ACQUIRE_RESOURCE = 27, 28

ADDRESS_BITS = 0xFF
POPULATE_ON_DEMAND, EXACT_NODE, VNODE = 1 << 16, 1 << 17, 1 << 18

RESERVATION = Struct("<QQIIHxxxxxx")
"""extent_start, nr_extents, extent_order, mem_flags, domid."""
MEMORY_EXCHANGE = Struct("<QQIIHxxxxxxQQIIHxxxxxxQ")
"""Two reservations, nr_exchanged."""
PHYSMAP = Struct("<HHIQQ")
"""domid, size, space, idx, gpfn."""
PHYSMAP_BATCH = Struct("<HHHHQQQ")
"""domid, space, size, foreign domid, idxs, gpfns, errs."""
REMOVE_PHYSMAP = Struct("<HxxxxxxQ")
"""domid, gpfn."""
RESOURCE = Struct("<HHIIIQQ")
"""domid, type, id, nr_frames, pad, frame, frame_list."""
VNUMA = Struct("<HHIIIQQQ")
"""domid, pad, and what is never looked at."""
RESERVED_DEVICE = Struct("<IIQHBBxxxx")
"""flags, nr_entries, buffer, and the device."""

DOMCTL_VERSION = 0x15
DOMCTL_SIZE = 144
DOMCTL_HEADER = Struct("<IIHxxxxxx")
"""cmd, interface_version, domain."""
DOMCTL_UNION = 16
CREATE = Struct("<I16sIIIiiiIIIBxHII")
"""ssidref handle flags iommu_opts max_vcpus max_evtchn_port max_grant_frames max_maptrack_frames grant_opts
vmtrace_size cpupool_id; gic_version tee_type nr_spis clock_frequency."""
DOMAIN_INFO = Struct("<HHIQQQQQQQIII16sIB7xBxHII4x")
