"""A lease for as long as a block of code runs; the asynchronous form."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from gpumand.bus.connection_errors import BusError, BusLost
from gpumand.client.calls import Calls
from gpumand.client.errors import translated
from gpumand.client.lease_watch import RELEASED, Ended, Watch
from gpumand.client.options import Options, acquire_options, text, wait_sec

if TYPE_CHECKING:
    from datetime import datetime

    from gpumand.client.values import Grant

DEFAULT_WAIT_SEC = 60.0
"""How long a program waits unless told otherwise; a shell's default of 20 s is for tools that give up at 25 s."""

RELEASE_SEC = 5.0
"""How long a release may take; closing the connection ends the lease anyway."""


async def connect(bus: str) -> Calls:
    """A connection of its own to "system", "session" or a D-Bus address. Raises BusUnavailable."""
    with translated():
        return await Calls.connect(bus)


class Granted:
    """What is known of a lease from its grant on.

    Attributes:
        id: the lease's.
        consumer: what it is for.
        device: index of the GPU as text; "" where none is known.
        endpoint: the consumer's URL; "" where none is configured.
        evicted: names of the consumers that were evicted for it, in order.
        loaded: whether the consumer was loaded for it; False: it was resident already.
        waited_sec: how long it took from the call to the grant.
        expires_at: when it ends by itself; None = never.
    """

    def __init__(self, grant: Grant | Granted) -> None:
        """For the clients themselves."""
        self.id: str = grant.id
        self.consumer: str = grant.consumer
        self.device: str = grant.device
        self.endpoint: str = grant.endpoint
        self.evicted: tuple[str, ...] = grant.evicted
        self.loaded: bool = grant.loaded
        self.waited_sec: float = grant.waited_sec
        self.expires_at: datetime | None = grant.expires_at

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} on {self.consumer}>"


class Held(Granted):
    """A lease that ``lease`` holds; see ``Granted`` for what it tells.

    Attributes:
        ended: whether, and why, the lease has ended; ``await held.ended.wait()``.
    """

    def __init__(self, grant: Grant, calls: Calls, watch: Watch) -> None:
        """For ``hold``; programs use ``lease``."""
        super().__init__(grant)
        self.ended: Ended = watch.ended
        self._calls = calls
        self._watch = watch
        self._release: asyncio.Task[None] | None = None

    async def release(self) -> None:
        """End the lease now; harmless when repeated. Leaving the block does it.

        A cancellation does not keep it from being done.
        """
        if self._release is None:
            self._release = asyncio.ensure_future(self._give_back())
        await asyncio.shield(self._release)

    async def _give_back(self) -> None:
        """By name, so that it is over when this returns; where that fails, the end of the connection does it."""
        try:
            if not self.ended.is_set():
                async with asyncio.timeout(RELEASE_SEC):
                    await self._calls.release(self.id)
        except (BusError, BusLost, TimeoutError):
            pass
        finally:
            self.ended.set(RELEASED)
            await self._watch.stop()
            await self._calls.close()


async def hold(
    consumer: str,
    *,
    timeout_sec: float | None = DEFAULT_WAIT_SEC,
    priority: int | None = None,
    device: str = "",
    reason: str = "",
    bus: str = "system",
) -> Held:
    """What ``lease`` does on entering; the caller releases it."""
    wait = wait_sec(timeout_sec)
    options = acquire_options("connection", wait, priority=priority, device=device, reason=reason)
    text("consumer", consumer)
    calls = await connect(bus)
    try:
        with translated():
            return await _held(calls, consumer, options, wait)
    except BaseException:
        # Leaving the bus is what withdraws a request that waits.
        await calls.close()
        raise


async def _held(calls: Calls, consumer: str, options: Options, timeout_sec: float) -> Held:
    """Ask on this connection, which is the lease's from then on."""
    from gpumand.client.parsing import grant_of

    watch = Watch(calls)
    await watch.listen()
    grant = grant_of(*await calls.acquire(consumer, options, timeout_sec))
    watch.follow(grant.id)
    return Held(grant, calls, watch)


@asynccontextmanager
async def lease(
    consumer: str,
    *,
    timeout_sec: float | None = DEFAULT_WAIT_SEC,
    priority: int | None = None,
    device: str = "",
    reason: str = "",
    bus: str = "system",
) -> AsyncIterator[Held]:
    """Make a consumer resident and hold a lease on it for as long as the block runs::

        async with lease("comfyui", timeout_sec=300, reason="poster") as held:
            await render(held.endpoint)

    The lease hangs on a connection to the bus that this opens, so it ends with the process, however that ends. A
    restart of gpumand in between does no harm: who waits is asked for again, who holds keeps holding. ``held.ended``
    says when a lease is taken away all the same; the block goes on.

    Cancelling what waits here (also by ``asyncio.timeout``) withdraws the request at once.

    Args:
        consumer: its name, as configured.
        timeout_sec: how long to wait; 0 = now or not at all, None = as long as it takes (a day at most).
        priority: -100 to 100, higher first; None = the consumer's own.
        device: index or UUID of the GPU; "" = any that fits.
        reason: what it is for; shown in the status.
        bus: "system", "session" (a user's own gpumand), or a D-Bus address. "system" is what
            ``DBUS_SYSTEM_BUS_ADDRESS`` says, where that is set.

    Yields:
        The lease.

    Raises:
        NoSuchConsumer, NoSuchDevice, InvalidArgs: ask differently.
        TimedOut, Busy, ConsumerBackingOff, ShuttingDown, NoAnswer: ask later.
        InsufficientVram, LoadFailed, EvictionFailed, DeviceUnavailable: somebody must look at the host.
        AccessDenied, InteractiveAuthorizationRequired, LimitsExceeded: it is not allowed.
        NotRunning, BusUnavailable, Mismatch: there is no gpumand to ask.
    """
    given = {"device": device, "reason": reason, "bus": bus}
    held = await hold(consumer, timeout_sec=timeout_sec, priority=priority, **given)
    try:
        yield held
    finally:
        await held.release()
