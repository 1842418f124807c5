"""Going and looking: samples, health, units, leases that run out, consumers that idle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from gpumand.arbiter.arbiter import Arbiter
from gpumand.arbiter.loop_deadlines import LoopDeadlines
from gpumand.arbiter.timeouts import ended
from gpumand.domain.consumer import ConsumerSpec
from gpumand.ports import ConsumerRoutes, UnitFailed, UnitManager

log = logging.getLogger(__name__)

LONGEST_NAP_SEC = 30.0
"""CLOCK_REALTIME may jump (suspend, NTP), so nothing sleeps towards a moment of it for longer than this."""

WORK_SEC = 1.0
"""How often a consumer is asked whether it still works while somebody waits for that."""

UNITS_RETRY_SEC = 10.0
UNITS_ASK_AGAIN_SEC = 60.0


class Housekeeping:
    """The loops that keep the books true. ``look_around`` once before the first grant, then ``run``."""

    def __init__(self, arbiter: Arbiter, units: UnitManager, routes: ConsumerRoutes) -> None:
        self._arbiter, self._units, self._routes = arbiter, units, routes
        self._books = arbiter.arbiter_state
        self._probing: set[str] = set()
        self._turns = LoopDeadlines()

    def overdue_sec(self) -> Mapping[str, float]:
        """For how long the next turn of each loop has been due; only those that are late."""
        return self._turns.overdue_sec(self._books.clock.monotonic())

    async def look_around(self) -> None:
        """Learn the state of everything, so that nothing has to be assumed."""
        await asyncio.gather(self._books.sample(), self._ask_units(), self._probe_all())
        self._arbiter.facts.conclude_all()
        self._arbiter.scheduler.step()

    async def run(self) -> None:
        """Keep looking, for as long as the daemon lives."""
        loops = (self._sample_often, self._probe_often, self._ask_who_works, self._watch_units, self._expire_leases)
        await asyncio.gather(*(self._for_ever(loop) for loop in loops))

    async def _for_ever(self, loop: Callable[[], Awaitable[None]]) -> None:
        """One fault in one loop must not stop it for good; but it is a fault, and is told as one."""
        while True:
            try:
                await loop()
            except Exception:
                log.exception("upkeep: %s broke off and goes on", loop.__name__)
                await self._books.clock.sleep(1.0)

    def _in(self, seconds: float) -> float:
        return self._books.clock.monotonic() + seconds

    async def _sample_often(self) -> None:
        self._turns.expect("sampling", self._in(self._books.settings.gpu.sample_interval_sec))
        while True:
            await self._books.clock.sleep(self._books.settings.gpu.sample_interval_sec)
            await self._books.sample()
            self._arbiter.facts.conclude_all()
            self._arbiter.measuring.look()
            self._arbiter.measuring.keep()
            self._arbiter.by_hand.evict_idle()
            self._arbiter.scheduler.step()
            await self._arbiter.leases.keep_uses()
            self._turns.finished("sampling", self._in(self._books.settings.gpu.sample_interval_sec))

    async def _probe_often(self) -> None:
        self._turns.expect("probing", self._in(self._books.settings.scheduler.health_interval_sec))
        while True:
            await self._books.clock.sleep(self._books.settings.scheduler.health_interval_sec)
            self._begin_probes()
            self._turns.finished("probing", self._in(self._books.settings.scheduler.health_interval_sec))

    def _begin_probes(self) -> None:
        for spec in self._probed():
            if spec.name not in self._probing:
                self._arbiter.scheduler.beside.spawn(self._probe(spec))

    def _probed(self) -> list[ConsumerSpec]:
        return [spec for spec in self._books.settings.consumers.values() if spec.health or spec.busy]

    async def _probe_all(self) -> None:
        await asyncio.gather(*(self._probe(spec) for spec in self._probed()))

    async def _probe(self, spec: ConsumerSpec) -> None:
        """Probe one; while it does not answer it is not probed again, and the others keep their rhythm."""
        asked_at = self._books.clock.monotonic()
        self._probing.add(spec.name)
        try:
            if spec.health is not None:
                health = await self._routes.probe(spec)
                self._arbiter.facts.note_health(spec.name, health, asked_at)
            await self._arbiter.busyness.ask(spec.name)
        finally:
            self._probing.discard(spec.name)
        self._arbiter.scheduler.step()

    async def _ask_who_works(self) -> None:
        """While somebody waits for a consumer's work to end, hear of that end soon."""
        self._turns.expect("asking who works", self._in(WORK_SEC))
        while True:
            await self._books.clock.sleep(WORK_SEC)
            for name in self._arbiter.busyness.waited_for():
                if name not in self._probing:
                    self._arbiter.scheduler.beside.spawn(self._ask_whether_it_works(name))
            self._turns.finished("asking who works", self._in(WORK_SEC))

    async def _ask_whether_it_works(self, name: str) -> None:
        self._probing.add(name)
        try:
            await self._arbiter.busyness.ask(name)
        finally:
            self._probing.discard(name)
        self._arbiter.scheduler.step()

    async def _ask_units(self) -> None:
        names = {spec.unit for spec in self._books.settings.consumers.values() if spec.unit}
        names |= self._arbiter.leases.leased_units()
        await asyncio.gather(*(self._ask_unit(name) for name in names))

    async def _ask_unit(self, name: str) -> None:
        try:
            self._arbiter.note_unit(await self._units.state(name))
        except UnitFailed as failed:
            log.info("unit %s: %s", name, failed)

    async def _watch_units(self) -> None:
        """Watch the units that matter, anew whenever these change; ask now and then, should a signal get lost."""
        self._turns.expect("watching units", self._in(0.0))
        while True:
            self._arbiter.units_changed.clear()
            try:
                await self._arbiter.watch_units()
                await self._ask_units()
                pause_sec = UNITS_ASK_AGAIN_SEC
            except UnitFailed as failed:
                log.info("units cannot be watched: %s", failed)
                pause_sec = UNITS_RETRY_SEC
            self._turns.finished("watching units", self._in(pause_sec))
            if await ended(self._books.clock, self._arbiter.units_changed.wait(), pause_sec):
                self._begin_probes()  # a reload may have brought consumers that nobody has asked yet

    async def _expire_leases(self) -> None:
        leases = self._arbiter.leases
        self._turns.expect("expiring leases", self._in(0.0))
        while True:
            leases.sooner.clear()
            if leases.expire():
                self._arbiter.scheduler.step()
            next_usec = leases.next_expiry_usec()
            left_sec = (next_usec - self._books.clock.realtime_usec()) / 1e6 if next_usec else LONGEST_NAP_SEC
            pause_sec = min(left_sec, LONGEST_NAP_SEC)
            leases.looked_at = self._in(pause_sec)
            self._turns.finished("expiring leases", leases.looked_at)
            await ended(self._books.clock, leases.sooner.wait(), pause_sec)
