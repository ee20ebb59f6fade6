"""The implementation and the specification, given the same guests, show the same."""

import pathlib
import random

import pytest
from hypothesis import given, settings

from bulkhead import trace
from bulkhead.fuzz import seeds
from bulkhead.fuzz.boards import Scenario, board_names
from bulkhead.fuzz.campaign import run
from bulkhead.fuzz.grammar import Grammar
from bulkhead.fuzz.job import world_of
from bulkhead.fuzz.world import FoundError, World
from bulkhead.oracle.run import steps
from tests.differential.strategies import actions, scenarios

VECTORS = sorted(pathlib.Path(__file__).parent.parent.glob("vectors/traces/*.json"))
SLOW = {
    "maptrack-is-full", "every-vmid-is-taken", "heap-is-exhausted", "tables-grow-into-the-last-frames",
    "death-of-a-domain-with-many-tables", "blocks-larger-than-one-may-ask-for",
}
"""Programs that the fuzzer runs, and ``make mutants``."""


def play(world, moves):
    """Actions of the grammar, one after the other."""
    for name, seed in moves:
        grammar = Grammar(world, random.Random(seed))
        domain = grammar.runner()
        if domain is None or world.machine.panicked:
            break
        getattr(grammar, name)(domain)
    assert [] == world.comparison.whole() or world.machine.panicked


@settings(max_examples=25)
@given(scenarios, actions)
def test_guests__are_served_alike(scenario, moves):
    world = world_of(scenario)
    try:
        play(world, moves)
    except FoundError:
        # what broke down is not used again
        world_of(scenario, fresh=True)
        raise


@pytest.mark.parametrize("name", sorted(seeds.SEEDS.keys() - SLOW))
def test_seeds__are_served_alike(name):
    scenario = Scenario("fvp-base", 2)
    world = world_of(scenario)
    assert isinstance(world, World)
    for stimulus in seeds.history(name, scenario):
        world.run(stimulus)
    assert [] == world.comparison.whole()


@pytest.mark.parametrize("name", board_names())
def test_boards__boot_alike(name):
    world = World(Scenario(name))
    assert [] == world.comparison.whole()


@pytest.mark.parametrize("path", [each for each in VECTORS if each.stem not in SLOW], ids=lambda path: path.stem)
def test_vectors__are_served_as_they_say(path):
    assert [] == [difference.text for step in steps(trace.read(path), "both") for difference in step.differences]


def test_campaign__on_one_board_finds_nothing():
    progress = run(1, 1.0, boards=("cubieboard2",))
    assert [] == [failure.finding.text for failure in progress.failures]
