"""Tests of add_to_physmap, its batch, and remove_from_physmap."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from spec.errors import (
    EACCES,
    EBUSY,
    EDOM,
    EILSEQ,
    EINVAL,
    ENOENT,
    ENOMEM,
    ENOSYS,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
    ESRCH,
)
from spec.language import U16, U32, U64, DomId, Gfn, Handle, Index, Kind, Mfn, Outcome, put
from spec.memory.physmap import (
    SPACE_DEV_MMIO,
    SPACE_GMFN,
    SPACE_GMFN_FOREIGN,
    SPACE_GMFN_RANGE,
    SPACE_GRANT_TABLE,
    SPACE_SHARED_INFO,
    add_to_physmap,
    add_to_physmap_batch,
    add_to_physmap_batch_repaired,
    remove_from_physmap,
)
from spec.state import DOMID_IO, DOMID_SELF, DOMID_XEN, NOBODY, P2mType, State, Status
from tests.spec.machine import (
    DOM0,
    GRANTER,
    HOLE,
    MAPPER,
    OTHER,
    PAGE,
    UNKNOWN,
    frame_of,
    grant_frame_of,
    grant_v1,
    machine,
    mapped_grant,
    mapped_shared_frame,
    shared_info_of,
    sound,
    status_frame_of,
    with_domain,
    with_row,
)

DEVICE = Mfn(0x9000)
NO_FRAME = Gfn((1 << 64) - 1)


def add(s: State, *, caller: DomId = MAPPER, domain: DomId = MAPPER, space: int = SPACE_SHARED_INFO, idx: int = 0,
        gfn: int = HOLE, size: int = 0, cursor: int = 0, tables_left: bool = True) -> Outcome[State]:
    """add_to_physmap by the mapper, of its own shared information."""
    return add_to_physmap(
        s, caller, domain, U32(space), U64(idx), Gfn(gfn), U16(size), U64(cursor), tables_left
    )


def batch(s: State, *, caller: DomId = DOM0, domain: DomId = DOM0, space: int = SPACE_GMFN_FOREIGN,
          foreign: DomId = GRANTER, idx: int = PAGE, gfn: int = HOLE, size: int = 1, cursor: int = 0,
          tables_left: bool = True, step: Callable[..., Outcome[State]] = add_to_physmap_batch) -> Outcome[State]:
    """One element of add_to_physmap_batch by the control domain, of the granter's first page."""
    return step(
        s, caller, domain, U32(space), foreign, U64(idx), Gfn(gfn), U16(size), U64(cursor), tables_left
    )


def remove(s: State, *, caller: DomId = MAPPER, domain: DomId = MAPPER, gfn: int = PAGE, cursor: int = 0,
           tables_left: bool = True) -> Outcome[State]:
    """remove_from_physmap by the mapper, of its own first page."""
    return remove_from_physmap(s, caller, domain, Gfn(gfn), U64(cursor), tables_left)


def error(outcome: Outcome[State]) -> int:
    """What became of the element, of a call that was done."""
    assert outcome.code == 0
    return int(outcome.output["error"])


def with_device(s: State, *domains: DomId) -> State:
    """The state in which the domains may map the device."""
    for domain in domains:
        s = put(s, "iomem", (domain, DEVICE), allowed=True)
    return s


# ---- the call


def test_add__refuses_a_cursor_above_16_bits() -> None:
    assert add(machine(), cursor=1 << 16, domain=UNKNOWN).code == -EDOM


def test_add__takes_a_cursor_of_16_bits() -> None:
    """The largest cursor fits the size, and is looked at with it."""
    assert add(machine(), space=SPACE_GMFN_RANGE, size=1, cursor=(1 << 16) - 1).code == -EILSEQ


def test_add__refuses_pages_of_another_domain() -> None:
    assert add(machine(), space=SPACE_GMFN_FOREIGN, domain=UNKNOWN).code == -ENOSYS


def test_add__refuses_an_unknown_domain() -> None:
    assert add(machine(), domain=UNKNOWN, space=SPACE_DEV_MMIO).code == -ESRCH


def test_add__refuses_a_device_to_all_but_the_hardware_domain() -> None:
    assert add(machine(), domain=GRANTER, space=SPACE_DEV_MMIO).code == -EACCES


def test_add__refuses_a_device_that_the_hardware_domain_maps_for_another() -> None:
    assert add(machine(), caller=DOM0, domain=GRANTER, space=SPACE_DEV_MMIO).code == -EACCES


def test_add__refuses_a_caller_without_rights() -> None:
    assert add(machine(), domain=GRANTER, gfn=NO_FRAME).code == -EPERM


def test_add__refuses_no_guest_frame() -> None:
    assert add(machine(), gfn=NO_FRAME, space=SPACE_GMFN).code == -EINVAL


def test_add__takes_32_bits_of_the_guest_frame_on_arm32() -> None:
    assert add(machine(arm32=True), gfn=(1 << 32) - 1).code == -EINVAL


def test_add__serves_the_device_model_of_the_domain() -> None:
    s = put(machine(), "domain", OTHER, device_model=True, target=GRANTER)
    assert sound(add(s, caller=OTHER, domain=GRANTER), s, OTHER).code == 0


# ---- ranges


def test_add_range__refuses_a_cursor_behind_the_end() -> None:
    assert add(machine(), space=SPACE_GMFN_RANGE, size=1, cursor=2).code == -EILSEQ


@pytest.mark.parametrize(("idx", "gfn"), [(0, (1 << 64) - 2), ((1 << 64) - 2, 0)])
def test_add_range__refuses_what_wraps(idx: int, gfn: int) -> None:
    assert add(machine(), space=SPACE_GMFN_RANGE, size=2, idx=idx, gfn=gfn).code == -EOVERFLOW


def test_add_range__has_nothing_to_do_for_no_page() -> None:
    s = machine()
    outcome = add(s, space=SPACE_GMFN_RANGE)
    assert outcome.code == 0
    assert outcome.state is s


def test_add_range__is_not_there() -> None:
    assert add(machine(), space=SPACE_GMFN_RANGE, size=1).code == -ENOSYS


@pytest.mark.parametrize("space", [SPACE_GMFN, 6, (1 << 32) - 1])
def test_add__refuses_a_space_that_arm_has_not(space: int) -> None:
    assert add(machine(), space=space).code == -ENOSYS


# ---- shared information


def test_add_shared_info__refuses_another_index() -> None:
    assert add(machine(), idx=1).code == -EINVAL


def test_add_shared_info__refuses_a_page_that_is_mapped_already() -> None:
    s = mapped_shared_frame(machine(), MAPPER, HOLE, shared_info_of(MAPPER))
    assert add(s, gfn=HOLE + 1).code == -EBUSY


def test_add_shared_info__refuses_a_dying_domain() -> None:
    s = put(machine(), "domain", GRANTER, status=Status.DYING)
    assert add(s, caller=DOM0, domain=GRANTER).code == -ENOMEM


def test_add_shared_info__refuses_a_guest_frame_beyond_the_root() -> None:
    assert add(machine(), gfn=1 << 28).code == -EINVAL


def test_add_shared_info__tells_of_a_dying_domain_before_the_end_of_the_root() -> None:
    """A domain that is being destroyed has no memory for tables, wherever the page was to go."""
    s = put(machine(), "domain", GRANTER, status=Status.DYING)
    assert add(s, caller=DOM0, domain=GRANTER, gfn=1 << 28).code == -ENOMEM


def test_add_shared_info__tells_of_the_end_of_the_root_before_missing_tables() -> None:
    """Beyond the root no table is looked for, so none is missing."""
    s = put(machine(), "domain", MAPPER, pool_free=0)
    assert add(s, gfn=1 << 28, tables_left=False).code == -EINVAL


def test_add_shared_info__fails_without_table_pages() -> None:
    s = put(machine(), "domain", MAPPER, pool_free=0)
    assert add(s, tables_left=False).code == -ENOENT


def test_add_shared_info__maps_the_page_and_records_where() -> None:
    s = machine()
    after = sound(add(s), s, MAPPER).state
    frame = after.frame[shared_info_of(MAPPER)]
    row = after.p2m[MAPPER, HOLE]
    assert (P2mType.RAM_RW, shared_info_of(MAPPER), True, HOLE) == (row.type, row.mfn, frame.mapped, frame.gfn)


def test_add_shared_info__replaces_what_was_mapped_there() -> None:
    s = machine()
    after = sound(add(s, gfn=PAGE), s, MAPPER).state
    assert shared_info_of(MAPPER) == after.p2m[MAPPER, PAGE].mfn
    assert after.frame[frame_of(MAPPER)].allocated


# ---- the grant table


def test_add_grant_frame__refuses_a_frame_that_the_table_has_not() -> None:
    assert add(machine(), space=SPACE_GRANT_TABLE, idx=1).code == -EINVAL


def test_add_grant_frame__takes_32_bits_of_the_index() -> None:
    s = machine()
    assert grant_frame_of(MAPPER) == add(s, space=SPACE_GRANT_TABLE, idx=1 << 32).state.p2m[MAPPER, HOLE].mfn


def test_add_grant_frame__refuses_a_frame_without_references() -> None:
    s = put(machine(), "frame", grant_frame_of(MAPPER), references=0, allocated=False)
    assert add(s, space=SPACE_GRANT_TABLE).code == -EBUSY


def test_add_grant_frame__refuses_a_frame_that_is_mapped_already() -> None:
    s = mapped_shared_frame(machine(), MAPPER, HOLE, grant_frame_of(MAPPER))
    assert add(s, space=SPACE_GRANT_TABLE, gfn=HOLE + 1).code == -EBUSY


def test_add_grant_frame__keeps_no_reference() -> None:
    s = machine()
    after = sound(add(s, space=SPACE_GRANT_TABLE), s, MAPPER).state
    assert (1, True) == (after.frame[grant_frame_of(MAPPER)].references, after.frame[grant_frame_of(MAPPER)].mapped)


def test_add_status_frame__maps_it_under_version_2() -> None:
    s = machine(version=2)
    after = sound(add(s, space=SPACE_GRANT_TABLE, idx=1 << 31), s, MAPPER).state
    assert status_frame_of(MAPPER) == after.p2m[MAPPER, HOLE].mfn


def test_add_status_frame__is_an_unknown_frame_under_version_1() -> None:
    assert add(machine(), space=SPACE_GRANT_TABLE, idx=1 << 31).code == -EINVAL


# ---- devices


def test_add_device__maps_nothing_that_is_not_permitted() -> None:
    s = machine()
    outcome = add(s, caller=DOM0, domain=DOM0, space=SPACE_DEV_MMIO, idx=DEVICE)
    assert outcome.code == 0
    assert outcome.state is s


def test_add_device__maps_a_permitted_frame() -> None:
    s = with_device(machine(), DOM0)
    after = sound(add(s, caller=DOM0, domain=DOM0, space=SPACE_DEV_MMIO, idx=DEVICE), s, DOM0).state
    assert (P2mType.MMIO_DIRECT_C, DEVICE) == (after.p2m[DOM0, HOLE].type, after.p2m[DOM0, HOLE].mfn)


def test_add_device__maps_a_frame_in_a_batch_that_names_no_other_domain() -> None:
    s = with_device(machine(), DOM0)
    outcome = sound(batch(s, space=SPACE_DEV_MMIO, foreign=DomId(0), idx=DEVICE), s, DOM0)
    assert (0, P2mType.MMIO_DIRECT_C) == (outcome.output["error"], outcome.state.p2m[DOM0, HOLE].type)


# ---- the batch


def test_batch__refuses_a_cursor_above_16_bits() -> None:
    assert batch(machine(), cursor=1 << 16).code == -EDOM
    assert batch(machine(), cursor=(1 << 16) - 1).code == -EILSEQ


def test_batch__refuses_a_range() -> None:
    assert batch(machine(), space=SPACE_GMFN_RANGE, domain=UNKNOWN).code == -EOPNOTSUPP


def test_batch__refuses_an_unknown_domain() -> None:
    assert batch(machine(), domain=UNKNOWN).code == -ESRCH


def test_batch__refuses_a_device_to_all_but_the_hardware_domain() -> None:
    assert batch(machine(), caller=MAPPER, domain=MAPPER, space=SPACE_DEV_MMIO).code == -EACCES


def test_batch__refuses_a_caller_without_rights() -> None:
    assert batch(machine(), caller=MAPPER, domain=GRANTER, cursor=2).code == -EPERM


def test_batch__refuses_a_cursor_behind_the_end() -> None:
    assert batch(machine(), cursor=2).code == -EILSEQ


def test_batch__refuses_a_cursor_at_the_end() -> None:
    assert batch(machine(), cursor=1).code == -EILSEQ


def test_batch__has_nothing_to_do_for_no_element() -> None:
    s = machine()
    outcome = batch(s, size=0)
    assert outcome.code == 0
    assert outcome.state is s


def test_batch__refuses_a_device_with_a_reserved_field() -> None:
    assert batch(machine(), space=SPACE_DEV_MMIO, foreign=GRANTER, gfn=NO_FRAME).code == -EOPNOTSUPP


def test_batch__refuses_no_guest_frame() -> None:
    assert batch(machine(), gfn=NO_FRAME).code == -EINVAL


@pytest.mark.parametrize(("foreign", "expected"), [(DOM0, ESRCH), (UNKNOWN, ESRCH), (DOMID_SELF, EINVAL)])
def test_batch_foreign__refuses_these_owners(foreign: DomId, expected: int) -> None:
    assert -expected == error(batch(machine(), foreign=foreign))


def test_batch_foreign__finds_nothing_of_xens_own() -> None:
    assert -EINVAL == error(batch(machine(), foreign=DOMID_IO, idx=1))
    assert -EINVAL == error(batch(machine(), foreign=DOMID_XEN, idx=0))


def test_batch_foreign__first_page_of_domid_io_stops_arm64() -> None:
    outcome = batch(machine(), foreign=DOMID_IO, idx=0)
    assert (outcome.kind, outcome.output, outcome.state.deviation[Index(0)].dev35) == (
        Kind.CRASH, {"domain": NOBODY}, True)


def test_batch_foreign__first_page_of_domid_io_is_none_on_arm32_and_of_a_repaired_xen() -> None:
    for outcome in (batch(machine(arm32=True), foreign=DOMID_IO, idx=0),
                    batch(machine(), foreign=DOMID_IO, idx=0, step=add_to_physmap_batch_repaired)):
        assert (-EINVAL, False) == (error(outcome), outcome.state.deviation[Index(0)].dev35)


def test_batch_foreign__refuses_xens_own_to_a_domain_without_rights() -> None:
    assert -EPERM == error(batch(machine(), caller=MAPPER, domain=MAPPER, foreign=DOMID_IO))


def test_batch_foreign__refuses_the_domain_itself() -> None:
    assert -EINVAL == error(batch(machine(), domain=GRANTER))


def test_batch_foreign__refuses_an_owner_on_which_the_domain_may_not_act() -> None:
    assert -EPERM == error(batch(machine(), caller=MAPPER, domain=MAPPER))


def test_batch_foreign__asks_for_the_rights_of_the_destination() -> None:
    assert -EPERM == error(batch(machine(), caller=DOM0, domain=MAPPER))


def test_batch_foreign__refuses_a_hole() -> None:
    assert -EINVAL == error(batch(machine(), idx=HOLE))


def test_batch_foreign__refuses_what_the_owner_has_by_a_grant() -> None:
    s = mapped_grant(grant_v1(machine(), OTHER, 9, GRANTER), OTHER, 9, GRANTER, 0, HOLE)
    assert -EINVAL == error(batch(s, idx=HOLE))


def test_batch_foreign__refuses_a_page_whose_references_are_full() -> None:
    assert -EINVAL == error(batch(machine(reference_limit=2)))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(P2mType.RAM_RW, P2mType.MAP_FOREIGN_RW), (P2mType.RAM_RO, P2mType.MAP_FOREIGN_RO)],
)
def test_batch_foreign__maps_with_the_owners_rights(kind: P2mType, expected: P2mType) -> None:
    s = put(machine(), "p2m", (GRANTER, PAGE), type=kind)
    after = sound(batch(s), s, DOM0).state
    assert expected == after.p2m[DOM0, HOLE].type


def test_batch_foreign__takes_a_reference() -> None:
    s = machine()
    assert sound(batch(s), s, DOM0).state.frame[frame_of(GRANTER)].references == 2


def test_batch_foreign__takes_no_reference_if_the_mapping_fails() -> None:
    s = put(machine(), "domain", DOM0, pool_free=0)
    outcome = batch(s, tables_left=False)
    assert -ENOENT == error(outcome)
    assert outcome.state is s


def test_batch_foreign__replacing_a_foreign_page_drops_its_reference() -> None:
    s = batch(machine()).state
    after = sound(batch(s, foreign=OTHER), s, DOM0).state
    assert (1, 2) == (after.frame[frame_of(GRANTER)].references, after.frame[frame_of(OTHER)].references)


def test_batch_foreign__serves_a_device_model() -> None:
    s = put(machine(), "domain", OTHER, device_model=True, target=GRANTER)
    assert error(sound(batch(s, caller=OTHER, domain=OTHER), s, OTHER)) == 0


def test_batch__maps_shared_information_too() -> None:
    s = machine()
    assert error(batch(s, caller=MAPPER, domain=MAPPER, space=SPACE_SHARED_INFO, idx=0)) == 0


# ---- removal


def test_remove__refuses_a_cursor() -> None:
    assert remove(machine(), cursor=1, domain=UNKNOWN).code == -EINVAL


def test_remove__refuses_an_unknown_domain() -> None:
    assert remove(machine(), domain=UNKNOWN).code == -ESRCH


def test_remove__refuses_a_caller_without_rights() -> None:
    assert remove(machine(), domain=GRANTER).code == -EPERM


def test_remove__refuses_a_hole() -> None:
    assert remove(machine(), gfn=HOLE).code == -ENOENT


def test_remove__of_the_same_page_again_finds_a_hole() -> None:
    assert remove(remove(machine()).state).code == -ENOENT


def test_remove__refuses_a_device() -> None:
    s = with_device(with_row(machine(), MAPPER, HOLE, DEVICE, P2mType.MMIO_DIRECT_DEV), MAPPER)
    assert remove(s, gfn=HOLE).code == -ENOENT


def test_remove__refuses_a_grant_of_another_domain() -> None:
    s = mapped_grant(grant_v1(machine(), GRANTER, 9, MAPPER), GRANTER, 9, MAPPER, 0, HOLE)
    assert remove(s, gfn=HOLE).code == -ENOENT


def test_remove__refuses_a_shared_page_without_references() -> None:
    s = mapped_shared_frame(machine(), MAPPER, HOLE, shared_info_of(MAPPER))
    s = put(s, "frame", shared_info_of(MAPPER), references=0, allocated=False)
    assert remove(s, gfn=HOLE).code == -ENOENT


def test_remove__refuses_a_dying_domain() -> None:
    s = put(machine(), "domain", GRANTER, status=Status.DYING)
    assert remove(s, caller=DOM0, domain=GRANTER).code == -ENOMEM


def test_remove__leaves_a_page_with_its_owner() -> None:
    s = machine()
    after = sound(remove(s), s, MAPPER).state
    frame = after.frame[frame_of(MAPPER)]
    assert (P2mType.INVALID, True, 1) == (after.p2m[MAPPER, PAGE].type, frame.allocated, frame.references)


def test_remove__drops_the_reference_of_a_foreign_page() -> None:
    s = batch(machine()).state
    after = sound(remove(s, caller=DOM0, domain=DOM0, gfn=HOLE), s, DOM0).state
    assert (P2mType.INVALID, 1) == (after.p2m[DOM0, HOLE].type, after.frame[frame_of(GRANTER)].references)


def test_remove__refuses_a_foreign_page_without_room_for_a_reference() -> None:
    """XSA-473: none is dropped that was not taken."""
    s = put(batch(machine()).state, "settings", Index(0), reference_limit=3)
    outcome = remove(s, caller=DOM0, domain=DOM0, gfn=HOLE)
    assert (outcome.code, outcome.state is s) == (-ENOENT, True)


def test_remove__lets_a_shared_page_be_mapped_again() -> None:
    s = add(machine()).state
    s = sound(remove(s, gfn=HOLE), s, MAPPER).state
    assert add(s, gfn=HOLE + 1).code == 0


def test_remove__of_a_grant_to_oneself_leaves_the_mapping_on_record() -> None:
    s = mapped_grant(grant_v1(machine(), MAPPER, 9, MAPPER), MAPPER, 9, MAPPER, 0, HOLE)
    after = sound(remove(s, gfn=HOLE), s, MAPPER).state
    assert (True, 2) == (after.mapping[MAPPER, Handle(0)].host, after.frame[frame_of(MAPPER)].references)


def test_add__a_domain_without_pages_gets_its_shared_page() -> None:
    s = with_domain(machine(domains=(DOM0,)), GRANTER, max_pages=0)
    assert add(s, caller=GRANTER, domain=GRANTER).code == 0


def test_remove_from_physmap__fails_if_a_block_cannot_be_split() -> None:
    s = put(machine(), "domain", MAPPER, pool_free=0)
    outcome = remove(s, tables_left=False)
    assert outcome.code == -ENOMEM
    assert outcome.state is s
    assert remove(s, gfn=HOLE, tables_left=False).code == -ENOENT


def test_add_to_physmap__answers_enomem_where_a_block_would_be_split() -> None:
    s = put(machine(), "domain", MAPPER, pool_free=0)
    assert (-ENOENT, -ENOMEM) == (add(s, tables_left=False).code, add(s, gfn=PAGE, tables_left=False).code)
