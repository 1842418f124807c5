"""Whether a load that no request waits for any more stands in the way of another request."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gpumand.domain.decision import Decision, Requirement
from gpumand.domain.planning import decide
from gpumand.domain.request import Verdict
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import View


def needs_room_of(view: View, requirement: Requirement, loading: str) -> bool:
    """Whether a request can be served if a load is broken off, but not beside the loaded consumer.

    Args:
        view: everything at this moment.
        requirement: what the request needs.
        loading: the consumer that is being loaded.
    """
    if requirement.consumer == loading or loading not in view.consumers:
        return False
    # Without the load, what it holds by now can be evicted. Beside it, it would be as protected as by a lease.
    broken_off = _decide_with(view, requirement, loading, residency=Residency.UNKNOWN, claimed_at=None)
    beside = _decide_with(view, requirement, loading, residency=Residency.RESIDENT, leases=1)
    return broken_off.verdict is Verdict.GRANT and beside.verdict is not Verdict.GRANT


def _decide_with(view: View, requirement: Requirement, loading: str, **changes: Any) -> Decision:
    jobs = {device: job for device, job in view.jobs.items() if job.consumer != loading}
    consumers = {**view.consumers, loading: view.consumers[loading].with_changes(**changes)}
    return decide(replace(view, jobs=jobs, consumers=consumers), requirement)
