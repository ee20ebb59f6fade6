"""One QEMU at a time, however many processes the tests run in."""

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from impl.xen.config import Config
from impl.xen.errors import NotSetUp
from impl.xen.install import Installation, found, newer_source
from impl.xen.machine import Machine

_LOCK = Path(tempfile.gettempdir()) / "bulkhead-conformance.lock"


@pytest.fixture(scope="session")
def installation() -> Installation:
    """What is set up, or else a skipped test."""
    try:
        made = found()
    except NotSetUp as problem:
        pytest.skip(str(problem))
    if newer_source(made):
        pytest.skip("the payload was changed after it was built: run `make conformance-setup`")
    return made


@contextmanager
def machine_of(config: Config, installation: Installation) -> Iterator[Machine]:
    """A booted machine, with no other one beside it."""
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with Machine(config, installation) as machine:
            yield machine
