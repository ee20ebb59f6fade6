"""The shared entry of a grant: memory of the granter, which Xen reads as it stands at that moment.

Version 1: one word, in which Xen also tells the granter that the page is read or written.
Version 2: two words, and those two bits stand apart, in a status frame.
The granter may rewrite all of it at any time, so every look is ``volatile`` and nothing that
Xen has looked at once is looked at again for a decision already taken.
"""

from __future__ import annotations

from spec.language import (
    U8,
    U16,
    U32,
    Boolean,
    DomId,
    Gfn,
    GrantRef,
    Index,
    Mfn,
    Word,
    decode,
    encode,
    evolve,
    field,
    flag,
    ite,
    layout,
    put,
    record,
    volatile,
)
from spec.memory.width import own_width
from spec.state import State

INVALID = 0
PERMIT_ACCESS = 1
ACCEPT_TRANSFER = 2
TRANSITIVE = 3

ENTRIES_V1 = 512
"""Version 1 entries in a frame (8 bytes each)."""
ENTRIES_V2 = 256
"""Version 2 entries in a frame (16 bytes each)."""
STATUS_WORDS = 2048
"""Status words in a frame (2 bytes each)."""
RESERVED_ENTRIES = 8
"""Entries that the toolstack sets up and that survive a change of version."""
FRAME_LENGTH = 4096
"""Bytes of a frame."""


@layout
class EntryV1:
    """A version 1 entry, and the first word of a version 2 entry up to bit 31."""

    type: U8 = field(0, 2)
    readonly: bool = flag(2)
    reading: bool = flag(3)
    writing: bool = flag(4)
    sub_page: bool = flag(8)
    domid: DomId = field(16, 16)
    frame: U32 = field(32, 32)


@layout
class HeadV2:
    """First word of a version 2 entry.

    start, length: the window of a sub-page grant.  A transitive grant has ``trans_domid`` in the place of ``start``.
    """

    type: U8 = field(0, 2)
    readonly: bool = flag(2)
    sub_page: bool = flag(8)
    domid: DomId = field(16, 16)
    start: U16 = field(32, 16)
    length: U16 = field(48, 16)


@layout
class FrameV2:
    """Second word of a full-page or sub-page entry of version 2."""

    frame: Gfn = field(0, 64)


@layout
class TransitiveV2:
    """Second word of a transitive entry of version 2."""

    ref: GrantRef = field(0, 32)


@layout
class StatusV2:
    """Four status words: what Xen tells the granter about four entries of version 2."""

    reading0: bool = flag(3)
    writing0: bool = flag(4)
    reading1: bool = flag(19)
    writing1: bool = flag(20)
    reading2: bool = flag(35)
    writing2: bool = flag(36)
    reading3: bool = flag(51)
    writing3: bool = flag(52)


@record
class Header:
    """What both versions say in the first 32 bits of an entry."""

    type: U8 = U8(0)
    readonly: bool = False
    sub_page: bool = False
    domid: DomId = DomId(0)


def entry_count(s: State, granter: DomId) -> int:
    """How many entries the domain's table has; a reference beyond is not bound."""
    rows = s.domain[granter]
    return ite(rows.grant_version == 1, rows.grant_frames * ENTRIES_V1, rows.grant_frames * ENTRIES_V2)


def place_v1(s: State, granter: DomId, ref: GrantRef) -> tuple[Mfn, Index]:
    """Where a version 1 entry stands."""
    return s.grant_frame[granter, ref // ENTRIES_V1].mfn, Index(ref % ENTRIES_V1)


def place_v2(s: State, granter: DomId, ref: GrantRef) -> tuple[Mfn, Index]:
    """Where the first word of a version 2 entry stands; the second follows it."""
    return s.grant_frame[granter, ref // ENTRIES_V2].mfn, Index(2 * (ref % ENTRIES_V2))


def place_status(s: State, granter: DomId, ref: GrantRef) -> tuple[Mfn, Index]:
    """Where the status word of a version 2 entry stands: with those of three others."""
    return s.status_frame[granter, ref // STATUS_WORDS].mfn, Index((ref % STATUS_WORDS) // 4)


def read_v1(s: State, granter: DomId, ref: GrantRef) -> tuple[EntryV1, Word]:
    """A version 1 entry as it stands now, and the word that it was read from."""
    word = volatile(s.word[place_v1(s, granter, ref)].raw)
    return decode(EntryV1, word), word


def read_head_v2(s: State, granter: DomId, ref: GrantRef) -> HeadV2:
    """The first word of a version 2 entry as it stands now."""
    return decode(HeadV2, volatile(s.word[place_v2(s, granter, ref)].raw))


def read_second_v2(s: State, granter: DomId, ref: GrantRef) -> Word:
    """The second word of a version 2 entry as it stands now."""
    mfn, index = place_v2(s, granter, ref)
    return volatile(s.word[mfn, Index(index + 1)].raw)


def read_frame(s: State, granter: DomId, ref: GrantRef) -> Gfn:
    """The guest frame that a full-page entry names now."""
    if s.domain[granter].grant_version == 1:
        return Gfn(read_v1(s, granter, ref)[0].frame)
    return own_width(s, decode(FrameV2, read_second_v2(s, granter, ref)).frame)


def store_v1(s: State, granter: DomId, ref: GrantRef, entry: EntryV1, previous: Word) -> State:
    """Replace a version 1 entry; bits that are not Xen's to touch stay as in ``previous``."""
    return put(s, "word", place_v1(s, granter, ref), raw=encode(entry, previous))


def store_status(s: State, granter: DomId, ref: GrantRef, *, reading: bool | None = None,
                 writing: bool | None = None) -> State:
    """Set or clear what the status word says of one entry; None leaves a bit as it is."""
    place = place_status(s, granter, ref)
    word = volatile(s.word[place].raw)
    seen = decode(StatusV2, word)
    lane = ref % 4
    for name, value in (("reading", reading), ("writing", writing)):
        if value is not None:
            for each in range(4):
                old = getattr(seen, name + str(each))
                seen = evolve(seen, **{name + str(each): ite(lane == each, value, old)})
    return put(s, "word", place, raw=encode(seen, word))


def told(s: State, granter: DomId, ref: GrantRef) -> tuple[Boolean, Boolean]:
    """What the granter's memory says of a grant: being read, being written.  For properties."""
    entry = decode(EntryV1, s.word[place_v1(s, granter, ref)].raw)
    status = decode(StatusV2, s.word[place_status(s, granter, ref)].raw)
    reading = writing = False
    for each in range(4):
        reading = ite(ref % 4 == each, getattr(status, "reading" + str(each)), reading)
        writing = ite(ref % 4 == each, getattr(status, "writing" + str(each)), writing)
    first = s.domain[granter].grant_version == 1
    return ite(first, entry.reading, reading), ite(first, entry.writing, writing)
