"""do_grant_table_op: the order of the first checks, arrays, faults, preemption and continuations."""

import pytest

from impl.fast import abi
from impl.fast.errors import BadStimulus
from impl.fast.grant import layouts as g
from tests.impl.fast.test_grant_support import ARGS, GRANTER, HOST, MAPPER, PAGE, SELF, Board

ARRAYS = [g.GNTTABOP_map_grant_ref, g.GNTTABOP_unmap_grant_ref, g.GNTTABOP_copy, g.GNTTABOP_unmap_and_replace,
          g.GNTTABOP_swap_grant_ref, g.GNTTABOP_cache_flush]
HOLE = 0x12345000


@pytest.fixture(params=["arm64", "arm32"])
def board(request):
    board = Board(request.param)
    board.offer(9)
    return board


@pytest.mark.parametrize("op", range(20))
def test_dispatch__of_a_negative_count_is_einval(board, op):
    assert board.call(MAPPER, op, HOLE, 1 << 31) == -abi.EINVAL


@pytest.mark.parametrize("op", [op for op in range(20) if op != g.GNTTABOP_cache_flush])
def test_dispatch__of_a_cursor_where_there_is_none_is_einval(board, op):
    assert board.call(MAPPER, op | 1 << 12, HOLE, 1) == -abi.EINVAL


@pytest.mark.parametrize("op", [g.GNTTABOP_dump_table, 13, 0xFFF])
def test_dispatch__of_an_unknown_operation_is_enosys(board, op):
    assert board.call(MAPPER, op, HOLE, 1) == -abi.ENOSYS


@pytest.mark.parametrize("count", [0, 1])
def test_dispatch__of_transfer_is_eopnotsupp(board, count):
    assert board.call(MAPPER, g.GNTTABOP_transfer, HOLE, count) == -abi.EOPNOTSUPP


@pytest.mark.parametrize("op", ARRAYS)
def test_dispatch__of_an_empty_array_is_0(board, op):
    assert board.call(MAPPER, op, HOLE, 0) == 0


@pytest.mark.parametrize("op", [g.GNTTABOP_setup_table, g.GNTTABOP_query_size, g.GNTTABOP_get_status_frames])
@pytest.mark.parametrize("count", [0, 2])
def test_dispatch__of_a_single_struct_with_another_count_is_einval(board, op, count):
    assert board.call(MAPPER, op, HOLE, count) == -abi.EINVAL


@pytest.mark.parametrize("op", [op for op in range(13) if op not in {g.GNTTABOP_dump_table, g.GNTTABOP_transfer}])
def test_dispatch__of_arguments_in_a_hole_is_efault(board, op):
    assert board.call(MAPPER, op, HOLE, 1) == -abi.EFAULT


@pytest.mark.parametrize("op", [g.GNTTABOP_set_version, g.GNTTABOP_get_version])
def test_dispatch__ignores_the_count_of_the_version_calls(board, op):
    board.write(MAPPER, ARGS, g.GET_VERSION.pack(SELF, 1) if op == g.GNTTABOP_get_version else g.SET_VERSION.pack(1))
    assert board.call(MAPPER, op, ARGS, 77) == 0


def test_dispatch__takes_the_low_32_bits_of_cmd_and_count():
    board = Board()
    assert board.call(MAPPER, g.GNTTABOP_copy | 1 << 32, HOLE, 1 << 32) == 0


def test_dispatch__of_arguments_in_a_grant_mapped_page_is_efault(board):
    board.map(9)
    assert board.call(MAPPER, g.GNTTABOP_map_grant_ref, HOST, 1) == -abi.EFAULT


def test_dispatch__of_arguments_across_two_pages_works(board):
    address = 0x40006000 - 16
    board.write(MAPPER, address, g.MAP.pack(HOST, g.GNTMAP_host_map, 9, GRANTER, 99, 0, 0))
    assert (board.call(MAPPER, g.GNTTABOP_map_grant_ref, address, 1),
            g.MAP.unpack(board.read(MAPPER, address, 32))[4]) == (0, g.GNTST_okay)


def test_dispatch__keeps_items_done_before_a_fault(board):
    address = 0x40006000 - 32
    board.write(MAPPER, address, g.MAP.pack(HOST, g.GNTMAP_host_map, 9, GRANTER, 99, 0, 0))
    board.machine.domains[MAPPER].p2m.remove(0x40006, 1, board.mfn(MAPPER, 0x40006))
    assert (board.call(MAPPER, g.GNTTABOP_map_grant_ref, address, 2), board.active(9)[:2]) == (-abi.EFAULT, (0, 1))


def test_dispatch__keeps_a_map_whose_answer_cannot_be_written(board):
    """The mapping stays, and the guest never learns its handle."""
    address = 0x40006000
    board.write(MAPPER, address, g.MAP.pack(HOST, g.GNTMAP_host_map, 9, GRANTER, 99, 0, 0))
    board.machine.domains[MAPPER].p2m.insert(0x40006, 1, board.mfn(MAPPER, 0x40006), abi.p2m_ram_ro)
    assert (board.call(MAPPER, g.GNTTABOP_map_grant_ref, address, 1), board.active(9)[:2]) == (-abi.EFAULT, (0, 1))


@pytest.mark.parametrize(("op", "size"), [
    (g.GNTTABOP_map_grant_ref, 32), (g.GNTTABOP_copy, 40), (g.GNTTABOP_swap_grant_ref, 12),
    (g.GNTTABOP_cache_flush, 16)])
def test_dispatch__is_preempted_before_the_third_item(board, op, size):
    board.machine.preempt_after(2)
    seen = board.observe(MAPPER, op, ARGS, 5)
    assert (seen.restart, seen.registers[:3]) == (True, [op, ARGS + 2 * size, 3])


def test_dispatch__is_preempted_after_one_item(board):
    board.machine.preempt_after(1)
    seen = board.observe(MAPPER, g.GNTTABOP_swap_grant_ref, ARGS, 2)
    assert (seen.restart, seen.registers[:3]) == (True, [g.GNTTABOP_swap_grant_ref, ARGS + 12, 1])


def test_dispatch__is_not_preempted_before_the_first_item(board):
    board.machine.preempt_after(1)
    assert board.call(MAPPER, g.GNTTABOP_map_grant_ref, ARGS, 1) == 0


def test_dispatch__continues_where_it_was_preempted(board):
    items = [g.MAP.pack(HOST + 0x1000 * i, g.GNTMAP_host_map, 9, GRANTER, 99, 0, 0) for i in range(4)]
    board.write(MAPPER, ARGS, b"".join(items))
    board.machine.preempt_after(3)
    seen = board.observe(MAPPER, g.GNTTABOP_map_grant_ref, ARGS, 4)
    result = board.call(MAPPER, *seen.registers[:3])
    handles = [g.MAP.unpack(board.read(MAPPER, ARGS + 32 * i, 32))[5] for i in range(4)]
    assert (result, handles) == (0, [0, 1, 2, 3])


def test_dispatch__may_find_its_arguments_in_the_callers_grant_frame(board):
    """The array lies in the table itself: the status of item 0 is written into the shared entry that it overlays."""
    table = board.table(MAPPER)
    board.machine.domains[MAPPER].p2m.insert(0x38100, 1, table.shared[0], abi.p2m_ram_rw)
    board.write(MAPPER, 0x38100000, g.SWAP.pack(600, 0, 0))
    assert (board.call(MAPPER, g.GNTTABOP_swap_grant_ref, 0x38100000, 1),
            board.machine.memory.get(table.shared[0], 1) & 0xFFFF) == (0, g.GNTST_bad_gntref & 0xFFFF)


def test_dispatch__writes_only_what_xen_writes(board):
    before = board.read(MAPPER, ARGS, 4096)
    board.one(MAPPER, g.GNTTABOP_copy, g.COPY, 9, GRANTER, 0, PAGE, SELF, 0, 16, 1, 99)
    after = board.read(MAPPER, ARGS, 4096)
    assert [i for i in range(40, 4096) if before[i] != after[i]] == []


def test_dispatch__of_no_vcpu_is_a_bad_stimulus(board):
    with pytest.raises(BadStimulus, match="no vCPU 7"):
        board.call(MAPPER, g.GNTTABOP_copy, ARGS, 1, vcpu=7)
