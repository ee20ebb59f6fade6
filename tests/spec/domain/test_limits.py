"""Tests of what a control domain decides about another domain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from spec.domain.limits import iomem_permission, iomem_permission_repaired, max_mem, memory_mapping, set_target
from spec.errors import E2BIG, EILSEQ, EINVAL, ENOENT, ENOMEM, EPERM, ESRCH
from spec.language import U64, DomId, Gfn, Index, Mfn, Outcome, fill, put, span
from spec.language.outcomes import IllegalChoice
from spec.state import P2mType, State, Status
from tests.spec.machine import DOM0, GRANTER, HOLE, MAPPER, OTHER, PAGE, UNKNOWN, frame_of, machine, sound, with_row

DEVICE = Mfn(0x9000)


def with_devices(*domains: DomId) -> State:
    """The machine in which the domains may map 128 frames of devices."""
    s = machine()
    for domain in domains:
        s = fill(s, "iomem", (domain, span(DEVICE, 128)), lambda _row, _domain, _mfn: {"allowed": True})
    return s


# ---- max_mem


@pytest.mark.parametrize(("domain", "expected"), [(UNKNOWN, ESRCH), (GRANTER, EPERM)])
def test_max_mem__refuses_in_order(domain: DomId, expected: int) -> None:
    assert -expected == max_mem(machine(), MAPPER, domain, U64(4)).code


@pytest.mark.parametrize(("kilobytes", "pages"), [(0, 0), (7, 1), (8, 2), ((1 << 64) - 1, (1 << 32) - 1)])
def test_max_mem__counts_pages(kilobytes: int, pages: int) -> None:
    s = machine()
    assert pages == sound(max_mem(s, DOM0, GRANTER, U64(kilobytes)), s, DOM0).state.domain[GRANTER].max_pages


# ---- set_target


@pytest.mark.parametrize(
    ("caller", "domain", "target", "expected"),
    [(MAPPER, UNKNOWN, GRANTER, ESRCH), (MAPPER, OTHER, UNKNOWN, EPERM), (DOM0, OTHER, UNKNOWN, ESRCH),
     (DOM0, OTHER, OTHER, EINVAL)],
)
def test_set_target__refuses_in_order(caller: DomId, domain: DomId, target: DomId, expected: int) -> None:
    assert -expected == set_target(machine(), caller, domain, target).code


def test_set_target__refuses_a_second_target() -> None:
    s = set_target(machine(), DOM0, OTHER, GRANTER).state
    assert set_target(s, DOM0, OTHER, MAPPER).code == -EINVAL


def test_set_target__makes_a_device_model() -> None:
    s = machine()
    row = sound(set_target(s, DOM0, OTHER, GRANTER), s, DOM0).state.domain[OTHER]
    assert (True, GRANTER) == (row.device_model, row.target)


# ---- iomem_permission


def permit(s: State, *, caller: DomId = DOM0, domain: DomId = GRANTER, mfn: int = DEVICE, pages: int = 2,
           allow: bool = True, below: int = 0, step: Callable[..., Outcome[State]] = iomem_permission
           ) -> Outcome[State]:
    """iomem_permission by the control domain for the granter."""
    return step(s, caller, domain, U64(mfn), U64(pages), allow, Mfn(below))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"domain": UNKNOWN, "caller": MAPPER}, ESRCH),
        ({"caller": MAPPER, "pages": 0}, EPERM),
        ({"pages": 0}, EINVAL),
        ({"mfn": (1 << 64) - 1, "pages": 2}, EINVAL),
        ({"mfn": 0, "pages": 0}, EPERM),
        ({"pages": 1 << 52}, EPERM),
        ({"pages": 129}, EPERM),
        ({"mfn": frame_of(MAPPER), "pages": 1}, EPERM),
    ],
)
def test_iomem_permission__refuses_in_order(changes: dict[str, Any], expected: int) -> None:
    assert -expected == permit(with_devices(DOM0), **changes).code


def test_iomem_permission__permits_the_range() -> None:
    s = with_devices(DOM0)
    after = sound(permit(s), s, DOM0).state
    assert [True, True, False] == [after.iomem[GRANTER, Mfn(DEVICE + i)].allowed for i in range(3)]


def test_iomem_permission__lets_the_domain_ask_for_larger_extents() -> None:
    assert permit(with_devices(DOM0)).state.domain[GRANTER].passthrough


def test_iomem_permission__takes_it_back() -> None:
    s = permit(with_devices(DOM0)).state
    after = sound(permit(s, allow=False), s, DOM0).state
    assert (False, False) == (after.iomem[GRANTER, DEVICE].allowed, after.domain[GRANTER].passthrough)


def test_iomem_permission__leaves_the_class_while_something_is_permitted() -> None:
    s = permit(with_devices(DOM0)).state
    assert permit(s, allow=False, pages=1).state.domain[GRANTER].passthrough


def test_iomem_permission__unmaps_nothing() -> None:
    s = permit(with_devices(DOM0)).state
    s = memory_mapping(s, DOM0, GRANTER, U64(HOLE), U64(DEVICE), U64(1), add=True, done=1).state
    after = sound(permit(s, allow=False), s, DOM0).state
    assert (P2mType.MMIO_DIRECT_DEV, True) == (after.p2m[GRANTER, HOLE].type, after.iomem[GRANTER, DEVICE].left)


def in_two_parts() -> State:
    """The granter may have two frames, and two behind a hole of two."""
    s = permit(with_devices(DOM0)).state
    return permit(s, mfn=DEVICE + 4).state


def permitted(s: State) -> list[int]:
    """Which of the first frames the granter may have."""
    return [i for i in range(8) if s.iomem[GRANTER, Mfn(DEVICE + i)].allowed]


@pytest.mark.parametrize(("first", "pages", "left"), [
    (3, 2, [0, 1, 2, 5]), (3, 3, [0, 1, 2]), (3, 4, [0, 1, 2]), (2, 3, [0, 1, 5])])
def test_iomem_permission__taken_back_from_within_a_hole_permits_what_is_before(first: int, pages: int,
                                                                              left: list[int]) -> None:
    after = permit(in_two_parts(), mfn=DEVICE + first, pages=pages, allow=False, below=DEVICE + 1).state
    assert (left, after.deviation[Index(0)].dev37) == (permitted(after), True)


@pytest.mark.parametrize(("first", "pages", "left"), [
    (4, 1, [0, 1, 5]), (1, 4, [0, 5]), (1, 1, [0, 4, 5]), (3, 1, [0, 1, 4, 5]), (6, 2, [0, 1, 4, 5]), (0, 8, [])])
def test_iomem_permission__else_takes_back_what_it_says(first: int, pages: int, left: list[int]) -> None:
    s = in_two_parts()
    after = sound(permit(s, mfn=DEVICE + first, pages=pages, allow=False, below=DEVICE + 1), s, DOM0).state
    assert (left, after.deviation[Index(0)].dev37) == (permitted(after), False)


def test_iomem_permission__from_within_a_hole_below_all_takes_back_what_it_says() -> None:
    after = permit(permit(with_devices(DOM0), mfn=DEVICE + 4).state, mfn=DEVICE + 3, allow=False).state
    assert ([5], False) == (permitted(after), after.deviation[Index(0)].dev37)


def test_iomem_permission__refuses_another_frame_below() -> None:
    for below in (DEVICE, DEVICE + 2, DEVICE + 3):
        with pytest.raises(IllegalChoice):
            permit(in_two_parts(), mfn=DEVICE + 3, allow=False, below=below)


def test_iomem_permission_repaired__permits_nothing_when_it_takes_back() -> None:
    s = in_two_parts()
    after = sound(permit(s, mfn=DEVICE + 3, allow=False, below=DEVICE + 1, step=iomem_permission_repaired), s, DOM0)
    assert ([0, 1, 5], False) == (permitted(after.state), after.state.deviation[Index(0)].dev37)


# ---- memory_mapping


def map_devices(s: State, *, caller: DomId = DOM0, domain: DomId = GRANTER, gfn: int = HOLE, mfn: int = DEVICE,
                pages: int = 2, add: bool = True, done: int | None = None) -> Outcome[State]:
    """memory_mapping by the control domain for the granter."""
    return memory_mapping(
        s, caller, domain, U64(gfn), U64(mfn), U64(pages), add, pages if done is None else done
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"domain": UNKNOWN, "caller": MAPPER}, ESRCH),
        ({"caller": MAPPER, "pages": 0}, EPERM),
        ({"pages": 0}, EINVAL),
        ({"mfn": (1 << 28) - 1, "pages": 2}, EINVAL),
        ({"gfn": (1 << 64) - 1, "pages": 2}, EINVAL),
        ({"mfn": 0, "pages": 65}, E2BIG),
        ({"mfn": 0}, EPERM),
        ({"gfn": 1 << 28, "done": 0}, EINVAL),
        ({"gfn": 1 << 28, "add": False}, EINVAL),
    ],
)
def test_memory_mapping__refuses_in_order(changes: dict[str, Any], expected: int) -> None:
    assert -expected == map_devices(with_devices(DOM0, GRANTER), **changes).code


@pytest.mark.parametrize("permitted", [DOM0, GRANTER])
def test_memory_mapping__needs_the_permission_of_both(permitted: DomId) -> None:
    assert map_devices(with_devices(permitted)).code == -EPERM


def test_memory_mapping__maps_the_range() -> None:
    s = with_devices(DOM0, GRANTER)
    after = sound(map_devices(s), s, DOM0).state
    rows = [after.p2m[GRANTER, Gfn(HOLE + i)] for i in range(3)]
    assert [P2mType.MMIO_DIRECT_DEV, P2mType.MMIO_DIRECT_DEV, P2mType.INVALID] == [row.type for row in rows]
    assert rows[1].mfn == DEVICE + 1


def test_memory_mapping__serves_the_device_model() -> None:
    s = put(with_devices(OTHER, GRANTER), "domain", OTHER, device_model=True, target=GRANTER)
    assert sound(map_devices(s, caller=OTHER), s, OTHER).code == 0


def test_memory_mapping__refuses_a_dying_domain() -> None:
    s = put(with_devices(DOM0, GRANTER), "domain", GRANTER, status=Status.DYING)
    assert (-ENOMEM, -ENOMEM) == (map_devices(s).code, map_devices(s, add=False).code)


def test_memory_mapping__keeps_what_was_mapped_before_an_error() -> None:
    s = put(with_devices(DOM0, GRANTER), "domain", GRANTER, pool_free=0)
    outcome = map_devices(s, done=1)
    assert outcome.code == -ENOENT
    assert (P2mType.MMIO_DIRECT_DEV, P2mType.INVALID) == (
        outcome.state.p2m[GRANTER, HOLE].type, outcome.state.p2m[GRANTER, Gfn(HOLE + 1)].type,
    )


def test_memory_mapping__unmaps_devices() -> None:
    s = map_devices(with_devices(DOM0, GRANTER)).state
    after = sound(map_devices(s, add=False), s, DOM0).state
    assert P2mType.INVALID == after.p2m[GRANTER, HOLE].type


def test_memory_mapping__unmaps_no_memory() -> None:
    s = with_devices(DOM0, GRANTER)
    outcome = map_devices(s, gfn=PAGE - 1, add=False)
    assert outcome.code == -EILSEQ
    assert outcome.state is s


def test_memory_mapping__unmaps_holes_without_an_error() -> None:
    s = with_row(with_devices(DOM0, GRANTER), GRANTER, Gfn(HOLE + 1), DEVICE, P2mType.MMIO_DIRECT_DEV)
    assert map_devices(s, add=False).code == 0


def test_memory_mapping__unmaps_up_to_a_block_that_cannot_be_split() -> None:
    s = put(map_devices(with_devices(DOM0, GRANTER)).state, "domain", GRANTER, pool_free=0)
    outcome = map_devices(s, add=False, done=1)
    assert outcome.code == -ENOMEM
    assert (P2mType.INVALID, P2mType.MMIO_DIRECT_DEV) == (
        outcome.state.p2m[GRANTER, HOLE].type, outcome.state.p2m[GRANTER, Gfn(HOLE + 1)].type,
    )
    with pytest.raises(IllegalChoice):
        map_devices(s, add=False, pages=3, done=2)
