"""``python -m bulkhead.fuzz.walks --addresses 10000000 --seed 1``: compare walks, show how far it is, tell the result.

The first difference is shrunk to as few entries, addresses and bits as show it, and printed; the results are kept in
``build/walks.json``.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from typer.exceptions import TyperException

from bulkhead.fuzz.executors import executor
from bulkhead.fuzz.walks import tables as generator
from bulkhead.fuzz.walks.campaign import AHEAD, Comparison, Show, run
from bulkhead.fuzz.walks.report import document, line, story
from bulkhead.problems import BAD_INPUT, FAILS, HOLDS, BadInputError

BUILD: Final = Path("build")
VECTORS: Final = Path("tests/vectors")
LINES_APART: Final = 10.0
"""Seconds between two lines of a log."""


@contextlib.contextmanager
def display(console: Console, addresses: int) -> Iterator[Show]:
    """What shows how far a run is: a bar on a terminal, plain lines in a log."""
    if console.is_terminal:
        with Progress(TextColumn("{task.completed:,.0f} addresses"), BarColumn(), TextColumn("{task.percentage:.0f} %"),
                      TimeElapsedColumn(), TextColumn("{task.description}"), console=console) as bar:
            task = bar.add_task("", total=addresses)
            yield lambda state: bar.update(task, completed=min(state.total.addresses, addresses),
                                           description=state.newest[:60])
        return
    last = time.monotonic()

    def show(state: Comparison) -> None:
        nonlocal last
        if time.monotonic() - last >= LINES_APART:
            last = time.monotonic()
            console.print(line(state))

    yield show


def main(
    addresses: Annotated[int, typer.Option("--addresses", min=1, help="at least so many")] = 1_000_000,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="the same seed makes the same tables")] = None,
    vectors: Annotated[Path, typer.Option("--vectors", help="directory of tables of real machines")] = VECTORS,
    processes: Annotated[int, typer.Option("--processes", min=0, help="on this machine; 0 is one a core")] = 0,
    cluster: Annotated[str, typer.Option("--cluster", help="address of a Dask scheduler, tcp://host:port")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> int:
    """Walk random and real stage-2 tables with the specification and with impl.fast, and compare every walk."""
    chosen = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    if not vectors.is_dir():
        raise BadInputError(f"{vectors} is no directory of tables")
    out = Console(stderr=as_json, highlight=False, markup=False, soft_wrap=True)
    out.print(f"seed {chosen}, {len(generator.shapes())} shapes, {len(generator.STYLES)} styles")
    # one process does each job at once; a cluster has room for more
    ahead = 8 * AHEAD if cluster else 1 if processes == 1 else AHEAD * (processes or os.cpu_count() or 1)
    with executor(processes, cluster) as pool, display(out, addresses) as show:
        state = run(chosen, addresses, pool, vectors=vectors, show=show, ahead=ahead)
    made = document(state)
    BUILD.mkdir(exist_ok=True)
    (BUILD / "walks.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    if as_json:
        sys.stdout.write(json.dumps(made) + "\n")
    else:
        _tell(state, made, out)
    return HOLDS if state.complete else FAILS


def _tell(state: Comparison, made: dict[str, Any], out: Console) -> None:
    """The result in words."""
    out.print(line(state))
    if state.difference is not None:
        out.print(story(state.difference))
        return
    out.print(f"{made['walks']:,} walks and {made['lookups']:,} lookups as Xen does them; {made['geometries']} "
              f"geometries in {made['shapes']} shapes, {made['styles']} styles, {made['pairs']} pairs of these; "
              f"{made['real']['addresses']:,} addresses of {made['real']['tables']} real VMs")
    if not state.complete:
        out.print("interrupted: these are the results so far")


def command(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 no difference, 1 a difference or interrupted, 2 bad input (with one line)."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    try:
        code: int = app(arguments, standalone_mode=False, prog_name="python -m bulkhead.fuzz.walks") or HOLDS
    except BadInputError as problem:
        sys.stderr.write(f"bulkhead: {problem}\n")
        return BAD_INPUT
    except TyperException as problem:
        sys.stderr.write(f"bulkhead: {problem.format_message()}\n")
        return BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("bulkhead: interrupted\n")
        return FAILS
    return code


if __name__ == "__main__":
    sys.exit(command())
