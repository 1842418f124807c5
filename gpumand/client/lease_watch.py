"""Detects the end of a lease in the process that holds it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gpumand.bus.connection_errors import BusError, BusLost
from gpumand.client.errors import Mismatch
from gpumand.client.wanted import Wanted

if TYPE_CHECKING:
    from gpumand.bus.connection import Signal
    from gpumand.client.calls import Calls

log = logging.getLogger(__name__)

RETURN_SEC = 60.0
"""Seconds that a daemon may be absent before its leases count as lost.

A restarted daemon keeps its leases, so a short absence does not end them.
"""

RETRY_SEC = 0.5

MAX_EARLY_ENDS = 1024
"""Maximum number of ended leases to remember until the id of the watched lease is known."""

RELEASED = "released"
BUS_LOST = "bus-lost"
NOT_RUNNING = "not-running"
FORGOTTEN = "forgotten"


class Ended:
    """The end of a lease: like an ``asyncio.Event`` with a reason.

    Most programs do not need it: work in progress may continue, and the next request reports the problem. A program
    that must not use the GPU without a lease waits for this event in parallel to its work.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._reason = ""

    @property
    def reason(self) -> str:
        """Why the lease ended; "" while it is active.

        Reported by the daemon: "released", "expired", "revoked" (the consumer was evicted by force), "shutdown",
        "owner-vanished", "unit-stopped", "not-restored" (its consumer was given back for a nested lease and could not
        be loaded again). Detected by the client: "bus-lost" (the connection broke, which ended the lease),
        "not-running" (gpumand left the bus and did not return within a minute), "forgotten" (gpumand returned without
        the lease). Later versions may add more.
        """
        return self._reason

    def is_set(self) -> bool:
        """Whether the lease has ended."""
        return self._event.is_set()

    async def wait(self) -> str:
        """Wait until the lease has ended; returns the reason."""
        await self._event.wait()
        return self._reason

    def set(self, reason: str) -> None:
        """Internal: record the end of the lease; only the first reason counts."""
        if not self._event.is_set():
            self._reason = reason
            self._event.set()


class Degraded:
    """Whether the consumer of a lease is gone, although the lease is active; ``await held.degraded.wait()``.

    The consumer has lost its model or its process: it crashed, was stopped, or unloaded its model by itself.
    """

    def __init__(self) -> None:
        self._gone, self._present = asyncio.Event(), asyncio.Event()
        self._present.set()
        self._reason = ""
        self._callbacks: list[Callable[[str], None]] = []

    @property
    def reason(self) -> str:
        """What happened to the consumer, in one line; "" while it is there."""
        return self._reason

    def is_set(self) -> bool:
        """Whether the consumer is gone."""
        return bool(self._reason)

    async def wait(self) -> str:
        """Wait until the consumer is gone; returns what happened to it."""
        await self._gone.wait()
        return self._reason

    async def wait_restored(self) -> None:
        """Wait until the consumer is there; returns at once while it is."""
        await self._present.wait()

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Call a function with the reason when the consumer is lost, and with "" when it is back."""
        self._callbacks.append(callback)

    def set(self, reason: str) -> None:
        """Internal: record what happened to the consumer; "" = it is there."""
        if reason == self._reason:
            return
        self._reason = reason
        now, before = (self._gone, self._present) if reason else (self._present, self._gone)
        before.clear()
        now.set()
        for callback in tuple(self._callbacks):
            try:
                callback(reason)
            except Exception:
                log.exception("a callback for a degraded lease failed")


class LeaseWatch:
    """Watches one lease over the connection that holds it.

    Args:
        calls: the connection that holds the lease.
        return_sec: seconds that the daemon may be absent before the lease counts as lost.

    Attributes:
        ended: set when the lease has ended.
        degraded: set while the consumer of the lease is gone.
        wanted: set when a request waits for the end of the lease.
    """

    def __init__(self, calls: Calls, return_sec: float = RETURN_SEC) -> None:
        self.ended = Ended()
        self.degraded = Degraded()
        self.wanted = Wanted()
        self._calls = calls
        self._return_sec = return_sec
        self._lease = ""
        self._early_ends: dict[str, str] = {}
        self._early_losses: dict[str, str] = {}
        self._early_wants: list[tuple[str, str]] = []
        self._is_daemon_running: bool | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def listen(self) -> None:
        """Subscribe to signals. Call it before the request: the end of a lease may follow its grant at once."""
        await self._calls.listen_for_lease_ends(self._on_end)
        await self._calls.listen_for_lease_health(self._on_health)
        await self._calls.listen_for_wanted_leases(self._on_wanted)
        await self._calls.listen_for_owner_changes(self._on_owner)

    def follow(self, lease: str) -> None:
        """Set the id of the lease to watch, as soon as it is granted."""
        self._lease = lease
        if lease in self._early_ends:
            self.ended.set(self._early_ends[lease])
        self.degraded.set(self._early_losses.get(lease, ""))
        self._early_ends.clear()
        self._early_losses.clear()
        for wanted, by in self._early_wants:
            if wanted == lease:
                self.wanted.add(by)
        self._early_wants.clear()
        self._start_task("loss", self._wait_lost())
        # The daemon left or returned while the grant was in flight: the lease may be lost already.
        if self._is_daemon_running is not None:
            self._follow_daemon(self._is_daemon_running)

    async def stop(self) -> None:
        """Stop watching."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start_task(self, name: str, work: Any) -> None:
        """Run a background task; it replaces an earlier one of the same name."""
        if (earlier := self._tasks.pop(name, None)) is not None:
            earlier.cancel()
        self._tasks[name] = asyncio.ensure_future(work)

    def _on_health(self, signal: Signal) -> None:
        if len(signal.body) != (3 if signal.member == "LeaseDegraded" else 2):
            return
        lease, reason = str(signal.body[0]), str(signal.body[2]) if len(signal.body) > 2 else ""
        if lease == self._lease:
            self.degraded.set(reason)
        elif not self._lease:
            # As for ends: the model can be lost between the grant and the arrival of its answer.
            self._early_losses[lease] = reason
            if len(self._early_losses) > MAX_EARLY_ENDS:
                self._early_losses.pop(next(iter(self._early_losses)))

    def _on_wanted(self, signal: Signal) -> None:
        if len(signal.body) != 3:
            return
        lease, by = str(signal.body[0]), str(signal.body[1])
        if lease == self._lease:
            self.wanted.add(by)
        elif not self._lease:
            # A request that was queued behind this one is announced right after the grant, before its answer is read.
            self._early_wants = [*self._early_wants[1 - MAX_EARLY_ENDS :], (lease, by)]

    def _on_end(self, signal: Signal) -> None:
        if len(signal.body) != 3:
            return
        lease, reason = str(signal.body[0]), str(signal.body[2])
        if lease == self._lease:
            self.ended.set(reason)
        elif not self._lease:
            # The signal can overtake the answer of Acquire, so the id of the watched lease is not known yet.
            self._early_ends[lease] = reason
            if len(self._early_ends) > MAX_EARLY_ENDS:
                self._early_ends.pop(next(iter(self._early_ends)))

    def _on_owner(self, signal: Signal) -> None:
        if len(signal.body) == 3:
            self._is_daemon_running = bool(signal.body[2])
            if self._lease:
                self._follow_daemon(self._is_daemon_running)

    def _follow_daemon(self, is_running: bool) -> None:
        self._start_task("daemon", self._check_lease() if is_running else self._wait_return())

    async def _wait_lost(self) -> None:
        await self._calls.connection.wait_lost()
        self.ended.set(BUS_LOST)

    async def _wait_return(self) -> None:
        await asyncio.sleep(self._return_sec)
        self.ended.set(NOT_RUNNING)

    async def _check_lease(self) -> None:
        """Check whether a restarted daemon has kept the lease; it may not announce the end of one that it has lost.

        A daemon takes over its leases before it appears on the bus, so one status is enough.
        """
        while True:
            try:
                status = await self._calls.status()
            except (BusError, Mismatch):
                await asyncio.sleep(RETRY_SEC)
                continue
            except BusLost:
                return  # _wait_lost reports it
            own = [one for one in status["leases"] if isinstance(one, dict) and one.get("id") == self._lease]
            if own:
                self._take_over(str(own[0].get("degraded") or ""))
            else:
                self.ended.set(FORGOTTEN)
            return

    def _take_over(self, reason: str) -> None:
        """Take over the state from a status after a restart of the daemon.

        That the consumer is there counts only once the daemon says so: right after its start it does not know yet.
        """
        if reason:
            self.degraded.set(reason)
