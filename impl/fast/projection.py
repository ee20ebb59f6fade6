"""The state in neutral rows, for comparison with other implementations: ints, booleans and None only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from impl.fast.p2m import FRAME, READ, TABLE, TYPE_SHIFT, VALID, WRITE, XN

if TYPE_CHECKING:
    from impl.fast.domains import Domain
    from impl.fast.frames import Frames
    from impl.fast.machine import Machine

Value = int | bool | None
Words = NDArray[np.uint64]
Rows = dict[tuple[int, ...], tuple[Value, ...]]


def project(machine: Machine) -> dict[str, Rows]:
    """Everything that is compared.

    domain[(d,)] = (status: 0 alive, 1 dying, 2 dead; tot_pages; max_pages; outstanding claim; lowest gfn ever mapped or
    None; highest gfn ever mapped; pool frames; free pool frames), of every listed domain.
    p2m[(d, gfn)] = (mfn, type, hardware_valid, readable, writable, executable), one row for each 4 KB mapped;
    hardware_valid: the hardware translates it without a fault first.
    frame[(mfn,)] = (owner or None, allocated, xenheap, references), of every frame that is not free.
    The grant rows: see impl.fast.grant.projection.
    """
    from impl.fast.grant.projection import project_grants
    rows: dict[str, Rows] = {"domain": project_domains(machine), "p2m": {}, "frame": project_frames(machine)}
    for domain in machine.domains.values():
        rows["p2m"].update(project_p2m(domain))
    for name, table in project_grants(machine).items():
        rows[name] = dict(table)
    return rows


def project_domains(machine: Machine) -> Rows:
    """The domain rows of `project`."""
    rows: Rows = {}
    never = machine.address_mask
    for number, domain in machine.domains.items():
        p2m = domain.p2m
        lowest = None if p2m.lowest_mapped_gfn == never else p2m.lowest_mapped_gfn
        rows[number,] = (int(domain.is_dying), domain.tot_pages, domain.max_pages, domain.outstanding_pages, lowest,
                         p2m.max_mapped_gfn, p2m.pool_total, len(p2m.freelist))
    return rows


def project_p2m(domain: Domain) -> Rows:
    """The p2m rows of one domain."""
    rows: Rows = {}
    p2m = domain.p2m
    if p2m.root is None:
        return rows
    # (table, gfn of its first entry, level, valid so far)
    tables = [(p2m.root + i, i << 9 * (4 - p2m.root_level), p2m.root_level, True) for i in range(p2m.root_pages)]
    while tables:
        mfn, base, level, valid = tables.pop()
        page = p2m.memory.page(mfn)
        live = ((page >> np.uint64(TYPE_SHIFT)) & np.uint64(15)).nonzero()[0].tolist()
        words = page[live].tolist()
        shift = 9 * (3 - level)
        for index, word in zip(live, words, strict=True):
            gfn = base + (index << shift)
            frame = (word & FRAME) >> 12
            reached = valid and bool(word & VALID)
            if level < 3 and word & TABLE:
                tables.append((frame, gfn, level + 1, reached))
                continue
            rest = (word >> TYPE_SHIFT & 15, reached, bool(word & READ), bool(word & WRITE), not word & XN)
            for i in range(1 << shift):
                rows[domain.id, gfn + i] = (frame + i, *rest)
    return rows


def project_frames(machine: Machine) -> Rows:
    """The frame rows of `project`."""
    rows: Rows = {}
    frames = machine.frames
    used = ((frames.count_info & np.uint64(frames.STATE)) != np.uint64(frames.STATE_FREE)).nonzero()[0]
    for index in used.tolist():
        mfn = frames.mfn_of(index)
        rows[mfn,] = _frame_row(frames, mfn)
    return rows


def _frame_row(frames: Frames, mfn: int) -> tuple[Value, ...]:
    return frames.owner_of(mfn), frames.is_allocated(mfn), frames.is_xen_heap(mfn), frames.count(mfn)


def dirty_pages(machine: Machine) -> set[int]:
    """The frames written since the last call."""
    return machine.dirty_pages()


class Projector:
    """The rows as they change: `rows` is what `project` gives, brought up to date by `update`.

    It takes the machine's record of written frames for itself (`Machine.dirty_pages`). A restored snapshot is a change
    like any other.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.rows: dict[str, Rows] = {}
        # per domain, per 2 MB of guest addresses: a 4 KB descriptor for each gfn, valid only if the hardware gets there
        self._words: dict[int, dict[int, Words]] = {}
        self._counts = machine.frames.count_info.copy()
        self._owners = machine.frames.owner.copy()
        machine.dirty_pages()
        self.rows = project(machine)
        for domain in machine.domains.values():
            self._words[domain.id] = dict(_regions(domain))

    def update(self) -> dict[str, dict[tuple[int, ...], tuple[Value, ...] | None]]:
        """The rows that changed since the last time, by table and key; None for a row that is gone."""
        from impl.fast.grant.projection import project_grants
        changes: dict[str, dict[tuple[int, ...], tuple[Value, ...] | None]] = {
            "p2m": self._update_p2m(self.machine.dirty_pages()), "frame": self._update_frames()}
        whole: dict[str, Rows] = {"domain": project_domains(self.machine)}
        for name, table in project_grants(self.machine).items():
            whole[name] = dict(table)
        for name, new in whole.items():
            old = self.rows.get(name, {})
            changed: dict[tuple[int, ...], tuple[Value, ...] | None] = {
                key: row for key, row in new.items() if old.get(key) != row}
            changed.update(dict.fromkeys(old.keys() - new.keys()))
            changes[name] = changed
            self.rows[name] = new
        return changes

    def _update_p2m(self, dirty: set[int]) -> dict[tuple[int, ...], tuple[Value, ...] | None]:
        changed: dict[tuple[int, ...], tuple[Value, ...] | None] = {}
        domains = self.machine.domains
        for gone in self._words.keys() - domains.keys():
            for base, words in self._words.pop(gone).items():
                _diff(changed, gone, base, words, _EMPTY)
        for number, domain in domains.items():
            p2m = domain.p2m
            known = self._words.setdefault(number, {})
            tables = p2m.tables
            mine = [mfn for mfn in dirty if mfn in tables]
            upper = p2m.root is None or any(mfn - p2m.root < p2m.root_pages for mfn in dirty if mfn >= p2m.root)
            if not upper and not mine:
                continue
            if upper or any(tables[mfn][0] != 3 for mfn in mine):
                found = dict(_regions(domain))
                for base in known.keys() - found.keys():
                    _diff(changed, number, base, known.pop(base), _EMPTY)
            else:
                found = {tables[mfn][1]: _reached(domain, mfn, tables[mfn][1]) for mfn in mine}
            for base, words in found.items():
                _diff(changed, number, base, known.get(base, _EMPTY), words)
                known[base] = words
        rows = self.rows["p2m"]
        for key, row in changed.items():
            if row is None:
                rows.pop(key, None)
            else:
                rows[key] = row
        return changed

    def _update_frames(self) -> dict[tuple[int, ...], tuple[Value, ...] | None]:
        frames = self.machine.frames
        changed: dict[tuple[int, ...], tuple[Value, ...] | None] = {}
        different = ((self._counts != frames.count_info) | (self._owners != frames.owner)).nonzero()[0]
        rows = self.rows["frame"]
        for index in different.tolist():
            mfn = frames.mfn_of(index)
            row = None if frames.is_free(mfn) else _frame_row(frames, mfn)
            if rows.get((mfn,)) == row:
                continue
            changed[mfn,] = row
            if row is None:
                del rows[mfn,]
            else:
                rows[mfn,] = row
        self._counts[different] = frames.count_info[different]
        self._owners[different] = frames.owner[different]
        return changed


_EMPTY: Words = np.zeros(512, np.uint64)
_NOT_VALID = np.uint64(~VALID & (1 << 64) - 1)


def _regions(domain: Domain) -> Iterator[tuple[int, Words]]:
    """(first gfn, 512 descriptors) of every 2 MB in which something is mapped."""
    p2m = domain.p2m
    if p2m.root is None:
        return
    tables = [(p2m.root + i, i << 9 * (4 - p2m.root_level), p2m.root_level, True) for i in range(p2m.root_pages)]
    while tables:
        mfn, base, level, valid = tables.pop()
        page = p2m.memory.page(mfn)
        shift = 9 * (3 - level)
        if level == 3:
            yield base, page.copy() if valid else page & _NOT_VALID
            continue
        for index in page.nonzero()[0].tolist():
            word = int(page[index])
            reached = valid and bool(word & VALID)
            gfn = base + (index << shift)
            if word & TABLE:
                tables.append(((word & FRAME) >> 12, gfn, level + 1, reached))
                continue
            for first in range(0, 1 << shift, 512):
                start = np.uint64((word if reached else word & ~VALID) + (first << 12))
                yield gfn + first, start + _PAGES


_PAGES: Words = np.arange(512, dtype=np.uint64) << np.uint64(12)


def _reached(domain: Domain, mfn: int, base: int) -> Words:
    """The 512 descriptors of a level-3 table, invalid if a table above is."""
    p2m = domain.p2m
    page = p2m.memory.page(mfn)
    table, level = p2m.root or 0, p2m.root_level
    index = base >> 9 * (3 - level)
    while level < 3:
        word = p2m.memory.get(table, index)
        if not word & VALID:
            return page & _NOT_VALID
        table, level = (word & FRAME) >> 12, level + 1
        index = base >> 9 * (3 - level) & 511
    return page.copy()


def _diff(changed: dict[tuple[int, ...], tuple[Value, ...] | None], number: int, base: int, old: Words,
          new: Words) -> None:
    """Note the rows in which two versions of 2 MB differ."""
    for index in (old != new).nonzero()[0].tolist():
        word = int(new[index])
        kind = word >> TYPE_SHIFT & 15
        if kind:
            changed[number, base + index] = ((word & FRAME) >> 12, kind, bool(word & VALID), bool(word & READ),
                                             bool(word & WRITE), not word & XN)
        else:
            changed[number, base + index] = None
