"""Tests of the end of a domain's grants."""

from __future__ import annotations

import pytest

from spec.grant.entries import EntryV1, place_v1
from spec.grant.teardown import free_grant_frame, free_last_status_frame, free_maptrack_frame, release_mapping
from spec.language import DomId, GrantRef, Handle, Index, Kind, VcpuId, decode, put
from spec.language.outcomes import IllegalChoice
from spec.state import DeviceUse, Stage, State, Status, Use
from tests.spec.machine import (
    GRANTER,
    HOLE,
    MAPPER,
    PAGE,
    broken,
    frame_of,
    grant_frame_of,
    grant_v1,
    machine,
    mapped_grant,
    sound,
    status_frame_of,
)

REF = GrantRef(9)


def dying(s: State, domain: DomId = MAPPER, stage: Stage = Stage.GRANTS) -> State:
    """The domain is being destroyed."""
    return put(s, "domain", domain, status=Status.DYING, stage=stage)


def mapped(*, readonly: bool = False, handle: int = 3) -> State:
    """The mapper has one mapping and is being destroyed."""
    s = grant_v1(machine(), GRANTER, REF, MAPPER)
    return dying(mapped_grant(s, GRANTER, REF, MAPPER, handle, HOLE, readonly=readonly))


def entry(s: State) -> EntryV1:
    """What the granter sees."""
    return decode(EntryV1, s.word[place_v1(s, GRANTER, REF)].raw)


# ---- the mapper


@pytest.mark.parametrize("readonly", [False, True])
def test_release_mapping__drops_the_pin_and_the_reference(readonly: bool) -> None:
    s = mapped(readonly=readonly)
    after = sound(release_mapping(s, MAPPER, Handle(3)), s, MAPPER).state
    active = after.active_grant[GRANTER, REF]
    assert (active.host_writers, active.host_readers, after.frame[frame_of(GRANTER)].references) == (0, 0, 1)


def test_release_mapping__clears_the_marks() -> None:
    s = mapped()
    assert (entry(s).reading, entry(s).writing) == (True, True)
    after = release_mapping(s, MAPPER, Handle(3)).state
    assert (entry(after).reading, entry(after).writing) == (False, False)


def test_release_mapping__leaves_the_marks_that_another_mapping_justifies() -> None:
    s = grant_v1(machine(), GRANTER, REF, MAPPER)
    s = mapped_grant(s, GRANTER, REF, MAPPER, 3, HOLE)
    s = dying(mapped_grant(s, GRANTER, REF, MAPPER, 4, HOLE, readonly=True))
    after = release_mapping(s, MAPPER, Handle(3)).state
    assert (entry(after).reading, entry(after).writing) == (True, False)


def test_release_mapping__ends_the_mapping() -> None:
    after = release_mapping(mapped(), MAPPER, Handle(3)).state
    assert not after.mapping[MAPPER, Handle(3)].host


def test_release_mapping__frees_a_page_that_only_the_mapping_kept() -> None:
    s = put(mapped(), "frame", frame_of(GRANTER), allocated=False, references=1)
    s = put(s, "p2m", (GRANTER, PAGE), type=0, hardware=False)
    after = release_mapping(s, MAPPER, Handle(3)).state
    assert after.frame[frame_of(GRANTER)].use == Use.FREE


def test_release_mapping__forgets_how_often_devices_reached_the_frame() -> None:
    s = put(mapped(), "device_use", (MAPPER, frame_of(GRANTER)), writers=1)
    after = release_mapping(s, MAPPER, Handle(3)).state
    assert after.device_use[MAPPER, frame_of(GRANTER)] == DeviceUse()


def test_release_mapping__of_a_granter_that_is_gone_gives_nothing_back() -> None:
    s = put(mapped(), "domain", GRANTER, status=Status.UNLISTED)
    after = release_mapping(s, MAPPER, Handle(3)).state
    assert after.active_grant[GRANTER, REF].host_writers == 1
    assert not after.mapping[MAPPER, Handle(3)].host


def test_release_mapping__is_for_a_domain_that_is_being_destroyed() -> None:
    s = put(mapped(), "domain", MAPPER, status=Status.ALIVE)
    with pytest.raises(IllegalChoice):
        release_mapping(s, MAPPER, Handle(3))


def test_release_mapping__is_for_a_mapping_that_lives() -> None:
    with pytest.raises(IllegalChoice):
        release_mapping(mapped(), MAPPER, Handle(4))


@pytest.mark.parametrize("handle", [0, 3, 255])
def test_free_maptrack_frame__waits_until_nothing_in_it_lives(handle: int) -> None:
    with pytest.raises(IllegalChoice):
        free_maptrack_frame(mapped(handle=handle), MAPPER)


def test_free_maptrack_frame__ends_with_the_last_one() -> None:
    s = release_mapping(mapped(), MAPPER, Handle(3)).state
    outcome = sound(free_maptrack_frame(s, MAPPER), s, MAPPER)
    assert (outcome.kind, outcome.state.domain[MAPPER].maptrack_frames) == (Kind.DONE, 0)


def test_free_maptrack_frame__goes_on_while_one_is_left() -> None:
    s = put(mapped(), "domain", MAPPER, maptrack_frames=2)
    assert free_maptrack_frame(s, MAPPER).kind is Kind.RESTART


# ---- the granter


def test_granter__keeps_its_granted_pages_while_it_is_destroyed() -> None:
    s = dying(put(mapped(), "domain", MAPPER, status=Status.ALIVE), GRANTER)
    assert (s.frame[frame_of(GRANTER)].use, s.frame[frame_of(GRANTER)].owner) == (Use.DOMAIN, GRANTER)
    assert broken(s) == []


def gone(version: int = 1) -> State:
    """The granter is gone: nothing of it is left but its table."""
    s = machine(version=version)
    for mfn in (grant_frame_of(GRANTER), status_frame_of(GRANTER)):
        s = put(s, "frame", mfn, allocated=False, references=0)
    return put(s, "domain", GRANTER, status=Status.UNLISTED, xenheap_pages=1)


def test_free_grant_frame__gives_the_frame_back_to_be_scrubbed() -> None:
    s = gone()
    outcome = free_grant_frame(s, GRANTER)
    frame = outcome.state.frame[grant_frame_of(GRANTER)]
    assert (outcome.kind, frame.use, frame.dirty) == (Kind.DONE, Use.FREE, True)
    assert outcome.state.domain[GRANTER].grant_frames == 0


def test_free_grant_frame__waits_for_the_last_reference() -> None:
    s = put(gone(), "frame", grant_frame_of(GRANTER), references=1, lost=1)
    with pytest.raises(IllegalChoice):
        free_grant_frame(s, GRANTER)


def test_free_grant_frame__waits_for_the_last_pin() -> None:
    s = put(gone(), "active_grant", (GRANTER, REF), host_readers=1)
    with pytest.raises(IllegalChoice):
        free_grant_frame(s, GRANTER)


def test_free_grant_frame__waits_for_a_copy_that_has_looked_the_domain_up() -> None:
    s = put(gone(), "copy_side", (MAPPER, VcpuId(0), Index(0)), known=True, domain=GRANTER)
    with pytest.raises(IllegalChoice):
        free_grant_frame(s, GRANTER)


def test_free_grant_frame__of_a_domain_that_was_never_built_has_its_allocation_still() -> None:
    s = put(gone(), "frame", grant_frame_of(GRANTER), allocated=True, references=1)
    assert free_grant_frame(s, GRANTER).state.frame[grant_frame_of(GRANTER)].use == Use.FREE


def test_free_grant_frame__is_for_a_domain_that_nobody_can_look_up() -> None:
    s = put(gone(), "domain", GRANTER, status=Status.DEAD)
    with pytest.raises(IllegalChoice):
        free_grant_frame(s, GRANTER)


def test_free_last_status_frame__gives_the_frame_back() -> None:
    outcome = free_last_status_frame(gone(version=2), GRANTER)
    assert outcome.state.frame[status_frame_of(GRANTER)].use == Use.FREE
    assert outcome.state.domain[GRANTER].status_frames == 0


def test_free_last_status_frame__has_none_to_free_under_version_1() -> None:
    with pytest.raises(IllegalChoice):
        free_last_status_frame(gone(), GRANTER)
