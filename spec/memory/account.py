"""What nobody can break about memory accounts: the heap, claims, pools of tables, and what a dead domain keeps."""

from __future__ import annotations

from spec.grant.invariants import is_live
from spec.language import (
    Boolean,
    DomId,
    Gfn,
    Handle,
    Index,
    Mfn,
    VcpuId,
    both,
    count,
    either,
    implies,
    invariant,
    ite,
    neg,
    one_of,
    two_state,
)
from spec.memory.heap import HEAP, is_claimed, is_free, is_pool_page_of
from spec.memory.invariants import LARGEST_ROOT
from spec.memory.p2m import DEVICE, maps_the_same
from spec.state import NOBODY, Frame, Stage, State, Status, Use

# ---- the heap and its claims


@invariant("INV-HEAP-FREE", over="heap", fulfils="SR-MEM-10")
def free_frames_are_counted(s: State, i: Index) -> bool:
    """The heap knows how many frames are free."""
    return implies(i == HEAP, s.heap[i].free == count(s.frame, is_free))


@invariant("INV-CLAIM-SUM", over="heap", fulfils="SR-MEM-10")
def claims_are_summed(s: State, i: Index) -> bool:
    """The heap knows how many pages all domains together have claimed."""
    return implies(i == HEAP, s.heap[i].claimed == count(s.claim, is_claimed))


@invariant("INV-CLAIM-BOUND", over="heap", fulfils=("SR-MEM-10", "SR-MEM-21"),
           assertion="xen/common/page_alloc.c (domain_adjust_tot_pages): the sum of claims is never negative")
def claims_can_be_honoured(s: State, i: Index) -> bool:
    """What is claimed by all domains together is free."""
    return implies(i == HEAP, s.heap[i].claimed <= s.heap[i].free)


@invariant("INV-CLAIM-PAGES", over="claim", fulfils="SR-MEM-10")
def claimed_pages_are_the_domains(s: State, domain: DomId, i: int) -> bool:
    """The pages of a domain's claim are numbered from none up."""
    return s.claim[domain, i].held == (i < s.domain[domain].claimed)


@two_state("TWO-CLAIM-CHANGE", over="domain", fulfils="SR-MEM-10")
def claims_are_used_by_their_domain(old: State, new: State, actor: DomId, domain: DomId) -> bool:
    """A claim changes only on behalf of a control domain, or by as many pages as its domain gets or gives back."""
    before, after = old.domain[domain], new.domain[domain]
    got = after.tot_pages - before.tot_pages
    return either(
        before.claimed == after.claimed,
        both(old.domain[actor].control, old.domain[actor].status == Status.ALIVE),
        both(before.claimed > 0, after.claimed == ite(before.claimed > got, before.claimed - got, 0)),
    )


@two_state("TWO-CLAIM-LIMIT", over="domain", fulfils="SR-MEM-10")
def claims_stay_within_the_limit(old: State, new: State, actor: DomId, domain: DomId) -> bool:
    """Pages are claimed for a domain only as many as it may still have."""
    before, after = old.domain[domain], new.domain[domain]
    return implies(
        both(before.claimed == 0, after.claimed > 0), after.tot_pages + after.claimed <= after.max_pages
    )


# ---- frames shared with a domain


def is_shared_of(row: Frame, _mfn: Mfn, domain: DomId) -> Boolean:
    """A frame that Xen shares with a domain and to which somebody holds a reference."""
    return both(row.use == Use.SHARED, row.owner == domain, row.references > 0)


@invariant("INV-DOMAIN-SHARED", over="domain", fulfils="SR-MEM-9")
def shared_frames_are_counted(s: State, domain: DomId) -> bool:
    """A domain's xenheap_pages is the number of frames that Xen shares with it and that are held by somebody."""
    return s.domain[domain].xenheap_pages == count(s.frame, is_shared_of, domain)


# ---- pools of stage-2 tables


@invariant("INV-POOL-COUNT", over="domain", fulfils="SR-MEM-16")
def pools_are_counted(s: State, domain: DomId) -> bool:
    """A domain's pool has as many pages as Xen says."""
    return s.domain[domain].pool_pages == count(s.frame, is_pool_page_of, domain)


@invariant("INV-POOL-BOUND", over="domain", fulfils="SR-MEM-16")
def pools_are_not_overdrawn(s: State, domain: DomId) -> bool:
    """Of a domain's pool no more pages are unused than there are: those in use do not outnumber it."""
    row = s.domain[domain]
    return row.pool_free <= row.pool_pages


@invariant("INV-POOL-SIZE", over="domain", fulfils="SR-MEM-16")
def pools_can_be_counted(s: State, domain: DomId) -> bool:
    """On arm32 a pool has no more pages than 32 bits can count."""
    return implies(s.settings[Index(0)].arm32, s.domain[domain].pool_pages < 1 << 32)


@two_state("TWO-POOL-ACTOR", over="domain", fulfils=("SR-MEM-12", "SR-MEM-16"))
def pools_change_by_control(old: State, new: State, actor: DomId, domain: DomId) -> bool:
    """The pool of a domain that exists grows or shrinks only on behalf of a control domain, or when the domain is
    destroyed.
    """
    before, after = old.domain[domain], new.domain[domain]
    return implies(
        both(before.pool_pages != after.pool_pages, before.status != Status.BUILDING),
        either(old.domain[actor].control, one_of(before.status, Status.DYING, Status.UNLISTED)),
    )


@invariant("INV-POOL-FRAME", over="frame", fulfils="SR-MEM-16")
def table_pages_have_a_domain(s: State, mfn: Mfn) -> bool:
    """Only a page of stage-2 tables is in a pool or a root, and that of a domain that exists."""
    frame = s.frame[mfn]
    return both(
        implies(neg(frame.use == Use.TABLE), both(neg(frame.root))),
        implies(both(frame.use == Use.TABLE, frame.root), s.domain[frame.pool].status != Status.ABSENT),
    )


# ---- the end


def is_finished(row_status: int) -> Boolean:
    """The destruction of a domain in this state is complete, but for what Xen itself has of it."""
    return one_of(row_status, Status.DEAD, Status.UNLISTED, Status.ABSENT)


@invariant("INV-DEAD-NOTHING", over="domain", fulfils="SR-MEM-19", except_for=("DEV-21",))
def dead_domains_hold_nothing(s: State, domain: DomId) -> bool:
    """A domain whose destruction is complete has no claim and no table in use, and nothing is mapped for it."""
    row = s.domain[domain]
    return implies(
        is_finished(row.status),
        both(
            row.claimed == 0,
            row.pool_free == row.pool_pages,
            implies(row.status == Status.ABSENT, row.pool_pages == 0),
            implies(neg(row.status == Status.DEAD), row.tot_pages == 0),
            either(row.status == Status.ABSENT, row.lowest_gfn > row.highest_gfn),
        ),
    )


@invariant("INV-DEAD-FRAMES", over="frame", fulfils="SR-MEM-19")
def frames_of_the_dying_are_given_up(s: State, mfn: Mfn) -> bool:
    """A domain that has come so far in its destruction has no allocation left: only others keep its frames."""
    frame = s.frame[mfn]
    stage = s.domain[frame.owner].stage
    return both(
        implies(both(frame.use == Use.SHARED, stage > Stage.SHARED), neg(frame.allocated)),
        implies(both(frame.use == Use.DOMAIN, stage > Stage.PAGES), neg(frame.allocated)),
    )


@invariant("INV-DEAD-GRANTS", over="mapping", fulfils=("SR-MEM-19", "SR-GNT-14"))
def dead_domains_use_no_grant(s: State, domain: DomId, handle: Handle) -> bool:
    """A domain whose grant mappings were released has none, and neither has one that is not there."""
    row = s.domain[domain]
    return implies(
        is_live(s.mapping[domain, handle]),
        both(row.stage == Stage.GRANTS, one_of(row.status, Status.ALIVE, Status.DYING)),
    )


@invariant("INV-ABSENT", over="domain", fulfils=("SR-MEM-12", "SR-MEM-19"))
def unused_ids_have_nothing(s: State, domain: DomId) -> bool:
    """An id that is not in use inherits nothing to the next domain that gets it."""
    row = s.domain[domain]
    return implies(
        row.status == Status.ABSENT,
        both(
            neg(row.control), neg(row.hardware), neg(row.xenstore), neg(row.device_model), row.target == NOBODY,
            neg(row.direct_mapped), neg(row.passthrough), neg(row.iommu), neg(row.created),
            row.max_pages == 0, row.stage == Stage.GRANTS, row.grant_frames == 0, row.status_frames == 0,
            row.maptrack_frames == 0,
        ),
    )


@invariant("INV-ABSENT-IOMEM", over="iomem", fulfils=("SR-MEM-4", "SR-MEM-19"))
def unused_ids_reach_no_device(s: State, domain: DomId, mfn: Mfn) -> bool:
    """An id that is not in use is not permitted to map any device."""
    row = s.iomem[domain, mfn]
    return implies(s.domain[domain].status == Status.ABSENT, both(neg(row.allowed), neg(row.left)))


@invariant("INV-ABSENT-VCPU", over="vcpu", fulfils="SR-MEM-19")
def unused_ids_have_no_vcpu(s: State, domain: DomId, vcpu: VcpuId) -> bool:
    """An id that is not in use has no cache maintenance to be done."""
    row = s.vcpu[domain, vcpu]
    return implies(s.domain[domain].status == Status.ABSENT, both(neg(row.flush_due), neg(row.traps)))


@invariant("INV-P2M-HIGHEST", over="domain", fulfils=("SR-MEM-19", "SR-MEM-21"))
def the_highest_frame_is_under_the_root(s: State, domain: DomId) -> bool:
    """No domain has ever mapped anything beyond the largest root table."""
    return s.domain[domain].highest_gfn < LARGEST_ROOT


@invariant("INV-DYING-STAGES", over="domain", fulfils="SR-MEM-19", except_for=("DEV-21",))
def stages_are_in_order(s: State, domain: DomId) -> bool:
    """Nothing is claimed for a domain that is being destroyed, and nothing mapped when its mappings were cleared; only
    a domain being destroyed gets that far.
    """
    row = s.domain[domain]
    return both(
        implies(row.stage > Stage.MAPPINGS, row.lowest_gfn > row.highest_gfn),
        implies(row.status == Status.DYING, row.claimed == 0),
        implies(row.stage > Stage.GRANTS, one_of(row.status, Status.DYING, Status.DEAD, Status.UNLISTED)),
        row.stage <= Stage.POOL,
    )


# ---- references and devices


@two_state("TWO-FRAME-LIMIT", over="frame", fulfils="SR-MEM-8")
def references_stay_below_their_limit(old: State, new: State, actor: DomId, mfn: Mfn) -> bool:
    """The count of references of a frame in use grows only below its limit, so it never wraps."""
    before, after = old.frame[mfn], new.frame[mfn]
    return implies(
        both(before.references > 0, after.references > before.references),
        after.references < old.settings[Index(0)].reference_limit,
    )


@two_state("TWO-P2M-DEVICE", over="p2m", fulfils="SR-MEM-4")
def devices_are_mapped_by_permission(old: State, new: State, actor: DomId, domain: DomId, gfn: Gfn) -> bool:
    """A mapping of device memory comes into being only where its domain is permitted to have the frame."""
    before, after = old.p2m[domain, gfn], new.p2m[domain, gfn]
    return implies(
        both(one_of(after.type, *DEVICE), neg(maps_the_same(before, after))),
        old.iomem[domain, after.mfn].allowed,
    )
