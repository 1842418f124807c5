"""Holds the leases of jobs: requests that are answered before their work is done.

After such a request, the lease is held until the consumer's busy check says that the work has ended (see ``job_ends``).
Each held job has an entry in the table of requests, at which its holding can be cancelled, and a record in a file, with
which the next process of the gateway takes it over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from gpumand.client.errors import GpumandError
from gpumand.client.values import Grant
from gpumand.domain.consumer import BusyReport
from gpumand.gateway.job_ends import BusyWatch, JobEnd
from gpumand.gateway.job_records import JobRecord, JobStore
from gpumand.gateway.leases import Ticket
from gpumand.gateway.requests import Client, Entry, RequestTable

log = logging.getLogger(__name__)

POLL_SEC = 1.0

MAX_JOBS = 256
"""Maximum number of held jobs of a consumer. All of them end together, so that the newest ones are enough."""

RETAKEN = ("", "expired")
"""Reasons of a lost lease, after which it is acquired again: a suspended host, or an unknown one. Any other is the
decision of a person, or the end of the consumer."""

BusyProbe = Callable[[], Awaitable[BusyReport]]
"""Asks the consumer whether it works."""


@dataclass(frozen=True, slots=True)
class BusyCheck:
    """How the end of a consumer's work is found.

    Attributes:
        probe: the busy check.
        grace_sec: how long a job is held without a usable answer.
        max_sec: how long a job is held at most; 0 = without a limit.
    """

    probe: BusyProbe
    grace_sec: float
    max_sec: float = 0.0


AcquireResident = Callable[[str, str], Awaitable[Grant]]
"""Acquires a lease on a consumer, with a reason, if that needs no wait, load or eviction. Raises GpumandError."""

Adopt = Callable[[str, Grant, int], list[Ticket]]
"""Takes over a lease on a consumer that exists already, for a number of jobs; returns their tickets."""


@dataclass(slots=True, eq=False)
class HeldJob:
    """A held job; its ticket is None while it has no lease."""

    record: JobRecord
    entry: Entry
    ticket: Ticket | None


@dataclass(slots=True, eq=False)
class _Held:
    """The held jobs of a consumer.

    Attributes:
        check: the busy check, with the settings of the newest job.
        watch: what it has said since the newest job.
        jobs: the jobs, the oldest first.
        task: asks the busy check.
        unwatched: ends the jobs after the task has failed; None = it has not.
    """

    check: BusyCheck
    watch: BusyWatch
    jobs: list[HeldJob] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    unwatched: asyncio.TimerHandle | None = None


class Jobs:
    """The held jobs of all consumers, with one background task for each consumer that has any.

    Args:
        table: shows the jobs.
        store: keeps them for the next process.
        acquire, adopt: get a lease for jobs whose own was lost.
        ended: called with the consumer and the reason when a job is no longer held.
        poll_sec: seconds between two busy checks.
    """

    def __init__(
        self,
        table: RequestTable,
        store: JobStore,
        acquire: AcquireResident,
        adopt: Adopt,
        ended: Callable[[str, JobEnd], None] = lambda consumer, end: None,
        poll_sec: float = POLL_SEC,
    ) -> None:
        self._table, self._store, self._ended = table, store, ended
        self._acquire, self._adopt = acquire, adopt
        self._poll_sec = poll_sec
        self._held: dict[str, _Held] = {}
        self._clock = asyncio.get_running_loop().time

    def count(self, consumer: str) -> int:
        """Number of jobs of a consumer that are held."""
        return len(self._jobs_of(consumer))

    def lease_ids(self) -> frozenset[str]:
        """The leases of all held jobs."""
        jobs = (job for held in self._held.values() for job in held.jobs)
        return frozenset(job.record.lease for job in jobs if job.ticket is not None)

    def hold(
        self, record: JobRecord, ticket: Ticket | None, check: BusyCheck, client: Client, age_sec: float = 0.0
    ) -> None:
        """Hold the lease of a job, which the caller no longer leaves.

        Args:
            record: describes the job.
            ticket: the place of the request in its lease; None = its lease was lost, and is acquired again if possible.
            check: how the end of its work is found.
            client: the client that sent the request.
            age_sec: how long it has been held already, by an earlier process.
        """
        began_at = self._clock() - age_sec
        job = HeldJob(
            record,
            self._table.add_job(
                client, record.consumer, record.method, record.path, began_at, lambda: self._end(job, JobEnd.CANCELLED)
            ),
            ticket,
        )
        job.entry.status = record.status
        self._store.put(record)
        # A new job needs idle answers of its own, so the count begins again.
        watch = BusyWatch(self._clock(), check.grace_sec)
        held = self._held.setdefault(record.consumer, _Held(check, watch))
        held.check, held.watch = check, watch
        held.jobs.append(job)
        for oldest in held.jobs[:-MAX_JOBS]:
            self._remove(oldest)
        self._describe(record.consumer, held)
        if held.task is None or held.task.done():
            self._begin(record.consumer, held)

    async def close(self) -> None:
        """Stop watching. The jobs stay in the file, for the next process."""
        for held in self._held.values():
            _cancel_end(held)
        tasks = [held.task for held in self._held.values() if held.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._store.close()

    # -- the end of jobs -----------------------------------------------------------------------------------------

    def _jobs_of(self, consumer: str) -> tuple[HeldJob, ...]:
        held = self._held.get(consumer)
        return tuple(held.jobs) if held else ()

    def _begin(self, consumer: str, held: _Held) -> None:
        _cancel_end(held)
        held.task = asyncio.ensure_future(self._watch(consumer, held))
        held.task.add_done_callback(lambda task: self._watch_ended(consumer, held, task))

    def _watch_ended(self, consumer: str, held: _Held, task: asyncio.Task[None]) -> None:
        """End the jobs of a watch that has failed after a while: their leases must not be held forever."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        grace_sec = held.check.grace_sec
        text = "%s: its jobs are not watched any more, and end after busy_grace_sec (%g s): %r"
        log.error(text, consumer, grace_sec, error, exc_info=error)
        held.unwatched = asyncio.get_running_loop().call_later(grace_sec, self._end_unwatched, consumer, held)

    def _end_unwatched(self, consumer: str, held: _Held) -> None:
        jobs = tuple(held.jobs)
        for job in jobs:
            self._remove(job)
        for _ in jobs:
            self._ended(consumer, JobEnd.NO_ANSWER)

    async def _watch(self, consumer: str, held: _Held) -> None:
        while held.jobs:
            await asyncio.sleep(self._poll_sec)
            watch = held.watch
            report = await _ask(held.check.probe)
            self._end_lost(consumer)
            self._end_overdue(consumer, held.check.max_sec)
            # An answer to a question from before the newest job says nothing about that job.
            end = watch.record(self._clock(), report) if held.watch is watch else None
            if end is not None:
                self._end_all(consumer, end, watch)
            elif held.watch.is_busy:
                await self._cover(consumer)
            self._describe(consumer, held)

    def _describe(self, consumer: str, held: _Held) -> None:
        shown = held.watch.shown(self._clock(), consumer)
        for job in held.jobs:
            lost = "" if job.ticket is not None else "; its lease was lost, and is acquired again if possible"
            job.entry.waits_for = shown + lost

    def _end_all(self, consumer: str, end: JobEnd, watch: BusyWatch) -> None:
        if end is JobEnd.NO_ANSWER:
            text = "%s: the busy check gave no usable answer within busy_grace_sec (%s); its job is no longer held"
            log.warning(text, consumer, watch.error)
        for job in self._jobs_of(consumer):
            self._end(job, end)

    def _end_overdue(self, consumer: str, max_sec: float) -> None:
        oldest_at = self._clock() - max_sec
        for job in self._jobs_of(consumer) if max_sec else ():
            if job.entry.began_at <= oldest_at:
                log.warning("%s: a job is no longer held, after max_job_sec (%g s)", consumer, max_sec)
                self._end(job, JobEnd.TOO_LONG)

    def _end_lost(self, consumer: str) -> None:
        """Take note of leases that have ended in gpumand."""
        for job in self._jobs_of(consumer):
            if job.ticket is None or job.ticket.lost is None:
                continue
            if job.ticket.lost in RETAKEN:
                job.ticket = None
            else:
                log.info("%s: a job is no longer held, because its lease was %s", consumer, job.ticket.lost)
                self._end(job, JobEnd.LEASE_ENDED)

    def _end(self, job: HeldJob, end: JobEnd) -> None:
        self._ended(job.record.consumer, end)
        self._remove(job)

    def _remove(self, job: HeldJob) -> None:
        held = self._held.get(job.record.consumer)
        if held is None or job not in held.jobs:
            return
        held.jobs.remove(job)
        self._table.remove(job.entry)
        self._store.discard(job.record)
        if job.ticket is not None:
            job.ticket.leave()
        if not held.jobs:
            del self._held[job.record.consumer]
            if held.task is not None and held.task is not asyncio.current_task():
                held.task.cancel()

    # -- lost leases ---------------------------------------------------------------------------------------------

    async def _cover(self, consumer: str) -> None:
        """Acquire a lease for jobs that have none and go on, without waiting or loading."""
        without = [job for job in self._jobs_of(consumer) if job.ticket is None]
        if not without:
            return
        first = without[0].entry
        try:
            grant = await self._acquire(consumer, f"gateway: {first.client.name} {first.method} {first.path}")
        except GpumandError as error:
            log.debug("%s: no lease for a job that goes on: %s", consumer, error.message)
            return
        tickets = self._adopt(consumer, grant, len(without))
        for job, ticket in zip(without, tickets, strict=True):
            if job in self._jobs_of(consumer):
                job.ticket, job.record = ticket, replace(job.record, lease=grant.id)
                self._store.put(job.record)
            else:
                ticket.leave()  # cancelled meanwhile


def _cancel_end(held: _Held) -> None:
    if held.unwatched is not None:
        held.unwatched.cancel()
        held.unwatched = None


async def _ask(probe: BusyProbe) -> BusyReport:
    """The answer of a busy check."""
    try:
        return await probe()
    # Whatever fails here, the lease must not be held forever.
    except Exception as error:
        return BusyReport(None, error=f"the busy check failed: {error}")
