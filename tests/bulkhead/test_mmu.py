"""What is expected of the MMU, without a processor."""

import types
from pathlib import Path

import numpy as np
import pytest

from bulkhead.fuzz.walks.compare import OUTSIDE
from bulkhead.fuzz.walks.tables import Shape
from bulkhead.mmu.__main__ import command
from bulkhead.mmu.cases import CHAIN, TARGET, InRam, Rows, open_window, suited
from bulkhead.mmu.compare import Batch, row
from bulkhead.mmu.expect import UNKNOWN, Second, attributes, combine, leaves
from bulkhead.mmu.explained import EXPLAINED, refused, together
from bulkhead.mmu.first import Reached, Stop, UnknowableError, lead
from impl.xen.mmu.machine import PROCESSORS, RESERVED, FirstStage
from spec.memory import geometry
from spec.memory.walk import Fault

ROOT = RESERVED
LEAF, PAGE, TABLE = 0x7FD, 0x7FF, 3
A57 = next(each for each in PROCESSORS if each.name == "cortex-a57")
A15 = next(each for each in PROCESSORS if each.name == "cortex-a15")
SHAPE = Shape(arm32=False, ipa_bits=39, start_level=1, output_bits=44)
GB = 1 << 30


@pytest.fixture
def pages():
    return np.zeros(((RESERVED >> 12) + 16, 512), np.uint64)


def tables(pages, shape=SHAPE):
    return InRam(shape.arm32, shape.vtcr, ROOT, ((0, pages),))


def entries(*names):
    return [each for each in EXPLAINED if each.name in names]


def batch(pages, processor=A57, shape=SHAPE, **rest):
    made = tables(pages, shape)
    return Batch(processor, shape, made, Second.of(made), **rest)


def at(made, address, write=False, second=None):
    return row(made.expected(np.array([address], np.uint64), second), int(write))


@pytest.mark.parametrize(("first", "second", "both"), [
    (0xFF, 0b1111, 0xFF), (0xFF, 0b0101, 0x44), (0xFF, 0b1010, 0xBB), (0xFF, 0b0000, 0x00), (0xFF, 0b0010, 0x08),
    (0x00, 0b1111, 0x00), (0x0C, 0b1010, 0x0C), (0x0C, 0b0001, 0x04), (0x04, 0b0011, 0x04), (0x44, 0b1111, 0x44),
    (0xF4, 0b1110, 0xF4), (0x77, 0b1010, 0x33), (0xBB, 0b1111, 0xBB), (0xFF, 0b1000, UNKNOWN),
])
def test_combine__takes_the_stronger_of_both_stages(first, second, both):
    assert both == combine(first, second)


def test_attributes__make_device_and_uncached_memory_outer_shareable():
    attr = np.array([0x00, 0x44, 0xFF, 0xFF, 0xFF, UNKNOWN], np.uint8)
    found = attributes(attr, np.array([0, 0, 0, 3, 0, 0], np.uint8), np.array([3, 0, 0, 0, 1, 0], np.uint8))[1]
    assert [2, 2, 0, 3, 1, 1] == found.tolist()


def test_leaves__of_a_table_that_is_no_ram_are_external_aborts(pages):
    pages[ROOT >> 12, 1] = 1 << 40 | TABLE
    found = leaves(Second.of(tables(pages)), [GB, 0])
    assert [OUTSIDE, Fault.TRANSLATION] == found.fault.tolist()
    assert [2, 1] == found.level.tolist()


def test_rows__are_read_when_they_are_asked_for(pages):
    rows = Rows(pages)
    pages[5, 7] = 9
    assert rows[5][7] == 9
    with pytest.raises(KeyError):
        rows[len(pages)]


def test_expected__of_an_address_that_the_processor_has_not_is_a_fault_of_stage_1(pages):
    assert (0, Fault.ADDRESS_SIZE, 0, 0, 0, 0, 0) == at(batch(pages), 1 << 44)
    assert (0, Fault.TRANSLATION, 0, 1, 0, 0, 0) == at(batch(pages), 1 << 43)


def test_expected__depends_on_the_access(pages):
    pages[ROOT >> 12, 1] = GB | LEAF & ~(1 << 7)
    assert (GB, Fault.NONE, 0, 0, 0, 0xFF, 3) == at(batch(pages), GB)
    assert (0, Fault.PERMISSION, 1, 1, 0, 0, 0) == at(batch(pages), GB, write=True)


def test_expected__without_cache_is_a_device(pages):
    pages[ROOT >> 12, 1] = GB | LEAF
    assert (GB, Fault.NONE, 0, 0, 0, 0x00, 2) == at(batch(pages, cached=False), GB)


def test_expected__of_a_fetch_is_whether_it_succeeds(pages):
    pages[ROOT >> 12, 1] = GB | LEAF
    pages[ROOT >> 12, 2] = GB | LEAF | 1 << 54
    made = batch(pages, vectors=1 << 12)
    assert (0, Fault.NONE, 0, 0, 0, 0, 0) == at(made, GB)
    assert (0, Fault.PERMISSION, 1, 0, 0, 0, 0) == at(made, 2 * GB)


def test_safe__leaves_out_what_might_run_on(pages):
    pages[ROOT >> 12, 0] = LEAF
    pages[ROOT >> 12, 1] = GB | LEAF
    pages[(ROOT >> 12) + 2, 0] = 0xD65F03C0
    mmu = types.SimpleNamespace(pages=pages)
    addresses = np.array([0x1000, ROOT + 0x2000, ROOT + 0x2008, TARGET << 12, GB, 2 * GB, 1 << 44], np.uint64)
    assert [ROOT + 0x2008, TARGET << 12, GB, 2 * GB] == batch(pages, vectors=1).safe(mmu, addresses).tolist()


# ---- the window, and stage 1


@pytest.mark.parametrize("shape", [
    Shape(False, 48, 0, 48), SHAPE, Shape(False, 42, 1, 44), Shape(False, 32, 2, 32), Shape(True, 40, 1, 40),
    Shape(True, 34, 2, 40),
])
def test_window__leads_to_its_frames(pages, shape):
    made = tables(pages, shape)
    for seed in range(8):
        ipa = open_window(types.SimpleNamespace(pages=pages), made, shape, np.random.default_rng(seed))
        second = Second.of(made)
        assert ipa is not None
        assert [TARGET, TARGET + 5] == [second.translate(ipa + each).frame for each in (0, 5 << 12)]
        assert not shape.arm32 or ipa < 1 << 32


def test_window__needs_a_root_in_ram(pages):
    made = InRam(False, SHAPE.vtcr, 1 << 40, ((0, pages),))
    assert open_window(types.SimpleNamespace(pages=pages), made, SHAPE, np.random.default_rng(1)) is None


@pytest.fixture
def guest(pages):
    """Guest addresses are machine addresses; tables of stage 1 from level 1 at ``ROOT`` + 1 page."""
    pages[ROOT >> 12, 0] = LEAF
    pages[ROOT >> 12, 1] = GB | LEAF & ~(1 << 6)
    return FirstStage(ROOT + 0x1000, 4 << 32 | 1 << 23 | 25, 0x44FF)


@pytest.mark.parametrize(("word", "end"), [
    (5 * GB | 0x401, Reached(5 * GB + 0x123, 1, True, 0xFF, 0)),
    (5 * GB | 0x785, Reached(5 * GB + 0x123, 1, False, 0x44, 3)),
    (5 * GB | 0x001, Stop(Fault.ACCESS_FLAG, 1)),
    (1 << 44 | 0x401, Stop(Fault.ADDRESS_SIZE, 1)),
    (0, Stop(Fault.TRANSLATION, 1)),
    (GB | TABLE, Stop(Fault.PERMISSION, 1, second=True, walking=True)),
    (2 * GB | TABLE, Stop(Fault.TRANSLATION, 1, second=True, walking=True)),
    (GB - 0x1000 | TABLE, Stop(OUTSIDE, 2)),
])
def test_lead__ends_as_stage_1_says(pages, guest, word, end):
    pages[(ROOT >> 12) + 1, 3] = word
    assert end == lead(guest, Second.of(tables(pages)), 3 * GB + 0x123, 44)


def test_lead__follows_tables_and_keeps_what_they_forbid(pages, guest):
    pages[(ROOT >> 12) + 1, 0] = ROOT + 0x2000 | TABLE | 1 << 62
    pages[(ROOT >> 12) + 2, 1] = 7 << 21 | 0x401
    assert Reached(7 << 21 | 5, 2, False, 0xFF, 0) == lead(guest, Second.of(tables(pages)), 1 << 21 | 5, 44)


def test_lead__refuses_addresses_beyond_its_range(pages, guest):
    assert Stop(Fault.TRANSLATION, 0) == lead(guest, Second.of(tables(pages)), 1 << 39, 44)


def test_lead__does_not_guess_what_the_payload_holds(pages, guest):
    pages[(ROOT >> 12) + 1, 0] = 0x200000 | TABLE
    with pytest.raises(UnknowableError):
        lead(guest, Second.of(tables(pages)), 0, 44)


# ---- what is explained


def test_explained__shapes_are_those_that_qemu_refuses():
    assert refused(A57, geometry.Geometry(39, 1, 1, 36))
    assert refused(A57, geometry.Geometry(40, 0, 1, 42))
    assert not refused(A57, geometry.Geometry(44, 0, 1, 44))
    assert not refused(A15, geometry.ARM32)


def test_explained__armv7_ignores_high_bits_and_a_32_bit_qemu_those_of_tables(pages):
    shape = Shape(True, 40, 1, 40)
    pages[ROOT >> 12, 0] = 0x77 << 40 | 1 << 30 | LEAF
    pages[ROOT >> 12, 1] = 0x5 << 32 | ROOT + 0x3000 | TABLE
    pages[(ROOT >> 12) + 3, 0] = 3 << 21 | LEAF
    made = batch(pages, A15, shape)
    assert Fault.ADDRESS_SIZE == at(made, 0)[1]
    assert (GB, Fault.NONE) == at(made, 0, second=together(
        entries("bits 47:40 of an Armv7 descriptor"), made.second))[:2]
    assert OUTSIDE == at(made, GB)[1]
    assert (3 << 21, Fault.NONE) == at(made, GB, second=together(entries("table above 4 GB"), made.second))[:2]


def test_explained__a_block_at_level_0_maps_512_gb(pages):
    shape = Shape(False, 44, 0, 44)
    pages[ROOT >> 12, 1] = 1 << 39 | LEAF
    made = batch(pages, shape=shape)
    assert (0, Fault.TRANSLATION) == at(made, 1 << 39 | GB)[:2]
    assert (1 << 39 | GB, Fault.NONE) == at(made, 1 << 39 | GB, second=together(
        entries("block at level 0"), made.second))[:2]


@pytest.mark.parametrize(("name", "first", "memory", "attr"), [
    ("device and normal memory together", 0xF4, 0b0011, 0x04),
    ("device and normal memory together", 0x0C, 0b0101, 0x04),
    ("transient memory that stage 2 writes through", 0x77, 0b1010, 0xBB),
    ("transient memory that stage 2 writes through", 0x7F, 0b1111, 0x7F),
])
def test_explained__attributes_that_qemu_combines_otherwise(pages, name, first, memory, attr):
    second = together(entries(name), Second.of(tables(pages)))
    one = [np.array([each], np.uint8) for each in (first, 0, memory, 0)]
    assert attr == second.attributes(*one)[0][0]


@pytest.mark.parametrize(("name", "arm32", "bits", "may"), [
    ("bit 53 of a leaf", False, 1 << 53, False), ("bit 53 of a leaf", False, 1 << 53 | 1 << 54, True),
    ("bit 53 of a leaf", False, 1 << 54, False), ("instructions that may not be read", True, 0, True),
    ("instructions that may not be read", True, 1 << 54, False),
])
def test_explained__who_may_execute(pages, name, arm32, bits, may):
    shape = Shape(True, 40, 1, 40) if arm32 else SHAPE
    pages[ROOT >> 12, 1] = GB | LEAF & ~(1 << 6) | bits
    second = together(entries(name), Second.of(tables(pages, shape)))
    assert may == (leaves(second, [GB]).allowed[0] >> 2)


def test_explained__entries_say_why_and_are_in_the_manual():
    manual = (Path(__file__).parents[2] / "docs/mmu.rst").read_text(encoding="utf-8")
    for each in EXPLAINED:
        assert each.reason
        assert each.source.startswith("Arm DDI")
        assert f"   * - {each.name}\n" in manual


def test_suited__processors_have_addresses_of_the_size():
    assert {"neoverse-n1", "max"} == {each.name for each in suited(Shape(False, 48, 0, 48))}
    assert all(each.arm32 for each in suited(Shape(True, 40, 1, 40)))
    assert CHAIN < TARGET


def test_command__refuses_an_unknown_processor_in_one_line(capsys):
    assert command(["--processor", "z80"]) == 2
    assert "no processor is named z80" in capsys.readouterr().err
