"""Who may do what to whom."""

import pytest

from impl.fast import privilege
from impl.fast.abi import EPERM
from tests.impl.fast.board import board, dom0, domu


@pytest.fixture
def domains():
    return board(domains=[dom0(), domu(1, target=2), domu(2)]).domains


@pytest.mark.parametrize(("caller", "subject", "rc"), [(0, 1, 0), (1, 1, 0), (1, 2, 0), (2, 1, -EPERM), (1, 0, -EPERM)])
def test_target__is_oneself_the_device_model_or_control(domains, caller, subject, rc):
    assert privilege.target(domains[caller], domains[subject]) == rc


@pytest.mark.parametrize(("caller", "subject", "rc"), [(0, 1, 0), (1, 1, -EPERM), (1, 2, 0), (2, 1, -EPERM)])
def test_dm_priv__is_not_oneself(domains, caller, subject, rc):
    assert privilege.dm_priv(domains[caller], domains[subject]) == rc


@pytest.mark.parametrize(("caller", "rc"), [(0, 0), (1, -EPERM)])
def test_nobody__needs_control(domains, caller, rc):
    checks = privilege.target, privilege.dm_priv, privilege.xs_priv
    assert [check(domains[caller], None) for check in checks] == [rc] * 3


@pytest.mark.parametrize(("xsm", "rc"), [("dummy", 0), ("silo", -EPERM)])
def test_grant_pair__between_domus_is_silos_business(xsm, rc):
    domains = board(xsm=xsm).domains
    assert privilege.grant_pair(domains[1], domains[1], domains[2]) == rc


def test_grant_pair__with_dom0_or_oneself_is_allowed():
    domains = board(xsm="silo").domains
    pairs = [(1, 1, 0), (0, 1, 2), (1, 1, 1)]
    assert [privilege.grant_pair(*(domains[d] for d in pair)) for pair in pairs] == [0, 0, 0]
