"""``bulkhead fuzz``: random guests on the implementation and the specification, until they differ."""

from __future__ import annotations

import json
import random
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bulkhead.problems import FAILS, HOLDS, BadInputError

LONGEST = 30 * 24 * 3600


def fuzz(
    seconds: Annotated[float, typer.Option("--seconds", help="how long; 0 with --jobs: until they are done")] = 60.0,
    seed: Annotated[int | None, typer.Option("--seed", help="the same seed makes the same guests")] = None,
    board: Annotated[list[str] | None, typer.Option("--board", help="only these boards")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
    cluster: Annotated[str, typer.Option("--cluster", help="address of a Dask scheduler, tcp://host:port")] = "",
    processes: Annotated[int, typer.Option("--processes", min=0, help="on this machine; 0 is one a core")] = 0,
    jobs: Annotated[int, typer.Option("--jobs", min=0, help="so many jobs whatever it takes; 0: by time")] = 0,
) -> None:
    """Let random guests run on the implementation and the specification side by side, and compare after each step."""
    raise typer.Exit(run(seconds=seconds, seed=seed, boards=tuple(board or ()), as_json=as_json, cluster=cluster,
                         processes=processes, jobs=jobs))


def run(*, seconds: float, seed: int | None, boards: tuple[str, ...], as_json: bool, cluster: str, processes: int,
        jobs: int) -> int:
    """The exit code: 0 no difference, 1 differences. Errors: BadInputError."""
    if not (seconds > 0 or jobs) or seconds > LONGEST:
        raise BadInputError(f"--seconds {seconds:g} is not within 0..{LONGEST}")
    # what is heavy is imported once the arguments are known to be good
    from bulkhead.fuzz.boards import board_names, scenarios
    from bulkhead.fuzz.campaign import Campaign
    from bulkhead.fuzz.display import display, line
    from bulkhead.fuzz.executors import executor
    from bulkhead.fuzz.report import save
    from bulkhead.fuzz.seeds import SEEDS
    machines = scenarios(boards or board_names())
    if seed is None:
        seed = random.SystemRandom().randrange(1 << 32)
    out = Console(stderr=as_json, highlight=False)
    out.print(f"seed {seed}, {len(machines)} machines")
    with executor(processes, cluster) as pool:
        campaign = Campaign(seed, machines, pool, programs=tuple(SEEDS))
        with display(out, seconds) as show:
            progress = campaign.run(seconds, jobs=jobs, show=show)
    made = save(progress)
    if as_json:
        sys.stdout.write(json.dumps(made) + "\n")
    else:
        out.print(line(progress), markup=False)
        _tell(made, out)
    return FAILS if progress.seen or progress.lost else HOLDS


def _tell(made: dict[str, object], out: Console) -> None:
    """What was not reached, and what failed."""
    left = made["unreached"]
    if left is None:
        out.print("what can be reached is not known: run bulkhead prove --reach first")
    elif isinstance(left, list):
        explained = [row for row in left if row["reason"]]
        open_ = [row for row in left if not row["reason"]]
        out.print(f"of {made['reachable']} answers that the proofs found reachable, guests cannot give {len(explained)}"
                  f" (build/fuzz.json says why), and {len(open_)} were not met" + (":" if open_ else ""))
        if open_:
            out.print("  " + "; ".join(f"{row['transition']} {row['kind']} {row['code']}" for row in open_))
    failures = made["failures"]
    if isinstance(failures, list) and failures:
        table = Table("failure", "machine", "stimuli", "seen", "vector", box=None, pad_edge=False)
        for row in failures:
            table.add_row(escape(row["text"]), row["machine"], str(row["stimuli"]), str(row["seen"]), row["vector"])
        out.print(table)
    if not made["complete"]:
        out.print("interrupted: these are the results so far")


__all__ = ["fuzz", "run"]
