"""``bulkhead prove``: run the matrix, show it, write ``build/proofs.json``."""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import sys
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Any

import attrs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bulkhead import __version__
from bulkhead.problems import BAD_INPUT, FAILS, HOLDS, BadInputError
from bulkhead.story import Story, tell
from proofs.booting import BOOT, Booting, booted
from proofs.engine.obligations import COROLLARIES, FAILED, FRAME, PROVED, TRIVIAL, UNKNOWN, UNREACHABLE, TransitionProof
from proofs.engine.scope import broken
from proofs.engine.solvers import SOLVERS
from proofs.matrix import JobResult, Options, counts, prove, remember, summary
from proofs.theories import all_properties, all_transitions, theory, theory_of
from spec.language import DEVIATIONS

CACHE = pathlib.Path(".bulkhead") / "proofs"
BUILD = pathlib.Path("build")


@attrs.frozen
class Request:
    """What the user asked for."""

    transitions: tuple[str, ...] = ()
    property: str = ""
    explain: str = ""
    as_json: bool = False
    solver: str = "z3"
    seeds: int = 1
    audit: bool = False
    fresh: bool = False
    jobs: int = 0
    learn: bool = False


def _names(request: Request) -> list[str]:
    known = all_transitions()
    for each in request.transitions:
        if each not in known and each not in (BOOT, COROLLARIES):
            raise BadInputError(f"no transition is called {each}")
    return list(request.transitions or [BOOT, COROLLARIES, *known])


def _executor(jobs: int) -> Executor:
    return ProcessPoolExecutor(max_workers=jobs or os.cpu_count() or 1)


def run(request: Request, executor: Executor | None = None) -> int:
    """Prove what was asked, print it, and say by the exit code whether it holds."""
    if request.solver not in SOLVERS:
        raise BadInputError(f"no solver is called {request.solver}; there are {', '.join(SOLVERS)}")
    out = Console(stderr=request.as_json, highlight=False)
    started = time.perf_counter()
    results: list[JobResult] = []
    interrupted = False
    own = executor is None
    pool = executor or _executor(request.jobs)
    options = Options(solver=request.solver, seeds=request.seeds, audit=request.audit, learn=request.learn)
    try:
        results = _one_run(request, options, pool, out)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        if own:
            pool.shutdown(wait=not interrupted, cancel_futures=True)
    if interrupted:
        out.print("interrupted: what was proved is kept in .bulkhead and is not proved again")
        return FAILS
    return _report(request, options, results, out, time.perf_counter() - started)


def _one_run(request: Request, options: Options, pool: Executor, out: Console) -> list[JobResult]:
    names = _names(request)
    cache = None if request.fresh else str(CACHE)
    found: list[JobResult] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as progress:
        task = progress.add_task("proving", total=len(names))
        for result in prove(names, options, pool, cache):
            found.append(result)
            progress.advance(task)
            bad = [line for line in result.lines if line.verdict in (FAILED, UNKNOWN)]
            for line in bad:
                progress.console.print(f"  {line.verdict:8} {line.id} (answer {line.code})")
    return found


def _report(request: Request, options: Options, results: list[JobResult], out: Console, seconds: float) -> int:
    document = summary(results, options, __version__)
    if request.learn:
        remember(results)
    document["properties"] = _property_table(results)
    BUILD.mkdir(exist_ok=True)
    if not request.transitions:
        (BUILD / "proofs.json").write_text(json.dumps(document, indent=1) + "\n")
    lines = [line for each in results for line in each.lines]
    total = counts(lines)
    solved = [line for line in lines if line.verdict in (PROVED, FAILED, UNKNOWN)]
    failed = [line for line in lines if line.verdict in (FAILED, UNKNOWN)]
    if request.as_json:
        sys.stdout.write(json.dumps(document) + "\n")
    paths = sum(each.explored for each in results)
    out.print(f"Bulkhead {__version__}: Xen 4.17 on Arm, any number of domains, frames and grants")
    out.print(f"  {len(results)} transitions, {paths} paths, {len(all_properties())} properties")
    out.print(f"  obligations: {total[PROVED]} proved, {total[FRAME]} untouched, {total[TRIVIAL]} trivial, "
              f"{total[FAILED]} failed, {total[UNKNOWN]} unknown")
    if solved:
        times = sorted(line.seconds for line in solved)
        out.print(f"  each: median {statistics.median(times) * 1000:.0f} ms, slowest {times[-1]:.2f} s; "
                  f"all: {seconds:.1f} s{' (from cache)' if results and all(r.cached for r in results) else ''}")
    if request.seeds > 1 and not failed:
        out.print(f"  {request.seeds} seeds: every question was answered the same way")
    known = sorted(DEVIATIONS, key=lambda each: int(each.rpartition("-")[2]))
    out.print("  holds except where Xen itself deviates (docs/deviations.rst):")
    out.print(f"    {', '.join(known)}", soft_wrap=True)
    if failed:
        out.print(f"[bold]NOT PROVED[/]: {len(failed)} obligations; "
                  "`bulkhead prove --explain ID` tells the story of one")
        return FAILS
    out.print("[bold]PROVED[/]: every property holds after every step")
    return HOLDS


def _property_table(results: list[JobResult]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, int]] = {}
    for result in results:
        for line in result.lines:
            found.setdefault(line.property, {}).setdefault(line.verdict, 0)
            found[line.property][line.verdict] += 1
    known = all_properties()
    return [{"id": each, "verdicts": found.get(each, {}), "fulfils": list(known[each].fulfils),
             "except_for": list(known[each].except_for)} for each in sorted(known)]


def explain(identifier: str) -> Story | None:
    """The story of one obligation ``transition/path/PROPERTY``; None if it is proved."""
    parts = identifier.split("/")
    if parts[0] == BOOT:
        return _explain_boot(identifier, parts)
    chosen = theory(theory_of(parts[0]))
    if len(parts) != 3 or parts[0] not in chosen.transitions:
        raise BadInputError(f"{identifier} is not an obligation: expected transition/path/PROPERTY")
    impossible = parts[2].startswith(UNREACHABLE)
    if parts[2] not in chosen.properties and parts[2] != "NO-OVERFLOW" and not impossible:
        raise BadInputError(f"no property is called {parts[2]}")
    proof = TransitionProof(chosen, chosen.transitions[parts[0]], only=lambda each: each == parts[2])
    lines = list(proof.run())
    if identifier not in [line.id for line in lines]:
        raise BadInputError(f"{parts[0]} has no changed path {parts[1]}")
    for line, problem in proof.problems:
        if line.id == identifier:
            return tell(chosen, line, problem)
    for line in lines:
        if impossible and line.id == identifier and line.verdict != PROVED:
            answer = parts[2].removeprefix(UNREACHABLE)
            text = f"{parts[0]} declares that it never answers {answer}, but nothing known contradicts path {parts[1]}"
            return Story(line, None, f"{text}; `bulkhead prove --reach {parts[0]}` looks for a trace", "")
    return None


def _explain_boot(identifier: str, parts: list[str]) -> Story | None:
    """A boot state is one concrete machine: the story is which row of it breaks the property."""
    known = {each.name: each for each in booted()}
    if len(parts) != 3 or parts[1] not in known:
        raise BadInputError(f"{identifier} is not an obligation: the boot states are {', '.join(known)}")
    for line in Booting(only=lambda name: name == parts[1]).run():
        if line.id != identifier:
            continue
        if line.verdict == PROVED:
            return None
        chosen = known[parts[1]]
        where = [str(key) for each, key in broken(theory(chosen.theory), chosen.make()) if each == parts[2]]
        rows = f", of {', '.join(where[:5])}" if where else ""
        return Story(line, None, f"{parts[2]} does not hold when {parts[1]} has booted{rows}", "")
    raise BadInputError(f"no property of a boot state is called {parts[2]}")


__all__ = ["BAD_INPUT", "Request", "explain", "run"]
