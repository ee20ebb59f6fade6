"""What a VM reaches: every mapping of its stage-2 tables, by the walk of the specification; its loads compared."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs
import numpy as np
import numpy.typing as npt

from bulkhead.problems import BadInputError
from bulkhead.tables import PAGE, Domain, Load, Tables
from spec.language import Gfn, Mfn, Word
from spec.memory import geometry, walk
from spec.memory.descriptors import Descriptor, is_live
from spec.memory.geometry import Geometry
from spec.memory.p2m import GRANT
from spec.state import P2mType

HARDWARE, HYPERVISOR, UNREACHABLE = "hardware", "hypervisor", "unreachable"
"""Who takes a mapping to be valid: the hardware; only Xen, which makes it valid for the hardware at the next access; or
nobody, since no access gets through."""
AGREES, REPAIRED = "agrees", "agrees after repair"
"""What a load says.  REPAIRED: only Xen took the mapping to be valid; at the fault it set the hardware's bit."""

MOST_RANGES = 1_000_000
"""Ranges that are kept; a VM usually has a few dozen."""
TYPES = frozenset(each.value for each in P2mType if each != P2mType.INVALID)
KEPT_ROWS = 64
"""Table pages that are kept unpacked: a walk goes through four at a time."""
NEVER_SET = ~Descriptor.__layout__.mask & (1 << 64) - 1 | 1 << 52  # type: ignore[attr-defined]
"""Bits of a descriptor that Xen leaves clear: those of no field, and *contiguous*."""

Words = Callable[[Mfn, int], Word]


@attrs.frozen
class Mapping:
    """A range of guest addresses, mapped to consecutive machine addresses with one type and one permission.

    ipa, machine, size: bytes.  valid: HARDWARE, HYPERVISOR or UNREACHABLE.  leaves: descriptors that it merges.
    """

    ipa: int
    machine: int
    size: int
    type: int
    read: bool
    write: bool
    execute: bool
    valid: str
    leaves: int = 1

    @property
    def kind(self) -> str:
        """Xen's name of the type."""
        return P2mType(self.type).name.lower() if self.type in TYPES else f"type {self.type}"

    @property
    def access(self) -> str:
        """What the guest may do, as in ``rwx``."""
        allowed = ((self.read, "r"), (self.write, "w"), (self.execute, "x"))
        return "".join(letter if flag else "-" for flag, letter in allowed)

    def like(self, other: Mapping) -> bool:
        """It is shifted as far as the other and like it in all but place and size."""
        return (
            self.machine - self.ipa == other.machine - other.ipa
            and self.type == other.type
            and self.read == other.read
            and self.write == other.write
            and self.execute == other.execute
            and self.valid == other.valid
        )


@attrs.frozen
class Vm:
    """What one VM reaches.

    tables: machine addresses of its table pages.  pieces: its mappings, granted ones page by page.
    odd: what is strange about single descriptors, in words.
    """

    domain: Domain
    shape: Geometry
    tables: frozenset[int]
    mappings: tuple[Mapping, ...]
    pieces: tuple[Mapping, ...]
    odd: tuple[str, ...]
    repaired: int
    unexplained: tuple[str, ...]

    @property
    def leaves(self) -> int:
        """Descriptors that map something."""
        return sum(each.leaves for each in self.mappings)

    @property
    def agree(self) -> int:
        """Observations that the walk explains."""
        return len(self.domain.loads) - len(self.unexplained)


def at(mappings: Sequence[Mapping], ipa: int) -> Mapping | None:
    """The mapping that covers a guest address."""
    index = bisect.bisect_right(mappings, ipa, key=lambda each: each.ipa) - 1
    if index < 0 or mappings[index].ipa + mappings[index].size <= ipa:
        return None
    return mappings[index]


def reach(tables: Tables, domain: Domain) -> Vm:
    """Walk all tables of a VM, and each address that it loaded from.

    Errors: BadInputError if the registers fit no walk, a table page is missing or used twice, or a load contradicts
    the tables.
    """
    shape, words, root = _shape(tables, domain), _words(tables), Mfn(domain.root // PAGE)
    used, odd = _pages(tables, domain, words, shape)
    mappings, pieces = _merge(_mapping(leaf, shape) for leaf in walk.leaves(words, root, shape))
    observed = [_observe(words, domain, shape, each) for each in domain.loads]
    return Vm(domain, shape, used, mappings, pieces, odd, sum(each is REPAIRED for each in observed),
              tuple(f"VM {domain.number}: {each}" for each in observed if each not in (AGREES, REPAIRED)))


def leaves_of(tables: Tables, domain: Domain) -> Iterator[Mapping]:
    """Every descriptor of a VM that maps something, one by one."""
    shape = _shape(tables, domain)
    return (_mapping(leaf, shape) for leaf in walk.leaves(_words(tables), Mfn(domain.root // PAGE), shape))


def _shape(tables: Tables, domain: Domain) -> Geometry:
    where = f"domain {domain.number}"
    try:
        shape = geometry.of_vtcr(domain.vtcr, arm32=not tables.aarch64)
    except ValueError as problem:
        raise BadInputError(f"{where}: {problem}") from None
    if domain.root // PAGE % shape.root_pages:
        raise BadInputError(f"{where}: root table {domain.root:#x} is not aligned to {shape.root_pages} pages")
    return shape


def _pages(tables: Tables, domain: Domain, words: Words, shape: Geometry) -> tuple[frozenset[int], tuple[str, ...]]:
    """The table pages of a VM, by machine address, and what is odd about their words."""
    used: set[int] = set()
    odd: list[str] = []
    for frame, level in walk.tables(words, Mfn(domain.root // PAGE), shape):
        page = frame * PAGE
        if page not in tables.row:
            raise BadInputError(f"domain {domain.number}: the table page {page:#x} is not in the file")
        if page in used:
            raise BadInputError(f"domain {domain.number}: table page {page:#x} is used twice: these tables are no tree")
        used.add(page)
        if strange := _strange(tables.page[tables.row[page]], level):
            odd.append(f"VM {domain.number}, table page {page:#x}, level {level}: {strange}")
    return frozenset(used), tuple(odd)


def _words(tables: Tables) -> Words:
    """Contents of the table pages, by frame."""

    @functools.lru_cache(maxsize=KEPT_ROWS)
    def row(frame: Mfn) -> list[int]:
        words: list[int] = tables.page[tables.row[frame * PAGE]].tolist()
        return words

    return lambda frame, index: Word(row(frame)[index])


def _strange(page: npt.NDArray[np.uint64], level: int) -> str:
    """What no descriptor written by Xen has: bits of no field, no access flag, a block where there is none."""
    used = (page & np.uint64(1) != 0) | (page >> np.uint64(55) & np.uint64(15) != 0)
    for count, what in (
        (used & (page & np.uint64(NEVER_SET) != 0), "have bits set that Xen leaves clear"),
        (used & (page & np.uint64(1 << 10) == 0), "lack the access flag"),
        (used & (page & np.uint64(2) == 0) if level in (0, 3) else np.zeros(1), "are blocks where there are none"),
        (used & (page >> np.uint64(55) & np.uint64(15) == 0), "are valid without a type"),
    ):
        if number := int(np.count_nonzero(count)):
            return f"{number} descriptors {what}"
    return ""


def _mapping(leaf: walk.Leaf, shape: Geometry) -> Mapping:
    entry = leaf.entry
    if (
        leaf.gfn >= shape.ipa_frames
        or walk.is_reserved(entry, leaf.level)
        or walk.leaf_fault(entry, leaf.frame, shape.output_frames) != walk.Fault.NONE
        or not (leaf.hardware or is_live(entry))
    ):
        valid = UNREACHABLE
    else:
        valid = HARDWARE if leaf.hardware else HYPERVISOR
    return Mapping(leaf.gfn * PAGE, leaf.frame * PAGE, leaf.pages * PAGE, entry.type, entry.read, entry.write,
                   walk.may_fetch(entry, shape.arm32), valid)


def _merge(leaves: Iterable[Mapping]) -> tuple[tuple[Mapping, ...], tuple[Mapping, ...]]:
    """The mappings in order, merged where they continue each other; and the same with granted pages apart."""
    pieces: list[Mapping] = []
    first: Mapping | None = None
    size = count = 0
    for each in leaves:
        if first and each.type not in GRANT and each.ipa - first.ipa == size and each.like(first):
            size, count = size + each.size, count + 1
            continue
        if first:
            pieces.append(attrs.evolve(first, size=size, leaves=count))
        first, size, count = each, each.size, 1
        if len(pieces) > MOST_RANGES:
            raise BadInputError(f"more than {MOST_RANGES} ranges of addresses")
    if first:
        pieces.append(attrs.evolve(first, size=size, leaves=count))
    merged: list[Mapping] = []
    for each in pieces:
        last = merged[-1] if merged else None
        if last and each.ipa - last.ipa == last.size and each.like(last):
            merged[-1] = attrs.evolve(last, size=last.size + each.size, leaves=last.leaves + each.leaves)
        else:
            merged.append(each)
    return tuple(merged), tuple(pieces)


def _observe(words: Words, domain: Domain, shape: Geometry, load: Load) -> str:
    """Compare one load with the walk: AGREES, REPAIRED, or in words what the tables do not explain.

    Errors: BadInputError if it contradicts the tables.
    """
    gfn = Gfn(load.ipa // PAGE)
    root = Mfn(domain.root // PAGE)
    met = walk.translate(words, root, shape, gfn)
    machine, read, answer = None, False, AGREES
    if met.fault == walk.Fault.NONE:
        machine, read = walk.address(met, load.ipa), met.read
    elif met.fault == walk.Fault.TRANSLATION and gfn < shape.ipa_frames:
        page = Mfn(root + geometry.root_page(gfn, shape.start_level))
        held = walk.lookup(words, page, shape.start_level, gfn)
        if held.live and not held.hardware:
            machine, read, answer = held.frame * PAGE | load.ipa % PAGE, held.read, REPAIRED
    where = f"domain {domain.number}: the load at {load.ipa:#x}"
    if machine != load.machine:
        raise BadInputError(f"{where} met {_address(load.machine)}, but the tables give {_address(machine)}")
    if load.value is None and read:
        raise BadInputError(f"{where} faulted, but the tables let it read {_address(machine)}")
    if load.value is not None and not read:
        return f"a load at {load.ipa:#x} returned a value, the tables let it read nothing: an emulated device?"
    return answer


def _address(machine: int | None) -> str:
    return "nothing" if machine is None else f"machine address {machine:#x}"
