"""What kind of machine is booted, with which domains."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import attrs

from impl.xen.errors import Refused
from impl.xen.kinds import Kind, kind

GUEST_BASE: Final = 0x40000
"""First gfn of the RAM of every domU. Source: xen/include/public/arch-arm.h (GUEST_RAM0_BASE)."""
MOST_GUESTS: Final = 16
_LEAST_DOM0: Final = 2048
_LEAST_PAGES: Final = 256
_BOOT_PAGES: Final = 2048
"""Frames that a domU has at least while Xen loads it; what is too much of it is given back by the payload."""


@attrs.frozen
class Guest:
    """A domU that Xen builds at boot.

    pages: RAM in frames of 4 KB once it runs, the payload's own at its end; vcpus: 1 to 8; width: 32 or 64 bits of its
    registers (None: as Xen's); max_pages: limit (None: `pages`); pool_pages: of stage-2 tables (None: Xen's own).
    """

    pages: int = 4096
    vcpus: int = 1
    width: Literal[32, 64] | None = None
    max_pages: int | None = None
    pool_pages: int | None = None


def _as_tuple(guests: Iterable[Guest]) -> tuple[Guest, ...]:
    return tuple(guests)


@attrs.frozen
class Config:
    """A machine with real Xen.

    kind: see impl.xen.kinds.KINDS; pa_bits: width of physical addresses, which chooses the processor (None: the kind's
    usual one); guests: domain 1, 2, ... in this order; dom0: there is one; dom0_pages: its RAM in frames;
    xsm: policy; scheduler: Xen's name; cpus: physical processors; grant_max_version: gnttab=max-ver;
    opt_max_*: gnttab_max_frames and its fellow; grant_transitive: gnttab=transitive; scrub_domheap: Xen's option;
    items: length of the longest program; options: more of Xen's command line.
    """

    kind: str = "arm64-gicv2"
    pa_bits: int | None = None
    guests: tuple[Guest, ...] = attrs.field(default=(Guest(), Guest(vcpus=2), Guest()), converter=_as_tuple)
    dom0: bool = True
    dom0_pages: int = 8192
    xsm: Literal["dummy", "silo"] = "dummy"
    scheduler: Literal["credit", "credit2", "rtds", "null"] = "credit"
    cpus: int = 1
    grant_max_version: int = 1
    opt_max_grant_frames: int = 64
    opt_max_maptrack_frames: int = 1024
    grant_transitive: bool = True
    scrub_domheap: bool = False
    items: int = 512
    options: str = ""

    @property
    def machine(self) -> Kind:
        """The kind."""
        return kind(self.kind)

    @property
    def processor(self) -> str:
        """QEMU's name of the processor, "" for the board's own. Errors: Refused."""
        known = self.machine.processors
        if self.pa_bits is None:
            return next(iter(known.values()))
        if self.pa_bits not in known:
            words = ", ".join(map(str, sorted(known)))
            raise Refused(f"{self.kind} has no processor with physical addresses of {self.pa_bits} bits, only {words}")
        return known[self.pa_bits]

    def width(self, domain: int) -> int:
        """Bits of a domain's registers."""
        own = self.machine.width
        return own if domain == 0 else self.guests[domain - 1].width or own

    def command_line(self) -> str:
        """Xen's command line."""
        gnttab = [f"max-ver:{self.grant_max_version}", "transitive" if self.grant_transitive else "no-transitive"]
        words = ["console=dtuart", f"dom0_mem={self.dom0_pages * 4}K", "dom0_max_vcpus=1", "bootscrub=0",
                 f"sched={self.scheduler}", "sched_ratelimit_us=0", f"xsm={self.xsm}", "loglvl=all", "guest_loglvl=all",
                 "noreboot", f"gnttab={','.join(gnttab)}", f"gnttab_max_frames={self.opt_max_grant_frames}",
                 f"gnttab_max_maptrack_frames={self.opt_max_maptrack_frames}",
                 *(["scrub-domheap=1"] if self.scrub_domheap else []), self.machine.arguments, self.options]
        return " ".join(word for word in words if word)

    def check(self) -> None:
        """What can be booted. Errors: Refused."""
        machine = self.machine
        _ = self.processor
        if not self.dom0 and not self.guests:
            raise Refused("there is no domain")
        if len(self.guests) > MOST_GUESTS:
            raise Refused(f"{len(self.guests)} domUs are more than {MOST_GUESTS}")
        if not 1 <= self.cpus <= machine.most_cpus:
            raise Refused(f"{machine.name} has 1 to {machine.most_cpus} processors, not {self.cpus}")
        if not 16 <= self.items <= 8192:
            raise Refused(f"a program of {self.items} items cannot be held: 16 to 8192 can")
        if self.dom0 and self.dom0_pages < _LEAST_DOM0:
            raise Refused(f"dom0 needs {_LEAST_DOM0} pages, not {self.dom0_pages}")
        if self.scheduler == "null" and self.cpus < self.vcpus():
            raise Refused(f"the null scheduler needs a processor for each of the {self.vcpus()} vCPUs")
        total = self.dom0_pages if self.dom0 else 0
        for number, guest in enumerate(self.guests, 1):
            if not 1 <= guest.vcpus <= 8:
                raise Refused(f"domain {number} has {guest.vcpus} vCPUs; the payload serves 1 to 8")
            least = max(_LEAST_PAGES, guest.vcpus * (self.items // 32 + 4) + 64)
            if guest.pages < least:
                raise Refused(f"domain {number} has {guest.pages} pages; its payload alone needs {least}")
            if guest.width == 64 and machine.width == 32:
                raise Refused(f"domain {number} is 64 bits wide on a 32-bit Xen")
            if guest.width == 32 and machine.gic == 3:
                raise Refused(f"domain {number}: the 32-bit payload does not drive a GICv3")
            if guest.max_pages is not None and guest.max_pages < guest.pages:
                raise Refused(f"domain {number} has more pages than its limit of {guest.max_pages}")
            special = guest.max_pages is not None or guest.pages < _BOOT_PAGES or (guest.pool_pages or 0) % 256
            if special and not self.dom0:
                raise Refused(f"domain {number} can be made so small, or limited, only by a dom0")
            total += max(guest.pages, _BOOT_PAGES)
        if total > (machine.ram_size - (256 << 20)) >> 12:
            raise Refused(f"{total} pages of domains do not fit into {machine.ram_size >> 20} MB with Xen")

    def vcpus(self) -> int:
        """Of all domains."""
        return sum(guest.vcpus for guest in self.guests) + (1 if self.dom0 else 0)

    def boot_pages(self, guest: Guest) -> int:
        """Frames that Xen is told to give a domU."""
        return max(guest.pages, _BOOT_PAGES)
