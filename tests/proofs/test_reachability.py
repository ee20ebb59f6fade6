"""Answers that are declared never to be given are proved so; the others are found."""

from __future__ import annotations

import random

import attrs
import pytest

from proofs.engine.obligations import FAILED, PROVED, UNREACHABLE, Theory, TransitionProof
from proofs.reachability import Row, Walker, dead, in_small_scope, reach
from proofs.theories import MACHINE, TABLES
from spec.language import DomId, Gfn, Kind, Outcome, Transition, accept, crash, put, refuse
from tests.proofs.engine import toy
from tests.proofs.engine.toy import Toy


def drop_checked(s: Toy, caller: DomId, gfn: Gfn) -> Outcome[Toy]:
    """Drop one waiting reference, after checks that cannot fail."""
    p = s.pending[caller, gfn]
    if not p.held:
        return refuse(s, -1)
    f = s.frame[p.mfn]
    # what waits to be dropped is counted
    if f.references == 0:
        return refuse(s, -2)
    if f.references < 0:
        return crash(s, caller)
    s = put(s, "frame", p.mfn, references=f.references - 1)
    return accept(put(s, "pending", (caller, gfn), held=False))


def declared(unreachable: dict[int | Kind, str]) -> Theory:
    """The toy with this step and what it declares."""
    made = toy.theory()
    made.transitions["drop_checked"] = Transition(
        "drop_checked", drop_checked, parameters={"caller": "DomId", "gfn": "Gfn"}, unreachable=unreachable
    )
    return made


def verdicts(unreachable: dict[int | Kind, str]) -> dict[str, set[str]]:
    """How the obligations of what is declared ended."""
    theory, found = declared(unreachable), dict[str, set[str]]()
    for line in TransitionProof(theory, theory.transitions["drop_checked"]).run():
        if line.property.startswith(UNREACHABLE):
            found.setdefault(line.property, set()).add(line.verdict)
    return found


def test_unreachable__is_proved_of_an_answer_that_contradicts_the_invariants() -> None:
    assert {"UNREACHABLE--2": {PROVED}} == verdicts({-2: "what waits to be dropped is counted"})


def test_unreachable__is_refuted_of_an_answer_that_is_given() -> None:
    assert {"UNREACHABLE--1": {FAILED}} == verdicts({-1: "not so"})


def test_unreachable__may_name_a_kind_of_answer() -> None:
    assert {"done": False} == dead(declared({Kind.DONE: "not so"}), "drop_checked")


def test_small_scope__finds_a_state_for_an_answer_that_is_given_and_none_for_another() -> None:
    rows = [Row("drop_checked", "done", 0), Row("drop_checked", "refused", -1), Row("drop_checked", "refused", -2)]
    in_small_scope(declared({}), "drop_checked", rows, 5.0)
    assert ["small scope", "small scope", "unknown"] == [row.satisfiable for row in rows]


@pytest.mark.parametrize("name", ["get_version", "take_vmid"])
def test_reach__accounts_for_every_answer_of_a_simple_step(name: str) -> None:
    rows = reach(seconds=20.0, names=(name,))
    assert [True] * len(rows) == [row.holds for row in rows]
    assert len(rows) > 0


@pytest.mark.parametrize("theory", [MACHINE, TABLES])
def test_walk__starts_from_boot_and_sees_answers(theory: str, rng: random.Random) -> None:
    walker = Walker(theory, rng)
    walker.walk(0.5, {(walker.names[0], "stuck", 0)})
    assert all(seen.steps >= 1 for seen in walker.seen.values())
    assert len(walker.seen) > 10


def test_row__holds_if_it_was_found_or_is_proved_unreachable() -> None:
    row = Row("step", "refused", -1)
    assert [False, True, True, False, True] == [each.holds for each in (
        row, attrs.evolve(row, satisfiable="trace", reached=True), attrs.evolve(row, satisfiable="small scope"),
        attrs.evolve(row, reason="never"), attrs.evolve(row, reason="never", satisfiable="no"),
    )]
