"""What the processor's registers say of a translation."""

import numpy as np
import pytest

from impl.xen.mmu.par import Fault, decode


def one(par: int, syndrome: int = 0) -> tuple[int, ...]:
    answers = decode(np.array([par], np.uint64), np.array([syndrome], np.uint64))
    return tuple(int(each[0]) for each in (answers.address, answers.fault, answers.level, answers.second,
                                           answers.walking, answers.memory, answers.share))


def test_decode__of_a_translation_gives_page_attributes_and_shareability():
    assert one(0xFF00_1234_5678_9B80) == (0x1234_5678_9000, Fault.NONE, 0, 0, 0, 0xFF, 3)


@pytest.mark.parametrize(("status", "fault"), [
    (0b0000, Fault.ADDRESS_SIZE), (0b0001, Fault.TRANSLATION), (0b0010, Fault.ACCESS_FLAG), (0b0011, Fault.PERMISSION),
    (0b0101, Fault.EXTERNAL_ABORT), (0b1000, Fault.OTHER), (0b1111, Fault.OTHER),
])
def test_decode__of_a_fault_gives_kind_and_level(status, fault):
    for level in range(4):
        assert one(0x801 | (status << 2 | level) << 1) == (0, fault, level, 0, 0, 0, 0)


@pytest.mark.parametrize(("bits", "second", "walking"), [(0, 0, 0), (1 << 9, 1, 0), (1 << 9 | 1 << 8, 1, 1)])
def test_decode__says_which_stage_it_was(bits, second, walking):
    assert one(0xFF00_0000_0000_0801 | bits | 0b000110 << 1) == (0, Fault.TRANSLATION, 2, second, walking, 0, 0)


@pytest.mark.parametrize(("syndrome", "walking"), [(0x96000156, 0), (0x960001D6, 1)])
def test_decode__of_an_abort_leaves_an_old_par_aside(syndrome, walking):
    assert one(0xFF00_1234_5678_9B80, syndrome) == (0, Fault.EXTERNAL_ABORT, 2, 0, walking, 0, 0)


def test_decode__of_another_exception_is_no_known_fault():
    assert one(0, 0x02000000)[1] == Fault.OTHER


def test_decode__keeps_answers_in_their_order():
    par = np.array([0x801 | 0b000101 << 1, 0x4400_0000_0000_1980], np.uint64)
    answers = decode(par, np.zeros(2, np.uint64))
    assert [Fault.TRANSLATION, Fault.NONE] == answers.fault.tolist()
    assert [0, 0x1000] == answers.address.tolist()
    assert [0, 0x44] == answers.memory.tolist()
