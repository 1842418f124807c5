"""The client without ``await``: for scripts, threads and notebooks.

The connection lives in a thread with its own event loop, so it works whether or not the calling thread has a running
loop, as in Jupyter. A call blocks only the thread that makes it; one client may be used from several threads at the
same time.

After a fork (``os.fork``, or ``multiprocessing`` with the start method "fork") a child process cannot use a client or
lease of its parent: calls raise RuntimeError. The child still inherits the connection. If the parent dies without
leaving its block, the lease remains until the child has ended too. The start methods "spawn" and "forkserver", and
``subprocess``, inherit nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from gpumand.client.client import Client
from gpumand.client.held_lease import Held, LeaseInfo, hold
from gpumand.client.lease_options import DEFAULT_WAIT_SEC, LeaseOptions
from gpumand.client.lease_watch import Degraded, Ended
from gpumand.client.loop_thread import LoopThread
from gpumand.client.nesting import enclosing_leases, enter_block, leave_block
from gpumand.client.wanted import SyncWanted

if TYPE_CHECKING:
    from datetime import datetime

    from gpumand.client.events import Events
    from gpumand.client.values import Event, Grant, HistoryEntry, Outcome, Plan, Status

T = TypeVar("T")


class SyncEnded:
    """The end of a lease: like a ``threading.Event`` with a reason."""

    def __init__(self, ended: Ended, thread: LoopThread) -> None:
        """Internal: ``lease_sync`` creates it."""
        self._ended = ended
        self._thread = thread

    @property
    def reason(self) -> str:
        """Why the lease ended; "" while it is active. See ``Ended.reason``."""
        return self._ended.reason

    def is_set(self) -> bool:
        """Whether the lease has ended."""
        return self._ended.is_set()

    def wait(self, timeout_sec: float | None = None) -> str:
        """Wait until the lease has ended; returns the reason, or "" if the timeout expires first."""
        return self.reason if self.is_set() else (self._thread.run(_within(timeout_sec, self._ended.wait())) or "")


class SyncDegraded:
    """Whether the consumer of a lease is gone, although the lease is active; see ``Degraded``."""

    def __init__(self, degraded: Degraded, thread: LoopThread) -> None:
        """Internal: ``lease_sync`` creates it."""
        self._degraded = degraded
        self._thread = thread

    @property
    def reason(self) -> str:
        """What happened to the consumer, in one line; "" while it is there."""
        return self._degraded.reason

    def is_set(self) -> bool:
        """Whether the consumer is gone."""
        return self._degraded.is_set()

    def wait(self, timeout_sec: float | None = None) -> str:
        """Wait until the consumer is gone; returns what happened to it, or "" if the timeout expires first."""
        return self.reason or (self._thread.run(_within(timeout_sec, self._degraded.wait())) or "")

    def wait_restored(self, timeout_sec: float | None = None) -> bool:
        """Wait until the consumer is there; returns whether it is before the timeout expires."""
        self._thread.run(_within(timeout_sec, self._degraded.wait_restored()))
        return not self.is_set()

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Call a function, in a thread of the client, when the consumer is lost (the reason) and back ("")."""
        self._degraded.on_change(callback)


async def _within(timeout_sec: float | None, work: Coroutine[Any, Any, T]) -> T | None:
    try:
        async with asyncio.timeout(timeout_sec):
            return await work
    except TimeoutError:
        return None


class SyncHeld(LeaseInfo):
    """A lease that ``lease_sync`` holds, with the attributes of ``LeaseInfo``.

    Attributes:
        ended: whether and why the lease has ended; ``held.ended.wait()`` in a thread, or ``held.ended.is_set()``.
        degraded: whether the consumer has lost its model or its process, and what happened.
        wanted: whether requests wait for the end of the lease, and for which consumers.
    """

    def __init__(self, held: Held, thread: LoopThread) -> None:
        """Internal: ``lease_sync`` creates it."""
        super().__init__(held)
        self.ended = SyncEnded(held.ended, thread)
        self.degraded = SyncDegraded(held.degraded, thread)
        self.wanted = SyncWanted(held.wanted, thread)
        self._held = held
        self._thread = thread

    def release(self) -> None:
        """Release the lease before the block ends; may be called repeatedly, also after the block."""
        if not self.ended.is_set():
            self._thread.run(self._held.release())


@contextmanager
def lease_sync(consumer: str = "", *, bus: str = "system", **options: Unpack[LeaseOptions]) -> Iterator[SyncHeld]:
    """Make a consumer resident and hold a lease on it for as long as the block runs::

        with lease_sync("comfyui", timeout_sec=300, reason="poster") as held:
            render(held.endpoint)

    Arguments, errors and the lifetime of the lease are those of ``gpumand.client.lease``. Ctrl-C while it waits
    withdraws the request.
    """
    # Asked here and not in the client's thread: the enclosing blocks are those of the calling thread.
    within = enclosing_leases()
    leases: list[Held] = []

    async def acquire() -> None:
        leases.append(await hold(consumer, within=within, bus=bus, **options))

    with LoopThread() as thread:
        try:
            thread.run(acquire())
            enter_block(leases[0].id)
            yield SyncHeld(leases[0], thread)
        finally:
            # Empty without a grant; it is filled even if Ctrl-C interrupts run() right after the grant.
            for held in leases:
                leave_block(held.id)
                thread.run(held.release())


class SyncClient:
    """``Client`` without ``await``: the same methods, arguments, return values and errors::

        with SyncClient() as client:
            print(client.plan("comfyui").message)

    Args:
        bus: "system", "session" (a user's own gpumand), or a D-Bus address.
    """

    def __init__(self, bus: str = "system") -> None:
        self._bus = bus
        self._client = Client(bus)
        self._thread: LoopThread | None = None

    def __enter__(self) -> SyncClient:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def connect(self) -> None:
        """Connect, if not connected; ``with`` does it. Raises BusUnavailable."""
        if self._thread is not None:
            return
        thread = LoopThread()
        try:
            thread.run(self._client.connect())
        except BaseException:
            thread.close()
            raise
        self._thread = thread

    def close(self) -> None:
        """Close the connection; may be called repeatedly."""
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                thread.run(self._client.close())
            finally:
                thread.close()

    def status(self) -> Status:
        """One consistent snapshot: devices, consumers, leases and waiting requests."""
        return self._run(self._client.status())

    def version(self) -> str:
        """The daemon's version."""
        return self._run(self._client.version())

    def lease(self, consumer: str = "", **options: Unpack[LeaseOptions]) -> AbstractContextManager[SyncHeld]:
        """Hold a lease for as long as a block runs: ``lease_sync`` on the same bus."""
        return lease_sync(consumer, bus=self._bus, **options)

    def acquire(
        self,
        consumer: str = "",
        *,
        lifetime: str = "ttl",
        ttl_sec: float | None = None,
        token: str = "",
        within: Sequence[str] = (),
        **options: Unpack[LeaseOptions],
    ) -> Grant:
        """Acquire a lease that outlives this process; see ``Client.acquire``."""
        # The enclosing blocks are those of the calling thread, too.
        around = (*within, *enclosing_leases())
        work = self._client.acquire(consumer, lifetime=lifetime, ttl_sec=ttl_sec, token=token, within=around, **options)
        return self._run(work)

    def release(self, lease: str) -> None:
        """Release a lease by its id. Raises NoSuchLease, AccessDenied."""
        self._run(self._client.release(lease))

    def renew(self, lease: str, ttl_sec: float | None = None) -> datetime | None:
        """Extend a lease of lifetime "ttl"; returns when it ends now. See ``Client.renew``."""
        return self._run(self._client.renew(lease, ttl_sec))

    def cancel(self, request: str) -> None:
        """Cancel a waiting request by its id. See ``Client.cancel``."""
        self._run(self._client.cancel(request))

    def plan(
        self,
        consumer: str = "",
        *,
        vram_mib: int | None = None,
        all: bool = False,
        priority: int | None = None,
        device: str = "",
    ) -> Plan:
        """What a request would do now, and why; changes nothing. See ``Client.plan``."""
        return self._run(self._client.plan(consumer, vram_mib=vram_mib, all=all, priority=priority, device=device))

    def load(self, consumer: str, *, timeout_sec: float | None = DEFAULT_WAIT_SEC, device: str = "") -> Outcome:
        """Load a consumer without a lease; see ``Client.load``."""
        return self._run(self._client.load(consumer, timeout_sec=timeout_sec, device=device))

    def evict(
        self,
        consumer: str,
        *,
        force: bool = False,
        timeout_sec: float | None = DEFAULT_WAIT_SEC,
        method: str = "",
    ) -> Outcome:
        """Evict a consumer; see ``Client.evict``."""
        return self._run(self._client.evict(consumer, force=force, timeout_sec=timeout_sec, method=method))

    def pin(self, consumer: str) -> None:
        """Pin a consumer: it is not evicted to make room for others until ``unpin``. Raises NoSuchConsumer."""
        self._run(self._client.pin(consumer))

    def unpin(self, consumer: str) -> None:
        """Unpin a consumer: it may be evicted again. Raises NoSuchConsumer."""
        self._run(self._client.unpin(consumer))

    def reload(self) -> None:
        """Reload the configuration; an invalid one changes nothing. Raises ConfigInvalid."""
        self._run(self._client.reload())

    def history(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        consumer: str = "",
        kinds: Iterable[str] = (),
        limit: int = 100,
    ) -> tuple[HistoryEntry, ...]:
        """Past grants, refusals, loads, evictions and ends of leases, newest first; see ``Client.history``."""
        work = self._client.history(since=since, until=until, consumer=consumer, kinds=kinds, limit=limit)
        return self._run(work)

    @contextmanager
    def watch(self) -> Iterator[Iterator[Event]]:
        """Receive events as they happen; see ``Client.watch``.

        ::

            with client.watch() as events:
                for event in events:
                    print(event)

        The iteration ends with an error: LimitsExceeded if events are read too slowly, BusUnavailable or Mismatch.
        """
        watching = self._client.watch()
        events = self._run(_enter(watching))
        try:
            yield self._iterate(events)
        finally:
            self._run(_leave(watching))

    def _iterate(self, events: Events) -> Iterator[Event]:
        while True:
            yield self._run(_next(events))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._thread is None:
            work.close()  # avoids the warning that a coroutine was never awaited
            raise RuntimeError("the client is not connected. Use: with SyncClient() as client")
        return self._thread.run(work)


async def _enter(watching: AbstractAsyncContextManager[Events]) -> Events:
    return await watching.__aenter__()


async def _leave(watching: AbstractAsyncContextManager[Events]) -> None:
    await watching.__aexit__(None, None, None)


async def _next(events: Events) -> Event:
    return await events.__anext__()
