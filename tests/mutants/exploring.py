"""Paths of different runs, side by side: those of a mutated step, and those of the specification.

Within one run a condition over all rows (``every``), or a range that is written, is named by its place on the path.
In two runs different things may stand at one place, and to take them for one would prove anything: so here they are
named by what they are.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

from proofs.engine import terms as T
from proofs.engine.counting import Names
from proofs.engine.obligations import TransitionProof
from proofs.engine.symbolic_tables import SymTable, recording
from proofs.engine.symbols import Explorer
from proofs.engine.terms import Functions
from spec.language.outcomes import IllegalChoice
from tests.mutants.mutation import Mutant, applied

# a mutant changes what predicates say
Names.remember = False


@contextlib.contextmanager
def lasting(mutant: Mutant) -> Iterator[None]:
    """The specification with the mutant in it, which also stays in what is evaluated only later: conditions over rows,
    what a range is filled with, and what is counted.
    """
    every, fill, count = SymTable.every, SymTable.fill, SymTable.count
    known: dict[Any, Any] = {}

    def kept(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def mutated(*arguments: Any) -> Any:
            with applied(mutant):
                return function(*arguments)

        return known.setdefault(function, mutated)  # type: ignore[no-any-return]

    with (
        applied(mutant),
        patch.object(SymTable, "every", lambda table, pattern, says: every(table, pattern, kept(says))),
        patch.object(SymTable, "fill", lambda table, pattern, changes: fill(table, pattern, kept(changes))),
        patch.object(SymTable, "count", lambda table, says, given: count(table, kept(says), given)),
    ):
        yield


class Named(Explorer):
    """Names by content.  What a peer has stored keeps the name of its place: the specification allows any word."""

    def __init__(self, names: dict[Any, str], parent: Explorer | None = None, scope: str = "") -> None:
        """names: shared by all explorers of one comparison."""
        super().__init__(parent, scope)
        self._names = names

    def child(self) -> Explorer:
        """The explorer of a call whose branches are joined."""
        self._calls += 1
        return Named(self._names, self, f"{self._scope}{self._calls}.")

    def fresh_name(self, stem: str, of: Callable[[], Any] | None = None) -> str:
        """The name that this content had before, or a new one."""
        if of is None:
            return super().fresh_name(stem)
        with recording():
            content = stem, of()
        return self._names.setdefault(content, f"{stem}!{len(self._names)}")


def named_by_content(proof: TransitionProof) -> dict[Any, str]:
    """All paths that are asked of the proof from now on share their names, which are returned."""
    names: dict[Any, str] = {}
    proof.explorer = lambda: Named(names)
    return names


class Met(Functions):
    """A state that was met.  Of a condition over all rows that it does not speak of, it is hoped that it holds: whether
    it does is asked before anything is built on it.
    """

    def get(self, name: str, default: Any = None) -> Any:
        """A function, by its name."""
        hoped = ({(): 1}, 0) if name.startswith("every.") else default
        return super().get(name, hoped)


def holds(conditions: list[T.Term], model: Functions) -> bool:
    """All of these are true in a state."""
    values = T.evaluate(T.order(conditions), model)
    return all(values[each.uid] for each in conditions)


class Guided(Named):
    """Finds the one path that is taken in a state, or none if a choice is not legal there."""

    def __init__(self, names: dict[Any, str], model: Functions) -> None:
        super().__init__(names)
        self._model = model

    def assume(self, term: T.Term) -> None:
        """Nothing is explored further if this does not hold in the state."""
        if self._decided(term) is None and not holds([term], self._model):
            raise IllegalChoice("not in this state")
        super().assume(term)

    def _choose(self, term: T.Term) -> bool:
        """The value of a condition in the state; no other way is explored."""
        return holds([term], self._model)


class Quick(Guided):
    """Finds that path in calls whose branches are joined, too: what comes of it is right in this one state alone.

    decided: which way each condition went, those of joined calls included.
    """

    def __init__(self, names: dict[Any, str], model: Functions, decided: list[T.Term] | None = None) -> None:
        super().__init__(names, model)
        self.decided: list[T.Term] = [] if decided is None else decided

    def child(self) -> Explorer:
        """The explorer of a call whose branches are joined."""
        found = Quick(self._names, self._model, self.decided)
        self._calls += 1
        found._parent, found._scope = self, f"{self._scope}{self._calls}."
        return found

    def branch(self, term: T.Term) -> bool:
        """The value of a condition in the state."""
        value = super().branch(term)
        self.decided.append(term if value else T.negate(term))
        return value
