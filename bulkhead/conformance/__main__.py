"""``python -m bulkhead.conformance``: random guests on real Xen, followed by the specification, until they differ."""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bulkhead.conformance.report import FIGURES, keep, merged, save, table
from bulkhead.fuzz.report import BUILD
from bulkhead.problems import BAD_INPUT, FAILS, HOLDS
from impl.xen.errors import XenError
from impl.xen.kinds import KINDS

LONGEST = 30 * 24 * 3600


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 no difference, 1 differences, 2 with one line for what cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m bulkhead.conformance", description=__doc__)
    parser.add_argument("kind", nargs="*", help=f"of {', '.join(KINDS)}; all if none is given")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long; default: %(default)s")
    parser.add_argument("--sessions", type=int, default=0, help="so many boots, whatever it takes; 0: by time")
    parser.add_argument("--seed", type=int, help="the same seed makes the same guests")
    parser.add_argument("--no-shrink", action="store_true", help="keep what differs as it was found")
    parser.add_argument("--figures", action="store_true",
                        help=f"only write {FIGURES}, from the last results or from the files named instead of kinds")
    given = parser.parse_args(arguments)
    try:
        return figures(given.kind) if given.figures else run(
            tuple(given.kind), given.seconds, given.sessions, given.seed, shrink=not given.no_shrink)
    except (XenError, ValueError, OSError) as problem:
        sys.stderr.write(f"conformance: {str(problem).splitlines()[0]}\n")
        return BAD_INPUT


def run(kinds: tuple[str, ...], seconds: float, sessions: int, seed: int | None, *, shrink: bool) -> int:
    """A campaign. Errors: ValueError, NotSetUp, BootFailed, Refused."""
    if not (0 < seconds <= LONGEST) or sessions < 0:
        raise ValueError(f"--seconds {seconds:g} is not within 0..{LONGEST}, or --sessions {sessions} is negative")
    # what is heavy is imported once the arguments are known to be good
    from bulkhead.conformance.campaign import Campaign
    from bulkhead.conformance.machines import places
    from bulkhead.fuzz.display import display, line
    from impl.xen.install import found
    machines, installation = places(kinds), found()
    if seed is None:
        seed = random.SystemRandom().randrange(1 << 32)
    out = Console(highlight=False)
    out.print(f"seed {seed}, {len(machines)} machines with real Xen")
    campaign = Campaign(seed, machines, installation, keep=keep)
    progress = campaign.progress
    try:
        with display(out, seconds) as show:
            campaign.run(seconds, sessions=sessions, show=show)
    finally:
        # whatever ends it, what is known is kept
        save(progress, campaign.failures)
    out.print(line(progress), markup=False)
    if shrink and campaign.failures:
        out.print("shrinking what differs: each try boots Xen")
        campaign.shrink()
    made = save(progress, campaign.failures)
    out.print(f"{made['stimuli']:,} stimuli compared, {made['stimuli_a_second_running']:,} a second while guests ran; "
              f"{made['rows_compared']:,} mappings and {made['pages_compared']:,} pages read from RAM; "
              f"{made['boots']} boots; {made['stuck']} accesses tried for ever; build/conformance.json")
    for row in made["failures"]:
        out.print(f"differs on {row['machine']}, {row['stimuli']} stimuli, {row['vector']}: {row['text']}",
                  markup=False)
    if not progress.complete:
        out.print("interrupted: these are the results so far")
    return FAILS if progress.seen else HOLDS


def figures(files: Sequence[str]) -> int:
    """Write the manual's table from results of campaigns: files, or the last one's. Errors: OSError, ValueError."""
    places = [Path(each) for each in files] or [BUILD / "conformance.json"]
    try:
        made = table(merged([json.loads(each.read_text("utf-8")) for each in places]))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{', '.join(map(str, places))}: not the results of a campaign") from None
    Path(FIGURES).parent.mkdir(parents=True, exist_ok=True)
    Path(FIGURES).write_text(made, encoding="utf-8")
    return HOLDS


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
