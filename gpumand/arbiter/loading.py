"""Carries out one load of a consumer: starts its unit, calls its load route, and waits for evidence that it is loaded.

An answer is not evidence. A load route can answer before the work is done or fail inside a 200; a health check can be
answered by the process that is about to be replaced; a unit is active before its server listens. So a load is done when
the health check says so *and*, where readings attribute memory, the consumer's processes hold a model.
"""

from __future__ import annotations

import asyncio
import logging
import math

from gpumand.arbiter.load_answers import HealthUnusable, UnusableHealth, describe_health, has_model, patience_with
from gpumand.arbiter.load_call import LoadCall
from gpumand.arbiter.loading_unit import LoadingUnit
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.timeouts import succeeded_within
from gpumand.domain.consumer import STOPPING, ConsumerSpec, Health
from gpumand.domain.errors import LoadFailed
from gpumand.domain.eviction_check import SLACK_MIB
from gpumand.domain.partial_load import PartialLoad
from gpumand.domain.wording import with_log_lines
from gpumand.ports import ConsumerRoutes, RouteFailed, UnitFailed

log = logging.getLogger(__name__)

HEALTH_POLL_SEC = 0.25

ASYNC_POLL_SEC = 0.1
"""Seconds between health checks after a load route that answers early: the moment without a server may be short."""

ROUTE_GRACE_SEC = 5.0
"""Seconds for which a consumer without a unit may refuse connections after its load route was called: KoboldCpp
restarts its server to change the model."""

REFUSED_SEC = 10.0
"""Seconds for which a server whose unit was active before the load may refuse connections, since it may be starting."""

STALE_FAILURE_SEC = 3.0
"""Seconds for which a server may go on reporting the failure of the load before."""

LATE_MEMORY_SEC = 10.0
"""Seconds for which memory may be missing from the readings after the server has said that its model is loaded."""

BROKEN_OFF_UNLOAD_SEC = 10.0
"""Seconds that a server gets to unload while it loads, before its unit is stopped instead."""

BROKEN_OFF_REST_SEC = 5.0
"""Seconds without a change of its memory after which a server that was asked to unload has ended its load."""


class LoadBrokenOff(LoadFailed):
    """The load was cancelled; it has not failed, so that no backoff follows."""


class LoadAttempt:
    """One load of one consumer.

    Attributes:
        last_answer: what the last health check or reading showed, in one line; "" before the first.
        unit: its unit during the load.
        sleeps: the server has put its model to sleep, and wakes it for a request.
        partial: how much of the model is in VRAM, where the server reports that it is not all of it.
    """

    def __init__(self, state: ArbiterState, unit: LoadingUnit, routes: ConsumerRoutes, spec: ConsumerSpec) -> None:
        self._state, self._routes, self._spec = state, routes, spec
        self._now = state.clock.monotonic
        self._deadline = self._now() + spec.load_timeout_sec
        before = state.consumer(spec.name)
        self._server_is_gone = before.server_is_gone
        self._has_lost_model = before.memory_missing and before.has_served
        self._began = state.clock.monotonic()
        self._unusable = UnusableHealth(spec.name, state.clock.monotonic)
        self.unit, self._memory = unit, unit.memory
        self.last_answer, self.sleeps = "", False
        self.partial: PartialLoad | None = None
        self._task: asyncio.Task[None] | None = None
        self._break_off_reason = ""
        self._is_to_unload = asyncio.Event()
        self._route_called = self._route_accepted = self._is_calling = False
        self._route_accepted_at = 0.0
        self._joins_other_load = False
        self._former_failure = ""
        self._must_change = self._has_changed = self._tells_loading = False
        self._refused_since: float | None = None
        self._missing_since: float | None = None

    def break_off(self, reason: str) -> None:
        """Cancel the load: ``run`` raises LoadBrokenOff soon. No effect before it runs or after it has ended.

        A server goes on loading when its client hangs up. One that can unload is asked to, and its load is awaited.
        """
        if self._task is None or self._task.done() or self._break_off_reason:
            return
        self._break_off_reason = reason
        if self._route_called and self._spec.unload is not None and not self.unit.started:
            self._is_to_unload.set()
        else:
            self._task.cancel()

    async def run(self) -> bool:
        """Load the consumer.

        Returns:
            Whether its unit had to be started.

        Raises:
            LoadFailed: with the unit's result and last log lines, or the answer of the route.
        """
        self._task = asyncio.ensure_future(self._carry_out())
        try:
            await self._until_done(self._task)
            if not self._break_off_reason:
                self._task.result()
        except (UnitFailed, RouteFailed) as failed:
            message = await self._describe_failure(failed)
            if not isinstance(failed, HealthUnusable):
                await self._undo()
            raise LoadFailed(message) from failed
        if self._break_off_reason:
            await self._undo(is_failed=False)
            raise LoadBrokenOff(f"{self._spec.name}: {self._break_off_reason}")
        return self.unit.started

    async def _until_done(self, task: asyncio.Task[None]) -> None:
        """Wait until the load has ended, in whatever way."""
        is_to_unload = asyncio.ensure_future(self._is_to_unload.wait())
        try:
            await asyncio.wait({task, is_to_unload}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await self._unload_running(task)
        finally:
            is_to_unload.cancel()
            task.cancel()  # no effect on one that is done
            await asyncio.wait({task})

    async def _unload_running(self, task: asyncio.Task[None]) -> None:
        """Ask the server to unload, and wait until its load has ended or its memory rests.

        A server that does not unload is not waited for where a stop of its unit or container can end its load: the
        eviction that follows falls back to it.
        """
        can_be_stopped = any(method in STOPPING for method in self._spec.evict)
        limit_sec = BROKEN_OFF_UNLOAD_SEC if can_be_stopped else math.inf
        if not await self._ask_to_unload(limit_sec) and can_be_stopped:
            return
        rests_since, held_mib = self._now(), self._memory.held_mib() or 0
        # An early answer of either route is no evidence: the unload can be carried out after the load.
        while self._is_calling or self._now() - rests_since < BROKEN_OFF_REST_SEC:
            await self._state.clock.sleep(HEALTH_POLL_SEC)
            await self._state.sample()
            now_mib = self._memory.held_mib() or 0
            if task.done() and self._memory.is_released():
                break
            if self._is_calling or abs(now_mib - held_mib) > SLACK_MIB:
                rests_since, held_mib = self._now(), now_mib

    async def _ask_to_unload(self, limit_sec: float) -> bool:
        """Call the unload route during the load; returns whether it succeeded in time."""
        try:
            return await succeeded_within(self._state.clock, self._routes.unload(self._spec), limit_sec)
        except RouteFailed as failed:
            log.info("unloading %s, whose load is broken off, failed: %s", self._spec.name, failed)
            return False

    # -- steps ---------------------------------------------------------------------------------------------------

    async def _carry_out(self) -> None:
        before = None
        if await self.unit.is_running():
            before = await self._ask_before()
            if not self.unit.started:
                self._memory.begin()
        else:
            await self.unit.start()
        if before is not None and before.loading:
            self._joins_other_load = True
        elif self._spec.load is not None and not has_model(before):
            await self._call_load_route(before)
        elif self._spec.load is None and before is not None and before.failed:
            await self._load_again(before.failed)
        await self._wait_until_loaded()

    async def _ask_before(self) -> Health | None:
        """Ask the running server first: the model may be loaded already, or be loading for another client."""
        if self._spec.health is None:
            return None
        health = await self._probe()
        self._unusable.check(health)
        if health.refused and self._spec.service and self._server_is_gone:
            await self.unit.restart(f"nothing listens on its port although {self._spec.service} is active")
            return None
        self._former_failure = health.failed
        return health

    async def _call_load_route(self, before: Health | None) -> None:
        """Call the load route; a server whose unit was just started may not listen yet."""
        assert self._spec.load is not None
        self._must_change = self._spec.load.async_load and self._spec.health is not None
        self._has_changed = before is not None and not self._is_loaded(before)
        self._memory.route_is_called()
        self._route_called = True
        while True:
            self._is_calling = True
            try:
                await LoadCall(self._state, self._routes, self._spec, self._memory).run(self._probe)
            except RouteFailed as failed:
                error = failed
            else:
                self._route_accepted, self._route_accepted_at = True, self._now()
                return
            finally:
                self._is_calling = False
            if not error.refused:
                await self._join_other_load(error)
                return
            if not self._spec.service or self._now() >= self._deadline:
                raise error
            await self.unit.check()
            await self._check_refused(str(error))
            await self._state.clock.sleep(HEALTH_POLL_SEC)

    async def _join_other_load(self, failed: RouteFailed) -> None:
        """After a failed load route: return if the model is loaded, or is being loaded by another client's request.

        A server that is loading the model already refuses to load it again. Raises the failure of the route otherwise.
        """
        quiet_since, held_mib = self._now(), self._memory.held_mib() or 0
        while self._spec.health is not None:
            health = await self._probe()
            if has_model(health) or (health.loaded is None and self._is_loaded(health) and self._memory.holds_all()):
                return
            if health.loading:
                self._joins_other_load = True
                return
            await self._state.sample()
            if (grown_mib := self._memory.held_mib() or 0) > held_mib + SLACK_MIB:
                quiet_since, held_mib = self._now(), grown_mib
            is_hopeless = health.refused or (health.failed and health.failed != self._former_failure)
            is_quiet = self._now() - quiet_since >= patience_with(failed)
            if is_hopeless or is_quiet or self._now() >= self._deadline:
                break
            await self.unit.check()
            await self._state.clock.sleep(HEALTH_POLL_SEC)
        raise failed

    async def _wait_until_loaded(self) -> None:
        while True:
            health = await self._probe() if self._spec.health is not None else None
            if health is not None:
                await self._check_health(health)
                await self._replace_other_load(health)
            if self._is_believed(health) and await self._is_in_memory(health):
                # systemd reports a plain service as active as soon as its process exists, and that may end a moment
                # later.
                await self.unit.check()
                return
            if self._now() >= self._deadline:
                advice = self._memory.advice() if self._missing_since is not None else ""
                raise RouteFailed(f"not loaded after {self._spec.load_timeout_sec:g} s: {self.last_answer}{advice}")
            await self.unit.check()
            waits_for_change = self._must_change and not self._has_changed
            await self._state.clock.sleep(ASYNC_POLL_SEC if waits_for_change else HEALTH_POLL_SEC)

    async def _replace_other_load(self, health: Health) -> None:
        """Call the load route where the load of another client's request has ended without a model."""
        has_ended = self._joins_other_load and health.reachable and not health.loading and not has_model(health)
        if has_ended and self._spec.load is not None:
            self._joins_other_load = False
            await self._call_load_route(health)

    async def _load_again(self, reason: str) -> None:
        """Load from scratch: call the load route if it was not called yet, else start the unit again.

        Raises RouteFailed with the reason where nothing more can be done.
        """
        self._missing_since = self._refused_since = None
        if self._spec.load is None or self._route_called:
            await self.unit.restart(reason)
        if self._spec.load is not None:
            await self._call_load_route(None)

    # -- health --------------------------------------------------------------------------------------------------

    async def _probe(self) -> Health:
        health = await self._routes.probe_health(self._spec)
        self.last_answer, self.sleeps = describe_health(health), health.sleeping
        self.partial = health.partial
        return health

    async def _check_health(self, health: Health) -> None:
        """End the load where waiting for another answer is pointless. Raises RouteFailed, UnitFailed."""
        self._unusable.check(health)
        is_recent = self._route_accepted and self._now() < self._route_accepted_at + STALE_FAILURE_SEC
        if health.failed and not (is_recent and health.failed == self._former_failure):
            raise RouteFailed(f"the load failed: {health.failed}")
        if not self._is_loaded(health):
            self._has_changed = True
            self._tells_loading = self._tells_loading or health.status > 0
        if health.refused:
            await self._check_refused(health.error)
        else:
            self._refused_since = None
            await self._check_frozen(health)

    async def _check_frozen(self, health: Health) -> None:
        """Start the unit again if a server that has lost its model does not answer: another tool may have frozen it."""
        is_silent = not health.reachable and health.status == 0
        if self._has_lost_model and is_silent and self._now() - self._began >= LATE_MEMORY_SEC:
            self._has_lost_model = False
            if not self.unit.started and self._memory.is_missing(began_here=False):
                await self._load_again(f"{health.error}, and {self._memory.describe()}")

    async def _check_refused(self, error: str) -> None:
        """End the load, or start the unit again, if nothing has listened on the port for too long."""
        now = self._now()
        self._refused_since = now if self._refused_since is None else self._refused_since
        is_replaced = self._route_accepted and self._must_change
        if self.unit.started or is_replaced:
            return  # it is starting; the end of its unit or load_timeout_sec ends the wait
        if self._spec.service:
            if now - self._refused_since >= REFUSED_SEC:
                await self._load_again(f"nothing listens on its port although {self._spec.service} is active ({error})")
        elif now - self._refused_since >= (ROUTE_GRACE_SEC if self._spec.load is not None else 0.0):
            raise RouteFailed(error)

    def _is_loaded(self, health: Health) -> bool:
        if health.sleeping:
            return True
        # An answer without the value of its pointer, such as that of another server, is no evidence of a model.
        says_nothing = health.loaded is None and self._spec.health is not None and bool(self._spec.health.loaded)
        is_evidence = health.loaded is not False and (not says_nothing or self._memory.holds_all())
        return health.reachable and not health.loading and (is_evidence or self._spec.lazy)

    def _is_believed(self, health: Health | None) -> bool:
        """Whether the health answer says that the model is loaded, and is not about the time before this load."""
        if health is None:
            return True
        if not self._is_loaded(health):
            return False
        return not (self._route_accepted and self._must_change) or self._has_changed or self._memory.has_grown()

    # -- memory --------------------------------------------------------------------------------------------------

    async def _is_in_memory(self, health: Health | None) -> bool:
        """Whether readings agree that the model is in VRAM; where they do not for too long, load it again or fail."""
        # Read before the load counts as done: afterwards the reservation of the footprint may end, and the memory must
        # show in a reading by then.
        await self._state.sample()
        if self.sleeps:
            return True
        answer = f"{self._spec.service or self._spec.name} runs" if health is None else describe_health(health)
        now = self._now()
        if not self._memory.is_missing(began_here=self.unit.started or self._route_accepted):
            self._missing_since = None
            if self._says_loaded(health) or not self._memory.is_growing(now):
                return True
            self.last_answer = f"{answer}, and its memory is still growing: {self._memory.describe()}"
            return False
        self.last_answer = f"{answer}, but {self._memory.describe()}"
        self._missing_since = now if self._missing_since is None else self._missing_since
        says_loaded = self._route_accepted or self._says_loaded(health) or self.unit.has_run_long
        if says_loaded and now - self._missing_since >= LATE_MEMORY_SEC:
            await self._load_again(self.last_answer)
        return False

    def _says_loaded(self, health: Health | None) -> bool:
        """Whether its server says that the load is over: by a value, by the end of its load route, or by success after
        another status. A server that answers 200 as soon as it listens, and a bare unit, say nothing of the kind."""
        is_route_over = self._route_accepted and not self._must_change
        return is_route_over or self._tells_loading or (health is not None and health.loaded is True)

    # -- after a failure -----------------------------------------------------------------------------------------

    async def _undo(self, *, is_failed: bool = True) -> None:
        """Undo what this load began: stop the unit if it was started for it, else unload what the route loaded.

        Nothing that was there before is touched, and nothing that is in use. Errors are only logged.

        Args:
            is_failed: the load has failed. A cancelled load is evicted by the requests that need its memory.
        """
        spec = self._spec
        if self._state.consumer(spec.name).leases:
            return
        try:
            if self.unit.started:
                await self.unit.stop()
            elif is_failed and self._route_accepted and spec.unload is not None and not await self.unit.work():
                await self._routes.unload(spec)
        except (UnitFailed, RouteFailed) as failed:
            log.info("cleaning up after the load of %s failed: %s", spec.name, failed)

    async def _describe_failure(self, failed: UnitFailed | RouteFailed) -> str:
        message = str(failed) if isinstance(failed, UnitFailed) else f"{self._spec.name}: {failed}"
        return with_log_lines(message, await self.unit.log_lines())
