"""What goes wrong: mistakes of whoever drives the machine, and the ways in which Xen itself stops."""

from __future__ import annotations


class BadConfig(ValueError):
    """A machine that cannot be booted: the configuration contradicts itself or the RAM is too small."""


class BadStimulus(ValueError):
    """A stimulus that no guest can give: no such domain or vCPU, a value out of range."""


class NotModelled(NotImplementedError):
    """A hypercall or operation that Xen on Arm has and this implementation leaves out."""


class XenPanic(Exception):
    """Xen reached a BUG or panic: the machine stops."""


class DomainCrash(Exception):
    """Raised through a hypercall that crashes its caller, after `Machine.crash_domain`; no result is written."""
