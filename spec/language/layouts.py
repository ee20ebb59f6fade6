"""How a machine word is divided into fields.

Memory holds 64-bit words; a grant entry, a page-table descriptor or an argument is a *view* of
one.  A layout declares the fields once; ``decode`` and ``encode`` are shifts and masks on
integers.  On symbols a word *is* its fields: that both say the same is proved for each layout
over 64-bit vectors (``proofs.engine.words``).
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from spec.language.records import of_fields, record
from spec.language.values import SpecificationError, Symbolic, Word

_L = TypeVar("_L")
_C = TypeVar("_C", bound=type)
WORD_BITS = 64
MASK = (1 << WORD_BITS) - 1
LAYOUTS: dict[str, type] = {}
"""Every layout, by name."""


@attrs.frozen
class Field:
    """Where one field of a layout stands: bits ``lowest .. lowest + width - 1``."""

    name: str
    type: str
    lowest: int
    width: int


class Layout:
    """The fields of a layout class, in order."""

    def __init__(self, cls: type) -> None:
        hints = typing.get_type_hints(cls)
        self.cls = cls
        self.fields = tuple(
            Field(each.name, hints[each.name].__name__, *each.metadata["bits"]) for each in attrs.fields(cls)
        )
        taken = 0
        for each in self.fields:
            mask = ((1 << each.width) - 1) << each.lowest
            if taken & mask or mask > MASK:
                raise SpecificationError(f"{cls.__name__}.{each.name} overlaps or lies outside the word")
            taken |= mask
        self.mask = taken
        self.parts = tuple((f.name, f.lowest, (1 << f.width) - 1, f.type == "bool") for f in self.fields)


def field(lowest: int, width: int, default: Any = 0) -> Any:
    """Bits ``lowest .. lowest + width - 1`` of the word."""
    return attrs.field(default=default, metadata={"bits": (lowest, width)})


def flag(position: int) -> Any:
    """One bit of the word, as a condition."""
    return attrs.field(default=False, metadata={"bits": (position, 1)})


@typing.dataclass_transform(frozen_default=True, field_specifiers=(field, flag))
def layout(cls: _C) -> _C:
    """Class decorator: a record whose fields are bit fields of one word."""
    done = record(cls)
    done.__layout__ = Layout(done)  # type: ignore[attr-defined]
    if LAYOUTS.setdefault(done.__name__, done).__module__ != done.__module__:
        raise SpecificationError(f"two layouts are called {done.__name__}")
    return done


def decode(view: type[_L], word: Word) -> _L:
    """Look at a word through a layout."""
    if isinstance(word, Symbolic):
        return word.seen_as(view)  # type: ignore[attr-defined, no-any-return]
    fields: dict[str, Any] = {}
    for name, lowest, mask, condition in view.__layout__.parts:  # type: ignore[attr-defined]
        value = word >> lowest & mask
        fields[name] = value == 1 if condition else value
    return of_fields(view, fields)


def encode(fields: Any, previous: Word = Word(0)) -> Word:
    """The word whose fields are these; bits outside the layout are kept from ``previous``."""
    if isinstance(previous, Symbolic):
        return previous.encoded(fields)  # type: ignore[attr-defined, no-any-return]
    word: Any = 0
    shape = type(fields).__layout__
    for name, lowest, mask, _ in shape.parts:
        value = getattr(fields, name)
        if isinstance(value, Symbolic):
            return value.encoder()(fields, previous)  # type: ignore[attr-defined, no-any-return]
        if not 0 <= value < mask + 1:
            raise SpecificationError(f"{shape.cls.__name__}.{name}: {value:#x} is more than {mask:#x}")
        word |= value << lowest
    return Word(word | (previous & ~shape.mask & MASK))


def volatile(word: Word) -> Word:
    """A read of memory that a guest can write: each such read stands for itself.

    On integers it is the word.  In a proof it is any word at all, so whatever another CPU stores
    between two reads is covered.
    """
    if isinstance(word, Symbolic):
        return word.any_word()  # type: ignore[attr-defined, no-any-return]
    return PEER[-1](word) if PEER else word


PEER: list[Callable[[Word], Word]] = []
"""What another CPU makes of a word just before it is read: for tests that rewrite memory between two reads."""


def environment_word(word: Word) -> Word:
    """A word that a guest chose: on integers it must lie in 0 .. 2**64 - 1."""
    if not isinstance(word, Symbolic) and not 0 <= word <= MASK:
        raise SpecificationError(f"{word:#x} is not a 64-bit word")
    return word
