"""The process ``gpumand-gateway``: builds the parts, serves until SIGTERM, and reads its configuration at SIGHUP."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING

from gpumand.config.problems import problem_lines
from gpumand.domain.errors import ConfigInvalid
from gpumand.gateway import config
from gpumand.gateway.acceptor import Acceptor
from gpumand.gateway.access import KeyedAccess
from gpumand.gateway.admissions import Admissions
from gpumand.gateway.arbiter_client import BusArbiter
from gpumand.gateway.bodies import BodyBudget
from gpumand.gateway.busy_checks import BusyChecks
from gpumand.gateway.catalog_reader import CatalogReader
from gpumand.gateway.config import GatewaySettings, ListenerSettings, state_dir
from gpumand.gateway.elsewhere import ElsewhereHandler
from gpumand.gateway.entrance import EntranceRouter
from gpumand.gateway.entrance_config import GATEWAY
from gpumand.gateway.fleet import Fleet
from gpumand.gateway.handler import Gateway
from gpumand.gateway.home import HomeKeeper
from gpumand.gateway.job_holder import JobHolder, TakeOver
from gpumand.gateway.job_records import JobRecord, JobStore
from gpumand.gateway.jobs import BusyCheck, Jobs
from gpumand.gateway.leases import LeaseKeeper, LeaseSettings
from gpumand.gateway.listeners import Listeners
from gpumand.gateway.looking import LookHandler
from gpumand.gateway.metrics import GatewayMetrics
from gpumand.gateway.metrics_page import metrics_page
from gpumand.gateway.offers import Offers
from gpumand.gateway.parts import Parts
from gpumand.gateway.requests import Client, RequestTable, State, WaitLimits
from gpumand.gateway.router import ListenerRouter
from gpumand.gateway.routes.classes import RouteClass
from gpumand.gateway.slots import SlotKeeper
from gpumand.gateway.socket_requests import SocketHandler
from gpumand.gateway.spool import Spool
from gpumand.gateway.status_view import StatusView
from gpumand.gateway.stopped_lists import StoppedLists
from gpumand.gateway.unique_guard import UniqueGuard
from gpumand.gateway.upstream import Upstreams
from gpumand.gateway.wakes import Wakes
from gpumand.gateway.watchdog import ping_watchdog
from gpumand.gateway.working import WorkHandler
from gpumand.log.logging_setup import default_level, setup_logging
from gpumand.service_manager.notify import Notifier, watchdog_usec
from gpumand.service_manager.sockets import take_named_listeners
from gpumand.version import VERSION

if TYPE_CHECKING:
    from gpumand.gateway.console.console import Console
    from gpumand.gateway.console.state_view import ShownListener

log = logging.getLogger(__name__)

CONFIG_STATUS = 78
"""Exit status for an invalid configuration (EX_CONFIG), with which systemd need not restart the process."""

DRAIN_POLL_SEC = 0.1
LAST_HEADS_SEC = 1.0


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line."""

    config: Path | None
    bus: str
    is_check: bool = False


class GatewayService:
    """All parts of the running gateway. Create it inside a running event loop.

    Args:
        options: the options of the command line.
        settings: the configuration.
        passed: listening sockets by listener name.
    """

    def __init__(
        self,
        options: Options,
        settings: GatewaySettings,
        passed: Mapping[str, Sequence[socket]],
    ) -> None:
        self.settings = settings
        self._options = options
        self.metrics = GatewayMetrics()
        self._arbiter = BusArbiter(options.bus, settings.lease_ttl_sec)
        self._upstreams, self._status = Upstreams(), StatusView(self._arbiter)
        self._fleet = Fleet(lambda: self.settings.fleet, self._upstreams)
        self._guard = UniqueGuard(self._arbiter, self._fleet, self._status)
        self._leases = LeaseKeeper(self._guard, _lease_settings(settings), self.metrics.turn_opened)
        self.table = RequestTable(_limits(settings))
        self._wakes, self._bodies = Wakes(self._leases), BodyBudget()
        self._busy = BusyChecks()
        self._store = JobStore(lambda: state_dir(self.settings))
        self._jobs = self._make_jobs()
        self._job_holder = JobHolder(self._jobs, self._store, self._busy)
        self._take_over = TakeOver(self._jobs, self._arbiter.renew, self._leases.adopt, self._check_for)
        self._passed = passed
        self._router = ListenerRouter(settings, self._status)
        self._home = HomeKeeper(lambda: self.settings, self._status, self._wakes, self._arbiter)
        self._spool = Spool(lambda: state_dir(self.settings), lambda: self.settings.spool_max_mib << 20)
        self._reader = CatalogReader(self._upstreams, lambda: state_dir(self.settings))
        self._console: Console | None = None
        self._admissions = Admissions(KeyedAccess(lambda: self.settings), self.table)
        self._acceptor = Acceptor(self._handler().handle, settings.max_connections)
        self._listeners = Listeners(self._acceptor, passed)
        self._warning: asyncio.Task[None] | None = None

    def _handler(self) -> Gateway:
        parts = Parts(
            lambda: self.settings,
            self._leases,
            self._status,
            self._upstreams,
            self.table,
            lambda: self._arbiter.absence,
            SlotKeeper(),
            ElsewhereHandler(self._fleet, self._upstreams),
        )
        look = LookHandler(parts, self._wakes, StoppedLists(self._reader))
        offers = Offers(lambda: self.settings, self._status, self._router, self._reader)
        router = EntranceRouter(lambda: self.settings, self._router, offers, self._bodies, self._spool, self._fleet)
        return Gateway(
            parts,
            self._admissions,
            router,
            self.metrics,
            work=WorkHandler(parts, self._job_holder, self._bodies),
            look=look,
            sockets=SocketHandler(parts, look, self._job_holder),
            console=self._get_console,
        )

    async def _get_console(self) -> Console:
        """The part that answers for the gateway itself, which takes 0.4 MB; many gateways only pass requests on."""
        if self._console is None:
            # The import would block the event loop for some 30 ms.
            await asyncio.to_thread(__import__, "gpumand.gateway.console.console")
        if self._console is None:  # another request may have created it during the import
            self._console = self._make_console()
        return self._console

    def _make_jobs(self) -> Jobs:
        return Jobs(self.table, self._store, self._guard.acquire_resident, self._leases.adopt, self.metrics.job_ended)

    async def _check_for(self, record: JobRecord) -> BusyCheck:
        """The busy check of a job that an earlier process held."""
        settings = self.settings.listeners.get(record.listener) or self.settings.of_consumer(record.consumer)
        return self._job_holder.check(await self._router.service(settings), record.endpoint)

    def _make_console(self) -> Console:
        from gpumand.gateway.console.actions import Actions
        from gpumand.gateway.console.console import Console
        from gpumand.gateway.console.feed import BusSource
        from gpumand.gateway.console.state_view import StateView

        source = BusSource(self._options.bus)
        view = StateView(self.table, self._shown_listeners)
        return Console(source, view, Actions(self._options.bus, self.table), self._metrics_page, self._fleet.document)

    def _shown_listeners(self) -> tuple[ShownListener, ...]:
        """The listeners, for lists."""
        from gpumand.gateway.console.state_view import ShownListener

        return tuple(
            ShownListener(name, self._all_listeners()[name].consumer if name != GATEWAY else "", address)
            for name, address in self._listeners.addresses
            if name in self._all_listeners()
        )

    def _all_listeners(self) -> dict[str, ListenerSettings]:
        return self.settings.all_listeners(self._passed)

    def _metrics_page(self, client: Client) -> str:
        return metrics_page(self.metrics, self.table, self._spool.used_bytes, client)

    async def start(self) -> None:
        """Begin to listen. Raises ConfigInvalid."""
        await self._reader.start()
        self._arbiter.start(self._leases)
        # Before new requests, which share the leases of jobs instead of waiting for them to end.
        await self._take_over.start(self._store)
        await self._listeners.configure(self._all_listeners(), allow_remote=self.settings.allow_remote)
        self._home.start()
        self._warn_of_blocked_clients()

    def _warn_of_blocked_clients(self) -> None:
        if not (remote := self._listeners.remote):
            return
        from gpumand.gateway.blocked_clients import warn_of_blocked_clients

        if self._warning is not None:
            self._warning.cancel()
        # A task of its own, since the gateway serves whether systemd answers or not.
        self._warning = asyncio.ensure_future(warn_of_blocked_clients(self._options.bus, remote))

    async def reload(self) -> None:
        """Take over a changed configuration; requests in flight go on. Raises ConfigInvalid, and changes nothing."""
        settings = await asyncio.to_thread(config.load, self._options.config)
        # The router must know a listener before its first connection.
        self._router.configure(settings)
        try:
            await self._listeners.configure(settings.all_listeners(self._passed), allow_remote=settings.allow_remote)
        except ConfigInvalid:
            self._router.configure(self.settings)
            raise
        self.settings = settings
        if self._console is not None:
            # A stream shows what its key permitted when it was opened.
            self._console.end_streams()
        self._admissions.check()
        self.table.limits = _limits(settings)
        self._acceptor.max_connections = settings.max_connections
        self._arbiter.ttl_sec = settings.lease_ttl_sec
        self._leases.configure(_lease_settings(settings))
        self._warn_of_blocked_clients()

    async def stop(self) -> None:
        """Let requests in flight end for a while, then end them; the leases are released last.

        The leases of held jobs are not released: the next process takes them over, or they end by themselves.
        """
        self._listeners.close()
        if self._warning is not None:
            self._warning.cancel()
            await asyncio.gather(self._warning, return_exceptions=True)
        if self._console is not None:
            await self._console.close()
        # A client whose connection was accepted has no other gateway to send its request to.
        await self._acceptor.receive_heads(LAST_HEADS_SEC)
        self._acceptor.close_idle()
        await self._drain()
        await self._acceptor.close()
        await self._home.close()
        await self._wakes.close()
        await self._take_over.close()
        await self._jobs.close()
        await self._leases.close(self._jobs.lease_ids())
        await self._guard.close()
        await self._reader.close()
        await self._fleet.close()
        await self._upstreams.close()
        await self._busy.close()
        await self._arbiter.close()

    async def _drain(self) -> None:
        """Wait for requests to end, at most drain_sec; WebSockets that only look do not count."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self.settings.drain_sec
        for entry in self.table:
            if entry.kind is RouteClass.LOOK and entry.status == 101:
                self.table.cancel(entry.number, "the gateway is being stopped")
        await self._until_empty(deadline)
        for entry in self.table:
            if entry.state is not State.JOB:
                self.table.cancel(entry.number, "the gateway is being stopped")
        await self._until_empty(deadline + 2.0)

    async def _until_empty(self, deadline: float) -> None:
        clock = asyncio.get_running_loop().time
        while self.table.open_count and clock() < deadline:
            await asyncio.sleep(DRAIN_POLL_SEC)
            self._acceptor.close_idle()


def _lease_settings(settings: GatewaySettings) -> LeaseSettings:
    return LeaseSettings(settings.turn_sec, settings.linger_sec, settings.lease_ttl_sec)


def _limits(settings: GatewaySettings) -> WaitLimits:
    return WaitLimits(settings.max_waiting, settings.max_waiting_per_client)


async def serve(options: Options, settings: GatewaySettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigInvalid if an address cannot be listened on."""
    loop, stopping, reloads = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, reloads.set)
    service = GatewayService(options, settings, take_named_listeners({GATEWAY, *settings.listeners}))
    notifier = Notifier()
    watchdog = asyncio.ensure_future(ping_watchdog(notifier, watchdog_usec()))
    try:
        await service.start()
        notifier.ready(f"{len(settings.listeners)} listeners")
        await _until_stopped(service, notifier, stopping, reloads)
    finally:
        notifier.stopping("waiting for requests in flight")
        notifier.extend_timeout(service.settings.drain_sec + 30)
        await service.stop()
        watchdog.cancel()
        notifier.close()


async def _until_stopped(
    service: GatewayService, notifier: Notifier, stopping: asyncio.Event, reloads: asyncio.Event
) -> None:
    stop = asyncio.ensure_future(stopping.wait())
    while not stop.done():
        reload = asyncio.ensure_future(reloads.wait())
        await asyncio.wait({stop, reload}, return_when=asyncio.FIRST_COMPLETED)
        reload.cancel()
        if reloads.is_set() and not stop.done():
            reloads.clear()
            await _reload(service, notifier)


async def _reload(service: GatewayService, notifier: Notifier) -> None:
    notifier.reloading()
    try:
        await service.reload()
    except ConfigInvalid as error:
        for line in problem_lines(error):
            log.error("the configuration was not taken over: %s", line)
    notifier.ready(f"{len(service.settings.listeners)} listeners")


def parse_arguments(arguments: Sequence[str] | None) -> Options:
    """Parse the command line and set up logging accordingly; exits the process on a wrong command line."""
    given = sys.argv[1:] if arguments is None else arguments
    # The system unit has no arguments. The modules of argparse would take 0.4 MB for as long as the gateway runs.
    if not given:
        setup_logging(default_level())
        return Options(None, "system")
    return _parse(given)


def _parse(arguments: Sequence[str]) -> Options:
    import argparse

    parser = argparse.ArgumentParser(
        prog="gpumand-gateway", description="Passes requests to services, and holds leases on the GPU meanwhile."
    )
    parser.add_argument("--version", action="version", version=f"gpumand-gateway {VERSION}")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="configuration file to use instead of /etc/gpumand/gateway.toml"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--user", action="store_true", help="use a user's gpumand on the session bus")
    where.add_argument("--bus-address", metavar="ADDRESS", help="use the gpumand on the bus at this address")
    parser.add_argument("--check", action="store_true", help="check the configuration, print its errors, and exit")
    parser.add_argument("--log-level", default=default_level(), choices=["debug", "info", "warning", "error"])
    given = parser.parse_args(arguments)
    setup_logging(given.log_level)
    return Options(given.config, given.bus_address or ("session" if given.user else "system"), given.check)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the gateway."""
    run(parse_arguments(arguments))


def run(options: Options) -> None:
    """Serve until a signal, and exit the process with ``CONFIG_STATUS`` if the configuration is invalid."""
    try:
        settings = config.load(options.config)
        if not options.is_check:
            asyncio.run(serve(options, settings))
    except ConfigInvalid as error:
        for line in problem_lines(error):
            log.error("%s", line)
        sys.exit(CONFIG_STATUS)
