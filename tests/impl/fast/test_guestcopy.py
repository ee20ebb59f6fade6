"""Copies to and from guests, page by page."""

import pytest

from impl.fast import abi, p2m
from impl.fast.guestcopy import Fault, copy_from_guest, copy_to_guest, read_word, write_word
from tests.impl.fast.board import DOMU_BASE, board

HOLE = DOMU_BASE + 0x800
BASE = DOMU_BASE << 12


@pytest.fixture(params=["arm64", "arm32"])
def machine(request):
    return board(request.param)


@pytest.fixture
def one(machine):
    return machine.domains[1]


def test_copy__there_and_back_over_pages(one):
    data = bytes(range(256)) * 40
    assert copy_to_guest(one, 0, BASE + 100, data) is None
    assert copy_from_guest(one, 0, BASE + 100, len(data)) == data


def test_copy_to__keeps_the_pages_before_a_fault(one):
    end = (DOMU_BASE + 256) << 12
    assert copy_to_guest(one, 0, end - 4, b"abcdefgh") == Fault(4)
    assert copy_from_guest(one, 0, end - 4, 4) == b"abcd"


def test_copy_from__tells_how_far_it_came(one):
    end = (DOMU_BASE + 256) << 12
    assert copy_from_guest(one, 0, end - 5000, 6000) == Fault(5000)


def test_copy__of_nothing_needs_no_page(one):
    assert copy_from_guest(one, 0, 0, 0) == b""
    assert copy_to_guest(one, 0, 0, b"") is None


def test_copy__through_a_hardware_invalid_entry_works(one):
    assert write_word(one, 0, BASE + 0x8000, 5)
    assert read_word(one, 0, BASE + 0x8000) == 5


def test_copy__does_not_repair_the_valid_bit():
    machine = board("arm32")
    one = machine.domains[1]
    read_word(one, 0, BASE)
    assert not machine.memory.get(one.p2m.root, 1) & 1


@pytest.mark.parametrize("kind", [abi.p2m_map_foreign_rw, abi.p2m_grant_map_rw])
def test_copy__of_another_domains_page_faults(machine, one, kind):
    p2m.insert(one, HOLE, p2m.lookup(machine.domains[2], DOMU_BASE).mfn, 0, kind)
    assert copy_from_guest(one, 0, HOLE << 12, 8) == Fault(0)


def test_copy__of_an_own_page_behind_a_grant_map_works(machine, one):
    p2m.insert(one, HOLE, p2m.lookup(one, DOMU_BASE).mfn, 0, abi.p2m_grant_map_rw)
    machine.load(1, 0, HOLE << 12, 8)
    assert write_word(one, 0, HOLE << 12, 9)


def test_copy__to_an_own_page_behind_a_read_only_grant_map_faults(machine, one):
    p2m.insert(one, HOLE, p2m.lookup(one, DOMU_BASE).mfn, 0, abi.p2m_grant_map_ro)
    machine.load(1, 0, HOLE << 12, 8)
    assert copy_to_guest(one, 0, HOLE << 12, bytes(8)) == Fault(0)
    assert read_word(one, 0, HOLE << 12) == 0


def test_copy__to_read_only_ram_faults_though_reading_works(one):
    p2m.insert(one, HOLE, p2m.lookup(one, DOMU_BASE).mfn, 0, abi.p2m_ram_ro)
    assert copy_to_guest(one, 0, HOLE << 12, bytes(8)) == Fault(0)
    assert read_word(one, 0, HOLE << 12) == 0


def test_copy__through_an_invalid_grant_entry_faults(machine):
    # the software lookup accepts plain RAM only
    one = machine.domains[1]
    p2m.insert(one, HOLE, p2m.lookup(one, DOMU_BASE).mfn, 0, abi.p2m_grant_map_rw)
    one.p2m.invalidate_root()
    assert copy_from_guest(one, 0, HOLE << 12, 8) == Fault(0)


def test_copy__beyond_the_address_width_is_found_by_software():
    machine = board(pa_bits=44)
    one = machine.domains[1]
    p2m.insert(one, 1 << 33, p2m.lookup(one, DOMU_BASE).mfn, 0, abi.p2m_ram_rw)
    assert read_word(one, 0, 1 << 45) == 0
    assert machine.load(1, 0, 1 << 45, 8).kind == "stuck"


def test_copy__on_arm32_cuts_addresses_to_32_bits():
    one = board("arm32").domains[1]
    write_word(one, 0, BASE, 77)
    assert read_word(one, 0, 1 << 32 | BASE) == 77
