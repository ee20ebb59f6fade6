"""The claims that are more than one property: what an assessor asks, and what answers it."""

from __future__ import annotations

import attrs


@attrs.frozen
class Claim:
    """A statement that an assessor can read, and the properties that it follows from.

    because: (property id, what it contributes).
    """

    id: str
    title: str
    statement: str
    because: tuple[tuple[str, str], ...]
    assumptions: tuple[str, ...]
    falsified_by: tuple[str, ...]


@attrs.frozen
class Generated:
    """What is demanded of every step beside the properties: the engine states it by itself.

    fulfils: as for a property.
    """

    id: str
    words: str
    fulfils: tuple[str, ...]


GENERATED: dict[str, Generated] = {each.id: each for each in (
    Generated("REFUSED-UNCHANGED", "A step that is refused leaves the very same state.", ("SR-MEM-20", "SR-GNT-16")),
    Generated("NO-OVERFLOW", "No step stores a value that its field cannot hold.", ("SR-MEM-8", "SR-GNT-5")),
)}


ISOLATION = Claim(
    "isolation",
    "Can one VM ever reach another VM's memory?",
    "No, unless Xen itself has deviated (see below).  "
    "Whatever a running domain's translation reaches is its own, or was granted to it and not yet taken back, "
    "or is mapped by privilege over the owner, or is device memory that it was given; nothing of Xen, nothing freed; "
    "and never with more rights than were granted.  This holds for any number of domains, frames, grants and handles.",
    (
        ("ISO-REACH", "what can be reached"),
        ("ISO-XEN", "nothing of the hypervisor, page tables included"),
        ("ISO-FREED", "nothing that was freed"),
        ("ISO-RIGHTS", "no more rights than were granted"),
        ("INV-TLB", "what a TLB has cached is what stage 2 holds now: all of this holds of cached translations, too"),
        ("ISO-REVOKED", "no access after the granter was told that the page is unused"),
        ("INV-TAB-REFINES", "the words of the tables give the hardware just these mappings, at every store"),
        ("INV-TLB-CURRENT", "what caches hold is what the tables say, unless a flush is pending"),
        ("INV-TLB-REUSE", "no cached translation outlives the use of a frame"),
        ("INV-TLB-TABLE", "no cached table pointer outlives a table"),
    ),
    ("A-ATOMIC", "A-FINITE", "A-CHOICE", "A-RANGES", "A-LAYOUT", "A-TABLES", "A-SPEC", "A-SOLVER", "A-HARDWARE"),
    (
        "a step of the specification that breaks an invariant: `bulkhead prove` tells its story",
        "a step of Xen that the specification does not describe: the comparison with Xen shows it",
        "a way to reach memory that is not in the model: side channels, weak memory, faults of the hardware",
    ),
)

CLAIMS: dict[str, Claim] = {each.id: each for each in (ISOLATION,)}
