"""The walker of volatility3, a forensic tool, over the same tree in x86-64 encoding, where it is installed."""

from collections.abc import Callable
from typing import Any

import numpy as np

from impl.fast.bench.trees import Pool, Tree
from impl.fast.geometry import ENTRIES, PAGE_BITS, PAGE_BYTES, shift_of
from impl.fast.walks import ADDRESS, Words

_PRESENT, _LARGE = 7, 0x80


def walker(pool: Pool, tree: Tree) -> Callable[[int], int] | None:
    """A function from a guest address to a machine address, or None without volatility3.

    The tree starts at level 1: a top table with one entry is put above it, as x86-64 needs.
    """
    try:
        from volatility3.framework import contexts, interfaces  # type: ignore[import-not-found, unused-ignore]
        from volatility3.framework.layers import intel, physical  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    memory = _encoded(pool, tree)
    context: Any = contexts.Context()
    context.add_layer(physical.BufferDataLayer(context, "bench.memory", "memory", memory.tobytes()))
    join = interfaces.configuration.path_join
    context.config[join("bench", "memory_layer")] = "memory"
    context.config[join("bench", "page_map_offset")] = (len(memory) - ENTRIES) * 8
    layer: Any = intel.Intel32e(context, "bench", "guest")

    def walk(ipa: int) -> int:
        offset: int = layer._translate(ipa)[0]
        return offset

    return walk


def _encoded(pool: Pool, tree: Tree) -> Words:
    """The pool at address 0, its tables in x86-64 encoding, and the top table behind it."""
    words = np.concatenate((pool.words, np.zeros(ENTRIES, np.uint64)))
    base = np.uint64(pool.base)
    tables = np.array([tree.root], np.uint64)
    address = np.uint64(ADDRESS)
    for level in range(tree.geometry.start_level, 4):
        place = ((tables - base) >> np.uint64(PAGE_BITS)).astype(np.intp)
        rows = words[: len(pool.words)].reshape(-1, ENTRIES)
        old = rows[place]
        table = (old & np.uint64(3)) == 3 if level < 3 else np.zeros(old.shape, np.bool_)
        valid = (old & np.uint64(1)) == 1
        below = ((old & address) - np.where(table, base, np.uint64(0))) | np.uint64(_PRESENT)
        large = np.uint64(_LARGE if level < 3 else 0)
        rows[place] = np.where(valid, np.where(table, below, below | large), np.uint64(0))
        tables = old[table] & address
    if shift_of(tree.geometry.start_level) != 30 or PAGE_BYTES != 8 * ENTRIES:
        raise ValueError("only trees that start at level 1 have a twin in x86-64 encoding")
    words[-ENTRIES] = (tree.root - pool.base) | _PRESENT
    return words
