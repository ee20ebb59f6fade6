"""Why a device tree is no board: one clear line, whatever the tree says."""

from __future__ import annotations

_LONGEST = 300


def printable(text: str, longest: int = _LONGEST) -> str:
    """Text of unknown origin as one line without control characters, at most `longest` characters.

    A device tree is untrusted: its strings must not move a terminal's cursor or fill a log.
    """
    clean = "".join(sign if sign.isprintable() else "?" for sign in text[:longest + 1])
    return clean if len(clean) <= longest else clean[:longest - 3] + "..."


class BadBoard(ValueError):
    """The device tree does not describe a board that can be emulated; the message is one line that says why."""

    def __init__(self, reason: str) -> None:
        self.reason = printable(reason)
        super().__init__(self.reason)


class RefusedByXen(BadBoard):
    """The device tree is well-formed, and Xen 4.17 would stop at it.

    reason: what is wrong; source: the Xen file and function that stops.
    """

    def __init__(self, reason: str, source: str) -> None:
        self.source = source
        super().__init__(f"Xen refuses: {reason} ({source})")
