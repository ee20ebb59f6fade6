"""``python -m tests.mutants [--historical] [--sample N]``: put every mutant in, print who noticed.

All of them take hours: verdicts are kept in ``verdicts.json`` and hold while nothing changes that they depend on.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import random
import sys
from multiprocessing import get_context

import attrs
from rich.console import Console
from rich.table import Table

from tests.mutants.equivalence import OTHER_STATE
from tests.mutants.historical import HISTORICAL, OPEN
from tests.mutants.kill import BROKEN, EQUIVALENT, PROOF, SURVIVED, TEST, Verdict, kill
from tests.mutants.mutation import Mutant
from tests.mutants.record import Record
from tests.mutants.survivors import EXPLAINED
from tests.mutants.systematic import CHOICE, of_module
from tests.mutants.tables import TABLES

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SKIP = tuple(f"spec.{noun}.{stem}" for noun in ("memory", "grant") for stem in ("invariants", "table_invariants"))
"""What is claimed, not what happens."""

MOST_DIE = 0.95
"""Of the systematic mutants that change a state so many die by proof, and so many of all are noticed at all."""


def modules() -> list[str]:
    """The modules whose every guard, update and bound is mutated."""
    found = []
    for noun in ("memory", "grant"):
        for path in sorted((ROOT / "spec" / noun).glob("*.py")):
            name = f"spec.{noun}.{path.stem}"
            if path.stem not in ("__init__", "hypercall") and name not in SKIP:
                found.append(name)
    return found


def choose(arguments: argparse.Namespace) -> list[Mutant]:
    """The mutants asked for."""
    if arguments.historical:
        return list(HISTORICAL)
    if arguments.tables:
        return list(TABLES)
    # what cannot be noticed need not be looked at again
    systematic = [each for module in modules() for each in of_module(module)]
    systematic = [each for each in systematic if each.id not in EXPLAINED or arguments.only]
    if arguments.only:
        systematic = [each for each in systematic if arguments.only in each.id]
    tables = list(TABLES)
    if arguments.sample:
        chance = random.Random(arguments.seed)
        systematic = chance.sample(systematic, min(arguments.sample, len(systematic)))
        tables = chance.sample(tables, min(arguments.sample // 4, len(tables)))
    return [*([] if arguments.only else [*HISTORICAL, *tables]), *systematic]


def main() -> int:
    """Run, print, write ``build/mutants.json``."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--historical", action="store_true", help="only the flaws of Xen's past")
    parser.add_argument("--tables", action="store_true", help="only wrong ways to change stage-2 tables")
    parser.add_argument("--sample", type=int, default=0, help="so many systematic mutants, chosen by --seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="mutants whose id contains this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants looked at side by side")
    parser.add_argument("--afresh", action="store_true", help="take no verdict from the record")
    parser.add_argument("--record", action="store_true", help="keep the verdicts in the record")
    parser.add_argument("--out", default="build/mutants.json", help="where the table goes")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    mutants = choose(arguments)
    out = Console(highlight=False, width=150)
    place = pathlib.Path(arguments.out)
    place.parent.mkdir(exist_ok=True)
    record = Record()
    verdicts = [] if arguments.afresh else [verdict for each in mutants if (verdict := record.get(each)) is not None]
    known = {each.id for each in verdicts}
    left = {each.id: each for each in mutants if each.id not in known}
    out.print(f"{len(mutants)} mutants, {len(known)} verdicts from the record")
    # not ProcessPoolExecutor: in Python 3.11 it may wait for ever once its processes have done max_tasks_per_child
    pool = get_context("spawn").Pool(arguments.jobs, maxtasksperchild=50)
    try:
        for verdict in pool.imap_unordered(kill, left.values()):
            verdicts.append(verdict)
            ended = verdict.property or verdict.changes
            line = f"{verdict.killed_by:10} {verdict.seconds:6.1f} s  {verdict.id:44}"
            out.print(f"{line} {verdict.words[:60]:60} {ended}")
            place.write_text(json.dumps([attrs.asdict(v) for v in verdicts], indent=1) + "\n")
            if arguments.record:
                record.add([(left[verdict.id], verdict)])
    except KeyboardInterrupt:
        out.print(f"stopped: {len(verdicts)} of {len(mutants)} mutants were looked at")
    finally:
        pool.terminate()
    return report(verdicts, out)


def report(verdicts: list[Verdict], out: Console) -> int:
    """The table, and whether everything that must die died."""
    shown = Table(title="mutants")
    for column in ("kind", "all", "proof", "replayed", "test", "broken", "equivalent", "survived"):
        shown.add_column(column)
    past, known = {m.id for m in HISTORICAL}, {m.id for m in TABLES}
    historical = [v for v in verdicts if v.id in past]
    tables = [v for v in verdicts if v.id in known]
    choices = [v for v in verdicts if v.source == CHOICE]
    systematic = [v for v in verdicts if v.id not in past | known and v.source != CHOICE]
    kinds = {"historical": historical, "tables": tables, "systematic": systematic, "rules of choices": choices}
    for kind, these in kinds.items():
        numbers = [sum(v.killed_by == k for v in these) for k in (TEST, BROKEN, EQUIVALENT)]
        proved = [v for v in these if v.killed_by == PROOF]
        shown.add_row(kind, str(len(these)), str(len(proved)), str(sum(v.replayed for v in proved)),
                      *map(str, numbers), str(sum(v.killed_by == SURVIVED for v in these)))
    out.print(shown)
    died = sum(v.killed_by == PROOF for v in systematic)
    acting = [v for v in systematic if v.killed_by in (TEST, SURVIVED) and v.changes == OTHER_STATE]
    rest = [v for v in systematic if v.killed_by in (TEST, SURVIVED) and v.changes != OTHER_STATE]
    noticed = sum(v.killed_by == TEST for v in rest)
    whole = died + len(acting)
    out.print(f"systematic mutants that change a state: {whole}, died by proof {died}"
              f" ({100 * died / max(whole, 1):.1f} %), by test alone {sum(v.killed_by == TEST for v in acting)}")
    out.print(f"systematic mutants that change only what is answered or refused, or matter only after a deviation:"
              f" {len(rest)}, died by test {noticed}")
    for flaw in OPEN:
        out.print(f"open: {flaw.id} {flaw.missing}")
    for each in alive(verdicts):
        out.print(f"survived: {each.id} {each.words} ({each.where}) changes: {each.changes}")
    for each in [v for v in acting if v.killed_by == TEST]:
        out.print(f"by test alone: {each.id} {each.words} ({each.where})")
    for each in [v for v in historical if v.killed_by != PROOF or not v.replayed]:
        out.print(f"not by a replayed proof: {each.id} {each.words} ({each.where})")
    enough = died >= MOST_DIE * whole and len(alive(systematic)) <= (1 - MOST_DIE) * len(systematic)
    return 0 if enough and all(v.killed_by == PROOF and v.replayed for v in historical) and not alive(tables) else 1


def alive(verdicts: list[Verdict]) -> list[Verdict]:
    """Those that nobody noticed, although they could be."""
    return [v for v in verdicts if v.killed_by == SURVIVED and v.id not in EXPLAINED]


if __name__ == "__main__":
    sys.exit(main())
