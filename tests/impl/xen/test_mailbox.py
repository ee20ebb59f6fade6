"""Programs for the payload, and that its source has the same layout and numbers."""

import re
import struct

import numpy as np
import pytest

from impl.xen.errors import Refused
from impl.xen.install import SOURCE
from impl.xen.mailbox import (
    HEAD,
    HVC_XEN,
    ITEM,
    ITEM_BYTES,
    MAGIC,
    SET_WAY,
    Do,
    Mailbox,
    Outcome,
    Program,
    Ref,
    read_instruction,
    repeated,
    write_instruction,
)


def header() -> str:
    return re.sub(r"/\*.*?\*/", "", (SOURCE / "mailbox.h").read_text("utf-8"), flags=re.DOTALL)


def test_layout__of_an_item_is_that_of_the_payload():
    assert ITEM_BYTES == ITEM.itemsize
    fields = re.search(r"struct item \{(.*?)\};", header(), re.DOTALL)
    assert fields is not None
    names = re.findall(r"(\w+)(?:\[\d+\])?[,;]", fields.group(1))
    assert list(ITEM.names) == names


def test_layout__of_the_head_is_that_of_the_payload():
    fields = re.search(r"struct head \{(.*?)\};", header(), re.DOTALL)
    assert fields is not None
    assert list(HEAD.names) == re.findall(r"(\w+)(?:\[\w+\])?[,;]", fields.group(1))
    assert f"sizeof(struct head) == {HEAD.itemsize}" in header()


@pytest.mark.parametrize(("numbers", "prefix"), [(Do, "DO_"), (Outcome, "OUTCOME_")])
def test_numbers__are_those_of_the_payload(numbers, prefix):
    names = re.findall(rf"\b({prefix}\w+)\b", header())
    assert [prefix + member.name for member in numbers] == names


def test_magic__is_composed_of_two_halves_of_the_source():
    source = (SOURCE / "payload.c").read_text("utf-8")
    assert f"0x{MAGIC >> 32:08X}u".lower() in source.lower()
    assert f"0x{MAGIC & 0xFFFFFFFF:08X}u".lower() in source.lower()


def test_hypercall__has_arguments_in_front_and_the_number_last():
    program = Program()
    assert program.hypercall(12, 2, 0x40001000) == 0
    row = program.items()[0]
    assert (row["kind"], row["instruction"]) == (Do.CALL, HVC_XEN[64])
    assert row["in"].tolist() == [2, 0x40001000, 0, 0, 0, 12]


@pytest.mark.parametrize(("width", "word"), [(64, 0xD401D422), (32, 0xE140EA71)])
def test_hypercall__is_hvc_with_xens_immediate(width, word):
    assert HVC_XEN[width] == word


@pytest.mark.parametrize(("width", "word"), [(64, 0xD5087E40), (32, 0xEE070F5E)])
def test_set_way__is_clean_and_invalidate(width, word):
    assert SET_WAY[width] == word


@pytest.mark.parametrize(("width", "register", "read", "write"), [
    (64, "MPIDR_EL1", 0xD53800A0, 0xD51800A0), (64, "S3_0_C12_C12_7", 0xD538CCE0, 0xD518CCE0),
    (32, "MPIDR", 0xEE100FB0, 0xEE000FB0), (32, "p15,0,c9,c12,0", 0xEE190F1C, 0xEE090F1C),
])
def test_system_register__is_encoded_as_the_assembler_does(width, register, read, write):
    assert read_instruction(width, register) == read
    assert write_instruction(width, register) == write


@pytest.mark.parametrize(("width", "register"), [
    (64, "NO_SUCH"), (64, "S5_0_C0_C0_0"), (64, "S3_0_C16_C0_0"), (32, "p15,0,c0"), (32, "p13,0,c0,c0,0"),
])
def test_system_register__that_is_none_is_refused(width, register):
    with pytest.raises(Refused, match="no system register"):
        read_instruction(width, register)


def test_reference__names_an_earlier_item_and_a_sum():
    program = Program()
    first = program.load(0x1000, 4)
    program.store(0x2000, 4, Ref(first, plus=8))
    row = program.items()[1]
    assert row["in"].tolist()[:2] == [0x2000, 8]
    assert row["from"].tolist()[:2] == [0, first + 1]


def test_reference__to_a_later_item_is_refused():
    program = Program()
    with pytest.raises(Refused, match="not before"):
        program.load(Ref(0))


def test_put__splits_what_is_longer_than_an_item():
    program = Program()
    data = bytes(range(100))
    program.put(0x1000, data)
    items = program.items()
    assert [40, 40, 20] == items["size"].tolist()
    assert [0x1000, 0x1028, 0x1050] == [row["in"][5] for row in items]
    assert data == b"".join(row["in"].tobytes()[:row["size"]] for row in items)


def test_repeated__moves_references_with_their_copies():
    program = Program()
    program.load(0x1000, 4)
    program.store(0x2000, 4, Ref(0))
    copies = repeated(program.items(), 3)
    assert [0, 1, 0, 3, 0, 5] == copies["from"][:, 1].tolist()


def test_program__has_a_longest_length():
    program = Program(capacity=1)
    program.spin(1)
    with pytest.raises(Refused, match="at most 1"):
        program.spin(1)


@pytest.mark.parametrize("make", [
    lambda program: program.load(0, 3), lambda program: program.store(0, 5, 1), lambda program: program.fetch(2),
    lambda program: program.put(0, b""), lambda program: program.hypercall(1, 0, 0, 0, 0, 0, 0),
    lambda program: program.firmware(1, 0, 0, 0, 0, 0), lambda program: Program(32).load(1 << 32, 4),
])
def test_program__refuses_what_cannot_be_done(make):
    with pytest.raises(Refused):
        make(Program())


def memory(**fields: int) -> np.ndarray:
    made = np.zeros(64 << 10, np.uint8)
    head = made[:HEAD.itemsize].view(HEAD)
    head["magic"], head["version"], head["capacity"], head["width"] = MAGIC, 1, 16, 64
    head["head_ipa"], head["items_ipa"] = 0x40F00000, 0x40F01000
    for name, value in fields.items():
        head[name] = value
    return made


def test_mailbox__puts_a_program_behind_its_head_and_raises_the_request():
    ram = memory()
    box = Mailbox(ram, 0)
    program = Program()
    program.load(0x1234, 8)
    box.submit(program.items())
    assert box.busy
    assert ram[4096:4096 + ITEM_BYTES].tobytes() == program.items().tobytes()
    assert int(box.head[0]["request"]) == 1
    assert int(box.head[0]["count"]) == 1


def test_mailbox__takes_no_second_program_while_one_runs():
    box = Mailbox(memory(), 0)
    program = Program()
    program.spin(1)
    box.submit(program.items())
    with pytest.raises(Refused, match="still runs"):
        box.submit(program.items())
    box.head["done"] = box.head["request"]
    box.submit(program.items())


def test_mailbox__of_another_version_is_refused():
    with pytest.raises(Refused, match="version 9"):
        Mailbox(memory(version=9), 0)


def test_mailbox__tells_of_an_exception_of_the_payload():
    ram = memory()
    box = Mailbox(ram, 0)
    assert box.died is None
    box.head["died"] = 1
    box.head["registers"][0][:4] = [0, 0x96000000, 0x1000, 0x2000]
    assert box.died == (0, 0x96000000, 0x1000, 0x2000)


def test_words_of_data__are_little_endian():
    program = Program()
    program.put(0, struct.pack("<Q", 0x0102030405060708))
    assert program.items()[0]["in"][0] == 0x0102030405060708
