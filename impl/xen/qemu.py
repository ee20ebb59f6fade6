"""A QEMU of our own: its process, its monitor, its gdb stub, its RAM as an array, and its console.

No QEMU outlives its owner: it is killed with the thread that started it (PR_SET_PDEATHSIG), with the interpreter, and
when the Machine is closed or collected. RAM is a file in shared memory that is unlinked as soon as QEMU has opened it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from impl.xen.errors import QemuError

TAIL: Final = 2000
"""Characters of the console that go with a failure."""
_CONNECT_SECONDS: Final = 20.0
_ANSWER_SECONDS: Final = 20.0
_PAGE: Final = 4096
_PREFIX: Final = "bulkhead-xen-"


class Monitor:
    """QEMU's machine protocol over a socket. Source: docs/interop/qmp-spec.txt."""

    def __init__(self, path: pathlib.Path) -> None:
        self._socket = _connect(path)
        self._socket.settimeout(_ANSWER_SECONDS)
        self._file = self._socket.makefile("rw", encoding="utf-8")
        self._line()
        self.command("qmp_capabilities")

    def _line(self) -> dict[str, Any]:
        try:
            text = self._file.readline()
        except OSError:
            text = ""
        if not text:
            raise QemuError("QEMU's monitor does not answer")
        found = json.loads(text)
        assert isinstance(found, dict)
        return found

    def command(self, name: str, **arguments: Any) -> Any:
        """Give a command; what it returns. Errors: QemuError."""
        try:
            self._file.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
            self._file.flush()
        except OSError:
            raise QemuError("QEMU's monitor is gone") from None
        while True:
            answer = self._line()
            if "error" in answer:
                raise QemuError(f"QEMU refuses {name}: {answer['error'].get('desc', '')}")
            if "return" in answer:
                return answer["return"]

    def close(self) -> None:
        """Hang up: QEMU serves one at a time."""
        self._file.close()
        self._socket.close()


class Stub:
    """QEMU's gdb stub, as far as registers by name go. The machine is stopped while it is in use.

    Source: the GDB Remote Serial Protocol.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._socket = _connect(path)
        self._buffer = b""
        # the stub says on its own that the machine stopped
        self._socket.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
            self._socket.sendall(b"+")
            while self._socket.recv(65536):
                pass
        self._socket.settimeout(_ANSWER_SECONDS)
        self.ask("qSupported:multiprocess+;xmlRegisters=aarch64,arm")
        self.ask("?")
        self.numbers = dict(self._registers())

    def _registers(self) -> Iterator[tuple[str, int]]:
        number = 0
        for name in re.findall(r'href="([^"]+)"', self._description("target.xml")):
            for text in re.findall(r"<reg ([^>]*)/?>", self._description(name)):
                fields = dict(re.findall(r'(\w+)="([^"]*)"', text))
                number = int(fields.get("regnum", number))
                yield fields["name"], number
                number += 1

    def _description(self, name: str) -> str:
        found = b""
        while True:
            part = self.ask(f"qXfer:features:read:{name}:{len(found):x},ff0")
            found += part[1:]
            if part[:1] != b"m":
                return found.decode()

    def ask(self, text: str) -> bytes:
        """One packet, and its answer. Errors: QemuError."""
        data = text.encode()
        try:
            self._socket.sendall(b"$" + data + f"#{sum(data) & 255:02x}".encode())
            while True:
                start = self._buffer.find(b"$")
                end = self._buffer.find(b"#", start)
                if start >= 0 and end >= 0 and len(self._buffer) >= end + 3:
                    answer, self._buffer = self._buffer[start + 1:end], self._buffer[end + 3:]
                    self._socket.sendall(b"+")
                    return answer
                part = self._socket.recv(65536)
                if not part:
                    raise QemuError("QEMU's gdb stub hung up")
                self._buffer += part
        except OSError:
            raise QemuError("QEMU's gdb stub does not answer") from None

    def register(self, name: str, cpu: int = 0) -> int:
        """A register of a processor, e.g. VTTBR_EL2 (arm32: VTTBR). Errors: QemuError if there is none."""
        if name not in self.numbers:
            raise QemuError(f"QEMU shows no register {name}")
        self.ask(f"Hgp1.{cpu + 1:x}")
        answer = self.ask(f"p{self.numbers[name]:x}")
        if answer[:1] == b"E" or not answer:
            raise QemuError(f"QEMU cannot read {name}")
        return int.from_bytes(bytes.fromhex(answer.decode()), "little")

    def close(self) -> None:
        """Let the machine go on under the monitor's rule."""
        with contextlib.suppress(QemuError):
            self.ask("D;1")
        self._socket.close()


class Qemu:
    """A running QEMU; its machine stands still until `start`.

    command: the program and its arguments, without RAM, monitor, stub and console, which are added here;
    ram_base, ram_size: of its RAM, bytes.
    Errors: QemuError if it does not start.
    """

    def __init__(self, command: Sequence[str], ram_base: int, ram_size: int) -> None:
        self.ram_base = ram_base
        self.ram_size = ram_size
        shared = pathlib.Path("/dev/shm")  # noqa: S108 -- memory is meant, a folder of our own below it
        parent = shared if shared.is_dir() else pathlib.Path(tempfile.gettempdir())
        _sweep(parent)
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
        self._console = self._folder / "console"
        ram = self._folder / "ram"
        with ram.open("wb") as file:
            file.truncate(ram_size)
        self._file = os.open(ram, os.O_RDWR)
        self._held = False
        self.bytes: NDArray[np.uint8] = np.asarray(np.memmap(ram, dtype=np.uint8, mode="r+", shape=(ram_size,)))
        self.words: NDArray[np.uint64] = self.bytes.view(np.uint64)
        self.halves: NDArray[np.uint32] = self.bytes.view(np.uint32)
        self.command = [
            *command,
            "-object", f"memory-backend-file,id=ram,size={ram_size},mem-path={ram},share=on",
            "-machine", "memory-backend=ram", "-S", "-display", "none", "-nodefaults", "-no-reboot", "-monitor", "none",
            "-chardev", f"file,id=console,path={self._console}", "-serial", "chardev:console",
            "-qmp", f"unix:{self._folder / 'qmp'},server=on,wait=off",
            "-chardev", f"socket,id=gdb,path={self._folder / 'gdb'},server=on,wait=off", "-gdb", "chardev:gdb",
        ]
        errors = (self._folder / "errors").open("wb")
        try:
            # killed with its owner's thread; a group of its own, so that it can be ended whole
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self.command], stdin=subprocess.DEVNULL,
                stdout=errors, stderr=errors, process_group=0, env={**os.environ, "QEMU_AUDIO_DRV": "none"})
        except OSError as problem:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise QemuError(f"QEMU does not start: {problem.strerror}") from None
        finally:
            errors.close()
        self._end = weakref.finalize(self, _end, self.process, self._file, self._folder)
        try:
            self.monitor = Monitor(self._folder / "qmp")
        except QemuError:
            words = (self._folder / "errors").read_text(errors="replace").strip().splitlines()
            self.close()
            raise QemuError(f"QEMU does not start: {words[-1] if words else 'no reason given'}") from None
        # QEMU holds it open, and so do we: nothing is left behind, whatever happens
        ram.unlink()

    def start(self) -> None:
        """Let the machine run."""
        self.monitor.command("cont")

    @property
    def alive(self) -> bool:
        """The process runs."""
        return self.process.poll() is None

    def console(self) -> str:
        """Everything that came over the serial line so far."""
        try:
            return self._console.read_text("utf-8", errors="replace").replace("\r", "")
        except OSError:
            return ""

    def console_size(self) -> int:
        """Bytes that came over the serial line so far: cheap to ask."""
        try:
            return self._console.stat().st_size
        except OSError:
            return 0

    def tail(self) -> str:
        """The last lines of the console."""
        return self.console()[-TAIL:]

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """The machine stands still meanwhile."""
        held = self._held
        self.hold()
        try:
            yield
        finally:
            if not held:
                self.go()

    def hold(self) -> None:
        """The machine stands still, its clocks too, until it may go on."""
        if not self._held:
            self.monitor.command("stop")
            self._held = True

    def go(self) -> None:
        """The machine goes on, if it was held."""
        if self._held:
            self.monitor.command("cont")
            self._held = False

    @property
    def memory(self) -> pathlib.Path:
        """The file that is its RAM, for as long as this process lives."""
        return pathlib.Path(f"/proc/{os.getpid()}/fd/{self._file}")

    @contextlib.contextmanager
    def lent(self) -> Iterator[pathlib.Path]:
        """The monitor serves one at a time: somebody else meanwhile. The folder of the sockets ``qmp`` and ``gdb``."""
        self.monitor.close()
        try:
            yield self._folder
        finally:
            if self.alive:
                self.monitor = Monitor(self._folder / "qmp")

    def resize_memory(self, size: int) -> None:
        """Make the file of its RAM so long [bytes]; what is behind its end reads as zeros."""
        os.ftruncate(self._file, size)

    def written(self) -> Iterator[tuple[int, int]]:
        """The parts of its RAM that hold something: first byte and one more than the last [bytes]."""
        end = 0
        while end < self.ram_size:
            try:
                start = os.lseek(self._file, end, os.SEEK_DATA)
            except OSError:
                return
            end = min(os.lseek(self._file, start, os.SEEK_HOLE), self.ram_size)
            yield start, end

    def registers(self, names: Sequence[str], cpus: int) -> list[dict[str, int]]:
        """System registers of each processor, all at one moment. Errors: QemuError."""
        with self.stopped():
            stub = Stub(self._folder / "gdb")
            try:
                return [{name: stub.register(name, cpu) for name in names} for cpu in range(cpus)]
            finally:
                stub.close()

    def pages_with(self, magic: int, mask: int = (1 << 64) - 1) -> list[int]:
        """Offsets in RAM of the pages that begin with a word, as far as a mask says; only what was written is read."""
        found: list[int] = []
        for first, end in self.written():
            start = first - first % _PAGE
            firsts = self.words[start >> 3:end >> 3:_PAGE >> 3]
            found.extend(start + int(page) * _PAGE for page in np.nonzero(firsts & np.uint64(mask) == magic)[0])
        return found

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(AttributeError):
            self.monitor.close()
        self._end()


def _end(process: subprocess.Popen[bytes], file: int, folder: pathlib.Path) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
    os.close(file)
    shutil.rmtree(folder, ignore_errors=True)


def _sweep(parent: pathlib.Path) -> None:
    """Remove what owners that were killed left behind."""
    for path in parent.glob(f"{_PREFIX}*-*"):
        owner = path.name.removeprefix(_PREFIX).split("-")[0]
        if owner.isdigit() and not _runs(int(owner)):
            shutil.rmtree(path, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _connect(path: pathlib.Path) -> socket.socket:
    """A connection to a socket that is about to be there. Errors: QemuError."""
    until = time.monotonic() + _CONNECT_SECONDS
    while True:
        made = socket.socket(socket.AF_UNIX)
        try:
            made.connect(str(path))
        except OSError:
            made.close()
            if time.monotonic() > until or not path.parent.is_dir():
                raise QemuError(f"QEMU does not listen on {path.name}") from None
            time.sleep(0.02)
        else:
            return made
