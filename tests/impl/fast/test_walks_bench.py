"""The benchmarks: what they compare agrees, and what they write can be read."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from impl.fast import walks
from impl.fast.bench import cases, plot, trees
from impl.fast.bench.__main__ import judged, measure, result_of
from impl.fast.bench.cases import Case, Contender, Fleet, Target
from impl.fast.bench.native import Native


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    found = Native.load(tmp_path_factory.mktemp("native"))
    if found is None:
        pytest.skip("no C compiler")
    return found


def small_mixed():
    generator = np.random.default_rng(5)
    pool = trees.Pool.of(cases.TABLES_AT, 2000, generator)
    return pool, trees.mixed(pool, cases.GEOMETRY, generator), generator


@pytest.mark.parametrize("interleaved", [False, True])
def test_c_walks__are_the_walks_of_the_arrays(native, interleaved):
    pool, tree, generator = small_mixed()
    ipa = generator.integers(0, 1 << 40, 5000, dtype=np.uint64)
    found, level = walks.descriptors(trees.banks(pool), tree.root, tree.geometry, ipa)
    theirs = native.walk(pool, tree, ipa, interleaved)
    assert (found == theirs[0]).all() and (level == theirs[1]).all()


def test_fleet__has_a_leaf_for_each_entry():
    fleet = Fleet.of(20_000, scattered=True, generator=np.random.default_rng(6))
    root, geometry = fleet.roots[0]
    merged = walks.merged(walks.leaves(fleet.memory, root, geometry))
    assert fleet.frames * 4096 == int(merged.size.sum())


def test_c_audit__finds_what_two_guests_share(native):
    fleet = Fleet.of(4096, scattered=False, generator=np.random.default_rng(7))
    twice = native.audit(fleet.pool, [fleet.pages[0], fleet.pages[0]], cases.RAM_AT >> 12, fleet.frames)
    owners = walks.owners(fleet.memory, [fleet.roots[0], fleet.roots[0]])
    assert len(owners.frame) == twice == fleet.frames


def test_range_case__agrees_and_can_be_timed():
    case = cases.range_case(None, quick=True)
    assert set(case.contenders) == set(measure(case, 1))


def test_judged__compares_in_the_same_round():
    took = {"a": [2.0, 30.0], "b": [1.0, 10.0]}
    said = judged(took, Target("a", "b", 2.5))
    assert (2.5, 2.0, True) == (said["value"], said["of_minima"], said["met"])


def test_judged__says_what_was_not_measured():
    assert judged({"a": [1.0]}, Target("a", "limit B", 2))["met"] is None


def test_plot__is_well_formed():
    contenders = {"owner audit": Contender(lambda: None, 1), "read limit": Contender(lambda: None, 1)}
    case = Case("growth", "entry", 4096, contenders, "read limit")
    curve = [
        result_of(case, {"owner audit": [5.0], "read limit": [0.9]}) | {"entries": entries}
        for entries in (10**4, 10**6, 10**8)
    ]
    assert "svg" in ET.fromstring(plot.growth(curve)).tag
