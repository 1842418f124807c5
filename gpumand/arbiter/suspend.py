"""The host sleeps and shuts down, and sometimes nobody says so: nothing is begun before, and all is looked at after.

A load that begins seconds before a suspend fails in it, and what was known before says nothing in the morning: units
were stopped, processes lost their CUDA contexts, leases ran out by the wall clock. So from logind's announcement on
requests wait, and they are served again when everything was looked at anew. The announcement of the end may get lost
with the logind that owed it, and a suspend may go past logind altogether; that it happened shows in the clocks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from gpumand.arbiter.arbiter import Arbiter
from gpumand.arbiter.housekeeping import Housekeeping
from gpumand.arbiter.timeouts import ended
from gpumand.domain.errors import ShuttingDown
from gpumand.ports import Clock

log = logging.getLogger(__name__)

WAKING = "the host to wake up"
SHUTTING_DOWN = "the host is shutting down"

LOOK_SEC = 2.0
"""How often the clocks are compared."""

JUMP_SEC = 0.5
"""The clocks are not read at the same instant, and a process may be stopped between. No suspend is so short."""

ASK_SEC = 30.0
"""How long awake an announced sleep is believed in before logind is asked whether it is still to come."""

LONGEST_HOLD_SEC = 600.0
"""Writing a large memory image takes minutes; whoever prepares for longer than that has forgotten us."""

LOOK_AROUND_SEC = 3.0
"""How long requests wait for the look at everything after a suspend; what is not known by then is unknown."""


class SuspendWatch:
    """Holds the arbiter while the host sleeps, and closes it while the host shuts down.

    Args:
        arbiter: what is held.
        upkeep: who looks around afterwards.
        still_preparing: asks logind whether a sleep is being prepared; False also where it does not say.
    """

    def __init__(
        self, arbiter: Arbiter, housekeeping: Housekeeping, still_preparing: Callable[[], Awaitable[bool]]
    ) -> None:
        self._arbiter, self._upkeep, self._still_preparing = arbiter, housekeeping, still_preparing
        self._clock: Clock = arbiter.arbiter_state.clock
        self._suspended_sec = self._clock.suspended_sec()
        self._preparing_since: float | None = None
        self._ask_at = 0.0
        self._announced = 0
        self._woken = False
        self._heard = asyncio.Event()
        self._looking: set[asyncio.Task[None]] = set()
        self.shutting_down = False

    # -- what logind says ----------------------------------------------------------------------------------------

    def prepare_for_sleep(self, going: bool) -> None:
        """logind's PrepareForSleep: True before a suspend, False after it."""
        if going:
            self._hold()
        elif self._preparing_since is not None:
            self._preparing_since = None
            self._woken = True
            self._heard.set()

    def prepare_for_shutdown(self, going: bool) -> None:
        """logind's PrepareForShutdown: True before a shutdown, False where it was called off."""
        if going == self.shutting_down:
            return
        self.shutting_down = going
        log.info("the host %s", "is shutting down: nothing is granted any more" if going else "does not shut down")
        self._arbiter.gate.refused = SHUTTING_DOWN if going else ""
        if going:
            self._arbiter.scheduler.refuse_all(ShuttingDown(SHUTTING_DOWN))
        self._arbiter.scheduler.step()

    def _hold(self) -> None:
        now = self._clock.monotonic()
        self._announced += 1
        if self._preparing_since is None:
            log.info("the host is about to sleep: requests wait until it is awake")
            self._preparing_since = now
        self._ask_at = now + ASK_SEC
        self._close()

    def _close(self) -> None:
        """Begin and grant nothing; who asks waits, and is told why. What is under way goes on."""
        self._arbiter.gate.held = WAKING
        self._arbiter.scheduler.step()

    def _open(self) -> None:
        """Serve again, unless the host is about to sleep once more; nobody is decided on figures of before."""
        if self._preparing_since is None and not self._woken:
            log.info("awake: requests are served again")
            self._arbiter.gate.held = ""
            self._arbiter.scheduler.look_anew()
            self._arbiter.scheduler.step()

    # -- what the clocks say -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Notice every awakening, for as long as the daemon lives; a fault in one must not be the last."""
        while True:
            self._heard.clear()
            try:
                await self._look()
            except Exception:
                log.exception("the end of a suspend could not be dealt with")
                self._open()
            await ended(self._clock, self._heard.wait(), LOOK_SEC)

    async def _look(self) -> None:
        if self._has_slept():
            self._woken = True
        if not self._woken and await self._is_forgotten():
            log.warning("the host was to sleep, and logind has not said that it is awake; going on without its word")
            self._preparing_since = None
            self._woken = True
        if self._woken:
            await self._wake()

    def _has_slept(self) -> bool:
        former, self._suspended_sec = self._suspended_sec, self._clock.suspended_sec()
        slept_sec = self._suspended_sec - former
        if slept_sec < JUMP_SEC:
            return False
        log.info("the host was suspended for %.0f s", slept_sec)
        if self._preparing_since is not None:
            self._hold_on()
        return True

    def _hold_on(self) -> None:
        """It has slept and logind's word is still owed: as little time awake as at the beginning is a reason to ask."""
        self._preparing_since = self._clock.monotonic()
        self._ask_at = self._preparing_since + ASK_SEC

    async def _is_forgotten(self) -> bool:
        """Whether a sleep was announced, and neither came nor is to come."""
        if self._preparing_since is None or self._clock.monotonic() < self._ask_at:
            return False
        self._ask_at = self._clock.monotonic() + ASK_SEC
        if self._clock.monotonic() - self._preparing_since > LONGEST_HOLD_SEC:
            return True
        announced = self._announced
        is_still_to_come = await self._still_preparing()
        # What was announced while we asked is another sleep, of which the answer does not speak.
        return not is_still_to_come and self._preparing_since is not None and announced == self._announced

    # -- waking up -----------------------------------------------------------------------------------------------

    async def _wake(self) -> None:
        """Look at everything anew, for a bounded time, and go on, unless the host is about to sleep once more."""
        self._woken = False
        self._close()
        self._void()
        looking = asyncio.get_running_loop().create_task(self._upkeep.look_around())
        self._looking.add(looking)
        looking.add_done_callback(self._looked)
        if not await ended(self._clock, looking, LOOK_AROUND_SEC):
            log.warning("not everything could be looked at within %g s of waking up", LOOK_AROUND_SEC)
        self._open()

    def _void(self) -> None:
        """What was seen before says nothing any more, and leases may have run out by the wall clock."""
        self._arbiter.arbiter_state.void()
        self._arbiter.facts.void()
        self._arbiter.leases.expire()
        self._arbiter.arbiter_state.tell()

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._looking.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("looking around after waking up broke off", exc_info=error)
