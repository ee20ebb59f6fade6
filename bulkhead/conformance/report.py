"""What a campaign on real Xen leaves: ``build/conformance.json``, vectors of what differs, the table of the manual."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from bulkhead import __version__, trace
from bulkhead.conformance.campaign import Failure, Progress
from bulkhead.conformance.guests import LEFT_OUT
from bulkhead.conformance.machines import configuration, twin_configuration
from bulkhead.conformance.reasons import NOT_TESTED, reason
from bulkhead.fuzz.coverage import Answer, kinds, transitions
from bulkhead.fuzz.report import BUILD, unreached
from bulkhead.fuzz.vectors import name_of, seen_in_trace, shared_fields, stimulus_in_trace
from bulkhead.terminal import write_json
from impl.xen.kinds import KINDS


def reached(progress: Progress) -> list[dict[str, Any]]:
    """A row for each answer of a step that real Xen gave, with the kinds of machine."""
    answers = progress.coverage.answers
    return [{"transition": name, "kind": kind, "code": code, "times": answers[name, kind, code],
             "machines": [machine for machine, known in sorted(progress.answers_by_kind.items())
                          if (name, kind, code) in known]}
            for name, kind, code in sorted(answers)]


def document(progress: Progress, failures: Iterable[Failure], paths: dict[int, str] | None = None) -> dict[str, Any]:
    """The results as JSON has them. paths: file of each failure by its place in the list."""
    answers = progress.coverage.answers
    left = unreached(answers, reason)
    running = progress.seconds_xen + progress.seconds_spec
    mixed = running - progress.seconds_alone
    hours = progress.seconds / 3600
    return {
        "version": __version__,
        "seed": progress.seed,
        "complete": progress.complete,
        "seconds": round(progress.seconds, 1),
        "seconds_booting": round(progress.seconds_boot, 1),
        "seconds_xen": round(progress.seconds_xen, 1),
        "seconds_specification": round(progress.seconds_spec, 1),
        "stimuli": progress.stimuli,
        "stimuli_a_second": round(progress.stimuli / progress.seconds) if progress.seconds else 0,
        "stimuli_a_second_running": round(progress.stimuli / running) if running else 0,
        "stimuli_a_second_alone": round(progress.alone / progress.seconds_alone) if progress.seconds_alone else 0,
        "stimuli_a_second_mixed": round((progress.stimuli - progress.alone) / mixed) if mixed > 0 else 0,
        "stimuli_by_machine": dict(sorted(progress.by_kind.items())),
        "batches": progress.batches,
        "rows_compared": progress.rows,
        "pages_compared": progress.pages,
        "boots": progress.boots,
        "boots_an_hour": round(progress.boots / hours, 1) if hours else 0,
        "sessions_ended_early": dict(sorted(progress.ended.items())),
        "stuck": progress.stuck,
        "preempted": progress.preempted,
        "left_out": {name: {"times": times, "why": LEFT_OUT[name]}
                     for name, times in progress.left_out.most_common()},
        "not_tested": list(NOT_TESTED),
        "transitions": transitions(answers),
        "outcomes": kinds(answers),
        "answers": reached(progress),
        "unreached": None if left is None else [attrs.asdict(row) for row in sorted(left, key=attrs.astuple)],
        "failures": [
            {"signature": failure.finding.signature, "text": failure.finding.text, "machine": failure.place.name,
             "stimuli": len(failure.history), "shrunk": failure.shrunk,
             "seen": progress.seen[failure.finding.signature], "vector": (paths or {}).get(number, "")}
            for number, failure in enumerate(failures)],
        "failures_seen": dict(progress.seen.most_common()),
        "machines": progress.provenance,
    }


def to_trace(failure: Failure, name: str = "") -> trace.Trace:
    """A failure as a trace that stands for itself, with what Xen showed."""
    config, kind = configuration(failure.place), KINDS[failure.place.kind]
    twin = twin_configuration(config, kind, None)
    seen = [seen_in_trace(one) for one in failure.seen]
    return trace.Trace(
        board=trace.Board(ram=(trace.Bank(kind.ram_base, kind.ram_size),)),
        config=trace.Configuration(**{**shared_fields(twin, trace.Configuration), "vpmu": False}),
        domains=tuple(trace.Domain(**{**shared_fields(domain, trace.Domain), "iomem": ()}) for domain in twin.domains),
        stimuli=tuple(stimulus_in_trace(stimulus) for stimulus in failure.history), seen=tuple(seen), name=name,
        about=f"{failure.place.name}: {failure.finding.text}")


def keep(failure: Failure, directory: Path = BUILD) -> Path:
    """Write a failure as a vector, named after its signature; its file."""
    stem = f"xen-{name_of(failure.finding.signature)}"
    path = directory / "vectors" / f"{stem}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    trace.write(to_trace(failure, stem), path)
    return path


def save(progress: Progress, failures: list[Failure], directory: Path = BUILD) -> dict[str, Any]:
    """Write the results, and each failure as a vector beside them; what was written."""
    paths = {number: str(keep(failure, directory)) for number, failure in enumerate(failures)}
    made = document(progress, failures, paths)
    write_json(directory / "conformance.json", made)
    return made


def merged(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What several campaigns saw together, as far as `table` tells it; documents: one or more, see ``document``."""
    answers: dict[Answer, dict[str, Any]] = {}
    stimuli: Counter[str] = Counter()
    for made in documents:
        stimuli.update(made["stimuli_by_machine"])
        for row in made["answers"]:
            key = row["transition"], row["kind"], row["code"]
            known = answers.get(key, {**row, "times": 0, "machines": []})
            machines = sorted({*known["machines"], *row["machines"]})
            answers[key] = {**row, "times": known["times"] + row["times"], "machines": machines}
    # a campaign without results of proofs beside it does not know what can be reached
    known_left = [made["unreached"] for made in documents if made["unreached"] is not None]
    left = None if not known_left else [
        row for row in known_left[0] if (row["transition"], row["kind"], row["code"]) not in answers]
    return {
        "seed": ", ".join(dict.fromkeys(str(made["seed"]) for made in documents)), "stimuli": sum(stimuli.values()),
        "stimuli_by_machine": dict(sorted(stimuli.items())), "transitions": len({name for name, _, _ in answers}),
        "answers": [answers[key] for key in sorted(answers)], "unreached": left,
    }


def table(made: dict[str, Any]) -> str:
    """The codes that real Xen gave, and those that it did not, as the page of the manual includes them.

    made: a document, see ``document`` and ``merged``.
    """
    machines = ", ".join(f"{name} ({number:,})" for name, number in sorted(made["stimuli_by_machine"].items()))
    lines = [".. Generated by python -m bulkhead.conformance --figures from the results of campaigns; do not edit.", "",
             (f"{made['stimuli']:,} stimuli compared on {machines}; seed {made['seed']}: {made['transitions']} steps, "
              f"{len(made['answers'])} answers."), "",
             ".. list-table::", "   :header-rows: 1", "   :widths: 30 46 24", "",
             "   * - Step", "     - Answers given by real Xen (kind and code)", "     - Machines"]
    steps: dict[str, list[dict[str, Any]]] = {}
    for row in made["answers"]:
        steps.setdefault(row["transition"], []).append(row)
    for name, rows in steps.items():
        seen = sorted({machine for row in rows for machine in row["machines"]})
        shown = "all" if len(seen) == len(KINDS) else ", ".join(seen)
        lines += [f"   * - ``{name}``", f"     - {', '.join(_answer(row) for row in rows)}", f"     - {shown}"]
    left = made["unreached"]
    if left:
        lines += ["", "Reachable by the specification, and not given by real Xen:", "", ".. list-table::",
                  "   :header-rows: 1", "   :widths: 30 24 46", "", "   * - Step", "     - Answer", "     - Why"]
        for row in left:
            lines += [f"   * - ``{row['transition']}``", f"     - {_answer(row)}",
                      f"     - {row['reason'] or 'not met yet'}"]
    return "\n".join(lines) + "\n"


def _answer(row: dict[str, Any]) -> str:
    return f"{row['kind']} {row['code']}" if row["code"] else str(row["kind"])


FIGURES: Final = Path("docs/conformance.inc")

__all__ = ["FIGURES", "document", "keep", "merged", "reached", "save", "table", "to_trace"]
