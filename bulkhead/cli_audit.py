"""``bulkhead audit``: the command, apart from the work."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from bulkhead.problems import BadInputError


def audit(
    image: Annotated[pathlib.Path | None, typer.Argument(
        help="memory: raw, or an ELF core; none to read that of the QEMU behind --qmp", show_default=False)] = None,
    vms: Annotated[pathlib.Path | None, typer.Option("--vms", help="a TOML file: RAM, VMs, symbols")] = None,
    ram: Annotated[list[str] | None, typer.Option(
        "--ram", help="where RAM lies in a raw image: BASE, or BASE:SIZE for each bank")] = None,
    arch: Annotated[str, typer.Option("--arch", help="arm64 or arm32, where nothing else says so")] = "",
    symbols: Annotated[pathlib.Path | None, typer.Option("--symbols", help="Xen's: xen-syms or xen-syms.map")] = None,
    xen: Annotated[str, typer.Option("--xen", help="machine address of Xen; it is searched for otherwise")] = "",
    qmp: Annotated[pathlib.Path | None, typer.Option("--qmp", help="monitor socket of a running QEMU")] = None,
    gdb: Annotated[pathlib.Path | None, typer.Option("--gdb", help="gdb socket of the same QEMU")] = None,
    address: Annotated[str, typer.Option("--address", help="only say who reaches this machine address")] = "",
    html: Annotated[pathlib.Path | None, typer.Option("--html", help="also write a map of machine memory here")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> None:
    """Audit a machine's memory: what each VM reaches, what they share and why, and whether they are isolated."""
    from bulkhead.auditor.run import Request, run

    if arch not in ("", "arm64", "arm32"):
        raise BadInputError("--arch must be arm64 or arm32")
    raise typer.Exit(run(Request(
        image, vms, tuple(_bank(each) for each in ram or ()), arch == "arm32" if arch else None, symbols,
        _number(xen, "--xen") if xen else None, qmp, gdb, _number(address, "--address") if address else None, html,
        as_json)))


def _bank(text: str) -> tuple[int, int]:
    base, _, size = text.partition(":")
    return _number(base, "--ram"), _number(size, "--ram") if size else 0


def _number(text: str, option: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise BadInputError(f"{option}: {text[:40]!r} is no number") from None
