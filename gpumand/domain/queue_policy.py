"""Selects the queue rule of the configured policy, and decides about a request as if it joined the queue now."""

from __future__ import annotations

from collections.abc import Sequence

from gpumand.domain.backfill import BackfillPass
from gpumand.domain.consumer import Policy, SchedulerSettings
from gpumand.domain.decision import Decision, Requirement
from gpumand.domain.planning import decide
from gpumand.domain.queue_pass import QueueEntry, QueuePass
from gpumand.domain.request import Verdict
from gpumand.domain.view import View


def queue_pass_for(settings: SchedulerSettings, entries: Sequence[QueueEntry]) -> QueuePass:
    """Begin a pass over the waiting requests by the policy in force."""
    if settings.policy is Policy.ADAPTIVE:
        return BackfillPass(entries)
    return QueuePass(entries)


def decide_behind_queue(
    view: View, requirement: Requirement, others: Sequence[tuple[QueueEntry, tuple[int, ...]]]
) -> Decision:
    """Decide about a request that would arrive now, behind all waiting requests.

    Args:
        view: everything at this moment.
        requirement: what the request needs.
        others: the waiting requests in serving order, each with the devices on which a job is running for it.
    """
    decision, last = decide(view, requirement), QueueEntry(-1, requirement)
    queue_pass = queue_pass_for(view.settings, [*(entry for entry, _ in others), last])
    if decision.verdict is Verdict.GRANT:
        eligible: dict[Requirement, tuple[int, ...]] = {}
        for entry, job_devices in others:
            if not job_devices and entry.requirement not in eligible:
                eligible[entry.requirement] = decide(view, entry.requirement).eligible_devices
            queue_pass.mark_waiting(entry, job_devices or eligible[entry.requirement])
    return queue_pass.resolve(view, last, decision).decision
