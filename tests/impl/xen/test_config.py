"""What may be chosen of a machine, and the device tree that Xen is then given."""

import struct
from typing import Any

import pytest

from impl.boards.blob import parse, tree
from impl.xen.config import Config, Guest
from impl.xen.errors import NotSetUp, Refused
from impl.xen.install import found
from impl.xen.kinds import KINDS, kind
from impl.xen.tree import Guest as TreeGuest
from impl.xen.tree import Module, base, with_modules


@pytest.mark.parametrize("name", KINDS)
def test_config__of_every_kind_is_accepted_as_it_is(name):
    Config(name).check()


@pytest.mark.parametrize(("config", "why"), [
    (Config("pdp11"), "no machine"), (Config(pa_bits=33), "33 bits"), (Config(guests=(), dom0=False), "no domain"),
    (Config(guests=[Guest(pages=8)]), "payload alone"), (Config(guests=[Guest(vcpus=9)]), "9 vCPUs"),
    (Config("armhf-virt", guests=[Guest(width=64)]), "64 bits wide"),
    (Config("arm64-gicv3", guests=[Guest(width=32)]), "GICv3"),
    (Config(guests=[Guest(max_pages=100)]), "limit of 100"), (Config(cpus=9), "processors"),
    (Config(items=3), "3 items"), (Config(dom0_pages=16), "dom0 needs"), (Config(scheduler="null"), "null scheduler"),
    (Config(guests=[Guest(pages=1 << 18)]), "do not fit"),
    (Config(guests=[Guest(pages=600)], dom0=False), "only by a dom0"),
    (Config(guests=[Guest()] * 17), "17 domUs"),
])
def test_config__refuses_with_a_reason(config, why):
    with pytest.raises(Refused, match=why):
        config.check()


def test_command_line__says_what_the_configuration_says():
    words = Config(xsm="silo", grant_max_version=2, grant_transitive=False, opt_max_grant_frames=7,
                   scheduler="credit2").command_line().split()
    for word in ("xsm=silo", "gnttab=max-ver:2,no-transitive", "gnttab_max_frames=7", "sched=credit2",
                 "dom0_mem=32768K"):
        assert word in words


def test_width__is_xens_where_the_guest_says_nothing():
    config = Config("arm64-gicv2", guests=[Guest(), Guest(width=32)])
    assert [64, 64, 32] == [config.width(domain) for domain in range(3)]


def test_tree__has_modules_and_domains_where_xen_looks():
    board = base(kind("vexpress-a15"), "", 1)
    guest = TreeGuest("domU1", 8192, 2, Module(0xAA100000, 65536, "domain=1"), 3)
    blob = with_modules(board, "console=dtuart", Module(0xAA000000, 65536, "domain=0"), [guest])
    found_tree: Any = tree(parse(blob).root)
    chosen = found_tree["chosen"]
    assert chosen["xen,xen-bootargs"] == b"console=dtuart\0"
    assert chosen["xen,dom0-bootargs"] == b"domain=0\0"
    assert chosen["module@aa000000"]["reg"] == struct.pack(">QQ", 0xAA000000, 65536)
    made = chosen["domU1"]
    assert (made["memory"], made["cpus"]) == (struct.pack(">Q", 8192), struct.pack(">I", 2))
    assert made["xen,domain-p2m-mem-mb"] == struct.pack(">I", 3)
    assert made["module@aa100000"]["bootargs"] == b"domain=1\0"
    assert len([name for name in found_tree["cpus"] if name.startswith("cpu@")]) == 1


@pytest.mark.parametrize(("content", "why"), [
    (None, "not set up"), ("{", "damaged"), ('{"format": 0}', "another version"), ('{"format": 1}', "missing"),
])
def test_installation__that_is_not_there_says_what_to_run(tmp_path, content, why):
    if content is not None:
        (tmp_path / "versions.json").write_text(content)
    with pytest.raises(NotSetUp, match=why) as caught:
        found(tmp_path)
    assert "make conformance-setup" in str(caught.value)
    assert "\n" not in str(caught.value)
