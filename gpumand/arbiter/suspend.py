"""Pauses the arbiter while the host suspends, refreshes all state after the resume, and refuses work at shutdown.

A load that starts seconds before a suspend fails. After the resume nothing known before is reliable: units may have
stopped, processes may have lost their CUDA contexts, leases may have expired by the wall clock. So requests wait from
logind's announcement until all state has been read again.

logind's second announcement (resumed) may be missing, for example because logind was restarted, and a suspend may
bypass logind altogether. So the clocks are compared as well: CLOCK_BOOTTIME goes on during a suspend, CLOCK_MONOTONIC
does not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from gpumand.arbiter.arbiter import Arbiter
from gpumand.arbiter.housekeeping import Housekeeping
from gpumand.arbiter.timeouts import finished_within
from gpumand.domain.errors import ShuttingDown
from gpumand.ports import Clock

log = logging.getLogger(__name__)

WAITING_FOR_RESUME = "the host is suspending or has just resumed"
SHUTTING_DOWN = "the host is shutting down"

CLOCK_CHECK_SEC = 2.0
"""Seconds between comparisons of the clocks."""

MIN_SUSPEND_SEC = 0.5
"""A smaller difference does not count as a suspend: the two clocks are not read at the same instant."""

RECHECK_SEC = 30.0
"""Seconds awake after an announcement until logind is asked whether the suspend is still being prepared."""

MAX_HOLD_SEC = 600.0
"""Seconds awake after an announcement until it is ignored. Writing the memory image of a hibernation takes minutes."""

REFRESH_LIMIT_SEC = 3.0
"""Seconds for which requests wait while all state is read after a suspend; the rest is unknown until it answers."""


class SuspendWatch:
    """Pauses the arbiter while the host is suspended and makes it refuse requests while the host shuts down.

    Args:
        arbiter: the arbiter to pause.
        housekeeping: refreshes all state after a suspend.
        still_preparing: asks logind whether a suspend is being prepared; False if logind does not answer.
    """

    def __init__(
        self, arbiter: Arbiter, housekeeping: Housekeeping, still_preparing: Callable[[], Awaitable[bool]]
    ) -> None:
        self._arbiter, self._housekeeping, self._still_preparing = arbiter, housekeeping, still_preparing
        self._clock: Clock = arbiter.state.clock
        self._suspended_sec = self._clock.suspended_sec()
        self._preparing_since: float | None = None
        self._recheck_at = 0.0
        self._announced = 0
        self._resume_pending = False
        self._announcement_received = asyncio.Event()
        self._refreshing: set[asyncio.Task[None]] = set()
        self.shutting_down = False

    # -- announcements of logind ---------------------------------------------------------------------------------

    def prepare_for_sleep(self, start: bool) -> None:
        """Handle logind's signal PrepareForSleep: True before a suspend, False after it."""
        if start:
            self._hold()
        elif self._preparing_since is not None:
            # Only recorded here: a signal handler cannot await. ``run`` does the work.
            self._preparing_since = None
            self._resume_pending = True
            self._announcement_received.set()

    def prepare_for_shutdown(self, start: bool) -> None:
        """Handle logind's signal PrepareForShutdown: True before a shutdown, False if it was cancelled."""
        if start == self.shutting_down:
            return
        self.shutting_down = start
        log.info(
            "the host is shutting down: requests are refused" if start else "the shutdown of the host was cancelled"
        )
        self._arbiter.gate.refused = SHUTTING_DOWN if start else ""
        if start:
            self._arbiter.scheduler.refuse_all(ShuttingDown(SHUTTING_DOWN))
        self._arbiter.scheduler.step()

    def _hold(self) -> None:
        now = self._clock.monotonic()
        self._announced += 1
        if self._preparing_since is None:
            log.info("the host is about to suspend: requests wait until it resumes")
            self._preparing_since = now
        self._recheck_at = now + RECHECK_SEC
        self._close()

    def _close(self) -> None:
        """Start and grant nothing; requests wait with the reason. Jobs that are running continue."""
        self._arbiter.gate.suspending = WAITING_FOR_RESUME
        self._arbiter.scheduler.step()

    def _open(self) -> None:
        """Serve requests again, on new readings only, unless the host is about to suspend once more."""
        if self._preparing_since is None and not self._resume_pending:
            log.info("the host has resumed: requests are served again")
            self._arbiter.gate.suspending = ""
            self._arbiter.scheduler.require_new_readings()
            self._arbiter.scheduler.step()

    # -- comparing the clocks ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Handle every resume until cancelled. After an unexpected error the gate is opened and the loop continues."""
        while True:
            # Cleared before the state is checked: an announcement during the check ends the wait below at once.
            self._announcement_received.clear()
            try:
                await self._check_clocks()
            except Exception:
                log.exception("handling the resume of the host failed: requests are served again")
                self._open()
            await finished_within(self._clock, self._announcement_received.wait(), CLOCK_CHECK_SEC)

    async def _check_clocks(self) -> None:
        if self._has_suspended():
            self._resume_pending = True
        if not self._resume_pending and await self._announcement_expired():
            log.warning("a suspend was announced, but logind has reported no resume: requests are served again")
            self._preparing_since = None
            self._resume_pending = True
        if self._resume_pending:
            await self._handle_resume()

    def _has_suspended(self) -> bool:
        former, self._suspended_sec = self._suspended_sec, self._clock.suspended_sec()
        suspended_for_sec = self._suspended_sec - former
        if suspended_for_sec < MIN_SUSPEND_SEC:
            return False
        log.info("the host was suspended for %.0f s", suspended_for_sec)
        if self._preparing_since is not None:
            self._restart_hold()
        return True

    def _restart_hold(self) -> None:
        """After a suspend without an announced end: count the time awake from the start again.

        logind's second announcement normally follows soon after the resume; another suspend may follow as well.
        """
        self._preparing_since = self._clock.monotonic()
        self._recheck_at = self._preparing_since + RECHECK_SEC

    async def _announcement_expired(self) -> bool:
        """Whether a suspend was announced that has not happened and is not being prepared any more."""
        if self._preparing_since is None or self._clock.monotonic() < self._recheck_at:
            return False
        self._recheck_at = self._clock.monotonic() + RECHECK_SEC
        if self._clock.monotonic() - self._preparing_since > MAX_HOLD_SEC:
            return True
        announced = self._announced
        is_still_to_come = await self._still_preparing()
        # An announcement during this await belongs to another suspend, which the answer does not cover.
        return not is_still_to_come and self._preparing_since is not None and announced == self._announced

    # -- after a suspend -----------------------------------------------------------------------------------------

    async def _handle_resume(self) -> None:
        """Refresh all state within a time limit, then serve requests again unless another suspend is announced."""
        self._resume_pending = False
        self._close()
        self._invalidate()
        refreshing = asyncio.get_running_loop().create_task(self._housekeeping.refresh_all())
        # After the time limit the refresh continues in the background; this set keeps its task alive.
        self._refreshing.add(refreshing)
        refreshing.add_done_callback(self._refresh_done)
        if not await finished_within(self._clock, refreshing, REFRESH_LIMIT_SEC):
            log.warning("the state of some consumers is still unknown %g s after the resume", REFRESH_LIMIT_SEC)
        self._open()

    def _invalidate(self) -> None:
        """Discard readings and observations from before the suspend, and end leases that expired during it."""
        self._arbiter.state.invalidate_readings()
        self._arbiter.reconciler.forget_observations()
        self._arbiter.leases.expire()
        self._arbiter.state.publish_changes()

    def _refresh_done(self, task: asyncio.Task[None]) -> None:
        self._refreshing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("refreshing the state after the resume failed", exc_info=error)
