"""Tests of the properties of grant tables: each notices what it is there for."""

from __future__ import annotations

from typing import Any

import pytest

from spec.language import GrantRef, Index, VcpuId, put
from spec.state import State, Use
from tests.spec.machine import (
    DOM0,
    FREE,
    GRANTER,
    HOLE,
    MAPPER,
    PAGE,
    broken,
    broken_between,
    frame_of,
    grant_frame_of,
    machine,
    shared_info_of,
    status_frame_of,
    store,
)


def names(found: list[str]) -> set[str]:
    """The properties that do not hold."""
    return {each.split(" ", 1)[0] for each in found}


def spoiled(s: State, table: str, key: Any, **changes: Any) -> set[str]:
    """The invariants that do not hold when one row is changed."""
    return names(broken(put(s, table, key, **changes)))


def test_machine__is_sound() -> None:
    assert (broken(machine()), broken(machine(version=2))) == ([], [])


@pytest.mark.parametrize(("expected", "table", "key", "changes"), [
    ("INV-GNT-TABLE-FRAME", "grant_frame", (GRANTER, 0), {"present": False}),
    ("INV-GNT-TABLE-FRAME", "grant_frame", (GRANTER, 0), {"mfn": frame_of(GRANTER)}),
    ("INV-GNT-TABLE-FRAME", "frame", grant_frame_of(GRANTER), {"owner": MAPPER}),
    ("INV-GNT-STATUS-FRAME", "status_frame", (GRANTER, 0), {"mfn": FREE}),
    ("INV-GNT-STATUS-FRAME", "frame", status_frame_of(GRANTER), {"use": Use.FREE}),
    ("INV-GNT-LISTED-ONCE", "status_frame", (GRANTER, 0), {"mfn": grant_frame_of(GRANTER)}),
    ("INV-GNT-SHARED-INFO", "grant_frame", (GRANTER, 0), {"mfn": shared_info_of(GRANTER)}),
    ("INV-GNT-TABLE", "domain", GRANTER, {"grant_frames": 5}),
    ("INV-GNT-TABLE", "domain", GRANTER, {"grant_version": 1}),
    ("INV-GNT-TABLE", "domain", GRANTER, {"grant_version": 3}),
    ("INV-GNT-TABLE", "domain", GRANTER, {"max_grant_version": 1}),
    ("INV-GNT-CHANGE", "version_change", GRANTER, {"to": 3}),
    ("INV-GNT-CHANGE", "version_change", GRANTER, {"withdrawn": 1}),
    ("INV-GNT-CHANGE", "version_change", GRANTER, {"stopped": True}),
    ("INV-GNT-CHANGE", "version_change", GRANTER, {"cleared": 1}),
    ("INV-FRAME-CLEAN", "frame", grant_frame_of(GRANTER), {"dirty": True}),
    ("INV-GNT-COPY-WINDOW", "copy_side", (MAPPER, VcpuId(0), Index(0)), {"nested": True, "length": 5}),
    ("INV-GNT-COPY-WINDOW", "copy_side", (MAPPER, VcpuId(0), Index(0)), {"granted": True, "start": 5}),
    ("INV-GNT-TABLE-CLEAN", "frame", grant_frame_of(GRANTER), {"unclean": True}),
    ("INV-GNT-PINNED-TABLE", "active_grant", (DOM0 + 50, GrantRef(1)), {"host_readers": 1}),
    ("INV-GNT-COPY-TABLE", "copy_side", (MAPPER, VcpuId(0), Index(0)), {"known": True, "domain": 50}),
    ("INV-FRAME-GFN", "frame", grant_frame_of(GRANTER), {"mapped": True, "gfn": HOLE}),
    ("INV-FRAME-GFN", "frame", grant_frame_of(GRANTER), {"mapped": True, "gfn": PAGE}),
])
def test_invariant__notices(expected: str, table: str, key: Any, changes: dict[str, Any]) -> None:
    assert expected in spoiled(machine(version=2), table, key, **changes)


@pytest.mark.parametrize(("expected", "changes"), [
    ("TWO-GNT-TABLE-GROWS", {"grant_frames": 2}),
    ("TWO-GNT-TABLE-GROWS", {"grant_frames": 0}),
    ("TWO-GNT-VERSION", {"grant_version": 2}),
    ("TWO-GNT-MAPTRACK", {"maptrack_frames": 2}),
    ("TWO-GNT-MAPTRACK", {"maptrack_frames": 0}),
])
def test_two_state_property__notices_that_another_domain_did_it(expected: str, changes: dict[str, int]) -> None:
    s = machine()
    assert expected in names(broken_between(s, put(s, "domain", GRANTER, **changes), MAPPER))


@pytest.mark.parametrize(("version", "index", "expected"), [(1, 7, False), (1, 8, True), (2, 15, False), (2, 16, True)])
def test_two_state_property__notices_an_entry_behind_the_reserved_ones_that_is_not_cleared(
    version: int, index: int, expected: bool,
) -> None:
    s = store(machine(version=3 - version), grant_frame_of(GRANTER), index, 1)
    after = put(s, "domain", GRANTER, grant_version=version)
    assert ("TWO-GNT-VERSION-CLEARS" in names(broken_between(s, after, GRANTER))) == expected
