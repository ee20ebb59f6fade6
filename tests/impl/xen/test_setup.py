"""The set-up says what it needs, in one line."""

import os
import shutil

import pytest

from impl.boards.vendor import FetchError
from impl.xen import setup
from impl.xen.install import source_sums


def test_setup__asks_for_root_only_where_something_is_missing(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "qemu-system-arm" else name)
    with pytest.raises(FetchError, match="root is needed once, to install qemu-system-arm"):
        setup.install_tools(said.append)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    setup.install_tools(said.append)
    assert said == ["QEMU and the cross compilers are installed"]


def test_setup__without_a_record_builds_no_payload_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(setup, "install_tools", lambda say: None)
    assert setup.main([str(tmp_path), "--payload-only"]) == 2
    error = capsys.readouterr().err
    assert "run without --payload-only" in error
    assert error.count("\n") == 1


def test_sources__of_the_payload_are_summed():
    assert {"head32.S", "head64.S", "mailbox.h", "payload.c", "payload.lds"} == set(source_sums())


@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-gcc") is None, reason="no cross compiler for arm64")
def test_payload__needs_no_relocation(tmp_path):
    # the linker's script asserts it
    image = setup.build_payload(tmp_path, "arm64").read_bytes()
    assert len(image) == 0x10000
    assert image[56:60] == b"ARM\x64"


@pytest.mark.skipif(shutil.which("arm-linux-gnueabihf-gcc") is None, reason="no cross compiler for arm32")
def test_payload__of_32_bits_is_as_long_as_its_header_says(tmp_path):
    image = setup.build_payload(tmp_path, "armhf").read_bytes()
    assert int.from_bytes(image[0x24:0x28], "little") == 0x016F2818
    assert int.from_bytes(image[0x2C:0x30], "little") == len(image)
