"""The specification's properties, evaluated while a trace runs.

After each stimulus: the invariants of the rows that it touched, and after each step the two-state properties of the
rows that the step changed; a property that counts in a large table is left to ``whole``, which looks at every row.

As in the proofs, nothing is claimed once a deviation has happened that spoils more than one row (``spec.deviations``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from bulkhead.oracle.machine import PAGE, Oracle
from bulkhead.oracle.tables import NO_SECRET, ExpensiveError, Page
from spec.deviations import untouched
from spec.language import PROPERTIES
from spec.language.registry import Property
from spec.state import State

FEW = 64
"""Rows of a table that a property may count after each stimulus."""


@attrs.frozen
class Broken:
    """A property that does not hold. id: of the property; table, key: of which row; during: the step, or empty."""

    id: str
    table: str
    key: tuple[int, ...]
    during: str = ""

    def __str__(self) -> str:
        step = f" after {self.during}" if self.during else ""
        return f"{self.id} does not hold of {self.table}[{', '.join(map(hex, self.key))}]{step}"


def _of_machine(*, two_state: bool) -> dict[str, list[Property]]:
    """The properties of the machine by table; those that are asked of repaired steps alone are not among them."""
    found: dict[str, list[Property]] = {}
    for each in PROPERTIES.values():
        if each.theory == "machine" and each.two_state == two_state and not each.of_repaired:
            found.setdefault(each.table, []).append(each)
    return found


class Properties:
    """What is checked of an oracle from now on. found: what did not hold since it was last asked."""

    def __init__(self, oracle: Oracle, few: int | None = FEW) -> None:
        self.oracle = oracle
        self.few = few
        self.found: list[Broken] = []
        self._invariants = _of_machine(two_state=False)
        self._changes = _of_machine(two_state=True)
        oracle.check = self._step

    def _limited(self, limit: int | None) -> None:
        for log in self.oracle.logs.values():
            log.limit = limit

    def _touched(self, table: str, before: State, after: State) -> Iterator[tuple[int, ...]]:
        """The keys of a table's rows that differ between two states of one stimulus."""
        old, new = getattr(before, table), getattr(after, table)
        if old is new:
            return
        for key in self.oracle.logs[table].keys:
            if table == "word":
                yield from _words(old.page(key), new.page(key), key)
            elif old[key] is not new[key]:
                yield key if isinstance(key, tuple) else (key,)

    def _step(self, _oracle: Oracle, name: str, actor: int, before: State) -> None:
        after = self.oracle.state
        if before is after or not untouched(after):
            return
        self._limited(self.few)
        try:
            for table, properties in self._changes.items():
                for key in list(self._touched(table, before, after)):
                    for each in properties:
                        if not _holds(each, before, after, actor, *key):
                            self.found.append(Broken(each.id, table, key, name))
        finally:
            self._limited(None)

    def after(self) -> list[Broken]:
        """What did not hold during the last stimulus, and what does not hold of the rows that it touched."""
        oracle = self.oracle
        found, self.found = self.found, []
        if oracle.before is oracle.state or not untouched(oracle.state):
            return found
        self._limited(self.few)
        try:
            for table, properties in self._invariants.items():
                found += self._broken(properties, table, self._touched(table, oracle.before, oracle.state))
        finally:
            self._limited(None)
        return found

    def _broken(self, properties: list[Property], table: str, keys: Iterable[tuple[int, ...]]) -> Iterator[Broken]:
        for key in keys:
            for each in properties:
                if not _holds(each, self.oracle.state, *key):
                    yield Broken(each.id, table, key)

    def whole(self) -> list[Broken]:
        """The invariants of every row."""
        if not untouched(self.oracle.state):
            return []
        found: list[Broken] = []
        for table, properties in self._invariants.items():
            written: list[Any] = getattr(self.oracle.state, table).keys()
            found += self._broken(properties, table, (key if isinstance(key, tuple) else (key,) for key in written))
        return found


def _words(old: Page, new: Page, mfn: int) -> Iterator[tuple[int, int]]:
    """Of a page that changed, the first word that did, and the first that is secret."""
    if old is new:
        return
    if old.words != new.words:
        yield mfn, next(i for i in range(0, PAGE, 8) if old.words[i:i + 8] != new.words[i:i + 8]) // 8
    if new.secrets != NO_SECRET:
        yield mfn, new.secrets.find(1)


def _holds(each: Property, *arguments: Any) -> bool:
    try:
        return bool(each.function(*arguments))
    except ExpensiveError:
        return True


def properties(oracle: Oracle) -> list[Broken]:
    """Every invariant of every row of an oracle's state: those that do not hold."""
    return Properties(oracle).whole()
