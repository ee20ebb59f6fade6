"""Following stage-2 tables in RAM as they change."""

import numpy as np

from bulkhead.conformance.stage2 import Tracker, row
from impl.xen.tables import Roots

BASE = 0x40000000
RAM_RW = 1 << 55
TABLE, VALID, PAGE = 2, 1, 3
ROOTS = Roots(BASE, 64 - 44 | 2 << 6, 64)            # root page at the start of RAM, level 0


def words():
    """RAM of 64 pages: a root table, a table of each level in pages 1 to 3, and one page mapped at gfn 0x205."""
    ram = np.zeros(64 * 512, np.uint64)
    for level in range(3):
        ram[512 * level + (0, 0, 1)[level]] = BASE + 4096 * (level + 1) | TABLE | VALID | RAM_RW
    ram[512 * 3 + 5] = BASE + 0x9000 | PAGE | RAM_RW | 0xC0
    return ram


def found(tracker, gfn):
    leaf = tracker.find(gfn)
    assert leaf is not None
    return leaf


def test_find__gives_the_frame_behind_a_gfn():
    tracker = Tracker(words(), BASE, ROOTS)
    tracker.update()
    assert row(found(tracker, 0x205)) == (BASE + 0x9000 >> 12, 1, True, True, True, True)
    assert tracker.find(0x206) is None


def test_update__tells_what_changed_and_nothing_else():
    ram = words()
    tracker = Tracker(ram, BASE, ROOTS)
    assert tracker.update() == {0x205: 1}
    assert tracker.update() == {}
    ram[512 * 3 + 7] = BASE + 0xA000 | PAGE | RAM_RW
    assert tracker.update() == {0x207: 1}


def test_update__tells_a_block_by_its_first_gfn_and_size():
    ram = words()
    tracker = Tracker(ram, BASE, ROOTS)
    tracker.update()
    ram[512 * 2 + 3] = BASE + 0x200000 | VALID | RAM_RW
    assert tracker.update() == {0x600: 512}
    assert found(tracker, 0x605).mfn == (BASE + 0x200000 >> 12) + 5


def test_update__of_a_table_entry_made_invalid_changes_what_lies_below():
    ram = words()
    tracker = Tracker(ram, BASE, ROOTS)
    tracker.update()
    ram[512] &= np.uint64(~VALID & (1 << 64) - 1)
    assert 0x205 in tracker.update()
    assert not found(tracker, 0x205).valid


def test_leaves__of_a_table_that_is_gone_are_gone():
    ram = words()
    tracker = Tracker(ram, BASE, ROOTS)
    tracker.update()
    ram[512 * 2 + 1] = 0
    assert tracker.update() == {0x205: 1}
    assert tracker.leaves() == []
