"""How a domain comes into being and how it ends, as far as memory and grants need it.

It is built frame by frame before anybody can look it up.  Its destruction is restartable: other domains run
between any two steps.  First its grant mappings are released, then what Xen shares with it and its pages lose the
reference of their allocation, then its stage-2 mappings are cleared from the lowest guest frame to the highest,
then its tables and its pool go back.  Then it is dead, but stays in the list as long as others hold its pages.
When they have let go it is taken out of the list, and the last frames that Xen has of it are freed.

Source: xen/common/domain.c (domain_create, domain_kill, domain_teardown, complete_domain_destroy),
xen/arch/arm/domain.c (arch_domain_create, domain_relinquish_resources), xen/arch/arm/p2m.c (p2m_init,
relinquish_p2m_mapping, p2m_teardown), Xen 4.17.
"""

from __future__ import annotations

from spec.deviations import happens
from spec.domain.privilege import exists, is_alive, is_control
from spec.errors import EBUSY, EEXIST, EINVAL, ENOMEM, EPERM, ESRCH
from spec.grant.invariants import is_live
from spec.grant.table import is_changing, share_frame
from spec.grant.teardown import is_pinned_of
from spec.language import (
    ALL,
    DEVIATIONS,
    U8,
    U32,
    Boolean,
    Deviation,
    DomId,
    Gfn,
    Index,
    Mfn,
    Outcome,
    Word,
    accept,
    both,
    count,
    decode,
    either,
    every,
    field,
    fill,
    flag,
    implies,
    ite,
    layout,
    legal,
    neg,
    one_of,
    put,
    refuse,
    restart,
    span,
    transition,
)
from spec.memory import frames, heap, p2m, pool
from spec.memory.faults import invalidate_root
from spec.state import FIRST_RESERVED, NOBODY, Frame, Stage, State, Status, Use

FIRST_POOL = 16
"""Pages in the pool of a new domain."""
NO_GFN = Gfn((1 << 64) - 1)
"""The lowest guest frame mapped, before the first is."""

DEVIATIONS["DEV-22"] = Deviation("DEV-22", "Xen forgets where a page is mapped")


# ---- building


@layout
class CreateFlags:
    """What the new domain shall have (bits of ``flags``)."""

    hvm: bool = flag(0)
    hap: bool = flag(1)
    s3_integrity: bool = flag(2)
    oos_off: bool = flag(3)
    xs_domain: bool = flag(4)
    iommu: bool = flag(5)
    nested_virt: bool = flag(6)
    vpmu: bool = flag(7)
    other: U32 = field(8, 24)


@transition(hypercall="XEN_DOMCTL_createdomain")
def create_domain(s: State, caller: DomId, domain: DomId, chosen: bool, flags: Word, iommu_options: U32,
                  grant_options: U32, default_grant_frames: bool, grant_frames: U32, default_maptrack_frames: bool,
                  maptrack_frames: U32, fits: bool, vmids_left: bool, memory_left: bool) -> Outcome[State]:
    """Begin to build a domain.

    domain: the id that it gets; chosen: the caller asked for that one.
    grant_options: bits 3:0 are the greatest grant version that it may use.
    grant_frames, maptrack_frames: its limits, unless the default is asked for.
    fits: its vCPUs, interrupt controller, firmware and performance counters are such as the host can give.
    vmids_left, memory_left: there is a VMID, and memory for what is not modelled; if the grant table would be wrong,
    which is found last, also for all that is built before it.
    Errors: EPERM; EEXIST if the chosen id is in use; EINVAL for flags and options that Arm does not know, or an IOMMU
    that the host has not; EBUSY without a VMID; ENOMEM; EINVAL for a grant version of 0 or above the host's, or limits
    of the grant tables of 0 or above the host's.
    Source: xen/common/domain.c (sanitise_domain_config, domain_create), xen/arch/arm/domain.c
    (arch_sanitise_domain_config), xen/common/grant_table.c (grant_table_init), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    if not is_control(s, caller):
        return refuse(s, -EPERM)
    legal(both(0 < domain, domain < FIRST_RESERVED), "only such an id is given to a domain")
    if s.domain[domain].status != Status.ABSENT:
        legal(chosen, "an id in use is not given to another domain")
        return refuse(s, -EEXIST)
    asked = decode(CreateFlags, flags)
    if not _is_known(s, asked, iommu_options, grant_options):
        return refuse(s, -EINVAL)
    if not fits:
        return refuse(s, -EINVAL)
    if not vmids_left:
        return refuse(s, -EBUSY)
    if not memory_left:
        return refuse(s, -ENOMEM)
    settings = s.settings[Index(0)]
    version = grant_options
    if not both(0 < version, version <= settings.max_grant_version):
        return refuse(s, -EINVAL)
    most_frames = ite(default_grant_frames, settings.grant_frames_limit, grant_frames)
    most_maptrack = ite(default_maptrack_frames, settings.maptrack_frames_limit, maptrack_frames)
    if not both(0 < most_frames, most_frames <= settings.grant_frames_limit):
        return refuse(s, -EINVAL)
    if most_maptrack > settings.maptrack_frames_limit:
        return refuse(s, -EINVAL)
    return accept(put(
        s, "domain", domain,
        status=Status.BUILDING, iommu=asked.iommu, lowest_gfn=NO_GFN, highest_gfn=Gfn(0), grant_version=U8(1),
        max_grant_version=U8(version), max_grant_frames=most_frames, max_maptrack_frames=most_maptrack,
    ))


def _is_known(s: State, asked: CreateFlags, iommu_options: U32, grant_options: U32) -> Boolean:
    """Every flag and option is one that Arm has: stage 2 always, an IOMMU and performance counters if wanted."""
    return both(
        asked.other == 0,
        grant_options < 16,
        asked.hvm, asked.hap,
        neg(either(asked.s3_integrity, asked.oos_off, asked.xs_domain, asked.nested_virt)),
        # its only option, tables of its own, is not for Arm
        iommu_options == 0,
        implies(asked.iommu, s.settings[Index(0)].iommu),
    )


def is_root_page_of(row: Frame, _mfn: Mfn, domain: DomId) -> Boolean:
    """A page of the domain's root table."""
    return both(row.use == Use.TABLE, row.pool == domain, row.root)


@transition(actor="")
def build_root(s: State, domain: DomId, mfn: Mfn) -> Outcome[State]:
    """Give a new domain a page of its root table.

    mfn: chosen by the heap.
    Errors: ENOMEM.
    Source: xen/arch/arm/p2m.c (p2m_allocate_root), Xen 4.17.
    """
    legal(s.domain[domain].status == Status.BUILDING, "the domain is being built")
    if not heap.unclaimed(s, 1):
        return refuse(s, -ENOMEM)
    return accept(heap.take_table_page(s, domain, mfn, True))


@transition(actor="")
def build_pool(s: State, domain: DomId, mfn: Mfn) -> Outcome[State]:
    """Give a new domain one of the first pages of its pool.

    mfn: chosen by the heap.
    Errors: ENOMEM.
    Source: xen/arch/arm/p2m.c (p2m_init), Xen 4.17.
    """
    row = s.domain[domain]
    legal(row.status == Status.BUILDING, "the domain is being built")
    legal(row.pool_pages < FIRST_POOL, "its pool is not complete")
    if not heap.unclaimed(s, 1):
        return refuse(s, -ENOMEM)
    return accept(pool.grow_pool(s, domain, mfn))


def _build_shared_info(s: State, domain: DomId, mfn: Mfn, *, repaired: bool) -> Outcome[State]:
    row = s.domain[domain]
    legal(row.status == Status.BUILDING, "the domain is being built")
    legal(row.xenheap_pages == 0, "it has no such page")
    if not heap.unclaimed(s, 1):
        return refuse(s, -ENOMEM)
    return accept(put(share_frame(s, domain, mfn, repaired=repaired), "domain", domain, shared_info=mfn))


@transition(actor="")
def build_shared_info(s: State, domain: DomId, mfn: Mfn) -> Outcome[State]:
    """Give a new domain its page of shared information.

    mfn: chosen by the heap.
    Errors: ENOMEM.
    Source: xen/arch/arm/domain.c (arch_domain_create), Xen 4.17.
    """
    return _build_shared_info(s, domain, mfn, repaired=False)


@transition(actor="", repairs="build_shared_info")
def build_shared_info_repaired(s: State, domain: DomId, mfn: Mfn) -> Outcome[State]:
    """``build_shared_info`` without DEV-31."""
    return _build_shared_info(s, domain, mfn, repaired=True)


def _build_grant_table(s: State, domain: DomId, mfn: Mfn, *, repaired: bool) -> Outcome[State]:
    row = s.domain[domain]
    legal(row.status == Status.BUILDING, "the domain is being built")
    legal(row.grant_frames == 0, "it has no grant table")
    legal(row.xenheap_pages == 1, "its page of shared information comes first")
    legal(mfn != row.shared_info, "that page is taken")
    if not heap.unclaimed(s, 1):
        return refuse(s, -ENOMEM)
    s = put(share_frame(s, domain, mfn, repaired=repaired), "grant_frame", (domain, 0), present=True, mfn=mfn)
    return accept(put(s, "domain", domain, grant_frames=1))


@transition(actor="")
def build_grant_table(s: State, domain: DomId, mfn: Mfn) -> Outcome[State]:
    """Give a new domain the first frame of its grant table.

    mfn: chosen by the heap.
    Errors: ENOMEM.
    Source: xen/common/grant_table.c (grant_table_init), Xen 4.17.
    """
    return _build_grant_table(s, domain, mfn, repaired=False)


@transition(actor="", repairs="build_grant_table")
def build_grant_table_repaired(s: State, domain: DomId, mfn: Mfn) -> Outcome[State]:
    """``build_grant_table`` without DEV-31."""
    return _build_grant_table(s, domain, mfn, repaired=True)


@transition(actor="")
def list_domain(s: State, domain: DomId) -> Outcome[State]:
    """A domain that is built is put into the list: from now on it can be looked up.  It does not run yet.

    Source: xen/common/domain.c (domain_create), Xen 4.17.
    """
    row = s.domain[domain]
    frame = s.frame[row.shared_info]
    legal(row.status == Status.BUILDING, "the domain is being built")
    legal(both(row.pool_pages == FIRST_POOL, row.grant_frames == 1), "its pool and its grant table are there")
    legal(both(frame.use == Use.SHARED, frame.owner == domain), "its page of shared information is there")
    legal(count(s.frame, is_root_page_of, domain) > 0, "its root table is there")
    return accept(put(s, "domain", domain, status=Status.ALIVE))


@transition(actor="")
def abandon_domain(s: State, domain: DomId) -> Outcome[State]:
    """Memory ran out before the domain was built: what it has got is given back, as at the end of any domain.

    Source: xen/common/domain.c (domain_create), Xen 4.17.
    """
    row = s.domain[domain]
    legal(row.status == Status.BUILDING, "the domain is being built")
    return accept(put(s, "domain", domain, status=Status.UNLISTED), error=-ENOMEM)


@transition(hypercall="XEN_DOMCTL_unpausedomain")
def finish_creation(s: State, caller: DomId, domain: DomId) -> Outcome[State]:
    """Let a domain run for the first time.

    Xen then clears the valid bits of its root table, to see later what it has accessed, unless an IOMMU uses the table.
    Errors: ESRCH; EPERM.
    Source: xen/common/domain.c (domain_unpause_by_systemcontroller), xen/arch/arm/domain.c
    (arch_domain_creation_finished), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    if not exists(s, domain):
        return refuse(s, -ESRCH)
    if not is_control(s, caller):
        return refuse(s, -EPERM)
    row = s.domain[domain]
    # it has run before: pausing is not modelled
    if row.created:
        return accept(s)
    s = put(s, "domain", domain, created=True)
    if row.iommu:
        return accept(s)
    return accept(invalidate_root(s, domain))


# ---- destruction


@transition(hypercall="XEN_DOMCTL_destroydomain")
def kill_domain(s: State, caller: DomId, domain: DomId) -> Outcome[State]:
    """Begin to destroy a domain, or go on with it.

    Its vCPUs are paused first: nothing that they asked for is left half done.
    Errors: ESRCH; EPERM; EINVAL for the caller itself.
    Source: xen/common/domain.c (domain_kill), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    if not exists(s, domain):
        return refuse(s, -ESRCH)
    if not is_control(s, caller):
        return refuse(s, -EPERM)
    if domain == caller:
        return refuse(s, -EINVAL)
    if s.domain[domain].status == Status.DEAD:
        return accept(s)
    if s.domain[domain].status == Status.DYING:
        return restart(s)
    legal(every(s.release, (domain, ALL), lambda row, _d, _slot: neg(row.held)), "no unmapping is half done")
    legal(
        every(s.copy_side, (domain, ALL, ALL), lambda row, _d, _vcpu, _side: neg(either(row.holding, row.asking))),
        "no copy is half done",
    )
    legal(neg(is_changing(s, domain)), "no change of version is half done")
    s = heap.set_claim(s, domain, 0)
    return restart(put(s, "domain", domain, status=Status.DYING, stage=Stage.GRANTS))


def _at(s: State, domain: DomId, stage: int) -> Boolean:
    row = s.domain[domain]
    return both(row.status == Status.DYING, row.stage == stage)


@transition(actor="")
def relinquish_frame(s: State, domain: DomId, mfn: Mfn) -> Outcome[State]:
    """Drop the reference of the allocation of one frame that a dying domain has.

    mfn: one that Xen shares with it, or, later, one of its pages.  One whose count of references is full Xen skips, and
    it stays allocated for ever: that is not modelled (it takes 2**54 references, on arm32 2**22).
    Source: xen/arch/arm/domain.c (relinquish_memory), Xen 4.17.
    """
    frame = s.frame[mfn]
    legal(both(frame.owner == domain, frame.allocated, frames.can_get_page(s, mfn)), "the frame is the domain's")
    legal(
        either(both(frame.use == Use.SHARED, _at(s, domain, Stage.SHARED)),
               both(frame.use == Use.DOMAIN, _at(s, domain, Stage.PAGES))),
        "frames of this kind are being given up",
    )
    return restart(frames.put_page(frames.drop_allocation(frames.get_page(s, mfn), mfn), mfn))


def _relinquish_mapping(s: State, domain: DomId, gfn: Gfn, *, repaired: bool) -> Outcome[State]:
    owner, row = s.domain[domain], s.p2m[domain, gfn]
    legal(_at(s, domain, Stage.MAPPINGS), "the domain's mappings are being cleared")
    legal(both(owner.lowest_gfn <= gfn, gfn <= owner.highest_gfn), "the guest frame is the next one")
    legal(
        every(
            s.p2m, (domain, span(owner.lowest_gfn, gfn - owner.lowest_gfn)), lambda each, _d, _g: neg(p2m.is_live(each))
        ),
        "nothing is mapped below it",
    )
    after = put(p2m.flush_tlb(s, domain), "p2m", (domain, gfn), type=0, hardware=False, handle=0, stale=False)
    after = put(after, "domain", domain, lowest_gfn=gfn + 1)
    if one_of(row.type, *p2m.FOREIGN):
        return restart(frames.put_page(after, row.mfn))
    frame = s.frame[row.mfn]
    if not both(one_of(row.type, *p2m.RAM), frame.use == Use.SHARED):
        return restart(after)
    # DEV-22
    others = neg(frame.owner == domain)
    if repaired and others:
        return restart(after)
    return restart(happens(put(after, "frame", row.mfn, mapped=False), "dev22", both(others, frame.mapped)))


@transition(actor="")
def relinquish_mapping(s: State, domain: DomId, gfn: Gfn) -> Outcome[State]:
    """Clear the lowest mapping that a dying domain still has, and let go what it holds.

    gfn: where it is, or any guest frame up to there.
    Source: xen/arch/arm/p2m.c (relinquish_p2m_mapping, p2m_put_l3_page), Xen 4.17.
    """
    return _relinquish_mapping(s, domain, gfn, repaired=False)


@transition(actor="", repairs="relinquish_mapping")
def relinquish_mapping_repaired(s: State, domain: DomId, gfn: Gfn) -> Outcome[State]:
    """``relinquish_mapping`` without DEV-22."""
    return _relinquish_mapping(s, domain, gfn, repaired=True)


@transition(actor="")
def relinquish_pool(s: State, domain: DomId, mfn: Mfn) -> Outcome[State]:
    """Give one page of the pool of a domain that is gone back to the heap.

    Source: xen/arch/arm/p2m.c (p2m_teardown_allocation), Xen 4.17.
    """
    row = s.domain[domain]
    legal(either(_at(s, domain, Stage.POOL), row.status == Status.UNLISTED), "the pool is being given back")
    legal(row.pool_free > 0, "a page of it is left")
    return restart(pool.shrink_pool(s, domain, mfn))


def _is_left(row: Frame, use: int, domain: DomId) -> Boolean:
    """The frame has not lost the reference of its allocation."""
    return both(row.use == use, row.owner == domain, row.allocated)


@transition(actor="")
def finish_stage(s: State, domain: DomId) -> Outcome[State]:
    """Nothing is left of one kind: the destruction goes on with the next, and after the last the domain is dead.

    Source: xen/common/domain.c (domain_kill, domain_teardown), xen/arch/arm/domain.c
    (domain_relinquish_resources), Xen 4.17.
    """
    row = s.domain[domain]
    legal(row.status == Status.DYING, "the domain is being destroyed")
    if row.stage == Stage.GRANTS:
        legal(every(s.mapping, (domain, ALL), lambda each, _d, _h: neg(is_live(each))), "its mappings are released")
        return restart(put(s, "domain", domain, stage=Stage.SHARED))
    if row.stage == Stage.SHARED:
        legal(
            every(s.frame, ALL, lambda each, _mfn: neg(_is_left(each, Use.SHARED, domain))),
            "what Xen shares with it is given up",
        )
        return restart(put(s, "domain", domain, stage=Stage.PAGES))
    if row.stage == Stage.PAGES:
        legal(
            every(s.frame, ALL, lambda each, _mfn: neg(_is_left(each, Use.DOMAIN, domain))), "its pages are given up"
        )
        return restart(put(s, "domain", domain, stage=Stage.MAPPINGS))
    if row.stage == Stage.MAPPINGS:
        legal(row.lowest_gfn > row.highest_gfn, "its mappings are cleared")
        legal(every(s.orphan, (domain, ALL), lambda each, _d, _g: neg(each.pending)), "no insertion is half done")
        return restart(put(s, "domain", domain, stage=Stage.TABLES))
    if row.stage == Stage.TABLES:
        legal(row.pool_free == row.pool_pages, "its tables are back in the pool")
        return restart(put(s, "domain", domain, stage=Stage.POOL))
    legal(row.pool_pages == 0, "its pool is given back")
    return accept(put(s, "domain", domain, status=Status.DEAD))


# ---- the end


@transition(actor="")
def unlist_domain(s: State, domain: DomId) -> Outcome[State]:
    """Nobody holds a page of a dead domain any more: it is taken out of the list.

    Source: xen/common/domain.c (domain_destroy), Xen 4.17.
    """
    row = s.domain[domain]
    legal(row.status == Status.DEAD, "its destruction is complete")
    legal(both(row.tot_pages == 0, row.xenheap_pages == 0), "nobody holds a page of it")
    legal(
        every(s.domain, ALL, lambda each, _d: neg(both(each.device_model, each.target == domain))),
        "no device model serves it",
    )
    return restart(put(s, "domain", domain, status=Status.UNLISTED))


@transition(actor="")
def free_shared_info(s: State, domain: DomId) -> Outcome[State]:
    """Free the page of shared information of a domain that is gone, or was never built.

    Source: xen/arch/arm/domain.c (arch_domain_destroy), Xen 4.17.
    """
    mfn = s.domain[domain].shared_info
    frame = s.frame[mfn]
    legal(s.domain[domain].status == Status.UNLISTED, "nobody can look the domain up")
    legal(s.domain[domain].grant_frames == 0, "its grant table was freed")
    legal(s.domain[domain].status_frames == 0, "and so were its status words")
    legal(both(frame.use == Use.SHARED, frame.owner == domain), "the page is there")
    legal(count(s.active_grant, is_pinned_of, domain) == 0, "none of its grants is in use, or its pages would keep it")
    legal(frame.references == ite(frame.allocated, 1, 0), "nobody else has a reference on the page")
    return restart(heap.unshare_page(s, mfn))


@transition(actor="")
def free_root(s: State, domain: DomId, mfn: Mfn) -> Outcome[State]:
    """Free a page of the root table of a domain that is gone, or was never built.

    Source: xen/arch/arm/p2m.c (p2m_final_teardown), Xen 4.17.
    """
    legal(s.domain[domain].status == Status.UNLISTED, "nobody can look the domain up")
    legal(is_root_page_of(s.frame[mfn], mfn, domain), "the page is one of its root")
    return restart(heap.free_table_page(s, mfn))


@transition(actor="")
def forget_domain(s: State, domain: DomId) -> Outcome[State]:
    """The last of a domain is gone: its id may be given to another one.

    Source: xen/common/domain.c (complete_domain_destroy, _domain_destroy), Xen 4.17.
    """
    row = s.domain[domain]
    legal(row.status == Status.UNLISTED, "nobody can look the domain up")
    legal(both(row.grant_frames == 0, row.status_frames == 0, row.pool_pages == 0), "its tables were freed")
    legal(every(s.frame, ALL, lambda each, _mfn: neg(_belongs_to(each, domain))), "and so was every frame of its")
    s = fill(s, "iomem", (domain, ALL), lambda _row, _domain, _mfn: {"allowed": False, "left": False})
    s = fill(s, "vcpu", (domain, ALL), lambda _row, _domain, _vcpu: {"traps": False, "flush_due": False, "flushed": 0})
    return accept(put(
        s, "domain", domain,
        status=Status.ABSENT, control=False, hardware=False, xenstore=False, device_model=False, target=NOBODY,
        direct_mapped=False, passthrough=False, iommu=False, created=False, max_pages=0, claimed=0, shared_info=Mfn(0),
        highest_gfn=Gfn(0), lowest_gfn=Gfn(0), pool_free=0, grant_version=0, max_grant_version=0, max_grant_frames=0,
        maptrack_frames=0, max_maptrack_frames=0, stage=0,
    ))


def _belongs_to(row: Frame, domain: DomId) -> Boolean:
    """The frame is one of the domain's, or a table page of its."""
    return either(
        both(one_of(row.use, Use.DOMAIN, Use.SHARED), row.owner == domain),
        both(row.use == Use.TABLE, row.pool == domain),
    )
