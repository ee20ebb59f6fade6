"""The claim is a page: what holds, why, what it rests on, what would falsify it."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

from rich.console import Console

from bulkhead.problems import FAILS, HOLDS, BadInputError
from proofs.claims import CLAIMS
from proofs.theories import MACHINE, all_properties
from spec.deviations import untouched
from spec.language import DEVIATIONS, Index, put
from spec.language.records import columns
from spec.language.tables import empty
from spec.state import Deviated, State

BAD = ("failed", "unknown")


def _summary(text: str | None) -> str:
    return " ".join((text or "").strip().split("\n\n")[0].split())


def _results() -> dict[str, dict[str, int]]:
    path = pathlib.Path("build/proofs.json")
    if not path.exists():
        return {}
    try:
        return {each["id"]: each["verdicts"] for each in json.loads(path.read_text())["properties"]}
    except (ValueError, KeyError, TypeError) as problem:
        raise BadInputError(f"{path} cannot be read: run `make prove` again") from problem


def _verdict(identifier: str, results: dict[str, dict[str, int]]) -> str:
    verdicts = results.get(identifier)
    if not verdicts:
        return "not run"
    return "NOT PROVED" if any(verdicts.get(each) for each in BAD) else "proved"


def show(*, claim: str = "", identifier: str = "", as_json: bool = False) -> int:
    """Print the page of a claim or of a property; 0 if everything it rests on is proved."""
    page = _claim_page(claim) if claim else _property_page(identifier)
    if as_json:
        sys.stdout.write(json.dumps(page) + "\n")
    else:
        _print(page)
    return HOLDS if page["verdict"] == "holds" else FAILS


def _entry(identifier: str, why: str, results: dict[str, dict[str, int]]) -> dict[str, Any]:
    known = all_properties()
    if identifier not in known:
        raise BadInputError(f"no property is called {identifier}")
    each = known[identifier]
    return {"id": identifier, "words": _summary(each.function.__doc__), "why": why,
            "verdict": _verdict(identifier, results), "except_for": list(each.except_for)}


def _overall(entries: list[dict[str, Any]]) -> str:
    if any(each["verdict"] == "NOT PROVED" for each in entries):
        return "does not hold"
    return "not checked" if any(each["verdict"] == "not run" for each in entries) else "holds"


def _claim_page(name: str) -> dict[str, Any]:
    if name not in CLAIMS:
        raise BadInputError(f"no claim is called {name}; there are {', '.join(sorted(CLAIMS))}")
    claim = CLAIMS[name]
    results = _results()
    entries = [_entry(identifier, why, results) for identifier, why in claim.because]
    named = _excepted([identifier for identifier, _ in claim.because])
    return {"title": claim.title, "statement": claim.statement, "because": entries,
            "assumptions": list(claim.assumptions), "falsified_by": list(claim.falsified_by),
            "deviations": [deviation(each) for each in named], "verdict": _overall(entries)}


def _property_page(identifier: str) -> dict[str, Any]:
    results = _results()
    entry = _entry(identifier, "", results)
    each = all_properties()[identifier]
    verdicts = results.get(identifier, {})
    return {"title": identifier, "statement": entry["words"],
            "because": [{**entry, "why": f"over {each.table}; fulfils {', '.join(each.fulfils) or '-'}; "
                                         + ", ".join(f"{n} {v}" for v, n in sorted(verdicts.items()))}],
            "assumptions": ["A-ATOMIC", "A-FINITE", "A-CHOICE", "A-RANGES", "A-SPEC", "A-SOLVER"],
            "falsified_by": ["a step from a state that satisfies every invariant to one that breaks this"],
            "deviations": [deviation(d) for d in _excepted([identifier])], "verdict": _overall([entry])}


def _excepted(identifiers: list[str]) -> list[str]:
    """The deviations after which a property of these need not hold: those that it names, and those with a flag that
    spoils the state of its theory.
    """
    known = all_properties()
    named = {each for identifier in identifiers for each in known[identifier].except_for}
    if any(known[identifier].theory == MACHINE for identifier in identifiers):
        state = empty(State)
        flags = [n for n in columns(Deviated) if not untouched(put(state, "deviation", Index(0), **{n: True}))]
        named.update(f"DEV-{each.removeprefix('dev')}" for each in flags)
    return sorted(named, key=lambda each: int(each.rpartition("-")[2]))


def deviation(identifier: str) -> dict[str, str]:
    """What may be said of a deviation: all of it, or its title alone while the Xen security team was not told."""
    each = DEVIATIONS[identifier]
    if not each.public:
        return {"id": each.id, "title": each.title, "described_in": f"docs/findings/{each.id}.rst"}
    return {"id": each.id, "title": each.title, "condition": each.condition, "source": each.source,
            "consequence": each.consequence}


def _print(page: dict[str, Any]) -> None:
    out = Console(highlight=False, width=110)
    out.print(f"[bold]{page['title']}[/]\n\n{page['statement']}\n")
    out.print("Why")
    for each in page["because"]:
        out.print(f"  {each['verdict']:10} [bold]{each['id']}[/]: {each['words']}")
        if each["why"]:
            out.print(f"             {each['why']}")
    out.print(f"\nIt rests on {', '.join(page['assumptions'])} (proofs/ASSUMPTIONS.md).\n")
    out.print("What would falsify it")
    for each in page["falsified_by"]:
        out.print(f"  - {each}")
    if page["deviations"]:
        out.print("\nHolds except where Xen itself deviates: until one of these has happened")
        for each in page["deviations"]:
            told = (f"When: {each['condition']}. Then: {each['consequence']}." if "condition" in each
                    else f"Not for publication yet: {each['described_in']}.")
            out.print(f"  {each['id']}: {each['title']}. {told}")
    out.print(f"\nVerdict: [bold]{page['verdict']}[/]")
