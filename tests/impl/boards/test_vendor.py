"""Vendors' device trees, where they were fetched (python -m impl.boards.vendor): each is a board or has a reason."""

import pathlib
import shutil
import subprocess

import pytest

from impl.boards import blob
from impl.boards.catalogue import CATALOGUE, load, load_file
from impl.boards.problems import BadBoard, RefusedByXen
from impl.boards.ram import Bank
from impl.boards.read import read
from impl.boards.vendor import FetchError, blobs, survey, unpack
from tests.impl.boards.trees import cells, gic

FOLDER = pathlib.Path(__file__).parents[3] / "build" / "vendor-boards"
FOUND = blobs(FOLDER)
fetched = pytest.mark.skipif(not FOUND, reason="vendors' device trees were not fetched: make vendor-boards")
SAME = ["vexpress-a15", "arndale", "foundation-v8", "foundation-v8-gicv3", "fvp-base"]


def vendors(name):
    """The vendor's blob of a board."""
    entry = next(each for each in CATALOGUE if each.name == name)
    return FOLDER / ("armhf" if load(name).architecture == "arm32" else "arm64") / entry.vendor


def hardware(board):
    """What two descriptions of one board must have in common."""
    return {
        "architecture": board.architecture,
        "cpus": [(cpu.mpidr, cpu.method, cpu.release_address) for cpu in board.cpus],
        "stage2": board.stage2, "banks": board.banks, "regions": board.gic.regions,
        "maintenance": board.gic.maintenance.intid,
        "timers": [getattr(board.timers, one).intid for one in ("secure", "physical", "virtual", "hypervisor")],
        "bringup": board.bringup,
    }


@pytest.fixture(scope="module")
def answers():
    return dict(survey(FOUND))


@fetched
def test_survey__has_an_answer_for_every_blob(answers):
    assert list(answers) == FOUND
    assert all(answer.isprintable() for answer in answers.values())


@fetched
def test_survey__finds_boards_of_both_architectures(answers):
    names = {path.relative_to(FOLDER).parts[0] for path, answer in answers.items() if answer == "board"}
    assert names == {"arm64", "armhf"}


@fetched
@pytest.mark.parametrize("name", SAME)
def test_load_file__of_a_vendors_blob_is_the_board_that_we_wrote(name):
    assert hardware(load_file(vendors(name))) == hardware(load(name))


@fetched
@pytest.mark.parametrize("name", SAME)
def test_load_file__of_a_vendors_blob_has_our_uarts(name):
    theirs = {(uart.region.base, uart.interrupt) for uart in load_file(vendors(name)).uarts}
    assert {(uart.region.base, uart.interrupt) for uart in load(name).uarts} <= theirs


@fetched
@pytest.mark.parametrize(("name", "reason"), [
    ("cubieboard2", "no memory bank"),
    ("omap5-uevm", "GICv2: cannot find the maintenance IRQ"),
    ("mustang", "old X-Gene firmware"),
])
def test_load_file__refuses_what_the_firmware_has_yet_to_mend(name, reason):
    with pytest.raises(RefusedByXen, match=reason):
        load_file(vendors(name))


@fetched
def test_load_file__of_the_vendors_cubieboard2_with_ram_differs_by_psci_only():
    board = load("cubieboard2")
    theirs = hardware(load_file(vendors("cubieboard2"), ram=[Bank(0x40000000, 1 << 30)]))
    differing = {key for key, value in hardware(board).items() if theirs[key] != value}
    assert differing == {"cpus", "bringup"}


@fetched
def test_read__of_the_vendors_omap5_with_maintenance_interrupt_is_our_board():
    tree = blob.tree(blob.parse(vendors("omap5-uevm").read_bytes()).root)
    node = tree["interrupt-controller@48211000"]
    node["interrupts"] = cells(1, 9, 0x304)
    assert hardware(read(blob.compose(tree))) == hardware(load("omap5-uevm"))


@fetched
def test_read__of_the_vendors_mustang_with_another_gic_is_our_board():
    tree = blob.tree(blob.parse(vendors("mustang").read_bytes()).root)
    ours = blob.parse(next(each for each in CATALOGUE if each.name == "mustang").blob.read_bytes())
    gic(tree)["reg"] = gic(blob.tree(ours.root))["reg"]
    assert hardware(read(blob.compose(tree))) == hardware(load("mustang"))


@fetched
def test_compose__writes_every_vendors_tree_again():
    for path in FOUND[::25]:
        tree = blob.tree(blob.parse(path.read_bytes()).root)
        assert blob.tree(blob.parse(blob.compose(tree)).root) == tree


def test_blobs__of_a_folder_that_is_missing_are_none(tmp_path):
    assert blobs(tmp_path / "nothing") == []


@pytest.fixture
def package(tmp_path):
    """A package of Linux with two blobs, one of them outside of its folder."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not here")
    root = tmp_path / "root"
    for path in ("usr/lib/linux-image-1/maker/board.dtb", "usr/lib/other/board.dtb", "usr/lib/linux-image-1/readme"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"content")
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN" / "control").write_text(
        "Package: linux-image-1\nVersion: 1\nArchitecture: all\nMaintainer: N <n@example.org>\nDescription: test\n"
    )
    archive = tmp_path / "linux-image-1_1_all.deb"
    build = ["dpkg-deb", "--build", "--root-owner-group", str(root), str(archive)]
    subprocess.run(build, check=True, capture_output=True)
    return archive


def test_unpack__takes_the_blobs_of_the_kernel_only(package, tmp_path):
    target = tmp_path / "target"
    assert unpack(package, target) == 1
    assert [path.relative_to(target).as_posix() for path in target.rglob("*.dtb")] == ["maker/board.dtb"]


def test_unpack__of_what_is_no_package_says_so(tmp_path):
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not here")
    archive = tmp_path / "linux-image-1_1_all.deb"
    archive.write_bytes(b"no package")
    with pytest.raises(FetchError, match="cannot unpack linux-image-1_1_all"):
        unpack(archive, tmp_path / "target")


def test_survey__says_why_a_blob_is_no_board(tmp_path):
    path = tmp_path / "broken.dtb"
    path.write_bytes(b"broken")
    assert list(survey([path])) == [(path, "no device tree: 6 bytes are fewer than a header")]


def test_bad_board__is_a_value_error():
    assert issubclass(BadBoard, ValueError)
