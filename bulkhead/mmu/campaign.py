"""Cases, one after the other, each on one of the processors that can have its shape, until the first difference."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs
import numpy as np

from bulkhead import __version__
from bulkhead.fuzz.walks import tables as generator
from bulkhead.fuzz.walks.compare import FAULTS, spec_geometry
from bulkhead.fuzz.walks.tables import PAGE_BITS, Shape, Tables, Words, kind_of
from bulkhead.mmu.cases import TARGET, TARGETS, InRam, make, open_window, place, suited
from bulkhead.mmu.compare import FIELDS, Batch, Difference, Tally, compare
from bulkhead.mmu.difference import shrunk, tables_of
from bulkhead.mmu.expect import Second
from bulkhead.mmu.explained import EXPLAINED, refused
from bulkhead.mmu.first import first_stage, near
from impl.xen.errors import QemuError
from impl.xen.mmu.machine import HVC, PROCESSORS, FirstStage, Mmu, Processor
from spec.memory import geometry
from spec.memory.walk import Kind

COUNT: Final = 4000
"""Addresses at which the tables of a case are walked."""
FEW: Final = 200
"""As ``COUNT``, where QEMU begins no walk."""
FETCH_SHARE: Final = 10
"""From one address of so many an instruction is fetched."""
FIRST_SHARE: Final = 10
"""One address of so many is one of a guest with tables of its own."""
UNCACHED: Final = 4
"""In one case of so many the guest's memory is a device while stage 1 is off."""
LOWEST: Final = 1 << 32
"""From here up, a 32-bit processor needs stage 1 to name an address."""
_IDENTITY: Final = 0x441
"""An entry of stage 1 that maps a GB: accessed, for reading and writing, memory of the first kind of MAIR."""
_EAE: Final = 1 << 31
"""TTBCR: long descriptors."""


@attrs.define
class Campaign:
    """What a run has found so far.

    real: addresses of tables that Xen wrote.  problem: why it ended early, if QEMU failed.
    """

    seed: int
    tally: Tally = attrs.field(factory=Tally)
    real: int = 0
    seconds: float = 0.0
    newest: str = ""
    qemu: str = ""
    problem: str = ""
    difference: Difference | None = None
    complete: bool = False

    @property
    def addresses(self) -> int:
        """How many were compared for reading and writing."""
        return sum(self.tally.addresses.values())


Show: TypeAlias = Callable[[Campaign], None]


@attrs.frozen(eq=False)
class Case:
    """Tables, the addresses at which to walk them, and on which processor.  real: Xen wrote them.  number: of all."""

    number: int
    processor: Processor
    shape: Shape
    tables: Tables
    addresses: Words
    real: bool = False


def run(seed: int, addresses: int, *, processors: Sequence[Processor] = PROCESSORS, count: int = COUNT,
        vectors: Path | None = None, show: Show | None = None) -> Campaign:
    """Compare at least so many addresses, or up to the first difference; interrupted, it returns what is known.

    count: addresses for each of the random tables [200..].  vectors: directory of tables of real machines, which come
    first.  The same arguments give the same result.
    Errors: NotSetUp, BadInputError; QemuError if nothing was compared yet.
    """
    state, started = Campaign(seed), time.monotonic()
    real = list(real_cases(vectors, addresses, processors)) if vectors else []
    with contextlib.ExitStack() as stack:
        running: dict[Processor, Mmu] = {}
        try:
            for case in itertools.chain(real, random_cases(seed, count, processors)):
                if state.addresses >= addresses:
                    state.complete = True
                    break
                mmu = running.get(case.processor)
                if mmu is None:
                    mmu = running[case.processor] = stack.enter_context(Mmu(case.processor))
                    state.qemu = state.qemu or mmu.version
                before, state.newest = state.addresses, case.tables.name
                found = one_case(mmu, case, np.random.default_rng((seed, case.number, 1)), state.tally)
                state.real += (state.addresses - before) * case.real
                state.seconds = time.monotonic() - started
                if found is not None:
                    state.difference = shrunk(mmu, found)
                    break
                if show:
                    show(state)
        except KeyboardInterrupt:
            state.seconds = time.monotonic() - started
        except QemuError as failed:
            if not state.addresses:
                raise
            state.problem = str(failed)
    return state


def random_cases(seed: int, count: int, processors: Sequence[Processor]) -> Iterator[Case]:
    """Random tables without end, each on one of the processors that can have them."""
    for number in itertools.count():
        shape, _ = kind_of(number)
        usable = [each for each in suited(shape) if each in processors]
        if usable:
            chosen = usable[int(np.random.default_rng((seed, number)).integers(len(usable)))]
            many = FEW if refused(chosen, geometry.of_vtcr(shape.vtcr, arm32=shape.arm32)) else count
            yield Case(number, chosen, shape, *make(seed, number, many))


def real_cases(vectors: Path, most: int, processors: Sequence[Processor]) -> Iterator[Case]:
    """Tables that Xen wrote, with the addresses at, before and behind all entries dealt out to the processors.

    most: if these are more than a quarter of so many, some are left out.  Errors: BadInputError.
    """
    every = [each for file in sorted(vectors.glob("*.npz")) for each in generator.real(file)]
    apart = max(1, -(-4 * sum(len(addresses) for _, addresses in every) // most))
    for tables, addresses in every:
        known = spec_geometry(tables)
        shape = Shape(tables.arm32, known.ipa_bits, known.start_level, known.output_bits)
        usable = [each for each in suited(shape) if each in processors]
        for at, chosen in enumerate(usable):
            yield Case(at, chosen, shape, tables, addresses[::apart][at::len(usable)], real=True)


def one_case(mmu: Mmu, case: Case, rng: np.random.Generator, tally: Tally) -> Difference | None:
    """Compare the addresses of a case; the first difference, or None."""
    every, shape = case.addresses, case.shape
    tables = place(mmu, case.tables)
    tally.tables += 1
    batch = Batch(mmu.processor, shape, tables, Second.of(tables), cached=case.real or case.number % UNCACHED != 0)
    found = compare(mmu, batch, every[every < LOWEST] if shape.arm32 else every, tally)
    if found is not None or refused(mmu.processor, batch.second.shape):
        return found
    inside = every[every < 1 << shape.ipa_bits]
    window = open_window(mmu, tables, shape, rng)
    if window is None or not len(inside):
        return None
    found = compare(mmu, *_fetches(mmu, batch, tables, window, every[::FETCH_SHARE]), tally)
    if found is not None:
        return found
    if shape.arm32:
        return compare(mmu, *_high(mmu, batch, tables, window, every), tally)
    first = first_stage(mmu, window, inside, rng)
    both = attrs.evolve(batch, second=Second.of(tables), first=first)
    return compare(mmu, both, near(first, len(every) // FIRST_SHARE, rng), tally)


def _fetches(mmu: Mmu, batch: Batch, tables: InRam, window: int, every: Words) -> tuple[Batch, Words]:
    """Addresses from which instructions are fetched.  What follows a fetch that succeeds ends in the window's HVC."""
    mmu.pages[TARGET:TARGET + TARGETS] = HVC[batch.processor.arm32] * (1 << 32 | 1)
    made = attrs.evolve(batch, second=Second.of(tables), cached=True, vectors=window)
    return made, made.safe(mmu, every[every < LOWEST] if batch.processor.arm32 else every)


def _high(mmu: Mmu, batch: Batch, tables: InRam, window: int, every: Words) -> tuple[Batch, Words]:
    """What a 32-bit processor reaches by stage 1 only: its first entry is moved from GB to GB by the payload."""
    mmu.pages[TARGET, 0] = _IDENTITY
    made = attrs.evolve(batch, second=Second.of(tables), first=FirstStage(window, _EAE, 0xFF),
                        window=TARGET << PAGE_BITS)
    return made, every[(every >= LOWEST) & (every < 1 << 40)]


def document(state: Campaign) -> dict[str, Any]:
    """The results as JSON has them."""
    tally = state.tally
    return {
        "version": __version__, "qemu": state.qemu, "seed": state.seed, "complete": state.complete,
        "seconds": round(state.seconds, 3), "addresses": state.addresses, "translations": tally.translations,
        "fetches": tally.fetches, "both_stages": tally.both_stages, "attributes": tally.attributes,
        "tables": tally.tables, "real": state.real, "unknown": tally.unknown,
        "processors": dict(sorted(tally.addresses.items())),
        "geometries": [{
            "arm32": shape.arm32, "ipa_bits": shape.ipa_bits, "start_level": shape.start_level,
            "root_pages": shape.root_pages, "output_bits": shape.output_bits, "addresses": times,
        } for shape, times in sorted(tally.shapes.items(), key=lambda each: attrs.astuple(each[0]))],
        "ends": [{"both_stages": both, "access": Kind(access).name.lower(), "fault": FAULTS[fault], "level": level,
                  "times": times} for (both, access, fault, level), times in sorted(tally.ends.items())],
        "explained": [{"name": each.name, "right": each.right, "reason": each.reason, "source": each.source,
                       "times": tally.explained[each.name]} for each in EXPLAINED],
        "several_explanations": tally.explained["several together"],
        "difference": state.difference and _difference(state.difference),
    }


def _difference(found: Difference) -> dict[str, Any]:
    batch = found.batch
    return {
        "who": found.who, "processor": batch.processor.label, "name": batch.tables.name, "vtcr": batch.tables.vtcr,
        "vttbr": batch.tables.vttbr, "ipa_bits": spec_geometry(batch.tables).ipa_bits, "cached": batch.cached,
        "stage_1": batch.first and attrs.asdict(batch.first), "window": batch.window,
        "words": [{"address": (frame << PAGE_BITS) + 8 * index, "word": word}
                  for (frame, index), word in sorted(tables_of(found).items())],
        "address": found.address, "access": found.access.name.lower(),
        "expected": dict(zip(FIELDS, found.expected, strict=True)),
        "actual": dict(zip(FIELDS, found.actual, strict=True)),
    }


def line(state: Campaign) -> str:
    """One line of a log."""
    rate = state.addresses / state.seconds if state.seconds else 0.0
    return (f"{state.seconds:6.0f} s  {state.addresses:>11,} addresses ({rate:,.0f}/s)  {state.tally.tables:,} tables  "
            f"{sum(state.tally.explained.values()):,} explained  "
            f"{0 if state.difference is None else 1} differences  {state.newest}")


__all__ = ["Campaign", "Case", "Show", "document", "line", "run"]
