"""Faults that are planted into images of healthy machines, each with all that an audit must say of it.

A fault damages a `Patient`; what it must be found as are pairs of a kind of finding and a VM ("" for none).
"""

from __future__ import annotations

from collections.abc import Callable

from impl.fast.geometry import LAST_LEVEL
from impl.fast.walks import ACCESSED, ADDRESS, NO_EXECUTE, TABLE, TYPE, TYPE_SHIFT, VALID, WRITE
from spec.language import Mfn, encode
from spec.memory.descriptors import Access, leaf
from spec.state import P2mType
from tests.bulkhead.auditor.machines import Patient

Fault = tuple[Callable[[Patient], None], set[tuple[str, str]]]
FAULTS: dict[str, Fault] = {}
DOM0, DOM1, DOM2 = 0, 1, 2


def fault(*expected: tuple[str, str]) -> Callable[[Callable[[Patient], None]], Callable[[Patient], None]]:
    """Register a fault under its name, with what is expected."""

    def register(plant: Callable[[Patient], None]) -> Callable[[Patient], None]:
        FAULTS[plant.__name__] = plant, set(expected)
        return plant

    return register


def word(frame: int, kind: int, level: int = LAST_LEVEL) -> int:
    """What Xen writes for a mapping."""
    return int(encode(leaf(Mfn(frame), kind, Access.RWX, level)))


# ---- frames of others


@fault(("unexplained", "dom2"))
def a_frame_of_another_domain(patient: Patient) -> None:
    patient.store(patient.spot(DOM2).place, word(patient.spot(DOM1).frame, P2mType.RAM_RW))


@fault(("unexplained", "dom2"))
def a_frame_of_another_domain_that_only_xen_holds_to_be_mapped(patient: Patient) -> None:
    patient.store(patient.spot(DOM2).place, word(patient.spot(DOM1).frame, P2mType.RAM_RW) & ~VALID)


@fault(("unexplained", "dom2"))
def a_frame_of_another_domain_that_is_read_only(patient: Patient) -> None:
    patient.store(patient.spot(DOM2).place, word(patient.owned(DOM0), P2mType.RAM_RO))


@fault(("unexplained", "dom1"))
def a_frame_that_went_to_another_domain(patient: Patient) -> None:
    layout = patient.xen.layout
    record = patient.record(patient.spot(DOM1).frame)
    patient.store(record + layout.page_owner * layout.word, patient.domain(2).address, layout.word)


@fault(("foreign-unprivileged", "dom2"))
def a_foreign_frame_mapped_without_privilege(patient: Patient) -> None:
    patient.store(patient.spot(DOM2).place, word(patient.spot(DOM1).frame, P2mType.MAP_FOREIGN_RW))


@fault(("excess-rights", "dom0"))
def a_foreign_frame_that_may_be_executed(patient: Patient) -> None:
    spot = patient.spot(DOM0, kind=P2mType.MAP_FOREIGN_RW)
    patient.store(spot.place, spot.word & ~NO_EXECUTE)


@fault(("freed-frame", "dom2"))
def a_stale_mapping_of_a_freed_frame(patient: Patient) -> None:
    patient.store(patient.spot(DOM2).place, word(patient.free(), P2mType.RAM_RW))


@fault(("freed-frame", "dom0"))
def a_stale_grant_mapping_of_a_freed_frame(patient: Patient) -> None:
    patient.store(patient.spot(DOM0, kind=P2mType.GRANT_MAP_RW).place, word(patient.free(), P2mType.GRANT_MAP_RW))


# ---- Xen's memory


@fault(("xen-memory", "dom1"))
def a_page_of_xens_code(patient: Patient) -> None:
    patient.store(patient.spot(DOM1).place, word(patient.xen.address >> 12, P2mType.RAM_RW))


@fault(("xen-memory", "dom0"))
def a_page_of_the_frame_table_though_the_domain_is_privileged(patient: Patient) -> None:
    spot = patient.spot(DOM0, kind=P2mType.MAP_FOREIGN_RW)
    patient.store(spot.place, word(patient.record(patient.free()) >> 12, P2mType.MAP_FOREIGN_RW))


@fault(("xen-memory", "dom2"))
def another_domains_struct(patient: Patient) -> None:
    patient.store(patient.spot(DOM2).place, word(patient.machine(patient.domain(1).address) >> 12, P2mType.RAM_RO))


@fault(("table-page", "dom2"))
def a_table_page_of_another_domain(patient: Patient) -> None:
    patient.store(patient.spot(DOM2).place, word(patient.table(DOM1, 3) >> 12, P2mType.RAM_RW))


@fault(("table-page", "dom1"))
def its_own_first_table(patient: Patient) -> None:
    patient.store(patient.spot(DOM1).place, word(patient.vms[DOM1].root >> 12, P2mType.RAM_RW))


@fault(("table-page", "dom2"))
def a_table_page_mapped_as_granted(patient: Patient) -> None:
    spot = patient.spot(DOM2, kind=P2mType.GRANT_MAP_RW)
    patient.store(spot.place, word(patient.table(DOM1, 3) >> 12, P2mType.GRANT_MAP_RW))


@fault(("table-owned", ""))
def a_table_page_that_is_free(patient: Patient) -> None:
    layout = patient.xen.layout
    record = patient.record(patient.table(DOM1, 3) >> 12)
    patient.store(record + layout.page_count * layout.word, 3 << (8 * layout.word - 9), layout.word)


@fault(("xen-device", "dom1"))
def a_device_that_xen_drives(patient: Patient) -> None:
    patient.store(patient.spot(DOM1).place, word(int(patient.xen.devices[0]), P2mType.MMIO_DIRECT_DEV))


# ---- grants


@fault(("excess-rights", "dom0"))
def a_read_only_grant_made_writable(patient: Patient) -> None:
    spot = patient.spot(DOM0, kind=P2mType.GRANT_MAP_RO)
    patient.store(spot.place, spot.word | WRITE)


@fault(("grant-rights", "dom0"))
def a_read_only_grant_mapped_as_a_writable_one(patient: Patient) -> None:
    spot = patient.spot(DOM0, kind=P2mType.GRANT_MAP_RO)
    patient.store(spot.place, word(spot.frame, P2mType.GRANT_MAP_RW))


@fault(("excess-rights", "dom2"))
def a_granted_page_that_may_be_executed(patient: Patient) -> None:
    spot = patient.spot(DOM2, kind=P2mType.GRANT_MAP_RW)
    patient.store(spot.place, spot.word & ~NO_EXECUTE)


@fault(("grant-missing", "dom0"))
def a_grant_that_was_given_back(patient: Patient) -> None:
    patient.store(patient.active(40), 0, 4)


@fault(("grant-missing", "dom2"))
def a_grant_that_is_another_domains(patient: Patient) -> None:
    spot = patient.spot(DOM2, kind=P2mType.GRANT_MAP_RW)
    ref = next(each.ref for each in patient.xen.active if each.frame == spot.frame)
    patient.store(patient.active(ref) + 4, 0, 2)


@fault(("grant-missing", "dom2"))
def a_page_beside_the_granted_one(patient: Patient) -> None:
    spot = patient.spot(DOM2, kind=P2mType.GRANT_MAP_RW)
    patient.store(spot.place, word(spot.frame + 4, P2mType.GRANT_MAP_RW))


@fault(("unexplained", "dom2"))
def a_granted_page_mapped_as_its_own(patient: Patient) -> None:
    spot = patient.spot(DOM2, kind=P2mType.GRANT_MAP_RW)
    patient.store(spot.place, word(spot.frame, P2mType.RAM_RW))


# ---- attributes and types


@fault(("memory-type", "dom1"))
def memory_that_is_not_cacheable(patient: Patient) -> None:
    spot = patient.spot(DOM1)
    patient.store(spot.place, spot.word & ~(0xF << 2) | 5 << 2)


@fault(("memory-type", "dom2"))
def a_reserved_memory_type(patient: Patient) -> None:
    spot = patient.spot(DOM2)
    patient.store(spot.place, spot.word & ~(0xF << 2) | 4 << 2)


@fault(("memory-type", "dom1"))
def memory_that_is_not_shareable(patient: Patient) -> None:
    spot = patient.spot(DOM1)
    patient.store(spot.place, spot.word & ~(3 << 8))


@fault(("device-ram", "dom1"))
def memory_mapped_as_a_device(patient: Patient) -> None:
    spot = patient.spot(DOM1)
    patient.store(spot.place, word(spot.frame, P2mType.MMIO_DIRECT_DEV))


@fault(("not-ram", "dom1"))
def a_device_mapped_as_memory(patient: Patient) -> None:
    patient.store(patient.spot(DOM1).place, word(0x9000, P2mType.RAM_RW))


@fault(("excess-rights", "dom1"))
def read_only_memory_that_is_writable(patient: Patient) -> None:
    patient.store(patient.spot(DOM1).place, word(patient.spot(DOM1).frame, P2mType.RAM_RO) | WRITE)


@fault(("excess-rights", "dom1"))
def a_device_that_may_be_executed(patient: Patient) -> None:
    patient.store(patient.spot(DOM1).place, word(0xA000, P2mType.MMIO_DIRECT_DEV) & ~NO_EXECUTE)


# ---- descriptors


@fault(("descriptor", "dom1"))
def a_type_that_xen_does_not_have(patient: Patient) -> None:
    spot = patient.spot(DOM1)
    patient.store(spot.place, spot.word & ~TYPE | 13 << TYPE_SHIFT)


@fault(("descriptor", "dom1"))
def a_page_without_a_type(patient: Patient) -> None:
    spot = patient.spot(DOM1)
    patient.store(spot.place, (spot.word | VALID) & ~TYPE)


@fault(("descriptor", "dom1"))
def a_bit_that_xen_leaves_clear(patient: Patient) -> None:
    spot = patient.spot(DOM1)
    patient.store(spot.place, spot.word | 1 << 60)


@fault(("descriptor", "dom1"))
def the_contiguous_hint(patient: Patient) -> None:
    spot = patient.spot(DOM1)
    patient.store(spot.place, spot.word | 1 << 52)


@fault(("descriptor", "dom1"))
def no_access_flag(patient: Patient) -> None:
    spot = patient.spot(DOM1)
    patient.store(spot.place, spot.word & ~ACCESSED)


@fault(("descriptor", "dom1"))
def a_reserved_form(patient: Patient) -> None:
    spot = patient.spot(DOM1)
    patient.store(spot.place, spot.word & ~TABLE)


@fault(("descriptor", "dom1"))
def a_block_that_is_not_aligned(patient: Patient) -> None:
    spot = patient.spot(DOM1, level=2)
    patient.store(spot.place, spot.word | 1 << 14)


@fault(("descriptor", "dom1"))
def an_address_that_is_too_large(patient: Patient) -> None:
    spot = patient.spot(DOM1)
    patient.store(spot.place, spot.word | 1 << 45)


@fault(("descriptor", "dom1"))
def a_table_outside_of_memory(patient: Patient) -> None:
    link = patient.link(DOM1)
    patient.store(link.place, link.word & ~ADDRESS | 0x9000000)


@fault(("descriptor", "dom1"))
def a_table_with_a_bit_that_xen_leaves_clear(patient: Patient) -> None:
    link = patient.link(DOM1)
    patient.store(link.place, link.word | 1 << 61)


@fault(("descriptor", "dom1"))
def a_table_that_only_the_hardware_follows(patient: Patient) -> None:
    link = patient.link(DOM1)
    patient.store(link.place, (link.word | VALID) & ~TYPE)


@fault(("table-shared", "dom2"), ("unexplained", "dom2"))
def a_table_of_another_domain_linked(patient: Patient) -> None:
    patient.store(patient.link(DOM2).place, patient.link(DOM1).word)


@fault(("table-shared", "dom1"))
def a_table_linked_twice(patient: Patient) -> None:
    link = patient.link(DOM1)
    # the last entry of a table of level 2 is empty
    patient.store(link.place - link.place % 4096 + 4088, link.word)


# ---- registers


@fault(("vmid", "dom2"))
def the_vmid_of_another_domain(patient: Patient) -> None:
    at = patient.machine(patient.domain(2).address + patient.xen.layout.vttbr)
    patient.store(at, patient.vms[DOM2].vttbr & ADDRESS | patient.vms[DOM1].vmid << 48)
