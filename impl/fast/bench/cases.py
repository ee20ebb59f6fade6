"""What is measured: each case builds its trees, checks that all contenders agree, and offers them to be timed."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from impl.fast import walks
from impl.fast.bench import forensic
from impl.fast.bench.native import Indices, Native
from impl.fast.bench.trees import GIB, Pool, Tree, all_pages, banks, mixed, words_of
from impl.fast.geometry import PAGE_BITS, PAGE_BYTES, Geometry, shift_of
from impl.fast.ranges import Permit, Stage2
from impl.fast.walks import ADDRESS, Banks, Words

GEOMETRY = Geometry(39, 1)
TABLES_AT = 1 << 40
RAM_AT = 1 << 41
GUEST_PAGES = 1 << 20
"""Pages of one guest when many are enumerated: 4 GB."""


class Unequal(AssertionError):
    """Two contenders gave different results: nothing is measured."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do the work."""

    run: Callable[[], object]
    items: int
    before: Callable[[], None] | None = None
    """Done before each round, not timed."""
    skip: int = 1
    """Takes part in every so-manieth round: slow ones need not all."""


@dataclass(frozen=True, slots=True)
class Target:
    """A ratio of two contenders, and what it must not exceed (or, if `least`, not fall below)."""

    of: str
    to: str
    bound: float
    least: bool = False


@dataclass(slots=True)
class Case:
    """One comparison."""

    name: str
    item: str
    """What is counted."""
    table_bytes: int
    contenders: dict[str, Contender]
    limit: str
    """The contender to whose time the others are put in relation."""
    targets: list[Target] = field(default_factory=list)
    rounds: int | None = None
    """Rounds, if other than asked for."""


def _equal(what: str, left: object, right: object) -> None:
    if not np.array_equal(np.asarray(left), np.asarray(right)):
        raise Unequal(f"{what}: results differ")


def _steps(pool: Pool, tree: Tree, ipa: Words) -> tuple[Indices, Indices]:
    """Indices into the pool of all words that the walks read, walk after walk, and of the last ones."""
    level = tree.geometry.start_level
    table = np.full(len(ipa), tree.root, np.uint64)
    alive = np.ones(len(ipa), np.bool_)
    columns, reads = [], []
    last = np.zeros(len(ipa), np.uint32)
    while True:
        index = (table - np.uint64(pool.base) >> np.uint64(3)) + (ipa >> np.uint64(shift_of(level)) & np.uint64(511))
        index[~alive] = 0
        last[alive] = index[alive]
        columns.append(index.astype(np.uint32))
        reads.append(alive.copy())
        if level == 3:
            break
        word = pool.words[index.astype(np.intp)]
        alive &= (word & np.uint64(3)) == 3
        table = word & np.uint64(ADDRESS)
        level += 1
    return np.column_stack(columns)[np.column_stack(reads)], last


def walk_case(name: str, pool: Pool, tree: Tree, size: int, native: Native | None, count: int, targets: list[Target],
              generator: np.random.Generator) -> Case:
    """Random walks over the first `size` bytes of one guest."""
    memory = banks(pool)
    ipa = generator.integers(0, size, count, dtype=np.uint64)
    ordered = np.sort(ipa)
    root, geometry = tree.root, tree.geometry
    found, level = walks.descriptors(memory, root, geometry, ipa)
    few = generator.integers(0, count, 20_000)
    for i in few.tolist():
        if (int(found[i]), int(level[i])) != walks.last_descriptor(memory, root, geometry, int(ipa[i])):
            raise Unequal(f"{name}: the scalar walk differs at {int(ipa[i]):#x}")
    one = ipa[:2000].tolist()
    contenders = {}
    if native is not None:
        reads, last = _steps(pool, tree, ipa)
        ordered_reads, _ = _steps(pool, tree, ordered)
        for interleaved in (False, True):
            theirs = native.walk(pool, tree, ipa, interleaved)
            _equal(f"{name}, C", theirs[0], found)
            _equal(f"{name}, C", theirs[1], level)
        contenders = {
            "limit A": Contender(lambda: native.loads(pool, last), count),
            "limit B": Contender(lambda: native.loads(pool, reads), count),
            "limit B in order": Contender(lambda: native.loads(pool, ordered_reads), count),
            "C scalar": Contender(lambda: native.walk(pool, tree, ipa, interleaved=False), count),
            "C interleaved": Contender(lambda: native.walk(pool, tree, ipa, interleaved=True), count),
        }
    contenders |= {
        "lean": Contender(lambda: walks.descriptors(memory, root, geometry, ipa), count),
        "full": Contender(lambda: walks.translate(memory, root, geometry, ipa), count),
        "lean in order": Contender(lambda: walks.descriptors(memory, root, geometry, ordered), count),
        "one address a call": Contender(
            lambda: [walks.translate_one(memory, root, geometry, each) for each in one], len(one), skip=4
        ),
    }
    return Case(name, "walk", tree.tables * PAGE_BYTES, contenders, "limit B", targets)


def walk_cases(native: Native | None, quick: bool) -> Iterator[Case]:
    """Random walks: a guest of 64 GB in pages, and a guest of 4 GB of mixed sizes."""
    generator = np.random.default_rng(41)
    count = 1 << (18 if quick else 20)
    size = 8 * GIB if quick else 64 * GIB
    pages = size >> PAGE_BITS
    pool = Pool.of(TABLES_AT, (pages >> 9) + 200, generator)
    target = generator.permutation(pages).astype(np.uint64) << np.uint64(PAGE_BITS)
    tree = all_pages(pool, GEOMETRY, target)
    targets = [
        Target("lean", "limit B", 2.2),
        Target("C scalar", "lean", 2.5, least=True),
        Target("lean in order", "limit B", 1.3),
    ]
    name = f"random walks, {size // GIB} GB of 4 KB pages"
    yield walk_case(name, pool, tree, size, native, count, targets, generator)
    del pool, target
    pool = Pool.of(TABLES_AT, 2000, generator)
    tree = mixed(pool, GEOMETRY, generator)
    targets = [Target("lean", "limit B", 8)]
    yield walk_case("random walks, 4 GB of mixed sizes", pool, tree, 4 * GIB, native, count, targets, generator)
    case = forensic_case(pool, tree, generator)
    if case is not None:
        yield case


def forensic_case(pool: Pool, tree: Tree, generator: np.random.Generator) -> Case | None:
    """The same mixed tree in x86-64 encoding, walked by volatility3, if that is installed."""
    walker = forensic.walker(pool, tree)
    if walker is None:
        return None
    ipa = generator.integers(0, 4 * GIB, 1 << 18, dtype=np.uint64)
    sample = ipa[:500].tolist()
    memory = banks(pool)
    address, _, _ = walks.translate(memory, tree.root, tree.geometry, ipa)
    _equal("volatility3", [walker(each) for each in sample], address[:500])
    # fresh addresses in each round: it remembers the last 1,024
    rest = itertools.cycle([ipa[at : at + 500].tolist() for at in range(0, 1 << 17, 500)])
    return Case(
        "the mixed guest, volatility3",
        "walk",
        tree.tables * PAGE_BYTES,
        {
            "full": Contender(lambda: walks.translate(memory, tree.root, tree.geometry, ipa), len(ipa)),
            "volatility3": Contender(lambda: [walker(each) for each in next(rest)], 500),
        },
        "full",
        [Target("volatility3", "full", 150, least=True)],
    )


def few_case(native: Native | None) -> Case:
    """How many addresses a call pay for arrays: both ways for 1 to 256."""
    generator = np.random.default_rng(43)
    pool = Pool.of(TABLES_AT, 2000, generator)
    tree = mixed(pool, GEOMETRY, generator)
    memory = banks(pool)

    def forced(few: int, ipa: Words) -> Callable[[], object]:
        def run() -> None:
            kept = walks.FEW
            try:
                walks.FEW = few  # type: ignore[misc]
                for _ in range(50):
                    walks.translate(memory, tree.root, tree.geometry, ipa)
            finally:
                walks.FEW = kept  # type: ignore[misc]

        return run

    contenders = {}
    for size in (1, 8, 16, 32, 64, 256):
        ipa = generator.integers(0, 4 * GIB, size, dtype=np.uint64)
        contenders[f"scalar, {size}"] = Contender(forced(1 << 30, ipa), 50 * size)
        contenders[f"arrays, {size}"] = Contender(forced(0, ipa), 50 * size)
    return Case("few addresses a call", "walk", tree.tables * PAGE_BYTES, contenders, "scalar, 1")


# ---- whole trees ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Fleet:
    """Many guests: their trees, table pages and RAM."""

    pool: Pool
    trees: list[Tree]
    pages: list[Indices]
    """Level-3 table pages of each guest, as places in the pool, in the order of their addresses in the guest."""
    frames: int
    memory: Banks

    @staticmethod
    def of(entries: int, scattered: bool, generator: np.random.Generator) -> "Fleet":
        """Guests with `entries` pages in all, of at most 4 GB each.

        scattered: pages of all guests are mixed over all RAM; else each guest's are mixed within 4 GB of its own.
        """
        sizes = [min(GUEST_PAGES, entries - at) & -512 for at in range(0, entries, GUEST_PAGES)]
        sizes = [max(512, size) for size in sizes]
        total = sum(sizes)
        pool = Pool.of(TABLES_AT, sum((size >> 9) + 2 + (size >> 18) for size in sizes) + 2 * len(sizes), generator)
        everywhere = generator.permutation(total).astype(np.uint32) if scattered else None
        trees, pages = [], []
        at = 0
        for size in sizes:
            mine = generator.permutation(size) + at if everywhere is None else everywhere[at : at + size]
            target = np.uint64(RAM_AT) + (mine.astype(np.uint64) << np.uint64(PAGE_BITS))
            first = pool.used
            trees.append(all_pages(pool, GEOMETRY, target))
            pages.append(pool.order[first : first + (size >> 9)].astype(np.uint32))
            at += size
        memory = Banks([(pool.base, pool.words), (RAM_AT, words_of(total * PAGE_BYTES))])
        return Fleet(pool, trees, pages, total, memory)

    @property
    def roots(self) -> list[tuple[int, Geometry]]:
        """What `owners` takes."""
        return [(tree.root, tree.geometry) for tree in self.trees]

    def enumerate(self) -> int:
        """Bring every table into the matrix, as a consumer of `leaves` would see it; words seen."""
        seen = 0
        for root, geometry in self.roots:
            for chunk in walks.leaves(self.memory, root, geometry).chunks():
                seen += chunk.descriptor.size
        return seen


def tree_case(name: str, entries: int, native: Native | None, scattered: bool, rounds: int | None) -> Case:
    """Enumeration, owner map and merging over many guests."""
    fleet = Fleet.of(entries, scattered, np.random.default_rng(47))
    total = fleet.frames
    got = walks.owners(fleet.memory, fleet.roots)
    if len(got.frame) or (got.map[-total:] == 0).any():
        raise Unequal(f"{name}: the owner map is wrong")
    seen = sum(
        int(np.add.reduce(chunk.descriptor, axis=None))
        for root, geometry in fleet.roots
        for chunk in walks.leaves(fleet.memory, root, geometry).chunks()
        if chunk.level == 3
    )
    contenders = {}
    if native is not None:
        every = np.concatenate(fleet.pages)
        if native.read_pages(fleet.pool, every) != seen % (1 << 64):
            raise Unequal(f"{name}: the enumeration read other words")
        if native.audit(fleet.pool, fleet.pages, RAM_AT >> PAGE_BITS, total):
            raise Unequal(f"{name}: C finds frames that two reach")
        contenders = {
            "read limit": Contender(lambda: native.read_pages(fleet.pool, every), total),
            "C audit": Contender(
                lambda: native.audit(fleet.pool, fleet.pages, RAM_AT >> PAGE_BITS, total), total
            ),
        }
    contenders |= {
        "table-major enumeration": Contender(fleet.enumerate, total),
        "owner audit": Contender(lambda: walks.owners(fleet.memory, fleet.roots), total),
    }
    targets = [Target("table-major enumeration", "read limit", 1.4), Target("owner audit", "read limit", 13)]
    if total < 1 << 22:
        # tables that lie in the last-level cache have a lower limit, and a call's fixed cost counts: not what is meant
        targets = []
    if total <= 1 << 23:
        contenders["merging (first guest)"] = Contender(
            lambda: walks.merged(walks.leaves(fleet.memory, *fleet.roots[0])), fleet.trees[0].leaves, skip=4
        )
    tables = sum(tree.tables for tree in fleet.trees)
    return Case(name, "entry", tables * PAGE_BYTES, contenders, "read limit", targets, rounds)


# ---- changes of ranges --------------------------------------------------------------------------------------------


class _Pages:
    """Table pages in ascending order, to be taken again from the start."""

    def __init__(self, first: int, count: int) -> None:
        self.first, self.count, self.used = first, count, 0

    def take(self, count: int) -> Words:
        count = min(count, self.count - self.used)
        got = np.uint64(self.first) + (np.arange(self.used, self.used + count, dtype=np.uint64) << np.uint64(PAGE_BITS))
        self.used += count
        return got

    def give(self, address: Words) -> None:
        """Pages are not taken again before the next round."""


def range_case(native: Native | None, quick: bool) -> Case:
    """Populating, unmapping and protecting pages, against the same calls one by one."""
    generator = np.random.default_rng(53)
    count = 100_000 if quick else 1_000_000
    single = count // 50
    tables = count // 512 + 100
    words = words_of(2 * tables * PAGE_BYTES)
    memory = Banks([(TABLES_AT, words)])
    gfn = np.arange(count, dtype=np.uint64)
    mfn = generator.permutation(count).astype(np.uint64) + np.uint64(RAM_AT >> PAGE_BITS)
    anywhere = generator.permutation(count).astype(np.uint64)
    geometry = Geometry.named("arm64-pa2")

    class Guest:
        """The tree, made anew for each timing."""

        tree: Stage2

    def fresh() -> None:
        words[:1024] = 0
        Guest.tree = Stage2(memory, TABLES_AT, geometry, _Pages(TABLES_AT + 16 * PAGE_BYTES, 2 * tables - 16))

    def full() -> None:
        fresh()
        Guest.tree.set(gfn, mfn)

    def blocks() -> None:
        fresh()
        Guest.tree.insert(0, 1 << 19, count & -512)

    pairs = list(zip(gfn[:single].tolist(), mfn[:single].tolist(), strict=True))

    def one_by_one() -> None:
        for guest, frame in pairs:
            Guest.tree.set_one(guest, frame)

    # equality first: the same tables from both, as far as one by one goes
    fresh()
    one_by_one()
    by_one = walks.merged(walks.leaves(memory, TABLES_AT, geometry))
    fresh()
    Guest.tree.set(gfn[:single], mfn[:single])
    at_once = walks.merged(walks.leaves(memory, TABLES_AT, geometry))
    _equal("populate", by_one.ipa, at_once.ipa)
    _equal("populate", by_one.address, at_once.address)
    contenders = {
        "populate one by one": Contender(one_by_one, single, fresh),
        "populate": Contender(lambda: Guest.tree.set(gfn, mfn), count, fresh),
        "populate in random order": Contender(lambda: Guest.tree.set(anywhere, mfn), count, fresh, 4),
        "unmap": Contender(lambda: Guest.tree.clear(gfn), count, full),
        "protect pages": Contender(lambda: Guest.tree.protect(gfn, Permit.R), count, full),
        "protect blocks": Contender(lambda: Guest.tree.protect(gfn[: count & -512], Permit.R), count & -512, blocks),
    }
    targets = [Target("populate one by one", "populate", 100, least=True)]
    return Case(f"changes of {count} pages", "page", tables * PAGE_BYTES, contenders, "populate", targets)


def cases(native: Native | None, quick: bool) -> Iterator[Case]:
    """All cases; each is built when it is its turn, and can be dropped then."""
    yield from walk_cases(native, quick)
    yield few_case(native)
    big = 1_000_000 if quick else 8_000_000
    yield tree_case(f"trees of {big} entries", big, native, scattered=False, rounds=None)
    yield tree_case(f"trees of {big} entries, frames scattered", big, native, scattered=True, rounds=None)
    yield range_case(native, quick)


def sizes(quick: bool) -> list[int]:
    """Entries of the trees that show how the cost grows."""
    return [10**power for power in range(4, 7 if quick else 9)]


__all__ = ["Case", "Contender", "Target", "Unequal", "cases", "sizes", "tree_case"]
