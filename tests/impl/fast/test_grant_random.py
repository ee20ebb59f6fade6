"""Long random traces of guests that mean well, or not: after each, the state must add up."""

import random
from collections import Counter
from typing import Any

import pytest

from impl.fast import abi
from impl.fast.grant import layouts as g
from impl.fast.grant.projection import project_grants
from impl.fast.grant.table import MAPTRACK_TAIL
from tests.impl.fast.test_grant_support import DOM0, GRANTER, MAPPER, PAGE, SELF, THIRD, Board

DOMS = (DOM0, GRANTER, MAPPER, THIRD)
EDGES = (0, 1, 2, 3, 7, 8, 9, 255, 256, 511, 512, 4095, 4096, 0x7FF0, 0x7FF1, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 32,
         (1 << 64) - 1)


class Guests:
    """Random calls on one board."""

    def __init__(self, seed, arch, version):
        self.random = random.Random(seed)
        self.board = Board(arch, version, mapper={"vcpus": 2, "max_maptrack_frames": 2},
                           dom0={"iommu": True}, iommu_shares_p2m=True)
        self.offered = []       # (granter, ref, to) that were offered last

    def number(self, bits):
        """A field: often small, sometimes an edge, sometimes anything."""
        kind = self.random.random()
        if kind < 0.7:
            return self.random.randrange(12)
        if kind < 0.9:
            return self.random.choice(EDGES) & (1 << bits) - 1
        return self.random.getrandbits(bits)

    def domid(self):
        return self.random.choice((*DOMS, SELF, 555))

    def host(self):
        return 0x38000000 + 0x1000 * self.random.randrange(64) if self.random.random() < 0.95 else self.number(64)

    def gfn(self):
        return PAGE + self.random.randrange(8) if self.random.random() < 0.9 else self.number(40)

    def offer(self):
        """A guest rewrites an entry of its own."""
        granter = self.random.choice([d for d in DOMS if d in self.board.machine.domains])
        ref = self.random.randrange(12)
        to = self.random.choice(DOMS)
        flags = self.random.choice((0, 1, 1, 1, 1, 1, 1, 1, 5, 2, 3, 0x101, 0x19, self.number(16)))
        gfn = self.gfn() & 0xFFFFFFFF if granter else self.random.choice([*self.board.machine.domains[0].page_list][:9])
        self.board.offer(ref, to, gfn, flags, granter)
        self.offered = [*self.offered[-15:], (granter, ref, to)]
        if self.random.random() < 0.3 and self.board.table(granter).version == 2:
            self.board.offer_transitive(ref, self.domid(), self.random.randrange(12), self.random.choice(DOMS), granter)

    def grant(self, dom):
        """(granter, ref), mostly of something offered to the domain."""
        offers = [(granter, ref) for granter, ref, to in self.offered if to == dom]
        if offers and self.random.random() < 0.9:
            return self.random.choice(offers)
        return self.domid(), self.number(32)

    def item(self, op, dom):
        choose = self.random.choice
        if op == g.GNTTABOP_map_grant_ref:
            flags = choose((2, 2, 2, 2, 6, 6, 6, 6, self.number(32)))
            granter, ref = self.grant(dom)
            return g.MAP.pack(self.host(), flags, ref, granter, 0, 0, 0)
        if op in {g.GNTTABOP_unmap_grant_ref, g.GNTTABOP_unmap_and_replace}:
            live = [key[1] for key in project_grants(self.board.machine)["mapping"] if key[0] == dom]
            handle = choose(live) if live and self.random.random() < 0.9 else self.number(32)
            return g.UNMAP.pack(self.host(), choose((0, 0, 0, 0, self.number(64))), handle, 0)
        if op == g.GNTTABOP_copy:
            sides, flags = [], 0
            for bit in range(2):
                offset = choose((0, 0, 0, 16, self.number(16)))
                if self.random.random() < 0.5:
                    granter, ref = self.grant(dom)
                    sides += [ref, granter, offset]
                    flags |= 1 << bit
                else:
                    sides += [self.gfn(), SELF, offset]
            flags = choose((flags,) * 9 + (self.number(16),))
            return g.COPY.pack(*sides, choose((16, 16, 16, self.number(16))), flags, 0)
        if op == g.GNTTABOP_swap_grant_ref:
            return g.SWAP.pack(self.number(32), self.number(32), 0)
        if op == g.GNTTABOP_cache_flush:
            return g.CACHE_FLUSH.pack(self.number(64), self.number(16), self.number(16), self.number(32))
        return self.random.randbytes(40)

    def call(self):
        """One hypercall of a random domain."""
        machine = self.board.machine
        running = [d for d in DOMS if d in machine.domains and machine.domains[d].runs]
        dom = self.random.choice(running)
        op = self.random.choice((0,) * 24 + (1, 1, 1, 1, 7, 2, 6, 8, 9, 10, 11, 12, 3, 4) + (5,) * 10)
        address = self.board.address(dom)
        number = self.random.choice((1, 1, 2, 3, 5))
        if op in {0, 1, 5, 7, 11, 12}:
            data = b"".join(self.item(op, dom) for _ in range(number))
        elif op == g.GNTTABOP_setup_table:
            number = 1
            data = g.SETUP.pack(self.domid(), self.random.choice((0, 1, 2, 3, self.number(32))), 0, address + 0x800)
        elif op == g.GNTTABOP_set_version:
            data = g.SET_VERSION.pack(self.random.choice((1, *(2,) * 15, self.number(32))))
        else:
            number = 1
            data = self.random.randbytes(40)
        self.board.write(dom, address, data)
        if self.random.random() < 0.2:
            machine.preempt_after(self.random.randrange(1, 4))
        vcpu = self.random.choice(sorted(machine.domains[dom].vcpus))
        seen = self.board.observe(dom, op | self.random.choice((0,) * 20 + (1 << 12,)), address, number, vcpu)
        for _ in range(5):
            if not seen.restart:
                break
            seen = self.board.observe(dom, *seen.registers[:3], vcpu)
        return seen

    def destroy(self):
        machine = self.board.machine
        dom = self.random.choice([d for d in DOMS[1:] if d in machine.domains] or [555])
        address = self.board.address(DOM0)
        self.board.write(DOM0, address, abi.DOMCTL_HEADER.pack(2, abi.DOMCTL_INTERFACE_VERSION, dom))
        machine.hypercall(DOM0, 0, {12 if self.board.arm32 else 16: abi.HYPERCALL_DOMCTL, 0: address})

    def run(self, steps):
        for step in range(steps):
            if self.random.random() < 0.4:
                self.offer()
            seen = self.call()
            if seen.kind == "panic":
                assert self.board.arm32
                assert "status frame" in seen.reason
                return
            if step > steps * 3 // 4 and self.random.random() < 0.02:
                self.destroy()


CASES = [(seed, arch, version) for seed in range(6) for arch, version in (
    ("arm64", 1), ("arm64", 2), ("arm32", 1), ("arm32", 2))]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[1]}-v{case[2]}-seed{case[0]}")
def guests(request):
    guests = Guests(*request.param)
    guests.run(600)
    return guests


def test_random__pins_are_the_live_mappings(guests):
    rows = project_grants(guests.board.machine)
    pins = {key: row[:4] for key, row in rows["active"].items()}
    counted: dict[Any, Any] = {}
    for granter, ref, flags in rows["mapping"].values():
        kind = 0 if flags & g.GNTMAP_readonly else 1
        counted.setdefault((granter, ref), [0, 0, 0, 0])[kind] += 1
    assert pins == {key: tuple(row) for key, row in counted.items()}


def test_random__marks_are_the_pins(guests):
    """No entry that is pinned lacks its mark, unless the guest, which may write anything, took it away."""
    board = guests.board
    for (granter, ref), row in project_grants(board.machine)["active"].items():
        table = board.table(granter)
        if table.version == 2:
            marks = board.status(ref, granter)
            assert bool(marks & g.GTF_writing) <= bool(row[1])


def test_random__every_free_handle_is_in_one_list(guests):
    for dom in guests.board.machine.domains.values():
        table = dom.grant_table
        if dom.is_dying:
            continue
        listed = []
        for head, tail in zip(table.vcpu_head, table.vcpu_tail, strict=True):
            at = head
            while at != MAPTRACK_TAIL:
                listed.append(at)
                last, at = at, table.map_ref[at]
            assert head == MAPTRACK_TAIL or last == tail
        free = [handle for handle in range(table.maptrack_limit) if not table.map_flags[handle]]
        assert sorted(listed) == free


def test_random__page_references_cover_the_mappings(guests):
    frames = guests.board.machine.frames
    held: Counter[Any] = Counter()
    tables = {dom.id: dom.grant_table for dom in guests.board.machine.domains.values()}
    for granter, ref, _ in project_grants(guests.board.machine)["mapping"].values():
        held[tables[granter].act_mfn[ref]] += 1
    for mfn, number in held.items():
        assert frames.count(mfn) == number + frames.is_allocated(mfn)


def test_random__no_page_of_a_vanished_domain_is_left(guests):
    machine = guests.board.machine
    owners = {int(owner) for owner in set(machine.frames.owner.tolist())}
    assert owners <= {-1, *machine.domains}
