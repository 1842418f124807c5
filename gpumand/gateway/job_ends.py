"""Decides when the work of a job has ended: a state machine without clock or I/O, fed with answers of a busy check.

- Two answers in a row that say "idle" end it. Once is not enough, because a server may answer before it has taken the
  job from its queue.
- A server whose port refuses connections twice in a row is gone, and its work with it.
- Without a usable answer nothing is known: the job is assumed to go on for the grace period, and not for ever.
"""

from __future__ import annotations

from enum import StrEnum

from gpumand.domain.consumer import BusyReport

IDLE_ANSWERS = 2


class JobEnd(StrEnum):
    """Why a job is no longer held."""

    IDLE = "idle"
    """The busy check has reported twice that the server is idle."""

    GONE = "gone"
    """The server does not listen any more."""

    NO_ANSWER = "no_answer"
    """The busy check gave no usable answer for the grace period."""

    TOO_LONG = "too_long"
    """The job was held for the configured maximum."""

    CANCELLED = "cancelled"
    """A person or program has cancelled the job."""

    LEASE_ENDED = "lease_ended"
    """Its lease was revoked or released in gpumand."""


class BusyWatch:
    """What the busy check of a consumer has said since its last job.

    Args:
        now: monotonic seconds.
        grace_sec: how long a job is held without a usable answer.
    """

    def __init__(self, now: float, grace_sec: float) -> None:
        self._answered_at, self._grace_sec = now, grace_sec
        self._idle_answers = self._jobs = 0
        self._error = ""

    @property
    def is_busy(self) -> bool:
        """Whether the last answer reported work."""
        return self._jobs > 0

    @property
    def error(self) -> str:
        """Why the last check gave no usable answer; "" if it gave one."""
        return self._error

    def record(self, now: float, report: BusyReport) -> JobEnd | None:
        """Take an answer; returns why the work has ended, or None while it goes on.

        Args:
            now: monotonic seconds.
            report: the answer.
        """
        if report.jobs is None and not report.refused:
            self._idle_answers = self._jobs = 0
            self._error = report.error or "no answer"
            return JobEnd.NO_ANSWER if now - self._answered_at >= self._grace_sec else None
        self._answered_at, self._error, self._jobs = now, "", report.jobs or 0
        self._idle_answers = 0 if self._jobs else self._idle_answers + 1
        if self._idle_answers < IDLE_ANSWERS:
            return None
        return JobEnd.GONE if report.jobs is None else JobEnd.IDLE

    def shown(self, now: float, consumer: str) -> str:
        """What a job waits for, in one line."""
        if self._error:
            silent_sec = now - self._answered_at
            return f"{self._error} (for {silent_sec:.0f} s, held for at most {self._grace_sec:g} s without an answer)"
        if self._jobs:
            return f"{consumer} reports {self._jobs} {'job' if self._jobs == 1 else 'jobs'}"
        return f"the busy check of {consumer}"
