"""Tests of the specification, on integers."""
