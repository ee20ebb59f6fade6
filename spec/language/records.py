"""Frozen records: the rows of tables, the state, the answers.

A record is an attrs class.  Nothing changes it; ``evolve`` makes a changed copy.
"""

from __future__ import annotations

import typing
from typing import Any, TypeVar

import attrs

from spec.language.values import SpecificationError

_R = TypeVar("_R")
_C = TypeVar("_C", bound=type)
_new, _set = object.__new__, object.__setattr__
_columns: dict[type, dict[str, str]] = {}


@typing.dataclass_transform(frozen_default=True, field_specifiers=(attrs.field,))
def record(cls: _C) -> _C:
    """Class decorator: a frozen record whose fields all have a type, and in rows a default."""
    done = attrs.frozen(slots=False)(cls)
    done.__width__ = len(attrs.fields(done))  # type: ignore[attr-defined]
    return done


def columns(cls: type) -> dict[str, str]:
    """The fields of a record class: name -> name of its type (a key of ``values.RANGES``)."""
    found = _columns.get(cls)
    if found is None:
        hints = typing.get_type_hints(cls)
        found = _columns[cls] = {}
        for each in attrs.fields(cls):
            hint = hints[each.name]
            found[each.name] = getattr(hint, "__name__", str(hint))
    return found


def evolve(original: _R, **changes: Any) -> _R:
    """A copy of a record with some fields changed."""
    return changed(original, changes)


def of_fields(cls: type[_R], fields: dict[str, Any]) -> _R:
    """The record with exactly these fields."""
    made = _new(cls)
    _set(made, "__dict__", fields)
    return made


def replaced(original: _R, name: str, value: Any) -> _R:
    """A copy of a record with one field, which it has, replaced."""
    copy = _new(original.__class__)
    fields = original.__dict__.copy()
    fields[name] = value
    _set(copy, "__dict__", fields)
    return copy


def changed(original: _R, changes: dict[str, Any]) -> _R:
    """``evolve`` with the changes as a dictionary."""
    cls = original.__class__
    width = cls.__width__  # type: ignore[attr-defined]
    # a row on symbols makes its own copy
    if width == 0:
        return cls.__evolved__(original, changes)  # type: ignore[attr-defined, no-any-return]
    fields = original.__dict__ | changes
    if len(fields) != width:
        raise SpecificationError(f"{cls.__name__} has no field {sorted(set(changes) - set(columns(cls)))}")
    copy = _new(cls)
    _set(copy, "__dict__", fields)
    return copy
