"""The geometry of stage 2 that Xen chooses."""

import pytest

from impl.boards.problems import RefusedByXen
from impl.boards.stage2 import Stage2, choose


@pytest.mark.parametrize(("pa_bits", "level", "pages"), [
    (32, 1, 1), (36, 1, 1), (40, 1, 2), (42, 1, 8), (44, 0, 1), (48, 0, 1),
])
def test_choose__on_arm64_takes_the_cpus_width(pa_bits, level, pages):
    assert choose("arm64", pa_bits) == Stage2(pa_bits, 64 - pa_bits, level, pages)


def test_choose__on_arm64_takes_52_bits_as_48():
    assert choose("arm64", 52).ipa_bits == 48


def test_choose__is_narrowed_by_an_smmu():
    assert choose("arm64", 48, smmu_bits=40) == Stage2(40, 24, 1, 2)


@pytest.mark.parametrize("pa_bits", [33, 39, 41, 47])
def test_choose__on_arm64_refuses_an_odd_width(pa_bits):
    with pytest.raises(RefusedByXen, match=r"PA range .* unknown"):
        choose("arm64", pa_bits)


def test_choose__on_arm32_is_always_40_bits():
    assert choose("arm32", 32) == Stage2(40, 24, 1, 2)


def test_choose__on_arm32_refuses_a_narrower_smmu():
    with pytest.raises(RefusedByXen, match="not able to support 39-bit IPA"):
        choose("arm32", 40, smmu_bits=39)
