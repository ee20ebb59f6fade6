"""What is proved: state classes with the transitions and properties that speak of them."""

from __future__ import annotations

import importlib
import pkgutil

import spec
from proofs.engine.obligations import Theory
from spec.deviations import untouched
from spec.language import PROPERTIES, TRANSITIONS, Property, Transition
from spec.language.tables import schemas
from spec.state import NOBODY, State

MACHINE, TABLES = "machine", "tables"
"""The machine with its hypercalls; and, beside it, stage-2 tables as words in memory (``spec.memory.tables``)."""


def load() -> None:
    """Import every module of the specification, so that all that is declared is known."""
    for each in pkgutil.walk_packages(spec.__path__, "spec."):
        importlib.import_module(each.name)


def theory(name: str = MACHINE) -> Theory:
    """The transitions and properties of one state class."""
    load()
    state: type = State
    if name == TABLES:
        from spec.memory.tables import TableState

        state = TableState
    return Theory(
        state,
        schemas(state),
        {n: t for n, t in TRANSITIONS.items() if t.theory == name},
        {n: p for n, p in PROPERTIES.items() if p.theory == name},
        int(NOBODY),
        untouched if name == MACHINE else everything_holds,
        # a walk is a chain of words: nearly every fact about them is needed
        eager=name == TABLES,
    )


def everything_holds(_state: object) -> bool:
    """No deviation is known that spoils the state."""
    return True


def theory_of(transition: str) -> str:
    """The theory that a transition or property belongs to; what is not known belongs to the machine."""
    load()
    known = TRANSITIONS.get(transition) or PROPERTIES.get(transition)
    return known.theory if known is not None else MACHINE


def all_transitions() -> dict[str, Transition]:
    """The transitions of every theory, by name."""
    load()
    return dict(TRANSITIONS)


def all_properties() -> dict[str, Property]:
    """The properties of every theory, by id."""
    load()
    return dict(PROPERTIES)
