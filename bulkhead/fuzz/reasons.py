"""Answers that no history of guests can give, and why.

The proofs ask for every answer of every step, from any state that the invariants allow; guests begin at boot, call
through the hypercalls that Xen has, and never run beside a step.
"""

from __future__ import annotations

from typing import Any, Final

from bulkhead.fuzz.coverage import Answer

_RACE: Final = "needs a guest to act between two reads of one step: steps are atomic here"
_ASKED: Final = "the call that leads to the step looks the domain up and asks for the permission before"

REASONS: Final[dict[Answer, str]] = {
    ("copy_finish_transitive", "restart", 0): _RACE,
    ("grow_for_frame", "refused", -3): _ASKED,
    ("grow_for_frame", "refused", -1): _ASKED,
    ("unmap_status_frame", "crash", 0): "an entry of 4 KB is removed without a page for a table, so it cannot fail",
    ("copy_claim_nested", "refused", -2): _RACE,
    ("copy_claim_grant", "partial", -1): _RACE,
    ("copy_claim_transitive", "refused", -3): "a reference beyond the table has no entry, so copy_claim_grant takes it",
    ("create_domain", "refused", -12): "Xen's small structs take no frame here: there is always memory for them",
}
"""Reasons of single answers."""

WHOLE: Final[dict[str, str]] = {
    "cache_mapping": "the TLB is filled by accesses: what it may hold is compared through what guests read",
    "copy_from_guest_word": "copies of arguments are whole structs: their pages are checked by the same rule",
    "copy_to_guest_word": "copies of results are whole structs: their pages are checked by the same rule",
    "forget_mapping": "a TLB forgets when it likes: what guests read is right with and without",
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
