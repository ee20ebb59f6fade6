"""What a guest does, as a tuple that can be kept, changed, hashed and written down.

("load", domain, vCPU, address, bytes), ("store", domain, vCPU, address, bytes, value),
("fetch", domain, vCPU, address),
("hypercall", domain, vCPU, {register: value}, preemption check that fires or 0), ("set_way", domain, vCPU),
("toggle_cache", domain, vCPU, on).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from impl.fast import abi
from impl.fast.grant.layouts import CMD_MASK
from impl.fast.machine import Machine, Observation

Stimulus: TypeAlias = tuple[Any, ...]
_OPERATION: Final = {abi.HYPERCALL_MEMORY_OP: abi.MEMOP_CMD_MASK, abi.HYPERCALL_GRANT_TABLE_OP: CMD_MASK}


def give(machine: Any, stimulus: Stimulus) -> Observation:
    """Let a machine (the implementation, or the specification with the same calls) take one stimulus.

    Errors: BadStimulus, NotModelled.
    """
    kind = stimulus[0]
    if kind == "store":
        _, domain, vcpu, address, size, value = stimulus
        seen = machine.store(domain, vcpu, address, size, value)
    elif kind == "hypercall":
        _, domain, vcpu, registers, budget = stimulus
        if budget:
            machine.preempt_after(budget)
        seen = machine.hypercall(domain, vcpu, registers)
    elif kind == "load":
        _, domain, vcpu, address, size = stimulus
        seen = machine.load(domain, vcpu, address, size)
    elif kind == "fetch":
        _, domain, vcpu, address = stimulus
        seen = machine.fetch(domain, vcpu, address)
    elif kind == "set_way":
        seen = machine.set_way(stimulus[1], stimulus[2])
    elif kind == "toggle_cache":
        seen = machine.toggle_cache(stimulus[1], stimulus[2], enabled=stimulus[3])
    else:
        raise ValueError(f"no stimulus is called {kind}")
    result: Observation = seen
    return result


def called(registers: Mapping[int, int]) -> tuple[int, int]:
    """A hypercall by its registers: its number, and its operation without the bits of a continuation.

    The number stands in x16 or, for 32 bits, in r12; the operation is 0 of all but memory_op and grant_table_op (that
    of a domctl is in memory).
    """
    number, command = registers.get(16) or registers.get(12, 0), registers.get(0, 0)
    return number, command & _OPERATION.get(number, 0)


def show(stimulus: Stimulus) -> str:
    """One stimulus in a line, for people."""
    kind, domain, vcpu, *rest = stimulus
    who = f"d{domain}v{vcpu}"
    if kind == "store":
        return f"{who} stores {rest[2]:#x} ({rest[1]} bytes) at {rest[0]:#x}"
    if kind == "load":
        return f"{who} loads {rest[1]} bytes at {rest[0]:#x}"
    if kind == "fetch":
        return f"{who} fetches at {rest[0]:#x}"
    if kind == "hypercall":
        registers = ", ".join(f"x{number}={value:#x}" for number, value in sorted(rest[0].items()))
        return f"{who} calls {registers}" + (f", preempted at check {rest[1]}" if rest[1] else "")
    if kind == "toggle_cache":
        return f"{who} turns its cache {'on' if rest[0] else 'off'}"
    return f"{who} cleans caches by set and way"


def key(stimulus: Stimulus) -> tuple[Any, ...]:
    """A hashable form."""
    return tuple(tuple(sorted(part.items())) if isinstance(part, dict) else part for part in stimulus)


__all__ = ["Machine", "Stimulus", "called", "give", "key", "show"]
