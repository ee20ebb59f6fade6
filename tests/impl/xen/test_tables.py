"""Stage-2 tables as Xen leaves them in RAM."""

import numpy as np
import pytest

from impl.xen.tables import Roots, find, leaves, rows

BASE = 0x40000000
RAM_RW, GRANT_RO = 1, 9


def entry(mfn: int, p2m_type: int, *, valid: bool = True, table: bool = False, bits: int = 0) -> int:
    return mfn << 12 | p2m_type << 55 | int(valid) | (2 if table else 0) | bits


@pytest.fixture
def ram():
    """Root at frame 0 (level 1, two pages), then a table of level 2 and one of level 3; one block of 2 MB."""
    words = np.zeros(16 * 512, np.uint64)
    frame = BASE >> 12
    words[1] = entry(frame + 2, 0, table=True) | 0xF << 55
    words[2 * 512] = entry(frame + 3, 0, table=True) | 0xF << 55
    words[2 * 512 + 1] = entry(0x48000, RAM_RW, bits=64 | 128)
    words[3 * 512 + 5] = entry(0x41234, RAM_RW, table=True, bits=64 | 128)
    words[3 * 512 + 6] = entry(0x45678, GRANT_RO, valid=False, table=True, bits=64 | 1 << 54)
    return words


ROOTS = Roots(BASE | 3 << 48, 0x80003558, 32)


@pytest.mark.parametrize(("vtcr", "width", "ipa_bits", "level", "pages"), [
    (0x80043594, 64, 44, 0, 1), (0x80003558, 32, 40, 1, 2), (0x80023558, 64, 40, 1, 2),
])
def test_roots__are_decoded_as_xen_sets_them(vtcr, width, ipa_bits, level, pages):
    roots = Roots(0, vtcr, width)
    assert (roots.ipa_bits, roots.level, roots.pages) == (ipa_bits, level, pages)


def test_roots__know_the_vmid():
    assert ROOTS.vmid == 3
    assert ROOTS.table == BASE


def test_find__gives_the_frame_of_a_page_and_of_a_block(ram):
    page, block = find(ram, BASE, ROOTS, 0x40005), find(ram, BASE, ROOTS, 0x40203)
    assert page is not None
    assert block is not None
    assert (page.mfn, page.level, page.valid, page.writable) == (0x41234, 3, True, True)
    assert (block.mfn, block.level) == (0x48003, 2)


def test_find__sees_what_only_xen_takes_for_mapped(ram):
    leaf = find(ram, BASE, ROOTS, 0x40006)
    assert leaf is not None
    assert (leaf.valid, leaf.type, leaf.writable, leaf.executable) == (False, GRANT_RO, False, False)


@pytest.mark.parametrize("gfn", [0, 0x40007, 0x80000, 1 << 28, 1 << 40])
def test_find__gives_nothing_where_nothing_is(ram, gfn):
    assert find(ram, BASE, ROOTS, gfn) is None


def test_leaves__are_all_found_once(ram):
    found = sorted((leaf.gfn, leaf.frames) for leaf in leaves(ram, BASE, ROOTS))
    assert found == [(0x40005, 1), (0x40006, 1), (0x40200, 512)]


def test_leaves__survive_a_table_outside_of_ram(ram):
    ram[0] = entry(0x1, 0xF, table=True)
    assert len(list(leaves(ram, BASE, ROOTS))) == 3


def test_rows__are_one_for_each_frame(ram):
    found = rows(ram, BASE, ROOTS, 4)
    assert len(found) == 514
    assert found[4, 0x40005] == (0x41234, RAM_RW, True, True, True, True)
    assert found[4, 0x40201] == (0x48001, RAM_RW, True, True, True, True)
