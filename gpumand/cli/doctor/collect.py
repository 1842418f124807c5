"""Collects the doctor's facts over D-Bus and HTTP: from the bus, systemd, a running daemon and health routes."""

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
from gpumand.cli.doctor.checks.container_engines import ENGINE_UNITS
from gpumand.cli.doctor.checks.containers import HELPER
from gpumand.cli.doctor.checks.gateway import SERVICE as GATEWAY
from gpumand.cli.doctor.containers import with_container_facts
from gpumand.cli.doctor.dmem import read_dmem, unread_cards
from gpumand.cli.doctor.facts import Bus, ContainerFacts, Entry, Facts, UnitFacts
from gpumand.cli.doctor.gateway import read_gateway
from gpumand.cli.doctor.listeners import read_listeners
from gpumand.cli.doctor.probes import probe_consumers
from gpumand.cli.errors import NoBus, interpret
from gpumand.cli.options import GlobalOptions
from gpumand.cli.packages import ELSEWHERE, OWN, Packages, read_packages
from gpumand.cli.session import connected
from gpumand.discovery.daemons import other_daemons
from gpumand.domain.errors import FREEDESKTOP_ERROR_PREFIX
from gpumand.domain.ip_access import networks_of
from gpumand.host_setup.init_system import no_systemd
from gpumand.vram import FACTORIES
from gpumand.vram.detection import host_root, known_sources, nvidia_cards

CALL_TIMEOUT_SEC = 5.0
"""Timeout of one call to systemd or the bus, in seconds."""

MAX_PARALLEL_CALLS = 16
FAILED_EVICTIONS_QUERY = {"kinds": ("as", ["eviction-failed"]), "limit": ("u", 200)}
SERVICE = "gpumand.service"


async def collect_facts(options: GlobalOptions, path: Path | None) -> Facts:
    """Collect all facts; a fact that cannot be read is left out, and the result says why.

    Args:
        options: select the bus.
        path: the configuration; None for the ``--config`` of the running daemon, or the default location.
    """
    kind = options.bus_address or ("session" if options.user else "system")
    facts = Facts(host.caller(), Bus(kind, daemon_uid=host.daemon_uid()), user=options.user)
    try:
        async with connected(options) as client:
            facts = await _query_bus(client, facts)
            facts = await _query_daemon(client, facts, options)
            pid = await _daemon_pid(client.connection, facts)
            # The command line of the daemon names its configuration, so the files come after the daemon.
            path = path or await _daemon_config_path(pid)
            facts = await _read_files(facts, path)
            facts = await _find_other_daemons(facts, pid)
            facts = await _query_systemd(client.connection, facts)
    except NoBus as error:
        facts = replace(
            facts, bus=replace(facts.bus, error=str(error), no_systemd=no_systemd()), units_error="there is no bus"
        )
        facts = await _read_files(facts, path)
    if _uses_nvml(facts):
        is_released = facts.status is not None and facts.status.get("driver_state") == "released"
        facts = replace(facts, driver=await host.driver(is_released=is_released))
    facts = await asyncio.to_thread(with_container_facts, facts)
    facts = replace(facts, listeners=await asyncio.to_thread(read_listeners, facts.consumers.values()))
    dmem = await asyncio.to_thread(read_dmem, set(facts.unit_names.values()), host_root())
    unread = await asyncio.to_thread(unread_cards, host_root())
    gateway = await asyncio.to_thread(read_gateway) if facts.is_system else None
    packages = await asyncio.to_thread(_read_packages, facts)
    return await probe_consumers(replace(facts, dmem=dmem, unread_cards=unread, gateway=gateway, packages=packages))


def _read_packages(facts: Facts) -> Packages:
    """State of packages as reported by apt, which takes most of a second; only where a finding may name one."""
    bus, unit, driver = facts.bus, facts.service, facts.driver
    is_incomplete = not bus.is_activatable or not bus.has_polkit or bool(bus.denied or facts.missing_files)
    is_absent = unit is not None and unit.load_state == "not-found"
    is_needed = is_incomplete or is_absent or (driver is not None and bool(driver.error))
    return read_packages((*OWN, *ELSEWHERE)) if is_needed else Packages()


async def _query_bus(client: Client, facts: Facts) -> Facts:
    """Which names are on the bus. None of these calls activates a service."""
    bus = client.connection
    (activatable,) = await _bus_call(bus, "ListActivatableNames")
    is_running = await client.is_running()
    owner_uid = None
    if is_running:
        with suppress(BusError):  # the owner may have left since the call before
            (owner_uid,) = await _bus_call(bus, "GetConnectionUnixUser", BUS_NAME)
    return replace(
        facts,
        bus=replace(
            facts.bus,
            is_running=is_running,
            is_activatable=BUS_NAME in activatable,
            owner_uid=owner_uid,
            has_systemd=await _has_owner(bus, SYSTEMD),
            has_polkit=POLKIT in activatable or await _has_owner(bus, POLKIT),
        ),
        missing_files=host.missing_files() if facts.is_system else (),
    )


async def _bus_call(bus: BusConnection, member: str, *body: str) -> tuple[Any, ...]:
    return await bus.call(DBUS, DBUS_PATH, DBUS, member, "s" * len(body), body, timeout_sec=CALL_TIMEOUT_SEC)


async def _has_owner(bus: BusConnection, name: str) -> bool:
    (is_there,) = await _bus_call(bus, "NameHasOwner", name)
    return bool(is_there)


async def _query_daemon(client: Client, facts: Facts, options: GlobalOptions) -> Facts:
    """Status, history and measured values of a running daemon; no call without one, since a call would start it."""
    if not facts.bus.is_running:
        return facts
    try:
        status = await client.status()
        facts = replace(facts, status=status, failed_evictions=tuple(await client.history(FAILED_EVICTIONS_QUERY)))
        return replace(facts, learned=await _learned(client, [str(one["name"]) for one in status["consumers"]]))
    except BusError as error:
        if error.name == FREEDESKTOP_ERROR_PREFIX + "AccessDenied":
            return replace(facts, bus=replace(facts.bus, denied=error.message))
        failure = interpret(error, options)
        return replace(facts, status_error=failure.message if failure else str(error))


async def _learned(client: Client, names: Iterable[str]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for name in names:
        with suppress(BusError):  # a reload has removed the consumer
            found[name] = (await client.consumer(name)).get("Learned") or {}
    return found


async def _daemon_pid(bus: BusConnection, facts: Facts) -> int:
    """Process id of the daemon; 0 when none runs."""
    if facts.bus.is_running:
        with suppress(BusError):
            (pid,) = await _bus_call(bus, "GetConnectionUnixProcessID", BUS_NAME)
            return int(pid)
    return 0


async def _daemon_config_path(pid: int) -> Path | None:
    """The ``--config`` of the running daemon; None without one, or when the caller may not read the process."""
    try:
        return await asyncio.to_thread(host.daemon_config_path, pid) if pid else None
    except OSError:
        return None


async def _find_other_daemons(facts: Facts, pid: int) -> Facts:
    """Other gpumand processes; only when this daemon uses the host's GPUs, so that they would compete."""
    if not pid or facts.bus.kind not in ("system", "session") or not _uses_gpus(facts):
        return facts
    return replace(facts, other_daemons=await asyncio.to_thread(other_daemons, pid))


async def _read_files(facts: Facts, path: Path | None) -> Facts:
    return replace(facts, config=await asyncio.to_thread(host.configuration, path, user=facts.user))


def _uses_gpus(facts: Facts) -> bool:
    """Whether the daemon manages GPUs of the host: by the files, else by its status."""
    if facts.config.settings is not None:
        return facts.config.settings.gpu.uses_real_gpus
    sources = {one.get("source") for one in facts.status["devices"]} if facts.status else {"auto"}
    return not sources or not sources <= {"simulated", "none"}


def _uses_nvml(facts: Facts) -> bool:
    """Whether VRAM readings come from NVIDIA's driver: by the files, else by the daemon's status."""
    if facts.config.settings is None and facts.status is not None:
        sources = {one.get("source") for one in facts.status["devices"]}
        return "nvml" in sources or not sources
    # With errors in the files, the sources are those of the host, as without a configuration.
    configured = facts.config.settings.gpu.sources if facts.config.settings is not None else ("auto",)
    # Without any driver, NVML's error says best what is missing; where there is no card for it, nothing is.
    found = known_sources(host_root(), FACTORIES) or (() if nvidia_cards(host_root()) == () else ("nvml",))
    return "nvml" in (found if configured == ("auto",) else configured)


# -- systemd -----------------------------------------------------------------------------------------------------------


async def _query_systemd(bus: BusConnection, facts: Facts) -> Facts:
    """Facts about gpumand.service and the units of consumers."""
    if not facts.bus.has_systemd:
        return replace(facts, units_error="systemd is not on this bus")
    slots = asyncio.Semaphore(MAX_PARALLEL_CALLS)

    async def read_unit(name: str) -> UnitFacts:
        async with slots:
            return await _unit(bus, name)

    wanted = sorted(set(facts.unit_names.values()))
    try:
        names = (SERVICE, GATEWAY, HELPER, *ENGINE_UNITS, *wanted)
        service, gateway, helper, *units = await asyncio.gather(*map(read_unit, names))
    except (BusError, BusLost) as error:
        return replace(facts, units_error=f"the query to systemd failed: {error}")
    engines = dict(zip(ENGINE_UNITS, units, strict=False))
    units_by_name = dict(zip(wanted, units[len(ENGINE_UNITS) :], strict=True))
    return replace(
        facts,
        service=service,
        gateway_unit=gateway,
        units=units_by_name,
        containers=ContainerFacts(helper=helper, engines=engines),
    )


async def _unit(bus: BusConnection, name: str) -> UnitFacts:
    """Facts about one unit. LoadUnit reads the unit's file and starts nothing."""
    try:
        path = str((await _systemd(bus, SYSTEMD_PATH, SYSTEMD_MANAGER, "LoadUnit", name))[0])
    except BusError as error:
        if error.name.endswith((".NoSuchUnit", ".InvalidArgs")):
            return UnitFacts(name, load_state="not-found")
        raise
    (unit,) = await _systemd(bus, path, PROPERTIES, "GetAll", SYSTEMD_UNIT)
    service: Mapping[str, Any] = {}  # other unit types have no such interface
    if name.endswith(".service"):
        with suppress(BusError):
            (service,) = await _systemd(bus, path, PROPERTIES, "GetAll", SYSTEMD_SERVICE)
    return unit_facts(name, unit, service)


async def _systemd(bus: BusConnection, path: str, interface: str, member: str, word: str) -> tuple[Any, ...]:
    return await bus.call(SYSTEMD, path, interface, member, "s", (word,), timeout_sec=CALL_TIMEOUT_SEC)


def unit_facts(name: str, unit: Mapping[str, Any], service: Mapping[str, Any]) -> UnitFacts:
    """Build the facts from the D-Bus properties of systemd's Unit and Service interfaces."""
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
        restart=str(service.get("Restart", "")),
        kill_mode=str(service.get("KillMode", "")),
        result=str(service.get("Result", "")),
        ip_allow=networks_of(service.get("IPAddressAllow")),
        ip_deny=networks_of(service.get("IPAddressDeny")),
        control_group=str(service["ControlGroup"]) if "ControlGroup" in service else None,
    )
