"""Tests of mapping a granted page: every refusal in Xen's order, and every effect."""

from __future__ import annotations

from typing import Any

import pytest

from spec.errors import (
    GNTST_BAD_DOMAIN,
    GNTST_BAD_GNTREF,
    GNTST_BAD_PAGE,
    GNTST_GENERAL_ERROR,
    GNTST_NO_SPACE,
    GNTST_PERMISSION_DENIED,
)
from spec.grant.device import enter_for_devices
from spec.grant.entries import ACCEPT_TRANSFER, TRANSITIVE, EntryV1, StatusV2, place_status, place_v1, place_v2
from spec.grant.map import map_grant_ref
from spec.language import (
    U64,
    DomId,
    Gfn,
    GrantRef,
    Handle,
    Index,
    Kind,
    Outcome,
    VcpuId,
    Word,
    decode,
    encode,
    evolve,
    layouts,
    put,
)
from spec.language.outcomes import IllegalChoice
from spec.state import DOMID_SELF, P2mType, State, Status
from tests.spec.machine import (
    ADDRESS,
    DOM0,
    FREE,
    GRANTER,
    HOLE,
    MAPPER,
    OTHER,
    PAGE,
    UNKNOWN,
    broken,
    frame_of,
    grant_frame_of,
    grant_v1,
    grant_v2,
    machine,
    mapped_grant,
    mapped_shared_frame,
    sound,
    with_domain,
    with_row,
)

REF = GrantRef(9)
DEVICE, HOST, READONLY, APPLICATION, PTE = 1, 2, 4, 8, 16


def map_it(s: State, **changes: Any) -> Outcome[State]:
    """map_grant_ref by the mapper of the granter's entry 9 at HOLE, with handle 3, writable."""
    wanted: dict[str, Any] = {
        "caller": MAPPER, "granter": GRANTER, "ref": REF, "host_addr": U64(HOLE * ADDRESS), "flags": Word(HOST),
        "handle": Handle(3), "space_left": True, "tables_left": True, "vcpu": VcpuId(0), **changes,
    }
    return map_grant_ref(s, **wanted)


def granted(version: int = 1, **fields: Any) -> State:
    """The granter's entry 9 permits the mapper to use its first page."""
    return (grant_v1 if version == 1 else grant_v2)(machine(version=version), GRANTER, REF, MAPPER, **fields)


def entry(s: State) -> EntryV1:
    """The granter's entry 9."""
    return decode(EntryV1, s.word[place_v1(s, GRANTER, REF)].raw)


def pins(s: State) -> tuple[int, int]:
    """Writers and readers of the granter's entry 9."""
    active = s.active_grant[GRANTER, REF]
    return active.host_writers, active.host_readers


# ---- refusals, in order


@pytest.mark.parametrize("flags", [0, READONLY, APPLICATION | PTE])
def test_map__refuses_to_map_nothing(flags: int) -> None:
    assert map_it(granted(), flags=Word(flags), granter=UNKNOWN).code == GNTST_BAD_GNTREF


@pytest.mark.parametrize("flags", [DEVICE, HOST | DEVICE, HOST | APPLICATION, HOST | PTE])
def test_map__refuses_what_a_translated_guest_cannot_have(flags: int) -> None:
    assert map_it(granted(), flags=Word(flags), granter=UNKNOWN).code == GNTST_GENERAL_ERROR


@pytest.mark.parametrize("granter", [UNKNOWN, DOMID_SELF])
def test_map__refuses_an_unknown_domain(granter: DomId) -> None:
    assert map_it(granted(), granter=granter, space_left=False).code == GNTST_BAD_DOMAIN


def test_map__refuses_to_connect_two_ordinary_domains_under_silo() -> None:
    s = grant_v1(machine(silo=True), GRANTER, REF, MAPPER)
    assert map_it(s, ref=GrantRef(512)).code == GNTST_PERMISSION_DENIED


def test_map__connects_with_a_control_domain_under_silo() -> None:
    s = grant_v1(machine(silo=True), DOM0, REF, MAPPER)
    assert map_it(s, granter=DOM0).code == 0


def test_map__refuses_without_a_maptrack_entry() -> None:
    s = with_domain(machine(), MAPPER, maptrack_frames=0, max_maptrack_frames=0)
    assert map_it(s, space_left=False, ref=GrantRef(512)).code == GNTST_NO_SPACE


def test_map__runs_out_of_maptrack_entries_only_when_it_can_be_full() -> None:
    with pytest.raises(IllegalChoice):
        map_it(granted(), space_left=False)


def test_map__is_given_a_handle_inside_the_maptrack() -> None:
    with pytest.raises(IllegalChoice):
        map_it(granted(), handle=Handle(256))


def test_map__is_given_an_unused_handle() -> None:
    s = mapped_grant(granted(), GRANTER, REF, MAPPER, 3, HOLE)
    with pytest.raises(IllegalChoice):
        map_it(s)


@pytest.mark.parametrize(("version", "bound"), [(1, 512), (2, 256)])
def test_map__refuses_a_reference_that_is_not_bound(version: int, bound: int) -> None:
    assert map_it(granted(version), ref=GrantRef(bound)).code == GNTST_BAD_GNTREF


def test_map__refuses_a_grant_in_use_by_another_domain() -> None:
    s = mapped_grant(granted(), GRANTER, REF, MAPPER, 0, HOLE)
    assert map_it(grant_v1(s, GRANTER, REF, OTHER), caller=OTHER).code == GNTST_GENERAL_ERROR


@pytest.mark.parametrize(("flags", "counter"), [(HOST, "host_writers"), (HOST | READONLY, "host_readers")])
def test_map__refuses_a_full_counter(flags: int, counter: str) -> None:
    s = mapped_grant(granted(), GRANTER, REF, MAPPER, 0, HOLE)
    s = put(s, "active_grant", (GRANTER, REF), **{counter: 128})
    assert map_it(s, flags=Word(flags)).code == GNTST_GENERAL_ERROR


def test_map__refuses_a_grant_in_use_through_a_window() -> None:
    s = put(granted(2), "active_grant", (GRANTER, REF), host_readers=1, domid=MAPPER, sub_page=True)
    assert map_it(s, flags=Word(HOST | READONLY)).code == GNTST_GENERAL_ERROR


@pytest.mark.parametrize("kind", [0, ACCEPT_TRANSFER, TRANSITIVE])
@pytest.mark.parametrize("version", [1, 2])
def test_map__refuses_an_entry_that_permits_no_access(version: int, kind: int) -> None:
    outcome = map_it(granted(version, type=kind))
    assert (outcome.kind, outcome.code) == (Kind.REFUSED, GNTST_GENERAL_ERROR)


@pytest.mark.parametrize("version", [1, 2])
def test_map__refuses_an_entry_for_another_domain(version: int) -> None:
    assert map_it(granted(version), caller=OTHER).code == GNTST_GENERAL_ERROR


@pytest.mark.parametrize("version", [1, 2])
def test_map__refuses_a_sub_page_grant(version: int) -> None:
    assert map_it(granted(version, sub_page=True)).code == GNTST_GENERAL_ERROR


@pytest.mark.parametrize("version", [1, 2])
def test_map__refuses_a_write_to_a_read_only_grant(version: int) -> None:
    s = granted(version, readonly=True)
    outcome = map_it(s)
    assert (outcome.code, outcome.state) == (GNTST_GENERAL_ERROR, s)


@pytest.mark.parametrize("version", [1, 2])
def test_map__refuses_to_write_a_read_only_grant_that_is_in_use_for_reading(version: int) -> None:
    s = mapped_grant(granted(version, readonly=True), GRANTER, REF, MAPPER, 0, HOLE, readonly=True)
    assert map_it(s).code == GNTST_GENERAL_ERROR


@pytest.mark.parametrize("version", [1, 2])
def test_map__refuses_a_page_that_the_granter_does_not_have(version: int) -> None:
    s = granted(version, gfn=HOLE)
    outcome = map_it(s)
    assert outcome.code == GNTST_BAD_PAGE
    assert broken(outcome.state) == []


@pytest.mark.parametrize(
    "kind", [P2mType.MMIO_DIRECT_DEV, P2mType.MAP_FOREIGN_RW, P2mType.GRANT_MAP_RW, P2mType.IOMMU_MAP_RW]
)
def test_map__refuses_what_is_not_the_granters_own_memory(kind: P2mType) -> None:
    s = with_row(granted(gfn=HOLE), GRANTER, HOLE, frame_of(OTHER), kind)
    assert map_it(s).code == GNTST_BAD_PAGE


def test_map__refuses_a_page_with_too_many_references() -> None:
    s = grant_v1(machine(reference_limit=2), GRANTER, REF, MAPPER)
    assert map_it(s).code == GNTST_BAD_PAGE


def test_map__refuses_another_mapping_of_a_page_with_too_many_references() -> None:
    s = mapped_grant(grant_v1(machine(reference_limit=3), GRANTER, REF, MAPPER), GRANTER, REF, MAPPER, 0, HOLE)
    assert map_it(s).code == GNTST_GENERAL_ERROR


@pytest.mark.parametrize("flags", [1 << 5, 1 << 15, 1 << 16, 1 << 31])
def test_map__refuses_flags_that_arm_does_not_know(flags: int) -> None:
    outcome = map_it(granted(), flags=Word(HOST | flags))
    assert outcome.code == GNTST_GENERAL_ERROR
    assert broken(outcome.state) == []


def test_map__refuses_without_a_page_for_tables() -> None:
    s = put(granted(), "domain", MAPPER, pool_free=0)
    assert map_it(s, tables_left=False).code == GNTST_GENERAL_ERROR


def test_map__lacks_a_page_for_tables_only_when_the_pool_is_nearly_empty() -> None:
    with pytest.raises(IllegalChoice):
        map_it(granted(), tables_left=False)


def test_map__refuses_an_address_beyond_the_root_table() -> None:
    s = grant_v1(machine(root_pages=1 << 12), GRANTER, REF, MAPPER)
    assert map_it(s, host_addr=U64(ADDRESS << 12)).code == GNTST_GENERAL_ERROR


def test_map__clears_the_marks_again_after_a_failure() -> None:
    after = map_it(granted(), flags=Word(HOST | 1 << 16)).state
    assert (entry(after).reading, entry(after).writing, pins(after)) == (False, False, (0, 0))


# ---- effects


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("flags", "kind", "pinned"), [
    (HOST, P2mType.GRANT_MAP_RW, (1, 0)), (HOST | READONLY, P2mType.GRANT_MAP_RO, (0, 1)),
])
def test_map__enters_the_page_into_stage_2(version: int, flags: int, kind: P2mType, pinned: tuple[int, int]) -> None:
    s = granted(version)
    after = sound(map_it(s, flags=Word(flags)), s, MAPPER).state
    row = after.p2m[MAPPER, HOLE]
    assert (row.type, row.mfn, row.handle, pins(after)) == (kind, frame_of(GRANTER), 3, pinned)


def test_map__tells_the_handle_and_the_machine_address() -> None:
    assert map_it(granted()).output == {"handle": 3, "dev_bus_addr": frame_of(GRANTER) * ADDRESS}


def test_map__ignores_the_lowest_bits_of_the_address() -> None:
    after = map_it(granted(), host_addr=U64(HOLE * ADDRESS + 0xFFF)).state
    assert after.p2m[MAPPER, HOLE].mfn == frame_of(GRANTER)


def test_map__keeps_32_bits_of_the_frame_number_on_arm32() -> None:
    s = grant_v1(machine(arm32=True), GRANTER, REF, MAPPER)
    after = map_it(s, host_addr=U64((HOLE + (1 << 32)) * ADDRESS)).state
    assert after.p2m[MAPPER, HOLE].mfn == frame_of(GRANTER)


def test_map__takes_a_reference() -> None:
    assert map_it(granted()).state.frame[frame_of(GRANTER)].references == 2


@pytest.mark.parametrize(("flags", "writing"), [(HOST, True), (HOST | READONLY, False)])
def test_map__tells_the_granter_under_version_1(flags: int, writing: bool) -> None:
    after = map_it(granted(), flags=Word(flags)).state
    assert (entry(after).reading, entry(after).writing) == (True, writing)


def test_map__tells_the_granter_under_version_2() -> None:
    s = map_it(granted(2)).state
    status = decode(StatusV2, s.word[place_status(s, GRANTER, REF)].raw)
    assert (status.reading1, status.writing1, status.reading0) == (True, True, False)


def test_map__of_a_domains_own_grant_is_allowed() -> None:
    s = grant_v1(machine(), MAPPER, REF, MAPPER)
    assert sound(map_it(s, granter=MAPPER), s, MAPPER).code == 0


def test_map__of_a_dying_granter_is_allowed() -> None:
    s = put(granted(), "domain", GRANTER, status=Status.DYING)
    assert map_it(s).code == 0


def test_map__replaces_what_was_mapped_there() -> None:
    s = granted()
    after = sound(map_it(s, host_addr=U64(PAGE * ADDRESS)), s, MAPPER).state
    assert after.p2m[MAPPER, PAGE].mfn == frame_of(GRANTER)
    assert after.frame[frame_of(MAPPER)].owner == MAPPER


def test_map__of_a_grant_in_use_does_not_look_at_the_entry_again() -> None:
    s = mapped_grant(granted(), GRANTER, REF, MAPPER, 0, HOLE)
    s = grant_v1(s, GRANTER, REF, MAPPER, type=0)
    assert sound(map_it(s), s, MAPPER).code == 0


def test_map__for_writing_of_a_grant_in_use_for_reading_keeps_the_frame() -> None:
    s = mapped_grant(granted(), GRANTER, REF, MAPPER, 0, HOLE, readonly=True)
    s = grant_v1(s, GRANTER, REF, MAPPER, gfn=Gfn(PAGE + 1))
    outcome = sound(map_it(s), s, MAPPER)
    assert (outcome.state.mapping[MAPPER, Handle(3)].mfn, pins(outcome.state)) == (frame_of(GRANTER), (1, 1))


def test_map__counts_to_128() -> None:
    s = mapped_grant(granted(), GRANTER, REF, MAPPER, 0, HOLE)
    s = put(s, "active_grant", (GRANTER, REF), host_writers=127)
    assert pins(map_it(s).state) == (128, 0)


# ---- a peer that rewrites the entry between two looks


class Peer:
    """Another CPU that replaces the word under the n-th look."""

    def __init__(self, look: int, word: Word) -> None:
        self.look, self.word = look, word

    def __call__(self, word: Word) -> Word:
        self.look -= 1
        return self.word if self.look == 0 else word


def test_map__under_version_2_notices_that_the_grant_was_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    s = granted(2)
    # first look, the status word, second look
    monkeypatch.setattr(layouts, "PEER", [Peer(3, Word(0))])
    outcome = map_it(s)
    assert (outcome.kind, outcome.code) == (Kind.PARTIAL, GNTST_GENERAL_ERROR)
    assert outcome.state.word[place_status(s, GRANTER, REF)].raw == 0


def test_map__under_version_2_notices_that_the_grant_became_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    s = granted(2)
    readonly = granted(2, readonly=True)
    mfn, index = place_v2(s, GRANTER, REF)
    monkeypatch.setattr(layouts, "PEER", [Peer(3, readonly.word[mfn, index].raw)])
    assert map_it(s).code == GNTST_GENERAL_ERROR


# ---- devices of a direct-mapped domain


def direct(**fields: Any) -> State:
    """dom0 is direct-mapped and has an IOMMU; the granter's entry 9 permits it to use its first page."""
    s = with_domain(machine((GRANTER, MAPPER)), DOM0, direct_mapped=True, iommu=True)
    return grant_v1(s, GRANTER, REF, DOM0, **fields)


@pytest.mark.parametrize(("flags", "kind"), [
    (HOST, P2mType.IOMMU_MAP_RW), (HOST | READONLY, P2mType.IOMMU_MAP_RO),
])
def test_map__enters_the_frame_one_to_one_for_devices(flags: int, kind: P2mType) -> None:
    s = direct()
    after = map_it(s, caller=DOM0, flags=Word(flags)).state
    row = after.p2m[DOM0, Gfn(frame_of(GRANTER))]
    assert (row.type, row.mfn) == (kind, frame_of(GRANTER))


def test_map__does_not_for_a_domains_own_grant() -> None:
    s = grant_v1(direct(), DOM0, REF, DOM0)
    after = map_it(s, caller=DOM0, granter=DOM0).state
    assert after.device_use[DOM0, frame_of(DOM0)].writers == 0


def test_map__lets_devices_write_as_soon_as_one_mapping_is_writable() -> None:
    s = map_it(direct(), caller=DOM0, flags=Word(HOST | READONLY)).state
    after = map_it(s, caller=DOM0, handle=Handle(4)).state
    assert after.p2m[DOM0, Gfn(frame_of(GRANTER))].type == P2mType.IOMMU_MAP_RW


def test_map__leaves_devices_the_right_to_write_when_a_read_only_mapping_follows() -> None:
    s = map_it(direct(), caller=DOM0).state
    after = map_it(s, caller=DOM0, handle=Handle(4), flags=Word(HOST | READONLY)).state
    assert after.p2m[DOM0, Gfn(frame_of(GRANTER))].type == P2mType.IOMMU_MAP_RW


def test_map__leaves_what_has_taken_the_place_of_a_device_mapping_when_another_to_read_follows() -> None:
    """Devices were given the right to read already: it is not entered a second time."""
    s = map_it(direct(), caller=DOM0, flags=Word(HOST | READONLY)).state
    s = with_row(s, DOM0, Gfn(frame_of(GRANTER)), frame_of(DOM0), P2mType.RAM_RW)
    after = map_it(s, caller=DOM0, handle=Handle(4), flags=Word(HOST | READONLY)).state
    row = after.p2m[DOM0, Gfn(frame_of(GRANTER))]
    assert (row.type, row.mfn) == (P2mType.RAM_RW, frame_of(DOM0))


def test_map__refuses_a_device_count_that_is_full_and_leaves_nothing_mapped() -> None:
    s = put(direct(), "device_use", (DOM0, frame_of(GRANTER)), writers=(1 << 31) - 1)
    outcome = map_it(s, caller=DOM0)
    assert outcome.code == GNTST_GENERAL_ERROR
    assert outcome.state.p2m[DOM0, HOLE].type == P2mType.INVALID
    assert outcome.state.frame[frame_of(GRANTER)].references == 1


def test_map__enters_no_frame_for_devices_that_is_beyond_the_root_table() -> None:
    """What could not be entered is not counted, whatever the reason why it could not."""
    s = put(direct(), "settings", Index(0), root_pages=frame_of(GRANTER))
    outcome = enter_for_devices(s, DOM0, frame_of(GRANTER), readonly=False)
    assert (outcome.code, outcome.state) == (GNTST_GENERAL_ERROR, s)
    mapped = map_it(s, caller=DOM0)
    assert (mapped.code, mapped.state.device_use[DOM0, frame_of(GRANTER)].writers) == (GNTST_GENERAL_ERROR, 0)


def test_map__over_the_mapping_of_a_domains_own_grant_frame_leaves_the_record_of_it() -> None:
    s = mapped_shared_frame(machine(), MAPPER, HOLE, grant_frame_of(MAPPER))
    s = grant_v1(s, MAPPER, REF, MAPPER, gfn=HOLE)
    after = map_it(s, granter=MAPPER).state
    assert (after.frame[grant_frame_of(MAPPER)].mapped, after.deviation[Index(0)].dev33) == (True, True)


def test_map__leaves_free_frames_alone() -> None:
    assert map_it(granted()).state.frame[FREE] == machine().frame[FREE]


# ---- what a grant in use is not asked again


def retyped(s: State, **fields: Any) -> State:
    """The granter has changed its entry 9 since it was pinned."""
    place = place_v1(s, GRANTER, REF)
    return put(s, "word", place, raw=encode(evolve(entry(s), **fields), s.word[place].raw))


def test_map__to_write_looks_at_no_type_of_a_grant_in_use() -> None:
    s = retyped(mapped_grant(granted(), GRANTER, REF, MAPPER, 0, HOLE, readonly=True), type=ACCEPT_TRANSFER)
    assert sound(map_it(s, host_addr=U64((HOLE + 1) * ADDRESS)), s, MAPPER).code == 0


def test_map__to_write_looks_at_no_type_of_a_grant_in_use_under_version_2() -> None:
    """What was accepted at the first use is not asked again, whichever the version."""
    s = mapped_grant(granted(2), GRANTER, REF, MAPPER, 0, HOLE, readonly=True)
    s = grant_v2(s, GRANTER, REF, MAPPER, type=ACCEPT_TRANSFER)
    assert sound(map_it(s, host_addr=U64((HOLE + 1) * ADDRESS)), s, MAPPER).code == 0


@pytest.mark.parametrize("readonly", [False, True])
def test_map__again_looks_at_nothing_of_the_entry(readonly: bool) -> None:
    s = retyped(mapped_grant(granted(), GRANTER, REF, MAPPER, 0, HOLE, readonly=readonly), readonly=True,
                frame=Gfn(HOLE))
    flags = Word(HOST | (READONLY if readonly else 0))
    outcome = sound(map_it(s, host_addr=U64((HOLE + 1) * ADDRESS), flags=flags), s, MAPPER)
    assert (0, frame_of(GRANTER)) == (outcome.code, outcome.state.p2m[MAPPER, HOLE + 1].mfn)


@pytest.mark.parametrize("version", [1, 2])
def test_map__to_read_may_follow_another_of_a_read_only_grant(version: int) -> None:
    s = mapped_grant(granted(version, readonly=True), GRANTER, REF, MAPPER, 0, HOLE, readonly=True)
    outcome = sound(map_it(s, host_addr=U64((HOLE + 1) * ADDRESS), flags=Word(HOST | READONLY)), s, MAPPER)
    assert (outcome.code, pins(outcome.state)) == (0, (0, 2))


def test_map__to_write_what_was_only_to_be_read_marks_nothing() -> None:
    s = granted(version=2, readonly=True)
    outcome = map_it(s)
    assert (GNTST_GENERAL_ERROR, Kind.REFUSED) == (outcome.code, outcome.kind)
