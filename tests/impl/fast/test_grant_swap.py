"""swap_grant_ref: the exchange of two entries of one's own table."""

import pytest

from impl.fast.grant import layouts as g
from tests.impl.fast.test_grant_support import GRANTER, MAPPER, PAGE, THIRD, Board


def swap(board, ref_a, ref_b, dom=GRANTER):
    result, fields = board.one(dom, g.GNTTABOP_swap_grant_ref, g.SWAP, ref_a, ref_b, 99)
    assert result == 0
    return fields[2]


@pytest.fixture(params=["arm64", "arm32"])
def board(request):
    board = Board(request.param)
    board.offer(9)
    board.offer(10, to=THIRD, gfn=PAGE + 1)
    return board


def entry(board, ref):
    return board.machine.memory.get(board.table(GRANTER).shared[0], ref)


def test_swap__exchanges_the_entries(board):
    before = entry(board, 9), entry(board, 10)
    assert (swap(board, 9, 10), (entry(board, 10), entry(board, 9))) == (g.GNTST_okay, before)


def test_swap__of_an_entry_with_itself_succeeds(board):
    assert swap(board, 9, 9) == g.GNTST_okay


def test_swap__of_a_pinned_entry_with_itself_succeeds(board):
    board.map(9)
    assert swap(board, 9, 9) == g.GNTST_okay


@pytest.mark.parametrize("refs", [(512, 9), (9, 512), (600, 600)])
def test_swap__beyond_the_table_is_bad_gntref(board, refs):
    assert swap(board, *refs) == g.GNTST_bad_gntref


@pytest.mark.parametrize("refs", [(9, 10), (10, 9)])
def test_swap__of_a_pinned_entry_is_eagain(board, refs):
    board.map(9)
    assert swap(board, *refs) == g.GNTST_eagain


def test_swap__concerns_the_callers_own_table(board):
    before = entry(board, 9)
    swap(board, 9, 10, dom=MAPPER)
    assert entry(board, 9) == before


def test_swap__works_in_later_frames(board):
    board.one(GRANTER, g.GNTTABOP_setup_table, g.SETUP, 0x7FF0, 3, 0, 0x40000800)
    before = entry(board, 9)
    swap(board, 9, 700)
    assert (entry(board, 9), board.machine.memory.get(board.table(GRANTER).shared[1], 188)) == (0, before)


def test_swap_v2__works_in_later_frames():
    board = Board(version=2)
    board.one(GRANTER, g.GNTTABOP_set_version, g.SET_VERSION, 2)
    board.one(GRANTER, g.GNTTABOP_setup_table, g.SETUP, 0x7FF0, 3, 0, 0x40000800)
    board.offer(700)
    swap(board, 700, 300)
    table = board.table(GRANTER)
    assert [board.machine.memory.get(table.shared[1], 88 + i) for i in range(2)] == [
        g.GTF_permit_access | MAPPER << 16, PAGE]


def test_swap_v2__exchanges_both_words_and_the_status():
    board = Board(version=2)
    board.one(GRANTER, g.GNTTABOP_set_version, g.SET_VERSION, 2)
    board.offer(9)
    board.machine.memory.put(board.table(GRANTER).status[0], 2, g.GTF_reading << 16)     # reference 9
    swap(board, 9, 10)
    words = [board.machine.memory.get(board.table(GRANTER).shared[0], i) for i in range(18, 22)]
    assert (words, board.status(9), board.status(10)) == (
        [0, 0, g.GTF_permit_access | MAPPER << 16, PAGE], 0, g.GTF_reading)
