"""Flaws of Xen's past, put back: each must die by proof, its counterexample replayed.

The id is that of the advisory; a letter tells its flaws apart, a word after a dash the ways to put one back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from spec.language import Mfn, fill, put, span
from spec.state import Use
from tests.mutants.mutation import Mutant
from tests.spec.machine import DOM0, FREE, GRANTER, HOLE, machine

DEVICE = Mfn(0x8000)
"""The first frame of a device."""


@attrs.frozen
class Open:
    """A flaw that the model cannot express yet, and what is missing."""

    id: str
    missing: str


def _flaw(identifier: str, module: str, function: str, words: str, old: str, new: str,
          trial: Callable[[], tuple[Any, str, dict[str, Any]]] | None = None, **sizes: tuple[int, ...]) -> Mutant:
    source = identifier.rpartition("-")[0] if identifier.count("-") > 1 else identifier
    return Mutant(identifier, source, f"spec.{module}", function, words, old, new, sizes=tuple(sizes.items()), trial=trial)


def _large_block() -> tuple[Any, str, dict[str, Any]]:
    """An ordinary domain asks for 4 MB in one block; there is as much."""
    s = fill(machine(), "frame", span(FREE, 1 << 10), lambda _row, _mfn: {"use": Use.FREE})
    s = put(put(s, "heap", 0, free=1 << 10), "domain", GRANTER, max_pages=1 << 11)
    return s, "increase_extent", {"caller": GRANTER, "domain": GRANTER, "order": 10, "mfn": Mfn(FREE)}


def _long_range() -> tuple[Any, str, dict[str, Any]]:
    """The control domain maps a device of 65 pages into an ordinary domain; both may have it."""
    s = machine()
    for domain in (DOM0, GRANTER):
        s = fill(s, "iomem", (domain, span(DEVICE, 65)), lambda _row, _domain, _mfn: {"allowed": True})
    return s, "memory_mapping", {"caller": DOM0, "domain": GRANTER, "gfn": HOLE, "mfn": DEVICE, "pages": 65,
                                 "add": True, "done": 65}


HISTORICAL: list[Mutant] = [
    # ---- scrubbing and caches
    _flaw("XSA-100", "memory.heap", "unshare_page", "a frame of Xen's goes back to the heap without a mark to scrub it",
          "mapped=False, dirty=True,", "mapped=False, dirty=False,"),
    _flaw("XSA-364", "memory.frames", "assign_block", "a page is written back to memory before it is scrubbed",
          "_clean_to_ram(_scrub(s, mfn, pages), mfn, pages)", "_scrub(_clean_to_ram(s, mfn, pages), mfn, pages)"),
    _flaw("XSA-437", "memory.frames", "_clean_to_ram",
          "on arm32 nothing is written back of a block that ends at the top of a 32-bit address space",
          "span(mfn, pages)",
          "span(mfn, ite(both(s.settings[Index(0)].arm32, mfn + pages == 1 << 20), 0, pages))",
          Mfn=(0, 1, 2, (1 << 20) - 1)),
    # ---- grant tables
    _flaw("XSA-26a", "grant.version", "_withdraw", "a status frame that is taken back keeps the reference of its allocation",
          "use=Use.XEN, owner=NOBODY, allocated=False, references=0", "use=Use.XEN, owner=NOBODY"),
    _flaw("XSA-26b", "grant.table", "_setup_table",
          "a table that cannot grow further frees its last frame, which its domain knows already",
          "    if not memory_left:\n        return refuse(s, GNTST_GENERAL_ERROR)\n",
          "    if not memory_left:\n"
          "        last = row.grant_frames - 1\n"
          "        s = heap.unshare_page(s, s.grant_frame[subject, last].mfn)\n"
          "        s = put(s, 'grant_frame', (subject, last), present=False)\n"
          "        return restart(put(s, 'domain', subject, grant_frames=last))\n"),
    _flaw("XSA-255a", "grant.version", "_withdraw", "a status frame is taken back although it is mapped",
          'legal(neg(frame.mapped), "it was unmapped where it is on record")', "pass"),
    _flaw("XSA-255a-references", "grant.version", "_withdraw",
          "a status frame is taken back although somebody has a reference on it", "if left > 0:", "if False:"),
    _flaw("XSA-255a-twice", "memory.physmap", "map_shared_page", "a frame of Xen's is mapped at a second place",
          "if s.frame[mfn].mapped:", "if False:"),
    _flaw("XSA-255b", "memory.physmap", "_grant_table",
          "where a status frame is mapped goes on record for the frame of entries with the same number",
          '    return map_shared_page(s, domain, gfn, found.output["mfn"], tables_left)',
          '    mfn, other = found.output["mfn"], s.grant_frame[domain, idx % (1 << 31)].mfn\n'
          "    mapped = map_shared_page(s, domain, gfn, mfn, tables_left)\n"
          "    if mapped.code != 0:\n"
          "        return mapped\n"
          '    return accept(put(put(mapped.state, "frame", mfn, mapped=False), "frame", other, mapped=True, gfn=gfn))'),
    # ---- grant mappings
    _flaw("XSA-224a", "grant.unmap", "_phase1", "an unmap that names no address drops what the mapping holds all the same",
          "    if host_addr == 0:\n        return accept(s)\n",
          "    if host_addr == 0:\n"
          '        return accept(put(s, "release", (caller, slot), held=True, readonly=row.readonly, granter=row.granter,\n'
          "                          ref=row.ref, mfn=s.active_grant[row.granter, row.ref].mfn))\n"),
    _flaw("XSA-224b", "grant.map", "_recorded", "a page is mapped although the handle says nothing of it",
          "host=True, device=False", "host=False, device=False"),
    _flaw("XSA-224c", "grant.map", "_enter", "a writable mapping takes no reference on its page",
          "p2m.insert_page(frames.get_page(s, mfn), wish", "p2m.insert_page(frames.get_page(s, mfn) if wish.readonly else s, wish"),
    _flaw("XSA-224d", "grant.unmap", "_take_out", "the second phase of an unmap runs although the first one failed",
          "    if removed.kind != Kind.DONE:\n        return refuse(s, GNTST_GENERAL_ERROR)\n",
          "    if removed.kind != Kind.DONE:\n"
          '        return accept(put(s, "release", (caller, slot), held=True, readonly=row.readonly, granter=row.granter,\n'
          "                          ref=row.ref, mfn=mfn))\n"),
    # ---- copies
    _flaw("XSA-50", "grant.copy", "_acquire_unused", "the user of a grant is put on record as the domain behind it",
          "trans_domid=granter", "trans_domid=user"),
    _flaw("XSA-226a", "grant.copy", "copy_claim_transitive",
          "of a transitive grant in use the grant behind is not claimed, but released in the end",
          '    return accept(put(\n        asked.state, "copy_side", (caller, vcpu, side),\n',
          "    if is_pinned(active):\n"
          "        return accept(put(\n"
          "            add_pin(frames.get_page(asked.state, active.mfn), granter, ref, readonly),\n"
          '            "copy_side", (caller, vcpu, side), granted=True, holding=True, claimed=True, ref=ref,\n'
          "            page=active.mfn, mfn=active.mfn, start=active.start, length=active.length,\n"
          "        ))\n"
          '    return accept(put(\n        asked.state, "copy_side", (caller, vcpu, side),\n'),
    _flaw("XSA-226a-contents", "grant.copy", "copy_finish_transitive",
          "of a transitive grant only the pins are looked at again, not what it means",
          "if used and not _means_the_same(s, caller, row):", "if False:"),
    _flaw("XSA-500", "grant.copy", "_acquire_to_write",
          "a grant in use is copied to although its entry names another page by now, on which the reference is taken",
          "    if repaired and mixed:\n"
          "        return partial(reduce_status(marked.state, granter, ref, False), GNTST_GENERAL_ERROR)\n"
          '    after = record_consent(marked.state, granter, ref, marked.output["entry"], False, Gfn(0), sub_page=sub_page)\n'
          '    after = happens(add_pin(frames.get_page(after, page), granter, ref, False), "dev11", mixed)\n',
          '    after = record_consent(marked.state, granter, ref, marked.output["entry"], False, Gfn(0), sub_page=sub_page)\n'
          "    after = add_pin(frames.get_page(after, page), granter, ref, False)\n"
          "    if not repaired:\n"
          '        after = happens(after, "dev11", mixed)\n'),
    # ---- getting memory
    _flaw("XSA-284", "memory.frames", "assign_block", "a new page has no reference for its allocation",
          '"allocated": True, "references": 1', '"allocated": False, "references": 0'),
    _flaw("XSA-284-frame", "memory.reservation", "populate_extent", "another frame is mapped than the one that was allocated",
          "p2m.insert_range(s, domain, gfn, mfn, pages,", "p2m.insert_range(s, domain, gfn, Mfn(mfn + 1), pages,"),
    _flaw("XSA-31", "memory.reservation", "increase_extent", "a domain may ask for a block of any size",
          "if order > largest_order(s, caller):", "if False:", _large_block),
    _flaw("XSA-158", "memory.reservation", "largest_order", "every domain may ask for blocks as large as a control domain",
          "return ite(row.control, LARGEST_ORDER,", "return ite(row.status == Status.ALIVE, LARGEST_ORDER,", _large_block),
    _flaw("XSA-383", "memory.frames", "may_have", "a domain whose limit was never set has none",
          "row.tot_pages + pages <= row.max_pages", "either(row.max_pages == 0, row.tot_pages + pages <= row.max_pages)"),
    _flaw("XSA-383-boot", "boot", "allotment", "a domain that Xen starts itself has no limit",
          "plan.memory * PAGE // 1024", "(1 << 64) - 1"),
    _flaw("XSA-385", "memory.frames", "may_have",
          "the sum that is compared with the limit wraps (at 2 pages here, so that a small state shows it)",
          "row.tot_pages + pages <= row.max_pages", "(row.tot_pages + pages) % 2 <= row.max_pages", Mfn=(0, 1, 2, 3, 4)),
    # ---- giving it back
    _flaw("XSA-222a", "memory.reservation", "_decrease", "a page is freed although its mapping could not be removed",
          "    return accept(frames.put_page(frames.drop_allocation(after, mfn), mfn))",
          '    after = frames.put(after, "p2m", (domain, gfn), type=row.type, hardware=row.hardware, handle=row.handle)\n'
          "    return accept(frames.put_page(frames.drop_allocation(after, mfn), mfn))"),
    _flaw("XSA-222b", "memory.p2m", "remove_page", "a removal that has failed is reported as done",
          'after = put(s, "p2m", (domain, gfn), type=P2mType.INVALID, hardware=False, handle=0, stale=False)', "after = s"),
    _flaw("XSA-247", "memory.p2m", "remove_page", "what an entry holds is let go although the entry could not be cleared",
          "return accept(_let_go(flush_tlb(after, domain), row))", "return accept(_let_go(flush_tlb(s, domain), row))"),
    _flaw("XSA-252", "memory.frames", "drop_allocation", "a reference is dropped that the caller does not have",
          "if not s.frame[mfn].allocated:", "if False:"),
    # ---- stage 2
    _flaw("XSA-22", "memory.physmap", "map_shared_page", "where a frame is mapped goes on record although mapping it has failed",
          "        return refuse(s, entered.code)\n",
          '        return accept(put(s, "frame", mfn, mapped=True, gfn=gfn), entered.code)\n'),
    _flaw("XSA-473", "memory.physmap", "remove_from_physmap",
          "of a foreign page without room for a reference none is taken, and one is dropped all the same",
          "    if not frames.can_get_page(s, row.mfn):\n"
          "        return refuse(s, -ENOENT)\n"
          "    removed = p2m.remove_page(frames.get_page(s, row.mfn), domain, place, row.mfn, tables_left)\n",
          "    taken = frames.can_get_page(s, row.mfn)\n"
          "    if not taken and not one_of(row.type, *p2m.FOREIGN):\n"
          "        return refuse(s, -ENOENT)\n"
          '    held = put(s, "frame", row.mfn, references=s.frame[row.mfn].references + ite(taken, 1, 0))\n'
          "    removed = p2m.remove_page(held, domain, place, row.mfn, tables_left)\n"),
    _flaw("XSA-301a", "memory.p2m", "insert_page", "a guest frame beyond the root table is mapped",
          "if gfn >= s.settings[Index(0)].root_pages:", "if False:"),
    _flaw("XSA-301b", "memory.p2m", "_widen", "the highest guest frame on record is one beyond the highest mapped",
          "ite(last > row.highest_gfn, last, row.highest_gfn)", "ite(last >= row.highest_gfn, last + 1, row.highest_gfn)",
          Gfn=(0, 1, (1 << 36) - 1)),
    _flaw("XSA-393", "memory.p2m", "remove_page", "an entry whose valid bit is clear is not removed",
          "if not is_live(row):", "if not both(is_live(row), row.hardware):"),
    _flaw("XSA-480", "memory.table_pages", "retire_table", "a table page is freed while caches lead to it",
          "if s.space[domain].flush:", "if False:"),
    _flaw("XSA-125", "domain.limits", "memory_mapping", "any number of device pages is mapped in one go",
          "if pages > MOST_MAPPED_AT_ONCE:", "if False:", _long_range),
    # ---- arguments
    _flaw("XSA-98a", "memory.guestcopy", "copy_to_guest_word", "a result is written where the caller may only read",
          "may_access(s, caller, gfn, True)", "may_access(s, caller, gfn, False)"),
    _flaw("XSA-98b", "memory.guestcopy", "may_access", "to write, the right to read is asked for, and the other way round",
          "ite(writing, p2m.is_writable(row), p2m.is_readable(row))", "ite(writing, p2m.is_readable(row), p2m.is_writable(row))"),
]

OPEN: list[Open] = [
    Open("XSA-213", "multicall and the privilege mode of a vCPU"),
    Open("XSA-226b", "recursion depth and retries inside one call"),
    Open("XSA-235", "held locks are not in the state: steps are atomic (A-ATOMIC)"),
    Open("XSA-277", "held locks are not in the state: steps are atomic (A-ATOMIC)"),
    Open("XSA-327", "registration of a vCPU's information area (VCPUOP_register_vcpu_info)"),
    Open("XSA-334", "held domain references of Xen's own are not in the state: steps are atomic (A-ATOMIC)"),
    Open("XSA-506", "dm_op and its buffers"),
]
