"""``python -m bulkhead.mmu --addresses 10000000 --seed 1``: compare walks with the MMU of QEMU's processors.

The first difference that nothing explains is made small and printed; the results are kept in ``build/mmu.json``.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from bulkhead.mmu.campaign import Campaign, document, line, run
from bulkhead.mmu.difference import story
from bulkhead.mmu.explained import EXPLAINED
from bulkhead.problems import FAILS, HOLDS, BadInputError
from bulkhead.terminal import counted, single, write_json
from impl.xen.errors import XenError
from impl.xen.mmu.machine import PROCESSORS

BUILD: Final = Path("build")
VECTORS: Final = Path("tests/vectors")


def main(
    addresses: Annotated[int, typer.Option("--addresses", min=1, help="at least so many")] = 1_000_000,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="the same seed makes the same tables")] = None,
    processor: Annotated[list[str] | None, typer.Option("--processor", help="QEMU's name; may be repeated")] = None,
    vectors: Annotated[Path, typer.Option("--vectors", help="directory of tables of real machines")] = VECTORS,
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> int:
    """Walk stage-2 tables with the specification, with impl.fast and with QEMU's own MMU, and compare every walk."""
    chosen = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    processors = [each for each in PROCESSORS if not processor or each.name in processor]
    unknown = set(processor or ()) - {each.name for each in PROCESSORS}
    if unknown:
        raise BadInputError(f"no processor is named {min(unknown)}: there are "
                            f"{', '.join(sorted({each.name for each in PROCESSORS}))}")
    if not vectors.is_dir():
        raise BadInputError(f"{vectors} is no directory of tables")
    out = Console(stderr=as_json, highlight=False, markup=False, soft_wrap=True)
    out.print(f"seed {chosen}, {len(processors)} processors")
    try:
        with counted(out, addresses, "addresses", lambda state: (state.addresses, state.newest), line) as show:
            state = run(chosen, addresses, processors=processors, vectors=vectors, show=show)
    except XenError as problem:
        raise BadInputError(str(problem)) from None
    made = document(state)
    write_json(BUILD / "mmu.json", made)
    if as_json:
        sys.stdout.write(json.dumps(made) + "\n")
    else:
        _tell(state, made, out)
    if state.problem:
        raise BadInputError(state.problem)
    return HOLDS if state.complete else FAILS


def _tell(state: Campaign, made: dict[str, Any], out: Console) -> None:
    """The result in words."""
    out.print(line(state))
    if state.difference is not None:
        out.print(story(state.difference))
        return
    out.print(f"QEMU {state.qemu}: {made['translations']:,} translations agree on address, fault, level and attributes "
              f"or differ as explained; {len(made['processors'])} processors, {len(made['geometries'])} shapes, "
              f"{made['both_stages']:,} addresses through both stages, {made['fetches']:,} fetches, "
              f"{made['real']:,} addresses of tables that Xen wrote")
    for each in EXPLAINED:
        out.print(f"  {state.tally.explained[each.name]:>11,}  {each.name}: {each.right} right")
    out.print(f"  {made['several_explanations']:>11,}  several of these together")
    out.print(f"  {made['unknown']:>11,}  not compared: through memory of the payload")
    if not state.complete:
        out.print("interrupted: these are the results so far")


def command(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 no difference, 1 a difference or interrupted, 2 bad input or set-up (with one line)."""
    return single(main, "python -m bulkhead.mmu", arguments)


if __name__ == "__main__":
    sys.exit(command())
