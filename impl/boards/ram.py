"""RAM of an emulated board: banks of 4 KB frames, backed by memory of the host only where touched.

A bank of 8 GB costs address space, not memory: the host gives a page when it is first written (or read).
"""

from __future__ import annotations

import contextlib
import mmap
from bisect import bisect_right
from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
WORDS_PER_PAGE = PAGE_SIZE // 8

Words = NDArray[np.uint64]

_ADDRESS_BITS = 52      # the widest physical address that Arm defines for the 4 KB granule
_WORD_RANGE = 1 << 64
_MAP_NORESERVE = 0x4000  # Linux, x86 and Arm alike; Python names it from 3.13 on


class BadBank(ValueError):
    """A bank that no board can have: misaligned, empty, beyond 52 bits, overlapping, or more than the host can map."""


class NotRam(KeyError):
    """An access to an address or frame that is not RAM."""

    def __str__(self) -> str:
        """The message alone; a KeyError would quote it."""
        return str(self.args[0]) if self.args else ""


@attrs.frozen(order=True)
class Bank:
    """One bank of RAM.

    base: physical address of the first byte, a multiple of 4096.
    size: bytes, a positive multiple of 4096; the end is at most 2**52.
    Errors: BadBank.
    """

    base: int
    size: int

    def __attrs_post_init__(self) -> None:
        if self.base < 0 or self.size <= 0:
            raise BadBank(f"RAM bank at {self.base:#x} of {self.size:#x} bytes: the size must be positive")
        if self.base % PAGE_SIZE or self.size % PAGE_SIZE:
            raise BadBank(f"RAM bank at {self.base:#x} of {self.size:#x} bytes is not made of whole 4 KB frames")
        if self.end > 1 << _ADDRESS_BITS:
            raise BadBank(f"RAM bank at {self.base:#x} of {self.size:#x} bytes ends beyond {_ADDRESS_BITS} bits")

    @property
    def end(self) -> int:
        """The address after the last byte."""
        return self.base + self.size

    @property
    def first_mfn(self) -> int:
        """The machine frame number of the first frame."""
        return self.base >> PAGE_SHIFT

    @property
    def frames(self) -> int:
        """How many frames of 4 KB."""
        return self.size >> PAGE_SHIFT


class Ram:
    """The RAM of a board: zero at first, little-endian 64-bit words, writable through every view.

    banks: in any order, disjoint; banks that touch form one stretch, so a view may reach from one into the next.
    Errors: BadBank if two overlap or the host refuses to map so much address space.
    """

    def __init__(self, banks: Sequence[Bank]) -> None:
        self._banks = tuple(sorted(banks))
        for low, high in zip(self._banks, self._banks[1:], strict=False):
            if high.base < low.end:
                raise BadBank(f"RAM banks at {low.base:#x} and {high.base:#x} overlap")
        self._first: list[int] = []         # first mfn of each stretch, ascending
        self._frames: list[NDArray[np.uint64]] = []
        self._maps: list[mmap.mmap] = []
        for base, size in _stretches(self._banks):
            memory = _reserve(base, size)
            self._first.append(base >> PAGE_SHIFT)
            self._maps.append(memory)
            self._frames.append(np.frombuffer(memory, dtype=np.uint64).reshape(-1, WORDS_PER_PAGE))

    @property
    def banks(self) -> tuple[Bank, ...]:
        """The banks, by ascending address."""
        return self._banks

    @property
    def size(self) -> int:
        """Bytes in all banks together."""
        return sum(bank.size for bank in self._banks)

    def holds(self, mfn: int) -> bool:
        """The frame is RAM; any integer may be asked."""
        stretch = bisect_right(self._first, mfn) - 1
        return stretch >= 0 and mfn - self._first[stretch] < len(self._frames[stretch])

    def page(self, mfn: int) -> Words:
        """The 512 words of one frame: a writable view, shape [512], dtype uint64.

        mfn: machine frame number.
        Errors: NotRam.
        """
        stretch = bisect_right(self._first, mfn) - 1
        if stretch < 0:
            raise NotRam(f"frame {mfn:#x} is not RAM")
        index = mfn - self._first[stretch]
        frames = self._frames[stretch]
        if index >= len(frames):
            raise NotRam(f"frame {mfn:#x} is not RAM")
        page: Words = frames[index]
        return page

    def pages(self, mfn: int, count: int) -> Words:
        """The words of `count` frames that follow each other: a writable view, shape [count, 512], dtype uint64.

        mfn: the first machine frame number; count: frames, at least 0.
        Errors: NotRam if one of them is not RAM, ValueError if count is negative.
        """
        if count < 0:
            raise ValueError(f"{count} frames cannot be viewed")
        stretch = bisect_right(self._first, mfn) - 1
        index = mfn - self._first[stretch] if stretch >= 0 else -1
        if index < 0 or index + max(count, 1) > len(self._frames[stretch]):
            raise NotRam(f"frames {mfn:#x} to {mfn + max(count, 1) - 1:#x} are not all RAM")
        frames: Words = self._frames[stretch][index:index + count]
        return frames

    def words(self, address: int, count: int) -> Words:
        """`count` words from a physical address on: a writable view, shape [count], dtype uint64.

        address: physical, a multiple of 8; count: words, at least 0; the view may cross frames but not leave RAM.
        Errors: NotRam if a word is not RAM, ValueError if the address is misaligned or count is negative.
        """
        if address % 8:
            raise ValueError(f"address {address:#x} is not aligned to 8 bytes")
        if count < 0:
            raise ValueError(f"{count} words cannot be viewed")
        stretch = bisect_right(self._first, address >> PAGE_SHIFT) - 1
        start = (address - (self._first[stretch] << PAGE_SHIFT)) // 8 if stretch >= 0 else -1
        if start < 0 or start + max(count, 1) > self._frames[stretch].size:
            raise NotRam(f"{count} words at {address:#x} are not all RAM")
        words: Words = self._frames[stretch].reshape(-1)[start:start + count]
        return words

    def read64(self, address: int) -> int:
        """The word at a physical address, 0..2**64-1.

        Errors: NotRam, or ValueError if the address is no multiple of 8.
        """
        return int(self.words(address, 1)[0])

    def write64(self, address: int, value: int) -> None:
        """Store a word at a physical address.

        value: 0..2**64-1.
        Errors: NotRam, or ValueError if the address is no multiple of 8 or the value has more than 64 bits.
        """
        if not 0 <= value < _WORD_RANGE:
            raise ValueError(f"{value:#x} is no word of 64 bits")
        self.words(address, 1)[0] = value

    def clear(self) -> None:
        """All of RAM is zero again, and what it cost is given back to the host; views stay valid."""
        for memory in self._maps:
            memory.madvise(mmap.MADV_DONTNEED)


def _stretches(banks: Sequence[Bank]) -> list[tuple[int, int]]:
    """(base, size) of each stretch of RAM without a gap; banks are sorted and disjoint."""
    stretches: list[tuple[int, int]] = []
    for bank in banks:
        if stretches and sum(stretches[-1]) == bank.base:
            base, size = stretches.pop()
            stretches.append((base, size + bank.size))
        else:
            stretches.append((bank.base, bank.size))
    return stretches


def _reserve(base: int, size: int) -> mmap.mmap:
    """Address space of the host that becomes memory page by page, as it is touched.

    Errors: BadBank.
    """
    try:
        # not reserved: more RAM than the host has is fine as long as it is not touched
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
    except (OSError, OverflowError, ValueError) as problem:
        raise BadBank(f"the host cannot map RAM of {size:#x} bytes at {base:#x}: {problem}") from None
    # one touched frame costs 4 KB, not a huge page; a kernel without huge pages refuses the advice, rightly
    with contextlib.suppress(OSError):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory
