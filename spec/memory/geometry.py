"""The shape of a domain's tables: where the walk starts, how many root pages there are, how far it reaches.

Source: xen/arch/arm/p2m.c (setup_virt_paging, p2m_restrict_ipa_bits), Xen 4.17; Arm DDI 0487, VTCR_EL2 and
concatenated translation tables; Arm DDI 0406, VTCR.
"""

from __future__ import annotations

from spec.language import ite, record
from spec.language.values import SpecificationError

PAGE_SHIFT = 12
"""Bits of an address below the frame: 4 KiB pages."""
INDEX_BITS = 9
"""Bits of a frame number that one level translates."""
MAX_ROOT_PAGES = 16
"""Tables that the architecture lets one concatenate at the start level."""
LEVELS = (0, 1, 2, 3)
OUTPUT_BITS = (32, 36, 40, 42, 44, 48)
"""Physical address bits by VTCR_EL2.PS and by ID_AA64MMFR0_EL1.PARange."""
OUTPUT_BITS_ARM32 = 40
SMALLEST_IPA_BITS = 32
LARGEST_IPA_BITS = 48


@record
class Geometry:
    """The shape of the tables.

    ipa_bits: bits of a guest physical address [32..48].  start_level: [0..2].
    root_pages: tables concatenated at the start level, 1 or a power of two up to 16.
    output_bits: bits of a machine address that the walk can give.
    arm32: the tables of a 32-bit hypervisor.
    """

    ipa_bits: int = LARGEST_IPA_BITS
    start_level: int = 0
    root_pages: int = 1
    output_bits: int = LARGEST_IPA_BITS
    arm32: bool = False

    @property
    def ipa_frames(self) -> int:
        """Guest frames that the hardware translates."""
        return 1 << self.ipa_bits - PAGE_SHIFT

    @property
    def output_frames(self) -> int:
        """Machine frames that the hardware can reach."""
        return 1 << self.output_bits - PAGE_SHIFT

    @property
    def root_frames(self) -> int:
        """Guest frames that the root table covers: may be more than ``ipa_frames``."""
        return self.root_pages * frames_below(self.start_level - 1)


def frames_below(level: int) -> int:
    """Frames that one word of a table at this level covers.  level: [-1..3]; at -1, a whole level-0 table."""
    return 1 << INDEX_BITS * (3 - level)


def index(gfn: int, level: int) -> int:
    """The word of a table at this level that translates a guest frame.  level: [0..3]."""
    return (gfn // frames_below(level)) % frames_below(2)


def root_page(gfn: int, start_level: int) -> int:
    """Which of the concatenated root pages translates a guest frame.  start_level: [0..2]."""
    pages = [gfn // frames_below(level - 1) for level in (0, 1, 2)]
    return ite(start_level == 0, pages[0], ite(start_level == 1, pages[1], pages[2]))


def pages_for(ipa_bits: int, start_level: int) -> int:
    """Root pages needed for so many bits of address when the walk starts at this level."""
    whole = PAGE_SHIFT + INDEX_BITS * (4 - start_level)
    return 1 << max(0, ipa_bits - whole)


def allowed(ipa_bits: int, start_level: int) -> bool:
    """The architecture allows a walk of so many bits of address to start at this level.

    Level 0 is never concatenated: that would take more than 48 bits.
    Source: Arm DDI 0487, AArch64.S2InconsistentSL, 4 KiB granule.
    """
    if not SMALLEST_IPA_BITS <= ipa_bits <= LARGEST_IPA_BITS or not 0 <= start_level <= 2:
        return False
    resolved = ipa_bits - (PAGE_SHIFT + INDEX_BITS * (3 - start_level))
    return 1 <= resolved <= INDEX_BITS + 4


def every_geometry() -> list[Geometry]:
    """Every shape of 32 to 48 bits that the architecture allows with 4 KiB pages."""
    return [
        Geometry(ipa_bits=bits, start_level=level, root_pages=pages_for(bits, level))
        for bits in range(SMALLEST_IPA_BITS, LARGEST_IPA_BITS + 1)
        for level in (0, 1, 2)
        if allowed(bits, level)
    ]


def of_pa_range(pa_range: int) -> Geometry:
    """What Xen chooses on arm64.  pa_range: ID_AA64MMFR0_EL1.PARange [0..5]; 6 (52 bits) is cut to 5.

    Source: xen/arch/arm/p2m.c (setup_virt_paging), Xen 4.17.
    """
    bits = OUTPUT_BITS[min(pa_range, 5)]
    level = 1 if bits <= 42 else 0
    return Geometry(ipa_bits=bits, start_level=level, root_pages=pages_for(bits, level), output_bits=bits)


ARM32 = Geometry(ipa_bits=40, start_level=1, root_pages=2, output_bits=OUTPUT_BITS_ARM32, arm32=True)
"""What Xen chooses on arm32: always the same."""


def of_vtcr(vtcr: int, *, arm32: bool) -> Geometry:
    """The shape that VTCR_EL2 (arm64) or VTCR (arm32) describes.

    Errors: ``ValueError`` if the granule is not 4 KiB, a field is reserved, or size and start level do not fit.
    """
    start = {0: 2, 1: 1, 2: 0}.get(vtcr >> 6 & 3)
    if arm32:
        size = vtcr & 0xF
        # T0SZ is a signed number, with a copy of its sign in bit 4
        if (vtcr >> 4 & 1) != size >> 3:
            raise ValueError(f"VTCR {vtcr:#x}: the sign bit of T0SZ is wrong")
        bits = 32 - (size - 16 if size & 8 else size)
        output = OUTPUT_BITS_ARM32
    else:
        if vtcr >> 14 & 3:
            raise ValueError(f"VTCR_EL2 {vtcr:#x}: the granule is not 4 KiB")
        bits = 64 - (vtcr & 0x3F)
        encoded = vtcr >> 16 & 7
        if encoded >= len(OUTPUT_BITS):
            raise ValueError(f"VTCR_EL2 {vtcr:#x}: addresses of more than 48 bits")
        output = OUTPUT_BITS[encoded]
    if start is None or (arm32 and start == 0) or not allowed(bits, start):
        raise ValueError(f"VTCR {vtcr:#x}: a walk of {bits} bits does not start at this level")
    return Geometry(ipa_bits=bits, start_level=start, root_pages=pages_for(bits, start), output_bits=output,
                    arm32=arm32)


def check(geometry: Geometry) -> Geometry:
    """The geometry, if the architecture allows it."""
    if not allowed(geometry.ipa_bits, geometry.start_level) or geometry.root_pages != pages_for(
        geometry.ipa_bits, geometry.start_level
    ):
        raise SpecificationError(f"{geometry} is not allowed")
    return geometry
