"""Hypercall 12, memory_op: arguments from registers and memory, the steps of each operation, what is written back.

What an operation does to the state, and which error it gives, the steps say; here stands in which order Xen reads its
arguments, how far a batch goes, and where it may be preempted.

Source: xen/common/memory.c (do_memory_op and what it calls), Xen 4.17.
"""

from __future__ import annotations

from typing import Any

from bulkhead.oracle import abi
from bulkhead.oracle.grants_table import grow_for_frame
from bulkhead.oracle.machine import MASK32, MASK64, Oracle, Restart
from bulkhead.oracle.mappings import LACKING, entered, unmapped
from spec.domain.privilege import exists, may_act_on, may_serve
from spec.errors import EFAULT, EINVAL, EIO, EOPNOTSUPP
from spec.language import TRANSITIONS, DomId, Gfn, Outcome, put
from spec.language.outcomes import Kind, legal
from spec.memory import frames, heap, resource
from spec.memory.physmap import SPACE_GMFN_RANGE, SPACE_GRANT_TABLE, is_no_frame
from spec.memory.reservation import LARGEST_ORDER, largest_order
from spec.state import DOMID_SELF, P2mType, State, Status

_STEPS = {abi.INCREASE_RESERVATION: "increase_extent", abi.DECREASE_RESERVATION: "decrease_page",
          abi.POPULATE_PHYSMAP: "populate_extent"}
_QUESTIONS = {abi.CURRENT_RESERVATION: "current_reservation", abi.MAXIMUM_RESERVATION: "maximum_reservation",
              abi.MAXIMUM_GPFN: "maximum_gpfn"}


def do_memory_op(oracle: Oracle, caller: int, registers: list[int]) -> int | Restart:
    """memory_op(command in register 0, argument address in register 1): the result (signed), or Restart."""
    command, argument = registers[0], registers[1]
    operation, start = command & (1 << abi.OPERATION_BITS) - 1, command >> abi.OPERATION_BITS
    call = _Call(oracle, caller, argument)
    if operation in _STEPS:
        return call.reservation(operation, start)
    if operation in _QUESTIONS:
        return call.question(_QUESTIONS[operation], start)
    if operation in _OTHERS:
        result: int | Restart = _OTHERS[operation](call, start)
        return result
    # the architecture's part looks at the whole command, cut to an int
    if command & MASK32 in {abi.SHARING_FREED, abi.SHARING_SHARED}:
        return int(oracle.step("sharing_counters", caller=caller).output["value"])
    return int(oracle.step("absent_memory_operation", caller=caller).code)


class _Call:
    """One call: who makes it, and where its argument is."""

    def __init__(self, oracle: Oracle, caller: int, argument: int) -> None:
        self.oracle = oracle
        self.caller = caller
        self.argument = argument
        self.ulong = oracle.host.address_mask

    def _arguments(self, layout: Any) -> tuple[int, ...] | None:
        data = self.oracle.read(self.caller, self.argument, layout.size)
        return None if data is None else layout.unpack(data)

    def _subject(self, domid: int) -> int:
        return self.caller if domid == DOMID_SELF else domid

    def _step(self, name: str, **arguments: Any) -> Outcome[State]:
        return self.oracle.step(name, caller=self.caller, **arguments)

    def _would(self, name: str, s: State, **arguments: Any) -> Outcome[State]:
        """What a step would answer in a state; nothing happens."""
        outcome: Outcome[State] = TRANSITIONS[name].function(s, caller=self.caller, **arguments)
        return outcome

    def _continue(self, operation: int, extent: int) -> Restart:
        return Restart(operation | extent << abi.OPERATION_BITS, self.argument)

    # ---- increase, decrease, populate ------------------------------------------------------------------------------

    def reservation(self, operation: int, start: int) -> int | Restart:
        """The number of extents done; every failure, of the arguments too, ends there."""
        found = self._arguments(abi.RESERVATION)
        if found is None:
            return start
        extents, number, order, flags, domid = found
        if number > abi.MOST_EXTENTS or start >= number:
            return start
        domain = self._subject(domid)
        on_demand = operation == abi.POPULATE_PHYSMAP and bool(flags & abi.POPULATE_ON_DEMAND)
        if not self._begins(operation, domain, order, flags, on_demand=on_demand):
            return start
        address_bits = flags & abi.ADDRESS_BITS
        confined = 0 < address_bits < self.oracle.host.max_page_bits
        if operation == abi.POPULATE_PHYSMAP:
            done, preempted = self._populate(domain, extents, start, number, order, on_demand=on_demand,
                                             confined=confined)
        elif operation == abi.DECREASE_RESERVATION:
            done, preempted = self._decrease(domain, extents, start, number, order)
        else:
            done, preempted = self._increase(domain, start, number, order, confined=confined)
        return self._continue(operation, done) if preempted else done

    def _begins(self, operation: int, domain: int, order: int, flags: int, *, on_demand: bool) -> bool:
        """The checks before the first extent, in Xen's order."""
        s, subject, caller = self.oracle.state, DomId(domain), DomId(self.caller)
        name, rest = _STEPS[operation], self._unused(operation, order)
        if not exists(s, subject):
            self._step(name, domain=domain, **rest)
            return False
        address_bits = flags & abi.ADDRESS_BITS
        if 0 < address_bits <= 12 and address_bits < self.oracle.host.max_page_bits:
            return False
        if not flags & abi.VNODE and not self._node_allowed(flags):
            return False
        if not may_act_on(s, caller, subject):
            self._step(name, domain=domain, **rest)
            return False
        if order > (LARGEST_ORDER if on_demand else largest_order(s, caller)):
            if operation != abi.DECREASE_RESERVATION and not on_demand:
                self._step(name, domain=domain, **rest)
            return False
        return True

    @staticmethod
    def _unused(operation: int, order: int) -> dict[str, int]:
        """Arguments of a step that is refused before it looks at them."""
        if operation == abi.DECREASE_RESERVATION:
            return {"gfn": 0, "tables_left": True}
        if operation == abi.INCREASE_RESERVATION:
            return {"order": order, "mfn": 0}
        return {"gfn": 0, "order": order, "mfn": 0, "done": 0}

    def _node_allowed(self, flags: int) -> bool:
        """There is node 0 only. Source: propagate_node (xen/common/memory.c), Xen 4.17."""
        node = (flags >> 8) - 1 & 0xFF
        if node == 0xFF:
            return True
        row = self.oracle.state.domain[DomId(self.caller)]
        if row.hardware or row.control:
            return node == 0
        return not flags & abi.EXACT_NODE

    def _block(self, domain: int, order: int, *, confined: bool) -> int | None:
        """The first frame of the block that the heap gives; None if the step will refuse before it looks, or -1."""
        s, subject, pages = self.oracle.state, DomId(domain), 1 << order
        row = s.domain[subject]
        refused = not heap.available(s, subject, pages) or not frames.may_have(s, subject, pages)
        if row.status != Status.ALIVE or refused:
            return None
        mfn = self.oracle.choice("frame")
        if mfn is None:
            # how free frames lie is not modelled, nor which of them are arm32's Xen heap
            legal(order > 0 or confined or self.oracle.host.width == 32, "a frame is had while one is free")
            return -1
        return mfn

    def _increase(self, domain: int, start: int, number: int, order: int, *, confined: bool) -> tuple[int, bool]:
        oracle = self.oracle
        for i in range(start, number):
            if i != start and oracle.preempted():
                return i, True
            mfn = self._block(domain, order, confined=confined)
            if mfn == -1:
                return i, False
            if self._step("increase_extent", domain=domain, order=order, mfn=mfn or 0).kind is not Kind.DONE:
                return i, False
            oracle.list_frames(mfn or 0, 1 << order)
        return number, False

    def _populate(self, domain: int, extents: int, start: int, number: int, order: int, *, on_demand: bool,
                  confined: bool) -> tuple[int, bool]:
        oracle, pages = self.oracle, 1 << order
        direct = oracle.state.domain[DomId(domain)].direct_mapped
        for i in range(start, number):
            if i != start and oracle.preempted():
                return i, True
            gfn = oracle.read_word(self.caller, extents + 8 * i)
            # Arm has no population on demand
            if gfn is None or on_demand:
                return i, False
            gfn &= self.ulong
            mfn = gfn if direct else self._block(domain, order, confined=confined)
            if mfn == -1:
                return i, False
            change, done, _ = (None, pages, 0) if mfn is None else oracle.planned(domain, gfn, mfn, pages)
            outcome = self._step("populate_extent", domain=domain, gfn=gfn, order=order, mfn=mfn or 0, done=done)
            inserted = outcome.kind in {Kind.DONE, Kind.PARTIAL}
            if not direct and outcome.kind in {Kind.DONE, Kind.PARTIAL}:
                oracle.list_frames(mfn or 0, pages)
            if inserted:
                oracle.settle(domain, change, gfn, done)
            if outcome.kind is not Kind.DONE:
                return i, False
        return number, False

    def _decrease(self, domain: int, extents: int, start: int, number: int, order: int) -> tuple[int, bool]:
        oracle = self.oracle
        for i in range(start, number):
            if i != start and oracle.preempted():
                return i, True
            gfn = oracle.read_word(self.caller, extents + 8 * i)
            if gfn is None:
                return i, False
            for page in range(1 << order):
                place = gfn + page & self.ulong
                if unmapped(oracle, domain, place, oracle.step, "decrease_page", caller=self.caller, domain=domain,
                            gfn=place).kind is not Kind.DONE:
                    return i, False
        return number, False

    # ---- numbers ---------------------------------------------------------------------------------------------------

    def question(self, name: str, start: int) -> int:
        """current_reservation, maximum_reservation, maximum_gpfn."""
        if start:
            return int(self._step(name, domain=0, cursor=start).code)
        data = self.oracle.read(self.caller, self.argument, 2)
        if data is None:
            return -EFAULT
        outcome = self._step(name, domain=self._subject(int.from_bytes(data, "little")), cursor=0)
        return int(outcome.output.get("value", outcome.code))

    def maximum_ram_page(self, start: int) -> int:
        """The end of RAM."""
        outcome = self._step("maximum_ram_page", cursor=start)
        return int(outcome.output.get("value", outcome.code))

    def claim_pages(self, start: int) -> int:
        """claim_pages."""
        if start:
            return int(self._step("claim_pages", domain=0, pages=0, list_given=False, order=0, flags=0,
                                  cursor=start).code)
        found = self._arguments(abi.RESERVATION)
        if found is None:
            return -EFAULT
        extents, number, order, flags, domid = found
        return int(self._step("claim_pages", domain=domid, pages=number & self.ulong,
                              list_given=bool(extents & self.ulong), order=order, flags=flags, cursor=0).code)

    def get_vnumainfo(self, start: int) -> int:
        """get_vnumainfo."""
        if start:
            return int(self._step("get_vnumainfo", domain=0, padding=0, cursor=start).code)
        found = self._arguments(abi.VNUMA)
        if found is None:
            return -EFAULT
        return int(self._step("get_vnumainfo", domain=self._subject(found[0]), padding=found[1], cursor=0).code)

    def reserved_device_memory_map(self, start: int) -> int:
        """reserved_device_memory_map: the length of the list is written back."""
        if start:
            return int(self._step("reserved_device_memory_map", flags=0, cursor=start).code)
        found = self._arguments(abi.RESERVED_DEVICE)
        if found is None:
            return -EFAULT
        outcome = self._step("reserved_device_memory_map", flags=found[0], cursor=0)
        if outcome.kind is not Kind.DONE:
            return int(outcome.code)
        written = abi.RESERVED_DEVICE.pack(found[0], outcome.output["entries"], *found[2:])
        return 0 if self.oracle.write(self.caller, self.argument, written) else -EFAULT

    # ---- exchange --------------------------------------------------------------------------------------------------

    def exchange(self, start: int) -> int:
        """Exchange: nr_exchanged is written back unless there is nothing to do."""
        nothing = {"domain": 0, "out_domain": 0, "in_extents": 0, "in_order": 0, "out_extents": 0, "out_order": 0,
                   "exchanged": 0, "flags": 0, "gfn": 0}
        if start:
            return int(self._step("exchange", **nothing, cursor=start).code)
        found = self._arguments(abi.MEMORY_EXCHANGE)
        if found is None:
            return -EFAULT
        (list_in, in_extents, in_order, _, domid, _, out_extents, out_order, flags, out_domid, exchanged) = found
        arguments: dict[str, Any] = {
            "domain": self._subject(domid), "out_domain": self._subject(out_domid), "in_extents": in_extents,
            "in_order": in_order, "out_extents": out_extents, "out_order": out_order, "exchanged": exchanged,
            "flags": flags, "cursor": 0,
        }
        # DOMID_SELF and the caller's own id are different names
        if domid != out_domid and arguments["domain"] == arguments["out_domain"]:
            arguments["out_domain"] = out_domid if out_domid != self.caller else DOMID_SELF
        gfn = 0
        if self._reads_list(arguments):
            chunk = max(out_order - in_order, 0)
            exchanged = exchanged >> chunk << chunk
            read = self.oracle.read_word(self.caller, list_in + 8 * exchanged)
            if read is None:
                return self._exchanged(exchanged, -EFAULT)
            gfn = read & self.ulong
        outcome = self._step("exchange", **arguments, gfn=gfn)
        return 0 if outcome.kind is Kind.DONE else self._exchanged(exchanged, int(outcome.code))

    def _reads_list(self, arguments: dict[str, Any]) -> bool:
        """The call gets as far as the list: if only some memory were mapped there it could not be taken."""
        s = self.oracle.state
        page = self.oracle.page_for(self.caller, self.argument, writing=False)
        s = put(s, "p2m", (arguments["domain"], 0), type=P2mType.RAM_RW, mfn=page)
        return bool(self._would("exchange", s, **arguments, gfn=0).code == -EOPNOTSUPP)

    def _exchanged(self, number: int, code: int) -> int:
        written = self.oracle.write(self.caller, self.argument + 64, number.to_bytes(8, "little"))
        return code if written else -EFAULT

    # ---- the physmap -----------------------------------------------------------------------------------------------

    def add_to_physmap(self, start: int) -> int:
        """add_to_physmap."""
        if start >> 16:
            return int(self._step("add_to_physmap", domain=0, space=0, idx=0, gfn=0, size=0, cursor=start,
                                  tables_left=True).code)
        found = self._arguments(abi.PHYSMAP)
        if found is None:
            return -EFAULT
        domid, size, space, idx, gfn = found
        domain = self._subject(domid)
        if space != SPACE_GMFN_RANGE:
            idx &= self.ulong
        self._grow(domain, space, idx, gfn)
        return int(entered(self.oracle, domain, gfn & self.ulong, lambda left: self._step(
            "add_to_physmap", domain=domain, space=space, idx=idx, gfn=gfn, size=size, cursor=start, tables_left=left,
        )).code)

    def _grow(self, domain: int, space: int, idx: int, gfn: int) -> None:
        """A grant table grows before its frame is mapped, if the call gets so far."""
        s = self.oracle.state
        if space == SPACE_GRANT_TABLE and exists(s, DomId(domain)) and may_act_on(
                s, DomId(self.caller), DomId(domain)) and not is_no_frame(s, Gfn(gfn)):
            grow_for_frame(self.oracle, self.caller, domain, idx)

    def add_to_physmap_batch(self, start: int) -> int | Restart:
        """add_to_physmap_batch: the result of each element goes to the list of errors."""
        nothing = {"domain": 0, "space": 0, "foreign": 0, "idx": 0, "gfn": 0, "size": 0, "tables_left": True}
        if start >> 16:
            return int(self._step("add_to_physmap_batch", **nothing, cursor=start).code)
        found = self._arguments(abi.PHYSMAP_BATCH)
        if found is None:
            return -EFAULT
        oracle = self.oracle
        domid, space, size, foreign, idxs, gfns, errors = found
        domain = self._subject(domid)
        common = {"domain": domain, "space": space, "foreign": foreign, "size": size}
        first = {**common, "idx": 0, "gfn": MASK64, "cursor": start, "tables_left": True}
        # only the first element itself is refused with EINVAL
        if self._would("add_to_physmap_batch", oracle.state, **first).code != -EINVAL:
            return int(self._step("add_to_physmap_batch", **first).code)
        for extent in range(start, size):
            idx = oracle.read_word(self.caller, idxs + 8 * extent)
            gfn = None if idx is None else oracle.read_word(self.caller, gfns + 8 * extent)
            if idx is None or gfn is None:
                return -EFAULT
            idx &= self.ulong
            self._grow(domain, space, idx, gfn)
            element = {**common, "idx": idx, "gfn": gfn, "cursor": extent}
            outcome = entered(oracle, domain, gfn & self.ulong, lambda left, element=element: self._step(  # type: ignore[misc]
                "add_to_physmap_batch", **element, tables_left=left))
            if outcome.kind is not Kind.DONE:
                return int(outcome.code)
            error = int(outcome.output["error"]) & MASK32
            if not oracle.write(self.caller, errors + 4 * extent, error.to_bytes(4, "little")):
                return -EFAULT
            if extent + 1 < size and oracle.preempted():
                return self._continue(abi.ADD_TO_PHYSMAP_BATCH, extent + 1)
        return 0

    def remove_from_physmap(self, start: int) -> int:
        """remove_from_physmap."""
        if start:
            return int(self._step("remove_from_physmap", domain=0, gfn=0, cursor=start, tables_left=True).code)
        found = self._arguments(abi.REMOVE_PHYSMAP)
        if found is None:
            return -EFAULT
        domain, gfn = self._subject(found[0]), found[1]
        return int(unmapped(self.oracle, domain, gfn & self.ulong, self.oracle.step, "remove_from_physmap",
                            caller=self.caller, domain=domain, gfn=gfn, cursor=0).code)

    # ---- resources -------------------------------------------------------------------------------------------------

    def acquire_resource(self, start: int) -> int | Restart:
        """acquire_resource: frames are mapped chunk by chunk."""
        found = self._arguments(abi.RESOURCE)
        if found is None:
            return -EFAULT
        domain, kind, identifier, nr_frames, padding, frame, frame_list = found
        common: dict[str, Any] = {
            "domain": domain, "kind": kind, "identifier": identifier, "frame": frame, "nr_frames": nr_frames,
            "padding": padding, "list_given": bool(frame_list & self.ulong),
        }
        if not self._maps(common, start):
            outcome = self._step("acquire_resource", **common, cursor=start, chunk=start, gfn=0, tables_left=True)
            if outcome.kind is not Kind.DONE:
                return int(outcome.code)
            size = outcome.output["nr_frames"].to_bytes(4, "little")
            return 0 if self.oracle.write(self.caller, self.argument + 8, size) else -EFAULT
        chunk = start
        while True:
            length = min(resource.CHUNK, nr_frames - chunk)
            code = self._chunk(common, chunk, length, frame_list)
            if code:
                return code
            chunk += length
            if chunk == nr_frames:
                return 0
            if self.oracle.preempted():
                return self._continue(abi.ACQUIRE_RESOURCE, chunk)

    def _maps(self, common: dict[str, Any], start: int) -> bool:
        """The call gets as far as frames that are mapped."""
        s, subject = self.oracle.state, DomId(common["domain"])
        nr_frames = common["nr_frames"]
        return bool(
            common["padding"] == 0 and common["frame"] + nr_frames < 1 << 32 and subject != self.caller
            and exists(s, subject) and may_serve(s, DomId(self.caller), subject)
            and common["kind"] == resource.GRANT_TABLE and common["identifier"] == resource.SHARED_ENTRIES
            and common["list_given"] and start < nr_frames <= resource.LARGEST_BATCH
        )

    def _chunk(self, common: dict[str, Any], chunk: int, length: int, frame_list: int) -> int:
        """Map one chunk: 0 or a negative error."""
        oracle, domain = self.oracle, common["domain"]
        last = common["frame"] + chunk + length - 1
        if last < 1 << 31:
            self._grow_entries(domain, last)
        if last >= oracle.state.domain[DomId(domain)].grant_frames:
            return int(self._step("acquire_resource", **common, cursor=chunk, chunk=chunk, gfn=0,
                                  tables_left=True).code)
        data = oracle.read(self.caller, frame_list + 8 * chunk, 8 * length)
        if data is None:
            return -EFAULT
        for i in range(length):
            gfn = int.from_bytes(data[8 * i:8 * i + 8], "little")
            element = {**common, "cursor": chunk + i, "chunk": chunk, "gfn": gfn}
            # behind the first, whatever goes wrong is called EIO
            fits = i > 0 and self._would(
                "acquire_resource", oracle.state, **element, tables_left=True).kind is Kind.DONE
            outcome = entered(oracle, self.caller, gfn & self.ulong, lambda left, element=element: self._step(  # type: ignore[misc]
                "acquire_resource", **element, tables_left=left), LACKING | {-EIO} if fits else LACKING)
            if outcome.kind is not Kind.DONE:
                return int(outcome.code)
        return 0

    def _grow_entries(self, domain: int, last: int) -> None:
        """The table grows to hold the last frame of the chunk; what is beyond its limit the step will say."""
        row = self.oracle.state.domain[DomId(domain)]
        if row.grant_frames <= last < row.max_grant_frames:
            grow_for_frame(self.oracle, self.caller, domain, last)


_OTHERS: dict[int, Any] = {
    abi.MAXIMUM_RAM_PAGE: _Call.maximum_ram_page,
    abi.ADD_TO_PHYSMAP: _Call.add_to_physmap,
    abi.EXCHANGE: _Call.exchange,
    abi.REMOVE_FROM_PHYSMAP: _Call.remove_from_physmap,
    abi.ADD_TO_PHYSMAP_BATCH: _Call.add_to_physmap_batch,
    abi.CLAIM_PAGES: _Call.claim_pages,
    abi.GET_VNUMAINFO: _Call.get_vnumainfo,
    abi.RESERVED_DEVICE_MEMORY_MAP: _Call.reserved_device_memory_map,
    abi.ACQUIRE_RESOURCE: _Call.acquire_resource,
}
