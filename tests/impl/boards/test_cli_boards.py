"""``bulkhead boards``: the list, a page, and one line for bad input."""

import json

import pytest
import typer
from typer.testing import CliRunner

from bulkhead.cli_boards import boards
from bulkhead.problems import BadInputError
from impl.boards.catalogue import CATALOGUE
from tests.impl.boards.trees import NAMES, gic, tree_of, write

APP = typer.Typer()
APP.add_typer(boards, name="boards")


def run(*arguments):
    return CliRunner().invoke(APP, ["boards", *arguments])


def test_boards__lists_every_board():
    text = run().stdout
    assert [name for name in NAMES if name in text] == NAMES


def test_boards__as_json_has_every_board():
    found = json.loads(run("--json").stdout)["boards"]
    assert [board["name"] for board in found] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_show__prints_the_maintenance_interrupt(name):
    assert "PPI 9 (INTID 25, level high)" in run("show", name).stdout


def test_show__as_json_has_addresses_as_numbers():
    assert json.loads(run("show", "mustang", "--json").stdout)["gic"]["distributor"]["base"] == 0x78090000


def test_show__reads_a_file(tmp_path):
    path = tmp_path / "mine.dtb"
    path.write_bytes(CATALOGUE[0].blob.read_bytes())
    assert json.loads(run("show", str(path), "--json").stdout)["name"] == "mine"


def test_show__takes_the_width_for_a_file(tmp_path):
    path = tmp_path / "mine.dtb"
    path.write_bytes(write(tree_of("foundation-v8")))
    assert json.loads(run("show", str(path), "--json", "--pa-bits", "44").stdout)["stage2"]["ipa_bits"] == 44


def test_show__prints_signs_of_markup_as_they_are(tmp_path):
    tree = tree_of("foundation-v8")
    tree["model"] = b"[red]\x1b[31mmodel\0"
    path = tmp_path / "mine.dtb"
    path.write_bytes(write(tree))
    assert "[red]?[31mmodel" in run("show", str(path)).stdout


def refused(*arguments):
    result = run("show", *arguments)
    assert isinstance(result.exception, BadInputError)
    return str(result.exception)


def test_show__of_an_unknown_name_suggests_another():
    assert refused("arndael") == "no board 'arndael': did you mean arndale?"


def test_show__of_a_refused_file_gives_xens_reason(tmp_path):
    tree = tree_of("omap5-uevm")
    del gic(tree)["interrupts"]
    path = tmp_path / "stock.dtb"
    path.write_bytes(write(tree))
    assert refused(str(path)) == (
        f"{path}: Xen refuses: GICv2: cannot find the maintenance IRQ (xen/arch/arm/gic-v2.c, gicv2_dt_init)"
    )


def test_show__of_a_missing_file_says_so(tmp_path):
    assert "No such file" in refused(str(tmp_path / "nothing.dtb"))


def test_show__of_a_known_board_takes_no_width():
    assert refused("mustang", "--pa-bits", "40").startswith("--pa-bits is for files")


def test_show__of_a_name_that_no_file_can_have_is_one_line():
    assert refused("a\0b").isprintable()
