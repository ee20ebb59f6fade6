"""Images: raw files and ELF cores, and what is refused in one line."""

import struct

import numpy as np
import pytest

from bulkhead.auditor import image
from bulkhead.problems import BadInputError

BASE = 0x40000000


def raw(path, pages):
    np.repeat(np.arange(pages, dtype=np.uint64), 512).tofile(path)
    return path


def core(path, segments, *, machine=183, kind=4, cut=0, shift=0):
    """An ELF core of 64 bits; segments: (base, pages)."""
    offset = 64 + 56 * len(segments) + shift
    offset += -offset % 8 + shift
    heads, body = b"", b""
    for base, pages in segments:
        size = pages * 4096
        heads += struct.pack("<IIQQQQQQ", 1, 7, offset + len(body), 0, base, size, size, 0)
        body += np.full(512 * pages, base, np.uint64).tobytes()
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    head = ident + struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, 0, 64, 0, 0, 64, 56, len(segments), 64, 0, 0)
    data = (head + heads).ljust(offset, b"\0") + body
    path.write_bytes(data[:len(data) - cut])
    return path


def test_raw__lies_where_it_is_said_to(tmp_path):
    found = image.read(raw(tmp_path / "x", 3), [(BASE, 0)])
    assert ((BASE, 3 * 4096),) == found.ram
    assert (2, None) == (found.banks.word(BASE + 0x2008), found.banks.word(BASE + 0x3000))
    assert () == found.missing


def test_raw__holds_banks_one_after_the_other(tmp_path):
    found = image.read(raw(tmp_path / "x", 3), [(BASE, 4096), (2 * BASE, 8192)])
    assert (0, 1, 2) == tuple(found.banks.word(each) for each in (BASE, 2 * BASE, 2 * BASE + 4096))


def test_raw__that_is_too_short_misses_the_rest(tmp_path):
    found = image.read(raw(tmp_path / "x", 3), [(BASE, 8192), (2 * BASE, 8192)])
    assert ((2 * BASE + 4096, 4096),) == found.missing
    assert found.has_ram(2 * BASE + 4096)


def test_raw__may_end_within_a_page(tmp_path):
    path = raw(tmp_path / "x", 3)
    path.write_bytes(path.read_bytes()[:-5])
    assert ((BASE + 8192, 4096),) == image.read(path, [(BASE, 0)]).missing


@pytest.mark.parametrize("shift", [0, 4])
def test_core__says_where_its_memory_lies(tmp_path, shift):
    found = image.read(core(tmp_path / "x", [(BASE, 2), (2 * BASE, 1)], shift=shift))
    assert ("core", False, ((BASE, 8192), (2 * BASE, 4096))) == (found.form, found.arm32, found.ram)
    assert 2 * BASE == found.banks.word(2 * BASE)


def test_core__that_is_truncated_misses_the_rest(tmp_path):
    found = image.read(core(tmp_path / "x", [(BASE, 2), (2 * BASE, 2)], cut=5000))
    assert ((2 * BASE, 8192),) == found.missing


@pytest.mark.parametrize(("make", "problem"), [
    (lambda path: None, "no such file"), (lambda path: path.mkdir(), "not a file"),
    (lambda path: path.write_bytes(b""), "the file is empty"),
    (lambda path: path.write_bytes(b"x" * 4095), "the file has not even one page"),
    (lambda path: path.write_bytes(b"\x7fELFx"), "damaged or truncated: not a whole ELF file"),
    (lambda path: core(path, [(BASE, 1)], machine=62), "an ELF file of EM_X86_64, not of Arm"),
    (lambda path: core(path, [(BASE, 1)], kind=2), "an ELF file that is no core of a machine"),
    (lambda path: core(path, []), "the core holds no memory"),
    (lambda path: core(path, [(BASE, 1)], cut=4096), "damaged or truncated: the core's memory is missing"),
    (lambda path: core(path, [(BASE, 2), (BASE, 1)]), "a segment at 0x40000000 overlaps what is below it"),
])
def test_image__refuses_what_is_none_in_one_line(tmp_path, make, problem):
    make(tmp_path / "x")
    with pytest.raises(BadInputError) as caught:
        image.read(tmp_path / "x", [(BASE, 0)])
    assert f"{tmp_path / 'x'}: {problem}" == str(caught.value)


@pytest.mark.parametrize(("ram", "problem"), [
    ((), "a raw image does not say where its RAM lies: give --ram BASE or a [machine] table"),
    ([(BASE + 1, 4096 * 3)], "RAM of 0x3000 bytes at 0x40000001 is not whole pages below 2^48"),
    ([(BASE, 4096)], "the file has 0x3000 bytes, but the machine's RAM only 0x1000"),
    ([(BASE, 8192), (BASE + 4096, 8192)], "RAM at 0x40001000 overlaps what is below it"),
    ([(1 << 48, 8192 * 2)], "RAM of 0x4000 bytes at 0x1000000000000 is not whole pages below 2^48"),
])
def test_raw__refuses_ram_that_is_none(tmp_path, ram, problem):
    with pytest.raises(BadInputError) as caught:
        image.read(raw(tmp_path / "x", 3), ram)
    assert f"{tmp_path / 'x'}: {problem}" == str(caught.value)
