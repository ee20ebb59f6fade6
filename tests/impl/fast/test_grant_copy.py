"""GNTTABOP_copy: bytes, windows, transitivity, cached buffers, and each status in Xen's order."""

import pytest

from impl.fast import abi
from impl.fast.grant import layouts as g
from impl.fast.grant.table import HSTR_INC, HSTW_INC
from tests.impl.fast.test_grant_support import GRANTER, HOST, MAPPER, PAGE, SELF, THIRD, Board

OWN = 0x40005               # a page of the copier
SOURCE, DEST = g.GNTCOPY_source_gref, g.GNTCOPY_dest_gref
TEXT = b"sixteen bytes..."


@pytest.fixture(params=["arm64", "arm32"])
def board(request):
    board = Board(request.param)
    board.offer(9)
    board.write(GRANTER, PAGE << 12, TEXT)
    return board


@pytest.fixture
def second():
    """Version 2 tables for the granter and the third domain."""
    board = Board(version=2)
    for dom in (GRANTER, THIRD):
        assert board.one(dom, g.GNTTABOP_set_version, g.SET_VERSION, 2)[0] == 0
    board.write(GRANTER, PAGE << 12, TEXT)
    board.write(THIRD, PAGE << 12, b"third domain's..")
    return board


def copies(board, *items, dom=MAPPER):
    """items: (source, dest, length, flags). The result of one call and the statuses (99 unwritten)."""
    data = b"".join(g.COPY.pack(*source, *dest, length, flags, 99) for source, dest, length, flags in items)
    address = board.address(dom)
    board.write(dom, address, data)
    result = board.call(dom, g.GNTTABOP_copy, address, len(items))
    found = board.read(dom, address, len(data))
    return result, [g.COPY.unpack_from(found, 40 * i)[-1] for i in range(len(items))]


# ---- success ---------------------------------------------------------------------------------------------------


def test_copy__from_a_grant_brings_the_bytes(board):
    board.copy((9, GRANTER, 0), (OWN, SELF, 0x20))
    assert board.read(MAPPER, (OWN << 12) + 0x20, 16) == TEXT


def test_copy__to_a_grant_brings_the_bytes(board):
    board.write(MAPPER, OWN << 12, b"written by peer!")
    board.copy((OWN, SELF, 0), (9, GRANTER, 0x30), flags=DEST)
    assert board.read(GRANTER, (PAGE << 12) + 0x30, 16) == b"written by peer!"


def test_copy__between_two_grants_brings_the_bytes(board):
    board.offer(4, granter=THIRD)
    board.copy((9, GRANTER, 0), (4, THIRD, 0), flags=SOURCE | DEST)
    assert board.read(THIRD, PAGE << 12, 16) == TEXT


def test_copy__between_own_frames_needs_no_grant(board):
    board.write(MAPPER, OWN << 12, TEXT)
    assert (board.copy((OWN, SELF, 0), (OWN + 1, SELF, 0), flags=0), board.read(MAPPER, OWN + 1 << 12, 16)) == (0, TEXT)


def test_copy__leaves_no_pin_mark_or_reference(board):
    board.copy((9, GRANTER, 0), (OWN, SELF, 0))
    assert (board.active(9), board.flags(9), board.references(board.mfn(GRANTER, PAGE))) == (
        None, g.GTF_permit_access, 1)


def test_copy__of_nothing_succeeds(board):
    assert board.copy((9, GRANTER, 4096), (OWN, SELF, 4096), 0) == g.GNTST_okay


def test_copy__of_nothing_still_checks_the_grant(board):
    assert board.copy((10, GRANTER, 0), (OWN, SELF, 0), 0) == g.GNTST_general_error


def test_copy__of_a_v1_entry_ignores_its_sub_page_bit(board):
    board.offer(9, flags=g.GTF_permit_access | g.GTF_sub_page)
    assert board.copy((9, GRANTER, 0), (OWN, SELF, 0)) == g.GNTST_okay


def test_copy__of_a_page_mapped_by_the_copier_uses_the_pinned_frame(board):
    board.map(9)
    board.offer(9, to=THIRD, gfn=PAGE + 1)
    board.copy((9, GRANTER, 0), (OWN, SELF, 0))
    assert board.read(MAPPER, OWN << 12, 16) == TEXT


# ---- failures, in Xen's order ------------------------------------------------------------------------------------


def test_copy__of_a_frame_of_another_domain_is_denied(board):
    assert board.copy((PAGE, GRANTER, 0), (OWN, SELF, 0), flags=0) == g.GNTST_permission_denied


def test_copy__of_an_own_frame_by_real_id_is_denied(board):
    assert board.copy((OWN, MAPPER, 0), (OWN, SELF, 0), flags=0) == g.GNTST_permission_denied


def test_copy__to_a_frame_of_another_domain_is_denied(board):
    assert board.copy((9, GRANTER, 0), (PAGE, GRANTER, 0)) == g.GNTST_permission_denied


def test_copy__from_an_unknown_domain_reports_that_before_the_destination(board):
    assert board.copy((9, 555, 0), (PAGE, GRANTER, 0)) == g.GNTST_bad_domain


def test_copy__to_an_unknown_domain_is_bad_domain(board):
    assert board.copy((9, GRANTER, 0), (9, 555, 0), flags=SOURCE | DEST) == g.GNTST_bad_domain


def test_copy__between_domus_under_silo_is_denied_before_the_reference_is_looked_at():
    board = Board(xsm="silo")
    assert board.copy((9999, GRANTER, 0), (OWN, SELF, 0)) == g.GNTST_permission_denied


def test_copy__denied_under_silo_is_denied_again_in_the_next_item():
    board = Board(xsm="silo")
    item = ((9, GRANTER, 0), (OWN, SELF, 0), 16, SOURCE)
    assert copies(board, item, item)[1] == [g.GNTST_permission_denied] * 2


def test_copy__with_a_bad_destination_looks_its_source_domain_up_again(board):
    items = [((9, GRANTER, 0), (9, 555, 0), 16, SOURCE | DEST), ((PAGE, GRANTER, 0), (9, 555, 0), 16, DEST)]
    assert copies(board, *items)[1] == [g.GNTST_bad_domain, g.GNTST_permission_denied]


def test_copy__of_oneself_under_silo_is_allowed():
    assert Board(xsm="silo").copy((OWN, SELF, 0), (OWN, SELF, 0), flags=0) == g.GNTST_okay


def test_copy__beyond_the_table_is_bad_gntref(board):
    assert board.copy((512, GRANTER, 0), (OWN, SELF, 0)) == g.GNTST_bad_gntref


def test_copy__of_an_entry_for_another_domain_is_a_general_error(board):
    board.offer(9, to=THIRD)
    assert board.copy((9, GRANTER, 0), (OWN, SELF, 0)) == g.GNTST_general_error


def test_copy__of_an_entry_pinned_by_another_domain_is_a_general_error(board):
    board.map(9)
    board.offer(9, to=THIRD)
    assert board.copy((9, GRANTER, 0), (OWN, SELF, 0), dom=THIRD) == g.GNTST_general_error


def test_copy__with_128_pins_of_the_kind_is_a_general_error(board):
    board.map(9)
    board.table(GRANTER).pin[9] += 128 * HSTR_INC
    assert board.copy((9, GRANTER, 0), (OWN, SELF, 0)) == g.GNTST_general_error


def test_copy__to_a_read_only_entry_is_a_general_error(board):
    board.offer(9, flags=g.GTF_permit_access | g.GTF_readonly)
    assert board.copy((OWN, SELF, 0), (9, GRANTER, 0), flags=DEST) == g.GNTST_general_error


def test_copy__from_a_read_only_entry_succeeds(board):
    board.offer(9, flags=g.GTF_permit_access | g.GTF_readonly)
    assert board.copy((9, GRANTER, 0), (OWN, SELF, 0)) == g.GNTST_okay


def test_copy__of_a_grant_of_an_empty_gfn_is_bad_page(board):
    board.offer(9, gfn=0x12345)
    assert board.copy((9, GRANTER, 0), (OWN, SELF, 0)) == g.GNTST_bad_page


def test_copy__of_a_grant_of_an_empty_gfn_clears_the_marks(board):
    board.offer(9, gfn=0x12345)
    board.copy((9, GRANTER, 0), (OWN, SELF, 0))
    assert board.flags(9) == g.GTF_permit_access


def test_copy__from_an_empty_own_frame_is_bad_page(board):
    assert board.copy((0x12345, SELF, 0), (OWN, SELF, 0), flags=0) == g.GNTST_bad_page


def test_copy__from_an_own_frame_that_maps_a_grant_is_bad_page(board):
    board.map(9)
    assert board.copy((HOST >> 12, SELF, 0), (OWN, SELF, 0), flags=0) == g.GNTST_bad_page


def test_copy__to_an_own_frame_that_is_read_only_succeeds(board):
    mfn = board.mfn(MAPPER, OWN)
    board.machine.domains[MAPPER].p2m.insert(OWN, 1, mfn, abi.p2m_ram_ro)
    assert board.copy((9, GRANTER, 0), (OWN, SELF, 0)) == g.GNTST_okay


def test_copy__reports_the_source_grant_before_the_destination_frame(board):
    assert board.copy((512, GRANTER, 0), (0x12345, SELF, 0)) == g.GNTST_bad_gntref


@pytest.mark.parametrize(("start", "end"), [(4090, 0), (0, 4090)])
def test_copy__beyond_the_page_is_bad_copy_arg(board, start, end):
    assert board.copy((9, GRANTER, start), (OWN, SELF, end)) == g.GNTST_bad_copy_arg


def test_copy__beyond_the_page_reports_a_bad_grant_first(board):
    assert board.copy((512, GRANTER, 4090), (OWN, SELF, 0)) == g.GNTST_bad_gntref


def test_copy__of_a_pinned_page_of_a_dying_granter_is_bad_domain(board):
    board.map(9)
    board.machine.domains[GRANTER].is_dying = 1
    assert board.copy((9, GRANTER, 0), (OWN, SELF, 0)) == g.GNTST_bad_domain


def test_copy__of_a_pinned_page_that_changed_hands_is_bad_domain(board):
    board.map(9)
    mfn = board.mfn(GRANTER, PAGE)
    board.machine.frames.owner[board.machine.frames.index(mfn)] = THIRD
    assert (board.copy((9, GRANTER, 0), (OWN, SELF, 0)), board.references(mfn)) == (g.GNTST_bad_domain, 2)


def test_copy__on_arm32_cuts_the_gfn_to_32_bits():
    board = Board("arm32")
    assert board.copy((OWN | 1 << 32, SELF, 0), (OWN, SELF, 0), flags=0) == g.GNTST_okay


# ---- several items -----------------------------------------------------------------------------------------------


def test_copy__goes_on_after_a_failed_item(board):
    good = ((9, GRANTER, 0), (OWN, SELF, 0), 16, SOURCE)
    bad = ((512, GRANTER, 0), (OWN, SELF, 0), 16, SOURCE)
    assert copies(board, good, bad, good) == (0, [g.GNTST_okay, g.GNTST_bad_gntref, g.GNTST_okay])


def test_copy__keeps_a_grant_that_was_withdrawn_between_items(board):
    """The second item repeats the reference: it is not looked up again."""
    item = ((9, GRANTER, 0), (OWN, SELF, 0), 16, SOURCE)
    calls = []

    def withdraw(ref):
        calls.append(ref)
        if len(calls) == 4:     # after the first item's acquisition: read, exchange, frame; the 4th is the release
            board.offer(9, flags=g.GTF_invalid)
    board.table(GRANTER).before_access = withdraw
    assert (copies(board, item, item)[1], len(calls)) == ([g.GNTST_okay, g.GNTST_okay], 4)


def test_copy__releases_and_acquires_when_the_reference_changes(board):
    board.offer(10, gfn=PAGE + 1)
    items = [((ref, GRANTER, 0), (OWN, SELF, 0), 16, SOURCE) for ref in (9, 10)]
    copies(board, *items)
    assert (board.active(9), board.active(10)) == (None, None)


def test_copy__keeps_a_pin_while_items_repeat_the_grant(board):
    """After 127 pins by others, three items of one grant fit: they share one pin."""
    board.map(9)
    board.table(GRANTER).pin[9] += 127 * HSTR_INC
    item = ((9, GRANTER, 0), (OWN, SELF, 0), 16, SOURCE)
    assert copies(board, item, item, item)[1] == [g.GNTST_okay] * 3


def test_copy__checks_the_rule_of_own_frames_only_when_the_domain_changes(board):
    """Xen's cache of domains skips the check for an item that repeats the domain ids without naming a grant."""
    items = [((9, GRANTER, 0), (OWN, SELF, 0), 16, SOURCE), ((PAGE, GRANTER, 0), (OWN, SELF, 0), 16, 0)]
    assert copies(board, *items) == (0, [g.GNTST_okay, g.GNTST_okay])


def test_copy__reuses_the_page_of_a_grant_for_a_frame_of_the_same_number():
    """A reference and a gfn share a union: gfn 9 after reference 9 finds the grant's page."""
    board = Board()
    board.offer(9, to=MAPPER, gfn=PAGE, granter=MAPPER)
    board.write(MAPPER, PAGE << 12, TEXT)
    items = [((9, SELF, 0), (OWN, SELF, 0), 16, SOURCE), ((9, SELF, 0), (OWN + 1, SELF, 0), 16, 0)]
    assert (copies(board, *items), board.read(MAPPER, OWN + 1 << 12, 16)) == ((0, [0, 0]), TEXT)


def test_copy__does_not_reuse_a_frame_for_a_reference_of_the_same_number(board):
    board.offer(9, to=MAPPER, gfn=PAGE, granter=MAPPER)
    board.write(MAPPER, PAGE << 12, TEXT)
    board.machine.domains[MAPPER].p2m.insert(9, 1, board.mfn(MAPPER, OWN + 2), abi.p2m_ram_rw)
    items = [((9, SELF, 0), (OWN, SELF, 0), 16, 0), ((9, SELF, 0), (OWN + 1, SELF, 0), 16, SOURCE)]
    assert (copies(board, *items), board.read(MAPPER, OWN + 1 << 12, 16)) == ((0, [0, 0]), TEXT)


@pytest.mark.parametrize("side", [0, 1])
def test_copy__compares_references_by_their_low_32_bits(board, side):
    """The same grant with other upper bits is not acquired again."""
    calls: list[int] = []
    board.table(GRANTER).before_access = calls.append
    grants = (9, GRANTER, 0), (9 | 1 << 32, GRANTER, 0)
    own = (OWN, SELF, 0)
    copies(board, *((own, grant, 16, DEST) if side else (grant, own, 16, SOURCE) for grant in grants))
    assert len(calls) == 4


def test_copy__that_faults_releases_what_it_held(board):
    address = 0x40006000 - 40
    board.write(MAPPER, address, g.COPY.pack(9, GRANTER, 0, OWN, SELF, 0, 16, SOURCE, 99))
    board.machine.domains[MAPPER].p2m.remove(0x40006, 1, board.mfn(MAPPER, 0x40006))
    assert (board.call(MAPPER, g.GNTTABOP_copy, address, 2), board.active(9)) == (-abi.EFAULT, None)


def test_copy__of_many_items_is_preempted_before_an_item(board):
    item = g.COPY.pack(9, GRANTER, 0, OWN, SELF, 0, 16, SOURCE, 99)
    address = board.address(MAPPER)
    board.write(MAPPER, address, item * 20)
    board.machine.preempt_after(13)
    seen = board.observe(MAPPER, g.GNTTABOP_copy, address, 20)
    assert (seen.restart, seen.registers[:3], board.active(9)) == (
        True, [g.GNTTABOP_copy, address + 13 * 40, 7], None)


# ---- pins of another kind -----------------------------------------------------------------------------------------


def test_copy__upgrade_of_a_read_pin_copies_the_recorded_frame(board):
    """For the first write pin Xen looks the changed frame up again, takes its reference, and writes to the old one."""
    board.map(9, g.GNTMAP_host_map | g.GNTMAP_readonly)
    board.offer(9, gfn=PAGE + 1)
    board.write(MAPPER, OWN << 12, b"to the old frame")
    board.copy((OWN, SELF, 0), (9, GRANTER, 0), flags=DEST)
    assert board.read(GRANTER, PAGE << 12, 16) == b"to the old frame"


def test_copy__upgrade_takes_no_lasting_reference(board):
    board.map(9, g.GNTMAP_host_map | g.GNTMAP_readonly)
    board.offer(9, gfn=PAGE + 1)
    board.copy((OWN, SELF, 0), (9, GRANTER, 0), flags=DEST)
    assert [board.references(board.mfn(GRANTER, PAGE + i)) for i in range(2)] == [2, 1]


# ---- version 2 ----------------------------------------------------------------------------------------------------


def test_copy_v2__of_a_full_page_brings_the_bytes(second):
    second.offer(9)
    second.copy((9, GRANTER, 0), (OWN, SELF, 0))
    assert second.read(MAPPER, OWN << 12, 16) == TEXT


def test_copy_v2__within_a_sub_page_succeeds(second):
    second.offer_sub_page(9, 4, 16)
    assert second.copy((9, GRANTER, 4), (OWN, SELF, 0)) == g.GNTST_okay


@pytest.mark.parametrize("offset", [3, 5])
def test_copy_v2__outside_a_sub_page_is_a_general_error(second, offset):
    second.offer_sub_page(9, 4, 16)
    assert second.copy((9, GRANTER, offset), (OWN, SELF, 0)) == g.GNTST_general_error


def test_copy_v2__to_outside_a_sub_page_is_a_general_error(second):
    second.offer_sub_page(9, 4, 16)
    assert second.copy((OWN, SELF, 0), (9, GRANTER, 5), flags=DEST) == g.GNTST_general_error


def test_copy_v2__keeps_15_bits_of_a_sub_pages_start(second):
    second.offer_sub_page(9, 0x8000, 16)
    assert second.copy((9, GRANTER, 0), (OWN, SELF, 0)) == g.GNTST_okay


def test_copy_v2__leaves_the_status_word_clear(second):
    second.offer(9)
    second.copy((OWN, SELF, 0), (9, GRANTER, 0), flags=DEST)
    assert second.status(9) == 0


def transitive(board, **entry):
    """The third domain grants to the granter, who passes it on to the mapper."""
    board.offer(4, to=GRANTER, granter=THIRD)
    board.offer_transitive(9, THIRD, 4, **entry)


def test_copy_v2__of_a_transitive_grant_brings_the_third_domains_bytes(second):
    transitive(second)
    second.copy((9, GRANTER, 0), (OWN, SELF, 0))
    assert second.read(MAPPER, OWN << 12, 16) == b"third domain's.."


def test_copy_v2__of_a_transitive_grant_releases_both_pins(second):
    transitive(second)
    second.copy((9, GRANTER, 0), (OWN, SELF, 0))
    assert (second.active(9), second.active(4, THIRD), second.status(9), second.status(4, THIRD)) == (None, None, 0, 0)


def test_copy_v2__of_a_transitive_grant_for_another_domain_is_a_general_error(second):
    transitive(second, to=THIRD)
    assert second.copy((9, GRANTER, 0), (OWN, SELF, 0)) == g.GNTST_general_error


def test_copy_v2__marks_both_entries_of_a_transitive_grant_meanwhile(second):
    transitive(second)
    second.offer(5, granter=THIRD)
    seen = []
    second.table(THIRD).before_access = lambda ref: seen.append(
        (second.status(9), second.status(4, THIRD))) if ref == 5 else None
    second.copy((9, GRANTER, 0), (5, THIRD, 0), flags=SOURCE | DEST)
    assert seen[0] == (g.GTF_reading, g.GTF_reading)


def test_copy_v2__pins_a_transitive_grant_as_a_sub_page_of_the_third_domain(second):
    transitive(second)
    second.offer(5, granter=THIRD)
    seen = []
    # the destination is acquired while the source is pinned
    second.table(THIRD).before_access = lambda ref: seen.append(second.active(9)) if ref == 5 else None
    second.copy((9, GRANTER, 0), (5, THIRD, 0), flags=SOURCE | DEST)
    assert seen[0] == (1, 0, 0, 0, second.mfn(THIRD, PAGE), 0, 4096, True, THIRD, 4)


def test_copy_v2__within_one_transitive_grant_pins_it_twice(second):
    transitive(second)
    second.copy((9, GRANTER, 0), (9, GRANTER, 0x100), flags=SOURCE | DEST)
    assert (second.read(THIRD, (PAGE << 12) + 0x100, 16), second.active(9), second.active(4, THIRD)) == (
        b"third domain's..", None, None)


def test_copy_v2__within_one_transitive_grant_marks_the_write_pin(second):
    transitive(second)
    seen = []
    second.table(THIRD).before_access = lambda ref: seen.append(second.status(9))
    second.copy((9, GRANTER, 0), (9, GRANTER, 0x100), flags=SOURCE | DEST)
    assert {g.GTF_reading, g.GTF_reading | g.GTF_writing} <= set(seen)


def test_copy_v2__between_two_reads_of_one_transitive_grant_sets_no_mark_again(second):
    """A reader is pinned already: the guest, which cleared the mark, does not see it set again."""
    transitive(second)
    table = second.table(GRANTER)
    table.pin[9], table.act_domid[9], table.sub_page[9] = HSTR_INC, MAPPER, 1
    table.act_mfn[9], table.length[9], table.trans_domain[9], table.trans_gref[9] = (
        second.mfn(THIRD, PAGE), 4096, THIRD, 4)
    assert (second.copy((9, GRANTER, 0), (OWN, SELF, 0)), second.status(9)) == (g.GNTST_okay, 0)


def test_copy_v2__within_one_transitive_grant_that_changed_meanwhile_starts_again(second):
    """Between source and destination the granter points the entry at another grant of the same domain."""
    transitive(second)
    second.offer(5, to=GRANTER, granter=THIRD, gfn=PAGE + 1)
    calls = []

    def redirect(ref):
        calls.append(ref)
        if len(calls) == 7:     # the source took 6: type, header, status, header, target, reference
            second.offer_transitive(9, THIRD, 5)
    second.table(GRANTER).before_access = redirect
    address = second.address(MAPPER)
    second.write(MAPPER, address, g.COPY.pack(9, GRANTER, 0, 9, GRANTER, 0x100, 16, SOURCE | DEST, 99))
    assert second.observe(MAPPER, g.GNTTABOP_copy, address, 1).restart


def test_copy_v2__of_a_transitive_grant_of_a_v1_table_works():
    board = Board(version=2)
    board.one(GRANTER, g.GNTTABOP_set_version, g.SET_VERSION, 2)
    transitive(board)
    assert board.copy((9, GRANTER, 0), (OWN, SELF, 0)) == g.GNTST_okay


def test_copy_v2__of_a_transitive_grant_back_to_the_copier_is_allowed(second):
    second.offer(4, to=GRANTER, granter=MAPPER)
    second.offer_transitive(9, MAPPER, 4)
    assert second.copy((9, GRANTER, 0), (OWN, SELF, 0)) == g.GNTST_okay


def test_copy_v2__of_a_transitive_grant_to_the_granter_itself_is_a_general_error(second):
    second.offer_transitive(9, GRANTER, 4)
    assert second.copy((9, GRANTER, 0), (OWN, SELF, 0)) == g.GNTST_general_error


def test_copy_v2__of_a_transitive_grant_of_an_unknown_domain_is_a_general_error(second):
    second.offer_transitive(9, 555, 4)
    assert second.copy((9, GRANTER, 0), (OWN, SELF, 0)) == g.GNTST_general_error


def test_copy_v2__of_a_transitive_grant_of_a_transitive_grant_is_a_general_error(second):
    second.offer_transitive(4, MAPPER, 1, to=GRANTER, granter=THIRD)
    second.offer_transitive(9, THIRD, 4)
    assert second.copy((9, GRANTER, 0), (OWN, SELF, 0)) == g.GNTST_general_error


def test_copy_v2__of_a_transitive_grant_with_a_bad_reference_is_bad_gntref(second):
    second.offer_transitive(9, THIRD, 9999)
    assert second.copy((9, GRANTER, 0), (OWN, SELF, 0)) == g.GNTST_bad_gntref


def test_copy_v2__of_a_failed_transitive_grant_clears_its_marks(second):
    second.offer_transitive(9, THIRD, 9999)
    second.copy((OWN, SELF, 0), (9, GRANTER, 0), flags=DEST)
    assert second.status(9) == 0


def test_copy_v2__of_a_transitive_grant_is_a_general_error_where_that_is_switched_off():
    board = Board(version=2, grant_transitive=False)
    board.one(GRANTER, g.GNTTABOP_set_version, g.SET_VERSION, 2)
    transitive(board)
    assert board.copy((9, GRANTER, 0), (OWN, SELF, 0)) == g.GNTST_general_error


def test_copy_v2__of_a_transitive_grant_for_writing_of_a_read_only_one_is_a_general_error(second):
    second.offer(4, to=GRANTER, granter=THIRD, flags=g.GTF_permit_access | g.GTF_readonly)
    second.offer_transitive(9, THIRD, 4)
    assert second.copy((OWN, SELF, 0), (9, GRANTER, 0), flags=DEST) == g.GNTST_general_error


def test_copy_v2__of_a_mapped_entry_that_became_transitive_starts_again_for_ever(second):
    """The recorded pin does not match what the new entry gives: the item is retried, its status unwritten."""
    second.offer(9)
    second.map(9)
    transitive(second)
    address = second.address(MAPPER)
    second.write(MAPPER, address, g.COPY.pack(9, GRANTER, 0, OWN, SELF, 0, 16, SOURCE, 99))
    seen = second.observe(MAPPER, g.GNTTABOP_copy, address, 1)
    assert (seen.restart, seen.registers[:3], g.COPY.unpack(second.read(MAPPER, address, 40))[-1]) == (
        True, [g.GNTTABOP_copy, address, 1], 99)


def test_copy_v2__that_starts_again_leaves_no_pin_behind(second):
    second.offer(9)
    second.map(9)
    transitive(second)
    address = second.address(MAPPER)
    second.write(MAPPER, address, g.COPY.pack(9, GRANTER, 0, OWN, SELF, 0, 16, SOURCE, 99))
    second.observe(MAPPER, g.GNTTABOP_copy, address, 1)
    assert (second.active(9)[:2], second.active(4, THIRD), second.references(second.mfn(THIRD, PAGE))) == (
        (0, 1), None, 1)


def test_copy_v2__of_a_changed_pin_releases_the_third_domain_when_a_writer_holds_it(second):
    second.offer(9)
    table = second.table(GRANTER)
    table.pin[9], table.act_domid[9] = HSTW_INC, MAPPER
    table.act_mfn[9] = second.mfn(GRANTER, PAGE)
    second.offer_transitive(9, THIRD, 4)
    second.offer(4, to=GRANTER, granter=THIRD)
    address = second.address(MAPPER)
    second.write(MAPPER, address, g.COPY.pack(9, GRANTER, 0, OWN, SELF, 0, 16, SOURCE, 99))
    second.observe(MAPPER, g.GNTTABOP_copy, address, 1)
    assert second.status(4, THIRD) == 0
