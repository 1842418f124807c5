"""The scheduler decides every waiting request in queue order: grant, refuse, start a job, or wait."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import replace

from gpumand.arbiter.abandoned_loads import GRACE_SEC, AbandonedLoads
from gpumand.arbiter.background import BackgroundTasks
from gpumand.arbiter.busy_probes import BusyProbes
from gpumand.arbiter.decision_cache import VRAM_READING, DecisionCache
from gpumand.arbiter.jobs import Jobs
from gpumand.arbiter.leases import Leases
from gpumand.arbiter.limits import lease_limit_error
from gpumand.arbiter.nested_leases import NestedLeases
from gpumand.arbiter.reconciler import Reconciler
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.turn_waits import TurnWaits
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.arbiter.work_gate import WorkGate
from gpumand.domain import queue_policy
from gpumand.domain.consumer import Policy
from gpumand.domain.decision import Decision, Requirement
from gpumand.domain.device import Devices
from gpumand.domain.errors import Busy, GpumandError, LoadFailed
from gpumand.domain.fairness import FairShare
from gpumand.domain.queue import RequestQueue
from gpumand.domain.queue_pass import QueueDecision, QueueEntry, QueuePass, as_wait
from gpumand.domain.request import Verdict

log = logging.getLogger(__name__)

MANUAL_EVICTION = "a manual eviction comes first"
NOT_RESIDENT = "the consumer is not resident and would have to be loaded first; allow a timeout above 0"
INTERNAL_ERROR = Decision(Verdict.REFUSE, error=GpumandError, message="internal error in gpumand; see its log")


class Scheduler:
    """Owns the queue. ``step`` is the only place where a request is decided, and it never awaits.

    Attributes:
        background: tasks that belong to no single call; they are cancelled when the scheduler closes.
    """

    def __init__(
        self,
        state: ArbiterState,
        reconciler: Reconciler,
        jobs: Jobs,
        leases: Leases,
        gate: WorkGate,
        busy_probes: BusyProbes,
        nested: NestedLeases,
    ) -> None:
        self._state, self._reconciler, self._jobs, self._leases, self._gate = state, reconciler, jobs, leases, gate
        self._busy_probes, self._nested = busy_probes, nested
        self._queue = RequestQueue(state.settings.scheduler.aging_sec)
        self._entries: dict[int, WaitingRequest] = {}
        self._running: dict[WaitingRequest, Devices] = {}
        self.background = BackgroundTasks()
        self._turn_waits = TurnWaits(state, self.background, self.step)
        self._fairness, self._charged = FairShare(), dict[int, float]()
        self._decisions = DecisionCache(state)
        self._abandoned_loads, self._cancelled = AbandonedLoads(state), dict[str, str]()
        self._reserved_for_manual: Counter[int] = Counter()
        self._sampling = False
        self._closed = False
        self._stepped = asyncio.Event()

    # -- the queue -----------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[WaitingRequest]:
        """Waiting requests in queue order."""
        return (self._entries[request.number] for request in self._queue)

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, entry: WaitingRequest) -> None:
        """Queue a request; the next ``step`` decides it."""
        self._entries[entry.request.number] = entry
        self._queue.add(entry.request, self._fairness_delay_sec(entry))

    def _fairness_delay_sec(self, entry: WaitingRequest) -> float:
        """Seconds by which a request counts as having arrived later, so that one user cannot fill the queue.

        Only the ``adaptive`` policy does this.
        """
        settings, request = self._state.settings.scheduler, entry.request
        if settings.policy is not Policy.ADAPTIVE or entry.restores:
            return 0.0
        user, work_sec = str(request.owner.uid), self._state.consumer(request.consumer).times.hold_sec()
        delay_sec = self._fairness.delay_sec(user, self._state.clock.monotonic(), work_sec, settings.aging_sec)
        # The delay of a user is capped at aging_sec. Charge only what was really added: ``remove`` refunds the charge,
        # and a larger refund would let a user reset the delay by leaving the queue.
        self._charged[request.number] = min(work_sec, settings.aging_sec - delay_sec)
        return delay_sec

    def remove(self, entry: WaitingRequest) -> None:
        """Remove a request without a grant. A load that is running for it continues; the next request joins it."""
        self._fairness.refund(str(entry.request.owner.uid), self._charged.get(entry.request.number, 0.0))
        self._dequeue(entry)
        self._nested.left(entry)

    def _dequeue(self, entry: WaitingRequest) -> None:
        # Each of these ignores a request that has left already: a request may end in several ways at once.
        self._queue.remove(entry.request)
        self._entries.pop(entry.request.number, None)
        self._charged.pop(entry.request.number, None)
        self._state.overtakings.forget(entry.request.number)

    def set_aging(self, aging_sec: float) -> None:
        """Change the number of seconds after which a waiting request has gained 100 priority points."""
        self._queue.set_aging(aging_sec)

    def next_step(self) -> Awaitable[object]:
        """An awaitable that ends with the next ``step`` after this call, even if it is awaited later."""
        return self._stepped.wait()

    @contextlib.contextmanager
    def reserve_for_manual(self, devices: Devices) -> Iterator[None]:
        """Start no new job on these devices while a manual eviction waits for them."""
        self._reserved_for_manual.update(devices)
        try:
            yield
        finally:
            self._reserved_for_manual.subtract(devices)
            self._reserved_for_manual = +self._reserved_for_manual  # unary plus drops the entries that are zero

    # -- deciding ------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Run one queue pass: decide every waiting request in order, then publish what has changed.

        Nothing is awaited here: all decisions of a pass use the same state, and none acts on an outdated one.
        """
        entries = () if self._closed else tuple(self)
        self._update_demand(entries)
        self._follow_moved_devices(entries)
        self._decisions.clear()
        queue_entries = tuple(self._queue_entry(entry) for entry in entries)
        queue_pass = queue_policy.queue_pass_for(self._state.settings.scheduler, queue_entries)
        for entry, queue_entry in zip(entries, queue_entries, strict=True):
            try:
                devices = self._serve(entry, queue_entry, queue_pass)
            except Exception:
                # One request that cannot be decided must not block all the others.
                log.exception("the request for %s cannot be decided: it is refused", entry.request.consumer)
                self._refuse(entry, INTERNAL_ERROR)
                continue
            if entry.is_waiting:
                queue_pass.mark_waiting(queue_entry, devices)
        self._break_off_abandoned_loads(entries)
        self._state.publish_changes()
        # Callers that wait already hold the old event, which stays set; the next call of next_step() gets the new one.
        self._stepped.set()
        self._stepped = asyncio.Event()

    def _break_off_abandoned_loads(self, entries: Sequence[WaitingRequest]) -> None:
        """Let a load that no request waits for any more give way to a request that needs its room."""
        abandoned = {
            entry.request.consumer
            for entry, place in self._running.items()
            if self._jobs.is_loading(entry.request.consumer) and not self._is_awaited(entry, place)
        }
        if self._abandoned_loads.note(abandoned):
            self.background.spawn(self._step_later(GRACE_SEC))
        for name, needing in self._abandoned_loads.in_the_way(entries).items():
            reason = f"no request waits for its load any more, and {needing} needs the memory"
            self._jobs.break_off_load(name, reason)

    async def _step_later(self, seconds: float) -> None:
        await self._state.clock.sleep(seconds)
        self.step()

    def break_off_load(self, name: str, reason: str) -> None:
        """Cancel the job that loads a consumer. When it has ended, all requests that wait for it are refused.

        Args:
            name: the consumer.
            reason: one line for the clients of the requests.
        """
        self._cancelled[name] = f"{name}: {reason}"
        for entry in (one for one in self._running if one.request.consumer == name):
            entry.waiting_for = f"the load of {name} is being cancelled"
        self._jobs.break_off_load(name, reason)

    def _refuse_cancelled(self, entry: WaitingRequest) -> bool:
        """Refuse all requests for a consumer whose load was cancelled. Returns whether it was."""
        name = entry.request.consumer
        reason = self._cancelled.pop(name, "")
        for one in (entry, *(one for one in self if one.request.consumer == name)) if reason else ():
            self.remove(one)
            one.refuse(LoadFailed(reason))
        return bool(reason)

    def _queue_entry(self, entry: WaitingRequest) -> QueueEntry:
        request, overtaken_sec = entry.request, self._state.overtakings.seconds(entry.request.number)
        self._turn_waits.refresh(entry, overtaken_sec)
        self._nested.refresh(entry)
        return QueueEntry(request.number, entry.requirement, overtaken_sec, request.priority, entry.loaded)

    def _update_demand(self, entries: Sequence[WaitingRequest]) -> None:
        """Note which consumers waiting requests need, in queue order; only the adaptive policy uses this."""
        queue_positions: dict[str, int] = {}
        if self._state.settings.scheduler.policy is Policy.ADAPTIVE:
            for entry in entries:
                queue_positions.setdefault(entry.request.consumer, len(queue_positions))
        self._state.queue_positions = queue_positions

    def _follow_moved_devices(self, entries: Sequence[WaitingRequest]) -> None:
        """Look up requested devices again: a device requested by UUID may have another index now."""
        for entry in entries:
            if entry.request.options.device:
                with contextlib.suppress(GpumandError):
                    entry.devices = self._state.ledger.resolve_devices(entry.request.options.device)

    def _serve(self, entry: WaitingRequest, queue_entry: QueueEntry, queue_pass: QueuePass) -> tuple[int, ...]:
        """Decide one request and act on it; returns the devices on which later requests queue behind it."""
        job_devices = self._job_devices(entry)
        if job_devices:
            return job_devices
        if self._gate.held:
            entry.wait_for(self._gate.held)
            return ()
        decision = self._decide(entry, queue_entry.requirement)
        if entry.own_leases and entry.decided and decision.verdict is Verdict.WAIT:
            error = self._nested.deadlock(self._decisions.view(), entry, queue_entry.requirement)
            if error is not None:
                self.remove(entry)
                entry.refuse(error)
                return ()
        if decision.verdict is Verdict.GRANT and decision.load and self._is_reserved_for_manual(decision):
            ruling = QueueDecision(as_wait(decision, MANUAL_EVICTION))
        else:
            ruling = queue_pass.resolve(self._decisions.view(), queue_entry, decision)
            ruling = self._check_overlapping_load(entry, self._pass_own_waiters(entry, queue_pass, decision, ruling))
        self._busy_probes.record_demand(ruling.decision.busy if ruling.decision.verdict is Verdict.WAIT else ())
        self._apply(entry, ruling)
        return decision.eligible_devices

    def _pass_own_waiters(
        self, entry: WaitingRequest, queue_pass: QueuePass, decision: Decision, ruling: QueueDecision
    ) -> QueueDecision:
        """Let a request go first if all requests ahead wait for leases that its client keeps until it is granted."""
        if not entry.own_leases or decision.verdict is not Verdict.GRANT or ruling.decision.verdict is Verdict.GRANT:
            return ruling
        ahead = queue_pass.entries_ahead(decision.place)
        is_first = self._nested.is_waited_for_by(self._decisions.view(), entry, [one.requirement for one in ahead])
        return QueueDecision(decision, overtaken=tuple(one.number for one in ahead)) if is_first else ruling

    def _job_devices(self, entry: WaitingRequest) -> Devices:
        return self._running.get(entry, ())

    def _is_reserved_for_manual(self, decision: Decision) -> bool:
        return any(device in self._reserved_for_manual for device in (*decision.place, *decision.extra_devices))

    def _decide(self, entry: WaitingRequest, requirement: Requirement) -> Decision:
        """Decide on the current state; a decision that depends on VRAM needs a reading taken for it."""
        if entry.decided:
            # The last decision did not end the request. Before the next one, read VRAM again: that reading may be
            # older than the memory which was freed or taken since.
            entry.decided, entry.sample_after = False, self._state.clock.monotonic()
        decision = self._decisions.decide(requirement, entry.evict_failed)
        if not decision.needs_fresh_sample:
            entry.decided = True
            return decision
        if self._state.sampled_at < entry.sample_after:
            self.sample_soon()
            return self._decisions.wait_for_reading(requirement, decision)
        entry.decided = True
        return decision

    def _check_overlapping_load(self, entry: WaitingRequest, ruling: QueueDecision) -> QueueDecision:
        """Apply the conditions of ``_decide`` and ``_serve`` to a load that is to overlap with leases.

        The queue pass makes that decision itself, so it has not gone through those two methods.
        """
        decision = ruling.decision
        if not ruling.is_overlap_candidate or decision.verdict is not Verdict.GRANT:
            return ruling
        if self._is_reserved_for_manual(decision):
            return replace(ruling, decision=as_wait(decision, MANUAL_EVICTION))
        if decision.needs_fresh_sample and self._state.sampled_at < entry.sample_after:
            entry.decided = False  # decide again on the next reading
            self.sample_soon()
            return replace(ruling, decision=as_wait(decision, VRAM_READING))
        return ruling

    def _apply(self, entry: WaitingRequest, ruling: QueueDecision) -> None:
        decision = ruling.decision
        if ruling.is_overlap_candidate and decision.place:
            self._state.overlapping.load_requested(decision.place)
        if decision.verdict is Verdict.WAIT:
            entry.wait_for(decision.message, decision.advice)
            if decision.retry_at is not None:
                self._turn_waits.decide_again(entry, decision.retry_at)
        elif decision.verdict is Verdict.REFUSE or not decision.place:
            self._refuse(entry, decision)
        elif decision.resident:
            self._grant(entry, decision.place, ruling.overtaken)
        elif entry.request.options.timeout_sec > 0 or self._is_instant(decision, entry.request.consumer):
            self._start(entry, decision, takes_slot=entry.wants_lease and ruling.takes_slot)
        else:
            entry.wait_for(NOT_RESIDENT)

    def _is_instant(self, decision: Decision, consumer: str) -> bool:
        """Whether a request with timeout 0 may start this job: a lazy consumer that runs and fits needs no load."""
        return (
            not decision.evictions
            and self._state.consumer(consumer).spec.lazy
            and self._reconciler.is_running(consumer)
        )

    def _grant(self, entry: WaitingRequest, place: Devices, overtaken: Sequence[int] = ()) -> None:
        self._dequeue(entry)
        if entry.restores:
            return self._grant_restored(entry, place)
        # Checked again here: many requests may have been waiting when the first of them passed the admission check.
        leases = self._state.ledger.leases.values()
        error = lease_limit_error(leases, entry.request.owner.uid) if entry.wants_lease else None
        if error is not None:
            self._nested.left(entry)
            entry.refuse(error)
        elif entry.wants_lease:
            self._nested.give_back(entry)
            lease = self._leases.create(entry.request, place)
            self._nested.granted(entry)
            expected_sec = self._state.consumer(lease.consumer).times.hold_sec()
            self._state.overtakings.begin(lease.id, overtaken, expected_sec)
            self._state.overlapping.lease_started(lease.id, place)
            entry.grant(lease)
        else:
            entry.grant(None)
        return None

    def _grant_restored(self, entry: WaitingRequest, place: Devices) -> None:
        lease = self._nested.restored(entry, place)
        if lease is not None:
            self._state.overlapping.lease_started(lease.id, place)
        entry.grant(lease)

    def _refuse(self, entry: WaitingRequest, decision: Decision) -> None:
        self.remove(entry)
        entry.refuse((decision.error or Busy)(decision.message))

    async def decide_immediately(self, entry: WaitingRequest) -> None:
        """Decide a request with timeout 0 on a new reading, and refuse it if it would have to wait."""
        await self._state.sample()
        if not entry.is_waiting:  # decided or dropped during the reading
            return
        self._reconciler.reconcile_all()
        entry.decided, entry.sample_after = False, self._state.sampled_at
        self.step()
        if entry.is_waiting and entry not in self._running:
            self.remove(entry)
            decision = self._decide_behind_queue(entry.requirement)
            entry.refuse((decision.error or Busy)(decision.explanation if decision.error else NOT_RESIDENT))

    async def dry_run(self, requirement: Requirement) -> Decision:
        """What would be decided about a request that arrived now, behind all waiting requests; changes nothing."""
        await self._state.sample()
        decision, asked = self._decide_behind_queue(requirement), set[str]()
        # Whether they are busy is asked only where their memory is needed, which is the question here.
        while victims := {one.consumer for one in decision.evictions} - asked:
            asked |= victims
            await asyncio.gather(*map(self._busy_probes.probe, victims))
            decision = self._decide_behind_queue(requirement)
        return decision

    def _decide_behind_queue(self, requirement: Requirement) -> Decision:
        view = self._state.view()
        decision = queue_policy.decide_behind_queue(
            view, requirement, [(self._queue_entry(one), self._job_devices(one)) for one in self]
        )
        if self._gate.held and decision.verdict is not Verdict.REFUSE:
            return as_wait(decision, self._gate.held)
        return decision

    # -- jobs ----------------------------------------------------------------------------------------------------

    def _start(self, entry: WaitingRequest, decision: Decision, *, takes_slot: bool) -> None:
        """Start a job. All its devices are taken at once, without an await: no job holds some and waits for others."""
        entry.wait_for("memory is being freed for it" if decision.evictions else "it is being loaded")
        self._nested.give_back(entry)
        exclusive = takes_slot and entry.request.options.exclusive
        self._jobs.begin(entry.request.consumer, decision, takes_slot=takes_slot, exclusive=exclusive)
        self._running[entry] = decision.place
        self.background.spawn(self._run_job(entry, decision))

    def resume(self, entry: WaitingRequest, devices: Devices) -> None:
        """Continue a load that an earlier daemon process started. The devices must have no job."""
        self._start(entry, Decision(Verdict.GRANT, devices, load=True), takes_slot=entry.wants_lease)

    def start_load(self, entry: WaitingRequest, decision: Decision) -> None:
        """Start a load that does not queue. It was just decided, and its devices must have no job."""
        self._start(entry, decision, takes_slot=False)

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
            del self._running[entry]
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
                self._grant(successor, place)  # otherwise the next pass finds the consumer resident
        elif result.verdict is Verdict.REFUSE and entry.is_waiting:
            self._refuse(entry, result)
        self._jobs.end(place)
        # During a job the residency of its consumers was not reconciled; a failed attempt left it to the readings.
        self._reconciler.reconcile_all()
        self.step()

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
        waiting = (one for one in self if one.request.consumer == consumer)
        return next((one for one in waiting if set(place).issuperset(one.devices)), None)

    def sample_soon(self) -> None:
        """Start a reading and a queue pass after it, unless one is running already."""
        # One reading serves all requests that wait for one.
        if not self._sampling:
            self._sampling = True
            self.background.spawn(self._sample())

    async def _sample(self) -> None:
        try:
            await self._state.sample()
        finally:
            self._sampling = False
        self._reconciler.reconcile_all()
        self.step()

    def require_new_readings(self) -> None:
        """Decide every waiting request only on readings that begin after this call."""
        for entry in self:
            entry.decided, entry.sample_after = False, self._state.clock.monotonic()

    def refuse_all(self, error: GpumandError) -> None:
        """Refuse all waiting requests; running loads continue, and a later request may join them."""
        for entry in tuple(self):
            if entry.restores and not self._closed:
                continue  # it belongs to no call that waits for an answer
            self.remove(entry)
            entry.refuse(error)

    async def close(self, error: GpumandError) -> None:
        """Refuse all waiting requests and cancel all background tasks."""
        self._closed = True
        self.refuse_all(error)
        await self.background.close()
