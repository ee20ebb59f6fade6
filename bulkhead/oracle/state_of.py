"""The specification's state that corresponds to a machine of the optimised implementation, which has just booted.

Everything is read back: frame table, stage-2 tables in RAM, accounts, grant frames, contents. What an implementation
does not have (ghosts) is made up as it must be at that moment: nothing is half done, and no grant is in use.
"""

from __future__ import annotations

from typing import Any, Literal

import immutables

from bulkhead.oracle.machine import Guest, Host, Oracle, Vcpu
from bulkhead.oracle.shape import LEAF, Node, Shape
from bulkhead.oracle.tables import Words, empty_state
from bulkhead.problems import BadInputError
from impl.fast.domains import Domain as ImplDomain
from impl.fast.machine import Machine
from impl.fast.p2m import FRAME, TABLE, TYPE_SHIFT, VALID
from impl.fast.projection import project_p2m
from spec.domain.lifecycle import NO_GFN
from spec.language import Index, put
from spec.language.records import replaced
from spec.memory.p2m import DEVICE
from spec.state import P2mType, State, Use
from spec.state import Status as SpecStatus

_EMPTY_PAGE = bytes(4096)


def oracle_of(machine: Machine) -> Oracle:
    """The specification in the state in which a machine is after boot.

    Errors: BadInputError if a grant is in use or a domain is not simply alive: then it is not after boot.
    """
    host = _host(machine)
    state, logs = empty_state(host.ram)
    oracle = Oracle(host, state, logs)
    oracle.state = _settings(state, machine, host)
    oracle.last_domid = machine.last_domid
    for domain in machine.domains.values():
        _domain(oracle, machine, domain)
    _frames(oracle, machine)
    for domain in machine.domains.values():
        _stage2(oracle, domain)
        for number, mfn in enumerate(domain.xenpage_list):
            oracle.listed = oracle.listed.set(mfn, number)
        for number, mfn in enumerate(domain.page_list):
            oracle.listed = oracle.listed.set(mfn, number)
    oracle.counter = machine.frames.total_pages
    for log in logs.values():
        log.keys = set()
    oracle.before = oracle.state
    return oracle


def _host(machine: Machine) -> Host:
    config = machine.config
    width: Literal[64, 32] = 64 if machine.width == 64 else 32
    return Host(
        width=width, ipa_bits=machine.ipa_bits, root_level=machine.root_level, root_frames=machine.root_pages,
        ram=tuple(machine.memory.banks), xenheap=machine.frames.xenheap, gic_version=config.gic_version,
        gic_window=config.gic_frames, vpmu=config.vpmu, vmids=machine.max_vmid - 1,
        iommu_shares=config.iommu_shares_p2m,
    )


def _settings(s: State, machine: Machine, host: Host) -> State:
    config = machine.config
    arm32 = machine.width == 32
    s = put(
        s, "settings", Index(0), arm32=arm32, silo=config.xsm == "silo", iommu=config.iommu,
        reference_limit=machine.frames.COUNT + 1,
        root_pages=host.root_frames << 9 * (LEAF + 1 - host.root_level), root_level=host.root_level,
        physical_pages=1 << (40 if arm32 else 48) - 12, max_page=machine.max_page,
        scrub_domheap=config.scrub_domheap, max_grant_version=config.grant_max_version,
        grant_frames_limit=config.opt_max_grant_frames, maptrack_frames_limit=config.opt_max_maptrack_frames,
        dom0_max_grant_frames=min(config.opt_max_grant_frames, config.xen_text_pages),
        transitive_grants=config.grant_transitive, cache_line=config.cache_line,
    )
    # Xen has shared frames while it booted
    s = put(s, "deviation", Index(0), dev31=True)
    return put(s, "heap", Index(0), free=machine.frames.total_avail, claimed=machine.frames.outstanding_claims)


def _domain(oracle: Oracle, machine: Machine, domain: ImplDomain) -> None:
    if domain.is_dying or domain.outstanding_pages or domain.extra_pages:
        raise BadInputError(f"domain {domain.id} is not as it is after boot")
    if domain.iommu and not machine.config.iommu_shares_p2m:
        raise BadInputError(f"domain {domain.id} is behind an IOMMU with tables of its own (iommu_shares_p2m is off), "
                            "which Arm does not have")
    table, p2m = domain.grant_table, domain.p2m
    if table.array("pin").any() or table.maptrack_limit:
        raise BadInputError(f"domain {domain.id}: grants are in use already")
    never = p2m.lowest_mapped_gfn == machine.address_mask
    fields: dict[str, Any] = {
        "status": SpecStatus.ALIVE, "control": domain.is_privileged, "hardware": domain.is_hardware,
        "device_model": domain.target is not None, "direct_mapped": domain.direct_map, "iommu": domain.iommu,
        "passthrough": bool(domain.iomem), "created": domain.creation_finished, "max_pages": domain.max_pages,
        "tot_pages": domain.tot_pages, "xenheap_pages": domain.xenheap_pages, "shared_info": domain.shared_info,
        "highest_gfn": p2m.max_mapped_gfn, "lowest_gfn": NO_GFN if never else p2m.lowest_mapped_gfn,
        "pool_pages": p2m.pool_total, "pool_free": len(p2m.freelist), "grant_version": table.version,
        "max_grant_version": table.max_version, "grant_frames": len(table.shared),
        "max_grant_frames": table.max_grant_frames, "status_frames": len(table.status),
        "max_maptrack_frames": table.max_maptrack_frames,
    }
    if domain.target is not None:
        fields["target"] = domain.target
    s = put(oracle.state, "domain", domain.id, **fields)
    for name, mfns in (("grant_frame", table.shared), ("status_frame", table.status)):
        for number, mfn in enumerate(mfns):
            s = put(s, name, (domain.id, number), present=True, mfn=mfn)
    for first, last in domain.iomem:
        for mfn in range(first, last + 1):
            s = put(s, "iomem", (domain.id, mfn), allowed=True)
    oracle.state = s
    width: Literal[64, 32] = 64 if domain.width == 64 else 32
    vcpus = immutables.Map({number: Vcpu(not vcpu.offline, vcpu.cache_on) for number, vcpu in domain.vcpus.items()})
    oracle.guests = oracle.guests.set(domain.id, Guest(
        width, domain.max_vcpus, vcpus, domain.controller_pause_count, domain.shutdown_code, domain.handle,
        tuple(p2m.freelist), (), tuple(table.active_frames)))


def _frames(oracle: Oracle, machine: Machine) -> None:
    """Every frame that is not free: what it is used for, and what it holds."""
    frames, s = machine.frames, oracle.state
    tables: dict[int, tuple[int, bool]] = {}
    for domain in machine.domains.values():
        p2m = domain.p2m
        tables.update(((p2m.root or 0) + i, (domain.id, True)) for i in range(p2m.root_pages))
        tables.update((mfn, (domain.id, False)) for mfn in p2m.freelist)
        if not domain.is_hardware:
            tables.update((mfn, (domain.id, False)) for mfn in p2m.tables)
    words = s.word
    assert isinstance(words, Words)
    # most are free and clean
    info = frames.count_info & (frames.STATE | frames.NEED_SCRUB)
    for index in (info != frames.STATE_FREE).nonzero()[0].tolist():
        mfn = frames.mfn_of(index)
        if frames.is_free(mfn):
            s = put(s, "frame", mfn, use=Use.FREE, dirty=True)
            continue
        owner = frames.owner_of(mfn)
        if mfn in tables:
            pool, root = tables[mfn]
            s = put(s, "frame", mfn, use=Use.TABLE, pool=pool, root=root)
        elif owner is None:
            s = put(s, "frame", mfn, use=Use.XEN)
        else:
            shared = frames.is_xen_heap(mfn)
            gfn = frames.xenheap_gfn(mfn) if shared else None
            s = put(s, "frame", mfn, use=Use.SHARED if shared else Use.DOMAIN, owner=owner,
                    allocated=frames.is_allocated(mfn), references=frames.count(mfn), mapped=gfn is not None,
                    gfn=gfn or 0, unclean=shared)
            data = machine.memory.read(mfn, 0, 4096)
            if data != _EMPTY_PAGE:
                words = words.with_bytes(mfn, 0, data)
    oracle.state = replaced(s, "word", words)


def _stage2(oracle: Oracle, domain: ImplDomain) -> None:
    """What is mapped, and by which tables."""
    s = oracle.state
    for (owner, gfn), row in project_p2m(domain).items():
        mfn, kind, hardware = int(row[0] or 0), int(row[1] or 0), bool(row[2])
        s = put(s, "p2m", (owner, gfn), type=kind, mfn=mfn, hardware=hardware)
        if kind in DEVICE:
            # mapped by Xen itself while it booted
            s = put(s, "iomem", (owner, mfn), left=True)
        if kind == P2mType.RAM_RW and s.frame[mfn].use == Use.DOMAIN:  # type: ignore[index]
            s = put(s, "frame", mfn, gfn=gfn)
    oracle.state = s
    oracle.shapes = oracle.shapes.set(domain.id, shape_of(domain))


def shape_of(domain: ImplDomain) -> Shape:
    """The tree of a domain's tables, as it stands in RAM."""
    p2m = domain.p2m
    numbers = {mfn: len(p2m.tables) - 1 - i for i, mfn in enumerate(p2m.tables)}
    tables: dict[tuple[int, int], Node] = {}
    blocks: dict[tuple[int, int], bool] = {}
    level = p2m.root_level
    pending = [((p2m.root or 0) + i, level, i << 9) for i in range(p2m.root_pages if p2m.root is not None else 0)]
    while pending:
        mfn, level, first = pending.pop()
        if level == LEAF:
            continue
        page = p2m.memory.page(mfn)
        for index in page.nonzero()[0].tolist():
            word = int(page[index])
            if not word >> TYPE_SHIFT & 15:
                continue
            if word & TABLE:
                below = (word & FRAME) >> 12
                tables[level + 1, first + index] = Node(below, bool(word & VALID), numbers[below])
                pending.append((below, level + 1, first + index << 9))
            else:
                blocks[level, first + index] = True
    return Shape(p2m.root_level, immutables.Map(tables), immutables.Map(blocks), len(numbers))
