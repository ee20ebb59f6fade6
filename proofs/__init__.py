"""The specification proved: the same source run on symbols."""
