"""The frame table and the buddy heap."""

import random

import pytest

from impl.fast import abi
from impl.fast.errors import XenPanic
from tests.impl.fast.board import board, check_heap, dom0, domu


def free_blocks(frames):
    return {zone: [sorted(blocks) for blocks in lists] for zone, lists in frames.lists.items()}


@pytest.fixture
def machine():
    return board(domains=[dom0(), domu(1, max_pages=4096)])


@pytest.mark.parametrize(("arch", "width"), [("arm64", 64), ("arm32", 32)])
def test_count_info__has_the_width_of_the_architecture(arch, width):
    frames = board(arch).frames
    assert 1 << width - 1 == frames.ALLOCATED


def test_add_to_heap__gives_every_frame_but_xens():
    frames = board(domains=[]).frames
    assert frames.total_avail == frames.total_pages - 16


def test_arm32__keeps_the_xen_heap_apart():
    frames = board("arm32", domains=[]).frames
    first, number = frames.xenheap or (0, 0)
    assert frames.alloc_domheap(None, 0) not in range(first, first + number)
    assert frames.alloc_xenheap() in range(first, first + number)


def test_arm32__never_sets_the_xen_heap_bit():
    frames = board("arm32", domains=[]).frames
    mfn = frames.alloc_xenheap()
    assert frames.is_xen_heap(mfn)
    assert not frames.info(mfn) & frames.XEN_HEAP


def test_alloc__is_aligned_to_its_order(machine):
    assert machine.frames.alloc_domheap(None, 5) % 32 == 0


def test_alloc__refuses_an_order_beyond_18(machine):
    assert machine.frames.alloc_domheap(None, 19) is None


def test_alloc__for_a_domain_owns_allocates_and_counts(machine):
    mfn = machine.frames.alloc_domheap(machine.domains[1], 1)
    frames = machine.frames
    rows = [(frames.owner_of(m), frames.is_allocated(m), frames.count(m)) for m in (mfn, mfn + 1)]
    assert rows == [(1, True, 1)] * 2


def test_alloc__within_an_address_width_stays_below(machine):
    assert machine.frames.alloc_domheap(None, 0, address_bits=20) is None


def test_get_page__needs_the_owner(machine):
    mfn = machine.frames.alloc_domheap(machine.domains[1], 0)
    assert machine.frames.get_page(mfn, 1)
    assert not machine.frames.get_page(mfn, 0)
    assert machine.frames.count(mfn) == 2


def test_get_page__needs_a_reference_already(machine):
    assert not machine.frames.get_page(machine.xen_frames[0], 0)


def test_get_page__refuses_to_wrap(machine):
    frames = machine.frames
    mfn = frames.alloc_domheap(machine.domains[1], 0)
    frames.count_info[frames.index(mfn)] = frames.COUNT
    assert not frames.get_page(mfn, 1)


def test_put_page__frees_with_the_last_reference(machine):
    frames = machine.frames
    mfn = frames.alloc_domheap(machine.domains[1], 0)
    frames.put_page(mfn)
    assert frames.is_free(mfn)


def test_put_page__without_reference_is_a_panic(machine):
    with pytest.raises(XenPanic, match="has no reference"):
        machine.frames.put_page(machine.xen_frames[0])


def test_put_page_alloc_ref__works_once(machine):
    frames = machine.frames
    mfn = frames.alloc_domheap(machine.domains[1], 0)
    frames.get_page(mfn, 1)
    frames.put_page_alloc_ref(mfn)
    frames.put_page_alloc_ref(mfn)
    assert frames.count(mfn) == 1


def test_assign__tells_apart_dying_over_and_too_many(machine):
    domain = machine.domains[1]
    mfn = machine.frames.alloc_domheap(None, 1)
    domain.max_pages = domain.tot_pages + 1
    assert machine.frames.assign(mfn, 2, domain) == -abi.E2BIG
    domain.max_pages = domain.tot_pages - 1
    assert machine.frames.assign(mfn, 2, domain) == -abi.EPERM
    domain.is_dying = 1
    assert machine.frames.assign(mfn, 2, domain) == -abi.EINVAL


def test_domain__is_held_while_it_has_pages(machine):
    domain = machine.domains[1]
    before = domain.refcnt
    for mfn in list(domain.page_list):
        machine.frames.put_page(mfn)
    assert domain.refcnt == before - 1


def test_share_xen_page__holds_and_lists(machine):
    domain = machine.domains[1]
    mfn = machine.frames.alloc_xenheap()
    machine.frames.share_xen_page(mfn, domain)
    assert mfn in domain.xenpage_list
    assert machine.frames.count(mfn) == 1


def test_xenheap_gfn__is_remembered(machine):
    mfn = machine.frames.alloc_xenheap()
    assert machine.frames.xenheap_gfn(mfn) is None
    machine.frames.set_xenheap_gfn(mfn, 0x1234)
    assert machine.frames.xenheap_gfn(mfn) == 0x1234


def test_xenheap_page__leaves_its_domain_with_the_last_reference_but_is_not_freed(machine):
    frames, domain = machine.frames, machine.domains[1]
    frames.put_page(domain.shared_info)
    assert not frames.is_free(domain.shared_info)
    assert domain.shared_info not in domain.xenpage_list


def test_heap__merges_back_to_the_blocks_it_had():
    frames = board(domains=[]).frames
    before = free_blocks(frames)
    taken = [(frames.alloc_domheap(None, order), order) for order in (0, 3, 0, 5, 1, 0)]
    for mfn, order in taken:
        frames.free_domheap(mfn, order)
    assert before == free_blocks(frames)


def test_heap__cleans_a_dirty_frame_before_it_gives_it(machine):
    frames = machine.frames
    mfn = frames.alloc_domheap(None, 0)
    machine.memory.put(mfn, 7, 1234)
    frames.free_domheap(mfn)
    frames.forced.append(("frame", mfn))
    assert frames.alloc_domheap(None, 0) == mfn
    assert machine.memory.get(mfn, 7) == 0


def test_heap__gives_xen_a_frame_as_it_is(machine):
    frames = machine.frames
    mfn = frames.alloc_domheap(None, 0)
    machine.memory.put(mfn, 7, 1234)
    frames.free_domheap(mfn)
    frames.forced.append(("frame", mfn))
    assert frames.alloc_xenheap() == mfn
    assert machine.memory.get(mfn, 7) == 1234


@pytest.mark.parametrize("wanted", [0x7FFFFFFF, 0x40000, 0x41001])
def test_force__of_an_illegal_frame_is_ignored(machine, wanted):
    machine.force([("frame", wanted)])
    assert machine.frames.alloc_domheap(None, 1) not in {None, wanted}


def test_force__takes_a_block_out_of_a_larger_one(machine):
    machine.force([("frame", 0x41844)])
    assert machine.frames.alloc_domheap(None, 2) == 0x41844
    check_heap(machine)


@pytest.mark.parametrize("arch", ["arm64", "arm32"])
def test_heap__stays_in_order_over_random_use(arch):
    machine = board(arch, domains=[dom0(), domu(1, max_pages=1 << 20)])
    random_source = random.Random(5)
    frames = machine.frames
    held: list[tuple[int, int]] = []
    for _ in range(2000):
        if held and random_source.random() < 0.5:
            mfn, order = held.pop(random_source.randrange(len(held)))
            frames.free_domheap(mfn, order)
        else:
            order = random_source.choice([0, 0, 0, 1, 2, 5])
            domain = machine.domains[1] if random_source.random() < 0.5 else None
            taken = frames.alloc_domheap(domain, order)
            if taken is not None:
                held.append((taken, order))
    check_heap(machine)
