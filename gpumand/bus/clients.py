"""The registry of callers: who a unique name is, and whether it is still there.

Everything said of a caller comes from the bus and from systemd, never from the caller. The pid is that of the process
at the time of connecting; a process that passes its connection on and dies could have its pid taken over, which is
why a unit so found opens nothing but Acquire of that unit's own consumer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from gpumand.bus.client_presence import ClientPresence
from gpumand.bus.connection import BusConnection, BusError
from gpumand.bus.names import DBUS, DBUS_PATH
from gpumand.domain.consumer import UnitActivity
from gpumand.domain.errors import AccessDenied, HostError, InvalidArgs
from gpumand.domain.lease import Lease, LeaseLifetime, Owner
from gpumand.ports import UnitFailed, UnitManager

MAX_KNOWN = 4096
PATIENCE_SEC = 1.0
"""How long a caller that needs no unit to be allowed waits for systemd, once, to have it named all the same."""

UNIT_TIMEOUT_SEC = 5.0
"""How long systemd is waited for where the answer decides."""

RETRY_UNIT_SEC = 10.0
"""A pid whose unit could not be told is asked about again after this long."""

log = logging.getLogger(__name__)

Vanished = Callable[[str], Awaitable[None]]


@dataclass(slots=True)
class _Known:
    """What is known of one unique name, which is never given to anybody else on this bus.

    Attributes:
        owner: as the bus describes it, with the unit as soon as it is known.
        lookup: the question for its unit, under way or done; None = not asked yet.
        asked_at: when that began (the loop's clock).
    """

    owner: Owner
    lookup: asyncio.Task[str] | None = field(default=None)
    asked_at: float = 0.0


class Clients:
    """Knows callers, and implements the port ``Owners``.

    Args:
        connection: to the bus the callers are on.
        units: to tell in which unit a process runs.
        trusted_uids: callers who need no unit to be allowed anything, and do not wait long for it.
    """

    def __init__(self, connection: BusConnection, units: UnitManager, trusted_uids: frozenset[int]) -> None:
        self._connection = connection
        self._units = units
        self._trusted_uids = trusted_uids
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._presence = ClientPresence(connection, self._on_vanished)
        self._listener: Vanished | None = None
        self._vanished_early: list[str] = []
        self._telling: set[asyncio.Task[None]] = set()

    @property
    def watched(self) -> frozenset[str]:
        """Unique names whose leaving would be noticed."""
        return self._presence.watched

    def listen(self, vanished: Vanished) -> None:
        """Have watched names that left the bus told to ``vanished``, also those that left before this call."""
        self._listener = vanished
        for name in self._vanished_early:
            self._tell(name)
        self._vanished_early.clear()

    async def watch(self, bus_name: str) -> bool:
        """Watch a name, then say whether it is there (see ``gpumand.ports.Owners``).

        Raises:
            HostError: the bus does not let it be watched.
        """
        try:
            return await self._presence.watch(bus_name)
        except BusError as error:
            raise HostError(f"the bus does not let {bus_name} be watched: {error.message}") from error

    def start_forgetting(self) -> None:
        """Every lease that stands was told by ``lease_granted``: names that nobody needs may be forgotten from now."""
        self._presence.forgetting = True

    @contextmanager
    def attending(self, sender: str) -> Iterator[None]:
        """Keep the watch of a caller for as long as its call is under way."""
        self._presence.need(sender)
        try:
            yield
        finally:
            self._presence.done_with(sender)

    def lease_granted(self, lease: Lease) -> None:
        """Keep the watch of a lease's owner where its leaving ends the lease."""
        if lease.lifetime is LeaseLifetime.CONNECTION:
            self._presence.need(lease.owner.bus_name)

    def lease_ended(self, lease: Lease) -> None:
        """Undo ``lease_granted``."""
        if lease.lifetime is LeaseLifetime.CONNECTION:
            self._presence.done_with(lease.owner.bus_name)

    async def identify(self, sender: str) -> Owner:
        """The caller as the bus describes it; its unit only where it is known already.

        Raises:
            AccessDenied: the bus does not say who it is, or no longer.
        """
        return (await self._get(sender)).owner

    def start_unit_lookup(self, owner: Owner) -> None:
        """Ask for a caller's unit without waiting: to have it named in the status by the time of the grant."""
        known = self._known.get(owner.bus_name)
        if known is not None:
            self._look_up(known)

    async def with_unit(self, sender: str) -> Owner:
        """The caller with its unit, "" where systemd does not say in time.

        Raises:
            AccessDenied: the bus does not say who it is.
        """
        known = await self._get(sender)
        lookup = self._look_up(known)
        patience = PATIENCE_SEC if known.owner.uid in self._trusted_uids else UNIT_TIMEOUT_SEC
        left = known.asked_at + patience - asyncio.get_running_loop().time()
        if not lookup.done():
            await asyncio.wait({lookup}, timeout=max(0.0, left))
        return known.owner

    async def with_running_unit(self, sender: str) -> Owner:
        """The caller with its unit and that unit's invocation, asked for now: for leases that end with the unit.

        Raises:
            AccessDenied: the bus does not say who it is.
            InvalidArgs: it runs in no unit, or in one that is stopping.
            HostError: systemd cannot be asked.
        """
        known = await self._get(sender)
        try:
            async with asyncio.timeout(UNIT_TIMEOUT_SEC):
                return await self._running_unit(known.owner)
        except TimeoutError:
            raise HostError(
                f"systemd did not say within {UNIT_TIMEOUT_SEC:g} s which unit the caller runs in"
            ) from None
        except UnitFailed as error:
            raise HostError(f"systemd did not say how the caller's unit is: {error}") from error

    async def close(self) -> None:
        """End what is under way."""
        lookups = [known.lookup for known in self._known.values() if known.lookup is not None]
        tasks = [*lookups, *self._telling]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._presence.close()

    async def _running_unit(self, owner: Owner) -> Owner:
        unit = await self._units.unit_of_pid(owner.pid) if owner.pid else ""
        if not unit:
            raise InvalidArgs("lifetime 'unit' needs a caller that runs in a systemd unit")
        state = await self._units.state(unit)
        if state.activity not in (UnitActivity.ACTIVE, UnitActivity.ACTIVATING):
            raise InvalidArgs(f"lifetime 'unit' needs a running unit, and {unit} is {state.activity.value}")
        return replace(owner, unit=unit, invocation_id=state.invocation_id)

    async def _get(self, sender: str) -> _Known:
        known = self._known.get(sender)
        if known is None:
            known = self._known.setdefault(sender, _Known(await self._ask_bus(sender)))
            self._drop_oldest()
        self._known.move_to_end(sender)
        return known

    async def _ask_bus(self, sender: str) -> Owner:
        try:
            (answer,) = await self._connection.call(DBUS, DBUS_PATH, DBUS, "GetConnectionCredentials", "s", (sender,))
        except BusError as error:
            raise AccessDenied(f"the bus does not say who {sender} is: {error.message}") from error
        if "UnixUserID" not in answer:
            raise AccessDenied("the bus does not know the caller's user")
        return Owner(sender, int(answer["UnixUserID"]), int(answer.get("ProcessID", 0)))

    def _drop_oldest(self) -> None:
        while len(self._known) > MAX_KNOWN:
            _, oldest = self._known.popitem(last=False)
            if oldest.lookup is not None:
                oldest.lookup.cancel()

    def _look_up(self, known: _Known) -> asyncio.Task[str]:
        """The question for a caller's unit: asked once, and again only where there was no answer."""
        now = asyncio.get_running_loop().time()
        lookup = known.lookup
        unanswered = lookup is None or (lookup.done() and not known.owner.unit)
        if lookup is None or (unanswered and now >= known.asked_at + RETRY_UNIT_SEC):
            lookup = known.lookup = asyncio.get_running_loop().create_task(self._ask_systemd(known))
            known.asked_at = now
        return lookup

    async def _ask_systemd(self, known: _Known) -> str:
        unit = await self._units.unit_of_pid(known.owner.pid) if known.owner.pid else ""
        known.owner = replace(known.owner, unit=unit)
        return unit

    def _on_vanished(self, name: str) -> None:
        self._connection.cancel_calls_of(name)
        known = self._known.pop(name, None)
        if known is not None and known.lookup is not None:
            known.lookup.cancel()
        if self._listener is None:
            self._vanished_early.append(name)
        else:
            self._tell(name)

    def _tell(self, name: str) -> None:
        assert self._listener is not None
        task = asyncio.ensure_future(_logged(self._listener(name), name))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)


async def _logged(telling: Awaitable[None], name: str) -> None:
    try:
        await telling
    except Exception:
        log.exception("what %s left behind could not be cleaned up", name)
