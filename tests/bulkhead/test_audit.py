"""The verdict about the tables of a machine: planted faults, and what the guests observed."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulkhead import audit, mappings, tables
from spec.language import Mfn, encode
from spec.memory.descriptors import table_word
from spec.state import P2mType
from tests.bulkhead.files import ARM32, File, look, refusal

TYPES = [each for each in P2mType if each != P2mType.INVALID]
GRANTED_WRITABLE, GRANTED_READ_ONLY = 0x50300000, 0x50301000
"""Where VM 0 of the arm32 machine mapped grants 40 and 41 of VM 1."""


def test_audit__a_foreign_frame_mapped_without_a_grant_is_a_violation(arm32, tmp_path):
    frame = arm32.descriptor(1, 0x43E20000).frame
    arm32.change(2, 0x43E20000, frame=frame)
    arm32.meta["domains"]["2"]["loads"] = []
    found = look(arm32, tmp_path)
    expected = (f"machine {frame << 12:#x}, 0x1000 bytes, reached by VM 1 (ram_rw, rwx, IPA 0x43e20000), "
                "VM 2 (ram_rw, rwx, IPA 0x43e20000): the memory of VM 1 and of VM 2 at once")
    assert ("violation", (expected,)) == (found.verdict, found.violations)


def test_audit__a_table_page_mapped_into_a_guest_is_a_violation(arm32, tmp_path):
    root = arm32.meta["domains"]["0"]["vttbr"] & 0xFFFFFFFFF000
    arm32.change(1, 0x38300000, frame=root >> 12)
    found = look(arm32, tmp_path)
    expected = f"VM 1, 0x1000 bytes at IPA 0x38300000, machine {root:#x}: reaches table page {root:#x} of VM 0, rwx"
    assert ("violation", (expected,)) == (found.verdict, found.violations)


def test_audit__a_read_only_grant_made_writable_is_a_violation(arm32, tmp_path):
    arm32.change(0, GRANTED_READ_ONLY, write=True)
    found = look(arm32, tmp_path)
    assert found.verdict == "violation"
    assert ["rw- is more than grant_map_ro allows", "grant 41 of VM 1 to VM 0 is read-only, the mapping is not"] == [
        each.rsplit(": ", 1)[1] for each in found.violations]


def test_audit__a_read_only_grant_mapped_with_the_writable_type_is_a_violation(arm32, tmp_path):
    arm32.change(0, GRANTED_READ_ONLY, write=True, type=P2mType.GRANT_MAP_RW)
    found = look(arm32, tmp_path)
    assert ["grant 41 of VM 1 to VM 0 is read-only, the mapping is not"] == [
        each.rsplit(": ", 1)[1] for each in found.violations]


def test_audit__a_granted_page_made_executable_is_a_violation(arm32, tmp_path):
    arm32.change(0, GRANTED_WRITABLE, xn=False)
    assert ["rwx is more than grant_map_rw allows"] == [
        each.rsplit(": ", 1)[1] for each in look(arm32, tmp_path).violations]


def test_audit__a_grant_that_leads_to_a_third_vm_is_a_violation(arm32, tmp_path):
    arm32.change(0, GRANTED_WRITABLE, frame=arm32.descriptor(2, 0x43E20000).frame)
    found = look(arm32, tmp_path)
    assert ["grant 40 of VM 1 to VM 0, but the page is the memory of VM 2"] == [
        each.rsplit(": ", 1)[1] for each in found.violations]


def test_audit__a_mapping_of_another_vm_that_only_xen_takes_to_be_valid_is_a_violation(arm32, tmp_path):
    frame = arm32.descriptor(1, 0x43E20000).frame
    arm32.change(2, 0x43E20000, frame=frame, valid=False)
    arm32.meta["domains"]["2"]["loads"] = []
    found = look(arm32, tmp_path)
    assert ["the memory of VM 1 and of VM 2 at once"] == [each.rsplit(": ", 1)[1] for each in found.violations]


@pytest.mark.parametrize(
    ("grants", "verdict", "word"),
    [("failed", "violation", "no grant of the file explains it"),
     ("removed", "violation", "no grant of the file explains it"),
     ("absent", "not checked", "the file does not list the grants"),
     ("of another", "violation", "grant 40 of VM 2 to VM 0, but the page is the memory of VM 1")],
)
def test_audit__a_shared_page_needs_a_grant_of_the_file(arm32, tmp_path, grants, verdict, word):
    if grants == "failed":
        arm32.meta["grants"][0]["status"] = -8
    elif grants == "removed":
        del arm32.meta["grants"][0]
    elif grants == "absent":
        del arm32.meta["grants"]
    else:
        arm32.meta["grants"][0]["granter"] = 2
    found = look(arm32, tmp_path)
    assert verdict == found.verdict
    assert word == (found.violations or found.doubts)[0].rsplit(": ", 1)[1]


def test_audit__a_granter_that_no_longer_maps_its_page_is_not_checked(arm32, tmp_path):
    row, index = arm32.place(1, 0x43E13000)
    arm32.page[row][index] = 0
    arm32.meta["domains"]["1"]["loads"] = []
    found = look(arm32, tmp_path)
    assert ("not checked", ()) == (found.verdict, found.violations)
    assert "grant 40 of VM 1 to VM 0, but VM 1 does not map the page itself" == found.doubts[0].rsplit(": ", 1)[1]


@pytest.mark.parametrize(
    ("vm", "verdict"), [(0, "not checked"), (2, "violation")], ids=["by dom0", "by another"],
)
def test_audit__foreign_memory_is_for_whoever_has_the_privilege(arm32, tmp_path, vm, verdict):
    ipa = 0x50020000 if vm == 0 else 0x38020000
    arm32.change(vm, ipa, frame=arm32.descriptor(1, 0x43E20000).frame, type=P2mType.MAP_FOREIGN_RW)
    assert verdict == look(arm32, tmp_path).verdict


def test_audit__memory_beyond_ram_is_a_violation(tiny, tmp_path):
    tiny.change(0, 0x5000, frame=0x60000)
    tiny.meta["domains"]["0"]["loads"] = []
    found = look(tiny, tmp_path)
    assert ["ram_rw, but not RAM of this machine"] == [each.rsplit(": ", 1)[1] for each in found.violations]


def test_audit__ram_as_a_device_of_one_and_memory_of_another_is_a_violation(tiny, tmp_path):
    tiny.change(0, 0x5000, frame=0x41001, type=P2mType.MMIO_DIRECT_DEV, xn=True)
    tiny.meta["domains"]["0"]["loads"] = []
    found = look(tiny, tmp_path)
    assert ["memory for one, a device for the other"] == [each.rsplit(": ", 1)[1] for each in found.violations]


def test_audit__one_vmid_for_two_vms_is_a_violation(tiny, tmp_path):
    tiny.meta["domains"]["1"]["vttbr"] = 1 << 48 | 0x40004000
    assert look(tiny, tmp_path).violations == (
        "VM 0 and VM 1 have the same VMID 1: each may use the other's cached translations",)


def test_audit__a_table_of_two_vms_is_a_violation(tiny, tmp_path):
    tiny.page[4][0] = encode(table_word(Mfn(0x40001)))
    tiny.meta["domains"]["1"]["loads"] = []
    found = look(tiny, tmp_path)
    assert found.verdict == "violation"
    assert "VM 0 and VM 1 use the same table page 0x40001000" == found.violations[0]
    assert found.remarks == ("3 table pages of the file belong to no VM that it names",)


@pytest.mark.parametrize("bit", [11, 48, 52, 53, 59, 63])
def test_audit__a_descriptor_that_xen_never_writes_is_not_checked(tiny, tmp_path, bit):
    tiny.page[3][5] |= np.uint64(1 << bit)
    found = look(tiny, tmp_path)
    assert ("not checked", "1 descriptors have bits set that Xen leaves clear") == (
        found.verdict, found.doubts[0].rsplit(": ", 1)[1])


@pytest.mark.parametrize(("fields", "words"), [
    ({"af": False}, "lack the access flag"), ({"table": False}, "are blocks where there are none"),
    ({"type": 0}, "are valid without a type"), ({"type": 13}, "Xen maps nothing with type 13"),
])
def test_audit__a_descriptor_without_meaning_is_not_checked(tiny, tmp_path, fields, words):
    tiny.change(0, 0x5000, **fields)
    tiny.meta["domains"]["0"]["loads"] = []
    found = look(tiny, tmp_path)
    assert found.verdict == "not checked"
    assert found.doubts[0].endswith(words)


@pytest.mark.parametrize(
    "fields", [{"af": False}, {"table": False}, {"frame": 1 << 32}, {"valid": False, "af": False}],
    ids=["no access flag", "a block of level 3", "beyond the output size", "not valid and no access flag"],
)
def test_audit__a_mapping_that_no_access_gets_through_is_out_of_reach(tiny, tmp_path, fields):
    tiny.change(0, 0x5000, **fields)
    tiny.meta["domains"]["0"]["loads"] = []
    assert ["unreachable"] == [each.valid for each in look(tiny, tmp_path).vms[0].mappings]


def test_audit__a_mapping_beyond_the_ipa_size_is_out_of_reach(tiny, tmp_path):
    tiny.page[0][32] = tiny.page[0][0]
    tiny.page[0][0] = 0
    tiny.meta["domains"]["0"]["loads"] = []
    found = look(tiny, tmp_path)
    assert [(1 << 44 | 0x5000, "unreachable")] == [(each.ipa, each.valid) for each in found.vms[0].mappings]


@pytest.fixture(scope="module")
def pages() -> dict[int, list[Any]]:
    """Of each VM of the arm32 machine: what it maps in single pages, but for what was granted to it by others."""
    found = tables.read(ARM32)
    return {
        domain.number: [
            each for each in mappings.leaves_of(found, domain)
            if each.size == tables.PAGE and each.ipa not in (GRANTED_WRITABLE, GRANTED_READ_ONLY)
        ]
        for domain in found.domains
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(vms=st.permutations([0, 1, 2]), choice=st.randoms(use_true_random=False), kind=st.sampled_from(TYPES))
def test_audit__no_page_of_another_goes_unnoticed(pages, tmp_path, vms, choice, kind):
    file = File.like(ARM32)
    thief, victim = vms[:2]
    stolen = choice.choice([each for each in pages[victim] if each.kind == "ram_rw"])
    file.change(thief, choice.choice(pages[thief]).ipa, frame=stolen.machine // tables.PAGE, type=kind)
    for each in file.meta["domains"].values():
        each["loads"] = []
    assert audit.ISOLATED != look(file, tmp_path).verdict


# ---- observations


def test_observation__a_load_may_find_what_only_xen_takes_to_be_valid(tiny, tmp_path):
    tiny.change(0, 0x5000, valid=False)
    found = look(tiny, tmp_path)
    assert (2, 1) == (found.vms[0].agree, found.vms[0].repaired)
    assert "hypervisor" == found.vms[0].mappings[0].valid


@pytest.mark.parametrize(
    ("load", "problem"),
    [([0x5010, 7, 0x41000014], "met machine address 0x41000014, but the tables give machine address 0x41000010"),
     ([0x5010, 7, None], "met nothing, but the tables give machine address 0x41000010"),
     ([0x7000, 7, 0x41000000], "met machine address 0x41000000, but the tables give nothing"),
     ([0x5010, None, 0x41000010], "faulted, but the tables let it read machine address 0x41000010"),
     ([0x5008, None, None], "domain 0: two loads at 0x5008 contradict each other")],
)
def test_observation__that_contradicts_the_tables_is_bad_input(tiny, tmp_path, load, problem):
    tiny.meta["domains"]["0"]["loads"].append(load)
    assert refusal(tiny, tmp_path).endswith(problem)


def test_observation__of_an_emulated_device_is_not_checked(tiny, tmp_path):
    tiny.meta["domains"]["0"]["loads"].append([0x22000000, 0x90, None])
    found = look(tiny, tmp_path)
    assert ("not checked", 2) == (found.verdict, found.vms[0].agree)
