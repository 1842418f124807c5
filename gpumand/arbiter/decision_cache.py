"""Decisions on the current state, shared by all waiting requests that need the same."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from gpumand.arbiter.state import ArbiterState
from gpumand.domain.decision import Decision, Requirement
from gpumand.domain.errors import DeviceUnavailable
from gpumand.domain.planning import decide
from gpumand.domain.queue_pass import as_wait
from gpumand.domain.request import Verdict
from gpumand.domain.view import View

VRAM_READING = "VRAM is being read"


class DecisionCache:
    """Caches the view and its decisions until the ledger changes; a pass over many requests computes each once."""

    def __init__(self, state: ArbiterState) -> None:
        self._state = state
        self._view: View | None = None
        self._revision = 0
        self._decisions: dict[Requirement, Decision] = {}
        self._waits: dict[Requirement, tuple[Decision, Decision]] = {}

    def clear(self) -> None:
        """Build a new view next time: it also depends on the clock, not only on the ledger."""
        self._view = None

    def view(self) -> View:
        """The view at this moment; the same object for as long as the ledger has not changed."""
        revision = self._state.ledger.revision
        if self._view is None or self._revision != revision:
            self._view, self._revision = self._state.view(), revision
            self._decisions.clear()
            self._waits.clear()
        return self._view

    def decide(self, requirement: Requirement, evict_failed: Set[str]) -> Decision:
        """Decide a requirement on the current view.

        Args:
            requirement: the requirement of a waiting request.
            evict_failed: victims whose eviction failed for that request. They are excluded for it alone, so its
                decision is not shared.
        """
        if evict_failed:
            return decide(self._state.view(frozenset(evict_failed)), requirement)
        view = self.view()
        known = self._decisions.get(requirement)
        if known is None:
            known = self._decisions[requirement] = decide(view, requirement)
        return known

    def wait_for_reading(self, requirement: Requirement, decision: Decision) -> Decision:
        """The decision turned into a wait for a new reading; shared like the decision itself.

        A wait keeps its message: what blocked the request a moment ago says more than the reading does.
        """
        known = self._waits.get(requirement)
        if known is None or known[0] is not decision:
            is_blocked = decision.verdict is Verdict.WAIT
            again = f"{VRAM_READING} again: {decision.unread}" if decision.unread else VRAM_READING
            # A driver that has not answered when the client stops waiting is no reason to load without its answer.
            waiting = decision if is_blocked else replace(as_wait(decision, again), error=DeviceUnavailable)
            waits = replace(waiting, eligible_devices=tuple(self._state.ledger.devices))
            known = self._waits[requirement] = decision, waits
        return known[1]
