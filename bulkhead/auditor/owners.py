"""Who may reach a frame: each way of reaching it, held against the owner that Xen's own records name."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

from bulkhead.auditor.kinds import Kind, how
from bulkhead.auditor.vms import Vm
from bulkhead.auditor.xen_memory import FIRST_DOMAIN, FREE, UNKNOWN, XEN, Active, Domain, Xen
from spec.memory import p2m
from spec.state import P2mType

GRANTED: Final = (*p2m.GRANT, P2mType.IOMMU_MAP_RW, P2mType.IOMMU_MAP_RO)
BORROWED: Final = (*p2m.FOREIGN, *GRANTED)
WRITABLE: Final = (P2mType.GRANT_MAP_RW, P2mType.IOMMU_MAP_RW)
OK, GRANT, IS_XEN, IS_FREE, IS_OTHERS, NO_PRIVILEGE, NOT_KNOWN, IS_DEVICE = range(8)
"""Whether a kind and an owner go together.  GRANT: only with a grant in use."""
FINDING: Final = {IS_XEN: "xen-memory", IS_FREE: "freed-frame", IS_OTHERS: "unexplained",
                  NO_PRIVILEGE: "foreign-unprivileged", NOT_KNOWN: "owner-unknown", IS_DEVICE: "device-ram"}
_WORDS: Final = {
    IS_XEN: "reaches memory of Xen", IS_FREE: "reaches memory that is free", IS_OTHERS: "reaches memory of {}",
    NO_PRIVILEGE: "maps memory of {} without the privilege to", IS_DEVICE: "RAM of this machine",
    NOT_KNOWN: "Xen's records do not say whose memory this is",
}


@attrs.frozen
class Answer:
    """Why a mapping of one frame is right or not. finding: a kind of finding, "" if it is right; why: in words."""

    finding: str
    why: str


class Owners:
    """The kinds of an image against the owners of its frames.

    code: for each kind and each owner (one column without Xen's records) whether they go together.  granted: frames of
    which a grant is in use, ascending.
    """

    def __init__(self, vms: Sequence[Vm], kinds: Sequence[Kind], xen: Xen | None) -> None:
        self.vms, self.kinds, self.xen = vms, kinds, xen
        self.known = (*xen.domains, *xen.special) if xen else ()
        self.domains = [self._domain(vm) for vm in vms]
        self.grants: dict[tuple[int, int], list[Active]] = collections.defaultdict(list)
        for each in xen.active if xen else ():
            self.grants[each.frame, each.mapper].append(each)
        self.granted = np.array(sorted({frame for frame, _ in self.grants}), np.uint64)
        self.code = np.zeros((len(kinds), FIRST_DOMAIN + len(self.known) if xen else 1), np.uint8)
        for number, kind in enumerate(kinds):
            if number:
                self.code[number] = self._codes(kind)

    def _domain(self, vm: Vm) -> Domain | None:
        """The domain of a VM, by its root table."""
        for each in self.xen.domains if self.xen else ():
            if vm.geometry.root_of(each.vttbr) == vm.root:
                return each
        return None

    def _codes(self, kind: Kind) -> npt.NDArray[np.uint8]:
        """One row of the code."""
        row = np.full(self.code.shape[1], OK, np.uint8)
        domain = self.domains[kind.vm]
        if kind.type in p2m.DEVICE:
            row[:] = IS_DEVICE
            if self.xen is not None:
                # memory that Xen does not manage, as that of a display, is a device to it
                row[UNKNOWN] = OK
            return row
        if domain is None:
            return row
        row[XEN], row[FREE], row[UNKNOWN] = IS_XEN, IS_FREE, NOT_KNOWN
        for place, each in enumerate(self.known, FIRST_DOMAIN):
            if kind.type in GRANTED:
                row[place] = GRANT
            elif kind.type in p2m.FOREIGN:
                row[place] = OK if domain.privileged or domain.target == each.number else NO_PRIVILEGE
            else:
                row[place] = OK if each.number == domain.number else IS_OTHERS
        return row

    def of(self, low: int, place: npt.NDArray[np.int64]) -> npt.NDArray[np.uint16]:
        """The owners of some frames of the range of RAM that begins with frame `low`; all 0 without Xen's records."""
        for start, owner in self.xen.owners if self.xen else ():
            if start == low:
                return owner[place]
        return np.zeros(len(place), np.uint16)

    def parts(self, first: int, end: int) -> list[int]:
        """Edges of parts of some frames, in which owners do not change and a granted page is by itself."""
        edges = {first, end}
        for low, owner in self.xen.owners if self.xen else ():
            start, stop = max(first, low), min(end, low + len(owner))
            if start < stop:
                mine = owner[start - low:stop - low]
                edges.update((np.flatnonzero(mine[1:] != mine[:-1]) + start + 1).tolist())
        low, high = np.searchsorted(self.granted, np.array([first, end], np.uint64)).tolist()
        for each in self.granted[low:high].tolist():
            edges.update((each, each + 1))
        return sorted(edges)

    def name(self, owner: int) -> str:
        """An owner in words, as the list of VMs has it."""
        if owner < FIRST_DOMAIN:
            return ("Xen", "nobody, it is free", "nobody known")[owner]
        for vm, domain in zip(self.vms, self.domains, strict=True):
            if domain is self.known[owner - FIRST_DOMAIN]:
                return vm.name
        return self.known[owner - FIRST_DOMAIN].name

    def answer(self, number: int, frame: int) -> Answer:
        """Whether a kind may reach a frame of RAM, by Xen's records."""
        kind = self.kinds[number]
        owner = self.xen.owner(frame) if self.xen else XEN
        code = int(self.code[number, owner if self.xen else 0])
        if code == GRANT:
            return self._granted(frame, kind, owner)
        if code in _WORDS:
            return Answer(FINDING[code], f"{_WORDS[code].format(self.name(owner))}, {how(kind)}")
        if kind.type in p2m.DEVICE:
            return Answer("", "a device that they were given")
        if kind.type in p2m.FOREIGN:
            return Answer("", f"mapped by {self.vms[kind.vm].name}, which has the privilege, owner {self.name(owner)}")
        return Answer("", "its own memory")

    def _granted(self, frame: int, kind: Kind, owner: int) -> Answer:
        """A page that is mapped as granted needs a grant in use, by its owner, to this VM, with these rights.

        Source: xen/common/grant_table.c (the pins of struct active_grant_entry), Xen 4.17.
        """
        domain, granter = self.domains[kind.vm], self.known[owner - FIRST_DOMAIN].number
        found = [] if domain is None else [
            each for each in self.grants.get((frame, domain.number), ()) if each.granter == granter]
        whose = self.name(owner)
        if not found:
            return Answer("grant-missing", f"no grant of {whose} to this VM is in use, {how(kind)}")
        write = kind.type in WRITABLE
        best = next((each for each in found if each.writable == write), found[0])
        if write and not best.writable:
            return Answer("grant-rights", f"grant {best.ref} of {whose} is in use for reading only, {how(kind)}")
        mode = "writable" if best.writable else "read-only"
        return Answer("", f"grant {best.ref} of {whose} to {self.vms[kind.vm].name}, {mode}")
