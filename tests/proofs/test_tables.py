"""The theory of stage-2 tables: what is proved, and how a failure is told."""

from __future__ import annotations

from typing import Any

import pytest

from bulkhead.story import tell
from proofs.engine.obligations import FRAME, PROVED, TRIVIAL, TransitionProof
from proofs.table_traces import SMALL, search, small_tables, wander
from proofs.theories import MACHINE, TABLES, all_properties, all_transitions, theory, theory_of
from spec.memory import descriptors
from tests.mutants.mutation import applied
from tests.mutants.tables import TABLES as MUTANTS


def mutant(identifier: str):
    return next(each for each in MUTANTS if each.id == f"tables-{identifier}")


def proof(step: str, **options):
    chosen = theory(TABLES)
    return TransitionProof(chosen, chosen.transitions[step], **options)


def test_theories__share_no_step_and_no_property():
    both = theory(MACHINE), theory(TABLES)
    assert len(all_transitions()) == sum(len(each.transitions) for each in both)
    assert len(all_properties()) == sum(len(each.properties) for each in both)
    assert (MACHINE, TABLES) == (theory_of("map_grant_ref"), theory_of("link_table"))


@pytest.mark.parametrize("step", ["link_table", "free_table", "cache_from_table"])
def test_step__keeps_every_property(step):
    lines = list(proof(step).run())
    assert {line.verdict for line in lines} <= {PROVED, FRAME, TRIVIAL}
    assert set(theory(TABLES).properties) <= {line.property for line in lines}


def test_wander__breaks_nothing():
    with small_tables():
        assert [None] * 3 == [wander(shape, seed, 300) for seed, shape in enumerate(SMALL)]


def test_small_tables__leaves_the_specification_as_it_was():
    with small_tables():
        assert 4 == descriptors.ENTRIES
    assert 512 == descriptors.ENTRIES


def test_story__shows_a_state_and_a_test_that_replays_it():
    broken = "INV-TAB-WORK"
    with applied(mutant("no-flush-split")):
        wrong = proof("break_block", limit=2.0, only=lambda each: each == broken)
        list(wrong.run())
        story = tell(theory(TABLES), *wrong.problems[0])
        assert broken in story.text
        scope: dict[str, Any] = {}
        exec(story.test, scope)
        replay = next(each for name, each in scope.items() if name.startswith("test_"))
        with pytest.raises(AssertionError):
            replay()
    replay()


def test_search__finds_nothing_that_is_not_broken():
    assert search("link_table", "INV-TAB-CHILD", seconds=1.0) is None
