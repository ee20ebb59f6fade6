"""How the documentation is built: `make docs`."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

from bulkhead import __version__ as release  # noqa: E402

project = "Bulkhead"
author = "The Bulkhead maintainers"
copyright = "The Bulkhead maintainers"
html_title = f"Bulkhead {release}"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["bulkhead.css"]

extensions = ["sphinx_needs", "bulkhead_spec"]
exclude_patterns = ["findings", "decisions/template.rst"]
nitpicky = True
highlight_language = "python3"

# ---- traceability: requirement <- property, requirement <- step

needs_id_regex = "^[A-Za-z][A-Za-z0-9_-]+$"
needs_id_required = True
needs_build_json = True
needs_reproducible_json = True
needs_types = [
    {"directive": "req", "title": "Requirement", "prefix": "SR-", "color": "#BFD8D2", "style": "node"},
    {"directive": "prop", "title": "Property", "prefix": "", "color": "#FEDCD2", "style": "node"},
    {"directive": "step", "title": "Step", "prefix": "", "color": "#DCB239", "style": "node"},
]
needs_fields = {
    # defined: at least one property must fulfil it; planned: not wholly covered yet, and the reason says why
    "status": {"schema": {"type": "string", "enum": ["defined", "planned"]}},
    "verification": {"description": "how the requirement is shown to be met", "schema": {"type": "string"}},
    "reason": {"description": "what a planned requirement still lacks", "schema": {"type": "string"}},
    "hypercall": {"description": "how a guest asks for the step", "schema": {"type": "string"}},
    "kind": {"description": "of every state, of two states, or a corollary", "schema": {"type": "string"}},
    "table": {"description": "the table whose rows the property speaks of", "schema": {"type": "string"}},
    "catches": {"description": "known flaws that the property catches", "schema": {"type": "string"}},
}
needs_links = {
    "fulfils": {"outgoing": "fulfils", "incoming": "is fulfilled by"},
    "affects": {"outgoing": "writes what is guarded for", "incoming": "steps that write what it guards"},
}
