"""Pings systemd's watchdog after checking that every part of the daemon works.

The pings come from the event loop, so a blocked loop sends none. A degraded daemon still pings: a driver that hangs in
the kernel for minutes, a consumer that needs its whole load timeout, a slow disk. A restart would fix none of these,
and all waiting requests would lose their place in the queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from gpumand.arbiter import Arbiter
from gpumand.arbiter.housekeeping import Housekeeping
from gpumand.bus.connection import BusConnection
from gpumand.ports import Clock, VramSource

log = logging.getLogger(__name__)

STALL_SEC = 120.0
"""Seconds by which a round of a housekeeping loop may be late. A round waits for a driver, systemd and disks, each with
a timeout of seconds. In a swap storm these add up, and a restart at that moment would make everything worse."""

PINGS_PER_PERIOD = 2
CHECKS_PER_PERIOD = 8
"""While a check fails it is repeated more often: a failure that ends within the period must not cause a restart."""


@runtime_checkable
class ThreadedSource(Protocol):
    """A VRAM source that reads in its own thread."""

    @property
    def thread_alive(self) -> bool:
        """False when the thread was started and has ended."""

    @property
    def busy_sec(self) -> float:
        """Seconds for which the current driver call has been running; 0.0 when there is none."""


@dataclass(frozen=True, slots=True)
class Liveness:
    """The results of one check of the daemon.

    Attributes:
        bus_lost: why the bus connection is lost, "" while it is not.
        arbiter_error: the error of a queue pass, "" when it was completed.
        sampler_alive: whether the thread of the VRAM source runs; True for a source without a thread.
        sampler_busy_sec: seconds for which its current driver call has been running.
        degraded: why VRAM cannot be read; "" when it can.
        housekeeping_ended: whether the housekeeping loops have ended although the daemon runs.
        overdue_sec: seconds by which each late housekeeping loop is overdue.
    """

    bus_lost: str = ""
    arbiter_error: str = ""
    sampler_alive: bool = True
    sampler_busy_sec: float = 0.0
    degraded: str = ""
    housekeeping_ended: bool = False
    overdue_sec: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LivenessChecks:
    """The parts of the daemon that the watchdog checks; ``source`` is a function since a reload may replace it."""

    bus: BusConnection
    arbiter: Arbiter
    housekeeping: Housekeeping
    housekeeping_task: asyncio.Task[None]
    source: Callable[[], VramSource]

    def collect(self) -> Liveness:
        """Check all parts. The scheduler is checked by running a queue pass, which is allowed at any time."""
        source = self.source()
        threaded = source if isinstance(source, ThreadedSource) else None
        return Liveness(
            bus_lost=self.bus.lost_reason,
            arbiter_error=self._run_queue_pass(),
            sampler_alive=threaded is None or threaded.thread_alive,
            sampler_busy_sec=threaded.busy_sec if threaded is not None else 0.0,
            degraded=self.arbiter.state.degraded,
            housekeeping_ended=self.housekeeping_task.done(),
            overdue_sec=self.housekeeping.overdue_sec(),
        )

    def _run_queue_pass(self) -> str:
        try:
            self.arbiter.scheduler.step()
        except Exception as error:
            log.exception("a queue pass failed")
            return repr(error)
        return ""


def failure_reason(liveness: Liveness) -> str:
    """Why the daemon must be restarted, in one line; "" when it works."""
    if liveness.bus_lost:
        return f"the bus connection is lost: {liveness.bus_lost}"
    if liveness.arbiter_error:
        return f"the queue cannot be processed: {liveness.arbiter_error}"
    return _sampler_failure(liveness) or _loop_failure(liveness)


def _sampler_failure(liveness: Liveness) -> str:
    if not liveness.sampler_alive:
        return "the thread that reads VRAM has died"
    # With ``degraded`` set, the hanging call was noticed and requests get an answer. Without it, the timeout of the
    # VRAM source itself has failed.
    if liveness.sampler_busy_sec > STALL_SEC and not liveness.degraded:
        return f"a driver call has hung for {liveness.sampler_busy_sec:.0f} s without being reported as degraded"
    return ""


def _loop_failure(liveness: Liveness) -> str:
    if liveness.housekeeping_ended:
        return "the housekeeping loops have ended"
    late = [f"{loop} is {sec:.0f} s late" for loop, sec in liveness.overdue_sec.items() if sec > STALL_SEC]
    return ", ".join(sorted(late))


class Watchdog:
    """Pings systemd for as long as the checks succeed.

    Args:
        clock: the clock for the pauses.
        period_sec: seconds within which systemd expects a ping.
        check: performs the checks; an exception counts as a failure.
        ping: sends the ping to systemd.
    """

    def __init__(
        self, clock: Clock, period_sec: float, check: Callable[[], Liveness], ping: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._period_sec = period_sec
        self._check = check
        self._ping = ping
        self._failure = ""

    async def run(self) -> None:
        """Check and ping until cancelled."""
        while True:
            is_alive = self.beat()
            await self._clock.sleep(self._period_sec / (PINGS_PER_PERIOD if is_alive else CHECKS_PER_PERIOD))

    def beat(self) -> bool:
        """Check once, and ping if all checks succeed; returns whether they do."""
        failure = self._current_failure()
        if failure and failure != self._failure:
            log.critical("watchdog pings stop, so that systemd restarts gpumand: %s", failure)
        elif self._failure and not failure:
            log.warning("watchdog pings continue; resolved: %s", self._failure)
        self._failure = failure
        if not failure:
            self._ping()
        return not failure

    def _current_failure(self) -> str:
        try:
            return failure_reason(self._check())
        except Exception as error:
            # A check that raises must stop the pings too: then the state of the daemon is unknown.
            return f"the watchdog's checks failed: {error!r}"
