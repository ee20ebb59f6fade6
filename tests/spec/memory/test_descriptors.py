"""Bits of stage-2 words."""

from __future__ import annotations

import pytest

from proofs.engine.words import lemmas
from spec.language import U16, Mfn, Word, decode, encode, evolve
from spec.memory.descriptors import (
    Access,
    Descriptor,
    Vttbr,
    is_live,
    leads_to_table,
    leaf,
    maps_memory,
    piece,
    table_word,
)
from spec.state import P2mType

# type, write, execute-never, MEMATTR, SH, as read from the source of Xen
TYPES = [
    (P2mType.RAM_RW, True, False, 0xF, 3),
    (P2mType.RAM_RO, False, False, 0xF, 3),
    (P2mType.MMIO_DIRECT_DEV, True, True, 0x1, 2),
    (P2mType.MMIO_DIRECT_NC, True, True, 0x5, 2),
    (P2mType.MMIO_DIRECT_C, True, True, 0xF, 2),
    (P2mType.MAP_FOREIGN_RW, True, True, 0xF, 3),
    (P2mType.MAP_FOREIGN_RO, False, True, 0xF, 3),
    (P2mType.GRANT_MAP_RW, True, True, 0xF, 3),
    (P2mType.GRANT_MAP_RO, False, True, 0xF, 3),
    (P2mType.IOMMU_MAP_RW, True, True, 0xF, 3),
    (P2mType.IOMMU_MAP_RO, False, True, 0xF, 3),
]


@pytest.mark.parametrize(("kind", "write", "xn", "memattr", "sh"), TYPES)
def test_leaf__has_the_attributes_of_its_type(kind, write, xn, memattr, sh):
    entry = leaf(Mfn(0x12345), kind, Access.RWX, 3)
    expected = (True, True, memattr, True, write, sh, True, 0x12345, False, xn, kind)
    actual = (entry.valid, entry.table, entry.memattr, entry.read, entry.write, entry.sh, entry.af, entry.frame,
              entry.contiguous, entry.xn, entry.type)
    assert expected == actual


@pytest.mark.parametrize(("access", "permitted"), [
    (Access.N, ""), (Access.R, "r"), (Access.W, "w"), (Access.RW, "rw"), (Access.X, "x"), (Access.RX, "rx"),
    (Access.WX, "wx"), (Access.RWX, "rwx"), (Access.RX2RW, "rx"), (Access.N2RWX, ""),
])
def test_leaf__a_monitor_only_takes_rights_away(access, permitted):
    entry = leaf(Mfn(1), P2mType.RAM_RW, access, 3)
    assert permitted == ("r" if entry.read else "") + ("w" if entry.write else "") + ("" if entry.xn else "x")


def test_leaf__a_monitor_gives_no_right_that_the_type_lacks():
    entry = leaf(Mfn(1), P2mType.GRANT_MAP_RO, Access.RWX, 3)
    assert (False, True) == (entry.write, entry.xn)


@pytest.mark.parametrize(("entry", "word"), [
    # words as a running Xen 4.17.5 wrote them (tests/vectors)
    (leaf(Mfn(0xBFFB8), P2mType.RAM_RW, Access.RWX, 3), 0x0080_0000_BFFB_87FF),
    (leaf(Mfn(0xB4200), P2mType.RAM_RW, Access.RWX, 2), 0x0080_0000_B420_07FD),
    (leaf(Mfn(0x8040), P2mType.MMIO_DIRECT_DEV, Access.RWX, 3), 0x01C0_0000_0804_06C7),
    (leaf(Mfn(0x3EC00), P2mType.MMIO_DIRECT_C, Access.RWX, 3), 0x02C0_0000_3EC0_06FF),
    (leaf(Mfn(0xB8012), P2mType.GRANT_MAP_RW, Access.RWX, 3), 0x0440_0000_B801_27FF),
    (leaf(Mfn(0xB8013), P2mType.GRANT_MAP_RO, Access.RWX, 3), 0x04C0_0000_B801_377F),
    (table_word(Mfn(0xBDFFB)), 0x0080_0000_BDFF_B7FF),
    (evolve(leaf(Mfn(0xB8200), P2mType.RAM_RW, Access.RWX, 2), valid=False), 0x0080_0000_B820_07FC),
    (evolve(table_word(Mfn(0xAB08A)), valid=False), 0x0080_0000_AB08_A7FE),
])
def test_encode__gives_the_word(entry, word):
    assert f"{word:#018x}" == f"{encode(entry):#018x}"


def test_encode__keeps_bits_that_are_no_field():
    outside = Word(0xF << 59 | 1 << 53 | 1 << 11)
    assert outside == encode(Descriptor(), outside)


@pytest.mark.parametrize("view", [Descriptor, Vttbr])
def test_layout__word_and_fields_say_the_same(view):
    assert [] == [each.claim for each in lemmas(view) if not each.proved]


def test_vttbr__names_root_and_vmid():
    assert Vttbr(frame=Mfn(0x7FFF), vmid=U16(3)) == decode(Vttbr, Word(0x0003_0000_07FF_F000))


def test_is_live__does_not_look_at_the_valid_bit():
    entry = decode(Descriptor, Word(encode(leaf(Mfn(1), P2mType.RAM_RW, Access.RWX, 3)) & ~1))
    assert (False, True) == (entry.valid, is_live(entry))


def test_is_live__an_empty_word_is_not():
    assert not is_live(decode(Descriptor, Word(0)))


@pytest.mark.parametrize(("level", "table", "memory"), [(0, True, False), (2, True, False), (3, False, True)])
def test_table_bit__means_a_page_at_level_3(level, table, memory):
    entry = table_word(Mfn(1))
    assert (table, memory) == (leads_to_table(entry, level), maps_memory(entry, level))


@pytest.mark.parametrize(("level", "step", "table"), [(1, 512, False), (2, 1, True)])
def test_piece__inherits_all_but_frame_and_table_bit(level, step, table):
    block = leaf(Mfn(0x40000), P2mType.GRANT_MAP_RO, Access.RWX, level)
    part = piece(block, 7, level)
    expected = leaf(Mfn(0x40000 + 7 * step), P2mType.GRANT_MAP_RO, Access.RWX, level + 1)
    assert expected == part
    assert table == part.table
