"""Turns a request of class job into a held job, and holds the jobs of the last process again."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from gpumand.client.errors import CallerError, GpumandError
from gpumand.client.values import Grant
from gpumand.domain.consumer import BusyReport, ConsumerSpec
from gpumand.gateway.busy_checks import BusyChecks
from gpumand.gateway.exchange import Exchange
from gpumand.gateway.job_records import MAX_TEXT, JobRecord, JobStore
from gpumand.gateway.jobs import Adopt, BusyCheck, Jobs
from gpumand.gateway.leases import Ticket
from gpumand.gateway.requests import Client
from gpumand.gateway.router import Service

log = logging.getLogger(__name__)

TAKE_OVER_SEC = 2.0
"""How long the start of the process waits until the leases of jobs are taken over, so that new requests share them."""

RETRY_SEC = 1.0


class JobHolder:
    """Holds the jobs of requests.

    Args:
        jobs: the held jobs.
        store: keeps them for the next process.
        checks: sends busy checks.
    """

    def __init__(self, jobs: Jobs, store: JobStore, checks: BusyChecks) -> None:
        self._jobs, self._store, self._checks = jobs, store, checks

    def begin(self, exchange: Exchange, ticket: Ticket) -> JobRecord:
        """Record the job of a request that is about to be sent, so that the end of this process does not lose it."""
        record = _record(exchange, ticket)
        self._store.put(record)
        return record

    def drop(self, record: JobRecord) -> None:
        """The request of a recorded job has failed, so that there is no work."""
        self._store.discard(record)

    def hold(self, exchange: Exchange, ticket: Ticket, begun: JobRecord | None = None) -> None:
        """Hold the job of a request whose lease was granted; the ticket is left when the job ends.

        Args:
            exchange: the request.
            ticket: its place in the lease.
            begun: the record that was made when it was sent.
        """
        record = _record(exchange, ticket)
        record = replace(record, id=begun.id) if begun else record
        check = self.check(exchange.service, record.endpoint)
        self._jobs.hold(record, ticket, check, exchange.client)

    def check(self, service: Service, url: str) -> BusyCheck:
        """The busy check of a service.

        Args:
            service: the service.
            url: the URL of its consumer.
        """
        route, settings = service.busy, service.settings
        # Connections are not counted: the gateway's own would look like work.
        busy = None if route is None or not route.path else replace(route, connections=False)
        headers = (("Authorization", f"Bearer {settings.key}"),) if settings.key else ()
        spec = ConsumerSpec(name=service.consumer, vram_resident_mib=1, url=url, busy=busy, headers=headers)

        async def probe() -> BusyReport:
            return await self._checks.probe_busy(spec)

        return BusyCheck(probe, settings.busy_grace_sec, settings.max_job_sec)


def _record(exchange: Exchange, ticket: Ticket) -> JobRecord:
    entry, service, grant = exchange.entry, exchange.service, ticket.ready.result()
    return JobRecord(
        id=os.urandom(8).hex(),
        consumer=service.consumer,
        listener=service.settings.name,
        lease=grant.id,
        endpoint=grant.endpoint,
        client=entry.client.name,
        method=entry.method,
        path=entry.path[:MAX_TEXT],
        status=entry.status,
        began_usec=time.time_ns() // 1000,
    )


class TakeOver:
    """Holds the jobs of the last process again: their leases are still active, unless the gateway was away for long.

    Args:
        jobs: the held jobs.
        renew: extends a lease; raises GpumandError.
        adopt: takes over a lease.
        check_for: returns the busy check of a job.
    """

    def __init__(
        self,
        jobs: Jobs,
        renew: Callable[[str], Awaitable[None]],
        adopt: Adopt,
        check_for: Callable[[JobRecord], Awaitable[BusyCheck]],
    ) -> None:
        self._jobs, self._renew_lease, self._adopt, self._check_for = jobs, renew, adopt, check_for
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, store: JobStore) -> None:
        """Begin, and wait a moment; while gpumand is absent, it goes on in the background."""
        groups: dict[tuple[str, str], list[JobRecord]] = {}
        for record in await store.load():
            groups.setdefault((record.consumer, record.lease), []).append(record)
        self._tasks = {self._begin(one) for one in groups.values()}
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=TAKE_OVER_SEC)

    def _begin(self, records: list[JobRecord]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(self._take_over(records))
        task.add_done_callback(lambda done: _log_failure(records[0].consumer, done))
        return task

    async def close(self) -> None:
        """End what is under way; the records stay in the file."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take_over(self, records: list[JobRecord]) -> None:
        first = records[0]
        is_active = await self._renew(first.lease)
        check = await self._check_for(first)
        tickets: Iterable[Ticket | None] = [None] * len(records)
        if is_active:
            grant = Grant(
                id=first.lease,
                consumer=first.consumer,
                device="",
                endpoint=first.endpoint,
                evicted=(),
                loaded=False,
                waited_sec=0.0,
                expires_at=None,
            )
            tickets = self._adopt(first.consumer, grant, len(records))
        count = len(records)
        jobs = "1 job of the last process is" if count == 1 else f"{count} jobs of the last process are"
        log.info("%s: %s held again", first.consumer, jobs)
        for record, ticket in zip(records, tickets, strict=True):
            age_sec = max(0.0, time.time() - record.began_usec / 1_000_000)
            self._jobs.hold(record, ticket, check, Client(record.client), age_sec)

    async def _renew(self, lease: str) -> bool:
        """Whether a lease is still active; waits while gpumand is absent."""
        while True:
            try:
                await self._renew_lease(lease)
            except CallerError:
                return False
            except GpumandError:
                await asyncio.sleep(RETRY_SEC)
            else:
                return True


def _log_failure(consumer: str, task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        text = "%s: jobs of the last process are not held again, and stay in the file: %r"
        log.error(text, consumer, error, exc_info=error)
