"""What each VM reaches: against the walk of the specification on tables of real machines, and on strange trees."""

import numpy as np
import pytest

from bulkhead import mappings, tables
from bulkhead.auditor.image import from_words
from bulkhead.auditor.kinds import type_name
from bulkhead.auditor.reach import Reach
from bulkhead.auditor.synthetic import TABLE_WORD, Machine
from bulkhead.auditor.vms import vm_of
from impl.fast.bench.trees import words_of
from impl.fast.geometry import PAGE_BITS
from spec.state import P2mType
from tests.bulkhead.files import ARM32, ARM64

HOLE = 0x30000000


@pytest.fixture(scope="module", params=[ARM64, ARM32], ids=["arm64", "arm32"])
def real(request):
    """Tables of a real machine, as a file of `bulkhead walk` and as an image of its RAM."""
    file = tables.read(request.param)
    words = words_of(file.ram_size)
    for address, row in file.row.items():
        start = (address - file.ram_base) >> 3
        words[start:start + 512] = file.page[row]
    vms = [vm_of(f"dom{each.number}", each.vttbr, each.vtcr, arm32=not file.aarch64) for each in file.domains]
    return file, Reach(from_words("real", [(file.ram_base, words)]), vms)


def test_reach__is_what_the_walk_of_the_specification_reaches(real):
    file, reach = real
    found = set()
    for first, end, number in zip(*(each.tolist() for each in reach.runs()), strict=True):
        kind = reach.kinds[number]
        found.add((kind.vm, first << PAGE_BITS, end << PAGE_BITS, type_name(kind.type), kind.access, kind.valid))
    expected: set[tuple[int | str, ...]] = set()
    for place, domain in enumerate(file.domains):
        for key, group in _by_machine(mappings.reach(file, domain).mappings):
            expected.update((place, start, end, *key) for start, end in group)
    assert expected == found


def _by_machine(ranges):
    """Mappings of one kind, as ranges of machine memory that do not continue each other."""
    kinds = {(each.kind, each.access, each.valid) for each in ranges}
    for key in kinds:
        mine = sorted((each.machine, each.machine + each.size) for each in ranges
                      if (each.kind, each.access, each.valid) == key)
        joined = [mine[0]]
        for start, end in mine[1:]:
            if start == joined[-1][1]:
                joined[-1] = joined[-1][0], end
            else:
                joined.append((start, end))
        yield key, joined


def test_reach__uses_the_tables_that_the_walk_uses(real):
    file, reach = real
    for tree, domain in zip(reach.trees, file.domains, strict=True):
        assert sorted(mappings.reach(file, domain).tables) == tree.tables.tolist()


def machine_of(*mapped):
    """One guest with frames at 4 KB each; mapped: (guest address, frame, type)."""
    made = Machine()
    guest = made.guest()
    for ipa, frame, kind in mapped:
        made.reach(guest, ipa, frame, kind)
    return made, guest


def test_reach__keeps_all_ways_to_a_frame_that_one_table_maps_twice():
    made, _ = machine_of((HOLE, 0x40100, P2mType.RAM_RW), (HOLE + 0x1000, 0x40100, P2mType.RAM_RO),
                         (HOLE + 0x2000, 0x40100, P2mType.RAM_RW))
    reach = Reach(made.image(), made.vms())
    assert ["ram_ro", "ram_rw"] == sorted(type_name(reach.kinds[each].type) for each in reach.kinds_of(0x40100))
    assert [HOLE, HOLE + 0x1000, HOLE + 0x2000] == [
        each.ipa for each in reach.places(0, np.array([0x40100], np.uint64))]


def test_reach__ends_on_tables_that_lead_in_circles():
    made, guest = machine_of((HOLE, 0x40100, P2mType.RAM_RW))
    made.store((guest.root << PAGE_BITS) + 8, guest.root << PAGE_BITS | TABLE_WORD)
    reach = Reach(made.image(), made.vms())
    assert 1 < (reach.trees[0].tables == guest.root << PAGE_BITS).sum()


def test_reach__of_a_block_that_is_partly_ram_has_both_parts():
    made = Machine()
    guest = made.guest()
    top = (made.base + made.size) >> PAGE_BITS
    made.reach(guest, 1 << 30, top - 0x4000 & -(1 << 18), level=1)
    reach = Reach(made.image(), made.vms())
    (_, inside), (first, end, _) = reach.parts[0], reach.outside
    assert inside.all()
    assert [(top, (made.base >> PAGE_BITS) + (1 << 18))] == list(zip(first.tolist(), end.tolist(), strict=True))


def test_reach__tells_banks_and_what_lies_between_them_apart():
    made, _ = machine_of((HOLE, 0x40100, P2mType.RAM_RW), (HOLE + 0x1000, 0x60000, P2mType.RAM_RW),
                         (HOLE + 0x2000, 0x80001, P2mType.RAM_RW), (HOLE + 0x3000, 0x80001, P2mType.RAM_RO))
    image = from_words("two banks", [(made.base, made.words), (0x80000000, words_of(1 << 20))])
    reach = Reach(image, made.vms())
    assert [[], ["ram_rw"], ["ram_ro", "ram_rw"], ["ram_rw"]] == [
        sorted(type_name(reach.kinds[each].type) for each in reach.kinds_of(frame))
        for frame in (0x40101, 0x60000, 0x80001, 0x40100)]
    assert [0x60000] == reach.outside[0].tolist()
