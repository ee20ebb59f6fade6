"""Random steps of the table theory, from boot, on integers: they find what a wrong step breaks.

A failed proof about tables is told with the help of such a trace: the state before the step that breaks a property was
reached from boot, so it is a counterexample of the plain specification.  ``small_tables`` makes tables of four words:
large blocks are then cheap, and rare meetings frequent.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from proofs.engine.scope import Counterexample
from spec.language import PROPERTIES, TRANSITIONS, U8, U16, DomId, Index, Mfn, Outcome, evolve, put
from spec.language.outcomes import IllegalChoice
from spec.language.tables import empty, schemas
from spec.memory import descriptors, geometry, table_invariants, table_pages, table_steps, tables, tlb, walk
from spec.memory.descriptors import LEAF_LEVEL
from spec.memory.geometry import Geometry
from spec.memory.tables import ONE, Phase, TableState, Use, gfn_of
from spec.state import NOBODY

THEORY = "tables"

A, B = DomId(1), DomId(2)
"""Two domains."""
DOMAINS = (A, B)
POOL = range(0x100, 0x130)
"""Frames that are pages of pools at boot."""
FIRST = 0x400
"""The first frame that is memory at boot: aligned to the size of a block."""
LOOSE = range(0x40, 0x48)
"""Free frames."""
SMALL = (Geometry(20, 0, 1, 24), Geometry(19, 1, 2, 24), Geometry(18, 2, 4, 24))
"""Shapes of tables of four words."""

Key = tuple[Index, Index, Index, Index]


@contextmanager
def small_tables() -> Iterator[None]:
    """Tables have four words instead of 512, in the whole specification."""
    users = [each for each in (descriptors, table_invariants, table_pages, table_steps, tables, tlb, walk)
             if hasattr(each, "ENTRIES")]
    before, bits = words(), geometry.INDEX_BITS
    try:
        for each in users:
            vars(each)["ENTRIES"] = 4
        geometry.INDEX_BITS = 2
        yield
    finally:
        for each in users:
            vars(each)["ENTRIES"] = before
        geometry.INDEX_BITS = bits


def words() -> int:
    """Words in a table."""
    return descriptors.ENTRIES


def positions() -> tuple[int, ...]:
    """Indices worth a look."""
    return (0, 1, 2, 15, words() - 1) if words() > 16 else tuple(range(words()))


def memory() -> range:
    """Frames that are memory at boot: enough for the blocks that the tables can describe."""
    return range(FIRST, FIRST + (words() if words() > 16 else 2 * words() * words()))


def boot(shape: Geometry) -> TableState:
    """No domain has tables yet; pages hold anything, and so do caches under unused VMIDs."""
    s = empty(TableState)
    for frame in POOL:
        s = put(s, "cell", (Mfn(frame), Index(1)), raw=0x0080_0000_0004_07FF)
    for vmid in (1, 2):
        s = put(s, "tlb", (U16(vmid), *[Index(0)] * 4), cached=True, frame=Mfn(FIRST))
    s = put(s, "shape", ONE, start_level=U8(shape.start_level), root_pages=U8(shape.root_pages),
            ipa_frames=shape.ipa_frames, output_frames=shape.output_frames)
    s = put(s, "space", B, mem_access=True)
    for frame in POOL:
        s = put(s, "table_frame", Mfn(frame), use=Use.POOL)
    for frame in memory():
        s = put(s, "table_frame", Mfn(frame), use=Use.MEMORY)
    return s


# ---- properties


def keys(s: TableState) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Rows worth a look: table and key."""
    yield "shape", (ONE,)
    for domain in DOMAINS:
        yield "space", (domain,)
        yield "work", (domain,)
        for digits in guest_frames(s):
            yield "mapped", (domain, *digits)
    if words() <= 16:
        for key in dict(s.mapped.items()):
            yield "mapped", key
    for vmid in dict(s.tag.items()):
        yield "tag", (vmid,)
    for frame, row in s.table_frame.items():
        if frame not in memory():
            yield "table_frame", (frame,)
        if row.use in (Use.TABLE, Use.NEW):
            for position in positions():
                yield "cell", (frame, Index(position))
    for name in ("tlb", "walk_cache"):
        for key, row in getattr(s, name).items():
            if row.cached:
                yield name, key


def guest_frames(s: TableState) -> Iterator[Key]:
    """Guest frames worth a look: under the last page of the root table, and just beyond it."""
    shape = s.shape[ONE]
    start = shape.start_level
    for page in (0, 1) if start == 0 else (shape.root_pages - 1, shape.root_pages):
        i0, first = divmod(page, words()) if start > 1 else (page, 0)
        for i1 in (first,) if start > 1 else (0, 1):
            for i2 in (0, 1):
                for i3 in (0, 1, words() - 1):
                    yield Index(i0), Index(i1), Index(i2), Index(i3)


def broken(s: TableState, *more: tuple[str, Any]) -> list[tuple[str, tuple[Any, ...]]]:
    """The invariants that a row breaks, and its key.  more: rows to look at beside the usual ones."""
    return [
        (each.id, key) for name, key in (*keys(s), *more) for each in PROPERTIES.values()
        if each.theory == THEORY and each.table == name and not each.two_state and not each.function(s, *key)
    ]


def broken_between(s: TableState, t: TableState) -> list[tuple[str, tuple[Any, ...]]]:
    """The two-state properties that a row breaks, and its key."""
    return [
        (each.id, key) for name, key in keys(t) for each in PROPERTIES.values()
        if each.theory == THEORY and each.table == name and each.two_state and not each.function(s, t, NOBODY, *key)
    ]


# ---- random steps


def choose(s: TableState, rng: random.Random, ending: int) -> tuple[str, dict[str, Any]]:
    """A step that makes sense, most of the time.  ending: how likely domains are to be torn down."""
    domain = rng.choice(DOMAINS)
    start = s.shape[ONE].start_level
    work = s.work[domain]
    frames = [each for each in guest_frames(s) if tables.covered(s, gfn_of(*each)) or rng.random() < 0.1]
    digits: dict[str, Any] = dict(zip(("i0", "i1", "i2", "i3"), rng.choice(frames), strict=True))
    vmid = s.space[domain].vmid
    if not s.space[domain].named:
        return "take_vmid", {"domain": domain, "vmid": U16(rng.randrange(1, 4))}
    if not s.space[domain].alive:
        free = [f for f in POOL if s.table_frame[Mfn(f)].use == Use.POOL]
        return "make_root", {"domain": domain, "root": Mfn(rng.choice(free[: len(free) // 2 + 1] or [POOL[0]]))}
    if rng.random() < 0.3:
        return hardware(s, rng, vmid, digits)
    if work.phase != Phase.IDLE and rng.random() < 0.8:
        if work.must_flush:
            return "flush_caches", {"domain": domain}
        if work.phase == Phase.BREAK and work.level == 1 and not work.twice and rng.random() < 0.6:
            return "split_piece", {"domain": domain, "page": page_of(s, rng, Use.POOL)}
        return ("", "link_table", "break_block", "make_table", "make_leaf")[work.phase], {"domain": domain}
    # while a flush is pending, what is freed and used again matters most
    late = 5 if s.space[domain].flush else 1
    if late > 1 and rng.random() < 0.2:
        return "flush_caches", {"domain": domain}
    seen = tables.found(s, domain, gfn_of(digits["i0"], digits["i1"], digits["i2"], digits["i3"]))
    missing = not seen.live and seen.level < LEAF_LEVEL
    level = seen.level if missing or rng.random() < 0.7 else U8(rng.randrange(start, 4))
    frame = Mfn(rng.choice(memory()[:5]) if rng.random() < 0.9 else rng.choice(POOL))
    # a block of 1 GiB takes too long to write down
    huge = level == 1 and words() > 16
    # a block is split for any of its guest frames, and mapped from the first one
    within = dict(digits)
    if level < LEAF_LEVEL and rng.random() < 0.7:
        frame, digits["i3"] = Mfn(FIRST), Index(0)
        if level == 1:
            digits["i2"] = Index(0)
    stops = tables.translated(s, domain, gfn_of(digits["i0"], digits["i1"], digits["i2"], digits["i3"])).level
    there = {"domain": domain, **digits, "level": level}
    steps: list[tuple[int, str, dict[str, Any]]] = [
        (8 if missing else 0, "prepare_table", {**there, "page": page_of(s, rng, Use.POOL)}),
        (8 if seen.live and seen.level < LEAF_LEVEL else 0, "prepare_split",
         {**there, **within, "page": page_of(s, rng, Use.POOL)}),
        (0 if huge else 6, "insert_leaf", {**there, "frame": frame, "kind": U8(rng.randrange(1, 12)),
                             "access": U8(rng.choice((7, 5, 1)))}),
        (0 if huge else 6, "insert_leaf", {**there, "frame": frame, "kind": U8(1), "access": U8(7)}),
        (3, "remove_word", there),
        (2, "invalidate_word", there),
        (10 if seen.live and not seen.hardware else 1, "resolve_fault", {**there, "level": stops}),
        (1, "resolve_fault", {**there, "level": U8(rng.randrange(start, 4))}),
        (4 * late, "retire_table", {"domain": domain, "page": loose_table(s, rng, domain)}),
        (4, "free_table", {"page": page_of(s, rng, Use.RETIRED)}),
        (2 * late, "take_frame", {"page": cached_frame(s, rng, Use.FREE), "for_tables": rng.random() < 0.2}),
        (2 * late, "free_frame", {"page": cached_frame(s, rng, Use.MEMORY)}),
        (1, "shrink_pool", {"page": page_of(s, rng, Use.POOL)}),
        (1, "store_anywhere", {"page": Mfn(rng.choice((*LOOSE, *POOL))), "position": Index(rng.choice(positions())),
                               "word": rng.getrandbits(64)}),
        (ending, "clear_root_word", {"domain": domain, **root_word(s, domain)}),
        (ending, "abandon_tables", {"domain": domain}),
        (ending, "destroy_root", {"domain": domain}),
    ]
    _, name, arguments = rng.choices(steps, [weight for weight, _, _ in steps])[0]
    return name, arguments


def cached_frame(s: TableState, rng: random.Random, use: Use) -> Mfn:
    """A frame of this use that a cache leads to or may lead to, if there is one."""
    frames = [row.frame for _, row in s.tlb.items() if row.cached and s.table_frame[row.frame].use == use]
    if rng.random() < 0.5:
        frames += [frame for frame, row in s.table_frame.items() if row.unflushed and row.use == use]
    return rng.choice(frames) if frames and rng.random() < 0.7 else page_of(s, rng, use)


def loose_table(s: TableState, rng: random.Random, domain: DomId) -> Mfn:
    """A table of the domain that was taken out, if there is one."""
    frames = [frame for frame, row in s.table_frame.items()
              if row.use == Use.TABLE and row.owner == domain and not row.linked]
    return rng.choice(frames) if frames else page_of(s, rng, Use.TABLE)


def root_word(s: TableState, domain: DomId) -> dict[str, Index]:
    """The indices of a word of the root table that is live, if there is one."""
    start, space = s.shape[ONE].start_level, s.space[domain]
    for key in dict(s.cell.items()):
        page = key[0] - space.root
        if 0 <= page < s.shape[ONE].root_pages and descriptors.is_live(tables.word_at(s, *key)):
            digits = [0, 0, 0]
            digits[start] = key[1]
            if start:
                digits[start - 1] = page
            return {f"i{level}": Index(digit) for level, digit in enumerate(digits)}
    return {f"i{level}": Index(0) for level in range(3)}


def page_of(s: TableState, rng: random.Random, use: Use) -> Mfn:
    """A frame of this use, if there is one; now and then any frame, which the step has to refuse."""
    if rng.random() < 0.1:
        return Mfn(rng.choice((*LOOSE, *POOL, *memory()[:4])))
    frames = [frame for frame in (*LOOSE[:2], *POOL, *memory()[:4]) if s.table_frame[Mfn(frame)].use == use]
    return Mfn(rng.choice(frames or [0]))


def hardware(s: TableState, rng: random.Random, vmid: U16, digits: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Something that the hardware does by itself."""
    known = [key for key, row in s.walk_cache.items() if row.cached]
    if known and rng.random() < 0.5:
        key = rng.choice(known)
        return rng.choice(("cache_next_table", "cache_from_table")), dict(
            zip(("vmid", "level", "i0", "i1", "i2", "i3"), key, strict=True)
        )
    if rng.random() < 0.5:
        return "cache_translation", {"vmid": vmid, **digits}
    return "cache_table", {"vmid": vmid, **digits, "level": U8(rng.choice((1, 2, 3)))}


def wander(shape: Geometry, seed: int, steps: int, taken: dict[str, int] | None = None) -> Trace | None:
    """Random steps, until one breaks a property."""
    rng = random.Random(seed)
    s = boot(shape)
    for done in range(steps):
        name, arguments = choose(s, rng, 15 if done % 200 > 170 else 0)
        after = attempt(s, name, arguments)
        if after is None or after.state is s:
            continue
        wrong = [*broken(after.state), *broken_between(s, after.state)]
        if wrong:
            return Trace(name, [Counterexample(s, arguments, [], *each, after) for each in wrong])
        if taken is not None:
            taken[name] = taken.get(name, 0) + 1
        s = after.state
    return None


def attempt(s: TableState, name: str, arguments: dict[str, Any]) -> Outcome[TableState] | None:
    """What a step answers; None if it cannot be taken now."""
    try:
        return TRANSITIONS[name].function(s, **arguments)  # type: ignore[no-any-return]
    except IllegalChoice:
        return None


# ---- what breaks


@attrs.frozen
class Trace:
    """A step that breaks properties, in a state that was reached from boot."""

    step: str
    found: list[Counterexample]


def traces(seconds: float) -> Iterator[Trace]:
    """Random traces on small tables that end with a broken property."""
    until = time.monotonic() + seconds
    for seed in range(1000):
        with small_tables():
            this = wander(SMALL[seed % len(SMALL)], seed, 400)
        if this is not None:
            yield this
        if time.monotonic() > until:
            return


def search(step: str, wanted: str, seconds: float = 30.0) -> Counterexample | None:
    """A small state in which this step breaks this property."""
    for this in traces(seconds):
        for each in this.found:
            if this.step == step and each.property == wanted:
                with small_tables():
                    return smallest(step, each)
    return None


def anything(seconds: float = 60.0) -> Trace | None:
    """Some step that breaks some property."""
    return next(traces(seconds), None)


def smallest(step: str, found: Counterexample) -> Counterexample:
    """The same without rows that the failure does not need; the state still satisfies every invariant.

    Whole domains are left out first, then what is cached, then all that a word leads to, then single rows.
    """
    for domain in DOMAINS:
        found = _smaller(step, found, _without_domain(found.state, domain))
    for table in ("tlb", "walk_cache"):
        for key, _ in list(getattr(found.state, table).items()):
            found = _smaller(step, found, _without(found.state, table, key))
    for key, _ in list(found.state.cell.items()):
        found = _smaller(step, found, _without_word(found.state, key))
    for table in schemas(TableState):
        for key, _ in list(getattr(found.state, table).items()):
            place = key if isinstance(key, tuple) else (key,)
            found = _smaller(step, found, _without(found.state, table, key), (table, place))
    return found


def _smaller(step: str, found: Counterexample, fewer: TableState, *changed: tuple[str, Any]) -> Counterexample:
    after = attempt(fewer, step, found.arguments)
    if after is None or after.state is fewer or broken(fewer, *changed):
        return found
    where = [key for each, key in [*broken(after.state), *broken_between(fewer, after.state)] if each == found.property]
    return Counterexample(fewer, found.arguments, [], found.property, where[0], after) if where else found


def _without(s: TableState, table: str, *keys: Any) -> TableState:
    rows = getattr(s, table)
    for key in keys:
        rows = rows.set(key, rows.schema.row())
    return evolve(s, **{table: rows})


def _without_domain(s: TableState, domain: DomId) -> TableState:
    """No trace of a domain."""
    frames = [frame for frame, row in s.table_frame.items() if row.owner == domain]
    vmid = s.space[domain].vmid
    s = _without(s, "cell", *[key for key, _ in s.cell.items() if key[0] in frames])
    s = _without(s, "table_frame", *frames)
    for table in ("mapped", "given"):
        s = _without(s, table, *[key for key, _ in getattr(s, table).items() if key[0] == domain])
    for table in ("tlb", "walk_cache"):
        s = _without(s, table, *[key for key, _ in getattr(s, table).items() if key[0] == vmid])
    s = _without(s, "work", domain)
    return _without(_without(s, "space", domain), "tag", vmid)


def _without_word(s: TableState, key: tuple[Mfn, Index]) -> TableState:
    """A word of a table, the tables below it, and what they map."""
    row, entry = s.table_frame[key[0]], tables.word_at(s, *key)
    s = _without(s, "cell", key)
    if row.use == Use.TABLE and descriptors.leads_to_table(entry, row.level):
        for below in [each for each, _ in s.cell.items() if each[0] == entry.frame]:
            s = _without_word(s, below)
        s = _without(s, "table_frame", entry.frame)
    return _without(s, "mapped", *[
        each for each, _ in s.mapped.items() if not tables.found(s, each[0], gfn_of(*each[1:])).live
    ])
