"""`bulkhead audit` as a user meets it."""

import json
import shutil
import subprocess

import pytest

from bulkhead.auditor import bench
from bulkhead.auditor.findings import DOUBTS, VIOLATIONS
from bulkhead.problems import BAD_INPUT, FAILS, HOLDS
from spec.state import P2mType
from tests.bulkhead.auditor.machines import HOLE, healthy
from tests.bulkhead.files import ROOT, command

CHROMIUM = next((each for each in ("chromium-headless-shell", "chromium") if shutil.which(each)), "")
RECORDS = "owners of frames and grants in use"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An image, Xen's symbols, and files of VMs."""
    made, where = healthy(), tmp_path_factory.mktemp("audit")
    made.words.tofile(where / "memory")
    symbols = "".join(f"{address:#x} D {name}\n" for name, address in made.symbols.address.items())
    (where / "symbols.map").write_text(symbols)
    machine = f"[machine]\narchitecture = 'arm64'\nram = [[{made.base:#x}, {made.size:#x}]]\n"
    vms = "".join(f"[[vm]]\ndomain = {each.domain}\nvttbr = {each.vttbr:#x}\nvtcr = {each.vtcr:#x}\n"
                  for each in made.vms())
    (where / "symbols.toml").write_text(machine + "[xen]\nsymbols = 'symbols.map'\n")
    (where / "vms.toml").write_text(machine + vms)
    return where


def test_command__with_symbols_says_that_the_vms_are_isolated(folder, monkeypatch, capsys):
    assert HOLDS == command(monkeypatch, "audit", str(folder / "memory"), "--vms", str(folder / "symbols.toml"))
    printed = capsys.readouterr().out
    assert "grant 41 of dom1 to dom0, read-only" in printed
    assert "Verdict: isolated" == printed.splitlines()[-1]


def test_command__needs_no_file_beside_the_symbols(folder, monkeypatch, capsys):
    arguments = ["--ram", "0x40000000", "--symbols", str(folder / "symbols.map")]
    assert HOLDS == command(monkeypatch, "audit", str(folder / "memory"), *arguments)
    assert "Verdict: isolated" == capsys.readouterr().out.splitlines()[-1]


def test_command__without_symbols_says_what_is_not_checked(folder, monkeypatch, capsys):
    assert FAILS == command(monkeypatch, "audit", str(folder / "memory"), "--vms", str(folder / "vms.toml"))
    assert [f"not checked: {RECORDS}: no symbols of Xen were given", "Verdict: not checked"] == (
        capsys.readouterr().out.splitlines()[-2:])


def test_command__with_symbols_that_do_not_fit_says_so(folder, tmp_path, monkeypatch, capsys):
    names = (folder / "symbols.map").read_text()
    (tmp_path / "other.map").write_text(names.replace("0x200000 D _start", "0x0 D _start"))
    arguments = ["--vms", str(folder / "vms.toml"), "--symbols", str(tmp_path / "other.map")]
    assert FAILS == command(monkeypatch, "audit", str(folder / "memory"), *arguments)
    assert f"not checked: {RECORDS}: Xen was not found in the image" in capsys.readouterr().out


def test_json__has_a_stable_schema(folder, monkeypatch, capsys):
    arguments = [str(folder / "memory"), "--vms", str(folder / "symbols.toml"), "--json"]
    assert HOLDS == command(monkeypatch, "audit", *arguments)
    found = json.loads(capsys.readouterr().out)
    assert ["version", "image", "architecture", "xen", "verdict", "findings", "not_checked", "vms", "shared"] == (
        list(found))
    assert (1, "arm64", "isolated", [], []) == tuple(
        found[each] for each in ("version", "architecture", "verdict", "findings", "not_checked"))
    assert ["name", "domain", "vmid", "root", "ipa_bits", "start_level", "table_pages", "leaves",
            "writable_and_executable", "ranges"] == list(found["vms"][0])
    granted = next(each for each in found["shared"] if each["why"].startswith("grant 41"))
    assert {"machine": granted["machine"], "size": 4096, "reason": "granted", "justified": True,
            "why": "grant 41 of dom1 to dom0, read-only", "users": [
                {"vm": "dom0", "type": "grant_map_ro", "access": "r--", "valid": "hardware"},
                {"vm": "dom1", "type": "ram_rw", "access": "rwx", "valid": "hardware"}]} == granted
    assert {"machine": granted["machine"], "size": 4096, "type": "grant_map_ro", "access": "r--", "memory": "normal",
            "valid": "hardware"} in found["vms"][0]["ranges"]


def test_address__tells_who_reaches_it_and_how(folder, monkeypatch, capsys):
    base = ["audit", str(folder / "memory"), "--vms", str(folder / "symbols.toml")]
    command(monkeypatch, *base, "--json")
    shared = json.loads(capsys.readouterr().out)["shared"]
    address = next(each["machine"] for each in shared if each["why"].startswith("grant 41")) + 0x10
    assert HOLDS == command(monkeypatch, *base, "--address", hex(address), "--json")
    found = json.loads(capsys.readouterr().out)
    assert ("dom1", ["dom0", "dom1"], ["dom1"], ["dom1"]) == tuple(
        found[each] for each in ("owner", "read", "write", "execute"))
    assert [HOLE + 0x1010, 0x40001010] == [each["ipa"] for each in found["ways"]]
    assert [0, 1, 2, 3] == [each["level"] for each in found["ways"][0]["steps"]]
    last = found["ways"][0]["steps"][-1]["word"]
    assert (P2mType.GRANT_MAP_RO, address & ~0xFFF) == (last >> 55 & 15, last & 0xFFFFFFFFF000)
    assert HOLDS == command(monkeypatch, *base, "--address", "0x7ffff000")
    assert "read:    nobody" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "problem"), [
    ([], "give an image, or --qmp with the socket of a running QEMU"),
    (["memory"], "memory: a raw image does not say where its RAM lies: give --ram BASE or a [machine] table"),
    (["memory", "--ram", "0x40000000"], "the VMs are not known: give --vms, --symbols, or --qmp and --gdb"),
    (["memory", "--ram", "x"], "--ram: 'x' is no number"),
    (["memory", "--arch", "x86"], "--arch must be arm64 or arm32"),
    (["memory", "--vms", "nothing"], "nothing: No such file or directory"),
    (["memory", "--address", "-1"], "-0x1 is no machine address of 48 bits"),
    (["memory", "--vms", "vms.toml", "--html", "memory"], "memory: exists already, and is not overwritten"),
    (["--qmp", "memory"], "memory: no socket"), (["memory", "--gdb", "memory"], "--gdb needs --qmp too"),
])
def test_command__refuses_bad_input_in_one_line(folder, monkeypatch, capsys, arguments, problem):
    monkeypatch.chdir(folder)
    assert BAD_INPUT == command(monkeypatch, "audit", *arguments)
    captured = capsys.readouterr()
    assert ("", f"bulkhead: {problem}\n") == (captured.out, captured.err)


def test_page__holds_everything_in_itself(folder, tmp_path, monkeypatch, capsys):
    page = tmp_path / "map.html"
    arguments = [str(folder / "memory"), "--vms", str(folder / "symbols.toml"), "--html", str(page)]
    assert HOLDS == command(monkeypatch, "audit", *arguments)
    assert f"The map is in {page}" == capsys.readouterr().out.splitlines()[-1]
    text = page.read_text("utf-8")
    assert "http" not in text.replace("http-equiv", "")
    start = text.index('id="data">') + 10
    data = json.loads(text[start:text.index("</script>", start)])
    assert ("isolated", True) == (data["verdict"], data["records"])
    assert ["Xen", "free", "not known", "dom0", "dom1", "dom2", "DOM_XEN", "DOM_IO"] == data["owners"]


def test_page__of_an_image_with_a_strange_name_stays_a_page(folder, tmp_path, monkeypatch, capsys):
    image, page = tmp_path / "<script>x&", tmp_path / "map.html"
    image.symlink_to(folder / "memory")
    assert HOLDS == command(
        monkeypatch, "audit", str(image), "--vms", str(folder / "symbols.toml"), "--html", str(page))
    assert 2 == page.read_text("utf-8").count("<script")


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")
def test_page__can_be_zoomed_and_pointed_at(folder, tmp_path, monkeypatch, capsys):
    page = tmp_path / "map.html"
    command(monkeypatch, "audit", str(folder / "memory"), "--vms", str(folder / "symbols.toml"), "--html", str(page))
    act = """<script>addEventListener("load", () => {
        const map = document.getElementById("c"), box = map.getBoundingClientRect();
        const said = id => document.getElementById(id).textContent;
        const at = { clientX: box.left + 400, clientY: box.top + 100, bubbles: true, cancelable: true };
        map.dispatchEvent(new WheelEvent("wheel", { deltaY: -1, ...at }));
        map.dispatchEvent(new PointerEvent("pointermove", at));
        document.title = said("range") + "|" + said("tip");
    });</script></body>"""
    page.write_text(page.read_text("utf-8").replace("</body>", act), "utf-8")
    arguments = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    title = done.stdout[done.stdout.index("<title>") + 7:done.stdout.index("</title>")]
    shown, tip = title.split("|")
    assert "44.88 MiB" in shown
    assert "owner: " in tip


def test_bench__of_a_small_size_measures_all_cases(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    assert bench.command(["--quick", "--rounds", "1"]) == HOLDS
    cases = json.loads((tmp_path / "build" / "bench-audit.json").read_text())["cases"]
    assert [1998, 165888, 165888] == [each["leaves"] for each in cases]


def test_documentation__explains_every_kind_of_finding():
    text = (ROOT / "docs" / "audit.rst").read_text("utf-8")
    assert [] == [kind for kind in (*VIOLATIONS, *DOUBTS) if f"\n``{kind}``\n" not in text]
