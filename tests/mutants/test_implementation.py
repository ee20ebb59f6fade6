"""The mutants of the implementation: each fits the present source, and the fuzzer finds flaws and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from bulkhead.fuzz.boards import Scenario
from tests.mutants import implementation
from tests.mutants.historical import HISTORICAL as OF_SPECIFICATION
from tests.mutants.historical import OPEN
from tests.mutants.implementation import EXPLAINED, flaws, functions, hunt, report, run
from tests.mutants.implementation_historical import HISTORICAL, INVISIBLE, Flaw
from tests.mutants.mutation import source_of

FAST = {
    "XSA-98a": "arguments-in-hostile-places", "XSA-222b": "blocks-are-split-without-a-page-for-it",
}
"""Flaws that one program shows."""
SAME = Flaw("same", "test", "impl.fast.privilege", "priv", "the same in other words",
            "0 if caller.is_privileged else -EPERM", "-EPERM if not caller.is_privileged else 0")


def by_id(identifier: str) -> Flaw:
    """A flaw by its id."""
    return next(each for each in HISTORICAL if each.id == identifier)


@pytest.fixture
def one_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every hunt begins with the one program that shows its flaw; nothing is measured for it."""
    monkeypatch.setattr(implementation, "reach", dict)
    monkeypatch.setattr(implementation, "programs_for", lambda flaw: [
        (Scenario("foundation-v8"), FAST.get(flaw.id, "arguments-in-hostile-places"))])


@pytest.mark.parametrize("flaw", HISTORICAL, ids=lambda each: each.id)
def test_flaw__fits_the_present_source(flaw: Flaw) -> None:
    assert source_of(dict(functions(flaw.module))[flaw.function]) != flaw.text(
        source_of(dict(functions(flaw.module))[flaw.function]))


def test_historical__are_those_of_the_specification_or_say_why_not() -> None:
    known = {each.id for each in HISTORICAL} | INVISIBLE.keys()
    assert {each.id for each in OF_SPECIFICATION} | {each.id for each in OPEN} <= known


def test_flaws__have_different_ids_and_explained_ones_exist() -> None:
    made = list(flaws())
    assert len({each.id for each in made}) == len(made)
    for function, words, _ in EXPLAINED:
        assert any(each.function == function.rpartition(".")[2] or function.endswith(each.function)
                   for each in made if words in each.words), (function, words)


@pytest.mark.usefixtures("one_program")
@pytest.mark.parametrize("identifier", FAST)
def test_hunt__finds_a_historical_flaw(identifier: str) -> None:
    assert hunt(by_id(identifier), 8).found


@pytest.mark.usefixtures("one_program")
def test_hunt__finds_nothing_where_only_words_changed() -> None:
    verdict = hunt(SAME, 1.5)
    assert not verdict.found
    assert verdict.stimuli > 0


@pytest.mark.usefixtures("one_program")
def test_run__writes_a_table_and_a_survivor_fails_it(tmp_path: Path) -> None:
    place = tmp_path / "table.json"
    out = Console(quiet=True)
    verdicts = run([by_id("XSA-98a"), SAME], jobs=1, seconds=1.5, place=place, out=out)
    rows = json.loads(place.read_text())
    assert {row["id"]: bool(row["found"]) for row in rows} == {"XSA-98a": True, "same": False}
    assert set(rows[0]) == {"id", "source", "where", "words", "found", "seconds", "stimuli"}
    assert report([each for each in verdicts if each.found], out) == 0
    assert report(verdicts, out) == 1
