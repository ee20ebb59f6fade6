"""What several VMs reach, or one has borrowed, and why."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterator
from typing import Final

import attrs
import numpy as np

from bulkhead.auditor.kinds import Kind, type_name
from bulkhead.auditor.owners import BORROWED, GRANTED, Owners
from bulkhead.auditor.reach import Reach, Runs
from impl.fast.geometry import PAGE_BITS
from spec.memory import p2m

GRANT_REASON, FOREIGN_REASON, DEVICE_REASON, UNEXPLAINED = "granted", "foreign", "device", "unexplained"
MOST_PIECES: Final = 100_000
"""Ranges that are looked at one by one."""


@attrs.frozen
class User:
    """How a VM reaches a shared range."""

    vm: str
    type: str
    access: str
    valid: str


@attrs.frozen
class Shared:
    """A range of machine memory that several VMs reach, or that one has borrowed.

    machine, size: bytes.  reason: one of the four.  justified: None if that could not be checked.
    """

    machine: int
    size: int
    reason: str
    justified: bool | None
    why: str
    users: tuple[User, ...]


@attrs.frozen
class Clash:
    """RAM that two VMs have as their own, as far as the tables alone show. kinds: numbers."""

    frame: int
    frames: int
    kinds: tuple[int, ...]


class Sharing:
    """All that is shared.

    found: in the order of addresses.  clashes: what nothing explains (only without Xen's records: with them each
    frame has been judged by its owner).  complete: all of it was looked at.
    """

    def __init__(self, reach: Reach, runs: Runs, owners: Owners) -> None:
        self.reach, self.owners = reach, owners
        self.found: list[Shared] = []
        self.clashes: list[Clash] = []
        self.complete = True
        self._left = MOST_PIECES
        for first, end, numbers in _pieces(reach, runs):
            self._take(first, end, numbers)
            if not self.complete:
                break

    def _take(self, first: int, end: int, numbers: tuple[int, ...]) -> None:
        kinds = [self.reach.kinds[each] for each in numbers]
        users = tuple(User(self.reach.vms[kind.vm].name, type_name(kind.type), kind.access, kind.valid)
                      for kind in kinds)
        for start, stop in itertools.pairwise(self.owners.parts(first, end)):
            if not self._left:
                self.complete = False
                return
            self._left -= 1
            frames = stop - start
            reason, justified, why = self._reason(start, numbers, kinds)
            if reason == UNEXPLAINED and self.owners.xen is None:
                self.clashes.append(Clash(start, frames, numbers))
            shared = Shared(start << PAGE_BITS, frames << PAGE_BITS, reason, justified, why, users)
            last = self.found[-1] if self.found else None
            if last and attrs.evolve(last, machine=last.machine + last.size, size=shared.size) == shared:
                self.found[-1] = attrs.evolve(last, size=last.size + shared.size)
            else:
                self.found.append(shared)

    def _reason(self, frame: int, numbers: tuple[int, ...], kinds: list[Kind]) -> tuple[str, bool | None, str]:
        """Why VMs may reach a frame: the reason, whether it holds, and in words."""
        devices = all(kind.type in p2m.DEVICE for kind in kinds)
        if devices and not self.reach.image.has_ram(frame << PAGE_BITS):
            return DEVICE_REASON, True, "a device that they were given"
        borrowers = [(number, kind) for number, kind in zip(numbers, kinds, strict=True) if kind.type in BORROWED]
        own = {kind.vm for kind in kinds if kind.type not in BORROWED}
        granted = any(kind.type in GRANTED for _, kind in borrowers)
        if devices:
            name = DEVICE_REASON
        else:
            name = UNEXPLAINED if not borrowers else GRANT_REASON if granted else FOREIGN_REASON
        if self.owners.xen is None:
            if devices:
                return name, False, "RAM of this machine"
            if not borrowers or len(own) > 1:
                return UNEXPLAINED, False, "the memory of several VMs at once"
            return name, None, "by the type of the mapping alone"
        answers = [self.owners.answer(number, frame) for number in numbers]
        wrong = [each.why for each in answers if each.finding]
        if wrong:
            return name, False, "; ".join(wrong)
        told = [number for number, _ in borrowers] or numbers[:1]
        return name, True, "; ".join(self.owners.answer(number, frame).why for number in told)


def _pieces(reach: Reach, runs: Runs) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Ranges in which nothing begins or ends, and that are shared or borrowed: first frame, end, numbers of kinds."""
    first, end, kinds = runs
    if not len(first):
        return
    # what overlaps nothing and is nobody else's is left out before anything is looked at one by one
    fresh = np.ones(len(first), np.bool_)
    fresh[1:] = first[1:] >= np.maximum.accumulate(end)[:-1]
    cluster = np.cumsum(fresh) - 1
    alone = np.bincount(cluster)[cluster] == 1
    borrowed = np.array([kind.type in BORROWED for kind in reach.kinds])
    wanted = np.flatnonzero(~alone | borrowed[kinds])
    begins: dict[int, list[int]] = collections.defaultdict(list)
    ends: dict[int, list[int]] = collections.defaultdict(list)
    for at, start, stop in zip(wanted.tolist(), first[wanted].tolist(), end[wanted].tolist(), strict=True):
        begins[start].append(at)
        ends[stop].append(at)
    active: set[int] = set()
    for start, stop in itertools.pairwise(sorted({*begins, *ends})):
        active.difference_update(ends.get(start, ()))
        active.update(begins.get(start, ()))
        numbers = tuple(sorted({int(kinds[each]) for each in active}))
        if len({reach.kinds[each].vm for each in numbers}) > 1 or any(borrowed[each] for each in numbers):
            yield start, stop, numbers
