"""Vendors' device trees: the blobs in Debian's packages of Linux for arm64 and armhf.

``python -m impl.boards.vendor`` fetches the packages with apt from the mirror that the machine is set up with, and
unpacks their blobs to ``build/vendor-boards/<architecture>/``.  apt checks the signatures, and works in a folder of its
own: the machine's list of architectures and packages stays as it is.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from impl.boards.catalogue import load_file
from impl.boards.problems import BadBoard

DEFAULT: Final = pathlib.Path("build/vendor-boards")
# architecture of the package -> the package that depends on the newest kernel
PACKAGES: Final = {"arm64": "linux-image-arm64", "armhf": "linux-image-armmp"}
_MIRROR: Final = ("http://deb.debian.org/debian", "bookworm")
_KEYRING: Final = pathlib.Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class FetchError(Exception):
    """The packages cannot be had; the message is one line that says why."""


def blobs(folder: pathlib.Path = DEFAULT) -> list[pathlib.Path]:
    """The blobs that were unpacked, sorted; none if nothing was fetched."""
    return sorted(folder.glob("*/**/*.dtb"))


def fetch(folder: pathlib.Path = DEFAULT) -> list[str]:
    """Fetch the packages and unpack their blobs; what was there before is replaced.

    The names of the packages, with their versions.
    Errors: FetchError.
    """
    names: list[str] = []
    with tempfile.TemporaryDirectory(prefix="vendor-boards-") as name:
        work = pathlib.Path(name)
        environment = private_apt(work)
        run_tool(["apt-get", "-q", "update"], environment, work)
        for architecture, package in PACKAGES.items():
            kernel = _newest(package, architecture, environment, work)
            run_tool(["apt-get", "-q", "download", f"{kernel}:{architecture}"], environment, work)
            # an epoch's colon is written as %3a
            archive = next(iter(work.glob(f"{kernel}_*.deb")), None)
            if archive is None:
                raise FetchError(f"apt did not leave {kernel} behind")
            target = folder / architecture
            shutil.rmtree(target, ignore_errors=True)
            count = unpack(archive, target)
            if not count:
                raise FetchError(f"{archive.name} has no device-tree blobs")
            names.append(archive.stem)
            archive.unlink()
    (folder / "PACKAGES").write_text("".join(f"{one}\n" for one in names), encoding="utf-8")
    return names


def unpack(archive: pathlib.Path, target: pathlib.Path) -> int:
    """Unpack the blobs of a Debian package of Linux; how many there are.

    archive: the .deb; target: the folder for what lies below ``usr/lib/linux-image-*/``.
    Errors: FetchError.
    """
    count = 0
    command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE) as unpacker:
            assert unpacker.stdout is not None
            with tarfile.open(fileobj=unpacker.stdout, mode="r|") as tar:
                for member in tar:
                    parts = pathlib.PurePosixPath(member.name).parts
                    below = [i for i, part in enumerate(parts) if part.startswith("linux-image-")]
                    if not member.isreg() or not member.name.endswith(".dtb") or not below or ".." in parts:
                        continue
                    content = tar.extractfile(member)
                    assert content is not None
                    path = target.joinpath(*parts[below[0] + 1:])
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content.read())
                    count += 1
    except (OSError, tarfile.TarError) as problem:
        raise FetchError(f"cannot unpack {archive.name}: {problem}") from None
    if unpacker.returncode:
        raise FetchError(f"cannot unpack {archive.name}: dpkg-deb failed")
    return count


def private_apt(work: pathlib.Path) -> dict[str, str]:
    """The environment for an apt that keeps everything in `work`."""
    for folder in ("lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    mirror, suite = _mirror()
    options = ["arch=" + ",".join(PACKAGES)]
    if _KEYRING.exists():
        options.append(f"signed-by={_KEYRING}")
    (work / "sources.list").write_text(f"deb [{' '.join(options)}] {mirror} {suite} main\n", encoding="utf-8")
    architectures = " ".join(f'"{one}";' for one in PACKAGES)
    (work / "apt.conf").write_text(
        f'APT::Architectures {{ {architectures} }};\n'
        f'Dir::State::lists "{work}/lists";\n'
        f'Dir::Cache "{work}/cache";\n'
        f'Dir::Etc::sourcelist "{work}/sources.list";\n'
        'Dir::Etc::sourceparts "/dev/null";\n'
        'Acquire::Languages "none";\n'
        'APT::Sandbox::User "";\n',
        encoding="utf-8",
    )
    return {**os.environ, "APT_CONFIG": str(work / "apt.conf"), "LC_ALL": "C"}


def _mirror() -> tuple[str, str]:
    """The mirror and suite of Debian that the machine is set up with, or else Debian's own and bookworm.

    Errors: FetchError where there is no apt.
    """
    command = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(COMPONENT) $(RELEASE) $(SITE)"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise FetchError("apt-get is not here: vendors' device trees are fetched on Debian and the like") from None
    for line in told.stdout.splitlines():
        words = line.split()
        if len(words) == 4 and words[:2] == ["Debian", "main"] and "-" not in words[2]:
            return words[3].rstrip("/"), words[2]
    return _MIRROR


def run_tool(command: Sequence[str], environment: dict[str, str], folder: pathlib.Path) -> str:
    """Run a command and give back what it says.

    Errors: FetchError.
    """
    try:
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise FetchError(f"{command[0]} is not here") from None
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise FetchError(f"{' '.join(command)}: {words[-1] if words else 'failed'}")
    return done.stdout


def _newest(package: str, architecture: str, environment: dict[str, str], folder: pathlib.Path) -> str:
    """The kernel's package that a package depends on.

    Errors: FetchError.
    """
    for line in run_tool(["apt-cache", "depends", f"{package}:{architecture}"], environment, folder).splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == "Depends:" and words[1].startswith("linux-image-"):
            return words[1].split(":")[0]
    raise FetchError(f"{package} for {architecture} names no kernel")


def survey(paths: Sequence[pathlib.Path]) -> Iterator[tuple[pathlib.Path, str]]:
    """What each blob is: ``board``, or why it is none."""
    for path in paths:
        try:
            load_file(path)
        except BadBoard as problem:
            yield path, problem.reason
        else:
            yield path, "board"


def main(arguments: Sequence[str]) -> int:
    """Fetch, unpack, and say what was found; the only argument is the folder."""
    if len(arguments) > 1:
        sys.stderr.write("usage: python -m impl.boards.vendor [FOLDER]\n")
        return 2
    folder = pathlib.Path(arguments[0]) if arguments else DEFAULT
    try:
        names = fetch(folder)
    except FetchError as problem:
        sys.stderr.write(f"vendor boards: {problem}\n")
        return 2
    found = blobs(folder)
    print(f"{len(found)} blobs of {', '.join(names)} in {folder}")
    for what, count in Counter(what for _, what in survey(found)).most_common():
        print(f"{count:5}  {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
