"""Total tables.

A table has a row for every key; a key that was never written holds the default row.  The
state is a record of tables.  A transition reads ``state.frame[mfn]`` and writes with ``put``
(one row) or ``fill`` (every row whose key lies in a range).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import attrs
import immutables

from spec.language.records import changed, evolve, replaced
from spec.language.values import Boolean, SpecificationError

K = TypeVar("K")
R = TypeVar("R")
_S = TypeVar("_S")
_new = object.__new__


@attrs.frozen
class Span:
    """The keys ``first .. first + pages - 1`` of one key component."""

    first: int
    pages: int

    def has(self, key: int) -> Boolean:
        """The key lies in the span."""
        from spec.language.values import within

        return within(key, self.first, self.pages)

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.first + self.pages))


class _All:
    """Every key of one key component."""

    def has(self, key: int) -> Boolean:
        """Every key is meant."""
        return True

    def __repr__(self) -> str:
        return "ALL"


ALL = _All()
span = Span


@attrs.frozen
class Schema:
    """What a table is declared to be: key components, row class and meaning."""

    name: str
    key: tuple[str, ...]
    row: type
    ghost: bool = False
    guest_writable: bool = False


def _components(part: Any) -> Iterable[Any]:
    return part if hasattr(part, "has") else (part,)


def keys_of(parts: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The keys of a pattern of values and spans, one after the other: there may be very many."""
    for first in _components(parts[0]):
        if len(parts) == 1:
            yield (first,)
        else:
            for rest in keys_of(parts[1:]):
                yield (first, *rest)


class Table(Generic[K, R]):
    """A table on integers: a persistent map; an unchanged table is shared, never copied."""

    __slots__ = ("_default", "_rows", "schema")

    def __init__(self, schema: Schema, rows: immutables.Map[Any, R] | None = None, default: R | None = None) -> None:
        self.schema = schema
        self._rows: immutables.Map[Any, R] = immutables.Map() if rows is None else rows
        self._default: R = schema.row() if default is None else default

    def __getitem__(self, key: K) -> R:
        return self._rows.get(key, self._default)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and dict(self.items()) == dict(other.items())

    def __hash__(self) -> int:
        raise SpecificationError("a table cannot be hashed")

    def __repr__(self) -> str:
        return f"<{self.schema.name}: {len(self._rows)} rows>"

    def set(self, key: K, row: R) -> Table[K, R]:
        """This table with one row replaced."""
        return Table(self.schema, self._rows.set(key, row), self._default)

    def put(self, key: K, changes: dict[str, Any]) -> Table[K, R]:
        """This table with some fields of one row changed."""
        rows, default = self._rows, self._default
        made: Table[K, R] = _new(Table)
        made.schema, made._default = self.schema, default
        made._rows = rows.set(key, changed(rows.get(key, default), changes))
        return made

    def keys(self) -> list[K]:
        """The keys that were written."""
        return list(self._rows)

    def items(self) -> Iterator[tuple[K, R]]:
        """The rows that differ from the default."""
        return ((key, row) for key, row in self._rows.items() if row != self._default)

    def _keys(self, pattern: Any) -> Iterable[Any]:
        parts = pattern if isinstance(pattern, tuple) else (pattern,)
        single = len(self.schema.key) == 1
        if ALL in parts:
            found = []
            for key in self._rows:
                values = (key,) if single else key
                if all(part.has(value) if hasattr(part, "has") else part == value
                       for part, value in zip(parts, values, strict=True)):
                    found.append(key)
            return found
        # one after the other: a guest may name a span of 2**64 keys, and the first one decides
        return _components(parts[0]) if single else keys_of(parts)

    def fill(self, pattern: Any, function: Callable[..., dict[str, Any]]) -> Table[K, R]:
        """Every row whose key matches the pattern, changed by ``function(row, *key)``."""
        single = len(self.schema.key) == 1
        rows = self._rows.mutate()
        for key in self._keys(pattern):
            row = self[key]
            rows[key] = changed(row, function(row, key) if single else function(row, *key))
        return Table(self.schema, rows.finish(), self._default)

    def every(self, pattern: Any, predicate: Callable[..., Boolean]) -> Boolean:
        """The predicate holds of every row whose key matches the pattern."""
        single = len(self.schema.key) == 1
        return all(predicate(self[key], key) if single else predicate(self[key], *key)
                   for key in self._keys(pattern))

    def count(self, predicate: Callable[..., Boolean], arguments: tuple[Any, ...]) -> int:
        """The number of rows of which the predicate holds."""
        single = len(self.schema.key) == 1
        return sum(1 for key, row in self._rows.items()
                   if predicate(row, *((key,) if single else key), *arguments))


def table(row: type, *key: type, ghost: bool = False, guest_writable: bool = False) -> Any:
    """Declare a table in the state record: the class of its rows and the types of its key.

    ghost: the table exists for the proof only; no implementation has it.
    guest_writable: guests store to it at any time, so a proof takes each read for a fresh value
    where the reader says ``volatile``.
    """
    names = tuple(each.__name__ for each in key)
    return attrs.field(metadata={"schema": (names, row, ghost, guest_writable)})


def schemas(state: type) -> dict[str, Schema]:
    """The tables of a state class, by name."""
    found = {}
    for each in attrs.fields(state):
        names, row, ghost, guest_writable = each.metadata["schema"]
        found[each.name] = Schema(each.name, names, row, ghost, guest_writable)
    return found


def empty(state: type[_S]) -> _S:
    """The state in which no row was ever written."""
    return state(**{name: Table(schema) for name, schema in schemas(state).items()})


def put(state: _S, name: str, key: Any, /, **changes: Any) -> _S:
    """The state with some fields of one row of one table changed."""
    return replaced(state, name, getattr(state, name).put(key, changes))


def fill(state: _S, name: str, pattern: Any, function: Callable[..., dict[str, Any]]) -> _S:
    """The state with every row whose key matches ``pattern`` changed by ``function(row, *key)``.

    pattern: the key with some components replaced by ``span(first, pages)`` or ``ALL``.
    Under ``ALL`` the function must leave a default row as it is (proved for each use).
    """
    return evolve(state, **{name: getattr(state, name).fill(pattern, function)})


def every(rows: Table[Any, Any], pattern: Any, predicate: Callable[..., Boolean]) -> Boolean:
    """The predicate ``predicate(row, *key)`` holds of every row whose key matches the pattern."""
    return rows.every(pattern, predicate)


def count(rows: Table[Any, Any], predicate: Callable[..., Boolean], *arguments: Any) -> int:
    """The number of rows of which ``predicate(row, *key, *arguments)`` holds.

    The predicate reads only its row, its key and its arguments, and is false of the default row.
    """
    return rows.count(predicate, arguments)
