"""Tests of how a domain comes into being and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from spec.domain.lifecycle import (
    FIRST_POOL,
    NO_GFN,
    CreateFlags,
    abandon_domain,
    build_grant_table,
    build_grant_table_repaired,
    build_pool,
    build_root,
    build_shared_info,
    build_shared_info_repaired,
    create_domain,
    finish_creation,
    finish_stage,
    forget_domain,
    free_root,
    free_shared_info,
    kill_domain,
    list_domain,
    relinquish_frame,
    relinquish_mapping,
    relinquish_mapping_repaired,
    relinquish_pool,
    unlist_domain,
)
from spec.domain.privilege import exists
from spec.errors import EBUSY, EEXIST, EINVAL, ENOMEM, EPERM, ESRCH
from spec.grant.table import grow_for_frame
from spec.grant.teardown import free_grant_frame, free_maptrack_frame, release_mapping
from spec.language import U16, U32, U64, DomId, Gfn, GrantRef, Handle, Index, Kind, Mfn, Outcome, Word, encode, put
from spec.language.outcomes import IllegalChoice
from spec.memory import heap
from spec.memory.heap import HEAP
from spec.memory.physmap import (
    SPACE_GMFN_FOREIGN,
    SPACE_GRANT_TABLE,
    add_to_physmap,
    add_to_physmap_batch,
    remove_from_physmap,
)
from spec.memory.pool import give_table
from spec.state import P2mType, Stage, State, Status, Use
from tests.spec.machine import (
    DOM0,
    FREE,
    GRANTER,
    HOLE,
    MAPPER,
    OTHER,
    PAGE,
    PAGES,
    UNKNOWN,
    broken,
    fields,
    frame_of,
    grant_frame_of,
    grant_v1,
    machine,
    mapped_grant,
    mapped_shared_frame,
    pool_frame_of,
    shared_info_of,
    sound,
    with_row,
)

NEW = DomId(7)
NOBODY = DomId(0x7FFF)


# ---- building


def create(s: State, **changes: Any) -> Outcome[State]:
    """Createdomain by the control domain."""
    known: dict[str, Any] = {
        "caller": DOM0, "domain": NEW, "chosen": True, "flags": encode(fields(CreateFlags, hvm=True, hap=True)),
        "iommu_options": U32(0), "grant_options": U32(1), "default_grant_frames": False, "grant_frames": U32(8),
        "default_maptrack_frames": False, "maptrack_frames": U32(16), "fits": True, "vmids_left": True,
        "memory_left": True, **changes,
    }
    return create_domain(s, **known)


def flags(**changes: Any) -> Word:
    """Flags of a new domain."""
    return encode(fields(CreateFlags, **{"hvm": True, "hap": True, **changes}))


def test_create__refuses_all_but_control_domains() -> None:
    assert create(machine(), caller=MAPPER, domain=GRANTER).code == -EPERM


def test_create__refuses_an_id_in_use() -> None:
    assert create(machine(), domain=GRANTER, flags=Word(0)).code == -EEXIST


@pytest.mark.parametrize(
    "changes",
    [
        {"flags": Word(0)}, {"flags": flags(hvm=False)}, {"flags": flags(hap=False)}, {"flags": flags(other=1)},
        {"flags": flags(xs_domain=True)}, {"flags": flags(nested_virt=True)}, {"flags": flags(s3_integrity=True)},
        {"flags": flags(oos_off=True)}, {"flags": flags(iommu=True)}, {"iommu_options": U32(1)},
        {"grant_options": U32(16)}, {"fits": False},
    ],
)
def test_create__refuses_what_arm_has_not(changes: dict[str, Any]) -> None:
    assert create(machine(), vmids_left=False, **changes).code == -EINVAL


def test_create__refuses_without_a_vmid() -> None:
    assert create(machine(), vmids_left=False, memory_left=False).code == -EBUSY


def test_create__refuses_without_memory() -> None:
    assert create(machine(), memory_left=False, grant_options=U32(0)).code == -ENOMEM


@pytest.mark.parametrize(
    "changes",
    [{"grant_options": U32(0)}, {"grant_options": U32(3)}, {"grant_frames": U32(0)}, {"grant_frames": U32(65)},
     {"maptrack_frames": U32(1025)}],
)
def test_create__refuses_limits_of_grants_that_the_host_has_not(changes: dict[str, Any]) -> None:
    assert create(machine(), **changes).code == -EINVAL


def test_create__takes_the_hosts_limits_by_default() -> None:
    s = machine()
    row = sound(create(s, default_grant_frames=True, default_maptrack_frames=True), s, DOM0).state.domain[NEW]
    assert (64, 1024) == (row.max_grant_frames, row.max_maptrack_frames)


def test_create__lets_an_iommu_be_used_if_there_is_one() -> None:
    assert create(machine(iommu=True), flags=flags(iommu=True)).state.domain[NEW].iommu


def test_create__makes_a_domain_that_nobody_can_look_up() -> None:
    after = create(machine()).state
    assert Status.BUILDING == after.domain[NEW].status
    assert not exists(after, NEW)
    assert NO_GFN == after.domain[NEW].lowest_gfn


def built(s: State) -> State:
    """The state in which the new domain has all that it needs, from the first free frames."""
    s = build_root(create(s).state, NEW, FREE).state
    for i in range(FIRST_POOL):
        s = build_pool(s, NEW, Mfn(FREE + 1 + i)).state
    return build_grant_table(build_shared_info(s, NEW, Mfn(FREE + 17)).state, NEW, Mfn(FREE + 18)).state


def test_build__takes_its_frames_from_the_heap() -> None:
    s = built(machine())
    assert broken(s) == []
    assert 64 - 19 == s.heap[HEAP].free
    assert (FIRST_POOL, FIRST_POOL) == (s.domain[NEW].pool_pages, s.domain[NEW].pool_free)
    assert (Use.SHARED, NEW) == (s.frame[s.domain[NEW].shared_info].use, s.frame[s.domain[NEW].shared_info].owner)
    assert s.grant_frame[NEW, 0].mfn == FREE + 18


@pytest.mark.parametrize("step", [build_root, build_pool, build_shared_info])
def test_build__fails_when_the_rest_is_promised(step: Any) -> None:
    s = put(create(machine()).state, "heap", HEAP, claimed=64)
    assert step(s, NEW, FREE).code == -ENOMEM


def test_build_grant_table__fails_when_the_rest_is_promised() -> None:
    s = build_shared_info(create(machine()).state, NEW, FREE).state
    s = put(s, "heap", HEAP, claimed=63)
    assert build_grant_table(s, NEW, Mfn(FREE + 1)).code == -ENOMEM


def test_build_shared_info__clears_it_in_the_caches_only() -> None:
    assert build_shared_info(create(machine()).state, NEW, FREE).state.frame[FREE].unclean


def test_build_repaired__writes_back_what_it_clears() -> None:
    s = build_shared_info_repaired(create(machine()).state, NEW, FREE).state
    s = build_grant_table_repaired(s, NEW, Mfn(FREE + 1)).state
    assert (False, False) == (s.frame[FREE].unclean, s.frame[Mfn(FREE + 1)].unclean)


def test_list__makes_the_domain_known() -> None:
    s = built(machine())
    after = sound(list_domain(s, NEW), s, NOBODY).state
    assert exists(after, NEW)
    assert not after.domain[NEW].created


def test_list__needs_a_complete_domain() -> None:
    s = create(machine()).state
    with pytest.raises(IllegalChoice):
        list_domain(s, NEW)


def test_abandon__gives_everything_back() -> None:
    s = built(machine())
    s = abandon_domain(s, NEW).state
    s = dismantled(s, NEW, pool=range(FREE + 1, FREE + 17), root=FREE)
    assert 64 == s.heap[HEAP].free
    assert Status.ABSENT == s.domain[NEW].status


# ---- finishing creation


def test_finish_creation__refuses_an_unknown_domain() -> None:
    assert finish_creation(machine(), MAPPER, UNKNOWN).code == -ESRCH


def test_finish_creation__refuses_all_but_control_domains() -> None:
    assert finish_creation(machine(), MAPPER, GRANTER).code == -EPERM


def test_finish_creation__of_a_domain_that_has_run_does_nothing() -> None:
    s = machine()
    assert finish_creation(s, DOM0, GRANTER).state is s


def test_finish_creation__clears_the_valid_bits() -> None:
    s = put(machine(), "domain", GRANTER, created=False)
    after = sound(finish_creation(s, DOM0, GRANTER), s, DOM0).state
    assert after.domain[GRANTER].created
    assert not after.p2m[GRANTER, PAGE].hardware


def test_finish_creation__leaves_the_valid_bits_to_an_iommu() -> None:
    s = put(machine(), "domain", GRANTER, created=False, iommu=True)
    assert finish_creation(s, DOM0, GRANTER).state.p2m[GRANTER, PAGE].hardware


# ---- destruction


@pytest.mark.parametrize(("caller", "domain", "expected"), [(MAPPER, UNKNOWN, ESRCH), (MAPPER, GRANTER, EPERM),
                                                            (DOM0, DOM0, EINVAL)])
def test_kill__refuses_in_order(caller: DomId, domain: DomId, expected: int) -> None:
    assert -expected == kill_domain(machine(), caller, domain).code


def test_kill__marks_the_domain_and_gives_up_its_claim() -> None:
    s = heap.stake_claim(machine(), GRANTER, 2)
    after = sound(kill_domain(s, DOM0, GRANTER), s, DOM0).state
    row = after.domain[GRANTER]
    assert (Status.DYING, 0, 0) == (row.status, row.claimed, after.heap[HEAP].claimed)


def test_kill__goes_on_with_a_dying_domain() -> None:
    s = put(machine(), "domain", GRANTER, status=Status.DYING)
    outcome = kill_domain(s, DOM0, GRANTER)
    assert Kind.RESTART == outcome.kind
    assert outcome.state is s


def test_kill__of_a_dead_domain_is_done() -> None:
    s = put(machine(), "domain", GRANTER, status=Status.DEAD)
    assert Kind.DONE == kill_domain(s, DOM0, GRANTER).kind


def test_kill__waits_for_an_unmapping() -> None:
    s = put(machine(), "release", (GRANTER, Handle(0)), held=True)
    with pytest.raises(IllegalChoice):
        kill_domain(s, DOM0, GRANTER)


def stage(s: State, domain: DomId) -> State:
    """The next stage of the destruction."""
    return finish_stage(s, domain).state


def without_frames(s: State, domain: DomId) -> State:
    """The dying domain has given up its grants, what Xen shares with it, and its pages."""
    s = stage(s, domain)
    for mfn in (shared_info_of(domain), grant_frame_of(domain)):
        s = relinquish_frame(s, domain, mfn).state
    s = stage(s, domain)
    for i in range(PAGES):
        s = relinquish_frame(s, domain, Mfn(frame_of(domain) + i)).state
    return stage(s, domain)


def dead(s: State, domain: DomId, *mapped: Gfn) -> State:
    """The dying domain, which has given up its frames, has died.  mapped: where it had mappings besides its RAM."""
    for gfn in sorted([*mapped, *[Gfn(PAGE + i) for i in range(PAGES)]]):
        s = relinquish_mapping(s, domain, gfn).state
    s = stage(s, domain)
    while s.domain[domain].pool_free < s.domain[domain].pool_pages:
        s = give_table(s, domain).state
    s = stage(s, domain)
    for i in range(s.domain[domain].pool_pages):
        s = relinquish_pool(s, domain, pool_frame_of(domain, i)).state
    return stage(s, domain)


def dismantled(s: State, domain: DomId, *, pool: Any = (), root: int | None = None) -> State:
    """The unlisted domain is forgotten."""
    while s.domain[domain].grant_frames:
        s = free_grant_frame(s, domain).state
    s = free_shared_info(s, domain).state
    if root is not None:
        s = free_root(s, domain, Mfn(root)).state
    for mfn in pool:
        s = relinquish_pool(s, domain, Mfn(mfn)).state
    return forget_domain(s, domain).state


def test_destruction__from_the_first_step_to_the_last() -> None:
    s = machine()
    s = kill_domain(s, DOM0, GRANTER).state
    s = without_frames(free_maptrack_frame(s, GRANTER).state, GRANTER)
    assert broken(s) == []
    s = dead(s, GRANTER)
    assert (Status.DEAD, []) == (s.domain[GRANTER].status, broken(s))
    s = unlist_domain(s, GRANTER).state
    assert not exists(s, GRANTER)
    s = dismantled(s, GRANTER)
    assert (Status.ABSENT, 0) == (s.domain[GRANTER].status, s.domain[GRANTER].max_pages)
    assert broken(s) == []


def test_destruction__pages_are_to_be_scrubbed() -> None:
    s = without_frames(kill_domain(machine(), DOM0, GRANTER).state, GRANTER)
    frame = s.frame[frame_of(GRANTER)]
    assert (Use.FREE, True) == (frame.use, frame.dirty)
    assert s.word[frame_of(GRANTER), Index(0)].secret


def test_destruction__releases_grant_mappings_first() -> None:
    s = mapped_grant(grant_v1(machine(), GRANTER, 9, MAPPER), GRANTER, 9, MAPPER, 0, HOLE)
    s = kill_domain(s, DOM0, MAPPER).state
    with pytest.raises(IllegalChoice):
        finish_stage(s, MAPPER)
    s = release_mapping(s, MAPPER, Handle(0)).state
    assert (1, 0) == (s.frame[frame_of(GRANTER)].references, s.active_grant[GRANTER, GrantRef(9)].host_writers)
    assert Stage.SHARED == finish_stage(s, MAPPER).state.domain[MAPPER].stage


def test_destruction__clears_the_grant_rows_too() -> None:
    s = mapped_grant(grant_v1(machine(), GRANTER, 9, MAPPER), GRANTER, 9, MAPPER, 0, HOLE)
    s = release_mapping(kill_domain(s, DOM0, MAPPER).state, MAPPER, Handle(0)).state
    s = dead(without_frames(s, MAPPER), MAPPER, HOLE)
    assert P2mType.INVALID == s.p2m[MAPPER, HOLE].type


def test_destruction__leaves_no_stage_unfinished() -> None:
    s = kill_domain(machine(), DOM0, GRANTER).state
    s = finish_stage(s, GRANTER).state
    with pytest.raises(IllegalChoice):
        finish_stage(s, GRANTER)


def test_destruction__drops_foreign_references() -> None:
    s = put(machine(), "domain", OTHER, device_model=True, target=GRANTER)
    s = with_row(s, OTHER, HOLE, frame_of(GRANTER), P2mType.MAP_FOREIGN_RW)
    s = dead(without_frames(kill_domain(s, DOM0, OTHER).state, OTHER), OTHER, HOLE)
    assert 1 == s.frame[frame_of(GRANTER)].references


def test_destruction__skips_no_mapping() -> None:
    s = without_frames(kill_domain(machine(), DOM0, GRANTER).state, GRANTER)
    with pytest.raises(IllegalChoice):
        relinquish_mapping(s, GRANTER, Gfn(PAGE + 1))


def held_by_dom0() -> State:
    """The granter is dead, and the control domain has one of its pages mapped."""
    s = machine()
    s = add_to_physmap_batch(
        s, DOM0, DOM0, U32(SPACE_GMFN_FOREIGN), GRANTER, U64(PAGE), HOLE, U16(1), U64(0), tables_left=True
    ).state
    return dead(without_frames(kill_domain(s, DOM0, GRANTER).state, GRANTER), GRANTER)


def test_dead__stays_while_its_pages_are_held() -> None:
    s = held_by_dom0()
    assert (Status.DEAD, 1) == (s.domain[GRANTER].status, s.domain[GRANTER].tot_pages)
    with pytest.raises(IllegalChoice):
        unlist_domain(s, GRANTER)


def test_dead__goes_when_the_last_page_is_let_go() -> None:
    s = held_by_dom0()
    s = remove_from_physmap(s, DOM0, DOM0, HOLE, U64(0), tables_left=True).state
    assert (Use.FREE, True) == (s.frame[frame_of(GRANTER)].use, s.frame[frame_of(GRANTER)].dirty)
    assert Status.UNLISTED == unlist_domain(s, GRANTER).state.domain[GRANTER].status


def test_dead__stays_while_a_device_model_serves_it() -> None:
    s = dead(without_frames(kill_domain(machine(), DOM0, GRANTER).state, GRANTER), GRANTER)
    s = put(s, "domain", OTHER, device_model=True, target=GRANTER)
    with pytest.raises(IllegalChoice):
        unlist_domain(s, GRANTER)


# ---- DEV-22


def forgetful(step: Callable[[State, DomId, Gfn], Outcome[State]]) -> State:
    """A page of a dying domain becomes a grant frame of another one, which maps it; then the old mapping is cleared."""
    s = without_frames(kill_domain(machine(), DOM0, GRANTER).state, GRANTER)
    reused = frame_of(GRANTER)
    s = grow_for_frame(s, MAPPER, MAPPER, U64(1), memory_left=True, mfn=reused, status_mfn=FREE, begun=True).state
    s = add_to_physmap(
        s, MAPPER, MAPPER, U32(SPACE_GRANT_TABLE), U64(1), HOLE, U16(0), U64(0), tables_left=True
    ).state
    assert s.frame[reused].mapped
    return step(s, GRANTER, PAGE).state


def test_relinquish_mapping__forgets_where_another_domains_frame_is_mapped() -> None:
    s = forgetful(relinquish_mapping)
    assert (False, True) == (s.frame[frame_of(GRANTER)].mapped, s.deviation[Index(0)].dev22)


def test_relinquish_mapping_repaired__leaves_the_record_alone() -> None:
    s = forgetful(relinquish_mapping_repaired)
    assert (True, False) == (s.frame[frame_of(GRANTER)].mapped, s.deviation[Index(0)].dev22)


def test_relinquish_mapping__forgets_where_its_own_frame_was_mapped() -> None:
    s = mapped_shared_frame(machine(), GRANTER, HOLE, shared_info_of(GRANTER))
    s = dead(without_frames(kill_domain(s, DOM0, GRANTER).state, GRANTER), GRANTER, HOLE)
    assert not s.frame[shared_info_of(GRANTER)].mapped
