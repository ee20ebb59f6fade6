"""What a campaign leaves: ``build/fuzz.json``, and the same in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

import attrs

from bulkhead import __version__
from bulkhead.fuzz import vectors
from bulkhead.fuzz.campaign import Progress
from bulkhead.fuzz.coverage import Answer, kinds, transitions
from bulkhead.fuzz.reasons import reason
from bulkhead.terminal import write_json

BUILD: Final = Path("build")


@attrs.frozen
class Left:
    """An answer that the proofs found reachable and no history gave; reason: why guests cannot, if that is known."""

    transition: str
    kind: str
    code: int
    reason: str


def wanted(path: Path = BUILD / "reachability.json") -> list[tuple[Answer, bool]] | None:
    """Every answer of every step, with whether the proofs found it reachable; None if that was never asked.

    Source of the file: ``bulkhead prove --reach``.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["answers"]
        return [((str(row["transition"]), str(row["kind"]), int(row["code"])),
                 bool(row["reached"]) or row["satisfiable"] in {"trace", "small scope"}) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def unreached(answers: Collection[Answer], why: Callable[[Answer, dict[str, Any]], str] = reason) -> list[Left] | None:
    """What is not among the answers; None if it is not known what there is.

    why: no history gives an answer, empty if nothing is known; of the answer and all transitions.
    """
    rows = wanted()
    if rows is None:
        return None
    from proofs.theories import all_transitions
    known = all_transitions()
    return [Left(*answer, why(answer, known)) for answer, reachable in rows if reachable and answer not in answers]


def document(progress: Progress, paths: dict[int, str] | None = None) -> dict[str, Any]:
    """The results as JSON has them. paths: file of each failure by its place in the list."""
    answers = progress.coverage.answers
    left = unreached(answers)
    rows = wanted()
    return {
        "version": __version__,
        "seed": progress.seed,
        "boards": list(progress.boards),
        "complete": progress.complete,
        "seconds": round(progress.seconds, 3),
        "jobs": progress.jobs,
        "jobs_lost": progress.lost,
        "stimuli": progress.stimuli,
        "stimuli_a_minute": round(progress.rate),
        "stimuli_by_board": dict(sorted(progress.by_board.items())),
        "transitions": transitions(answers),
        "outcomes": kinds(answers),
        "answers": [{"transition": name, "kind": kind, "code": code, "times": answers[name, kind, code]}
                    for name, kind, code in sorted(answers)],
        "pairs": len(progress.coverage.pairs),
        "reachable": None if rows is None else sum(reachable for _, reachable in rows),
        "unreached": None if left is None else [attrs.asdict(row) for row in left],
        "failures": [
            {"signature": failure.finding.signature, "text": failure.finding.text, "machine": failure.scenario.name,
             "stimuli": len(failure.history), "shrunk": failure.shrunk,
             "seen": progress.seen[failure.finding.signature], "vector": (paths or {}).get(number, "")}
            for number, failure in enumerate(progress.failures)],
        "failures_seen": dict(progress.seen.most_common()),
    }


def save(progress: Progress, directory: Path = BUILD) -> dict[str, Any]:
    """Write the results, and each failure as a vector beside them; what was written."""
    taken: set[str] = set()
    paths = {number: str(vectors.save(failure, directory / "vectors", taken))
             for number, failure in enumerate(progress.failures)}
    made = document(progress, paths)
    write_json(directory / "fuzz.json", made)
    return made


__all__ = ["BUILD", "Left", "document", "save", "unreached", "wanted"]
