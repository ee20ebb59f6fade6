"""Stimuli and observations in Xen's terms, one line each."""

from __future__ import annotations

from typing import Any

from bulkhead import trace as traces
from spec import errors

_MEMORY = {
    0: "increase_reservation", 1: "decrease_reservation", 2: "maximum_ram_page", 3: "current_reservation",
    4: "maximum_reservation", 5: "machphys_mfn_list", 6: "populate_physmap", 7: "add_to_physmap", 9: "memory_map",
    10: "machine_memory_map", 11: "exchange", 12: "machphys_mapping", 14: "maximum_gpfn", 15: "remove_from_physmap",
    16: "set_pod_target", 17: "get_pod_target", 18: "get_sharing_freed_pages", 19: "get_sharing_shared_pages",
    20: "paging_op", 21: "access_op", 22: "sharing_op", 23: "add_to_physmap_batch", 24: "claim_pages",
    25: "machphys_compat_mfn_list", 26: "get_vnumainfo", 27: "reserved_device_memory_map", 28: "acquire_resource",
}
_GRANT = {
    0: "map_grant_ref", 1: "unmap_grant_ref", 2: "setup_table", 3: "dump_table", 4: "transfer", 5: "copy",
    6: "query_size", 7: "unmap_and_replace", 8: "set_version", 9: "get_status_frames", 10: "get_version",
    11: "swap_grant_ref", 12: "cache_flush",
}
_ERRNO = {value: name for name, value in vars(errors).items() if name.startswith("E") and isinstance(value, int)}


def result(value: int, bits: int) -> str:
    """A result register: a number, or the error that it stands for."""
    signed = value - (1 << bits) if value >> bits - 1 else value
    name = _ERRNO.get(-signed)
    return f"-{name}" if signed < 0 and name else str(signed)


def _who(stimulus: Any) -> str:
    return f"d{stimulus.domain}v{stimulus.vcpu}"


def _call(registers: dict[int, int]) -> str:
    """A hypercall: its name and argument registers. The number stands in x16 or, for 32 bits, in r12."""
    number = registers.get(16) or registers.get(12, 0)
    arguments = [registers.get(i, 0) for i in range(3)]
    if number == 12:
        operation, extent = arguments[0] & 63, arguments[0] >> 6
        name = _MEMORY.get(operation, str(operation))
        return f"memory_op {name}({arguments[1]:#x})" + (f", from extent {extent}" if extent else "")
    if number == 20:
        operation, cursor = arguments[0] & 0xFFF, arguments[0] >> 12
        name = _GRANT.get(operation, str(operation))
        more = f", cursor {cursor}" if cursor else ""
        return f"grant_table_op {name}({arguments[1]:#x}, count {arguments[2] & 0xFFFFFFFF}){more}"
    if number == 36:
        return f"domctl({arguments[0]:#x})"
    return f"hypercall {number}"


def stimulus_text(stimulus: traces.Stimulus) -> str:
    """What a guest does."""
    if isinstance(stimulus, traces.Load):
        return f"{_who(stimulus)} loads {stimulus.size} bytes at {stimulus.ipa:#x}"
    if isinstance(stimulus, traces.Store):
        return f"{_who(stimulus)} stores {stimulus.value:#x} ({stimulus.size} bytes) at {stimulus.ipa:#x}"
    if isinstance(stimulus, traces.Fetch):
        return f"{_who(stimulus)} fetches at {stimulus.ipa:#x}"
    if isinstance(stimulus, traces.Hypercall):
        return f"{_who(stimulus)} calls {_call(dict(stimulus.registers))}"
    if isinstance(stimulus, traces.SetWay):
        return f"{_who(stimulus)} cleans its caches by set and way"
    if isinstance(stimulus, traces.ToggleCache):
        return f"{_who(stimulus)} switches its cache {'on' if stimulus.enabled else 'off'}"
    if isinstance(stimulus, traces.Preempt):
        return f"the next hypercall is preempted at its check {stimulus.after}"
    return f"{stimulus.microseconds} microseconds pass"


def observation_text(observation: Any, bits: int = 64) -> str:
    """What was seen. bits: of the guest's registers."""
    if observation is None:
        return ""
    if observation.kind == "value":
        if observation.registers is not None:
            return result(observation.registers[0], bits)
        return "done" if observation.value is None else f"{observation.value:#x}"
    if observation.kind == "fault" or (observation.kind == "stuck" and observation.fault is not None):
        kind, level, address, syndrome = observation.fault
        at = f" at level {level}" if level >= 0 else ""
        what = f"{kind} fault{at}, address {address:#x}"
        return f"{what}, syndrome {syndrome:#x}" if observation.kind == "fault" else f"stuck: {what}"
    if observation.kind == "restart":
        return f"preempted, goes on with {', '.join(f'{value:#x}' for value in observation.registers[:3])}"
    return f"{observation.kind}: {observation.reason}" if observation.reason else str(observation.kind)
