"""Who may do what to whom: XSM's dummy policy, and SILO on top of it.

Source: xen/include/xsm/dummy.h (xsm_default_action), xen/xsm/silo.c, Xen 4.17.
"""

from __future__ import annotations

from spec.language import Boolean, DomId, Index, both, either, implies, one_of
from spec.state import FIRST_RESERVED, State, Status


def is_control(s: State, caller: DomId) -> Boolean:
    """The caller is a control domain (action PRIV)."""
    return s.domain[caller].control


def may_act_on(s: State, caller: DomId, subject: DomId) -> Boolean:
    """The caller is the subject, its device model, or a control domain (action TARGET)."""
    actor = s.domain[caller]
    return either(caller == subject, both(actor.device_model, actor.target == subject), actor.control)


def may_serve(s: State, caller: DomId, subject: DomId) -> Boolean:
    """The caller is the subject's device model or a control domain (action DM_PRIV)."""
    actor = s.domain[caller]
    return either(both(actor.device_model, actor.target == subject), actor.control)


def pair_allowed(s: State, caller: DomId, peer: DomId) -> Boolean:
    """Under SILO two domains may be connected only if they are the same or one is a control domain."""
    return implies(
        s.settings[Index(0)].silo,
        either(caller == peer, s.domain[caller].control, s.domain[peer].control),
    )


def exists(s: State, domain: DomId) -> Boolean:
    """A domain of this id can be looked up: alive, dying or not yet quite gone."""
    return both(
        domain < FIRST_RESERVED,
        one_of(s.domain[domain].status, Status.ALIVE, Status.DYING, Status.DEAD),
    )


def is_alive(s: State, domain: DomId) -> Boolean:
    """The domain exists and is not marked for destruction."""
    return both(domain < FIRST_RESERVED, s.domain[domain].status == Status.ALIVE)
