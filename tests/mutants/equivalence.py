"""What does a mutant change that no proof has noticed?  Proved, for all states that satisfy every invariant.

- ``nothing``: each mutated step gives the same answer and leaves the same state as the step of the specification.
- ``answer``: it leaves the same state, or the state as it was, and answers something else.
- ``call``: it does what a call of the same domain with one or two other arguments does to that state, or what the same
  call does if a peer has stored another word by the time that it is read; so what it changes is which calls are
  refused, and whatever it leads to, the specification leads to as well.
- ``deviated``: it makes a difference only where a deviation of Xen has happened before, or happens in every step of
  the specification that is possible there; the properties that speak of it (``except_for``) make no claim then.
- ``state``: anything else, and whatever could not be proved to be one of the above.

Let p be a mutated path, and q the paths of the specification, for the same arguments or with one or two of them
replaced.  The state satisfies every invariant and the conditions of p.  It is proved that it satisfies the conditions
of some q, and that p and each such q leave the same state: every field of every table, at a key about which nothing is
known; fields that exist for the proof alone are not looked at, and a TLB may have given up translations
(``forget_mapping``).  What p reads of a peer's writing, q reads too, read by read,
or for one read a word that is chosen here: the specification allows whatever is read, so this is one of its behaviours.
Where p ends in a deviation, for which no property is claimed, q must do so as well; and where p may leave a field's
range, q must, too.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from proofs.engine import symbols
from proofs.engine import terms as T
from proofs.engine.hypotheses import Closure
from proofs.engine.obligations import Theory, TransitionProof, fresh_key
from proofs.engine.solvers import SAT, UNSAT, Functions
from proofs.engine.symbolic_tables import Key, Log, RangeWrite, recording
from proofs.engine.symbols import PEER_WORD, Path, lift, unbranched, wrap
from spec.language import Index
from spec.language.outcomes import Kind, Outcome
from spec.language.records import columns
from spec.language.values import RANGES, SpecificationError
from tests.mutants.mutation import Mutant, applied
from tests.mutants.search import Unchanged, effect
from tests.mutants.systematic import GHOSTS

SAME, ANSWER, OTHER_CALL, DEVIATED, OTHER_STATE = "nothing", "answer", "call", "deviated", "state"
ORDER = [SAME, ANSWER, OTHER_CALL, DEVIATED, OTHER_STATE]
Paths = list[tuple[Path, Log]]
Change = tuple[str, Any]
"""An argument, or a word that a peer has stored, and what stands in its place."""
PEERS = (0, (1 << 64) - 1)
"""Words that a peer may have stored instead: one that permits nothing, and one with every bit set."""
WHOLE_PAGES, LESS, MORE = "whole pages", "one less", "one more"
"""In place of a size: the size, rounded down; in place of a number: its neighbours."""
QUESTION = 5.0
"""Seconds that one question may take; what is not known by then is not proved."""


def _contradict(p: Path, q: Path) -> bool:
    known = {each.uid for each in p.conditions}
    return any(T.negate(each).uid in known for each in q.conditions)


def _changed(p: Path, q: Path) -> Iterator[str]:
    """The tables that one of two paths has written, and flags of deviations; no other ghosts."""
    for each in attrs.fields(type(p.result.state)):
        one, other = getattr(p.result.state, each.name), getattr(q.result.state, each.name)
        if (one.writes or other.writes) and one is not other and (not one.schema.ghost or each.name == "deviation"):
            yield each.name


def _replaced(given: T.Term, value: Any, most: int) -> T.Term:
    """An argument in another's place.  most: the largest that it can be."""
    if isinstance(value, bool):
        return T.boolean(value)
    if value == WHOLE_PAGES:
        return T.subtract(given, T.remainder(given, 4096))
    if value == LESS:
        return T.choose(T.less(T.number(0), given), T.subtract(given, T.number(1)), given)
    if value == MORE:
        return T.choose(T.less(given, T.number(most)), T.add(given, T.number(1)), given)
    return T.number(value)


@contextlib.contextmanager
def peers_said(names: set[str], said: Mapping[str, int] | None = None) -> Iterator[None]:
    """Note the names of the words that peers have stored; those in ``said`` have these values."""
    plain = symbols.fresh

    def fresh(stem: str, bounds: tuple[int, int | None] | None = None, sort: str = T.INT) -> T.Term:
        term = plain(stem, bounds, sort)
        if stem != PEER_WORD:
            return term
        names.add(term.args[0])
        return T.number(said[term.args[0]]) if said and term.args[0] in said else term

    symbols.fresh = fresh
    try:
        yield
    finally:
        symbols.fresh = plain


class Comparison:
    """The steps that a mutant changes, against those of the specification."""

    def __init__(self, theory: Theory, name: str, mutant: Mutant, until: float, *, exact: bool) -> None:
        self._exact = exact
        self._proof = TransitionProof(theory, theory.transitions[name], limit=QUESTION)
        self._mutant, self._until = mutant, until
        self._known: dict[tuple[Change, ...], Paths] = {}
        self._met: dict[int, list[Functions]] = {}
        self._peers: set[str] = set()

    def verdict(self) -> str:
        """How much the mutant changes."""
        unchanged = Unchanged(self._proof)
        with applied(self._mutant), peers_said(self._peers):
            after = [(path, log) for path, log in self._proof.paths() if not unchanged.has(path)]
        return max((self._path(path, log) for path, log in after), key=ORDER.index, default=SAME)

    def _path(self, path: Path, log: Log) -> str:
        if not self._exact and path.result.state is self._proof.before and not path.overflows:
            return ANSWER
        if not self._proof._alive(path, log):
            return SAME
        found = self._against(path, log, self._paths())
        if found != OTHER_STATE:
            return found
        if self._stays_in_range(path, log) and self._is_idle(path, log):
            return ANSWER
        if self._needs_deviation(path, log):
            return DEVIATED
        others = [*self._others(), *((name, value) for name in sorted(self._peers) for value in PEERS)]
        if any(self._twin(path, log, self._paths(each), ask=False) != OTHER_STATE for each in others):
            return OTHER_CALL
        spoken = set(re.findall(r"\w+", self._mutant.words))
        others.sort(key=lambda each: (each[0] not in spoken, each[0] not in self._peers))
        pairs = ((one, two) for one in others if one[0] in spoken for two in others if one[0] != two[0])
        if any(self._against(path, log, self._paths(*each)) != OTHER_STATE
               for each in itertools.chain(((one,) for one in others), pairs)):
            return OTHER_CALL
        return OTHER_STATE

    def _needs_deviation(self, path: Path, log: Log) -> bool:
        """The path is taken only where a deviation has happened, or where the specification lets one happen."""
        if "deviation" not in self._proof.theory.schemas:
            return False
        with recording() as rows:
            flagged = self._flagged(self._proof.before)
        if self._follows(path, path.conditions, [log, rows], flagged):
            return True
        return self._against(path, log, self._paths(), excused=True) != OTHER_STATE

    def _flagged(self, state: Any) -> T.Term:
        """A deviation has happened in this state."""
        flags = columns(self._proof.theory.schemas["deviation"].row)

        def happened() -> Any:
            row = state.deviation[Index(0)]
            return wrap(T.disjunction(*[lift(getattr(row, name), "bool") for name in flags]))

        return lift(unbranched(happened), "bool")

    def _stays_in_range(self, path: Path, log: Log) -> bool:
        """No field can leave its range on the path."""
        return self._follows(path, path.conditions, [log], T.conjunction(*[fact for fact, _ in path.overflows]))

    def _is_idle(self, path: Path, log: Log) -> bool:
        """The path leaves the state as it was, which every state allows."""
        nothing = Path(Outcome(self._proof.before, Kind.DONE), [], [], ())
        for table in _changed(path, nothing):
            with recording() as rows:
                goal = self._same_rows(table, path, nothing)
            if not self._follows(path, path.conditions, [log, rows], goal):
                return False
        return True

    def _others(self) -> Iterator[Change]:
        """Arguments that may be replaced, and by what."""
        step = self._proof.transition
        for name, hint in step.parameters.items():
            if name == step.actor:
                continue
            values: tuple[Any, ...] = (True, False) if hint == "bool" else (0, 1, self._most(name))
            for value in values:
                yield name, value
            if hint == "U64":
                yield name, WHOLE_PAGES
            if hint in ("U32", "U64"):
                yield name, LESS
                yield name, MORE

    def _most(self, name: str) -> int:
        """The largest value of an argument."""
        return RANGES.get(self._proof.transition.parameters[name], (0, None))[1] or 1 << 52

    def _paths(self, *changed: Change) -> Paths:
        """The paths of the specification, with arguments replaced, or words that a peer has stored."""
        if changed in self._known:
            return self._known[changed]
        given = self._proof.arguments
        said = {name: value for name, value in changed if name in self._peers}
        self._proof.arguments = {**given, **{
            name: _replaced(given[name], value, self._most(name)) for name, value in changed if name not in said
        }}
        try:
            with peers_said(set(), said):
                paths = list(self._proof.paths())
        except SpecificationError:
            paths = []
        finally:
            self._proof.arguments = given
        if len(changed) < 2:
            self._known[changed] = paths
        return paths

    def _against(self, p: Path, log: Log, paths: Paths, *, excused: bool = False) -> str:
        """What the paths of the specification do where p is taken.

        excused: only where no deviation has happened after them.
        """
        if time.process_time() > self._until:
            return OTHER_STATE
        if not excused and any(self._differ(p, paths, model) for model in self._met.get(id(p), ())):
            return OTHER_STATE
        quick = self._twin(p, log, paths)
        if quick != OTHER_STATE:
            return quick
        meeting = [(q, its_log) for q, its_log in paths if not _contradict(p, q)]
        taken = T.disjunction(*[T.conjunction(*q.conditions) for q, _ in meeting])
        if not self._follows(p, p.conditions, [log, *[each for _, each in meeting]], taken):
            return OTHER_STATE
        found = SAME
        for q, its_log in meeting:
            found = max(found, self._alike(p, log, q, its_log, excused=excused), key=ORDER.index)
            if found == OTHER_STATE:
                break
        return found

    def _twin(self, p: Path, log: Log, paths: Paths, *, ask: bool = True) -> str:
        """A path of the specification that does the very same, wherever p is taken.

        ask: the solver, too, if it is not plain to see that q is taken.
        """
        known = {each.uid for each in p.conditions}
        for q, its_log in paths:
            if effect(q)[2:] != effect(p)[2:] or _contradict(p, q):
                continue
            rest = T.conjunction(*[each for each in q.conditions if each.uid not in known])
            if rest is T.boolean(value=True) or (ask and self._follows(p, p.conditions, [log, its_log], rest)):
                return SAME if self._same_answer(p, q) is T.boolean(value=True) else ANSWER
        return OTHER_STATE

    def _alike(self, p: Path, p_log: Log, q: Path, q_log: Log, *, excused: bool) -> str:
        conditions = [*p.conditions, *q.conditions]
        # do the two ever meet?
        if self._follows(p, conditions, [p_log, q_log], T.boolean(value=False)):
            return SAME
        if [c.uid for c, _ in p.overflows] != [c.uid for c, _ in q.overflows] and not self._stays_in_range(p, p_log):
            return OTHER_STATE
        for table in _changed(p, q):
            with recording() as log:
                goal = self._same_rows(table, p, q)
                if excused:
                    goal = T.disjunction(goal, self._flagged(q.result.state))
            if not self._follows(p, conditions, [p_log, q_log, log], goal):
                return OTHER_STATE
        return SAME if self._follows(p, conditions, [p_log, q_log], self._same_answer(p, q)) else ANSWER

    def _same_answer(self, p: Path, q: Path) -> T.Term:
        if p.result.kind is not q.result.kind or set(p.result.output) != set(q.result.output):
            return T.boolean(value=False)
        parts = [T.equal(lift(p.result.code), lift(q.result.code))]
        for name, value in p.result.output.items():
            other = q.result.output[name]
            if value is other:
                continue
            with contextlib.suppress(SpecificationError):
                parts.append(T.equal(lift(value), lift(other)))
                continue
            return T.boolean(value=False)
        return T.conjunction(*parts)

    def _same_rows(self, table: str, p: Path, q: Path, at: Key = ()) -> T.Term:
        """Two paths leave the same row.  at: under this key; else under one of which nothing is known."""
        schema = self._proof.theory.schemas[table]
        values = [wrap(part) for part in at or fresh_key(schema)]
        key = tuple(values) if len(values) > 1 else values[0]

        def compared_rows() -> Any:
            one, other = getattr(p.result.state, table)[key], getattr(q.result.state, table)[key]
            found = []
            for name, hint in columns(schema.row).items():
                if (table, name) not in GHOSTS:
                    a, b = lift(getattr(one, name), hint), lift(getattr(other, name), hint)
                    found.append(T.iff(a, b) if hint == "bool" else T.equal(a, b))
            same = T.conjunction(*found)
            if table == "tlb" and "present" in columns(schema.row):
                same = T.disjunction(same, T.negate(lift(getattr(p.result.state, table)[key].present, "bool")))
            return wrap(same)

        return lift(unbranched(compared_rows), "bool")

    def _differ(self, p: Path, paths: Paths, model: Functions) -> bool:
        """In a state in which p is taken, none of the other paths is, or one that leaves another row.

        Only what can be seen at once: an answer of no is none.
        """
        if not _hold([T.disjunction(*[T.conjunction(*q.conditions) for q, _ in paths])], model):
            return True
        for q, _ in paths:
            if not _hold(q.conditions, model):
                continue
            for table in _changed(p, q):
                writes = [*getattr(p.result.state, table).writes, *getattr(q.result.state, table).writes]
                keys = [each.key for each in writes if not isinstance(each, RangeWrite)]
                with recording():
                    same = [self._same_rows(table, p, q, key) for key in keys]
                if not _hold(same, model):
                    return True
        return False

    def _follows(self, p: Path, conditions: list[T.Term], logs: list[Log], goal: T.Term) -> bool:
        """The goal follows from the invariants under the conditions, which are those of p and perhaps more.

        If it does not, the state that shows it is kept: it may show at once that another goal does not follow.
        """
        if goal is T.boolean(value=True):
            return True
        denied = T.negate(goal)
        met = self._met.setdefault(id(p), [])
        if any(_hold([*conditions, denied], model) for model in met):
            return False
        closure = Closure(self._proof.instances, logs, [*conditions, denied])
        for depth in self._proof.levels:
            if time.process_time() > self._until:
                return False
            closure.grow(depth)
            verdict = self._proof._lazily(closure, [])[0]
            if verdict == UNSAT:
                return True
        if verdict == SAT:
            met.append(self._proof.model)
        return False


def _hold(conditions: list[T.Term], model: Functions) -> bool:
    """All of these are true in a state."""
    values = T.evaluate(T.order(conditions), model)
    return all(values[each.uid] for each in conditions)


def compared(theory: Theory, names: list[str], mutant: Mutant, budget: float = 120.0, *, exact: bool = True) -> str:
    """How much a mutant changes, in all steps that can call the mutated function.

    exact: else what changes nothing at all may be taken for something that only answers otherwise.
    budget: seconds of this processor's work; what is not known by then counts as ``state``.
    """
    found, until = SAME, time.process_time() + budget
    for name in names:
        found = max(found, Comparison(theory, name, mutant, until, exact=exact).verdict(), key=ORDER.index)
        if found == OTHER_STATE:
            break
    return found
