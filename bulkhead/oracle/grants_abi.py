"""grant_table_op as guests call it: numbers, argument structs and where Xen writes its answers.

The structs have one layout on arm32 and arm64: handles and frame numbers take 8 bytes on both.

Source: xen/include/public/grant_table.h, Xen 4.17.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

MAP_GRANT_REF: Final = 0
UNMAP_GRANT_REF: Final = 1
SETUP_TABLE: Final = 2
DUMP_TABLE: Final = 3
TRANSFER: Final = 4
COPY: Final = 5
QUERY_SIZE: Final = 6
UNMAP_AND_REPLACE: Final = 7
SET_VERSION: Final = 8
GET_STATUS_FRAMES: Final = 9
GET_VERSION: Final = 10
SWAP_GRANT_REF: Final = 11
CACHE_FLUSH: Final = 12

COMMAND: Final = (1 << 12) - 1
"""The bits of the first argument that name the operation; those above are the cursor of a continued cache_flush."""
UNMAP_BATCH: Final = 32
"""Mappings that are taken back between two flushes of the TLB."""
SOURCE_IS_GRANT: Final = 1
DESTINATION_IS_GRANT: Final = 2

# host_addr, flags, ref, dom, status, handle, dev_bus_addr
MAP_ITEM: Final = Struct("<QIIHhIQ")
# host_addr, dev_bus_addr or new_addr, handle, status
UNMAP_ITEM: Final = Struct("<QQIhxx")
# dom, nr_frames, status, frame_list
SETUP: Final = Struct("<HxxIhxxxxxxQ")
# source: reference or frame, domid, offset; destination: the same; len, flags, status
COPY_ITEM: Final = Struct("<QHHxxxxQHHxxxxHHhxx")
# dom, nr_frames, max_nr_frames, status; the padding goes back as it came
QUERY: Final = Struct("<H2sIIh2s")
# nr_frames, dom, status, frame_list
STATUS_LIST: Final = Struct("<IHhQ")
# dom, version
VERSION_OF: Final = Struct("<HxxI")
# ref_a, ref_b, status
SWAP_ITEM: Final = Struct("<IIhxx")
# dev_bus_addr, offset, length, op
FLUSH_ITEM: Final = Struct("<QHHI")

STATUS: Final = Struct("<h")
NUMBER: Final = Struct("<I")
FRAME: Final = Struct("<Q")

# offset of the field that Xen writes back, in bytes of the struct
UNMAP_STATUS: Final = 20
SETUP_STATUS: Final = 8
COPY_STATUS: Final = 36
STATUS_LIST_STATUS: Final = 6
VERSION_OF_VERSION: Final = 4
SWAP_STATUS: Final = 8
