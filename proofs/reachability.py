"""Which answers each step can give: satisfiable, and reached from boot.

*Reached*: a trace of steps from a boot state ends with the answer, on the plain specification.  *Satisfiable*: some
state that satisfies every invariant leads to it; reached without a deviation on the way implies that, and where no
trace was found a small scope is asked.  What a step declares as unreachable is proved to be so, path by path.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs

from proofs import table_traces
from proofs.engine import terms as T
from proofs.engine.obligations import PROVED, UNREACHABLE, Problem, Theory, TransitionProof
from proofs.engine.scope import DEFAULT_SIZES, Scope
from proofs.engine.solvers import UNSAT, with_z3
from proofs.engine.symbols import Path, lift
from proofs.stimuli import ADDRESS, PAGES_APART, stimuli
from proofs.theories import MACHINE, TABLES, theory
from spec.boot import boot, boot_tables, dom0less
from spec.domain.lifecycle import CreateFlags
from spec.grant.entries import PERMIT_ACCESS, TRANSITIVE, EntryV1, FrameV2, HeadV2, TransitiveV2
from spec.language import U8, U16, U32, DomId, Gfn, GrantRef, Outcome, Word, decode, encode, evolve
from spec.language.outcomes import IllegalChoice, Kind
from spec.language.values import SpecificationError
from spec.memory.geometry import ARM32, of_pa_range
from spec.state import DOMID_IO, P2mType, Use

TEARDOWN = (
    "release_mapping", "free_maptrack_frame", "relinquish_frame", "relinquish_mapping", "put_orphan", "give_table",
    "finish_stage", "relinquish_pool", "unlist_domain", "free_grant_frame", "free_last_status_frame",
    "free_shared_info", "free_root", "forget_domain", "kill_domain",
)
CHANGE_OF_VERSION = (
    "set_version", "populate_status_frame", "unmap_status_frame", "withdraw_status_frame", "clear_grant_frame",
    "finish_version_2", "finish_version_1", "free_status_frame",
)
BUILD = ("create_domain", "build_root", "build_pool", "build_shared_info", "build_grant_table", "list_domain")
COPY = (
    "copy_domains", "copy_claim_page", "copy_claim_grant", "copy_claim_transitive", "copy_claim_nested",
    "copy_finish_transitive", "copy_bytes", "copy_abandon", "copy_release_page", "copy_release_grant",
    "copy_release_nested", "copy_forget",
)
DRASTIC = ("kill_domain", "max_mem", "decrease_page", "decrease_page_repaired", "set_paging_mempool_size")
"""Steps after which there is less to be done: tried, but seldom followed."""
WALK = 40
"""Steps of a walk before another state is taken up."""

Answer = tuple[str, str, int]
"""A step, how it ended, and its code."""


@attrs.define
class Seen:
    """How an answer was first reached: after so many steps from boot, and whether a deviation had happened."""

    steps: int
    clean: bool


@attrs.define
class Row:
    """What is known of one answer of one step."""

    transition: str
    kind: str
    code: int
    reached: bool = False
    """On the way a deviation may have happened."""
    steps: int = 0
    satisfiable: str = "unknown"
    """"trace", "small scope", "no" (proved), or "unknown"."""
    reason: str = ""

    @property
    def holds(self) -> bool:
        """It can be given; or it is declared that it cannot, and that is proved."""
        if self.reason:
            return self.satisfiable == "no"
        return self.reached or self.satisfiable in ("trace", "small scope")


class Walker:
    """Random walks from boot, which take up again the states from which something new was seen."""

    def __init__(self, name: str, rng: random.Random) -> None:
        self.theory, self.rng = theory(name), rng
        self.seen: dict[Answer, Seen] = {}
        self.tried = 0
        self.corpus: list[tuple[Any, int]] = []
        self.on_tables = name == TABLES
        self.starts = _starts(name)
        for state in self.starts:
            self._keep(state, 0)
        self.choose: Any = stimuli(self.starts[-1], rng)
        self.names = list(self.theory.transitions)

    def _keep(self, state: Any, depth: int) -> None:
        self.corpus.append((state, depth))

    def step(self, state: Any, depth: int, name: str, arguments: dict[str, Any] | None = None) -> Any:
        """The state after a step, or None if the choice was not a legal one."""
        transition = self.theory.transitions[name]
        if arguments is None:
            arguments = self.choose.arguments(state, transition)
        self.tried += 1
        try:
            outcome: Outcome[Any] = transition.function(state, **arguments)
        except (IllegalChoice, SpecificationError):
            return None
        answer = (name, outcome.kind.value, int(outcome.code))
        clean = bool(self.theory.untouched(state))
        known = self.seen.get(answer)
        if known is None or (clean and not known.clean):
            self.seen[answer] = Seen(depth + 1, clean)
            if outcome.state is not state:
                self._keep(outcome.state, depth + 1)
            self._keep(state, depth)
        return outcome.state

    def drive(self, state: Any, depth: int, names: tuple[str, ...], tries: int,
              until: Callable[[Any], bool] = lambda _state: False, **fixed: Any) -> tuple[Any, int]:
        """Try steps of a kind again and again; states on the way are kept now and then."""
        for _ in range(tries):
            name = self.rng.choice(names)
            after = self.step(state, depth, name, self.choose.arguments(state, self.theory.transitions[name], fixed))
            if after is None or after is state:
                continue
            state, depth = after, depth + 1
            if depth % 8 == 0:
                self._keep(state, depth)
            if until(state):
                break
        return state, depth

    def walk(self, seconds: float, wanted: set[Answer]) -> None:
        """Walks for so long, or until everything wanted was seen."""
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            left = [answer[0] for answer in wanted if answer not in self.seen or not self.seen[answer].clean]
            if not left:
                break
            position = min(int(self.rng.expovariate(0.05)), len(self.corpus) - 1)
            newest = self.rng.random() < 0.5
            state, depth = self.corpus[-1 - position] if newest else self.rng.choice(self.corpus)
            for _ in range(WALK):
                name, arguments = self._next(state, left)
                after = self.step(state, depth, name, arguments)
                if after is None or after is state or (name in DRASTIC and self.rng.random() < 0.9):
                    continue
                state, depth = after, depth + 1

    def _next(self, state: Any, left: list[str]) -> tuple[str, dict[str, Any] | None]:
        """A step that may show something new, or any; on tables mostly one that makes sense."""
        if self.on_tables and self.rng.random() < 0.8:
            return table_traces.choose(state, self.rng, 3 if self.rng.random() < 0.1 else 0)
        return self.rng.choice(left) if self.rng.random() < 0.4 else self.rng.choice(self.names), None

    def prepare(self, starts: int | None = None) -> None:
        """Walks with a purpose: grant tables in use, version 2, a copy under way, domains that come and go.

        starts: from so many boot states, the last ones; all of them if it is not said.
        """
        for start in self.starts[-(starts or len(self.starts)):]:
            self._exhausted(start)
            state, depth = self._granting(start)
            self._killed(*self._crowded(state, depth))
            second, later = self._version_2(state, depth)
            for each, steps in ((state, depth), (second, later)):
                self.drive(each, steps, COPY, 2000)
                busy, taken = self.drive(each, steps, (
                    "map_grant_ref", "map_grant_ref", "unmap_grant_ref", "add_to_physmap", "acquire_resource",
                ), 600)
                self.drive(busy, taken, (*COPY, "map_grant_ref", "unmap_grant_ref", "complete_unmap"), 1000)
                self._killed(busy, taken)
                self._killed(each, steps)
            spare = self.choose.spare
            state, depth = self._all(start, 0, [("create_domain", self._new(start))])
            state, depth = self.drive(state, depth, BUILD, 1500, domain=spare)
            state, depth = self.drive(start, 0, BUILD, 60, caller=0, domain=spare)
            after = self.step(state, depth, "abandon_domain", {"domain": spare})
            if after is not None:
                self.drive(after, depth + 1, TEARDOWN, 2000, domain=spare)

    def _all(self, state: Any, depth: int, steps: Iterable[tuple[str, dict[str, Any]]]) -> tuple[Any, int]:
        """Steps one after the other; those that are not legal are left out."""
        for name, arguments in steps:
            after = self.step(state, depth, name, arguments)
            if after is not None and after is not state:
                state, depth = after, depth + 1
        return state, depth

    def _granting(self, state: Any) -> tuple[Any, int]:
        """Every domain may map grants, has its grant table mapped, and grants its pages in it."""
        depth = 0
        state, depth = self._all(state, depth, [
            ("max_mem", {"caller": 0, "domain": 1, "kilobytes": 4 << 20}),
            ("iomem_permission", {"caller": 0, "domain": 1, "mfn": 0x200, "pages": 1, "allow": True, "below": 0}),
            *[("setup_table", {"caller": 0, "domain": domain, "nr_frames": frames, "memory_left": True, "mfn": mfn,
                               "status_mfn": mfn})
              for domain, frames, mfn in self._larger(state)],
            ("acquire_resource", {"caller": 0, "domain": 1, "kind": 1, "identifier": 0, "frame": 0, "nr_frames": 2,
                                  "padding": 0, "list_given": True, "cursor": 1, "chunk": 0, "gfn": 0x900,
                                  "tables_left": False}),
            # the second of a chunk, at a guest frame that no table can hold
            ("acquire_resource", {"caller": 0, "domain": 1, "kind": 1, "identifier": 0, "frame": 0, "nr_frames": 2,
                                  "padding": 0, "list_given": True, "cursor": 1, "chunk": 0,
                                  "gfn": state.settings[0].root_pages, "tables_left": True}),
        ])
        # a device that ends behind what the root table can map
        beyond = state.settings[0].root_pages - 1
        self._all(state, depth, [
            ("iomem_permission", {"caller": 0, "domain": 1, "mfn": 0x200, "pages": 2, "allow": True, "below": 0}),
            ("memory_mapping", {"caller": 0, "domain": 1, "gfn": beyond, "mfn": 0x200, "pages": 2, "add": True,
                                "done": 1}),
        ])
        # a page of nobody's domain, which arm64 does not get over
        self._all(state, depth, [("add_to_physmap_batch", {
            "caller": 0, "domain": 0, "space": 4, "foreign": DOMID_IO, "idx": 0, "gfn": PAGES_APART, "size": 1,
            "cursor": 0, "tables_left": True})])
        for domain in (0, 1, 2):
            place = {"caller": domain, "domain": domain, "space": 1, "idx": 0, "gfn": PAGES_APART + domain, "size": 0,
                     "cursor": 0, "tables_left": True}
            state, depth = self._all(state, depth, [("grow_maptrack", {"caller": domain}), ("add_to_physmap", place)])
            first = [(ref, encode(EntryV1(
                type=U8(PERMIT_ACCESS), domid=DomId(user), frame=U32(gfn), readonly=readonly, reading=False,
                writing=False, sub_page=False,
            ))) for ref, user, gfn, readonly in self._grants(state, domain)]
            state, depth = self._all(state, depth, self._stores(domain, first))
        self._keep(state, depth)
        return state, depth

    def _larger(self, state: Any) -> list[tuple[int, int, int]]:
        """Frames by which grant tables are enlarged: domain, size, machine frame."""
        free = [mfn for mfn in self.choose.frames if state.frame[mfn].use == Use.FREE][-12:]
        sizes = [(0, number) for number in range(2, 10)] + [(1, 2), (2, 2)]
        return [(domain, size, free.pop()) for domain, size in sizes]

    def _crowded(self, state: Any, depth: int) -> tuple[Any, int]:
        """A domain has so many mappings that another maptrack frame is called for."""
        steps: list[tuple[str, dict[str, Any]]] = []
        for handle in range(400):
            ref = (8, 14)[handle % 2]
            steps.append(("map_grant_ref", {
                "caller": 1, "granter": 1, "ref": ref, "host_addr": (0x900 + handle) * ADDRESS, "flags": 6,
                "handle": handle, "space_left": True, "tables_left": True, "vcpu": 0,
            }))
        state, depth = self._all(state, depth, [*steps, ("grow_maptrack", {"caller": 1})])
        self._keep(state, depth)
        return state, depth

    def _grants(self, state: Any, domain: int) -> list[tuple[int, int, int, bool]]:
        """Grants of pages of a domain to each: reference, user, guest frame, read-only."""
        pages = [gfn for gfn in self.choose.gfns if state.p2m[domain, gfn].type == P2mType.RAM_RW]
        return [(8 + number, (domain + number) % 3, self.rng.choice(pages), number in (0, 3, 6)) for number in range(8)]

    def _stores(self, domain: int, words: Iterable[tuple[int, int]]) -> list[tuple[str, dict[str, Any]]]:
        """A domain stores these words in the first frame of its grant table."""
        place = {"domain": domain, "vcpu": 0, "gfn": PAGES_APART + domain}
        return [("guest_store", {**place, "index": index, "value": word}) for index, word in words]

    def _version_2(self, state: Any, depth: int) -> tuple[Any, int]:
        """Grant tables of version 2, filled again; on the way back to version 1 the states are kept too."""
        state, depth = self.drive(state, depth, CHANGE_OF_VERSION[:2] + CHANGE_OF_VERSION[4:6], 600)
        for domain in (0, 1, 2):
            words: list[tuple[int, int]] = []
            for ref, user, gfn, readonly in self._grants(state, domain):
                passed_on = ref >= 14
                head = HeadV2(
                    type=U8(TRANSITIVE if passed_on else PERMIT_ACCESS), domid=DomId(user), readonly=readonly,
                    sub_page=not passed_on and ref in (12, 13), start=U16((domain + 1) % 3 if passed_on else 8),
                    length=U16(64),
                )
                behind = TransitiveV2(ref=GrantRef(10 if ref == 14 else self.rng.choice((5000, 9, 13))))
                second = encode(behind if passed_on else FrameV2(frame=Gfn(gfn)))
                words += [(2 * ref, encode(head)), (2 * ref + 1, second)]
            state, depth = self._all(state, depth, self._stores(domain, words))
        self._keep(state, depth)
        self._passed_on(state, depth)
        # an entry that version 1 has no words for
        transitive = encode(HeadV2(type=U8(TRANSITIVE), domid=DomId(0), readonly=False, sub_page=False, start=U16(1),
                                   length=U16(0)))
        self._keep(*self._all(state, depth, self._stores(2, [(4, transitive)])))
        self.drive(state, depth, (*CHANGE_OF_VERSION, "add_to_physmap", "setup_table"), 600)
        return state, depth

    def _passed_on(self, state: Any, depth: int) -> None:
        """Copies from a page that was passed on, whatever the reference behind is: none, a read-only one, a third."""
        place = {"vcpu": 0, "side": 0}
        for domain in (0, 1, 2):
            user = (domain + 15 - 8) % 3
            for ref in (5000, 9, 10, 14):
                self._all(state, depth, [
                    *self._stores(domain, [(2 * 15 + 1, encode(TransitiveV2(ref=GrantRef(ref))))]),
                    ("copy_domains", {"caller": user, "vcpu": 0, "source": domain, "source_gref": True,
                                      "destination": 0x7FF0, "destination_gref": False}),
                    ("copy_claim_transitive", {**place, "caller": user, "ref": 15}),
                    ("copy_claim_nested", {**place, "caller": user}),
                    ("copy_abandon", {**place, "caller": user}),
                ])

    def _exhausted(self, state: Any) -> None:
        """All memory that is left is promised to one domain; and a domain may have more than it has."""
        depth = 0
        for pages in (16, 1 << 20):
            state, depth = self._all(state, depth, [
                ("max_mem", {"caller": 0, "domain": domain, "kilobytes": pages * 4}) for domain in (1, 2)
            ])
            self._keep(state, depth)
        state, depth = self._all(state, depth, [("create_domain", self._new(state))])
        self._promised(state, depth)
        for step in ("build_root", "build_shared_info"):
            state, depth = self.drive(state, depth, (step,), 20, lambda _state: True, domain=self.choose.spare)
            self._promised(state, depth)

    def _promised(self, state: Any, depth: int) -> None:
        heap = state.heap[0]
        state, depth = self._all(state, depth, [("claim_pages", {
            "caller": 0, "domain": 1, "pages": state.domain[1].tot_pages + heap.free - heap.claimed,
            "list_given": False, "order": 0, "flags": 0, "cursor": 0,
        })])
        self._keep(state, depth)

    def _new(self, state: Any) -> dict[str, Any]:
        arguments = self.choose.arguments(state, self.theory.transitions["create_domain"])
        flags = encode(evolve(decode(CreateFlags, Word(0)), hvm=True, hap=True))
        return {**arguments, "caller": 0, "domain": self.choose.spare, "flags": flags, "iommu_options": 0,
                "grant_options": 1, "default_grant_frames": True, "default_maptrack_frames": True, "fits": True,
                "vmids_left": True, "memory_left": True}

    def _refused_while_dying(self, state: Any, depth: int, domain: int) -> None:
        """Nothing is mapped any more for a domain that is being destroyed."""
        self._all(state, depth, [
            ("memory_mapping", {"caller": 0, "domain": domain, "gfn": 0x900, "mfn": 0x200, "pages": 1, "add": True,
                                "done": 1}),
            ("add_to_physmap", {"caller": 0, "domain": domain, "space": 0, "idx": 0, "gfn": 0x900, "size": 0,
                                "cursor": 0, "tables_left": True}),
        ])

    def _killed(self, state: Any, depth: int) -> None:
        for domain in (2, 1):
            after = self.step(state, depth, "kill_domain", {"caller": 0, "domain": domain})
            if after is not None and after is not state:
                self._refused_while_dying(after, depth + 1, domain)
                self.drive(after, depth + 1, (*TEARDOWN, "complete_unmap"), 2500,
                           lambda s, d=domain: s.domain[d].status == 0, domain=domain)  # type: ignore[misc]


def _starts(name: str) -> list[Any]:
    if name == TABLES:
        # memory enough for a block
        return [boot_tables(each, memory=range(0x400, 0x600)) for each in (ARM32, of_pa_range(2), of_pa_range(5))]
    found = []
    for arm32, silo, iommu in ((True, True, False), (False, False, False), (False, True, True)):
        made = dom0less(arm32=arm32, silo=silo, iommu=iommu)
        # guest frames of low numbers: a walk over all of them is short
        plans = tuple(plan if plan.direct else evolve(plan, at=Gfn(0x40), iommu=iommu) for plan in made.plans)
        version = U8(2 if silo else 1)
        found.append(boot(evolve(made, plans=plans, grant_version=version)))
    return found


# ---- which answers there are


def _codes(path: Path) -> list[int]:
    """The codes that a path can end with."""
    code = lift(path.result.code)
    value = T.literal(code)
    if value is not None:
        return [value]
    candidates = sorted(_leaves(code))
    return [
        each for each in candidates
        if with_z3(T.smtlib([*path.conditions, T.equal(code, T.number(each))])).verdict != UNSAT
    ]


def _leaves(term: T.Term) -> set[int]:
    """The literals that a choice can come to."""
    if term.op == "ite":
        return _leaves(term.args[1]) | _leaves(term.args[2])
    if term.op == "lin" and len(term.args[1]) == 1:
        inner, factor = term.args[1][0]
        return {term.args[0] + factor * each for each in _leaves(inner)}
    value = T.literal(term)
    return set() if value is None else {value}


def answers(chosen: Theory) -> Iterator[Row]:
    """Every answer of every step, from its paths."""
    for name, transition in chosen.transitions.items():
        found: dict[tuple[str, int], None] = {}
        for path, _ in TransitionProof(chosen, transition).paths():
            for code in _codes(path):
                found.setdefault((path.result.kind.value, code))
        for kind, code in found:
            reason = transition.unreachable.get(code, "") or transition.unreachable.get(Kind(kind), "")
            yield Row(name, kind, code, reason=reason)


# ---- what a walk did not reach


def dead(chosen: Theory, name: str) -> dict[str, bool]:
    """For each code or kind that is declared unreachable, whether every path to it was proved to contradict itself."""
    proof = TransitionProof(chosen, chosen.transitions[name], only=lambda _identifier: False)
    found: dict[str, bool] = {}
    for line in proof.run():
        if line.property.startswith(UNREACHABLE):
            declared = line.property.removeprefix(UNREACHABLE)
            found[declared] = found.get(declared, True) and line.verdict == PROVED
    return found


def in_small_scope(chosen: Theory, name: str, wanted: list[Row], limit: float) -> None:
    """Look for a state of few domains and frames that satisfies every invariant and leads to the answers wanted."""
    transition = chosen.transitions[name]
    proof = TransitionProof(chosen, transition)
    paths = list(proof.paths())
    scope = Scope(chosen)
    for row in wanted:
        until = time.perf_counter() + 3 * limit
        for path, log in paths:
            if time.perf_counter() > until:
                break
            if path.result.kind is not Kind(row.kind) or row.code not in _codes(path):
                continue
            given = T.equal(lift(path.result.code), T.number(row.code))
            path.conditions.append(given)
            problem = Problem(transition, "", path, proof.arguments, (), T.boolean(value=True), [log])
            found = scope.witness(problem, [log], limit=limit)
            path.conditions.pop()
            if found is not None and found.outcome.code == row.code:
                row.satisfiable = "small scope"
                break


# ---- all of it


def reach(*, seconds: float = 60.0, seed: int = 1, limit: float = 5.0, names: tuple[str, ...] = (),
          solve: bool = True, say: Callable[[str], None] = lambda _line: None) -> list[Row]:
    """Every answer of every step with what is known of it.

    seconds: for the walks.  limit: seconds for one question to the solver.  names: only these steps.
    """
    rows: list[Row] = []
    for which, share in ((TABLES, 0.2), (MACHINE, 0.8)):
        chosen = theory(which)
        if names:
            chosen = attrs.evolve(chosen, transitions={n: t for n, t in chosen.transitions.items() if n in names})
        if not chosen.transitions:
            continue
        mine = list(answers(chosen))
        walker = Walker(which, random.Random(seed))
        wanted = {(row.transition, row.kind, row.code) for row in mine if not row.reason}
        walker.walk(seconds * share / 10, wanted)
        if which == MACHINE and wanted - set(walker.seen):
            walker.prepare()
        walker.walk(seconds * share, wanted)
        say(f"{which}: {walker.tried} steps tried, {len(walker.seen)} answers seen")
        for row in mine:
            seen = walker.seen.get((row.transition, row.kind, row.code))
            if seen is not None:
                row.reached, row.steps = True, seen.steps
                row.satisfiable = "trace" if seen.clean else row.satisfiable
        _rest(chosen, mine, limit if solve else 0.0, say)
        rows.extend(mine)
    return sorted(rows, key=lambda row: (row.transition, row.kind, row.code))


def _rest(chosen: Theory, rows: list[Row], limit: float, say: Callable[[str], None]) -> None:
    """Proofs of what is declared unreachable, and the solver for what no walk has reached."""
    for name in dict.fromkeys(row.transition for row in rows):
        mine = [row for row in rows if row.transition == name]
        declared = [row for row in mine if row.reason]
        if declared:
            proved = dead(chosen, name)
            for row in declared:
                if (proved.get(str(row.code), False) or proved.get(row.kind, False)) and not row.reached:
                    row.satisfiable = "no"
        open_ = [row for row in mine if not row.reason and row.satisfiable == "unknown"]
        if open_ and limit and all(hint in DEFAULT_SIZES for each in chosen.schemas.values() for hint in each.key):
            say(f"asking for {len(open_)} answers of {name}")
            in_small_scope(chosen, name, open_, limit)


__all__ = ["Answer", "Row", "Walker", "answers", "dead", "in_small_scope", "reach"]
