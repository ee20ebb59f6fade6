"""The walks beside the MMU of QEMU's processors."""

import fcntl
import json
from pathlib import Path

import numpy as np
import pytest

from bulkhead.mmu.__main__ import command
from bulkhead.mmu.campaign import document, run
from bulkhead.mmu.difference import story, tables_of
from bulkhead.mmu.registers import accepted, begun, values
from impl.fast import walks as fast
from impl.xen.errors import NotSetUp
from impl.xen.mmu.machine import FETCH, HVC, PROCESSORS, READ, WRITE, Mmu
from impl.xen.mmu.par import Fault, decode
from spec.memory import walk
from tests.conformance.conftest import _LOCK

LABELS = [each.label for each in PROCESSORS]
ROOT = 0x40000000
COUNT = 400
VECTORS = Path(__file__).parents[1] / "vectors"


@pytest.fixture(scope="module", autouse=True)
def _alone():
    """No other QEMU beside those of these tests; without QEMU and compilers they are skipped."""
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            for each in (PROCESSORS[0], PROCESSORS[-1]):
                Mmu(each).close()
        except NotSetUp as problem:
            pytest.skip(str(problem))
        yield


@pytest.fixture
def mmu(request):
    with Mmu(next(each for each in PROCESSORS if each.label == request.param)) as made:
        yield made


@pytest.mark.parametrize("mmu", LABELS, indirect=True)
def test_translate__says_where_an_address_leads(mmu):
    vtcr = 0x80003558 if mmu.processor.arm32 else 0x80023558
    mmu.pages[ROOT >> 12, 1] = 0x80000000 | 0x7FD
    mmu.install(vtcr, ROOT)
    found = decode(*mmu.translate(np.array([0x40001234, 0x80000000], np.uint64), np.array([WRITE, READ], np.uint8)))
    assert [0x80001000, 0] == found.address.tolist()
    assert [Fault.NONE, Fault.TRANSLATION] == found.fault.tolist()
    assert [0xFF, 0] == found.memory.tolist()


@pytest.mark.parametrize("mmu", LABELS, indirect=True)
def test_translate__says_from_where_instructions_are_fetched(mmu):
    vtcr = 0x80003558 if mmu.processor.arm32 else 0x80023558
    mmu.pages[ROOT >> 12, :3] = [0x40000000 | 0x7FD, 0x80000000 | 0x7FD | 1 << 54, 0xC0000000 | 0x7FD]
    mmu.pages[(ROOT >> 12) + 1] = HVC[mmu.processor.arm32] * (1 << 32 | 1)
    mmu.install(vtcr, ROOT, vectors=0x1000)
    addresses = np.array([0x1040, 0x40000000, 0xBFFFF000], np.uint64)
    found = decode(*mmu.translate(addresses, np.full(3, FETCH, np.uint8)))
    assert [Fault.NONE, Fault.PERMISSION, Fault.NONE] == found.fault.tolist()
    assert [0, 1, 0] == found.level.tolist()


@pytest.mark.parametrize("mmu", LABELS, indirect=True)
def test_processor__begins_a_walk_where_the_specification_knows_the_shape(mmu):
    every = list(values(mmu.processor))
    assert [accepted(mmu.processor, each) for each in every] == [begun(mmu, each) for each in every]


def test_walks__agree():
    state = run(1, 60_000, count=COUNT)
    assert state.complete, story(state.difference)
    made = document(state)
    assert len(made["processors"]) > len(LABELS) // 2
    assert made["both_stages"] > 0
    assert made["fetches"] > 0
    assert made["attributes"] > 0
    assert {"translation", "address size", "access flag", "permission", "external abort", "none"} == {
        each["fault"] for each in made["ends"]}


@pytest.mark.parametrize(("name", "flawed"), [
    ("leaf_fault", lambda entry, frame, output_frames: walk.Fault.NONE),
    ("is_reserved", lambda entry, level: False),
    ("output", lambda entry, gfn, level: entry.frame),
    ("permits", lambda found, kind: found.read),
    ("may_fetch", lambda entry, arm32: not entry.xn or entry.write),
])
def test_flaw__of_the_specification_is_found_and_made_small(monkeypatch, name, flawed):
    monkeypatch.setattr(walk, name, flawed)
    monkeypatch.setattr("bulkhead.mmu.compare._against_fast", lambda batch, addresses, ends: None)
    state = run(1, 200_000, count=COUNT)
    assert state.difference is not None
    assert state.difference.who == "QEMU"
    assert len(tables_of(state.difference)) <= 7
    assert "specification:" in story(state.difference)


def test_flaw__of_impl_fast_is_found(monkeypatch):
    attributes = fast.attributes
    monkeypatch.setattr(fast, "attributes", lambda word: attributes(word & np.uint64((1 << 64) - 1 - (1 << 9))))
    state = run(1, 20_000, count=COUNT)
    assert state.difference is not None
    assert state.difference.who == "impl.fast"
    assert "impl.fast:" in story(state.difference)


def test_command__leaves_its_results(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(["--addresses", "4000", "--seed", "3", "--processor", "cortex-a57", "--vectors", str(VECTORS)]) == 0
    made = json.loads((tmp_path / "build/mmu.json").read_text())
    assert ["cortex-a57 (arm64)"] == list(made["processors"])
    assert 0 < made["real"] <= 1100


def test_command__takes_very_few_addresses(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(["--addresses", "1", "--seed", "3", "--vectors", str(VECTORS)]) == 0
    assert "0 differences" in capsys.readouterr().out
