"""When the run of a container began, on the daemon's clock."""

from __future__ import annotations

from datetime import UTC, datetime

from gpumand.ports import Clock


def monotonic_start(started_at: str, clock: Clock) -> float | None:
    """The start of a run in monotonic seconds.

    Args:
        started_at: when it began, as the engine writes it (RFC 3339).
        clock: the daemon's clock.

    Returns:
        None where the time is missing, or cannot be right: the wall clock may have been set since then.
    """
    try:
        moment = datetime.fromisoformat(started_at)
        started_sec = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    # Time asleep counts as long as the host was ever asleep: a start that seems later than it was is the safe mistake.
    age_sec = max(0.0, clock.realtime_usec() / 1e6 - started_sec - clock.suspended_sec())
    now = clock.monotonic()
    return now - age_sec if age_sec < now else None
