"""RAM of a board: banks, views, and what it costs."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from impl.boards.ram import BadBank, Bank, NotRam, Ram

LOW, HIGH = Bank(0x80000000, 0x10000), Bank(0x880000000, 0x20000)

COST = """
import pathlib
from impl.boards.ram import Bank, Ram
def resident():
    return int(pathlib.Path('/proc/self/statm').read_text().split()[1]) * 4
Ram([Bank(0x1000, 0x1000)]).page(1)[0] = 1
before = resident()
ram = Ram([Bank(0x80000000, 4 << 30), Bank(0x880000000, 4 << 30)])
made = resident() - before
for mfn in range(0x80000, 0x80000 + 512 * 100, 512):
    ram.page(mfn)[0] = 1
touched = resident() - before
ram.clear()
print(made, touched, resident() - before)
"""


@pytest.fixture(scope="module")
def cost():
    root = pathlib.Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", COST], cwd=root, capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def test_ram__of_8_gb_costs_nothing(cost):
    assert cost[0] < 512


def test_ram__costs_4_kb_for_a_touched_frame(cost):
    assert 400 <= cost[1] < 1200


def test_clear__gives_memory_back(cost):
    assert cost[2] < 512


def test_page__is_zero_at_first():
    assert not Ram([LOW]).page(0x80000).any()


def test_page__is_a_writable_view():
    ram = Ram([LOW])
    ram.page(0x80001)[511] = 7
    assert ram.read64(0x80001FF8) == 7


def test_page__has_512_words_of_64_bits():
    page = Ram([HIGH]).page(0x880000)
    assert (page.shape, page.dtype) == ((512,), np.uint64)


@pytest.mark.parametrize("mfn", [-1, 0, 0x7FFFF, 0x80010, 0x87FFFF, 0x880020, 1 << 60])
def test_page__of_a_frame_that_is_not_ram_raises(mfn):
    with pytest.raises(NotRam, match=r"^frame .* is not RAM$"):
        Ram([LOW, HIGH]).page(mfn)


def test_not_ram__is_a_key_error():
    assert issubclass(NotRam, KeyError)


@given(st.integers(-5, 1 << 40) | st.integers(0x7FFF0, 0x80020) | st.integers(0x87FFF0, 0x880030))
def test_holds__agrees_with_the_banks(mfn):
    inside = any(bank.base <= mfn << 12 < bank.end for bank in (LOW, HIGH))
    assert Ram([HIGH, LOW]).holds(mfn) == inside


def test_banks__are_sorted():
    assert Ram([HIGH, LOW]).banks == (LOW, HIGH)


def test_banks__that_overlap_are_refused():
    with pytest.raises(BadBank, match="overlap"):
        Ram([Bank(0, 0x3000), Bank(0x2000, 0x1000)])


def test_words__reach_from_bank_to_bank_that_touch():
    ram = Ram([Bank(0x2000, 0x1000), Bank(0x1000, 0x1000)])
    ram.words(0x1FF8, 2)[:] = [1, 2]
    assert (ram.read64(0x1FF8), ram.read64(0x2000)) == (1, 2)


@pytest.mark.parametrize(("address", "count"), [(0x8000FFF8, 2), (0x7FFFFFF8, 2), (0, 1), (0x80010000, 0), (-8, 1)])
def test_words__outside_of_ram_raise(address, count):
    with pytest.raises(NotRam, match="words at"):
        Ram([LOW, HIGH]).words(address, count)


def test_words__at_an_odd_address_are_refused():
    with pytest.raises(ValueError, match="not aligned"):
        Ram([LOW]).words(0x80000004, 1)


def test_words__negative_count_is_refused():
    with pytest.raises(ValueError, match="cannot be viewed"):
        Ram([LOW]).words(0x80000000, -1)


def test_pages__are_a_view_of_several_frames():
    ram = Ram([LOW])
    ram.pages(0x80002, 3)[2, 5] = 9
    assert ram.page(0x80004)[5] == 9


def test_pages__beyond_the_bank_raise():
    with pytest.raises(NotRam, match="not all RAM"):
        Ram([LOW]).pages(0x8000F, 2)


@given(st.integers(0, (1 << 64) - 1), st.integers(0, 0x1FFF))
def test_write64__is_read_back(value, index):
    ram = Ram([LOW])
    ram.write64(LOW.base + 8 * index, value)
    assert ram.read64(LOW.base + 8 * index) == value


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_write64__refuses_what_is_no_word(value):
    with pytest.raises(ValueError, match="64 bits"):
        Ram([LOW]).write64(LOW.base, value)


def test_clear__keeps_views_alive():
    ram = Ram([LOW])
    page = ram.page(0x80000)
    page[:] = 5
    ram.clear()
    assert not page.any()


@pytest.mark.parametrize(("base", "size"), [
    (-4096, 4096), (0, 0), (0, -4096), (1, 4096), (0, 4097), ((1 << 52) - 4096, 8192),
])
def test_bank__that_no_board_has_is_refused(base, size):
    with pytest.raises(BadBank, match=r"^RAM bank at"):
        Bank(base, size)


def test_ram__that_the_host_cannot_map_is_refused():
    with pytest.raises(BadBank, match="the host cannot map"):
        Ram([Bank(0, 1 << 50)])
