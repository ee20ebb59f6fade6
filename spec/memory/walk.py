"""The stage-2 walk as the architecture does it, and the same tables as Xen reads them.

One source for two uses: on real tables of integers (``walk``, ``leaves``), and on any tables at all in the
proof that tables and mappings agree (``spec.memory.tables``).

The tables of arm32 are read as an Armv8 processor reads them in AArch32: bits 47:40 of an address that are set are an
address size fault.  Armv7 has no such fault and leaves those bits to software as zero; Xen writes them as zero.

Source: Arm DDI 0487, AArch64.S2Translate, AArch64.S2Walk, AArch64.S2HasPermissionsFault, AArch32.S2Walk; Arm DDI 0406,
TranslationTableWalkLD; xen/arch/arm/p2m.c (p2m_get_entry), Xen 4.17.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import Protocol

from spec.language import U8, Boolean, Gfn, Mfn, Word, both, decode, either, ite, neg, record
from spec.memory.descriptors import ENTRIES, LARGEST_LEVEL, LEAF_LEVEL, Descriptor, Vttbr, is_live
from spec.memory.geometry import LEVELS, PAGE_SHIFT, Geometry, frames_below, index, root_page

Words = Callable[[Mfn, int], Word]
"""The contents of memory: the word number ``index`` of a machine frame."""
PAGE_MASK = (1 << PAGE_SHIFT) - 1


class Fault(enum.IntEnum):
    """Why an access does not go through."""

    NONE = 0
    TRANSLATION = 1
    ADDRESS_SIZE = 2
    ACCESS_FLAG = 3
    PERMISSION = 4


class Kind(enum.IntEnum):
    """What an access wants."""

    READ = 0
    WRITE = 1
    EXECUTE = 2


@record
class Translation:
    """What a walk gives: a fault and its level, or a frame, the level of its leaf, and what is permitted."""

    fault: U8 = U8(Fault.NONE)
    level: U8 = U8(0)
    frame: Mfn = Mfn(0)
    read: bool = False
    write: bool = False
    execute: bool = False
    memattr: U8 = U8(0)
    sh: U8 = U8(0)
    type: U8 = U8(0)


@record
class Found:
    """What Xen finds in the tables, whatever the hardware's valid bits say.

    live: something is mapped.  hardware: every word on the way is valid.  level: of the word that maps or
    stops the walk.  table: the frame that holds this word.
    """

    live: bool = False
    hardware: bool = False
    level: U8 = U8(0)
    table: Mfn = Mfn(0)
    frame: Mfn = Mfn(0)
    read: bool = False
    write: bool = False
    execute: bool = False
    type: U8 = U8(0)


@record
class Place:
    """Where the word of a level is.

    exists: tables lead down to it.  hardware: every word on the way is valid.  table: the frame that holds it.
    """

    exists: bool = False
    hardware: bool = False
    table: Mfn = Mfn(0)


class Extent(Protocol):
    """What a walk has to know of the shape of the tables: see ``geometry.Geometry``."""

    @property
    def start_level(self) -> int:
        """The level of the root table."""

    @property
    def ipa_frames(self) -> int:
        """Guest frames that the hardware translates."""

    @property
    def output_frames(self) -> int:
        """Machine frames that the hardware can reach."""

    @property
    def arm32(self) -> bool:
        """The tables of a 32-bit hypervisor."""


# ---- one word


def output(entry: Descriptor, gfn: Gfn, level: int) -> Mfn:
    """The frame to which a leaf translates; bits of the leaf's frame below the size of the block are not looked at."""
    size = frames_below(level)
    return Mfn(entry.frame - entry.frame % size + gfn % size)


def is_reserved(entry: Descriptor, level: int) -> Boolean:
    """The word has the form of no descriptor of this level: a block at level 0 or 3."""
    return both(neg(entry.table), either(level < LARGEST_LEVEL, level == LEAF_LEVEL))


def leaf_fault(entry: Descriptor, frame: Mfn, output_frames: int) -> int:
    """What is wrong with a valid leaf before permissions are looked at."""
    return ite(frame >= output_frames, Fault.ADDRESS_SIZE, ite(entry.af, Fault.NONE, Fault.ACCESS_FLAG))


# ---- the hardware


def may_fetch(entry: Descriptor, arm32: bool) -> Boolean:
    """Instructions may be fetched; on arm32 only where the guest may read, too.

    Source: Arm DDI 0487, AArch64.S2HasPermissionsFault, AArch32.S2HasPermissionsFault.
    """
    return both(neg(entry.xn), either(neg(arm32), entry.read))


def walk_from(words: Words, table: Mfn, start: int, gfn: Gfn, shape: Extent) -> Translation:
    """The walk from a table at level ``start`` down.  start: [0..3].  Permissions are returned, not checked."""
    for level in LEVELS:
        here = level >= start
        entry = decode(Descriptor, words(table, index(gfn, level)))
        if both(here, either(neg(entry.valid), is_reserved(entry, level))):
            return Translation(fault=U8(Fault.TRANSLATION), level=U8(level))
        if both(here, either(neg(entry.table), level == LEAF_LEVEL)):
            frame = output(entry, gfn, level)
            return Translation(
                fault=U8(leaf_fault(entry, frame, shape.output_frames)), level=U8(level), frame=frame,
                read=entry.read, write=entry.write, execute=may_fetch(entry, shape.arm32),
                memattr=entry.memattr, sh=entry.sh, type=entry.type,
            )
        if both(here, entry.frame >= shape.output_frames):
            return Translation(fault=U8(Fault.ADDRESS_SIZE), level=U8(level))
        table = ite(here, entry.frame, table)
    return Translation(fault=U8(Fault.TRANSLATION), level=U8(LEAF_LEVEL))


def translate(words: Words, root: Mfn, geometry: Extent, gfn: Gfn) -> Translation:
    """The hardware's walk of a guest frame.  root: first of the concatenated root pages."""
    # a walk on arm32 begins at level 1 at the earliest
    if gfn >= geometry.ipa_frames:
        return Translation(fault=U8(Fault.TRANSLATION), level=U8(ite(geometry.arm32, 1, 0)))
    if root >= geometry.output_frames:
        return Translation(fault=U8(Fault.ADDRESS_SIZE), level=U8(0))
    start = geometry.start_level
    return walk_from(words, Mfn(root + root_page(gfn, start)), start, gfn, geometry)


def permits(found: Translation, kind: int) -> Boolean:
    """The leaf permits the access."""
    return either(
        both(kind == Kind.READ, found.read), both(kind == Kind.WRITE, found.write),
        both(kind == Kind.EXECUTE, found.execute),
    )


def walk(words: Words, vttbr: Word, geometry: Geometry, ipa: int, kind: int = Kind.READ) -> Translation:
    """One access of a guest, on integers.

    words: the contents of memory.  vttbr: VTTBR_EL2 or VTTBR.  ipa: guest physical address in bytes.
    kind: READ, WRITE or EXECUTE.  A fault carries no frame.
    """
    found = translate(words, decode(Vttbr, vttbr).frame, geometry, Gfn(ipa >> PAGE_SHIFT))
    if found.fault != Fault.NONE:
        return Translation(fault=found.fault, level=found.level)
    if not permits(found, kind):
        return Translation(fault=U8(Fault.PERMISSION), level=found.level)
    return found


def address(found: Translation, ipa: int) -> int:
    """The machine address in bytes of an access that went through."""
    return found.frame << PAGE_SHIFT | ipa & PAGE_MASK


# ---- Xen


def place_of(words: Words, root: Mfn, start: int, gfn: Gfn, level: int) -> Place:
    """Where the word of ``level`` that translates a guest frame is.  root: the root page of this frame."""
    exists, hardware, table = True, True, root
    for each in (0, 1, 2):
        here = both(each >= start, each < level, exists)
        entry = decode(Descriptor, words(table, index(gfn, each)))
        hardware = both(hardware, either(neg(here), entry.valid))
        exists = both(exists, either(neg(here), both(is_live(entry), entry.table)))
        table = ite(both(here, exists), entry.frame, table)
    return Place(exists=exists, hardware=both(exists, hardware), table=table)


def lookup(words: Words, root: Mfn, start: int, gfn: Gfn) -> Found:
    """What Xen finds for a guest frame.  root: the root page of this frame."""
    table, hardware = root, True
    for level in LEVELS:
        here = level >= start
        entry = decode(Descriptor, words(table, index(gfn, level)))
        hardware = both(hardware, either(neg(here), entry.valid))
        if both(here, neg(is_live(entry))):
            return Found(level=U8(level), table=table)
        if both(here, either(neg(entry.table), level == LEAF_LEVEL)):
            return Found(
                live=True, hardware=hardware, level=U8(level), table=table, frame=output(entry, gfn, level),
                read=entry.read, write=entry.write, execute=neg(entry.xn), type=entry.type,
            )
        table = ite(here, entry.frame, table)
    return Found()


# ---- all leaves, on integers


@record
class Leaf:
    """A word that maps memory, for the hardware or for Xen.

    gfn, pages: the guest frames that it covers.  table, index: where the word is.
    hardware: every word on the way, and this one, is valid.  fault: what the hardware finds wrong with it.
    """

    gfn: Gfn
    pages: int
    level: int
    frame: Mfn
    table: Mfn
    index: int
    entry: Descriptor
    hardware: bool
    fault: Fault


def leaves(words: Words, root: Mfn, geometry: Geometry) -> Iterator[Leaf]:
    """Every word of the tables that maps memory, in order of guest frames.

    root: first of the concatenated root pages.  Words that are neither valid nor live are passed over.
    """
    for page in range(geometry.root_pages):
        first = Gfn(page * frames_below(geometry.start_level - 1))
        way = Fault.NONE if root < geometry.output_frames else Fault.ADDRESS_SIZE
        yield from _leaves(words, Mfn(root + page), geometry.start_level, first, True, way, geometry.output_frames)


def _fault(entry: Descriptor, level: int, frame: Mfn, output_frames: int) -> Fault:
    """What the hardware finds wrong with one word of a walk."""
    if not entry.valid or is_reserved(entry, level):
        return Fault.TRANSLATION
    return Fault(leaf_fault(entry, frame, output_frames))


def _leaves(words: Words, table: Mfn, level: int, first: Gfn, hardware: bool, way: Fault, output_frames: int
            ) -> Iterator[Leaf]:
    """The leaves below a table.  hardware: all words on the way to it are valid.  way: what ends a walk before it."""
    size = frames_below(level)
    for position in range(ENTRIES):
        word = words(table, position)
        if word == 0:
            continue
        entry = decode(Descriptor, word)
        if not entry.valid and not is_live(entry):
            continue
        gfn, valid = Gfn(first + position * size), hardware and entry.valid
        leads_on = entry.table and level < LEAF_LEVEL
        frame = entry.frame if leads_on else Mfn(entry.frame - entry.frame % size)
        fault = way if way != Fault.NONE else _fault(entry, level, frame, output_frames)
        if leads_on:
            # the access flag is one of leaves
            reached = Fault.NONE if fault == Fault.ACCESS_FLAG else fault
            yield from _leaves(words, frame, level + 1, gfn, valid, reached, output_frames)
        else:
            yield Leaf(gfn, size, level, frame, table, position, entry, valid, fault)


def tables(words: Words, root: Mfn, geometry: Geometry) -> Iterator[tuple[Mfn, int]]:
    """Every table page that the root leads to, with its level; a page that is reached twice comes twice."""
    for page in range(geometry.root_pages):
        yield from _tables(words, Mfn(root + page), geometry.start_level)


def _tables(words: Words, table: Mfn, level: int) -> Iterator[tuple[Mfn, int]]:
    yield table, level
    for position in range(ENTRIES):
        word = words(table, position)
        if word == 0 or level == LEAF_LEVEL:
            continue
        entry = decode(Descriptor, word)
        if entry.table and (entry.valid or is_live(entry)):
            yield from _tables(words, entry.frame, level + 1)


__all__ = [
    "Fault", "Found", "Kind", "Leaf", "Place", "Translation", "Words", "address", "leaves", "lookup",
    "may_fetch", "output", "permits", "place_of", "tables", "translate", "walk", "walk_from",
]
