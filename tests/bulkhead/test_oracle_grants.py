"""grant_table_op on the specification and on the optimised implementation, side by side: no call may differ."""

from struct import pack, unpack_from

import pytest

from bulkhead.oracle import grants_abi as abi
from bulkhead.oracle.projection import Comparison
from bulkhead.oracle.state_of import oracle_of
from bulkhead.oracle.tables import Words
from impl.boards.ram import Bank, Ram
from impl.fast.machine import Config, DomainConfig, Machine
from impl.fast.projection import Projector
from spec.language import Mfn, put

DOM0, GRANTER, MAPPER, THIRD = 0, 1, 2, 3
RAM = 0x40000000
ARGUMENT = RAM
LIST = RAM + 0x2000
PAGE = 0x40010              # gfn of a page of each domU
HOST = 0x38000000           # a hole of every domU
SELF, NOBODY = 0x7FF0, 555
PERMIT, READONLY, TRANSITIVE, SUB_PAGE = 1, 5, 3, 0x101
BOTH = abi.SOURCE_IS_GRANT | abi.DESTINATION_IS_GRANT


class Pair:
    """dom0 and three domUs of 2 MB each, on both sides. Every call is compared; ``whole`` compares all."""

    def __init__(self, arch="arm64", version=1, mapper=None, megabytes=16, **options):
        if arch == "arm32":
            options.setdefault("xenheap_pages", 1024)
        domains = [DomainConfig(DOM0, 512, privileged=True, is_hardware=True, direct_map=True)]
        domains += [DomainConfig(each, 512, **((mapper or {}) if each == MAPPER else {}))
                    for each in (GRANTER, MAPPER, THIRD)]
        ram = Ram([Bank(RAM, megabytes << 20)])
        self.machine = Machine(ram, Config(arch=arch, grant_max_version=version, domains=domains, **options))
        self.arm32 = arch == "arm32"
        self.oracle = oracle_of(self.machine)
        self.comparison = Comparison(self.oracle, self.machine, Projector(self.machine))

    # ---- memory, as a guest that stores to its own

    def poke(self, mfn, offset, data):
        self.machine.memory.write(mfn, offset, data)
        self.oracle.poke(mfn, offset, data)

    def argument(self, dom):
        return min(self.machine.domains[DOM0].page_list) << 12 if dom == DOM0 else ARGUMENT

    def write(self, dom, address, data):
        while data:
            size = min(len(data), 4096 - address % 4096)
            self.poke(self.machine.domains[dom].p2m.find(address >> 12)[0], address % 4096, data[:size])
            address, data = address + size, data[size:]

    def read(self, dom, address, size):
        """What the specification has there."""
        mfn = self.machine.domains[dom].p2m.find(address >> 12)[0]
        words = self.oracle.state.word
        assert isinstance(words, Words)
        return bytes(words.page(mfn).words[address % 4096:address % 4096 + size])

    def offer(self, ref, to=MAPPER, gfn=PAGE, flags=PERMIT, granter=GRANTER, extra=0):
        """Write an entry, in the version of the table. extra: bits 63:32 of a version 2 header."""
        table = self.machine.domains[granter].grant_table
        if table.version == 1:
            self.poke(table.shared[ref // 512], 8 * (ref % 512), pack("<HHI", flags, to, gfn))
        else:
            self.poke(table.shared[ref // 256], 16 * (ref % 256), pack("<HHIQ", flags, to, extra, gfn))

    # ---- calls

    def hypercall(self, dom, number, *arguments, vcpu=0, preempt=None):
        """The observation, after a comparison."""
        registers = {12 if self.arm32 else 16: number, **dict(enumerate(arguments))}
        self.machine.preempt_after(preempt)
        seen = self.machine.hypercall(dom, vcpu, registers)
        self.oracle.preempt_after(preempt)
        expected = self.oracle.hypercall(dom, vcpu, registers, seen.choices)
        assert [str(each) for each in self.comparison.after(expected, seen)] == []
        return expected

    def array(self, dom, op, items, at=None, **options):
        """Make a call with an array of packed structs."""
        address = self.argument(dom) if at is None else at
        self.write(dom, address, b"".join(items))
        return self.hypercall(dom, 20, op, address, len(items), **options)

    def one(self, dom, op, layout, *fields, **options):
        """A call with one struct: its fields afterwards."""
        self.array(dom, op, [layout.pack(*fields)], **options)
        return layout.unpack(self.read(dom, self.argument(dom), layout.size))

    def map(self, ref, host=HOST, flags=2, granter=GRANTER, dom=MAPPER, **options):
        """(status, handle)."""
        return self.one(dom, abi.MAP_GRANT_REF, abi.MAP_ITEM, host, flags, ref, granter, 99, 77, 88, **options)[4:6]

    def unmap(self, handle, host=HOST, dom=MAPPER, op=abi.UNMAP_GRANT_REF, second=0):
        return self.one(dom, op, abi.UNMAP_ITEM, host, second, handle, 99)[3]

    def copy(self, source, destination, length=16, flags=abi.SOURCE_IS_GRANT, dom=MAPPER):
        """source, destination: (frame or reference, domid, offset)."""
        return self.one(dom, abi.COPY, abi.COPY_ITEM, *source, *destination, length, flags, 99)[8]

    def set_version(self, dom, version):
        return self.one(dom, abi.SET_VERSION, abi.NUMBER, version)[0]

    def setup(self, dom, frames, whose=SELF, where=LIST):
        return self.one(dom, abi.SETUP_TABLE, abi.SETUP, whose, frames, 99, where)[2]

    def add_to_physmap(self, dom, idx, gfn, space=1):
        self.write(dom, self.argument(dom), pack("<HHIQQ", SELF, 0, space, idx, gfn))
        return self.hypercall(dom, 12, 7, self.argument(dom)).registers[0]

    def destroy(self, dom):
        self.write(DOM0, self.argument(DOM0), pack("<IIHxxxxxx", 2, 0x15, dom) + bytes(128))
        return self.hypercall(DOM0, 36, self.argument(DOM0))

    def whole(self):
        return [str(each) for each in self.comparison.whole()]


KINDS = [("arm64", 1), ("arm64", 2), ("arm32", 1), ("arm32", 2)]


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]}-v{kind[1]}")
def pair(request):
    """A machine of each kind, the granter's table being of the greatest version that it may have."""
    made = Pair(*request.param)
    made.set_version(GRANTER, request.param[1])
    return made


@pytest.fixture
def second():
    """arm64, the granter's and the third domain's tables of version 2."""
    made = Pair(version=2)
    made.set_version(GRANTER, 2)
    made.set_version(THIRD, 2)
    return made


# ---- map and unmap


def test_map__agrees_and_is_taken_back(pair):
    pair.offer(9)
    status, handle = pair.map(9)
    assert status == 0
    assert pair.unmap(handle) == 0
    assert pair.whole() == []


@pytest.mark.parametrize(("status", "options"), [
    (-3, {"flags": 0}), (-1, {"flags": 1}), (-1, {"flags": 3}), (-1, {"flags": 0x10002}), (-2, {"granter": NOBODY}),
    (-2, {"granter": SELF}), (-1, {"ref": 12}), (-3, {"ref": 1 << 20}), (-9, {"ref": 10}), (-1, {"ref": 11}),
], ids=str)
def test_map__refuses_alike(pair, status, options):
    pair.offer(9)
    pair.offer(10, gfn=0x38000)
    pair.offer(11, flags=READONLY)
    assert pair.map(**{"ref": 9, **options}) == (status, 77)
    assert pair.whole() == []


def test_map__counts_pins_to_their_limit(pair):
    pair.offer(9)
    items = [abi.MAP_ITEM.pack(HOST + 4096 * each, 2, 9, GRANTER, 99, 77, 88) for each in range(130)]
    pair.array(MAPPER, abi.MAP_GRANT_REF, items, at=RAM + 0x3000)
    seen = [unpack_from("<h", pair.read(MAPPER, RAM + 0x3000 + 32 * each, 32), 18)[0] for each in (0, 127, 128, 129)]
    assert seen == [0, 0, -1, -1]
    assert pair.oracle.state.active_grant[GRANTER, 9].host_writers == 128
    assert pair.whole() == []


def test_map__finds_no_space_when_the_maptrack_is_full():
    pair = Pair(mapper={"max_maptrack_frames": 1, "vcpus": 2})
    for ref in range(8, 12):
        pair.offer(ref, gfn=PAGE + ref)
    items = [abi.MAP_ITEM.pack(HOST + 4096 * each, 2, 8 + each % 4, GRANTER, 99, 77, 88) for each in range(257)]
    pair.array(MAPPER, abi.MAP_GRANT_REF, items, at=RAM + 0x3000)
    assert unpack_from("<h", pair.read(MAPPER, RAM + 0x3000 + 32 * 256, 32), 18) == (-13,)
    assert ("map_grant_ref", "refused", -13) in pair.oracle.reached
    assert pair.whole() == []


def test_map__takes_pages_for_tables_until_the_pool_is_empty():
    pair = Pair(mapper={"p2m_pool_pages": 8})
    pair.offer(9)
    statuses = [pair.map(9, host=each << 30)[0] for each in range(2, 9)]
    assert 0 in statuses
    assert statuses[-1] == -1
    assert pair.oracle.state.domain[MAPPER].pool_free == 0
    assert pair.whole() == []


def test_map__is_preempted_and_goes_on(pair):
    pair.offer(9)
    items = [abi.MAP_ITEM.pack(HOST + 4096 * each, 2, 9, GRANTER, 99, 77, 88) for each in range(5)]
    seen = pair.array(MAPPER, abi.MAP_GRANT_REF, items, preempt=2)
    assert (seen.kind, seen.registers[:3]) == ("restart", [0, ARGUMENT + 64, 3])
    assert pair.hypercall(MAPPER, 20, *seen.registers[:3]).registers[0] == 0
    assert pair.whole() == []


def test_map__keeps_what_it_did_before_a_fault(pair):
    pair.offer(9)
    end = RAM + (512 << 12)
    pair.write(MAPPER, end - 32, abi.MAP_ITEM.pack(HOST, 2, 9, GRANTER, 99, 77, 88))
    seen = pair.hypercall(MAPPER, 20, abi.MAP_GRANT_REF, end - 32, 2)
    assert seen.registers[0] & 0xFFFFFFFF == (1 << 32) - 14
    assert pair.oracle.state.active_grant[GRANTER, 9].host_writers == 1


def test_unmap__in_batches_with_other_work_between_them(pair):
    pair.offer(9)
    handles = [pair.map(9, host=HOST + 4096 * each)[1] for each in range(40)]
    items = [abi.UNMAP_ITEM.pack(HOST + 4096 * each, 0, handle, 99) for each, handle in enumerate(handles)]
    seen = pair.array(MAPPER, abi.UNMAP_GRANT_REF, items, preempt=1)
    assert seen.registers[:3] == [1, ARGUMENT + 32 * 24, 8]
    pair.hypercall(MAPPER, 20, *seen.registers[:3])
    assert pair.oracle.state.active_grant[GRANTER, 9].host_writers == 0
    assert pair.whole() == []


@pytest.mark.parametrize(("status", "options"), [
    (-4, {"handle": 999}), (-4, {"handle": 1}), (0, {"host": 0}), (-1, {"host": PAGE << 12}),
    (0, {"host": HOST + 4096}), (-1, {"op": abi.UNMAP_AND_REPLACE, "second": 4096}), (0, {"op": abi.UNMAP_AND_REPLACE}),
], ids=str)
def test_unmap__answers_alike(pair, status, options):
    pair.offer(9)
    _, handle = pair.map(9)
    assert pair.unmap(**{"handle": handle, **options}) == status
    assert pair.whole() == []


# ---- copy


def test_copy__between_a_grant_and_a_frame(pair):
    pair.offer(9)
    pair.write(GRANTER, PAGE << 12, bytes(range(64)))
    assert pair.copy((9, GRANTER, 3), (PAGE + 1, SELF, 13), length=21) == 0
    assert pair.read(MAPPER, (PAGE + 1 << 12) + 13, 21) == bytes(range(3, 24))
    assert pair.copy((PAGE + 1, SELF, 0), (9, GRANTER, 4000), length=96, flags=abi.DESTINATION_IS_GRANT) == 0
    assert pair.whole() == []


@pytest.mark.parametrize(("status", "source", "destination", "length", "flags"), [
    (-8, (PAGE, GRANTER, 0), (PAGE, SELF, 0), 16, 0), (-2, (9, NOBODY, 0), (PAGE, SELF, 0), 16, 1),
    (-3, (1 << 20, GRANTER, 0), (PAGE, SELF, 0), 16, 1), (-9, (9, GRANTER, 0), (0x38000, SELF, 0), 16, 1),
    (-10, (9, GRANTER, 4090), (PAGE, SELF, 0), 16, 1), (-1, (10, GRANTER, 0), (PAGE, SELF, 0), 16, 1),
    (-1, (PAGE, SELF, 0), (11, GRANTER, 0), 16, 2), (0, (9, GRANTER, 0), (9, GRANTER, 64), 0, BOTH),
], ids=str)
def test_copy__answers_alike(pair, status, source, destination, length, flags):
    pair.offer(9)
    pair.offer(11, flags=READONLY)
    assert pair.copy(source, destination, length, flags) == status
    assert pair.whole() == []


def test_copy__keeps_a_claim_from_item_to_item(pair):
    pair.offer(9)
    item = abi.COPY_ITEM.pack(9, GRANTER, 0, PAGE, SELF, 0, 16, 1, 99)
    bad = abi.COPY_ITEM.pack(10, GRANTER, 0, PAGE, SELF, 0, 16, 1, 99)
    pair.array(MAPPER, abi.COPY, [item, item, bad, item])
    claims = [step for step in pair.oracle.trail if step[0] == "copy_claim_grant"]
    assert [code for _, _, code in claims] == [0, -1, 0]
    assert pair.whole() == []


def test_copy__respects_the_window_of_a_sub_page(second):
    second.offer(9, flags=SUB_PAGE, extra=64 | 32 << 16)
    assert [second.copy((9, GRANTER, at), (PAGE, SELF, 0)) for at in (63, 64, 80, 81)] == [-1, 0, 0, -1]
    assert second.map(9)[0] == -1
    assert second.whole() == []


def test_copy__goes_through_one_transitive_grant(second):
    second.write(THIRD, PAGE << 12, b"behind the grant")
    second.offer(8, to=GRANTER, granter=THIRD)
    second.offer(9, gfn=8, flags=TRANSITIVE, extra=THIRD)
    assert second.copy((9, GRANTER, 0), (PAGE, SELF, 0)) == 0
    assert second.read(MAPPER, PAGE << 12, 16) == b"behind the grant"
    second.offer(8, to=GRANTER, granter=THIRD, flags=TRANSITIVE, extra=DOM0)
    assert second.copy((9, GRANTER, 0), (PAGE, SELF, 0)) == -1
    second.offer(9, gfn=8, flags=TRANSITIVE, extra=GRANTER)
    assert second.copy((9, GRANTER, 0), (PAGE, SELF, 0)) == -1
    assert second.whole() == []


# ---- the table


def test_table__grows_as_far_as_it_may(pair):
    assert pair.setup(GRANTER, 9) == 0
    assert pair.setup(GRANTER, 1 << 20) == -1
    assert pair.setup(GRANTER, 1, whose=MAPPER) == -8
    assert pair.setup(DOM0, 2, whose=MAPPER, where=pair.argument(DOM0) + 0x1000) == 0
    assert pair.setup(GRANTER, 9, where=HOST) == -5
    assert pair.one(GRANTER, abi.QUERY_SIZE, abi.QUERY, SELF, b"ab", 0, 0, 99, b"cd")[1:3] == (b"ab", 9)
    assert pair.whole() == []


def test_table__does_not_grow_without_memory():
    pair = Pair(megabytes=9, opt_max_grant_frames=64)
    statuses = [pair.setup(dom, 64, where=pair.argument(dom) + 0x1000) for dom in (GRANTER, MAPPER, THIRD)]
    assert statuses[-1] == -1
    assert pair.whole() == []


def test_table__tells_where_its_frames_are(second):
    assert second.add_to_physmap(GRANTER, 0, 0x38100) == 0
    assert second.setup(GRANTER, 2) == 0
    assert unpack_from("<QQ", second.read(GRANTER, LIST, 16)) == (0x38100, (1 << 64) - 1)
    assert second.add_to_physmap(GRANTER, 1 << 31, 0x38101) == 0
    assert second.one(GRANTER, abi.GET_STATUS_FRAMES, abi.STATUS_LIST, 1, SELF, 99, LIST)[2] == 0
    assert unpack_from("<Q", second.read(GRANTER, LIST, 8)) == (0x38101,)
    assert second.one(GRANTER, abi.GET_STATUS_FRAMES, abi.STATUS_LIST, 2, SELF, 99, LIST)[2] == -1
    assert second.whole() == []


def test_version__there_and_back(second):
    second.offer(3, flags=READONLY)
    second.offer(4, flags=2)
    _, handle = second.map(3, flags=6)
    assert second.add_to_physmap(GRANTER, 1 << 31, 0x38101) == 0
    assert second.set_version(GRANTER, 1) == 1
    assert second.unmap(handle) == 0
    assert second.set_version(GRANTER, 2) == 2
    assert second.whole() == []


def test_version__refuses_alike(second):
    assert second.set_version(GRANTER, 3) == 2
    second.offer(9)
    second.map(9)
    assert second.set_version(GRANTER, 1) == 2
    assert ("set_version", "refused", -16) in second.oracle.reached
    second.offer(2, to=THIRD, flags=TRANSITIVE, granter=THIRD)
    assert second.set_version(THIRD, 1) == 2
    assert ("set_version", "refused", -34) in second.oracle.reached
    assert second.whole() == []


def test_version__crashes_whose_status_frame_is_held(second):
    second.offer(3, to=GRANTER, gfn=0x38101)
    assert second.add_to_physmap(GRANTER, 1 << 31, 0x38101) == 0
    assert second.map(3, dom=GRANTER, host=HOST)[0] == 0
    second.write(GRANTER, ARGUMENT, abi.NUMBER.pack(1))
    assert second.hypercall(GRANTER, 20, abi.SET_VERSION, ARGUMENT, 1).kind == "crash"


@pytest.mark.parametrize(("arch", "line", "kind"), [
    ("arm64", 64, "panic"), ("arm64", 16, "value"), ("arm32", 64, "value")])
def test_flush__within_a_line_stops_the_hypervisor_on_arm64(arch, line, kind):
    pair = Pair(arch, cache_line=line)
    mfn = pair.machine.domains[GRANTER].p2m.find(ARGUMENT >> 12)[0]
    pair.write(GRANTER, ARGUMENT, abi.FLUSH_ITEM.pack(mfn << 12, 33, 15, 2))
    assert pair.hypercall(GRANTER, 20, 12, ARGUMENT, 1).kind == kind


def test_version__stops_the_hypervisor_on_arm32():
    pair = Pair("arm32", version=2)
    assert pair.set_version(GRANTER, 2) == 2
    pair.write(GRANTER, ARGUMENT, abi.NUMBER.pack(1))
    assert pair.hypercall(GRANTER, 20, abi.SET_VERSION, ARGUMENT, 1).kind == "panic"


def test_foreign__page_without_room_for_a_reference_is_not_found():
    """XSA-473: none is dropped that was not taken."""
    pair = Pair("arm32")
    base, foreign = pair.argument(DOM0), 0x200000
    pair.write(DOM0, base + 0x1000, pack("<Q", PAGE))
    pair.write(DOM0, base + 0x2000, pack("<Q", foreign))
    pair.write(DOM0, base, pack("<HHHHQQQ", SELF, 4, 1, THIRD, base + 0x1000, base + 0x2000, base + 0x3000))
    assert pair.hypercall(DOM0, 12, 23, base).registers[0] == 0
    pair.offer(9, gfn=foreign, granter=DOM0)
    frames, mfn = pair.machine.frames, pair.machine.domains[THIRD].p2m.find(PAGE)[0]
    frames.count_info[frames.index(mfn)] |= frames.COUNT
    pair.oracle.state = put(pair.oracle.state, "frame", Mfn(mfn), references=frames.COUNT)
    assert pair.map(9, granter=DOM0)[0] == -9
    assert pair.copy((9, DOM0, 0), (PAGE, SELF, 0)) == -9
    assert pair.copy((foreign, SELF, 0), (PAGE, SELF, 0), flags=0, dom=DOM0) == -9
    pair.write(DOM0, base, pack("<H6xQ", SELF, foreign))
    assert pair.hypercall(DOM0, 12, 15, base).registers[0] == (1 << 32) - 2
    assert frames.count(mfn) == frames.COUNT
    assert pair.whole() == []


def test_swap__exchanges_what_is_not_in_use(pair):
    pair.offer(9)
    pair.offer(10, gfn=PAGE + 1, flags=READONLY)
    swap = [pair.one(GRANTER, abi.SWAP_GRANT_REF, abi.SWAP_ITEM, *refs, 99)[2] for refs in ((9, 10), (9, 1 << 20))]
    pair.map(10)
    swap.append(pair.one(GRANTER, abi.SWAP_GRANT_REF, abi.SWAP_ITEM, 9, 10, 99)[2])
    assert swap == [0, -3, -12]
    assert pair.whole() == []


# ---- other calls


def test_cache_flush__looks_for_the_grant_in_chunks():
    pair = Pair(opt_max_grant_frames=64)
    pair.setup(GRANTER, 20)
    pair.offer(9 * 1024)
    pair.map(9 * 1024)
    address = pair.machine.domains[GRANTER].p2m.find(PAGE)[0] << 12
    item = abi.FLUSH_ITEM.pack(address, 0, 64, 3)
    seen = pair.array(MAPPER, abi.CACHE_FLUSH, [item], preempt=1)
    assert seen.registers[0] == abi.CACHE_FLUSH | 4096
    assert pair.hypercall(MAPPER, 20, *seen.registers[:3]).registers[0] == 0
    assert pair.array(THIRD, abi.CACHE_FLUSH, [item]).registers[0] == (1 << 64) - 22
    pair.write(MAPPER, ARGUMENT, abi.FLUSH_ITEM.pack(address, 0, 0, 3))
    assert pair.hypercall(MAPPER, 20, abi.CACHE_FLUSH | 4096, ARGUMENT, 1).registers[0] == (1 << 64) - 84


def test_call__refuses_what_arm_has_not(pair):
    for op in (abi.DUMP_TABLE, abi.TRANSFER, 13, 99, abi.MAP_GRANT_REF | 4096):
        assert pair.hypercall(MAPPER, 20, op, ARGUMENT, 1).registers[0] & 0x80000000


def test_call__treats_lengths_alike(pair):
    for op in range(14):
        for count in (0, 2, 1 << 31):
            pair.hypercall(GRANTER, 20, op, ARGUMENT, count)
    assert pair.whole() == []


def test_call__faults_alike_where_nothing_is_mapped(pair):
    for op in range(14):
        pair.hypercall(GRANTER, 20, op, HOST, 1)
    assert pair.whole() == []


def test_call__may_have_its_arguments_inside_a_grant_frame(second):
    assert second.add_to_physmap(GRANTER, 0, 0x38100) == 0
    second.offer(3, to=GRANTER)
    item = abi.MAP_ITEM.pack(HOST, 2, 3, GRANTER, 99, 77, 88)
    second.array(GRANTER, abi.MAP_GRANT_REF, [item], at=0x38100 << 12 | 0x40)
    second.array(GRANTER, abi.SET_VERSION, [abi.NUMBER.pack(1)], at=0x38100 << 12)
    assert second.whole() == []


# ---- the end of a domain


def test_end__of_a_mapper_gives_its_mappings_back(pair):
    pair.offer(9)
    for each in range(3):
        pair.map(9, host=HOST + 4096 * each)
    pair.destroy(MAPPER)
    assert pair.oracle.state.active_grant[GRANTER, 9].host_writers == 0
    assert pair.whole() == []


def test_end__of_a_granter_waits_for_its_mappers(pair):
    pair.offer(9)
    _, handle = pair.map(9)
    pair.destroy(GRANTER)
    assert pair.whole() == []
    assert pair.copy((9, GRANTER, 0), (PAGE, SELF, 0)) == -2
    assert pair.unmap(handle) == 0
    assert GRANTER not in pair.machine.domains
    assert pair.whole() == []


# ---- where the two are known to differ: what stands in Xen's source is what the implementation does

def test_difference__arm32_cuts_a_host_address_to_32_bits():
    """xen/arch/arm/mm.c (create_grant_host_mapping): the address is an unsigned long."""
    pair = Pair("arm32")
    pair.offer(9)
    assert pair.map(9, host=(1 << 32) + HOST)[0] == 0


def test_difference__arm32_cuts_a_new_address_to_32_bits():
    """xen/arch/arm/mm.c (replace_grant_host_mapping): the new address is an unsigned long."""
    pair = Pair("arm32")
    pair.offer(9)
    _, handle = pair.map(9)
    assert pair.unmap(handle, op=abi.UNMAP_AND_REPLACE, second=1 << 32) == 0


def test_difference__arm32_cuts_a_frame_number_to_32_bits():
    """xen/common/grant_table.c (get_paged_frame): the frame number is an unsigned long."""
    pair = Pair("arm32")
    assert pair.copy((PAGE + (1 << 32), SELF, 0), (PAGE + 1, SELF, 0), flags=0) == 0


def test_difference__arm32_cuts_the_frame_of_a_version_2_entry_to_32_bits():
    """xen/common/grant_table.c (map_grant_ref, acquire_grant_for_copy): the frame number is an unsigned long."""
    pair = Pair("arm32", version=2)
    pair.set_version(GRANTER, 2)
    pair.offer(9, gfn=PAGE + (1 << 32))
    assert pair.copy((9, GRANTER, 0), (PAGE, SELF, 0)) == 0
    assert pair.map(9)[0] == 0


def test_difference__arm32_cuts_the_frame_of_a_cache_flush_to_32_bits():
    """xen/common/grant_table.c (_cache_flush): maddr_to_mfn gives an unsigned long."""
    pair = Pair("arm32")
    address = pair.machine.domains[MAPPER].p2m.find(PAGE)[0] + (1 << 32) << 12
    assert pair.array(MAPPER, abi.CACHE_FLUSH, [abi.FLUSH_ITEM.pack(address, 0, 64, 1)]).registers[0] == 0


def test_difference__nothing_is_removed_beyond_the_root_table():
    """xen/arch/arm/p2m.c (__p2m_set_entry): EINVAL where the root table has no entry, for a removal too."""
    pair = Pair()
    pair.offer(9)
    _, handle = pair.map(9)
    assert pair.unmap(handle, host=1 << 60) == -1


def test_difference__a_block_is_not_split_without_a_page_for_the_table():
    """xen/arch/arm/p2m.c (__p2m_set_entry): ENOMEM, for a removal too."""
    pair = Pair(mapper={"p2m_pool_pages": 8})
    pair.offer(9, to=MAPPER, granter=MAPPER)
    assert pair.map(9, granter=MAPPER)[0] == 0
    handle = pair.map(9, granter=MAPPER)[1]
    for each in range(2, 9):
        pair.map(9, granter=MAPPER, host=each << 30)
    assert pair.oracle.state.domain[MAPPER].pool_free == 0
    assert pair.unmap(handle, host=PAGE << 12) == -1


def test_difference__a_failed_change_of_version_leaves_no_lock_behind(second):
    """xen/common/grant_table.c (gnttab_set_version): the lock is dropped at out_unlock, whatever went wrong."""
    second.offer(3, to=GRANTER, gfn=0x38101)
    second.add_to_physmap(GRANTER, 1 << 31, 0x38101)
    second.map(3, dom=GRANTER, host=HOST)
    second.write(GRANTER, ARGUMENT, abi.NUMBER.pack(1))
    assert second.hypercall(GRANTER, 20, abi.SET_VERSION, ARGUMENT, 1).kind == "crash"
    assert second.setup(DOM0, 2, whose=GRANTER, where=second.argument(DOM0) + 0x1000) == 0
    assert second.destroy(GRANTER).kind == "value"
