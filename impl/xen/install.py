"""What ``python -m impl.xen.setup`` has put into place, and where.

The folder is ``.bulkhead/xen``, or what the environment's ``BULKHEAD_XEN`` names; its file ``versions.json`` says what
is in it.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from typing import Any, Final, Literal

import attrs

from impl.xen.errors import NotSetUp

DEFAULT: Final = pathlib.Path(".bulkhead/xen")
VERSIONS: Final = "versions.json"
FORMAT: Final = 1
"""Version of the layout of the folder."""
SOURCE: Final = pathlib.Path(__file__).parent / "payload"
QEMU: Final = {"arm64": "qemu-system-aarch64", "armhf": "qemu-system-arm"}
Arch = Literal["arm64", "armhf"]
"""Debian's names of the architectures."""
ARCHITECTURES: Final[tuple[Arch, ...]] = ("arm64", "armhf")
_SETUP = "run `make conformance-setup`"


def folder() -> pathlib.Path:
    """Where the set-up is, or would be."""
    return pathlib.Path(os.environ.get("BULKHEAD_XEN") or DEFAULT)


@attrs.frozen
class Installation:
    """A set-up that is complete.

    xen, payload: files for each architecture of Debian's ("arm64", "armhf"); versions: what is in versions.json.
    """

    folder: pathlib.Path
    xen: dict[Arch, pathlib.Path]
    payload: dict[Arch, pathlib.Path]
    versions: dict[str, Any]

    def provenance(self, arch: Arch) -> dict[str, Any]:
        """What a result should say of where Xen and QEMU came from."""
        return {"xen": self.versions["xen"][arch], "qemu": self.versions["qemu"],
                "payload": self.versions["payload"][arch]}


def found(where: pathlib.Path | None = None) -> Installation:
    """The set-up. Errors: NotSetUp, with what is missing."""
    base = folder() if where is None else where
    try:
        versions = json.loads((base / VERSIONS).read_text("utf-8"))
    except OSError:
        raise NotSetUp(f"real Xen is not set up in {base}: {_SETUP}") from None
    except ValueError:
        raise NotSetUp(f"{base / VERSIONS} is damaged: {_SETUP}") from None
    if not isinstance(versions, dict) or versions.get("format") != FORMAT:
        raise NotSetUp(f"{base} was set up by another version: {_SETUP}")
    xen: dict[Arch, pathlib.Path] = {arch: base / f"xen-{arch}" for arch in ARCHITECTURES}
    payload: dict[Arch, pathlib.Path] = {arch: base / f"payload-{arch}.img" for arch in ARCHITECTURES}
    for path in (*xen.values(), *payload.values()):
        if not path.is_file():
            raise NotSetUp(f"{path} is missing: {_SETUP}")
    for name in QEMU.values():
        if shutil.which(name) is None:
            raise NotSetUp(f"{name} is not installed: {_SETUP}")
    return Installation(base, xen, payload, versions)


def newer_source(installation: Installation) -> bool:
    """The payload's source was changed after it was built."""
    recorded = installation.versions.get("payload_source")
    return recorded != source_sums()


def source_sums() -> dict[str, str]:
    """SHA-256 of each file of the payload's source."""
    return {path.name: sha256(path) for path in sorted(SOURCE.iterdir()) if path.suffix in {".c", ".h", ".S", ".lds"}}


def sha256(path: pathlib.Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    import hashlib
    return hashlib.sha256(path.read_bytes()).hexdigest()
