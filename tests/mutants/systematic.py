"""Systematic mutants: every guard, update, release and bound of a module, changed one at a time."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from tests.mutants.mutation import Mutant, source_of

FLIP: dict[type, type] = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
EFFECTS = ("put", "fill")
CHOICE = "rule of a choice spoiled"
"""What an implementation may choose, and in which order steps follow one another: no code of Xen's, so a kind apart."""
GHOSTS = {
    ("frame", "pool"), ("frame", "root"), ("frame", "lost"), ("word", "secret"), ("p2m", "handle"), ("p2m", "stale"),
    ("iomem", "left"), ("mapping", "gfn"), ("mapping", "mfn"),
}
"""Fields that exist for the proof only: they are no part of a machine, and to forget one is no flaw of Xen."""
GHOST_TABLES = ("argument", "claim", "consent", "copied")
RELEASES = ("put_", "drop_", "release_", "reduce_", "scrub", "clean")


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _is_ghost(node: ast.Call, field: str) -> bool:
    """What is written is there for the proof alone: the table, every field named, or this one."""
    table = node.args[1].value if len(node.args) > 1 and isinstance(node.args[1], ast.Constant) else ""
    fields = [field] if field else [each.arg or "" for each in node.keywords] + [
        key.value for each in node.args if isinstance(each, ast.Lambda) and isinstance(each.body, ast.Dict)
        for key in each.body.keys if isinstance(key, ast.Constant)
    ]
    return table in GHOST_TABLES or bool(fields and all((str(table), each) in GHOSTS for each in fields))


def _is_rule(node: ast.AST) -> bool:
    """A statement that says which choices are legal."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and _name(node.value.func) == "legal"


def _is_property(tree: ast.FunctionDef) -> bool:
    return any(isinstance(d, ast.Call) and _name(d.func) in ("invariant", "two_state") for d in tree.decorator_list)


Site = tuple[int, str, Callable[[ast.AST], ast.AST | None]]
"""A place that can be mutated: position in ``ast.walk``, kind, and the change of the node there."""


def conditions(position: int, node: ast.AST) -> Iterator[Site]:
    """The ways to spoil a guard or a bound."""
    if isinstance(node, ast.If):
        yield position, "guard dropped", lambda n: _with_test(n, ast.Constant(False))
        yield position, "guard negated", lambda n: _with_test(n, ast.UnaryOp(ast.Not(), n.test))  # type: ignore[attr-defined]
    if isinstance(node, ast.BoolOp):
        for which in range(len(node.values)):
            yield position, f"condition {which + 1} dropped", lambda n, w=which: _without(n, w)  # type: ignore[misc]
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in FLIP:
        yield position, "bound off by one", _flipped


def changed(tree: ast.FunctionDef, position: int, change: Callable[[ast.AST], ast.AST | None]) -> tuple[str, str, int]:
    """A function with one place changed: what stood there, the whole source now, and the line within it."""
    mutated = copy.deepcopy(tree)
    target = list(ast.walk(mutated))[position]
    before = " ".join(ast.unparse(target).split())[:70]
    result: Any = _At(target, change).visit(mutated)
    ast.fix_missing_locations(result)
    return before, ast.unparse(result), getattr(target, "lineno", 1)


def _sites(tree: ast.FunctionDef) -> Iterator[Site]:
    """Every place that can be mutated."""
    rules = {id(each) for node in ast.walk(tree) if _is_rule(node) for each in ast.walk(node)}
    for position, node in enumerate(ast.walk(tree)):
        for _, kind, change in conditions(position, node):
            yield position, CHOICE if id(node) in rules else kind, change
        if isinstance(node, ast.Call) and _name(node.func) in EFFECTS and not _is_ghost(node, ""):
            yield position, "update dropped", lambda n: n.args[0]  # type: ignore[attr-defined]
            for which in range(len(node.keywords)):
                if len(node.keywords) > 1 and not _is_ghost(node, node.keywords[which].arg or ""):
                    yield position, f"update of {node.keywords[which].arg} dropped", lambda n, w=which: _less(n, w)  # type: ignore[misc]
        if isinstance(node, ast.Call) and _name(node.func).startswith(RELEASES) \
                and node.args and _name(node.args[0]) == "s":
            yield position, "release dropped", lambda n: n.args[0]  # type: ignore[attr-defined]
        if _is_rule(node):
            yield position, CHOICE, lambda _: ast.Pass()


def _with_test(node: ast.AST, test: ast.expr) -> ast.AST:
    node.test = test  # type: ignore[attr-defined]
    return node


def _without(node: ast.AST, which: int) -> ast.AST:
    values = [v for i, v in enumerate(node.values) if i != which]  # type: ignore[attr-defined]
    return values[0] if len(values) == 1 else ast.BoolOp(node.op, values)  # type: ignore[attr-defined]


def _flipped(node: ast.AST) -> ast.AST:
    node.ops = [FLIP[type(node.ops[0])]()]  # type: ignore[attr-defined]
    return node


def _less(node: ast.AST, which: int) -> ast.AST:
    node.keywords = [k for i, k in enumerate(node.keywords) if i != which]  # type: ignore[attr-defined]
    return node


class _At(ast.NodeTransformer):
    def __init__(self, target: ast.AST, change: Callable[[ast.AST], ast.AST | None]) -> None:
        self.target, self.change = target, change

    def visit(self, node: ast.AST) -> ast.AST | None:
        return self.change(node) if node is self.target else self.generic_visit(node)


def of_function(module: str, name: str) -> Iterator[Mutant]:
    """Every systematic mutant of one function."""
    function = inspect.unwrap(getattr(importlib.import_module(module), name))
    tree = ast.parse(source_of(function)).body[0]
    assert isinstance(tree, ast.FunctionDef)
    if _is_property(tree):
        return
    start = function.__code__.co_firstlineno
    for number, (position, kind, change) in enumerate(_sites(tree)):
        before, body, line = changed(tree, position, change)
        yield Mutant(f"{module.removeprefix('spec.')}.{name}#{number}", kind, module, name, f"{kind}: {before}",
                     body=body, line=start + line - 1)


def of_module(module: str) -> Iterator[Mutant]:
    """Every systematic mutant of a module's transitions and helpers (not of its properties)."""
    loaded = importlib.import_module(module)
    for name, value in list(vars(loaded).items()):
        function = inspect.unwrap(value) if callable(value) else None
        if inspect.isfunction(function) and function.__module__ == module:
            yield from of_function(module, name)
