"""The specification as a machine: it is given what guests do, and answers as Xen would.

``spec`` has one step for each item of a hypercall. What stands here makes steps of loads, stores, fetches and
hypercalls, and keeps what the specification leaves out: which vCPUs run, the shape of stage-2 tables (``shape``), and
the frames that Xen takes for itself. Nothing here decides what a step decides.

A choice of the implementation (which free frame, which handle, which page for a table) is handed in with the stimulus
and consumed in order; one that the specification does not allow ends the stimulus with kind "illegal".
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import attrs
import immutables

import spec
from bulkhead.oracle import abi
from bulkhead.oracle.shape import Change, Shape
from bulkhead.oracle.tables import Log, Words
from spec.language import TRANSITIONS, DomId, Gfn, Index, Mfn, Outcome, fill, put, span
from spec.language.outcomes import IllegalChoice, Kind, legal
from spec.language.records import replaced
from spec.language.tables import Table
from spec.memory import heap
from spec.memory.faults import invalidated_pages, reaches
from spec.memory.guestcopy import may_access
from spec.memory.p2m import DEVICE, is_executable, is_live, is_writable
from spec.state import NOBODY, State, Status, Use

for _each in pkgutil.walk_packages(spec.__path__, "spec."):
    importlib.import_module(_each.name)

MASK32: Final = (1 << 32) - 1
MASK64: Final = (1 << 64) - 1
PAGE: Final = 4096

NOT_TOLD: Final = -1
"""The level of a fault: the specification's stage 2 has no levels."""


class UnmodelledError(NotImplementedError):
    """A hypercall or operation that Xen on Arm has and the specification leaves out."""


class MisuseError(ValueError):
    """A stimulus that no guest can give: no such domain or vCPU, a value out of range."""


class PanicError(Exception):
    """Xen itself stops."""


class DomainCrashError(Exception):
    """Raised through a hypercall that crashes its caller, after ``Oracle.crash_domain``; no result is written."""


@attrs.frozen
class Host:
    """What the specification's settings leave out of a host.

    width: 64 or 32 bits of Xen's addresses; ipa_bits: that the hardware translates; root_level, root_frames: of every
    domain's stage 2, frames being 4 KB pages of the root table; ram: (first frame, frames) of each stretch;
    xenheap: of arm32 the frames of Xen's own heap, as (first, frames), or None; gic_version: 2 or 3;
    gic_window: (gfn for others, gfn for the hardware domain, mfn, frames) that a new domain gets mapped, or None;
    vpmu: domains may ask for performance counters; vmids: how many there are; iommu_shares: IOMMUs walk stage 2.
    """

    width: Literal[64, 32]
    ipa_bits: int
    root_level: int
    root_frames: int
    ram: tuple[tuple[int, int], ...]
    xenheap: tuple[int, int] | None = None
    gic_version: int = 2
    gic_window: tuple[int, int, int, int] | None = None
    vpmu: bool = False
    vmids: int = 255
    iommu_shares: bool = False

    @property
    def address_mask(self) -> int:
        """All ones of Xen's unsigned long."""
        return MASK64 if self.width == 64 else MASK32

    @property
    def max_page_bits(self) -> int:
        """Bits of the highest address of RAM."""
        first, frames = self.ram[-1]
        return (first + frames - 1).bit_length() + 12


@attrs.frozen
class Vcpu:
    """A vCPU. online: not down; cache_on: it told Xen so while its cache maintenance was watched."""

    online: bool = True
    cache_on: bool = False


@attrs.frozen
class Guest:
    """What the specification leaves out of a domain.

    width: of its registers; max_vcpus: that it may have; vcpus: those that it has, by number; pauses: how often a
    control domain has paused it; shutdown: its code, or None while it runs; handle: 16 bytes that tools give it;
    pool: unused pages of its pool of tables, next first; maptrack, active: Xen's frames for its maptrack and its active
    entries.
    """

    width: Literal[64, 32]
    max_vcpus: int
    vcpus: immutables.Map[int, Vcpu] = attrs.field(factory=immutables.Map)
    pauses: int = 1
    shutdown: int | None = None
    handle: bytes = bytes(16)
    pool: tuple[int, ...] = ()
    maptrack: tuple[int, ...] = ()
    active: tuple[int, ...] = ()


@attrs.define
class Observation:
    """What a stimulus showed, as ``impl.fast.machine.Observation``.

    kind: "value", "fault", "stuck", "crash", "restart", "panic", or "illegal": the implementation made a choice that
    the specification does not allow (`reason` says which rule).
    registers: 31 after a hypercall; fault: (kind, level, ipa, syndrome), level NOT_TOLD; written: frames written.
    """

    kind: str
    registers: list[int] | None = None
    value: int | None = None
    fault: tuple[str, int, int, int] | None = None
    written: frozenset[int] = frozenset()
    choices: tuple[tuple[str, int], ...] = ()
    reason: str = ""

    @property
    def restart(self) -> bool:
        """The hypercall was preempted and is to be executed again with these registers."""
        return self.kind == "restart"


class Restart:
    """What a hypercall answers when preempted: the argument registers from the first on, for when it runs again."""

    __slots__ = ("arguments",)

    def __init__(self, *arguments: int) -> None:
        self.arguments = arguments


Answer = tuple[str, str, int]
"""A step, how it ended, and its code."""


@attrs.frozen
class Saved:
    """What ``Oracle.snapshot`` returns."""

    state: State
    guests: immutables.Map[int, Guest]
    shapes: immutables.Map[int, Shape]
    listed: immutables.Map[int, int]
    counter: int
    last_domid: int


class Oracle:
    """The specification with a state.

    state: the specification's; guests, shapes: by domain id, what it leaves out; listed: frames of domains, in the
    order in which Xen put them in its lists.
    reached: every answer of a step so far; trail: those of the last stimulus, in order.

    For the operations: ``step`` runs a transition, ``choice`` takes the next choice of the implementation, ``read`` and
    ``write`` copy arguments, ``preempted`` is Xen's preemption check, ``take_hidden`` and ``give_hidden`` are Xen's own
    frames (maptrack, active entries), ``insert``, ``remove`` keep the shape of stage 2.
    """

    def __init__(self, host: Host, state: State, logs: dict[str, Log]) -> None:
        self.host = host
        self.state = state
        self.logs = logs
        self.guests: immutables.Map[int, Guest] = immutables.Map()
        self.shapes: immutables.Map[int, Shape] = immutables.Map()
        self.listed: immutables.Map[int, int] = immutables.Map()
        self.counter = 0
        self.last_domid = 0
        self.reached: set[Answer] = set()
        self.trail: list[Answer] = []
        self.before = state
        self.check: Any = None
        """Called after each step with (oracle, name, actor, state before): evaluates properties."""
        self._choices: dict[str, deque[int]] | None = None
        self._preempt_in: int | None = None
        self._deaths = False

    # ---- steps --------------------------------------------------------------------------------------------------

    def step(self, name: str, /, **arguments: Any) -> Outcome[State]:
        """Run a transition of the specification and keep its state.

        Errors: IllegalChoice if a choice among the arguments is not legal; PanicError if Xen stops.
        """
        transition = TRANSITIONS[name]
        before = self.state
        outcome: Outcome[State] = transition.function(before, **arguments)
        self.state = outcome.state
        self.note(name, outcome.kind, int(outcome.code))
        if self.check is not None:
            self.check(self, name, arguments.get(transition.actor, NOBODY), before)
        if outcome.kind is Kind.CRASH and outcome.output["domain"] == NOBODY:
            raise PanicError(name)
        self._deaths |= name == "kill_domain"
        if self._deaths and outcome.state.domain is not before.domain:
            # the last page of a dead domain may be gone with this
            from bulkhead.oracle.teardown import unlist
            unlist(self)
        return outcome

    def note(self, name: str, kind: Kind, code: int) -> None:
        """An answer of a step was seen."""
        answer = (name, kind.value, code)
        self.reached.add(answer)
        self.trail.append(answer)

    def alive(self, domain: int) -> bool:
        """The domain exists and is not being destroyed."""
        return self.state.domain[DomId(domain)].status == Status.ALIVE

    def exists(self, domain: int) -> bool:
        """The domain is in Xen's list."""
        return domain < 0x7FF0 and self.state.domain[DomId(domain)].status in {Status.ALIVE, Status.DYING, Status.DEAD}

    def guest(self, domain: int, **changes: Any) -> None:
        """Change what the specification leaves out of a domain."""
        self.guests = self.guests.set(domain, attrs.evolve(self.guests[domain], **changes))

    # ---- choices and preemption ---------------------------------------------------------------------------------

    def choice(self, kind: str) -> int | None:
        """The next choice of the implementation of a kind ("frame", "table", "handle"), or None if it made none.

        Without an implementation to follow: the lowest free frame ("frame"), None for other kinds.
        """
        if self._choices is None:
            return self._lowest_free() if kind == "frame" else None
        queue = self._choices.get(kind)
        return queue.popleft() if queue else None

    def queued(self, kind: str) -> int | None:
        """How many choices of a kind the implementation has made that no step has asked for; None without one."""
        return None if self._choices is None else len(self._choices.get(kind, ()))

    @property
    def follows(self) -> bool:
        """The choices of an implementation are followed in this stimulus."""
        return self._choices is not None

    def left_over(self) -> list[tuple[str, int]]:
        """Choices of the implementation that no step has asked for."""
        return [(kind, number) for kind, queue in (self._choices or {}).items() for number in queue]

    def frames_for(self, number: int) -> list[int] | None:
        """So many frames of Xen's heap that the implementation took one after the other; None if there are fewer.

        Then those that it had went back, cleared.  Errors: IllegalChoice if it took fewer than there are.
        """
        left = self._left(number)
        found: list[int] = []
        for _ in range(left):
            mfn = self.choice("frame") if self.follows else self._lowest_free(found)
            legal(mfn is not None, "a frame is had while one is free")
            found.append(mfn or 0)
        if left == number:
            return found
        for mfn in found:
            self.take_hidden(mfn)
        for mfn in found:
            self.give_hidden(mfn)
        return None

    def _left(self, number: int) -> int:
        """How many of so many frames Xen's heap has: those that are promised to nobody, and on arm32 are its own."""
        s, left = self.state, number
        while left and not heap.unclaimed(s, left):
            left -= 1
        if self.host.xenheap is None:
            return left
        first, frames = self.host.xenheap
        return min(left, sum(s.frame[Mfn(mfn)].use == Use.FREE for mfn in range(first, first + frames)))

    def _lowest_free(self, but: Sequence[int] = ()) -> int | None:
        frames: Table[Mfn, Any] = self.state.frame
        for first, number in self.host.ram:
            for mfn in range(first, first + number):
                if frames[Mfn(mfn)].use == Use.FREE and mfn not in but:
                    return mfn
        return None

    def pass_through(self) -> None:
        """Frames that the implementation took and gave back in the same call: what they held is gone."""
        if self._choices is not None:
            self._choices.pop("table", None)
        while (mfn := self.choice("frame") if self.follows else None) is not None:
            self.take_hidden(mfn)
            self.give_hidden(mfn)

    def preempt_after(self, items: int | None) -> None:
        """The next hypercall is preempted at its `items`-th preemption check (1 is the first); None: not at all."""
        if items is not None and items < 1:
            raise MisuseError(f"preempt_after({items}): the first check is number 1")
        self._preempt_in = items

    def preempted(self) -> bool:
        """Something else is pending: the hypercall is to stop here. To be called where Xen checks, and nowhere else.

        Source: hypercall_preempt_check, Xen 4.17.
        """
        if self._preempt_in is None:
            return False
        self._preempt_in -= 1
        if self._preempt_in:
            return False
        self._preempt_in = None
        return True

    # ---- frames -------------------------------------------------------------------------------------------------

    def list_frames(self, mfn: int, number: int = 1) -> None:
        """Frames were put at the end of their owner's list."""
        listed = self.listed
        for each in range(mfn, mfn + number):
            listed = listed.set(each, self.counter)
            self.counter += 1
        self.listed = listed

    def in_order(self, frames: Iterable[int]) -> list[int]:
        """Frames of a domain in the order of Xen's list."""
        return sorted(frames, key=lambda mfn: self.listed.get(mfn, 0))

    def take_hidden(self, mfn: int) -> None:
        """Xen takes a free frame for itself, which the specification leaves out.

        Errors: IllegalChoice if the frame is not free.
        """
        legal(self.state.frame[Mfn(mfn)].use == Use.FREE, "the frame that Xen takes for itself is free")
        s = put(heap.take(self.state, 1), "frame", Mfn(mfn), use=Use.XEN, dirty=False)
        self.state = fill(s, "word", (Mfn(mfn), span(0, 512)), lambda _word, _mfn, _i: {"raw": 0, "secret": True})

    def give_hidden(self, mfn: int) -> None:
        """Xen gives a frame of its own back to the heap, to be scrubbed."""
        self.state = put(heap.give(self.state, 1), "frame", Mfn(mfn), use=Use.FREE, dirty=True)

    # ---- stage 2 ------------------------------------------------------------------------------------------------

    def change(self, domain: int) -> Change:
        """A change of the shape of a domain's stage 2, to be worked out and then made with ``commit``."""
        guest, row = self.guests[domain], self.state.domain[DomId(domain)]
        unused = list(guest.pool)

        chosen = list((self._choices or {}).get("table", ()))

        def take(given: list[int]) -> int | None:
            # a choice is used up once the change is made
            number = len(made.taken)
            wanted = chosen[number] if number < len(chosen) else None
            if row.hardware:
                if not self.follows:
                    return self._lowest_free(made.taken)
                # one that is not free yet was chosen for a later part of the call: now there was none
                free = wanted in given or (wanted is not None and self.state.frame[Mfn(wanted)].use == Use.FREE)
                return wanted if free else None
            if given:
                unused.extend(given)
                given.clear()
            if not unused:
                return None
            if wanted is None:
                wanted = unused[0]
            legal(wanted in unused, "a page for a table is an unused one of the domain's pool")
            unused.remove(wanted)
            return wanted

        made = Change(self.shapes.get(domain, Shape(self.host.root_level)), take)
        made.unused = unused
        return made

    def commit(self, domain: int, change: Change) -> None:
        """Make a change of shape: pages of the pool are taken and given back."""
        self.shapes = self.shapes.set(domain, change.shape())
        for _ in change.taken:
            self.choice("table")
        if self.state.domain[DomId(domain)].hardware:
            given = list(change.given)
            for mfn in change.taken:
                # freed a moment ago
                if mfn in given and self.state.frame[Mfn(mfn)].use == Use.XEN:
                    self.give_hidden(mfn)
                    given.remove(mfn)
                self.take_hidden(mfn)
            for mfn in given:
                self.give_hidden(mfn)
            return
        pool = tuple(change.unused + change.given)
        returned = len(pool) - len(self.guests[domain].pool) + len(change.taken)
        for _ in change.taken:
            if self.state.domain[DomId(domain)].pool_free == 0 and returned:
                self.step("give_table", domain=domain)
                returned -= 1
            self.step("take_table", domain=domain)
        for _ in range(returned):
            self.step("give_table", domain=domain)
        self.guest(domain, pool=pool)

    def enters(self, domain: int, gfn: int, pages: int) -> bool:
        """An insertion for a domain gets as far as its tables: it lives, and the first gfn is under its root table.

        What reaches beyond the end of the root table is mapped up to there.
        """
        return self.alive(domain) and gfn < self.state.settings[Index(0)].root_pages

    def planned(self, domain: int, gfn: int, mfn: int, pages: int, *, removing: bool = False
                ) -> tuple[Change | None, int, int]:
        """What an insertion or a removal makes of the tables: (change, pages done, 0 or the error with which it ends).

        The change is to be made once the step has been; None if the call does not get so far.
        """
        if not self.enters(domain, gfn, pages):
            return None, pages, 0
        change = self.change(domain)
        end = self.state.settings[Index(0)].root_pages
        done, error = change.remove(gfn, pages, end) if removing else change.insert(gfn, mfn, pages, end)
        return change, done, error

    def settle(self, domain: int, change: Change | None, gfn: int, pages: int) -> None:
        """After a step that has inserted: make the change; what lies under invalid table entries is not valid yet.

        The specification says of every new entry that the hardware finds it. It does not under a table whose own entry
        was invalidated: the first access is repaired. See docs/traces.rst, "Known differences".
        """
        if change is None:
            return
        self.commit(domain, change)
        self.finish_replacements(domain, gfn, pages)
        shape = self.shapes[domain]
        for each in range(gfn, gfn + pages):
            if not shape.reached(each) and self.state.p2m[DomId(domain), Gfn(each)].hardware:
                self.state = put(self.state, "p2m", (domain, each), hardware=False)

    def finish_replacements(self, domain: int, gfn: int, pages: int) -> None:
        """Let go what an insertion has replaced."""
        orphans = self.state.orphan
        if not orphans._rows:
            return
        for each in range(gfn, gfn + pages):
            if self.state.orphan[DomId(domain), Gfn(each)].pending:
                self.step("put_orphan", domain=domain, gfn=each)

    def invalidate_root(self, domain: int) -> None:
        """The root table's entries were made invalid by a step: so are the table entries in it."""
        pages = min(self.host.root_level, self.host.root_frames)
        assert pages == (1 if invalidated_pages(self.state) else 0)
        shape = self.shapes.get(domain)
        if shape is not None:
            self.shapes = self.shapes.set(domain, shape.invalidated(pages))

    # ---- arguments ----------------------------------------------------------------------------------------------

    def page_for(self, domain: int, address: int, *, writing: bool) -> int | None:
        """The frame that Xen may access for a caller, or None. address: cut to the width of Xen's addresses."""
        gfn = (address & self.host.address_mask) >> 12
        s = self.state
        if gfn >> self.host.ipa_bits - 12:
            # the hardware translates no such address: only Xen's own tables are asked
            s = put(s, "p2m", (domain, gfn), hardware=False)
        name = "copy_to_guest_word" if writing else "copy_from_guest_word"
        if not may_access(s, DomId(domain), Gfn(gfn), writing):
            self.note(name, Kind.REFUSED, -14)
            return None
        self.note(name, Kind.DONE, 0)
        mfn = s.p2m[DomId(domain), Gfn(gfn)].mfn
        before = self.state
        self.state = put(before, "argument", domain, moment=before.argument[DomId(domain)].moment + 1, wrote=writing,
                         gfn=gfn, mfn=mfn, index=address % PAGE // 8)
        if self.check is not None:
            self.check(self, name, domain, before)
        return mfn

    def read(self, domain: int, address: int, nbytes: int) -> bytes | None:
        """Copy from a caller's memory, page by page; None (EFAULT) if a page may not be accessed."""
        parts = []
        while nbytes:
            mfn = self.page_for(domain, address, writing=False)
            if mfn is None:
                return None
            offset = address % PAGE
            size = min(nbytes, PAGE - offset)
            words = self.state.word
            assert isinstance(words, Words)
            parts.append(words.page(mfn).words[offset:offset + size])
            address, nbytes = address + size, nbytes - size
        return b"".join(parts)

    def write(self, domain: int, address: int, data: bytes) -> bool:
        """Copy to a caller's memory, page by page; False (EFAULT) if a page may not be; those before are written."""
        while data:
            mfn = self.page_for(domain, address, writing=True)
            if mfn is None:
                return False
            offset = address % PAGE
            size = min(len(data), PAGE - offset)
            self.poke(mfn, offset, data[:size])
            address, data = address + size, data[size:]
        return True

    def read_word(self, domain: int, address: int) -> int | None:
        """A 64-bit word of a caller's memory, or None."""
        data = self.read(domain, address, 8)
        return None if data is None else int.from_bytes(data, "little")

    def poke(self, mfn: int, offset: int, data: bytes) -> None:
        """Replace bytes of a frame; offset + len(data) <= 4096."""
        words = self.state.word
        assert isinstance(words, Words)
        self.state = replaced(self.state, "word", words.with_bytes(mfn, offset, data))

    # ---- stimuli ------------------------------------------------------------------------------------------------

    def runs(self, domain: int, vcpu: int) -> bool:
        """The vCPU may run. Errors: MisuseError if there is no such domain or vCPU."""
        guest = self.guests.get(domain)
        if guest is None or not self.exists(domain):
            raise MisuseError(f"there is no domain {domain}")
        if vcpu not in guest.vcpus:
            raise MisuseError(f"domain {domain} has no vCPU {vcpu}")
        return (self.alive(domain) and not guest.pauses and guest.shutdown is None and guest.vcpus[vcpu].online)

    def _begin(self, choices: Iterable[tuple[str, int]] | None) -> None:
        self.before = self.state
        self.trail = []
        for log in self.logs.values():
            if log.keys:
                log.keys = set()
        if choices is None:
            self._choices = None
            return
        self._choices = {}
        for kind, number in choices:
            self._choices.setdefault(kind, deque()).append(number)

    def _written(self) -> frozenset[int]:
        return frozenset(self.logs["word"].keys)

    def load(self, dom: int, vcpu: int, ipa: int, size: int = 8,
             choices: Iterable[tuple[str, int]] | None = None) -> Observation:
        """A load by the guest, stage 1 being the identity. size: 1, 2, 4 or 8 bytes. Errors: MisuseError."""
        return self._access(dom, vcpu, ipa, size, None, choices, fetch=False)

    def store(self, dom: int, vcpu: int, ipa: int, size: int, value: int,
              choices: Iterable[tuple[str, int]] | None = None) -> Observation:
        """A store by the guest; parameters as ``load``, value 0..2**(8*size)-1. Errors: MisuseError."""
        if not 0 <= value < 1 << 8 * size:
            raise MisuseError(f"{value:#x} does not fit in {size} bytes")
        return self._access(dom, vcpu, ipa, size, value, choices, fetch=False)

    def fetch(self, dom: int, vcpu: int, ipa: int, choices: Iterable[tuple[str, int]] | None = None) -> Observation:
        """The fetch of the instruction at `ipa` (4 bytes, aligned). Errors: MisuseError."""
        if ipa & 3:
            raise MisuseError(f"an instruction at {ipa:#x} is not aligned")
        return self._access(dom, vcpu, ipa, 4, None, choices, fetch=True)

    def _access(self, dom: int, vcpu: int, ipa: int, size: int, value: int | None,
                choices: Iterable[tuple[str, int]] | None, *, fetch: bool) -> Observation:
        running = self.runs(dom, vcpu)
        if size not in {1, 2, 4, 8}:
            raise MisuseError(f"no access has {size} bytes")
        if not 0 <= ipa <= MASK64 - 8:
            raise MisuseError(f"there is no address {ipa:#x}")
        self._begin(choices)
        if not running:
            return Observation("stuck")
        first = min(size, PAGE - ipa % PAGE)
        parts = [(ipa, first)] if first == size else [(ipa, first), (ipa + first, size - first)]
        try:
            for address, _ in parts:
                ended = self._translate(dom, vcpu, address, writing=value is not None, fetch=fetch)
                if ended is not None:
                    return ended
            if value is None:
                data = b"".join(self._load(dom, vcpu, address, length, fetch=fetch) for address, length in parts)
                return Observation("value", value=int.from_bytes(data, "little"))
            data = value.to_bytes(size, "little")
            for address, length in parts:
                self._store(dom, vcpu, address, data[:length])
                data = data[length:]
        except IllegalChoice as rule:
            return Observation("illegal", reason=str(rule))
        return Observation("value", written=self._written())

    def _attempt(self, dom: int, vcpu: int, address: int, *, writing: bool, fetch: bool) -> Outcome[State]:
        """An access as a step, without its effect on memory."""
        gfn, index, before = address >> 12, address % PAGE // 8, self.state
        if fetch:
            return self.step("guest_fetch", domain=dom, gfn=gfn, vcpu=vcpu)
        if not writing:
            return self.step("guest_load", domain=dom, gfn=gfn, index=index)
        outcome = self.step("guest_store", domain=dom, vcpu=vcpu, gfn=gfn, index=index, value=0)
        self.state = before
        return outcome

    def _translate(self, dom: int, vcpu: int, address: int, *, writing: bool, fetch: bool) -> Observation | None:
        """Let Xen repair what it can; how the access ends, or None if it goes on.

        Source: xen/arch/arm/traps.c (do_trap_stage2_abort_guest), Xen 4.17.
        """
        gfn = address >> 12
        outside = bool(address >> self.host.ipa_bits)
        while True:
            row = self.state.p2m[DomId(dom), Gfn(gfn)]
            if reaches(row) and not outside:
                permitted = is_writable(row) if writing else is_executable(row) if fetch else True
                if permitted:
                    return None
                self._attempt(dom, vcpu, address, writing=writing, fetch=fetch)
                return Observation("stuck", fault=("permission", NOT_TOLD, address, 0))
            if not outside:
                self._attempt(dom, vcpu, address, writing=writing, fetch=fetch)
            shape = self.shapes.get(dom, Shape(self.host.root_level))
            highest = self.state.domain[DomId(dom)].highest_gfn
            repaired = shape.repaired(gfn) if gfn <= highest else None
            while repaired is not None and not is_live(row):
                # the tables on the way are repaired, although nothing is mapped behind them
                shape = repaired
                self.shapes = self.shapes.set(dom, shape)
                repaired = shape.repaired(gfn)
            order = shape.order_at(gfn, highest) if is_live(row) else 0
            outcome = self.step("translation_fault", domain=dom, gfn=gfn, at_leaf=repaired is None, order=order)
            if outcome.kind is Kind.REFUSED:
                syndrome = 2 if self.guests[dom].width == 32 else 0x86000000 if fetch else 0x96000000
                return Observation("fault", fault=("translation", NOT_TOLD, address, syndrome))
            if repaired is not None:
                self.shapes = self.shapes.set(dom, repaired)
            if outside:
                return Observation("stuck", fault=("translation", NOT_TOLD, address, 0))

    def _load(self, dom: int, vcpu: int, address: int, size: int, *, fetch: bool) -> bytes:
        """Bytes of one page, as the guest reads them; zeros from a device."""
        gfn = address >> 12
        if fetch:
            self.step("guest_fetch", domain=dom, gfn=gfn, vcpu=vcpu)
            row = self.state.p2m[DomId(dom), Gfn(gfn)]
            index = address % PAGE // 8
            word = self.state.word[row.mfn, Index(index)].raw.to_bytes(8, "little")
            return word[address % 8:address % 8 + size]
        data = b""
        while size:
            offset = address % 8
            part = min(size, 8 - offset)
            outcome = self.step("guest_load", domain=dom, gfn=gfn, index=address % PAGE // 8)
            word = outcome.output.get("value", 0).to_bytes(8, "little")
            data += word[offset:offset + part]
            address, size = address + part, size - part
        return data

    def _store(self, dom: int, vcpu: int, address: int, data: bytes) -> None:
        """Bytes of one page, stored by the guest."""
        gfn = address >> 12
        mfn = self.state.p2m[DomId(dom), Gfn(gfn)].mfn
        device = self.state.p2m[DomId(dom), Gfn(gfn)].type in DEVICE
        while data:
            offset, index = address % 8, address % PAGE // 8
            part = min(len(data), 8 - offset)
            old = 0 if device else self.state.word[mfn, Index(index)].raw
            word = old.to_bytes(8, "little")
            value = int.from_bytes(word[:offset] + data[:part] + word[offset + part:], "little")
            self.step("guest_store", domain=dom, vcpu=vcpu, gfn=gfn, index=index, value=value)
            address, data = address + part, data[part:]

    # ---- cache maintenance --------------------------------------------------------------------------------------

    def set_way(self, dom: int, vcpu: int) -> Observation:
        """A cache operation by set and way, trapped: all of the domain's RAM is flushed before the vCPU goes on."""
        running = self.runs(dom, vcpu)
        self._begin(())
        if not running:
            return Observation("stuck")
        try:
            if self.step("set_way_flush", domain=dom, vcpu=vcpu).kind is Kind.REFUSED:
                syndrome = 0x02000000 if self.guests[dom].width == 64 else 0
                return Observation("fault", fault=("undefined", NOT_TOLD, 0, syndrome))
            self._flush(dom, vcpu)
        except IllegalChoice as rule:
            return Observation("illegal", reason=str(rule))
        return Observation("value")

    def toggle_cache(self, dom: int, vcpu: int, *, enabled: bool) -> Observation:
        """The vCPU turns its cache on or off: Xen sees it only after ``set_way``, until it is on again."""
        running = self.runs(dom, vcpu)
        self._begin(())
        if not running:
            return Observation("stuck")
        guest = self.guests[dom]
        try:
            if self.state.vcpu[DomId(dom), vcpu].traps:  # type: ignore[index]
                if enabled != guest.vcpus[vcpu].cache_on:
                    self.step("toggle_cache", domain=dom, vcpu=vcpu, enabled=enabled)
                    self._flush(dom, vcpu)
                elif enabled:
                    # written again without a change: Xen stops watching and flushes nothing
                    self.state = put(self.state, "vcpu", (dom, vcpu), traps=False)
        except IllegalChoice as rule:
            return Observation("illegal", reason=str(rule))
        self.guest(dom, vcpus=guest.vcpus.set(vcpu, attrs.evolve(guest.vcpus[vcpu], cache_on=enabled)))
        return Observation("value")

    def _flush(self, dom: int, vcpu: int) -> None:
        """What is due before the vCPU runs on."""
        row = self.state.vcpu[DomId(dom), vcpu]  # type: ignore[index]
        if not row.flush_due:
            return
        mine = sorted(gfn for (owner, gfn), entry in self.state.p2m.items()
                      if owner == dom and entry.hardware and entry.type in {1, 2, 6, 7, 8, 9})
        for gfn in mine:
            self.step("flush_page", domain=dom, vcpu=vcpu, gfn=gfn)
        self.step("finish_flush", domain=dom, vcpu=vcpu)
        self.invalidate_root(dom)

    # ---- hypercalls ---------------------------------------------------------------------------------------------

    def hypercall(self, dom: int, vcpu: int, registers: Mapping[int, int] | Sequence[int],
                  choices: Iterable[tuple[str, int]] | None = None) -> Observation:
        """HVC #0xEA1: number in x16 (r12 for a 32-bit guest), arguments in x0..x4, result in x0.

        registers: 31 general registers, or those that matter by number; each is cut to the guest's width.
        choices: what the implementation under comparison chose meanwhile; None: there is none.
        Errors: MisuseError, UnmodelledError.
        """
        running = self.runs(dom, vcpu)
        self._begin(choices)
        width = self.guests[dom].width
        mask = MASK64 if width == 64 else MASK32
        regs = _registers(registers, mask)
        if not running:
            return Observation("stuck", regs)
        number = regs[16] if width == 64 else regs[12]
        try:
            result = self._dispatch(number, dom, vcpu, regs)
        except IllegalChoice as rule:
            return Observation("illegal", regs, reason=str(rule))
        except PanicError as panic:
            return Observation("panic", reason=str(panic))
        except DomainCrashError as crash:
            self._preempt_in = None
            return Observation("crash", regs, written=self._written(), reason=str(crash))
        finally:
            self._preempt_in = None
        if isinstance(result, Observation):
            return attrs.evolve(result, written=self._written())
        if isinstance(result, Restart):
            for i, argument in enumerate(result.arguments):
                regs[i] = argument & mask
            return Observation("restart", regs, written=self._written())
        regs[0] = result & mask
        guest = self.guests.get(dom)
        kind = "crash" if guest is not None and guest.shutdown is not None else "value"
        return Observation(kind, regs, written=self._written())

    def _dispatch(self, number: int, dom: int, vcpu: int, regs: list[int]) -> int | Restart | Observation:
        result: int | Restart | Observation
        if number == abi.MEMORY_OP:
            from bulkhead.oracle.memory_ops import do_memory_op
            result = do_memory_op(self, dom, regs)
        elif number == abi.GRANT_TABLE_OP:
            from bulkhead.oracle.grants import do_grant_table_op
            result = do_grant_table_op(self, dom, vcpu, regs)
        elif number == abi.DOMCTL:
            from bulkhead.oracle.domctls import do_domctl
            result = do_domctl(self, dom, regs)
        elif number in abi.PRESENT:
            raise UnmodelledError(f"hypercall {number} is not modelled")
        else:
            return -38
        from bulkhead.oracle.teardown import finish_destruction
        finish_destruction(self)
        return result

    def crash_domain(self, domain: int) -> None:
        """Xen crashes the domain: it shuts down with code 3 and runs no more."""
        if self.guests[domain].shutdown is None:
            self.guest(domain, shutdown=3)

    # ---- snapshots ----------------------------------------------------------------------------------------------

    def snapshot(self) -> Saved:
        """The whole state: it costs nothing."""
        return Saved(self.state, self.guests, self.shapes, self.listed, self.counter, self.last_domid)

    def restore(self, saved: Saved) -> None:
        """Back to a snapshot, which may be restored again."""
        self.state, self.guests, self.shapes = saved.state, saved.guests, saved.shapes
        self.listed, self.counter, self.last_domid = saved.listed, saved.counter, saved.last_domid
        self._deaths = True
        self._preempt_in = None
        self._choices = None


def _registers(given: Mapping[int, int] | Sequence[int], mask: int) -> list[int]:
    """31 general registers. Errors: MisuseError."""
    if not isinstance(given, Mapping):
        if len(given) != 31:
            raise MisuseError(f"{len(given)} general registers were given, not 31")
        return [value & mask for value in given]
    regs = [0] * 31
    for number, value in given.items():
        if not 0 <= number < 31:
            raise MisuseError(f"there is no general register {number}")
        regs[number] = value & mask
    return regs
