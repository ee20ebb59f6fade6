"""Who decides.  A problem is SMT-LIB 2 text and nothing else, so every solver sees the same."""

from __future__ import annotations

import ctypes
import time
from typing import Any

import attrs
import z3
from z3 import z3core as c

from proofs.engine.terms import Functions, Values

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
        self._names: dict[int, tuple[str, z3.FuncDeclRef]] = {}
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

    def model(self) -> Functions:
        """Each function of the model found last: its entries, and its value everywhere else.

        By Z3's interface in C: through its Python objects, this took longer than all questions together.
        """
        held = self._solver.model()
        context, model = held.ctx.ref(), held.model
        found: Functions = {}
        for position in range(c.Z3_model_get_num_consts(context, model)):
            declared = c.Z3_model_get_const_decl(context, model, position)
            meaning = c.Z3_model_get_const_interp(context, model, declared)
            found[self._name(declared)] = ({(): _value(context, meaning)}, 0)
        for position in range(c.Z3_model_get_num_funcs(context, model)):
            declared = c.Z3_model_get_func_decl(context, model, position)
            found[self._name(declared)] = _function(context, c.Z3_model_get_func_interp(context, model, declared))
        return found

    def _name(self, declared: Any) -> str:
        """The name of a function of a model."""
        known = self._names.get(declared.value)
        if known is None:
            context = self._solver.ctx
            name = c.Z3_get_symbol_string(context.ref(), c.Z3_get_decl_name(context.ref(), declared))
            # with the function itself, so that no other comes to lie in its place
            known = self._names[declared.value] = (name, z3.FuncDeclRef(declared, context))
        return known[0]


def _function(context: Any, meaning: Any) -> Values:
    entries = {}
    c.Z3_func_interp_inc_ref(context, meaning)
    for position in range(c.Z3_func_interp_get_num_entries(context, meaning)):
        entry = c.Z3_func_interp_get_entry(context, meaning, position)
        c.Z3_func_entry_inc_ref(context, entry)
        key = tuple(
            _value(context, c.Z3_func_entry_get_arg(context, entry, i))
            for i in range(c.Z3_func_entry_get_num_args(context, entry))
        )
        entries[key] = _value(context, c.Z3_func_entry_get_value(context, entry))
        c.Z3_func_entry_dec_ref(context, entry)
    otherwise = _value(context, c.Z3_func_interp_get_else(context, meaning))
    c.Z3_func_interp_dec_ref(context, meaning)
    return entries, otherwise


def _value(context: Any, value: Any) -> int:
    """A number; 1 for true, and 0 for false or whatever is not said."""
    number = ctypes.c_int64()
    if c.Z3_get_numeral_int64(context, value, number):
        return number.value
    if c.Z3_is_numeral_ast(context, value):
        return int(c.Z3_get_numeral_string(context, value))
    return int(c.Z3_get_bool_value(context, value) == z3.Z3_L_TRUE)


CVC5_PATIENCE = (1, 2, 6, 12)
"""cvc5 may take so many times as long as Z3, in its ways by turns, before a question counts as unknown."""
CVC5_WAYS: tuple[dict[str, str], ...] = ({}, {"decision": "internal"})
"""Its own choice of what to decide next, and another one: on some questions a hundred times as fast, or as slow."""


def with_cvc5(text: str, *, seed: int = 0, limit: float = 30.0) -> Answer:
    """Ask cvc5."""
    started = time.perf_counter()
    for patience in CVC5_PATIENCE:
        for way in CVC5_WAYS:
            verdict = _cvc5(text, seed, limit * patience, way)
            if verdict != UNKNOWN:
                return Answer(verdict, time.perf_counter() - started, "cvc5")
    return Answer(UNKNOWN, time.perf_counter() - started, "cvc5")


def _cvc5(text: str, seed: int, limit: float, way: dict[str, str]) -> str:
    import cvc5

    solver = cvc5.Solver()
    solver.setOption("tlimit-per", str(int(limit * 1000)))
    for name, value in way.items():
        solver.setOption(name, value)
    if seed:
        solver.setOption("seed", str(seed))
    parser = cvc5.InputParser(solver)
    parser.setStringInput(cvc5.InputLanguage.SMT_LIB_2_6, text, "obligation")
    manager = parser.getSymbolManager()
    verdict = UNKNOWN
    while True:
        command = parser.nextCommand()
        if command.isNull():
            return verdict
        said = command.invoke(solver, manager).strip()
        if said in (SAT, UNSAT, UNKNOWN):
            verdict = said


SOLVERS = {"z3": with_z3, "cvc5": with_cvc5}
