"""Does anything notice a mutant?  First the proofs, then the tests."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pathlib
import time

import attrs
import pytest

from proofs.booting import BOOT, Booting
from proofs.engine.obligations import FAILED, Theory
from proofs.fingerprint import dependencies
from proofs.table_traces import anything
from proofs.theories import MACHINE, TABLES, theory
from spec.language.values import SpecificationError
from tests.mutants.mutation import Mutant, applied, original
from tests.mutants.search import Answer, Found, counterexample, tried

PROOF, TEST, SURVIVED, BROKEN = "proof", "test", "survived", "broken"
HERE = pathlib.Path(__file__).resolve().parent
OF_TABLES = ("tables", "table_steps", "table_pages", "tlb", "walk", "descriptors", "geometry")
"""Modules of ``spec.memory`` that speak of tables as words, and whose tests do."""


@attrs.frozen
class Verdict:
    """How a mutant ended.

    killed_by: ``proof`` (a proof fails, with a counterexample that the mutated specification itself confirmed),
    ``test``, ``broken`` (the changed code is not even a specification), or ``survived``.
    acts: it changes what some step does to the state, not only what it answers.
    suspects: of one that no counterexample was found for, the properties that are not proved with it.
    """

    id: str
    source: str
    where: str
    words: str
    killed_by: str
    property: str
    transition: str
    seconds: float
    replayed: bool
    acts: bool = True
    suspects: tuple[str, ...] = ()


@functools.cache
def _reached(name: str) -> dict[str, frozenset[str]]:
    """Which functions each transition of a theory can call."""
    return {each: frozenset(dependencies(step.function)) for each, step in theory(name).transitions.items()}


def affected(chosen: Theory, mutant: Mutant) -> list[str]:
    """The transitions that can call the mutated function, those with fewest dependencies first."""
    function = original(mutant)
    place = f"{function.__module__}.{function.__qualname__}"
    name = next(iter(chosen.transitions.values())).theory
    found = [(len(known), each) for each, known in _reached(name).items() if place in known]
    return [each for _, each in sorted(found)]


def by_proof(chosen: Theory, names: list[str], mutant: Mutant, budget: float) -> Answer:
    """The first property that a mutated step breaks, or what is known of those that are not proved any more."""
    started = time.process_time()
    all_of_them = Answer(found=tried(chosen, mutant))
    if all_of_them.found is not None:
        return all_of_them
    for number, name in enumerate(names):
        left = started + budget - time.process_time()
        if left <= 0:
            all_of_them.suspects.append(f"(no time for {name})")
            break
        share = left if number + 1 == len(names) else left / 2
        answer = counterexample(chosen, name, mutant, time.process_time() + max(share, 3.0))
        all_of_them.differs |= answer.differs
        all_of_them.acts |= answer.acts
        all_of_them.suspects += [f"{each} of {name}" for each in answer.suspects]
        all_of_them.found = answer.found
        if answer.found is not None:
            break
    return all_of_them


def by_steps(mutant: Mutant, budget: float) -> Answer:
    """A property of the tables that random steps from boot, on integers, break: so no proof of it can succeed."""
    with applied(mutant):
        trace = anything(budget)
    found = None if trace is None else Found(trace.found[0].property, trace.step)
    return Answer(differs=True, acts=True, found=found)


def by_boot(mutant: Mutant) -> Answer:
    """A property that fails of a boot state, which is concrete: so it needs no other confirmation."""
    with applied(mutant):
        line = next((line for line in Booting().run() if line.verdict == FAILED), None)
    return Answer(differs=True, acts=True, found=None if line is None else Found(line.property, BOOT))


def kill(mutant: Mutant, budget: float = 45.0) -> Verdict:
    """Put the mutant in and look who notices.

    budget: seconds of this processor's work that the proofs of one mutant may take.
    """
    started = time.perf_counter()
    killed_by, found, answer = SURVIVED, Found("", ""), Answer()
    try:
        names = affected(theory(MACHINE), mutant)
        if mutant.module == "spec.boot":
            answer = by_boot(mutant)
        elif names:
            answer = by_proof(theory(MACHINE), names, mutant, budget)
        elif affected(theory(TABLES), mutant):
            answer = by_steps(mutant, budget)
    except (SpecificationError, TypeError, AttributeError, AssertionError, LookupError) as problem:
        killed_by, found = BROKEN, Found(f"{type(problem).__name__}: {problem}"[:80], "")
    if answer.found is not None:
        killed_by, found = PROOF, answer.found
    elif killed_by == SURVIVED and by_tests(mutant):
        killed_by = TEST
    suspects = () if killed_by == PROOF else tuple(dict.fromkeys(answer.suspects))
    return Verdict(mutant.id, mutant.source, mutant.where, mutant.words, killed_by, found.property, found.transition,
                   time.perf_counter() - started, killed_by == PROOF, answer.acts, suspects)


def tests_of(mutant: Mutant) -> list[str]:
    """The unit tests that may notice a mutant, the nearest first."""
    noun, stem = mutant.module.split(".")[-2:]
    found = sorted((HERE.parent / "spec").glob("*/test_*.py"))
    tables = stem in OF_TABLES
    chosen = [each for each in found if (each.stem.removeprefix("test_") in OF_TABLES) == tables]
    nearest = sorted(chosen, key=lambda each: (each.stem != f"test_{stem}", each.parent.name != noun, each.name))
    return [str(each) for each in nearest]


def by_tests(mutant: Mutant) -> bool:
    """Whether a unit test of the specification fails."""
    os.environ["HYPOTHESIS_PROFILE"] = "ci"
    with applied(mutant), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *tests_of(mutant)])
    return code == pytest.ExitCode.TESTS_FAILED
