"""The end of a domain's grants: its mappings of others' pages, then, when nobody knows it any more, its table.

Source: xen/common/grant_table.c (gnttab_release_mappings, grant_table_destroy), Xen 4.17.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec.grant.invariants import MAPTRACK_ENTRIES, is_live
from spec.language import DomId, Handle, Kind

if TYPE_CHECKING:
    from bulkhead.oracle.machine import Oracle


def release_mappings(oracle: Oracle, domain: int, budget: int | None = None) -> bool:
    """Take back every mapping of a dying domain, from the highest handle down; False if there is more to do.

    budget: maptrack frames to do at most, at least 1; None: until other work comes first, for which Xen looks after
    each maptrack frame but that of handle 0.
    """
    dying = DomId(domain)
    while oracle.state.domain[dying].maptrack_frames:
        number = oracle.state.domain[dying].maptrack_frames - 1
        for each in range((number + 1) * MAPTRACK_ENTRIES - 1, number * MAPTRACK_ENTRIES - 1, -1):
            if is_live(oracle.state.mapping[dying, Handle(each)]):
                oracle.step("release_mapping", domain=dying, handle=Handle(each))
        oracle.step("free_maptrack_frame", domain=dying)
        *others, mfn = oracle.guests[domain].maptrack
        oracle.guest(domain, maptrack=tuple(others))
        oracle.give_hidden(mfn)
        if budget is not None:
            budget -= 1
        if number and (oracle.preempted() if budget is None else budget == 0):
            return False
    return True


def destroy(oracle: Oracle, domain: int) -> None:
    """Free the table of a domain that is gone: frames of entries, what Xen keeps of them, status frames."""
    gone = DomId(domain)
    if oracle.state.domain[gone].grant_frames:
        while oracle.step("free_grant_frame", domain=gone).kind is Kind.RESTART:
            pass
    for mfn in oracle.guests[domain].active:
        oracle.give_hidden(mfn)
    oracle.guest(domain, active=())
    if oracle.state.domain[gone].status_frames:
        while oracle.step("free_last_status_frame", domain=gone).kind is Kind.RESTART:
            pass
