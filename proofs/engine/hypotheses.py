"""Which instances of the hypotheses a proof gets to see.

The hypotheses "every invariant holds of every row" are infinite.  A proof needs few of them: those
at the keys that the step and the goal touch, and at keys that those mention in turn
(*generations*).  Leaving instances out can only make a proof fail, never succeed wrongly.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from proofs.engine import terms as T
from proofs.engine.counting import RangeNumber, decomposition, outside
from proofs.engine.symbolic_tables import Key, Log, Mention, RangeWrite, Universal, recording, uids
from proofs.engine.symbols import lift, unbranched, wrap
from spec.language.registry import Property
from spec.language.values import RANGES


@attrs.frozen
class Depth:
    """How far instantiation goes: generations of keys for invariants, of counts, of keys for counts."""

    keys: int
    counts: int
    outside: int


LEVELS = (Depth(0, 1, 1), Depth(1, 1, 2), Depth(2, 2, 3))
DEEP = (*LEVELS, Depth(4, 4, 6))
"""For what starts from one row alone, so that few keys are at hand."""


class Instances:
    """Invariants of the state before the step, at given keys: built once a job."""

    def __init__(self, state: Any, properties: Iterable[Property]) -> None:
        self._state = state
        self._by_table: dict[str, list[Property]] = {}
        for each in properties:
            if not each.two_state and not each.derived:
                self._by_table.setdefault(each.table, []).append(each)
        self._built: dict[tuple[str, tuple[int, ...]], list[tuple[str, T.Term, Log]]] = {}

    def at(self, table: str, key: Key) -> list[tuple[str, T.Term, Log]]:
        """Every invariant over the table, at the key, with what it touches in turn."""
        place = (table, uids(key))
        found = self._built.get(place)
        if found is None:
            found = []
            for each in self._by_table.get(table, ()):
                with recording() as log:
                    holds = unbranched(each.function, self._state, *[wrap(part) for part in key])
                found.append((each.id, lift(holds, "bool"), log))
            self._built[place] = found
        return found


class Closure:
    """The hypotheses of one proof, growing level by level."""

    def __init__(self, instances: Instances, logs: Iterable[Log], conditions: Iterable[T.Term] = (),
                 only: frozenset[str] | None = None) -> None:
        self._instances, self._only = instances, only
        self.assertions: list[T.Term] = list(conditions)
        self.given = len(self.assertions)
        self.used: list[str] = []
        self._seen: set[int] = set()
        self._generation: dict[tuple[str, tuple[int, ...]], tuple[Key, int]] = {}
        self._mentions: dict[tuple[Any, ...], tuple[Mention, int]] = {}
        self._universals: list[Universal] = []
        self._done: set[Any] = set()
        self._numbers: dict[tuple[Any, ...], RangeNumber] = {}
        for log in logs:
            self._absorb(log, 0)
        self._known: dict[str, list[Key]] = {}
        for (table, _), (key, _) in self._generation.items():
            self._known.setdefault(table, []).append(key)

    def _absorb(self, log: Log, generation: int) -> None:
        for place, key in log.keys.items():
            old = self._generation.get(place)
            if old is None or old[1] > generation:
                self._generation[place] = (key, generation)
        for place, mention in log.counts.items():
            known = self._mentions.get(place)
            if known is None or known[1] > generation:
                self._mentions[place] = (mention, generation)
        self._universals.extend(log.universals.values())

    def _add(self, fact: T.Term, source: str) -> None:
        if fact.op == "const" and fact.args[0]:
            return
        if fact.uid not in self._seen:
            self._seen.add(fact.uid)
            self.assertions.append(fact)
            self.used.append(source)

    def grow(self, depth: Depth) -> None:
        """Everything that is due at this depth."""
        size = -1
        while size != len(self._done):
            size = len(self._done)
            self._invariants(depth)
            self._every(depth)
            self._counts(depth)

    def _once(self, *what: Any) -> bool:
        if what in self._done:
            return False
        self._done.add(what)
        return True

    def _invariants(self, depth: Depth) -> None:
        for place, (key, generation) in list(self._generation.items()):
            if generation <= depth.keys and self._once("inv", place):
                for identifier, holds, log in self._instances.at(place[0], key):
                    if self._only is not None and identifier not in self._only:
                        continue
                    self._add(holds, identifier)
                    self._absorb(log, generation + 1)

    def _every(self, depth: Depth) -> None:
        for each in list(self._universals):
            name = each.holds.uid
            if self._once("witness", name):
                hints = each.table.schema.key
                witness = tuple(
                    T.variable(f"{each.holds.args[0]}.not{i}", T.INT, RANGES[h]) for i, h in enumerate(hints)
                )
                with recording() as log:
                    broken = T.conjunction(each.matches(witness), T.negate(each.predicate(witness)))
                self._add(T.disjunction(each.holds, broken), "every")
                self._absorb(log, 1)
            for place, (key, generation) in list(self._generation.items()):
                here = place[0] == each.table.schema.name and generation <= depth.keys + 1
                if here and self._once("every", name, place):
                    with recording() as log:
                        fact = T.implication(T.conjunction(each.holds, each.matches(key)), each.predicate(key))
                    self._add(fact, "every")
                    self._absorb(log, generation + 1)

    def _counts(self, depth: Depth) -> None:
        for mention, generation in list(self._mentions.values()):
            if generation > depth.counts:
                continue
            table = mention.table.schema.name
            known = self._known.get(table, [])
            identity = (mention.name, uids(mention.arguments))
            if self._once("count", identity):
                for fact, log in decomposition(mention, known):
                    self._add(fact, "count")
                    self._absorb(log, generation + 1)
            inside = {uids(key) for key in known}
            for place, (key, age) in list(self._generation.items()):
                if place[0] != table or place[1] in inside or generation + age > depth.outside:
                    continue
                if self._once("outside", identity, place):
                    fact, _ = outside(mention, key, known)
                    self._add(fact, "count")
            for position, write in enumerate(mention.table.writes):
                if isinstance(write, RangeWrite):
                    self._range(mention, position, known, generation)

    def _range(self, mention: Mention, position: int, known: list[Key], generation: int) -> None:
        for moment in ("before", "after"):
            number = RangeNumber(mention, position, moment)
            if not self._once("range", number.identity):
                continue
            for fact, log in number.facts(known):
                self._add(fact, "count")
                self._absorb(log, generation + 1)
            for other in self._numbers.values():
                if uids(other.mention.arguments) == uids(mention.arguments):
                    for fact, log in number.differs_from(other):
                        self._add(fact, "count")
                        self._absorb(log, generation + 1)
            self._numbers[number.identity] = number
