"""Where jobs run: in this process, on every core, or on the workers of a Dask cluster."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any

from bulkhead.problems import BadInputError

CONNECT_SECONDS = 10
RETRIES = 3
"""How often a job is run again elsewhere when its worker is lost."""


class SerialExecutor(Executor):
    """Every job runs in this process while it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run it now."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as problem:  # noqa: BLE001, as every executor does
            future.set_exception(problem)
        return future


def _quiet() -> None:
    """A worker leaves the keyboard to the process that it works for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def executor(jobs: int = 0, cluster: str = "") -> Iterator[Executor]:
    """An executor that is given up at the end, with whatever still waits in it.

    jobs: processes on this machine (0: one a core; 1: this process itself); cluster: address of a Dask scheduler, as
    tcp://host:port, which then takes all jobs.
    Errors: BadInputError if the cluster cannot be used.
    """
    if cluster:
        with _dask(cluster) as pool:
            yield pool
        return
    number = jobs or os.cpu_count() or 1
    if number == 1:
        yield SerialExecutor()
        return
    pool = ProcessPoolExecutor(number, mp_context=multiprocessing.get_context("spawn"), initializer=_quiet)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    # what runs is waited for at the end of Python in any case, which complains if the pool is half closed by then
    pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _dask(address: str) -> Iterator[Executor]:
    """An executor on a Dask cluster, which runs the jobs of a lost worker again."""
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError:
        raise BadInputError("a cluster needs Dask: pip install 'bulkhead[cluster]'") from None
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as problem:
        raise BadInputError(f"no Dask scheduler answers at {address}: {_line(problem)}") from None
    try:
        if not client.scheduler_info()["workers"]:
            raise BadInputError(f"the Dask scheduler at {address} has no worker")
        pool: Executor = client.get_executor(retries=RETRIES, pure=False)
        yield pool
        pool.shutdown(wait=False)
    finally:
        client.close()


def _line(problem: BaseException) -> str:
    return (str(problem) or type(problem).__name__).splitlines()[0]


__all__ = ["SerialExecutor", "executor"]
