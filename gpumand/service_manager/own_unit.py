"""Asks systemd about the unit of this process: whether it is started again after a stop, and which addresses it admits.

SIGTERM does not show whether a stop or a restart causes it. systemd knows: the job of the unit is "stop" or "restart",
and if something other than systemd sent the signal, the unit has no job.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from gpumand.bus.connection import BusConnection, BusError, BusLost
from gpumand.bus.names import PROPERTIES, SYSTEMD, SYSTEMD_MANAGER, SYSTEMD_PATH, SYSTEMD_SERVICE, SYSTEMD_UNIT
from gpumand.domain.ip_access import networks_of

log = logging.getLogger(__name__)

SYSTEMD_JOB = "org.freedesktop.systemd1.Job"
QUERY_TIMEOUT_SEC = 1.0
"""How long to wait for systemd's answers. The daemon is stopping, and other processes wait for its end."""


async def permanent_stop_reason(bus: BusConnection) -> str:
    """Return why systemd will not start the daemon again after this stop; "" if it may, or if that is unknown."""
    try:
        async with asyncio.timeout(QUERY_TIMEOUT_SEC):
            return await _OwnUnitQuery(bus).permanent_stop_reason()
    except (BusError, BusLost, TimeoutError) as error:
        log.debug("systemd did not report whether the daemon is restarted after this stop: %r", error)
        return ""


async def is_restart(bus: BusConnection) -> bool:
    """Whether systemd ends this process in order to start it again at once; False if that is unknown."""
    try:
        async with asyncio.timeout(QUERY_TIMEOUT_SEC):
            return await _OwnUnitQuery(bus).is_restart()
    except (BusError, BusLost, TimeoutError) as error:
        log.debug("systemd did not report whether this stop is a restart: %r", error)
        return False


async def ip_lists(bus: BusConnection) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The networks of IPAddressAllow= and IPAddressDeny= of the unit of this process.

    Raises:
        BusError: systemd does not answer, or this process was not started as a unit.
        BusLost: the connection is gone.
    """
    return await _OwnUnitQuery(bus).ip_lists()


class _OwnUnitQuery:
    """Queries systemd about this process's own unit. All methods raise BusError and BusLost."""

    def __init__(self, bus: BusConnection) -> None:
        self._bus = bus

    async def permanent_stop_reason(self) -> str:
        if not (path := await self._own_path()):
            return ""
        if await self._get(SYSTEMD_PATH, SYSTEMD_MANAGER, "SystemState") == "stopping":
            return "systemd is shutting down"
        return "the service is stopped, not restarted" if await self._job_type(path) == "stop" else ""

    async def is_restart(self) -> bool:
        path = await self._own_path()
        is_shutdown = await self._get(SYSTEMD_PATH, SYSTEMD_MANAGER, "SystemState") == "stopping"
        return path != "" and not is_shutdown and await self._job_type(path) == "restart"

    async def ip_lists(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if not (path := await self._own_path()):
            return (), ()
        allow = await self._get(path, SYSTEMD_SERVICE, "IPAddressAllow")
        return networks_of(allow), networks_of(await self._get(path, SYSTEMD_SERVICE, "IPAddressDeny"))

    async def _own_path(self) -> str:
        """The unit whose main process this is; "" if it was started manually by a process of another unit."""
        # A daemon that was started in a terminal is in the unit of that session, so the main pid is compared as well.
        (path,) = await self._bus.call(SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER, "GetUnitByPID", "u", (os.getpid(),))
        return str(path) if await self._get(path, SYSTEMD_SERVICE, "MainPID") == os.getpid() else ""

    async def _job_type(self, unit_path: str) -> str:
        """Return the type of a unit's job, "" if there is none, as after a kill."""
        _, job_path = await self._get(unit_path, SYSTEMD_UNIT, "Job")
        return "" if job_path == "/" else str(await self._get(job_path, SYSTEMD_JOB, "JobType"))

    async def _get(self, path: str, interface: str, name: str) -> Any:
        return (await self._bus.call(SYSTEMD, path, PROPERTIES, "Get", "ss", (interface, name)))[0]
