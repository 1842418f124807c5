"""Everything that can be asked of gpumand; the asynchronous form."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from gpumand.client.calls import Calls
from gpumand.client.errors import InvalidArgs, translated
from gpumand.client.events import Events
from gpumand.client.held_lease import DEFAULT_WAIT_SEC, Held, connect, lease
from gpumand.client.options import (
    acquire_options,
    history_options,
    text,
    to_usec,
    ttl_usec,
    wait_sec,
    where_options,
)

if TYPE_CHECKING:
    from datetime import datetime

    from gpumand.client.values import Grant, HistoryEntry, Outcome, Plan, Status


class Client:
    """A connection to a bus, and all that gpumand can be asked over it::

        async with Client() as client:
            for consumer in (await client.status()).consumers:
                print(consumer.name, consumer.residency)

    It belongs to the event loop in which it was entered. After BusUnavailable it is of no more use: make a new one.
    A restart of the daemon does it no harm. Every method raises, beside what it says, NotRunning, NoAnswer,
    BusUnavailable and Mismatch where there is no gpumand to ask, and AccessDenied where the caller may not.

    Args:
        bus: "system", "session" (a user's own gpumand), or a D-Bus address.
    """

    def __init__(self, bus: str = "system") -> None:
        self._bus = bus
        self._calls: Calls | None = None
        self._coming_or_going = asyncio.Lock()

    async def __aenter__(self) -> Client:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> None:
        """Connect, where it is not; ``async with`` does it. Raises BusUnavailable."""
        async with self._coming_or_going:
            if self._calls is None:
                self._calls = await connect(self._bus)

    async def close(self) -> None:
        """Leave the bus; harmless when repeated. Leases that ``lease`` holds have connections of their own."""
        async with self._coming_or_going:
            calls, self._calls = self._calls, None
        if calls is not None:
            await calls.close()

    async def status(self) -> Status:
        """One snapshot of everything."""
        from gpumand.client.parsing import status_of

        with translated():
            return status_of(await self._connected().status())

    async def version(self) -> str:
        """The daemon's version."""
        with translated():
            return await self._connected().version()

    def lease(
        self,
        consumer: str,
        *,
        timeout_sec: float | None = DEFAULT_WAIT_SEC,
        priority: int | None = None,
        device: str = "",
        reason: str = "",
    ) -> AbstractAsyncContextManager[Held]:
        """A lease for as long as a block runs: ``gpumand.client.lease`` on the same bus."""
        given = {"device": device, "reason": reason, "bus": self._bus}
        return lease(consumer, timeout_sec=timeout_sec, priority=priority, **given)

    async def acquire(
        self,
        consumer: str,
        *,
        lifetime: str = "ttl",
        ttl_sec: float | None = None,
        timeout_sec: float | None = DEFAULT_WAIT_SEC,
        priority: int | None = None,
        device: str = "",
        reason: str = "",
        token: str = "",
    ) -> Grant:
        """Take a lease that outlives this connection, and this process.

        Cancelling it withdraws the request. A restart of the daemon meanwhile does no harm.

        Args:
            consumer: its name, as configured.
            lifetime: "ttl" (it ends after a time, unless renewed) or "unit" (it ends when the systemd unit that this
                process runs in stops).
            ttl_sec: for "ttl"; None = as configured (900 unless changed).
            timeout_sec: how long to wait; 0 = now or not at all, None = as long as it takes (a day at most).
            priority: -100 to 100, higher first; None = the consumer's own.
            device: index or UUID of the GPU; "" = any that fits.
            reason: what it is for; shown in the status.
            token: asking again with the same token gives the same lease; "" = a new lease each time.

        Raises:
            InvalidArgs: also for lifetime "connection", which is what ``lease`` is for.
            GpumandError: those of ``gpumand.client.lease``.
        """
        from gpumand.client.parsing import grant_of

        if lifetime not in ("ttl", "unit"):
            raise InvalidArgs(f'lifetime must be "ttl" or "unit", not {lifetime!r}; for a connection: client.lease')
        wait = wait_sec(timeout_sec)
        texts = {"device": device, "reason": reason, "token": token}
        options = acquire_options(lifetime, wait, ttl_sec=ttl_sec, priority=priority, **texts)
        asking = await connect(self._bus)  # of its own: leaving the bus is what withdraws a request
        try:
            with translated():
                return grant_of(*await asking.acquire(text("consumer", consumer), options, wait))
        finally:
            await asking.close()

    async def release(self, lease: str) -> None:
        """End a lease by its id. Raises NoSuchLease, AccessDenied."""
        with translated():
            await self._connected().release(text("lease", lease))

    async def renew(self, lease: str, ttl_sec: float | None = None) -> datetime | None:
        """Give a lease of lifetime "ttl" more time, counted from now: when it ends now.

        Args:
            lease: its id.
            ttl_sec: for how long; None = as long as it was granted for.

        Raises:
            NoSuchLease, InvalidArgs, AccessDenied: see there.
        """
        from gpumand.client.fields import Fields

        ttl = 0 if ttl_sec is None else ttl_usec(ttl_sec)
        with translated():
            expires_usec = await self._connected().renew(text("lease", lease), ttl)
        return Fields("the answer of Renew", {"expires_usec": expires_usec}).time("expires_usec")

    async def plan(self, consumer: str, *, priority: int | None = None, device: str = "") -> Plan:
        """What acquiring a consumer would do now, and why; changes nothing. Raises NoSuchConsumer."""
        from gpumand.client.parsing import plan_of

        options = where_options(priority, device=device)
        with translated():
            return plan_of(await self._connected().plan(text("consumer", consumer), options))

    async def load(self, consumer: str, *, timeout_sec: float | None = DEFAULT_WAIT_SEC, device: str = "") -> Outcome:
        """Make a consumer resident, evicting others where needed, without a lease.

        The load goes on when the time is over. Raises the errors of ``gpumand.client.lease``.
        """
        from gpumand.client.parsing import outcome_of

        wait = wait_sec(timeout_sec)
        options = acquire_options("", wait, device=device)
        with translated():
            return outcome_of(await self._connected().load(text("consumer", consumer), options, wait))

    async def evict(
        self,
        consumer: str,
        *,
        force: bool = False,
        timeout_sec: float | None = DEFAULT_WAIT_SEC,
        method: str = "",
    ) -> Outcome:
        """Take a consumer's VRAM back.

        Args:
            consumer: its name.
            force: also while leases stand on it, which are revoked then, or while it is pinned.
            timeout_sec: how long it may take; None = a day.
            method: only by this one, "http" or "unit-stop"; "" = by its methods, in their order.

        Raises:
            NoSuchConsumer, Busy, TimedOut, EvictionFailed, InvalidArgs: see there.
        """
        from gpumand.client.parsing import outcome_of

        wait = wait_sec(timeout_sec)
        options = {"timeout_usec": ("t", to_usec(wait)), "force": ("b", bool(force))} | where_options(method=method)
        with translated():
            return outcome_of(await self._connected().evict(text("consumer", consumer), options, wait))

    async def pin(self, consumer: str) -> None:
        """Keep a consumer from being evicted to make room, until ``unpin``. Raises NoSuchConsumer."""
        with translated():
            await self._connected().pin(text("consumer", consumer), True)

    async def unpin(self, consumer: str) -> None:
        """Let a consumer be evicted again. Raises NoSuchConsumer."""
        with translated():
            await self._connected().pin(text("consumer", consumer), False)

    async def reload(self) -> None:
        """Have the configuration read again; a bad one changes nothing. Raises ConfigInvalid."""
        with translated():
            await self._connected().reload()

    async def history(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        consumer: str = "",
        kinds: Iterable[str] = (),
        limit: int = 100,
    ) -> tuple[HistoryEntry, ...]:
        """What happened, newest first, also before the daemon's last restart.

        Args:
            since, until: only between these times; ``until`` itself is not included. A time without a zone is local.
            consumer: of this one only (also evictions for it); "" = of all.
            kinds: only of these kinds, see ``HistoryEntry``; empty = of all.
            limit: how many at most, from 1 to 1000.

        Raises:
            InvalidArgs: one of them cannot be meant.
        """
        from gpumand.client.parsing import history_of

        options = history_options(since, until, consumer, kinds, limit)
        with translated():
            return history_of(await self._connected().history(options))

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Events]:
        """What happens, as it happens::

            async with client.watch() as events:
                async for event in events:
                    print(event)

        Nothing is missed between entering the block and reading. A restart of the daemon is an event, not an end;
        what happened meanwhile ``history`` tells.
        """
        calls = await connect(self._bus)  # of its own: it ends with the block
        events = Events()
        lost = asyncio.ensure_future(calls.connection.wait_lost())
        lost.add_done_callback(lambda task: None if task.cancelled() else events.lose(calls.connection.lost_reason))
        try:
            with translated():
                await calls.listen_for_events(events.hear)
            yield events
        finally:
            lost.cancel()
            await calls.close()

    def _connected(self) -> Calls:
        if self._calls is None:
            raise RuntimeError("the client is not connected; use: async with Client() as client")
        return self._calls
