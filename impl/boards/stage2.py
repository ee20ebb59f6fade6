"""The geometry of stage-2 tables that Xen 4.17 chooses for a machine.

Source: xen/arch/arm/p2m.c, setup_virt_paging.
"""

from __future__ import annotations

from typing import Final

import attrs

from impl.boards.problems import RefusedByXen

PADDR_BITS: Final = {"arm32": 40, "arm64": 48}
_SOURCE = "xen/arch/arm/p2m.c, setup_virt_paging"


@attrs.frozen
class Stage2:
    """What every VM's translation looks like.

    ipa_bits: width of a guest's physical address; t0sz: the field of VTCR; root_level: 0 or 1;
    root_pages: concatenated pages of the root.
    """

    ipa_bits: int
    t0sz: int
    root_level: int
    root_pages: int


_GEOMETRY: Final = {
    32: Stage2(32, 32, 1, 1),
    36: Stage2(36, 28, 1, 1),
    40: Stage2(40, 24, 1, 2),
    42: Stage2(42, 22, 1, 8),
    44: Stage2(44, 20, 0, 1),
    48: Stage2(48, 16, 0, 1),
}


def choose(architecture: str, pa_bits: int, smmu_bits: int | None = None) -> Stage2:
    """The geometry for a machine.

    architecture: ``arm32`` or ``arm64``.
    pa_bits: the CPUs' physical addresses, 32..52; arm32 takes no notice of it.
    smmu_bits: the narrowest input address of the SMMUs that Xen uses; None where there is none.
    Errors: RefusedByXen for a width that Xen does not handle.
    """
    bits = PADDR_BITS[architecture]
    if smmu_bits is not None:
        bits = min(bits, smmu_bits)
    if architecture == "arm32":
        if bits < 40:
            raise RefusedByXen(f"not able to support {bits}-bit IPA", _SOURCE)
        return _GEOMETRY[40]
    bits = min(bits, pa_bits)
    if bits not in _GEOMETRY:
        raise RefusedByXen(f"a PA range of {bits} bits is unknown", _SOURCE)
    return _GEOMETRY[bits]
