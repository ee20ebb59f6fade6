"""grant_table_op (hypercall 20) on the specification: registers and guest memory in, transitions item by item out.

What a transition of ``spec.grant`` leaves open is here: which bytes of the caller's memory are arguments, what goes
back to them and when, how far a call comes before a fault or other work ends it, and in which order Xen takes the
steps of an item.  Choices (frames, handles, table pages) are those that the implementation made.

Source: xen/common/grant_table.c (do_grant_table_op and the gnttab_* loops), Xen 4.17.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from bulkhead.oracle import grants_abi as abi
from bulkhead.oracle.grants_call import Call, Continuation
from bulkhead.oracle.grants_copy import Copier
from bulkhead.oracle.grants_table import get_status_frames, get_version, query_size, set_version, setup_table
from bulkhead.oracle.machine import MASK32, Restart
from bulkhead.oracle.mappings import unmapped
from spec.domain.privilege import exists, pair_allowed
from spec.errors import EFAULT, EINVAL, ENOSYS
from spec.grant import cache, teardown, unmap, version  # noqa: F401 - their steps are run by name
from spec.grant.map import MapFlags, guest_frame
from spec.language import U16, U32, U64, DomId, GrantRef, Handle, Index, Kind, VcpuId, Word, decode

if TYPE_CHECKING:
    from bulkhead.oracle.machine import Oracle


# ---- map


def _map_item(call: Call, host_addr: int, flags: int, ref: int, granter: int) -> tuple[int, int, int]:
    """One mapping: (status, handle, dev_bus_addr), the last two only with status 0."""
    asked = decode(MapFlags, Word(flags))
    s = call.state
    # only then does Xen look for a handle
    needs_handle = (
        asked.host_map and not (asked.device_map or asked.application_map or asked.contains_pte)
        and exists(s, DomId(granter)) and pair_allowed(s, call.domain, DomId(granter))
    )
    handle = call.take_handle() if needs_handle else None
    outcome = call.entering(
        guest_frame(s, U64(host_addr)), "map_grant_ref", caller=call.domain, granter=DomId(granter), ref=GrantRef(ref),
        host_addr=U64(host_addr), flags=Word(flags), handle=Handle(handle or 0), space_left=handle is not None,
        vcpu=VcpuId(call.vcpu),
    )
    call.for_devices(s)
    if outcome.kind is not Kind.DONE:
        return outcome.code, 0, 0
    return 0, outcome.output["handle"], outcome.output["dev_bus_addr"]


def _map(call: Call, array: int, count: int) -> int:
    """gnttab_map_grant_ref: 0, the items done before other work, or -EFAULT."""
    for i in range(count):
        if i and call.preempted():
            return i
        address = array + i * abi.MAP_ITEM.size
        data = call.read(address, abi.MAP_ITEM.size)
        if data is None:
            return -EFAULT
        host_addr, flags, ref, granter, _, handle, bus = abi.MAP_ITEM.unpack(data)
        status, new_handle, new_bus = _map_item(call, host_addr, flags, ref, granter)
        if status == 0:
            handle, bus = new_handle, new_bus
        # the whole struct goes back
        if not call.write(address, abi.MAP_ITEM.pack(host_addr, flags, ref, granter, status, handle, bus)):
            return -EFAULT
    return 0


# ---- unmap


def _unmap_item(call: Call, host_addr: int, second: int, handle: int, slot: int, *, replace: bool) -> int | None:
    """Phase 1 of one item: its status, None if the caller was crashed, so that nobody sees it."""
    before = call.state
    arguments: dict[str, Any] = {
        "caller": call.domain, "host_addr": U64(host_addr), "handle": Handle(handle), "slot": Index(slot),
    }
    name, which = ("unmap_and_replace", "new_addr") if replace else ("unmap_grant_ref", "dev_bus_addr")
    arguments[which] = U64(second)
    outcome = unmapped(call.oracle, call.domain, guest_frame(before, U64(host_addr)), call.step, name, **arguments)
    call.for_devices(before)
    return None if outcome.kind is Kind.CRASH else outcome.code


def _unmap_batch(call: Call, array: int, count: int, *, replace: bool) -> bool:
    """Up to 32 items: phase 1 of each, the flush, phase 2 of each.  True if none met a fault."""
    whole = True
    for slot in range(count):
        address = array + slot * abi.UNMAP_ITEM.size
        data = call.read(address, abi.UNMAP_ITEM.size)
        if data is None:
            whole = False
            break
        host_addr, second, handle, old = abi.UNMAP_ITEM.unpack(data)
        status = _unmap_item(call, host_addr, second, handle, slot, replace=replace)
        if not call.put(abi.STATUS, address + abi.UNMAP_STATUS, old if status is None else status):
            whole = False
            break
    for slot in range(count):
        if call.state.release[call.domain, Handle(slot)].held:
            call.step("complete_unmap", caller=call.domain, slot=Index(slot))
    return whole


def _unmap(call: Call, array: int, count: int, *, replace: bool) -> int:
    """gnttab_unmap_grant_ref and gnttab_unmap_and_replace: as ``_map``, with other work only between batches."""
    done = 0
    while done < count:
        batch = min(count - done, abi.UNMAP_BATCH)
        if not _unmap_batch(call, array + done * abi.UNMAP_ITEM.size, batch, replace=replace):
            return -EFAULT
        done += batch
        if done < count and call.preempted():
            return done
    return 0


def _unmap_grant_ref(call: Call, array: int, count: int) -> int:
    return _unmap(call, array, count, replace=False)


def _unmap_and_replace(call: Call, array: int, count: int) -> int:
    return _unmap(call, array, count, replace=True)


# ---- the other arrays


def _transfer(call: Call, array: int, count: int) -> int:
    """gnttab_transfer: refused before any item is looked at."""
    code: int = call.step("transfer", caller=call.domain).code
    return code


def _swap(call: Call, array: int, count: int) -> int:
    """gnttab_swap_grant_ref: as ``_map``."""
    for i in range(count):
        if i and call.preempted():
            return i
        address = array + i * abi.SWAP_ITEM.size
        data = call.read(address, abi.SWAP_ITEM.size)
        if data is None:
            return -EFAULT
        ref_a, ref_b, _ = abi.SWAP_ITEM.unpack(data)
        outcome = call.step("swap_grant_ref", caller=call.domain, ref_a=GrantRef(ref_a), ref_b=GrantRef(ref_b))
        if not call.put(abi.STATUS, address + abi.SWAP_STATUS, outcome.code):
            return -EFAULT
    return 0


def _copy(call: Call, array: int, count: int) -> int | Continuation:
    """gnttab_copy: 0, -EFAULT, or where to go on, which may be where it began."""
    copier = Copier(call)
    result: int | Continuation = 0
    for i in range(count):
        address = array + i * abi.COPY_ITEM.size
        if i and call.preempted():
            result = Continuation(abi.COPY, address, count - i)
            break
        data = call.read(address, abi.COPY_ITEM.size)
        if data is None:
            result = -EFAULT
            break
        status = copier.item(*abi.COPY_ITEM.unpack(data)[:-1])
        # something changed under the item: it starts again, and no status is written
        if status is None:
            result = Continuation(abi.COPY, address, count - i)
            break
        if status != 0:
            copier.release()
        if not call.put(abi.STATUS, address + abi.COPY_STATUS, status):
            result = -EFAULT
            break
    copier.end()
    return result


def _cache_flush(call: Call, array: int, count: int, cursor: int) -> int | Continuation:
    """gnttab_cache_flush: 0, a negative error, which ends the call, or where to go on."""
    for i in range(count):
        address = array + i * abi.FLUSH_ITEM.size
        if i and call.preempted():
            return Continuation(abi.CACHE_FLUSH | cursor, address, count - i)
        data = call.read(address, abi.FLUSH_ITEM.size)
        if data is None:
            return -EFAULT
        bus, offset, length, op = abi.FLUSH_ITEM.unpack(data)
        while True:
            outcome = call.step("cache_flush", caller=call.domain, dev_bus_addr=U64(bus), offset=U16(offset),
                                length=U16(length), op=U32(op), cursor=GrantRef(cursor))
            if outcome.kind is not Kind.RESTART:
                break
            cursor = outcome.output["cursor"]
            if call.preempted():
                return Continuation(abi.CACHE_FLUSH | cursor, address, count - i)
        if outcome.code != 0:
            code: int = outcome.code
            return code
        cursor = 0
    return 0


# ---- the call

# operations on arrays: what runs them, and the size of an item
_ARRAYS: Final[dict[int, tuple[Callable[[Call, int, int], int], int]]] = {
    abi.MAP_GRANT_REF: (_map, abi.MAP_ITEM.size),
    abi.UNMAP_GRANT_REF: (_unmap_grant_ref, abi.UNMAP_ITEM.size),
    abi.UNMAP_AND_REPLACE: (_unmap_and_replace, abi.UNMAP_ITEM.size),
    abi.TRANSFER: (_transfer, 24),
    abi.SWAP_GRANT_REF: (_swap, abi.SWAP_ITEM.size),
}


def _run(call: Call, command: int, array: int, count: int) -> int | Continuation:
    """The operation: its result, or where it goes on."""
    # a length is a signed number of 31 bits
    if count >> 31:
        return -EINVAL
    op, cursor = command & abi.COMMAND, command & ~abi.COMMAND
    # only cache_flush goes on within an item
    if cursor and op != abi.CACHE_FLUSH:
        return -EINVAL
    if op in _ARRAYS:
        function, size = _ARRAYS[op]
        done = function(call, array, count)
        return Continuation(op, array + done * size, count - done) if done > 0 else done
    if op == abi.COPY:
        return _copy(call, array, count)
    if op == abi.CACHE_FLUSH:
        return _cache_flush(call, array, count, cursor)
    if op == abi.SET_VERSION:
        return set_version(call, array)
    if op == abi.GET_VERSION:
        return get_version(call, array)
    if op in _SINGLE:
        return _SINGLE[op](call, array) if count == 1 else -EINVAL
    if op == abi.DUMP_TABLE:
        code: int = call.step("dump_table", caller=call.domain).code
        return code
    return -ENOSYS


# operations on exactly one struct
_SINGLE: Final[dict[int, Callable[[Call, int], int]]] = {
    abi.SETUP_TABLE: setup_table,
    abi.QUERY_SIZE: query_size,
    abi.GET_STATUS_FRAMES: get_status_frames,
}


def do_grant_table_op(oracle: Oracle, domain: int, vcpu: int, registers: Sequence[int]) -> int | Restart:
    """grant_table_op (hypercall 20).

    vcpu: number of the caller's; registers: argument 0 is the command (32 bits; those above bit 11 are the cursor of a
    cache_flush that goes on, which a guest can forge), 1 the address of the array, 2 its length (32 bits).
    Returns the result, 0 or a negative error, or the three arguments with which the call is to be issued again.
    Errors: IllegalChoice; PanicError.
    """
    call = Call(oracle, domain, vcpu)
    result = _run(call, registers[0] & MASK32, call.cut(registers[1]), registers[2] & MASK32)
    if isinstance(result, Continuation):
        return Restart(result.command, call.cut(result.array), result.left)
    return result
