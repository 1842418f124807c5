"""Queues systemd jobs and waits for their results."""

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
"""gpumand's own result for a job that no longer exists although no signal reported its result."""


class JobWatch:
    """Runs jobs of one unit and waits for their results; subscribed to JobRemoved before the job is queued.

    JobRemoved may arrive before the reply of StartUnit that names the job, so the results of all jobs are kept. The
    signal may also be lost during a reload of systemd's configuration, so the unit is polled as well.
    """

    def __init__(self, systemd: Systemd1, unit: str, poll_sec: float = POLL_SEC) -> None:
        self._systemd = systemd
        self._unit = unit
        self._poll_sec = poll_sec
        self._results: dict[str, str] = {}
        self._job_removed = asyncio.Event()
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
        """Queue a job for the unit and return its result. Raises UnitFailed if it cannot be queued."""
        job_path = await queue(self._unit)
        while job_path not in self._results:
            if not await self._wait_for_removal() and await self._is_gone(job_path):
                # The signal may have arrived while the unit was read.
                return self._results.get(job_path, GONE)
        return self._results[job_path]

    async def _wait_for_removal(self) -> bool:
        """Wait for one polling period, and return whether any job ended in it."""
        # No signal is lost here: callbacks run only while this coroutine waits, and results are kept in _results.
        self._job_removed.clear()
        try:
            async with asyncio.timeout(self._poll_sec):
                await self._job_removed.wait()
        except TimeoutError:
            return False
        return True

    async def _is_gone(self, job_path: str) -> bool:
        """Whether the unit no longer has this job; False if systemd does not answer, so that the wait continues."""
        try:
            unit = await self._systemd.read(self._unit)
        except UnitFailed:
            return False
        # A unit has at most one job: another path means that this job has ended or was replaced.
        return unit.job_path != job_path

    def _on_removed(self, signal: Signal) -> None:
        """Store the result of a job; the signal carries id, job path, unit and result (uoss)."""
        if len(signal.body) == 4:
            self._results[str(signal.body[1])] = str(signal.body[3])
            self._job_removed.set()
