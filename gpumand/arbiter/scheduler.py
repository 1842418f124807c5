"""The scheduler decides every waiting request in queue order: grant, refuse, start a job, or wait."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Iterator, Mapping, Sequence

from gpumand.arbiter.background import BackgroundTasks
from gpumand.arbiter.busy_probes import BusyProbes
from gpumand.arbiter.decision_cache import DecisionCache
from gpumand.arbiter.jobs import Jobs
from gpumand.arbiter.leases import Leases
from gpumand.arbiter.manual_reservations import ManualReservations
from gpumand.arbiter.nested_leases import NestedLeases
from gpumand.arbiter.outcomes import Outcomes
from gpumand.arbiter.queue_readings import QueueReadings
from gpumand.arbiter.reconciler import Reconciler
from gpumand.arbiter.repeated_grants import RepeatedGrants
from gpumand.arbiter.request_decider import RequestDecider
from gpumand.arbiter.request_jobs import INTERNAL_ERROR, RequestJobs
from gpumand.arbiter.rereads import Rereads
from gpumand.arbiter.shared_waits import QueueEntries, SharedWaits
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.turn_waits import TurnWaits
from gpumand.arbiter.unchanged_waits import UnchangedWaits
from gpumand.arbiter.waiting_queue import WaitingQueue
from gpumand.arbiter.waiting_request import SharedWait, WaitingRequest
from gpumand.arbiter.wanted_leases import WantedLeases
from gpumand.arbiter.work_gate import WorkGate
from gpumand.domain import queue_policy
from gpumand.domain.consumer import Policy
from gpumand.domain.decision import Decision, Requirement
from gpumand.domain.device import Devices, Sample
from gpumand.domain.errors import Busy, GpumandError
from gpumand.domain.queue_pass import QueueDecision, QueueEntry, QueuePass, as_wait
from gpumand.domain.request import Verdict
from gpumand.domain.residency_states import Residency

log = logging.getLogger(__name__)

NOT_RESIDENT = "the consumer is not resident and would have to be loaded first; allow a timeout above 0"
NO_ROOM_TO_GROW = "the consumer is loaded, but others must be evicted so that it can grow; allow a timeout above 0"


class Scheduler:
    """Owns the queue. ``step`` is the only place where a request is decided, and it never awaits.

    Attributes:
        background: tasks that belong to no single call; they are cancelled when the scheduler closes.
        manual: devices on which no job is started, because a manual eviction waits for them.
        readings: the readings that requests wait for.
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
        self._state, self._reconciler, self._gate = state, reconciler, gate
        self._busy_probes, self._nested = busy_probes, nested
        self._queue = WaitingQueue(state)
        self.background = BackgroundTasks()
        self._outcomes = Outcomes(state, self._queue, leases, nested)
        self._running = RequestJobs(state, self._queue, jobs, self._outcomes, nested, gate, reconciler, self)
        self._turn_waits = TurnWaits(state, self.background, self.step)
        self._shared = SharedWaits(state, self._turn_waits)
        self._decisions, self._rereads, self._repeated = DecisionCache(state), Rereads(state), RepeatedGrants(state)
        self._followed_devices: Mapping[int, Sample] = {}
        self._wanted, self._unchanged = WantedLeases(state), UnchangedWaits(state)
        self.manual = ManualReservations()
        self.readings = QueueReadings(state, self._queue, self.background, self._reconcile_and_step)
        self._decider = RequestDecider(state, nested, self._decisions, self._rereads, self.readings, self.manual)
        self._closed = False
        self._stepped, self._is_step_awaited = asyncio.Event(), False
        self._next_step: asyncio.Handle | None = None

    # -- the queue -----------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[WaitingRequest]:
        """Waiting requests in queue order."""
        return iter(self._queue)

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, entry: WaitingRequest) -> None:
        """Queue a request; the next ``step`` decides it."""
        self._queue.add(entry)

    def remove(self, entry: WaitingRequest) -> None:
        """Remove a request without a grant. A load that is running for it continues; the next request joins it."""
        self._outcomes.remove(entry)

    def set_aging(self, aging_sec: float) -> None:
        """Change the number of seconds after which a waiting request has gained 100 priority points."""
        self._queue.set_aging(aging_sec)

    def next_step(self) -> Awaitable[object]:
        """An awaitable that ends with the next ``step`` after this call, even if it is awaited later."""
        self._is_step_awaited = True
        return self._stepped.wait()

    # -- deciding ------------------------------------------------------------------------------------------------

    def grant_again(self, entry: WaitingRequest) -> bool:
        """Grant a request that is not queued, if a queue pass would only repeat a grant."""
        if self._closed or self._gate.held:
            return False
        place = self._repeated.place(entry, self._queue)
        if place:
            self._queue.charge(entry)
            self._outcomes.grant_unqueued(entry, place)
        return bool(place)

    async def decide_new(self, entry: WaitingRequest) -> None:
        """Decide a request that was just queued, in one pass with all that arrive in this turn of the event loop.

        A request that does not wait, or before which none waits, gains nothing from that and is decided at once.
        """
        if not entry.is_waiting:
            return
        if len(self) == 1 or entry.request.options.timeout_sec <= 0:
            self.step(is_for_new=True)
            return
        if self._next_step is None:
            self._next_step = asyncio.get_running_loop().call_soon(lambda: self.step(is_for_new=True))
        await self.next_step()

    def step_after_lease(self, consumer: str) -> None:
        """Run a queue pass after the end of a lease, unless it would leave all requests waiting as they do."""
        is_held = self._closed or self._gate.held
        if is_held or not self._queue or not self._unchanged.hold(consumer, self._queue.in_order()):
            self.step()
            return
        if self._unchanged.require_reading():
            self.readings.request_soon()
        self._state.publish_changes()
        self._end_step()

    def step(self, *, is_for_new: bool = False) -> None:
        """Run one queue pass: decide every waiting request in order, then publish what has changed.

        Args:
            is_for_new: nothing but the arrival of requests is the reason for the pass.

        Nothing is awaited here: all decisions of a pass use the same state, and none acts on an outdated one.
        """
        if self._next_step is not None:
            self._next_step.cancel()
            self._next_step = None
        try:
            self._pass_and_publish(is_for_new=is_for_new)
        finally:
            self._end_step()

    def _end_step(self) -> None:
        # Callers that wait already hold the old event, which stays set; the next call of next_step() gets the new one.
        if self._is_step_awaited:
            self._stepped.set()
            self._stepped, self._is_step_awaited = asyncio.Event(), False

    def _pass_and_publish(self, *, is_for_new: bool) -> None:
        entries = () if self._closed else self._queue.in_order()
        if entries:
            self._decide_all(entries, is_for_new=is_for_new)
        else:
            self._state.queue_positions = {}
            self._unchanged.begin_pass()
        self._running.break_off_abandoned(entries)
        self._state.publish_changes()
        self._wanted.publish()
        self._shared.end_pass()

    def _decide_all(self, entries: Sequence[WaitingRequest], *, is_for_new: bool) -> None:
        self._update_demand(entries)
        self._follow_moved_devices(entries)
        self._decisions.clear()
        self._decider.begin_pass(is_for_new=is_for_new)
        self._shared.begin_pass()
        if is_for_new and not self._gate.held:
            self._shared.keep_outcomes()
        else:
            self._unchanged.begin_pass()
        queue_entries = QueueEntries(entries, self._queue_entry)
        queue_pass = queue_policy.queue_pass_for(self._state.settings.scheduler, queue_entries)
        moment = self._shared.moment
        for position, entry in enumerate(entries):
            group = entry.group
            if group is None or group.settled_at != moment:
                self._decide_one(entry, queue_entries[position], queue_pass)
                moment = self._shared.moment
            elif (alike := group.alike) is None:
                self._keep_waiting(group, queue_entries[position], queue_pass)
            else:
                # A long queue costs time here for each waiting request: keep this branch short.
                alike.append(position)
                if group.wanted is not None:
                    self._wanted.note(entry, group.wanted)
        if self._wanted.found:
            self._unchanged.forget()  # a lease whose grant is not announced yet is found again by the next pass
        self._repeated.end_pass(self._queue)
        self._unchanged.end_pass(self._queue.in_order(), self._decisions.view())

    def _keep_waiting(self, group: SharedWait, first: QueueEntry, queue_pass: QueuePass) -> None:
        """Let the requests of a group go on waiting as they did after the last pass."""
        assert group.decision is not None, "its outcome is known"
        group.alike = []
        queue_pass.keep_waiting(self._decisions.view(), first, group.decision)
        queue_pass.mark_waiting(first, group.decision.eligible_devices, group.alike)

    def _decide_one(self, entry: WaitingRequest, queue_entry: QueueEntry, queue_pass: QueuePass) -> None:
        self._shared.begin_decision(entry)
        try:
            devices = self._serve(entry, queue_entry, queue_pass)
        except Exception:
            # One request that cannot be decided must not block all the others.
            log.exception("the request for %s cannot be decided: it is refused", entry.request.consumer)
            self._outcomes.refuse(entry, INTERNAL_ERROR)
        else:
            if entry.is_waiting:
                queue_pass.mark_waiting(queue_entry, devices, self._shared.waiting_alike(entry))
        if entry.group is not None and entry.progress is not entry.group.progress:
            entry.leave_group()  # its outcome is not one that holds for others
        self._shared.follow_ledger()

    def break_off_load(self, name: str, reason: str) -> None:
        """Cancel the job that loads a consumer. When it has ended, all requests that wait for it are refused.

        Args:
            name: the consumer.
            reason: one line for the clients of the requests.
        """
        self._running.break_off(name, reason)

    def _queue_entry(self, entry: WaitingRequest) -> QueueEntry:
        request, overtaken_sec = entry.request, self._state.overtakings.seconds(entry.request.number)
        known = entry.queue_entry if entry.group is not None else None
        if known is not None and known.overtaken_sec == overtaken_sec:
            return known
        if known is None:  # the requirement of a group is followed at the beginning of each pass
            self._turn_waits.refresh(entry, overtaken_sec)
            self._nested.refresh(entry)
        requirement = entry.requirement if known is None else known.requirement
        made = QueueEntry(request.number, requirement, overtaken_sec, request.priority, entry.loaded)
        entry.queue_entry = made
        return made

    def _update_demand(self, entries: Sequence[WaitingRequest]) -> None:
        """Note which consumers waiting requests need, in queue order; only the adaptive policy uses this."""
        queue_positions: dict[str, int] = {}
        if self._state.settings.scheduler.policy is Policy.ADAPTIVE:
            for entry in entries:
                queue_positions.setdefault(entry.request.consumer, len(queue_positions))
        self._state.queue_positions = queue_positions

    def _follow_moved_devices(self, entries: Sequence[WaitingRequest]) -> None:
        """Look up requested devices again: a device requested by UUID may have another index now."""
        # Every reading replaces the mapping of samples, so the same object means that no device can have moved.
        if self._state.ledger.devices is self._followed_devices:
            return
        self._followed_devices = self._state.ledger.devices
        for entry in entries:
            if entry.request.options.device:
                with contextlib.suppress(GpumandError):
                    devices = self._state.ledger.resolve_devices(entry.request.options.device)
                    if devices != entry.devices:
                        entry.leave_group()
                        entry.devices = devices

    def _serve(self, entry: WaitingRequest, queue_entry: QueueEntry, queue_pass: QueuePass) -> tuple[int, ...]:
        """Decide one request and act on it; returns the devices on which later requests queue behind it."""
        job_devices = self._running.devices(entry)
        if job_devices:
            return job_devices
        if self._gate.held:
            entry.wait_for(self._gate.held)
            self._unchanged.forget()
            return ()
        decision = self._decider.decide(entry, queue_entry.requirement)
        error = self._decider.deadlock(entry, queue_entry.requirement, decision)
        if error is not None:
            self.remove(entry)
            entry.refuse(error)
            return ()
        ruling = self._decider.resolve(entry, queue_entry, queue_pass, decision)
        self._busy_probes.record_demand(ruling.decision.busy if ruling.decision.verdict is Verdict.WAIT else ())
        self._apply(entry, ruling)
        if entry.is_waiting:
            self._queue.revision += 1
            self._unchanged.note(entry, decision, ruling)
        is_own_wait = decision.verdict is Verdict.WAIT and ruling.decision is decision
        if is_own_wait and not ruling.is_overlap_candidate:
            self._shared.settle(entry, queue_entry, decision)
        return decision.eligible_devices

    def _apply(self, entry: WaitingRequest, ruling: QueueDecision) -> None:
        decision = ruling.decision
        if ruling.is_overlap_candidate and decision.place:
            self._state.overlapping.load_requested(decision.place)
        if decision.verdict is Verdict.WAIT:
            entry.wait_for(decision.message, decision.advice, decision.error)
            if entry.progress.decided and decision.leases:
                self._wanted.note(entry, decision)
            if decision.retry_at is not None:
                self._turn_waits.decide_again(entry, decision.retry_at)
        elif decision.verdict is Verdict.REFUSE or not decision.place:
            self._outcomes.refuse(entry, decision)
        elif decision.resident:
            ahead, was_leased = self._queue.place(entry), self._state.consumer(entry.request.consumer).leases > 0
            self._outcomes.grant(entry, decision.place, ruling.overtaken)
            if not ruling.overtaken:
                self._repeated.note(entry, decision, ahead, was_leased=was_leased)
        elif entry.request.options.timeout_sec > 0 or self._is_instant(decision, entry.request.consumer):
            self._running.start(entry, decision, takes_slot=entry.wants_lease and ruling.takes_slot)
        else:
            entry.wait_for(self._why_not_at_once(entry))

    def _why_not_at_once(self, entry: WaitingRequest) -> str:
        consumer = self._state.consumer(entry.request.consumer)
        is_loaded = consumer.residency is Residency.RESIDENT and not consumer.is_doubtful
        return NO_ROOM_TO_GROW if is_loaded else NOT_RESIDENT

    def _is_instant(self, decision: Decision, consumer: str) -> bool:
        """Whether a request with timeout 0 may start this job: a lazy consumer that runs and fits needs no load."""
        return (
            not decision.evictions
            and self._state.consumer(consumer).spec.lazy
            and self._reconciler.is_running(consumer)
        )

    async def decide_immediately(self, entry: WaitingRequest) -> None:
        """Decide a request with timeout 0 on a new reading, and refuse it if it would have to wait."""
        await self._rereads.until_decided(entry, self._reconcile_and_step)
        if entry.is_waiting and entry not in self._running:
            self.remove(entry)
            decision = self._decide_behind_queue(entry.requirement)
            entry.refuse(
                (decision.error or Busy)(decision.explanation if decision.error else self._why_not_at_once(entry))
            )

    async def dry_run(self, requirement: Requirement) -> Decision:
        """What would be decided about a request that arrived now, behind all waiting requests; changes nothing."""
        decision = await self._rereads.settled(lambda: self._decide_behind_queue(requirement))
        asked = set[str]()
        # Whether they are busy is asked only where their memory is needed, which is the question here.
        while victims := {one.consumer for one in decision.evictions} - asked:
            asked |= victims
            await asyncio.gather(*map(self._busy_probes.probe, victims))
            decision = self._decide_behind_queue(requirement)
        return decision

    def _decide_behind_queue(self, requirement: Requirement) -> Decision:
        view = self._state.view()
        decision = queue_policy.decide_behind_queue(
            view, requirement, [(self._queue_entry(one), self._running.devices(one)) for one in self]
        )
        if self._gate.held and decision.verdict is not Verdict.REFUSE:
            return as_wait(decision, self._gate.held)
        return decision

    # -- loads that do not queue, readings and the end -----------------------------------------------------------

    def resume(self, entry: WaitingRequest, devices: Devices) -> None:
        """Continue a load that an earlier daemon process started. The devices must have no job."""
        self._running.start(entry, Decision(Verdict.GRANT, devices, load=True), takes_slot=entry.wants_lease)

    def start_load(self, entry: WaitingRequest, decision: Decision) -> None:
        """Start a load that does not queue. It was just decided, and its devices must have no job."""
        self._running.start(entry, decision, takes_slot=False)

    def _reconcile_and_step(self) -> None:
        self._reconciler.reconcile_all()
        self.step()

    def require_new_readings(self) -> None:
        """Decide every waiting request only on readings that begin after this call."""
        for entry in self:
            entry.progress.decided, entry.progress.sample_after = False, self._state.clock.monotonic()

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
