"""Held jobs whose server and leases answer as the test says."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from gpumand.client.errors import Busy, GpumandError
from gpumand.client.values import Grant
from gpumand.domain.consumer import BusyReport
from gpumand.gateway.job_ends import JobEnd
from gpumand.gateway.job_records import JobRecord, JobStore
from gpumand.gateway.jobs import BusyCheck, Jobs
from gpumand.gateway.requests import Client, Entry, RequestTable, WaitLimits

JOB = JobRecord("a1", "comfyui", "comfyui", "l1", "http://127.0.0.1:8188", "alice", "POST", "/prompt", 200, 1700)
SILENT = BusyReport(None, error="HTTP status 401")


class FakeTicket:
    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.lost: str | None = None

    def leave(self) -> None:
        self.left.set()


@dataclass
class World:
    """Held jobs whose server answers as the test says: the last answer is repeated."""

    folder: Path
    answers: list[BusyReport | Exception | int] = field(default_factory=lambda: [1])
    ends: list[tuple[str, str]] = field(default_factory=list)
    grants: list[Grant | GpumandError] = field(default_factory=list)
    adopted: list[FakeTicket] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    asked: int = 0

    def __post_init__(self) -> None:
        self.table, self.store = RequestTable(WaitLimits()), JobStore(lambda: self.folder)
        self.jobs = Jobs(self.table, self.store, self.acquire, cast(Any, self.adopt), self.ended, poll_sec=0.001)

    def ended(self, consumer: str, end: JobEnd) -> None:
        self.ends.append((consumer, end.value))

    async def acquire(self, consumer: str, reason: str) -> Grant:
        self.calls.append(f"acquire {consumer}: {reason}")
        found = self.grants.pop(0) if self.grants else Busy("it is not resident")
        if isinstance(found, GpumandError):
            raise found
        return found

    def adopt(self, consumer: str, grant: Grant, count: int) -> list[FakeTicket]:
        self.calls.append(f"adopt {consumer} {grant.id} {count}")
        tickets = [FakeTicket() for _ in range(count)]
        self.adopted += tickets
        return tickets

    async def probe(self) -> BusyReport:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, BusyReport) else BusyReport(answer)

    def check(self, grace_sec: float = 60.0, max_sec: float = 0.0) -> BusyCheck:
        return BusyCheck(self.probe, grace_sec, max_sec)

    def hold(self, record: JobRecord = JOB, check: BusyCheck | None = None) -> FakeTicket:
        ticket = FakeTicket()
        self.jobs.hold(record, cast(Any, ticket), check or self.check(), Client(record.client))
        return ticket

    def shown(self) -> list[Entry]:
        return list(self.table)

    async def records(self) -> tuple[JobRecord, ...]:
        await self.store.close()
        return await JobStore(lambda: self.folder).load()


async def left(*tickets: FakeTicket) -> None:
    async with asyncio.timeout(30):
        for ticket in tickets:
            await ticket.left.wait()
