"""Both implementations side by side: each stimulus on one, then on the other, and what they show compared.

`World` runs the optimised implementation and the specification; `Single` the implementation alone, to measure it and
to try the grammar.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Sequence
from typing import Any, Final

import attrs

import spec
from bulkhead.fuzz.boards import MachineFactory, Place, boot
from bulkhead.fuzz.coverage import Answer
from bulkhead.fuzz.stimuli import Stimulus, called, give
from bulkhead.oracle.machine import Oracle
from bulkhead.oracle.projection import Comparison, Difference
from bulkhead.oracle.properties import Properties
from bulkhead.oracle.state_of import oracle_of
from impl.fast.errors import BadStimulus, NotModelled
from impl.fast.machine import Machine, Observation
from impl.fast.projection import Projector

WHOLE_APART: Final = 1000
"""Stimuli between two comparisons of the whole state."""
PROPERTIES_APART: Final = 8
"""Comparisons of the whole state between two evaluations of every property of every row."""


# every step must be known before one is taken
for _module in pkgutil.walk_packages(spec.__path__, "spec."):
    importlib.import_module(_module.name)


@attrs.frozen
class Finding:
    """A failure. signature: equal for failures that look like one flaw; text: what differs, in Xen's terms."""

    signature: str
    text: str


class FoundError(Exception):
    """A stimulus after which the two differ, a property does not hold, or one of them broke down."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.text)
        self.finding = finding


class Single:
    """The implementation alone; its answers stand for those of steps.

    scenario: the machine; factory: what makes it.
    history: the stimuli since boot; steps: answers of the last one; taken: stimuli run, whatever was taken back.
    """

    def __init__(self, scenario: Place, factory: MachineFactory | None = None) -> None:
        self.scenario = scenario
        self.machine: Machine = boot(scenario, factory)
        self.history: list[Stimulus] = []
        self.steps: list[Answer] = []
        self.taken = 0

    def run(self, stimulus: Stimulus) -> Observation | None:
        """One stimulus; None if the machine does not take it. Errors: FoundError."""
        self.steps = []
        if self.machine.panicked:
            # nothing runs any more
            return None
        try:
            seen = give(self.machine, stimulus)
        except (BadStimulus, NotModelled):
            self.machine._preempt_in = None
            return None
        except Exception as problem:
            self.history.append(stimulus)
            raise FoundError(broke("fast", stimulus, problem)) from problem
        self.history.append(stimulus)
        self.taken += 1
        self.steps = [_answer(stimulus, seen)]
        self.compare(stimulus, seen)
        return seen

    def compare(self, stimulus: Stimulus, seen: Observation) -> None:
        """Nothing to compare with."""

    def finish(self, *, whole: bool = False) -> None:
        """The end of a history: what is compared as a whole, if it is due or wanted. Errors: FoundError."""

    def mark(self) -> Any:
        """A place to come back to."""
        return self.machine.snapshot(), len(self.history)

    def back(self, mark: Any) -> None:
        """Back to a place, which stays one; later ones are gone."""
        snapshot, length = mark
        self.machine.restore(snapshot)
        del self.history[length:]


class World(Single):
    """Both; every stimulus is compared, the whole state every so often and at the end of a history."""

    def __init__(self, scenario: Place, factory: MachineFactory | None = None) -> None:
        super().__init__(scenario, factory)
        self.oracle: Oracle = oracle_of(self.machine)
        self.comparison = Comparison(self.oracle, self.machine, Projector(self.machine))
        self.properties = Properties(self.oracle)
        self._since_whole = 0
        self._wholes = 0

    def compare(self, stimulus: Stimulus, seen: Observation) -> None:
        """The specification takes the stimulus, with the implementation's choices; then everything is compared."""
        oracle = self.oracle
        try:
            expected = follow(oracle, stimulus, seen.choices)
        except Exception as problem:
            self.steps = list(oracle.trail)
            raise FoundError(broke("spec", stimulus, problem)) from problem
        self.steps = oracle.trail
        found = self.comparison.after(expected, seen)
        if found:
            raise FoundError(differs(stimulus, found))
        broken = self.properties.after()
        if broken:
            raise FoundError(Finding(f"property: {broken[0].id}", f"{_name(stimulus)}: {broken[0]}"))
        self._since_whole += 1
        if self._since_whole >= WHOLE_APART and seen.kind != "panic":
            self.finish()

    def finish(self, *, whole: bool = False) -> None:
        """Compare the whole state, if it is due or wanted. Errors: FoundError."""
        if (self._since_whole < WHOLE_APART and not whole) or self.machine.panicked:
            return
        self._since_whole = 0
        found = self.comparison.whole()
        if found:
            raise FoundError(differs(("whole", 0, 0), found))
        self._wholes += 1
        if not whole and self._wholes % PROPERTIES_APART:
            return
        broken = self.properties.whole()
        if broken:
            raise FoundError(Finding(f"property: {broken[0].id}", f"whole state: {broken[0]}"))

    def mark(self) -> Any:
        """A place to come back to."""
        return super().mark(), self.oracle.snapshot()

    def back(self, mark: Any) -> None:
        """Back to a place, which stays one; later ones are gone."""
        single, saved = mark
        super().back(single)
        self.oracle.restore(saved)
        self.comparison.projector.update()


def follow(oracle: Oracle, stimulus: Stimulus, choices: Sequence[tuple[str, int]]) -> Any:
    """Let the specification take a stimulus, with the choices that the implementation made."""
    kind, domain, vcpu = stimulus[:3]
    if kind == "store":
        return oracle.store(domain, vcpu, stimulus[3], stimulus[4], stimulus[5], choices)
    if kind == "hypercall":
        if stimulus[4]:
            oracle.preempt_after(stimulus[4])
        return oracle.hypercall(domain, vcpu, stimulus[3], choices)
    if kind == "load":
        return oracle.load(domain, vcpu, stimulus[3], stimulus[4], choices)
    if kind == "fetch":
        return oracle.fetch(domain, vcpu, stimulus[3], choices)
    if kind == "set_way":
        return oracle.set_way(domain, vcpu)
    return oracle.toggle_cache(domain, vcpu, enabled=stimulus[3])


_NUMBERS: Final = re.compile(r"-?\b(0x[0-9a-f]+|[0-9]+)\b")


def differs(stimulus: Stimulus, found: list[Difference]) -> Finding:
    """The finding of a stimulus after which something differs."""
    first = found[0]
    what = _name(stimulus)
    shape = _NUMBERS.sub("n", first.text)[:140]
    more = f" (and {len(found) - 1} more differences)" if len(found) > 1 else ""
    return Finding(f"{what}: {first.what}: {shape}", f"{what}: {first.text}{more}")


def _name(stimulus: Stimulus) -> str:
    """What a stimulus is called: a hypercall by its operation."""
    if stimulus[0] != "hypercall":
        return str(stimulus[0])
    number, operation = called(stimulus[3])
    if number == 12:
        return f"memory_op {operation}"
    if number == 20:
        return f"grant_table_op {operation}"
    return "domctl" if number == 36 else f"hypercall {number}"


def _answer(stimulus: Stimulus, seen: Observation) -> Answer:
    """An answer for a stimulus without the specification: the call's number and operation, and its result."""
    if stimulus[0] != "hypercall" or seen.registers is None:
        return stimulus[0], seen.kind, 0
    number, operation = called(stimulus[3])
    bits = 64 if 16 in stimulus[3] else 32
    result = seen.registers[0] - (seen.registers[0] >> bits - 1 << bits)
    return f"{number}.{operation}", seen.kind, max(min(result, 1), -200)


def broke(side: str, stimulus: Stimulus, problem: BaseException) -> Finding:
    """The finding that one side raised an exception, which a guest can never cause."""
    where = "unknown"
    trace = problem.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        where = f"{code.co_filename.rsplit('/', 1)[-1]}:{code.co_name}"
        trace = trace.tb_next
    name = type(problem).__name__
    return Finding(f"{side} raises {name} in {where}", f"{side} raises {name} in {where}: {problem}")


__all__ = ["Finding", "FoundError", "Single", "World", "broke", "differs", "follow"]
