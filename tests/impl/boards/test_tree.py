"""Addresses and interrupts through buses and maps."""

import pytest

from impl.boards import blob
from impl.boards.problems import BadBoard
from impl.boards.tree import Interrupt, Region, Tree, number
from tests.impl.boards.trees import cells, write

ROOT = {"#address-cells": cells(2), "#size-cells": cells(1), "interrupt-parent": cells(1)}
GIC = {"phandle": cells(1), "interrupt-controller": b"", "#interrupt-cells": cells(3), "#address-cells": cells(0)}


def tree(**nodes):
    return Tree(blob.parse(write({**ROOT, "gic": GIC, **nodes})))


def bus(ranges, device, **more):
    return {"#address-cells": cells(1), "#size-cells": cells(1), "ranges": ranges, "device": device, **more}


DEVICE = {"reg": cells(0x1000, 0x100, 0x2000, 0x200)}


def test_number__keeps_64_bits():
    assert number([1, 2, 3]) == 2 << 32 | 3


def test_region__of_a_child_of_the_root_is_its_reg():
    at = tree(device={"reg": cells(1, 0x80000000, 0x1000)})
    assert at.region(at.at("/device"), 0) == Region(0x180000000, 0x1000)


def test_region__second_of_a_device():
    at = tree(soc=bus(b"", DEVICE))
    assert at.region(at.at("/soc/device"), 1) == Region(0x2000, 0x200)


def test_region__beyond_the_last_is_none():
    at = tree(soc=bus(b"", DEVICE))
    assert at.region(at.at("/soc/device"), 2) is None


def test_region__is_moved_by_ranges():
    at = tree(soc=bus(cells(0, 1, 0xC0000000, 0x10000), DEVICE))
    assert at.region(at.at("/soc/device"), 0) == Region(0x1C0001000, 0x100)


def test_region__is_moved_by_the_entry_that_holds_it():
    at = tree(soc=bus(cells(0, 0, 0xA0000000, 0x1000, 0x1000, 0, 0xB0000000, 0x1000), DEVICE))
    assert at.region(at.at("/soc/device"), 0) == Region(0xB0000000, 0x100)


def test_region__that_no_range_holds_is_none():
    at = tree(soc=bus(cells(0, 0, 0xA0000000, 0x1000), DEVICE))
    assert at.region(at.at("/soc/device"), 0) is None


def test_region__below_two_buses_is_moved_twice():
    inner = bus(cells(0, 0x10000, 0x10000), DEVICE)
    at = tree(soc={**bus(cells(0x10000, 0, 0xC0000000, 0x10000), {}), "inner": inner})
    assert at.region(at.at("/soc/inner/device"), 0) == Region(0xC0001000, 0x100)


def test_region__of_a_bus_without_ranges_is_none():
    soc = bus(b"", DEVICE)
    del soc["ranges"]
    at = tree(soc=soc)
    assert at.region(at.at("/soc/device"), 0) is None


def test_region__below_a_pci_bus_is_none():
    at = tree(soc=bus(b"", DEVICE, device_type=b"pci\0"))
    assert at.region(at.at("/soc/device"), 0) is None


@pytest.mark.parametrize(("addresses", "sizes"), [(0, 1), (5, 1), (0xFFFFFFFF, 1), (1, 0), (1, 0xFFFFFFFF)])
def test_region__with_absurd_cells_is_none(addresses, sizes):
    soc = {**bus(b"", DEVICE), "#address-cells": cells(addresses), "#size-cells": cells(sizes)}
    at = tree(soc=soc)
    assert at.region(at.at("/soc/device"), 0) is None


def test_cells__cut_off_are_refused():
    at = tree(soc={**bus(b"", DEVICE), "#address-cells": b"\0\0"})
    with pytest.raises(BadBoard, match="#address-cells of /soc is shorter than one cell"):
        at.region(at.at("/soc/device"), 0)


def interrupt(device, index=0, **more):
    at = tree(device=device, **more)
    return at.interrupt(at.at("/device"), index, at.at("/gic"))


def test_interrupt__of_a_ppi():
    assert interrupt({"interrupts": cells(1, 9, 0xF04)}) == Interrupt(25, 4)


def test_interrupt__of_an_spi():
    assert interrupt({"interrupts": cells(1, 9, 4, 0, 5, 1)}, 1) == Interrupt(37, 1)


def test_interrupt__beyond_the_last_is_none():
    assert interrupt({"interrupts": cells(1, 9, 4)}, 1) is None


def test_interrupt__extended_goes_first():
    device = {"interrupts": cells(1, 9, 4), "interrupts-extended": cells(1, 0, 7, 4)}
    assert interrupt(device) == Interrupt(39, 4)


def test_interrupt__extended_skips_an_empty_entry():
    assert interrupt({"interrupts-extended": cells(0, 1, 0, 7, 4)}, 1) == Interrupt(39, 4)


def test_interrupt__at_another_controller_is_none():
    pic = {"phandle": cells(2), "interrupt-controller": b"", "#interrupt-cells": cells(1)}
    assert interrupt({"interrupt-parent": cells(2), "interrupts": cells(3)}, pic=pic) is None


def test_interrupt__through_a_map_with_addresses():
    nexus = {
        "phandle": cells(2), "#interrupt-cells": cells(1), "#address-cells": cells(1),
        "interrupt-map-mask": cells(0xFF, 0x3),
        "interrupt-map": cells(0x10, 1, 1, 0, 40, 4, 0x20, 1, 1, 0, 41, 4, 0, 0),
    }
    device = {"reg": cells(0xA20), "interrupt-parent": cells(2), "interrupts": cells(0x11)}
    assert interrupt(device, nexus=nexus) == Interrupt(73, 4)


def test_interrupt__through_a_map_that_needs_a_reg_is_none_without():
    nexus = {"phandle": cells(2), "#interrupt-cells": cells(1), "#address-cells": cells(1),
             "interrupt-map": cells(0, 1, 1, 0, 40, 4)}
    assert interrupt({"interrupt-parent": cells(2), "interrupts": cells(1)}, nexus=nexus) is None


def test_interrupt__that_a_map_does_not_hold_is_none():
    nexus = {"phandle": cells(2), "#interrupt-cells": cells(1), "#address-cells": cells(0),
             "interrupt-map": cells(2, 1, 0, 40, 4)}
    assert interrupt({"interrupt-parent": cells(2), "interrupts": cells(1)}, nexus=nexus) is None


def test_interrupt__of_parents_in_a_circle_is_refused():
    with pytest.raises(BadBoard, match="interrupt parents of /device go in a circle"):
        interrupt({"interrupt-parent": cells(2), "interrupts": cells(1)},
                  a={"phandle": cells(2), "interrupt-parent": cells(3)},
                  b={"phandle": cells(3), "interrupt-parent": cells(2)})


def test_interrupt__of_maps_in_a_circle_is_refused():
    nexus = {"phandle": cells(2), "#interrupt-cells": cells(1), "#address-cells": cells(0),
             "interrupt-map": cells(1, 2, 1, 1, 2, 1)}
    with pytest.raises(BadBoard, match="interrupt maps from /nexus go in a circle"):
        interrupt({"interrupt-parent": cells(2), "interrupts": cells(1)}, nexus=nexus)


def test_interrupt__of_a_missing_parent_is_none():
    assert interrupt({"interrupt-parent": cells(99), "interrupts": cells(1, 9, 4)}) is None


@pytest.mark.parametrize("count", [0, 5, 0xFFFFFFFF])
def test_interrupt__with_absurd_cells_is_none(count):
    pic = {"phandle": cells(2), "#interrupt-cells": cells(count), "interrupt-controller": b""}
    assert interrupt({"interrupt-parent": cells(2), "interrupts": cells(1, 9, 4)}, pic=pic) is None


def test_named__follows_an_alias():
    at = tree(aliases={"serial0": b"/device\0"}, device={})
    assert at.named("serial0") is at.at("/device")


def test_named__of_an_alias_of_an_alias_is_none():
    at = tree(aliases={"serial0": b"serial1\0", "serial1": b"serial0\0"})
    assert at.named("serial0") is None
