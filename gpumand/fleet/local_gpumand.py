"""The local gpumand for the agent: leases, plans, loads, and its status as it changes.

Every lease has a bus connection of its own, with the lifetime "connection". Closing it withdraws a waiting request and
ends a lease, and the bus closes all of them when this process ends, however it ends. So nothing has to be cleaned up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from gpumand.bus.connection_errors import BusLost
from gpumand.bus.names import BUS_NAME, CONSUMER, MANAGER, PROPERTIES, ROOT_PATH
from gpumand.client.calls import Calls
from gpumand.client.errors import NotRunning, translate_errors
from gpumand.client.held_lease import Held, hold
from gpumand.client.options import acquire_options, selection_options
from gpumand.domain.errors import GpumandError
from gpumand.fleet.calls import AcquireCall, LoadCall, PlanCall

log = logging.getLogger(__name__)

T = TypeVar("T")

OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"
RECONNECT_SEC = 1.0


class LocalGpumand(Protocol):
    """The operations of the local daemon that the agent uses."""

    async def acquire(self, call: AcquireCall, on_behalf: str) -> Held:
        """Acquire a lease that ends with this process at the latest. Raises GpumandError."""

    async def plan(self, call: PlanCall) -> dict[str, Any]:
        """What a request would do now, as plain values. Raises GpumandError."""

    async def load(self, call: LoadCall, on_behalf: str) -> dict[str, Any]:
        """Make a consumer resident without a lease. Raises GpumandError."""

    async def status(self) -> dict[str, Any]:
        """The answer of GetStatus as plain values. Raises GpumandError."""


class BusGpumand:
    """gpumand on a bus.

    Args:
        bus: "system", "session" or an address.
    """

    def __init__(self, bus: str) -> None:
        self._bus = bus
        self._calls: Calls | None = None
        self._connecting = asyncio.Lock()

    async def acquire(self, call: AcquireCall, on_behalf: str) -> Held:
        """See LocalGpumand."""
        return await hold(
            call.consumer,
            bus=self._bus,
            timeout_sec=call.wait_sec,
            priority=call.priority,
            device=call.device,
            reason=_reason(call.reason, on_behalf),
            restore=call.restore,
            exclusive=call.exclusive,
            on_behalf=on_behalf,
        )

    async def plan(self, call: PlanCall) -> dict[str, Any]:
        """See LocalGpumand."""
        options = selection_options(call.priority, device=call.device)
        plan: dict[str, Any] = await self._ask(lambda calls: calls.plan(call.consumer, options))
        return plan

    async def load(self, call: LoadCall, on_behalf: str) -> dict[str, Any]:
        """See LocalGpumand."""
        options = acquire_options("", call.wait_sec, device=call.device, on_behalf=on_behalf)
        outcome: dict[str, Any] = await self._ask(lambda calls: calls.load(call.consumer, options, call.wait_sec))
        return outcome

    async def unload(self, consumer: str) -> bool:
        """Unload a consumer that this host may no longer serve, if this user may and it has no lease.

        Returns whether it is unloaded. Never raises.
        """
        try:
            await self._ask(lambda calls: calls.evict(consumer, {"timeout_usec": ("t", 20_000_000)}, 20.0))
        except GpumandError as error:
            log.warning("%s stays loaded on this host: %s", consumer, error.message)
            return False
        return True

    async def status(self) -> dict[str, Any]:
        """See LocalGpumand."""
        status: dict[str, Any] = await self._ask(lambda calls: calls.status())
        return status

    async def learned(self) -> dict[str, dict[str, Any]]:
        """The property ``Learned`` of each consumer, by name. Raises GpumandError."""

        async def objects(calls: Calls) -> Any:
            (found,) = await calls.connection.call(BUS_NAME, ROOT_PATH, OBJECT_MANAGER, "GetManagedObjects")
            return found

        return _learned(await self._ask(objects))

    async def watch(self, changed: Callable[[], None]) -> None:
        """Call back whenever the status may have changed, over a connection that is opened again when it is lost."""
        while True:
            try:
                await self._watch_once(changed)
            except GpumandError as error:
                log.debug("changes of gpumand cannot be received: %s", error)
            await asyncio.sleep(RECONNECT_SEC)
            changed()

    async def close(self) -> None:
        """Close the connection for short calls; leases have connections of their own."""
        if self._calls is not None:
            await self._calls.close()

    async def _watch_once(self, changed: Callable[[], None]) -> None:
        with translate_errors():
            calls = await Calls.connect(self._bus)
            try:
                await calls.listen_for_events(lambda _: changed())
                # Readings of devices change without end. Those are read with the periodic status.
                for interface in (CONSUMER, MANAGER):
                    await calls.connection.subscribe(
                        callback=lambda signal: changed() if _is_news(list(signal.body)) else None,
                        sender=BUS_NAME,
                        interface=PROPERTIES,
                        member="PropertiesChanged",
                        path_namespace=ROOT_PATH,
                        arg0=interface,
                    )
                changed()
                await calls.connection.wait_lost()
            finally:
                await calls.close()

    async def _ask(self, question: Callable[[Calls], Awaitable[T]]) -> Any:
        from gpumand.bus.variants import unwrap

        with translate_errors():
            calls = await self._connected()
            try:
                # A call would start a daemon that an administrator has stopped.
                if not await calls.is_running():
                    raise NotRunning("gpumand is not running on this host. Start it: systemctl start gpumand.service")
                return unwrap(await question(calls))
            except BusLost:
                if self._calls is calls:
                    self._calls = None
                await calls.close()
                raise

    async def _connected(self) -> Calls:
        async with self._connecting:
            if self._calls is None:
                self._calls = await Calls.connect(self._bus)
            return self._calls


NEWS = frozenset({"Residency", "Leases", "Pinned", "QueueLength", "Degraded", "Error"})
"""Properties that a row contains."""


def _is_news(body: list[Any]) -> bool:
    return len(body) == 3 and isinstance(body[1], dict) and not NEWS.isdisjoint({*body[1], *body[2]})


def _learned(objects: Any) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for interfaces in objects.values() if isinstance(objects, dict) else ():
        properties = interfaces.get(CONSUMER) if isinstance(interfaces, dict) else None
        if isinstance(properties, dict) and isinstance(properties.get("Learned"), dict):
            found[str(properties.get("Name", ""))] = properties["Learned"]
    return found


def _reason(reason: str, on_behalf: str) -> str:
    """The reason of a lease, with the user and host that it is for: the owner of all of them is this agent."""
    if not on_behalf:
        return reason
    return f"{reason} (for {on_behalf})" if reason else f"for {on_behalf}"
