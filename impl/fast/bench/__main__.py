"""Measure the walks: `python -m impl.fast.bench [--quick]`.

Prints, for each case, nanoseconds an item (least and median over interleaved rounds) and ratios to the machine's own
limits, measured in the same rounds. Bare times of one machine mean little; the ratios are what the targets are about.
Times are CPU times of the one thread that works: waiting for a processor that others use does not count.
Contenders are compared before they are timed. Writes its part of build/bench.json and, without --quick,
docs/_static/walks.svg.
"""

import argparse
import gc
import math
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from impl.fast import walks
from impl.fast.bench import cases, plot
from impl.fast.bench.cases import Case, Target
from impl.fast.bench.native import Native
from impl.fast.bench.report import keep

ROOT = Path(__file__).resolve().parents[3]


def measure(case: Case, rounds: int) -> dict[str, list[float]]:
    """Nanoseconds an item of every contender in every round; NaN where it did not take part."""
    took: dict[str, list[float]] = {name: [] for name in case.contenders}
    gc.disable()
    try:
        for turn in range(-1, rounds):
            for name, contender in case.contenders.items():
                if turn > 0 and turn % contender.skip:
                    took[name].append(float("nan"))
                    continue
                if contender.before is not None:
                    contender.before()
                start = time.thread_time()
                contender.run()
                spent = time.thread_time() - start
                # the first turn warms caches and allocators
                if turn >= 0:
                    took[name].append(spent / contender.items * 1e9)
    finally:
        gc.enable()
    return took


def ratio(took: dict[str, list[float]], of: str, to: str) -> float | None:
    """Median of the ratios of two contenders in the same round; None if one was not measured."""
    if of not in took or to not in took:
        return None
    both = [one / other for one, other in zip(took[of], took[to], strict=True)]
    return statistics.median(_known(both))


def _known(values: list[float]) -> list[float]:
    """Those that are not NaN."""
    return [value for value in values if not math.isnan(value)]


def judged(took: dict[str, list[float]], target: Target) -> dict[str, Any]:
    """A target and how it came out, by the median of ratios; the ratio of least times stands beside it."""
    value = ratio(took, target.of, target.to)
    least = None
    if value is not None:
        least = min(_known(took[target.of])) / min(_known(took[target.to]))
    met = None if value is None else (value >= target.bound if target.least else value <= target.bound)
    sign = ">=" if target.least else "<="
    return {
        "what": f"{target.of} / {target.to}",
        "bound": f"{sign} {target.bound:g}",
        "value": None if value is None else round(value, 2),
        "of_minima": None if least is None else round(least, 2),
        "met": met,
    }


def result_of(case: Case, took: dict[str, list[float]]) -> dict[str, Any]:
    """A case's figures."""
    rows = {}
    for name, each in took.items():
        valid = _known(each)
        rows[name] = {
            "min_ns": round(min(valid), 3),
            "median_ns": round(statistics.median(valid), 3),
            "rounds": len(valid),
            "items": case.contenders[name].items,
            "to_limit": None if (to := ratio(took, name, case.limit)) is None else round(to, 2),
        }
    return {
        "name": case.name,
        "item": case.item,
        "table_bytes": case.table_bytes,
        "limit": case.limit if case.limit in took else None,
        "load": [round(each, 2) for each in os.getloadavg()],
        "contenders": rows,
        "targets": [judged(took, each) for each in case.targets],
    }


def show(result: dict[str, Any]) -> None:
    """Print a case."""
    limit = result["limit"] or "limit: not measured"
    print(f"\n{result['name']}  (tables {result['table_bytes'] / 1e6:.2f} MB, load {result['load'][0]})")
    print(f"  {'ns a ' + result['item']:28}{'min':>10}{'median':>10}   x {limit:<16}{'batch':>10}{'rounds':>8}")
    for name, row in result["contenders"].items():
        to = "-" if row["to_limit"] is None else f"{row['to_limit']:.2f}"
        times = f"{row['min_ns']:>10.2f}{row['median_ns']:>10.2f}"
        print(f"  {name:28}{times}   {to:>8}{row['items']:>20}{row['rounds']:>8}")
    for each in result["targets"]:
        said = {True: "met", False: "MISSED", None: "not measured"}[each["met"]]
        value = "" if each["value"] is None else f"{each['value']:g} (of minima {each['of_minima']:g}), "
        print(f"  target {each['what']} {each['bound']}: {value}{said}")


def main() -> int:
    """Run all cases; 1 if contenders disagree, 0 otherwise, whatever the targets say."""
    parser = argparse.ArgumentParser(prog="python -m impl.fast.bench", description="Measure the stage-2 walks.")
    parser.add_argument("--quick", action="store_true", help="small trees and few rounds")
    parser.add_argument("--rounds", type=int, default=0, help="rounds of each case [1..]; default 20, quick 5")
    parser.add_argument("--only", default="", help="cases whose name contains this text; writes no file")
    asked = parser.parse_args()
    rounds = asked.rounds or (5 if asked.quick else 20)
    if rounds < 1:
        parser.error("at least one round is needed")
    native = Native.load(ROOT / "build")
    print(f"NumPy {np.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, "
          f"chunks of {walks.CHUNK} addresses, scalar up to {walks.FEW}")
    if asked.quick:
        print("small trees lie in caches, where limits are lower: the targets are meant for a run without --quick")
    if native is None:
        print("no C compiler: limits and plain C are not measured")
    results, curve = [], []
    try:
        for case in cases.cases(native, asked.quick):
            if asked.only in case.name:
                results.append(result_of(case, measure(case, case.rounds or rounds)))
                show(results[-1])
        for entries in cases.sizes(asked.quick):
            name = f"growth: {entries} entries"
            if asked.only not in name:
                continue
            case = cases.tree_case(name, entries, native, scattered=False, rounds=None)
            curve.append(result_of(case, measure(case, rounds)) | {"entries": entries})
            show(curve[-1])
            del case
    except cases.Unequal as difference:
        print(f"error: {difference}", file=sys.stderr)
        return 1
    if asked.only:
        return 0
    report = {
        "quick": asked.quick,
        "machine": platform.processor() or platform.machine(),
        "numpy": np.__version__,
        "chunk": walks.CHUNK,
        "few": walks.FEW,
        "cases": results,
        "growth": curve,
    }
    keep(ROOT / "build" / "bench.json", "walks", report)
    if not asked.quick:
        (ROOT / "docs" / "_static" / "walks.svg").write_text(plot.growth(curve), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
