"""Programs for the guest payload, and the mailbox through which they go: the layout of ``payload/mailbox.h``.

A program is a list of items, run in order by one vCPU without the host. An item may use the result of an earlier one
(`Ref`), so that a grant can be mapped and its handle unmapped in one batch. Numbers are little-endian.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from impl.xen.errors import Refused

MAGIC: Final = 0x786F626C6C6B6C42
VERSION: Final = 1
ITEM_BYTES: Final = 128
REGISTERS: Final = 31
_PAGE: Final = 4096
_MASK64: Final = (1 << 64) - 1

HVC_XEN: Final = {64: 0xD4000002 | 0xEA1 << 5, 32: 0xE1400070 | 0xEA1 >> 4 << 8 | 0xEA1 & 15}
"""HVC #0xEA1. Source: Arm DDI 0487, C6.2 (HVC) and F5.1 (HVC, A1)."""
HVC_FIRMWARE: Final = {64: 0xD4000002, 32: 0xE1400070}
"""HVC #0: PSCI and the rest of the SMC calling convention."""


class Do(IntEnum):
    """What an item does."""

    NOTHING, CALL, LOAD, STORE, FETCH, PUT, AWAIT, SPIN, INTERRUPT, CACHE = range(10)


class Outcome(IntEnum):
    """How an item ended. CANNOT: a fetch whose instruction could not be replaced by a harmless one."""

    NOT_RUN, VALUE, DATA_ABORT, FETCH_ABORT, UNDEFINED, STUCK, SERROR, OTHER, CANNOT = range(9)


FULL: Final = 1
"""Flag of a call: all registers come from the head and go back there."""

ITEM: Final = np.dtype([
    ("kind", "u1"), ("size", "u1"), ("flags", "<u2"), ("instruction", "<u4"), ("in", "<u8", (6,)),
    ("from", "<u2", (6,)), ("unused", "<u4"), ("outcome", "<u4"), ("changed", "<u4"), ("out", "<u8", (6,)),
])
HEAD: Final = np.dtype([
    ("magic", "<u8"), ("version", "<u4"), ("domain", "<u4"), ("vcpu", "<u4"), ("capacity", "<u4"),
    ("head_ipa", "<u8"), ("items_ipa", "<u8"), ("low", "<u8"), ("high", "<u8"), ("ram_base", "<u8"),
    ("ram_size", "<u8"), ("hole", "<u8"), ("hole_size", "<u8"), ("entry", "<u8"), ("request", "<u4"), ("count", "<u4"),
    ("done", "<u4"), ("position", "<u4"), ("turn", "<u4"), ("polls", "<u4"), ("gic", "<u4"), ("width", "<u4"),
    ("gicd", "<u8"), ("gicc", "<u8"), ("frequency", "<u8"), ("died", "<u4"), ("trim_error", "<u4"),
    ("registers", "<u8", (REGISTERS,)),
])
Items = NDArray[np.void]


@attrs.frozen
class Ref:
    """The first result of an earlier item of the same program, plus a number.

    item: its index from 0; plus: 0..2**64-1, added without carry beyond 64 bits.
    """

    item: int
    plus: int = 0


Word = int | Ref


class Program:
    """Items in the making; each method adds one and returns its index.

    width: bits of the guest's registers; capacity: how many items fit.
    Errors: Refused.
    """

    def __init__(self, width: int = 64, capacity: int = 512) -> None:
        self.width = width
        self.capacity = capacity
        self._rows: list[tuple[Any, ...]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def _add(self, kind: Do, words: Sequence[Word] = (), *, size: int = 0, flags: int = 0, instruction: int = 0) -> int:
        index = len(self._rows)
        if index >= self.capacity:
            raise Refused(f"a program has at most {self.capacity} items")
        values, sources = [0] * 6, [0] * 6
        for i, word in enumerate(words):
            if isinstance(word, Ref):
                if not 0 <= word.item < index:
                    raise Refused(f"item {index} refers to item {word.item}, which is not before it")
                values[i], sources[i] = word.plus & _MASK64, word.item + 1
            else:
                values[i] = word & _MASK64
        self._rows.append((int(kind), size, flags, instruction, values, sources, 0, 0, 0, [0] * 6))
        return index

    def hypercall(self, number: Word, *arguments: Word) -> int:
        """HVC #0xEA1: number in x16 (r12), up to five arguments in x0..x4 (r0..r4), all other registers 0."""
        return self.call(HVC_XEN[self.width], number, *arguments)

    def firmware(self, function: Word, *arguments: Word) -> int:
        """HVC #0: a PSCI function with up to four arguments."""
        if len(arguments) > 4:
            raise Refused(f"a firmware call has at most 4 arguments, not {len(arguments)}")
        return self.call(HVC_FIRMWARE[self.width], 0, function, *arguments)

    def call(self, instruction: int, number: Word = 0, *arguments: Word) -> int:
        """One instruction word with up to five values in x0..x4 and one in x16 (r12); none may jump or use memory."""
        if len(arguments) > 5:
            raise Refused(f"a call has at most 5 arguments, not {len(arguments)}")
        words = [*arguments, *[0] * (5 - len(arguments)), number]
        return self._add(Do.CALL, words, instruction=instruction)

    def full_call(self, instruction: int | None = None) -> int:
        """One instruction word (HVC #0xEA1 if left out) with all registers from the mailbox's head, and back."""
        return self._add(Do.CALL, flags=FULL, instruction=HVC_XEN[self.width] if instruction is None else instruction)

    def load(self, address: Word, size: int = 8) -> int:
        """A load of 1, 2, 4 or 8 bytes."""
        return self._add(Do.LOAD, [self._address(address)], size=_access(size))

    def store(self, address: Word, size: int, value: Word) -> int:
        """A store of 1, 2, 4 or 8 bytes; what does not fit of the value is cut off."""
        return self._add(Do.STORE, [self._address(address), value], size=_access(size))

    def fetch(self, address: Word) -> int:
        """Execute one harmless instruction at an address, whose contents are put back afterwards."""
        if isinstance(address, int) and address & 3:
            raise Refused(f"an instruction at {address:#x} is not aligned")
        return self._add(Do.FETCH, [self._address(address)], size=4)

    def put(self, address: Word, data: bytes) -> int:
        """Store bytes, in the widest aligned pieces, 40 of them an item; the index of the last item."""
        if not data:
            raise Refused("there is nothing to put")
        index = 0
        for at in range(0, len(data), 40):
            part = data[at:at + 40]
            place = attrs.evolve(address, plus=address.plus + at) if isinstance(address, Ref) else address + at
            words = np.frombuffer(part.ljust(40, b"\0"), np.dtype("<u8")).tolist()
            index = self._add(Do.PUT, [*words, self._address(place)], size=len(part))
        return index

    def await_turn(self, turn: int) -> int:
        """Wait until the host says that it is this turn, or a later one."""
        return self._add(Do.AWAIT, [turn])

    def spin(self, microseconds: int) -> int:
        """Keep the processor busy, without a call to Xen."""
        return self._add(Do.SPIN, [microseconds])

    def wait_interrupt(self, microseconds: int) -> int:
        """Wait for an interrupt, which is acknowledged and ended; the value is its INTID, or 2**64-1 after that time.

        An interrupt that came during an earlier load, store or fetch is told at once.
        """
        return self._add(Do.INTERRUPT, [microseconds])

    def cache(self, enabled: bool) -> int:
        """Switch the cache and the MMU on (over an identity map of 512 GB, arm32: 4 GB) or off."""
        return self._add(Do.CACHE, [int(enabled)])

    def read_system(self, register: str) -> int:
        """A system register by the assembler's generic name, e.g. "S3_0_C0_C0_5"; arm32: "p15,0,c0,c0,5".

        A register that the guest does not have ends as undefined. See `NAMES` for the common ones.
        """
        return self.call(read_instruction(self.width, register))

    def write_system(self, register: str, value: Word) -> int:
        """Write a system register; names as for `read_system`."""
        return self.call(write_instruction(self.width, register), 0, value)

    def _address(self, address: Word) -> Word:
        if self.width == 32 and isinstance(address, int) and address >> 32:
            raise Refused(f"a 32-bit guest with its MMU off has no address {address:#x}")
        return address

    def items(self) -> Items:
        """The program as it goes into the mailbox."""
        return np.array(self._rows, ITEM)


def repeated(items: Items, times: int) -> Items:
    """A program several times in a row; its references follow their copies."""
    made = np.tile(items, times)
    moved = np.repeat(np.arange(times, dtype=np.uint64) * len(items), len(items))[:, None]
    sources = made["from"].astype(np.uint64)
    made["from"] = np.where(sources > 0, sources + moved, 0).astype(np.uint16)
    return made


def _access(size: int) -> int:
    if size not in {1, 2, 4, 8}:
        raise Refused(f"no access has {size} bytes")
    return size


# ---- system registers

NAMES: Final[Mapping[int, Mapping[str, str]]] = {
    64: {
        "MIDR_EL1": "S3_0_C0_C0_0", "MPIDR_EL1": "S3_0_C0_C0_5", "ID_AA64PFR0_EL1": "S3_0_C0_C4_0",
        "ID_AA64MMFR0_EL1": "S3_0_C0_C7_0", "SCTLR_EL1": "S3_0_C1_C0_0", "ACTLR_EL1": "S3_0_C1_C0_1",
        "CURRENTEL": "S3_0_C4_C2_2", "CNTFRQ_EL0": "S3_3_C14_C0_0", "CNTPCT_EL0": "S3_3_C14_C0_1",
        "CNTVCT_EL0": "S3_3_C14_C0_2", "CNTV_CTL_EL0": "S3_3_C14_C3_1", "CNTP_CTL_EL0": "S3_3_C14_C2_1",
        "ICC_PMR_EL1": "S3_0_C4_C6_0", "ICC_IAR1_EL1": "S3_0_C12_C12_0", "ICC_SRE_EL1": "S3_0_C12_C12_5",
        "ICC_IGRPEN1_EL1": "S3_0_C12_C12_7", "ICC_CTLR_EL1": "S3_0_C12_C12_4", "PMCR_EL0": "S3_3_C9_C12_0",
        "MDSCR_EL1": "S2_0_C0_C2_2", "ISR_EL1": "S3_0_C12_C1_0",
    },
    32: {
        "MIDR": "p15,0,c0,c0,0", "CTR": "p15,0,c0,c0,1", "MPIDR": "p15,0,c0,c0,5", "SCTLR": "p15,0,c1,c0,0",
        "ACTLR": "p15,0,c1,c0,1", "CNTFRQ": "p15,0,c14,c0,0", "CNTV_CTL": "p15,0,c14,c3,1",
        "CNTP_CTL": "p15,0,c14,c2,1", "PMCR": "p15,0,c9,c12,0", "DBGDIDR": "p14,0,c0,c0,0",
    },
}
"""Common names of system registers, by the width of the guest."""


def read_instruction(width: int, register: str) -> int:
    """MRS x0, register (MRC ..., r0). Source: Arm DDI 0487, C5.1.2 and F5.1 (MRC). Errors: Refused."""
    return (0xD5200000 if width == 64 else 0xEE100010) | _system_fields(width, register)


def write_instruction(width: int, register: str) -> int:
    """MSR register, x0 (MCR ..., r0). Errors: Refused."""
    return (0xD5000000 if width == 64 else 0xEE000010) | _system_fields(width, register)


def _system_fields(width: int, register: str) -> int:
    known = NAMES[width].get(register.upper(), register)
    try:
        if width == 64:
            op0, op1, first, second, op2 = (int(part.lstrip("SsCc")) for part in known.split("_"))
            limits = ((op0, 2, 3), (op1, 0, 7), (first, 0, 15), (second, 0, 15), (op2, 0, 7))
            word = op0 << 19 | op1 << 16 | first << 12 | second << 8 | op2 << 5
        else:
            coprocessor, op1, first, second, op2 = (int(part.strip().lstrip("pPcC")) for part in known.split(","))
            limits = ((coprocessor, 14, 15), (op1, 0, 7), (first, 0, 15), (second, 0, 15), (op2, 0, 7))
            word = op1 << 21 | first << 16 | coprocessor << 8 | op2 << 5 | second
    except ValueError:
        raise Refused(f"{register!r} is no system register of a {width}-bit guest") from None
    if any(not low <= value <= high for value, low, high in limits):
        raise Refused(f"{register!r} is no system register of a {width}-bit guest")
    return word


SET_WAY: Final = {64: 0xD5087E40, 32: 0xEE070F5E}
"""DC CISW, x0 and DCCISW, r0: a cache operation by set and way. Source: Arm DDI 0487, C5.5 and G8.2."""


# ---- the host's end


class Mailbox:
    """One vCPU's mailbox in the RAM of a running machine.

    memory: RAM as bytes; offset: of the head in it.
    Errors: Refused if it is not one of this version, or its items do not lie in one piece.
    """

    def __init__(self, memory: NDArray[np.uint8], offset: int) -> None:
        self.offset = offset
        self.head = memory[offset:offset + HEAD.itemsize].view(HEAD)
        head = self.head[0]
        if int(head["version"]) != VERSION:
            raise Refused(f"the payload speaks version {int(head['version'])} of the mailbox, not {VERSION}")
        self.domain, self.vcpu, self.capacity = int(head["domain"]), int(head["vcpu"]), int(head["capacity"])
        self.width, self.gic = int(head["width"]), int(head["gic"])
        self.low, self.high = int(head["low"]), int(head["high"])
        self.ram_base, self.ram_size = int(head["ram_base"]), int(head["ram_size"])
        self.hole, self.hole_size = int(head["hole"]), int(head["hole_size"])
        self.gicd, self.gicc, self.entry = int(head["gicd"]), int(head["gicc"]), int(head["entry"])
        self.head_ipa = int(head["head_ipa"])
        start = offset + int(head["items_ipa"]) - self.head_ipa
        self.items: Items = memory[start:start + self.capacity * ITEM_BYTES].view(ITEM)
        # polled some hundred thousand times a second
        self._words = memory[offset:offset + HEAD.itemsize].data.cast("I")
        # plain places of the words that are polled
        self._request, self._count, self._done, self._position, self._turn, self._polls = (
            _word(name) for name in ("request", "count", "done", "position", "turn", "polls"))
        self._died = _word("died")

    @property
    def polls(self) -> int:
        """Grows while the vCPU waits."""
        return self._words[self._polls]

    @property
    def position(self) -> int:
        """Items finished of the running program."""
        return self._words[self._position]

    @property
    def busy(self) -> bool:
        """A program runs."""
        return self._words[self._request] != self._words[self._done]

    @property
    def died(self) -> tuple[int, ...] | None:
        """(kind, syndrome, pc, address) of an exception that the payload did not expect."""
        if not self._words[self._died]:
            return None
        return tuple(int(value) for value in self.head[0]["registers"][:4])

    def submit(self, items: Items) -> None:
        """Start a program. Errors: Refused if it is too long or another one runs."""
        if len(items) > self.capacity:
            raise Refused(f"a program has at most {self.capacity} items, not {len(items)}")
        if self.busy:
            raise Refused(f"domain {self.domain} vCPU {self.vcpu} still runs a program")
        self.items[:len(items)] = items
        self._words[self._position] = 0
        self._words[self._count] = len(items)
        self._words[self._request] = (self._words[self._done] + 1) & 0xFFFFFFFF

    def give_turn(self, turn: int) -> None:
        """Say whose turn it is."""
        self._words[self._turn] = turn & 0xFFFFFFFF

    @property
    def turn(self) -> int:
        """The turn said last."""
        return self._words[self._turn]

    def registers(self) -> NDArray[np.uint64]:
        """The 31 registers of a full call, in and out."""
        found: NDArray[np.uint64] = self.head[0]["registers"]
        return found


def _word(name: str) -> int:
    fields = HEAD.fields
    assert fields is not None
    return fields[name][1] // 4
