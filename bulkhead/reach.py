"""``bulkhead prove --reach``: which answers each step can give, as a table and in ``build/reachability.json``."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import attrs
from rich.console import Console
from rich.table import Table

from bulkhead import __version__
from bulkhead.problems import FAILS, HOLDS, BadInputError
from proofs.reachability import Row, reach
from proofs.theories import all_transitions

BUILD = pathlib.Path("build")


def show(transitions: tuple[str, ...] = (), *, as_json: bool = False, seconds: float = 60.0) -> int:
    """Search, print what was found, and say by the exit code whether every answer is accounted for."""
    known = all_transitions()
    for each in transitions:
        if each not in known:
            raise BadInputError(f"no transition is called {each}")
    out = Console(stderr=as_json, highlight=False)
    rows = reach(seconds=seconds, names=transitions, say=lambda line: out.print(f"  {line}"))
    document = {"version": __version__, "answers": [attrs.asdict(row) | {"holds": row.holds} for row in rows]}
    if not transitions:
        BUILD.mkdir(exist_ok=True)
        (BUILD / "reachability.json").write_text(json.dumps(document, indent=1) + "\n")
    if as_json:
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        out.print(_table(rows))
    return _verdict(rows, out)


def _table(rows: list[Row]) -> Table:
    table = Table("step", "answer", "satisfiable", "reached", "reason", box=None, pad_edge=False)
    for row in rows:
        reached = f"in {row.steps} steps" if row.reached else "no"
        table.add_row(row.transition, f"{row.kind} {row.code}", row.satisfiable, reached, row.reason)
    return table


def _verdict(rows: list[Row], out: Any) -> int:
    reached = sum(row.reached for row in rows)
    witnessed = sum(row.satisfiable in {"trace", "small scope"} for row in rows)
    refuted = sum(row.satisfiable == "no" for row in rows)
    out.print(f"{len(rows)} answers: {reached} reached from boot, {witnessed} satisfiable, "
              f"{refuted} proved unreachable")
    left = [row for row in rows if not row.holds]
    for row in left:
        why = "is declared unreachable, and that is not proved" if row.reason else "was not found"
        out.print(f"  {row.transition}: {row.kind} {row.code} {why}")
    return FAILS if left else HOLDS


__all__ = ["show"]
