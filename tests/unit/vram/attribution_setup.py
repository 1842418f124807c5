"""systemd for tests of attribution."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping

from gpumand.domain.consumer import UnitState
from gpumand.ports import UnitFailed

ME = os.getpid()


class Systemd:
    """A UnitManager with only the method that attribution may use; all others fail."""

    def __init__(self, units: Mapping[int, str]) -> None:
        self.units = dict(units)
        self.queried: list[int] = []
        self.running = self.max_running = 0
        self.idle = asyncio.Event()
        self.answering = asyncio.Event()
        self.answering.set()
        self.failure: Exception | None = None

    async def unit_of_pid(self, pid: int) -> str:
        self.queried.append(pid)
        self.running += 1
        self.idle.clear()
        self.max_running = max(self.max_running, self.running)
        try:
            await self.answering.wait()
            await asyncio.sleep(0)
        finally:
            self.running -= 1
            if not self.running:
                self.idle.set()
        if self.failure is not None:
            raise self.failure
        return self.units.get(pid, "")

    async def state(self, unit: str) -> UnitState:
        raise NotImplementedError

    async def report_states(
        self, units: Iterable[str], report: Callable[[UnitState], None]
    ) -> Mapping[str, UnitFailed]:
        raise NotImplementedError

    async def start(self, unit: str, timeout_sec: float) -> None:
        raise NotImplementedError

    async def stop(self, unit: str, timeout_sec: float) -> None:
        raise NotImplementedError

    async def failure_lines(self, unit: str, invocation_id: str = "") -> tuple[str, ...]:
        raise NotImplementedError

    async def watch(self, units: Iterable[str], changed: Callable[[UnitState], None]) -> None:
        raise NotImplementedError
