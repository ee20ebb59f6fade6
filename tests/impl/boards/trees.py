"""Device trees of the boards as nested mappings, to be changed and written again."""

from __future__ import annotations

import copy
import functools
import struct
from typing import Any

from impl.boards import blob
from impl.boards.catalogue import CATALOGUE

Tree = dict[str, Any]
NAMES = [entry.name for entry in CATALOGUE]


@functools.cache
def _read(name: str) -> tuple[Tree, tuple[tuple[int, int], ...]]:
    entry = next(each for each in CATALOGUE if each.name == name)
    parsed = blob.parse(entry.blob.read_bytes())
    return blob.tree(parsed.root), parsed.reservations


def tree_of(name: str) -> Tree:
    """The tree of a board, free to change."""
    return copy.deepcopy(_read(name)[0])


def write(tree: Tree, **options: Any) -> bytes:
    """The blob of a tree."""
    return blob.compose(tree, **options)


def cells(*numbers: int) -> bytes:
    """Cells of 32 bits."""
    return struct.pack(f">{len(numbers)}I", *numbers)


def child(tree: Tree, start: str) -> Tree:
    """The first child whose name starts so."""
    return next(value for key, value in tree.items() if key.startswith(start) and isinstance(value, dict))


def gic(tree: Tree) -> Tree:
    """The node of the GIC, wherever it is."""
    return next(node for node in every(tree) if "interrupt-controller" in node and "compatible" in node)


def every(tree: Tree) -> list[Tree]:
    """All nodes."""
    found = [tree]
    for value in tree.values():
        if isinstance(value, dict):
            found += every(value)
    return found
