"""``bulkhead replay``: a trace, step by step, in Xen's terms; the first difference is pointed at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bulkhead.problems import FAILS, HOLDS, BadInputError

if TYPE_CHECKING:
    from bulkhead.oracle.run import Step
    from bulkhead.trace import Trace


def replay(
    trace: Annotated[Path, typer.Argument(help="a trace (JSON; see docs/traces.rst)")],
    on: Annotated[str, typer.Option("--on", help="spec, fast, xen (the real one), or both spec and fast, compared"
                                    )] = "both",
    as_json: Annotated[bool, typer.Option("--json", help="for machines: one object a stimulus")] = False,
) -> None:
    """Run a trace on the specification, on the optimised implementation, on both, or on real Xen under QEMU.

    Exit code: 0 without a difference, 1 with one, 2 for a trace that cannot be run.
    """
    from bulkhead.oracle.run import SIDES, steps
    from bulkhead.trace import read

    if on not in SIDES:
        raise BadInputError(f"--on {on}: it is one of {', '.join(SIDES)}")
    found = read(trace)
    if not as_json and (found.name or found.about):
        typer.echo(": ".join(text for text in (found.name, found.about) if text))
    widths = _widths(found)
    number = 0
    for step in steps(found, on):  # type: ignore[arg-type]
        number += 1
        typer.echo(json.dumps(_as_json(step)) if as_json else _line(step, widths))
        if step.differences:
            if not as_json:
                for difference in step.differences:
                    typer.echo(f"      ^ {difference.text}")
                typer.echo(f"first difference at stimulus {step.number}")
            raise typer.Exit(FAILS)
    if not as_json:
        word = "stimulus" if number == 1 else "stimuli"
        typer.echo(f"{number} {word}, no difference" if on == "both" else f"{number} {word}")
    raise typer.Exit(HOLDS)


def _widths(trace: Trace) -> dict[int, int]:
    """Bits of the registers of each domain."""
    own = 64 if trace.config.arch == "arm64" else 32
    return {domain.domid: domain.width or own for domain in trace.domains}


def _line(step: Step, widths: dict[int, int]) -> str:
    from bulkhead.oracle.words import observation_text, stimulus_text

    bits = widths.get(getattr(step.stimulus, "domain", -1), 64)
    seen = observation_text(step.observation, bits)
    return f"{step.number:5} {stimulus_text(step.stimulus)}" + (f" -> {seen}" if seen else "")


def _as_json(step: Step) -> dict[str, Any]:
    from bulkhead import trace as traces
    from bulkhead.oracle.run import as_seen

    made = {"number": step.number, **traces.stimulus_as_json(step.stimulus)}
    for name, observation in (("spec", step.spec), ("fast", step.fast)):
        if observation is not None:
            made[name] = traces.as_json(as_seen(observation))
    if step.differences:
        made["differences"] = [{"what": each.what, "text": each.text} for each in step.differences]
    return made
