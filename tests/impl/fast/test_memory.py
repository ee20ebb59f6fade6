"""RAM as words and bytes, with its record and its journal."""

import pytest

from impl.boards.ram import Bank, Ram
from impl.fast.errors import BadConfig
from impl.fast.memory import Memory


@pytest.fixture
def memory():
    return Memory(Ram([Bank(0x80000000, 0x4000), Bank(0x40000000, 0x4000), Bank(0x40004000, 0x2000)]))


def test_banks__that_touch_are_one_stretch(memory):
    assert memory.banks == [(0x40000, 6), (0x80000, 4)]


@pytest.mark.parametrize(("mfn", "holds"), [(0x3FFFF, False), (0x40000, True), (0x40005, True), (0x40006, False),
                                            (0x80003, True), (0x80004, False), (-1, False), (1 << 60, False)])
def test_holds__any_number(memory, mfn, holds):
    assert memory.holds(mfn) is holds


@pytest.mark.parametrize("mfn", [0x40003, 0x80001])
def test_put__is_seen_as_words_bytes_and_in_the_board(memory, mfn):
    memory.put(mfn, 2, 0x1122334455667788)
    assert memory.get(mfn, 2) == memory.ram.page(mfn)[2] == int.from_bytes(memory.read(mfn, 16, 8), "little")


def test_collect_dirty__tells_each_frame_once(memory):
    memory.put(0x40000, 0, 1)
    memory.begin()
    memory.write(0x80000, 8, b"x")
    assert memory.collect_dirty() == {0x40000, 0x80000}
    assert memory.collect_dirty() == set()


def test_undo__brings_back_what_was_there(memory):
    memory.put(0x40000, 0, 1)
    mark = memory.mark()
    memory.put(0x40000, 0, 2)
    memory.undo(mark)
    memory.put(0x40000, 0, 3)
    memory.undo(mark)
    assert memory.get(0x40000, 0) == 1


def test_undo__to_an_earlier_mark_passes_the_later_ones(memory):
    outer = memory.mark()
    memory.put(0x40000, 0, 1)
    memory.mark()
    memory.put(0x40000, 0, 2)
    memory.undo(outer)
    assert memory.get(0x40000, 0) == 0


def test_memory__needs_ram():
    with pytest.raises(BadConfig, match="without RAM"):
        Memory(Ram([]))
