"""A machine's memory in a file: raw, as QEMU's ``pmemsave`` and RAM files are, or an ELF core.

Nothing is copied: pages are read when a walk comes to them.
"""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

import attrs
import numpy as np
import numpy.typing as npt

from bulkhead.problems import BadInputError
from bulkhead.tables import printable
from impl.fast.geometry import PAGE_BYTES
from impl.fast.walks import Banks, Words

ADDRESS_LIMIT: Final = 1 << 48
Span: TypeAlias = tuple[int, int]
"""A range of machine addresses: base and size [bytes, whole pages]."""
ARM32_MACHINES: Final = {"EM_AARCH64": False, "EM_ARM": True}


@attrs.frozen
class Image:
    """Memory as it was found.

    form: "raw" or "core".  ram: what the machine has.  banks: what the file holds of it.  missing: the rest.
    arm32: what a core says of the processor, None in raw files.
    """

    name: str
    form: str
    ram: tuple[Span, ...]
    missing: tuple[Span, ...]
    arm32: bool | None
    banks: Banks = attrs.field(repr=False, eq=False)

    def has_ram(self, address: int) -> bool:
        """The machine has RAM at an address [bytes]."""
        return any(base <= address < base + size for base, size in self.ram)

    @property
    def size(self) -> int:
        """RAM of the machine [bytes]."""
        return sum(size for _, size in self.ram)


def spans(found: Iterable[Sequence[int]], what: str = "RAM") -> tuple[Span, ...]:
    """Ranges of memory as a user gives them, in the order of addresses.

    Errors: BadInputError if one is not whole pages, lies outside of 48 bits or overlaps another.
    """
    ordered = sorted((int(base), int(size)) for base, size in found)
    end = 0
    for base, size in ordered:
        if base < 0 or base % PAGE_BYTES or size <= 0 or size % PAGE_BYTES or base + size > ADDRESS_LIMIT:
            raise BadInputError(f"{what} of {size:#x} bytes at {base:#x} is not whole pages below 2^48")
        if base < end:
            raise BadInputError(f"{what} at {base:#x} overlaps what is below it")
        end = base + size
    return tuple(ordered)


def read(path: pathlib.Path, ram: Sequence[Span] = ()) -> Image:
    """The image in a file.

    ram: where the machine has memory; a raw file holds these ranges one after the other, a core says it by itself.
    Errors: BadInputError if the file cannot be read, is no whole core, or nobody says where a raw file's bytes lie.
    """
    name = printable(str(path), 200)
    try:
        if not path.exists():
            raise BadInputError("no such file")
        if not path.is_file():
            raise BadInputError("not a file")
        with path.open("rb") as file:
            start = file.read(4)
        if not start:
            raise BadInputError("the file is empty")
        return _core(name, path, tuple(ram)) if start == b"\x7fELF" else _raw(name, path, tuple(ram))
    except BadInputError as problem:
        raise BadInputError(f"{name}: {problem}") from None
    except OSError as problem:
        raise BadInputError(f"{name}: {problem.strerror or 'cannot be read'}") from None


def from_words(name: str, parts: Sequence[tuple[int, Words]], ram: Sequence[Span] = ()) -> Image:
    """An image that is in memory already.

    parts: (base, words) of each bank.  ram: as for `read`; by default what the parts hold.
    """
    held = tuple((base, 8 * len(words)) for base, words in parts)
    return Image(name, "raw", spans(ram or held), _beyond(spans(ram or held), held), None, Banks(parts))


def _raw(name: str, path: pathlib.Path, ram: tuple[Span, ...]) -> Image:
    size = path.stat().st_size
    if not ram:
        raise BadInputError("a raw image does not say where its RAM lies: give --ram BASE or a [machine] table")
    if len(ram) == 1 and ram[0][1] == 0:
        ram = ((ram[0][0], -(-size // PAGE_BYTES) * PAGE_BYTES),)
    total = sum(length for _, length in ram)
    ram = spans(ram)
    if size > total:
        raise BadInputError(f"the file has {size:#x} bytes, but the machine's RAM only {total:#x}")
    parts: list[tuple[int, Words]] = []
    offset = 0
    for base, length in ram:
        held = min(length, size - offset) // PAGE_BYTES * PAGE_BYTES
        if held > 0:
            parts.append((base, _map(path, offset, held)))
        offset += length
    if not parts:
        raise BadInputError("the file has not even one page")
    return Image(name, "raw", ram, _beyond(ram, [(base, 8 * len(words)) for base, words in parts]), None, Banks(parts))


def _core(name: str, path: pathlib.Path, ram: tuple[Span, ...]) -> Image:
    # only who has a core waits for the library
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            machine = str(elf["e_machine"])
            segments = [(int(each["p_paddr"]), int(each["p_offset"]), int(each["p_filesz"]))
                        for each in elf.iter_segments("PT_LOAD") if each["p_filesz"]]
            kind = str(elf["e_type"])
    except (ELFError, ValueError, KeyError, IndexError, OverflowError, UnicodeDecodeError):
        raise BadInputError("damaged or truncated: not a whole ELF file") from None
    if machine not in ARM32_MACHINES:
        raise BadInputError(f"an ELF file of {printable(machine, 20)}, not of Arm")
    if kind != "ET_CORE":
        raise BadInputError("an ELF file that is no core of a machine")
    if not segments:
        raise BadInputError("the core holds no memory")
    said = spans([(base, length) for base, _, length in segments], "a segment")
    parts = []
    for base, offset, length in segments:
        held = max(0, min(length, size - offset)) // PAGE_BYTES * PAGE_BYTES
        if held:
            parts.append((base, _map(path, offset, held)))
    if not parts:
        raise BadInputError("damaged or truncated: the core's memory is missing")
    ram = spans(ram) if ram and ram[0][1] else said
    missing = _beyond(ram, [(base, 8 * len(words)) for base, words in parts])
    return Image(name, "core", ram, missing, ARM32_MACHINES[machine], Banks(parts))


def _map(path: pathlib.Path, offset: int, length: int) -> Words:
    """Bytes of a file as words; only those that do not begin at a whole word of the file are copied."""
    if offset % 8:
        return np.fromfile(path, np.uint64, length // 8, offset=offset)
    mapped: npt.NDArray[np.uint64] = np.memmap(path, np.uint64, "r", offset, (length // 8,))
    return np.asarray(mapped)


def _beyond(ram: Sequence[Span], held: Sequence[Span]) -> tuple[Span, ...]:
    """What of the RAM is not held."""
    edges = sorted({each for base, size in (*ram, *held) for each in (base, base + size)})
    left: list[Span] = []
    for start, end in itertools.pairwise(edges):
        inside = any(base <= start < base + size for base, size in ram)
        if inside and not any(base <= start < base + size for base, size in held):
            if left and sum(left[-1]) == start:
                start = left.pop()[0]
            left.append((start, end - start))
    return tuple(left)
