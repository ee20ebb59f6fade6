"""The trace format: what is written can be read again, and what is wrong is said in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bulkhead import trace as t
from bulkhead.problems import BadInputError

SMALL: dict[str, Any] = {
    "bulkhead-trace": 1, "board": {"ram": [{"base": 0x40000000, "size": 1 << 25}]},
    "domains": [{"domid": 0, "pages": 512}], "stimuli": [],
}


def load(**changes: Any) -> t.Trace:
    return t.loads(json.dumps({**SMALL, **changes}))


def stimulus(**fields: Any) -> t.Trace:
    return load(stimuli=[fields])


EVERY = (
    t.Store(1, 0, 0x50000000, 4, 7), t.Load(1, 1, 0x50000004, 2), t.Fetch(0, 0, 0x1000),
    t.Hypercall(1, 0, {16: 12, 0: 6, 1: (1 << 64) - 1}), t.SetWay(2, 0), t.ToggleCache(2, 0, enabled=True),
    t.Preempt(3), t.Time(1_000),
)
WHOLE = t.Trace(
    t.Board(name="mustang"), t.Configuration(arch="arm32", gic_frames=(1, 2, 3, 4), xenheap_pages=512),
    (t.Domain(0, 512, privileged=True), t.Domain(1, 8, iomem=((5, 6),), devices=((1, 2, 3),), target=0, width=32)),
    EVERY,
    (t.Seen("value"), t.Seen("value", value=1 << 63), t.Seen("fault", fault=("translation", 3, 0x1000, 0x86000000)),
     t.Seen("restart", registers=((0, 1), (16, 12)), choices=(("frame", 77), ("table", 1))), None, None, None, None),
    "every-stimulus", "One of each.",
)


def test_dumps__is_read_again_as_the_same() -> None:
    assert WHOLE == t.loads(t.dumps(WHOLE))


def test_write__makes_a_file_that_read_understands(tmp_path: Path) -> None:
    t.write(WHOLE, tmp_path / "trace.json")

    assert WHOLE == t.read(tmp_path / "trace.json")


def test_dumps__writes_large_numbers_as_text() -> None:
    text = t.dumps(WHOLE)

    assert '"0xffffffffffffffff"' in text
    assert str((1 << 64) - 1) not in text


def test_loads__takes_numbers_in_base_16() -> None:
    assert (t.Load(0, 0, 0x50000000, 8),) == stimulus(
        do="load", domain=0, vcpu=0, ipa="0x50000000", size="8").stimuli


@pytest.mark.parametrize(("changes", "says"), [
    ({"bulkhead-trace": 2}, "version 2"),
    ({"bulkhead-trace": True}, "version True"),
    ({"extra": 1}, "no field 'extra'"),
    ({"board": {}}, "either a name or banks"),
    ({"board": {"ram": [{"base": 1, "size": 4096}]}}, "multiples of 4096"),
    ({"config": {"arch": "x86"}}, "not one of arm64, arm32"),
    ({"config": {"pa_bits": 99}}, "not within"),
    ({"config": {"scrub_domheap": 1}}, "not true or false"),
    ({"domains": [{"domid": 0}]}, "there is no 'pages'"),
    ({"domains": [{"domid": 0, "pages": 1}, {"domid": 0, "pages": 1}]}, "twice"),
    ({"domains": [{"domid": 0x7FF0, "pages": 1}]}, "not within"),
    ({"domains": [{"domid": 1, "pages": 1, "iomem": [[1]]}]}, "1 elements, not 2"),
    ({"stimuli": {}}, "not a list"),
    ({"stimuli": [{"do": "dance"}]}, "not one of load"),
    ({"stimuli": [{"do": "load", "domain": 0, "vcpu": 0, "ipa": 0, "size": 3}]}, "no access has 3 bytes"),
    ({"stimuli": [{"do": "load", "domain": 0, "vcpu": 0, "ipa": -1, "size": 8}]}, "not within"),
    ({"stimuli": [{"do": "load", "domain": 0, "vcpu": 0, "ipa": 1.5, "size": 8}]}, "a number with a fraction"),
    ({"stimuli": [{"do": "load", "domain": 0, "vcpu": 0, "ipa": "ten", "size": 8}]}, "'ten' is no number"),
    ({"stimuli": [{"do": "store", "domain": 0, "vcpu": 0, "ipa": 0, "size": 1, "value": 256}]}, "not within"),
    ({"stimuli": [{"do": "fetch", "domain": 0, "vcpu": 0, "ipa": 2}]}, "not aligned"),
    ({"stimuli": [{"do": "hypercall", "domain": 0, "vcpu": 0, "registers": {"31": 0}}]}, "not within"),
    ({"stimuli": [{"do": "preempt", "after": 0}]}, "not within"),
    ({"stimuli": [{"do": "time", "microseconds": 1, "seen": {"kind": "odd"}}]}, "not one of value"),
    ({"stimuli": [{"do": "time", "microseconds": 1, "seen": {"kind": "value", "choices": [["frame"]]}}]},
     "not a kind and a number"),
])
def test_loads__says_what_is_wrong_in_one_line(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInputError) as problem:
        load(**changes)

    assert says in str(problem.value)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("text", ["", "[", "[]", "null", '{"board": 1}', "[" * 100_000, "1e400"])
def test_loads__refuses_what_is_no_trace(text: str) -> None:
    with pytest.raises(BadInputError):
        t.loads(text)


def test_read__names_the_file(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_bytes(b"\xff\xfe")

    with pytest.raises(BadInputError, match=r"bad\.json: the file is no text"):
        t.read(tmp_path / "bad.json")
    with pytest.raises(BadInputError, match=r"none\.json: No such file"):
        t.read(tmp_path / "none.json")
