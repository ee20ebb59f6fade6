"""All leaves of tables: those that the specification lists, and those of ``impl.fast``, leaf by leaf and merged."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bulkhead.fuzz.walks.compare import Ways, spec_geometry
from bulkhead.fuzz.walks.tables import PAGE_BITS, Tables, make, real
from impl.fast import walks
from spec.language import Mfn, Word, decode
from spec.memory import walk
from spec.memory.descriptors import Vttbr
from spec.memory.walk import Fault, may_fetch

SEED = 11
CASES = 60
MOST_TABLES = 24
"""Larger trees, most of them cyclic, take the readable walk too long."""
FILES = sorted((Path(__file__).parents[1] / "vectors").glob("*.npz"))
DEVICES = (3, 4, 5)
"""Xen's types of mapped devices, which take hundreds of gigabytes."""

Row = tuple[int, int, int, int, int]
"""Guest address, size and machine address in bytes, permissions (1 read, 2 write, 4 execute), Xen's type."""


def by_specification(tables: Tables) -> list[Row]:
    """Every leaf that the hardware reaches without a fault, in order of guest addresses."""
    shape, rows = spec_geometry(tables), tables.rows()

    def words(table: Mfn, index: int) -> Word:
        return Word(rows[table][index] if table in rows else 0)

    root = decode(Vttbr, Word(tables.vttbr)).frame
    if root >= shape.output_frames:
        return []
    return [
        (leaf.gfn << PAGE_BITS, leaf.pages << PAGE_BITS, leaf.frame << PAGE_BITS,
         leaf.entry.read | leaf.entry.write << 1 | may_fetch(leaf.entry, arm32=False) << 2, leaf.entry.type)
        for leaf in walk.leaves(words, root, shape)
        if leaf.hardware and leaf.fault == Fault.NONE and leaf.gfn < shape.ipa_frames
    ]


def in_arrays(ways: Ways) -> list[Row]:
    """The same by the tables, level by level."""
    tree = walks.leaves(ways.banks, ways.root, ways.shape, expand=True, most=MOST_TABLES)
    found: list[Row] = []
    for level, base, words in tree.chunks(7):
        size = 1 << PAGE_BITS + 9 * (3 - level)
        table, index = np.nonzero(walks.is_leaf(words, level, ways.shape))
        entry = words[table, index]
        said = walks.attributes(entry)
        ipa = base[table] + index.astype(np.uint64) * np.uint64(size)
        address = entry & np.uint64(walks.ADDRESS & -size)
        rows = (ipa, np.full(len(ipa), size), address, said.permission, said.type)
        found += zip(*(each.tolist() for each in rows), strict=True)
    return sorted(found)


def joined(rows: list[Row]) -> list[Row]:
    """Leaves as ranges, one after the other."""
    found: list[Row] = []
    for ipa, size, address, permission, kind in rows:
        if found:
            start, length, first, *rest = found[-1]
            if (start + length, first + length, rest) == (ipa, address, [permission, kind]):
                found[-1] = (start, length + size, first, permission, kind)
                continue
        found.append((ipa, size, address, permission, kind))
    return found


def ranges_of(found: walks.Ranges) -> list[Row]:
    """Ranges as rows."""
    columns = (found.ipa, found.size, found.address, found.permission, found.type)
    return list(zip(*(each.tolist() for each in columns), strict=True))


@pytest.mark.parametrize("first", range(0, CASES, 20))
def test_leaves__are_those_of_the_specification(first: int) -> None:
    compared = 0
    for number in range(first, first + 20):
        tables = make(SEED, number, 16).tables
        ways = Ways.of(tables, walks)
        try:
            actual = in_arrays(ways)
        except walks.MalformedTree:
            continue
        expected = by_specification(tables)
        assert actual == expected, tables.name
        tree = walks.leaves(ways.banks, ways.root, ways.shape, expand=True, most=MOST_TABLES)
        assert ranges_of(walks.merged(tree)) == joined(expected), tables.name
        compared += 1
    assert compared


def frames_of(rows: list[Row]) -> npt.NDArray[np.int64]:
    """The machine frames of leaves, in order."""
    parts = [np.arange(address >> PAGE_BITS, address + size >> PAGE_BITS) for _, size, address, _, _ in rows]
    return np.unique(np.concatenate([np.empty(0, np.int64), *parts]))


@pytest.mark.parametrize("file", FILES, ids=lambda each: each.stem)
def test_owners__of_a_real_machine_are_who_the_leaves_say(file: Path) -> None:
    """Every frame of memory that two VMs reach; and the leaves of each."""
    machines = [tables for tables, _ in real(file)]
    ways = [Ways.of(tables, walks) for tables in machines]
    reached = []
    for tables, way in zip(machines, ways, strict=True):
        rows = by_specification(tables)
        tree = walks.leaves(way.banks, way.root, way.shape)
        assert ranges_of(walks.merged(tree)) == joined(rows)
        reached.append(frames_of([row for row in rows if row[4] not in DEVICES]))
    types = sum(1 << kind for kind in range(16) if kind not in DEVICES)
    found = walks.owners(ways[0].banks, [(way.root, way.shape) for way in ways], types=types)
    shared = [(int(frame), first, second) for (first, one), (second, other)
              in itertools.combinations(enumerate(reached), 2) for frame in np.intersect1d(one, other)]
    noted = zip(found.frame.tolist(), found.first.tolist(), found.second.tolist(), strict=True)
    assert sorted(noted) == sorted(shared)
    assert shared
