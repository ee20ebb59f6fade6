"""Frozen records: the rows of tables, the state, the answers.

A record is an attrs class.  Nothing changes it; ``evolve`` makes a changed copy.
"""

from __future__ import annotations

import functools
import typing
from typing import Any, TypeVar

import attrs

from spec.language.values import SpecificationError

_R = TypeVar("_R")
_C = TypeVar("_C", bound=type)


@typing.dataclass_transform(frozen_default=True, field_specifiers=(attrs.field,))
def record(cls: _C) -> _C:
    """Class decorator: a frozen record whose fields all have a type, and in rows a default."""
    return attrs.frozen(slots=False)(cls)  # type: ignore[return-value]


@functools.cache
def columns(cls: type) -> dict[str, str]:
    """The fields of a record class: name -> name of its type (a key of ``values.RANGES``)."""
    hints = typing.get_type_hints(cls)
    found = {}
    for each in attrs.fields(cls):
        hint = hints[each.name]
        found[each.name] = getattr(hint, "__name__", str(hint))
    return found


@functools.cache
def _names(cls: type) -> frozenset[str]:
    return frozenset(each.name for each in attrs.fields(cls))


def evolve(original: _R, **changes: Any) -> _R:
    """A copy of a record with some fields changed."""
    cls = type(original)
    symbolic = getattr(cls, "__evolved__", None)
    if symbolic is not None:
        return symbolic(original, changes)  # type: ignore[no-any-return]
    if not _names(cls).issuperset(changes):
        raise SpecificationError(f"{cls.__name__} has no field {sorted(set(changes) - _names(cls))}")
    copy = object.__new__(cls)
    fields = copy.__dict__
    fields.update(original.__dict__)
    fields.update(changes)
    return copy
