"""Tests of the documentation's own machinery."""
