"""Handles: the order in which they are given, and what happens when they run out."""

from impl.fast.grant import layouts as g
from tests.impl.fast.test_grant_support import GRANTER, HOST, MAPPER, Board

RO = g.GNTMAP_host_map | g.GNTMAP_readonly


def board_with(vcpus=1, frames=1):
    board = Board(mapper={"vcpus": vcpus, "max_maptrack_frames": frames})
    for ref in range(8):
        board.offer(ref)
    return board


def fill(board, number, vcpu=0):
    """Map number times, 127 times a reference; the statuses."""
    return [board.map(i // 127, RO, HOST + 0x1000 * i, vcpu=vcpu)[0] for i in range(number)]


def test_maptrack__gives_handles_upwards_from_a_new_frame():
    board = board_with()
    assert [board.map(1, RO, HOST + 0x1000 * i)[1] for i in range(3)] == [0, 1, 2]


def test_maptrack__queues_a_freed_handle_behind_the_others():
    board = board_with()
    board.unmap(board.map(1)[1])
    assert board.map(1)[1] == 1


def test_maptrack__keeps_one_handle_of_a_full_frame():
    assert fill(board_with(), 256) == [g.GNTST_okay] * 255 + [g.GNTST_no_space]


def test_maptrack__takes_a_second_frame_within_the_limit():
    assert fill(board_with(frames=2), 300) == [g.GNTST_okay] * 300


def test_maptrack__gives_the_handle_kept_in_the_first_frame_after_the_second():
    board = board_with(frames=2)
    fill(board, 255)
    handles = [board.map(7, RO, HOST)[1] for _ in range(3)]
    assert handles == [256, 257, 258]


def test_maptrack__takes_its_frame_from_the_heap():
    board = board_with()
    before = board.machine.frames.total_avail
    board.machine.domains[MAPPER].p2m.insert(HOST >> 12, 1, board.mfn(GRANTER, 0x40020), 8)
    board.map(1)
    assert board.machine.frames.total_avail == before - 1


def test_maptrack__of_another_vcpu_gets_its_own_frame():
    board = board_with(vcpus=2, frames=2)
    board.map(1, RO)
    assert board.map(1, RO, HOST + 0x1000, vcpu=1)[1] == 256


def test_maptrack__steals_from_another_vcpu_when_no_frame_is_left():
    board = board_with(vcpus=2)
    board.map(1, RO)
    # handle 1 becomes the entry that the second vCPU's list keeps
    assert board.map(1, RO, HOST + 0x1000, vcpu=1)[1] == 2


def test_maptrack__returns_a_stolen_handle_to_the_thief():
    board = board_with(vcpus=2)
    board.map(1, RO)
    handle = board.map(1, RO, HOST + 0x1000, vcpu=1)[1]
    board.unmap(handle, HOST + 0x1000)
    assert board.table(MAPPER).vcpu_tail[1] == handle


def test_maptrack__keeps_one_handle_for_each_vcpu_with_a_list():
    board = board_with(vcpus=2)
    board.map(1, RO)
    statuses = [board.map(2 + i // 127, RO, HOST + 0x1000 * i, vcpu=1)[0] for i in range(254)]
    assert statuses == [g.GNTST_okay] * 253 + [g.GNTST_no_space]


def test_maptrack__has_no_space_for_a_vcpu_that_can_steal_only_one():
    board = board_with(vcpus=2)
    fill(board, 254)
    assert board.map(7, RO, HOST, vcpu=1)[0] == g.GNTST_no_space


def test_maptrack__steals_when_the_heap_is_empty():
    board = board_with(vcpus=2, frames=4)
    board.map(1, RO)
    frames = board.machine.frames
    frames.alloc_xenheap = lambda order=0: None
    assert board.map(1, RO, HOST + 0x1000, vcpu=1)[1] == 2


def test_maptrack__is_logged_as_a_choice():
    board = board_with()
    board.write(MAPPER, board.address(MAPPER), g.MAP.pack(HOST, RO, 1, GRANTER, 0, 0, 0))
    seen = board.observe(MAPPER, g.GNTTABOP_map_grant_ref, board.address(MAPPER), 1)
    assert ("handle", 0) in seen.choices


def test_maptrack__logs_no_choice_when_there_is_none():
    board = Board(mapper={"max_maptrack_frames": 0})
    board.write(MAPPER, board.address(MAPPER), g.MAP.pack(HOST, RO, 1, GRANTER, 0, 0, 0))
    assert board.observe(MAPPER, g.GNTTABOP_map_grant_ref, board.address(MAPPER), 1).choices == ()


def test_maptrack__takes_a_forced_handle_that_is_free():
    board = board_with()
    board.map(1, RO)
    board.machine.force([("handle", 100)])
    assert board.map(1, RO, HOST + 0x1000)[1] == 100


def test_maptrack__goes_on_as_before_after_a_forced_handle():
    board = board_with()
    board.map(1, RO)
    board.machine.force([("handle", 2)])
    handles = [board.map(1, RO, HOST + 0x1000 * i)[1] for i in range(1, 4)]
    assert handles == [2, 1, 3]


def test_maptrack__takes_a_forced_handle_at_the_tail():
    board = board_with()
    board.map(1, RO)
    board.machine.force([("handle", 255)])
    handle = board.map(1, RO, HOST + 0x1000)[1]
    assert (handle, board.table(MAPPER).vcpu_tail[0]) == (255, 254)


def test_maptrack__refuses_a_forced_handle_that_another_vcpus_list_keeps():
    board = board_with(vcpus=2)
    board.map(1, RO)
    board.map(1, RO, HOST + 0x1000, vcpu=1)     # handle 1 is what the second list keeps
    board.machine.force([("handle", 1)])
    assert board.map(1, RO, HOST + 0x2000)[1] == 3


def test_maptrack__refuses_a_forced_handle_in_use():
    board = board_with()
    board.map(1, RO)
    board.machine.force([("handle", 0)])
    assert board.map(1, RO, HOST + 0x1000)[1] == 1


def test_maptrack__refuses_a_forced_handle_beyond_its_frames():
    board = board_with()
    board.machine.force([("handle", 256)])
    assert board.map(1, RO)[1] == 0
