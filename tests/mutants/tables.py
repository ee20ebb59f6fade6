"""Wrong ways to change stage-2 tables: each must be noticed by a proof, and by random steps on integers."""

from __future__ import annotations

from tests.mutants.mutation import Mutant

STEPS, PAGES, TLB = "spec.memory.table_steps", "spec.memory.table_pages", "spec.memory.tables"
BITS = "spec.memory.descriptors"


def _mutant(identifier: str, module: str, function: str, words: str, old: str, new: str) -> Mutant:
    return Mutant(f"tables-{identifier}", "tables", module, function, words, old, new)


TABLES: list[Mutant] = [
    # -- which word
    _mutant("index", TLB, "index_at", "the index of another level is used", "level == 1, i1,", "level == 1, i2,"),
    _mutant("step", BITS, "piece", "a block is split into pieces that lie too close", "else ENTRIES", "else 1"),
    _mutant("piece-write", BITS, "piece", "the pieces of a block may be written",
            "evolve(block, table", "evolve(block, write=True, table"),
    _mutant("piece-table", BITS, "piece", "pieces lack the bit that makes a page of them",
            "table=level == LEAF_LEVEL - 1", "table=False"),
    _mutant("unaligned", STEPS, "insert_leaf", "a block may begin anywhere", "frame % size == 0", "frame >= 0"),
    _mutant("target-table", STEPS, "insert_leaf", "a table may be mapped",
            "row.use == Use.MEMORY", "either(row.use == Use.MEMORY, row.use == Use.TABLE)"),
    _mutant("level-0", STEPS, "link_table", "a word of level 0 is a block", "table_word(work.page)",
            "evolve(table_word(work.page), table=work.level != 0)"),
    # -- what a word says
    _mutant("xn", BITS, "leaf_with", "nothing is marked as not executable", "xn=neg(execute)", "xn=False"),
    _mutant("read-only", BITS, "leaf", "a read-only type may be written",
            "both(may_write(kind), lets_write(access))", "lets_write(access)"),
    _mutant("page-bit", BITS, "leaf_with", "a page lacks the bit that makes one of it", "table=level == LEAF_LEVEL",
            "table=False"),
    _mutant("access-flag", BITS, "leaf_with", "the access flag is clear", "af=True", "af=False"),
    # -- filling before linking
    _mutant("not-cleared", STEPS, "prepare_table", "a new table keeps what the page held before",
            's = fill(s, "cell", (page, span(0, ENTRIES)), lambda _row, _m, _i: {"raw": 0})', "pass"),
    _mutant("linked-first", STEPS, "prepare_table", "a new table is linked before it is cleared",
            's = fill(s, "cell", (page, span(0, ENTRIES)), lambda _row, _m, _i: {"raw": 0})',
            "s = store(s, here.table, position, table_word(page))"),
    _mutant("not-copied", STEPS, "prepare_split", "the pieces of a block are empty",
            '{"raw": encode(piece(block, i, level))}', '{"raw": 0}'),
    _mutant("piece-of-another", STEPS, "split_piece", "the pieces of another piece are written",
            "word_at(s, work.page, work.i2)", "word_at(s, work.page, Index(0))"),
    _mutant("piece-not-linked", STEPS, "split_piece", "nothing leads to the table of the pieces of a piece",
            "s = store(s, work.page, work.i2, table_word(page))", "pass"),
    _mutant("piece-stays-new", STEPS, "make_table", "the table of the pieces of a piece is not taken for one",
            'put(s, "table_frame", work.piece_page, use=Use.TABLE, linked=True)', "s"),
    # -- break before make
    _mutant("no-flush-split", STEPS, "break_block", "the pieces are linked without a flush", "must_flush=True",
            "must_flush=False"),
    _mutant("no-flush-insert", STEPS, "insert_leaf", "the new leaf is written without a flush",
            "must_flush=neg(waits)", "must_flush=False"),
    _mutant("no-break", STEPS, "insert_leaf", "a valid word is overwritten", "if not old.valid:", "if True:"),
    _mutant("no-break-split", STEPS, "break_block", "a block is not taken out before its pieces are linked",
            "s = clear(s, work.table, index_at(level, work.i0, work.i1, work.i2, work.i3))", "pass"),
    _mutant("waits-too-often", STEPS, "same_but_permissions", "the flush waits although the frame changes",
            "old.frame == new.frame, ", ""),
    _mutant("not-removed", STEPS, "_take_out", "a mapping is removed from the books but not from the table",
            "s = clear(s, frame, position)", "pass"),
    _mutant("remove-no-flush", STEPS, "_take_out", "no flush follows a removal",
            "either(s.space[domain].flush, old.valid)", "s.space[domain].flush"),
    # -- the valid bit
    _mutant("invalidate-no-flush", STEPS, "invalidate_word", "no flush follows when a valid bit is cleared",
            's = put(s, "space", domain, flush=True)', "pass"),
    _mutant("resolve-all", STEPS, "resolve_fault", "a table becomes valid with all that is below it",
            "evolve(view(row), valid=False)", "view(row)"),
    _mutant("resolve-dead", STEPS, "resolve_fault", "a fault makes a dead word valid", "if not is_live(entry):",
            "if False:"),
    # -- reuse
    _mutant("freed-while-linked", PAGES, "retire_table", "a table is freed that words still lead to",
            "legal(neg(row.linked)", "legal(neg(False)"),
    _mutant("freed-in-use", PAGES, "free_table", "a table goes to the pool although the hardware may walk it",
            "s.table_frame[page].use == Use.RETIRED", "one_of(s.table_frame[page].use, Use.RETIRED, Use.TABLE)"),
    _mutant("retire-no-flush", PAGES, "retire_table", "a table is freed while caches lead to it",
            "if s.space[domain].flush:", "if False:"),
    _mutant("early-reuse", PAGES, "hand_out", "a frame is handed out while caches lead to it",
            "if s.table_frame[page].unflushed:", "if False:"),
    _mutant("flush-keeps-tables", TLB, "flush_domain", "a flush leaves cached table pointers",
            's = fill(s, "walk_cache", (vmid, ALL, ALL, ALL, ALL, ALL), lambda _row, *_key: {"cached": False})',
            "pass"),
    _mutant("heap-flush-keeps-tables", TLB, "flush_everything", "the heap's flush leaves cached table pointers",
            'return fill(s, "walk_cache", (ALL, ALL, ALL, ALL, ALL, ALL), lambda _row, *_key: {"cached": False})',
            "return s"),
    _mutant("vmid-unflushed", PAGES, "make_root", "a VMID is used again without a flush",
            "return accept(flush_domain(s, domain))", "return accept(s)"),
    _mutant("vmid-twice", PAGES, "take_vmid", "two domains get one VMID",
            "either(vmid == 0, s.tag[vmid].used)", "vmid == 0"),
    _mutant("root-not-cleared", PAGES, "make_root", "a root table keeps what its pages held before",
            's = fill(s, "cell", (root_pages(s, root), span(0, ENTRIES)), lambda _row, _m, _i: {"raw": 0})', "pass"),
    _mutant("abandon-early", PAGES, "abandon_tables", "tables are freed before the root table is clear",
            "legal(is_clear(s, domain)", "legal(neg(False)"),
    _mutant("abandon-unflushed", PAGES, "abandon_tables", "tables of a dying domain are freed before the flush",
            "neg(s.space[domain].flush), ", ""),
    _mutant("destroy-early", PAGES, "destroy_root", "the root table is freed before the others",
            "row.level == start", "row.level >= start"),
]
