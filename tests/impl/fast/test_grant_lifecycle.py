"""Birth and death: limits at creation, the teardown of a mapper and of a granter, the IOMMU, snapshots."""

import pytest

from impl.fast import abi
from impl.fast.domains import Domain
from impl.fast.errors import XenPanic
from impl.fast.grant import layouts as g
from impl.fast.grant import lifecycle
from impl.fast.grant.projection import project_grants
from tests.impl.fast.test_grant_support import DOM0, GRANTER, HOST, MAPPER, PAGE, SELF, THIRD, Board

RO = g.GNTMAP_host_map | g.GNTMAP_readonly


@pytest.fixture(params=["arm64", "arm32"])
def board(request):
    board = Board(request.param)
    board.offer(9)
    return board


def domain(board, version=1, grant_frames=-1, maptrack_frames=-1):
    new = Domain(board.machine, 77, max_vcpus=1)
    new.max_grant_version, new.max_grant_frames, new.max_maptrack_frames = version, grant_frames, maptrack_frames
    return new


def kill(board, dom):
    """Destroy a domain by dom0's destroydomain."""
    address = board.address(DOM0)
    board.write(DOM0, address, abi.DOMCTL_HEADER.pack(2, abi.DOMCTL_INTERFACE_VERSION, dom))
    seen = board.machine.hypercall(DOM0, 0, {12 if board.arm32 else 16: abi.HYPERCALL_DOMCTL, 0: address})
    assert (seen.kind, seen.registers[0]) == ("value", 0)


# ---- creation --------------------------------------------------------------------------------------------------


def test_create__makes_a_v1_table_with_one_frame(board):
    new = domain(board)
    assert (lifecycle.create(board.machine, new), new.grant_table.version, len(new.grant_table.shared)) == (0, 1, 1)


def test_create__takes_the_machines_limits_for_negative_ones(board):
    new = domain(board)
    lifecycle.create(board.machine, new)
    assert (new.grant_table.max_grant_frames, new.grant_table.max_maptrack_frames) == (64, 1024)


@pytest.mark.parametrize("limits", [{"version": 0}, {"version": 2}, {"grant_frames": 0}, {"grant_frames": 65},
                                    {"maptrack_frames": 1025}])
def test_create__beyond_the_machines_limits_is_einval(board, limits):
    new = domain(board, **limits)
    assert (lifecycle.create(board.machine, new), new.grant_table) == (-abi.EINVAL, None)


def test_create__without_memory_is_enomem_and_takes_nothing(board):
    frames = board.machine.frames
    before, real, taken = frames.total_avail, frames.alloc_xenheap, []

    def two(order=0):
        taken.append(1)
        return real(order) if len(taken) <= 2 else None
    frames.alloc_xenheap = two
    assert (lifecycle.create(board.machine, domain(board)), frames.total_avail) == (-abi.ENOMEM, before)


def test_destroy__of_a_domain_without_a_table_does_nothing(board):
    lifecycle.destroy(board.machine, domain(board))
    assert board.map(9)[0] == g.GNTST_okay


# ---- death of the mapper ----------------------------------------------------------------------------------------


def test_release__takes_back_pins_marks_and_references(board):
    board.map(9)
    board.map(9, RO, HOST + 0x1000)
    kill(board, MAPPER)
    assert (board.active(9), board.flags(9), board.references(board.mfn(GRANTER, PAGE))) == (
        None, g.GTF_permit_access, 1)


def test_release__frees_every_frame_of_the_mapper(board):
    board.map(9)
    frames = board.machine.frames
    kill(board, MAPPER)
    assert (MAPPER in board.machine.domains, (frames.owner == MAPPER).any()) == (False, False)


def test_release__leaves_other_mappers_alone(board):
    board.offer(10, to=THIRD, gfn=PAGE)
    board.map(10, dom=THIRD)
    board.map(9)
    kill(board, MAPPER)
    assert (board.active(10)[:2], board.references(board.mfn(GRANTER, PAGE))) == ((0, 1), 2)


def test_release__frees_a_maptrack_frame_for_each_step(board):
    for ref in range(3):
        board.offer(ref)
    for i in range(300):
        board.map(i // 127, RO, HOST + 0x1000 * i)
    dom = board.machine.domains[MAPPER]
    dom.is_dying = 1
    steps = [lifecycle.release_mappings(board.machine, dom, 1) for _ in range(2)]
    assert (steps, board.table(MAPPER).maptrack_frames) == ([False, True], [])


def test_release__is_preempted_after_a_frame(board):
    for ref in range(3):
        board.offer(ref)
    for i in range(300):
        board.map(i // 127, RO, HOST + 0x1000 * i)
    board.machine.domains[MAPPER].is_dying = 1
    board.machine.preempt_after(1)
    done = lifecycle.release_mappings(board.machine, board.machine.domains[MAPPER])
    assert (done, board.table(MAPPER).maptrack_limit) == (False, 256)


def test_release__without_any_handle_is_done(board):
    assert lifecycle.release_mappings(board.machine, board.machine.domains[MAPPER])


def test_release__of_a_mapping_whose_granter_is_gone_clears_it(board):
    board.map(9)
    gone = board.machine.domains.pop(GRANTER)
    board.machine.domains[MAPPER].is_dying = 1
    lifecycle.release_mappings(board.machine, board.machine.domains[MAPPER])
    assert gone.grant_table.pin[9] == 1


def test_release__of_an_entry_that_is_not_pinned_panics(board):
    board.map(9)
    board.table(GRANTER).pin[9] = 0
    with pytest.raises(XenPanic, match="reference 9 of domain 1 is not pinned"):
        lifecycle.release_mappings(board.machine, board.machine.domains[MAPPER])


def test_release__undoes_device_pins_too(board):
    board.map(9)
    board.table(MAPPER).map_flags[0] |= g.GNTMAP_device_map
    board.table(GRANTER).pin[9] += 1 << 16
    board.machine.frames.get_page(board.mfn(GRANTER, PAGE), GRANTER)
    lifecycle.release_mappings(board.machine, board.machine.domains[MAPPER])
    assert (board.active(9), board.references(board.mfn(GRANTER, PAGE))) == (None, 1)


# ---- death of the granter ---------------------------------------------------------------------------------------


def test_granter__that_dies_mapped_stays_listed(board):
    board.map(9)
    kill(board, GRANTER)
    assert board.machine.domains[GRANTER].is_dying == 2


def test_granter__that_dies_mapped_leaves_the_page_to_the_mapper(board):
    board.map(9)
    board.machine.store(MAPPER, 0, HOST, 8, 0x77)
    kill(board, GRANTER)
    assert board.machine.load(MAPPER, 0, HOST).value == 0x77


def test_granter__vanishes_with_the_last_unmap(board):
    handle = board.map(9)[1]
    kill(board, GRANTER)
    assert (board.unmap(handle), GRANTER in board.machine.domains) == (g.GNTST_okay, False)


def test_granter__frees_its_table_with_the_last_unmap(board):
    handle = board.map(9)[1]
    mfns = [*board.table(GRANTER).shared, *board.table(GRANTER).active_frames]
    kill(board, GRANTER)
    board.unmap(handle)
    assert all(board.machine.frames.is_free(mfn) for mfn in mfns)


def test_granter__that_is_dying_may_still_be_mapped_again_by_a_pinned_reference(board):
    """Nothing is revoked, and a pinned frame needs no look at the granter's p2m."""
    board.map(9, RO)
    kill(board, GRANTER)
    assert board.map(9, RO, HOST + 0x1000)[0] == g.GNTST_okay


def test_granter__that_is_dead_gives_no_new_page(board):
    board.map(9)
    kill(board, GRANTER)
    board.offer(10, gfn=PAGE + 1)
    assert board.map(10, host=HOST + 0x1000)[0] == g.GNTST_bad_page


def test_granter__that_mapped_its_own_page_vanishes(board):
    board.offer(3, to=MAPPER, granter=MAPPER)
    board.map(3, granter=MAPPER)
    kill(board, MAPPER)
    assert MAPPER not in board.machine.domains


def test_granter__and_mapper_that_die_together_vanish(board):
    board.map(9)
    kill(board, GRANTER)
    kill(board, MAPPER)
    assert sorted(board.machine.domains) == [DOM0, THIRD]


# ---- the IOMMU of a direct-mapped domain ---------------------------------------------------------------------------


@pytest.fixture
def dma():
    """dom0 behind an IOMMU; reference 9 is for it."""
    board = Board(dom0={"iommu": True}, iommu_shares_p2m=True)
    board.offer(9, to=DOM0)
    return board


def test_iommu__gets_a_1_to_1_entry_for_a_writer(dma):
    mfn = dma.map(9, dom=DOM0, host=0x1000000)[2] >> 12
    assert (dma.mfn(DOM0, mfn), dma.kind(DOM0, mfn)) == (mfn, abi.p2m_iommu_map_rw)


def test_iommu__gets_a_read_only_entry_for_a_reader(dma):
    mfn = dma.map(9, RO, dom=DOM0, host=0x1000000)[2] >> 12
    assert dma.kind(DOM0, mfn) == abi.p2m_iommu_map_ro


def test_iommu__is_upgraded_by_a_writer_after_a_reader(dma):
    dma.map(9, RO, dom=DOM0, host=0x1000000)
    mfn = dma.map(9, dom=DOM0, host=0x1001000)[2] >> 12
    assert dma.kind(DOM0, mfn) == abi.p2m_iommu_map_rw


def test_iommu__is_not_changed_by_a_reader_after_a_writer(dma):
    dma.map(9, dom=DOM0, host=0x1000000)
    mfn = dma.map(9, RO, dom=DOM0, host=0x1001000)[2] >> 12
    assert dma.kind(DOM0, mfn) == abi.p2m_iommu_map_rw


def test_iommu__is_downgraded_when_the_last_writer_goes(dma):
    dma.map(9, RO, dom=DOM0, host=0x1000000)
    handle, bus = dma.map(9, dom=DOM0, host=0x1001000)[1:]
    dma.unmap(handle, 0x1001000, dom=DOM0)
    assert dma.kind(DOM0, bus >> 12) == abi.p2m_iommu_map_ro


def test_iommu__is_not_changed_when_another_writer_stays(dma):
    dma.map(9, dom=DOM0, host=0x1000000)
    handle, bus = dma.map(9, dom=DOM0, host=0x1001000)[1:]
    dma.unmap(handle, 0x1001000, dom=DOM0)
    assert dma.kind(DOM0, bus >> 12) == abi.p2m_iommu_map_rw


def test_iommu__is_not_changed_when_a_reader_goes_and_a_writer_stays(dma):
    dma.map(9, dom=DOM0, host=0x1000000)
    handle, bus = dma.map(9, RO, dom=DOM0, host=0x1001000)[1:]
    dma.unmap(handle, 0x1001000, dom=DOM0)
    assert dma.kind(DOM0, bus >> 12) == abi.p2m_iommu_map_rw


def test_iommu__is_not_changed_when_another_reader_stays(dma):
    dma.map(9, RO, dom=DOM0, host=0x1000000)
    handle, bus = dma.map(9, RO, dom=DOM0, host=0x1001000)[1:]
    dma.unmap(handle, 0x1001000, dom=DOM0)
    assert dma.kind(DOM0, bus >> 12) == abi.p2m_iommu_map_ro


def test_iommu__loses_the_entry_with_the_last_mapping(dma):
    handle, bus = dma.map(9, dom=DOM0, host=0x1000000)[1:]
    dma.unmap(handle, 0x1000000, dom=DOM0)
    assert dma.kind(DOM0, bus >> 12) == abi.p2m_invalid


def test_iommu__loses_the_entry_with_the_last_reader(dma):
    handle, bus = dma.map(9, RO, dom=DOM0, host=0x1000000)[1:]
    dma.unmap(handle, 0x1000000, dom=DOM0)
    assert (dma.kind(DOM0, bus >> 12), dma.table(DOM0).dma) == (abi.p2m_invalid, {})


def test_iommu__keeps_the_entry_while_the_handle_lives(dma):
    handle, bus = dma.map(9, dom=DOM0, host=0x1000000)[1:]
    dma.unmap(handle, 0, dom=DOM0)
    assert dma.kind(DOM0, bus >> 12) == abi.p2m_iommu_map_rw


def test_iommu__has_no_entry_for_a_grant_to_oneself(dma):
    own = min(dma.machine.domains[DOM0].page_list)
    dma.offer(3, to=DOM0, gfn=own, granter=DOM0)
    dma.map(3, granter=DOM0, dom=DOM0, host=0x1000000)
    assert dma.kind(DOM0, own) == abi.p2m_ram_rw


def test_iommu__has_no_entry_without_an_iommu():
    board = Board()
    board.offer(9, to=DOM0)
    mfn = board.map(9, dom=DOM0, host=0x1000000)[2] >> 12
    assert board.kind(DOM0, mfn) == abi.p2m_invalid


def test_iommu__that_fails_undoes_the_map(dma):
    p2m = dma.machine.domains[DOM0].p2m
    insert = p2m.insert
    p2m.insert = lambda gfn, number, mfn, kind: (
        -abi.ENOMEM if kind >= abi.p2m_iommu_map_rw else insert(gfn, number, mfn, kind))
    status = dma.map(9, dom=DOM0, host=0x1000000)[0]
    assert (status, dma.active(9), dma.kind(DOM0, 0x1000), dma.table(DOM0).dma) == (
        g.GNTST_general_error, None, abi.p2m_invalid, {})


def test_iommu__that_fails_crashes_a_domain_other_than_the_hardware_domain(dma):
    dma.machine.domains[DOM0].is_hardware = False
    p2m = dma.machine.domains[DOM0].p2m
    insert = p2m.insert
    p2m.insert = lambda gfn, number, mfn, kind: (
        -abi.ENOMEM if kind >= abi.p2m_iommu_map_rw else insert(gfn, number, mfn, kind))
    dma.map(9, dom=DOM0, host=0x1000000)
    assert dma.machine.domains[DOM0].shutdown_code == 3


def test_iommu__whose_unmap_fails_keeps_its_count(dma):
    handle, bus = dma.map(9, dom=DOM0, host=0x1000000)[1:]
    # somebody mapped other RAM over the 1:1 entry
    dma.machine.domains[DOM0].p2m.insert(bus >> 12, 1, min(dma.machine.domains[DOM0].page_list), abi.p2m_ram_rw)
    assert (dma.unmap(handle, 0x1000000, dom=DOM0), dma.table(DOM0).dma) == (
        g.GNTST_general_error, {bus >> 12: [0, 1]})


def test_iommu__whose_count_is_full_refuses_the_map(dma):
    mfn = dma.map(9, RO, dom=DOM0, host=0x1000000)[2] >> 12
    dma.table(DOM0).dma[mfn] = [(1 << 31) - 1, 0]
    assert dma.map(9, RO, dom=DOM0, host=0x1001000)[0] == g.GNTST_general_error


@pytest.mark.parametrize(("arch", "most"), [("arm64", (1 << 31) - 1), ("arm32", (1 << 15) - 1)])
def test_iommu__counts_to_half_a_word(arch, most):
    dma = Board(arch, dom0={"iommu": True}, iommu_shares_p2m=True)
    dma.offer(9, to=DOM0)
    mfn = dma.map(9, RO, dom=DOM0, host=0x1000000)[2] >> 12
    dma.table(DOM0).dma[mfn] = [most - 1, 0]
    statuses = [dma.map(9, RO, dom=DOM0, host=0x1001000 + 0x1000 * i)[0] for i in range(2)]
    assert statuses == [g.GNTST_okay, g.GNTST_general_error]


def test_iommu__without_a_count_panics(dma):
    handle = dma.map(9, dom=DOM0, host=0x1000000)[1]
    dma.table(DOM0).dma.clear()
    dma.write(DOM0, dma.address(DOM0), g.UNMAP.pack(0x1000000, 0, handle, 0))
    assert dma.observe(DOM0, g.GNTTABOP_unmap_grant_ref, dma.address(DOM0), 1).kind == "panic"


# ---- snapshots and projection ----------------------------------------------------------------------------------------


def test_snapshot__brings_grants_back(board):
    saved = board.machine.snapshot()
    before = project_grants(board.machine)
    board.map(9)
    board.one(GRANTER, g.GNTTABOP_setup_table, g.SETUP, SELF, 3, 0, 0x40000800)
    board.machine.restore(saved)
    assert (project_grants(board.machine), board.flags(9)) == (before, g.GTF_permit_access)


def test_snapshot__may_be_restored_twice(board):
    saved = board.machine.snapshot()
    seen = []
    for _ in range(2):
        seen.append(board.map(9))
        board.machine.restore(saved)
    assert seen[0] == seen[1]


def test_projection__has_a_row_for_each_table(board):
    board.map(9)
    assert project_grants(board.machine)["grant_domain"] == {
        (DOM0,): (1, 1, 0, 0), (GRANTER,): (1, 1, 0, 0), (MAPPER,): (1, 1, 0, 1), (THIRD,): (1, 1, 0, 0)}


def test_projection__names_what_is_mapped(board):
    board.map(9, RO)
    assert project_grants(board.machine)["mapping"] == {(MAPPER, 0): (GRANTER, 9, RO)}


def test_projection__names_what_is_pinned(board):
    board.map(9, RO)
    assert project_grants(board.machine)["active"] == {
        (GRANTER, 9): (1, 0, 0, 0, board.mfn(GRANTER, PAGE), 0, 4096, False, GRANTER, 9)}


def test_projection__tells_the_four_counters_apart(board):
    board.table(GRANTER).pin[9] = 4 << 24 | 3 << 16 | 2 << 8 | 1
    assert project_grants(board.machine)["active"][GRANTER, 9][:4] == (2, 1, 4, 3)


def test_projection__lists_the_frames_in_order():
    board = Board(version=2)
    board.one(GRANTER, g.GNTTABOP_set_version, g.SET_VERSION, 2)
    rows = project_grants(board.machine)
    table = board.table(GRANTER)
    assert (rows["grant_frame"][GRANTER, 0], rows["status_frame"][GRANTER, 0]) == (
        (table.shared[0],), (table.status[0],))
