"""Jobs of systemd, awaited to their end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType

from gpumand.bus.connection import BusError, BusLost, Signal, Subscription
from gpumand.ports import UnitFailed
from gpumand.service_manager.failures import unit_failed
from gpumand.service_manager.manager import Systemd1

POLL_SEC = 3.0
GONE = "gone"
"""Our word for a job that is no longer there though nobody told us how it ended."""


class JobWatch:
    """Hears the ends of a unit's jobs, from before the job is queued.

    JobRemoved may come before the answer of StartUnit that names the job, so all results are kept until asked for. It
    may also never come (lost over a reload of systemd's configuration), so now and then the unit is asked, too.
    """

    def __init__(self, systemd: Systemd1, unit: str, poll_sec: float = POLL_SEC) -> None:
        self._systemd = systemd
        self._unit = unit
        self._poll_sec = poll_sec
        self._results: dict[str, str] = {}
        self._heard = asyncio.Event()
        self._subscription: Subscription | None = None

    async def __aenter__(self) -> JobWatch:
        try:
            self._subscription = await self._systemd.listen("JobRemoved", self._on_removed)
        except BusError as error:
            raise unit_failed(self._unit, "watch", error) from error
        except BusLost as error:
            raise UnitFailed(f"cannot watch {self._unit}: {error}", "unavailable") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._subscription is not None:
            await self._subscription.cancel()

    async def run(self, queue: Callable[[str], Awaitable[str]]) -> str:
        """Queue a job for the unit and return its result. Raises UnitFailed when it cannot be queued."""
        job_path = await queue(self._unit)
        while job_path not in self._results:
            if not await self._next_removal() and await self._is_gone(job_path):
                return self._results.get(job_path, GONE)
        return self._results[job_path]

    async def _next_removal(self) -> bool:
        """Whether any job ended within one polling period."""
        self._heard.clear()
        try:
            async with asyncio.timeout(self._poll_sec):
                await self._heard.wait()
        except TimeoutError:
            return False
        return True

    async def _is_gone(self, job_path: str) -> bool:
        """Whether the unit has no such job any more; where systemd cannot be asked just now, we go on waiting."""
        try:
            unit = await self._systemd.read(self._unit)
        except UnitFailed:
            return False
        return unit.job_path != job_path

    def _on_removed(self, signal: Signal) -> None:
        """Signature uoss: id, job, unit, result."""
        if len(signal.body) == 4:
            self._results[str(signal.body[1])] = str(signal.body[3])
            self._heard.set()
