"""The mapping and unmapping of pages, with the tables that they take."""

from __future__ import annotations

from collections.abc import Callable

from bulkhead.oracle.machine import Oracle
from spec.errors import ENOENT
from spec.language import Outcome
from spec.language.outcomes import Kind
from spec.state import State


def entered(oracle: Oracle, domain: int, gfn: int, run: Callable[[bool], Outcome[State]]) -> Outcome[State]:
    """A step that maps one page of a domain, with the tables that it takes.

    run: makes the step, told whether the pool has the tables.
    """
    change, _, error = oracle.planned(domain, gfn, 0, 1)
    before = oracle.state.p2m
    outcome = run(error == 0)
    code = outcome.output.get("error", outcome.code)
    if change is None:
        return outcome
    if error == 0 and oracle.state.p2m is not before and code == 0 and outcome.kind is Kind.DONE:
        oracle.settle(domain, change, gfn, 1)
    elif error and code == -ENOENT:
        oracle.commit(domain, change)
    return outcome


def removed(oracle: Oracle, domain: int, gfn: int, pages: int = 1) -> None:
    """After a step that has unmapped pages: a block is split, a table may go."""
    change = oracle.change(domain)
    change.remove(gfn, pages)
    oracle.commit(domain, change)
