"""Small scope: is a failed obligation a real counterexample?

A model of the unbounded problem may rest on hypotheses that were not instantiated.  So the same
path and goal are posed again in a world of a few domains, frames and grants, where every invariant
is stated of every row and every count is a sum.  A solution there is a complete state.  It is
reported only after the *plain* specification, run on integers, has satisfied every invariant
before and broken the property after.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import attrs
import z3

from proofs.engine import terms as T
from proofs.engine.counting import base, satisfied, total
from proofs.engine.obligations import OVERFLOW, Problem, Theory
from proofs.engine.symbolic_tables import (
    Key,
    Log,
    Mention,
    RangeWrite,
    SymTable,
    Universal,
    recording,
    symbolic_state,
    uids,
)
from proofs.engine.symbols import PEER_WORD, lift, unbranched, wrap
from spec.language import layouts
from spec.language.layouts import LAYOUTS
from spec.language.outcomes import IllegalChoice, Outcome
from spec.language.records import columns, evolve
from spec.language.tables import Table
from spec.language.values import JOIN, RANGES, Word

DEFAULT_SIZES: dict[str, tuple[int, ...]] = {
    "DomId": (0, 1, 0x7FFF),
    "VcpuId": (0, 1),
    "Gfn": (0, 1, 2),
    "Mfn": (0, 1, 2, 3),
    "GrantRef": (0, 1),
    "Handle": (0, 1),
    "Index": (0, 1),
    "int": (0, 1),
}
IDENTIFIERS = ("DomId", "VcpuId", "Gfn", "Mfn", "GrantRef", "Handle")


@attrs.define
class Counterexample:
    """A state that satisfies every invariant, a call, and what it breaks."""

    state: Any
    arguments: dict[str, Any]
    peer: list[int]
    property: str
    key: tuple[Any, ...]
    outcome: Outcome[Any]


class Scope:
    """The small world of one theory."""

    def __init__(self, theory: Theory, sizes: dict[str, tuple[int, ...]] | None = None) -> None:
        self.theory = theory
        self.sizes = {**DEFAULT_SIZES, **(sizes or {})}
        self.state = symbolic_state(theory.state, theory.schemas)
        self.assertions: list[T.Term] = []
        self._counted: set[Any] = set()
        self._pending: list[Mention] = []
        self._cells: dict[tuple[str, Any, str], T.Term] = {}
        self._everywhere()

    # -- the state and its invariants

    def keys(self, table: str) -> list[tuple[int, ...]]:
        """All keys of a table in this scope."""
        return list(itertools.product(*[self.sizes[hint] for hint in self.theory.schemas[table].key]))

    def _literal(self, key: tuple[int, ...]) -> Key:
        return tuple(T.number(part) for part in key)

    def _everywhere(self) -> None:
        for table, schema in self.theory.schemas.items():
            for key in self.keys(table):
                row = getattr(self.state, table).row(self._literal(key))
                for name, hint in columns(schema.row).items():
                    term = lift(getattr(row, name), hint)
                    self._cells[table, key, name] = term
                    if hint in IDENTIFIERS:
                        self._inside(term, hint, schema.row, name)
        self._assert(lift(unbranched(self.theory.untouched, self.state), "bool"))
        for each in self.theory.properties.values():
            if each.two_state or each.derived:
                continue
            for key in self.keys(each.table):
                with recording() as log:
                    holds = unbranched(each.function, self.state, *[wrap(p) for p in self._literal(key)])
                self._assert(lift(holds, "bool"))
                self._absorb(log)

    def _assert(self, term: T.Term) -> None:
        if not (term.op == "const" and term.args[0]):
            self.assertions.append(term)

    def _inside(self, term: T.Term, hint: str, row: type, name: str) -> None:
        allowed = {*self.sizes[hint], getattr(row(), name)}
        self._assert(T.disjunction(*[T.equal(term, T.number(value)) for value in sorted(allowed)]))

    def _absorb(self, log: Log) -> None:
        self._pending.extend(log.counts.values())
        while self._pending:
            mention = self._pending.pop()
            self._count(mention)

    def _count(self, mention: Mention) -> None:
        table = mention.table.base()
        identity = (mention.name, uids(mention.arguments))
        if identity not in self._counted:
            self._counted.add(identity)
            self._assert(T.equal(base(mention.name, mention.arguments), self._sum(table, mention, None)))
        for position, write in enumerate(mention.table.writes):
            if not isinstance(write, RangeWrite):
                continue
            for moment in ("before", "after"):
                place = (write.name, moment, *identity)
                if place in self._counted:
                    continue
                self._counted.add(place)
                at = mention.table.prefix(position + (moment == "after"))
                number = T.apply(f"{write.name}.{moment}.{mention.name}", mention.arguments, T.INT, (0, None))
                self._assert(T.equal(number, self._sum(at, mention, write)))

    def _sum(self, table: SymTable, mention: Mention, write: RangeWrite | None) -> T.Term:
        result = T.number(0)
        for key in self.keys(table.schema.name):
            terms = self._literal(key)
            holds = satisfied(table, mention.predicate, terms, mention.arguments)
            if write is not None:
                holds = T.conjunction(holds, write.matches(terms))
            result = T.add(result, T.choose(holds, T.number(1), T.number(0)))
        return result

    # -- a path and a goal

    def solve(self, problem: Problem, logs: list[Log], *, limit: float = 20.0) -> Counterexample | None:
        """A counterexample of the obligation that the plain specification confirms, if there is one here."""
        mark, counted = len(self.assertions), set(self._counted)
        try:
            return self._solve(problem, logs, limit)
        finally:
            del self.assertions[mark:]
            self._counted = counted

    def witness(self, problem: Problem, logs: list[Log], *, limit: float = 10.0) -> Counterexample | None:
        """A state that satisfies every invariant and in which the plain specification takes this path's answer."""
        mark, counted = len(self.assertions), set(self._counted)
        try:
            self._path(problem, logs)
            # any state will do, also one with rows that do not matter
            values = self._model(problem, limit, small=False)
        finally:
            del self.assertions[mark:]
            self._counted = counted
        if values is None:
            return None
        arguments = {name: values[f"arg {name}"] for name in problem.arguments}
        expected = problem.path.result
        found = Counterexample(self.concrete_state(values), arguments, [], "", (), expected)
        self._with_peers(problem, found, values)
        if broken(self.theory, found.state, self):
            return None
        outcome = run(problem, found)
        if outcome is None or outcome.kind is not expected.kind:
            return None
        if isinstance(expected.code, int) and outcome.code != expected.code:
            return None
        return attrs.evolve(found, outcome=outcome)

    def _path(self, problem: Problem, logs: list[Log]) -> None:
        for name, term in problem.arguments.items():
            hint = problem.transition.parameters[name]
            if hint in IDENTIFIERS:
                self._assert(T.disjunction(*[T.equal(term, T.number(v)) for v in self.sizes[hint]]))
        for log in logs:
            for (table, _), key in log.keys.items():
                for part, hint in zip(key, self.theory.schemas[table].key, strict=True):
                    if T.literal(part) is None:
                        self._assert(T.disjunction(*[T.equal(part, T.number(v)) for v in self.sizes[hint]]))
            for universal in log.universals.values():
                self._universal(universal)
            self._absorb(log)
        outcome = problem.path.result
        for table in self.theory.schemas:
            for write in getattr(outcome.state, table).writes:
                if isinstance(write, RangeWrite):
                    self._range(write, self.theory.schemas[table].key)
        for each in problem.path.conditions:
            self._assert(each)

    def _range(self, write: RangeWrite, hints: tuple[str, ...]) -> None:
        for part, hint in zip(write.pattern, hints, strict=True):
            if hasattr(part, "first"):
                first, pages = lift(part.first), lift(part.pages)
                inside = [v for v in self.sizes[hint] if v < 0x7000]
                if hint == "Index":
                    continue
                self._assert(T.at_most(T.add(first, pages), T.number(max(inside) + 1)))

    def _universal(self, universal: Universal) -> None:
        table = universal.table.schema.name
        parts = []
        for key in self.keys(table):
            terms = self._literal(key)
            parts.append(T.implication(universal.matches(terms), universal.predicate(terms)))
        self._assert(T.iff(universal.holds, T.conjunction(*parts)))

    def _solve(self, problem: Problem, logs: list[Log], limit: float) -> Counterexample | None:
        self._path(problem, logs)
        if problem.property != OVERFLOW:
            prop = self.theory.properties[problem.property]
            for part, hint in zip(problem.fresh, self.theory.schemas[prop.table].key, strict=True):
                self._assert(T.disjunction(*[T.equal(part, T.number(v)) for v in self.sizes[hint]]))
        self._assert(T.negate(problem.goal))
        model = self._model(problem, limit)
        return None if model is None else self._replay(problem, model)

    def _model(self, problem: Problem, limit: float, *, small: bool = True) -> dict[str, Any] | None:
        wanted: dict[str, T.Term] = {}
        for name, term in problem.arguments.items():
            wanted[f"arg {name}"] = term
        for position, term in enumerate(problem.fresh):
            wanted[f"key {position}"] = term
        for (table, key, name), term in self._cells.items():
            wanted[f"cell {table} {' '.join(map(str, key))} {name}"] = term
        named = [*self.assertions, *_exact_words(self.assertions)]
        for term in T.order(named):
            if term.op == "app" and len(term.args) == 1 and term.args[0].startswith(f"{PEER_WORD}!"):
                wanted[f"peer {term.args[0][len(PEER_WORD) + 1:]}"] = term
        for label, term in wanted.items():
            out = T.variable(f"out.{label}", term.sort)
            named.append(T.equal(out, term))
        plain = []
        for (table, key), cells in self._rows().items():
            switch = f"plain.{table}.{key}"
            plain.append(switch)
            named.append(T.implication(T.variable(switch, T.BOOL), cells))
        model = _least(T.smtlib(named), plain if small else [], limit)
        if model is None:
            return None
        values: dict[str, Any] = {}
        for declaration in model.decls():
            label = declaration.name()
            if label.startswith("out."):
                value = model[declaration]
                values[label[4:]] = z3.is_true(value) if z3.is_bool(value) else value.as_long()
        for label, term in wanted.items():
            if label not in values:
                values[label] = False if term.sort == T.BOOL else 0
        return values

    def _rows(self) -> dict[tuple[str, Any], T.Term]:
        """For each row the condition that it holds the default."""
        found: dict[tuple[str, Any], list[T.Term]] = {}
        for (table, key, name), term in self._cells.items():
            default = getattr(self.theory.schemas[table].row(), name)
            value = T.boolean(default) if term.sort == T.BOOL else T.number(default)
            found.setdefault((table, key), []).append(T.equal(term, value))
        return {place: T.conjunction(*terms) for place, terms in found.items()}

    # -- the plain specification decides

    def concrete_state(self, values: dict[str, Any]) -> Any:
        """The state of a model."""
        tables = {}
        for table, schema in self.theory.schemas.items():
            rows: Table[Any, Any] = Table(schema)
            for key in self.keys(table):
                default = schema.row()
                changes = {n: values[f"cell {table} {' '.join(map(str, key))} {n}"] for n in columns(schema.row)}
                row = evolve(default, **changes)
                if row != default:
                    rows = rows.set(key if len(key) > 1 else key[0], row)
            tables[table] = rows
        return self.theory.state(**tables)

    def _replay(self, problem: Problem, values: dict[str, Any]) -> Counterexample | None:
        state = self.concrete_state(values)
        arguments = {name: values[f"arg {name}"] for name in problem.arguments}
        key = tuple(values[f"key {i}"] for i in range(len(problem.fresh)))
        found = Counterexample(state, arguments, [], problem.property, key, Outcome(state, problem.path.result.kind))
        self._with_peers(problem, found, values)
        return self.shrink(problem, found) if self.confirmed(problem, found) else None

    def _with_peers(self, problem: Problem, found: Counterexample, values: dict[str, Any]) -> None:
        """What the peers store before each read, in the order in which the plain specification reads."""
        script = PeerScript({label[5:]: value for label, value in values.items() if label.startswith("peer ")})
        with script:
            try:
                problem.transition.function(found.state, **found.arguments)
            except (IllegalChoice, KeyError):
                return
        found.peer = script.said

    def confirmed(self, problem: Problem, found: Counterexample) -> bool:
        """The plain specification satisfies every invariant before, and breaks the property after."""
        if not self.theory.untouched(found.state) or broken(self.theory, found.state, self):
            return False
        if problem.property in self.theory.properties and self.theory.properties[problem.property].derived:
            return not self.theory.properties[problem.property].function(found.state, *found.key)
        outcome = run(problem, found)
        if outcome is None:
            return False
        found.outcome = outcome
        prop = self.theory.properties.get(problem.property)
        if not self.theory.untouched(outcome.state) and not (prop is not None and prop.of_repaired):
            return False
        if prop is None:
            return problem.property == OVERFLOW and out_of_range(self.theory, outcome.state)
        if not prop.two_state:
            return not prop.function(outcome.state, *found.key)
        actor = found.arguments.get(problem.transition.actor, self.theory.nobody)
        return not prop.function(found.state, outcome.state, actor, *found.key)

    def shrink(self, problem: Problem, found: Counterexample) -> Counterexample:
        """Only rows that matter: set each to its default if the counterexample survives."""
        changed = True
        while changed:
            changed = False
            for table, schema in self.theory.schemas.items():
                for key in list(getattr(found.state, table).keys()):
                    rows = getattr(found.state, table)
                    for candidate in self._simpler(rows[key], schema.row()):
                        trial = attrs.evolve(found, state=evolve(found.state, **{table: rows.set(key, candidate)}))
                        if candidate != rows[key] and self.confirmed(problem, trial):
                            found, changed = trial, True
                            break
        return found

    def _simpler(self, row: Any, default: Any) -> list[Any]:
        fields = [n for n in columns(type(row)) if getattr(row, n) != getattr(default, n)]
        return [default, *[evolve(row, **{n: getattr(default, n)}) for n in fields]]


def _least(text: str, switches: list[str], limit: float) -> z3.ModelRef | None:
    """A model in which as many rows as possible, taken one by one, hold their defaults."""
    solver = z3.Solver(ctx=z3.Context())
    solver.set("timeout", int(limit * 1000))
    solver.from_string(text)
    if solver.check() != z3.sat:
        return None
    model = solver.model()
    kept: list[Any] = []
    for each in switches:
        literal = z3.Bool(each, solver.ctx)
        if solver.check(*kept, literal) == z3.sat:
            kept.append(literal)
            model = solver.model()
    return model


def _bits(word: T.Term, lowest: int, width: int) -> T.Term:
    return T.remainder(T.divide(word, 1 << lowest), 1 << width)


def _exact_words(assertions: list[T.Term]) -> list[T.Term]:
    """What every field and every encoded word in the problem really is, by division."""
    found = []
    for term in T.order(assertions):
        if term.op != "app" or "." not in term.args[0]:
            continue
        first, second = term.args[0].split(".", 1)
        if first == "encode" and second in LAYOUTS:
            fields = LAYOUTS[second].__layout__.fields  # type: ignore[attr-defined]
            previous = term.args[-1]
            value = previous
            for each, part in zip(fields, term.args[1:-1], strict=True):
                number = T.choose(part, T.number(1), T.number(0)) if part.sort == T.BOOL else part
                change = T.subtract(number, _bits(previous, each.lowest, each.width))
                value = T.combine(value, change, 1 << each.lowest)
            found.append(T.equal(term, value))
        elif first in LAYOUTS and len(term.args) == 2:
            each = next(f for f in LAYOUTS[first].__layout__.fields if f.name == second)  # type: ignore[attr-defined]
            bits = _bits(term.args[1], each.lowest, each.width)
            found.append(T.iff(term, T.equal(bits, T.number(1))) if term.sort == T.BOOL else T.equal(term, bits))
    return found


class PeerScript:
    """Gives each read of shared memory the word that a model has for it.

    Reads are numbered as the symbolic reading numbers them: within each joined call on their own.
    """

    def __init__(self, words: dict[str, int]) -> None:
        self.words, self.said = words, []  # type: ignore[var-annotated]
        self._calls: list[tuple[str, list[int]]] = [("", [0, 0])]

    def __enter__(self) -> PeerScript:
        layouts.PEER.append(self._read)
        JOIN.append(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        layouts.PEER.pop()
        JOIN.pop()

    def _read(self, word: Word) -> Word:
        prefix, numbers = self._calls[-1]
        numbers[0] += 1
        self.said.append(self.words.get(f"{prefix}{numbers[0]}", word))
        return Word(self.said[-1])

    def _call(self, function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        prefix, numbers = self._calls[-1]
        numbers[1] += 1
        self._calls.append((f"{prefix}{numbers[1]}.", [0, 0]))
        try:
            return function(*arguments, **named)
        finally:
            self._calls.pop()


def run(problem: Problem, found: Counterexample) -> Outcome[Any] | None:
    """The call on the plain specification, with the peer storing between its reads."""
    script = iter(found.peer)
    layouts.PEER.append(lambda word: Word(next(script, word)))
    try:
        outcome: Outcome[Any] = problem.transition.function(found.state, **found.arguments)
    except (IllegalChoice, KeyError):
        return None
    finally:
        layouts.PEER.pop()
    return outcome


def keys_at_hand(state: Any, table: str, scope: Scope | None) -> list[Any]:
    """The keys of a table that a check looks at."""
    found = set(getattr(state, table).keys())
    if scope is not None:
        found.update(key if len(key) > 1 else key[0] for key in scope.keys(table))
    return list(found)


def broken(theory: Theory, state: Any, scope: Scope | None = None) -> list[tuple[str, Any]]:
    """Which invariants a state breaks, and where."""
    found = []
    for each in theory.properties.values():
        if each.two_state or each.derived:
            continue
        for key in keys_at_hand(state, each.table, scope):
            if not each.function(state, *(key if isinstance(key, tuple) else (key,))):
                found.append((each.id, key))
    return found


def out_of_range(theory: Theory, state: Any) -> bool:
    """Whether some field holds more than its type can carry."""
    for table in theory.schemas:
        hints = columns(theory.schemas[table].row)
        for entry in getattr(state, table).items():
            for name, hint in hints.items():
                low, high = RANGES[hint]
                value = getattr(entry[1], name)
                if value < low or (high is not None and value > high):
                    return True
    return False


__all__ = ["Counterexample", "Scope", "broken", "out_of_range", "run", "total"]
