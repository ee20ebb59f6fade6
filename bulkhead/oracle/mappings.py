"""The mapping and unmapping of pages, with the tables that they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bulkhead.oracle.machine import Oracle
from spec.errors import ENOENT, ENOMEM
from spec.language import TRANSITIONS, Outcome
from spec.language.outcomes import Kind
from spec.state import State

LACKING = frozenset({-ENOENT, -ENOMEM})
"""Answers of a step that found the pool without the tables it takes."""


def entered(oracle: Oracle, domain: int, gfn: int, run: Callable[[bool], Outcome[State]],
            lacking: frozenset[int] = LACKING) -> Outcome[State]:
    """A step that maps one page of a domain, with the tables that it takes.

    run: makes the step, told whether the pool has the tables; lacking: what it answers when it has not.
    """
    change, _, error = oracle.planned(domain, gfn, 0, 1)
    before = oracle.state.p2m
    outcome = run(error == 0)
    code = outcome.output.get("error", outcome.code)
    if change is None:
        return outcome
    if error == 0 and oracle.state.p2m is not before and code == 0 and outcome.kind is Kind.DONE:
        oracle.settle(domain, change, gfn, 1)
    elif error and code in lacking:
        # the tables that there were stay
        oracle.commit(domain, change)
    return outcome


def unmapped(oracle: Oracle, domain: int, gfn: int, step: Callable[..., Outcome[State]], name: str, /,
             **arguments: Any) -> Outcome[State]:
    """A step that may unmap one page of a domain: a block around it is split for that, if the pool has the tables.

    step: makes the step ``name``, which has a parameter ``tables_left``.
    """
    shape, before = oracle.shapes.get(domain), oracle.state
    if shape is None or not shape.in_block(gfn) or TRANSITIONS[name].function(
            before, tables_left=True, **arguments).state.p2m is before.p2m:
        return step(name, tables_left=True, **arguments)
    change = oracle.change(domain)
    _, error = change.remove(gfn, 1)
    outcome = step(name, tables_left=error == 0, **arguments)
    oracle.commit(domain, change)
    return outcome
