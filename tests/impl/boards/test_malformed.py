"""Malformed device trees never crash, hang or exhaust memory: each is a board or has one line that says why not."""

import json
import pathlib
import resource
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from impl.boards.board import Board
from impl.boards.catalogue import CATALOGUE
from impl.boards.problems import BadBoard
from impl.boards.read import read
from tests.impl.boards import trees

BLOBS = [entry.blob.read_bytes() for entry in CATALOGUE]
NASTY = [0, 1, 2, 3, 4, 5, 8, 9, 0x10, 0xFF, 0x7FFFFFFF, 0x80000000, 0xD00DFEED, 0xFFFFFFFC, 0xFFFFFFFF]
words = st.sampled_from(NASTY) | st.integers(0, 0xFFFFFFFF)
blobs = st.sampled_from(BLOBS)


def outcome(data, **options):
    """The board, or the reason: anything else is a flaw of the reader."""
    try:
        return read(data, "fuzzed", **options)
    except BadBoard as problem:
        return str(problem)


def assert_clear(result):
    if isinstance(result, Board):
        assert json.dumps(result.facts())
        assert result.online
    else:
        assert result
        assert result.isprintable()
        assert len(result) <= 300


@given(blobs, st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 7)), min_size=1, max_size=20))
def test_read__of_flipped_bits_is_clear(data, flips):
    changed = bytearray(data)
    for place, bit in flips:
        changed[place % len(changed)] ^= 1 << bit
    assert_clear(outcome(bytes(changed)))


@given(blobs, st.integers(0, 1 << 16))
def test_read__of_a_truncated_blob_is_refused(data, length):
    assert isinstance(outcome(data[:length % len(data)]), str)


@given(blobs, st.lists(st.tuples(st.integers(0, 1 << 14), words), min_size=1, max_size=8))
def test_read__of_overwritten_cells_is_clear(data, changes):
    changed = bytearray(data)
    for place, value in changes:
        struct.pack_into(">I", changed, 4 * (place % (len(changed) // 4)), value)
    assert_clear(outcome(bytes(changed)))


@given(blobs, st.integers(40, 1 << 14), st.integers(0, 1 << 14), st.integers(1, 400))
def test_read__of_moved_pieces_is_clear(data, to, source, length):
    piece = data[source % len(data):][:length]
    changed = bytearray(data)
    to %= len(changed)
    changed[to:to + len(piece)] = piece
    assert_clear(outcome(bytes(changed[:len(data)])))


@given(st.binary(max_size=400))
def test_read__of_noise_is_refused(data):
    assert isinstance(outcome(data), str)


@given(st.binary(max_size=600))
def test_read__of_noise_behind_a_good_header_is_clear(data):
    header = struct.pack(">10I", 0xD00DFEED, 56 + len(data), 56, 56, 40, 17, 16, 0, len(data), len(data))
    assert_clear(outcome(header + bytes(16) + data))


INTERESTING = [
    "#address-cells", "#size-cells", "#interrupt-cells", "reg", "ranges", "interrupts", "interrupts-extended",
    "interrupt-parent", "interrupt-map", "interrupt-map-mask", "interrupt-controller", "phandle", "compatible",
    "status", "device_type", "enable-method", "cpu-release-addr", "stdout-path", "clock-frequency",
    "#redistributor-regions", "redistributor-stride", "method", "cpu_on", "reg-shift", "model",
]
values = (
    st.lists(words, max_size=12).map(lambda numbers: trees.cells(*numbers))
    | st.binary(max_size=9)
    | st.sampled_from([b"okay", b"psci", b"arm,gic-v3", b"arm,pl011", b"ns16550a", b"cpu", b"/", b"pci"]).map(
        lambda text: text + b"\0")
)


@given(st.sampled_from(trees.NAMES), st.data())
def test_read__of_changed_properties_is_clear(name, data):
    tree = trees.tree_of(name)
    nodes = trees.every(tree)
    for _ in range(data.draw(st.integers(1, 4))):
        node = nodes[data.draw(st.integers(0, len(nodes) - 1))]
        node[data.draw(st.sampled_from(INTERESTING))] = data.draw(values)
    pa_bits, smmu_bits = (data.draw(st.none() | st.integers(30, 54)) for _ in range(2))
    assert_clear(outcome(trees.write(tree, boot_cpu=data.draw(words)), pa_bits=pa_bits, smmu_bits=smmu_bits))


def test_read__of_a_long_property_is_clear():
    tree = trees.tree_of("mustang")
    tree["model"] = b"x" * (1 << 20)
    assert_clear(outcome(trees.write(tree)))


# ---- the worst that 2 MB can hold -----------------------------------------------------------------------------------

MEMORY = 1 << 30
READ = f"""
import resource, sys
from impl.boards.problems import BadBoard
from impl.boards.read import read
resource.setrlimit(resource.RLIMIT_DATA, ({MEMORY}, {MEMORY}))
try:
    board = read(sys.stdin.buffer.read())
except BadBoard as problem:
    print(problem)
else:
    print("board with", len(board.cpus))
"""


def many_nodes():
    tree = trees.tree_of("mustang")
    tree["soc"].update({f"n{i}": {} for i in range(100_000)})
    return trees.write(tree)


def many_cpus():
    tree = trees.tree_of("vexpress-a15")
    cpu = tree["cpus"]["cpu@0"]
    tree["cpus"].update({f"cpu@{i:x}": {**cpu, "reg": trees.cells(i)} for i in range(20_000)})
    return trees.write(tree)


def many_banks():
    tree = trees.tree_of("foundation-v8")
    tree["memory@80000000"]["reg"] = b"".join(trees.cells(0, i << 13, 0, 0x1000) for i in range(100_000))
    return trees.write(tree)


def many_reservations():
    return trees.write(trees.tree_of("cubieboard2"), reservations=tuple((i << 13, 1) for i in range(1, 100_000)))


def many_uarts_with_a_long_map():
    tree = trees.tree_of("foundation-v8")
    tree["nexus"] = {"phandle": trees.cells(77), "#interrupt-cells": trees.cells(1), "#address-cells": trees.cells(0),
                     "interrupt-map": trees.cells(1, tree_phandle(tree), 0, 40, 4) * 50_000}
    uart = {"compatible": b"arm,pl011\0", "interrupt-parent": trees.cells(77), "interrupts": trees.cells(2)}
    tree.update({f"uart{i}": {**uart, "reg": trees.cells(0, 0x20000000 + (i << 12), 0, 0x1000)} for i in range(5_000)})
    return trees.write(tree)


def many_uarts_behind_long_ranges():
    tree = trees.tree_of("foundation-v8")
    uart = {"compatible": b"arm,pl011\0", "reg": trees.cells(0, 1, 0, 1)}
    tree["bus"] = {"#address-cells": trees.cells(2), "#size-cells": trees.cells(2),
                   "ranges": trees.cells(9, 9, 9, 9, 0, 1) * 40_000, **{f"u{i}": uart for i in range(10_000)}}
    return trees.write(tree)


def many_smmus():
    tree = trees.tree_of("fvp-base")
    tree.update({f"iommu@{i}": dict(tree["iommu@2b400000"]) for i in range(8_000)})
    return trees.write(tree)


def many_frames():
    tree = trees.tree_of("fvp-base")
    frame = trees.child(trees.gic(tree), "msi-controller")
    trees.gic(tree).update({f"its{i}": dict(frame) for i in range(10_000)})
    return trees.write(tree)


def many_texts():
    tree = trees.tree_of("mustang")
    tree["compatible"] += b"a\0" * 900_000
    return trees.write(tree)


def long_path():
    tree = trees.tree_of("mustang")
    tree["chosen"]["stdout-path"] = b"/soc" * 400_000 + b"\0"
    return trees.write(tree)


def tree_phandle(tree):
    return int.from_bytes(trees.gic(tree)["phandle"], "big")


@pytest.mark.parametrize("make", [
    many_nodes, many_cpus, many_banks, many_reservations, many_uarts_with_a_long_map, many_uarts_behind_long_ranges,
    many_smmus, many_frames, many_texts, long_path,
], ids=lambda make: make.__name__)
def test_read__of_the_worst_is_clear_within_1_gb(make):
    data = make()
    assert len(data) <= 2 << 20
    done = subprocess.run([sys.executable, "-c", READ], cwd=pathlib.Path(__file__).parents[3], input=data,
                          capture_output=True, check=False, preexec_fn=limit_seconds)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout.splitlines()) == 1


def limit_seconds():
    """60 s of computing: a reader that hangs is stopped."""
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
