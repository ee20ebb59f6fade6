"""Random guests on real Xen, followed by the specification; what differs is found, and shrunk to what matters."""

import random
import struct

import attrs
import pytest

from bulkhead.conformance.campaign import Campaign
from bulkhead.conformance.guests import Batch, Guests
from bulkhead.conformance.machines import Place, Twins, configuration
from bulkhead.conformance.session import Session, for_xen
from bulkhead.fuzz.grammar import SPARE_GFN, TABLE_GFN
from bulkhead.fuzz.seeds import Program
from bulkhead.oracle import memory_ops
from impl.fast import abi, domctl
from impl.xen.install import found
from impl.xen.kinds import KINDS
from spec.language import put
from spec.state import Status
from tests.conformance.conftest import machine_of

BATCHES, STIMULI = 4, 200


@pytest.mark.parametrize("kind", KINDS)
def test_guests__see_on_real_xen_what_the_specification_says(installation, kind, rng):
    with machine_of(configuration(Place(kind, rng.randrange(4))), installation) as machine:
        twins = Twins(machine)
        session = Session(twins)
        seen = session.prelude().disagreements
        for _ in range(BATCHES):
            batch = Batch(twins, session.twins_names)
            guests = Guests(batch, rng)
            while len(batch.given) < STIMULI and not batch.over and not batch.spoilt:
                guests.step()
            if batch.spoilt or seen:
                break
            outcome = session.run(batch.given)
            seen = outcome.disagreements
            if outcome.ended:
                break
        assert [each.text for each in seen] == []
        assert session.comparison.compared["rows"] > 0


def test_difference__in_memory_and_in_a_table_is_found(installation):
    with machine_of(configuration(Place("arm64-gicv2")), installation) as machine:
        twins = Twins(machine)
        session = Session(twins)
        session.prelude()
        gfn = (machine.ram(1)[0] >> 12) + 9
        machine.poke(1, gfn << 12, b"not what")
        assert [each.what for each in session.comparison.whole()] == ["memory"]
        machine.poke(1, gfn << 12, bytes(8))
        # a page of the domain goes, and the specification is not told
        batch = Batch(twins)
        guests = Guests(batch, random.Random(1), only=1)
        guests.memory_op(twins.fast.domains[1], 1, _reservation(guests, twins, gfn))
        machine.give([for_xen(each.stimulus) for each in batch.given])
        assert {each.what for each in session.comparison.whole()} >= {"p2m"}


def _reservation(guests, twins, gfn):
    address = guests.words(twins.fast.domains[1], 1, [gfn])
    return abi.MEMORY_RESERVATION.pack(address, 1, 0, 0, abi.DOMID_SELF)


def test_campaign__of_one_session_covers_steps_and_tells_where_xen_came_from(installation):
    campaign = Campaign(1, [Place("arm64-gicv2")], installation, batches=3, programs=False)
    progress = campaign.run(0, sessions=1)
    assert [attrs.asdict(each.finding) for each in campaign.failures] == []
    assert progress.stimuli > 800
    assert progress.provenance["arm64-gicv2"]["xen"]["package"] == "xen-hypervisor-4.17-arm64"


def test_difference__is_shrunk_to_the_call_that_shows_it(installation, monkeypatch):
    operations = memory_ops._OTHERS
    real = operations[abi.XENMEM_remove_from_physmap]
    monkeypatch.setitem(operations, abi.XENMEM_remove_from_physmap, lambda call, start: real(call, start) - 1)
    campaign = Campaign(3, [Place("arm64-gicv2", 2)], installation, batches=6, programs=False)
    campaign.run(0, sessions=1)
    assert [each.finding.signature.split(":")[0] for each in campaign.failures] == ["memory_op 15"]
    campaign.shrink(30)
    failure = campaign.failures[0]
    assert failure.shrunk
    assert len(failure.history) < 12
    assert failure.history[-1][0] == "hypercall"


def test_domain__is_gone_for_good_before_the_next_call(installation):
    """Xen frees a VMID, and lets go of a device model's target, when its processors have passed a point of rest."""
    with machine_of(configuration(Place("arm64-gicv2", 2)), installation) as machine:
        twins = Twins(machine)
        session = Session(twins)
        session.prelude()
        batch = Batch(twins)
        program = Program(batch)
        for number in (4, 5):
            program.create(number, pages=1)
        program.control(domctl.SET_TARGET, 4, struct.pack("<I", 5))
        for number in (5, 4, 5):
            program.destroy(number)
            program.control(domctl.GETDOMAININFO, 5)
        assert [each.forgets for each in batch.given if each.forgets] == [2]
        assert [each.text for each in session.run(batch.given).disagreements] == []


def test_difference__in_a_domain_made_at_run_time_or_in_xens_records_is_found(installation):
    with machine_of(configuration(Place("arm64-gicv2", 1)), installation) as machine:
        twins = Twins(machine)
        session = Session(twins)
        session.prelude()
        batch = Batch(twins)
        program = Program(batch)
        program.create(4, pages=3)
        program.put(1, (TABLE_GFN << 12) + 8 * 40, struct.pack("<HHI", 1, 2, program.gfn(1, 0)))
        program.map(2, [(SPARE_GFN, 2, 40, 1)])
        assert session.run(batch.given).disagreements == []
        comparison, oracle = session.comparison, session.oracle
        assert comparison.whole() == []
        assert comparison.compared["rows of domains made at run time"] >= 3
        assert comparison.compared["grants"] >= 1
        good = oracle.snapshot()
        gfn = next(gfn for (domain, gfn), row in oracle.state.p2m.items() if domain == 4 and row.type == 1)
        for table, key, changes, what in (
                ("p2m", (4, gfn), {"hardware": False}, "p2m"), ("p2m", (4, gfn), {"type": 0}, "p2m"),
                ("active_grant", (1, 40), {"host_writers": 2}, "active_grant"),
                ("active_grant", (1, 40), {"domid": 3}, "active_grant"),
                ("active_grant", (1, 41), {"host_readers": 1, "domid": 2}, "active_grant")):
            oracle.state = put(oracle.state, table, key, **changes)
            assert [each.what for each in comparison.whole()] == [what]
            oracle.restore(good)
        oracle.state = put(oracle.state, "domain", 4, status=Status.ABSENT)
        assert "domain" in {each.what for each in comparison.whole()}


def test_campaign__without_xens_symbols_compares_the_rest(installation, tmp_path):
    for path in installation.folder.iterdir():
        if not path.name.startswith("xen-syms"):
            (tmp_path / path.name).symlink_to(path.resolve())
    with machine_of(configuration(Place("arm64-gicv2")), found(tmp_path)) as machine:
        twins = Twins(machine)
        session = Session(twins)
        assert twins.records is None
        assert session.prelude().disagreements == []
        assert session.comparison.whole() == []


def test_twin__takes_a_batch_again_with_what_a_cut_call_has_left(installation):
    with machine_of(configuration(Place("arm64-gicv2", 1)), installation) as machine:
        twins = Twins(machine)
        session = Session(twins)
        session.prelude()
        start, batch = session._start, Batch(twins)
        program = Program(batch)
        program.put(1, (TABLE_GFN << 12) + 8 * 40, struct.pack("<HHI", 1, 2, program.gfn(1, 0)))
        program.map(2, [(SPARE_GFN, 2, 40, 1)])
        after = twins.fast.snapshot()
        assert session.run(batch.given).disagreements == []
        calls = [place for place, each in enumerate(batch.given) if each.stimulus[0] == "hypercall"]
        arguments = twins.fast.domains[2].p2m.find(batch.given[calls[-1]].stimulus[3][1] >> 12)[0]
        before_call = len(session.history) - len(batch.given) + calls[-1]
        # the arguments are as they were, or gone, just before the call
        twins.fast.restore(after)
        page = twins.fast.memory.read(arguments, 0, 4096)
        for left, expected in ((None, True), (page, True), (bytes(4096), False)):
            session._start, session._cuts = start, {} if left is None else {before_call: {arguments: left}}
            assert session._twin_repeats(batch.given) is expected
