"""The grammar of guests: the same seed, the same guests; and guests that reach what they are for."""

import random

import pytest

from bulkhead.fuzz import seeds
from bulkhead.fuzz.boards import FLAVOURS, Scenario, board_names, configuration, scenarios
from bulkhead.fuzz.grammar import WEIGHTS, Grammar
from bulkhead.fuzz.mutate import mutated
from bulkhead.fuzz.stimuli import key, show
from bulkhead.fuzz.world import Single
from bulkhead.problems import BadInputError


def history(scenario, seed, actions=60):
    world = Single(scenario)
    grammar = Grammar(world, random.Random(seed))
    for _ in range(actions):
        grammar.step()
    return world.history


def test_grammar__makes_the_same_history_for_the_same_seed():
    one, other = (history(Scenario("fvp-base", 2), 7) for _ in range(2))
    assert one == other


def test_grammar__makes_another_history_for_another_seed():
    assert history(Scenario("fvp-base", 2), 7) != history(Scenario("fvp-base", 2), 8)


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_grammar__every_action_gives_stimuli(name):
    world = Single(Scenario("vexpress-a15", 2))
    grammar = Grammar(world, random.Random(1), dict.fromkeys(WEIGHTS, 0.0) | {name: 1.0})
    for _ in range(20):
        grammar.step()
    assert len(world.history) >= 10


def test_grammar__leaves_the_machine_to_the_stimuli():
    scenario = Scenario("mustang", 4)
    world, again = Single(scenario), Single(scenario)
    grammar = Grammar(world, random.Random(3))
    for _ in range(60):
        grammar.step()
    for stimulus in world.history:
        again.run(stimulus)
    assert world.machine.memory.ram.pages(0x100000, 512).tobytes() == again.machine.memory.ram.pages(
        0x100000, 512).tobytes()


def test_scenarios__are_every_flavour_of_each_board():
    assert len(set(scenarios(board_names()))) == len(board_names()) * FLAVOURS


def test_scenarios__of_no_board_are_refused():
    with pytest.raises(BadInputError, match="did you mean mustang"):
        scenarios(("mustan",))


@pytest.mark.parametrize("name", board_names())
def test_configuration__keeps_the_boards_frame_numbers(name):
    from impl.boards.catalogue import load
    ram, _ = configuration(Scenario(name))
    assert [bank.base for bank in load(name).banks] == [bank.base for bank in ram]


@pytest.mark.parametrize("name", sorted(seeds.SEEDS))
def test_seeds__are_histories(name):
    assert len(seeds.history(name, Scenario("foundation-v8", 2))) >= 10


def test_mutated__is_another_history():
    before = history(Scenario("foundation-v8"), 1, 10)
    rng = random.Random(1)
    changed = [mutated(before, rng, before) for _ in range(20)]
    assert len({tuple(key(each) for each in other) for other in changed}) > 10


def test_show__names_who_does_what():
    assert "d1v0 calls x0=0x6, x16=0xc, preempted at check 2" == show(("hypercall", 1, 0, {16: 12, 0: 6}, 2))
