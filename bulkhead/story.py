"""A failure as a story: the smallest state found, the call, what changed, which property broke.

A counterexample is told only after the plain specification has confirmed it.  It comes with a
pytest that replays it.
"""

from __future__ import annotations

import enum
from typing import Any

import attrs

from proofs.engine.obligations import FAILED, Obligation, Problem, Theory
from proofs.engine.scope import Counterexample, Scope
from proofs.table_traces import search
from spec.language.records import columns
from spec.memory.tables import TableState


@attrs.frozen
class Story:
    """What is known about one obligation that was not proved."""

    line: Obligation
    found: Counterexample | None
    text: str
    test: str


def _enumerations() -> dict[tuple[str, str], type[enum.IntEnum]]:
    from spec import state

    return {("Frame", "use"): state.Use, ("Domain", "status"): state.Status, ("P2mEntry", "type"): state.P2mType}


def _shown(row: Any) -> str:
    default = type(row)()
    known = _enumerations()
    parts = []
    for name in columns(type(row)):
        value = getattr(row, name)
        if value == getattr(default, name):
            continue
        kind = known.get((type(row).__name__, name))
        if kind is not None and value in list(kind):
            value = kind(value).name
        elif value == 0x7FFF:
            value = "NOBODY"
        parts.append(name if value is True else f"{name}={value}")
    return ", ".join(parts) or "all fields at their defaults"


def _rows(theory: Theory, state: Any) -> list[tuple[str, Any, Any]]:
    return [(table, key, row) for table in theory.schemas
            for key, row in sorted(getattr(state, table).items(), key=lambda x: str(x[0]))]


def _key(key: Any) -> str:
    return ", ".join(map(str, key)) if isinstance(key, tuple) else str(key)


def _summary(text: str | None) -> str:
    return " ".join((text or "").strip().split("\n\n")[0].split())


def tell(theory: Theory, line: Obligation, problem: Problem, scope: Scope | None = None) -> Story:
    """Look for a counterexample and tell it."""
    title = f"{line.id}: {line.verdict}"
    words = ""
    if line.property in theory.properties:
        words = _summary(theory.properties[line.property].function.__doc__)
    found = None
    if theory.state is TableState:
        found = search(line.transition, line.property)
    elif line.verdict == FAILED:
        found = (scope or Scope(theory)).solve(problem, problem.logs)
    if found is None:
        text = "\n".join([
            f"NOT PROVED  {title}",
            f"  property   {line.property}: {words}",
            f"  step       {line.transition}, path {line.path}, answer {line.code}",
            "  No counterexample was confirmed on the plain specification.  The property may be true and the",
            "  hypotheses too weak, or the counterexample larger than the small scope.  It counts as not proved.",
        ])
        return Story(line, None, text, "")
    return Story(line, found, _told(theory, line, problem, found, words), replay(theory, problem, found))


def _told(theory: Theory, line: Obligation, problem: Problem, found: Counterexample, words: str) -> str:
    lines = [f"BROKEN  {line.property}: {words or 'a field receives more than it can carry'}", ""]
    lines.append("  In this state, which satisfies every invariant (rows not listed are at their defaults):")
    lines += [f"    {table}[{_key(key)}]: {_shown(row)}" for table, key, row in _rows(theory, found.state)]
    call = ", ".join(f"{name}={value}" for name, value in found.arguments.items())
    name = problem.transition.hypercall or problem.transition.name
    lines += ["", f"  the step {name}: {problem.transition.name}({call})"]
    if found.peer:
        peer = ", ".join(map(hex, found.peer))
        lines.append(f"  while another CPU stores, before each read of shared memory: {peer}")
    lines.append(f"  answers {found.outcome.kind.value}, code {found.outcome.code}, and changes")
    before = {(t, k): r for t, k, r in _rows(theory, found.state)}
    after = {(t, k): r for t, k, r in _rows(theory, found.outcome.state)}
    for place in sorted({*before, *after}, key=str):
        if before.get(place) != after.get(place):
            lines.append(f"    {place[0]}[{_key(place[1])}]:")
            lines.append(f"      from {_shown(before[place]) if place in before else 'default'}")
            lines.append(f"      to   {_shown(after[place]) if place in after else 'default'}")
    if found.key:
        table = theory.properties[line.property].table
        lines += ["", f"  so {line.property} does not hold of {table}[{_key(found.key)}]."]
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, enum.IntEnum) else value


def _literal(row: Any) -> str:
    default = type(row)()
    changed = [f"{n}={_plain(getattr(row, n))!r}" for n in columns(type(row)) if getattr(row, n) != getattr(default, n)]
    return f"{type(row).__name__}({', '.join(changed)})"


def replay(theory: Theory, problem: Problem, found: Counterexample) -> str:
    """A pytest that replays a counterexample on the plain specification."""
    function = problem.transition.function
    rows = _rows(theory, found.state)
    names = sorted({type(row).__name__ for _, _, row in rows} | {theory.state.__name__})
    module = theory.state.__module__
    lines = [
        '"""Replay of a counterexample on the plain specification."""', "",
        f"from {module} import {', '.join(names)}",
        f"from {function.__module__} import {function.__name__}",
        "from spec.language import PROPERTIES", "from spec.language.layouts import PEER",
        "from spec.language.tables import empty",
        "from spec.language.records import evolve", "", "",
        f"def test_{function.__name__}__keeps_{problem.property.lower().replace('-', '_')}() -> None:",
        f"    before = empty({theory.state.__name__})",
    ]
    for table, key, row in rows:
        lines.append(f"    before = evolve(before, {table}=before.{table}.set({key!r}, {_literal(row)}))")
    arguments = ", ".join(f"{n}={_plain(v)!r}" for n, v in found.arguments.items())
    if found.peer:
        lines += [f"    stores = iter({found.peer!r})", "    PEER.append(lambda word: next(stores, word))", "    try:",
                  f"        outcome = {function.__name__}(before, {arguments})", "    finally:", "        PEER.pop()"]
    else:
        lines.append(f"    outcome = {function.__name__}(before, {arguments})")
    if problem.property in theory.properties:
        prop = theory.properties[problem.property]
        key = ", ".join(map(repr, found.key))
        if prop.two_state:
            actor = found.arguments.get(problem.transition.actor, theory.nobody)
            lines.append(f"    assert PROPERTIES[{prop.id!r}].function(before, outcome.state, {actor!r}, {key})")
        else:
            lines.append(f"    assert PROPERTIES[{prop.id!r}].function(outcome.state, {key})")
    else:
        lines.append("    assert outcome.state is not before  # a field holds more than its type can carry")
    if theory.state is TableState:
        # the tables of the counterexample have four words
        start = lines.index(f"    before = empty({theory.state.__name__})")
        lines[start:] = ["    with small_tables():", *[f"    {line}" for line in lines[start:]]]
        lines.insert(2, "from proofs.table_traces import small_tables")
    return "\n".join(lines) + "\n"
