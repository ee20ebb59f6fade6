"""Tables on symbols.

A table is one uninterpreted function for each field of its rows, and the list of writes made
since.  A read at a key is "the newest write whose key matches, else the function".  A range write
is a condition on the key and a function of the row: exact for every key, however many there are.

Every key that is read or written is *touched*: hypotheses are instantiated at touched keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from proofs.engine import terms as T
from proofs.engine.symbols import EXPLORERS, RECORDER, Joinable, Row, SymWord, fresh, join_all, lift, unbranched, wrap
from spec.language.records import columns, evolve
from spec.language.tables import ALL, Schema, Span
from spec.language.values import RANGES, SpecificationError

Key = tuple[T.Term, ...]


def uids(key: Key) -> tuple[int, ...]:
    """The identity of a key: equal terms are the same object."""
    return tuple(each.uid for each in key)


@attrs.define
class Mention:
    """A count that was asked for: of which table, of which rows."""

    table: SymTable
    predicate: Callable[..., Any]
    name: str
    arguments: tuple[T.Term, ...]


@attrs.define
class Universal:
    """``every(...)``: a condition that stands for "all matching rows satisfy the predicate"."""

    table: SymTable
    holds: T.Term
    matches: Callable[[Key], T.Term]
    predicate: Callable[[Key], T.Term]


class Log:
    """What was touched while something was evaluated."""

    def __init__(self) -> None:
        self.keys: dict[tuple[str, tuple[int, ...]], Key] = {}
        self.counts: dict[tuple[Any, ...], Mention] = {}
        self.universals: dict[int, Universal] = {}

    def touch(self, table: str, key: Key) -> None:
        """A key was read or written."""
        self.keys.setdefault((table, uids(key)), key)

    def absorb(self, other: Log) -> None:
        """Everything that the other log has, too."""
        self.keys.update(other.keys)
        self.counts.update(other.counts)
        self.universals.update(other.universals)


LOGS: list[Log] = []


class recording:
    """``with recording() as log``: collect what is touched meanwhile."""

    def __enter__(self) -> Log:
        LOGS.append(Log())
        return LOGS[-1]

    def __exit__(self, *_: object) -> None:
        LOGS.pop()


def _touch_again(log: Log) -> None:
    if LOGS:
        LOGS[-1].absorb(log)


RECORDER[:] = [recording, _touch_again]


def _same(first: Key, second: Key) -> T.Term:
    return T.conjunction(*[T.equal(a, b) for a, b in zip(first, second, strict=True)])


class PointWrite:
    """One row replaced, if the guard holds."""

    def __init__(self, key: Key, row: Any, guard: T.Term | None = None) -> None:
        self.key, self._row = key, row
        self.guard = T.boolean(value=True) if guard is None else guard

    def matches(self, key: Key) -> T.Term:
        """Whether the write is to this key."""
        return T.conjunction(self.guard, _same(key, self.key))

    def guarded(self, guard: T.Term) -> PointWrite:
        """The same write under one more condition."""
        return PointWrite(self.key, self._row, T.conjunction(guard, self.guard))

    def row(self, key: Key, before: SymTable) -> Any:
        """The row written."""
        return self._row


class RangeWrite:
    """Every matching row changed by a function of the row and its key."""

    def __init__(self, pattern: tuple[Any, ...], function: Callable[..., dict[str, Any]], name: str,
                 source: SymTable | None = None, guard: T.Term | None = None) -> None:
        self.pattern, self._function, self.name, self.source = pattern, function, name, source
        self.guard = T.boolean(value=True) if guard is None else guard
        self._rows: dict[tuple[int, ...], Any] = {}

    def matches(self, key: Key) -> T.Term:
        """Whether the key lies in the range, and the write takes place."""
        return T.conjunction(self.guard, matches(self.pattern, key))

    def guarded(self, guard: T.Term) -> RangeWrite:
        """The same write under one more condition."""
        return RangeWrite(self.pattern, self._function, self.name, self.source, T.conjunction(guard, self.guard))

    def row(self, key: Key, before: SymTable) -> Any:
        """The row at a key of the range."""
        if uids(key) not in self._rows:
            with recording() as log:
                old = (before if self.source is None else self.source).row(key)
                found = evolve(old, **unbranched(self._function, old, *before.values(key)))
            self._rows[uids(key)] = found, log
        found, log = self._rows[uids(key)]
        _touch_again(log)
        return found

    def size(self) -> T.Term | None:
        """How many keys the range has; None if that is not a number."""
        spans = [part for part in self.pattern if hasattr(part, "has")]
        if len(spans) == 1 and isinstance(spans[0], Span):
            pages = lift(spans[0].pages)
            empty = T.disjunction(T.negate(self.guard), T.at_most(pages, T.number(0)))
            return T.choose(empty, T.number(0), pages)
        return None


def matches(pattern: tuple[Any, ...], key: Key) -> T.Term:
    """Whether a key matches a pattern of values, spans and ALL."""
    found = T.boolean(value=True)
    for part, value in zip(pattern, key, strict=True):
        hit = part.has(wrap(value)) if hasattr(part, "has") else wrap(value) == part
        found = T.conjunction(found, lift(hit, "bool"))
    return found


class SymTable(Joinable):
    """A table of which nothing is known but what the hypotheses say."""

    __slots__ = ("_cache", "floor", "schema", "side", "writes")

    def __init__(self, schema: Schema, writes: tuple[Any, ...] = (), side: str = "", floor: int = 0) -> None:
        self.schema, self.writes, self.side, self.floor = schema, writes, side, floor
        self._cache: dict[tuple[int, ...], Row] = {}

    def __hash__(self) -> int:
        raise SpecificationError("a table cannot be hashed")

    # -- keys

    def key(self, key: Any) -> Key:
        """The terms of a key given by the specification."""
        parts = key if isinstance(key, tuple) else (key,)
        if len(parts) != len(self.schema.key):
            raise SpecificationError(f"{self.schema.name} has {len(self.schema.key)} key components")
        return tuple(lift(part) for part in parts)

    def values(self, key: Key) -> tuple[Any, ...]:
        """The key as the specification sees it."""
        return tuple(wrap(part) for part in key)

    # -- reading

    def __getitem__(self, key: Any) -> Row:
        return self.row(self.key(key))

    def row(self, key: Key) -> Row:
        """The row at a key, which is touched by this."""
        if LOGS:
            LOGS[-1].touch(self.schema.name, key)
        found = self._cache.get(uids(key))
        if found is None:
            found = self._cache[uids(key)] = Row(self.schema.row, lambda name: self._field(name, key))
        return found

    def _base(self, name: str, key: Key) -> T.Term:
        hint = columns(self.schema.row)[name]
        symbol = f"{self.side}{self.schema.name}.{name}"
        if hint == "bool":
            return T.apply(symbol, key, T.BOOL)
        return T.apply(symbol, key, T.INT, RANGES[hint])

    def _field(self, name: str, key: Key) -> Any:
        hint = columns(self.schema.row)[name]
        layers: list[tuple[T.Term, T.Term]] = []
        bottom: T.Term | None = None
        for position in range(len(self.writes) - 1, -1, -1):
            write = self.writes[position]
            hit = write.matches(key)
            if hit.op == "const" and not hit.args[0]:
                continue
            value = lift(getattr(write.row(key, self.prefix(position)), name), hint)
            if hit.op == "const":
                bottom = value
                break
            layers.append((hit, value))
        term = self._base(name, key) if bottom is None else bottom
        for hit, value in reversed(layers):
            term = T.choose(hit, value, term)
        return wrap(term, hint)

    def _with(self, writes: tuple[Any, ...], floor: int | None = None) -> SymTable:
        return type(self)(self.schema, writes, self.side, self.floor if floor is None else floor)

    def prefix(self, length: int) -> SymTable:
        """The table as it was after the first writes."""
        return self._with(self.writes[:length])

    def base(self) -> SymTable:
        """The table before any write."""
        return self.prefix(0)

    # -- writing

    def _checked(self, key: Key, changes: dict[str, Any]) -> dict[str, Any]:
        """No key component and no field may receive more than it can carry."""
        if EXPLORERS and EXPLORERS[-1] is not None:
            for part, hint in zip(key, self.schema.key, strict=True):
                _bounded(part, hint, f"key of {self.schema.name}")
            types = columns(self.schema.row)
            for name, value in changes.items():
                if name in types and types[name] not in ("bool", "Word"):
                    _bounded(lift(value), types[name], f"{self.schema.name}.{name}")
        return changes

    def put(self, key: Any, changes: dict[str, Any]) -> SymTable:
        """Some fields of one row changed."""
        parts = self.key(key)
        self._checked(parts, changes)
        row = evolve(self.row(parts), **changes)
        kept = tuple(
            w for w in self.writes[self.floor:] if not (isinstance(w, PointWrite) and uids(w.key) == uids(parts))
        )
        return self._with((*self.writes[:self.floor], *kept, PointWrite(parts, row)))

    def set(self, key: Any, row: Any) -> SymTable:
        """One row replaced."""
        return self.put(key, {name: getattr(row, name) for name in columns(self.schema.row)})

    def fill(self, pattern: Any, function: Callable[..., dict[str, Any]]) -> SymTable:
        """Every matching row changed."""
        parts = pattern if isinstance(pattern, tuple) else (pattern,)
        explorer = EXPLORERS[-1]
        if explorer is None:
            raise SpecificationError("a property changes nothing")

        def content() -> Any:
            key, filled = any_key(self.schema), self._with((*self.writes, RangeWrite(parts, function, "", self)))
            return self.schema.name, matches(parts, key).uid, self._uids(key), filled._uids(key)

        name = explorer.fresh_name(f"range.{self.schema.name}", content)
        write = RangeWrite(parts, function, name, self)
        after = self._with((*self.writes, write))
        self._check_range(write, after, name)
        return after

    def _uids(self, key: Key) -> tuple[int, ...]:
        """The identity of a row."""
        row = self.row(key)
        return tuple(lift(getattr(row, name), hint).uid for name, hint in columns(self.schema.row).items())

    def _check_range(self, write: RangeWrite, after: SymTable, name: str) -> None:
        anywhere = tuple(
            T.variable(f"{name}.key{i}", T.INT, RANGES[hint]) for i, hint in enumerate(self.schema.key)
        )
        inside = write.matches(anywhere)
        old = self.row(anywhere)
        changes = unbranched(write._function, old, *self.values(anywhere))
        explorer = EXPLORERS[-1]
        assert explorer is not None
        already = len(explorer.overflows)
        types = columns(self.schema.row)
        for field, value in changes.items():
            if types[field] not in ("bool", "Word"):
                _bounded(lift(value), types[field], f"{self.schema.name}.{field}")
        for position in range(already, len(explorer.overflows)):
            condition, what = explorer.overflows[position]
            explorer.overflows[position] = (T.implication(inside, condition), what)
        if any(part is ALL for part in write.pattern):
            self._check_default(write, after)

    def _check_default(self, write: RangeWrite, after: SymTable) -> None:
        """Under ALL, a row that was never written stays as it is: else the write has no finite form."""
        default = self.schema.row()
        key = tuple(T.variable(f"{write.name}.any{i}", T.INT, RANGES[h]) for i, h in enumerate(self.schema.key))
        changes = unbranched(write._function, default, *self.values(key))
        for field, value in changes.items():
            old = getattr(default, field)
            if isinstance(value, (int, bool)) and value == old:
                continue
            raise SpecificationError(f"fill of {self.schema.name} over ALL changes {field} of a default row")

    # -- joining branches

    def marked(self, original: SymTable | None = None) -> SymTable:
        """The table with its writes so far kept as they are; or, with the original, without that mark."""
        if original is None:
            table = self._with(self.writes, len(self.writes))
            table._cache = self._cache
            return table
        if self.writes == original.writes:
            return original
        return self._with(self.writes, original.floor)

    def joined(self, conditions: list[T.Term], results: list[SymTable]) -> SymTable:
        """The table whose condition holds: the writes that all have in common, then those of each branch."""
        common = 0
        shortest = min(len(each.writes) for each in results)
        while common < shortest and all(each.writes[common] is self.writes[common] for each in results):
            common += 1
        prefix = self._with(self.writes[:common])
        tails = [each.writes[common:] for each in results]
        if not any(tails):
            return prefix
        order = _merged_keys(tails)
        if order is None:
            guarded = [write.guarded(c) for c, tail in zip(conditions, tails, strict=True) for write in tail]
            return self._with((*prefix.writes, *guarded))
        for place, key in order.items():
            rows: list[tuple[T.Term, Any]] = []
            for condition, tail in zip(conditions, tails, strict=True):
                rows += [(T.conjunction(condition, w.guard), w._row) for w in tail if uids(w.key) == place]
            everywhere = len(rows) == len(results) and all(w.guard.op == "const" for tail in tails for w in tail)
            row = join_all([c for c, _ in rows], [r for _, r in rows])
            guard = None if everywhere else T.disjunction(*[c for c, _ in rows])
            prefix = self._with((*prefix.writes, PointWrite(key, row, guard)))
        return prefix

    # -- conditions and numbers over all rows

    def every(self, pattern: Any, predicate: Callable[..., Any]) -> Any:
        """All matching rows satisfy the predicate: a fresh condition, explained at touched keys."""
        parts = pattern if isinstance(pattern, tuple) else (pattern,)

        def says(key: Key) -> T.Term:
            return lift(unbranched(predicate, self.row(key), *self.values(key)), "bool")

        def content() -> Any:
            key = any_key(self.schema)
            return self.schema.name, matches(parts, key).uid, says(key).uid

        holds = fresh(f"every.{self.schema.name}", sort=T.BOOL, of=content)
        universal = Universal(self, holds, lambda key: matches(parts, key), says)
        for log in LOGS:
            log.universals[holds.uid] = universal
        return wrap(holds)

    def count(self, predicate: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """The number of rows that satisfy the predicate: see ``counting``."""
        from proofs.engine.counting import total

        return total(self, predicate, tuple(lift(each) for each in arguments))


def any_key(schema: Schema) -> Key:
    """A key about which nothing is known but its type."""
    return tuple(T.variable(f"any.{schema.name}.{i}", T.INT, RANGES[hint]) for i, hint in enumerate(schema.key))


def _merged_keys(tails: list[tuple[Any, ...]]) -> dict[tuple[int, ...], Key] | None:
    """The keys that branches write, in an order that agrees with each of them; None if there is none.

    Only for branches that write single rows, each at most once.
    """
    order: list[tuple[int, ...]] = []
    known: dict[tuple[int, ...], Key] = {}
    for tail in tails:
        if not all(isinstance(each, PointWrite) for each in tail):
            return None
        places = [uids(each.key) for each in tail]
        if len(set(places)) != len(places):
            return None
        known.update({uids(each.key): each.key for each in tail})
        position = 0
        for place in places:
            if place in order:
                if order.index(place) < position:
                    return None
                position = order.index(place) + 1
            else:
                order.insert(position, place)
                position += 1
    return {place: known[place] for place in order}


def _bounded(term: T.Term, hint: str, what: str) -> None:
    from proofs.engine.symbols import overflow

    low, high = RANGES[hint]
    conditions = [T.at_most(T.number(low), term)]
    if high is not None:
        conditions.append(T.at_most(term, T.number(high)))
    if term.op == "app":
        known = T.bounds_of(term.args[0])
        if known is not None and known[0] >= low and (high is None or (known[1] is not None and known[1] <= high)):
            return
    overflow(T.conjunction(*conditions), what)


def symbolic_state(state: type, schemas: dict[str, Schema], side: str = "") -> Any:
    """The state of which nothing is known."""
    return state(**{name: SymTable(schema, (), side) for name, schema in schemas.items()})


__all__ = ["Key", "Log", "Mention", "SymTable", "SymWord", "Universal", "recording", "symbolic_state", "uids"]
