"""Stage-2 tables for tests: a small world, and steps in it."""

from __future__ import annotations

from typing import Any

from proofs.table_traces import FIRST, POOL, A, B, boot, broken, wander
from spec.language import TRANSITIONS, U8, U16, DomId, Index, Mfn
from spec.language.outcomes import Kind
from spec.memory.tables import ONE, TableState


def step(s: TableState, name: str, **arguments: Any) -> TableState:
    """The state after a step that must be done."""
    outcome = TRANSITIONS[name].function(s, **arguments)
    assert outcome.kind is Kind.DONE, (name, outcome.code)
    return outcome.state  # type: ignore[no-any-return]


def at(*digits: int) -> dict[str, Index]:
    """A guest frame by its indices, as arguments."""
    return {f"i{level}": Index(digit) for level, digit in enumerate(digits)}


def with_root(s: TableState, domain: DomId, root: int = 0x100, vmid: int = 1) -> TableState:
    """The domain gets a VMID and a root table."""
    s = step(s, "take_vmid", domain=domain, vmid=U16(vmid))
    return step(s, "make_root", domain=domain, root=Mfn(root))


def with_tables(s: TableState, domain: DomId, pages: list[int], down_to: int, *digits: int) -> TableState:
    """Tables lead down to a level for a guest frame."""
    start = s.shape[ONE].start_level
    for level in range(start, down_to):
        s = step(s, "prepare_table", domain=domain, **at(*digits), level=U8(level), page=Mfn(pages.pop()))
        s = step(s, "link_table", domain=domain)
    return s


__all__ = ["FIRST", "POOL", "A", "B", "at", "boot", "broken", "step", "wander", "with_root", "with_tables"]
