"""Detects the end of a lease in the process that holds it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from gpumand.bus.connection_errors import BusError, BusLost
from gpumand.client.errors import Mismatch

if TYPE_CHECKING:
    from gpumand.bus.connection import Signal
    from gpumand.client.calls import Calls

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
        "owner-vanished", "unit-stopped". Detected by the client: "bus-lost" (the connection broke, which ended the
        lease), "not-running" (gpumand left the bus and did not return within a minute), "forgotten" (gpumand returned
        without the lease). Later versions may add more.
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


class LeaseWatch:
    """Watches one lease over the connection that holds it.

    Args:
        calls: the connection that holds the lease.
        return_sec: seconds that the daemon may be absent before the lease counts as lost.

    Attributes:
        ended: set when the lease has ended.
    """

    def __init__(self, calls: Calls, return_sec: float = RETURN_SEC) -> None:
        self.ended = Ended()
        self._calls = calls
        self._return_sec = return_sec
        self._lease = ""
        self._early_ends: dict[str, str] = {}
        self._is_daemon_running: bool | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def listen(self) -> None:
        """Subscribe to signals. Call it before the request: the end of a lease may follow its grant at once."""
        await self._calls.listen_for_lease_ends(self._on_end)
        await self._calls.listen_for_owner_changes(self._on_owner)

    def follow(self, lease: str) -> None:
        """Set the id of the lease to watch, as soon as it is granted."""
        self._lease = lease
        if lease in self._early_ends:
            self.ended.set(self._early_ends[lease])
        self._early_ends.clear()
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
            if all(not isinstance(one, dict) or one.get("id") != self._lease for one in status["leases"]):
                self.ended.set(FORGOTTEN)
            return
