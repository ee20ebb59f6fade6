"""From a trace's machine to one with real Xen: what is set up alike, what has to differ, and what is refused.

A trace comes as plain values with the names of ``docs/traces.rst`` (attributes), so that nothing of the front door is
imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs

from impl.fast.machine import Observation
from impl.xen.config import GUEST_BASE, Config, Guest
from impl.xen.errors import Refused
from impl.xen.kinds import KINDS
from impl.xen.machine import Machine, Stimulus

_FOR: Final = {("arm64", 2): "arm64-gicv2", ("arm64", 3): "arm64-gicv3", ("arm32", 2): "armhf-virt"}
_LEAST_DOM0: Final = 2048


@attrs.frozen
class Plan:
    """How a trace's machine is booted. differences: what is not as the trace says, one sentence each."""

    config: Config
    differences: tuple[str, ...] = ()


def plan(configuration: Any, domains: Sequence[Any], board: str = "", kind: str | None = None) -> Plan:
    """How a trace's machine is booted on real Xen.

    configuration, domains: as in a trace; board: its name, if it has one; kind: of impl.xen.kinds, instead of the one
    that suits the trace.
    Errors: Refused, for what real Xen cannot be made to be.
    """
    chosen = kind or _kind(configuration, board)
    machine = KINDS.get(chosen)
    if machine is None:
        raise Refused(f"there is no machine {chosen!r}: it is one of {', '.join(KINDS)}")
    if (configuration.arch == "arm64") != (machine.arch == "arm64"):
        raise Refused(f"the trace is for {configuration.arch}, {chosen} is not")
    differences = [f"RAM is that of {chosen} ({machine.ram_size >> 20} MB from {machine.ram_base:#x}), as Xen likes"]
    if configuration.iommu or configuration.iommu_shares_p2m:
        raise Refused("QEMU's boards have no IOMMU that Xen 4.17 drives")
    if configuration.vpmu:
        raise Refused("virtual performance counters are not offered on this machine")
    pa_bits: int | None = configuration.pa_bits
    if pa_bits not in machine.processors:
        usual = next(iter(machine.processors))
        differences.append(f"physical addresses have {usual} bits, not {pa_bits}")
        pa_bits = None
    if configuration.vmid_bits != 8 and machine.arch == "arm64":
        differences.append("the width of VMIDs is the processor's")
    numbers = [domain.domid for domain in domains]
    has_dom0 = bool(numbers) and numbers[0] == 0
    guests = list(domains[1:] if has_dom0 else domains)
    if [guest.domid for guest in guests] != list(range(1, len(guests) + 1)):
        raise Refused(f"Xen numbers the domains of the boot 1, 2, ... behind domain 0; the trace has {numbers}")
    dom0_pages = 8192
    if has_dom0:
        dom0_pages = _dom0(domains[0], differences)
    config = Config(
        chosen, pa_bits, [_guest(guest, machine.width) for guest in guests], has_dom0, dom0_pages,
        configuration.xsm, grant_max_version=configuration.grant_max_version,
        opt_max_grant_frames=configuration.opt_max_grant_frames,
        opt_max_maptrack_frames=configuration.opt_max_maptrack_frames,
        grant_transitive=configuration.grant_transitive, scrub_domheap=configuration.scrub_domheap)
    config.check()
    return Plan(config, tuple(differences))


def _kind(configuration: Any, board: str) -> str:
    if board == "vexpress-a15" and configuration.arch == "arm32":
        return "vexpress-a15"
    found = _FOR.get((configuration.arch, configuration.gic_version))
    if found is None:
        raise Refused(f"no machine here has {configuration.arch} with a GICv{configuration.gic_version}")
    return found


def _dom0(domain: Any, differences: list[str]) -> int:
    if not (domain.privileged and domain.is_hardware and domain.direct_map):
        raise Refused("domain 0 of real Xen is the control and hardware domain, mapped one to one")
    if domain.iomem or domain.devices:
        differences.append("domain 0 may map the board's own devices, not those that the trace names")
    if domain.vcpus != 1:
        differences.append("domain 0 has one vCPU")
    # a power of two, so that it is one bank
    wanted: int = domain.pages
    pages = max(_LEAST_DOM0, 1 << (wanted - 1).bit_length())
    if pages != wanted:
        differences.append(f"domain 0 has {pages} pages, not {domain.pages}")
    differences.append("domain 0 lies where Xen puts it")
    return pages


def _guest(domain: Any, width: int) -> Guest:
    number = domain.domid
    for flag in ("privileged", "is_hardware", "direct_map", "iommu"):
        if getattr(domain, flag):
            raise Refused(f"domain {number}: {flag} can be given to domain 0 only")
    if domain.target is not None:
        raise Refused(f"domain {number}: a device model's target is not set at boot")
    if domain.base_gfn != GUEST_BASE:
        raise Refused(f"domain {number}: Xen puts RAM at gfn {GUEST_BASE:#x}, not {domain.base_gfn:#x}")
    if domain.iomem or domain.devices:
        raise Refused(f"domain {number}: devices are given to domain 0 only")
    if domain.max_grant_frames is not None or domain.max_maptrack_frames is not None:
        raise Refused(f"domain {number}: Xen 4.17 has no limits of grants for a single domain at boot")
    if domain.width is not None and domain.width > width:
        raise Refused(f"domain {number} is {domain.width} bits wide on a {width}-bit Xen")
    limit = None if domain.max_pages in {None, domain.pages} else domain.max_pages
    return Guest(domain.pages, domain.vcpus, domain.width, limit, domain.p2m_pool_pages)


def stimulus(given: Any) -> Stimulus | None:
    """A stimulus of a trace as the machine takes it; None if there is nothing to do (time). Errors: Refused."""
    name = {"ToggleCache": "toggle_cache", "SetWay": "set_way"}.get(type(given).__name__, type(given).__name__.lower())
    match name:
        case "load":
            return Stimulus("load", given.domain, given.vcpu, given.ipa, given.size)
        case "store":
            return Stimulus("store", given.domain, given.vcpu, given.ipa, given.size, given.value)
        case "fetch":
            return Stimulus("fetch", given.domain, given.vcpu, given.ipa, 4)
        case "hypercall":
            return Stimulus("hypercall", given.domain, given.vcpu, registers=tuple(given.registers))
        case "set_way":
            return Stimulus("set_way", given.domain, given.vcpu)
        case "toggle_cache":
            return Stimulus("toggle_cache", given.domain, given.vcpu, enabled=given.enabled)
        case "time":
            return None
        case "preempt":
            raise Refused("real Xen preempts hypercalls when an interrupt comes, which cannot be timed from a guest")
    raise Refused(f"real Xen is not given a {name}")


def run(made: Plan, given: Sequence[Any]) -> list[Observation | None]:
    """Boot a plan's machine and give it a trace's stimuli; what each showed, None for mere time.

    Errors: NotSetUp, BootFailed; Refused, for a stimulus that cannot be driven, with its number, before anything runs.
    """
    taken: list[Stimulus | None] = []
    for number, each in enumerate(given):
        try:
            taken.append(stimulus(each))
        except Refused as problem:
            raise Refused(f"stimuli[{number}]: {problem}") from None
    with Machine(made.config) as machine:
        seen = iter(machine.give([each for each in taken if each is not None]))
        return [None if each is None else next(seen) for each in taken]
