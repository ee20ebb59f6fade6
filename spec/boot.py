"""The machine when the first guest instruction runs: made from a small configuration, by declared steps.

Xen builds the first domains itself, without a hypercall: dom0 alone, which starts the others later, or, "dom0less",
several domains from the device tree.  It does what the hypercalls do; so here a builder, an id with the rights of a
control domain, calls them, and is gone when the machine runs.  Modules of this kind run on integers only.

Source: xen/arch/arm/setup.c (start_xen, create_dom0), xen/arch/arm/domain_build.c (construct_dom0, construct_domU,
create_domUs), Xen 4.17.
"""

from __future__ import annotations

from spec.domain.lifecycle import (
    FIRST_POOL,
    NO_GFN,
    CreateFlags,
    build_grant_table,
    build_pool,
    build_root,
    build_shared_info,
    create_domain,
    finish_creation,
    list_domain,
)
from spec.domain.limits import iomem_permission, max_mem, memory_mapping
from spec.language import (
    U8,
    U16,
    U32,
    U64,
    DomId,
    Gfn,
    Index,
    Mfn,
    Outcome,
    Word,
    decode,
    encode,
    evolve,
    fill,
    put,
    record,
    span,
)
from spec.language.outcomes import Kind
from spec.language.tables import empty
from spec.language.values import SpecificationError
from spec.memory.geometry import ARM32, Geometry, of_pa_range
from spec.memory.pool import PAGE, set_paging_mempool_size
from spec.memory.reservation import increase_extent, populate_extent
from spec.memory.tables import ONE, TableState
from spec.memory.tables import Use as TableUse
from spec.state import State, Status, Use

BUILDER = DomId(0x7FEF)
"""Xen itself while it boots: the last id that a domain may have; none has it."""


@record
class Plan:
    """A domain that is there from the start.

    memory: its allotment [pages], all of it given to it at guest frame ``at`` and up; direct: each at its own number,
    so ``at`` is a machine frame too.  control, hardware: dom0 is both.
    grant_frames, maptrack_frames: limits of its grant table and of its mappings.
    pool: pages for stage-2 tables, at least 16.  devices: machine frames of devices that it has, mapped one to one.
    """

    domain: DomId
    memory: int
    at: Gfn
    control: bool = False
    hardware: bool = False
    direct: bool = False
    iommu: bool = False
    grant_frames: U32 = U32(4)
    maptrack_frames: U32 = U32(2)
    pool: int = FIRST_POOL
    devices: tuple[Mfn, ...] = ()


@record
class Configuration:
    """The host and its first domains.

    ram: first frame of RAM, and how many there are.  xen: how many of them Xen keeps for itself.
    """

    plans: tuple[Plan, ...]
    arm32: bool = False
    silo: bool = False
    iommu: bool = False
    ram: Mfn = Mfn(0x1000)
    frames: int = 256
    xen: int = 8
    scrub_domheap: bool = False
    grant_version: U8 = U8(2)
    grant_frames_limit: U32 = U32(64)
    maptrack_frames_limit: U32 = U32(1024)
    transitive_grants: bool = True
    cache_line: U16 = U16(64)

    @property
    def geometry(self) -> Geometry:
        """The shape of every domain's stage-2 tables."""
        return ARM32 if self.arm32 else of_pa_range(2)


def dom0(*, arm32: bool = False, silo: bool = False, iommu: bool = False) -> Configuration:
    """Dom0 alone: mapped one to one, with a device."""
    plan = Plan(
        DomId(0), memory=8, at=Gfn(0x1040), control=True, hardware=True, direct=True, iommu=iommu,
        grant_frames=U32(16), maptrack_frames=U32(8), devices=(Mfn(0x200), Mfn(0x201)),
    )
    return Configuration((plan,), arm32=arm32, silo=silo, iommu=iommu)


def dom0less(*, arm32: bool = False, silo: bool = False, iommu: bool = False) -> Configuration:
    """Dom0 with two domains that Xen starts itself; one of them has a device."""
    first = Plan(DomId(1), memory=6, at=Gfn(0x40000), pool=20, devices=(Mfn(0x300),))
    second = Plan(DomId(2), memory=4, at=Gfn(0x40000), iommu=iommu)
    start = dom0(arm32=arm32, silo=silo, iommu=iommu)
    return Configuration((*start.plans, first, second), arm32=arm32, silo=silo, iommu=iommu)


def boot(configuration: Configuration) -> State:
    """The machine with its first domains, about to run."""
    s = _host(configuration)
    for plan in configuration.plans:
        s = _started(s, plan, configuration)
    return _without_builder(s, configuration)


def _host(configuration: Configuration) -> State:
    """Xen is there, and the rest of the RAM is free."""
    first, count = configuration.ram, configuration.frames
    s = put(
        empty(State), "settings", Index(0),
        arm32=configuration.arm32, silo=configuration.silo, iommu=configuration.iommu,
        # a count of references has so many bits, and its greatest value is never reached
        reference_limit=1 << (22 if configuration.arm32 else 54),
        root_pages=configuration.geometry.root_frames, root_level=U8(configuration.geometry.start_level),
        physical_pages=configuration.geometry.output_frames, max_page=Mfn(first + count),
        scrub_domheap=configuration.scrub_domheap, max_grant_version=configuration.grant_version,
        grant_frames_limit=configuration.grant_frames_limit, maptrack_frames_limit=configuration.maptrack_frames_limit,
        dom0_max_grant_frames=configuration.grant_frames_limit, transitive_grants=configuration.transitive_grants,
        cache_line=configuration.cache_line,
    )
    s = fill(s, "frame", span(first, configuration.xen), lambda _row, _mfn: {"use": Use.XEN})
    free = span(first + configuration.xen, count - configuration.xen)
    s = fill(s, "frame", free, lambda _row, _mfn: {"use": Use.FREE})
    s = put(s, "heap", Index(0), free=count - configuration.xen)
    s = put(s, "domain", BUILDER, status=Status.ALIVE, control=True)
    for plan in configuration.plans:
        for mfn in plan.devices:
            s = put(s, "iomem", (BUILDER, mfn), allowed=True)
    return s


def _without_builder(s: State, configuration: Configuration) -> State:
    """The machine runs: Xen acts on its own no more."""
    for plan in configuration.plans:
        for mfn in plan.devices:
            s = put(s, "iomem", (BUILDER, mfn), allowed=False)
    return put(s, "domain", BUILDER, status=Status.ABSENT, control=False)


def _started(s: State, plan: Plan, configuration: Configuration) -> State:
    """One domain: built, given its memory and devices, and let run."""
    taken = _reserved(configuration)
    s = _built(s, plan, configuration, taken)
    s = put(
        s, "domain", plan.domain,
        control=plan.control, hardware=plan.hardware, direct_mapped=plan.direct,
    )
    s = _done(max_mem(s, BUILDER, plan.domain, allotment(plan)))
    s = _with_pool(s, plan, taken)
    s = _with_memory(s, plan, taken)
    for mfn in plan.devices:
        s = _done(iomem_permission(s, BUILDER, plan.domain, U64(mfn), U64(1), allow=True, below=Mfn(0)))
        s = _done(memory_mapping(s, BUILDER, plan.domain, U64(mfn), U64(mfn), U64(1), add=True, done=1))
    return _done(finish_creation(s, BUILDER, plan.domain))


def allotment(plan: Plan) -> U64:
    """How much memory the domain may have [KiB]: what it is configured to have, and no more.

    Source: xen/arch/arm/domain_build.c (construct_dom0, construct_domU), Xen 4.17.
    """
    return U64(plan.memory * PAGE // 1024)


def _built(s: State, plan: Plan, configuration: Configuration, taken: set[int]) -> State:
    """A domain that can be looked up, with nothing of its own yet."""
    s = _begun(s, plan, configuration)
    for _ in range(configuration.geometry.root_pages):
        s = _done(build_root(s, plan.domain, _free(s, taken)))
    for _ in range(FIRST_POOL):
        s = _done(build_pool(s, plan.domain, _free(s, taken)))
    s = _done(build_shared_info(s, plan.domain, _free(s, taken)))
    s = _done(build_grant_table(s, plan.domain, _free(s, taken)))
    return _done(list_domain(s, plan.domain))


def _begun(s: State, plan: Plan, configuration: Configuration) -> State:
    """A domain of which nothing is built yet."""
    if plan.domain == 0:
        # no hypercall gives this id: Xen takes it for the first domain
        return put(
            s, "domain", plan.domain,
            status=Status.BUILDING, iommu=plan.iommu, lowest_gfn=NO_GFN, highest_gfn=Gfn(0), grant_version=U8(1),
            max_grant_version=configuration.grant_version, max_grant_frames=plan.grant_frames,
            max_maptrack_frames=plan.maptrack_frames,
        )
    flags = encode(evolve(decode(CreateFlags, Word(0)), hvm=True, hap=True, iommu=plan.iommu))
    return _done(create_domain(
        s, BUILDER, plan.domain, chosen=True, flags=flags, iommu_options=U32(0),
        grant_options=U32(configuration.grant_version), default_grant_frames=False, grant_frames=plan.grant_frames,
        default_maptrack_frames=False, maptrack_frames=plan.maptrack_frames, fits=True, vmids_left=True,
        memory_left=True,
    ))


def _with_pool(s: State, plan: Plan, taken: set[int]) -> State:
    """The pool that the domain is configured to have, page by page."""
    for _ in range(plan.pool - FIRST_POOL):
        size = U64(plan.pool * PAGE)
        s = _done(set_paging_mempool_size(s, BUILDER, plan.domain, size, _free(s, taken), memory_left=True))
    return s


def _with_memory(s: State, plan: Plan, taken: set[int]) -> State:
    """The memory that the domain is configured to have, page by page."""
    for number in range(plan.memory):
        gfn = Gfn(plan.at + number)
        if plan.direct:
            mfn = Mfn(gfn)
            s = _done(increase_extent(s, BUILDER, plan.domain, 0, mfn))
        else:
            mfn = _free(s, taken)
        s = _done(populate_extent(s, BUILDER, plan.domain, gfn, 0, mfn, 1))
    return s


def _reserved(configuration: Configuration) -> set[int]:
    """Frames that are kept for a domain which is mapped one to one."""
    return {plan.at + number for plan in configuration.plans if plan.direct for number in range(plan.memory)}


def _free(s: State, taken: set[int]) -> Mfn:
    """The lowest free frame that is kept for nobody."""
    return next(
        mfn for mfn in sorted(s.frame.keys()) if s.frame[mfn].use == Use.FREE and mfn not in taken
    )


def _done(outcome: Outcome[State]) -> State:
    """The state after a step that must not be refused while Xen boots."""
    if outcome.kind not in (Kind.DONE, Kind.RESTART):
        raise SpecificationError(f"the configuration cannot be started: answer {outcome.code}")
    return outcome.state


# ---- the tables beside the machine


def boot_tables(geometry: Geometry, pool: range = range(0x100, 0x130), memory: range = range(0x400, 0x440)
                ) -> TableState:
    """No domain has tables yet: frames of pools, and frames that mappings may lead to."""
    s = put(
        empty(TableState), "shape", ONE,
        start_level=U8(geometry.start_level), root_pages=U8(geometry.root_pages), ipa_frames=geometry.ipa_frames,
        output_frames=geometry.output_frames, arm32=geometry.arm32,
    )
    s = fill(s, "table_frame", span(pool.start, len(pool)), lambda _row, _mfn: {"use": TableUse.POOL})
    return fill(s, "table_frame", span(memory.start, len(memory)), lambda _row, _mfn: {"use": TableUse.MEMORY})


__all__ = ["BUILDER", "Configuration", "Plan", "allotment", "boot", "boot_tables", "dom0", "dom0less"]
