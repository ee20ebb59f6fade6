"""``bulkhead audit``: find memory, VMs and Xen's records, judge, and print the answer."""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
import sys
from collections.abc import Iterator

import attrs
from rich.console import Console

from bulkhead.audit import ISOLATED
from bulkhead.auditor import lookup, report, symbols, vms
from bulkhead.auditor.image import ADDRESS_LIMIT, Image, Span, read
from bulkhead.auditor.judge import Verdict, judge
from bulkhead.auditor.live import Live
from bulkhead.auditor.page import page
from bulkhead.auditor.vms import Given, Vm
from bulkhead.auditor.xen_memory import Xen
from bulkhead.problems import FAILS, HOLDS, BadInputError


@attrs.frozen
class Request:
    """What the user asks.

    image: None with a running QEMU, whose RAM is then found.  ram: banks, a size of 0 is the file's.
    arm32: None if it was not said.  address: only who reaches this one.  html: a page to write.
    """

    image: pathlib.Path | None = None
    vms: pathlib.Path | None = None
    ram: tuple[Span, ...] = ()
    arm32: bool | None = None
    symbols: pathlib.Path | None = None
    xen: int | None = None
    qmp: pathlib.Path | None = None
    gdb: pathlib.Path | None = None
    address: int | None = None
    html: pathlib.Path | None = None
    as_json: bool = False


def run(request: Request) -> int:
    """The exit code: 0 isolated, or an address was looked up; 1 not. Errors: BadInputError."""
    if request.address is not None and not 0 <= request.address < ADDRESS_LIMIT:
        raise BadInputError(f"{request.address:#x} is no machine address of 48 bits")
    if request.html is not None and request.html.exists():
        raise BadInputError(f"{request.html}: exists already, and is not overwritten")
    with audited(request) as found:
        return _answer(request, found)


@contextlib.contextmanager
def audited(request: Request) -> Iterator[Verdict]:
    """The answer to a request; a running machine stands still meanwhile. Errors: BadInputError."""
    given = vms.read(request.vms) if request.vms else Given()
    if request.symbols or request.xen is not None:
        given = attrs.evolve(given, symbols=request.symbols or given.symbols,
                             xen=given.xen if request.xen is None else request.xen)
    ram = request.ram or given.ram
    if request.qmp is None:
        if request.gdb is not None:
            raise BadInputError("--gdb needs --qmp too")
        if request.image is None:
            raise BadInputError("give an image, or --qmp with the socket of a running QEMU")
        yield _judged(request, given, read(request.image, ram), ())
        return
    live = Live(request.qmp, request.gdb)
    try:
        known = given.symbols is not None or bool(given.vms)
        watched = () if known else tuple(live.vms())
        with live.stopped():
            if request.image is not None:
                ram = ram or tuple((each.base, each.size) for each in live.regions())
                yield _judged(request, given, read(request.image, ram), watched, live)
            else:
                with live.image() as image:
                    yield _judged(request, given, image, watched, live)
    finally:
        live.close()


def _judged(request: Request, given: Given, image: Image, watched: tuple[Vm, ...], live: Live | None = None) -> Verdict:
    unchecked: list[str] = []
    xen = None
    names = None if given.symbols is None else symbols.read(given.symbols)
    said = [each for each in (request.arm32, given.arm32, image.arm32, names.arm32 if names else None,
                              live.architecture() if live else None) if each is not None]
    if names is not None:
        try:
            xen = Xen(image, names, given.xen)
        except BadInputError as problem:
            if not given.vms and not watched:
                raise
            unchecked.append(f"owners of frames and grants in use: {problem}")
    if given.vms:
        if not said:
            raise BadInputError("nobody says whether the machine is arm64 or arm32: give --arch")
        chosen = [vms.vm_of(name, vttbr, vtcr, arm32=said[0], domain=domain) for name, domain, vttbr, vtcr in given.vms]
    elif xen is not None:
        chosen = xen.vms()
    else:
        chosen = list(watched)
        unchecked.append("VMs that did not run while they were watched for")
        unchecked.append("owners of frames and grants in use: no symbols of Xen were given")
    if not chosen:
        raise BadInputError("the VMs are not known: give --vms, --symbols, or --qmp and --gdb")
    return judge(image, vms.distinct(chosen), xen, unchecked)


def _answer(request: Request, found: Verdict) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        # an image may have a name with letters that this terminal does not know
        sys.stdout.reconfigure(errors="backslashreplace")
    out = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if request.html is not None:
        try:
            with request.html.open("x", encoding="utf-8") as file:
                file.write(page(found))
        except OSError as problem:
            raise BadInputError(f"{request.html}: {problem.strerror or 'cannot be written'}") from None
    if request.address is not None:
        answer = lookup.look(found, request.address)
        if request.as_json:
            sys.stdout.write(json.dumps(answer.document()) + "\n")
        else:
            report.show_address(answer, out)
        return HOLDS
    if request.as_json:
        sys.stdout.write(json.dumps(report.document(found)) + "\n")
    else:
        report.show(found, out)
        if request.html is not None:
            out.print(f"The map is in {request.html}")
    return HOLDS if found.verdict == ISOLATED else FAILS
