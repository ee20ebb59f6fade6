"""Terms of a proof, given the value that they have in one concrete state.

A path of a step on symbols speaks of any state at all: of a table it knows functions without meaning, one for each
field.  Here each function gets its meaning from a state of integers: a field of a row, a field of a word, a number of
rows, a condition over rows, and of a word that a peer may have written what stands in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import attrs

from proofs.engine import terms as T
from proofs.engine.counting import satisfied
from proofs.engine.symbolic_tables import Log, PointWrite, RangeWrite, SymTable
from proofs.engine.symbols import EXPLORERS, Explorer, SymWord, lift, unbranched
from spec.language import count, tables
from spec.language.layouts import LAYOUTS, decode, encode
from spec.language.tables import ALL, Span

MOST_KEYS = 5000
"""Keys of a range that are looked at one by one."""


class TooMany(Exception):
    """A range is too large to look at its rows one by one."""


@attrs.define
class Told:
    """What the names mean that one path has made up for itself.

    words: of a name, what memory holds there and under which conditions the path comes to that place.
    """

    words: dict[str, list[tuple[T.Term, tuple[T.Term, ...]]]] = attrs.field(factory=dict)
    universals: dict[str, tuple[SymTable, tuple[Any, ...], Callable[..., Any]]] = attrs.field(factory=dict)
    log: Log = attrs.field(factory=Log)

    def absorb(self, other: Told) -> None:
        """Everything that the other knows, too."""
        for name, places in other.words.items():
            self.words.setdefault(name, []).extend(places)
        self.universals.update(other.universals)


@contextmanager
def telling(told: Callable[[], Told]) -> Iterator[None]:
    """Note the meaning of every name that is made up meanwhile.  told: where, at this moment.

    A call whose branches are joined makes up its names once; whoever comes there again meets the same.
    """
    any_word, every, answers = SymWord.any_word, SymTable.every, Explorer.answers
    open_calls: list[Told] = []
    known: dict[Any, Told] = {}

    def here_and_now() -> Told:
        return open_calls[-1] if open_calls else told()

    def noted_answers(explorer: Explorer, *call: Any) -> Any:
        open_calls.append(Told())
        try:
            found = answers(explorer, *call)
        finally:
            made_up = open_calls.pop()
        here_and_now().absorb(known.setdefault(found, made_up))
        return found

    def noted_word(word: SymWord) -> Any:
        found = any_word(word)
        here = tuple(each for explorer in EXPLORERS if explorer is not None for each in explorer.conditions)
        here_and_now().words.setdefault(found.term.args[0], []).append((word.term, here))
        return found

    def noted_every(table: SymTable, pattern: Any, predicate: Callable[..., Any]) -> Any:
        found = every(table, pattern, predicate)
        parts = pattern if isinstance(pattern, tuple) else (pattern,)
        here_and_now().universals[lift(found, "bool").args[0]] = table, parts, predicate
        return found

    with (
        patch.object(SymWord, "any_word", noted_word),
        patch.object(SymTable, "every", noted_every),
        patch.object(Explorer, "answers", noted_answers),
    ):
        yield


class Meaning(dict[tuple[int, ...], int]):
    """A function with a meaning, in the place of a table of its values."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self._function = function

    def get(self, arguments: tuple[int, ...], _default: Any = None) -> Any:
        """The value for these arguments."""
        if arguments not in self:
            self[arguments] = self._function(*arguments)
        return self[arguments]


class Valuation(dict[str, Any]):
    """The meaning of every function, in one state of integers.

    arguments: of the step or property, by the names of their terms.  sides: states by the names of tables' sides.
    """

    def __init__(self, state: Any, arguments: dict[str, Any], told: Told, sides: dict[str, Any] | None = None) -> None:
        super().__init__()
        self._state, self._arguments, self._told, self._sides = state, arguments, told, sides or {}
        self._mentions = {each.name: each for each in told.log.counts.values()}

    def get(self, name: str, _default: Any = None) -> Any:
        """A function, by its name."""
        if name not in self:
            self[name] = Meaning(self._meaning(name)), None
        return self[name]

    def of(self, *terms: T.Term) -> list[Any]:
        """The values of terms."""
        values = T.evaluate(T.order(terms), self)
        return [values[each.uid] for each in terms]

    def _meaning(self, name: str) -> Callable[..., Any]:
        stem, _, rest = name.partition(".")
        if name in self._arguments:
            return lambda: self._arguments[name]
        if name in self._told.words:
            return lambda: self._word(name)
        if name in self._told.universals:
            return lambda: self._holds(*self._told.universals[name])
        if name.startswith("#"):
            return lambda *given: self._number(name.removeprefix("#"), given)
        if name.startswith("range."):
            return self._range_number(name)
        if stem == "encode":
            view = LAYOUTS[rest]
            names = [each.name for each in view.__layout__.fields]  # type: ignore[attr-defined]
            return lambda *given: encode(view(**dict(zip(names, given[:-1], strict=True))), given[-1])
        if stem in LAYOUTS:
            return lambda word: getattr(decode(LAYOUTS[stem], word), rest)
        side, _, stem = stem.rpartition("'")
        table = getattr(self._sides[side] if side else self._state, stem)
        return lambda *key: getattr(table[key if len(key) > 1 else key[0]], rest)

    def _word(self, name: str) -> Any:
        """What stands in memory at the place that the path comes to."""
        for term, conditions in self._told.words[name]:
            if all(self.of(*conditions)):
                return self.of(term)[0]
        # nothing on this way depends on it
        return 0

    def _number(self, name: str, given: tuple[int, ...]) -> int:
        mention = self._mentions[name]
        return count(getattr(self._state, mention.table.schema.name), mention.predicate, *given)

    def _range_number(self, name: str) -> Callable[..., int]:
        for mention in self._mentions.values():
            for position, write in enumerate(mention.table.writes):
                for moment in ("before", "after"):
                    if isinstance(write, RangeWrite) and name == f"{write.name}.{moment}.{mention.name}":
                        table = mention.table.prefix(position + (moment == "after"))
                        return lambda *given, m=mention, t=table, w=write: self._in_range(m.predicate, t, w, given)
        if not name.rpartition(".")[2].startswith("key"):
            raise KeyError(name)
        # any key of a range, in what is claimed of all of them
        return lambda: 0

    def _in_range(self, predicate: Callable[..., Any], table: SymTable, write: RangeWrite, given: tuple[int, ...]
                  ) -> int:
        if not self.of(write.guard)[0]:
            return 0
        arguments = tuple(T.number(each) for each in given)
        keys = self.keys_of(table, write.pattern)
        return sum(self.of(*[satisfied(table, predicate, key, arguments) for key in keys]))

    def _holds(self, table: SymTable, pattern: tuple[Any, ...], predicate: Callable[..., Any]) -> bool:
        return all(self.of(lift(unbranched(predicate, table.row(key), *table.values(key)), "bool"))[0]
                   for key in self.keys_of(table, pattern))

    # ---- keys

    def keys_of(self, table: SymTable, pattern: tuple[Any, ...]) -> Iterator[tuple[T.Term, ...]]:
        """The keys of a pattern, in order; where it says ALL, those of rows that were ever written. Errors: TooMany."""
        parts: list[Any] = []
        for part in pattern:
            if isinstance(part, Span):
                first, pages = self.of(lift(part.first), lift(part.pages))
                parts.append(Span(first, pages))
            else:
                parts.append(part if part is ALL else self.of(lift(part))[0])
        if ALL in parts:
            yield from (tuple(map(T.number, key)) for key in self.known(table)
                        if all(part.has(value) if hasattr(part, "has") else part == value
                               for part, value in zip(parts, key, strict=True)))
            return
        for number, key in enumerate(tables.keys_of(tuple(parts))):
            if number == MOST_KEYS:
                raise TooMany
            yield tuple(map(T.number, key))

    def known(self, table: SymTable) -> list[tuple[int, ...]]:
        """The keys of rows that were written before the step, or have been by it so far."""
        rows = getattr(self._state, table.schema.name)
        found = {key if isinstance(key, tuple) else (key,) for key, _ in rows.items()}
        return list(found | self.written(table))

    def written(self, table: SymTable) -> set[tuple[int, ...]]:
        """The keys that the writes of a path name."""
        found: set[tuple[int, ...]] = set()
        for position, write in enumerate(table.writes):
            if not self.of(write.guard)[0]:
                continue
            if isinstance(write, PointWrite):
                found.add(tuple(map(int, self.of(*write.key))))
            else:
                keys = self.keys_of(table.prefix(position), write.pattern)
                found.update(tuple(map(int, self.of(*key))) for key in keys)
        return found


__all__ = ["Told", "TooMany", "Valuation", "telling"]
