"""Hypothesis strategies for histories: the grammar makes them, with every choice drawn by Hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from bulkhead.fuzz.boards import FLAVOURS, Scenario, board_names
from bulkhead.fuzz.grammar import WEIGHTS

scenarios = st.builds(Scenario, st.sampled_from(board_names()), st.integers(0, FLAVOURS - 1))
"""A machine."""

actions = st.lists(st.tuples(st.sampled_from(sorted(WEIGHTS)), st.integers(0, (1 << 32) - 1)), min_size=1, max_size=25)
"""Actions of the grammar, each with a seed of its own: one can be left out without a change of the others."""
