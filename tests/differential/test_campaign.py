"""Campaigns: the same for the same seed wherever their jobs run; nothing is lost; failures become vectors."""

import contextlib
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import attrs
import pytest

from bulkhead import trace
from bulkhead.cli_fuzz import run as fuzz
from bulkhead.fuzz import executors, report, vectors
from bulkhead.fuzz.boards import Scenario
from bulkhead.fuzz.campaign import Campaign, run
from bulkhead.fuzz.executors import SerialExecutor, executor
from bulkhead.fuzz.job import Job, Result, run_history, run_job
from bulkhead.problems import BadInputError
from impl.fast.machine import Machine

MACHINES = (Scenario("foundation-v8", 2), Scenario("vexpress-a15", 0))


def campaign(pool, *, seed=3, jobs=4, **options):
    return Campaign(seed, MACHINES, pool, ahead=4, job_stimuli=150, **options).run(1e9, jobs=jobs)


def facts(progress):
    return progress.stimuli, progress.coverage.answers, progress.coverage.pairs, [e.history for e in progress.entries]


def test_campaign__does_the_same_on_two_processes():
    with executor(2) as pool:
        assert facts(campaign(SerialExecutor())) == facts(campaign(pool))


def test_campaign__does_something_else_for_another_seed():
    assert facts(campaign(SerialExecutor())) != facts(campaign(SerialExecutor(), seed=4))


def test_campaign__that_is_interrupted_keeps_what_it_knows():
    shown = []

    def interrupt(progress):
        shown.append(progress.jobs)
        if progress.jobs == 2:
            raise KeyboardInterrupt

    # the last call shows the end, and is not interrupted again
    progress = None
    with contextlib.suppress(KeyboardInterrupt):
        one = Campaign(1, MACHINES, SerialExecutor(), ahead=1, job_stimuli=60)
        progress = one.progress
        one.run(1e9, jobs=10, show=interrupt)
    assert progress is not None
    assert not progress.complete
    assert progress.stimuli > 0


def test_job__ends_with_its_campaign_and_what_it_has_done_counts():
    late = Job(MACHINES[0], 1, 0, 10**9, until=time.time() - 1)
    assert run_job(late) == Result(0, MACHINES[0])
    started = time.time()
    cut = run_job(attrs.evolve(late, until=started + 2))
    assert cut.stimuli > 0
    assert cut.coverage.answers
    # one stimulus, the longest of all, may still be on its way
    assert time.time() - started < 30
    whole = run_job(attrs.evolve(late, stimuli=150, until=started + 1e6))
    assert whole.stimuli == run_job(attrs.evolve(late, stimuli=150, until=math.inf)).stimuli >= 150


def test_campaign__cuts_its_last_jobs_by_the_wall_clock_alone():
    jobs = []

    class Noted(SerialExecutor):
        def submit(self, fn, /, *args, **kwargs):
            jobs.append(args[0])
            return super().submit(fn, *args, **kwargs)

    for options, bound in (({}, True), ({"clock": time.process_time}, False)):
        jobs.clear()
        Campaign(1, MACHINES, Noted(), ahead=1, job_stimuli=10, **options).run(0.1)
        assert {math.isfinite(each.until) for each in jobs} == {bound}
    jobs.clear()
    campaign(Noted(), jobs=1)
    assert [math.inf] == [each.until for each in jobs]


class Flawed(Machine):
    """What a guest loads has its lowest bit flipped, if anything is there."""

    def load(self, dom, vcpu, ipa, size=8):
        seen = super().load(dom, vcpu, ipa, size)
        if seen.kind == "value" and seen.value:
            seen.value ^= 1
        return seen


def test_run__finds_a_flaw_and_stops_and_a_machine_without_it_is_another():
    progress = run(1, 30.0, Flawed, boards=("mustang",))
    assert 1 == len(progress.failures)
    assert not run(1, 1.0, boards=("mustang",)).failures


def test_failure__is_shrunk_and_kept_as_a_vector(tmp_path):
    one = Campaign(1, (Scenario("mustang"),), SerialExecutor(), factory=Flawed, ahead=1, job_stimuli=400)
    progress = one.run(1e9, jobs=4)
    made = report.save(progress, tmp_path)
    row = made["failures"][0]
    assert row["stimuli"] <= 2
    history = vectors.to_history(trace.read(row["vector"]))
    assert run_history(Scenario("mustang"), history, factory=Flawed) is not None
    assert run_history(Scenario("mustang"), history) is None


def test_vector__is_the_history_again(tmp_path):
    history = (("store", 1, 0, 0x40000000, 8, 1 << 63), ("hypercall", 1, 0, {16: 12, 0: 2, 1: 5}, 2),
               ("load", 2, 0, 0x40000000, 1), ("fetch", 3, 1, 0x40100000), ("set_way", 0, 0),
               ("toggle_cache", 0, 1, True))
    path = tmp_path / "a.json"
    trace.write(vectors.to_trace(Scenario("mustang", 2), history), path)
    again = trace.read(path)
    assert history == vectors.to_history(again)
    from bulkhead.fuzz.boards import configuration
    assert configuration(Scenario("mustang", 2)) == vectors.machine_of(again)


@pytest.mark.parametrize(("options", "says"), [
    ({"seconds": 0.0}, "--seconds 0"), ({"seconds": 1e12}, "--seconds 1e"),
    ({"seconds": float("nan")}, "--seconds nan"),
    ({"boards": ("nowhere",)}, "no board"), ({"cluster": "tcp://127.0.0.1:9"}, "scheduler|Dask"),
])
def test_fuzz__of_bad_input_is_refused_in_one_line(options, says, monkeypatch):
    monkeypatch.setattr(executors, "CONNECT_SECONDS", 1)
    given = {"seconds": 1.0, "seed": 1, "boards": ("mustang",), "as_json": False, "cluster": "", "processes": 1,
             "jobs": 0}
    with pytest.raises(BadInputError, match=says) as refused:
        fuzz(**(given | options))
    assert "\n" not in str(refused.value)


def test_fuzz__prints_its_results_as_json(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert fuzz(seconds=0.0, seed=1, boards=("mustang",), as_json=True, cluster="", processes=1, jobs=1) == 0
    made = json.loads(capsys.readouterr().out)
    assert made == json.loads((tmp_path / "build" / "fuzz.json").read_text())
    assert made["stimuli"] > 1000


# ---- a cluster

_SCHEDULER = """
import asyncio, sys
from distributed import Scheduler
async def main():
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False) as scheduler:
        print(scheduler.address, flush=True)
        await scheduler.finished()
asyncio.run(main())
"""
_WORKER = """
import asyncio, sys
from distributed import Worker
async def main():
    async with Worker(sys.argv[1], nthreads=1, dashboard=False) as worker:
        print(worker.address, flush=True)
        await worker.finished()
asyncio.run(main())
"""


def _started(program, *arguments):
    """A process that has printed its address, and the address."""
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", program, *arguments], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True, cwd=Path.cwd())
    output = process.stdout
    assert output is not None
    return process, output.readline().strip()


@pytest.mark.filterwarnings("ignore")
def test_campaign__on_a_cluster_that_loses_a_worker_loses_nothing():
    pytest.importorskip("distributed", reason="Dask is an extra: pip install 'bulkhead[cluster]'")
    processes = []
    try:
        scheduler, address = _started(_SCHEDULER)
        processes.append(scheduler)
        for _ in range(2):
            processes.append(_started(_WORKER, address)[0])
        victim = processes[1]
        killed: list[int] = []

        def show(progress):
            if progress.jobs >= 2 and not killed:
                victim.send_signal(signal.SIGKILL)
                killed.append(progress.jobs)

        with executor(cluster=address) as pool:
            one = Campaign(3, MACHINES, pool, ahead=4, job_stimuli=150)
            progress = one.run(1e9, jobs=10, show=show)
        assert killed
        assert progress.lost == 0
        assert facts(campaign(SerialExecutor(), jobs=10)) == facts(progress)
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()
            process.stdout.close()
        # the client's threads end
        time.sleep(0.1)
