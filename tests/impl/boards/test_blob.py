"""Blobs of bytes: what is read, and what is refused before anything is read from it."""

import struct

import pytest

from impl.boards import blob
from impl.boards.problems import BadBoard, RefusedByXen
from tests.impl.boards.trees import NAMES, cells, tree_of, write

MINIMAL = write({"model": b"none\0", "node@1": {"reg": cells(1)}})
MAGIC, SIZE, STRUCTURE, STRINGS, RESERVATIONS, VERSION, COMPATIBLE, BOOT, STRINGS_SIZE, STRUCTURE_SIZE = range(10)


def with_field(index, value, data=MINIMAL):
    return data[:4 * index] + struct.pack(">I", value) + data[4 * index + 4:]


def with_structure(structure, strings=b"name\0"):
    start = 40 + 16
    total = start + len(structure) + len(strings)
    offsets = (start, start + len(structure), 40)
    header = struct.pack(">10I", 0xD00DFEED, total, *offsets, 17, 16, 0, len(strings), len(structure))
    return header + bytes(16) + structure + strings


BEGIN, END_NODE, PROP, NOP, END = (cells(token) for token in (1, 2, 3, 4, 9))


@pytest.mark.parametrize("name", NAMES)
def test_parse__reads_back_what_compose_wrote(name):
    tree = tree_of(name)
    assert blob.tree(blob.parse(write(tree)).root) == tree


def test_parse__gives_nodes_with_paths():
    assert [node.path for node in blob.parse(MINIMAL).nodes] == ["/", "/node@1"]


def test_parse__gives_reservations_up_to_the_first_of_size_0():
    assert blob.parse(write({}, reservations=((1, 2), (3, 0), (4, 5)))).reservations == ((1, 2),)


def test_parse__ignores_what_follows_the_blob():
    assert blob.parse(MINIMAL + b"more").size == len(MINIMAL)


def test_parse__takes_version_16():
    data = with_field(VERSION, 16)
    assert len(blob.parse(data).nodes) == 2


def test_parse__keeps_the_first_of_two_equal_properties():
    structure = BEGIN + bytes(4) + PROP + cells(4, 0, 1) + PROP + cells(4, 0, 2) + END_NODE + END
    assert blob.parse(with_structure(structure)).root.properties == {"name": cells(1)}


def test_parse__passes_over_nops():
    assert len(blob.parse(with_structure(NOP + BEGIN + bytes(4) + NOP + END_NODE + NOP + END)).nodes) == 1


@pytest.mark.parametrize(("data", "match"), [
    (b"", "0 bytes are fewer than a header"),
    (b"\x7fELF1234", "magic number is 0x7f454c46"),
    (with_field(SIZE, (2 << 20) + 1), "2097153 bytes are more than 2097152"),
    (MINIMAL[:20], "cut off: 20 bytes"),
    (MINIMAL[:-1], "cut off"),
    (with_field(VERSION, 1), "no valid device tree: version 1"),
    (with_field(COMPATIBLE, 18), "compatible with 18"),
    (with_field(VERSION, 15), "version 15"),
    (with_field(SIZE, 39), "size is given as 39 bytes"),
    (with_field(RESERVATIONS, 0xFFFFFFF8), "memory reservation block lies outside"),
    (with_field(STRUCTURE, 0xFFFFFFFC), "structure block lies outside"),
    (with_field(STRUCTURE_SIZE, 0xFFFFFFFC), "structure block lies outside"),
    (with_field(STRINGS, 0), "strings block lies outside"),
    (with_field(STRINGS_SIZE, 0xFFFFFFFF), "strings block lies outside"),
    (with_field(STRUCTURE, 58), "misaligned"),
    (with_field(RESERVATIONS, 44), "misaligned"),
])
def test_parse__refuses_a_bad_header(data, match):
    with pytest.raises(BadBoard, match=match):
        blob.parse(data)


def test_parse__names_xens_function_where_xen_refuses():
    with pytest.raises(RefusedByXen) as caught:
        blob.parse(with_field(VERSION, 1))
    assert caught.value.source == "xen/common/libfdt/fdt.c, fdt_check_header"


@pytest.mark.parametrize(("structure", "match"), [
    (b"", "has no end"),
    (END, "has no root"),
    (BEGIN + bytes(4), "has no end"),
    (BEGIN + bytes(4) + END, "ends within a node"),
    (END_NODE + END, "ends a node that it did not begin"),
    (BEGIN + bytes(4) + END_NODE + BEGIN + bytes(4) + END_NODE + END, "two roots"),
    (PROP + cells(0, 0) + END, "property outside of any node"),
    (BEGIN + bytes(4) + PROP + cells(0), "cut off in a property"),
    (BEGIN + bytes(4) + PROP + cells(0xFFFFFFFF, 0) + END_NODE + END, "4294967295 bytes, more than"),
    (BEGIN + bytes(4) + PROP + cells(0, 0xFFFFFFFF) + END_NODE + END, "name of a property .* has no end"),
    (BEGIN + b"xxxx", "name of a node in the device tree has no end"),
    (BEGIN + b"\xff\0\0\0" + END_NODE + END, "not ASCII"),
    (BEGIN + bytes(4) + cells(7), "unknown token 0x7"),
    ((BEGIN + b"x\0\0\0") * 70, "nested more than 64 deep"),
    (BEGIN + b"y" * 300 + bytes(4) + END_NODE + END, "no end within 255 bytes"),
])
def test_parse__refuses_a_bad_structure(structure, match):
    with pytest.raises(BadBoard, match=match):
        blob.parse(with_structure(structure))


def test_parse__refuses_reservations_without_end():
    header = struct.pack(">10I", 0xD00DFEED, 72, 40, 40, 40, 17, 16, 0, 0, 16)
    data = header + BEGIN + bytes(4) + END_NODE + END + cells(0, 0, 0, 1)
    with pytest.raises(BadBoard, match="reservation block of the device tree has no end"):
        blob.parse(data)


def test_compose__refuses_what_is_no_property():
    with pytest.raises(BadBoard, match="x is neither"):
        blob.compose({"x": 5})
