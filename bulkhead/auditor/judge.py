"""The verdict about an image: what each VM reaches, held against what it may reach.

With Xen's own records every frame of RAM has an owner, and every borrowed frame needs a grant in use or a privilege.
Without them only what the tables show by themselves is judged, and the answer is never "isolated".
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

from bulkhead.audit import ISOLATED, NOT_CHECKED, VIOLATION
from bulkhead.auditor.findings import Finding
from bulkhead.auditor.image import Image
from bulkhead.auditor.kinds import LAST_TYPE, Kind, how, type_name
from bulkhead.auditor.owners import Owners
from bulkhead.auditor.reach import Kinds, Reach, Runs
from bulkhead.auditor.sharing import Shared, Sharing
from bulkhead.auditor.vms import Vm
from bulkhead.auditor.xen_memory import XEN, Xen
from bulkhead.layout import size_text
from impl.fast.geometry import LAST_LEVEL, PAGE_BITS
from impl.fast.walks import NO_EXECUTE, WRITE, Words
from spec.language import Mfn, encode
from spec.memory import p2m
from spec.memory.descriptors import Access, leaf
from spec.state import P2mType

MOST_FINDINGS: Final = 1000
"""Findings of one kind; the rest is only counted."""
NO_RECORDS: Final = "owners of frames and grants in use: no symbols of Xen were given"
_CHUNK: Final = 1 << 18
_ATTRIBUTES: Final = 0xF << 2 | 3 << 8


@attrs.frozen
class Verdict:
    """The answer about an image.

    unchecked: what could not be looked at, in words, without a finding.
    """

    image: Image
    vms: tuple[Vm, ...]
    xen: Xen | None
    reach: Reach = attrs.field(repr=False)
    runs: Runs = attrs.field(repr=False, eq=False)
    owners: Owners = attrs.field(repr=False)
    shared: tuple[Shared, ...]
    findings: tuple[Finding, ...]
    unchecked: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """One of ``isolated``, ``violation``, ``not checked``."""
        if any(each.severity == VIOLATION for each in self.findings):
            return VIOLATION
        return NOT_CHECKED if self.findings or self.unchecked else ISOLATED


def judge(image: Image, vms: Sequence[Vm], xen: Xen | None = None, unchecked: Iterable[str] = ()) -> Verdict:
    """Walk all tables and judge what was found.

    xen: Xen's own records, if they could be read; unchecked: what else is missing, in words.
    Errors: BadInputError if the tables cannot be walked.
    """
    return _Judge(image, tuple(vms), xen).answer(tuple(unchecked))


class _Judge:
    """Collects what speaks against isolation."""

    def __init__(self, image: Image, vms: tuple[Vm, ...], xen: Xen | None) -> None:
        self.image, self.vms, self.xen = image, vms, xen
        self.reach = Reach(image, vms)
        self.runs = self.reach.runs()
        self.owners = Owners(vms, self.reach.kinds, xen)
        self.found: dict[str, list[tuple[Finding, int | None]]] = collections.defaultdict(list)
        self.more: dict[str, int] = collections.defaultdict(int)

    def answer(self, unchecked: tuple[str, ...]) -> Verdict:
        """Judge everything."""
        self._missing()
        self._list_of_vms()
        self._descriptors()
        self._kinds()
        tables = self._table_pages()
        self._outside()
        self._ram(tables)
        sharing = Sharing(self.reach, self.runs, self.owners)
        self._clashes(sharing, tables)
        if self.xen is None and not unchecked:
            unchecked = (NO_RECORDS,)
        return Verdict(self.image, self.vms, self.xen, self.reach, self.runs, self.owners, tuple(sharing.found),
                       self._with_addresses(), unchecked)

    # ---- collecting

    def _say(self, kind: str, vm: int | None, why: str, frame: int | None = None, frames: int = 1,
             ipa: int | None = None) -> None:
        """A finding; vm: its place, None if it is about no one."""
        if len(self.found[kind]) >= MOST_FINDINGS:
            self.more[kind] += 1
            return
        name = "" if vm is None else self.vms[vm].name
        machine = None if frame is None else frame << PAGE_BITS
        size = 0 if frame is None else frames << PAGE_BITS
        self.found[kind].append((Finding(kind, name, why, machine, size, ipa), vm))

    def _with_addresses(self) -> tuple[Finding, ...]:
        """All findings, with the guest addresses that were not known yet."""
        wanted: dict[int, set[int]] = collections.defaultdict(set)
        for finding, vm in itertools.chain.from_iterable(self.found.values()):
            if vm is not None and finding.ipa is None and finding.machine is not None:
                wanted[vm].add(finding.machine >> PAGE_BITS)
        place: dict[tuple[int, int], int] = {}
        for vm, frames in wanted.items():
            for each in self.reach.places(vm, np.array(sorted(frames), np.uint64)):
                place.setdefault((vm, each.frame), each.ipa)
        made = []
        for kind, found in self.found.items():
            for finding, vm in found:
                if vm is not None and finding.ipa is None and finding.machine is not None:
                    finding = attrs.evolve(finding, ipa=place.get((vm, finding.machine >> PAGE_BITS)))
                made.append(finding)
            if self.more[kind]:
                made.append(Finding(kind, "", f"{self.more[kind]} more of this kind"))
        return tuple(made)

    # ---- what was given

    def _missing(self) -> None:
        if not self.image.missing:
            return
        lost = sum(size for _, size in self.image.missing)
        tables = sum(1 for each in self.reach.lost if self._is_missing(each.table))
        also = f", and with it {tables} page tables" if tables else ""
        self._say("truncated", None, f"{size_text(lost)} of {size_text(self.image.size)} RAM are missing, from "
                  f"{self.image.missing[0][0]:#x} on{also}")

    def _is_missing(self, address: int) -> bool:
        return any(base <= address < base + size for base, size in self.image.missing)

    def _list_of_vms(self) -> None:
        """No two VMs have the same VMID, and they are those that Xen has."""
        met: dict[int, int] = {}
        for place, vm in enumerate(self.vms):
            other = met.setdefault(vm.vmid, place)
            if other != place:
                self._say("vmid", place, f"{self.vms[other].name} has VMID {vm.vmid} too")
        if self.xen is None:
            return
        for place, (vm, domain) in enumerate(zip(self.vms, self.owners.domains, strict=True)):
            if domain is None:
                self._say("vm-list", place, "Xen has no domain with this VTTBR")
            elif vm.domain is not None and vm.domain != domain.number:
                self._say("vm-list", place, f"it is Xen's domain {domain.number}, not {vm.domain}")
        for each in self.xen.domains:
            if each not in self.owners.domains:
                self._say("vm-list", None, f"Xen has a domain {each.number} that was not given")

    # ---- descriptors and kinds

    def _descriptors(self) -> None:
        for odd in self.reach.odd:
            others = f", and {odd.number - 1} more like it" if odd.number > 1 else ""
            self._say("descriptor", odd.vm, f"{odd.what}: {odd.word:#018x} at level {odd.level}, entry {odd.entry} of "
                      f"the table at {odd.table:#x}{others}", ipa=odd.ipa)
        for lost in self.reach.lost:
            if not self._is_missing(lost.table):
                self._say("descriptor", lost.vm, f"the table of level {lost.level} at {lost.table:#x} is not in RAM",
                          ipa=lost.ipa)

    def _kinds(self) -> None:
        """A mapping permits what its type permits, with the memory type of its type."""
        first, end, kinds = self.runs
        for number in np.unique(kinds).tolist():
            kind = self.reach.kinds[number]
            problem = _problem(kind)
            if problem:
                mine = np.flatnonzero(kinds == number)
                frames = int((end[mine] - first[mine]).sum())
                self._say(problem[0], kind.vm, problem[1], int(first[mine[0]]), frames)

    # ---- page tables

    def _table_pages(self) -> Words:
        """Nobody reaches a table page, each is used once, and all are Xen's; the frames of all of them."""
        pages = [tree.tables >> np.uint64(PAGE_BITS) for tree in self.reach.trees]
        frames = np.concatenate([np.empty(0, np.uint64), *pages])
        user = np.repeat(np.arange(len(pages)), [len(each) for each in pages])
        order = np.argsort(frames, kind="stable")
        frames, user = frames[order], user[order]
        for at in np.flatnonzero(frames[1:] == frames[:-1]).tolist():
            first, second = int(user[at]), int(user[at + 1])
            again = "uses it twice" if first == second else f"{self.vms[first].name} uses it too"
            self._say("table-shared", second, f"a table page, {again}", int(frames[at]))
        once, place = np.unique(frames, return_index=True)
        whose = {frame: self.vms[int(user[at])].name for frame, at in zip(once.tolist(), place.tolist(), strict=True)}
        for frame, number in self._pairs(once):
            kind = self.reach.kinds[number]
            self._say("table-page", kind.vm, f"reaches a page of {whose[frame]}'s stage-2 tables, {how(kind)}", frame)
        for low, part in self.reach.parts if self.xen else ():
            inside = once[(once >= low) & (once < low + len(part))]
            owner = self.owners.of(low, (inside - np.uint64(low)).view(np.int64))
            for frame, number in zip(inside[owner != XEN].tolist(), owner[owner != XEN].tolist(), strict=True):
                self._say("table-owned", None, f"a table page of {whose[frame]}, but its owner is "
                          f"{self.owners.name(number)}", frame)
        return once

    def _pairs(self, frames: Words) -> Iterator[tuple[int, int]]:
        """Who reaches some frames of RAM: (frame, kind), each pair once."""
        for low, part in self.reach.parts:
            inside = frames[(frames >= low) & (frames < low + len(part))]
            kinds = part[(inside - np.uint64(low)).view(np.int64)]
            used = kinds != 0
            yield from zip(inside[used].tolist(), kinds[used].tolist(), strict=True)
        extra, kinds = self.reach.extra
        again = np.isin(extra, frames)
        yield from zip(extra[again].tolist(), kinds[again].tolist(), strict=True)

    # ---- memory

    def _outside(self) -> None:
        """Where the machine has no RAM there are only devices, and none of those that Xen drives."""
        driven = self.xen.devices if self.xen else np.empty(0, np.uint64)
        for first, end, number in zip(*(each.tolist() for each in self.reach.outside), strict=True):
            kind = self.reach.kinds[number]
            if kind.type not in p2m.DEVICE:
                self._say("not-ram", kind.vm, f"no RAM of this machine, {how(kind)}", first, end - first)
                continue
            low, high = np.searchsorted(driven, np.array([first, end], np.uint64)).tolist()
            if low < high:
                self._say("xen-device", kind.vm, f"a device that Xen drives, {how(kind)}", int(driven[low]), high - low)

    def _ram(self, tables: Words) -> None:
        """Every frame of RAM is reached only by who may."""
        frames, kinds, owners = self._suspects()
        keep = ~np.isin(frames, tables)
        order = np.lexsort((frames[keep], kinds[keep]))
        frames, kinds, owners = frames[keep][order], kinds[keep][order], owners[keep][order]
        fresh = np.ones(len(frames), np.bool_)
        fresh[1:] = (frames[1:] != frames[:-1] + np.uint64(1)) | (kinds[1:] != kinds[:-1]) | (owners[1:] != owners[:-1])
        # a grant is for one page
        granted = np.isin(frames, self.owners.granted)
        fresh |= granted
        fresh[1:] |= granted[:-1]
        edges = [*np.flatnonzero(fresh).tolist(), len(frames)]
        for start, stop in itertools.pairwise(edges):
            number, frame = int(kinds[start]), int(frames[start])
            answer = self.owners.answer(number, frame)
            if answer.finding:
                self._say(answer.finding, self.reach.kinds[number].vm, answer.why, frame, stop - start)

    def _suspects(self) -> tuple[Words, Kinds, Kinds]:
        """Frames, kinds and owners that do not go together, or only with a grant."""
        columns = self.owners.code.shape[1]
        code = self.owners.code.reshape(-1)
        found: list[tuple[Words, Kinds, Kinds]] = [
            (np.empty(0, np.uint64), np.empty(0, np.uint16), np.empty(0, np.uint16))]

        def look(low: int, place: npt.NDArray[np.int64], kinds: Kinds) -> None:
            owner = self.owners.of(low, place)
            bad = np.flatnonzero(code[kinds.astype(np.intp) * columns + owner])
            if len(bad):
                found.append((place[bad].astype(np.uint64) + np.uint64(low), kinds[bad], owner[bad]))

        extra, extra_kinds = self.reach.extra
        for low, part in self.reach.parts:
            for start in range(0, len(part), _CHUNK):
                used = np.flatnonzero(part[start:start + _CHUNK]) + start
                look(low, used, part[used])
            inside = (extra >= low) & (extra < low + len(part))
            look(low, (extra[inside] - np.uint64(low)).view(np.int64), extra_kinds[inside])
        frames, numbers, owners = (np.concatenate(each) for each in zip(*found, strict=True))
        return frames, numbers, owners

    def _clashes(self, sharing: Sharing, tables: Words) -> None:
        """What two VMs have as their own, where nobody says whose it is."""
        for clash in sharing.clashes:
            if clash.frame in tables:
                continue
            kinds = [self.reach.kinds[each] for each in clash.kinds]
            names = " and ".join(sorted({self.vms[kind.vm].name for kind in kinds}))
            self._say("unexplained", kinds[-1].vm, f"the memory of {names} at once, {how(kinds[-1])}", clash.frame,
                      clash.frames)
        if not sharing.complete:
            self._say("too-many", None, f"more than {len(sharing.found)} ranges are shared or borrowed")


def _problem(kind: Kind) -> tuple[str, str] | None:
    """What is wrong with a kind of mapping by itself: the kind of finding, and why."""
    if kind.type > LAST_TYPE:
        return "descriptor", f"type {kind.type}, which Xen does not have, {kind.access}"
    if kind.type == P2mType.INVALID:
        return None
    usual = int(encode(leaf(Mfn(0), kind.type, Access.RWX, LAST_LEVEL)))
    if (kind.bits & WRITE and not usual & WRITE) or (not kind.bits & NO_EXECUTE and usual & NO_EXECUTE):
        return "excess-rights", f"{kind.access} is more than {type_name(kind.type)} allows"
    if (kind.bits ^ usual) & _ATTRIBUTES:
        return "memory-type", f"{kind.memory}, shareability {kind.shareability}, is not what {type_name(kind.type)} has"
    return None
