"""Flaws of Xen's past, put back into the optimised implementation: the fuzzer must find each.

The ids are those of ``tests.mutants.historical`` where the flaw is the same; some more can be told here.
"""

from __future__ import annotations

from typing import Final

import attrs


@attrs.frozen
class Flaw:
    """A change of one function of the implementation.

    source: the advisory, or the kind of systematic change.  module, function: which, a method as ``Class.method``.
    old, new: text of the function that is replaced, once; or ``body``: its whole new source.
    """

    id: str
    source: str
    module: str
    function: str
    words: str
    old: str = ""
    new: str = ""
    body: str = ""
    line: int = 0

    @property
    def where(self) -> str:
        """Where the change is."""
        return f"{self.module}:{self.function}" + (f":{self.line}" if self.line else "")

    def text(self, source: str) -> str:
        """The changed function. Errors: ValueError if its source has changed so that the flaw no longer fits."""
        if self.body:
            return self.body
        if source.count(self.old) != 1:
            raise ValueError(f"{self.id}: {self.old!r} stands {source.count(self.old)} times in {self.function}")
        return source.replace(self.old, self.new)


def _flaw(identifier: str, module: str, function: str, words: str, old: str, new: str) -> Flaw:
    source = identifier.rpartition("-")[0] if identifier.count("-") > 1 else identifier
    return Flaw(identifier, source, f"impl.fast.{module}", function, words, old, new)


HISTORICAL: Final[list[Flaw]] = [
    # ---- scrubbing
    _flaw("XSA-100", "frames", "Frames.free_xenheap",
          "a frame of Xen's goes back to the heap without a mark to scrub it",
          "need_scrub=self.width == 64", "need_scrub=False"),
    # ---- grant tables
    _flaw("XSA-26a", "grant.table", "unpopulate_status_frames",
          "a status frame that is taken back stays on its domain's list",
          "        frames.put_page_alloc_ref(mfn)\n",
          "        frames.count_info[frames.index(mfn)] = frames.info(mfn) & frames.XEN_HEAP\n"),
    _flaw("XSA-26b", "grant.table", "grow",
          "a table that cannot grow further frees its last frame, which its domain knows already",
          "    if shared is None:\n        _free(machine, active)\n",
          "    if shared is None:\n        _free(machine, [*active, *table.shared[-1:]])\n"),
    _flaw("XSA-101", "grant.tables", "_list_gfns",
          "the frame number of a grant frame that is mapped nowhere is not set",
          "        if not call.put(", "        if gfn is not None and not call.put("),
    _flaw("XSA-255a", "grant.table", "unpopulate_status_frames", "a status frame is taken back although it is mapped",
          "        if gfn is not None:\n", "        if False:\n"),
    _flaw("XSA-255a-references", "grant.table", "unpopulate_status_frames",
          "a status frame is taken back although somebody has a reference on it",
          "        if frames.info(mfn) & ~frames.XEN_HEAP:\n", "        if False:\n"),
    _flaw("XSA-255a-twice", "memory_op", "_Call._add_one", "a frame of Xen's is mapped at a second place",
          "elif frames.xenheap_gfn(mfn) is None:", "elif True:"),
    _flaw("XSA-255b", "memory_op", "_Call._add_one",
          "where a status frame is mapped goes on record for the frame of entries with the same number",
          "frames.set_xenheap_gfn(mfn, gfn)",
          "frames.set_xenheap_gfn(domain.grant_table.shared[idx & 1] if held and mfn in domain.grant_table.status"
          " else mfn, gfn)"),
    # ---- grant mappings
    _flaw("XSA-224a", "grant.mapping", "unmap",
          "an unmap that names no address drops what the mapping holds all the same",
          "        op.done |= GNTMAP_host_map | readonly\n",
          "        op.done |= GNTMAP_host_map | readonly\n    else:\n        op.done |= GNTMAP_host_map | readonly\n"),
    _flaw("XSA-224b", "grant.mapping", "map_grant_ref", "a page is mapped although the handle says nothing of it",
          "flags & 0xFFFF", "flags & 0xFFFF & ~GNTMAP_host_map"),
    _flaw("XSA-224c", "grant.mapping", "map_grant_ref", "a writable mapping takes no reference on its page",
          "        owner = frames.get_owner_and_reference(mfn) if frames.valid(mfn) else None\n",
          "        owner = frames.get_owner_and_reference(mfn) if readonly else frames.owner_of(mfn)\n"),
    _flaw("XSA-224d", "grant.mapping", "unmap", "the second phase of an unmap runs although the first one failed",
          "        if op.status != GNTST_okay:\n            return op\n",
          "        if op.status != GNTST_okay:\n            op.done = GNTMAP_host_map | readonly\n"
          "            return op\n"),
    _flaw("XSA-218a", "grant.mapping", "unmap", "pins and references are dropped while the page is still mapped",
          "        op.status = _replace_host_mapping(machine, dom, host_addr, op.mfn, new_addr, flags)\n",
          "        op.status = GNTST_okay\n"),
    _flaw("XSA-387", "p2m", "P2m.remove", "a page is removed at a guest frame where another one lies",
          "if abi.P2M_ANY_RAM >> entry.type & 1 and (not valid or mfn + i != entry.mfn):", "if False:"),
    # ---- copies
    _flaw("XSA-50", "grant.copying", "_acquire_transitive",
          "the user of a grant is put on record as the domain behind it",
          "sub_page=True, target=target.id,", "sub_page=True, target=local,"),
    _flaw("XSA-226a", "grant.copying", "_acquire_transitive",
          "of a transitive grant in use the grant behind is not claimed, but released in the end",
          "    status, window = acquire(machine, target, target_ref, granter.id, readonly, allow_transitive=False)\n",
          "    if old_pin:\n"
          "        machine.frames.get_owner_and_reference(table.act_mfn[ref])\n"
          "        return GNTST_okay, Window(table.act_mfn[ref], table.act_mfn[ref], 0, 0)\n"
          "    status, window = acquire(machine, target, target_ref, granter.id, readonly, allow_transitive=False)\n"),
    _flaw("XSA-226a-contents", "grant.copying", "_acquire_transitive",
          "of a transitive grant only the pins are looked at again, not what it means",
          "table.pin[ref] != old_pin or (old_pin and (", "table.pin[ref] != old_pin or (False and ("),
    _flaw("XSA-226b", "grant.copying", "_acquire_transitive",
          "a copy whose grant has changed is tried again inside the call, as often as it takes",
          "        return RESTART, None\n",
          "        return acquire(machine, granter, ref, local, readonly, allow_transitive=allowed)\n"),
    # ---- getting memory
    _flaw("XSA-284", "frames", "Frames.assign", "a new page has no reference for its allocation",
          "self._count[first] & keep | self.ALLOCATED | 1", "self._count[first] & keep"),
    _flaw("XSA-284-frame", "memory_op", "_Call._populate", "another frame is mapped than the one that was allocated",
          "first = allocated\n", "first = allocated + 1\n"),
    _flaw("XSA-31", "memory_op", "_Call.reservation", "a domain may ask for a block of any size",
          "if order > (abi.MAX_ORDER if on_demand else max_order(self.caller)):", "if False:"),
    _flaw("XSA-158", "memory_op", "max_order", "every domain may ask for blocks as large as a control domain",
          "    if domain.is_privileged:\n", "    if True:\n"),
    _flaw("XSA-383", "frames", "Frames.assign", "a domain whose limit was never set has none",
          "elif not memflags & MEMF_no_refcount:", "elif not memflags & MEMF_no_refcount and domain.max_pages:"),
    _flaw("XSA-385", "frames", "Frames.assign",
          "the sum that is compared with the limit wraps (at 128 pages here, so that a small machine shows it)",
          "number > domain.max_pages - total", "(number + total) % 128 > domain.max_pages"),
    # ---- giving it back
    _flaw("XSA-222a", "memory_op", "remove_page", "a page is freed although its mapping could not be removed",
          "    if not rc and not domain.direct_map:\n", "    if not domain.direct_map:\n"),
    _flaw("XSA-222b", "memory_op", "remove_page", "a removal that has failed is reported as done",
          "    return rc if rc != -ENOENT else -EINVAL\n", "    return 0\n"),
    _flaw("XSA-247", "p2m", "P2m.remove", "what an entry holds is let go although the entry could not be cleared",
          "    rc = self.set_entries(gfn, number, INVALID_MFN, abi.p2m_invalid)\n",
          "    held = self.lookup(gfn)\n"
          "    rc = self.set_entries(gfn, number, INVALID_MFN, abi.p2m_invalid)\n"
          "    if rc and abi.P2M_FOREIGN >> held.type & 1:\n"
          "        self.machine.frames.put_page(held.mfn)\n"),
    _flaw("XSA-252", "frames", "Frames.put_page_alloc_ref", "a reference is dropped that the caller does not have",
          "if self._count[i] & self.ALLOCATED:", "if True:"),
    # ---- stage 2
    _flaw("XSA-22", "memory_op", "_Call._add_one",
          "where a frame is mapped goes on record although mapping it has failed",
          "if not rc:\n            frames.set_xenheap_gfn", "if True:\n            frames.set_xenheap_gfn"),
    _flaw("XSA-301a", "p2m", "P2m._set_entry", "of a guest frame beyond the root table the upper bits are ignored",
          "    if index >= self.root_pages << 9 or self.root is None:\n",
          "    index &= (self.root_pages << 9) - 1\n    if self.root is None:\n"),
    _flaw("XSA-301b", "p2m", "P2m._set_entry", "the highest guest frame on record is one beyond the highest mapped",
          "gfn + (1 << order) - 1", "gfn + (1 << order)"),
    _flaw("XSA-393", "p2m", "P2m._set_entry", "an entry whose valid bit is clear is not removed",
          "    if word & VALID or removing:\n", "    if word & VALID:\n"),
    _flaw("XSA-125", "domctl", "_Call.memory_mapping", "any number of device pages is mapped in one go",
          "    if number > 64:\n", "    if False:\n"),
    # ---- arguments
    _flaw("XSA-98a", "guestcopy", "copy_to_guest", "a result is written where the caller may only read",
          "write=True", "write=False"),
    _flaw("XSA-98b", "guestcopy", "guest_page", "to write, the right to read is asked for, and the other way round",
          "p2m.walk(address, write=write)", "p2m.walk(address, write=not write)"),
    # ---- life and death
    _flaw("XSA-127", "domctl", "_Call.pause", "a control domain pauses itself",
          "    if domain is self.caller:\n", "    if False:\n"),
    _flaw("XSA-410a", "p2m", "P2m.set_entries", "a dying domain is given new mappings",
          "    if self.domain.is_dying:\n", "    if False:\n"),
    _flaw("XSA-410b", "p2m", "P2m.teardown_allocation", "the table pages of a dying domain are freed in one go",
          "preemptible=True", "preemptible=False"),
]

_CACHES = "caches are coherent in the implementation: what is cleaned, and when, no guest sees"
_ATOMIC = "a hypercall runs from check to check alone: locks, and the order of stores of two CPUs, no guest sees"
_ELSEWHERE = "not memory and grants"

INVISIBLE: Final[dict[str, str]] = {
    "XSA-364": _CACHES, "XSA-437": _CACHES, "XSA-447": _CACHES,
    "XSA-147": _ATOMIC, "XSA-218b": _ATOMIC, "XSA-218c": _ATOMIC, "XSA-235": _ATOMIC, "XSA-277": _ATOMIC,
    "XSA-295": _ATOMIC, "XSA-334": _ATOMIC, "XSA-379": f"{_ATOMIC}; as one call after the other it is XSA-255a-twice",
    "XSA-384": _ATOMIC, "XSA-411": _ATOMIC,
    "XSA-486": f"{_ATOMIC}; as one call after the other it is XSA-255a-references",
    "XSA-492a": _ATOMIC, "XSA-492b": _ATOMIC, "XSA-499": _ATOMIC,
    "XSA-480": "the flush that is left out comes before the call ends, and nobody translates in between",
    "XSA-473": "takes 2**22 - 1 references on one page of arm32",
    "XSA-500": "Xen 4.17.0 has this flaw, and both sides show it as a deviation",
    "XSA-383-boot": "both sides begin with the booted machine, its limits as they are",
    "XSA-149": "a leak of Xen's own small allocations, which take no frames here",
    "XSA-141": "what Xen logs, no guest sees", "XSA-146": "what Xen logs, no guest sees",
    "XSA-213": f"{_ELSEWHERE}: multicalls", "XSA-327": f"{_ELSEWHERE}: VCPUOP_register_vcpu_info",
    "XSA-506": f"{_ELSEWHERE}: dm_op",
}
"""Flaws that no guest and no projection of the implementation can see, and why."""
