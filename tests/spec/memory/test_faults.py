"""Tests of the valid bit, of translation faults and of cache maintenance by set and way."""

from __future__ import annotations

import pytest

from spec.language import DomId, Gfn, Kind, Mfn, VcpuId, put
from spec.language.outcomes import IllegalChoice
from spec.memory.faults import (
    ABORT,
    ROOT_PAGE,
    TRANSLATION,
    UNDEFINED,
    finish_flush,
    flush_page,
    guest_fetch,
    invalidate_root,
    set_way_flush,
    toggle_cache,
    translation_fault,
)
from spec.state import P2mType, State
from tests.spec.machine import (
    GRANTER,
    HOLE,
    MAPPER,
    OTHER,
    PAGE,
    PAGES,
    frame_of,
    grant_v1,
    machine,
    mapped_grant,
    sound,
    with_page,
)

VCPU = VcpuId(0)
ABOVE = Gfn(ROOT_PAGE + 5)


def valid(s: State, domain: DomId = MAPPER) -> list[bool]:
    """The valid bits of the domain's RAM."""
    return [s.p2m[domain, Gfn(PAGE + i)].hardware for i in range(PAGES)]


# ---- fetches


def test_fetch__from_ram() -> None:
    assert guest_fetch(machine(), MAPPER, PAGE, VCPU).code == 0


def test_fetch__faults_where_nothing_is_mapped() -> None:
    assert guest_fetch(machine(), MAPPER, HOLE, VCPU).code == -TRANSLATION


def test_fetch__from_a_granted_page_is_repeated_for_ever() -> None:
    s = mapped_grant(grant_v1(machine(), GRANTER, 9, MAPPER), GRANTER, 9, MAPPER, 0, HOLE)
    assert Kind.STUCK == guest_fetch(s, MAPPER, HOLE, VCPU).kind


def test_fetch__faults_where_the_valid_bit_is_clear() -> None:
    assert guest_fetch(invalidate_root(machine(), MAPPER), MAPPER, PAGE, VCPU).code == -TRANSLATION


# ---- the valid bit


def test_invalidate__clears_the_bits_and_keeps_the_mappings() -> None:
    s = machine()
    after = invalidate_root(s, MAPPER)
    assert not any(valid(after))
    assert s.p2m[MAPPER, PAGE].mfn == after.p2m[MAPPER, PAGE].mfn
    assert P2mType.RAM_RW == after.p2m[MAPPER, PAGE].type


def test_invalidate__leaves_other_domains_alone() -> None:
    assert all(valid(invalidate_root(machine(), MAPPER), OTHER))


def test_invalidate__leaves_a_root_of_level_0_alone() -> None:
    assert all(valid(invalidate_root(machine(root_level=0), MAPPER)))


@pytest.mark.parametrize("gfn", [Gfn(ROOT_PAGE), ABOVE])
def test_invalidate__leaves_the_second_page_of_a_root_alone(gfn: Gfn) -> None:
    """From its first guest frame on."""
    s = with_page(machine(), MAPPER, gfn, Mfn(frame_of(MAPPER) + 100))
    assert invalidate_root(s, MAPPER).p2m[MAPPER, gfn].hardware


# ---- faults


def test_fault__beyond_the_highest_mapping_is_an_abort() -> None:
    assert translation_fault(machine(), MAPPER, HOLE, at_leaf=True, order=0).code == -ABORT


def test_fault__in_a_hole_is_an_abort() -> None:
    s = with_page(machine(), MAPPER, ABOVE, Mfn(frame_of(MAPPER) + 100))
    assert translation_fault(s, MAPPER, HOLE, at_leaf=True, order=0).code == -ABORT


def test_fault__on_a_valid_entry_is_repeated() -> None:
    s = machine()
    outcome = translation_fault(s, MAPPER, PAGE, at_leaf=True, order=0)
    assert Kind.RESTART == outcome.kind
    assert outcome.state is s


def test_fault__on_a_table_changes_no_mapping() -> None:
    s = invalidate_root(machine(), MAPPER)
    assert translation_fault(s, MAPPER, PAGE, at_leaf=False, order=0).state is s


def test_fault__repairs_the_one_page() -> None:
    s = invalidate_root(machine(), MAPPER)
    after = sound(translation_fault(s, MAPPER, PAGE, at_leaf=True, order=0), s, MAPPER).state
    assert [True] + [False] * (PAGES - 1) == valid(after)
    assert s.p2m[MAPPER, PAGE].mfn == after.p2m[MAPPER, PAGE].mfn


def test_fault__repairs_the_highest_mapping() -> None:
    """The highest guest frame that was ever mapped is not beyond it."""
    s = invalidate_root(machine(), MAPPER)
    after = sound(translation_fault(s, MAPPER, Gfn(PAGE + PAGES - 1), at_leaf=True, order=0), s, MAPPER).state
    assert [False] * (PAGES - 1) + [True] == valid(after)


def test_fault__repairs_a_whole_block() -> None:
    s = machine()
    for i in range(512):
        s = with_page(s, MAPPER, Gfn(0x600 + i), Mfn(frame_of(MAPPER) + 0x8000 + i))
    s = invalidate_root(s, MAPPER)
    after = translation_fault(s, MAPPER, Gfn(0x677), at_leaf=True, order=9).state
    assert all(after.p2m[MAPPER, Gfn(0x600 + i)].hardware for i in range(512))


def test_fault__a_block_without_holes_only() -> None:
    s = invalidate_root(machine(), MAPPER)
    with pytest.raises(IllegalChoice):
        translation_fault(s, MAPPER, PAGE, at_leaf=True, order=9)


# ---- set and way


def test_set_way__is_undefined_with_an_iommu() -> None:
    s = put(machine(), "domain", MAPPER, iommu=True)
    assert set_way_flush(s, MAPPER, VCPU).code == -UNDEFINED


def test_set_way__makes_a_flush_due_and_watches_the_caches() -> None:
    s = machine()
    row = sound(set_way_flush(s, MAPPER, VCPU), s, MAPPER).state.vcpu[MAPPER, VCPU]
    assert (True, True) == (row.traps, row.flush_due)


def test_set_way__once_watched_does_nothing() -> None:
    s = put(machine(), "vcpu", (MAPPER, VCPU), traps=True)
    assert set_way_flush(s, MAPPER, VCPU).state is s


@pytest.mark.parametrize("enabled", [True, False])
def test_toggle__flushes_again_and_watches_until_the_caches_are_on(enabled: bool) -> None:
    s = put(machine(), "vcpu", (MAPPER, VCPU), traps=True)
    row = sound(toggle_cache(s, MAPPER, VCPU, enabled), s, MAPPER).state.vcpu[MAPPER, VCPU]
    assert (not enabled, True) == (row.traps, row.flush_due)


def begun(s: State) -> State:
    """A vCPU has switched its caches on, and the first page is flushed."""
    s = toggle_cache(set_way_flush(s, MAPPER, VCPU).state, MAPPER, VCPU, True).state
    return flush_page(s, MAPPER, VCPU, PAGE).state


def test_set_way__begins_the_flush_at_the_first_page() -> None:
    s = set_way_flush(begun(machine()), MAPPER, VCPU).state
    assert Kind.RESTART == flush_page(s, MAPPER, VCPU, PAGE).kind


@pytest.mark.parametrize("enabled", [True, False])
def test_toggle__begins_the_flush_at_the_first_page(enabled: bool) -> None:
    s = flush_page(set_way_flush(machine(), MAPPER, VCPU).state, MAPPER, VCPU, PAGE).state
    s = toggle_cache(s, MAPPER, VCPU, enabled).state
    assert Kind.RESTART == flush_page(s, MAPPER, VCPU, PAGE).kind


def test_flush__writes_every_page_back_and_clears_the_valid_bits() -> None:
    s = put(machine(), "frame", frame_of(MAPPER, Gfn(PAGE + 3)), unclean=True)
    s = set_way_flush(s, MAPPER, VCPU).state
    for i in range(PAGES):
        s = sound(flush_page(s, MAPPER, VCPU, Gfn(PAGE + i)), s, MAPPER).state
    after = sound(finish_flush(s, MAPPER, VCPU), s, MAPPER).state
    assert not after.frame[frame_of(MAPPER, Gfn(PAGE + 3))].unclean
    assert not any(valid(after))
    assert not after.vcpu[MAPPER, VCPU].flush_due


def test_flush__leaves_no_page_out() -> None:
    s = set_way_flush(machine(), MAPPER, VCPU).state
    with pytest.raises(IllegalChoice):
        flush_page(s, MAPPER, VCPU, Gfn(PAGE + 1))
    with pytest.raises(IllegalChoice):
        finish_flush(s, MAPPER, VCPU)


def test_flush__skips_what_was_not_accessed() -> None:
    s = invalidate_root(set_way_flush(machine(), MAPPER, VCPU).state, MAPPER)
    assert finish_flush(s, MAPPER, VCPU).code == 0
