"""Tables of the specification's state that note which rows a step touched, and are quick where a machine is large.

They mean what ``spec.language.tables.Table`` means. Memory is kept page by page, frames that were never used are not
kept at all, and a question about a long span looks at the rows that there are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import immutables

from spec.language.records import changed, of_fields
from spec.language.tables import Schema, Span, Table, schemas
from spec.state import Contents, Frame, State, Use

ZERO_PAGE = bytes(4096)
NO_SECRET = bytes(512)
_WHOLE = 512
_MISSING: Any = object()
_new = object.__new__


class ExpensiveError(Exception):
    """A count over more rows than the caller of ``limited`` is willing to look at."""


class Log:
    """Which keys of a table were written since it was last emptied. limit: most rows that a count looks at, or None."""

    __slots__ = ("keys", "limit")

    def __init__(self) -> None:
        self.keys: set[Any] = set()
        self.limit: int | None = None


class TouchedError(Exception):
    """A function looked at its key."""


class _Unknown:
    """A key that stands for any: a function that gets by without looking at it does not depend on it."""

    def _touched(self, *_others: object) -> Any:
        raise TouchedError

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = __bool__ = __index__ = __int__ = _touched
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __mod__ = __rmod__ = __floordiv__ = _touched
    __rfloordiv__ = __and__ = __or__ = __lshift__ = __rshift__ = __neg__ = _touched


_ANY: Any = _Unknown()


class Logged(Table[Any, Any]):
    """A table that notes the keys of its rows that are written."""

    __slots__ = ("log",)

    def __init__(self, schema: Schema, rows: immutables.Map[Any, Any] | None = None, log: Log | None = None) -> None:
        super().__init__(schema, rows)
        self.log = Log() if log is None else log

    def _with(self, rows: immutables.Map[Any, Any]) -> Logged:
        made = _new(self.__class__)
        made.schema, made._default, made._rows, made.log = self.schema, self._default, rows, self.log
        return made

    def set(self, key: Any, row: Any) -> Logged:
        """This table with one row replaced."""
        self.log.keys.add(key)
        return self._with(self._rows.set(key, row))

    def put(self, key: Any, changes: dict[str, Any]) -> Logged:
        """This table with some fields of one row changed."""
        self.log.keys.add(key)
        return self._with(self._rows.set(key, changed(self[key], changes)))

    def fill(self, pattern: Any, function: Callable[..., dict[str, Any]]) -> Logged:
        """Every row whose key matches the pattern, changed by ``function(row, *key)``."""
        single = len(self.schema.key) == 1
        rows = self._rows.mutate()
        log, default = self.log.keys, self._default.__dict__
        for key in self._keys(pattern):
            row = self[key]
            made = changed(row, function(row, key) if single else function(row, *key))
            if made.__dict__ == row.__dict__:
                continue
            log.add(key)
            # a row that says nothing need not be kept, unless absence says something else
            if made.__dict__ == default and self._absent_is_default(key):
                rows.pop(key, None)
            else:
                rows[key] = made
        return self._with(rows.finish())

    def _absent_is_default(self, _key: Any) -> bool:
        return True

    def every(self, pattern: Any, predicate: Callable[..., Any]) -> bool:
        """The predicate holds of every row whose key matches the pattern."""
        parts = pattern if isinstance(pattern, tuple) else (pattern,)
        sizes = [part.pages for part in parts if isinstance(part, Span)]
        if len(sizes) == 1 and sizes[0] > len(self._rows):
            with contextlib.suppress(TouchedError):
                return self._every_of_few(parts, predicate)
        return super().every(pattern, predicate)

    def _every_of_few(self, parts: tuple[Any, ...], predicate: Callable[..., Any]) -> bool:
        """As ``every``: there are fewer rows than keys, so some key has no row; the default row stands for these.

        Errors: TouchedError if the predicate asks where the default row is.
        """
        single = len(parts) == 1
        if not predicate(self._default, *(_ANY if isinstance(part, Span) else part for part in parts)):
            return False
        for key, row in self._rows.items():
            values = (key,) if single else key
            if all(part.has(value) if hasattr(part, "has") else part == value
                   for part, value in zip(parts, values, strict=True)) and not predicate(row, *values):
                return False
        return True

    def last_before(self, first: int, second: int, predicate: Callable[[Any], bool]) -> int | None:
        """Of rows with two keys: the largest second one below, with this first one, of which the predicate holds."""
        return max((key[1] for key, row in self._rows.items()
                    if key[0] == first and key[1] < second and predicate(row)), default=None)

    def count(self, predicate: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
        """The number of rows of which the predicate holds."""
        limit = self.log.limit
        if limit is not None and len(self._rows) > limit:
            raise ExpensiveError(self.schema.name)
        return super().count(predicate, arguments)


class Frames(Logged):
    """The frames: of RAM, those that no step has touched are free and clean.

    ram: (first frame, frames) of each stretch.
    """

    __slots__ = ("free", "ram")

    def __init__(self, schema: Schema, ram: tuple[tuple[int, int], ...], log: Log) -> None:
        super().__init__(schema, None, log)
        self.ram = ram
        self.free = Frame(use=Use.FREE)  # type: ignore[arg-type]

    def _with(self, rows: immutables.Map[Any, Any]) -> Frames:
        made = super()._with(rows)
        assert isinstance(made, Frames)
        made.ram, made.free = self.ram, self.free
        return made

    def holds(self, mfn: int) -> bool:
        """The frame is RAM."""
        return any(first <= mfn < first + frames for first, frames in self.ram)

    def __getitem__(self, key: Any) -> Any:
        row = self._rows.get(key)
        if row is not None:
            return row
        return self.free if self.holds(key) else self._default

    def _absent_is_default(self, key: Any) -> bool:
        return not self.holds(key)

    def _untouched(self) -> int:
        return sum(frames for _, frames in self.ram) - sum(1 for key in self._rows if self.holds(key))

    def every(self, pattern: Any, predicate: Callable[..., Any]) -> bool:
        """The predicate holds of every row whose key matches the pattern."""
        if hasattr(pattern, "has") and not isinstance(pattern, Span) and self.ram:
            # all of them: of those that were never touched one stands for all
            return bool(predicate(self.free, self.ram[0][0])) and all(
                predicate(row, mfn) for mfn, row in self._rows.items() if pattern.has(mfn))
        return Table.every(self, pattern, predicate)

    def count(self, predicate: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
        """The number of rows of which the predicate holds."""
        found = super().count(predicate, arguments)
        if self.ram and predicate(self.free, self.ram[0][0], *arguments):
            found += self._untouched()
        return found


class Page:
    """What a frame holds. words: 4096 bytes, little-endian; secrets: one byte a word of 8 bytes."""

    __slots__ = ("secrets", "words")

    def __init__(self, words: bytes = ZERO_PAGE, secrets: bytes = NO_SECRET) -> None:
        self.words = words
        self.secrets = secrets


_EMPTY = Page()


class Words(Logged):
    """The contents of memory, page by page; the log notes frames, not words."""

    __slots__ = ()

    def page(self, mfn: int) -> Page:
        """What a frame holds."""
        found: Page = self._rows.get(mfn, _EMPTY)
        return found

    def with_bytes(self, mfn: int, offset: int, data: bytes) -> Words:
        """This table with some bytes of a frame replaced."""
        page = self.page(mfn)
        words = page.words[:offset] + data + page.words[offset + len(data):]
        return self._replaced(mfn, Page(words, page.secrets))

    def _replaced(self, mfn: int, page: Page) -> Words:
        self.log.keys.add(mfn)
        made = self._with(self._rows.set(mfn, page))
        assert isinstance(made, Words)
        return made

    def __getitem__(self, key: Any) -> Any:
        mfn, index = key
        page = self._rows.get(mfn)
        # a step may ask for the word behind a page's last, and not use it
        if page is None or not 0 <= index < _WHOLE:
            return self._default
        return of_fields(Contents, {"raw": int.from_bytes(page.words[8 * index:8 * index + 8], "little"),
                                    "secret": bool(page.secrets[index])})

    def set(self, key: Any, row: Any) -> Words:
        """This table with one word replaced."""
        return self.put(key, {"raw": row.raw, "secret": row.secret})

    def put(self, key: Any, changes: dict[str, Any]) -> Words:
        """This table with one word changed."""
        mfn, index = key
        page = self.page(mfn)
        words, secrets = page.words, page.secrets
        if "raw" in changes:
            words = words[:8 * index] + changes["raw"].to_bytes(8, "little") + words[8 * index + 8:]
        if "secret" in changes:
            secrets = secrets[:index] + bytes((bool(changes["secret"]),)) + secrets[index + 1:]
        return self._replaced(mfn, Page(words, secrets))

    def fill(self, pattern: Any, function: Callable[..., dict[str, Any]]) -> Words:
        """Every word whose key matches the pattern, changed by ``function(row, mfn, index)``."""
        frames, indices = pattern
        whole = isinstance(indices, Span) and indices.first == 0 and indices.pages == _WHOLE
        table = self
        for mfn in frames if hasattr(frames, "has") else (frames,):
            if whole:
                with contextlib.suppress(TouchedError):
                    table = table._filled(mfn, function)
                    continue
            page = table.page(mfn)
            words, secrets = bytearray(page.words), bytearray(page.secrets)
            for index in indices if hasattr(indices, "has") else (indices,):
                row = changed(table[mfn, index], function(table[mfn, index], mfn, index))
                words[8 * index:8 * index + 8] = row.raw.to_bytes(8, "little")
                secrets[index] = row.secret
            table = table._replaced(mfn, Page(bytes(words), bytes(secrets)))
        return table

    def _filled(self, mfn: int, function: Callable[..., dict[str, Any]]) -> Words:
        """A whole page changed by a function that does not look at the index: asked once for each distinct row.

        Errors: TouchedError if it does.
        """
        page = self.page(mfn)
        raws = memoryview(page.words).cast("Q").tolist()
        rows = list(zip(raws, page.secrets, strict=True))
        became: dict[tuple[int, int], tuple[int, int]] = {}
        for raw, secret in set(rows):
            row = of_fields(Contents, {"raw": raw, "secret": bool(secret)})
            after = changed(row, function(row, mfn, _ANY))
            became[raw, secret] = (after.raw, int(after.secret))
        if all(before == after for before, after in became.items()):
            return self
        if len(became) == 1:
            (raw, secret), = became.values()
            return self._replaced(mfn, Page(raw.to_bytes(8, "little") * _WHOLE, bytes((secret,)) * _WHOLE))
        after_rows = [became[row] for row in rows]
        words = b"".join(raw.to_bytes(8, "little") for raw, _ in after_rows)
        return self._replaced(mfn, Page(words, bytes(secret for _, secret in after_rows)))

    def keys(self) -> list[Any]:
        """The words that are not zero, or are secret."""
        return [(mfn, index) for mfn, page in self._rows.items() for index in range(_WHOLE)
                if page.secrets[index] or page.words[8 * index:8 * index + 8] != ZERO_PAGE[:8]]

    def items(self) -> Iterator[tuple[Any, Any]]:
        """The rows that differ from the default."""
        return ((key, self[key]) for key in self.keys())

    def every(self, pattern: Any, predicate: Callable[..., Any]) -> bool:
        """The predicate holds of every word whose key matches the pattern."""
        return Table.every(self, pattern, predicate)

    def count(self, predicate: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
        """The number of words of which the predicate holds."""
        if self.log.limit is not None:
            raise ExpensiveError(self.schema.name)
        return sum(1 for key, row in self.items() if predicate(row, *key, *arguments))


def empty_state(ram: tuple[tuple[int, int], ...]) -> tuple[State, dict[str, Log]]:
    """A state in which all RAM is free, and the log of each of its tables.

    ram: (first frame, frames) of each stretch.
    """
    logs: dict[str, Log] = {}
    made: dict[str, Any] = {}
    for name, schema in schemas(State).items():
        log = logs[name] = Log()
        if name == "frame":
            made[name] = Frames(schema, ram, log)
        elif name == "word":
            made[name] = Words(schema, None, log)
        else:
            made[name] = Logged(schema, None, log)
    return State(**made), logs
