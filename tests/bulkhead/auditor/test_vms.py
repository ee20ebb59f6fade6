"""The file of VMs."""

import pytest

from bulkhead.auditor import vms
from bulkhead.problems import BadInputError
from impl.fast.geometry import Geometry

WHOLE = """
version = 1
[machine]
architecture = "arm32"
ram = [[0x80000000, 0x40000000]]
[xen]
symbols = "syms.map"
address = 0x80200000
[[vm]]
domain = 0
vttbr = 0x0001000042000000
vtcr = 0x80003558
[[vm]]
name = "guest"
vttbr = 0x0002000043000000
vtcr = 0x80003558
"""


def write(tmp_path, text):
    path = tmp_path / "vms.toml"
    path.write_text(text)
    return path


def test_file__says_everything(tmp_path):
    found = vms.read(write(tmp_path, WHOLE))
    expected = vms.Given(True, ((0x80000000, 0x40000000),), tmp_path / "syms.map", 0x80200000, (
        ("dom0", 0, 0x1000042000000, 0x80003558), ("guest", None, 0x2000043000000, 0x80003558)))
    assert expected == found


def test_file__may_say_nothing(tmp_path):
    assert vms.Given() == vms.read(write(tmp_path, ""))


@pytest.mark.parametrize(("text", "problem"), [
    ("version = 2", "version 2 is not known, only 1"),
    ("verson = 1", "the file has an unknown 'verson': known are machine, version, vm, xen"),
    ("vm = 1", "each VM is a table [[vm]]"),
    ("machine = 1", "[machine] must be a table"),
    ("[machine]\narchitecture = 'x86'", "architecture must be arm64 or arm32"),
    ("[machine]\nram = [[1]]", "ram must be a list of [base, size]"),
    ("[machine]\nram = [[true, 4096]]", "ram must be a list of [base, size]"),
    ("[machine]\nram = [[1, 4096]]", "RAM of 0x1000 bytes at 0x1 is not whole pages below 2^48"),
    ("[xen]\nsymbols = 1", "symbols must be the name of a file"),
    ("[xen]\naddress = -1", "address of [xen] must be a whole number from 0 to 0xffffffffffff"),
    ("[[vm]]\nvtcr = 1", "vttbr of VM vm0 must be a whole number from 0 to 0xffffffffffffffff"),
    ("[[vm]]\nvttbr = 1", "vtcr of VM vm0 must be a whole number from 0 to 0xffffffffffffffff"),
    ("[[vm]]\nname = ''", "the name of VM number 0 must be a text of at most 40 printable characters"),
    ("[[vm]]\ndomain = 0x7ff0", "domain of VM number 0 must be a whole number from 0 to 0x7fef"),
])
def test_file__refuses_what_it_does_not_know_in_one_line(tmp_path, text, problem):
    path = write(tmp_path, text)
    with pytest.raises(BadInputError) as caught:
        vms.read(path)
    assert f"{path}: {problem}" == str(caught.value)


@pytest.mark.parametrize("data", [b"x = ", b"\xff\xfe", b"[" * 5000])
def test_file__refuses_what_is_no_toml(tmp_path, data):
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(BadInputError, match="x: not TOML") as caught:
        vms.read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("vtcr", "vttbr", "problem"), [
    (3 << 6, 0, "VM x: SL0 3 is reserved"), (0x80043594 | 7 << 16, 0, "VM x: PS 7 is reserved"),
    (Geometry(32, 1, 32).vtcr(), 0x1020, "VM x: the first table 0x1020 is no page, as Xen's are"),
])
def test_vm__refuses_registers_that_fit_no_walk(vtcr, vttbr, problem):
    with pytest.raises(BadInputError, match=problem):
        vms.vm_of("x", vttbr, vtcr, arm32=False)


def test_vms__are_told_apart():
    one = vms.vm_of("x", 0x1000042000000, 0x80043594, arm32=False)
    with pytest.raises(BadInputError, match="two VMs have the same name, x"):
        vms.distinct([one, one])
