"""What the specification is written in.

One source, two readings.  A transition or a property is ordinary Python over the values
defined here.  Run on integers it is an executable model; run by the proof engine on values
that stand for *any* integer, it is a theorem to be proved.  This package is all there is to
learn:

* ``values``   identifiers, words and the connectives of properties (``both``, ``implies`` ...)
* ``records``  frozen records, and ``evolve``, which makes a changed copy
* ``tables``   total tables: reading, ``put``, ``fill`` over a range of keys, ``every``, ``count``
* ``layouts``  how a machine word is divided into fields
* ``outcomes`` what a transition answers
* ``registry`` one declaration of a transition or property serves prover, tests and documents
"""

from spec.language.layouts import (
    Layout,
    decode,
    encode,
    environment_word,
    field,
    flag,
    layout,
    volatile,
)
from spec.language.outcomes import (
    Kind,
    Outcome,
    accept,
    crash,
    legal,
    partial,
    refuse,
    restart,
    stuck,
)
from spec.language.records import columns, evolve, record
from spec.language.registry import (
    DEVIATIONS,
    PROPERTIES,
    TRANSITIONS,
    Deviation,
    Property,
    Transition,
    corollary,
    invariant,
    transition,
    two_state,
)
from spec.language.tables import ALL, Span, Table, count, every, fill, put, span, table
from spec.language.values import (
    U8,
    U16,
    U32,
    U64,
    Boolean,
    DomId,
    Gfn,
    GrantRef,
    Handle,
    Index,
    Mfn,
    SpecificationError,
    Symbolic,
    VcpuId,
    Word,
    bits_of,
    both,
    either,
    implies,
    ite,
    merged,
    neg,
    one_of,
    two_to,
    within,
)

__all__ = [
    "ALL",
    "DEVIATIONS",
    "PROPERTIES",
    "TRANSITIONS",
    "U8",
    "U16",
    "U32",
    "U64",
    "Boolean",
    "Deviation",
    "DomId",
    "Gfn",
    "GrantRef",
    "Handle",
    "Index",
    "Kind",
    "Layout",
    "Mfn",
    "Outcome",
    "Property",
    "Span",
    "SpecificationError",
    "Symbolic",
    "Table",
    "Transition",
    "VcpuId",
    "Word",
    "accept",
    "bits_of",
    "both",
    "columns",
    "corollary",
    "count",
    "crash",
    "decode",
    "either",
    "encode",
    "environment_word",
    "every",
    "evolve",
    "field",
    "fill",
    "flag",
    "implies",
    "invariant",
    "ite",
    "layout",
    "legal",
    "merged",
    "neg",
    "one_of",
    "partial",
    "put",
    "record",
    "refuse",
    "restart",
    "span",
    "stuck",
    "table",
    "transition",
    "two_state",
    "two_to",
    "volatile",
    "within",
]
