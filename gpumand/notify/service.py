"""The process ``gpumand-notify``: asks gpumand for news, and runs the hooks for them, until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gpumand.bus.connection_errors import BusError, BusLost
from gpumand.client.calls import Calls
from gpumand.config.problems import problem_lines
from gpumand.domain.errors import ConfigInvalid, GpumandError
from gpumand.log.logging_setup import default_level, setup_logging
from gpumand.notify import config
from gpumand.notify.config import Hook
from gpumand.notify.delivery import deliver
from gpumand.notify.notices import HISTORY_KINDS, Notice, Watcher
from gpumand.notify.rate import RateLimit
from gpumand.version import VERSION

log = logging.getLogger(__name__)

CONFIG_STATUS = 78
POLL_SEC = 5.0
MAX_ENTRIES = 200


class Notifier:
    """Looks for news and delivers them. Create it inside a running event loop.

    Args:
        hooks: from the configuration.
        bus: "system", "session" or an address.
        poll_sec: seconds between two looks.
    """

    def __init__(self, hooks: Iterable[Hook], bus: str, poll_sec: float = POLL_SEC) -> None:
        self._hooks = {one.name: one for one in hooks}
        self._limits = {one.name: RateLimit(one.min_interval_sec, one.max_per_hour) for one in self._hooks.values()}
        self._running: dict[str, asyncio.Task[bool]] = {}
        self._bus = bus
        self._poll_sec = poll_sec
        self._client: Calls | None = None
        self._watcher = Watcher(time.time_ns() // 1000)
        self._has_failed = False

    async def run(self) -> None:
        """Look and deliver until this is cancelled."""
        try:
            while True:
                await self._look_or_say_why_not()
                self._deliver()
                await asyncio.sleep(self._poll_sec)
        finally:
            await self._close()

    async def _look_or_say_why_not(self) -> None:
        """Look for news. A failure is logged once, until it works again: hooks must not be silent without a reason."""
        try:
            await self._look()
        except (BusError, BusLost, GpumandError) as error:
            log.log(logging.DEBUG if self._has_failed else logging.WARNING, "gpumand cannot be asked now: %s", error)
            self._has_failed = True
            await self._disconnect()
        else:
            if self._has_failed:
                log.info("gpumand can be asked again")
            self._has_failed = False

    async def _look(self) -> None:
        """Ask gpumand for news, if it runs: a call would start it."""
        self._client = self._client or await Calls.connect(self._bus)
        if not await self._client.is_running():
            return
        entries = await self._client.history(
            {
                "since_usec": ("t", self._watcher.since_usec),
                "kinds": ("as", [str(one) for one in HISTORY_KINDS]),
                "limit": ("u", MAX_ENTRIES),
            }
        )
        status = await self._client.status()
        self._add([*self._watcher.events(entries), *self._watcher.degraded(status.get("degraded"))])
        self._add_waits(status["queue"])

    def _add(self, notices: Sequence[Notice]) -> None:
        for name, hook in self._hooks.items():
            self._limits[name].add(one for one in notices if one.kind in hook.events)

    def _add_waits(self, queue: Iterable[dict[str, Any]]) -> None:
        now_usec, queue = time.time_ns() // 1000, list(queue)
        found = {
            sec: self._watcher.waits(queue, now_usec, sec) for sec in {one.wait_sec for one in self._hooks.values()}
        }
        for name, hook in self._hooks.items():
            self._limits[name].add(one for one in found[hook.wait_sec] if one.kind in hook.events)

    def _deliver(self) -> None:
        """Start the deliveries that are due; one at a time for each hook, and none waits for that of another hook."""
        for name, hook in self._hooks.items():
            if name in self._running and not self._running[name].done():
                continue
            delivery = self._limits[name].due(time.monotonic())
            if delivery is not None:
                self._running[name] = asyncio.create_task(deliver(hook, delivery))

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _close(self) -> None:
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        await self._disconnect()


async def _serve(hooks: tuple[Hook, ...], bus: str) -> None:
    running = asyncio.create_task(Notifier(hooks, bus).run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    log.info("gpumand-notify %s runs; hooks: %s", VERSION, ", ".join(one.name for one in hooks) or "none")
    await asyncio.gather(running, return_exceptions=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the process and return its exit status: 78 for an invalid configuration, else 0."""
    parser = argparse.ArgumentParser(
        "gpumand-notify", description="Runs commands and calls webhooks at events of gpumand."
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"configuration; default: {config.DEFAULT_FILE}")
    parser.add_argument("--bus", default="system", metavar="BUS", help="system, session or an address; default: system")
    parser.add_argument("--check", action="store_true", help="check the configuration and exit")
    parser.add_argument("--version", action="version", version=f"gpumand-notify {VERSION}")
    options = parser.parse_args(argv)
    try:
        hooks = config.load(options.config)
    except ConfigInvalid as error:
        print("\n".join(problem_lines(error)), file=sys.stderr)
        return CONFIG_STATUS
    if not options.check:
        setup_logging(default_level())
        asyncio.run(_serve(hooks, options.bus))
    return 0
