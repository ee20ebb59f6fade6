"""The specification's state in neutral rows, and where an implementation differs from it.

The rows are those of ``impl.fast.projection``. What the specification leaves out is treated so:

* frames that Xen uses for itself, pages of stage-2 tables among them, have no owner, no reference and no contents in
  the specification; of these it is compared that the implementation has them in use, and that nobody owns them. Whether
  one stems from Xen's heap is not compared for them.
* the level of a fault, the text of a reason and the set of written frames are not compared; contents are.
* contents are compared of frames that a domain owns or shares with Xen; others nobody can see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import attrs

from bulkhead.oracle.machine import Observation, Oracle
from bulkhead.oracle.tables import Words
from spec.grant.access import is_pinned
from spec.grant.invariants import is_live as is_mapping
from spec.language import DomId
from spec.memory.p2m import is_executable, is_live, is_readable, is_writable
from spec.state import NOBODY, State, Status, Use

if TYPE_CHECKING:
    from impl.fast.machine import Machine
    from impl.fast.projection import Projector

Key = tuple[int, ...]
Row = tuple[Any, ...]
Rows = dict[Key, Row]
Changes = dict[str, dict[Key, Row | None]]

_STATUS = {Status.ALIVE: 0, Status.DYING: 1, Status.DEAD: 2}
_LISTED = frozenset(_STATUS)
_NONE = None
_HOST, _DEVICE, _READONLY = 2, 1, 4

NAMES: dict[str, tuple[str, ...]] = {
    "domain": ("status", "tot_pages", "max_pages", "outstanding claim", "lowest gfn", "highest gfn", "pool pages",
               "free pool pages"),
    "p2m": ("mfn", "type", "valid bit", "readable", "writable", "executable"),
    "frame": ("owner", "allocated", "xenheap", "references"),
    "grant_domain": ("version", "grant frames", "status frames", "maptrack frames"),
    "active": ("host read pins", "host write pins", "device read pins", "device write pins", "mfn", "start", "length",
               "is_sub_page", "trans_domain", "trans_gref"),
    "mapping": ("granter", "ref", "GNTMAP flags"),
    "grant_frame": ("mfn",),
    "status_frame": ("mfn",),
}
"""The columns of each table of rows."""
KEYS: dict[str, tuple[str, ...]] = {
    "domain": ("domain",), "p2m": ("domain", "gfn"), "frame": ("mfn",), "grant_domain": ("domain",),
    "active": ("domain", "ref"), "mapping": ("domain", "handle"), "grant_frame": ("domain", "number"),
    "status_frame": ("domain", "number"),
}
_HEX = frozenset({"mfn", "gfn", "lowest gfn", "highest gfn", "GNTMAP flags"})
_TOUCHED_BY: dict[str, tuple[str, ...]] = {
    "domain": ("domain", "grant_domain"), "p2m": ("p2m",), "frame": ("frame",), "active_grant": ("active",),
    "mapping": ("mapping",), "grant_frame": ("grant_frame",), "status_frame": ("status_frame",),
}
"""Table of the specification -> tables of rows that show it."""
_TYPES = ("invalid", "ram_rw", "ram_ro", "mmio_direct_dev", "mmio_direct_nc", "mmio_direct_c", "map_foreign_rw",
          "map_foreign_ro", "grant_map_rw", "grant_map_ro", "iommu_map_rw", "iommu_map_ro")


# ---- one row


def _listed(s: State, domain: int) -> bool:
    return s.domain[DomId(domain)].status in _LISTED


def _domain(s: State, key: Key) -> Row | None:
    row = s.domain[DomId(key[0])]
    if row.status not in _LISTED:
        return None
    never = (1 << 64) - 1
    return (_STATUS[Status(row.status)], row.tot_pages, row.max_pages, row.claimed,
            None if row.lowest_gfn == never else row.lowest_gfn, row.highest_gfn, row.pool_pages, row.pool_free)


def _p2m(s: State, key: Key) -> Row | None:
    row = s.p2m[key]  # type: ignore[index]
    if not is_live(row) or not _listed(s, key[0]):
        return None
    return (row.mfn, row.type, row.hardware, is_readable(row), is_writable(row), is_executable(row))


def _frame(s: State, key: Key) -> Row | None:
    row = s.frame[key[0]]  # type: ignore[index]
    if row.use in {Use.FREE, Use.NO_RAM}:
        return None
    if row.use in {Use.XEN, Use.TABLE}:
        return (None, None, None, None)
    owner = None if row.owner == NOBODY else row.owner
    return (owner, row.allocated, row.use == Use.SHARED, row.references)


def _grant_domain(s: State, key: Key) -> Row | None:
    row = s.domain[DomId(key[0])]
    if row.status not in _LISTED:
        return None
    return (row.grant_version, row.grant_frames, row.status_frames, row.maptrack_frames)


def _active(s: State, key: Key) -> Row | None:
    row = s.active_grant[key]  # type: ignore[index]
    if not is_pinned(row) or not _listed(s, key[0]):
        return None
    return (row.host_readers, row.host_writers, row.device_readers, row.device_writers, row.mfn, row.start, row.length,
            row.sub_page, row.trans_domid, row.trans_ref)


def _mapping(s: State, key: Key) -> Row | None:
    row = s.mapping[key]  # type: ignore[index]
    if not is_mapping(row) or not _listed(s, key[0]):
        return None
    flags = (_HOST if row.host else 0) | (_DEVICE if row.device else 0) | (_READONLY if row.readonly else 0)
    return (row.granter, row.ref, flags)


def _grant_frame(s: State, key: Key) -> Row | None:
    row = s.grant_frame[key]  # type: ignore[index]
    return (row.mfn,) if row.present and _listed(s, key[0]) else None


def _status_frame(s: State, key: Key) -> Row | None:
    row = s.status_frame[key]  # type: ignore[index]
    return (row.mfn,) if row.present and _listed(s, key[0]) else None


_ROW: dict[str, Callable[[State, Key], Row | None]] = {
    "domain": _domain, "p2m": _p2m, "frame": _frame, "grant_domain": _grant_domain, "active": _active,
    "mapping": _mapping, "grant_frame": _grant_frame, "status_frame": _status_frame,
}


def row_of(s: State, table: str, key: Key) -> Row | None:
    """One row of a table of ``NAMES``, or None if there is none."""
    return _ROW[table](s, key)


def _keys(s: State, table: str) -> Iterable[Key]:
    """The keys at which a table of rows may have one."""
    source = {"grant_domain": "domain", "active": "active_grant"}.get(table, table)
    written: list[Any] = getattr(s, source).keys()
    for key in written:
        yield key if isinstance(key, tuple) else (key,)


def rows(s: State) -> dict[str, Rows]:
    """The whole state."""
    found: dict[str, Rows] = {}
    for table, function in _ROW.items():
        made = ((key, function(s, key)) for key in _keys(s, table))
        found[table] = {key: row for key, row in made if row is not None}
    return found


def touched(oracle: Oracle) -> dict[str, set[Key]]:
    """The keys of rows that the last stimulus may have changed."""
    found: dict[str, set[Key]] = {}
    for source, tables in _TOUCHED_BY.items():
        keys = oracle.logs[source].keys
        if keys:
            made = {key if isinstance(key, tuple) else (key,) for key in keys}
            for table in tables:
                found[table] = made
    # a domain that comes or goes takes its rows with it
    if "domain" in found:
        for (domain,) in found["domain"]:
            if _listed(oracle.before, domain) != _listed(oracle.state, domain):
                for table in ("p2m", "active", "mapping", "grant_frame", "status_frame"):
                    keys = {key for key in _keys(oracle.state, table) if key[0] == domain}
                    found[table] = found.get(table, set()) | keys
    return found


def changed(oracle: Oracle, before: State, after: State) -> Changes:
    """The rows that the last stimulus changed, by table and key; None for one that is gone."""
    found: Changes = {}
    for table, keys in touched(oracle).items():
        function = _ROW[table]
        made = {key: function(after, key) for key in keys}
        found[table] = {key: row for key, row in made.items() if function(before, key) != row}
    return {table: each for table, each in found.items() if each}


# ---- differences


@attrs.frozen
class Difference:
    """One difference. what: "observation", "choice", "memory", "panic", or the table; text: in Xen's terms."""

    what: str
    text: str
    key: Key = ()

    def __str__(self) -> str:
        return self.text


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if name == "type":
        return _TYPES[value]
    if name == "status":
        return ("alive", "dying", "dead")[value]
    if isinstance(value, bool):
        return "yes" if value else "no"
    return hex(value) if name in _HEX else str(value)


def _place(table: str, key: Key) -> str:
    parts = [f"{name} {_shown(name, value)}" for name, value in zip(KEYS[table], key, strict=True)]
    return f"{table}[{', '.join(parts)}]"


def _without_excess(row: Row | None) -> Row | None:
    """A domain's row: when all mappings of a dying domain are cleared, it does not matter how far that went."""
    if row is None or row[4] is None or row[4] <= row[5]:
        return row
    return (*row[:4], row[5] + 1, *row[5:])


def row_difference(table: str, key: Key, expected: Row | None, seen: Row | None) -> Difference | None:
    """How a row differs: `expected` by the specification, `seen` in the implementation; None if it does not."""
    if table == "domain":
        expected, seen = _without_excess(expected), _without_excess(seen)
    if expected == seen:
        return None
    place = _place(table, key)
    if expected is None or seen is None:
        there, row = ("the implementation", seen) if expected is None else ("the specification", expected)
        assert row is not None
        what = ", ".join(f"{name} {_shown(name, value)}" for name, value in zip(NAMES[table], row, strict=True))
        return Difference(table, f"{place} is there in {there} only: {what}", key)
    if table == "frame" and expected == (None, None, None, None):
        # one of Xen's own
        if seen[0] is None:
            return None
        return Difference(table, f"{place}: Xen's own by the specification, of domain {seen[0]} in the implementation",
                          key)
    parts = [f"{name} {_shown(name, one)} by the specification, {_shown(name, other)} in the implementation"
             for name, one, other in zip(NAMES[table], expected, seen, strict=True) if one != other]
    return Difference(table, f"{place}: {'; '.join(parts)}", key)


_COMPARED_REGISTERS = range(31)


def _registers_differ(expected: list[int] | None, seen: list[int] | None) -> str:
    if expected is None or seen is None:
        return "" if expected is seen else "registers are shown by one only"
    found = [f"x{i} is {expected[i]:#x} by the specification, {seen[i]:#x} in the implementation"
             for i in _COMPARED_REGISTERS if expected[i] != seen[i]]
    return "; ".join(found)


def observation_difference(expected: Observation, seen: Any) -> Difference | None:
    """How what was observed differs from what the specification says; None if it does not."""
    if expected.kind == "illegal":
        return Difference("choice", f"a choice that the specification does not allow: not true that {expected.reason}")
    if expected.kind != seen.kind:
        reason = f" ({seen.reason})" if seen.reason else ""
        return Difference("observation", f"{_ended(expected)} by the specification, {_ended(seen)} in the "
                                         f"implementation{reason}")
    if expected.value != seen.value:
        return Difference("observation", f"value {_shown('mfn', expected.value)} by the specification, "
                                         f"{_shown('mfn', seen.value)} in the implementation")
    if (expected.fault is None) != (seen.fault is None) or (
            expected.fault is not None and _told(expected.fault) != _told(seen.fault)):
        return Difference("observation", f"fault {expected.fault} by the specification, {seen.fault} in the "
                                         "implementation")
    text = _registers_differ(expected.registers, seen.registers)
    return Difference("observation", text) if text else None


def _told(fault: tuple[str, int, int, int]) -> tuple[str, int, int]:
    """A fault without its level."""
    return fault[0], fault[2], fault[3]


def _ended(observation: Any) -> str:
    if observation.kind == "value" and observation.registers is not None:
        value = observation.registers[0]
        value -= (value >> 63) << 64
        return f"result {value}"
    return str(observation.kind)


def _visible(s: State, mfn: int) -> bool:
    return s.frame[mfn].use in {Use.DOMAIN, Use.SHARED}  # type: ignore[index,operator]


def page_difference(oracle: Oracle, machine: Machine, mfn: int) -> Difference | None:
    """How the contents of a frame differ: the first word that does; None if none does, or nobody sees the frame."""
    if not _visible(oracle.state, mfn) or not machine.memory.holds(mfn):
        return None
    words = oracle.state.word
    assert isinstance(words, Words)
    expected, seen = words.page(mfn).words, machine.memory.read(mfn, 0, 4096)
    if expected == seen:
        return None
    index = next(i for i in range(512) if expected[8 * i:8 * i + 8] != seen[8 * i:8 * i + 8])
    one, other = (int.from_bytes(data[8 * index:8 * index + 8], "little") for data in (expected, seen))
    owner = oracle.state.frame[mfn].owner  # type: ignore[index]
    return Difference("memory", f"memory of domain {owner}: mfn {mfn:#x} + {8 * index:#x} holds {one:#x} by the "
                                f"specification, {other:#x} in the implementation", (mfn, index))


class Comparison:
    """The specification and an implementation side by side: what changed in either is compared after each stimulus.

    projector: of the implementation; it is the only one that asks the machine what changed.
    """

    def __init__(self, oracle: Oracle, machine: Machine, projector: Projector) -> None:
        self.oracle = oracle
        self.machine = machine
        self.projector = projector

    def after(self, expected: Observation, seen: Any) -> list[Difference]:
        """The differences after one stimulus, the observation's first."""
        found = []
        first = observation_difference(expected, seen)
        if first is not None:
            found.append(first)
        dirty = set(self.machine.memory.dirty) | self.machine.memory.written
        changes = self.projector.update()
        if seen.kind == "panic":
            return found
        for kind, number in self.oracle.left_over():
            if expected.kind != "illegal":
                found.append(Difference("choice", f"the implementation chose {kind} {number:#x}, and no step of the "
                                                  "specification has asked for one"))
        found += self._rows(changes)
        for mfn in dirty | self.oracle.logs["word"].keys:
            page = page_difference(self.oracle, self.machine, mfn)
            if page is not None:
                found.append(page)
        return found

    def _rows(self, changes: Changes) -> list[Difference]:
        found = []
        state, mine = self.oracle.state, touched(self.oracle)
        for table in NAMES:
            keys = changes.get(table, {}).keys() | mine.get(table, set())
            if not keys:
                continue
            seen_rows, function = self.projector.rows.get(table, {}), _ROW[table]
            for key in sorted(keys):
                expected, seen = function(state, key), seen_rows.get(key)
                if expected != seen:
                    difference = row_difference(table, key, expected, seen)
                    if difference is not None:
                        found.append(difference)
        return found

    def whole(self) -> list[Difference]:
        """The differences of the whole state, contents included."""
        from impl.fast.projection import project
        found = []
        seen_rows = project(self.machine)
        expected_rows = rows(self.oracle.state)
        for table in NAMES:
            expected, seen = expected_rows[table], seen_rows.get(table, {})
            for key in sorted(expected.keys() | seen.keys()):
                difference = row_difference(table, key, expected.get(key), seen.get(key))
                if difference is not None:
                    found.append(difference)
        for (mfn,) in expected_rows["frame"]:
            page = page_difference(self.oracle, self.machine, mfn)
            if page is not None:
                found.append(page)
        return found


def compare(oracle: Oracle, machine: Machine, projector: Projector, expected: Observation, seen: Any
            ) -> list[Difference]:
    """The differences after a stimulus that both were given: see ``Comparison.after``."""
    return Comparison(oracle, machine, projector).after(expected, seen)
