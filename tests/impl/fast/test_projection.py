"""The neutral rows."""

import pytest

from impl.fast import abi, p2m
from impl.fast.projection import Projector, project, project_p2m
from tests.impl.fast.board import DOMU_BASE, Guest, board


@pytest.fixture
def machine():
    return board()


def test_project__domain_rows(machine):
    assert project(machine)["domain"][1,] == (0, 256, 256, 0, DOMU_BASE, DOMU_BASE + 255, 32, 30)


def test_project__p2m_row_of_a_page(machine):
    mfn = p2m.lookup(machine.domains[1], DOMU_BASE + 3).mfn
    assert project(machine)["p2m"][1, DOMU_BASE + 3] == (mfn, 1, False, True, True, True)


def test_project__p2m_row_after_the_guest_touched_the_page(machine):
    machine.load(1, 0, (DOMU_BASE + 3) << 12, 8)
    rows = project(machine)["p2m"]
    assert [rows[1, DOMU_BASE + i][2] for i in (2, 3)] == [False, True]


@pytest.mark.parametrize("bits", [32, 36, 40, 42, 44, 48])
def test_project__p2m_rows_are_what_lookup_finds(bits):
    domain = board(pa_bits=bits).domains[1]
    domain.p2m.insert(0x80000, 513, 0x9000, abi.p2m_mmio_direct_dev)
    rows = project_p2m(domain)
    assert len(rows) == 256 + 513
    assert all(rows[1, gfn][:2] == p2m.lookup(domain, gfn)[:2] for _, gfn in rows)


def test_project__p2m_rows_of_a_second_root_page(machine):
    domain = machine.domains[1]
    p2m.insert(domain, 1 << 27 | 5, 0x9000, 0, abi.p2m_mmio_direct_dev)
    assert (1, 1 << 27 | 5) in project_p2m(domain)


def test_project__frame_rows_leave_out_free_frames(machine):
    rows = project(machine)["frame"]
    assert len(rows) == machine.frames.total_pages - machine.frames.total_avail


def test_project__frame_row_of_a_shared_page(machine):
    Guest(machine, 0).foreign(1, DOMU_BASE, 0x90000)
    assert project(machine)["frame"][p2m.lookup(machine.domains[1], DOMU_BASE).mfn,] == (1, True, False, 2)


def test_project__frame_row_of_shared_info(machine):
    assert project(machine)["frame"][machine.domains[1].shared_info,] == (1, True, True, 1)


def test_project__holds_plain_values_only(machine):
    rows = [row for table in project(machine).values() for row in table.items()]
    values = {type(value) for row in rows for part in row for value in part}
    assert values <= {int, bool, type(None)}


def test_projector__starts_with_everything(machine):
    assert Projector(machine).rows == project(machine)


def test_projector__without_a_stimulus_tells_nothing(machine):
    assert not any(Projector(machine).update().values())


def test_projector__tells_the_rows_of_a_change(machine):
    one = Guest(machine, 1)
    one.put(one.base + 0x1000, bytes(32))
    projector = Projector(machine)
    mfn = p2m.lookup(one.domain, DOMU_BASE + 9).mfn
    p2m.remove(one.domain, DOMU_BASE + 9, mfn)
    assert projector.update()["p2m"] == {(1, DOMU_BASE + 9): None}


def test_projector__tells_a_frame_that_is_free_again(machine):
    one = Guest(machine, 1)
    projector = Projector(machine)
    mfn = p2m.lookup(one.domain, DOMU_BASE + 9).mfn
    one.decrease([DOMU_BASE + 9])
    assert projector.update()["frame"] == {(mfn,): None}


def test_projector__expands_blocks(machine):
    projector = Projector(machine)
    p2m.insert(machine.domains[1], 0x80000, 0x9000 >> 9 << 9, 9, abi.p2m_mmio_direct_dev)
    assert len(projector.update()["p2m"]) == 512
