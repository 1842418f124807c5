"""The engine: events in virtual time; every decision is asked of the domain's rules, over its own ledger.

Nothing here decides anything. The ledger, the queue, ``planning.decide`` and the walk through the queue are the ones
that the daemon uses; what the world does (loads, unloads, work) takes its seconds here. The device's figures are the
truth: what is loaded holds its footprint, what is not holds nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from heapq import heappop, heappush

from gpumand.domain import parking, queue_policy
from gpumand.domain.backfill import BackfillAccounting
from gpumand.domain.consumer import EvictionMethod, Policy, Residency, SchedulerSettings
from gpumand.domain.device import Devices, ProcessUse, Reading, Sample, devices_text
from gpumand.domain.eviction_cost import start_after
from gpumand.domain.fairness import FairShare
from gpumand.domain.learning import Learned, Start
from gpumand.domain.lease import Lease, LeaseLifetime, Owner
from gpumand.domain.ledger import Ledger
from gpumand.domain.load_overlap import Overlapping
from gpumand.domain.planning import Decision, Requirement, decide, decide_inside
from gpumand.domain.queue import RequestQueue
from gpumand.domain.queue_pass import QueueEntry, QueuePass, Ruling
from gpumand.domain.request import AcquireOptions, PlannedEviction, Request, Verdict
from gpumand.domain.view import Job, View
from gpumand.simulation.demand import Demand, Use
from gpumand.simulation.host import Host
from gpumand.simulation.outcome import Outcome, Served, World

OPTIONS = AcquireOptions()
EPSILON_SEC = 1e-9
ENOUGH_MIB = 1 << 40


@dataclass(slots=True, eq=False)
class _Entry:
    """A request that waits, is being loaded for, or works."""

    request: Request
    requirement: Requirement
    served: Served
    standing: QueueEntry
    works_on: Devices = ()


@dataclass(slots=True)
class _Work:
    """A lease's work: how much is left, and how fast it goes."""

    entry: _Entry
    place: Devices
    left_sec: float
    since: float
    pace: float = 1.0
    is_ending: bool = False


class Engine:
    """Runs one demand on one host under one setting."""

    def __init__(
        self,
        host: Host,
        settings: SchedulerSettings,
        demand: Demand,
        world: World | None = None,
        learned: Mapping[str, Learned] | None = None,
    ) -> None:
        """Set everything up; ``run`` does it.

        Args:
            host: devices and consumers.
            settings: the setting.
            demand: who wants what.
            world: how the world behaves.
            learned: what is known of consumers from earlier; by default nothing.
        """
        self._host, self._settings, self._demand = host, settings, demand
        self._world = world or World()
        self._ledger = Ledger(settings)
        self._ledger.configure(settings, (one.spec for one in host.consumers.values()))
        for name in host.consumers:
            times = (learned or {}).get(name, Learned())
            self._ledger.update(name, residency=Residency.UNLOADED, times=times)
        self._queue = RequestQueue(settings.aging_sec)
        self._fairness, self._overtakings, self._overlapping = FairShare(), BackfillAccounting(), Overlapping()
        self._entries: dict[int, _Entry] = {}
        self._works: dict[str, _Work] = {}
        self._held: list[dict[str, int]] = [{} for _ in host.total_mib]
        self._parked: set[str] = set()
        self._charged: dict[int, float] = {}
        self._used: set[str] = set()
        self._waiting_for: dict[str, int] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count(1)
        self._order = itertools.count()
        self._now = 0.0
        self._seen: View | None = None
        self._known: dict[Requirement, Decision] = {}
        self.outcome = Outcome()
        self._show()

    def run(self) -> Outcome:
        """Until nothing is left to happen."""
        self._come(self._demand.first())
        while self._events:
            self._now = self._events[0][0]
            while self._events and self._events[0][0] <= self._now + EPSILON_SEC:
                heappop(self._events)[2]()
            while self._step():
                pass  # the daemon looks again too: who was begun for is ahead of others on its own device only
        return self.outcome

    def learned(self) -> dict[str, Learned]:
        """What was learned of each consumer."""
        return {name: state.times for name, state in self._ledger.consumers.items()}

    def _at(self, when: float, what: Callable[[], None]) -> None:
        heappush(self._events, (when, next(self._order), what))

    # -- coming --------------------------------------------------------------------------------------------------

    def _come(self, uses: Sequence[Use]) -> None:
        for use in uses:
            self._at(use.t, partial(self._ask, use))

    def _ask(self, use: Use) -> None:
        served = Served(use)
        self.outcome.served.append(served)
        if use.consumer not in self._ledger.consumers:
            return
        self._note_wanted(use.consumer)
        number = next(self._numbers)
        state = self._ledger.consumers[use.consumer]
        priority = state.spec.priority if use.priority is None else use.priority
        request = Request(number, use.consumer, Owner(use.client, 0), OPTIONS, priority, self._now)
        requirement = Requirement(use.consumer)
        self._entries[number] = _Entry(request, requirement, served, QueueEntry(number, requirement, 0.0, priority))
        self._waiting_for[use.consumer] = self._waiting_for.get(use.consumer, 0) + 1
        self._queue.add(request, self._put_back_sec(request, state.times.hold_sec()))

    def _put_back_sec(self, request: Request, work_sec: float) -> float:
        if self._settings.policy is not Policy.ADAPTIVE:
            return 0.0
        limit_sec = self._settings.aging_sec
        back_sec = self._fairness.put_back_sec(request.owner.bus_name, self._now, work_sec, limit_sec)
        self._charged[request.number] = min(work_sec, limit_sec - back_sec)
        return back_sec

    def _note_wanted(self, name: str) -> None:
        state = self._ledger.consumers[name]
        if name in self._used and not state.leases and not self._waiting_for.get(name):
            idle_sec = self._now - state.worked_usec / 1e6
            self._ledger.update(name, times=state.times.observe_idle(idle_sec))

    # -- deciding ------------------------------------------------------------------------------------------------

    def _step(self) -> bool:
        """As the daemon's desk does: decide each request in order, on what is true then; whether any was begun for."""
        entries = [self._entries[request.number] for request in self._queue]
        walk = queue_policy.queue_pass_for(self._settings, [entry.standing for entry in entries])
        self._seen, begun = None, False
        for entry in entries:
            was_begun = bool(entry.works_on)
            devices = self._serve(entry, walk, entries)
            if devices:
                walk.stays(entry.standing, devices)
            begun |= bool(entry.works_on) and not was_begun
            if walk.is_over(self._look(entries)):
                break
        return begun and len(self._ledger.devices) > 1

    def _serve(self, entry: _Entry, walk: QueuePass, entries: list[_Entry]) -> tuple[int, ...]:
        """Decide one request and act on it; where it stays ahead of others if it has to wait."""
        if entry.works_on:
            return entry.works_on
        view = self._look(entries)
        decision = self._known.get(entry.requirement)
        if decision is None:
            decision = self._known[entry.requirement] = decide(view, entry.requirement)
        if self._act(entry, walk.rule(view, entry.standing, decision)):
            self._seen = None
        return decision.devices if entry.request.number in self._entries else ()

    def _look(self, entries: list[_Entry]) -> View:
        """Everything at this moment; the same as long as nothing was done."""
        if self._seen is None:
            self._seen = self._view(entries)
            self._known.clear()
        return self._seen

    def _view(self, entries: list[_Entry]) -> View:
        if self._settings.policy is not Policy.ADAPTIVE:
            return self._ledger.view(self._now)
        wanted: dict[str, int] = {}
        for entry in entries:
            if entry.request.number in self._entries:
                wanted.setdefault(entry.request.consumer, len(wanted))
        may_overlap = self._overlapping.devices(self._settings, self._ledger.devices)
        return self._ledger.view(self._now, wanted=wanted, may_overlap=may_overlap)

    def _act(self, entry: _Entry, ruling: Ruling) -> bool:
        """Whether anything changed."""
        decision = ruling.decision
        if ruling.is_beside and decision.place:
            self._overlapping.wanted(decision.place)
        if decision.verdict is Verdict.WAIT:
            return False
        if decision.verdict is Verdict.REFUSE or not decision.place:
            self._fairness.give_back(entry.request.owner.bus_name, self._charged.get(entry.request.number, 0.0))
            self._leave(entry)
        elif decision.resident:
            self._grant(entry, decision.place, ruling.passes)
        else:
            self._begin(entry, decision, takes_slot=ruling.takes_slot)
        return True

    def _leave(self, entry: _Entry) -> None:
        self._queue.remove(entry.request)
        number, consumer = entry.request.number, entry.request.consumer
        entry.served.overtaken_sec = self._overtakings.seconds(number)
        self._overtakings.forget(number)
        self._charged.pop(number, None)
        del self._entries[number]
        self._waiting_for[consumer] -= 1

    # -- working -------------------------------------------------------------------------------------------------

    def _grant(self, entry: _Entry, place: Devices, passes: tuple[int, ...] = ()) -> None:
        self._leave(entry)
        name, lease_id = entry.request.consumer, str(entry.request.number)
        entry.served.granted_at = self._now
        owner, granted_usec = entry.request.owner, int(self._now * 1e6)
        lease = Lease(lease_id, name, devices_text(place), owner, LeaseLifetime.CONNECTION, granted_usec)
        self._ledger.add_lease(lease, place, self._now)
        if passes:
            self._overtakings.begin(lease_id, passes, self._ledger.consumers[name].times.hold_sec())
            self._renew_standings(passes)
        self._overlapping.began(lease_id, place)
        self._works[lease_id] = _Work(entry, place, entry.served.use.hold_sec, self._now)
        self._pace(place)

    def _renew_standings(self, numbers: tuple[int, ...]) -> None:
        for number in numbers:
            entry = self._entries.get(number)
            if entry is not None:
                entry.standing = replace(entry.standing, overtaken_sec=self._overtakings.seconds(number))

    def _pace(self, place: Devices) -> None:
        """Have the work on these devices end when it will at the pace that it goes at now."""
        states = self._ledger.consumers.values()
        slow = {one for state in states if state.residency is Residency.LOADING for one in state.devices}
        for lease_id, work in self._works.items():
            if set(place).isdisjoint(work.place):
                continue
            pace = 1.0 if slow.isdisjoint(work.place) else 1.0 / (1.0 + self._world.slowdown)
            if pace != work.pace or not work.is_ending:
                work.is_ending = True
                work.left_sec -= (self._now - work.since) * work.pace
                work.since, work.pace = self._now, pace
                self._at(self._now + work.left_sec / pace, partial(self._end, lease_id))

    def _end(self, lease_id: str) -> None:
        work = self._works.get(lease_id)
        if work is None or work.left_sec - (self._now - work.since) * work.pace > 1e-6:
            return  # it goes at another pace meanwhile
        del self._works[lease_id]
        name, served = work.entry.request.consumer, work.entry.served
        served.ended_at = self._now
        seconds = self._now - (served.granted_at or 0.0)
        self._ledger.remove_lease(lease_id, self._now, int(self._now * 1e6) + 1)
        self._used.add(name)
        times = self._ledger.consumers[name].times
        usual_sec = times.hold.mean_sec if times.hold.count else 0.0
        self._overlapping.ended(lease_id, seconds, usual_sec)
        self._ledger.update(name, times=times.observe_hold(seconds))
        passed = self._overtakings.end(lease_id, seconds)
        self._renew_standings(passed)
        self._come(self._demand.after(served.use, self._now))

    # -- loading -------------------------------------------------------------------------------------------------

    def _begin(self, entry: _Entry, decision: Decision, *, takes_slot: bool) -> None:
        victims = tuple(victim.consumer for victim in decision.evictions)
        parked = parking.names(decision.evictions)
        self._ledger.begin(Job(decision.place, entry.request.consumer, victims, takes_slot, decision.beside, parked))
        self._ledger.claim(entry.request.consumer, decision.place, self._now)
        entry.works_on = decision.place
        self._go_on(entry, decision.place, decision)

    def _go_on(self, entry: _Entry, place: Devices, decision: Decision) -> None:
        """The next eviction of a plan, or its load."""
        victims = tuple(victim.consumer for victim in decision.evictions)
        job = self._ledger.jobs[place[0]]
        parked = parking.names(decision.evictions)
        self._ledger.replace_job(replace(job, evicting=victims, beside=decision.beside, parking=parked))
        if decision.verdict is not Verdict.GRANT:
            self._stop(entry, place)
        elif decision.evictions:
            self._evict(entry, place, decision.evictions[0])
        else:
            self._load(entry, place)

    def _evict(self, entry: _Entry, place: Devices, victim: PlannedEviction) -> None:
        name, method = victim.consumer, EvictionMethod(victim.method)
        seconds = self._host.consumers[name].unload_sec
        self._ledger.update(name, residency=Residency.UNLOADING, idle_since=self._now, shown=False)

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
                self._held[device].pop(name, None)
                if parks and state.spec.residual_mib:
                    self._held[device][name] = state.spec.residual_mib
            self._show(state.devices)
            self.outcome.evicted.append(name)
            entry.requirement = replace(entry.requirement, evictions_done=entry.requirement.evictions_done + 1)
            self._go_on(entry, place, decide_inside(self._view([]), entry.requirement, place))

        self._at(self._now + seconds, done)

    def _load(self, entry: _Entry, place: Devices) -> None:
        name = entry.request.consumer
        one = self._host.consumers[name]
        # What is no unit runs already, and only its model comes and goes.
        start = Start.PARKED if name in self._parked or not one.spec.unit else Start.COLD
        seconds = one.wake_sec if start is Start.PARKED and one.wake_sec is not None else one.load_sec
        self._ledger.update(name, devices=place, residency=Residency.LOADING, shown=False)
        self._pace(place)

        def done() -> None:
            for device in place:
                self._held[device][name] = one.spec.vram_resident_mib
            self._show(place)
            times = self._ledger.consumers[name].times.observe_load(seconds, start)
            self._ledger.update(name, residency=Residency.RESIDENT, shown=True, times=times, idle_since=self._now)
            self._ledger.note_host_ram(self._host_available_mib())
            self.outcome.loads += 1
            self.outcome.load_seconds += seconds
            if self._ledger.jobs[place[0]].takes_slot:
                self._grant(entry, place)
            self._stop(entry, place)
            self._pace(place)

        self._at(self._now + seconds, done)

    def _stop(self, entry: _Entry, place: Devices) -> None:
        entry.works_on = ()
        self._ledger.end(place[0])
        self._ledger.unclaim(entry.request.consumer, self._now)

    def _show(self, changed: Devices | None = None) -> None:
        """Have the books see what the devices hold."""
        samples = tuple(
            self._sample(device) if changed is None or device in changed else self._ledger.devices[device]
            for device in range(len(self._held))
        )
        self._ledger.take_reading(Reading(samples), None)
        self._ledger.note_host_ram(self._host_available_mib())

    def _host_available_mib(self) -> int:
        """What there is for those that are parked, besides what is kept for everybody else."""
        states = self._ledger.consumers.values()
        waking = {one.name for one in states if one.residency is Residency.LOADING} & self._parked
        there = [one for one in states if one.residency is Residency.PARKED or one.name in waking]
        parked_mib = sum(one.host_mib for one in there if one.spec.parks)
        total_mib = ENOUGH_MIB if self._host.host_ram_mib is None else self._host.host_ram_mib
        return total_mib + self._settings.host_ram_reserve_mib - parked_mib

    def _sample(self, device: int) -> Sample:
        held, total_mib = self._held[device], self._host.total_mib[device]
        processes = [ProcessUse(2 + place, mib, name, "", name) for place, (name, mib) in enumerate(held.items())]
        if self._host.external_mib:
            processes.append(ProcessUse(1, self._host.external_mib, "external"))
        used_mib = sum(held.values()) + self._host.external_mib
        return Sample(
            device,
            f"SIM-{device}",
            "simulated",
            "simulated",
            total_mib,
            used_mib,
            total_mib - used_mib,
            tuple(processes),
            attributed=True,
            attributable=frozenset(self._host.consumers),
        )
