"""One batch of addresses: what the specification, ``impl.fast`` and the processor say, compared word by word."""

from __future__ import annotations

import collections
from collections import Counter
from collections.abc import Sequence
from typing import Final, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from bulkhead.fuzz.walks import compare as walks
from bulkhead.fuzz.walks.compare import OUTSIDE, Ways
from bulkhead.fuzz.walks.tables import Shape, Words
from bulkhead.mmu.cases import TARGET, TARGETS, InRam
from bulkhead.mmu.expect import Leaves, Second, leaves
from bulkhead.mmu.explained import EXPLAINED, Entry, together
from bulkhead.mmu.first import Stop, UnknowableError, lead
from impl.fast import walks as fast
from impl.xen.mmu import par
from impl.xen.mmu.machine import RESERVED, FirstStage, Mmu, Processor
from impl.xen.mmu.par import Answers, Fault
from spec.memory.walk import Kind

Flags: TypeAlias = NDArray[np.bool_]
Row: TypeAlias = tuple[int, ...]
"""The fields of ``Answers`` for one address, in plain integers."""
FIELDS: Final = tuple(each.name for each in attrs.fields(Answers))
UNKNOWN: Final = Fault.OTHER
"""Stands for the end of a walk that goes through memory of the payload."""
_WRITE_BACK, _DEVICE = 0xFF, 0x00
"""ATTR of the guest's memory while stage 1 is off: with HCR.DC, and without."""
_OF_FAST: Final = {Kind.READ: fast.Access.READ, Kind.WRITE: fast.Access.WRITE, Kind.EXECUTE: fast.Access.EXECUTE}


@attrs.frozen(eq=False)
class Batch:
    """Tables in a processor's RAM, and what is set beside them.

    second: the specification's stage 2 of them.  cached: HCR.DC.  first: stage 1 is on.  window: machine address of the
    entry of stage 1 through which a 32-bit processor reaches 40-bit addresses, or 0.  vectors: guest address of a page
    of HVC instructions: instructions are fetched; else addresses are read and written.
    """

    processor: Processor
    shape: Shape
    tables: InRam
    second: Second
    cached: bool = True
    first: FirstStage | None = None
    window: int = 0
    vectors: int = 0

    @property
    def accesses(self) -> tuple[Kind, ...]:
        """What every address is translated for."""
        return (Kind.EXECUTE,) if self.vectors else (Kind.READ, Kind.WRITE)

    @property
    def walks_first(self) -> bool:
        """Addresses are those of a guest with tables of its own."""
        return self.first is not None and not self.window

    def expected(self, addresses: Words, second: Second | None = None) -> Answers:
        """What must come back: for all addresses, one access after the other.

        second: instead of the specification's.
        """
        if self.walks_first:
            return self._through_both(addresses, second or self.second)
        second = second or self.second
        return self.of_leaves(addresses, leaves(second, addresses.tolist()), second)

    def of_leaves(self, addresses: Words, ends: Leaves, second: Second) -> Answers:
        """As ``expected``, from walks that were made; stage 1 leaves addresses as they are."""
        cached = self.cached or bool(self.window)
        attr = np.full(len(addresses), _WRITE_BACK if cached else _DEVICE, np.uint8)
        share = np.full(len(addresses), 0 if cached else 2, np.uint8)
        memory, shared = second.attributes(attr, share, ends.memory, ends.share)
        # an address that the processor has not is a fault of stage 1
        beyond = np.zeros(len(addresses), np.bool_) if self.processor.arm32 \
            else addresses >> np.uint64(self.processor.va_bits) != 0
        parts = []
        for access in self.accesses:
            denied = (ends.fault == 0) & (ends.allowed >> access & 1 == 0)
            fault = np.where(beyond, Fault.ADDRESS_SIZE, np.where(denied, Fault.PERMISSION, ends.fault))
            good = fault == Fault.NONE
            # a fetch says nothing more where it succeeds, and an abort does not say of which stage it is
            told = good & (access != Kind.EXECUTE)
            parts.append(Answers(
                np.where(told, ends.address, np.uint64(0)), fault.astype(np.uint8),
                np.where(good | beyond, 0, ends.level).astype(np.uint8),
                ~good & ~beyond & (fault != OUTSIDE) & (access != Kind.EXECUTE), np.zeros(len(addresses), np.bool_),
                np.where(told, memory, 0).astype(np.uint8), np.where(told, shared, 0).astype(np.uint8),
            ))
        return _joined(parts)

    def _through_both(self, addresses: Words, second: Second) -> Answers:
        """Stage 1 first, address by address."""
        assert self.first is not None
        rows: list[list[Row]] = [[], []]
        for va in addresses.tolist():
            try:
                end = lead(self.first, second, va, self.processor.pa_bits)
            except UnknowableError:
                end = Stop(UNKNOWN, 0)
            if not isinstance(end, Stop):
                found = leaves(second, [end.ipa])
                attr, share = second.attributes(np.array([end.attr], np.uint8), np.array([end.share], np.uint8),
                                                found.memory, found.share)
            for access in self.accesses:
                if isinstance(end, Stop):
                    row = (0, end.fault, end.level, end.second, end.walking, 0, 0)
                elif access == Kind.WRITE and not end.write:
                    row = (0, Fault.PERMISSION, end.level, False, False, 0, 0)
                elif found.fault[0]:
                    row = (0, int(found.fault[0]), int(found.level[0]), found.fault[0] != OUTSIDE, False, 0, 0)
                elif not found.allowed[0] >> access & 1:
                    row = (0, Fault.PERMISSION, int(found.level[0]), True, False, 0, 0)
                else:
                    row = (int(found.address[0]), Fault.NONE, 0, False, False, int(attr[0]), int(share[0]))
                rows[access].append(row)
        return _of_rows(rows[0] + rows[1])

    def actual(self, mmu: Mmu, addresses: Words) -> Answers:
        """What the processor says, in the same order."""
        mmu.install(self.tables.vtcr, self.tables.vttbr, cached=self.cached, first=self.first, window=self.window,
                    vectors=self.vectors)
        access = np.repeat(np.array(self.accesses, np.uint8), len(addresses))
        return par.decode(*mmu.translate(np.tile(addresses, len(self.accesses)), access))

    def safe(self, mmu: Mmu, addresses: Words) -> Words:
        """Those from which an instruction may be fetched, whether the specification is right or QEMU.

        What is found there is no memory, a word of zeros (on arm64, where that is undefined), or HVC.
        """
        kept = np.ones(len(addresses), np.bool_) if self.processor.arm32 \
            else addresses >> np.uint64(self.processor.pa_bits) == 0
        halves = mmu.pages.view(np.uint32).reshape(-1)
        for second in (self.second, together(_usable(self), self.second)):
            ends = leaves(second, addresses.tolist())
            place = ends.address | addresses & np.uint64(0xFFC)
            ram = (ends.fault == Fault.NONE) & (place < np.uint64(halves.nbytes))
            frame = place >> np.uint64(12)
            zero = halves[np.where(ram, place, np.uint64(0)) >> np.uint64(2)] == 0
            empty = zero & (place >= RESERVED) & (not self.processor.arm32)
            kept &= ~ram | empty | (frame >= TARGET) & (frame < TARGET + TARGETS)
        words: Words = addresses[kept] & ~np.uint64(3)
        return words


def _joined(parts: Sequence[Answers]) -> Answers:
    return Answers(*(np.concatenate([getattr(part, name) for part in parts]) for name in FIELDS))


def _usable(batch: Batch) -> list[Entry]:
    """The known differences that can be met."""
    return [each for each in EXPLAINED if each.applies(batch.processor, batch.second.shape)]


def _of_rows(rows: list[Row]) -> Answers:
    """Answers that were found one by one."""
    address, fault, level, second, walking, memory, share = np.array(rows, np.uint64).reshape(-1, len(FIELDS)).T
    small = [each.astype(np.uint8) for each in (fault, level, memory, share)]
    return Answers(address, small[0], small[1], second != 0, walking != 0, small[2], small[3])


def row(answers: Answers, at: int) -> Row:
    """One of the answers."""
    return tuple(int(getattr(answers, name)[at]) for name in FIELDS)


def differ(one: Answers, other: Answers) -> Flags:
    """Where two do not say the same."""
    found: Flags = np.zeros(len(one), np.bool_)
    for name in FIELDS:
        found |= getattr(one, name) != getattr(other, name)
    return found


@attrs.define
class Tally:
    """What was compared: translations, one for each address and access.

    addresses: by processor.  shapes: addresses by shape.  translations: of all, one for each access.  both_stages:
    addresses of a guest with tables of its own.  attributes: translations whose memory attributes were compared.
    ends: by (stage 1 is on, access, fault, level).  explained: by entry.  unknown: not compared.
    """

    addresses: Counter[str] = attrs.field(factory=collections.Counter)
    shapes: Counter[Shape] = attrs.field(factory=collections.Counter)
    translations: int = 0
    fetches: int = 0
    both_stages: int = 0
    attributes: int = 0
    tables: int = 0
    ends: Counter[tuple[bool, int, int, int]] = attrs.field(factory=collections.Counter)
    explained: Counter[str] = attrs.field(factory=collections.Counter)
    unknown: int = 0


@attrs.frozen
class Difference:
    """An address at which two do not say the same.

    who: "QEMU" or "impl.fast".  words: by frame and index, those of the tables that matter.
    """

    who: str
    batch: Batch = attrs.field(repr=False)
    address: int
    access: Kind
    expected: Row
    actual: Row
    words: dict[tuple[int, int], int] = attrs.field(factory=dict, repr=False)

    @property
    def kind(self) -> tuple[str, int, int]:
        """What kind of difference it is."""
        return self.who, self.expected[1], self.actual[1]


def compare(mmu: Mmu, batch: Batch, addresses: Words, tally: Tally) -> Difference | None:
    """Compare all addresses, for each access; the first difference that nothing explains, or None."""
    if not len(addresses):
        return None
    count = len(addresses)
    if batch.walks_first:
        expected = batch.expected(addresses)
    else:
        ends = leaves(batch.second, addresses.tolist())
        expected = batch.of_leaves(addresses, ends, batch.second)
        found = _against_fast(batch, addresses, ends)
        if found:
            return found
    actual = batch.actual(mmu, addresses)
    known = expected.fault != UNKNOWN
    odd = differ(expected, actual) & known
    good = known & (expected.fault == Fault.NONE)
    tally.translations += len(expected)
    if batch.vectors:
        tally.fetches += count
    else:
        tally.addresses[batch.processor.label] += count
        tally.shapes[batch.shape] += count
        tally.attributes += int(good.sum())
    tally.both_stages += count * batch.walks_first
    tally.unknown += int((~known).sum())
    access = np.repeat(np.array(batch.accesses), count)
    key = (access * 8 + expected.fault) * 4 + expected.level
    for each, times in enumerate(np.bincount(key[known]).tolist()):
        if times:
            tally.ends[batch.walks_first, each >> 5, each >> 2 & 7, each & 3] += times
    odd = _unexplained(batch, addresses, actual, odd, tally)
    if odd.any():
        at = int(np.flatnonzero(odd)[0])
        return Difference("QEMU", batch, int(addresses[at % count]), batch.accesses[at // count], row(expected, at),
                          row(actual, at))
    return None


def _unexplained(batch: Batch, addresses: Words, actual: Answers, odd: Flags, tally: Tally) -> Flags:
    """The differences that no entry foresees, and not all entries together."""
    count = len(addresses)
    usable = _usable(batch)
    tries: list[tuple[list[Entry], str]] = [([each], each.name) for each in usable]
    tries.append((usable, "several together"))
    for entries, name in tries:
        # all accesses of an address, each at the same place of its part
        places = np.flatnonzero(odd.reshape(-1, count).any(axis=0))
        if not len(places):
            break
        both = np.concatenate([places + count * part for part in range(len(batch.accesses))])
        foreseen = batch.expected(addresses[places], together(entries, batch.second))
        right = ~differ(foreseen, Answers(*(getattr(actual, field)[both] for field in FIELDS))) & odd[both]
        unknown = (foreseen.fault == UNKNOWN) & odd[both]
        tally.explained[name] += int(right.sum())
        tally.unknown += int(unknown.sum())
        odd[both[right | unknown]] = False
    return odd


def _against_fast(batch: Batch, addresses: Words, ends: Leaves) -> Difference | None:
    """The first address at which the array walk of ``impl.fast`` says otherwise than the specification."""
    ways = Ways.of(batch.tables, fast)
    descriptor, _ = fast.descriptors(ways.banks, ways.root, ways.shape, addresses)
    said = fast.attributes(descriptor)
    for access in batch.accesses:
        denied = (ends.fault == 0) & (ends.allowed >> access & 1 == 0)
        fault = np.where(denied, Fault.PERMISSION, ends.fault).astype(np.uint8)
        good = fault == Fault.NONE
        inside = addresses & np.uint64(0xFFF)
        expected = walks.Answers(np.where(good, ends.address | inside, np.uint64(0)), fault, ends.level)
        actual = ways.in_arrays(addresses, _OF_FAST[access])
        odd = expected.differ(actual) | good & ((said.memory != ends.memory) | (said.shareability != ends.share))
        if odd.any():
            at = int(np.flatnonzero(odd)[0])
            return Difference("impl.fast", batch, int(addresses[at]), access,
                              (*expected.at(at), 1, 0, int(ends.memory[at]), int(ends.share[at])),
                              (*actual.at(at), 1, 0, int(said.memory[at]), int(said.shareability[at])))
    return None


__all__ = ["Batch", "Difference", "Row", "Tally", "compare", "differ", "row"]
