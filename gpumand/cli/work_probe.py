"""Asks whether a consumer works, for ``gpumanctl calibrate``: by the daemon's status, and by its busy route."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from gpumand.bus.connection_errors import BusError
from gpumand.bus.names import BUS_NAME, DBUS, DBUS_PATH
from gpumand.cli.client import Client
from gpumand.cli.doctor import host
from gpumand.cli.options import GlobalOptions
from gpumand.consumers.routes import HttpRoutes
from gpumand.domain.consumer import ConsumerSpec
from gpumand.host.clock import SystemClock

PAUSE_SEC = 1.0
"""Shortest time between two questions to the consumer, in seconds."""


class WorkProbe:
    """Asks one consumer whether it works.

    The daemon asks only when it needs to know. During a calibration the answer is needed all the time, so this asks the
    busy route itself, where the caller may read the configuration.
    """

    def __init__(self, spec: ConsumerSpec | None) -> None:
        self._spec = spec if spec is not None and spec.busy is not None else None
        self._routes = HttpRoutes(SystemClock())
        self._asked_at = float("-inf")
        self._works = False

    @classmethod
    async def create(cls, client: Client, name: str, options: GlobalOptions) -> WorkProbe:
        """A probe for a consumer of the running daemon.

        Args:
            client: the connection to the daemon.
            name: name of the consumer.
            options: select the daemon.
        """
        path = None
        try:
            (pid,) = await client.connection.call(DBUS, DBUS_PATH, DBUS, "GetConnectionUnixProcessID", "s", (BUS_NAME,))
            path = await asyncio.to_thread(host.daemon_config_path, int(pid))
        except (BusError, OSError):
            pass  # the daemon has just left, or the caller may not read its command line: the default path is tried
        if path is None and options.bus_address:
            return cls(None)  # the default path is that of another daemon
        settings = (await asyncio.to_thread(host.configuration, path, user=options.user)).settings
        return cls(settings.consumers.get(name) if settings else None)

    async def is_working(self, entry: Mapping[str, Any]) -> bool:
        """Whether the consumer reports work; False also where nothing can say.

        Args:
            entry: its entry in the daemon's status.
        """
        if self._spec is not None and time.monotonic() - self._asked_at >= PAUSE_SEC:
            report = await self._routes.probe_busy(self._spec)
            self._asked_at = time.monotonic()
            # A server at full load may not answer in time: the last answer stays until there is another one.
            self._works = False if report.refused else self._works if report.jobs is None else report.jobs > 0
        return bool(entry.get("busy")) if self._spec is None else self._works

    async def close(self) -> None:
        """Close the connections."""
        await self._routes.close()
