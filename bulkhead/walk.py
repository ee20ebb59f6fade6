"""``bulkhead walk``: walk the stage-2 tables of a running Xen with the specification, and print the answer."""

from __future__ import annotations

import io
import json
import pathlib
import sys
from typing import Any

from rich.console import Console

from bulkhead import __version__
from bulkhead.audit import ISOLATED, Audit, Shared, audit
from bulkhead.layout import many, rows, size_text, span
from bulkhead.mappings import HARDWARE, HYPERVISOR, UNREACHABLE, Mapping, Vm
from bulkhead.problems import FAILS, HOLDS
from bulkhead.tables import read

MOST_ROWS = 200
"""Rows of one table of the report; the whole list is in ``--json``."""
SCHEMA = 1

MAPPING_TITLES = ("IPA", "machine", "size", "type", "access", "valid")
VALID = {HARDWARE: "yes", HYPERVISOR: "for Xen only", UNREACHABLE: "out of reach"}
SHARED_TITLES = ("machine", "size", "VMs", "why")


def run(path: pathlib.Path, *, as_json: bool) -> int:
    """Read the file, walk it, print what was found, and say by the exit code whether its VMs are isolated."""
    found = audit(read(path))
    if isinstance(sys.stdout, io.TextIOWrapper):
        # a file may hold letters that this terminal does not know
        sys.stdout.reconfigure(errors="backslashreplace")
    if as_json:
        sys.stdout.write(json.dumps(document(found)) + "\n")
    else:
        _print(found, Console(highlight=False, markup=False, emoji=False, soft_wrap=True))
    return HOLDS if found.verdict == ISOLATED else FAILS


# ---- for machines


def document(found: Audit) -> dict[str, Any]:
    """The answer as JSON; addresses and sizes are numbers, in bytes."""
    tables = found.tables
    return {
        "version": SCHEMA,
        "file": tables.name,
        "xen": tables.xen,
        "architecture": "arm64" if tables.aarch64 else "arm32",
        "ram": {"base": tables.ram_base, "size": tables.ram_size},
        "verdict": found.verdict,
        "violations": list(found.violations),
        "not_checked": list(found.doubts),
        "remarks": list(found.remarks),
        "observations": {"total": sum(len(each.domain.loads) for each in found.vms),
                         "agree": sum(each.agree for each in found.vms)},
        "vms": [_vm(each) for each in found.vms],
        "shared": [_shared(each) for each in found.shared],
    }


def _vm(vm: Vm) -> dict[str, Any]:
    return {
        "vm": vm.domain.number,
        "vmid": vm.domain.vmid,
        "root": vm.domain.root,
        "ipa_bits": vm.shape.ipa_bits,
        "start_level": vm.shape.start_level,
        "root_pages": vm.shape.root_pages,
        "table_pages": len(vm.tables),
        "leaves": vm.leaves,
        "observations": {"total": len(vm.domain.loads), "agree": vm.agree, "after_repair": vm.repaired},
        "mappings": [
            {"ipa": each.ipa, "machine": each.machine, "size": each.size, "type": each.kind, "access": each.access,
             "valid": each.valid, "leaves": each.leaves}
            for each in vm.mappings
        ],
    }


def _shared(each: Shared) -> dict[str, Any]:
    users = [{"vm": user.vm, "ipa": user.ipa, "type": user.kind, "access": user.access} for user in each.users]
    return {"machine": each.machine, "size": each.size, "device": each.device, "justified": each.justified,
            "why": each.why, "users": users}


# ---- for people


def _print(found: Audit, out: Console) -> None:
    tables = found.tables
    kind = "arm64" if tables.aarch64 else "arm32"
    out.print(f"Bulkhead {__version__}: stage-2 tables of {kind} Xen {tables.xen or '(version not given)'}")
    out.print(f"  {tables.name}: {len(tables.row)} table pages, RAM {span(tables.ram_base, tables.ram_size, 8)}")
    width = max((len(f"{each.ipa + each.size - 1:x}") for vm in found.vms for each in vm.mappings), default=8)
    for vm in found.vms:
        out.print()
        out.print(f"VM {vm.domain.number}: {vm.shape.ipa_bits}-bit IPA, walked from level {vm.shape.start_level} "
                  f"({many(vm.shape.root_pages, 'root page')}), VMID {vm.domain.vmid}; "
                  f"{many(vm.leaves, 'mapping')} in {many(len(vm.mappings), 'range')}")
        rows(out, MAPPING_TITLES, [_mapping_row(each, width) for each in vm.mappings[:MOST_ROWS]], len(vm.mappings))
    out.print()
    if found.shared:
        out.print("Reached by more than one VM")
        rows(out, SHARED_TITLES, [_shared_row(each, width) for each in found.shared[:MOST_ROWS]], len(found.shared))
    else:
        out.print("Nothing is reached by more than one VM")
    out.print()
    loads, agree = sum(len(each.domain.loads) for each in found.vms), sum(each.agree for each in found.vms)
    repaired = sum(each.repaired for each in found.vms)
    out.print(f"{agree} of {many(loads, 'load')} by the guests agree with the walk"
              + (f", {repaired} of them once Xen has made the mapping valid" if repaired else ""))
    for title, texts in (("violation", found.violations), ("not checked", found.doubts), ("note", found.remarks)):
        for each in texts[:MOST_ROWS]:
            out.print(f"{title}: {each}")
        if len(texts) > MOST_ROWS:
            out.print(f"{title}: {len(texts) - MOST_ROWS} more, see --json")
    out.print(f"Verdict: {found.verdict}", style="bold green" if found.verdict == ISOLATED else "bold red")


def _mapping_row(each: Mapping, width: int) -> tuple[str, ...]:
    return (span(each.ipa, each.size, width), span(each.machine, each.size, width), size_text(each.size), each.kind,
            each.access, VALID[each.valid])


def _shared_row(each: Shared, width: int) -> tuple[str, ...]:
    users = ", ".join(f"{user.vm} ({user.access} at {user.ipa:#x})" for user in each.users)
    return span(each.machine, each.size, width), size_text(each.size), users, each.why
