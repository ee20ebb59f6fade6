"""Tests of what a guest itself does to memory."""

from __future__ import annotations

import pytest

from spec.language import DomId, Gfn, Index, Kind, Mfn, Outcome, VcpuId, Word, put
from spec.language.outcomes import IllegalChoice
from spec.memory.faults import TRANSLATION
from spec.memory.guest import guest_load, guest_store
from spec.state import P2mType, State, Status
from tests.spec.machine import (
    GRANTER,
    HOLE,
    MAPPER,
    PAGE,
    broken_between,
    frame_of,
    grant_frame_of,
    grant_v1,
    machine,
    mapped_grant,
    mapped_shared_frame,
    sound,
    with_row,
)

VALUE = Word(0x1234_5678_9ABC_DEF0)
HERE = Index(17)


def store(s: State, gfn: Gfn, domain: DomId = MAPPER) -> Outcome[State]:
    """guest_store of VALUE at HERE."""
    return guest_store(s, domain, VcpuId(1), gfn, HERE, VALUE)


def granted(*, readonly: bool) -> State:
    """The mapper has mapped the granter's first page at HOLE."""
    return mapped_grant(grant_v1(machine(), GRANTER, 9, MAPPER), GRANTER, 9, MAPPER, 0, HOLE, readonly=readonly)


def test_guest_store__writes_the_guests_own_page() -> None:
    s = machine()
    assert sound(store(s, PAGE), s, MAPPER).state.word[frame_of(MAPPER), HERE].raw == VALUE


def test_guest_store__writes_a_page_that_is_granted_for_writing() -> None:
    s = granted(readonly=False)
    assert sound(store(s, HOLE), s, MAPPER).state.word[frame_of(GRANTER), HERE].raw == VALUE


def test_guest_store__rewrites_a_grant_in_use() -> None:
    s = mapped_shared_frame(granted(readonly=True), GRANTER, HOLE, grant_frame_of(GRANTER))
    after = sound(guest_store(s, GRANTER, VcpuId(0), HOLE, Index(9), Word(0)), s, GRANTER).state
    assert after.word[grant_frame_of(GRANTER), Index(9)].raw == 0


@pytest.mark.parametrize("kind", [P2mType.RAM_RO, P2mType.MAP_FOREIGN_RO, P2mType.GRANT_MAP_RO, P2mType.IOMMU_MAP_RO])
def test_guest_store__is_repeated_for_ever_where_only_loads_are_permitted(kind: P2mType) -> None:
    s = with_row(machine(), MAPPER, HOLE, frame_of(MAPPER), kind)
    outcome = store(s, HOLE)
    assert (outcome.kind, outcome.output) == (Kind.STUCK, {"vcpu": 1})
    assert outcome.state.word[frame_of(MAPPER), HERE].raw == 0


def test_guest_store__faults_where_nothing_is_mapped() -> None:
    s = machine()
    outcome = store(s, HOLE)
    assert (outcome.code, outcome.state) == (-TRANSLATION, s)


def test_guest_store__to_a_device_changes_no_memory() -> None:
    s = put(machine(), "iomem", (MAPPER, Mfn(0x9000)), allowed=True)
    s = with_row(s, MAPPER, HOLE, Mfn(0x9000), P2mType.MMIO_DIRECT_DEV)
    assert store(s, HOLE).state.word[Mfn(0x9000), HERE].raw == 0


def test_guest_store__faults_where_the_hardware_finds_no_valid_entry() -> None:
    assert store(put(machine(), "p2m", (MAPPER, PAGE), hardware=False), PAGE).code == -TRANSLATION


def test_guest_store__ends_with_the_domain() -> None:
    s = put(machine(), "domain", MAPPER, status=Status.DYING)
    with pytest.raises(IllegalChoice):
        store(s, PAGE)


@pytest.mark.parametrize("readonly", [False, True])
def test_guest_load__reads_a_granted_page(readonly: bool) -> None:
    s = put(granted(readonly=readonly), "word", (frame_of(GRANTER), HERE), raw=VALUE)
    assert sound(guest_load(s, MAPPER, HOLE, HERE), s, MAPPER).output == {"value": VALUE}


def test_guest_load__faults_where_nothing_is_mapped() -> None:
    assert guest_load(machine(), MAPPER, HOLE, HERE).code == -TRANSLATION


def test_guest_load__of_a_device_says_nothing() -> None:
    s = with_row(machine(), MAPPER, HOLE, Mfn(0x9000), P2mType.MMIO_DIRECT_C)
    assert guest_load(s, MAPPER, HOLE, HERE).output == {}


def test_pages__are_written_by_right_only() -> None:
    s = granted(readonly=True)
    after = put(s, "word", (frame_of(GRANTER), HERE), raw=VALUE)
    assert f"TWO-WORD-WRITER of word[{frame_of(GRANTER)}, 17]" in broken_between(s, after, MAPPER)


def test_guest_load__finds_nothing_that_is_valid_for_xen_alone() -> None:
    s = put(machine(), "p2m", (MAPPER, PAGE), hardware=False)
    assert guest_load(s, MAPPER, PAGE, HERE).code == -TRANSLATION
