"""A campaign as it goes: a table that is drawn again on a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from bulkhead.fuzz.campaign import Progress
from bulkhead.fuzz.coverage import kinds, transitions
from bulkhead.terminal import Throttled

DRAWN_APART = 0.25


@contextlib.contextmanager
def display(console: Console, seconds: float) -> Iterator[Callable[[Progress], None]]:
    """What shows a campaign's progress. seconds: that it will take."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=False) as live:
            yield Throttled(lambda progress: live.update(table(progress, seconds), refresh=True), DRAWN_APART)
        return
    yield Throttled(lambda progress: console.print(line(progress), markup=False))


def line(progress: Progress) -> str:
    """One line of a log."""
    answers = progress.coverage.answers
    return (f"{progress.seconds:6.0f} s  {progress.stimuli:>10,} stimuli ({progress.rate:,.0f}/min)  "
            f"{transitions(answers)} transitions, {kinds(answers)} outcomes, {len(answers)} codes, "
            f"{len(progress.coverage.pairs)} pairs  {sum(progress.seen.values())} failures"
            + (f"  {progress.newest}" if progress.newest else ""))


def table(progress: Progress, seconds: float) -> Table:
    """The table on a terminal."""
    answers = progress.coverage.answers
    drawn = Table(box=None, pad_edge=False, show_header=False)
    drawn.add_column(justify="right", style="bold")
    drawn.add_column()
    rows = [
        ("seed", f"{progress.seed} on {', '.join(progress.boards)}"),
        ("time", f"{progress.seconds:.0f} of {seconds:.0f} s"),
        ("stimuli", f"{progress.stimuli:,} in {progress.jobs} jobs, {progress.rate:,.0f} a minute"),
        ("reached", (f"{transitions(answers)} transitions × {kinds(answers)} outcomes × {len(answers)} codes, "
                     f"{len(progress.coverage.pairs)} pairs")),
        ("failures", f"{sum(progress.seen.values())} of {len(progress.seen)} kinds"),
        ("newest", escape(progress.newest) or "–"),
    ]
    for row in rows:
        drawn.add_row(*row)
    return drawn


__all__ = ["display", "line", "table"]
