"""Does anything notice a mutant?  First the proofs, then the tests."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pathlib
import signal
import time
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from proofs.booting import BOOT, Booting
from proofs.engine.obligations import FAILED, UNKNOWN, Theory, TransitionProof
from proofs.fingerprint import dependencies
from proofs.matrix import hints
from proofs.table_traces import anything
from proofs.theories import MACHINE, TABLES, theory
from spec.language.values import SpecificationError
from tests.mutants.equivalence import ANSWER, SAME, compared
from tests.mutants.exploring import named_by_content
from tests.mutants.mutation import Mutant, applied, original
from tests.mutants.search import Answer, Found, Unchanged, counterexample, goals_of, tried, verdict_of

PROOF, TEST, SURVIVED, BROKEN, EQUIVALENT = "proof", "test", "survived", "broken", "equivalent"
HERE = pathlib.Path(__file__).resolve().parent
LONGEST = 400.0
"""Seconds that the proofs of one mutant may take before it counts as code that does not end."""
OF_TABLES = ("tables", "table_steps", "table_pages", "tlb", "walk", "descriptors", "geometry")
"""Modules of ``spec.memory`` that speak of tables as words, and whose tests do."""


@attrs.frozen
class Verdict:
    """How a mutant ended.

    killed_by: ``proof`` (some property cannot be proved any more), ``test``, ``broken`` (the changed code is not even
    a specification), ``equivalent`` (proved to change nothing), or ``survived``.
    replayed: the mutated specification itself, run on integers from a state that satisfies every invariant, broke the
    property.
    changes: of one that no proof noticed, what it changes (see ``equivalence``).
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
    changes: str = ""


class TooLong(Exception):
    """The mutated code does not end in time."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise ``TooLong`` in whatever runs after so many seconds."""
    def stop(*_: Any) -> None:
        raise TooLong(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@functools.cache
def _reached(name: str) -> dict[str, frozenset[str]]:
    """Which functions each transition of a theory can call."""
    return {each: frozenset(dependencies(step.function)) for each, step in theory(name).transitions.items()}


def _place(mutant: Mutant) -> str:
    """The name of the mutated function, as dependencies have it."""
    function = original(mutant)
    return f"{function.__module__}.{function.__qualname__}"


def affected(chosen: Theory, mutant: Mutant) -> list[str]:
    """The transitions that can call the mutated function, those with fewest dependencies first."""
    place = _place(mutant)
    name = next(iter(chosen.transitions.values())).theory
    found = [(len(known), each) for each, known in _reached(name).items() if place in known]
    return [each for _, each in sorted(found)]


def by_proof(chosen: Theory, names: list[str], mutant: Mutant, budget: float) -> Answer:
    """The first property that a mutated step breaks in a small world, else the first that is not proved any more."""
    all_of_them = Answer(found=tried(chosen, mutant))
    if all_of_them.found is not None:
        return all_of_them
    for whole, share in ((False, budget / 2), (True, budget)):
        left, names = names, []
        until = time.process_time() + share
        for number, name in enumerate(left):
            rest = until - time.process_time()
            own = rest if number + 1 == len(left) else rest / 2
            answer = counterexample(chosen, name, mutant, time.process_time() + max(own, 3.0), whole=whole)
            all_of_them.differs |= answer.differs
            all_of_them.late = whole and (all_of_them.late or answer.late)
            all_of_them.failed += answer.failed
            all_of_them.found = answer.found
            if answer.found is not None or answer.failed:
                return all_of_them
            if answer.left or answer.late:
                names.append(name)
    return all_of_them


def by_steps(names: list[str], mutant: Mutant, budget: float) -> Answer:
    """A property of the tables that random steps from boot, on integers, break; else one that cannot be proved."""
    chosen = theory(TABLES)
    with applied(mutant):
        trace = anything(budget)
    if trace is not None:
        return Answer(differs=True, found=Found(trace.found[0].property, trace.step))
    answer = Answer()
    for name in names:
        proof = TransitionProof(chosen, chosen.transitions[name], hints=hints())
        named_by_content(proof)
        before = Unchanged(proof)
        with applied(mutant):
            for number, (path, log) in enumerate(proof.paths()):
                if before.has(path):
                    continue
                answer.differs = True
                if path.result.state is proof.before or not proof._alive(path, log):
                    continue
                for goal in goals_of(proof, number, path, log):
                    verdict = verdict_of(proof, goal)
                    if verdict == FAILED:
                        answer.failed.append(Found(goal.property, name))
                        return answer
                    answer.late |= verdict == UNKNOWN
    return answer


def by_claims(chosen: Theory, names: list[str], mutant: Mutant) -> Found | None:
    """A property that says something else by the mutated function, and that other steps than these do not keep then."""
    place = _place(mutant)
    claims = {each.id for each in chosen.properties.values() if place in dependencies(each.function)}
    for name in sorted(set(chosen.transitions) - set(names)) if claims else ():
        with applied(mutant):
            proof = TransitionProof(chosen, chosen.transitions[name], hints=hints(), only=claims.__contains__)
            for line in proof.run():
                if line.verdict == FAILED and line.property in claims:
                    return Found(line.property, name)
    return None


def by_boot(mutant: Mutant) -> Answer:
    """A property that fails of a boot state, which is concrete: so it needs no other confirmation."""
    with applied(mutant):
        line = next((line for line in Booting().run() if line.verdict == FAILED), None)
    return Answer(differs=True, found=None if line is None else Found(line.property, BOOT))


def kill(mutant: Mutant, budget: float = 45.0) -> Verdict:
    """Put the mutant in and look who notices.

    budget: seconds of this processor's work that the proofs of one mutant may take.
    """
    started = time.perf_counter()
    killed_by, found, answer, changes = SURVIVED, Found("", ""), Answer(differs=True), ""
    try:
        with within(LONGEST):
            chosen, names = theory(MACHINE), affected(theory(MACHINE), mutant)
            if mutant.module == "spec.boot":
                answer = by_boot(mutant)
            elif names:
                answer = by_proof(chosen, names, mutant, budget)
            elif affected(theory(TABLES), mutant):
                chosen, names = theory(TABLES), affected(theory(TABLES), mutant)
                answer = by_steps(names, mutant, budget / 3)
                claimed = None if answer.found or answer.failed else by_claims(chosen, names, mutant)
                answer.failed += [] if claimed is None else [claimed]
    except (SpecificationError, TypeError, AttributeError, AssertionError, LookupError, TooLong) as problem:
        killed_by, found = BROKEN, Found(f"{type(problem).__name__}: {problem}"[:80], "")
    if answer.found is not None or answer.failed:
        killed_by, found = PROOF, answer.found or answer.failed[0]
    elif killed_by == SURVIVED and not answer.differs and not answer.late:
        killed_by, changes = EQUIVALENT, SAME
    elif killed_by == SURVIVED:
        killed_by = TEST if by_tests(mutant) else SURVIVED
        # what no step calls is asked by properties and tools: it only answers
        changes = compared(chosen, names, mutant, exact=killed_by == SURVIVED) if names else ANSWER
        if changes == SAME and killed_by == SURVIVED:
            killed_by = EQUIVALENT
    return Verdict(mutant.id, mutant.source, mutant.where, mutant.words, killed_by, found.property, found.transition,
                   time.perf_counter() - started, answer.found is not None, changes)


def tests_of(mutant: Mutant) -> list[str]:
    """The unit tests that may notice a mutant, the nearest first."""
    noun, stem = mutant.module.split(".")[-2:]
    found = sorted((HERE.parent / "spec").glob("*/test_*.py"))
    tables = stem in OF_TABLES
    chosen = [each for each in found if (each.stem.removeprefix("test_") in OF_TABLES) == tables]
    nearest = sorted(chosen, key=lambda each: (each.stem != f"test_{stem}", each.parent.name != noun, each.name))
    return [str(each) for each in nearest]


def by_tests(mutant: Mutant, limit: float = 120.0) -> bool:
    """Whether a unit test of the specification fails, or never ends."""
    os.environ["HYPOTHESIS_PROFILE"] = "ci"
    quiet = (contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()))
    try:
        with applied(mutant), quiet[0], quiet[1], within(limit):
            code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *tests_of(mutant)])
    except TooLong:
        return True
    return code == pytest.ExitCode.TESTS_FAILED
