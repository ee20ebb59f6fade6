"""The vectorised walks against a slow, obvious walk, on every geometry and over malformed tables of every kind."""

import numpy as np
import pytest

from impl.fast import walks
from impl.fast.geometry import Geometry, GeometryError
from impl.fast.walks import Access, Banks, Fault, MalformedTree, Rule, WalkError

LOW, HIGH = 0x40000000, 0x200000000
PAGES = 24


# ---- a walk as Arm writes it: DDI 0487 J1.1.5 (AArch64.TranslationTableWalk), J1.2.4, stage 2, 4 KB ------------------


def slow_walk(words, root, geometry, ipa, access):
    """One address, one table at a time. words: address -> word for all RAM."""
    out = geometry.pa_bits
    startlevel = geometry.start_level
    if ipa >= 2**geometry.ipa_bits:
        return 0, Fault.TRANSLATION, (1 if geometry.arm32 else 0)
    startsize = geometry.ipa_bits - ((3 - startlevel) * 9 + 12)
    alignment = 2 ** (3 + startsize)
    base = (root % 2**48) // alignment * alignment
    if base // 2**out:
        return 0, Fault.ADDRESS_SIZE, 0
    level, top = startlevel, geometry.ipa_bits
    while True:
        bottom = (3 - level) * 9 + 12
        index = (ipa % 2**top) // 2**bottom
        descriptor = words.get(base + 8 * index)
        if descriptor is None:
            return 0, Fault.EXTERNAL_ABORT, level
        bits = descriptor % 4
        if bits in {0, 2} or (bits == 1 and level == 3):
            return 0, Fault.TRANSLATION, level
        address = descriptor % 2**48 // 2**12 * 2**12
        if bits == 1 or level == 3:
            break
        if address // 2**out:
            return 0, Fault.ADDRESS_SIZE, level
        base, top, level = address, bottom, level + 1
    if level == 0:
        return 0, Fault.TRANSLATION, 0
    if address // 2**out:
        return 0, Fault.ADDRESS_SIZE, level
    if not descriptor // 2**10 % 2:
        return 0, Fault.ACCESS_FLAG, level
    may_read, may_write = descriptor // 2**6 % 2, descriptor // 2**7 % 2
    may_execute = not descriptor // 2**54 % 2 and (may_read or not geometry.arm32)
    if not {Access.READ: may_read, Access.WRITE: may_write, Access.EXECUTE: may_execute}[access]:
        return 0, Fault.PERMISSION, level
    return address // 2**bottom * 2**bottom + ipa % 2**bottom, Fault.NONE, level


def slow_leaves(words, root, geometry):
    """(ipa, size, address, permission, type) of all leaves that the hardware follows, smallest address first."""
    found = []

    def enter(base, level, ipa, entries):
        size = 2 ** ((3 - level) * 9 + 12)
        for index in range(entries):
            descriptor = words.get(base + 8 * index)
            if descriptor is None or not descriptor % 2:
                continue
            address = descriptor % 2**48 // 2**12 * 2**12
            here = ipa + index * size
            if level < 3 and descriptor % 4 == 3:
                if address < 2**geometry.pa_bits:
                    enter(address, level + 1, here, 512)
            elif level > 0 and descriptor % 4 == (3 if level == 3 else 1):
                if address < 2**geometry.pa_bits and descriptor // 2**10 % 2:
                    permission = descriptor // 2**6 % 4 + (0 if descriptor // 2**54 % 2 else 4)
                    found.append((here, size, address // size * size, permission, descriptor // 2**55 % 16))

    enter(root, geometry.start_level, 0, geometry.root_entries)
    return found


def slow_merged(found):
    """The leaves joined while they continue one another."""
    joined: list[tuple] = []
    for ipa, size, address, permission, type in sorted(found):
        if joined:
            last = joined[-1]
            if (last[0] + last[1], last[2] + last[1], last[3], last[4]) == (ipa, address, permission, type):
                joined[-1] = (last[0], last[1] + size, *last[2:])
                continue
        joined.append((ipa, size, address, permission, type))
    return joined


# ---- memory to walk ------------------------------------------------------------------------------------------------


def memory_of(seed, malformed=True):
    """Two banks whose words are tables, leaves and rubbish; many tables point at each other, some outside RAM."""
    generator = np.random.default_rng(seed)
    count = 2 * PAGES * 512
    target = np.where(
        generator.random(count) < 0.5,
        LOW + generator.integers(0, PAGES, count) * 4096,
        HIGH + generator.integers(0, PAGES, count) * 4096,
    ).astype(np.uint64)
    anywhere = (generator.integers(0, 1 << 36, count).astype(np.uint64) << np.uint64(12))
    near = (generator.integers(0, 1 << 22, count).astype(np.uint64) << np.uint64(12))
    which = generator.random(count)
    low = generator.integers(0, 1 << 12, count).astype(np.uint64)
    high = generator.integers(0, 1 << 16, count).astype(np.uint64) << np.uint64(48)
    word = target | np.uint64(0x7FF)
    word = np.where(which < 0.45, near | np.uint64(0x7FD) ^ (low & np.uint64(0xC2)), word)
    if malformed:
        word = np.where(which < 0.25, anywhere | low, word)
    word |= np.where(generator.random(count) < 0.3, high, np.uint64(0))
    word = np.where(which > 0.97, np.uint64(0), word)
    half = count // 2
    return Banks([(LOW, word[:half].copy()), (HIGH, word[half:].copy())])


def words_of(banks):
    return {base + 8 * i: word for base, words in banks.banks for i, word in enumerate(words.tolist())}


def addresses_of(seed, geometry, count):
    """Addresses inside the input size, some beyond it, some at its edge."""
    generator = np.random.default_rng(seed)
    ipa = generator.integers(0, 1 << geometry.ipa_bits, count, dtype=np.uint64)
    beyond = generator.integers(0, 1 << 63, count, dtype=np.uint64) * np.uint64(2)
    ipa = np.where(generator.random(count) < 0.02, beyond, ipa)
    ipa[:3] = (0, (1 << geometry.ipa_bits) - 1, 1 << geometry.ipa_bits)
    return ipa


def results(memory, root, geometry, ipa, access):
    address, fault, level = walks.translate(memory, root, geometry, ipa, access)
    return list(zip(address.tolist(), fault.tolist(), level.tolist(), strict=True))


MALFORMED = memory_of(7)
MALFORMED_WORDS = words_of(MALFORMED)


@pytest.mark.parametrize("name", Geometry.all)
@pytest.mark.parametrize("access", list(Access))
def test_translate__agrees_with_the_slow_walk_on_malformed_tables(name, access):
    geometry = Geometry.named(name)
    ipa = addresses_of(len(name), geometry, 600)
    root = HIGH if geometry.ipa_bits % 2 else LOW
    expected = [slow_walk(MALFORMED_WORDS, root, geometry, each, access) for each in ipa.tolist()]
    assert expected == results(MALFORMED, root, geometry, ipa, access)


def dense_addresses(seed, geometry, count=900, regions=60):
    """Addresses within 60 neighbouring regions of 2 MB: the upper levels are walked once for all."""
    generator = np.random.default_rng(seed)
    span = min(1 << geometry.ipa_bits, regions << 21)
    first = int(generator.integers(0, (1 << geometry.ipa_bits) - span + 1)) >> 21 << 21
    return np.uint64(first) + generator.integers(0, span, count, dtype=np.uint64)


@pytest.mark.parametrize("name", Geometry.all)
@pytest.mark.parametrize("seed", range(4))
def test_translate__of_neighbouring_addresses_agrees_with_the_slow_walk(name, seed):
    geometry = Geometry.named(name)
    ipa = dense_addresses(seed, geometry)
    root = HIGH if seed % 2 else LOW
    access = list(Access)[seed % 3]
    expected = [slow_walk(MALFORMED_WORDS, root, geometry, each, access) for each in ipa.tolist()]
    assert expected == results(MALFORMED, root, geometry, ipa, access)


@pytest.mark.parametrize("pa_bits", [32, 36, 40])
@pytest.mark.parametrize("root", [LOW, HIGH, 1 << 47, 0x1000])
def test_translate__of_neighbouring_addresses_knows_the_output_size(pa_bits, root):
    geometry = Geometry(38, 1, pa_bits)
    for seed in range(5):
        ipa = dense_addresses(seed, geometry)
        expected = [slow_walk(MALFORMED_WORDS, root, geometry, each, Access.READ) for each in ipa.tolist()]
        assert expected == results(MALFORMED, root, geometry, ipa, Access.READ)


def test_translate__of_neighbouring_pages_walks_tables_of_two_banks():
    low, high = np.zeros(1024, np.uint64), np.full(512, 0x7000 | 0x7FF, np.uint64)
    low[:3] = (LOW + 4096) | 0x7FF, HIGH | 0x7FF, (LOW + 4096) | 0x7FF
    low[512:] = 0x5000 | 0x7FF
    memory = Banks([(LOW, low), (HIGH, high)])
    ipa = np.arange(0, 3 << 21, 4096, dtype=np.uint64)
    address, fault, _ = walks.translate(memory, LOW, Geometry(30, 2), ipa)
    assert ([0x5000, 0x7000, 0x5000], 0) == (address[::512].tolist(), fault.max())


@pytest.mark.parametrize("pa_bits", [32, 36, 40, 42, 44, 48])
def test_translate__finds_addresses_beyond_every_output_size(pa_bits):
    geometry = Geometry(39, 1, pa_bits)
    ipa = addresses_of(pa_bits, geometry, 3000)
    expected = [slow_walk(MALFORMED_WORDS, LOW, geometry, each, Access.READ) for each in ipa.tolist()]
    assert expected == results(MALFORMED, LOW, geometry, ipa, Access.READ)


@pytest.mark.parametrize("name", Geometry.all)
def test_translate__gives_few_addresses_what_it_gives_many(name):
    geometry = Geometry.named(name)
    ipa = addresses_of(3, geometry, 400)
    together = results(MALFORMED, LOW, geometry, ipa, Access.WRITE)
    apart = [results(MALFORMED, LOW, geometry, ipa[i : i + 16], Access.WRITE) for i in range(0, 400, 16)]
    assert together == [each for part in apart for each in part]


@pytest.mark.parametrize("seed", range(8))
def test_translate__meets_every_fault(seed):
    memory = memory_of(100 + seed)
    words = words_of(memory)
    geometry = Geometry.named("arm64-ipa48-l0")
    geometry = Geometry(geometry.ipa_bits, 0, 44)
    ipa = addresses_of(seed, geometry, 4000)
    expected = [slow_walk(words, LOW, geometry, each, Access.EXECUTE) for each in ipa.tolist()]
    assert set(Fault) == {each[1] for each in expected}
    assert expected == results(memory, LOW, geometry, ipa, Access.EXECUTE)


@pytest.mark.parametrize("root", [0x1000, LOW + PAGES * 4096, (1 << 47), (1 << 47) | LOW, LOW - 4096])
def test_translate__says_where_a_root_outside_ram_fails(root):
    geometry = Geometry(40, 1, 40)
    ipa = addresses_of(1, geometry, 200)
    expected = [slow_walk(MALFORMED_WORDS, root, geometry, each, Access.READ) for each in ipa.tolist()]
    assert expected == results(MALFORMED, root, geometry, ipa, Access.READ)


def test_translate__walks_a_root_that_fills_part_of_a_page():
    geometry = Geometry(32, 1, 40)
    ipa = addresses_of(2, geometry, 300)
    root = LOW + 4096 + 32 * 5
    expected = [slow_walk(MALFORMED_WORDS, root, geometry, each, Access.READ) for each in ipa.tolist()]
    assert expected == results(MALFORMED, root, geometry, ipa, Access.READ)


def test_translate__walks_more_than_one_chunk():
    geometry = Geometry.named("arm64-ipa42-l1")
    ipa = addresses_of(5, geometry, 2 * walks.CHUNK + 17)
    chosen = np.random.default_rng(5).integers(0, len(ipa), 3000)
    got = results(MALFORMED, LOW, geometry, ipa, Access.READ)
    expected = [slow_walk(MALFORMED_WORDS, LOW, geometry, int(ipa[i]), Access.READ) for i in chosen]
    assert expected == [got[i] for i in chosen]


def test_translate__ends_in_a_table_that_names_itself():
    words = np.full(512, LOW | 0x7FF, np.uint64)
    memory = Banks([(LOW, words)])
    geometry = Geometry(48, 0)
    ipa = np.arange(0, 1 << 48, 1 << 40, dtype=np.uint64)
    address, fault, level = walks.translate(memory, LOW, geometry, ipa)
    assert (LOW, 0, 3) == (*set(address.tolist()), *set(fault.tolist()), *set(level.tolist()))


def test_translate__of_nothing_is_nothing():
    assert [] == results(MALFORMED, LOW, Geometry(40, 1), np.empty(0, np.uint64), Access.READ)


@pytest.mark.parametrize("name", ["arm64-ipa40-l1", "arm64-ipa48-l0", "arm32-ipa40-l1", "arm64-ipa34-l2"])
def test_decode__of_descriptors_is_translate(name):
    geometry = Geometry.named(name)
    ipa = addresses_of(9, geometry, 5000)
    for access in Access:
        found, level = walks.descriptors(MALFORMED, LOW, geometry, ipa)
        decoded = walks.decode(found, level, ipa, geometry, access)
        direct = walks.translate(MALFORMED, LOW, geometry, ipa, access)
        assert all(np.array_equal(one, other) for one, other in zip(decoded, direct, strict=True))


def test_descriptors__of_few_are_those_of_many():
    geometry = Geometry(44, 0, 44)
    ipa = addresses_of(11, geometry, 512)
    many = walks.descriptors(MALFORMED, LOW, geometry, ipa)
    few = [walks.descriptors(MALFORMED, LOW, geometry, ipa[i : i + 8]) for i in range(0, 512, 8)]
    assert (many[0] == np.concatenate([each[0] for each in few])).all()
    assert (many[1] == np.concatenate([each[1] for each in few])).all()


def slow_lookup(words, root, geometry, ipa):
    """Xen's own walk: an entry counts when its type is not 0, and leads on when its table bit is set."""
    if ipa >= geometry.root_pages * 512 ** (4 - geometry.start_level) * 4096:
        return 0, (1 if geometry.arm32 else 0)
    base, level = root, geometry.start_level
    index = ipa // 2 ** (12 + 9 * (3 - level))
    while True:
        word = words.get(base + 8 * index)
        if word is None:
            return 0, ~level
        if level == 3 or not word // 2**55 % 16 or not word // 2 % 2:
            return word, level
        base, level = word % 2**48 // 4096 * 4096, level + 1
        index = ipa // 2 ** (12 + 9 * (3 - level)) % 512


@pytest.mark.parametrize("name", Geometry.all)
def test_descriptors__of_xen_agree_with_the_slow_lookup(name):
    geometry = Geometry.named(name)
    for ipa in (addresses_of(21, geometry, 600), dense_addresses(3, geometry)):
        found, level = walks.descriptors(MALFORMED, HIGH, geometry, ipa, Rule.XEN)
        expected = [slow_lookup(MALFORMED_WORDS, HIGH, geometry, each) for each in ipa.tolist()]
        assert expected == list(zip(found.tolist(), level.tolist(), strict=True))
        assert expected == [walks.last_descriptor(MALFORMED, HIGH, geometry, each, Rule.XEN) for each in ipa.tolist()]


def test_translate_one__is_translate_of_one():
    geometry = Geometry(40, 1, 40)
    ipa = addresses_of(13, geometry, 300)
    many = results(MALFORMED, LOW, geometry, ipa, Access.WRITE)
    assert many == [walks.translate_one(MALFORMED, LOW, geometry, each, Access.WRITE) for each in ipa.tolist()]


def test_status__gives_the_codes_of_arm():
    fault = np.array([0, 1, 1, 2, 3, 4, 4, 5], np.uint8)
    level = np.array([3, 0, 3, 2, 1, 0, 2, 3], np.int8)
    assert [0xFF, 4, 7, 0xA, 0xD, 0, 2, 0x17] == walks.status(fault, level).tolist()


def test_attributes__decode_what_xen_writes():
    # a page of ram_rw, and a read-only grant page that may not be executed, as facts lay them out
    ram = 0x7FF | 1 << 55
    grant = 0x77F | 1 << 54 | 9 << 55
    device = 1 | 2 | 1 << 2 | 3 << 6 | 2 << 8 | 1 << 10 | 1 << 54 | 3 << 55
    said = walks.attributes(np.array([ram, grant, device], np.uint64))
    assert [15, 15, 1] == said.memory.tolist()
    assert [3, 3, 2] == said.shareability.tolist()
    assert [7, 1, 3] == said.permission.tolist()
    assert [1, 9, 3] == said.type.tolist()
    assert [1, 1, 1] == said.valid.tolist() == said.accessed.tolist()


# ---- bad arguments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bank",
    [
        (LOW, np.zeros(512, np.int64)),
        (LOW, np.zeros(100, np.uint64)),
        (LOW + 8, np.zeros(512, np.uint64)),
        (LOW, np.zeros((2, 512), np.uint64)),
        (LOW, np.zeros(0, np.uint64)),
        (LOW, np.zeros(1024, np.uint64)[::2]),
    ],
)
def test_banks__refuse_what_is_no_bank(bank):
    with pytest.raises(WalkError, match="the bank at"):
        Banks([bank])


def test_banks__of_frames_are_those_of_addresses():
    words = np.arange(1024, dtype=np.uint64)
    memory = Banks.of_frames([(LOW >> 12, 2)], lambda first, count: words.reshape(-1, 512)[:count])
    assert (513, None) == (memory.word(LOW + 8 * 513), memory.word(LOW + 8192))


def test_banks__refuse_an_overlap():
    with pytest.raises(WalkError, match="overlaps"):
        Banks([(LOW, np.zeros(1024, np.uint64)), (LOW + 4096, np.zeros(512, np.uint64))])


@pytest.mark.parametrize("ipa", [np.zeros(4, np.int64), np.zeros((2, 2), np.uint64), [1, 2]])
def test_translate__refuses_what_are_no_addresses(ipa):
    with pytest.raises(WalkError, match="addresses"):
        walks.translate(MALFORMED, LOW, Geometry(40, 1), ipa)


def test_translate__refuses_an_unknown_access():
    with pytest.raises(WalkError, match="access"):
        walks.translate(MALFORMED, LOW, Geometry(40, 1), np.zeros(1, np.uint64), 7)


# ---- geometries ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", Geometry.all)
def test_of_vtcr__reads_back_every_geometry(name):
    geometry = Geometry.named(name)
    assert geometry == Geometry.of_vtcr(geometry.vtcr(), geometry.arm32)


@pytest.mark.parametrize("bits", range(32, 49))
def test_geometries__cover_every_input_size(bits):
    assert any(name.startswith(f"arm64-ipa{bits}-") for name in Geometry.all)


@pytest.mark.parametrize(
    ("pa_range", "bits", "level", "pages"),
    [(0, 32, 1, 1), (1, 36, 1, 1), (2, 40, 1, 2), (3, 42, 1, 8), (4, 44, 0, 1), (5, 48, 0, 1), (6, 48, 0, 1)],
)
def test_named__gives_the_roots_of_xen(pa_range, bits, level, pages):
    geometry = Geometry.named(f"arm64-pa{pa_range}")
    assert (bits, level, pages, bits) == (
        geometry.ipa_bits,
        geometry.start_level,
        geometry.root_pages,
        geometry.pa_bits,
    )


def test_named__gives_the_root_of_xen_on_arm32():
    geometry = Geometry.named("arm32")
    assert (40, 1, 2, 0x18) == (geometry.ipa_bits, geometry.start_level, geometry.root_pages, geometry.vtcr() & 0x1F)


def test_geometry__has_up_to_16_concatenated_tables():
    assert {1, 2, 4, 8, 16} == {Geometry.named(name).root_pages for name in Geometry.all}


@pytest.mark.parametrize(
    ("value", "arm32", "reason"),
    [
        (0x80023558 | 1 << 14, False, "granule"),
        (0x80023558 | 7 << 16, False, "PS 7"),
        (0x80023558 | 1 << 21, False, "hardware updates"),
        (0x80023558 | 1 << 32, False, "52-bit"),
        (0x80023558 | 3 << 6, False, "SL0 3"),
        (0x80023540 | 16, False, "concatenated"),
        (0x80023540 | 34, False, "less than 2 entries"),
        (0x80023540 | 50, False, "outside 25..48"),
        (0x80003548 | 1 << 64, False, "no register value"),
        (0x80003548, True, "sign"),
        (0x80003598, True, "SL0 2"),
        # an input of 25 bits starts at level 2 only
        (0x80003547, True, "less than 2 entries"),
    ],
)
def test_of_vtcr__refuses_with_a_reason(value, arm32, reason):
    with pytest.raises(GeometryError, match=reason):
        Geometry.of_vtcr(value, arm32)


def test_of_vtcr__refuses_an_input_larger_than_the_cpu():
    with pytest.raises(GeometryError, match="larger than"):
        Geometry.of_vtcr(Geometry(42, 1).vtcr(), pa_max=40)


def test_of_vtcr__refuses_level_0_on_a_small_cpu():
    with pytest.raises(GeometryError, match="cannot start at level 0"):
        Geometry.of_vtcr(Geometry(40, 0).vtcr(), pa_max=42)


def test_root_of__leaves_out_the_vmid_and_the_low_bits():
    assert 0x4000_0000 == Geometry.named("arm32").root_of(5 << 48 | 0x4000_1001)


# ---- whole trees --------------------------------------------------------------------------------------------------


def small_memory(seed, share=0.06):
    """A bank of tables with few table entries, so that even a cyclic tree can be entered again and again."""
    generator = np.random.default_rng(seed)
    count = 16 * 512
    word = np.zeros(count, np.uint64)
    run = LOW + np.arange(count, dtype=np.uint64) * np.uint64(4096)
    which = generator.random(count)
    # runs of pages that continue each other over several entries
    word = np.where(which < 0.6, (np.uint64(1 << 34) + run) | np.uint64(0x7FF), word)
    blocks = generator.integers(0, 64, count).astype(np.uint64) << np.uint64(21)
    word = np.where((which >= 0.6) & (which < 0.7), blocks | np.uint64(0x7FD), word)
    at = np.flatnonzero(generator.random(count) < share)
    word[at] = (LOW + generator.integers(0, 18, len(at)) * 4096).astype(np.uint64) | np.uint64(0x7FF)
    kinds = generator.integers(0, 4, count).astype(np.uint64) << np.uint64(55)
    word |= np.where(generator.random(count) < 0.1, kinds | np.uint64(1 << 54), np.uint64(1 << 55))
    word &= ~np.where(generator.random(count) < 0.05, np.uint64(1 << 10), np.uint64(0))
    # level-1 and level-2 tables hold few tables: pages of the run are far outside RAM there
    return Banks([(LOW, word)])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["arm64-ipa40-l1", "arm32-ipa40-l1", "arm64-ipa34-l2", "arm64-ipa32-l1"])
def test_merged__is_every_leaf_of_a_malformed_tree(seed, name):
    memory = small_memory(seed, 0.01)
    geometry = Geometry.named(name)
    tree = walks.leaves(memory, LOW, geometry, expand=True)
    expected = slow_merged(slow_leaves(words_of(memory), LOW, geometry))
    got = walks.merged(tree)
    columns = (got.ipa, got.size, got.address, got.permission, got.type)
    assert expected == list(zip(*(each.tolist() for each in columns), strict=True))


@pytest.mark.parametrize("pa_bits", [32, 36, 48])
def test_leaves__leave_out_what_is_beyond_the_output_size(pa_bits):
    memory = small_memory(3, 0.01)
    geometry = Geometry(34, 2, pa_bits)
    got = walks.merged(walks.leaves(memory, LOW, geometry, expand=True))
    expected = slow_merged(slow_leaves(words_of(memory), LOW, geometry))
    assert expected == list(zip(*(each.tolist() for each in (got.ipa, got.size, got.address, got.permission, got.type)),
                                strict=True))


def test_merged__joins_a_block_and_the_pages_that_continue_it():
    words = np.zeros(3 * 512, np.uint64)
    block, page = 0x7FD | 1 << 55, 0x7FF | 1 << 55
    words[0] = (LOW + 4096) | page
    words[512 + 0] = 0x8000_0000 | block
    words[512 + 1] = (LOW + 8192) | page
    words[1024:] = (np.arange(512, dtype=np.uint64) << np.uint64(12)) + np.uint64(0x8020_0000 | page)
    got = walks.merged(walks.leaves(Banks([(LOW, words)]), LOW, Geometry(39, 1)))
    assert ([0], [0x40_0000], [0x8000_0000]) == (got.ipa.tolist(), got.size.tolist(), got.address.tolist())


def test_merged__ends_a_run_at_the_output_size():
    words = np.zeros(2 * 512, np.uint64)
    words[0] = (LOW + 4096) | 0x7FF
    words[512:] = np.uint64((1 << 36) - 8192 | 0x7FF) + (np.arange(512, dtype=np.uint64) << np.uint64(12))
    got = walks.merged(walks.leaves(Banks([(LOW, words)]), LOW, Geometry(30, 2, 36)))
    assert ([(1 << 36) - 8192], [8192]) == (got.address.tolist(), got.size.tolist())


def test_merged__does_not_join_over_the_end_of_the_address_space():
    words = np.zeros(2 * 512, np.uint64)
    words[0] = (LOW + 4096) | 0x7FF
    words[512] = (0xFFFF_FFFF_F000) | 0x7FF
    # the next descriptor in numbers: address 0 and bit 48
    words[513] = int(words[512]) + 0x1000
    got = walks.merged(walks.leaves(Banks([(LOW, words)]), LOW, Geometry(30, 2)))
    assert [0xFFFF_FFFF_F000, 0] == got.address.tolist()


def test_leaves__note_where_a_table_repeats():
    words = np.zeros(2 * 512, np.uint64)
    words[[3, 5]] = (LOW + 4096) | 0x7FF
    tree = walks.leaves(Banks([(LOW, words)]), LOW, Geometry(30, 2))
    assert [5 << 21] == tree.repeated[0].base.tolist()


def test_leaves__of_a_root_beyond_the_output_size_are_none():
    words = np.full(512, (LOW + 4096) | 0x7FF, np.uint64)
    tree = walks.leaves(Banks([(1 << 36, words)]), 1 << 36, Geometry(30, 2, 36))
    assert (0, 1) == (tree.tables, len(tree.outside))


def test_leaves__note_tables_of_ram_beyond_the_output_size():
    low, high = np.zeros(512, np.uint64), np.full(512, 0x7FF, np.uint64)
    low[3] = 1 << 36 | 0x7FF
    tree = walks.leaves(Banks([(LOW, low), (1 << 36, high)]), LOW, Geometry(30, 2, 36))
    assert (1, [3 << 21]) == (tree.tables, tree.outside[0].base.tolist())


def test_leaves__note_tables_outside_ram():
    words = np.zeros(512, np.uint64)
    words[3] = 0x7FF | 1 << 36
    tree = walks.leaves(Banks([(LOW, words)]), LOW, Geometry(30, 2))
    assert ([1 << 36], [3 << 21]) == (tree.outside[0].address.tolist(), tree.outside[0].base.tolist())


def test_leaves__end_in_a_cycle():
    words = np.full(512, LOW | 0x7FF, np.uint64)
    tree = walks.leaves(Banks([(LOW, words)]), LOW, Geometry(48, 0))
    assert (4, [0, 1, 2, 3]) == (tree.tables, [each.level for each in tree.levels])


def test_leaves__give_up_an_expanded_cycle():
    words = np.full(512, LOW | 0x7FF, np.uint64)
    with pytest.raises(MalformedTree, match="more than 1000 tables"):
        walks.leaves(Banks([(LOW, words)]), LOW, Geometry(48, 0), expand=True, most=1000)


def test_merged__refuses_a_tree_that_repeats():
    words = np.full(512, LOW | 0x7FF, np.uint64)
    with pytest.raises(MalformedTree, match="repeat"):
        walks.merged(walks.leaves(Banks([(LOW, words)]), LOW, Geometry(48, 0)))


def test_matrix__is_the_tables_as_they_stand_in_memory():
    words = np.zeros(4 * 512, np.uint64)
    words[[3, 5]] = (LOW + 3 * 4096) | 0x7FF, (LOW + 4096) | 0x7FF
    words[512:] = np.arange(3 * 512)
    base, matrix = walks.leaves(Banks([(LOW, words)]), LOW, Geometry(30, 2)).matrix(3)
    assert [3 << 21, 5 << 21] == base.tolist()
    assert (matrix == words.reshape(-1, 512)[[3, 1]]).all()


def test_leaves__read_tables_of_two_banks():
    low, high = np.zeros(512, np.uint64), np.zeros(1024, np.uint64)
    low[:2] = HIGH | 0x7FF, (HIGH + 4096) | 0x7FF
    high[[0, 512]] = 0x1000 | 0x7FF, 0x5000 | 0x7FF
    got = walks.merged(walks.leaves(Banks([(LOW, low), (HIGH, high)]), LOW, Geometry(30, 2)))
    assert [(0, 0x1000), (1 << 21, 0x5000)] == list(zip(got.ipa.tolist(), got.address.tolist(), strict=True))


def test_leaves__of_xen_count_what_the_valid_bit_hides():
    words = np.zeros(1024, np.uint64)
    words[0] = (LOW + 4096) | 0x7FE | 1 << 55
    words[512] = 0x8000_0000 | 0x7FE | 1 << 55
    memory = Banks([(LOW, words)])
    hardware = walks.merged(walks.leaves(memory, LOW, Geometry(30, 2)))
    xen = walks.merged(walks.leaves(memory, LOW, Geometry(30, 2), Rule.XEN))
    assert (0, [0x8000_0000]) == (len(hardware), xen.address.tolist())


# ---- owners -------------------------------------------------------------------------------------------------------


def slow_owners(words, trees, types):
    """Which VMs reach each frame."""
    reached: dict[int, list[int]] = {}
    for number, (root, geometry) in enumerate(trees):
        for _, size, address, _, type in slow_leaves(words, root, geometry):
            if types is None or types >> type & 1:
                for frame in range(address >> 12, (address + size) >> 12):
                    reached.setdefault(frame, []).append(number)
    return {frame: list(dict.fromkeys(found)) for frame, found in reached.items()}


def owner_memory(seed):
    """Roots of level 2 with level-3 tables of their own, whose leaves fall upon a few thousand frames."""
    generator = np.random.default_rng(seed)
    frames = generator.integers(0, 6000, (40, 512)).astype(np.uint64) << np.uint64(12)
    kinds = generator.integers(1, 4, (40, 512)).astype(np.uint64) << np.uint64(55)
    word = np.uint64(LOW) + frames | np.uint64(0x7FF) | kinds
    word[:8] = 0
    word[8:][generator.random((32, 512)) < 0.97] = 0
    for vm in range(8):
        word[vm, :4] = LOW + (8 + 4 * vm + np.arange(4)) * 4096 | 0x7FF
        word[vm, 9] = LOW + (int(generator.integers(0, 8)) << 21) | 0x7FD | 1 << 55
    # outside RAM: two VMs and the same device
    word[2, 11] = word[5, 12] = 1 << 37 | 0x7FD | 3 << 55
    word[8 + 4 * 3, 7] = 1 << 37 | 0x5000 | 0x7FF | 3 << 55
    words = np.zeros(8192 * 512, np.uint64)
    words[: 40 * 512] = word.reshape(-1)
    return Banks([(LOW, words[: 3000 * 512]), (LOW + 3000 * 4096, words[3000 * 512 :])])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("types", [None, 0b10, 0b1010])
def test_owners__find_every_frame_that_two_reach(seed, types):
    memory = owner_memory(seed)
    words = {base + 8 * int(i): int(each[i]) for base, each in memory.banks for i in range(40 * 512) if i < len(each)}
    geometry = Geometry(30, 2)
    trees = [(LOW + 4096 * vm, geometry) for vm in range(8)]
    expected = slow_owners(words, trees, types)
    got = walks.owners(memory, trees, types=types)
    pairs = sorted((frame, found[0], other) for frame, found in expected.items() for other in found[1:])
    assert pairs == list(zip(got.frame.tolist(), got.first.tolist(), got.second.tolist(), strict=True))


def test_owners__know_who_came_first():
    memory = owner_memory(1)
    words = {base + 8 * i: int(each[i]) for base, each in memory.banks[:1] for i in range(40 * 512)}
    geometry = Geometry(30, 2)
    trees = [(LOW + 4096 * vm, geometry) for vm in range(8)]
    expected = slow_owners(words, trees, None)
    got = walks.owners(memory, trees)
    frames = range(LOW >> 12, (LOW >> 12) + 8192)
    assert [expected.get(frame, [None])[0] for frame in frames] == [got.of(frame) for frame in frames]


def test_owners__count_more_vms_than_a_byte():
    words = np.zeros(301 * 512, np.uint64)
    words[: 300 * 512 : 512] = 0x7FF | LOW + 300 * 4096
    words[300 * 512] = LOW | 0x7FF
    trees = [(LOW + 4096 * vm, Geometry(30, 2)) for vm in range(300)]
    got = walks.owners(Banks([(LOW, words)]), trees)
    assert list(range(1, 300)) == got.second.tolist()


def test_owners__refuse_a_frame_that_is_not_ram():
    with pytest.raises(WalkError, match="not RAM"):
        walks.owners(owner_memory(0), []).of(5)
