"""Joined branches and lazily added facts: right on a toy, and each of their mutants is noticed."""

from __future__ import annotations

import collections
import hashlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from proofs.engine import counting, hypotheses, obligations, solvers, symbols
from proofs.engine import terms as T
from proofs.engine.obligations import FAILED, FRAME, PROVED, TRIVIAL, CorollaryProof, TransitionProof
from proofs.engine.symbolic_tables import SymTable
from spec.language import (
    DomId,
    Gfn,
    Mfn,
    Outcome,
    Property,
    SpecificationError,
    Transition,
    accept,
    both,
    count,
    every,
    fill,
    implies,
    legal,
    merged,
    put,
    refuse,
    span,
)
from tests.proofs.engine import toy
from tests.proofs.engine.toy import NOBODY, Toy, maps

GOOD = {PROVED, FRAME, TRIVIAL}


# ---- steps with joined branches


def give_back(s: Toy, mfn: Mfn) -> Toy:
    """Drop a reference; with the last one the frame goes back, too."""
    f = s.frame[mfn]
    dropped = put(s, "frame", mfn, references=f.references - 1)
    if f.references > 1 or f.owner == NOBODY:
        return dropped
    returned = put(dropped, "frame", mfn, owner=NOBODY)
    return put(returned, "domain", f.owner, pages=s.domain[f.owner].pages - 1)


def drop_last(s: Toy, caller: DomId, gfn: Gfn) -> Outcome[Toy]:
    """Drop one waiting reference, and the frame with the last one."""
    p = s.pending[caller, gfn]
    if not p.held:
        return refuse(s, -1)
    s = give_back(s, p.mfn)
    return accept(put(s, "pending", (caller, gfn), held=False))


def take(s: Toy, caller: DomId, mfn: Mfn, pages: int, whole: bool) -> Toy:
    """A block, or its first frame alone."""
    if whole:
        s = fill(s, "frame", span(mfn, pages), lambda row, m: {"owner": caller})
        return put(s, "domain", caller, pages=s.domain[caller].pages + pages)
    s = fill(s, "frame", span(mfn, 1), lambda row, m: {"owner": caller})
    return put(s, "domain", caller, pages=s.domain[caller].pages + 1)


def populate_some(s: Toy, caller: DomId, mfn: Mfn, pages: int, whole: bool) -> Outcome[Toy]:
    """Take a block of free frames, or its first."""
    d = s.domain[caller]
    if not d.alive or caller == NOBODY:
        return refuse(s, -1)
    if d.pages + pages > d.limit or pages < 1:
        return refuse(s, -2)
    legal(every(s.frame, span(mfn, pages), lambda row, m: both(row.owner == NOBODY, row.references == 0)), "free")
    legal(mfn + pages < 1 << 50, "in range")
    return accept(take(s, caller, mfn, pages, whole))


def drop_either(s: Toy, caller: DomId, gfn: Gfn, other: Gfn, first: bool) -> Outcome[Toy]:
    """Drop one of two waiting references."""
    if not both(s.pending[caller, gfn].held, s.pending[caller, other].held):
        return refuse(s, -1)
    if not first:
        gfn = other
    s = give_back(s, s.pending[caller, gfn].mfn)
    return accept(put(s, "pending", (caller, gfn), held=False))


def take_free(s: Toy, caller: DomId, mfn: Mfn, pages: int) -> Toy:
    """A block of free frames."""
    legal(every(s.frame, span(mfn, pages), lambda row, m: both(row.owner == NOBODY, row.references == 0)), "free")
    s = fill(s, "frame", span(mfn, pages), lambda row, m: {"owner": caller})
    return put(s, "domain", caller, pages=s.domain[caller].pages + pages)


def populate_to_the_limit(s: Toy, caller: DomId, mfn: Mfn, pages: int) -> Outcome[Toy]:
    """Take a block; the answer says whether there may be more."""
    d = s.domain[caller]
    if not d.alive or caller == NOBODY or d.pages + pages > d.limit or pages < 1:
        return refuse(s, -1)
    legal(mfn + pages < 1 << 50, "in range")
    s = take_free(s, caller, mfn, pages)
    if s.domain[caller].pages < d.limit:
        return accept(s, more=True)
    return accept(s, more=False)


STEPS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "drop_last": (give_back, drop_last), "drop_either": (give_back, drop_either),
    "populate_some": (take, populate_some), "populate_to_the_limit": (take_free, populate_to_the_limit),
}
"""Each with the function whose branches are joined."""
PARAMETERS = {
    "drop_either": {"caller": "DomId", "gfn": "Gfn", "other": "Gfn", "first": "bool"},
    "drop_last": {"caller": "DomId", "gfn": "Gfn"},
    "populate_to_the_limit": {"caller": "DomId", "mfn": "Mfn", "pages": "int"},
    "populate_some": {"caller": "DomId", "mfn": "Mfn", "pages": "int", "whole": "bool"},
}


def joined(name: str, old: str = "", new: str = "") -> obligations.Theory:
    """The toy with one of the steps above; a text of it or of its joined function replaced."""
    scope: dict[str, Any] = dict(globals())
    helper, step = STEPS[name]
    for each in (helper, step):
        source = inspect.getsource(each)
        code = compile("from __future__ import annotations\n" + source.replace(old, new), "joined", "exec")
        exec(code, scope)
        if each is helper:
            scope[each.__name__] = merged(scope[each.__name__])
    made = toy.theory()
    made.transitions[name] = Transition(name, scope[name], parameters=PARAMETERS[name])
    return made


def verdicts(theory: obligations.Theory, name: str) -> dict[str, str]:
    """How each property of a step ended (the worst of its paths)."""
    found: dict[str, str] = {}
    for line in TransitionProof(theory, theory.transitions[name]).run():
        if found.get(line.property) not in (FAILED, "unknown"):
            found[line.property] = line.verdict
    return found


def right(name: str) -> bool:
    """The engine says of the right toy that it is right."""
    return set(verdicts(joined(name), name).values()) <= GOOD


WRONG = [
    ("drop_last", "f.references > 1 or", "f.references > 2 or", "mapped_is_owned"),
    ("drop_last", "f.references - 1", "f.references", "references"),
    ("drop_last", "pages=s.domain[f.owner].pages - 1", "pages=s.domain[f.owner].pages", "pages"),
    ("drop_either", '"pending", (caller, gfn)', '"pending", (caller, other)', "references"),
    ("populate_to_the_limit", "both(row.owner == NOBODY, row.references == 0)", "row.references == 0", "pages"),
    ("populate_some", "span(mfn, 1)", "span(mfn, pages)", "pages"),
    ("populate_some", ".pages + pages)", ".pages + 1)", "pages"),
    ("populate_some", ".pages + 1)", ".pages + 2)", "pages"),
]


def noticed() -> bool:
    """The engine says right things of the right toy and of each wrong one."""
    return all(right(name) for name in PARAMETERS) and all(
        verdicts(joined(name, old, new), name)[property_] == FAILED for name, old, new, property_ in WRONG
    )


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_joined_step__is_proved(name: str) -> None:
    assert right(name)


@pytest.mark.parametrize(("name", "old", "new", "property_"), WRONG)
def test_wrong_joined_step__is_refuted(name: str, old: str, new: str, property_: str) -> None:
    assert FAILED == verdicts(joined(name, old, new), name)[property_]


def test_joined_step__goes_on_with_one_path_for_each_answer() -> None:
    theory = joined("drop_last")
    assert [0, -1] == [path.result.code for path, _ in TransitionProof(theory, theory.transitions["drop_last"]).paths()]


# ---- mutants of the engine


def test_engine_mutant__forgetting_the_guard_of_a_joined_write_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = SymTable.joined

    def unguarded(self: SymTable, conditions: list[T.Term], results: list[SymTable]) -> SymTable:
        return original(self, [T.boolean(value=True) for _ in conditions], results)

    monkeypatch.setattr(SymTable, "joined", unguarded)
    assert not noticed()


def test_engine_mutant__losing_a_branch_lets_a_mutant_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbols, "join_all", lambda _conditions, results: results[0])
    assert not noticed()


def test_engine_mutant__sharing_a_fresh_name_between_branches_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def shared(self: symbols.Explorer, stem: str, _of: object = None) -> str:
        self._fresh[stem] = self._fresh.get(stem, 0) + 1
        return f"{stem}!{self._scope}{self._fresh[stem]}"

    monkeypatch.setattr(symbols.Explorer, "fresh_name", shared)
    assert not noticed()


def test_engine_mutant__stopping_early_with_facts_left_does_not_prove(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(T, "evaluate", lambda _ordered, _model: collections.defaultdict(lambda: 1))
    assert not noticed()


def test_engine_mutant__a_frame_rule_that_sees_no_written_table_lets_a_mutant_live(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(obligations, "_written", lambda _state: set())
    assert not noticed()


# ---- a call is explored once


def test_joined_call__is_explored_once_for_all_paths_that_lead_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    theory, explored, original = joined("populate_to_the_limit"), [], symbols.Explorer.explore_all

    def counted(self: symbols.Explorer, function: Callable[[], Any]) -> Iterator[symbols.Path]:
        explored.append(self)
        return original(self, function)

    monkeypatch.setattr(symbols.Explorer, "explore_all", counted)
    proof = TransitionProof(theory, theory.transitions["populate_to_the_limit"])
    assert len([path for path, _ in proof.paths() if path.result.code == 0]) == 2
    assert len(explored) == 2


def _answers(self: symbols.Explorer, place: Any, call: tuple[Any, ...]) -> symbols._Answers:
    inner = self.child()
    if place not in self._answers:
        self._answers[place] = symbols._Answers(inner, *call)
    return self._answers[place]


def test_engine_mutant__a_call_that_is_known_by_its_number_alone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(self: symbols.Explorer, *call: Any) -> symbols._Answers:
        found = _answers(self, self._calls, call)
        symbols.RECORDER[1](found.log)
        return found

    monkeypatch.setattr(symbols.Explorer, "answers", answers)
    assert not right("drop_either")


def test_engine_mutant__a_known_call_that_touches_nothing_again_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the rows that it has read nor its conditions over all rows are known on the second path."""
    monkeypatch.setattr(symbols.Explorer, "answers",
                        lambda self, *call: _answers(self, (tuple(self._taken), self._calls), call))
    assert not right("populate_to_the_limit")


# ---- conditions over all rows


def raise_limit(s: Toy, caller: DomId, whole: bool) -> Outcome[Toy]:
    """Wrong: where somebody owns a far frame, a domain may have less than it has."""
    if whole:
        if not every(s.domain, span(DomId(0), 8), lambda row, d: row.alive):
            return refuse(s, -1)
    elif not every(s.frame, span(Mfn(1 << 20), 8), lambda row, m: row.owner == NOBODY):
        return accept(put(s, "domain", caller, limit=s.domain[caller].pages - 1))
    return accept(put(s, "domain", caller, limit=s.domain[caller].limit + 1))


def raising() -> dict[str, str]:
    """How the properties of this step end."""
    theory = toy.theory()
    theory.transitions["raise_limit"] = Transition(
        "raise_limit", raise_limit, parameters={"caller": "DomId", "whole": "bool"})
    return verdicts(theory, "raise_limit")


def test_conditions_over_rows__of_different_tables_have_witnesses_of_their_own() -> None:
    """One path has a condition over domains where the other has one over frames, of which there are more."""
    assert raising()["within_limit"] == FAILED


def test_engine_mutant__a_condition_over_rows_that_is_named_by_its_place_alone_is_noticed(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proofs.engine.symbolic_tables.fresh",
                        lambda stem, **options: symbols.fresh(stem.partition(".")[0], **options))
    with pytest.raises(SpecificationError, match="has the bounds"):
        raising()


# ---- a second solver


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_second_solver__is_asked_of_what_the_first_one_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cvc5")
    theory, asked, original = joined(name), [], solvers.with_cvc5

    def noted(text: str, **options: Any) -> solvers.Answer:
        asked.append(text)
        return original(text, **options)

    monkeypatch.setitem(solvers.SOLVERS, "cvc5", noted)
    found = list(TransitionProof(theory, theory.transitions[name], solver="cvc5").run())
    assert {line.verdict for line in found} <= GOOD
    proved = {line.hash for line in found if line.verdict == PROVED}
    assert proved
    assert proved <= {hashlib.sha256(text.encode()).hexdigest()[:24] for text in asked}


def test_second_solver__that_does_not_agree_leaves_a_goal_unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(solvers.SOLVERS, "cvc5", lambda _text, **_: solvers.Answer("sat", 0.0, "cvc5"))
    theory = joined("drop_last")
    found = TransitionProof(theory, theory.transitions["drop_last"], solver="cvc5").run()
    assert PROVED not in {line.verdict for line in found}


# ---- the witness of a count


def used_is_owned(s: Toy, m: Mfn) -> bool:
    """A frame that is mapped somewhere has an owner."""
    return implies(count(s.p2m, maps, m) > 0, s.frame[m].owner != NOBODY)


def used_is_owned_twice(s: Toy, m: Mfn) -> bool:
    """Not so: more than one mapping is allowed."""
    return count(s.p2m, maps, m) <= 1


def follows(function: Callable[..., Any]) -> str:
    """Whether a corollary follows from the invariants of the toy."""
    theory = toy.theory()
    theory.properties["corollary"] = Property("corollary", function, "frame", two_state=False, fulfils=(), derived=True)
    return next(CorollaryProof(theory).run()).verdict


def test_count__above_zero_has_a_witness() -> None:
    assert (PROVED, FAILED) == (follows(used_is_owned), follows(used_is_owned_twice))


def test_engine_mutant__without_the_witness_of_a_count_its_consequence_is_not_proved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = counting.decomposition

    def first_fact_only(*arguments: Any) -> Iterator[tuple[T.Term, Any]]:
        yield next(original(*arguments))

    monkeypatch.setattr(hypotheses, "decomposition", first_fact_only)
    assert FAILED == follows(used_is_owned)


