"""Shapes of stage-2 tables."""

from __future__ import annotations

import pytest

from spec.language.values import SpecificationError
from spec.memory.geometry import (
    ARM32,
    Geometry,
    allowed,
    check,
    every_geometry,
    frames_below,
    index,
    of_pa_range,
    of_vtcr,
    root_page,
)


@pytest.mark.parametrize(("pa_range", "bits", "level", "pages"), [
    (0, 32, 1, 1), (1, 36, 1, 1), (2, 40, 1, 2), (3, 42, 1, 8), (4, 44, 0, 1), (5, 48, 0, 1), (6, 48, 0, 1),
])
def test_of_pa_range__is_what_xen_chooses(pa_range, bits, level, pages):
    shape = of_pa_range(pa_range)
    assert (bits, level, pages) == (shape.ipa_bits, shape.start_level, shape.root_pages)


@pytest.mark.parametrize(("vtcr", "arm32", "expected"), [
    # what a running Xen 4.17.5 used: QEMU's virt machine, and a Cortex-A15
    (0x8004_3594, False, Geometry(44, 0, 1, 44, 0)),
    (0x8000_3558, True, ARM32),
    # 40 bits of address need two root pages
    (0x8002_3558, False, Geometry(40, 1, 2, 40, 0)),
    # 34 bits from level 2: sixteen
    (0x8002_351E, False, Geometry(34, 2, 16, 40, 0)),
])
def test_of_vtcr__reads_the_register(vtcr, arm32, expected):
    assert expected == of_vtcr(vtcr, arm32=arm32)


@pytest.mark.parametrize(("vtcr", "arm32", "words"), [
    (0x8004_7594, False, "granule"), (0x8006_3594, False, "more than 48"),
    (0x8007_3594, False, "more than 48"), (0x8005_35D0, False, "does not start"),
    # 44 bits from level 1: 32 root pages
    (0x8004_3554, False, "does not start"),
    (0x8000_3548, True, "sign bit"), (0x8000_3598, True, "does not start"),
])
def test_of_vtcr__refuses_what_is_reserved(vtcr, arm32, words):
    with pytest.raises(ValueError, match=words):
        of_vtcr(vtcr, arm32=arm32)


def test_every_geometry__has_each_width_and_level():
    shapes = every_geometry()
    widths = {level: [s.ipa_bits for s in shapes if s.start_level == level] for level in (0, 1, 2)}
    assert {0: list(range(40, 49)), 1: list(range(32, 44)), 2: [32, 33, 34]} == widths


def test_every_geometry__concatenates_up_to_sixteen_pages():
    pages = {(s.start_level, s.root_pages) for s in every_geometry()}
    assert {(0, 1), (1, 1), (1, 2), (1, 4), (1, 8), (1, 16), (2, 4), (2, 8), (2, 16)} == pages


@pytest.mark.parametrize("shape", every_geometry(), ids=str)
def test_every_geometry__root_covers_all_addresses(shape):
    assert shape.root_frames >= shape.ipa_frames
    assert root_page(shape.ipa_frames - 1, shape.start_level) == shape.root_pages - 1


def test_root_frames__may_be_more_than_addresses():
    assert of_pa_range(4).root_frames == 1 << 36


@pytest.mark.parametrize(("bits", "level"), [(39, 0), (44, 1), (35, 2), (31, 1), (49, 0), (40, 3)])
def test_allowed__not_what_the_architecture_forbids(bits, level):
    assert not allowed(bits, level)


def test_check__refuses_a_wrong_number_of_root_pages():
    with pytest.raises(SpecificationError):
        check(Geometry(40, 1, 1))


def test_check__refuses_what_the_architecture_forbids():
    """39 bits need one root page at level 0, but no walk of 39 bits starts there."""
    with pytest.raises(SpecificationError):
        check(Geometry(39, 0, 1))


def test_index__of_each_level():
    gfn = ((5 * 512 + 6) * 512 + 7) * 512 + 8
    assert [5, 6, 7, 8] == [index(gfn, level) for level in (0, 1, 2, 3)]


def test_frames_below__of_each_level():
    assert [1 << 27, 1 << 18, 512, 1] == [frames_below(level) for level in (0, 1, 2, 3)]
