"""Does a mutated step break a property?  First the proof, then a small world.

Only paths that the mutant has changed are looked at, and of each only the properties that do not follow any more
from the invariants.  For each of these a small world is asked: is there a state that satisfies every invariant, and
a call that takes this path, after which the property does not hold?  What is found counts as replayed only when the
plain (mutated) specification, run on integers, confirms it; without it the proof has failed all the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import attrs

from proofs.engine import terms as T
from proofs.engine.hypotheses import Closure
from proofs.engine.obligations import FAILED, OVERFLOW, PROVED, UNKNOWN, Goal, Problem, Theory, TransitionProof
from proofs.engine.scope import Counterexample, Scope, broken, keys_at_hand, out_of_range, run
from proofs.engine.symbolic_tables import Log, RangeWrite, any_key, uids
from proofs.engine.symbols import Path, lift
from proofs.matrix import hints
from spec.language.outcomes import Kind, Outcome
from spec.language.records import columns
from tests.mutants.exploring import named_by_content
from tests.mutants.mutation import Mutant, applied

QUESTION = 12.0
"""Seconds that one question may take."""
NARROW: dict[str, tuple[int, ...]] = {}
WIDE: dict[str, tuple[int, ...]] = {"GrantRef": (0, 1, 2048), "int": (0, 1, 4, 8)}
"""The second world has a reference behind the first frame of each table, and the frames where its entry would stand."""


@attrs.frozen
class Found:
    """A property that a mutated step breaks: from a state that satisfies every invariant, on integers."""

    property: str
    transition: str


@attrs.define
class Answer:
    """What is known of one mutated transition.

    differs: some path is taken or ends otherwise.
    failed: properties that cannot be proved with the mutant in it; ``found``: one that a state on integers breaks.
    late: not everything was looked at in time.  left: goals that do not follow at once.
    """

    differs: bool = False
    failed: list[Found] = attrs.field(factory=list)
    found: Found | None = None
    late: bool = False
    left: int = 0


# ---- what a mutant changes


def effect(path: Path) -> tuple[Any, ...]:
    """What a path answers, and what it does to the state, by the identity of its terms."""
    outcome: Outcome[Any] = path.result
    done = tuple(_written(getattr(outcome.state, each.name)) for each in attrs.fields(type(outcome.state)))
    return outcome.kind, str(outcome.code), tuple(condition.uid for condition, _ in path.overflows), done


def _written(table: Any) -> tuple[Any, ...]:
    found: list[Any] = []
    names = columns(table.schema.row)
    for position, write in enumerate(table.writes):
        key = write.key if not isinstance(write, RangeWrite) else any_key(table.schema)
        row = write.row(key, table.prefix(position))
        found.append((uids(key), write.matches(key).uid, *[lift(getattr(row, n), h).uid for n, h in names.items()]))
    return tuple(found)


class Unchanged:
    """The paths of a transition without the mutant."""

    def __init__(self, proof: TransitionProof) -> None:
        self._known: dict[tuple[Any, ...], list[T.Term]] = {}
        for path, _ in proof.paths():
            self._known.setdefault(effect(path), []).append(T.conjunction(*path.conditions))

    def has(self, path: Path) -> bool:
        """The very same path was there."""
        return any(each is T.conjunction(*path.conditions) for each in self._known.get(effect(path), ()))

    def beyond(self, path: Path) -> T.Term:
        """The mutant makes a difference here: without it, the same was not done in such a state.

        What was proved without the mutant holds of all other states that take the path.
        """
        return T.negate(T.disjunction(*self._known.get(effect(path), ())))


# ---- the small world


class World(Scope):
    """The small scope of the engine, for questions whose answer nobody reads: only that it is confirmed counts."""

    _last: tuple[Path | None, bool] = (None, False)

    def _range(self, write: RangeWrite, hints: tuple[str, ...]) -> None:
        """A range lies among keys that follow one another in this scope."""
        for part, hint in zip(write.pattern, hints, strict=True):
            if hasattr(part, "first") and hint != "Index":
                first, end = lift(part.first), T.add(lift(part.first), lift(part.pages))
                inside = [T.conjunction(T.at_most(T.number(low), first), T.at_most(end, T.number(high)))
                          for low, high in _runs(self.sizes[hint])]
                self._assert(T.disjunction(T.at_most(end, first), *inside))

    def _rows(self) -> dict[tuple[str, Any], T.Term]:
        """No row need be at its default: a counterexample that is only counted may be large."""
        return {}

    def _within(self, log: Log) -> list[T.Term]:
        found = []
        for (table, _), key in log.keys.items():
            for part, hint in zip(key, self.theory.schemas[table].key, strict=True):
                if T.literal(part) is None:
                    found.append(T.disjunction(*[T.equal(part, T.number(v)) for v in self.sizes[hint]]))
        return found

    def _fails(self, goal: Goal) -> T.Term:
        for log in goal.logs[1:]:
            for universal in log.universals.values():
                self._universal(universal)
            self._absorb(log)
        return T.conjunction(*[each for log in goal.logs[1:] for each in self._within(log)], T.negate(goal.goal))

    def may_happen(self, proof: TransitionProof, path: Path, log: Log, limit: float) -> bool:
        """Some state satisfies every invariant and takes this path, or that could not be found out in time."""
        if path is not self._last[0]:
            started = time.perf_counter()
            found = self._asked(proof, path, log, None, limit) is not None or time.perf_counter() - started > limit
            self._last = (path, found)
        return self._last[1]

    def _asked(self, proof: TransitionProof, path: Path, log: Log, goal: Goal | None, limit: float
               ) -> tuple[Problem, dict[str, Any]] | None:
        mark, counted = len(self.assertions), set(self._counted)
        problem = Problem(proof.transition, "", path, proof.arguments, (), T.boolean(value=True), [log])
        try:
            self._path(problem, [log])
            if goal is not None:
                self._assert(self._fails(goal))
            values = self._model(problem, limit)
        finally:
            del self.assertions[mark:]
            self._counted = counted
        return None if values is None else (problem, values)

    def question(self, proof: TransitionProof, path: Path, log: Log, goal: Goal, limit: float) -> Found | None:
        """A property that the step breaks on this path, the one asked about or another, confirmed by running it."""
        asked = self._asked(proof, path, log, goal, limit)
        if asked is None:
            return None
        problem, values = asked
        state = self.concrete_state(values)
        arguments = {name: values[f"arg {name}"] for name in problem.arguments}
        found = Counterexample(state, arguments, [], "", (), Outcome(state, Kind.DONE))
        self._with_peers(problem, found, values)
        if not self.theory.untouched(state) or broken(self.theory, state, self):
            return None
        outcome = run(problem, found)
        if outcome is None:
            return None
        actor = found.arguments.get(proof.transition.actor, self.theory.nobody)
        broke = breaks(proof, state, outcome, actor, self)
        return Found(broke, proof.transition.name) if broke else None


def _runs(values: tuple[int, ...]) -> list[tuple[int, int]]:
    """The longest runs of consecutive numbers: (first, one past the last)."""
    found: list[tuple[int, int]] = []
    for value in sorted(values):
        if found and found[-1][1] == value:
            found[-1] = (found[-1][0], value + 1)
        else:
            found.append((value, value + 1))
    return found


def breaks(proof: TransitionProof, before: Any, outcome: Outcome[Any], actor: Any, scope: Scope | None) -> str:
    """The first property that does not hold after a step, "" if all do."""
    after, theory = outcome.state, proof.theory
    if outcome.kind is Kind.REFUSED and after is not before:
        return "REFUSED-UNCHANGED"
    claimed = theory.untouched(after)
    # those of small tables first
    for each in sorted(proof._asked(), key=lambda each: len(getattr(after, each.table).keys())):
        if not claimed and not each.of_repaired:
            continue
        keys = keys_at_hand(after, each.table, scope)
        if each.two_state:
            keys = list({*keys, *keys_at_hand(before, each.table, None)})
        for key in keys:
            parts = key if isinstance(key, tuple) else (key,)
            if not (each.function(before, after, actor, *parts) if each.two_state else each.function(after, *parts)):
                return each.id
    return OVERFLOW if claimed and out_of_range(theory, after) else ""


# ---- one transition


def goals_of(proof: TransitionProof, number: int, path: Path, log: Log) -> list[Goal]:
    """What has to be proved of a path, but for what holds trivially."""
    code = str(path.result.code)
    goals = list(proof._overflows(number, path, log, code))
    for each in proof._asked():
        line = proof._property(number, path, log, code, each)
        if isinstance(line, Goal):
            goals.append(line)
    return goals


def follows_at_once(proof: TransitionProof, goal: Goal) -> bool:
    """The goal follows from the invariants that were enough without the mutant, or from the nearest instances."""
    if proof._by_hint(goal) is not None:
        return True
    closure = Closure(proof.instances, goal.logs, goal.path.conditions)
    closure.grow(proof.levels[0])
    return proof._decide(closure, goal, 0) is not None


def verdict_of(proof: TransitionProof, goal: Goal) -> str:
    """PROVED from the invariants that were enough without the mutant, or from all of them; FAILED; or UNKNOWN."""
    verdicts = {line.verdict for line in proof._decide_together([goal])}
    return FAILED if FAILED in verdicts else PROVED if verdicts == {PROVED} else UNKNOWN


class Worlds:
    """The small worlds of one mutant, each made when it is needed."""

    def __init__(self, theory: Theory, mutant: Mutant) -> None:
        self._theory, self._sizes = theory, [{**sizes, **dict(mutant.sizes)} for sizes in (NARROW, WIDE)]
        self._made: list[World] = []

    def from_where(self, proof: TransitionProof, path: Path, log: Log) -> Iterator[World]:
        """Those in which the path may be taken."""
        for number in range(len(self._sizes)):
            if number == len(self._made):
                self._made.append(World(self._theory, self._sizes[number]))
            if self._made[number].may_happen(proof, path, log, QUESTION):
                yield self._made[number]


def counterexample(theory: Theory, name: str, mutant: Mutant, until: float, *, whole: bool) -> Answer:
    """What the mutated transition breaks, and what is left to be said of it.

    until: in seconds of this processor's work.
    whole: goals are tried to be proved from all invariants.  Else what does not follow at once is asked of a small
    world: most often there is a counterexample, and no proof to be found.
    """
    proof = TransitionProof(theory, theory.transitions[name], hints=hints(), limit=QUESTION)
    named_by_content(proof)
    before = Unchanged(proof)
    worlds = Worlds(theory, mutant)
    answer = Answer()
    with applied(mutant):
        for number, (path, log) in enumerate(proof.paths()):
            if before.has(path):
                continue
            answer.differs = True
            path.conditions.append(before.beyond(path))
            if (path.result.state is proof.before and not path.overflows) or not proof._alive(path, log):
                continue
            for goal in goals_of(proof, number, path, log):
                if time.process_time() > until:
                    answer.late = True
                    return answer
                if whole:
                    verdict = verdict_of(proof, goal)
                    if verdict == FAILED:
                        answer.failed.append(Found(goal.property, name))
                        return answer
                    # what the solver cannot say in time is no kill
                    answer.late |= verdict == UNKNOWN
                    continue
                if follows_at_once(proof, goal):
                    continue
                answer.left += 1
                for world in worlds.from_where(proof, path, log):
                    answer.found = world.question(proof, path, log, goal, QUESTION)
                    if answer.found is not None:
                        return answer
    return answer


def tried(theory: Theory, mutant: Mutant) -> Found | None:
    """What the mutant breaks in the state that it names itself: too large a one for a small world."""
    if mutant.trial is None:
        return None
    state, name, arguments = mutant.trial()
    step = theory.transitions[name]
    proof = TransitionProof(theory, step, hints=hints())
    with applied(mutant):
        if not theory.untouched(state) or broken(theory, state):
            return None
        outcome = step.function(state, **arguments)
        broke = breaks(proof, state, outcome, arguments.get(step.actor, theory.nobody), None)
    proof.only = lambda each: each == broke
    with applied(mutant):
        fails = any(
            goal.property == broke and verdict_of(proof, goal) != PROVED
            for number, (path, log) in enumerate(proof.paths()) for goal in goals_of(proof, number, path, log)
        )
    return Found(broke, name) if broke and fails else None
