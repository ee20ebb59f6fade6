"""The shape of a stage-2 translation: what VTCR says, and what the walk needs to know of it.

One object serves arm64 (VTCR_EL2, 4 KB granule) and arm32 (VTCR, long descriptors). Numbers are plain integers:
sizes in bits, addresses in bytes.

Source: Arm DDI 0487 D5.2 (address sizes, start levels, concatenated tables), G5.2 (AArch32), D13.2 (VTCR_EL2).
"""

from dataclasses import dataclass
from typing import ClassVar, Final

PAGE_BITS: Final = 12
PAGE_BYTES: Final = 1 << PAGE_BITS
INDEX_BITS: Final = 9
ENTRIES: Final = 1 << INDEX_BITS
LAST_LEVEL: Final = 3
MAX_ROOT_PAGES: Final = 16
ARCHITECTURE_BITS: Final = 48

_PS_BITS: Final = (32, 36, 40, 42, 44, 48, 48)
# PARange of the CPU -> IPA bits and start level that Xen 4.17 chooses (xen/arch/arm/p2m.c, setup_virt_paging)
_XEN_ROOTS: Final = ((32, 1), (36, 1), (40, 1), (42, 1), (44, 0), (48, 0), (48, 0))


class GeometryError(ValueError):
    """A value of VTCR, or a geometry by name, that the architecture forbids or leaves unpredictable."""


def shift_of(level: int) -> int:
    """The lowest address bit that a table of `level` resolves [bits, 12..39].

    level: level of lookup [0..3].
    """
    return PAGE_BITS + INDEX_BITS * (LAST_LEVEL - level)


@dataclass(frozen=True, slots=True)
class Geometry:
    """One stage-2 geometry with the 4 KB granule.

    ipa_bits: size of the input address [bits, 25..48; arm32: 25..40].
    start_level: level of the first lookup [0..2].
    pa_bits: size of the output address [bits, 32..48; arm32: 40].
    arm32: True for the long descriptors of AArch32.

    Errors: GeometryError when the pair of input size and start level is not permitted.
    Source: Arm DDI 0487 D5.2.3 (start level and size of the input), G5.6.
    """

    ipa_bits: int
    start_level: int
    pa_bits: int = ARCHITECTURE_BITS
    arm32: bool = False

    all: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        most = 40 if self.arm32 else ARCHITECTURE_BITS
        if not 25 <= self.ipa_bits <= most:
            raise GeometryError(f"an input size of {self.ipa_bits} bits is outside 25..{most}")
        if not (1 if self.arm32 else 0) <= self.start_level <= 2:
            raise GeometryError(f"level {self.start_level} cannot be the first level of lookup")
        if self.arm32 and self.pa_bits != 40:
            raise GeometryError(f"arm32 has output addresses of 40 bits, not {self.pa_bits}")
        if self.pa_bits not in _PS_BITS:
            raise GeometryError(f"no output address has {self.pa_bits} bits")
        resolved = self.ipa_bits - shift_of(self.start_level)
        if resolved < 1:
            raise GeometryError(
                f"an input of {self.ipa_bits} bits leaves less than 2 entries to a table of level {self.start_level}"
            )
        if resolved > INDEX_BITS + 4:
            raise GeometryError(
                f"an input of {self.ipa_bits} bits needs more than 16 concatenated tables of level {self.start_level}"
            )

    @property
    def root_entries(self) -> int:
        """Entries of the first lookup that the hardware can reach [2..8192]."""
        return 1 << (self.ipa_bits - shift_of(self.start_level))

    @property
    def root_pages(self) -> int:
        """Concatenated tables of the first level [pages, 1..16]."""
        return max(1, self.root_entries >> INDEX_BITS)

    @property
    def root_bits(self) -> int:
        """Alignment of the first table: its address has this many low bits of 0 [bits, 4..16]."""
        return 3 + self.ipa_bits - shift_of(self.start_level)

    @property
    def root_gfns(self) -> int:
        """Guest frames that whole root pages span: what Xen's own lookups and insertions accept [frames].

        It is more than the input size when the hardware uses a part of the root page only.
        Source: xen/arch/arm/p2m.c (p2m_get_root_pointer), Xen 4.17.
        """
        return self.root_pages << (INDEX_BITS * (LAST_LEVEL + 1 - self.start_level))

    @property
    def name(self) -> str:
        """The name by which `Geometry.named` finds it, but for the output size."""
        return f"{'arm32' if self.arm32 else 'arm64'}-ipa{self.ipa_bits}-l{self.start_level}"

    def root_of(self, vttbr: int) -> int:
        """The address of the first table that a VTTBR names [bytes].

        vttbr: value of VTTBR_EL2 or VTTBR [64 bits]; the VMID and the bits below the alignment do not count.
        Source: Arm DDI 0487 D13.2 (VTTBR_EL2).
        """
        return vttbr & ((1 << ARCHITECTURE_BITS) - 1) & -(1 << self.root_bits)

    def vtcr(self) -> int:
        """The value of VTCR that means this geometry, with Xen's cacheability [32 bits].

        Walks are inner shareable, write-back, write-allocate.
        Source: xen/arch/arm/p2m.c (setup_virt_paging), Xen 4.17.
        """
        cached = 3 << 12 | 1 << 10 | 1 << 8 | (2 - self.start_level) << 6 | 1 << 31
        if self.arm32:
            size = (32 - self.ipa_bits) & 0xF
            return cached | size | (size >> 3) << 4
        return cached | _PS_BITS.index(self.pa_bits) << 16 | (64 - self.ipa_bits)

    @staticmethod
    def of_vtcr(value: int, arm32: bool = False, pa_max: int = ARCHITECTURE_BITS) -> "Geometry":
        """The geometry that a value of VTCR_EL2 (or, with `arm32`, VTCR) selects.

        value: the register [arm64: 64 bits, arm32: 32 bits].
        pa_max: the physical address size of the CPU [bits]; arm32 ignores it.

        Errors: GeometryError with the reason: a reserved value, a granule other than 4 KB, 52-bit addresses, hardware
        updates of descriptors, an input larger than the CPU's addresses, or a start level that does not fit.
        Source: Arm DDI 0487 D13.2 (VTCR_EL2), G8.2 (VTCR), D5.2.3.
        """
        if not 0 <= value < 1 << (32 if arm32 else 64):
            raise GeometryError(f"VTCR {value:#x} is no register value")
        return _of_vtcr32(value) if arm32 else _of_vtcr64(value, pa_max)

    @staticmethod
    def named(name: str) -> "Geometry":
        """The geometry of a name.

        name: `arm64-ipa40-l1` and the like (input size and start level, all of `Geometry.all`); `arm32`: what Xen uses
        on 32-bit; `arm64-pa0`..`arm64-pa6`: what Xen 4.17 chooses for that PARange of the CPU.

        Errors: GeometryError for a name that is not one of these.
        Source: xen/arch/arm/p2m.c (setup_virt_paging), Xen 4.17.
        """
        if name == "arm32":
            return Geometry(40, 1, 40, arm32=True)
        if name.startswith("arm64-pa") and name[8:] in {"0", "1", "2", "3", "4", "5", "6"}:
            bits, level = _XEN_ROOTS[int(name[8:])]
            return Geometry(bits, level, bits)
        if name not in Geometry.all:
            raise GeometryError(f"no geometry is named {name!r}")
        kind, size, level_name = name.split("-")
        arm32 = kind == "arm32"
        return Geometry(int(size[3:]), int(level_name[1:]), 40 if arm32 else ARCHITECTURE_BITS, arm32)


def _of_vtcr64(value: int, pa_max: int) -> Geometry:
    """VTCR_EL2, field by field."""
    if pa_max not in _PS_BITS:
        raise GeometryError(f"no CPU has physical addresses of {pa_max} bits here")
    if granule := value >> 14 & 3:
        raise GeometryError(f"TG0 {granule} is not the 4 KB granule")
    size = value >> 16 & 7
    if size == 7:
        raise GeometryError("PS 7 is reserved")
    if value >> 32 & 3:
        raise GeometryError("DS or SL2 is set: 52-bit addresses with the 4 KB granule are not modelled")
    if value >> 21 & 3:
        raise GeometryError("HA or HD is set: hardware updates of descriptors are not modelled")
    field = value >> 6 & 3
    if field == 3:
        raise GeometryError("SL0 3 is reserved, or starts at level 3, which is not modelled")
    level = 2 - field
    if level == 0 and pa_max < 44:
        raise GeometryError(f"a CPU with addresses of {pa_max} bits cannot start at level 0")
    ipa_bits = 64 - (value & 63)
    if ipa_bits > pa_max:
        raise GeometryError(f"an input of {ipa_bits} bits is larger than the CPU's addresses of {pa_max} bits")
    return Geometry(ipa_bits, level, min(_PS_BITS[size], pa_max))


def _of_vtcr32(value: int) -> Geometry:
    """VTCR of AArch32: T0SZ is signed, and S repeats its sign."""
    size = value & 15
    if value >> 4 & 1 != size >> 3:
        raise GeometryError("S does not repeat the sign of T0SZ: unpredictable")
    field = value >> 6 & 3
    if field > 1:
        raise GeometryError(f"SL0 {field} is reserved")
    return Geometry(32 - (size - 16 if size & 8 else size), 2 - field, 40, arm32=True)


def _all() -> tuple[str, ...]:
    """The names of all permitted pairs of input size and start level, arm64 first."""
    found = []
    for arm32 in (False, True):
        for bits in range(25, 49):
            for level in range(3):
                try:
                    found.append(Geometry(bits, level, 40 if arm32 else ARCHITECTURE_BITS, arm32).name)
                except GeometryError:
                    continue
    return tuple(found)


Geometry.all = _all()
