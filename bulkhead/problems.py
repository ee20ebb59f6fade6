"""Bad input: one clear line and exit code 2, never a traceback."""

from __future__ import annotations

HOLDS, FAILS, BAD_INPUT = 0, 1, 2


class BadInputError(Exception):
    """What the user gave cannot be used; the message is one line that says why."""
