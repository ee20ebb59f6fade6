"""Jobs that compare walks, on tables of every shape and style and on those of real machines, until they differ."""

from __future__ import annotations

import functools
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs
import numpy as np

from bulkhead.fuzz.walks import tables as generator
from bulkhead.fuzz.walks.compare import Difference, Tally, compare, fast, spec_geometry
from bulkhead.fuzz.walks.shrink import shrunk
from bulkhead.fuzz.walks.tables import Case, Tables, Words

TABLE_ADDRESSES: Final = 3200
"""Addresses at which random tables are walked."""
JOB_TABLES: Final = 8
JOB_ADDRESSES: Final = 24_000
"""Addresses of real tables in one job."""
RANDOM_ADDRESSES: Final = 40_000
"""Addresses of real tables beside those at their entries, for each VM."""
AHEAD: Final = 8
"""Jobs under way at once, for each process."""



@attrs.frozen
class Job:
    """Some cases.  numbers: of random tables; or a slice of the addresses of real ones.

    module: of the implementation's walks; None: ``impl.fast.walks``.
    """

    seed: int
    first: int = 0
    cases: int = 0
    count: int = TABLE_ADDRESSES
    file: Path | None = None
    vm: int = 0
    part: tuple[int, int] = (0, 0)
    module: Any = None


@attrs.frozen
class Result:
    """What a job compared, and the first difference, shrunk.  name: what the tables were."""

    tally: Tally
    difference: Difference | None = None
    name: str = ""


def run_job(job: Job) -> Result:
    """Compare every case of a job, until the first difference. Errors: BadInputError for a file that cannot be used."""
    tally, module = Tally(), job.module or fast
    if job.file is not None:
        case = _real_case(job.file, job.vm, job.seed, job.part)
        found = compare(case, tally, module)
        # one file is one set of tables, however many jobs it takes
        tally.tables = int(job.part[0] == 0)
        return Result(tally, found and shrunk(found, module), case.tables.name)
    name = ""
    for number in range(job.first, job.first + job.cases):
        case = generator.make(job.seed, number, job.count)
        name = case.tables.name
        found = compare(case, tally, module, chunks=number % JOB_TABLES == 0)
        if found:
            return Result(tally, shrunk(found, module), name)
    return Result(tally, None, name)


def _real_case(file: Path, vm: int, seed: int, part: tuple[int, int]) -> Case:
    """Some of the addresses of the tables of a real VM, in one batch in order and one in disorder."""
    tables, addresses = real_addresses(file, vm, seed)
    chosen = addresses[slice(*part)]
    half = len(chosen) // 2
    rng = np.random.default_rng((seed, *part))
    mixed = np.concatenate([chosen[:half], rng.permutation(chosen[half:])])
    return Case(tables, mixed, ((0, half), (half, len(mixed))) if half else ((0, len(mixed)),))


def real_addresses(file: Path, vm: int, seed: int) -> tuple[Tables, Words]:
    """The tables of one VM of a file, every address at its entries, and random ones.  Errors: BadInputError."""
    tables, addresses = _machines(file)[vm]
    rng = np.random.default_rng((seed, vm))
    bits = spec_geometry(tables).ipa_bits
    return tables, np.concatenate([addresses, rng.integers(1 << bits, size=RANDOM_ADDRESSES, dtype=np.uint64),
                                   rng.integers(1 << bits + 1, size=RANDOM_ADDRESSES // 8, dtype=np.uint64)])


@functools.lru_cache(maxsize=2)
def _machines(file: Path) -> list[tuple[Tables, Words]]:
    """Every VM of a file: read once, however many jobs there are for it."""
    return list(generator.real(file))


def real_jobs(directory: Path, seed: int, module: Any = None) -> Iterator[Job]:
    """All jobs for the files of a directory. Errors: BadInputError."""
    for file in sorted(directory.glob("*.npz")):
        for vm in range(len(_machines(file))):
            total = len(real_addresses(file, vm, seed)[1])
            for at in range(0, total, JOB_ADDRESSES):
                yield Job(seed, file=file, vm=vm, part=(at, min(total, at + JOB_ADDRESSES)), module=module)


def random_jobs(seed: int, module: Any = None, count: int = TABLE_ADDRESSES) -> Iterator[Job]:
    """Jobs for random tables, without end."""
    first = 0
    while True:
        yield Job(seed, first, JOB_TABLES, count, module=module)
        first += JOB_TABLES


@attrs.define
class Comparison:
    """What a run has found so far.  real: what was compared on real tables, which total includes."""

    seed: int
    total: Tally = attrs.field(factory=Tally)
    real: Tally = attrs.field(factory=Tally)
    seconds: float = 0.0
    newest: str = ""
    difference: Difference | None = None
    complete: bool = False


Show: TypeAlias = Callable[[Comparison], None]


def run(seed: int, addresses: int, pool: Executor, *, vectors: Path | None = None, module: Any = None,
        count: int = TABLE_ADDRESSES, show: Show | None = None, ahead: int = AHEAD) -> Comparison:
    """Compare at least so many addresses, or up to the first difference; real tables first.

    pool: where jobs run.  vectors: directory of real tables, which are walked at all their entries if that takes no
    more than half of the addresses, else at some.  count: addresses for each of the random tables.
    ahead: jobs that are under way at once.  The same seed and addresses give the same result on any pool.
    Interrupted, it returns what is known.
    """
    state = Comparison(seed)
    started = time.monotonic()
    real = list(real_jobs(vectors, seed, module)) if vectors else []
    # few addresses: half of them, at least, are of random tables
    real = real[::max(1, -(-2 * _size(real) // addresses))]
    planned = itertools.chain(real, _enough(random_jobs(seed, module, count), addresses - _size(real)), [None])
    waiting: deque[tuple[Job, Future[Result]]] = deque()
    try:
        for job in planned:
            if job is not None:
                waiting.append((job, pool.submit(run_job, job)))
            while waiting and (job is None or len(waiting) >= ahead) and state.difference is None:
                done, future = waiting.popleft()
                result = future.result()
                state.total.add(result.tally)
                if done.file is not None:
                    state.real.add(result.tally)
                state.difference, state.newest = result.difference, result.name
                state.seconds = time.monotonic() - started
                if show:
                    show(state)
            if state.difference is not None:
                break
        state.complete = state.difference is None
    except KeyboardInterrupt:
        state.seconds = time.monotonic() - started
    finally:
        for _, future in waiting:
            future.cancel()
    return state


def _size(jobs: Sequence[Job]) -> int:
    """Addresses of jobs for real tables."""
    return sum(job.part[1] - job.part[0] for job in jobs)


def _enough(jobs: Iterable[Job], addresses: int) -> Iterator[Job]:
    """So many jobs that their addresses suffice; a case has never fewer than it was asked for."""
    for job in jobs:
        if addresses <= 0:
            return
        addresses -= job.cases * job.count
        yield job


__all__ = ["AHEAD", "Comparison", "Job", "Result", "Show", "run", "run_job"]
