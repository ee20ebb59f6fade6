"""Reading a file of tables: what is refused, and that damage of any kind leaves no traceback."""

import io
import json
import random
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulkhead import tables
from bulkhead.problems import BAD_INPUT, FAILS, HOLDS, BadInputError
from spec.language import Mfn, encode
from spec.memory.descriptors import table_word
from tests.bulkhead.files import ARM32, File, command, look, refusal


def bad_meta(**change: Any) -> Callable[[File], None]:
    return lambda file: file.meta.update(change)


def without(*names: str) -> Callable[[File], None]:
    def change(file: File) -> None:
        found = file.meta
        for each in names[:-1]:
            found = found[each]
        del found[names[-1]]
    return change


def bad_domain(**change: Any) -> Callable[[File], None]:
    return lambda file: file.meta["domains"]["1"].update(change)


def bad_load(*load: Any) -> Callable[[File], None]:
    return lambda file: file.meta["domains"]["1"]["loads"].append(list(load))


def bad_grant(**change: Any) -> Callable[[File], None]:
    grant = {"granter": 1, "mapper": 0, "ref": 3, "map_flags": 2, "mapped_at_ipa": 0x5000, "status": 0}
    return lambda file: file.meta["grants"].append({**grant, **change})


def both(*changes: Callable[[File], None]) -> Callable[[File], None]:
    def change(file: File) -> None:
        for each in changes:
            each(file)
    return change


def twice(file: File) -> None:
    file.meta = json.dumps(file.meta).replace('"1": {"vttbr"', '"0": {"vttbr"')


def arrays(**change: Any) -> Callable[[File], None]:
    def apply(file: File) -> None:
        for name, function in change.items():
            setattr(file, name, function(getattr(file, name)))
    return apply


BAD = {
    "no ram_base": (without("ram_base"), "meta lacks ram_base"),
    "ram_base a text": (bad_meta(ram_base="0"), "ram_base of meta has the wrong type"),
    "ram_base true": (bad_meta(ram_base=True), "ram_base of meta has the wrong type"),
    "ram_base negative": (bad_meta(ram_base=-4096), "ram_base of meta must be a whole number from 0 to 0xffffffffffff"),
    "ram_size zero": (bad_meta(ram_size=0), "RAM of 0x0 bytes at 0x40000000 is no machine's"),
    "ram_size odd": (bad_meta(ram_size=5), "RAM of 0x5 bytes at 0x40000000 is no machine's"),
    "ram_size huge": (bad_meta(ram_size=1 << 48), "RAM of 0x1000000000000 bytes at 0x40000000 is no machine's"),
    "ram elsewhere": (bad_meta(ram_base=0), "table page 0x40000000 lies outside RAM (0x0, 0x10000000 bytes)"),
    "aarch64 a number": (bad_meta(aarch64=1), "aarch64 of meta has the wrong type"),
    "the other architecture": (bad_meta(aarch64=False), "domain 0: VTCR 0x80043594: the sign bit of T0SZ is wrong"),
    "no domains": (without("domains"), "meta lacks domains"),
    "empty domains": (bad_meta(domains={}), "no domain is named"),
    "domains a list": (bad_meta(domains=[]), "domains of meta has the wrong type"),
    "domain a list": (bad_meta(domains={"0": []}), "domain 0 must be a JSON object"),
    "domain a word": (bad_meta(domains={"x\n": {}}), "domain 'x?' is not a number"),
    "domain with zeros": (bad_meta(domains={"01": {}}), "domain '01' is not a number"),
    "domain reserved": (bad_meta(domains={"32752": {}}), "domain '32752' is a number that no VM has"),
    "domain twice": (twice, "meta names '0' twice"),
    "no vttbr": (without("domains", "1", "vttbr"), "domain 1 lacks vttbr"),
    "vttbr too wide": (bad_domain(vttbr=1 << 64),
                       "vttbr of domain 1 must be a whole number from 0 to 0xffffffffffffffff"),
    "vtcr a fraction": (bad_domain(vtcr=1.5), "vtcr of domain 1 has the wrong type"),
    "two vtcrs": (bad_domain(vtcr=0x80043595), "domains 0 and 1 have two VTCRs; Xen has one for all"),
    "no root": (bad_domain(vttbr=2 << 48 | 0x40009000), "domain 1: the table page 0x40009000 is not in the file"),
    "loads a text": (bad_domain(loads="x"), "loads of domain 1 has the wrong type"),
    "load of two": (bad_load(1, 2), "a load of domain 1 must be [ipa, value, machine address]"),
    "load at a text": (bad_load("1", 2, 3),
                       "the address of a load of domain 1 must be a whole number from 0 to 0xffffffffffffffff"),
    "load negative": (bad_load(1, -2, 3),
                      "the value of a load of domain 1 must be a whole number from 0 to 0xffffffffffffffff"),
    "load far away": (bad_load(1, 2, 1 << 48),
                      "the machine address of a load of domain 1 must be a whole number from 0 to 0xffffffffffff"),
    "grants a number": (bad_meta(grants=3), "grants must be a list"),
    "grant a number": (bad_meta(grants=[3]), "a grant must be a JSON object"),
    "grant without ref": (bad_meta(grants=[{"status": 0, "granter": 1, "mapper": 0}]), "a grant lacks ref"),
    "grant in a page": (bad_grant(mapped_at_ipa=0x5004), "grant 3 is said to be mapped at 0x5004, which is no page"),
    "grant nowhere": (bad_grant(mapped_at_ipa=0x9000),
                      "domain 0 is said to have mapped grant 3 of domain 1 at 0x9000, but nothing is mapped there"),
    "two grants": (both(bad_grant(), bad_grant(ref=4)), "two grants are said to be mapped by domain 0 at 0x5000"),
    "xen a number": (bad_meta(xen=4), "xen must be a text"),
    "meta a list": (arrays(meta=lambda _: "[]"), "meta must be a JSON object"),
    "meta no JSON": (arrays(meta=lambda _: "{"), "meta is not JSON"),
    "meta deep": (arrays(meta=lambda _: "[" * 100_000), "meta is not JSON"),
    "meta long number": (arrays(meta=lambda _: "9" * 10_000), "meta is not JSON"),
    "address signed": (arrays(address=lambda each: each.astype(np.int64)),
                       "address must be 64-bit words in one dimension, not <i8 (8,)"),
    "address of big end": (arrays(address=lambda each: each.astype(">u8")),
                           "address must be 64-bit words in one dimension, not >u8 (8,)"),
    "address flat": (arrays(address=lambda each: each.reshape(2, 4)),
                     "address must be 64-bit words in one dimension, not <u8 (2, 4)"),
    "address empty": (arrays(address=lambda each: each[:0]), "address is empty"),
    "address in a page": (arrays(address=lambda each: each + np.uint64(8)),
                          "table page 0x40000008 is not aligned to 4096 bytes"),
    "address twice": (arrays(address=lambda each: np.repeat(each[:4], 2)), "table page 0x40000000 appears twice"),
    "pages missing": (arrays(page=lambda each: each[1:]), "page must be 8 x 512 64-bit words, not <u8 (7, 512)"),
    "pages short": (arrays(page=lambda each: each[:, :256]), "page must be 8 x 512 64-bit words, not <u8 (8, 256)"),
    "pages of fractions": (arrays(page=lambda each: each.astype(np.float64)),
                           "page must be 8 x 512 64-bit words, not <f8 (8, 512)"),
}


@pytest.mark.parametrize("name", BAD)
def test_read__refuses(tiny, tmp_path, name):
    change, problem = BAD[name]
    change(tiny)
    assert refusal(tiny, tmp_path) == f"{tmp_path / 'file.npz'}: {problem}"


def test_read__the_tiny_machine_itself_is_isolated(tiny, tmp_path):
    assert look(tiny, tmp_path).verdict == "isolated"


def test_read__refuses_tables_that_lead_out_of_the_file(tiny, tmp_path):
    tiny.page[2][7] = encode(table_word(Mfn(0x41005)))
    assert refusal(tiny, tmp_path).endswith("domain 0: the table page 0x41005000 is not in the file")


@pytest.mark.parametrize("row", [0, 1, 2])
def test_read__refuses_tables_that_lead_back(tiny, tmp_path, row):
    tiny.page[2][7] = encode(table_word(Mfn(0x40000 + row)))
    assert refusal(tiny, tmp_path).endswith(f"table page {0x40000000 + row * 0x1000:#x} is used twice: "
                                            "these tables are no tree")


def test_read__refuses_roots_that_are_not_aligned(arm32, tmp_path):
    arm32.meta["domains"]["0"]["vttbr"] += 0x1000
    assert "is not aligned to 2 pages" in refusal(arm32, tmp_path)


def test_read__refuses_pickled_objects(tmp_path):
    np.savez(tmp_path / "file.npz", address=np.array([print], object), page=np.zeros(1), meta="{}")
    with pytest.raises(BadInputError, match="address holds pickled objects, which are never loaded"):
        tables.read(tmp_path / "file.npz")


@pytest.mark.parametrize("names", [("address", "page"), ("address", "page", "meta", "meta"), ()])
def test_read__refuses_arrays_missing_or_twice(tiny, tmp_path, names):
    source = tiny.write(tmp_path / "good.npz")
    with (zipfile.ZipFile(source) as good, zipfile.ZipFile(tmp_path / "bad.npz", "w") as bad,
          warnings.catch_warnings(action="ignore")):
        for each in names:
            bad.writestr(f"{each}.npy", good.read(f"{each}.npy"))
    with pytest.raises(BadInputError, match="expected one array called"):
        tables.read(tmp_path / "bad.npz")


def forged(path: Path, header: bytes, body: bytes = b"", method: int = zipfile.ZIP_DEFLATED) -> Path:
    """An archive whose `address` has this header."""
    head = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in ("address", "page", "meta"):
            archive.writestr(f"{name}.npy", head + body)
    return path


@pytest.mark.parametrize("header", [
    b"{'descr': '<u8', 'fortran_order': False, 'shape': (4611686018427387904,), }\n",
    b"{'descr': '<u8', 'fortran_order': False, 'shape': (-1,), }\n",
    b"{'descr': '<U0', 'fortran_order': False, 'shape': (4611686018427387904,), }\n",
    b"{'descr': '<u8', 'fortran_order': False, 'shape': (1L,), }\n",
    b"{'descr': [('a', '<u8')], 'fortran_order': False, 'shape': (0,), }\n",
    b"{'descr': '<u9', 'fortran_order': False, 'shape': (1,), }\n",
    b"{'descr': '<u8'}\n", b"(" * 5000, b"", b"\xff\xfe",
], ids=range(10))
def test_read__refuses_forged_headers(tmp_path, header):
    with pytest.raises(BadInputError):
        tables.read(forged(tmp_path / "file.npz", header))


def test_read__refuses_an_array_that_would_fill_the_memory(tmp_path):
    path = forged(tmp_path / "bomb.npz", b"{'descr': '<u8', 'fortran_order': False, 'shape': (67108864,), }\n",
                  bytes(1 << 26))
    assert path.stat().st_size < 1 << 18
    with pytest.raises(BadInputError, match="address is too large"):
        tables.read(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_read__refuses_packing_that_numpy_does_not_write(tmp_path, method):
    with pytest.raises(BadInputError, match="packed in a way that numpy does not write"):
        tables.read(forged(tmp_path / "file.npz", b"", method=method))


# ---- any damage at all


def check_command(path: Path) -> int:
    """The command on a damaged file: an exit code, and one line if it is 2."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        code = command(patch, "walk", str(path))
    assert code in (HOLDS, FAILS, BAD_INPUT)
    if code == BAD_INPUT:
        assert (1, "") == (len(err.getvalue().splitlines()), out.getvalue())
    else:
        verdicts = ["isolated"] if code == HOLDS else ["violation", "not checked"]
        assert ("", True) == (err.getvalue(), out.getvalue().splitlines()[-1].removeprefix("Verdict: ") in verdicts)
    return code


BYTES = ARM32.read_bytes()
WORDS = File.like(ARM32)
KEPT = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@KEPT
@given(length=st.integers(0, len(BYTES) - 1))
def test_damage__a_truncated_file_is_bad_input(tmp_path, length):
    path = tmp_path / "cut.npz"
    path.write_bytes(BYTES[:length])
    assert check_command(path) == BAD_INPUT


@KEPT
@given(flips=st.lists(st.tuples(st.integers(0, len(BYTES) - 1), st.integers(0, 7)), min_size=1, max_size=4))
def test_damage__flipped_bits_of_the_archive_leave_no_traceback(tmp_path, flips):
    damaged = bytearray(BYTES)
    for at, bit in flips:
        damaged[at] ^= 1 << bit
    path = tmp_path / "flipped.npz"
    path.write_bytes(damaged)
    check_command(path)


@KEPT
@given(flips=st.lists(st.tuples(st.integers(0, 29), st.integers(0, 511), st.integers(0, 63)), min_size=1, max_size=8))
def test_damage__flipped_bits_of_descriptors_leave_no_traceback(tmp_path, flips):
    file = File(WORDS.address, WORDS.page.copy(), WORDS.meta)
    for row, index, bit in flips:
        file.page[row][index] ^= np.uint64(1 << bit)
    check_command(file.write(tmp_path / "flipped.npz"))


@KEPT
@given(row=st.integers(0, 29), seed=st.integers(0, 1 << 32))
def test_damage__noise_in_a_table_leaves_no_traceback(tmp_path, row, seed):
    file = File(WORDS.address, WORDS.page.copy(), WORDS.meta)
    file.page[row] = np.random.default_rng(seed).integers(0, 1 << 63, 512, np.uint64) << np.uint64(1)
    assert check_command(file.write(tmp_path / "noise.npz")) != HOLDS


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2), st.sampled_from([1 << 48, 1 << 64, -1]),
)


@KEPT
@given(seed=st.integers(0, 1 << 32), odd=ODD)
def test_damage__any_other_value_in_meta_leaves_no_traceback(tmp_path, seed, odd):
    file = File(WORDS.address, WORDS.page, json.loads(json.dumps(WORDS.meta)))
    chosen = random.Random(seed)
    found, key = file.meta, chosen.choice(list(file.meta))
    while isinstance(found[key], (dict, list)) and found[key] and chosen.random() < 0.9:
        found = found[key]
        key = chosen.choice(list(found)) if isinstance(found, dict) else chosen.randrange(len(found))
    found[key] = odd
    check_command(file.write(tmp_path / "odd.npz"))
