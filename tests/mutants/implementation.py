"""Mutants of the optimised implementation: does the differential fuzzer find each within a minute?

``python -m tests.mutants.implementation [--sample N]``.  A mutant changes one function or method of ``impl.fast``; the
fuzzer then compares it with the specification until the first difference.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import inspect
import json
import os
import pathlib
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import attrs
from rich.console import Console

from bulkhead.fuzz.campaign import run
from impl.fast.machine import Machine
from tests.mutants.mutation import exchanged, source_of
from tests.mutants.systematic import Site, changed, conditions

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SECONDS = 60.0
"""The fuzzer has so long for one mutant."""
MOST_FOUND = 0.95
MODULES = (
    "p2m", "guestcopy", "memory_op", "domctl", "teardown", "frames", "privilege", "domains", "machine",
    "grant.cache", "grant.copying", "grant.entries", "grant.lifecycle", "grant.mapping", "grant.maptrack", "grant.ops",
    "grant.physmap", "grant.table", "grant.tables",
)
EXPLAINED: dict[str, str] = {}
"""Mutants that no guest and no projection can notice, with the reason."""


@attrs.frozen
class Flaw:
    """A change of one function of the implementation.  where: module, and function or ``Class.method``."""

    id: str
    module: str
    where: str
    words: str
    body: str


@attrs.frozen
class Verdict:
    """How a flaw ended.  found: the first difference in words, "" if there was none in time."""

    id: str
    words: str
    found: str
    seconds: float
    stimuli: int


def _functions(module: str) -> Iterator[tuple[str, Any]]:
    """The functions and methods that a module defines."""
    loaded = importlib.import_module(module)
    for name, value in vars(loaded).items():
        if inspect.isfunction(value) and value.__module__ == module:
            yield name, value
        elif inspect.isclass(value) and value.__module__ == module:
            for inner, method in vars(value).items():
                function = method.fget if isinstance(method, property) else inspect.unwrap(method) \
                    if callable(method) else getattr(method, "__func__", None)
                if inspect.isfunction(function) and not inner.startswith("__") and function.__module__ == module:
                    yield f"{name}.{inner}", function


def _sites(tree: ast.FunctionDef) -> Iterator[Site]:
    """Every place that can be mutated."""
    for position, node in enumerate(ast.walk(tree)):
        yield from conditions(position, node)
        if isinstance(node, ast.AugAssign) or (
                isinstance(node, ast.Assign) and isinstance(node.targets[0], (ast.Attribute, ast.Subscript))):
            yield position, "update dropped", lambda _: ast.Pass()
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield position, "effect dropped", lambda _: ast.Pass()


def flaws() -> Iterator[Flaw]:
    """Every systematic mutant of the implementation."""
    for each in MODULES:
        module = f"impl.fast.{each}"
        for name, function in _functions(module):
            tree = ast.parse(source_of(function)).body[0]
            if not isinstance(tree, ast.FunctionDef) or function.__code__.co_freevars:
                continue
            for number, (position, kind, change) in enumerate(_sites(tree)):
                before, body, _ = changed(tree, position, change)
                yield Flaw(f"fast.{each}.{name}#{number}", module, name, f"{kind}: {before}", body)


@contextmanager
def applied(flaw: Flaw) -> Iterator[None]:
    """The implementation with the flaw in it."""
    with exchanged(dict(_functions(flaw.module))[flaw.where], flaw.body, flaw.id):
        yield


def hunt(flaw: Flaw, seconds: float = SECONDS) -> Verdict:
    """Let the fuzzer look for the flaw."""
    started = time.perf_counter()
    with applied(flaw):
        try:
            progress = run(1, seconds, functools.partial(Machine))
            found = progress.failures[0].finding.text.splitlines()[0] if progress.failures else ""
            stimuli = progress.stimuli
        except Exception as problem:  # noqa: BLE001, a machine that does not even boot
            found, stimuli = f"{type(problem).__name__}: {problem}", 0
    return Verdict(flaw.id, flaw.words, found, time.perf_counter() - started, stimuli)


def main() -> int:
    """Hunt, print, write ``build/mutants-implementation.json``."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.implementation", description=__doc__)
    parser.add_argument("--sample", type=int, default=0, help="so many of them, chosen by --seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="those whose id contains this")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="the fuzzer's time for each")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants looked at side by side")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    chosen = [each for each in flaws() if arguments.only in each.id and each.id not in EXPLAINED]
    if arguments.sample:
        chosen = random.Random(arguments.seed).sample(chosen, min(arguments.sample, len(chosen)))
    out = Console(highlight=False, width=150)
    verdicts: list[Verdict] = []
    place = pathlib.Path("build/mutants-implementation.json")
    place.parent.mkdir(exist_ok=True)
    pool = ProcessPoolExecutor(max_workers=arguments.jobs)
    try:
        for verdict in pool.map(hunt, chosen, [arguments.seconds] * len(chosen)):
            verdicts.append(verdict)
            mark = "found" if verdict.found else "survived"
            out.print(f"{mark:9} {verdict.seconds:6.1f} s {verdict.id:44} {verdict.words[:48]:48} {verdict.found[:36]}")
            place.write_text(json.dumps([attrs.asdict(each) for each in verdicts], indent=1) + "\n")
    except KeyboardInterrupt:
        out.print("stopped")
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    found = sum(bool(each.found) for each in verdicts)
    out.print(f"mutants of the implementation: {len(verdicts)}, found by the fuzzer {found}"
              f" ({100 * found / max(len(verdicts), 1):.1f} %)")
    return 0 if found >= MOST_FOUND * len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
