"""A domain: limits, privilege, pages, life cycle and vCPUs.

Source: xen/include/xen/sched.h (struct domain), xen/common/domain.c at 4.17.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from impl.fast.errors import XenPanic

if TYPE_CHECKING:
    from impl.fast.machine import Machine
    from impl.fast.p2m import P2m


class Dying(IntEnum):
    """d->is_dying."""

    alive = 0
    dying = 1
    dead = 2


class Vcpu:
    """A vCPU, as far as memory operations see it."""

    __slots__ = ("cache_on", "id", "initialised", "offline", "traps_vm")

    def __init__(self, number: int, *, running: bool) -> None:
        self.id = number
        self.initialised = running
        self.offline = not running          # the pause flag DOWN
        self.traps_vm = False               # HCR_EL2.TVM: Xen watches the cache being turned on or off
        self.cache_on = False               # SCTLR.M and C, as far as Xen was told

    def copy(self) -> Vcpu:
        """A copy, for snapshots."""
        other = Vcpu(self.id, running=self.initialised)
        other.offline, other.traps_vm, other.cache_on = self.offline, self.traps_vm, self.cache_on
        return other


class Domain:
    """One domain.

    id: domain id; max_vcpus: vCPUs that may exist; direct_map: 1:1 (gfn == mfn).
    `page_list` and `xenpage_list` are its frames in the order of allocation. `target`: the domain id that this one is
    the device model of. `grant_table` belongs to impl.fast.grant. `p2m` is its stage-2 table.
    """

    def __init__(self, machine: Machine, number: int, *, max_vcpus: int, privileged: bool = False,
                 hardware: bool = False, direct_map: bool = False, iommu: bool = False) -> None:
        self.machine = machine
        self.id = number
        self.is_privileged = privileged
        self.is_hardware = hardware
        self.direct_map = direct_map
        self.iommu = iommu
        self.width = machine.width              # of the guest's registers: 32 or 64
        self.max_vcpus = max_vcpus
        self.vcpus: dict[int, Vcpu] = {}
        self.target: int | None = None
        self.holds_target = False               # set_target keeps a reference to the target
        # pages
        self.max_pages = 0
        self.tot_pages = 0
        self.extra_pages = 0
        self.xenheap_pages = 0
        self.outstanding_pages = 0
        self.page_list: OrderedDict[int, None] = OrderedDict()
        self.xenpage_list: OrderedDict[int, None] = OrderedDict()
        self.shared_info: int | None = None     # mfn
        # life cycle
        self.refcnt = 1                         # the creation reference
        self.is_dying = Dying.alive
        self.creation_finished = False
        self.controller_pause_count = 1
        self.shutdown_code: int | None = None   # set while shut down
        self.teardown_stage = 0
        self.handle = bytes(16)
        # devices: frames of I/O memory that it may map, as (first mfn, last mfn)
        self.iomem: list[tuple[int, int]] = []
        # grants
        self.max_grant_frames = 0
        self.max_maptrack_frames = 0
        self.max_grant_version = 1
        self.grant_table: Any = None         # impl.fast.grant keeps its state here
        self.p2m: P2m

    @property
    def domid(self) -> int:
        """The domain id."""
        return self.id

    # ---- references ---------------------------------------------------------------------------------------------

    def get(self) -> None:
        """Take a reference to the domain itself (get_knownalive_domain)."""
        self.refcnt += 1

    def put(self) -> None:
        """Drop one; the last destroys the domain completely."""
        if self.refcnt <= 0:
            raise XenPanic(f"put_domain: domain {self.id} has no reference")
        self.refcnt -= 1
        if self.refcnt == 0:
            self.machine.domain_destroy(self)

    # ---- predicates ---------------------------------------------------------------------------------------------

    @property
    def runs(self) -> bool:
        """Its vCPUs may run: alive, unpaused, not shut down."""
        return self.is_dying == Dying.alive and not self.controller_pause_count and self.shutdown_code is None

    @property
    def has_iomem(self) -> bool:
        """cache_flush_permitted: it owns a range of I/O memory."""
        return bool(self.iomem)

    @property
    def needs_grant_iommu(self) -> bool:
        """gnttab_need_iommu_mapping: direct-mapped and behind an IOMMU."""
        return self.direct_map and self.iommu

    def iomem_permitted(self, first: int, last: int) -> bool:
        """iomem_access_permitted: the whole range of frames first..last."""
        return any(low <= first and last <= high for low, high in self.iomem)

    def permit_iomem(self, first: int, last: int) -> None:
        """iomem_permit_access: add a range; neighbours merge."""
        merged: list[tuple[int, int]] = []
        for low, high in sorted([*self.iomem, (first, last)]):
            if merged and low <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(merged[-1][1], high))
            else:
                merged.append((low, high))
        self.iomem = merged

    def deny_iomem(self, first: int, last: int) -> None:
        """iomem_deny_access: take a range away.

        Where it begins in a hole and reaches into a range, the range before the hole grows up to it: Xen sets its end
        without a look at where that was. Source: xen/common/rangeset.c at 4.17.5 (rangeset_remove_range).
        """
        kept = []
        before = [each for each in self.iomem if each[0] <= first]
        if before and before[-1][1] < first and any(first < low <= last for low, _ in self.iomem):
            self.iomem[len(before) - 1] = before[-1][0], first - 1
        for low, high in self.iomem:
            if high < first or low > last:
                kept.append((low, high))
                continue
            if low < first:
                kept.append((low, first - 1))
            if high > last:
                kept.append((last + 1, high))
        self.iomem = kept

    # ---- snapshots ------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """A copy of everything but `grant_table` and `p2m`, for `load`."""
        state = {name: value for name, value in self.__dict__.items() if name not in {"machine", "grant_table", "p2m"}}
        state["page_list"] = OrderedDict(self.page_list)
        state["xenpage_list"] = OrderedDict(self.xenpage_list)
        state["iomem"] = list(self.iomem)
        state["vcpus"] = {number: vcpu.copy() for number, vcpu in self.vcpus.items()}
        return state

    def load(self, saved: dict[str, Any]) -> None:
        """Back to what `save` returned, which may be used again."""
        self.__dict__.update(saved)
        self.page_list = OrderedDict(saved["page_list"])
        self.xenpage_list = OrderedDict(saved["xenpage_list"])
        self.iomem = list(saved["iomem"])
        self.vcpus = {number: vcpu.copy() for number, vcpu in saved["vcpus"].items()}
