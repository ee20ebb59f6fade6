"""A running QEMU: where its RAM is, and which VMs its processors run.

Through QMP the machine is stopped while its memory is read, and goes on afterwards if it ran before.  Through the gdb
stub the registers of the processors are read, again and again, until no further VM turns up: only who has Xen's symbols
need not wait for every VM to run.
"""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import Any, Final

import attrs
from rich.console import Console

from bulkhead.auditor.image import Image, read, spans
from bulkhead.auditor.vms import Vm, vm_of
from bulkhead.problems import BadInputError
from impl.xen.errors import QemuError
from impl.xen.qemu import Monitor, Stub

ENOUGH: Final = 24
"""Looks in a row that show no new VM."""
MOST_LOOKS: Final = 120
_APART: Final = (0.01, 0.023, 0.037, 0.051, 0.07)
"""Seconds between looks: unequal, so that they do not keep step with a scheduler."""
_REGION: Final = re.compile(r"^\s+([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, ram\): (\S+)(?: @([0-9a-f]+))?")
_REGISTERS: Final = {False: ("VTTBR_EL2", "VTCR_EL2"), True: ("VTTBR", "VTCR")}


@attrs.frozen
class Region:
    """RAM as QEMU lays it out: machine address, size and offset in its backing memory [bytes]."""

    name: str
    base: int
    size: int
    offset: int


class Live:
    """A connection to a running QEMU. qmp, gdb: its sockets. Errors: BadInputError."""

    def __init__(self, qmp: pathlib.Path, gdb: pathlib.Path | None) -> None:
        self.gdb = gdb
        for path in (qmp, gdb):
            if path is not None and not path.is_socket():
                raise BadInputError(f"{path}: no socket")
        with _told():
            self.monitor = Monitor(qmp)
            self.ran = bool(self.monitor.command("query-status")["running"])

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """The machine stands still meanwhile."""
        with _told():
            self.monitor.command("stop")
        try:
            yield
        finally:
            if self.ran:
                with _told():
                    self.monitor.command("cont")

    def regions(self) -> list[Region]:
        """The machine's RAM: of all memory that QEMU has, the largest part."""
        with _told():
            text = self._command("human-monitor-command", **{"command-line": "info mtree -f"})
        by_name: dict[str, set[Region]] = {}
        for view in str(text).split("FlatView"):
            if 'AS "memory"' in view:
                for line in view.splitlines():
                    if found := _REGION.match(line):
                        first, last, offset = (int(each or "0", 16) for each in found.group(1, 2, 4))
                        region = Region(found.group(3), first, last + 1 - first, offset)
                        by_name.setdefault(region.name, set()).add(region)
        if not by_name:
            raise BadInputError("QEMU does not say where its RAM is: give --ram")
        largest = max(by_name.values(), key=lambda each: sum(one.size for one in each))
        return sorted(largest, key=lambda each: each.base)

    def _command(self, name: str, **arguments: Any) -> Any:
        return self.monitor.command(name, **arguments)

    @contextlib.contextmanager
    def image(self) -> Iterator[Image]:
        """The machine's memory: the file behind its RAM if it can be read, else a copy that QEMU writes."""
        regions = self.regions()
        ram = spans((each.base, each.size) for each in regions)
        path = self._backing(regions)
        if path is not None:
            yield read(path, ram)
            return
        with tempfile.TemporaryDirectory(prefix="bulkhead-audit-") as name:
            whole, part = pathlib.Path(name) / "ram", pathlib.Path(name) / "part"
            with whole.open("wb") as file, _busy("QEMU writes a copy of the machine's memory"):
                for base, size in ram:
                    with _told():
                        self._command("pmemsave", val=base, size=size, filename=str(part))
                    with part.open("rb") as saved:
                        shutil.copyfileobj(saved, file)
                    part.unlink()
            yield read(whole, ram)

    def _backing(self, regions: list[Region]) -> pathlib.Path | None:
        """The one file that holds all RAM in the order of addresses, if there is one and it still has its name."""
        if any(after.offset != before.offset + before.size for before, after in itertools.pairwise(regions)):
            return None
        with _told():
            whole = sum(each.size for each in regions)
            backends = [each for each in self._command("query-memdev") if each["size"] == whole]
            if regions[0].offset or len(backends) != 1:
                return None
            try:
                path = pathlib.Path(self._command("qom-get", path=f"/objects/{backends[0]['id']}", property="mem-path"))
            except QemuError:
                return None
        return path if path.is_file() and path.stat().st_size == backends[0]["size"] else None

    def architecture(self) -> bool:
        """Whether the machine is arm32."""
        with _told():
            return bool(self._command("query-target")["arch"] == "arm")

    def vms(self) -> list[Vm]:
        """The VMs that were seen to run, by the registers of the processors; the machine runs meanwhile."""
        if self.gdb is None:
            raise BadInputError("the VMs are not known: give --vms, --symbols, or --gdb")
        if not self.ran:
            raise BadInputError("the machine is stopped, and its VMs cannot be watched: give --symbols or --vms")
        seen: dict[int, int] = {}
        quiet = 0
        with _busy("watching the processors for VMs"):
            for look in range(MOST_LOOKS):
                before = len(seen)
                seen.update(self._look())
                quiet = quiet + 1 if len(seen) == before else 0
                if quiet >= ENOUGH and seen:
                    break
                time.sleep(_APART[look % len(_APART)])
        arm32 = self.architecture()
        return [vm_of(f"vmid{vttbr >> 48}", vttbr, vtcr, arm32=arm32) for vttbr, vtcr in sorted(seen.items())]

    def _look(self) -> dict[int, int]:
        """VTTBR and VTCR of each processor that has one."""
        assert self.gdb is not None
        names = _REGISTERS[self.architecture()]
        with self.stopped(), _told():
            count = len(self._command("query-cpus-fast"))
            stub = Stub(self.gdb)
            try:
                found = [(stub.register(names[0], cpu), stub.register(names[1], cpu)) for cpu in range(count)]
            finally:
                stub.close()
        return {vttbr: vtcr & 0xFFFFFFFF for vttbr, vtcr in found if vttbr >> 48 and vttbr & 0xFFFF_FFFF_F000}

    def close(self) -> None:
        """Hang up."""
        self.monitor.close()


@contextlib.contextmanager
def _busy(text: str) -> Iterator[None]:
    """Say what takes some seconds: with a sign of life on a terminal, as a line elsewhere."""
    out = Console(stderr=True, highlight=False)
    if out.is_terminal:
        with out.status(text):
            yield
        return
    out.print(text)
    yield


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """A failure of QEMU's is one line to the user."""
    try:
        yield
    except QemuError as problem:
        raise BadInputError(str(problem)) from None
