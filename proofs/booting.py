"""Boot states: every property holds before the first step.

Proved of concrete machines, made from small configurations on both architectures: with dom0 alone, and "dom0less".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from proofs.engine.ground import BOOT, BootProof
from proofs.engine.obligations import FAILED, OVERFLOW, PROVED, Obligation, Theory
from proofs.engine.scope import out_of_range
from proofs.theories import MACHINE, TABLES, theory
from spec.boot import Configuration, boot, boot_tables, dom0, dom0less
from spec.memory.geometry import ARM32, of_pa_range

ALLOTMENT = "BOOT-ALLOTMENT"
"""Each domain that Xen starts may have the memory that it is configured to have, and no more (XSA-383)."""
UNTOUCHED = "BOOT-UNTOUCHED"
"""No deviation has happened: what is claimed is claimed of this state."""


@attrs.frozen
class Booted:
    """A boot state: of which theory, from what configuration, and how it is made."""

    name: str
    theory: str
    make: Callable[[], Any]
    configuration: Configuration | None = None


def _machine(name: str, configuration: Configuration) -> Booted:
    return Booted(name, MACHINE, lambda: boot(configuration), configuration)


def booted() -> tuple[Booted, ...]:
    """All boot states."""
    return (
        _machine("dom0-arm64", dom0(iommu=True)),
        _machine("dom0-arm32", dom0(arm32=True)),
        _machine("dom0less-arm64", dom0less(silo=True)),
        _machine("dom0less-arm32", dom0less(arm32=True, iommu=True)),
        Booted("tables-arm64", TABLES, lambda: boot_tables(of_pa_range(2))),
        Booted("tables-arm64-48-bits", TABLES, lambda: boot_tables(of_pa_range(5))),
        Booted("tables-arm32", TABLES, lambda: boot_tables(ARM32)),
    )


DEPENDS_ON: tuple[Callable[..., Any], ...] = (boot, boot_tables, dom0, dom0less, of_pa_range)
"""What the boot states are made by."""


def within_allotment(configuration: Configuration, state: Any) -> bool:
    """Every domain may have what it is configured to have, and has it."""
    return all(
        state.domain[plan.domain].max_pages == plan.memory == state.domain[plan.domain].tot_pages
        for plan in configuration.plans
    )


class Booting:
    """The obligations of all boot states, as a job beside the transitions."""

    def __init__(self, *, solver: str = "z3", seeds: int = 1, limit: float = 20.0,
                 only: Callable[[str], bool] | None = None) -> None:
        self._settings: dict[str, Any] = {"solver": solver, "seeds": seeds, "limit": limit}
        self._only = only
        self.explored = 0
        self.refusals: dict[str, int] = {}
        self.learnt: dict[str, set[str]] = {}

    def run(self) -> Iterator[Obligation]:
        """State by state."""
        for each in booted():
            if self._only is None or self._only(each.name):
                self.explored += 1
                yield from self._one(each, theory(each.theory))

    def _one(self, each: Booted, chosen: Theory) -> Iterator[Obligation]:
        started = time.perf_counter()
        state = each.make()
        proof = BootProof(chosen, each.name, state, **self._settings)
        checks = {UNTOUCHED: chosen.untouched(state), OVERFLOW: not out_of_range(chosen, state)}
        if each.configuration is not None:
            checks[ALLOTMENT] = within_allotment(each.configuration, state)
        share = (time.perf_counter() - started) / len(checks)
        for identifier, holds in checks.items():
            yield proof.line(identifier, PROVED if holds else FAILED, share, 0.0, "")
        yield from proof.run()


__all__ = ["ALLOTMENT", "BOOT", "DEPENDS_ON", "UNTOUCHED", "Booted", "Booting", "booted", "within_allotment"]
