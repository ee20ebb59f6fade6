"""A history changed a little: what campaigns do with histories that reached something new."""

from __future__ import annotations

import random
from collections.abc import Sequence

from bulkhead.fuzz.stimuli import Stimulus

_VALUES = (0, 1, 2, 0xFF, 0x7FF0, 0x7FFF, 0xFFFF, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 63,
           (1 << 64) - 1)


def mutated(history: Sequence[Stimulus], rng: random.Random, other: Sequence[Stimulus] = ()) -> list[Stimulus]:
    """A history with one to three changes: stimuli left out, repeated, moved, changed, or taken from another one."""
    changed = list(history)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if not changed:
            break
        at = rng.randrange(len(changed))
        pick = rng.random()
        if pick < 0.2:
            del changed[at:at + rng.choice((1, 1, 2, 8))]
        elif pick < 0.35:
            changed[at:at] = changed[at:at + rng.choice((1, 2, 8))]
        elif pick < 0.5:
            where = rng.randrange(len(changed))
            changed.insert(where, changed.pop(at))
        elif pick < 0.6 and other:
            start = rng.randrange(len(other))
            changed[at:at] = other[start:start + rng.choice((4, 12, 30))]
        else:
            changed[at] = _changed(changed[at], rng)
    return changed


def _changed(stimulus: Stimulus, rng: random.Random) -> Stimulus:
    """One stimulus with one value changed."""
    kind, domain, vcpu, *rest = stimulus
    if kind == "store":
        address, size, value = rest
        bits = 8 * size
        field = rng.choice((8, 16, 32, 64))
        shift = rng.randrange(0, max(bits - field, 0) + 1, min(field, bits))
        mask = (1 << min(field, bits)) - 1 << shift
        value = (value & ~mask | rng.choice(_VALUES) << shift & mask) & (1 << bits) - 1
        return kind, domain, vcpu, address, size, value
    if kind == "hypercall":
        registers, budget = dict(rest[0]), rest[1]
        if rng.random() < 0.5 or not registers:
            return kind, domain, vcpu, registers, rng.choice((0, 1, 2, 3))
        number = rng.choice(sorted(registers))
        if number < 12:
            if rng.random() < 0.5:
                registers[number] = rng.choice(_VALUES)
            else:
                registers[number] = registers[number] + rng.choice((-4096, -8, -1, 1, 8, 64, 4096)) & (1 << 64) - 1
        return kind, domain, vcpu, registers, budget
    return stimulus


__all__ = ["mutated"]
