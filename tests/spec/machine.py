"""A small concrete machine for tests: three domains with memory and grant tables, and free frames.

Start with ``machine()`` and change what the test is about::

    s = machine()
    s = grant_v1(s, GRANTER, 9, MAPPER, gfn=PAGE)
    outcome = map_grant_ref(s, MAPPER, GRANTER, ...)

Each domain has ``PAGES`` pages of RAM at guest frames ``PAGE`` and up; ``frame_of(domain, gfn)`` is where.
``broken(s)`` names the invariants that do not hold, ``broken_between(s, t, actor)`` the two-state properties.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from typing import Any

import spec
from spec.grant.entries import (
    PERMIT_ACCESS,
    TRANSITIVE,
    EntryV1,
    FrameV2,
    HeadV2,
    TransitiveV2,
    place_v1,
    place_v2,
)
from spec.language import (
    PROPERTIES,
    U64,
    DomId,
    Gfn,
    GrantRef,
    Handle,
    Index,
    Mfn,
    Outcome,
    VcpuId,
    Word,
    encode,
    fill,
    put,
    span,
)
from spec.language.tables import empty
from spec.state import P2mType, State, Status, Use

DOM0, GRANTER, MAPPER, OTHER = DomId(0), DomId(1), DomId(2), DomId(3)
"""The control and hardware domain, and three ordinary ones."""
UNKNOWN = DomId(99)
"""No such domain."""
PAGE = Gfn(0x400)
"""The first guest frame of RAM of each domain."""
PAGES = 8
"""Pages of RAM of each domain."""
POOL = 32
"""Pages in the p2m pool of each domain, four of them in use."""
HOLE = Gfn(0x800)
"""A guest frame at which nothing is mapped, and so are the next 255."""
FREE = Mfn(0x5000)
"""The first of 64 free frames."""
XEN = Mfn(0x10)
"""A frame of Xen's heap."""
ADDRESS = 0x1000
"""Bytes of a page, to make an address of a frame number."""
LOWEST_NONE = Gfn((1 << 64) - 1)


def frame_of(domain: DomId, gfn: Gfn = PAGE) -> Mfn:
    """The machine frame behind a page of RAM of a domain of ``machine``."""
    return Mfn(0x1000 * (domain + 1) + gfn - PAGE)


def grant_frame_of(domain: DomId, number: int = 0) -> Mfn:
    """The machine frame that holds a page of a domain's grant table in ``machine``."""
    return Mfn(0x100 + 0x10 * domain + number)


def status_frame_of(domain: DomId, number: int = 0) -> Mfn:
    """The machine frame that holds a page of a domain's status words in ``machine``."""
    return Mfn(0x200 + 0x10 * domain + number)


def shared_info_of(domain: DomId) -> Mfn:
    """The machine frame that holds the shared information of a domain in ``machine``."""
    return Mfn(0x80 + domain)


def pool_frame_of(domain: DomId, number: int = 0) -> Mfn:
    """The machine frame that is a page of a domain's p2m pool in ``machine``."""
    return Mfn(0x6000 + 0x100 * domain + number)


def fields(view: type, **values: Any) -> Any:
    """What a word looks like through a layout, with all fields but these at 0."""
    return view(**values)


def machine(domains: Iterable[DomId] = (DOM0, GRANTER, MAPPER, OTHER), *, version: int = 1, **settings: Any) -> State:
    """The machine; ``version`` is that of every grant table, ``settings`` replace what stands here."""
    s = empty(State)
    s = put(
        s, "settings", Index(0),
        **{
            "reference_limit": 1 << 54, "root_pages": 1 << 28, "max_page": Mfn(0x10000),
            "physical_pages": 1 << 28, "max_grant_version": 2, "grant_frames_limit": 64,
            "maptrack_frames_limit": 1024, "dom0_max_grant_frames": 16, **settings,
        },
    )
    s = put(s, "frame", XEN, use=Use.XEN)
    s = fill(s, "frame", span(FREE, 64), lambda _row, _mfn: {"use": Use.FREE})
    s = put(s, "heap", Index(0), free=64)
    for domain in domains:
        s = with_domain(s, domain, version=version)
    return s


def with_domain(s: State, domain: DomId, *, version: int = 1, **fields: Any) -> State:
    """The state with a domain that runs, has ``PAGES`` pages, a grant frame and a maptrack frame."""
    s = put(
        s, "domain", domain,
        **{
            "status": Status.ALIVE, "created": True, "control": domain == DOM0, "hardware": domain == DOM0,
            "tot_pages": 0, "xenheap_pages": 0, "max_pages": 64, "lowest_gfn": LOWEST_NONE,
            "pool_pages": POOL, "pool_free": POOL - 4,
            "grant_version": version, "max_grant_version": 2, "max_grant_frames": 4,
            "maptrack_frames": 1, "max_maptrack_frames": 2, **fields,
        },
    )
    first = pool_frame_of(domain)
    pool = span(first, s.domain[domain].pool_pages)
    s = fill(s, "frame", pool, lambda _row, _mfn: {"use": Use.TABLE, "pool": domain})
    s = put(shared_frame(s, domain, shared_info_of(domain)), "domain", domain, shared_info=shared_info_of(domain))
    for number in range(PAGES):
        s = with_page(s, domain, Gfn(PAGE + number), Mfn(frame_of(domain) + number))
    s = with_grant_frame(s, domain, 0)
    return with_status_frame(s, domain, 0) if version == 2 else s


def with_page(s: State, domain: DomId, gfn: Gfn, mfn: Mfn, kind: P2mType = P2mType.RAM_RW) -> State:
    """The state with one page more of RAM of a domain."""
    s = put(s, "frame", mfn, use=Use.DOMAIN, owner=domain, allocated=True, references=1, gfn=gfn)
    s = put(s, "domain", domain, tot_pages=s.domain[domain].tot_pages + 1)
    return with_row(s, domain, gfn, mfn, kind)


def with_row(s: State, domain: DomId, gfn: Gfn, mfn: Mfn, kind: P2mType, **fields: Any) -> State:
    """The state with one stage-2 row; a foreign mapping takes its reference."""
    row = s.domain[domain]
    s = put(s, "domain", domain, lowest_gfn=min(gfn, row.lowest_gfn), highest_gfn=max(gfn, row.highest_gfn))
    if kind in (P2mType.MAP_FOREIGN_RW, P2mType.MAP_FOREIGN_RO):
        s = put(s, "frame", mfn, references=s.frame[mfn].references + 1)
    return put(s, "p2m", (domain, gfn), type=kind, mfn=mfn, hardware=True, **fields)


def shared_frame(s: State, domain: DomId, mfn: Mfn) -> State:
    """The state with one frame of Xen's heap shared with a domain."""
    s = put(s, "domain", domain, xenheap_pages=s.domain[domain].xenheap_pages + 1)
    return put(s, "frame", mfn, use=Use.SHARED, owner=domain, allocated=True, references=1)


def with_grant_frame(s: State, domain: DomId, number: int) -> State:
    """The state with one grant frame more; ``number`` must be the next."""
    mfn = grant_frame_of(domain, number)
    s = put(shared_frame(s, domain, mfn), "grant_frame", (domain, number), present=True, mfn=mfn)
    return put(s, "domain", domain, grant_frames=number + 1)


def with_status_frame(s: State, domain: DomId, number: int) -> State:
    """The state with one status frame more; ``number`` must be the next."""
    mfn = status_frame_of(domain, number)
    s = put(shared_frame(s, domain, mfn), "status_frame", (domain, number), present=True, mfn=mfn)
    return put(s, "domain", domain, status_frames=number + 1)


def mapped_shared_frame(s: State, domain: DomId, gfn: Gfn, mfn: Mfn) -> State:
    """The state in which a domain has mapped a frame that Xen shares with it."""
    s = put(s, "frame", mfn, mapped=True, gfn=gfn)
    return with_row(s, domain, gfn, mfn, P2mType.RAM_RW)


def store(s: State, mfn: Mfn, index: int, raw: int) -> State:
    """The state with one word of memory replaced."""
    return put(s, "word", (mfn, Index(index)), raw=Word(raw))


def grant_v1(s: State, granter: DomId, ref: int, user: DomId, gfn: Gfn = PAGE, **fields: Any) -> State:
    """The state in which a version 1 entry permits access; ``fields`` replace those of the entry."""
    entry = EntryV1(**{"type": PERMIT_ACCESS, "domid": user, "frame": gfn, **fields})
    mfn, index = place_v1(s, granter, GrantRef(ref))
    return store(s, mfn, index, encode(entry))


def grant_v2(s: State, granter: DomId, ref: int, user: DomId, gfn: Gfn = PAGE, **fields: Any) -> State:
    """The state in which a version 2 entry permits access; ``fields`` replace those of its first word."""
    entry = HeadV2(**{"type": PERMIT_ACCESS, "domid": user, **fields})
    mfn, index = place_v2(s, granter, GrantRef(ref))
    return store(store(s, mfn, index, encode(entry)), mfn, index + 1, encode(FrameV2(frame=gfn)))


def transitive(s: State, granter: DomId, ref: int, user: DomId, behind: DomId, behind_ref: int, **fields: Any) -> State:
    """The state in which a version 2 entry passes on a grant of the domain ``behind``."""
    entry = HeadV2(**{"type": TRANSITIVE, "domid": user, "start": behind, **fields})
    mfn, index = place_v2(s, granter, GrantRef(ref))
    return store(store(s, mfn, index, encode(entry)), mfn, index + 1, encode(TransitiveV2(ref=GrantRef(behind_ref))))


def mapped_grant(
    s: State, granter: DomId, ref: int, mapper: DomId, handle: int, gfn: Gfn, *, readonly: bool = False
) -> State:
    """The state after a grant was mapped at a guest frame, by the transition itself."""
    from spec.grant.map import map_grant_ref

    outcome = map_grant_ref(
        s, mapper, granter, GrantRef(ref), U64(gfn * ADDRESS), Word(6 if readonly else 2), Handle(handle),
        space_left=True, tables_left=True, vcpu=VcpuId(0),
    )
    assert outcome.code == 0, outcome
    return outcome.state


# ---- properties on integers


def load() -> None:
    """Import the whole specification, so that every property is known."""
    for each in pkgutil.walk_packages(spec.__path__, "spec."):
        importlib.import_module(each.name)


def _keys(table: Any) -> list[tuple[Any, ...]]:
    written = table.keys()
    return [key if isinstance(key, tuple) else (key,) for key in written]


def broken(s: State) -> list[str]:
    """Which invariants do not hold of which row of the state, in words: empty if all is well."""
    load()
    found = []
    for each in PROPERTIES.values():
        if each.two_state or each.theory != "machine":
            continue
        for key in _keys(getattr(s, each.table)):
            if each.function(s, *key) is not True:
                found.append(f"{each.id} of {each.table}{list(key)}")
    return found


def broken_between(old: State, new: State, actor: DomId) -> list[str]:
    """Which two-state properties do not hold between two states, in words: empty if all is well."""
    load()
    found = []
    for each in PROPERTIES.values():
        if not each.two_state or each.of_repaired or each.theory != "machine":
            continue
        keys = dict.fromkeys([*_keys(getattr(old, each.table)), *_keys(getattr(new, each.table))])
        for key in keys:
            if each.function(old, new, actor, *key) is not True:
                found.append(f"{each.id} of {each.table}{list(key)}")
    return found


def sound(outcome: Outcome[State], before: State, actor: DomId) -> Outcome[State]:
    """The outcome, after a check that every property holds of it."""
    assert broken(outcome.state) == []
    assert broken_between(before, outcome.state, actor) == []
    return outcome

