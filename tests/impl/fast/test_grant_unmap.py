"""unmap_grant_ref: what an unmap undoes, its two phases, and each way in which it fails."""

import pytest

from impl.fast import abi
from impl.fast.grant import layouts as g
from tests.impl.fast.test_grant_support import GRANTER, HOST, MAPPER, PAGE, THIRD, Board

RO = g.GNTMAP_host_map | g.GNTMAP_readonly


@pytest.fixture(params=["arm64", "arm32"])
def board(request):
    board = Board(request.param)
    board.offer(9)
    return board


def unmaps(board, *items):
    """Write (host, handle) items; the result of one call, and the statuses (99 unwritten)."""
    data = b"".join(g.UNMAP.pack(host, 0, handle, 99) for host, handle in items)
    address = board.address(MAPPER)
    board.write(MAPPER, address, data)
    result = board.call(MAPPER, g.GNTTABOP_unmap_grant_ref, address, len(items))
    found = board.read(MAPPER, address, len(data))
    return result, [g.UNMAP.unpack_from(found, 24 * i)[3] for i in range(len(items))]


def test_unmap__removes_the_mapping(board):
    board.unmap(board.map(9)[1])
    assert board.kind(MAPPER, HOST >> 12) == abi.p2m_invalid


def test_unmap__succeeds(board):
    assert board.unmap(board.map(9)[1]) == g.GNTST_okay


def test_unmap__drops_pin_mark_and_reference(board):
    before = board.references(board.mfn(GRANTER, PAGE))
    board.unmap(board.map(9)[1])
    assert (board.active(9), board.flags(9), board.references(board.mfn(GRANTER, PAGE))) == (
        None, g.GTF_permit_access, before)


def test_unmap__of_the_last_writer_leaves_the_reading_mark(board):
    board.map(9, RO)
    board.unmap(board.map(9, host=HOST + 0x1000)[1], HOST + 0x1000)
    assert board.flags(9) == g.GTF_permit_access | g.GTF_reading


def test_unmap__of_a_reader_leaves_the_writing_mark(board):
    board.map(9)
    board.unmap(board.map(9, RO, HOST + 0x1000)[1], HOST + 0x1000)
    assert board.flags(9) == g.GTF_permit_access | g.GTF_reading | g.GTF_writing


def test_unmap__frees_the_handle(board):
    handle = board.map(9)[1]
    board.unmap(handle)
    assert board.unmap(handle) == g.GNTST_bad_handle


def test_unmap__without_address_succeeds_and_undoes_nothing(board):
    handle = board.map(9)[1]
    assert (board.unmap(handle, host=0), board.kind(MAPPER, HOST >> 12), board.active(9)[:2]) == (
        g.GNTST_okay, abi.p2m_grant_map_rw, (0, 1))


def test_unmap__without_address_keeps_the_handle(board):
    handle = board.map(9)[1]
    board.unmap(handle, host=0)
    assert board.unmap(handle) == g.GNTST_okay


def test_unmap__at_an_empty_gfn_succeeds_and_leaves_the_old_mapping(board):
    handle = board.map(9)[1]
    status = board.unmap(handle, host=HOST + 0x100000)
    assert (status, board.active(9), board.mfn(MAPPER, HOST >> 12)) == (
        g.GNTST_okay, None, board.mfn(GRANTER, PAGE))


def test_unmap__at_a_gfn_of_mmio_clears_it(board):
    handle = board.map(9)[1]
    board.machine.domains[MAPPER].p2m.insert(0x22000, 1, 0x9000, abi.p2m_mmio_direct_dev)
    assert (board.unmap(handle, host=0x22000 << 12), board.kind(MAPPER, 0x22000)) == (g.GNTST_okay, abi.p2m_invalid)


def test_unmap__at_a_gfn_of_other_ram_is_a_general_error(board):
    handle = board.map(9)[1]
    assert board.unmap(handle, host=PAGE << 12) == g.GNTST_general_error


def test_unmap__that_fails_keeps_pin_and_handle(board):
    handle = board.map(9)[1]
    board.unmap(handle, host=PAGE << 12)
    assert (board.active(9)[:2], board.unmap(handle)) == ((0, 1), g.GNTST_okay)


def test_unmap__ignores_the_bus_address_of_a_host_mapping(board):
    assert board.unmap(board.map(9)[1], bus=0xDEAD000) == g.GNTST_okay


def test_unmap__compares_the_bus_address_of_a_device_mapping(board):
    handle = board.map(9)[1]
    # no guest on Arm can make one: set the bit as if it could
    board.table(MAPPER).map_flags[handle] |= g.GNTMAP_device_map
    assert board.unmap(handle, bus=0xDEAD000) == g.GNTST_bad_dev_addr


def test_unmap__of_a_device_mapping_drops_both_pins(board):
    handle, bus = board.map(9)[1:]
    board.table(MAPPER).map_flags[handle] |= g.GNTMAP_device_map
    board.table(GRANTER).pin[9] += 1 << 16
    board.machine.frames.get_page(bus >> 12, GRANTER)
    board.unmap(handle, bus=bus)
    assert (board.active(9), board.references(bus >> 12)) == (None, 1)


def test_unmap__of_a_page_of_nobody_drops_the_pin_but_no_reference(board):
    handle, bus = board.map(9)[1:]
    board.machine.frames.owner[board.machine.frames.index(bus >> 12)] = abi.DOMID_IO
    assert (board.unmap(handle), board.active(9), board.references(bus >> 12)) == (g.GNTST_okay, None, 2)


def test_unmap__of_a_handle_beyond_maptrack_is_bad_handle(board):
    board.map(9)
    assert board.unmap(256) == g.GNTST_bad_handle


def test_unmap__before_any_map_is_bad_handle(board):
    assert board.unmap(0) == g.GNTST_bad_handle


def test_unmap__of_a_free_handle_is_bad_handle(board):
    board.map(9)
    assert board.unmap(1) == g.GNTST_bad_handle


def test_unmap__after_the_granter_vanished_crashes_the_caller(board):
    handle = board.map(9)[1]
    del board.machine.domains[GRANTER]
    board.write(MAPPER, board.address(MAPPER), g.UNMAP.pack(HOST, 0, handle, 99))
    assert board.observe(MAPPER, g.GNTTABOP_unmap_grant_ref, board.address(MAPPER), 1).kind == "crash"


def test_unmap__of_a_reference_beyond_the_granters_table_is_bad_handle(board):
    handle = board.map(9)[1]
    board.table(MAPPER).map_ref[handle] = 600
    assert board.unmap(handle) == g.GNTST_bad_handle


def test_unmap__twice_in_one_call_fails_for_the_second_only(board):
    handle = board.map(9)[1]
    assert unmaps(board, (HOST, handle), (HOST, handle)) == (0, [g.GNTST_okay, g.GNTST_bad_handle])


def test_unmap__of_a_domain_under_silo_is_not_checked():
    board = Board()
    board.offer(9)
    handle = board.map(9)[1]
    object.__setattr__(board.machine.config, "xsm", "silo")
    assert board.unmap(handle) == g.GNTST_okay


def test_unmap__completes_the_items_before_a_fault(board):
    """The array's second item lies in a hole: the first is undone all the same."""
    handle = board.map(9)[1]
    p2m = board.machine.domains[MAPPER].p2m
    address = 0x40005000 - 24
    board.write(MAPPER, address, g.UNMAP.pack(HOST, 0, handle, 99))
    p2m.remove(0x40005, 1, board.mfn(MAPPER, 0x40005))
    assert (board.call(MAPPER, g.GNTTABOP_unmap_grant_ref, address, 2), board.active(9)) == (-abi.EFAULT, None)


def test_unmap__completes_an_item_whose_status_cannot_be_written(board):
    handle = board.map(9)[1]
    address = 0x40005000
    board.write(MAPPER, address, g.UNMAP.pack(HOST, 0, handle, 99))
    board.machine.domains[MAPPER].p2m.insert(0x40005, 1, board.mfn(MAPPER, 0x40005), abi.p2m_ram_ro)
    assert (board.call(MAPPER, g.GNTTABOP_unmap_grant_ref, address, 1), board.active(9)) == (-abi.EFAULT, None)


def test_unmap__defers_pins_to_the_end_of_the_batch(board):
    """Both items of one batch see the pins of both: nothing is dropped before the last status is written."""
    first, second = board.map(9)[1], board.map(9, host=HOST + 0x1000)[1]
    seen = []
    board.table(GRANTER).before_access = lambda ref: seen.append(
        [g.UNMAP.unpack(board.read(MAPPER, board.address(MAPPER) + 24 * i, 24))[3] for i in range(2)])
    unmaps(board, (HOST, first), (HOST + 0x1000, second))
    assert seen[0] == [g.GNTST_okay, g.GNTST_okay]


def test_unmap__of_33_items_is_preempted_after_the_first_batch(board):
    handles = [board.map(9, RO, HOST + 0x1000 * i)[1] for i in range(33)]
    address = board.address(MAPPER)
    board.write(MAPPER, address, b"".join(
        g.UNMAP.pack(HOST + 0x1000 * i, 0, handle, 99) for i, handle in enumerate(handles)))
    board.machine.preempt_after(1)
    seen = board.observe(MAPPER, g.GNTTABOP_unmap_grant_ref, address, 33)
    assert (seen.restart, seen.registers[:3]) == (True, [g.GNTTABOP_unmap_grant_ref, address + 32 * 24, 1])


def test_unmap__of_32_items_is_not_preempted(board):
    handles = [board.map(9, RO, HOST + 0x1000 * i)[1] for i in range(32)]
    board.machine.preempt_after(1)
    assert unmaps(board, *((HOST + 0x1000 * i, handle) for i, handle in enumerate(handles))) == (0, [0] * 32)


def test_unmap__does_not_notice_that_the_entry_changed(board):
    handle = board.map(9)[1]
    board.offer(9, to=THIRD, gfn=PAGE + 1, flags=g.GTF_accept_transfer)
    assert board.unmap(handle) == g.GNTST_okay


def test_unmap_v2__takes_the_marks_out_of_the_status_word():
    board = Board(version=2)
    board.one(GRANTER, g.GNTTABOP_set_version, g.SET_VERSION, 2)
    board.offer(9)
    board.unmap(board.map(9)[1])
    assert board.status(9) == 0


# ---- unmap_and_replace -------------------------------------------------------------------------------------------


def replace(board, handle, new_addr, host=HOST):
    result, fields = board.one(MAPPER, g.GNTTABOP_unmap_and_replace, g.UNMAP, host, new_addr, handle, 99)
    assert result == 0
    return fields[3]


def test_unmap_and_replace__with_a_new_address_is_a_general_error(board):
    assert replace(board, board.map(9)[1], 0x1000) == g.GNTST_general_error


def test_unmap_and_replace__with_a_new_address_changes_nothing(board):
    replace(board, board.map(9)[1], 0x1000)
    assert (board.active(9)[:2], board.kind(MAPPER, HOST >> 12)) == ((0, 1), abi.p2m_grant_map_rw)


def test_unmap_and_replace__without_a_new_address_unmaps(board):
    assert (replace(board, board.map(9)[1], 0), board.active(9)) == (g.GNTST_okay, None)


def test_unmap_and_replace__of_33_items_is_preempted_after_the_first_batch(board):
    board.machine.preempt_after(1)
    seen = board.observe(MAPPER, g.GNTTABOP_unmap_and_replace, board.address(MAPPER), 33)
    assert (seen.restart, seen.registers[:3]) == (
        True, [g.GNTTABOP_unmap_and_replace, board.address(MAPPER) + 32 * 24, 1])


def test_unmap_and_replace__of_a_bad_handle_reports_that_first(board):
    assert replace(board, 5, 0x1000) == g.GNTST_bad_handle


def test_unmap_and_replace__without_host_address_does_not_look_at_the_new_one(board):
    assert replace(board, board.map(9)[1], 0x1000, host=0) == g.GNTST_okay


def test_unmap_and_replace__on_arm32_cuts_the_new_address_to_32_bits():
    board = Board("arm32")
    board.offer(9)
    assert replace(board, board.map(9)[1], 1 << 32) == g.GNTST_okay
