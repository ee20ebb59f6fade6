"""What is said of deviations, and where: see docs/decisions/0008."""

import re
import tomllib
from pathlib import Path

import pytest

from bulkhead import claims
from proofs.theories import load
from spec.language import DEVIATIONS, Deviation
from tests.docs.test_spec_pages import bulkhead_spec

ROOT = Path(__file__).resolve().parents[2]
FINDINGS = ROOT / "docs" / "findings"
FIRST = "Not for publication before the Xen security team was told."

load()
PUBLIC = [each for each in DEVIATIONS.values() if each.public]
HELD_BACK = [each for each in DEVIATIONS.values() if not each.public]


def by_id(each: Deviation) -> str:
    return each.id


@pytest.mark.parametrize("each", PUBLIC, ids=by_id)
def test_public_deviation__is_described(each: Deviation) -> None:
    assert all((each.title, each.condition, each.source, each.consequence))


@pytest.mark.parametrize("each", HELD_BACK, ids=by_id)
def test_other_deviation__has_no_more_than_a_title_in_the_source(each: Deviation) -> None:
    assert ("", "", "") == (each.condition, each.consequence, each.trace)


@pytest.mark.parametrize("each", HELD_BACK, ids=by_id)
def test_other_deviation__is_a_finding_with_a_draft_report(each: Deviation) -> None:
    text = (FINDINGS / f"{each.id}.rst").read_text(encoding="utf-8")
    assert (True, True) == (text.startswith(FIRST), "Draft report" in text)


def test_findings__all_begin_with_the_warning() -> None:
    assert [] == [each.name for each in FINDINGS.iterdir() if not each.read_text(encoding="utf-8").startswith(FIRST)]


def test_findings__are_neither_built_nor_packaged() -> None:
    conf = (ROOT / "docs" / "conf.py").read_text(encoding="utf-8")
    excluded = re.search(r"^exclude_patterns = \[(.*)\]$", conf, re.MULTILINE)
    assert excluded is not None
    assert '"findings"' in excluded[1]
    assert "prune docs/findings" in (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "Private :: Do Not Upload" in settings["project"]["classifiers"]
    assert [] == [each for each in settings["tool"]["setuptools"]["packages"]["find"]["include"] if "docs" in each]


def test_pages__show_no_code_of_a_deviation_that_is_held_back() -> None:
    pages = bulkhead_spec.Writer(bulkhead_spec.load()).pages()
    flags = [f'"{each.id.lower().replace("-", "")}"' for each in HELD_BACK]
    assert [] == [(name, flag) for name, text in pages.items() for flag in flags if flag in text]


def test_pages__name_every_deviation() -> None:
    page = bulkhead_spec.Writer(bulkhead_spec.load()).pages()["deviations.txt"]
    assert [] == [each.id for each in DEVIATIONS.values() if f"{each.id}: {each.title}" not in page]


@pytest.mark.parametrize("each", HELD_BACK, ids=by_id)
def test_claim_page__tells_where_a_deviation_that_is_held_back_is_described(each: Deviation) -> None:
    expected = {"id": each.id, "title": each.title, "described_in": f"docs/findings/{each.id}.rst"}
    assert expected == claims.deviation(each.id)
