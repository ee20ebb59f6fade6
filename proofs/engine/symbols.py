"""Values that stand for any value, and the exploration of branches.

``SymInt`` and ``SymBool`` wrap a term; ``SymWord`` is a 64-bit word of memory known only by its
fields; ``Row`` is a row of a table read field by field.  A transition that truth-tests a
``SymBool`` is run once for each way the test can go (``explore``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs

from proofs.engine import terms as T
from spec.language import values
from spec.language.outcomes import IllegalChoice, Outcome
from spec.language.records import columns, evolve
from spec.language.values import RANGES, SpecificationError, Symbolic


class NoBranching(SpecificationError):
    """A property or predicate truth-tested a symbol."""


# ---- values


def lift(value: Any, hint: str = "int") -> T.Term:
    """The term of a value of a type."""
    if isinstance(value, (SymInt, SymBool, SymWord)):
        return value.term
    if isinstance(value, bool):
        return T.boolean(value) if hint == "bool" else T.number(value)
    if isinstance(value, int):
        if hint == "bool":
            raise SpecificationError(f"{value!r} is not a condition")
        return T.number(value)
    raise SpecificationError(f"{value!r} is not a value of type {hint}")


def wrap(term: T.Term, hint: str = "int") -> Any:
    """The value of a term: a plain Python value when it is a literal."""
    if term.sort == T.BOOL:
        return term.args[0] if term.op == "const" else SymBool(term)
    value = T.literal(term)
    if value is not None:
        return value
    return SymWord(term) if hint == "Word" else SymInt(term)


class SymInt(Symbolic):
    """Any integer."""

    __slots__ = ("term",)

    def __init__(self, term: T.Term) -> None:
        self.term = term

    def __repr__(self) -> str:
        return T.show(self.term)

    __hash__ = Symbolic.__hash__

    def _other(self, other: Any) -> T.Term | None:
        return lift(other) if isinstance(other, (SymInt, int)) else None

    def __eq__(self, other: object) -> Any:
        term = self._other(other)
        return NotImplemented if term is None else wrap(T.equal(self.term, term))

    def __ne__(self, other: object) -> Any:
        term = self._other(other)
        return NotImplemented if term is None else wrap(T.negate(T.equal(self.term, term)))

    def __lt__(self, other: Any) -> Any:
        return wrap(T.less(self.term, lift(other)))

    def __le__(self, other: Any) -> Any:
        return wrap(T.at_most(self.term, lift(other)))

    def __gt__(self, other: Any) -> Any:
        return wrap(T.less(lift(other), self.term))

    def __ge__(self, other: Any) -> Any:
        return wrap(T.at_most(lift(other), self.term))

    def __add__(self, other: Any) -> Any:
        return wrap(T.add(self.term, lift(other)))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return wrap(T.subtract(self.term, lift(other)))

    def __rsub__(self, other: Any) -> Any:
        return wrap(T.subtract(lift(other), self.term))

    def __neg__(self) -> Any:
        return wrap(T.scale(self.term, -1))

    def __mul__(self, other: Any) -> Any:
        term = lift(other)
        for one, factor in ((self.term, T.literal(term)), (term, T.literal(self.term))):
            if factor is not None:
                return wrap(T.scale(one, factor))
        raise SpecificationError("a product of two unknown numbers is outside linear arithmetic")

    __rmul__ = __mul__

    def _divisor(self, other: Any) -> int:
        if not isinstance(other, int) or other <= 0:
            raise SpecificationError("divide by a positive literal only")
        return int(other)

    def __floordiv__(self, other: Any) -> Any:
        return wrap(T.divide(self.term, self._divisor(other)))

    def __mod__(self, other: Any) -> Any:
        return wrap(T.remainder(self.term, self._divisor(other)))

    def encoder(self) -> Callable[[Any], Any]:
        """How ``layouts.encode`` makes a word of fields of which this is one."""
        return encode_fields


class SymBool(Symbolic):
    """Any condition."""

    __slots__ = ("term",)

    def __init__(self, term: T.Term) -> None:
        self.term = term

    def __repr__(self) -> str:
        return T.show(self.term)

    __hash__ = Symbolic.__hash__

    def __bool__(self) -> bool:
        if not EXPLORERS or EXPLORERS[-1] is None:
            raise NoBranching("a property must not branch: use both, either, neg, implies, ite")
        return EXPLORERS[-1].branch(self.term)

    def __eq__(self, other: object) -> Any:
        if isinstance(other, (SymBool, bool)):
            return wrap(T.iff(self.term, lift(other, "bool")))
        return NotImplemented

    def __ne__(self, other: object) -> Any:
        if isinstance(other, (SymBool, bool)):
            return wrap(T.negate(T.iff(self.term, lift(other, "bool"))))
        return NotImplemented

    def negated(self) -> Any:
        """It does not hold (``values.neg``)."""
        return wrap(T.negate(self.term))

    def conjoined(self, other: Any) -> Any:
        """Both hold (``values.both``)."""
        return wrap(T.conjunction(self.term, lift(other, "bool")))

    def disjoined(self, other: Any) -> Any:
        """One of them holds (``values.either``)."""
        return wrap(T.disjunction(self.term, lift(other, "bool")))

    def __and__(self, other: Any) -> Any:
        return self.conjoined(other)

    def __or__(self, other: Any) -> Any:
        return self.disjoined(other)

    __rand__, __ror__ = __and__, __or__

    def choose(self, when_true: Any, when_false: Any) -> Any:
        """The one value or the other (``values.ite``)."""
        return join(self.term, when_true, when_false)

    def assume(self) -> None:
        """The implementation's choice obeys this rule (``outcomes.legal``)."""
        explorer = EXPLORERS[-1] if EXPLORERS else None
        if explorer is None:
            raise NoBranching("a property must not restrict choices")
        explorer.assume(self.term)

    def encoder(self) -> Callable[[Any], Any]:
        """How ``layouts.encode`` makes a word of fields of which this is one."""
        return encode_fields


def join(condition: T.Term, yes: Any, no: Any) -> Any:
    """``yes`` or ``no`` by a condition, for every kind of value."""
    if yes is no:
        return yes
    if isinstance(yes, Row) or isinstance(no, Row):
        cls = yes.cls if isinstance(yes, Row) else no.cls
        return Row(cls, lambda name: join(condition, getattr(yes, name), getattr(no, name)))
    if attrs.has(type(yes)) and type(yes) is type(no):
        names = [each.name for each in attrs.fields(type(yes))]
        return type(yes)(**{n: join(condition, getattr(yes, n), getattr(no, n)) for n in names})
    words = isinstance(yes, SymWord) or isinstance(no, SymWord)
    hint = "bool" if isinstance(yes, (bool, SymBool)) and isinstance(no, (bool, SymBool)) else "int"
    return wrap(T.choose(condition, lift(yes, hint), lift(no, hint)), "Word" if words else hint)


# ---- words of memory


class SymWord(Symbolic):
    """Eight bytes of memory, known only through layouts.

    A field of a word is an uninterpreted function of it, so two looks at one word agree.  Views
    through different layouts are unrelated: more behaviours, never fewer.
    """

    __slots__ = ("term",)

    def __init__(self, term: T.Term) -> None:
        self.term = term

    def __repr__(self) -> str:
        return T.show(self.term)

    __hash__ = Symbolic.__hash__

    def __eq__(self, other: object) -> Any:
        if isinstance(other, (SymWord, int)):
            return wrap(T.equal(self.term, lift(other)))
        return NotImplemented

    def __ne__(self, other: object) -> Any:
        if isinstance(other, (SymWord, int)):
            return wrap(T.negate(T.equal(self.term, lift(other))))
        return NotImplemented

    def seen_as(self, view: type) -> Any:
        """The fields through a layout."""
        shape = view.__layout__  # type: ignore[attr-defined]
        return view(**{each.name: wrap(_field(view, each, self.term)) for each in shape.fields})

    def any_word(self) -> Any:
        """A word about which nothing is known."""
        return SymWord(fresh("word", RANGES["Word"]))

    def encoded(self, fields: Any) -> Any:
        """This word with its fields of one layout replaced."""
        return encode_fields(fields, self)


def _field(view: type, each: Any, term: T.Term) -> T.Term:
    if term.op == "ite":
        condition, yes, no = term.args
        return T.choose(condition, _field(view, each, yes), _field(view, each, no))
    value = T.literal(term)
    if value is not None:
        bits = (value >> each.lowest) & ((1 << each.width) - 1)
        return T.boolean(bool(bits)) if each.type == "bool" else T.number(bits)
    if term.op == "app" and term.args[0] == f"encode.{view.__name__}":
        position = [other.name for other in view.__layout__.fields].index(each.name)  # type: ignore[attr-defined]
        return term.args[1 + position]  # type: ignore[no-any-return]
    name = f"{view.__name__}.{each.name}"
    if each.type == "bool":
        return T.apply(name, (term,), T.BOOL)
    return T.apply(name, (term,), T.INT, (0, (1 << each.width) - 1))


def encode_fields(fields: Any, previous: Any = 0) -> Any:
    """The word whose fields are these, as a function of them and of the rest of the word."""
    shape = type(fields).__layout__
    parts = [lift(getattr(fields, each.name), each.type) for each in shape.fields]
    for part, each in zip(parts, shape.fields, strict=True):
        if each.type != "bool":
            overflow(T.conjunction(T.at_most(T.number(0), part), T.at_most(part, T.number((1 << each.width) - 1))),
                     f"{shape.cls.__name__}.{each.name}")
    return SymWord(T.apply(f"encode.{shape.cls.__name__}", (*parts, lift(previous)), T.INT, RANGES["Word"]))


# ---- rows


RECORDER: list[Any] = []
"""How what is touched is recorded (``symbolic_tables.recording``), and how it is said again."""


class Row:
    """A row of a table: each field is built when it is first read.

    What building it touched counts as touched at every later read, too.
    """

    __slots__ = ("_cache", "_changes", "_logs", "_read", "cls")

    def __init__(self, cls: type, read: Callable[[str], Any], changes: dict[str, Any] | None = None) -> None:
        self.cls, self._read = cls, read
        self._changes: dict[str, Any] = changes or {}
        self._cache: dict[str, Any] = {}
        self._logs: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if name in self._changes:
            return self._changes[name]
        recording, touch_again = RECORDER
        if name not in self._cache:
            if name not in columns(self.cls):
                raise AttributeError(f"{self.cls.__name__} has no field {name}")
            with recording() as log:
                self._cache[name] = self._read(name)
            if log.keys:
                self._logs[name] = log
        if name in self._logs:
            touch_again(self._logs[name])
        return self._cache[name]

    def __eq__(self, other: object) -> Any:
        raise SpecificationError("compare the fields of a row, not the row")

    def __hash__(self) -> int:
        raise SpecificationError("a row cannot be hashed")

    __width__ = 0

    def __evolved__(self, changes: dict[str, Any]) -> Row:
        unknown = set(changes) - set(columns(self.cls))
        if unknown:
            raise SpecificationError(f"{self.cls.__name__} has no field {sorted(unknown)}")
        return Row(self.cls, self._read, {**self._changes, **changes})


# ---- branches

EXPLORERS: list[Explorer | None] = []


class _Dead(Exception):
    """The path contradicts itself."""


@attrs.define
class Path:
    """One way through a function: what it returned, under which conditions."""

    result: Any
    conditions: list[T.Term]
    overflows: list[tuple[T.Term, str]]
    decisions: tuple[bool, ...]
    chosen: list[T.Term] = attrs.field(factory=list)
    """The conditions that are decisions of the path; the others restrict choices of the implementation."""
    dead: bool = False


class Explorer:
    """Runs a function once for each way its conditions can go.

    A condition that the path has already decided, or that contradicts ``x = literal`` known on the
    path, is not branched on.  Every other pair of branches is explored: no path is missed.
    """

    def __init__(self, parent: Explorer | None = None, scope: str = "") -> None:
        self._parent, self._scope = parent, scope
        self._fresh: dict[str, int] = {}
        self._calls = 0

    def explore(self, function: Callable[[], Any]) -> Iterator[Path]:
        """Every path.  The same decisions always give the same terms."""
        return (path for path in self.explore_all(function) if not path.dead)

    def explore_all(self, function: Callable[[], Any]) -> Iterator[Path]:
        """Every path, also those on which the implementation has no legal choice."""
        self._work: list[tuple[bool, ...]] = [()]
        self._answers: dict[tuple[tuple[bool, ...], int], _Answers] = {}
        self._number = 0
        while self._work:
            self._prefix = self._work.pop()
            self._number += 1
            self._taken: list[bool] = []
            self.conditions: list[T.Term] = []
            self.overflows: list[tuple[T.Term, str]] = []
            self._chosen: list[T.Term] = []
            self._known: dict[int, bool] = dict(self._parent._known) if self._parent else {}
            self._fixed: dict[int, int] = dict(self._parent._fixed) if self._parent else {}
            self._fresh, self._calls = {}, 0
            EXPLORERS.append(self)
            values.JOIN.append(_joined)
            dead, result = False, None
            try:
                result = function()
            except (_Dead, IllegalChoice):
                dead = True
            finally:
                values.JOIN.pop()
                EXPLORERS.pop()
            yield Path(result, self.conditions, self.overflows, tuple(self._taken), self._chosen, dead)

    def fresh_name(self, stem: str, _of: Callable[[], Any] | None = None) -> str:
        """A name not used on this path yet; the same on every run along the same path.

        A word that a peer wrote is numbered within its call, so that branches that are joined share the
        number: nothing is ever said of such a word but its range.  All other names differ between branches.
        _of: what it is the name of, for explorers by which paths of different runs are compared.
        """
        self._fresh[stem] = self._fresh.get(stem, 0) + 1
        if stem == PEER_WORD or not self._scope:
            return f"{stem}!{self._scope}{self._fresh[stem]}"
        return f"{stem}!{self._scope}{self._fresh[stem]}/{self._number}"

    def child(self) -> Explorer:
        """The explorer of a call whose branches are joined."""
        self._calls += 1
        return Explorer(self, f"{self._scope}{self._calls}.")

    def answers(self, function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> _Answers:
        """What a call comes to whose branches are joined: explored once, however many paths lead through it.

        A path is run anew from its start.  What it has decided, and how many such calls came before, says which call
        this is and all that is known there, for the same decisions always give the same terms.
        """
        place = tuple(self._taken), self._calls
        inner = self.child()
        if place not in self._answers:
            self._answers[place] = _Answers(inner, function, arguments, named)
        found = self._answers[place]
        RECORDER[1](found.log)
        return found

    def _decided(self, term: T.Term) -> bool | None:
        if term.op == "const":
            return bool(term.args[0])
        known = self._known.get(term.uid)
        if known is not None:
            return known
        if term.op in ("eq", "le") and term.args[0].op == "lin":
            constant, parts = term.args[0].args
            if all(part.uid in self._fixed for part, _ in parts):
                total = constant + sum(self._fixed[part.uid] * factor for part, factor in parts)
                return bool(total == 0) if term.op == "eq" else bool(total <= 0)
        if term.op in ("eq", "le") and term.args[0].op != "lin" and term.args[0].uid in self._fixed:
            value = self._fixed[term.args[0].uid]
            return value == 0 if term.op == "eq" else value <= 0
        if term.op == "not":
            inner = self._decided(term.args[0])
            return None if inner is None else not inner
        if term.op in ("and", "or"):
            absorbing = term.op == "or"
            inners = [self._decided(each) for each in term.args]
            if absorbing in inners:
                return absorbing
            if None not in inners:
                return not absorbing
        return None

    def _learn(self, term: T.Term) -> None:
        self._known[term.uid] = True
        self._known[T.negate(term).uid] = False
        if term.op == "and":
            for each in term.args:
                self._learn(each)
        elif term.op == "not" and term.args[0].op == "or":
            for each in term.args[0].args:
                self._learn(T.negate(each))
        elif term.op == "eq":
            inner = term.args[0]
            constant, parts = inner.args if inner.op == "lin" else (0, ((inner, 1),))
            if len(parts) == 1 and abs(parts[0][1]) == 1:
                self._fixed[parts[0][0].uid] = -constant * parts[0][1]

    def assume(self, term: T.Term) -> None:
        """Only what satisfies this is explored further."""
        decided = self._decided(term)
        if decided is False:
            raise _Dead
        if decided is None:
            self.conditions.append(term)
            self._learn(term)

    def branch(self, term: T.Term) -> bool:
        """The value of a condition on this path."""
        decided = self._decided(term)
        if decided is not None:
            return decided
        value = self._choose(term)
        self._taken.append(value)
        chosen = term if value else T.negate(term)
        self.conditions.append(chosen)
        self._chosen.append(chosen)
        self._learn(chosen)
        return value

    def _choose(self, _term: T.Term) -> bool:
        """Which way an open condition goes on this path; the other way is explored later."""
        position = len(self._taken)
        if position < len(self._prefix):
            return self._prefix[position]
        self._work.append((*self._taken, False))
        return True


def fresh(stem: str, bounds: tuple[int, int | None] | None = None, sort: str = T.INT,
          of: Callable[[], Any] | None = None) -> T.Term:
    """A constant about which nothing is known here but its bounds.  of: as for ``fresh_name``."""
    explorer = EXPLORERS[-1] if EXPLORERS else None
    if explorer is None:
        raise NoBranching("a property reads nothing volatile and chooses nothing")
    return T.variable(explorer.fresh_name(stem, of), sort, bounds)


def overflow(condition: T.Term, what: str) -> None:
    """This must hold on the path, or a field receives more than it can carry."""
    explorer = EXPLORERS[-1] if EXPLORERS else None
    if explorer is not None and condition is not T.boolean(value=True):
        explorer.overflows.append((condition, what))


def unbranched(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a property or predicate: it may not branch, but may call ``merged`` functions."""
    EXPLORERS.append(None)
    values.JOIN.append(_joined)
    try:
        return function(*arguments)
    finally:
        values.JOIN.pop()
        EXPLORERS.pop()


PEER_WORD = "word"
"""Stem of the names of words that a peer may have written."""


class _Answers:
    """What a call whose branches are joined comes to, whoever asks: the same decisions before it give the same.

    assumed: what the rules of choices in its branches come to, in their order.  results: for each answer, under which
    condition it is given and what the branches that give it are joined to.
    """

    def __init__(self, inner: Explorer, function: Callable[..., Any], arguments: tuple[Any, ...],
                 named: dict[str, Any]) -> None:
        self.assumed: list[T.Term] = []
        self.overflows: list[tuple[T.Term, str]] = []
        floor = [marked(each) for each in arguments]
        with RECORDER[0]() as self.log:
            paths = list(inner.explore_all(lambda: function(*floor, **named)))
            self.results = [
                (T.disjunction(*conditions), unmarked(join_all(conditions, results), arguments))
                for conditions, results in self._by_answer(paths)
            ]

    def _by_answer(self, paths: list[Path]) -> Iterable[tuple[list[T.Term], list[Any]]]:
        groups: dict[Any, tuple[list[T.Term], list[Any]]] = {}
        for path in paths:
            chosen = T.conjunction(*path.chosen)
            if path.dead:
                self.assumed.append(T.negate(chosen))
                continue
            rules = [each for each in path.conditions if not any(each is other for other in path.chosen)]
            here = T.conjunction(*path.conditions)
            self.overflows.extend((T.implication(here, fact), what) for fact, what in path.overflows)
            if rules:
                self.assumed.append(T.implication(chosen, T.conjunction(*rules)))
            conditions, results = groups.setdefault(_answer(path.result), ([], []))
            conditions.append(chosen)
            results.append(path.result)
        return groups.values()


def _joined(function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Call a ``merged`` function: explore its branches here and go on with one joined result.

    Branches exclude each other and leave nothing out, so each table afterwards is the one before with the
    writes of every branch, each under the condition of its branch.  Answers of different kind or code stay
    apart: the caller goes on once for each.
    """
    outer = EXPLORERS[-1]
    if outer is None:
        paths = list(Explorer().explore(lambda: function(*arguments, **named)))
        return join_all([T.conjunction(*path.conditions) for path in paths], [path.result for path in paths])
    found = outer.answers(function, arguments, named)
    for each in found.assumed:
        outer.assume(each)
    outer.overflows.extend(found.overflows)
    if not found.results:
        raise _Dead
    *others, (_, last) = found.results
    for condition, result in others:
        if outer.branch(condition):
            return result
    return last


def _answer(result: Any) -> Any:
    """Results with the same answer may be joined."""
    if isinstance(result, Outcome):
        code = int(result.code) if isinstance(result.code, int) else None
        return result.kind, code, tuple(result.output)
    return result is None


def join_all(conditions: list[T.Term], results: list[Any]) -> Any:
    """The result whose condition holds; one of them does."""
    first = results[0]
    if all(each is first for each in results):
        return first
    if isinstance(first, Joinable):
        return first.joined(conditions, results)
    if isinstance(first, Outcome):
        return Outcome(
            join_all(conditions, [each.state for each in results]), first.kind,
            join_all(conditions, [each.code for each in results]),
            {name: join_all(conditions, [each.output[name] for each in results]) for name in first.output},
        )
    if isinstance(first, tuple):
        parts = [join_all(conditions, [each[i] for each in results]) for i in range(len(first))]
        return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
    if attrs.has(type(first)) and all(type(each) is type(first) for each in results):
        names = [each.name for each in attrs.fields(type(first))]
        return type(first)(**{n: join_all(conditions, [getattr(each, n) for each in results]) for n in names})
    result = results[-1]
    for condition, each in zip(conditions[-2::-1], results[-2::-1], strict=True):
        result = join(condition, each, result)
    return result


class Joinable:
    """A value that knows how to join itself: a table."""

    __slots__ = ()

    def joined(self, conditions: list[T.Term], results: list[Any]) -> Any:
        """The table whose condition holds."""
        raise NotImplementedError

    def marked(self, original: Any = None) -> Any:
        """The table with its writes so far kept as they are; or, with the original, without that mark."""
        raise NotImplementedError


def marked(argument: Any) -> Any:
    """A state whose writes so far are kept as they are, so that branches have them in common."""
    if attrs.has(type(argument)) and any(isinstance(each, Joinable) for each in _fields(argument).values()):
        marked = {n: each.marked() for n, each in _fields(argument).items() if isinstance(each, Joinable)}
        return evolve(argument, **marked)
    return argument


def unmarked(result: Any, arguments: tuple[Any, ...]) -> Any:
    """The result of a joined call without the marks; a state that nothing has changed is the argument itself."""
    if isinstance(result, Outcome):
        return Outcome(unmarked(result.state, arguments), result.kind, result.code, result.output)
    if not attrs.has(type(result)) or not any(isinstance(each, Joinable) for each in _fields(result).values()):
        return result
    for each in arguments:
        if type(each) is type(result):
            changes = {n: table.marked(getattr(each, n)) for n, table in _fields(result).items()}
            if all(changes[n] is getattr(each, n) for n in changes):
                return each
            return evolve(result, **changes)
    return result


def _fields(record: Any) -> dict[str, Any]:
    return {each.name: getattr(record, each.name) for each in attrs.fields(type(record))}
