"""Carrying out a plan on its devices: evict its victims one by one, look again, load, and let go of the devices."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from gpumand.arbiter import log_messages
from gpumand.arbiter.actions import Actions, residency_after
from gpumand.arbiter.busy_probes import BusyProbes
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.waiting_request import Waiting
from gpumand.domain import budget, parking, victims
from gpumand.domain.consumer import Residency
from gpumand.domain.device import Devices, devices_text
from gpumand.domain.errors import GpumandError, LoadFailed
from gpumand.domain.events import EvictionFailed, EvictionOccurred, EvictionReport, LoadFinished
from gpumand.domain.ledger import backoff_sec
from gpumand.domain.planning import Decision, decide_inside
from gpumand.domain.request import PlannedEviction, Verdict
from gpumand.domain.view import Job, View
from gpumand.domain.wording import on_devices
from gpumand.ports import Store

log = logging.getLogger(__name__)


class Jobs:
    """Runs jobs; at most one per device, which the ledger enforces."""

    def __init__(self, arbiter_state: ArbiterState, actions: Actions, store: Store, busyness: BusyProbes) -> None:
        self._books = arbiter_state
        self._busyness = busyness
        self._effects = actions
        self._store = store

    # -- a plan --------------------------------------------------------------------------------------------------

    def begin(self, consumer: str, decision: Decision, *, takes_slot: bool) -> None:
        """Take the devices for a plan: from this moment its room is spoken for and its victims are not lent out."""
        names = tuple(victim.consumer for victim in decision.evictions)
        parked = parking.names(decision.evictions)
        self._books.ledger.begin(Job(decision.place, consumer, names, takes_slot, decision.beside, parked))
        self._books.ledger.claim(consumer, decision.place, self._books.clock.monotonic())

    async def run(self, decision: Decision, entry: Waiting, wanted: Callable[[], bool]) -> Decision:
        """Evict, look again, load. The job must have begun; it still stands when this returns.

        Args:
            decision: the plan as decided when the job began.
            entry: for whom; what was done is noted in it.
            wanted: whether anybody still waits for it. When not, nobody more is evicted and nothing loaded for it; a
                load under way goes on.

        Returns:
            A granting decision when the consumer is resident now; else why not: a wait (try again later) or a refusal.
        """
        asked: set[str] = set()
        place = decision.place
        while decision.verdict is Verdict.GRANT and decision.evictions and wanted():
            await self._books.sample()
            # What was planned is planned anew on what is true right now: before each eviction the whole rest of the
            # plan must still suffice, and still be needed; and whoever is to go is asked whether it works.
            decision = self._decide_inside(place, entry)
            if decision.verdict is not Verdict.GRANT or not decision.evictions:
                break
            victim = decision.evictions[0]
            if victim.consumer not in asked:
                asked.add(victim.consumer)
                if self._books.state(victim.consumer).spec.busy is not None:
                    await self._busyness.ask(victim.consumer)
                    continue
            await self._evict_for(victim, place, entry)
            asked.clear()
        if decision.verdict is Verdict.GRANT and not decision.resident and wanted():
            return await self._load(place, decision, entry)
        return decision

    def end(self, place: Devices) -> None:
        """Let go of the devices and, unless somebody holds it by a lease, of the promise to the job's consumer."""
        job = self._books.ledger.jobs[place[0]]
        self._books.ledger.end(place[0])
        if job.consumer in self._books.ledger.consumers:
            self._books.ledger.unclaim(job.consumer, self._books.clock.monotonic())
        self._books.ledger.prune(self._books.settings.consumers)

    def break_off(self, consumer: str) -> None:
        """Something went wrong that nobody thought of: leave no state that only we could have ended."""
        if consumer in self._books.ledger.consumers and self._books.state(consumer).residency is Residency.LOADING:
            self._books.set_residency(consumer, Residency.UNKNOWN, error="internal error; see the log")

    def _decide_inside(self, place: Devices, entry: Waiting) -> Decision:
        """Decide as if the devices were free: they are ours."""
        view = self._books.view(frozenset(entry.evict_failed))
        decision = decide_inside(view, entry.requirement, place)
        names = tuple(victim.consumer for victim in decision.evictions)
        job, parked = view.jobs[place[0]], parking.names(decision.evictions)
        self._books.ledger.replace_job(replace(job, evicting=names, beside=decision.beside, parking=parked))
        return decision

    # -- evicting ------------------------------------------------------------------------------------------------

    async def _evict_for(self, victim: PlannedEviction, place: Devices, entry: Waiting) -> None:
        """Evict one victim of a plan that was decided this instant."""
        entry.evictions += 1
        consumer = entry.request.consumer
        works = ""

        async def why_not() -> str:
            """Between two methods somebody may have pinned it, or it may have begun to work."""
            nonlocal works
            works = await self._busyness.why_spared(victim.consumer)
            return self._why_never(victim.consumer, consumer) or works

        state = self._books.state(victim.consumer)
        # All of its methods in order; but one that is not to be parked is not parked as a second try either.
        all_may = victim.method == state.methods[0] and (victim.parks or not state.spec.parks)
        method = "" if all_may else victim.method
        device = devices_text(state.devices or place)
        report = EvictionReport(victim.consumer, device, 0, method, trigger=consumer, why=victim.why)
        report = await self.evict(report, lambda: self._is_enough(place, consumer), why_not)
        if not report.error:
            entry.evicted.append(victim.consumer)
        elif not works:  # else it has not failed, and may go when its work is done
            entry.evict_failed.add(victim.consumer)

    def _why_never(self, name: str, consumer: str) -> str:
        consumers = self._books.ledger.consumers
        return victims.why_never(self._books.view(), consumers[name], consumers[consumer])

    def _is_enough(self, place: Devices, consumer: str) -> bool:
        view = self._books.view()
        if consumer not in view.consumers:
            return False
        return all(device in view.devices and self._fits(view, device, consumer) for device in place)

    @staticmethod
    def _fits(view: View, device: int, consumer: str) -> bool:
        free_mib = budget.free_mib(view, device, consumer)
        return free_mib is not None and free_mib >= budget.need_mib(view, device, consumer)

    async def evict(
        self, report: EvictionReport, enough: Callable[[], bool], why_not: Callable[[], Awaitable[str]]
    ) -> EvictionReport:
        """Evict one consumer, on devices taken by a job; count it and tell the world. They must be sampled."""
        report = await self._effects.evict(report, enough, why_not)
        residency = residency_after(report, self._books.state(report.consumer).spec)
        # Its unit may have come back while the figures were watched: that was heard, and is true.
        self._books.set_residency(report.consumer, residency, error=report.error, unit_moved=False)
        if report.error:
            log_messages.eviction_failed(report)
            self._books.count(eviction_failures=1)
            self._announce(EvictionFailed(report))
        elif report.freed_mib or not report.verified:
            log_messages.eviction(report)
            self._books.count(evictions=1, unload_usec=report.duration_usec)
            self._announce(EvictionOccurred(report))
        else:
            # It held nothing, and NVML says so: nothing was evicted, though what it held of host RAM may be free now.
            log.info("%s held no VRAM and went by %s: %s", report.consumer, report.method, report.why)
            self._announce(None)
        return report

    def _announce(self, event: EvictionOccurred | EvictionFailed | None) -> None:
        """First what is true now, then what happened."""
        self._books.tell()
        if event is not None:
            self._books.publish(event)

    # -- loading -------------------------------------------------------------------------------------------------

    async def _load(self, place: Devices, decision: Decision, entry: Waiting) -> Decision:
        if entry.from_own_unit:
            # Its unit is coming up by itself and waits for our answer: there is nothing to start, and waiting for its
            # health would be waiting for ourselves. The footprint stays reserved until it shows.
            return replace(decision, resident=True)
        try:
            await self._load_one(entry.request.consumer, place)
        except GpumandError as error:
            return Decision(Verdict.REFUSE, place, error=type(error), message=error.message)
        entry.loaded = True
        return replace(decision, resident=True)

    async def _load_one(self, name: str, place: Devices) -> None:
        spec, began = self._books.state(name).spec, self._books.clock.monotonic()
        self._books.ledger.update(name, devices=place, unasked=False)
        self._books.ledger.rebase(name)
        self._books.set_residency(name, Residency.LOADING, error="")
        self._books.tell()
        await self._keep(self._store.put_load(name, place, self._books.clock.realtime_usec()))
        try:
            started = await self._effects.load(spec, lambda: self._books.state(name).leases > 0)
        except LoadFailed as failed:
            await self._note_failure(name, place, began, failed)
            raise
        else:
            await self._note_success(name, place, began, started=started)
        finally:
            # Not where we are being stopped in the middle of it: a server loads on without us, and its memory must
            # be reckoned with after our restart.
            if self._books.state(name).residency is not Residency.LOADING:
                await self._keep(self._store.drop_load(name))

    async def _keep(self, write: Awaitable[None]) -> None:
        """Write down what only a restart needs; a full disk must not keep anybody from loading."""
        try:
            await write
        except OSError as error:
            log.warning("what is being loaded cannot be kept for a restart: %s", error)

    async def _note_success(self, name: str, place: Devices, began: float, *, started: bool) -> None:
        duration_usec = int((self._books.clock.monotonic() - began) * 1e6)
        self._books.set_residency(name, Residency.RESIDENT, error="")
        self._books.ledger.update(name, failures=0, retry_at=0.0)
        self._books.count(loads=1, load_usec=duration_usec)
        log.info("loaded %s on %s in %.1f s", name, on_devices(place), duration_usec / 1e6)
        self._books.tell()
        self._books.publish(LoadFinished(name, devices_text(place), duration_usec, started=started))

    async def _note_failure(self, name: str, place: Devices, began: float, failed: LoadFailed) -> None:
        """The next try has to wait."""
        await self._books.sample()
        failures = self._books.state(name).failures + 1
        now = self._books.clock.monotonic()
        self._books.set_residency(name, Residency.FAILED, error=failed.message)
        self._books.ledger.update(name, failures=failures, retry_at=now + backoff_sec(failures))
        self._books.count(load_failures=1)
        log.error("loading %s failed (%d in a row): %s", name, failures, failed.message)
        self._books.tell()
        self._books.publish(LoadFinished(name, devices_text(place), int((now - began) * 1e6), failed.message))
