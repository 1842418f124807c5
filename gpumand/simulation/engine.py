"""The simulation engine: events in virtual time, with all decisions made by the scheduling rules of the daemon.

The engine itself decides nothing: ledger, queue, ``planning.decide`` and the queue pass are those of the daemon. It
only simulates the durations of loads, evictions and work. VRAM readings are exact: a loaded consumer holds its
footprint, any other holds nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from heapq import heappop, heappush

from gpumand.domain import parking, queue_policy
from gpumand.domain.assumed_times import Start
from gpumand.domain.backfill import BackfillAccounting
from gpumand.domain.consumer import EvictionMethod, Policy, SchedulerSettings
from gpumand.domain.decision import Decision, Requirement
from gpumand.domain.device import Devices, Reading, format_devices
from gpumand.domain.eviction_cost import start_after
from gpumand.domain.fairness import FairShare
from gpumand.domain.learning import LearnedTimes
from gpumand.domain.lease import Lease, LeaseLifetime, Owner
from gpumand.domain.ledger import Ledger
from gpumand.domain.load_overlap import OverlapExperiment
from gpumand.domain.planning import decide, decide_within_job
from gpumand.domain.queue import RequestQueue
from gpumand.domain.queue_pass import QueueDecision, QueueEntry, QueuePass
from gpumand.domain.request import AcquireOptions, PlannedEviction, Request, Verdict
from gpumand.domain.residency_states import Residency
from gpumand.domain.turns import begin_turn
from gpumand.domain.view import Job, View
from gpumand.simulation.demand import Demand, Use
from gpumand.simulation.entries import RunningLease, SimulatedRequest
from gpumand.simulation.host import SimulatedHost
from gpumand.simulation.outcome import SimulationParameters, SimulationResult, UseResult

OPTIONS = AcquireOptions()
EPSILON_SEC = 1e-9
UNLIMITED_MIB = 1 << 40


class Engine:
    """Simulates one demand on one host with one configuration of the scheduler."""

    def __init__(
        self,
        host: SimulatedHost,
        settings: SchedulerSettings,
        demand: Demand,
        parameters: SimulationParameters | None = None,
        learned: Mapping[str, LearnedTimes] | None = None,
    ) -> None:
        """Prepare a simulation; ``run`` performs it.

        Args:
            host: devices and consumers.
            settings: settings of the scheduler.
            demand: the uses to simulate.
            parameters: additional effects.
            learned: learned times of consumers from before; default: none.
        """
        self._host, self._settings, self._demand = host, settings, demand
        self._parameters = parameters or SimulationParameters()
        self._ledger = Ledger(settings)
        self._ledger.configure(settings, (one.spec for one in host.consumers.values()))
        for name in host.consumers:
            times = (learned or {}).get(name, LearnedTimes())
            self._ledger.update(name, residency=Residency.UNLOADED, times=times)
        self._queue = RequestQueue(settings.aging_sec)
        self._fairness, self._backfill, self._overlap = FairShare(), BackfillAccounting(), OverlapExperiment()
        self._entries: dict[int, SimulatedRequest] = {}
        self._running: dict[str, RunningLease] = {}
        self._memory_by_device: list[dict[str, int]] = [{} for _ in host.total_mib]
        self._parked: set[str] = set()
        self._fairness_charges: dict[int, float] = {}
        self._ever_leased: set[str] = set()
        self._waiting_count: dict[str, int] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._request_numbers = itertools.count(1)
        self._event_numbers = itertools.count()
        self._retries: set[float] = set()
        self._now = 0.0
        self._cached_view: View | None = None
        self._cached_decisions: dict[Requirement, Decision] = {}
        self.outcome = SimulationResult()
        self._update_reading()

    def run(self) -> SimulationResult:
        """Simulate until no event is left, and return the result."""
        self._schedule_uses(self._demand.initial_uses())
        while self._events:
            self._now = self._events[0][0]
            while self._events and self._events[0][0] <= self._now + EPSILON_SEC:
                heappop(self._events)[2]()
            while self._step():
                pass  # like the daemon: a request with a running job is ahead of others on the devices of the job only
        return self.outcome

    def learned(self) -> dict[str, LearnedTimes]:
        """Learned times of each consumer, by name."""
        return {name: state.times for name, state in self._ledger.consumers.items()}

    def _schedule(self, when: float, what: Callable[[], None]) -> None:
        heappush(self._events, (when, next(self._event_numbers), what))

    # -- arrivals ------------------------------------------------------------------------------------------------

    def _schedule_uses(self, uses: Sequence[Use]) -> None:
        for use in uses:
            self._schedule(use.t, partial(self._submit_request, use))

    def _submit_request(self, use: Use) -> None:
        result = UseResult(use)
        self.outcome.served.append(result)
        if use.consumer not in self._ledger.consumers:
            return
        self._observe_idle_time(use.consumer)
        number = next(self._request_numbers)
        state = self._ledger.consumers[use.consumer]
        priority = state.spec.priority if use.priority is None else use.priority
        request = Request(number, use.consumer, Owner(use.client, 0), OPTIONS, priority, self._now)
        requirement = Requirement(use.consumer)
        self._entries[number] = SimulatedRequest(
            request, requirement, result, QueueEntry(number, requirement, 0.0, priority)
        )
        self._waiting_count[use.consumer] = self._waiting_count.get(use.consumer, 0) + 1
        self._queue.add(request, self._put_back_sec(request, state.times.hold_sec()))

    def _put_back_sec(self, request: Request, work_sec: float) -> float:
        if self._settings.policy is not Policy.ADAPTIVE:
            return 0.0
        limit_sec = self._settings.aging_sec
        back_sec = self._fairness.delay_sec(request.owner.bus_name, self._now, work_sec, limit_sec)
        self._fairness_charges[request.number] = min(work_sec, limit_sec - back_sec)
        return back_sec

    def _observe_idle_time(self, name: str) -> None:
        state = self._ledger.consumers[name]
        if name in self._ever_leased and not state.leases and not self._waiting_count.get(name):
            idle_sec = self._now - state.lease_ended_usec / 1e6
            self._ledger.update(name, times=state.times.observe_idle(idle_sec))

    # -- decisions -----------------------------------------------------------------------------------------------

    def _step(self) -> bool:
        """Decide each request in serving order, as the scheduler of the daemon does.

        Returns whether another step is needed: on a host with several devices, after a job was started.
        """
        entries = [self._entries[request.number] for request in self._queue]
        queue_pass = queue_policy.queue_pass_for(self._settings, [entry.queue_entry for entry in entries])
        self._cached_view, has_started = None, False
        for entry in entries:
            had_job = bool(entry.job_devices)
            devices = self._decide(entry, queue_pass, entries)
            if devices:
                queue_pass.mark_waiting(entry.queue_entry, devices)
            has_started |= bool(entry.job_devices) and not had_job
            if queue_pass.is_exhausted(self._current_view(entries)):
                break
        return has_started and len(self._ledger.devices) > 1

    def _decide(
        self, entry: SimulatedRequest, queue_pass: QueuePass, entries: list[SimulatedRequest]
    ) -> tuple[int, ...]:
        """Decide one request and act on it; returns the devices on which it stays ahead of others if it has to wait."""
        if entry.job_devices:
            return entry.job_devices
        view = self._current_view(entries)
        decision = self._cached_decisions.get(entry.requirement)
        if decision is None:
            decision = self._cached_decisions[entry.requirement] = decide(view, entry.requirement)
        if self._act(entry, queue_pass.resolve(view, entry.queue_entry, decision)):
            self._cached_view = None
        return decision.eligible_devices if entry.request.number in self._entries else ()

    def _current_view(self, entries: list[SimulatedRequest]) -> View:
        """The view at this moment, cached until something changes."""
        if self._cached_view is None:
            self._cached_view = self._view(entries)
            self._cached_decisions.clear()
        return self._cached_view

    def _view(self, entries: list[SimulatedRequest]) -> View:
        if self._settings.policy is not Policy.ADAPTIVE:
            return self._ledger.view(self._now)
        queue_positions: dict[str, int] = {}
        for entry in entries:
            if entry.request.number in self._entries:
                queue_positions.setdefault(entry.request.consumer, len(queue_positions))
        may_overlap = self._overlap.devices_allowed(self._settings, self._ledger.devices)
        return self._ledger.view(self._now, queue_positions=queue_positions, may_overlap=may_overlap)

    def _act(self, entry: SimulatedRequest, queue_decision: QueueDecision) -> bool:
        """Carry out a decision; returns whether anything changed."""
        decision = queue_decision.decision
        if queue_decision.is_overlap_candidate and decision.place:
            self._overlap.load_requested(decision.place)
        if decision.verdict is Verdict.WAIT:
            self._decide_again_at(decision.retry_at)
            return False
        if decision.verdict is Verdict.REFUSE or not decision.place:
            self._fairness.refund(entry.request.owner.bus_name, self._fairness_charges.get(entry.request.number, 0.0))
            self._remove_request(entry)
        elif decision.resident:
            self._grant(entry, decision.place, queue_decision.overtaken)
        else:
            self._start_job(entry, decision, takes_slot=queue_decision.takes_slot)
        return True

    def _decide_again_at(self, when: float | None) -> None:
        """Take a step at this time even if nothing else happens then."""
        if when is not None and when not in self._retries:
            self._retries.add(when)
            self._schedule(when, partial(self._retries.discard, when))

    def _remove_request(self, entry: SimulatedRequest) -> None:
        self._queue.remove(entry.request)
        number, consumer = entry.request.number, entry.request.consumer
        entry.result.overtaken_sec = self._backfill.seconds(number)
        self._backfill.forget(number)
        self._fairness_charges.pop(number, None)
        del self._entries[number]
        self._waiting_count[consumer] -= 1

    # -- leases --------------------------------------------------------------------------------------------------

    def _grant(self, entry: SimulatedRequest, place: Devices, overtaken: tuple[int, ...] = ()) -> None:
        self._remove_request(entry)
        name, lease_id = entry.request.consumer, str(entry.request.number)
        entry.result.granted_at = self._now
        owner, granted_usec = entry.request.owner, int(self._now * 1e6)
        lease = Lease(lease_id, name, format_devices(place), owner, LeaseLifetime.CONNECTION, granted_usec)
        self._ledger.add_lease(lease, place, self._now)
        if overtaken:
            self._backfill.begin(lease_id, overtaken, self._ledger.consumers[name].times.hold_sec())
            self._update_overtaken(overtaken)
        self._overlap.lease_started(lease_id, place)
        self._running[lease_id] = RunningLease(entry, place, entry.result.use.hold_sec, self._now)
        self._update_pace(place)

    def _update_overtaken(self, numbers: tuple[int, ...]) -> None:
        for number in numbers:
            entry = self._entries.get(number)
            if entry is not None:
                seconds = self._backfill.seconds(number)
                ignores_turns = seconds >= self._settings.overtake_budget_sec
                entry.requirement = replace(entry.requirement, ignores_turns=ignores_turns)
                entry.queue_entry = replace(entry.queue_entry, overtaken_sec=seconds, requirement=entry.requirement)

    def _update_pace(self, place: Devices) -> None:
        """Reschedule the end of work on these devices: work is slower while a consumer is loaded there."""
        states = self._ledger.consumers.values()
        slow = {one for state in states if state.residency is Residency.LOADING for one in state.devices}
        for lease_id, work in self._running.items():
            if set(place).isdisjoint(work.place):
                continue
            pace = 1.0 if slow.isdisjoint(work.place) else 1.0 / (1.0 + self._parameters.slowdown)
            if pace != work.pace or not work.is_ending:
                work.is_ending = True
                work.left_sec -= (self._now - work.since) * work.pace
                work.since, work.pace = self._now, pace
                self._schedule(self._now + work.left_sec / pace, partial(self._end_lease, lease_id))

    def _end_lease(self, lease_id: str) -> None:
        work = self._running.get(lease_id)
        if work is None or work.left_sec - (self._now - work.since) * work.pace > 1e-6:
            return  # its pace has changed, and a later event ends it
        del self._running[lease_id]
        name, result = work.entry.request.consumer, work.entry.result
        result.ended_at = self._now
        seconds = self._now - (result.granted_at or 0.0)
        self._ledger.remove_lease(lease_id, self._now, int(self._now * 1e6) + 1)
        self._ever_leased.add(name)
        times = self._ledger.consumers[name].times
        usual_sec = times.hold.mean_sec if times.hold.count else 0.0
        self._overlap.lease_ended(lease_id, seconds, usual_sec)
        self._ledger.update(name, times=times.observe_hold(seconds))
        passed = self._backfill.end(lease_id, seconds)
        self._update_overtaken(passed)
        self._schedule_uses(self._demand.next_uses(result.use, self._now))

    # -- jobs ----------------------------------------------------------------------------------------------------

    def _start_job(self, entry: SimulatedRequest, decision: Decision, *, takes_slot: bool) -> None:
        victims = tuple(victim.consumer for victim in decision.evictions)
        parked = parking.parked_victims(decision.evictions)
        self._ledger.begin_job(
            Job(decision.place, entry.request.consumer, victims, takes_slot, decision.extra_devices, parked)
        )
        self._ledger.claim(entry.request.consumer, decision.place, self._now)
        entry.job_devices = decision.place
        self._continue_job(entry, decision.place, decision)

    def _continue_job(self, entry: SimulatedRequest, place: Devices, decision: Decision) -> None:
        """Start the next eviction of a plan, or its load."""
        victims = tuple(victim.consumer for victim in decision.evictions)
        job = self._ledger.jobs[place[0]]
        parked = parking.parked_victims(decision.evictions)
        self._ledger.replace_job(replace(job, evicting=victims, extra_devices=decision.extra_devices, parking=parked))
        if decision.verdict is not Verdict.GRANT:
            self._end_job(entry, place)
        elif decision.evictions:
            self._evict(entry, place, decision.evictions[0])
        else:
            self._load(entry, place)

    def _evict(self, entry: SimulatedRequest, place: Devices, victim: PlannedEviction) -> None:
        name, method = victim.consumer, EvictionMethod(victim.method)
        seconds = self._host.consumers[name].unload_sec
        self._ledger.update(name, residency=Residency.UNLOADING, idle_since=self._now, footprint_seen=False)

        def done() -> None:
            state = self._ledger.consumers[name]
            parks = state.spec.parks and method is EvictionMethod.HTTP
            times = state.times.observe_unload(method, seconds)
            residency = Residency.PARKED if parks else Residency.UNLOADED
            self._ledger.update(name, residency=residency, times=times, idle_since=self._now)
            if method is EvictionMethod.HTTP and start_after(state, method) is Start.PARKED:
                self._parked.add(name)
            else:
                self._parked.discard(name)
            for device in state.devices:
                self._memory_by_device[device].pop(name, None)
                if parks and state.spec.residual_mib:
                    self._memory_by_device[device][name] = state.spec.residual_mib
            self._update_reading(state.devices)
            self.outcome.evicted.append(name)
            entry.requirement = replace(entry.requirement, evictions_done=entry.requirement.evictions_done + 1)
            self._continue_job(entry, place, decide_within_job(self._view([]), entry.requirement, place))

        self._schedule(self._now + seconds, done)

    def _load(self, entry: SimulatedRequest, place: Devices) -> None:
        name = entry.request.consumer
        one = self._host.consumers[name]
        # A consumer without a unit is always running; only its model is loaded and unloaded.
        start = Start.PARKED if name in self._parked or not one.spec.service else Start.COLD
        seconds = one.wake_sec if start is Start.PARKED and one.wake_sec is not None else one.load_sec
        self._ledger.update(name, devices=place, residency=Residency.LOADING, footprint_seen=False)
        self._update_pace(place)

        def done() -> None:
            for device in place:
                self._memory_by_device[device][name] = one.spec.vram_resident_mib
            self._update_reading(place)
            times = self._ledger.consumers[name].times.observe_load(seconds, start)
            turn = begin_turn(self._now, seconds, self._settings.min_turn_sec, times.idle)
            self._ledger.update(
                name, residency=Residency.RESIDENT, footprint_seen=True, times=times, idle_since=self._now, turn=turn
            )
            self._ledger.update_host_ram(self._host_available_mib())
            self.outcome.loads += 1
            self.outcome.load_seconds += seconds
            if self._ledger.jobs[place[0]].takes_slot:
                self._grant(entry, place)
            self._end_job(entry, place)
            self._update_pace(place)

        self._schedule(self._now + seconds, done)

    def _end_job(self, entry: SimulatedRequest, place: Devices) -> None:
        entry.job_devices = ()
        self._ledger.end_job(place[0])
        self._ledger.release_claim(entry.request.consumer, self._now)

    def _update_reading(self, changed: Devices | None = None) -> None:
        """Pass the current memory of the devices to the ledger, as a VRAM reading."""
        samples = tuple(
            self._host.sample(device, self._memory_by_device[device])
            if changed is None or device in changed
            else self._ledger.devices[device]
            for device in range(len(self._memory_by_device))
        )
        self._ledger.apply_reading(Reading(samples), None)
        self._ledger.update_host_ram(self._host_available_mib())

    def _host_available_mib(self) -> int:
        """Available host RAM: the configured amount plus the reserve, minus the RAM of parked consumers."""
        states = self._ledger.consumers.values()
        waking = {one.name for one in states if one.residency is Residency.LOADING} & self._parked
        there = [one for one in states if one.residency is Residency.PARKED or one.name in waking]
        parked_mib = sum(one.host_mib for one in there if one.spec.parks)
        total_mib = UNLIMITED_MIB if self._host.host_ram_mib is None else self._host.host_ram_mib
        return total_mib + self._settings.host_ram_reserve_mib - parked_mib
