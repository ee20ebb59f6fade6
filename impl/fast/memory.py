"""The board's RAM as words and bytes, with a record of the frames written and an undo journal.

Every store of the hypervisor and of the guests goes through this class; numpy views are for reading, or for bulk
stores after `touch`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from impl.fast.errors import BadConfig

Words = NDArray[np.uint64]


class BankLike(Protocol):
    """A bank of RAM: base and size in bytes."""

    @property
    def base(self) -> int:
        """Physical address of the first byte."""
    @property
    def size(self) -> int:
        """Bytes."""


class RamLike(Protocol):
    """What a board's RAM must offer; impl.boards.ram.Ram does."""

    @property
    def banks(self) -> Sequence[BankLike]:
        """The banks, disjoint, in any order."""
    def page(self, mfn: int) -> Words:
        """The 512 words of a frame, writable."""
    def pages(self, mfn: int, count: int) -> Words:
        """The words of frames that follow each other, writable, shape [count, 512]."""
    def holds(self, mfn: int) -> bool:
        """The frame is RAM."""


ZERO_PAGE = bytes(4096)


class Memory:
    """Word and byte access by machine frame number.

    ram: the board's RAM.
    """

    __slots__ = ("_bytes", "_first", "_journals", "_last", "_size", "_words", "banks", "dirty", "ram", "written")

    def __init__(self, ram: RamLike) -> None:
        self.ram = ram
        self.banks: list[tuple[int, int]] = []      # (first mfn, frames) of each stretch of RAM without a gap
        for bank in sorted(ram.banks, key=lambda bank: bank.base):
            first, frames = bank.base >> 12, bank.size >> 12
            if self.banks and sum(self.banks[-1]) == first:
                self.banks[-1] = (self.banks[-1][0], self.banks[-1][1] + frames)
            else:
                self.banks.append((first, frames))
        if not self.banks:
            raise BadConfig("a machine without RAM cannot boot")
        self._first = [first for first, _ in self.banks]
        self._size = [frames for _, frames in self.banks]
        self._words: list[memoryview] = []
        self._bytes: list[memoryview] = []
        for first, frames in self.banks:
            flat = ram.pages(first, frames).reshape(-1).data
            self._bytes.append(flat.cast("B"))
            self._words.append(flat.cast("B").cast("Q"))
        self._last = len(self.banks) - 1
        self.written: set[int] = set()      # frames written since the stimulus began
        self.dirty: set[int] = set()        # frames written before that, not yet collected
        self._journals: list[dict[int, bytes]] = []

    def holds(self, mfn: int) -> bool:
        """The frame is RAM (mfn_valid); any integer may be asked.

        Xen tests groups of 2 MB; banks are taken to be made of whole groups. Source: xen/common/pdx.c.
        """
        i = bisect_right(self._first, mfn) - 1 if self._last else 0
        return 0 <= i and 0 <= mfn - self._first[i] < self._size[i]

    def get(self, mfn: int, index: int) -> int:
        """The word `index` (0..511; beyond 511 the next frames) of a frame that must be RAM."""
        i = bisect_right(self._first, mfn) - 1 if self._last else 0
        word: int = self._words[i][((mfn - self._first[i]) << 9) + index]
        return word

    def put(self, mfn: int, index: int, value: int) -> None:
        """Store the word `index` (0..511) of a frame."""
        if mfn not in self.written:
            self.touch(mfn)
        i = bisect_right(self._first, mfn) - 1 if self._last else 0
        self._words[i][((mfn - self._first[i]) << 9) + index] = value

    def read(self, mfn: int, offset: int, size: int) -> bytes:
        """`size` bytes at `offset` of a frame; offset + size <= 4096."""
        i = bisect_right(self._first, mfn) - 1 if self._last else 0
        at = ((mfn - self._first[i]) << 12) + offset
        return bytes(self._bytes[i][at:at + size])

    def write(self, mfn: int, offset: int, data: bytes) -> None:
        """Store bytes at `offset` of a frame; offset + len(data) <= 4096."""
        if mfn not in self.written:
            self.touch(mfn)
        i = bisect_right(self._first, mfn) - 1 if self._last else 0
        at = ((mfn - self._first[i]) << 12) + offset
        self._bytes[i][at:at + len(data)] = data

    def page(self, mfn: int) -> Words:
        """The 512 words of a frame as an array; call `touch` before storing through it."""
        return self.ram.page(mfn)

    def clear(self, mfn: int, count: int = 1) -> None:
        """Zero frames that follow each other."""
        for frame in range(mfn, mfn + count):
            self.write(frame, 0, ZERO_PAGE)

    def touch(self, mfn: int) -> None:
        """The frame is about to be written: record it, and keep its contents for `undo`."""
        self.written.add(mfn)
        if self._journals:
            journal = self._journals[-1]
            if mfn not in journal:
                journal[mfn] = self.read(mfn, 0, 4096)

    def begin(self) -> None:
        """A stimulus begins: what was written so far counts as dirty."""
        if self.written:
            self.dirty |= self.written
            self.written.clear()

    def collect_dirty(self) -> set[int]:
        """The frames written since the last collection."""
        found = self.dirty | self.written
        self.dirty = set()
        self.written.clear()
        return found

    def mark(self) -> int:
        """Start a journal; the number is for `undo`."""
        self.begin()
        self._journals.append({})
        return len(self._journals) - 1

    def undo(self, mark: int) -> None:
        """Put back every frame as it was at `mark`; later marks become void, this one may be used again."""
        while len(self._journals) > mark:
            for mfn, data in self._journals.pop().items():
                i = bisect_right(self._first, mfn) - 1
                at = (mfn - self._first[i]) << 12
                self._bytes[i][at:at + 4096] = data
                self.dirty.add(mfn)
        self.written.clear()
        self._journals.append({})
