"""Restores what ran before ``gpumanctl calibrate``: the state of the consumer, and the consumers evicted for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpumand.bus.connection import BusConnection
from gpumand.bus.connection_errors import BusError, BusLost
from gpumand.bus.names import PROPERTIES, SYSTEMD, SYSTEMD_MANAGER, SYSTEMD_PATH, SYSTEMD_UNIT
from gpumand.cli.client import Client
from gpumand.cli.commands.show import consumer_of
from gpumand.cli.durations import timeout_usec
from gpumand.cli.option_names import with_command_line_options

RUNNING = ("active", "activating", "reloading")
CALL_TIMEOUT_SEC = 5.0

IsUnitActive = Callable[[str], Awaitable[bool | None]]


async def unit_is_active(bus: BusConnection, unit: str) -> bool | None:
    """Whether a unit runs, by systemd on the daemon's bus; None without systemd or without the unit."""
    try:
        target = (SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER, "GetUnit")
        (path,) = await bus.call(*target, "s", (unit,), timeout_sec=CALL_TIMEOUT_SEC)
        wanted = (SYSTEMD_UNIT, "ActiveState")
        (state,) = await bus.call(SYSTEMD, path, PROPERTIES, "Get", "ss", wanted, timeout_sec=CALL_TIMEOUT_SEC)
    except BusError as error:
        return False if error.name.endswith(".NoSuchUnit") else None
    return state in RUNNING


async def unknown_unit(_: str) -> bool | None:
    """Stands for ``unit_is_active`` where systemd is not asked."""
    return None


@dataclass(frozen=True, slots=True)
class FormerState:
    """The state of a consumer before it was measured.

    Attributes:
        residency: its residency.
        ran: its unit was active; None when unknown, or when it has none.
    """

    residency: str
    ran: bool | None


@dataclass
class Restorer:
    """Brings a consumer and those that were evicted for it back to their former state, without evicting others.

    Attributes:
        client: a connection to the daemon.
        name: the consumer's name.
        timeout_sec: limit of each call in seconds.
        log: prints a line about the current step.
        is_unit_active: whether a unit runs; None when unknown.
    """

    client: Client
    name: str
    timeout_sec: float
    log: Callable[[str], None]
    is_unit_active: IsUnitActive = unknown_unit

    async def former_state(self, entry: Mapping[str, Any]) -> FormerState:
        """The present state of the consumer, to be restored later."""
        unit = str(entry.get("unit") or "")
        return FormerState(str(entry["residency"]), await self.is_unit_active(unit) if unit else None)

    async def restore(self, former: FormerState, evicted: Sequence[str]) -> None:
        """Restore the former state. What cannot be restored is logged with the command that does it.

        Args:
            former: the state of the consumer before.
            evicted: consumers that were evicted for it, in order.
        """
        await self._attempt(self.name, self._restore_consumer(former))
        for other in dict.fromkeys(reversed(evicted)):
            await self._attempt(other, self._load(other, "was evicted for the measurement"))

    async def _attempt(self, name: str, work: Awaitable[None]) -> None:
        try:
            await work
        except BusError as error:
            self.log(f"{name} could not be restored: {with_command_line_options(error.message)}")
        except BusLost:
            self.log(f"{name} could not be restored: the bus is gone")

    async def _restore_consumer(self, former: FormerState) -> None:
        entry = await self._entry(self.name)
        methods = tuple(entry.get("evict") or ())
        runs = await self.is_unit_active(str(entry["unit"])) if entry.get("unit") and former.ran is not None else None
        if former.residency == "resident" and not entry.get("lazy"):
            if entry["residency"] != "resident":
                await self._load(self.name, "was resident before")
        elif former.ran and (runs is False or former.residency == "parked"):
            if entry["residency"] == "parked":
                return
            await self._load(self.name, "was running before")
            if not entry.get("lazy") and "http" in methods:
                await self._evict("http")
        elif former.ran is False and runs and "unit-stop" in methods and not entry.get("leases"):
            self.log(f"stopping {entry['unit']}, which was not running before")
            await self._evict("unit-stop")
        elif former.residency == "unloaded" and _holds_model_in_container(entry):
            self.log(f"stopping the container of {self.name}, which was not running before")
            await self._evict("container")

    async def _load(self, name: str, why: str) -> None:
        """Load a consumer, or start its unit, unless that would evict others."""
        entry = await self._entry(name)
        is_there = entry["residency"] == "resident" or entry.get("leases")
        if is_there and not (entry.get("lazy") and await self.is_unit_active(str(entry.get("unit") or "")) is False):
            return
        plan = await self.client.plan(name, {})
        if plan.get("evictions") or plan.get("error"):
            self.log(f"{name} {why} and is not loaded again: there is no room. To load it: gpumanctl load {name}")
            return
        self.log(f"loading {name} again because it {why}")
        await self.client.load(name, timeout_usec(self.timeout_sec), self.timeout_sec)

    async def _evict(self, method: str) -> None:
        await self.client.evict(
            self.name, {**timeout_usec(self.timeout_sec), "method": ("s", method)}, self.timeout_sec
        )

    async def _entry(self, name: str) -> Mapping[str, Any]:
        return consumer_of(await self.client.status(), name)


def _holds_model_in_container(entry: Mapping[str, Any]) -> bool:
    """Whether a consumer without a unit is loaded as long as its container runs, and no client uses it."""
    is_contained = "container" in (entry.get("evict") or ()) and not entry.get("unit")
    return is_contained and not entry.get("lazy") and entry["residency"] == "resident" and not entry.get("leases")
