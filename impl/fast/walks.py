"""Stage-2 walks over arrays of addresses, and whole trees read table by table.

Three ways in: `translate` says where addresses lead and how they fault, `leaves` enumerates a tree, `owners` finds the
machine frames that two VMs reach. `descriptors` is the lean form of `translate`: it returns the last descriptor and
its level, to be decoded when somebody asks.

Tables are read from RAM as they are: malformed, cyclic, shared, or pointing outside RAM. Nothing here writes.

Source: Arm DDI 0487 D5.2-D5.4 (the walk and its faults), J1.1.5 (AArch64.TranslationTableWalk), J1.2.4 (AArch32).
What is not modelled: hardware updates of the access flag, 52-bit addresses, FEAT_XNX (bit 53 does not count), and the
contiguous hint, which changes no result.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

from impl.fast.geometry import ENTRIES, INDEX_BITS, LAST_LEVEL, PAGE_BITS, PAGE_BYTES, Geometry, shift_of

Words = NDArray[np.uint64]
Bytes = NDArray[np.uint8]
Levels = NDArray[np.int8]
Flags = NDArray[np.bool_]
Places = NDArray[np.intp]

VALID: Final = 1
TABLE: Final = 2
MEMATTR_SHIFT: Final = 2
READ: Final = 1 << 6
WRITE: Final = 1 << 7
SHARE_SHIFT: Final = 8
ACCESSED: Final = 1 << 10
NO_EXECUTE: Final = 1 << 54
TYPE_SHIFT: Final = 55
TYPE: Final = 15 << TYPE_SHIFT
ADDRESS: Final = 0x0000_FFFF_FFFF_F000

CHUNK: Final = 1 << 16
"""Addresses that are walked together, so that their scratch arrays stay in cache (docs/decisions/0010)."""
FEW: Final = 32
"""Up to this many addresses the scalar walk is quicker than the arrays (measured)."""
CHUNK_TABLES: Final = 128
"""Tables whose descriptors are read together: 65,536 words (docs/decisions/0010)."""
AUDIT_TABLES: Final = 64
"""As CHUNK_TABLES, for the owner map, which needs scratch arrays beside them."""


class WalkError(ValueError):
    """An argument that no walk can use; the message says which."""


class MalformedTree(WalkError):
    """A tree that cannot be enumerated within the limit that was asked for."""


class Access(IntEnum):
    """What the guest tries to do at the address."""

    READ = 0
    WRITE = 1
    EXECUTE = 2


class Fault(IntEnum):
    """How a stage-2 translation ends.

    Source: Arm DDI 0487 D13.2 (ESR_ELx, data fault status codes): `status` gives the code.
    """

    NONE = 0
    TRANSLATION = 1
    ACCESS_FLAG = 2
    PERMISSION = 3
    ADDRESS_SIZE = 4
    EXTERNAL_ABORT = 5
    """The descriptor could not be read: its address is not RAM."""


class Rule(IntEnum):
    """Which entries of a table count when a tree is enumerated."""

    HARDWARE = 0
    """What the MMU follows: the valid bit is set, and a leaf has its access flag."""
    XEN = 1
    """What Xen holds to be mapped: the type in bits 58:55 is not 0, whatever the valid bit says (facts: 4.17 p2m)."""


_STATUS: Final = np.array([0, 0b000100, 0b001000, 0b001100, 0b000000, 0b010100], np.uint8)


class BanksLike(Protocol):
    """Memory as the walks see it: RAM banks, each (base address in bytes, its words)."""

    @property
    def banks(self) -> Sequence[tuple[int, Words]]:
        """The banks in any order; a base and the length are whole pages."""


@dataclass(frozen=True, slots=True)
class _Bank:
    """One bank, prepared."""

    first: int
    """Index of its first word in the address space: base / 8."""
    count: int
    words: Words
    pages: Words
    view: memoryview
    """The same words, quick to read one by one."""


class Banks:
    """RAM banks prepared for walking: made once, used for any number of walks. It shares the arrays it is given.

    banks: (base, words) pairs. base: machine address [bytes, a multiple of 4096]; words: uint64, one-dimensional,
    contiguous, length a multiple of 512. Banks must not overlap.

    Errors: WalkError when a bank is not of that form.
    """

    __slots__ = ("_parts", "banks")

    def __init__(self, banks: Sequence[tuple[int, Words]]) -> None:
        self.banks = tuple(sorted(((int(base), words) for base, words in banks), key=lambda bank: bank[0]))
        parts = []
        end = 0
        for base, words in self.banks:
            if not isinstance(words, np.ndarray) or words.dtype != np.uint64 or words.ndim != 1:
                raise WalkError(f"the bank at {base:#x} is no one-dimensional uint64 array")
            if not words.flags.c_contiguous or base % PAGE_BYTES or len(words) % ENTRIES or not len(words):
                raise WalkError(f"the bank at {base:#x} does not consist of whole pages")
            if base < end:
                raise WalkError(f"the bank at {base:#x} overlaps the bank below it")
            end = base + 8 * len(words)
            view = memoryview(cast("Buffer", words)).cast("B").cast("Q")
            parts.append(_Bank(base >> 3, len(words), words, words.reshape(-1, ENTRIES), view))
        self._parts = tuple(parts)

    @staticmethod
    def of_frames(stretches: Iterable[tuple[int, int]], pages: Callable[[int, int], Words]) -> "Banks":
        """Banks of RAM that is known by frames.

        stretches: (first frame, frames) of each. pages: gives the words of consecutive frames, uint64[k, 512].
        """
        return Banks([(first << PAGE_BITS, pages(first, count).reshape(-1)) for first, count in stretches])

    @staticmethod
    def of(memory: BanksLike) -> "Banks":
        """`memory` itself if it is prepared already, else its banks prepared."""
        return memory if isinstance(memory, Banks) else Banks(memory.banks)

    def word(self, address: int) -> int | None:
        """The word at a machine address, or None outside RAM.

        address: [bytes, a multiple of 8].
        """
        index = address >> 3
        for part in self._parts:
            if 0 <= index - part.first < part.count:
                value: int = part.view[index - part.first]
                return value
        return None

    def load(self, index: Words, out: Words, scratch: Words) -> Flags | None:
        """Read many words at once.

        index: addresses of words / 8, uint64[n]. out: uint64[n], gets the words (0 outside RAM). scratch: uint64[n].
        Returns None if all are RAM, else a mask bool[n] of those that are not.
        """
        if not len(index):
            return None
        for part in self._parts:
            # most tables of a tree lie in one bank, and unsigned subtraction makes one comparison of two
            np.subtract(index, part.first, out=scratch)
            if int(scratch.max()) < part.count:
                part.words.take(scratch.view(np.int64), out=out, mode="clip")
                return None
        out.fill(0)
        outside = np.ones(len(index), np.bool_)
        for part in self._parts:
            np.subtract(index, part.first, out=scratch)
            inside = np.flatnonzero(scratch < part.count)
            out[inside] = part.words[scratch[inside].view(np.int64)]
            outside[inside] = False
        return outside if outside.any() else None

    def rows(self, table: Words) -> "_Rows":
        """The way to the 512 words of each table; table: addresses, uint64[t, whole pages, all in RAM]."""
        for part in self._parts:
            at = ((table >> PAGE_BITS) - (part.first >> INDEX_BITS)).view(np.int64)
            if len(at) and 0 <= int(at.min()) and int(at.max()) < len(part.pages):
                follow = np.count_nonzero(at[1:] - at[:-1] == 1)
                return _Rows(self, part.pages, at, bool(2 * follow > len(at)))
        return _Rows(self, None, table.view(np.int64), some_follow=False)

    def one_bank(self, index: Words) -> tuple[Words | None, int]:
        """The bank that holds all words at `index` (addresses / 8) and the index of its first word; None, 0 if none."""
        if len(index):
            low, high = int(index.min()), int(index.max())
            for part in self._parts:
                if part.first <= low and high < part.first + part.count:
                    return part.words, part.first
        return None, 0

    def hold(self, table: Words) -> Flags:
        """Which pages are RAM: bool[n] for addresses uint64[n]."""
        if len(table) and self.one_bank(table >> np.uint64(3))[0] is not None:
            return np.ones(len(table), np.bool_)
        found = np.zeros(len(table), np.bool_)
        for part in self._parts:
            found |= ((table >> 3) - np.uint64(part.first)) < part.count
        return found


class _Rows(NamedTuple):
    """Tables of one level, found in memory."""

    banks: Banks
    pages: Words | None
    """The bank that has them all, [pages, 512]; None if there is no such bank."""
    at: NDArray[np.int64]
    """Their places in it, or their addresses."""
    some_follow: bool
    """Most tables follow the one before in memory."""

    def read(self, start: int, end: int, out: Words) -> Words:
        """The words of the tables `start` to `end`; a view where they follow each other in memory, else in `out`."""
        at = self.at[start:end]
        if self.pages is not None:
            if self.some_follow and at[-1] - at[0] == len(at) - 1 and (at[1:] > at[:-1]).all():
                return self.pages[at[0] : at[-1] + 1]
            return self.pages.take(at, axis=0, out=out[: len(at)], mode="clip")
        frame = at >> PAGE_BITS
        for part in self.banks._parts:
            place = frame - (part.first >> INDEX_BITS)
            inside = np.flatnonzero((place >= 0) & (place < len(part.pages)))
            out[inside] = part.pages[place[inside]]
        return out[: len(at)]


# ---- one address ----------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """The end of one walk, before it is decoded: as `descriptors` returns it, in plain integers."""

    descriptor: int
    level: int


def last_descriptor(
    memory: BanksLike, root: int, geometry: Geometry, ipa: int, rule: Rule = Rule.HARDWARE
) -> Step:
    """The descriptor at which the walk of one address ends, and its level; see `descriptors`.

    ipa: [bytes, any 64-bit value].
    """
    return _last(Banks.of(memory), root, geometry, _address(ipa), rule)


class _Plan(NamedTuple):
    """What the scalar walk needs of a tree, in plain integers."""

    xen: bool
    reach: int
    outer: int
    high: int
    table: int
    level: int
    shift: int


def _plan(root: int, geometry: Geometry, rule: Rule) -> _Plan:
    high = 0 if rule == Rule.XEN else _beyond(geometry)
    table = root & _ROOT & -(1 << geometry.root_bits)
    level = geometry.start_level
    return _Plan(
        rule == Rule.XEN, _reach(geometry, rule), _outer(geometry), high, table, level, shift_of(level)
    )


def _last(banks: Banks, root: int, geometry: Geometry, ipa: int, rule: Rule = Rule.HARDWARE) -> Step:
    return Step(*_follow(banks._parts, _plan(root, geometry, rule), ipa))


def _follow(parts: tuple[_Bank, ...], plan: _Plan, ipa: int) -> tuple[int, int]:
    """The scalar walk: last descriptor and level."""
    xen, reach, outer, high, table, level, shift = plan
    if ipa >= reach:
        return 0, outer
    if table & high:
        return table & ADDRESS | VALID | TABLE, 0
    index = (table >> 3) + (ipa >> shift)
    while True:
        for part in parts:
            at = index - part.first
            if 0 <= at < part.count:
                word: int = part.view[at]
                break
        else:
            return 0, ~level
        if level == 3 or word & high:
            return word, level
        if not (word & 2 and word & TYPE) if xen else word & 3 != 3:
            return word, level
        level += 1
        shift -= 9
        index = ((word & ADDRESS) >> 3) + (ipa >> shift & 511)


_ROOT: Final = (1 << 48) - 1


def _beyond(geometry: Geometry) -> int:
    """The address bits that the output size does not have."""
    return ADDRESS & -(1 << geometry.pa_bits)


def _reach(geometry: Geometry, rule: Rule) -> int:
    """The first guest address beyond the first table: Xen looks at whole pages of it."""
    return geometry.root_gfns << PAGE_BITS if rule == Rule.XEN else 1 << geometry.ipa_bits


def _outer(geometry: Geometry) -> int:
    """The level at which an address beyond the input size faults: 0, but 1 on AArch32.

    Source: Arm DDI 0487 J1.1.5, J1.2.4 (translation fault before the first lookup).
    """
    return 1 if geometry.arm32 else 0


def _required(geometry: Geometry, access: Access) -> tuple[int, int]:
    """The descriptor bits that the access needs to be 1, and those it needs to be 0.

    AArch32 executes only what it may read. Source: Arm DDI 0487 J1.1.5, J1.2.4 (CheckS2Permission).
    """
    if access == Access.READ:
        return READ, 0
    if access == Access.WRITE:
        return WRITE, 0
    return (READ if geometry.arm32 else 0), NO_EXECUTE


def translate_one(
    memory: BanksLike, root: int, geometry: Geometry, ipa: int, access: Access = Access.READ
) -> tuple[int, Fault, int]:
    """Translate one address: (machine address in bytes, fault, level); the address is 0 when there is a fault.

    As `translate`, in plain integers.
    """
    plan = _plan(root, geometry, Rule.HARDWARE)
    ones, zeros = _required(geometry, _access(access))
    descriptor, level = _follow(Banks.of(memory)._parts, plan, _address(ipa))
    address, fault, level = _decode_one(descriptor, level, ipa, plan.high, ones, zeros)
    return address, Fault(fault), level


def _decode_one(descriptor: int, level: int, ipa: int, high: int, ones: int, zeros: int) -> tuple[int, int, int]:
    """Address, fault and level of one walk; the arguments after `ipa` say what the access needs."""
    if level < 0:
        return 0, _EXTERNAL_ABORT, ~level
    if not descriptor & VALID:
        return 0, _TRANSLATION, level
    if level < LAST_LEVEL and descriptor & TABLE:
        # only a table beyond the output size ends a walk
        return 0, _ADDRESS_SIZE, level
    if level == 0 or (level == LAST_LEVEL and not descriptor & TABLE):
        return 0, _TRANSLATION, level
    if descriptor & high:
        return 0, _ADDRESS_SIZE, level
    if not descriptor & ACCESSED:
        return 0, _ACCESS_FLAG, level
    if descriptor & ones != ones or descriptor & zeros:
        return 0, _PERMISSION, level
    inside = _SPANS[level]
    return descriptor & ADDRESS & ~inside | ipa & inside, 0, level


_SPANS: Final = tuple((1 << shift_of(level)) - 1 for level in range(LAST_LEVEL + 1))
# plain integers: the attributes of an enumeration are slow to look up
_NONE, _TRANSLATION, _ACCESS_FLAG, _PERMISSION, _ADDRESS_SIZE, _EXTERNAL_ABORT = (each.value for each in Fault)


# ---- many addresses -------------------------------------------------------------------------------------------------


def translate(
    memory: BanksLike, root: int, geometry: Geometry, ipa: Words, access: Access = Access.READ
) -> tuple[Words, Bytes, Levels]:
    """Translate addresses of one guest.

    memory: RAM banks (`Banks` if many calls follow). root: address of the first table [bytes]; the low bits that its
    alignment leaves out do not count. ipa: guest addresses, uint64[n, bytes, any value].

    Returns address uint64[n] [bytes, 0 where there is a fault], fault uint8[n] (`Fault`), and level int8[n]: the level
    of the leaf, or of the fault.
    The order of checks at one descriptor: external abort, translation, address size, access flag, permission.

    Errors: WalkError when `ipa` is not one-dimensional unsigned 64-bit, or `access` is none.
    Source: Arm DDI 0487 D5.2, D5.8 (faults and their priority), J1.1.5.
    """
    banks, ipa, access = Banks.of(memory), _addresses(ipa), _access(access)
    count = len(ipa)
    address, level = np.empty(count, np.uint64), np.empty(count, np.int8)
    fault = np.zeros(count, np.uint8)
    if count <= FEW:
        plan = _plan(root, geometry, Rule.HARDWARE)
        ones, zeros = _required(geometry, access)
        ends = [_decode_one(*_follow(banks._parts, plan, each), each, plan.high, ones, zeros) for each in ipa.tolist()]
        if ends:
            address[:], fault[:], level[:] = zip(*ends, strict=True)
        return address, fault, level
    walker = _Walker(banks, root, geometry, min(count, CHUNK))
    walker.prepare(ipa)
    for start in range(0, count, CHUNK):
        part = slice(start, start + CHUNK)
        uniform = walker.walk(ipa[part], address[part], level[part])
        _decode(address[part], level[part], fault[part], ipa[part], geometry, access, uniform)
    return address, fault, level


def descriptors(
    memory: BanksLike, root: int, geometry: Geometry, ipa: Words, rule: Rule = Rule.HARDWARE
) -> tuple[Words, Levels]:
    """Where the walks end: the lean form of `translate`, to be decoded on demand with `decode` and `attributes`.

    Arguments as for `translate`. rule: which entries lead on to a table. Xen's own lookups go by the type in bits
    58:55, look at whole root pages and know no output size; `decode` is for the hardware's rule only.

    Returns descriptor uint64[n] and level int8[n]. A level below 0 is an external abort: the descriptor of level
    `~level` is not in RAM. An address beyond the input size gives descriptor 0 of level 0 (1 on AArch32); a first
    table beyond the output size gives a table descriptor of level 0 for every address; a table beyond the output size
    gives the descriptor that names it.

    Errors: WalkError as `translate`.
    """
    banks, ipa = Banks.of(memory), _addresses(ipa)
    count = len(ipa)
    found, level = np.empty(count, np.uint64), np.empty(count, np.int8)
    if count <= FEW:
        plan = _plan(root, geometry, rule)
        ends = [_follow(banks._parts, plan, each) for each in ipa.tolist()]
        if ends:
            found[:], level[:] = zip(*ends, strict=True)
        return found, level
    walker = _Walker(banks, root, geometry, min(count, CHUNK), rule)
    walker.prepare(ipa)
    for start in range(0, count, CHUNK):
        part = slice(start, start + CHUNK)
        walker.walk(ipa[part], found[part], level[part])
    return found, level


def decode(
    descriptor: Words, level: Levels, ipa: Words, geometry: Geometry, access: Access = Access.READ
) -> tuple[Words, Bytes, Levels]:
    """What `descriptors` returned, as `translate` would have returned it.

    descriptor: uint64[n]. level: int8[n, -4..3]. ipa: uint64[n, bytes].
    Errors: WalkError when the shapes differ.
    """
    ipa, access = _addresses(ipa), _access(access)
    if not descriptor.shape == level.shape == ipa.shape:
        raise WalkError("descriptors, levels and addresses are not equally many")
    address = np.array(descriptor, np.uint64)
    levels = np.array(level, np.int8)
    fault = np.zeros(len(ipa), np.uint8)
    for start in range(0, len(ipa), CHUNK):
        part = slice(start, start + CHUNK)
        _decode(address[part], levels[part], fault[part], ipa[part], geometry, access, None)
    return address, fault, levels


def status(fault: Bytes, level: Levels) -> Bytes:
    """The fault status code of ESR (DFSC, IFSC) for each result, uint8[n]; 0xff where there is no fault.

    fault: uint8[n] (`Fault`). level: int8[n, 0..3].
    Source: Arm DDI 0487 D13.2 (ESR_ELx, ISS of data aborts).
    """
    codes = _STATUS[fault] | level.astype(np.uint8)
    codes[fault == Fault.NONE] = 0xFF
    return codes


class _Directory(NamedTuple):
    """Where the walks of each 2 MB lead, down to level 2: read once when many addresses share few of them."""

    first: int
    """Number of the first 2 MB."""
    found: Words
    """The last descriptor, uint64[k], for those that end above level 3."""
    level: Levels
    """int8[k]: its level as `descriptors` returns it; 3 for those that go on to a table of level 3."""
    table: Words
    """Word index of that table, uint64[k], in `bank` if there is one, else in the address space."""
    bank: Words | None
    """The words of the bank that holds all these tables."""
    all_go_on: bool


_REGION: Final = PAGE_BITS + INDEX_BITS


class _Walker:
    """One tree and the scratch arrays for its chunks."""

    def __init__(
        self, banks: Banks, root: int, geometry: Geometry, size: int, rule: Rule = Rule.HARDWARE
    ) -> None:
        self.banks, self.geometry, self.rule = banks, geometry, rule
        self.root = root & _ROOT & -(1 << geometry.root_bits)
        self.high = 0 if rule == Rule.XEN else _beyond(geometry)
        self.reach = _reach(geometry, rule)
        self.index = np.empty(size, np.uint64)
        self.spare = np.empty(size, np.uint64)
        self.input = np.empty(size, np.uint64)
        self.word = np.empty(size, np.uint64)
        self.directory: _Directory | None = None

    def prepare(self, ipa: Words) -> None:
        """Look at all addresses of a call: where they lie close together, the upper levels are walked only once."""
        if self.root & self.high or len(ipa) < 8:
            return
        low, high = int(ipa.min()) >> _REGION, int(ipa.max())
        regions = (high >> _REGION) + 1 - low
        if high >= self.reach or regions > len(ipa) >> 3 or regions > 1 << 20:
            return
        base = np.arange(low, low + regions, dtype=np.uint64) << np.uint64(_REGION)
        found, level = np.empty(regions, np.uint64), np.empty(regions, np.int8)
        for start in range(0, regions, len(self.index)):
            part = slice(start, start + len(self.index))
            self.walk(base[part], found[part], level[part], LAST_LEVEL - 1)
        go_on = (level == LAST_LEVEL - 1) & self._tables(found)
        address = found & np.uint64(ADDRESS)
        gone = go_on & ~self.banks.hold(address)
        found[gone], level[gone] = 0, ~LAST_LEVEL
        go_on &= ~gone
        level[go_on] = LAST_LEVEL
        table = address >> np.uint64(3)
        table[~go_on] = 0
        bank, first = self.banks.one_bank(table[go_on])
        table[go_on] -= np.uint64(first)
        self.directory = _Directory(low, found, level, table, bank, bool(go_on.all()))

    def walk(self, ipa: Words, found: Words, level: Levels, stop: int = LAST_LEVEL) -> int | None:
        """Walk one chunk into `found` and `level`; 3 if all walks end at that level in RAM, else None.

        stop: the level at which walks end even at a table.
        """
        if self.directory is not None:
            return self._walk_directory(self.directory, ipa, found, level)
        geometry = self.geometry
        if self.root & self.high:
            found.fill(self.root & ADDRESS | VALID | TABLE)
            level.fill(0)
            if (beyond := ipa >= self.reach).any():
                found[beyond], level[beyond] = 0, _outer(geometry)
            return None
        where: Places | None = None
        if int(ipa.max()) >= self.reach:
            found.fill(0)
            level.fill(_outer(geometry))
            where = np.flatnonzero(ipa < self.reach)
            if not len(where):
                return None
            ipa = ipa.take(where)
        at = geometry.start_level
        count = len(ipa)
        index = np.right_shift(ipa, shift_of(at), out=self.index[:count])
        index += self.root >> 3
        # what ends here stays here; what goes on is overwritten
        word = found if where is None else self.word[:count]
        outside = self.banks.load(index, word, self.spare[:count])
        while True:
            if where is None:
                level.fill(at)
            else:
                found[where] = word
                level[where] = at
            if outside is not None:
                gone, keep = np.flatnonzero(outside), np.flatnonzero(~outside)
                ended = gone if where is None else where.take(gone)
                found[ended] = 0
                level[ended] = ~at
                where, ipa, word = keep if where is None else where.take(keep), ipa.take(keep), word.take(keep)
            if at == stop:
                break
            if not self._all_tables(word):
                keep = np.flatnonzero(self._tables(word))
                where = keep if where is None else where.take(keep)
                if not len(keep):
                    return None
                # in place: a kept element never moves up
                ipa = ipa.take(keep, out=self.input[: len(keep)], mode="clip")
                word = word.take(keep)
            at += 1
            count = len(ipa)
            index, spare = self.index[:count], self.spare[:count]
            np.bitwise_and(word, ADDRESS, out=index)
            index >>= 3
            np.right_shift(ipa, shift_of(at), out=spare)
            spare &= ENTRIES - 1
            index += spare
            word = found if where is None else self.word[:count]
            outside = self.banks.load(index, word, spare)
        return at if where is None and at == LAST_LEVEL else None

    def _walk_directory(self, directory: _Directory, ipa: Words, found: Words, level: Levels) -> int | None:
        """`walk` with the upper levels known."""
        first, ends, levels, tables, bank, all_go_on = directory
        count = len(ipa)
        region = np.right_shift(ipa, _REGION, out=self.spare[:count])
        if first:
            region -= first
        place = region.view(np.int64)
        if all_go_on:
            index = tables.take(place, out=self.index[:count], mode="clip")
            inside = np.right_shift(ipa, PAGE_BITS, out=self.input[:count])
            inside &= ENTRIES - 1
            index += inside
            self._load(bank, index, found, inside)
            level.fill(LAST_LEVEL)
            return LAST_LEVEL
        ends.take(place, out=found, mode="clip")
        levels.take(place, out=level, mode="clip")
        keep = np.flatnonzero(level == LAST_LEVEL)
        count = len(keep)
        if not count:
            return None
        index = tables.take(place.take(keep), out=self.index[:count], mode="clip")
        inside = ipa.take(keep, out=self.input[:count], mode="clip")
        inside >>= PAGE_BITS
        inside &= ENTRIES - 1
        index += inside
        word = self.word[:count]
        self._load(bank, index, word, inside)
        found[keep] = word
        return None

    def _load(self, bank: Words | None, index: Words, out: Words, scratch: Words) -> None:
        """Words of tables that are known to be RAM."""
        if bank is None:
            self.banks.load(index, out, scratch)
        else:
            bank.take(index.view(np.int64), out=out, mode="clip")

    def _all_tables(self, word: Words) -> bool:
        """Every descriptor names a table inside the output size: the usual case, and cheap to see."""
        if self.rule == Rule.XEN:
            return bool(self._tables(word).all())
        if int(np.bitwise_and.reduce(word)) & 3 != 3:
            return False
        return not self.high or not int(np.bitwise_or.reduce(word)) & self.high

    def _tables(self, word: Words) -> Flags:
        """Which descriptors, above level 3, lead on to a table."""
        if self.rule == Rule.XEN:
            return _is_table(word, self.rule)
        found: Flags = (word & np.uint64(3 | self.high)) == 3
        return found


# what a leaf looks like in its two low bits, by level; level 0 has none
_LEAF: Final = np.array([VALID, VALID, VALID, VALID | TABLE], np.uint64)
_INSIDE: Final = np.array([(1 << shift_of(level)) - 1 for level in range(4)], np.uint64)


def _decode(
    address: Words, level: Levels, fault: Bytes, ipa: Words, geometry: Geometry, access: Access, uniform: int | None
) -> None:
    """Turn descriptors in `address` into addresses, in place, and levels of external aborts into levels.

    fault: zeros; gets the faults. uniform: the level of all, if it is one.
    """
    if not len(address):
        return
    high = _beyond(geometry)
    ones, zeros = _required(geometry, access)
    test = np.uint64(3 | ACCESSED | ones | zeros | high)
    wanted = np.uint64(ACCESSED | ones)
    if uniform is not None:
        odd = ((address ^ (wanted | _LEAF[uniform])) & test).astype(np.bool_)
        inside: Words | np.uint64 = _INSIDE[uniform]
    else:
        at = level.astype(np.intp) & LAST_LEVEL
        odd = ((address ^ (wanted | _LEAF.take(at))) & test).astype(np.bool_)
        # no leaf is of level 0
        odd |= level <= 0
        inside = _INSIDE.take(at)
    bad = np.flatnonzero(odd)
    if len(bad):
        fault[bad], levels = _faults(address[bad], level[bad], high)
        level[bad] = levels
    address &= ADDRESS & ~inside
    address |= ipa & inside
    if len(bad):
        address[bad] = 0


def _faults(word: Words, level: Levels, high: int) -> tuple[Bytes, Levels]:
    """The fault of each descriptor that has one, and its level: the first check that fails."""
    valid = (word & VALID).astype(np.bool_)
    table = (word & TABLE).astype(np.bool_)
    external = level < 0
    last = level == LAST_LEVEL
    reserved = ~valid | (last & ~table) | ((level == 0) & ~table)
    # a table ends a walk only for this reason
    beyond = (word & np.uint64(high)).astype(np.bool_)
    unaccessed = (word & ACCESSED) == 0
    fault = np.select(
        [external, reserved, beyond, unaccessed],
        [Fault.EXTERNAL_ABORT, Fault.TRANSLATION, Fault.ADDRESS_SIZE, Fault.ACCESS_FLAG],
        Fault.PERMISSION,
    ).astype(np.uint8)
    return fault, np.where(external, ~level, level)


def _addresses(ipa: Words) -> Words:
    """The addresses as an array that can be walked."""
    if not isinstance(ipa, np.ndarray) or ipa.dtype != np.uint64 or ipa.ndim != 1:
        raise WalkError("the addresses are no one-dimensional uint64 array")
    return ipa


def _address(ipa: int) -> int:
    if not 0 <= ipa < 1 << 64:
        raise WalkError(f"{ipa:#x} is no 64-bit address")
    return ipa


def _access(access: Access) -> Access:
    try:
        return Access(access)
    except ValueError:
        raise WalkError(f"{access!r} is no kind of access") from None


# ---- what a descriptor says -----------------------------------------------------------------------------------------


class Attributes(NamedTuple):
    """The fields of leaf descriptors, each uint8[n]."""

    memory: Bytes
    """MemAttr [0..15]: 0 device nGnRnE, 1 nGnRE, 5 normal non-cacheable, 15 normal write-back; 4, 8, 12 reserved."""
    shareability: Bytes
    """SH [0..3]: 0 none, 2 outer, 3 inner; 1 is reserved."""
    permission: Bytes
    """1 read, 2 write, 4 execute, added."""
    type: Bytes
    """Xen's p2m type [0..15]."""
    valid: Bytes
    """1 if the hardware's valid bit is set."""
    accessed: Bytes
    """1 if the access flag is set."""


def attributes(descriptor: Words) -> Attributes:
    """Decode the attributes of descriptors; tables have them too, where they mean nothing to the hardware.

    descriptor: uint64[...]; the result's fields have the same shape.
    Source: Arm DDI 0487 D5.3.3 (stage-2 attributes), D5.5.5 (MemAttr); xen/include/asm-arm/lpae.h (lpae_p2m_t), 4.17.
    """

    def field(shift: int, mask: int) -> Bytes:
        return ((descriptor >> np.uint64(shift)) & np.uint64(mask)).astype(np.uint8)

    execute: Bytes = (field(54, 1) ^ np.uint8(1)) << np.uint8(2)
    return Attributes(
        field(MEMATTR_SHIFT, 15),
        field(SHARE_SHIFT, 3),
        np.bitwise_or(field(6, 3), execute),
        field(TYPE_SHIFT, 15),
        field(0, 1),
        field(10, 1),
    )


# ---- whole trees ----------------------------------------------------------------------------------------------------


class Chunk(NamedTuple):
    """Some tables of one level, with all their descriptors as they stand in memory."""

    level: int
    """Level of lookup [0..3]."""
    base: Words
    """Guest address that entry 0 of each table translates, uint64[t, bytes]."""
    descriptor: Words
    """uint64[t, 512]; valid until the next chunk is asked for, and not to be written."""


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of one level, in the order in which their parents name them."""

    level: int
    address: Words
    """Machine addresses, uint64[t, bytes]."""
    base: Words
    """Guest address that entry 0 of each table translates, uint64[t, bytes]."""


@dataclass(frozen=True, slots=True)
class Leaves:
    """A tree, table by table. Only the tables above level 3 were read; `chunks` reads the rest when asked.

    It shows the tables as they are when they are read: while somebody changes them, it is no snapshot.
    """

    geometry: Geometry
    rule: Rule
    levels: tuple[Tables, ...]
    """From the first level down; a level without tables is left out."""
    repeated: tuple[Tables, ...]
    """Where a table was met that had been met on the same level: not entered again. Empty in a tree that is one."""
    outside: tuple[Tables, ...]
    """Where an entry names a table that is not RAM, or beyond the output size."""
    _banks: Banks
    _root: Words

    @property
    def tables(self) -> int:
        """Tables in the tree [pages]."""
        return sum(len(each.address) for each in self.levels)

    def chunks(self, tables: int = CHUNK_TABLES) -> Iterator[Chunk]:
        """All descriptors, at most `tables` tables at a time, one level after the other.

        Entries of the first table that the input size does not reach read as 0 under `Rule.HARDWARE`.
        """
        if tables < 1:
            raise WalkError("a chunk holds at least one table")
        buffer = np.empty((tables, ENTRIES), np.uint64)
        for each in self.levels:
            first = each.level == self.geometry.start_level
            rows = self._banks.rows(each.address)
            for start in range(0, len(each.address), tables):
                end = min(start + tables, len(each.address))
                word = self._root[start:end] if first else rows.read(start, end, buffer)
                yield Chunk(each.level, each.base[start:end], word)

    def matrix(self, level: int) -> tuple[Words, Words]:
        """All tables of one level at once: base uint64[t, bytes] and descriptors uint64[t, 512].

        A tree of 10^8 entries has 800 MB of them: `chunks` needs no such memory.
        """
        for each in self.levels:
            if each.level == level:
                if level == self.geometry.start_level:
                    return each.base, self._root.copy()
                count = len(each.address)
                return each.base, self._banks.rows(each.address).read(0, count, np.empty((count, ENTRIES), np.uint64))
        return np.empty(0, np.uint64), np.empty((0, ENTRIES), np.uint64)


def leaves(
    memory: BanksLike,
    root: int,
    geometry: Geometry,
    rule: Rule = Rule.HARDWARE,
    expand: bool = False,
    most: int = 1 << 20,
) -> Leaves:
    """Find all tables of a tree.

    root: as for `translate`. rule: which entries count. expand: enter a table as often as it is met, as the hardware
    would, instead of noting it in `repeated`. most: tables at which a tree is given up [pages].

    A malformed tree ends too: there are at most four levels, and without `expand` a page is entered once a level.

    Errors: WalkError when Xen's rule meets a root that is no page; MalformedTree beyond `most` tables.
    """
    banks = Banks.of(memory)
    level = geometry.start_level
    row, address, base, ok = _root_rows(banks, root, geometry, rule)
    high = _beyond(geometry)
    outside, repeated, levels = [], [], []
    if not ok.all():
        outside.append(Tables(level, address[~ok], base[~ok]))
    row, address, base = row[ok], address[ok], base[ok]
    first = row
    while len(address):
        levels.append(Tables(level, address, base))
        if level == LAST_LEVEL:
            break
        found, guest = [], []
        buffer = np.empty((min(CHUNK_TABLES, len(address)), ENTRIES), np.uint64)
        rows = banks.rows(address)
        for start in range(0, len(address), CHUNK_TABLES):
            part = slice(start, min(start + CHUNK_TABLES, len(address)))
            words = first[part] if level == geometry.start_level else rows.read(part.start, part.stop, buffer)
            at = np.flatnonzero(_is_table(words.reshape(-1), rule))
            found.append(words.reshape(-1)[at])
            inside = (at & (ENTRIES - 1)).astype(np.uint64) << np.uint64(shift_of(level))
            guest.append(base[part][at >> INDEX_BITS] + inside)
        level += 1
        word, base = np.concatenate(found), np.concatenate(guest)
        address = word & np.uint64(ADDRESS)
        ok = banks.hold(address)
        if high:
            ok &= (word & np.uint64(high)) == 0
        if not ok.all():
            outside.append(Tables(level, address[~ok], base[~ok]))
            address, base = address[ok], base[ok]
        if not expand and _repeats(address):
            _, once = np.unique(address, return_index=True)
            again = np.ones(len(address), np.bool_)
            again[once] = False
            repeated.append(Tables(level, address[again], base[again]))
            address, base = address[~again], base[~again]
        if sum(len(each.address) for each in levels) + len(address) > most:
            raise MalformedTree(f"the tree has more than {most} tables")
    return Leaves(geometry, rule, tuple(levels), tuple(repeated), tuple(outside), banks, first)


def _repeats(address: Words) -> bool:
    """Some address occurs twice."""
    ordered = np.sort(address)
    return bool((ordered[1:] == ordered[:-1]).any())


def _root_rows(banks: Banks, root: int, geometry: Geometry, rule: Rule) -> tuple[Words, Words, Words, Flags]:
    """The first level: rows [pages, 512], addresses, guest bases, and which of them could be read."""
    pages = geometry.root_pages
    start = root & _ROOT & -(1 << geometry.root_bits)
    entries = min(ENTRIES, geometry.root_entries)
    if rule == Rule.XEN:
        if start % PAGE_BYTES:
            raise WalkError(f"the first table at {start:#x} is no page, as Xen's are")
        entries = ENTRIES
    address = np.uint64(start) + np.arange(pages, dtype=np.uint64) * np.uint64(PAGE_BYTES)
    base = np.arange(pages, dtype=np.uint64) << np.uint64(shift_of(geometry.start_level) + INDEX_BITS)
    rows = np.zeros((pages, ENTRIES), np.uint64)
    ok = banks.hold(address & np.uint64(-PAGE_BYTES & _ROOT))
    if start & _beyond(geometry):
        ok[:] = False
    spare = np.empty(entries, np.uint64)
    for i in np.flatnonzero(ok).tolist():
        index = (address[i] >> np.uint64(3)) + np.arange(entries, dtype=np.uint64)
        banks.load(index, rows[i, :entries], spare)
    return rows, address, base, ok


def _is_table(word: Words, rule: Rule) -> Flags:
    """Which entries above level 3 lead to a table."""
    if rule == Rule.HARDWARE:
        found: Flags = (word & np.uint64(3)) == 3
        return found
    live: Flags = (word & np.uint64(TYPE)) != 0
    live &= (word & np.uint64(TABLE)) != 0
    return live


def is_leaf(descriptor: Words, level: int, geometry: Geometry, rule: Rule = Rule.HARDWARE) -> Flags:
    """Which descriptors of a level are leaves that lead somewhere.

    descriptor: uint64[...]. level: [0..3]. Returns bool of the same shape.
    The hardware's rule: valid, of the leaf's form, inside the output size, and accessed. Xen's: the type is not 0.
    """
    if level == 0:
        return np.zeros(descriptor.shape, np.bool_)
    high = np.uint64(_beyond(geometry))
    if rule == Rule.HARDWARE:
        form = np.uint64(ACCESSED) | _LEAF[level]
        found: Flags = (descriptor & (np.uint64(3 | ACCESSED) | high)) == form
        return found
    live: Flags = (descriptor & np.uint64(TYPE)) != 0
    if level < LAST_LEVEL:
        live &= (descriptor & TABLE) == 0
    # Xen takes any live entry of level 3 for a page
    return live


@dataclass(frozen=True, slots=True)
class Ranges:
    """Mappings as contiguous ranges, by ascending guest address, each as long as it can be."""

    ipa: Words
    """First guest address, uint64[k, bytes]."""
    size: Words
    """uint64[k, bytes]."""
    address: Words
    """First machine address, uint64[k, bytes]."""
    permission: Bytes
    """1 read, 2 write, 4 execute, added; uint8[k]."""
    type: Bytes
    """Xen's p2m type, uint8[k, 0..15]."""

    def __len__(self) -> int:
        return len(self.ipa)


_KEY: Final = READ | WRITE | NO_EXECUTE | TYPE


def merged(tree: Leaves) -> Ranges:
    """All leaves of a tree as contiguous ranges: equal mappings give equal ranges, whatever sizes of pages made them.

    Two leaves join when guest and machine addresses both continue and permission and type are the same; other
    attributes (memory type, shareability, valid bit) do not separate.

    Errors: MalformedTree when tables repeat and were not entered again: their leaves would be missing.
    """
    if tree.repeated:
        raise MalformedTree("tables repeat: enumerate the tree with expand to merge it")
    pieces: list[tuple[Words, Words, Words, Words]] = []
    for chunk in tree.chunks():
        piece = _runs(chunk, tree.geometry, tree.rule)
        if len(piece[0]):
            pieces.append(piece)
    if not pieces:
        none = np.empty(0, np.uint64)
        return Ranges(none, none, none, none.astype(np.uint8), none.astype(np.uint8))
    ipa, size, address, key = (np.concatenate(part) for part in zip(*pieces, strict=True))
    order = np.argsort(ipa, kind="stable")
    ipa, size, address, key = ipa[order], size[order], address[order], key[order]
    fresh = np.ones(len(ipa), np.bool_)
    fresh[1:] = (
        (ipa[:-1] + size[:-1] != ipa[1:]) | (address[:-1] + size[:-1] != address[1:]) | (key[:-1] != key[1:])
    )
    at = np.flatnonzero(fresh)
    said = attributes(key[at])
    return Ranges(ipa[at], np.add.reduceat(size, at), address[at], said.permission, said.type)


def _runs(chunk: Chunk, geometry: Geometry, rule: Rule) -> tuple[Words, Words, Words, Words]:
    """The runs of one chunk: guest address, size, machine address, and the key of equal mappings, uint64[k] each."""
    level, base, rows = chunk
    shift = np.uint64(shift_of(level))
    step = np.uint64(1) << shift
    word = rows.reshape(-1)
    leaf = is_leaf(word, level, geometry, rule)
    if not leaf.any():
        none = np.empty(0, np.uint64)
        return none, none, none, none
    # a run goes on where the whole descriptor grows by one page: same attributes, next address
    cut = np.empty(len(word) + 1, np.bool_)
    cut[0] = cut[-1] = True
    np.not_equal(word[1:] - word[:-1], step, out=cut[1:-1])
    cut[1:-1] |= leaf[1:] != leaf[:-1]
    # the address field may be full: the sum would spill into the attributes
    cut[1:-1] |= (word[1:] & np.uint64(ADDRESS)) < step
    span = step << np.uint64(INDEX_BITS)
    cut[ENTRIES:-1:ENTRIES] |= base[1:] - base[:-1] != span
    first = np.flatnonzero(cut[:-1] & leaf)
    last = np.flatnonzero(cut[1:] & leaf)
    ipa = base[first >> INDEX_BITS] + ((first & (ENTRIES - 1)).astype(np.uint64) << shift)
    size = (last - first + 1).astype(np.uint64) << shift
    inside = step - np.uint64(1)
    return ipa, size, word[first] & np.uint64(ADDRESS) & ~inside, word[first] & np.uint64(_KEY)


# ---- many trees -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Owners:
    """Who reaches which machine frame."""

    map: NDArray[np.uint8] | NDArray[np.uint16]
    """1 + number of the first VM that reaches the frame, 0 for none; over the frames of all banks, in their order."""
    banks: tuple[tuple[int, int, int], ...]
    """(first frame, frames, place of the first in `map`) of each bank."""
    frame: Words
    """Frames that a later VM reaches as well, uint64[k], RAM or not."""
    first: NDArray[np.int64]
    """Number of the VM that reached it first, int64[k]."""
    second: NDArray[np.int64]
    """Number of the later VM, int64[k]; a frame occurs once for each."""

    def of(self, frame: int) -> int | None:
        """The number of the VM that reaches a RAM frame first, or None."""
        for low, count, at in self.banks:
            if 0 <= frame - low < count:
                return int(self.map[at + frame - low]) - 1 if self.map[at + frame - low] else None
        raise WalkError(f"frame {frame:#x} is not RAM")


def owners(
    memory: BanksLike,
    trees: Sequence[tuple[int, Geometry]],
    rule: Rule = Rule.HARDWARE,
    types: int | None = None,
) -> Owners:
    """Which machine frames are reached by which VM, and which by two.

    trees: (root, geometry) of each VM; its place is its number. types: a set of p2m types as bits, 1 << type; None for
    all: {ram_rw, ram_ro} leaves out what was granted. The map takes one byte a frame, two beyond 254 VMs. A page table
    that repeats is entered once a level: that finds the same frames.

    Errors: MalformedTree for a tree beyond the limit of `leaves`; WalkError beyond 65,534 VMs.
    """
    if len(trees) > 0xFFFE:
        raise WalkError("more than 65,534 trees")
    audit = _Audit(Banks.of(memory), len(trees))
    for number, (root, geometry) in enumerate(trees):
        tree = leaves(memory, root, geometry, rule)
        for chunk in tree.chunks(AUDIT_TABLES):
            audit.take(number, chunk, geometry, rule, types)
        audit.close(number)
    return audit.result()


class _Audit:
    """The owner map while it fills."""

    def __init__(self, banks: Banks, count: int) -> None:
        self.layout: list[tuple[int, int, int]] = []
        total = 0
        for part in banks._parts:
            frames = part.count >> INDEX_BITS
            self.layout.append((part.first >> INDEX_BITS, frames, total))
            total += frames
        self.map: NDArray[np.uint8] | NDArray[np.uint16]
        self.map = np.zeros(total, np.uint8) if count < 0xFF else np.zeros(total, np.uint16)
        self.found: list[tuple[Words, NDArray[np.int64], int]] = []
        # frames outside RAM, devices mostly: (first, end) of each run, for each VM
        self.elsewhere: list[tuple[int, Words]] = []
        self.now: list[tuple[Words, Words]] = []
        self.index = np.empty(AUDIT_TABLES * ENTRIES, np.uint64)

    def take(self, number: int, chunk: Chunk, geometry: Geometry, rule: Rule, types: int | None) -> None:
        """Add the leaves of one chunk."""
        if chunk.level == 0:
            return
        word = chunk.descriptor.reshape(-1)
        form = VALID | TABLE | ACCESSED
        all_pages = (
            chunk.level == LAST_LEVEL
            and types is None
            and rule == Rule.HARDWARE
            and int(np.bitwise_and.reduce(word)) & form == form
            and not (geometry.pa_bits < 48 and int(np.bitwise_or.reduce(word)) & _beyond(geometry))
        )
        if not all_pages:
            leaf = is_leaf(word, chunk.level, geometry, rule)
            if types is not None:
                kind = (word >> np.uint64(TYPE_SHIFT)) & np.uint64(15)
                leaf &= ((np.uint64(types) >> kind) & np.uint64(1)) != 0
            word = word[leaf]
        if not len(word):
            return
        if chunk.level == LAST_LEVEL:
            index = np.bitwise_and(word, ADDRESS, out=self.index[: len(word)])
            index >>= PAGE_BITS
            self._pages(number, index)
            return
        size = 1 << (shift_of(chunk.level) - PAGE_BITS)
        for first in ((word & np.uint64(ADDRESS)) >> np.uint64(PAGE_BITS) & np.uint64(-size & _ROOT)).tolist():
            self._block(number, first, size)

    def _pages(self, number: int, frame: Words) -> None:
        """Add single frames; `frame` may be overwritten."""
        for low, count, at in self.layout:
            place = frame - np.uint64(low)
            if int(place.max()) < count:
                self._mark(number, self.map[at : at + count], place.view(np.int64), low)
                return
        rest = np.ones(len(frame), np.bool_)
        for low, count, at in self.layout:
            place = frame - np.uint64(low)
            inside = np.flatnonzero(place < count)
            if len(inside):
                self._mark(number, self.map[at : at + count], place[inside].view(np.int64), low)
                rest[inside] = False
        others = frame[rest]
        if len(others):
            self.now.append((others, others + np.uint64(1)))

    def _mark(
        self, number: int, owner: NDArray[np.uint8] | NDArray[np.uint16], place: NDArray[np.int64], low: int
    ) -> None:
        """Write the VM's number into its frames of one bank, and note those that were another's."""
        me = number + 1
        before = owner.take(place, mode="clip")
        if before.any():
            taken = (before != 0) & (before != me)
            if taken.any():
                frames, once = np.unique(place[taken], return_index=True)
                self.found.append((frames.view(np.uint64) + np.uint64(low), before[taken][once] - np.int64(1), number))
                place = place[~taken]
        owner[place] = me

    def _block(self, number: int, first: int, size: int) -> None:
        """Add the frames of a block: `size` frames from `first`."""
        me = number + 1
        covered = []
        for low, count, at in self.layout:
            start, end = max(first, low), min(first + size, low + count)
            if start >= end:
                continue
            covered.append((start, end))
            owner = self.map[at + start - low : at + end - low]
            taken = np.flatnonzero((owner != 0) & (owner != me)) if owner.any() else ()
            if len(taken):
                frames = np.asarray(taken).astype(np.uint64) + np.uint64(start)
                self.found.append((frames, owner[taken] - np.int64(1), number))
                owner[owner == 0] = me
            else:
                owner[:] = me
        for start, end in covered:
            if start > first:
                self._note(first, start)
            size -= end - first
            first = end
        if size > 0:
            self._note(first, first + size)

    def _note(self, start: int, end: int) -> None:
        self.now.append((np.array([start], np.uint64), np.array([end], np.uint64)))

    def close(self, number: int) -> None:
        """The tree of a VM is done: its frames outside RAM become disjoint runs uint64[k, 2]."""
        if not self.now:
            return
        start = np.concatenate([each for each, _ in self.now])
        end = np.concatenate([each for _, each in self.now])
        self.now = []
        self.elsewhere.append((number, _union(start, end)))

    def result(self) -> Owners:
        """The map and all frames that two reach, each pair once."""
        seen: list[tuple[int, Words]] = []
        for number, runs in self.elsewhere:
            # what an earlier VM has taken is left to the first of them
            free = runs
            for other, theirs in seen:
                both, free = _intersection(free, theirs)
                for start, end in both.tolist():
                    frames = np.arange(start, end, dtype=np.uint64)
                    self.found.append((frames, np.full(len(frames), other, np.int64), number))
            seen.append((number, free))
        if not self.found:
            none = np.empty(0, np.int64)
            return Owners(self.map, tuple(self.layout), none.view(np.uint64), none, none)
        frame = np.concatenate([each for each, _, _ in self.found])
        first = np.concatenate([each.astype(np.int64) for _, each, _ in self.found])
        second = np.concatenate([np.full(len(each), number, np.int64) for each, _, number in self.found])
        # chunks of one VM may meet the same frame again
        order = np.lexsort((second, frame))
        frame, first, second = frame[order], first[order], second[order]
        fresh = np.ones(len(frame), np.bool_)
        fresh[1:] = (frame[1:] != frame[:-1]) | (second[1:] != second[:-1])
        return Owners(self.map, tuple(self.layout), frame[fresh], first[fresh], second[fresh])


def _union(start: Words, end: Words) -> Words:
    """Disjoint runs [k, 2], ascending, that cover the same numbers."""
    order = np.argsort(start, kind="stable")
    start, end = start[order], np.maximum.accumulate(end[order])
    fresh = np.ones(len(start), np.bool_)
    fresh[1:] = start[1:] > end[:-1]
    at = np.flatnonzero(fresh)
    last = np.append(at[1:], len(start)) - 1
    return np.column_stack((start[at], end[last]))


def _intersection(left: Words, right: Words) -> tuple[Words, Words]:
    """Two sets of disjoint ascending runs [k, 2]: what both cover, and what only the left covers."""
    edges = np.unique(np.concatenate((left.reshape(-1), right.reshape(-1))))
    if len(edges) < 2:
        return np.empty((0, 2), np.uint64), left
    start, end = edges[:-1], edges[1:]

    def covers(runs: Words) -> Flags:
        if not len(runs):
            return np.zeros(len(start), np.bool_)
        at = np.searchsorted(runs[:, 0], start, side="right") - 1
        inside: Flags = (at >= 0) & (start < runs[np.maximum(at, 0), 1])
        return inside

    mine, theirs = covers(left), covers(right)
    both, only = mine & theirs, mine & ~theirs
    return np.column_stack((start[both], end[both])), np.column_stack((start[only], end[only]))
