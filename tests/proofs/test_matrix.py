"""A transition in pieces is the whole transition."""

import pathlib

import pytest

from bulkhead.fuzz.executors import SerialExecutor
from proofs import matrix
from proofs.matrix import PIECES, JobResult, Options, prove
from proofs.theories import all_transitions

STEP = "create_domain"


def proved(name: str, cache: str | None = None) -> JobResult:
    """The lines of a transition."""
    result, = prove([name], Options(), SerialExecutor(), cache)
    return result


def ended(result: JobResult) -> list[tuple[str, str]]:
    """How each obligation ended, in order."""
    return [(line.id, line.verdict) for line in result.lines]


def test_pieces__are_of_steps_that_there_are() -> None:
    """A renamed step does not lose its pieces unnoticed."""
    assert set(PIECES) <= set(all_transitions())


@pytest.mark.parametrize("number", [2, 5])
def test_pieces__make_up_the_whole(number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """The same obligations in the same order, and each piece is kept on its own."""
    whole = proved(STEP)
    monkeypatch.setitem(matrix.PIECES, STEP, number)
    parted = proved(STEP, str(tmp_path))
    assert ended(parted) == ended(whole)
    assert (parted.explored, parted.refusals) == (whole.explored, whole.refusals)
    assert not parted.cached
    again = proved(STEP, str(tmp_path))
    assert again.cached
    assert ended(again) == ended(parted)
