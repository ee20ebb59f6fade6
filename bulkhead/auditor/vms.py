"""The VMs of an image, and what else a small TOML file says of the machine.

.. code-block:: toml

   version = 1

   [machine]
   architecture = "arm64"              # or "arm32"
   ram = [[0x40000000, 0x40000000]]    # base and size of each bank [bytes]

   [xen]                               # what Xen itself knows; may be left out
   symbols = "xen-syms-4.17-arm64.map" # beside this file
   address = 0x40200000                # machine address of Xen's first byte; it is searched for otherwise

   [[vm]]                              # may be left out where Xen's symbols are given
   name = "dom0"
   domain = 0                          # Xen's number; may be left out
   vttbr = 0x0001000042000000
   vtcr = 0x80043594
"""

from __future__ import annotations

import pathlib
import tomllib
from typing import Any, Final

import attrs

from bulkhead.auditor.image import Span, spans
from bulkhead.problems import BadInputError
from bulkhead.tables import printable
from impl.fast.geometry import Geometry, GeometryError

MOST_VMS: Final = 4096
FIRST_RESERVED_DOMID: Final = 0x7FF0
VERSION: Final = 1


@attrs.frozen
class Vm:
    """One VM.

    vttbr, vtcr: its registers.  geometry: what they mean.  domain: Xen's number, None if it is not known.
    """

    name: str
    vttbr: int
    vtcr: int
    geometry: Geometry
    domain: int | None = None

    @property
    def root(self) -> int:
        """Machine address of the first table [bytes]."""
        return self.geometry.root_of(self.vttbr)

    @property
    def vmid(self) -> int:
        """VMID, of 8 bits, or of 16 where VTCR says so."""
        bits = 16 if not self.geometry.arm32 and self.vtcr >> 19 & 1 else 8
        return self.vttbr >> 48 & ((1 << bits) - 1)


@attrs.frozen
class Given:
    """What a file of VMs says; arm32 is None, and the rest empty, where it says nothing."""

    arm32: bool | None = None
    ram: tuple[Span, ...] = ()
    symbols: pathlib.Path | None = None
    xen: int | None = None
    vms: tuple[tuple[str, int | None, int, int], ...] = ()


def vm_of(name: str, vttbr: int, vtcr: int, *, arm32: bool, domain: int | None = None) -> Vm:
    """A VM by its registers. Errors: BadInputError if they fit no walk."""
    try:
        geometry = Geometry.of_vtcr(vtcr, arm32)
    except GeometryError as problem:
        raise BadInputError(f"VM {name}: {problem}") from None
    vm = Vm(name, vttbr, vtcr, geometry, domain)
    if vm.root % 4096:
        raise BadInputError(f"VM {name}: the first table {vm.root:#x} is no page, as Xen's are")
    return vm


def distinct(vms: list[Vm]) -> tuple[Vm, ...]:
    """The VMs, each under a name and a number of its own. Errors: BadInputError."""
    if len(vms) > MOST_VMS:
        raise BadInputError(f"{len(vms)} VMs, at most {MOST_VMS} are looked at")
    for what in ("name", "domain", "vttbr"):
        seen: set[object] = set()
        for each in vms:
            value = getattr(each, what)
            if value is not None and value in seen:
                shown = f"{value:#x}" if what == "vttbr" else value
                raise BadInputError(f"two VMs have the same {what}, {shown}")
            seen.add(value)
    return tuple(vms)


def read(path: pathlib.Path) -> Given:
    """The file of VMs. Errors: BadInputError with what is wrong in it."""
    name = printable(str(path), 200)
    try:
        with path.open("rb") as file:
            return _understand(tomllib.load(file), path.parent)
    except BadInputError as problem:
        raise BadInputError(f"{name}: {problem}") from None
    except OSError as problem:
        raise BadInputError(f"{name}: {problem.strerror or 'cannot be read'}") from None
    except (ValueError, RecursionError) as problem:
        raise BadInputError(f"{name}: not TOML: {printable(str(problem))}") from None


def _understand(found: dict[str, Any], folder: pathlib.Path) -> Given:
    _known(found, {"version", "machine", "xen", "vm"}, "the file")
    if found.get("version", VERSION) != VERSION:
        raise BadInputError(f"version {printable(str(found['version']), 20)} is not known, only {VERSION}")
    machine, xen = _table(found, "machine"), _table(found, "xen")
    _known(machine, {"architecture", "ram"}, "[machine]")
    _known(xen, {"symbols", "address"}, "[xen]")
    architecture = machine.get("architecture")
    if architecture not in (None, "arm64", "arm32"):
        raise BadInputError("architecture must be arm64 or arm32")
    ram = machine.get("ram", [])
    if not isinstance(ram, list) or not all(
            isinstance(each, list) and len(each) == 2 and all(_whole(one) for one in each) for each in ram):
        raise BadInputError("ram must be a list of [base, size]")
    symbols = xen.get("symbols")
    if symbols is not None and not isinstance(symbols, str):
        raise BadInputError("symbols must be the name of a file")
    vms = found.get("vm", [])
    if not isinstance(vms, list) or not all(isinstance(each, dict) for each in vms):
        raise BadInputError("each VM is a table [[vm]]")
    return Given(
        None if architecture is None else architecture == "arm32", spans(ram) if ram else (),
        None if symbols is None else folder / symbols,
        _number(xen, "address", 1 << 48, "[xen]") if "address" in xen else None,
        tuple(_vm(each, place) for place, each in enumerate(vms)))


def _vm(found: dict[str, Any], place: int) -> tuple[str, int | None, int, int]:
    _known(found, {"name", "domain", "vttbr", "vtcr"}, f"VM number {place}")
    domain = _number(found, "domain", FIRST_RESERVED_DOMID, f"VM number {place}") if "domain" in found else None
    name = found.get("name", f"dom{domain}" if domain is not None else f"vm{place}")
    if not isinstance(name, str) or not name or printable(name, 40) != name:
        raise BadInputError(f"the name of VM number {place} must be a text of at most 40 printable characters")
    where = f"VM {name}"
    return name, domain, _number(found, "vttbr", 1 << 64, where), _number(found, "vtcr", 1 << 64, where)


def _table(found: dict[str, Any], name: str) -> dict[str, Any]:
    value = found.get(name, {})
    if not isinstance(value, dict):
        raise BadInputError(f"[{name}] must be a table")
    return value


def _known(found: dict[str, Any], names: set[str], where: str) -> None:
    strange = sorted(found.keys() - names)
    if strange:
        known = ", ".join(sorted(names))
        raise BadInputError(f"{where} has an unknown {printable(strange[0], 40)!r}: known are {known}")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(found: dict[str, Any], name: str, limit: int, where: str) -> int:
    value = found.get(name)
    if not _whole(value) or not 0 <= int(value or 0) < limit:
        raise BadInputError(f"{name} of {where} must be a whole number from 0 to {limit - 1:#x}")
    return int(value or 0)
