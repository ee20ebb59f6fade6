"""One declaration of a transition or a property serves prover, tests, documents and traceability."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from spec.language.outcomes import Kind
from spec.language.values import SpecificationError

_F = TypeVar("_F", bound=Callable[..., Any])


@attrs.frozen
class Transition:
    """A step of the machine.

    hypercall: how a guest asks for it, e.g. ``GNTTABOP_map_grant_ref``; empty for other steps.
    actor: the parameter that names the domain on whose behalf it runs; empty: Xen or hardware.
    unreachable: a code, or a kind of answer that has no code (``Kind.CRASH``) -> why no trace from boot ends with it.
    repairs: the transition whose deviation this variant mends.
    keeps: other deviations that this variant still has, by the properties of repaired steps that they break.
    """

    name: str
    function: Callable[..., Any]
    hypercall: str = ""
    actor: str = "caller"
    parameters: dict[str, str] = attrs.field(factory=dict)
    theory: str = "machine"
    unreachable: dict[int | Kind, str] = attrs.field(factory=dict)
    repairs: str = ""
    keeps: tuple[str, ...] = ()


@attrs.frozen
class Property:
    """What must hold of every row of a table: of one state, or between two states of one step.

    fulfils: the safety requirements that it serves.
    except_for: deviations of the real Xen; it holds for every state that they have not touched.
    assertion: the Xen assertion (file and function) that this property keeps from firing.
    """

    id: str
    function: Callable[..., Any]
    table: str
    two_state: bool
    fulfils: tuple[str, ...]
    except_for: tuple[str, ...] = ()
    catches: tuple[str, ...] = ()
    assertion: str = ""
    theory: str = "machine"
    derived: bool = False
    """A corollary: it follows from the invariants of one state, whatever the step was."""
    of_repaired: bool = False
    """It is asked only of steps that mend a deviation."""


@attrs.frozen
class Deviation:
    """Where the real Xen breaks a property: what triggers it, where, and what follows.

    public: why it may be described here.  Empty: it may be a vulnerability that is not known yet, so condition,
    consequence and trace stand in ``docs/findings`` alone, which is neither published nor packaged.
    """

    id: str
    title: str
    condition: str = ""
    source: str = ""
    consequence: str = ""
    trace: str = ""
    public: str = ""


TRANSITIONS: dict[str, Transition] = {}
PROPERTIES: dict[str, Property] = {}
DEVIATIONS: dict[str, Deviation] = {}


def _parameters(function: Callable[..., Any], skip: int) -> dict[str, str]:
    hints = typing.get_type_hints(function)
    names = list(inspect.signature(function).parameters)[skip:]
    return {name: getattr(hints[name], "__name__", str(hints[name])) for name in names}


def transition(*, hypercall: str = "", actor: str = "caller", theory: str = "machine",
               unreachable: dict[int | Kind, str] | None = None, repairs: str = "",
               keeps: tuple[str, ...] = ()) -> Callable[[_F], _F]:
    """Declare a step of the machine: ``function(state, **arguments) -> Outcome``."""

    def declare(function: _F) -> _F:
        name = function.__name__
        if name in TRANSITIONS and TRANSITIONS[name].function.__module__ != function.__module__:
            raise SpecificationError(f"two transitions are called {name}")
        parameters = _parameters(function, 1)
        TRANSITIONS[name] = Transition(
            name, function, hypercall, actor if actor in parameters else "", parameters, theory,
            unreachable or {}, repairs, keeps,
        )
        return function

    return declare


def _declare(two: bool, identifier: str, over: str, **details: Any) -> Callable[[_F], _F]:
    def declare(function: _F) -> _F:
        if identifier in PROPERTIES and PROPERTIES[identifier].function.__module__ != function.__module__:
            raise SpecificationError(f"two properties are called {identifier}")
        fulfils = details.pop("fulfils", ())
        PROPERTIES[identifier] = Property(
            identifier, function, over, two, (fulfils,) if isinstance(fulfils, str) else tuple(fulfils), **details
        )
        return function

    return declare


def invariant(identifier: str, *, over: str, fulfils: str | tuple[str, ...] = (), **details: Any) -> Callable[[_F], _F]:
    """Declare what holds of every row: ``function(state, *key) -> condition``."""
    return _declare(False, identifier, over, fulfils=fulfils, **details)


def two_state(identifier: str, *, over: str, fulfils: str | tuple[str, ...] = (), **details: Any) -> Callable[[_F], _F]:
    """Declare who may change a row and how: ``function(before, after, actor, *key) -> condition``.

    actor: the domain on whose behalf the step ran, or ``NOBODY`` for a step of Xen or hardware.
    """
    return _declare(True, identifier, over, fulfils=fulfils, **details)


def corollary(identifier: str, *, over: str, fulfils: str | tuple[str, ...] = (), **details: Any) -> Callable[[_F], _F]:
    """Declare what follows from the invariants: ``function(state, *key) -> condition``."""
    return _declare(False, identifier, over, fulfils=fulfils, derived=True, **details)
