"""The grant state in neutral rows, for comparison with other implementations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from impl.fast.grant.layouts import GNTMAP_device_map, GNTMAP_host_map

if TYPE_CHECKING:
    from impl.fast.grant.table import GrantTable
    from impl.fast.machine import Machine

Rows = dict[tuple[int, ...], tuple[int | bool, ...]]


def _active(table: GrantTable) -> Rows:
    rows: Rows = {}
    for ref in table.array("pin").nonzero()[0].tolist():
        pin = table.pin[ref]
        rows[table.domid, ref] = (
            pin >> 8 & 0xFF, pin & 0xFF, pin >> 24, pin >> 16 & 0xFF, table.act_mfn[ref], table.start[ref],
            table.length[ref], bool(table.sub_page[ref]), table.trans_domain[ref], table.trans_gref[ref])
    return rows


def _mappings(table: GrantTable) -> Rows:
    rows: Rows = {}
    for handle in table.array("map_flags")[:table.maptrack_limit].nonzero()[0].tolist():
        flags = table.map_flags[handle]
        if flags & (GNTMAP_device_map | GNTMAP_host_map):
            rows[table.domid, handle] = (table.map_domid[handle], table.map_ref[handle], flags)
    return rows


def project_grants(machine: Machine) -> dict[str, Rows]:
    """Every grant table of a listed domain, ints and bools only.

    grant_domain[(d,)] = (version, grant frames, status frames, maptrack frames);
    active[(d, ref)] = (host-read, host-write, device-read, device-write pins, mfn, start, length, is_sub_page,
    trans_domain, trans_gref) of pinned entries; one that is not transitive names its own domain and reference;
    mapping[(d, handle)] = (granter, ref, GNTMAP flags) of live handles;
    grant_frame[(d, i)] = (mfn,), status_frame[(d, i)] = (mfn,).
    """
    result: dict[str, Rows] = {"grant_domain": {}, "active": {}, "mapping": {}, "grant_frame": {}, "status_frame": {}}
    for domid, dom in machine.domains.items():
        table: GrantTable | None = dom.grant_table
        if table is None:
            continue
        result["grant_domain"][domid,] = (
            table.version, len(table.shared), len(table.status), len(table.maptrack_frames))
        result["active"].update(_active(table))
        result["mapping"].update(_mappings(table))
        result["grant_frame"].update({(domid, i): (mfn,) for i, mfn in enumerate(table.shared)})
        result["status_frame"].update({(domid, i): (mfn,) for i, mfn in enumerate(table.status)})
    return result
