"""The daemon: builds everything, starts it in order, and ends it in order.

The order of a start is what keeps promises: the bus first (nothing can be known of owners without it), then leases
taken up again with their owners' deaths watched, then a look at everything, then the objects, and only then the name
and READY: whoever finds the name finds everything in place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpumand.arbiter import Arbiter
from gpumand.arbiter.housekeeping import Housekeeping
from gpumand.arbiter.learning import measured_peaks
from gpumand.arbiter.suspend import SHUTTING_DOWN, SuspendWatch
from gpumand.bus import names
from gpumand.bus.authorization import UidAuthority
from gpumand.bus.clients import Clients
from gpumand.bus.connection import BusConnection, BusError, BusLost
from gpumand.bus.log_control import LogControl
from gpumand.bus.polkit import PolkitAuthority
from gpumand.bus.service import ManagerService
from gpumand.config import lines_of, load
from gpumand.consumers.routes import HttpRoutes
from gpumand.daemon.environment import archive_path, boot_id, own_uid, state_directory
from gpumand.daemon.options import Options, parsed
from gpumand.daemon.status_line import status_line
from gpumand.daemon.watchdog import Body, Watchdog
from gpumand.discovery.daemons import other_daemons
from gpumand.domain.consumer import HistorySettings, Settings
from gpumand.domain.errors import ConfigInvalid, GpumandError
from gpumand.domain.events import STATE_CHANGES, Event
from gpumand.history import DemandLog, HistoryRecorder, SqliteArchive
from gpumand.host.clock import SystemClock
from gpumand.host.memory import ProcMeminfo
from gpumand.http.listener import AddressTaken, HttpListener
from gpumand.http.unavailable import turn_away
from gpumand.ports import VramSource, World
from gpumand.service_manager.logind import Logind
from gpumand.service_manager.notify import Notifier, watchdog_usec
from gpumand.service_manager.own_unit import why_for_good
from gpumand.service_manager.sockets import take_listeners
from gpumand.service_manager.units import SystemdUnits
from gpumand.service_manager.user_pids import UserPids
from gpumand.state import FileStore
from gpumand.version import VERSION
from gpumand.vram import make_source, sources_differ
from gpumand.vram.attribution import AttributedSource
from gpumand.vram.library_file import is_outlived

log = logging.getLogger(__name__)

FIRST_LOOK_SEC = 3.0
"""How long a start waits for the first look at everything; bus activation gives up on us after 25 s, and a consumer
that hangs or a driver that does must not keep others waiting. What is not known by then is unknown, not assumed."""

FREE_SEC = 2.0
"""How long our name may still be owned by who was killed a moment ago."""

CLOSE_SEC = 2.0
STATUS_SEC = 5.0

LIBRARY_SEC = 60.0
"""How old we must be to begin anew for the sake of the driver's library."""

STOP_SEC = 30.0
"""What the end of our life may take, told to systemd: last replies, the disk, a driver that hangs, each bounded."""


BAD_CONFIGURATION = "gpumand does not run, since its configuration is bad; gpumanctl config-check says where"


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that was built, in the order in which it is closed."""

    http: HttpListener
    service: ManagerService
    arbiter: Arbiter
    housekeeping: Housekeeping
    sleep: SuspendWatch
    logind: Logind | None
    units: SystemdUnits
    source: AttributedSource
    routes: HttpRoutes
    store: FileStore
    chronicle: HistoryRecorder
    memory: ProcMeminfo


class Daemon:
    """One life on one bus connection."""

    def __init__(self, options: Options, settings: Settings, notifier: Notifier, archive: SqliteArchive) -> None:
        self._options = options
        self._settings = settings
        self._archive = archive
        self._notifier = notifier
        self._clock = SystemClock()
        self._stop: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._parts: Parts | None = None
        self._hung_up = asyncio.Event()
        self._system_bus: BusConnection | None = None
        self._begun_at = self._clock.monotonic()
        self._begins_anew = False

    async def run(self) -> int:
        """Serve until told to stop or until the bus is lost; returns the exit status."""
        self._catch_signals()
        bus = await BusConnection.connect(self._options.bus_address)
        try:
            self._parts = parts = await self._build(bus)
            await self._start(bus, parts)
            await self._serve(bus)
        finally:
            await self._end(bus)
        return 0 if self._stop.done() and not self._begins_anew else 1

    def _catch_signals(self) -> None:
        """Before anything else: a HUP that arrives early must not kill us (firewalld was)."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_soon, f"gpumand is stopping ({number.name})")
        loop.add_signal_handler(signal.SIGHUP, self._hung_up.set)

    def _stop_soon(self, reason: str) -> None:
        if not self._stop.done():
            self._stop.set_result(reason)

    # -- building ------------------------------------------------------------------------------------------------

    async def _build(self, bus: BusConnection) -> Parts:
        units = await SystemdUnits.attach(bus, user=self._options.user)
        await self._reach_system_bus()
        routes = HttpRoutes(self._clock)
        system_bus = self._options.bus_address == "system"
        authority = PolkitAuthority(bus) if system_bus else UidAuthority(own_uid(), system_bus=False)
        clients = Clients(bus, units, authority.trusted_uids)
        store = await self._open_store(bus)
        pids = UserPids(units, self._system_bus, own_uid()) if self._system_bus is not None else units
        source = AttributedSource(make_source(self._settings.gpu, self._clock), pids)
        _say_whose(source, self._settings)
        memory = ProcMeminfo()
        world = World(self._clock, source, units, routes, store, clients, self._archive, memory)
        chronicle = HistoryRecorder(self._archive, self._clock, _demand_log(self._settings.history))
        arbiter = Arbiter(self._settings, world, self._publish, self._load_settings)
        service = ManagerService(bus, arbiter, clients, authority)
        service.add(LogControl(clients, frozenset({0, own_uid()})).object())
        http = HttpListener(arbiter.status, take_listeners())
        housekeeping = Housekeeping(arbiter, units, routes)
        logind_bus = self._system_bus if self._options.user else bus
        logind = Logind(logind_bus) if logind_bus is not None else None
        sleep = SuspendWatch(arbiter, housekeeping, logind.is_preparing_for_sleep if logind is not None else _never)
        return Parts(
            http, service, arbiter, housekeeping, sleep, logind, units, source, routes, store, chronicle, memory
        )

    async def _reach_system_bus(self) -> None:
        """A user's gpumand asks there for logind and for whose processes are not the user's, and does without too."""
        if self._options.user:
            try:
                self._system_bus = await BusConnection.connect("system")
            except BusLost as error:
                log.info("nobody will tell of a suspend, a shutdown or processes of others: %s", error)

    async def _open_store(self, bus: BusConnection) -> FileStore:
        (bus_id,) = await bus.call(names.DBUS, names.DBUS_PATH, names.DBUS, "GetId")
        directory = state_directory(self._options.state_dir, self._options.bus_address, str(bus_id))
        return FileStore(directory, str(bus_id), await asyncio.to_thread(boot_id))

    def _publish(self, event: Event) -> None:
        if self._parts is not None:
            self._parts.service.publish(event)
            if not isinstance(event, STATE_CHANGES):
                self._parts.http.publish(event)
                self._parts.chronicle.publish(event)

    # -- living --------------------------------------------------------------------------------------------------

    async def _start(self, bus: BusConnection, parts: Parts) -> None:
        # Before the name is asked for: a second daemon would take up the first one's leases, and forget on disk what
        # its own configuration does not know.
        await bus.await_free(names.BUS_NAME, FREE_SEC)
        await parts.arbiter.start()
        first = [self._beside(parts.housekeeping.look_around())]
        if parts.logind is not None:
            listening = parts.logind.listen(parts.sleep.prepare_for_sleep, parts.sleep.prepare_for_shutdown)
            first.append(self._beside(listening))
        await asyncio.wait(first, timeout=FIRST_LOOK_SEC)
        self._beside(parts.sleep.run())
        housekeeping = self._beside(parts.housekeeping.run())
        await parts.http.open(self._settings.http)
        parts.service.export()
        await bus.request_name(names.BUS_NAME)
        self._notifier.ready(status_line(parts.arbiter.status()))
        self._beside(self._tell_status(parts.arbiter))
        self._beside(self._reload_when_told(parts.arbiter))
        self._watch(Body(bus, parts.arbiter, parts.housekeeping, housekeeping, lambda: parts.source.source))
        self._beside(self._warn_of_others())
        log.info("gpumand %s is ready: %s", VERSION, status_line(parts.arbiter.status()))

    async def _warn_of_others(self) -> None:
        """The system's daemon and a user's know nothing of each other; whoever starts later says so."""
        if self._options.bus_address not in ("system", "session") or self._settings.gpu.source != "nvml":
            return
        for one in await asyncio.to_thread(other_daemons, os.getpid()):
            log.warning("another gpumand lends the same GPUs (%s), and neither knows what the other has promised", one)

    def _watch(self, body: Body) -> None:
        """Ping systemd's watchdog, where there is one on us: it counts from READY."""
        if period_usec := watchdog_usec():
            watchdog = Watchdog(self._clock, period_usec / 1e6, body.vitals, self._notifier.watchdog)
            self._beside(watchdog.run())

    async def _serve(self, bus: BusConnection) -> None:
        lost: asyncio.Future[Any] = asyncio.ensure_future(bus.wait_lost())
        either: list[asyncio.Future[Any]] = [lost, self._stop]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost.cancel()
        if not self._stop.done():
            log.error("the bus connection is lost; ending, so that the service manager starts us anew")

    async def _end(self, bus: BusConnection) -> None:
        reason = self._stop.result() if self._stop.done() else "gpumand lost the bus"
        self._notifier.stopping(reason)
        self._notifier.extend_timeout(STOP_SEC)
        if self._parts is not None:
            self._parts.arbiter.measuring.keep()
            for_good = await self._why_for_good(bus, self._parts.sleep)
            await self._parts.arbiter.stop(reason, leases_end=bool(for_good))
            await _bounded(bus.flush(), "the last replies")  # those who waited hear why they wait no longer
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._parts is not None:
            if self._parts.logind is not None:
                await _bounded(self._parts.logind.close(), "what listens to logind")
            for part in (
                self._parts.http,
                self._parts.service,
                self._parts.units,
                self._parts.source,
                self._parts.routes,
                self._parts.memory,
            ):
                await _bounded(part.close(), type(part).__name__)
            await _bounded(self._parts.store.close(), "the store")
            await _bounded(self._parts.chronicle.close(), "the history")
        await bus.close()
        if self._system_bus is not None:
            await self._system_bus.close()

    async def _why_for_good(self, bus: BusConnection, sleep: SuspendWatch) -> str:
        """Why nobody will take up our leases again, "" where somebody may: a lease is never ended on a guess."""
        if bus.lost_reason or not self._stop.done() or self._begins_anew:
            return ""
        why = SHUTTING_DOWN if sleep.shutting_down else await why_for_good(bus)
        if why:
            log.info("leases end with gpumand: %s", why)
        return why

    def _beside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- reloading and status ------------------------------------------------------------------------------------

    async def _load_settings(self) -> Settings:
        """Read the configuration for a reload; raising changes nothing. What is outside the arbiter is changed here."""
        try:
            return await self._read_anew()
        except ConfigInvalid as error:
            for line in lines_of(error):
                log.error("the configuration is not reloaded: %s", line)
            raise

    async def _read_anew(self) -> Settings:
        if self._parts is not None:
            self._parts.arbiter.measuring.keep()
        settings = await _load(self._options, self._archive)
        if self._parts is not None:
            await self._parts.http.configure(settings.http)
            if sources_differ(settings.gpu, self._settings.gpu):
                await self._parts.source.swap(make_source(settings.gpu, self._clock))
            _say_whose(self._parts.source, settings)
            await self._reconfigure_history(self._parts.chronicle, settings.history)
        self._settings = settings
        return settings

    async def _reconfigure_history(self, chronicle: HistoryRecorder, history: HistorySettings) -> None:
        self._archive.keep_days = history.keep_days
        if history.demand_log != self._settings.history.demand_log:
            await chronicle.log_demand_to(_demand_log(history))

    async def _reload_when_told(self, arbiter: Arbiter) -> None:
        """Reload after each SIGHUP; of several at once, and of those that came before all was ready, once."""
        while True:
            await self._hung_up.wait()
            self._hung_up.clear()
            await self._reload(arbiter)

    async def _reload(self, arbiter: Arbiter) -> None:
        self._notifier.reloading()
        try:
            with contextlib.suppress(ConfigInvalid):  # which is in the log
                await arbiter.reload()
        except GpumandError as error:  # we are ending
            log.info("the configuration is not reloaded: %s", error)
        except Exception:
            log.exception("the configuration is not reloaded")
        finally:
            self._notifier.ready(status_line(arbiter.status()))

    async def _tell_status(self, arbiter: Arbiter) -> None:
        while True:
            await self._clock.sleep(STATUS_SEC)
            self._notifier.status(status_line(arbiter.status()))
            if self._parts is not None:
                self._leave_outlived_library(self._parts.source.source)

    def _leave_outlived_library(self, source: VramSource) -> None:
        """After an upgrade of the driver whose old library does not leave this process, only another process can read.

        Whoever starts us keeps our leases over that. The new process has loaded the library that is installed, so this
        comes to an end; and not sooner than after a minute, lest an installer at work makes us begin again and again.
        """
        is_old_enough = self._clock.monotonic() - self._begun_at > LIBRARY_SEC
        if is_outlived(source) and is_old_enough and self._notifier.listening:
            self._begins_anew = True
            log.error(
                "the driver was upgraded under us; ending, so that the service manager starts us with its library"
            )
            self._stop_soon("gpumand begins anew with the driver's new library")


def _demand_log(history: HistorySettings) -> DemandLog | None:
    return DemandLog(Path(history.demand_log)) if history.demand_log else None


async def _never() -> bool:
    return False


async def _bounded(closing: Awaitable[None], what: str) -> None:
    """Close something, but do not let it keep us from ending."""
    try:
        await asyncio.wait_for(closing, timeout=CLOSE_SEC)
    except (BusLost, BusError, TimeoutError, OSError) as error:
        log.debug("closing %s: %r", what, error)


def _say_whose(source: AttributedSource, settings: Settings) -> None:
    """Tell the source whose processes are whose; what the simulator's processes announce names them already."""
    named = settings.consumers if source.name == "simulated" else ()
    source.set_units({spec.unit: spec.name for spec in settings.consumers.values() if spec.unit}, named)


async def _load(options: Options, archive: SqliteArchive) -> Settings:
    measured = measured_peaks(await archive.read_learned())
    return await asyncio.to_thread(load, options.config, measured, user=options.user)


async def _amain(options: Options) -> int:
    notifier = Notifier()
    archive = SqliteArchive(archive_path(options.state_dir, options.bus_address))
    try:
        settings = await _load(options, archive)
        archive.keep_days = settings.history.keep_days
        return await Daemon(options, settings, notifier, archive).run()
    except ConfigInvalid as error:
        for line in lines_of(error):
            log.error("%s", line)
        if isinstance(error, AddressTaken):
            return 1
        turn_away(take_listeners(), BAD_CONFIGURATION)
        return os.EX_CONFIG  # which the unit names: trying again would not help
    except (BusLost, BusError, GpumandError, OSError) as error:
        log.error("gpumand cannot go on: %s", error)
        return 1
    finally:
        notifier.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``gpumand``."""
    sys.exit(asyncio.run(_amain(parsed(arguments))))
