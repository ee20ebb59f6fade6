"""A device tree becomes a board, or is refused with the reason for which Xen 4.17 would stop, in Xen's order.

Source: xen/arch/arm/setup.c, start_xen: early_fdt_map, boot_fdt_info, setup_mm, platform_init, preinit_xen_time,
gic_preinit, smp_init_cpus, init_xen_time, gic_init, setup_virt_paging; before them arm32/head.S.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from impl.boards import blob, platforms, processors, stage2, tree
from impl.boards.blob import Node
from impl.boards.board import Board, Cpu, Gic, Psci, Smmu, Timers, Uart
from impl.boards.platforms import Bringup, Platform
from impl.boards.problems import BadBoard, RefusedByXen, printable
from impl.boards.ram import PAGE_SIZE, Bank
from impl.boards.tree import Interrupt, Region, Tree

_KB, _MB = 1 << 10, 1 << 20
_NR_MEM_BANKS: Final = 256
_NR_CPUS: Final = 128
_DEEPEST_SCAN: Final = 16               # DEVICE_TREE_MAX_DEPTH
_SCAN: Final = "xen/arch/arm/bootfdt.c, device_tree_for_each_node"
_MOST_DEVICES: Final = 64               # UARTs, SMMUs, or frames of the GIC
_MOST_REDISTRIBUTORS: Final = 128
_MPIDR_MASK: Final = {"arm32": 0xFFFFFF, "arm64": 0xFF00FFFFFF}
_XGENE_SECURE_GICD: Final = 0x78010000

_GIC_V2: Final = ("arm,cortex-a15-gic", "arm,cortex-a7-gic", "arm,gic-400")
_GIC_V3: Final = ("arm,gic-v3",)
_UARTS: Final = (
    "arm,pl011", "ns16550", "ns16550a", "snps,dw-apb-uart", "samsung,exynos4210-uart", "ti,omap4-uart",
    "cdns,uart-r1p8", "cdns,uart-r1p12", "renesas,scif", "renesas,scifa", "renesas,hscif", "brcm,bcm2835-aux-uart",
    "fsl,imx8qm-lpuart", "amlogic,meson-uart", "amlogic,meson-gx-uart", "marvell,armada-3700-uart",
)
_SMMUS: Final = {
    "arm,smmu-v1": True, "arm,smmu-v2": True, "arm,mmu-400": True, "arm,mmu-401": True, "arm,mmu-500": True,
    "arm,smmu-v3": False, "samsung,exynos-sysmmu": False, "cavium,smmu-v2": False,
}


def read(
    data: bytes, name: str = "", *, pa_bits: int | None = None, smmu_bits: int | None = None, ram: Sequence[Bank] = ()
) -> Board:
    """The board that a device tree blob describes.

    data: the blob; name: how the board is called.
    pa_bits: width of physical addresses, 32..52, for a processor that is not known or to override what is known.
    smmu_bits: the narrowest input address of SMMUs that Xen uses; None: they do not narrow it.
    ram: the banks that the firmware puts in place of those in the tree; none: the tree's own count.
    Errors: RefusedByXen where Xen would stop, BadBoard where the tree describes nothing that can be emulated.
    """
    given = Tree(blob.parse(data))
    root = given.root
    compatible = tuple(printable(text) for text in tree.strings(root, "compatible"))
    nodes = _cpu_nodes(given)
    boot = _boot_node(given, nodes)
    kind, processor = processors.find(tree.strings(boot, "compatible"), compatible)
    architecture, width, vmid_bits = _width(given, kind, processor, pa_bits)

    banks, reserved = _memory(given, architecture, width, ram)
    platform = platforms.find(compatible, architecture)
    _platform_init(given, platform)
    timer = given.first("arm,armv7-timer", "arm,armv8-timer")
    if timer is None:
        raise RefusedByXen("unable to find a compatible timer in the device tree",
                           "xen/arch/arm/time.c, preinit_dt_xen_time")
    _platform_init_time(given, platform)
    controller, version = _controller(given, architecture)
    psci = _psci(given, architecture)
    bringup, reason = _bringup(given, platform)
    cpus = _cpus(nodes, boot, architecture, psci, bringup, reason)
    timers = _timers(given, timer, controller)
    gic, narrow = (_gic_v2(given, controller, platform) if version == 2 else _gic_v3(given, controller))
    geometry = stage2.choose(architecture, width, smmu_bits)

    uarts, smmus = _uarts(given, controller), _smmus(given, controller)
    devices = [*gic.regions, *(("a UART", uart.region) for uart in uarts), *(("an SMMU", one.region) for one in smmus)]
    for what, one in devices:
        if one.end > 1 << width:
            raise BadBoard(f"{what} at {one} is beyond the physical addresses of {width} bits")
        if any(one.overlaps(Region(bank.base, bank.size)) for bank in banks):
            raise BadBoard(f"{what} at {one} lies in RAM")
    used = bringup if architecture == "arm32" and not (psci and psci.usable) else _method(cpus)
    return Board(
        name=printable(name), model=printable(tree.string(root, "model") or ""), compatible=compatible,
        architecture=architecture, cpus=cpus, cpu_kind=printable(kind), pa_bits=width, vmid_bits=vmid_bits,
        stage2=geometry, banks=banks, reserved=reserved, gic=gic, timers=timers,
        uarts=uarts, psci=psci, smmus=smmus, platform=platform.name,
        bringup=used if len(cpus) > 1 else Bringup("none"),
        reset=platform.reset or ("PSCI" if psci is not None and psci.usable and psci.version != "0.1" else ""),
        dom0_maps=platform.maps, hidden=platform.hidden, quirks=platform.quirks + narrow,
    )


# ---- processors --------------------------------------------------------------------------------------------


def _cpu_nodes(given: Tree) -> list[Node]:
    """The nodes below /cpus that are CPUs."""
    cpus = given.at("/cpus")
    found = [] if cpus is None else [one for one in cpus.children if tree.string(one, "device_type") == "cpu"]
    if not found:
        raise BadBoard("the device tree has no CPU: /cpus is missing or empty")
    return found


def _identifier(node: Node) -> int | None:
    """The value of a CPU's reg, or None where it has none that is long enough."""
    count = tree.address_cells(node)
    reg = node.properties.get("reg")
    if reg is None or len(reg) < 4 * count:
        return None
    return tree.number(tree.cells(reg[:4 * count]))


def _boot_node(given: Tree, nodes: Sequence[Node]) -> Node:
    """The CPU that the header names, or the first: the tree does not say on which Xen is started."""
    return next((one for one in nodes if _identifier(one) == given.blob.boot_cpu), nodes[0])


def _width(given: Tree, kind: str, processor: processors.Processor | None, pa_bits: int | None) -> tuple[str, int, int]:
    """Architecture, bits of a physical address and bits of a VMID.

    Errors: RefusedByXen for a CPU that Xen does not run on, BadBoard for one that is not known.
    Source: xen/arch/arm/arm32/head.S (check_cpu_mode, cpu_init).
    """
    if pa_bits is not None and not 32 <= pa_bits <= 52:
        raise BadBoard(f"a physical address of {pa_bits} bits: 32 to 52 are possible")
    if processor is None:
        if pa_bits is None:
            raise BadBoard(f"the processor {kind!r} is not known: give the width of its physical addresses")
        # an Armv8 timer is the only other sign of the architecture
        v8 = given.first("arm,armv8-timer") is not None
        return ("arm64", pa_bits, 8) if v8 else ("arm32", 40, 8)
    if not processor.virtualization:
        raise RefusedByXen(f"CPU doesn't support the virtualization extensions: {kind}", "xen/arch/arm/arm32/head.S")
    if not processor.known:
        raise RefusedByXen(f"missing processor info: {kind}", "xen/arch/arm/arm32/head.S")
    if processor.architecture == "arm32":
        return "arm32", 40, 8
    return processor.architecture, pa_bits or processor.pa_bits, processor.vmid_bits


def _cpus(
    nodes: Sequence[Node], boot: Node, architecture: str, psci: Psci | None, bringup: Bringup, reason: str
) -> tuple[Cpu, ...]:
    """The CPUs that Xen registers, the boot CPU first.

    bringup: what the platform's code does on arm32; reason: why its preparation failed, or an empty text.
    Errors: BadBoard if the boot CPU has no identifier.
    Source: xen/arch/arm/smpboot.c, dt_smp_init_cpus; arm64/smpboot.c, dt_arch_cpu_init; platform.c, platform_cpu_up.
    """
    mask = _MPIDR_MASK[architecture]
    usable = psci is not None and psci.usable
    boot_id = _identifier(boot)
    if boot_id is None or boot_id & ~mask:
        raise BadBoard(f"the boot CPU {boot.path} has no valid reg")
    boot_kind = _kind(boot)
    found = [Cpu(boot_id, boot_kind, "boot", None, online=True)]
    seen = {boot_id}
    for node in nodes:
        mpidr = _identifier(node)
        # Xen skips these with a warning
        if mpidr is None or mpidr & ~mask or mpidr in seen:
            continue
        if len(found) == _NR_CPUS:
            break
        seen.add(mpidr)
        method, release, note = _enable_method(node, architecture, usable, bringup)
        if reason:
            note = reason
        if not note and _kind(node) != boot_kind:
            note = "not identical to the boot CPU: parked unless hmp-unsafe is given"
        found.append(Cpu(mpidr, _kind(node), method, release, online=not note, note=note))
    return tuple(found)


def _kind(node: Node) -> str:
    """The first compatible string of a CPU."""
    return printable(tree.string(node, "compatible") or "unknown")


def _enable_method(node: Node, architecture: str, psci: bool, bringup: Bringup) -> tuple[str, int | None, str]:
    """How Xen starts a CPU, its release address, and why it cannot (an empty text if it can)."""
    if architecture == "arm32":
        # the tree says nothing that Xen reads: PSCI, or else the platform's code
        if psci:
            return "psci", None, ""
        if bringup.method == "none":
            return "none", None, "no PSCI and no code of the platform"
        return "platform", None, ""
    method = tree.string(node, "enable-method")
    if method is None:
        return "none", None, "no enable method"
    if method == "psci":
        return ("psci", None, "") if psci else ("none", None, "asks for PSCI, and there is none that Xen can use")
    if method == "spin-table":
        release = tree.cells(node.properties.get("cpu-release-addr", b"")[:8])
        if len(release) < 2:
            return "none", None, "no cpu-release-addr"
        address = tree.number(release)
        return ("spin-table", address, "") if address else ("none", None, "no release address")
    return "none", None, printable(f"unknown enable method {method!r}", 80)


def _method(cpus: Sequence[Cpu]) -> Bringup:
    """The enable method of the CPUs beside the boot CPU, if they have one in common."""
    methods = {cpu.method for cpu in cpus[1:] if cpu.method != "none"}
    if not methods:
        return Bringup("none")
    return Bringup(methods.pop()) if len(methods) == 1 else Bringup("mixed")


def _psci(given: Tree, architecture: str) -> Psci | None:
    """The PSCI that the tree offers; the newer binding first.  Source: xen/arch/arm/psci.c, psci_init."""
    offered: Psci | None = None
    node = given.first("arm,psci-0.2", "arm,psci-1.0")
    if node is not None:
        method = printable(tree.string(node, "method") or "", 20)
        version = "1.0" if tree.is_compatible(node, ["arm,psci-1.0"]) else "0.2"
        number = 0xC4000003 if architecture == "arm64" else 0x84000003
        offered = Psci(version, method, number, usable=method == "smc")
        if offered.usable:
            return offered
    node = given.first("arm,psci")
    if node is not None:
        method = printable(tree.string(node, "method") or "", 20)
        number_0_1 = tree.cell(node, "cpu_on")
        older = Psci("0.1", method, number_0_1, usable=method == "smc" and number_0_1 is not None)
        if older.usable or offered is None:
            return older
    return offered


# ---- memory --------------------------------------------------------------------------------------------------


@attrs.define
class _Scan:
    """What the early scan of the tree has found: (base, size) in bytes, in the order of the tree."""

    ram: list[tuple[int, int]] = attrs.field(factory=list)
    reserved: list[tuple[int, int]] = attrs.field(factory=list)


def _memory(
    given: Tree, architecture: str, width: int, ram: Sequence[Bank]
) -> tuple[tuple[Bank, ...], tuple[Region, ...]]:
    """The banks of RAM and the reserved ranges.

    width: bits of a physical address; ram: in place of the banks in the tree, if any.
    Errors: RefusedByXen, BadBoard.
    Source: xen/arch/arm/bootfdt.c, boot_fdt_info; xen/arch/arm/setup.c, setup_mm.
    """
    scan = _scan(given)
    if ram:
        scan.ram = [(bank.base, bank.size) for bank in ram]
    if not scan.ram:
        raise RefusedByXen("no memory bank", "xen/arch/arm/setup.c, setup_mm")
    banks: list[Bank] = []
    for base, size in sorted(scan.ram):
        if base + size > 1 << width:
            raise BadBoard(f"RAM at {base:#x} of {size:#x} bytes is beyond the physical addresses of {width} bits")
        # a frame that is only partly RAM is not used
        start, end = -(-base // PAGE_SIZE) * PAGE_SIZE, (base + size) // PAGE_SIZE * PAGE_SIZE
        if end <= start:
            continue
        if banks and start < banks[-1].end:
            raise BadBoard(f"RAM banks at {banks[-1].base:#x} and {start:#x} overlap")
        banks.append(Bank(start, end - start))
    if not banks:
        raise BadBoard("no bank of RAM has a whole frame")
    reserved = sorted({*given.blob.reservations, *scan.reserved})
    for base, size in reserved:
        if base + size > 1 << 64:
            raise BadBoard(f"the reserved range at {base:#x} of {size:#x} bytes ends beyond 64 bits")
    if architecture == "arm32":
        _xenheap(banks, reserved)
    return tuple(banks), tuple(Region(base, size) for base, size in reserved)


def _scan(given: Tree) -> _Scan:
    """All memory nodes, wherever they are, and the reserved ranges; an error ends the scan early, as in Xen.

    Errors: RefusedByXen, BadBoard.
    Source: xen/arch/arm/bootfdt.c, device_tree_for_each_node and early_scan_node.
    """
    scan = _Scan()
    counts: dict[int, tuple[int, int]] = {}     # of each depth: cells of the node there last seen
    for node in given.nodes:
        if node.depth >= _DEEPEST_SCAN:
            raise RefusedByXen(f"it loops for ever on nodes nested {_DEEPEST_SCAN} deep", _SCAN)
        above = counts[node.depth - 1] if node.depth else (2, 1)
        own_na, own_ns = tree.cell(node, "#address-cells"), tree.cell(node, "#size-cells")
        counts[node.depth] = (above[0] if own_na is None else own_na, above[1] if own_ns is None else own_ns)
        if not node.depth:
            continue
        # at any depth: a node memory@... below /reserved-memory is RAM too
        if node.name == "memory" or node.name.startswith("memory@"):
            if not _listed(node, *above, scan.ram, must=True):
                break
        elif node.depth == 1 and node.name.lower() == "reserved-memory":
            if not _scan_reserved(node, scan):
                break
    return scan


def _scan_reserved(parent: Node, scan: _Scan) -> bool:
    """The static ranges below /reserved-memory; False if Xen stops scanning there.

    Errors: RefusedByXen, BadBoard.
    """
    # Xen begins anew below this node: the counts of cells of nodes above it are not inherited
    counts: dict[int, tuple[int, int]] = {}
    left = [parent]
    while left:
        node = left.pop()
        left.extend(reversed(node.children))
        depth = node.depth - parent.depth
        if depth >= _DEEPEST_SCAN:
            raise RefusedByXen(f"it loops for ever on nodes nested {_DEEPEST_SCAN} deep", _SCAN)
        above = counts[depth - 1] if depth else (2, 1)
        own_na, own_ns = tree.cell(node, "#address-cells"), tree.cell(node, "#size-cells")
        counts[depth] = (above[0] if own_na is None else own_na, above[1] if own_ns is None else own_ns)
        if not depth:
            continue
        if not _listed(node, *above, scan.reserved, must=False):
            return False
    return True


def _listed(node: Node, na: int, ns: int, ranges: list[tuple[int, int]], *, must: bool) -> bool:
    """Add the ranges of a node's reg; False if Xen stops scanning there.

    na, ns: cells of an address and of a size; must: a node without reg is an error.
    Errors: RefusedByXen if there are too many reserved ranges, BadBoard for an absurd count of cells.
    Source: device_tree_get_meminfo.
    """
    if na < 1 or ns < 1:
        return False
    if na > 4 or ns > 4:
        raise BadBoard(f"{node.path} has addresses of {na} cells and sizes of {ns} cells")
    reg = node.properties.get("reg")
    if reg is None:
        return not must
    numbers = tree.cells(reg)
    one = na + ns
    count = len(numbers) // one
    for i in range(count):
        if len(ranges) == _NR_MEM_BANKS:
            if must:
                return False
            raise RefusedByXen("max number of supported reserved-memory regions reached",
                               "xen/arch/arm/bootfdt.c, process_reserved_memory_node")
        entry = numbers[i * one:(i + 1) * one]
        base, size = tree.number(entry[:na]), tree.number(entry[na:])
        if size:
            ranges.append((base, size))
    return True


def _xenheap(banks: Sequence[Bank], reserved: Sequence[tuple[int, int]]) -> None:
    """A 32-bit Xen needs a heap without a gap, aligned to 32 MB; modules, which the tree of a board has not, apart.

    reserved: ascending.
    Errors: RefusedByXen.
    Source: xen/arch/arm/setup.c, setup_mm (arm32) and consider_modules.
    """
    step = 32 * _MB
    start, end = banks[0].base, banks[-1].end
    free: list[tuple[int, int]] = []
    at = start
    for base, size in reserved:
        if base > at:
            free.append((at, min(base, end)))
        at = max(at, base + size)
    free.append((at, end))
    largest = max(high // step * step - -(-low // step * step) for low, high in free)
    pages = sum(bank.frames for bank in banks)
    heap = min(max((pages // 32 + 0x1FFF) & ~0x1FFF, step // PAGE_SIZE), (1 << 30) // PAGE_SIZE)
    while heap * PAGE_SIZE > largest:
        heap >>= 1
        # the last half is not tried when it is 32 MB
        if heap <= step // PAGE_SIZE:
            raise RefusedByXen("not enough space for xenheap", "xen/arch/arm/setup.c, setup_mm")


# ---- platform ------------------------------------------------------------------------------------------------


def _platform_init(given: Tree, platform: Platform) -> None:
    """What the code of the platform checks first.  Source: xen/arch/arm/platforms/xgene-storm.c, xgene_storm_init."""
    if not platform.stride_64k:
        return
    source = "xen/arch/arm/platforms/xgene-storm.c, xgene_check_pirq_eoi"
    gics = given.matching("arm,cortex-a15-gic")
    node = next((one for one in gics if "interrupt-controller" in one.properties and one.parent is not None), None)
    if node is None:
        raise RefusedByXen("can not find interrupt controller node", source)
    distributor = given.region(node, 0)
    if distributor is None:
        raise RefusedByXen("cannot find a valid address for the distributor", source)
    if distributor.base == _XGENE_SECURE_GICD:
        raise RefusedByXen(f"old X-Gene firmware: GICD at {_XGENE_SECURE_GICD:#x} is the secure one", source)


def _platform_init_time(given: Tree, platform: Platform) -> None:
    """What the platform's code needs for the timer.  Source: xen/arch/arm/platforms/exynos5.c, exynos5_init_time."""
    if not platform.name.startswith("SAMSUNG EXYNOS"):
        return
    node = given.first("samsung,exynos4210-mct")
    if node is None or given.region(node, 0) is None:
        raise RefusedByXen("cannot initialize platform timer: samsung,exynos4210-mct is missing",
                           "xen/arch/arm/time.c, preinit_xen_time")


def _bringup(given: Tree, platform: Platform) -> tuple[Bringup, str]:
    """How the platform's code starts CPUs, and why it cannot: then Xen goes on with one.

    Source: xen/arch/arm/platforms/exynos5.c, exynos5_smp_init.
    """
    if platform.bringup is None:
        return Bringup("none"), ""
    if platform.bringup.method != "sysram":
        return platform.bringup, ""
    secure = given.first("samsung,secure-firmware") is not None
    kind, offset = ("samsung,exynos4210-sysram-ns", 0x1C) if secure else ("samsung,exynos4210-sysram", 0)
    node = given.first(kind)
    sysram = given.region(node, 0) if node is not None else None
    if sysram is None:
        return Bringup("none"), f"{kind} is missing"
    return Bringup("sysram", sysram.base + offset, interrupt=True), ""


# ---- timers and GIC --------------------------------------------------------------------------------------------


def _controller(given: Tree, architecture: str) -> tuple[Node, int]:
    """The node of the GIC and its version: the first that Xen has a driver for.

    Errors: RefusedByXen.
    Source: xen/arch/arm/gic.c, gic_dt_preinit; GICv3 is built for arm64 only.
    """
    for node in given.nodes:
        if "interrupt-controller" not in node.properties or node.parent is None or "compatible" not in node.properties:
            continue
        if not tree.is_available(node) or "xen,passthrough" in node.properties:
            continue
        if tree.is_compatible(node, _GIC_V2):
            return node, 2
        if architecture == "arm64" and tree.is_compatible(node, _GIC_V3):
            return node, 3
    raise RefusedByXen("unable to find compatible GIC in the device tree", "xen/arch/arm/gic.c, gic_dt_preinit")


def _private(interrupt: Interrupt, what: str) -> Interrupt:
    """The interrupt, which must be a PPI: each CPU has its own.

    Errors: BadBoard.
    """
    if not interrupt.private:
        raise BadBoard(f"{what} is {interrupt}, which is not private to a CPU")
    return interrupt


def _timers(given: Tree, node: Node, controller: Node) -> Timers:
    """The four interrupts of the generic timer: secure, non-secure, virtual, hypervisor.

    Errors: RefusedByXen, BadBoard.
    Source: xen/arch/arm/time.c, init_dt_xen_time.
    """
    found: list[Interrupt] = []
    for i, what in enumerate(("secure", "physical", "virtual", "hypervisor")):
        one = given.interrupt(node, i, controller)
        if one is None:
            raise RefusedByXen(f"unable to retrieve timer IRQ {i} ({what}) from the device tree",
                               "xen/arch/arm/time.c, init_dt_xen_time")
        found.append(_private(one, f"the {what} timer's interrupt"))
    rate = node.properties.get("clock-frequency", b"")
    frequency = int.from_bytes(rate[:4], "big") if len(rate) >= 4 else 0
    return Timers(found[0], found[1], found[2], found[3], frequency or None)


def _maintenance(given: Tree, node: Node, version: int, source: str) -> Interrupt:
    """The maintenance interrupt.

    Errors: RefusedByXen, BadBoard.
    """
    one = given.interrupt(node, 0, node)
    if one is None:
        raise RefusedByXen(f"GICv{version}: cannot find the maintenance IRQ", source)
    return _private(one, "the maintenance interrupt")


def _few(frames: Sequence[Region], what: str) -> None:
    """The GIC has no more frames than any real one.

    Errors: BadBoard.
    """
    if len(frames) > _MOST_DEVICES:
        raise BadBoard(f"the GIC has more than {_MOST_DEVICES} {what}")


def _gic_v2(given: Tree, node: Node, platform: Platform) -> tuple[Gic, tuple[str, ...]]:
    """The GICv2, and what Xen corrects of it.

    Errors: RefusedByXen, BadBoard.
    Source: xen/arch/arm/gic-v2.c, gicv2_dt_init and gicv2_init.
    """
    source = "xen/arch/arm/gic-v2.c, gicv2_dt_init"
    found: list[Region] = []
    for i, what in enumerate(("distributor", "CPU", "hypervisor", "virtual CPU")):
        one = given.region(node, i)
        if one is None:
            raise RefusedByXen(f"GICv2: cannot find a valid address for the {what}", source)
        found.append(one)
    distributor, cpu, hypervisor, virtual_cpu = found
    maintenance = _maintenance(given, node, 2, source)
    corrected: list[str] = []
    if cpu.size < 8 * _KB:
        corrected.append(f"GICC is given as {cpu.size:#x} bytes, too few")
        if platform.stride_64k:
            cpu, virtual_cpu = Region(cpu.base, 128 * _KB), Region(virtual_cpu.base, 128 * _KB)
        else:
            cpu = Region(cpu.base, 8 * _KB)
    if cpu.size != virtual_cpu.size:
        raise RefusedByXen(
            f"GICv2: sizes of GICC ({cpu.size:#x}) and GICV ({virtual_cpu.size:#x}) don't match", source
        )
    frames: list[Region] = []
    for child in node.children:
        if tree.is_compatible(child, ["arm,gic-v2m-frame"]):
            frame = given.region(child, 0)
            if frame is None:
                raise RefusedByXen("GICv2: cannot find a valid v2m frame address",
                                   "xen/arch/arm/gic-v2.c, gicv2_extension_dt_init")
            frames.append(frame)
            _few(frames, "v2m frames")
    if any(one.base % PAGE_SIZE for one in (distributor, cpu, hypervisor, virtual_cpu)):
        raise RefusedByXen("GICv2 interfaces not page aligned", "xen/arch/arm/gic-v2.c, gicv2_init")
    if cpu.size == 128 * _KB:
        corrected.append("GICC has 128 KB: Xen looks for a GIC-400 with aliased pages and then uses it from 0xf000 on")
    gic = Gic(2, distributor, cpu, hypervisor, virtual_cpu, (), 0, (), tuple(frames), maintenance)
    return gic, tuple(corrected)


def _gic_v3(given: Tree, node: Node) -> tuple[Gic, tuple[str, ...]]:
    """The GICv3, and what Xen leaves out of it.

    Errors: RefusedByXen, BadBoard.
    Source: xen/arch/arm/gic-v3.c, gicv3_dt_init and gicv3_init_v2; gic-v3-its.c, gicv3_its_dt_init.
    """
    source = "xen/arch/arm/gic-v3.c, gicv3_dt_init"
    distributor = given.region(node, 0)
    if distributor is None:
        raise RefusedByXen("GICv3: cannot find a valid distributor address", source)
    if distributor.base % PAGE_SIZE:
        raise RefusedByXen(f"GICv3: found unaligned distributor address {distributor.base:#x}",
                           "xen/arch/arm/gic-v3.c, gicv3_ioremap_distributor")
    told = tree.cell(node, "#redistributor-regions")
    count = 1 if told is None else told
    redistributors: list[Region] = []
    for i in range(count):
        one = given.region(node, 1 + i)
        if one is None:
            raise RefusedByXen(f"GICv3: no rdist base found for region {i}", source)
        if i == _MOST_REDISTRIBUTORS:
            raise BadBoard(f"{count} redistributor regions are more than {_MOST_REDISTRIBUTORS}")
        redistributors.append(one)
    stride_property = node.properties.get("redistributor-stride", b"")
    stride = int.from_bytes(stride_property[:4], "big") if len(stride_property) >= 4 else 0
    maintenance = _maintenance(given, node, 3, source)
    cpu, hypervisor, virtual_cpu = (given.region(node, 1 + count + i) for i in range(3))
    left_out: list[str] = []
    if cpu is None or virtual_cpu is None:
        cpu = hypervisor = virtual_cpu = None
    elif virtual_cpu.size < 8 * _KB:
        left_out.append(f"GICV has {virtual_cpu.size:#x} bytes, too few for guests with a GICv2")
        cpu = hypervisor = virtual_cpu = None
    its: list[Region] = []
    for child in node.children:
        if tree.is_compatible(child, ["arm,gic-v3-its"]):
            frame = given.region(child, 0)
            if frame is None:
                # only a Xen that is built with ITS support stops here; a board without an address for it is none at all
                raise RefusedByXen("GICv3: cannot find a valid ITS frame address",
                                   "xen/arch/arm/gic-v3-its.c, gicv3_its_dt_init")
            its.append(frame)
            _few(its, "ITS frames")
    if not redistributors:
        raise BadBoard("the GICv3 has no redistributor region")
    gic = Gic(3, distributor, cpu, hypervisor, virtual_cpu, tuple(redistributors), stride, tuple(its), (), maintenance)
    return gic, tuple(left_out)


# ---- other devices -----------------------------------------------------------------------------------------------


def _uarts(given: Tree, controller: Node) -> tuple[Uart, ...]:
    """The UARTs that Xen has a driver for and that are not switched off, at most 64.

    Source: xen/drivers/char/arm-uart.c, dt_uart_init, and the drivers beside it.
    """
    chosen = given.at("/chosen")
    path = tree.string(chosen, "stdout-path") if chosen is not None else None
    output = given.named(path.split(":", 1)[0]) if path is not None else None
    found: list[Uart] = []
    for node in given.matching(*_UARTS):
        if len(found) == _MOST_DEVICES:
            break
        one = given.region(node, 0)
        if one is None or not one.size or not tree.is_available(node):
            continue
        mine = [text.lower() for text in tree.strings(node, "compatible")]
        kind = next(text for text in mine if text in _UARTS)
        shift = tree.cell(node, "reg-shift") or 0
        if shift > 3:
            raise BadBoard(f"{node.path} has registers 2**{shift} bytes apart")
        found.append(Uart(kind, one, given.interrupt(node, 0, controller), shift, console=node is output))
    return tuple(found)


def _smmus(given: Tree, controller: Node) -> tuple[Smmu, ...]:
    """The SMMUs that are not switched off, at most 64."""
    found: list[Smmu] = []
    for node in given.matching(*_SMMUS):
        if len(found) == _MOST_DEVICES:
            break
        one = given.region(node, 0)
        if one is None or not one.size or not tree.is_available(node):
            continue
        kind = next(text for text in (name.lower() for name in tree.strings(node, "compatible")) if text in _SMMUS)
        found.append(Smmu(kind, one, tuple(given.interrupts(node, controller)), _SMMUS[kind]))
    return tuple(found)
