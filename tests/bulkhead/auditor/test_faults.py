"""Planted faults are found, each as what it is, and nothing else."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulkhead.audit import ISOLATED, VIOLATION
from bulkhead.auditor.image import from_words
from bulkhead.auditor.judge import judge
from bulkhead.auditor.report import document
from bulkhead.auditor.synthetic import TABLE_WORD
from bulkhead.problems import BadInputError
from tests.bulkhead.auditor.faults import FAULTS
from tests.bulkhead.auditor.machines import Patient, healthy


@pytest.fixture(scope="module", params=[False, True], ids=["arm64", "arm32"])
def patient(request):
    made = healthy(arm32=request.param)
    return Patient(made.base, made.words, made.symbols)


def test_audit__of_a_healthy_machine_finds_nothing(patient):
    found = patient.verdict()
    assert (ISOLATED, (), ()) == (found.verdict, found.findings, found.unchecked)
    assert {"granted", "foreign", "device"} == {each.reason for each in found.shared}
    assert all(each.justified for each in found.shared)


@pytest.mark.parametrize("name", FAULTS)
def test_audit__finds_a_planted_fault_and_nothing_else(patient, name):
    plant, expected = FAULTS[name]
    with patient.restored():
        plant(patient)
        found = patient.verdict()
    assert expected == {(each.kind, each.vm) for each in found.findings}
    assert VIOLATION == found.verdict


def test_audit__of_a_truncated_image_says_so_and_nothing_else(patient):
    half = len(patient.words) // 4096 * 2048
    image = from_words("half", [(patient.base, patient.words[:half])], [(patient.base, 8 * len(patient.words))])
    found = judge(image, patient.vms)
    assert ("not checked", ["truncated"]) == (found.verdict, [each.kind for each in found.findings])


def test_audit__without_xens_records_is_never_isolated(patient):
    found = patient.verdict(records=False)
    assert ("not checked", ()) == (found.verdict, found.findings)
    assert [None if each.reason != "device" else True for each in found.shared] == [
        each.justified for each in found.shared]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_audit__of_any_damage_ends_in_an_answer_or_in_one_line(patient, data):
    pages = [*(int(each) for tree in patient.reach.trees for each in tree.tables), patient.xen.address + 0x2000,
             *(patient.machine(each.address) for each in patient.xen.domains)]
    with patient.restored():
        for _ in range(data.draw(st.integers(1, 8))):
            place = data.draw(st.sampled_from(pages)) + 8 * data.draw(st.integers(0, 511))
            flipped = patient.load(place) ^ 1 << data.draw(st.integers(0, 63))
            table = data.draw(st.sampled_from(pages)) | TABLE_WORD
            patient.store(place, data.draw(st.one_of(st.integers(0, (1 << 64) - 1), st.sampled_from([flipped, table]))))
        try:
            document(patient.verdict())
        except BadInputError:
            # Xen's records make no sense any more: the tables by themselves do
            document(patient.verdict(records=False))
