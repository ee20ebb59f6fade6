"""GNTTABOP_copy item by item: the specification's small steps in Xen's order.

What an item claimed stays claimed for the next one that names it again: source and destination each in a row of the
table ``copy_side``.

Source: xen/common/grant_table.c (gnttab_copy and what it calls), Xen 4.17.
"""

from __future__ import annotations

from typing import Any, Final

from bulkhead.oracle.grants_abi import DESTINATION_IS_GRANT, SOURCE_IS_GRANT
from bulkhead.oracle.grants_call import Call
from spec.grant.copy import DESTINATION, is_transitive
from spec.grant.entries import entry_count
from spec.grant.invariants import REFERENCES, SOURCE
from spec.language import DomId, GrantRef, Index, Kind, Outcome, VcpuId
from spec.state import CopySide, State

_SIDES: Final = (SOURCE, DESTINATION)


class Copier:
    """The copies of one call."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._vcpu = VcpuId(call.vcpu)

    def item(self, source: int, source_domid: int, source_offset: int, destination: int, destination_domid: int,
             destination_offset: int, length: int, flags: int) -> int | None:
        """One item: its status, or None if it is to be tried again.

        source, destination: a frame number of 64 bits, or a reference in the lowest 32.  Offsets and length: in bytes.
        """
        granted = bool(flags & SOURCE_IS_GRANT), bool(flags & DESTINATION_IS_GRANT)
        status = self._domains(source_domid, destination_domid, granted)
        if status != 0:
            return status
        for side, name, is_grant in zip(_SIDES, (source, destination), granted, strict=True):
            if self._serves(self._row(side), name, is_grant=is_grant):
                continue
            self._release(side)
            claimed = self._claim(side, name, is_grant=is_grant)
            if claimed != 0:
                return claimed
        copied: int = self._step("copy_bytes", source_offset=source_offset, destination_offset=destination_offset,
                                 length=length).code
        return copied

    def release(self) -> None:
        """Give both pages back; the domains stay looked up."""
        for side in _SIDES:
            self._release(side)

    def end(self) -> None:
        """Give everything back."""
        self.release()
        self._forget()

    # ---- the domains

    def _domains(self, source: int, destination: int, granted: tuple[bool, bool]) -> int:
        """Look the domains up, unless they are those of the item before."""
        rows = self._row(SOURCE), self._row(DESTINATION)
        if all(row.known and row.domid == domid for row, domid in zip(rows, (source, destination), strict=True)):
            return 0
        self.end()
        code: int = self._step("copy_domains", source=DomId(source), source_gref=granted[0],
                               destination=DomId(destination), destination_gref=granted[1]).code
        return code

    def _forget(self) -> None:
        if self._row(SOURCE).known or self._row(DESTINATION).known:
            self._step("copy_forget")

    # ---- claims

    @staticmethod
    def _serves(row: CopySide, name: int, *, is_grant: bool) -> bool:
        """What is claimed is what the item names; of a frame number nobody asks whether a grant gave it."""
        if not row.claimed:
            return False
        if is_grant:
            return row.granted and row.key % REFERENCES == name % REFERENCES
        return row.key == name

    def _claim(self, side: Index, name: int, *, is_grant: bool) -> int | None:
        """Claim the page that an item names: the status, None to start again."""
        if not is_grant:
            return int(self._step("copy_claim_page", side=side, gmfn=name).code)
        ref = GrantRef(name % REFERENCES)
        s, granter = self._call.state, self._row(side).domain
        if ref < entry_count(s, granter) and is_transitive(s, granter, ref):
            return self._claim_transitive(side, ref)
        return int(self._step("copy_claim_grant", side=side, ref=ref).code)

    def _claim_transitive(self, side: Index, ref: GrantRef) -> int | None:
        marked = self._step("copy_claim_transitive", side=side, ref=ref)
        if marked.kind != Kind.DONE:
            return int(marked.code)
        behind = self._step("copy_claim_nested", side=side)
        if behind.kind != Kind.DONE:
            self._step("copy_abandon", side=side)
            return int(behind.code)
        if self._step("copy_finish_transitive", side=side).kind == Kind.DONE:
            return 0
        self._step("copy_release_nested", side=side)
        self._step("copy_abandon", side=side)
        return None

    def _release(self, side: Index) -> None:
        """Give one page back, with the grant or the two grants that it was claimed for."""
        row = self._row(side)
        if row.granted:
            self._step("copy_release_grant", side=side)
            if self._row(side).nested:
                self._step("copy_release_nested", side=side)
        elif row.holding:
            self._step("copy_release_page", side=side)

    def _row(self, side: Index) -> CopySide:
        return self._call.state.copy_side[self._call.domain, self._vcpu, side]

    def _step(self, name: str, **arguments: Any) -> Outcome[State]:
        return self._call.step(name, caller=self._call.domain, vcpu=self._vcpu, **arguments)
