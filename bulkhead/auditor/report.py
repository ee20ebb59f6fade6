"""The answer about an image: as JSON for machines, and as text for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from rich.console import Console

from bulkhead import __version__
from bulkhead.audit import ISOLATED
from bulkhead.auditor.judge import Verdict
from bulkhead.auditor.kinds import type_name
from bulkhead.auditor.lookup import Answer
from bulkhead.layout import many, rows, size_text, span
from bulkhead.mappings import HYPERVISOR, UNREACHABLE
from bulkhead.walk import VALID
from impl.fast.geometry import PAGE_BITS
from impl.fast.walks import NO_EXECUTE, WRITE

SCHEMA: Final = 1
MOST_ROWS: Final = 100
"""Rows of one table of the text; all are in the JSON."""
RANGE_TITLES: Final = ("machine", "size", "type", "access", "memory", "valid")
SHARED_TITLES: Final = ("machine", "size", "VMs", "reason", "justified", "why")


def ranges(found: Verdict, vm: int) -> Iterator[dict[str, Any]]:
    """What one VM reaches, in the order of machine addresses; addresses and sizes in bytes."""
    first, end, kinds = found.runs
    mine = np.array([kind.vm == vm for kind in found.reach.kinds])
    at = np.flatnonzero(mine[kinds])
    for start, stop, number in zip(first[at].tolist(), end[at].tolist(), kinds[at].tolist(), strict=True):
        kind = found.reach.kinds[number]
        yield {"machine": start << PAGE_BITS, "size": (stop - start) << PAGE_BITS, "type": type_name(kind.type),
               "access": kind.access, "memory": kind.memory, "valid": kind.valid}


def document(found: Verdict) -> dict[str, Any]:
    """The answer as JSON; addresses and sizes are numbers, in bytes."""
    image, xen = found.image, found.xen
    return {
        "version": SCHEMA,
        "image": {"file": image.name, "form": image.form, "ram": _spans(image.ram), "missing": _spans(image.missing)},
        "architecture": "arm32" if any(vm.geometry.arm32 for vm in found.vms) else "arm64",
        "xen": None if xen is None else {
            "symbols": xen.symbols.name, "address": xen.address, "grants_in_use": len(xen.active),
            "domains": [{"domain": each.number, "vttbr": each.vttbr, "privileged": each.privileged, "dying": each.dying}
                        for each in xen.domains]},
        "verdict": found.verdict,
        "findings": [{"kind": each.kind, "severity": each.severity, "vm": each.vm or None, "machine": each.machine,
                      "size": each.size, "ipa": each.ipa, "why": each.why} for each in found.findings],
        "not_checked": list(found.unchecked),
        "vms": [{"name": vm.name, "domain": vm.domain, "vmid": vm.vmid, "root": vm.root,
                 "ipa_bits": vm.geometry.ipa_bits, "start_level": vm.geometry.start_level,
                 "table_pages": len(found.reach.trees[place].tables), "leaves": found.reach.leaves[place],
                 "writable_and_executable": _writable_and_executable(found, place),
                 "ranges": list(ranges(found, place))} for place, vm in enumerate(found.vms)],
        "shared": [{"machine": each.machine, "size": each.size, "reason": each.reason, "justified": each.justified,
                    "why": each.why, "users": [{"vm": user.vm, "type": user.type, "access": user.access,
                                                "valid": user.valid} for user in each.users]} for each in found.shared],
    }


def _spans(found: tuple[tuple[int, int], ...]) -> list[dict[str, int]]:
    return [{"base": base, "size": size} for base, size in found]


def _writable_and_executable(found: Verdict, vm: int) -> int:
    """Bytes that a VM can both write and execute: with Xen, all of its own memory."""
    first, end, kinds = found.runs
    both = np.array([kind.vm == vm and bool(kind.bits & WRITE) and not kind.bits & NO_EXECUTE
                     and kind.valid != UNREACHABLE for kind in found.reach.kinds])
    at = both[kinds]
    return int((end[at] - first[at]).sum()) << PAGE_BITS


def show(found: Verdict, out: Console) -> None:
    """Print the answer."""
    image = found.image
    width = max((len(f"{int(each) << PAGE_BITS:x}") for each in found.runs[1][-1:]), default=8)
    out.print(f"Bulkhead {__version__}: audit of {image.name}")
    out.print(f"  {'ELF core' if image.form == 'core' else 'raw image'}, RAM "
              + ", ".join(f"{span(base, size, 8)} ({size_text(size)})" for base, size in image.ram))
    if found.xen is not None:
        out.print(f"  Xen at {found.xen.address:#x}: {many(len(found.xen.domains), 'domain')}, "
                  f"{many(len(found.xen.active), 'grant')} in use")
    for place in range(len(found.vms)):
        _show_vm(found, place, width, out)
    out.print()
    if found.shared:
        out.print("Shared or borrowed")
        rows(out, SHARED_TITLES, [
            (span(each.machine, each.size, width), size_text(each.size),
             ", ".join(f"{user.vm} ({user.access})" for user in each.users), each.reason,
             {True: "yes", False: "NO", None: "not checked"}[each.justified], each.why)
            for each in found.shared[:MOST_ROWS]], len(found.shared))
    else:
        out.print("Nothing is shared")
    out.print()
    for each in found.findings[:MOST_ROWS]:
        out.print(f"{each.severity} ({each.kind}): {each.text}")
    if len(found.findings) > MOST_ROWS:
        out.print(f"{len(found.findings) - MOST_ROWS} more findings, see --json")
    for text in found.unchecked:
        out.print(f"not checked: {text}")
    out.print(f"Verdict: {found.verdict}", style="bold green" if found.verdict == ISOLATED else "bold red")


def _show_vm(found: Verdict, place: int, width: int, out: Console) -> None:
    vm = found.vms[place]
    all_ranges = list(ranges(found, place))
    tables = many(len(found.reach.trees[place].tables), "table page")
    out.print()
    shape = f"{vm.geometry.ipa_bits}-bit IPA, walked from level {vm.geometry.start_level}, VMID {vm.vmid}"
    out.print(f"{vm.name}: {shape}; "
              f"{many(found.reach.leaves[place], 'mapping')} in {tables}, {many(len(all_ranges), 'machine range')}; "
              f"{size_text(_writable_and_executable(found, place))} writable and executable")
    rows(out, RANGE_TITLES, [
        (span(each["machine"], each["size"], width), size_text(each["size"]), each["type"], each["access"],
         each["memory"], VALID[each["valid"]])
        for each in all_ranges[:MOST_ROWS]], len(all_ranges))


def show_address(answer: Answer, out: Console) -> None:
    """Print who reaches one address."""
    where = "RAM" if answer.ram else "not RAM of this machine"
    owner = f", owner {answer.owner}" if answer.owner else ""
    out.print(f"Machine address {answer.address:#x}: {where}{owner}")
    for letter, word in (("r", "read"), ("w", "write"), ("x", "execute")):
        out.print(f"  {word + ':':9}{', '.join(answer.who(letter)) or 'nobody'}")
    for way in answer.ways:
        later = ", once Xen has made it valid" if way.valid == HYPERVISOR else ""
        closed = ", though no access gets through" if way.valid == UNREACHABLE else ""
        out.print()
        out.print(f"{way.vm} at IPA {way.ipa:#x}: {way.access}, {way.type}, {way.memory}{later}{closed}")
        for step in way.steps:
            out.print(f"  level {step.level}  entry at {step.entry:#x}  {step.word:#018x}")
