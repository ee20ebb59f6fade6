"""The device tree that Xen is started with: the board's own, with Xen's and the domains' modules in /chosen.

Source: docs/misc/arm/device-tree/booting.txt of Xen's interface; fact sheet "lifecycle" 8.
"""

from __future__ import annotations

import pathlib
import struct
import subprocess
import tempfile
from collections.abc import Iterable
from typing import Any

import attrs

from impl.boards.blob import compose, parse, tree
from impl.boards.catalogue import SOURCES
from impl.xen.errors import QemuError
from impl.xen.kinds import Kind


@attrs.frozen
class Module:
    """A domain's image in RAM, and what it is told. address, size: bytes."""

    address: int
    size: int
    arguments: str


@attrs.frozen
class Guest:
    """A domain that Xen builds at boot. memory: KB; vcpus: how many; pool: stage-2 pool in MB, None for Xen's own."""

    name: str
    memory: int
    vcpus: int
    module: Module
    pool: int | None = None


def base(kind: Kind, cpu: str, cpus: int) -> dict[str, Any]:
    """The board's tree, as nested mappings. Errors: QemuError."""
    if kind.base_tree:
        found = tree(parse((SOURCES / f"{kind.base_tree}.dtb").read_bytes()).root)
        return _fewer_cpus(found, cpus)
    with tempfile.TemporaryDirectory(prefix="bulkhead-tree-") as name:
        path = pathlib.Path(name) / "tree.dtb"
        command = [kind.qemu, "-M", f"{kind.machine},dumpdtb={path}", "-m", str(kind.ram_size >> 20), "-smp", str(cpus),
                   "-display", "none", "-nodefaults", *(["-cpu", cpu] if cpu else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not path.is_file():
            words = done.stderr.strip().splitlines()
            raise QemuError(f"QEMU gives no device tree: {words[-1] if words else 'no reason given'}")
        return tree(parse(path.read_bytes()).root)


def _fewer_cpus(found: dict[str, Any], cpus: int) -> dict[str, Any]:
    """The tree with only so many processors."""
    node = found["cpus"]
    names = [name for name in node if name.startswith("cpu@")]
    return {**found, "cpus": {name: value for name, value in node.items() if name not in names[cpus:]}}


def with_modules(board: dict[str, Any], xen: str, dom0: Module | None, guests: Iterable[Guest]) -> bytes:
    """The blob for Xen. board: nested mappings; xen: Xen's command line."""
    chosen = dict(board.get("chosen", {}))
    chosen.update({"#address-cells": _cells(2), "#size-cells": _cells(2), "xen,xen-bootargs": _text(xen)})
    for name in [name for name in chosen if name in {"kaslr-seed", "rng-seed"}]:
        del chosen[name]
    if dom0 is not None:
        chosen["xen,dom0-bootargs"] = _text(dom0.arguments)
        chosen[f"module@{dom0.address:x}"] = _module(dom0)
    for guest in guests:
        node: dict[str, Any] = {
            "compatible": _text("xen,domain"), "#address-cells": _cells(2), "#size-cells": _cells(2),
            "memory": struct.pack(">Q", guest.memory), "cpus": _cells(guest.vcpus),
            # grants and event channels, but no xenstore
            "xen,enhanced": _text("no-xenstore"),
        }
        if guest.pool is not None:
            node["xen,domain-p2m-mem-mb"] = _cells(guest.pool)
        module = _module(guest.module)
        module["bootargs"] = _text(guest.module.arguments)
        node[f"module@{guest.module.address:x}"] = module
        chosen[guest.name] = node
    return compose({**board, "chosen": chosen})


def _module(module: Module) -> dict[str, Any]:
    return {"compatible": _text("multiboot,kernel") + _text("multiboot,module"),
            "reg": struct.pack(">QQ", module.address, module.size)}


def _cells(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def _text(text: str) -> bytes:
    return text.encode() + b"\0"
