"""What nobody can break about grants.

One-state properties tie the five places together in which a grant leaves a trace: the granter's
consent, Xen's active entry, the mapper's maptrack entry, the work still pending after an unmap, and
the mapper's stage-2 row.  Two-state properties say who may change them, and how.

A stage-2 row marked ``stale`` is what DEV-1 leaves behind; of it nothing is claimed.
"""

from __future__ import annotations

from spec.domain.privilege import exists
from spec.grant.access import LARGEST_COUNT, is_pinned, is_written
from spec.grant.device import has_direct_devices, most_uses
from spec.grant.entries import FRAME_LENGTH, PERMIT_ACCESS, EntryV1, entry_count, place_v1, told
from spec.language import (
    Boolean,
    DomId,
    Gfn,
    GrantRef,
    Handle,
    Index,
    Mfn,
    VcpuId,
    both,
    corollary,
    count,
    decode,
    either,
    implies,
    invariant,
    ite,
    neg,
    one_of,
    two_state,
)
from spec.memory.p2m import is_any_ram
from spec.memory.width import machine_word
from spec.state import DOMID_SELF, ActiveGrant, CopySide, Mapping, P2mEntry, P2mType, Release, State, Status, Use

SOURCE = Index(0)
"""The side of a copy that is read; the other is written."""

MAPTRACK_ENTRIES = 256
"""Maptrack entries in a frame."""
REFERENCES = 1 << 32
"""Grant references are 32 bits wide; frame numbers are 64."""


# ---- what is counted


def is_live(row: Mapping) -> Boolean:
    """The maptrack entry stands for a mapping."""
    return either(row.host, row.device)


def maps_to_write(row: Mapping, _domain: DomId, _handle: Handle, granter: DomId, ref: GrantRef) -> Boolean:
    """A writable mapping of the grant."""
    return both(row.host, neg(row.readonly), row.granter == granter, row.ref == ref)


def maps_to_read(row: Mapping, _domain: DomId, _handle: Handle, granter: DomId, ref: GrantRef) -> Boolean:
    """A read-only mapping of the grant."""
    return both(row.host, row.readonly, row.granter == granter, row.ref == ref)


def releases_writer(row: Release, _domain: DomId, _slot: Handle, granter: DomId, ref: GrantRef) -> Boolean:
    """A writable mapping of the grant whose pin is still to be dropped."""
    return both(row.held, neg(row.readonly), row.granter == granter, row.ref == ref)


def releases_reader(row: Release, _domain: DomId, _slot: Handle, granter: DomId, ref: GrantRef) -> Boolean:
    """A read-only mapping of the grant whose pin is still to be dropped."""
    return both(row.held, row.readonly, row.granter == granter, row.ref == ref)


def copies_to_write(
    row: CopySide, _domain: DomId, _vcpu: VcpuId, side: Index, granter: DomId, ref: GrantRef
) -> Boolean:
    """The destination of a copy, claimed through the grant."""
    return both(row.granted, neg(side == SOURCE), row.domain == granter, row.ref == ref)


def copies_to_read(row: CopySide, _domain: DomId, _vcpu: VcpuId, side: Index, granter: DomId, ref: GrantRef) -> Boolean:
    """The source of a copy, claimed through the grant."""
    return both(row.granted, side == SOURCE, row.domain == granter, row.ref == ref)


def passes_to_write(
    row: CopySide, _domain: DomId, _vcpu: VcpuId, side: Index, granter: DomId, ref: GrantRef
) -> Boolean:
    """The destination of a copy, claimed through a transitive grant of which this one is behind."""
    return both(row.nested, neg(side == SOURCE), row.trans_domid == granter, row.trans_ref == ref)


def passes_to_read(row: CopySide, _domain: DomId, _vcpu: VcpuId, side: Index, granter: DomId, ref: GrantRef) -> Boolean:
    """The source of a copy, claimed through a transitive grant of which this one is behind."""
    return both(row.nested, side == SOURCE, row.trans_domid == granter, row.trans_ref == ref)


def asks_for(row: CopySide, _domain: DomId, _vcpu: VcpuId, _side: Index, granter: DomId, ref: GrantRef) -> Boolean:
    """A transitive grant that is being claimed: marked, and not pinned yet."""
    return both(row.asking, row.domain == granter, row.ref == ref)


def asks_to_write(row: CopySide, _domain: DomId, _vcpu: VcpuId, side: Index, granter: DomId, ref: GrantRef) -> Boolean:
    """A transitive grant that is being claimed to be written."""
    return both(row.asking, neg(side == SOURCE), row.domain == granter, row.ref == ref)


def holds_page(row: CopySide, _domain: DomId, _vcpu: VcpuId, _side: Index, mfn: Mfn) -> Boolean:
    """A side of a copy that has a reference on the frame."""
    return both(row.holding, row.page == mfn)


def is_live_of(row: Mapping, domain: DomId, _handle: Handle, mapper: DomId) -> Boolean:
    """A mapping by this domain."""
    return both(is_live(row), domain == mapper)


def is_grant_row(row: P2mEntry) -> Boolean:
    """A stage-2 row made by mapping a grant, and not left behind by DEV-1."""
    return both(one_of(row.type, P2mType.GRANT_MAP_RW, P2mType.GRANT_MAP_RO), neg(row.stale))


# ---- the active entry


@invariant("INV-GNT-WRITERS", over="active_grant", fulfils=("SR-GNT-4", "SR-MEM-21"), catches=("XSA-224d",),
           assertion="xen/common/grant_table.c (unmap_common_complete): pin of the released kind is not zero")
def writers_are_counted(s: State, granter: DomId, ref: GrantRef) -> bool:
    """A grant's write pins are the writable uses of it that exist, those about to be released included."""
    active = s.active_grant[granter, ref]
    return active.host_writers == (
        count(s.mapping, maps_to_write, granter, ref) + count(s.release, releases_writer, granter, ref)
        + count(s.copy_side, copies_to_write, granter, ref) + count(s.copy_side, passes_to_write, granter, ref)
    )


@invariant("INV-GNT-READERS", over="active_grant", fulfils=("SR-GNT-4", "SR-MEM-21"), catches=("XSA-224d",),
           assertion="xen/common/grant_table.c (unmap_common_complete): pin of the released kind is not zero")
def readers_are_counted(s: State, granter: DomId, ref: GrantRef) -> bool:
    """A grant's read pins are the read-only uses of it that exist, those about to be released included."""
    active = s.active_grant[granter, ref]
    return active.host_readers == (
        count(s.mapping, maps_to_read, granter, ref) + count(s.release, releases_reader, granter, ref)
        + count(s.copy_side, copies_to_read, granter, ref) + count(s.copy_side, passes_to_read, granter, ref)
    )


@invariant("INV-GNT-NO-DEVICE-PINS", over="active_grant", fulfils="SR-GNT-4")
def no_device_pins(s: State, granter: DomId, ref: GrantRef) -> bool:
    """No grant is pinned by a device mapping: on Arm there are none."""
    active = s.active_grant[granter, ref]
    return both(active.device_writers == 0, active.device_readers == 0)


@invariant("INV-GNT-LIMIT", over="active_grant", fulfils="SR-GNT-5")
def pins_are_bounded(s: State, granter: DomId, ref: GrantRef) -> bool:
    """No pin counter passes 128, so none can overflow into its neighbour."""
    active = s.active_grant[granter, ref]
    return both(active.host_writers <= LARGEST_COUNT, active.host_readers <= LARGEST_COUNT)


@invariant("INV-GNT-CONSENT", over="active_grant", fulfils="SR-GNT-1")
def pins_have_consent(s: State, granter: DomId, ref: GrantRef) -> bool:
    """A grant is in use only by the domain that its granter named, and for writing only if it said so."""
    active, consent = s.active_grant[granter, ref], s.consent[granter, ref]
    return both(
        implies(is_pinned(active), both(consent.permits, consent.domid == active.domid)),
        implies(is_written(active), consent.writable),
    )


@invariant("INV-GNT-TOLD", over="active_grant", fulfils="SR-GNT-3", catches=("XSA-218a",))
def granter_is_told(s: State, granter: DomId, ref: GrantRef) -> bool:
    """As long as its page is read or written, the granter has been told so; and not long after."""
    active, consent = s.active_grant[granter, ref], s.consent[granter, ref]
    asked = count(s.copy_side, asks_for, granter, ref) > 0
    asked_to_write = count(s.copy_side, asks_to_write, granter, ref) > 0
    return both(
        implies(is_pinned(active), consent.reading), implies(is_written(active), consent.writing),
        implies(consent.reading, either(is_pinned(active), asked)),
        implies(consent.writing, either(is_written(active), asked_to_write)),
    )


@invariant("INV-GNT-CONSENT-ENDS", over="active_grant", fulfils="SR-GNT-1")
def consent_ends_with_use(s: State, granter: DomId, ref: GrantRef) -> bool:
    """What the granter once permitted counts for nothing when the grant is not in use."""
    consent = s.consent[granter, ref]
    idle = both(neg(is_pinned(s.active_grant[granter, ref])), count(s.copy_side, asks_for, granter, ref) == 0)
    return implies(idle, both(neg(consent.permits), neg(consent.writable)))


@invariant("INV-GNT-BOUND", over="active_grant", fulfils="SR-GNT-4")
def pins_are_inside_the_table(s: State, granter: DomId, ref: GrantRef) -> bool:
    """A grant in use has an entry in its granter's table."""
    active = s.active_grant[granter, ref]
    return implies(is_pinned(active), ref < entry_count(s, granter))


@invariant("INV-GNT-OWNED", over="active_grant", fulfils=("SR-GNT-1", "SR-GNT-2", "SR-GNT-9", "SR-GNT-15"))
def pinned_frames_belong_to_the_granter(s: State, granter: DomId, ref: GrantRef) -> bool:
    """A frame in use through a grant is the granter's, or of the domain behind a transitive one; it was not freed."""
    active = s.active_grant[granter, ref]
    frame = s.frame[active.mfn]
    return implies(
        is_pinned(active),
        both(
            frame.owner == active.trans_domid, one_of(frame.use, Use.DOMAIN, Use.SHARED),
            either(active.sub_page, both(active.trans_domid == granter, active.trans_ref == ref)),
        ),
    )


@invariant("INV-GNT-WINDOW", over="active_grant", fulfils=("SR-GNT-1", "SR-GNT-11"))
def whole_pages_have_no_window(s: State, granter: DomId, ref: GrantRef) -> bool:
    """A grant in use that is not a sub-page grant covers its whole page, and was granted so. The start of a window has
    15 bits.
    """
    active = s.active_grant[granter, ref]
    return both(
        implies(is_pinned(active), active.start < 1 << 15),
        implies(both(is_pinned(active), neg(active.sub_page)), neg(s.consent[granter, ref].sub_page)),
        implies(
            both(is_pinned(active), neg(active.sub_page)), both(active.start == 0, active.length == FRAME_LENGTH)
        ),
    )


# ---- the mapping


@invariant("INV-GNT-MAPPING", over="mapping", fulfils=("SR-GNT-1", "SR-GNT-2"))
def mappings_are_of_active_grants(s: State, domain: DomId, handle: Handle) -> bool:
    """A mapping is of a whole page of a grant in use by this very domain, and of the frame on record there, which is
    the granter's.
    """
    row = s.mapping[domain, handle]
    active = s.active_grant[row.granter, row.ref]
    frame = s.frame[row.mfn]
    return implies(
        is_live(row),
        both(
            is_pinned(active), active.domid == domain, active.mfn == row.mfn,
            one_of(frame.use, Use.DOMAIN, Use.SHARED), frame.owner == row.granter,
            neg(active.sub_page), active.start == 0, active.length == FRAME_LENGTH,
        ),
    )


@invariant("INV-GNT-RELEASE", over="release", fulfils=("SR-GNT-4", "SR-GNT-7"))
def releases_are_of_active_grants(s: State, domain: DomId, slot: Handle) -> bool:
    """A mapping about to be released is of a grant still in use by this domain, and of the frame on record there."""
    row = s.release[domain, slot]
    active = s.active_grant[row.granter, row.ref]
    return implies(
        row.held,
        both(is_pinned(active), active.domid == domain, active.mfn == row.mfn),
    )


@invariant("INV-GNT-HANDLE", over="mapping", fulfils="SR-GNT-6")
def handles_are_inside_the_maptrack(s: State, domain: DomId, handle: Handle) -> bool:
    """A live maptrack entry lies in a maptrack frame that the domain has."""
    return implies(is_live(s.mapping[domain, handle]), handle < s.domain[domain].maptrack_frames * MAPTRACK_ENTRIES)


@invariant("INV-GNT-NO-DEVICE-MAPS", over="mapping", fulfils="SR-GNT-6")
def no_device_mappings(s: State, domain: DomId, handle: Handle) -> bool:
    """No maptrack entry stands for a device mapping: on Arm there are none."""
    return neg(s.mapping[domain, handle].device)


@invariant("INV-GNT-PARTIES", over="mapping", fulfils=("SR-GNT-4", "SR-GNT-15", "SR-MEM-21"),
           assertion="xen/common/grant_table.c (unmap_common): the granter of a mapping can be looked up")
def parties_exist(s: State, domain: DomId, handle: Handle) -> bool:
    """While a mapping lives its mapper is alive or being destroyed, and its granter is still known."""
    row = s.mapping[domain, handle]
    return implies(
        is_live(row),
        both(one_of(s.domain[domain].status, Status.ALIVE, Status.DYING), exists(s, row.granter)),
    )


@invariant("INV-GNT-MAPTRACK", over="domain", fulfils="SR-GNT-6")
def maptrack_is_bounded(s: State, domain: DomId) -> bool:
    """A domain's maptrack never passes its limit."""
    return s.domain[domain].maptrack_frames <= s.domain[domain].max_maptrack_frames


# ---- stage 2


@invariant("INV-GNT-ROW", over="p2m", fulfils=("SR-GNT-1", "SR-GNT-2", "SR-GNT-7", "SR-GNT-8"), except_for=("DEV-1",),
           catches=("XSA-224b", "XSA-222a"))
def grant_rows_have_a_mapping(s: State, domain: DomId, gfn: Gfn) -> bool:
    """What a running domain reaches by a grant is a mapping on record there, of that frame, with no more rights."""
    row = s.p2m[domain, gfn]
    mapping = s.mapping[domain, row.handle]
    return implies(
        both(is_grant_row(row), s.domain[domain].status == Status.ALIVE),
        both(
            mapping.host, mapping.gfn == gfn, mapping.mfn == row.mfn,
            implies(row.type == P2mType.GRANT_MAP_RW, neg(mapping.readonly)),
        ),
    )


# ---- copies


@invariant("INV-GNT-COPY-OWN", over="copy_side", fulfils="SR-GNT-13", except_for=("DEV-12",))
def copied_pages_are_the_callers(s: State, domain: DomId, vcpu: VcpuId, side: Index) -> bool:
    """A page that a copy claimed without a grant is the caller's own."""
    row = s.copy_side[domain, vcpu, side]
    frame = s.frame[row.mfn]
    return implies(
        both(row.claimed, neg(row.granted)),
        both(frame.owner == domain, one_of(frame.use, Use.DOMAIN, Use.SHARED), row.page == row.mfn),
    )


@invariant("INV-GNT-COPY-GRANTED", over="copy_side", fulfils=("SR-GNT-11", "SR-GNT-13"), except_for=("DEV-11",))
def copied_grants_are_active(s: State, domain: DomId, vcpu: VcpuId, side: Index) -> bool:
    """A page that a copy claimed through a grant is the one on record, in use by this domain, and within the window."""
    row = s.copy_side[domain, vcpu, side]
    active = s.active_grant[row.domain, row.ref]
    return implies(
        row.granted,
        both(
            is_pinned(active), active.domid == domain, active.mfn == row.mfn, active.start == row.start,
            active.length == row.length, row.page == row.mfn,
            either(
                both(row.nested, active.sub_page, active.trans_domid == row.trans_domid,
                     active.trans_ref == row.trans_ref),
                both(neg(row.nested), active.trans_domid == row.domain),
            ),
        ),
    )


@invariant("INV-GNT-COPY-NESTED", over="copy_side", fulfils="SR-GNT-12", except_for=("DEV-11",), catches=("XSA-226a",))
def passed_on_grants_are_active(s: State, domain: DomId, vcpu: VcpuId, side: Index) -> bool:
    """The grant behind a transitive one is in use by the domain that passed it on, and of the same page."""
    row = s.copy_side[domain, vcpu, side]
    active = s.active_grant[row.trans_domid, row.trans_ref]
    return implies(
        row.nested,
        both(is_pinned(active), active.domid == row.domain, active.mfn == row.mfn, row.page == row.mfn,
             active.trans_domid == row.trans_domid),
    )


@invariant("INV-GNT-COPY-SHAPE", over="copy_side", fulfils="SR-GNT-13")
def copy_sides_are_consistent(s: State, domain: DomId, vcpu: VcpuId, side: Index) -> bool:
    """What a side of a copy holds fits together."""
    row = s.copy_side[domain, vcpu, side]
    return both(
        implies(row.claimed, both(row.holding, row.known, neg(row.asking))),
        implies(row.holding, row.start < 1 << 15),
        implies(both(row.nested, row.claimed), row.granted),
        implies(row.asking, ite(side == SOURCE, row.old_readers, row.old_writers) < LARGEST_COUNT),
        implies(row.granted, row.claimed),
        implies(row.nested, row.holding),
        implies(row.holding, either(row.claimed, row.nested)),
        implies(either(row.asking, row.holding), row.known),
        implies(either(row.asking, row.nested), neg(row.trans_domid == row.domain)),
    )


@invariant("INV-GNT-COPY-WINDOW", over="copy_side", fulfils="SR-GNT-13")
def windows_are_those_of_the_grants(s: State, domain: DomId, vcpu: VcpuId, side: Index) -> bool:
    """What of a page a side of a copy may use is what the grant's entry has on record: of a grant that was passed on,
    the entry behind it.
    """
    row = s.copy_side[domain, vcpu, side]
    behind, own = s.active_grant[row.trans_domid, row.trans_ref], s.active_grant[row.domain, row.ref]
    return both(
        implies(row.nested, both(row.start == behind.start, row.length == behind.length)),
        implies(both(row.granted, neg(row.nested)), both(row.start == own.start, row.length == own.length)),
    )


@invariant("INV-GNT-COPY-BOTH", over="copied", fulfils="SR-GNT-13")
def both_domains_are_known(s: State, domain: DomId, vcpu: VcpuId) -> bool:
    """A copy has looked up both domains or none, so none is kept from its end by a copy that is over."""
    return s.copy_side[domain, vcpu, SOURCE].known == s.copy_side[domain, vcpu, Index(1)].known


@invariant("INV-GNT-COPY-WHOLE", over="copy_side", fulfils="SR-GNT-13")
def pages_are_claimed_whole(s: State, domain: DomId, vcpu: VcpuId, side: Index) -> bool:
    """A page that a copy claimed without a grant can be copied from its first byte to its last."""
    row = s.copy_side[domain, vcpu, side]
    return implies(both(row.claimed, neg(row.granted)), both(row.start == 0, row.length == FRAME_LENGTH))


@invariant("INV-GNT-COPY-NAMED", over="copy_side", fulfils=("SR-GNT-11", "SR-GNT-13"))
def copies_use_what_was_named(s: State, domain: DomId, vcpu: VcpuId, side: Index) -> bool:
    """The domain of a side of a copy is the one that the caller named: a later item that names the same is served from
    it, and no other.
    """
    row = s.copy_side[domain, vcpu, side]
    return implies(row.known, row.domain == ite(row.domid == DOMID_SELF, domain, row.domid))


# ---- devices


def _uses_to_read(row: Mapping, domain: DomId, _handle: Handle, mapper: DomId, mfn: Mfn) -> Boolean:
    return both(row.host, row.readonly, domain == mapper, row.mfn == mfn, neg(row.granter == domain))


def _uses_to_write(row: Mapping, domain: DomId, _handle: Handle, mapper: DomId, mfn: Mfn) -> Boolean:
    return both(row.host, neg(row.readonly), domain == mapper, row.mfn == mfn, neg(row.granter == domain))


@invariant("INV-GNT-DEVICE-USES", over="device_use", fulfils=("SR-GNT-4", "SR-MEM-21"), except_for=("DEV-10",),
           assertion="xen/common/grant_table.c (unmap_common): the count of device mappings does not underflow")
def device_uses_are_counted(s: State, domain: DomId, mfn: Mfn) -> bool:
    """For a running domain whose devices use machine addresses, its grant mappings of each frame are counted."""
    use = s.device_use[domain, mfn]
    readers, writers = count(s.mapping, _uses_to_read, domain, mfn), count(s.mapping, _uses_to_write, domain, mfn)
    return implies(
        both(s.domain[domain].status == Status.ALIVE, has_direct_devices(s, domain)),
        both(
            readers == use.readers, writers == use.writers,
        ),
    )


@invariant("INV-GNT-DEVICE-LIMIT", over="device_use", fulfils=("SR-GNT-4", "SR-MEM-21"))
def device_uses_are_bounded(s: State, domain: DomId, mfn: Mfn) -> bool:
    """The counts of grant mappings that devices can reach never pass their limit, so neither wraps."""
    use = s.device_use[domain, mfn]
    return both(use.readers <= most_uses(s), use.writers <= most_uses(s))


@invariant("INV-GNT-DEVICE-USED", over="device_use", fulfils="SR-GNT-4", except_for=("DEV-10",))
def device_uses_have_a_mapping(s: State, domain: DomId, mfn: Mfn) -> bool:
    """What counts as in use by a domain's devices is mapped through a grant, also while the domain is being destroyed:
    nothing is left to a later domain with the same id.
    """
    use = s.device_use[domain, mfn]
    return both(
        use.readers <= count(s.mapping, _uses_to_read, domain, mfn),
        use.writers <= count(s.mapping, _uses_to_write, domain, mfn),
        implies(both(s.domain[domain].status == Status.ALIVE, neg(has_direct_devices(s, domain))),
                use.readers + use.writers == 0),
    )


@invariant("INV-GNT-DEVICE-ROW", over="p2m", fulfils=("SR-GNT-1", "SR-GNT-2"), except_for=("DEV-10",))
def device_rows_have_uses(s: State, domain: DomId, gfn: Gfn) -> bool:
    """What a running domain's devices reach one to one is a frame that it maps through a grant, with no more rights."""
    row = s.p2m[domain, gfn]
    use = s.device_use[domain, row.mfn]
    return implies(
        both(one_of(row.type, P2mType.IOMMU_MAP_RW, P2mType.IOMMU_MAP_RO),
             s.domain[domain].status == Status.ALIVE),
        both(
            has_direct_devices(s, domain), row.mfn == gfn, use.readers + use.writers > 0,
            implies(row.type == P2mType.IOMMU_MAP_RW, use.writers > 0),
        ),
    )


@corollary("COR-GNT-REACH", over="p2m", fulfils=("SR-GNT-1", "SR-GNT-2"),
           except_for=("DEV-1", "DEV-11", "DEV-13", "DEV-14"))
def grant_rows_reach_what_was_granted(s: State, domain: DomId, gfn: Gfn) -> bool:
    """What a running domain reaches through a grant belongs to a domain that permits this domain to do so,
    and to write if it can write.
    """
    row = s.p2m[domain, gfn]
    mapping = s.mapping[domain, row.handle]
    consent = s.consent[mapping.granter, mapping.ref]
    return implies(
        both(is_grant_row(row), s.domain[domain].status == Status.ALIVE),
        both(
            s.frame[row.mfn].owner == mapping.granter, consent.permits, consent.domid == domain,
            implies(row.type == P2mType.GRANT_MAP_RW, consent.writable),
        ),
    )


# ---- who may change what


@two_state("TWO-GNT-DEVICE-ENTERED", over="device_use", fulfils="SR-GNT-8")
def devices_reach_what_is_mapped(old: State, new: State, actor: DomId, domain: DomId, mfn: Mfn) -> bool:
    """When a running domain begins to read or to write a frame through grants, so can its devices, one to one."""
    before, after = old.device_use[domain, mfn], new.device_use[domain, mfn]
    row = new.p2m[domain, Gfn(mfn)]
    begins = both(before.readers + before.writers == 0, after.readers + after.writers > 0)
    begins_to_write = both(before.writers == 0, after.writers > 0)
    return both(
        implies(begins, both(one_of(row.type, P2mType.IOMMU_MAP_RO, P2mType.IOMMU_MAP_RW), row.mfn == mfn)),
        implies(begins_to_write, both(row.type == P2mType.IOMMU_MAP_RW, row.mfn == mfn)),
    )


@two_state("TWO-GNT-DEVICE-KEPT", over="device_use", fulfils="SR-GNT-8")
def devices_keep_what_they_reach(old: State, new: State, actor: DomId, domain: DomId, mfn: Mfn) -> bool:
    """When a grant mapping of a frame comes or goes and others stay, so do the rights of the devices: what is entered
    one to one, or has taken its place, is left alone, unless it is itself what is mapped or unmapped by that address.
    """
    before, after = old.device_use[domain, mfn], new.device_use[domain, mfn]
    earlier, later = old.p2m[domain, Gfn(mfn)], new.p2m[domain, Gfn(mfn)]
    changes = either(before.readers != after.readers, before.writers != after.writers)
    stays = both(before.readers + before.writers > 0, after.readers + after.writers > 0,
                 (before.writers > 0) == (after.writers > 0))
    return implies(
        both(changes, stays, neg(one_of(later.type, P2mType.INVALID, P2mType.GRANT_MAP_RW, P2mType.GRANT_MAP_RO))),
        both(earlier.type == later.type, earlier.mfn == later.mfn),
    )


@two_state("TWO-GNT-COPY-WINDOW", over="copied", fulfils=("SR-GNT-11", "SR-GNT-13"))
def copies_stay_within_the_window(old: State, new: State, actor: DomId, domain: DomId, vcpu: VcpuId) -> bool:
    """A copy reads and writes only for its caller, only pages that it has claimed, and only within what was granted of
    them.
    """
    done = new.copied[domain, vcpu]
    source, destination = old.copy_side[domain, vcpu, SOURCE], old.copy_side[domain, vcpu, Index(1)]
    return implies(
        neg(done.moment == old.copied[domain, vcpu].moment),
        both(
            actor == domain, source.claimed, destination.claimed,
            done.source + done.length <= FRAME_LENGTH, done.destination + done.length <= FRAME_LENGTH,
            source.start <= done.source, done.source + done.length <= source.start + source.length,
            destination.start <= done.destination,
            done.destination + done.length <= destination.start + destination.length,
        ),
    )


@two_state("TWO-GNT-COPY-CLAIMED", over="copy_side", fulfils=("SR-GNT-11", "SR-GNT-13"))
def claims_are_kept_for_what_was_named(old: State, new: State, actor: DomId, domain: DomId, vcpu: VcpuId, side: Index
                                       ) -> bool:
    """What a copy claims it keeps for later items under the number that was named: of the page that its domain has
    there, or of the grant.
    """
    before, after = old.copy_side[domain, vcpu, side], new.copy_side[domain, vcpu, side]
    row = old.p2m[after.domain, Gfn(machine_word(old, after.key))]
    return both(
        implies(both(after.claimed, neg(before.claimed), neg(after.granted)), row.mfn == after.mfn),
        implies(both(after.granted, neg(before.granted)), after.key % REFERENCES == after.ref),
    )


@two_state("TWO-GNT-NEW-MAPPING", over="mapping", fulfils="SR-GNT-1")
def mappings_are_made_by_their_domain(old: State, new: State, actor: DomId, domain: DomId, handle: Handle) -> bool:
    """A mapping comes into being only on behalf of its domain, while it is alive, with the granter's consent to it."""
    row = new.mapping[domain, handle]
    consent = new.consent[row.granter, row.ref]
    return implies(
        both(is_live(row), neg(is_live(old.mapping[domain, handle]))),
        both(
            actor == domain, old.domain[domain].status == Status.ALIVE,
            consent.permits, consent.domid == domain, implies(neg(row.readonly), consent.writable),
        ),
    )


@two_state("TWO-GNT-MAPPING-FIXED", over="mapping", fulfils="SR-GNT-2")
def live_mappings_do_not_change(old: State, new: State, actor: DomId, domain: DomId, handle: Handle) -> bool:
    """While a mapping lives, nothing about it changes: it gains no right and no other frame."""
    before, after = old.mapping[domain, handle], new.mapping[domain, handle]
    return implies(
        both(is_live(before), is_live(after)),
        both(
            before.granter == after.granter, before.ref == after.ref, before.mfn == after.mfn,
            before.gfn == after.gfn, before.readonly == after.readonly, before.host == after.host,
        ),
    )


@two_state("TWO-GNT-MAPPING-ENDS", over="mapping", fulfils=("SR-GNT-4", "SR-GNT-7", "SR-GNT-14"))
def mappings_end_for_their_domain(old: State, new: State, actor: DomId, domain: DomId, handle: Handle) -> bool:
    """A mapping ends only on behalf of its domain, or because that domain is being destroyed."""
    return implies(
        both(is_live(old.mapping[domain, handle]), neg(is_live(new.mapping[domain, handle]))),
        either(actor == domain, old.domain[domain].status == Status.DYING),
    )


@two_state("TWO-GNT-NEW-ROW", over="p2m", fulfils=("SR-GNT-1", "SR-GNT-8"))
def grant_rows_come_with_their_mapping(old: State, new: State, actor: DomId, domain: DomId, gfn: Gfn) -> bool:
    """A stage-2 grant row appears only on behalf of its domain, with its mapping; none gains the right to write."""
    before, after = old.p2m[domain, gfn], new.p2m[domain, gfn]
    same = both(before.type == after.type, before.mfn == after.mfn, before.handle == after.handle)
    return implies(
        both(one_of(after.type, P2mType.GRANT_MAP_RW, P2mType.GRANT_MAP_RO), neg(same)),
        both(
            actor == domain, neg(after.stale), is_live(new.mapping[domain, after.handle]),
            neg(is_live(old.mapping[domain, after.handle])),
        ),
    )


def _released_by(row: Release, domain: DomId, _slot: Handle, mapper: DomId) -> Boolean:
    return both(row.held, domain == mapper)


def gives_up_mapping(old: State, new: State, domain: DomId) -> Boolean:
    """The step takes a grant mapping of the domain out, whose pin is still to be dropped."""
    return count(new.release, _released_by, domain) > count(old.release, _released_by, domain)


def _released_frame(row: Release, domain: DomId, _slot: Handle, mapper: DomId, mfn: Mfn) -> Boolean:
    return both(row.held, domain == mapper, row.mfn == mfn)


@two_state("TWO-GNT-UNMAP-ROW", over="p2m", fulfils=("SR-GNT-7", "SR-MEM-12"))
def unmapping_takes_the_granted_frame(old: State, new: State, actor: DomId, domain: DomId, gfn: Gfn) -> bool:
    """When a mapping is given up, no memory is unmapped but the frame that was granted."""
    before, after = old.p2m[domain, gfn], new.p2m[domain, gfn]
    taken = count(new.release, _released_frame, domain, before.mfn) > count(
        old.release, _released_frame, domain, before.mfn)
    return implies(both(gives_up_mapping(old, new, domain), is_any_ram(before), after.type == P2mType.INVALID), taken)


@two_state("TWO-GNT-ACTIVE-FIXED", over="active_grant", fulfils="SR-GNT-2", catches=("XSA-500",))
def pinned_grants_do_not_change(old: State, new: State, actor: DomId, granter: DomId, ref: GrantRef) -> bool:
    """While a grant is in use, what was granted and to whom does not change, whatever its granter writes."""
    before, after = old.active_grant[granter, ref], new.active_grant[granter, ref]
    return implies(
        both(is_pinned(before), is_pinned(after)),
        both(
            before.mfn == after.mfn, before.domid == after.domid, before.start == after.start,
            before.length == after.length, before.sub_page == after.sub_page,
            before.trans_domid == after.trans_domid, before.trans_ref == after.trans_ref,
        ),
    )


def is_more_used(before: ActiveGrant, after: ActiveGrant) -> Boolean:
    """The grant has come into more use."""
    return either(before.host_writers < after.host_writers, before.host_readers < after.host_readers)


def _passes_for(row: CopySide, domain: DomId, _vcpu: VcpuId, _side: Index, granter: DomId, ref: GrantRef,
                actor: DomId) -> Boolean:
    return both(row.nested, domain == actor, row.trans_domid == granter, row.trans_ref == ref)


@two_state("TWO-GNT-PINNED-BY", over="active_grant", fulfils=("SR-GNT-1", "SR-GNT-12"))
def grants_are_pinned_by_their_user(old: State, new: State, actor: DomId, granter: DomId, ref: GrantRef) -> bool:
    """A grant comes into more use only on behalf of the domain that uses it, or of one to which that domain passes it
    on, and by one use at a time.
    """
    before, after = old.active_grant[granter, ref], new.active_grant[granter, ref]
    return implies(
        is_more_used(before, after),
        both(
            either(actor == after.domid, count(new.copy_side, _passes_for, granter, ref, actor) > 0),
            after.host_writers + after.host_readers == before.host_writers + before.host_readers + 1,
        ),
    )


@two_state("TWO-GNT-FRAME", over="active_grant", fulfils=("SR-GNT-1", "SR-GNT-12"))
def pinned_frame_is_the_granters_page(old: State, new: State, actor: DomId, granter: DomId, ref: GrantRef) -> bool:
    """The frame that comes into use is the one that the granter's own stage 2 had at the page it granted, or the
    one on record of the grant that it passes on.
    """
    before, after = old.active_grant[granter, ref], new.active_grant[granter, ref]
    row = old.p2m[granter, new.consent[granter, ref].gfn]
    behind = old.active_grant[after.trans_domid, after.trans_ref]
    own = both(
        row.mfn == after.mfn,
        one_of(row.type, P2mType.RAM_RW, P2mType.RAM_RO, P2mType.GRANT_MAP_RW, P2mType.GRANT_MAP_RO),
    )
    return implies(
        both(neg(is_pinned(before)), is_pinned(after)),
        ite(after.trans_domid == granter, own,
            both(is_pinned(behind), behind.domid == granter, behind.mfn == after.mfn)),
    )


@two_state("TWO-GNT-MARKS", over="consent", fulfils="SR-GNT-3")
def marks_reach_memory(old: State, new: State, actor: DomId, granter: DomId, ref: GrantRef) -> bool:
    """When Xen begins or ceases to say that a page is read or written, it stands so in the granter's memory."""
    before, after = old.consent[granter, ref], new.consent[granter, ref]
    reading, writing = told(new, granter, ref)
    return both(
        implies(neg(before.reading == after.reading), reading == after.reading),
        implies(neg(before.writing == after.writing), writing == after.writing),
    )


@two_state("TWO-GNT-BEGINS", over="active_grant", fulfils=("SR-GNT-1", "SR-GNT-11"))
def use_begins_as_the_entry_says(old: State, new: State, actor: DomId, granter: DomId, ref: GrantRef) -> bool:
    """When a grant comes into use under version 1, its entry, marked in one go, permits it to this very domain, and to
    write if it is written; its page has a number of 32 bits. Windows begin only under version 2.
    """
    before, after = old.active_grant[granter, ref], new.active_grant[granter, ref]
    entry = decode(EntryV1, new.word[place_v1(new, granter, ref)].raw)
    return implies(
        both(neg(is_pinned(before)), is_pinned(after), old.domain[granter].grant_version == 1),
        both(
            entry.type == PERMIT_ACCESS, entry.domid == after.domid, implies(is_written(after), neg(entry.readonly)),
            new.consent[granter, ref].gfn < 1 << 32, neg(after.sub_page),
        ),
    )


def is_copied_already(active: ActiveGrant, side: Index) -> Boolean:
    """The grant is in use in the way in which this side of a copy would use it."""
    return both(is_pinned(active), either(side == SOURCE, is_written(active)))


@two_state("TWO-GNT-COPY-LIVING", over="copy_side", fulfils=("SR-GNT-13", "SR-GNT-15"))
def copies_begin_from_the_living(old: State, new: State, actor: DomId, domain: DomId, vcpu: VcpuId, side: Index
                                 ) -> bool:
    """A copy takes hold of a page by a grant that is used in this way already only while its granter is not being
    destroyed: nothing else shows that the page is still meant.
    """
    before, after = old.copy_side[domain, vcpu, side], new.copy_side[domain, vcpu, side]
    granter = ite(after.nested, after.trans_domid, after.domain)
    active = old.active_grant[granter, ite(after.nested, after.trans_ref, after.ref)]
    return implies(
        both(after.holding, neg(before.holding), either(after.granted, after.nested), is_copied_already(active, side)),
        old.domain[granter].status == Status.ALIVE,
    )
