"""Can one VM reach another's memory?  What follows from the invariants, in words for an assessor.

Each corollary is about one row of a running domain's stage-2 mapping.  None of them is used to prove
anything else; each is proved from the invariants of one state, so it holds after every step.
"""

from __future__ import annotations

from spec.domain.privilege import may_act_on
from spec.language import (
    Boolean,
    DomId,
    Gfn,
    Handle,
    Mfn,
    both,
    corollary,
    count,
    either,
    implies,
    neg,
    one_of,
)
from spec.state import Mapping, P2mEntry, P2mType, State, Status, Use


def reaches(s: State, domain: DomId, gfn: Gfn) -> Boolean:
    """The domain runs, and something is mapped here that was not left behind by DEV-1."""
    row = s.p2m[domain, gfn]
    return both(s.domain[domain].status == Status.ALIVE, row.type != P2mType.INVALID, neg(row.stale))


def is_device(row: P2mEntry) -> Boolean:
    """The mapping is of device memory."""
    return one_of(row.type, P2mType.MMIO_DIRECT_DEV, P2mType.MMIO_DIRECT_NC, P2mType.MMIO_DIRECT_C)


def is_own(s: State, domain: DomId, mfn: Mfn) -> Boolean:
    """The frame is assigned to the domain, or is one that Xen shares with it."""
    frame = s.frame[mfn]
    return both(frame.owner == domain, one_of(frame.use, Use.DOMAIN, Use.SHARED))


def is_mapping_by(row: Mapping, domain: DomId, _handle: Handle, mapper: DomId, mfn: Mfn) -> Boolean:
    """A mapping of the frame, through a grant, by this domain."""
    return both(row.host, domain == mapper, row.mfn == mfn)


def is_granted(s: State, domain: DomId, row: P2mEntry) -> Boolean:
    """The frame's owner permits this domain, through a grant in use, to reach it."""
    mapping = s.mapping[domain, row.handle]
    consent = s.consent[mapping.granter, mapping.ref]
    return both(
        mapping.host, mapping.mfn == row.mfn, s.frame[row.mfn].owner == mapping.granter,
        consent.permits, consent.domid == domain,
    )


@corollary("ISO-REACH", over="p2m", fulfils=("SR-MEM-1", "SR-GNT-1"), except_for=("DEV-1", "DEV-3"))
def reaches_only_own_granted_foreign_or_device(s: State, domain: DomId, gfn: Gfn) -> bool:
    """A running domain reaches its own memory, what was granted to it and is in use (its devices too), what it may map
    by privilege over the owner, and device memory that it was given; nothing else.
    """
    row = s.p2m[domain, gfn]
    owner = s.frame[row.mfn].owner
    return implies(
        reaches(s, domain, gfn),
        either(
            both(one_of(row.type, P2mType.RAM_RW, P2mType.RAM_RO), is_own(s, domain, row.mfn)),
            both(one_of(row.type, P2mType.GRANT_MAP_RW, P2mType.GRANT_MAP_RO), is_granted(s, domain, row)),
            both(
                one_of(row.type, P2mType.MAP_FOREIGN_RW, P2mType.MAP_FOREIGN_RO),
                may_act_on(s, domain, owner),
            ),
            both(is_device(row), either(s.iomem[domain, row.mfn].allowed, s.iomem[domain, row.mfn].left)),
            both(
                one_of(row.type, P2mType.IOMMU_MAP_RW, P2mType.IOMMU_MAP_RO),
                count(s.mapping, is_mapping_by, domain, row.mfn) > 0,
            ),
        ),
    )


@corollary("ISO-XEN", over="p2m", fulfils=("SR-MEM-2",), except_for=("DEV-1", "DEV-3"))
def reaches_nothing_of_the_hypervisor(s: State, domain: DomId, gfn: Gfn) -> bool:
    """A running domain reaches no frame that Xen keeps for itself: no text, no heap, no page table."""
    row = s.p2m[domain, gfn]
    return implies(
        both(reaches(s, domain, gfn), neg(is_device(row))), neg(one_of(s.frame[row.mfn].use, Use.XEN, Use.TABLE))
    )


@corollary("ISO-FREED", over="p2m", fulfils=("SR-MEM-3",), except_for=("DEV-1", "DEV-3"))
def reaches_nothing_freed(s: State, domain: DomId, gfn: Gfn) -> bool:
    """A running domain reaches no frame that was freed: what it reaches is referenced or allocated."""
    row = s.p2m[domain, gfn]
    return implies(
        both(reaches(s, domain, gfn), neg(is_device(row))), one_of(s.frame[row.mfn].use, Use.DOMAIN, Use.SHARED)
    )


@corollary("ISO-RIGHTS", over="p2m", fulfils=("SR-GNT-2", "SR-GNT-8"), except_for=("DEV-1", "DEV-3"))
def never_more_than_was_granted(s: State, domain: DomId, gfn: Gfn) -> bool:
    """A running domain can write through a grant only if the granter's entry allowed writing."""
    row = s.p2m[domain, gfn]
    mapping = s.mapping[domain, row.handle]
    return implies(
        both(reaches(s, domain, gfn), row.type == P2mType.GRANT_MAP_RW),
        both(neg(mapping.readonly), s.consent[mapping.granter, mapping.ref].writable),
    )


@corollary("ISO-REVOKED", over="p2m", fulfils=("SR-GNT-3", "SR-GNT-7"), except_for=("DEV-1", "DEV-3"))
def a_revoked_grant_leaves_no_access(s: State, domain: DomId, gfn: Gfn) -> bool:
    """When Xen no longer says that a page is in use, no running domain reaches it through that grant."""
    row = s.p2m[domain, gfn]
    mapping = s.mapping[domain, row.handle]
    consent = s.consent[mapping.granter, mapping.ref]
    return implies(
        both(reaches(s, domain, gfn), one_of(row.type, P2mType.GRANT_MAP_RW, P2mType.GRANT_MAP_RO)),
        both(consent.reading, implies(row.type == P2mType.GRANT_MAP_RW, consent.writing)),
    )
