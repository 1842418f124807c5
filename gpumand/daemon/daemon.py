"""The lifecycle of the daemon process: start, reload, status reports to systemd, and an orderly end.

The order of a start matters. The bus comes first, since the owners of leases can only be checked there. Then leases
are restored while their owners are watched, all state is read, and the D-Bus objects are exported. The bus name is
requested last, so that a client that finds the name finds a complete service.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

from gpumand.arbiter import Arbiter
from gpumand.arbiter.learning import measured_peaks
from gpumand.arbiter.suspend import SHUTTING_DOWN, SuspendWatch
from gpumand.bus import names
from gpumand.bus.connection import BusConnection, BusError, BusLost
from gpumand.config import load, problem_lines
from gpumand.daemon.components import (
    Components,
    Connections,
    build_components,
    close_within_limit,
    configure_attribution,
    connect_system_bus,
    demand_log,
)
from gpumand.daemon.environment import archive_path
from gpumand.daemon.garbage import GarbageCollections
from gpumand.daemon.options import Options, parse_arguments
from gpumand.daemon.status_line import status_line
from gpumand.daemon.watchdog import LivenessChecks, Watchdog
from gpumand.discovery.daemons import other_daemons
from gpumand.domain.consumer import Settings
from gpumand.domain.errors import ConfigInvalid, GpumandError
from gpumand.domain.events import STATE_CHANGE_EVENTS, Event
from gpumand.domain.output_settings import HistorySettings
from gpumand.history import HistoryRecorder, SqliteArchive
from gpumand.host.clock import SystemClock
from gpumand.http.listener import AddressUnavailable
from gpumand.http.unavailable import refuse_waiting_connections
from gpumand.ports import VramSource
from gpumand.service_manager.notify import Notifier, watchdog_usec
from gpumand.service_manager.own_unit import permanent_stop_reason
from gpumand.service_manager.sockets import take_listeners
from gpumand.version import VERSION
from gpumand.vram import make_source, source_changed
from gpumand.vram.library_file import needs_new_process

log = logging.getLogger(__name__)

FIRST_REFRESH_SEC = 3.0
"""Seconds for which a start waits until all state has been read. Bus activation fails after 25 s, and a consumer or
driver that hangs must not delay clients. State that has not been read by then is unknown, not assumed."""

NAME_RELEASE_SEC = 2.0
"""Seconds for which the bus name may still belong to a daemon process that was killed a moment ago."""

STATUS_SEC = 5.0
"""Seconds between updates of the status line in systemctl status."""

MIN_AGE_FOR_RESTART_SEC = 60.0
"""Minimum age of the process for a restart that loads a new driver library: while an installer replaces the library,
the daemon must not restart again and again."""

STOP_SEC = 30.0
"""Seconds requested from systemd for the end of the process: last replies, the disk, a driver that hangs. Each of
these has its own limit."""

BAD_CONFIGURATION = "gpumand is not running: its configuration has errors. Run gpumanctl config-check to list them."


class Daemon:
    """One run of the daemon on one bus connection."""

    def __init__(self, options: Options, settings: Settings, notifier: Notifier, archive: SqliteArchive) -> None:
        self._options = options
        self._settings = settings
        self._archive = archive
        self._notifier = notifier
        self._clock = SystemClock()
        self._stop: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._components: Components | None = None
        self._sighup_received = asyncio.Event()
        self._garbage = GarbageCollections()
        self._system_bus: BusConnection | None = None
        self._started_at = self._clock.monotonic()
        self._restart_needed = False

    async def run(self) -> int:
        """Serve until a signal stops the daemon or the bus connection is lost.

        Returns:
            The exit status: 0 after a signal; 1 when systemd should start the daemon again.
        """
        self._catch_signals()
        bus = await BusConnection.connect(self._options.bus_address)
        try:
            self._system_bus = await connect_system_bus(self._options)
            self._components = components = await build_components(
                self._options,
                self._settings,
                Connections(bus, self._system_bus),
                self._archive,
                self._clock,
                self._publish,
                self._load_settings,
            )
            await self._start(bus, components)
            await self._serve(bus)
        finally:
            await self._shut_down(bus)
        return 0 if self._stop.done() and not self._restart_needed else 1

    def _catch_signals(self) -> None:
        """Install the signal handlers.

        First of all, since SIGHUP ends a process that does not handle it yet: an early reload killed firewalld.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._request_stop, f"gpumand is stopping ({number.name})")
        loop.add_signal_handler(signal.SIGHUP, self._sighup_received.set)

    def _request_stop(self, reason: str) -> None:
        if not self._stop.done():
            self._stop.set_result(reason)

    def _publish(self, event: Event) -> None:
        # None only while the components are being built; nothing can be subscribed to events then.
        if self._components is not None:
            self._components.service.publish(event)
            if not isinstance(event, STATE_CHANGE_EVENTS):
                self._components.later.publish(event)

    # -- start and run -------------------------------------------------------------------------------------------

    async def _start(self, bus: BusConnection, components: Components) -> None:
        # Before leases are restored: a second daemon would also restore the leases of the first one, and delete those
        # from disk whose consumers its own configuration does not know.
        await bus.wait_name_free(names.BUS_NAME, NAME_RELEASE_SEC)
        await components.arbiter.start()
        first = [self._spawn(components.housekeeping.refresh_all())]
        if components.logind is not None:
            listening = components.logind.listen(
                components.suspend_watch.prepare_for_sleep, components.suspend_watch.prepare_for_shutdown
            )
            first.append(self._spawn(listening))
        # asyncio.wait does not cancel what is unfinished at the timeout: a slow answer still arrives later.
        await asyncio.wait(first, timeout=FIRST_REFRESH_SEC)
        self._spawn(components.suspend_watch.run())
        housekeeping = self._spawn(components.housekeeping.run())
        await components.http.open(self._settings.http)
        # The objects before the name, and READY last: clients and units that start after gpumand call it at once.
        components.service.export()
        await components.service.prepare_status()
        await bus.request_name(names.BUS_NAME)
        self._garbage.begin()
        self._notifier.ready(status_line(components.arbiter.status()))
        self._spawn(self._report_status(components.arbiter))
        self._spawn(self._reload_on_sighup(components.arbiter))
        self._start_watchdog(
            LivenessChecks(
                bus, components.arbiter, components.housekeeping, housekeeping, lambda: components.source.source
            )
        )
        self._spawn(self._warn_of_other_daemons())
        log.info("gpumand %s is ready: %s", VERSION, status_line(components.arbiter.status()))

    async def _warn_of_other_daemons(self) -> None:
        """Warn if another daemon manages the same GPUs: a system daemon and a user's daemon do not coordinate."""
        if self._options.bus_address not in ("system", "session") or not self._settings.gpu.uses_real_gpus:
            return
        for one in await asyncio.to_thread(other_daemons, os.getpid()):
            log.warning("another gpumand manages the same GPUs (%s): the two do not coordinate. Stop one of them", one)

    def _start_watchdog(self, checks: LivenessChecks) -> None:
        """Start to ping systemd's watchdog, if the unit has one. It counts from READY, so this is done right after."""
        if period_usec := watchdog_usec():
            watchdog = Watchdog(self._clock, period_usec / 1e6, checks.collect, self._notifier.watchdog)
            self._spawn(watchdog.run())

    async def _serve(self, bus: BusConnection) -> None:
        lost: asyncio.Future[Any] = asyncio.ensure_future(bus.wait_lost())
        either: list[asyncio.Future[Any]] = [lost, self._stop]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost.cancel()
        if not self._stop.done():
            log.error("the bus connection is lost: gpumand exits, and the service manager starts it again")

    async def _shut_down(self, bus: BusConnection) -> None:
        reason = self._stop.result() if self._stop.done() else "gpumand lost its bus connection"
        self._notifier.stopping(reason)
        self._notifier.extend_timeout(STOP_SEC)
        if self._components is not None:
            self._components.arbiter.learning.save()
            leases_end = await self._why_leases_end(bus, self._components.suspend_watch)
            await self._components.arbiter.stop(reason, leases_end=bool(leases_end))
            # Before anything is closed: clients that waited must receive the reason why their requests were refused.
            await close_within_limit(bus.flush(), "the last replies")
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # After the tasks have ended, since they use the components.
        if self._components is not None:
            await self._components.close()
        await bus.close()
        if self._system_bus is not None:
            await self._system_bus.close()

    async def _why_leases_end(self, bus: BusConnection, suspend_watch: SuspendWatch) -> str:
        """Why no later start can restore the leases, in one line; "" when one may, or when that is uncertain."""
        if bus.lost_reason or not self._stop.done() or self._restart_needed:
            return ""
        why = SHUTTING_DOWN if suspend_watch.shutting_down else await permanent_stop_reason(bus)
        if why:
            log.info("leases end with gpumand: %s", why)
        return why

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        # asyncio keeps only weak references to tasks.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- reloading and status ------------------------------------------------------------------------------------

    async def _load_settings(self) -> Settings:
        """Read the configuration for a reload and apply the parts outside the arbiter.

        Raises ConfigInvalid, and then nothing changes.
        """
        try:
            return await self._read_settings()
        except ConfigInvalid as error:
            for line in problem_lines(error):
                log.error("the configuration was not reloaded: %s", line)
            raise

    async def _read_settings(self) -> Settings:
        # Saved first: the measured peaks of the archive are part of the settings that are read next.
        if self._components is not None:
            self._components.arbiter.learning.save()
        settings = await _read_configuration(self._options, self._archive)
        if self._components is not None:
            # First the only step that can fail: the address for HTTP may be in use. Then nothing else has changed yet.
            await self._components.http.configure(settings.http)
            if source_changed(settings.gpu, self._settings.gpu):
                await self._components.source.replace_source(make_source(settings.gpu, self._clock))
            configure_attribution(self._components.source, settings)
            await self._reconfigure_history(self._components.history, settings.history)
        self._settings = settings
        return settings

    async def _reconfigure_history(self, history_recorder: HistoryRecorder, history: HistorySettings) -> None:
        self._archive.keep_days = history.keep_days
        if history.demand_log != self._settings.history.demand_log:
            await history_recorder.set_demand_log(demand_log(history))

    async def _reload_on_sighup(self, arbiter: Arbiter) -> None:
        """Reload after SIGHUP; several signals in a row, or before the start was complete, cause one reload."""
        while True:
            await self._sighup_received.wait()
            self._sighup_received.clear()
            await self._reload(arbiter)

    async def _reload(self, arbiter: Arbiter) -> None:
        self._notifier.reloading()
        try:
            with contextlib.suppress(ConfigInvalid):  # logged already
                await arbiter.reload()
        except GpumandError as error:  # the daemon is stopping
            log.info("the configuration was not reloaded: %s", error)
        except Exception:
            log.exception("the configuration was not reloaded")
        finally:
            self._notifier.ready(status_line(arbiter.status()))

    async def _report_status(self, arbiter: Arbiter) -> None:
        while True:
            await self._clock.sleep(STATUS_SEC)
            self._garbage.collect()
            self._notifier.status(status_line(arbiter.status()))
            if self._components is not None:
                self._restart_for_new_library(self._components.source.source)

    def _restart_for_new_library(self, source: VramSource) -> None:
        """Exit with status 1 after a driver upgrade, so that systemd starts a process with the new library.

        A loaded library cannot be replaced within a process, and the old one cannot talk to the new driver. The leases
        stay on disk for the next process. This happens only under systemd, which starts the daemon again.
        """
        is_old_enough = self._clock.monotonic() - self._started_at > MIN_AGE_FOR_RESTART_SEC
        if needs_new_process(source) and is_old_enough and self._notifier.is_connected:
            self._restart_needed = True
            log.error("the driver was upgraded: gpumand exits, and the service manager starts it with the new library")
            self._request_stop("gpumand restarts to load the driver's new library")


async def _read_configuration(options: Options, archive: SqliteArchive) -> Settings:
    measured = measured_peaks(await archive.read_learned())
    return await asyncio.to_thread(load, options.config, measured, user=options.user)


async def _run(options: Options) -> int:
    notifier = Notifier()
    archive = SqliteArchive(archive_path(options.state_dir, options.bus_address))
    try:
        settings = await _read_configuration(options, archive)
        archive.keep_days = settings.history.keep_days
        return await Daemon(options, settings, notifier, archive).run()
    except ConfigInvalid as error:
        for line in problem_lines(error):
            log.error("%s", line)
        if isinstance(error, AddressUnavailable):
            return 1
        refuse_waiting_connections(take_listeners(), BAD_CONFIGURATION)
        return os.EX_CONFIG  # RestartPreventExitStatus= names it: starting again would not help
    except (BusLost, BusError, GpumandError, OSError) as error:
        log.error("gpumand cannot start or continue: %s", error)
        return 1
    finally:
        notifier.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``gpumand``: run the daemon and exit with its status.

    Args:
        arguments: the command line without the program name; None = that of the process.
    """
    sys.exit(asyncio.run(_run(parse_arguments(arguments))))
