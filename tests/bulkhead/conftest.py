"""Machines whose tables a test may change."""

import pytest

from tests.bulkhead.files import ARM32, File, tiny_machine


@pytest.fixture
def arm32() -> File:
    """The real arm32 machine: 30 table pages."""
    return File.like(ARM32)


@pytest.fixture
def tiny() -> File:
    """Two VMs of one page each, with tables of their own."""
    return tiny_machine()
