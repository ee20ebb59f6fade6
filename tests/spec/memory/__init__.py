"""Tests of the memory operations."""
