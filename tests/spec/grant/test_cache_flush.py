"""Tests of cache maintenance by machine address."""

from __future__ import annotations

import pytest

from spec.errors import EILSEQ, EINVAL, EPERM
from spec.grant.cache import CHUNK, cache_flush, cache_flush_repaired
from spec.language import U16, U32, U64, GrantRef, Index, Kind, Mfn, Outcome, put
from spec.state import NOBODY, State, Status
from tests.spec.machine import (
    ADDRESS,
    FREE,
    GRANTER,
    HOLE,
    MAPPER,
    OTHER,
    XEN,
    frame_of,
    grant_frame_of,
    grant_v1,
    machine,
    mapped_grant,
    sound,
    with_domain,
    with_grant_frame,
)

CLEAN, INVALIDATE, BOTH, GREF = 1, 2, 3, 1 << 31


def flush(s: State, mfn: Mfn, *, offset: int = 0, length: int = ADDRESS, op: int = CLEAN, cursor: int = 0
          ) -> Outcome[State]:
    """cache_flush by the mapper."""
    return cache_flush(
        s, MAPPER, U64(mfn * ADDRESS), U16(offset), U16(length), U32(op), GrantRef(cursor)
    )


def _on(line: int, *, arm32: bool = False) -> State:
    """A machine whose caches have lines of so many bytes."""
    return put(machine(arm32=arm32), "settings", Index(0), cache_line=U16(line))


@pytest.mark.parametrize(("line", "offset", "length"), [(64, 1, 1), (64, 0x1F, 32), (64, 4095 - 1, 1), (16, 17, 14),
                                                        (2048, 2049, 2046)])
def test_cache_flush__within_a_line_stops_arm64(line: int, offset: int, length: int) -> None:
    outcome = flush(_on(line), frame_of(MAPPER), offset=offset, length=length, op=INVALIDATE)
    assert (outcome.kind, outcome.output["domain"], outcome.state.deviation[Index(0)].dev34) == (
        Kind.CRASH, NOBODY, True)


@pytest.mark.parametrize(("line", "offset", "length"), [(64, 1, 1), (16, 17, 14)])
def test_cache_flush__within_a_line_comes_back_on_arm32_with_other_lines_lost(line: int, offset: int, length: int
                                                                              ) -> None:
    outcome = flush(_on(line, arm32=True), frame_of(MAPPER), offset=offset, length=length, op=INVALIDATE)
    assert (outcome.kind, outcome.code, outcome.state.deviation[Index(0)].dev34) == (Kind.DONE, 0, True)


@pytest.mark.parametrize(("line", "offset", "length", "op"), [
    (64, 1, 63, INVALIDATE), (64, 64, 1, INVALIDATE), (64, 0, 1, INVALIDATE), (64, 1, 1, CLEAN), (64, 1, 1, BOTH),
    (32, 0x1F, 32, INVALIDATE), (16, 17, 15, INVALIDATE), (2048, 2049, 2047, INVALIDATE)])
def test_cache_flush__to_the_end_of_a_line_or_with_writing_back_is_done(line: int, offset: int, length: int, op: int
                                                                        ) -> None:
    outcome = flush(_on(line), frame_of(MAPPER), offset=offset, length=length, op=op)
    assert (outcome.kind, outcome.code, outcome.state.deviation[Index(0)].dev34) == (Kind.DONE, 0, False)


def test_cache_flush__is_refused_before_it_stops_the_machine() -> None:
    assert flush(_on(64), frame_of(GRANTER), offset=1, length=1, op=INVALIDATE).code == -EINVAL


def test_cache_flush_repaired__within_a_line_is_done() -> None:
    outcome = cache_flush_repaired(
        _on(64), MAPPER, U64(frame_of(MAPPER) * ADDRESS), U16(1), U16(1), U32(INVALIDATE), GrantRef(0))
    assert (outcome.kind, outcome.code, outcome.state.deviation[Index(0)].dev34) == (Kind.DONE, 0, False)


def granted() -> State:
    """The mapper has mapped the granter's first page, which caches hold a newer version of."""
    s = put(grant_v1(machine(), GRANTER, 9, MAPPER), "frame", frame_of(GRANTER), unclean=True)
    return mapped_grant(s, GRANTER, 9, MAPPER, 0, HOLE)


@pytest.mark.parametrize(
    ("offset", "length", "op"),
    [(4096, 0, CLEAN), (0, 4097, CLEAN), (4095, 2, CLEAN), (0, 0, 4), (0, 8, GREF | CLEAN)],
)
def test_cache_flush__refuses_what_passes_the_page_and_unknown_ops(offset: int, length: int, op: int) -> None:
    assert flush(machine(), frame_of(MAPPER), offset=offset, length=length, op=op).code == -EINVAL


@pytest.mark.parametrize(("length", "op"), [(0, CLEAN), (8, 0)])
def test_cache_flush__has_nothing_to_do_for_no_bytes_or_no_op(length: int, op: int) -> None:
    s = machine()
    outcome = flush(s, Mfn(0x9999), length=length, op=op)
    assert (outcome.kind, outcome.state is s) == (Kind.DONE, True)


def test_cache_flush__refuses_a_cursor_when_there_is_nothing_to_do() -> None:
    assert flush(machine(), frame_of(MAPPER), length=0, cursor=1).code == -EILSEQ


def test_cache_flush__refuses_a_frame_that_is_no_ram() -> None:
    assert flush(machine(), Mfn(0x9999)).code == -EINVAL


@pytest.mark.parametrize("mfn", [FREE, XEN])
def test_cache_flush__refuses_a_frame_that_nobody_owns(mfn: Mfn) -> None:
    assert flush(machine(), mfn).code == -EPERM


@pytest.mark.parametrize("status", [Status.BUILDING, Status.UNLISTED])
def test_cache_flush__refuses_a_frame_of_a_domain_that_cannot_be_looked_up(status: Status) -> None:
    """Of a domain that is not there yet, or not any more, nobody is asked for a grant."""
    s = put(machine(), "domain", GRANTER, status=status)
    assert flush(s, grant_frame_of(GRANTER)).code == -EPERM


def test_cache_flush__refuses_a_frame_with_too_many_references() -> None:
    s = machine(reference_limit=2)
    assert flush(s, frame_of(MAPPER)).code == -EPERM


def test_cache_flush__refuses_another_domains_page_without_a_grant_in_use() -> None:
    assert flush(grant_v1(machine(), GRANTER, 9, MAPPER), frame_of(GRANTER)).code == -EINVAL


def test_cache_flush__refuses_a_page_that_is_granted_to_another_domain() -> None:
    s = mapped_grant(grant_v1(machine(), GRANTER, 9, OTHER), GRANTER, 9, OTHER, 0, HOLE)
    assert flush(s, frame_of(GRANTER)).code == -EINVAL


def test_cache_flush__refuses_another_page_of_a_granter() -> None:
    assert flush(granted(), Mfn(frame_of(GRANTER) + 1)).code == -EINVAL


def test_cache_flush__needs_no_grant_for_the_callers_own_page() -> None:
    s = put(machine(), "frame", frame_of(MAPPER), unclean=True)
    assert not sound(flush(s, frame_of(MAPPER)), s, MAPPER).state.frame[frame_of(MAPPER)].unclean


def test_cache_flush__writes_a_granted_page_back() -> None:
    s = granted()
    assert not sound(flush(s, frame_of(GRANTER)), s, MAPPER).state.frame[frame_of(GRANTER)].unclean


@pytest.mark.parametrize(("offset", "length"), [(0, 4095), (1, 4095), (8, 8)])
def test_cache_flush__of_a_part_leaves_the_rest_in_the_caches(offset: int, length: int) -> None:
    assert flush(granted(), frame_of(GRANTER), offset=offset, length=length).state.frame[frame_of(GRANTER)].unclean


@pytest.mark.parametrize(("op", "unclean"), [(CLEAN, False), (INVALIDATE, True), (BOTH, False)])
def test_cache_flush__writes_back_only_if_asked_to_clean(op: int, unclean: bool) -> None:
    assert flush(granted(), frame_of(GRANTER), op=op).state.frame[frame_of(GRANTER)].unclean == unclean


def large(ref: int = 4600) -> State:
    """The granter has a table of nine frames, 4608 entries, and has granted its page by one of the last."""
    s = with_domain(machine(), GRANTER, max_grant_frames=16)
    for number in range(1, 9):
        s = with_grant_frame(s, GRANTER, number)
    return mapped_grant(grant_v1(s, GRANTER, ref, MAPPER), GRANTER, ref, MAPPER, 0, HOLE)


def test_cache_flush__looks_at_4096_grants_at_a_time() -> None:
    outcome = flush(large(), frame_of(GRANTER))
    assert (outcome.kind, outcome.output) == (Kind.RESTART, {"cursor": CHUNK})


def test_cache_flush__looks_no_further_than_the_table() -> None:
    """A table of eight frames has 4096 entries, all of which were looked at."""
    s = with_domain(machine(), GRANTER, max_grant_frames=16)
    for number in range(1, 8):
        s = with_grant_frame(s, GRANTER, number)
    outcome = flush(s, frame_of(GRANTER))
    assert (outcome.kind, outcome.code) == (Kind.REFUSED, -EINVAL)


def test_cache_flush__goes_on_where_the_cursor_says() -> None:
    assert flush(large(), frame_of(GRANTER), cursor=CHUNK).kind is Kind.DONE


def test_cache_flush__looks_at_the_very_entry_that_the_cursor_names() -> None:
    assert flush(large(), frame_of(GRANTER), cursor=4600).kind is Kind.DONE


def test_cache_flush__looks_at_the_first_of_the_next_4096_only_then() -> None:
    assert flush(large(CHUNK), frame_of(GRANTER)).kind is Kind.RESTART


def test_cache_flush__does_not_find_a_grant_below_a_forged_cursor() -> None:
    assert flush(granted(), frame_of(GRANTER), cursor=10).code == -EINVAL
