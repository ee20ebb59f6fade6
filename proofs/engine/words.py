"""Why a word may be taken for its fields.

On symbols ``decode`` and ``encode`` are uninterpreted; two facts of them are used: decoding what was
encoded gives the fields back, and a word determines its fields.  Here the *integer* reading of the
same two functions is run on 64-bit vectors, and both facts, and "bits outside the layout are
kept", are proved for each layout.
"""

from __future__ import annotations

import time
from typing import Any

import attrs
import z3

from spec.language.layouts import decode, encode


class _Flag:
    """A condition over vectors."""

    def __init__(self, term: Any) -> None:
        self.term = term

    def _bit(self) -> Any:
        return z3.If(self.term, z3.BitVecVal(1, 64), z3.BitVecVal(0, 64))

    def __lshift__(self, places: int) -> _Vector:
        return _Vector(self._bit() << places)

    def __ge__(self, _: int) -> bool:
        return True

    __lt__ = __ge__


class _Vector:
    """64 bits, with the operators that ``decode`` and ``encode`` use."""

    def __init__(self, term: Any) -> None:
        self.term = term

    def _other(self, other: Any) -> Any:
        return other.term if isinstance(other, _Vector) else z3.BitVecVal(int(other), 64)

    def __rshift__(self, places: int) -> _Vector:
        return _Vector(z3.LShR(self.term, places))

    def __lshift__(self, places: int) -> _Vector:
        return _Vector(self.term << places)

    def __and__(self, other: Any) -> _Vector:
        return _Vector(self.term & self._other(other))

    def __or__(self, other: Any) -> _Vector:
        return _Vector(self.term | self._other(other))

    __rand__, __ror__ = __and__, __or__

    def __eq__(self, other: object) -> Any:
        return _Flag(self.term == self._other(other))

    __hash__ = None  # type: ignore[assignment]

    def __ge__(self, _: int) -> bool:
        return True

    __lt__ = __ge__


@attrs.frozen
class Lemma:
    """One fact about one layout, and whether it was proved."""

    layout: str
    claim: str
    proved: bool
    seconds: float


def _proved(claim: Any, *assumptions: Any) -> tuple[bool, float]:
    started = time.perf_counter()
    solver = z3.Solver()
    solver.set("timeout", 10_000)
    solver.add(*assumptions, z3.Not(claim))
    return bool(solver.check() == z3.unsat), time.perf_counter() - started


def lemmas(view: type) -> list[Lemma]:
    """The facts about one layout."""
    shape = view.__layout__  # type: ignore[attr-defined]
    name = view.__name__
    values: dict[str, Any] = {}
    bounds = []
    for each in shape.fields:
        if each.type == "bool":
            values[each.name] = _Flag(z3.Bool(each.name))
        else:
            values[each.name] = _Vector(z3.BitVec(each.name, 64))
            bounds.append(z3.ULE(values[each.name].term, (1 << each.width) - 1))
    previous = _Vector(z3.BitVec("previous", 64))
    word: Any = encode(view(**values), previous)  # type: ignore[arg-type]
    back: Any = decode(view, word)
    found = []
    for each in shape.fields:
        ok, seconds = _proved(getattr(back, each.name).term == values[each.name].term, *bounds)
        found.append(Lemma(name, f"decode(encode(d)).{each.name} == d.{each.name}", ok, seconds))
    rest = ~shape.mask & ((1 << 64) - 1)
    ok, seconds = _proved((word & rest).term == (previous & rest).term, *bounds)
    found.append(Lemma(name, "bits outside the layout are kept", ok, seconds))
    again: Any = encode(decode(view, previous), previous)  # type: ignore[arg-type]
    ok, seconds = _proved(again.term == previous.term)
    found.append(Lemma(name, "encode(decode(w), w) == w", ok, seconds))
    return found
