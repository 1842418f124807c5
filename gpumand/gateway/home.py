"""Loads consumers that are at home on a device again when the device has been idle for a while."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from gpumand.client.errors import GpumandError
from gpumand.client.values import Consumer, Plan, Status
from gpumand.domain.request_limits import MIN_PRIORITY
from gpumand.gateway.config import GatewaySettings
from gpumand.gateway.status_view import CURRENT_SEC, StatusView
from gpumand.gateway.wakes import Wakes

log = logging.getLogger(__name__)

CHECK_SEC = 5.0
ABSENT = ("unloaded", "parked")
BUSY = ("loading", "unloading")
WAIT = "wait"


class Planner(Protocol):
    """Says what a request would do."""

    async def plan(self, consumer: str, priority: int) -> Plan:
        """What a request for a consumer would do now. Raises GpumandError."""


def away(status: Status, names: tuple[str, ...]) -> tuple[str, ...]:
    """The consumers at home that are not in memory, and whose device is idle, in the order of the configuration.

    A device is idle if it has no lease, if no consumer is loaded to it or unloaded from it, and if no request waits.
    """
    if status.queue:
        return ()
    found = {one.name for one in status.consumers if one.residency in ABSENT and _is_idle(status, one)}
    return tuple(name for name in names if name in found)


def neighbours(status: Status, names: tuple[str, ...], name: str) -> tuple[str, ...]:
    """The other consumers at home that are in memory, or that may be."""
    others = (one for one in status.consumers if one.name in names and one.name != name)
    return tuple(one.name for one in others if one.residency not in ABSENT)


def leaves_in_place(plan: Plan, names: tuple[str, ...]) -> bool:
    """Whether a load by this plan evicts none of these consumers, neither now nor after a wait."""
    return plan.verdict != WAIT and not any(one.consumer in names for one in plan.evictions)


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
        planner: says which consumers a load would evict.
    """

    def __init__(
        self, settings: Callable[[], GatewaySettings], status: StatusView, wakes: Wakes, planner: Planner
    ) -> None:
        self._settings, self._status, self._wakes, self._planner = settings, status, wakes, planner
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
        # An older copy may miss the load that the last check has begun.
        status = await self._status.get(CURRENT_SEC)
        found = away(status, settings.home) if status is not None else ()
        now = self._clock()
        self._since = {name: self._since.get(name, now) for name in found}
        for name in found:
            is_due = now - self._since[name] >= settings.home_after_sec
            # One load at a time: what the next one would evict depends on where this one is loaded.
            if is_due and status is not None and await self._has_room(status, settings, name) and self._load(name):
                return

    async def _has_room(self, status: Status, settings: GatewaySettings, name: str) -> bool:
        """Whether a load leaves the other consumers at home in memory; two of them would else evict each other."""
        others = neighbours(status, settings.home, name)
        if not others:
            return True
        try:
            return leaves_in_place(await self._planner.plan(name, MIN_PRIORITY), others)
        except GpumandError as error:
            log.debug("the load of %s cannot be planned: %s", name, error.message)
            return False

    def _load(self, name: str) -> bool:
        """Begin a load, or go on with it; returns False if it has failed a moment ago."""
        wake = self._wakes.request(name, MIN_PRIORITY, "gateway: the device is idle")
        # The next attempt comes after another idle time: meanwhile the others have their turn.
        self._since[name] = self._clock()
        if wake.error:
            log.info("%s cannot be loaded for its idle device: %s", name, wake.error)
        return not wake.error
