"""What a guest itself does to memory: it loads and stores, at any moment, wherever its stage 2 lets it.

A grant entry is memory of its granter, so these steps may come between any two others.  An access that
the hardware finds no valid entry for is a fault; what becomes of it is ``faults.translation_fault``.

Source: Arm Architecture Reference Manual, DDI 0487, D5 (stage-2 translation and permission faults);
xen/arch/arm/traps.c (do_trap_stage2_abort_guest), Xen 4.17.
"""

from __future__ import annotations

from spec.domain.privilege import is_alive
from spec.language import (
    DomId,
    Gfn,
    Index,
    Outcome,
    VcpuId,
    Word,
    accept,
    legal,
    one_of,
    put,
    refuse,
    stuck,
    transition,
    volatile,
)
from spec.memory.faults import TRANSLATION, reaches
from spec.memory.p2m import DEVICE, is_readable, is_writable
from spec.state import State


@transition(actor="domain")
def guest_store(s: State, domain: DomId, vcpu: VcpuId, gfn: Gfn, index: Index, value: Word) -> Outcome[State]:
    """A guest stores eight bytes.

    gfn: guest frame.  index: which eight bytes of it [0..511].
    A store where only loads are permitted (a read-only grant, say) is repeated for ever: Xen takes the fault for one
    that was dealt with and lets the guest go on at the same instruction.  A store to a device goes to the device.
    Errors: TRANSLATION where the hardware finds no valid entry.
    Source: xen/arch/arm/traps.c (do_trap_stage2_abort_guest), Xen 4.17.
    """
    legal(is_alive(s, domain), "a domain that is not alive does not run")
    row = s.p2m[domain, gfn]
    if not reaches(row):
        return refuse(s, -TRANSLATION)
    if not is_writable(row):
        return stuck(s, vcpu)
    if one_of(row.type, *DEVICE):
        return accept(s)
    return accept(put(s, "word", (row.mfn, index), raw=value))


@transition(actor="domain")
def guest_load(s: State, domain: DomId, gfn: Gfn, index: Index) -> Outcome[State]:
    """A guest loads eight bytes: ``value`` of the answer, none from a device.

    gfn, index: as for ``guest_store``.
    Errors: TRANSLATION where the hardware finds no valid entry.
    Source: xen/arch/arm/traps.c (do_trap_stage2_abort_guest), Xen 4.17.
    """
    legal(is_alive(s, domain), "a domain that is not alive does not run")
    row = s.p2m[domain, gfn]
    if not reaches(row) or not is_readable(row):
        return refuse(s, -TRANSLATION)
    if one_of(row.type, *DEVICE):
        return accept(s)
    return accept(s, value=volatile(s.word[row.mfn, index].raw))
