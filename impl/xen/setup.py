"""Set up real Xen: ``python -m impl.xen.setup [FOLDER]``, which ``make conformance-setup`` calls.

It installs QEMU and two cross compilers from Debian (root is needed for that, and only if they are missing), fetches
Debian's packages of the Xen hypervisor for arm64 and armhf, which are unpacked and not installed, and builds the guest
payload from its source here.  apt verifies what it fetches, in a folder of its own: the machine's list of
architectures stays as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, Final

from impl.boards.vendor import FetchError, private_apt, run_tool
from impl.xen.install import ARCHITECTURES, FORMAT, QEMU, SOURCE, VERSIONS, Arch, folder, sha256, source_sums

XEN: Final = "4.17"
_TOOLS: Final = {
    "qemu-system-aarch64": "qemu-system-arm", "qemu-system-arm": "qemu-system-arm",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu", "arm-linux-gnueabihf-gcc": "gcc-arm-linux-gnueabihf",
    "setpriv": "util-linux",
}
_COMPILERS: Final[dict[Arch, str]] = {"arm64": "aarch64-linux-gnu-", "armhf": "arm-linux-gnueabihf-"}
_FLAGS: Final = (
    "-O2", "-std=gnu11", "-ffreestanding", "-fno-builtin", "-fpie", "-fno-stack-protector", "-fno-jump-tables",
    "-fno-asynchronous-unwind-tables", "-mgeneral-regs-only", "-Wall", "-Wextra", "-Werror",
    "-nostdlib", "-static", "-Wl,-pie,--no-dynamic-linker,-z,notext,--build-id=none,--no-warn-rwx-segments",
)
_MACHINE_FLAGS: Final[dict[Arch, tuple[str, ...]]] = {
    "arm64": ("-mstrict-align", "-mno-outline-atomics"),
    "armhf": ("-marm", "-march=armv7ve", "-mfpu=vfpv3-d16", "-mno-unaligned-access"),
}
_HEADS: Final[dict[Arch, str]] = {"arm64": "head64.S", "armhf": "head32.S"}

Say = Callable[[str], None]


def install_tools(say: Say) -> None:
    """Install what is missing of QEMU and the compilers, with apt. Errors: FetchError."""
    missing = sorted({package for tool, package in _TOOLS.items() if shutil.which(tool) is None})
    if not missing:
        say("QEMU and the cross compilers are installed")
        return
    if os.geteuid() != 0:
        raise FetchError(f"root is needed once, to install {', '.join(missing)} with apt-get")
    say(f"installing {', '.join(missing)} with apt-get")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    here = pathlib.Path()
    run_tool(["apt-get", "-q", "update"], environment, here)
    run_tool(["apt-get", "-q", "install", "-y", "--no-install-recommends", *missing], environment, here)


def fetch_xen(target: pathlib.Path, say: Say, *, symbols: bool = True) -> dict[str, Any]:
    """Fetch and unpack Xen for both architectures; for each: package, version, SHA-256 of the package and the binary.

    symbols: fetch the names of Xen's symbols as well (xen-syms-ARCH). Errors: FetchError.
    """
    known: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bulkhead-xen-") as name:
        work = pathlib.Path(name)
        environment = private_apt(work)
        say("fetching Debian's list of packages for arm64 and armhf")
        run_tool(["apt-get", "-q", "update"], environment, work)
        for arch in ARCHITECTURES:
            package = f"xen-hypervisor-{XEN}-{arch}"
            say(f"fetching {package}")
            archive = _download(package, arch, environment, work)
            root = work / arch
            run_tool(["dpkg-deb", "-x", str(archive), str(root)], environment, work)
            binary = root / "boot" / f"xen-{XEN}-{arch}"
            if not binary.is_file():
                raise FetchError(f"{archive.name} has no boot/xen-{XEN}-{arch}")
            shutil.copyfile(binary, target / f"xen-{arch}")
            version = run_tool(["dpkg-deb", "-f", str(archive), "Version"], environment, work).strip()
            known[arch] = {"package": package, "version": version, "package_sha256": sha256(archive),
                           "sha256": sha256(binary)}
            if symbols:
                debug = _download(f"{package}-dbg", arch, environment, work)
                run_tool(["dpkg-deb", "-x", str(debug), str(root)], environment, work)
                table = next(iter(sorted(root.rglob("xen-syms*.map"))), None)
                if table is None:
                    raise FetchError(f"{debug.name} has no xen-syms*.map")
                shutil.copyfile(table, target / f"xen-syms-{arch}")
    return known


def _download(package: str, arch: str, environment: dict[str, str], work: pathlib.Path) -> pathlib.Path:
    run_tool(["apt-get", "-q", "download", f"{package}:{arch}"], environment, work)
    archive = next(iter(sorted(work.glob(f"{package}_*.deb"))), None)
    if archive is None:
        raise FetchError(f"apt did not leave {package} behind")
    return archive


def build_payload(target: pathlib.Path, arch: Arch) -> pathlib.Path:
    """Compile the payload for one architecture; the image. Errors: FetchError with the compiler's last line."""
    compiler = _COMPILERS[arch]
    image = target / f"payload-{arch}.img"
    with tempfile.TemporaryDirectory(prefix="bulkhead-payload-") as name:
        work = pathlib.Path(name)
        linked = work / "payload.elf"
        sources = [str(SOURCE / _HEADS[arch]), str(SOURCE / "payload.c")]
        # the division of 64-bit numbers of the 32-bit compiler is in libgcc
        run_tool([f"{compiler}gcc", *_FLAGS, *_MACHINE_FLAGS[arch], f"-Wl,-T,{SOURCE / 'payload.lds'}", "-o",
                  str(linked), *sources, "-lgcc"], {**os.environ, "LC_ALL": "C"}, work)
        # the header of a zImage says 64 KB
        run_tool([f"{compiler}objcopy", "-O", "binary", "--pad-to", "0x10000", str(linked), str(work / "image")],
             dict(os.environ), work)
        shutil.copyfile(work / "image", image)
    return image


def set_up(target: pathlib.Path, say: Say, *, symbols: bool = True, fetch: bool = True) -> dict[str, Any]:
    """Everything; what versions.json then says.

    fetch: False keeps the Xen that is there and builds the payload only. Errors: FetchError.
    """
    target.mkdir(parents=True, exist_ok=True)
    target = target.resolve()
    install_tools(say)
    record = target / VERSIONS
    xen: dict[str, Any] = {}
    if not fetch:
        try:
            xen = json.loads(record.read_text("utf-8"))["xen"]
        except (OSError, ValueError, KeyError):
            raise FetchError(f"{record} does not say which Xen is there: run without --payload-only") from None
    else:
        xen = fetch_xen(target, say, symbols=symbols)
    payload = {}
    for arch in ARCHITECTURES:
        say(f"building the guest payload for {arch}")
        image = build_payload(target, arch)
        payload[arch] = {"sha256": sha256(image), "bytes": image.stat().st_size, "compiler": _version(
            f"{_COMPILERS[arch]}gcc")}
    versions = {"format": FORMAT, "xen": xen, "payload": payload, "payload_source": source_sums(),
                "qemu": {name: _version(name) for name in QEMU.values()}}
    record.write_text(json.dumps(versions, indent=2) + "\n", encoding="utf-8")
    return versions


def _version(program: str) -> str:
    """The first line of what a program says of its version."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return (done.stdout.splitlines() or ["unknown"])[0]


def main(arguments: Sequence[str]) -> int:
    """Set up and say what is being done; exit code 2 with one line if it cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m impl.xen.setup", description="Set up real Xen under QEMU.")
    parser.add_argument("folder", nargs="?", type=pathlib.Path, default=folder(), help="default: %(default)s")
    parser.add_argument("--no-symbols", action="store_true", help="leave Xen's symbols, which the auditor uses, out")
    parser.add_argument("--payload-only", action="store_true", help="build the payload again, fetch nothing")
    given = parser.parse_args(arguments)
    try:
        versions = set_up(given.folder, lambda text: print(f"xen: {text}", flush=True), symbols=not given.no_symbols,
                          fetch=not given.payload_only)
    except (FetchError, OSError) as problem:
        sys.stderr.write(f"xen: {problem}\n")
        return 2
    for arch in ARCHITECTURES:
        print(f"xen: {arch}: Xen {versions['xen'][arch]['version']}")
    print(f"xen: ready in {given.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
