"""Xen's records, and symbols that do not fit them."""

import attrs
import pytest

from bulkhead.auditor import symbols
from bulkhead.auditor.synthetic import VIRTUAL_START
from bulkhead.auditor.xen_memory import Xen
from bulkhead.problems import BadInputError
from tests.bulkhead.auditor.machines import healthy


@pytest.fixture(scope="module", params=[False, True], ids=["arm64", "arm32"])
def made(request):
    return healthy(arm32=request.param)


def test_xen__knows_its_domains_owners_and_grants(made):
    xen = Xen(made.image(), made.symbols)
    assert [(0, True), (1, False), (2, False)] == [(each.number, each.privileged) for each in xen.domains]
    assert [vm.vttbr for vm in made.vms()] == [vm.vttbr for vm in xen.vms()]
    assert [(1, 40, 0, True), (1, 41, 0, False), (1, 120, 2, True)] == [
        (each.granter, each.ref, each.mapper, each.writable) for each in xen.active]
    assert ["Xen", "free", "dom1"] == [xen.owner_name(xen.owner(each)) for each in (
        xen.address >> 12, (made.base + made.size >> 12) - 1, xen.active[0].frame)]


def test_xen__is_found_where_it_is_said_to_be(made):
    assert made.xen == Xen(made.image(), made.symbols, made.xen).address
    with pytest.raises(BadInputError, match="Xen was not found in the image"):
        Xen(made.image(), made.symbols, made.xen + 0x1000)


@pytest.mark.parametrize(("name", "problem"), [
    ("domain_list", "Xen had no domains yet"), ("frametable_virt_end", "the frame table has no entries for this RAM"),
    ("_start", "Xen was not found in the image")])
def test_xen__refuses_symbols_of_another_build(made, name, problem):
    names = attrs.evolve(made.symbols, address=made.symbols.address | {name: VIRTUAL_START + 0x3008})
    with pytest.raises(BadInputError, match=problem):
        Xen(made.image(), names)


def test_xen__refuses_a_list_of_domains_without_end(made):
    layout = made.layout
    last = made.guests[-1].address - made.heap + made.base + layout.next
    made.store(last, made.guests[0].address, layout.word)
    with pytest.raises(BadInputError, match="the list of domains is endless"):
        Xen(made.image(), made.symbols)
    made.store(last, 0, layout.word)


def test_symbols__of_a_list_know_static_ones_by_their_name(tmp_path):
    path = tmp_path / "map"
    path.write_text("0x200000 T _start\n0x32b000 b mm.c#xen_pgtable\n0x2fa060 B domain_list\n")
    found = symbols.read(path)
    assert (False, 0x32B000, 0x2FA060) == (found.arm32, found.of("xen_pgtable"), found.of("domain_list"))
    with pytest.raises(BadInputError, match="there is no symbol dom_io"):
        found.of("dom_io")


@pytest.mark.parametrize("data", [b"", b"hello", b"0x1 T _start", b"zz T _start\n", b"\x7fELF", b"\xff" * 100])
def test_symbols__refuse_what_is_none_of_xens(tmp_path, data):
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(BadInputError) as caught:
        symbols.read(path)
    assert "\n" not in str(caught.value)


def test_symbols__refuse_a_file_that_is_not_there(tmp_path):
    with pytest.raises(BadInputError, match="No such file"):
        symbols.read(tmp_path / "x")
