"""Scans this host: units over D-Bus from systemd, ports and processes from /proc, GPUs from their driver."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

from gpumand.bus.connection import BusConnection, BusError, BusLost
from gpumand.bus.names import PROPERTIES, SYSTEMD, SYSTEMD_MANAGER, SYSTEMD_PATH, SYSTEMD_SERVICE
from gpumand.discovery.container_scan import running_containers, scan_containers, with_containers
from gpumand.discovery.host import Device, Host, Process
from gpumand.discovery.processes import ancestors, command_line, unit_in_cgroup
from gpumand.discovery.sockets import listeners
from gpumand.domain.device import Reading
from gpumand.ports import VramSource
from gpumand.service_manager.manager import Systemd1
from gpumand.vram.process import command_name

RUNNING = ("active", "activating", "reloading")
MAX_UNITS = 2048
CALL_TIMEOUT_SEC = 10.0
MAX_PARALLEL_CALLS = 32


async def scan_host(bus: BusConnection | None, source: VramSource, bus_error: str = "") -> Host:
    """Scan the host once; data that cannot be read is left out, and the result says so.

    Args:
        bus: the bus of systemd; None without one.
        source: the source of VRAM readings; it is closed afterwards.
        bus_error: why there is no bus.
    """
    units, units_error = await _units(bus) if bus else ({}, bus_error)
    (ports, has_hidden_ports), reading = await asyncio.gather(asyncio.to_thread(listeners), source.read())
    await source.close()
    used = _vram_by_pid(reading)
    main_pids = await _main_pids(bus, units) if bus else {}
    states, engines_error = await asyncio.to_thread(running_containers)
    pids = {*used, *main_pids, *(one.pid for one in ports), *(one.pid for one in states)} - {0}
    processes = await asyncio.to_thread(_processes, pids, used, _names(reading))
    containers = await asyncio.to_thread(scan_containers, pids, states)
    placed = _with_whole_units(await _assign_units(bus, processes, main_pids), reading)
    described = {name: description for name, (description, _) in units.items()}
    return Host(
        described,
        with_containers(placed, containers),
        ports,
        _devices(reading),
        reading.error,
        units_error,
        has_hidden_ports,
        os.geteuid() == 0,
        containers,
        engines_error,
    )


async def _units(bus: BusConnection) -> tuple[dict[str, tuple[str, str]], str]:
    """Running service units: name -> (description, object path); and why they could not be listed."""
    try:
        (rows,) = await bus.call(SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER, "ListUnits", timeout_sec=CALL_TIMEOUT_SEC)
    except (BusError, BusLost) as error:
        return {}, f"the query to systemd failed: {error}"
    services = [row for row in rows[:MAX_UNITS] if row[0].endswith(".service") and row[3] in RUNNING]
    return {row[0]: (row[1], row[6]) for row in services}, ""


async def _main_pids(bus: BusConnection, units: Mapping[str, tuple[str, str]]) -> dict[int, str]:
    """Main pid -> unit name; units that end during the scan are skipped."""
    slots = asyncio.Semaphore(MAX_PARALLEL_CALLS)

    async def main_pid(path: str) -> int:
        wanted = (SYSTEMD_SERVICE, "MainPID")
        async with slots:
            with suppress(BusError, BusLost):
                (pid,) = await bus.call(SYSTEMD, path, PROPERTIES, "Get", "ss", wanted, timeout_sec=CALL_TIMEOUT_SEC)
                return pid if isinstance(pid, int) else 0
        return 0

    pids = await asyncio.gather(*(main_pid(path) for _, path in units.values()))
    return {pid: name for pid, name in zip(pids, units, strict=True) if pid}


async def _assign_units(
    bus: BusConnection | None,
    processes: dict[int, Process],
    main_pids: Mapping[int, str],
) -> dict[int, Process]:
    """Add the unit to each process: from systemd, else from its cgroup.

    systemd comes first because a cgroup's name proves nothing: a user's own unit may have the name of a system unit.
    """
    systemd = Systemd1(bus) if bus else None
    placed = {}
    for pid, process in processes.items():
        unit = main_pids.get(pid) or (await systemd.unit_of_pid(pid) if systemd else "") or process.unit
        placed[pid] = replace(process, unit=unit, is_main=pid in main_pids)
    return placed


def _processes(
    pids: Iterable[int], used: Mapping[int, dict[int, int | None]], names: Mapping[int, str]
) -> dict[int, Process]:
    return {
        pid: Process(
            pid,
            command_name(pid) or names.get(pid, ""),
            command_line(pid),
            unit_in_cgroup(pid),
            used_mib=used.get(pid, {}),
            ancestors=ancestors(pid),
        )
        for pid in sorted(pids)
    }


def _vram_by_pid(reading: Reading) -> dict[int, dict[int, int | None]]:
    used: dict[int, dict[int, int | None]] = defaultdict(dict)
    for sample in reading.devices:
        for process in sample.processes:
            if process.pid > 0:
                used[process.pid][sample.index] = process.used_mib
    return dict(used)


def _with_whole_units(processes: dict[int, Process], reading: Reading) -> dict[int, Process]:
    """Add memory that the source reports for a unit as a whole, to the unit's main process.

    Of units without a service, such as a user's session, no process stands for the whole: they are left out.
    """
    main = {process.unit: pid for pid, process in processes.items() if process.is_main}
    found = dict(processes)
    for sample in reading.devices:
        for row in sample.processes:
            pid = main.get(row.unit)
            if row.pid == 0 and pid is not None:
                own_mib = found[pid].used_mib.get(sample.index, 0)
                mib = None if row.used_mib is None or own_mib is None else own_mib + row.used_mib
                found[pid] = replace(found[pid], used_mib={**found[pid].used_mib, sample.index: mib})
    return found


def _names(reading: Reading) -> dict[int, str]:
    return {process.pid: process.name for sample in reading.devices for process in sample.processes}


def _devices(reading: Reading) -> tuple[Device, ...]:
    return tuple(
        Device(one.index, one.name, one.total_mib, one.integrated) for one in reading.devices if one.source != "none"
    )
