"""Our own unit: whether its stop is for good.

A process that gets SIGTERM is not told whether it is to be started again. systemd knows: the job on our unit is a
"stop" or a "restart"; and where something else sent the signal there is no job at all.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from gpumand.bus.connection import BusConnection, BusError, BusLost
from gpumand.bus.names import PROPERTIES, SYSTEMD, SYSTEMD_MANAGER, SYSTEMD_PATH, SYSTEMD_SERVICE, SYSTEMD_UNIT

log = logging.getLogger(__name__)

SYSTEMD_JOB = "org.freedesktop.systemd1.Job"
ASK_SEC = 1.0
"""We are being stopped, and others wait for that: what systemd has not said by then it does not say."""


async def why_for_good(bus: BusConnection) -> str:
    """Why systemd does not start us again after this stop, in a few words; "" where it may, or where nobody says."""
    try:
        async with asyncio.timeout(ASK_SEC):
            return await _Asking(bus).why_for_good()
    except (BusError, BusLost, TimeoutError) as error:
        log.debug("whether this stop is for good cannot be told: %r", error)
        return ""


class _Asking:
    """Questions to systemd. All of them raise BusError and BusLost."""

    def __init__(self, bus: BusConnection) -> None:
        self._bus = bus

    async def why_for_good(self) -> str:
        (path,) = await self._bus.call(SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER, "GetUnitByPID", "u", (os.getpid(),))
        if await self._get(path, SYSTEMD_SERVICE, "MainPID") != os.getpid():
            return ""  # somebody runs us by hand from within that unit
        if await self._get(SYSTEMD_PATH, SYSTEMD_MANAGER, "SystemState") == "stopping":
            return "systemd is shutting down"
        return "the service is stopped, not restarted" if await self._job_type(path) == "stop" else ""

    async def _job_type(self, unit_path: str) -> str:
        """The kind of the job on a unit, "" when there is none, as after a kill."""
        _, job_path = await self._get(unit_path, SYSTEMD_UNIT, "Job")
        return "" if job_path == "/" else str(await self._get(job_path, SYSTEMD_JOB, "JobType"))

    async def _get(self, path: str, interface: str, name: str) -> Any:
        return (await self._bus.call(SYSTEMD, path, PROPERTIES, "Get", "ss", (interface, name)))[0]
