"""Stage-2 tables on integers: each step, and that tables and mappings agree whatever the order of steps."""

from __future__ import annotations

import pytest

from proofs.table_traces import SMALL, small_tables
from spec.language import TRANSITIONS, DomId, Index, Mfn, decode, encode, put
from spec.language.outcomes import IllegalChoice, Kind
from spec.memory.descriptors import Access, Descriptor, leaf
from spec.memory.geometry import Geometry, every_geometry
from spec.memory.tables import ONE, Phase, TableState, Use, found, gfn_of, same_block, translated, word_at
from spec.memory.walk import Fault, Found
from spec.state import P2mType
from tests.spec.memory.world import FIRST, POOL, A, B, at, boot, broken, step, wander, with_root, with_tables

FLAT = Geometry(44, 0, 1, 44)
TWO_ROOTS = Geometry(40, 1, 2, 40)
PAGE = (0, 0, 1, 5)
"""A guest frame, by its indices."""
FRAME = Mfn(FIRST + 3)


def pages() -> list[int]:
    return list(POOL[16:])


def with_page(s: TableState, domain: DomId = A, frame: int = FRAME, kind: int = P2mType.RAM_RW) -> TableState:
    """The domain has a page at PAGE."""
    s = with_tables(with_root(s, domain), domain, pages(), 3, *PAGE)
    return insert(s, frame, kind, domain=domain)


def insert(s: TableState, frame: int, kind: int = P2mType.RAM_RW, level: int = 3, access: int = Access.RWX,
           digits: tuple[int, ...] = PAGE, domain: DomId = A) -> TableState:
    return step(s, "insert_leaf", domain=domain, **at(*digits), level=level, frame=Mfn(frame), kind=kind, access=access)


def with_block(s: TableState) -> TableState:
    """Domain A has a block of 2 MiB around PAGE."""
    s = with_tables(with_root(s, A), A, pages(), 2, *PAGE)
    return insert(s, FIRST, level=2, digits=(0, 0, 1, 0))


def seen(s: TableState, digits: tuple[int, ...] = PAGE, domain: DomId = A) -> tuple[int, int]:
    """Fault and frame of the hardware's walk."""
    walked = translated(s, domain, gfn_of(*map(Index, digits)))
    return walked.fault, walked.frame


def illegal(s: TableState, name: str, **arguments: object) -> None:
    with pytest.raises(IllegalChoice):
        TRANSITIONS[name].function(s, **arguments)


def refused(s: TableState, name: str, **arguments: object) -> int:
    outcome = TRANSITIONS[name].function(s, **arguments)
    assert outcome.kind is Kind.REFUSED
    assert outcome.state is s
    return -outcome.code  # type: ignore[no-any-return]


# ---- whatever the order


@pytest.mark.parametrize("shape", [FLAT, TWO_ROOTS, Geometry(42, 1, 8, 42), Geometry(34, 2, 16, 40)], ids=str)
@pytest.mark.parametrize("seed", [1, 2])
def test_any_order__tables_are_the_mappings(shape, seed):
    assert wander(shape, seed, 200) is None


def test_any_order__every_step_is_taken():
    taken: dict[str, int] = {}
    for seed in range(3):
        assert wander(TWO_ROOTS, 100 + seed, 400, taken) is None
    theirs = {name for name, each in TRANSITIONS.items() if each.theory == "tables"}
    # these have tests of their own
    assert {"abandon_tables", "destroy_root", "resolve_fault", "make_table", "split_piece"} >= theirs - set(taken)


@pytest.mark.parametrize("shape", every_geometry(), ids=str)
def test_insert__reaches_the_last_guest_frame_of_every_shape(shape):
    digits = {0: (511, 511, 511, 511), 1: (shape.root_pages - 1, 511, 511, 511), 2: (0, shape.root_pages - 1, 511, 511)}
    where = digits[shape.start_level]
    s = with_tables(with_root(boot(shape), A), A, pages(), 3, *where)
    s = insert(s, FRAME, digits=where)
    assert FRAME == found(s, A, gfn_of(*map(Index, where))).frame
    assert [] == broken(s)


# ---- mapping


def test_prepare_table__is_seen_by_nobody_until_it_is_linked():
    s = with_root(boot(FLAT), A)
    s = step(s, "prepare_table", domain=A, **at(*PAGE), level=0, page=Mfn(POOL[20]))
    assert (Use.NEW, 0) == (s.table_frame[Mfn(POOL[20])].use, s.cell[Mfn(POOL[0]), Index(0)].raw)


def test_prepare_table__clears_what_the_page_held():
    s = with_root(put(boot(FLAT), "cell", (Mfn(POOL[20]), Index(5)), raw=0xFFFF), A)
    s = step(s, "prepare_table", domain=A, **at(*PAGE), level=0, page=Mfn(POOL[20]))
    assert 0 == s.cell[Mfn(POOL[20]), Index(5)].raw


def test_insert__maps_a_free_place_with_one_store():
    assert (Fault.NONE, FRAME) == seen(with_page(boot(FLAT)))


def test_insert__over_a_page_faults_until_it_was_flushed():
    s = insert(with_page(boot(FLAT)), FRAME + 1)
    assert Fault.TRANSLATION == seen(s)[0]
    with pytest.raises(IllegalChoice):
        step(s, "make_leaf", domain=A)
    s = step(step(s, "flush_caches", domain=A), "make_leaf", domain=A)
    assert (Fault.NONE, FRAME + 1) == seen(s)


def test_insert__a_monitor_changes_permissions_without_a_flush_between():
    s = with_page(put(boot(FLAT), "space", A, mem_access=True))
    s = step(insert(s, FRAME, access=Access.R), "make_leaf", domain=A)
    assert (False, True) == (translated(s, A, gfn_of(*map(Index, PAGE))).write, s.space[A].flush)


def test_insert__a_monitor_does_not_move_a_page_without_a_flush():
    s = insert(with_page(put(boot(FLAT), "space", A, mem_access=True)), FRAME + 1)
    assert s.work[A].must_flush


def test_insert__refuses_what_the_root_does_not_cover():
    s = with_root(boot(TWO_ROOTS), A)
    assert 22 == refused(s, "insert_leaf", domain=A, **at(2, 0, 0, 0), level=1, frame=FRAME, kind=1, access=Access.RWX)


def test_found__nothing_beyond_the_root():
    """What lies behind the last root page is no table of the domain, even if it reads like one."""
    s = with_root(boot(TWO_ROOTS), A)
    s = put(s, "cell", (Mfn(POOL[0] + 2), Index(0)), raw=encode(leaf(FRAME, P2mType.RAM_RW, Access.RWX, 1)))
    assert Found() == found(s, A, gfn_of(*map(Index, (2, 0, 0, 0))))


def test_insert__refuses_a_domain_without_tables():
    s = boot(FLAT)
    assert 12 == refused(s, "insert_leaf", domain=A, **at(*PAGE), level=3, frame=FRAME, kind=1, access=Access.RWX)


def test_insert__never_maps_a_table():
    s = with_tables(with_root(boot(FLAT), A), A, pages(), 3, *PAGE)
    with pytest.raises(IllegalChoice):
        insert(s, POOL[0])


def test_insert__a_block_takes_the_table_out():
    s = insert(with_page(boot(FLAT)), FIRST, level=2, digits=(0, 0, 1, 0))
    s = step(step(s, "flush_caches", domain=A), "make_leaf", domain=A)
    unlinked = [f for f, row in s.table_frame.items() if row.use == Use.TABLE and not row.linked]
    assert (FIRST + 5, 1) == (seen(s)[1], len(unlinked))


def test_remove__leaves_a_flush_pending():
    s = step(with_page(boot(FLAT)), "remove_word", domain=A, **at(*PAGE), level=3)
    assert (Fault.TRANSLATION, True) == (seen(s)[0], s.space[A].flush)


def test_remove__nothing_is_nothing():
    s = with_root(boot(FLAT), A)
    assert s is step(s, "remove_word", domain=A, **at(*PAGE), level=3)


# ---- splitting


def test_split__faults_between_block_and_pieces_and_then_maps_the_same():
    s = with_block(boot(FLAT))
    frames = [seen(s)[1]]
    s = step(s, "prepare_split", domain=A, **at(*PAGE), level=2, page=Mfn(POOL[10]))
    frames.append(seen(s)[1])
    s = step(s, "break_block", domain=A)
    assert Fault.TRANSLATION == seen(s)[0]
    s = step(step(s, "flush_caches", domain=A), "make_table", domain=A)
    frames.append(seen(s)[1])
    assert [FIRST + 5] * 3 == frames
    assert 3 == translated(s, A, gfn_of(*map(Index, PAGE))).level


def test_split__of_a_gigabyte_gives_blocks_of_two_megabytes():
    s = with_tables(with_root(boot(FLAT), A), A, pages(), 1, *PAGE)
    table = word_at(s, Mfn(POOL[0]), Index(0)).frame
    s = put(s, "cell", (table, Index(0)), raw=encode(leaf(Mfn(0x40000), P2mType.RAM_RW, Access.RWX, 1)))
    s = step(s, "prepare_split", domain=A, **at(*PAGE), level=1, page=Mfn(POOL[10]))
    piece = decode(Descriptor, s.cell[Mfn(POOL[10]), Index(7)].raw)
    assert (0x40000 + 7 * 512, False, True) == (piece.frame, piece.table, piece.write)
    assert Phase.BREAK == s.work[A].phase


def test_split__of_a_gigabyte_down_to_pages_shows_both_tables_at_once():
    with small_tables():
        s = with_tables(with_root(boot(SMALL[0]), A), A, pages(), 1, 0, 0, 0, 0)
        s = insert(s, FIRST, level=1, digits=(0, 0, 0, 0))
        places = [(0, 0, i2, i3) for i2 in range(4) for i3 in range(4)]
        before = [seen(s, each) for each in places]
        s = step(s, "prepare_split", domain=A, **at(0, 0, 2, 1), level=1, page=Mfn(POOL[10]))
        s = step(s, "split_piece", domain=A, page=Mfn(POOL[11]))
        assert before == [seen(s, each) for each in places]
        assert [] == broken(s)
        s = step(s, "break_block", domain=A)
        assert {Fault.TRANSLATION} == {seen(s, each)[0] for each in places}
        s = step(step(s, "flush_caches", domain=A), "make_table", domain=A)
        assert before == [seen(s, each) for each in places]
        assert [] == broken(s)
        for each in places:
            assert (3 if each[2] == 2 else 2) == translated(s, A, gfn_of(*map(Index, each))).level


def test_split_piece__is_of_a_block_of_a_gigabyte_and_done_once():
    s = step(with_block(boot(FLAT)), "prepare_split", domain=A, **at(*PAGE), level=2, page=Mfn(POOL[10]))
    illegal(s, "split_piece", domain=A, page=Mfn(POOL[11]))
    with small_tables():
        s = with_tables(with_root(boot(SMALL[0]), A), A, pages(), 1, 0, 0, 0, 0)
        s = insert(s, FIRST, level=1, digits=(0, 0, 0, 0))
        illegal(s, "split_piece", domain=A, page=Mfn(POOL[11]))
        s = step(s, "prepare_split", domain=A, **at(0, 0, 2, 1), level=1, page=Mfn(POOL[10]))
        illegal(s, "split_piece", domain=A, page=Mfn(POOL[10]))
        s = step(s, "split_piece", domain=A, page=Mfn(POOL[11]))
        illegal(s, "split_piece", domain=A, page=Mfn(POOL[12]))


# ---- the valid bit


def test_invalidate__hides_a_mapping_that_xen_still_finds():
    s = step(with_page(boot(FLAT)), "invalidate_word", domain=A, **at(*PAGE), level=0)
    assert (Fault.TRANSLATION, FRAME) == (seen(s)[0], found(s, A, gfn_of(*map(Index, PAGE))).frame)


def test_resolve__repairs_level_by_level():
    s = step(with_page(boot(FLAT)), "invalidate_word", domain=A, **at(*PAGE), level=0)
    for level in (0, 1, 2, 3):
        assert (Fault.TRANSLATION, level) == (seen(s)[0], translated(s, A, gfn_of(*map(Index, PAGE))).level)
        s = step(s, "resolve_fault", domain=A, **at(*PAGE), level=level)
    assert (Fault.NONE, FRAME) == seen(s)


def test_resolve__refuses_where_nothing_is_mapped():
    s = with_root(boot(FLAT), A)
    assert 22 == refused(s, "resolve_fault", domain=A, **at(*PAGE), level=0)


def test_resolve__what_somebody_else_repaired_is_repaired():
    s = with_page(boot(FLAT))
    assert s is step(s, "resolve_fault", domain=A, **at(*PAGE), level=3)


def test_resolve__of_a_table_leaves_a_flush_pending():
    s = step(with_page(boot(FLAT)), "invalidate_word", domain=A, **at(*PAGE), level=0)
    s = step(s, "flush_caches", domain=A)
    assert step(s, "resolve_fault", domain=A, **at(*PAGE), level=0).space[A].flush


# ---- caches and reuse


def test_cache__a_removed_page_may_still_be_reached_until_the_flush():
    s = step(with_page(boot(FLAT)), "cache_translation", vmid=1, **at(*PAGE))
    s = step(s, "remove_word", domain=A, **at(*PAGE), level=3)
    key = (1, *map(Index, PAGE))
    assert (True, FRAME) == (s.tlb[key].cached, s.tlb[key].frame)
    assert not step(s, "flush_caches", domain=A).tlb[key].cached


def test_cache__a_walk_goes_on_from_a_cached_table_to_the_next() -> None:
    """The pointer to the next table is cached as well, and leads where the word leads."""
    s = step(with_page(boot(FLAT)), "cache_table", vmid=1, **at(*PAGE), level=2)
    s = step(s, "cache_next_table", vmid=1, **at(*PAGE), level=2)
    last = s.walk_cache[1, 3, *map(Index, PAGE)]
    table = s.walk_cache[1, 2, *map(Index, PAGE)].table
    assert (True, word_at(s, table, Index(PAGE[2])).frame) == (last.cached, last.table)


def test_take_frame__flushes_all_guests_if_a_domain_had_it():
    s = step(with_page(boot(FLAT)), "cache_translation", vmid=1, **at(*PAGE))
    s = step(s, "remove_word", domain=A, **at(*PAGE), level=3)
    s = step(s, "free_frame", page=FRAME)
    s = step(s, "take_frame", page=FRAME, for_tables=False)
    assert not s.tlb[1, *map(Index, PAGE)].cached


def test_take_frame__ends_what_its_last_domain_may_cache():
    s = step(with_page(boot(FLAT)), "remove_word", domain=A, **at(*PAGE), level=3)
    s = step(step(s, "free_frame", page=FRAME), "take_frame", page=FRAME, for_tables=False)
    assert [] == broken(s)
    key = (1, *map(Index, PAGE))
    assert [("INV-TLB-REUSE", key)] == broken(put(s, "tlb", key, cached=True, frame=FRAME))


def test_take_frame__flushes_pointers_to_tables_that_lead_to_it():
    s = step(with_page(boot(FLAT)), "cache_table", vmid=1, **at(*PAGE), level=3)
    s = step(s, "remove_word", domain=A, **at(*PAGE), level=2)
    s = step(step(s, "free_frame", page=FRAME), "take_frame", page=FRAME, for_tables=False)
    assert not s.walk_cache[1, 3, *map(Index, PAGE)].cached
    assert [] == broken(s)


def test_shrink_pool__gives_a_page_that_can_be_had_as_memory():
    s = step(boot(FLAT), "shrink_pool", page=Mfn(POOL[20]))
    s = step(s, "take_frame", page=Mfn(POOL[20]), for_tables=False)
    assert Use.MEMORY == s.table_frame[Mfn(POOL[20])].use


def test_free_frame__not_while_it_is_mapped():
    with pytest.raises(IllegalChoice):
        step(with_page(boot(FLAT)), "free_frame", page=FRAME)


def test_retire_table__flushes_before_a_table_can_be_reused():
    s = step(with_page(boot(FLAT)), "cache_table", vmid=1, **at(*PAGE), level=3)
    s = step(s, "remove_word", domain=A, **at(*PAGE), level=2)
    table = s.walk_cache[1, 3, *map(Index, PAGE)].table
    s = step(s, "retire_table", domain=A, page=table)
    assert (False, Use.RETIRED) == (s.walk_cache[1, 3, *map(Index, PAGE)].cached, s.table_frame[table].use)
    assert Use.POOL == step(s, "free_table", page=table).table_frame[table].use


def test_retire_table__not_while_a_word_leads_to_it():
    s = with_page(boot(FLAT))
    with pytest.raises(IllegalChoice):
        step(s, "retire_table", domain=A, page=word_at(s, Mfn(POOL[0]), Index(0)).frame)


def test_retire_table__frees_a_subtree_page_by_page():
    s = step(with_page(boot(FLAT)), "remove_word", domain=A, **at(*PAGE), level=1)
    for _ in range(2):
        loose = [f for f, row in s.table_frame.items() if row.use == Use.TABLE and not row.linked]
        assert 1 == len(loose)
        s = step(step(s, "retire_table", domain=A, page=loose[0]), "free_table", page=loose[0])
    assert [] == broken(s)


def test_take_vmid__refuses_one_that_is_taken():
    assert 16 == refused(with_root(boot(FLAT), A), "take_vmid", domain=B, vmid=1)


def test_make_root__flushes_what_the_vmid_left_behind():
    s = put(boot(FLAT), "tlb", (1, *map(Index, PAGE)), cached=True, frame=FRAME)
    assert not with_root(s, A).tlb[1, *map(Index, PAGE)].cached


def test_destroy__gives_everything_back():
    s = step(with_page(boot(FLAT)), "clear_root_word", domain=A, **{k: v for k, v in at(*PAGE).items() if k != "i3"})
    s = step(step(s, "flush_caches", domain=A), "abandon_tables", domain=A)
    for frame in [f for f, row in s.table_frame.items() if row.use == Use.RETIRED]:
        s = step(s, "free_table", page=frame)
    s = step(s, "destroy_root", domain=A)
    assert (False, False) == (s.space[A].alive, s.tag[1].used)
    assert [] == [f for f, row in s.table_frame.items() if row.use in (Use.TABLE, Use.NEW, Use.RETIRED)]


def test_destroy__not_while_tables_remain():
    s = step(with_page(boot(FLAT)), "clear_root_word", domain=A, **{k: v for k, v in at(*PAGE).items() if k != "i3"})
    with pytest.raises(IllegalChoice):
        step(step(s, "flush_caches", domain=A), "destroy_root", domain=A)


def test_store_anywhere__never_into_a_table():
    with pytest.raises(IllegalChoice):
        step(with_root(boot(FLAT), A), "store_anywhere", page=Mfn(POOL[0]), position=Index(0), word=1)


def test_shape__is_one_for_all():
    assert FLAT.start_level == boot(FLAT).shape[ONE].start_level


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_same_block__compares_the_indices_down_to_the_level(level):
    here = [Index(5)] * 4
    same = [same_block(level, *here, *here[:i], Index(6), *here[i + 1:]) for i in range(4)]
    assert [False] * (level + 1) + [True] * (3 - level) == same
