"""The mutants themselves: each fits the present specification, none is forgotten, and some die here and now."""

from __future__ import annotations

import pytest

from proofs.theories import theory
from tests.mutants.historical import HISTORICAL, OPEN
from tests.mutants.kill import PROOF, affected, by_proof, kill
from tests.mutants.mutation import Mutant, applied, original, source_of
from tests.mutants.survivors import EXPLAINED
from tests.mutants.systematic import of_function
from tests.mutants.tables import TABLES

FLAWS = [
    "XSA-22", "XSA-26a", "XSA-26b", "XSA-31", "XSA-50", "XSA-98a", "XSA-98b", "XSA-100", "XSA-125", "XSA-158",
    "XSA-213", "XSA-222a", "XSA-222b", "XSA-224a", "XSA-224b", "XSA-224c", "XSA-224d", "XSA-226a", "XSA-226b",
    "XSA-235", "XSA-247", "XSA-252", "XSA-255a", "XSA-255b", "XSA-277", "XSA-284", "XSA-301a", "XSA-301b",
    "XSA-327", "XSA-334", "XSA-364", "XSA-383", "XSA-385", "XSA-393", "XSA-437", "XSA-473", "XSA-480", "XSA-500",
    "XSA-506",
]
"""Flaws of memory and grants in Xen's past that a sequence of whole operations shows."""
FEW = 8
"""So many of them may be out of the model's reach."""
FAST = ("XSA-26b", "XSA-98a", "XSA-255a-references")


def by_id(identifier: str) -> Mutant:
    """A flaw by its id."""
    return next(each for each in HISTORICAL if each.id == identifier)


@pytest.mark.parametrize("mutant", [*HISTORICAL, *TABLES], ids=lambda each: each.id)
def test_mutant__fits_the_present_source(mutant: Mutant) -> None:
    assert source_of(original(mutant)).count(mutant.old) == 1
    with applied(mutant):
        pass


def test_mutants__have_different_ids() -> None:
    identifiers = [each.id for each in (*HISTORICAL, *TABLES)]
    assert len(set(identifiers)) == len(identifiers)


def test_flaws__are_put_back_or_open() -> None:
    put_back, left = {each.source for each in HISTORICAL}, {each.id for each in OPEN}
    assert put_back | left == set(FLAWS)
    assert not put_back & left


def test_flaws__few_are_open() -> None:
    assert len(OPEN) <= FEW
    assert all(each.missing for each in OPEN)


def test_survivors__have_a_reason() -> None:
    assert all(EXPLAINED.values())


def test_mutant__is_taken_out_again() -> None:
    mutant = by_id("XSA-98a")
    before = original(mutant).__code__
    with applied(mutant):
        assert original(mutant).__code__ is not before
    assert original(mutant).__code__ is before


def test_of_function__changes_each_guard_and_update() -> None:
    kinds = {each.source for each in of_function("spec.memory.guestcopy", "copy_to_guest_word")}
    assert kinds >= {"guard dropped", "guard negated", "update dropped", "rule of a choice spoiled"}


@pytest.mark.parametrize("identifier", FAST)
def test_kill__a_flaw_dies_by_proof_and_is_replayed(identifier: str) -> None:
    verdict = kill(by_id(identifier))
    assert (verdict.killed_by, verdict.replayed) == (PROOF, True)
    assert verdict.property


def test_kill__what_changes_nothing_is_not_killed_by_proof() -> None:
    same = Mutant("same", "none", "spec.memory.guestcopy", "may_access", "nothing is changed",
                  "row = s.p2m[caller, gfn]", "row = s.p2m[caller, gfn]  # the same")
    answer = by_proof(theory(), affected(theory(), same), same, 20.0)
    assert (answer.found, answer.differs) == (None, False)
