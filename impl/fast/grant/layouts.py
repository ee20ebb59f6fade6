"""The ABI of grant tables: flags, status codes, and the argument structs, the same on arm32 and arm64.

Source: xen/include/public/grant_table.h at 4.17.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

# ---- sub-operations of grant_table_op -------------------------------------------------------------------------
GNTTABOP_map_grant_ref: Final = 0
GNTTABOP_unmap_grant_ref: Final = 1
GNTTABOP_setup_table: Final = 2
GNTTABOP_dump_table: Final = 3
GNTTABOP_transfer: Final = 4
GNTTABOP_copy: Final = 5
GNTTABOP_query_size: Final = 6
GNTTABOP_unmap_and_replace: Final = 7
GNTTABOP_set_version: Final = 8
GNTTABOP_get_status_frames: Final = 9
GNTTABOP_get_version: Final = 10
GNTTABOP_swap_grant_ref: Final = 11
GNTTABOP_cache_flush: Final = 12

CONTINUATION_ARG_SHIFT: Final = 12
CMD_MASK: Final = (1 << CONTINUATION_ARG_SHIFT) - 1

# ---- status codes ---------------------------------------------------------------------------------------------
GNTST_okay: Final = 0
GNTST_general_error: Final = -1
GNTST_bad_domain: Final = -2
GNTST_bad_gntref: Final = -3
GNTST_bad_handle: Final = -4
GNTST_bad_virt_addr: Final = -5
GNTST_bad_dev_addr: Final = -6
GNTST_no_device_space: Final = -7
GNTST_permission_denied: Final = -8
GNTST_bad_page: Final = -9
GNTST_bad_copy_arg: Final = -10
GNTST_address_too_big: Final = -11
GNTST_eagain: Final = -12
GNTST_no_space: Final = -13

# ---- flags of a shared entry ------------------------------------------------------------------------------------
GTF_type_mask: Final = 3
GTF_invalid: Final = 0
GTF_permit_access: Final = 1
GTF_accept_transfer: Final = 2
GTF_transitive: Final = 3
GTF_readonly: Final = 1 << 2
GTF_reading: Final = 1 << 3
GTF_writing: Final = 1 << 4
GTF_sub_page: Final = 1 << 8

# ---- flags of arguments -----------------------------------------------------------------------------------------
GNTMAP_device_map: Final = 1 << 0
GNTMAP_host_map: Final = 1 << 1
GNTMAP_readonly: Final = 1 << 2
GNTMAP_application_map: Final = 1 << 3
GNTMAP_contains_pte: Final = 1 << 4
GNTCOPY_source_gref: Final = 1 << 0
GNTCOPY_dest_gref: Final = 1 << 1
GNTTAB_CACHE_CLEAN: Final = 1 << 0
GNTTAB_CACHE_INVAL: Final = 1 << 1
GNTTAB_CACHE_SOURCE_GREF: Final = 1 << 31

# ---- sizes ------------------------------------------------------------------------------------------------------
INITIAL_NR_GRANT_FRAMES: Final = 1
RESERVED_ENTRIES: Final = 8             # kept across a change of version: console, xenstore, ...
V1_PER_FRAME: Final = 512
V2_PER_FRAME: Final = 256
STATUS_PER_FRAME: Final = 2048
MAPTRACK_PER_FRAME: Final = 256
UNMAP_BATCH: Final = 32
XENMAPIDX_grant_table_status: Final = 1 << 31
RESOURCE_SHARED: Final = 0
RESOURCE_STATUS: Final = 1

# ---- argument structs -------------------------------------------------------------------------------------------
MAP: Final = Struct("<QIIHhIQ")             # host_addr flags ref dom status handle dev_bus_addr (32 bytes)
UNMAP: Final = Struct("<QQIhxx")            # host_addr, dev_bus_addr or new_addr, handle status (24 bytes)
SETUP: Final = Struct("<HxxIhxxxxxxQ")      # dom nr_frames status frame_list (24 bytes)
COPY: Final = Struct("<QHHxxxxQHHxxxxHHhxx")   # source u domid offset, dest u domid offset, len flags status (40 bytes)
QUERY: Final = Struct("<HxxIIhxx")          # dom nr_frames max_nr_frames status (16 bytes)
SET_VERSION: Final = Struct("<I")           # version (4 bytes)
STATUS_FRAMES: Final = Struct("<IHhQ")      # nr_frames dom status frame_list (16 bytes)
GET_VERSION: Final = Struct("<HxxI")        # dom version (8 bytes)
SWAP: Final = Struct("<IIhxx")              # ref_a ref_b status (12 bytes)
CACHE_FLUSH: Final = Struct("<QHHI")        # dev_bus_addr offset length op (16 bytes)

STATUS: Final = Struct("<h")
U64: Final = Struct("<Q")
U32: Final = Struct("<I")

# where the field stands that Xen writes back alone
MAP_STATUS_OFFSET: Final = 18
UNMAP_STATUS_OFFSET: Final = 20
SETUP_STATUS_OFFSET: Final = 8
COPY_STATUS_OFFSET: Final = 36
QUERY_STATUS_OFFSET: Final = 12
STATUS_FRAMES_STATUS_OFFSET: Final = 6
GET_VERSION_VERSION_OFFSET: Final = 4
SWAP_STATUS_OFFSET: Final = 8


def grant_to_status_frames(grant_frames: int) -> int:
    """Status frames that the entries of so many grant frames of version 2 need."""
    return (grant_frames * V2_PER_FRAME + STATUS_PER_FRAME - 1) // STATUS_PER_FRAME


def status_to_grant_frames(status_frames: int) -> int:
    """Grant frames of version 2 that so many status frames serve."""
    return (status_frames * STATUS_PER_FRAME + V2_PER_FRAME - 1) // V2_PER_FRAME
