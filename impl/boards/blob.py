"""The flattened device tree: a blob of bytes into nodes and properties, with every offset checked.

Source: Devicetree Specification v0.4, chapter 5 (flattened devicetree format), versions 16 and 17.  What Xen's libfdt
checks of the header is checked in the same order (Xen 4.17, xen/common/libfdt/fdt.c, fdt_check_header).

Work and memory are linear in the size of the blob, whatever it holds: names have a longest length, and nothing recurses
while it reads.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Final

import attrs

from impl.boards.problems import BadBoard, RefusedByXen

LARGEST: Final = 2 << 20        # Xen maps at most 2 MB (MAX_FDT_SIZE)
DEEPEST: Final = 64             # nodes within nodes; real trees have fewer than 10
LONGEST_NAME: Final = 255       # the specification says 31; real trees have up to 50

_MAGIC = 0xD00DFEED
_BEGIN_NODE, _END_NODE, _PROP, _NOP, _END = 1, 2, 3, 4, 9
_HEADER = struct.Struct(">10I")
_CELL = struct.Struct(">I")
_TWO_CELLS = struct.Struct(">II")
_RESERVATION = struct.Struct(">QQ")


@attrs.define(eq=False, repr=False)
class Node:
    """One node of the tree.

    name: with its unit address, e.g. ``memory@80000000``; the root has an empty name.
    properties: raw values by name, in the order of the blob; the first of two equal names counts, as for libfdt.
    depth: 0 for the root.
    """

    name: str
    parent: Node | None
    depth: int
    properties: dict[str, bytes] = attrs.field(factory=dict)
    children: list[Node] = attrs.field(factory=list)

    @property
    def path(self) -> str:
        """The full path; ``/`` for the root."""
        names: list[str] = []
        node: Node | None = self
        while node is not None and node.parent is not None:
            names.append(node.name)
            node = node.parent
        return "/" + "/".join(reversed(names))


@attrs.frozen
class Blob:
    """A parsed device tree.

    root: the root node; nodes: all nodes in the order of the blob, root first.
    reservations: (address, size) of each entry of the memory reservation block.
    boot_cpu: the boot CPU's identifier from the header.
    size: bytes, as the header says.
    """

    root: Node
    nodes: tuple[Node, ...]
    reservations: tuple[tuple[int, int], ...]
    boot_cpu: int
    size: int


@attrs.frozen
class _Header:
    """The fields that are used after the checks; offsets and sizes in bytes."""

    size: int
    structure: int
    structure_end: int
    strings: int
    strings_end: int
    reservations: int
    boot_cpu: int


def parse(data: bytes) -> Blob:
    """The tree in a blob.

    data: the blob; bytes behind the size in its header are ignored.
    Errors: BadBoard; RefusedByXen where Xen's own checks of the header refuse.
    """
    header = _header(data)
    nodes = _nodes(data, header)
    return Blob(nodes[0], tuple(nodes), tuple(_reservations(data, header)), header.boot_cpu, header.size)


def _header(data: bytes) -> _Header:
    """The header, checked in the order of Xen: magic and size (early_fdt_map), then libfdt's fdt_check_header.

    Errors: BadBoard, RefusedByXen.
    """
    if len(data) < 8:
        raise BadBoard(f"no device tree: {len(data)} bytes are fewer than a header")
    magic, size = _TWO_CELLS.unpack_from(data)
    early = "xen/arch/arm/mm.c, early_fdt_map"
    if magic != _MAGIC:
        raise RefusedByXen(f"invalid device tree blob: the magic number is {magic:#x}, not {_MAGIC:#x}", early)
    if size > LARGEST:
        raise RefusedByXen(f"invalid device tree blob: {size} bytes are more than {LARGEST}", early)
    if len(data) < _HEADER.size:
        raise BadBoard(f"the device tree is cut off: {len(data)} bytes are fewer than a header")
    (_, _, structure, strings, reservations, version, compatible, boot_cpu, strings_size, structure_size,
     ) = _HEADER.unpack_from(data)
    check = "xen/common/libfdt/fdt.c, fdt_check_header"
    if version < 2 or compatible > 17 or version < compatible:
        raise RefusedByXen(f"no valid device tree: version {version}, compatible with {compatible}", check)
    if version < 16:
        raise BadBoard(f"device trees of version {version} are not read: 16 and later are")
    header_size = _HEADER.size if version > 16 else _HEADER.size - 4
    if size < header_size:
        raise RefusedByXen(f"no valid device tree: its size is given as {size} bytes", check)
    if size > len(data):
        raise BadBoard(f"the device tree is cut off: {len(data)} of {size} bytes are there")
    if version == 16:
        structure_size = size - structure if structure <= size else 0
    for what, start, length in (
        ("memory reservation block", reservations, 0),
        ("structure block", structure, structure_size),
        ("strings block", strings, strings_size),
    ):
        if not header_size <= start <= size or start + length > size:
            raise RefusedByXen(f"no valid device tree: its {what} lies outside of it", check)
    if structure % 4 or reservations % 8:
        raise BadBoard("a block of the device tree is misaligned")
    return _Header(size, structure, structure + structure_size, strings, strings + strings_size, reservations, boot_cpu)


def _reservations(data: bytes, header: _Header) -> Iterator[tuple[int, int]]:
    """The entries of the memory reservation block up to the first of size 0, as libfdt counts them.

    Errors: BadBoard.
    """
    place = header.reservations
    while place + _RESERVATION.size <= header.size:
        address, size = _RESERVATION.unpack_from(data, place)
        if not size:
            return
        yield address, size
        place += _RESERVATION.size
    raise BadBoard("the memory reservation block of the device tree has no end")


def _nodes(data: bytes, header: _Header) -> list[Node]:
    """All nodes, the root first, in the order of the structure block.

    Errors: BadBoard.
    """
    place, end = header.structure, header.structure_end
    names: dict[int, str] = {}
    nodes: list[Node] = []
    at: Node | None = None      # the node whose contents are read
    while True:
        if place + 4 > end:
            raise BadBoard("the structure block of the device tree has no end")
        (token,) = _CELL.unpack_from(data, place)
        place += 4
        if token == _PROP:
            if at is None:
                raise BadBoard("the device tree has a property outside of any node")
            if place + 8 > end:
                raise BadBoard("the structure block of the device tree is cut off in a property")
            length, name_offset = _TWO_CELLS.unpack_from(data, place)
            place += 8
            if length > end - place:
                raise BadBoard(f"a property in {at.path} has {length} bytes, more than the device tree has left")
            name = names.get(name_offset)
            if name is None:
                start = header.strings + name_offset
                name = names[name_offset] = _text(data, start, header.strings_end, "the name of a property")
            at.properties.setdefault(name, data[place:place + length])
            place += (length + 3) & ~3
        elif token == _BEGIN_NODE:
            if at is None and nodes:
                raise BadBoard("the device tree has two roots")
            name = _text(data, place, end, "the name of a node")
            place += (len(name) + 4) & ~3       # with its final zero byte, padded to a cell
            depth = 0 if at is None else at.depth + 1
            if depth > DEEPEST:
                raise BadBoard(f"the device tree has nodes nested more than {DEEPEST} deep")
            node = Node(name if at is not None else "", at, depth)
            if at is not None:
                at.children.append(node)
            nodes.append(node)
            at = node
        elif token == _END_NODE:
            if at is None:
                raise BadBoard("the device tree ends a node that it did not begin")
            at = at.parent
        elif token == _END:
            if at is not None or not nodes:
                raise BadBoard("the device tree ends within a node" if nodes else "the device tree has no root")
            return nodes
        elif token != _NOP:
            raise BadBoard(f"the structure block of the device tree holds an unknown token {token:#x}")


def _text(data: bytes, start: int, end: int, what: str) -> str:
    """A zero-terminated ASCII text within data[start:end].

    Errors: BadBoard.
    """
    stop = data.find(b"\0", start, min(end, start + LONGEST_NAME + 1)) if start < end else -1
    if stop < 0:
        raise BadBoard(f"{what} in the device tree has no end within {LONGEST_NAME} bytes")
    try:
        return data[start:stop].decode("ascii")
    except UnicodeDecodeError:
        raise BadBoard(f"{what} in the device tree is not ASCII") from None


def compose(root: Mapping[str, object], *, reservations: tuple[tuple[int, int], ...] = (), boot_cpu: int = 0) -> bytes:
    """A blob, version 17, from nested mappings: the reverse of `parse`.

    root: a property's value is bytes; a child node's is a mapping.  All properties of a node are written before its
    children, as the format demands.
    reservations: (address, size) in bytes; boot_cpu: the boot CPU's identifier.
    Errors: BadBoard if a value is neither bytes nor a mapping, or nests more than 64 deep.
    """
    strings = bytearray()
    offsets: dict[str, int] = {}
    structure = bytearray()

    def write(name: str, node: Mapping[str, object], depth: int) -> None:
        if depth > DEEPEST + 1:     # one more than is read, so that the refusal can be provoked
            raise BadBoard(f"nodes nested more than {DEEPEST} deep cannot be written")
        text = name.encode() + b"\0"
        structure.extend(_CELL.pack(_BEGIN_NODE) + text + bytes(-len(text) % 4))
        for key, value in node.items():
            if isinstance(value, bytes):
                if key not in offsets:
                    offsets[key] = len(strings)
                    strings.extend(key.encode() + b"\0")
                structure.extend(_CELL.pack(_PROP) + _TWO_CELLS.pack(len(value), offsets[key]))
                structure.extend(value + bytes(-len(value) % 4))
            elif not isinstance(value, Mapping):
                raise BadBoard(f"{key} is neither the bytes of a property nor a node")
        for key, value in node.items():
            if isinstance(value, Mapping):
                write(key, value, depth + 1)
        structure.extend(_CELL.pack(_END_NODE))

    write("", root, 0)
    structure.extend(_CELL.pack(_END))
    reserved = b"".join(_RESERVATION.pack(*entry) for entry in (*reservations, (0, 0)))
    at_structure = _HEADER.size + len(reserved)
    at_strings = at_structure + len(structure)
    size = at_strings + len(strings)
    header = _HEADER.pack(
        _MAGIC, size, at_structure, at_strings, _HEADER.size, 17, 16, boot_cpu, len(strings), len(structure)
    )
    return header + reserved + bytes(structure) + bytes(strings)


def tree(node: Node) -> dict[str, object]:
    """A node as nested mappings, as `compose` takes it; nodes of equal name keep the last."""
    mapping: dict[str, object] = dict(node.properties)
    for child in node.children:
        mapping[child.name] = tree(child)
    return mapping
