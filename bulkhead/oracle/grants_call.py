"""One call of grant_table_op: who makes it, its arguments in memory, and what its steps leave to the implementation."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

from bulkhead.oracle.shape import LEAF
from spec.grant.invariants import MAPTRACK_ENTRIES, is_live
from spec.language import TRANSITIONS, DomId, Gfn, Handle, Kind, Outcome
from spec.state import State

if TYPE_CHECKING:
    from bulkhead.oracle.machine import Oracle

PAGE = 4096


class Continuation(NamedTuple):
    """A call that is to be issued again: its command, the address of its array, and how many items are left of it."""

    command: int
    array: int
    left: int


class Call:
    """A call. oracle: the machine; domain, vcpu: the caller."""

    __slots__ = ("domain", "oracle", "vcpu")

    def __init__(self, oracle: Oracle, domain: int, vcpu: int) -> None:
        self.oracle = oracle
        self.domain = DomId(domain)
        self.vcpu = vcpu

    @property
    def state(self) -> State:
        """The machine's state now."""
        return self.oracle.state

    @property
    def arm32(self) -> bool:
        """Xen's addresses have 32 bits."""
        return self.oracle.host.width == 32

    # ---- arguments

    def cut(self, address: int) -> int:
        """An address as Xen holds it: of the width of its unsigned long."""
        return address & self.oracle.host.address_mask

    def read(self, address: int, nbytes: int) -> bytes | None:
        """Bytes of the caller's memory, None (EFAULT) if a page may not be accessed."""
        return self.oracle.read(self.domain, self.cut(address), nbytes)

    def write(self, address: int, data: bytes) -> bool:
        """Bytes into the caller's memory; False (EFAULT) if a page may not be, those before it being written."""
        return self.oracle.write(self.domain, self.cut(address), data)

    def put(self, layout: Struct, address: int, value: int) -> bool:
        """As ``write``, for one field."""
        return self.write(address, layout.pack(value))

    def preempted(self) -> bool:
        """Other work is pending, at a point at which Xen looks."""
        return self.oracle.preempted()

    # ---- steps

    def step(self, name: str, /, **arguments: Any) -> Outcome[State]:
        """One step. Errors: as ``Oracle.step``."""
        outcome = self.oracle.step(name, **arguments)
        if outcome.kind is Kind.CRASH:
            self.oracle.crash_domain(outcome.output["domain"])
        return outcome

    def entering(self, gfn: int, name: str, /, **arguments: Any) -> Outcome[State]:
        """A step that may map one frame for the caller at a guest frame, with a parameter ``tables_left``."""
        oracle, domain = self.oracle, self.domain
        before = oracle.state
        shape = oracle.shapes.get(domain)
        if shape is not None and (LEAF, gfn >> 9) in shape.tables:
            # the table is there
            outcome = self.step(name, tables_left=True, **arguments)
            if oracle.state.p2m is not before.p2m:
                oracle.settle(domain, oracle.planned(domain, gfn, 0, 1)[0], gfn, 1)
            return outcome
        # pages for tables are chosen only once the step gets so far
        tried = TRANSITIONS[name].function(before, tables_left=True, **arguments)
        if tried.state.p2m is before.p2m:
            return self.step(name, tables_left=True, **arguments)
        change, _, error = oracle.planned(domain, gfn, 0, 1)
        outcome = self.step(name, tables_left=error == 0, **arguments)
        if error == 0:
            oracle.settle(domain, change, gfn, 1)
        elif change is not None:
            # the tables that were had stay
            oracle.commit(domain, change)
        return outcome

    def for_devices(self, before: State) -> None:
        """After a step that may have mapped a frame one to one for the caller's devices, or unmapped it."""
        s = self.oracle.state
        if s.device_use is before.device_use:
            return
        for owner, mfn in self.oracle.logs["device_use"].keys:
            key = (owner, Gfn(mfn))
            if owner != self.domain or s.device_use[owner, mfn] == before.device_use[owner, mfn]:
                continue
            if s.p2m[key] == before.p2m[key]:
                continue
            # what is unmapped was no part of a block
            if s.p2m[key].type != 0:
                self.oracle.settle(owner, self.oracle.planned(owner, mfn, mfn, 1)[0], mfn, 1)

    # ---- choices

    def take_handle(self) -> int | None:
        """The maptrack entry that Xen takes for the caller's next mapping, None without one; the maptrack may grow."""
        handle = self.oracle.choice("handle") if self.oracle.follows else self._lowest_handle()
        if handle is None:
            return None
        row = self.state.domain[self.domain]
        if handle >= row.maptrack_frames * MAPTRACK_ENTRIES and row.maptrack_frames < row.max_maptrack_frames:
            mfn = self.oracle.choice("frame")
            if mfn is not None:
                self.oracle.take_hidden(mfn)
                guest = self.oracle.guests[self.domain]
                self.oracle.guest(self.domain, maptrack=(*guest.maptrack, mfn))
                self.step("grow_maptrack", caller=self.domain)
        return handle

    def _lowest_handle(self) -> int | None:
        row = self.state.domain[self.domain]
        for number in range(row.max_maptrack_frames * MAPTRACK_ENTRIES):
            if not is_live(self.state.mapping[self.domain, Handle(number)]):
                return number
        return None
