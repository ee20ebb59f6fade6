"""What every command does alike: bad input in one line, how far long work is, results in a file."""

from __future__ import annotations

import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from typer.exceptions import TyperException

from bulkhead.problems import BAD_INPUT, FAILS, HOLDS, BadInputError

State = TypeVar("State")
LINES_APART: Final = 10.0
"""Seconds between two lines of a log."""


class Throttled:
    """Calls a function at most so often. apart: seconds."""

    def __init__(self, function: Callable[[Any], Any], apart: float = LINES_APART) -> None:
        self.function, self.apart, self.last = function, apart, time.monotonic()

    def __call__(self, state: Any) -> None:
        """Call it, if it is time."""
        now = time.monotonic()
        if now - self.last >= self.apart:
            self.last = now
            self.function(state)


@contextlib.contextmanager
def counted(console: Console, total: int, what: str, far: Callable[[State], tuple[int, str]],
            line: Callable[[State], str]) -> Iterator[Callable[[State], None]]:
    """What shows how far a run is: a bar on a terminal, plain lines in a log.

    total: of what is counted.  far: how many of them, and what is new.
    """
    if not console.is_terminal:
        yield Throttled(lambda state: console.print(line(state)))
        return
    with Progress(TextColumn(f"{{task.completed:,.0f}} {what}"), BarColumn(), TextColumn("{task.percentage:.0f} %"),
                  TimeElapsedColumn(), TextColumn("{task.description}"), console=console) as bar:
        task = bar.add_task("", total=total)

        def show(state: State) -> None:
            done, newest = far(state)
            bar.update(task, completed=min(done, total), description=newest[:60])

        yield show


def finished(app: typer.Typer, name: str | None = None, arguments: Sequence[str] | None = None) -> int:
    """The exit code of a command; bad input is one line and 2.

    name: of the command, in its help.  arguments: those of the process if none are given.
    """
    try:
        code: int | None = app(arguments, standalone_mode=False, prog_name=name)
    except BadInputError as problem:
        sys.stderr.write(f"bulkhead: {problem}\n")
        return BAD_INPUT
    except TyperException as problem:
        sys.stderr.write(f"bulkhead: {problem.format_message()}\n")
        return BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("bulkhead: interrupted\n")
        return FAILS
    return code or HOLDS


def single(function: Callable[..., Any], name: str, arguments: Sequence[str] | None = None) -> int:
    """The exit code of a function that is a command of its own."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(function)
    return finished(app, name, arguments)


def write_json(path: pathlib.Path, made: Any) -> None:
    """Keep results as a file, in a folder that need not exist. made: what JSON can hold."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


__all__ = ["Throttled", "counted", "finished", "single", "write_json"]
