"""Whether a lease still stands, seen from the one who holds it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from gpumand.bus.connection_errors import BusError, BusLost
from gpumand.client.errors import Mismatch

if TYPE_CHECKING:
    from gpumand.bus.connection import Signal
    from gpumand.client.calls import Calls

GONE_SEC = 60.0
"""A daemon that was restarted keeps leases; one that is not back by then is taken for gone."""

RETRY_SEC = 0.5

MOST_ENDS = 1024
"""Ends of other leases that are remembered until it is known which lease is ours."""

RELEASED = "released"
BUS_LOST = "bus-lost"
NOT_RUNNING = "not-running"
FORGOTTEN = "forgotten"


class Ended:
    """The end of a lease; like an ``asyncio.Event`` that knows why it was set.

    Most programs need not care: work that was begun may go on, and the next lease tells. Those that must not touch the
    GPU without a lease wait for this beside their work.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._reason = ""

    @property
    def reason(self) -> str:
        """Why the lease ended; "" while it stands.

        As the daemon says it: "released", "expired", "revoked" (somebody evicted the consumer by force), "shutdown",
        "owner-vanished", "unit-stopped"; or as it is seen from here: "bus-lost" (the connection broke, which ended the
        lease), "not-running" (gpumand left the bus and did not come back within a minute), "forgotten" (it came back
        without the lease). More may come.
        """
        return self._reason

    def is_set(self) -> bool:
        """Whether the lease has ended."""
        return self._event.is_set()

    async def wait(self) -> str:
        """Return, with the reason, when the lease has ended."""
        await self._event.wait()
        return self._reason

    def set(self, reason: str) -> None:
        """Note the end; only the first counts. For the client itself."""
        if not self._event.is_set():
            self._reason = reason
            self._event.set()


class Watch:
    """Finds out when one lease ends, on the connection that holds it."""

    def __init__(self, calls: Calls, gone_sec: float = GONE_SEC) -> None:
        self.ended = Ended()
        self._calls = calls
        self._gone_sec = gone_sec
        self._lease = ""
        self._heard: dict[str, str] = {}
        self._is_daemon_there: bool | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def listen(self) -> None:
        """Begin before the lease is asked for: its end may follow its grant at once."""
        await self._calls.listen_for_ends(self._on_end)
        await self._calls.listen_for_owners(self._on_owner)

    def follow(self, lease: str) -> None:
        """This is the lease."""
        self._lease = lease
        if lease in self._heard:
            self.ended.set(self._heard[lease])
        self._heard.clear()
        self._do("loss", self._wait_lost())
        if self._is_daemon_there is not None:  # it went, or came back, while the grant was on its way
            self._follow_daemon(self._is_daemon_there)

    async def stop(self) -> None:
        """Nothing is watched any more."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _do(self, name: str, work: Any) -> None:
        """Have it done in the background, instead of what was done so far under this name."""
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
            self._heard[lease] = reason
            if len(self._heard) > MOST_ENDS:
                self._heard.pop(next(iter(self._heard)))

    def _on_owner(self, signal: Signal) -> None:
        if len(signal.body) == 3:
            self._is_daemon_there = bool(signal.body[2])
            if self._lease:
                self._follow_daemon(self._is_daemon_there)

    def _follow_daemon(self, is_there: bool) -> None:
        self._do("daemon", self._look_again() if is_there else self._wait_gone())

    async def _wait_lost(self) -> None:
        await self._calls.connection.wait_lost()
        self.ended.set(BUS_LOST)

    async def _wait_gone(self) -> None:
        await asyncio.sleep(self._gone_sec)
        self.ended.set(NOT_RUNNING)

    async def _look_again(self) -> None:
        """A new daemon took the lease over before it came onto the bus, or never will: its end may go unsaid."""
        while True:
            try:
                status = await self._calls.status()
            except (BusError, Mismatch):
                await asyncio.sleep(RETRY_SEC)
                continue
            except BusLost:
                return
            if all(not isinstance(one, dict) or one.get("id") != self._lease for one in status["leases"]):
                self.ended.set(FORGOTTEN)
            return
