"""What is proved: state classes with the transitions and properties that speak of them."""

from __future__ import annotations

import importlib
import pkgutil

import spec
from proofs.engine.obligations import Theory
from spec.language import PROPERTIES, TRANSITIONS
from spec.language.tables import schemas
from spec.state import NOBODY, State


def load() -> None:
    """Import every module of the specification, so that all that is declared is known."""
    for each in pkgutil.walk_packages(spec.__path__, "spec."):
        importlib.import_module(each.name)


def theory(name: str = "machine") -> Theory:
    """The transitions and properties of one state class."""
    load()
    state: type = State
    if name == "tables":
        from spec.memory.tables import TableState

        state = TableState
    return Theory(
        state,
        schemas(state),
        {n: t for n, t in TRANSITIONS.items() if t.theory == name},
        {n: p for n, p in PROPERTIES.items() if p.theory == name},
        int(NOBODY),
    )
