"""What can go wrong with real Xen, each told in one line."""

from __future__ import annotations


class XenError(Exception):
    """Anything below."""


class NotSetUp(XenError):
    """QEMU, Xen's binaries or the payload are not there; the message says what to run."""


class Refused(XenError):
    """What was asked cannot be driven on real Xen; the message says why."""


class BootFailed(XenError):
    """The machine did not come up; the message ends with the last lines of the console."""


class QemuError(XenError):
    """QEMU did not answer as it should."""
