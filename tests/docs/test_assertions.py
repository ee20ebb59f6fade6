"""The page on Xen's assertions names each that a property is said to keep from firing."""

import re
from pathlib import Path

import pytest

from proofs.theories import all_properties

PAGE = Path(__file__).resolve().parents[2] / "docs" / "assertions.rst"
WHY = {"property", "check", "lock", "own", "elsewhere", "reached"}
STATED = {each.id: each.assertion for each in all_properties().values() if each.assertion}


def rows() -> list[list[str]]:
    """The rows of all tables: function, what is asserted, why it holds, by what."""
    text = PAGE.read_text(encoding="utf-8")
    found = []
    for row in re.split(r"^   \* - ", text, flags=re.MULTILINE)[1:]:
        cells = re.split(r"^     -", row.split("\n\n")[0], flags=re.MULTILINE)
        found.append([" ".join(each.split()) for each in cells])
    return [row for row in found if row[0] != "Function"]


def test_rows__have_an_answer_each_and_those_of_a_property_name_one() -> None:
    assert [] == [row[0] for row in rows() if len(row) != 4 or row[2] not in WHY]
    shown = [row for row in rows() if row[2] == "property"]
    assert [] == [row[0] for row in shown if ":need:" not in row[3] and "NO-OVERFLOW" not in row[3]]


@pytest.mark.parametrize("identifier", STATED)
def test_property__that_keeps_an_assertion_from_firing_stands_in_its_row(identifier: str) -> None:
    function = re.search(r"\((\w+)\)", STATED[identifier])
    assert function is not None
    assert [row for row in rows() if re.search(rf"\b{function[1]}", row[0]) and f":need:`{identifier}`" in row[3]]
