"""Changes of many pages against a slow model of Xen's single step: same leaves, same tables, same stops."""

import numpy as np
import pytest

from impl.fast import ranges, walks
from impl.fast.geometry import Geometry
from impl.fast.ranges import EINVAL, ENOENT, ENOMEM, Permit, RangeError, Stage2, Type, page_bits
from impl.fast.walks import Banks, Rule

BASE = 0x40000000
OTHER = 0x900000000
RAM = 0x7FF | 1 << 55


class Pages:
    """Table pages of one or two banks, taken alternately; `left` says how many more there are."""

    def __init__(self, free, left=1 << 30):
        self.free, self.left, self.taken = list(free), left, 0

    def take(self, count):
        count = min(count, self.left, len(self.free))
        got = [self.free.pop() for _ in range(count)]
        self.left -= count
        self.taken += count
        return np.array(got, np.uint64)

    def give(self, address):
        self.free.extend(address.tolist())
        self.left += len(address)
        self.taken -= len(address)


def machine(geometry, pages=400, left=1 << 30, two_banks=False):
    """A tree without entries: its banks, its pool, and the object that changes it."""
    # rubbish in the free pages: whoever takes one must clear it
    words = np.full(pages * 512, 0xDEAD_BEEF_DEAD_BEEF, np.uint64)
    words[: 512 * geometry.root_pages] = 0
    banks = [(BASE, words)]
    free = [BASE + 4096 * i for i in range(16, pages)]
    if two_banks:
        banks.append((OTHER, np.full(pages * 512, 0xDEAD_BEEF_DEAD_BEEF, np.uint64)))
        free = [page for i in range(16, pages) for page in (BASE + 4096 * i, OTHER + 4096 * i)]
    memory = Banks(banks)
    pool = Pages(free, left)
    return memory, pool, Stage2(memory, BASE, geometry, pool)


class Slow:
    """Xen's single step over nested dictionaries, after p2m_set_entry. An entry is a word or a dict."""

    def __init__(self, geometry, left=1 << 30):
        self.start, self.left = geometry.start_level, left
        self.limit = geometry.root_gfns
        self.root = {}
        self.displaced = []

    def size(self, level):
        return 512 ** (3 - level)

    def index(self, gfn, level):
        index = gfn // self.size(level)
        return index if level == self.start else index % 512

    def page(self):
        if not self.left:
            return False
        self.left -= 1
        return True

    def shatter(self, word, level, target, gfn):
        """The table for a block, or None with everything given back."""
        if not self.page():
            return None
        level += 1
        table = {}
        for i in range(512):
            table[i] = (word + i * self.size(level) * 4096) | (2 if level == 3 else 0)
        if level < target:
            inner = self.shatter(table[self.index(gfn, level)], level, target, gfn)
            if inner is None:
                self.left += 1
                return None
            table[self.index(gfn, level)] = inner
        return table

    def release(self, item, entry, level):
        if not isinstance(entry, dict):
            self.displaced.append((item, entry, level))
            return
        for i in sorted(entry):
            self.release(item, entry[i], level + 1)
        self.left += 1

    def step(self, item, gfn, word, target):
        """0 or the error."""
        if gfn >= self.limit:
            return EINVAL
        table = self.root
        for level in range(self.start, target):
            at = self.index(gfn, level)
            entry = table.get(at)
            if entry is None:
                if word == 0:
                    return 0
                if not self.page():
                    return ENOENT
                entry = table[at] = {}
            elif not isinstance(entry, dict):
                entry = self.shatter(entry, level, target, gfn)
                if entry is None:
                    return ENOMEM
                table[at] = entry
            table = entry
        at = self.index(gfn, target)
        old = table.get(at)
        if word:
            table[at] = word
        else:
            table.pop(at, None)
        if old is not None and (isinstance(old, dict) or (old ^ word) & 0x0000_FFFF_FFFF_F000):
            self.release(item, old, target)
        return 0

    def batch(self, gfns, words, target):
        """(done, error)."""
        for item, (gfn, word) in enumerate(zip(gfns, words, strict=True)):
            error = self.step(item, gfn, word, target)
            if error:
                return item, error
        return len(gfns), 0

    def leaves(self):
        """(ipa, level, word) of everything, ascending, and the number of tables below the root at each level."""
        found, tables = [], []

        def enter(table, level, gfn):
            for i, entry in table.items():
                here = gfn + i * self.size(level)
                if isinstance(entry, dict):
                    tables.append((here, level + 1))
                    enter(entry, level + 1, here)
                else:
                    found.append((here << 12, level, entry))

        enter(self.root, self.start, 0)
        return sorted(found), sorted(tables)


def content(memory, geometry):
    """As Slow.leaves, read from the real tables."""
    tree = walks.leaves(memory, BASE, geometry, Rule.XEN)
    assert not tree.repeated
    assert not tree.outside
    found, tables = [], []
    for chunk in tree.chunks():
        leaf = walks.is_leaf(chunk.descriptor, chunk.level, geometry, Rule.XEN)
        size = 1 << (12 + 9 * (3 - chunk.level))
        for row, column in zip(*np.nonzero(leaf), strict=True):
            word = int(chunk.descriptor[row, column])
            found.append((int(chunk.base[row]) + int(column) * size, chunk.level, word))
        if chunk.level > geometry.start_level:
            tables += [(base >> 12, chunk.level) for base in chunk.base.tolist()]
    return sorted(found), sorted(tables)


def same(outcome, slow, done, error):
    """The outcome of a batch is that of the model, displaced entries in their order."""
    said = outcome.displaced
    got = list(zip(said.item.tolist(), said.descriptor.tolist(), said.level.tolist(), strict=True))
    expected, slow.displaced = slow.displaced, []
    return (outcome.done, outcome.error, got) == (done, error, expected)


def bits(order, type=Type.RAM_RW, permit=Permit.RWX):
    return page_bits(type, permit) & ~(2 if order else 0)


def u64(values):
    return np.array(values, np.uint64)


GEOMETRIES = ["arm64-pa2", "arm32", "arm64-pa3", "arm64-pa5", "arm64-ipa32-l1"]


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("left", [1 << 30, 12])
def test_batches__leave_what_single_steps_leave(name, seed, left):
    geometry = Geometry.named(name)
    generator = np.random.default_rng(seed)
    memory, pool, tree = machine(geometry, left=left, two_banks=seed % 2 == 1)
    slow = Slow(geometry, left)
    room = min(geometry.root_gfns, 4 << 18)
    for _ in range(25):
        order = int(generator.choice([0, 0, 0, 9, 18], p=[0.3, 0.3, 0.2, 0.15, 0.05]))
        count = int(generator.integers(1, 400 if order == 0 else 6))
        kind = int(generator.integers(0, 4))
        near = int(generator.integers(0, room >> order))
        if kind == 0:
            gfn = (near + np.arange(count)) % (room >> order)
        elif kind == 1:
            gfn = (near + generator.integers(0, 700, count)) % (room >> order)
        elif kind == 2:
            gfn = generator.integers(0, room >> order, min(count, 5))
        else:
            # the last item lies beyond the root
            gfn = np.append((near + np.arange(count)) % (room >> order), geometry.root_gfns >> order)
        gfn = u64(gfn) << np.uint64(order)
        target = 3 - order // 9
        if generator.random() < 0.35:
            done, error = slow.batch(gfn.tolist(), [0] * len(gfn), target)
            assert same(tree.clear(gfn, order), slow, done, error)
        else:
            mfn = generator.integers(0, (1 << 24) >> order, len(gfn)).astype(np.uint64) << np.uint64(order)
            type = int(generator.integers(1, 12))
            words = [frame << 12 | bits(order, type) for frame in mfn.tolist()]
            done, error = slow.batch(gfn.tolist(), words, target)
            assert same(tree.set(gfn, mfn, order, type), slow, done, error)
        assert slow.left == pool.left
    assert slow.leaves() == content(memory, geometry)


@pytest.mark.parametrize("name", [*GEOMETRIES, "arm64-pa4"])
@pytest.mark.parametrize("order", [0, 9, 18])
def test_batches__reach_every_page_of_the_root(name, order):
    geometry = Geometry.named(name)
    memory, pool, tree = machine(geometry)
    slow = Slow(geometry)
    everywhere = np.linspace(0, (geometry.root_gfns >> order) - 1, 40).astype(np.uint64) << np.uint64(order)
    mfn = np.arange(40, dtype=np.uint64) << np.uint64(order)
    words = [frame << 12 | bits(order) for frame in mfn.tolist()]
    assert same(tree.set(everywhere, mfn, order), slow, *slow.batch(everywhere.tolist(), words, 3 - order // 9))
    some = everywhere[::3]
    assert same(tree.clear(some, order), slow, *slow.batch(some.tolist(), [0] * len(some), 3 - order // 9))
    assert (slow.left, slow.leaves()) == (pool.left, content(memory, geometry))
    assert (tree.lookup(everywhere).type[1::3] == Type.RAM_RW).all()


@pytest.mark.parametrize("seed", range(4))
def test_single_steps__are_batches_of_one(seed):
    geometry = Geometry.named("arm64-pa2")
    generator = np.random.default_rng(seed)
    memory, pool, tree = machine(geometry, left=9)
    slow = Slow(geometry, 9)
    for _ in range(300):
        order = int(generator.choice([0, 0, 0, 9, 18]))
        gfn = int(generator.integers(0, 3 << 18 >> order)) << order
        if generator.random() < 0.4:
            done, error = slow.batch([gfn], [0], 3 - order // 9)
            assert same(tree.clear_one(gfn, order), slow, done, error)
        else:
            mfn = int(generator.integers(0, 1 << 24 >> order)) << order
            done, error = slow.batch([gfn], [mfn << 12 | bits(order)], 3 - order // 9)
            assert same(tree.set_one(gfn, mfn, order), slow, done, error)
        assert slow.left == pool.left
    assert slow.leaves() == content(memory, geometry)


def slow_chunks(gfn, mfn, pages, most=18):
    """Xen's loop, one entry after the other."""
    done = 0
    while done < pages:
        low = (gfn + done) | (mfn + done if mfn is not None else 0) | (pages - done)
        order = 18 if low % 2**18 == 0 else 9 if low % 512 == 0 else 0
        order = min(order, most)
        yield done, order
        done += 1 << order


@pytest.mark.parametrize("seed", range(40))
def test_chunks__are_those_of_xens_loop(seed):
    generator = np.random.default_rng(seed)
    gfn, mfn, pages = (int(generator.integers(0, 1 << 19)) for _ in range(3))
    if seed % 2:
        gfn, pages = gfn & -512, pages & -512
    if seed % 3:
        mfn = gfn + 512 * int(generator.integers(0, 3) if seed % 4 else 512)
    if seed % 5 == 0:
        pages = (1 << 19) - gfn + (1 << 18)
    machine_frame = None if seed % 7 == 0 else mfn
    expected = list(slow_chunks(gfn, machine_frame, pages))
    got = [
        (first + (i << order), order)
        for first, count, order in ranges.chunks(gfn, machine_frame, pages)
        for i in range(count)
    ]
    assert expected == got


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("left", [1 << 30, 6])
def test_insert_and_remove__leave_what_single_steps_leave(seed, left):
    geometry = Geometry.named("arm64-pa2")
    generator = np.random.default_rng(seed)
    memory, pool, tree = machine(geometry, left=left, two_banks=seed % 2 == 1)
    slow = Slow(geometry, left)

    def step_by_step(gfn, mfn, pages, low):
        for first, order in slow_chunks(gfn, mfn, pages):
            word = 0 if mfn is None else (mfn + first) << 12 | low & ~(2 if order else 0)
            error = slow.step(first, gfn + first, word, 3 - order // 9)
            if error:
                return first, error
        return pages, 0

    for _ in range(12):
        gfn, pages = int(generator.integers(0, 2 << 18)), int(generator.integers(0, 4000))
        if generator.random() < 0.5:
            gfn, pages = gfn & -512, (pages + 511) & -512
        if generator.random() < 0.4:
            assert same(tree.remove(gfn, pages), slow, *step_by_step(gfn, None, pages, 0))
        else:
            mfn = (gfn + (int(generator.integers(0, 64)) << 9)) if generator.random() < 0.7 else 12345
            low = page_bits(Type.MAP_FOREIGN_RO)
            got = tree.insert(gfn, mfn, pages, Type.MAP_FOREIGN_RO)
            assert same(got, slow, *step_by_step(gfn, mfn, pages, low))
        assert slow.left == pool.left
    assert slow.leaves() == content(memory, geometry)


def test_insert__uses_a_block_of_1_gb():
    geometry = Geometry.named("arm64-pa2")
    memory, _, tree = machine(geometry)
    tree.insert(1 << 18, 3 << 18, 1 << 18)
    assert ([(1 << 30, 1, 3 << 30 | RAM & ~2)], []) == content(memory, geometry)


def test_remove__of_one_page_of_1_gb_splits_twice():
    geometry = Geometry.named("arm64-pa2")
    memory, pool, tree = machine(geometry)
    tree.insert(1 << 18, 3 << 18, 1 << 18)
    tree.remove((1 << 18) + 777, 1)
    found, tables = content(memory, geometry)
    assert (511 + 511, 2, 2) == (len(found), len(tables), pool.taken)


@pytest.mark.parametrize("left", [0, 1])
def test_remove__without_pages_for_a_split_leaves_the_block(left):
    geometry = Geometry.named("arm64-pa2")
    memory, pool, tree = machine(geometry, left=left)
    tree.insert(1 << 18, 3 << 18, 1 << 18)
    got = tree.remove((1 << 18) + 777, 1)
    assert (0, ENOMEM, left, 1) == (got.done, got.error, pool.left, len(content(memory, geometry)[0]))


def test_set__without_pages_keeps_what_was_done():
    geometry = Geometry.named("arm64-pa2")
    memory, _, tree = machine(geometry, left=3)
    # one table of level 2 and two of level 3
    got = tree.set(np.arange(2000, dtype=np.uint64), np.arange(2000, dtype=np.uint64))
    assert (1024, ENOENT, 1024) == (got.done, got.error, len(content(memory, geometry)[0]))


def test_set__keeps_the_upper_table_of_a_path_that_failed():
    geometry = Geometry.named("arm64-pa5")
    memory, _, tree = machine(geometry, left=2)
    got = tree.set(u64([5]), u64([6]))
    assert (0, ENOENT, ([], [(0, 1), (0, 2)])) == (got.done, got.error, content(memory, geometry))


def test_set__tells_what_the_earlier_item_of_the_same_batch_had_written():
    _, _, tree = machine(Geometry.named("arm64-pa2"))
    got = tree.set(u64([7, 8, 7, 7]), u64([100, 101, 102, 102]))
    assert [(2, 100 << 12 | RAM)] == list(
        zip(got.displaced.item.tolist(), got.displaced.descriptor.tolist(), strict=True)
    )


@pytest.mark.parametrize("at_once", [True, False])
def test_set__displaces_nothing_where_the_frame_stays(at_once):
    _, _, tree = machine(Geometry.named("arm64-pa2"))
    tree.set_one(7, 100)
    got = tree.set(u64([7]), u64([100]), 0, Type.RAM_RO) if at_once else tree.set_one(7, 100, 0, Type.RAM_RO)
    assert (1, 0) == (got.done, len(got.displaced.item))


def test_set__replaces_an_entry_that_the_hardware_does_not_see():
    geometry = Geometry.named("arm64-pa2")
    memory, _, tree = machine(geometry)
    tree.set_one(7, 100)
    words = memory.banks[0][1]
    words[words == 100 << 12 | RAM] = 100 << 12 | RAM & ~1
    got = tree.set(u64([7]), u64([101]))
    assert [100 << 12 | RAM & ~1] == got.displaced.descriptor.tolist()


@pytest.mark.parametrize("permit", list(Permit))
def test_protect__leaves_what_single_steps_leave(permit):
    geometry = Geometry.named("arm64-pa2")
    memory, pool, tree = machine(geometry, left=40)
    slow = Slow(geometry, 40)
    tree.insert(0, 512, 1024)
    tree.insert(3000, 9000, 50, Type.GRANT_MAP_RW)
    slow.batch([0, 512], [512 << 12 | bits(9), 1024 << 12 | bits(9)], 2)
    slow.batch(range(3000, 3050), [(9000 + i) << 12 | bits(0, Type.GRANT_MAP_RW) for i in range(50)], 3)
    gfn = np.array([*range(500, 520), *range(2990, 3020), 510, 1 << 40], np.uint64)
    for each in gfn.tolist():
        if each < 1024:
            slow.step(0, each, (512 + each) << 12 | page_bits(Type.RAM_RW, permit), 3)
        elif 3000 <= each < 3050:
            slow.step(0, each, (6000 + each) << 12 | page_bits(Type.GRANT_MAP_RW, permit), 3)
    got = tree.protect(gfn, permit)
    assert (len(gfn), 0, slow.left) == (got.done, got.error, pool.left)
    assert slow.leaves() == content(memory, geometry)


def test_protect__stops_where_a_split_finds_no_page():
    _, pool, tree = machine(Geometry.named("arm64-pa2"))
    tree.insert(0, 512, 1024)
    pool.left = 1
    got = tree.protect(np.array([5000, 3, 4, 600, 5], np.uint64), Permit.R)
    assert (3, ENOMEM) == (got.done, got.error)


@pytest.mark.parametrize(
    ("type", "permit", "permission", "memory"),
    [
        (Type.RAM_RW, Permit.RWX, 7, 15),
        (Type.RAM_RO, Permit.RWX, 5, 15),
        (Type.MMIO_DIRECT_DEV, Permit.RWX, 3, 1),
        (Type.MMIO_DIRECT_NC, Permit.RWX, 3, 5),
        (Type.MMIO_DIRECT_C, Permit.RWX, 3, 15),
        (Type.MAP_FOREIGN_RW, Permit.RWX, 3, 15),
        (Type.MAP_FOREIGN_RO, Permit.RWX, 1, 15),
        (Type.GRANT_MAP_RW, Permit.RWX, 3, 15),
        (Type.GRANT_MAP_RO, Permit.RWX, 1, 15),
        (Type.IOMMU_MAP_RW, Permit.RWX, 3, 15),
        (Type.IOMMU_MAP_RO, Permit.RWX, 1, 15),
        (Type.RAM_RW, Permit.N, 0, 15),
        (Type.RAM_RW, Permit.R, 1, 15),
        (Type.RAM_RW, Permit.W, 2, 15),
        (Type.RAM_RW, Permit.RW, 3, 15),
        (Type.RAM_RW, Permit.X, 4, 15),
        (Type.RAM_RW, Permit.RX, 5, 15),
        (Type.RAM_RW, Permit.WX, 6, 15),
        (Type.RAM_RW, Permit.RX2RW, 5, 15),
        (Type.RAM_RW, Permit.N2RWX, 0, 15),
    ],
)
def test_page_bits__are_those_of_xens_types(type, permit, permission, memory):
    said = walks.attributes(u64([page_bits(type, permit)]))
    assert ([permission], [memory], [type]) == (said.permission.tolist(), said.memory.tolist(), said.type.tolist())


def test_page_bits__share_devices_outside_and_ram_inside():
    words = u64([page_bits(type) for type in range(1, 12)])
    assert [3, 3, 2, 2, 2, 3, 3, 3, 3, 3, 3] == walks.attributes(words).shareability.tolist()


@pytest.mark.parametrize("order", [0, 1, 4, 9, 10, 18])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("left", [1 << 30, 4])
def test_populate__is_one_insert_after_the_other(order, aligned, left):
    geometry = Geometry.named("arm64-pa3")
    count = 2 if order == 18 else 5
    size = 1 << order
    gfn = u64([(4 * i + 1) * size + (0 if aligned or i != 1 else 3) for i in range(count)])
    mfn = u64([(7 * i + 2) * size for i in range(count)])
    one_memory, one_pool, one = machine(geometry, 2000, left)
    done = 0
    for guest, frame in zip(gfn.tolist(), mfn.tolist(), strict=True):
        said = one.insert(guest, frame, size)
        if said.error:
            break
        done += 1
    memory, pool, tree = machine(geometry, 2000, left)
    got = tree.populate(gfn, mfn, order)
    assert (done, said.error, one_pool.left) == (got.done, got.error, pool.left)
    assert content(one_memory, geometry) == content(memory, geometry)


def test_lookup__reads_blocks_pages_and_holes():
    _, _, tree = machine(Geometry.named("arm64-pa2"))
    tree.insert(512, 1024, 512, Type.RAM_RO)
    tree.insert(2000, 77, 1, Type.GRANT_MAP_RW)
    tree.insert(1 << 18, 1 << 20, 1 << 18)
    got = tree.lookup(np.array([600, 2000, 2001, (1 << 18) + 5, 1 << 50] * 10, np.uint64))
    assert [1024 + 88, 77, 0, (1 << 20) + 5, 0] * 10 == got.mfn.tolist()
    assert [2, 8, 0, 1, 0] * 10 == got.type.tolist()


def test_tree__covers_the_whole_root_page_of_a_44_bit_guest():
    geometry = Geometry.named("arm64-pa4")
    _, _, tree = machine(geometry)
    inside, beyond = tree.set_one((1 << 36) - 1, 5), tree.set_one(1 << 36, 5)
    assert (1, 0, 0, EINVAL) == (inside.done, inside.error, beyond.done, beyond.error)


def test_touch__names_every_table_that_changes():
    geometry = Geometry.named("arm64-pa2")
    memory, pool, _ = machine(geometry)
    seen = set()
    tree = Stage2(memory, BASE, geometry, pool, lambda frames: seen.update(frames.tolist()))
    before = [words.copy() for _, words in memory.banks]
    tree.insert(0, 512, 1024)
    tree.set(np.arange(100, 5000, 7, dtype=np.uint64), np.arange(100, 5000, 7, dtype=np.uint64))
    tree.remove(900, 700)
    changed = {
        (base >> 12) + int(frame)
        for (base, words), old in zip(memory.banks, before, strict=True)
        for frame in np.flatnonzero((words != old).reshape(-1, 512).any(axis=1))
    }
    assert changed <= seen


def test_touch__names_a_table_whose_entries_alone_change():
    memory, pool, tree = machine(Geometry.named("arm64-pa2"))
    tree.set_one(7, 100)
    seen = []
    again = Stage2(memory, BASE, tree.geometry, pool, lambda frames: seen.extend(frames.tolist()))
    again.set(u64([9, 8]), u64([101, 102]))
    table = int(np.flatnonzero(memory.banks[0][1] == 100 << 12 | RAM)[0]) >> 9
    assert [(BASE >> 12) + table] == seen


def test_remove__numbers_what_it_displaces_by_pages():
    _, _, tree = machine(Geometry.named("arm64-pa2"))
    tree.insert(1024, 2048, 1024)
    tree.set(u64([1000, 1023]), u64([5, 6]))
    got = tree.remove(1000, 2048 - 1000).displaced
    assert ([0, 23, 24, 24 + 512], [3, 3, 2, 2]) == (got.item.tolist(), got.level.tolist())


def test_populate__numbers_what_it_displaces_by_extents():
    _, _, tree = machine(Geometry.named("arm64-pa2"))
    tree.set(u64([3, 35, 36]), u64([5, 6, 7]))
    got = tree.populate(u64([0, 16, 32]), u64([160, 176, 192]), 4).displaced
    assert [0, 2, 2] == got.item.tolist()


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree.set(u64([1]), u64([1, 2])),
        lambda tree: tree.set(np.zeros(1, np.int64), u64([1])),
        lambda tree: tree.set(u64([1]), u64([512]), 9),
        lambda tree: tree.set(u64([1]), u64([1]), 3),
        lambda tree: tree.set(u64([1]), u64([1 << 36])),
        lambda tree: tree.set(u64([1]), u64([1]), 0, 0),
        lambda tree: tree.set(u64([1]), u64([1]), 0, 12),
        lambda tree: tree.set_one(1, 1 << 36),
        lambda tree: tree.set_one(-1, 1),
        lambda tree: tree.clear_one(5, 9),
        lambda tree: tree.insert(0, 1 << 36, 1),
        lambda tree: tree.insert(0, 0, -1),
        lambda tree: tree.remove(-1, 1),
        lambda tree: tree.protect(u64([1]), 10),
        lambda tree: tree.populate(u64([1]), u64([1]), 19),
        lambda tree: tree.lookup([1]),
    ],
)
def test_changes__refuse_bad_arguments(change):
    _, _, tree = machine(Geometry.named("arm64-pa2"))
    with pytest.raises(RangeError):
        change(tree)


def test_tree__refuses_a_root_that_is_not_ram():
    memory, pool, _ = machine(Geometry.named("arm64-pa2"))
    with pytest.raises(RangeError, match="first table"):
        Stage2(memory, 0x1000, Geometry.named("arm64-pa2"), pool)


def test_tree__refuses_a_table_that_is_not_ram():
    memory, _, tree = machine(Geometry.named("arm64-pa2"))
    memory.banks[0][1][0] = 1 << 40 | RAM
    with pytest.raises(RangeError, match="not RAM"):
        tree.set(u64([1]), u64([1]))
