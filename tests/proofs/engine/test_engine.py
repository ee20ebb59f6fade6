"""The engine proves what is true, refutes what is false, and its own mutants are noticed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from proofs.engine import counting, hypotheses, obligations, symbols
from proofs.engine.obligations import FAILED, FRAME, PROVED, TRIVIAL, TransitionProof
from proofs.engine.scope import Scope
from proofs.engine.solvers import SOLVERS, Answer, Growing
from proofs.engine.symbolic_tables import symbolic_state
from spec.language import SpecificationError, both, evolve, neg
from spec.language.tables import schemas
from tests.proofs.engine import toy

GOOD = {PROVED, FRAME, TRIVIAL}


def changed(name: str, old: str, new: str) -> Callable[..., Any]:
    """A transition of the toy with one text replaced."""
    source = inspect.getsource(getattr(toy, name))
    assert old in source
    scope: dict[str, Any] = dict(toy.__dict__)
    exec(compile("from __future__ import annotations\n" + source.replace(old, new), "mutant", "exec"), scope)
    made: Callable[..., Any] = scope[name]
    return made


def verdicts(theory: obligations.Theory, name: str) -> dict[str, str]:
    """How each property of a transition ended (the worst of its paths)."""
    found: dict[str, str] = {}
    for line in TransitionProof(theory, theory.transitions[name]).run():
        if found.get(line.property) not in (FAILED, "unknown"):
            found[line.property] = line.verdict
    return found


@pytest.mark.parametrize("name", ["populate", "map_page", "clear_range", "drop", "release"])
def test_toy__is_proved_for_any_number_of_everything(name: str) -> None:
    theory = toy.theory()
    assert set(verdicts(theory, name).values()) <= GOOD


MUTANTS = [
    ("drop", "s.frame[p.mfn].references - 1", "s.frame[p.mfn].references", "references"),
    ("map_page", "f.owner != caller or ", "", "mapped_is_owned"),
    ("map_page", "references=f.references + 1", "references=f.references", "references"),
    ("map_page", "s.p2m[caller, gfn].valid", "False", "references"),
    ("populate", "> d.limit", "> d.limit + 1", "within_limit"),
    ("populate", '{"owner": caller}', '{"owner": caller, "references": 1}', "references"),
    ("populate", "pages=d.pages + pages", "pages=d.pages + 1", "pages"),
    ("clear_range", '"held": old.p2m[d, g].valid', '"held": False', "references"),
    ("clear_range", "neg(row.held)", "True", "references"),
    ("release", "f.references != 0", "f.references > 1", "mapped_is_owned"),
]


@pytest.mark.parametrize(("name", "old", "new", "property_"), MUTANTS)
def test_mutant__dies_with_a_counterexample_that_the_plain_toy_confirms(
    name: str, old: str, new: str, property_: str
) -> None:
    theory = toy.theory(changed(name, old, new))
    proof = TransitionProof(theory, theory.transitions[name])
    list(proof.run())
    failed = {line.property: problem for line, problem in proof.problems}
    assert property_ in failed
    found = Scope(theory).solve(failed[property_], failed[property_].logs)
    assert found is not None
    assert len([row for t in theory.schemas for row in getattr(found.state, t).items()]) <= 3


EVERYTHING = ["references", "pages", "mapped_is_owned", "within_limit", "only_own", "count", "every"]


@pytest.mark.parametrize(("name", "old", "new", "property_"), MUTANTS)
def test_hints__lead_no_mutant_to_a_proof(name: str, old: str, new: str, property_: str) -> None:
    """Whatever was enough before, and at each depth at which it is tried."""
    theory = toy.theory(changed(name, old, new))
    for known in ([], ["references"], EVERYTHING):
        lines = TransitionProof(theory, theory.transitions[name], hints=dict.fromkeys(EVERYTHING, known)).run()
        assert FAILED in {line.verdict for line in lines if line.property == property_}


@pytest.mark.parametrize("name", ["populate", "map_page", "clear_range", "drop", "release"])
def test_hints__that_are_wrong_cost_no_proof(name: str) -> None:
    """What does not follow from the invariants noted is proved from all of them."""
    theory = toy.theory()
    for known in ([], ["within_limit"], EVERYTHING):
        lines = TransitionProof(theory, theory.transitions[name], hints=dict.fromkeys(EVERYTHING, known)).run()
        assert {line.verdict for line in lines} <= GOOD


# ---- the engine's own mutants: each removes one thing that makes it sound or complete


def _without_witness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting.RangeNumber, "facts", lambda self, known: iter(()))


def test_engine_mutant__without_range_witnesses_a_true_property_is_not_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    _without_witness(monkeypatch)
    assert verdicts(toy.theory(), "populate")["pages"] == FAILED


def test_engine_mutant__a_frame_rule_that_skips_a_write_lets_a_mutant_live(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = toy.theory(changed("map_page", "references=f.references + 1", "references=f.references"))
    assert verdicts(broken, "map_page")["references"] == FAILED
    original = counting.total
    monkeypatch.setattr(
        counting, "total", lambda table, predicate, arguments: original(table.base(), predicate, arguments)
    )
    assert verdicts(broken, "map_page")["references"] != FAILED


def test_engine_mutant__ignoring_unknown_would_call_it_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    theory = toy.theory()
    monkeypatch.setitem(SOLVERS, "z3", lambda text, **_: Answer("unknown", 0.0, "z3"))
    monkeypatch.setattr(Growing, "check", lambda _self, _lines: "unknown")
    assert "unknown" in verdicts(theory, "drop").values()
    hinted = TransitionProof(theory, theory.transitions["drop"], hints=dict.fromkeys(EVERYTHING, EVERYTHING)).run()
    assert "unknown" in {line.verdict for line in hinted}


def test_engine_mutant__a_missed_path_lets_a_mutant_live(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = toy.theory(changed("release", "f.references != 0", "f.references > 1"))
    assert FAILED in verdicts(broken, "release").values()

    def only_the_true_branch(self: symbols.Explorer, term: Any) -> bool:
        self.conditions.append(term)
        return True

    monkeypatch.setattr(symbols.Explorer, "branch", only_the_true_branch)
    assert FAILED not in verdicts(broken, "release").values()


def test_engine_mutant__without_hypotheses_nothing_deep_is_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hypotheses.Instances, "at", lambda self, table, key: [])
    assert FAILED in verdicts(toy.theory(), "drop").values()


# ---- what Python does differently on the two readings is an error


def test_symbols__refuse_what_differs_between_the_readings() -> None:
    s = symbolic_state(toy.Toy, schemas(toy.Toy))
    row = s.frame[0]
    with pytest.raises(SpecificationError):
        hash(row.owner)
    with pytest.raises(SpecificationError):
        int(row.owner)
    with pytest.raises(SpecificationError):
        range(row.references)
    with pytest.raises(SpecificationError):
        bool(row.owner)
    with pytest.raises(symbols.NoBranching):
        symbols.unbranched(lambda: bool(row.owner == 3))
    with pytest.raises(SpecificationError):
        both(row.owner, neg(row.owner == 2))
    with pytest.raises(SpecificationError):
        evolve(row, colour=3)
    with pytest.raises(SpecificationError):
        row.owner * row.references
