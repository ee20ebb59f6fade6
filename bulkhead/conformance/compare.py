"""What real Xen shows in its tables and in RAM, compared with the specification; and what its frames are called.

Frames that Xen has not shown have made-up names, see ``machines``. A name gets its meaning where it shows first, and
two names never mean one frame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import attrs

from bulkhead.conformance.machines import Twins
from bulkhead.conformance.stage2 import row
from bulkhead.fuzz.stimuli import Stimulus
from bulkhead.oracle.projection import Difference, row_difference, row_of
from bulkhead.oracle.tables import Words
from bulkhead.problems import BadInputError
from impl.xen.tables import DEVICE_TYPES
from spec.grant.access import is_pinned
from spec.language import DomId, GrantRef, Index, put
from spec.state import Use

BLOCK: Final = 512
WALLCLOCK: Final = 0x430
"""Where shared_info has the time of day, 16 bytes. Source: xen/include/public/xen.h and arch-arm.h."""


class Comparison:
    """Tables and memory of a machine beside the specification.

    twins: just booted. names: Xen's frames behind made-up names; compared: how many rows and pages so far;
    pages: what RAM holds of those that the last batch has touched, by the specification's names.
    """

    def __init__(self, twins: Twins) -> None:
        self.twins = twins
        self.xen, self.oracle = twins.xen, twins.oracle
        self.names: dict[int, int] = {}
        self.compared = Counter[str]()
        self.pages: dict[int, bytes] = {}
        self._words: set[int] = set()
        self._rows: set[tuple[int, int]] = set()
        self._stale: set[tuple[int, int]] = set()
        self._freed: set[int] = set()                # names whose frames came free since the batch began
        self._unnamed: dict[int, set[int]] = {}      # bytes of frames that held a name whose meaning was not known

    def touched(self) -> None:
        """Note what the specification's last stimulus has written."""
        logs = self.oracle.logs
        self._words |= logs["word"].keys
        self._rows |= logs["p2m"].keys
        state = self.oracle.state
        for key in logs["p2m"].keys:
            if state.p2m[key].stale:
                self._stale.add(key)
        for name in logs["frame"].keys:
            if state.frame[name].use == Use.FREE:
                self.forget(name)
                if state.deviation[Index(0)].dev3:
                    self._note_mapped(name)

    def forget(self, name: int) -> None:
        """A name is another frame's from now on: perhaps it came free and was taken again in one call."""
        self._freed.add(name)
        self.names.pop(name, None)

    def _note_mapped(self, mfn: int) -> None:
        """Where a page that is free now is mapped all the same."""
        state = self.oracle.state
        gfn = state.frame[mfn].gfn      # type: ignore[index]
        self._stale.update((domain, gfn) for domain in self.oracle.guests
                           if state.p2m[domain, gfn].mfn == mfn)    # type: ignore[index]

    def astray(self) -> str:
        """DEV-1 or DEV-3 has come about, and nothing can be said any more of what Xen does with a frame; or ""."""
        state = self.oracle.state
        for key in self._stale:
            row = state.p2m[key]        # type: ignore[index]
            if row.type and not self._is_seen(row.mfn):
                return "DEV-1" if row.stale else "DEV-3"
        return ""

    # ---- names

    def named(self, stimulus: Stimulus, expected: int, seen: int, difference: Difference) -> Difference | None:
        """A load that shows the number of a frame with a made-up name: the guest's memory is made to hold Xen's."""
        _, domain, _, address, size = stimulus
        mfn, start = self.oracle.state.p2m[domain, address >> 12].mfn, address % 4096
        words = self.oracle.state.word
        assert isinstance(words, Words)
        page = words.page(mfn).words
        if start + size > 4096 or page[start:start + size] != expected.to_bytes(size, "little"):
            return difference
        wanted = page[:start] + seen.to_bytes(size, "little") + page[start + size:]
        for at in range(max(start - 7, 0), min(start + size, 4089)):
            made = self._with_name(page[at:at + 8], wanted[at:at + 8] if size == 8 and at == start else None)
            if made is not None and page[:at] + made + page[at + 8:] == wanted:
                self.oracle.poke(mfn, at, made)
                return None
        unlike = [at for at in range(start, start + size) if page[at] != wanted[at]]
        if self._unnamed.get(mfn, set()).issuperset(unlike):
            # the guest has overwritten some of the name, and what is left of it means nothing
            for at in unlike:
                self.oracle.poke(mfn, at, wanted[at:at + 1])
            return None
        return difference

    def _with_name(self, data: bytes, seen: bytes | None) -> bytes | None:
        """Eight bytes that hold a made-up name, as an address or a frame number, with Xen's; None if they do not.

        seen: what Xen has there, from which a name is learnt that was not met before.
        """
        word = int.from_bytes(data, "little")
        for shift in (12, 0):
            name = word >> shift
            if not self.twins.is_made_up(name):
                continue
            meant = self.names.get(name)
            if meant is None and seen is not None:
                meant = int.from_bytes(seen, "little") >> shift
                if not self._is_ram(meant):
                    continue
                # the word may be older than what the name is used for now
                if name not in self._freed and self._is_seen(name):
                    if meant in self.names.values() or self._used(meant):
                        continue
                    self._learn(name, meant)
            if meant is not None:
                return (meant << shift | word & (1 << shift) - 1).to_bytes(8, "little")
        return None

    def _is_ram(self, mfn: int) -> bool:
        return 0 <= (mfn << 12) - self.xen.kind.ram_base < self.xen.kind.ram_size

    def told(self, domain: int, addresses: Iterable[int]) -> None:
        """A grant's mapper was told machine addresses, at these guest addresses: they are made Xen's, if known.

        Else the bytes are remembered: a guest may overwrite some of a name before Xen has shown what it means.
        """
        for address in addresses:
            data = self.oracle.read(domain, address, 8)
            if data is None or not self.twins.is_made_up(int.from_bytes(data, "little") >> 12):
                continue
            made = self._with_name(data, None)
            for i in range(8):
                gfn, at = divmod(address + i, 4096)
                mfn: int = self.oracle.state.p2m[domain, gfn].mfn      # type: ignore[index]
                if made is None:
                    self._unnamed.setdefault(mfn, set()).add(at)
                else:
                    self.oracle.poke(mfn, at, made[i:i + 1])

    # ---- tables and memory

    def batch(self, changed: dict[int, dict[int, int]]) -> list[Difference]:
        """Rows and pages that either side touched in the batch."""
        keys = set(self._rows)
        for domain, leaves in changed.items():
            for gfn, frames in leaves.items():
                if frames <= BLOCK:
                    keys.update((domain, each) for each in range(gfn, gfn + frames))
        self.pages.clear()
        found = self._compare_domains() + self._compare_rows(keys)
        while self._words:
            # a page may show what a name means
            pages, self._words = self._words, set()
            found += self._compare_pages(pages)
        self._rows = set()
        self._freed.clear()
        self._unnamed.clear()
        return found

    def _compare_rows(self, keys: Iterable[tuple[int, int]]) -> list[Difference]:
        found = []
        state = self.oracle.state
        for key in sorted(keys):
            domain, gfn = key
            tracker = self.twins.tracker(domain)
            if tracker is None or domain not in self.oracle.guests or gfn in self.twins.kept.get(domain, ()):
                continue
            leaf = tracker.find(gfn)
            seen = None if leaf is None else row(leaf)
            expected = row_of(state, "p2m", key)
            if expected is not None and self.twins.is_made_up(expected[0]):
                expected = self._meant(expected, seen)
            self.compared["rows"] += 1
            self.compared["rows of domains made at run time"] += domain not in self.twins.trackers
            if (leaf is None or leaf.type in DEVICE_TYPES) and (expected is None or expected[1] in DEVICE_TYPES):
                # the validity of a device's entries changes with the payload's interrupts
                seen = None if seen is None else seen[:2]
                expected = None if expected is None else expected[:2]
                if seen != expected:
                    found.append(Difference("p2m", f"device of domain {domain} at gfn {gfn:#x}: {expected} by the "
                                                   f"specification, {seen} in Xen's tables", key))
                continue
            if expected is not None and seen is not None and expected[2] != seen[2] and self._among_devices(key):
                self._adopt_valid(key, valid=bool(seen[2]))
                expected = (*expected[:2], seen[2], *expected[3:])
            difference = row_difference("p2m", key, expected, seen)
            if difference is not None:
                found.append(Difference(difference.what, difference.text.replace(
                    "in the implementation", "in Xen's tables"), key))
        return found

    def _compare_domains(self) -> list[Difference]:
        """Xen's list of domains."""
        if self.twins.records is None:
            return []
        seen, expected = set(self.twins.records.domains), set(filter(self.oracle.exists, self.oracle.guests))
        return [Difference("domain", f"domain {number} is there in {'Xen' if number in seen else 'the specification'} "
                                     "alone", (number,)) for number in sorted(seen ^ expected)]

    def _compare_grants(self) -> list[Difference]:
        """The grants in use, in Xen's own active entries."""
        if self.twins.records is None:
            return []
        try:
            seen = {(DomId(each.granter), GrantRef(each.ref)): each for each in self.twins.records.grants()}
        except BadInputError as problem:
            return [Difference("active_grant", f"Xen's grant tables cannot be read: {problem}")]
        expected = {key: row for key, row in self.oracle.state.active_grant.items() if is_pinned(row)}
        found = []
        for key in sorted(seen.keys() | expected.keys()):
            real, row = seen.get(key), expected.get(key)
            self.compared["grants"] += 1
            one: tuple[int, ...] | None = None
            other: tuple[int, ...] | None = None if real is None else (real.pin, real.mapper, real.frame)
            if row is not None:
                pin = row.host_writers | row.host_readers << 8 | row.device_writers << 16 | row.device_readers << 24
                frame = self.names.get(row.mfn) if self.twins.is_made_up(row.mfn) else row.mfn
                one = (pin, row.domid) if frame is None else (pin, row.domid, frame)
            # a frame may have a name whose meaning Xen has not shown yet
            if one != (other if other is None or one is None else other[:len(one)]):
                found.append(Difference("active_grant", f"grant {key[1]} of domain {key[0]}: (pins, domain, frame) are "
                                                        f"{one} by the specification, {other} in Xen", key))
        return found

    def _among_devices(self, key: tuple[int, int]) -> bool:
        """In place of a piece of a block of devices of dom0, which was valid or not as the payload used them."""
        domain, gfn = key
        first = gfn - gfn % BLOCK
        return domain == 0 and any(each.type and each.frames.start < first + BLOCK and first < each.frames.stop
                                   for each in self.twins.windows)

    def _adopt_valid(self, key: tuple[int, int], *, valid: bool) -> None:
        """The specification's entry, and the table that it is in, are made as valid for the hardware as Xen's."""
        oracle, (domain, gfn) = self.oracle, key
        oracle.state = put(oracle.state, "p2m", key, hardware=valid)
        shape = oracle.shapes[domain]
        table = 3, gfn // BLOCK
        node = shape.tables.get(table)
        if node is not None:
            changed = shape.tables.set(table, node._replace(valid=valid))
            oracle.shapes = oracle.shapes.set(domain, attrs.evolve(shape, tables=changed))

    def _meant(self, expected: tuple[Any, ...], seen: tuple[Any, ...] | None) -> tuple[Any, ...]:
        """A row whose frame has a made-up name, with Xen's; learnt if this is where it shows first."""
        name = expected[0]
        meant = self.names.get(name)
        if meant is None and seen is not None:
            meant = int(seen[0])
            if meant in self.names.values() or self._used(meant):
                return expected
            self._learn(name, meant)
        return expected if meant is None else (meant, *expected[1:])

    def _learn(self, name: int, meant: int) -> None:
        """A made-up name has got its meaning."""
        self.names[name] = meant
        self._words.add(name)
        if any(name == each.shared_info for each in self._domains()):
            # the time of day at which the domain was made
            start = (meant << 12) - self.xen.kind.ram_base + WALLCLOCK
            self.oracle.poke(name, WALLCLOCK, self.xen.qemu.bytes[start:start + 16].tobytes())

    def _domains(self) -> list[Any]:
        domains = self.oracle.state.domain
        return [domains[number] for number in self.oracle.guests]     # type: ignore[index]

    def _used(self, mfn: int) -> bool:
        """A frame that a domain has under its own name already."""
        return not self.twins.is_made_up(mfn) and self._is_seen(mfn)

    def _is_seen(self, mfn: int) -> bool:
        """A domain can see a frame's contents."""
        return self.oracle.state.frame[mfn].use in {Use.DOMAIN, Use.SHARED}  # type: ignore[index,operator]

    def _compare_pages(self, frames: Iterable[int]) -> list[Difference]:
        """The contents of frames that a domain can see."""
        found = []
        base, ram = self.xen.kind.ram_base, self.xen.qemu.bytes
        for mfn in sorted(frames):
            if mfn in self.twins.kept_frames or not self._is_seen(mfn):
                continue
            real = self.names.get(mfn) if self.twins.is_made_up(mfn) else mfn
            if real is None:
                continue
            start = (real << 12) - base
            # a page before may have shown what this one is, and what Xen put there
            words = self.oracle.state.word
            assert isinstance(words, Words)
            seen, expected = ram[start:start + 4096].tobytes(), words.page(mfn).words
            self.compared["pages"] += 1
            self.pages[mfn] = seen
            if seen != expected:
                difference = self._page_difference(mfn, expected, seen)
                if difference is not None:
                    found.append(difference)
        return found

    def _page_difference(self, mfn: int, expected: bytes, seen: bytes) -> Difference | None:
        while expected != seen:
            at = next(i for i in range(4096) if expected[i] != seen[i])
            for first in range(max(at - 7, 0), min(at + 1, 4089)):
                made = self._with_name(expected[first:first + 8], seen[first:first + 8])
                if made is not None and made == seen[first:first + 8]:
                    self.oracle.poke(mfn, first, made)
                    expected = expected[:first] + made + expected[first + 8:]
                    break
            else:
                if at in self._unnamed.get(mfn, ()):
                    self.oracle.poke(mfn, at, seen[at:at + 1])
                    expected = expected[:at] + seen[at:at + 1] + expected[at + 1:]
                    continue
                at &= ~7
                one, other = (int.from_bytes(data[at:at + 8], "little") for data in (expected, seen))
                owner = self.oracle.state.frame[mfn].owner   # type: ignore[index]
                where = f"memory of domain {owner}: mfn {self.names.get(mfn, mfn):#x} + {at:#x}"
                return Difference("memory", f"{where} holds {one:#x} by the specification, {other:#x} in RAM",
                                  (mfn, at // 8))
        return None

    def whole(self) -> list[Difference]:
        """Everything: Xen's domains and grants in use, all rows, and all pages that a domain can see."""
        with self.xen.qemu.stopped():
            self.twins.update()
            found = self._compare_domains() + self._compare_grants()
        state = self.oracle.state
        trackers = {domain: self.twins.tracker(domain) for domain in self.oracle.guests}
        keys: set[tuple[int, int]] = {key for key in state.p2m.keys() if key[0] in trackers}  # noqa: SIM118
        for domain, tracker in trackers.items():
            if tracker is None:
                continue
            keys.update((domain, gfn) for leaf in tracker.leaves(devices=False)
                        for gfn in range(leaf.gfn, leaf.gfn + leaf.frames))
        found += self._compare_rows(keys)
        words = state.word
        assert isinstance(words, Words)
        return found + self._compare_pages(state.frame.keys())


__all__ = ["Comparison"]
