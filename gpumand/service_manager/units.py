"""The UnitManager port over org.freedesktop.systemd1."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from gpumand.bus.connection import BusConnection, Signal, Subscription
from gpumand.domain.consumer import UnitActivity, UnitState
from gpumand.ports import UnitFailed
from gpumand.service_manager import journal
from gpumand.service_manager.failures import LOAD_STATES_REFUSED, result_words
from gpumand.service_manager.jobs import GONE, POLL_SEC, JobWatch
from gpumand.service_manager.manager import NO_JOB, Systemd1, Unit
from gpumand.service_manager.watcher import UnitWatcher

SETTLE_SEC = 0.05
"""How long a stopped unit is looked at for coming back. Sockets and Restart= act at once or later: one that comes back
later is noticed by whoever watches it, while every load that waits for a stop would wait for this."""

JOURNAL_LOOKS, JOURNAL_SEC = 5, 0.1

REASK_SEC = 0.2
EXPLAIN_SEC = 1.0
STOPPED = frozenset({UnitActivity.INACTIVE, UnitActivity.FAILED})
COMING_BACK = frozenset({UnitActivity.ACTIVE, UnitActivity.ACTIVATING})


class SystemdUnits:
    """systemd's units on one bus: the system's, or the user's own on the session bus.

    Made by ``attach``. Where there is no systemd, every call says so ("unavailable"), and it is used from the moment
    it appears.
    """

    def __init__(
        self, bus: BusConnection, *, user: bool = False, poll_sec: float = POLL_SEC, settle_sec: float = SETTLE_SEC
    ) -> None:
        """Prepare, without talking to anybody; see ``attach``.

        Args:
            bus: a connection to the bus where systemd is.
            user: it is the user's own systemd.
            poll_sec: how often a job's unit is asked while nothing is heard of the job.
            settle_sec: how long a stopped unit is looked at for coming back.
        """
        self._systemd = Systemd1(bus)
        self._user = user
        self._poll_sec = poll_sec
        self._settle_sec = settle_sec
        self._watcher = UnitWatcher(self._systemd)
        self._subscriptions: list[Subscription] = []
        self._resubscribing: asyncio.Task[None] | None = None

    @classmethod
    async def attach(
        cls, bus: BusConnection, *, user: bool = False, poll_sec: float = POLL_SEC, settle_sec: float = SETTLE_SEC
    ) -> SystemdUnits:
        """Begin to listen to systemd. Raises BusError, BusLost where not even the bus plays along."""
        units = cls(bus, user=user, poll_sec=poll_sec, settle_sec=settle_sec)
        units._subscriptions.append(await units._systemd.listen_to_owner(units._on_owner))
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
        """What the unit is now. Raises UnitFailed: "unavailable", "bad-name"."""
        return (await self._systemd.read(unit)).state

    async def start(self, unit: str, timeout_sec: float) -> None:
        """Start it and see it active. Raises UnitFailed."""
        await self._within(unit, "start", timeout_sec, self._start(unit))

    async def stop(self, unit: str, timeout_sec: float) -> None:
        """Stop it with all its processes, and see that it stays so. Raises UnitFailed."""
        await self._within(unit, "stop", timeout_sec, self._stop(unit))

    async def unit_of_pid(self, pid: int) -> str:
        """The unit a process runs in; "" when systemd does not say."""
        return await self._systemd.unit_of_pid(pid)

    async def failure_lines(self, unit: str) -> tuple[str, ...]:
        """The last lines of the unit's last run; none where the journal cannot be read."""
        try:
            found = await self._systemd.read(unit)
        except UnitFailed:
            return ()
        lines = await journal.last_lines(journal.journalctl_command(unit, found.state.invocation_id, self._user))
        for _ in range(JOURNAL_LOOKS - 1):
            if lines:
                break
            # What a unit said right before it died is in the journal only a moment after systemd tells of its death.
            # Often journald found no process any more to tell the run by: then the time has to.
            await asyncio.sleep(JOURNAL_SEC)
            lines = await journal.last_lines(journal.journalctl_command(unit, "", self._user, found.started_usec))
        return lines

    async def watch(self, units: Iterable[str], changed: Callable[[UnitState], None]) -> None:
        """Have ``changed`` called for these units: once with what each is now, then with every change."""
        await self._watcher.watch(units, changed)

    async def _within(self, unit: str, verb: str, timeout_sec: float, work: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout(timeout_sec):
                await work
        except TimeoutError:
            raise await self._timed_out(unit, verb, timeout_sec) from None

    async def _start(self, unit: str) -> None:
        now = await self._systemd.read(unit)
        _require_loaded(now)
        while now.state.activity is UnitActivity.DEACTIVATING:
            # Our job would replace the one that stops it, and whoever waits for that would hear "canceled".
            await asyncio.sleep(REASK_SEC)
            now = await self._systemd.read(unit)
        if now.state.activity is UnitActivity.ACTIVE:
            return
        async with JobWatch(self._systemd, unit, self._poll_sec) as job:
            result = await job.run(self._systemd.start)
        now = await self._systemd.read(unit)
        if now.state.activity is not UnitActivity.ACTIVE:
            raise _not_started(now, result)

    async def _stop(self, unit: str) -> None:
        now = await self._systemd.read(unit)
        if now.state.activity in STOPPED and now.job_path == NO_JOB:
            return
        async with JobWatch(self._systemd, unit, self._poll_sec) as job:
            result = await job.run(self._systemd.stop)
        now = await self._systemd.read(unit)
        if now.state.activity in STOPPED:
            await asyncio.sleep(self._settle_sec)
            now = await self._systemd.read(unit)
        if now.state.activity not in STOPPED:
            raise _not_stopped(now, result)

    async def _timed_out(self, unit: str, verb: str, timeout_sec: float) -> UnitFailed:
        message = f"{unit} did not {verb} within {timeout_sec:g} s"
        with contextlib.suppress(TimeoutError, UnitFailed):
            async with asyncio.timeout(EXPLAIN_SEC):
                message += await self._explain(unit, verb, timeout_sec)
        return UnitFailed(message, "timeout")

    async def _explain(self, unit: str, verb: str, timeout_sec: float) -> str:
        """Where the unit is; and where its own limit is longer than ours: then ours is the one to raise."""
        now = await self._systemd.read(unit)
        name = "TimeoutStartUSec" if verb == "start" else "TimeoutStopUSec"
        own_sec = await self._systemd.time_limit_sec(unit, now.path, name)
        longer = f"; its own {name} is {own_sec:g} s" if own_sec is not None and own_sec > timeout_sec else ""
        return f" and is {now.state.activity}{longer}"

    def _on_owner(self, owner: str) -> None:
        """A new systemd (restarted, or just appeared) knows nothing of our subscription."""
        if owner:
            self._resubscribing = asyncio.ensure_future(self._resubscribe(self._resubscribing))

    async def _resubscribe(self, former: asyncio.Task[None] | None) -> None:
        if former is not None:
            await former
        await self._systemd.subscribe()
        self._watcher.refresh()

    def _on_reloading(self, signal: Signal) -> None:
        """``false`` when it is done: signals may have been lost, aliases may have changed."""
        if signal.body == (False,):
            self._watcher.refresh()


def _require_loaded(now: Unit) -> None:
    """Raise UnitFailed where systemd has no usable unit of that name, unless it runs all the same."""
    state = now.state
    if state.load_state in LOAD_STATES_REFUSED and state.activity is not UnitActivity.ACTIVE:
        why = "systemd knows no such unit" if state.load_state == "not-found" else f"it is {state.load_state}"
        raise UnitFailed(f"{state.unit} cannot be started: {why}", state.load_state)


def _not_started(now: Unit, result: str) -> UnitFailed:
    state = now.state
    if result == "done" and state.activity is not UnitActivity.FAILED:
        why = f"it is {state.activity} again" if state.result in ("", "success") else f"result {state.result}"
        return UnitFailed(
            f"{state.unit} did not start: {why} (a condition of it may not hold, or it ended at once)", "inactive"
        )
    return UnitFailed(f"{state.unit} did not start: {_why(now, result)}", _reason(result))


def _not_stopped(now: Unit, result: str) -> UnitFailed:
    state = now.state
    if state.activity in COMING_BACK and result in ("done", GONE):
        by = f", started by {' '.join(now.triggered_by)}" if now.triggered_by else ""
        return UnitFailed(f"{state.unit} came back right after it was stopped{by}", "reactivated")
    return UnitFailed(f"{state.unit} did not stop and is {state.activity}: {_why(now, result)}", _reason(result))


def _why(now: Unit, result: str) -> str:
    failed_with = now.state.result not in ("", "success")
    return result_words(result) + (f" (result {now.state.result})" if failed_with else "")


def _reason(result: str) -> str:
    return "failed" if result in ("done", GONE) else result
