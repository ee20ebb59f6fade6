"""Tests of acquire_resource."""

from __future__ import annotations

from typing import Any

import pytest

from spec.errors import EINVAL, EIO, ENOENT, EOPNOTSUPP, EPERM, ESRCH
from spec.language import U16, U32, U64, DomId, Outcome, put
from spec.memory.resource import GRANT_TABLE, IOREQ_SERVER, VMTRACE, acquire_resource
from spec.state import DOMID_SELF, P2mType, State
from tests.spec.machine import (
    DOM0,
    GRANTER,
    HOLE,
    MAPPER,
    OTHER,
    UNKNOWN,
    grant_frame_of,
    machine,
    sound,
    with_grant_frame,
)

UNKNOWN_TYPE = 3


def acquire(s: State, **changes: Any) -> Outcome[State]:
    """acquire_resource by the control domain, of the granter's first grant frame."""
    return acquire_resource(s, **{
        "caller": DOM0, "domain": GRANTER, "kind": U16(GRANT_TABLE), "identifier": U32(0), "frame": U64(0),
        "nr_frames": U32(1), "padding": U32(0), "list_given": True, "cursor": U64(0), "chunk": U64(0), "gfn": HOLE,
        "tables_left": True, **changes,
    })


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"padding": 1, "domain": UNKNOWN}, EINVAL),
        ({"frame": 1 << 32, "domain": UNKNOWN}, EINVAL),
        ({"frame": (1 << 32) - 1, "domain": UNKNOWN}, EINVAL),
        ({"domain": UNKNOWN}, ESRCH),
        ({"domain": DOMID_SELF}, ESRCH),
        ({"domain": DOM0}, EPERM),
        ({"caller": MAPPER, "kind": VMTRACE}, EPERM),
        ({"kind": IOREQ_SERVER, "cursor": 9}, EINVAL),
        ({"kind": VMTRACE, "cursor": 9}, EINVAL),
        ({"kind": VMTRACE}, EINVAL),
        ({"identifier": 1}, EINVAL),
        ({"list_given": False}, EINVAL),
        ({"list_given": False, "nr_frames": 0, "cursor": 1}, EINVAL),
        ({"kind": UNKNOWN_TYPE, "cursor": 1}, EINVAL),
        ({"kind": UNKNOWN_TYPE, "nr_frames": 1 << 26}, EINVAL),
        ({"kind": UNKNOWN_TYPE, "nr_frames": (1 << 26) - 1}, EOPNOTSUPP),
        ({"kind": UNKNOWN_TYPE}, EOPNOTSUPP),
        ({"frame": 1}, EINVAL),
        ({"nr_frames": 2}, EINVAL),
    ],
)
def test_acquire__refuses_in_order(changes: dict[str, Any], expected: int) -> None:
    assert -expected == acquire(machine(), **changes).code


def test_acquire__tells_the_size_without_a_list() -> None:
    assert 4 == acquire(machine(), list_given=False, nr_frames=U32(0)).output["nr_frames"]


def test_acquire__takes_an_error_for_the_size_of_an_unknown_type() -> None:
    outcome = acquire(machine(), list_given=False, nr_frames=U32(0), kind=U16(UNKNOWN_TYPE))
    assert (1 << 32) - EOPNOTSUPP == outcome.output["nr_frames"]


def test_acquire__maps_the_frame_for_writing_and_takes_a_reference() -> None:
    s = machine()
    after = sound(acquire(s), s, DOM0).state
    row = after.p2m[DOM0, HOLE]
    assert (P2mType.MAP_FOREIGN_RW, grant_frame_of(GRANTER), 2) == (
        row.type, row.mfn, after.frame[grant_frame_of(GRANTER)].references,
    )


def test_acquire__serves_the_device_model() -> None:
    s = put(machine(), "domain", OTHER, device_model=True, target=GRANTER)
    assert sound(acquire(s, caller=OTHER), s, OTHER).code == 0


def test_acquire__maps_a_later_element() -> None:
    s = with_grant_frame(machine(), GRANTER, 1)
    after = sound(acquire(s, nr_frames=U32(2), cursor=U64(1)), s, DOM0).state
    assert grant_frame_of(GRANTER, 1) == after.p2m[DOM0, HOLE].mfn


@pytest.mark.parametrize(("cursor", "expected"), [(0, EINVAL), (1, EIO)])
def test_acquire__refuses_a_frame_without_references(cursor: int, expected: int) -> None:
    s = with_grant_frame(machine(), GRANTER, 1)
    s = put(s, "frame", grant_frame_of(GRANTER, cursor), references=0, allocated=False)
    assert -expected == acquire(s, nr_frames=U32(2), cursor=U64(cursor)).code


@pytest.mark.parametrize(("cursor", "expected"), [(0, ENOENT), (1, EIO)])
def test_acquire__reads_io_error_behind_the_first_of_a_chunk(cursor: int, expected: int) -> None:
    s = put(with_grant_frame(machine(), GRANTER, 1), "domain", DOM0, pool_free=0)
    assert -expected == acquire(s, nr_frames=U32(2), cursor=U64(cursor), tables_left=False).code


def test_acquire__a_chunk_begins_anew() -> None:
    s = put(with_grant_frame(machine(), GRANTER, 1), "domain", DOM0, pool_free=0)
    assert acquire(s, nr_frames=U32(2), cursor=U64(1), chunk=U64(1), tables_left=False).code == -ENOENT


def test_acquire__is_refused_to_the_domain_itself_by_its_own_id() -> None:
    assert acquire(machine(), caller=GRANTER).code == -EPERM


def test_acquire__is_refused_to_a_domain_id_of_nobody() -> None:
    assert acquire(machine(), domain=DomId(0x7FFF)).code == -ESRCH
