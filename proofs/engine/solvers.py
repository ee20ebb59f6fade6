"""Who decides.  A problem is SMT-LIB 2 text and nothing else, so every solver sees the same."""

from __future__ import annotations

import time

import attrs
import z3

UNSAT, SAT, UNKNOWN = "unsat", "sat", "unknown"


@attrs.frozen
class Answer:
    """What a solver said, and how long it took [seconds]."""

    verdict: str
    seconds: float
    solver: str


def with_z3(text: str, *, seed: int = 0, limit: float = 10.0) -> Answer:
    """Ask Z3's default solver."""
    started = time.perf_counter()
    solver = z3.Solver(ctx=z3.Context())
    solver.set("timeout", int(limit * 1000))
    if seed:
        solver.set("random_seed", seed)
    solver.from_string(text)
    verdict = str(solver.check())
    return Answer(verdict, time.perf_counter() - started, "z3")


def with_cvc5(text: str, *, seed: int = 0, limit: float = 30.0) -> Answer:
    """Ask cvc5."""
    import cvc5

    started = time.perf_counter()
    solver = cvc5.Solver()
    solver.setOption("tlimit-per", str(int(limit * 1000)))
    if seed:
        solver.setOption("seed", str(seed))
    parser = cvc5.InputParser(solver)
    parser.setStringInput(cvc5.InputLanguage.SMT_LIB_2_6, text, "obligation")
    manager = parser.getSymbolManager()
    verdict = UNKNOWN
    while True:
        command = parser.nextCommand()
        if command.isNull():
            break
        said = command.invoke(solver, manager).strip()
        if said in (SAT, UNSAT, UNKNOWN):
            verdict = said
    return Answer(verdict, time.perf_counter() - started, "cvc5")


SOLVERS = {"z3": with_z3, "cvc5": with_cvc5}
