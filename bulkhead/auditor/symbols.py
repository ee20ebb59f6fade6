"""Addresses of Xen's symbols: from ``xen-syms``, an ELF file, or from ``xen-syms.map``, a list of them.

Debian's package of Xen's debug symbols holds both.
"""

from __future__ import annotations

import pathlib
from typing import Final

import attrs

from bulkhead.problems import BadInputError
from bulkhead.tables import printable

MOST_BYTES: Final = 1 << 28
START: Final = "_start"
ROOTS: Final = {False: "xen_pgtable", True: "cpu0_pgtable"}
"""The root of Xen's own page tables (of the first processor), on arm64 and on arm32.

Source: xen/arch/arm/mm.c (setup_pagetables), Xen 4.17.
"""


@attrs.frozen
class Symbols:
    """Virtual addresses by name; a static symbol is known by its name alone, without its file's.

    arm32: what its page tables say of the architecture.
    """

    name: str
    arm32: bool
    address: dict[str, int] = attrs.field(repr=False)

    def of(self, name: str) -> int:
        """The address of a symbol [bytes]. Errors: BadInputError if it is missing."""
        found = self.address.get(name)
        if found is None:
            raise BadInputError(f"{self.name}: there is no symbol {name}")
        return found


def read(path: pathlib.Path) -> Symbols:
    """The symbols in a file. Errors: BadInputError if it is none of Xen's for Arm."""
    name = printable(str(path), 200)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BadInputError(f"{name}: too large for a list of symbols")
        data = path.read_bytes()
    except OSError as problem:
        raise BadInputError(f"{name}: {problem.strerror or 'cannot be read'}") from None
    address = _of_elf(path) if data[:4] == b"\x7fELF" else _of_list(data)
    kinds = [arm32 for arm32, root in ROOTS.items() if root in address]
    if START not in address or len(kinds) != 1:
        raise BadInputError(f"{name}: not the symbols of a Xen 4.17 for Arm")
    return Symbols(name, kinds[0], address)


def _of_elf(path: pathlib.Path) -> dict[str, int]:
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    try:
        with path.open("rb") as file:
            table = ELFFile(file).get_section_by_name(".symtab")
            if not isinstance(table, SymbolTableSection):
                return {}
            return {each.name: int(each["st_value"]) for each in table.iter_symbols()}
    except (ELFError, ValueError, KeyError, IndexError, OverflowError, AttributeError, UnicodeDecodeError):
        raise BadInputError(f"{printable(str(path), 200)}: damaged or truncated: not a whole ELF file") from None


def _of_list(data: bytes) -> dict[str, int]:
    """Lines of an address, a letter and a name; a static symbol has its file before a # sign."""
    found: dict[str, int] = {}
    for line in data.decode("ascii", "replace").splitlines():
        words = line.split()
        if len(words) != 3 or len(words[1]) != 1:
            return {}
        try:
            found[words[2].rpartition("#")[2]] = int(words[0], 16)
        except ValueError:
            return {}
    return found
