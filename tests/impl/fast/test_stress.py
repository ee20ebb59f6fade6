"""Long random histories: the books stay in order, nothing stops, and a snapshot brings all of it back."""

import random
from struct import pack

import pytest

from impl.fast import abi, domctl
from impl.fast.guestcopy import guest_page
from impl.fast.projection import Projector, project, project_p2m
from tests.impl.fast.board import DOMU_BASE, board, check_heap, check_tlb, dom0, domu

BLOCK = 0x80000
CREATION = domctl.CREATE.pack(0, bytes(16), 3, 0, 1, -1, -1, -1, 1, 0, 0, 0, 0, 0, 0)


class History:
    """Random calls and accesses of every domain that runs."""

    def __init__(self, arch, seed, **options):
        self.random = random.Random(seed)
        self.machine = board(arch, domains=[
            dom0(iomem=((0x9000, 64),)), domu(1, max_pages=2000, target=2), domu(2, max_pages=400), domu(3, pages=64),
        ], **options)
        self.kinds = set()

    def gfn(self):
        pick = self.random
        return pick.choice([DOMU_BASE + pick.randrange(300), BLOCK + pick.randrange(1024), 0x100000 + pick.randrange(4),
                            (1 << 28) - 1, 1 << 28, (1 << 64) - 1, 0, pick.getrandbits(64)])

    def domid(self):
        pick = self.random
        return pick.choice([abi.DOMID_SELF] * 3 + [0, 1, 2, 3, 4, abi.DOMID_IO, abi.DOMID_XEN, pick.getrandbits(16)])

    def write(self, dom, address, data):
        for i in range(0, len(data), 8):
            self.machine.store(dom, 0, address + i, 8, int.from_bytes(data[i:i + 8].ljust(8, b"\0"), "little"))

    def memory_op(self, domain, pages):
        """(operation, argument) with lists in the pages behind the first."""
        pick = self.random
        _, idxs, gfns, errs = pages
        number = pick.randrange(1, 6)
        self.write(domain.id, idxs, pack(f"<{number}Q", *(self.gfn() for _ in range(number))))
        self.write(domain.id, gfns, pack(f"<{number}Q", *(self.gfn() for _ in range(number))))
        operation = pick.choice([0, 1, 1, 2, 3, 4, 6, 6, 6, 7, 11, 14, 15, 23, 23, 23, 24, 26, 27, 28])
        order = pick.choice([0] * 5 + [1, 2, 9, 18])
        if operation in {0, 1, 6}:
            flags = pick.choice([0] * 6 + [pick.getrandbits(19)])
            return operation, abi.MEMORY_RESERVATION.pack(idxs, number, order, flags, self.domid())
        if operation == 7:
            return operation, abi.ADD_TO_PHYSMAP.pack(self.domid(), pick.randrange(3), pick.randrange(7),
                                                      pick.choice([0, 1, 0x9000]), self.gfn())
        if operation == 15:
            return operation, abi.REMOVE_FROM_PHYSMAP.pack(self.domid(), self.gfn())
        if operation == 23:
            space = pick.choice([0, 1, 4, 4, 4, 5])
            return operation, abi.ADD_TO_PHYSMAP_BATCH.pack(self.domid(), space, number, self.domid(), idxs, gfns, errs)
        if operation == 24:
            return operation, abi.MEMORY_RESERVATION.pack(0, pick.randrange(2000), 0, 0, self.domid())
        if operation == 28:
            return operation, abi.ACQUIRE_RESOURCE.pack(self.domid(), 1, 0, number, 0, 0, idxs)
        return operation, pick.randbytes(72)

    def domctl(self):
        """The argument of a domctl; domains die now and then."""
        pick = self.random
        command = pick.choice([1, 2, 3, 4, 4, 4, 5, 11, 15, 20, 27, 39, 39, 46, 71, 85, 86])
        union = {
            1: CREATION,
            11: pack("<Q", pick.choice([400, 2000, 8000])),
            15: pack("<I", 1),
            20: pack("<QQB", 0x9000, 4, pick.randrange(2)),
            39: pack("<QQQII", self.gfn(), 0x9000, pick.randrange(5), pick.randrange(2), 0),
            46: pack("<H", pick.randrange(5)),
            86: pack("<Q", pick.choice([0, 16, 32, 64]) << 12),
        }.get(command, b"")
        return abi.DOMCTL_HEADER.pack(command, 0x15, pick.randrange(1, 7)) + union.ljust(128, b"\0")

    def step(self):
        pick, machine = self.random, self.machine
        domain = pick.choice([d for d in machine.domains.values() if d.runs and d.vcpus and not d.vcpus[0].offline])
        frames = list(domain.page_list)[:64] if domain.direct_map else range(DOMU_BASE, DOMU_BASE + 300)
        own = [gfn for gfn in pick.sample(frames, 40) if guest_page(domain, gfn << 12, write=True) is not None]
        if len(own) < 4:
            return
        pages = [gfn << 12 for gfn in own[:4]]
        number, registers = (16, 31) if domain.width == 64 else (12, 31)
        call = [0] * registers
        if pick.random() < 0.2:
            machine.preempt_after(pick.randrange(1, 4))
        choice = pick.random()
        if choice < 0.75:
            operation, data = self.memory_op(domain, pages)
            self.write(domain.id, pages[0], data)
            extent = pick.choice([0] * 8 + [1, 2, pick.getrandbits(20)])
            call[number], call[0], call[1] = 12, operation | extent << 6, pages[0]
            seen = machine.hypercall(domain.id, 0, call)
        elif choice < 0.85 and domain.is_privileged:
            self.write(domain.id, pages[0], self.domctl())
            call[number], call[0] = 36, pages[0]
            seen = machine.hypercall(domain.id, 0, call)
        elif choice < 0.95:
            seen = machine.load(domain.id, 0, (self.gfn() & (1 << 36) - 1) << 12, 8)
        else:
            seen = machine.store(domain.id, 0, (DOMU_BASE + pick.randrange(300)) << 12, 8, pick.getrandbits(64))
        self.kinds.add(seen.kind)
        if seen.restart and pick.random() < 0.8:
            machine.hypercall(domain.id, 0, seen.registers)


def check_references(machine):
    """Every foreign map is backed by a reference to a frame that is in use."""
    maps: dict[int, int] = {}
    for domain in machine.domains.values():
        for mfn, kind, *_ in project_p2m(domain).values():
            if kind in {abi.p2m_map_foreign_rw, abi.p2m_map_foreign_ro}:
                maps[mfn] = maps.get(mfn, 0) + 1
    for mfn, number in maps.items():
        assert machine.frames.count(mfn) >= number + machine.frames.is_allocated(mfn)


@pytest.mark.parametrize(("arch", "pa_bits"), [("arm64", 40), ("arm64", 44), ("arm32", 40)])
def test_history__keeps_the_books_in_order(arch, pa_bits):
    history = History(arch, 11, pa_bits=pa_bits)
    for _ in range(6):
        for _ in range(100):
            history.step()
            check_tlb(history.machine)
        check_heap(history.machine)
        check_references(history.machine)
    assert history.kinds <= {"value", "fault", "stuck", "restart"}


def test_history__is_undone_by_a_restore():
    history = History("arm64", 12)
    machine = history.machine
    for _ in range(100):
        history.step()
    before = project(machine), machine.memory.ram.pages(0x40000, 0x2000).tobytes(), machine.frames.save()[5]
    snapshot = machine.snapshot()
    for _ in range(300):
        history.step()
    machine.restore(snapshot)
    after = project(machine), machine.memory.ram.pages(0x40000, 0x2000).tobytes(), machine.frames.save()[5]
    assert before == after


def test_history__is_the_same_again_from_a_snapshot():
    history = History("arm32", 13)
    snapshot = history.machine.snapshot()
    ends = []
    for _ in range(2):
        history.random.seed(14)
        for _ in range(200):
            history.step()
        ends.append(project(history.machine))
        history.machine.restore(snapshot)
    assert ends[0] == ends[1]


@pytest.mark.parametrize(("arch", "pa_bits"), [("arm64", 40), ("arm64", 44), ("arm32", 40)])
def test_history__changes_add_up_to_the_whole_projection(arch, pa_bits):
    history = History(arch, 15, pa_bits=pa_bits)
    machine = history.machine
    projector = Projector(machine)
    snapshot = machine.snapshot()
    for _ in range(10):
        for _ in range(20):
            history.step()
            projector.update()
        assert projector.rows == project(machine)
    machine.restore(snapshot)
    projector.update()
    assert projector.rows == project(machine)
