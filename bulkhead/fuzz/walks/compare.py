"""Three walks of the same tables: the specification's, and those of ``impl.fast``, one by one and in arrays.

Compared are machine address, kind of fault and level of every walk, for reading, writing and executing; and what Xen
finds, whatever the hardware's valid bits say.

The specification has no kind of fault for a table that is not RAM: it asks for a word that no memory holds.  The level
at which it asks is what the implementations must report as the level of their external abort.
"""

from __future__ import annotations

import collections
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import attrs
import numpy as np
import numpy.typing as npt

from bulkhead.fuzz.walks.tables import PAGE_BITS, Case, Tables, Words, span_bits
from impl.fast import walks as fast
from impl.fast.geometry import Geometry as FastGeometry
from spec.language import Gfn, Mfn, Word, decode
from spec.memory import geometry, walk
from spec.memory.descriptors import Vttbr
from spec.memory.geometry import Geometry
from spec.memory.walk import Fault, Kind

Bytes: TypeAlias = npt.NDArray[np.uint8]
Flags: TypeAlias = npt.NDArray[np.bool_]
Answer: TypeAlias = tuple[int, int, int]
"""Machine address in bytes (0: none), fault by ``FAULTS``, level."""

FAULTS: Final = ("none", "translation", "address size", "access flag", "permission", "external abort")
"""Faults by number: those of ``spec.memory.walk.Fault``, then the one that the specification has not."""
OUTSIDE: Final = len(FAULTS) - 1
OF_FAST: Final = {
    fast.Fault.NONE: Fault.NONE, fast.Fault.TRANSLATION: Fault.TRANSLATION, fast.Fault.ACCESS_FLAG: Fault.ACCESS_FLAG,
    fast.Fault.PERMISSION: Fault.PERMISSION, fast.Fault.ADDRESS_SIZE: Fault.ADDRESS_SIZE,
    fast.Fault.EXTERNAL_ABORT: OUTSIDE,
}
COMMON: Final = np.array([OF_FAST[each] for each in fast.Fault], np.uint8)
"""Number of a fault of ``impl.fast`` in ``FAULTS``."""
ACCESSES: Final = tuple(zip(Kind, (fast.Access.READ, fast.Access.WRITE, fast.Access.EXECUTE), strict=True))
XEN: Final = "Xen's lookup"
LOOKUPS_APART: Final = 4
"""One address of so many is also looked up as Xen does it."""


@attrs.frozen(eq=False)
class Answers:
    """How walks end: machine address uint64[n, bytes, 0 where there is a fault], fault uint8[n], level uint8[n]."""

    address: Words
    fault: Bytes
    level: Bytes

    @staticmethod
    def of(rows: Sequence[Answer]) -> Answers:
        """The answers of walks made one by one."""
        if not rows:
            return Answers(np.zeros(0, np.uint64), np.zeros(0, np.uint8), np.zeros(0, np.uint8))
        address, fault, level = zip(*rows, strict=True)
        return Answers(np.array(address, np.uint64), np.array(fault, np.uint8), np.array(level, np.uint8))

    def __getitem__(self, part: slice | Words) -> Answers:
        return Answers(self.address[part], self.fault[part], self.level[part])

    def at(self, place: int) -> Answer:
        """One of them, in plain integers."""
        return int(self.address[place]), int(self.fault[place]), int(self.level[place])

    def differ(self, other: Answers) -> Flags:
        """Where two walks do not end alike."""
        found: Flags = (self.address != other.address) | (self.fault != other.fault) | (self.level != other.level)
        return found


# ---- the specification


def spec_geometry(tables: Tables) -> Geometry:
    """The shape of the tables, as the specification reads it from their register."""
    return geometry.of_vtcr(tables.vtcr, arm32=tables.arm32)


class _OutsideRamError(Exception):
    """A walk asked for a word of a table that is not RAM.  The argument is the table's level."""


def by_specification(tables: Tables, addresses: Sequence[int], kind: Kind) -> Answers:
    """Every address walked by the specification, one by one."""
    shape, rows, vttbr = spec_geometry(tables), tables.rows(), Word(tables.vttbr)

    def words(table: Mfn, index: int) -> Word:
        return Word(rows[table][index])

    found: list[Answer] = []
    add = found.append
    for ipa in addresses:
        try:
            end = walk.walk(words, vttbr, shape, ipa, kind)
        except KeyError:
            # which word it was is found out by walking again: this is rare
            counted = _counted(rows, shape.start_level)
            try:
                end = walk.walk(counted, vttbr, shape, ipa, kind)
            except _OutsideRamError as stop:
                add((0, OUTSIDE, stop.args[0]))
                continue
        add((walk.address(end, ipa) if end.fault == Fault.NONE else 0, end.fault, end.level))
    return Answers.of(found)


def _counted(rows: dict[int, list[int]], start: int) -> walk.Words:
    """Memory for one walk, which asks for one word a level, from 0 on; what it asks above ``start`` has no effect."""
    level = -1

    def words(table: Mfn, index: int) -> Word:
        nonlocal level
        level += 1
        if table in rows:
            return Word(rows[table][index])
        if level < start:
            return Word(0)
        raise _OutsideRamError(level)

    return words


def looked_up_by_specification(tables: Tables, addresses: Sequence[int]) -> Answers:
    """Every address looked up as Xen does it, whatever the hardware's valid bits say.

    The fault is NONE where something is mapped, TRANSLATION where nothing is; the address then has permissions and type
    in bits 63:48 (see ``_packed``).
    """
    shape, rows = spec_geometry(tables), tables.rows()
    root, start = decode(Vttbr, Word(tables.vttbr)).frame, shape.start_level
    found: list[Answer] = []
    for ipa in addresses:
        gfn = Gfn(ipa >> PAGE_BITS)
        if gfn >= shape.root_frames:
            # Xen does not look beyond its root pages: p2m_get_root_pointer
            found.append((0, Fault.TRANSLATION, 1 if shape.arm32 else 0))
            continue
        page = Mfn(root + geometry.root_page(gfn, start))
        try:
            end = walk.lookup(_counted(rows, start), page, start, gfn)
        except _OutsideRamError as stop:
            found.append((0, OUTSIDE, stop.args[0]))
            continue
        packed = _packed(end.read, end.write, end.execute, end.type)
        found.append((end.frame << PAGE_BITS | packed << 48, Fault.NONE, end.level) if end.live
                     else (0, Fault.TRANSLATION, end.level))
    return Answers.of(found)


def _packed(read: Any, write: Any, execute: Any, kind: Any) -> Any:
    """Permissions and type of a mapping in one number."""
    return read | write << 1 | execute << 2 | kind << 3


# ---- the implementation


def fast_geometry(tables: Tables) -> FastGeometry:
    """The shape of the tables, as the implementation reads it from their register."""
    return FastGeometry.of_vtcr(tables.vtcr, tables.arm32)


@attrs.frozen(eq=False)
class Ways:
    """The implementation's walks of some tables.  module: ``impl.fast.walks``, or one like it with a flaw."""

    module: Any
    banks: Any
    root: int
    shape: FastGeometry

    @staticmethod
    def of(tables: Tables, module: Any) -> Ways:
        """Made ready for tables."""
        shape = fast_geometry(tables)
        banks = module.Banks([(first << PAGE_BITS, pages.reshape(-1)) for first, pages in tables.banks])
        return Ways(module, banks, shape.root_of(tables.vttbr), shape)

    def one_by_one(self, ipa: Words, access: fast.Access) -> Answers:
        """So few addresses in each call that the scalar walk is taken."""
        few = self.module.FEW
        parts = [self.module.translate(self.banks, self.root, self.shape, ipa[at:at + few], access)
                 for at in range(0, len(ipa), few)]
        return _common(*(np.concatenate(each) for each in zip(*parts, strict=True)))

    def in_arrays(self, ipa: Words, access: fast.Access) -> Answers:
        """All addresses in one call."""
        return _common(*self.module.translate(self.banks, self.root, self.shape, ipa, access))

    def in_chunks(self, ipa: Words, access: fast.Access) -> Answers:
        """The addresses again and again, so often that the call is done in chunks."""
        times = 2 * self.module.CHUNK // len(ipa) + 2
        every = self.in_arrays(np.tile(ipa, times), access)
        rows = [each.reshape(times, -1) for each in (every.address, every.fault, every.level)]
        # the copies must be alike, whole chunks or not: the first that is not stands for all
        odd = np.flatnonzero(np.any([(each != each[0]).any(axis=1) for each in rows], axis=0))
        at = int(odd[0]) if len(odd) else 0
        return every[slice(at * len(ipa), (at + 1) * len(ipa))]

    def in_two_steps(self, ipa: Words, access: fast.Access) -> Answers:
        """The last descriptors first, and then what they say."""
        descriptor, level = self.module.descriptors(self.banks, self.root, self.shape, ipa)
        return _common(*self.module.decode(descriptor, level, ipa, self.shape, access))

    def as_xen_one_by_one(self, ipa: Words) -> Answers:
        """As ``as_xen``, with so few addresses in each call that the scalar walk is taken."""
        few = self.module.FEW
        parts = [self.as_xen(ipa[at:at + few]) for at in range(0, len(ipa), few)]
        return Answers(np.concatenate([part.address for part in parts]), np.concatenate([part.fault for part in parts]),
                       np.concatenate([part.level for part in parts]))

    def as_xen(self, ipa: Words) -> Answers:
        """What Xen finds, in the form of ``looked_up_by_specification``."""
        descriptor, level = self.module.descriptors(self.banks, self.root, self.shape, ipa, self.module.Rule.XEN)
        said = self.module.attributes(descriptor)
        live = (said.type != 0) & (level >= 0)
        inside = np.array([(1 << span_bits(each)) - 1 for each in range(4)], np.uint64)[np.maximum(level, 0)]
        frame = descriptor & np.uint64(self.module.ADDRESS) & ~inside | ipa & inside & ~np.uint64(0xFFF)
        allowed = said.permission.astype(np.uint64)
        packed = _packed(allowed & 1, allowed >> 1 & 1, allowed >> 2, said.type.astype(np.uint64))
        fault = np.where(level < 0, OUTSIDE, np.where(live, Fault.NONE, Fault.TRANSLATION)).astype(np.uint8)
        address = np.where(live, frame | packed << np.uint64(48), np.uint64(0))
        return Answers(address, fault, np.where(level < 0, ~level, level).astype(np.uint8))


def _common(address: Words, fault: Bytes, level: npt.NDArray[np.int8]) -> Answers:
    """What the implementation says, with faults by ``FAULTS``."""
    return Answers(address, COMMON[fault], level.astype(np.uint8))


Way: TypeAlias = Callable[[Ways, Words, fast.Access], Answers]
WAYS: Final[dict[str, Way]] = {
    "one by one": Ways.one_by_one, "in arrays": Ways.in_arrays, "in two steps": Ways.in_two_steps,
}
CHUNKS: Final = "in chunks"


# ---- one case


@attrs.frozen
class Difference:
    """Tables and an address, or a few that have to be walked together, where two walks end differently.

    way: of the implementation's walks.  access: what is wanted, or ``XEN``.  expected, actual: of the last address.
    """

    tables: Tables
    addresses: tuple[int, ...]
    way: str
    access: str
    expected: Answer
    actual: Answer

    @property
    def signature(self) -> tuple[str, int, int]:
        """What kind of difference it is."""
        return self.access, self.expected[1], self.actual[1]


@attrs.define
class Tally:
    """What was compared.

    addresses; walks: one for each address and access; lookups: Xen's, compared.  ends: how walks ended, by
    (access, fault, level).
    """

    addresses: int = 0
    walks: int = 0
    lookups: int = 0
    tables: int = 0
    ends: Counter[tuple[int, int, int]] = attrs.field(factory=collections.Counter)

    def add(self, other: Tally) -> None:
        """What another job compared, too."""
        self.addresses += other.addresses
        self.walks += other.walks
        self.lookups += other.lookups
        self.tables += other.tables
        self.ends.update(other.ends)


@attrs.frozen(eq=False)
class Expected:
    """What the specification says of a case.

    walks: by access, of every address.  lookups: Xen's, of one address of ``LOOKUPS_APART``.
    """

    walks: tuple[Answers, ...]
    lookups: Answers


def expect(case: Case) -> Expected:
    """Walk every address of a case by the specification, for every access, and look up some as Xen does."""
    ipa = case.addresses.tolist()
    return Expected(tuple(by_specification(case.tables, ipa, kind) for kind, _ in ACCESSES),
                    looked_up_by_specification(case.tables, ipa[::LOOKUPS_APART]))


def compare(case: Case, tally: Tally, module: Any = fast, *, expected: Expected | None = None,
            chunks: bool = False) -> Difference | None:
    """Walk the addresses of a case in every way, and compare; the first difference, or None.

    tally: what was compared is added.  module: of the implementation's walks.  expected: what ``expect`` gave, if it
    was asked.  chunks: walk so many copies that the implementation goes on in chunks, too.
    """
    ways, expected = Ways.of(case.tables, module), expected or expect(case)
    tally.tables += 1
    tally.addresses += len(case.addresses)
    every = [*WAYS.items(), *[(CHUNKS, Ways.in_chunks)] * chunks]
    for kind, access in ACCESSES:
        answers = expected.walks[kind]
        tally.walks += len(case.addresses)
        ends = np.bincount(answers.fault * np.uint8(4) + answers.level)
        tally.ends.update({(int(kind), *divmod(end, 4)): times for end, times in enumerate(ends.tolist()) if times})
        for name, way in every:
            for first, last in case.batches:
                part = slice(first, last)
                actual = way(ways, case.addresses[part], access)
                odd = answers[part].differ(actual)
                if odd.any():
                    return _difference(case, part, odd, name, kind.name.lower(), answers, actual)
    part = slice(None, None, LOOKUPS_APART)
    tally.lookups += len(expected.lookups.level)
    for look in (Ways.as_xen_one_by_one, Ways.as_xen):
        actual = look(ways, case.addresses[part])
        odd = expected.lookups.differ(actual)
        if odd.any():
            few = Case(case.tables, case.addresses[part], ())
            return _difference(few, slice(None), odd, XEN, XEN, expected.lookups, actual)
    return None


def _difference(case: Case, part: slice, odd: Flags, way: str, access: str, expected: Answers,
                actual: Answers) -> Difference:
    """The first of the differences in a batch."""
    at, batch = int(np.flatnonzero(odd)[0]), case.addresses[part].tolist()
    return Difference(case.tables, (*batch[:at], *batch[at + 1:], batch[at]), way, access, expected[part].at(at),
                      actual.at(at))


__all__ = ["ACCESSES", "CHUNKS", "FAULTS", "OUTSIDE", "WAYS", "XEN", "Answer", "Answers", "Difference",
           "Expected", "Tally", "Ways", "by_specification", "compare", "expect", "fast", "fast_geometry",
           "looked_up_by_specification", "spec_geometry"]
