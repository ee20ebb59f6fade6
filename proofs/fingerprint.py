"""What a proof depends on, as one number: unchanged, and the proof need not be made again.

The fingerprint of a transition covers the code of every function that it can call, the records and
constants that those use, every property, and the whole language and engine.  Comments and
docstrings do not count.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import pathlib
import types
from collections.abc import Callable, Iterable
from typing import Any

import proofs.engine
import spec.language


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _code(code: types.CodeType, documented: bool) -> str:
    constants = list(code.co_consts)
    if documented and constants and isinstance(constants[0], str):
        constants[0] = ""
    shown = [_code(c, documented=True) if isinstance(c, types.CodeType) else repr(c) for c in constants]
    return _digest(code.co_code.hex(), repr(code.co_names), repr(code.co_varnames), repr(code.co_freevars), *shown)


def _plain(path: pathlib.Path) -> str:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body:
            continue
        if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body[0] = ast.Expr(ast.Constant(None))
    return ast.dump(tree)


@functools.cache
def foundations() -> str:
    """The language and the engine."""
    files: list[pathlib.Path] = []
    for package in (spec.language, proofs.engine):
        files.extend(sorted(pathlib.Path(next(iter(package.__path__))).glob("*.py")))
    return _digest(*[each.name + _plain(each) for each in files])


@functools.cache
def _record(cls: type) -> str:
    """The fields of a record, as they are written."""
    return _digest(ast.dump(ast.parse(inspect.getsource(cls))))


def _names(code: types.CodeType) -> set[str]:
    found = set(code.co_names)
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            found |= _names(each)
    return found


def _resolved(function: Callable[..., Any]) -> Iterable[tuple[str, Any]]:
    names = sorted(_names(function.__code__))
    scope = function.__globals__
    for name in names:
        if name in scope:
            value = scope[name]
            yield name, value
            if isinstance(value, types.ModuleType):
                for inner in names:
                    if hasattr(value, inner):
                        yield f"{name}.{inner}", getattr(value, inner)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield name, cell.cell_contents


def dependencies(function: Callable[..., Any]) -> dict[str, str]:
    """Every function, record and constant of the specification that a function can use, with its digest."""
    found: dict[str, str] = {}
    work: list[Any] = [function]
    while work:
        given = work.pop()
        value = inspect.unwrap(given)
        place = f"{value.__module__}.{value.__qualname__}"
        if place in found:
            continue
        found[place] = _code(value.__code__, documented=True) + repr(value.__defaults__) + str(value is given)
        for name, inner in _resolved(value):
            home = getattr(inner, "__module__", "") or ""
            if isinstance(inner, types.FunctionType):
                if home.startswith("spec.") and not home.startswith("spec.language"):
                    work.append(inner)
            elif isinstance(inner, type):
                if home.startswith("spec.") and not home.startswith("spec.language"):
                    found[f"{home}.{inner.__qualname__}"] = _record(inner)
            elif isinstance(inner, (int, str, tuple, float, frozenset)) and not callable(inner):
                found[f"{place}:{name}"] = repr(inner)
    return found


def fingerprint(functions: Iterable[Callable[..., Any]], *extra: str) -> str:
    """One number for all that the functions depend on."""
    parts: dict[str, str] = {}
    for each in functions:
        parts.update(dependencies(each))
    return _digest(foundations(), *extra, *[f"{k}={parts[k]}" for k in sorted(parts)])
