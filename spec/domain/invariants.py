"""What nobody can break about domains: their shared page, their settings, and who may change what they may do."""

from __future__ import annotations

from spec.grant.table import is_changing
from spec.language import (
    Boolean,
    DomId,
    Gfn,
    Handle,
    Index,
    Mfn,
    VcpuId,
    both,
    either,
    implies,
    invariant,
    neg,
    one_of,
    two_state,
)
from spec.state import Stage, State, Status, Use


def acts_as_control(s: State, actor: DomId) -> Boolean:
    """The actor is a control domain, and not being destroyed."""
    return both(s.domain[actor].control, s.domain[actor].status == Status.ALIVE)


@invariant("INV-DOMAIN-TARGET", over="domain", fulfils=("SR-MEM-12", "SR-MEM-19"))
def targets_can_be_looked_up(s: State, domain: DomId) -> bool:
    """The domain that a device model serves stays as long as its device model: the id is not given to another one."""
    row = s.domain[domain]
    return implies(row.device_model, one_of(s.domain[row.target].status, Status.ALIVE, Status.DYING, Status.DEAD))


@invariant("INV-SHARED-INFO", over="domain", fulfils="SR-MEM-2")
def shared_information_is_the_domains(s: State, domain: DomId) -> bool:
    """A domain that can be looked up has its page of shared information, which is Xen's and shared with it alone."""
    row = s.domain[domain]
    frame = s.frame[row.shared_info]
    return implies(
        one_of(row.status, Status.ALIVE, Status.DYING, Status.DEAD),
        both(frame.use == Use.SHARED, frame.owner == domain),
    )


@invariant("INV-IOMEM-DEVICE", over="iomem", fulfils=("SR-MEM-1", "SR-MEM-2", "SR-MEM-4"))
def permitted_frames_are_devices(s: State, domain: DomId, mfn: Mfn) -> bool:
    """What a domain is or was permitted to map as a device is no RAM."""
    row = s.iomem[domain, mfn]
    return implies(either(row.allowed, row.left), s.frame[mfn].use == Use.NO_RAM)


@two_state("TWO-IOMEM", over="iomem", fulfils=("SR-MEM-4", "SR-MEM-12"))
def permissions_are_passed_on(old: State, new: State, actor: DomId, domain: DomId, mfn: Mfn) -> bool:
    """A domain is permitted to map a device only by a control domain that is itself permitted to."""
    before, after = old.iomem[domain, mfn], new.iomem[domain, mfn]
    return implies(
        both(after.allowed, neg(before.allowed)), both(acts_as_control(old, actor), old.iomem[actor, mfn].allowed)
    )


@two_state("TWO-DOMAIN-ACTOR", over="domain", fulfils="SR-MEM-12")
def limits_change_by_right(old: State, new: State, actor: DomId, domain: DomId) -> bool:
    """A domain's limits and rights are set only by a control domain, and forgotten only when it is gone."""
    before, after = old.domain[domain], new.domain[domain]
    return either(
        both(
            before.max_pages == after.max_pages, before.max_grant_frames == after.max_grant_frames,
            before.max_maptrack_frames == after.max_maptrack_frames,
            before.max_grant_version == after.max_grant_version,
            before.control == after.control, before.hardware == after.hardware,
            before.device_model == after.device_model, before.target == after.target,
            before.iommu == after.iommu, before.direct_mapped == after.direct_mapped,
        ),
        acts_as_control(old, actor),
        both(before.status == Status.UNLISTED, after.status == Status.ABSENT),
    )


@two_state("TWO-DOMAIN-STATUS", over="domain", fulfils="SR-MEM-19")
def destruction_goes_one_way(old: State, new: State, actor: DomId, domain: DomId) -> bool:
    """A domain is built, runs, is destroyed and forgotten, in this order; a control domain builds and destroys it."""
    before, after = old.domain[domain], new.domain[domain]
    return either(
        before.status == after.status,
        both(before.status == Status.ABSENT, after.status == Status.BUILDING, acts_as_control(old, actor)),
        both(before.status == Status.BUILDING, one_of(after.status, Status.ALIVE, Status.UNLISTED)),
        both(
            before.status == Status.ALIVE, after.status == Status.DYING,
            acts_as_control(old, actor), neg(actor == domain),
        ),
        both(before.status == Status.DYING, after.status == Status.DEAD, before.stage == Stage.POOL),
        both(before.status == Status.DEAD, after.status == Status.UNLISTED),
        both(before.status == Status.UNLISTED, after.status == Status.ABSENT),
    )


@two_state("TWO-SETTINGS", over="settings", fulfils="SR-MEM-12")
def the_configuration_stays(old: State, new: State, actor: DomId, i: Index) -> bool:
    """Nothing that a domain does changes how Xen was configured."""
    before, after = old.settings[i], new.settings[i]
    return both(
        before.silo == after.silo, before.arm32 == after.arm32, before.reference_limit == after.reference_limit,
        before.root_pages == after.root_pages, before.scrub_domheap == after.scrub_domheap,
        before.max_grant_version == after.max_grant_version, before.grant_frames_limit == after.grant_frames_limit,
        before.maptrack_frames_limit == after.maptrack_frames_limit,
    )


# ---- while a domain is built, and when it is gone


@invariant("INV-BUILDING", over="domain", fulfils="SR-MEM-19")
def new_domains_have_nothing(s: State, domain: DomId) -> bool:
    """A domain that is being built has no memory, no mapping and no privilege, and a grant table of version 1."""
    row = s.domain[domain]
    return implies(
        row.status == Status.BUILDING,
        both(
            neg(row.control), neg(row.hardware), neg(row.device_model), neg(row.direct_mapped), neg(row.created),
            row.lowest_gfn > row.highest_gfn, row.stage == Stage.GRANTS, row.claimed == 0,
            row.pool_free == row.pool_pages, row.tot_pages == 0, row.maptrack_frames == 0,
            row.grant_version == 1, row.max_grant_version >= 1, row.max_grant_frames >= 1, row.grant_frames <= 1,
            row.status_frames == 0,
        ),
    )


@invariant("INV-BUILDING-FRAME", over="frame", fulfils="SR-MEM-23")
def frames_of_new_domains_are_mapped_nowhere(s: State, mfn: Mfn) -> bool:
    """What Xen shares with a domain that is being built is mapped nowhere."""
    frame = s.frame[mfn]
    return implies(both(frame.use == Use.SHARED, s.domain[frame.owner].status == Status.BUILDING), neg(frame.mapped))


@invariant("INV-IDLE-ORPHAN", over="orphan", fulfils="SR-MEM-19")
def insertions_end_with_the_mappings(s: State, domain: DomId, gfn: Gfn) -> bool:
    """An insertion is under way only for a domain that runs, or whose mappings are not yet cleared."""
    row = s.domain[domain]
    return implies(
        s.orphan[domain, gfn].pending,
        either(row.status == Status.ALIVE, both(row.status == Status.DYING, row.stage <= Stage.MAPPINGS)),
    )


@invariant("INV-IDLE-CHANGE", over="version_change", fulfils="SR-MEM-19")
def changes_of_version_end_with_the_domain(s: State, domain: DomId) -> bool:
    """The version of a grant table is being changed only while its domain runs."""
    return implies(is_changing(s, domain), s.domain[domain].status == Status.ALIVE)


@invariant("INV-IDLE-RELEASE", over="release", fulfils="SR-MEM-19")
def unmappings_end_with_the_domain(s: State, domain: DomId, slot: Handle) -> bool:
    """An unmapping is half done only while its domain runs, so that a dying one holds no page through it."""
    return implies(s.release[domain, slot].held, s.domain[domain].status == Status.ALIVE)


@invariant("INV-IDLE-COPY", over="copy_side", fulfils="SR-MEM-19")
def copies_end_with_the_domain(s: State, domain: DomId, vcpu: VcpuId, side: Index) -> bool:
    """A copy is half done only while its domain runs, so that a dying one holds no page through it."""
    row = s.copy_side[domain, vcpu, side]
    return implies(either(row.holding, row.asking), s.domain[domain].status == Status.ALIVE)
