"""Random grant traffic of guests that mean well, or not, on the specification and on the implementation."""

import random

import pytest

from bulkhead.oracle import grants_abi as abi
from tests.bulkhead.test_oracle_grants import (
    DOM0,
    GRANTER,
    HOST,
    KINDS,
    LIST,
    MAPPER,
    NOBODY,
    SELF,
    THIRD,
    TRANSITIVE,
    Pair,
)

DOMAINS = (DOM0, GRANTER, MAPPER, THIRD)
# one more or less than what an array, a frame or a field holds
EDGES = (7, 8, 255, 256, 511, 512, 4095, 4096, 0x7FF0, 0xFFFF, 1 << 31, (1 << 32) - 1)


class Traffic:
    """Random calls; where the two are known to differ (beyond 32 bits, beyond the root table) it does not go."""

    def __init__(self, seed, arch, version):
        self.random = random.Random(seed)
        self.pair = Pair(arch, version, mapper={"vcpus": 2, "max_maptrack_frames": 1},
                         xsm=("dummy", "silo")[seed % 4 == 3])
        self.offered = []

    def number(self, bits):
        """Often small, sometimes an edge, sometimes anything."""
        kind = self.random.random()
        if kind < 0.8:
            return self.random.randrange(12)
        return (self.random.choice(EDGES) if kind < 0.9 else self.random.getrandbits(32)) & (1 << bits) - 1

    def domain(self):
        return self.random.choice((*DOMAINS, *DOMAINS, SELF, NOBODY))

    def gfn(self, dom):
        kind, first = self.random.random(), self.pair.argument(dom) >> 12
        if kind < 0.85:
            return first + 16 + self.random.randrange(8)
        return (HOST >> 12) + self.random.randrange(32) if kind < 0.95 else self.number(32)

    def host(self, dom):
        gfn = self.gfn(dom) if self.random.random() < 0.1 else (HOST >> 12) + self.random.randrange(32)
        return gfn % (1 << 20) << 12

    def offer(self):
        choose = self.random.choice
        granter, ref, to = choose(DOMAINS), self.random.randrange(12), choose(DOMAINS)
        flags = choose((1, 1, 1, 1, 1, 5, 0, 2, 0x101, 0x19, self.number(16)))
        gfn, extra = self.gfn(granter), choose((0, 16, 64)) | choose((16, 4000)) << 16
        if self.pair.machine.domains[granter].grant_table.version == 2 and self.random.random() < 0.35:
            flags, gfn, extra = TRANSITIVE, self.random.randrange(12), self.domain()
        self.pair.offer(ref, to, gfn, flags, granter, extra)
        self.offered = [*self.offered[-15:], (granter, ref, to)]

    def grant(self, dom):
        offers = [(granter, ref) for granter, ref, to in self.offered if to == dom]
        if offers and self.random.random() < 0.9:
            return self.random.choice(offers)
        return self.domain(), self.number(32)

    def side(self, dom, *, granted):
        offset = self.random.choice((0, 0, 13, 16, self.number(16)))
        if not granted:
            return self.gfn(dom), SELF, offset
        granter, ref = self.grant(dom)
        return ref, granter, offset

    def live(self, dom):
        """A handle and where it is mapped, if there is any."""
        rows = [(handle, row.gfn) for (mapper, handle), row in self.pair.oracle.state.mapping.items()
                if mapper == dom and row.host]
        return self.random.choice(rows) if rows else (self.number(32), 0)

    def items(self, op, dom):
        choose = self.random.choice
        number = choose((1, 1, 2, 3, 5, 40))
        if op == abi.MAP_GRANT_REF:
            made = []
            for _ in range(number):
                granter, ref = self.grant(dom)
                flags = choose((2, 2, 2, 6, 6, 6, self.number(32)))
                made.append(abi.MAP_ITEM.pack(self.host(dom), flags, ref, granter, 99, 77, 88))
            return choose((made, [made[0]] * number))
        if op in {abi.UNMAP_GRANT_REF, abi.UNMAP_AND_REPLACE}:
            made = []
            for _ in range(number):
                handle, gfn = self.live(dom) if self.random.random() < 0.9 else (self.number(32), 0)
                host = gfn << 12 if gfn and self.random.random() < 0.8 else self.host(dom)
                made.append(abi.UNMAP_ITEM.pack(host, choose((0, 0, self.number(32))), handle, 99))
            return made
        if op == abi.COPY:
            granted = [self.random.random() < 0.6 for _ in range(2)]
            flags = choose((granted[0] | granted[1] << 1,) * 9 + (self.number(16),))
            made = [abi.COPY_ITEM.pack(*self.side(dom, granted=granted[0]), *self.side(dom, granted=granted[1]),
                                       choose((0, 16, 21, 4096, self.number(16))), flags, 99) for _ in range(number)]
            return [choose(made) for _ in made]
        if op == abi.SWAP_GRANT_REF:
            return [abi.SWAP_ITEM.pack(self.number(32), self.number(32), 99) for _ in range(number)]
        if op == abi.CACHE_FLUSH:
            owner = choose(DOMAINS)
            mfn = self.pair.machine.domains[owner].p2m.find((self.pair.argument(owner) >> 12) + 16)[0] or 0
            return [abi.FLUSH_ITEM.pack((mfn & (1 << 32) - 1) << 12, choose((0, self.number(16))),
                                        choose((64, 4096, self.number(16))), choose((1, 2, 3, self.number(32))))]
        where = self.pair.argument(dom) + LIST % 4096 + 0x2000
        return [{
            abi.SETUP_TABLE: abi.SETUP.pack(self.domain(), choose((0, 1, 2, 9, self.number(32))), 99, where),
            abi.QUERY_SIZE: abi.QUERY.pack(self.domain(), b"ab", 1, 2, 99, b"cd"),
            abi.SET_VERSION: abi.NUMBER.pack(choose((1, 2, 2, 2, self.number(32)))),
            abi.GET_STATUS_FRAMES: abi.STATUS_LIST.pack(choose((0, 1, self.number(32))), self.domain(), 99, where),
            abi.GET_VERSION: abi.VERSION_OF.pack(self.domain(), 99),
        }.get(op, bytes(40))]

    def call(self):
        """One call, with what it takes to end it: the observation."""
        choose, pair = self.random.choice, self.pair
        dom = choose([each for each in DOMAINS if pair.machine.domains[each].runs])
        op = choose((0,) * 20 + (1,) * 10 + (5,) * 16 + (7, 2, 6, 8, 8, 9, 10, 11, 12, 12, 3, 4, 13))
        at = pair.argument(dom) + choose((0, 0, 0xFE0, 0xFF8))
        preempt = choose((None, None, None, 1, 2, 3))
        seen = pair.array(dom, op | choose((0,) * 20 + (4096,)), self.items(op, dom), at=at, preempt=preempt,
                          vcpu=choose(sorted(pair.machine.domains[dom].vcpus)))
        if seen.restart:
            seen = pair.hypercall(dom, 20, *seen.registers[:3])
        return seen

    def map_table(self):
        """A domain maps a frame of its table where anything may be, or takes it out."""
        dom = self.random.choice([each for each in DOMAINS[1:] if self.pair.machine.domains[each].runs])
        gfn = (HOST >> 12) + self.random.randrange(32)
        self.pair.add_to_physmap(dom, self.random.choice((0, 1, 2, 1 << 31)), gfn)

    def run(self, calls):
        for _ in range(calls):
            if self.random.random() < 0.4:
                self.offer()
            if self.random.random() < 0.05:
                self.map_table()
            if self.call().kind == "panic":
                return


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("arch", "version"), KINDS)
def test_random_traffic__nothing_differs(seed, arch, version):
    traffic = Traffic(seed, arch, version)
    traffic.run(300)
    if not traffic.pair.machine.panicked:
        assert traffic.pair.whole() == []


def test_random_traffic__ends_with_the_domains():
    traffic = Traffic(7, "arm64", 2)
    traffic.run(200)
    for dom in (MAPPER, GRANTER, THIRD):
        traffic.pair.destroy(dom)
        assert traffic.pair.whole() == []
