"""The auditor on memory of real Xen: healthy machines, planted faults, and a QEMU that runs."""

import pathlib
from collections.abc import Iterator

import numpy as np
import pytest

from bulkhead.audit import ISOLATED, NOT_CHECKED
from bulkhead.auditor import symbols
from bulkhead.auditor.image import from_words
from bulkhead.auditor.judge import judge
from bulkhead.auditor.lookup import look
from bulkhead.auditor.run import Request, audited
from bulkhead.auditor.symbols import Symbols
from bulkhead.problems import BadInputError
from impl.xen.config import Config, Guest
from impl.xen.kinds import KINDS
from impl.xen.machine import Machine
from tests.bulkhead.auditor.faults import FAULTS
from tests.bulkhead.auditor.machines import Patient
from tests.conformance.conftest import machine_of
from tests.conformance.guests import Call, grant_entry

WRITABLE, READ_ONLY, FOR_DOM2, FOREIGN = range(0x20, 0x24)
"""Pages of dom1 that others map."""


@pytest.fixture(scope="module", params=list(KINDS))
def machine(request, installation) -> Iterator[Machine]:
    """dom0 has mapped two grants and a foreign page of dom1, dom2 one grant; dom2 has given a page back."""
    with machine_of(Config(request.param, guests=[Guest(), Guest(vcpus=2), Guest(pages=600)]), installation) as made:
        _share(made)
        yield made


@pytest.fixture(scope="module")
def names(machine) -> Symbols:
    """Xen's symbols, or else a skipped test."""
    path = machine.installation.folder / f"xen-syms-{machine.kind.arch}"
    if not path.exists():
        pytest.skip("Xen's symbols are not there: run `python -m impl.xen.setup --symbols`")
    return symbols.read(path)


@pytest.fixture(scope="module")
def patient(machine, names) -> Patient:
    """A copy of the machine's memory that may be damaged; what was never written takes no memory."""
    words = np.zeros(machine.kind.ram_size >> 3, np.uint64)
    with machine.qemu.stopped():
        for start, end in machine.qemu.written():
            words[start >> 3:end >> 3] = machine.qemu.words[start >> 3:end >> 3]
    return Patient(machine.kind.ram_base, words, names)


def _share(machine: Machine) -> None:
    dom0, dom1, dom2 = Call(machine, 0), Call(machine, 1), Call(machine, 2)
    table, first, hole = machine.hole(1), dom1.base >> 12, machine.hole(0)
    dom1.grant_table_at(table)
    for ref, flags, domain, page in ((40, 1, 0, WRITABLE), (41, 5, 0, READ_ONLY), (42, 1, 2, FOR_DOM2)):
        dom1.program.store(table + 8 * ref, 8, grant_entry(flags, domain, first + page))
    dom1.go()
    statuses = [dom0.map(1, 40, hole)[1], dom0.map(1, 41, hole + 0x1000, readonly=True)[1]]
    source, target = dom0.struct(0x500, "Q", first + FOREIGN), dom0.struct(0x508, "Q", (hole >> 12) + 2)
    error = dom0.struct(0x510, "i", -1)
    dom0.program.hypercall(12, 23, dom0.struct(0x520, "HHHHQQQ", 0x7FF0, 4, 1, 1, source, target, error))
    statuses.append(dom0.program.load(error, 4))
    run = dom0.go()
    assert [0, 0, 0] == [run.value(each) for each in statuses]
    status = dom2.map(1, 42, machine.hole(2))[1]
    dom2.reservation(1, (dom2.base >> 12) + 0x30)
    assert dom2.go().value(status) == 0


def test_audit__of_a_healthy_machine_finds_nothing(patient):
    found = patient.verdict()
    assert (ISOLATED, (), ()) == (found.verdict, found.findings, found.unchecked)
    assert all(each.justified for each in found.shared)
    assert ["grant 40 of dom1 to dom0, writable", "grant 41 of dom1 to dom0, read-only",
            "grant 42 of dom1 to dom2, writable", "mapped by dom0, which has the privilege, owner dom1"] == [
                each.why for each in found.shared if each.reason != "device"]


def test_audit__finds_the_domains_that_the_processor_runs(machine, patient):
    for number in machine.domains:
        roots = machine.roots(number)
        assert (roots.vttbr, roots.vtcr) == next(
            (vm.vttbr, vm.vtcr) for vm in patient.vms if vm.domain == number)


def test_audit__sees_every_leaf_that_a_plain_reading_of_the_tables_sees(machine, patient):
    assert [len(machine.leaves(vm.domain)) for vm in patient.vms] == patient.reach.leaves


def test_audit__says_who_reaches_an_address(machine, patient):
    address = machine.translate(1, machine.ram(1)[0] + (READ_ONLY << 12) + 0x123)
    answer = look(patient.verdict(), address)
    assert ("dom1", ["dom0", "dom1"], ["dom1"], ["dom1"]) == (
        answer.owner, answer.who("r"), answer.who("w"), answer.who("x"))
    assert [machine.hole(0) + 0x1123, machine.ram(1)[0] + (READ_ONLY << 12) + 0x123] == [
        each.ipa for each in answer.ways]


@pytest.mark.parametrize("name", FAULTS)
def test_audit__finds_a_planted_fault_and_nothing_else(patient, name):
    plant, expected = FAULTS[name]
    with patient.restored():
        plant(patient)
        found = patient.verdict()
    assert expected == {(each.kind, each.vm) for each in found.findings}


def test_audit__of_a_truncated_image_says_so_and_nothing_else(patient):
    half = len(patient.words) // 2
    image = from_words("half", [(patient.base, patient.words[:half])], [(patient.base, 16 * half)])
    found = judge(image, patient.vms)
    assert (NOT_CHECKED, ["truncated"]) == (found.verdict, [each.kind for each in found.findings])


def test_audit__reads_the_ram_file_of_a_running_qemu(machine, names):
    with machine.qemu.lent() as sockets:
        request = Request(image=machine.qemu.memory, qmp=sockets / "qmp", symbols=pathlib.Path(names.name))
        with audited(request) as found:
            assert (ISOLATED, ()) == (found.verdict, found.findings)
    assert machine.load(1, 0, machine.ram(1)[0]).kind == "value"


def test_audit__finds_the_vms_by_watching_the_processor(machine):
    roots = {machine.roots(each).table for each in machine.domains}
    with machine.qemu.lent() as sockets, audited(
            Request(image=machine.qemu.memory, qmp=sockets / "qmp", gdb=sockets / "gdb")) as found:
        assert NOT_CHECKED == found.verdict
        assert {vm.root for vm in found.vms} <= roots
        assert len(found.vms) > 1


def test_audit__reads_an_elf_core(machine, names, tmp_path):
    core = tmp_path / "core"
    with machine.qemu.stopped():
        machine.qemu.monitor.command("dump-guest-memory", paging=False, protocol=f"file:{core}")
    try:
        with audited(Request(image=core, symbols=pathlib.Path(names.name))) as found:
            assert ("core", ISOLATED, ()) == (found.image.form, found.verdict, found.findings)
    finally:
        core.unlink()


def test_audit__refuses_the_symbols_of_another_xen(machine, patient):
    other = "armhf" if machine.kind.arch == "arm64" else "arm64"
    path = machine.installation.folder / f"xen-syms-{other}"
    with pytest.raises(BadInputError, match="the symbols do not fit this image"):
        Patient(patient.base, patient.words, symbols.read(path))
