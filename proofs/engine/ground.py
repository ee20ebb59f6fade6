"""One concrete state on the symbolic reading.

Unwritten rows are the default, written ones are literals.  Used twice: to prove that a boot state
satisfies every invariant at *every* key, also those that were never written; and to check that both
readings of the specification say the same.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

from proofs.engine import terms as T
from proofs.engine.obligations import FAILED, PROVED, UNKNOWN, Obligation, Theory, fresh_key
from proofs.engine.solvers import SOLVERS, UNSAT
from proofs.engine.symbolic_tables import Key, PointWrite, RangeWrite, SymTable, uids
from proofs.engine.symbols import lift, unbranched, wrap
from spec.language.records import columns
from spec.language.values import SpecificationError

BOOT = "(boot)"


class GroundTable(SymTable):
    """A table whose base is the default row everywhere."""

    __slots__ = ()

    def _base(self, name: str, key: Key) -> T.Term:  # noqa: ARG002
        return lift(getattr(self.schema.row(), name), columns(self.schema.row)[name])

    def written(self) -> list[Key]:
        """The literal keys that differ from the default, or may."""
        found: dict[tuple[int, ...], Key] = {}
        for write in self.writes:
            if isinstance(write, PointWrite):
                found[uids(write.key)] = write.key
            else:
                for key in self._range(write):
                    found[uids(key)] = key
        return list(found.values())

    def _range(self, write: RangeWrite) -> Iterator[Key]:
        parts: list[list[int]] = []
        for part in write.pattern:
            if hasattr(part, "first"):
                parts.append(list(range(_literal(part.first), _literal(part.first) + _literal(part.pages))))
            elif hasattr(part, "has"):
                known = {key for key in self.written_before(write)}
                yield from (key for key in known if lift(write.matches(key), "bool") is T.boolean(value=True))
                return
            else:
                parts.append([_literal(part)])
        for key in itertools.product(*parts):
            yield tuple(T.number(each) for each in key)

    def written_before(self, write: RangeWrite) -> list[Key]:
        """The keys written before a range write."""
        position = self.writes.index(write)
        return self.prefix(position).written()  # type: ignore[attr-defined, no-any-return]

    def every(self, pattern: Any, predicate: Callable[..., Any]) -> Any:
        """All matching rows, looked at one by one."""
        parts = pattern if isinstance(pattern, tuple) else (pattern,)
        write = RangeWrite(parts, lambda *_: {}, "every")
        result = T.boolean(value=True)
        for key in self._with((*self.writes, write)).written():  # type: ignore[attr-defined]
            hit = write.matches(key)
            says = lift(unbranched(predicate, self.row(key), *self.values(key)), "bool")
            result = T.conjunction(result, T.implication(hit, says))
        return wrap(result)

    def count(self, predicate: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """The sum over the written rows."""
        total = T.number(0)
        for key in self.written():
            holds = unbranched(predicate, self.row(key), *self.values(key), *arguments)
            total = T.add(total, T.choose(lift(holds, "bool"), T.number(1), T.number(0)))
        return wrap(total)


def _literal(value: Any) -> int:
    found = T.literal(lift(value))
    if found is None:
        raise SpecificationError(f"{value!r} is not a literal")
    return found


def ground(theory: Theory, state: Any) -> Any:
    """A concrete state as literal writes over default rows."""
    tables = {}
    for name, schema in theory.schemas.items():
        writes = []
        for key, row in getattr(state, name).items():
            parts = key if isinstance(key, tuple) else (key,)
            writes.append(PointWrite(tuple(T.number(part) for part in parts), row))
        tables[name] = GroundTable(schema, tuple(writes))
    return theory.state(**tables)


class BootProof:
    """A boot state satisfies every invariant at every key."""

    def __init__(self, theory: Theory, name: str, state: Any, *, solver: str = "z3", seed: int = 0, limit: float = 20.0) -> None:
        T.reset()
        self.theory, self.name, self.concrete = theory, name, state
        self.solver, self.seed, self.limit = solver, seed, limit
        self.state = ground(theory, state)

    def run(self) -> Iterator[Obligation]:
        """Each invariant: at the written keys by running it, at any other key by proof."""
        for each in self.theory.properties.values():
            if each.two_state:
                continue
            started = time.perf_counter()
            rows = getattr(self.concrete, each.table)
            holds = all(each.function(self.concrete, *(k if isinstance(k, tuple) else (k,))) for k in rows.keys())
            build = time.perf_counter() - started
            verdict, solve = FAILED, 0.0
            if holds:
                key = fresh_key(self.theory.schemas[each.table])
                goal = lift(unbranched(each.function, self.state, *[wrap(part) for part in key]), "bool")
                text = T.smtlib([T.negate(goal)])
                build = time.perf_counter() - started
                answer = SOLVERS[self.solver](text, seed=self.seed, limit=self.limit)
                solve = answer.seconds
                verdict = PROVED if answer.verdict == UNSAT else FAILED if answer.verdict == "sat" else UNKNOWN
            yield Obligation(f"{BOOT}/{self.name}/{each.id}", BOOT, each.id, self.name, "", verdict, build, solve,
                             self.solver, "", 0)
