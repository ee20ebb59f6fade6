"""Traces: a board, its domains, what their guests do, and what was seen; as JSON, for any implementation of Xen on Arm.

The format is described in docs/traces.rst. Whatever is wrong with a trace is said in one line (BadInputError).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from bulkhead.problems import BadInputError

VERSION: Final = 1
LARGEST: Final = 64 << 20
"""Bytes of a file that is read at most."""
MOST_STIMULI: Final = 1_000_000
_WORD: Final = (1 << 64) - 1
_EXACT: Final = 1 << 53
"""Numbers from here up are written as text: many readers of JSON would round them."""

KINDS: Final = ("value", "fault", "stuck", "crash", "restart", "panic", "illegal")
FAULTS: Final = ("translation", "permission", "undefined")


# ---- the machine


@attrs.frozen
class Bank:
    """A bank of RAM. base: address of its first byte; size: bytes; both multiples of 4096."""

    base: int
    size: int


@attrs.frozen
class Board:
    """The hardware. name: one of Bulkhead's boards, whose RAM is taken; or ram: banks, disjoint."""

    name: str = ""
    ram: tuple[Bank, ...] = ()


@attrs.frozen
class Domain:
    """A domain at boot; fields as of ``impl.fast.machine.DomainConfig``."""

    domid: int
    pages: int
    base_gfn: int = 0x40000
    vcpus: int = 1
    privileged: bool = False
    is_hardware: bool = False
    direct_map: bool = False
    target: int | None = None
    max_pages: int | None = None
    max_grant_frames: int | None = None
    max_maptrack_frames: int | None = None
    p2m_pool_pages: int | None = 32
    iomem: tuple[tuple[int, int], ...] = ()
    devices: tuple[tuple[int, int, int], ...] = ()
    iommu: bool = False
    width: int | None = None


@attrs.frozen
class Configuration:
    """Xen's configuration; fields as of ``impl.fast.machine.Config``, the domains apart."""

    arch: str = "arm64"
    pa_bits: int = 40
    ipa_bits: int = 48
    vmid_bits: int = 8
    xsm: str = "dummy"
    grant_max_version: int = 1
    opt_max_grant_frames: int = 64
    opt_max_maptrack_frames: int = 1024
    grant_transitive: bool = True
    iommu_shares_p2m: bool = False
    scrub_domheap: bool = False
    xen_text_pages: int = 256
    xen_pages: int = 16
    xenheap_pages: int | None = None
    gic_version: int = 2
    gic_frames: tuple[int, int, int, int] | None = None
    iommu: bool = False
    vpmu: bool = False
    cache_line: int = 64


# ---- what guests do


@attrs.frozen
class Load:
    """A load of `size` (1, 2, 4, 8) bytes at guest physical address `ipa`."""

    domain: int
    vcpu: int
    ipa: int
    size: int = 8


@attrs.frozen
class Store:
    """A store of `size` bytes, little-endian."""

    domain: int
    vcpu: int
    ipa: int
    size: int
    value: int


@attrs.frozen
class Fetch:
    """The fetch of an instruction (4 bytes, aligned)."""

    domain: int
    vcpu: int
    ipa: int


def _as_registers(given: Mapping[int, int]) -> tuple[tuple[int, int], ...]:
    return tuple(sorted(dict(given).items()))


@attrs.frozen
class Hypercall:
    """HVC #0xEA1 with general registers (number, value); those that are not named are zero."""

    domain: int
    vcpu: int
    registers: tuple[tuple[int, int], ...] = attrs.field(converter=_as_registers)


@attrs.frozen
class SetWay:
    """A cache operation by set and way."""

    domain: int
    vcpu: int


@attrs.frozen
class ToggleCache:
    """The vCPU switches its cache on or off."""

    domain: int
    vcpu: int
    enabled: bool


@attrs.frozen
class Preempt:
    """The next hypercall is preempted at its `after`-th preemption check, the first being 1."""

    after: int


@attrs.frozen
class Time:
    """Time passes and nobody does anything."""

    microseconds: int


Stimulus = Load | Store | Fetch | Hypercall | SetWay | ToggleCache | Preempt | Time


@attrs.frozen
class Seen:
    """What was observed of a stimulus.

    kind: one of KINDS; registers: x0..x4 and x16 (r12) after a hypercall, by number; value: of a load or fetch;
    fault: (kind, level or -1, address, syndrome); choices: what the implementation chose meanwhile, as (kind, number)
    in order; reason: in words.
    """

    kind: str
    registers: tuple[tuple[int, int], ...] | None = None
    value: int | None = None
    fault: tuple[str, int, int, int] | None = None
    choices: tuple[tuple[str, int], ...] = ()
    reason: str = ""


@attrs.frozen
class Trace:
    """A board, its domains, stimuli, and what was seen of each (empty: nothing is known yet).

    name: words joined by hyphens; about: one sentence that says what the trace shows.
    """

    board: Board
    config: Configuration
    domains: tuple[Domain, ...]
    stimuli: tuple[Stimulus, ...]
    seen: tuple[Seen | None, ...] = ()
    name: str = ""
    about: str = ""


# ---- reading


class _Fields:
    """The fields of one JSON object, taken one by one; what is left over is an error."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise BadInputError(f"{where} is {_kind(value)}, not an object")
        self.values = dict(value)
        self.where = where

    def take(self, name: str, default: Any = attrs.NOTHING) -> Any:
        if name in self.values:
            return self.values.pop(name)
        if default is attrs.NOTHING:
            raise BadInputError(f"{self.where}: there is no {name!r}")
        return default

    def number(self, name: str, low: int = 0, high: int = _WORD, default: Any = attrs.NOTHING) -> Any:
        value = self.take(name, default)
        return value if value is default else number(value, f"{self.where}.{name}", low, high)

    def flag(self, name: str, default: Any = attrs.NOTHING) -> bool:
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise BadInputError(f"{self.where}.{name} is {_kind(value)}, not true or false")
        return value

    def text(self, name: str, default: Any = attrs.NOTHING) -> str:
        value = self.take(name, default)
        if not isinstance(value, str):
            raise BadInputError(f"{self.where}.{name} is {_kind(value)}, not text")
        return value

    def done(self) -> None:
        if self.values:
            raise BadInputError(f"{self.where}: there is no field {min(self.values)!r} in this version")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", int: "a number",
             float: "a number with a fraction", type(None): "null"}
    return names.get(type(value), "something else")


def number(value: Any, where: str, low: int = 0, high: int = _WORD) -> int:
    """A JSON number, or text with a number in base 10 or 16 ("0x..."), within limits. Errors: BadInputError."""
    if isinstance(value, str):
        text = value
        try:
            value = int(text, 16) if text.startswith("0x") else int(text)
        except ValueError:
            raise BadInputError(f"{where}: {text[:40]!r} is no number") from None
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadInputError(f"{where} is {_kind(value)}, not a whole number")
    if not low <= value <= high:
        raise BadInputError(f"{where}: {value:#x} is not within {low:#x}..{high:#x}")
    return value


def _list(value: Any, where: str, most: int = MOST_STIMULI) -> list[Any]:
    if not isinstance(value, list):
        raise BadInputError(f"{where} is {_kind(value)}, not a list")
    if len(value) > most:
        raise BadInputError(f"{where} has {len(value)} elements, more than {most}")
    return value


def _numbers(value: Any, where: str, length: int) -> tuple[int, ...]:
    found = _list(value, where, length)
    if len(found) != length:
        raise BadInputError(f"{where} has {len(found)} elements, not {length}")
    return tuple(number(each, f"{where}[{i}]") for i, each in enumerate(found))


def _board(value: Any) -> Board:
    fields = _Fields(value, "board")
    name = fields.text("name", "")
    banks = []
    for i, each in enumerate(_list(fields.take("ram", []), "board.ram", 64)):
        bank = _Fields(each, f"board.ram[{i}]")
        base, size = bank.number("base"), bank.number("size", 1)
        if base % 4096 or size % 4096:
            raise BadInputError(f"{bank.where}: base and size must be multiples of 4096")
        bank.done()
        banks.append(Bank(base, size))
    fields.done()
    if bool(name) == bool(banks):
        raise BadInputError("board: it needs either a name or banks of RAM")
    return Board(name, tuple(banks))


_LIMITS: Final[dict[str, tuple[int, int]]] = {
    "pa_bits": (32, 52), "ipa_bits": (32, 52), "vmid_bits": (8, 16), "grant_max_version": (1, 2),
    "opt_max_grant_frames": (1, 1 << 20), "opt_max_maptrack_frames": (0, 1 << 20), "xen_text_pages": (1, 1 << 20),
    "xen_pages": (1, 1 << 20), "xenheap_pages": (1, 1 << 24), "gic_version": (2, 3),
    "domid": (0, 0x7FEF), "pages": (0, 1 << 24), "base_gfn": (0, 1 << 36), "vcpus": (1, 128), "target": (0, 0x7FEF),
    "max_pages": (0, (1 << 32) - 1), "max_grant_frames": (1, 1 << 20), "max_maptrack_frames": (0, 1 << 20),
    "p2m_pool_pages": (0, 1 << 20), "width": (32, 64),
}
_CHOICES: Final = {"arch": ("arm64", "arm32"), "xsm": ("dummy", "silo")}


def _record(cls: type[Any], value: Any, where: str) -> Any:
    """A Configuration or a Domain: its fields by name, those left out as their defaults say."""
    fields = _Fields(value, where)
    made: dict[str, Any] = {}
    for each in attrs.fields(cls):
        if each.name not in fields.values:
            if each.default is attrs.NOTHING:
                raise BadInputError(f"{where}: there is no {each.name!r}")
            continue
        made[each.name] = _value(each.name, str(each.type), fields, where)
    fields.done()
    return cls(**made)


def _value(name: str, kind: str, fields: _Fields, where: str) -> Any:
    if "None" in kind and fields.values[name] is None:
        return fields.take(name)
    if kind == "bool":
        return fields.flag(name)
    if kind == "str":
        text = fields.text(name)
        if text not in _CHOICES[name]:
            raise BadInputError(f"{where}.{name} is {text[:40]!r}, not one of {', '.join(_CHOICES[name])}")
        return text
    if name == "gic_frames":
        return _numbers(fields.take(name), f"{where}.{name}", 4)
    if name in {"iomem", "devices"}:
        return tuple(_numbers(each, f"{where}.{name}[{i}]", 2 if name == "iomem" else 3)
                     for i, each in enumerate(_list(fields.take(name), f"{where}.{name}", 1024)))
    return fields.number(name, *_LIMITS[name])


def _registers(value: Any, where: str) -> tuple[tuple[int, int], ...]:
    fields = _Fields(value, where)
    found: dict[int, int] = {}
    for name, each in fields.values.items():
        found[number(name, f"{where}: register", 0, 30)] = number(each, f"{where}.{name}")
    return _as_registers(found)


def _access(fields: _Fields) -> dict[str, int]:
    return {**_who(fields), "ipa": fields.number("ipa", 0, _WORD - 8)}


def _who(fields: _Fields) -> dict[str, int]:
    return {"domain": fields.number("domain", 0, 0x7FEF), "vcpu": fields.number("vcpu", 0, 127)}


def _size(fields: _Fields) -> int:
    size: int = fields.number("size")
    if size not in {1, 2, 4, 8}:
        raise BadInputError(f"{fields.where}: no access has {size} bytes")
    return size


def _store(fields: _Fields) -> Store:
    size = _size(fields)
    return Store(**_access(fields), size=size, value=fields.number("value", 0, (1 << 8 * size) - 1))


def _fetch(fields: _Fields) -> Fetch:
    made = Fetch(**_access(fields))
    if made.ipa % 4:
        raise BadInputError(f"{fields.where}: an instruction at {made.ipa:#x} is not aligned")
    return made


_READERS: Final[dict[str, Callable[[_Fields], Stimulus]]] = {
    "load": lambda fields: Load(size=_size(fields), **_access(fields)),
    "store": _store,
    "fetch": _fetch,
    "hypercall": lambda fields: Hypercall(
        **_who(fields), registers=dict(_registers(fields.take("registers"), f"{fields.where}.registers"))),
    "set_way": lambda fields: SetWay(**_who(fields)),
    "toggle_cache": lambda fields: ToggleCache(**_who(fields), enabled=fields.flag("enabled")),
    "preempt": lambda fields: Preempt(fields.number("after", 1, 1 << 32)),
    "time": lambda fields: Time(fields.number("microseconds", 0, 1 << 53)),
}
_NAMES: Final[dict[type[Any], str]] = {
    Load: "load", Store: "store", Fetch: "fetch", Hypercall: "hypercall", SetWay: "set_way",
    ToggleCache: "toggle_cache", Preempt: "preempt", Time: "time",
}


def _seen(value: Any, where: str) -> Seen:
    fields = _Fields(value, where)
    kind = fields.text("kind")
    if kind not in KINDS:
        raise BadInputError(f"{where}.kind is {kind[:40]!r}, not one of {', '.join(KINDS)}")
    registers = fields.take("registers", None)
    fault = fields.take("fault", None)
    choices = []
    for i, each in enumerate(_list(fields.take("choices", []), f"{where}.choices")):
        pair = _list(each, f"{where}.choices[{i}]", 2)
        if len(pair) != 2 or not isinstance(pair[0], str):
            raise BadInputError(f"{where}.choices[{i}] is not a kind and a number")
        choices.append((pair[0], number(pair[1], f"{where}.choices[{i}]")))
    made = Seen(
        kind, None if registers is None else _registers(registers, f"{where}.registers"),
        fields.number("value", default=None), None if fault is None else _fault(fault, f"{where}.fault"),
        tuple(choices), fields.text("reason", ""))
    fields.done()
    return made


def _fault(value: Any, where: str) -> tuple[str, int, int, int]:
    fields = _Fields(value, where)
    kind = fields.text("kind")
    if kind not in FAULTS:
        raise BadInputError(f"{where}.kind is {kind[:40]!r}, not one of {', '.join(FAULTS)}")
    made = (kind, fields.number("level", -1, 3, -1), fields.number("ipa"), fields.number("syndrome"))
    fields.done()
    return made


def _stimulus(value: Any, where: str) -> tuple[Stimulus, Seen | None]:
    fields = _Fields(value, where)
    name = fields.text("do")
    reader = _READERS.get(name)
    if reader is None:
        raise BadInputError(f"{where}.do is {name[:40]!r}, not one of {', '.join(_READERS)}")
    seen = fields.take("seen", None)
    made = reader(fields)
    fields.done()
    return made, None if seen is None else _seen(seen, f"{where}.seen")


def loads(text: str) -> Trace:
    """A trace from JSON. Errors: BadInputError."""
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError, ValueError) as problem:
        raise BadInputError(f"the trace is no JSON: {str(problem) or 'it is nested too deeply'}") from None
    fields = _Fields(value, "the trace")
    version = fields.take("bulkhead-trace", None)
    if version is None:
        raise BadInputError("this is no trace: there is no 'bulkhead-trace' with its version")
    if isinstance(version, bool) or version != VERSION:
        raise BadInputError(f"the trace has version {str(version)[:40]}; version {VERSION} can be read")
    board = _board(fields.take("board"))
    config = _record(Configuration, fields.take("config", {}), "config")
    domains = tuple(_record(Domain, each, f"domains[{i}]")
                    for i, each in enumerate(_list(fields.take("domains"), "domains", 0x7FF0)))
    numbers = [domain.domid for domain in domains]
    for domid in numbers:
        if numbers.count(domid) > 1:
            raise BadInputError(f"domains: domain {domid} is there twice")
    rows = [_stimulus(each, f"stimuli[{i}]") for i, each in enumerate(_list(fields.take("stimuli"), "stimuli"))]
    name, about = fields.text("name", ""), fields.text("about", "")
    fields.done()
    seen = tuple(each for _, each in rows)
    return Trace(board, config, domains, tuple(each for each, _ in rows), seen if any(seen) else (), name, about)


def read(path: Path | str) -> Trace:
    """A trace from a file. Errors: BadInputError, with the file's name."""
    file = Path(path)
    try:
        if file.stat().st_size > LARGEST:
            raise BadInputError(f"{file}: the file is larger than {LARGEST >> 20} MB")
        text = file.read_text("utf-8")
    except OSError as problem:
        raise BadInputError(f"{file}: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise BadInputError(f"{file}: the file is no text") from None
    try:
        return loads(text)
    except BadInputError as problem:
        raise BadInputError(f"{file}: {problem}") from None


# ---- writing


def _plain(value: Any) -> Any:
    """A value as JSON has it: large numbers as text."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return hex(value) if value >= _EXACT else value
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value]


def _changed_fields(value: Any) -> dict[str, Any]:
    """The fields of a record that are not as their defaults."""
    return {each.name: _plain(getattr(value, each.name)) for each in attrs.fields(type(value))
            if each.default is attrs.NOTHING or getattr(value, each.name) != each.default}


def as_json(seen: Seen) -> dict[str, Any]:
    """An observation as the values that JSON has."""
    made: dict[str, Any] = {"kind": seen.kind}
    if seen.registers is not None:
        made["registers"] = _plain(dict(seen.registers))
    if seen.value is not None:
        made["value"] = _plain(seen.value)
    if seen.fault is not None:
        made["fault"] = _plain(dict(zip(("kind", "level", "ipa", "syndrome"), seen.fault, strict=True)))
    if seen.choices:
        made["choices"] = _plain(seen.choices)
    if seen.reason:
        made["reason"] = seen.reason
    return made


def stimulus_as_json(stimulus: Stimulus) -> dict[str, Any]:
    """A stimulus as the values that JSON has."""
    made: dict[str, Any] = {"do": _NAMES[type(stimulus)]}
    for each in attrs.fields(type(stimulus)):
        value = getattr(stimulus, each.name)
        made[each.name] = _plain(dict(value) if each.name == "registers" else value)
    return made


def dumps(trace: Trace) -> str:
    """A trace as JSON, one stimulus a line."""
    board: dict[str, Any] = {}
    if trace.board.name:
        board["name"] = trace.board.name
    else:
        board["ram"] = [_plain(attrs.asdict(bank)) for bank in trace.board.ram]
    head = {"bulkhead-trace": VERSION, "name": trace.name, "about": trace.about, "board": board,
            "config": _changed_fields(trace.config)}
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    domains = ",\n".join("    " + json.dumps(_changed_fields(domain)) for domain in trace.domains)
    lines.append(f'  "domains": [\n{domains}\n  ],' if domains else '  "domains": [],')
    rows = []
    for i, stimulus in enumerate(trace.stimuli):
        made = stimulus_as_json(stimulus)
        seen = trace.seen[i] if i < len(trace.seen) else None
        if seen is not None:
            made["seen"] = as_json(seen)
        rows.append("    " + json.dumps(made))
    body = ",\n".join(rows)
    lines.append(f'  "stimuli": [\n{body}\n  ]' if body else '  "stimuli": []')
    return "{\n" + "\n".join(lines) + "\n}\n"


def write(trace: Trace, path: Path | str) -> None:
    """Write a trace to a file. Errors: BadInputError if it cannot be written."""
    try:
        Path(path).write_text(dumps(trace), "utf-8")
    except OSError as problem:
        raise BadInputError(f"{path}: {problem.strerror}") from None
