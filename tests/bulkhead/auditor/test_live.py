"""A running QEMU, as far as no QEMU is needed: what its answers mean."""

import json
import socket
import threading

import pytest

from bulkhead.auditor import live
from bulkhead.problems import BadInputError

TREE = """FlatView #0
 AS "I/O", root: io
  0000000000000000-000000000000ffff (prio 0, ram): io.ram

FlatView #1
 AS "memory", root: system
 AS "cpu-memory-0", root: system
  0000000000000000-0000000003ffffff (prio 0, romd): virt.flash0
  0000000018000000-00000000187fffff (prio 0, ram): vexpress.vram
  0000000080000000-00000000bfffffff (prio 0, ram): main
  0000000880000000-00000008bfffffff (prio 0, ram): main @0000000040000000
"""


@pytest.fixture
def qemu(tmp_path):
    """Something that answers like QEMU's monitor."""
    path = tmp_path / "qmp"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    asked = []

    def serve():
        connection, _ = listener.accept()
        with connection, connection.makefile("rw", encoding="utf-8") as file:
            file.write('{"QMP": {}}\n')
            file.flush()
            for line in file:
                name = json.loads(line)["execute"]
                asked.append(name)
                answers = {"query-status": {"running": True}, "human-monitor-command": TREE, "query-memdev": [],
                           "query-target": {"arch": "aarch64"}}
                file.write(json.dumps({"return": answers.get(name, {})}) + "\n")
                file.flush()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    made = live.Live(path, None)
    yield made, asked
    made.close()
    listener.close()


def test_live__takes_the_largest_memory_for_ram(qemu):
    made, _ = qemu
    assert [(0x80000000, 0x40000000, 0), (0x880000000, 0x40000000, 0x40000000)] == [
        (each.base, each.size, each.offset) for each in made.regions()]


def test_live__lets_the_machine_go_on_whatever_happens(qemu):
    made, asked = qemu
    with pytest.raises(ZeroDivisionError), made.stopped():
        raise ZeroDivisionError
    assert ["stop", "cont"] == asked[-2:]


def test_live__without_symbols_or_gdb_does_not_know_the_vms(qemu):
    made, _ = qemu
    with pytest.raises(BadInputError, match="the VMs are not known"):
        made.vms()
