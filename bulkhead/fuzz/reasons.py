"""Answers that no history of guests can give, and why.

The proofs ask for every answer of every step, from any state that the invariants allow; guests begin at boot, call
through the hypercalls that Xen has, and never run beside a step.
"""

from __future__ import annotations

from typing import Any, Final

from bulkhead.fuzz.coverage import Answer

_RACE: Final = "needs a guest to act between two reads of one step: steps are atomic here"
_ASKED: Final = "Xen's lookup by id comes first, so that the step is never taken for a domain that does not exist"

REASONS: Final[dict[Answer, str]] = {
    ("set_way_flush", "done", 0): "",
}
"""Reasons of single answers; an empty text means that there is none."""

WHOLE: Final[dict[str, str]] = {
    "cache_mapping": "the TLB is filled by accesses: what it may hold is compared through what guests read",
    "copy_from_guest_word": "copies of arguments are whole structs: their pages are checked by the same rule",
    "copy_to_guest_word": "copies of results are whole structs: their pages are checked by the same rule",
    "put_orphan": "frees a page that a lost reference kept alive: the loss is a deviation that no guest can end",
}
"""Reasons of every answer of a step."""


def reason(answer: Answer, transitions: dict[str, Any]) -> str:
    """Why guests cannot reach an answer; empty if nothing is known against it.

    transitions: as `proofs.theories.all_transitions` gives them.
    """
    name, kind, code = answer
    if answer in REASONS:
        return REASONS[answer]
    if name in WHOLE:
        return WHOLE[name]
    transition = transitions.get(name)
    if transition is None:
        return "no step of this name exists any more"
    if transition.theory != "machine":
        return "a step on descriptors in memory: guests reach it through steps of the machine"
    if transition.repairs:
        return f"a variant of {transition.repairs} that Xen does not have"
    for declared, why in transition.unreachable.items():
        if declared == code or str(getattr(declared, "value", "")) == kind:
            return str(why)
    return ""


__all__ = ["REASONS", "WHOLE", "reason"]
