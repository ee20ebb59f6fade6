"""A small board for the tests of grants, and its own claim: a call works through the registers of a guest."""

from impl.boards.ram import Bank, Ram
from impl.fast.grant import layouts
from impl.fast.grant.projection import project_grants
from impl.fast.machine import Config, DomainConfig, Machine

DOM0, GRANTER, MAPPER, THIRD = 0, 1, 2, 3
RAM_GFN = 0x40000
ARGS = 0x40000000           # where arguments are put: the first page of every domU
HOST = 0x38000000           # where grants are mapped: a hole of the guest's address space
PAGE = 0x40010              # a page of the granter
SELF = 0x7FF0


class Board:
    """16 MB of RAM, dom0 and three domUs of 2 MB each, driven by hypercalls."""

    def __init__(self, arch="arm64", version=1, dom0=None, mapper=None, **options):
        self.arm32 = arch == "arm32"
        if self.arm32:
            options.setdefault("xenheap_pages", 1024)
        domains = [DomainConfig(DOM0, 512, privileged=True, is_hardware=True, direct_map=True, **(dom0 or {}))]
        domains += [DomainConfig(GRANTER, 512), DomainConfig(MAPPER, 512, **(mapper or {})), DomainConfig(THIRD, 512)]
        self.machine = Machine(Ram([Bank(0x40000000, 16 << 20)]),
                               Config(arch=arch, grant_max_version=version, domains=domains, **options))

    # ---- memory ----------------------------------------------------------------------------------------------

    def mfn(self, dom, gfn):
        return self.machine.domains[dom].p2m.find(gfn)[0]

    def kind(self, dom, gfn):
        return self.machine.domains[dom].p2m.find(gfn)[1]

    def address(self, dom):
        """Where the arguments of a domain are: dom0 is mapped 1:1."""
        return ARGS if dom else min(self.machine.domains[0].page_list) << 12

    def write(self, dom, address, data):
        while data:
            size = min(len(data), 4096 - (address & 4095))
            self.machine.memory.write(self.mfn(dom, address >> 12), address & 4095, data[:size])
            address, data = address + size, data[size:]

    def read(self, dom, address, size):
        data = b""
        while size:
            part = min(size, 4096 - (address & 4095))
            data += self.machine.memory.read(self.mfn(dom, address >> 12), address & 4095, part)
            address, size = address + part, size - part
        return data

    def references(self, mfn):
        return self.machine.frames.count(mfn)

    # ---- the granter's side ----------------------------------------------------------------------------------

    def table(self, dom):
        return self.machine.domains[dom].grant_table

    def offer(self, ref, to=MAPPER, gfn=PAGE, flags=layouts.GTF_permit_access, granter=GRANTER):
        """Write an entry that names a frame, in the version of the table."""
        table = self.table(granter)
        if table.version == 1:
            self.machine.memory.put(table.shared[ref >> 9], ref & 511, flags | to << 16 | gfn << 32)
        else:
            self.machine.memory.put(table.shared[ref >> 8], (ref & 255) * 2, flags | to << 16)
            self.machine.memory.put(table.shared[ref >> 8], (ref & 255) * 2 + 1, gfn)

    def offer_sub_page(self, ref, start, length, to=MAPPER, gfn=PAGE, granter=GRANTER):
        self.offer(ref, to, gfn, layouts.GTF_permit_access | layouts.GTF_sub_page, granter)
        mfn = self.table(granter).shared[ref >> 8]
        word = self.machine.memory.get(mfn, (ref & 255) * 2)
        self.machine.memory.put(mfn, (ref & 255) * 2, word | start << 32 | length << 48)

    def offer_transitive(self, ref, target, target_ref, to=MAPPER, granter=GRANTER, flags=layouts.GTF_transitive):
        self.offer(ref, to, target_ref, flags, granter)
        mfn = self.table(granter).shared[ref >> 8]
        word = self.machine.memory.get(mfn, (ref & 255) * 2)
        self.machine.memory.put(mfn, (ref & 255) * 2, word | target << 32)

    def flags(self, ref, granter=GRANTER):
        table = self.table(granter)
        per_frame, words = (512, 1) if table.version == 1 else (256, 2)
        return self.machine.memory.get(table.shared[ref // per_frame], ref % per_frame * words) & 0xFFFF

    def status(self, ref, granter=GRANTER):
        return self.machine.memory.get(self.table(granter).status[ref >> 11], ref % 2048 // 4) >> ref % 4 * 16 & 0xFFFF

    # ---- calls -----------------------------------------------------------------------------------------------

    def observe(self, dom, op, address, count, vcpu=0):
        number = 12 if self.arm32 else 16
        return self.machine.hypercall(dom, vcpu, {number: 20, 0: op, 1: address, 2: count})

    def result(self, observation):
        bits = 32 if self.arm32 else 64
        value = observation.registers[0]
        return value - (1 << bits) if value >> bits - 1 else value

    def call(self, dom, op, address, count=1, vcpu=0):
        return self.result(self.observe(dom, op, address, count, vcpu))

    def one(self, dom, op, layout, *fields, count=1, vcpu=0):
        """Write one argument struct, make the call, return (result, fields afterwards)."""
        address = self.address(dom)
        self.write(dom, address, layout.pack(*fields))
        result = self.call(dom, op, address, count, vcpu)
        return result, layout.unpack(self.read(dom, address, layout.size))

    def map(self, ref, flags=layouts.GNTMAP_host_map, host=HOST, granter=GRANTER, dom=MAPPER, vcpu=0):
        """(status, handle, dev_bus_addr); the last two start as 77 and 88."""
        result, fields = self.one(dom, 0, layouts.MAP, host, flags, ref, granter, 0, 77, 88, vcpu=vcpu)
        assert result == 0
        return fields[4:]

    def unmap(self, handle, host=HOST, bus=0, dom=MAPPER):
        result, fields = self.one(dom, 1, layouts.UNMAP, host, bus, handle, 99)
        assert result == 0
        return fields[3]

    def copy(self, source, dest, length=16, flags=layouts.GNTCOPY_source_gref, dom=MAPPER):
        """source, dest: (reference or gfn, domid, offset). Returns the status."""
        result, fields = self.one(dom, 5, layouts.COPY, *source, *dest, length, flags, 99)
        assert result == 0
        return fields[-1]

    def active(self, ref, granter=GRANTER):
        return project_grants(self.machine)["active"].get((granter, ref))


def test_grant_call__answers_in_register_0():
    assert Board().call(MAPPER, layouts.GNTTABOP_query_size, ARGS) == 0
