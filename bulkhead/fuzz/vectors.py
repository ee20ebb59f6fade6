"""Histories as traces, and traces as histories: what a failure or a seed leaves behind in a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from bulkhead import trace
from bulkhead.fuzz.boards import Scenario, configuration
from bulkhead.fuzz.job import Failure, History
from bulkhead.fuzz.stimuli import Stimulus
from impl.boards.ram import Bank
from impl.fast.machine import Config, Observation


def to_trace(scenario: Scenario, history: Sequence[Stimulus], *, name: str = "", about: str = "",
             seen: Sequence[Observation | None] = ()) -> trace.Trace:
    """A history as a trace that stands for itself: RAM, configuration, domains, stimuli.

    seen: what each stimulus showed, if it is known; preempted calls take two stimuli of a trace.
    """
    ram, config = configuration(scenario)
    stimuli: list[trace.Stimulus] = []
    observed: list[trace.Seen | None] = []
    for number, stimulus in enumerate(history):
        if stimulus[0] == "hypercall" and stimulus[4]:
            stimuli.append(trace.Preempt(stimulus[4]))
            observed.append(None)
        stimuli.append(stimulus_in_trace(stimulus))
        one = seen[number] if number < len(seen) else None
        observed.append(None if one is None else seen_in_trace(one))
    return trace.Trace(
        board=trace.Board(ram=tuple(trace.Bank(bank.base, bank.size) for bank in ram)),
        config=trace.Configuration(**shared_fields(config, trace.Configuration)),
        domains=tuple(trace.Domain(**shared_fields(domain, trace.Domain)) for domain in config.domains),
        stimuli=tuple(stimuli), seen=tuple(observed) if any(observed) else (), name=name, about=about,
    )


def shared_fields(record: Any, cls: type[Any]) -> dict[str, Any]:
    """The fields that a record has in common with another class."""
    return {each.name: getattr(record, each.name) for each in attrs.fields(cls)}


def seen_in_trace(one: Observation) -> trace.Seen:
    """An observation as a trace has it."""
    registers = None
    if one.registers is not None:
        registers = tuple((number, one.registers[number]) for number in (0, 1, 2, 3, 4, 12, 16))
    return trace.Seen(one.kind, registers, one.value, one.fault, one.choices, one.reason)


def stimulus_in_trace(stimulus: Stimulus) -> trace.Stimulus:
    """A stimulus as a trace has it; a preemption is one of its own."""
    kind, domain, vcpu, *rest = stimulus
    if kind == "load":
        return trace.Load(domain, vcpu, rest[0], rest[1])
    if kind == "store":
        return trace.Store(domain, vcpu, rest[0], rest[1], rest[2])
    if kind == "fetch":
        return trace.Fetch(domain, vcpu, rest[0])
    if kind == "hypercall":
        return trace.Hypercall(domain, vcpu, rest[0])
    if kind == "set_way":
        return trace.SetWay(domain, vcpu)
    return trace.ToggleCache(domain, vcpu, rest[0])


def to_history(one: trace.Trace) -> History:
    """The stimuli of a trace; time that passes changes nothing in memory and grants."""
    history: list[Stimulus] = []
    budget = 0
    for stimulus in one.stimuli:
        if isinstance(stimulus, trace.Preempt):
            budget = stimulus.after
        elif isinstance(stimulus, trace.Hypercall):
            history.append(("hypercall", stimulus.domain, stimulus.vcpu, dict(stimulus.registers), budget))
            budget = 0
        elif isinstance(stimulus, trace.Load):
            history.append(("load", stimulus.domain, stimulus.vcpu, stimulus.ipa, stimulus.size))
        elif isinstance(stimulus, trace.Store):
            history.append(("store", stimulus.domain, stimulus.vcpu, stimulus.ipa, stimulus.size, stimulus.value))
        elif isinstance(stimulus, trace.Fetch):
            history.append(("fetch", stimulus.domain, stimulus.vcpu, stimulus.ipa))
        elif isinstance(stimulus, trace.SetWay):
            history.append(("set_way", stimulus.domain, stimulus.vcpu))
        elif isinstance(stimulus, trace.ToggleCache):
            history.append(("toggle_cache", stimulus.domain, stimulus.vcpu, stimulus.enabled))
    return tuple(history)


def machine_of(one: trace.Trace) -> tuple[tuple[Bank, ...], Config]:
    """RAM and configuration of a trace, for the implementation's machine."""
    from impl.boards.catalogue import load
    from impl.fast.machine import DomainConfig
    banks = load(one.board.name).banks if one.board.name else tuple(Bank(b.base, b.size) for b in one.board.ram)
    domains = [DomainConfig(**attrs.asdict(domain, recurse=False)) for domain in one.domains]
    return banks, Config(**attrs.asdict(one.config, recurse=False), domains=domains)


def name_of(text: str) -> str:
    """A file name from a signature: words joined by hyphens, at most 80 characters."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80] or "failure"


def save(failure: Failure, directory: Path, taken: set[str]) -> Path:
    """Write a failure as a trace; its file is named after its signature.

    taken: names that are in use, to which the new one is added. Errors: BadInputError if it cannot be written.
    """
    stem = name_of(failure.finding.signature)
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    taken.add(name)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.json"
    about = f"{failure.scenario.name}: {failure.finding.text}"
    trace.write(to_trace(failure.scenario, failure.history, name=name, about=about), path)
    return path


__all__ = ["machine_of", "name_of", "save", "seen_in_trace", "shared_fields", "stimulus_in_trace", "to_history",
           "to_trace"]
