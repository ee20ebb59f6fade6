"""What a device tree does not say of a processor: its architecture, and how wide its physical addresses and VMIDs are.

Source: the Technical Reference Manual of each processor, register ID_AA64MMFR0_EL1 (PARange) and ID_AA64MMFR1_EL1
(VMIDBits).  Armv7 with the large physical address extension always has 40 bits, and VMIDs of 8 (Arm DDI 0406C, B3.6 and
B4.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs


@attrs.frozen
class Processor:
    """A kind of processor.

    architecture: ``arm32`` or ``arm64``; pa_bits: width of a physical address; vmid_bits: 8 or 16.
    virtualization: it has the extensions that Xen needs; known: Xen 4.17 for arm32 has it in its list of processors.
    """

    architecture: str
    pa_bits: int
    vmid_bits: int = 8
    virtualization: bool = True
    known: bool = True


_V8 = "arm64"

PROCESSORS: Final[dict[str, Processor]] = {
    # Armv7 (and before): Xen's list is xen/arch/arm/arm32/proc-v7.S
    "arm,cortex-a7": Processor("arm32", 40),
    "arm,cortex-a15": Processor("arm32", 40),
    "brcm,brahma-b15": Processor("arm32", 40),
    "arm,cortex-a12": Processor("arm32", 40, known=False),
    "arm,cortex-a17": Processor("arm32", 40, known=False),
    **{name: Processor("arm32", 32, virtualization=False, known=False) for name in (
        "arm,cortex-a5", "arm,cortex-a8", "arm,cortex-a9", "arm,arm1176jzf-s", "arm,arm1176jzf", "arm,arm1136jf-s",
        "arm,arm1136", "arm,arm11mpcore", "arm,arm926ej-s", "arm,arm926ejs", "arm,arm920t", "qcom,krait",
        "qcom,scorpion", "marvell,pj4a", "marvell,pj4b", "marvell,sheeva-v7", "marvell,feroceon", "marvell,88f6281",
    )},
    # Armv8 of Arm
    "arm,cortex-a35": Processor(_V8, 40),
    "arm,cortex-a53": Processor(_V8, 40),
    "arm,cortex-a57": Processor(_V8, 44),
    "arm,cortex-a72": Processor(_V8, 44),
    "arm,cortex-a73": Processor(_V8, 40),
    "arm,cortex-a55": Processor(_V8, 40, 16),
    "arm,cortex-a75": Processor(_V8, 44, 16),
    "arm,cortex-a76": Processor(_V8, 40, 16),
    "arm,cortex-a77": Processor(_V8, 40, 16),
    "arm,cortex-a78": Processor(_V8, 40, 16),
    "arm,neoverse-n1": Processor(_V8, 48, 16),
    # a model of the architecture: 40 bits unless its parameters say otherwise
    "arm,armv8": Processor(_V8, 40),
    # of others: not verified
    "apm,potenza": Processor(_V8, 42),
    "apm,strega": Processor(_V8, 42),
    "cavium,thunder": Processor(_V8, 48),
}

# machines whose tree names a general processor although theirs has other widths; not verified
MACHINES: Final[dict[str, Processor]] = {
    "arm,fvp-base-revc": Processor(_V8, 48),
}


def find(cpu: Sequence[str], machine: Sequence[str]) -> tuple[str, Processor | None]:
    """The kind of a processor and what is known of it.

    cpu: compatible strings of its node; machine: those of the root.
    The kind is the first string that is known, or else the first, or ``unknown`` where there is none.
    """
    kinds = [text.lower() for text in cpu]
    known = [kind for kind in kinds if kind in PROCESSORS]
    kind = known[0] if known else (kinds[0] if kinds else "unknown")
    for name in machine:
        if name.lower() in MACHINES:
            return kind, MACHINES[name.lower()]
    return kind, PROCESSORS.get(kind)
