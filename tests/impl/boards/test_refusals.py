"""What Xen would refuse is refused with that reason, and in Xen's order."""

import pytest

from impl.boards.board import Psci
from impl.boards.problems import BadBoard, RefusedByXen, printable
from impl.boards.ram import Bank
from impl.boards.read import read
from tests.impl.boards.trees import cells, child, every, gic, tree_of, write


def refused(tree, match, **options):
    with pytest.raises(RefusedByXen, match=match):
        read(write(tree), **options)


def no_board(tree, match, **options):
    with pytest.raises(BadBoard, match=match) as caught:
        read(write(tree), **options)
    assert not isinstance(caught.value, RefusedByXen)


# ---- the stock firmware of two boards --------------------------------------------------------------------


def test_read__refuses_the_stock_mustang():
    tree = tree_of("mustang")
    gic(tree)["reg"] = cells(0, 0x78010000, 0, 0x1000, 0, 0x78020000, 0, 0x1000,
                             0, 0x78040000, 0, 0x2000, 0, 0x78060000, 0, 0x2000)
    refused(tree, "old X-Gene firmware: GICD at 0x78010000 is the secure one")


def test_read__refuses_the_stock_omap5():
    tree = tree_of("omap5-uevm")
    del gic(tree)["interrupts"]
    refused(tree, "GICv2: cannot find the maintenance IRQ")


# ---- processors -------------------------------------------------------------------------------------------


def with_cpu(name, kind):
    tree = tree_of(name)
    for cpu in tree["cpus"].values():
        if isinstance(cpu, dict):
            cpu["compatible"] = kind + b"\0"
    return tree


def test_read__refuses_a_cpu_without_virtualization():
    refused(with_cpu("vexpress-a15", b"arm,cortex-a9"), "doesn't support the virtualization extensions")


def test_read__refuses_a_cpu_that_xen_does_not_list():
    refused(with_cpu("vexpress-a15", b"arm,cortex-a17"), "missing processor info")


def test_read__wants_the_width_of_an_unknown_cpu():
    no_board(with_cpu("foundation-v8", b"maker,core"), "'maker,core' is not known: give the width")


def test_read__takes_the_given_width_of_an_unknown_cpu():
    assert read(write(with_cpu("foundation-v8", b"maker,core")), pa_bits=44).ipa_bits == 44


@pytest.mark.parametrize("pa_bits", [-1, 0, 31, 53])
def test_read__has_no_board_of_an_absurd_width(pa_bits):
    no_board(tree_of("foundation-v8"), "32 to 52 are possible", pa_bits=pa_bits)


def test_read__refuses_an_odd_width():
    refused(tree_of("foundation-v8"), "PA range of 39 bits is unknown", pa_bits=39)


def test_read__refuses_a_narrow_smmu_on_arm32():
    refused(tree_of("arndale"), "not able to support 36-bit IPA", smmu_bits=36)


def test_read__has_no_board_without_cpus():
    tree = tree_of("vexpress-a15")
    del tree["cpus"]
    no_board(tree, "no CPU")


def test_read__has_no_board_whose_boot_cpu_has_no_reg():
    tree = tree_of("vexpress-a15")
    del tree["cpus"]["cpu@0"]["reg"]
    no_board(tree, "the boot CPU /cpus/cpu@0 has no valid reg")


@pytest.mark.parametrize("mpidr", [0, 0x1000000])
def test_read__leaves_out_a_cpu_with_a_bad_mpidr(mpidr):
    tree = tree_of("vexpress-a15")
    tree["cpus"]["cpu@1"]["reg"] = cells(mpidr)
    assert len(read(write(tree)).cpus) == 1


def test_read__starts_on_the_cpu_that_the_header_names():
    board = read(write(tree_of("mustang"), boot_cpu=0x200))
    assert (board.cpus[0].mpidr, board.cpus[0].method) == (0x200, "boot")


@pytest.mark.parametrize(("change", "note"), [
    ({"enable-method": None}, "no enable method"),
    ({"enable-method": b"magic\0"}, "unknown enable method 'magic'"),
    ({"enable-method": b"psci\0"}, "asks for PSCI, and there is none that Xen can use"),
    ({"cpu-release-addr": None}, "no cpu-release-addr"),
    ({"cpu-release-addr": cells(0, 0)}, "no release address"),
    ({"compatible": b"arm,cortex-a53\0"}, "not identical to the boot CPU: parked unless hmp-unsafe is given"),
])
def test_read__says_why_a_cpu_stays_off(change, note):
    tree = tree_of("foundation-v8")
    node = tree["cpus"]["cpu@2"]
    node.update({key: value for key, value in change.items() if value is not None})
    for key in [key for key, value in change.items() if value is None]:
        del node[key]
    found = [(cpu.mpidr, cpu.note) for cpu in read(write(tree)).cpus if not cpu.online]
    assert found == [(2, note)]


def test_read__does_not_use_psci_by_hvc():
    tree = tree_of("fvp-base")
    tree["psci"]["method"] = b"hvc\0"
    board = read(write(tree))
    assert [len(board.online), board.psci] == [1, Psci("0.2", "hvc", 0xC4000003, usable=False)]


def test_read__takes_psci_of_version_0_1():
    tree = tree_of("cubieboard2")
    tree["psci"] = {"compatible": b"arm,psci\0", "method": b"smc\0", "cpu_on": cells(0x95C1BA5F)}
    assert read(write(tree)).psci == Psci("0.1", "smc", 0x95C1BA5F, usable=True)


def test_read__starts_no_second_cpu_of_an_exynos_without_sysram():
    tree = tree_of("arndale")
    del tree["soc"]["sysram@2020000"]
    board = read(write(tree))
    assert [cpu.note for cpu in board.cpus] == ["", "samsung,exynos4210-sysram is missing"]


def test_read__finds_the_mailbox_of_an_exynos_under_secure_firmware():
    tree = tree_of("arndale")
    tree["firmware"] = {"compatible": b"samsung,secure-firmware\0"}
    tree["soc"]["sysram@2020000"]["compatible"] = b"samsung,exynos4210-sysram-ns\0"
    assert read(write(tree)).bringup.address == 0x0202001C


# ---- memory ------------------------------------------------------------------------------------------------


def test_read__refuses_a_board_without_memory():
    tree = tree_of("cubieboard2")
    del tree["memory@40000000"]
    refused(tree, "no memory bank")


def test_read__refuses_a_board_with_empty_banks_only():
    tree = tree_of("cubieboard2")
    tree["memory@40000000"]["reg"] = cells(0x40000000, 0)
    refused(tree, "no memory bank")


def test_read__takes_the_firmwares_banks():
    tree = tree_of("cubieboard2")
    del tree["memory@40000000"]
    assert read(write(tree), ram=[Bank(0x40000000, 1 << 31)]).ram_size == 1 << 31


def test_read__has_no_board_with_overlapping_banks():
    tree = tree_of("cubieboard2")
    tree["memory@40000000"]["reg"] = cells(0x40000000, 0x20000000, 0x5FFFF000, 0x1000)
    no_board(tree, "RAM banks at 0x40000000 and 0x5ffff000 overlap")


def test_read__has_no_board_with_ram_beyond_the_cpus_width():
    tree = tree_of("foundation-v8")
    tree["memory@80000000"]["reg"] = cells(0x100, 0, 0, 0x1000)
    no_board(tree, "beyond the physical addresses of 40 bits")


def test_read__has_no_board_with_an_address_of_5_cells():
    tree = tree_of("foundation-v8")
    tree["#address-cells"] = cells(5)
    no_board(tree, "addresses of 5 cells")


def test_read__refuses_a_32_bit_board_without_room_for_xens_heap():
    tree = tree_of("cubieboard2")
    tree["memory@40000000"]["reg"] = cells(0x40100000, 0x03E00000)
    refused(tree, "not enough space for xenheap")


def test_read__refuses_a_32_bit_board_whose_ram_is_reserved():
    tree = tree_of("cubieboard2")
    with pytest.raises(RefusedByXen, match="not enough space for xenheap"):
        read(write(tree, reservations=((0x41000000, 0x3F000000),)))


def test_read__uses_whole_frames_only():
    tree = tree_of("cubieboard2")
    tree["memory@40000000"]["reg"] = cells(0x40000800, 0x3FFFF000)
    assert read(write(tree)).banks == (Bank(0x40001000, 0x3FFFE000),)


def test_read__takes_memory_below_reserved_memory_for_ram():
    tree = tree_of("cubieboard2")
    tree["reserved-memory"] = {"#address-cells": cells(1), "#size-cells": cells(1), "ranges": b"",
                               "memory@90000000": {"reg": cells(0x90000000, 0x1000)}}
    board = read(write(tree))
    assert Bank(0x90000000, 0x1000) in board.banks
    assert [one.base for one in board.reserved] == [0x90000000]


def test_read__refuses_more_than_256_reserved_ranges():
    tree = tree_of("cubieboard2")
    tree["reserved-memory"] = {"#address-cells": cells(1), "#size-cells": cells(1), "ranges": b"",
                               "many": {"reg": cells(*[0x1000] * 2 * 257)}}
    refused(tree, "max number of supported reserved-memory regions reached")


def test_read__refuses_nodes_on_which_xen_loops():
    tree = tree_of("cubieboard2")
    node = tree
    for _ in range(16):
        node["deeper"] = {}
        node = node["deeper"]
    refused(tree, "it loops for ever on nodes nested 16 deep")


# ---- timers --------------------------------------------------------------------------------------------------


def test_read__refuses_a_board_without_a_timer():
    tree = tree_of("mustang")
    del tree["timer"]
    refused(tree, "unable to find a compatible timer")


@pytest.mark.parametrize(("count", "what"), list(enumerate(["secure", "physical", "virtual", "hypervisor"])))
def test_read__refuses_a_timer_with_too_few_interrupts(count, what):
    tree = tree_of("mustang")
    tree["timer"]["interrupts"] = tree["timer"]["interrupts"][:12 * count]
    refused(tree, rf"unable to retrieve timer IRQ {count} \({what}\)")


def test_read__refuses_one_line_with_two_triggers():
    tree = tree_of("mustang")
    tree["timer"]["interrupts"] = cells(1, 0, 8, 1, 0, 4, 1, 14, 8, 1, 15, 8)
    refused(tree, "unable to retrieve timer IRQ 1")


def test_read__has_no_board_with_a_shared_timer_interrupt():
    tree = tree_of("mustang")
    tree["timer"]["interrupts"] = cells(0, 1, 8, 1, 13, 8, 1, 14, 8, 1, 15, 8)
    no_board(tree, "secure timer's interrupt is SPI 1, which is not private")


def test_read__has_no_board_with_an_interrupt_beyond_the_gics():
    tree = tree_of("mustang")
    tree["timer"]["interrupts"] = cells(0, 988, 8)
    no_board(tree, "/timer has interrupt 1020, beyond the GIC's 1019")


def test_read__refuses_an_exynos_without_its_own_timer():
    tree = tree_of("arndale")
    del tree["soc"]["timer@101c0000"]
    refused(tree, "cannot initialize platform timer")


# ---- GIC -------------------------------------------------------------------------------------------------------


def test_read__refuses_a_board_without_a_gic():
    tree = tree_of("vexpress-a15")
    gic(tree)["compatible"] = b"maker,pic\0"
    refused(tree, "unable to find compatible GIC")


def test_read__refuses_a_gic_that_is_switched_off():
    tree = tree_of("vexpress-a15")
    gic(tree)["status"] = b"disabled\0"
    refused(tree, "unable to find compatible GIC")


def test_read__refuses_a_gicv3_on_arm32():
    tree = tree_of("vexpress-a15")
    gic(tree)["compatible"] = b"arm,gic-v3\0"
    refused(tree, "unable to find compatible GIC")


@pytest.mark.parametrize(("count", "what"), [(0, "distributor"), (1, "CPU"), (2, "hypervisor"), (3, "virtual CPU")])
def test_read__refuses_a_gicv2_with_too_few_regions(count, what):
    tree = tree_of("vexpress-a15")
    node = gic(tree)
    node["reg"] = node["reg"][:16 * count]
    refused(tree, f"GICv2: cannot find a valid address for the {what}")


def v2_regions(tree, gicc_size, gicv_size, offset=0):
    gic(tree)["reg"] = cells(0, 0x2C001000, 0, 0x1000, 0, 0x2C002000 + offset, 0, gicc_size,
                             0, 0x2C004000, 0, 0x2000, 0, 0x2C006000, 0, gicv_size)
    return tree


def test_read__refuses_gicc_and_gicv_of_different_sizes():
    refused(v2_regions(tree_of("vexpress-a15"), 0x2000, 0x1000), r"GICC \(0x2000\) and GICV \(0x1000\) don't match")


def test_read__takes_a_small_gicc_as_8_kb():
    board = read(write(v2_regions(tree_of("vexpress-a15"), 0x1000, 0x2000)))
    assert dict(board.gic.regions)["GICC"].size == 0x2000
    assert "GICC is given as 0x1000 bytes, too few" in board.quirks


def test_read__refuses_a_gic_that_is_not_page_aligned():
    refused(v2_regions(tree_of("vexpress-a15"), 0x2000, 0x2000, offset=0x800), "not page aligned")


def test_read__takes_a_small_gicc_of_an_x_gene_as_128_kb():
    tree = tree_of("mustang")
    gic(tree)["reg"] = cells(0, 0x78090000, 0, 0x1000, 0, 0x780A0000, 0, 0x1000,
                             0, 0x780C0000, 0, 0x2000, 0, 0x780E0000, 0, 0x2000)
    found = dict(read(write(tree)).gic.regions)
    assert (found["GICC"].size, found["GICV"].size) == (0x20000, 0x20000)


def test_read__refuses_an_x_gene_without_its_gic():
    tree = tree_of("mustang")
    gic(tree)["compatible"] = b"arm,gic-400\0"
    refused(tree, "can not find interrupt controller node")


def test_read__refuses_a_v2m_frame_without_an_address():
    tree = tree_of("foundation-v8")
    gic(tree)["v2m@0"] = {"compatible": b"arm,gic-v2m-frame\0"}
    refused(tree, "valid v2m frame address")


@pytest.mark.parametrize(("count", "match"), [
    (0, "valid distributor address"), (1, "no rdist base found for region 0"),
])
def test_read__refuses_a_gicv3_with_too_few_regions(count, match):
    tree = tree_of("fvp-base")
    node = gic(tree)
    node["reg"] = node["reg"][:16 * count]
    refused(tree, match)


def test_read__refuses_a_gicv3_with_too_many_redistributors_announced():
    tree = tree_of("fvp-base")
    gic(tree)["#redistributor-regions"] = cells(0xFFFFFFFF)
    refused(tree, "no rdist base found for region 4")


def test_read__refuses_an_unaligned_distributor_of_a_gicv3():
    tree = tree_of("fvp-base")
    node = gic(tree)
    node["reg"] = cells(0, 0x2F000010) + node["reg"][8:]
    refused(tree, "unaligned distributor address 0x2f000010")


def test_read__refuses_a_gicv3_without_maintenance_interrupt():
    tree = tree_of("fvp-base")
    del gic(tree)["interrupts"]
    refused(tree, "GICv3: cannot find the maintenance IRQ")


def test_read__refuses_an_its_without_an_address():
    tree = tree_of("fvp-base")
    del child(gic(tree), "msi-controller")["reg"]
    refused(tree, "valid ITS frame address")


def test_read__takes_a_gicv3_without_gicv2_regions():
    tree = tree_of("fvp-base")
    node = gic(tree)
    node["reg"] = node["reg"][:32]
    found = read(write(tree)).gic
    assert (found.cpu, found.hypervisor, found.virtual_cpu) == (None, None, None)


def test_read__leaves_out_a_gicv_that_is_too_small():
    tree = tree_of("fvp-base")
    node = gic(tree)
    node["reg"] = node["reg"][:-4] + cells(0x1000)
    assert read(write(tree)).gic.virtual_cpu is None


def test_read__has_no_board_whose_gic_lies_in_ram():
    tree = tree_of("vexpress-a15")
    tree["memory@80000000"]["reg"] = cells(0, 0x20000000, 0, 0x40000000)
    no_board(tree, "GICD at 0x2c001000 size 0x1000 lies in RAM")


# ---- order -----------------------------------------------------------------------------------------------------


def test_read__refuses_in_the_order_of_xen():
    """A tree with every flaw at once is mended from first to last: each reason appears in its turn."""
    good = tree_of("mustang")
    tree = tree_of("mustang")
    kinds = [cpu["compatible"] for cpu in good["cpus"].values() if isinstance(cpu, dict)]
    for cpu in tree["cpus"].values():
        if isinstance(cpu, dict):
            cpu["compatible"] = b"arm,cortex-a9\0"
    del tree["memory@100000000"]
    timer = tree.pop("timer")
    node = gic(tree)
    node["reg"] = cells(0, 0x78010000, 0, 0x1000, 0, 0x78020800, 0, 0x2000)
    lines = node.pop("interrupts")
    reasons = []

    def reason():
        with pytest.raises(RefusedByXen) as caught:
            read(write(tree), pa_bits=41)
        reasons.append(str(caught.value).removeprefix("Xen refuses: ").split(" (")[0].split(":")[0])

    reason()
    for cpu, kind in zip([one for one in tree["cpus"].values() if isinstance(one, dict)], kinds, strict=True):
        cpu["compatible"] = kind
    reason()
    tree["memory@100000000"] = good["memory@100000000"]
    reason()
    node["reg"] = cells(0, 0x78090000) + node["reg"][8:]
    reason()
    tree["timer"] = {**timer, "interrupts": b""}
    node["status"] = b"disabled\0"
    reason()
    del node["status"]
    reason()
    tree["timer"] = timer
    reason()
    node["reg"] += cells(0, 0x78040000, 0, 0x2000, 0, 0x78060000, 0, 0x4000)
    reason()
    node["interrupts"] = lines
    reason()
    node["reg"] = node["reg"][:-4] + cells(0x2000)
    reason()
    node["reg"] = gic(good)["reg"]
    reason()
    assert reasons == [
        "CPU doesn't support the virtualization extensions",
        "no memory bank",
        "old X-Gene firmware",
        "unable to find a compatible timer in the device tree",
        "unable to find compatible GIC in the device tree",
        "unable to retrieve timer IRQ 0",
        "GICv2",
        "GICv2",
        "GICv2",
        "GICv2 interfaces not page aligned",
        "a PA range of 41 bits is unknown",
    ]


def test_reason__is_one_printable_line():
    tree = with_cpu("foundation-v8", b"a\nb\x1b[31m" + b"c" * 5000)
    with pytest.raises(BadBoard) as caught:
        read(write(tree))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 300


def test_printable__keeps_what_is_printable():
    assert printable("Cortex-A15, 2 GB") == "Cortex-A15, 2 GB"


def test_trees__list_every_node():
    assert len(every(tree_of("vexpress-a15"))) == 19
