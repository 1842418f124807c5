"""Connects the gateway to gpumand over D-Bus: leases, the status, and news of the queue and of ended leases."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from gpumand.bus.connection_errors import BusError, BusLost
from gpumand.bus.names import BUS_NAME, MANAGER, PROPERTIES, ROOT_PATH
from gpumand.bus.variants import unwrap
from gpumand.client.calls import Calls
from gpumand.client.client import Client
from gpumand.client.errors import (
    BusUnavailable,
    GpumandError,
    Mismatch,
    NoAnswer,
    NotRunning,
    ShuttingDown,
    translate_errors,
)
from gpumand.client.values import Grant, Plan, Status

log = logging.getLogger(__name__)

RECONNECT_SEC = 1.0
CLEANUP_SEC = 10.0
RELEASE_PAUSE_SEC = 0.5
CLOSE_SEC = 3.0

ABSENT = (NotRunning, NoAnswer, ShuttingDown, BusUnavailable)
"""Errors that mean that gpumand is away at the moment; it keeps its leases while it restarts."""


class News(Protocol):
    """Receives what gpumand announces."""

    def set_waiting(self, count: int) -> None:
        """This many requests wait in the queue."""

    def lease_wanted(self, lease: str) -> None:
        """A request waits for this lease to end."""

    def queue_emptied(self) -> None:
        """No request waits."""

    def lease_ended(self, lease: str, reason: str) -> None:
        """A lease has ended, for whatever reason."""


class BusArbiter:
    """gpumand on a bus. It may be absent at any time; calls then wait for it or raise one of ``ABSENT``.

    Args:
        bus: "system", "session" or a D-Bus address.
        ttl_sec: time to live of leases; ``leases`` renews them.

    Attributes:
        absence: why gpumand cannot be reached; "" if it can.
    """

    def __init__(self, bus: str, ttl_sec: float) -> None:
        self.absence = ""
        self.ttl_sec = ttl_sec
        self._bus = bus
        self._client: Client | None = None
        self._connecting = asyncio.Lock()
        self._announces_wanted = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watching: asyncio.Task[None] | None = None

    def start(self, news: News) -> None:
        """Begin to report news."""
        self._watching = asyncio.ensure_future(self._watch(news))

    async def close(self) -> None:
        """Stop reporting, finish what is being cleaned up, and close the connections."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        if tasks := tuple(self._tasks):
            await asyncio.wait(tasks, timeout=CLOSE_SEC)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    async def acquire(self, consumer: str, priority: int | None, reason: str) -> Grant:
        """Acquire a lease, waiting without a limit; while gpumand is absent, wait for it. Raises GpumandError.

        Args:
            consumer: name of the consumer.
            priority: -100 to 100; None = the consumer's own.
            reason: purpose of the lease, which every user of the host may read.
        """
        # The token makes a repeated call safe: if the answer was lost, it returns the same lease.
        token, pause_sec = os.urandom(16).hex(), 0.25
        try:
            while True:
                try:
                    grant = await self._acquire(consumer, priority, reason, token, None)
                except ABSENT as error:
                    self.absence = error.message
                    await asyncio.sleep(pause_sec)
                    pause_sec = min(2 * pause_sec, 2.0)
                else:
                    self.absence = ""
                    return grant
        except asyncio.CancelledError:
            self._spawn(self._give_back(consumer, token))
            raise

    async def acquire_resident(self, consumer: str, reason: str) -> Grant:
        """Acquire a lease if that needs no wait, no load and no eviction. Raises GpumandError."""
        token = os.urandom(16).hex()
        try:
            return await self._acquire(consumer, None, reason, token, 0.0)
        except asyncio.CancelledError:
            self._spawn(self._give_back(consumer, token))
            raise

    async def _acquire(
        self, consumer: str, priority: int | None, reason: str, token: str, timeout_sec: float | None
    ) -> Grant:
        return await Client(self._bus).acquire(
            consumer,
            lifetime="ttl",
            ttl_sec=self.ttl_sec,
            timeout_sec=timeout_sec,
            priority=priority,
            reason=reason,
            token=token,
        )

    async def _give_back(self, consumer: str, token: str) -> None:
        """Release a lease that may have been granted while its request was withdrawn."""

        # The same token returns that lease. Without it, the call asks for a lease of its own and must not wait.
        async def give_back() -> None:
            grant = await self._acquire(consumer, -100, "withdrawn", token, 0.0)
            await self.release(grant.id)

        await self._until_done(give_back, "a withdrawn request")

    async def release(self, lease: str) -> None:
        """Release a lease. While gpumand is absent it is tried again, until the lease has ended by itself."""

        async def release() -> None:
            async with self._connected() as client:
                await client.release(lease)

        await self._until_done(release, f"lease {lease}")

    async def _until_done(self, work: Callable[[], Awaitable[None]], what: str) -> None:
        """Repeat a call while gpumand is absent, for as long as a lease lives."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self.ttl_sec
        while clock() < deadline:
            try:
                async with asyncio.timeout(CLEANUP_SEC):
                    return await work()
            except (*ABSENT, TimeoutError):
                # A restarted gpumand keeps its leases, so a release that was lost must be repeated.
                await asyncio.sleep(RELEASE_PAUSE_SEC)
            except GpumandError as error:
                log.debug("%s could not be released: %s", what, error.message)
                return None
        return None

    async def renew(self, lease: str) -> None:
        """Extend a lease by its time to live. Raises GpumandError."""
        async with self._connected() as client:
            await client.renew(lease, self.ttl_sec)

    async def status(self) -> Status:
        """One consistent snapshot. Raises GpumandError."""
        async with self._connected() as client:
            status = await client.status()
        self.absence = ""
        return status

    async def plan(self, consumer: str, priority: int) -> Plan:
        """What a request for a consumer would do now. Raises GpumandError."""
        async with self._connected() as client:
            return await client.plan(consumer, priority=priority)

    async def usual_load_sec(self, consumer: str) -> float | None:
        """How long a load of a consumer usually takes; None = unknown. Raises GpumandError."""
        with translate_errors():
            calls = await Calls.connect(self._bus)
            try:
                learned = (await calls.consumer(consumer)).get("Learned", {})
            finally:
                await calls.close()
        loads = learned.get("loads", []) if isinstance(learned, dict) else []
        means = [one.get("mean_usec", 0) for one in loads if isinstance(one, dict)]
        return max(means) / 1_000_000 if means else None

    # -- connections ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Client]:
        """The connection for short calls; it is replaced after it was lost."""
        async with self._connecting:
            if self._client is None:
                client = Client(self._bus)
                try:
                    await client.connect()
                except GpumandError as error:
                    self.absence = error.message
                    raise
                self._client = client
        client = self._client
        try:
            yield client
        except BusUnavailable:
            if self._client is client:
                self._client = None
            self._spawn(client.close())
            raise
        except ABSENT as error:
            self.absence = error.message
            raise

    async def _watch(self, news: News) -> None:
        """Report news, over a connection that is opened again whenever it is lost."""
        while True:
            try:
                await self._watch_once(news)
            except (BusError, BusLost, Mismatch, OSError) as error:
                log.debug("news of gpumand cannot be received: %s", error)
            await asyncio.sleep(RECONNECT_SEC)

    async def _watch_once(self, news: News) -> None:
        calls = await Calls.connect(self._bus)
        try:
            await calls.listen_for_events(lambda signal: self._on_signal(news, signal.member, list(signal.body), calls))
            changed = {"interface": PROPERTIES, "member": "PropertiesChanged", "path": ROOT_PATH}
            await calls.connection.subscribe(
                callback=lambda signal: self._on_changes(news, list(signal.body)), sender=BUS_NAME, **changed
            )
            await self._read_queue(news, calls)
            await calls.connection.wait_lost()
        finally:
            await calls.close()

    async def _read_queue(self, news: News, calls: Calls) -> None:
        """Read the length of the queue, and whether this daemon announces which lease a request waits for."""
        with contextlib.suppress(BusError):
            introspectable = "org.freedesktop.DBus.Introspectable"
            (xml,) = await calls.connection.call(BUS_NAME, ROOT_PATH, introspectable, "Introspect", "", ())
            self._announces_wanted = '"LeaseWanted"' in str(xml)
            (length,) = await calls.connection.call(
                BUS_NAME, ROOT_PATH, PROPERTIES, "Get", "ss", (MANAGER, "QueueLength")
            )
            # Requests that wait already have announced their leases before: turns count until none waits.
            if count := int(unwrap(length)):
                news.set_waiting(count)
            else:
                news.queue_emptied()

    def _on_signal(self, news: News, member: str, body: list[Any], calls: Calls) -> None:
        if member == "LeaseEnded" and len(body) == 3:
            news.lease_ended(str(body[0]), str(body[2]))
        elif member == "LeaseWanted" and len(body) == 3:
            news.lease_wanted(str(body[0]))
        elif member == "NameOwnerChanged" and len(body) == 3 and body[2]:
            self._spawn(self._read_queue(news, calls))

    def _on_changes(self, news: News, body: list[Any]) -> None:
        if len(body) == 3 and body[0] == MANAGER and isinstance(body[1], dict) and "QueueLength" in body[1]:
            self._set_queue_length(news, int(unwrap(body[1]["QueueLength"])))

    def _set_queue_length(self, news: News, length: int) -> None:
        if not length:
            news.queue_emptied()
        elif not self._announces_wanted:
            news.set_waiting(length)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("a call to gpumand failed: %s", error)
