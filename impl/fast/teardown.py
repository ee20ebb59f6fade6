"""The death of a domain, stage by stage; other domains run between the stages.

Source: xen/common/domain.c (domain_kill, domain_teardown, complete_domain_destroy), xen/arch/arm/domain.c
(domain_relinquish_resources, relinquish_memory) at 4.17.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from impl.fast import abi
from impl.fast.boot import free_shared_info
from impl.fast.domains import Domain, Dying
from impl.fast.frames import Frames

if TYPE_CHECKING:
    from impl.fast.machine import Machine

GNTTAB_MAPPINGS, XEN_PAGES, PAGES, MAPPINGS, P2M_TABLES, P2M_POOL, DONE = range(7)


def kill(machine: Machine, caller: Domain | None, domain: Domain) -> int:
    """domain_kill: 0 when the domain is dead, -ERESTART when preempted, -EINVAL for oneself."""
    if domain is caller:
        return -abi.EINVAL
    if domain.is_dying == Dying.dead:
        return 0
    if domain.is_dying == Dying.alive:
        domain.is_dying = Dying.dying
        machine.frames.set_outstanding(domain, 0)
    rc = _relinquish(machine, domain)
    if rc:
        return rc
    domain.is_dying = Dying.dead
    domain.put()
    return 0


def _relinquish(machine: Machine, domain: Domain) -> int:
    """domain_teardown and domain_relinquish_resources: 0 or -ERESTART."""
    from impl.fast.grant import lifecycle
    if domain.teardown_stage == GNTTAB_MAPPINGS:
        if not lifecycle.release_mappings(machine, domain, None):
            return -abi.ERESTART
        domain.teardown_stage = XEN_PAGES
    if domain.teardown_stage == XEN_PAGES:
        if not _relinquish_memory(machine, domain, domain.xenpage_list):
            return -abi.ERESTART
        domain.teardown_stage = PAGES
    if domain.teardown_stage == PAGES:
        if not _relinquish_memory(machine, domain, domain.page_list):
            return -abi.ERESTART
        domain.teardown_stage = MAPPINGS
    if domain.teardown_stage == MAPPINGS:
        rc = domain.p2m.relinquish_mappings()
        if rc:
            return rc
        domain.teardown_stage = P2M_TABLES
    if domain.teardown_stage == P2M_TABLES:
        rc = domain.p2m.teardown(preemptible=True)
        if rc:
            return rc
        domain.teardown_stage = P2M_POOL
    if domain.teardown_stage == P2M_POOL:
        rc = domain.p2m.teardown_allocation()
        if rc:
            return rc
        domain.teardown_stage = DONE
    return 0


def _relinquish_memory(machine: Machine, domain: Domain, pages: OrderedDict[int, None]) -> bool:
    """relinquish_memory: drop the allocation reference of every page on a list; False when preempted."""
    frames: Frames = machine.frames
    for mfn in list(pages):
        if not frames.get_page(mfn, domain.id):
            continue
        frames.put_page_alloc_ref(mfn)
        frames.put_page(mfn)
        if machine.preempt_check():
            return False
    return True


def complete(machine: Machine, domain: Domain) -> None:
    """complete_domain_destroy, after it was unlisted: grant table, stage-2 tables, shared_info, VMID, its target."""
    from impl.fast.grant import lifecycle
    lifecycle.destroy(machine, domain)
    domain.p2m.final_teardown()
    free_shared_info(machine, domain)
    target = machine.domains.get(domain.target) if domain.target is not None else None
    if target is not None and domain.holds_target:
        target.put()
