"""How ranges, sizes and tables are laid out in reports for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table


def rows(out: Console, titles: Sequence[str], found: Sequence[tuple[str, ...]], total: int) -> None:
    """A table: drawn on a terminal, plain elsewhere. total: rows that there are, of which some may be left out."""
    if out.is_terminal:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for each in titles:
            table.add_column(each, overflow="fold")
        for row in found:
            table.add_row(*row)
        out.print(table, soft_wrap=False)
    else:
        widths = [max(len(each[column]) for each in (titles, *found)) for column in range(len(titles))]
        for row in (tuple(titles), *found):
            out.print("  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    if total > len(found):
        out.print(f"  {total - len(found)} more, see --json")


def span(start: int, size: int, width: int) -> str:
    """First and last address of a range, in so many hexadecimal digits."""
    return f"0x{start:0{width}x}-0x{start + size - 1:0{width}x}"


def size_text(size: int) -> str:
    """Exactly, in the largest unit that divides it. size: bytes."""
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB")):
        if size % unit == 0 and size:
            return f"{size // unit} {name}"
    return f"{size >> 10} KiB"


def many(count: int, noun: str) -> str:
    """A number of things."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


__all__ = ["many", "rows", "size_text", "span"]
