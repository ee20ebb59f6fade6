"""One job of a campaign: histories on one machine, a fixed number of stimuli, the same for the same seed anywhere."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import attrs

from bulkhead.fuzz.boards import MachineFactory, Scenario
from bulkhead.fuzz.coverage import Coverage, Item
from bulkhead.fuzz.grammar import WEIGHTS, Grammar
from bulkhead.fuzz.mutate import mutated
from bulkhead.fuzz.shrink import shrink
from bulkhead.fuzz.stimuli import Stimulus
from bulkhead.fuzz.world import Finding, FoundError, Single, World

ACTIONS = 30
"""Actions of one continuation of a history."""
CONTINUATIONS = 3
"""Continuations of a history from the same state."""
LONGEST = 700
"""Stimuli of a history that may be taken up again."""
KEPT = 6
"""Histories that a job hands back because of new pairs alone."""

History = tuple[Stimulus, ...]


@attrs.frozen
class Job:
    """What is to be run.

    number: of the job in its campaign, from 0; stimuli: about how many to run; parents: histories of this machine to go
    on from; known: what was reached before; weights: of the grammar's actions; single: the implementation alone;
    programs: names of seeds to begin with; until: when it ends in any case, as ``time.time`` tells it.
    """

    scenario: Scenario
    seed: int
    number: int
    stimuli: int
    parents: tuple[History, ...] = ()
    known: frozenset[Item] = frozenset()
    weights: dict[str, float] = attrs.field(factory=lambda: dict(WEIGHTS))
    single: bool = False
    until_failure: bool = False
    programs: tuple[str, ...] = ()
    until: float = math.inf

    @property
    def over(self) -> bool:
        """It has to end."""
        return time.time() > self.until


@attrs.frozen
class Entry:
    """A history that reached something new: the machine, the stimuli, and what was new."""

    scenario: Scenario
    history: History
    new: tuple[Item, ...]


@attrs.frozen
class Failure:
    """A history that ends with a finding; after shrinking, few stimuli."""

    scenario: Scenario
    history: History
    finding: Finding
    shrunk: bool = False


@attrs.define
class Result:
    """What a job found.

    stimuli: that were run; seconds: of this job alone; gains: new items by the grammar's action.
    """

    number: int
    scenario: Scenario
    stimuli: int = 0
    compared: int = 0
    seconds: float = 0.0
    coverage: Coverage = attrs.field(factory=Coverage)
    entries: list[Entry] = attrs.field(factory=list)
    failures: list[Failure] = attrs.field(factory=list)
    gains: Counter[str] = attrs.field(factory=Counter)


_worlds: dict[Any, tuple[Single, Any]] = {}


def world_of(scenario: Scenario, *, single: bool = False, factory: MachineFactory | None = None,
             fresh: bool = False) -> Single:
    """The machines of a scenario as they are at boot; each process boots them once.

    fresh: boot again, for what a breakdown may have left behind.
    """
    key = scenario, single, factory
    if fresh or key not in _worlds:
        if factory is not None:
            # a machine with a flaw is met in one campaign, then never again
            _worlds.clear()
        world = (Single if single else World)(scenario, factory)
        _worlds[key] = world, world.mark()
    world, mark = _worlds[key]
    world.back(mark)
    return world


class OverError(Exception):
    """The time of the campaign is over."""


def run_job(job: Job, factory: MachineFactory | None = None) -> Result:
    """Run a job.

    factory: what makes the implementation's machine, for one with a flaw.
    """
    started = time.perf_counter()
    if job.over:
        # it waited too long: not even its machines are booted
        return Result(job.number, job.scenario)
    rng = random.Random(f"{job.seed}/{job.number}/{job.scenario.name}")
    runner = _Runner(job, rng, factory)
    try:
        for name in job.programs:
            runner.program(name)
        while runner.result.stimuli < job.stimuli and not (job.until_failure and runner.result.failures):
            runner.history()
    except OverError:
        runner.count()
    result = runner.result
    result.seconds = time.perf_counter() - started
    # histories that reached a new answer are all kept, of the others those with the most that is new
    result.entries.sort(key=lambda entry: (_answers(entry), len(entry.new)), reverse=True)
    kept = [entry for entry in result.entries if _answers(entry)]
    result.entries = kept + result.entries[len(kept):len(kept) + KEPT]
    return result


def _answers(entry: Entry) -> int:
    return sum(not isinstance(item[0], tuple) for item in entry.new)


class _Runner:
    """A job that runs."""

    def __init__(self, job: Job, rng: random.Random, factory: MachineFactory | None) -> None:
        self.job, self.rng, self.factory = job, rng, factory
        self.result = Result(job.number, job.scenario)
        self.world = world_of(job.scenario, single=job.single, factory=factory)
        self.local: list[History] = list(job.parents)
        self.base = self.world.taken

    def program(self, name: str) -> None:
        """A seeded history."""
        from bulkhead.fuzz.seeds import SEEDS, Program
        world = self.world = world_of(self.job.scenario, single=self.job.single, factory=self.factory)
        self.base = world.taken
        cover = _Cover(self, world)
        try:
            SEEDS[name](Program(cover))
            world.finish()
        except FoundError as found:
            self._failed(found.finding)
        self.count()
        self._keep(cover)

    def history(self) -> None:
        """One history from boot, continued several times."""
        rng = self.rng
        world = self.world = world_of(self.job.scenario, single=self.job.single, factory=self.factory)
        self.base = world.taken
        cover = _Cover(self, world)
        try:
            if self.local and rng.random() < 0.6:
                self._again(cover)
            else:
                self._prelude(cover)
        except FoundError as found:
            self._failed(found.finding)
            return
        self.count()
        mark = world.mark()
        for number in range(CONTINUATIONS):
            if number:
                world.back(mark)
            self._continue(_Cover(self, world))
            if self.job.until_failure and self.result.failures:
                return

    def _again(self, cover: _Cover) -> None:
        """An earlier history, or its beginning, perhaps changed."""
        rng = self.rng
        parent: Sequence[Stimulus] = rng.choice(self.local)
        if rng.random() < 0.5:
            parent = mutated(parent, rng, rng.choice(self.local))
        if rng.random() < 0.3:
            parent = parent[:rng.randrange(len(parent) + 1)]
        for stimulus in parent[:LONGEST]:
            cover.run(stimulus)

    def _prelude(self, cover: _Cover) -> None:
        """Guests prepare themselves: grant tables mapped, entries written."""
        grammar = Grammar(cover, self.rng, self.job.weights)
        for domain in grammar.runners():
            if self.rng.random() < 0.85:
                grammar.offer(domain)
                for _ in range(self.rng.randrange(6)):
                    if domain.runs:
                        grammar.offer(domain)

    def _continue(self, cover: _Cover) -> None:
        grammar = Grammar(cover, self.rng, self.job.weights)
        try:
            for _ in range(ACTIONS):
                found = len(cover.new)
                name = grammar.step()
                self.result.gains[name] += len(cover.new) - found
                if not name or self.world.machine.panicked:
                    break
            self.world.finish()
        except FoundError as problem:
            self._failed(problem.finding)
        self.count()
        self._keep(cover)

    def _keep(self, cover: _Cover) -> None:
        """A history that reached something new, if it is not too long."""
        if cover.new and cover.length <= LONGEST:
            history = tuple(self.world.history[:cover.length])
            self.result.entries.append(Entry(self.job.scenario, history, tuple(cover.new)))
            self.local.append(history)

    def count(self) -> None:
        """Take the stimuli that were run since the last time into account."""
        self.result.stimuli += self.world.taken - self.base
        self.base = self.world.taken

    def _failed(self, finding: Finding) -> None:
        """Keep the history; what a breakdown left is not trusted again."""
        history = tuple(self.world.history)
        self.result.failures.append(Failure(self.job.scenario, history, finding))
        self.count()
        if "raises" in finding.signature:
            self.world = world_of(self.job.scenario, single=self.job.single, factory=self.factory, fresh=True)
            self.base = self.world.taken


class _Cover:
    """Where a grammar's stimuli go: the world, and what they reach into the coverage."""

    def __init__(self, runner: _Runner, world: Single) -> None:
        self.runner, self.world = runner, world
        self.machine = world.machine
        self.before: Any = None
        self.new: list[Item] = []
        self.length = 0

    def run(self, stimulus: Stimulus) -> Any:
        """One stimulus. Errors: FoundError; OverError when the campaign's time is over."""
        if self.runner.job.over:
            raise OverError
        world = self.world
        seen = world.run(stimulus)
        steps = world.steps
        if steps:
            coverage, known = self.runner.result.coverage, self.runner.job.known
            new = [item for item in coverage.note(steps, self.before) if item not in known]
            if new:
                self.new += new
                self.length = len(world.history)
            self.before = steps[-1]
        return seen


def run_history(scenario: Scenario, history: Sequence[Stimulus], *, single: bool = False,
                factory: MachineFactory | None = None) -> tuple[Finding, int] | None:
    """Run a history from boot: the finding and the number of stimuli up to it, or None if there is none."""
    world = world_of(scenario, single=single, factory=factory)
    done = 0
    try:
        for stimulus in history:
            done += 1
            world.run(stimulus)
        world.finish()
    except FoundError as found:
        if "raises" in found.finding.signature:
            world_of(scenario, single=single, factory=factory, fresh=True)
        return found.finding, done
    return None


def shrink_failure(failure: Failure, *, single: bool = False, factory: MachineFactory | None = None,
                   seconds: float = 30.0) -> Failure:
    """The failure with few stimuli; its finding is that of the short history."""

    def fails(history: Sequence[Stimulus]) -> int | None:
        found = run_history(failure.scenario, history, single=single, factory=factory)
        return found[1] if found is not None and found[0].signature == failure.finding.signature else None

    if fails(failure.history) is None:
        return failure
    short = tuple(shrink(failure.history, fails, seconds=seconds))
    found = run_history(failure.scenario, short, single=single, factory=factory)
    return Failure(failure.scenario, short, failure.finding if found is None else found[0], shrunk=True)


__all__ = ["Entry", "Failure", "History", "Job", "Result", "run_history", "run_job", "shrink_failure", "world_of"]
