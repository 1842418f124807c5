"""The unit of a consumer during one load: its start, its restart, and the end of the run that is being loaded.

A container of a consumer without a unit is treated as its unit; see ``ConsumerSpec.service``.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from gpumand.arbiter.loading_memory import LoadingMemory
from gpumand.arbiter.state import ArbiterState
from gpumand.domain import budget, shared_units
from gpumand.domain.busyness import is_busy, is_deferring
from gpumand.domain.consumer import ConsumerSpec, UnitActivity, UnitState
from gpumand.domain.container import container_of
from gpumand.domain.device import Devices
from gpumand.domain.orphans import describe_orphans
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState
from gpumand.ports import ConsumerRoutes, RouteFailed, UnitFailed, UnitManager

log = logging.getLogger(__name__)

ORPHANS_SEC = 3.0
"""Seconds that processes of a stopped unit get to release their memory before a new run is started beside them."""

ORPHANS_POLL_SEC = 0.25

ENDED = frozenset({UnitActivity.FAILED, UnitActivity.INACTIVE})


class LoadingUnit:
    """The unit of one load; for a consumer without a unit, every check passes.

    Args:
        state: the state of the arbiter.
        units: starts and stops the unit.
        routes: asks the consumer whether it is at work.
        spec: the consumer.
        place: the devices of the load.
        ask_others: sends the busy checks of the other consumers in the unit; None = there are none.

    Attributes:
        memory: the VRAM of the consumer during this load.
        started: whether it was started, or started again, for this load.
        stopped: whether it was stopped again after a failure, so that nothing of the load is left.
    """

    def __init__(
        self,
        state: ArbiterState,
        units: UnitManager,
        routes: ConsumerRoutes,
        spec: ConsumerSpec,
        place: Devices,
        ask_others: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._state, self._units, self._routes = state, units, routes
        self._spec, self._place, self._ask_others = spec, place, ask_others
        self.memory = LoadingMemory(state, spec)
        self._run: UnitState | None = None
        self._server_is_gone = state.consumer(spec.name).server_is_gone
        self.started = self.stopped = False

    @property
    def has_run_long(self) -> bool:
        """Whether its run has been active for longer than a load takes, so that its model must have been loaded."""
        since, now = None if self._run is None else self._run.active_since, self._state.clock.monotonic()
        return since is not None and now - since > self._spec.load_timeout_sec

    async def is_running(self) -> bool:
        """Whether the unit is active, so that it need not be started; also notes its run. Raises UnitFailed."""
        if not self._spec.service:
            return True
        self._run = await self._units.state(self._spec.service)
        return self._run.activity is UnitActivity.ACTIVE

    async def start(self) -> None:
        """Start the unit, unless processes of its last run hold the memory that it needs. Raises UnitFailed."""
        await self._check_orphans()
        self.memory.begin()  # before the start: the start of some units ends only when the model is loaded
        self.started = True  # set before: a start that is cancelled halfway must be undone as well
        await self._units.start(self._spec.service, self._spec.load_timeout_sec)
        self._run = await self._current()

    async def restart(self, reason: str) -> None:
        """Stop and start the unit, once. Raises RouteFailed with the reason where that is useless or not allowed."""
        if self.started:
            raise RouteFailed(reason)
        if why_not := await self._why_no_restart():
            raise RouteFailed(f"{reason}. {why_not}")
        log.warning("%s: %s; restarting %s", self._spec.name, reason, self._spec.service)
        try:
            await self._units.stop(self._spec.service, self._spec.stop_timeout_sec)
        finally:
            self._state.ledger.update(self._spec.name, unit_changed_at=self._state.clock.monotonic())
        await self.start()

    async def stop(self) -> None:
        """Stop the unit after a failed load. Raises UnitFailed, also where another consumer in it is in use."""
        if self._ask_others is not None:
            await self._ask_others()
        if blocker := self._stop_blocker():
            raise UnitFailed(f"{blocker}, so that it was not stopped", "shared")
        await self._units.stop(self._spec.service, self._spec.stop_timeout_sec)
        self.stopped = True

    def _stop_blocker(self) -> str:
        """Why the unit must not be stopped although this load has failed; "" where nothing else in it is in use."""
        ledger, now = self._state.ledger, self._state.clock.monotonic()
        state = ledger.consumers.get(self._spec.name)
        blocker = None if state is None else shared_units.stop_blocker(ledger.consumers, state, now, ledger.sharing)
        return "" if blocker is None else blocker.reason

    async def check(self) -> None:
        """Raise UnitFailed when the run that is being loaded has ended, even if systemd has started another one."""
        unit = await self._current()
        if unit is None:
            return
        if unit.activity in ENDED:
            raise UnitFailed(f"{unit.unit} ended while {self._spec.name} was loading ({unit.result or unit.activity})")
        if self._run is not None and self._run.activity is UnitActivity.ACTIVE and _is_other_run(self._run, unit):
            raise UnitFailed(
                f"{unit.unit} ended while {self._spec.name} was loading, and {_manager_of(unit.unit)} started it again "
                f"({unit.restarts} restarts so far)"
            )

    async def log_lines(self) -> tuple[str, ...]:
        """The last log lines of the run that was loaded, which is not the current one after a restart by systemd."""
        if not self._spec.service:
            return ()
        run = self._run.invocation_id if self._run is not None and self._run.activity is UnitActivity.ACTIVE else ""
        lines = await self._units.failure_lines(self._spec.service, run) if run else ()
        return lines or await self._units.failure_lines(self._spec.service)

    async def work(self) -> str:
        """What speaks against interrupting the server now, as a clause about it; "" when it is idle.

        A server that does not answer may be at work: unknown is not idle. One that has no such route counts as busy
        while the last look at its connections found clients.
        """
        if self._spec.busy is None:
            return ""
        report = await self._routes.probe_busy(self._spec)
        if report.jobs is None and not report.refused and report.status == 0:
            return "does not answer whether it is busy"
        is_at_work = is_busy(self._state.consumer(self._spec.name)) if report.jobs is None else report.jobs > 0
        return "is busy" if is_at_work and not report.refused else ""

    async def _current(self) -> UnitState | None:
        """The state of the unit; None where systemd cannot be asked, which does not prove that the unit has ended."""
        if not self._spec.service:
            return None
        try:
            return await self._units.state(self._spec.service)
        except UnitFailed as failed:
            if failed.reason != "unavailable":
                raise
            return None

    async def _why_no_restart(self) -> str:
        """Why the unit must not be restarted, as a sentence; "" when it may be."""
        name, unit = self._spec.name, self._spec.service
        if not unit:
            return f"gpumand can restart it only if it knows its unit: set unit or container in consumers.{name}"
        work = "" if self._server_is_gone else await self.work()
        if self._ask_others is not None:
            await self._ask_others()
        # Read after the checks: a lease can have been granted during them.
        for other in shared_units.others_in_unit(
            self._state.ledger.consumers, self._state.consumer(name), self._state.ledger.sharing
        ):
            if use := _use(other):
                return f"{unit} is not restarted, since {other.name} runs in it and is {use}"
        if self._state.consumer(name).leases and not self._server_is_gone:
            return f"{unit} is not restarted, since {name} is leased: release or revoke the lease"
        return f"{unit} is not restarted, since {name} {work}: retry when it is idle" if work else ""

    async def _check_orphans(self) -> None:
        """Before a start, processes of an earlier run that still hold memory must leave enough room. Raises UnitFailed.

        They count as foreign from here on, so that their memory is never taken for that of the new run.
        """
        name, clock = self._spec.name, self._state.clock
        until = clock.monotonic() + ORPHANS_SEC
        await self._state.sample()
        while self._state.processes_of(name) and clock.monotonic() < until:
            await clock.sleep(ORPHANS_POLL_SEC)
            await self._state.sample()
        left = self._state.mark_orphans(name)
        if left and not self._fits():
            orphans = describe_orphans(self._spec.service, left)
            raise UnitFailed(f"{name} was not started beside its former process: {orphans}")

    def _fits(self) -> bool:
        view, name = self._state.view(), self._spec.name
        pairs = [
            (budget.free_mib(view, device, name), budget.need_mib(view, device, name))
            for device in self._place
            if device in view.devices
        ]
        return all(free_mib is None or free_mib >= need_mib for free_mib, need_mib in pairs)


def _manager_of(service: str) -> str:
    return "its restart policy" if container_of(service) else "systemd"


def _is_other_run(run: UnitState, unit: UnitState) -> bool:
    if unit.activity is UnitActivity.ACTIVATING or unit.restarts > run.restarts:
        return True
    return bool(run.invocation_id and unit.invocation_id) and unit.invocation_id != run.invocation_id


def _use(consumer: ConsumerState) -> str:
    """How a consumer is used, so that its unit must not be restarted; "" when it is not."""
    facts = [
        ("leased", consumer.leases > 0),
        ("busy", is_busy(consumer) or is_deferring(consumer)),
        ("pinned", consumer.pinned),
        ("loading", consumer.residency is Residency.LOADING),
    ]
    return next((fact for fact, applies in facts if applies), "")
