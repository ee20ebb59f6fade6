"""The same random guests on impl/fast and on real Xen: every observation equal, and Xen's own tables as well.

Frames that are given back and come again are scrubbed by both (scrub-domheap), since which frame comes is Xen's choice.
"""

import random
import struct

import pytest

from bulkhead import trace as traces
from bulkhead.oracle.run import run
from impl.xen import replay
from impl.xen.kinds import KINDS
from tests.conformance.conftest import machine_of
from tests.conformance.guests import DOMID_SELF, GRANT_TABLE_OP, MEMORY_OP, grant_entry

ARGUMENTS = 0x40001000
TABLE, WINDOW = 0x38001000, 0x39000
GFNS = 0x40005, 0x40006, 0x40007, 0x40200, 0x40201, 0x40300, 0xBA000, 0x88000
STEPS = 500


class Guests:
    """Two domUs that take, give back, touch, grant and map memory at random."""

    def __init__(self, number: int, rng: random.Random) -> None:
        self.number = number
        self.rng = rng
        self.stimuli: list[traces.Stimulus] = []

    def put(self, domain: int, address: int, data: bytes) -> None:
        for at in range(0, len(data), 8):
            word = int.from_bytes(data[at:at + 8].ljust(8, b"\0"), "little")
            self.stimuli.append(traces.Store(domain, 0, address + at, 8, word))

    def call(self, domain: int, number: int, *arguments: int) -> None:
        self.stimuli.append(traces.Hypercall(domain, 0, {self.number: number, **dict(enumerate(arguments))}))

    def step(self) -> None:
        pick = self.rng.choice
        domain, page = pick((1, 2)), pick(GFNS) << 12
        other = 3 - domain
        match self.rng.randrange(8):
            case 0 | 1:
                self.put(domain, ARGUMENTS + 0x100, struct.pack("<Q", page >> 12))
                self.put(domain, ARGUMENTS, struct.pack(
                    "<QQIIHxxxxxx", ARGUMENTS + 0x100, pick((1, 1, 0, 2)), pick((0, 0, 0, 9, 10)), 0,
                    pick((DOMID_SELF, DOMID_SELF, other, 77))))
                self.call(domain, MEMORY_OP, pick((1, 6, 0)), ARGUMENTS)
            case 2:
                self.stimuli.append(traces.Load(domain, 0, page + pick((0, 8, 0xFFC)), pick((1, 2, 4, 8))))
            case 3:
                value = self.rng.getrandbits(64)
                self.stimuli.append(traces.Store(domain, 0, page + pick((0, 8, 0xFF8)), 8, value))
            case 4:
                self.stimuli.append(traces.Fetch(domain, 0, page + 0x40))
            case 5:
                self.put(domain, ARGUMENTS, struct.pack("<H6x", pick((DOMID_SELF, 1, 2, 0, 99))))
                self.call(domain, MEMORY_OP, pick((2, 3, 4, 5, 14)), ARGUMENTS)
            case 6:
                self.put(domain, ARGUMENTS, struct.pack(
                    "<HHIQQ", DOMID_SELF, 0, pick((0, 1, 2, 9)), pick((0, 1, 40, 5000)),
                    (TABLE >> 12) - 1 + self.rng.randrange(4)))
                self.call(domain, MEMORY_OP, 7, ARGUMENTS)
            case _:
                ref = 8 + self.rng.randrange(4)
                self.stimuli.append(traces.Store(
                    domain, 0, TABLE + 8 * ref, 8, grant_entry(pick((1, 5, 0)), other, GFNS[0])))
                self.put(other, ARGUMENTS, struct.pack(
                    "<QIIHhIQ", WINDOW + self.rng.randrange(4) << 12, pick((2, 6, 0)), ref, domain, 0, 0, 0))
                self.call(other, GRANT_TABLE_OP, 0, ARGUMENTS, 1)
                self.stimuli.append(traces.Load(other, 0, ARGUMENTS + 18, 2))


def trace_for(kind: str, rng: random.Random) -> traces.Trace:
    machine = KINDS[kind]
    wide = machine.width == 64
    guests = Guests(16 if wide else 12, rng)
    for _ in range(STEPS):
        guests.step()
    configuration = traces.Configuration(
        arch="arm64" if wide else "arm32", pa_bits=44 if wide else 40, gic_version=machine.gic, scrub_domheap=True)
    domains = (traces.Domain(0, 2048, privileged=True, is_hardware=True, direct_map=True),
               traces.Domain(1, 2048, p2m_pool_pages=512), traces.Domain(2, 2048, p2m_pool_pages=512))
    bank = traces.Bank(machine.ram_base, machine.ram_size)
    return traces.Trace(traces.Board(ram=(bank,)), configuration, domains, tuple(guests.stimuli))


def shown(observation):
    """What of an observation is compared: not the level of a fault, which real Xen does not tell."""
    fault = observation.fault
    return (observation.kind, observation.registers, observation.value,
            None if fault is None else (fault[0], *fault[2:]))


@pytest.mark.parametrize("kind", KINDS)
def test_trace__shows_the_same_on_real_xen(installation, kind, rng):
    trace = trace_for(kind, rng)
    expected = [step.fast for step in run(trace, "fast").steps]
    plan = replay.plan(trace.config, trace.domains, kind=kind)
    stimuli = [made for made in map(replay.stimulus, trace.stimuli) if made is not None]
    with machine_of(plan.config, installation) as machine:
        seen = machine.give(stimuli)
    for number, (one, other) in enumerate(zip(expected, seen, strict=True)):
        assert shown(one) == shown(other), f"stimulus {number}: {trace.stimuli[number]}"


def test_replay__of_a_trace_gives_an_observation_for_each_stimulus(installation):
    trace = trace_for("arm64-gicv2", random.Random(1))
    stimuli = (traces.Time(10), *trace.stimuli[:20], traces.Time(10))
    seen = replay.run(replay.plan(trace.config, trace.domains), stimuli)
    assert seen[0] is None
    assert all(seen[1:-1])
    assert seen[-1] is None
