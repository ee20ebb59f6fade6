"""The answer as one self-contained HTML page: a map of machine memory to look at, zoom and point at.

The page loads nothing and sends nothing.  Its data is JSON in a script element; the drawing is in `template`.
"""

from __future__ import annotations

import html
import json
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bulkhead import __version__
from bulkhead.auditor.judge import Verdict
from bulkhead.auditor.kinds import type_name
from bulkhead.auditor.template import TEMPLATE
from bulkhead.auditor.xen_memory import FIRST_DOMAIN, FREE, UNKNOWN, XEN
from bulkhead.layout import size_text
from impl.fast.geometry import PAGE_BITS
from spec.memory import p2m

MOST_RUNS: Final = 100_000
"""Ranges of one map; of a more scattered memory every second, fourth, ... frame is drawn."""
MOST_ROWS: Final = 2000
NOBODY: Final = "reached by no VM"


def page(found: Verdict) -> str:
    """The page, a whole HTML document."""
    data = json.dumps(_data(found), separators=(",", ":")).replace("<", "\\u003c")
    title = html.escape(f"Audit of {found.image.name}")
    return TEMPLATE.replace("@TITLE@", title).replace("@DATA@", data)


def _data(found: Verdict) -> dict[str, Any]:
    banks: list[dict[str, Any]] = []
    step = 1
    for (base, size), (low, kinds) in zip(found.image.ram, found.reach.parts, strict=True):
        owner = _owner(found, low, kinds)
        step_here = 1
        while len(kinds) // step_here > MOST_RUNS and _changes(owner[::step_here], kinds[::step_here]) > MOST_RUNS:
            step_here *= 2
        step = max(step, step_here)
        banks.append({"base": base, "size": size, "runs": _runs(owner, kinds, low, step_here)})
    return {
        "version": __version__, "file": found.image.name, "verdict": found.verdict, "step": step,
        "ram": size_text(found.image.size), "records": found.xen is not None,
        "owners": _names(found), "banks": banks,
        "vms": [{"name": vm.name, "vmid": vm.vmid, "leaves": leaves} for vm, leaves in
                zip(found.vms, found.reach.leaves, strict=True)],
        "kinds": [None if kind.vm < 0 else {
            "vm": kind.vm, "type": type_name(kind.type), "access": kind.access, "memory": kind.memory,
            "valid": kind.valid} for kind in found.reach.kinds],
        "shared": [{"at": each.machine, "size": each.size, "reason": each.reason, "justified": each.justified,
                    "why": each.why, "users": [f"{user.vm} {user.access} ({user.type})" for user in each.users]}
                   for each in found.shared[:MOST_ROWS]],
        "findings": [{"kind": each.kind, "severity": each.severity, "at": each.machine, "size": each.size,
                      "text": each.text} for each in found.findings[:MOST_ROWS]],
        "unchecked": list(found.unchecked),
        "outside": _outside(found),
    }


def _names(found: Verdict) -> list[str]:
    """The owners that the map can show: by Xen's records, or by who reaches a frame as its own."""
    if found.xen is None:
        return [NOBODY, *(vm.name for vm in found.vms)]
    known = (*found.xen.domains, *found.xen.special)
    names = {XEN: "Xen", FREE: "free", UNKNOWN: "not known"}
    return [names[place] if place in names else found.owners.name(place) for place in range(FIRST_DOMAIN + len(known))]


def _owner(found: Verdict, low: int, kinds: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    if found.xen is not None:
        return found.owners.of(low, np.arange(len(kinds)))
    own = [kind.vm + 1 if kind.vm >= 0 and kind.type in p2m.RAM else 0 for kind in found.reach.kinds]
    return np.array(own, np.uint16)[kinds]


def _changes(owner: npt.NDArray[np.uint16], kinds: npt.NDArray[np.uint16]) -> int:
    return int(np.count_nonzero((owner[1:] != owner[:-1]) | (kinds[1:] != kinds[:-1])))


def _runs(owner: npt.NDArray[np.uint16], kinds: npt.NDArray[np.uint16], low: int, step: int) -> list[list[int]]:
    """Ranges of one owner and one way of reaching them: first frame, owner, kind; each goes on to the next."""
    owner, kinds = owner[::step], kinds[::step]
    fresh = np.ones(len(owner), np.bool_)
    fresh[1:] = (owner[1:] != owner[:-1]) | (kinds[1:] != kinds[:-1])
    at = np.flatnonzero(fresh)
    return [list(each) for each in zip((at * step + low).tolist(), owner[at].tolist(), kinds[at].tolist(), strict=True)]


def _outside(found: Verdict) -> list[dict[str, Any]]:
    """What is reached where there is no RAM."""
    rows = []
    for first, end, number in zip(*(each.tolist() for each in found.reach.outside), strict=True):
        rows.append({"at": first << PAGE_BITS, "size": (end - first) << PAGE_BITS, "kind": number})
        if len(rows) == MOST_ROWS:
            break
    return rows
