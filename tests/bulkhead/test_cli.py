"""The command line: whatever is typed wrong gets one line on stderr and exit code 2."""

import json
import subprocess
import sys

import pytest

from bulkhead.problems import BAD_INPUT, FAILS, HOLDS
from tests.bulkhead.files import ARM32, ROOT, command

WRONG = {
    "no such command": ["proof"],
    "no such option": ["--fast"],
    "prove: no such step": ["prove", "no_such_step"],
    "prove: a good and a bad step": ["prove", "map_grant_ref", "no_such_step"],
    "prove: no such option": ["prove", "--fast"],
    "prove: no such property": ["prove", "--property", "INV-NONE"],
    "prove: property without a name": ["prove", "--property"],
    "prove: no such claim": ["prove", "--claim", "peace"],
    "prove: claim without a name": ["prove", "--claim"],
    "prove: explain a word": ["prove", "--explain", "x"],
    "prove: explain no such step": ["prove", "--explain", "no_such_step/0/INV-NONE"],
    "prove: explain no such property": ["prove", "--explain", "map_grant_ref/0/INV-NONE"],
    "prove: explain two slashes": ["prove", "--explain", "//"],
    "prove: explain without a name": ["prove", "--explain"],
    "prove: no such solver": ["prove", "--solver", "oracle"],
    "prove: no seeds": ["prove", "--seeds", "0"],
    "prove: seeds a word": ["prove", "--seeds", "many"],
    "prove: seeds a fraction": ["prove", "--seeds", "1.5"],
    "prove: fewer than no jobs": ["prove", "--jobs", "-1"],
    "prove: jobs a word": ["prove", "--jobs", "all"],
    "prove: audit with a value": ["prove", "--audit=yes"],
    "prove: fresh with a value": ["prove", "--fresh=yes"],
    "prove: json with a value": ["prove", "--json=yes"],
    "walk: no file": ["walk"],
    "walk: two files": ["walk", "a", "b"],
    "walk: no such file": ["walk", "no-such-file.npz"],
    "walk: a folder": ["walk", "."],
    "walk: a device": ["walk", "/dev/zero"],
    "walk: an empty name": ["walk", ""],
    "walk: a name with a zero": ["walk", "a\0b"],
    "walk: a name too long": ["walk", "a" * 5000],
    "walk: a text": ["walk", __file__],
    "walk: json of a text": ["walk", __file__, "--json"],
    "walk: json with a value": ["walk", "--json=yes", str(ARM32)],
    "walk: no such option": ["walk", "--fast", str(ARM32)],
}


@pytest.mark.parametrize("name", WRONG)
def test_command__bad_input_is_one_line(name, monkeypatch, capsys):
    assert command(monkeypatch, *WRONG[name]) == BAD_INPUT
    captured = capsys.readouterr()
    assert ("", 1) == (captured.out, len(captured.err.splitlines()))
    assert captured.err.startswith("bulkhead: ")


@pytest.mark.parametrize("arguments", [["--help"], ["prove", "--help"], ["walk", "--help"]])
def test_command__help_is_no_failure(arguments, monkeypatch, capsys):
    assert command(monkeypatch, *arguments) == HOLDS
    assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["prove", "no_such_step"], ["walk", "no-such.npz"], ["prove", "--seeds", "0"]])
def test_command__as_a_process_prints_one_line_and_no_traceback(arguments):
    done = subprocess.run([sys.executable, "-m", "bulkhead.cli", *arguments], cwd=ROOT, capture_output=True, text=True,
                          check=False)
    assert (BAD_INPUT, "", 1) == (done.returncode, done.stdout, len(done.stderr.splitlines()))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"properties": 3}', '{"properties": [{"id": 1}]}'])
def test_prove__results_that_cannot_be_read_are_bad_input(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "proofs.json").write_text(text)
    assert command(monkeypatch, "prove", "--claim", "isolation") == BAD_INPUT
    assert "bulkhead: build/proofs.json cannot be read: run `make prove` again\n" == capsys.readouterr().err


def test_prove__a_claim_that_was_never_run_does_not_hold(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, "prove", "--claim", "isolation", "--json") == FAILS
    assert "not checked" == json.loads(capsys.readouterr().out)["verdict"]


def test_walk__a_reader_that_stops_early_sees_no_traceback():
    script = f"{sys.executable} -m bulkhead.cli walk {ARM32} | head -1"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ("", 1) == (done.stderr, len(done.stdout.splitlines()))


def test_walk__a_file_without_permission_is_bad_input(tmp_path, monkeypatch, capsys):
    path = tmp_path / "file.npz"
    path.write_bytes(b"")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("zipfile.ZipFile", refuse)
    assert command(monkeypatch, "walk", str(path)) == BAD_INPUT
    assert f"bulkhead: {path}: Permission denied\n" == capsys.readouterr().err
