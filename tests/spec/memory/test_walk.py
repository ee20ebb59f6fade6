"""The stage-2 walk on integers."""

from __future__ import annotations

import pytest

from spec.language import Mfn, Word, encode, evolve
from spec.memory.descriptors import Access, Descriptor, Vttbr, leaf, table_word
from spec.memory.geometry import ARM32, Geometry, every_geometry, index, root_page
from spec.memory.walk import Fault, Kind, Translation, address, leaves, lookup, place_of, tables, walk
from spec.state import P2mType

FLAT = Geometry(44, 0, 1, 44)
ROOT = Mfn(0x100)
TARGET = Mfn(0x40000)


class Memory:
    """Words of table pages; everything else is zero."""

    def __init__(self) -> None:
        self.words: dict[tuple[int, int], int] = {}

    def __call__(self, frame: Mfn, position: int) -> Word:
        return Word(self.words.get((frame, position), 0))

    def map(self, shape: Geometry, gfn: int, entry: Descriptor, level: int = 3) -> Memory:
        """Tables at 0x200, 0x201 ... down to a word of this level."""
        frame: int = ROOT + root_page(gfn, shape.start_level)
        for each in range(shape.start_level, level):
            child = 0x200 + each
            self.words[frame, index(gfn, each)] = encode(table_word(Mfn(child)))
            frame = child
        self.words[frame, index(gfn, level)] = encode(entry)
        return self


def vttbr(vmid: int = 1) -> Word:
    return encode(Vttbr(frame=ROOT, vmid=vmid))


def ram(level: int = 3, kind: P2mType = P2mType.RAM_RW) -> Descriptor:
    return leaf(TARGET, kind, Access.RWX, level)


@pytest.mark.parametrize("shape", every_geometry(), ids=str)
def test_walk__reaches_the_last_page_of_every_shape(shape):
    gfn = shape.ipa_frames - 1
    found = walk(Memory().map(shape, gfn, ram()), vttbr(), shape, gfn << 12)
    assert (Fault.NONE, 3, TARGET) == (found.fault, found.level, found.frame)


@pytest.mark.parametrize("shape", [each for each in every_geometry() if each.ipa_bits < 48], ids=str)
def test_walk__faults_beyond_the_address_width(shape):
    found = walk(Memory(), vttbr(), shape, shape.ipa_frames << 12)
    assert Translation(fault=Fault.TRANSLATION, level=0) == found


def test_walk__arm32_reports_level_1_beyond_the_address_width():
    assert Translation(fault=Fault.TRANSLATION, level=1) == walk(Memory(), vttbr(), ARM32, 1 << 40)


@pytest.mark.parametrize(("level", "size"), [(1, 1 << 18), (2, 1 << 9), (3, 1)])
def test_walk__a_block_translates_all_its_pages(level, size):
    memory = Memory().map(FLAT, 0, ram(level), level)
    found = walk(memory, vttbr(), FLAT, (size - 1) << 12 | 0x123)
    assert (Fault.NONE, level, (TARGET + size - 1) << 12 | 0x123) == (found.fault, found.level, address(found, 0x123))


def test_walk__does_not_look_at_low_bits_of_a_block():
    memory = Memory().map(FLAT, 0, evolve(ram(2), frame=Mfn(TARGET + 5)), 2)
    assert TARGET + 7 == walk(memory, vttbr(), FLAT, 7 << 12).frame


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_walk__a_word_that_is_not_valid_faults_at_its_level(level):
    memory = Memory().map(FLAT, 0, evolve(ram(), valid=False), level)
    assert Translation(fault=Fault.TRANSLATION, level=level) == walk(memory, vttbr(), FLAT, 0)


@pytest.mark.parametrize("level", [0, 3])
def test_walk__a_block_where_there_is_none_faults(level):
    memory = Memory().map(FLAT, 0, evolve(ram(), table=False), level)
    assert Translation(fault=Fault.TRANSLATION, level=level) == walk(memory, vttbr(), FLAT, 0)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_walk__a_leaf_without_access_flag_faults(level):
    memory = Memory().map(FLAT, 0, evolve(ram(level), af=False), level)
    assert Translation(fault=Fault.ACCESS_FLAG, level=level) == walk(memory, vttbr(), FLAT, 0)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_walk__an_address_that_is_too_large_faults_at_the_word_that_holds_it(level):
    beyond = table_word(Mfn(1 << 32)) if level < 3 else evolve(ram(), frame=Mfn(1 << 32), af=False)
    assert Translation(fault=Fault.ADDRESS_SIZE, level=level) == walk(
        Memory().map(FLAT, 0, beyond, level), vttbr(), FLAT, 0
    )


def test_walk__a_root_that_is_too_far_faults_at_level_0():
    register = encode(Vttbr(frame=Mfn(1 << 32)))
    assert Translation(fault=Fault.ADDRESS_SIZE, level=0) == walk(Memory(), register, FLAT, 0)


@pytest.mark.parametrize(("kind", "access", "wanted", "fault"), [
    (P2mType.RAM_RW, Access.RWX, Kind.WRITE, Fault.NONE),
    (P2mType.RAM_RO, Access.RWX, Kind.WRITE, Fault.PERMISSION),
    (P2mType.RAM_RO, Access.RWX, Kind.EXECUTE, Fault.NONE),
    (P2mType.GRANT_MAP_RW, Access.RWX, Kind.EXECUTE, Fault.PERMISSION),
    (P2mType.RAM_RW, Access.WX, Kind.READ, Fault.PERMISSION),
    (P2mType.RAM_RW, Access.X, Kind.EXECUTE, Fault.NONE),
])
def test_walk__checks_the_permission(kind, access, wanted, fault):
    memory = Memory().map(FLAT, 0, leaf(TARGET, kind, access, 3))
    found = walk(memory, vttbr(), FLAT, 0, wanted)
    assert (fault, 3) == (found.fault, found.level)


def test_walk__fetches_on_arm32_only_what_may_be_read():
    memory = Memory().map(ARM32, 0, leaf(TARGET, P2mType.RAM_RW, Access.X, 3))
    assert (Fault.PERMISSION, 3) == (walk(memory, vttbr(), ARM32, 0, Kind.EXECUTE).fault, 3)


def test_walk__a_fault_names_no_frame():
    found = walk(Memory().map(FLAT, 0, ram(kind=P2mType.RAM_RO)), vttbr(), FLAT, 0, Kind.WRITE)
    assert 0 == found.frame


def test_lookup__finds_what_the_hardware_does_not():
    memory = Memory().map(FLAT, 0, evolve(ram(), valid=False))
    found = lookup(memory, ROOT, 0, 0)
    assert (True, False, TARGET) == (found.live, found.hardware, found.frame)


def test_place_of__is_where_the_word_is():
    memory = Memory().map(FLAT, 0, ram())
    here = place_of(memory, ROOT, 0, 0, 3)
    assert (True, True, 0x202) == (here.exists, here.hardware, here.table)


def test_place_of__no_table_leads_below_a_block():
    assert not place_of(Memory().map(FLAT, 0, ram(2), 2), ROOT, 0, 0, 3).exists


def test_leaves__are_all_mappings_in_order():
    shape = Geometry(40, 1, 2, 40)
    memory = Memory().map(shape, 1 << 18, ram(1), 1).map(shape, 0, ram(2), 2)
    memory = memory.map(shape, 513, evolve(ram(), valid=False))
    found = [(each.gfn, each.pages, each.hardware, each.fault) for each in leaves(memory, ROOT, shape)]
    expected = [(0, 512, True, Fault.NONE), (513, 1, False, Fault.TRANSLATION), (1 << 18, 1 << 18, True, Fault.NONE)]
    assert expected == found


def test_leaves__below_an_invalid_table_are_out_of_the_hardwares_reach():
    memory = Memory().map(FLAT, 0, ram())
    memory.words[ROOT, 0] = encode(evolve(table_word(Mfn(0x200)), valid=False))
    found = [(each.gfn, each.entry.valid, each.hardware, each.fault) for each in leaves(memory, ROOT, FLAT)]
    assert [(0, True, False, Fault.TRANSLATION)] == found


@pytest.mark.parametrize("level", [0, 3])
def test_leaves__a_block_where_there_is_none_is_out_of_the_hardwares_reach(level):
    """A valid word of the form of a block maps nothing at levels 0 and 3."""
    memory = Memory().map(FLAT, 0, evolve(ram(), table=False), level)
    assert [(level, Fault.TRANSLATION)] == [(each.level, each.fault) for each in leaves(memory, ROOT, FLAT)]


def test_leaves__a_word_that_is_neither_valid_nor_live_is_passed_over():
    """What is left of a frame number in such a word maps nothing."""
    memory = Memory().map(FLAT, 0, evolve(ram(), valid=False, type=0))
    assert [] == list(leaves(memory, ROOT, FLAT))


def test_leaves__a_valid_word_is_one_though_xen_holds_that_nothing_is_mapped() -> None:
    """The hardware looks at the valid bit alone, not at the type that Xen keeps beside it."""
    memory = Memory().map(FLAT, 0, evolve(ram(), type=0))
    assert [(0, TARGET, Fault.NONE)] == [(each.gfn, each.frame, each.fault) for each in leaves(memory, ROOT, FLAT)]


def test_leaves__second_root_page_follows_the_first():
    shape = Geometry(40, 1, 2, 40)
    found = list(leaves(Memory().map(shape, 1 << 27, ram()), ROOT, shape))
    assert [1 << 27] == [each.gfn for each in found]


@pytest.mark.parametrize(("output_bits", "fault"), [(20, Fault.ADDRESS_SIZE), (21, Fault.NONE)])
def test_leaves__of_a_root_that_no_address_reaches_are_out_of_the_hardwares_reach(output_bits, fault):
    """The root lies in the first frame that 20 bits do not name."""
    shape = Geometry(40, 1, 2, output_bits)
    memory = Memory().map(shape, 0, evolve(ram(1), frame=Mfn(0)), 1)
    assert [fault] == [each.fault for each in leaves(memory, ROOT, shape)]


def test_tables__are_all_pages_with_their_levels():
    memory = Memory().map(FLAT, 0, ram())
    assert [(0x100, 0), (0x200, 1), (0x201, 2), (0x202, 3)] == list(tables(memory, ROOT, FLAT))


def test_tables__are_not_led_to_by_a_block():
    memory = Memory().map(FLAT, 0, ram(2), 2)
    assert [(0x100, 0), (0x200, 1), (0x201, 2)] == list(tables(memory, ROOT, FLAT))


@pytest.mark.parametrize("changes", [{"valid": False}, {"type": 0}])
def test_tables__are_led_to_by_what_is_valid_or_live(changes):
    memory = Memory().map(FLAT, 0, evolve(table_word(Mfn(0x300)), **changes), 0)
    assert [(0x100, 0), (0x300, 1)] == list(tables(memory, ROOT, FLAT))


def test_tables__are_not_led_to_by_what_is_neither_valid_nor_live():
    memory = Memory().map(FLAT, 0, evolve(table_word(Mfn(0x300)), valid=False, type=0), 0)
    assert [(0x100, 0)] == list(tables(memory, ROOT, FLAT))
