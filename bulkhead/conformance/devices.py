"""dom0's devices in the specification's tables: hundreds of thousands of frames, mapped at boot, kept as ranges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import attrs
import immutables

from bulkhead.oracle.tables import _ANY, Log, Logged, TouchedError
from spec.language.records import of_fields
from spec.language.tables import Schema
from spec.state import P2mEntry, Permission, State

MOST: Final = 1 << 18
"""Frames of a span that are looked at one by one."""


@attrs.frozen
class Window:
    """Frames of a device, mapped one to one in dom0 since boot.

    type: of the mapping, 0 if there is none; permitted: dom0 may map them.
    """

    frames: range
    type: int
    permitted: bool = True


class Ranged(Logged):
    """A table with rows of domain 0 that are made when they are asked for, until one is written.

    windows: where they are; make: the row of a frame in one, or None.
    """

    __slots__ = ("make", "windows")

    def __init__(self, schema: Schema, rows: immutables.Map[Any, Any], log: Log, windows: tuple[Window, ...],
                 make: Callable[[Window, int], Any]) -> None:
        super().__init__(schema, rows, log)
        self.windows, self.make = windows, make

    def _with(self, rows: immutables.Map[Any, Any]) -> Ranged:
        made = super()._with(rows)
        assert isinstance(made, Ranged)
        made.windows, made.make = self.windows, self.make
        return made

    def _made(self, key: Any) -> Any:
        if key[0] == 0:
            for window in self.windows:
                if key[1] in window.frames:
                    return self.make(window, key[1])
        return None

    def __getitem__(self, key: Any) -> Any:
        row = self._rows.get(key)
        if row is None:
            row = self._made(key)
        return self._default if row is None else row

    def _absent_is_default(self, key: Any) -> bool:
        return self._made(key) is None

    def _every_of_few(self, parts: tuple[Any, ...], predicate: Callable[..., Any]) -> bool:
        domain, span = parts
        if domain == 0:
            if span.pages <= MOST and any(span.first in window.frames for window in self.windows):
                # perhaps every key has a row
                raise TouchedError
            made = (self.make(window, window.frames.start) for window in self.windows
                    if window.frames.start < span.first + span.pages and span.first < window.frames.stop)
            # of a window's rows the first stands for all
            if not all(predicate(row, 0, _ANY) for row in made if row is not None):
                return False
        return super()._every_of_few(parts, predicate)

    def last_before(self, first: int, second: int, predicate: Callable[[Any], bool]) -> int | None:
        """As `Logged.last_before`; rows that windows make are looked at from the last one down."""
        found = [super().last_before(first, second, predicate)]
        for window in self.windows if first == 0 else ():
            among = range(window.frames.start, min(window.frames.stop, second))
            found.append(next((key for key in reversed(among) if predicate(self[first, key])), None))
        return max((key for key in found if key is not None), default=None)

    def count(self, predicate: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
        """The number of rows of which the predicate holds; of a window's rows the first stands for all."""
        found = super().count(predicate, arguments)
        for window in self.windows:
            first = window.frames.start
            row = self.make(window, first)
            if row is not None and predicate(row, 0, first, *arguments):
                found += len(window.frames)
        return found


def _mapped(window: Window, frame: int) -> Any:
    if not window.type:
        return None
    return of_fields(P2mEntry, {**P2mEntry().__dict__, "type": window.type, "mfn": frame, "hardware": True})


def _permission(window: Window, _frame: int) -> Any:
    return of_fields(Permission, {**Permission().__dict__, "allowed": window.permitted, "left": not window.permitted})


def with_windows(s: State, windows: tuple[Window, ...], logs: dict[str, Log]) -> State:
    """The state with dom0's devices."""
    made: Any = dict(s.__dict__)
    for name, make in (("p2m", _mapped), ("iomem", _permission)):
        table = made[name]
        made[name] = Ranged(table.schema, table._rows, logs[name], windows, make)
    return State(**made)


__all__ = ["Window", "with_windows"]
