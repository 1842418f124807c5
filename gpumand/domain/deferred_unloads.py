"""Unloads that a server carries out only when its running requests have ended, and the plans that avoid them.

Servers such as Ollama accept an unload at once and free the memory after their running requests. A consumer whose
unload has freed nothing while clients are connected has proved to be at work: it counts as busy. Requests then take
other victims that suffice, and wait for it only where there are none.
"""

from __future__ import annotations

from dataclasses import replace

from gpumand.domain import placement
from gpumand.domain.busyness import count_clients
from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.decision import Requirement
from gpumand.domain.device import Devices
from gpumand.domain.planning import decide, decide_within_job
from gpumand.domain.request import Verdict
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState, View


def describe_put_off(spec: ConsumerSpec, jobs: int, freed_mib: int | None, expected_mib: int, waited_sec: float) -> str:
    """What is known of an unload that was accepted and has freed nothing, in one line.

    Args:
        spec: the consumer.
        jobs: number of its jobs, or of the connections of its clients where it has no busy check.
        freed_mib: MiB freed so far; None = unknown.
        expected_mib: MiB that it should free.
        waited_sec: seconds since the unload was accepted.
    """
    of = f"{0 if freed_mib is None else freed_mib} of {expected_mib} MiB"
    freed = f"it accepted the unload and has freed {of} in {waited_sec:.0f} s"
    if spec.busy is not None and spec.busy.path:
        return f"{freed}, while it reports {jobs} job{'' if jobs == 1 else 's'}"
    return f"{freed}, while {count_clients(jobs)} connected: it serves them first, or its unload does not work"


def other_plan_suffices(view: View, requirement: Requirement, place: Devices, victim: str) -> bool:
    """Whether the consumer of a running job can be loaded without the memory of one of its victims.

    Args:
        view: everything at this moment, with the job.
        requirement: what the job's request needs.
        place: the devices of the job. Other devices count as well: the request can go there when the job ends.
        victim: the consumer whose unload has freed nothing so far.
    """
    if requirement.consumer not in view.consumers or victim not in view.consumers:
        return False
    view = replace(view, consumers={**view.consumers, victim: counted_as_busy(view.consumers[victim], view.now)})
    plans = (decide_within_job(view, requirement, place), decide(_without_claim(view, requirement), requirement))
    return any(
        one.verdict is Verdict.GRANT and all(planned.consumer != victim for planned in one.evictions) for one in plans
    )


def counted_as_busy(state: ConsumerState, now: float) -> ConsumerState:
    """The consumer as it counts once its unload has been put off: loaded, and busy from now on."""
    return state.with_changes(
        residency=Residency.UNKNOWN, jobs=max(1, state.jobs or 0), unload_deferred=True, blocking_since=now
    )


def _without_claim(view: View, requirement: Requirement) -> View:
    """The view as if the job had not bound the consumer to its devices, so that others can be chosen.

    A consumer whose process is on them stays there.
    """
    state = view.consumers[requirement.consumer]
    if state.residency in placement.LOCATED:
        return view
    state = state.with_changes(claimed_at=None, devices=())
    return replace(view, consumers={**view.consumers, state.name: state})
