"""Stage-2 tables in emulated RAM, good and bad, and the addresses at which to walk them.

Every shape of root that the architecture allows for 32 to 48 bits, with every size of machine address; every style of
tables, from those that Xen would write to random words. The same number and seed give the same tables everywhere.

Nothing here knows how a walk ends: tables are made of bits, and addresses are led along them only to come near entries.

Source of the bits: Arm DDI 0487, VTCR_EL2, VTCR, VTTBR_EL2 and the stage-2 descriptor formats.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import attrs
import numpy as np
import numpy.typing as npt

from bulkhead.problems import BadInputError
from bulkhead.tables import read

Words: TypeAlias = npt.NDArray[np.uint64]
Places: TypeAlias = npt.NDArray[np.int64]

ENTRIES: Final = 512
PAGE_BITS: Final = 12
LEAF_LEVEL: Final = 3
ADDRESS_BITS: Final = 48
OUTPUT_BITS: Final = (32, 36, 40, 42, 44, 48)
"""Machine address bits by VTCR_EL2.PS; arm32 always has 40."""
MOST_ROOT_BITS: Final = 4
"""At most 16 root pages are concatenated."""

VALID, TABLE, READ, WRITE, ACCESSED = 1, 2, 1 << 6, 1 << 7, 1 << 10
PERMISSIONS: Final = READ | WRITE | 1 << 54
TYPE_SHIFT: Final = 55
FRAME: Final = (1 << ADDRESS_BITS) - (1 << PAGE_BITS)
IGNORED: Final = 0xF << 2 | 3 << 8 | 1 << 11 | 0xF << 48 | 1 << 52 | 1 << 53 | 0x1F << 59
"""Bits of a descriptor that change no translation: attributes, *contiguous*, reserved and software bits."""
XEN_LEAF: Final = 0xF << 2 | 3 << 8 | ACCESSED | VALID
"""What Xen writes beside frame, type and permissions: normal memory, inner shareable, accessed."""
XEN_TABLE: Final = 1 << TYPE_SHIFT | XEN_LEAF | READ | WRITE | TABLE

FIRST_PAGES, SECOND_PAGES, LAST_PAGES = 40, 16, 16
"""Pages of the three banks of RAM; the last lies across the end of what the hardware can reach."""

MOST_REAL: Final = 5 << 14
"""Arrays of addresses that are made for the tables of one real VM: five for each table."""


def span_bits(level: int) -> int:
    """Address bits below the ones that a table of this level resolves [12..48].  level: [-1..3]."""
    return PAGE_BITS + 9 * (LEAF_LEVEL - level)


@attrs.frozen
class Shape:
    """The shape of a root and the sizes of addresses.

    ipa_bits: [32..48], arm32 [32..40].  start_level: [0..2], arm32 [1..2].  output_bits: one of ``OUTPUT_BITS``.
    """

    arm32: bool
    ipa_bits: int
    start_level: int
    output_bits: int

    @property
    def name(self) -> str:
        """As it stands in reports."""
        return (f"{'arm32' if self.arm32 else 'arm64'}, {self.ipa_bits}-bit IPA from level {self.start_level}, "
                f"{self.output_bits}-bit output")

    @property
    def vtcr(self) -> int:
        """The register that says so, with Xen's cacheability of walks."""
        common = 1 << 31 | 0x3500 | 2 - self.start_level << 6
        if self.arm32:
            size = 32 - self.ipa_bits & 0xF
            return common | size >> 3 << 4 | size
        return common | OUTPUT_BITS.index(self.output_bits) << 16 | 64 - self.ipa_bits

    @property
    def root_pages(self) -> int:
        """Tables concatenated at the first level [1..16]."""
        return 1 << max(0, self.ipa_bits - span_bits(self.start_level - 1))

    @property
    def root_entries(self) -> int:
        """Entries of one root page that the hardware reaches [2..512]."""
        return min(ENTRIES, 1 << self.ipa_bits - span_bits(self.start_level))


@functools.cache
def shapes() -> tuple[Shape, ...]:
    """Every shape of 32 to 48 bits with the granule of 4 KB, for every output size; arm64 first."""
    return tuple(
        Shape(arm32, bits, level, output)
        for arm32, most, outputs in ((False, 48, OUTPUT_BITS), (True, 40, (40,)))
        for bits in range(32, most + 1)
        for level in range(1 if arm32 else 0, 3)
        if 1 <= bits - span_bits(level) <= 9 + MOST_ROOT_BITS
        for output in outputs
    )


@attrs.frozen
class Style:
    """What is wrong with tables: the share of entries that ...

    shared: lead to a table that another entry leads to, one level below.  cyclic: lead to any table: to itself, to one
    above, to one of another level.  outside: lead to a table where no RAM is.  invalid: have lost the hardware's valid
    bit.  unaccessed: have no access flag.  permissions: have any mix of them.  form: have any two low bits, so that
    blocks stand at levels 0 and 3.  crooked: have frame bits below the size of a block.  beyond: have bits beyond the
    output size.  ignored: have any bits where none counts.  random: are any 64 bits.
    lost_root: the root is where no RAM is, wholly or in part, or beyond the output size.
    """

    name: str
    shared: float = 0
    cyclic: float = 0
    outside: float = 0
    invalid: float = 0
    unaccessed: float = 0
    permissions: float = 0
    form: float = 0
    crooked: float = 0
    beyond: float = 0
    ignored: float = 0
    random: float = 0
    lost_root: bool = False


STYLES: Final = (
    Style("well-formed"),
    Style("valid for Xen only", invalid=0.3, permissions=0.1),
    Style("permissions", permissions=0.8, unaccessed=0.2, ignored=0.3),
    Style("malformed", shared=0.1, form=0.2, crooked=0.3, unaccessed=0.1, permissions=0.2, beyond=0.1, ignored=0.5),
    Style("cyclic", shared=0.2, cyclic=0.7, permissions=0.2, form=0.05),
    Style("outside RAM", shared=0.3, outside=0.4, beyond=0.2, crooked=0.1),
    Style("random", shared=0.3, cyclic=0.2, random=0.5),
    Style("everything", 0.2, 0.2, 0.1, 0.1, 0.1, 0.3, 0.1, 0.2, 0.1, 0.5, 0.05),
    Style("root outside RAM", shared=0.3, permissions=0.1, lost_root=True),
)


@attrs.frozen(eq=False)
class Tables:
    """Tables in RAM, with the registers that name them.

    banks: (first frame, words uint64[pages, 512]) of each bank of RAM.  name: what they are, for reports.
    """

    arm32: bool
    vtcr: int
    vttbr: int
    banks: tuple[tuple[int, Words], ...] = attrs.field(repr=False)
    name: str = ""

    def rows(self) -> dict[int, list[int]]:
        """The words of each frame of RAM, as plain integers."""
        return {first + place: row for first, pages in self.banks for place, row in enumerate(pages.tolist())}


@attrs.frozen(eq=False)
class Case:
    """Tables, and guest addresses at which to walk them.

    addresses: uint64[n, bytes], any value.  batches: ranges of them that are walked in one call, together all.
    """

    tables: Tables
    addresses: Words = attrs.field(repr=False)
    batches: tuple[tuple[int, int], ...]


# ---- tables


def kind_of(number: int) -> tuple[Shape, Style]:
    """Shape and style of a case: all shapes come in turn, each time round in another style.

    So few cases see many shapes and styles, and as many as there are pairs see every pair.
    """
    every = shapes()
    turn, place = divmod(number, len(every))
    # a step without common divisor: neighbours differ in more than their output size
    step = next(each for each in range(len(every) // 3, len(every)) if math.gcd(each, len(every)) == 1)
    return every[place * step % len(every)], STYLES[(place + turn) % len(STYLES)]


def make(seed: int, number: int, count: int) -> Case:
    """Tables of the next shape and style, and about so many addresses.

    number: of the case [0..]; see ``kind_of``.  count: addresses [200..].
    """
    rng = np.random.default_rng((seed, number))
    shape, style = kind_of(number)
    banks = _banks(rng, shape)
    root = _root(rng, shape, banks, lost=style.lost_root)
    frame = np.concatenate([np.arange(first, first + len(pages)) for first, pages in banks])
    word = _words(rng, shape, style, root, frame)
    ends = np.cumsum([len(pages) for _, pages in banks])[:-1]
    filled = tuple((first, pages) for (first, _), pages in zip(banks, np.split(word, ends), strict=True))
    vmid = int(rng.integers(1 << (8 if shape.arm32 else 16)))
    tables = Tables(shape.arm32, shape.vtcr, vmid << 48 | root << PAGE_BITS, filled,
                    f"case {number}: {style.name}; {shape.name}")
    return Case(tables, *_addresses(rng, shape, root, frame, word, count))


def _banks(rng: np.random.Generator, shape: Shape) -> list[tuple[int, Words]]:
    """Two banks with a hole between them, and one across the end of the output addresses, or at the end of all."""
    first = 0x40000 + int(rng.integers(1 << 18))
    second = first + FIRST_PAGES + int(rng.integers(1, 17))
    end = 1 << shape.output_bits - PAGE_BITS
    last = end - LAST_PAGES // (1 if shape.output_bits == ADDRESS_BITS else 2)
    banks = [(first, FIRST_PAGES), (second, SECOND_PAGES), (last, LAST_PAGES)]
    return [(each, np.zeros((pages, ENTRIES), np.uint64)) for each, pages in banks]


def _root(rng: np.random.Generator, shape: Shape, banks: Sequence[tuple[int, Words]], *, lost: bool) -> int:
    """First frame of the root pages, aligned to their number."""
    pages = shape.root_pages
    first, last = banks[0][0], banks[-1][0]
    aligned = -(-first // pages) * pages
    if not lost:
        return aligned + pages * int(rng.integers((first + FIRST_PAGES - aligned) // pages))
    end = banks[1][0] + SECOND_PAGES
    beyond = 1 << shape.output_bits - PAGE_BITS
    places = [
        (first + FIRST_PAGES) // pages * pages,  # in part in the first bank, if several pages
        first // pages * pages - (pages if first % pages == 0 else 0),
        -(-end // pages) * pages,
        last // pages * pages,
        beyond - pages,
        beyond % (1 << ADDRESS_BITS - PAGE_BITS),
        int(rng.integers(1 << ADDRESS_BITS - PAGE_BITS)) // pages * pages,
    ]
    return places[int(rng.integers(len(places)))]


def _words(rng: np.random.Generator, shape: Shape, style: Style, root: int, frame: Places) -> Words:
    """The words of all frames of RAM: a tree, and what the style makes of it.  frame: all, int64[pages]."""
    pages, start = len(frame), shape.start_level
    is_root = (frame >= root) & (frame < root + shape.root_pages)
    weight = np.array([0.0 if level <= start else 1.0 + (level == LEAF_LEVEL) for level in range(4)])
    level = np.where(is_root, start, rng.choice(4, pages, p=weight / weight.sum()))
    word = _leaves(rng, shape, level, frame)
    above = level[:, np.newaxis] < LEAF_LEVEL
    # each table below the root gets one entry that leads to it
    for below in range(start + 1, LEAF_LEVEL + 1):
        children, parents = np.flatnonzero(level == below), np.flatnonzero(level == below - 1)
        if len(children) and len(parents):
            parent = rng.choice(parents, len(children))
            slot = rng.integers(ENTRIES, size=len(children))
            near = is_root[parent] & (rng.random(len(children)) < 0.9)
            slot = np.where(near, slot % shape.root_entries, slot)
            word[parent, slot] = frame[children].astype(np.uint64) << np.uint64(PAGE_BITS) | np.uint64(XEN_TABLE)
        if len(children) and style.shared:
            # an entry of a full table, or of an empty one, leads on as well
            where = _share(rng, word, style.shared) & (level == below - 1)[:, np.newaxis]
            word[where] = _table_words(rng.choice(frame[children], int(where.sum())))
    if style.cyclic:
        where = _share(rng, word, style.cyclic) & above
        word[where] = _table_words(rng.choice(frame, int(where.sum())))
    if style.outside:
        where = _share(rng, word, style.outside) & above
        word[where] = _table_words(_outside(rng, shape, frame, int(where.sum())))
    return _spoiled(rng, shape, style, word)


def _leaves(rng: np.random.Generator, shape: Shape, level: Places, frame: Places) -> Words:
    """Entries that map memory, as Xen writes them, in some places of every table.  level, frame: of each table."""
    pages = len(level)
    size = (pages, ENTRIES)
    near = frame[rng.integers(pages, size=size)]
    target = np.where(rng.random(size) < 0.5, near, rng.integers(1 << shape.output_bits - PAGE_BITS, size=size))
    # from level 1 up blocks are aligned to their size; where no block can stand, none is written
    below = np.array([9 * (LEAF_LEVEL - each) for each in range(4)])[level][:, np.newaxis]
    target = target >> below << below
    type_ = rng.integers(1, 16, size=size).astype(np.uint64)
    allowed = np.array([READ, READ | WRITE, READ | 1 << 54, READ | WRITE | 1 << 54], np.uint64)
    word: Words = target.astype(np.uint64) << np.uint64(PAGE_BITS) | type_ << np.uint64(TYPE_SHIFT)
    word |= allowed[rng.integers(4, size=size)] | np.uint64(XEN_LEAF)
    word |= np.where(level == LEAF_LEVEL, np.uint64(TABLE), np.uint64(0))[:, np.newaxis]
    density = rng.choice([0.02, 0.3, 1.0], pages)[:, np.newaxis]
    word[rng.random(size) >= density] = 0
    word[level == 0] = 0
    return word


def _spoiled(rng: np.random.Generator, shape: Shape, style: Style, word: Words) -> Words:
    """The words with the flaws of a style."""
    anything = rng.integers(1 << 64, size=word.shape, dtype=np.uint64)
    beyond = FRAME & -(1 << shape.output_bits)
    for share, bits in (
        (style.permissions, PERMISSIONS), (style.ignored, IGNORED), (style.form, VALID | TABLE),
        # a block of level 1 has 18 frame bits that its alignment clears
        (style.crooked, (1 << PAGE_BITS + 18) - (1 << PAGE_BITS)),
    ):
        if share:
            where = (word != 0) & (rng.random(word.shape) < share)
            word[where] ^= (anything[where] ^ word[where]) & np.uint64(bits)
    if style.beyond and beyond:
        where = (word != 0) & (rng.random(word.shape) < style.beyond)
        word[where] |= anything[where] & np.uint64(beyond)
        one = where & (rng.random(word.shape) < 0.5)
        word[one] |= np.uint64(1 << shape.output_bits)
    for share, bit in ((style.unaccessed, ACCESSED), (style.invalid, VALID)):
        if share:
            word[rng.random(word.shape) < share] &= np.uint64((1 << 64) - 1 - bit)
    if style.random:
        where = rng.random(word.shape) < style.random
        word[where] = anything[where]
    return word


def _share(rng: np.random.Generator, word: Words, share: float) -> npt.NDArray[np.bool_]:
    """So many of the entries that hold something, and a few of the others."""
    return rng.random(word.shape) < np.where(word != 0, share, share / 16)


def _table_words(frame: Places) -> Words:
    """Entries that lead to tables, as Xen writes them."""
    return frame.astype(np.uint64) << np.uint64(PAGE_BITS) | np.uint64(XEN_TABLE)


def _outside(rng: np.random.Generator, shape: Shape, frame: Places, count: int) -> Places:
    """Frames that are no RAM: beside a bank, in the hole, near zero, or anywhere within or beyond the output size."""
    gap = FIRST_PAGES
    edges = np.array([frame[0] - 1, frame[gap - 1] + 1, frame[gap] - 1, frame[gap + SECOND_PAGES - 1] + 1,
                      frame[gap + SECOND_PAGES] - 1, (frame[-1] + 1) % (1 << 36), 0, (1 << 36) - 1])
    within = rng.integers(1 << shape.output_bits - PAGE_BITS, size=count)
    chosen = np.where(rng.random(count) < 0.5, rng.choice(edges, count), within)
    return np.where(np.isin(chosen, frame), 0, chosen)


# ---- addresses


def _addresses(rng: np.random.Generator, shape: Shape, root: int, frame: Places, word: Words,
               count: int) -> tuple[Words, tuple[tuple[int, int], ...]]:
    """Addresses in three batches: near entries and at limits, all but one inside the input size, and close together."""
    mixed = np.concatenate([
        _near_entries(rng, shape, root, frame, word, count // 2),
        _limits(rng, shape)[:: max(1, 800 // count)],
        rng.integers(1 << shape.ipa_bits, size=count // 16, dtype=np.uint64),
        rng.integers(1 << 64, size=count // 32, dtype=np.uint64),
    ])
    mixed = mixed[rng.permutation(len(mixed))]
    inside = _near_entries(rng, shape, root, frame, word, count // 4) & np.uint64((1 << shape.ipa_bits) - 1)
    if rng.random() < 0.5:
        # the first address beyond, and none that is farther
        inside[rng.integers(len(inside))] = 1 << shape.ipa_bits
    # so close that the array walk reads the upper levels once for all
    regions = int(rng.integers(1, 5))
    low = int(inside[rng.integers(len(inside))]) >> 21
    low = max(0, min(low, (1 << shape.ipa_bits - 21) - regions))
    close = (low << 21) + rng.integers(regions << 21, size=max(count // 6, 24 * regions))
    close = np.where(rng.random(len(close)) < 0.3, close >> 12 << 12, close).astype(np.uint64)
    parts = (mixed, inside, close)
    ends = np.cumsum([0, *map(len, parts)]).tolist()
    return np.concatenate(parts), tuple(itertools.pairwise(ends))


def _limits(rng: np.random.Generator, shape: Shape) -> Words:
    """The ends of the input size, of what the root pages cover, and of all powers of two near them."""
    covered = shape.root_pages << span_bits(shape.start_level - 1)
    limits = [0, covered, 1 << 64, *(1 << bits for bits in (21, 30, 31, *range(shape.ipa_bits - 1, 50), 52, 63))]
    steps = [-(1 << 30), -(1 << 21), -4097, -4096, -1, 0, 1, 4095, 4096, 1 << 21, int(rng.integers(1 << 30))]
    return np.array([limit + step & (1 << 64) - 1 for limit in limits for step in steps], np.uint64)


def _near_entries(rng: np.random.Generator, shape: Shape, root: int, frame: Places, word: Words, count: int) -> Words:
    """Addresses that are led along tables from entry to entry, and end at, before or behind one."""
    candidates = _candidates(rng, word)
    order = np.argsort(frame)
    ordered = frame[order]
    page = rng.integers(shape.root_pages, size=count)
    at = root + page
    ipa = page.astype(np.uint64) << np.uint64(span_bits(shape.start_level - 1))
    last = np.full(count, shape.start_level)
    live = np.ones(count, np.bool_)
    for level in range(shape.start_level, LEAF_LEVEL + 1):
        place = np.searchsorted(ordered, at)
        place = order[np.minimum(place, len(order) - 1)]
        live &= frame[place] == at
        index = candidates[place, rng.integers(candidates.shape[1], size=count)]
        index = np.where(live & (rng.random(count) < 0.9), index, rng.integers(ENTRIES, size=count))
        if level == shape.start_level:
            index = np.where(rng.random(count) < 0.95, index % shape.root_entries, index)
        ipa |= index.astype(np.uint64) << np.uint64(span_bits(level))
        last = np.where(live, level, last)
        found = word[place, index]
        # not whether the hardware would go on, only whether there is something to come near
        live &= (found & np.uint64(TABLE) != 0) | (rng.random(count) < 0.1)
        at = (found >> np.uint64(PAGE_BITS)).astype(np.int64) & (1 << 36) - 1
    low = np.array([span_bits(level) for level in range(4)], np.uint64)[last]
    size = np.uint64(1) << low
    start = ipa >> low << low
    offset = np.array([0, (1 << 64) - 1, (1 << 64) - 4096, 1], np.uint64)[rng.integers(4, size=count)]
    at_edge = start + np.where(rng.random(count) < 0.5, size, np.uint64(0)) + offset
    within = start | ipa & size - np.uint64(1) | rng.integers(1 << PAGE_BITS, size=count, dtype=np.uint64)
    near: Words = np.where(rng.random(count) < 0.3, at_edge, within)
    return near


def _candidates(rng: np.random.Generator, word: Words, most: int = 16) -> Places:
    """Some entries of each page that hold something, those that look like tables first; any others where few do."""
    interest = (word != 0) * 1.0 + (word & np.uint64(3) == 3) * 0.5 + rng.random(word.shape)
    return np.argpartition(interest, ENTRIES - most, axis=1)[:, ENTRIES - most:]


# ---- tables of a real machine


def real(path: Path) -> Iterator[tuple[Tables, Words]]:
    """The tables of each VM of a file of ``bulkhead walk``, with addresses at, before, behind and inside every entry.

    RAM is the table pages of the file: so no other page counts as a table.  Addresses: uint64[n, bytes], in order.
    Errors: BadInputError.
    """
    file = read(path)
    frames = np.array(sorted(each >> PAGE_BITS for each in file.row))
    rows = np.array([file.row[each << PAGE_BITS] for each in frames.tolist()])
    runs = np.split(np.arange(len(frames)), np.flatnonzero(np.diff(frames) != 1) + 1)
    banks = tuple((int(frames[run[0]]), np.ascontiguousarray(file.page[rows[run]], np.uint64)) for run in runs)
    for domain in file.domains:
        name = f"{path.name}, VM {domain.number}"
        yield (Tables(not file.aarch64, domain.vtcr, domain.vttbr, banks, name),
               _every_entry(file.page, file.row, domain.root, domain.vtcr, arm32=not file.aarch64))


def _every_entry(page: Words, row: dict[int, int], root: int, vtcr: int, *, arm32: bool) -> Words:
    """Both ends of every entry that is not zero, the bytes beside them, and one address inside."""
    start = 2 - (vtcr >> 6 & 3)
    bits = 32 - ((vtcr & 0xF) - (vtcr & 8) * 2) if arm32 else 64 - (vtcr & 0x3F)
    pages = 1 << max(0, bits - span_bits(start - 1))
    todo = [(root + (each << PAGE_BITS), start, each << span_bits(start - 1)) for each in range(pages)]
    found = []
    rng = np.random.default_rng(root)
    while todo:
        table, level, base = todo.pop()
        if table not in row:
            continue
        words = page[row[table]]
        index = np.flatnonzero(words)
        size = np.uint64(1 << span_bits(level))
        first = np.uint64(base) + index.astype(np.uint64) * size
        inside = first + rng.integers(int(size), size=len(index)).astype(np.uint64)
        found += [first - np.uint64(1), first, inside, first + size - np.uint64(1), first + size]
        if level < LEAF_LEVEL:
            entries = zip(words[index].tolist(), first.tolist(), strict=True)
            todo += [(word & FRAME, level + 1, at) for word, at in entries if word & TABLE]
        if len(found) > MOST_REAL:
            raise BadInputError("these tables are no tree: too many are met")
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.uint64)


__all__ = ["STYLES", "Case", "Shape", "Style", "Tables", "kind_of", "make", "real", "shapes", "span_bits"]
