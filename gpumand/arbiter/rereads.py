"""Reads devices again for a short time before a request is decided on a failed reading.

One failed driver call says little: the next one, a quarter of a second later, mostly succeeds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.domain.decision import Decision

REREAD_SEC = 2.0
"""Seconds for which devices are read again before a decision is made without a reading."""

PAUSE_SEC = 0.25
"""Seconds between two of these readings."""

WAITING_PAUSE_SEC = 1.0
"""Seconds between readings while a request waits for a device that cannot be read."""


class Rereads:
    """Decides for how long a request waits for a better reading."""

    def __init__(self, state: ArbiterState) -> None:
        self._state = state

    def is_pending(self, entry: WaitingRequest, decision: Decision) -> bool:
        """Whether devices are to be read again before this decision is carried out.

        The time begins with the first failed reading that the request depends on, and begins again after a good one.
        """
        now = self._state.clock.monotonic()
        if not decision.unread:
            entry.progress.unread_since = None
            return False
        if entry.progress.unread_since is None:
            entry.progress.unread_since = now
        return now - entry.progress.unread_since < REREAD_SEC

    async def settled(self, decide: Callable[[], Decision]) -> Decision:
        """Take a reading and decide; while devices cannot be read that matter, read and decide again."""
        deadline = self._state.clock.monotonic() + REREAD_SEC
        await self._state.sample()
        while (decision := decide()).unread and self._state.clock.monotonic() < deadline:
            await self._state.clock.sleep(PAUSE_SEC)
            await self._state.sample(again=True)
        return decision

    async def until_decided(self, entry: WaitingRequest, step: Callable[[], None]) -> None:
        """Take a reading and call ``step``; while devices cannot be read that matter to the request, do it again."""
        deadline = self._state.clock.monotonic() + REREAD_SEC
        await self._read_and_step(self._state.sample(), entry, step)
        while entry.is_waiting and entry.progress.unread_since is not None and self._state.clock.monotonic() < deadline:
            await self._state.clock.sleep(PAUSE_SEC)
            await self._read_and_step(self._state.sample(again=True), entry, step)

    async def _read_and_step(self, reading: Awaitable[None], entry: WaitingRequest, step: Callable[[], None]) -> None:
        await reading
        if entry.is_waiting:  # else it was decided or dropped during the reading
            entry.progress.decided, entry.progress.sample_after = False, self._state.sampled_at
            step()
