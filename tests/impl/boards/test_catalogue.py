"""The boards that come with the project."""

import shutil

import pytest

from impl.boards import blob
from impl.boards.catalogue import CATALOGUE, SUMS, compile_source, load, load_file, sum_of
from impl.boards.platforms import Bringup
from impl.boards.problems import BadBoard
from impl.boards.ram import Bank
from impl.boards.tree import Region

ENTRIES = [pytest.param(entry, id=entry.name) for entry in CATALOGUE]
GB, MB, KB = 1 << 30, 1 << 20, 1 << 10


@pytest.mark.parametrize("entry", ENTRIES)
def test_blob__is_of_its_source(entry):
    assert f"{sum_of(entry.source)}  {entry.source.name}" in SUMS.read_text().splitlines()


@pytest.mark.skipif(shutil.which("dtc") is None, reason="dtc is not installed")
@pytest.mark.parametrize("entry", ENTRIES)
def test_blob__is_what_dtc_makes_of_its_source(entry):
    made, kept = blob.parse(compile_source(entry.source)), blob.parse(entry.blob.read_bytes())
    assert (blob.tree(made.root), made.reservations) == (blob.tree(kept.root), kept.reservations)


@pytest.mark.parametrize("entry", ENTRIES)
def test_load__gives_a_board_with_a_console(entry):
    assert load(entry.name).console is not None


@pytest.mark.parametrize("entry", ENTRIES)
def test_load__starts_every_cpu(entry):
    board = load(entry.name)
    assert board.online == board.cpus


@pytest.mark.parametrize(("name", "architecture", "kind", "mpidrs"), [
    ("vexpress-a15", "arm32", "arm,cortex-a15", [0, 1]),
    ("arndale", "arm32", "arm,cortex-a15", [0, 1]),
    ("foundation-v8", "arm64", "arm,armv8", [0, 1, 2, 3]),
    ("foundation-v8-gicv3", "arm64", "arm,armv8", [0, 1, 2, 3]),
    ("fvp-base", "arm64", "arm,armv8", [0, 0x100, 0x200, 0x300, 0x10000, 0x10100, 0x10200, 0x10300]),
    ("cubieboard2", "arm32", "arm,cortex-a7", [0, 1]),
    ("omap5-uevm", "arm32", "arm,cortex-a15", [0, 1]),
    ("mustang", "arm64", "apm,potenza", [0, 1, 0x100, 0x101, 0x200, 0x201, 0x300, 0x301]),
])
def test_load__has_the_boards_cpus(name, architecture, kind, mpidrs):
    board = load(name)
    assert (board.architecture, board.cpu_kind, [cpu.mpidr for cpu in board.cpus]) == (architecture, kind, mpidrs)


@pytest.mark.parametrize(("name", "pa_bits", "root_level", "root_pages"), [
    ("vexpress-a15", 40, 1, 2), ("arndale", 40, 1, 2), ("foundation-v8", 40, 1, 2), ("foundation-v8-gicv3", 40, 1, 2),
    ("fvp-base", 48, 0, 1), ("cubieboard2", 40, 1, 2), ("omap5-uevm", 40, 1, 2), ("mustang", 42, 1, 8),
])
def test_load__has_the_widths_that_xen_chooses(name, pa_bits, root_level, root_pages):
    board = load(name)
    found = (board.pa_bits, board.ipa_bits, board.vmid_bits, board.stage2.root_level, board.stage2.root_pages)
    assert found == (pa_bits, pa_bits, 8, root_level, root_pages)


@pytest.mark.parametrize(("name", "banks"), [
    ("vexpress-a15", [Bank(0x80000000, GB)]),
    ("arndale", [Bank(0x40000000, 2 * GB)]),
    ("foundation-v8", [Bank(0x80000000, 2 * GB), Bank(0x880000000, 2 * GB)]),
    ("foundation-v8-gicv3", [Bank(0x80000000, 2 * GB), Bank(0x880000000, 2 * GB)]),
    ("fvp-base", [Bank(0x80000000, 2 * GB), Bank(0x880000000, 2 * GB)]),
    ("cubieboard2", [Bank(0x40000000, GB)]),
    ("omap5-uevm", [Bank(0x80000000, 2032 * MB)]),
    ("mustang", [Bank(0x100000000, 2 * GB)]),
])
def test_load__has_the_boards_ram(name, banks):
    assert list(load(name).banks) == banks


@pytest.mark.parametrize(("name", "gicd", "gicc", "gich", "gicv"), [
    ("vexpress-a15", 0x2C001000, 0x2C002000, 0x2C004000, 0x2C006000),
    ("arndale", 0x10481000, 0x10482000, 0x10484000, 0x10486000),
    ("foundation-v8", 0x2C001000, 0x2C002000, 0x2C004000, 0x2C006000),
    ("foundation-v8-gicv3", 0x2F000000, 0x2C000000, 0x2C010000, 0x2C02F000),
    ("fvp-base", 0x2F000000, 0x2C000000, 0x2C010000, 0x2C02F000),
    ("cubieboard2", 0x01C81000, 0x01C82000, 0x01C84000, 0x01C86000),
    ("omap5-uevm", 0x48211000, 0x48212000, 0x48214000, 0x48216000),
    ("mustang", 0x78090000, 0x780A0000, 0x780C0000, 0x780E0000),
])
def test_load__has_the_boards_gic(name, gicd, gicc, gich, gicv):
    bases = {what: one.base for what, one in load(name).gic.regions if what in {"GICD", "GICC", "GICH", "GICV"}}
    assert bases == {"GICD": gicd, "GICC": gicc, "GICH": gich, "GICV": gicv}


@pytest.mark.parametrize("name", ["foundation-v8-gicv3", "fvp-base"])
def test_load__has_redistributors_and_its_of_a_gicv3(name):
    gic = load(name).gic
    expected = (3, (Region(0x2F100000, 2 * MB),), (Region(0x2F020000, 128 * KB),))
    assert expected == (gic.version, gic.redistributors, gic.its)


@pytest.mark.parametrize("entry", ENTRIES)
def test_load__has_maintenance_interrupt_ppi_9(entry):
    assert load(entry.name).gic.maintenance.intid == 25


@pytest.mark.parametrize(("name", "intids", "frequency"), [
    ("vexpress-a15", [29, 30, 27, 26], None),
    ("arndale", [29, 30, 27, 26], 24_000_000),
    ("foundation-v8", [29, 30, 27, 26], 100_000_000),
    ("foundation-v8-gicv3", [29, 30, 27, 26], 100_000_000),
    ("fvp-base", [29, 30, 27, 26], None),
    ("cubieboard2", [29, 30, 27, 26], None),
    ("omap5-uevm", [29, 30, 27, 26], 6_144_000),
    ("mustang", [16, 29, 30, 31], 50_000_000),
])
def test_load__has_the_boards_timers(name, intids, frequency):
    timers = load(name).timers
    found = [one.intid for one in (timers.secure, timers.physical, timers.virtual, timers.hypervisor)]
    assert (found, timers.frequency) == (intids, frequency)


@pytest.mark.parametrize(("name", "kind", "base", "spi"), [
    ("vexpress-a15", "arm,pl011", 0x1C090000, 5),
    ("arndale", "samsung,exynos4210-uart", 0x12C20000, 53),
    ("foundation-v8", "arm,pl011", 0x1C090000, 5),
    ("foundation-v8-gicv3", "arm,pl011", 0x1C090000, 5),
    ("fvp-base", "arm,pl011", 0x1C090000, 5),
    ("cubieboard2", "snps,dw-apb-uart", 0x01C28000, 1),
    ("omap5-uevm", "ti,omap4-uart", 0x48020000, 74),
    ("mustang", "ns16550a", 0x1C020000, 76),
])
def test_load__has_the_boards_console(name, kind, base, spi):
    found = [(uart.kind, uart.region.base, str(uart.interrupt)) for uart in load(name).uarts if uart.console]
    assert found == [(kind, base, f"SPI {spi}")]


@pytest.mark.parametrize(("name", "bringup"), [
    ("vexpress-a15", Bringup("sys-flags", 0x1C010030, interrupt=True)),
    ("arndale", Bringup("sysram", 0x02020000, interrupt=True)),
    ("foundation-v8", Bringup("spin-table")),
    ("foundation-v8-gicv3", Bringup("psci")),
    ("fvp-base", Bringup("psci")),
    ("cubieboard2", Bringup("psci")),
    ("omap5-uevm", Bringup("aux-core-boot", 0x48281804, interrupt=True)),
    ("mustang", Bringup("spin-table")),
])
def test_load__starts_cpus_as_xen_does(name, bringup):
    assert load(name).bringup == bringup


@pytest.mark.parametrize(("name", "address"), [("foundation-v8", 0x8000FFF8), ("mustang", 0x10000FFF8)])
def test_load__has_release_addresses(name, address):
    assert {cpu.release_address for cpu in load(name).cpus[1:]} == {address}


def test_load__of_an_unknown_name_suggests_a_near_one():
    with pytest.raises(BadBoard, match=r"^no board 'mustnag': did you mean mustang\?$"):
        load("mustnag")


def test_load__gives_the_same_board_again():
    assert load("mustang") is load("mustang")


def test_load_file__of_a_missing_file_says_so(tmp_path):
    with pytest.raises(BadBoard, match="No such file"):
        load_file(tmp_path / "nothing.dtb")


def test_load_file__of_a_folder_says_so(tmp_path):
    with pytest.raises(BadBoard, match="directory"):
        load_file(tmp_path)


def test_ram__of_a_board_holds_its_banks_only():
    ram = load("foundation-v8").ram()
    found = [ram.holds(mfn) for mfn in (0x7FFFF, 0x80000, 0x100000, 0x880000, 0x900000)]
    assert found == [False, True, False, True, False]


def test_facts__are_plain_values():
    facts = load("fvp-base").facts()
    assert facts["gic"]["its"] == [{"base": 0x2F020000, "size": 0x20000}]
