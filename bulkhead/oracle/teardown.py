"""The end of a domain: the steps of its destruction in Xen's order, with Xen's preemption checks.

Source: xen/common/domain.c (domain_kill, domain_teardown, complete_domain_destroy), xen/arch/arm/domain.c
(domain_relinquish_resources, relinquish_memory), xen/arch/arm/p2m.c (relinquish_p2m_mapping, p2m_teardown,
p2m_set_allocation), Xen 4.17.
"""

from __future__ import annotations

import attrs
import immutables

from bulkhead.oracle.machine import Oracle
from spec.errors import ERESTART
from spec.language import DomId, Gfn, Mfn
from spec.language.outcomes import Kind
from spec.memory.frames import can_get_page
from spec.memory.p2m import is_live
from spec.state import Stage, Status, Use

_CHECK_EACH = 512
"""Mappings or tables between two preemption checks."""


def destroy(oracle: Oracle, caller: int, domain: int) -> int:
    """domain_kill: 0 when the domain is dead, -ERESTART when preempted, or why it is refused."""
    outcome = oracle.step("kill_domain", caller=caller, domain=domain)
    if outcome.kind is not Kind.RESTART:
        return int(outcome.code)
    while oracle.state.domain[DomId(domain)].status == Status.DYING:
        stage = oracle.state.domain[DomId(domain)].stage
        if not _STAGES[Stage(stage)](oracle, domain):
            return -ERESTART
        oracle.step("finish_stage", domain=domain)
    return 0


def _grants(oracle: Oracle, domain: int) -> bool:
    from bulkhead.oracle.grants_teardown import release_mappings
    return bool(release_mappings(oracle, domain))


def _frames(oracle: Oracle, domain: int, use: Use) -> bool:
    """Frames of a kind lose the reference of their allocation, one after the other.

    Those that others hold stay on the list, and are looked at again each time that this begins anew.
    """
    mine = [mfn for mfn, row in oracle.state.frame.items()
            if row.use == use and row.owner == domain and row.references > 0]
    for mfn in oracle.in_order(mine):
        if not can_get_page(oracle.state, Mfn(mfn)):
            continue
        if oracle.state.frame[Mfn(mfn)].allocated:
            oracle.step("relinquish_frame", domain=domain, mfn=mfn)
        if oracle.preempted():
            return False
    return True


def _shared(oracle: Oracle, domain: int) -> bool:
    return _frames(oracle, domain, Use.SHARED)


def _pages(oracle: Oracle, domain: int) -> bool:
    return _frames(oracle, domain, Use.DOMAIN)


def _mappings(oracle: Oracle, domain: int) -> bool:
    """Mappings are cleared from the lowest guest frame on."""
    row = oracle.state.domain[DomId(domain)]
    gfn: int = row.lowest_gfn
    end, count, done = row.highest_gfn + 1, 0, True
    while gfn < end:
        order = oracle.shapes[domain].order_at(gfn, row.highest_gfn)
        count += 1
        if count % _CHECK_EACH == 0 and oracle.preempted():
            done = False
            break
        after = (gfn >> order) + 1 << order
        if is_live(oracle.state.p2m[DomId(domain), Gfn(gfn)]):
            for each in range(gfn, after):
                oracle.step("relinquish_mapping", domain=domain, gfn=each)
            change = oracle.change(domain)
            change.entry(gfn, order, removing=True)
            oracle.commit(domain, change)
        gfn = after
    reached = min(gfn, end) - 1
    if reached >= oracle.state.domain[DomId(domain)].lowest_gfn:
        oracle.step("relinquish_mapping", domain=domain, gfn=reached)
    return done


def _tables(oracle: Oracle, domain: int) -> bool:
    """Tables go back to the pool, the newest first."""
    shape = oracle.shapes.get(domain)
    if shape is None:
        return True
    left = dict(shape.tables)
    hardware = oracle.state.domain[DomId(domain)].hardware
    done = True
    for count, (key, node) in enumerate(sorted(left.items(), key=lambda item: -item[1].number), 1):
        del left[key]
        if hardware:
            oracle.give_hidden(node.mfn)
        else:
            oracle.step("give_table", domain=domain)
            oracle.guest(domain, pool=(*oracle.guests[domain].pool, node.mfn))
        if count % _CHECK_EACH == 0 and oracle.preempted():
            done = False
            break
    oracle.shapes = oracle.shapes.set(domain, attrs.evolve(shape, tables=immutables.Map(left),
                                                           blocks=immutables.Map()))
    return done


def _pool(oracle: Oracle, domain: int) -> bool:
    while oracle.guests[domain].pool:
        give_pool_page(oracle, domain)
        if oracle.preempted():
            return False
    return True


def give_pool_page(oracle: Oracle, domain: int) -> None:
    """The next unused page of a pool goes back to the heap."""
    mfn, *rest = oracle.guests[domain].pool
    oracle.step("relinquish_pool", domain=domain, mfn=mfn)
    oracle.guest(domain, pool=tuple(rest))


_STAGES = {Stage.GRANTS: _grants, Stage.SHARED: _shared, Stage.PAGES: _pages, Stage.MAPPINGS: _mappings,
           Stage.TABLES: _tables, Stage.POOL: _pool}


# ---- the very end


def unlist(oracle: Oracle) -> None:
    """Domains that are dead and held by nobody are found by nobody any more, from this step of a call on."""
    for domain in oracle.guests:
        if oracle.state.domain[DomId(domain)].status == Status.DEAD and not _is_held(oracle, domain):
            oracle.step("unlist_domain", domain=domain)


def finish_destruction(oracle: Oracle) -> None:
    """Domains that are in no list any more are forgotten; that may let go of another one, which is then unlisted."""
    while True:
        for domain in oracle.guests:
            if oracle.state.domain[DomId(domain)].status == Status.UNLISTED:
                forget(oracle, domain)
                break
        else:
            return


def _is_held(oracle: Oracle, domain: int) -> bool:
    row = oracle.state.domain[DomId(domain)]
    if row.tot_pages or row.xenheap_pages:
        return True
    others = (oracle.state.domain[DomId(other)] for other in oracle.guests)
    return any(other.device_model and other.target == domain for other in others)


def forget(oracle: Oracle, domain: int) -> None:
    """What Xen itself has of a domain that is in no list any more is given back, and then its id."""
    from bulkhead.oracle.grants_teardown import destroy as destroy_grants
    destroy_grants(oracle, domain)
    _tables(oracle, domain)
    while oracle.guests[domain].pool:
        give_pool_page(oracle, domain)
    roots = [mfn for mfn, row in oracle.state.frame.items() if row.use == Use.TABLE and row.pool == domain and row.root]
    for mfn in sorted(roots):
        oracle.step("free_root", domain=domain, mfn=mfn)
    info = oracle.state.domain[DomId(domain)].shared_info
    if oracle.state.frame[info].use == Use.SHARED and oracle.state.frame[info].owner == domain:
        oracle.step("free_shared_info", domain=domain)
    oracle.step("forget_domain", domain=domain)
    oracle.guests = oracle.guests.delete(domain)
    if domain in oracle.shapes:
        oracle.shapes = oracle.shapes.delete(domain)
