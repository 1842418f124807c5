"""Calls a load route, and waits for its answer or for evidence that the model is loaded without one.

An answer can be missing although the load has succeeded: a stream of events that does not end after its last event, a
proxy that keeps the answer, a connection that was lost. The health check and the memory show the model all the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from gpumand.arbiter.loading_memory import LoadingMemory
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.timeouts import finished_within
from gpumand.domain.consumer import ConsumerSpec, Health
from gpumand.domain.eviction_check import SLACK_MIB
from gpumand.ports import ConsumerRoutes

log = logging.getLogger(__name__)

EVIDENCE_POLL_SEC = 1.0

LOADED_REST_SEC = 3.0
"""Seconds for which the server must say that its model is loaded, and its memory must not change, before the answer of
the load route is not waited for any more: some servers say so a moment too early."""

PART_REST_SEC = 15.0
"""The same while its memory is less than its footprint: a server that reads its model from a slow disk or network takes
no memory for a while. The end of the call would break off such a load."""


class LoadCall:
    """One call of a load route.

    Args:
        state: the state of the arbiter.
        routes: carries out the call.
        spec: the consumer.
        memory: its memory during this load.
    """

    def __init__(self, state: ArbiterState, routes: ConsumerRoutes, spec: ConsumerSpec, memory: LoadingMemory) -> None:
        self._state, self._routes, self._spec, self._memory = state, routes, spec, memory
        self._rests_since, self._held_mib = state.clock.monotonic(), 0

    async def run(self, probe: Callable[[], Awaitable[Health]]) -> None:
        """Call the route, and return when it has succeeded or the model is evidently loaded. Raises RouteFailed.

        Args:
            probe: asks the health check.
        """
        call: asyncio.Future[None] = asyncio.ensure_future(self._routes.load(self._spec))
        # Where the answer comes early, a model is no evidence either: the server may be about to replace it.
        can_be_seen = self._spec.health is not None and self._spec.load is not None and not self._spec.load.async_load
        try:
            while can_be_seen and not await finished_within(self._state.clock, call, EVIDENCE_POLL_SEC):
                if await self._is_evident(await probe()):
                    log.info("%s is loaded, although its load route has not answered", self._spec.name)
                    return
            await call
        finally:
            call.cancel()  # no effect on one that is done
            await asyncio.wait({call})

    async def _is_evident(self, health: Health) -> bool:
        await self._state.sample()
        now, held_mib = self._state.clock.monotonic(), self._memory.held_mib() or 0
        # A server can name its new model while it holds the former one: only memory that has grown is that of the new.
        has_grown = self._memory.has_grown() and not self._memory.is_missing(began_here=True)
        is_shown = health.reachable and health.loaded is True and has_grown
        if not is_shown or abs(held_mib - self._held_mib) > SLACK_MIB:
            self._rests_since, self._held_mib = now, held_mib
        rest_sec = LOADED_REST_SEC if self._memory.holds_all() else PART_REST_SEC
        return is_shown and now - self._rests_since >= rest_sec
