"""How quick it is: ``python -m tests.bench`` prints a table and writes its part of ``build/bench.json``.

One core.  Steps are measured on integers, in seconds of the processor, with the arguments of each call copied from
guest memory.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import attrs

from impl.fast.bench.report import keep
from proofs.matrix import Options, prove
from spec.grant.map import map_grant_ref
from spec.grant.unmap import complete_unmap, unmap_grant_ref
from spec.language import U64, DomId, Gfn, GrantRef, Handle, Index, Mfn, VcpuId, Word, put, volatile
from spec.memory.guestcopy import copy_from_guest_word
from spec.memory.tables import ONE, words_of
from spec.memory.walk import translate
from spec.state import State
from tests.spec.machine import GRANTER, MAPPER, PAGE, PAGES, grant_frame_of, grant_v1, machine, shared_frame

BUILD = pathlib.Path("build")
TARGET = 15_000
"""Grant maps a second on one core, argument copies included."""
GRANTS = 4096
"""Grants that are mapped at the same time."""
ARGUMENTS = Gfn(PAGE + PAGES - 1)
"""Where the mapper keeps the arguments of its calls."""
SECONDS = 3.0
WORDS_OF_A_MAP = 3
WORDS_OF_AN_UNMAP = 3
PROVED = "map_grant_ref"
"""The step whose proof is measured."""


@attrs.frozen
class Figure:
    """One measurement.  target: at least so much, 0 if there is none."""

    name: str
    value: float
    unit: str
    target: float = 0.0

    @property
    def holds(self) -> bool:
        """The target is met."""
        return self.value >= self.target


def granting() -> State:
    """A granter with a large table, every grant of it to the mapper, who has room for as many mappings."""
    s = machine((GRANTER, MAPPER))
    for number in range(1, GRANTS // 512):
        mfn = grant_frame_of(DomId(0x100), number)
        s = put(shared_frame(s, GRANTER, mfn), "grant_frame", (GRANTER, number), present=True, mfn=mfn)
    s = put(s, "domain", GRANTER, grant_frames=GRANTS // 512, max_grant_frames=GRANTS // 512)
    s = put(s, "domain", MAPPER, maptrack_frames=GRANTS // 256, max_maptrack_frames=GRANTS // 256)
    for ref in range(GRANTS):
        s = grant_v1(s, GRANTER, ref, MAPPER, gfn=Gfn(PAGE + ref % PAGES))
    return s


def arguments(s: State, first: int, words: int) -> State:
    """The state after so many words of arguments, all in one page, were copied.

    As in Xen the page is looked up once for all that is copied from it.
    """
    copied = copy_from_guest_word(s, MAPPER, ARGUMENTS, Index(first))
    mfn = s.p2m[MAPPER, ARGUMENTS].mfn
    values = [copied.output["value"], *[volatile(s.word[mfn, Index(first + i)].raw) for i in range(1, words)]]
    assert len(values) == words
    return copied.state


def mapped(s: State, ref: int) -> State:
    """The state after one map, its arguments copied."""
    s = arguments(s, 3 * (ref % 16), WORDS_OF_A_MAP)
    outcome = map_grant_ref(
        s, MAPPER, GRANTER, GrantRef(ref), U64((0x10000 + ref) << 12), Word(2), Handle(ref), space_left=True,
        tables_left=True, vcpu=VcpuId(0),
    )
    assert outcome.code == 0, outcome
    return outcome.state


def unmapped(s: State, ref: int) -> State:
    """The state after one unmap with its second phase, its arguments copied."""
    s = arguments(s, 3 * (ref % 16), WORDS_OF_AN_UNMAP)
    outcome = unmap_grant_ref(s, MAPPER, U64((0x10000 + ref) << 12), U64(0), Handle(ref), Index(0), tables_left=True)
    assert outcome.code == 0, outcome
    return complete_unmap(outcome.state, MAPPER, Index(0)).state


def maps_a_second() -> tuple[float, float]:
    """Maps, and unmaps, a second: tables filled and emptied again and again."""
    s, maps, unmaps, mapping, unmapping = granting(), 0, 0, 0.0, 0.0
    while mapping + unmapping < SECONDS:
        started = time.process_time()
        for ref in range(GRANTS):
            s = mapped(s, ref)
        mapping += time.process_time() - started
        maps += GRANTS
        started = time.process_time()
        for ref in range(GRANTS):
            s = unmapped(s, ref)
        unmapping += time.process_time() - started
        unmaps += GRANTS
    return maps / mapping, unmaps / unmapping


def walks_a_second() -> float:
    """Walks of three levels a second."""
    from spec.memory.geometry import of_pa_range
    from tests.spec.memory.world import A, at, boot, step, with_root, with_tables

    s = with_tables(with_root(boot(of_pa_range(2)), A), A, list(range(0x110, 0x118)), 3, 0, 0, 0, 0)
    s = step(s, "insert_leaf", domain=A, **at(0, 0, 0, 1), level=3, frame=Mfn(0x400), kind=1, access=7)
    s = step(s, "make_leaf", domain=A) if s.work[A].phase else s
    root, shape, words = s.space[A].root, s.shape[ONE], words_of(s)
    return rate(lambda: translate(words, root, shape, Gfn(1)))


def rate(call: Callable[[], Any]) -> float:
    """Calls a second."""
    done, started = 0, time.process_time()
    while time.process_time() - started < SECONDS:
        for _ in range(100):
            call()
        done += 100
    return done / (time.process_time() - started)


def proof_seconds() -> tuple[float, float]:
    """Seconds to prove one step on every core, with nothing known before and with everything."""
    with tempfile.TemporaryDirectory() as cache, ProcessPoolExecutor() as pool:
        times = []
        for _ in range(2):
            started = time.perf_counter()
            list(prove([PROVED], Options(), pool, cache))
            times.append(time.perf_counter() - started)
    return times[0], times[1]


def figures(*, proofs: bool = True) -> list[Figure]:
    """All measurements."""
    maps, unmaps = maps_a_second()
    found = [
        Figure("grant maps, arguments copied", maps, "a second", TARGET),
        Figure("grant unmaps, both phases, arguments copied", unmaps, "a second"),
        Figure("walks of stage-2 tables", walks_a_second(), "a second"),
    ]
    if proofs:
        cold, cached = proof_seconds()
        found.append(Figure(f"proof of {PROVED}", cold, "seconds"))
        found.append(Figure(f"proof of {PROVED}, cached", cached, "seconds"))
    return found


def main() -> int:
    """Measure, print, write."""
    found = figures(proofs="--no-proofs" not in sys.argv)
    for each in found:
        target = f"  (target {each.target:,.0f}: {'met' if each.holds else 'MISSED'})" if each.target else ""
        shown = f"{each.value:12,.0f}" if each.unit == "a second" else f"{each.value:12.2f}"
        sys.stdout.write(f"{each.name:48} {shown} {each.unit}{target}\n")
    document = [attrs.asdict(each) | {"holds": each.holds} for each in found]
    keep(BUILD / "bench.json", "figures", document)
    return 0 if all(each.holds for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
