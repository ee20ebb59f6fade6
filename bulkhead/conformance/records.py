"""What Xen's own records say while it runs: which domains there are, where the tables of each are, which grants are in
use.

The processor tells where the tables of a domain are that runs; of one that dom0 has made, only Xen itself can tell.
Where Debian's symbols of Xen were not fetched, there are no records.
"""

from __future__ import annotations

import attrs

from bulkhead.auditor import symbols
from bulkhead.auditor.image import from_words
from bulkhead.auditor.xen_memory import Active, Domain, Memory
from bulkhead.conformance.stage2 import Tracker
from bulkhead.problems import BadInputError
from impl.xen.machine import Machine


class Records:
    """The records of a running machine, read while it stands still.

    domains: those in Xen's list, by number, when `update` was called; made: the tables of those that were made at run
    time, as of then.  Errors: BadInputError if the symbols are another Xen's.
    """

    def __init__(self, xen: Machine, memory: Memory) -> None:
        self._xen, self._memory = xen, memory
        self._at_boot = frozenset(xen.domains)
        self.domains: dict[int, Domain] = {}
        self.made: dict[int, Tracker] = {}

    def update(self) -> dict[int, dict[int, int]]:
        """Read the list of domains anew, and the tables: what changed in those of each, as `Tracker.update` says."""
        try:
            found = list(self._memory.domains_now())
        except BadInputError:
            # Xen was stopped while it changes its list
            return {}
        self.domains = {each.number: each for each in found}
        made = {each.number: each for each in found if each.number not in self._at_boot}
        self.made = {number: tracker for number, tracker in self.made.items()
                     if number in made and tracker.roots.vttbr == made[number].vttbr}
        for number, domain in made.items():
            if number not in self.made and domain.vttbr:
                roots = attrs.evolve(self._xen.roots(0), vttbr=domain.vttbr)
                self.made[number] = Tracker(self._xen.qemu.words, self._xen.kind.ram_base, roots)
        return {number: tracker.update() for number, tracker in self.made.items()}

    def count_info(self, frame: int) -> int:
        """Where the count of references to a frame lies [machine address]. Errors: BadInputError."""
        return self._memory.count_info(frame)

    def grants(self) -> list[Active]:
        """The grants in use of the domains that there were. Errors: BadInputError."""
        return list(self._memory.active_now(self.domains.values()))


def records_of(xen: Machine) -> Records | None:
    """The records of a machine, None without Xen's symbols. Errors: BadInputError if these are another Xen's."""
    path = xen.installation.folder / f"xen-syms-{xen.kind.arch}"
    if not path.is_file():
        return None
    image = from_words("RAM", [(xen.kind.ram_base, xen.qemu.words)])
    return Records(xen, Memory(image, symbols.read(path)))


__all__ = ["Records", "records_of"]
