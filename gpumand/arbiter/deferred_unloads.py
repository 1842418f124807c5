"""An unload that its server puts off while requests run: how long it is waited for, and when another plan is better."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from gpumand.arbiter.state import ArbiterState
from gpumand.domain.consumer import BusyRoute, EvictionMethod
from gpumand.domain.deferred_unloads import describe_put_off
from gpumand.domain.events import EvictionDeferred, EvictionReport
from gpumand.domain.eviction_check import SLACK_MIB
from gpumand.ports import ConsumerRoutes

log = logging.getLogger(__name__)

POLL_SEC = 0.5
"""Seconds between two looks at the clients of a server that has freed nothing."""

USUAL_SEC = 3.0
"""Seconds that an unload may take at least before another plan is considered; longer where it usually takes longer."""

BY_CONNECTIONS = BusyRoute("", connections=True)
"""The busy check of a consumer without one: the connections of its clients."""

GivesWay = Callable[[], Awaitable[int]]
"""Number of jobs or clients for which an unload is put off, where it should be given up for that; 0 = it goes on."""


async def never_gives_way() -> int:
    """The unload goes on, whatever it waits for."""
    return 0


def has_begun(freed_mib: int | None) -> bool:
    """Whether an unload is not put off, as far as is known; ``freed_mib`` None = unknown."""
    return freed_mib is None or freed_mib > SLACK_MIB


def announce_put_off(state: ArbiterState, report: EvictionReport) -> None:
    """Publish that an unload is put off, after the state that belongs to it. The report says by what."""
    state.publish_changes()
    state.publish(EvictionDeferred(report))


class DeferredUnload:
    """One eviction attempt, from the moment at which its method reported success.

    Args:
        state: the arbiter's state.
        routes: asks for the connections of clients.
        report: the eviction.
        gives_way: called while an unload by route has freed nothing.
    """

    def __init__(
        self, state: ArbiterState, routes: ConsumerRoutes, report: EvictionReport, gives_way: GivesWay
    ) -> None:
        self._state, self._routes, self._gives_way = state, routes, gives_way
        self._report, self._is_announced = report, False
        self._spec = state.consumer(report.consumer).spec
        self._is_by_route = report.method == EvictionMethod.HTTP
        self._began = state.clock.monotonic()
        self._next_look = self._began + self._usual_sec()

    def _usual_sec(self) -> float:
        """Seconds within which its memory begins to become free, if it is not put off."""
        usual_sec = 2 * self._state.consumer(self._spec.name).times.unload_sec(EvictionMethod.HTTP)
        return min(self._state.settings.scheduler.settle_timeout_sec, max(USUAL_SEC, usual_sec))

    async def jobs_in_the_way(self, freed_mib: int | None, *, is_late: bool) -> int:
        """Number of jobs or clients for which the unload is given up now; 0 = it goes on.

        Args:
            freed_mib: MiB freed so far; None = unknown.
            is_late: all of its memory should be free by now. Before, an unload that frees some is left alone.
        """
        now = self._state.clock.monotonic()
        if not self._is_by_route or now < self._next_look or (has_begun(freed_mib) and not is_late):
            return 0
        self._next_look = now + POLL_SEC
        return await self._gives_way()

    async def is_waited_for(self, freed_mib: int | None, expected_mib: int) -> bool:
        """Whether it may wait for running requests, as Ollama's does, which the stop of its unit would cut off.

        A server with a busy check was asked before. Of another one the connections of its clients are evidence for the
        grace period of its work; they may be idle. That is announced once.

        Args:
            freed_mib: MiB freed so far; None = unknown.
            expected_mib: MiB that it should free.
        """
        if not self._is_by_route or self._spec.busy is not None or not self._spec.url or self._is_grace_over():
            return False
        clients = (await self._routes.probe_busy(replace(self._spec, busy=BY_CONNECTIONS))).jobs
        if self._spec.name in self._state.ledger.consumers:
            self._state.ledger.update(self._spec.name, unload_clients=clients or 0)
        if clients and not self._is_announced:
            self._is_announced = True
            error = self.describe(clients, freed_mib, expected_mib)
            log.info("%s: %s. It is waited for, for up to %g s", self._spec.name, error, self._spec.busy_grace_sec)
            announce_put_off(self._state, replace(self._report, freed_mib=freed_mib or 0, error=error))
        return bool(clients)

    def describe(self, jobs: int, freed_mib: int | None, expected_mib: int) -> str:
        """What is known of the unload, in one line; arguments as of ``describe_put_off``."""
        waited_sec = self._state.clock.monotonic() - self._began
        return describe_put_off(self._spec, jobs, freed_mib, expected_mib, waited_sec)

    def _is_grace_over(self) -> bool:
        """Whether the grace period of its work is over, which began with an earlier unload that was put off."""
        consumer, since = self._state.consumer(self._spec.name), self._began
        if (consumer.unload_deferred or consumer.direct_work) and consumer.blocking_since is not None:
            since = consumer.blocking_since
        return self._state.clock.monotonic() - since >= self._spec.busy_grace_sec
