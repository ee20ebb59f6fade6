"""The walks of the specification and of ``impl.fast`` agree on tables of every kind; a flaw in either is found."""

import inspect
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from bulkhead.fuzz.executors import SerialExecutor, executor
from bulkhead.fuzz.walks import __main__ as front
from bulkhead.fuzz.walks import campaign, tables
from bulkhead.fuzz.walks.campaign import run
from bulkhead.fuzz.walks.compare import (
    FAULTS,
    OUTSIDE,
    Tally,
    by_specification,
    compare,
    expect,
    fast_geometry,
    spec_geometry,
)
from bulkhead.fuzz.walks.report import document, story
from bulkhead.fuzz.walks.shrink import entries_of, shrunk
from bulkhead.fuzz.walks.tables import ENTRIES, STYLES, Case, Shape, Tables, kind_of, make, shapes
from impl.fast import walks
from spec.memory import walk
from spec.memory.geometry import every_geometry
from spec.memory.walk import Fault, Kind

VECTORS = Path(__file__).resolve().parent.parent / "vectors"
SEED = 3
FEW = 160
"""Addresses for each of the tables here."""
SHAPES = len(shapes())

TRANSLATION, ADDRESS_SIZE, ACCESS_FLAG, PERMISSION, EXTERNAL = (
    FAULTS.index(each) for each in ("translation", "address size", "access flag", "permission", "external abort"))


def small(words, *, shape=None, addresses=(0,), root=0x40000, pages=4):
    """A case with few words, by (page, index), in one bank of RAM."""
    shape = shape or Shape(False, 40, 1, 40)
    bank = np.zeros((pages, ENTRIES), np.uint64)
    for (page, index), word in words.items():
        bank[page, index] = word
    made = Tables(shape.arm32, shape.vtcr, root << 12, ((0x40000, bank),))
    return Case(made, np.array(addresses, np.uint64), ((0, len(addresses)),))


# ---- they agree


@pytest.fixture(scope="module")
def cases():
    """Tables of every shape, and what the specification says of them."""
    made = [make(SEED, number, FEW) for number in range(SHAPES)]
    return [(case, expect(case)) for case in made]


def first_difference(cases, tally, module=walks):
    for number, (case, expected) in enumerate(cases):
        if found := compare(case, tally, module, expected=expected, chunks=number % 40 == 0):
            return found
    return None


def test_walks__agree_on_tables_of_every_shape_and_style(cases):
    tally = Tally()
    found = first_difference(cases, tally)
    assert found is None, story(shrunk(found))
    assert (SHAPES, set(STYLES)) == (tally.tables, {kind_of(number)[1] for number in range(SHAPES)})
    assert tally.addresses >= SHAPES * FEW
    # every way in which a walk can end was met
    levels = {0: (1, 2, 3), TRANSLATION: range(4), ADDRESS_SIZE: range(4), ACCESS_FLAG: (1, 2, 3),
              PERMISSION: (1, 2, 3), EXTERNAL: range(4)}
    ends = {(kind, fault, level) for kind in Kind for fault, each in levels.items() for level in each}
    assert ends == set(tally.ends)


@pytest.mark.parametrize("file", sorted(VECTORS.glob("*.npz")), ids=lambda file: file.stem)
def test_walks__agree_on_the_tables_of_a_real_machine(file):
    for made, addresses in tables.real(file):
        chosen = addresses[::max(1, len(addresses) // 2500)]
        tally = Tally()
        found = compare(Case(made, chosen, ((0, len(chosen)),)), tally)
        assert found is None, story(shrunk(found))
        assert tally.ends[Kind.READ, 0, 3] + tally.ends[Kind.READ, TRANSLATION, 3] > 0


def test_walks__go_to_both_ends_of_every_mapping_of_a_real_machine():
    file = VECTORS / "xen-4.17.5-arm32-vexpress-a15.npz"
    for made, addresses in tables.real(file):
        rows = made.rows()

        def words(table, index, rows=rows):
            return rows[table][index]

        leaves = walk.leaves(words, made.vttbr >> 12 & (1 << 36) - 1, spec_geometry(made))
        ends = {edge for leaf in leaves for edge in (leaf.gfn << 12, (leaf.gfn + leaf.pages << 12) - 1)}
        assert ends
        assert ends <= set(addresses.tolist())


def test_shapes__are_read_alike_from_their_registers():
    for shape in shapes():
        made = small({}, shape=shape).tables
        mine, theirs = spec_geometry(made), fast_geometry(made)
        assert (shape.ipa_bits, shape.start_level, shape.output_bits, shape.root_pages) == (
            mine.ipa_bits, mine.start_level, mine.output_bits, mine.root_pages)
        assert (shape.ipa_bits, shape.start_level, shape.output_bits, shape.root_pages) == (
            theirs.ipa_bits, theirs.start_level, theirs.pa_bits, theirs.root_pages)


def test_shapes__are_all_that_the_architecture_allows():
    every = {(each.ipa_bits, each.start_level) for each in shapes() if not each.arm32}
    assert {(each.ipa_bits, each.start_level) for each in every_geometry()} == every
    assert {(bits, level) for bits, level in every if bits <= 40 and level} == {
        (each.ipa_bits, each.start_level) for each in shapes() if each.arm32}


def test_cases__see_every_pair_of_shape_and_style_in_turn():
    assert SHAPES * len(STYLES) == len({kind_of(number) for number in range(SHAPES * len(STYLES))})


def test_cases__are_the_same_for_the_same_seed_only():
    one, same, other = make(1, 5, FEW), make(1, 5, FEW), make(2, 5, FEW)
    assert entries_of(one.tables) == entries_of(same.tables)
    assert one.addresses.tolist() == same.addresses.tolist()
    assert entries_of(one.tables) != entries_of(other.tables)


# ---- what they agree on


def test_walks__of_a_table_that_leads_to_itself_end():
    to_itself = 0x40000 << 12 | 0x7FF
    ends = by_specification(small({(0, 0): to_itself}).tables, [0], Kind.READ)
    assert (0x40000 << 12, 0, 3) == ends.at(0)
    assert compare(small({(0, 0): to_itself}, addresses=range(0, 1 << 40, 1 << 33)), Tally()) is None


def test_walks__of_a_table_that_is_not_ram_are_external_aborts_of_its_level():
    outside = 0x50000 << 12 | 0x7FF
    assert (0, OUTSIDE, 2) == by_specification(small({(0, 0): outside}).tables, [0], Kind.READ).at(0)
    assert (0, OUTSIDE, 1) == by_specification(small({}, root=0x50000).tables, [0], Kind.READ).at(0)
    assert compare(small({(0, 0): outside}, addresses=range(40)), Tally()) is None


def test_walks__agree_where_nothing_may_be_read_but_executed():
    assert compare(small({(0, 0): 0x40000481}), Tally()) is None


def test_walks__agree_on_a_root_beyond_the_output_size():
    assert compare(small({}, shape=Shape(True, 33, 1, 40), root=1 << 28), Tally()) is None


# ---- a flaw is found


FLAWS = {
    # the arrays
    "addresses beyond the input size: off by one": (
        "if int(ipa.max()) >= self.reach:", "if int(ipa.max()) > self.reach:"),
    "addresses beyond the input size: not kept apart": (
        "where = np.flatnonzero(ipa < self.reach)", "where = np.flatnonzero(ipa <= self.reach)"),
    "the level of an address beyond": ("level.fill(_outer(geometry))", "level.fill(0)"),
    "the level of an external abort": ("np.where(external, ~level, level)", "np.where(external, ~level & 2, level)"),
    "a table beyond the output size is followed": (
        "found: Flags = (word & np.uint64(3 | self.high)) == 3", "found: Flags = (word & np.uint64(3)) == 3"),
    "a table beyond the output size is followed when all are tables": (
        "return not self.high or not int(np.bitwise_or.reduce(word)) & self.high", "return True"),
    "one table for all": ("if int(np.bitwise_and.reduce(word))", "if int(np.bitwise_or.reduce(word))"),
    "blocks are not aligned": ("address &= ADDRESS & ~inside", "address &= ADDRESS"),
    "blocks at level 0": ("odd |= level <= 0", "odd |= level < 0"),
    "reserved words of level 3": ("reserved = ~valid | (last & ~table)", "reserved = ~valid | (last & ~last)"),
    "a reserved word before the external abort": ("[external, reserved, beyond, unaccessed]",
                                                  "[external & valid, reserved, beyond, unaccessed]"),
    "address size does not count without access flag": ("[external, reserved, beyond, unaccessed]",
                                                        "[external, reserved, beyond & ~unaccessed, unaccessed]"),
    "no access flag is no matter": (
        "test = np.uint64(3 | ACCESSED | ones | zeros | high)", "test = np.uint64(3 | ones | zeros | high)"),
    "permissions of a block are ignored": (
        "odd |= level <= 0",
        ("form = (address ^ (wanted | _LEAF.take(at))) & np.uint64(3 | ACCESSED | high)\n"
        "        odd &= (at == 3) | (form != 0)\n        odd |= level <= 0")),
    "output size of a leaf": ("test = np.uint64(3 | ACCESSED | ones | zeros | high)",
                              "test = np.uint64(3 | ACCESSED | ones | zeros)"),
    "the index of level 2 has eight bits": ("spare &= ENTRIES - 1", "spare &= ENTRIES - 1 - 256 * (at == 2)"),
    "tables outside RAM read as zero": ("return outside if outside.any() else None", "return None"),
    "the second bank is forgotten": (
        "for part in self._parts:\n            np.subtract(index, part.first, out=scratch)\n            inside",
        "for part in self._parts[:1]:\n            np.subtract(index, part.first, out=scratch)\n            inside"),
    "concatenated roots are not aligned": (
        "self.root = root & _ROOT & -(1 << geometry", "self.root = root & _ROOT & -(2 << geometry"),
    "a directory begins at its first address": ("if first:\n            region -= first", "pass"),
    "a directory with the wrong level": ("level[go_on] = LAST_LEVEL", "level[go_on] = LAST_LEVEL - 1"),
    "a directory forgets tables outside RAM": ("go_on &= ~gone", "go_on |= gone"),
    "a chunk is forgotten": (
        "uniform = walker.walk(ipa[part], address[part], level[part])",
        "uniform = walker.walk(ipa[:CHUNK] if len(ipa[part]) == CHUNK else ipa[part], address[part], level[part])"),
    # one by one
    "one by one: address beyond": ("if ipa >= reach:", "if ipa > reach:"),
    "one by one: root beyond the output size": ("if table & high:", "if False:"),
    "one by one: level of an external abort": ("return 0, ~level\n", "return 0, ~3\n"),
    "one by one: table beyond": ("if level == 3 or word & high:", "if level == 3:"),
    "one by one: block at level 0": (
        "if level == 0 or (level == LAST_LEVEL and not descriptor & TABLE):",
        "if level == LAST_LEVEL and not descriptor & TABLE:"),
    "one by one: bits that must be clear": ("!= ones or descriptor & zeros:", "!= ones:"),
    "one by one: alignment": ("return descriptor & ADDRESS & ~inside | ipa & inside, 0, level",
                              "return descriptor & ADDRESS | ipa & inside, 0, level"),
    # both
    "writing needs no permission": ("return WRITE, 0", "return 0, 0"),
    "execution on arm32 without reading": ("return (READ if geometry.arm32 else 0),", "return 0,"),
    "execute-never is ignored": ("else 0), NO_EXECUTE", "else 0), 0"),
    "a reach that is twice as far": ("else 1 << geometry.ipa_bits", "else 2 << geometry.ipa_bits"),
    "the hardware goes by Xen's bits": ("else word & 3 != 3:", "else word & 2 == 0:"),
    "Xen goes by the valid bit": ("if not (word & 2 and word & TYPE) if xen", "if not (word & 3 == 3) if xen"),
    "Xen goes by the valid bit, in arrays": (
        "live: Flags = (word & np.uint64(TYPE)) != 0\n    live &= (word & np.uint64(TABLE)) != 0",
        "live: Flags = (word & np.uint64(VALID)) != 0\n    live &= (word & np.uint64(TABLE)) != 0"),
}


@pytest.fixture
def flawed(monkeypatch):
    """A copy of ``impl.fast.walks`` with one text replaced."""

    def make_module(old, new):
        source = inspect.getsource(walks)
        assert source.count(old) >= 1, old
        module = types.ModuleType("walks_with_a_flaw")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(source.replace(old, new), module.__name__, "exec"), module.__dict__)
        return module

    return make_module


@pytest.mark.parametrize("flaw", FLAWS)
def test_comparison__finds(flaw, flawed, cases):
    assert first_difference(cases, Tally(), flawed(*FLAWS[flaw])) is not None


def test_comparison__finds_a_flaw_of_the_specification(monkeypatch):
    monkeypatch.setattr(walk, "leaf_fault", lambda entry, frame, output_frames: Fault.NONE)
    found = next(filter(None, (compare(make(SEED, number, FEW), Tally()) for number in range(SHAPES))))
    assert {Fault.ADDRESS_SIZE, Fault.ACCESS_FLAG} >= {found.actual[1]}


# ---- and made small


@pytest.mark.parametrize(("flaw", "most"), [
    ("blocks are not aligned", 3), ("writing needs no permission", 4), ("one by one: level of an external abort", 2),
    ("a directory with the wrong level", 3), ("the level of an address beyond", 0), ("Xen goes by the valid bit", 2),
    ("blocks at level 0", 1), ("the second bank is forgotten", 4),
])
def test_difference__is_shrunk_to_few_entries(flaw, most, flawed, cases):
    module = flawed(*FLAWS[flaw])
    found = first_difference(cases, Tally(), module)
    made = shrunk(found, module)
    assert found.signature == made.signature
    assert len(entries_of(made.tables)) <= most
    assert len(made.addresses) <= 2
    assert len(made.tables.banks) <= 2


def test_difference__is_told_in_words(flawed, cases):
    module = flawed(*FLAWS["address size does not count without access flag"])
    told = story(shrunk(first_difference(cases, Tally(), module), module))
    assert "specification:        address size fault at level" in told
    assert "access flag fault at level" in told
    assert "entry " in told


# ---- runs


def facts(state):
    return state.total, state.real, state.difference, state.complete


def test_run__gives_the_same_on_two_processes():
    with executor(2) as pool:
        two = run(5, 5000, pool, count=100)
    assert facts(run(5, 5000, SerialExecutor(), count=100)) == facts(two)


def test_run__compares_at_least_what_was_asked_and_tells_it(cases):
    state = run(5, 6000, SerialExecutor(), vectors=VECTORS, count=100)
    made = document(state)
    assert made["addresses"] >= 6000
    assert made["walks"] == 3 * made["addresses"] == sum(each["times"] for each in made["ends"])
    assert made["complete"]
    assert made["difference"] is None
    assert made["real"]["tables"] == 1


def test_run__that_is_interrupted_keeps_what_it_knows():
    def interrupt(state):
        raise KeyboardInterrupt

    state = run(5, 100_000, SerialExecutor(), count=100, show=interrupt, ahead=1)
    assert not state.complete
    assert state.total.addresses > 0


def test_run__stops_at_the_first_difference(flawed, monkeypatch):
    module = flawed(*FLAWS["writing needs no permission"])
    state = run(5, 10**9, SerialExecutor(), module=module, count=100, ahead=1)
    assert state.difference
    assert state.difference.access == "write"
    assert not state.complete


# ---- the command


@pytest.fixture
def small_run(monkeypatch, tmp_path):
    monkeypatch.setattr(front, "BUILD", tmp_path)
    monkeypatch.setattr(campaign, "TABLE_ADDRESSES", 100)
    return tmp_path / "walks.json"


def test_command__exits_with_0_and_keeps_the_figures(small_run, capsys):
    assert front.command(["--addresses", "1", "--seed", "2", "--vectors", str(VECTORS), "--processes", "1"]) == 0
    assert json.loads(small_run.read_text())["difference"] is None
    assert "geometries" in capsys.readouterr().out


def test_command__exits_with_1_and_shows_a_difference(small_run, capsys, flawed, monkeypatch):
    monkeypatch.setattr(campaign, "fast", flawed(*FLAWS["writing needs no permission"]))
    assert front.command(["--addresses", "100000", "--seed", "2", "--vectors", str(VECTORS), "--processes", "1"]) == 1
    assert json.loads(small_run.read_text())["difference"]["access"] == "write"
    assert "the walks differ" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--addresses", "0"], ["--vectors", "nowhere"], ["--seed", "-1"], ["--nothing"]])
def test_command__refuses_bad_input_in_one_line(arguments, capsys):
    assert front.command(arguments) == 2
    assert 1 == len(capsys.readouterr().err.splitlines())
