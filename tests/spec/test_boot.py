"""The machine when it has booted, and what its proof notices."""

from __future__ import annotations

from typing import Any

import pytest

from proofs.booting import ALLOTMENT, Booting, within_allotment
from proofs.engine.obligations import PROVED
from spec.boot import BUILDER, Configuration, boot, dom0, dom0less
from spec.domain.privilege import exists
from spec.language import DomId, evolve
from spec.language.values import SpecificationError
from spec.state import P2mType, State, Status
from tests.mutants.historical import HISTORICAL
from tests.mutants.kill import PROOF, kill
from tests.spec.machine import broken

CONFIGURATIONS = [
    made(arm32=arm32, silo=arm32, iommu=iommu)
    for made in (dom0, dom0less) for arm32 in (False, True) for iommu in (False, True)
]


@pytest.fixture(scope="module")
def started() -> State:
    """A machine that has booted with dom0 and two more domains."""
    return boot(dom0less())


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_boot__satisfies_every_invariant(configuration: Configuration) -> None:
    assert [] == broken(boot(configuration))


def test_boot__starts_the_domains_of_the_configuration(started: State) -> None:
    assert {0: Status.ALIVE, 1: Status.ALIVE, 2: Status.ALIVE} == {
        domain: row.status for domain, row in started.domain.items()
    }


def test_boot__leaves_no_builder_behind(started: State) -> None:
    assert not exists(started, BUILDER)


def test_boot__lets_no_domain_have_more_than_its_allotment(started: State) -> None:
    assert [(8, 8), (6, 6), (4, 4)] == [
        (started.domain[DomId(each)].max_pages, started.domain[DomId(each)].tot_pages) for each in range(3)
    ]


def test_boot__maps_dom0_one_to_one(started: State) -> None:
    assert all(row.mfn == gfn for (domain, gfn), row in started.p2m.items() if domain == 0)


def test_boot__maps_devices_only_where_they_are_permitted(started: State) -> None:
    mapped = {(domain, row.mfn) for (domain, _), row in started.p2m.items() if row.type == P2mType.MMIO_DIRECT_DEV}
    assert mapped == {key for key, row in started.iomem.items() if row.allowed}


def test_boot__refuses_a_configuration_that_xen_would_not_start() -> None:
    made = dom0less()
    with pytest.raises(SpecificationError):
        boot(evolve(made, plans=(evolve(made.plans[1], grant_frames=1000),)))


def test_allotment__is_not_met_by_a_domain_without_a_limit(started: State) -> None:
    rows: Any = started.domain
    free = evolve(started, domain=rows.put(DomId(1), {"max_pages": (1 << 32) - 1}))
    assert (True, False) == (within_allotment(dom0less(), started), within_allotment(dom0less(), free))


def test_boot_proof__holds_of_one_state() -> None:
    assert {PROVED} == {line.verdict for line in Booting(only=lambda name: name == "dom0-arm32").run()}


def test_boot_proof__notices_domains_without_a_limit() -> None:
    verdict = kill(next(each for each in HISTORICAL if each.id == "XSA-383-boot"))
    assert (PROOF, ALLOTMENT) == (verdict.killed_by, verdict.property)


