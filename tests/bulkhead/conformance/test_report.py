"""What a campaign on real Xen leaves."""

import json

import pytest

from bulkhead import trace
from bulkhead.conformance.__main__ import main
from bulkhead.conformance.campaign import Failure, Progress, finding_of
from bulkhead.conformance.guests import LEFT_OUT
from bulkhead.conformance.machines import Place, configuration, places
from bulkhead.conformance.report import merged, save, table, to_trace
from bulkhead.conformance.session import Disagreement
from bulkhead.oracle.projection import Difference
from impl.fast.machine import Observation
from impl.xen import replay
from impl.xen.errors import Refused
from impl.xen.kinds import KINDS

LOAD = ("load", 1, 0, 0x40000000, 8)
PLACE = Place("arm64-gicv2", 1)


def failure():
    found = finding_of([Disagreement(0, LOAD, Difference("observation", "value 0x1 by the specification, 0x2"))])
    return Failure(PLACE, (LOAD,), found, (Observation("value", value=2),))


def progress():
    made = Progress(1, ("arm64-gicv2",), stimuli=10, seconds=2.0)
    made.coverage.note([("guest_load", "done", 0)])
    made.answers_by_kind["arm64-gicv2"] = {("guest_load", "done", 0)}
    made.by_kind["arm64-gicv2"] = 10
    made.left_out["stuck"] = 3
    return made


@pytest.mark.parametrize("place", places(), ids=lambda place: place.name)
def test_configuration__of_every_machine_can_be_booted(place):
    configuration(place).check()


def test_places__of_a_machine_that_is_not_there_is_refused():
    with pytest.raises(Refused, match="no machine 'pdp11'"):
        places(("pdp11",))


def test_vector__is_a_trace_that_real_xen_takes(tmp_path):
    trace.write(to_trace(failure(), "one"), tmp_path / "one.json")
    read = trace.read(tmp_path / "one.json")
    assert [each and each.value for each in read.seen] == [2]
    assert replay.plan(read.config, read.domains).config.grant_max_version == 2


def test_results__say_what_was_left_out_and_why(tmp_path):
    save(progress(), [failure()], tmp_path)
    made = json.loads((tmp_path / "conformance.json").read_text())
    assert made["left_out"] == {"stuck": {"times": 3, "why": LEFT_OUT["stuck"]}}
    assert made["answers"][0]["machines"] == ["arm64-gicv2"]
    assert trace.read(made["failures"][0]["vector"]).stimuli == (trace.Load(1, 0, 0x40000000, 8),)


def test_table__has_a_row_for_each_step(tmp_path):
    assert "``guest_load``" in table(save(progress(), [], tmp_path))


def found(name, machine, times=1):
    return {"transition": name, "kind": "done", "code": 0, "times": times, "machines": [machine]}


def test_results__of_several_campaigns_add_up():
    left = [{"transition": name, "kind": "done", "code": 0, "reason": ""}
            for name in ("guest_store", "unmap_grant_ref")]
    one = {"seed": 1, "stimuli_by_machine": {"arm64-gicv2": 10}, "answers": [found("guest_load", "arm64-gicv2", 2)],
           "unreached": left}
    two = {"seed": 1, "stimuli_by_machine": {"armhf-virt": 5}, "unreached": left[1:],
           "answers": [found("guest_load", "armhf-virt"), found("guest_store", "armhf-virt")]}
    made = merged([one, two])
    assert (made["stimuli"], made["transitions"], made["seed"]) == (15, 2, "1")
    assert [(row["times"], row["machines"]) for row in made["answers"]] == [
        (3, ["arm64-gicv2", "armhf-virt"]), (1, ["armhf-virt"])]
    assert [row["transition"] for row in made["unreached"]] == ["unmap_grant_ref"]


@pytest.mark.parametrize(("arguments", "reason"), [
    (["--figures", __file__], "not the results of a campaign"), (["--figures", "nowhere.json"], "nowhere.json"),
    (["pdp11"], f"it is one of {', '.join(KINDS)}"), (["--seconds", "0"], "--seconds 0 is not within"),
])
def test_command__says_in_one_line_what_it_cannot_do(arguments, reason, capsys):
    assert main(arguments) == 2
    assert reason in capsys.readouterr().err
