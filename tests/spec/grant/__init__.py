"""Tests of the grant operations."""
