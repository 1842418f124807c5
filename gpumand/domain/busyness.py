"""Consumers that report work of their own, and how long that protects them from eviction.

A consumer that reports work is not evicted to make room for others. Requests wait for it for its grace period,
``busy_grace_sec`` from the moment at which its VRAM was first needed. What happens after that is configured: requests
go on waiting, the consumer is evicted all the same, or the requests are refused.
"""

from __future__ import annotations

from gpumand.domain.consumer import BusyAfter, BusyReport
from gpumand.domain.view import ConsumerState


def is_busy(state: ConsumerState) -> bool:
    """Whether the consumer reported work in answer to its last busy probe."""
    return state.spec.busy is not None and bool(state.jobs)


def is_deferring(state: ConsumerState) -> bool:
    """Whether it has no busy check, but there is evidence of work for its clients.

    They kept it from carrying out its last unload, or they are connected while its processes compute.
    """
    return state.spec.busy is None and (state.unload_deferred or state.direct_work) and bool(state.jobs)


def describe_work(state: ConsumerState) -> str:
    """The reported work: ``busy (2 jobs)``; "" when none is known."""
    if not (is_busy(state) or is_deferring(state)):
        return ""
    by_clients = state.spec.busy is None or not state.spec.busy.path
    what = "client connection" if by_clients else "job"
    return f"busy ({state.jobs} {what}{'' if state.jobs == 1 else 's'})"


def describe_unfreed(state: ConsumerState) -> str:
    """What is known of an unload in progress that is late: ``accepted, nothing freed yet, 1 client is connected``.

    "" where none is late.
    """
    return (
        f"accepted, nothing freed yet, {count_clients(state.unload_clients)} connected" if state.unload_clients else ""
    )


def count_clients(count: int) -> str:
    """Clients and the verb that follows: ``1 client is`` or ``3 clients are``."""
    return "1 client is" if count == 1 else f"{count} clients are"


def busy_exemption(state: ConsumerState, now: float) -> str:
    """Why its work protects the consumer from eviction at the moment; "" when it does not."""
    work = describe_work(state)
    return "" if not work or (_after_grace(state) is BusyAfter.EVICT and _is_grace_over(state, now)) else work


def is_busy_past_grace(state: ConsumerState, now: float) -> bool:
    """Whether requests no longer wait for the consumer, which is still busy and must not be evicted for that."""
    return is_busy(state) and state.spec.busy_after is BusyAfter.REFUSE and _is_grace_over(state, now)


def describe_grace(state: ConsumerState, now: float) -> str:
    """What happens after the grace period: ``will be evicted in 40 s if still busy``; "" where requests wait on."""
    if _after_grace(state) is BusyAfter.WAIT:
        return ""
    since = now if state.blocking_since is None else state.blocking_since
    left_sec = max(0.0, state.spec.busy_grace_sec - (now - since))
    if _after_grace(state) is BusyAfter.EVICT:
        return f"will be evicted in {left_sec:.0f} s if still busy"
    return f"requests for its VRAM are refused in {left_sec:.0f} s if it is still busy"


def assumed_jobs(state: ConsumerState, report: BusyReport, age_sec: float) -> int | None:
    """How many jobs a consumer is assumed to have after a busy probe.

    Unknown is not zero: a consumer that was busy and does not answer now is assumed to work on, for as long as its
    grace period. One whose port refuses connections does no work.

    Args:
        state: the consumer before the probe.
        report: what the probe found.
        age_sec: seconds since the consumer last reported its number of jobs.
    """
    if report.jobs is not None:
        return report.jobs
    if report.refused:
        return 0
    return state.jobs if state.jobs and age_sec <= state.spec.busy_grace_sec else None


def _after_grace(state: ConsumerState) -> BusyAfter:
    """What happens after the grace period. Connections alone, which may be idle, do not protect for longer."""
    return BusyAfter.EVICT if state.spec.busy is None else state.spec.busy_after


def _is_grace_over(state: ConsumerState, now: float) -> bool:
    grace_sec = state.spec.busy_grace_sec
    return grace_sec == 0 or (state.blocking_since is not None and now - state.blocking_since >= grace_sec)
