"""Arguments in guest memory: reading and writing words for a caller, page by page.

Every page is looked up when it is reached.  A call that meets a page that it may not access ends with EFAULT;
what was read or written before stays read or written.

Source: xen/arch/arm/guestcopy.c (copy_guest, translate_get_page), xen/arch/arm/p2m.c (get_page_from_gva), Xen 4.17.
"""

from __future__ import annotations

from spec.domain.privilege import is_alive
from spec.errors import EFAULT
from spec.language import (
    Boolean,
    DomId,
    Gfn,
    Index,
    Outcome,
    Word,
    accept,
    both,
    either,
    implies,
    ite,
    legal,
    neg,
    one_of,
    put,
    refuse,
    transition,
    two_state,
    volatile,
)
from spec.memory import frames, p2m
from spec.state import P2mType, State, Status, Use


def is_own_writable(s: State, domain: DomId, gfn: Gfn) -> Boolean:
    """The domain itself may write here."""
    return p2m.is_writable(s.p2m[domain, gfn])


def may_access(s: State, caller: DomId, gfn: Gfn, writing: Boolean) -> Boolean:
    """Xen may access the page for the caller: it is the caller's own, and mapped with the right that is needed.

    The hardware is asked first; where its valid bit is clear, Xen looks at its own tables, which know RAM alone.
    Source: xen/arch/arm/p2m.c (get_page_from_gva), Xen 4.17.
    """
    row = s.p2m[caller, gfn]
    by_hardware = both(row.hardware, ite(writing, p2m.is_writable(row), p2m.is_readable(row)))
    by_software = ite(writing, row.type == P2mType.RAM_RW, one_of(row.type, *p2m.RAM))
    return both(
        either(by_hardware, by_software),
        s.frame[row.mfn].owner == caller,
        frames.can_get_page(s, row.mfn),
    )


def _noted(s: State, caller: DomId, gfn: Gfn, index: Index, *, wrote: bool) -> State:
    """For the proof: which page was accessed."""
    return put(
        s, "argument", caller,
        moment=s.argument[caller].moment + 1, wrote=wrote, gfn=gfn, mfn=s.p2m[caller, gfn].mfn, index=index,
    )


@transition()
def copy_from_guest_word(s: State, caller: DomId, gfn: Gfn, index: Index) -> Outcome[State]:
    """Read one word of the caller's arguments.

    gfn, index: where.  Stage 1 is the identity.
    Errors: EFAULT if the page is not the caller's own, or not mapped.
    Source: xen/arch/arm/guestcopy.c (raw_copy_from_guest), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    if not may_access(s, caller, gfn, False):
        return refuse(s, -EFAULT)
    value = volatile(s.word[s.p2m[caller, gfn].mfn, index].raw)
    return accept(_noted(s, caller, gfn, index, wrote=False), value=value)


@transition()
def copy_to_guest_word(s: State, caller: DomId, gfn: Gfn, index: Index, value: Word) -> Outcome[State]:
    """Write one word of a result to the caller's memory.

    gfn, index: where.  Stage 1 is the identity.
    Errors: EFAULT if the page is not the caller's own, or not mapped for writing.
    Source: xen/arch/arm/guestcopy.c (raw_copy_to_guest), Xen 4.17.
    """
    legal(is_alive(s, caller), "a domain that is not alive makes no hypercall")
    if not may_access(s, caller, gfn, True):
        return refuse(s, -EFAULT)
    mfn = s.p2m[caller, gfn].mfn
    s = _noted(s, caller, gfn, index, wrote=True)
    return accept(put(s, "word", (mfn, index), raw=value))


# ---- what nobody can break


@two_state("TWO-COPY-ARGUMENTS", over="argument", fulfils="SR-MEM-13")
def arguments_are_the_callers_own(old: State, new: State, actor: DomId, domain: DomId) -> bool:
    """For a caller Xen accesses only pages that the caller owns and has mapped, and writes only what it may write."""
    before, after = old.argument[domain], new.argument[domain]
    row = old.p2m[domain, after.gfn]
    frame = old.frame[after.mfn]
    return implies(
        neg(before.moment == after.moment),
        both(
            actor == domain,
            old.domain[domain].status == Status.ALIVE,
            row.mfn == after.mfn,
            p2m.is_readable(row),
            frame.owner == domain,
            one_of(frame.use, Use.DOMAIN, Use.SHARED),
            implies(after.wrote, is_own_writable(old, domain, after.gfn)),
        ),
    )
