"""Tests of the life of domains."""
