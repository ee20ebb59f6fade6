"""The lint of the specification: what it finds in a module, and that the specification has none of it."""

from pathlib import Path

import pytest

from bulkhead.lint import check

PROPERTY = '@invariant("INV-A", over="frame")\ndef a(s, mfn):\n    return {}\n'
STEP = "@transition()\ndef a(s, mfn):\n    {}\n    return accept(s)\n"


def found(folder: Path, source: str) -> list[str]:
    """What the lint says of a module with this source."""
    (folder / "spec").mkdir(exist_ok=True)
    (folder / "spec" / "module.py").write_text(source)
    return [each.text for each in check(folder / "spec")]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("x and y", "a property, predicate or row function truth-tests here: use both or either"),
        ("not x", "a property, predicate or row function truth-tests here: use neg"),
        ("x if y else z", "a property, predicate or row function truth-tests here: use ite"),
        ("x in (1, 2)", "`in` truth-tests: use one_of"),
        ("0 < x < 3", "a chained comparison truth-tests: use both or within"),
        ("any(each for each in (x, y))", "any() truth-tests"),
        ("max(x, y)", "max() truth-tests"),
    ],
)
@pytest.mark.parametrize("kind", ["invariant", "two_state", "corollary"])
def test_property__must_not(tmp_path: Path, kind: str, expression: str, expected: str) -> None:
    assert expected in found(tmp_path, PROPERTY.replace("invariant", kind).format(expression))


@pytest.mark.parametrize("expression", ["x and y", "not x", "x in (1, 2)", "0 < x < 3", "max(x, y)"])
def test_step__may(tmp_path: Path, expression: str) -> None:
    assert [] == found(tmp_path, STEP.format(f"b = {expression}"))


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("b = x is y", "`is` compares objects, not values: use =="),
        ("b = int(x)", "int(): has no meaning on a symbol"),
        ("b = hash(x)", "hash(): a symbol has no hash"),
        ("b = {x: 1}[set([y]).pop()]", "set(): use a table"),
        ("while x: pass", "an unbounded loop: one item is one step, loops belong to glue"),
        ("for b in x: pass", "a loop over something that is not constant"),
        ('s = put(s, "fram", mfn, use=1)', "put: there is no table fram"),
        ('s = put(s, "frame", mfn, used=1)', "put: frame has no field used"),
        ("s = put(s, name, mfn, use=1)", "put: name the table literally"),
        ('s = fill(s, "word", mfn, lambda row, m: {"raw": x and y})',
         "a property, predicate or row function truth-tests here: use both or either"),
    ],
)
def test_step__must_not(tmp_path: Path, statement: str, expected: str) -> None:
    assert [expected] == found(tmp_path, STEP.format(statement))


def test_predicate_of_a_count__must_not_truth_test(tmp_path: Path) -> None:
    source = "def p(row, key):\n    return row.use and row.extra\n\n\ndef f(s):\n    return count(s.frame, p)\n"
    assert ["a property, predicate or row function truth-tests here: use both or either"] == found(tmp_path, source)


def test_merged_function__may_branch(tmp_path: Path) -> None:
    source = "@merged\ndef p(row, key):\n    if row.use:\n        return 1\n    return 2\n"
    assert [] == found(tmp_path, source)


def test_specification__has_none_of_it() -> None:
    assert [] == [str(each) for each in check()]
