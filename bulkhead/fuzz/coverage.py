"""What histories reached: answers of the specification's steps, and which answer followed which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import attrs

Answer: TypeAlias = tuple[str, str, int]
"""A transition, how it ended (done, refused, partial, restart, crash, stuck), and its code."""
Item: TypeAlias = Answer | tuple[Answer, Answer]
"""What counts as new: an answer, or two that followed each other."""


@attrs.define
class Coverage:
    """Answers with how often each was given, and the pairs of successive ones."""

    answers: Counter[Answer] = attrs.field(factory=Counter)
    pairs: set[tuple[Answer, Answer]] = attrs.field(factory=set)

    def note(self, steps: Sequence[Answer], before: Answer | None = None) -> list[Item]:
        """Count the steps of a stimulus; what of it is new.

        before: the last answer of the stimulus before, or None at the start of a history.
        """
        new: list[Item] = []
        answers, pairs = self.answers, self.pairs
        for answer in steps:
            if answer not in answers:
                new.append(answer)
            answers[answer] += 1
            if before is not None:
                pair = before, answer
                if pair not in pairs:
                    pairs.add(pair)
                    new.append(pair)
            before = answer
        return new

    def merge(self, other: Coverage) -> list[Item]:
        """Add what another history reached; what of it is new, in a fixed order."""
        new: list[Item] = sorted(answer for answer in other.answers if answer not in self.answers)
        new += sorted(other.pairs - self.pairs)
        self.answers += other.answers
        self.pairs |= other.pairs
        return new


def transitions(answers: Iterable[Answer]) -> int:
    """How many different transitions there are among answers."""
    return len({transition for transition, _, _ in answers})


def kinds(answers: Iterable[Answer]) -> int:
    """How many different pairs of a transition and a kind of outcome there are among answers."""
    return len({(transition, kind) for transition, kind, _ in answers})


__all__ = ["Answer", "Coverage", "Item", "kinds", "transitions"]
