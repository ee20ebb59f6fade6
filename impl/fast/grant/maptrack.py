"""Handles of mappings: free lists by vCPU, new frames, and stealing from other vCPUs.

Source: xen/common/grant_table.c at 4.17 (get_maptrack_handle, steal_maptrack_handle, put_maptrack_handle).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from impl.fast.grant.layouts import MAPTRACK_PER_FRAME
from impl.fast.grant.table import MAPTRACK_TAIL

if TYPE_CHECKING:
    from impl.fast.domains import Domain
    from impl.fast.grant.table import GrantTable
    from impl.fast.machine import Machine


def _pop(table: GrantTable, vcpu: int) -> int | None:
    """The head of a vCPU's free list, unless it is the last entry, which stays so that the list can be appended to."""
    head = table.vcpu_head[vcpu]
    if head == MAPTRACK_TAIL:
        return None
    following = table.map_ref[head]
    if following == MAPTRACK_TAIL:
        return None
    table.vcpu_head[vcpu] = following
    return head


def _steal(dom: Domain, table: GrantTable, vcpu: int) -> int | None:
    """A handle of any vCPU's list, which becomes this vCPU's.

    Xen starts at a random vCPU; here always at the next one, and `force` stands for every other choice.
    """
    for step in range(1, dom.max_vcpus + 1):
        victim = (vcpu + step) % dom.max_vcpus
        if victim in dom.vcpus:
            handle = _pop(table, victim)
            if handle is not None:
                table.map_vcpu[handle] = vcpu
                return handle
    return None


def _new_frame(table: GrantTable, vcpu: int, mfn: int) -> int:
    """A fresh frame of maptrack: its first handle is used, the others go before the vCPU's free list."""
    handle = table.maptrack_limit
    table.add_maptrack_frame(mfn)
    last = handle + MAPTRACK_PER_FRAME - 1
    for free in range(handle, last):
        table.map_ref[free] = free + 1
    table.array("map_vcpu")[handle:last + 1] = vcpu
    if table.vcpu_tail[vcpu] == MAPTRACK_TAIL:
        table.vcpu_tail[vcpu] = last
    table.map_ref[last] = table.vcpu_head[vcpu]
    table.vcpu_head[vcpu] = handle + 1
    return handle


def _exchange(table: GrantTable, vcpu: int, handle: int, wanted: int) -> int:
    """Take a free handle out of the middle of its list instead of the one found; the found one if that cannot be."""
    if wanted == handle or wanted >= table.maptrack_limit or table.map_flags[wanted]:
        return handle
    holder = table.map_vcpu[wanted]
    before, at = MAPTRACK_TAIL, table.vcpu_head[holder]
    while at not in {wanted, MAPTRACK_TAIL}:
        before, at = at, table.map_ref[at]
    if at == MAPTRACK_TAIL or (before == MAPTRACK_TAIL and table.map_ref[wanted] == MAPTRACK_TAIL):
        return handle
    if before == MAPTRACK_TAIL:
        table.vcpu_head[holder] = table.map_ref[wanted]
    else:
        table.map_ref[before] = table.map_ref[wanted]
    if table.vcpu_tail[holder] == wanted:
        table.vcpu_tail[holder] = before
    table.map_ref[handle] = table.vcpu_head[vcpu]
    table.vcpu_head[vcpu] = handle
    table.map_vcpu[wanted] = vcpu
    return wanted


def _own_choice(machine: Machine, dom: Domain, table: GrantTable, vcpu: int) -> int | None:
    handle = _pop(table, vcpu)
    if handle is not None:
        return handle
    if len(table.maptrack_frames) < table.max_maptrack_frames:
        mfn = machine.frames.alloc_xenheap()
        if mfn is not None:
            machine.memory.clear(mfn)
            return _new_frame(table, vcpu, mfn)
    # a vCPU without a list needs one entry more: the one that always stays
    if table.vcpu_tail[vcpu] == MAPTRACK_TAIL:
        handle = _steal(dom, table, vcpu)
        if handle is None:
            return None
        table.map_ref[handle] = MAPTRACK_TAIL
        table.vcpu_tail[vcpu] = handle
        if table.vcpu_head[vcpu] == MAPTRACK_TAIL:
            table.vcpu_head[vcpu] = handle
    return _steal(dom, table, vcpu)


def get(machine: Machine, dom: Domain, table: GrantTable, vcpu: int) -> int | None:
    """get_maptrack_handle: a handle for one mapping, or None (GNTST_no_space).

    Order: own list, new frame, other vCPUs' lists. A forced ("handle", h) is taken instead if h is free and not the
    only entry of its list. Logged as ("handle", h), also when the map fails later.
    """
    handle = _own_choice(machine, dom, table, vcpu)
    if handle is None:
        return None
    wanted = machine.choose("handle")
    if wanted is not None:
        handle = _exchange(table, vcpu, handle, wanted)
    machine.note_choice("handle", handle)
    return handle


def put(table: GrantTable, handle: int) -> None:
    """put_maptrack_handle: to the tail of the list of the vCPU that the entry names."""
    table.map_ref[handle] = MAPTRACK_TAIL
    vcpu = table.map_vcpu[handle]
    tail = table.vcpu_tail[vcpu]
    table.vcpu_tail[vcpu] = handle
    table.map_ref[tail] = handle
