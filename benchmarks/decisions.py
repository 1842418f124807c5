"""The cost of a decision: one plan, and one pass over the whole queue, by the number of consumers and requests."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from benchmarks.table import Row, median
from gpumand.domain import queue_policy
from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, Policy, SchedulerSettings
from gpumand.domain.decision import Decision, Requirement
from gpumand.domain.device import ProcessUse, Sample
from gpumand.domain.learning import LearnedTimes
from gpumand.domain.planning import decide
from gpumand.domain.queue_pass import QueueEntry
from gpumand.domain.request import Verdict
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState, View

CONSUMERS = (10, 50, 100, 1_000, 10_000)
QUEUES = (10, 100, 1_000, 10_000)
ROUND_SEC = 0.3
"""Each cost is measured for at least this many seconds."""

GOALS = {50: 1.0, 1_000: 20.0}
"""Goals in milliseconds for a plan, by the number of consumers."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One measured cost.

    Attributes:
        policy: the scheduling policy.
        consumers, requests: their numbers; requests is 0 for a plan alone.
        msec: median milliseconds.
    """

    policy: str
    consumers: int
    requests: int
    msec: float


def view_of(policy: Policy, consumers: int, seed: int = 0) -> View:
    """A full device with all consumers but one resident, of random sizes and times of last use."""
    random = Random(seed)
    settings = SchedulerSettings(policy=policy, max_evictions=5)
    sizes = [random.randrange(500, 9000) for _ in range(consumers - 1)]
    states = {f"c{place}": _resident(f"c{place}", mib, random) for place, mib in enumerate(sizes)}
    processes = tuple(ProcessUse(1000 + place, mib, "", "", f"c{place}") for place, mib in enumerate(sizes))
    total_mib = sum(sizes) + 300
    sample = Sample(0, "SIM", "GPU", "sim", total_mib, sum(sizes), 300, processes, True, frozenset({*states, "new"}))
    states["new"] = ConsumerState(_spec("new", 8000), residency=Residency.UNLOADED)
    return View(settings, {0: sample}, states, now=100_000.0)


def _spec(name: str, mib: int) -> ConsumerSpec:
    return ConsumerSpec(name, mib, unit=f"{name}.service", evict=(EvictionMethod.UNIT_STOP,))


def _resident(name: str, mib: int, random: Random) -> ConsumerState:
    idle_sec = random.lognormvariate(5, 2)
    times = (
        LearnedTimes().observe_load(random.uniform(2, 60)).observe_hold(random.uniform(1, 30)).observe_idle(idle_sec)
    )
    return ConsumerState(
        _spec(name, mib),
        residency=Residency.RESIDENT,
        devices=(0,),
        footprint_seen=True,
        lease_ended_usec=int((100_000 - idle_sec) * 1e6),
        idle_since=100_000.0 - idle_sec,
        times=times,
    )


def plan_once(view: View) -> None:
    """Decide about a load that needs evictions."""
    decision = decide(view, Requirement("new"))
    assert decision.verdict is Verdict.GRANT, decision.message
    assert decision.evictions


def pass_once(view: View, entries: list[QueueEntry]) -> None:
    """Make a whole queue pass, as after any event; the first request cannot be served, so that all wait."""
    queue_pass = queue_policy.queue_pass_for(view.settings, entries)
    known: dict[Requirement, Decision] = {}
    for entry in entries:
        decision = known.get(entry.requirement)
        if decision is None:
            decision = known[entry.requirement] = decide(view, entry.requirement)
        ruling = queue_pass.resolve(view, entry, decision)
        queue_pass.mark_waiting(entry, ruling.decision.eligible_devices)


def queue_of(view: View, requests: int) -> list[QueueEntry]:
    """A queue of requests for all consumers in turn."""
    names = list(view.consumers)
    return [QueueEntry(number, Requirement(names[number % len(names)])) for number in range(requests)]


def _timed(work: Callable[[], None]) -> float:
    """Median duration in milliseconds."""
    took: list[float] = []
    until = time.perf_counter() + ROUND_SEC
    while len(took) < 3 or time.perf_counter() < until:
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return median(took) * 1e3


def costs() -> list[Cost]:
    """Measure all costs."""
    found = []
    for policy in Policy:
        for consumers in CONSUMERS:
            view = view_of(policy, consumers)
            found.append(Cost(policy, consumers, 0, _timed(lambda view=view: plan_once(view))))  # type: ignore[misc]
            busy = View(view.settings, view.devices, view.consumers, leases={0: 1}, now=view.now)
            for requests in QUEUES:
                entries = queue_of(busy, requests)
                found.append(
                    Cost(policy, consumers, requests, _timed(lambda s=entries, b=busy: pass_once(b, s)))  # type: ignore[misc]
                )
    return found


def rows(found: list[Cost]) -> list[Row]:
    """The costs as rows of a table."""
    made = []
    for cost in found:
        what = f"{cost.policy}: " + (f"a pass over {cost.requests:,} requests" if cost.requests else "a plan")
        goal = GOALS.get(cost.consumers) if not cost.requests else None
        made.append(
            Row(
                f"{what}, {cost.consumers:,} consumers",
                f"{cost.msec:.3f} ms",
                goal="" if goal is None else f"at most {goal:g} ms",
                met=None if goal is None else cost.msec <= goal,
            )
        )
    return made
