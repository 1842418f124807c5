"""The jobs that run for requests: starts them, hands their results to the requests, and breaks loads off."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from gpumand.arbiter.abandoned_loads import GRACE_SEC, AbandonedLoads
from gpumand.arbiter.background import BackgroundTasks
from gpumand.arbiter.jobs import FREEING, Jobs
from gpumand.arbiter.nested_leases import NestedLeases
from gpumand.arbiter.outcomes import Outcomes
from gpumand.arbiter.reconciler import Reconciler
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.waiting_queue import WaitingQueue
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.arbiter.work_gate import WorkGate
from gpumand.domain.decision import Decision
from gpumand.domain.device import Devices
from gpumand.domain.errors import GpumandError, LoadFailed
from gpumand.domain.request import Verdict

log = logging.getLogger(__name__)

INTERNAL_ERROR = Decision(Verdict.REFUSE, error=GpumandError, message="internal error in gpumand; see its log")


class QueuePasses(Protocol):
    """The part of the scheduler that running jobs need."""

    background: BackgroundTasks

    def step(self) -> None:
        """Decide the waiting requests."""


class RequestJobs:
    """Runs each job as a background task and ends the request that it was started for, or one that has joined it.

    Args:
        state: the arbiter's state.
        queue: the waiting requests, which may join a running load.
        jobs: carries the plans out.
        outcomes: grants and refuses requests.
        nested: gives back the leases that a request names.
        gate: while it is held, no result is granted.
        reconciler: updates residency when a job has ended.
        passes: runs the jobs, and a queue pass after each.
    """

    def __init__(
        self,
        state: ArbiterState,
        queue: WaitingQueue,
        jobs: Jobs,
        outcomes: Outcomes,
        nested: NestedLeases,
        gate: WorkGate,
        reconciler: Reconciler,
        passes: QueuePasses,
    ) -> None:
        self._state, self._queue, self._jobs, self._outcomes = state, queue, jobs, outcomes
        self._nested, self._gate, self._reconciler = nested, gate, reconciler
        self._passes = passes
        self._places: dict[WaitingRequest, Devices] = {}
        self._abandoned_loads, self._cancelled = AbandonedLoads(state), dict[str, str]()

    def __contains__(self, entry: WaitingRequest) -> bool:
        return entry in self._places

    def devices(self, entry: WaitingRequest) -> Devices:
        """The devices of the job that runs for a request; () = none runs."""
        return self._places.get(entry, ())

    def start(self, entry: WaitingRequest, decision: Decision, *, takes_slot: bool) -> None:
        """Start a job. All its devices are taken at once, without an await: no job holds some and waits for others."""
        entry.wait_for(FREEING if decision.evictions else "it is being loaded")
        self._nested.give_back(entry)
        exclusive = takes_slot and entry.request.options.exclusive
        self._jobs.begin(entry.request.consumer, decision, takes_slot=takes_slot, exclusive=exclusive)
        self._places[entry] = decision.place
        self._passes.background.spawn(self._run_job(entry, decision))

    async def _run_job(self, entry: WaitingRequest, decision: Decision) -> None:
        """Carry out a plan and hand the result to its request, or to a request that joined the load meanwhile."""
        result, place = decision, decision.place
        try:
            await self._nested.saved(entry)
            result = await self._jobs.run(decision, entry, lambda: self._is_wanted(entry, place))
        except Exception:
            log.exception("the plan for %s failed with an unexpected error", entry.request.consumer)
            self._jobs.abort(entry.request.consumer)
            result = INTERNAL_ERROR
        finally:  # also when the scheduler is closed and cancels this task: the devices must be released
            del self._places[entry]
            self._finish(entry, place, result)

    def _finish(self, entry: WaitingRequest, place: Devices, result: Decision) -> None:
        """End a job and grant its result.

        Nothing is awaited between the two: the lease takes over the job's slot and its reservation without a gap in
        which another request could take them.
        """
        is_cancelled = self._refuse_cancelled(entry)
        successor = entry if entry.is_waiting else self._successor(entry, place)
        if is_cancelled:
            pass  # the forced eviction that cancelled it comes next
        elif result.verdict is Verdict.GRANT and result.resident and successor is not None:
            successor.loaded = successor.loaded or entry.loaded
            if not self._gate.held and self._has_slot(successor, place):
                self._outcomes.grant(successor, place)  # otherwise the next pass finds the consumer resident
        elif result.verdict is Verdict.REFUSE and entry.is_waiting:
            self._outcomes.refuse(entry, result)
        self._jobs.end(place)
        # During a job the residency of its consumers was not reconciled; a failed attempt left it to the readings.
        self._reconciler.reconcile_all()
        self._passes.step()

    def _has_slot(self, successor: WaitingRequest, place: Devices) -> bool:
        """Whether a lease may be granted now: the job held a lease slot for it, or it needs none."""
        job = self._state.ledger.jobs[place[0]]
        return not successor.wants_lease or (
            job.takes_slot and (job.exclusive or not successor.request.options.exclusive)
        )

    def _is_wanted(self, entry: WaitingRequest, place: Devices) -> bool:
        """Whether a request still waits for this load, and the work gate is open."""
        is_cancelled = entry.request.consumer in self._cancelled
        return self._is_awaited(entry, place) and not is_cancelled and not self._gate.held

    def _is_awaited(self, entry: WaitingRequest, place: Devices) -> bool:
        return entry.is_waiting or self._joining_request(entry.request.consumer, place) is not None

    def _successor(self, entry: WaitingRequest, place: Devices) -> WaitingRequest | None:
        """The request that takes over a load whose own request has left; it gets a lease only if a slot was held."""
        successor = self._joining_request(entry.request.consumer, place)
        return None if successor is not None and successor.wants_lease and not entry.wants_lease else successor

    def _joining_request(self, consumer: str, place: Devices) -> WaitingRequest | None:
        """The first waiting request that the running load would serve."""
        waiting = (one for one in self._queue if one.request.consumer == consumer)
        return next((one for one in waiting if set(place).issuperset(one.devices)), None)

    # -- breaking loads off --------------------------------------------------------------------------------------

    def break_off_abandoned(self, entries: Sequence[WaitingRequest]) -> None:
        """Let a load that no request waits for any more give way to a request that needs its room."""
        if not self._places and not self._abandoned_loads:
            return
        abandoned = {
            entry.request.consumer
            for entry, place in self._places.items()
            if self._jobs.is_loading(entry.request.consumer) and not self._is_awaited(entry, place)
        }
        if self._abandoned_loads.note(abandoned):
            self._passes.background.spawn(self._step_later(GRACE_SEC))
        for name, needing in self._abandoned_loads.in_the_way(entries).items():
            reason = f"no request waits for its load any more, and {needing} needs the memory"
            self._jobs.break_off_load(name, reason)

    async def _step_later(self, seconds: float) -> None:
        await self._state.clock.sleep(seconds)
        self._passes.step()

    def break_off(self, name: str, reason: str) -> None:
        """Cancel the job that loads a consumer. When it has ended, all requests that wait for it are refused.

        Args:
            name: the consumer.
            reason: one line for the clients of the requests.
        """
        self._cancelled[name] = f"{name}: {reason}"
        for entry in (one for one in self._places if one.request.consumer == name):
            entry.progress.waiting_for = f"the load of {name} is being cancelled"
        self._jobs.break_off_load(name, reason)

    def _refuse_cancelled(self, entry: WaitingRequest) -> bool:
        """Refuse all requests for a consumer whose load was cancelled. Returns whether it was."""
        name = entry.request.consumer
        reason = self._cancelled.pop(name, "")
        for one in (entry, *(one for one in self._queue if one.request.consumer == name)) if reason else ():
            self._outcomes.remove(one)
            one.refuse(LoadFailed(reason))
        return bool(reason)
