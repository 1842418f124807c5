"""Who works by its own word, and what that keeps others from.

A consumer that says that it works is not evicted for others. They wait for it for its grace, ``busy_grace_sec`` from
when they first needed its room; what comes then its configuration says: they go on waiting, it is evicted all the same,
or they are refused.
"""

from __future__ import annotations

from gpumand.domain.consumer import BusyAfter, Work
from gpumand.domain.view import ConsumerState


def is_busy(state: ConsumerState) -> bool:
    """Whether it said that it works, the last time it was asked."""
    return state.spec.busy is not None and bool(state.jobs)


def in_words(state: ConsumerState) -> str:
    """``busy (2 jobs)``; "" when it is not known to work."""
    if not is_busy(state):
        return ""
    return f"busy ({state.jobs} job{'' if state.jobs == 1 else 's'})"


def why_spared(state: ConsumerState, now: float) -> str:
    """Why its work keeps it from being evicted at the moment; "" where it does not."""
    words = in_words(state)
    if not words or (state.spec.busy_after is BusyAfter.EVICT and _is_grace_over(state, now)):
        return ""
    return words


def is_given_up(state: ConsumerState, now: float) -> bool:
    """Whether nobody is to wait for it any longer although it works on, and is not evicted."""
    return is_busy(state) and state.spec.busy_after is BusyAfter.REFUSE and _is_grace_over(state, now)


def grace_left(state: ConsumerState, now: float) -> str:
    """What comes of its work, for who waits: ``evicted in 40 s if it still is``; "" where it is just waited for."""
    if state.spec.busy_after is BusyAfter.WAIT:
        return ""
    since = now if state.needed_since is None else state.needed_since
    left_sec = max(0.0, state.spec.busy_grace_sec - (now - since))
    what = "evicted" if state.spec.busy_after is BusyAfter.EVICT else "not waited for any longer"
    return f"{what} in {left_sec:.0f} s if it still is"


def believed(state: ConsumerState, work: Work, heard_sec: float) -> int | None:
    """How much work it is taken to have after an answer, or the lack of one.

    Unknown is not zero: one that worked a moment ago and now does not answer is taken to work on, for as long as its
    grace; where nothing listens any more nobody works.

    Args:
        state: as it was.
        work: what was answered.
        heard_sec: seconds since it last said how much it has.
    """
    if work.jobs is not None:
        return work.jobs
    if work.gone:
        return 0
    return state.jobs if state.jobs and heard_sec <= state.spec.busy_grace_sec else None


def _is_grace_over(state: ConsumerState, now: float) -> bool:
    grace_sec = state.spec.busy_grace_sec
    return grace_sec == 0 or (state.needed_since is not None and now - state.needed_since >= grace_sec)
