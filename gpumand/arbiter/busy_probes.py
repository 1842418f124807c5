"""Busy checks of consumers: while a request waits for one, and right before an eviction."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace

from gpumand.arbiter.deferred_unloads import BY_CONNECTIONS
from gpumand.arbiter.direct_work import DirectWork
from gpumand.arbiter.state import ArbiterState
from gpumand.domain import busyness, shared_units
from gpumand.domain.consumer import BusyReport, BusyRoute, ConsumerSpec
from gpumand.domain.victims import EVICTABLE
from gpumand.domain.view import ConsumerState
from gpumand.ports import ConsumerRoutes, CpuTimes

log = logging.getLogger(__name__)

DEMAND_TTL_SEC = 5.0
"""Every queue pass records which busy consumers requests wait for; after this many seconds a record is outdated."""


class BusyProbes:
    """Records in the ledger which consumers are busy, and since when a request needs their memory."""

    def __init__(self, state: ArbiterState, routes: ConsumerRoutes, cpu_times: CpuTimes | None = None) -> None:
        self._state, self._routes = state, routes
        self._direct_work = DirectWork(state, routes, cpu_times)
        self._answered_at: dict[str, float] = {}
        self._probed_at: dict[str, float] = {}
        self._demanded_at: dict[str, float] = {}
        self._refused: set[str] = set()

    def can_probe(self, consumer: ConsumerState) -> bool:
        """Whether a look at the consumer can show work: it has a busy check, or its clients and processes are seen."""
        return _busy_check(consumer) is not None or self._direct_work.may_be_seen(consumer)

    async def probe(self, name: str, *, direct: bool = True) -> None:
        """Send the busy check of a consumer; of one without, look for work that its clients sent directly.

        Only where it may be loaded: some servers load their model when they get a request.
        """
        consumer = self._state.ledger.consumers.get(name)
        if consumer is None:
            return
        if _busy_check(consumer) is None:
            if direct or consumer.direct_work:
                await self._probe_direct_work(consumer)
            return
        if consumer.residency not in EVICTABLE and not _is_unloading(consumer) and not self._holds_rest(name):
            if consumer.jobs is not None or consumer.unload_deferred:
                # Without memory it blocks no request, whatever it answered while it had some.
                self._state.ledger.update(name, jobs=None, unload_deferred=False)
            return
        requested_at = self._state.clock.monotonic()
        spec = replace(consumer.spec, busy=_busy_check(consumer))
        answer = await self._routes.probe_busy(await self._without_waking(spec))
        if answer.jobs is None:
            log.debug("consumer %s: the busy check failed: %s", name, answer.error)
        elif answer.error and consumer.residency in EVICTABLE and name not in self._refused:
            self._refused.add(name)
            log.warning("consumer %s: %s. It counts as busy while clients are connected to it", name, answer.error)
        self.record(name, answer, requested_at)

    async def _probe_direct_work(self, consumer: ConsumerState) -> None:
        name, requested_at = consumer.name, self._state.clock.monotonic()
        jobs = await self._direct_work.jobs(consumer) if self._direct_work.may_be_seen(consumer) else 0
        if jobs and name in self._state.ledger.consumers:
            self._state.ledger.update(name, direct_work=True)
            self.record(name, BusyReport(jobs), requested_at)
        elif consumer.direct_work and name in self._state.ledger.consumers:
            # No proof that it is idle: it may still load for a request. So nothing that is reserved for it is given up.
            self._state.ledger.update(name, jobs=None, direct_work=False, blocking_since=None)

    async def probe_unit(self, name: str, *, itself: bool = True) -> None:
        """Send the busy checks of a consumer and of all others in its unit or container, which a stop would end too.

        Args:
            name: the consumer.
            itself: also the check of the consumer; otherwise only those of the others.
        """
        ledger = self._state.ledger
        consumer = ledger.consumers.get(name)
        others = () if consumer is None else shared_units.others_in_unit(ledger.consumers, consumer, ledger.sharing)
        names = [*([name] if itself else []), *(other.name for other in others)]
        await asyncio.gather(*(self.probe(one) for one in names))

    async def _without_waking(self, spec: ConsumerSpec) -> ConsumerSpec:
        """Return the configuration of a consumer with a busy check that does not wake it.

        A server that sleeps does no work, but its next request may have come since. Asking its busy route would wake
        it as well, so the connections of its clients are counted instead.
        """
        if spec.health is None or not spec.health.sleeping:
            return spec
        health = await self._routes.probe_health(spec)
        return replace(spec, busy=BY_CONNECTIONS) if health.sleeping else spec

    def _holds_rest(self, name: str) -> bool:
        """Whether its server holds memory without a model; stopping its unit for that could interrupt new work."""
        return any(sample.held_by(name) for sample in self._state.ledger.devices.values())

    async def busy_exemption(self, name: str) -> str:
        """Send the busy checks of its unit; returns why it must not be evicted now, in one line, or "".

        Others in its unit count only for its stop, see ``shared_units.stop_blocker``. Called between two methods, where
        its own clients, of an unload that freed nothing, have been waited for already. Others in its unit may have got
        work since the first method.
        """
        await asyncio.gather(self.probe(name, direct=False), self.probe_unit(name, itself=False))
        consumer = self._state.ledger.consumers.get(name)
        return "" if consumer is None else busyness.busy_exemption(consumer, self._state.clock.monotonic())

    async def jobs_behind_unload(self, name: str) -> int:
        """Number of jobs for which a server puts off the unload that was requested of it; 0 = none is known of.

        Of a server without a busy check the connections of its clients count, until its grace period is over.
        """
        consumer = self._state.ledger.consumers.get(name)
        if consumer is None or (consumer.spec.busy is None and not consumer.spec.url):
            return 0
        if consumer.spec.busy is not None:
            await self.probe(name)
        else:
            answer = await self._routes.probe_busy(replace(consumer.spec, busy=BY_CONNECTIONS))
            if name in self._state.ledger.consumers:
                self._state.ledger.update(name, jobs=answer.jobs, unload_deferred=bool(answer.jobs))
        # The check may have taken seconds, in which the grace period ends.
        consumer, now = self._state.ledger.consumers.get(name), self._state.clock.monotonic()
        return (consumer.jobs or 0) if consumer is not None and busyness.busy_exemption(consumer, now) else 0

    def note_deferred(self, name: str, jobs: int) -> None:
        """Record that an unload was given up for the jobs or clients that it waits for."""
        self._state.ledger.update(name, jobs=jobs, unload_deferred=True)
        self._record_work(name)
        self.record_demand([name])

    def record(self, name: str, answer: BusyReport, requested_at: float) -> None:
        """Store an answer to a busy check.

        Ignored when it was requested before gpumand's own last action on the consumer, or before an answer that is
        stored already: both are outdated.
        """
        consumer = self._state.ledger.consumers.get(name)
        if consumer is None or requested_at < max(consumer.changed_at, self._probed_at.get(name, float("-inf"))):
            return
        self._probed_at[name] = requested_at
        # After an unanswered check the last known value is kept for a while: a server at full load may not answer.
        now = self._state.clock.monotonic()
        jobs = busyness.assumed_jobs(consumer, answer, now - self._answered_at.get(name, now))
        if answer.jobs is not None:
            self._answered_at[name] = now
        if jobs != consumer.jobs:
            self._state.ledger.update(name, jobs=jobs)
        if jobs:
            self._record_work(name)
        elif answer.jobs == 0 and requested_at >= consumer.idle_since:
            self._state.ledger.end_claim(name)  # idle since its lease ended: it loads nothing for its last request
        if consumer.blocking_since is not None and (not jobs or self._demand_expired(name, now)):
            self._state.ledger.update(name, blocking_since=None, unload_deferred=False, direct_work=False)

    def _record_work(self, name: str) -> None:
        """Count work as use: the idle time starts now, and this is the last use."""
        self._state.ledger.update(
            name, idle_since=self._state.clock.monotonic(), reported_used_usec=self._state.clock.realtime_usec()
        )

    def _demand_expired(self, name: str, now: float) -> bool:
        """Whether no request has needed its memory for a whole grace period; the next one starts a new period."""
        grace_sec = self._state.consumer(name).spec.busy_grace_sec
        return now - self._demanded_at.get(name, float("-inf")) > max(grace_sec, DEMAND_TTL_SEC)

    def record_demand(self, names: Iterable[str]) -> None:
        """Record that a request waits until these consumers are idle."""
        now = self._state.clock.monotonic()
        for name in names:
            self._demanded_at[name] = now
            if self._state.consumer(name).blocking_since is None:
                self._state.ledger.update(name, blocking_since=now)

    def forget_outdated(self) -> None:
        """Forget the answers of consumers that no request waits for: a new request asks again."""
        now, awaited = self._state.clock.monotonic(), set(self.awaited())
        for name, consumer in list(self._state.ledger.consumers.items()):
            age_sec = now - self._probed_at.get(name, float("-inf"))
            if consumer.jobs is not None and name not in awaited and age_sec > DEMAND_TTL_SEC:
                self._state.ledger.update(name, jobs=None, direct_work=False)
            if consumer.blocking_since is not None and self._demand_expired(name, now):
                self._state.ledger.update(name, blocking_since=None, unload_deferred=False)

    def awaited(self) -> list[str]:
        """Consumers that a request currently waits for to become idle."""
        now = self._state.clock.monotonic()
        self._demanded_at = {name: at for name, at in self._demanded_at.items() if name in self._state.ledger.consumers}
        return [name for name, at in self._demanded_at.items() if now - at <= DEMAND_TTL_SEC]


def _busy_check(consumer: ConsumerState) -> BusyRoute | None:
    """The busy check; of a consumer without one that puts its unload off, the connections of its clients."""
    return BY_CONNECTIONS if consumer.spec.busy is None and consumer.unload_deferred else consumer.spec.busy


def _is_unloading(consumer: ConsumerState) -> bool:
    """Whether it is being evicted; then it is asked between two methods, since the second could interrupt its work."""
    return consumer.residency == "unloading"
