"""Measure the auditor: ``python -m bulkhead.auditor.bench [--quick]``.

Two machines that were made up: one of 2 GB with three VMs, some 200,000 scattered pages and Xen's records, as a file;
and 64 GB of guest memory in 4 KB pages, in order and scattered, by the tables alone.  Prints seconds (the least and the
median of some rounds) and the peak of memory beyond the image; writes build/bench-audit.json.
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from bulkhead.audit import ISOLATED, NOT_CHECKED
from bulkhead.auditor import image as images
from bulkhead.auditor.judge import Verdict, judge
from bulkhead.auditor.synthetic import Machine
from bulkhead.auditor.vms import Vm
from bulkhead.auditor.xen_memory import Xen
from bulkhead.terminal import single
from impl.fast.bench.trees import Pool, all_pages, words_of
from impl.fast.geometry import PAGE_BITS, PAGE_BYTES, Geometry

ROOT: Final = pathlib.Path(__file__).resolve().parents[2]
GIB: Final = 1 << 30
SEED: Final = 1
_IPA: Final = 0x40000000
_POOL: Final = 1 << 30
_MEMORY: Final = 1 << 32


def small(leaves: int, size: int, folder: pathlib.Path, out: Console) -> tuple[Callable[[], Verdict], int]:
    """The machine with Xen's records, as a file; what audits it, reading included."""
    made = Machine(size=size)
    generator = np.random.default_rng(SEED)
    guests = [made.guest(privileged=number == 0) for number in range(3)]
    each = leaves // 3
    frames = [made.give(guest, each) for guest in guests]
    for guest, first in zip(guests, frames, strict=True):
        order = generator.permutation(each).tolist()
        told = f"mapping {each} pages"
        for page in track(range(each), told, console=out, disable=not out.is_terminal, transient=True):
            made.reach(guest, _IPA + (page << PAGE_BITS), first + order[page])
    made.settle()
    path = folder / "memory"
    with path.open("wb") as file:
        used = (made.next << PAGE_BITS) - made.base
        file.write(made.words[:used >> 3].tobytes())
        file.truncate(size)

    def audit() -> Verdict:
        image = images.read(path, [(made.base, size)])
        xen = Xen(image, made.symbols)
        return judge(image, xen.vms(), xen)

    return audit, 3 * each


def large(leaves: int, *, scattered: bool) -> tuple[Callable[[], Verdict], int]:
    """Four guests in 4 KB pages, by their tables alone."""
    generator = np.random.default_rng(SEED)
    geometry = Geometry(39, 1)
    each = leaves // 4 // 512 * 512
    pool = Pool.of(_POOL, each // 512 * 4 + each // (1 << 18) * 4 + 64, generator)
    vms = []
    for number in range(4):
        frames = generator.permutation(each) if scattered else np.arange(each)
        target = np.uint64(_MEMORY + number * each * PAGE_BYTES) + (frames.astype(np.uint64) << np.uint64(PAGE_BITS))
        tree = all_pages(pool, geometry, target)
        vms.append(Vm(f"guest{number}", (number + 1) << 48 | tree.root, geometry.vtcr(), geometry))
    image = images.from_words("made up", [(_POOL, pool.words), (_MEMORY, words_of(4 * each * PAGE_BYTES))])

    def audit() -> Verdict:
        return judge(image, vms)

    return audit, 4 * each


def measure(name: str, audit: Callable[[], Verdict], leaves: int, rounds: int, verdict: str) -> dict[str, Any]:
    """Time an audit, then find its peak of memory. Errors: AssertionError if its answer is wrong."""
    took = []
    for _ in range(rounds):
        start = time.perf_counter()
        found = audit()
        took.append(time.perf_counter() - start)
        assert (verdict, leaves, ()) == (found.verdict, sum(found.reach.leaves), found.findings), found
        del found
    tracemalloc.start()
    audit()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {"name": name, "leaves": leaves, "rounds": rounds, "min_seconds": round(min(took), 3),
            "median_seconds": round(statistics.median(took), 3), "peak_bytes": peak,
            "bytes_a_leaf": round(peak / leaves, 2), "load": [round(each, 2) for each in os.getloadavg()]}


def main(
    quick: Annotated[bool, typer.Option("--quick", help="a hundredth of the size")] = False,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="of each case")] = 5,
) -> int:
    """Measure the auditor."""
    part = 100 if quick else 1
    out = Console(highlight=False)
    results = []
    with tempfile.TemporaryDirectory(prefix="bulkhead-bench-") as name:
        audit, leaves = small(200_000 // part, 2 * GIB // (16 if quick else 1), pathlib.Path(name), out)
        title = "2 GB, three VMs, Xen's records, read from a file"
        results.append(measure(title, audit, leaves, rounds, ISOLATED))
        _show(results[-1], out)
    for scattered in (False, True):
        audit, leaves = large((1 << 24) // part, scattered=scattered)
        title = f"64 GB in 4 KB pages, {'scattered' if scattered else 'in order'}"
        results.append(measure(title, audit, leaves, rounds, NOT_CHECKED))
        _show(results[-1], out)
    (ROOT / "build").mkdir(exist_ok=True)
    report = {"quick": quick, "numpy": np.__version__, "cases": results}
    (ROOT / "build" / "bench-audit.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def _show(case: dict[str, Any], out: Console) -> None:
    out.print(f"{case['name']}: {case['leaves']:,} leaves, {case['min_seconds']:.3f} s (median "
              f"{case['median_seconds']:.3f}), peak {case['peak_bytes'] / 1e6:.1f} MB, "
              f"{case['bytes_a_leaf']} bytes a leaf",
              soft_wrap=True)


def command(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 measured, 1 interrupted, 2 bad input."""
    return single(main, "python -m bulkhead.auditor.bench", arguments)


if __name__ == "__main__":
    sys.exit(command())
