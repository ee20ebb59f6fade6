"""One machine address: who can read, write or execute it, and by which descriptors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import attrs
import numpy as np

from bulkhead.auditor.judge import Verdict
from bulkhead.auditor.kinds import type_name
from bulkhead.auditor.vms import Vm
from impl.fast.geometry import ENTRIES, PAGE_BITS, PAGE_BYTES, shift_of
from impl.fast.walks import ADDRESS, Banks

MOST_PLACES: Final = 64
"""Guest addresses of one VM that are told."""


@attrs.frozen
class Step:
    """One descriptor of a walk. entry: its machine address in bytes."""

    level: int
    entry: int
    word: int


@attrs.frozen
class Way:
    """A way to the address. ipa: guest address in bytes; valid: for whom (`bulkhead.auditor.reach`)."""

    vm: str
    ipa: int
    access: str
    type: str
    memory: str
    valid: str
    steps: tuple[Step, ...]


@attrs.frozen
class Answer:
    """All about one machine address. owner: by Xen's records, None if they do not say."""

    address: int
    ram: bool
    owner: str | None
    ways: tuple[Way, ...]

    def who(self, letter: str) -> list[str]:
        """The VMs that can read ("r"), write ("w") or execute ("x") it, once Xen has made their mapping valid."""
        return sorted({each.vm for each in self.ways if letter in each.access and each.valid != "unreachable"})

    def document(self) -> dict[str, Any]:
        """For machines."""
        return {"address": self.address, "ram": self.ram, "owner": self.owner, "read": self.who("r"),
                "write": self.who("w"), "execute": self.who("x"), "ways": [attrs.asdict(each) for each in self.ways]}


def look(found: Verdict, address: int) -> Answer:
    """Who reaches a machine address [bytes]."""
    frame = address >> PAGE_BITS
    ways: list[Way] = []
    for number in sorted({found.reach.kinds[each].vm for each in found.reach.kinds_of(frame)}):
        vm = found.vms[number]
        for place in found.reach.places(number, np.array([frame], np.uint64))[:MOST_PLACES]:
            kind = place.kind
            steps = tuple(_walk(found.image.banks, vm, place.ipa, place.level))
            ways.append(Way(vm.name, place.ipa | address % PAGE_BYTES, kind.access, type_name(kind.type), kind.memory,
                            kind.valid, steps))
    ram = found.image.has_ram(address)
    owner = None
    if found.xen is not None and ram:
        owner = found.owners.name(found.xen.owner(frame))
    elif found.xen is not None and frame in found.xen.devices:
        owner = "Xen"
    return Answer(address, ram, owner, tuple(ways))


def _walk(banks: Banks, vm: Vm, ipa: int, last: int) -> Iterator[Step]:
    """The descriptors on the way to the leaf of a guest address."""
    shape, table = vm.geometry, vm.root
    for level in range(shape.start_level, last + 1):
        index = ipa >> shift_of(level)
        entry = table + 8 * (index if level == shape.start_level else index % ENTRIES)
        word = banks.word(entry)
        assert word is not None
        yield Step(level, entry, word)
        table = word & ADDRESS
