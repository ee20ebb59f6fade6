"""One concrete state on the symbolic reading.

Unwritten rows are the default, written ones are literals.  Used twice: to prove that a boot state
satisfies every invariant at *every* key, also those that were never written; and to check that both
readings of the specification say the same.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from proofs.engine import terms as T
from proofs.engine.obligations import FAILED, PROVED, UNKNOWN, Obligation, Theory
from proofs.engine.solvers import SAT, SOLVERS, UNSAT, renew
from proofs.engine.symbolic_tables import Key, PointWrite, RangeWrite, SymTable, any_key, matches, uids
from proofs.engine.symbols import lift, unbranched, wrap
from spec.language.records import columns
from spec.language.registry import Property
from spec.language.tables import Schema, Span, keys_of
from spec.language.values import SpecificationError

BOOT = "(boot)"


class GroundTable(SymTable):
    """A table whose base is known: literal rows, and the default row at every other key.

    free: a key that is taken to be none of the literal ones.
    """

    __slots__ = ("free", "rows")

    def __init__(self, schema: Schema, writes: tuple[Any, ...] = (), side: str = "", floor: int = 0,
                 rows: dict[tuple[int, ...], Any] | None = None, free: Key | None = None) -> None:
        super().__init__(schema, writes, side, floor)
        self.rows: dict[tuple[int, ...], Any] = rows or {}
        self.free = free

    def _with(self, writes: tuple[Any, ...], floor: int | None = None) -> GroundTable:
        return GroundTable(self.schema, writes, self.side, self.floor if floor is None else floor, self.rows, self.free)

    def _base(self, name: str, key: Key) -> T.Term:
        hint = columns(self.schema.row)[name]
        default = lift(getattr(self.schema.row(), name), hint)
        if self.free is not None and uids(key) == uids(self.free):
            return default
        literals = [T.literal(part) for part in key]
        if None not in literals:
            row = self.rows.get(tuple(literals))  # type: ignore[arg-type]
            return default if row is None else lift(getattr(row, name), hint)
        term = default
        for place, row in self.rows.items():
            value = lift(getattr(row, name), hint)
            if value is not default:
                here = T.conjunction(*[T.equal(part, T.number(at)) for part, at in zip(key, place, strict=True)])
                term = T.choose(here, value, term)
        return term

    def written(self) -> list[Key]:
        """The keys that differ from the default, or may."""
        found: dict[tuple[int, ...], Key] = {}
        for place in self.rows:
            key = tuple(T.number(part) for part in place)
            found[uids(key)] = key
        for position, write in enumerate(self.writes):
            keys = (write.key,) if isinstance(write, PointWrite) else self._matching(write.pattern, position)
            for key in keys:
                found[uids(key)] = key
        return list(found.values())

    def _matching(self, pattern: tuple[Any, ...], position: int | None = None) -> Iterator[Key]:
        """The keys of a pattern; where it says ALL, those among the keys written by then."""
        parts: list[Any] = []
        for part in pattern:
            if hasattr(part, "first"):
                parts.append(Span(_literal(part.first), _literal(part.pages)))
            elif hasattr(part, "has"):
                known = self if position is None else self.prefix(position)
                yield from (key for key in known.written()  # type: ignore[attr-defined]
                            if matches(pattern, key) is T.boolean(value=True))
                return
            else:
                parts.append(_literal(part))
        for numbers in keys_of(tuple(parts)):
            yield tuple(T.number(each) for each in numbers)

    def every(self, pattern: Any, predicate: Callable[..., Any]) -> Any:
        """All matching rows, looked at one by one."""
        parts = pattern if isinstance(pattern, tuple) else (pattern,)
        result = T.boolean(value=True)
        for key in self._matching(parts):
            says = lift(unbranched(predicate, self.row(key), *self.values(key)), "bool")
            result = T.conjunction(result, says)
            if result is T.boolean(value=False):
                break
        return wrap(result)

    def count(self, predicate: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """The sum over the written rows."""
        total = T.number(0)
        for key in self.written():
            holds = unbranched(predicate, self.row(key), *self.values(key), *arguments)
            total = T.add(total, T.choose(lift(holds, "bool"), T.number(1), T.number(0)))
        return wrap(total)

    def _check_range(self, write: RangeWrite, after: SymTable, name: str) -> None:
        """What a range write may carry is proved elsewhere, for any state."""


def _literal(value: Any) -> int:
    found = T.literal(lift(value))
    if found is None:
        raise SpecificationError(f"{value!r} is not a literal")
    return found


def ground(theory: Theory, state: Any, free: dict[str, Key] | None = None) -> Any:
    """A concrete state as literal rows over default rows; ``free`` names a key of a table that is none of them."""
    return of_rows(theory, literal_rows(theory, state), free or {})


def literal_rows(theory: Theory, state: Any) -> dict[str, dict[tuple[int, ...], Any]]:
    """The rows of a concrete state that differ from the default, by table."""
    return {
        name: {key if isinstance(key, tuple) else (key,): row for key, row in getattr(state, name).items()}
        for name in theory.schemas
    }


def of_rows(theory: Theory, rows: dict[str, dict[tuple[int, ...], Any]], free: dict[str, Key]) -> Any:
    """``ground`` of rows that are known already."""
    return theory.state(**{
        name: GroundTable(schema, rows=rows[name], free=free.get(name)) for name, schema in theory.schemas.items()
    })


MOST_APART = 2000
"""Literal keys that the key of a proof is said to differ from; of a larger table, its row alone is known."""


class BootProof:
    """A boot state satisfies every invariant at every key."""

    def __init__(self, theory: Theory, name: str, state: Any, *, solver: str = "z3", seeds: int = 1,
                 limit: float = 20.0) -> None:
        T.reset()
        renew()
        self.theory, self.name, self.concrete = theory, name, state
        self.solver, self.seeds, self.limit = solver, seeds, limit
        self._rows = literal_rows(theory, state)

    def run(self) -> Iterator[Obligation]:
        """Each invariant and corollary: at the written keys by running it, at any other key by proof."""
        for each in self.theory.properties.values():
            if each.two_state:
                continue
            started = time.perf_counter()
            holds = all(each.function(self.concrete, *key) for key in self._rows[each.table])
            build, solve, verdict, digest = time.perf_counter() - started, 0.0, FAILED, ""
            if holds:
                text = self._elsewhere(each)
                build, digest = time.perf_counter() - started, hashlib.sha256(text.encode()).hexdigest()[:24]
                said = [SOLVERS[self.solver](text, seed=seed, limit=self.limit) for seed in range(self.seeds)]
                solve = said[0].seconds
                answers = {each.verdict for each in said}
                verdict = PROVED if answers == {UNSAT} else FAILED if answers == {SAT} else UNKNOWN
            yield self.line(each.id, verdict, build, solve, digest)

    def _elsewhere(self, each: Property) -> str:
        """The property is false at a key whose row was never written: to be refuted."""
        key = any_key(self.theory.schemas[each.table])
        state = of_rows(self.theory, self._rows, {each.table: key})
        goal = lift(unbranched(each.function, state, *[wrap(part) for part in key]), "bool")
        apart = []
        places = getattr(state, each.table).rows
        if len(places) <= MOST_APART:
            for place in places:
                same = [T.equal(part, T.number(at)) for part, at in zip(key, place, strict=True)]
                apart.append(T.negate(T.conjunction(*same)))
        return T.smtlib([*apart, T.negate(goal)])

    def line(self, identifier: str, verdict: str, build: float, solve: float, digest: str) -> Obligation:
        """One line of the proof."""
        return Obligation(f"{BOOT}/{self.name}/{identifier}", BOOT, identifier, self.name, "", verdict, build, solve,
                          self.solver, digest, 0)
