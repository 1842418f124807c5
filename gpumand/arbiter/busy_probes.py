"""Asking consumers whether they work: now and then, often while somebody waits for that, and right before evictions."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from gpumand.arbiter.state import ArbiterState
from gpumand.domain import busyness
from gpumand.domain.consumer import Work
from gpumand.domain.victims import EVICTABLE
from gpumand.domain.view import ConsumerState
from gpumand.ports import ConsumerRoutes

log = logging.getLogger(__name__)

RECENT_SEC = 5.0
"""Who waits says so at every step of the desk; what nobody has said for so long nobody waits for."""


class BusyProbes:
    """Keeps in the books who works, and since when somebody needs their room."""

    def __init__(self, arbiter_state: ArbiterState, routes: ConsumerRoutes) -> None:
        self._books, self._routes = arbiter_state, routes
        self._heard_at: dict[str, float] = {}
        self._asked_at: dict[str, float] = {}
        self._needed_at: dict[str, float] = {}

    async def ask(self, name: str) -> None:
        """Ask one whether it works, if it has a busy route and may be loaded; some servers load when they are asked."""
        state = self._books.ledger.consumers.get(name)
        if state is None or state.spec.busy is None or (state.residency not in EVICTABLE and not _is_going(state)):
            return
        asked_at = self._books.clock.monotonic()
        work = await self._routes.jobs(state.spec)
        if work.jobs is None:
            log.debug("consumer %s does not say whether it works: %s", name, work.error)
        self.note(name, work, asked_at)

    async def why_spared(self, name: str) -> str:
        """Ask it, and say why its work keeps it from being evicted now; "" where it does not."""
        await self.ask(name)
        state = self._books.ledger.consumers.get(name)
        return "" if state is None else busyness.why_spared(state, self._books.clock.monotonic())

    def note(self, name: str, work: Work, asked_at: float) -> None:
        """A consumer was asked; an answer from before our own last move, or before a later one, says nothing."""
        state = self._books.ledger.consumers.get(name)
        if state is None or asked_at < max(state.changed_at, self._asked_at.get(name, float("-inf"))):
            return
        self._asked_at[name] = asked_at
        now = self._books.clock.monotonic()
        jobs = busyness.believed(state, work, now - self._heard_at.get(name, now))
        if work.jobs is not None:
            self._heard_at[name] = now
        if jobs != state.jobs:
            self._books.ledger.update(name, jobs=jobs)
        if jobs:
            self._note_work(name)
        if state.needed_since is not None and (not jobs or self._is_forgotten(name, now)):
            self._books.ledger.update(name, needed_since=None)

    def _note_work(self, name: str) -> None:
        """Its work is use: it is idle from when it was last seen to work, and that is when it last worked."""
        self._books.ledger.update(
            name, idle_since=self._books.clock.monotonic(), probed_usec=self._books.clock.realtime_usec()
        )

    def _is_forgotten(self, name: str, now: float) -> bool:
        """Whether nobody has needed its room for as long as its grace: then that begins anew with the next."""
        grace_sec = self._books.state(name).spec.busy_grace_sec
        return now - self._needed_at.get(name, float("-inf")) > max(grace_sec, RECENT_SEC)

    def note_needed(self, names: Iterable[str]) -> None:
        """Somebody waits for the work of these to end."""
        now = self._books.clock.monotonic()
        for name in names:
            self._needed_at[name] = now
            if self._books.state(name).needed_since is None:
                self._books.ledger.update(name, needed_since=now)

    def waited_for(self) -> list[str]:
        """Those whose end of work somebody waits for right now."""
        now = self._books.clock.monotonic()
        self._needed_at = {name: at for name, at in self._needed_at.items() if name in self._books.ledger.consumers}
        return [name for name, at in self._needed_at.items() if now - at <= RECENT_SEC]


def _is_going(state: ConsumerState) -> bool:
    """It is being evicted: between two methods it may be asked, and says whether the second one would end its work."""
    return state.residency == "unloading"
