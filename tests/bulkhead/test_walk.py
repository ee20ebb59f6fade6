"""`bulkhead walk`: the tables of a running Xen and what its guests observed, as text and as JSON."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bulkhead import audit, tables, walk
from bulkhead.problems import BAD_INPUT, FAILS, HOLDS
from spec.language import Mfn, Word, decode, encode, evolve
from spec.memory import walk as one_walk
from spec.memory.descriptors import Access, Descriptor, leads_to_table, leaf, table_word
from tests.bulkhead.files import ARM32, ARM64, ROOT, File, command, look

GRANTED_READ_ONLY = 0x50301000
"""Where VM 0 of the arm32 machine mapped grant 41 of VM 1."""


@pytest.fixture(scope="module")
def real() -> dict[Path, audit.Audit]:
    return {path: audit.audit(tables.read(path)) for path in (ARM64, ARM32)}


@pytest.mark.parametrize("path", [ARM64, ARM32], ids=["arm64", "arm32"])
def test_walk__agrees_with_every_load_of_the_guests(real, path):
    assert [(100, 100), (200, 200), (200, 200)] == [(len(each.domain.loads), each.agree) for each in real[path].vms]


@pytest.mark.parametrize(
    ("path", "leaves", "ranges"),
    [(ARM64, [193_822, 551, 551], [20, 12, 12]), (ARM32, [738, 551, 551], [39, 14, 14])], ids=["arm64", "arm32"],
)
def test_walk__finds_every_mapping(real, path, leaves, ranges):
    assert leaves == [each.leaves for each in real[path].vms]
    assert ranges == [len(each.mappings) for each in real[path].vms]


@pytest.mark.parametrize("path", [ARM64, ARM32], ids=["arm64", "arm32"])
def test_walk__every_table_page_of_the_file_is_used_once(real, path):
    used = [page for vm in real[path].vms for page in vm.tables]
    assert sorted(used) == sorted(real[path].tables.row)


@pytest.mark.parametrize(
    ("path", "expected"),
    [(ARM64, [(0x8040000, 0x2000, True, "a device"),
              (0xB8012000, 0x1000, False, "grant 40 of VM 1 to VM 0, writable"),
              (0xB8013000, 0x1000, False, "grant 41 of VM 1 to VM 0, read-only")]),
     (ARM32, [(0x2C006000, 0x2000, True, "a device"),
              (0xBBE13000, 0x1000, False, "grant 40 of VM 1 to VM 0, writable"),
              (0xBBE14000, 0x1000, False, "grant 41 of VM 1 to VM 0, read-only")])], ids=["arm64", "arm32"],
)
def test_walk__names_the_reason_of_all_that_is_shared(real, path, expected):
    assert expected == [(each.machine, each.size, each.device, each.why) for each in real[path].shared]
    assert real[path].verdict == "isolated"


def decoded(file: File, table: int, level: int, words: int, base: int) -> list[tuple[int, int, int, int]]:
    """Leaves as (IPA, machine address, bytes, the bits of type and permission), read straight from the bits."""
    rows = {address: row for row, address in enumerate(file.address.tolist())}
    found, size = [], 1 << 39 - 9 * level
    for index in range(words):
        word = int(file.page[rows[table + index // 512 * 4096]][index % 512])
        if not word & 1 and not word >> 55 & 15:
            continue
        if level < 3 and word & 2:
            found += decoded(file, word & 0xFFFFFFFFF000, level + 1, 512, base + index * size)
        else:
            found.append((base + index * size, word & 0xFFFFFFFFF000, size, word & (0xF << 55 | 1 << 54 | 0xC0)))
    return found


@pytest.mark.parametrize(
    ("path", "level", "words"), [(ARM64, 0, 32), (ARM32, 1, 1024)], ids=["arm64", "arm32"],
)
def test_walk__each_mapping_is_what_the_bits_say(real, path, level, words):
    file = File.like(path)
    for vm in real[path].vms:
        bits = {}
        for ipa, machine, size, rest in decoded(file, vm.domain.root, level, words, 0):
            bits[ipa] = (machine, size, rest)
        for each in vm.mappings:
            done = 0
            while done < each.size:
                machine, size, rest = bits.pop(each.ipa + done)
                assert (each.machine + done, each.type, each.read, each.write, each.execute) == (
                    machine, rest >> 55 & 15, bool(rest & 0x40), bool(rest & 0x80), not rest & 1 << 54)
                done += size
        assert bits == {}


@pytest.mark.parametrize("path", [ARM64, ARM32], ids=["arm64", "arm32"])
def test_walk__each_range_is_what_single_accesses_meet(real, path, rng):
    file = File.like(path)
    rows = {address >> 12: row for row, address in enumerate(file.address.tolist())}

    def words(frame, index):
        return Word(int(file.page[rows[frame]][index]))

    for vm in real[path].vms:
        for each in vm.mappings:
            for offset in (0, each.size - 1, rng.randrange(each.size)):
                met = one_walk.walk(words, Word(vm.domain.vttbr), vm.shape, each.ipa + offset)
                assert (each.valid == "hardware") == (met.fault == one_walk.Fault.NONE)
                if each.valid == "hardware":
                    assert each.machine + offset == one_walk.address(met, each.ipa + offset)


@pytest.mark.parametrize(("path", "step"), [(ARM64, 61), (ARM32, 1)], ids=["arm64", "arm32"])
def test_walk__the_specification_would_write_the_very_same_words(real, path, step):
    file = File.like(path)
    rows = {address >> 12: row for row, address in enumerate(file.address.tolist())}

    def words(frame, index):
        return Word(int(file.page[rows[frame]][index]))

    for vm in real[path].vms:
        root = Mfn(vm.domain.root >> 12)
        for each in itertools.islice(one_walk.leaves(words, root, vm.shape), None, None, step):
            entry = each.entry
            made = leaf(entry.frame, entry.type, Access.RWX, each.level)
            assert words(each.table, each.index) == encode(evolve(made, valid=entry.valid))
        for table, level in one_walk.tables(words, root, vm.shape):
            for index in range(512 if level < 3 else 0):
                entry = decode(Descriptor, words(table, index))
                if leads_to_table(entry, level):
                    assert words(table, index) == encode(evolve(table_word(entry.frame), valid=entry.valid))


def test_walk__a_terminal_that_knows_few_letters_is_no_failure(tiny, tmp_path):
    tiny.meta["xen"] = "4.17 «modified»"
    arguments = [sys.executable, "-m", "bulkhead.cli", "walk", tiny.write(tmp_path / "file.npz")]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, check=False, env={"PYTHONIOENCODING": "ascii"})
    assert (HOLDS, b"") == (done.returncode, done.stderr)


def test_walk__arm32_ram_is_mostly_valid_for_xen_only(real):
    own = [each for each in real[ARM32].vms[1].mappings if each.kind == "ram_rw"]
    assert 58 << 20 == sum(each.size for each in own if each.valid == "hypervisor")
    assert all(each.valid == "hardware" for vm in real[ARM64].vms for each in vm.mappings)


def test_walk__prints_a_page_that_can_be_read(capsys, monkeypatch):
    assert command(monkeypatch, "walk", str(ARM32)) == HOLDS
    printed = capsys.readouterr().out.splitlines()
    assert "  0x50301000-0x50301fff  0xbbe14000-0xbbe14fff  4 KiB     grant_map_ro     r--     yes" in printed
    assert printed[-2:] == ["500 of 500 loads by the guests agree with the walk", "Verdict: isolated"]
    assert len(printed) < 120


def test_walk__json_has_a_stable_schema(capsys, monkeypatch):
    assert command(monkeypatch, "walk", str(ARM32), "--json") == HOLDS
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["version", "file", "xen", "architecture", "ram", "verdict", "violations", "not_checked",
                           "remarks", "observations", "vms", "shared"]
    assert (1, "arm32", "isolated", [], [], []) == (found["version"], found["architecture"], found["verdict"],
                                                    found["violations"], found["not_checked"], found["remarks"])
    assert {"total": 500, "agree": 500} == found["observations"]
    vm = found["vms"][0]
    assert list(vm) == ["vm", "vmid", "root", "ipa_bits", "start_level", "root_pages", "table_pages", "leaves",
                        "observations", "mappings"]
    assert {"ipa": 0x50301000, "machine": 0xBBE14000, "size": 0x1000, "type": "grant_map_ro", "access": "r--",
            "valid": "hardware", "leaves": 1} in vm["mappings"]
    assert {"machine": 0xBBE14000, "size": 0x1000, "device": False, "justified": True,
            "why": "grant 41 of VM 1 to VM 0, read-only",
            "users": [{"vm": 0, "ipa": 0x50301000, "type": "grant_map_ro", "access": "r--"},
                      {"vm": 1, "ipa": 0x43E14000, "type": "ram_rw", "access": "rwx"}]} == found["shared"][2]


def test_walk__a_violation_is_the_exit_code(arm32, tmp_path, monkeypatch, capsys):
    arm32.change(0, GRANTED_READ_ONLY, write=True)
    assert command(monkeypatch, "walk", str(arm32.write(tmp_path / "file.npz"))) == FAILS
    captured = capsys.readouterr()
    assert "Verdict: violation" == captured.out.splitlines()[-1]
    assert captured.err == ""


@pytest.mark.parametrize(("make", "problem"), [
    (lambda path: None, "no such file"), (lambda path: path.mkdir(), "not a file"),
    (lambda path: path.write_bytes(b""), "damaged or truncated: not a whole .npz archive"),
    (lambda path: path.write_text("hello"), "damaged or truncated: not a whole .npz archive"),
])
def test_command__refuses_what_is_no_archive(tmp_path, monkeypatch, capsys, make, problem):
    make(tmp_path / "x")
    assert command(monkeypatch, "walk", str(tmp_path / "x")) == BAD_INPUT
    captured = capsys.readouterr()
    assert ("", f"bulkhead: {tmp_path / 'x'}: {problem}\n") == (captured.out, captured.err)


def test_command__keeps_to_one_line_whatever_the_file_is_called(tmp_path, monkeypatch, capsys):
    assert command(monkeypatch, "walk", str(tmp_path / "a\nb\x1b[31m")) == BAD_INPUT
    assert 1 == len(capsys.readouterr().err.splitlines())


def test_command__prints_no_control_characters_of_the_file(tiny, tmp_path, monkeypatch, capsys):
    tiny.meta["xen"] = "4.17\x1b[31m\n[bold]x"
    assert command(monkeypatch, "walk", str(tiny.write(tmp_path / "file.npz"))) == HOLDS
    assert "Xen 4.17?[31m?[bold]x" in capsys.readouterr().out


def test_command__as_a_process_leaves_no_traceback(tmp_path):
    path = tmp_path / "cut.npz"
    path.write_bytes(ARM32.read_bytes()[:5000])
    arguments = [sys.executable, "-m", "bulkhead.cli", "walk", path]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (BAD_INPUT, "", f"bulkhead: {path}: damaged or truncated: not a whole .npz archive\n") == (
        done.returncode, done.stdout, done.stderr)


def test_document__is_json_for_every_verdict(arm32, tmp_path):
    arm32.change(0, GRANTED_READ_ONLY, write=True)
    assert json.loads(json.dumps(walk.document(look(arm32, tmp_path))))["verdict"] == "violation"
