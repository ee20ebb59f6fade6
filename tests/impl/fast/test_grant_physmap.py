"""Table frames in a guest's address space: XENMEM_add_to_physmap with its grant_table space, and acquire_resource."""

import pytest

from impl.fast import abi
from impl.fast.grant import layouts as g
from impl.fast.grant import physmap
from tests.impl.fast.test_grant_support import ARGS, DOM0, GRANTER, MAPPER, SELF, Board

STATUS = 1 << 31


@pytest.fixture(params=["arm64", "arm32"])
def board(request):
    return Board(request.param)


@pytest.fixture
def second():
    board = Board(version=2)
    board.one(MAPPER, g.GNTTABOP_set_version, g.SET_VERSION, 2)
    return board


def memory_op(board, dom, op, address):
    seen = board.machine.hypercall(dom, 0, {12 if board.arm32 else 16: abi.HYPERCALL_MEMORY_OP, 0: op, 1: address})
    return board.result(seen)


def add(board, idx, gfn=0x38000, dom=MAPPER):
    board.write(dom, ARGS, abi.ADD_TO_PHYSMAP.pack(SELF, 0, abi.XENMAPSPACE_grant_table, idx, gfn))
    return memory_op(board, dom, abi.XENMEM_add_to_physmap, ARGS)


def test_add_to_physmap__maps_the_table_frame(board):
    assert (add(board, 0), board.mfn(MAPPER, 0x38000)) == (0, board.table(MAPPER).shared[0])


def test_add_to_physmap__holds_no_reference_afterwards(board):
    add(board, 0)
    assert board.references(board.table(MAPPER).shared[0]) == 1


def test_add_to_physmap__lets_the_guest_write_its_entries(board):
    add(board, 0, dom=GRANTER)
    board.machine.store(GRANTER, 0, 0x38000000 + 9 * 8, 8, g.GTF_permit_access | MAPPER << 16 | 0x40010 << 32)
    assert board.map(9, host=0x38100000)[0] == g.GNTST_okay


def test_add_to_physmap__shows_the_guest_the_marks(board):
    add(board, 0, dom=GRANTER)
    board.offer(9)
    board.map(9, host=0x38100000)
    assert board.machine.load(GRANTER, 0, 0x38000000 + 9 * 8, 2).value == (
        g.GTF_permit_access | g.GTF_reading | g.GTF_writing)


def test_add_to_physmap__grows_the_table_to_the_frame(board):
    assert (add(board, 5), len(board.table(MAPPER).shared)) == (0, 6)


@pytest.mark.parametrize("idx", [64, STATUS, 0xFFFFFFFF])
def test_add_to_physmap__beyond_the_maximum_is_einval(board, idx):
    assert (add(board, idx), len(board.table(MAPPER).shared)) == (-abi.EINVAL, 1)


def test_add_to_physmap__cuts_the_index_to_32_bits(board):
    assert (add(board, 1 << 32), board.mfn(MAPPER, 0x38000)) == (0, board.table(MAPPER).shared[0])


def test_add_to_physmap__of_a_frame_mapped_elsewhere_is_ebusy(board):
    add(board, 0)
    assert add(board, 0, 0x38001) == -abi.EBUSY


def test_add_to_physmap__of_a_frame_without_references_is_ebusy(board):
    frames, mfn = board.machine.frames, board.table(MAPPER).shared[0]
    frames.get_page(mfn, MAPPER)
    frames.put_page_alloc_ref(mfn)
    frames.put_page(mfn)
    assert add(board, 0) == -abi.EBUSY


def test_add_to_physmap__without_memory_is_einval(board):
    board.machine.frames.alloc_xenheap = lambda order=0: None
    assert add(board, 1) == -abi.EINVAL


def test_add_to_physmap_v2__with_bit_31_maps_a_status_frame(second):
    assert (add(second, STATUS), second.mfn(MAPPER, 0x38000)) == (0, second.table(MAPPER).status[0])


def test_add_to_physmap_v2__of_a_later_status_frame_grows_the_table_to_eight_times(second):
    assert (add(second, STATUS | 1), len(second.table(MAPPER).shared), len(second.table(MAPPER).status)) == (0, 16, 2)


def test_add_to_physmap_v2__of_a_status_frame_beyond_the_maximum_is_einval(second):
    assert add(second, STATUS | 8) == -abi.EINVAL


@pytest.mark.parametrize("idx", [0x7FFFFFFF, 1 << 29])
def test_add_to_physmap_v2__of_a_huge_status_frame_is_einval(second, idx):
    assert add(second, STATUS | idx) == -abi.EINVAL


# ---- acquire_resource --------------------------------------------------------------------------------------------


def acquire(board, number, frame, count, gfns):
    """By dom0, of the granter's table. Returns the result."""
    address = board.address(DOM0)
    board.write(DOM0, address + 0x800, b"".join(abi.U64.pack(gfn) for gfn in gfns))
    board.write(DOM0, address, abi.ACQUIRE_RESOURCE.pack(
        GRANTER, abi.XENMEM_resource_grant_table, number, count, 0, frame, address + 0x800 if gfns else 0))
    return memory_op(board, DOM0, abi.XENMEM_acquire_resource, address)


def test_acquire_resource__maps_table_frames_of_another_domain(board):
    assert (acquire(board, g.RESOURCE_SHARED, 0, 2, [0x1000, 0x1001]),
            [board.mfn(DOM0, 0x1000 + i) for i in range(2)]) == (0, board.table(GRANTER).shared)


def test_acquire_resource__grows_the_table(board):
    acquire(board, g.RESOURCE_SHARED, 3, 1, [0x1000])
    assert len(board.table(GRANTER).shared) == 4


def test_acquire_resource__tells_the_size(board):
    acquire(board, g.RESOURCE_SHARED, 0, 0, [])
    assert abi.ACQUIRE_RESOURCE.unpack(board.read(DOM0, board.address(DOM0), 32))[3] == 64


def test_acquire_resource__beyond_the_maximum_is_einval(board):
    assert acquire(board, g.RESOURCE_SHARED, 64, 1, [0x1000]) == -abi.EINVAL


def test_acquire_resource__of_status_frames_is_einval(board):
    assert acquire(board, g.RESOURCE_STATUS, 0, 1, [0x1000]) == -abi.EINVAL


def test_acquire__of_no_frames_is_einval(board):
    assert physmap.acquire(board.machine, board.machine.domains[MAPPER], 0, 0, 0) == (-abi.EINVAL, [])


def test_acquire__of_an_unknown_id_is_einval(board):
    assert physmap.acquire(board.machine, board.machine.domains[MAPPER], 2, 0, 1) == (-abi.EINVAL, [])


def test_acquire__of_status_frames_in_version_1_is_einval(board):
    assert physmap.acquire(board.machine, board.machine.domains[MAPPER], g.RESOURCE_STATUS, 0, 1) == (-abi.EINVAL, [])


def test_acquire__of_an_unknown_id_in_version_2_is_einval(second):
    assert physmap.acquire(second.machine, second.machine.domains[MAPPER], 2, 0, 1) == (-abi.EINVAL, [])


def test_acquire__of_status_frames_in_version_2_lists_them(second):
    assert physmap.acquire(second.machine, second.machine.domains[MAPPER], g.RESOURCE_STATUS, 0, 2) == (
        2, second.table(MAPPER).status)


def test_resource__of_status_frames_has_size_0(second):
    assert physmap.resource_max_frames(second.machine.domains[MAPPER], g.RESOURCE_STATUS) == 0


def test_resource__of_shared_frames_has_the_maximum(board):
    assert physmap.resource_max_frames(board.machine.domains[MAPPER], g.RESOURCE_SHARED) == 64
