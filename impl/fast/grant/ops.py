"""The dispatcher of grant_table_op: arrays item by item, partial progress, continuations.

Source: xen/common/grant_table.c at 4.17 (do_grant_table_op and the gnttab_* loops).
"""

from __future__ import annotations

from collections.abc import Callable, MutableSequence
from typing import TYPE_CHECKING, Final

from impl.fast.abi import EFAULT, EINVAL, ENOSYS, EOPNOTSUPP, MASK32
from impl.fast.grant import cache, layouts, mapping, tables
from impl.fast.grant.copying import Copier, Copy
from impl.fast.grant.guest import Call
from impl.fast.machine import Restart

if TYPE_CHECKING:
    from impl.fast.domains import Domain
    from impl.fast.machine import Machine


def _map(call: Call, uop: int, count: int) -> int:
    """gnttab_map_grant_ref. Returns 0, the number of items done before a preemption, or -EFAULT."""
    layout = layouts.MAP
    for i in range(count):
        if i and call.machine.preempt_check():
            return i
        address = uop + i * 32
        data = call.read(address, 32)
        if data is None:
            return -EFAULT
        host_addr, flags, ref, domid, _, handle, bus = layout.unpack(data)
        status, new_handle, new_bus = mapping.map_grant_ref(
            call.machine, call.dom, call.vcpu, host_addr, flags, ref, domid)
        if not status:
            handle, bus = new_handle, new_bus
        # the whole struct goes back
        if not call.write(address, layout.pack(host_addr, flags, ref, domid, status, handle, bus)):
            return -EFAULT
    return 0


def _unmap(call: Call, uop: int, count: int, *, replace: bool) -> int:
    """gnttab_unmap_grant_ref, and gnttab_unmap_and_replace with the same layout but for the second field.

    Batches of 32: first every item, then one flush (for a paged guest nothing), then every completion.
    Returns as `_map`; preemption only between batches.
    """
    done = 0
    address = uop
    while count:
        batch = min(count, layouts.UNMAP_BATCH)
        pending: list[mapping.Unmap] = []
        faulted = False
        for _ in range(batch):
            data = call.read(address, 24)
            if data is None:
                faulted = True
                break
            host_addr, second, handle, status = layouts.UNMAP.unpack(data)
            op = mapping.unmap(call.machine, call.dom, host_addr, 0 if replace else second, second if replace else 0,
                               handle)
            pending.append(op)
            # the caller was crashed: Xen writes back a status that nobody set, and nobody reads it
            if op.status is not None:
                status = op.status
            if not call.put(layouts.STATUS, address + layouts.UNMAP_STATUS_OFFSET, status):
                faulted = True
                break
            address += 24
        for op in pending:
            mapping.complete(call.machine, op)
        if faulted:
            return -EFAULT
        count -= batch
        done += batch
        if count and call.machine.preempt_check():
            return done
    return 0


def _unmap_grant_ref(call: Call, uop: int, count: int) -> int:
    return _unmap(call, uop, count, replace=False)


def _unmap_and_replace(call: Call, uop: int, count: int) -> int:
    return _unmap(call, uop, count, replace=True)


def _transfer(call: Call, uop: int, count: int) -> int:
    """gnttab_transfer: switched off where there are no PV guests, before any item is looked at."""
    return -EOPNOTSUPP


def _copy(call: Call, uop: int, count: int) -> int | Restart:
    """gnttab_copy: 0, -EFAULT or the continuation, which may come without any progress."""
    copier = Copier(call.machine, call.dom)
    result: int | Restart = 0
    for i in range(count):
        if i and call.machine.preempt_check():
            result = Restart(layouts.GNTTABOP_copy, uop + i * 40 & call.mask, count - i)
            break
        address = uop + i * 40
        data = call.read(address, 40)
        if data is None:
            result = -EFAULT
            break
        *fields, _ = layouts.COPY.unpack(data)
        status = copier.copy(Copy(*fields))
        if status > 0:
            # something changed under the item: it is tried again, its status unwritten
            result = Restart(layouts.GNTTABOP_copy, address & call.mask, count - i)
            break
        if status:
            copier.release()
        if not call.put(layouts.STATUS, address + layouts.COPY_STATUS_OFFSET, status):
            result = -EFAULT
            break
    copier.release()
    return result


def _swap(call: Call, uop: int, count: int) -> int:
    """gnttab_swap_grant_ref. Returns as `_map`."""
    for i in range(count):
        if i and call.machine.preempt_check():
            return i
        address = uop + i * 12
        data = call.read(address, 12)
        if data is None:
            return -EFAULT
        ref_a, ref_b, _ = layouts.SWAP.unpack(data)
        status = tables.swap_grant_ref(call, ref_a, ref_b)
        if not call.put(layouts.STATUS, address + layouts.SWAP_STATUS_OFFSET, status):
            return -EFAULT
    return 0


def _cache_flush(call: Call, uop: int, count: int, cursor: int) -> tuple[int, int]:
    """gnttab_cache_flush: (as `_map`, cursor of the item to go on with). An item's error ends the call."""
    for i in range(count):
        if i and call.machine.preempt_check():
            return i, cursor
        data = call.read(uop + i * 16, 16)
        if data is None:
            return -EFAULT, cursor
        address, offset, length, op = layouts.CACHE_FLUSH.unpack(data)
        while True:
            result, cursor = cache.cache_flush(call.machine, call.dom, address, offset, length, op, cursor)
            if result < 0:
                return result, cursor
            if not result:
                break
            if call.machine.preempt_check():
                return i, cursor
        cursor = 0
    return 0, 0


# the operations on arrays: what does them, and the size of an item
_ARRAYS: Final[dict[int, tuple[Callable[[Call, int, int], int], int]]] = {
    layouts.GNTTABOP_map_grant_ref: (_map, 32),
    layouts.GNTTABOP_unmap_grant_ref: (_unmap_grant_ref, 24),
    layouts.GNTTABOP_unmap_and_replace: (_unmap_and_replace, 24),
    layouts.GNTTABOP_transfer: (_transfer, 24),
    layouts.GNTTABOP_swap_grant_ref: (_swap, 12),
}


def _dispatch(call: Call, cmd: int, uop: int, count: int) -> int | Restart:
    """The operation itself, and the registers of a continuation."""
    op = cmd & layouts.CMD_MASK
    array = _ARRAYS.get(op)
    if array is not None:
        function, size = array
        result = function(call, uop, count)
        if result > 0:
            return Restart(op, uop + result * size & call.mask, count - result)
        return result
    if op == layouts.GNTTABOP_copy:
        return _copy(call, uop, count)
    if op == layouts.GNTTABOP_setup_table:
        return tables.setup_table(call, uop, count)
    if op == layouts.GNTTABOP_query_size:
        return tables.query_size(call, uop, count)
    if op == layouts.GNTTABOP_set_version:
        return tables.set_version(call, uop)
    if op == layouts.GNTTABOP_get_status_frames:
        return tables.get_status_frames(call, uop, count)
    if op == layouts.GNTTABOP_get_version:
        return tables.get_version(call, uop)
    if op == layouts.GNTTABOP_cache_flush:
        done, cursor = _cache_flush(call, uop, count, cmd & ~layouts.CMD_MASK)
        if done > 0 or (done == 0 and cursor):
            return Restart(cursor | op, uop + done * 16 & call.mask, count - done)
        return done
    # dump_table, and what no version of Xen knows
    return -ENOSYS


def do_grant_table_op(machine: Machine, dom: Domain, vcpu: int, registers: MutableSequence[int]) -> int | Restart:
    """grant_table_op (hypercall 20).

    vcpu: number of the caller's vCPU; registers: arguments 0, 1, 2 are cmd (32 bits; above bit 11 the cursor of a
    cache_flush continuation, which a guest may forge), the address of the argument array, and its length (32 bits).
    Returns the result (0 or a negative errno), or Restart with the three arguments of the continuation.
    A caller that the call crashes has a shutdown code afterwards. Errors: XenPanic.
    """
    cmd, uop, count = registers[0] & MASK32, registers[1] & machine.address_mask, registers[2] & MASK32
    if count >> 31:
        return -EINVAL
    if cmd & ~layouts.CMD_MASK and cmd & layouts.CMD_MASK != layouts.GNTTABOP_cache_flush:
        return -EINVAL
    return _dispatch(Call(machine, dom, vcpu), cmd, uop, count)
