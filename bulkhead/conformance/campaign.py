"""A campaign on real Xen: sessions on every machine in turn, each a boot and a fixed number of batches.

What a session does depends on the seed, its number and its machine alone, as far as Xen does the same again; the time
only says how many sessions there are.
"""

from __future__ import annotations

import contextlib
import random
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs

from bulkhead.conformance.guests import Batch, Given, Guests
from bulkhead.conformance.machines import Place, Twins, boot
from bulkhead.conformance.session import Disagreement, Outcome, Session
from bulkhead.fuzz.campaign import Progress as FuzzProgress
from bulkhead.fuzz.coverage import Answer
from bulkhead.fuzz.seeds import SEEDS, Program
from bulkhead.fuzz.shrink import shrink
from bulkhead.fuzz.stimuli import Stimulus
from bulkhead.fuzz.world import Finding, differs
from bulkhead.oracle.projection import Difference
from impl.fast.machine import Observation
from impl.xen.errors import XenError
from impl.xen.install import Installation

BATCH: Final = 400
"""Stimuli of a batch, about."""
BATCHES: Final = 150
"""Batches of a session."""
PROGRAMS: Final = 7
"""The fuzzer's programs (`bulkhead.fuzz.seeds`) with which a session begins."""
ALONE: Final = 3
"""Of so many batches one is of a single domU."""
WHOLE: Final = 15
"""Batches after which everything is compared, not only what was touched."""
NOT_HERE: Final = frozenset({"heap-is-exhausted", "tables-grow-into-the-last-frames", "every-vmid-is-taken"})
"""Programs that take all there is: how much memory that is, the twins do not know, nor when Xen frees a VMID."""
SHRINK_SECONDS: Final = 120.0
SHRUNK: Final = 1
"""Failures of one signature that are shrunk; more are counted."""

History = tuple[Stimulus, ...]


@attrs.frozen
class Failure:
    """A difference between real Xen and the specification. history: since boot; seen: what Xen showed of each."""

    place: Place
    history: History
    finding: Finding
    seen: tuple[Observation, ...] = ()
    shrunk: bool = False


@attrs.define
class Progress(FuzzProgress):
    """What a campaign on real Xen found so far.

    boots: of Xen; batches: given; stuck: accesses that were tried for ever; preempted: calls that Xen cut and made
    again; left_out: what was not given to Xen, by reason; ended: sessions that ended early, by reason;
    seconds_xen, seconds_spec: of giving and of following; alone, seconds_alone: stimuli of batches of a single domU,
    and the time of both; rows, pages: compared beside the observations;
    by_kind, answers_by_kind: of each kind of machine; provenance: of each kind.
    """

    boots: int = 0
    batches: int = 0
    stuck: int = 0
    preempted: int = 0
    left_out: Counter[str] = attrs.field(factory=Counter)
    ended: Counter[str] = attrs.field(factory=Counter)
    seconds_xen: float = 0.0
    seconds_spec: float = 0.0
    seconds_boot: float = 0.0
    alone: int = 0
    seconds_alone: float = 0.0
    rows: int = 0
    pages: int = 0
    by_kind: Counter[str] = attrs.field(factory=Counter)
    answers_by_kind: dict[str, set[Answer]] = attrs.field(factory=dict)
    provenance: dict[str, Any] = attrs.field(factory=dict)


Show = Callable[[Progress], None]


class Campaign:
    """One campaign.

    seed: of every choice; machines: taken in turn; installation: of real Xen (None: the usual place); batches: of a
    session; programs: the fuzzer's are run too; keep: is given each failure when it is found.
    """

    def __init__(self, seed: int, machines: Sequence[Place], installation: Installation | None = None, *,
                 batches: int = BATCHES, programs: bool = True,
                 keep: Callable[[Failure], object] | None = None) -> None:
        self.seed, self.machines, self.installation, self.batches = seed, tuple(machines), installation, batches
        self.progress = Progress(seed, tuple(dict.fromkeys(each.kind for each in machines)))
        self.failures: list[Failure] = []
        self.programs, self.keep = programs, keep
        self._started = 0.0
        self._until = 0.0
        self._show: Show | None = None

    def run(self, seconds: float, *, sessions: int = 0, show: Show | None = None) -> Progress:
        """Run for so long, or for so many sessions if that is not 0; a key that interrupts leaves what is known.

        Errors: NotSetUp; BootFailed if a machine does not come up.
        """
        self._started = time.monotonic()
        self._until, self._show = self._started + seconds, show
        number = 0
        try:
            while number < sessions if sessions else time.monotonic() < self._until:
                self._session(number, timed=not sessions)
                number += 1
            self.progress.complete = True
        except KeyboardInterrupt:
            pass
        self._tick()
        return self.progress

    def _tick(self) -> None:
        self.progress.seconds = time.monotonic() - self._started
        if self._show is not None:
            self._show(self.progress)

    def _session(self, number: int, *, timed: bool) -> None:
        """One boot, and batches until it ends."""
        place, progress = self.machines[number % len(self.machines)], self.progress
        rng = random.Random(f"{self.seed}/{number}/{place.name}")
        started = time.monotonic()
        twins = boot(place, self.installation)
        try:
            session = Session(twins)
            progress.jobs += 1
            progress.boots += 1
            progress.seconds_boot += time.monotonic() - started
            progress.provenance.setdefault(place.kind, twins.xen.provenance())
            ended = self._take(place, session, session.prelude())
            late: list[str] = []
            for name in self._programs(number):
                self._tick()
                if ended or (timed and time.monotonic() >= self._until):
                    break
                ended = self._program(place, session, name, late)
            for batch in range(self.batches):
                self._tick()
                if ended or (timed and time.monotonic() >= self._until):
                    break
                last = batch == self.batches - 1
                alone = batch % ALONE == ALONE - 1
                # of two sessions on a machine one may end early, and the other lives to see its domUs die
                daring = number // len(self.machines) % 2 == 1 and batch * 4 >= self.batches * 3
                outcome = session.run(self._foresee(twins, session, rng, alone=alone, ending=last, late=daring))
                if alone:
                    progress.alone += len(outcome.trail)
                    progress.seconds_alone += outcome.seconds_xen + outcome.seconds_spec
                ended = self._take(place, session, outcome)
                if not ended and (last or batch % WHOLE == WHOLE - 1):
                    ended = self._whole(place, session)
            ended = ended or self._death(place, session, rng.randrange(1, len(twins.kept)))
            for name in late:
                ended = ended or self._program(place, session, name)
            progress.ended.update([ended] if ended else [])
            progress.rows += session.comparison.compared["rows"]
            progress.pages += session.comparison.compared["pages"]
        finally:
            twins.xen.close()

    def _programs(self, number: int) -> list[str]:
        """The fuzzer's programs of a session: after some sessions all have been on real Xen, later on each machine."""
        names = [name for name in SEEDS if name not in NOT_HERE]
        return [names[(number * PROGRAMS + i) % len(names)] for i in range(PROGRAMS)] if self.programs else []

    def _program(self, place: Place, session: Session, name: str, late: list[str] | None = None) -> str:
        """A program as one batch; why the session has to end, if it has.

        late: where the name goes of one with which a domain or the machine would end.
        """
        before = session.fast.snapshot()
        batch = Batch(session.twins, session.twins_names, late=False)
        # a program was written for a small machine: where it finds nothing to work on, what it did so far is taken
        with contextlib.suppress(LookupError, NameError, AttributeError, struct.error):
            SEEDS[name](Program(batch))
        if batch.over and late is not None:
            late.append(name)
            session.fast.restore(before)
            return ""
        self.progress.left_out.update(batch.left_out)
        if batch.spoilt:
            session.fast.restore(before)
            return ""
        session.twins.placed = batch.placed
        return self._take(place, session, session.run(batch.given)) or ("domain" if batch.over else "")

    def _death(self, place: Place, session: Session, number: int) -> str:
        """At the end of a session a domU dies with all that it has; why the session has to end, if it has."""
        batch = Batch(session.twins, session.twins_names, late=False, ending=True)
        Program(batch).destroy(number)
        return self._take(place, session, session.run(batch.given)) or self._whole(place, session)

    def _foresee(self, twins: Twins, session: Session, rng: random.Random, *, alone: bool, ending: bool,
                 late: bool) -> list[Given]:
        """A batch of random guests' stimuli; one that would have cost a payload its memory is made again."""
        before = twins.fast.snapshot()
        only = rng.randrange(1, 4) if alone and not ending else None
        while True:
            batch = Batch(twins, session.twins_names, late=late, ending=ending)
            guests = Guests(batch, rng, only=only)
            while len(batch.given) < BATCH and not batch.over and not batch.spoilt:
                if not guests.step():
                    break
            self.progress.left_out.update(batch.left_out)
            if not batch.spoilt:
                twins.placed = batch.placed
                return batch.given
            twins.fast.restore(before)

    def _take(self, place: Place, session: Session, outcome: Outcome) -> str:
        """Take what became of a batch into account; why the session has to end, if it has."""
        progress = self.progress
        progress.batches += 1
        done = len(outcome.trail)
        progress.stimuli += done
        progress.by_kind[place.kind] += done
        progress.stuck += outcome.stuck
        progress.preempted += outcome.preempted
        progress.seconds_xen += outcome.seconds_xen
        progress.seconds_spec += outcome.seconds_spec
        known = progress.answers_by_kind.setdefault(place.kind, set())
        before: Answer | None = None
        for steps in outcome.trail:
            new = progress.coverage.note(steps, before)
            known.update(steps)
            if steps:
                before = steps[-1]
            answers = [item for item in new if not isinstance(item[0], tuple)]
            if answers:
                progress.newest = " ".join(map(str, answers[-1]))
        if outcome.disagreements:
            self._failed(place, session, outcome.disagreements)
            return "difference"
        return outcome.ended

    def _whole(self, place: Place, session: Session) -> str:
        found = session.comparison.whole()
        if found:
            self._failed(place, session, [Disagreement(0, None, each) for each in found])
            return "difference"
        return ""

    def _failed(self, place: Place, session: Session, found: Sequence[Disagreement]) -> None:
        finding = finding_of(found)
        self.progress.seen[finding.signature] += 1
        self.progress.newest = f"failure: {finding.text.splitlines()[0]}"
        if self.progress.seen[finding.signature] <= SHRUNK:
            self.failures.append(Failure(place, tuple(session.history), finding, tuple(session.seen)))
            if self.keep is not None:
                self.keep(self.failures[-1])

    def shrink(self, seconds: float = SHRINK_SECONDS) -> None:
        """Shrink the failures; each try boots Xen."""
        for number, failure in enumerate(self.failures):
            try:
                self.failures[number] = shrunk(failure, self.installation, seconds=seconds)
            except (KeyboardInterrupt, XenError):
                return
            self._tick()


def finding_of(found: Sequence[Disagreement]) -> Finding:
    """The finding of what differs first."""
    first = found[0]
    differences: list[Difference] = [each.difference for each in found]
    made = differs(first.stimulus or ("tables", 0, 0), differences)
    return Finding(made.signature, first.text)


def run_history(place: Place, history: Sequence[Stimulus], installation: Installation | None = None
                ) -> tuple[Failure, int] | None:
    """Boot a machine and give it a history: the failure and the number of stimuli up to it, or None if there is none.

    What cannot be driven is left out. Errors: NotSetUp, BootFailed, Refused.
    """
    twins = boot(place, installation)
    try:
        session = Session(twins)
        rest = list(history)
        while rest:
            batch = Batch(twins, session.twins_names, ending=True)
            while rest and len(batch.given) < BATCH and not batch.over:
                batch.run(rest.pop(0))
            outcome = session.run(batch.given)
            if outcome.disagreements:
                finding = finding_of(outcome.disagreements)
                return Failure(place, tuple(session.history), finding, tuple(session.seen)), len(session.history)
            if outcome.ended or batch.over:
                return None
    finally:
        twins.xen.close()
    return None


def shrunk(failure: Failure, installation: Installation | None = None, *, seconds: float) -> Failure:
    """The failure with few stimuli, as far as the time allows: each try is a boot. Errors: as ``run_history``."""
    best = failure

    def fails(history: Sequence[Stimulus]) -> int | None:
        nonlocal best
        found = run_history(failure.place, history, installation)
        if found is None or found[0].finding.signature != failure.finding.signature:
            return None
        best = attrs.evolve(found[0], shrunk=True)
        return found[1]

    if fails(failure.history) is not None:
        shrink(failure.history, fails, seconds=seconds)
    return best


__all__ = ["Campaign", "Failure", "Progress", "finding_of", "run_history", "shrunk"]
