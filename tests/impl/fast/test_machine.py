"""The machine: boot, loads and stores, dispatch, snapshots."""

import pytest

from impl.boards.ram import Bank, Ram
from impl.fast import abi, p2m
from impl.fast.errors import BadConfig, BadStimulus, NotModelled
from impl.fast.machine import Config, Machine
from impl.fast.projection import project
from tests.impl.fast.board import DOMU_BASE, Guest, board, check_heap, dom0, domu

BASE = DOMU_BASE << 12
HOLE = DOMU_BASE + 0x800


@pytest.fixture
def machine():
    return board(domains=[dom0(), domu(1, max_pages=300), domu(2)])


# ---- boot ----------------------------------------------------------------------------------------------------------


def test_boot__dom0_is_mapped_one_to_one(machine):
    zero = machine.domains[0]
    assert all(p2m.lookup(zero, mfn).mfn == mfn for mfn in zero.page_list)


def test_boot__domus_are_mapped_from_their_base(machine):
    one = machine.domains[1]
    assert [p2m.lookup(one, gfn).type for gfn in (DOMU_BASE - 1, DOMU_BASE, DOMU_BASE + 255, DOMU_BASE + 256)] == [
        0, 1, 1, 0]


@pytest.mark.parametrize("arch", ["arm64", "arm32"])
def test_boot__leaves_the_heap_in_order(arch):
    check_heap(board(arch))


def test_boot__bounds_dom0s_grant_table_by_xens_text():
    assert board(xen_text_pages=40).domains[0].max_grant_frames == 40


def test_boot__gives_the_default_stage_2_pool():
    machine = board(domains=[domu(1, p2m_pool_pages=None)])
    assert machine.domains[1].p2m.pool_total == 512


def test_boot__maps_the_interrupt_controller_window():
    machine = board(gic_frames=(0x3002, 0x8010, 0x8040, 2))
    found = [p2m.lookup(machine.domains[d], gfn) for d, gfn in ((0, 0x8011), (1, 0x3003))]
    assert [(entry.mfn, entry.type) for entry in found] == [(0x8041, abi.p2m_mmio_direct_dev)] * 2


@pytest.mark.parametrize(("domains", "message"), [
    ([domu(1), domu(1)], "twice"), ([domu(0x7FF0)], "no domain id"), ([domu(1, pages=1 << 20)], "does not hold"),
    ([domu(1, vcpus=0)], "not possible"), ([domu(1, target=5)], "no other domain"),
    ([domu(1, base_gfn=1 << 28)], "mapped"),
    ([domu(1, max_grant_frames=65)], "could not be created"), ([domu(1, p2m_pool_pages=1 << 16)], "pool"),
])
def test_boot__refuses(domains, message):
    with pytest.raises(BadConfig, match=message):
        board(domains=domains)


def test_boot__refuses_a_board_smaller_than_xen():
    with pytest.raises(BadConfig, match="does not hold Xen"):
        Machine(Ram([Bank(0x40000000, 0x8000)]), Config())


def test_boot__refuses_arm32_with_an_iommu_of_fewer_bits():
    with pytest.raises(BadConfig, match="40 bits"):
        board("arm32", ipa_bits=36)


def test_boot__refuses_an_arm64_board_of_too_few_bits():
    with pytest.raises(BadConfig, match="too small"):
        board(pa_bits=30)


@pytest.mark.parametrize(("options", "message"), [
    ({"xsm": "flask"}, "xsm is 'flask'"), ({"vmid_bits": 9}, "vmid_bits"), ({"grant_max_version": 3}, "max_version"),
    ({"gic_version": 4}, "gic_version"), ({"xen_pages": 0}, "xen_pages"), ({"opt_max_grant_frames": 0}, "at least 1"),
    ({"domains": [domu(1, iomem=((5, 0),))]}, "device frames"), ({"domains": [domu(1, base_gfn=-1)]}, "impossible"),
])
def test_boot__refuses_options(options, message):
    with pytest.raises(BadConfig, match=message):
        board(**options)


def test_boot__refuses_an_unknown_architecture():
    with pytest.raises(BadConfig, match="arch is 'riscv'"):
        board("riscv")


def test_boot__of_a_32_bit_guest_on_arm64():
    machine = board(domains=[domu(1, width=32)])
    assert machine.hypercall(1, 0, {12: abi.HYPERCALL_MEMORY_OP, 0: 2}).registers[0] == machine.max_page


def test_boot__places_arm32s_heap_by_xens_rule():
    machine = Machine(Ram([Bank(0x40000000, 256 << 20)]), Config(arch="arm32"))
    assert machine.frames.xenheap == (0x4E000, 0x2000)


def test_boot__uses_every_bank():
    machine = Machine(Ram([Bank(0x40000000, 8 << 20), Bank(0x80000000, 8 << 20)]), Config(domains=[dom0(pages=64)]))
    assert machine.max_page == 0x80800
    check_heap(machine)


# ---- accesses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_store__is_loaded_again(machine, size):
    value = 0x1122334455667788 & (1 << 8 * size) - 1
    machine.store(1, 0, BASE + 40, size, value)
    assert machine.load(1, 0, BASE + 40, size).value == value


def test_store__across_a_page(machine):
    machine.store(1, 0, BASE + 0xFFD, 8, 0x1122334455667788)
    assert machine.load(1, 0, BASE + 0x1000, 4).value == 0x22334455


def test_store__across_into_a_hole_stores_nothing(machine):
    end = (DOMU_BASE + 256) << 12
    assert machine.store(1, 0, end - 4, 8, (1 << 64) - 1).fault[2] == end
    assert machine.load(1, 0, end - 4, 4).value == 0


def test_store__tells_the_frames_written(machine):
    machine.load(1, 0, BASE, 8)
    assert machine.store(1, 0, BASE, 8, 1).written == {p2m.lookup(machine.domains[1], DOMU_BASE).mfn}


def test_load__of_a_hole_is_an_abort_without_status(machine):
    machine.load(1, 0, BASE, 8)
    assert machine.load(1, 0, HOLE << 12, 8).fault == ("translation", 2, HOLE << 12, 0x96000000)


def test_load__of_a_hole_on_arm32():
    assert board("arm32").load(1, 0, HOLE << 12, 4).fault == ("translation", 1, HOLE << 12, 2)


def test_fetch__of_a_hole_is_an_instruction_abort(machine):
    assert machine.fetch(1, 0, HOLE << 12).fault[3] == 0x86000000


def test_fetch__reads_four_bytes(machine):
    machine.store(1, 0, BASE, 8, 0x1122334455667788)
    assert machine.fetch(1, 0, BASE).value == 0x55667788


def test_store__to_a_read_only_grant_is_stuck(machine):
    one = machine.domains[1]
    p2m.insert(one, HOLE, p2m.lookup(machine.domains[2], DOMU_BASE).mfn, 0, abi.p2m_grant_map_ro)
    assert machine.store(1, 0, HOLE << 12, 8, 1).fault[:2] == ("permission", 3)
    assert machine.load(1, 0, HOLE << 12, 8).kind == "value"


def test_access__of_a_device_is_no_ram(machine):
    p2m.insert(machine.domains[1], HOLE, 0x1000, 0, abi.p2m_mmio_direct_dev)
    machine.load(1, 0, HOLE << 12, 8)
    assert machine.store(1, 0, HOLE << 12, 8, 5).written == frozenset()
    assert machine.load(1, 0, HOLE << 12, 8).value == 0


def test_access__by_a_paused_domain_is_stuck(machine):
    machine.domains[1].controller_pause_count = 1
    assert machine.load(1, 0, BASE, 8).kind == "stuck"


def test_set_way__invalidates_the_root_once(machine):
    one = machine.domains[1]
    machine.load(1, 0, BASE, 8)
    machine.set_way(1, 0)
    assert not machine.memory.get(one.p2m.root, 1) & 1
    machine.load(1, 0, BASE, 8)
    machine.set_way(1, 0)
    assert machine.memory.get(one.p2m.root, 1) & 1


def test_toggle_cache__flushes_again_and_ends_the_trap(machine):
    one = machine.domains[1]
    machine.set_way(1, 0)
    machine.load(1, 0, BASE, 8)
    machine.toggle_cache(1, 0, enabled=True)
    assert not machine.memory.get(one.p2m.root, 1) & 1
    assert not one.vcpus[0].traps_vm


def test_set_way__is_undefined_with_shared_tables():
    machine = board(iommu_shares_p2m=True, domains=[domu(1, iommu=True)])
    assert machine.set_way(1, 0).fault[0] == "undefined"


@pytest.mark.parametrize(("call", "message"), [
    (lambda m: m.load(9, 0, BASE, 8), "no domain 9"), (lambda m: m.load(1, 3, BASE, 8), "no vCPU 3"),
    (lambda m: m.load(1, 0, BASE, 3), "no access has 3 bytes"), (lambda m: m.load(1, 0, -1, 8), "no address"),
    (lambda m: m.store(1, 0, BASE, 1, 256), "does not fit"), (lambda m: m.fetch(1, 0, BASE + 2), "not aligned"),
    (lambda m: m.hypercall(1, 0, [0] * 30), "not 31"), (lambda m: m.hypercall(1, 0, {31: 0}), "no general register 31"),
    (lambda m: m.preempt_after(0), "number 1"),
])
def test_stimulus__that_no_guest_can_give(machine, call, message):
    with pytest.raises(BadStimulus, match=message):
        call(machine)


# ---- dispatch ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 6, 16, 19, 22, 37, 40, 63, 64, 1 << 40])
def test_hypercall__that_arm_lacks(machine, number):
    one = Guest(machine, 1)
    assert one.result(one.call(number)) == -abi.ENOSYS


def test_hypercall__that_is_not_modelled(machine):
    with pytest.raises(NotModelled, match="hypercall 13"):
        Guest(machine, 1).call(13)


def test_hypercall__changes_the_result_register_only(machine):
    before = list(range(100, 131))
    before[16] = abi.HYPERCALL_MEMORY_OP
    before[0] = 2
    seen = machine.hypercall(1, 0, before)
    assert seen.registers[1:] == before[1:]


def test_hypercall__on_arm32_numbers_in_r12():
    machine = board("arm32")
    seen = machine.hypercall(1, 0, {12: abi.HYPERCALL_MEMORY_OP, 0: 2})
    assert seen.registers[0] == machine.max_page


def test_hypercall__by_a_32_bit_guest_of_arm64_has_a_32_bit_result(machine):
    machine.domains[1].width = 32
    seen = machine.hypercall(1, 0, {12: 0})
    assert seen.registers[0] == -abi.ENOSYS & abi.MASK32


def test_preempt__is_forgotten_after_one_hypercall(machine):
    one = Guest(machine, 1)
    machine.preempt_after(5)
    one.populate([HOLE])
    assert not one.reservation(abi.XENMEM_populate_physmap, [HOLE + i for i in range(9)]).restart


# ---- snapshots -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["arm64", "arm32"])
def test_snapshot__brings_everything_back(arch):
    machine = board(arch)
    before, snapshot = project(machine), machine.snapshot()
    zero, one = Guest(machine, 0), Guest(machine, 1)
    one.put(BASE + 64, b"changed!")
    one.decrease([DOMU_BASE + 7])
    zero.foreign(1, DOMU_BASE + 9, 0x90000)
    zero.domctl(2, 2)
    machine.restore(snapshot)
    assert (project(machine), machine.load(1, 0, BASE + 64, 8).value) == (before, 0)


def test_snapshot__may_be_restored_twice(machine):
    snapshot = machine.snapshot()
    seen = []
    for _ in range(2):
        one = Guest(machine, 1)
        seen.append((one.populate([HOLE]), project(machine)))
        machine.restore(snapshot)
    assert seen[0] == seen[1]


def test_snapshot__nests(machine):
    outer = machine.snapshot()
    machine.store(1, 0, BASE, 8, 1)
    inner = machine.snapshot()
    machine.store(1, 0, BASE, 8, 2)
    machine.restore(inner)
    assert machine.load(1, 0, BASE, 8).value == 1
    machine.restore(outer)
    assert machine.load(1, 0, BASE, 8).value == 0


def test_dirty_pages__are_told_once(machine):
    machine.dirty_pages()
    machine.store(1, 0, BASE, 8, 1)
    assert p2m.lookup(machine.domains[1], DOMU_BASE).mfn in machine.dirty_pages()
    assert machine.dirty_pages() == set()
