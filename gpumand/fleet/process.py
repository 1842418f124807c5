"""The command line of ``gpumand-fleet``, its signals, and what it reports to systemd."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpumand.bus.connection import BusConnection
from gpumand.bus.connection_errors import BusLost
from gpumand.config.problems import problem_lines
from gpumand.domain.errors import ConfigInvalid
from gpumand.fleet.clock import BoottimeClock
from gpumand.fleet.service import FleetService, find_machine_id, tls_contexts
from gpumand.fleet.settings import FleetConfig
from gpumand.fleet.stores import open_store
from gpumand.log.logging_setup import default_level, setup_logging
from gpumand.service_manager.notify import Notifier, watchdog_usec
from gpumand.service_manager.own_unit import is_restart
from gpumand.version import VERSION

log = logging.getLogger(__name__)

CONFIG_STATUS = 78
"""Exit status for an invalid configuration (EX_CONFIG), with which systemd need not restart the process."""

FAILURE_STATUS = 1
"""Exit status after a part has failed, with which systemd restarts the process."""

DRAIN_SEC = 20.0
"""How long leases of the fleet may go on after SIGTERM; they end with this process."""

STOP_MARGIN_SEC = 15.0
RESTART_QUERY_SEC = 2.0
PINGS_PER_PERIOD = 3

Load = Callable[[], FleetConfig]
"""Reads the configuration. Blocks. Raises ConfigInvalid."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line."""

    config: Path | None
    bus: str
    is_check: bool = False


class PartFailed(Exception):
    """A part of the process has failed unexpectedly, which was logged; the others were stopped."""


async def serve(load: Load) -> None:
    """Serve until SIGTERM or SIGINT; a second signal ends the process without waiting.

    Raises ConfigInvalid, and PartFailed after everything else was stopped.
    """
    stopping, hurrying, reloads = asyncio.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: hurrying.set() if stopping.is_set() else stopping.set())
    loop.add_signal_handler(signal.SIGHUP, reloads.set)
    notifier = Notifier()
    watchdog = asyncio.ensure_future(_ping(notifier, watchdog_usec()))
    try:
        service = await _start(await asyncio.to_thread(load))
        service.comes_back = lambda: comes_back(load)
        notifier.ready(f"{service.config.host} at {service.facts.url}")
        await _until_stopped(service, load, notifier, stopping, reloads)
        service.begin_stop()
        notifier.stopping("waiting for leases of the fleet")
        notifier.extend_timeout(DRAIN_SEC + STOP_MARGIN_SEC)
        await _stop(service, hurrying)
        if service.failed.is_set():
            raise PartFailed
    finally:
        watchdog.cancel()
        notifier.close()


async def _start(config: FleetConfig) -> FleetService:
    machine_id, tls = await find_machine_id(config), await tls_contexts(config)
    store = await open_store(config, BoottimeClock(), None if tls is None else tls[1])
    service = FleetService(config, store, machine_id, tls)
    try:
        await service.start()
    except BaseException:
        await service.close()
        raise
    return service


async def comes_back(load: Load) -> bool:
    """Whether systemd restarts this process now, as at a package upgrade, and the configuration lets it start."""
    try:
        config = await asyncio.to_thread(load)
        async with asyncio.timeout(RESTART_QUERY_SEC):
            connection = await BusConnection.connect(config.bus)
        try:
            return await is_restart(connection)
        finally:
            await connection.close()
    except (ConfigInvalid, BusLost, OSError, TimeoutError) as error:
        log.debug("this stop is not taken for a restart: %s", error)
        return False


async def _stop(service: FleetService, hurrying: asyncio.Event) -> None:
    stop, hurry = asyncio.ensure_future(service.stop(DRAIN_SEC)), asyncio.ensure_future(hurrying.wait())
    await asyncio.wait({stop, hurry}, return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if not stop.done():
        stop.cancel()
        await asyncio.gather(stop, return_exceptions=True)
        await service.close()


async def _until_stopped(
    service: FleetService, load: Load, notifier: Notifier, stopping: asyncio.Event, reloads: asyncio.Event
) -> None:
    stop, failed = asyncio.ensure_future(stopping.wait()), asyncio.ensure_future(service.failed.wait())
    while not (stop.done() or failed.done()):
        reload = asyncio.ensure_future(reloads.wait())
        await asyncio.wait({stop, failed, reload}, return_when=asyncio.FIRST_COMPLETED)
        reload.cancel()
        if reloads.is_set() and not stop.done():
            reloads.clear()
            notifier.reloading()
            await _reload(service, load)
            notifier.ready(f"{service.config.host} at {service.facts.url}")
    stop.cancel()
    failed.cancel()


async def _reload(service: FleetService, load: Load) -> None:
    """Take over changed rights and replicas; everything else needs a restart, which is logged."""
    try:
        config = await asyncio.to_thread(load)
    except ConfigInvalid as error:
        for line in problem_lines(error):
            log.error("the configuration was not taken over: %s", line)
        return
    taken = replace(service.config, allow=config.allow, replicas_at=config.replicas_at)
    if replace(config, machine_id=taken.machine_id) != taken:
        log.warning("changes other than those of [fleet.allow] and replicas_at need: systemctl restart gpumand-fleet")
    service.config = taken


async def _ping(notifier: Notifier, period_usec: int) -> None:
    """Notify systemd that the event loop is alive, until cancelled."""
    while period_usec:
        notifier.watchdog()
        await asyncio.sleep(period_usec / 1e6 / PINGS_PER_PERIOD)


def parse_arguments(arguments: Sequence[str] | None) -> Options:
    """Parse the command line and set up logging accordingly; exits the process on a wrong command line."""
    given = sys.argv[1:] if arguments is None else arguments
    # The system unit has no arguments. The modules of argparse would take 0.4 MB for as long as the process runs.
    if not given:
        setup_logging(default_level())
        return Options(None, "system")
    return _parse(given)


def _parse(arguments: Sequence[str]) -> Options:
    import argparse

    parser = argparse.ArgumentParser(
        prog="gpumand-fleet", description="Shares the consumers of several hosts: agent and router of this host."
    )
    parser.add_argument("--version", action="version", version=f"gpumand-fleet {VERSION}")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="configuration file to use instead of /etc/gpumand/fleet.toml"
    )
    parser.add_argument("--bus-address", metavar="ADDRESS", help="use the gpumand on the bus at this address")
    parser.add_argument("--check", action="store_true", help="check the configuration, print its errors, and exit")
    parser.add_argument("--log-level", default=default_level(), choices=["debug", "info", "warning", "error"])
    given = parser.parse_args(arguments)
    setup_logging(given.log_level)
    return Options(given.config, given.bus_address or "system", given.check)


def read_config(options: Options) -> FleetConfig:
    """Read the configuration. This function blocks. Raises ConfigInvalid."""
    from gpumand.fleet import config

    return replace(config.load(options.config), bus=options.bus)


def run(load: Load) -> None:
    """Serve with a configuration, and exit the process with ``CONFIG_STATUS`` if it is invalid."""
    try:
        asyncio.run(serve(load))
    except ConfigInvalid as error:
        for line in problem_lines(error):
            log.error("%s", line)
        sys.exit(CONFIG_STATUS)
    except PartFailed:
        sys.exit(FAILURE_STATUS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run gpumand-fleet."""
    options = parse_arguments(arguments)
    if options.is_check:
        try:
            read_config(options)
        except ConfigInvalid as error:
            for line in problem_lines(error):
                log.error("%s", line)
            sys.exit(CONFIG_STATUS)
        return
    run(lambda: read_config(options))
