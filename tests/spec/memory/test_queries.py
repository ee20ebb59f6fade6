"""Tests of the questions about memory, and of what Arm does not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from spec.errors import EINVAL, ENOSYS, EOPNOTSUPP, EPERM, ESRCH
from spec.language import U16, U32, U64, DomId, Gfn, Mfn, Outcome, put
from spec.memory.physmap import remove_from_physmap
from spec.memory.queries import (
    absent_memory_operation,
    current_reservation,
    exchange,
    get_vnumainfo,
    maximum_gpfn,
    maximum_ram_page,
    maximum_reservation,
    reserved_device_memory_map,
    sharing_counters,
)
from spec.state import P2mType, State, Status
from tests.spec.machine import DOM0, GRANTER, HOLE, MAPPER, PAGE, PAGES, UNKNOWN, machine, with_row

QUESTIONS = [current_reservation, maximum_reservation, maximum_gpfn]
Question = Callable[[State, DomId, DomId, U64], Outcome[State]]


@pytest.mark.parametrize("ask", QUESTIONS)
def test_query__refuses_a_cursor(ask: Question) -> None:
    assert ask(machine(), MAPPER, UNKNOWN, U64(1)).code == -EINVAL


@pytest.mark.parametrize("ask", QUESTIONS)
def test_query__refuses_an_unknown_domain(ask: Question) -> None:
    assert ask(machine(), MAPPER, UNKNOWN, U64(0)).code == -ESRCH


@pytest.mark.parametrize("ask", QUESTIONS)
def test_query__refuses_a_caller_without_rights(ask: Question) -> None:
    assert ask(machine(), MAPPER, GRANTER, U64(0)).code == -EPERM


@pytest.mark.parametrize(("ask", "expected"), [*zip(QUESTIONS, [PAGES, 64, PAGE + PAGES - 1], strict=True)])
def test_query__answers(ask: Question, expected: int) -> None:
    assert expected == ask(machine(), DOM0, GRANTER, U64(0)).output["value"]


def test_query__tells_of_a_dying_domain() -> None:
    s = put(machine(), "domain", GRANTER, status=Status.DYING)
    assert PAGES == current_reservation(s, DOM0, GRANTER, U64(0)).output["value"]


def test_maximum_ram_page__refuses_a_cursor() -> None:
    assert maximum_ram_page(machine(), MAPPER, U64(1)).code == -EINVAL


def test_maximum_ram_page__answers_every_domain() -> None:
    assert 0x10000 == maximum_ram_page(machine(), MAPPER, U64(0)).output["value"]


def test_sharing_counters__are_0() -> None:
    assert 0 == sharing_counters(machine(), MAPPER).output["value"]


def test_absent_memory_operation__is_not_there() -> None:
    assert absent_memory_operation(machine(), DOM0).code == -ENOSYS


@pytest.mark.parametrize(
    ("domain", "padding", "cursor", "expected"),
    [(UNKNOWN, 0, 1, EINVAL), (UNKNOWN, 1, 0, EINVAL), (UNKNOWN, 0, 0, ESRCH), (GRANTER, 0, 0, EPERM),
     (MAPPER, 0, 0, EOPNOTSUPP)],
)
def test_get_vnumainfo__refuses_in_order(domain: DomId, padding: int, cursor: int, expected: int) -> None:
    assert -expected == get_vnumainfo(machine(), MAPPER, domain, U16(padding), U64(cursor)).code


@pytest.mark.parametrize(("flags", "cursor"), [(0, 1), (2, 0)])
def test_reserved_device_memory_map__refuses(flags: int, cursor: int) -> None:
    assert reserved_device_memory_map(machine(), MAPPER, U32(flags), U64(cursor)).code == -EINVAL


def test_reserved_device_memory_map__is_empty() -> None:
    assert 0 == reserved_device_memory_map(machine(), MAPPER, U32(1), U64(0)).output["entries"]


# ---- exchange


def swap(s: State, **changes: Any) -> Outcome[State]:
    """An exchange by the mapper of one of its pages."""
    arguments = {
        "caller": MAPPER, "domain": MAPPER, "out_domain": changes.get("domain", MAPPER), "in_extents": U64(1),
        "in_order": 0, "out_extents": U64(1), "out_order": 0, "exchanged": U64(0), "flags": U32(0), "gfn": PAGE,
        "cursor": U64(0),
        **changes,
    }
    return exchange(s, **arguments)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cursor": 1, "in_order": 10}, EINVAL),
        ({"in_order": 10, "exchanged": 2}, EPERM),
        ({"out_order": 10}, EPERM),
        ({"exchanged": 2}, EINVAL),
        ({"out_domain": GRANTER}, EINVAL),
        ({"out_extents": 2}, EINVAL),
        ({"in_extents": 1 << 63, "in_order": 1, "out_extents": 1 << 63, "out_order": 1}, EINVAL),
        ({"flags": 1 << 8 | 1 << 17, "domain": UNKNOWN}, EINVAL),
        ({"domain": UNKNOWN}, ESRCH),
        ({"domain": GRANTER}, EPERM),
        ({"gfn": HOLE}, EINVAL),
        ({"gfn": PAGE}, EOPNOTSUPP),
    ],
)
def test_exchange__refuses_in_order(changes: dict[str, Any], expected: int) -> None:
    assert -expected == swap(machine(), **changes).code


def test_exchange__refuses_a_node_that_the_machine_has_not_to_a_control_domain() -> None:
    assert swap(machine(), caller=DOM0, flags=U32(2 << 8)).code == -EINVAL


def test_exchange__takes_node_0_from_a_control_domain() -> None:
    """The number of a node is one more than the node: 1 names the only one that there is."""
    assert swap(machine(), caller=DOM0, flags=U32(1 << 8)).code == -EOPNOTSUPP


def test_exchange__takes_a_node_as_a_hint_from_others() -> None:
    assert swap(machine(), flags=U32(2 << 8)).code == -EOPNOTSUPP


def test_exchange__takes_no_node_at_all_for_none_of_the_machines() -> None:
    assert swap(machine(), flags=U32(1 << 17)).code == -EOPNOTSUPP


def test_exchange__may_be_of_the_largest_order() -> None:
    assert swap(machine(), in_order=9, out_order=9).code == -EOPNOTSUPP


def test_exchange__takes_no_device_for_memory() -> None:
    s = with_row(machine(), MAPPER, HOLE, Mfn(0x9000), P2mType.MMIO_DIRECT_C)
    assert swap(s, gfn=HOLE).code == -EINVAL


def test_exchange__finds_no_memory_where_a_page_was_unmapped() -> None:
    s = remove_from_physmap(machine(), MAPPER, MAPPER, PAGE, U64(0), tables_left=True).state
    assert swap(s).code == -EINVAL


def test_exchange__sizes_are_32_bits_wide_on_arm32() -> None:
    s = machine(arm32=True)
    assert swap(s, in_extents=U64(1 << 32), out_extents=U64(1 << 32)).code == -EINVAL


def test_exchange__compares_sizes_not_lengths() -> None:
    assert swap(machine(), in_extents=U64(2), out_order=1).code == -EOPNOTSUPP


def test_exchange__has_nothing_to_do_when_all_is_done() -> None:
    s = machine()
    outcome = swap(s, exchanged=U64(1), domain=UNKNOWN)
    assert outcome.code == 0
    assert outcome.state is s


def test_exchange__gfn_is_a_guest_frame() -> None:
    assert swap(machine(), gfn=Gfn(PAGE + PAGES)).code == -EINVAL
