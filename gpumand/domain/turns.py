"""Turns: what was just loaded is used for a while before it is evicted again.

Without turns, two groups of clients whose consumers exclude each other pay for a load with nearly every request. A turn
begins when a load ends. During it, the consumer is not evicted for a request while clients use it: while it has a
lease, or had one, or was loaded, a moment ago. Clients that use a service one call after the other leave short gaps
between their leases; ``pause_sec`` bridges those.

A turn delays other requests by a limited amount: it has an end, a consumer that is not used loses it after
``pause_sec``, and it is over for a request that later ones have overtaken by ``overtake_budget_sec`` of work, or that
would time out otherwise (``latest_wait``).
"""

from __future__ import annotations

from dataclasses import dataclass

from gpumand.domain.reuse_prediction import IdleTimeHistogram

LOADS_PER_TURN = 2.0
"""With ``min_turn_sec = "auto"``: a turn is this many times as long as the load that began it."""

MAX_AUTO_TURN_SEC = 30.0
"""The longest turn with ``min_turn_sec = "auto"``."""

LOADS_PER_PAUSE, MAX_PAUSE_SEC = 1.0, 2.0
"""A pause between leases that is longer than the load was, or than this, ends the turn."""

MIN_RETURN_SHARE, PRIOR_SHARE, PRIOR_WEIGHT = 0.5, 0.6, 3.0
"""No pause is granted where fewer than half of the learned idle times were shorter than ``MAX_PAUSE_SEC``."""


LOAD_MARGIN, LOAD_MARGIN_SEC = 1.5, 1.0
"""A request needs this many times its expected load, and this many seconds more, for the evictions and the load."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The turn of a consumer.

    Attributes:
        ends_at: monotonic seconds of its end.
        pause_sec: without a lease for this many seconds, the consumer loses the rest of its turn.
    """

    ends_at: float = float("-inf")
    pause_sec: float = 0.0

    def holds_until(self, now: float, idle_since: float) -> float | None:
        """Until when the consumer keeps its turn if it is not leased in the meantime; None = it has no turn now."""
        until = min(self.ends_at, idle_since + self.pause_sec)
        return until if now < until else None


NO_TURN = Turn()


def begin_turn(now: float, load_sec: float, min_turn_sec: float | None, idle: IdleTimeHistogram) -> Turn:
    """The turn that begins with the end of a load.

    Args:
        now: monotonic seconds.
        load_sec: how long the load took.
        min_turn_sec: length of every turn; 0 = none; None = as measured: twice the load, 30 s at most.
        idle: learned idle times of the consumer.
    """
    seconds = min(MAX_AUTO_TURN_SEC, LOADS_PER_TURN * load_sec) if min_turn_sec is None else min_turn_sec
    if seconds <= 0:
        return NO_TURN
    pause_sec = min(MAX_PAUSE_SEC, LOADS_PER_PAUSE * seconds / LOADS_PER_TURN) if _is_reused_soon(idle) else 0.0
    return Turn(now + seconds, pause_sec)


def latest_wait(deadline: float, load_sec: float) -> float:
    """When a request stops waiting for the turns of others, so that its own load ends before its deadline.

    Args:
        deadline: when the request times out, in monotonic seconds.
        load_sec: expected seconds of its load.
    """
    return deadline - LOAD_MARGIN * load_sec - LOAD_MARGIN_SEC


def _is_reused_soon(idle: IdleTimeHistogram) -> bool:
    """Whether clients usually come back within the longest pause; assumed until a few idle times were observed."""
    soon, total = idle.counts[0], sum(idle.counts)
    return soon + PRIOR_WEIGHT * PRIOR_SHARE >= MIN_RETURN_SHARE * (total + PRIOR_WEIGHT)
