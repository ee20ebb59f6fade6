"""Run a trace on the specification, on the optimised implementation, or on both, compared after each stimulus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import attrs

from bulkhead import trace as traces
from bulkhead.oracle.machine import MisuseError, Oracle, UnmodelledError
from bulkhead.oracle.machine import Observation as Expected
from bulkhead.oracle.projection import Comparison, Difference, observation_difference
from bulkhead.oracle.state_of import oracle_of
from bulkhead.problems import BadInputError
from impl.boards.catalogue import load as load_board
from impl.boards.problems import BadBoard
from impl.boards.ram import BadBank, Bank, Ram
from impl.fast.errors import BadConfig, BadStimulus, NotModelled
from impl.fast.machine import Config, DomainConfig, Machine
from impl.fast.machine import Observation as Seen
from impl.fast.projection import Projector

Side = Literal["spec", "fast", "both", "xen"]
SIDES: tuple[str, ...] = get_args(Side)

WHOLE_APART = 1000
"""Stimuli after which the whole state is compared."""
_SHOWN_REGISTERS = (0, 1, 2, 3, 4, 12, 16)
_LARGEST_RAM = 64 << 30


@attrs.frozen
class Step:
    """What became of one stimulus. number: from 0; spec, fast: what each showed, None if it was not asked.

    fast: of the implementation that was asked, which may be real Xen.
    """

    number: int
    stimulus: traces.Stimulus
    spec: Expected | None
    fast: Seen | None
    differences: tuple[Difference, ...] = ()

    @property
    def observation(self) -> Any:
        """What was seen, the implementation's first."""
        return self.fast if self.fast is not None else self.spec


def config_of(trace: traces.Trace) -> Config:
    """The configuration of a trace, for the implementation."""
    made: Any = {**attrs.asdict(trace.config, recurse=False),
                 "domains": tuple(DomainConfig(**attrs.asdict(each, recurse=False)) for each in trace.domains)}
    return Config(**made)


def machine_of(trace: traces.Trace) -> Machine:
    """The implementation, booted as a trace says. Errors: BadInputError."""
    try:
        if trace.board.name:
            banks: tuple[Any, ...] = load_board(trace.board.name).banks
        else:
            banks = tuple(Bank(bank.base, bank.size) for bank in trace.board.ram)
        if sum(bank.size for bank in banks) > _LARGEST_RAM:
            raise BadInputError(f"the board has more than {_LARGEST_RAM >> 30} GB of RAM")
        return Machine(Ram(banks), config_of(trace))
    except (BadBoard, BadBank, BadConfig) as problem:
        raise BadInputError(f"the trace's machine does not boot: {problem}") from None


class Pair:
    """The specification and the implementation, given the same stimuli; either may be left out.

    on: who takes the stimuli. The specification's state after boot is read back from the implementation.
    """

    def __init__(self, machine: Machine, on: Side = "both") -> None:
        self.machine = machine
        self.on = on
        self.oracle: Oracle | None = None if on == "fast" else oracle_of(machine)
        self.comparison = (Comparison(self.oracle, machine, Projector(machine))
                           if self.oracle is not None and on == "both" else None)

    def give(self, stimulus: traces.Stimulus, recorded: traces.Seen | None = None
             ) -> tuple[Expected | None, Seen | None, list[Difference]]:
        """One stimulus: (what the specification says, what the implementation shows, differences).

        recorded: what was seen before; without the implementation its choices are followed.
        Errors: BadInputError for a stimulus that cannot be given.
        """
        try:
            seen = None if self.on == "spec" else _give(self.machine, stimulus, {})
            if self.oracle is None:
                return None, seen, []
            choices = None if recorded is None else recorded.choices
            if seen is not None:
                choices = seen.choices
            expected = _give(self.oracle, stimulus, {"choices": choices})
        except (BadStimulus, MisuseError, NotModelled, UnmodelledError) as problem:
            raise BadInputError(str(problem)) from None
        if expected is None or seen is None or self.comparison is None:
            return expected, seen, []
        return expected, seen, self.comparison.after(expected, seen)


def _give(side: Any, stimulus: traces.Stimulus, more: dict[str, Any]) -> Any:
    """Give a stimulus to one side; None if there is nothing to observe."""
    if isinstance(stimulus, traces.Hypercall):
        return side.hypercall(stimulus.domain, stimulus.vcpu, dict(stimulus.registers), **more)
    if isinstance(stimulus, traces.Store):
        return side.store(stimulus.domain, stimulus.vcpu, stimulus.ipa, stimulus.size, stimulus.value, **more)
    if isinstance(stimulus, traces.Load):
        return side.load(stimulus.domain, stimulus.vcpu, stimulus.ipa, stimulus.size, **more)
    if isinstance(stimulus, traces.Fetch):
        return side.fetch(stimulus.domain, stimulus.vcpu, stimulus.ipa, **more)
    if isinstance(stimulus, traces.SetWay):
        return side.set_way(stimulus.domain, stimulus.vcpu)
    if isinstance(stimulus, traces.ToggleCache):
        return side.toggle_cache(stimulus.domain, stimulus.vcpu, enabled=stimulus.enabled)
    if isinstance(stimulus, traces.Preempt):
        side.preempt_after(stimulus.after)
    # time alone changes nothing of memory and grants
    return None


def as_seen(observation: Any) -> traces.Seen:
    """An observation as a trace has it."""
    registers = observation.registers
    shown = None if registers is None else tuple((number, registers[number]) for number in _SHOWN_REGISTERS)
    return traces.Seen(observation.kind, shown, observation.value, observation.fault, observation.choices,
                       observation.reason)


def _recorded_difference(recorded: traces.Seen, observation: Any) -> Difference | None:
    """How an observation differs from the one that stands in the trace."""
    registers = None
    if recorded.registers is not None and observation.registers is not None:
        registers = list(observation.registers)
        for number, value in recorded.registers:
            registers[number] = value
    before = Expected(recorded.kind, registers, recorded.value, recorded.fault)
    if recorded.kind == "illegal" or (recorded.registers is None) != (observation.registers is None):
        return Difference("recorded", f"{recorded.kind} in the trace, {observation.kind} now")
    found = observation_difference(before, observation)
    if found is None:
        return None
    text = found.text.replace("by the specification", "in the trace").replace("in the implementation", "now")
    return Difference("recorded", text)


def _recorded(trace: traces.Trace, number: int) -> traces.Seen | None:
    """What stands in the trace as seen of a stimulus, if anything does."""
    return trace.seen[number] if number < len(trace.seen) else None


def _against(recorded: traces.Seen | None, observation: Any) -> list[Difference]:
    """How an observation differs from what the trace says, if there are both."""
    differs = None if recorded is None or observation is None else _recorded_difference(recorded, observation)
    return [] if differs is None else [differs]


def steps(trace: traces.Trace, on: Side = "both") -> Iterator[Step]:
    """Run a trace, stimulus by stimulus; what stands in the trace as seen is compared with what is seen now.

    Errors: BadInputError if the machine does not boot, or a stimulus cannot be given.
    """
    if on not in SIDES:
        raise BadInputError(f"{on!r} is not one of {', '.join(SIDES)}")
    if on == "xen":
        yield from _on_xen(trace)
        return
    pair = Pair(machine_of(trace), on)
    for number, stimulus in enumerate(trace.stimuli):
        recorded = _recorded(trace, number)
        try:
            expected, seen, found = pair.give(stimulus, recorded)
        except BadInputError as problem:
            raise BadInputError(f"stimuli[{number}]: {problem}") from None
        observation = seen if seen is not None else expected
        found = [*found, *_against(recorded, observation)]
        last = number + 1 == len(trace.stimuli) or (number + 1) % WHOLE_APART == 0
        if last and not found and pair.comparison is not None and not pair.machine.panicked:
            found = pair.comparison.whole()
        yield Step(number, stimulus, expected, seen, tuple(found))


def _on_xen(trace: traces.Trace) -> Iterator[Step]:
    """Run a trace on real Xen, all of it before the first step is told."""
    from impl.xen import replay
    from impl.xen.errors import XenError

    try:
        seen = replay.run(replay.plan(trace.config, trace.domains, trace.board.name), trace.stimuli)
    except XenError as problem:
        raise BadInputError(f"on real Xen: {str(problem).splitlines()[0]}") from None
    for number, (stimulus, observation) in enumerate(zip(trace.stimuli, seen, strict=True)):
        yield Step(number, stimulus, None, observation, tuple(_against(_recorded(trace, number), observation)))


@attrs.frozen
class Result:
    """What became of a trace. steps: up to the first difference, if there is one."""

    steps: tuple[Step, ...]

    @property
    def first(self) -> Step | None:
        """The step with the first difference, or None."""
        return next((step for step in self.steps if step.differences), None)

    def seen(self) -> tuple[traces.Seen | None, ...]:
        """What was observed of each stimulus, for a trace that is to be kept."""
        return tuple(None if step.observation is None else as_seen(step.observation) for step in self.steps)


def run(trace: traces.Trace, on: Side = "both") -> Result:
    """Run a trace up to the first difference. Errors: BadInputError."""
    done = []
    for step in steps(trace, on):
        done.append(step)
        if step.differences:
            break
    return Result(tuple(done))


def recorded(trace: traces.Trace, on: Side = "both") -> traces.Trace:
    """The trace with what was seen of each stimulus. Errors: BadInputError."""
    return attrs.evolve(trace, seen=run(attrs.evolve(trace, seen=()), on).seen())
