"""A difference made small, and told in words."""

from __future__ import annotations

import attrs
import numpy as np

from bulkhead.fuzz.walks.compare import FAULTS
from bulkhead.fuzz.walks.tables import ENTRIES, PAGE_BITS
from bulkhead.mmu.cases import TARGET
from bulkhead.mmu.compare import Batch, Difference, Row, Tally, compare
from bulkhead.mmu.expect import Second
from impl.xen.mmu.machine import Mmu
from spec.language import Word
from spec.memory.walk import Kind


@attrs.frozen
class Recorder(Second):
    """Stage 2 that notes which words it reads, by frame and index."""

    read: set[tuple[int, int]] = attrs.field(factory=set)

    def word(self, table: int, index: int) -> Word:
        """A word of a frame.  Errors: KeyError."""
        found = super().word(table, index)
        self.read.add((int(table), index))
        return found


def shrunk(mmu: Mmu, found: Difference) -> Difference:
    """The same kind of difference, with as few words and bits as were found to show it.

    If the words that the specification reads do not show it, these are given.  RAM is used up.
    """
    words, needed = _path(found)
    best = _shown(mmu, found, words, found.address)
    if best is None:
        return attrs.evolve(found, words=words)
    for place in sorted(words.keys() - needed):
        fewer = {each: word for each, word in best.words.items() if each != place}
        best = _shown(mmu, best, fewer, best.address) or best
    for place in sorted(best.words.keys() - needed):
        for bit in reversed(range(64)):
            if best.words.get(place, 0) >> bit & 1:
                less = best.words[place] & ~(1 << bit)
                best = _shown(mmu, best, best.words | {place: less}, best.address) or best
    for bit in reversed(range(64)):
        if best.address >> bit & 1:
            best = _shown(mmu, best, best.words, best.address & ~(1 << bit)) or best
    return best


def _path(found: Difference) -> tuple[dict[tuple[int, int], int], set[tuple[int, int]]]:
    """The words that the specification reads with those that the payload needs, and which are these."""
    batch = found.batch
    recorder = Recorder(batch.second.rows, batch.second.root, batch.second.shape)
    if batch.window and batch.first is not None:
        recorder.translate(batch.first.ttbr)
        recorder.read.add((TARGET, 0))
    if batch.vectors:
        recorder.translate(batch.vectors)
        recorder.read.update((TARGET, index) for index in range(ENTRIES))
    needed = set(recorder.read)
    batch.expected(np.array([found.address], np.uint64), recorder)
    return {(frame, index): int(recorder.rows[frame][index]) for frame, index in recorder.read}, needed


def _shown(mmu: Mmu, found: Difference, words: dict[tuple[int, int], int], address: int) -> Difference | None:
    """The difference, if it is still there with these words only."""
    mmu.clear()
    for (frame, index), word in words.items():
        mmu.pages[frame, index] = word
    batch = attrs.evolve(found.batch, second=Second.of(found.batch.tables))
    made = compare(mmu, batch, np.array([address], np.uint64), Tally())
    return attrs.evolve(made, words=words) if made is not None and made.kind == found.kind else None


def story(found: Difference) -> str:
    """The difference in words: processor, registers, words of tables, address, and what each says."""
    batch, shape = found.batch, found.batch.second.shape
    lines = [
        f"{found.who} differs from the specification ({batch.tables.name})",
        (f"  {batch.processor.label}, VTCR {batch.tables.vtcr:#x} ({shape.ipa_bits}-bit IPA, start level "
         f"{shape.start_level}, {shape.root_pages} root pages, {shape.output_bits}-bit output), "
         f"VTTBR {batch.tables.vttbr:#x}"), f"  {_stage_1(batch)}",
    ]
    if batch.vectors:
        lines.append(f"  HVC at {batch.vectors:#x}, where whatever is fetched ends")
    lines += [f"  entry {index} of the table at {frame << PAGE_BITS:#x}: {word:#018x}"
              for (frame, index), word in sorted(tables_of(found).items())]
    return "\n".join([*lines, f"  {found.access.name.lower()} at {found.address:#x}",
                      f"    specification: {in_words(found.expected, found.access)}",
                      f"    {found.who + ':':<14} {in_words(found.actual, found.access)}"])


def tables_of(found: Difference) -> dict[tuple[int, int], int]:
    """The words that are descriptors: without the instructions of the payload."""
    return {each: word for each, word in found.words.items() if not found.batch.vectors or each[0] != TARGET}


def _stage_1(batch: Batch) -> str:
    if batch.first is None:
        return f"stage 1 off, HCR.DC {int(batch.cached)}"
    return (f"stage 1 on, TTBR0 {batch.first.ttbr:#x}, TCR {batch.first.tcr:#x}, MAIR {batch.first.mair:#x}"
            + (", 1 GB of guest addresses at a time" if batch.window else ""))


def in_words(row: Row, access: Kind) -> str:
    """How a translation ended."""
    address, fault, level, second, walking, memory, share = row
    if fault == 0 and access == Kind.EXECUTE:
        return "an instruction is fetched"
    if fault == 0:
        return f"machine address {address:#x}, attributes {memory:#04x}, shareability {share}"
    name = (*FAULTS, "unknown status")[fault]
    # neither an abort nor a fetch says of which stage it is
    silent = access == Kind.EXECUTE or name in {"external abort", "unknown status"}
    where = "" if silent else f"of stage {2 if second else 1}"
    return " ".join(filter(None, [name, where, f"at level {level}", "on the walk of stage 1" if walking else ""]))


__all__ = ["in_words", "shrunk", "story", "tables_of"]
