"""Files of stage-2 tables that a test may change, and the command run on them."""

import json
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from bulkhead import audit, tables
from bulkhead.cli import main
from bulkhead.problems import BadInputError
from spec.language import Mfn, Word, decode, encode, evolve
from spec.memory import geometry
from spec.memory import walk as tables_walk
from spec.memory.descriptors import Descriptor, leaf, table_word
from spec.state import P2mType

ROOT = Path(__file__).resolve().parents[2]
ARM64 = ROOT / "tests" / "vectors" / "xen-4.17.5-arm64-virt.npz"
ARM32 = ROOT / "tests" / "vectors" / "xen-4.17.5-arm32-vexpress-a15.npz"


@attrs.define
class File:
    """A file of tables that a test may change before it is written."""

    address: Any
    page: Any
    meta: Any

    @classmethod
    def like(cls, path: Path) -> "File":
        with np.load(path, allow_pickle=False) as file:
            return cls(file["address"].copy(), file["page"].copy(), json.loads(str(file["meta"])))

    def write(self, path: Path) -> Path:
        meta = self.meta if isinstance(self.meta, str) else json.dumps(self.meta)
        np.savez_compressed(path, address=self.address, page=self.page, meta=meta)
        return path

    def place(self, vm: int, ipa: int) -> tuple[int, int]:
        """Row and index of the word that maps an address."""
        domain = self.meta["domains"][str(vm)]
        shape = geometry.of_vtcr(domain["vtcr"], arm32=not self.meta["aarch64"])
        rows = {address >> 12: row for row, address in enumerate(self.address.tolist())}
        root = (domain["vttbr"] & 0xFFFFFFFFF000) >> 12
        for each in tables_walk.leaves(lambda frame, index: Word(int(self.page[rows[frame]][index])), Mfn(root), shape):
            if each.gfn <= ipa >> 12 < each.gfn + each.pages:
                return rows[each.table], each.index
        raise AssertionError(f"nothing is mapped at {ipa:#x}")

    def descriptor(self, vm: int, ipa: int) -> Descriptor:
        row, index = self.place(vm, ipa)
        return decode(Descriptor, Word(int(self.page[row][index])))

    def change(self, vm: int, ipa: int, **fields: Any) -> None:
        row, index = self.place(vm, ipa)
        self.page[row][index] = encode(evolve(decode(Descriptor, Word(int(self.page[row][index]))), **fields))


def tiny_machine() -> File:
    """Two VMs of one page each, with tables of their own."""
    page = np.zeros((8, 512), np.uint64)
    address = np.array([0x40000000 + 0x1000 * each for each in range(8)], np.uint64)
    for vm in (0, 1):
        first = vm * 4
        for level in range(3):
            page[first + level][0] = encode(table_word(Mfn(0x40000 + first + level + 1)))
        page[first + 3][5] = encode(leaf(Mfn(0x41000 + vm), P2mType.RAM_RW, 7, 3))
    domains = {str(vm): {"vttbr": vm + 1 << 48 | 0x40000000 + vm * 0x4000, "vtcr": 0x80043594,
                         "loads": [[0x5008, 7, 0x41000008 + vm * 0x1000], [0x6000, None, None]]} for vm in (0, 1)}
    return File(address, page, {"ram_base": 0x40000000, "ram_size": 0x10000000, "aarch64": True, "domains": domains,
                                "grants": []})


def look(file: File, directory: Path) -> audit.Audit:
    return audit.audit(tables.read(file.write(directory / "file.npz")))


def refusal(file: File, directory: Path) -> str:
    with pytest.raises(BadInputError) as caught:
        look(file, directory)
    text = str(caught.value)
    assert "\n" not in text
    return text


def command(monkeypatch: Any, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bulkhead", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)
