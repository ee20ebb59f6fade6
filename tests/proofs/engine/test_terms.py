"""Terms mean what Python means."""

from __future__ import annotations

import random
from typing import Any

import pytest
import z3

from proofs.engine import terms as T
from spec.language.values import SpecificationError

NAMES = ("a", "b", "c", "d", "e")
BOUNDS = {"d": (0, 3), "e": (0, 6)}


def _integer(pick: random.Random, depth: int) -> tuple[T.Term, Any]:
    kind = pick.randrange(7) if depth else pick.randrange(2)
    if kind == 0:
        value = pick.randrange(-5, 6)
        return T.number(value), lambda _: value
    if kind == 1:
        name = pick.choice(NAMES)
        return T.variable(name, bounds=BOUNDS.get(name)), lambda env: env[name]
    one, left = _integer(pick, depth - 1)
    other, right = _integer(pick, depth - 1)
    if kind == 2:
        return T.add(one, other), lambda env: left(env) + right(env)
    if kind == 3:
        return T.subtract(one, other), lambda env: left(env) - right(env)
    factor = pick.choice((1, 2, 3, 4, 7, 8))
    if kind == 4:
        return T.scale(one, -factor), lambda env: -factor * left(env)
    if kind == 5:
        if pick.random() < 0.5:
            return T.divide(one, factor), lambda env: left(env) // factor
        return T.remainder(one, factor), lambda env: left(env) % factor
    condition, test = _condition(pick, depth - 1)
    return T.choose(condition, one, other), lambda env: left(env) if test(env) else right(env)


def _condition(pick: random.Random, depth: int) -> tuple[T.Term, Any]:
    kind = pick.randrange(7) if depth else pick.randrange(3)
    if kind < 3:
        one, left = _integer(pick, max(depth - 1, 0))
        other, right = _integer(pick, max(depth - 1, 0))
        if kind == 0:
            return T.equal(one, other), lambda env: left(env) == right(env)
        if kind == 1:
            return T.at_most(one, other), lambda env: left(env) <= right(env)
        return T.less(one, other), lambda env: left(env) < right(env)
    one, left = _condition(pick, depth - 1)
    other, right = _condition(pick, depth - 1)
    if kind == 3:
        return T.negate(one), lambda env: not left(env)
    if kind == 4:
        return T.conjunction(one, other), lambda env: left(env) and right(env)
    if kind == 5:
        return T.disjunction(one, other), lambda env: left(env) or right(env)
    return T.iff(one, other), lambda env: left(env) == right(env)


def test_terms__agree_with_python_and_with_the_solver() -> None:
    pick = random.Random(4)
    for _ in range(600):
        T.reset()
        term, meaning = _condition(pick, 4)
        env = {name: pick.randrange(*BOUNDS.get(name, (-6, 7))) for name in NAMES}
        facts = [T.equal(T.variable(name, bounds=BOUNDS.get(name)), T.number(value)) for name, value in env.items()]
        expected = bool(meaning(env))
        solver = z3.Solver()
        solver.from_string(T.smtlib([*facts, term if expected else T.negate(term)]))
        assert solver.check() == z3.sat, (T.show(term), env, expected)
        solver = z3.Solver()
        solver.from_string(T.smtlib([*facts, T.negate(term) if expected else term]))
        assert solver.check() == z3.unsat, (T.show(term), env, expected)


def test_terms__are_shared_when_equal() -> None:
    T.reset()
    x, y = T.variable("x"), T.variable("y")
    assert T.add(x, y) is T.add(y, x)
    assert T.negate(T.at_most(x, y)) is T.less(y, x)
    assert T.equal(T.add(x, T.number(2)), T.add(y, T.number(2))) is T.equal(x, y)


def test_text__is_the_same_for_the_same_construction() -> None:
    texts = []
    for _ in range(2):
        T.reset()
        x, y = T.variable("x", bounds=(0, 9)), T.variable("y")
        texts.append(T.smtlib([T.less(x, y), T.equal(T.choose(T.less(x, y), x, y), T.number(3))]))
    assert texts[0] == texts[1]


def test_digits__a_number_written_in_digits_is_taken_apart_and_compared_digit_by_digit() -> None:
    T.reset()
    digits = [T.variable(f"i{n}", bounds=(0, 511)) for n in range(4)]
    others = [T.variable(f"j{n}", bounds=(0, 511)) for n in range(4)]
    one, other = T.number(0), T.number(0)
    for digit, twin in zip(digits, others, strict=True):
        one, other = T.add(T.scale(one, 512), digit), T.add(T.scale(other, 512), twin)
    assert T.remainder(T.divide(one, 512), 512) is digits[2]
    assert T.divide(one, 1 << 27) is digits[0]
    same = T.equal(one, other)
    assert same.op == "and"
    assert set(same.args) == {T.equal(a, b) for a, b in zip(digits, others, strict=True)}


def test_variable__has_one_range() -> None:
    """What is assumed of a name holds wherever it is met, so it must be meant wherever it is made."""
    T.reset()
    T.variable("x", bounds=(0, 3))
    with pytest.raises(SpecificationError, match=r"x has the bounds \(0, 3\), and \(0, 4\)"):
        T.variable("x", bounds=(0, 4))
