"""A machine small enough to check the engine itself: pages, owners, mappings; ranges and counts."""

from __future__ import annotations

from typing import Any

from proofs.engine.obligations import Theory
from spec.language import (
    DomId,
    Gfn,
    Mfn,
    Outcome,
    Property,
    Table,
    Transition,
    accept,
    both,
    count,
    either,
    every,
    fill,
    implies,
    legal,
    neg,
    put,
    record,
    refuse,
    span,
    table,
)
from spec.language.tables import schemas

NOBODY = DomId(0x7FFF)


@record
class Owner:
    """A domain."""

    alive: bool = False
    pages: int = 0
    limit: int = 0


@record
class Page:
    """A frame."""

    owner: DomId = NOBODY
    references: int = 0


@record
class Entry:
    """A mapping."""

    valid: bool = False
    mfn: Mfn = Mfn(0)


@record
class Pending:
    """A reference to be dropped."""

    held: bool = False
    mfn: Mfn = Mfn(0)


@record
class Toy:
    """The toy machine."""

    domain: Table[DomId, Owner] = table(Owner, DomId)
    frame: Table[Mfn, Page] = table(Page, Mfn)
    p2m: Table[tuple[DomId, Gfn], Entry] = table(Entry, DomId, Gfn)
    pending: Table[tuple[DomId, Gfn], Pending] = table(Pending, DomId, Gfn)


def is_owned_by(row: Page, mfn: Mfn, owner: DomId) -> bool:
    """Counted in the owner's pages."""
    return both(row.owner == owner, owner != NOBODY)


def maps(row: Entry, domain: DomId, gfn: Gfn, mfn: Mfn) -> bool:
    """A live mapping of a frame."""
    return both(row.valid, row.mfn == mfn)


def holds(row: Pending, domain: DomId, gfn: Gfn, mfn: Mfn) -> bool:
    """A reference still to be dropped."""
    return both(row.held, row.mfn == mfn)


def populate(s: Toy, caller: DomId, mfn: Mfn, pages: int) -> Outcome[Toy]:
    """Take a block of free frames."""
    d = s.domain[caller]
    if not d.alive or caller == NOBODY:
        return refuse(s, -1)
    if d.pages + pages > d.limit:
        return refuse(s, -2)
    legal(every(s.frame, span(mfn, pages), lambda row, m: both(row.owner == NOBODY, row.references == 0)), "free")
    legal(mfn + pages < 1 << 50, "in range")
    s = fill(s, "frame", span(mfn, pages), lambda row, m: {"owner": caller})
    return accept(put(s, "domain", caller, pages=d.pages + pages))


def map_page(s: Toy, caller: DomId, gfn: Gfn, mfn: Mfn) -> Outcome[Toy]:
    """Map an own frame."""
    if s.p2m[caller, gfn].valid:
        return refuse(s, -1)
    f = s.frame[mfn]
    if f.owner != caller or not s.domain[caller].alive or caller == NOBODY:
        return refuse(s, -2)
    s = put(s, "frame", mfn, references=f.references + 1)
    return accept(put(s, "p2m", (caller, gfn), valid=True, mfn=mfn))


def clear_range(s: Toy, caller: DomId, gfn: Gfn, pages: int) -> Outcome[Toy]:
    """Unmap a range; the references wait."""
    if not every(s.pending, (caller, span(gfn, pages)), lambda row, d, g: neg(row.held)):
        return refuse(s, -1)
    old = s
    s = fill(s, "pending", (caller, span(gfn, pages)),
             lambda row, d, g: {"held": old.p2m[d, g].valid, "mfn": old.p2m[d, g].mfn})
    return accept(fill(s, "p2m", (caller, span(gfn, pages)), lambda row, d, g: {"valid": False}))


def drop(s: Toy, caller: DomId, gfn: Gfn) -> Outcome[Toy]:
    """Drop one waiting reference."""
    p = s.pending[caller, gfn]
    if not p.held:
        return refuse(s, -1)
    s = put(s, "frame", p.mfn, references=s.frame[p.mfn].references - 1)
    return accept(put(s, "pending", (caller, gfn), held=False))


def release(s: Toy, caller: DomId, mfn: Mfn) -> Outcome[Toy]:
    """Give a frame back that nobody maps."""
    f = s.frame[mfn]
    if f.owner != caller or caller == NOBODY:
        return refuse(s, -1)
    if f.references != 0:
        return refuse(s, -2)
    s = put(s, "domain", caller, pages=s.domain[caller].pages - 1)
    return accept(put(s, "frame", mfn, owner=NOBODY))


def references(s: Toy, m: Mfn) -> bool:
    """A frame has as many references as mappings and waiting drops."""
    return s.frame[m].references == count(s.p2m, maps, m) + count(s.pending, holds, m)


def pages(s: Toy, d: DomId) -> bool:
    """A domain's page count is the number of its frames."""
    return s.domain[d].pages == count(s.frame, is_owned_by, d)


def mapped_is_owned(s: Toy, d: DomId, g: Gfn) -> bool:
    """What is mapped belongs to the domain."""
    e = s.p2m[d, g]
    return implies(e.valid, both(s.frame[e.mfn].owner == d, d != NOBODY))


def within_limit(s: Toy, d: DomId) -> bool:
    """No domain has more pages than it may."""
    return either(s.domain[d].pages <= s.domain[d].limit, neg(s.domain[d].alive))


def only_own(old: Toy, new: Toy, actor: DomId, d: DomId, g: Gfn) -> bool:
    """Mappings change only on behalf of their domain."""
    return either(d == actor, old.p2m[d, g].valid == new.p2m[d, g].valid)


def theory(*functions: Any, properties: tuple[object, ...] = ()) -> Theory:
    """The toy with its transitions, or with some of them replaced."""
    chosen: dict[str, Any] = {f.__name__: f for f in (populate, map_page, clear_range, drop, release)}
    chosen.update({f.__name__: f for f in functions})
    hints = {"populate": {"caller": "DomId", "mfn": "Mfn", "pages": "int"},
             "map_page": {"caller": "DomId", "gfn": "Gfn", "mfn": "Mfn"},
             "clear_range": {"caller": "DomId", "gfn": "Gfn", "pages": "int"},
             "drop": {"caller": "DomId", "gfn": "Gfn"},
             "release": {"caller": "DomId", "mfn": "Mfn"}}
    transitions = {n: Transition(n, f, parameters=hints[n]) for n, f in chosen.items()}
    invariants: tuple[Any, ...] = (references, pages, mapped_is_owned, within_limit)
    tables = ("frame", "domain", "p2m", "domain")
    found = {f.__name__: Property(f.__name__, f, t, two_state=False, fulfils=())
             for f, t in zip(invariants, tables, strict=True)}
    found["only_own"] = Property("only_own", only_own, "p2m", two_state=True, fulfils=())
    return Theory(Toy, schemas(Toy), transitions, found)
