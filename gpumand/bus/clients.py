"""The registry of D-Bus clients: user, process and unit of each caller, and whether it is still connected.

Everything known about a caller comes from the bus and from systemd, never from the caller itself. The pid is that of
the process that opened the connection. If that process hands its connection to another one and exits, its pid may be
reused by an unrelated process. For that reason a unit found by pid permits nothing but Acquire of that unit's own
consumer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from gpumand.bus.client_presence import ClientPresence
from gpumand.bus.connection import BusConnection, BusError
from gpumand.bus.names import DBUS, DBUS_PATH
from gpumand.domain.consumer import UnitActivity
from gpumand.domain.errors import AccessDenied, HostError, InvalidArgs
from gpumand.domain.lease import Lease, LeaseLifetime, Owner
from gpumand.ports import UnitFailed, UnitManager

MAX_KNOWN_CLIENTS = 4096
GRACE_SEC = 1.0
"""How long a trusted caller, which is allowed without its unit, waits for systemd so that the status names the unit."""

UNIT_TIMEOUT_SEC = 5.0
"""How long a caller waits for systemd when its unit decides whether it is allowed."""

RETRY_UNIT_SEC = 10.0
"""How long to wait before asking systemd again about a pid whose unit it did not report."""

log = logging.getLogger(__name__)

VanishedCallback = Callable[[str], Awaitable[None]]


class OwnerNaming(Protocol):
    """Finds the names of a client's user and program, which are for people only."""

    def known(self, owner: Owner) -> Owner:
        """Return a connected client with the names that are known without waiting."""

    async def look_up(self, owner: Owner, since_usec: int) -> Owner:
        """Return a client whose process was running at ``since_usec``, with all names that can be found."""


@dataclass(slots=True)
class _KnownClient:
    """What is known about one unique name. The bus never assigns a unique name twice, so the entry stays valid.

    Attributes:
        owner: the client as the bus describes it; its unit is filled in once it is known.
        lookup: the request for its unit, running or done; None = not started.
        lookup_started_at: when the lookup started, in seconds of the event loop's clock.
        naming: the search for the name of its user, where that was not known at once.
    """

    owner: Owner
    lookup: asyncio.Task[str] | None = field(default=None)
    lookup_started_at: float = 0.0
    naming: asyncio.Task[None] | None = field(default=None)

    def cancel(self) -> None:
        """Cancel what is running for it."""
        for task in (self.lookup, self.naming):
            if task is not None:
                task.cancel()


class KeptWatch:
    """Keeps watching a client within a ``with`` block. A class, since a generator would cost several times as much."""

    __slots__ = ("_presence", "_sender")

    def __init__(self, presence: ClientPresence, sender: str) -> None:
        self._presence, self._sender = presence, sender

    def __enter__(self) -> None:
        self._presence.retain_watch(self._sender)

    def __exit__(self, *exception: object) -> None:
        self._presence.release_watch(self._sender)


class Clients:
    """Identifies D-Bus clients and reports clients that leave the bus; implements the port ``OwnerPresence``.

    Args:
        connection: the connection to the bus that the clients are on.
        units: reports the unit of a process.
        trusted_uids: user ids that are allowed everything without their unit, so they do not wait long for it.
        names: finds the names of users and programs; None = they stay unknown.
    """

    def __init__(
        self,
        connection: BusConnection,
        units: UnitManager,
        trusted_uids: frozenset[int],
        names: OwnerNaming | None = None,
    ) -> None:
        self._connection = connection
        self._units = units
        self._trusted_uids = trusted_uids
        self._names = names
        self._known: OrderedDict[str, _KnownClient] = OrderedDict()
        self._presence = ClientPresence(connection, self._on_vanished)
        self._listener: VanishedCallback | None = None
        self._vanished_early: list[str] = []
        self._notifying: set[asyncio.Task[None]] = set()

    @property
    def watched(self) -> frozenset[str]:
        """Unique names that are being watched."""
        return self._presence.watched

    def listen(self, vanished: VanishedCallback) -> None:
        """Call ``vanished`` for every watched name that leaves the bus, also for those that left before this call."""
        # Names may have been watched, and may have left, before this call. Their departures are reported now.
        self._listener = vanished
        for name in self._vanished_early:
            self._notify(name)
        self._vanished_early.clear()

    async def watch(self, bus_name: str) -> bool:
        """Watch a name, then report whether it is on the bus (see ``gpumand.ports.Owners``).

        Raises:
            HostError: the bus refuses the watch.
        """
        try:
            return await self._presence.watch(bus_name)
        except BusError as error:
            raise HostError(f"cannot watch {bus_name} on the bus: {error.message}") from error

    def allow_forgetting(self) -> None:
        """Allow unused names to be forgotten; call it once ``lease_granted`` was called for every active lease."""
        self._presence.may_forget = True

    def keep_watched(self, sender: str) -> KeptWatch:
        """Keep watching a caller while its call is being served; returns a context manager."""
        return KeptWatch(self._presence, sender)

    def retained(self, sender: str) -> Callable[[], None]:
        """Keep watching a caller; the result is the function that ends it, which has an effect once."""
        self._presence.retain_watch(sender)
        is_retained = True

        def release() -> None:
            nonlocal is_retained
            if is_retained:
                is_retained = False
                self._presence.release_watch(sender)

        return release

    def lease_granted(self, lease: Lease) -> None:
        """Keep watching the owner of a connection lease, since its leaving ends the lease."""
        if lease.lifetime is LeaseLifetime.CONNECTION:
            self._presence.retain_watch(lease.owner.bus_name)

    def lease_ended(self, lease: Lease) -> None:
        """Undo ``lease_granted``."""
        if lease.lifetime is LeaseLifetime.CONNECTION:
            self._presence.release_watch(lease.owner.bus_name)

    async def identify(self, sender: str) -> Owner:
        """Return the caller as the bus describes it, with its unit only if that is known already.

        Raises:
            AccessDenied: the bus does not report the caller's user, for instance because the caller has left.
        """
        return (await self._get(sender)).owner

    def start_unit_lookup(self, owner: Owner) -> None:
        """Request a caller's unit from systemd without waiting, so that the status can name it after the grant."""
        known = self._known.get(owner.bus_name)
        if known is not None:
            self._start_lookup(known)

    async def identify_with_unit(self, sender: str, *, decides: bool = True) -> Owner:
        """Return the caller with its unit, "" if systemd does not report one in time.

        Args:
            sender: unique bus name of the caller.
            decides: whether the unit decides what the caller may do; if it only names the holder of a lease, a systemd
                that does not answer delays the caller by a second at most.

        Raises:
            AccessDenied: the bus does not report the caller's user.
        """
        known = await self._get(sender)
        lookup = self._start_lookup(known)
        patience = UNIT_TIMEOUT_SEC if decides and known.owner.uid not in self._trusted_uids else GRACE_SEC
        remaining_sec = known.lookup_started_at + patience - asyncio.get_running_loop().time()
        if not lookup.done():
            # wait() neither cancels the lookup on timeout nor raises: other calls of this client share it.
            await asyncio.wait({lookup}, timeout=max(0.0, remaining_sec))
        return known.owner

    async def identify_with_running_unit(self, sender: str) -> Owner:
        """Return the caller with its unit and that unit's current invocation, for leases that end with the unit.

        Systemd is asked on every call: an invocation id read earlier may belong to a former run of the unit.

        Raises:
            AccessDenied: the bus does not report the caller's user.
            InvalidArgs: the caller runs in no unit, or in a unit that is not running.
            HostError: systemd does not answer.
        """
        known = await self._get(sender)
        try:
            async with asyncio.timeout(UNIT_TIMEOUT_SEC):
                return await self._running_unit(known.owner)
        except TimeoutError:
            raise HostError(f"systemd did not report the caller's unit within {UNIT_TIMEOUT_SEC:g} s") from None
        except UnitFailed as error:
            raise HostError(f"cannot read the state of the caller's unit: {error}") from error

    async def refreshed(self, owner: Owner) -> Owner:
        """Return a caller with the unit and the names that have been found since it was identified.

        Raises:
            AccessDenied: the caller has left.
        """
        now = await self.identify(owner.bus_name)
        if (owner.unit or now.unit, now.user, now.program) == (owner.unit, owner.user, owner.program):
            return owner  # nearly always
        return replace(owner, unit=owner.unit or now.unit, user=now.user, program=now.program)

    async def named(self, owner: Owner, since_usec: int) -> Owner:
        """Return an owner with the names of its user and program (see ``gpumand.ports.OwnerPresence``)."""
        return owner if self._names is None else await self._names.look_up(owner, since_usec)

    async def close(self) -> None:
        """Cancel running lookups and notifications, and stop watching."""
        running = [task for known in self._known.values() for task in (known.lookup, known.naming) if task is not None]
        tasks = [*running, *self._notifying]
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
            raise InvalidArgs(f"lifetime 'unit' needs a running unit: {unit} is {state.activity.value}")
        return replace(owner, unit=unit, invocation_id=state.invocation_id)

    async def _get(self, sender: str) -> _KnownClient:
        known = self._known.get(sender)
        if known is None:
            # setdefault: another call of the same client may have added the entry while the bus answered.
            known = self._known.setdefault(sender, _KnownClient(await self._fetch_owner(sender)))
            self._start_naming(known)
            self._drop_oldest()
        self._known.move_to_end(sender)
        return known

    async def _fetch_owner(self, sender: str) -> Owner:
        try:
            (answer,) = await self._connection.call(DBUS, DBUS_PATH, DBUS, "GetConnectionCredentials", "s", (sender,))
        except BusError as error:
            raise AccessDenied(f"cannot identify the caller {sender}: {error.message}") from error
        if "UnixUserID" not in answer:
            raise AccessDenied(f"cannot identify the caller {sender}: the bus does not report its user")
        # D-Bus does not guarantee that the bus reports the pid.
        return Owner(sender, int(answer["UnixUserID"]), int(answer.get("ProcessID", 0)))

    def _drop_oldest(self) -> None:
        # The cap bounds memory on a bus where clients connect and leave all the time. A dropped client that calls again
        # is looked up again.
        while len(self._known) > MAX_KNOWN_CLIENTS:
            _, oldest = self._known.popitem(last=False)
            oldest.cancel()

    def _start_naming(self, known: _KnownClient) -> None:
        """Add the names to a client: at once where they are known, else in the background."""
        if self._names is None or known.owner.user or known.naming is not None:
            return
        known.owner = self._names.known(known.owner)
        if not known.owner.user:
            known.naming = asyncio.get_running_loop().create_task(self._fetch_names(known, self._names))

    async def _fetch_names(self, known: _KnownClient, names: OwnerNaming) -> None:
        named = await names.look_up(known.owner, time.time_ns() // 1000)
        known.owner = replace(known.owner, user=named.user)

    def _start_lookup(self, known: _KnownClient) -> asyncio.Task[str]:
        """Return the lookup of a caller's unit: started once, and repeated only if it had no result."""
        lookup = known.lookup
        if lookup is not None and (known.owner.unit or not lookup.done()):
            return lookup
        loop = asyncio.get_running_loop()
        if lookup is None or loop.time() >= known.lookup_started_at + RETRY_UNIT_SEC:
            lookup = known.lookup = loop.create_task(self._fetch_unit(known))
            known.lookup_started_at = loop.time()
        return lookup

    async def _fetch_unit(self, known: _KnownClient) -> str:
        unit = await self._units.unit_of_pid(known.owner.pid) if known.owner.pid else ""
        known.owner = replace(known.owner, unit=unit)
        return unit

    def _on_vanished(self, name: str) -> None:
        # Calls first: a waiting Acquire must not be granted to a client that has left.
        self._connection.cancel_calls_of(name)
        known = self._known.pop(name, None)
        if known is not None:
            known.cancel()
        if self._listener is None:
            self._vanished_early.append(name)
        else:
            self._notify(name)

    def _notify(self, name: str) -> None:
        assert self._listener is not None
        # The set keeps a reference to the running task, since asyncio itself holds none.
        task = asyncio.ensure_future(_notify_logged(self._listener(name), name))
        self._notifying.add(task)
        task.add_done_callback(self._notifying.discard)


async def _notify_logged(notification: Awaitable[None], name: str) -> None:
    try:
        await notification
    except Exception:
        log.exception("cleanup after client %s left the bus failed", name)
