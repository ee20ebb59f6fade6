"""Mutants of the optimised implementation: does the differential fuzzer find each within a minute?

``python -m tests.mutants.implementation [--historical] [--sample N] [--only TEXT]``.  A mutant changes one function or
method of ``impl.fast``; the fuzzer then compares it with the specification until the first difference.  It begins with
the seeded programs that come through the changed line, those first that come through the most of its function; random
guests follow.

No systematic mutant is made of what is no behaviour of Xen:

* functions that run only while a machine is set up (both sides begin with the booted state, and no flaw is in while a
  machine boots), take and restore snapshots, or carry out choices that a test forces on the machine;
* guards that only raise: they refuse configurations and calls that nobody makes, or stop where Xen has an assertion;
* records that nobody reads, hooks of tests, and the choice between one row and many at once where both give the same.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import functools
import hashlib
import importlib
import inspect
import json
import multiprocessing
import os
import pathlib
import random
import resource
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Final

import attrs
from rich.console import Console
from rich.table import Table

from bulkhead.fuzz.boards import Scenario, scenarios
from bulkhead.fuzz.campaign import Campaign
from bulkhead.fuzz.executors import SerialExecutor
from bulkhead.fuzz.grammar import WEIGHTS
from bulkhead.fuzz.job import Failure, Job, Result
from bulkhead.fuzz.seeds import SEEDS, Program, suits
from bulkhead.fuzz.world import FoundError, Single, broke
from impl.boards.ram import Ram
from impl.fast.machine import Config, Machine
from tests.mutants.implementation_historical import HISTORICAL, INVISIBLE, Flaw
from tests.mutants.mutation import exchanged, source_of
from tests.mutants.systematic import Site, changed, conditions

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PLACE = "build/mutants-implementation.json"
REACH = "build/mutants-reach.json"
"""What the seeded programs come through, kept from run to run."""
SECONDS: Final = 60.0
"""The fuzzer has so long for one mutant: of a processor's work, so that it does not matter who else works."""
MOST_FOUND: Final = 0.95
BOARDS: Final = ("foundation-v8", "vexpress-a15")
"""One board of each architecture."""
MEASURED: Final = (Scenario("foundation-v8", 0), Scenario("foundation-v8", 4), Scenario("foundation-v8", 1),
                   Scenario("vexpress-a15", 2))
"""The machines on which it is measured what a program comes through."""
DIRECTED: Final = 0.6
"""Share of the time for seeded programs; the rest is for random guests."""
STUCK_SECONDS: Final = 6.0
"""Processor time after which a stimulus that has not ended counts as one that never will, at most twice of it."""
MOST_BYTES: Final = 8 << 30
"""Address space of a hunt: a mutant that eats memory without end is stopped."""
MODULES: Final = (
    "p2m", "guestcopy", "memory_op", "domctl", "teardown", "frames", "privilege", "domains", "machine", "boot",
    "grant.cache", "grant.copying", "grant.entries", "grant.guest", "grant.lifecycle", "grant.mapping",
    "grant.maptrack", "grant.ops", "grant.physmap", "grant.table", "grant.tables",
)
ACTIONS: Final[dict[str, tuple[str, ...]]] = {
    "p2m": ("populate", "decrease", "remove", "batch", "access", "caches"), "guestcopy": ("access", "offer"),
    "memory_op": ("increase", "decrease", "populate", "statistic", "add", "batch", "remove", "claim", "exchange",
                  "resource"),
    "domctl": ("limits", "build", "kill"), "teardown": ("build", "kill"), "domains": ("build", "kill", "limits"),
    "boot": ("build", "kill"), "frames": ("populate", "decrease", "claim", "build", "kill"),
    "grant.cache": ("cache_flush",), "grant.copying": ("copy", "offer"), "grant.entries": ("map", "copy", "rewrite"),
    "grant.lifecycle": ("build", "kill", "map"), "grant.mapping": ("map", "unmap", "rewrite"),
    "grant.maptrack": ("map", "unmap"), "grant.ops": ("map", "unmap", "copy", "swap", "cache_flush", "table"),
    "grant.physmap": ("add", "resource"), "grant.table": ("table", "add"), "grant.tables": ("table", "swap"),
}
"""The grammar's actions that lead to a module; they are taken more often."""

NO_BEHAVIOUR: Final = frozenset({
    # set up before the first guest runs, the same for both
    "frames.Frames.add_to_heap", "frames.Frames._bind", "machine._check", "machine._geometry", "machine._layout",
    "machine._as_tuple", "boot.boot", "boot._build", "boot._allocate", "boot._without",
    # snapshots, and what the comparison reads
    "machine.Machine.snapshot", "machine.Machine.restore", "machine.Machine.dirty_pages", "frames.Frames.save",
    "frames.Frames.load", "domains.Domain.save", "domains.Domain.load", "domains.Vcpu.copy", "p2m.P2m.save",
    "p2m.P2m.load", "grant.table.GrantTable.snapshot", "grant.table.GrantTable.restore",
    "grant.table.GrantTable.array",
    # choices that a test forces
    "machine.Machine.force", "machine.Machine.choose", "machine.Machine.preempt_after", "frames.Frames._forced_block",
    "grant.maptrack._exchange",
})
"""Functions that are no behaviour of Xen."""
HELPERS: Final = ("forced", "before_access", "flushes", "NotModelled", "wanted is not None", "wanted in self.freelist")
"""Names of test hooks: a condition or an effect that is about one of them alone is none of Xen's."""
FEW_OR_MANY: Final = ("order == 0", "number == 1")
"""Conditions that tell one row from many at once."""

_NO_DEVICE = "map refuses device mappings on Arm, so that no handle has one"
_ORDINARY = "nobody here asks for memory without an owner or without a reference"
_ANY_BLOCK = "which free block is taken, and whether free blocks join, is the implementation's choice: any is legal"
_MORE_DIRTY = "too many frames count as perhaps dirty; each is looked at before it is scrubbed"
_TWICE = "what the other condition says already"
_ALIVE = "a mapping holds a page of its granter, which cannot be gone before"
_FEWER = "the machines that are compared have fewer handles than 2**15"
_BEYOND = "the highest mapped frame, which is asked for before, lies below"
_COHERENT = "memory types and shareability do not matter where caches are coherent"
_FASTER = "a short cut: the long way gives the same"
_BEYOND_TOO = "beyond the highest mapped frame no entry is found either"
_ENDED = "a domain or vCPU that does not run is given no stimulus"
_RACE = "the entry is read twice, and no guest runs in between"

EXPLAINED: Final[tuple[tuple[str, str, str], ...]] = (
    # (function, what its words contain, why no guest and no projection can notice)
    ("grant.mapping.unmap", "condition 3 dropped: dev_bus_addr and flags & GNTMAP_device_map and", _NO_DEVICE),
    ("grant.mapping.unmap", "guard dropped: if dev_bus_addr and flags & GNTMAP_device_map", _NO_DEVICE),
    ("grant.mapping.unmap", "update dropped: own.map_flags[handle] &= ~GNTMAP_device_map", _NO_DEVICE),
    ("grant.mapping.unmap", "update dropped: op.done |= GNTMAP_device_map", _NO_DEVICE),
    ("grant.mapping.unmap", "update dropped: op.status = GNTST_bad_dev_addr", _NO_DEVICE),
    ("grant.copying.Copier.copy", "update dropped: source.domain = dest.domain = None",
     "to look both up again sets both, or neither"),
    ("grant.mapping.complete", "guard dropped: if op.done & GNTMAP_device_map", _NO_DEVICE),
    ("grant.mapping.complete", "update dropped: table.pin[ref] -= DEVR_INC", _NO_DEVICE),
    ("domctl._Call.create", "update dropped: domain.is_dying = Dying.alive", "a new domain is alive already"),
    ("frames.Frames.alloc_domheap", "guard dropped: if memflags & MEMF_no", _ORDINARY),
    ("frames.Frames.alloc_domheap", "update dropped: memflags |=", _ORDINARY),
    ("frames.Frames.alloc_domheap", "condition 2 dropped: domain is not None and (not memflags", _ORDINARY),
    ("frames.Frames.alloc_domheap", "self.EXTRA", _ORDINARY),
    ("frames.Frames.assign", "guard dropped: if self._count[first] & self.EXTRA", _ORDINARY),
    ("frames.Frames.assign", "update dropped: domain.extra_pages", _ORDINARY),
    ("frames.Frames.assign", "update dropped: memflags &=", _ORDINARY),
    ("frames.Frames.assign", "condition 1 dropped: not memflags & MEMF_no_refcount", _ORDINARY),
    ("frames.Frames.free_domheap", "guard dropped: if self._count[first + k] & self.EXTRA", _ORDINARY),
    ("frames.Frames.free_domheap", "update dropped: domain.extra_pages", _ORDINARY),
    ("frames.Frames._alloc_heap", "condition 1 dropped: memflags & MEMF_no_refcount", _ORDINARY),
    ("frames.Frames._alloc_heap", "if order > abi.MAX_ORDER", "no free block is as large, so that none is found"),
    ("frames.Frames._alloc_heap", "bound off by one: order > abi.MAX_ORDER", "no caller names an order so large"),
    ("frames.Frames._alloc_heap", "update dropped: self._order[i] = -1", _TWICE),
    ("frames.Frames._alloc_heap", "condition 2 dropped: found is None and", "the first search took dirty blocks too"),
    ("frames.Frames._alloc_heap", "dropped: dirty != _CLEAN and dirty < half", _MORE_DIRTY),
    ("frames.Frames._alloc_heap", "bound off by one: dirty < half", _MORE_DIRTY),
    ("frames.Frames._alloc_heap", "update dropped: self.type_info[first:first + request]",
     "where a frame is mapped is on record of Xen's own frames alone, which are taken one by one"),
    ("frames.Frames._free_heap", "update dropped: orders[b] = -1", _TWICE),
    ("frames.Frames._free_heap", "dropped: orders[b] != order or buddy not in lists[order]", _TWICE),
    ("frames.Frames._free_heap", "bound off by one: buddy < mfn", "a block is not its own buddy"),
    ("frames.Frames._free_heap", "if dirty != _CLEAN: dirty += 1 << order", _MORE_DIRTY),
    ("frames.Frames._free_heap", "update dropped: dirty += 1 << order", _MORE_DIRTY),
    ("frames.Frames._free_heap", "condition 2 dropped: dirty == _CLEAN and dirties[b]", _MORE_DIRTY),
    ("frames.Frames._add_free", "update dropped: self._order[i]", _ANY_BLOCK),
    ("frames.Frames._add_free", "lists[order].move_to_end", _ANY_BLOCK),
    ("frames.Frames._free_buddy", "blocks.move_to_end", _ANY_BLOCK),
    ("frames.Frames._free_buddy", "dropped: order == 0 or unscrubbed or self._dirty", _ANY_BLOCK),
    ("frames.Frames._free_buddy", "condition 2 dropped: not zone_lo <= zone <= zone_hi or self.avail", _FASTER),
    ("frames.Frames._zone", "dropped: self.width == 32 and self.xenheap is not None", "arm32 alone has such a heap"),
    ("frames.Frames._zone", "condition 2 dropped: mfn.bit_length() or 1", "frame 0 is never given to the heap"),
    ("frames.Frames.is_xen_heap", "condition 1 dropped: self.xenheap is not None", "arm32 always has such a heap"),
    ("frames.Frames.is_allocated", "condition 2 dropped", "asked of frames in use alone"),
    ("frames.Frames.index", "if len(first) == 1", _FASTER),
    ("frames.Frames.share_xen_page", "update dropped: self._type[i] =", "nobody reads the count of a page's type"),
    ("frames.Frames.share_xen_page", "guard dropped: if self._owner[i] == domain.id", "a frame is shared once"),
    ("grant.copying._acquire_transitive", "condition 2 dropped: not readonly and (not old_pin & WRITE_PINS)",
     "copies alone pin transitive grants, and hold one of them for writing at a time"),
    ("domctl.unmake", "update dropped: domain.is_dying", "nobody sees a domain that was never listed"),
    ("p2m.P2m.lookup", "condition 1 dropped: self.root is None or index", "nobody looks up a domain without a root"),
    ("p2m.P2m.resolve_translation_fault", "guard dropped: if gfn > self.max_mapped_gfn or", _BEYOND_TOO),
    ("p2m.P2m.resolve_translation_fault", "condition 2 dropped: gfn > self.max_mapped_gfn or",
     "a domain without a root does not run"),
    ("grant.cache.grant_map_exists", "bound off by one: cursor < end", "no reference lies between the two"),
    ("frames.Frames._free_heap", "guard dropped: if zone not in self.lists", "every zone has its lists since the boot"),
    ("memory_op._Call.reservation", "bound off by one: address_bits < self.machine.max_page_bits",
     "all memory lies below so many bits"),
    ("machine.Machine.set_way", "condition 2 dropped: not domain.runs or", _ENDED),
    ("grant.physmap.acquire", "condition 1 dropped: resource_id == layouts.RESOURCE_STATUS",
     "a resource that there is not has no size, and is refused before"),
    ("machine.Machine.set_way", "guard dropped: if not domain.runs or", _ENDED),
    ("p2m.P2m.find", "condition 1 dropped: self.root is None or index", "nobody looks up a domain without a root"),
    ("machine.Machine.hypercall", "dropped: not domain.runs or vcpu not in domain.vcpus", _ENDED),
    ("machine._handlers", "", "the table of handlers is filled once, or again with the same"),
    ("machine.Machine._begin", "if self.frames.choices", _FASTER),
    ("p2m.P2m._invalidate_table", "guard dropped: if page.any()", _FASTER),
    ("grant.mapping._dma_put", "condition 1 dropped: not readonly and (not writers)",
     "an entry that is read-only already is made so again"),
    ("p2m.P2m.resolve_translation_fault", "guard dropped: if word & VALID", "a valid entry is written as it is"),
    ("p2m.P2m.find", "guard dropped: if gfn > self.max_mapped_gfn", "beyond the highest mapped one nothing is mapped"),
    ("frames.Frames._alloc_heap", "update dropped: self._owner[first]", "a free frame has no owner"),
    ("frames.Frames._alloc_heap", "update dropped: self.owner[first", "a free frame has no owner"),
    ("frames.Frames._free_heap", "update dropped: self._owner[first]", "nobody asks for the owner of a free frame"),
    ("frames.Frames._free_heap", "update dropped: self.owner[first", "nobody asks for the owner of a free frame"),
    ("grant.mapping.unmap", "guard dropped: if granter is None", _ALIVE),
    ("grant.lifecycle._release_handle", "guard dropped: if granter is None", _ALIVE),
    ("grant.lifecycle._release_handle", "guard dropped: if not flags &", "only handles that are in use are looked at"),
    ("grant.mapping._pin", "condition 3 dropped: table.act_domid[ref] != dom.id or pin",
     "copies, which alone pin sub-pages, hold their pins no longer than their call"),
    ("p2m.P2m.find", "bound off by one: index >= self.root_pages", _BEYOND),
    ("p2m.P2m.lookup", "bound off by one: index >= self.root_pages", _BEYOND),
    ("p2m.P2m.resolve_translation_fault", "bound off by one: index >= self.root_pages", _BEYOND),
    ("p2m.P2m.find", "guard dropped: if self.root is None or index", _BEYOND),
    ("p2m.P2m.lookup", "guard dropped: if self.root is None or index", _BEYOND),
    ("p2m.P2m.resolve_translation_fault", "guard dropped: if index >= self.root_pages", _BEYOND),
    ("p2m.P2m.teardown", "guard dropped: if not self.tables", _FASTER),
    ("p2m.P2m._free_entry", "if self.need_flush", "the flush comes before the call ends in any case"),
    ("p2m.P2m._free_entry", "effect dropped: self.flush()", "the flush comes before the call ends in any case"),
    ("domctl._Call.create", "machine.domains[name]", "the list is searched for the least id wherever its order counts"),
    ("grant.mapping._dma_get", "bound off by one: max(readers, writers)", _FEWER),
    ("grant.mapping._dma_get", "guard dropped: if max(readers, writers) >= limit", _FEWER),
    ("p2m.P2m.lookup", "bound off by one: gfn >> 9", "beyond the highest mapped frame every range is empty"),
    ("p2m.P2m.relinquish_mappings", "guard dropped: if rc: break", "whole entries are removed, which cannot fail"),
    ("p2m._attributes", "if p2m_type == abi.p2m_mmio_direct", _COHERENT),
    ("p2m._attributes", "update dropped: word |= _", _COHERENT),
    ("grant.mapping._dma_get", "condition 1 dropped: readonly and readers == 1", "with no writer it is a reader"),
    ("grant.entries._set_status_v2", "effect dropped: clear_status(", _RACE),
    ("grant.entries._set_status_v2", "guard dropped: if header & GTF_readonly: clear_status", _RACE),
    ("grant.entries._set_status_v2", "guard dropped: if _mismatch_v2(header, mask, local, mapping) or", _RACE),
    ("grant.entries._set_status_v2", "dropped: _mismatch_v2(header, mask, local, mapping) or", _RACE),
    ("grant.lifecycle.create", "guard dropped: if error", "a domain whose table cannot be had is given up at once"),
)
"""Systematic mutants that no guest and no projection can notice."""


@attrs.frozen
class Verdict:
    """How a flaw ended.  found: the first difference in words, "" if there was none in time; stimuli: compared."""

    id: str
    source: str
    where: str
    words: str
    found: str
    seconds: float
    stimuli: int


# ---- which mutants there are -----------------------------------------------------------------------------------------


def functions(module: str) -> Iterator[tuple[str, Any]]:
    """The functions and methods that a module defines."""
    loaded = importlib.import_module(module)
    for name, value in vars(loaded).items():
        if inspect.isfunction(value) and value.__module__ == module:
            yield name, value
        elif inspect.isclass(value) and value.__module__ == module:
            for inner, method in vars(value).items():
                function = method.fget if isinstance(method, property) else inspect.unwrap(method) \
                    if callable(method) else getattr(method, "__func__", None)
                if inspect.isfunction(function) and not inner.startswith("__") and function.__module__ == module:
                    yield f"{name}.{inner}", function


def _is_hook(node: ast.AST) -> bool:
    """A statement or condition about a test hook."""
    text = ast.unparse(node.test if isinstance(node, ast.If) else node)
    return any(each in text for each in HELPERS) or (isinstance(node, ast.If) and text in FEW_OR_MANY)


def _only_raises(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.body[0], ast.Raise) and not node.orelse


def _skipped(tree: ast.FunctionDef) -> set[int]:
    """Ids of the nodes of which no mutant is made."""
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and (_only_raises(node) or _is_hook(node)):
            found.add(id(node))
            found.update(id(each) for each in ast.walk(node.test))
            if _is_hook(node) and ast.unparse(node.test) not in FEW_OR_MANY:
                found.update(id(each) for part in node.body for each in ast.walk(part))
        elif isinstance(node, (ast.Assign, ast.AugAssign, ast.Expr)) and _is_hook(node):
            found.add(id(node))
    return found


def _sites(tree: ast.FunctionDef) -> Iterator[Site]:
    """Every place that can be mutated."""
    skipped = _skipped(tree)
    for position, node in enumerate(ast.walk(tree)):
        if id(node) in skipped:
            continue
        yield from conditions(position, node)
        if isinstance(node, ast.AugAssign) or (
                isinstance(node, ast.Assign) and isinstance(node.targets[0], (ast.Attribute, ast.Subscript))):
            yield position, "update dropped", lambda _: ast.Pass()
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield position, "effect dropped", lambda _: ast.Pass()


def flaws() -> Iterator[Flaw]:
    """Every systematic mutant of the implementation."""
    for each in MODULES:
        module = f"impl.fast.{each}"
        for name, function in functions(module):
            tree = ast.parse(source_of(function)).body[0]
            if not isinstance(tree, ast.FunctionDef) or function.__code__.co_freevars \
                    or f"{each}.{name}" in NO_BEHAVIOUR:
                continue
            start = function.__code__.co_firstlineno
            for number, (position, kind, change) in enumerate(_sites(tree)):
                before, body, line = changed(tree, position, change)
                node = list(ast.walk(tree))[position]
                if kind == "guard dropped" and isinstance(node, ast.If):
                    # it makes a difference to who goes in
                    line = node.body[0].lineno
                yield Flaw(f"fast.{each}.{name}#{number}", kind, module, name, f"{kind}: {before}", body=body,
                           line=start + line - 1)


def explained(flaw: Flaw) -> str:
    """Why a mutant cannot be noticed; empty if nothing is known against it."""
    name = f"{flaw.module.removeprefix('impl.fast.')}.{flaw.function}"
    return next((why for function, words, why in EXPLAINED if function == name and words in flaw.words), "")


# ---- putting one in --------------------------------------------------------------------------------------------------


def _refresh(module: str) -> None:
    """Constants that a module computes with its own functions when it is loaded."""
    if module == "impl.fast.p2m":
        loaded: Any = importlib.import_module(module)
        loaded._ATTRIBUTES = tuple(loaded._attributes(each) for each in range(12))
        loaded._TABLE_ATTRIBUTES = loaded._ATTRIBUTES[1] | loaded.TABLE


@contextmanager
def applied(flaw: Flaw) -> Iterator[None]:
    """The implementation with the flaw in it."""
    function = dict(functions(flaw.module))[flaw.function]
    try:
        with exchanged(function, flaw.text(source_of(function)), flaw.id):
            _refresh(flaw.module)
            yield
    finally:
        _refresh(flaw.module)


# ---- which programs come through a function --------------------------------------------------------------------------

@attrs.frozen
class Way:
    """A program on a machine: how long it takes the implementation alone, and the lines that it comes through."""

    scenario: Scenario
    program: str
    seconds: float
    lines: frozenset[tuple[str, int]]


def _digest() -> str:
    """What the programs, and what they come through, are made of."""
    sources = sorted([*ROOT.glob("bulkhead/fuzz/*.py"), *ROOT.glob("impl/fast/**/*.py")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


@functools.cache
def reach() -> tuple[Way, ...]:
    """What every seeded program comes through on a few machines, on the implementation alone.

    It is measured once, and kept in ``build`` until a source changes.
    """
    place, digest = ROOT / REACH, _digest()
    with contextlib.suppress(OSError, ValueError, TypeError):
        kept = json.loads(place.read_text())
        if kept["digest"] == digest:
            return tuple(Way(Scenario(board, flavour), program, seconds, frozenset(
                (str(ROOT / file), line) for file, lines in each.items() for line in lines))
                for board, flavour, program, seconds, each in kept["ways"])
    ways = _measured()
    rows = []
    for way in ways:
        files: dict[str, list[int]] = {}
        for file, line in sorted(way.lines):
            files.setdefault(str(pathlib.Path(file).relative_to(ROOT)), []).append(line)
        rows.append((way.scenario.board, way.scenario.flavour, way.program, round(way.seconds, 4), files))
    place.parent.mkdir(exist_ok=True)
    place.write_text(json.dumps({"digest": digest, "ways": rows}) + "\n")
    return ways


def _measured() -> tuple[Way, ...]:
    found = []
    for scenario in MEASURED:
        world = Single(scenario)
        mark = world.mark()
        for name, seed in SEEDS.items():
            world.back(mark)
            seen: set[tuple[str, int]] = set()

            def line(frame: Any, _event: str, _argument: Any, seen: set[tuple[str, int]] = seen) -> Any:
                seen.add((frame.f_code.co_filename, frame.f_lineno))
                return line

            def call(frame: Any, _event: str, _argument: Any, line: Any = line) -> Any:
                return line if "impl/fast" in frame.f_code.co_filename else None

            started = time.perf_counter()
            sys.settrace(call)
            try:
                with contextlib.suppress(FoundError):
                    seed(Program(world))
            finally:
                sys.settrace(None)
            found.append(Way(scenario, name, time.perf_counter() - started, frozenset(seen)))
    return tuple(found)


def _changed_lines(flaw: Flaw) -> set[int]:
    """The lines of the file that a flaw changes; of one that only adds lines, those around them."""
    if flaw.line:
        return {flaw.line}
    function = dict(functions(flaw.module))[flaw.function]
    before, start = source_of(function), function.__code__.co_firstlineno
    matched = difflib.SequenceMatcher(None, before.splitlines(), flaw.text(before).splitlines(), autojunk=False)
    return {start + line for tag, first, last, _, _ in matched.get_opcodes() if tag != "equal"
            for line in (range(first, last) if last > first else (first - 1, first))}


def programs_for(flaw: Flaw) -> list[tuple[Scenario, str]]:
    """(machine, program) that come through the changed line, each once, then on other machines.

    Of these first those that come through the most of the function, for they are about it, and then the quick ones.
    After them those that come through the function, not the line.
    """
    code = dict(functions(flaw.module))[flaw.function].__code__
    body = {number for _, _, number in code.co_lines() if number} - {code.co_firstlineno}
    wanted = _changed_lines(flaw) & body or body
    ranked = []
    turns: Counter[str] = Counter()
    for way in sorted(reach(), key=lambda way: way.seconds):
        lines = {number for file, number in way.lines if file == code.co_filename} & body
        # a program has no turn on a machine that lacks what it is about
        if lines and suits(way.program, way.scenario):
            place = 0 if lines & wanted else 2
            missed = len(body - lines)
            ranked.append((place, turns[way.program], missed, way.seconds, way.scenario, way.program))
            turns[way.program] += 1
            # the machines that were not measured have their turn too
            ranked += [(1, turns[way.program], missed, way.seconds, other, way.program)
                       for other in scenarios(BOARDS) if other not in MEASURED and suits(way.program, other)]
    ranked.sort(key=lambda each: each[:4])
    return list(dict.fromkeys((scenario, name) for *_, scenario, name in ranked))


# ---- the hunt --------------------------------------------------------------------------------------------------------


class StuckError(Exception):
    """A stimulus does not end."""


class _Watched(Machine):
    """A machine that counts the stimuli it begins."""

    begun = 0

    def _begin(self) -> Any:
        _Watched.begun += 1
        return super()._begin()


class _Booted:
    """Makes machines that boot without the flaw: what a machine begins with is given to both sides."""

    def __init__(self, flaw: Flaw) -> None:
        self.function = dict(functions(flaw.module))[flaw.function]
        self.plain = self.function.__code__

    def __call__(self, ram: Ram, config: Config) -> Machine:
        flawed, self.function.__code__ = self.function.__code__, self.plain
        try:
            return _Watched(ram, config)
        finally:
            self.function.__code__ = flawed


@contextmanager
def _watch() -> Iterator[None]:
    """Raise StuckError in the implementation when no stimulus begins for a while."""
    last = -1

    def look(_number: int, frame: Any) -> None:
        nonlocal last
        begun, last = last, _Watched.begun
        if begun != last:
            return
        while frame is not None:
            if "impl/fast" in frame.f_code.co_filename or frame.f_code.co_filename.startswith("<"):
                raise StuckError("the stimulus does not end")
            frame = frame.f_back

    before = signal.signal(signal.SIGVTALRM, look)
    signal.setitimer(signal.ITIMER_VIRTUAL, STUCK_SECONDS, STUCK_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


class _Strict(SerialExecutor):
    """A job that breaks down, even while its machine boots, is a failure like any other."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run it now."""
        future = super().submit(fn, *args, **kwargs)
        problem = future.exception()
        if problem is None:
            return future
        job: Job = args[0]
        failed: Future[Any] = Future()
        failed.set_result(Result(job.number, job.scenario, failures=[
            Failure(job.scenario, (), broke("fast", ("boot", 0, 0), problem))]))
        return failed


class _Hunt(Campaign):
    """A campaign that begins with given programs."""

    def __init__(self, flaw: Flaw, booted: _Booted, first: Sequence[tuple[Scenario, str]], until: float) -> None:
        self.first, self.until, self.flaw = list(first), until, flaw
        machines = list(dict.fromkeys(scenario for scenario, _ in first)) or list(scenarios(BOARDS))
        super().__init__(1, machines, _Strict(), factory=booted, until_failure=True, ahead=1, job_stimuli=400,
                         clock=time.process_time)

    def _job(self) -> Job:
        if self.first and self.clock() < self.until:
            scenario, name = self.first.pop(0)
            job = Job(scenario, self.seed, self.number, 0, (), frozenset(self.known), until_failure=True,
                      programs=(name,))
            self.number += 1
            return job
        return super()._job()

    def _weights(self) -> dict[str, float]:
        more = ACTIONS.get(self.flaw.module.removeprefix("impl.fast."), tuple(WEIGHTS))
        return {name: weight * (4 if name in more else 1) for name, weight in super()._weights().items()}


def hunt(flaw: Flaw, seconds: float = SECONDS) -> Verdict:
    """Let the fuzzer look for the flaw, for so long at most."""
    first, booted = programs_for(flaw), _Booted(flaw)
    started = time.process_time()
    with applied(flaw), _watch():
        progress = _Hunt(flaw, booted, first, started + DIRECTED * seconds).run(seconds)
    found = progress.failures[0].finding.text.splitlines()[0] if progress.failures else ""
    return Verdict(flaw.id, flaw.source, flaw.where, flaw.words, found, round(time.process_time() - started, 2),
                   progress.stimuli)


def _worker() -> None:
    """A hunt leaves the keyboard to the process that it works for, and has only so much memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))


# ---- the run ---------------------------------------------------------------------------------------------------------


def choose(arguments: argparse.Namespace) -> list[Flaw]:
    """The mutants asked for: those of Xen's past first."""
    past = [each for each in HISTORICAL if arguments.only in each.id]
    if arguments.historical:
        return past
    systematic = [each for each in flaws()
                  if arguments.only in each.id and (arguments.only == each.id or not explained(each))]
    if arguments.sample:
        systematic = random.Random(arguments.seed).sample(systematic, min(arguments.sample, len(systematic)))
    return [*past, *systematic]


def report(verdicts: Sequence[Verdict], out: Console) -> int:
    """The table, the survivors, and whether what must be found was found."""
    past = {each.id for each in HISTORICAL}
    kinds = {"historical": [v for v in verdicts if v.id in past],
             "systematic": [v for v in verdicts if v.id not in past]}
    shown = Table(title="mutants of the implementation")
    for column in ("kind", "all", "found", "share", "median s", "slowest s"):
        shown.add_column(column, justify="left" if column == "kind" else "right")
    for kind, these in kinds.items():
        times = sorted(v.seconds for v in these if v.found)
        share = f"{100 * len(times) / len(these):.1f} %" if these else ""
        shown.add_row(kind, str(len(these)), str(len(times)), share,
                      f"{statistics.median(times):.1f}" if times else "", f"{times[-1]:.1f}" if times else "")
    out.print(shown)
    for each in INVISIBLE.items() if kinds["historical"] else ():
        out.print(f"not looked for: {each[0]} {each[1]}", markup=False)
    for verdict in verdicts:
        if not verdict.found:
            out.print(f"survived: {verdict.id} {verdict.words} ({verdict.where})", markup=False)
    found = sum(bool(v.found) for v in kinds["systematic"])
    enough = found >= MOST_FOUND * len(kinds["systematic"])
    return 0 if enough and all(v.found for v in kinds["historical"]) else 1


def run(chosen: Sequence[Flaw], *, jobs: int, seconds: float, place: pathlib.Path, out: Console) -> list[Verdict]:
    """Hunt for each; a key that interrupts leaves what is done.

    jobs: mutants looked at side by side, each in a process of its own; place: where the table is written.
    """
    verdicts: list[Verdict] = []
    place.parent.mkdir(exist_ok=True)
    reach()
    context = multiprocessing.get_context("fork")
    pool = context.Pool(jobs, _worker, maxtasksperchild=1)
    try:
        for verdict in pool.imap_unordered(functools.partial(hunt, seconds=seconds), chosen):
            verdicts.append(verdict)
            mark = "found" if verdict.found else "survived"
            out.print(f"{mark:9} {verdict.seconds:6.1f} s {verdict.id:44} {verdict.words[:56]:56} {verdict.found[:90]}",
                      markup=False, no_wrap=True)
            place.write_text(json.dumps([attrs.asdict(each) for each in verdicts], indent=1) + "\n")
    except KeyboardInterrupt:
        out.print(f"stopped: {len(verdicts)} of {len(chosen)} mutants were looked at")
    finally:
        pool.terminate()
    return verdicts


def main(arguments: Sequence[str] | None = None) -> int:
    """Hunt, print, write ``build/mutants-implementation.json``.  Returns 1 if too much was not found."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.implementation",
                                     description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--historical", action="store_true", help="only the flaws of Xen's past")
    parser.add_argument("--sample", type=int, default=0, help="so many systematic mutants, chosen by --seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="mutants whose id contains this")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="the fuzzer's time for each")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants looked at side by side")
    parser.add_argument("--out", default=PLACE, help="where the table goes")
    options = parser.parse_args(arguments)
    os.chdir(ROOT)
    out = Console(highlight=False, width=200, soft_wrap=True)
    place = pathlib.Path(options.out)
    verdicts = run(choose(options), jobs=options.jobs, seconds=options.seconds, place=place, out=out)
    return report(verdicts, out)


if __name__ == "__main__":
    sys.exit(main())
