"""What each VM reaches: all its stage-2 tables, read once, into one number for each frame of RAM.

The number names a *kind*: a VM and how it reaches the frame.  Frames that are met again go to a list beside it, and
what lies outside RAM, devices mostly, is kept as runs.  So a leaf costs a few bytes, however memory is scattered.

Both readings of a descriptor count: what the hardware follows (bit 0), and what Xen holds to be mapped (the type).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from bulkhead.auditor.image import Image
from bulkhead.auditor.kinds import Kind, is_reserved, kind_of
from bulkhead.auditor.tree import Lost, Piece, Tree
from bulkhead.auditor.vms import Vm
from bulkhead.mappings import NEVER_SET, UNREACHABLE
from bulkhead.problems import BadInputError
from impl.fast.geometry import ENTRIES, LAST_LEVEL, PAGE_BITS, shift_of
from impl.fast.walks import ACCESSED, ADDRESS, TABLE, TYPE, VALID, Words

MOST_KINDS: Final = 60_000
MOST_ODD: Final = 1000
_FEW: Final = 16

Kinds = npt.NDArray[np.uint16]
Runs = tuple[Words, Words, Kinds]
"""First frame, end frame, and kind of each run."""


class Odd(NamedTuple):
    """Descriptors that Xen never writes: where the first is, and how many are like it."""

    vm: int
    what: str
    level: int
    table: int
    entry: int
    ipa: int
    word: int
    number: int


class Place(NamedTuple):
    """Where a VM has a frame: guest address in bytes, the level of the leaf, and how it is reached."""

    frame: int
    ipa: int
    level: int
    kind: Kind


class Reach:
    """What the VMs of an image reach. Errors: BadInputError if tables are no tables.

    kinds: by number; number 0 is nobody.  parts: for each range of RAM its first frame and the kind of each frame.
    extra: frames that were met again, with their kinds.  outside: runs beyond RAM.  odd, lost: what is strange.
    """

    def __init__(self, image: Image, vms: Sequence[Vm]) -> None:
        self.image, self.vms = image, tuple(vms)
        self.kinds: list[Kind] = [Kind(-1, 0, UNREACHABLE, arm32=False)]
        self.parts = [(base >> PAGE_BITS, np.zeros(size >> PAGE_BITS, np.uint16)) for base, size in image.ram]
        self.odd: list[Odd] = []
        self.lost: list[Lost] = []
        self.leaves: list[int] = []
        self.trees = [Tree(image.banks, vm) for vm in self.vms]
        self._number: dict[Kind, int] = {}
        self._odd: dict[tuple[int, str, int], int] = {}
        self._extra: list[tuple[Words, Kinds]] = []
        self._outside: list[Runs] = []
        for number, tree in enumerate(self.trees):
            self.leaves.append(0)
            for piece in tree.pieces():
                self._take(number, tree.vm, piece)
            self.lost.extend(tree.lost(number))
        self.extra: tuple[Words, Kinds] = _pairs(self._extra)
        self.outside: Runs = _joined(*_gathered(self._outside))

    # ---- taking in

    def _take(self, number: int, vm: Vm, piece: Piece) -> None:
        level = piece.level
        flat = piece.words.reshape(-1)
        live = (flat & np.uint64(TYPE | VALID)) != 0
        if level < LAST_LEVEL:
            kind = flat & np.uint64(TYPE)
            pair = flat & np.uint64(VALID | TABLE)
            table = (pair == VALID | TABLE) | ((kind != 0) & ((pair & np.uint64(TABLE)) != 0))
            at = np.flatnonzero(table)
            if len(at):
                self._odd_tables(number, piece, at, flat[at])
            live &= ~table
        place = None if live.all() else np.flatnonzero(live)
        word = flat if place is None else flat[place]
        if not len(word):
            return
        self.leaves[-1] += len(word)
        kinds = self._kinds(number, vm, piece, place, word)
        if level == 0:
            return
        frame = word & np.uint64(ADDRESS)
        inside = np.uint64((1 << shift_of(level)) - 1)
        high = np.uint64(ADDRESS & -(1 << vm.geometry.pa_bits))
        if high and (beyond := (frame & high) != 0).any():
            self._note(number, piece, "an address beyond the output size", beyond, place, word)
            frame, kinds = frame[~beyond], kinds if isinstance(kinds, int) else kinds[~beyond]
        if level < LAST_LEVEL:
            bent = (word & np.uint64(ADDRESS) & inside) != 0
            if bent.any():
                self._note(number, piece, "a block that is not aligned", bent, place, word)
            frame &= ~inside
            first = frame >> np.uint64(PAGE_BITS)
            end = first + ((inside + np.uint64(1)) >> np.uint64(PAGE_BITS))
            self._blocks(*_joined(first, end, _spread(kinds, first)))
        else:
            frame >>= np.uint64(PAGE_BITS)
            self._pages(frame, kinds)

    def _kinds(self, number: int, vm: Vm, piece: Piece, at: npt.NDArray[np.intp] | None, word: Words
               ) -> int | Kinds:
        """The kind of each word; one number if it is the same for all."""
        bits = word & np.uint64(~ADDRESS & (1 << 64) - 1)
        first = int(bits[0])
        same = bits == np.uint64(first)
        if same.all():
            return self._kind(number, vm, piece, first, at, same, word)
        kinds = np.empty(len(word), np.uint16)
        left = np.arange(len(word))
        for _ in range(_FEW):
            kinds[left[same]] = self._kind(number, vm, piece, first, at, bits == np.uint64(first), word)
            left = left[~same]
            if not len(left):
                return kinds
            first = int(bits[left[0]])
            same = bits[left] == np.uint64(first)
        values, place = np.unique(bits[left], return_inverse=True)
        numbers = [self._kind(number, vm, piece, each, at, bits == np.uint64(each), word) for each in values.tolist()]
        kinds[left] = np.array(numbers, np.uint16)[place]
        return kinds

    def _kind(self, number: int, vm: Vm, piece: Piece, bits: int, at: npt.NDArray[np.intp] | None,
              which: npt.NDArray[np.bool_], word: Words) -> int:
        """The number of a kind, and what is odd about it."""
        odd = []
        if bits & NEVER_SET:
            odd.append("bits that Xen leaves clear")
        if not bits & ACCESSED:
            odd.append("no access flag")
        if not bits & TYPE:
            odd.append("valid without a type")
        if is_reserved(piece.level, bits):
            odd.append("a reserved form")
        for what in odd:
            self._note(number, piece, what, which, at, word)
        kind = kind_of(number, vm, piece, bits)
        found = self._number.get(kind)
        if found is None:
            found = self._number[kind] = len(self.kinds)
            self.kinds.append(kind)
            if found > MOST_KINDS:
                raise BadInputError(f"VM {vm.name}: more than {MOST_KINDS} kinds of descriptors are no page tables")
        return found

    def _odd_tables(self, number: int, piece: Piece, at: npt.NDArray[np.intp], word: Words) -> None:
        for what, which in (
            ("a table with bits that Xen leaves clear", (word & np.uint64(NEVER_SET)) != 0),
            ("a table that is valid without a type", (word & np.uint64(TYPE)) == 0),
        ):
            if which.any():
                self._note(number, piece, what, which, at, word)

    def _note(self, number: int, piece: Piece, what: str, which: npt.NDArray[np.bool_],
              at: npt.NDArray[np.intp] | None, word: Words) -> None:
        """Remember the first of some odd descriptors, and count them."""
        chosen = np.flatnonzero(which)
        first = int(chosen[0])
        place = first if at is None else int(at[first])
        row, index = divmod(place, ENTRIES)
        ipa = int(piece.base[row]) + (index << shift_of(piece.level))
        known = self._odd.get((number, what, piece.level))
        if known is not None:
            self.odd[known] = self.odd[known]._replace(number=self.odd[known].number + len(chosen))
        elif len(self.odd) < MOST_ODD:
            self._odd[number, what, piece.level] = len(self.odd)
            self.odd.append(
                Odd(number, what, piece.level, int(piece.table[row]), index, ipa, int(word[first]), len(chosen)))

    def _pages(self, frame: Words, kinds: int | Kinds) -> None:
        """Single frames."""
        for low, owner in self.parts:
            place = frame - np.uint64(low)
            inside = place < np.uint64(len(owner))
            if inside.all():
                self._mark(owner, low, place.view(np.int64), kinds)
                return
            if inside.any():
                some = np.flatnonzero(inside)
                self._mark(owner, low, place[some].view(np.int64), kinds if isinstance(kinds, int) else kinds[some])
                frame = frame[~inside]
                kinds = kinds if isinstance(kinds, int) else kinds[~inside]
        if len(frame):
            self._outside.append(_joined(frame, frame + np.uint64(1), _spread(kinds, frame)))

    def _mark(self, owner: Kinds, low: int, place: npt.NDArray[np.int64], kinds: int | Kinds) -> None:
        before = owner.take(place)
        if before.any():
            taken = (before != 0) & (before != kinds)
            again = place[taken]
            self._extra.append((again.view(np.uint64) + np.uint64(low), _spread(kinds, place)[taken]))
            place = place[~taken]
            kinds = kinds if isinstance(kinds, int) else kinds[~taken]
        if isinstance(kinds, int):
            owner[place] = kinds
            return
        owner[place] = kinds
        # a frame that occurs twice here has room for one kind only
        lost = owner[place] != kinds
        if lost.any():
            self._extra.append((place[lost].view(np.uint64) + np.uint64(low), kinds[lost]))

    def _blocks(self, first: Words, end: Words, kinds: Kinds) -> None:
        """Runs of frames, each of one kind."""
        inside = np.zeros(len(first), np.bool_)
        for low, owner in self.parts:
            inside |= (first < np.uint64(low + len(owner))) & (end > np.uint64(low))
        outside: list[tuple[int, int, int]] = []
        for start, stop, kind in zip(*(each[inside].tolist() for each in (first, end, kinds)), strict=True):
            at = start
            for low, owner in self.parts:
                head, tail = max(at, low), min(stop, low + len(owner))
                if head >= tail:
                    continue
                if head > at:
                    outside.append((at, head, kind))
                part = owner[head - low:tail - low]
                if part.any():
                    taken = np.flatnonzero((part != 0) & (part != kind)).astype(np.uint64)
                    self._extra.append((taken + np.uint64(head), np.full(len(taken), kind, np.uint16)))
                    part[part == 0] = kind
                else:
                    part[:] = kind
                at = tail
            if at < stop:
                outside.append((at, stop, kind))
        if outside:
            rows = np.array(outside, np.uint64)
            self._outside.append((rows[:, 0], rows[:, 1], rows[:, 2].astype(np.uint16)))
        if not inside.all():
            self._outside.append((first[~inside], end[~inside], kinds[~inside]))

    # ---- asking

    def runs(self) -> Runs:
        """Everything that is reached, as runs in the order of frames; where several kinds meet, one run for each."""
        found = [self.outside]
        for low, owner in self.parts:
            cut = np.flatnonzero(owner[1:] != owner[:-1]) + 1
            edge = np.concatenate((np.zeros(1, np.int64), cut, np.array([len(owner)])))
            kinds = owner[edge[:-1]]
            place = edge.astype(np.uint64) + np.uint64(low)
            used = kinds != 0
            found.append((place[:-1][used], place[1:][used], kinds[used]))
        frame, kind = self.extra
        found.append((frame, frame + np.uint64(1), kind))
        first, end, kinds = _gathered(found)
        order = np.lexsort((first, kinds))
        first, end, kinds = _joined(first[order], end[order], kinds[order])
        order = np.argsort(first, kind="stable")
        return first[order], end[order], kinds[order]

    def kinds_of(self, frame: int) -> list[int]:
        """All kinds in which a frame is reached."""
        found = [int(owner[frame - low]) for low, owner in self.parts if 0 <= frame - low < len(owner)]
        frames, kinds = self.extra
        found += kinds[np.searchsorted(frames, frame):np.searchsorted(frames, frame, "right")].tolist()
        first, end, kinds = self.outside
        found += kinds[(first <= frame) & (end > frame)].tolist()
        return sorted({each for each in found if each})

    def places(self, number: int, frames: Words) -> list[Place]:
        """Every place at which a VM has some frames; frames: ascending."""
        found: list[Place] = []
        if not len(frames):
            return found
        vm = self.vms[number]
        for piece in self.trees[number].pieces():
            if piece.level == 0:
                continue
            flat = piece.words.reshape(-1)
            first = (flat & np.uint64(ADDRESS)) >> np.uint64(PAGE_BITS)
            span = np.uint64(1 << (shift_of(piece.level) - PAGE_BITS))
            first &= ~(span - np.uint64(1))
            live = (flat & np.uint64(TYPE | VALID)) != 0
            if piece.level < LAST_LEVEL:
                live &= (flat & np.uint64(TABLE)) == 0
            live &= (first <= frames[-1]) & (first + span > frames[0])
            for at in np.flatnonzero(live).tolist():
                low = int(np.searchsorted(frames, first[at]))
                high = int(np.searchsorted(frames, first[at] + span))
                row, index = divmod(at, ENTRIES)
                ipa = int(piece.base[row]) + (index << shift_of(piece.level))
                for each in frames[low:high].tolist():
                    inside = (each - int(first[at])) << PAGE_BITS
                    found.append(Place(each, ipa + inside, piece.level, kind_of(number, vm, piece, int(flat[at]))))
        return found


def _spread(kinds: int | Kinds, like: npt.NDArray[np.uint64] | npt.NDArray[np.int64]) -> Kinds:
    return np.full(len(like), kinds, np.uint16) if isinstance(kinds, int) else kinds


def _gathered(parts: Sequence[Runs]) -> Runs:
    if not parts:
        return np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.uint16)
    first, end, kinds = (np.concatenate(each) for each in zip(*parts, strict=True))
    order = np.argsort(first, kind="stable")
    return first[order], end[order], kinds[order].astype(np.uint16)


def _joined(first: Words, end: Words, kinds: Kinds) -> Runs:
    """Runs that continue the run before them, as one."""
    if not len(first):
        return first, end, kinds
    fresh = np.ones(len(first), np.bool_)
    fresh[1:] = (first[1:] != end[:-1]) | (kinds[1:] != kinds[:-1])
    at = np.flatnonzero(fresh)
    last = np.append(at[1:], len(first)) - 1
    return first[at], end[last], kinds[at]


def _pairs(parts: Sequence[tuple[Words, Kinds]]) -> tuple[Words, Kinds]:
    """Frames and kinds in order, each pair once."""
    if not parts:
        return np.empty(0, np.uint64), np.empty(0, np.uint16)
    frame = np.concatenate([each for each, _ in parts])
    kind = np.concatenate([each for _, each in parts])
    order = np.lexsort((kind, frame))
    frame, kind = frame[order], kind[order]
    fresh = np.ones(len(frame), np.bool_)
    fresh[1:] = (frame[1:] != frame[:-1]) | (kind[1:] != kind[:-1])
    return frame[fresh], kind[fresh]
