"""Real Xen under QEMU behind the interface of `impl.fast.machine.Machine`, as far as traces need it.

Every domain runs the payload; a stimulus is a program of one item, `give` runs many in one go. Single stimuli cost a
round trip through Xen's scheduler (some thousand a second); programs run 50 times as fast.

What differs from the emulated machine: Xen chooses frames and handles; they are read back (`stage2`), not forced.
A guest sees the end of a preempted hypercall, never its middle. Each domain's payload keeps the last pages of its RAM
(`kept`). The level of a fault is not told (-1). Xen that crashes, panics or hangs is an observation, and `reboot`
brings a fresh machine.
"""

from __future__ import annotations

import re
import struct
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import attrs
import numpy as np

from impl.fast.machine import Observation
from impl.xen import tables
from impl.xen.config import Config
from impl.xen.errors import BootFailed, QemuError, Refused
from impl.xen.install import Installation, found
from impl.xen.mailbox import MAGIC, SET_WAY, Items, Mailbox, Outcome, Program
from impl.xen.qemu import Qemu
from impl.xen.tree import Guest as TreeGuest
from impl.xen.tree import Module, base, with_modules

BOOT_SECONDS: Final = 60.0
PATIENCE: Final = 8.0
"""Seconds without progress after which a program is given up."""
LONGEST: Final = 120.0
"""Seconds after which a program is given up in any case."""
_MEGABYTE: Final = 1 << 20
_POISON: Final = {"arm64": 0xD4200040, "armhf": 0xE7F000F0}
_LOADER: Final = frozenset({0x580000C0, 0xE3A00000, 0xE28FE004})
"""How QEMU's first instructions begin, at the start of RAM. Source: QEMU 7.2 (hw/arm/boot.c)."""
_TREE: Final = 0xEDFE0DD0       # how a device tree begins, as a little-endian word
_XEN_WITHIN: Final = 32 << 20   # bytes of the start of RAM in which QEMU puts Xen
_SCRATCH: Final = 3072          # of a head's page, free for the host
_SPINS: Final = 2000            # looks at a mailbox before the first sleep
_LOOKS_APART: Final = 500       # looks between two at the console
_ABORTS: Final = frozenset({Outcome.DATA_ABORT, Outcome.FETCH_ABORT})
_PANIC: Final = re.compile(r"Panic on CPU \d+:\s*\n(?:\(XEN\)\s*)?(.*)|Xen BUG at .*|Assertion .* failed.*")
_CRASH: Final = re.compile(r"Domain (\d+) \(vcpu#\d+\) crashed|Hardware Dom(0) crashed|Hardware Dom(0) shutdown")
_STOPPED: Final = re.compile(r"Hardware Dom0 (?:crashed|halted|shutdown).*|.*halting machine.*")


@attrs.frozen
class Stimulus:
    """What a guest does.

    do: "load", "store", "fetch" (ipa, size, value), "hypercall" (registers by number), "set_way", "toggle_cache"
    (enabled); as in the format of traces.
    """

    do: Literal["load", "store", "fetch", "hypercall", "set_way", "toggle_cache"]
    domain: int
    vcpu: int = 0
    ipa: int = 0
    size: int = 8
    value: int = 0
    registers: tuple[tuple[int, int], ...] = ()
    enabled: bool = False


@attrs.frozen
class Loss:
    """A program that did not come back. kind: "crash", "panic" or "stuck"; reason: with the console's last lines."""

    kind: str
    reason: str


@attrs.frozen
class Run:
    """What became of a program. items: as the payload left them; finished: how many ended; loss: why not all."""

    items: Items
    finished: int
    loss: Loss | None = None

    def value(self, index: int) -> int:
        """The first result of an item, unsigned."""
        return int(self.items["out"][index][0])

    def result(self, index: int) -> int:
        """The first result of an item as a signed number of 64 bits (a 32-bit guest: 32 bits)."""
        value = self.value(index)
        if value >> 32 == 0 and value >> 31:
            return value - (1 << 32)
        return value - (1 << 64) if value >> 63 else value

    def outcome(self, index: int) -> Outcome:
        """How an item ended."""
        return Outcome(int(self.items["outcome"][index]))


class Machine:
    """A booted machine; use it as a context, or close it.

    config: see Config; installation: what is set up (None: the usual place).
    Errors: NotSetUp, Refused, BootFailed.
    """

    def __init__(self, config: Config | None = None, installation: Installation | None = None) -> None:
        self.config = Config() if config is None else config
        self.config.check()
        self.installation = found() if installation is None else installation
        self.kind = self.config.machine
        self.boots = 0
        self.boot_seconds = 0.0
        self.panicked = ""
        self.dead: dict[int, str] = {}
        self.boxes: dict[tuple[int, int], Mailbox] = {}
        self._roots: dict[int, tables.Roots] = {}
        self._turn = 0
        self._console_seen = 0
        self._qemu: Qemu | None = None
        self.reboot()

    # ---- life

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End QEMU."""
        self.boxes.clear()
        if self._qemu is not None:
            self._qemu.close()
            self._qemu = None

    @property
    def qemu(self) -> Qemu:
        """The running QEMU. Errors: QemuError if it was closed."""
        if self._qemu is None:
            raise QemuError("the machine is closed")
        return self._qemu

    def reboot(self) -> None:
        """A fresh machine of the same configuration. Errors: BootFailed."""
        self.close()
        self.panicked = ""
        self.dead.clear()
        self._roots.clear()
        started = time.monotonic()
        try:
            self._start()
            self._await_mailboxes(started)
        except QemuError as problem:
            self.close()
            raise BootFailed(str(problem)) from None
        except BaseException:
            self.close()
            raise
        self.boots += 1
        self._settle()
        self.boot_seconds = time.monotonic() - started

    def _start(self) -> None:
        config, kind = self.config, self.kind
        modules: list[tuple[Module, Literal["arm64", "armhf"]]] = []
        dom0 = None
        place = kind.modules
        if config.dom0:
            dom0 = self._module(0, place, kind.arch, f"domain=0 items={config.items}")
            modules.append((dom0, kind.arch))
        guests = []
        for number, guest in enumerate(config.guests, 1):
            place += _MEGABYTE
            arch: Literal["arm64", "armhf"] = "armhf" if config.width(number) == 32 else "arm64"
            module = self._module(number, place, arch, f"domain={number} items={config.items} trim={guest.pages}")
            modules.append((module, arch))
            pool = None if guest.pool_pages is None else -(-guest.pool_pages // 256)
            guests.append(TreeGuest(f"domU{number}", config.boot_pages(guest) * 4, guest.vcpus, module, pool))
        board = base(kind, config.processor, config.cpus)
        blob = with_modules(board, config.command_line(), dom0, guests)
        processor = ["-cpu", config.processor] if config.processor else []
        loaders = [argument for module, arch in modules for argument in (
            "-device", f"loader,file={self.installation.payload[arch]},addr={module.address:#x},force-raw=on")]
        with tempfile.NamedTemporaryFile(prefix="bulkhead-", suffix=".dtb") as file:
            file.write(blob)
            file.flush()
            # it has read its files when its monitor answers
            self._qemu = Qemu(
                [kind.qemu, "-M", kind.machine, *processor, "-m", str(kind.ram_size >> 20), "-smp", str(config.cpus),
                 "-kernel", str(self.installation.xen[kind.arch]), "-dtb", file.name, *loaders],
                kind.ram_base, kind.ram_size)
        # what Xen frees when it has booted: the modules, and the tree where QEMU put it
        images = [(module.address - kind.ram_base, module.size) for module, _ in modules]
        # QEMU adds to the tree: the size is the one in its header
        trees = [(offset, int.from_bytes(self.qemu.bytes[offset + 4:offset + 8], "big"))
                 for offset in self.qemu.pages_with(_TREE, 0xFFFFFFFF)]
        self._leftovers = [(at, self.qemu.bytes[at:at + -(-size // 4096) * 4096].copy()) for at, size in images + trees]
        self.qemu.start()

    def _module(self, number: int, address: int, arch: Literal["arm64", "armhf"], arguments: str) -> Module:
        size = self.installation.payload[arch].stat().st_size
        if size > _MEGABYTE:
            raise BootFailed(f"the payload of domain {number} has {size} bytes, more than a megabyte")
        return Module(address, size, arguments)

    def _expected(self) -> set[tuple[int, int]]:
        wanted = {(0, 0)} if self.config.dom0 else set()
        for number, guest in enumerate(self.config.guests, 1):
            wanted.update((number, vcpu) for vcpu in range(guest.vcpus))
        return wanted

    def _await_mailboxes(self, started: float) -> None:
        wanted = self._expected()
        qemu = self.qemu
        found_boxes: dict[tuple[int, int], Mailbox] = {}
        while set(found_boxes) != wanted:
            time.sleep(0.03)
            for offset in qemu.pages_with(MAGIC):
                box = Mailbox(qemu.bytes, offset)
                found_boxes[box.domain, box.vcpu] = box
            alive = qemu.alive
            stopped = _stopped(qemu.console()) or ("" if alive else "QEMU ended")
            if stopped or time.monotonic() - started > BOOT_SECONDS:
                missing = ", ".join(f"domain {each[0]} vCPU {each[1]}" for each in sorted(wanted - set(found_boxes)))
                why = stopped or f"after {BOOT_SECONDS:.0f} s these did not report: {missing}"
                raise BootFailed(f"{self.kind.name} did not boot: {why}\n{qemu.tail()}")
        self.boxes = found_boxes
        for box in found_boxes.values():
            if int(box.head[0]["trim_error"]):
                raise BootFailed(f"domain {box.domain} could not give back all the RAM that it should")
        self._refresh_ram(started)

    def _refresh_ram(self, started: float) -> None:
        """Clear what the boot left in RAM that Xen has freed: guests that get it would not find fresh RAM.

        Only pages that still are as they were freed: Xen may have taken one meanwhile.
        """
        qemu = self.qemu
        # with several processors guests run while Xen still frees
        while "init memory" not in qemu.console() and time.monotonic() - started < BOOT_SECONDS:
            time.sleep(0.02)
        for start, before in self._leftovers:
            for at in range(0, len(before), 4096):
                page = qemu.bytes[start + at:start + at + 4096]
                if np.array_equal(page, before[at:at + 4096]):
                    page[:] = 0
        # QEMU's first instructions, in RAM that Xen gives to domains as it is
        first = qemu.halves[:1024]
        if int(first[0]) in _LOADER:
            first[:] = 0
        # Xen fills its initial code with this instruction before it frees it
        poison = np.uint32(_POISON[self.kind.arch])
        pages = qemu.halves[:_XEN_WITHIN >> 2].reshape(-1, 1024)
        freed = np.nonzero(pages[:, 0] == poison)[0]
        for index in freed[(pages[freed] == poison).all(axis=1)]:
            pages[index] = 0

    def _settle(self) -> None:
        """Limits that only dom0 can set."""
        for number, guest in enumerate(self.config.guests, 1):
            if self.config.boot_pages(guest) != guest.pages or guest.max_pages is not None:
                limit = guest.pages if guest.max_pages is None else guest.max_pages
                result = self.domctl(11, number, struct.pack("<Q", limit * 4))
                if result:
                    raise BootFailed(f"domain {number} could not be limited to {limit} pages: {result}")
            if guest.pool_pages is not None and guest.pool_pages % 256:
                result = self.domctl(86, number, struct.pack("<Q", guest.pool_pages << 12))
                if result:
                    raise BootFailed(f"domain {number} cannot have a pool of {guest.pool_pages} pages: {result}")

    def domctl(self, command: int, domain: int, data: bytes) -> int:
        """A domctl by dom0; its result. Source: fact sheet "lifecycle" 1, interface version 0x15."""
        call = struct.pack("<IIHxxxxxx", command, 0x15, domain) + data.ljust(128, b"\0")
        return self.dom0_call(36, self.scratch(call))

    def dom0_call(self, number: int, *arguments: int) -> int:
        """A hypercall by dom0 for setting up; its result. Errors: Refused if it does not come back."""
        box = self._box(0, 0)
        program = Program(box.width, box.capacity)
        program.hypercall(number, *arguments)
        run = self.run(0, 0, program)
        if run.loss is not None:
            raise Refused(f"a call of dom0 did not come back: {run.loss.reason}")
        return run.result(0)

    def scratch(self, data: bytes, offset: int = 0) -> int:
        """Put bytes into the free KB of dom0's mailbox, from outside; their guest address."""
        box = self._box(0, 0)
        assert offset + len(data) <= 4096 - _SCRATCH
        start = box.offset + _SCRATCH + offset
        self.qemu.bytes[start:start + len(data)] = np.frombuffer(data, np.uint8)
        return box.head_ipa + _SCRATCH + offset

    def adopt(self, domain: int) -> int:
        """Look for the mailboxes of a domain that was made at run time; how many there are now."""
        number = 0
        for offset in self.qemu.pages_with(MAGIC):
            box = Mailbox(self.qemu.bytes, offset)
            if box.domain == domain:
                self.boxes[domain, box.vcpu] = box
                number += 1
        return number

    def forget(self, domain: int) -> None:
        """A domain is about to go: its mailboxes are closed, so that they are not found again."""
        for key in [key for key in self.boxes if key[0] == domain]:
            self.boxes.pop(key).head["magic"] = 0
        self._roots.pop(domain, None)
        self.dead.pop(domain, None)

    def check_stopped(self) -> bool:
        """Whether Xen or QEMU stopped; `panicked` then says why."""
        alive = self.qemu.alive
        self.panicked = self.panicked or _stopped(self.qemu.console()) or ("" if alive else "QEMU ended")
        return bool(self.panicked)

    # ---- what is there

    @property
    def domains(self) -> list[int]:
        """The domains that run the payload."""
        return sorted({domain for domain, _ in self.boxes})

    def kept(self, domain: int) -> tuple[int, int]:
        """The guest addresses [from, to) that a domain's payload keeps for itself."""
        box = self._box(domain, 0)
        return box.low, box.high

    def ram(self, domain: int) -> tuple[int, int]:
        """Guest address and size in bytes of a domain's RAM, the payload's included."""
        box = self._box(domain, 0)
        return box.ram_base, box.ram_size

    def hole(self, domain: int) -> int:
        """A guest address with room for 16 MB of mappings."""
        return self.kind.hole if domain == 0 else self._box(domain, 0).hole

    def provenance(self) -> dict[str, Any]:
        """What a result should say of how it came about."""
        return {**self.installation.provenance(self.kind.arch), "machine": self.kind.name,
                "command": self.qemu.command, "xen_command_line": self.config.command_line(), "boots": self.boots}

    def _box(self, domain: int, vcpu: int) -> Mailbox:
        box = self.boxes.get((domain, vcpu))
        if box is None:
            if not any(each == domain for each, _ in self.boxes):
                raise Refused(f"there is no domain {domain} that runs the payload")
            raise Refused(f"domain {domain} has no vCPU {vcpu}")
        return box

    # ---- programs

    def program(self, domain: int, vcpu: int = 0) -> Program:
        """An empty program for a vCPU."""
        box = self._box(domain, vcpu)
        return Program(box.width, box.capacity)

    def run(self, domain: int, vcpu: int, program: Program | Items, patience: float = PATIENCE) -> Run:
        """Run a program to its end. patience: seconds without progress. Errors: Refused."""
        box = self._box(domain, vcpu)
        items = program.items() if isinstance(program, Program) else program
        if self.panicked or domain in self.dead:
            return Run(items, 0, Loss("panic" if self.panicked else "stuck", self.panicked or self.dead[domain]))
        self.qemu.go()
        box.submit(items)
        loss = self._await(box, None, patience)
        done = box.items[:len(items)].copy()
        return Run(done, len(items) if loss is None else box.position, loss)

    def _await(self, box: Mailbox, position: int | None, patience: float) -> Loss | None:
        """Wait until a program ended, or came so far."""
        looks, last, since = 0, -1, 0.0
        # memory that is the payload's no more can change for ever
        end = time.monotonic() + LONGEST
        while True:
            # in this order: a program that ended meanwhile has come to its end
            if not box.busy or (position is not None and box.position >= position):
                return None
            looks += 1
            if looks < _SPINS:
                continue
            now = time.monotonic()
            if box.position != last:
                last, since = box.position, now
            if looks % _LOOKS_APART == 0:
                loss = self._lost(box)
                if loss is not None:
                    return loss
            if now - since > patience or now > end:
                return self._hung(box)
            time.sleep(0.00003)

    def _lost(self, box: Mailbox) -> Loss | None:
        """Xen or QEMU stopped, the domain was crashed, or its payload lost its way."""
        if box.died is None and self.qemu.alive and self.qemu.console_size() == self._console_seen:
            return None
        self._console_seen = self.qemu.console_size()
        # of QEMU's end first: what it wrote before is then all there
        alive, text = self.qemu.alive, self.qemu.console()
        reason = _stopped(text) or ("" if alive else "QEMU ended")
        if reason:
            self.panicked = reason
            return Loss("panic", f"{reason}\n{self.qemu.tail()}")
        return self._crashed(box, text)

    def _crashed(self, box: Mailbox, text: str) -> Loss | None:
        """The domain of a mailbox was crashed by Xen, or its payload lost its way."""
        for found_crash in _CRASH.finditer(text):
            number = int(next(part for part in found_crash.groups() if part))
            if number == box.domain:
                self.dead[number] = f"Xen crashed domain {number}"
                return Loss("crash", f"Xen crashed domain {number}\n{self.qemu.tail()}")
        died = box.died
        if died is not None:
            self.dead[box.domain] = "its payload met an exception that it does not know"
            words = ", ".join(f"{value:#x}" for value in died)
            return Loss("crash", f"the payload of domain {box.domain} met an exception: kind, syndrome, pc, address "
                                 f"are {words}")
        return None

    def _hung(self, box: Mailbox) -> Loss:
        """Nothing moves: the domain only, or all of Xen?"""
        before = {key: other.polls for key, other in self.boxes.items()}
        time.sleep(1.0)
        others = [key for key, other in self.boxes.items() if key[0] != box.domain and not other.busy]
        if others and all(self.boxes[key].polls == before[key] for key in others):
            self.panicked = "Xen hangs: no domain runs any more"
            return Loss("panic", f"{self.panicked}\n{self.qemu.tail()}")
        self.dead[box.domain] = f"domain {box.domain} does not go on"
        return Loss("stuck", f"item {box.position} of domain {box.domain} vCPU {box.vcpu} does not end")

    # ---- stimuli, as impl.fast.machine.Machine has them

    def hypercall(self, domain: int, vcpu: int, registers: Mapping[int, int] | Sequence[int]) -> Observation:
        """HVC #0xEA1 with general registers, as impl.fast.machine.Machine.hypercall. Errors: Refused."""
        given = registers if isinstance(registers, Mapping) else dict(enumerate(registers))
        return self.one(Stimulus("hypercall", domain, vcpu, registers=tuple(sorted(given.items()))))

    def load(self, domain: int, vcpu: int, ipa: int, size: int = 8) -> Observation:
        """A load by the guest. Errors: Refused."""
        return self.one(Stimulus("load", domain, vcpu, ipa, size))

    def store(self, domain: int, vcpu: int, ipa: int, size: int, value: int) -> Observation:
        """A store by the guest. Errors: Refused."""
        return self.one(Stimulus("store", domain, vcpu, ipa, size, value))

    def fetch(self, domain: int, vcpu: int, ipa: int) -> Observation:
        """The fetch of an instruction, replaced meanwhile by a harmless one. Errors: Refused."""
        return self.one(Stimulus("fetch", domain, vcpu, ipa, 4))

    def set_way(self, domain: int, vcpu: int) -> Observation:
        """A cache operation by set and way. Errors: Refused."""
        return self.one(Stimulus("set_way", domain, vcpu))

    def toggle_cache(self, domain: int, vcpu: int, *, enabled: bool) -> Observation:
        """The vCPU switches its MMU and cache on, over an identity map, or off. Errors: Refused."""
        return self.one(Stimulus("toggle_cache", domain, vcpu, enabled=enabled))

    def preempt_after(self, items: int | None) -> None:
        """Refused: on real Xen interrupts preempt a hypercall, and the guest only sees its end."""
        if items is not None:
            raise Refused("real Xen preempts hypercalls when an interrupt comes, which cannot be timed from a guest")

    def force(self, choices: Iterable[tuple[str, int]]) -> None:
        """Refused, unless there is nothing to force: real Xen makes its own choices."""
        if list(choices):
            raise Refused("real Xen makes its own choices: they are read back, not forced")

    def one(self, stimulus: Stimulus) -> Observation:
        """One stimulus. Errors: Refused."""
        return self.give([stimulus])[0]

    def give(self, stimuli: Sequence[Stimulus]) -> list[Observation]:
        """Stimuli of any domains, in order; what each showed.

        They go to the vCPUs as one program each, and the turn is passed on from here whenever another vCPU is next.
        Errors: Refused, before anything is run, for a stimulus that cannot be driven.
        """
        for stimulus in stimuli:
            self._check(stimulus)
        seen: list[Observation] = []
        while len(seen) < len(stimuli):
            seen.extend(self._give_batch(stimuli, len(seen)))
        return seen

    def _check(self, stimulus: Stimulus) -> None:
        box = self._box(stimulus.domain, stimulus.vcpu)
        if stimulus.do in {"load", "store", "fetch"}:
            last = stimulus.ipa + stimulus.size
            if stimulus.ipa < box.high and last > box.low:
                raise Refused(f"domain {stimulus.domain}: {stimulus.ipa:#x} belongs to the payload, which keeps "
                              f"{box.low:#x} to {box.high:#x}")
            if box.width == 32 and last > 1 << 32:
                raise Refused(f"a 32-bit guest with its MMU off has no address {stimulus.ipa:#x}")
            if stimulus.do == "fetch" and stimulus.ipa & 3:
                raise Refused(f"an instruction at {stimulus.ipa:#x} is not aligned")
            if stimulus.size not in {1, 2, 4, 8}:
                raise Refused(f"no access has {stimulus.size} bytes")
            if stimulus.do == "store" and stimulus.value >> 8 * stimulus.size:
                raise Refused(f"{stimulus.value:#x} does not fit in {stimulus.size} bytes")
        if stimulus.do == "hypercall" and any(not 0 <= number < 31 for number, _ in stimulus.registers):
            raise Refused("the general registers are those from 0 to 30")

    def _give_batch(self, stimuli: Sequence[Stimulus], start: int) -> list[Observation]:
        """As many stimuli from `start` on as go in one program for each vCPU."""
        programs: dict[tuple[int, int], Program] = {}
        places: list[tuple[tuple[int, int], int]] = []
        segments: list[tuple[tuple[int, int], int, int]] = []     # who, turn, the position at its end
        for stimulus in stimuli[start:]:
            who = stimulus.domain, stimulus.vcpu
            box = self.boxes[who]
            if self.panicked or stimulus.domain in self.dead:
                break
            whole = self._needs_all_registers(stimulus, box.width)
            if whole and places:
                break
            program = programs.setdefault(who, Program(box.width, box.capacity))
            if len(program) + 2 > box.capacity:
                break
            if not segments or segments[-1][0] != who:
                self._turn = (self._turn + 1) & 0x7FFFFFFF
                program.await_turn(self._turn)
                segments.append((who, self._turn, 0))
            places.append((who, self._add(program, stimulus, box)))
            segments[-1] = (who, segments[-1][1], len(program))
            if whole:
                break
        if not places:
            return [self._not_run(stimuli[start])]
        self.qemu.go()
        for who, program in programs.items():
            self.boxes[who].submit(program.items())
        lost: dict[tuple[int, int], Loss] = {}
        for who, turn, position in segments:
            if who in lost or who[0] in self.dead:
                continue
            if self.panicked:
                break
            self.boxes[who].give_turn(turn)
            loss = self._await(self.boxes[who], position, PATIENCE)
            if loss is not None:
                lost[who] = loss
        for who in programs:
            # the last word of a program comes just after its last item
            if who not in lost and not self.panicked and who[0] not in self.dead:
                self._await(self.boxes[who], None, PATIENCE)
        seen = []
        for (who, index), stimulus in zip(places, stimuli[start:], strict=False):
            loss = lost.get(who)
            box = self.boxes[who]
            if index < box.position or (loss is None and not self.panicked and who[0] not in self.dead):
                seen.append(self._observe(stimulus, box, index))
            elif loss is not None and index == box.position:
                seen.append(Observation(loss.kind, self._given(stimulus, box.width), reason=loss.reason))
            else:
                seen.append(self._not_run(stimulus))
        return seen

    def _not_run(self, stimulus: Stimulus) -> Observation:
        """What is seen of a stimulus to a domain, or a machine, that does not run any more."""
        registers = self._given(stimulus, self.boxes[stimulus.domain, stimulus.vcpu].width)
        if self.panicked:
            return Observation("panic", reason=self.panicked)
        return Observation("stuck", registers, reason=self.dead.get(stimulus.domain, ""))

    @staticmethod
    def _needs_all_registers(stimulus: Stimulus, width: int) -> bool:
        number = 16 if width == 64 else 12
        return stimulus.do == "hypercall" and any(
            value and register > 4 and register != number for register, value in stimulus.registers)

    def _given(self, stimulus: Stimulus, width: int) -> list[int] | None:
        """The registers of a hypercall before it, cut to the guest's width."""
        if stimulus.do != "hypercall":
            return None
        made = [0] * 31
        for number, value in stimulus.registers:
            made[number] = value & ((1 << width) - 1)
        return made

    def _add(self, program: Program, stimulus: Stimulus, box: Mailbox) -> int:
        if stimulus.do == "load":
            return program.load(stimulus.ipa, stimulus.size)
        if stimulus.do == "store":
            return program.store(stimulus.ipa, stimulus.size, stimulus.value)
        if stimulus.do == "fetch":
            return program.fetch(stimulus.ipa)
        if stimulus.do == "set_way":
            return program.call(SET_WAY[box.width])
        if stimulus.do == "toggle_cache":
            return program.cache(stimulus.enabled)
        registers = self._given(stimulus, box.width)
        assert registers is not None
        if self._needs_all_registers(stimulus, box.width):
            box.registers()[:] = np.array(registers, np.uint64)
            return program.full_call()
        return program.hypercall(registers[16 if box.width == 64 else 12], *registers[:5])

    def _observe(self, stimulus: Stimulus, box: Mailbox, index: int) -> Observation:
        row = box.items[index]
        outcome = Outcome(int(row["outcome"]))
        out = row["out"].tolist()
        registers = self._given(stimulus, box.width)
        if outcome is Outcome.VALUE:
            if registers is None:
                return Observation("value", value=out[0] if stimulus.do in {"load", "fetch"} else None)
            if self._needs_all_registers(stimulus, box.width):
                number = 31 if box.width == 64 else 13
                registers[:number] = box.registers()[:number].tolist()
            else:
                registers[:5] = out[:5]
                registers[16 if box.width == 64 else 12] = out[5]
            changed = int(row["changed"])
            return Observation("value", registers, reason=f"registers {changed:#x} changed too" if changed else "")
        if outcome in _ABORTS:
            return Observation("fault", registers, fault=("translation", -1, out[2], out[1]))
        if outcome is Outcome.UNDEFINED:
            return Observation("fault", registers, fault=("undefined", 0, 0, out[1]))
        if outcome is Outcome.STUCK:
            return Observation("stuck", registers, fault=("permission", -1, stimulus.ipa, 0))
        if outcome is Outcome.CANNOT:
            return Observation("illegal", reason="the page is not writable: no harmless instruction could be put there")
        return Observation("fault", registers, fault=("translation", -1, out[2], out[1]), reason=outcome.name.lower())

    # ---- Xen's own tables

    def roots(self, domain: int) -> tables.Roots:
        """Where a domain's stage-2 tables are, from the processor while the domain runs. Errors: QemuError, Refused."""
        known = self._roots.get(domain)
        if known is not None:
            return known
        box = self._box(domain, 0)
        names = ("VTTBR_EL2", "VTCR_EL2", "HCR_EL2") if self.kind.width == 64 else ("VTTBR", "VTCR", "HCR")
        for _ in range(5):
            program = Program(box.width, box.capacity)
            program.spin(400_000)
            box.submit(program.items())
            roots = None
            while box.busy and roots is None:
                time.sleep(0.02)
                for registers in self.qemu.registers(names, self.config.cpus):
                    roots = roots or self._roots_of(box, [registers[name] for name in names])
            self._await(box, None, PATIENCE)
            if roots is not None:
                self._roots[domain] = roots
                return roots
        raise QemuError(f"the tables of domain {domain} were not found")

    def _roots_of(self, box: Mailbox, registers: Sequence[int]) -> tables.Roots | None:
        """The tables that registers name, if they map a mailbox to where it is in RAM."""
        roots = tables.Roots(registers[0], registers[1], self.kind.width, registers[2])
        leaf = tables.find(self.qemu.words, self.kind.ram_base, roots, box.head_ipa >> 12)
        if leaf is None or leaf.mfn << 12 != self.kind.ram_base + box.offset:
            return None
        return roots

    def stage2(self, domain: int, *, devices: bool = False) -> dict[tuple[int, int], tuple[int | bool, ...]]:
        """The domain's p2m in the rows of impl.fast.projection, read while the machine stands still.

        devices: with mapped devices. Errors: QemuError, Refused.
        """
        roots = self.roots(domain)
        with self.qemu.stopped():
            return tables.rows(self.qemu.words, self.kind.ram_base, roots, domain, devices=devices)

    def leaves(self, domain: int) -> list[tables.Leaf]:
        """The leaves of a domain's tables, devices included. Errors: QemuError, Refused."""
        roots = self.roots(domain)
        with self.qemu.stopped():
            return sorted(tables.leaves(self.qemu.words, self.kind.ram_base, roots), key=lambda leaf: leaf.gfn)

    def translate(self, domain: int, ipa: int) -> int | None:
        """The machine address behind a guest address, valid for the hardware or not; None where nothing is mapped."""
        leaf = tables.find(self.qemu.words, self.kind.ram_base, self.roots(domain), ipa >> 12)
        return None if leaf is None else leaf.mfn << 12 | ipa & 0xFFF

    def peek(self, domain: int, ipa: int, size: int) -> bytes:
        """Guest memory as it is in the machine's RAM, within one page. Errors: Refused where nothing is mapped."""
        return bytes(self._view(domain, ipa, size))

    def poke(self, domain: int, ipa: int, data: bytes) -> None:
        """Write guest memory from outside, within one page, as no guest could. Errors: Refused."""
        self._view(domain, ipa, len(data))[:] = np.frombuffer(data, np.uint8)

    def _view(self, domain: int, ipa: int, size: int) -> Any:
        address = self.translate(domain, ipa)
        start = -1 if address is None else address - self.kind.ram_base
        if not 0 <= start <= self.kind.ram_size - size or (ipa & 0xFFF) + size > 4096:
            raise Refused(f"domain {domain} has no {size} bytes of RAM in one page at {ipa:#x}")
        return self.qemu.bytes[start:start + size]


def _stopped(text: str) -> str:
    """Why the whole machine stopped, by its console, or nothing."""
    panic = _PANIC.search(text)
    if panic:
        # of a panic the words below the headline, of a bug the whole line
        return (panic.group(1) or panic.group(0)).strip()
    stopped = _STOPPED.search(text)
    return stopped.group(0).strip() if stopped else ""
