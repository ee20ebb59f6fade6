"""How many stimuli a second real Xen takes: ``python -m impl.xen.bench [KIND ...]``.

Within one domain as programs, and mixed over three domains with the turn passed on from here.
"""

from __future__ import annotations

import argparse
import struct
import sys
import time
from collections.abc import Callable, Sequence

from impl.xen.config import Config, Guest
from impl.xen.errors import XenError
from impl.xen.kinds import KINDS
from impl.xen.machine import Machine, Stimulus
from impl.xen.mailbox import Program

_ITEMS = 512
_NOWHERE = 0x30000000


def within(machine: Machine, fill: Callable[[Program], object], seconds: float) -> float:
    """Items a second of a program that is filled up by `fill` and run again and again in domain 1."""
    program = machine.program(1)
    while len(program) + 8 <= program.capacity:
        fill(program)
    items = program.items()
    done, started = 0, time.monotonic()
    while time.monotonic() - started < seconds:
        run = machine.run(1, 0, items)
        if run.loss is not None:
            raise XenError(run.loss.reason)
        done += len(items)
    return done / (time.monotonic() - started)


def mixed(machine: Machine, length: int, seconds: float) -> float:
    """Stores a second, `length` in a row of each of three domains."""
    address = machine.ram(1)[0] + 0x1000
    stimuli = [Stimulus("store", 1 + i // length % 3, 0, address, 8, i) for i in range(600)]
    done, started = 0, time.monotonic()
    while time.monotonic() - started < seconds:
        machine.give(stimuli)
        done += len(stimuli)
    return done / (time.monotonic() - started)


def measure(machine: Machine, seconds: float) -> dict[str, float]:
    """All rates, in stimuli a second. seconds: for each."""
    base = machine.ram(1)[0] + 0x1000

    def memory(program: Program) -> None:
        """A page goes and comes: two calls, two structs."""
        program.put(base + 0x100, struct.pack("<Q", (base >> 12) + 8))
        program.put(base, struct.pack("<QQIIHxxxxxx", base + 0x100, 1, 0, 0, 0x7FF0))
        program.hypercall(12, 1, base)
        program.hypercall(12, 6, base)

    return {
        "xen_version": within(machine, lambda program: program.hypercall(17, 0), seconds),
        "load": within(machine, lambda program: program.load(base), seconds),
        "store": within(machine, lambda program: program.store(base, 8, 1), seconds),
        "load that faults": within(machine, lambda program: program.load(_NOWHERE), seconds),
        "decrease and populate": within(machine, memory, seconds),
        "mixed, 5 in a row": mixed(machine, 5, seconds),
        "mixed, 2 in a row": mixed(machine, 2, seconds),
        "mixed, 1 in a row": mixed(machine, 1, seconds),
        "one at a time": mixed_single(machine, seconds),
    }


def mixed_single(machine: Machine, seconds: float) -> float:
    """Stores a second, each with a round trip of its own."""
    address = machine.ram(1)[0] + 0x1000
    done, started = 0, time.monotonic()
    while time.monotonic() - started < seconds:
        machine.store(1, 0, address, 8, done)
        done += 1
    return done / (time.monotonic() - started)


def main(arguments: Sequence[str]) -> int:
    """Measure and print; exit code 2 with one line if a machine cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m impl.xen.bench", description="Rates of real Xen under QEMU.")
    parser.add_argument("kind", nargs="*", help=f"of {', '.join(KINDS)}; all if none is given")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each rate; default: %(default)s")
    given = parser.parse_args(arguments)
    try:
        for name in given.kind or KINDS:
            with Machine(Config(name, guests=[Guest(), Guest(), Guest()], items=_ITEMS)) as machine:
                print(f"{name}: booted in {machine.boot_seconds:.1f} s")
                for what, rate in measure(machine, given.seconds).items():
                    print(f"  {what:22} {rate:10,.0f} a second")
    except XenError as problem:
        sys.stderr.write(f"xen: {str(problem).splitlines()[0]}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
