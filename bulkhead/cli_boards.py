"""``bulkhead boards`` and ``bulkhead boards show NAME|FILE.dtb``: the emulated boards."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from bulkhead.problems import BadInputError
from impl.boards.board import Board
from impl.boards.catalogue import CATALOGUE, load, load_file
from impl.boards.problems import BadBoard
from impl.boards.tree import Interrupt

boards = typer.Typer(no_args_is_help=False, invoke_without_command=True,
                     help="The emulated boards: list them, or show one or the one that a device-tree blob describes.")

_LEVELS = {0: "trigger not said", 1: "rising edge", 2: "falling edge", 4: "level high", 8: "level low"}


@boards.callback()
def list_boards(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> None:
    """The emulated boards: list them, or show one or the one that a device-tree blob describes."""
    if context.invoked_subcommand is not None:
        return
    found = [(entry, load(entry.name)) for entry in CATALOGUE]
    if as_json:
        listed = [{"title": entry.title, **board.facts()} for entry, board in found]
        sys.stdout.write(json.dumps({"boards": listed}) + "\n")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("board", "Xen", "CPUs", "RAM", "PA", "IPA", "GIC", "CPUs started by", "what it is"):
        table.add_column(title, justify="right" if title in {"RAM", "PA", "IPA"} else "left", no_wrap=title == "board")
    for entry, board in found:
        table.add_row(
            board.name, board.architecture, f"{len(board.cpus)} {_short(board.cpu_kind)}", _size(board.ram_size),
            str(board.pa_bits), str(board.ipa_bits), f"v{board.gic.version}", board.bringup.method, entry.title,
        )
    _console().print(table)


@boards.command()
def show(
    name: Annotated[str, typer.Argument(help="a board's name, or a device-tree blob (.dtb)", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
    pa_bits: Annotated[
        int | None, typer.Option("--pa-bits", help="width of physical addresses, if the processor is not known")
    ] = None,
) -> None:
    """Show one board: what Xen finds on it, or why Xen would not start on it."""
    try:
        board = _find(name, pa_bits)
    except BadBoard as problem:
        raise BadInputError(f"{name}: {problem}" if _is_file(name) else str(problem)) from None
    if as_json:
        sys.stdout.write(json.dumps(board.facts()) + "\n")
        return
    out = _console()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for title, text in _lines(board):
        table.add_row(title, text)
    out.print(table)


def _is_file(name: str) -> bool:
    """A file is meant: no board has this name, and it looks like a path or is one."""
    if any(entry.name == name for entry in CATALOGUE):
        return False
    try:
        return name.endswith(".dtb") or "/" in name or pathlib.Path(name).exists()
    except (OSError, ValueError):
        return False


def _find(name: str, pa_bits: int | None) -> Board:
    """The board of a name or file.

    Errors: BadBoard.
    """
    if _is_file(name):
        return load_file(pathlib.Path(name), pa_bits=pa_bits)
    if pa_bits is not None:
        raise BadBoard("--pa-bits is for files: the boards that come with the project have their own")
    return load(name)


def _lines(board: Board) -> list[tuple[str, str]]:
    """(title, text) of each line of a board's page."""
    stage2, timers = board.stage2, board.timers
    lines = [
        ("board", board.name),
        ("model", board.model),
        ("compatible", ", ".join(board.compatible)),
        ("platform", f"{board.platform} (Xen, {board.architecture})"),
        ("widths", f"{board.pa_bits} bits PA, {stage2.ipa_bits} bits IPA, {board.vmid_bits} bits VMID"),
        ("stage 2", f"root at level {stage2.root_level}, {stage2.root_pages} pages, T0SZ {stage2.t0sz}"),
    ]
    for i, cpu in enumerate(board.cpus):
        start = "Xen starts here" if cpu.method == "boot" else cpu.method
        if cpu.release_address is not None:
            start += f" at {cpu.release_address:#x}"
        note = f" ({cpu.note})" if cpu.note else ""
        lines.append((f"CPU {i}", f"MPIDR {cpu.mpidr:#x}, {cpu.kind}, {start}{note}"))
    started = board.bringup.method
    if board.bringup.address is not None:
        started += f": entry address at {board.bringup.address:#x}"
    lines.append(("CPUs started", started + (", then an SGI" if board.bringup.interrupt else "")))
    if board.psci is not None:
        lines.append(("PSCI", f"{board.psci.version} by {board.psci.method or 'no method'}"
                      + ("" if board.psci.usable else ", not used by Xen")))
    lines += [("RAM", f"{bank.base:#x} size {_size(bank.size)}") for bank in board.banks]
    lines += [("reserved", str(one)) for one in board.reserved]
    lines += [(name, str(one)) for name, one in board.gic.regions]
    lines.append(("maintenance", _interrupt(board.gic.maintenance)))
    for title, one in (("secure", timers.secure), ("physical", timers.physical), ("virtual", timers.virtual),
                       ("hypervisor", timers.hypervisor)):
        lines.append((f"{title} timer", _interrupt(one)))
    lines.append(("timer runs at", f"{timers.frequency} Hz" if timers.frequency else "what CNTFRQ says"))
    lines += [("console" if uart.console else "UART", f"{uart.kind}, {uart.region}, {_interrupt(uart.interrupt)}")
              for uart in board.uarts]
    lines += [("SMMU", f"{one.kind}, {one.region}{'' if one.driver else ', no driver in Xen'}") for one in board.smmus]
    lines.append(("reset", board.reset or "none"))
    lines += [("mapped to dom0", str(one)) for one in board.dom0_maps]
    if board.hidden:
        lines.append(("hidden from dom0", ", ".join(board.hidden)))
    lines += [("quirk", text) for text in board.quirks]
    return lines


def _interrupt(one: Interrupt | None) -> str:
    """An interrupt in words."""
    if one is None:
        return "no interrupt at the GIC"
    return f"{one} (INTID {one.intid}, {_LEVELS.get(one.trigger, f'trigger {one.trigger}')})"


def _short(kind: str) -> str:
    """A processor's name without its maker."""
    return kind.split(",", 1)[-1]


def _size(count: int) -> str:
    """Bytes in the largest unit that leaves no remainder."""
    for shift, unit in ((30, "GB"), (20, "MB"), (10, "KB")):
        if count and count % (1 << shift) == 0:
            return f"{count >> shift} {unit}"
    return f"{count} bytes"


def _console() -> Console:
    """Text as it is: nothing in a device tree is markup."""
    options: dict[str, Any] = {} if sys.stdout.isatty() else {"width": 200}
    return Console(highlight=False, markup=False, emoji=False, **options)
