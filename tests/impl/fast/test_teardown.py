"""The death of a domain: every stage, zombies, what comes back."""

import pytest

from impl.fast import abi, domctl, p2m
from impl.fast.domains import Dying
from impl.fast.projection import project
from tests.impl.fast.board import DOMU_BASE, Guest, board, check_heap, dom0, domu, guests


@pytest.fixture(params=["arm64", "arm32"])
def three(request):
    return guests(board(request.param))


def destroy(zero, domid=1):
    return zero.domctl(domctl.DESTROYDOMAIN, domid)


def test_destroy__gives_everything_back(three):
    zero = three[0]
    bare = board(zero.machine.config.arch, domains=[dom0(), domu(2)])
    assert destroy(zero) == 0
    assert (1 in zero.machine.domains, zero.machine.frames.total_avail) == (False, bare.frames.total_avail)
    check_heap(zero.machine)


def test_destroy__gives_the_vmid_back(three):
    destroy(three[0])
    assert 2 not in three[0].machine.vmids


def test_destroy__of_oneself(three):
    assert destroy(three[0], 0) == -abi.EINVAL


def test_destroy__scrubs(three):
    zero, one, _ = three
    one.put(one.base + 0x8000, b"secret!!")
    mfn = p2m.lookup(one.domain, DOMU_BASE + 8).mfn
    destroy(zero)
    zero.machine.force([("frame", mfn)])
    assert zero.machine.frames.alloc_domheap(None, 0) == mfn
    assert zero.machine.memory.read(mfn, 0, 8) == bytes(8)


def test_destroy__of_a_domain_whose_page_is_mapped_leaves_a_zombie(three):
    zero = three[0]
    zero.foreign(1, DOMU_BASE + 9, 0x90000)
    assert destroy(zero) == 0
    zombie = zero.machine.domains[1]
    assert (zombie.is_dying, zombie.tot_pages) == (Dying.dead, 1)


def test_zombie__goes_with_its_last_page(three):
    zero = three[0]
    zero.foreign(1, DOMU_BASE + 9, 0x90000)
    destroy(zero)
    assert zero.remove(0x90000) == 0
    assert 1 not in zero.machine.domains
    check_heap(zero.machine)


def test_zombie__keeps_its_contents_reachable(three):
    zero, one, _ = three
    one.put((DOMU_BASE + 9) << 12, b"still on")
    zero.foreign(1, DOMU_BASE + 9, 0x90000)
    destroy(zero)
    assert zero.get(0x90000 << 12, 8) == b"still on"


def test_zombie__is_destroyed_again_without_effect(three):
    zero = three[0]
    zero.foreign(1, DOMU_BASE + 9, 0x90000)
    destroy(zero)
    assert destroy(zero) == 0


def test_zombie__tells_that_it_is_dying(three):
    zero = three[0]
    zero.foreign(1, DOMU_BASE + 9, 0x90000)
    destroy(zero)
    zero.domctl(domctl.GETDOMAININFO, 1)
    assert domctl.DOMAIN_INFO.unpack(zero.union(120))[2] & 1


def test_dying__domain_drops_the_foreign_pages_that_it_mapped():
    zero, one, two = guests(board(domains=[dom0(), domu(1, target=2), domu(2)]))
    assert one.foreign(2, DOMU_BASE + 9, 0x90000) == 0
    destroy(zero)
    assert zero.machine.frames.count(p2m.lookup(two.domain, DOMU_BASE + 9).mfn) == 1


def test_destroy__is_preempted_after_each_page(three):
    zero, one, _ = three
    zero.machine.preempt_after(5)
    seen = zero.domctl_raw(domctl.DESTROYDOMAIN, 1)
    assert (seen.restart, one.domain.is_dying) == (True, Dying.dying)
    assert one.domain.tot_pages > 200


def test_destroy__preempted_again_and_again_ends_alike(three):
    zero = three[0]
    snapshot = zero.machine.snapshot()
    destroy(zero)
    whole = project(zero.machine)
    zero.machine.restore(snapshot)
    zero.machine.preempt_after(1)
    seen = zero.domctl_raw(domctl.DESTROYDOMAIN, 1)
    while seen.restart:
        zero.machine.preempt_after(3)
        seen = zero.machine.hypercall(0, 0, seen.registers)
    assert seen.registers[0] == 0
    assert project(zero.machine) == whole


def test_dying__domain_does_not_run(three):
    zero = three[0]
    zero.machine.preempt_after(1)
    zero.domctl_raw(domctl.DESTROYDOMAIN, 1)
    assert zero.machine.load(1, 0, DOMU_BASE << 12, 8).kind == "stuck"


def test_dying__domain_takes_no_memory(three):
    zero = three[0]
    zero.machine.preempt_after(1)
    zero.domctl_raw(domctl.DESTROYDOMAIN, 1)
    assert zero.populate([DOMU_BASE + 0x800], domid=1) == 0


def test_dying__domain_loses_its_claim(three):
    zero, one, _ = three
    one.domain.max_pages = 999
    zero.machine.frames.set_outstanding(one.domain, 400)
    zero.machine.preempt_after(1)
    zero.domctl_raw(domctl.DESTROYDOMAIN, 1)
    assert zero.machine.frames.outstanding_claims == 0


def test_target__is_held_by_its_device_model():
    machine = board(domains=[dom0(), domu(1, target=2), domu(2)])
    zero = Guest(machine, 0)
    destroy(zero, 2)
    assert machine.domains[2].is_dying == Dying.dead
    destroy(zero, 1)
    assert 2 not in machine.domains
