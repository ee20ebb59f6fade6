"""Numbers of rows that satisfy a predicate, without counting.

``#p(a)`` is the number of rows of the *base* table (before any write of the path) that satisfy
``p(row, *key, *a)``.  It is finite (assumption A-FINITE; every predicate is proved false of the
default row).  Three rules, each an arithmetic truth about finite sets:

* **writes**: a write at a key changes the number by ``[p after] - [p before]`` at that key; a range
  write by ``after - before``, two numbers between 0 and the size of the range.
* **decomposition**: for any list D of keys, ``#p = rest + sum over distinct D of [p]``, ``rest >= 0``;
  a satisfying key outside D gives ``rest >= 1``.
* **witness**: ``rest >= 1`` means that some key outside D satisfies p; a range number above 0 means that
  some key of the range does, one below the size that some key does not.  Two range numbers over
  the same range that differ have a key in it at which their predicates differ.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from proofs.engine import terms as T
from proofs.engine.symbolic_tables import (
    LOGS,
    Key,
    Log,
    Mention,
    PointWrite,
    RangeWrite,
    SymTable,
    any_key,
    recording,
    uids,
)
from proofs.engine.symbols import lift, unbranched, wrap
from spec.language.values import RANGES, SpecificationError

COUNT = (0, None)


def name_of(predicate: Callable[..., Any]) -> str:
    """A predicate is known by its name, so it may depend on nothing but its arguments."""
    predicate = getattr(predicate, "__wrapped__", predicate)
    if predicate.__closure__ or predicate.__name__ == "<lambda>":
        raise SpecificationError(f"count needs a named predicate without captured values, not {predicate.__qualname__}")
    return f"{predicate.__module__.rsplit('.', 1)[-1]}.{predicate.__name__}"


def satisfied(table: SymTable, predicate: Callable[..., Any], key: Key, arguments: tuple[T.Term, ...]) -> T.Term:
    """The predicate of the row at a key.  It is given no state, so the row is all that it can read."""
    row = table.row(key)
    return lift(unbranched(predicate, row, *table.values(key), *[wrap(a) for a in arguments]), "bool")


@functools.cache
def _finite_support(row: type, keys: int, predicate: Callable[..., Any], arguments: int) -> bool:
    parts = [wrap(T.variable(f"any.{i}")) for i in range(keys + arguments)]
    return unbranched(predicate, row(), *parts) is False


def _finite(table: SymTable, predicate: Callable[..., Any], arguments: int) -> None:
    """The predicate is false of a row that was never written, so finitely many rows satisfy it."""
    if not _finite_support(table.schema.row, len(table.schema.key), predicate, arguments):
        raise SpecificationError(f"{predicate.__qualname__} may be true of a default row: its count is not finite")


def _number(condition: T.Term) -> T.Term:
    return T.choose(condition, T.number(1), T.number(0))


def base(name: str, arguments: tuple[T.Term, ...]) -> T.Term:
    """``#p(a)``."""
    return T.apply(f"#{name}", arguments, T.INT, COUNT)


def _range_number(write: RangeWrite, moment: str, name: str, arguments: tuple[T.Term, ...]) -> T.Term:
    return T.apply(f"{write.name}.{moment}.{name}", arguments, T.INT, COUNT)


class Names:
    """Names of counts in one job.  Predicates of the same name that say different things are told apart.

    remember: what a predicate says is asked once.  Not so for mutants, which exchange what a predicate calls.
    """

    remember = True
    _known: dict[tuple[Any, ...], str] = {}
    _contents: dict[str, list[int]] = {}

    @classmethod
    def reset(cls) -> None:
        """A job begins."""
        cls._known.clear()
        cls._contents.clear()

    @classmethod
    def of(cls, table: SymTable, predicate: Callable[..., Any], arguments: int) -> str:
        """The name of a predicate asked of a table: one may be asked of two tables, which gives two numbers."""
        plain = f"{table.schema.name}.{name_of(predicate)}"
        place = (plain, arguments, predicate.__code__)
        name = cls._known.get(place) if cls.remember else None
        if name is None:
            parts = tuple(T.variable(f"any.argument.{i}") for i in range(arguments))
            with recording():
                content = satisfied(table.prefix(0), predicate, any_key(table.schema), parts).uid
            known = cls._contents.setdefault(plain, [])
            if content not in known:
                known.append(content)
            number = known.index(content)
            name = cls._known[place] = f"{plain}'{number}" if number else plain
        return name


def total(table: SymTable, predicate: Callable[..., Any], arguments: tuple[T.Term, ...]) -> Any:
    """The number in the table as written so far."""
    name = Names.of(table, predicate, len(arguments))
    _finite(table, predicate, len(arguments))
    if LOGS:
        mention = Mention(table, predicate, name, arguments)
        key = (table.schema.name, name, uids(arguments), tuple(id(w) for w in table.writes))
        LOGS[-1].counts.setdefault(key, mention)
    term = base(name, arguments)
    for position, write in enumerate(table.writes):
        if isinstance(write, PointWrite):
            before = satisfied(table.prefix(position), predicate, write.key, arguments)
            after = satisfied(table.prefix(position + 1), predicate, write.key, arguments)
            if before is not after:
                term = T.add(term, T.subtract(_number(after), _number(before)))
        elif not _leaves_alone(table, position, predicate, arguments):
            before_number = _range_number(write, "before", name, arguments)
            after_number = _range_number(write, "after", name, arguments)
            term = T.add(term, T.subtract(after_number, before_number))
    return wrap(term)


def _leaves_alone(table: SymTable, position: int, predicate: Callable[..., Any], arguments: tuple[T.Term, ...]) -> bool:
    """A range write after which the predicate is the same term at any key: nothing that it reads changed."""
    write = table.writes[position]
    key = tuple(T.variable(f"{write.name}.each{i}", T.INT, RANGES[h]) for i, h in enumerate(table.schema.key))
    with recording():
        before = satisfied(table.prefix(position), predicate, key, arguments)
        return satisfied(table.prefix(position + 1), predicate, key, arguments) is before


def _different(key: Key, others: list[Key]) -> T.Term:
    same = [T.conjunction(*[T.equal(a, b) for a, b in zip(key, other, strict=True)]) for other in others]
    return T.conjunction(*[T.negate(each) for each in same])


def decomposition(mention: Mention, known: list[Key]) -> Iterator[tuple[T.Term, Log]]:
    """The base count as a rest and the keys at hand; and the witness of the rest."""
    table, predicate, arguments = mention.table.base(), mention.predicate, mention.arguments
    rest = T.apply(f"rest.{mention.name}", arguments, T.INT, COUNT)
    with recording() as log:
        sum_ = rest
        for position, key in enumerate(known):
            holds = satisfied(table, predicate, key, arguments)
            if holds.op == "const" and not holds.args[0]:
                continue
            sum_ = T.add(sum_, _number(T.conjunction(holds, _different(key, known[:position]))))
        fact = T.equal(base(mention.name, arguments), sum_)
    yield fact, log
    witness = tuple(
        T.apply(f"witness.{mention.name}.{i}", arguments, T.INT, RANGES[hint])
        for i, hint in enumerate(table.schema.key)
    )
    with recording() as log:
        there = T.conjunction(satisfied(table, predicate, witness, arguments), _different(witness, known))
    yield T.implication(T.at_most(T.number(1), rest), there), log


def outside(mention: Mention, key: Key, known: list[Key]) -> tuple[T.Term, Log]:
    """A satisfying key outside the list shows that the rest is not empty."""
    rest = T.apply(f"rest.{mention.name}", mention.arguments, T.INT, COUNT)
    with recording() as log:
        holds = T.conjunction(satisfied(mention.table.base(), mention.predicate, key, mention.arguments),
                              _different(key, known))
    return T.implication(holds, T.at_most(T.number(1), rest)), log


class RangeNumber:
    """How many keys of a range satisfy a predicate at one moment."""

    def __init__(self, mention: Mention, position: int, moment: str) -> None:
        self.mention, self.moment = mention, moment
        self.write: RangeWrite = mention.table.writes[position]
        self.table = mention.table.prefix(position + (moment == "after"))
        self.term = _range_number(self.write, moment, mention.name, mention.arguments)

    @property
    def identity(self) -> tuple[Any, ...]:
        """Which number this is."""
        return (self.write.name, self.moment, self.mention.name, uids(self.mention.arguments))

    @property
    def range(self) -> tuple[Any, ...]:
        """Which range it counts in."""
        parts: list[Any] = [self.write.guard.uid]
        for part in self.write.pattern:
            if hasattr(part, "first"):
                parts.append(("span", lift(part.first).uid, lift(part.pages).uid))
            elif hasattr(part, "has"):
                parts.append("all")
            else:
                parts.append(lift(part).uid)
        return tuple(parts)

    def _witness(self, which: str) -> Key:
        return tuple(
            T.apply(f"{self.write.name}.{self.moment}.{which}.{self.mention.name}.{i}", self.mention.arguments,
                    T.INT, RANGES[hint])
            for i, hint in enumerate(self.table.schema.key)
        )

    def holds(self, key: Key) -> T.Term:
        """The predicate at a key, at this moment."""
        return satisfied(self.table, self.mention.predicate, key, self.mention.arguments)

    def inside(self, key: Key) -> T.Term:
        """The key lies in the range."""
        return self.write.matches(key)

    def facts(self, known: list[Key]) -> Iterator[tuple[T.Term, Log]]:
        """Bounds, witnesses, and what the keys at hand show."""
        size = self.write.size()
        one = T.number(1)
        with recording() as log:
            fact = T.at_most(self.term, lift(total(self.table, self.mention.predicate, self.mention.arguments)))
            if size is not None:
                fact = T.conjunction(fact, T.at_most(self.term, size))
        yield fact, log
        some = self._witness("some")
        with recording() as log:
            fact = T.implication(T.at_most(one, self.term), T.conjunction(self.inside(some), self.holds(some)))
        yield fact, log
        if size is not None:
            other = self._witness("not")
            with recording() as log:
                fact = T.implication(T.less(self.term, size),
                                     T.conjunction(self.inside(other), T.negate(self.holds(other))))
            yield fact, log
        for key in known:
            inside = self.inside(key)
            if inside.op == "const" and not inside.args[0]:
                continue
            with recording() as log:
                holds = self.holds(key)
                fact = T.implication(T.conjunction(inside, holds), T.at_most(one, self.term))
                if size is not None:
                    fact = T.conjunction(fact, T.implication(T.conjunction(inside, T.negate(holds)),
                                                             T.less(self.term, size)))
            yield fact, log

    def differs_from(self, other: RangeNumber) -> Iterator[tuple[T.Term, Log]]:
        """Two numbers over one range differ only if their predicates differ somewhere in it."""
        if self.range != other.range or self.write.size() is None:
            return
        witness = tuple(
            T.apply(f"{self.write.name}.{self.moment}.{other.write.name}.{other.moment}"
                    f".{self.mention.name}.{other.mention.name}.{i}",
                    self.mention.arguments + other.mention.arguments, T.INT, RANGES[hint])
            for i, hint in enumerate(self.table.schema.key)
        )
        with recording() as log:
            fact = T.disjunction(
                T.equal(self.term, other.term),
                T.conjunction(self.inside(witness), T.negate(T.iff(self.holds(witness), other.holds(witness)))),
            )
        yield fact, log
