"""The pages that are written from the specification, on a tiny fake of it."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

FAKE = '''"""Mapping a page.

Only what was granted; see `consent` and SR-GNT-1.
"""


def put(state, table, key, **fields):
    return state


def _effect(s, caller):
    return put(s, "mapping", caller, host=True)


def map_page(s, caller, ref):
    """Map a granted page, *whole*.

    Nothing else happens_.

    ref: which grant [index],
      below the size of the table.
    Errors: bad_ref if it is too large.
    Source: xen/common/grant_table.c (map_grant_ref), Xen 4.17.
    """
    return _effect(s, caller)


def is_consented(s, granter, ref):
    """A use has consent."""
    return True


class Helper:
    """A row."""
'''


def extension() -> ModuleType:
    specification = importlib.util.spec_from_file_location(
        "bulkhead_spec", ROOT / "docs" / "_ext" / "bulkhead_spec.py"
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


bulkhead_spec = extension()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    path = tmp_path / "fakemap.py"
    path.write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "fakemap", raising=False)
    module = importlib.import_module("fakemap")
    module.__name__ = "fakespec.map"
    monkeypatch.setitem(sys.modules, "fakespec.map", module)
    for each in (module.map_page, module.is_consented, module.Helper, module.put):
        each.__module__ = "fakespec.map"
    step = SimpleNamespace(
        name="map_page",
        function=module.map_page,
        hypercall="GNTTABOP_map_grant_ref",
        parameters={"caller": "DomId", "ref": "GrantRef"},
    )
    claim = SimpleNamespace(
        id="INV-GNT-CONSENT",
        function=module.is_consented,
        table="mapping",
        fulfils=("SR-GNT-1",),
        two_state=False,
        catches=("XSA-1",),
        except_for=("DEV-1",),
    )
    deviation = SimpleNamespace(
        title="lost row", condition="always", consequence="a row stays", source="p2m.c", trace="map; unmap",
        public="it is known",
    )
    return bulkhead_spec.Registry(
        {"map_page": step},
        {"INV-GNT-CONSENT": claim},
        {"DEV-1": deviation},
        (module,),
    )


@pytest.fixture
def page(registry: Any) -> str:
    found: str = bulkhead_spec.Writer(registry).pages()["fakespec.map.rst"]
    return found


def test_words_of__takes_a_docstring_apart() -> None:
    words = bulkhead_spec.words_of(
        "One\ntwo.\n\nBody.\n\na, b: both\n  of them.\nErrors: E1.\nSource: f.c.", ["a", "b"]
    )
    expected = ("One two.", "Body.", {"a, b": "both of them."}, "E1.", "f.c.")
    assert expected == (words.summary, words.body, words.parameters, words.errors, words.source)


def test_words_of__takes_a_line_of_several_parameters_apart() -> None:
    words = bulkhead_spec.words_of("Head.\n\na: one.  b: two.  Note: three.", ["a", "b"])
    assert {"a": "one.", "b": "two.  Note: three."} == words.parameters


def test_words_of__keeps_a_colon_that_is_no_parameter() -> None:
    assert "Note: this stays." == bulkhead_spec.words_of("Head.\n\nNote: this stays.", ["ref"]).body


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("`p2m`", "``p2m``"),
        ("a * b", "a \\* b"),
        ("map_ it", "map\\_ it"),
        ("serves SR-GNT-1.", "serves :need:`SR-GNT-1`."),
        ("serves SR-GNT-2.", "serves SR-GNT-2."),
    ],
)
def test_inline__is_literal_but_for_code_and_links(text: str, expected: str) -> None:
    assert expected == bulkhead_spec.inline(text, ["SR-GNT-1"])


def test_tables_written__follows_helpers(registry: Any) -> None:
    assert {"mapping"} == bulkhead_spec.tables_written(registry.transitions["map_page"].function)


def test_affected__links_a_step_to_properties_and_requirements(registry: Any) -> None:
    step = registry.transitions["map_page"]
    assert (["INV-GNT-CONSENT"], ["SR-GNT-1"]) == bulkhead_spec.affected(step, registry.properties)


@pytest.mark.parametrize(
    "expected",
    [
        "Mapping a page\n==============",
        ".. step:: map_page\n   :id: map_page\n   :hypercall: GNTTABOP_map_grant_ref\n",
        "   :affects: SR-GNT-1\n",
        "   * - ``ref``\n     - ``GrantRef``\n     - which grant [index], below the size of the table.",
        ":Errors: bad_ref if it is too large.",
        ":Source: xen/common/grant_table.c (map_grant_ref), Xen 4.17.",
        "       return _effect(s, caller)",
        ".. prop:: is consented\n   :id: INV-GNT-CONSENT\n   :kind: every state\n",
        "   :table: mapping\n   :fulfils: SR-GNT-1\n   :catches: XSA-1\n",
        ":Holds except for: :ref:`DEV-1`",
        "Helper\n------",
    ],
)
def test_module_page__shows(page: str, expected: str) -> None:
    assert expected in page


def test_pages__say_how_they_were_made(registry: Any) -> None:
    pages = bulkhead_spec.Writer(registry).pages()
    assert all(text.startswith(".. Generated") for text in pages.values())


def test_pages__shrink_to_a_note_without_a_specification() -> None:
    pages = bulkhead_spec.Writer(bulkhead_spec.Registry(trouble="No module named 'spec'")).pages()
    assert ["index.rst"] == list(pages)
    assert "could not be imported, so this chapter is empty: No module named 'spec'." in pages["index.rst"]


def test_write__leaves_unchanged_files_alone_and_removes_old_ones(tmp_path: Path) -> None:
    bulkhead_spec.write({"a.rst": "1", "b.rst": "2"}, tmp_path)
    before = (tmp_path / "a.rst").stat().st_mtime_ns
    bulkhead_spec.write({"a.rst": "1"}, tmp_path)
    assert (["a.rst"], before) == (
        [each.name for each in tmp_path.iterdir()],
        (tmp_path / "a.rst").stat().st_mtime_ns,
    )


@pytest.mark.parametrize(
    ("properties", "requirements", "expected"),
    [
        ({"INV-A": ("SR-1",)}, {"SR-1": ("defined", "")}, []),
        ({"INV-A": ("SR-1",)}, {"SR-1": ("planned", "half of it is missing")}, []),
        ({}, {"SR-1": ("planned", "not begun")}, []),
        ({"INV-A": ()}, {}, ["INV-A fulfils no requirement"]),
        ({"INV-A": ("SR-9",)}, {}, ["INV-A fulfils SR-9, which is no requirement"]),
        ({}, {"SR-1": ("defined", "")}, ["SR-1 is fulfilled by no property (and is not `planned`)"]),
        ({}, {"SR-1": ("planned", " ")}, ["SR-1 is planned, but does not say what is missing (:reason:)"]),
    ],
)
def test_orphans__are_found_in_either_direction(
    properties: dict[str, tuple[str, ...]],
    requirements: dict[str, tuple[str, str]],
    expected: list[str],
) -> None:
    assert expected == bulkhead_spec.orphans(properties, requirements)


@pytest.fixture
def proved_page(registry: Any, tmp_path: Path) -> str:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_map.py").write_text("map_page(s, 1, 2)")
    (tmp_path / "tests" / "test_other.py").write_text("unmap_page(s, 1, 2)")
    (tmp_path / "build").mkdir()
    verdicts = {"properties": [{"id": "INV-GNT-CONSENT", "verdicts": {"proved": 3, "frame": 9}}]}
    (tmp_path / "build" / "proofs.json").write_text(json.dumps(verdicts))
    killed = {"id": "XSA-1", "killed_by": "proof", "property": "INV-GNT-CONSENT"}
    (tmp_path / "build" / "mutants.json").write_text(json.dumps([killed, {**killed, "id": "m", "killed_by": "test"}]))
    found: str = bulkhead_spec.Writer(registry, tmp_path).pages()["fakespec.map.rst"]
    return found


@pytest.mark.parametrize(
    "expected",
    [":Tests: ``tests/test_map.py``\n", ":Last proof: 9 frame, 3 proved\n", ":Mutants that it killed: 1: XSA-1\n"],
)
def test_module_page__shows_what_was_run(proved_page: str, expected: str) -> None:
    assert expected in proved_page
