"""Loads consumers that are at home on a device again when the device has been idle for a while."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gpumand.client.values import Consumer, Status
from gpumand.domain.request_limits import MIN_PRIORITY
from gpumand.gateway.config import GatewaySettings
from gpumand.gateway.status_view import StatusView
from gpumand.gateway.wakes import Wakes

log = logging.getLogger(__name__)

CHECK_SEC = 5.0
ABSENT = ("unloaded", "parked")
BUSY = ("loading", "unloading")


def away(status: Status, names: tuple[str, ...]) -> tuple[str, ...]:
    """The consumers at home that are not in memory, and whose device is idle.

    A device is idle if it has no lease, if no consumer is loaded to it or unloaded from it, and if no request waits.
    """
    if status.queue:
        return ()
    found = (one for one in status.consumers if one.name in names and one.residency in ABSENT)
    return tuple(one.name for one in found if _is_idle(status, one))


def _is_idle(status: Status, consumer: Consumer) -> bool:
    leased = any(_shares(one.device, consumer.device) for one in status.leases)
    return not leased and not any(
        one.residency in BUSY and _shares(one.device, consumer.device) for one in status.consumers
    )


def _shares(device: str, other: str) -> bool:
    # The device of a consumer that is not in memory may be unknown.
    return not device or not other or device == other


class HomeKeeper:
    """Watches the devices, if the configuration names consumers at home.

    Args:
        settings: returns the configuration that is in force.
        status: gpumand's status.
        wakes: loads consumers.
    """

    def __init__(self, settings: Callable[[], GatewaySettings], status: StatusView, wakes: Wakes) -> None:
        self._settings, self._status, self._wakes = settings, status, wakes
        self._since: dict[str, float] = {}
        self._clock = asyncio.get_running_loop().time
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.ensure_future(self._watch())

    async def close(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            settings = self._settings()
            if settings.home:
                await self._check(settings)
            await asyncio.sleep(min(CHECK_SEC, settings.home_after_sec))

    async def _check(self, settings: GatewaySettings) -> None:
        status = await self._status.get()
        found = away(status, settings.home) if status is not None else ()
        now = self._clock()
        self._since = {name: self._since.get(name, now) for name in found}
        for name in found:
            if now - self._since[name] >= settings.home_after_sec:
                self._load(name)

    def _load(self, name: str) -> None:
        wake = self._wakes.request(name, MIN_PRIORITY, "gateway: the device is idle")
        if wake.error:
            log.info("%s cannot be loaded for its idle device: %s", name, wake.error)
            # The next attempt comes after another idle time.
            self._since[name] = self._clock()
