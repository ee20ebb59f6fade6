"""Real Xen boots on every kind of machine, and answers."""

import pytest

from impl.xen.config import Config, Guest
from impl.xen.errors import Refused
from impl.xen.kinds import KINDS
from impl.xen.machine import Stimulus
from impl.xen.mailbox import Outcome, Ref
from tests.conformance.conftest import machine_of
from tests.conformance.guests import XEN_VERSION, Call, grant_entry

NOWHERE = 0x30000000            # no guest has anything there
REF, REF_READONLY = 40, 41


@pytest.fixture(scope="module", params=list(KINDS))
def machine(request, installation):
    """dom0 and three domUs, the second with two vCPUs, the third made smaller than Xen loads it."""
    config = Config(request.param, guests=[Guest(), Guest(vcpus=2), Guest(pages=600)])
    with machine_of(config, installation) as made:
        yield made


def number(machine):
    return 16 if machine.kind.width == 64 else 12


def test_boot__runs_the_payload_on_every_vcpu(machine):
    assert sorted(machine.boxes) == [(0, 0), (1, 0), (2, 0), (2, 1), (3, 0)]
    for domain, vcpu in machine.boxes:
        seen = machine.hypercall(domain, vcpu, {number(machine): XEN_VERSION})
        assert (seen.kind, seen.registers[0], seen.reason) == ("value", 0x40011, "")


def test_hypercall__leaves_all_other_registers_as_they_were(machine):
    given = {each: 0x1000 + each for each in range(5, 13 if machine.kind.width == 32 else 31)}
    given[number(machine)] = XEN_VERSION
    seen = machine.hypercall(1, 0, given)
    expected = [given.get(each, 0) for each in range(31)]
    assert seen.registers == [0x40011, *expected[1:]]


def test_memory__that_is_given_back_faults_and_comes_again(machine):
    guest = Call(machine, 1)
    gfn = (guest.base >> 12) + 9
    decrease = guest.reservation(1, gfn)
    gone = guest.program.load(gfn << 12)
    populate = guest.reservation(6, gfn)
    back = guest.program.load(gfn << 12)
    run = guest.go()
    assert [1, 1] == [run.result(decrease), run.result(populate)]
    assert [Outcome.DATA_ABORT, Outcome.VALUE] == [run.outcome(gone), run.outcome(back)]
    assert run.value(gone) == 0


def test_store__into_a_page_that_is_not_there_leaves_nothing_in_the_one_before(machine):
    guest = Call(machine, 1)
    gfn = (guest.base >> 12) + 9
    last = (gfn << 12) - 4
    guest.reservation(1, gfn)
    guest.program.store(last - 4, 8, 0x1122334455667788)
    stored = guest.program.store(last, 8, 0xAAAAAAAABBBBBBBB)
    kept = guest.program.load(last - 4)
    guest.reservation(6, gfn)
    run = guest.go()
    assert (run.outcome(stored), run.value(kept)) == (Outcome.DATA_ABORT, 0x1122334455667788)


def test_memory__of_a_domain_is_what_was_asked_for(machine):
    guest = Call(machine, 3)
    self_ = guest.struct(0, "H", 0x7FF0)
    current, maximum = guest.program.hypercall(12, 3, self_), guest.program.hypercall(12, 4, self_)
    run = guest.go()
    assert [600, 600] == [run.result(current), run.result(maximum)]
    assert len(machine.stage2(3)) == 600


def test_grant__is_mapped_by_dom0_and_taken_back(machine):
    granter, mapper = Call(machine, 1), Call(machine, 0)
    table, shared = machine.hole(1), granter.base + 0x20000
    granter.grant_table_at(table)
    granter.program.store(table + 8 * REF, 8, grant_entry(1, 0, shared >> 12))
    granter.program.store(shared, 8, 0x1122334455667788)
    granter.go()
    at = machine.hole(0)
    call, status, handle = mapper.map(1, REF, at)
    read = mapper.program.load(at)
    mapper.program.store(at, 8, 5)
    unmap, unmap_status = mapper.unmap(handle, at)
    after = mapper.program.load(at)
    run = mapper.go()
    assert [0, 0] == [run.result(call), run.value(status)]
    assert run.value(read) == 0x1122334455667788
    assert [0, 0] == [run.result(unmap), run.value(unmap_status)]
    assert run.outcome(after) == Outcome.DATA_ABORT
    assert machine.load(1, 0, shared).value == 5


def test_grant__for_reading_only_keeps_a_store_stuck_and_the_guest_goes_on(machine):
    granter, mapper = Call(machine, 1), Call(machine, 0)
    table, shared = machine.hole(1), granter.base + 0x21000
    granter.grant_table_at(table)
    granter.program.store(table + 8 * REF_READONLY, 8, grant_entry(5, 0, shared >> 12))
    granter.go()
    at = machine.hole(0) + 0x2000
    _, status, handle = mapper.map(1, REF_READONLY, at, readonly=True)
    stuck = mapper.program.store(at, 8, 1)
    fetch = mapper.program.fetch(at)
    _, unmap_status = mapper.unmap(handle, at)
    run = mapper.go()
    assert [0, 0] == [run.value(status), run.value(unmap_status)]
    assert [Outcome.STUCK, Outcome.CANNOT] == [run.outcome(stuck), run.outcome(fetch)]


def test_tables__show_a_grant_while_it_is_mapped(machine):
    granter, mapper = Call(machine, 1), Call(machine, 0)
    table, shared = machine.hole(1), granter.base + 0x22000
    granter.grant_table_at(table)
    granter.program.store(table + 8 * REF, 8, grant_entry(1, 0, shared >> 12))
    granter.go()
    at = machine.hole(0) + 0x3000
    _, _, handle = mapper.map(1, REF, at)
    handle_value = mapper.go().value(handle)
    mapped = machine.stage2(0)[0, at >> 12]
    assert machine.stage2(1)[1, shared >> 12][0] == mapped[0]
    machine.poke(1, shared, b"from out")
    assert machine.peek(0, at, 8) == b"from out"
    address = mapper.struct(0x400, "QQIhxx", at, 0, handle_value, 0x77)
    mapper.program.hypercall(20, 1, address, 1)
    mapper.go()
    assert (0, at >> 12) not in machine.stage2(0)


@pytest.mark.parametrize("access", ["load", "store", "fetch"])
def test_access__to_nothing_is_an_abort_at_that_address(machine, access):
    seen = machine.one(Stimulus(access, 2, 1, NOWHERE, 4, 0))
    assert seen.kind == "fault"
    assert seen.fault[0] == "translation"
    assert seen.fault[2] == NOWHERE
    expected = {"load": 0x96000000, "store": 0x96000000, "fetch": 0x86000000}[access]
    assert seen.fault[3] == (expected if machine.kind.width == 64 else 2)


def test_fetch__of_ones_own_memory_leaves_it_as_it_was(machine):
    address = machine.ram(1)[0] + 0x30000
    machine.store(1, 0, address, 4, 0x12345678)
    assert machine.fetch(1, 0, address).value == 0x12345678
    assert machine.load(1, 0, address, 4).value == 0x12345678


def test_cache__goes_on_over_an_identity_map(machine):
    address = machine.ram(2)[0] + 0x30000
    machine.store(2, 0, address, 8, 77)
    kinds = [machine.set_way(2, 0).kind, machine.toggle_cache(2, 0, enabled=True).kind]
    assert machine.load(2, 0, address).value == 77
    kinds.append(machine.toggle_cache(2, 0, enabled=False).kind)
    assert kinds == ["value"] * 3
    assert machine.load(2, 0, address).value == 77


def test_firmware__starts_no_vcpu_twice(machine):
    program = machine.program(2)
    version = program.firmware(0x84000000)
    again = program.firmware(0xC4000003 if machine.kind.width == 64 else 0x84000003, 1, machine.boxes[2, 0].entry, 0)
    run = machine.run(2, 0, program)
    assert [0x10001, -4] == [run.result(version), run.result(again)]


def test_system_register__of_a_second_vcpu_says_so(machine):
    program = machine.program(2, 1)
    read = program.read_system("MPIDR_EL1" if machine.kind.width == 64 else "MPIDR")
    assert machine.run(2, 1, program).value(read) == 0x80000001


def test_interrupt__of_an_event_is_taken_by_the_guest(machine):
    guest = Call(machine, 3)
    box = machine.boxes[3, 0]
    intid = 31
    if box.gic == 3:
        guest.program.store(box.gicc + 0x10100, 4, 1 << intid)
    else:
        guest.program.store(box.gicd + 0x100, 4, 1 << intid)
    info = machine.hole(3) + 0x10000
    guest.program.hypercall(12, 7, guest.struct(0x200, "HHIQQ", 0x7FF0, 0, 0, 0, info >> 12))
    port = guest.struct(0, "HHI", 0x7FF0, 0x7FF0, 0)
    guest.program.hypercall(32, 6, port)
    unbound = guest.program.load(port + 4, 4)
    bound = guest.struct(0x40, "HxxII", 0x7FF0, 0, 0)
    guest.program.store(bound + 4, 4, Ref(unbound))
    guest.program.hypercall(32, 0, bound)
    local = guest.program.load(bound + 8, 4)
    send = guest.struct(0x80, "I", 0)
    guest.program.store(send, 4, Ref(local))
    result = guest.program.hypercall(32, 4, send)
    taken = guest.program.wait_interrupt(2_000_000)
    run = guest.go()
    assert run.result(result) == 0
    assert run.value(taken) == intid


def test_stimuli__of_several_domains_keep_their_order(machine):
    stimuli = []
    for i in range(60):
        domain, vcpu = [(1, 0), (2, 0), (2, 1), (3, 0)][i % 4]
        address = machine.ram(domain)[0] + 0x40000
        stimuli.append(Stimulus("store", domain, vcpu, address, 8, i))
        stimuli.append(Stimulus("load", 2 if domain == 2 else domain, 1 - vcpu if domain == 2 else 0, address))
    seen = machine.give(stimuli)
    assert [each.value for each in seen[1::2]] == list(range(60))


def test_stimulus__to_the_payloads_own_memory_is_refused(machine):
    low, high = machine.kept(1)
    for address in (low, high - 8):
        with pytest.raises(Refused, match="belongs to the payload"):
            machine.store(1, 0, address, 8, 0)


def test_preemption__is_refused_with_the_reason(machine):
    with pytest.raises(Refused, match="cannot be timed"):
        machine.preempt_after(1)


def test_provenance__names_what_was_run(machine):
    told = machine.provenance()
    assert told["xen"]["package"] == f"xen-hypervisor-4.17-{machine.kind.arch}"
    assert len(told["xen"]["package_sha256"]) == 64
    assert told["command"][0] == machine.kind.qemu
