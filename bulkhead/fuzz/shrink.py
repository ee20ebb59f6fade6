"""Few stimuli instead of many, with the same failure: delta debugging on histories.

A stimulus that is left out may make later ones meaningless; the machines take them as they come, as guests may do
anything. So every sublist of a history is a history.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from bulkhead.fuzz.stimuli import Stimulus

Fails = Callable[[Sequence[Stimulus]], int | None]
"""Whether a history still fails in the same way: how many of its stimuli that takes, or None."""


def shrink(history: Sequence[Stimulus], fails: Fails, *, seconds: float = 60.0) -> list[Stimulus]:
    """A history that fails in the same way, from which no single stimulus can be left out (if time allows).

    history: it must fail; seconds: after so long the best so far is returned.
    """
    until = time.monotonic() + seconds
    needed = fails(history)
    best = list(history if needed is None else history[:needed])
    best = _without_chunks(best, fails, until)
    return _simpler(best, fails, until)


def _without_chunks(best: list[Stimulus], fails: Fails, until: float) -> list[Stimulus]:
    """Leave out runs of stimuli, long ones first, the last stimulus never."""
    size = max(len(best) // 2, 1)
    while True:
        at, shorter = 0, False
        while at < len(best) - 1 and time.monotonic() < until:
            candidate = best[:at] + best[min(at + size, len(best) - 1):]
            needed = fails(candidate)
            if needed is None:
                at += size
            else:
                best, shorter = candidate[:needed], True
        if time.monotonic() >= until or (size == 1 and not shorter):
            return best
        size = max(size // 2, 1) if size > 1 else 1


def _simpler(best: list[Stimulus], fails: Fails, until: float) -> list[Stimulus]:
    """Smaller values: no preemption, vCPU 0, fewer registers, stored zeros."""
    for i in range(len(best)):
        pending = _simplifications(best[i])
        while pending and time.monotonic() < until:
            changed = [*best[:i], pending.pop(0), *best[i + 1:]]
            if fails(changed) == len(changed):
                best = changed
                # the rest were made from the stimulus as it was
                pending = _simplifications(best[i])
    return best


def _simplifications(stimulus: Stimulus) -> list[Stimulus]:
    """Simpler forms of one stimulus, each with one thing changed."""
    kind, domain, vcpu, *rest = stimulus
    found: list[Stimulus] = []
    if vcpu:
        found.append((kind, domain, 0, *rest))
    if kind == "hypercall":
        registers, budget = rest
        if budget:
            found.append((kind, domain, vcpu, registers, 0))
        found += [(kind, domain, vcpu, {each: value for each, value in registers.items() if each != number}, budget)
                  for number in registers]
    elif kind == "store" and rest[2]:
        found.append((kind, domain, vcpu, rest[0], rest[1], 0))
    return found


__all__ = ["shrink"]
