"""Whether the daemon is alive, and telling systemd so: a ping is a judgement, not a habit.

The event loop pings, so a loop that is blocked does not; and it pings only after everything that must be alive was
looked at. What is merely degraded is alive: a driver that hangs in the kernel for minutes, a consumer that takes all of
its load timeout, a disk that is slow. Starting us anew would mend none of these, and would cost everybody their place
in the queue.
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
"""By how much a turn of a loop may be late. A turn waits for a driver, for systemd and for disks, each of which has a
timeout of seconds; in a swap storm they add up, and a watchdog that fires then makes everything worse."""

PINGS_A_PERIOD = 2
LOOKS_A_PERIOD = 8
"""How often a daemon that was found sick is looked at again: what mends itself in time is no reason to die."""


@runtime_checkable
class ThreadedSource(Protocol):
    """A source of figures that has a thread of its own."""

    @property
    def thread_alive(self) -> bool:
        """Whether the thread, once started, still runs."""

    @property
    def busy_sec(self) -> float:
        """For how long the call under way has been running; 0.0 when none is."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """What was found of everything that must be alive.

    Attributes:
        bus_lost: why the bus is gone, "" while it stands.
        arbiter_error: what came of a look at the queue, "" when it was completed.
        sampler_alive: whether the thread of the VRAM source runs; True where there is none.
        sampler_busy_sec: for how long its call under way has been running.
        degraded: what is known of figures that cannot be read; "" when all is well.
        upkeep_ended: whether the loops have ended though the daemon goes on.
        overdue_sec: for how long the next turn of each loop has been due, for those that are late.
    """

    bus_lost: str = ""
    arbiter_error: str = ""
    sampler_alive: bool = True
    sampler_busy_sec: float = 0.0
    degraded: str = ""
    upkeep_ended: bool = False
    overdue_sec: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Body:
    """Everything that must be alive; ``source`` is asked for because a reload may replace it."""

    bus: BusConnection
    arbiter: Arbiter
    housekeeping: Housekeeping
    keeping_up: asyncio.Task[None]
    source: Callable[[], VramSource]

    def vitals(self) -> Vitals:
        """Look at everything; the queue is looked at by serving it, which may be done at any time."""
        source = self.source()
        threaded = source if isinstance(source, ThreadedSource) else None
        return Vitals(
            bus_lost=self.bus.lost_reason,
            arbiter_error=self._serve_queue(),
            sampler_alive=threaded is None or threaded.thread_alive,
            sampler_busy_sec=threaded.busy_sec if threaded is not None else 0.0,
            degraded=self.arbiter.arbiter_state.degraded,
            upkeep_ended=self.keeping_up.done(),
            overdue_sec=self.housekeeping.overdue_sec(),
        )

    def _serve_queue(self) -> str:
        try:
            self.arbiter.scheduler.step()
        except Exception as error:
            log.exception("the queue cannot be served")
            return repr(error)
        return ""


def why_sick(vitals: Vitals) -> str:
    """Why the daemon must be started anew, in one line; "" when it is alive."""
    if vitals.bus_lost:
        return f"the bus is lost: {vitals.bus_lost}"
    if vitals.arbiter_error:
        return f"the queue cannot be looked at: {vitals.arbiter_error}"
    return _why_blind(vitals) or _why_stalled(vitals)


def _why_blind(vitals: Vitals) -> str:
    if not vitals.sampler_alive:
        return "the thread that reads VRAM has died"
    if vitals.sampler_busy_sec > STALL_SEC and not vitals.degraded:
        return f"a driver call has hung for {vitals.sampler_busy_sec:.0f} s and nobody has noticed"
    return ""


def _why_stalled(vitals: Vitals) -> str:
    if vitals.upkeep_ended:
        return "the loops that keep the books have ended"
    late = [f"{loop} is {sec:.0f} s late" for loop, sec in vitals.overdue_sec.items() if sec > STALL_SEC]
    return ", ".join(sorted(late))


class Watchdog:
    """Pings for as long as the vitals are those of somebody alive.

    Args:
        clock: what is slept by.
        period_sec: within which systemd wants to hear of us.
        look: takes the vitals; what it raises is a sickness too.
        ping: tells systemd.
    """

    def __init__(self, clock: Clock, period_sec: float, look: Callable[[], Vitals], ping: Callable[[], None]) -> None:
        self._clock = clock
        self._period_sec = period_sec
        self._look = look
        self._ping = ping
        self._sickness = ""

    async def run(self) -> None:
        """Look and ping, for as long as the daemon lives; never more often than needed."""
        while True:
            is_well = self.beat()
            await self._clock.sleep(self._period_sec / (PINGS_A_PERIOD if is_well else LOOKS_A_PERIOD))

    def beat(self) -> bool:
        """Look once, and ping if all is well; whether it is."""
        sickness = self._judge()
        if sickness and sickness != self._sickness:
            log.critical("not alive, so systemd is not told that we are: %s", sickness)
        elif self._sickness and not sickness:
            log.warning("alive again; it was: %s", self._sickness)
        self._sickness = sickness
        if not sickness:
            self._ping()
        return not sickness

    def _judge(self) -> str:
        try:
            return why_sick(self._look())
        except Exception as error:
            # What keeps us from looking is the one thing that nobody thought of.
            return f"the vitals cannot be taken: {error!r}"
