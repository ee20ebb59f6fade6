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


class _Z3:
    """Z3's memory of terms: to make one takes longer than most questions do.

    It is made anew for each job, so that no answer depends on what was asked in other jobs.
    """

    context: z3.Context | None = None


def renew() -> None:
    """A job begins."""
    _Z3.context = None


def _solver(limit: float) -> z3.Solver:
    if _Z3.context is None:
        _Z3.context = z3.Context()
    solver = z3.SimpleSolver(ctx=_Z3.context)
    solver.set("timeout", int(limit * 1000))
    solver.set("arith.solver", 6)
    return solver


def with_z3(text: str, *, seed: int = 0, limit: float = 10.0) -> Answer:
    """Ask Z3."""
    started = time.perf_counter()
    solver = _solver(limit)
    if seed:
        solver.set("random_seed", seed)
    solver.from_string(text)
    verdict = str(solver.check())
    return Answer(verdict, time.perf_counter() - started, "z3")


class Growing:
    """A problem to which facts are added as a model shows that they are missing."""

    def __init__(self, limit: float = 10.0) -> None:
        self._solver = _solver(limit)
        self.seconds = 0.0

    def check(self, lines: list[str]) -> str:
        """Add these facts and ask again."""
        started = time.perf_counter()
        self._solver.from_string("\n".join(lines))
        verdict = str(self._solver.check())
        self.seconds += time.perf_counter() - started
        return verdict

    def core(self, lines: list[str], switches: list[str]) -> set[str]:
        """Which of the named conditions are needed for a contradiction; all of them if that is not found."""
        self._solver.from_string("\n".join(lines))
        literals = {each: z3.Bool(each, self._solver.ctx) for each in switches}
        if str(self._solver.check(*literals.values())) != UNSAT:
            return set(switches)
        return {str(each) for each in self._solver.unsat_core()}

    def model(self) -> dict[str, tuple[dict[tuple[int, ...], int], int]]:
        """Each function of the model found last: its entries, and its value everywhere else."""
        model = self._solver.model()
        found: dict[str, tuple[dict[tuple[int, ...], int], int]] = {}
        for declaration in model.decls():
            meaning = model[declaration]
            if isinstance(meaning, z3.FuncInterp):
                entries = {}
                for position in range(meaning.num_entries()):
                    entry = meaning.entry(position)
                    key = tuple(_value(entry.arg_value(i)) for i in range(entry.num_args()))
                    entries[key] = _value(entry.value())
                found[declaration.name()] = (entries, _value(meaning.else_value()))
            else:
                found[declaration.name()] = ({(): _value(meaning)}, 0)
        return found


def _value(value: z3.ExprRef) -> int:
    if z3.is_int_value(value):
        return int(value.as_long())
    return int(z3.is_true(value))


CVC5_PATIENCE = 12
"""cvc5 may take so many times as long as Z3 before a question counts as unknown."""


def with_cvc5(text: str, *, seed: int = 0, limit: float = 30.0) -> Answer:
    """Ask cvc5."""
    import cvc5

    started = time.perf_counter()
    solver = cvc5.Solver()
    solver.setOption("tlimit-per", str(int(limit * CVC5_PATIENCE * 1000)))
    # measured on the questions about tables: three times as fast as its own choice
    solver.setOption("decision", "internal")
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
