"""Verdicts that are kept from run to run: all systematic mutants together take hours.

A verdict holds while nothing changes that it depends on: the mutant itself, and every function, record and constant
that the steps can use which call the mutated function.  One that a new property could better (a mutant that changes
the state and that no proof noticed) holds only for the properties that there were.
"""

from __future__ import annotations

import functools
import hashlib
import json
import pathlib
from collections.abc import Iterable

import attrs

from proofs.fingerprint import dependencies, fingerprint
from proofs.theories import MACHINE, TABLES, all_properties, theory
from tests.mutants.equivalence import OTHER_STATE
from tests.mutants.kill import PROOF, SURVIVED, Verdict, affected
from tests.mutants.mutation import Mutant

PLACE = pathlib.Path(__file__).with_name("verdicts.json")


@functools.cache
def _step(chosen: str, name: str) -> str:
    known = dependencies(theory(chosen).transitions[name].function)
    return "\n".join(f"{place}={known[place]}" for place in sorted(known))


@functools.cache
def _properties() -> str:
    return fingerprint([each.function for each in all_properties().values()])


def _mark(mutant: Mutant, verdict: Verdict) -> str:
    """What a verdict depends on, as one number."""
    parts = [mutant.body, mutant.old, mutant.new, mutant.words]
    for chosen in (MACHINE, TABLES):
        parts += [_step(chosen, name) for name in affected(theory(chosen), mutant)]
    if verdict.killed_by == SURVIVED or (verdict.changes == OTHER_STATE and verdict.killed_by != PROOF):
        parts.append(_properties())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


class Record:
    """The verdicts of earlier runs. place: a file of JSON, which need not exist."""

    def __init__(self, place: pathlib.Path = PLACE) -> None:
        self._place = place
        self._rows: dict[str, dict[str, str | float]] = json.loads(place.read_text()) if place.exists() else {}

    def get(self, mutant: Mutant) -> Verdict | None:
        """What is known of a mutant, if that still holds."""
        row = dict(self._rows.get(mutant.id, {}))
        if not row:
            return None
        mark = row.pop("mark")
        verdict = Verdict(mutant.id, mutant.source, mutant.where, mutant.words, **row)
        gone = verdict.property and verdict.killed_by == PROOF and verdict.property not in all_properties() \
            and verdict.property.startswith(("INV-", "TWO-"))
        return None if gone or mark != _mark(mutant, verdict) else verdict

    def add(self, known: Iterable[tuple[Mutant, Verdict]]) -> None:
        """Keep verdicts, one line each."""
        told = ("killed_by", "property", "transition", "seconds", "replayed", "changes")
        for mutant, verdict in known:
            row = {name: value for name, value in attrs.asdict(verdict).items() if name in told}
            self._rows[mutant.id] = {"mark": _mark(mutant, verdict), **row, "seconds": round(verdict.seconds, 1)}
        lines = [f"{json.dumps(name)}: {json.dumps(self._rows[name])}" for name in sorted(self._rows)]
        temporary = self._place.with_suffix(".new")
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        temporary.replace(self._place)
