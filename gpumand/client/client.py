"""The asynchronous client: status, leases and manual operations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Unpack

from gpumand.client.calls import Calls
from gpumand.client.errors import InvalidArgs, translate_errors
from gpumand.client.events import Events
from gpumand.client.held_lease import Held, connect, lease
from gpumand.client.lease_options import DEFAULT_WAIT_SEC, LeaseOptions, lease_request
from gpumand.client.nesting import enclosing_leases
from gpumand.client.options import (
    acquire_options,
    checked_request,
    checked_text,
    history_options,
    selection_options,
    to_usec,
    ttl_usec,
    wait_sec,
)

if TYPE_CHECKING:
    from datetime import datetime

    from gpumand.client.values import Grant, HistoryEntry, Outcome, Plan, Status


class Client:
    """A connection to gpumand, with a method for each of its operations::

        async with Client() as client:
            for consumer in (await client.status()).consumers:
                print(consumer.name, consumer.residency)

    It belongs to the event loop in which it was entered, and survives restarts of the daemon. After BusUnavailable it
    cannot be used again: create a new one. In addition to the errors listed at a method, every method raises
    NotRunning, NoAnswer, BusUnavailable and Mismatch if gpumand cannot be reached, and AccessDenied without permission.

    Args:
        bus: "system", "session" (a user's own gpumand), or a D-Bus address.
    """

    def __init__(self, bus: str = "system") -> None:
        self._bus = bus
        self._calls: Calls | None = None
        # Serializes connect and close: a close during a connect must not leave the new connection open.
        self._connection_lock = asyncio.Lock()

    async def __aenter__(self) -> Client:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> None:
        """Connect, if not connected; ``async with`` does it. Raises BusUnavailable."""
        async with self._connection_lock:
            if self._calls is None:
                self._calls = await connect(self._bus)

    async def close(self) -> None:
        """Close the connection; may be called repeatedly. Leases held by ``lease`` have connections of their own."""
        async with self._connection_lock:
            calls, self._calls = self._calls, None
        if calls is not None:
            await calls.close()

    async def status(self) -> Status:
        """One consistent snapshot: devices, consumers, leases and waiting requests."""
        from gpumand.client.parsing import status_of

        with translate_errors():
            return status_of(await self._connected().status())

    async def version(self) -> str:
        """The daemon's version."""
        with translate_errors():
            return await self._connected().version()

    def lease(self, consumer: str = "", **options: Unpack[LeaseOptions]) -> AbstractAsyncContextManager[Held]:
        """Hold a lease for as long as a block runs: ``gpumand.client.lease`` on the same bus."""
        return lease(consumer, bus=self._bus, **options)

    async def acquire(
        self,
        consumer: str = "",
        *,
        lifetime: str = "ttl",
        ttl_sec: float | None = None,
        token: str = "",
        within: Sequence[str] = (),
        **options: Unpack[LeaseOptions],
    ) -> Grant:
        """Acquire a lease that outlives this connection and this process.

        Cancelling the call withdraws the request. If the daemon restarts meanwhile, the request is repeated.

        Args:
            consumer: name of the consumer, as configured; "" to reserve VRAM without one.
            lifetime: "ttl" (the lease ends after a time, unless renewed) or "unit" (it ends when the systemd unit that
                this process runs in stops).
            ttl_sec: time to live in seconds for "ttl"; None = as configured (900 unless changed).
            token: idempotency token: a repeated call with the same token returns the same lease; "" = a new lease each
                time.
            within: ids of leases that the caller keeps until the call returns, in addition to those of enclosing
                ``lease`` blocks. A request that waits for one of them raises WouldDeadlock.
            options: the attributes of ``LeaseOptions``. A lease given back with ``yield_lease`` gets its consumer back
                some time after this one has ended; ``status`` shows it as ``yielded`` until then.

        Raises:
            InvalidArgs: an argument is out of range, or the lifetime is "connection": use ``lease`` for that.
            GpumandError: the errors of ``gpumand.client.lease``.
        """
        from gpumand.client.parsing import grant_of

        if lifetime not in ("ttl", "unit"):
            raise InvalidArgs(
                f'lifetime must be "ttl" or "unit", not {lifetime!r}. For a lease of this connection, use client.lease.'
            )
        request = lease_request(
            consumer, lifetime, options, within=(*within, *enclosing_leases()), ttl_sec=ttl_sec, token=token
        )
        # A connection of its own: closing it withdraws the request if this call is cancelled.
        calls = await connect(self._bus)
        try:
            with translate_errors():
                return grant_of(*await calls.acquire(request.consumer, request.options, request.timeout_sec))
        finally:
            await calls.close()

    async def release(self, lease: str) -> None:
        """Release a lease by its id. Raises NoSuchLease, AccessDenied."""
        with translate_errors():
            await self._connected().release(checked_text("lease", lease))

    async def renew(self, lease: str, ttl_sec: float | None = None) -> datetime | None:
        """Extend a lease of lifetime "ttl".

        Args:
            lease: id of the lease.
            ttl_sec: new time to live in seconds, counted from now; None = the time it was granted for.

        Returns:
            When the lease ends now.

        Raises:
            NoSuchLease, InvalidArgs, AccessDenied: see their descriptions.
        """
        from gpumand.client.fields import Fields

        ttl = 0 if ttl_sec is None else ttl_usec(ttl_sec)
        with translate_errors():
            expires_usec = await self._connected().renew(checked_text("lease", lease), ttl)
        return Fields("the answer of Renew", {"expires_usec": expires_usec}).time("expires_usec")

    async def cancel(self, request: str) -> None:
        """Cancel a waiting request by its id in ``queue`` of the status; its caller gets the error ``Cancelled``.

        Raises:
            NoSuchRequest: it was granted or refused meanwhile.
            AccessDenied: another user waits, and polkit does not allow it.
        """
        with translate_errors():
            await self._connected().cancel(checked_text("request", request))

    async def plan(
        self,
        consumer: str = "",
        *,
        vram_mib: int | None = None,
        all: bool = False,
        priority: int | None = None,
        device: str = "",
    ) -> Plan:
        """What a request would do now, and why; changes nothing. Raises NoSuchConsumer, InvalidArgs.

        Without a consumer the request is for ``vram_mib``, or with ``all`` for the whole GPU.
        """
        from gpumand.client.parsing import plan_of

        consumer, reserved = checked_request(consumer, vram_mib, all)
        options = selection_options(priority, device=device) | reserved
        with translate_errors():
            return plan_of(await self._connected().plan(consumer, options))

    async def load(self, consumer: str, *, timeout_sec: float | None = DEFAULT_WAIT_SEC, device: str = "") -> Outcome:
        """Load a consumer without a lease, evicting others if needed.

        The load continues in the daemon when the timeout expires. Raises the errors of ``gpumand.client.lease``.
        """
        from gpumand.client.parsing import outcome_of

        wait = wait_sec(timeout_sec)
        options = acquire_options("", wait, device=device)
        with translate_errors():
            return outcome_of(await self._connected().load(checked_text("consumer", consumer), options, wait))

    async def evict(
        self,
        consumer: str,
        *,
        force: bool = False,
        timeout_sec: float | None = DEFAULT_WAIT_SEC,
        method: str = "",
    ) -> Outcome:
        """Evict a consumer, so that its VRAM becomes free.

        Args:
            consumer: name of the consumer.
            force: evict it although it is leased or pinned; its leases are revoked.
            timeout_sec: seconds that the eviction may take; None = a day.
            method: the only method to use, "http", "unit-stop" or "container"; "" = the configured
                methods, in their order.

        Raises:
            NoSuchConsumer, Busy, TimedOut, EvictionFailed, InvalidArgs: see their descriptions.
        """
        from gpumand.client.parsing import outcome_of

        wait = wait_sec(timeout_sec)
        options = {"timeout_usec": ("t", to_usec(wait)), "force": ("b", bool(force))} | selection_options(method=method)
        with translate_errors():
            return outcome_of(await self._connected().evict(checked_text("consumer", consumer), options, wait))

    async def pin(self, consumer: str) -> None:
        """Pin a consumer: it is not evicted to make room for others until ``unpin``. Raises NoSuchConsumer."""
        with translate_errors():
            await self._connected().pin(checked_text("consumer", consumer), True)

    async def unpin(self, consumer: str) -> None:
        """Unpin a consumer: it may be evicted again. Raises NoSuchConsumer."""
        with translate_errors():
            await self._connected().pin(checked_text("consumer", consumer), False)

    async def reload(self) -> None:
        """Reload the configuration; an invalid one changes nothing. Raises ConfigInvalid."""
        with translate_errors():
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
        """Past grants, refusals, loads, evictions and ends of leases, newest first, also from before a restart.

        Args:
            since, until: limits of the period; ``until`` itself is not included. A time without a zone is local time.
            consumer: entries of this consumer only, and evictions that made room for it; "" = all consumers.
            kinds: entries of these kinds only, see ``HistoryEntry``; empty = all kinds.
            limit: maximum number of entries, from 1 to 1000.

        Raises:
            InvalidArgs: an argument is out of range.
        """
        from gpumand.client.parsing import history_of

        options = history_options(since, until, consumer, kinds, limit)
        with translate_errors():
            return history_of(await self._connected().history(options))

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Events]:
        """Receive events as they happen::

            async with client.watch() as events:
                async for event in events:
                    print(event)

        No event between entering the block and reading is missed. A restart of the daemon is an event and does not end
        the iteration; ``history`` has the entries of the time in between.
        """
        calls = await connect(self._bus)  # a connection of its own, which ends with the block
        events = Events()
        # Ends the stream when the bus is lost; the task is cancelled when the block ends.
        lost = asyncio.ensure_future(calls.connection.wait_lost())
        lost.add_done_callback(lambda task: None if task.cancelled() else events.close(calls.connection.lost_reason))
        try:
            with translate_errors():
                await calls.listen_for_events(events.put)
            yield events
        finally:
            lost.cancel()
            await calls.close()

    def _connected(self) -> Calls:
        if self._calls is None:
            raise RuntimeError("the client is not connected. Use: async with Client() as client")
        return self._calls
