"""A world whose host is suspended or shut down by the test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from gpumand.arbiter.suspend import (
    SuspendWatch,
)
from gpumand.domain.consumer import ConsumerSpec, SchedulerSettings
from gpumand.domain.request import AcquireOptions, Grant
from gpumand.testing.store import MemoryStore
from gpumand.testing.world import FakeWorld, client

LONG = AcquireOptions(timeout_sec=3600)
NOW = AcquireOptions(timeout_sec=0)
NIGHT_SEC = 8 * 3600.0


class SuspendScenario:
    """A world with a SuspendWatch, and the answer that logind would give."""

    def __init__(self, *specs: ConsumerSpec, store: MemoryStore | None = None) -> None:
        self.world = FakeWorld(specs, scheduler=SchedulerSettings(concurrent_leases=0), store=store)
        self.asked = 0
        self.is_preparing = False
        self.watch = SuspendWatch(self.world.arbiter, self.world.housekeeping, self._answer)

    async def _answer(self) -> bool:
        self.asked += 1
        return self.is_preparing

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[FakeWorld]:
        await self.world.start()
        loops = [asyncio.create_task(self.watch.run()), asyncio.create_task(self.world.housekeeping.run())]
        await self.world.clock.advance(0.1)
        yield self.world
        for loop in loops:
            loop.cancel()

    def prepare(self) -> None:
        self.is_preparing = True
        self.watch.prepare_for_sleep(True)

    def suspend(self, seconds: float = NIGHT_SEC) -> None:
        self.world.clock.suspend(seconds)

    def wake(self) -> None:
        self.is_preparing = False
        self.watch.prepare_for_sleep(False)

    def ask(self, consumer: str, options: AcquireOptions = LONG) -> asyncio.Task[Grant]:
        return asyncio.create_task(self.world.arbiter.acquire(client(), consumer, options))

    @property
    def waiting_for(self) -> list[str]:
        return [entry.waiting_for for entry in self.world.arbiter.status().queue]
