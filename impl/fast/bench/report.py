"""``build/bench.json``: what is measured at different times, each part under its name."""

from __future__ import annotations

import json
import pathlib
from typing import Any


def keep(place: pathlib.Path, part: str, value: Any) -> None:
    """Put a part into the report in place of what it was; the other parts stay. value: what JSON can hold."""
    try:
        known = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    known = known if isinstance(known, dict) else {}
    place.parent.mkdir(exist_ok=True)
    place.write_text(json.dumps(known | {part: value}, indent=1) + "\n", encoding="utf-8")
