"""A campaign: jobs on every machine, led by what they reach, until the time is over.

Jobs are made in order, and their results are taken in the same order, each at a fixed distance behind: so what a job
is given does not depend on how many workers there are, nor on how fast they are. The same seed gives the same jobs
with the same results; the time only says how many of them there will be, and cuts the last ones short.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any, Final

import attrs

from bulkhead.fuzz.boards import MachineFactory, Scenario, scenarios
from bulkhead.fuzz.coverage import Coverage, Item
from bulkhead.fuzz.executors import SerialExecutor
from bulkhead.fuzz.grammar import WEIGHTS
from bulkhead.fuzz.job import Entry, Failure, History, Job, Result, run_job, shrink_failure

AHEAD: Final = 32
"""Jobs between a job and the last result that it may know of; more workers than that would wait."""
JOB_STIMULI: Final = 1200
PARENTS: Final = 6
"""Histories that a job is given to go on from."""
PROGRAMS: Final = 2
"""Seeded programs that a job begins with, until all have been on its machine."""
MOST_ENTRIES: Final = 600
SHRUNK: Final = 1
"""Failures of one signature that are shrunk; more are counted."""
SHRINK_SECONDS: Final = 20.0


@attrs.define
class Progress:
    """What a campaign found so far.

    seen: failures by signature, all of them; failures: shrunk, a few of each signature; complete: the time was used up
    or the jobs were done, nobody stopped it.
    """

    seed: int
    boards: tuple[str, ...]
    jobs: int = 0
    stimuli: int = 0
    seconds: float = 0.0
    worked: float = 0.0
    coverage: Coverage = attrs.field(factory=Coverage)
    entries: list[Entry] = attrs.field(factory=list)
    failures: list[Failure] = attrs.field(factory=list)
    seen: Counter[str] = attrs.field(factory=Counter)
    by_board: Counter[str] = attrs.field(factory=Counter)
    lost: int = 0
    complete: bool = False
    newest: str = ""

    @property
    def rate(self) -> float:
        """Compared stimuli a minute."""
        return 60 * self.stimuli / self.seconds if self.seconds else 0.0


Show = Callable[[Progress], None]


class Campaign:
    """One campaign.

    seed: of every choice; machines: scenarios, taken in turn; pool: where jobs run; factory: what makes the
    implementation's machine, picklable if the pool needs it; programs: names of seeds (`bulkhead.fuzz.seeds`) that each
    machine begins with; single: the implementation alone; until_failure: the first failure ends it; ahead: see AHEAD;
    clock: tells the seconds; without one it is the wall's, by which jobs that still run then end as well.
    """

    def __init__(self, seed: int, machines: Sequence[Scenario], pool: Executor, *,
                 factory: MachineFactory | None = None, programs: Sequence[str] = (),
                 single: bool = False, until_failure: bool = False, ahead: int = AHEAD,
                 job_stimuli: int = JOB_STIMULI, clock: Callable[[], float] | None = None) -> None:
        self.seed, self.machines, self.pool, self.factory = seed, tuple(machines), pool, factory
        self.single, self.until_failure, self.ahead, self.job_stimuli = single, until_failure, ahead, job_stimuli
        self.clock, self.cuts = clock or time.monotonic, clock is None
        self.progress = Progress(seed, tuple(dict.fromkeys(each.board for each in machines)))
        self.rng = random.Random(f"campaign/{seed}")
        self.known: set[Item] = set()
        self.gains: Counter[str] = Counter()
        self.rarity: Counter[Item] = Counter()
        self.programs = tuple(programs)
        self.number = 0
        self.waiting: deque[Future[Result]] = deque()
        self.shrinking: list[Future[Failure]] = []
        self.started = 0.0
        self.over = math.inf

    # ---- jobs ------------------------------------------------------------------------------------------------------

    def _job(self) -> Job:
        """The next job, from what is known now."""
        scenario = self.machines[self.number % len(self.machines)]
        parents = self._parents(scenario)
        job = Job(scenario, self.seed, self.number, self.job_stimuli, parents, frozenset(self.known), self._weights(),
                  self.single, self.until_failure, self._programs(), self.over)
        self.number += 1
        return job

    def _programs(self) -> tuple[str, ...]:
        """The seeds of the next job: soon all of them somewhere, later all of them on each machine."""
        number = len(self.programs)
        turn, place = divmod(self.number, len(self.machines))
        if turn * PROGRAMS >= number:
            return ()
        first = place * PROGRAMS + turn * (PROGRAMS * len(self.machines) + 1)
        return tuple(self.programs[(first + i) % number] for i in range(min(PROGRAMS, number)))

    def _parents(self, scenario: Scenario) -> tuple[History, ...]:
        """Histories of this machine, those with rare items more often."""
        entries = [entry for entry in self.progress.entries if entry.scenario == scenario]
        if not entries:
            # a history of another machine is a history too, seldom a useful one
            entries = [entry for entry in self.progress.entries if entry.scenario.board == scenario.board]
        if not entries:
            return ()
        weights = [1 / min(self.rarity[item] for item in entry.new) for entry in entries]
        return tuple(entry.history for entry in self.rng.choices(entries, weights, k=PARENTS))

    def _weights(self) -> dict[str, float]:
        """The grammar's weights, moved towards actions that found much."""
        total = sum(self.gains.values()) or 1
        return {name: weight * (0.6 + 0.4 * len(WEIGHTS) * self.gains[name] / total) if total > 50 else weight
                for name, weight in WEIGHTS.items()}

    def _submit(self) -> None:
        self.waiting.append(self.pool.submit(run_job, self._job(), self.factory))

    def _take(self, result: Result) -> None:
        """Take a result into account."""
        progress = self.progress
        progress.jobs += 1
        progress.stimuli += result.stimuli
        progress.worked += result.seconds
        progress.by_board[result.scenario.board] += result.stimuli
        new = progress.coverage.merge(result.coverage)
        if new:
            answers = [item for item in new if not isinstance(item[0], tuple)]
            if answers:
                progress.newest = " ".join(map(str, answers[-1]))
        for entry in result.entries:
            fresh = tuple(item for item in entry.new if item not in self.known)
            if fresh and len(progress.entries) < MOST_ENTRIES:
                progress.entries.append(Entry(entry.scenario, entry.history, fresh))
                self.rarity.update(fresh)
                self.known.update(fresh)
        self.known.update(new)
        self.rarity.update(item for item in result.coverage.answers)
        self.gains.update(result.gains)
        for failure in result.failures:
            self._failed(failure)

    def _failed(self, failure: Failure) -> None:
        signature = failure.finding.signature
        self.progress.seen[signature] += 1
        if self.progress.seen[signature] > SHRUNK:
            return
        if self.progress.seen[signature] == 1:
            self.progress.newest = f"failure: {failure.finding.text.splitlines()[0]}"
        if self.until_failure:
            self.progress.failures.append(failure)
            return
        self.shrinking.append(self.pool.submit(shrink_failure, failure, single=self.single, factory=self.factory,
                                               seconds=SHRINK_SECONDS))

    # ---- the run -----------------------------------------------------------------------------------------------------

    def run(self, seconds: float, *, jobs: int = 0, show: Show | None = None) -> Progress:
        """Run for so long, or for so many jobs if that is not 0; a key that interrupts leaves what is known.

        show: called now and then.
        """
        self.started = self.clock()
        if self.cuts and not jobs:
            self.over = time.time() + seconds
        try:
            self._loop(seconds, jobs, show)
            self.progress.complete = True
        except KeyboardInterrupt:
            self._interrupted()
        self._tick(show)
        return self.progress

    def _loop(self, seconds: float, jobs: int, show: Show | None) -> None:
        until = self.started + seconds
        while True:
            # results are taken exactly `ahead` jobs behind, so that a job's parents do not depend on speed
            while len(self.waiting) < self.ahead and self._more(until, jobs):
                self._submit()
                self._tick(show)
            if not self.waiting:
                break
            over = not self._more(until, jobs)
            future = self.waiting[0]
            if over and not jobs and future.cancel():
                self.waiting.popleft()
                continue
            result = self._wait(future, show)
            self.waiting.popleft()
            if result is not None:
                self._take(result)
            self._tick(show)
        for shrunk in self.shrinking:
            failure = self._wait(shrunk, show)
            if failure is not None:
                self.progress.failures.append(failure)
            self._tick(show)
        self.shrinking.clear()

    def _interrupted(self) -> None:
        """Keep what is done, give up the rest."""
        pending: tuple[Future[Any], ...] = (*self.waiting, *self.shrinking)
        for each in pending:
            each.cancel()
        for future in self.waiting:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._take(future.result())
        for shrunk in self.shrinking:
            if shrunk.done() and not shrunk.cancelled() and shrunk.exception() is None:
                self.progress.failures.append(shrunk.result())

    def _more(self, until: float, jobs: int) -> bool:
        """There is time for another job."""
        if self.until_failure and (self.progress.failures or self.progress.lost):
            return False
        return self.number < jobs if jobs else self.clock() < until

    def _wait(self, future: Future[Any], show: Show | None) -> Any:
        """The result of a future, the display kept alive meanwhile; None if its worker is lost for good."""
        while True:
            try:
                return future.result(timeout=0.5)
            except TimeoutError:
                if future.done():
                    raise
                self._tick(show)
            except KeyboardInterrupt:
                raise
            except Exception as problem:  # noqa: BLE001, whatever became of the worker
                self.progress.lost += 1
                self.progress.newest = f"a job was lost: {type(problem).__name__}: {problem}"
                return None

    def _tick(self, show: Show | None) -> None:
        self.progress.seconds = self.clock() - self.started
        if show is not None:
            show(self.progress)


def run(seed: int, seconds: float, machine_factory: MachineFactory | None = None, *, boards: tuple[str, ...] = (),
        until_failure: bool = True) -> Progress:
    """A campaign in this process, for a machine with a flaw: it ends at the first failure.

    boards: names (none: one of each architecture). machine_factory: makes the implementation's machine from RAM and
    configuration. Errors: BadInputError.
    """
    from bulkhead.fuzz.seeds import SEEDS
    machines = scenarios(boards or ("foundation-v8", "vexpress-a15"))
    programs = tuple(SEEDS)
    campaign = Campaign(seed, machines, SerialExecutor(), factory=machine_factory, programs=programs,
                        until_failure=until_failure, ahead=1, job_stimuli=400)
    return campaign.run(seconds)


__all__ = ["Campaign", "Progress", "run"]
