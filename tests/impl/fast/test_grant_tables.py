"""setup_table, query_size, get_status_frames and get_version."""

import pytest

from impl.fast import abi
from impl.fast.grant import layouts as g
from tests.impl.fast.test_grant_support import ARGS, DOM0, GRANTER, MAPPER, SELF, THIRD, Board

LIST = ARGS + 0x800


@pytest.fixture(params=["arm64", "arm32"])
def board(request):
    return Board(request.param)


def setup(board, nr_frames, dom=SELF, caller=MAPPER, frame_list=LIST):
    result, fields = board.one(caller, g.GNTTABOP_setup_table, g.SETUP, dom, nr_frames, 99, frame_list)
    assert result == 0
    return fields[2]


def add_to_physmap(board, idx, gfn, dom=MAPPER):
    """Map a table frame as XENMEM_add_to_physmap does."""
    board.write(dom, ARGS + 0x400, abi.ADD_TO_PHYSMAP.pack(SELF, 0, abi.XENMAPSPACE_grant_table, idx, gfn))
    number = 12 if board.arm32 else 16
    seen = board.machine.hypercall(dom, 0, {number: abi.HYPERCALL_MEMORY_OP, 0: abi.XENMEM_add_to_physmap,
                                            1: ARGS + 0x400})
    return board.result(seen)


def listed(board, number):
    return [int.from_bytes(board.read(MAPPER, LIST + 8 * i, 8), "little") for i in range(number)]


# ---- setup_table -----------------------------------------------------------------------------------------------


def test_setup_table__grows_the_table(board):
    assert (setup(board, 3), len(board.table(MAPPER).shared)) == (g.GNTST_okay, 3)


def test_setup_table__never_shrinks_it(board):
    setup(board, 3)
    setup(board, 1)
    assert len(board.table(MAPPER).shared) == 3


def test_setup_table__of_no_frames_succeeds(board):
    assert (setup(board, 0), len(board.table(MAPPER).shared)) == (g.GNTST_okay, 1)


def test_setup_table__lists_all_ones_for_frames_mapped_nowhere(board):
    setup(board, 2)
    assert listed(board, 2) == [(1 << (32 if board.arm32 else 64)) - 1] * 2


def test_setup_table__lists_the_gfn_of_a_mapped_frame(board):
    setup(board, 2)
    assert add_to_physmap(board, 1, 0x38001) == 0
    setup(board, 2)
    assert listed(board, 2)[1] == 0x38001


def test_setup_table__gives_zeroed_frames_shared_with_the_domain(board):
    setup(board, 2)
    mfn = board.table(MAPPER).shared[1]
    assert (board.machine.frames.owner_of(mfn), board.references(mfn), board.machine.memory.page(mfn).any()) == (
        MAPPER, 1, False)


def test_setup_table__takes_active_entries_from_the_heap_too():
    board = Board()
    before = board.machine.frames.total_avail
    setup(board, 2)
    # 40 bytes an entry, 102 a frame: 1 frame of 512 entries takes 6, two take 11
    assert before - board.machine.frames.total_avail == 1 + 5


def test_setup_table__on_arm32_takes_frames_from_xens_heap():
    board = Board("arm32")
    setup(board, 2)
    assert all(board.machine.frames.is_xen_heap(mfn) for mfn in board.table(MAPPER).shared)


def test_setup_table__writes_back_only_the_status(board):
    result, fields = board.one(MAPPER, g.GNTTABOP_setup_table, g.SETUP, SELF, 2, 99, LIST)
    assert (result, fields) == (0, (SELF, 2, 0, LIST))


def test_setup_table__of_an_unknown_domain_is_bad_domain(board):
    assert setup(board, 1, dom=555) == g.GNTST_bad_domain


def test_setup_table__of_another_domain_is_denied(board):
    assert setup(board, 1, dom=GRANTER) == g.GNTST_permission_denied


def test_setup_table__by_dom0_for_another_domain_is_allowed(board):
    address = board.address(DOM0)
    assert (setup(board, 4, dom=GRANTER, caller=DOM0, frame_list=address + 0x800),
            len(board.table(GRANTER).shared)) == (g.GNTST_okay, 4)


def test_setup_table__by_the_device_model_is_allowed(board):
    board.machine.domains[MAPPER].target = GRANTER
    assert setup(board, 1, dom=GRANTER) == g.GNTST_okay


def test_setup_table__beyond_the_maximum_is_a_general_error():
    board = Board(mapper={"max_grant_frames": 2})
    assert (setup(board, 3), len(board.table(MAPPER).shared)) == (g.GNTST_general_error, 1)


def test_setup_table__without_memory_is_a_general_error_and_takes_nothing(board):
    frames = board.machine.frames
    allocate = frames.alloc_xenheap
    taken: list[int] = []

    def three(order=0):
        if len(taken) == 3:
            return None
        taken.append(allocate(order))
        return taken[-1]
    frames.alloc_xenheap = three
    before = frames.total_avail
    assert (setup(board, 64), frames.total_avail, len(board.table(MAPPER).shared)) == (g.GNTST_general_error, before, 1)


def test_setup_table__with_a_list_in_a_hole_is_bad_virt_addr_and_grows_all_the_same(board):
    assert (setup(board, 2, frame_list=0x12345000), len(board.table(MAPPER).shared)) == (g.GNTST_bad_virt_addr, 2)


def test_setup_table__writes_the_list_beyond_a_faulting_element(board):
    """The first element lies in a hole, the second is written."""
    p2m = board.machine.domains[MAPPER].p2m
    p2m.remove(0x40006, 1, board.mfn(MAPPER, 0x40006))
    board.write(MAPPER, 0x40007000, bytes(8))
    assert (setup(board, 2, frame_list=0x40007000 - 8), board.read(MAPPER, 0x40007000, 4)) == (
        g.GNTST_bad_virt_addr, b"\xff" * 4)


def test_setup_table__whose_status_cannot_be_written_is_efault(board):
    board.write(MAPPER, 0x40006000, g.SETUP.pack(SELF, 1, 99, LIST))
    board.machine.domains[MAPPER].p2m.insert(0x40006, 1, board.mfn(MAPPER, 0x40006), abi.p2m_ram_ro)
    assert board.call(MAPPER, g.GNTTABOP_setup_table, 0x40006000) == -abi.EFAULT


def test_setup_table_v2__grows_status_frames_with_it():
    board = Board(version=2)
    board.one(MAPPER, g.GNTTABOP_set_version, g.SET_VERSION, 2)
    setup(board, 9)
    assert len(board.table(MAPPER).status) == 2


def test_setup_table_v2__without_memory_for_status_frames_takes_nothing(monkeypatch):
    board = Board(version=2)
    board.one(MAPPER, g.GNTTABOP_set_version, g.SET_VERSION, 2)
    frames, table = board.machine.frames, board.table(MAPPER)
    allocate, before = frames.alloc_xenheap, frames.total_avail
    taken: list[int] = []

    def all_but_the_last(order=0):
        taken.append(1)
        # 9 grant frames need 8 shared and 40 active ones more, then a status frame
        return allocate(order) if len(taken) <= 8 + table.active_frames_for(9) - table.active_frames_for(1) else None
    monkeypatch.setattr(frames, "alloc_xenheap", all_but_the_last)
    assert (setup(board, 9), frames.total_avail, len(table.shared)) == (g.GNTST_general_error, before, 1)


# ---- query_size ------------------------------------------------------------------------------------------------


def query(board, dom, caller=MAPPER):
    result, fields = board.one(caller, g.GNTTABOP_query_size, g.QUERY, dom, 77, 88, 99)
    assert result == 0
    return fields[1:]


def test_query_size__tells_the_current_and_greatest_size(board):
    assert query(board, SELF) == (1, 64, g.GNTST_okay)


def test_query_size__by_real_id_is_the_same(board):
    assert query(board, MAPPER) == (1, 64, g.GNTST_okay)


def test_query_size__of_dom0_is_bounded_by_the_size_of_xens_text():
    assert query(Board(xen_text_pages=20), SELF, DOM0) == (1, 20, g.GNTST_okay)


def test_query_size__of_an_unknown_domain_is_bad_domain(board):
    assert query(board, 555) == (77, 88, g.GNTST_bad_domain)


def test_query_size__of_another_domain_is_denied(board):
    assert query(board, THIRD) == (77, 88, g.GNTST_permission_denied)


def test_query_size__by_dom0_is_allowed(board):
    assert query(board, THIRD, DOM0) == (1, 64, g.GNTST_okay)


def test_query_size__writes_the_padding_back_as_it_came(board):
    board.write(MAPPER, ARGS, b"\xff\x7f" + bytes(range(0xA2, 0xB0)) + b"next")
    board.call(MAPPER, g.GNTTABOP_query_size, ARGS)
    data = board.read(MAPPER, ARGS, 20)
    assert (data[2:4], data[14:]) == (b"\xa2\xa3", b"\xae\xafnext")


# ---- get_status_frames --------------------------------------------------------------------------------------------


def status_frames(board, number, dom=SELF, frame_list=LIST):
    result, fields = board.one(MAPPER, g.GNTTABOP_get_status_frames, g.STATUS_FRAMES, number, dom, 99, frame_list)
    assert result == 0
    return fields[2]


@pytest.fixture
def second():
    board = Board(version=2)
    board.one(MAPPER, g.GNTTABOP_set_version, g.SET_VERSION, 2)
    return board


def test_get_status_frames__of_a_v1_table_is_a_general_error(board):
    assert status_frames(board, 1) == g.GNTST_general_error


def test_get_status_frames__of_none_succeeds_in_version_1(board):
    assert status_frames(board, 0) == g.GNTST_okay


def test_get_status_frames__lists_all_ones_before_they_are_mapped(second):
    assert (status_frames(second, 1), listed(second, 1)) == (g.GNTST_okay, [abi.MASK64])


def test_get_status_frames__lists_the_gfn_of_a_mapped_frame(second):
    add_to_physmap(second, 1 << 31, 0x38005)
    assert (status_frames(second, 1), listed(second, 1)) == (g.GNTST_okay, [0x38005])


def test_get_status_frames__of_more_than_there_are_is_a_general_error(second):
    assert status_frames(second, 2) == g.GNTST_general_error


def test_get_status_frames__of_an_unknown_domain_is_bad_domain(second):
    assert status_frames(second, 1, dom=555) == g.GNTST_bad_domain


def test_get_status_frames__of_another_domain_is_denied(second):
    assert status_frames(second, 1, dom=THIRD) == g.GNTST_permission_denied


def test_get_status_frames__with_a_list_in_a_hole_is_bad_virt_addr(second):
    assert status_frames(second, 1, frame_list=0x12345000) == g.GNTST_bad_virt_addr


# ---- get_version ---------------------------------------------------------------------------------------------------


def version(board, dom, caller=MAPPER):
    return board.one(caller, g.GNTTABOP_get_version, g.GET_VERSION, dom, 99)


def test_get_version__tells_the_version(board):
    assert version(board, SELF) == (0, (SELF, 1))


def test_get_version__tells_version_2_after_the_change(second):
    assert version(second, SELF) == (0, (SELF, 2))


def test_get_version__of_an_unknown_domain_is_esrch(board):
    assert version(board, 555) == (-abi.ESRCH, (555, 99))


def test_get_version__of_another_domain_is_eperm(board):
    assert version(board, THIRD) == (-abi.EPERM, (THIRD, 99))


def test_get_version__by_dom0_is_allowed(board):
    assert version(board, THIRD, DOM0) == (0, (THIRD, 1))
