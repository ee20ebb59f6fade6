"""The C file beside this module, compiled where a compiler is present: limits of the machine and the same work in C."""

import ctypes
import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impl.fast.bench.trees import Pool, Tree
from impl.fast.walks import Levels, Words

SOURCE = Path(__file__).with_name("reference.c")
FLAGS = ("-O3", "-march=native", "-std=c11", "-Wall", "-Wextra", "-shared", "-fPIC")

Indices = NDArray[np.uint32]


class Native:
    """The compiled functions over the one bank of a pool."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        for name in ("loads", "read_pages", "audit"):
            getattr(library, name).restype = ctypes.c_uint64

    @staticmethod
    def load(folder: Path) -> "Native | None":
        """Compile into `folder` unless that was done; None without a compiler."""
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            return None
        mark = hashlib.sha256(SOURCE.read_bytes() + " ".join(FLAGS).encode()).hexdigest()[:16]
        target = folder / f"reference-{mark}.so"
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            made = subprocess.run(
                [compiler, *FLAGS, str(SOURCE), "-o", str(target)], capture_output=True, text=True, check=False
            )
            if made.returncode:
                return None
        return Native(ctypes.CDLL(str(target)))

    def loads(self, pool: Pool, index: Indices) -> int:
        """Sum of the words at `index`, uint32[n]: limit A or B."""
        return int(self._library.loads(_at(pool.words), _at(index), ctypes.c_size_t(len(index))))

    def read_pages(self, pool: Pool, page: Indices) -> int:
        """Sum of all words of the pages, uint32[n]: the read limit."""
        return int(self._library.read_pages(_at(pool.words), _at(page), ctypes.c_size_t(len(page))))

    def walk(self, pool: Pool, tree: Tree, ipa: Words, interleaved: bool) -> tuple[Words, Levels]:
        """`descriptors` in C."""
        found, level = np.empty(len(ipa), np.uint64), np.empty(len(ipa), np.int8)
        run = self._library.walk_interleaved if interleaved else self._library.walk_scalar
        run(
            _at(pool.words),
            ctypes.c_uint64(pool.base >> 3),
            ctypes.c_uint64(len(pool.words)),
            ctypes.c_uint64(tree.root),
            ctypes.c_int(tree.geometry.start_level),
            ctypes.c_int(tree.geometry.ipa_bits),
            _at(ipa),
            ctypes.c_size_t(len(ipa)),
            _at(found),
            _at(level),
        )
        return found, level

    def audit(self, pool: Pool, pages: list[Indices], low: int, frames: int) -> int:
        """The owner map over the level-3 tables of each guest; frames that two reach."""
        owner = np.zeros(frames, np.uint8)
        twice = 0
        for me, page in enumerate(pages, 1):
            twice += int(
                self._library.audit(
                    _at(pool.words),
                    _at(page),
                    ctypes.c_size_t(len(page)),
                    ctypes.c_uint64(low),
                    ctypes.c_uint64(frames),
                    _at(owner),
                    ctypes.c_uint8(me),
                )
            )
        return twice


def _at(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
