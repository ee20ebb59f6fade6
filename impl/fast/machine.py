"""The machine: RAM, frame table, domains, and the stimuli that guests give.

Everything that guests of Xen 4.17 on Arm can see of memory and grants: loads, stores, fetches, hypercalls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import attrs

from impl.fast import abi
from impl.fast.domains import Domain
from impl.fast.errors import BadConfig, BadStimulus, DomainCrash, NotModelled, XenPanic
from impl.fast.frames import Frames
from impl.fast.memory import Memory, RamLike

# IPA bits, root level, concatenated root pages. Source: setup_virt_paging (xen/arch/arm/p2m.c), a row for each PARange
_GEOMETRY = ((32, 1, 1), (36, 1, 1), (40, 1, 2), (42, 1, 8), (44, 0, 1), (48, 0, 1))


@attrs.frozen
class DomainConfig:
    """A domain at boot.

    domid: 0 is dom0; width: 32 or 64 bits of its registers (None: as Xen's); pages: RAM in frames; base_gfn: first gfn
    (ignored for a direct map, where gfn == mfn); vcpus: how many; target: domain id it is the device model of;
    max_pages: limit (None: `pages`); max_grant_frames, max_maptrack_frames: limits (None: the machine's; for dom0 also
    Xen's text size); p2m_pool_pages: frames of the stage-2 pool (None: Xen's default, 1 MB a vCPU + 4 KB a MB + 512 KB,
    whole MB); iomem: (first mfn, frames) of I/O memory it may map; devices: (gfn, mfn, frames) mapped at boot;
    iommu: behind one.
    """

    domid: int
    pages: int
    base_gfn: int = 0x40000
    vcpus: int = 1
    privileged: bool = False
    is_hardware: bool = False
    direct_map: bool = False
    target: int | None = None
    max_pages: int | None = None
    max_grant_frames: int | None = None
    max_maptrack_frames: int | None = None
    p2m_pool_pages: int | None = 32
    iomem: tuple[tuple[int, int], ...] = ()
    devices: tuple[tuple[int, int, int], ...] = ()
    iommu: bool = False
    width: Literal[32, 64] | None = None


def _as_tuple(domains: Iterable[DomainConfig]) -> tuple[DomainConfig, ...]:
    return tuple(domains)


@attrs.frozen
class Config:
    """A machine at boot.

    arch: "arm64" or "arm32"; pa_bits: physical address width (arm32: always 40); ipa_bits: a lower limit of IOMMUs;
    vmid_bits: 8 or 16; xsm: policy; grant_max_version: gnttab=max-ver; opt_max_*: gnttab_max_frames and its fellow;
    grant_transitive: gnttab=transitive; cache_line: bytes of the smallest line of a data cache (CTR_EL0.DminLine);
    iommu_shares_p2m: IOMMUs walk the stage-2 tables; scrub_domheap: Xen's option; xen_text_pages: frames of Xen's text
    (bounds dom0's grant table); xen_pages: frames at the start of RAM that hold Xen; xenheap_pages: arm32's heap of its
    own (None: Xen's rule); gic_version: of the board and its domains; gic_frames: (gfn of GICC for domUs, gfn for dom0,
    mfn of GICV, frames) mapped for a GICv2; iommu, vpmu: what createdomain may ask for.
    """

    arch: Literal["arm64", "arm32"] = "arm64"
    pa_bits: int = 40
    ipa_bits: int = 48
    vmid_bits: int = 8
    xsm: Literal["dummy", "silo"] = "dummy"
    grant_max_version: int = 1
    opt_max_grant_frames: int = 64
    opt_max_maptrack_frames: int = 1024
    grant_transitive: bool = True
    iommu_shares_p2m: bool = False
    scrub_domheap: bool = False
    xen_text_pages: int = 256
    xen_pages: int = 16
    xenheap_pages: int | None = None
    gic_version: Literal[2, 3] = 2
    gic_frames: tuple[int, int, int, int] | None = None
    iommu: bool = False
    vpmu: bool = False
    cache_line: int = 64
    domains: tuple[DomainConfig, ...] = attrs.field(default=(), converter=_as_tuple)


@attrs.define
class Observation:
    """What a stimulus showed.

    kind: "value" (done; `value` of a load or fetch), "fault" (an abort was injected), "stuck" (retried for ever, or the
    domain does not run), "crash" (Xen crashed the domain), "restart" (preempted, the HVC runs again), "panic".
    registers: 31 after a hypercall; fault: (kind, level, ipa, syndrome), the syndrome as the guest reads it;
    written: frames written; choices: ("frame" | "table" | "handle", number) in order; reason: of a panic or crash.
    """

    kind: str
    registers: list[int] | None = None
    value: int | None = None
    fault: tuple[str, int, int, int] | None = None
    written: frozenset[int] = frozenset()
    choices: tuple[tuple[str, int], ...] = ()
    reason: str = ""

    @property
    def restart(self) -> bool:
        """The hypercall was preempted and is to be executed again with these registers."""
        return self.kind == "restart"


class Restart:
    """What a hypercall returns when preempted: the argument registers from the first on, for when it runs again."""

    __slots__ = ("arguments",)

    def __init__(self, *arguments: int) -> None:
        self.arguments = arguments


class Machine:
    """A board with Xen and its domains.

    ram: the board's RAM; config: see Config.
    allocator: of frames, for machines that choose in another way.
    Errors: BadConfig.
    """

    allocator: type[Frames] = Frames

    def __init__(self, ram: RamLike, config: Config) -> None:
        _check(config)
        self.config = config
        self.width = 64 if config.arch == "arm64" else 32
        self.address_mask = abi.MASK64 if self.width == 64 else abi.MASK32
        self.ipa_bits, self.root_level, self.root_pages = _geometry(config)
        self.memory = Memory(ram)
        self.domains: dict[int, Domain] = {}
        self.panicked: str = ""
        self.max_vmid = 1 << (config.vmid_bits if self.width == 64 else 8)
        self.vmids: set[int] = {0}
        self._preempt_in: int | None = None
        self._unlisted: list[Domain] = []
        self.last_domid = 0
        xenheap, self.xen_frames = _layout(self.memory, config)
        self.frames = self.allocator(self.memory, self.width, xenheap, config.scrub_domheap)
        self.frames.domains = self.domains
        first, number = self.memory.banks[-1]
        self.max_page = first + number                  # one more than the highest frame of RAM
        self.max_page_bits = (self.max_page - 1).bit_length() + abi.PAGE_SHIFT
        from impl.fast import boot
        boot.boot(self)
        self.memory.begin()
        self.frames.choices.clear()

    # ---- names -------------------------------------------------------------------------------------------------

    def domain_by_id(self, number: int) -> Domain | None:
        """rcu_lock_domain_by_id: every listed domain, dying and dead ones too; no special id."""
        return self.domains.get(number)

    def domain_by_any_id(self, caller: Domain, number: int) -> Domain | None:
        """rcu_lock_domain_by_any_id: as `domain_by_id`, with DOMID_SELF for the caller."""
        return caller if number == abi.DOMID_SELF else self.domains.get(number)

    def alloc_vmid(self) -> int | None:
        """p2m_alloc_vmid: the lowest free VMID, or None."""
        for vmid in range(1, self.max_vmid):
            if vmid not in self.vmids:
                self.vmids.add(vmid)
                return vmid
        return None

    def free_vmid(self, vmid: int) -> None:
        """p2m_free_vmid; VMID 0 is never given."""
        if vmid:
            self.vmids.discard(vmid)

    # ---- choices and preemption ----------------------------------------------------------------------------------

    def preempt_after(self, items: int | None) -> None:
        """The next hypercall is preempted at its `items`-th preemption check (1 is the first); None: not at all."""
        if items is not None and items < 1:
            raise BadStimulus(f"preempt_after({items}): the first check is number 1")
        self._preempt_in = items

    def preempt_check(self) -> bool:
        """hypercall_preempt_check: something is pending. Called exactly where Xen calls it."""
        if self._preempt_in is None:
            return False
        self._preempt_in -= 1
        if self._preempt_in:
            return False
        self._preempt_in = None
        return True

    def force(self, choices: Iterable[tuple[str, int]]) -> None:
        """Queue choices ("frame" | "table" | "handle", number) to be taken in order instead of Xen's own, where legal.

        A choice of the kind that is wanted next is used up even if it is not legal then.
        """
        self.frames.forced = deque(choices)

    def choose(self, kind: str) -> int | None:
        """The next forced choice if it is of this kind; the caller judges whether it is legal."""
        forced = self.frames.forced
        if forced and forced[0][0] == kind:
            return forced.popleft()[1]
        return None

    def note_choice(self, kind: str, number: int) -> None:
        """Log a choice for the observation."""
        self.frames.choices.append((kind, number))

    # ---- life and death ------------------------------------------------------------------------------------------

    def crash_domain(self, domain: Domain) -> None:
        """domain_crash: the domain shuts down with code 3 and runs no more. Raise DomainCrash to end its hypercall."""
        if domain.shutdown_code is None:
            domain.shutdown_code = 3

    def domain_destroy(self, domain: Domain) -> None:
        """The last reference is gone: unlisted at once, destroyed completely when the hypercall ends (RCU in Xen)."""
        self.domains.pop(domain.id, None)
        self._unlisted.append(domain)

    def _finish_destruction(self) -> None:
        """complete_domain_destroy for the domains unlisted in this hypercall; one may drop the last hold on another."""
        from impl.fast import teardown
        while self._unlisted:
            teardown.complete(self, self._unlisted.pop(0))

    # ---- stimuli ---------------------------------------------------------------------------------------------------

    def runner(self, dom: int, vcpu: int) -> Domain:
        """The domain that gives a stimulus. Errors: BadStimulus if there is no such domain or vCPU."""
        domain = self.domains.get(dom)
        if domain is None:
            raise BadStimulus(f"there is no domain {dom}")
        if vcpu not in domain.vcpus:
            raise BadStimulus(f"domain {dom} has no vCPU {vcpu}")
        return domain

    def _begin(self) -> Observation | None:
        """A stimulus begins; an observation if the machine stopped before."""
        self.memory.begin()
        if self.frames.choices:
            self.frames.choices = []
        if self.panicked:
            return Observation("panic", reason=self.panicked)
        return None

    def _observe(self, kind: str, registers: list[int] | None = None, value: int | None = None,
                 fault: tuple[str, int, int, int] | None = None, reason: str = "") -> Observation:
        return Observation(kind, registers, value, fault, frozenset(self.memory.written), tuple(self.frames.choices),
                           reason)

    def _panic(self, panic: XenPanic) -> Observation:
        self.panicked = str(panic)
        return self._observe("panic", reason=self.panicked)

    def hypercall(self, dom: int, vcpu: int, registers: Mapping[int, int] | Sequence[int]) -> Observation:
        """HVC #0xEA1: number in x16 (r12 for a 32-bit guest), arguments in x0..x4, result in x0.

        registers: 31 general registers, or those that matter by number; each is cut to the guest's width.
        Errors: BadStimulus, NotModelled (a hypercall that Xen has and this machine has not).
        """
        domain = self.runner(dom, vcpu)
        stopped = self._begin()
        if stopped is not None:
            return stopped
        mask = abi.MASK64 if domain.width == 64 else abi.MASK32
        if isinstance(registers, Mapping):
            regs = [0] * 31
            for number, value in registers.items():
                if not 0 <= number < 31:
                    raise BadStimulus(f"there is no general register {number}")
                regs[number] = value & mask
        else:
            if len(registers) != 31:
                raise BadStimulus(f"{len(registers)} general registers were given, not 31")
            regs = [value & mask for value in registers]
        if not domain.runs or vcpu not in domain.vcpus or domain.vcpus[vcpu].offline:
            return self._observe("stuck", regs)
        number = regs[16] if domain.width == 64 else regs[12]
        handler = _handlers().get(number)
        try:
            if handler is None:
                if number in abi.PRESENT:
                    raise NotModelled(f"hypercall {number} is not modelled")
                result: int | Restart = -abi.ENOSYS
            else:
                result = handler(self, domain, vcpu, regs)
                if self._unlisted:
                    self._finish_destruction()
        except DomainCrash as crash:
            self._finish_destruction()
            self._preempt_in = None
            return self._observe("crash", regs, reason=str(crash))
        except XenPanic as panic:
            return self._panic(panic)
        self._preempt_in = None
        if isinstance(result, Restart):
            for i, argument in enumerate(result.arguments):
                regs[i] = argument & mask
            return self._observe("restart", regs)
        regs[0] = result & mask
        if domain.shutdown_code is not None:
            return self._observe("crash", regs)
        return self._observe("value", regs)

    def load(self, dom: int, vcpu: int, ipa: int, size: int = 8) -> Observation:
        """A load by the guest, stage 1 being the identity.

        ipa: address; size: 1, 2, 4 or 8 bytes; a load that crosses a page faults at the first page that does.
        """
        return self._access(dom, vcpu, ipa, size, None)

    def store(self, dom: int, vcpu: int, ipa: int, size: int, value: int) -> Observation:
        """A store by the guest; parameters as `load`, value 0..2**(8*size)-1."""
        if not 0 <= value < 1 << 8 * size:
            raise BadStimulus(f"{value:#x} does not fit in {size} bytes")
        return self._access(dom, vcpu, ipa, size, value)

    def fetch(self, dom: int, vcpu: int, ipa: int) -> Observation:
        """The fetch of the instruction at `ipa` (4 bytes, aligned)."""
        if ipa & 3:
            raise BadStimulus(f"an instruction at {ipa:#x} is not aligned")
        return self._access(dom, vcpu, ipa, 4, None, fetch=True)

    def set_way(self, dom: int, vcpu: int) -> Observation:
        """A cache operation by set and way, trapped: all of the domain's RAM is flushed before the vCPU goes on.

        Refused as undefined ("fault") when an IOMMU shares the tables. Afterwards the root table is invalid again.
        Source: p2m_set_way_flush, p2m_flush_vm (xen/arch/arm/p2m.c).
        """
        domain = self.runner(dom, vcpu)
        stopped = self._begin()
        if stopped is not None:
            return stopped
        if not domain.runs or domain.vcpus[vcpu].offline:
            return self._observe("stuck")
        if domain.iommu and self.config.iommu_shares_p2m:
            return self._observe("fault", fault=("undefined", 0, 0, 0x02000000 if domain.width == 64 else 0))
        if not domain.vcpus[vcpu].traps_vm:
            domain.vcpus[vcpu].traps_vm = True
            domain.p2m.invalidate_root()
        return self._observe("value")

    def toggle_cache(self, dom: int, vcpu: int, *, enabled: bool) -> Observation:
        """The vCPU turns its cache (SCTLR.M and C) on or off: seen by Xen only after `set_way`, until it is on again.

        Source: p2m_toggle_cache (xen/arch/arm/p2m.c).
        """
        domain = self.runner(dom, vcpu)
        stopped = self._begin()
        if stopped is not None:
            return stopped
        if not domain.runs or domain.vcpus[vcpu].offline:
            return self._observe("stuck")
        state = domain.vcpus[vcpu]
        if state.traps_vm:
            if enabled != state.cache_on:
                domain.p2m.invalidate_root()
            state.traps_vm = not enabled
        state.cache_on = enabled
        return self._observe("value")

    def _access(self, dom: int, vcpu: int, ipa: int, size: int, value: int | None, *,
                fetch: bool = False) -> Observation:
        domain = self.runner(dom, vcpu)
        if size not in {1, 2, 4, 8}:
            raise BadStimulus(f"no access has {size} bytes")
        if not 0 <= ipa <= abi.MASK64 - 8:
            raise BadStimulus(f"there is no address {ipa:#x}")
        stopped = self._begin()
        if stopped is not None:
            return stopped
        if not domain.runs or domain.vcpus[vcpu].offline:
            return self._observe("stuck")
        offset = ipa & 0xFFF
        first = min(size, 4096 - offset)
        try:
            found = self._translate(domain, ipa, value is not None, fetch)
            if isinstance(found, Observation):
                return found
            second = found
            if first != size:
                other = self._translate(domain, ipa + first, value is not None, fetch)
                if isinstance(other, Observation):
                    return other
                second = other
        except XenPanic as panic:
            return self._panic(panic)
        if value is None:
            data = self._device_read(found, offset, first)
            if first != size:
                data += self._device_read(second, 0, size - first)
            return self._observe("value", value=int.from_bytes(data, "little"))
        data = value.to_bytes(size, "little")
        # a store to a device is not RAM: nothing here changes
        if self.frames.valid(found):
            self.memory.write(found, offset, data[:first])
        if first != size and self.frames.valid(second):
            self.memory.write(second, 0, data[first:])
        return self._observe("value")

    def _device_read(self, mfn: int, offset: int, size: int) -> bytes:
        """RAM, or zeros for a device."""
        return self.memory.read(mfn, offset, size) if self.frames.valid(mfn) else bytes(size)

    def _translate(self, domain: Domain, ipa: int, write: bool, fetch: bool) -> int | Observation:
        """The frame of an access, after Xen resolved what it can; or how the access ends.

        Source: do_trap_stage2_abort_guest (xen/arch/arm/traps.c).
        """
        p2m = domain.p2m
        while True:
            walk = p2m.walk(ipa, write=write, fetch=fetch)
            if not walk.fault:
                return walk.mfn
            if walk.fault == "permission":
                # Xen does nothing, so the guest tries again for ever
                return self._observe("stuck", fault=("permission", walk.level, ipa, 0))
            # a live entry whose valid bit was set already is resolved too: only an address beyond the IPA width,
            # which the hardware never walks, would be retried for ever
            if not p2m.resolve_translation_fault(ipa >> 12):
                return self._observe("fault", fault=("translation", walk.level, ipa, self._syndrome(domain, fetch)))
            if ipa >> self.ipa_bits:
                return self._observe("stuck", fault=("translation", walk.level, ipa, 0))

    @staticmethod
    def _syndrome(domain: Domain, fetch: bool) -> int:
        """What the guest reads after an injected abort: no real status. AArch64: ESR_EL1; AArch32: DFSR or IFSR."""
        if domain.width == 32:
            return 0x002
        return 0x86000000 if fetch else 0x96000000

    # ---- projection and snapshots ---------------------------------------------------------------------------------

    def dirty_pages(self) -> set[int]:
        """The frames written since the last call."""
        return self.memory.collect_dirty()

    def snapshot(self) -> Snapshot:
        """The whole state; costs a copy of the frame table now, and of each frame when it is first written.

        Its journal is dropped when it, or one before it, is restored.
        """
        grants = {number: (domain.grant_table, None if domain.grant_table is None else domain.grant_table.snapshot())
                  for number, domain in self.domains.items()}
        return Snapshot(self.memory.mark(), self.frames.save(), dict(self.domains),
                        {number: domain.save() for number, domain in self.domains.items()},
                        {number: domain.p2m.save() for number, domain in self.domains.items()}, grants,
                        (self.panicked, set(self.vmids), self.last_domid))

    def restore(self, snapshot: Snapshot) -> None:
        """Back to a snapshot, which may be restored again; snapshots taken after it become void."""
        self.memory.undo(snapshot.mark)
        self.frames.load(snapshot.frames)
        self.frames.forced.clear()
        self.frames.choices = []
        self.domains.clear()
        self.domains.update(snapshot.listed)
        for number, domain in self.domains.items():
            domain.load(snapshot.domains[number])
            domain.p2m.load(snapshot.p2ms[number])
            domain.grant_table, state = snapshot.grants[number]
            if state is not None:
                domain.grant_table.restore(state)
        self.panicked, vmids, self.last_domid = snapshot.rest
        self.vmids = set(vmids)
        self._preempt_in = None


@attrs.frozen
class Snapshot:
    """What Machine.snapshot returns; only Machine.restore reads it."""

    mark: int
    frames: tuple[Any, ...]
    listed: dict[int, Domain]
    domains: dict[int, dict[str, Any]]
    p2ms: dict[int, tuple[Any, ...]]
    grants: dict[int, tuple[Any, Any]]
    rest: tuple[str, set[int], int]


def _check(config: Config) -> None:
    """What a configuration may say. Errors: BadConfig."""
    allowed: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
        ("arch", config.arch, ("arm64", "arm32")), ("xsm", config.xsm, ("dummy", "silo")),
        ("vmid_bits", config.vmid_bits, (8, 16)), ("grant_max_version", config.grant_max_version, (1, 2)),
        ("gic_version", config.gic_version, (2, 3)),
        ("cache_line", config.cache_line, tuple(16 << i for i in range(8))))
    for name, value, values in allowed:
        if value not in values:
            raise BadConfig(f"{name} is {value!r}, not one of {', '.join(map(str, values))}")
    for name, number in (("opt_max_grant_frames", config.opt_max_grant_frames), ("xen_pages", config.xen_pages),
                         ("xen_text_pages", config.xen_text_pages)):
        if number < 1:
            raise BadConfig(f"{name} is {number}; it must be at least 1")
    for domain in config.domains:
        ranges = [*domain.iomem, *((mfn, number) for _, mfn, number in domain.devices),
                  *((gfn, number) for gfn, _, number in domain.devices)]
        if any(first < 0 or number < 1 or first + number > 1 << 36 for first, number in ranges):
            raise BadConfig(f"domain {domain.domid}: a range of device frames is empty or beyond 48 bits")
        if domain.base_gfn < 0 or (domain.width == 64 and config.arch == "arm32"):
            raise BadConfig(f"domain {domain.domid}: base {domain.base_gfn:#x} or width {domain.width} is impossible")


def _geometry(config: Config) -> tuple[int, int, int]:
    """(IPA bits, root level, root pages). Source: setup_virt_paging (xen/arch/arm/p2m.c)."""
    if config.arch == "arm32":
        if config.ipa_bits < 40:
            raise BadConfig(f"Xen on arm32 needs an IPA of 40 bits, an IOMMU allows {config.ipa_bits}")
        return 40, 1, 2
    limit = min(config.pa_bits, config.ipa_bits, 48)
    for row in reversed(_GEOMETRY):
        if row[0] <= limit:
            return row
    raise BadConfig(f"an IPA of {limit} bits is too small for Xen on arm64")


def _layout(memory: Memory, config: Config) -> tuple[tuple[int, int] | None, tuple[int, int]]:
    """(arm32's Xen heap or None, Xen's own frames), as (first mfn, frames) each. Xen lies at the start of RAM."""
    first, frames = memory.banks[0]
    if frames <= config.xen_pages:
        raise BadConfig(f"the first bank of RAM ({frames} frames) does not hold Xen ({config.xen_pages} frames)")
    xen = (first, config.xen_pages)
    if config.arch == "arm64":
        return None, xen
    megabytes32 = 32 << 8
    pages = config.xenheap_pages
    align = 1
    if pages is None:
        # Source: setup_mm (xen/arch/arm/setup.c): 1/32 of RAM in steps of 32 MB, 32 MB..1 GB, at the top of the bank
        total = sum(size for _, size in memory.banks)
        pages = min(max(-(-total // 32 // megabytes32) * megabytes32, megabytes32), 1 << 18)
        align = megabytes32
    end = min(first + frames, 1 << 20) // align * align
    if end - pages < first + config.xen_pages:
        raise BadConfig(f"RAM has no room for arm32's Xen heap of {pages} frames")
    return (end - pages, pages), xen


def _handlers() -> dict[int, Any]:
    """Hypercall number -> function(machine, domain, vcpu, registers) -> result (signed) or Restart."""
    if not _HANDLERS:
        from impl.fast.domctl import do_domctl
        from impl.fast.grant.ops import do_grant_table_op
        from impl.fast.memory_op import do_memory_op
        _HANDLERS[abi.HYPERCALL_MEMORY_OP] = do_memory_op
        _HANDLERS[abi.HYPERCALL_GRANT_TABLE_OP] = do_grant_table_op
        _HANDLERS[abi.HYPERCALL_DOMCTL] = do_domctl
    return _HANDLERS


_HANDLERS: dict[int, Any] = {}
