"""Starts, stops and watches systemd units: the port UnitManager over D-Bus."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import Any

from gpumand.bus.connection import BusConnection, Signal, Subscription
from gpumand.domain.consumer import UnitActivity, UnitState
from gpumand.ports import UnitFailed
from gpumand.service_manager import journal
from gpumand.service_manager.failures import UNUSABLE_LOAD_STATES, describe_result
from gpumand.service_manager.jobs import GONE, POLL_SEC, JobWatch
from gpumand.service_manager.manager import NO_JOB, Systemd1, Unit
from gpumand.service_manager.state_reports import StateReports
from gpumand.service_manager.watcher import UnitWatcher

SETTLE_SEC = 0.05
"""How long to wait after a stop before checking that the unit stays inactive. A socket or Restart= starts it again at
once or much later. A later start is noticed by the watch on the unit, while every load that waits for a stop would have
to wait longer."""

JOURNAL_TRIES, JOURNAL_RETRY_SEC = 5, 0.1

STOPPING_POLL_SEC = 0.2
EXPLAIN_TIMEOUT_SEC = 1.0
STOPPED = frozenset({UnitActivity.INACTIVE, UnitActivity.FAILED})
REACTIVATED = frozenset({UnitActivity.ACTIVE, UnitActivity.ACTIVATING})


class SystemdUnits:
    """The units of one systemd: the system manager, or the user manager on the session bus.

    Create it with ``attach``. Without systemd on the bus every call fails with the reason "unavailable". A systemd that
    appears later is used from then on.
    """

    def __init__(
        self, bus: BusConnection, *, user: bool = False, poll_sec: float = POLL_SEC, settle_sec: float = SETTLE_SEC
    ) -> None:
        """Create the object without calling systemd; use ``attach`` instead.

        Args:
            bus: a connection to the bus of systemd.
            user: whether it is the user manager.
            poll_sec: how often the unit of a running job is read while no signal arrives, in seconds.
            settle_sec: how long to wait after a stop before checking that the unit stays inactive, in seconds.
        """
        self._systemd = Systemd1(bus)
        self._user = user
        self._poll_sec = poll_sec
        self._settle_sec = settle_sec
        self._watcher = UnitWatcher(self._systemd)
        self._reports = StateReports(self._systemd, self.state)
        self._subscriptions: list[Subscription] = []
        self._resubscribing: asyncio.Task[None] | None = None

    @classmethod
    async def attach(
        cls, bus: BusConnection, *, user: bool = False, poll_sec: float = POLL_SEC, settle_sec: float = SETTLE_SEC
    ) -> SystemdUnits:
        """Subscribe to systemd and return its units. Raises BusError or BusLost if the bus refuses the subscription."""
        units = cls(bus, user=user, poll_sec=poll_sec, settle_sec=settle_sec)
        units._subscriptions.append(await units._systemd.listen_to_owner(units._on_owner_changed))
        units._subscriptions.append(await units._systemd.listen("Reloading", units._on_reloading))
        await units._systemd.subscribe()
        return units

    async def close(self) -> None:
        """Stop listening."""
        await self._watcher.close()
        if self._resubscribing is not None:
            self._resubscribing.cancel()
            await asyncio.wait([self._resubscribing])
        for subscription in self._subscriptions:
            await subscription.cancel()

    async def state(self, unit: str) -> UnitState:
        """Return the unit's current state. Raises UnitFailed with the reason "unavailable" or "bad-name"."""
        found = await self._systemd.read(unit)
        # Read after the run: a restart between the two reads shows as a larger number, and not as a quiet first run.
        return replace(found.state, restarts=await self._systemd.restarts(unit, found.path))

    async def report_states(
        self, units: Iterable[str], report: Callable[[UnitState], None]
    ) -> Mapping[str, UnitFailed]:
        """Report the current state of each unit; returns why the others are unknown (see ``gpumand.ports``)."""
        return await self._reports.report(units, report)

    async def start(self, unit: str, timeout_sec: float) -> None:
        """Start the unit and verify that it is active. Raises UnitFailed."""
        await self._within(unit, "start", timeout_sec, self._start(unit))

    async def stop(self, unit: str, timeout_sec: float) -> None:
        """Stop the unit with all its processes and verify that it stays inactive. Raises UnitFailed."""
        await self._within(unit, "stop", timeout_sec, self._stop(unit))

    async def start_commands(self, unit: str) -> tuple[tuple[str, ...], ...]:
        """Return the command lines of ExecStart= of a service; () if they cannot be read."""
        try:
            return await self._systemd.start_commands(unit)
        except UnitFailed:
            return ()

    async def unit_of_pid(self, pid: int) -> str:
        """Return the unit that a process runs in; "" if systemd does not know it."""
        return await self._systemd.unit_of_pid(pid)

    async def failure_lines(self, unit: str, invocation_id: str = "") -> tuple[str, ...]:
        """Return the last log lines of a run of the unit, by default the last; empty if the journal cannot be read."""
        try:
            found = await self._systemd.read(unit)
        except UnitFailed:
            return ()
        run = invocation_id or found.state.invocation_id
        lines = await journal.last_lines(journal.journalctl_command(unit, run, self._user))
        for _ in range(JOURNAL_TRIES - 1):
            if lines:
                break
            # The last lines of a unit reach the journal a moment after systemd reports its failure. The process has
            # often exited before journald can look up its invocation id, so these tries select the lines by time.
            await asyncio.sleep(JOURNAL_RETRY_SEC)
            lines = await journal.last_lines(journal.journalctl_command(unit, "", self._user, found.started_usec))
        return lines

    async def watch(self, units: Iterable[str], changed: Callable[[UnitState], None]) -> None:
        """Call ``changed`` for these units, first with the current state of each, then after every change."""
        await self._watcher.watch(units, changed)

    async def _within(self, unit: str, verb: str, timeout_sec: float, work: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout(timeout_sec):
                await work
        except TimeoutError:
            raise await self._timed_out(unit, verb, timeout_sec) from None

    async def _start(self, unit: str) -> None:
        current = await self._systemd.read(unit)
        _require_loaded(current)
        while current.state.activity is UnitActivity.DEACTIVATING:
            # A start job would replace the running stop job, and its waiting client would get the result "canceled".
            await asyncio.sleep(STOPPING_POLL_SEC)
            current = await self._systemd.read(unit)
        if current.state.activity is UnitActivity.ACTIVE:
            return
        async with JobWatch(self._systemd, unit, self._poll_sec) as job:
            result = await job.run(self._systemd.start)
        # The state decides, not the result: a job is "done" as well if a condition of the unit failed.
        current = await self._systemd.read(unit)
        if current.state.activity is not UnitActivity.ACTIVE:
            raise _start_failure(current, result)

    async def _stop(self, unit: str) -> None:
        current = await self._systemd.read(unit)
        # A stopped unit with a queued start job would start afterwards, so it needs a stop job, too.
        if current.state.activity in STOPPED and current.job_path == NO_JOB:
            return
        async with JobWatch(self._systemd, unit, self._poll_sec) as job:
            result = await job.run(self._systemd.stop)
        current = await self._systemd.read(unit)
        if current.state.activity in STOPPED:
            await asyncio.sleep(self._settle_sec)
            current = await self._systemd.read(unit)
        if current.state.activity not in STOPPED:
            raise _stop_failure(current, result)

    async def _timed_out(self, unit: str, verb: str, timeout_sec: float) -> UnitFailed:
        message = f"{unit} did not {verb} within {timeout_sec:g} s"
        # The explanation is optional and has its own short limit, since systemd may be the cause of the timeout.
        with contextlib.suppress(TimeoutError, UnitFailed):
            async with asyncio.timeout(EXPLAIN_TIMEOUT_SEC):
                message += await self._explain(unit, verb, timeout_sec)
        return UnitFailed(message, "timeout")

    async def _explain(self, unit: str, verb: str, timeout_sec: float) -> str:
        """Return the unit's state, and its own time limit if longer than gpumand's, which is the one to raise."""
        current = await self._systemd.read(unit)
        name = "TimeoutStartUSec" if verb == "start" else "TimeoutStopUSec"
        own_sec = await self._systemd.time_limit_sec(unit, current.path, name)
        longer = f"; its own {name} is {own_sec:g} s" if own_sec is not None and own_sec > timeout_sec else ""
        return f" and is {current.state.activity}{longer}"

    def _on_owner_changed(self, owner: str) -> None:
        """Subscribe again: a restarted systemd does not know the subscription."""
        if owner:
            self._resubscribing = asyncio.ensure_future(self._resubscribe(self._resubscribing))

    async def _resubscribe(self, former: asyncio.Task[None] | None) -> None:
        # One after the other, so that the latest change of owner is the last one to subscribe.
        if former is not None:
            await former
        await self._systemd.subscribe()
        self._watcher.refresh()

    def _on_reloading(self, signal: Signal) -> None:
        """Refresh all units after a reload (``false``): signals may have been lost, and aliases may have changed."""
        if signal.body == (False,):
            self._watcher.refresh()


def _require_loaded(current: Unit) -> None:
    """Raise UnitFailed if systemd has no usable unit file of that name, unless the unit is running."""
    state = current.state
    if state.load_state in UNUSABLE_LOAD_STATES and state.activity is not UnitActivity.ACTIVE:
        why = "systemd knows no such unit" if state.load_state == "not-found" else f"it is {state.load_state}"
        raise UnitFailed(f"{state.unit} cannot be started: {why}", state.load_state)


def _start_failure(current: Unit, result: str) -> UnitFailed:
    state = current.state
    if result == "done" and state.activity is not UnitActivity.FAILED:
        why = f"it is {state.activity} again" if state.result in ("", "success") else f"result {state.result}"
        return UnitFailed(
            f"{state.unit} did not start: {why} (a condition of the unit failed, or it exited immediately)", "inactive"
        )
    return UnitFailed(f"{state.unit} did not start: {_explain_result(current, result)}", _failure_reason(result))


def _stop_failure(current: Unit, result: str) -> UnitFailed:
    state = current.state
    if state.activity in REACTIVATED and result in ("done", GONE):
        by = f", triggered by {' '.join(current.triggered_by)}" if current.triggered_by else ""
        return UnitFailed(f"{state.unit} was started again right after it was stopped{by}", "reactivated")
    return UnitFailed(
        f"{state.unit} did not stop and is {state.activity}: {_explain_result(current, result)}",
        _failure_reason(result),
    )


def _explain_result(current: Unit, result: str) -> str:
    failed_with = current.state.result not in ("", "success")
    return describe_result(result) + (f" (result {current.state.result})" if failed_with else "")


def _failure_reason(result: str) -> str:
    return "failed" if result in ("done", GONE) else result
