"""How long requests wait for the turns of other consumers, and queue passes at the moments when turns end."""

from __future__ import annotations

from collections.abc import Callable

from gpumand.arbiter.background import BackgroundTasks
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.domain import turns


class TurnWaits:
    """Ends the wait of each request for turns, by its budget and its timeout.

    Args:
        state: the arbiter's state.
        background: runs the timers.
        step: runs a queue pass.
    """

    def __init__(self, state: ArbiterState, background: BackgroundTasks, step: Callable[[], None]) -> None:
        self._state, self._background, self._step = state, background, step
        self._retries: set[float] = set()

    def refresh(self, entry: WaitingRequest, overtaken_sec: float) -> None:
        """Note whether a request still waits for turns, before it is decided.

        Args:
            entry: the request.
            overtaken_sec: seconds of work of later requests that went ahead of it.
        """
        is_overtaken = overtaken_sec >= self._state.settings.scheduler.overtake_budget_sec
        limit = entry.deadline - self.reserve_sec(entry.request.consumer)
        entry.ignores_turns = is_overtaken or self._state.clock.monotonic() >= limit

    def decide_again(self, entry: WaitingRequest, turn_ends_at: float) -> None:
        """Run a queue pass when a turn ends that a request waits for, or when the request stops waiting for turns."""
        self.decide_again_before(entry.request.consumer, entry.deadline, turn_ends_at)

    def decide_again_before(self, consumer: str, deadline: float, turn_ends_at: float) -> None:
        """The same for requests for a consumer, the first of which times out at ``deadline``."""
        limit = deadline - self.reserve_sec(consumer)
        # A limit that has passed has had its effect: another pass for it would change nothing.
        when = min(turn_ends_at, limit) if limit > self._state.clock.monotonic() else turn_ends_at
        if when not in self._retries:
            self._retries.add(when)
            self._background.spawn(self._step_at(when))

    def reserve_sec(self, consumer: str) -> float:
        """How long before its timeout a request stops waiting for turns, so that its load ends in time."""
        state = self._state.ledger.consumers.get(consumer)
        is_known = state is not None and state.footprint_known
        load_sec = state.times.longest_load_sec(state.footprint_mib) if state is not None and is_known else 0.0
        return -turns.latest_wait(0.0, load_sec)

    async def _step_at(self, when: float) -> None:
        # Never less than a millisecond: the sum of a time and a difference may be rounded to just before ``when``.
        await self._state.clock.sleep(max(0.001, when - self._state.clock.monotonic()))
        self._retries.discard(when)
        self._step()
