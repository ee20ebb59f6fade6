"""``bulkhead walk FILE``: the command, apart from the work."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer


def walk(
    file: Annotated[pathlib.Path, typer.Argument(help="stage-2 tables of a running Xen (.npz)", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> None:
    """Walk the stage-2 tables of a real machine: what each VM reaches, and whether the VMs are isolated."""
    from bulkhead.walk import run

    raise typer.Exit(run(file, as_json=as_json))
