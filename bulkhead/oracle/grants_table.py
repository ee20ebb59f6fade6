"""The calls of grant_table_op that concern a table as a whole: its size, its version, where its frames are mapped.

Each returns the result of the call, 0 or a negative error; a status goes into the caller's struct.

Source: xen/common/grant_table.c (gnttab_setup_table, gnttab_query_size, gnttab_set_version, gnttab_get_status_frames,
gnttab_get_version), Xen 4.17.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from bulkhead.oracle import grants_abi as abi
from bulkhead.oracle.grants_call import Call
from spec.domain.privilege import may_act_on
from spec.errors import EBUSY, EFAULT, EILSEQ, GNTST_BAD_VIRT_ADDR
from spec.grant.table import frames_wanted, has_frame, recorded_gfn, status_frames_for, subject_of
from spec.language import TRANSITIONS, U32, U64, DomId, Kind, Mfn, Outcome
from spec.state import State

if TYPE_CHECKING:
    from bulkhead.oracle.machine import Oracle

ENTRIES_V1 = 512
ACTIVE_ENTRY = {False: 40, True: 32}
"""Bytes that Xen keeps for each entry, on arm64 and on arm32 (struct active_grant_entry of a release build)."""
NO_FRAME = Mfn(0)
"""In the place of a frame that a step does not need."""


# ---- growth


def active_frames_for(grant_frames: int, *, arm32: bool) -> int:
    """Frames of Xen's heap, seen by nobody, that the active entries of so many grant frames take."""
    return -(-grant_frames * ENTRIES_V1 // (4096 // ACTIVE_ENTRY[arm32]))


def _at(frames: list[int], number: int) -> Mfn:
    return Mfn(frames[number]) if number < len(frames) else NO_FRAME


def grow_table(oracle: Oracle, name: str, subject: DomId, grant_frames: int, /, **arguments: Any) -> Outcome[State]:
    """Run the step ``setup_table`` or ``grow_for_frame`` to its end, for a table that is to have so many frames.

    subject: whose table, a real id. grant_frames: 0 if it need not grow. arguments: of the step, but for the frames.
    These are taken as Xen takes them, for active entries (seen by nobody), for entries, for status words: all that are
    needed, or the step is told that there is no memory.
    """
    row, guest = oracle.state.domain[subject], oracle.guests.get(subject)
    entries = grant_frames - row.grant_frames
    # what is large enough, or will be refused, takes no frames
    if (entries <= 0 or grant_frames > row.max_grant_frames or guest is None
            or not may_act_on(oracle.state, arguments["caller"], subject)):
        return oracle.step(name, memory_left=True, mfn=NO_FRAME, status_mfn=NO_FRAME, **_at_once(name, 0), **arguments)
    hidden = active_frames_for(grant_frames, arm32=oracle.host.width == 32) - len(guest.active)
    status = max(0, status_frames_for(grant_frames) - row.status_frames) if row.grant_version == 2 else 0
    frames = oracle.frames_for(hidden + entries + status)
    memory_left, frames = frames is not None, frames or []
    for mfn in frames[:hidden]:
        oracle.take_hidden(mfn)
    oracle.guest(subject, active=(*guest.active, *frames[:hidden]))
    shared, words = frames[hidden:hidden + entries], frames[hidden + entries:]
    # Xen shares the frames of status words first
    for mfn in (*words, *shared):
        oracle.list_frames(mfn)
    for number in itertools.count():
        used = oracle.state.domain[subject].status_frames - row.status_frames
        outcome = oracle.step(name, memory_left=memory_left, mfn=_at(shared, number), status_mfn=_at(words, used),
                              **_at_once(name, number), **arguments)
        if outcome.kind is not Kind.RESTART:
            break
    return outcome


def _at_once(name: str, number: int) -> dict[str, bool]:
    """Whether the table has grown already in this call: only one of the two steps asks."""
    return {"begun": number > 0} if name == "grow_for_frame" else {}


def grow_for_frame(oracle: Oracle, caller: int, domain: int, idx: int) -> Outcome[State]:
    """Make a table large enough for the frame that space grant_table, or a resource, asks for.

    domain: a real id. idx: as for ``spec.grant.table.grant_frame_for``.
    """
    s, subject = oracle.state, DomId(domain)
    wanted = 0 if has_frame(s, subject, U64(idx)) else frames_wanted(s, subject, U64(idx))
    return grow_table(oracle, "grow_for_frame", subject, wanted, caller=DomId(caller), domain=subject, idx=U64(idx))


# ---- setup_table and get_status_frames


def _list(call: Call, domain: DomId, number: int, frame_list: int, *, status: bool) -> int:
    """Write the guest frame of each of so many frames: the status. After a fault the others are written as well."""
    result = 0
    for index in range(number):
        gfn = recorded_gfn(call.state, domain, U32(index), status=status)
        if not call.put(abi.FRAME, frame_list + index * abi.FRAME.size, gfn):
            result = GNTST_BAD_VIRT_ADDR
    return result


def setup_table(call: Call, address: int) -> int:
    """gnttab_setup_table."""
    data = call.read(address, abi.SETUP.size)
    if data is None:
        return -EFAULT
    domain, nr_frames, _, frame_list = abi.SETUP.unpack(data)
    subject = subject_of(call.domain, DomId(domain))
    status: int = grow_table(call.oracle, "setup_table", subject, nr_frames, caller=call.domain, domain=DomId(domain),
                             nr_frames=U32(nr_frames)).code
    if status == 0:
        status = _list(call, subject, nr_frames, frame_list, status=False)
    return 0 if call.put(abi.STATUS, address + abi.SETUP_STATUS, status) else -EFAULT


def get_status_frames(call: Call, address: int) -> int:
    """gnttab_get_status_frames."""
    data = call.read(address, abi.STATUS_LIST.size)
    if data is None:
        return -EFAULT
    nr_frames, domain, _, frame_list = abi.STATUS_LIST.unpack(data)
    status: int = call.step("get_status_frames", caller=call.domain, domain=DomId(domain),
                            nr_frames=U32(nr_frames)).code
    if status == 0:
        status = _list(call, subject_of(call.domain, DomId(domain)), nr_frames, frame_list, status=True)
    return 0 if call.put(abi.STATUS, address + abi.STATUS_LIST_STATUS, status) else -EFAULT


# ---- queries


def query_size(call: Call, address: int) -> int:
    """gnttab_query_size: the whole struct goes back, its padding as it came."""
    data = call.read(address, abi.QUERY.size)
    if data is None:
        return -EFAULT
    domain, padding, nr_frames, max_nr_frames, _, tail = abi.QUERY.unpack(data)
    outcome = call.step("query_size", caller=call.domain, domain=DomId(domain))
    if outcome.kind is Kind.DONE:
        nr_frames, max_nr_frames = outcome.output["nr_frames"], outcome.output["max_nr_frames"]
    answer = abi.QUERY.pack(domain, padding, nr_frames, max_nr_frames, outcome.code, tail)
    return 0 if call.write(address, answer) else -EFAULT


def get_version(call: Call, address: int) -> int:
    """gnttab_get_version."""
    data = call.read(address, abi.VERSION_OF.size)
    if data is None:
        return -EFAULT
    outcome = call.step("get_version", caller=call.domain, domain=DomId(abi.VERSION_OF.unpack(data)[0]))
    if outcome.kind is not Kind.DONE:
        code: int = outcome.code
        return code
    done = call.put(abi.NUMBER, address + abi.VERSION_OF_VERSION, outcome.output["version"])
    return 0 if done else -EFAULT


# ---- set_version


def set_version(call: Call, address: int) -> int:
    """gnttab_set_version: whatever comes of it, the version that the table then has goes back."""
    data = call.read(address, abi.NUMBER.size)
    if data is None:
        return -EFAULT
    result = _change_version(call, abi.NUMBER.unpack(data)[0])
    return result if call.put(abi.NUMBER, address, call.state.domain[call.domain].grant_version) else -EFAULT


def _change_version(call: Call, version: int) -> int:
    row = call.state.domain[call.domain]
    wanted = status_frames_for(row.grant_frames) - row.status_frames
    asks = version == 2 and row.grant_version == 1 and row.max_grant_version > 1
    # an entry in use refuses the change before Xen asks for memory
    tried = TRANSITIONS["set_version"].function(call.state, caller=call.domain, version=U32(version), memory_left=True)
    frames = call.oracle.frames_for(wanted) if asks and tried.kind is Kind.RESTART else []
    outcome = call.step("set_version", caller=call.domain, version=U32(version), memory_left=frames is not None)
    if outcome.kind is not Kind.RESTART:
        code: int = outcome.code
        return code
    if version == 2:
        for mfn in frames or ():
            call.oracle.list_frames(mfn)
            call.step("populate_status_frame", caller=call.domain, mfn=Mfn(mfn))
        _clear(call)
        call.step("finish_version_2", caller=call.domain)
        return 0
    error = _withdraw(call)
    if error:
        return error
    _clear(call)
    call.step("finish_version_1", caller=call.domain)
    while call.step("free_status_frame", caller=call.domain).kind is Kind.RESTART:
        pass
    return 0


def _withdraw(call: Call) -> int:
    """Take the status frames back, one by one: 0, or the error after which the caller is crashed."""
    row = call.state.domain[call.domain]
    for number in range(row.status_frames):
        frame = call.state.frame[call.state.status_frame[call.domain, number].mfn]
        if frame.mapped:
            if call.step("unmap_status_frame", caller=call.domain).kind is Kind.CRASH:
                return -EILSEQ
        if call.step("withdraw_status_frame", caller=call.domain).kind is Kind.CRASH:
            return -EBUSY
    return 0


def _clear(call: Call) -> None:
    for _ in range(1, call.state.domain[call.domain].grant_frames):
        call.step("clear_grant_frame", caller=call.domain)
