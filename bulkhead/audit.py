"""Are the VMs of a machine isolated, as far as its stage-2 tables and its list of grants show?

Every range of machine memory that two VMs reach must have a reason: a device that both were given, or a grant.
What the tables alone cannot show (whose memory a frame is when no VM maps it as its own, who has the privilege to map
foreign memory) is a doubt, never a reason.
"""

from __future__ import annotations

import bisect
import collections
import itertools
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import attrs

from bulkhead.mappings import MOST_RANGES, Mapping, Vm, at, reach
from bulkhead.problems import BadInputError
from bulkhead.tables import HOST_MAP, MOST_PAGES, PAGE, Grant, Tables
from spec.memory.descriptors import may_execute, may_write
from spec.memory.p2m import DEVICE, FOREIGN, GRANT, RAM
from spec.state import P2mType

ISOLATED, VIOLATION, NOT_CHECKED = "isolated", "violation", "not checked"

MOST_SHARED = 10_000
"""Ranges that several VMs reach; a file with more is not looked at any further."""
MOST_TABLES = 2 * MOST_PAGES
"""Table pages of all VMs together: each VM has its own, so there are no more than in the file."""
MOST_USERS = 64
"""Mappings of one range that are looked at one by one."""
CONTROL = 0
"""The domain that Xen makes privileged."""
IOMMU = (P2mType.IOMMU_MAP_RW, P2mType.IOMMU_MAP_RO)
BORROWED = (*FOREIGN, *GRANT, *IOMMU)
KNOWN = (*RAM, *DEVICE, *BORROWED)

Reason: TypeAlias = tuple[bool | None, str]
"""Whether something is as it should be (None: the file does not say), and why."""


@attrs.frozen
class User:
    """How a VM reaches a shared range."""

    vm: int
    ipa: int
    kind: str
    access: str


@attrs.frozen
class Shared:
    """A range of machine memory that several VMs reach, and why that is right, if it is.

    justified: None if the file does not say enough.
    """

    machine: int
    size: int
    users: tuple[User, ...]
    why: str
    justified: bool | None
    device: bool

    def joined(self, right: Shared) -> Shared | None:
        """Both ranges as one, if the right one continues this one and is like it in all else."""
        moved = tuple(attrs.evolve(each, ipa=each.ipa + self.size) for each in self.users)
        if attrs.evolve(self, machine=self.machine + self.size, size=right.size, users=moved) == right:
            return attrs.evolve(self, size=self.size + right.size)
        return None


@attrs.frozen
class Piece:
    """A range of machine memory in which no mapping begins or ends, with the mappings that reach it.

    count: how many they are; ``users`` holds all of them, or one of each VM and type if they are very many.
    """

    machine: int
    size: int
    count: int
    users: tuple[tuple[Vm, Mapping], ...]

    @property
    def vms(self) -> list[int]:
        """The VMs that reach it."""
        return sorted({vm.domain.number for vm, _ in self.users})

    @property
    def owners(self) -> list[int]:
        """The VMs that have it as their own memory."""
        return sorted({vm.domain.number for vm, each in self.users if each.type in RAM})

    def any(self, kinds: Sequence[int]) -> bool:
        """Somebody maps it with one of these types."""
        return any(each.type in kinds for _, each in self.users)

    def all(self, kinds: Sequence[int]) -> bool:
        """Everybody maps it with one of these types."""
        return all(each.type in kinds for _, each in self.users)


@attrs.frozen
class Audit:
    """The answer about one file: what breaks isolation, what the file does not show, what else is worth knowing."""

    tables: Tables
    vms: tuple[Vm, ...]
    shared: tuple[Shared, ...]
    violations: tuple[str, ...]
    doubts: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """One of ``isolated``, ``violation``, ``not checked``."""
        if self.violations:
            return VIOLATION
        return NOT_CHECKED if self.doubts else ISOLATED


def audit(tables: Tables) -> Audit:
    """Walk the tables of every VM and judge what they share.

    Errors: BadInputError if the tables contradict the rest of the file.
    """
    try:
        first = tables.domains[0]
        for each in tables.domains:
            if each.vtcr != first.vtcr:
                raise BadInputError(f"domains {first.number} and {each.number} have two VTCRs; Xen has one for all")
        vms: list[Vm] = []
        for each in tables.domains:
            vms.append(reach(tables, each))
            if sum(len(vm.tables) for vm in vms) > MOST_TABLES or sum(len(vm.pieces) for vm in vms) > MOST_RANGES:
                raise BadInputError("the domains use so many tables over and over that they are no machine's")
        judge = _Judge(tables, tuple(vms))
    except BadInputError as problem:
        raise BadInputError(f"{tables.name}: {problem}") from None
    return judge.answer()


@attrs.define
class _Judge:
    """Collects what speaks against isolation."""

    tables: Tables
    vms: tuple[Vm, ...]
    grants: dict[tuple[int, int], Grant] = attrs.field(init=False)
    violations: list[str] = attrs.field(init=False, factory=list)
    doubts: list[str] = attrs.field(init=False, factory=list)
    remarks: list[str] = attrs.field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        self.grants = self._mapped_grants()

    def answer(self) -> Audit:
        """Judge everything."""
        for vm in self.vms:
            self.doubts.extend((*vm.odd, *vm.unexplained))
            for each in vm.mappings:
                self._own_rules(vm, each)
        self._apart()
        self._table_pages()
        shared = self._sharing()
        return Audit(self.tables, self.vms, shared, tuple(self.violations), tuple(self.doubts), tuple(self.remarks))

    def _mapped_grants(self) -> dict[tuple[int, int], Grant]:
        """The grants that the file says are mapped, by mapper and guest address.

        Errors: BadInputError if nothing is mapped there.
        """
        found: dict[tuple[int, int], Grant] = {}
        mappings = {each.domain.number: each.mappings for each in self.vms}
        for grant in self.tables.grants or ():
            if grant.status != 0 or not grant.flags & HOST_MAP:
                continue
            found[grant.mapper, grant.ipa] = grant
            if grant.mapper in mappings and at(mappings[grant.mapper], grant.ipa) is None:
                raise BadInputError(f"domain {grant.mapper} is said to have mapped grant {grant.ref} of domain "
                                    f"{grant.granter} at {grant.ipa:#x}, but nothing is mapped there")
        return found

    # ---- each VM by itself

    def _own_rules(self, vm: Vm, each: Mapping) -> None:
        """A mapping permits what its type permits, and memory is where the machine has RAM."""
        where = _where(vm, each)
        if each.type not in KNOWN:
            self.doubts.append(f"{where}: Xen maps nothing with {each.kind}")
            return
        if (each.write and not may_write(each.type)) or (each.execute and not may_execute(each.type)):
            self.violations.append(f"{where}: {each.access} is more than {each.kind} allows")
        ram = self.tables.overlaps_ram(each.machine, each.size)
        if each.type in DEVICE:
            if ram:
                self.doubts.append(f"{where}: RAM is mapped as a device")
        elif ram < each.size:
            self.violations.append(f"{where}: {each.kind}, but not RAM of this machine")

    # ---- tables and VMIDs

    def _apart(self) -> None:
        """No two VMs have the same VMID."""
        met: dict[int, int] = {}
        for vm in self.vms:
            other = met.setdefault(vm.domain.vmid, vm.domain.number)
            if other != vm.domain.number:
                self.violations.append(f"VM {other} and VM {vm.domain.number} have the same VMID {vm.domain.vmid}: "
                                       "each may use the other's cached translations")

    def _table_pages(self) -> None:
        """Nobody reaches a table page, and no two VMs use the same one."""
        user: dict[int, int] = {}
        for vm in self.vms:
            number = vm.domain.number
            common = sorted(page for page in vm.tables if user.setdefault(page, number) != number)
            for page in common[:MOST_USERS]:
                self.violations.append(f"VM {user[page]} and VM {number} use the same table page {page:#x}")
        pages = sorted(self.tables.row)
        for vm in self.vms:
            for each in vm.mappings:
                first, last = (bisect.bisect_left(pages, end) for end in (each.machine, each.machine + each.size))
                if first == last:
                    continue
                whose = f" of VM {user[pages[first]]}" if pages[first] in user else ""
                more = f" and {last - first - 1} more" if last - first > 1 else ""
                self.violations.append(f"{_where(vm, each)}: reaches table page {pages[first]:#x}{whose}{more}, "
                                       f"{each.access}")
        if len(user) < len(pages):
            self.remarks.append(f"{len(pages) - len(user)} table pages of the file belong to no VM that it names")

    # ---- what VMs share

    def _sharing(self) -> tuple[Shared, ...]:
        """Every range that several VMs reach, and every borrowed page that nobody owns, with its reason."""
        found: list[Shared] = []
        for piece in _pieces(self.vms):
            if len(piece.vms) == 1 and (piece.owners or not piece.any(BORROWED)):
                continue
            justified, why = self._reason(piece)
            users = tuple(User(vm.domain.number, each.ipa + piece.machine - each.machine, each.kind, each.access)
                          for vm, each in piece.users)
            shared = Shared(piece.machine, piece.size, users, why, justified, device=piece.all(DEVICE))
            joined = found[-1].joined(shared) if found else None
            if joined:
                found[-1] = joined
            else:
                found.append(shared)
            if len(found) > MOST_SHARED:
                self.doubts.append(f"more than {MOST_SHARED} ranges are shared: the rest was not looked at")
                break
        for each in found:
            if not each.justified:
                names = ", ".join(f"VM {one.vm} ({one.kind}, {one.access}, IPA {one.ipa:#x})" for one in each.users)
                text = f"machine {each.machine:#x}, {each.size:#x} bytes, reached by {names}: {each.why}"
                (self.doubts if each.justified is None else self.violations).append(text)
        return tuple(found)

    def _reason(self, piece: Piece) -> Reason:
        """Why several VMs may reach a range."""
        owners = piece.owners
        if piece.any(DEVICE):
            if not piece.all(DEVICE):
                return False, "memory for one, a device for the other"
            if self.tables.overlaps_ram(piece.machine, piece.size):
                return False, "RAM that several VMs use as a device"
            return True, "a device"
        if len(owners) > 1:
            return False, f"the memory of VM {owners[0]} and of VM {owners[1]} at once"
        if piece.count > MOST_USERS:
            return None, f"mapped {piece.count} times, too often to be looked at"
        answers = [self._borrowed(piece, vm.domain.number, each) for vm, each in piece.users
                   if vm.domain.number not in owners]
        # a violation says more than a doubt, and a doubt more than a reason
        return min(answers, key=lambda answer: (answer[0] is not False, answer[0] is not None))

    def _borrowed(self, piece: Piece, borrower: int, each: Mapping) -> Reason:
        """Why one VM may reach what is not its own."""
        owners = piece.owners
        if each.type in GRANT:
            return self._granted(piece, borrower, each)
        if each.type in FOREIGN and borrower == CONTROL:
            return None, f"VM {borrower} mapped it by privilege, and the file does not say who has it"
        if each.type in IOMMU and borrower == CONTROL:
            return None, f"VM {borrower} mapped it for a device, and the file does not say by which grant"
        if not owners:
            return None, f"{each.kind}, and the file does not say whose memory it is"
        return self._unexplained()

    def _granted(self, piece: Piece, borrower: int, each: Mapping) -> Reason:
        """Why one VM may reach a granted page."""
        if piece.size != PAGE:
            return False, "grants are mapped page by page"
        grant = self.grants.get((borrower, each.ipa + piece.machine - each.machine))
        if grant is None:
            return self._unexplained() if piece.owners else (None, "granted, and no VM of the file has it as its own")
        name = f"grant {grant.ref} of VM {grant.granter} to VM {borrower}"
        if grant.read_only and (each.write or each.type != P2mType.GRANT_MAP_RO):
            return False, f"{name} is read-only, the mapping is not"
        if not piece.owners:
            return None, f"{name}, but VM {grant.granter} does not map the page itself"
        if piece.owners != [grant.granter]:
            return False, f"{name}, but the page is the memory of VM {piece.owners[0]}"
        return True, f"{name}, {'read-only' if grant.read_only else 'writable'}"

    def _unexplained(self) -> Reason:
        if self.tables.grants is None:
            return None, "the file does not list the grants"
        return False, "no grant of the file explains it"


def _where(vm: Vm, each: Mapping) -> str:
    return f"VM {vm.domain.number}, {each.size:#x} bytes at IPA {each.ipa:#x}, machine {each.machine:#x}"


def _pieces(vms: Sequence[Vm]) -> Iterator[Piece]:
    """Cut machine memory wherever a mapping begins or ends; granted pages are cut one by one, as they were granted."""
    begins: dict[int, list[tuple[int, int]]] = collections.defaultdict(list)
    ends: dict[int, list[tuple[int, int]]] = collections.defaultdict(list)
    for number, vm in enumerate(vms):
        for index, each in enumerate(vm.pieces):
            begins[each.machine].append((number, index))
            ends[each.machine + each.size].append((number, index))
    active: set[tuple[int, int]] = set()
    for start, end in itertools.pairwise(sorted({*begins, *ends})):
        active.difference_update(ends.get(start, ()))
        active.update(begins.get(start, ()))
        chosen = sorted(active)
        if len(chosen) > MOST_USERS:
            # one of each kind says enough: such a range is never justified
            chosen = sorted({(number, vms[number].pieces[index].type): (number, index)
                             for number, index in chosen}.values())
        if chosen:
            users = tuple((vms[number], vms[number].pieces[index]) for number, index in chosen)
            yield Piece(start, end - start, len(active), users)
