"""Carries out a plan on its devices: evicts the victims one by one, deciding again each time, then loads."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial

from gpumand.arbiter import log_messages
from gpumand.arbiter.actions import Actions, residency_after
from gpumand.arbiter.busy_probes import BusyProbes
from gpumand.arbiter.deferred_unloads import GivesWay, announce_put_off, never_gives_way
from gpumand.arbiter.loading import LoadAttempt, LoadBrokenOff
from gpumand.arbiter.loading_unit import LoadingUnit
from gpumand.arbiter.partial_loads import note_partial_load
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.domain import budget, busyness, parking, rival_growth, shared_units, victims
from gpumand.domain.backoff import backoff_sec
from gpumand.domain.consumer import STOPPING, EvictionMethod
from gpumand.domain.decision import Decision
from gpumand.domain.deferred_unloads import other_plan_suffices
from gpumand.domain.device import Devices, Sample, format_devices
from gpumand.domain.errors import GpumandError, LoadFailed
from gpumand.domain.events import EvictionFailed, EvictionOccurred, EvictionReport, LoadFinished
from gpumand.domain.planning import decide_within_job
from gpumand.domain.request import PlannedEviction, Verdict
from gpumand.domain.reservation import public_trigger
from gpumand.domain.residency_states import Residency
from gpumand.domain.turns import begin_turn
from gpumand.domain.view import Job, View
from gpumand.domain.wording import LAST_LINES, describe_devices
from gpumand.ports import ConsumerRoutes, Store, UnitManager

log = logging.getLogger(__name__)

FREEING = "memory is being freed for it"
"""What a request waits for whose job evicts consumers."""


class Jobs:
    """Runs jobs. The ledger enforces that a device has at most one."""

    def __init__(
        self,
        state: ArbiterState,
        units: UnitManager,
        routes: ConsumerRoutes,
        store: Store,
        busy_probes: BusyProbes,
    ) -> None:
        self._state, self._units, self._routes = state, units, routes
        self._busy_probes = busy_probes
        self._actions = Actions(state, units, routes)
        self._store = store
        self._loads: dict[str, LoadAttempt] = {}

    # -- a plan --------------------------------------------------------------------------------------------------

    def begin(self, consumer: str, decision: Decision, *, takes_slot: bool, exclusive: bool = False) -> None:
        """Take the devices for a plan: from now on its memory is reserved and no lease is granted on its victims."""
        names = tuple(victim.consumer for victim in decision.evictions)
        parked = parking.parked_victims(decision.evictions)
        job = Job(decision.place, consumer, names, takes_slot, decision.extra_devices, parked, exclusive)
        self._state.ledger.begin_job(job)
        self._state.ledger.claim(consumer, decision.place, self._state.clock.monotonic())

    async def run(self, decision: Decision, entry: WaitingRequest, is_still_wanted: Callable[[], bool]) -> Decision:
        """Evict the victims and load the consumer. ``begin`` must have been called; the caller calls ``end`` later.

        Args:
            decision: the plan that was decided when the job began.
            entry: the request; evictions and the load are recorded in it.
            is_still_wanted: whether a request still waits for the load. Otherwise no further eviction and no load is
                started; a load that is running continues.

        Returns:
            A granting decision when the consumer is resident; otherwise a wait (decide again later) or a refusal.
        """
        probed: set[str] = set()
        place = decision.place
        while decision.verdict is Verdict.GRANT and decision.evictions and is_still_wanted():
            await self._state.sample()
            # The plan may be outdated: evictions take seconds, in which leases, pins and foreign memory change. So it
            # is recalculated before each eviction, and the rest of it must still be sufficient and still be needed.
            decision = self._decide_inside(place, entry)
            if decision.verdict is not Verdict.GRANT or not decision.evictions or not is_still_wanted():
                break
            victim = decision.evictions[0]
            if victim.consumer not in probed:
                probed.add(victim.consumer)
                # The busy check is an await as well, so the plan is recalculated once more with its answer.
                if self._may_be_busy(victim.consumer):
                    await self._busy_probes.probe_unit(victim.consumer)
                    continue
            await self._evict_for(victim, place, entry, is_still_wanted)
            probed.clear()
        if decision.verdict is Verdict.GRANT and not decision.resident and is_still_wanted():
            return await self._load(place, decision, entry)
        return decision

    def _may_be_busy(self, name: str) -> bool:
        """Whether a consumer, or another one that a stop of its unit would end too, can be asked or watched at work."""
        ledger, state = self._state.ledger, self._state.consumer(name)
        in_unit = shared_units.others_in_unit(ledger.consumers, state, ledger.sharing)
        return any(self._busy_probes.can_probe(one) for one in (state, *in_unit))

    def end(self, place: Devices) -> None:
        """Release the devices and, unless a lease was granted, the reservation for the job's consumer."""
        job = self._state.ledger.jobs[place[0]]
        self._state.ledger.end_job(place[0])
        if job.consumer in self._state.ledger.consumers:
            self._state.ledger.release_claim(job.consumer, self._state.clock.monotonic())
        self._state.ledger.prune(self._state.settings.consumers)

    def abort(self, consumer: str) -> None:
        """After an unexpected error: leave no residency behind that only the job would have changed."""
        if consumer in self._state.ledger.consumers and self._state.consumer(consumer).residency is Residency.LOADING:
            self._state.set_residency(consumer, Residency.UNKNOWN, error="internal error in gpumand; see its log")

    def _decide_inside(self, place: Devices, entry: WaitingRequest) -> Decision:
        """Decide again on the job's own devices, and record the new victims in the job."""
        view = self._state.view(frozenset(entry.evict_failed))
        decision = decide_within_job(view, entry.requirement, place)
        names = tuple(victim.consumer for victim in decision.evictions)
        job, parked = view.jobs[place[0]], parking.parked_victims(decision.evictions)
        self._state.ledger.replace_job(
            replace(job, evicting=names, extra_devices=decision.extra_devices, parking=parked)
        )
        return decision

    # -- evicting ------------------------------------------------------------------------------------------------

    async def _evict_for(
        self, victim: PlannedEviction, place: Devices, entry: WaitingRequest, is_still_wanted: Callable[[], bool]
    ) -> None:
        """Evict one victim of the plan. There must be no await between the decision and this call."""
        entry.evictions += 1
        consumer = entry.request.consumer
        busy_reason = ""

        async def why_not_now() -> str:
            """Why the second method must not be tried: meanwhile it may have been pinned or leased, or become busy."""
            nonlocal busy_reason
            busy_reason = await self._busy_probes.busy_exemption(victim.consumer)
            return self._exemption_reason(victim.consumer, consumer) or busy_reason

        async def gives_way() -> int:
            """For how many jobs the unload is given up: where another plan suffices, or no request waits any more."""
            if unfreed := busyness.describe_unfreed(self._state.consumer(victim.consumer)):
                entry.wait_for(f"{FREEING} (unload of {victim.consumer}: {unfreed})")
            if is_still_wanted() and not self._other_plan_suffices(victim.consumer, place, entry):
                return 0
            return await self._busy_probes.jobs_behind_unload(victim.consumer)

        report, enough = self._new_report(victim, place, consumer), partial(self._has_enough_free, place, consumer)
        report = await self.evict(report, enough, why_not_now, gives_way=gives_way)
        if entry.waiting_for.startswith(FREEING):
            entry.wait_for(FREEING)
        if not report.error:
            entry.evicted.append(victim.consumer)
        elif report.deferred_by:
            entry.evictions -= 1  # nothing was evicted: the limit of evictions is left to the other plan
        elif not busy_reason and self._state.consumer(victim.consumer).residency is not Residency.UNLOADING:
            # A busy victim has not failed and can be evicted when it is idle, and one that still stops is waited for.
            entry.evict_failed.add(victim.consumer)

    def _new_report(self, victim: PlannedEviction, place: Devices, consumer: str) -> EvictionReport:
        """The report with which an eviction for a consumer begins."""
        state = self._state.consumer(victim.consumer)
        # All methods are tried in order if the plan starts with the first one. Otherwise only the planned one: a
        # victim that must not be parked (host RAM has no room) must not be parked as a second attempt either.
        may_fall_back = victim.method == state.usable_methods[0] and (victim.parks or not state.spec.parks)
        method = "" if may_fall_back else victim.method
        device = format_devices(self._state.view().devices_of(state) or place)
        return EvictionReport(victim.consumer, device, 0, method, trigger=public_trigger(consumer), why=victim.why)

    def _other_plan_suffices(self, victim: str, place: Devices, entry: WaitingRequest) -> bool:
        view = self._state.view(frozenset(entry.evict_failed))
        return other_plan_suffices(view, entry.requirement, place, victim)

    def _exemption_reason(self, name: str, consumer: str) -> str:
        consumers = self._state.ledger.consumers
        return victims.permanent_exemption(self._state.view(), consumers[name], consumers[consumer])

    def _has_enough_free(self, place: Devices, consumer: str) -> bool:
        view = self._state.view()
        if consumer not in view.consumers:
            return False
        return all(device in view.devices and self._fits(view, device, consumer) for device in place)

    @staticmethod
    def _fits(view: View, device: int, consumer: str) -> bool:
        free_mib = budget.free_mib(view, device, consumer)
        return free_mib is not None and free_mib >= budget.need_mib(view, device, consumer)

    async def evict(
        self,
        report: EvictionReport,
        is_enough_free: Callable[[], bool],
        why_not_now: Callable[[], Awaitable[str]],
        *,
        respect_busy: bool = True,
        gives_way: GivesWay = never_gives_way,
    ) -> EvictionReport:
        """Evict one consumer on devices taken by a job, then count and announce the eviction.

        The caller must have taken a reading just before. Arguments and result are those of ``Actions.evict``.
        """
        claimed_at = self._state.consumer(report.consumer).claimed_at
        report = await self._actions.evict(
            report, is_enough_free, why_not_now, respect_busy=respect_busy, gives_way=gives_way
        )
        self._actions.finish_stop(report)
        residency = residency_after(report, self._state.consumer(report.consumer))
        if report.error and self._state.orphans.belong_to(report.consumer):
            residency = Residency.UNLOADED  # its unit is stopped: the memory that stays belongs to other processes now
        may_come = EvictionMethod.HTTP in report.tried or self._state.consumer(report.consumer).unload_pending
        is_pending = bool(report.error) and may_come and residency is Residency.UNKNOWN
        self._state.ledger.update(
            report.consumer, unload_pending=is_pending, unload_deferred=False, unload_clients=0, direct_work=False
        )
        # unit_moved=False: the unit may have started again while VRAM was being read, and that state is current.
        error = "" if report.deferred_by else report.error
        self._state.set_residency(report.consumer, residency, error=error, unit_moved=False)
        if not report.error and self._state.consumer(report.consumer).claimed_at == claimed_at:
            # It loads nothing any more for its last request. A newer reservation is for a unit that started again.
            self._state.ledger.end_claim(report.consumer)
        self._report_eviction(report)
        return report

    def _report_eviction(self, report: EvictionReport) -> None:
        """Log, count and announce an eviction that has ended."""
        if report.deferred_by:
            self._busy_probes.note_deferred(report.consumer, report.deferred_by)
            log.info("%s: %s. Another plan is made: it counts as busy", report.consumer, report.error)
            announce_put_off(self._state, report)
        elif report.error:
            log_messages.eviction_failed(report)
            self._state.count(eviction_failures=1)
            self._announce(EvictionFailed(report))
        elif report.freed_mib or not report.verified or report.method in STOPPING:
            log_messages.eviction(report)
            self._state.count(evictions=1, unload_usec=report.duration_usec)
            self._announce(EvictionOccurred(report))
        else:
            # It held no VRAM, as a reading confirms, and its service still runs: this does not count as an eviction.
            log.info("unloaded %s by %s, which freed no VRAM: %s", report.consumer, report.method, report.why)
            self._announce(None)

    def _announce(self, event: EvictionOccurred | EvictionFailed | None) -> None:
        """Publish the new state before the event, so that clients that react to the event read the new state."""
        self._state.publish_changes()
        if event is not None:
            self._state.publish(event)

    # -- loading -------------------------------------------------------------------------------------------------

    async def _load(self, place: Devices, decision: Decision, entry: WaitingRequest) -> Decision:
        if entry.from_own_unit:
            # The consumer's own unit is starting and waits for this grant (ExecStartPre=gpumanctl acquire): waiting
            # for its health check would deadlock. The footprint stays reserved until a reading shows it.
            return replace(decision, resident=True)
        began = self._state.clock.monotonic()
        try:
            await self._load_one(entry.request.consumer, place)
        except GpumandError as error:
            return Decision(Verdict.REFUSE, place, error=type(error), message=error.message)
        entry.loaded = True
        if entry.wants_lease:
            self._begin_turn(entry.request.consumer, began)
        return replace(decision, resident=True)

    def describe_load(self, name: str) -> str:
        """What the last check of a running load showed, in one line; "" where no load is running."""
        attempt = self._loads.get(name)
        return attempt.last_answer if attempt is not None else ""

    def is_loading(self, name: str) -> bool:
        """Whether a load of the consumer is running that can be broken off; evictions for it come before."""
        return name in self._loads

    def break_off_load(self, name: str, reason: str) -> bool:
        """Cancel the running load of a consumer; its job ends soon. Returns whether there was one."""
        attempt = self._loads.get(name)
        if attempt is not None:
            attempt.break_off(reason)
        return attempt is not None

    def _begin_turn(self, name: str, began: float) -> None:
        """Begin the turn of a consumer that was loaded for a lease, by a load that began at this monotonic time."""
        now, idle = self._state.clock.monotonic(), self._state.consumer(name).times.idle
        turn = begin_turn(now, now - began, self._state.settings.scheduler.min_turn_sec, idle)
        self._state.ledger.update(name, turn=turn)

    async def _load_one(self, name: str, place: Devices) -> None:
        spec, began = self._state.consumer(name).spec, self._state.clock.monotonic()
        before = dict(self._state.ledger.devices)
        self._state.ledger.update(name, devices=place, external_load=False)
        self._state.ledger.reset_baseline(name)
        self._state.set_residency(name, Residency.LOADING, error="")
        self._state.publish_changes()
        await self._write_best_effort(self._store.put_load(name, place, self._state.clock.realtime_usec()))
        ask_others = partial(self._busy_probes.probe_unit, name, itself=False)
        unit = LoadingUnit(self._state, self._units, self._routes, spec, place, ask_others)
        self._loads[name] = attempt = LoadAttempt(self._state, unit, self._routes, spec)
        try:
            started = await attempt.run()
        except LoadBrokenOff as broken_off:
            self._record_broken_off(name, place, began, broken_off, is_stopped=attempt.unit.stopped)
            raise
        except LoadFailed as failed:
            # A new reading first, so that no decision after the failure uses memory values from before it.
            await self._state.sample()
            explained = self._explained(failed, before, name, place)
            await self._record_failure(name, place, began, explained)
            if explained is failed:
                raise
            raise explained from failed
        else:
            await self._record_success(name, place, began, started=started, sleeps=attempt.sleeps)
        finally:
            del self._loads[name]
            # Still LOADING here means that the daemon is being stopped during the load. The server continues to load,
            # so the record must stay on disk: after the restart its memory has to be reserved again.
            if self._state.consumer(name).residency is not Residency.LOADING:
                await self._write_best_effort(self._store.drop_load(name))

    async def _write_best_effort(self, write: Awaitable[None]) -> None:
        """Write a record that only a restart needs; an error such as a full disk must not prevent a load."""
        try:
            await write
        except OSError as error:
            log.warning("running loads cannot be recorded on disk and will be unknown after a restart: %s", error)

    async def _record_success(self, name: str, place: Devices, began: float, *, started: bool, sleeps: bool) -> None:
        duration_usec = int((self._state.clock.monotonic() - began) * 1e6)
        self._state.set_residency(name, Residency.RESIDENT, error="")
        self._state.ledger.update(
            name,
            failures=0,
            retry_at=0.0,
            refused_probes=0,
            has_served=True,
            memory_missing=False,
            unload_pending=False,
            unload_deferred=False,
            direct_work=False,
            start_overdue=False,
            sleeping=sleeps,
        )
        self._state.count(loads=1, load_usec=duration_usec)
        log.info("loaded %s on %s in %.1f s", name, describe_devices(place), duration_usec / 1e6)
        note_partial_load(self._state, name, self._loads[name].partial)
        self._state.publish_changes()
        self._state.publish(LoadFinished(name, format_devices(place), duration_usec, started=started))

    def _record_broken_off(
        self, name: str, place: Devices, began: float, broken_off: LoadBrokenOff, *, is_stopped: bool
    ) -> None:
        """Record a cancelled load. What a server goes on doing is unknown, unless its unit was stopped."""
        residency = Residency.UNLOADED if is_stopped else Residency.UNKNOWN
        self._state.set_residency(name, residency, error=broken_off.message)
        log.warning("%s", broken_off.message)
        self._state.publish_changes()
        duration_usec = int((self._state.clock.monotonic() - began) * 1e6)
        self._state.publish(LoadFinished(name, format_devices(place), duration_usec, broken_off.message))

    def _explained(self, failed: LoadFailed, before: Mapping[int, Sample], name: str, place: Devices) -> LoadFailed:
        """The error of a failed load, with what others took of its memory meanwhile."""
        consumer = self._state.consumer(name)
        needed_mib = consumer.footprint_mib if consumer.footprint_known else 0
        taken = rival_growth.describe(before, self._state.ledger.devices, name, place, needed_mib)
        reason, separator, log_lines = failed.message.partition(LAST_LINES)
        return LoadFailed(f"{reason}. {taken}{separator}{log_lines}") if taken else failed

    async def _record_failure(self, name: str, place: Devices, began: float, failed: LoadFailed) -> None:
        """Record a failed load; the next attempt is delayed by a backoff that grows with each failure."""
        failures = self._state.consumer(name).failures + 1
        attempts = "attempt" if failures == 1 else "attempts"
        now = self._state.clock.monotonic()
        self._state.set_residency(name, Residency.FAILED, error=failed.message)
        self._state.ledger.update(name, failures=failures, retry_at=now + backoff_sec(failures))
        self._state.count(load_failures=1)
        log.error("loading %s failed (%d %s in a row): %s", name, failures, attempts, failed.message)
        self._state.publish_changes()
        self._state.publish(LoadFinished(name, format_devices(place), int((now - began) * 1e6), failed.message))
