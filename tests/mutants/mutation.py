"""Putting a mutant in and taking it out again.

A mutant is one function with one small change.  Its code object is exchanged in place, so every
caller sees the change, and put back afterwards.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import textwrap
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs


@attrs.frozen
class Mutant:
    """A change to one function.

    source: the advisory, or the kind of systematic change.  where: module:function:line.
    old, new: text of the function that is replaced, once; or ``body``: its whole new source.
    sizes: type and values of identifiers that a counterexample needs in its small world.
    trial: a state, a transition and arguments with which it breaks something, where no small world is large enough.
    """

    id: str
    source: str
    module: str
    function: str
    words: str
    old: str = ""
    new: str = ""
    body: str = ""
    line: int = 0
    sizes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    trial: Callable[[], tuple[Any, str, dict[str, Any]]] | None = None

    @property
    def where(self) -> str:
        """Where the change is."""
        return f"{self.module}:{self.function}:{self.line}" if self.line else f"{self.module}:{self.function}"


def original(mutant: Mutant) -> Callable[..., Any]:
    """The function that a mutant changes."""
    module = importlib.import_module(mutant.module)
    return inspect.unwrap(getattr(module, mutant.function))  # type: ignore[no-any-return]


def source_of(function: Callable[..., Any]) -> str:
    """The source of a function, from the left margin."""
    return textwrap.dedent(inspect.getsource(function))


@functools.cache
def _text(mutant: Mutant, function: Callable[..., Any]) -> str:
    if mutant.body:
        return mutant.body
    text = source_of(function)
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.id}: {mutant.old!r} stands {text.count(mutant.old)} times in {mutant.function}")
    return text.replace(mutant.old, mutant.new)


@functools.cache
def _code(function: Any, text: str, name: str) -> types.CodeType:
    definition = ast.parse(text).body[0]
    assert isinstance(definition, ast.FunctionDef)
    definition.decorator_list = []
    scope = dict(function.__globals__)
    future = ast.parse("from __future__ import annotations").body
    exec(compile(ast.Module([*future, definition], []), f"<{name}>", "exec"), scope)
    return scope[definition.name].__code__  # type: ignore[no-any-return]


@contextmanager
def exchanged(function: Any, text: str, name: str) -> Iterator[None]:
    """A function with another source, for as long as the context lasts.  name: for tracebacks."""
    code = function.__code__
    function.__code__ = _code(function, text, name)
    try:
        yield
    finally:
        function.__code__ = code


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """The specification with the mutant in it."""
    function = original(mutant)
    with exchanged(function, _text(mutant, function), mutant.id):
        yield
