"""What has to be proved of one transition: every path against every property.

For each path of the transition that may leave a changed state, and each property P:

    invariants(before) and path conditions  =>  P(after) at a fresh key

The *frame rule* skips P when P(after) and P(before) are the same term (nothing that P reads was
written; range writes and counts included, since both are part of the term).
"""

from __future__ import annotations

import builtins
import hashlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from proofs.engine import terms as T
from proofs.engine.counting import Names
from proofs.engine.hypotheses import DEEP, LEVELS, Closure, Depth, Instances
from proofs.engine.solvers import SAT, SOLVERS, UNSAT, Growing, renew
from proofs.engine.solvers import UNKNOWN as UNDECIDED
from proofs.engine.symbolic_tables import Log, any_key, recording, symbolic_state
from proofs.engine.symbols import Explorer, Path, lift, unbranched, wrap
from spec.language.layouts import LAYOUTS
from spec.language.outcomes import Kind, Outcome
from spec.language.registry import Property, Transition
from spec.language.tables import Schema
from spec.language.values import RANGES

PROVED, FRAME, TRIVIAL, FAILED, UNKNOWN, DEAD = "proved", "frame", "trivial", "failed", "unknown", "dead"
OVERFLOW = "NO-OVERFLOW"
UNREACHABLE = "UNREACHABLE-"
"""Followed by an answer that is declared never to be given."""
HINT_LIMIT = 2.0
"""Seconds for a proof from the invariants that were enough last time."""


@attrs.define
class Theory:
    """A state class with the transitions and properties that speak of it."""

    state: type
    schemas: dict[str, Schema]
    transitions: dict[str, Transition]
    properties: dict[str, Property]
    nobody: int = 0x7FFF
    untouched: Callable[[Any], Any] = lambda _state: True
    """No deviation of the real system has spoiled the state: what every property is claimed for."""
    eager: bool = False
    """Each goal from all facts at the keys that it touches itself: for problems in which most of those are needed."""


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
    assumptions: tuple[str, ...] = ()
    """Entries of ``proofs/ASSUMPTIONS.md`` that the verdict rests on."""

    @builtins.property
    def seconds(self) -> float:
        """Building and solving."""
        return self.build + self.solve


ALWAYS = ("A-ATOMIC", "A-CHOICE", "A-RANGES", "A-SPEC")
"""What every line rests on; a question to the solver rests on more."""


def assumed(text: str) -> tuple[str, ...]:
    """The assumptions behind the answer to one question, by what it speaks of."""
    found = [*ALWAYS, "A-SOLVER"]
    if "|#" in text:
        found.append("A-FINITE")
    if "|encode." in text or any(f"|{each}." in text for each in LAYOUTS):
        found.append("A-LAYOUT")
    return tuple(sorted(found))


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
    solve: float = 0.0


def argument_terms(transition: Transition) -> dict[str, T.Term]:
    """One constant for each parameter, within the range of its type."""
    found = {}
    for name, hint in transition.parameters.items():
        if hint == "bool":
            found[name] = T.variable(f"arg.{name}", T.BOOL)
        else:
            found[name] = T.variable(f"arg.{name}", T.INT, RANGES[hint])
    return found


def _written(state: Any) -> set[str]:
    """The tables that a path has written."""
    return {each.name for each in attrs.fields(type(state)) if getattr(state, each.name).writes}


class TransitionProof:
    """All obligations of one transition, or those of some of its paths.

    mine: whether the path of a number is this one's to prove; all paths are explored in any case.
    """

    levels: tuple[Depth, ...] = LEVELS

    def __init__(self, theory: Theory, transition: Transition, *, solver: str = "z3", seeds: int = 1,
                 limit: float = 10.0, audit: bool = False, cache: Any = None,
                 only: Callable[[str], bool] | None = None, hints: dict[str, list[str]] | None = None,
                 learn: bool = False, mine: Callable[[int], bool] = lambda _number: True) -> None:
        T.reset()
        renew()
        Names.reset()
        self.learn = learn
        self.hints = hints or {}
        self._assumptions: dict[str, tuple[str, ...]] = {}
        self.learnt: dict[str, set[str]] = {}
        self.theory, self.transition = theory, transition
        self.solver, self.seeds, self.limit, self.audit, self.cache = solver, seeds, limit, audit, cache
        self.only, self.mine = only, mine
        self.before = symbolic_state(theory.state, theory.schemas)
        self.arguments = argument_terms(transition)
        self.instances = Instances(self.before, theory.properties.values())
        self._properties: dict[str, Any] = {}
        self.explorer: Callable[[], Explorer] = Explorer
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

        with recording() as log:
            untouched = lift(unbranched(self.theory.untouched, self.before), "bool")
        for path in self.explorer().explore(run):
            path.conditions.insert(0, untouched)
            logs[0].absorb(log)
            yield path, logs[0]

    def _claimed(self, state: Any) -> T.Term:
        """The state is one for which properties are claimed."""
        return lift(unbranched(self.theory.untouched, state), "bool")

    # -- obligations

    def run(self) -> Iterator[Obligation]:
        """Prove everything; each obligation as soon as it is decided."""
        for number, (path, log) in enumerate(self.paths()):
            self.explored += 1
            outcome: Outcome[Any] = path.result
            code = str(outcome.code)
            if outcome.state is self.before:
                self.refusals[code] = self.refusals.get(code, 0) + 1
            if not self.mine(number):
                continue
            yield from self._unreachable(number, path, log, code)
            if outcome.state is self.before:
                yield from self._decide_together(list(self._overflows(number, path, log, code)))
                continue
            if outcome.kind is Kind.REFUSED:
                yield self._line(number, "REFUSED-UNCHANGED", path, code, FAILED, 0, 0, "", 0)
                continue
            if not self._alive(path, log):
                yield self._line(number, "", path, code, DEAD, 0, 0, "", 0)
                continue
            goals: list[Goal | Obligation] = [*self._overflows(number, path, log, code)]
            goals += [self._property(number, path, log, code, each) for each in self._asked()]
            yield from (each for each in goals if isinstance(each, Obligation))
            yield from self._decide_together([each for each in goals if isinstance(each, Goal)])

    def _asked(self) -> Iterator[Property]:
        """The properties that the step is held against."""
        for each in self.theory.properties.values():
            if not each.derived and (self.only is None or self.only(each.id)) \
                    and (not each.of_repaired or (self.transition.repairs and each.id not in self.transition.keeps)):
                yield each

    def _unreachable(self, number: int, path: Path, log: Log, code: str) -> Iterator[Obligation]:
        """An answer that is declared never to be given: the path contradicts the invariants."""
        for declared in self.transition.unreachable:
            if isinstance(declared, Kind):
                given = T.boolean(path.result.kind is declared)
            else:
                given = T.equal(lift(path.result.code), T.number(declared))
            if given is T.boolean(value=False):
                continue
            started, closure = time.perf_counter(), Closure(self.instances, [log], path.conditions)
            for level in range(len(self.levels)):
                closure.grow(self.levels[level])
                verdict, seconds, digest, _ = self._lazily(closure, [given])
                if verdict == UNSAT:
                    break
            final = PROVED if verdict == UNSAT else FAILED if verdict == SAT else UNKNOWN
            name = declared.value if isinstance(declared, Kind) else declared
            yield self._line(number, f"{UNREACHABLE}{name}", path, code, final,
                             time.perf_counter() - started - seconds, seconds, digest, level)

    def _line(self, number: int, identifier: str, path: Path, code: str, verdict: str,
              build: float, solve: float, digest: str, level: int, part: str = "") -> Obligation:
        trail = f"{number}"
        return Obligation(f"{self.transition.name}/{trail}/{identifier}{part}", self.transition.name, identifier,
                          trail, code, verdict, build, solve, self.solver, digest, level,
                          self._assumptions.get(digest, ALWAYS))

    def _alive(self, path: Path, log: Log) -> bool:
        closure = Closure(self.instances, [log], path.conditions)
        closure.grow(LEVELS[0])
        return self._lazily(closure, [])[0] != UNSAT

    def _digest(self, text: str) -> str:
        digest = hashlib.sha256(text.encode()).hexdigest()[:24]
        self._assumptions[digest] = assumed(text)
        return digest

    def _ask(self, assertions: list[T.Term], limit: float | None = None) -> tuple[str, float, str]:
        if self.solver != "z3":
            # asked of what Z3 needed: what follows from that follows from all
            facts = [(str(i), each) for i, each in enumerate(assertions)]
            needed = self._core([], facts)
            assertions = [each for i, each in facts if i in needed]
        text = T.smtlib(assertions)
        digest = self._digest(text)
        key = f"{self.solver}:{digest}"
        if self.cache is not None and key in self.cache:
            return self.cache[key], 0.0, digest
        answer = SOLVERS[self.solver](text, limit=limit or self.limit)
        verdict = self._again(text, answer.verdict)
        if self.cache is not None:
            self.cache[key] = verdict
        return verdict, answer.seconds, digest

    def _again(self, text: str, verdict: str) -> str:
        """The same question with other seeds; an answer that is not always the same is none."""
        others = range(1, self.seeds) if verdict == UNSAT else ()
        return verdict if all(SOLVERS[self.solver](text, seed=each, limit=self.limit).verdict == verdict
                              for each in others) else UNDECIDED

    def _lazily(self, closure: Closure, goal: list[T.Term]) -> tuple[str, float, str, set[str]]:
        """Refute the goal from as few facts as needed: (verdict, seconds, hash, invariants used).

        A model of the facts so far is held against all facts; those that it breaks are added.  When it breaks
        none it is a model of the whole problem.
        """
        growing = Growing(self.limit)
        given = [*closure.assertions[:closure.given], *goal]
        pool = closure.assertions[closure.given:]
        ordered = T.order(pool)
        chosen = [self.theory.eager] * len(pool)
        writer = T.Writer()
        verdict = growing.check(writer.piece([*given, *pool] if self.theory.eager else given))
        while verdict == SAT:
            values = T.evaluate(ordered, growing.model())
            broken = [i for i, fact in enumerate(pool) if not values[fact.uid] and not chosen[i]]
            if not broken:
                break
            for i in broken:
                chosen[i] = True
            verdict = growing.check(writer.piece([pool[i] for i in broken]))
        used = {closure.used[i] for i, each in enumerate(chosen) if each}
        if verdict == UNSAT and self.learn:
            used = self._core(given, [(closure.used[i], fact) for i, fact in enumerate(pool) if chosen[i]])
        asked = [*given, *[fact for i, fact in enumerate(pool) if chosen[i]]]
        if verdict == UNSAT and self.solver != "z3":
            verdict, seconds, digest = self._ask(asked)
            return verdict, seconds, digest, used
        text = T.smtlib(asked)
        digest = self._digest(text)
        return self._again(text, verdict), growing.seconds, digest, used

    def _core(self, given: list[T.Term], facts: list[tuple[str, T.Term]]) -> set[str]:
        """What a refutation needs of the facts that it used: each has the name of its invariant, or one of its own."""
        names = sorted({source for source, _ in facts})
        switches = {name: T.variable(f"use.{name}", T.BOOL) for name in names}
        guarded = [T.implication(switches[source], fact) for source, fact in facts]
        asked = T.Writer().piece([*given, *guarded])
        found = Growing(self.limit).core(asked, [f"use.{name}" for name in names])
        return {each.removeprefix("use.") for each in found}

    def _overflows(self, number: int, path: Path, log: Log, code: str) -> Iterator[Goal]:
        if not path.overflows or (self.only is not None and not self.only(OVERFLOW)):
            return
        goal = T.conjunction(*[condition for condition, _ in path.overflows])
        goal = T.implication(self._claimed(path.result.state), goal)
        yield Goal(number, OVERFLOW, path, [log], code, goal, ())

    def _property(self, number: int, path: Path, log: Log, code: str, each: Property) -> Obligation | Goal:
        started = time.perf_counter()
        after = path.result.state
        key, values, unchanged, reads = self._before(each)
        if reads is not None and not self.audit and reads.isdisjoint(_written(after)):
            return self._line(number, each.id, path, code, FRAME, time.perf_counter() - started, 0, "", 0)
        with recording() as goal_log:
            # whether or not the property reads its own row, what is known of that row may be used
            goal_log.touch(each.table, key)
            if each.two_state:
                holds = unbranched(each.function, self.before, after, self._actor(), *values)
            else:
                holds = unbranched(each.function, after, *values)
        goal = lift(holds, "bool")
        if goal.op == "const" and goal.args[0]:
            return self._line(number, each.id, path, code, TRIVIAL, time.perf_counter() - started, 0, "", 0)
        if goal is unchanged and not self.audit:
            return self._line(number, each.id, path, code, FRAME, time.perf_counter() - started, 0, "", 0)
        if not each.of_repaired:
            goal = T.implication(self._claimed(after), goal)
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
            key = any_key(self.theory.schemas[each.table])
            values = [wrap(part) for part in key]
            term: T.Term | None
            with recording() as log:
                if each.two_state:
                    term = lift(unbranched(each.function, self.before, self.before, self._actor(), *values), "bool")
                else:
                    term = lift(unbranched(each.function, self.before, *values), "bool")
            counted = {m.table.schema.name for m in log.counts.values()}
            reads: set[str] | None = {table for table, _ in log.keys} | counted
            if each.two_state:
                # a step that writes none of the tables leaves before and after the same: it must hold of that
                reads = reads if term is T.boolean(value=True) else None
                term = None
            found = key, values, term, reads
            self._properties[each.id] = found
        return found

    def _decide_together(self, goals: list[Goal]) -> Iterator[Obligation]:
        """Each goal from the invariants that were enough last time; those left, from all of them."""
        if self.theory.eager:
            for goal in goals:
                yield self._deeper(Closure(self.instances, goal.logs, goal.path.conditions), goal, 0)
            return
        left = []
        for goal in goals:
            line = self._by_hint(goal)
            if line is None:
                left.append(goal)
            else:
                yield line
        if not left:
            return
        started = time.perf_counter()
        logs = list({id(log): log for goal in left for log in goal.logs}.values())
        closure = Closure(self.instances, logs, goals[0].path.conditions)
        closure.grow(LEVELS[0])
        share = (time.perf_counter() - started) / len(left)
        for goal in left:
            goal.build += share
            line = self._decide(closure, goal, 0)
            if line is None:
                own = Closure(self.instances, goal.logs, goal.path.conditions)
                line = self._deeper(own, goal)
            yield line

    def _deeper(self, closure: Closure, goal: Goal, first: int = 1) -> Obligation:
        """A goal alone, at growing depth."""
        line = None
        for level in range(first, len(self.levels)):
            started = time.perf_counter()
            closure.grow(self.levels[level])
            goal.build += time.perf_counter() - started
            line = self._of_known(closure, goal, level) or self._decide(closure, goal, level)
            if line is not None:
                break
        assert line is not None
        return line

    def _by_hint(self, goal: Goal) -> Obligation | None:
        """Try with the invariants that the property needed before, whatever the step; nothing depends on them."""
        known = self.hints.get(goal.property)
        if known is None:
            return None
        started = time.perf_counter()
        closure = Closure(self.instances, goal.logs, [*goal.path.conditions, T.negate(goal.goal)], frozenset(known))
        solving = 0.0
        for level in range(len(self.levels)):
            closure.grow(self.levels[level])
            verdict, seconds, digest = self._ask(closure.assertions, HINT_LIMIT)
            solving += seconds
            if verdict == UNSAT:
                break
        else:
            return None
        return self._from_hint(goal, goal.build + time.perf_counter() - started - solving, solving, digest, level)

    def _from_hint(self, goal: Goal, build: float, solve: float, digest: str, level: int) -> Obligation:
        """The goal is proved from the invariants that were enough before, which are enough again."""
        self.learnt.setdefault(goal.property, set()).update(self.hints[goal.property])
        return self._line(goal.number, goal.property, goal.path, goal.code, PROVED, build, solve, digest, level)

    def _of_known(self, closure: Closure, goal: Goal, level: int) -> Obligation | None:
        """At the last depth: try with those instances of all that are of the invariants which were enough before.

        There are many instances by then, and most are of no use: the solver loses itself in them, in one place the
        more so with each invariant that is added.  Fewer facts prove nothing that more do not.
        """
        known = self.hints.get(goal.property)
        if known is None or self.theory.eager or level < len(self.levels) - 1:
            return None
        given, pool = closure.assertions[:closure.given], closure.assertions[closure.given:]
        few = [fact for i, fact in enumerate(pool) if closure.used[i] in known]
        verdict, seconds, digest = self._ask([*given, T.negate(goal.goal), *few], HINT_LIMIT)
        goal.solve += seconds
        if verdict != UNSAT:
            return None
        return self._from_hint(goal, goal.build, goal.solve, digest, level)

    def _decide(self, closure: Closure, goal: Goal, level: int) -> Obligation | None:
        started = time.perf_counter()
        verdict, solving, digest, used = self._lazily(closure, [T.negate(goal.goal)])
        last = level == len(self.levels) - 1
        goal.build += time.perf_counter() - started - solving
        goal.solve += solving
        if verdict != UNSAT and not last:
            return None
        if verdict == UNSAT and not self.theory.eager:
            self.learnt.setdefault(goal.property, set()).update(used)
        final = PROVED if verdict == UNSAT else FAILED if verdict == SAT else UNKNOWN
        line = self._line(
            goal.number, goal.property, goal.path, goal.code, final, goal.build, goal.solve, digest, level
        )
        if final != PROVED:
            self.problems.append((line, Problem(self.transition, goal.property, goal.path, self.arguments, goal.key,
                                                goal.goal, goal.logs)))
        return line


COROLLARIES = "(corollaries)"


class CorollaryProof(TransitionProof):
    """What follows from the invariants of any one state."""

    levels = DEEP

    def __init__(self, theory: Theory, **options: Any) -> None:
        super().__init__(theory, Transition(COROLLARIES, lambda _: None, actor=""), **options)

    def run(self) -> Iterator[Obligation]:
        """Each corollary at a fresh key, from the invariants alone."""
        path = Path(Outcome(self.before, Kind.DONE), [], [], ())
        for each in self.theory.properties.values():
            if not each.derived or (self.only is not None and not self.only(each.id)):
                continue
            started = time.perf_counter()
            key = any_key(self.theory.schemas[each.table])
            with recording() as log:
                goal = lift(unbranched(each.function, self.before, *[wrap(part) for part in key]), "bool")
                goal = T.implication(self._claimed(self.before), goal)
            yield from self._decide_together(
                [Goal(0, each.id, path, [log], "", goal, key, time.perf_counter() - started)]
            )
