"""``python -m bulkhead.fuzz.walks --addresses 10000000 --seed 1``: compare walks, show how far it is, tell the result.

The first difference is shrunk to as few entries, addresses and bits as show it, and printed; the results are kept in
``build/walks.json``.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from bulkhead.fuzz.executors import executor
from bulkhead.fuzz.walks import tables as generator
from bulkhead.fuzz.walks.campaign import AHEAD, Comparison, run
from bulkhead.fuzz.walks.report import document, line, story
from bulkhead.problems import FAILS, HOLDS, BadInputError
from bulkhead.terminal import counted, single, write_json

BUILD: Final = Path("build")
VECTORS: Final = Path("tests/vectors")


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
    with executor(processes, cluster) as pool, counted(
            out, addresses, "addresses", lambda state: (state.total.addresses, state.newest), line) as show:
        state = run(chosen, addresses, pool, vectors=vectors, show=show, ahead=ahead)
    made = document(state)
    write_json(BUILD / "walks.json", made)
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
    return single(main, "python -m bulkhead.fuzz.walks", arguments)


if __name__ == "__main__":
    sys.exit(command())
