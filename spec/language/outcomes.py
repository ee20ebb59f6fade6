"""What a transition answers.

``refuse`` leaves the very same state object: "a refused call changes nothing" is then visible.
"""

from __future__ import annotations

import enum
from typing import Any, Generic, TypeVar

import attrs

from spec.language.values import Boolean, SpecificationError, Symbolic

S = TypeVar("S")


class Kind(enum.Enum):
    """How a call ended."""

    DONE = "done"
    REFUSED = "refused"
    PARTIAL = "partial"
    RESTART = "restart"
    CRASH = "crash"
    STUCK = "stuck"


@attrs.frozen(slots=False)
class Outcome(Generic[S]):
    """The state afterwards, how the call ended, its return code and what else it returned.

    code: 0 or more on success, a negative errno or grant status otherwise.
    output: named results (handle, machine address ...).
    """

    state: S
    kind: Kind
    code: Any = 0
    output: dict[str, Any] = attrs.field(factory=dict)


def accept(state: S, code: int = 0, **output: Any) -> Outcome[S]:
    """The call is done."""
    return Outcome(state, Kind.DONE, code, output)


def refuse(state: S, code: int) -> Outcome[S]:
    """The call is refused and has changed nothing; ``code`` is a negative error."""
    return Outcome(state, Kind.REFUSED, code)


def partial(state: S, code: int, **output: Any) -> Outcome[S]:
    """The call failed half-way and leaves behind what its docstring says."""
    return Outcome(state, Kind.PARTIAL, code, output)


def restart(state: S, **output: Any) -> Outcome[S]:
    """The call is to be issued again: other work comes first."""
    return Outcome(state, Kind.RESTART, 0, output)


def crash(state: S, domain: int) -> Outcome[S]:
    """Xen crashes the domain."""
    return Outcome(state, Kind.CRASH, 0, {"domain": domain})


def stuck(state: S, vcpu: int) -> Outcome[S]:
    """The vCPU repeats the access for ever."""
    return Outcome(state, Kind.STUCK, 0, {"vcpu": vcpu})


class IllegalChoice(Exception):
    """An implementation made a choice that the specification does not allow."""


def legal(condition: Boolean, rule: str) -> None:
    """A choice that belongs to the implementation (which free frame, which handle) obeys a rule.

    A proof considers every legal choice.  On integers an illegal one raises ``IllegalChoice``:
    the implementation under test differs from the specification.
    """
    if isinstance(condition, Symbolic):
        condition.assume()
    elif condition is False:
        raise IllegalChoice(rule)
    elif condition is not True:
        raise SpecificationError(f"{condition!r} is not a condition")
