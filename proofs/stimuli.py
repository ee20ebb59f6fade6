"""Arguments worth trying on a concrete state: values that occur in it, and the edges of each type.

For random walks and for comparing the two readings; nothing here enters a proof.
"""

from __future__ import annotations

import random
from typing import Any

from spec.domain.lifecycle import CreateFlags
from spec.grant.entries import EntryV1, FrameV2, HeadV2, TransitiveV2
from spec.language import Gfn, GrantRef, Index, Transition, Word, decode, encode, evolve
from spec.language.values import RANGES
from spec.memory.tables import Use as TableUse
from spec.state import DOMID_SELF, NOBODY, State, Use

ADDRESS = 4096
"""Bytes of a page."""
ORDERS = (0, 0, 0, 0, 1, 2, 9, 10, 11, 18, 19)
SMALL = (0, 0, 0, 1, 1, 2, 3)
PAGES_APART = 0x800
"""Where guest frames begin at which nothing is mapped at boot."""


def _one_of(rng: random.Random, values: tuple[int, ...]) -> int:
    return rng.choice(values)


class Stimuli:
    """Arguments for the steps of the machine."""

    def __init__(self, state: State, rng: random.Random) -> None:
        self.rng = rng
        settings = state.settings[0]  # type: ignore[index]
        self.domains = [int(each) for each, _ in state.domain.items()]
        self.frames = [int(each) for each in state.frame.keys()]  # noqa: SIM118
        self.devices = sorted({int(mfn) for _, mfn in state.iomem.keys()})  # noqa: SIM118
        mapped = sorted({int(gfn) for _, gfn in state.p2m.keys()})  # noqa: SIM118
        holes = [PAGES_APART + i for i in range(4)]
        edges = [0, settings.root_pages - 1, settings.root_pages, (1 << 32) - 1, (1 << 36), (1 << 64) - 1]
        # where a device reaches a page of another domain that is mapped one to one
        self.direct = sorted({int(row.mfn) for _, row in state.p2m.items()})
        self.gfns, self.edges = [*mapped, *holes, *holes], edges
        self.spare = max(self.domains, default=0) + 1

    def arguments(self, state: State, transition: Transition, fixed: dict[str, Any] | None = None) -> dict[str, Any]:
        """One choice for each parameter but those that are fixed; earlier choices guide later ones."""
        found: dict[str, Any] = {name: value for name, value in (fixed or {}).items() if name in transition.parameters}
        for name, hint in transition.parameters.items():
            if name not in found:
                found[name] = self._one(state, transition.name, name, hint, found)
        return found

    def _one(self, s: State, transition: str, name: str, hint: str, known: dict[str, Any]) -> Any:
        chosen = getattr(self, f"_{name}", None)
        if chosen is not None:
            return chosen(s, transition, known)
        by_type = getattr(self, f"_any_{hint}", None)
        if by_type is not None:
            return by_type(s, known)
        low, high = RANGES[hint]
        return self.rng.choice((low, low, 1, 2, self.rng.randrange(64), high if high is not None else 3))

    def _often(self, value: int, other: int, chance: float = 0.85) -> int:
        return value if self.rng.random() < chance else other

    # -- by type

    def _any_bool(self, _s: State, _known: dict[str, Any]) -> bool:
        return self.rng.random() < 0.6

    def _any_DomId(self, _s: State, _known: dict[str, Any]) -> int:
        roll = self.rng.random()
        if roll < 0.8:
            return self.rng.choice(self.domains)
        return int(self.rng.choice((self.spare, self.spare, self.spare + 1, DOMID_SELF, NOBODY)))

    def _any_VcpuId(self, _s: State, _known: dict[str, Any]) -> int:
        return int(self._often(0, 1))

    def _any_Gfn(self, s: State, known: dict[str, Any]) -> int:
        owner = known.get("domain", known.get("caller"))
        if owner is not None and self.rng.random() < 0.5:
            for _ in range(8):
                gfn = self.rng.choice(self.gfns)
                if s.p2m[owner, gfn].type:  # type: ignore[index]
                    return gfn
        roll = self.rng.random()
        return self.rng.choice(self.gfns if roll < 0.9 else self.edges if roll < 0.95 else self.direct)

    def _any_Mfn(self, s: State, known: dict[str, Any]) -> int:
        wanted = self.rng.random()
        owner = known.get("domain")
        for _ in range(40):
            mfn = self.rng.choice(self.frames)
            row = s.frame[mfn]  # type: ignore[index]
            if wanted < 0.6 and row.use == Use.FREE:
                return mfn
            if 0.6 <= wanted < 0.95 and (row.owner == owner or (row.use == Use.TABLE and row.pool == owner)):
                return mfn
        return self.rng.choice((self.rng.choice(self.frames), *self.devices, 0))

    def _any_GrantRef(self, _s: State, _known: dict[str, Any]) -> int:
        return _one_of(self.rng, (*range(16), 255, 256, 257, 511, 512, 513, 520, 1 << 31, (1 << 32) - 1))

    def _any_Handle(self, s: State, known: dict[str, Any]) -> int:
        owner = known.get("caller", known.get("domain"))
        for _ in range(4):
            handle = self.rng.randrange(4)
            if s.mapping[owner, handle].host:  # type: ignore[index]
                return handle
        return _one_of(self.rng, (*range(6), 511, 512, 5000))

    def _any_Index(self, _s: State, _known: dict[str, Any]) -> int:
        return _one_of(self.rng, (*range(34), 255, 511))

    def _any_Word(self, s: State, known: dict[str, Any]) -> int:
        return self._entry(s, known)

    def _any_int(self, _s: State, _known: dict[str, Any]) -> int:
        return self.rng.choice(SMALL)

    # -- by name

    def _caller(self, s: State, _t: str, _known: dict[str, Any]) -> int:
        return self._often(self.rng.choice(self.domains), self._any_DomId(s, {}), 0.97)

    def _domain(self, s: State, transition: str, known: dict[str, Any]) -> int:
        if transition == "create_domain":
            return self.rng.choice((self.spare, self.spare + 1, *self.domains))
        if self.rng.random() < 0.15:
            return int(self.rng.choice((self.spare, DOMID_SELF)))
        if "caller" in known and self.rng.random() < 0.3:
            return int(known["caller"])
        return self._any_DomId(s, known)

    def _out_domain(self, s: State, _t: str, known: dict[str, Any]) -> int:
        return self._often(known["domain"], self._any_DomId(s, known))

    def _foreign(self, s: State, _t: str, known: dict[str, Any]) -> int:
        return self._often(self._any_DomId(s, known), 0, 0.7)

    def _mfn(self, s: State, transition: str, known: dict[str, Any]) -> int:
        if transition in ("iomem_permission", "memory_mapping"):
            return self.rng.choice((*self.devices, *self.devices, 0, self.frames[0], 1 << 28, (1 << 64) - 1))
        if transition in ("free_root", "relinquish_pool", "relinquish_frame"):
            return self._owned(s, known["domain"])
        if transition in ("populate_extent", "increase_extent") and known.get("gfn") in self.frames:
            return self._often(known["gfn"], self._any_Mfn(s, known), 0.3)
        return self._any_Mfn(s, known)

    def _below(self, s: State, _transition: str, known: dict[str, Any]) -> int:
        """The last frame under a range that the domain may have as a device."""
        return max((mfn for (domain, mfn), row in s.iomem.items()
                    if domain == known["domain"] and row.allowed and mfn < known["mfn"]), default=0)

    def _owned(self, s: State, domain: int) -> int:
        for _ in range(200):
            mfn = self.rng.choice(self.frames)
            row = s.frame[mfn]  # type: ignore[index]
            if domain in (row.owner, row.pool):
                return mfn
        return self.rng.choice(self.frames)

    def _gfn(self, s: State, transition: str, known: dict[str, Any]) -> int:
        if transition == "relinquish_mapping" and self.rng.random() < 0.9:
            row = s.domain[known["domain"]]
            live = [gfn for gfn in self.gfns if gfn >= row.lowest_gfn and s.p2m[known["domain"], gfn].type]  # type: ignore[index]
            return min([*live, int(row.highest_gfn)])
        if transition in ("flush_page", "finish_flush") and self.rng.random() < 0.7:
            live = [gfn for gfn in self.gfns if s.p2m[known["domain"], gfn].type]  # type: ignore[index]
            return self.rng.choice(live or [0])
        if transition == "memory_mapping":
            return self.rng.choice((*self.devices, *self.gfns, (1 << 64) - 1))
        if transition == "put_orphan":
            pending = [int(gfn) for domain, gfn in s.orphan.keys()  # noqa: SIM118
                       if domain == known["domain"] and s.orphan[domain, gfn].pending]
            return self.rng.choice(pending or [0])
        return self._any_Gfn(s, known)

    def _gmfn(self, s: State, _t: str, known: dict[str, Any]) -> int:
        return self._any_Gfn(s, {"caller": known["caller"]})

    def _idx(self, s: State, transition: str, known: dict[str, Any]) -> int:
        if known.get("space") in (4, 5) or self.rng.random() < 0.2:
            return self.rng.choice((*self.gfns, *self.devices, *self.edges))
        return self.rng.choice((0, 0, 1, 2, 3, 7, 63, 64, 1 << 31, (1 << 31) + 1, (1 << 31) + 2, (1 << 64) - 1))

    def _space(self, _s: State, _t: str, _known: dict[str, Any]) -> int:
        return self.rng.choice((0, 1, 1, 1, 2, 3, 4, 4, 5, 6))

    def _index(self, s: State, _t: str, known: dict[str, Any]) -> int:
        return self._any_Index(s, known)

    def _side(self, _s: State, _t: str, _known: dict[str, Any]) -> int:
        return self.rng.choice((0, 1))

    def _slot(self, _s: State, _t: str, _known: dict[str, Any]) -> int:
        return self.rng.choice((0, 1))

    def _host_addr(self, s: State, _t: str, known: dict[str, Any]) -> int:
        if "handle" in known and self.rng.random() < 0.6:
            row = s.mapping[known["caller"], known["handle"]]
            return int(row.gfn) * ADDRESS % (1 << 64)
        return self._often(self._any_Gfn(s, known) * ADDRESS % (1 << 64), 0, 0.9)

    def _new_addr(self, _s: State, _t: str, _known: dict[str, Any]) -> int:
        return self._often(0, ADDRESS, 0.7)

    def _dev_bus_addr(self, s: State, _t: str, known: dict[str, Any]) -> int:
        return self._any_Mfn(s, {"domain": self.rng.choice(self.domains)}) * ADDRESS

    def _flags(self, s: State, transition: str, _known: dict[str, Any]) -> int:
        if transition == "create_domain":
            good = evolve(decode(CreateFlags, Word(0)), hvm=True, hap=True)
            return encode(self.rng.choice((good, good, good, evolve(good, iommu=True), evolve(good, nested_virt=True),
                                           evolve(good, hvm=False))))
        if transition == "map_grant_ref":
            return self.rng.choice((2, 2, 2, 6, 6, 6, 0, 3, 10, 18, 34, 1 << 16))
        return self.rng.choice((0, 0, 0, 1, 2, 1 << 8, 2 << 8, (1 << 24) + (2 << 8), (1 << 32) - 1))

    def _ref(self, s: State, _t: str, known: dict[str, Any]) -> int:
        return self._any_GrantRef(s, known)

    def _version(self, _s: State, _t: str, _known: dict[str, Any]) -> int:
        return self.rng.choice((0, 1, 1, 2, 2, 3))

    def _nr_frames(self, _s: State, _t: str, _known: dict[str, Any]) -> int:
        return self.rng.choice((0, 1, 1, 2, 3, 4, 9, 16, 17, 33, 64, 1 << 20, (1 << 32) - 1))

    def _frame(self, _s: State, _t: str, _known: dict[str, Any]) -> int:
        return self.rng.choice((0, 0, 0, 1, 2, (1 << 32) - 1))

    def _kind(self, _s: State, _t: str, _known: dict[str, Any]) -> int:
        return self.rng.choice((0, 0, 1, 1, 1, 2, 3))

    def _identifier(self, _s: State, _t: str, _known: dict[str, Any]) -> int:
        return self.rng.choice((0, 0, 1, 2))

    def _padding(self, _s: State, _t: str, _known: dict[str, Any]) -> int:
        return int(self._often(0, 1))

    def _cursor(self, _s: State, transition: str, known: dict[str, Any]) -> int:
        if transition == "acquire_resource":
            return self.rng.choice((0, 0, 0, 1, 2, 40))
        return self._often(0, self.rng.choice((1, 4096, 1 << 20)), 0.9)

    def _chunk(self, _s: State, _t: str, known: dict[str, Any]) -> int:
        return int(known["cursor"]) // 32 * 32

    def _order(self, _s: State, transition: str, _known: dict[str, Any]) -> int:
        if transition == "translation_fault":
            return self.rng.choice((0, 0, 9, 18))
        if transition.startswith("claim_pages"):
            return int(self._often(0, 1, 0.9))
        return self.rng.choice(ORDERS)

    _in_order = _out_order = _order

    def _in_extents(self, _s: State, _t: str, _known: dict[str, Any]) -> int:
        return self.rng.choice((0, 1, 1, 2, (1 << 64) - 1))

    def _out_extents(self, _s: State, _t: str, known: dict[str, Any]) -> int:
        shifted = int(known["in_extents"]) << int(known["in_order"])
        return self._often(shifted % (1 << 64), 1, 0.5)

    def _exchanged(self, _s: State, _t: str, known: dict[str, Any]) -> int:
        return self.rng.choice((0, 0, int(known["in_extents"]), 1))

    def _done(self, _s: State, _t: str, known: dict[str, Any]) -> int:
        pages = int(known["pages"]) if "pages" in known else 1 << min(int(known["order"]), 18)
        return self._often(pages, self.rng.choice(SMALL), 0.8)

    def _pages(self, s: State, transition: str, _known: dict[str, Any]) -> int:
        if transition.startswith("claim_pages"):
            heap = s.heap[Index(0)]
            return self.rng.choice((0, 1, 4, 5, 6, 7, 8, 9, 10, 12, 20, 500, 1 << 40, heap.free - heap.claimed + 5))
        return self.rng.choice((0, 1, 1, 1, 1, 2, 65, 1 << 30, (1 << 64) - 1))

    def _kilobytes(self, _s: State, _t: str, _known: dict[str, Any]) -> int:
        return self.rng.choice((0, 16, 24, 32, 40, 64, 2048, (1 << 34), (1 << 64) - 1))

    def _size(self, s: State, transition: str, known: dict[str, Any]) -> int:
        if transition == "set_paging_mempool_size":
            now = int(s.domain[known["domain"]].pool_pages)
            return max(0, now + self.rng.choice((-1, -1, 0, 1, 2))) * ADDRESS + self._often(0, 1, 0.9)
        return int(self._often(0, 1, 0.7))

    def _length(self, _s: State, transition: str, _known: dict[str, Any]) -> int:
        return self.rng.choice((0, 1, 8, 8, 16, 64, 2048, 4096, 4097))

    def _offset(self, _s: State, _t: str, _known: dict[str, Any]) -> int:
        return self.rng.choice((0, 0, 0, 8, 16, 2048, 4088, 4095, 4096, 4097))

    _source_offset = _destination_offset = _offset

    def _op(self, _s: State, _t: str, _known: dict[str, Any]) -> int:
        return self.rng.choice((0, 1, 1, 2, 3, 3, 4))

    def _iommu_options(self, _s: State, _t: str, _known: dict[str, Any]) -> int:
        return int(self._often(0, 1, 0.9))

    def _grant_options(self, _s: State, _t: str, _known: dict[str, Any]) -> int:
        return self.rng.choice((0, 1, 1, 2, 2, 2, 3, 16))

    def _grant_frames(self, _s: State, _t: str, _known: dict[str, Any]) -> int:
        return self.rng.choice((0, 1, 2, 4, 4, 65))

    def _maptrack_frames(self, _s: State, _t: str, _known: dict[str, Any]) -> int:
        return self.rng.choice((0, 1, 2, 2, 1025))

    def _list_given(self, _s: State, transition: str, _known: dict[str, Any]) -> bool:
        return self.rng.random() < (0.1 if transition.startswith("claim_pages") else 0.7)

    def _memory_left(self, _s: State, _t: str, _known: dict[str, Any]) -> bool:
        return self.rng.random() < 0.9

    _vmids_left = _fits = _space_left = _memory_left

    def _tables_left(self, _s: State, _t: str, _known: dict[str, Any]) -> bool:
        return self.rng.random() < 0.75

    # -- words of memory

    def _entry(self, _s: State, _known: dict[str, Any]) -> int:
        """A word that means something as a grant entry, or any word."""
        rng = self.rng
        blank: dict[str, Any] = {}
        roll = rng.random()
        kind = rng.choice((0, 1, 1, 1, 1, 2, 3))
        user = rng.choice(self.domains)
        if roll < 0.45:
            blank = {"type": kind, "domid": user, "frame": rng.choice(self.gfns), "readonly": rng.random() < 0.4,
                     "sub_page": rng.random() < 0.1}
            return encode(evolve(decode(EntryV1, Word(0)), **blank))
        if roll < 0.7:
            blank = {"type": kind, "domid": user, "readonly": rng.random() < 0.4, "sub_page": rng.random() < 0.3,
                     "start": rng.choice((0, 8, *self.domains)), "length": rng.choice((0, 16, 4096, 8192))}
            return encode(evolve(decode(HeadV2, Word(0)), **blank))
        if roll < 0.85:
            return encode(FrameV2(frame=Gfn(rng.choice(self.gfns))))
        if roll < 0.95:
            return encode(TransitiveV2(ref=GrantRef(self._any_GrantRef(_s, _known))))
        return rng.getrandbits(64)


class TableStimuli:
    """Arguments for the steps on stage-2 tables."""

    def __init__(self, state: Any, rng: random.Random) -> None:
        self.rng = rng
        self.frames = [int(each) for each in state.table_frame.keys()]  # noqa: SIM118

    def arguments(self, state: Any, transition: Transition, fixed: dict[str, Any] | None = None) -> dict[str, Any]:
        """One choice for each parameter but those that are fixed."""
        found = {name: self._one(state, name, hint) for name, hint in transition.parameters.items()}
        return {**found, **(fixed or {})}

    def _one(self, s: Any, name: str, hint: str) -> Any:
        rng = self.rng
        if hint == "bool":
            return rng.random() < 0.5
        if name in ("i0", "i1", "i2", "i3", "position"):
            return rng.choice((0, 0, 0, 1, 511))
        if hint in ("DomId", "U16"):
            return rng.choice((1, 1, 2))
        if name == "level":
            return rng.choice((1, 2, 3, 3))
        if name == "kind":
            return rng.choice((0, 1, 1, 2, 3, 8, 11, 12))
        if name == "access":
            return rng.choice((0, 1, 4, 5, 7, 8))
        if hint == "Mfn":
            return self._frame_of(s, rng.choice((*TableUse, TableUse.POOL, TableUse.MEMORY)))
        low, high = RANGES[hint]
        return rng.choice((low, 1, rng.getrandbits(12), rng.randrange(1 + high) if high is not None else 2))

    def _frame_of(self, s: Any, use: int) -> int:
        for _ in range(20):
            frame = self.rng.choice(self.frames)
            if s.table_frame[frame].use == use:
                return frame
        return self.rng.choice((*self.frames, 0x10))


def stimuli(state: Any, rng: random.Random) -> Stimuli | TableStimuli:
    """Arguments for the steps of the theory that the state belongs to."""
    return Stimuli(state, rng) if isinstance(state, State) else TableStimuli(state, rng)


__all__ = ["Stimuli", "TableStimuli", "stimuli"]
