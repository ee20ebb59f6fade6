"""Does anything notice a mutant?  First the proofs, then the tests."""

from __future__ import annotations

import time

import attrs

from proofs.engine.obligations import FAILED, UNKNOWN, Theory, TransitionProof
from proofs.engine.scope import Scope
from proofs.engine.symbols import NoBranching
from proofs.fingerprint import dependencies
from proofs.table_traces import anything
from proofs.theories import MACHINE, TABLES, theory
from spec.language.values import SpecificationError
from tests.mutants.mutation import Mutant, applied, original

PROOF, TEST, SURVIVED, BROKEN = "proof", "test", "survived", "broken"


@attrs.frozen
class Verdict:
    """How a mutant ended.

    killed_by: ``proof`` (with a counterexample that the mutated specification itself confirmed),
    ``test``, ``broken`` (the changed code is not even a specification), or ``survived``.
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


def affected(chosen: Theory, mutant: Mutant) -> list[str]:
    """The transitions that can call the mutated function, those with fewest dependencies first."""
    function = original(mutant)
    place = f"{function.__module__}.{function.__qualname__}"
    found = []
    for name, each in chosen.transitions.items():
        known = dependencies(each.function)
        if place in known:
            found.append((len(known), name))
    return [name for _, name in sorted(found)]


def by_proof_of_tables(chosen: Theory, names: list[str], budget: float) -> tuple[str, str, bool] | None:
    """As ``by_proof``; a failure is confirmed by random steps from boot, on integers, that break a property."""
    started = time.perf_counter()
    for name in names:
        for line in TransitionProof(chosen, chosen.transitions[name], limit=3.0).run():
            if line.verdict in (FAILED, UNKNOWN):
                return line.property, name, anything() is not None
            if time.perf_counter() - started > budget:
                return None
    return None


def by_proof(chosen: Theory, names: list[str], budget: float) -> tuple[str, str, bool] | None:
    """The first property whose proof fails: (property, transition, confirmed by the plain specification)."""
    started = time.perf_counter()
    unconfirmed = None
    for name in names:
        proof = TransitionProof(chosen, chosen.transitions[name], limit=3.0)
        tried = 0
        for line in proof.run():
            if line.verdict != FAILED or not proof.problems or proof.problems[-1][0] is not line:
                if line.verdict == FAILED:
                    return line.property, name, True
                continue
            if tried < 6:
                tried += 1
                found = Scope(chosen).solve(proof.problems[-1][1], proof.problems[-1][1].logs)
                if found is not None:
                    return line.property, name, True
            unconfirmed = unconfirmed or (line.property, name, False)
            if time.perf_counter() - started > budget:
                return unconfirmed
        if time.perf_counter() - started > budget:
            break
    return unconfirmed


def kill(mutant: Mutant, budget: float = 60.0) -> Verdict:
    """Put the mutant in and look who notices."""
    started = time.perf_counter()
    chosen, prove = theory(MACHINE), by_proof
    names = affected(chosen, mutant)
    if not names:
        chosen, prove = theory(TABLES), by_proof_of_tables
        names = affected(chosen, mutant)
    killed_by, property_, transition, replayed = SURVIVED, "", "", False
    with applied(mutant):
        try:
            found = prove(chosen, names, budget)
        except (NoBranching, SpecificationError) as problem:
            killed_by, property_ = BROKEN, str(problem)[:80]
            found = None
        if found is not None:
            property_, transition, replayed = found
            killed_by = PROOF if replayed else SURVIVED
        if killed_by == SURVIVED and by_tests(mutant):
            killed_by = TEST
    return Verdict(mutant.id, mutant.source, mutant.where, mutant.words, killed_by, property_, transition,
                   time.perf_counter() - started, replayed)


def by_tests(mutant: Mutant) -> bool:
    """Whether a unit test of the mutated noun fails."""
    import contextlib
    import io

    import pytest

    noun = mutant.module.split(".")[1]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", f"tests/spec/{noun}"])
    return code == pytest.ExitCode.TESTS_FAILED
