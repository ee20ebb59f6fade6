"""What real Xen under QEMU is not asked, or cannot show, and why."""

from __future__ import annotations

from typing import Any, Final

from bulkhead.fuzz import reasons
from bulkhead.fuzz.coverage import Answer

NOT_TESTED: Final = (
    "caches and their maintenance, memory ordering, timing: QEMU emulates instructions one by one",
    "several processors at a time: one physical processor is given to Xen, so that calls never overlap",
    "what a frame holds that Xen gives again without scrubbing it: which frame comes is Xen's choice",
    "IOMMUs: QEMU's boards have none that Xen 4.17 drives",
    "the level of a fault: Xen does not tell it to guests",
)
"""What no campaign of this kind shows."""

_PREEMPT: Final = "a preemption is seen only in registers that a continuation leaves behind, and cannot be timed"
_MEMORY: Final = "the host has more memory than guests can use up, and Xen's heap is not filled here"
_VMIDS: Final = "takes as many domains as there are VMIDs"
_IOMMU: Final = "needs an IOMMU"
_CONTEXT: Final = "a domain made at run time has no payload, so that it is not started"

CODES: Final[dict[tuple[str, int], str]] = {
    ("*", -12): _MEMORY,
    ("create_domain", -16): _VMIDS,
    ("set_way_flush", -38): _IOMMU,
    ("unmap_grant_ref", -1): _IOMMU,
    ("unmap_and_replace", -1): _IOMMU,
}
"""Reasons by step ("*": any) and code."""

STEPS: Final[dict[str, str]] = {
    "cache_mapping": "the TLB is filled by accesses: what it holds is compared through what guests read",
    "device_read": _IOMMU, "device_write": _IOMMU, "device_fill": _IOMMU,
    "set_vcpu_context": _CONTEXT, "start_domain": _CONTEXT,
}
"""Reasons of every answer of a step."""


_STOPS: Final = "stops the machine: tried by tests/conformance/test_failures.py alone"
ENDS: Final[dict[str, str]] = {"add_to_physmap_batch": _STOPS, "cache_flush": _STOPS}
"""Reasons of steps that end with Xen itself."""


def reason(answer: Answer, transitions: dict[str, Any]) -> str:
    """Why real Xen is not seen to give an answer; empty if nothing is known against it.

    transitions: as `proofs.theories.all_transitions` gives them.
    """
    name, kind, code = answer
    found = reasons.reason(answer, transitions) or STEPS.get(name, "")
    if found:
        return found
    if kind == "restart":
        return _PREEMPT
    if kind == "crash" and name in ENDS:
        return ENDS[name]
    return CODES.get((name, code)) or CODES.get(("*", code), "")


__all__ = ["CODES", "ENDS", "NOT_TESTED", "STEPS", "reason"]
