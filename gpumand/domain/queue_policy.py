"""Chooses the queue rule of the configured policy, and decides about a request as if it joined the queue now."""

from __future__ import annotations

from collections.abc import Sequence

from gpumand.domain.backfill import BackfillPass
from gpumand.domain.consumer import Policy, SchedulerSettings
from gpumand.domain.planning import Decision, Requirement, decide
from gpumand.domain.queue_pass import QueueEntry, QueuePass
from gpumand.domain.request import Verdict
from gpumand.domain.view import View


def queue_pass_for(settings: SchedulerSettings, standings: Sequence[QueueEntry]) -> QueuePass:
    """Begin a walk by the policy in force."""
    if settings.policy is Policy.ADAPTIVE:
        return BackfillPass(standings)
    return QueuePass(standings)


def decide_behind_queue(
    view: View, requirement: Requirement, others: Sequence[tuple[QueueEntry, tuple[int, ...]]]
) -> Decision:
    """What would be decided about a wish that came now, behind everybody who waits.

    Args:
        view: everything at this moment.
        wish: what is asked about.
        others: those who wait, in serving order, each with the devices on which it is being worked for.
    """
    decision, asked = decide(view, requirement), QueueEntry(-1, requirement)
    going = queue_pass_for(view.settings, [*(standing for standing, _ in others), asked])
    if decision.verdict is Verdict.GRANT:
        for standing, works_on in others:
            going.stays(standing, works_on or decide(view, standing.requirement).devices)
    return going.rule(view, asked, decision).decision
