"""The whole machine: one table per noun.

A row of a *ghost* table, or a ghost field (said so beside it), exists for the proof: no
implementation has it and no transition's answer depends on it.
"""

from __future__ import annotations

import enum

from spec.language import (
    DomId,
    Gfn,
    GrantRef,
    Handle,
    Index,
    Mfn,
    Table,
    VcpuId,
    Word,
    record,
    table,
)
from spec.language.values import U8, U16, U32, U64

NOBODY = DomId(0x7FFF)
"""No domain: the owner of frames that nobody owns, the actor of steps that Xen or hardware takes."""

DOMID_SELF = DomId(0x7FF0)
DOMID_IO = DomId(0x7FF1)
DOMID_XEN = DomId(0x7FF2)
FIRST_RESERVED = DomId(0x7FF0)
"""Domain ids from here up are not domains."""


class Status(enum.IntEnum):
    """Life cycle of a domain."""

    ABSENT = 0
    ALIVE = 1
    DYING = 2
    """Marked for destruction; its resources are being taken back, step by step."""
    DEAD = 3
    """Everything that can be taken back is; it lingers while others hold its pages."""
    BUILDING = 4
    """Being built, in no list yet: nobody can look it up."""
    UNLISTED = 5
    """Taken out of the list of domains: what Xen itself has of it is given back, step by step."""


class Stage(enum.IntEnum):
    """How far the destruction of a domain has come; each stage may be left and resumed."""

    GRANTS = 0
    """Its grant mappings are released."""
    SHARED = 1
    """Frames that Xen shares with it lose the reference of their allocation."""
    PAGES = 2
    """So do its pages."""
    MAPPINGS = 3
    """Its stage-2 mappings are cleared, from the lowest guest frame to the highest."""
    TABLES = 4
    """Its stage-2 tables are cleared and go back to its pool."""
    POOL = 5
    """Its pool goes back to the heap."""


class Use(enum.IntEnum):
    """What a machine frame is used for."""

    NO_RAM = 0
    FREE = 1
    XEN = 2
    """Xen's own: text, heap, frame table, maptrack."""
    TABLE = 3
    """A page of stage-2 tables, in use or in a domain's p2m pool."""
    DOMAIN = 4
    """Assigned to a domain (domheap)."""
    SHARED = 5
    """Xen's own but shared with one domain: shared_info, grant and status frames (xenheap)."""


class P2mType(enum.IntEnum):
    """Type of a stage-2 mapping (four software bits of the leaf)."""

    INVALID = 0
    RAM_RW = 1
    RAM_RO = 2
    MMIO_DIRECT_DEV = 3
    MMIO_DIRECT_NC = 4
    MMIO_DIRECT_C = 5
    MAP_FOREIGN_RW = 6
    MAP_FOREIGN_RO = 7
    GRANT_MAP_RW = 8
    GRANT_MAP_RO = 9
    IOMMU_MAP_RW = 10
    IOMMU_MAP_RO = 11


@record
class Settings:
    """The configuration: symbolic in proofs, a parameter in tests.

    reference_limit: a frame's reference count is never raised to this value
    (2**(W - 10) with W = 64 on arm64, 32 on arm32: one more than its field holds).
    root_pages: number of guest frames that the root table covers; a gfn beyond is refused.
    """

    arm32: bool = False
    silo: bool = False
    reference_limit: int = 0
    root_pages: int = 0
    scrub_domheap: bool = False
    max_grant_version: U8 = U8(0)
    grant_frames_limit: U32 = U32(0)
    maptrack_frames_limit: U32 = U32(0)
    max_page: Mfn = Mfn(0)
    dom0_max_grant_frames: U32 = U32(0)
    transitive_grants: bool = True
    root_level: U8 = U8(1)
    """Level of the root table, 0 or 1."""
    physical_pages: int = 0
    """Frames that physical addresses can name."""
    iommu: bool = False
    """The host has an IOMMU that Xen uses."""
    cache_line: U16 = U16(64)
    """Bytes of the smallest line of a data cache: 16 to 2048, a power of two."""


@record
class Domain:
    """A domain.

    control: privileged (dom0).  hardware: owns the devices that Xen does not.
    device_model: may act for ``target``.  direct_mapped: its gfns are mfns.
    pool_pages, pool_free: pages in its p2m pool, and how many of them are unused.
    highest_gfn, lowest_gfn: of all gfns ever mapped, both inclusive; lowest is all ones before the first.
    """

    status: U8 = U8(0)
    control: bool = False
    hardware: bool = False
    xenstore: bool = False
    device_model: bool = False
    target: DomId = NOBODY
    direct_mapped: bool = False
    passthrough: bool = False
    iommu: bool = False
    created: bool = False
    """Creation is finished: its vCPUs may run."""

    max_pages: U32 = U32(0)
    tot_pages: int = 0
    extra_pages: int = 0
    claimed: int = 0
    xenheap_pages: int = 0
    shared_info: Mfn = Mfn(0)

    highest_gfn: Gfn = Gfn(0)
    lowest_gfn: Gfn = Gfn(0)
    pool_pages: int = 0
    pool_free: int = 0

    grant_version: U8 = U8(0)
    max_grant_version: U8 = U8(0)
    grant_frames: U32 = U32(0)
    max_grant_frames: U32 = U32(0)
    status_frames: U32 = U32(0)
    maptrack_frames: U32 = U32(0)
    max_maptrack_frames: U32 = U32(0)

    stage: U8 = U8(0)
    """How far its destruction has come (``Stage``)."""


@record
class Frame:
    """A machine frame of 4 KiB.

    references: all of them, that of the allocation included.
    extra: assigned without counting in tot_pages.
    mapped, gfn: where it is mapped as RAM: for SHARED frames Xen's own record, else ghost.
    dirty: to be scrubbed before it is handed out.
    unclean: caches hold what was written before the frame was handed out, and RAM does not have it yet.
    pool (ghost): of a page of stage-2 tables, the domain whose pool it is in, or whose root it is.
    root (ghost): it is a page of that domain's root table, which is not part of the pool.
    lost (ghost): references that nobody will drop (DEV-15, see spec/memory/p2m.py insert_page).
    """

    use: U8 = U8(0)
    owner: DomId = NOBODY
    allocated: bool = False
    references: int = 0
    extra: bool = False
    mapped: bool = False
    gfn: Gfn = Gfn(0)
    dirty: bool = False
    unclean: bool = False
    pool: DomId = NOBODY
    root: bool = False
    lost: int = 0


@record
class Contents:
    """Eight bytes of memory.  secret (ghost): they belong to Xen or to a domain that died."""

    raw: Word = Word(0)
    secret: bool = False


@record
class P2mEntry:
    """What a guest frame of a domain is mapped to.

    hardware: the hardware's valid bit; an entry is live when its type is not INVALID.
    handle (ghost): for a grant mapping, the maptrack handle that made it.
    stale (ghost): the grant behind it was released although the mapping stays (DEV-1).
    """

    type: U8 = U8(0)
    mfn: Mfn = Mfn(0)
    hardware: bool = False
    handle: Handle = Handle(0)
    stale: bool = False


@record
class Cached:
    """What a TLB holds of a guest frame's translation: it may, at any moment, whatever the tables say by then."""

    present: bool = False
    mfn: Mfn = Mfn(0)
    writable: bool = False
    executable: bool = False


@record
class Orphan:
    """A mapping that was replaced, with what it held: pending work of an insertion.

    held: a reference to drop.  recorded: the frame, one of Xen's, still says that it is mapped here.
    """

    pending: bool = False
    held: bool = False
    recorded: bool = False
    mfn: Mfn = Mfn(0)


@record
class Permission:
    """Whether a domain may map a machine frame that is not RAM.

    left (ghost): it once might, and was not unmapped when that was taken back (DEV-23).
    """

    allowed: bool = False
    left: bool = False


@record
class Heap:
    """Xen's heap.  free: frames that are free.  claimed: how many of them are promised to domains."""

    free: int = 0
    claimed: int = 0


@record
class Claim:
    """Ghost: one page of a domain's claim: the rows below the domain's ``claimed`` are held."""

    held: bool = False


@record
class Vcpu:
    """A vCPU's cache maintenance.

    traps: Xen watches for its caches being switched on or off.  flush_due: all RAM is to be flushed before it runs on.
    flushed: the flush has come so far, as a guest frame.
    """

    traps: bool = False
    flush_due: bool = False
    flushed: Gfn = Gfn(0)


@record
class Argument:
    """Ghost: the last page that Xen accessed for a caller, to read arguments or write results.

    moment: number of such accesses.  index, value: which word, and what was written if ``wrote``.
    """

    moment: int = 0
    wrote: bool = False
    gfn: Gfn = Gfn(0)
    mfn: Mfn = Mfn(0)
    index: Index = Index(0)


@record
class FrameOf:
    """Which frame holds a page of a grant table or of its status words."""

    present: bool = False
    mfn: Mfn = Mfn(0)


@record
class VersionChange:
    """A grant table's change of version that is under way: Xen holds the lock of the table.

    to: the version that it will have; 0: none is under way.  cleared: frames of entries that are cleared already, from
    the second on.  withdrawn: status frames that the domain has no more, from the first on; they are listed still.
    stopped: the domain was crashed in the middle, the lock is free again and all stays as it is.
    """

    to: U8 = U8(0)
    cleared: U32 = U32(0)
    withdrawn: U32 = U32(0)
    stopped: bool = False


@record
class ActiveGrant:
    """What Xen keeps of a grant in use (pinned): four counters and what was granted.

    start, length: the window in bytes that a copy may touch.
    """

    host_writers: U8 = U8(0)
    host_readers: U8 = U8(0)
    device_writers: U8 = U8(0)
    device_readers: U8 = U8(0)
    domid: DomId = DomId(0)
    mfn: Mfn = Mfn(0)
    start: U16 = U16(0)
    length: U16 = U16(0)
    sub_page: bool = False
    trans_domid: DomId = DomId(0)
    trans_ref: GrantRef = GrantRef(0)


@record
class Consent:
    """Ghost: what the granter's shared entry said when Xen last acted on it.

    sub_page: a part of the page only.
    reading, writing: what Xen last told the granter in that entry.
    """

    permits: bool = False
    writable: bool = False
    domid: DomId = DomId(0)
    gfn: Gfn = Gfn(0)
    sub_page: bool = False
    reading: bool = False
    writing: bool = False


@record
class Mapping:
    """A maptrack entry: one use of a grant by a mapping domain.  Live while host or device is set.

    gfn, mfn (ghost): where and what it maps.
    """

    host: bool = False
    device: bool = False
    readonly: bool = False
    granter: DomId = DomId(0)
    ref: GrantRef = GrantRef(0)
    vcpu: VcpuId = VcpuId(0)
    gfn: Gfn = Gfn(0)
    mfn: Mfn = Mfn(0)


@record
class Release:
    """A grant mapping that was taken out of the p2m and whose pin and reference are still to be dropped.

    Pending work between the two phases of an unmap: one TLB flush lies between them.
    """

    held: bool = False
    readonly: bool = False
    granter: DomId = DomId(0)
    ref: GrantRef = GrantRef(0)
    mfn: Mfn = Mfn(0)


@record
class CopySide:
    """Source or destination of a grant copy under way: Xen keeps it from one item of the call to the next.

    known: the domain was looked up.  domid: as the caller wrote it; domain: which one it is.
    holding: it has a reference on ``page``.  claimed: ``length`` bytes may be copied at ``mfn``, from ``start`` on.
    key: the frame number it was claimed for; the lowest 32 bits are the reference if it was claimed for a grant.
    granted: it has a pin on grant ``ref`` of ``domain``.  nested: on grant ``trans_ref`` of ``trans_domid``.
    asking: the transitive grant ``ref`` was marked, and the grant behind it is being acquired; ``old_writers``,
    ``old_readers`` are the pins that it had then.
    """

    known: bool = False
    domid: DomId = DomId(0)
    domain: DomId = DomId(0)
    holding: bool = False
    page: Mfn = Mfn(0)
    claimed: bool = False
    key: U64 = U64(0)
    mfn: Mfn = Mfn(0)
    start: U16 = U16(0)
    length: U16 = U16(0)
    granted: bool = False
    ref: GrantRef = GrantRef(0)
    nested: bool = False
    trans_domid: DomId = DomId(0)
    trans_ref: GrantRef = GrantRef(0)
    asking: bool = False
    old_writers: U8 = U8(0)
    old_readers: U8 = U8(0)


@record
class Copied:
    """Ghost: what the last copy of a vCPU has read and written.

    moment: number of such copies.  source, destination: first bytes, within the pages; length: in bytes.
    """

    moment: int = 0
    source: U16 = U16(0)
    destination: U16 = U16(0)
    length: U16 = U16(0)


@record
class DeviceUse:
    """How many grant mappings of a frame a direct-mapped domain with an IOMMU has: its devices reach it one to one."""

    readers: int = 0
    writers: int = 0


@record
class Deviated:
    """Ghost: which deviations that spoil more than one row have happened since boot."""

    dev2: bool = False
    dev3: bool = False
    dev10: bool = False
    dev11: bool = False
    dev12: bool = False
    dev13: bool = False
    dev14: bool = False
    dev21: bool = False
    dev22: bool = False
    dev31: bool = False
    dev32: bool = False
    dev33: bool = False
    dev34: bool = False
    dev35: bool = False
    dev37: bool = False


@record
class State:
    """The machine."""

    settings: Table[Index, Settings] = table(Settings, Index)
    domain: Table[DomId, Domain] = table(Domain, DomId)
    frame: Table[Mfn, Frame] = table(Frame, Mfn)
    word: Table[tuple[Mfn, Index], Contents] = table(Contents, Mfn, Index, guest_writable=True)
    p2m: Table[tuple[DomId, Gfn], P2mEntry] = table(P2mEntry, DomId, Gfn)
    tlb: Table[tuple[DomId, Gfn], Cached] = table(Cached, DomId, Gfn)
    orphan: Table[tuple[DomId, Gfn], Orphan] = table(Orphan, DomId, Gfn)
    iomem: Table[tuple[DomId, Mfn], Permission] = table(Permission, DomId, Mfn)
    heap: Table[Index, Heap] = table(Heap, Index)
    claim: Table[tuple[DomId, int], Claim] = table(Claim, DomId, int, ghost=True)
    vcpu: Table[tuple[DomId, VcpuId], Vcpu] = table(Vcpu, DomId, VcpuId)
    argument: Table[DomId, Argument] = table(Argument, DomId, ghost=True)
    grant_frame: Table[tuple[DomId, int], FrameOf] = table(FrameOf, DomId, int)
    status_frame: Table[tuple[DomId, int], FrameOf] = table(FrameOf, DomId, int)
    version_change: Table[DomId, VersionChange] = table(VersionChange, DomId)
    active_grant: Table[tuple[DomId, GrantRef], ActiveGrant] = table(ActiveGrant, DomId, GrantRef)
    consent: Table[tuple[DomId, GrantRef], Consent] = table(Consent, DomId, GrantRef, ghost=True)
    mapping: Table[tuple[DomId, Handle], Mapping] = table(Mapping, DomId, Handle)
    release: Table[tuple[DomId, Handle], Release] = table(Release, DomId, Handle)
    copied: Table[tuple[DomId, VcpuId], Copied] = table(Copied, DomId, VcpuId, ghost=True)
    copy_side: Table[tuple[DomId, VcpuId, Index], CopySide] = table(CopySide, DomId, VcpuId, Index)
    device_use: Table[tuple[DomId, Mfn], DeviceUse] = table(DeviceUse, DomId, Mfn)
    deviation: Table[Index, Deviated] = table(Deviated, Index, ghost=True)
