"""One boot of real Xen: batches of stimuli, followed by the specification and compared.

What Xen is free to choose is read back. Handles are what the twin foresees: Xen writes them into guest memory, which is
compared. A frame that a domain was populated with is the one that Xen's tables show at its gfn when the batch is over;
where they show it no more, or never do, it has a made-up name, and the name gets its meaning when it is seen first: in
a table, or as the machine address that a grant's mapper is told. Two names never mean one frame.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from bulkhead.conformance.compare import Comparison
from bulkhead.conformance.guests import Batch, Given, Taken, foreseen
from bulkhead.conformance.machines import Twins
from bulkhead.fuzz.coverage import Answer
from bulkhead.fuzz.grammar import TABLE_GFN
from bulkhead.fuzz.stimuli import Stimulus, called, give, show
from bulkhead.fuzz.world import follow
from bulkhead.oracle.machine import Observation as Expected
from bulkhead.oracle.machine import Saved
from bulkhead.oracle.projection import Difference, observation_difference
from bulkhead.oracle.tables import Words
from impl.fast import abi
from impl.fast.grant.layouts import MAP, GNTTABOP_map_grant_ref
from impl.fast.machine import Observation
from impl.xen.machine import Stimulus as XenStimulus
from spec.language.tables import schemas
from spec.state import State

Rows = set[tuple[str, Any]]
"""Rows of the specification's tables, by table and key; of memory whole frames."""
TABLES: Final = tuple(name for name, schema in schemas(State).items() if not schema.ghost and name != "copy_side")
"""Those that last from call to call."""

PREEMPTIONS: Final = 6
"""First checks for preemption that are tried in any case, where Xen ended a call as if it had been preempted."""
SCHED_OP: Final = 29
YIELDS: Final = 16
"""Calls of SCHEDOP_yield for each domain that is gone, after which Xen has done what it deferred: it frees a domain's
VMID, and lets go of the domain that it was the device model of, when its processors have passed a point of rest.
Source: xen/common/domain.c (complete_domain_destroy), xen/common/rcupdate.c.
"""
BUS_ADDRESS: Final = 24
"""Where the argument of map_grant_ref has dev_bus_addr. Source: xen/include/public/grant_table.h."""
LPAE_SYNDROME: Final = 0x222
"""What Xen tells a guest of 32 bits of an abort when the guest's own tables have the long format, instead of 2: the
payload's have from the first time on that it switches its cache. Source: xen/arch/arm/traps.c (inject_abt32_exception).
"""


@attrs.frozen
class Disagreement:
    """Real Xen and the specification differ. at: the stimulus of the batch, or its number of stimuli for the tables."""

    at: int
    stimulus: Stimulus | None
    difference: Difference

    @property
    def text(self) -> str:
        """In Xen's terms."""
        what = "after the batch" if self.stimulus is None else show(self.stimulus)
        return f"{what}: {self.difference.text}"


@attrs.define
class Outcome:
    """What became of a batch. trail: the specification's answers, of each stimulus; preempted: calls that Xen cut."""

    stimuli: int
    disagreements: list[Disagreement] = attrs.field(factory=list)
    trail: list[list[Answer]] = attrs.field(factory=list)
    preempted: int = 0
    stuck: int = 0
    seconds_xen: float = 0.0
    seconds_spec: float = 0.0
    ended: str = ""


class Session:
    """Real Xen and the specification, side by side.

    twins: just booted. history, seen: stimuli since then, and what Xen showed of each; comparison: tables and memory;
    twins_names: Xen's frames behind names of the twin of ``impl.fast``.
    """

    def __init__(self, twins: Twins) -> None:
        self.twins = twins
        self.xen, self.oracle, self.fast = twins.xen, twins.oracle, twins.fast
        self.comparison = Comparison(twins)
        self.twins_names: dict[int, int] = {}
        self._lpae: set[Any] = set()            # (domain, vCPU) of 32 bits whose tables have the long format
        self.history: list[Stimulus] = []
        self.seen: list[Observation] = []
        self._twin_follows = True               # no call that Xen cut has ended otherwise than the twin foresaw
        self._cuts: dict[int, dict[int, bytes]] = {}    # where one has, by its place in the batch: pages as they are
        self._start = self.fast.snapshot()      # the twin when the last batch had been compared

    def prelude(self) -> Outcome:
        """Every domain maps its shared_info and its first grant frame, so that Xen's tables show where these are."""
        batch = Batch(self.twins)
        for number in sorted(self.twins.kept):
            domain = self.fast.domains[number]
            page = batch.twins.xen.ram(number)[0]
            for space, gfn in ((0, TABLE_GFN + 0x40), (1, TABLE_GFN)):
                data = abi.ADD_TO_PHYSMAP.pack(abi.DOMID_SELF, 0, space, 0, gfn)
                for at in range(0, len(data), 8):
                    batch.run(("store", number, 0, page + at, 8, int.from_bytes(data[at:at + 8], "little")))
                batch.run(("hypercall", number, 0, {16 if domain.width == 64 else 12: abi.HYPERCALL_MEMORY_OP,
                                                    0: abi.XENMEM_add_to_physmap, 1: page}, 0))
        return self.run(batch.given)

    # ---- a batch

    def run(self, given: Sequence[Given]) -> Outcome:
        """Give a batch to real Xen, follow it with the specification, and compare everything."""
        outcome = Outcome(len(given))
        started = time.perf_counter()
        seen = self._give(given)
        changed = self._read_tables()
        outcome.seconds_xen = time.perf_counter() - started
        started = time.perf_counter()
        self._compare(given, seen, changed, outcome)
        # what came free means nothing any more
        owner = self.fast.frames.owner_of
        self.twins_names = {name: meant for name, meant in self.twins_names.items() if owner(name) is not None}
        outcome.seconds_spec = time.perf_counter() - started
        return outcome

    def _give(self, given: Sequence[Given]) -> list[Observation]:
        """What Xen shows of a batch; where a domain is gone for good, the guest yields until it is."""
        stimuli: list[XenStimulus] = []
        places = []
        for each in given:
            places.append(len(stimuli))
            stimuli.append(for_xen(each.stimulus))
            if each.forgets:
                _, domain, vcpu, *_ = each.stimulus
                number = 16 if self.fast.domains[domain].width == 64 else 12
                call = XenStimulus("hypercall", domain, vcpu, registers=((0, 0), (number, SCHED_OP)))
                stimuli += [call] * (YIELDS * each.forgets)
        seen = self.xen.give(stimuli)
        return [seen[place] for place in places]

    def _compare(self, given: Sequence[Given], seen: Sequence[Observation], changed: dict[int, dict[int, int]],
                 outcome: Outcome) -> None:
        """The specification follows a batch, up to the first difference; then the tables, and memory."""
        new = [self._new_names(each) for each in given]
        last_taken = {name: number for number, names in enumerate(new) for name in names}
        for number, (each, shown) in enumerate(zip(given, seen, strict=True)):
            self.history.append(each.stimulus)
            self.seen.append(shown)
            for name in new[number]:
                self.comparison.forget(name)
                self.twins_names.pop(name, None)
            # a name that is taken again in this batch is another frame in Xen's tables by now
            names = self._chosen(part for part in each.taken if all(
                last_taken[name] == number for name in range(part.name, part.name + part.frames)))
            if any(part.name not in names and not self.twins.is_made_up(part.name) for part in each.taken):
                # the twin has no name left that means nothing yet
                outcome.ended = "names"
                return
            choices = [(kind, names.get(name, name) if kind == "frame" else name) for kind, name in each.choices]
            difference = self._follow(each.stimulus, shown, choices, outcome)
            outcome.stuck += shown.kind == "stuck"
            if difference is not None and difference.what == "choice" and not (
                    self._twin_follows and not self._cuts and each.foreseen == foreseen(shown)):
                # the twin was wrong of what Xen did, not the specification; it is of no use any more
                outcome.ended = "foresight"
                return
            if difference is not None and self.comparison.astray():
                outcome.ended = self.comparison.astray()
                return
            if difference is not None:
                outcome.disagreements.append(Disagreement(number, each.stimulus, difference))
            last = each.foreseen[0] if each.foreseen[0] == "restart" else shown.kind
            ended = last if last in {"panic", "crash", "restart"} else ""
            if difference is not None or ended:
                outcome.ended = ended or "difference"
                return
        found = self.comparison.batch(changed)
        outcome.ended = self.comparison.astray()
        if not outcome.ended:
            outcome.disagreements += [Disagreement(len(given), None, each) for each in found]
        if not outcome.ended and not (self._twin_follows and self._twin_repeats(given)):
            outcome.ended = "foresight"
        # Xen's frame numbers, and the time of day: the guests' next calls may take them for arguments
        self._tell_twin(self.comparison.pages)
        self._cuts = {}
        self._start = self.fast.snapshot()

    def _note_cut(self, uncut: Saved, cut: Saved, rows: Rows) -> None:
        """A call that Xen has cut is over: what differs from the same call in one go. The place in the batch is that of
        the last stimulus of `history`.
        """
        pages = {key for name, key in rows if name == "word"}
        words = uncut.state.word, cut.state.word
        assert isinstance(words[0], Words)
        assert isinstance(words[1], Words)
        found = {mfn: words[1].page(mfn).words for mfn in pages if words[0].page(mfn).words != words[1].page(mfn).words}
        others = [(saved.guests, saved.shapes, saved.listed) for saved in (uncut, cut)]
        self._twin_follows &= others[0] == others[1] and all(
            getattr(uncut.state, name)[key] == getattr(cut.state, name)[key] for name, key in rows if name != "word")
        if found:
            self._cuts[len(self.history)] = found

    def _twin_repeats(self, given: Sequence[Given]) -> bool:
        """The twin takes the batch again, with the pages as Xen's cuts left them: it foresees just the same.

        If it does not, later stimuli of the batch were made for another machine than real Xen.
        """
        if not self._cuts:
            return True
        self.fast.restore(self._start)
        for place, each in enumerate(given, len(self.history) - len(given) + 1):
            seen = give(self.fast, each.stimulus)
            if each.foreseen != foreseen(seen) or each.choices != seen.choices:
                return False
            self._tell_twin(self._cuts.get(place, {}))
        return True

    def _tell_twin(self, pages: Mapping[int, bytes]) -> None:
        """Guest memory of the twin is made to hold this, by the specification's names of frames."""
        if not pages:
            return
        memory, names = self.fast.memory, {meant: name for name, meant in self.twins_names.items()}
        for mfn, data in pages.items():
            name = names.get(mfn, mfn)
            if memory.read(name, 0, len(data)) != data:
                memory.write(name, 0, data)

    def _read_tables(self) -> dict[int, dict[int, int]]:
        """What changed in Xen's tables; the machine stands still from now on, so that it takes no processor.

        Those of a machine that stopped, too: they tell the choices up to then.
        """
        if self.xen.qemu.alive:
            self.xen.qemu.hold()
        return self.twins.update()

    def _chosen(self, taken: Iterable[Taken]) -> dict[int, int]:
        """The names of new frames, where Xen's tables show them."""
        found: dict[int, int] = {}
        for each in taken:
            tracker = self.twins.trackers.get(each.domain)
            for i in range(each.frames if tracker is not None else 0):
                leaf = tracker.find(each.gfn + i) if tracker is not None else None
                if leaf is not None and leaf.type == 1 and self.fast.domains[each.domain].p2m.find(
                        each.gfn + i)[0] == each.name + i:
                    found[each.name] = leaf.mfn - i
                    self.twins_names.update((each.name + j, leaf.mfn - i + j) for j in range(each.frames))
                    break
        return found

    @staticmethod
    def _new_names(given: Given) -> set[int]:
        """The names of frames that came with a stimulus, whatever they meant before."""
        found = {name for kind, name in given.choices if kind == "frame"}
        for each in given.taken:
            found.update(range(each.name, each.name + each.frames))
        return found

    # ---- a stimulus

    def _follow(self, stimulus: Stimulus, seen: Observation, choices: list[tuple[str, int]], outcome: Outcome
                ) -> Difference | None:
        """The specification takes a stimulus with Xen's choices; how it differs."""
        oracle = self.oracle
        before = oracle.snapshot() if stimulus[0] == "hypercall" else None
        expected = follow(oracle, stimulus, choices)
        trail = list(oracle.trail)
        difference = self._differs(stimulus, expected, seen)
        if difference is not None and before is not None and expected.kind == seen.kind == "value":
            uncut, written, left = oracle.snapshot(), self._written(), oracle.left_over()
            for check in self._checks(stimulus, seen):
                oracle.restore(before)
                again, more = self._preempted(stimulus, choices, check)
                if again is not None and self._differs(stimulus, again, seen) is None:
                    outcome.preempted += 1
                    difference, trail = None, list(oracle.trail)
                    # an argument that its own call has changed is read again
                    if oracle.left_over() != left:
                        self._twin_follows = False
                    self._note_cut(uncut, oracle.snapshot(), written | more)
                    break
            if difference is not None:
                oracle.restore(before)
                follow(oracle, stimulus, choices)
        if difference is None and seen.reason.startswith("registers"):
            difference = Difference("observation", f"Xen changed {seen.reason}")
        for kind, name in oracle.left_over():
            if difference is None:
                difference = Difference("choice", f"the twin foresaw a {kind} {name:#x}, and no step has asked for one")
        if stimulus[0] == "hypercall":
            self._tell_addresses(stimulus)
        self.comparison.touched()
        outcome.trail.append(trail)
        if stimulus[0] == "toggle_cache" and oracle.guests[stimulus[1]].width == 32:
            self._lpae.add(stimulus[1:3])
        if stimulus[0] in {"set_way", "toggle_cache"} and expected.kind == "value":
            # the payload runs on, in its own pages
            oracle.load(stimulus[1], stimulus[2], self.twins.kept[stimulus[1]].start << 12, 8, ())
            self.comparison.touched()
        return difference

    def _tell_addresses(self, stimulus: Stimulus) -> None:
        """Where a call to map grants tells machine addresses."""
        registers = stimulus[3]
        if called(registers) == (abi.HYPERCALL_GRANT_TABLE_OP, GNTTABOP_map_grant_ref):
            count, address = registers.get(2, 0) & abi.MASK32, registers.get(1, 0) & self.fast.address_mask
            self.comparison.told(stimulus[1], [address + MAP.size * i + BUS_ADDRESS for i in range(min(count, 64))])

    @staticmethod
    def _checks(stimulus: Stimulus, seen: Observation) -> list[int]:
        """The checks for preemption at which Xen may have cut a call, as the registers that it left tell.

        A call on a list counts the rest down in register 2, and checks at each item, or at each 32; one on extents
        answers how many it did, where its argument has changed under it when it goes on.
        """
        assert seen.registers is not None
        done = stimulus[3].get(2, 0) - seen.registers[2]
        likely = [done, done // 32, done - 1, done + 1] if done > 0 else []
        if called(stimulus[3])[0] == abi.HYPERCALL_MEMORY_OP and seen.registers[0] >> 31 == 0:
            likely.append(seen.registers[0] - (stimulus[3].get(0, 0) >> 6))
        return list(dict.fromkeys(check for check in [*likely, *range(1, PREEMPTIONS)] if check > 0))

    def _written(self) -> Rows:
        """The rows that the specification's last stimulus has written."""
        return {(name, key) for name in TABLES for key in self.oracle.logs[name].keys}

    def _preempted(self, stimulus: Stimulus, choices: list[tuple[str, int]], check: int
                   ) -> tuple[Expected | None, Rows]:
        """The call as it ends when it is preempted at a check, and made again by Xen, and the rows that it wrote.

        None if it has no such check.
        """
        oracle, (_, domain, vcpu, registers, _) = self.oracle, stimulus
        oracle.preempt_after(check)
        first = oracle.hypercall(domain, vcpu, registers, choices)
        if not first.restart or first.registers is None:
            return None, set()
        trail, written = list(oracle.trail), self._written()
        self.comparison.touched()
        left = dict(enumerate(first.registers))
        rest = [(kind, name) for kind, name in oracle.left_over()]
        last = oracle.hypercall(domain, vcpu, left, rest)
        oracle.trail = trail + oracle.trail
        return last, written | self._written()

    def _differs(self, stimulus: Stimulus, expected: Expected, seen: Observation) -> Difference | None:
        if seen.kind == "illegal":
            # a fetch that could not be tried
            return None
        if seen.kind == expected.kind == "panic" or (expected.kind == "restart" and seen.kind == "stuck"):
            return None
        if seen.kind == expected.kind == "stuck":
            # where an access that crosses pages is held is not seen
            seen = attrs.evolve(seen, fault=expected.fault)
        if seen.fault is not None and seen.fault[3] == LPAE_SYNDROME and stimulus[1:3] in self._lpae:
            seen = attrs.evolve(seen, fault=(*seen.fault[:3], 2))
        difference = observation_difference(expected, seen)
        if difference is not None and stimulus[0] == "load" and expected.value is not None and seen.value is not None:
            return self.comparison.named(stimulus, expected.value, seen.value, difference)
        return difference


def for_xen(stimulus: Stimulus) -> XenStimulus:
    """A stimulus as real Xen is given it."""
    kind, domain, vcpu, *rest = stimulus
    if kind == "store":
        return XenStimulus("store", domain, vcpu, *rest)
    if kind == "load":
        return XenStimulus("load", domain, vcpu, *rest)
    if kind == "fetch":
        return XenStimulus("fetch", domain, vcpu, rest[0], 4)
    if kind == "hypercall":
        return XenStimulus("hypercall", domain, vcpu, registers=tuple(sorted(rest[0].items())))
    if kind == "set_way":
        return XenStimulus("set_way", domain, vcpu)
    return XenStimulus("toggle_cache", domain, vcpu, enabled=rest[0])


__all__ = ["Batch", "Disagreement", "Outcome", "Session", "for_xen"]
