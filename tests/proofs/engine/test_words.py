"""A word may be taken for its fields; a wrong layout is noticed."""

from __future__ import annotations

import pytest

from proofs.engine.words import lemmas
from spec.language import SpecificationError, Word, decode, encode, field, flag, layout
from spec.language.values import U16, U32


@layout
class Sample:
    """Flags, an id and a frame, as in a grant entry."""

    kind: int = field(0, 2)
    readonly: bool = flag(2)
    domid: U16 = field(16, 16)
    frame: U32 = field(32, 32)


def test_layout__every_lemma_is_proved() -> None:
    assert [each.claim for each in lemmas(Sample) if not each.proved] == []


def test_layout__decodes_and_keeps_the_rest() -> None:
    word = Word(0x0000_0007_0003_FFF5)
    seen = decode(Sample, word)
    assert seen == Sample(kind=1, readonly=True, domid=U16(3), frame=U32(7))
    assert encode(seen, word) == word


def test_layout__refuses_overlapping_fields() -> None:
    with pytest.raises(SpecificationError):

        @layout
        class Overlapping:
            """Two fields in one place."""

            one: int = field(0, 4)
            other: int = field(3, 4)


def test_encode__refuses_a_value_that_is_too_wide() -> None:
    with pytest.raises(SpecificationError):
        encode(Sample(kind=4))
