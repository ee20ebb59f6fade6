"""Domains that dom0 makes and destroys at run time, through domctl, with the payload inside.

Sources: fact sheets "lifecycle" 1 to 5 (domctls, createdomain, vcpu_guest_context) and "memory"; xen/include/public
(domctl.h, arch-arm.h: guest layout, PSR_GUEST*_INIT, SCTLR_GUEST_INIT).
"""

from __future__ import annotations

import struct
import time
from typing import Any, Final

from impl.boards.blob import compose
from impl.xen.config import GUEST_BASE
from impl.xen.errors import Refused
from impl.xen.kinds import GUEST_EMULATED
from impl.xen.machine import Machine

_DESTROY, _UNPAUSE, _MAX_MEM, _SET_CONTEXT, _MAX_VCPUS, _ADDRESS_SIZE, _CREATE, _POOL = 2, 4, 11, 12, 15, 35, 1, 86
_ERESTART: Final = -85
_BLOCK: Final = 512                     # frames of 2 MB, which are populated in one piece
_TREE_AT: Final = 0x100000              # of a domain's RAM
_GICC: Final = 0x3002000
_GRANTS: Final = 0x38000000
_START_SECONDS: Final = 20.0


def create(machine: Machine, domain: int, pages: int = 2048, vcpus: int = 1, pool_pages: int = 512,
           address_size_first: bool = False) -> None:
    """Make a domain, put the payload into it, and start it; its mailboxes are then the machine's.

    domain: its id, not yet taken; pages: RAM, a multiple of 512; pool_pages: of stage-2 tables.
    address_size_first: the width before the vCPUs are made, on which Xen 4.17 on arm64 panics when the domain runs.
    Errors: Refused, with Xen's answer.
    """
    if pages % _BLOCK or not pages:
        raise Refused(f"a domain made at run time has whole blocks of {_BLOCK} pages, not {pages}")
    if any(each == domain for each, _ in machine.boxes):
        raise Refused(f"there is a domain {domain} already")
    config = struct.pack("<I16sIIIiiiIIIBxHII", 0, bytes(16), 3, 0, vcpus, 1023, 64, 1024, 1, 0, 0, 0, 0, 0, 0)
    _must(machine, "createdomain", machine.domctl(_CREATE, domain, config))
    _must(machine, "set_paging_mempool_size", machine.domctl(_POOL, domain, struct.pack("<Q", pool_pages << 12)))
    _must(machine, "max_mem", machine.domctl(_MAX_MEM, domain, struct.pack("<Q", pages * 4)))
    width = machine.kind.width
    steps = [("max_vcpus", _MAX_VCPUS, struct.pack("<I", vcpus))]
    if width == 64:
        steps.insert(0 if address_size_first else 1, ("set_address_size", _ADDRESS_SIZE, struct.pack("<I", 64)))
    for name, command, data in steps:
        _must(machine, name, machine.domctl(command, domain, data))
    for block in range(pages // _BLOCK):
        _populate(machine, domain, GUEST_BASE + block * _BLOCK)
    image = machine.installation.payload[machine.kind.arch].read_bytes()
    _copy(machine, domain, GUEST_BASE, image)
    _copy(machine, domain, GUEST_BASE + (_TREE_AT >> 12), _tree(machine, domain, pages, vcpus))
    _must(machine, "setvcpucontext", _set_context(machine, domain, width))
    _must(machine, "unpausedomain", machine.domctl(_UNPAUSE, domain, b""))
    until = time.monotonic() + _START_SECONDS
    while machine.adopt(domain) < vcpus:
        if time.monotonic() > until or machine.check_stopped():
            raise Refused(machine.panicked or f"domain {domain} did not report")
        time.sleep(0.02)


def destroy(machine: Machine, domain: int) -> int:
    """Destroy a domain; Xen's last answer. How often it asked to be called again is not told."""
    machine.forget(domain)
    while True:
        result = machine.domctl(_DESTROY, domain, b"")
        if result != _ERESTART:
            return result


def _must(machine: Machine, what: str, result: int) -> None:
    if result:
        raise Refused(f"{what}: Xen answers {result}")


def _populate(machine: Machine, domain: int, gfn: int) -> None:
    extents = machine.scratch(struct.pack("<Q", gfn), 0x180)
    call = machine.scratch(struct.pack("<QQIIHxxxxxx", extents, 1, 9, 0, domain), 0x100)
    if machine.dom0_call(12, 6, call) != 1:
        raise Refused(f"populate_physmap: Xen gives domain {domain} no 2 MB at gfn {gfn:#x}")


def _copy(machine: Machine, domain: int, gfn: int, data: bytes) -> None:
    """Write a domain's memory, a page at a time, through a foreign mapping of dom0."""
    window = machine.hole(0) + 0xF0_0000
    for at in range(0, len(data), 4096):
        index = machine.scratch(struct.pack("<Q", gfn + (at >> 12)), 0x180)
        target = machine.scratch(struct.pack("<Q", window >> 12), 0x190)
        error = machine.scratch(struct.pack("<i", 0), 0x1A0)
        # xen_add_to_physmap_batch: domid, space gmfn_foreign, size, foreign domid, and three lists
        call = machine.scratch(struct.pack("<HHHHQQQ", 0x7FF0, 4, 1, domain, index, target, error), 0x100)
        _must(machine, "add_to_physmap_batch", machine.dom0_call(12, 23, call))
        machine.poke(0, window, data[at:at + 4096])
        call = machine.scratch(struct.pack("<HxxxxxxQ", 0x7FF0, window >> 12), 0x100)
        _must(machine, "remove_from_physmap", machine.dom0_call(12, 15, call))


def _set_context(machine: Machine, domain: int, width: int) -> int:
    registers = [0] * 31
    tree = (GUEST_BASE << 12) + _TREE_AT
    if width == 64:
        registers[0] = tree
    else:
        registers[1], registers[2] = 0xFFFFFFFF, tree
    status = 0x1C5 if width == 64 else 0x1D3
    context = struct.pack("<Q31QQQ", 1, *registers, GUEST_BASE << 12, status)
    context = context.ljust(320, b"\0") + struct.pack("<4Q", 0x00C50078, 0, 0, 0)
    address = machine.scratch(context, 0x180)
    return machine.domctl(_SET_CONTEXT, domain, struct.pack("<IxxxxQ", 0, address))


def _tree(machine: Machine, domain: int, pages: int, vcpus: int) -> bytes:
    gic = machine.kind.gic
    first, *rest = GUEST_EMULATED[gic]
    second = rest[0] if rest else (_GICC, 0x2000)
    root: dict[str, Any] = {
        "#address-cells": struct.pack(">I", 2), "#size-cells": struct.pack(">I", 2),
        "chosen": {"bootargs": f"domain={domain} items={machine.config.items}".encode() + b"\0"},
        "memory@40000000": {"reg": struct.pack(">QQ", GUEST_BASE << 12, pages << 12)},
        "cpus": {f"cpu@{number}": {"reg": struct.pack(">I", number)} for number in range(vcpus)},
        "interrupt-controller": {
            "compatible": b"arm,gic-v3\0" if gic == 3 else b"arm,cortex-a15-gic\0",
            "reg": struct.pack(">QQQQ", *first, *second)},
        "hypervisor": {"reg": struct.pack(">QQ", _GRANTS, 0x1000000)},
    }
    return compose(root)
