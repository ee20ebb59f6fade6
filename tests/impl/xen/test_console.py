"""What the console of a machine says of its end."""

import pytest

from impl.xen.machine import _CRASH, _stopped

PANIC = """(XEN) ****************************************
(XEN) Panic on CPU 0:
(XEN) Could not set up DOM0 guest OS
(XEN) ****************************************
"""


@pytest.mark.parametrize(("text", "reason"), [
    (PANIC, "Could not set up DOM0 guest OS"),
    ("(XEN) Xen BUG at arch/arm/traps.c:1038\n" + PANIC, "Xen BUG at arch/arm/traps.c:1038"),
    ("(XEN) Hardware Dom0 crashed: rebooting machine in 5 seconds.\n",
     "Hardware Dom0 crashed: rebooting machine in 5 seconds."),
    ("(XEN) Assertion 'x' failed at mm.c:1\n", "Assertion 'x' failed at mm.c:1"),
    ("(XEN) Freed 352kB init memory.\n", ""), ("", ""),
])
def test_stop__is_told_in_xens_words(text, reason):
    assert _stopped(text) == reason


def test_crash__names_the_domain():
    found = _CRASH.search("(XEN) Domain 3 (vcpu#1) crashed on cpu#0:\n")
    assert found is not None
    assert found.group(1) == "3"
