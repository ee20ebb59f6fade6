"""What has to be proved of one transition: every path against every property.

For each path of the transition that may leave a changed state, and each property P:

    invariants(before) and path conditions  =>  P(after) at a fresh key

The *frame rule* skips P when P(after) and P(before) are the same term (nothing that P reads was
written; range writes and counts included, since both are part of the term).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs

from proofs.engine import terms as T
from proofs.engine.hypotheses import LEVELS, Closure, Instances
from proofs.engine.solvers import SAT, SOLVERS, UNSAT
from proofs.engine.symbolic_tables import Log, recording, symbolic_state
from proofs.engine.symbols import Explorer, Path, lift, unbranched, wrap
from spec.language.outcomes import Kind, Outcome
from spec.language.registry import Property, Transition
from spec.language.tables import Schema
from spec.language.values import RANGES

PROVED, FRAME, TRIVIAL, FAILED, UNKNOWN, DEAD = "proved", "frame", "trivial", "failed", "unknown", "dead"
OVERFLOW = "NO-OVERFLOW"


@attrs.define
class Theory:
    """A state class with the transitions and properties that speak of it."""

    state: type
    schemas: dict[str, Schema]
    transitions: dict[str, Transition]
    properties: dict[str, Property]
    nobody: int = 0x7FFF


@attrs.frozen
class Obligation:
    """One line of the proof: a path of a transition, a property, and how it ended."""

    id: str
    transition: str
    property: str
    path: str
    code: str
    verdict: str
    build: float
    solve: float
    solver: str
    hash: str
    level: int

    @property
    def seconds(self) -> float:
        """Building and solving."""
        return self.build + self.solve


@attrs.define
class Problem:
    """A goal with everything that may be used for it; kept to ask again in a small scope."""

    transition: Transition
    property: str
    path: Path
    arguments: dict[str, T.Term]
    fresh: tuple[T.Term, ...]
    goal: T.Term
    logs: list[Log]


@attrs.define
class Goal:
    """A property of one path that the solver has to decide."""

    number: int
    property: str
    path: Path
    logs: list[Log]
    code: str
    goal: T.Term
    key: tuple[T.Term, ...]
    build: float = 0.0


def argument_terms(transition: Transition) -> dict[str, T.Term]:
    """One constant for each parameter, within the range of its type."""
    found = {}
    for name, hint in transition.parameters.items():
        if hint == "bool":
            found[name] = T.variable(f"arg.{name}", T.BOOL)
        else:
            found[name] = T.variable(f"arg.{name}", T.INT, RANGES[hint])
    return found


def fresh_key(schema: Schema, stem: str = "any") -> tuple[T.Term, ...]:
    """A key about which nothing is known but its type."""
    return tuple(
        T.variable(f"{stem}.{schema.name}.{i}", T.INT, RANGES[hint]) for i, hint in enumerate(schema.key)
    )


def _written(state: Any) -> set[str]:
    """The tables that a path has written."""
    return {each.name for each in attrs.fields(type(state)) if getattr(state, each.name).writes}


class TransitionProof:
    """All obligations of one transition."""

    def __init__(self, theory: Theory, transition: Transition, *, solver: str = "z3", seed: int = 0,
                 limit: float = 10.0, audit: bool = False, cache: Any = None,
                 only: Callable[[str], bool] | None = None) -> None:
        T.reset()
        self.theory, self.transition = theory, transition
        self.solver, self.seed, self.limit, self.audit, self.cache = solver, seed, limit, audit, cache
        self.only = only
        self.before = symbolic_state(theory.state, theory.schemas)
        self.arguments = argument_terms(transition)
        self.instances = Instances(self.before, theory.properties.values())
        self._properties: dict[str, Any] = {}
        self.explored = 0
        self.refusals: dict[str, int] = {}
        self.problems: list[tuple[Obligation, Problem]] = []

    # -- paths

    def _call(self) -> Any:
        values = {
            name: wrap(term, self.transition.parameters[name]) for name, term in self.arguments.items()
        }
        return self.transition.function(self.before, **values)

    def paths(self) -> Iterator[tuple[Path, Log]]:
        """Every path with what it touched."""
        logs: list[Log] = []

        def run() -> Any:
            with recording() as log:
                logs[:] = [log]
                return self._call()

        for path in Explorer().explore(run):
            yield path, logs[0]

    # -- obligations

    def run(self) -> Iterator[Obligation]:
        """Prove everything; each obligation as soon as it is decided."""
        for number, (path, log) in enumerate(self.paths()):
            self.explored += 1
            outcome: Outcome[Any] = path.result
            code = str(outcome.code)
            if outcome.state is self.before:
                self.refusals[code] = self.refusals.get(code, 0) + 1
                yield from self._decide_together(list(self._overflows(number, path, log, code)))
                continue
            if outcome.kind is Kind.REFUSED:
                yield self._line(number, "REFUSED-UNCHANGED", path, code, FAILED, 0, 0, "", 0)
                continue
            if not self._alive(path, log):
                yield self._line(number, "", path, code, DEAD, 0, 0, "", 0)
                continue
            goals = list(self._overflows(number, path, log, code))
            for each in self.theory.properties.values():
                if not each.derived and (self.only is None or self.only(each.id)):
                    goals.append(self._property(number, path, log, code, each))
            yield from (each for each in goals if isinstance(each, Obligation))
            yield from self._decide_together([each for each in goals if isinstance(each, Goal)])

    def _line(self, number: int, identifier: str, path: Path, code: str, verdict: str,  # noqa: PLR0913
              build: float, solve: float, digest: str, level: int, part: str = "") -> Obligation:
        trail = f"{number}"
        return Obligation(f"{self.transition.name}/{trail}/{identifier}{part}", self.transition.name, identifier,
                          trail, code, verdict, build, solve, self.solver, digest, level)

    def _alive(self, path: Path, log: Log) -> bool:
        closure = Closure(self.instances, [log], path.conditions)
        closure.grow(LEVELS[0])
        return self._ask(T.smtlib(closure.assertions))[0] != UNSAT

    def _ask(self, text: str) -> tuple[str, float, str]:
        digest = hashlib.sha256(text.encode()).hexdigest()[:24]
        key = f"{self.solver}:{self.seed}:{digest}"
        if self.cache is not None and key in self.cache:
            return self.cache[key], 0.0, digest
        answer = SOLVERS[self.solver](text, seed=self.seed, limit=self.limit)
        if self.cache is not None:
            self.cache[key] = answer.verdict
        return answer.verdict, answer.seconds, digest

    def _refute(self, closure: Closure) -> tuple[str, float, str, int]:
        """Ask at growing depth until the negated goal is refuted: (verdict, seconds, hash, level)."""
        solving = 0.0
        verdict, digest, level = UNKNOWN, "", 0
        for level, depth in enumerate(LEVELS):  # noqa: B007
            closure.grow(depth)
            verdict, seconds, digest = self._ask(T.smtlib(closure.assertions))
            solving += seconds
            if verdict == UNSAT:
                break
        return verdict, solving, digest, level

    def _overflows(self, number: int, path: Path, log: Log, code: str) -> Iterator[Goal]:
        if not path.overflows or (self.only is not None and not self.only(OVERFLOW)):
            return
        goal = T.conjunction(*[condition for condition, _ in path.overflows])
        yield Goal(number, OVERFLOW, path, [log], code, goal, ())

    def _property(self, number: int, path: Path, log: Log, code: str, each: Property) -> Obligation | Goal:
        started = time.perf_counter()
        after = path.result.state
        key, values, unchanged, reads = self._before(each)
        if reads is not None and not self.audit and reads.isdisjoint(_written(after)):
            return self._line(number, each.id, path, code, FRAME, time.perf_counter() - started, 0, "", 0)
        with recording() as goal_log:
            if each.two_state:
                holds = unbranched(each.function, self.before, after, self._actor(), *values)
            else:
                holds = unbranched(each.function, after, *values)
        goal = lift(holds, "bool")
        if goal.op == "const" and goal.args[0]:
            return self._line(number, each.id, path, code, TRIVIAL, time.perf_counter() - started, 0, "", 0)
        if goal is unchanged and not self.audit:
            return self._line(number, each.id, path, code, FRAME, time.perf_counter() - started, 0, "", 0)
        return Goal(number, each.id, path, [log, goal_log], code, goal, key, time.perf_counter() - started)

    def _actor(self) -> Any:
        return wrap(self.arguments[self.transition.actor]) if self.transition.actor else self.theory.nobody

    def _before(self, each: Property) -> tuple[tuple[T.Term, ...], list[Any], T.Term | None, set[str] | None]:
        """The property at a fresh key before the step: key, values, the term, and the tables that it reads.

        A property does not branch, so it reads the same tables whatever they hold; if the step wrote
        none of them, it reads the same terms.
        """
        found = self._properties.get(each.id)
        if found is None:
            key = fresh_key(self.theory.schemas[each.table])
            values = [wrap(part) for part in key]
            with recording() as log:
                if each.two_state:
                    term = lift(unbranched(each.function, self.before, self.before, self._actor(), *values), "bool")
                else:
                    term = lift(unbranched(each.function, self.before, *values), "bool")
            reads: set[str] | None = {table for table, _ in log.keys} | {m.table.schema.name for m in log.counts.values()}
            if each.two_state:
                # a step that writes none of the tables leaves before and after the same: it must hold of that
                reads = reads if term is T.boolean(value=True) else None
                term = None
            found = key, values, term, reads
            self._properties[each.id] = found
        return found

    def _decide_together(self, goals: list[Goal]) -> Iterator[Obligation]:
        """Goals of one path share their hypotheses: refute "one of them fails" at once, else halve.

        Proved together is proved: the union of the hypotheses and the disjunction of the negated goals
        are refuted.  A goal that stands alone is decided at growing depth.
        """
        if not goals:
            return
        if len(goals) == 1:
            yield self._decide(goals[0])
            return
        started = time.perf_counter()
        logs = {id(log): log for goal in goals for log in goal.logs}.values()
        broken = T.disjunction(*[T.negate(goal.goal) for goal in goals])
        closure = Closure(self.instances, logs, [*goals[0].path.conditions, broken])
        closure.grow(LEVELS[0])
        verdict, solving, digest = self._ask(T.smtlib(closure.assertions))
        building = time.perf_counter() - started - solving
        if verdict == UNSAT:
            share = len(goals)
            for goal in goals:
                yield self._line(goal.number, goal.property, goal.path, goal.code, PROVED,
                                 goal.build + building / share, solving / share, digest, 0)
            return
        middle = len(goals) // 2
        yield from self._decide_together(goals[:middle])
        yield from self._decide_together(goals[middle:])

    def _decide(self, goal: Goal) -> Obligation:
        started = time.perf_counter()
        closure = Closure(self.instances, goal.logs, [*goal.path.conditions, T.negate(goal.goal)])
        verdict, solving, digest, level = self._refute(closure)
        final = PROVED if verdict == UNSAT else FAILED if verdict == SAT else UNKNOWN
        line = self._line(goal.number, goal.property, goal.path, goal.code, final,
                          goal.build + time.perf_counter() - started - solving, solving, digest, level)
        if final != PROVED:
            self.problems.append((line, Problem(self.transition, goal.property, goal.path, self.arguments, goal.key,
                                                goal.goal, goal.logs)))
        return line


COROLLARIES = "(corollaries)"


class CorollaryProof(TransitionProof):
    """What follows from the invariants of any one state."""

    def __init__(self, theory: Theory, **options: Any) -> None:
        super().__init__(theory, Transition(COROLLARIES, lambda _: None, actor=""), **options)

    def run(self) -> Iterator[Obligation]:
        """Each corollary at a fresh key, from the invariants alone."""
        path = Path(Outcome(self.before, Kind.DONE), [], [], ())
        for each in self.theory.properties.values():
            if not each.derived or (self.only is not None and not self.only(each.id)):
                continue
            started = time.perf_counter()
            key = fresh_key(self.theory.schemas[each.table])
            with recording() as log:
                goal = lift(unbranched(each.function, self.before, *[wrap(part) for part in key]), "bool")
            yield self._decide(Goal(0, each.id, path, [log], "", goal, key, time.perf_counter() - started))
