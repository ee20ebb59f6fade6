"""The emulated boards that come with the project.

Each is a device-tree source in ``sources/`` and, beside it, the blob that dtc makes of it: whoever uses a board needs
no compiler.  ``python -m impl.boards.catalogue`` compiles all sources again (it needs dtc) and writes their SHA-256
sums, by which a test sees a source that was changed after its blob.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

import attrs

from impl.boards.board import Board
from impl.boards.problems import BadBoard, printable
from impl.boards.ram import Bank
from impl.boards.read import read

SOURCES: Final = pathlib.Path(__file__).parent / "sources"
SUMS: Final = SOURCES / "SHA256SUMS"


@attrs.frozen
class Entry:
    """A board: the name of its files, what it is, and its vendor's blob in Debian's package of Linux."""

    name: str
    title: str
    vendor: str

    @property
    def source(self) -> pathlib.Path:
        """The device-tree source."""
        return SOURCES / f"{self.name}.dts"

    @property
    def blob(self) -> pathlib.Path:
        """The device-tree blob."""
        return SOURCES / f"{self.name}.dtb"


CATALOGUE: Final = (
    Entry("vexpress-a15", "Versatile Express with two Cortex-A15", "vexpress-v2p-ca15-tc1.dtb"),
    Entry("arndale", "Arndale (Samsung Exynos 5250)", "exynos5250-arndale.dtb"),
    Entry("foundation-v8", "ARMv8 Foundation model with a GICv2", "arm/foundation-v8.dtb"),
    Entry("foundation-v8-gicv3", "ARMv8 Foundation model with a GICv3", "arm/foundation-v8-gicv3-psci.dtb"),
    Entry("fvp-base", "Fixed Virtual Platform Base RevC", "arm/fvp-base-revc.dtb"),
    Entry("cubieboard2", "Cubieboard2 (Allwinner A20)", "sun7i-a20-cubieboard2.dtb"),
    Entry("omap5-uevm", "OMAP5432 uEVM", "omap5-uevm.dtb"),
    Entry("mustang", "X-Gene Mustang", "apm/apm-mustang.dtb"),
)


@functools.cache
def load(name: str) -> Board:
    """The board of that name.

    Errors: BadBoard if there is none.
    """
    for entry in CATALOGUE:
        if entry.name == name:
            return read(entry.blob.read_bytes(), entry.name)
    names = [entry.name for entry in CATALOGUE]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else "known are " + ", ".join(names)
    raise BadBoard(f"no board {printable(name, 60)!r}: {hint}")


def load_file(path: pathlib.Path, *, pa_bits: int | None = None, ram: Sequence[Bank] = ()) -> Board:
    """The board that a file describes; it is called by the file's name.

    path: a device-tree blob; pa_bits, ram: as for `read`.
    Errors: BadBoard.
    """
    try:
        with path.open("rb") as file:
            # one byte more than the largest blob: the header is asked, whatever else the file holds
            data = file.read((2 << 20) + 1)
    except OSError as problem:
        raise BadBoard(f"cannot read {path}: {problem.strerror or problem}") from None
    return read(data, path.stem, pa_bits=pa_bits, ram=ram)


def sum_of(source: pathlib.Path) -> str:
    """The SHA-256 of a source, in hexadecimal."""
    return hashlib.sha256(source.read_bytes()).hexdigest()


def compile_source(source: pathlib.Path) -> bytes:
    """The blob that dtc makes of a source; what dtc warns of goes to standard error.

    Errors: BadBoard if dtc is missing or fails.
    """
    try:
        done = subprocess.run(["dtc", "-I", "dts", "-O", "dtb", str(source)], capture_output=True, check=False)
    except FileNotFoundError:
        raise BadBoard("dtc is not installed (Debian: apt install device-tree-compiler)") from None
    words = done.stderr.decode(errors="replace")
    if done.returncode:
        raise BadBoard(f"dtc on {source.name}: {words}")
    sys.stderr.write(words)
    return done.stdout


def main() -> int:
    """Compile every source and write the sums."""
    lines = []
    for entry in CATALOGUE:
        try:
            entry.blob.write_bytes(compile_source(entry.source))
        except BadBoard as problem:
            sys.stderr.write(f"{problem}\n")
            return 2
        lines.append(f"{sum_of(entry.source)}  {entry.source.name}\n")
        print(f"{entry.blob.name}: {entry.blob.stat().st_size} bytes")
    SUMS.write_text("".join(lines), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
