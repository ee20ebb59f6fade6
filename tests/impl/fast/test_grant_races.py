"""A granter that rewrites its entry between two reads of Xen."""

import pytest

from impl.fast.grant import layouts as g
from tests.impl.fast.test_grant_support import GRANTER, HOST, MAPPER, PAGE, SELF, THIRD, Board

RO = g.GNTMAP_host_map | g.GNTMAP_readonly


def at(board, number, action):
    """Do something right before the number-th access to the granter's entries."""
    count = 0

    def hook(ref):
        nonlocal count
        count += 1
        if count == number:
            action()
    board.table(GRANTER).before_access = hook


@pytest.fixture
def board():
    board = Board()
    board.offer(9)
    return board


@pytest.fixture
def second():
    board = Board(version=2)
    board.one(GRANTER, g.GNTTABOP_set_version, g.SET_VERSION, 2)
    board.offer(9)
    return board


def test_race__a_harmless_change_is_retried(board):
    at(board, 2, lambda: board.offer(9, flags=g.GTF_permit_access | 1 << 5))
    assert (board.map(9)[0], board.flags(9)) == (
        g.GNTST_okay, g.GTF_permit_access | 1 << 5 | g.GTF_reading | g.GTF_writing)


def test_race__a_withdrawal_before_the_exchange_is_seen(board):
    at(board, 2, lambda: board.offer(9, flags=g.GTF_invalid))
    assert (board.map(9)[0], board.flags(9)) == (g.GNTST_general_error, g.GTF_invalid)


def test_race__becoming_read_only_before_the_exchange_is_seen(board):
    at(board, 2, lambda: board.offer(9, flags=g.GTF_permit_access | g.GTF_readonly))
    assert board.map(9)[0] == g.GNTST_general_error


def test_race__five_lost_exchanges_are_a_general_error(board):
    flips = []

    def flip(ref):
        flips.append(1)
        board.offer(9, flags=g.GTF_permit_access | len(flips) % 2 << 5)
    board.table(GRANTER).before_access = flip
    assert (board.map(9)[0], len(flips)) == (g.GNTST_general_error, 6)


def test_race__four_lost_exchanges_are_not(board):
    flips = []

    def flip(ref):
        flips.append(1)
        if len(flips) <= 5:
            board.offer(9, flags=g.GTF_permit_access | len(flips) % 2 << 5)
    board.table(GRANTER).before_access = flip
    assert board.map(9)[0] == g.GNTST_okay


def test_race__the_frame_is_read_after_the_exchange(board):
    marks = g.GTF_permit_access | g.GTF_reading | g.GTF_writing
    at(board, 3, lambda: board.offer(9, gfn=PAGE + 1, flags=marks))
    assert board.map(9)[2] == board.mfn(GRANTER, PAGE + 1) << 12


def test_race_v2__a_withdrawal_after_the_status_was_set_clears_it(second):
    at(second, 3, lambda: second.offer(9, to=THIRD))
    assert (second.map(9)[0], second.status(9)) == (g.GNTST_general_error, 0)


def test_race_v2__becoming_read_only_after_the_status_was_set_clears_it(second):
    at(second, 3, lambda: second.offer(9, flags=g.GTF_permit_access | g.GTF_readonly))
    assert (second.map(9)[0], second.status(9)) == (g.GNTST_general_error, 0)


def test_race_v2__becoming_read_only_under_a_pin_clears_writing_only(second):
    second.map(9, RO)
    at(second, 3, lambda: second.offer(9, flags=g.GTF_permit_access | g.GTF_readonly))
    assert (second.map(9, host=HOST + 0x1000)[0], second.status(9)) == (g.GNTST_general_error, g.GTF_reading)


def test_race_v2__a_sub_pages_window_is_read_after_its_frame(second):
    second.offer_sub_page(9, 0, 16)
    # type, header, status, header, flags, frame: the 7th access is the offset
    at(second, 7, lambda: second.offer_sub_page(9, 32, 16))
    assert second.copy((9, GRANTER, 32), (0x40005, SELF, 0)) == g.GNTST_okay


def test_race_v2__a_transitive_entry_pinned_meanwhile_starts_again(second):
    second.offer(4, to=GRANTER, granter=THIRD)
    second.offer_transitive(9, THIRD, 4)

    def pin(ref):
        second.table(THIRD).before_access = None
        second.table(GRANTER).pin[9] = 1
        second.table(GRANTER).act_domid[9] = MAPPER
    second.table(THIRD).before_access = pin
    address = second.address(MAPPER)
    second.write(MAPPER, address, g.COPY.pack(9, GRANTER, 0, 0x40005, SELF, 0, 16, g.GNTCOPY_source_gref, 99))
    assert second.observe(MAPPER, g.GNTTABOP_copy, address, 1).restart
