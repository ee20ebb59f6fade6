"""Tests of arguments in guest memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from spec.errors import EFAULT
from spec.language import DomId, Gfn, Index, Outcome, Word, put
from spec.memory.faults import invalidate_root
from spec.memory.guestcopy import copy_from_guest_word, copy_to_guest_word
from spec.state import P2mType, State
from tests.spec.machine import (
    DOM0,
    GRANTER,
    HOLE,
    MAPPER,
    PAGE,
    frame_of,
    grant_frame_of,
    grant_v1,
    machine,
    mapped_grant,
    mapped_shared_frame,
    sound,
    store,
    with_row,
)

INDEX = Index(7)


def read(s: State, gfn: Gfn = PAGE, caller: DomId = MAPPER) -> Outcome[State]:
    """Xen reads an argument."""
    return copy_from_guest_word(s, caller, gfn, INDEX)


def write(s: State, gfn: Gfn = PAGE, caller: DomId = MAPPER) -> Outcome[State]:
    """Xen writes a result."""
    return copy_to_guest_word(s, caller, gfn, INDEX, Word(99))


def with_kind(kind: P2mType) -> State:
    """The machine in which the mapper's first page is mapped so."""
    return put(machine(), "p2m", (MAPPER, PAGE), type=kind)


def test_read__gives_what_stands_there() -> None:
    s = store(machine(), frame_of(MAPPER), 7, 1234)
    assert 1234 == sound(read(s), s, MAPPER).output["value"]


def test_write__stores_the_value() -> None:
    s = machine()
    assert 99 == sound(write(s), s, MAPPER).state.word[frame_of(MAPPER), INDEX].raw


@pytest.mark.parametrize("access", [read, write])
def test_copy__faults_in_a_hole(access: Callable[[State, Gfn], Outcome[State]]) -> None:
    assert access(machine(), HOLE).code == -EFAULT


def test_read__from_a_read_only_page() -> None:
    assert read(with_kind(P2mType.RAM_RO)).code == 0


def test_write__faults_on_a_read_only_page() -> None:
    assert write(with_kind(P2mType.RAM_RO)).code == -EFAULT


@pytest.mark.parametrize("readonly", [True, False])
def test_copy__faults_on_a_page_granted_by_another_domain(readonly: bool) -> None:
    s = mapped_grant(
        grant_v1(machine(), GRANTER, 9, MAPPER), GRANTER, 9, MAPPER, 0, HOLE, readonly=readonly
    )
    assert (-EFAULT, -EFAULT) == (read(s, HOLE).code, write(s, HOLE).code)


def test_copy__faults_on_a_foreign_page() -> None:
    s = with_row(machine(), DOM0, HOLE, frame_of(GRANTER), P2mType.MAP_FOREIGN_RW)
    assert (-EFAULT, -EFAULT) == (read(s, HOLE, DOM0).code, write(s, HOLE, DOM0).code)


def test_copy__uses_a_page_that_the_caller_granted_to_itself() -> None:
    s = mapped_grant(grant_v1(machine(), MAPPER, 9, MAPPER), MAPPER, 9, MAPPER, 0, HOLE)
    assert (0, 0) == (read(s, HOLE).code, write(s, HOLE).code)


def test_write__faults_on_a_page_that_the_caller_granted_to_itself_read_only() -> None:
    s = mapped_grant(grant_v1(machine(), MAPPER, 9, MAPPER), MAPPER, 9, MAPPER, 0, HOLE, readonly=True)
    assert (0, -EFAULT) == (read(s, HOLE).code, write(s, HOLE).code)


def test_copy__uses_the_callers_grant_frame() -> None:
    s = mapped_shared_frame(machine(), MAPPER, HOLE, grant_frame_of(MAPPER))
    assert (0, 0) == (read(s, HOLE).code, write(s, HOLE).code)


def test_copy__faults_on_a_shared_page_without_references() -> None:
    s = mapped_shared_frame(machine(), MAPPER, HOLE, grant_frame_of(MAPPER))
    s = put(s, "frame", grant_frame_of(MAPPER), references=0, allocated=False)
    assert read(s, HOLE).code == -EFAULT


def test_copy__uses_ram_whose_valid_bit_is_clear() -> None:
    s = invalidate_root(machine(), MAPPER)
    assert (0, 0) == (read(s).code, write(s).code)


def test_copy__faults_on_a_grant_whose_valid_bit_is_clear() -> None:
    s = mapped_grant(grant_v1(machine(), MAPPER, 9, MAPPER), MAPPER, 9, MAPPER, 0, HOLE)
    assert read(invalidate_root(s, MAPPER), HOLE).code == -EFAULT


def test_copy__faults_if_no_reference_can_be_taken() -> None:
    assert read(machine(reference_limit=2)).code == -EFAULT


def test_write__keeps_what_was_written_before_a_fault() -> None:
    s = write(machine()).state
    assert write(s, HOLE).state is s
    assert 99 == s.word[frame_of(MAPPER), INDEX].raw
