"""From a trace to a machine with real Xen, or to a reason why not."""

import pytest

from bulkhead.trace import (
    Configuration,
    Domain,
    Fetch,
    Hypercall,
    Load,
    Preempt,
    SetWay,
    Store,
    Time,
    ToggleCache,
)
from impl.xen.errors import Refused
from impl.xen.machine import Stimulus
from impl.xen.replay import plan, run, stimulus

DOM0 = Domain(0, 2048, privileged=True, is_hardware=True, direct_map=True)


@pytest.mark.parametrize(("configuration", "board", "kind"), [
    (Configuration(pa_bits=44), "", "arm64-gicv2"), (Configuration(gic_version=3), "", "arm64-gicv3"),
    (Configuration(arch="arm32"), "", "armhf-virt"), (Configuration(arch="arm32"), "vexpress-a15", "vexpress-a15"),
])
def test_plan__finds_the_machine_that_suits(configuration, board, kind):
    assert plan(configuration, [DOM0], board).config.kind == kind


def test_plan__keeps_what_the_trace_says():
    config = plan(Configuration(xsm="silo", grant_max_version=2, pa_bits=40), [
        DOM0, Domain(1, 4096, vcpus=2, p2m_pool_pages=None), Domain(2, 600, max_pages=700, width=32)]).config
    assert (config.xsm, config.grant_max_version, config.pa_bits, config.dom0_pages) == ("silo", 2, 40, 2048)
    assert [(guest.pages, guest.vcpus, guest.width, guest.max_pages, guest.pool_pages) for guest in config.guests] == [
        (4096, 2, None, None, None), (600, 1, 32, 700, 32)]


def test_plan__tells_what_is_not_as_in_the_trace():
    small = Domain(0, 512, privileged=True, is_hardware=True, direct_map=True)
    told = plan(Configuration(pa_bits=42), [small]).differences
    assert any("2048 pages, not 512" in text for text in told)
    assert any("44 bits, not 42" in text for text in told)


@pytest.mark.parametrize(("configuration", "domains", "why"), [
    (Configuration(iommu=True), [DOM0], "IOMMU"), (Configuration(vpmu=True), [DOM0], "performance"),
    (Configuration(arch="arm32", gic_version=3), [DOM0], "GICv3"),
    (Configuration(), [DOM0, Domain(2, 4096)], "numbers"),
    (Configuration(), [Domain(0, 2048)], "control and hardware"),
    (Configuration(), [DOM0, Domain(1, 4096, base_gfn=0x80000)], "0x40000"),
    (Configuration(), [DOM0, Domain(1, 4096, target=0)], "target"),
    (Configuration(), [DOM0, Domain(1, 4096, privileged=True)], "domain 0 only"),
    (Configuration(), [DOM0, Domain(1, 4096, max_grant_frames=3)], "limits of grants"),
    (Configuration(), [DOM0, Domain(1, 64)], "payload alone"), (Configuration(), [], "no domain"),
])
def test_plan__refuses_what_xen_cannot_be(configuration, domains, why):
    with pytest.raises(Refused, match=why):
        plan(configuration, domains)


def test_plan__refuses_a_kind_of_the_other_width():
    with pytest.raises(Refused, match="is not"):
        plan(Configuration(), [DOM0], kind="armhf-virt")


@pytest.mark.parametrize(("given", "taken"), [
    (Load(1, 0, 0x1000, 4), Stimulus("load", 1, 0, 0x1000, 4)),
    (Store(1, 1, 8, 8, 9), Stimulus("store", 1, 1, 8, 8, 9)),
    (Fetch(2, 0, 4), Stimulus("fetch", 2, 0, 4, 4)), (SetWay(1, 0), Stimulus("set_way", 1)),
    (Hypercall(1, 0, {16: 12}), Stimulus("hypercall", 1, registers=((16, 12),))),
    (ToggleCache(1, 0, True), Stimulus("toggle_cache", 1, enabled=True)), (Time(5), None),
])
def test_stimulus__is_that_of_the_trace(given, taken):
    assert stimulus(given) == taken


def test_stimulus__that_only_an_emulation_can_time_is_refused():
    with pytest.raises(Refused, match="cannot be timed"):
        stimulus(Preempt(1))


def test_run__refuses_before_anything_is_booted():
    with pytest.raises(Refused, match=r"stimuli\[1\]"):
        run(plan(Configuration(), [DOM0]), [Time(1), Preempt(1)])
