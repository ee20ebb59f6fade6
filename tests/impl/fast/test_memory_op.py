"""Every operation of memory_op: its effect, and each error in Xen's order."""

from struct import pack

import pytest

from impl.fast import abi
from tests.impl.fast.board import ARGUMENT, DOMU_BASE, Guest, board, check_heap, check_tlb, dom0, domu, guests

HOLE = DOMU_BASE + 0x800        # a gfn without anything
ARCHES = pytest.mark.parametrize("arch", ["arm64", "arm32"])


@pytest.fixture
def three():
    return guests(board())


@pytest.fixture
def roomy():
    """As the default board, but domU 1 may grow."""
    return guests(board(domains=[dom0(), domu(1, max_pages=4096), domu(2)]))


# ---- populate ------------------------------------------------------------------------------------------------------


@ARCHES
def test_populate__maps_new_frames_at_the_gfns_of_the_list(arch):
    _, one, _ = guests(board(arch, domains=[dom0(), domu(1, max_pages=300), domu(2)]))
    assert one.populate([HOLE, HOLE + 5]) == 2
    entry = one.domain.p2m.lookup(HOLE + 5)
    assert (entry.type, entry.level) == (abi.p2m_ram_rw, 3)


def test_populate__counts_the_pages(roomy):
    one = roomy[1]
    one.populate([HOLE, HOLE + 1])
    assert one.domain.tot_pages == 258


def test_populate__stops_at_max_pages(three):
    assert three[1].populate([HOLE]) == 0


def test_populate__beyond_max_pages_leaves_no_frame_behind(three):
    before = three[1].machine.frames.total_avail
    three[1].populate([HOLE])
    assert before == three[1].machine.frames.total_avail


def test_populate__replaces_a_mapping_silently(roomy):
    one = roomy[1]
    old = one.domain.p2m.lookup(DOMU_BASE + 8).mfn
    assert one.populate([DOMU_BASE + 8]) == 1
    assert one.domain.p2m.lookup(DOMU_BASE + 8).mfn != old
    assert one.machine.frames.owner_of(old) == 1


def test_populate__of_order_9_makes_a_block(roomy):
    one = roomy[1]
    assert one.populate([0x80000], order=9) == 1
    assert one.domain.p2m.lookup(0x80123).level == 2


def test_populate__of_a_misaligned_gfn_makes_pages(roomy):
    one = roomy[1]
    assert one.populate([0x80001], order=9) == 1
    assert one.domain.p2m.lookup(0x80123).level == 3


def test_populate__refuses_a_domu_order_10(roomy):
    assert roomy[1].populate([0x80000], order=10) == 0


def test_populate__keeps_a_block_that_it_can_not_map():
    machine = board(domains=[dom0(), domu(1, max_pages=4096, p2m_pool_pages=16), domu(2)])
    one = Guest(machine, 1)
    machine.domains[1].p2m.freelist.clear()
    assert one.populate([0x80000]) == 0
    assert one.domain.tot_pages == 257


def test_populate__returns_the_start_extent_if_the_argument_can_not_be_read(three):
    seen = three[1].call(abi.HYPERCALL_MEMORY_OP, 6 | 7 << 6, 0x10000000)
    assert three[1].result(seen) == 7


def test_populate__returns_a_start_extent_beyond_the_list(three):
    assert three[1].populate([HOLE], extent=4) == 4


def test_populate__starts_at_the_extent_that_a_guest_forges(roomy):
    one = roomy[1]
    assert one.populate([HOLE, HOLE + 1], extent=1) == 2
    assert one.domain.p2m.lookup(HOLE).mfn == abi.INVALID_MFN


def test_populate__refuses_a_list_too_long_for_a_continuation(roomy):
    assert roomy[1].populate([HOLE], number=1 << 26) == 0


def test_populate__takes_the_longest_list_that_a_continuation_encodes(roomy):
    one = roomy[1]
    # the extent before the last of 2**26 - 1 is read far beyond RAM and stops it there
    assert one.populate([HOLE], number=(1 << 26) - 1, extent=(1 << 26) - 2) == (1 << 26) - 2


def test_populate__of_another_domain_needs_privilege(three):
    assert three[1].populate([HOLE], domid=2) == 0


def test_populate__by_dom0_for_another_domain(roomy):
    assert roomy[0].populate([HOLE], domid=1) == 1


def test_populate__by_a_device_model_for_its_target():
    machine = board(domains=[dom0(), domu(1, target=2), domu(2, max_pages=300)])
    assert Guest(machine, 1).populate([HOLE], domid=2) == 1


def test_populate__of_an_unknown_domain_does_nothing(three):
    assert three[0].populate([HOLE], domid=9) == 0


@pytest.mark.parametrize("bits", [1, 12])
def test_populate__refuses_address_widths_within_a_page(roomy, bits):
    assert roomy[1].populate([HOLE], flags=bits) == 0


def test_populate__ignores_an_address_width_beyond_ram(roomy):
    assert roomy[1].populate([HOLE], flags=40) == 1


def test_populate__honours_an_address_width_below_ram(roomy):
    assert roomy[1].populate([HOLE], flags=20) == 0


def test_populate__lets_a_domu_name_any_node_but_not_exactly(roomy):
    assert roomy[1].populate([HOLE], flags=5 << 8) == 1
    assert roomy[1].populate([HOLE + 1], flags=5 << 8 | abi.XENMEMF_exact_node_request) == 0


def test_populate__lets_dom0_name_node_0_only(roomy):
    assert roomy[0].populate([HOLE], domid=1, flags=1 << 8) == 1
    assert roomy[0].populate([HOLE + 1], domid=1, flags=2 << 8) == 0


def test_populate__on_demand_populates_nothing(roomy):
    assert roomy[0].populate([HOLE], domid=1, flags=abi.XENMEMF_populate_on_demand) == 0


def test_populate__of_dom0_wants_its_own_frames(three):
    zero = three[0]
    own = zero.base >> 12
    assert zero.populate([own + 3]) == 1
    assert zero.populate([0x80000]) == 0


def test_populate__of_dom0_refuses_a_frame_of_another(three):
    assert three[0].populate([three[1].domain.p2m.lookup(DOMU_BASE).mfn]) == 0


def test_populate__is_preempted_between_extents(roomy):
    one = roomy[1]
    one.machine.preempt_after(2)
    seen = one.reservation(abi.XENMEM_populate_physmap, [HOLE, HOLE + 1, HOLE + 2])
    assert seen.restart
    assert seen.registers[:2] == [6 | 2 << 6, one.base + ARGUMENT]


def test_populate__finishes_after_a_restart(roomy):
    one = roomy[1]
    one.machine.preempt_after(1)
    seen = one.reservation(abi.XENMEM_populate_physmap, [HOLE, HOLE + 1, HOLE + 2])
    again = one.machine.hypercall(1, 0, seen.registers)
    assert one.result(again) == 3


def test_populate__takes_a_forced_frame(roomy):
    one = roomy[1]
    free = next(mfn for mfn in range(0x41F00, 0x42000) if one.machine.frames.is_free(mfn))
    one.machine.force([("frame", free)])
    assert one.populate([HOLE]) == 1
    assert one.domain.p2m.lookup(HOLE).mfn == free


def test_populate__logs_frames_and_tables(roomy):
    one = roomy[1]
    seen = one.reservation(abi.XENMEM_populate_physmap, [0x100000])
    assert [kind for kind, _ in seen.choices] == ["frame", "table", "table"]


def test_populate__on_arm32_cuts_gfns_to_32_bits():
    one = Guest(board("arm32", domains=[dom0(), domu(1, max_pages=300), domu(2)]), 1)
    assert one.populate([1 << 32 | HOLE]) == 1
    assert one.domain.p2m.lookup(HOLE).type == abi.p2m_ram_rw


# ---- decrease, increase --------------------------------------------------------------------------------------------


@ARCHES
def test_decrease__gives_the_frame_back(arch):
    _, one, _ = guests(board(arch))
    mfn = one.domain.p2m.lookup(DOMU_BASE + 9).mfn
    assert one.decrease([DOMU_BASE + 9]) == 1
    assert one.machine.frames.is_free(mfn)


def test_decrease__of_an_empty_gfn_stops(three):
    assert three[1].decrease([DOMU_BASE + 9, HOLE, DOMU_BASE + 10]) == 1


def test_decrease__keeps_what_an_extent_gave_before_it_failed(three):
    one = three[1]
    assert one.decrease([DOMU_BASE + 255], order=1) == 0
    assert one.domain.tot_pages == 255


def test_decrease__by_dom0_keeps_its_frame(three):
    zero = three[0]
    gfn = (zero.base >> 12) + 9
    assert zero.decrease([gfn]) == 1
    assert (zero.domain.tot_pages, zero.domain.p2m.lookup(gfn).mfn) == (512, abi.INVALID_MFN)


def test_decrease__of_a_foreign_map_fails(three):
    zero = three[0]
    assert zero.foreign(1, DOMU_BASE, 0x90000) == 0
    assert zero.decrease([0x90000]) == 0


def test_decrease__of_a_page_mapped_elsewhere_leaves_it_counted(three):
    zero, one, _ = three
    assert zero.foreign(1, DOMU_BASE + 9, 0x90000) == 0
    assert one.decrease([DOMU_BASE + 9]) == 1
    assert one.domain.tot_pages == 256
    assert zero.remove(0x90000) == 0
    assert one.domain.tot_pages == 255


def test_decrease__splits_a_block(roomy):
    one = roomy[1]
    one.populate([0x80000], order=9)
    assert one.decrease([0x80005]) == 1
    assert (one.domain.p2m.lookup(0x80004).level, one.domain.p2m.lookup(0x80005).type) == (3, abi.p2m_invalid)


def test_decrease__of_shared_info_succeeds_and_it_can_be_added_again_but_not_removed(three):
    one = three[1]
    assert one.add(abi.XENMAPSPACE_shared_info, 0, HOLE) == 0
    assert one.decrease([HOLE]) == 1
    assert one.add(abi.XENMAPSPACE_shared_info, 0, HOLE) == 0
    assert one.decrease([HOLE]) == 0
    assert one.remove(HOLE) == -abi.ENOENT


def test_decrease__leaves_old_contents_to_whom_takes_the_frame_next(three):
    one = three[1]
    one.put((DOMU_BASE + 9) << 12, b"leftover")
    mfn = one.domain.p2m.lookup(DOMU_BASE + 9).mfn
    one.decrease([DOMU_BASE + 9])
    one.machine.force([("frame", mfn)])
    one.populate([HOLE])
    assert one.get(HOLE << 12, 8) == b"leftover"


def test_decrease__scrubs_with_the_option():
    one = Guest(board(scrub_domheap=True), 1)
    one.put((DOMU_BASE + 9) << 12, b"leftover")
    mfn = one.domain.p2m.lookup(DOMU_BASE + 9).mfn
    one.decrease([DOMU_BASE + 9])
    one.machine.force([("frame", mfn)])
    one.populate([HOLE])
    assert one.get(HOLE << 12, 8) == bytes(8)


def test_increase__allocates_and_maps_nothing(roomy):
    one = roomy[1]
    assert one.increase(3) == 3
    assert (one.domain.tot_pages, one.domain.p2m.max_mapped_gfn) == (259, DOMU_BASE + 255)


def test_increase__stops_at_max_pages():
    one = Guest(board(domains=[dom0(), domu(1, max_pages=258), domu(2)]), 1)
    assert one.increase(9) == 2


def test_increase__is_preempted(roomy):
    one = roomy[1]
    one.machine.preempt_after(1)
    seen = one.reservation(abi.XENMEM_increase_reservation, [], number=5)
    assert seen.registers[0] == 0 | 1 << 6


# ---- numbers -------------------------------------------------------------------------------------------------------


def test_maximum_ram_page__is_one_beyond_the_last_frame(three):
    assert three[1].memory_op(abi.XENMEM_maximum_ram_page, b"") == 0x42000


def test_maximum_ram_page__refuses_a_start_extent(three):
    assert three[1].memory_op(abi.XENMEM_maximum_ram_page, b"", extent=1) == -abi.EINVAL


def test_statistic__tells_pages_limit_and_highest_gfn(three):
    one = three[1]
    operations = abi.XENMEM_current_reservation, abi.XENMEM_maximum_reservation, abi.XENMEM_maximum_gpfn
    assert [one.statistic(op) for op in operations] == [256, 256, DOMU_BASE + 255]


def test_statistic__maximum_gpfn_never_falls(three):
    one = three[1]
    one.decrease([DOMU_BASE + 255])
    assert one.statistic(abi.XENMEM_maximum_gpfn) == DOMU_BASE + 255


@pytest.mark.parametrize(("domid", "error"), [(9, abi.ESRCH), (2, abi.EPERM), (abi.DOMID_IO, abi.ESRCH)])
def test_statistic__of_others(three, domid, error):
    assert three[1].statistic(abi.XENMEM_current_reservation, domid) == -error


def test_statistic__reads_the_clamped_limit_as_minus_1_on_arm32():
    zero, one, _ = guests(board("arm32"))
    assert zero.domctl(11, 1, pack("<Q", (1 << 64) - 1)) == 0
    assert one.statistic(abi.XENMEM_maximum_reservation) == -1


def test_statistic__reads_the_clamped_limit_whole_on_arm64(three):
    assert three[0].domctl(11, 1, pack("<Q", (1 << 64) - 1)) == 0
    assert three[1].statistic(abi.XENMEM_maximum_reservation) == 0xFFFFFFFF


@pytest.mark.parametrize("operation", [5, 8, 9, 10, 12, 13, 16, 17, 20, 21, 22, 25, 29, 63])
def test_memory_op__lacks_what_arm_lacks(three, operation):
    assert three[0].memory_op(operation, b"") == -abi.ENOSYS


@pytest.mark.parametrize("operation", [18, 19])
def test_memory_op__shares_no_pages(three, operation):
    assert three[1].memory_op(operation, b"") == 0
    assert three[1].memory_op(operation, b"", extent=1) == -abi.ENOSYS


# ---- add_to_physmap ------------------------------------------------------------------------------------------------


@ARCHES
def test_add__shared_info(arch):
    one = Guest(board(arch), 1)
    assert one.add(abi.XENMAPSPACE_shared_info, 0, HOLE) == 0
    assert one.domain.p2m.lookup(HOLE).mfn == one.domain.shared_info


def test_add__shared_info_of_another_index(three):
    assert three[1].add(abi.XENMAPSPACE_shared_info, 1, HOLE) == -abi.EINVAL


def test_add__shared_info_twice_is_busy_until_removed(three):
    one = three[1]
    one.add(abi.XENMAPSPACE_shared_info, 0, HOLE)
    assert one.add(abi.XENMAPSPACE_shared_info, 0, HOLE + 1) == -abi.EBUSY
    assert one.remove(HOLE) == 0
    assert one.add(abi.XENMAPSPACE_shared_info, 0, HOLE + 1) == 0


def test_add__shared_info_forgets_its_gfn_when_another_page_is_mapped_there(roomy):
    one = roomy[1]
    one.add(abi.XENMAPSPACE_shared_info, 0, HOLE)
    one.populate([HOLE])
    assert one.add(abi.XENMAPSPACE_shared_info, 0, HOLE + 1) == 0


def test_add__a_grant_frame(three):
    one = three[1]
    assert one.add(abi.XENMAPSPACE_grant_table, 0, HOLE) == 0
    assert one.domain.p2m.lookup(HOLE).type == abi.p2m_ram_rw


def test_add__a_grant_frame_beyond_the_limit(three):
    assert three[1].add(abi.XENMAPSPACE_grant_table, 64, HOLE) == -abi.EINVAL


@pytest.mark.parametrize(("space", "error"), [(2, abi.ENOSYS), (4, abi.ENOSYS), (5, abi.EACCES), (6, abi.ENOSYS)])
def test_add__other_spaces(three, space, error):
    assert three[1].add(space, 0, HOLE) == -error


@pytest.mark.parametrize(("size", "extent", "rc"), [(0, 0, 0), (1, 0, -abi.ENOSYS), (1, 2, -abi.EILSEQ), (1, 1, 0)])
def test_add__a_range(three, size, extent, rc):
    assert three[1].add(3, 0, HOLE, size=size, extent=extent) == rc


def test_add__a_range_that_wraps(three):
    assert three[1].add(3, (1 << 64) - 1, HOLE, size=1) == -abi.EOVERFLOW


def test_add__refuses_a_cursor_of_17_bits(three):
    assert three[1].add(0, 0, HOLE, extent=1 << 16) == -abi.EDOM


def test_add__refuses_the_invalid_gfn(three):
    assert three[1].add(0, 0, (1 << 64) - 1) == -abi.EINVAL


def test_add__refuses_the_invalid_gfn_of_32_bits_on_arm32():
    assert Guest(board("arm32"), 1).add(0, 0, 7 << 32 | 0xFFFFFFFF) == -abi.EINVAL


@pytest.mark.parametrize(("domid", "error"), [(9, abi.ESRCH), (2, abi.EPERM)])
def test_add__for_others(three, domid, error):
    assert three[1].add(0, 0, HOLE, domid=domid) == -error


def test_add__beyond_the_root_table(three):
    assert three[1].add(0, 0, 1 << 28) == -abi.EINVAL


def test_add__device_memory_that_is_not_permitted_is_silently_left_out(three):
    zero = three[0]
    assert zero.add(5, 0x1000, 0x1000) == 0
    assert zero.domain.p2m.lookup(0x1000).mfn == abi.INVALID_MFN


def test_add__device_memory():
    zero = Guest(board(domains=[dom0(iomem=((0x1000, 16),)), domu(1), domu(2)]), 0)
    assert zero.add(5, 0x1005, 0x70000) == 0
    entry = zero.domain.p2m.lookup(0x70000)
    assert (entry.mfn, entry.type) == (0x1005, abi.p2m_mmio_direct_c)


# ---- the batch, foreign maps ---------------------------------------------------------------------------------------


def test_foreign__maps_with_a_reference(three):
    zero, one, _ = three
    assert zero.foreign(1, DOMU_BASE + 9, 0x90000) == 0
    mfn = one.domain.p2m.lookup(DOMU_BASE + 9).mfn
    entry = zero.domain.p2m.lookup(0x90000)
    assert (entry.mfn, entry.type, zero.machine.frames.count(mfn)) == (mfn, abi.p2m_map_foreign_rw, 2)


def test_foreign__map_is_not_executable(three):
    zero = three[0]
    zero.foreign(1, DOMU_BASE + 9, 0x90000)
    assert zero.machine.fetch(0, 0, 0x90000000).kind == "stuck"


def test_foreign__removal_drops_the_reference(three):
    zero, one, _ = three
    zero.foreign(1, DOMU_BASE + 9, 0x90000)
    assert zero.remove(0x90000) == 0
    assert zero.machine.frames.count(one.domain.p2m.lookup(DOMU_BASE + 9).mfn) == 1


def test_foreign__the_same_page_mapped_again_at_the_gfn_leaks_a_reference(three):
    zero, one, _ = three
    zero.foreign(1, DOMU_BASE + 9, 0x90000)
    zero.foreign(1, DOMU_BASE + 9, 0x90000)
    zero.remove(0x90000)
    assert zero.machine.frames.count(one.domain.p2m.lookup(DOMU_BASE + 9).mfn) == 2


def test_foreign__of_a_foreign_map_is_refused(three):
    zero, one, _ = three
    zero.foreign(1, DOMU_BASE + 9, 0x90000)
    seen, errors = zero.batch(4, [(0x90000, HOLE)], domid=2, foreign=abi.DOMID_SELF)
    assert (zero.result(seen), errors) == (0, [-abi.EPERM])
    assert one.domain.refcnt == 3


@pytest.mark.parametrize(("owner", "error"), [(0, abi.ESRCH), (abi.DOMID_SELF, abi.EINVAL), (9, abi.ESRCH),
                                              (abi.DOMID_XEN, abi.EINVAL), (abi.DOMID_IO, abi.EINVAL)])
def test_foreign__owners_that_dom0_can_not_name(three, owner, error):
    assert three[0].foreign(owner, DOMU_BASE + 1, 0x90000) == -error


@ARCHES
def test_foreign__first_page_of_domid_io_panics_on_arm64_alone(arch):
    zero, *_ = guests(board(arch))
    assert zero.foreign(abi.DOMID_IO, 5, 0x90000) == -abi.EINVAL
    if zero.machine.width == 32:
        assert zero.foreign(abi.DOMID_IO, 0, 0x90000) == -abi.EINVAL
        return
    with pytest.raises(AssertionError):
        zero.foreign(abi.DOMID_IO, 0, 0x90000)
    assert "p2m_next_level" in zero.machine.panicked


def test_foreign__of_another_domain_needs_privilege(three):
    assert three[1].foreign(2, DOMU_BASE, HOLE) == -abi.EPERM


def test_foreign__of_an_empty_gfn(three):
    assert three[0].foreign(1, HOLE, 0x90000) == -abi.EINVAL


def test_batch__goes_on_after_an_error(three):
    seen, errors = three[0].batch(4, [(HOLE, 0x90000), (DOMU_BASE, 0x90001)], foreign=1)
    assert (three[0].result(seen), errors) == (0, [-abi.EINVAL, 0])


def test_batch__ends_at_the_invalid_gfn(three):
    seen, errors = three[0].batch(4, [(DOMU_BASE, 0x90000), (DOMU_BASE, (1 << 64) - 1)], foreign=1)
    assert (three[0].result(seen), errors[0]) == (-abi.EINVAL, 0)


def test_batch__is_preempted_after_an_element(three):
    zero = three[0]
    zero.machine.preempt_after(1)
    seen, errors = zero.batch(4, [(DOMU_BASE, 0x90000), (DOMU_BASE + 1, 0x90001)], foreign=1)
    assert (seen.restart, seen.registers[0], errors) == (True, 23 | 1 << 6, [0, 0x55555555])


@pytest.mark.parametrize(("elements", "extent", "rc"), [(0, 0, 0), (1, 1, -abi.EILSEQ), (1, 2, -abi.EILSEQ),
                                                        (1, 1 << 16, -abi.EDOM)])
def test_batch__cursors(three, elements, extent, rc):
    seen, _ = three[1].batch(0, [(0, HOLE)] * elements, extent=extent)
    assert three[1].result(seen) == rc


@pytest.mark.parametrize(("space", "rc"), [(3, -abi.EOPNOTSUPP), (5, -abi.EACCES)])
def test_batch__spaces_refused_whole(three, space, rc):
    assert three[1].result(three[1].batch(space, [(0, HOLE)])[0]) == rc


def test_batch__device_memory_wants_a_zero_field(three):
    assert three[0].result(three[0].batch(5, [(0, 0x90000)], foreign=1)[0]) == -abi.EOPNOTSUPP


# ---- remove --------------------------------------------------------------------------------------------------------


def test_remove__keeps_the_page_owned(three):
    one = three[1]
    mfn = one.domain.p2m.lookup(DOMU_BASE + 9).mfn
    assert one.remove(DOMU_BASE + 9) == 0
    assert (one.domain.tot_pages, one.machine.frames.owner_of(mfn)) == (256, 1)


def test_remove__of_nothing(three):
    assert three[1].remove(HOLE) == -abi.ENOENT


@pytest.mark.parametrize(("domid", "error"), [(9, abi.ESRCH), (2, abi.EPERM)])
def test_remove__from_others(three, domid, error):
    assert three[1].remove(DOMU_BASE, domid=domid) == -error


def test_remove__refuses_a_start_extent(three):
    assert three[1].memory_op(abi.XENMEM_remove_from_physmap, bytes(16), extent=1) == -abi.EINVAL


# ---- claims --------------------------------------------------------------------------------------------------------


def claim(guest, domid, pages, *, handle=0, order=0, flags=0, extent=0):
    data = abi.MEMORY_RESERVATION.pack(handle, pages, order, flags, domid)
    return guest.memory_op(abi.XENMEM_claim_pages, data, extent)


def test_claim__shrinks_as_pages_are_allocated(roomy):
    assert claim(roomy[0], 1, 300) == 0
    roomy[1].populate([HOLE])
    assert roomy[1].domain.outstanding_pages == 43


def test_claim__keeps_frames_from_others():
    zero, one, two = guests(board(domains=[dom0(), domu(1, max_pages=1 << 20), domu(2, max_pages=1 << 20)]))
    free = zero.machine.frames.total_avail
    assert claim(zero, 1, 256 + free) == 0
    assert two.populate([HOLE]) == 0
    assert one.populate([HOLE]) == 1


@pytest.mark.parametrize(("options", "error"), [
    ({"handle": 8}, abi.EINVAL), ({"order": 1}, abi.EINVAL), ({"flags": 1}, abi.EINVAL), ({"extent": 1}, abi.EINVAL),
    ({"domid": abi.DOMID_SELF}, abi.EINVAL), ({"pages": 256}, abi.EINVAL), ({"pages": 1 << 20}, abi.EINVAL),
])
def test_claim__refuses(roomy, options, error):
    options = {"domid": 1, "pages": 300, **options}
    assert claim(roomy[0], **options) == -error


def test_claim__refuses_a_second_one(roomy):
    claim(roomy[0], 1, 300)
    assert claim(roomy[0], 1, 301) == -abi.EINVAL


def test_claim__is_dropped_by_zero(roomy):
    claim(roomy[0], 1, 300)
    assert claim(roomy[0], 1, 0) == 0
    assert roomy[0].machine.frames.outstanding_claims == 0


def test_claim__beyond_what_is_free():
    zero = Guest(board(domains=[dom0(), domu(1, max_pages=1 << 20), domu(2)]), 0)
    assert claim(zero, 1, 1 << 19) == -abi.ENOMEM


def test_claim__needs_privilege(roomy):
    assert claim(roomy[1], 1, 300) == -abi.EPERM


# ---- exchange and the rest -----------------------------------------------------------------------------------------


def exchange(guest, nr=1, order=0, *, nr_out=1, order_out=0, domid=abi.DOMID_SELF, domid_out=None, done=0, flags=0,
             gfn=DOMU_BASE + 1, extent=0):
    address = guest.list_at(0, [gfn])
    out = domid if domid_out is None else domid_out
    return guest.memory_op(abi.XENMEM_exchange, abi.MEMORY_EXCHANGE.pack(
        address, nr, order, 0, domid, address, nr_out, order_out, flags, out, done), extent)


@pytest.mark.parametrize(("options", "rc"), [
    ({}, -abi.EOPNOTSUPP), ({"extent": 1}, -abi.EINVAL), ({"order": 10, "order_out": 10}, -abi.EPERM),
    ({"done": 2}, -abi.EINVAL), ({"domid_out": 2}, -abi.EINVAL), ({"nr_out": 2}, -abi.EINVAL), ({"done": 1}, 0),
    ({"domid": 9}, -abi.ESRCH), ({"domid": 2}, -abi.EPERM), ({"gfn": HOLE}, -abi.EINVAL),
    ({"flags": 1 << 8 | abi.XENMEMF_exact_node_request}, -abi.EINVAL),
])
def test_exchange__answers(three, options, rc):
    assert exchange(three[1], **options) == rc


def test_exchange__writes_back_what_was_done(three):
    exchange(three[1], nr=4, nr_out=2, order_out=1, done=3, gfn=DOMU_BASE)
    assert three[1].get(three[1].base + ARGUMENT + 64, 8) == pack("<Q", 2)


@pytest.mark.parametrize(("domid", "pad", "rc"), [
    (abi.DOMID_SELF, 0, -abi.EOPNOTSUPP), (abi.DOMID_SELF, 1, -abi.EINVAL), (9, 0, -abi.ESRCH), (2, 0, -abi.EPERM),
])
def test_vnumainfo__is_nobodys(three, domid, pad, rc):
    assert three[1].memory_op(26, abi.VNUMA_TOPOLOGY_INFO.pack(domid, pad, 0, 0, 0, 0, 0, 0)) == rc


def test_reserved_device_memory_map__is_empty(three):
    one = three[1]
    assert one.memory_op(27, abi.RESERVED_DEVICE_MEMORY_MAP.pack(1, 5, 0, 0, 0, 0)) == 0
    assert one.get(one.base + ARGUMENT + 4, 4) == bytes(4)


def test_reserved_device_memory_map__knows_one_flag(three):
    assert three[1].memory_op(27, abi.RESERVED_DEVICE_MEMORY_MAP.pack(2, 5, 0, 0, 0, 0)) == -abi.EINVAL


# ---- acquire_resource ----------------------------------------------------------------------------------------------


def acquire(guest, domid=1, *, kind=1, number=0, frames=1, pad=0, frame=0, gfns=(0x90000,), extent=0):
    address = guest.list_at(0, list(gfns)) if gfns else 0
    data = abi.ACQUIRE_RESOURCE.pack(domid, kind, number, frames, pad, frame, address)
    return guest.memory_op_raw(abi.XENMEM_acquire_resource, data, extent)


def test_acquire__maps_a_grant_frame_as_foreign(three):
    zero = three[0]
    assert zero.result(acquire(zero)) == 0
    assert zero.domain.p2m.lookup(0x90000).type == abi.p2m_map_foreign_rw


@pytest.mark.parametrize(("options", "error"), [
    ({"pad": 1}, abi.EINVAL), ({"frame": 1 << 32}, abi.EINVAL), ({"frame": (1 << 32) - 1}, abi.EINVAL),
    ({"domid": 9}, abi.ESRCH), ({"domid": abi.DOMID_SELF}, abi.ESRCH), ({"domid": 0}, abi.EPERM),
    ({"kind": 0}, abi.EINVAL), ({"kind": 2}, abi.EINVAL), ({"kind": 7}, abi.EOPNOTSUPP), ({"number": 1}, abi.EINVAL),
    ({"gfns": ()}, abi.EINVAL), ({"extent": 1}, abi.EINVAL), ({"frames": 1 << 26}, abi.EINVAL),
    ({"frame": 64}, abi.EINVAL),
])
def test_acquire__refuses(three, options, error):
    assert three[0].result(acquire(three[0], **options)) == -error


def test_acquire__needs_the_device_model_or_dom0(three):
    assert three[2].result(acquire(three[2])) == -abi.EPERM


def test_acquire__without_a_list_tells_the_size(three):
    zero = three[0]
    assert zero.result(acquire(zero, frames=0, gfns=())) == 0
    assert zero.get(zero.base + ARGUMENT + 8, 4) == pack("<I", 64)


def test_acquire__of_an_unknown_kind_tells_a_huge_size(three):
    zero = three[0]
    assert zero.result(acquire(zero, kind=7, frames=0, gfns=())) == 0
    assert zero.get(zero.base + ARGUMENT + 8, 4) == pack("<I", (1 << 32) - 95)


def test_acquire__is_preempted_between_chunks_of_32(three):
    zero = three[0]
    zero.machine.preempt_after(1)
    seen = acquire(zero, frames=40, gfns=range(0x90000, 0x90028))
    assert (seen.restart, seen.registers[0]) == (True, 28 | 32 << 6)


def test_acquire__fails_with_eio_after_the_first_element(three):
    assert three[0].result(acquire(three[0], frames=2, gfns=(0x90000, 1 << 40))) == -abi.EIO


# ---- the books ----------------------------------------------------------------------------------------------------


def test_memory_op__keeps_the_heap_and_the_tlb_in_order(roomy):
    _, one, _ = roomy
    for i in range(64):
        one.populate([HOLE + i * 7, HOLE + i * 513])
        one.decrease([HOLE + i * 7])
        one.machine.load(1, 0, (HOLE + i * 513) << 12)
    check_heap(one.machine)
    check_tlb(one.machine)
