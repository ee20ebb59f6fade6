"""map_grant_ref: what a map does, and each way in which it fails."""

import pytest

from impl.fast import abi
from impl.fast.grant import layouts as g
from impl.fast.grant.table import HSTR_INC
from tests.impl.fast.test_grant_support import DOM0, GRANTER, HOST, MAPPER, PAGE, SELF, THIRD, Board

RO = g.GNTMAP_host_map | g.GNTMAP_readonly


@pytest.fixture(params=["arm64", "arm32"])
def board(request):
    board = Board(request.param)
    board.offer(9)
    return board


def test_map__answers_with_handle_and_machine_address(board):
    assert board.map(9) == (g.GNTST_okay, 0, board.mfn(GRANTER, PAGE) << 12)


def test_map__puts_the_frame_at_the_host_address(board):
    board.map(9)
    assert board.mfn(MAPPER, HOST >> 12) == board.mfn(GRANTER, PAGE)


@pytest.mark.parametrize(("flags", "kind"), [(g.GNTMAP_host_map, abi.p2m_grant_map_rw), (RO, abi.p2m_grant_map_ro)])
def test_map__chooses_the_type_by_the_readonly_flag(board, flags, kind):
    board.map(9, flags)
    assert board.kind(MAPPER, HOST >> 12) == kind


def test_map__lets_the_mapper_write_the_page(board):
    board.map(9)
    board.machine.store(MAPPER, 0, HOST + 8, 8, 0x1234)
    assert board.machine.load(GRANTER, 0, (PAGE << 12) + 8).value == 0x1234


@pytest.mark.parametrize(("flags", "marks"), [
    (g.GNTMAP_host_map, g.GTF_permit_access | g.GTF_reading | g.GTF_writing),
    (RO, g.GTF_permit_access | g.GTF_reading)])
def test_map__marks_the_shared_entry(board, flags, marks):
    board.map(9, flags)
    assert board.flags(9) == marks


def test_map__takes_one_reference_to_the_page(board):
    before = board.references(board.mfn(GRANTER, PAGE))
    board.map(9)
    assert board.references(board.mfn(GRANTER, PAGE)) == before + 1


def test_map__counts_pins_of_each_kind(board):
    board.map(9)
    board.map(9, RO, HOST + 0x1000)
    board.map(9, RO, HOST + 0x2000)
    assert board.active(9)[:4] == (2, 1, 0, 0)


def test_map__gives_another_handle_to_the_second_mapping(board):
    assert [board.map(9)[1], board.map(9, host=HOST + 0x1000)[1]] == [0, 1]


def test_map__ignores_the_low_bits_of_the_host_address(board):
    board.map(9, host=HOST + 0xABC)
    assert board.kind(MAPPER, HOST >> 12) == abi.p2m_grant_map_rw


def test_map__replaces_the_callers_own_page_silently(board):
    lost = board.mfn(MAPPER, PAGE)
    board.map(9, host=PAGE << 12)
    assert (board.machine.frames.owner_of(lost), board.mfn(MAPPER, PAGE)) == (MAPPER, board.mfn(GRANTER, PAGE))


def test_map__accepts_a_grant_to_oneself_by_real_id(board):
    board.offer(3, to=MAPPER, granter=MAPPER)
    assert board.map(3, granter=MAPPER)[0] == g.GNTST_okay


def test_map__of_a_pinned_entry_skips_its_type_and_domain(board):
    board.map(9, RO)
    board.offer(9, to=THIRD, flags=g.GTF_invalid)
    assert board.map(9, RO, HOST + 0x1000)[0] == g.GNTST_okay


def test_map__keeps_to_the_frame_first_pinned(board):
    board.map(9)
    board.offer(9, gfn=PAGE + 1)
    assert board.map(9, host=HOST + 0x1000)[2] == board.mfn(GRANTER, PAGE) << 12


def test_map__of_a_read_only_p2m_entry_for_writing_succeeds(board):
    p2m = board.machine.domains[GRANTER].p2m
    p2m.insert(PAGE, 1, board.mfn(GRANTER, PAGE), abi.p2m_ram_ro)
    assert board.map(9)[0] == g.GNTST_okay


# ---- failures, in Xen's order ----------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [0, g.GNTMAP_readonly, g.GNTMAP_contains_pte])
def test_map__without_a_map_asked_for_is_bad_gntref(board, flags):
    assert board.map(9, flags, granter=555) == (g.GNTST_bad_gntref, 77, 88)


@pytest.mark.parametrize("flag", [g.GNTMAP_device_map, g.GNTMAP_application_map, g.GNTMAP_contains_pte])
def test_map__of_a_kind_that_paged_guests_have_not_is_a_general_error(board, flag):
    assert board.map(9, g.GNTMAP_host_map | flag, granter=555)[0] == g.GNTST_general_error


@pytest.mark.parametrize("granter", [555, SELF])
def test_map__from_an_unknown_domain_or_self_is_bad_domain(board, granter):
    assert board.map(9, granter=granter)[0] == g.GNTST_bad_domain


def test_map__between_domus_under_silo_is_denied():
    board = Board(xsm="silo")
    board.offer(9)
    assert board.map(9999)[0] == g.GNTST_permission_denied


def test_map__by_dom0_under_silo_is_allowed():
    board = Board(xsm="silo")
    board.offer(9, to=DOM0)
    assert board.map(9, dom=DOM0, host=0x1000000)[0] == g.GNTST_okay


def test_map__of_oneself_under_silo_is_allowed():
    board = Board(xsm="silo")
    board.offer(9, to=MAPPER, granter=MAPPER)
    assert board.map(9, granter=MAPPER)[0] == g.GNTST_okay


def test_map__without_maptrack_has_no_space_before_the_reference_is_looked_at():
    board = Board(mapper={"max_maptrack_frames": 0})
    assert board.map(9999)[0] == g.GNTST_no_space


def test_map__beyond_the_table_is_bad_gntref(board):
    assert board.map(512) == (g.GNTST_bad_gntref, 77, 88)


def test_map__of_an_entry_for_another_domain_is_a_general_error(board):
    board.offer(9, to=THIRD)
    assert board.map(9)[0] == g.GNTST_general_error


@pytest.mark.parametrize("flags", [g.GTF_invalid, g.GTF_accept_transfer, g.GTF_transitive,
                                   g.GTF_permit_access | g.GTF_sub_page])
def test_map__of_an_entry_of_another_type_is_a_general_error(board, flags):
    board.offer(9, flags=flags)
    assert board.map(9)[0] == g.GNTST_general_error


def test_map__for_writing_of_a_read_only_entry_is_a_general_error(board):
    board.offer(9, flags=g.GTF_permit_access | g.GTF_readonly)
    assert board.map(9)[0] == g.GNTST_general_error


def test_map__upgrade_of_a_read_only_pinned_entry_is_a_general_error(board):
    board.map(9, RO)
    board.offer(9, flags=g.GTF_permit_access | g.GTF_readonly)
    assert board.map(9, host=HOST + 0x1000)[0] == g.GNTST_general_error


def test_map__of_an_entry_pinned_by_another_domain_is_a_general_error(board):
    board.map(9)
    board.offer(9, to=THIRD)
    assert board.map(9, dom=THIRD)[0] == g.GNTST_general_error


def test_map__is_refused_after_128_pins_of_the_kind(board):
    statuses = [board.map(9, RO, HOST + 0x1000 * i)[0] for i in range(129)]
    assert statuses == [g.GNTST_okay] * 128 + [g.GNTST_general_error]


def test_map__counts_the_limit_by_kind(board):
    for i in range(128):
        board.map(9, RO, HOST + 0x1000 * i)
    assert board.map(9, host=HOST + 0x100000)[0] == g.GNTST_okay


def test_map__of_an_empty_gfn_is_bad_page(board):
    board.offer(9, gfn=0x12345)
    assert board.map(9)[0] == g.GNTST_bad_page


def test_map__of_a_bad_page_clears_the_marks_again(board):
    board.offer(9, gfn=0x12345)
    board.map(9)
    assert board.flags(9) == g.GTF_permit_access


def test_map__of_a_page_that_the_granter_maps_by_grant_is_bad_page(board):
    board.offer(4, to=GRANTER, granter=THIRD)
    board.map(4, dom=GRANTER, granter=THIRD)
    board.offer(9, gfn=HOST >> 12)
    assert board.map(9)[0] == g.GNTST_bad_page


def test_map__of_a_page_that_the_granter_maps_as_foreign_is_bad_page(board):
    mfn = board.mfn(THIRD, PAGE)
    board.machine.frames.get_page(mfn, THIRD)
    board.machine.domains[GRANTER].p2m.insert(0x500, 1, mfn, abi.p2m_map_foreign_rw)
    board.offer(9, gfn=0x500)
    assert (board.map(9)[0], board.references(mfn)) == (g.GNTST_bad_page, 2)


def test_map__with_guest_available_flags_fails_after_pinning(board):
    assert board.map(9, g.GNTMAP_host_map | 1 << 16)[0] == g.GNTST_general_error


def test_map__that_fails_late_leaves_no_pin_mark_or_reference(board):
    before = board.references(board.mfn(GRANTER, PAGE))
    board.map(9, g.GNTMAP_host_map | 1 << 16)
    assert (board.active(9), board.flags(9), board.references(board.mfn(GRANTER, PAGE))) == (
        None, g.GTF_permit_access, before)


def test_map__beyond_the_root_table_is_a_general_error():
    board = Board(pa_bits=40)
    board.offer(9)
    assert board.map(9, host=1 << 40)[0] == g.GNTST_general_error


def test_map__on_arm32_cuts_the_host_address_to_32_bits():
    board = Board("arm32")
    board.offer(9)
    board.map(9, host=(1 << 48) + HOST)
    assert board.kind(MAPPER, HOST >> 12) == abi.p2m_grant_map_rw


def test_map__without_a_table_page_is_a_general_error():
    board = Board()
    board.offer(9)
    board.machine.domains[MAPPER].p2m.freelist.clear()
    assert board.map(9, host=0x3_0000_0000)[0] == g.GNTST_general_error


def test_map__of_a_page_that_changed_hands_is_a_general_error(board):
    board.map(9)
    mfn = board.mfn(GRANTER, PAGE)
    board.machine.frames.owner[board.machine.frames.index(mfn)] = THIRD
    assert board.map(9, host=HOST + 0x1000)[0] == g.GNTST_general_error


def test_map__of_a_page_of_nobody_is_a_general_error(board):
    board.map(9)
    mfn = board.mfn(GRANTER, PAGE)
    board.machine.frames.owner[board.machine.frames.index(mfn)] = abi.DOMID_IO
    assert board.map(9, host=HOST + 0x1000)[0] == g.GNTST_general_error


# ---- version 2 -------------------------------------------------------------------------------------------------


@pytest.fixture
def second():
    board = Board(version=2)
    assert board.one(GRANTER, g.GNTTABOP_set_version, g.SET_VERSION, 2) == (0, (2,))
    board.offer(9)
    return board


def test_map_v2__marks_the_status_word_and_not_the_entry(second):
    second.map(9)
    assert (second.flags(9), second.status(9)) == (g.GTF_permit_access, g.GTF_reading | g.GTF_writing)


def test_map_v2__bounds_the_reference_by_entries_of_16_bytes(second):
    assert second.map(256)[0] == g.GNTST_bad_gntref


def test_map_v2__of_a_sub_page_grant_is_a_general_error(second):
    second.offer_sub_page(9, 0, 4096)
    assert second.map(9)[0] == g.GNTST_general_error


def test_map_v2__of_a_transitive_grant_is_a_general_error(second):
    second.offer_transitive(9, THIRD, 1)
    assert second.map(9)[0] == g.GNTST_general_error


def test_map_v2__of_a_read_only_entry_for_writing_leaves_the_status_alone(second):
    second.offer(9, flags=g.GTF_permit_access | g.GTF_readonly)
    assert (second.map(9)[0], second.status(9)) == (g.GNTST_general_error, 0)


@pytest.mark.parametrize("ref", [256, 700])
def test_map_v2__finds_entries_and_status_of_later_frames(second, ref):
    second.one(GRANTER, g.GNTTABOP_setup_table, g.SETUP, SELF, 3, 0, 0x40000800)
    second.offer(ref, gfn=PAGE + 3)
    assert (second.map(ref)[2], second.status(ref)) == (
        second.mfn(GRANTER, PAGE + 3) << 12, g.GTF_reading | g.GTF_writing)


def test_map_v2__finds_the_status_of_the_second_status_frame(second):
    second.one(GRANTER, g.GNTTABOP_setup_table, g.SETUP, SELF, 9, 0, 0x40000800)
    second.offer(2050)
    second.map(2050, RO)
    assert (second.status(2050), second.status(2)) == (g.GTF_reading, 0)


def test_map__finds_entries_of_later_frames(board):
    board.one(GRANTER, g.GNTTABOP_setup_table, g.SETUP, SELF, 3, 0, 0x40000800)
    board.offer(1030, gfn=PAGE + 3)
    assert (board.map(1030)[2], board.flags(1030)) == (
        board.mfn(GRANTER, PAGE + 3) << 12, g.GTF_permit_access | g.GTF_reading | g.GTF_writing)


def test_map_v2__of_a_wrong_entry_leaves_the_status_alone(second):
    second.machine.memory.put(second.table(GRANTER).status[0], 2, g.GTF_reading << 16)      # reference 9
    second.offer(9, to=THIRD)
    assert (second.map(9)[0], second.status(9)) == (g.GNTST_general_error, g.GTF_reading)


def test_map_v2__for_writing_of_an_entry_pinned_for_reading_skips_its_domain(second):
    second.map(9, RO)
    second.offer(9, to=THIRD)
    assert second.map(9, host=HOST + 0x1000)[0] == g.GNTST_okay


def test_map_v2__takes_the_whole_64_bits_of_the_frame(second):
    second.offer(9, gfn=PAGE | 1 << 40)
    assert second.map(9)[0] == g.GNTST_bad_page


def test_map_v2__on_arm32_cuts_the_frame_to_32_bits():
    board = Board("arm32", version=2)
    board.one(GRANTER, g.GNTTABOP_set_version, g.SET_VERSION, 2)
    board.offer(9, gfn=PAGE | 1 << 40)
    assert board.map(9)[0] == g.GNTST_okay


def test_map_v2__of_an_entry_that_a_copy_pinned_as_sub_page_is_a_general_error(second):
    table = second.table(GRANTER)
    table.pin[9], table.act_domid[9], table.sub_page[9] = HSTR_INC, MAPPER, 1
    assert second.map(9, RO)[0] == g.GNTST_general_error
