"""What is left of machines whose owners were killed."""

import os
import subprocess
import sys

from impl.xen.qemu import _sweep


def test_sweep__removes_only_what_belongs_to_nobody(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name in (f"bulkhead-xen-{ended.pid}-abc", f"bulkhead-xen-{os.getpid()}-abc", "bulkhead-xen-x", "other"):
        (tmp_path / name).mkdir()
    _sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"bulkhead-xen-{os.getpid()}-abc", "bulkhead-xen-x", "other"]
