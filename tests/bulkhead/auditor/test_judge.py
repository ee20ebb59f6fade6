"""Verdicts without Xen's records, and the list of VMs held against Xen's own."""

import attrs
import pytest

from bulkhead.auditor.findings import DOUBTS, VIOLATIONS
from bulkhead.auditor.judge import judge
from bulkhead.auditor.synthetic import Machine
from bulkhead.auditor.xen_memory import Xen
from spec.state import P2mType
from tests.bulkhead.auditor.faults import FAULTS, word
from tests.bulkhead.auditor.machines import Patient, healthy

NEEDS_RECORDS = {
    "xen-memory", "freed-frame", "grant-missing", "grant-rights", "foreign-unprivileged", "table-owned", "unexplained",
    "xen-device"}


@pytest.fixture(scope="module")
def patient():
    made = healthy()
    return Patient(made.base, made.words, made.symbols)


def kinds(found):
    return sorted({each.kind for each in found.findings})


def test_judge__without_records_finds_memory_of_two_vms(patient):
    with patient.restored():
        patient.store(patient.spot(2).place, word(patient.spot(1).frame, P2mType.RAM_RW))
        found = patient.verdict(records=False)
    assert ("violation", ["unexplained"]) == (found.verdict, kinds(found))
    assert "the memory of dom1 and dom2 at once" in found.findings[0].why


@pytest.mark.parametrize("name", [name for name, (_, expected) in FAULTS.items()
                                  if not {kind for kind, _ in expected} & (NEEDS_RECORDS | {"vmid"})])
def test_judge__without_records_finds_what_the_tables_show(patient, name):
    plant, expected = FAULTS[name]
    with patient.restored():
        plant(patient)
        found = patient.verdict(records=False)
    assert expected == {(each.kind, each.vm) for each in found.findings}


def test_judge__without_records_takes_borrowed_memory_for_not_checked(patient):
    with patient.restored():
        patient.store(patient.active(40), 0, 4)
        found = patient.verdict(records=False)
    assert ("not checked", []) == (found.verdict, kinds(found))


def test_judge__a_list_that_lacks_a_domain_is_a_doubt(patient):
    found = judge(patient.image, patient.vms[:2], patient.xen)
    assert ("not checked", ["vm-list"]) == (found.verdict, kinds(found))
    assert "Xen has a domain 2 that was not given" == found.findings[0].text


def test_judge__a_list_with_another_number_is_a_doubt(patient):
    vms = [*patient.vms[:2], attrs.evolve(patient.vms[2], domain=7)]
    found = judge(patient.image, vms, patient.xen)
    assert ["dom2: it is Xen's domain 2, not 7"] == [each.text for each in found.findings]


def test_judge__a_vm_that_xen_does_not_have_is_a_doubt(patient):
    made = Machine()
    made.guest()
    stranger = attrs.evolve(made.vms()[0], name="stranger", domain=None, vttbr=patient.free() << 12 | 9 << 48)
    found = judge(patient.image, [*patient.vms, stranger], patient.xen)
    assert "stranger: Xen has no domain with this VTTBR" in [each.text for each in found.findings]


def test_judge__a_device_model_may_map_its_target_as_foreign(patient):
    layout, other = patient.xen.layout, patient.domain(2)
    with patient.restored():
        patient.store(patient.spot(2).place, word(patient.spot(1).frame, P2mType.MAP_FOREIGN_RW))
        patient.store(patient.machine(other.address + layout.target), patient.domain(1).address, layout.word)
        found = patient.verdict()
    assert "isolated" == found.verdict


def test_judge__counts_what_is_too_much_to_list(patient, monkeypatch):
    monkeypatch.setattr("bulkhead.auditor.judge.MOST_FINDINGS", 2)
    with patient.restored():
        for spot in list(patient.spots(1, 3, P2mType.RAM_RW))[8:12]:
            patient.store(spot.place, word(patient.free() - 2 * (spot.frame % 64), P2mType.RAM_RW))
        found = patient.verdict()
    assert ["freed-frame"] * 3 == [each.kind for each in found.findings]
    assert "2 more of this kind" == found.findings[-1].text


def test_judge__gives_up_on_more_sharing_than_can_be_looked_at(patient, monkeypatch):
    monkeypatch.setattr("bulkhead.auditor.sharing.MOST_PIECES", 2)
    found = patient.verdict()
    assert ("not checked", ["too-many"]) == (found.verdict, kinds(found))


def test_judge__finds_a_truncated_machines_records_missing(patient):
    with pytest.raises(Exception, match="in the image"):
        Xen(attrs.evolve(patient.image, banks=type(patient.image.banks)([(patient.base, patient.words[:512])])),
            patient.symbols)


def test_findings__are_of_known_kinds():
    assert {kind for _, expected in FAULTS.values() for kind, _ in expected} <= set(VIOLATIONS)
    assert not set(VIOLATIONS) & set(DOUBTS)


def test_judge__tells_the_frames_of_a_borrowed_range_apart(patient):
    spots = [*patient.spots(0, 3, P2mType.RAM_RW)][-3:]
    with patient.restored():
        for spot, frame in zip(spots, (patient.owned(1) - 1, patient.owned(1), patient.owned(1) + 1), strict=True):
            patient.store(spot.place, word(frame, P2mType.MAP_FOREIGN_RW))
        found = patient.verdict()
    first = (patient.owned(1) - 1) << 12
    borrowed = [each for each in found.shared if each.reason == "foreign" and each.machine >= first]
    assert 1 == len(found.findings)
    assert [(2 * 4096, True), (4096, False)] == [(each.size, each.justified) for each in borrowed]
