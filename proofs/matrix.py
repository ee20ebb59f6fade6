"""The matrix: every transition against every property, through an executor, with a cache.

A job is one transition, or a piece of one that takes long.  Its lines are the same whatever order or process it runs
in.
"""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, as_completed
from typing import Any, Final

import attrs

from proofs.booting import BOOT, DEPENDS_ON, Booting
from proofs.engine.obligations import (
    COROLLARIES,
    DEAD,
    FAILED,
    FRAME,
    PROVED,
    TRIVIAL,
    UNKNOWN,
    CorollaryProof,
    Obligation,
    TransitionProof,
)
from proofs.fingerprint import fingerprint
from proofs.theories import all_properties, theory, theory_of

HINTS = pathlib.Path(__file__).parent / "hints.json"
"""Which invariants were enough for each property: tried first, and no verdict depends on it."""

GOOD = (PROVED, FRAME, TRIVIAL, DEAD)

PIECES: Final = dict.fromkeys((
    "insert_leaf", "populate_extent", "resolve_fault", "invalidate_word", "map_grant_ref", "remove_word",
    "memory_mapping", "iomem_permission", "clear_root_word"), 2)
"""The steps that take longest, in so many pieces each: when one of them has changed, more than one core proves it.

Not taken from the number of cores: a piece's terms are numbered in the order in which they are met, so that other
pieces would be other questions, with other hashes.
"""


@attrs.frozen
class Options:
    """How to prove.

    seeds: each question is asked with so many seeds, and must be answered the same way every time.
    limit: seconds a question may take before it counts as unknown.
    """

    solver: str = "z3"
    seeds: int = 1
    limit: float = 10.0
    audit: bool = False
    learn: bool = False


@attrs.frozen
class JobResult:
    """All lines of one transition, and whether they came from the cache."""

    transition: str
    fingerprint: str
    explored: int
    refusals: dict[str, int]
    lines: list[Obligation]
    seconds: float
    cached: bool = False
    learnt: dict[str, list[str]] = attrs.field(factory=dict)

    @property
    def holds(self) -> bool:
        """Nothing failed and nothing is unknown."""
        return all(line.verdict in GOOD for line in self.lines)


def job_fingerprint(name: str, options: Options) -> str:
    """What the lines of a transition depend on."""
    if name == BOOT:
        functions = [*DEPENDS_ON, theory().untouched, *[each.function for each in all_properties().values()]]
        return fingerprint(functions, repr((options.solver, options.seeds)))
    chosen = theory(theory_of(name))
    own = [] if name == COROLLARIES else [chosen.transitions[name].function]
    functions = [*own, chosen.untouched, *[each.function for each in chosen.properties.values()]]
    shape = json.dumps([[t, list(s.key), s.row.__qualname__] for t, s in chosen.schemas.items()])
    kinds = json.dumps([[p.id, p.table, p.two_state, p.of_repaired] for p in chosen.properties.values()])
    actor = ""
    if name != COROLLARIES:
        step = chosen.transitions[name]
        actor = f"{step.actor} {step.parameters} {sorted(map(str, step.unreachable))} {step.repairs} {step.keeps}"
    return fingerprint(functions, shape, kinds, actor, repr((options.solver, options.seeds, options.audit)))


def hints() -> dict[str, list[str]]:
    """What was learnt: property -> invariants that it needed, for whichever step."""
    if not HINTS.exists():
        return {}
    found: dict[str, list[str]] = json.loads(HINTS.read_text())
    return found


def remember(results: list[JobResult]) -> None:
    """Add what was learnt to the file, one line a property."""
    known = {name: set(used) for name, used in hints().items()}
    for each in results:
        for name, used in each.learnt.items():
            known.setdefault(name, set()).update(used)
    lines = [f"{json.dumps(name)}: {json.dumps(sorted(known[name]))}" for name in sorted(known)]
    temporary = HINTS.with_suffix(".new")
    temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    temporary.replace(HINTS)


def prove_transition(name: str, options: Options, cache_directory: str | None, piece: int = 0) -> JobResult:
    """One job: of a transition in pieces, the paths of one of them (every second one, say).

    What was proved before and has not changed is taken from the cache.
    """
    started = time.perf_counter()
    chosen = theory(theory_of(name))
    mark = job_fingerprint(name, options)
    pieces = PIECES.get(name, 1)
    stem = name if pieces == 1 else f"{name}.{piece + 1}of{pieces}"
    place = pathlib.Path(cache_directory) / f"{stem}.{options.solver}.{options.seeds}.json" if cache_directory else None
    verdicts: dict[str, str] = {}
    if place is not None and place.exists():
        try:
            stored = json.loads(place.read_text())
            verdicts = stored["verdicts"]
            if stored["fingerprint"] == mark and stored["holds"]:
                lines = [Obligation(**line) for line in stored["lines"]]
                return JobResult(name, mark, stored["explored"], stored["refusals"], lines,
                                 time.perf_counter() - started, cached=True)
        except (ValueError, KeyError, TypeError):
            verdicts = {}
    settings: dict[str, Any] = {"solver": options.solver, "seeds": options.seeds, "limit": options.limit,
                                "audit": options.audit, "cache": verdicts, "learn": options.learn,
                                "hints": hints()}
    proof = (Booting(solver=options.solver, seeds=options.seeds, limit=2 * options.limit) if name == BOOT
             else CorollaryProof(chosen, **settings) if name == COROLLARIES
             else TransitionProof(chosen, chosen.transitions[name], **settings,
                                  mine=lambda number: number % pieces == piece))
    lines = list(proof.run())
    learnt = {each: sorted(used) for each, used in sorted(proof.learnt.items())}
    result = JobResult(name, mark, proof.explored, proof.refusals, lines, time.perf_counter() - started, learnt=learnt)
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        kept = {k: v for k, v in verdicts.items() if v == "unsat"}
        used = {f"{options.solver}:{line.hash}" for line in lines}
        record = {"fingerprint": mark, "holds": result.holds, "explored": result.explored, "refusals": result.refusals,
                  "lines": [attrs.asdict(line) for line in lines],
                  "verdicts": {k: v for k, v in kept.items() if k in used}}
        temporary = place.with_suffix(".new")
        temporary.write_text(json.dumps(record))
        temporary.replace(place)
    return result


def _whole(parts: list[JobResult]) -> JobResult:
    """A transition from its pieces, each of which has explored all paths and proved its own."""
    learnt: dict[str, list[str]] = {}
    for part in parts:
        for name, used in part.learnt.items():
            learnt[name] = sorted({*learnt.get(name, []), *used})
    lines = sorted((line for part in parts for line in part.lines), key=lambda line: int(line.path))
    return attrs.evolve(parts[0], lines=lines, seconds=sum(part.seconds for part in parts),
                        cached=all(part.cached for part in parts), learnt=learnt)


def prove(names: list[str], options: Options, executor: Executor, cache_directory: str | None) -> Iterator[JobResult]:
    """All transitions, each as its last piece ends; those that take longest are begun first."""
    futures: dict[Future[JobResult], str] = {}
    waiting: dict[str, list[Future[JobResult]]] = {}
    for name in sorted(names, key=lambda each: each not in PIECES):
        waiting[name] = [executor.submit(prove_transition, name, options, cache_directory, piece)
                         for piece in range(PIECES.get(name, 1))]
        futures.update(dict.fromkeys(waiting[name], name))
    try:
        for future in as_completed(futures):
            name = futures[future]
            if name in waiting and all(each.done() for each in waiting[name]):
                done = [each.result() for each in waiting.pop(name)]
                yield done[0] if len(done) == 1 else _whole(done)
    finally:
        for future in futures:
            future.cancel()


def counts(lines: list[Obligation]) -> dict[str, int]:
    """How many lines ended how."""
    found = dict.fromkeys((PROVED, FRAME, TRIVIAL, DEAD, FAILED, UNKNOWN), 0)
    for line in lines:
        found[line.verdict] += 1
    return found


def summary(results: list[JobResult], options: Options, version: str) -> dict[str, Any]:
    """``build/proofs.json``: the same between runs but for the seconds."""
    ordered = sorted(results, key=lambda each: each.transition)
    return {
        "version": version,
        "source_hash": fingerprint([], *[each.fingerprint for each in ordered]),
        "options": attrs.asdict(options),
        "transitions": [
            {"name": each.transition, "theory": theory_of(each.transition), "paths": each.explored,
             "refusals": dict(sorted(each.refusals.items())), "hash": each.fingerprint}
            for each in ordered
        ],
        "obligations": [
            {"id": line.id, "transition": line.transition, "property": line.property, "path": line.path,
             "code": line.code, "verdict": line.verdict, "seconds": round(line.seconds, 4), "solver": line.solver,
             "assumptions": list(line.assumptions), "level": line.level, "hash": line.hash}
            for each in ordered
            for line in each.lines
        ],
    }
