"""What does a mutant change that no proof has noticed?  Proved, for all states that satisfy every invariant.

- ``nothing``: each mutated step gives the same answer and leaves the same state as the step of the specification.
- ``answer``: it leaves the same state, or the state as it was, and answers something else.
- ``call``: it does what another call of the same domain does to that state, with one or two other arguments or to
  another end, or what the same call does if a peer has stored other words by the time that they are read; so what it
  changes is which calls are refused, and whatever it leads to, the specification leads to as well.
- ``deviated``: it makes a difference only where a deviation of Xen has happened before, or happens in every step of
  the specification that is possible there; the properties that speak of it (``except_for``) make no claim then.
- ``state``: anything else, and whatever could not be proved to be one of the above.

Let p be a mutated path, and q the paths of the specification, for the same arguments or with one or two of them
replaced.  It is proved that each state that satisfies every invariant and takes p takes some q, and that p and q leave
the same state wherever both are taken: every field of every table, at a key about which nothing is known; fields that
exist for the proof alone are not looked at, and a TLB may have given up translations (``forget_mapping``).
What p reads of a peer's writing, q reads too, read by read, or for one or two reads a word that is chosen here: the
specification allows whatever is read, so this is one of its behaviours.  Where p may leave a field's range, q must.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from proofs.engine import symbols
from proofs.engine import terms as T
from proofs.engine.hypotheses import DEEP, LEVELS, Closure
from proofs.engine.obligations import Theory, TransitionProof
from proofs.engine.solvers import SAT, UNKNOWN, UNSAT, Growing
from proofs.engine.symbolic_tables import Key, Log, RangeWrite, any_key, recording, uids
from proofs.engine.symbols import PEER_WORD, Path, lift, unbranched, wrap
from proofs.engine.terms import Functions
from spec.grant.entries import EntryV1, HeadV2
from spec.grant.map import MapFlags
from spec.language import decode, encode, evolve
from spec.language.outcomes import Kind, Outcome
from spec.language.records import columns
from spec.language.values import RANGES, SpecificationError
from spec.state import DOMID_SELF
from tests.mutants.exploring import Guided, Met, Quick, holds, lasting, named_by_content
from tests.mutants.mutation import Mutant
from tests.mutants.search import Unchanged, effect
from tests.mutants.systematic import GHOSTS

SAME, ANSWER, OTHER_CALL, DEVIATED, OTHER_STATE = "nothing", "answer", "call", "deviated", "state"
ORDER = [SAME, ANSWER, OTHER_CALL, DEVIATED, OTHER_STATE]
Paths = list[tuple[Path, Log]]
Change = tuple[str, Any]
"""An argument, or a word that a peer has stored, and what stands in its place."""
PEERS = (0, (1 << 64) - 1)
"""Words that a peer may have stored instead: one that permits nothing, and one with every bit set."""
EVERYTHING = "every word"
"""In place of the name of one word that a peer has stored."""
ENTRIES = tuple(
    (layout, name, value) for layout in (EntryV1, HeadV2)
    for name, value in (*(("type", kind) for kind in range(4)),
                        *((name, value) for name in ("readonly", "sub_page") for value in (False, True)))
)
"""In place of such a word: the same entry of a grant table, but for one field."""
STAYS = "what is overwritten"
"""In place of each word that is stored just as it was read: what stands there already."""
WISHES = ("device_map", "host_map", "readonly", "application_map", "contains_pte")
FLAGS = ((MapFlags, (("other", 0), ("guest_available", 0))), (MapFlags, (("other", 1),)), *(
    (MapFlags, tuple((name, value) for name, value in zip(WISHES, chosen, strict=True) if value is not None))
    for chosen in sorted(itertools.product((None, True, False), repeat=len(WISHES)), key=lambda each: -each.count(None))
), *range(64))
"""Flags of a call: the same but for some; then each set or not, and no others."""
CACHES, CACHED = ("tlb", "walk_cache"), {"present", "cached"}
"""Tables whose rows the hardware may give up at any time, and by which field they say that they are held."""
WHOLE_PAGES, PAGE_LESS, PAGE_MORE, LESS, MORE = "whole pages", "a page less", "a page more", "one less", "one more"
BEHIND, AS = "one more than ", "the same as "
"""In place of a size: the size, rounded down, or a page more or less; in place of a number: its neighbours, or that of
another argument; in place of a domain: that of another argument.
"""
PAGE = 4096
STEP = "instead"
"""In place of the name of an argument: another step of the same domain."""
NUMBERS = ("U16", "U32", "U64")
"""Types of arguments that count something."""
SMALL = 8
"""In place of a number that the mutant speaks of: each below this."""
MOST_MISSING = 2
"""Arguments of another step that may be tried with either value."""
QUESTION = 20.0
"""Seconds that one question may take; what is not known by then is not proved."""


def _contradict(p: Path, q: Path) -> bool:
    known = {each.uid for each in p.conditions}
    return any(T.negate(each).uid in known for each in q.conditions)


def _crashes(p: Path) -> bool:
    """The path ends a domain, or Xen itself: that is more than an answer."""
    return p.result.kind is Kind.CRASH


def _changed(p: Path, q: Path) -> Iterator[str]:
    """The tables that one of two paths has written, and flags of deviations; no other ghosts."""
    for each in attrs.fields(type(p.result.state)):
        one, other = getattr(p.result.state, each.name), getattr(q.result.state, each.name)
        if (one.writes or other.writes) and one is not other and (not one.schema.ghost or each.name == "deviation"):
            yield each.name


def _stored(p: Path) -> dict[tuple[int, ...], tuple[Key, T.Term]]:
    """The single words of memory that a path has stored: where, and what."""
    word = getattr(p.result.state, "word", None)
    if word is None:
        # the machine of tables alone has no memory of guests
        return {}
    single = [each for each in word.writes if not isinstance(each, RangeWrite)]
    return {uids(each.key): (each.key, lift(each.row(each.key, word).raw)) for each in single}


def _constant(value: Any) -> T.Term:
    """A condition or a number."""
    return T.boolean(value) if isinstance(value, bool) else T.number(value)


def _replaced(arguments: dict[str, T.Term], name: str, value: Any, most: int) -> T.Term:
    """An argument in another's place.  most: the largest that it can be."""
    given = arguments[name]
    if isinstance(value, tuple):
        layout, changes = value
        return _but_for(given, layout, dict(changes))
    if isinstance(value, str) and value.startswith(BEHIND):
        other = arguments[value.removeprefix(BEHIND)]
        return T.choose(T.less(other, T.number(most)), T.add(other, T.number(1)), given)
    if isinstance(value, str) and value.startswith(AS):
        return arguments[value.removeprefix(AS)]
    if value == PAGE_LESS:
        return T.choose(T.less(given, T.number(PAGE)), given, T.subtract(given, T.number(PAGE)))
    if value == PAGE_MORE:
        return T.choose(T.less(T.number(most - PAGE), given), given, T.add(given, T.number(PAGE)))
    if value == WHOLE_PAGES:
        return T.subtract(given, T.remainder(given, PAGE))
    if value == LESS:
        return T.choose(T.less(T.number(0), given), T.subtract(given, T.number(1)), given)
    if value == MORE:
        return T.choose(T.less(given, T.number(most)), T.add(given, T.number(1)), given)
    return _constant(value)


def _but_for(word: T.Term, layout: type, changes: dict[str, Any]) -> T.Term:
    """The same word but for some of its fields."""
    seen = wrap(word, "Word")
    return lift(encode(evolve(decode(layout, seen), **changes), seen))


def _said(word: T.Term, value: Any) -> T.Term:
    """What a peer has stored in another's place."""
    if isinstance(value, T.Term):
        return value
    if isinstance(value, tuple):
        layout, name, other = value
        return _but_for(word, layout, {name: other})
    return T.number(value)


@contextlib.contextmanager
def peers_said(words: dict[str, T.Term], said: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Note the words that peers have stored, by their names; in place of those in ``said`` other words stand."""
    plain = symbols.fresh

    def fresh(stem: str, bounds: tuple[int, int | None] | None = None, sort: str = T.INT,
              of: Callable[[], Any] | None = None) -> T.Term:
        term = plain(stem, bounds, sort, of)
        if stem != PEER_WORD:
            return term
        words[term.args[0]] = term
        return _said(term, said[term.args[0]]) if said and term.args[0] in said else term

    symbols.fresh = fresh
    try:
        yield
    finally:
        symbols.fresh = plain


@attrs.frozen
class Behaviour:
    """What the specification does in some states.

    verdict: how much a mutant changes that does just that.  path: the step, with the conditions of those states.
    excused: no property is claimed of what follows, so nothing need be the same.
    changed: arguments or words in whose place others stand; None if nothing happens.
    """

    verdict: str
    path: Path
    log: Log
    excused: bool = False
    changed: tuple[Change, ...] | None = None


class Comparison:
    """The steps that a mutant changes, against those of the specification."""

    def __init__(self, theory: Theory, name: str, mutant: Mutant, until: float, *, exact: bool) -> None:
        self._exact = exact
        self._proof = TransitionProof(theory, theory.transitions[name], limit=QUESTION)
        self._names = named_by_content(self._proof)
        self._mutant, self._until = mutant, until
        self._known: dict[tuple[Change, ...], Paths] = {}
        self._peers: dict[str, T.Term] = {}
        self._needed: set[int] = set()
        self._served: list[tuple[Change, ...]] = []
        self._model: Functions = {}

    def verdict(self) -> str:
        """How much the mutant changes."""
        unchanged = Unchanged(self._proof)
        with lasting(self._mutant), peers_said(self._peers):
            after = [(path, log) for path, log in self._proof.paths() if not unchanged.has(path)]
        for path, _ in after:
            path.conditions.append(unchanged.beyond(path))
        return max((self._path(path, log) for path, log in after), key=ORDER.index, default=SAME)

    def _path(self, path: Path, log: Log) -> str:
        """Every state that takes the path is covered by some behaviour of the specification that is the same there.

        State by state: one that takes the path is asked for, and a behaviour is looked for that is the same in it;
        where that is proved to be the same, no other state need be looked at.
        """
        if not self._exact and path.result.state is self._proof.before and not path.overflows and not _crashes(path):
            return ANSWER
        worst, logs = SAME, [log]
        tried: set[tuple[int, ...]] = set()
        depth = 0
        while True:
            verdict = self._asked(logs, path.conditions, depth)
            if verdict == UNSAT:
                return worst
            if verdict != SAT:
                return OTHER_STATE
            found = next(self._same(path, logs, self._model, tried), None)
            if found is not None:
                path.conditions.append(T.negate(T.conjunction(*found.path.conditions)))
                logs.append(found.log)
                if found.changed and found.changed not in self._served:
                    self._served.insert(0, found.changed)
                worst = max(worst, found.verdict, key=ORDER.index)
            elif depth == len(DEEP) - 1:
                return OTHER_STATE
            else:
                # perhaps there is no such state, which more facts would show
                depth += 1

    def _same(self, p: Path, logs: list[Log], model: Functions, tried: set[tuple[int, ...]]) -> Iterator[Behaviour]:
        """Behaviours of the specification in a state which are the same as p wherever both are taken and the rows that
        either has written are the same.
        """
        for each in self._behaviours(p, model):
            q = each.path
            if each.excused:
                yield each
                continue
            if _contradict(p, q) or _crashes(p) != _crashes(q):
                continue
            with recording() as rows:
                same_here = self._same_where_written(p, q)
            if not holds([same_here], model):
                continue
            rows.absorb(each.log)
            each = attrs.evolve(each, path=attrs.evolve(q, conditions=[*q.conditions, same_here]), log=rows)
            if self._once(each.path, tried) and self._alike(p, logs, each.path, rows):
                same = self._exact and each.verdict == SAME and self._same_answers(p, logs, each.path, rows)
                yield each if same else attrs.evolve(each, verdict=max(each.verdict, ANSWER, key=ORDER.index))
            elif each.changed is not None:
                # at least where every condition goes the same way as here, also within calls whose branches are joined
                narrow = [*each.path.conditions, *self._decided(each.changed, model), *self._decided(None, model)]
                each = attrs.evolve(each, path=attrs.evolve(q, conditions=narrow))
                if self._once(each.path, tried) and self._alike(p, logs, each.path, rows):
                    yield attrs.evolve(each, verdict=max(each.verdict, ANSWER, key=ORDER.index))

    @staticmethod
    def _once(q: Path, tried: set[tuple[int, ...]]) -> bool:
        """Whether this behaviour, under these conditions, was not tried yet."""
        identity = (*(condition.uid for condition in q.conditions), *effect(q)[2:])
        known = identity in tried
        tried.add(identity)
        return not known

    def _behaviours(self, p: Path, model: Functions) -> Iterator[Behaviour]:
        """What the specification does in a state: first in the same call, then in others that do there what p does."""
        plain = self._taken((), model)
        for q, log in plain:
            yield Behaviour(SAME, q, log, changed=())
        yield from self._deviations(plain, model)
        # every state allows that nothing happens
        yield Behaviour(ANSWER, Path(Outcome(self._proof.before, Kind.DONE), [], [], ()), Log())
        words = [*sorted(self._peers), EVERYTHING] if self._peers else []
        said = itertools.product(words, (*PEERS, *ENTRIES, *self._peers.values()))
        spoken = set(re.findall(r"\w+", self._mutant.words))
        others = [*self._others(spoken), *self._staying(p, plain), *said]
        others.sort(key=lambda each: (each[0] not in spoken, each[0] not in words))
        pairs = ((one, two) for one in others if one[0] in spoken for two in others if one[0] != two[0])
        singles = ((one,) for one in others)
        # what has served before comes first
        for changed in itertools.chain(self._served, singles, self._other_steps(), pairs, self._batches(spoken)):
            if time.process_time() > self._until:
                return
            seen = self._taken(changed, model, Quick)
            if seen and holds([self._same_where_written(p, seen[0][0])], model):
                for q, log in self._taken(changed, model):
                    yield Behaviour(OTHER_CALL, q, log, changed=changed)

    def _deviations(self, plain: Paths, model: Functions) -> Iterator[Behaviour]:
        """States in which a deviation has happened, or those in which the specification lets one happen."""
        nothing = Path(Outcome(self._proof.before, Kind.DONE), [], [], ())
        for q, log in [(nothing, Log()), *plain]:
            with recording() as rows:
                flagged = T.negate(self._proof._claimed(q.result.state))
            if holds([flagged], model):
                rows.absorb(log)
                yield Behaviour(DEVIATED, attrs.evolve(q, conditions=[*q.conditions, flagged]), rows, excused=True)

    def _others(self, spoken: set[str]) -> Iterator[Change]:
        """Arguments that may be replaced, and by what."""
        step = self._proof.transition
        for name, hint in step.parameters.items():
            if name == step.actor:
                continue
            values: tuple[Any, ...] = (True, False) if hint == "bool" else (0, 1, self._most(name))
            if hint == "Word":
                values = FLAGS
            elif hint in NUMBERS and name in spoken:
                values = (*range(SMALL), self._most(name))
            if hint == "DomId":
                others = [each for each in step.parameters if each != name and step.parameters[each] == hint]
                values = (*values, DOMID_SELF, *(AS + each for each in others))
            for value in values:
                yield name, value
            if hint == "U64":
                yield from ((name, each) for each in (WHOLE_PAGES, PAGE_LESS, PAGE_MORE))
            if hint in ("U32", "U64"):
                yield name, LESS
                yield name, MORE
                yield from ((name, BEHIND + other) for other in step.parameters if other != name
                            and step.parameters[other] in ("U32", "U64"))

    def _staying(self, p: Path, plain: Paths) -> Iterator[Change]:
        """Words that the specification, and not p, stores as it has read them: as if they stood there already."""
        stored = _stored(p)
        for q, _ in plain:
            kept = {}
            for place, (key, raw) in _stored(q).items():
                if raw.op == "app" and raw.args[0] in self._peers and stored.get(place, (key, None))[1] is not raw:
                    kept[raw.args[0]] = lift(self._proof.before.word[tuple(wrap(part) for part in key)].raw)
            if kept:
                yield STAYS, tuple(kept.items())

    def _other_steps(self) -> Iterator[tuple[Change, ...]]:
        """Other steps of the same domain, with the same arguments, and all values of conditions that are missing.

        A repaired step is none: Xen does not take it.
        """
        own = self._proof.transition
        for name, step in self._proof.theory.transitions.items():
            missing = [each for each in step.parameters if each not in own.parameters]
            fits = all(step.parameters[each] == own.parameters.get(each, "bool") for each in step.parameters)
            other = name != own.name and step.actor == own.actor and not step.repairs
            if other and fits and len(missing) <= MOST_MISSING:
                for values in itertools.product((False, True), repeat=len(missing)):
                    yield (STEP, name), *zip(missing, values, strict=True)

    def _batches(self, spoken: set[str]) -> Iterator[tuple[Change, ...]]:
        """Other forms of the same call, for one item or for many; what the mutant names may be another small number."""
        own = self._proof.transition
        for name, step in self._proof.theory.transitions.items():
            shared = {each for each in step.parameters if own.parameters.get(each) == step.parameters[each]}
            missing = [each for each in step.parameters if each not in own.parameters]
            same_call = step.hypercall.startswith(own.hypercall) or own.hypercall.startswith(step.hypercall)
            fits = len(shared) + len(missing) == len(step.parameters) and len(missing) <= MOST_MISSING
            if name == own.name or not own.hypercall or not step.hypercall or not same_call or step.repairs or not fits:
                continue
            given = itertools.product(*[(False, True) if step.parameters[each] == "bool"
                                        else (0, DOMID_SELF) if step.parameters[each] == "DomId" else (0, 1)
                                        for each in missing])
            numbers = [each for each in step.parameters if each in shared and step.parameters[each] in NUMBERS]
            # none of the numbers is another, or one, or two are
            fixed = [tuple(zip(some, values, strict=True)) for most in range(3)
                     for some in itertools.combinations(numbers, most)
                     for values in itertools.product((0, 1), repeat=most)]
            named: list[tuple[Change, ...]] = [(), *(((each, value),) for each in numbers if each in spoken
                                                     for value in range(SMALL))]
            for values, some, other in itertools.product(given, fixed, named):
                yield (STEP, name), *zip(missing, values, strict=True), *some, *other

    def _most(self, name: str) -> int:
        """The largest value of an argument."""
        return RANGES.get(self._proof.transition.parameters[name], (0, None))[1] or 1 << 52

    def _taken(self, changed: tuple[Change, ...], model: Functions, explorer: Callable[..., Guided] = Guided) -> Paths:
        """The path of the specification in a state, with arguments or words of a peer replaced; none if not legal."""
        known = self._known.setdefault(changed, []) if explorer is Guided else []
        for each in known:
            if holds(each[0].conditions, model):
                return [each]
        given, own = self._proof.arguments, self._proof.transition
        chosen = dict(changed)
        said = {name: value for name, value in changed if name in self._peers}
        said |= {name: value for each, value in changed if each == EVERYTHING for name in self._peers}
        said |= dict(chosen.get(STAYS, ()))
        other = chosen.get(STEP)
        if other is None:
            self._proof.arguments = {**given, **{
                name: _replaced(given, name, value, self._most(name)) for name, value in changed if name in given
            }}
        else:
            self._proof.transition = self._proof.theory.transitions[other]
            self._proof.arguments = {
                name: _constant(chosen[name]) if name in chosen else given[name]
                for name in self._proof.transition.parameters
            }
        plain, self._proof.explorer = self._proof.explorer, lambda: explorer(self._names, model)
        try:
            with peers_said({} if changed else self._peers, said):
                found = [each for each in self._proof.paths() if holds(each[0].conditions, model)]
        except SpecificationError:
            found = []
        finally:
            self._proof.arguments, self._proof.transition, self._proof.explorer = given, own, plain
        if len(changed) < 2:
            known += found
        return found

    def _decided(self, changed: tuple[Change, ...] | None, model: Functions) -> list[T.Term]:
        """Which way all conditions of a step go in a state.  changed: of the specification; None: of the mutant."""
        decided: list[T.Term] = []

        def quick(names: dict[Any, str], model: Functions) -> Quick:
            return Quick(names, model, decided)

        with lasting(self._mutant) if changed is None else contextlib.nullcontext():
            self._taken(changed or (), model, quick)
        return decided

    def _alike(self, p: Path, p_logs: list[Log], q: Path, q_log: Log) -> bool:
        """Whether the two leave the same state wherever both are taken."""
        conditions, logs = [*p.conditions, *q.conditions], [*p_logs, q_log]
        if [c.uid for c, _ in p.overflows] != [c.uid for c, _ in q.overflows]:
            in_range = T.conjunction(*[fact for fact, _ in p.overflows])
            if not self._follows(conditions, logs, in_range):
                return False
        with recording() as log:
            goal = T.conjunction(*[self._same_rows(table, p, q) for table in _changed(p, q)])
        return self._follows(conditions, [*logs, log], goal)

    def _same_answers(self, p: Path, p_logs: list[Log], q: Path, q_log: Log) -> bool:
        """Whether the two answer the same wherever both are taken."""
        return self._follows([*p.conditions, *q.conditions], [*p_logs, q_log], self._same_answer(p, q))

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
        values = [wrap(part) for part in at or any_key(schema)]
        key = tuple(values) if len(values) > 1 else values[0]

        def compared_rows() -> Any:
            one, other = getattr(p.result.state, table)[key], getattr(q.result.state, table)[key]
            found = []
            for name, hint in columns(schema.row).items():
                if (table, name) not in GHOSTS:
                    a, b = lift(getattr(one, name), hint), lift(getattr(other, name), hint)
                    found.append(T.iff(a, b) if hint == "bool" else T.equal(a, b))
            same = T.conjunction(*found)
            if table in CACHES:
                held = getattr(getattr(p.result.state, table)[key], next(iter(CACHED & set(columns(schema.row)))))
                same = T.disjunction(same, T.negate(lift(held, "bool")))
            return wrap(same)

        return lift(unbranched(compared_rows), "bool")

    def _same_where_written(self, p: Path, q: Path) -> T.Term:
        """Each single row that one of the two has written is the same after both."""
        found = []
        for table in _changed(p, q):
            writes = [*getattr(p.result.state, table).writes, *getattr(q.result.state, table).writes]
            keys = {uids(each.key): each.key for each in writes if not isinstance(each, RangeWrite)}
            found += [self._same_rows(table, p, q, key) for key in keys.values()]
        return T.conjunction(*found)

    def _follows(self, conditions: list[T.Term], logs: list[Log], goal: T.Term) -> bool:
        """The goal follows from the invariants under the conditions."""
        if goal is T.boolean(value=True):
            return True
        return self._asked(logs, [*conditions, T.negate(goal)], len(LEVELS) - 1) == UNSAT

    def _asked(self, logs: list[Log], conditions: list[T.Term], depth: int) -> str:
        """Whether some state satisfies the invariants and these conditions; ``_model`` is one.

        As in the proofs, a fact is given to the solver only when a state is found that breaks it, or when it was needed
        before.  depth: of the facts.
        """
        closure = Closure(self._proof.instances, logs, conditions)
        growing, writer = Growing(QUESTION), T.Writer()
        given: set[int] = set()
        verdict = growing.check(writer.piece(conditions))
        for each in DEEP[:depth + 1]:
            closure.grow(each)
            pool = closure.assertions[closure.given:]
            ordered = T.order(pool)
            missing = [fact for fact in pool if fact.uid in self._needed and fact.uid not in given]
            while verdict == SAT and time.process_time() < self._until:
                if missing:
                    given |= {fact.uid for fact in missing}
                    verdict = growing.check(writer.piece(missing))
                    missing = []
                    continue
                self._model = Met(growing.model())
                values = T.evaluate(ordered, self._model)
                missing = [fact for fact in pool if not values[fact.uid] and fact.uid not in given]
                self._needed |= {fact.uid for fact in missing}
                if not missing:
                    break
            if verdict != SAT:
                return verdict
        return SAT if time.process_time() < self._until else UNKNOWN


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
