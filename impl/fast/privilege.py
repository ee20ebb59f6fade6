"""Who may do what to whom: Xen's dummy policy, and SILO on top of it.

Source: xen/include/xsm/dummy.h (xsm_default_action), xen/xsm/silo.c (silo_mode_dom_check) at 4.17.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from impl.fast.abi import EPERM

if TYPE_CHECKING:
    from impl.fast.domains import Domain


def dm_priv(caller: Domain, target: Domain | None) -> int:
    """XSM_DM_PRIV: the device model of the target, or a control domain. Returns 0 or -EPERM."""
    if target is not None and caller.target == target.id:
        return 0
    return 0 if caller.is_privileged else -EPERM


def target(caller: Domain, subject: Domain | None) -> int:
    """XSM_TARGET: the subject itself, its device model, or a control domain. Returns 0 or -EPERM."""
    if caller is subject:
        return 0
    return dm_priv(caller, subject)


def xs_priv(caller: Domain, subject: Domain | None) -> int:
    """XSM_XS_PRIV: the xenstore domain (there is none on Arm but dom0), else as DM_PRIV. Returns 0 or -EPERM."""
    return dm_priv(caller, subject)


def priv(caller: Domain) -> int:
    """XSM_PRIV: a control domain. Returns 0 or -EPERM."""
    return 0 if caller.is_privileged else -EPERM


def grant_pair(caller: Domain, one: Domain, other: Domain) -> int:
    """xsm_grant_mapref, xsm_grant_copy between two domains: always with the dummy policy, by SILO's rule under SILO.

    SILO: allowed if the caller or either domain is a control domain, or both are the same. Returns 0 or -EPERM.
    """
    if caller.machine.config.xsm != "silo":
        return 0
    if one is other or caller.is_privileged or one.is_privileged or other.is_privileged:
        return 0
    return -EPERM
