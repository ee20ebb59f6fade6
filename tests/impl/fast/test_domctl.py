"""domctl: the checks common to all, and each operation."""

from struct import pack

import pytest

from impl.fast import abi, domctl, p2m
from impl.fast.errors import NotModelled
from tests.impl.fast.board import ARGUMENT, DOMU_BASE, Guest, board, check_heap, dom0, domu, guests

DEVICE = 0x9000


@pytest.fixture
def three():
    return guests(board(domains=[dom0(iomem=((DEVICE, 0x100),)), domu(1), domu(2)]))


def creation(**options):
    fields = {"ssidref": 0, "handle": bytes(16), "flags": 3, "iommu_opts": 0, "max_vcpus": 1, "ports": -1,
              "grant_frames": -1, "maptrack_frames": -1, "grant_opts": 1, "vmtrace": 0, "pool": 0, "gic": 0, "tee": 0,
              "spis": 0, "clock": 0}
    return domctl.CREATE.pack(*{**fields, **options}.values())


def create(guest, domid=0, **options):
    return guest.domctl(domctl.CREATEDOMAIN, domid, creation(**options))


# ---- common --------------------------------------------------------------------------------------------------------


def test_domctl__that_can_not_be_read(three):
    assert three[0].result(three[0].call(abi.HYPERCALL_DOMCTL, 0)) == -abi.EFAULT


def test_domctl__of_another_version(three):
    assert three[0].domctl(domctl.MAX_MEM, 1, version=0x14) == -abi.EACCES


def test_domctl__of_an_unknown_domain(three):
    assert three[0].domctl(domctl.MAX_MEM, 9) == -abi.ESRCH


def test_domctl__does_not_know_self(three):
    assert three[0].domctl(domctl.MAX_MEM, abi.DOMID_SELF) == -abi.ESRCH


@pytest.mark.parametrize("command", [1, 2, 3, 4, 5, 11, 20, 39, 46, 85, 86])
def test_domctl__needs_privilege(three, command):
    assert three[1].domctl(command, 2) == -abi.EPERM


@pytest.mark.parametrize("command", [10, 21, 36, 72, 84, 999, 1000])
def test_domctl__that_arm_lacks(three, command):
    assert three[0].domctl(command, 1) == -abi.ENOSYS


def test_domctl__that_is_not_modelled(three):
    with pytest.raises(NotModelled, match="domctl 9"):
        three[0].domctl(9, 1)


# ---- createdomain --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["arm64", "arm32"])
def test_create__makes_a_paused_domain_without_memory(arch):
    zero = Guest(board(arch), 0)
    assert create(zero, 7) == 0
    made = zero.machine.domains[7]
    assert (made.controller_pause_count, made.tot_pages, made.max_pages, made.p2m.pool_total) == (1, 0, 0, 16)


def test_create__tells_the_id_and_the_interrupt_controller(three):
    assert create(three[0]) == 0
    argument = three[0].base + ARGUMENT
    assert (three[0].get(argument + 8, 2), three[0].get(argument + 16 + 56, 2)[0]) == (pack("<H", 3), 1)


def test_create__searches_on_after_the_id_given_last(three):
    for domid in (3, 4):
        assert create(three[0]) == 0
        assert three[0].get(three[0].base + ARGUMENT + 8, 2) == pack("<H", domid)
        three[0].domctl(domctl.DESTROYDOMAIN, domid)


def test_create__uses_up_an_id_when_it_fails(three):
    assert create(three[0], flags=0) == -abi.EINVAL
    create(three[0])
    assert 4 in three[0].machine.domains


def test_create__of_a_used_id(three):
    assert create(three[0], 2) == -abi.EEXIST


@pytest.mark.parametrize("options", [
    {"flags": 0x103}, {"grant_opts": 0x11}, {"max_vcpus": 0}, {"flags": 2}, {"flags": 0x23}, {"iommu_opts": 1},
    {"vmtrace": 4096}, {"flags": 0x83}, {"flags": 0x13}, {"flags": 1}, {"gic": 3}, {"max_vcpus": 9}, {"tee": 1},
    {"spis": 961}, {"grant_opts": 0}, {"grant_opts": 2}, {"grant_frames": 65}, {"grant_frames": 0},
    {"maptrack_frames": 1025},
])
def test_create__refuses(three, options):
    before = three[0].machine.frames.total_avail
    assert create(three[0], 7, **options) == -abi.EINVAL
    assert before == three[0].machine.frames.total_avail


def test_create__takes_960_interrupts_and_no_maptrack(three):
    assert create(three[0], 7, spis=960, maptrack_frames=0) == 0


@pytest.mark.parametrize(("options", "error"), [({"gic": 2}, abi.ENODEV), ({"pool": 1}, abi.ESRCH)])
def test_create__unwinds(three, options, error):
    before = three[0].machine.frames.total_avail
    assert create(three[0], 7, **options) == -error
    assert before == three[0].machine.frames.total_avail


def test_create__runs_out_of_vmids(three):
    three[0].machine.vmids |= set(range(256))
    assert create(three[0], 7) == -abi.EBUSY


def test_create__runs_out_of_memory():
    machine = board(megabytes=8, domains=[dom0(pages=512)])
    zero = Guest(machine, 0)
    while machine.frames.total_avail > 10:
        machine.frames.alloc_domheap(None, 0)
    before = machine.frames.total_avail
    assert create(zero, 7) == -abi.ENOMEM
    assert before == machine.frames.total_avail


def test_create__and_run_a_domain(three):
    zero = three[0]
    assert create(zero, 7) == 0
    assert zero.domctl(domctl.SET_PAGING_MEMPOOL_SIZE, 7, pack("<Q", 32 << 12)) == 0
    assert zero.domctl(domctl.MAX_MEM, 7, pack("<Q", 64 * 4)) == 0
    assert zero.domctl(domctl.MAX_VCPUS, 7, pack("<I", 1)) == 0
    assert zero.domctl(domctl.SET_ADDRESS_SIZE, 7, pack("<I", 64)) == 0
    assert zero.populate([DOMU_BASE + i for i in range(8)], domid=7) == 8
    context = bytearray(352)
    context[0] = 1
    context[264] = 0x5
    address = zero.base + 0x2000
    zero.put(address, bytes(context))
    assert zero.domctl(domctl.SETVCPUCONTEXT, 7, pack("<IIQ", 0, 0, address)) == 0
    assert zero.machine.load(7, 0, DOMU_BASE << 12, 8).kind == "stuck"
    assert zero.domctl(domctl.UNPAUSEDOMAIN, 7) == 0
    assert zero.machine.load(7, 0, DOMU_BASE << 12, 8).kind == "value"


# ---- others --------------------------------------------------------------------------------------------------------


def test_pause__counts_to_255(three):
    zero = three[0]
    three[1].domain.controller_pause_count = 255
    assert zero.domctl(domctl.PAUSEDOMAIN, 1) == -abi.EOVERFLOW


def test_pause__of_oneself(three):
    assert three[0].domctl(domctl.PAUSEDOMAIN, 0) == -abi.EINVAL


def test_unpause__of_a_running_domain(three):
    assert three[0].domctl(domctl.UNPAUSEDOMAIN, 1) == -abi.EINVAL


def test_pause__and_unpause_do_not_invalidate_the_root_again(three):
    zero, one, _ = three
    zero.machine.load(1, 0, one.base, 8)
    zero.domctl(domctl.PAUSEDOMAIN, 1)
    zero.domctl(domctl.UNPAUSEDOMAIN, 1)
    assert zero.machine.memory.get(one.domain.p2m.root, 1) & 1


def test_getdomaininfo__tells_pages(three):
    zero = three[0]
    assert zero.domctl(domctl.GETDOMAININFO, 1) == 0
    info = domctl.DOMAIN_INFO.unpack(zero.union(120))
    assert (info[0], info[2], info[3], info[4]) == (1, 0xFFFF0102, 256, 256)


def test_getdomaininfo__gives_the_next_domain(three):
    zero = three[0]
    zero.domctl(domctl.DESTROYDOMAIN, 1)
    assert zero.domctl(domctl.GETDOMAININFO, 1) == 0
    assert zero.get(zero.base + ARGUMENT + 8, 2) == pack("<H", 2)


@pytest.mark.parametrize(("domid", "error"), [(3, abi.ESRCH), (0x7FF0, abi.EINVAL)])
def test_getdomaininfo__of_nobody(three, domid, error):
    assert three[0].domctl(domctl.GETDOMAININFO, domid) == -error


def test_getdomaininfo__is_open_to_the_device_model():
    machine = board(domains=[dom0(), domu(1, target=2), domu(2)])
    assert Guest(machine, 1).domctl(domctl.GETDOMAININFO, 2) == 0


def test_max_mem__may_fall_below_what_is_used(three):
    assert three[0].domctl(domctl.MAX_MEM, 1, pack("<Q", 7)) == 0
    assert three[1].domain.max_pages == 1


@pytest.mark.parametrize(("domid", "number"), [(0, 1), (1, 2)])
def test_max_vcpus__refuses(three, domid, number):
    assert three[0].domctl(domctl.MAX_VCPUS, domid, pack("<I", number)) == -abi.EINVAL


def test_mempool__is_told_in_bytes(three):
    zero = three[0]
    assert zero.domctl(domctl.GET_PAGING_MEMPOOL_SIZE, 1) == 0
    assert zero.union(8) == pack("<Q", 32 << 12)


@pytest.mark.parametrize(("size", "rc"), [(40 << 12, 0), (1, -abi.EINVAL), (0, -abi.ENOMEM), (1 << 40, -abi.ENOMEM)])
def test_mempool__is_set(three, size, rc):
    assert three[0].domctl(domctl.SET_PAGING_MEMPOOL_SIZE, 1, pack("<Q", size)) == rc


def test_mempool__size_beyond_32_bits_of_pages_on_arm32():
    assert Guest(board("arm32"), 0).domctl(domctl.SET_PAGING_MEMPOOL_SIZE, 1, pack("<Q", 1 << 44)) == -abi.EINVAL


def test_mempool__is_preempted(three):
    zero = three[0]
    zero.machine.preempt_after(1)
    seen = zero.domctl_raw(domctl.SET_PAGING_MEMPOOL_SIZE, 1, pack("<Q", 40 << 12))
    assert (seen.restart, seen.registers[0], three[1].domain.p2m.pool_total) == (True, zero.base + ARGUMENT, 33)


def mapping(gfn, mfn, number, add=1):
    return pack("<QQQII", gfn, mfn, number, add, 0)


def test_memory_mapping__maps_device_frames(three):
    zero = three[0]
    assert zero.domctl(domctl.IOMEM_PERMISSION, 1, pack("<QQB", DEVICE, 4, 1)) == 0
    assert zero.domctl(domctl.MEMORY_MAPPING, 1, mapping(0x9000, DEVICE, 4)) == 0
    assert p2m.lookup(three[1].domain, 0x9003)[:2] == (DEVICE + 3, abi.p2m_mmio_direct_dev)


def test_memory_mapping__unmaps(three):
    zero = three[0]
    zero.domctl(domctl.IOMEM_PERMISSION, 1, pack("<QQB", DEVICE, 4, 1))
    zero.domctl(domctl.MEMORY_MAPPING, 1, mapping(0x9000, DEVICE, 4))
    assert zero.domctl(domctl.MEMORY_MAPPING, 1, mapping(0x9000, DEVICE, 2, 0)) == 0
    assert [p2m.lookup(three[1].domain, gfn).type for gfn in (0x9001, 0x9002)] == [0, abi.p2m_mmio_direct_dev]


def test_memory_mapping__of_ram_that_is_mapped_there_is_not_undone(three):
    zero = three[0]
    zero.domctl(domctl.IOMEM_PERMISSION, 1, pack("<QQB", DEVICE, 4, 1))
    assert zero.domctl(domctl.MEMORY_MAPPING, 1, mapping(DOMU_BASE, DEVICE, 1, 0)) == -abi.EILSEQ


@pytest.mark.parametrize(("union", "error"), [
    (mapping(0, DEVICE, 0), abi.EINVAL), (mapping(0, (1 << 64) - 1, 2), abi.EINVAL),
    (mapping(0, 1 << 36, 1), abi.EINVAL), (mapping((1 << 64) - 1, DEVICE, 2), abi.EINVAL),
    (mapping(0, DEVICE, 65), abi.E2BIG), (mapping(0, DEVICE, 1), abi.EPERM),
])
def test_memory_mapping__refuses(three, union, error):
    assert three[0].domctl(domctl.MEMORY_MAPPING, 1, union) == -error


def test_iomem_permission__needs_the_callers_own(three):
    assert three[0].domctl(domctl.IOMEM_PERMISSION, 1, pack("<QQB", DEVICE + 0x100, 1, 1)) == -abi.EPERM


def test_iomem_permission__is_taken_back_in_parts(three):
    three[0].domctl(domctl.IOMEM_PERMISSION, 1, pack("<QQB", DEVICE, 9, 1))
    three[0].domctl(domctl.IOMEM_PERMISSION, 1, pack("<QQB", DEVICE + 4, 1, 0))
    assert three[1].domain.iomem == [(DEVICE, DEVICE + 3), (DEVICE + 5, DEVICE + 8)]


@pytest.mark.parametrize(("first", "number", "left"), [
    (DEVICE + 3, 2, [(DEVICE, DEVICE + 2), (DEVICE + 5, DEVICE + 5)]),
    (DEVICE + 3, 3, [(DEVICE, DEVICE + 2)]),
    (DEVICE + 2, 3, [(DEVICE, DEVICE + 1), (DEVICE + 5, DEVICE + 5)]),
    (DEVICE + 3, 1, [(DEVICE, DEVICE + 1), (DEVICE + 4, DEVICE + 5)]),
    (DEVICE + 1, 4, [(DEVICE, DEVICE), (DEVICE + 5, DEVICE + 5)]),
    (DEVICE + 6, 2, [(DEVICE, DEVICE + 1), (DEVICE + 4, DEVICE + 5)])])
def test_iomem_permission__taken_back_from_within_a_hole_gives_what_is_before(three, first, number, left):
    for each in (DEVICE, DEVICE + 4):
        three[0].domctl(domctl.IOMEM_PERMISSION, 1, pack("<QQB", each, 2, 1))
    assert three[0].domctl(domctl.IOMEM_PERMISSION, 1, pack("<QQB", first, number, 0)) == 0
    assert three[1].domain.iomem == left


def test_iomem_permission__of_no_frames(three):
    assert three[0].domctl(domctl.IOMEM_PERMISSION, 1, pack("<QQB", DEVICE, 0, 1)) == -abi.EINVAL


def test_iomem__raises_the_extent_limit_of_a_domain(three):
    from impl.fast.memory_op import max_order
    before = max_order(three[1].domain)
    three[0].domctl(domctl.IOMEM_PERMISSION, 1, pack("<QQB", DEVICE, 1, 1))
    assert (before, max_order(three[1].domain), max_order(three[0].domain)) == (9, 10, 18)


@pytest.mark.parametrize(("start", "number", "rc"), [(0, 1 << 18, 0), (0, (1 << 18) + 1, -abi.EINVAL),
                                                     ((1 << 64) - 1, 2, -abi.EINVAL)])
def test_cacheflush__answers(three, start, number, rc):
    assert three[0].domctl(domctl.CACHEFLUSH, 1, pack("<QQ", start, number)) == rc


def test_set_target__gives_rights_once(three):
    zero, one, two = three
    assert zero.domctl(domctl.SET_TARGET, 1, pack("<H", 2)) == 0
    assert one.statistic(abi.XENMEM_current_reservation, 2) == 256
    assert zero.domctl(domctl.SET_TARGET, 1, pack("<H", 0)) == -abi.EINVAL
    assert two.statistic(abi.XENMEM_current_reservation, 1) == -abi.EPERM


@pytest.mark.parametrize(("target", "error"), [(9, abi.ESRCH), (1, abi.EINVAL)])
def test_set_target__refuses(three, target, error):
    assert three[0].domctl(domctl.SET_TARGET, 1, pack("<H", target)) == -error


@pytest.mark.parametrize(("size", "rc"), [(32, 0), (64, 0), (16, -abi.EINVAL)])
def test_address_size__of_an_empty_domain(three, size, rc):
    create(three[0], 7)
    assert three[0].domctl(domctl.SET_ADDRESS_SIZE, 7, pack("<I", size)) == rc


def test_address_size__of_a_domain_with_memory(three):
    assert three[0].domctl(domctl.SET_ADDRESS_SIZE, 1, pack("<I", 32)) == -abi.EBUSY


@pytest.mark.parametrize(("mode", "rc"), [(0x13, 0), (0x5, -abi.EINVAL)])
def test_set_context__of_a_domain_whose_width_was_not_set(three, mode, rc):
    zero = three[0]
    create(zero, 7)
    zero.domctl(domctl.MAX_VCPUS, 7, pack("<I", 1))
    context = bytearray(352)
    context[264] = mode
    zero.put(zero.base + 0x2000, bytes(context))
    assert zero.domctl(domctl.SETVCPUCONTEXT, 7, pack("<IIQ", 0, 0, zero.base + 0x2000)) == rc


@pytest.mark.parametrize("mode", [0x10, 0x9, 0xD, 0x1])
def test_set_context__refuses_modes_that_no_64_bit_guest_has(three, mode):
    zero = three[0]
    create(zero, 7)
    zero.domctl(domctl.MAX_VCPUS, 7, pack("<I", 1))
    zero.domctl(domctl.SET_ADDRESS_SIZE, 7, pack("<I", 64))
    context = bytearray(352)
    context[264] = mode
    zero.put(zero.base + 0x2000, bytes(context))
    assert zero.domctl(domctl.SETVCPUCONTEXT, 7, pack("<IIQ", 0, 0, zero.base + 0x2000)) == -abi.EINVAL


def test_domctl__leaves_the_heap_in_order(three):
    create(three[0], 7)
    three[0].domctl(domctl.DESTROYDOMAIN, 7)
    check_heap(three[0].machine)
