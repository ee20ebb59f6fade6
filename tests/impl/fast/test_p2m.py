"""Stage-2 tables: descriptors, superpages, the pool, references, the valid bit."""

import random

import pytest

from impl.fast import abi, p2m
from tests.impl.fast.board import DOMU_BASE, Guest, board, check_tlb, dom0, domu

HOLE = DOMU_BASE + 0x800
BLOCK = 0x80000


@pytest.fixture
def machine():
    return board(domains=[dom0(), domu(1, max_pages=4096), domu(2)])


@pytest.fixture
def domain(machine):
    return machine.domains[1]


def word_of(domain, gfn):
    """The descriptor that maps a gfn."""
    table, level = domain.p2m.root + (gfn >> 27), 1
    word = domain.p2m.memory.get(table, gfn >> 18 & 511)
    while word & 2 and level < 3:
        level += 1
        word = domain.p2m.memory.get((word & p2m.FRAME) >> 12, gfn >> 9 * (3 - level) & 511)
    return word


@pytest.mark.parametrize(("kind", "word"), [
    (abi.p2m_ram_rw, 0x0080_0000_0000_07FF),
    (abi.p2m_ram_ro, 0x0100_0000_0000_077F),
    (abi.p2m_mmio_direct_dev, 0x01C0_0000_0000_06C7),
    (abi.p2m_mmio_direct_nc, 0x0240_0000_0000_06D7),
    (abi.p2m_mmio_direct_c, 0x02C0_0000_0000_06FF),
    (abi.p2m_map_foreign_rw, 0x0340_0000_0000_07FF),
    (abi.p2m_map_foreign_ro, 0x03C0_0000_0000_077F),
    (abi.p2m_grant_map_rw, 0x0440_0000_0000_07FF),
    (abi.p2m_grant_map_ro, 0x04C0_0000_0000_077F),
])
def test_descriptor__of_each_type(domain, kind, word):
    p2m.insert(domain, HOLE, 0x41ABC, 0, kind)
    assert word_of(domain, HOLE) == word | 0x41ABC000


def test_descriptor__of_a_block_has_no_table_bit(domain):
    p2m.insert(domain, BLOCK, 0x41A00, 9, abi.p2m_ram_rw)
    assert word_of(domain, BLOCK) == 0x0080_0000_0000_07FD | 0x41A00000


def test_insert__of_1_gb_makes_one_entry(domain):
    assert p2m.insert(domain, 0x80000, 0x40000, 18, abi.p2m_mmio_direct_dev) == 0
    assert p2m.lookup(domain, 0x80000 + 0x3FFFF).level == 1


def test_insert__uses_blocks_only_where_gfn_mfn_and_the_rest_are_aligned(domain):
    domain.p2m.insert(BLOCK, 512 + 3, 0x40000, abi.p2m_mmio_direct_dev)
    assert p2m.lookup(domain, BLOCK).level == 3


def test_insert__beyond_the_root_is_invalid(domain):
    assert p2m.insert(domain, 1 << 28, 0x40000, 0, abi.p2m_ram_rw) == -abi.EINVAL


def test_insert__into_a_44_bit_guest_reaches_beyond_its_address_width():
    domain = board(pa_bits=44).domains[1]
    assert p2m.insert(domain, 1 << 33, 0x41000, 0, abi.p2m_mmio_direct_dev) == 0


def test_insert__into_a_dying_domain_has_no_memory(domain):
    domain.is_dying = 1
    assert p2m.insert(domain, HOLE, 0x41000, 0, abi.p2m_ram_rw) == -abi.ENOMEM


def test_insert__without_pool_pages_finds_no_entry(domain):
    domain.p2m.freelist.clear()
    assert p2m.insert(domain, 0x100000, 0x41000, 0, abi.p2m_ram_rw) == -abi.ENOENT


def test_insert__keeps_the_chunks_before_a_failure(domain):
    while len(domain.p2m.freelist) > 1:
        domain.p2m.freelist.popitem()
    assert domain.p2m.insert(0x801FF, 2, 0x41001, abi.p2m_mmio_direct_dev) == -abi.ENOENT
    assert p2m.lookup(domain, 0x801FF).type == abi.p2m_invalid


def test_split__without_pool_pages_keeps_the_block(domain):
    p2m.insert(domain, BLOCK, 0x41A00, 9, abi.p2m_mmio_direct_dev)
    domain.p2m.freelist.clear()
    assert p2m.remove(domain, BLOCK + 1, abi.INVALID_MFN) == -abi.ENOMEM
    assert p2m.lookup(domain, BLOCK + 1).level == 2


def test_split__of_1_gb_with_one_pool_page_gives_it_back(domain):
    p2m.insert(domain, 0x80000, 0x40000, 18, abi.p2m_mmio_direct_dev)
    while len(domain.p2m.freelist) > 1:
        domain.p2m.freelist.popitem()
    assert p2m.remove(domain, 0x80001, abi.INVALID_MFN) == -abi.ENOMEM
    assert (len(domain.p2m.freelist), p2m.lookup(domain, 0x80001).level) == (1, 1)


def test_split__of_1_gb_to_4_kb_keeps_every_other_page(domain):
    p2m.insert(domain, 0x80000, 0x40000, 18, abi.p2m_mmio_direct_dev)
    p2m.remove(domain, 0x80201, abi.INVALID_MFN)
    found = [(p2m.lookup(domain, gfn).level, p2m.lookup(domain, gfn).mfn) for gfn in (0x80200, 0x80202, 0x80400)]
    assert found == [(3, 0x40200), (3, 0x40202), (2, 0x40400)]


def test_block__over_a_table_frees_it(domain):
    p2m.insert(domain, BLOCK + 1, 0x41001, 0, abi.p2m_mmio_direct_dev)
    before = len(domain.p2m.freelist)
    p2m.insert(domain, BLOCK, 0x41A00, 9, abi.p2m_mmio_direct_dev)
    assert len(domain.p2m.freelist) == before + 1


def test_block__over_a_table_drops_foreign_references(machine, domain):
    mfn = p2m.lookup(machine.domains[2], DOMU_BASE).mfn
    machine.frames.get_page(mfn, 2)
    p2m.insert(domain, BLOCK + 1, mfn, 0, abi.p2m_map_foreign_rw)
    p2m.insert(domain, BLOCK, 0x41A00, 9, abi.p2m_mmio_direct_dev)
    assert machine.frames.count(mfn) == 1


def test_remove__of_a_whole_table_frees_it(domain):
    p2m.insert(domain, BLOCK + 1, 0x41001, 0, abi.p2m_mmio_direct_dev)
    before = len(domain.p2m.freelist)
    assert p2m.remove(domain, BLOCK, abi.INVALID_MFN, 9) == 0
    assert len(domain.p2m.freelist) == before + 1


def test_remove__refuses_another_frame(domain):
    assert p2m.remove(domain, DOMU_BASE, 0x41FFF) == -abi.EILSEQ


def test_remove__refuses_a_range_of_which_one_page_differs(domain):
    first = p2m.lookup(domain, DOMU_BASE).mfn
    domain.p2m.insert(DOMU_BASE + 1, 1, 0x41FFF, abi.p2m_ram_rw)
    assert p2m.remove(domain, DOMU_BASE, first, 1) == -abi.EILSEQ
    assert p2m.lookup(domain, DOMU_BASE).type == abi.p2m_ram_rw


def test_remove__of_an_empty_gfn_succeeds(domain):
    assert p2m.remove(domain, HOLE, 0x41FFF) == 0


def test_remove__takes_device_memory_of_any_frame(domain):
    p2m.insert(domain, HOLE, 0x1000, 0, abi.p2m_mmio_direct_dev)
    assert p2m.remove(domain, HOLE, 0x41FFF) == 0
    assert p2m.lookup(domain, HOLE).type == abi.p2m_invalid


def test_remove__from_a_dying_domain_has_no_memory(domain):
    mfn = p2m.lookup(domain, DOMU_BASE).mfn
    domain.is_dying = 1
    assert p2m.remove(domain, DOMU_BASE, mfn) == -abi.ENOMEM


def test_lookup__tells_the_order_of_the_empty_range(domain):
    orders = [p2m.lookup(domain, gfn).order for gfn in (HOLE, DOMU_BASE - 1, 0x3FFFF)]
    assert orders == [9, 18, 18]
    p2m.insert(domain, HOLE, 0x1000, 0, abi.p2m_mmio_direct_dev)
    assert [p2m.lookup(domain, gfn).order for gfn in (HOLE - 1, DOMU_BASE + 0x200)] == [9, 9]


def test_mapped_range__grows_by_insertion_only(domain):
    p2m.insert(domain, HOLE, 0x1000, 0, abi.p2m_mmio_direct_dev)
    p2m.remove(domain, HOLE, 0x1000)
    assert (domain.p2m.lowest_mapped_gfn, domain.p2m.max_mapped_gfn) == (DOMU_BASE, HOLE)


def test_valid__arm32_root_is_invalid_at_first():
    machine = board("arm32")
    assert not machine.domains[1].p2m.memory.get(machine.domains[1].p2m.root, 1) & 1


def test_valid__a_second_root_page_stays_valid():
    machine = board()
    domain = machine.domains[1]
    p2m.insert(domain, 1 << 27, 0x41000, 0, abi.p2m_mmio_direct_dev)
    domain.p2m.invalidate_root()
    root = domain.p2m.root
    assert root is not None
    assert domain.p2m.memory.get(root + 1, 0) & 1


def test_valid__a_level_0_root_stays_valid():
    domain = board(pa_bits=44).domains[1]
    assert domain.p2m.memory.get(domain.p2m.root, 0) & 1


def test_valid__tables_shared_with_an_iommu_stay_valid():
    machine = board(iommu_shares_p2m=True, domains=[dom0(), domu(1, iommu=True)])
    domain = machine.domains[1]
    assert domain.p2m.memory.get(domain.p2m.root, 1) & 1


def test_valid__an_access_repairs_its_own_path_only(machine, domain):
    assert machine.load(1, 0, (DOMU_BASE + 3) << 12, 8).kind == "value"
    assert [p2m.lookup(domain, DOMU_BASE + i).valid for i in (2, 3, 4)] == [False, True, False]


def test_valid__an_insertion_over_an_invalid_entry_is_valid(domain):
    p2m.insert(domain, DOMU_BASE + 3, 0x41000, 0, abi.p2m_ram_rw)
    assert p2m.lookup(domain, DOMU_BASE + 3).valid


def test_resolve__an_empty_entry_is_not_resolved(domain):
    assert not domain.p2m.resolve_translation_fault(HOLE)
    assert not domain.p2m.resolve_translation_fault(DOMU_BASE + 0x1FF)


def test_resolve__a_valid_entry_is_resolved(domain):
    domain.p2m.resolve_translation_fault(DOMU_BASE)
    for _ in range(4):
        assert domain.p2m.resolve_translation_fault(DOMU_BASE)


def test_pool__grows_and_shrinks(domain):
    assert domain.p2m.set_allocation(40, preemptible=False) == 0
    assert domain.p2m.set_allocation(20, preemptible=False) == 0
    assert domain.p2m.pool_total == 20


def test_pool__does_not_shrink_below_what_is_used(domain):
    assert domain.p2m.set_allocation(0, preemptible=False) == -abi.ENOMEM
    assert domain.p2m.pool_total == len(domain.p2m.tables)


def test_pool__is_preempted_after_a_page(machine, domain):
    machine.preempt_after(3)
    assert domain.p2m.set_allocation(100, preemptible=True) == -abi.ERESTART
    assert domain.p2m.pool_total == 35


def test_pool__of_the_hardware_domain_is_left_alone(machine):
    zero = machine.domains[0]
    p2m.insert(zero, 0x100000, 0x1000, 0, abi.p2m_mmio_direct_dev)
    assert len(zero.p2m.freelist) == 16


def test_force__takes_a_table_from_the_pool(machine, domain):
    wanted = list(domain.p2m.freelist)[5]
    machine.force([("table", wanted)])
    p2m.insert(domain, 0x100000, 0x1000, 0, abi.p2m_mmio_direct_dev)
    assert wanted in domain.p2m.tables


def test_get_page_from_gfn__gives_a_reference(machine, domain):
    mfn, kind = domain.p2m.get_page_from_gfn(DOMU_BASE)
    assert (machine.frames.count(mfn), kind) == (2, abi.p2m_ram_rw)


def test_get_page_from_gfn__refuses_a_grant_map_of_another(machine, domain):
    mfn = p2m.lookup(machine.domains[2], DOMU_BASE).mfn
    p2m.insert(domain, HOLE, mfn, 0, abi.p2m_grant_map_rw)
    assert domain.p2m.get_page_from_gfn(HOLE) == (None, abi.p2m_grant_map_rw)


def test_get_page_from_gfn__refuses_device_memory(domain):
    p2m.insert(domain, HOLE, 0x41000, 0, abi.p2m_mmio_direct_dev)
    assert domain.p2m.get_page_from_gfn(HOLE)[0] is None


@pytest.mark.parametrize(("bits", "geometry"), [(32, (32, 1, 1)), (36, (36, 1, 1)), (40, (40, 1, 2)), (42, (42, 1, 8)),
                                                (44, (44, 0, 1)), (48, (48, 0, 1)), (52, (48, 0, 1))])
def test_geometry__by_physical_addresses(bits, geometry):
    machine = board(pa_bits=bits, ipa_bits=48)
    assert (machine.ipa_bits, machine.root_level, machine.root_pages) == geometry


@pytest.mark.parametrize("bits", [32, 36, 40, 42, 44, 48])
def test_geometry__every_root_maps_and_walks(bits):
    machine = board(pa_bits=bits)
    guest = Guest(machine, 1)
    guest.put(DOMU_BASE << 12, b"abcdefgh")
    assert machine.memory.read(p2m.lookup(guest.domain, DOMU_BASE).mfn, 0, 8) == b"abcdefgh"


def test_vmid__is_the_lowest_free_one(machine):
    assert [domain.p2m.vmid for domain in machine.domains.values()] == [1, 2, 3]


def test_tlb__never_outlives_a_mapping_that_changes_at_random(machine, domain):
    source = random.Random(7)
    frames = [p2m.lookup(domain, DOMU_BASE + i).mfn for i in range(256)]
    kinds = [abi.p2m_ram_rw, abi.p2m_ram_ro, abi.p2m_mmio_direct_dev]
    for _ in range(1500):
        gfn = BLOCK + source.randrange(2048)
        choice = source.random()
        if choice < 0.1:
            domain.p2m.insert(gfn & ~511, 512, 0x41A00, source.choice(kinds))
        elif choice < 0.5:
            domain.p2m.insert(gfn, 1, source.choice(frames), source.choice(kinds))
        elif choice < 0.7:
            domain.p2m.remove(gfn, 1, p2m.lookup(domain, gfn).mfn)
        elif choice < 0.72:
            domain.p2m.invalidate_root()
        else:
            machine.load(1, 0, gfn << 12, 8)
        check_tlb(machine)


def test_stores__break_before_make(machine, domain, monkeypatch):
    source = random.Random(9)
    table = domain.p2m
    live: dict[tuple[int, int], int] = {}
    broken: set[tuple[int, int]] = set()

    def store(mfn, index, word):
        old = machine.memory.get(mfn, index)
        if old & 1 and word & 1:
            assert old & ~1 == word & ~1
        if old & 1 and not word & 1:
            broken.add((mfn, index))
        if word & 1:
            assert (mfn, index) not in broken or word | 1 == live.get((mfn, index))
            live[mfn, index] = word | 1
        machine.memory.put(mfn, index, word)

    def flush():
        broken.clear()
        original()

    original = table.flush
    monkeypatch.setattr(table, "_store", store)
    monkeypatch.setattr(table, "flush", flush)
    for _ in range(800):
        gfn = BLOCK + source.randrange(2048)
        if source.random() < 0.3:
            table.insert(gfn & ~511, 512, 0x41A00, abi.p2m_mmio_direct_dev)
        elif source.random() < 0.7:
            table.insert(gfn, 1, 0x41000 + source.randrange(9), source.choice([3, 4, 5]))
        else:
            table.remove(gfn, 1, abi.INVALID_MFN)
