"""Whether what a mutant changes is told rightly: above all, nothing that changes a state may pass for less."""

from __future__ import annotations

import time

import pytest

from proofs.theories import theory
from tests.mutants.equivalence import ANSWER, OTHER_CALL, OTHER_STATE, SAME, Comparison, compared
from tests.mutants.kill import affected
from tests.mutants.mutation import Mutant
from tests.mutants.systematic import of_module

PATIENCE = 4.0
"""Seconds of this processor's work.  What is another state takes long to be known as such, but to be taken for less it
takes none of that time; anything else is found soon.
"""


def mutant(identifier: str) -> Mutant:
    """A systematic mutant, by its id: the function and the number of the change."""
    module = identifier.partition("#")[0].rpartition(".")[0]
    return next(each for each in of_module(f"spec.{module}") if each.id == identifier)


def change(module: str, function: str, old: str, new: str) -> Mutant:
    """A mutant that is written here."""
    return Mutant(f"{function}*", "test", f"spec.{module}", function, f"{old} -> {new}", old, new)


def in_step(step: str, chosen: Mutant, seconds: float = PATIENCE) -> str:
    """What it changes in one step."""
    return Comparison(theory(), step, chosen, time.process_time() + seconds, exact=True).verdict()


@pytest.mark.parametrize(("step", "identifier"), [
    ("copy_claim_page", "memory.frames.get_page#0"),
    ("setup_table", "grant.table._grow_by_one#6"),
    ("guest_store", "memory.guest.guest_store#4"),
    ("put_orphan", "memory.p2m.put_orphan#5"),
    ("finish_version_2", "grant.version.finish_version_2#4"),
])
def test_verdict__what_breaks_an_invariant_changes_the_state(step: str, identifier: str) -> None:
    assert in_step(step, mutant(identifier)) == OTHER_STATE


def test_verdict__what_is_counted_otherwise_is_told_apart() -> None:
    """Although the predicate has the same name."""
    assert in_step("finish_version_2", mutant("grant.version.is_used_beyond#0")) == OTHER_STATE


def test_verdict__what_is_asked_of_all_rows_is_told_apart() -> None:
    other = change("memory.reservation", "_can_be_taken_by", "row.references > 0", "row.references > 1")
    assert in_step("populate_extent", other) != SAME


def test_verdict__what_a_range_is_filled_with_is_told_apart() -> None:
    other = change("memory.p2m", "_orphaned", "other = neg(row.mfn == mfn)", "other = row.mfn == row.mfn")
    assert in_step("populate_extent", other) == OTHER_STATE


def test_verdict__a_refusal_that_is_left_out_is_another_call() -> None:
    assert in_step("acquire_resource", mutant("memory.resource.acquire_resource#20"), 60.0) == OTHER_CALL


def test_verdict__another_step_of_the_same_domain_is_another_call() -> None:
    assert in_step("set_way_flush", mutant("memory.faults.set_way_flush#3")) == OTHER_CALL


@pytest.mark.parametrize(("step", "identifier"), [
    # the batch maps another domain's page
    ("add_to_physmap", "memory.physmap.add_to_physmap#3"),
    # as if the words that are exchanged had stood there already
    ("swap_grant_ref", "grant.table._swap_words#0"),
    # as if the granter had made it a sub-page grant
    ("copy_claim_nested", "grant.copy._window#2"),
    # as if another space had been asked for
    ("add_to_physmap_batch_repaired", "memory.physmap._one_page#5"),
])
def test_verdict__another_form_of_the_call_or_what_a_peer_may_write_is_another_call(step: str, identifier: str) -> None:
    assert in_step(step, mutant(identifier), 60.0) == OTHER_CALL


def test_verdict__another_error_is_another_answer() -> None:
    other = change("memory.pool", "get_paging_mempool_size", "return refuse(s, -EPERM)", "return refuse(s, -ESRCH)")
    assert compared(theory(), affected(theory(), other), other) == ANSWER


def test_verdict__the_same_in_other_words_is_nothing() -> None:
    other = change("memory.pool", "set_paging_mempool_size", "if row.pool_free == 0:", "if row.pool_free < 1:")
    assert compared(theory(), affected(theory(), other), other) == SAME


def test_verdict__what_is_not_known_in_time_counts_as_another_state() -> None:
    assert compared(theory(), ["acquire_resource"], mutant("memory.resource.acquire_resource#20"), 0.0) == OTHER_STATE
