"""The tables of one VM, by both readings of a descriptor: the hardware's (bit 0) and Xen's (the type)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bulkhead.auditor.vms import Vm
from bulkhead.problems import BadInputError
from impl.fast.geometry import ENTRIES
from impl.fast.walks import AUDIT_TABLES, Banks, Rule, WalkError, Words, leaves


class Piece(NamedTuple):
    """Some tables of one level: machine addresses, guest addresses of their first entries, words [n, 512].

    reached: the hardware gets there.  beyond: only addresses that no access has lead there.
    """

    level: int
    table: Words
    base: Words
    words: Words
    reached: bool
    beyond: bool


class Lost(NamedTuple):
    """A table that could not be read: its level, machine address, and the guest address that it would translate."""

    vm: int
    level: int
    table: int
    ipa: int


class Tree:
    """The tables of one VM: found once, read as often as asked."""

    def __init__(self, banks: Banks, vm: Vm) -> None:
        self.banks, self.vm = banks, vm
        try:
            self.hardware = leaves(banks, vm.root, vm.geometry, Rule.HARDWARE)
            self.xen = leaves(banks, vm.root, vm.geometry, Rule.XEN)
        except WalkError as problem:
            raise BadInputError(f"VM {vm.name}: {problem}") from None

    @functools.cached_property
    def tables(self) -> Words:
        """Addresses of all table pages, ascending, as often as they are met [bytes]."""
        new = [self._only_xen(at.address, at.level) for at in self.xen.levels]
        own = [each.address for each in self.hardware.levels]
        once = [each.address[mask] for each, mask in zip(self.xen.levels, new, strict=True)
                if each.level > self.vm.geometry.start_level]
        again = [each.address for each in self.hardware.repeated]
        again += [each.address[self._only_xen(each.address, each.level)] for each in self.xen.repeated]
        found = [*own, *once, *again]
        return np.sort(np.concatenate(found)) if found else np.empty(0, np.uint64)

    def _only_xen(self, address: Words, level: int) -> npt.NDArray[np.bool_]:
        """Which tables of a level the hardware does not come to."""
        for each in self.hardware.levels:
            if each.level == level:
                if len(each.address) == len(address) and (each.address == address).all():
                    return np.zeros(len(address), np.bool_)
                return ~np.isin(address, each.address)
        return np.ones(len(address), np.bool_)

    def lost(self, number: int) -> Iterator[Lost]:
        """Tables that lie where the image has nothing."""
        seen = set()
        for tree in (self.hardware, self.xen):
            for each in tree.outside:
                for table, base in zip(each.address.tolist(), each.base.tolist(), strict=True):
                    if (each.level, base) not in seen:
                        seen.add((each.level, base))
                        yield Lost(number, each.level, table, base)

    def pieces(self, tables: int = AUDIT_TABLES) -> Iterator[Piece]:
        """All tables, `tables` at a time; words are valid until the next piece."""
        start = self.vm.geometry.start_level
        buffer = np.empty((tables, ENTRIES), np.uint64)
        inside = self.vm.geometry.root_entries
        for tree, reached in ((self.hardware, True), (self.xen, False)):
            for each in tree.levels:
                root = each.level == start
                if root and not reached and inside >= ENTRIES * len(each.address):
                    continue
                wanted = slice(None) if reached or root else np.flatnonzero(self._only_xen(each.address, each.level))
                address, base = each.address[wanted], each.base[wanted]
                if not len(address):
                    continue
                rows = self.banks.rows(address)
                for first in range(0, len(address), tables):
                    end = min(first + tables, len(address))
                    words = rows.read(first, end, buffer)
                    if root and inside < ENTRIES * len(address):
                        # the hardware stops within this page, Xen does not
                        words = words.copy()
                        words[:, slice(inside, None) if reached else slice(0, inside)] = 0
                    yield Piece(each.level, address[first:end], base[first:end], words, reached, root and not reached)
