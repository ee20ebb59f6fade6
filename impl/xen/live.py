"""A real Xen with VMs that share pages, left running for other tools: ``python -m impl.xen.live [KIND]``.

dom0 and two domUs; dom1 grants dom0 one page writable and one read-only, and dom0 maps both.
"""

from __future__ import annotations

import argparse
import signal
import struct
import sys
import types
from collections.abc import Sequence
from typing import Final

from impl.xen.config import Config, Guest
from impl.xen.errors import Refused, XenError
from impl.xen.kinds import KINDS
from impl.xen.machine import Machine

_MEMORY_OP, _GRANT_TABLE_OP, _ADD_TO_PHYSMAP, _MAP = 12, 20, 7, 0
_SELF: Final = 0x7FF0
_ARGUMENTS: Final = 0x1000
"""Where in a domain's RAM its arguments are put."""
_GRANTS: Final = {40: (1, 0x20), 41: (5, 0x21)}
"""Flags of dom1's entry and page of its RAM, by reference: writable, and read-only."""


def share(machine: Machine) -> None:
    """Let dom1 grant dom0 two pages, and dom0 map them. Errors: Refused if Xen does not let them."""
    table, first = machine.hole(1), machine.ram(1)[0] >> 12
    _call(machine, 1, _MEMORY_OP, _ADD_TO_PHYSMAP, struct.pack("<HHIQQ", _SELF, 0, 1, 0, table >> 12))
    for ref, (flags, page) in _GRANTS.items():
        machine.store(1, 0, table + 8 * ref, 8, flags | first + page << 32)
        place = machine.hole(0) + (ref - min(_GRANTS) << 12)
        data = struct.pack("<QIIHhIQ", place, 6 if flags & 4 else 2, ref, 1, 1, 0, 0)
        _call(machine, 0, _GRANT_TABLE_OP, _MAP, data, 1)
        status = machine.load(0, 0, machine.ram(0)[0] + _ARGUMENTS + 18, 2).value
        if status:
            raise Refused(f"grant {ref} of dom1 was not mapped: status {status}")


def _call(machine: Machine, domain: int, number: int, operation: int, data: bytes, count: int = 0) -> None:
    address = machine.ram(domain)[0] + _ARGUMENTS
    machine.poke(domain, address, data)
    registers = {16 if machine.kind.width == 64 else 12: number, 0: operation, 1: address, 2: count}
    seen = machine.hypercall(domain, 0, registers)
    if seen.registers is None or seen.registers[0]:
        raise Refused(f"hypercall {number}, operation {operation} of dom{domain}: {seen}")


def _stop(*_: int | types.FrameType | None) -> None:
    raise KeyboardInterrupt


def run(kind: str) -> None:
    """Boot, share, say how to look at the machine, and wait for a signal. Errors: XenError."""
    with Machine(Config(kind, guests=[Guest(), Guest(vcpus=2)])) as machine:
        share(machine)
        with machine.qemu.lent() as sockets:
            memory = f"bulkhead audit {machine.qemu.memory} --qmp {sockets / 'qmp'}"
            names = machine.installation.folder / f"xen-syms-{machine.kind.arch}"
            print(f"xen: {kind} runs; it ends with this command (Ctrl-C). Look at it with")
            if names.is_file():
                print(f"  {memory} --symbols {names}")
            print(f"  {memory} --gdb {sockets / 'gdb'}", flush=True)
            signal.signal(signal.SIGTERM, _stop)
            signal.signal(signal.SIGINT, _stop)
            try:
                signal.pause()
            except KeyboardInterrupt:
                print("xen: stopped")


def main(arguments: Sequence[str]) -> int:
    """The command; 2 with one line if the machine cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m impl.xen.live", description="Leave a real Xen running.")
    parser.add_argument("kind", nargs="?", default="arm64-gicv2", help=f"one of {', '.join(KINDS)}")
    try:
        run(parser.parse_args(arguments).kind)
    except XenError as problem:
        sys.stderr.write(f"xen: {problem}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
