"""Stage-2 tables of a running Xen, as a file: read with suspicion, refused with one line.

The file is a numpy archive (``.npz``) of three arrays:

``address``
    machine address of each table page, one 64-bit word each.
``page``
    the 512 descriptors of each.
``meta``
    a JSON text: ``ram_base``, ``ram_size``, ``aarch64``; ``domains``, by number: ``vttbr``, ``vtcr`` and ``loads``,
    what the guest's own loads met; optionally ``grants`` (what was mapped, by whom, where) and ``xen`` (its version).

Nothing of a file is believed: sizes are checked before anything is unpacked, and no object is ever unpickled.
"""

from __future__ import annotations

import io
import json
import math
import pathlib
import warnings
import zipfile
import zlib
from tokenize import TokenError
from typing import Any, TypeAlias

import attrs
import numpy as np
import numpy.typing as npt

from bulkhead.problems import BadInputError

PAGE = 4096
WORDS = 512
MOST_PAGES = 1 << 16
"""Table pages in a file: 256 MiB of descriptors."""
MOST_META = 1 << 26
"""Bytes of the JSON text (numpy keeps four for each character)."""
MOST_DOMAINS = 4096
FIRST_RESERVED_DOMID = 0x7FF0
ADDRESS_BITS = {True: 48, False: 40}
"""Width of a machine address that a descriptor can hold, on arm64 and on arm32."""

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""Readers of the versions of numpy's format that arrays of numbers and texts are written in."""

HOST_MAP, READ_ONLY = 2, 4
"""Flags of a grant mapping (GNTMAP_host_map, GNTMAP_readonly)."""

Words: TypeAlias = npt.NDArray[np.uint64]


@attrs.frozen
class Load:
    """A load by a guest: what it returned (None: it faulted), and the machine address that Xen's tables gave."""

    ipa: int
    value: int | None
    machine: int | None


@attrs.frozen
class Domain:
    """One VM: its translation registers and its own loads."""

    number: int
    vttbr: int
    vtcr: int
    loads: tuple[Load, ...]

    @property
    def vmid(self) -> int:
        """Number under which the hardware keeps this VM's translations."""
        return self.vttbr >> 48

    @property
    def root(self) -> int:
        """Machine address of the first root page."""
        return self.vttbr & 0xFFFF_FFFF_F000


@attrs.frozen
class Grant:
    """One grant map call: who mapped which grant of whom, where, and with what status (0: it was mapped)."""

    granter: int
    mapper: int
    ref: int
    flags: int
    ipa: int
    status: int

    @property
    def read_only(self) -> bool:
        """It was mapped for reading only."""
        return bool(self.flags & READ_ONLY)


@attrs.frozen
class Tables:
    """A file that was read and makes sense on its own; nothing is said yet about what the tables map."""

    name: str
    xen: str
    aarch64: bool
    ram_base: int
    ram_size: int
    domains: tuple[Domain, ...]
    grants: tuple[Grant, ...] | None
    row: dict[int, int] = attrs.field(repr=False)
    page: Words = attrs.field(repr=False, eq=False)

    def overlaps_ram(self, machine: int, size: int) -> int:
        """How many bytes of a range are RAM."""
        return max(0, min(machine + size, self.ram_base + self.ram_size) - max(machine, self.ram_base))


def printable(text: str, most: int = 120) -> str:
    """A text from outside on one line, without control characters."""
    plain = "".join(each if each.isprintable() else "?" for each in text)
    return plain if len(plain) <= most else plain[:most - 3] + "..."


def read(path: pathlib.Path) -> Tables:
    """Read a file of stage-2 tables.

    Errors: BadInputError if it cannot be read, is damaged, or contradicts itself.
    """
    name = printable(str(path), 200)
    try:
        return _understand(name, *_unpack(path))
    except BadInputError as problem:
        raise BadInputError(f"{name}: {problem}") from None
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or "cannot be read"
        raise BadInputError(f"{name}: {reason}") from None


# ---- the archive


def _unpack(path: pathlib.Path) -> tuple[Words, Words, str]:
    if not path.exists():
        raise BadInputError("no such file")
    if not path.is_file():
        raise BadInputError("not a file")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [each.filename for each in archive.infolist()]
            for each in ("address", "page", "meta"):
                if names.count(f"{each}.npy") != 1:
                    raise BadInputError(f"expected one array called {each}, found {names.count(f'{each}.npy')}")
            address = _array(archive, "address", MOST_PAGES * 8)
            page = _array(archive, "page", MOST_PAGES * PAGE)
            meta = _array(archive, "meta", MOST_META)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OverflowError) as problem:
        raise BadInputError("damaged or truncated: not a whole .npz archive") from problem
    if address.dtype != np.dtype("<u8") or address.ndim != 1:
        raise BadInputError(f"address must be 64-bit words in one dimension, not {_shape(address)}")
    if page.dtype != np.dtype("<u8") or page.shape != (len(address), WORDS):
        raise BadInputError(f"page must be {len(address)} x {WORDS} 64-bit words, not {_shape(page)}")
    if meta.dtype.kind != "U" or meta.ndim != 0:
        raise BadInputError(f"meta must be one text, not {_shape(meta)}")
    try:
        text = str(meta[()])
    except ValueError as problem:
        raise BadInputError("meta holds what is no character") from problem
    return address, page, text


def _shape(array: npt.NDArray[Any]) -> str:
    return f"{array.dtype.str} {array.shape}"


def _array(archive: zipfile.ZipFile, name: str, most: int) -> npt.NDArray[Any]:
    """One array of the archive, of at most so many bytes."""
    info = archive.getinfo(f"{name}.npy")
    if info.file_size > most + 2 * PAGE:
        raise BadInputError(f"{name} is too large: {info.file_size} bytes, at most {most} are read")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadInputError(f"{name} is packed in a way that numpy does not write")
    with archive.open(info) as member:
        data = member.read(most + 2 * PAGE)
    stream = io.BytesIO(data)
    damaged = f"{name} is not a whole numpy array"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            version = np.lib.format.read_magic(stream)
            if version not in HEADERS:
                raise BadInputError(f"{name} has an unknown version of numpy's format")
            shape, by_columns, dtype = HEADERS[version](stream)
    except (ValueError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError, Warning) as problem:
        raise BadInputError(damaged) from problem
    if dtype.hasobject:
        raise BadInputError(f"{name} holds pickled objects, which are never loaded")
    start = stream.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data) - start:
        raise BadInputError(damaged)
    if start == len(data):
        raise BadInputError(f"{name} is empty")
    return np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if by_columns else "C")


# ---- what it says


def _understand(name: str, address: Words, page: Words, text: str) -> Tables:
    meta = _meta(text)
    aarch64 = _get(meta, "aarch64", bool, "meta")
    limit = 1 << ADDRESS_BITS[aarch64]
    ram_base, ram_size = _number(meta, "ram_base", limit), _number(meta, "ram_size", limit + 1)
    if ram_base % PAGE or ram_size % PAGE or ram_size == 0 or ram_base + ram_size > limit:
        raise BadInputError(f"RAM of {ram_size:#x} bytes at {ram_base:#x} is no machine's")
    rows = _rows(address, ram_base, ram_size)
    domains = tuple(sorted((_domain(*each) for each in _get(meta, "domains", dict, "meta").items()),
                           key=lambda each: each.number))
    if not domains:
        raise BadInputError("no domain is named")
    if len(domains) > MOST_DOMAINS:
        raise BadInputError(f"{len(domains)} domains are named, at most {MOST_DOMAINS} are read")
    grants = meta.get("grants")
    if grants is not None:
        if not isinstance(grants, list):
            raise BadInputError("grants must be a list")
        grants = tuple(_grant(each) for each in grants)
        _agree(grants)
    xen = meta.get("xen", "")
    if not isinstance(xen, str):
        raise BadInputError("xen must be a text")
    return Tables(name, printable(xen), aarch64, ram_base, ram_size, domains, grants, rows, page)


def _meta(text: str) -> dict[str, Any]:
    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [each for each, _ in pairs]
            twice = next(each for each in names if names.count(each) > 1)
            raise BadInputError(f"meta names {printable(twice, 40)!r} twice")
        return found

    try:
        meta = json.loads(text, object_pairs_hook=distinct)
    except (ValueError, RecursionError) as problem:
        raise BadInputError("meta is not JSON") from problem
    if not isinstance(meta, dict):
        raise BadInputError("meta must be a JSON object")
    return meta


def _rows(address: Words, ram_base: int, ram_size: int) -> dict[int, int]:
    """Which row of ``page`` holds the table at a machine address."""
    rows: dict[int, int] = {}
    for row, each in enumerate(address.tolist()):
        if each % PAGE:
            raise BadInputError(f"table page {each:#x} is not aligned to {PAGE} bytes")
        if not ram_base <= each < ram_base + ram_size:
            raise BadInputError(f"table page {each:#x} lies outside RAM ({ram_base:#x}, {ram_size:#x} bytes)")
        if each in rows:
            raise BadInputError(f"table page {each:#x} appears twice")
        rows[each] = row
    return rows


def _get(found: dict[str, Any], name: str, kind: type, where: str) -> Any:
    if name not in found:
        raise BadInputError(f"{where} lacks {name}")
    if not isinstance(found[name], kind) or (kind is int and isinstance(found[name], bool)):
        raise BadInputError(f"{name} of {where} has the wrong type")
    return found[name]


def _number(found: dict[str, Any], name: str, limit: int, where: str = "meta") -> int:
    return _whole(_get(found, name, int, where), limit, f"{name} of {where}")


def _whole(value: Any, limit: int, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < limit:
        raise BadInputError(f"{what} must be a whole number from 0 to {limit - 1:#x}")
    return value


def _domain(name: str, found: Any) -> Domain:
    where = f"domain {printable(name, 20)!r}"
    if not (name.isascii() and name.isdecimal() and len(name) < 6 and str(int(name)) == name):
        raise BadInputError(f"{where} is not a number")
    number = int(name)
    if number >= FIRST_RESERVED_DOMID:
        raise BadInputError(f"{where} is a number that no VM has")
    where = f"domain {number}"
    if not isinstance(found, dict):
        raise BadInputError(f"{where} must be a JSON object")
    loads = tuple(_load(each, where) for each in _get(found, "loads", list, where))
    met: dict[int, Load] = {}
    for each in loads:
        before = met.setdefault(each.ipa, each)
        if before.machine != each.machine or (before.value is None) != (each.value is None):
            raise BadInputError(f"{where}: two loads at {each.ipa:#x} contradict each other")
    return Domain(number, _number(found, "vttbr", 1 << 64, where), _number(found, "vtcr", 1 << 32, where), loads)


def _load(found: Any, where: str) -> Load:
    if not isinstance(found, list) or len(found) != 3:
        raise BadInputError(f"a load of {where} must be [ipa, value, machine address]")
    ipa, value, machine = found
    return Load(
        _whole(ipa, 1 << 64, f"the address of a load of {where}"),
        None if value is None else _whole(value, 1 << 64, f"the value of a load of {where}"),
        None if machine is None else _whole(machine, 1 << 48, f"the machine address of a load of {where}"),
    )


def _grant(found: Any) -> Grant:
    if not isinstance(found, dict):
        raise BadInputError("a grant must be a JSON object")
    status = _get(found, "status", int, "a grant")
    grant = Grant(
        _number(found, "granter", FIRST_RESERVED_DOMID, "a grant"),
        _number(found, "mapper", FIRST_RESERVED_DOMID, "a grant"),
        _number(found, "ref", 1 << 32, "a grant"), _number(found, "map_flags", 1 << 32, "a grant"),
        _number(found, "mapped_at_ipa", 1 << 64, "a grant"), status,
    )
    if status == 0 and grant.flags & HOST_MAP and grant.ipa % PAGE:
        raise BadInputError(f"grant {grant.ref} is said to be mapped at {grant.ipa:#x}, which is no page")
    return grant


def _agree(grants: tuple[Grant, ...]) -> None:
    """At one address of a VM, one grant is mapped."""
    met: dict[tuple[int, int], Grant] = {}
    for each in grants:
        if each.status != 0 or not each.flags & HOST_MAP:
            continue
        before = met.setdefault((each.mapper, each.ipa), each)
        if (before.granter, before.ref, before.flags) != (each.granter, each.ref, each.flags):
            raise BadInputError(f"two grants are said to be mapped by domain {each.mapper} at {each.ipa:#x}")
