"""Flaws of Xen's past, put back: each must die by proof, its counterexample replayed."""

from __future__ import annotations

import attrs

from tests.mutants.mutation import Mutant


@attrs.frozen
class Open:
    """A flaw that the model cannot express yet, and what is missing."""

    id: str
    missing: str


HISTORICAL: list[Mutant] = []

OPEN: list[Open] = [
    Open("XSA-235", "held locks are not in the state: steps are atomic (A-ATOMIC)"),
    Open("XSA-277", "held locks are not in the state: steps are atomic (A-ATOMIC)"),
    Open("XSA-334", "held domain references of Xen's own are not in the state: steps are atomic (A-ATOMIC)"),
    Open("XSA-213", "multicall and the vCPU's privilege mode"),
    Open("XSA-506", "dm_op and its buffers"),
    Open("XSA-226b", "recursion depth and retries inside one call"),
]
