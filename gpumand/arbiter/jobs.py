"""Carrying out a plan on a device: evict its victims one by one, look again, load, and let go of the device."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from gpumand.arbiter.books import Books
from gpumand.arbiter.effects import Effects, residency_after
from gpumand.arbiter.waiting import Waiting
from gpumand.domain import budget, victims
from gpumand.domain import errors as no
from gpumand.domain.consumer import Residency
from gpumand.domain.errors import GpumandError, LoadFailed
from gpumand.domain.events import EvictionFailed, EvictionOccurred, EvictionReport, LoadFinished
from gpumand.domain.ledger import backoff_sec
from gpumand.domain.planning import Decision, Wish, decide
from gpumand.domain.request import PlannedEviction, Verdict
from gpumand.domain.view import Job

log = logging.getLogger(__name__)


class Jobs:
    """Runs jobs; at most one per device, which the ledger enforces."""

    def __init__(self, books: Books, effects: Effects) -> None:
        self._books = books
        self._effects = effects

    # -- a plan --------------------------------------------------------------------------------------------------

    def begin(self, device: int, consumer: str, decision: Decision, *, takes_slot: bool) -> None:
        """Take the device for a plan: from this moment its room is spoken for and its victims are not lent out."""
        names = tuple(victim.consumer for victim in decision.evictions)
        self._books.ledger.begin(Job(device, consumer, names, takes_slot))
        self._books.ledger.claim(consumer, device, self._books.clock.monotonic())

    async def run(self, device: int, wish: Wish, decision: Decision, entry: Waiting) -> Decision:
        """Evict, look again, load. The job must have begun; it still stands when this returns.

        Args:
            device: where.
            wish: what is wanted.
            decision: the plan as decided when the job began.
            entry: for whom; what was done is noted in it.

        Returns:
            A granting decision when the consumer is resident now; else why not: a wait (try again later) or a refusal.
        """
        wish = replace(wish, device=device, holds_slot=True)
        while decision.verdict is Verdict.GRANT and decision.evictions and not self._is_abandoned(entry):
            too_many = entry.evictions + len(decision.evictions) > self._books.settings.scheduler.max_evictions
            if too_many:
                return self._too_many(decision, entry)
            for victim in decision.evictions:
                if not await self._evict_for(victim, device, wish, entry):
                    break
            decision = await self._look_again(wish, entry)
        if decision.verdict is Verdict.GRANT and not decision.resident and not self._is_abandoned(entry):
            return await self._load(device, wish, decision, entry)
        return decision

    def end(self, device: int) -> None:
        """Let go of the device and, unless somebody holds it by a lease, of the promise to the job's consumer."""
        job = self._books.ledger.jobs[device]
        self._books.ledger.end(device)
        if job.consumer in self._books.ledger.consumers:
            self._books.ledger.unclaim(job.consumer, self._books.clock.monotonic())

    def _is_abandoned(self, entry: Waiting) -> bool:
        """Its client has gone; one that merely ran out of patience will come back and join the load."""
        return entry.done.cancelled()

    def _too_many(self, decision: Decision, entry: Waiting) -> Decision:
        message = f"{entry.request.consumer} still lacks room after {entry.evictions} evictions"
        error = no.EvictionFailed if entry.evict_failed else no.InsufficientVram
        return replace(decision, verdict=Verdict.REFUSE, evictions=(), error=error, message=message)

    async def _look_again(self, wish: Wish, entry: Waiting) -> Decision:
        """Decide anew on what is true now, as if the device were free: it is ours."""
        await self._books.sample()
        return self._decide_inside(wish, entry)

    def _decide_inside(self, wish: Wish, entry: Waiting) -> Decision:
        view = self._books.view(frozenset(entry.evict_failed))
        jobs = {device: job for device, job in view.jobs.items() if device != wish.device}
        decision = decide(replace(view, jobs=jobs), wish)
        if wish.device is not None and wish.device in view.jobs:
            names = tuple(victim.consumer for victim in decision.evictions)
            self._books.ledger.replace_job(replace(view.jobs[wish.device], evicting=names))
        return decision

    # -- evicting ------------------------------------------------------------------------------------------------

    async def _evict_for(self, victim: PlannedEviction, device: int, wish: Wish, entry: Waiting) -> bool:
        """Evict one victim of the plan; False when the plan must be made anew."""
        await self._books.sample()
        if self._is_abandoned(entry) or not self._may_still_go(victim.consumer, device, wish):
            return False
        entry.evictions += 1
        report = EvictionReport(victim.consumer, str(device), 0, "", trigger=wish.consumer, why=victim.why)
        report = await self.evict(report, lambda: self._is_enough(device, wish.consumer))
        (entry.evict_failed.add if report.error else entry.evicted.append)(victim.consumer)
        return not report.error

    def _may_still_go(self, name: str, device: int, wish: Wish) -> bool:
        """Between plan and eviction somebody may have pinned it, or a new configuration may protect it."""
        view = self._books.view()
        if name not in view.consumers or wish.consumer not in view.consumers:
            return False
        return any(one.name == name for one in victims.candidates(view, device, view.consumers[wish.consumer]))

    def _is_enough(self, device: int, consumer: str) -> bool:
        view = self._books.view()
        free_mib = budget.free_mib(view, device, consumer)
        return free_mib is not None and free_mib >= budget.need_mib(view, device, consumer)

    async def evict(self, report: EvictionReport, enough: Callable[[], bool]) -> EvictionReport:
        """Evict one consumer, on a device taken by a job; count it and tell the world. The device must be sampled."""
        report = await self._effects.evict(report, enough)
        self._books.set_residency(report.consumer, residency_after(report), error=report.error)
        if report.error:
            log.error("evicting %s for %s failed: %s", report.consumer, report.trigger, report.error)
            self._books.count(eviction_failures=1)
        else:
            log.info(
                "evicted %s for %s by %s: %d MiB", report.consumer, report.trigger, report.method, report.freed_mib
            )
            self._books.count(evictions=1, unload_usec=report.duration_usec)
        self._books.tell()
        self._books.publish(EvictionFailed(report) if report.error else EvictionOccurred(report))
        return report

    # -- loading -------------------------------------------------------------------------------------------------

    async def _load(self, device: int, wish: Wish, decision: Decision, entry: Waiting) -> Decision:
        if wish.from_own_unit:
            # Its unit is coming up by itself and waits for our answer: there is nothing to start, and waiting for its
            # health would be waiting for ourselves. The footprint stays reserved until it shows.
            return replace(decision, resident=True)
        try:
            await self._load_one(wish.consumer, device)
        except GpumandError as error:
            return Decision(Verdict.REFUSE, device, error=type(error), message=error.message)
        entry.loaded = True
        return replace(decision, resident=True)

    async def _load_one(self, name: str, device: int) -> None:
        spec, began = self._books.state(name).spec, self._books.clock.monotonic()
        self._books.ledger.update(name, device=device, unasked=False)
        self._books.set_residency(name, Residency.LOADING, error="")
        self._books.tell()
        try:
            await self._effects.load(spec)
        except LoadFailed as failed:
            await self._note_failure(name, device, began, failed)
            raise
        await self._note_success(name, device, began)

    async def _note_success(self, name: str, device: int, began: float) -> None:
        await self._books.sample()  # so that the figures contain it before its reservation is thought over
        duration_usec = int((self._books.clock.monotonic() - began) * 1e6)
        spec = self._books.state(name).spec
        self._books.set_residency(name, Residency.RESIDENT, error="")
        self._books.ledger.update(name, failures=0, retry_at=0.0, shown=not spec.lazy)
        self._books.count(loads=1, load_usec=duration_usec)
        log.info("loaded %s on device %d in %.1f s", name, device, duration_usec / 1e6)
        self._books.tell()
        self._books.publish(LoadFinished(name, str(device), duration_usec))

    async def _note_failure(self, name: str, device: int, began: float, failed: LoadFailed) -> None:
        """Nothing stays half-loaded, and the next try has to wait."""
        await self._effects.clean_up(self._books.state(name).spec)
        await self._books.sample()
        failures = self._books.state(name).failures + 1
        now = self._books.clock.monotonic()
        self._books.set_residency(name, Residency.FAILED, error=failed.message)
        self._books.ledger.update(name, failures=failures, retry_at=now + backoff_sec(failures))
        self._books.count(load_failures=1)
        log.error("loading %s failed (%d in a row): %s", name, failures, failed.message)
        self._books.tell()
        self._books.publish(LoadFinished(name, str(device), int((now - began) * 1e6), failed.message))
