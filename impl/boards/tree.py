"""What the nodes of a device tree mean: cells, addresses, interrupts, compatible strings; as Xen 4.17 reads them.

Sources: xen/common/device_tree.c (dt_device_get_address, dt_translate_one, dt_device_get_raw_irq, dt_irq_map_raw,
dt_find_matching_node, dt_device_is_available), xen/arch/arm/gic.c (gic_irq_xlate), xen/arch/arm/irq.c
(platform_get_irq); Devicetree Specification v0.4, sections 2.3 and 2.4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from impl.boards.blob import Blob, Node
from impl.boards.problems import BadBoard

_MOST_ADDRESS_CELLS: Final = 4      # DT_MAX_ADDR_CELLS
_MOST_INTERRUPT_CELLS: Final = 4    # DT_MAX_IRQ_SPEC
_MOST_STEPS: Final = 64             # from a device to its interrupt controller; a longer way is taken for a circle
_MOST_LISTED: Final = 16            # interrupts of one device that are listed
_MOST_TEXTS: Final = 64             # texts of one property that are looked at
_MOST_WORK: Final = 1 << 21         # cells of maps walked through; Linux's trees need fewer than 2**14
_MASK64 = (1 << 64) - 1
_FIRST_SPECIAL_INTID: Final = 1020  # Arm IHI 0048B, 2.2.1


@attrs.frozen
class Interrupt:
    """One interrupt of the GIC.

    intid: 16..31 is private to a CPU (PPI), 32..1019 is shared (SPI).
    trigger: 0 not said, 1 rising edge, 2 falling edge, 4 high level, 8 low level, as in the tree.
    """

    intid: int
    trigger: int

    @property
    def private(self) -> bool:
        """The interrupt is a PPI."""
        return self.intid < 32

    def __str__(self) -> str:
        """E.g. ``PPI 9`` or ``SPI 5``."""
        return f"PPI {self.intid - 16}" if self.private else f"SPI {self.intid - 32}"


@attrs.frozen
class Region:
    """A range of physical addresses: base and size in bytes, size at least 1 where a device is."""

    base: int
    size: int

    @property
    def end(self) -> int:
        """The address after the last byte."""
        return self.base + self.size

    def overlaps(self, other: Region) -> bool:
        """The two have a byte in common."""
        return self.base < other.end and other.base < self.end

    def __str__(self) -> str:
        """Base and size in hexadecimal."""
        return f"{self.base:#x} size {self.size:#x}"


def number(cells: Iterable[int]) -> int:
    """Cells of 32 bits as one number; what is above 64 bits is lost, as in Xen's dt_read_number."""
    value = 0
    for cell in cells:
        value = (value << 32 | cell) & _MASK64
    return value


def cells(value: bytes) -> list[int]:
    """The 32-bit cells of a property's value; an incomplete last cell is left out."""
    count = len(value) // 4
    return list(struct.unpack_from(f">{count}I", value))


def cell(node: Node, name: str) -> int | None:
    """The first cell of a property, or None where the property is missing.

    Errors: BadBoard if the value is shorter than a cell.
    """
    value = node.properties.get(name)
    if value is None:
        return None
    if len(value) < 4:
        raise BadBoard(f"{name} of {node.path} is shorter than one cell")
    return int.from_bytes(value[:4], "big")


def strings(node: Node, name: str) -> list[str]:
    """The first texts of a property, without empty ones, at most 64; signs beyond ASCII become a question mark."""
    parts = node.properties.get(name, b"").split(b"\0", _MOST_TEXTS)[:_MOST_TEXTS]
    return [part.decode("ascii", "replace").replace("\ufffd", "?") for part in parts if part]


def string(node: Node, name: str) -> str | None:
    """The first text of a property, or None where there is none."""
    found = strings(node, name)
    return found[0] if found else None


def is_compatible(node: Node, names: Iterable[str]) -> bool:
    """One of the node's compatible strings is among names; upper and lower case are the same, as for Xen."""
    mine = {text.lower() for text in strings(node, "compatible")}
    return any(name.lower() in mine for name in names)


def is_available(node: Node) -> bool:
    """The node's status does not switch it off.  Source: dt_device_is_available."""
    status = node.properties.get("status")
    return status is None or status.split(b"\0")[0] in {b"okay", b"ok"}


def _inherited(node: Node, name: str, default: int) -> int:
    """A count of cells for a node's own reg: its parent's property, or that of the nearest ancestor that has it."""
    at = node.parent if node.parent is not None else node
    while True:
        count = cell(at, name)
        if count is not None:
            return count
        if at.parent is None:
            return default
        at = at.parent


def address_cells(node: Node) -> int:
    """Cells of an address in the node's reg.  Source: dt_n_addr_cells."""
    return _inherited(node, "#address-cells", 2)


def size_cells(node: Node) -> int:
    """Cells of a size in the node's reg.  Source: dt_n_size_cells."""
    return _inherited(node, "#size-cells", 1)


def _is_pci(node: Node) -> bool:
    """The node is a PCI bus, whose children have no addresses that a CPU uses."""
    return string(node, "device_type") in {"pci", "pciex", "vci", "ht"} or node.name.split("@")[0] in {"pci", "pcie"}


class Tree:
    """A parsed blob with what is asked of it as a whole: phandles, compatible nodes, interrupts."""

    def __init__(self, blob: Blob) -> None:
        self.blob = blob
        self.root = blob.root
        self.nodes = blob.nodes
        self._handles: dict[int, Node] = {}
        for node in blob.nodes:
            self._handles.setdefault(_phandle(node), node)
        self._triggers: dict[int, int] = {}
        self._left = _MOST_WORK
        self._compatible = [(node, {text.lower() for text in strings(node, "compatible")}) for node in blob.nodes
                            if "compatible" in node.properties]

    def _spend(self, work: int) -> None:
        """Count cells that are walked through: a tree that wants too many is refused, before anybody waits for it.

        Errors: BadBoard.
        """
        self._left -= work
        if self._left < 0:
            raise BadBoard("the maps of addresses and interrupts in the device tree are too long")

    def handle(self, phandle: int) -> Node | None:
        """The first node with this phandle.  Source: dt_find_node_by_phandle."""
        return self._handles.get(phandle)

    def matching(self, *names: str) -> Iterator[Node]:
        """The nodes with one of these compatible strings, in the order of the tree.  Source: dt_find_matching_node."""
        wanted = {name.lower() for name in names}
        for node, mine in self._compatible:
            if not wanted.isdisjoint(mine):
                yield node

    def first(self, *names: str) -> Node | None:
        """The first node with one of these compatible strings."""
        return next(self.matching(*names), None)

    def at(self, path: str) -> Node | None:
        """The node with this path, which begins with a slash; case does not matter, as for Xen."""
        at = self.root
        for name in path.strip("/").split("/"):
            if not name:
                continue
            found = [child for child in at.children if child.name.lower() == name.lower()]
            if not found:
                return None
            at = found[0]
        return at

    def named(self, path_or_alias: str) -> Node | None:
        """The node of a path, or of an alias (a property of /aliases)."""
        if path_or_alias.startswith("/"):
            return self.at(path_or_alias)
        aliases = self.at("/aliases")
        path = string(aliases, path_or_alias) if aliases is not None else None
        return self.at(path) if path is not None and path.startswith("/") else None

    def region(self, node: Node, index: int) -> Region | None:
        """The index-th region of a node's reg as physical addresses, or None where Xen finds none.

        index: at least 0.
        Errors: BadBoard if a count of cells is malformed.
        Source: dt_device_get_address.
        """
        if node.parent is None or _is_pci(node.parent):
            return None
        if node.parent.parent is not None and "ranges" not in node.parent.properties:
            return None
        na, ns = address_cells(node), size_cells(node)
        if not 0 < na <= _MOST_ADDRESS_CELLS or not 0 < ns <= _MOST_ADDRESS_CELLS:
            return None
        one = 4 * (na + ns)
        entry = cells(node.properties.get("reg", b"")[index * one:(index + 1) * one])
        if len(entry) < na + ns:
            return None
        base = self._translate(node, entry[:na], ns)
        return None if base is None else Region(base, number(entry[na:]))

    def _translate(self, node: Node, address: list[int], ns: int) -> int | None:
        """An address of a node as the CPU sees it, or None where a bus on the way does not pass it on.

        address: the cells of the address on the node's own bus; ns: cells of a size there.
        Source: __dt_translate_address.
        """
        na = len(address)
        bus = node.parent
        while bus is not None and bus.parent is not None:
            if bus.parent.parent is not None and "ranges" not in bus.parent.properties:
                return None
            if _is_pci(bus) or _is_pci(bus.parent):
                return None
            pna, pns = address_cells(bus), size_cells(bus)
            if not 0 < pna <= _MOST_ADDRESS_CELLS or not 0 < pns <= _MOST_ADDRESS_CELLS:
                return None
            ranges = bus.properties.get("ranges")
            if ranges is None:
                return None
            if ranges:
                moved = self._through(cells(ranges), address, na, ns, pna)
            else:
                # empty ranges: the same address on both sides
                moved = number(address)
            if moved is None:
                return None
            address = [moved >> 32, moved & 0xFFFFFFFF] if pna > 1 else [moved & 0xFFFFFFFF]
            address = [0] * (pna - len(address)) + address
            na, ns = pna, pns
            bus = bus.parent
        return number(address)

    def _through(self, ranges: list[int], address: list[int], na: int, ns: int, pna: int) -> int | None:
        """An address moved through the first entry of ranges that holds it; None if none does."""
        self._spend(len(ranges))
        one = na + pna + ns
        wanted = number(address)
        for i in range(0, len(ranges) - one + 1, one):
            child, parent, size = ranges[i:i + na], ranges[i + na:i + na + pna], ranges[i + na + pna:i + one]
            start = number(child)
            # with more than two cells the address names a thing, and must match exactly
            if na > 2 and child != address:
                continue
            if start <= wanted < (start + number(size)) & _MASK64:
                return (number(parent) + wanted - start) & _MASK64
        return None

    def interrupt(self, node: Node, index: int, controller: Node) -> Interrupt | None:
        """The index-th interrupt of a device at the GIC, or None where Xen finds none.

        index: at least 0; controller: the node of the GIC.
        Errors: BadBoard if the tree of interrupts goes in a circle, or a number is beyond the GIC's.
        Source: platform_get_irq; gic_irq_xlate.
        """
        raw = self._raw_interrupt(node, index)
        if raw is None or raw[0] is not controller or len(raw[1]) < 3:
            return None
        kind, line, flags = raw[1][:3]
        intid = line + (16 if kind else 32)
        if intid >= _FIRST_SPECIAL_INTID:
            raise BadBoard(f"{node.path} has interrupt {intid}, beyond the GIC's 1019")
        trigger = flags & 0xF
        # a line has one trigger; who asks second must ask for the same
        if self._triggers.setdefault(intid, trigger) != trigger:
            return None
        return Interrupt(intid, trigger)

    def interrupts(self, node: Node, controller: Node) -> list[Interrupt]:
        """All interrupts of a device at the GIC, from the first on without a gap; at most 16."""
        found: list[Interrupt] = []
        while len(found) < _MOST_LISTED and (one := self.interrupt(node, len(found), controller)) is not None:
            found.append(one)
        return found

    def _raw_interrupt(self, node: Node, index: int) -> tuple[Node, list[int]] | None:
        """The controller and the specifier of a device's index-th interrupt.  Source: dt_device_get_raw_irq."""
        reg = node.properties.get("reg")
        unit = cells(reg) if reg is not None else None
        extended = self._extended(node, index)
        if extended is not None:
            return self._map(extended[0], extended[1], unit)
        lines = node.properties.get("interrupts")
        if lines is None:
            return None
        parent = self._interrupt_parent(node)
        if parent is None:
            return None
        size = cell(parent, "#interrupt-cells")
        if size is None or not 0 < size <= _MOST_INTERRUPT_CELLS:
            return None
        specifier = cells(lines[index * size * 4:(index + 1) * size * 4])
        if len(specifier) < size:
            return None
        return self._map(parent, specifier, unit)

    def _extended(self, node: Node, index: int) -> tuple[Node, list[int]] | None:
        """The index-th entry of interrupts-extended.  Source: dt_parse_phandle_with_args."""
        left = cells(node.properties.get("interrupts-extended", b""))
        self._spend(len(left))
        place = entry = 0
        while place < len(left):
            parent = self.handle(left[place]) if left[place] else None
            place += 1
            count = 0
            if left[place - 1]:
                size = cell(parent, "#interrupt-cells") if parent is not None else None
                if size is None or size > len(left) - place:
                    return None
                count = size
            if entry == index:
                return None if parent is None else (parent, left[place:place + count])
            place += count
            entry += 1
        return None

    def _interrupt_parent(self, node: Node) -> Node | None:
        """The nearest node up the tree of interrupts that counts interrupt cells.  Source: dt_irq_find_parent."""
        at: Node | None = node
        for _ in range(_MOST_STEPS):
            if at is None:
                return None
            handle = cell(at, "interrupt-parent")
            at = at.parent if handle is None else self.handle(handle)
            if at is not None and "#interrupt-cells" in at.properties:
                return at
        raise BadBoard(f"the interrupt parents of {node.path} go in a circle")

    def _map(self, parent: Node, specifier: list[int], unit: list[int] | None) -> tuple[Node, list[int]] | None:
        """Follow interrupt-maps from a parent to an interrupt controller.

        unit: the cells of the device's reg, or None where it has none.
        Source: dt_irq_map_raw.
        """
        at: Node | None = parent
        cells_here = cell(parent, "#interrupt-cells")
        if cells_here is None or cells_here != len(specifier):
            return None
        unit_cells = self._unit_cells(parent)
        for _ in range(_MOST_STEPS):
            if at is None:
                return None
            if "interrupt-controller" in at.properties:
                return (at, specifier) if len(specifier) <= _MOST_INTERRUPT_CELLS else None
            mapping = at.properties.get("interrupt-map")
            if mapping is None:
                at = self._interrupt_parent(at)
                continue
            if unit is None and unit_cells:
                return None
            own = (unit or [])[:unit_cells]
            if len(own) < unit_cells:
                return None
            found = self._lookup(at, cells(mapping), own + specifier)
            if found is None:
                return None
            at, unit, specifier = found
            unit_cells = len(unit)
        raise BadBoard(f"the interrupt maps from {parent.path} go in a circle")

    @staticmethod
    def _unit_cells(parent: Node) -> int:
        """#address-cells of a node or of its nearest ancestor that says; 2 where none does."""
        at: Node | None = parent
        while at is not None:
            count = cell(at, "#address-cells")
            if count is not None:
                return count
            at = at.parent
        return 2

    def _lookup(self, at: Node, mapping: list[int], wanted: list[int]) -> tuple[Node, list[int], list[int]] | None:
        """The entry of an interrupt-map that matches: the new parent, its unit address and its specifier."""
        mask = [0xFFFFFFFF] * len(wanted)
        if "interrupt-map-mask" in at.properties:
            mask = cells(at.properties["interrupt-map-mask"])
            if len(mask) < len(wanted):
                raise BadBoard(f"interrupt-map-mask of {at.path} is too short")
        self._spend(len(mapping))
        place = 0
        while len(mapping) - place > len(wanted) + 1:
            child = mapping[place:place + len(wanted)]
            place += len(wanted)
            parent = self.handle(mapping[place])
            place += 1
            size = cell(parent, "#interrupt-cells") if parent is not None else None
            if parent is None or size is None:
                return None
            unit = cell(parent, "#address-cells") or 0
            if size + unit > len(mapping) - place:
                return None
            if all((a ^ b) & m == 0 for a, b, m in zip(child, wanted, mask, strict=False)):
                return parent, mapping[place:place + unit], mapping[place + unit:place + unit + size]
            place += unit + size
        return None


def _phandle(node: Node) -> int:
    """The node's phandle; 0 where it has none."""
    for name in ("phandle", "linux,phandle", "ibm,phandle"):
        value = node.properties.get(name)
        if value is not None and len(value) >= 4:
            return int.from_bytes(value[:4], "big")
    return 0
