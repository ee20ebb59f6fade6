"""What a comparison of walks found, for machines and in words."""

from __future__ import annotations

from typing import Any

from bulkhead import __version__
from bulkhead.fuzz.walks import tables as generator
from bulkhead.fuzz.walks.campaign import Comparison
from bulkhead.fuzz.walks.compare import FAULTS, OUTSIDE, XEN, Answer, Difference, spec_geometry
from bulkhead.fuzz.walks.shrink import entries_of
from bulkhead.fuzz.walks.tables import PAGE_BITS
from spec.memory.walk import Kind


def document(state: Comparison) -> dict[str, Any]:
    """The results as JSON has them."""
    total = state.total
    kinds = [generator.kind_of(number) for number in range(total.tables - state.real.tables)]
    shapes = {shape for shape, _ in kinds}
    return {
        "version": __version__, "seed": state.seed, "complete": state.complete, "seconds": round(state.seconds, 3),
        "addresses": total.addresses, "walks": total.walks, "lookups": total.lookups, "tables": total.tables,
        "shapes": len(shapes),
        "geometries": len({(each.arm32, each.ipa_bits, each.start_level) for each in shapes}),
        "styles": len({style for _, style in kinds}),
        "pairs": len(set(kinds)),
        "real": {"addresses": state.real.addresses, "tables": state.real.tables},
        "ends": [{"access": Kind(access).name.lower(), "fault": FAULTS[fault], "level": level,
                  "times": total.ends[access, fault, level]} for access, fault, level in sorted(total.ends)],
        "difference": state.difference and _difference(state.difference),
    }


def _difference(found: Difference) -> dict[str, Any]:
    return {
        "access": found.access, "way": found.way, "addresses": list(found.addresses),
        "expected": _answer(found.expected), "actual": _answer(found.actual), "name": found.tables.name,
        "arm32": found.tables.arm32, "vtcr": found.tables.vtcr, "vttbr": found.tables.vttbr,
        "ram": [{"base": first << PAGE_BITS, "size": len(pages) << PAGE_BITS} for first, pages in found.tables.banks],
        "words": [{"address": (frame << PAGE_BITS) + 8 * index, "word": word}
                  for (frame, index), word in sorted(entries_of(found.tables).items())],
    }


def _answer(answer: Answer) -> dict[str, Any]:
    return {"address": answer[0], "fault": FAULTS[answer[1]], "level": answer[2]}


def story(found: Difference) -> str:
    """The difference in words: registers, entries, address, and what each says."""
    shape = spec_geometry(found.tables)
    kind = "arm32" if found.tables.arm32 else "arm64"
    lines = [
        f"the walks differ ({found.tables.name})",
        (f"  {kind}, VTCR {found.tables.vtcr:#x} ({shape.ipa_bits}-bit IPA, start level {shape.start_level}, "
        f"{shape.root_pages} root pages, {shape.output_bits}-bit output), VTTBR {found.tables.vttbr:#x}"),
        *(f"  RAM {first << PAGE_BITS:#x}, {len(pages)} pages" for first, pages in found.tables.banks),
    ]
    lines += [f"  entry {index} of the table at {frame << PAGE_BITS:#x}: {word:#018x}"
              for (frame, index), word in sorted(entries_of(found.tables).items())]
    if len(found.addresses) > 1:
        lines.append("  in one call with " + ", ".join(f"{each:#x}" for each in found.addresses[:-1][:8])
                     + (f" and {len(found.addresses) - 9} more" if len(found.addresses) > 9 else ""))
    lines += [f"  {found.access} at {found.addresses[-1]:#x}",
              f"    specification:        {_in_words(found.expected, found.access)}",
              f"    impl.fast, {found.way + ':':<12} {_in_words(found.actual, found.access)}"]
    return "\n".join(lines)


def _in_words(answer: Answer, access: str) -> str:
    address, fault, level = answer
    if fault:
        return f"{FAULTS[fault]} fault at level {level}" if fault != OUTSIDE else f"external abort at level {level}"
    if access == XEN:
        allowed = "".join(letter if address >> 48 >> bit & 1 else "-" for bit, letter in enumerate("rwx"))
        return f"frame {address >> PAGE_BITS & (1 << 36) - 1:#x}, {allowed}, type {address >> 51}, level {level}"
    return f"machine address {address:#x}, level {level}"


def line(state: Comparison) -> str:
    """One line of a log."""
    rate = state.total.addresses / state.seconds if state.seconds else 0.0
    return (f"{state.seconds:6.0f} s  {state.total.addresses:>11,} addresses ({rate:,.0f}/s)  "
            f"{state.total.tables:,} tables  {0 if state.difference is None else 1} differences  "
            f"{state.newest}")


__all__ = ["document", "line", "story"]
