"""A lease that is held for as long as a block of code runs; the asynchronous form."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Unpack

from gpumand.bus.connection_errors import BusError, BusLost
from gpumand.client.calls import Calls
from gpumand.client.errors import translate_errors
from gpumand.client.lease_options import LeaseOptions, LeaseRequest, lease_request
from gpumand.client.lease_watch import RELEASED, Degraded, Ended, LeaseWatch
from gpumand.client.nesting import enclosing_leases, enter_block, leave_block, wait_returned
from gpumand.client.wanted import Wanted

if TYPE_CHECKING:
    from datetime import datetime

    from gpumand.client.values import Grant

RELEASE_SEC = 5.0
"""Time limit of a release, in seconds; closing the connection ends the lease anyway."""


async def connect(bus: str) -> Calls:
    """Open a new connection to "system", "session" or a D-Bus address. Raises BusUnavailable."""
    with translate_errors():
        return await Calls.connect(bus)


class LeaseInfo:
    """The properties of a granted lease.

    Attributes:
        id: id of the lease.
        consumer: name of the leased consumer; "" for a reservation.
        device: index of the GPU as text; "" if unknown.
        endpoint: the consumer's URL; "" if none is configured.
        evicted: names of the consumers that were evicted for it, in order.
        loaded: whether the consumer was loaded for it; False if it was already resident.
        waited_sec: seconds from the call to the grant.
        expires_at: when the lease expires; None = never.
        vram_mib: MiB that are reserved on each device; None for a lease on a consumer, and with ``all``.
        all: whether the whole GPU is reserved.
    """

    def __init__(self, grant: Grant | LeaseInfo) -> None:
        """Internal: the clients create it."""
        self.id: str = grant.id
        self.consumer: str = grant.consumer
        self.device: str = grant.device
        self.endpoint: str = grant.endpoint
        self.evicted: tuple[str, ...] = grant.evicted
        self.loaded: bool = grant.loaded
        self.waited_sec: float = grant.waited_sec
        self.expires_at: datetime | None = grant.expires_at
        self.vram_mib: int | None = grant.vram_mib
        self.all: bool = grant.all

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} on {self.consumer or 'reserved VRAM'}>"


class Held(LeaseInfo):
    """A lease that ``lease`` holds, with the attributes of ``LeaseInfo``.

    Attributes:
        ended: whether and why the lease has ended; ``await held.ended.wait()``.
        degraded: whether the consumer has lost its model or its process, and what happened;
            ``await held.degraded.wait()``, ``await held.degraded.wait_restored()`` or ``held.degraded.on_change``.
        wanted: whether requests wait for the end of the lease, and for which consumers; ``await held.wanted.wait()`` or
            ``held.wanted.on_request``.
    """

    def __init__(self, grant: Grant, calls: Calls, watch: LeaseWatch, yield_lease: str = "") -> None:
        """Internal: ``hold`` creates it; programs use ``lease``."""
        super().__init__(grant)
        self.ended: Ended = watch.ended
        self.degraded: Degraded = watch.degraded
        self.wanted: Wanted = watch.wanted
        self._calls = calls
        self._watch = watch
        self._yield_lease = yield_lease
        self._release_task: asyncio.Task[None] | None = None

    async def release(self) -> None:
        """Release the lease before the block ends; may be called repeatedly.

        With ``yield_lease`` it returns when the other lease has its consumer again, or has ended. The release completes
        even if the caller is cancelled.
        """
        # One task for all callers: a cancelled caller leaves the release running, and a second one waits for it.
        if self._release_task is None:
            self._release_task = asyncio.ensure_future(self._release_and_close())
        await asyncio.shield(self._release_task)

    async def _release_and_close(self) -> None:
        """Release the lease by its id, so that it has ended on return. If that fails, the closed connection ends it."""
        try:
            if not self.ended.is_set():
                async with asyncio.timeout(RELEASE_SEC):
                    await self._calls.release(self.id)
                if self._yield_lease:
                    await wait_returned(self._calls, self._yield_lease)
        except (BusError, BusLost, TimeoutError):
            pass
        finally:
            # No effect if the lease has already ended for another reason.
            self.ended.set(RELEASED)
            await self._watch.stop()
            await self._calls.close()


async def hold(
    consumer: str = "", *, within: Sequence[str] = (), bus: str = "system", **options: Unpack[LeaseOptions]
) -> Held:
    """Acquire a lease as ``lease`` does on entering; the caller must release it."""
    request = lease_request(consumer, "connection", options, within=within)
    calls = await connect(bus)
    try:
        with translate_errors():
            return await _acquire(calls, request)
    except BaseException:
        # Also on cancellation: closing the connection withdraws a waiting request.
        await calls.close()
        raise


async def _acquire(calls: Calls, request: LeaseRequest) -> Held:
    """Acquire the lease on this connection, whose end is the end of the lease."""
    from gpumand.client.parsing import grant_of

    watch = LeaseWatch(calls)
    # Subscribed before the request: the lease may be revoked right after the grant.
    await watch.listen()
    grant = grant_of(*await calls.acquire(request.consumer, request.options, request.timeout_sec))
    watch.follow(grant.id)
    return Held(grant, calls, watch, request.yield_lease)


@asynccontextmanager
async def lease(consumer: str = "", *, bus: str = "system", **options: Unpack[LeaseOptions]) -> AsyncIterator[Held]:
    """Make a consumer resident and hold a lease on it for as long as the block runs::

        async with lease("comfyui", timeout_sec=300, reason="poster") as held:
            await render(held.endpoint)

    The lease belongs to a new connection to the bus, so it ends with the process, also after a crash. It survives a
    restart of gpumand: waiting requests are repeated, and leases are kept. If the lease is taken away, for example
    revoked, ``held.ended`` is set and the block continues. If the consumer crashes or loses its model, the lease stays
    and ``held.degraded`` is set.

    Cancelling the wait (also with ``asyncio.timeout``) withdraws the request at once.

    A program that is no configured service reserves VRAM without a consumer::

        async with lease(vram_mib=12288, reason="training"):
            train()

    The memory of this process and of the processes that it starts counts against the reservation.

    Args:
        consumer: name of the consumer, as configured; "" to reserve VRAM without one.
        bus: "system", "session" (a user's own gpumand), or a D-Bus address. The environment variable
            ``DBUS_SYSTEM_BUS_ADDRESS`` changes the address of "system".
        options: the attributes of ``LeaseOptions``, such as ``timeout_sec`` and ``reason``.

    Yields:
        The lease.

    Raises:
        NoSuchConsumer, NoSuchDevice, InvalidArgs: the request is wrong; change it.
        TimedOut, Busy, ConsumerBackingOff, ShuttingDown, NoAnswer: the same request may succeed later.
        WouldDeadlock: the request waits for a lease of an enclosing block or of an outer ``gpumanctl run``.
        InsufficientVram, LoadFailed, EvictionFailed, DeviceUnavailable: an administrator must check the host.
        AccessDenied, InteractiveAuthorizationRequired, LimitsExceeded: the request is not allowed.
        NotRunning, BusUnavailable, Mismatch: gpumand cannot be reached.
    """
    held = await hold(consumer, within=enclosing_leases(), bus=bus, **options)
    enter_block(held.id)
    try:
        yield held
    finally:
        leave_block(held.id)
        await held.release()
