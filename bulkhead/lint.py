"""The lint of the specification: what would mean different things on integers and on symbols.

``python -m bulkhead.lint`` prints one line a finding and exits 1 if there is one.  It checks all of
``spec/`` but the language itself and the modules of plain glue (``GLUE``), which run on integers only.
"""

from __future__ import annotations

import ast
import pathlib
import sys
from collections.abc import Iterator

import attrs

from spec.language.records import columns
from spec.language.tables import schemas

ROOT = pathlib.Path(__file__).resolve().parent.parent / "spec"
GLUE = ("boot.py", "hypercall.py", "abi.py", "batch.py", "geometry.py")
"""Modules that only compose proved transitions, or build concrete states: loops live here."""

NEVER = {"int": "has no meaning on a symbol", "hash": "a symbol has no hash", "id": "identity means nothing",
         "bool": "compare instead", "float": "the specification has no fractions", "set": "use a table",
         "frozenset": "use a table", "sorted": "order depends on values", "len": "lengths belong to glue"}
NOT_IN_PROPERTIES = {"min", "max", "any", "all", "abs", "sum"}


@attrs.frozen
class Finding:
    """One line of the lint."""

    path: pathlib.Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        return _name(node.func)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _is_property(node: ast.FunctionDef) -> bool:
    return any(_name(each) in ("invariant", "two_state", "corollary") for each in node.decorator_list)


def _count_predicates(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node.func) == "count" and len(node.args) > 1:
            found.add(_name(node.args[1]))
    return found


class _Checker(ast.NodeVisitor):
    """Findings of one module."""

    def __init__(self, path: pathlib.Path, tree: ast.Module, tables: dict[str, set[str]], predicates: set[str]) -> None:
        self.path, self.tables, self.predicates = path, tables, predicates
        self.findings: list[Finding] = []
        self._strict = 0
        self.visit(tree)

    def _find(self, node: ast.AST, text: str) -> None:
        self.findings.append(Finding(self.path, getattr(node, "lineno", 0), text))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        merged = any(_name(each) == "merged" for each in node.decorator_list)
        strict = (_is_property(node) or node.name in self.predicates) and not merged
        self._strict += strict
        for each in node.body:
            self.visit(each)
        self._strict -= strict

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._strict += 1
        self.visit(node.body)
        self._strict -= 1

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        if self._strict:
            self._find(node, "a property, predicate or row function truth-tests here: use both or either")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if self._strict and isinstance(node.op, ast.Not):
            self._find(node, "a property, predicate or row function truth-tests here: use neg")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        if self._strict:
            self._find(node, "a property, predicate or row function truth-tests here: use ite")
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if self._strict:
            self._find(node, "a property, predicate or row function branches here: use implies")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for operator, right in zip(node.ops, node.comparators, strict=True):
            none = isinstance(right, ast.Constant) and right.value is None
            if isinstance(operator, (ast.Is, ast.IsNot)) and not none:
                self._find(node, "`is` compares objects, not values: use ==")
            if isinstance(operator, (ast.In, ast.NotIn)) and self._strict:
                self._find(node, "`in` truth-tests: use one_of")
        if len(node.ops) > 1 and self._strict:
            self._find(node, "a chained comparison truth-tests: use both or within")
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._find(node, "an unbounded loop: one item is one step, loops belong to glue")
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        constant = isinstance(node.iter, (ast.Tuple, ast.Constant)) or (
            isinstance(node.iter, ast.Call) and _name(node.iter.func) in ("range", "enumerate", "zip", "reversed")
            and all(isinstance(each, (ast.Constant, ast.Name, ast.Attribute, ast.BinOp)) for each in node.iter.args)
        ) or (isinstance(node.iter, ast.Name) and node.iter.id.isupper())
        if not constant:
            self._find(node, "a loop over something that is not constant")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = _name(node.func)
        if isinstance(node.func, ast.Name) and name in NEVER:
            self._find(node, f"{name}(): {NEVER[name]}")
        if isinstance(node.func, ast.Name) and self._strict and name in NOT_IN_PROPERTIES:
            self._find(node, f"{name}() truth-tests")
        if name in ("put", "fill") and isinstance(node.func, ast.Name) and len(node.args) > 1:
            self._table(node, name)
        self.generic_visit(node)

    def _table(self, node: ast.Call, name: str) -> None:
        table = node.args[1]
        if not (isinstance(table, ast.Constant) and isinstance(table.value, str)):
            self._find(node, f"{name}: name the table literally")
            return
        if table.value not in self.tables:
            self._find(node, f"{name}: there is no table {table.value}")
            return
        for each in node.keywords:
            if each.arg is not None and each.arg not in self.tables[table.value]:
                self._find(node, f"{name}: {table.value} has no field {each.arg}")


def check(root: pathlib.Path = ROOT) -> Iterator[Finding]:
    """Every finding below a folder."""
    from proofs.theories import theory

    # a table of the same name in two theories: the fields of either
    tables: dict[str, set[str]] = {}
    for name in ("machine", "tables"):
        for each, schema in schemas(theory(name).state).items():
            tables.setdefault(each, set()).update(columns(schema.row))
    trees = {}
    for path in sorted(root.rglob("*.py")):
        if path.name not in GLUE and "language" not in path.parts:
            trees[path] = ast.parse(path.read_text())
    predicates = set()
    for tree in trees.values():
        predicates |= _count_predicates(tree)
    for path, tree in trees.items():
        yield from _Checker(path.relative_to(root.parent), tree, tables, predicates).findings


def main() -> None:
    """Print the findings; exit 1 if there is one."""
    findings = list(check())
    for each in findings:
        sys.stdout.write(f"{each}\n")
    sys.stdout.write(f"spec lint: {len(findings)} findings\n")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
