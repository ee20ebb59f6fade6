"""A long history that differs becomes a short one; each try would be a boot of real Xen."""

from bulkhead.conformance import campaign
from bulkhead.conformance.campaign import Failure, shrunk
from bulkhead.conformance.machines import Place
from bulkhead.fuzz.world import Finding

CAUSE, EFFECT = ("store", 1, 0, 0x1000, 8, 7), ("load", 1, 0, 0x1000, 8)
OTHER = ("load", 2, 0, 0x2000, 8)
PLACE = Place("arm64-gicv2")


def found(history, signature="it differs"):
    return Failure(PLACE, tuple(history), Finding(signature, "it differs"))


def test_shrunk__keeps_what_the_difference_needs(monkeypatch):
    def run(_place, given, _installation):
        history = list(given)
        if CAUSE in history and EFFECT in history[history.index(CAUSE):]:
            length = history.index(EFFECT, history.index(CAUSE)) + 1
            return found(history[:length]), length
        return None

    monkeypatch.setattr(campaign, "run_history", run)
    failure = found([OTHER] * 20 + [CAUSE] + [OTHER] * 20 + [EFFECT] + [OTHER] * 3)
    made = shrunk(failure, seconds=5)
    assert (made.history, made.shrunk) == ((CAUSE, EFFECT), True)


def test_shrunk__of_what_does_not_come_again_is_left_as_it_was(monkeypatch):
    monkeypatch.setattr(campaign, "run_history", lambda *_: None)
    failure = found([OTHER, CAUSE, EFFECT])
    assert shrunk(failure, seconds=5) == failure
