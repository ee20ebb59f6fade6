"""Grant mappings and the devices of the mapper.

A direct-mapped domain with an IOMMU (dom0) programs machine addresses into its devices.  So a frame
that it maps through a grant is also entered one to one into its stage 2, which its devices share:
writable while it has a writable mapping of the frame, read-only while it has read-only ones alone.

Source: xen/common/grant_table.c (map_grant_ref, unmap_common), xen/drivers/passthrough/arm/iommu_helpers.c
(arm_iommu_map_page), Xen 4.17.
"""

from __future__ import annotations

from spec.deviations import happens
from spec.errors import GNTST_GENERAL_ERROR
from spec.language import (
    DEVIATIONS,
    Boolean,
    Deviation,
    DomId,
    Gfn,
    Index,
    Kind,
    Mfn,
    Outcome,
    accept,
    both,
    ite,
    merged,
    partial,
    put,
    refuse,
)
from spec.memory import p2m
from spec.state import P2mType, State

DEVIATIONS["DEV-10"] = Deviation("DEV-10", "A count of device mappings is not reduced")


def has_direct_devices(s: State, domain: DomId) -> Boolean:
    """The domain's devices use machine addresses, through an IOMMU."""
    row = s.domain[domain]
    return both(row.direct_mapped, row.iommu)


def most_uses(s: State) -> int:
    """The largest count: half a machine word, less one bit."""
    return ite(s.settings[Index(0)].arm32, (1 << 15) - 1, (1 << 31) - 1)


@merged
def enter_for_devices(s: State, domain: DomId, mfn: Mfn, readonly: bool) -> Outcome[State]:
    """One more grant mapping of the frame.

    Errors: general_error if the count is at its limit or the insertion fails.
    """
    use = s.device_use[domain, mfn]
    if (use.readers if readonly else use.writers) >= most_uses(s):
        return refuse(s, GNTST_GENERAL_ERROR)
    after = put(s, "device_use", (domain, mfn),
                readers=use.readers + ite(readonly, 1, 0), writers=use.writers + ite(readonly, 0, 1))
    # entered already with at least these rights
    if use.writers > 0 or (readonly and use.readers > 0):
        return accept(after)
    kind = ite(readonly, P2mType.IOMMU_MAP_RO, P2mType.IOMMU_MAP_RW)
    entered = p2m.insert_page(after, domain, Gfn(mfn), mfn, kind)
    if entered.kind != Kind.DONE:
        return refuse(s, GNTST_GENERAL_ERROR)
    return entered


@merged
def leave_for_devices(s: State, domain: DomId, mfn: Mfn, readonly: bool) -> Outcome[State]:
    """One grant mapping of the frame less.

    Errors: general_error if something else is mapped in its place (DEV-10).
    """
    use = s.device_use[domain, mfn]
    readers, writers = use.readers - ite(readonly, 1, 0), use.writers - ite(readonly, 0, 1)
    after = put(s, "device_use", (domain, mfn), readers=readers, writers=writers)
    # the last one: out of the stage 2, where it is no part of a larger block: no table page is needed
    if readers + writers == 0:
        left = p2m.remove_page(after, domain, Gfn(mfn), mfn, tables_left=True)
    # the last writable one: devices may only read from now on
    elif not readonly and writers == 0:
        left = p2m.insert_page(after, domain, Gfn(mfn), mfn, P2mType.IOMMU_MAP_RO)
    else:
        return accept(after)
    if left.kind != Kind.DONE:
        return partial(happens(s, "dev10"), GNTST_GENERAL_ERROR)
    return left
