"""Identifiers, words and the connectives of properties.

On integers everything here is what Python already does.  On symbols (made only by
``proofs.engine``) the same calls build terms.  Where Python would silently do something else
on the two readings (hashing, ``is``, ``int()``, truth-testing inside a property), a symbol
raises ``SpecificationError`` instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NewType, TypeVar

DomId = NewType("DomId", int)
VcpuId = NewType("VcpuId", int)
Gfn = NewType("Gfn", int)
Mfn = NewType("Mfn", int)
GrantRef = NewType("GrantRef", int)
Handle = NewType("Handle", int)
Index = NewType("Index", int)

U8 = NewType("U8", int)
U16 = NewType("U16", int)
U32 = NewType("U32", int)
U64 = NewType("U64", int)
Word = NewType("Word", int)
"""The contents of eight bytes of memory, looked at only through a layout (``layouts``)."""

RANGES: dict[str, tuple[int, int | None]] = {
    "bool": (0, 1),
    "int": (0, None),
    "DomId": (0, (1 << 16) - 1),
    "VcpuId": (0, (1 << 16) - 1),
    "Gfn": (0, (1 << 64) - 1),
    "Mfn": (0, (1 << 52) - 1),
    "GrantRef": (0, (1 << 32) - 1),
    "Handle": (0, (1 << 32) - 1),
    "Index": (0, 511),
    "U8": (0, (1 << 8) - 1),
    "U16": (0, (1 << 16) - 1),
    "U32": (0, (1 << 32) - 1),
    "U64": (0, (1 << 64) - 1),
    "Word": (0, (1 << 64) - 1),
}
"""Least and greatest value of each type; ``int`` is a count: never negative, never too large.

That a transition stays within them is proved as an obligation of its own ("no overflow").
"""

_V = TypeVar("_V")


class SpecificationError(Exception):
    """The specification itself is wrong: not something that a guest can cause."""


class Symbolic:
    """A value that stands for any value of its type.  Only the proof engine makes one."""

    __slots__ = ()

    def __hash__(self) -> int:
        raise SpecificationError("a symbol cannot be hashed: use a table, not a dict or a set")

    def __int__(self) -> int:
        raise SpecificationError("a symbol has no single integer: compute with it as it is")

    __index__ = __int__

    def __bool__(self) -> bool:
        raise SpecificationError("this value is not a condition: compare it")

    # What follows is implemented by symbolic conditions.

    def negated(self) -> Any:
        """The opposite condition."""
        raise SpecificationError("not a condition")

    def conjoined(self, other: Any) -> Any:
        """This condition and another."""
        raise SpecificationError("not a condition")

    def disjoined(self, other: Any) -> Any:
        """This condition or another."""
        raise SpecificationError("not a condition")

    def choose(self, when_true: Any, when_false: Any) -> Any:
        """One of two values, by this condition."""
        raise SpecificationError("not a condition")


Boolean = bool


def _condition(value: Any) -> None:
    if value is not True and value is not False and not isinstance(value, Symbolic):
        raise SpecificationError(f"{value!r} is not a condition")


def neg(condition: Boolean) -> Boolean:
    """``not condition``, for properties."""
    if condition is True:
        return False
    if condition is False:
        return True
    _condition(condition)
    return condition.negated()


def both(*conditions: Boolean) -> Boolean:
    """All of the conditions hold."""
    result: Any = True
    for each in conditions:
        if each is True:
            continue
        if each is False:
            return False
        _condition(each)
        result = each if result is True else result.conjoined(each)
        if result is False:
            return False
    return result  # type: ignore[no-any-return]


def either(*conditions: Boolean) -> Boolean:
    """At least one of the conditions holds."""
    result: Any = False
    for each in conditions:
        if each is False:
            continue
        if each is True:
            return True
        _condition(each)
        result = each if result is False else result.disjoined(each)
        if result is True:
            return True
    return result  # type: ignore[no-any-return]


def implies(premise: Boolean, conclusion: Boolean) -> Boolean:
    """If the premise holds, so does the conclusion."""
    return either(neg(premise), conclusion)


def ite(condition: Boolean, when_true: _V, when_false: _V) -> _V:
    """``when_true if condition else when_false``, for properties and for effects."""
    if condition is True:
        return when_true
    if condition is False:
        return when_false
    _condition(condition)
    return condition.choose(when_true, when_false)


def one_of(value: int, *candidates: int) -> Boolean:
    """The value is one of the candidates."""
    for each in candidates:
        same = value == each
        if same is True:
            return True
        if same is not False:
            return either(*[value == other for other in candidates])
    return False


def within(value: int, first: int, pages: int) -> Boolean:
    """``first <= value < first + pages``."""
    return both(first <= value, value < first + pages)


def two_to(exponent: int, largest: int) -> int:
    """``1 << exponent``.

    exponent: [0..largest]; ``largest`` is a plain number, so that the proof has finitely many cases.
    """
    if isinstance(exponent, Symbolic):
        result = 1 << largest
        for each in range(largest - 1, -1, -1):
            result = ite(exponent == each, 1 << each, result)
        return result
    if not 0 <= exponent <= largest:
        raise SpecificationError(f"2**{exponent} is outside 2**0..2**{largest}")
    return 1 << exponent


def bits_of(value: int, lowest: int, width: int) -> int:
    """``width`` bits of a number, from bit ``lowest`` up, by division: for numbers, not for words."""
    return (value // (1 << lowest)) % (1 << width)


JOIN: list[Callable[..., Any]] = []
"""How the engine joins the branches of a ``merged`` function; empty on integers."""


def merged(function: Callable[..., _V]) -> Callable[..., _V]:
    """Let the branches of a function be joined where it is called.

    Run on integers it is called as it is.  On symbols the engine explores its branches and goes on with one
    result: so a property may call a pure function that branches, and a step that changes the state in one
    way or another does not double all that follows.  Answers with different codes stay apart.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> _V:
        if JOIN:
            return JOIN[-1](function, arguments, named)  # type: ignore[no-any-return]
        return function(*arguments, **named)

    return call
