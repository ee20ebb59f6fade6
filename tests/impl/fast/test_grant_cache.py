"""cache_flush: who may flush what, bounds, and the cursor that a guest can forge."""

import pytest

from impl.fast import abi
from impl.fast.grant import layouts as g
from tests.impl.fast.test_grant_support import ARGS, GRANTER, MAPPER, PAGE, SELF, THIRD, Board

CLEAN, INVALIDATE = g.GNTTAB_CACHE_CLEAN, g.GNTTAB_CACHE_INVAL


@pytest.fixture(params=["arm64", "arm32"])
def board(request):
    board = Board(request.param)
    board.offer(9)
    return board


def flush(board, mfn, offset=0, length=64, op=CLEAN, cursor=0, dom=MAPPER):
    board.write(dom, ARGS, g.CACHE_FLUSH.pack(mfn << 12, offset, length, op))
    return board.call(dom, g.GNTTABOP_cache_flush | cursor, ARGS)


@pytest.mark.parametrize("op", [CLEAN, INVALIDATE, CLEAN | INVALIDATE])
def test_cache_flush__of_an_own_page_succeeds(board, op):
    assert flush(board, board.mfn(MAPPER, PAGE), op=op) == 0


def test_cache_flush__of_a_mapped_grant_succeeds(board):
    assert flush(board, board.map(9)[2] >> 12) == 0


def test_cache_flush__takes_no_lasting_reference(board):
    mfn = board.map(9)[2] >> 12
    flush(board, mfn)
    assert board.references(mfn) == 2


def test_cache_flush__of_a_page_that_is_not_mapped_is_einval(board):
    assert flush(board, board.mfn(GRANTER, PAGE)) == -abi.EINVAL


def test_cache_flush__of_a_page_that_another_domain_mapped_is_einval(board):
    mfn = board.map(9)[2] >> 12
    assert flush(board, mfn, dom=THIRD) == -abi.EINVAL


@pytest.mark.parametrize(("offset", "length"), [(4096, 0), (0, 4097), (4090, 7)])
def test_cache_flush__beyond_the_page_is_einval(board, offset, length):
    assert flush(board, board.mfn(MAPPER, PAGE), offset, length) == -abi.EINVAL


@pytest.mark.parametrize("op", [4, g.GNTTAB_CACHE_SOURCE_GREF, CLEAN | g.GNTTAB_CACHE_SOURCE_GREF])
def test_cache_flush__of_an_unknown_op_is_einval(board, op):
    assert flush(board, board.mfn(MAPPER, PAGE), op=op) == -abi.EINVAL


@pytest.mark.parametrize(("length", "op"), [(0, CLEAN), (64, 0)])
def test_cache_flush__of_nothing_succeeds_whatever_the_address(board, length, op):
    assert flush(board, 0x3, length=length, op=op) == 0


def test_cache_flush__of_nothing_with_a_cursor_is_eilseq(board):
    assert flush(board, 0x3, length=0, cursor=0x1000) == -abi.EILSEQ


def test_cache_flush__of_no_ram_is_einval(board):
    assert flush(board, 0x3) == -abi.EINVAL


def test_cache_flush__of_a_page_of_nobody_is_eperm(board):
    assert flush(board, board.table(MAPPER).active_frames[0]) == -abi.EPERM


def test_cache_flush__of_an_own_page_ignores_the_cursor(board):
    assert flush(board, board.mfn(MAPPER, PAGE), cursor=0xFFFFF000) == 0


@pytest.mark.parametrize("cursor", [0x1000, 0xFFFFF000])
def test_cache_flush__with_a_cursor_beyond_the_grant_is_einval(board, cursor):
    assert flush(board, board.map(9)[2] >> 12, cursor=cursor) == -abi.EINVAL


def test_cache_flush__error_ends_the_call(board):
    own = board.mfn(MAPPER, PAGE)
    board.write(MAPPER, ARGS, g.CACHE_FLUSH.pack(3 << 12, 0, 64, CLEAN) + g.CACHE_FLUSH.pack(own << 12, 0, 64, CLEAN))
    assert board.call(MAPPER, g.GNTTABOP_cache_flush, ARGS, 2) == -abi.EINVAL


def test_cache_flush__on_arm32_cuts_the_frame_to_32_bits():
    board = Board("arm32")
    assert flush(board, board.mfn(MAPPER, PAGE) | 1 << 32) == 0


def test_cache_flush__on_arm64_does_not():
    board = Board()
    assert flush(board, board.mfn(MAPPER, PAGE) | 1 << 32) == -abi.EINVAL


@pytest.fixture
def large():
    """A granter with 16 frames: 8192 references, two chunks of the search; reference 5000 is mapped."""
    board = Board()
    board.one(GRANTER, g.GNTTABOP_setup_table, g.SETUP, SELF, 16, 0, ARGS + 0x800)
    board.offer(5000)
    board.map(5000)
    board.write(MAPPER, ARGS, g.CACHE_FLUSH.pack(board.mfn(GRANTER, PAGE) << 12, 0, 64, CLEAN))
    return board


def test_cache_flush__searches_all_chunks_unless_preempted(large):
    assert large.call(MAPPER, g.GNTTABOP_cache_flush, ARGS) == 0


def test_cache_flush__is_preempted_between_chunks_with_a_cursor_in_cmd(large):
    large.machine.preempt_after(1)
    seen = large.observe(MAPPER, g.GNTTABOP_cache_flush, ARGS, 1)
    assert (seen.restart, seen.registers[:3]) == (True, [g.GNTTABOP_cache_flush | 4096, ARGS, 1])


def test_cache_flush__goes_on_at_the_cursor(large):
    assert large.call(MAPPER, g.GNTTABOP_cache_flush | 4096, ARGS) == 0


def test_cache_flush__ends_its_search_at_the_last_reference(large):
    large.write(MAPPER, ARGS, g.CACHE_FLUSH.pack(large.mfn(GRANTER, PAGE + 1) << 12, 0, 64, CLEAN))
    assert large.call(MAPPER, g.GNTTABOP_cache_flush, ARGS) == -abi.EINVAL


def test_cache_flush__uses_the_cursor_for_the_first_item_only(large):
    item = g.CACHE_FLUSH.pack(large.mfn(GRANTER, PAGE) << 12, 0, 64, CLEAN)
    large.offer(1, gfn=PAGE + 2)
    large.map(1, host=0x38100000)
    large.write(MAPPER, ARGS, item + g.CACHE_FLUSH.pack(large.mfn(GRANTER, PAGE + 2) << 12, 0, 64, CLEAN))
    assert large.call(MAPPER, g.GNTTABOP_cache_flush | 4096, ARGS, 2) == 0


# ---- a range within one line


def observed(architecture, offset, length, op=INVALIDATE, line=64):
    board = Board(architecture, cache_line=line)
    board.write(MAPPER, ARGS, g.CACHE_FLUSH.pack(board.mfn(MAPPER, PAGE) << 12, offset, length, op))
    return board.observe(MAPPER, g.GNTTABOP_cache_flush, ARGS, 1)


@pytest.mark.parametrize(("line", "offset", "length"), [(64, 1, 1), (64, 31, 32), (64, 4032 + 1, 62), (16, 17, 14)])
def test_cache_flush__that_drops_less_than_is_left_of_a_line_panics_on_arm64_alone(line, offset, length):
    assert observed("arm64", offset, length, line=line).kind == "panic"
    assert observed("arm32", offset, length, line=line).registers[0] == 0


@pytest.mark.parametrize(("offset", "length", "op"), [(31, 33, INVALIDATE), (64, 1, INVALIDATE), (1, 1, CLEAN),
                                                      (1, 1, CLEAN | INVALIDATE)])
def test_cache_flush__else_goes_on(offset, length, op):
    assert observed("arm64", offset, length, op).registers[0] == 0
