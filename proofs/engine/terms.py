"""Terms: what symbolic values are made of.

Conditions and integers only.  Terms are hash-consed (equal terms are the same object) and
simplified while they are built, so most comparisons of a transition fold away and the frame
rule is an identity test.  Integer terms are kept as linear sums, atoms as ``sum = 0`` and
``sum <= 0``; the negation of ``sum <= 0`` is ``1 - sum <= 0``, so a condition and its opposite
are recognised without a solver.

Soundness: each simplification is an equivalence over the integers; ``tests/proofs/engine``
evaluates every constructor against Python on random inputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from spec.language.values import SpecificationError

BOOL, INT = "Bool", "Int"


class Term:
    """One hash-consed term.  ``op`` and ``args`` say what it is, ``uid`` when it was first built."""

    __slots__ = ("args", "op", "sort", "uid")

    def __init__(self, op: str, args: tuple[Any, ...], sort: str, uid: int) -> None:
        self.op, self.args, self.sort, self.uid = op, args, sort, uid

    def __repr__(self) -> str:
        return show(self)


class Universe:
    """All terms of one job.  A fresh one gives the same job the same terms in the same order."""

    def __init__(self) -> None:
        self.table: dict[tuple[Any, ...], Term] = {}
        self.ranges: dict[str, tuple[int, int | None]] = {}
        self.intervals: dict[int, tuple[int | None, int | None]] = {}


_universe = Universe()


def reset() -> None:
    """Forget every term: the next job starts from nothing, so that its text is reproducible."""
    _universe.table.clear()
    _universe.ranges.clear()
    _universe.intervals.clear()
    for value in (True, False):
        _TRUTH[value] = _make("const", (value,), BOOL, ("c", value))


def _make(op: str, args: tuple[Any, ...], sort: str, key: tuple[Any, ...]) -> Term:
    table = _universe.table
    found = table.get(key)
    if found is None:
        found = table[key] = Term(op, args, sort, len(table))
    return found


_TRUTH: dict[bool, Term] = {}
reset()


def boolean(value: bool) -> Term:
    """The condition that always or never holds."""
    return _TRUTH[value]


def variable(name: str, sort: str = INT, bounds: tuple[int, int | None] | None = None) -> Term:
    """A named constant; ``bounds`` are assumed wherever it is mentioned."""
    return apply(name, (), sort, bounds)


def apply(name: str, args: tuple[Term, ...], sort: str, bounds: tuple[int, int | None] | None = None) -> Term:
    """An uninterpreted function of its arguments; ``bounds`` are assumed of each application."""
    if bounds is not None and _universe.ranges.setdefault(name, bounds) != bounds:
        raise SpecificationError(f"{name} has the bounds {_universe.ranges[name]}, and {bounds}")
    return _make("app", (name, *args), sort, ("a", name, *[a.uid for a in args]))


def bounds_of(name: str) -> tuple[int, int | None] | None:
    """The bounds assumed of a function."""
    return _universe.ranges.get(name)


# ---- integers: ("lin", constant, ((term, coefficient), ...)), terms in order of age


def number(value: int) -> Term:
    """An integer literal."""
    value = int(value)
    return _make("lin", (value, ()), INT, ("l", value))


def _parts(term: Term) -> tuple[int, tuple[tuple[Term, int], ...]]:
    return term.args if term.op == "lin" else (0, ((term, 1),))


def _linear(constant: int, parts: Iterable[tuple[Term, int]]) -> Term:
    parts = tuple(parts)
    if constant == 0 and len(parts) == 1 and parts[0][1] == 1:
        return parts[0][0]
    key = ("l", constant, *[x for term, factor in parts for x in (term.uid, factor)])
    return _make("lin", (constant, parts), INT, key)


def combine(first: Term, second: Term, factor: int) -> Term:
    """``first + factor * second``."""
    c1, p1 = _parts(first)
    c2, p2 = _parts(second)
    if not p2:
        return _linear(c1 + factor * c2, p1)
    sums = {term.uid: (term, coefficient) for term, coefficient in p1}
    for term, coefficient in p2:
        old = sums.get(term.uid)
        total = factor * coefficient + (old[1] if old else 0)
        if total:
            sums[term.uid] = (term, total)
        else:
            del sums[term.uid]
    return _linear(c1 + factor * c2, [sums[uid] for uid in sorted(sums)])


def add(first: Term, second: Term) -> Term:
    """Sum."""
    return combine(first, second, 1)


def subtract(first: Term, second: Term) -> Term:
    """Difference."""
    return combine(first, second, -1)


def scale(term: Term, factor: int) -> Term:
    """Product with a literal."""
    return combine(number(0), term, factor) if factor else number(0)


def literal(term: Term) -> int | None:
    """The value of an integer literal, else None."""
    return term.args[0] if term.op == "lin" and not term.args[1] else None


Interval = tuple[int | None, int | None]


def interval(term: Term) -> Interval:
    """Least and greatest value that a term can have, None where there is no bound."""
    known = _universe.intervals.get(term.uid)
    if known is None:
        known = _universe.intervals[term.uid] = _interval(term)
    return known


def _interval(term: Term) -> Interval:
    if term.op == "app":
        return bounds_of(term.args[0]) or (None, None)
    if term.op == "lin":
        low: int | None = term.args[0]
        high: int | None = term.args[0]
        for part, factor in term.args[1]:
            least, most = interval(part)
            if factor < 0:
                least, most = most, least
            low = None if low is None or least is None else low + factor * least
            high = None if high is None or most is None else high + factor * most
        return low, high
    if term.op == "ite":
        (l1, h1), (l2, h2) = interval(term.args[1]), interval(term.args[2])
        return (None if l1 is None or l2 is None else min(l1, l2)), (None if h1 is None or h2 is None else max(h1, h2))
    if term.op == "mod":
        return 0, term.args[1] - 1
    if term.op == "div":
        low, high = interval(term.args[0])
        return (None if low is None else low // term.args[1]), (None if high is None else high // term.args[1])
    return None, None


def _digits(term: Term, divisor: int) -> tuple[Term, Term] | None:
    """``(q, r)`` with ``term = q * divisor + r`` and ``0 <= r < divisor``, if the sum shows them."""
    constant, parts = _parts(term)
    upper = [(part, factor // divisor) for part, factor in parts if factor % divisor == 0]
    lower = [(part, factor) for part, factor in parts if factor % divisor]
    rest = _linear(constant % divisor, lower)
    low, high = interval(rest)
    if low is None or high is None or low < 0 or high >= divisor:
        return None
    return _linear(constant // divisor, upper), rest


def divide(term: Term, divisor: int) -> Term:
    """Floor division by a positive literal."""
    value = literal(term)
    if value is not None:
        return number(value // divisor)
    if divisor == 1:
        return term
    found = _digits(term, divisor)
    if found is not None:
        return found[0]
    if term.op == "ite":
        return choose(term.args[0], divide(term.args[1], divisor), divide(term.args[2], divisor))
    return _make("div", (term, divisor), INT, ("/", term.uid, divisor))


def remainder(term: Term, divisor: int) -> Term:
    """Remainder of the floor division by a positive literal."""
    value = literal(term)
    if value is not None:
        return number(value % divisor)
    if divisor == 1:
        return number(0)
    found = _digits(term, divisor)
    if found is not None:
        return found[1]
    if term.op == "ite":
        return choose(term.args[0], remainder(term.args[1], divisor), remainder(term.args[2], divisor))
    return _make("mod", (term, divisor), INT, ("%", term.uid, divisor))


def _ite_of_literals(term: Term) -> bool:
    return term.op == "ite" and all(literal(x) is not None or _ite_of_literals(x) for x in term.args[1:])


def equal(first: Term, second: Term) -> Term:
    """Both are the same, integers or conditions."""
    if first is second:
        return boolean(True)
    if first.sort == BOOL:
        return iff(first, second)
    for one, other in ((first, second), (second, first)):
        if _ite_of_literals(one) and literal(other) is not None:
            condition, yes, no = one.args
            return choose(condition, equal(yes, other), equal(no, other))
    return _equal_zero(subtract(first, second))


def _equal_zero(difference: Term) -> Term:
    """``difference = 0``, digit by digit where the sum is written in digits.

    If all but a small part of the sum is a multiple of B, and the small part lies strictly between
    -B and B, then the sum is 0 only if the small part is, and the rest is.
    """
    constant, parts = _parts(difference)
    factors = sorted({abs(factor) for _, factor in parts if abs(factor) > 1})
    for base in factors:
        upper = [(part, factor // base) for part, factor in parts if factor % base == 0]
        lower = [(part, factor) for part, factor in parts if factor % base]
        if not lower or not upper:
            continue
        small = constant - base * (constant // base)
        for offset in (small, small - base):
            rest = _linear(offset, lower)
            low, high = interval(rest)
            if low is not None and high is not None and -base < low and high < base:
                return conjunction(_equal_zero(rest), _equal_zero(_linear((constant - offset) // base, upper)))
    low, high = interval(difference)
    if (low is not None and low > 0) or (high is not None and high < 0):
        return boolean(False)
    return _atom("eq", difference)


def at_most(first: Term, second: Term) -> Term:
    """``first <= second``."""
    for swapped, (one, other) in enumerate(((first, second), (second, first))):
        if _ite_of_literals(one) and literal(other) is not None:
            condition, yes, no = one.args
            if swapped:
                return choose(condition, at_most(other, yes), at_most(other, no))
            return choose(condition, at_most(yes, other), at_most(no, other))
    return _atom("le", subtract(first, second))


def less(first: Term, second: Term) -> Term:
    """``first < second``."""
    return at_most(add(first, number(1)), second)


def _atom(op: str, difference: Term) -> Term:
    constant, parts = _parts(difference)
    if not parts:
        return boolean(constant == 0 if op == "eq" else constant <= 0)
    common = math.gcd(*[abs(coefficient) for _, coefficient in parts])
    if op == "eq":
        if constant % common:
            return boolean(False)
        if parts[0][1] < 0:
            common = -common
        constant //= common
    else:  # sum <= -constant, rounded towards the sum
        constant = -((-constant) // common)
    if common != 1:
        difference = _linear(constant, [(term, coefficient // common) for term, coefficient in parts])
    elif (constant, parts) != _parts(difference):
        difference = _linear(constant, parts)
    return _make(op, (difference,), BOOL, (op, difference.uid))


# ---- conditions


def negate(term: Term) -> Term:
    """The opposite."""
    if term.op == "const":
        return boolean(not term.args[0])
    if term.op == "not":
        opposite: Term = term.args[0]
        return opposite
    if term.op == "le":
        return _atom("le", subtract(number(1), term.args[0]))
    return _make("not", (term,), BOOL, ("!", term.uid))


def _junction(op: str, terms: Iterable[Term], absorbing: bool) -> Term:
    kept: dict[int, Term] = {}
    stack = list(terms)[::-1]
    while stack:
        term = stack.pop()
        if term.op == "const":
            if term.args[0] is absorbing:
                return term
            continue
        if term.op == op:
            stack.extend(term.args[::-1])
            continue
        kept[term.uid] = term
    for term in kept.values():
        opposite = negate(term)
        if opposite.uid in kept:
            return boolean(absorbing)
    if not kept:
        return boolean(not absorbing)
    if len(kept) == 1:
        return next(iter(kept.values()))
    return _make(op, tuple(kept.values()), BOOL, (op, *kept))


def conjunction(*terms: Term) -> Term:
    """All hold."""
    return _junction("and", terms, absorbing=False)


def disjunction(*terms: Term) -> Term:
    """At least one holds."""
    return _junction("or", terms, absorbing=True)


def implication(premise: Term, conclusion: Term) -> Term:
    """If the first holds so does the second."""
    return disjunction(negate(premise), conclusion)


def iff(first: Term, second: Term) -> Term:
    """Both hold or neither."""
    for one, other in ((first, second), (second, first)):
        if one.op == "const":
            return other if one.args[0] else negate(other)
    if first is negate(second):
        return boolean(False)
    one, other = (first, second) if first.uid < second.uid else (second, first)
    return _make("iff", (one, other), BOOL, ("=", one.uid, other.uid))


def choose(condition: Term, yes: Term, no: Term) -> Term:
    """``yes`` if the condition holds, else ``no``."""
    if condition.op == "const":
        return yes if condition.args[0] else no
    if yes is no:
        return yes
    if condition.op == "not":
        return choose(condition.args[0], no, yes)
    if yes.sort == BOOL:
        if yes.op == "const" or no.op == "const":
            if yes.op == "const":
                return disjunction(condition, no) if yes.args[0] else conjunction(negate(condition), no)
            return implication(condition, yes) if no.args[0] else conjunction(condition, yes)
    if yes.op == "ite" and yes.args[0] is condition:
        yes = yes.args[1]
    if no.op == "ite" and no.args[0] is condition:
        no = no.args[2]
    if yes is no:
        return yes
    return _make("ite", (condition, yes, no), yes.sort, ("?", condition.uid, yes.uid, no.uid))


# ---- text


def _children(term: Term) -> tuple[Term, ...]:
    if term.op == "app":
        return term.args[1:]
    if term.op == "lin":
        return tuple(part for part, _ in term.args[1])
    if term.op in ("div", "mod"):
        return term.args[:1]
    if term.op == "const":
        return ()
    return term.args


def _integer(value: int) -> str:
    return str(value) if value >= 0 else f"(- {-value})"


def _sum(constant: int, parts: Iterable[tuple[Term, int]], name: dict[int, str]) -> str:
    items = [name[t.uid] if c == 1 else f"(* {_integer(c)} {name[t.uid]})" for t, c in parts]
    if constant:
        items.append(_integer(constant))
    return items[0] if len(items) == 1 else f"(+ {' '.join(items)})" if items else "0"


def _text(term: Term, name: dict[int, str]) -> str:
    op, args = term.op, term.args
    if op == "const":
        return "true" if args[0] else "false"
    if op == "app":
        return f"(|{args[0]}| {' '.join(name[a.uid] for a in args[1:])})" if len(args) > 1 else f"|{args[0]}|"
    if op == "lin":
        constant, parts = args
        if not parts:
            return _integer(constant)
        return _sum(constant, parts, name)
    if op in ("eq", "le"):
        constant, parts = _parts(args[0])
        left = [(t, c) for t, c in parts if c > 0]
        right = [(t, -c) for t, c in parts if c < 0]
        lhs = _sum(max(constant, 0), left, name)
        rhs = _sum(max(-constant, 0), right, name)
        return f"({'=' if op == 'eq' else '<='} {lhs} {rhs})"
    if op in ("div", "mod"):
        return f"({op} {name[args[0].uid]} {args[1]})"
    if op == "not":
        return f"(not {name[args[0].uid]})"
    words = {"and": "and", "or": "or", "iff": "=", "ite": "ite"}
    return f"({words[op]} {' '.join(name[a.uid] for a in args)})"


def order(roots: Iterable[Term]) -> list[Term]:
    """All terms below the roots, each after those it is made of."""
    done: set[int] = set()
    result: list[Term] = []
    stack: list[tuple[Term, bool]] = [(root, False) for root in reversed(list(roots))]
    while stack:
        term, ready = stack.pop()
        if ready:
            result.append(term)
            continue
        if term.uid in done:
            continue
        done.add(term.uid)
        stack.append((term, True))
        children = (
            tuple(t for t, _ in _parts(term.args[0])[1]) if term.op in ("eq", "le") else _children(term)
        )
        stack.extend((child, False) for child in reversed(children) if child.uid not in done)
    return result


Values = tuple[dict[tuple[int, ...], int], int]
"""A function: its entries, and its value everywhere else."""
Functions = dict[str, Values]
"""A model, by the names of its functions."""


def evaluate(ordered: list[Term], functions: Functions) -> dict[int, int]:
    """The value of each term, given each function as its entries and its value everywhere else.

    ordered: terms after those they are made of.  A function that is not given is at its least value.
    """
    values: dict[int, int] = {}
    for term in ordered:
        op, args = term.op, term.args
        if op == "lin":
            value = args[0]
            for part, factor in args[1]:
                value += factor * values[part.uid]
        elif op == "app":
            found = functions.get(args[0])
            if found is None:
                bounds = bounds_of(args[0])
                value = bounds[0] if bounds is not None else 0
            else:
                value = found[0].get(tuple([values[each.uid] for each in args[1:]]), found[1])
        elif op in ("eq", "le"):
            constant, parts = _parts(args[0])
            value = constant
            for part, factor in parts:
                value += factor * values[part.uid]
            value = value == 0 if op == "eq" else value <= 0
        elif op == "not":
            value = not values[args[0].uid]
        elif op == "and":
            value = all(values[each.uid] for each in args)
        elif op == "or":
            value = any(values[each.uid] for each in args)
        elif op == "ite":
            value = values[args[1].uid] if values[args[0].uid] else values[args[2].uid]
        elif op == "iff":
            value = bool(values[args[0].uid]) == bool(values[args[1].uid])
        elif op == "const":
            value = args[0]
        elif op == "div":
            value = values[args[0].uid] // args[1]
        else:
            value = values[args[0].uid] % args[1]
        values[term.uid] = value
    return values


def show(term: Term) -> str:
    """The term in full, for people."""
    name: dict[int, str] = {}
    for each in order([term]):
        name[each.uid] = _text(each, name)
    return name[term.uid]


class Writer:
    """Writes problems as SMT-LIB 2 text, piece by piece: what one piece has defined the next may use."""

    def __init__(self) -> None:
        self._declared: set[str] = set()
        self._name: dict[int, str] = {}
        self._shared = 0

    def piece(self, assertions: list[Term]) -> list[str]:
        """Declarations, definitions and assertions, with the bounds of every function mentioned."""
        declared: dict[str, str] = {}
        body: list[str] = []
        name = self._name
        terms = [term for term in order(assertions) if term.uid not in name]
        uses: dict[int, int] = {}
        for term in terms:
            children = tuple(t for t, _ in _parts(term.args[0])[1]) if term.op in ("eq", "le") else _children(term)
            for child in children:
                uses[child.uid] = uses.get(child.uid, 0) + 1
        for term in terms:
            text = _text(term, name)
            if term.op == "app":
                symbol = term.args[0]
                if symbol not in self._declared:
                    self._declared.add(symbol)
                    sorts = " ".join(a.sort for a in term.args[1:])
                    declared[symbol] = f"(declare-fun |{symbol}| ({sorts}) {term.sort})"
            if uses.get(term.uid, 0) > 1 and len(text) > 24:
                short = f"t{self._shared}"
                self._shared += 1
                body.append(f"(define-fun {short} () {term.sort} {text})")
                text = short
            name[term.uid] = text
            if term.op == "app":
                bounds = bounds_of(term.args[0])
                if bounds is not None and term.sort == INT:
                    low, high = bounds
                    upper = f" {high}" if high is not None else ""
                    body.append(f"(assert (<= {_integer(low)} {text}{upper}))")
        body.extend(f"(assert {name[term.uid]})" for term in assertions)
        return [*sorted(declared.values()), *body]


def smtlib(assertions: list[Term], logic: str = "ALL") -> str:
    """The problem "all of these hold" as SMT-LIB 2 text."""
    return "\n".join([f"(set-logic {logic})", *Writer().piece(assertions), "(check-sat)", ""])
