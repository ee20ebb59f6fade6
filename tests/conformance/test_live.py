"""A real Xen that is left running, audited by another command."""

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys

import pytest


@pytest.mark.parametrize("kind", ["arm64-gicv3", "armhf-virt"])
def test_live__machine_is_audited_as_it_says_and_ends_with_its_command(installation, kind):
    with subprocess.Popen([sys.executable, "-m", "impl.xen.live", kind], stdout=subprocess.PIPE, text=True,
                          env={**os.environ, "BULKHEAD_XEN": str(installation.folder)}) as live:
        assert live.stdout is not None
        assert kind in live.stdout.readline()
        words = shlex.split(live.stdout.readline())
        if "--symbols" not in words:
            live.kill()
            pytest.skip("Xen's symbols are not there")
        said = subprocess.run([pathlib.Path(sys.executable).with_name("bulkhead"), *words[1:], "--json"],
                              capture_output=True, text=True, check=False)
        live.send_signal(signal.SIGINT)
        live.wait(20)
        assert live.returncode == 0
    assert (said.returncode, said.stderr) == (0, "")
    found = json.loads(said.stdout)
    assert (found["verdict"], found["findings"]) == ("isolated", [])
    assert [each["why"] for each in found["shared"] if each["reason"] == "granted"] == [
        "grant 40 of dom1 to dom0, writable", "grant 41 of dom1 to dom0, read-only"]


def test_live__of_an_unknown_kind_is_one_line():
    done = subprocess.run([sys.executable, "-m", "impl.xen.live", "toaster"], capture_output=True, text=True,
                          check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
