"""The command line: ``bulkhead prove``, ``walk``, ``audit``, ``boards``, ``replay`` and ``fuzz``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from bulkhead.cli_audit import audit
from bulkhead.cli_boards import boards
from bulkhead.cli_fuzz import fuzz
from bulkhead.cli_replay import replay
from bulkhead.cli_walk import walk
from bulkhead.problems import FAILS, HOLDS
from bulkhead.terminal import finished

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
                  help="An executable formal specification of Xen on Arm.")


@app.command()
def prove(
    transition: Annotated[list[str] | None, typer.Argument(help="only these transitions")] = None,
    property_: Annotated[str, typer.Option("--property", help="what holds, why, and what would falsify it")] = "",
    claim: Annotated[str, typer.Option("--claim", help="a claim in words, e.g. isolation")] = "",
    explain: Annotated[str, typer.Option("--explain", help="the story of one obligation")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
    solver: Annotated[str, typer.Option("--solver", help="z3 or cvc5")] = "z3",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="ask every question with so many seeds")] = 1,
    audit: Annotated[bool, typer.Option("--audit", help="solve untouched rows too")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="use nothing from the cache")] = False,
    learn: Annotated[
        bool, typer.Option("--learn", help="note which invariants each proof needs, to be quick next time")
    ] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=0, help="processes; 0 is one a core")] = 0,
    reach: Annotated[bool, typer.Option("--reach", help="which answers each step can give")] = False,
) -> None:
    """Prove that every step keeps every property, for any number of domains, frames and grants."""
    from bulkhead import claims
    from bulkhead.prove import Request, run
    from bulkhead.prove import explain as explain_one

    if explain:
        story = explain_one(explain)
        if story is None:
            typer.echo(f"{explain} is proved")
            raise typer.Exit(HOLDS)
        typer.echo(story.text)
        if story.test:
            typer.echo("\nReplay it:\n\n" + story.test)
        raise typer.Exit(FAILS)
    if reach:
        from bulkhead.reach import show

        raise typer.Exit(show(tuple(transition or ()), as_json=as_json))
    if claim or property_:
        raise typer.Exit(claims.show(claim=claim, identifier=property_, as_json=as_json))
    request = Request(tuple(transition or ()), property_, explain, as_json, solver, seeds, audit, fresh, jobs, learn)
    raise typer.Exit(run(request))


app.command()(walk)
app.command()(audit)
app.command()(replay)
app.command()(fuzz)
app.add_typer(boards, name="boards")


def main() -> None:
    """Entry point: bad input is one line and exit code 2."""
    sys.exit(finished(app))


if __name__ == "__main__":
    main()
