"""From reset to running domains: the heap, dom0 and the dom0less domUs; and what every new domain is given.

Source: xen/arch/arm/domain_build.c (construct_dom0, create_domUs), xen/arch/arm/domain.c (arch_domain_create) at 4.17.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from impl.fast import abi
from impl.fast.domains import Domain, Dying, Vcpu
from impl.fast.errors import BadConfig
from impl.fast.p2m import P2m

if TYPE_CHECKING:
    from impl.fast.machine import DomainConfig, Machine


_MOST_SPIS = 1020 - 32


def boot(machine: Machine) -> None:
    """Fill the heap, build the configured domains and let them run. Errors: BadConfig."""
    frames, config = machine.frames, machine.config
    holes = [machine.xen_frames]
    if frames.xenheap is not None:
        frames.add_to_heap(*frames.xenheap)
        holes.append(frames.xenheap)
    for first, number in machine.memory.banks:
        for start, size in _without(first, number, holes):
            frames.add_to_heap(start, size)
    for domain_config in config.domains:
        _build(machine, domain_config)
    for domain in machine.domains.values():
        if domain.target is not None:
            target = machine.domains.get(domain.target)
            if target is None or target is domain:
                raise BadConfig(f"domain {domain.id}: its target, domain {domain.target}, is no other domain")
            target.get()
            domain.holds_target = True
        unpause(machine, domain)


def _without(first: int, number: int, holes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """A range of frames minus others, as (first, number) each."""
    ranges = [(first, first + number)]
    for hole, size in holes:
        ranges = [part for low, high in ranges
                  for part in ((low, min(high, hole)), (max(low, hole + size), high)) if part[0] < part[1]]
    return [(low, high - low) for low, high in ranges]


def construct(machine: Machine, domain: Domain, grants: tuple[int, int, int], gic: int = 0, spis: int = 0) -> int:
    """What arch_domain_create and grant_table_init give a new domain: VMID, tables, shared_info, GICC, grant table.

    grants: (greatest version, grant frames, maptrack frames), -1 for the machine's limit; gic: 0 the board's, 1 v2,
    2 v3; spis: virtual interrupts.
    Returns 0 or a negative error, after which nothing of it is left.
    Errors: EBUSY (VMIDs), ENOMEM, ENODEV (GIC), EINVAL (interrupts, grant limits).
    """
    from impl.fast.grant import lifecycle
    domain.p2m = P2m(machine, domain)
    rc = domain.p2m.create()
    if rc == 0:
        domain.shared_info = machine.frames.alloc_xenheap()
        if domain.shared_info is None:
            rc = -abi.ENOMEM
        else:
            machine.memory.clear(domain.shared_info)
            machine.frames.share_xen_page(domain.shared_info, domain)
    board = machine.config.gic_version - 1
    if rc == 0 and gic not in {0, board}:
        rc = -abi.ENODEV
    if rc == 0 and (spis + 31 & abi.MASK32) // 32 * 32 > _MOST_SPIS:
        rc = -abi.EINVAL
    window = machine.config.gic_frames
    if rc == 0 and window is not None and board == 1:
        gfn = window[1] if domain.is_hardware else window[0]
        rc = domain.p2m.insert(gfn, window[3], window[2], abi.p2m_mmio_direct_dev)
    if rc == 0:
        rc = _limit_grants(machine, domain, *grants)
    if rc == 0:
        rc = lifecycle.create(machine, domain)
    if rc:
        domain.is_dying = Dying.dead
        domain.p2m.final_teardown()
        free_shared_info(machine, domain)
    return rc


def _limit_grants(machine: Machine, domain: Domain, version: int, frames: int, maptrack: int) -> int:
    """The checks of grant_table_init: 0 or -EINVAL."""
    config = machine.config
    if not 1 <= version <= config.grant_max_version:
        return -abi.EINVAL
    domain.max_grant_version = version
    domain.max_grant_frames = config.opt_max_grant_frames if frames < 0 else frames
    domain.max_maptrack_frames = config.opt_max_maptrack_frames if maptrack < 0 else maptrack
    if not 1 <= domain.max_grant_frames <= config.opt_max_grant_frames:
        return -abi.EINVAL
    return -abi.EINVAL if domain.max_maptrack_frames > config.opt_max_maptrack_frames else 0


def free_shared_info(machine: Machine, domain: Domain) -> None:
    """free_xenheap_page(d->shared_info)."""
    if domain.shared_info is not None:
        machine.frames.free_xenheap(domain.shared_info)
        domain.shared_info = None


def unpause(machine: Machine, domain: Domain) -> None:
    """domain_unpause_by_systemcontroller: at the first, creation is finished and the root table is invalidated."""
    domain.controller_pause_count -= 1
    if domain.controller_pause_count == 0 and not domain.creation_finished:
        domain.creation_finished = True
        if not (domain.iommu and machine.config.iommu_shares_p2m):
            domain.p2m.invalidate_root()


def _build(machine: Machine, config: DomainConfig) -> None:
    """One domain of the boot configuration. Errors: BadConfig."""
    if not 0 <= config.domid < abi.DOMID_FIRST_RESERVED:
        raise BadConfig(f"{config.domid} is no domain id")
    if config.domid in machine.domains:
        raise BadConfig(f"domain {config.domid} is configured twice")
    if config.pages < 0 or config.vcpus < 1:
        raise BadConfig(f"domain {config.domid}: {config.pages} pages and {config.vcpus} vCPUs are not possible")
    options = machine.config
    domain = Domain(machine, config.domid, max_vcpus=config.vcpus, privileged=config.privileged,
                    hardware=config.is_hardware, direct_map=config.direct_map, iommu=config.iommu)
    if config.width is not None:
        domain.width = config.width
    grant_frames = -1 if config.max_grant_frames is None else config.max_grant_frames
    if config.is_hardware and config.max_grant_frames is None:
        grant_frames = min(options.opt_max_grant_frames, options.xen_text_pages)
    maptrack_frames = -1 if config.max_maptrack_frames is None else config.max_maptrack_frames
    machine.domains[domain.id] = domain
    rc = construct(machine, domain, (options.grant_max_version, grant_frames, maptrack_frames))
    if rc:
        raise BadConfig(f"domain {config.domid} could not be created: error {rc}")
    domain.max_pages = config.pages if config.max_pages is None else config.max_pages
    domain.target = config.target
    domain.vcpus = {number: Vcpu(number, running=True) for number in range(config.vcpus)}
    for first, number in config.iomem:
        domain.permit_iomem(first, first + number - 1)
    pool = config.p2m_pool_pages
    if pool is None:
        # default of xen,domain-p2m-mem-mb, in KB, then rounded up to whole MB
        kilobytes = 4 * (config.pages // 256 + 256 * config.vcpus + 128)
        pool = -(-kilobytes // 1024) * 256
    if not domain.is_hardware and domain.p2m.set_allocation(pool, preemptible=False):
        raise BadConfig(f"domain {config.domid}: RAM does not hold its stage-2 pool of {pool} pages")
    _allocate(machine, domain, config)
    for gfn, mfn, number in config.devices:
        kind = abi.p2m_mmio_direct_c if domain.is_hardware else abi.p2m_mmio_direct_dev
        if domain.p2m.insert(gfn, number, mfn, kind):
            raise BadConfig(f"domain {config.domid}: its devices at {gfn:#x} cannot be mapped")


def _allocate(machine: Machine, domain: Domain, config: DomainConfig) -> None:
    """RAM in the largest blocks, 1:1 or from base_gfn on. Errors: BadConfig."""
    left = config.pages
    gfn = config.base_gfn
    order = abi.MAX_ORDER
    while left:
        order = min(order, left.bit_length() - 1)
        mfn = machine.frames.alloc_domheap(domain, order)
        if mfn is None:
            if not order:
                raise BadConfig(f"domain {domain.id}: RAM or max_pages does not hold its {config.pages} pages")
            order -= 1
            continue
        if domain.p2m.insert(mfn if domain.direct_map else gfn, 1 << order, mfn, abi.p2m_ram_rw):
            raise BadConfig(f"domain {domain.id}: its RAM cannot be mapped at {gfn:#x}")
        gfn += 1 << order
        left -= 1 << order
