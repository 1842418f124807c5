"""Builds the daemon's components, connects them to each other, and closes them in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from gpumand.arbiter import Arbiter
from gpumand.arbiter.housekeeping import Housekeeping
from gpumand.arbiter.suspend import SuspendWatch
from gpumand.bus import names
from gpumand.bus.authorization import UidAuthority
from gpumand.bus.clients import Clients
from gpumand.bus.connection import BusConnection, BusError, BusLost
from gpumand.bus.log_control import LogControl
from gpumand.bus.polkit import PolkitAuthority
from gpumand.bus.service import ManagerService
from gpumand.consumers.routes import HttpRoutes
from gpumand.containers.client import HelperContainers
from gpumand.containers.services import UnitsAndContainers
from gpumand.daemon.environment import boot_id, container_socket, own_uid, state_directory
from gpumand.daemon.later_events import LaterEvents
from gpumand.daemon.options import Options
from gpumand.domain.consumer import Settings
from gpumand.domain.events import Event
from gpumand.domain.output_settings import HistorySettings
from gpumand.history import DemandLog, HistoryRecorder, SqliteArchive
from gpumand.host.container_connections import ConsumerConnections
from gpumand.host.cpu_times import ProcCpuTimes
from gpumand.host.memory import ProcMeminfo
from gpumand.host.owner_names import OwnerNames
from gpumand.host.users import UserDirectory
from gpumand.http.listener import HttpListener
from gpumand.ports import Clock, Ports
from gpumand.service_manager.logind import Logind
from gpumand.service_manager.sockets import take_listeners
from gpumand.service_manager.units import SystemdUnits
from gpumand.service_manager.user_pids import UserUnitResolver
from gpumand.state import FileStore
from gpumand.vram import make_source
from gpumand.vram.attribution import AttributedSource
from gpumand.vram.container_attribution import ContainerAttribution

log = logging.getLogger(__name__)

CLOSE_SEC = 2.0
"""Seconds that closing one component may take: a hanging driver or disk must not delay the end of the process."""


@dataclass(frozen=True, slots=True)
class Components:
    """All components of a running daemon."""

    http: HttpListener
    service: ManagerService
    arbiter: Arbiter
    housekeeping: Housekeeping
    suspend_watch: SuspendWatch
    logind: Logind | None
    services: UnitsAndContainers
    units: SystemdUnits
    source: AttributedSource
    routes: HttpRoutes
    store: FileStore
    history: HistoryRecorder
    later: LaterEvents
    memory: ProcMeminfo
    users: UserDirectory

    async def close(self) -> None:
        """Close all components, those that talk to clients first and the disk last; errors are only logged."""
        if self.logind is not None:
            await close_within_limit(self.logind.close(), "the subscription to logind")
        for part in (
            self.http,
            self.service,
            self.services,
            self.units,
            self.source,
            self.routes,
            self.memory,
            self.users,
        ):
            await close_within_limit(part.close(), type(part).__name__)
        # Last: the components above may still write leases and history while they close.
        self.later.deliver()
        await close_within_limit(self.store.close(), "the lease store")
        await close_within_limit(self.history.close(), "the history")


@dataclass(frozen=True, slots=True)
class Connections:
    """The buses that the daemon uses.

    Attributes:
        bus: the bus on which the daemon offers its service.
        system_bus: the system bus for the daemon of a user, where it is reachable; None for the system's daemon.
    """

    bus: BusConnection
    system_bus: BusConnection | None


async def connect_system_bus(options: Options) -> BusConnection | None:
    """Connect a user's daemon to the system bus, for logind and for the units of other users' processes.

    Returns:
        The connection; None for the system's daemon, or when the system bus is unreachable, which is only logged.
    """
    if not options.user:
        return None
    try:
        return await BusConnection.connect("system")
    except BusLost as error:
        log.info("suspends, shutdowns and the units of other users' processes remain unknown: %s", error)
        return None


async def build_components(
    options: Options,
    settings: Settings,
    connections: Connections,
    archive: SqliteArchive,
    clock: Clock,
    publish: Callable[[Event], None],
    load_settings: Callable[[], Awaitable[Settings]],
) -> Components:
    """Create all components and connect them; nothing is started and no name is requested.

    Args:
        options: the command line.
        settings: the initial configuration.
        connections: the buses.
        archive: stores history and measurements.
        clock: the daemon's clock.
        publish: receives every event of the arbiter.
        load_settings: reads the configuration for a reload.
    """
    bus = connections.bus
    units = await SystemdUnits.attach(bus, user=options.user)
    users, memory = UserDirectory(), ProcMeminfo()
    authority = PolkitAuthority(bus, users) if options.bus_address == "system" else UidAuthority(own_uid(), users)
    clients = Clients(bus, units, authority.trusted_uids, OwnerNames(users))
    store = await _open_store(options, bus)
    host = _host_access(options, settings, units, connections.system_bus, clock)
    source, services, routes = host.source, host.services, host.routes
    ports = Ports(clock, source, services, routes, store, clients, archive, memory, source, source, ProcCpuTimes())
    arbiter = Arbiter(settings, ports, publish, load_settings)
    service = ManagerService(bus, arbiter, clients, authority)
    service.add(LogControl(clients, frozenset({0, own_uid()}), users).object())
    housekeeping = Housekeeping(arbiter, services, routes)
    logind_bus = connections.system_bus if options.user else bus
    logind = Logind(logind_bus) if logind_bus is not None else None
    http = HttpListener(arbiter.status, take_listeners(), arbiter.status_refresh)
    history = HistoryRecorder(archive, clock, demand_log(settings.history))
    later = LaterEvents(bus.schedule_write, http.publish, history.publish)
    bus.after_write(later.deliver)
    arbiter.learning.uses.postpone(bus.schedule_write)
    bus.after_write(arbiter.learning.uses.learn_noted)
    still_preparing = logind.is_preparing_for_sleep if logind is not None else _never_preparing
    return Components(
        http=http,
        service=service,
        arbiter=arbiter,
        housekeeping=housekeeping,
        suspend_watch=SuspendWatch(arbiter, housekeeping, still_preparing),
        logind=logind,
        services=services,
        units=units,
        source=source,
        routes=routes,
        store=store,
        history=history,
        later=later,
        memory=memory,
        users=users,
    )


@dataclass(frozen=True, slots=True)
class _HostAccess:
    """What the daemon observes and controls on its host: units and containers, VRAM, and the servers of consumers."""

    services: UnitsAndContainers
    source: AttributedSource
    routes: HttpRoutes


def _host_access(
    options: Options, settings: Settings, units: SystemdUnits, system_bus: BusConnection | None, clock: Clock
) -> _HostAccess:
    containers = HelperContainers(container_socket(options.bus_address), user=options.user)
    located = ContainerAttribution(
        containers, start_commands=units.start_commands, manager_uid=own_uid() if options.user else None
    )
    pids = UserUnitResolver(units, system_bus, own_uid()) if system_bus is not None else units
    source = AttributedSource(make_source(settings.gpu, clock), pids, containers=located)
    configure_attribution(source, settings)
    routes = HttpRoutes(clock, ConsumerConnections(located.pids_of))
    return _HostAccess(UnitsAndContainers(units, containers, clock), source, routes)


async def _open_store(options: Options, bus: BusConnection) -> FileStore:
    (bus_id,) = await bus.call(names.DBUS, names.DBUS_PATH, names.DBUS, "GetId")
    directory = state_directory(options.state_dir, options.bus_address, str(bus_id))
    return FileStore(directory, str(bus_id), await asyncio.to_thread(boot_id))


async def _never_preparing() -> bool:
    return False


def demand_log(history: HistorySettings) -> DemandLog | None:
    """The demand log of a configuration; None where none is configured."""
    return DemandLog(Path(history.demand_log)) if history.demand_log else None


def configure_attribution(source: AttributedSource, settings: Settings) -> None:
    """Set which units, containers, slices and cgroups belong to which consumer, whose memory their processes hold.

    The simulated source also accepts processes that name a consumer themselves.
    """
    source.containers.configure(settings.consumers.values())
    named = settings.consumers if "simulated" in settings.gpu.sources else ()
    by_unit: dict[str, list[str]] = {}
    for spec in settings.consumers.values():
        by_unit.setdefault(spec.unit, []).append(spec.name)
    by_unit.pop("", None)
    own = {unit: names[0] for unit, names in by_unit.items() if len(names) == 1}
    source.set_units(own, named, {unit: names for unit, names in by_unit.items() if len(names) > 1})


async def close_within_limit(closing: Awaitable[None], what: str) -> None:
    """Close something within CLOSE_SEC; an error or a timeout is only logged, since the process ends anyway."""
    try:
        await asyncio.wait_for(closing, timeout=CLOSE_SEC)
    except (BusLost, BusError, TimeoutError, OSError) as error:
        log.debug("closing %s: %r", what, error)
