"""set_version: what survives the change, and each way in which it fails."""

import pytest

from impl.fast import abi
from impl.fast.grant import layouts as g
from impl.fast.grant.table import HSTR_INC
from tests.impl.fast.test_grant_support import ARGS, DOM0, GRANTER, HOST, MAPPER, PAGE, SELF, Board


def change(board, version, dom=GRANTER):
    return board.one(dom, g.GNTTABOP_set_version, g.SET_VERSION, version)


@pytest.fixture
def board():
    return Board(version=2)


def map_table_frame(board, idx, gfn):
    board.write(GRANTER, ARGS + 0x400, abi.ADD_TO_PHYSMAP.pack(SELF, 0, abi.XENMAPSPACE_grant_table, idx, gfn))
    seen = board.machine.hypercall(GRANTER, 0, {16: abi.HYPERCALL_MEMORY_OP, 0: abi.XENMEM_add_to_physmap,
                                                1: ARGS + 0x400})
    assert seen.registers[0] == 0


# ---- to version 2 ----------------------------------------------------------------------------------------------


def test_set_version__to_2_is_enosys_where_the_limit_is_1():
    assert change(Board(), 2) == (-abi.ENOSYS, (1,))


@pytest.mark.parametrize("version", [0, 3, 1 << 31])
def test_set_version__of_no_version_is_einval(board, version):
    assert change(board, version) == (-abi.EINVAL, (1,))


def test_set_version__to_the_same_one_is_0(board):
    board.offer(20)
    assert (change(board, 1), board.flags(20)) == ((0, (1,)), g.GTF_permit_access)


def test_set_version__to_2_succeeds(board):
    assert change(board, 2) == (0, (2,))


def test_set_version__to_2_makes_status_frames(board):
    board.one(GRANTER, g.GNTTABOP_setup_table, g.SETUP, SELF, 9, 0, ARGS + 0x800)
    change(board, 2)
    table = board.table(GRANTER)
    assert [board.machine.frames.owner_of(mfn) for mfn in table.status] == [GRANTER, GRANTER]


def test_set_version__to_2_keeps_the_reserved_entries(board):
    board.offer(7)
    change(board, 2)
    word = board.machine.memory.get(board.table(GRANTER).shared[0], 15)
    assert (board.flags(7), word) == (g.GTF_permit_access, PAGE)


def test_set_version__keeps_the_domain_of_a_reserved_entry_both_ways(board):
    board.offer(7, to=MAPPER)
    change(board, 2)
    there = board.machine.memory.get(board.table(GRANTER).shared[0], 14) >> 16
    change(board, 1)
    assert (there, board.machine.memory.get(board.table(GRANTER).shared[0], 7)) == (
        MAPPER, g.GTF_permit_access | MAPPER << 16 | PAGE << 32)


def test_set_version__to_2_moves_the_marks_of_a_pinned_entry(board):
    board.offer(7)
    board.map(7)
    change(board, 2)
    assert (board.flags(7), board.status(7)) == (g.GTF_permit_access, g.GTF_reading | g.GTF_writing)


def test_set_version__to_2_leaves_the_mapping_usable(board):
    board.offer(7)
    handle = board.map(7)[1]
    change(board, 2)
    assert (board.unmap(handle), board.status(7)) == (g.GNTST_okay, 0)


def test_set_version__clears_every_other_entry(board):
    board.offer(8)
    change(board, 2)
    assert not board.machine.memory.page(board.table(GRANTER).shared[0])[16:].any()


def test_set_version__with_a_pinned_entry_is_ebusy(board):
    board.offer(8)
    board.map(8)
    assert change(board, 2) == (-abi.EBUSY, (1,))


def test_set_version__without_memory_is_enomem(board):
    board.machine.frames.alloc_xenheap = lambda order=0: None
    assert change(board, 2) == (-abi.ENOMEM, (1,))


def test_set_version__of_dom0_concerns_its_own_table(board):
    change(board, 2, dom=DOM0)
    assert (board.table(DOM0).version, board.table(GRANTER).version) == (2, 1)


def test_set_version__whose_answer_cannot_be_written_is_efault_and_done(board):
    board.write(GRANTER, 0x40006000, g.SET_VERSION.pack(2))
    board.machine.domains[GRANTER].p2m.insert(0x40006, 1, board.mfn(GRANTER, 0x40006), abi.p2m_ram_ro)
    assert (board.call(GRANTER, g.GNTTABOP_set_version, 0x40006000), board.table(GRANTER).version) == (-abi.EFAULT, 2)


# ---- back to version 1 -------------------------------------------------------------------------------------------


@pytest.fixture
def second(board):
    change(board, 2)
    return board


def test_set_version__to_1_succeeds(second):
    assert change(second, 1) == (0, (1,))


def test_set_version__to_1_gives_the_status_frames_back(second):
    mfn = second.table(GRANTER).status[0]
    change(second, 1)
    assert (second.table(GRANTER).status, second.machine.frames.is_free(mfn)) == ([], True)


def test_set_version__to_1_unmaps_the_status_frames(second):
    map_table_frame(second, 1 << 31, 0x38005)
    assert (change(second, 1), second.kind(GRANTER, 0x38005)) == ((0, (1,)), abi.p2m_invalid)


def test_set_version__to_1_merges_the_marks_into_the_flags(second):
    second.offer(7)
    second.map(7)
    change(second, 1)
    assert second.flags(7) == g.GTF_permit_access | g.GTF_reading | g.GTF_writing


def test_set_version__to_1_zeroes_reserved_entries_of_other_types(second):
    second.offer(6, flags=g.GTF_accept_transfer)
    change(second, 1)
    assert second.machine.memory.get(second.table(GRANTER).shared[0], 6) == 0


def test_set_version__to_1_with_a_transitive_reserved_entry_is_erange(second):
    second.offer_transitive(3, MAPPER, 1)
    assert change(second, 1) == (-abi.ERANGE, (2,))


def test_set_version__to_1_with_a_frame_of_33_bits_is_erange(second):
    second.offer(3, gfn=1 << 32)
    assert change(second, 1) == (-abi.ERANGE, (2,))


def test_set_version__to_1_with_a_pinned_entry_is_ebusy_before_erange(second):
    second.offer_transitive(3, MAPPER, 1)
    second.table(GRANTER).pin[9] = HSTR_INC
    assert change(second, 1) == (-abi.EBUSY, (2,))


def test_set_version__to_1_with_a_status_frame_in_use_crashes_the_caller(second):
    second.machine.frames.get_page(second.table(GRANTER).status[0], GRANTER)
    second.write(GRANTER, ARGS, g.SET_VERSION.pack(1))
    assert second.observe(GRANTER, g.GNTTABOP_set_version, ARGS, 1).kind == "crash"


def test_set_version__that_crashes_the_caller_keeps_version_and_entries(second):
    second.offer(20)
    second.machine.frames.get_page(second.table(GRANTER).status[0], GRANTER)
    second.write(GRANTER, ARGS, g.SET_VERSION.pack(1))
    second.observe(GRANTER, g.GNTTABOP_set_version, ARGS, 1)
    assert (second.table(GRANTER).version, second.flags(20)) == (2, g.GTF_permit_access)


def test_set_version__to_1_with_a_status_frame_whose_gfn_holds_another_page_crashes_the_caller(second):
    map_table_frame(second, 1 << 31, 0x38005)
    # a grant map of another page at that gfn; the frame itself still says that it is there
    p2m, frames, mfn = second.machine.domains[GRANTER].p2m, second.machine.frames, second.table(GRANTER).status[0]
    p2m.insert(0x38005, 1, second.mfn(GRANTER, PAGE), abi.p2m_ram_rw)
    frames.set_xenheap_gfn(mfn, 0x38005)
    second.write(GRANTER, ARGS, g.SET_VERSION.pack(1))
    assert second.observe(GRANTER, g.GNTTABOP_set_version, ARGS, 1).kind == "crash"


def test_set_version__to_1_after_the_status_frame_was_decreased_succeeds(second):
    """Without its allocation reference the frame passes the check of its count."""
    frames, mfn = second.machine.frames, second.table(GRANTER).status[0]
    frames.get_page(mfn, GRANTER)
    frames.put_page_alloc_ref(mfn)
    frames.put_page(mfn)
    assert change(second, 1) == (0, (1,))


def test_set_version__to_1_on_arm32_panics():
    board = Board("arm32", version=2)
    change(board, 2)
    board.write(GRANTER, ARGS, g.SET_VERSION.pack(1))
    assert board.observe(GRANTER, g.GNTTABOP_set_version, ARGS, 1).kind == "panic"


def test_set_version__to_1_on_arm32_with_a_status_frame_in_use_crashes_the_caller_only():
    board = Board("arm32", version=2)
    change(board, 2)
    board.machine.frames.get_page(board.table(GRANTER).status[0], GRANTER)
    board.write(GRANTER, ARGS, g.SET_VERSION.pack(1))
    assert board.observe(GRANTER, g.GNTTABOP_set_version, ARGS, 1).kind == "crash"


def test_set_version__back_and_forth_keeps_a_mapping(second):
    second.offer(7)
    handle = second.map(7)[1]
    change(second, 1)
    change(second, 2)
    assert (second.unmap(handle), second.kind(MAPPER, HOST >> 12)) == (g.GNTST_okay, abi.p2m_invalid)
