"""Gathering the facts: asks the bus, systemd, the daemon where it runs, and consumers for their health."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpumand.bus.connection import BusConnection
from gpumand.bus.connection_errors import BusError, BusLost
from gpumand.bus.names import (
    BUS_NAME,
    DBUS,
    DBUS_PATH,
    POLKIT,
    PROPERTIES,
    SYSTEMD,
    SYSTEMD_MANAGER,
    SYSTEMD_PATH,
    SYSTEMD_SERVICE,
    SYSTEMD_UNIT,
)
from gpumand.cli.client import Client
from gpumand.cli.doctor import host
from gpumand.cli.doctor.facts import Bus, Entry, Facts, UnitFacts
from gpumand.cli.errors import NoBus, interpret
from gpumand.cli.options import GlobalOptions
from gpumand.cli.session import connected
from gpumand.consumers.routes import HttpRoutes
from gpumand.discovery.daemons import other_daemons
from gpumand.domain.consumer import ConsumerSpec, Health
from gpumand.domain.errors import FREEDESKTOP
from gpumand.host.clock import SystemClock

ASK_SEC = 5.0
"""For one question to systemd or the bus."""

PROBE_SEC = 5.0
AT_ONCE = 16
FAILED = {"kinds": ("as", ["eviction-failed"]), "limit": ("u", 200)}
SERVICE = "gpumand.service"


async def look(options: GlobalOptions, path: Path | None) -> Facts:
    """Look at everything; whatever cannot be seen is left out, and the facts say so.

    Args:
        options: which bus.
        path: the configuration; None for what the daemon was told, or the default.
    """
    kind = options.bus_address or ("session" if options.user else "system")
    facts = Facts(host.caller(), Bus(kind, daemon_uid=host.daemon_uid()), user=options.user)
    try:
        async with connected(options) as client:
            facts = await _ask_bus(client, facts)
            facts = await _ask_daemon(client, facts, options)
            pid = await _pid(client.connection, facts)
            path = path or await _told(pid)
            facts = await _read_files(facts, path)
            facts = await _look_for_others(facts, pid)
            facts = await _ask_systemd(client.connection, facts)
    except NoBus as error:
        facts = replace(facts, bus=replace(facts.bus, error=str(error)), units_error="there is no bus")
        facts = await _read_files(facts, path)
    if _uses_nvml(facts):
        facts = replace(facts, driver=await host.driver())
    return replace(facts, routes=await _probe(facts.consumers))


async def _ask_bus(client: Client, facts: Facts) -> Facts:
    """Who is on it. None of this starts anybody."""
    ask = client.connection
    (activatable,) = await _bus_call(ask, "ListActivatableNames")
    is_running = await client.is_running()
    owner_uid = None
    if is_running:
        with suppress(BusError):
            (owner_uid,) = await _bus_call(ask, "GetConnectionUnixUser", BUS_NAME)
    return replace(
        facts,
        bus=replace(
            facts.bus,
            is_running=is_running,
            is_activatable=BUS_NAME in activatable,
            owner_uid=owner_uid,
            is_systemd_there=await _is_there(ask, SYSTEMD),
            is_polkit_there=POLKIT in activatable or await _is_there(ask, POLKIT),
        ),
        missing_files=host.missing_files() if facts.is_system else (),
    )


async def _bus_call(bus: BusConnection, member: str, *body: str) -> tuple[Any, ...]:
    return await bus.call(DBUS, DBUS_PATH, DBUS, member, "s" * len(body), body, timeout_sec=ASK_SEC)


async def _is_there(bus: BusConnection, name: str) -> bool:
    (is_there,) = await _bus_call(bus, "NameHasOwner", name)
    return bool(is_there)


async def _ask_daemon(client: Client, facts: Facts, options: GlobalOptions) -> Facts:
    """What it says of itself; one that does not run is not asked, since that would start it."""
    if not facts.bus.is_running:
        return facts
    try:
        status = await client.status()
        facts = replace(facts, status=status, failed_evictions=tuple(await client.history(FAILED)))
        return replace(facts, learned=await _learned(client, [str(one["name"]) for one in status["consumers"]]))
    except BusError as error:
        if error.name == FREEDESKTOP + "AccessDenied":
            return replace(facts, bus=replace(facts.bus, denied=error.message))
        failure = interpret(error, options)
        return replace(facts, status_error=failure.message if failure else str(error))


async def _learned(client: Client, names: Iterable[str]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for name in names:
        with suppress(BusError):  # it has gone with a reload
            found[name] = (await client.consumer(name)).get("Learned") or {}
    return found


async def _pid(bus: BusConnection, facts: Facts) -> int:
    """Of the daemon; 0 where there is none."""
    if facts.bus.is_running:
        with suppress(BusError):
            (pid,) = await _bus_call(bus, "GetConnectionUnixProcessID", BUS_NAME)
            return int(pid)
    return 0


async def _told(pid: int) -> Path | None:
    """The ``--config`` of the running daemon."""
    try:
        return await asyncio.to_thread(host.told_configuration, pid) if pid else None
    except OSError:
        return None


async def _look_for_others(facts: Facts, pid: int) -> Facts:
    """Other daemons, where ours is one of those that share the host's GPUs."""
    if not pid or facts.bus.kind not in ("system", "session") or not _uses_nvml(facts):
        return facts
    return replace(facts, others=await asyncio.to_thread(other_daemons, pid))


async def _read_files(facts: Facts, path: Path | None) -> Facts:
    return replace(facts, config=await asyncio.to_thread(host.configuration, path, user=facts.user))


def _uses_nvml(facts: Facts) -> bool:
    """Whether figures are to come from NVIDIA's driver; where the files are silent, the daemon says."""
    if facts.config.settings is not None:
        return facts.config.settings.gpu.source == "nvml"
    sources = {one.get("source") for one in facts.status["devices"]} if facts.status else {"nvml"}
    return "nvml" in sources or not sources


# -- systemd -----------------------------------------------------------------------------------------------------------


async def _ask_systemd(bus: BusConnection, facts: Facts) -> Facts:
    """The units of consumers, and our own."""
    if not facts.bus.is_systemd_there:
        return replace(facts, units_error="systemd is not on this bus")
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(name: str) -> UnitFacts:
        async with slots:
            return await _unit(bus, name)

    wanted = sorted(set(facts.unit_names.values()))
    try:
        service, *units = await asyncio.gather(one(SERVICE), *(one(name) for name in wanted))
    except (BusError, BusLost) as error:
        return replace(facts, units_error=f"systemd cannot be asked: {error}")
    return replace(facts, service=service, units=dict(zip(wanted, units, strict=True)))


async def _unit(bus: BusConnection, name: str) -> UnitFacts:
    """A unit; LoadUnit looks at its file and starts nothing."""
    try:
        path = str((await _systemd(bus, SYSTEMD_PATH, SYSTEMD_MANAGER, "LoadUnit", name))[0])
    except BusError as error:
        if error.name.endswith((".NoSuchUnit", ".InvalidArgs")):
            return UnitFacts(name, load_state="not-found")
        raise
    (unit,) = await _systemd(bus, path, PROPERTIES, "GetAll", SYSTEMD_UNIT)
    service: Mapping[str, Any] = {}
    if name.endswith(".service"):
        with suppress(BusError):
            (service,) = await _systemd(bus, path, PROPERTIES, "GetAll", SYSTEMD_SERVICE)
    return unit_facts(name, unit, service)


async def _systemd(bus: BusConnection, path: str, interface: str, member: str, word: str) -> tuple[Any, ...]:
    return await bus.call(SYSTEMD, path, interface, member, "s", (word,), timeout_sec=ASK_SEC)


def unit_facts(name: str, unit: Mapping[str, Any], service: Mapping[str, Any]) -> UnitFacts:
    """From what systemd says of a unit and of a service."""
    return UnitFacts(
        name=name,
        id=str(unit.get("Id", "")),
        load_state=str(unit.get("LoadState", "")),
        active_state=str(unit.get("ActiveState", "")),
        unit_file_state=str(unit.get("UnitFileState", "")),
        fragment_path=str(unit.get("FragmentPath", "")),
        need_daemon_reload=bool(unit.get("NeedDaemonReload", False)),
        triggered_by=tuple(map(str, unit.get("TriggeredBy", ()))),
        upheld_by=tuple(map(str, unit.get("UpheldBy", ()))),
        wanted_by=tuple(map(str, unit.get("WantedBy", ()))),
        restart=str(service.get("Restart", "")),
        kill_mode=str(service.get("KillMode", "")),
        result=str(service.get("Result", "")),
    )


# -- consumers ---------------------------------------------------------------------------------------------------------


async def _probe(consumers: Mapping[str, ConsumerSpec]) -> dict[str, Health]:
    """What health routes answer; nothing else is asked."""
    wanted = [spec for spec in consumers.values() if spec.health is not None]
    if not wanted:
        return {}
    routes = HttpRoutes(SystemClock())
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(spec: ConsumerSpec) -> Health:
        async with slots:
            try:
                async with asyncio.timeout(PROBE_SEC):
                    return await routes.probe(spec)
            except TimeoutError:
                return Health(reachable=False, error=f"health route: no answer within {PROBE_SEC:g} s")

    try:
        answers = await asyncio.gather(*map(one, wanted))
    finally:
        await routes.close()
    return {spec.name: health for spec, health in zip(wanted, answers, strict=True)}
