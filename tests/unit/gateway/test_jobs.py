"""A job keeps its lease until the server is idle, is shown meanwhile, and can be released."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from gpumand.client.errors import Busy, GpumandError, NoSuchLease, NotRunning
from gpumand.client.values import Grant
from gpumand.domain.consumer import BusyReport
from gpumand.gateway import job_holder
from gpumand.gateway.job_ends import JobEnd
from gpumand.gateway.job_holder import TakeOver
from gpumand.gateway.job_records import JobRecord, JobStore
from gpumand.gateway.jobs import MAX_JOBS, BusyCheck, Jobs
from gpumand.gateway.requests import Client, Entry, RequestTable, State, WaitLimits
from gpumand.gateway.routes.classes import RouteClass

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


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


async def left(*tickets: FakeTicket) -> None:
    async with asyncio.timeout(30):
        for ticket in tickets:
            await ticket.left.wait()


async def test_job_is_shown_with_what_is_known_of_it_until_the_server_is_idle(world: World) -> None:
    ticket = world.hold()
    (entry,) = world.shown()
    known = entry.state, entry.kind, entry.consumer, entry.client.name, entry.method, entry.path, entry.status
    assert known == (State.JOB, RouteClass.JOB, "comfyui", "alice", "POST", "/prompt", 200)
    assert world.table.open_count == 0
    await until(lambda: entry.waits_for == "comfyui reports 1 job")
    assert world.jobs.lease_ids() == {"l1"}
    assert await world.records() == (JOB,)

    world.answers = [0]

    await left(ticket)
    assert (world.shown(), world.ends, world.jobs.count("comfyui")) == ([], [("comfyui", "idle")], 0)
    assert world.jobs.lease_ids() == frozenset()
    assert await world.records() == ()


async def test_cancel_gives_the_lease_of_one_job_back_and_not_that_of_others(world: World) -> None:
    first, second = world.hold(), world.hold(replace(JOB, id="b2"))
    number = world.shown()[0].number

    assert world.table.cancel(number)
    assert not world.table.cancel(number)

    assert (first.left.is_set(), second.left.is_set(), world.ends) == (True, False, [("comfyui", "cancelled")])
    assert [one.id for one in await world.records()] == ["b2"]
    asked = world.asked
    await until(lambda: world.asked > asked + 2)
    assert world.table.cancel(world.shown()[0].number)
    assert (second.left.is_set(), world.shown(), world.jobs.count("comfyui")) == (True, [], 0)
    await world.jobs.close()


async def test_new_job_needs_idle_answers_of_its_own_and_all_end_together(world: World) -> None:
    second: list[FakeTicket] = []

    async def probe() -> BusyReport:
        world.asked += 1
        if world.asked == 1:
            second.append(world.hold(replace(JOB, id="b2"), BusyCheck(probe, 60)))
        return BusyReport(0)

    first = world.hold(check=BusyCheck(probe, 60))
    await left(first)
    await left(*second)

    assert world.asked == 3


async def test_endless_new_jobs_delay_neither_the_busy_check_nor_the_configured_maximum(world: World) -> None:
    tickets: list[FakeTicket] = []
    async with asyncio.timeout(30):
        while not world.ends:
            tickets.append(world.hold(replace(JOB, id=str(len(tickets))), world.check(max_sec=0.2)))
            await asyncio.sleep(0)

    assert world.asked > 1
    assert world.ends[0] == ("comfyui", "too_long")
    await world.jobs.close()


async def test_server_without_usable_answers_holds_a_job_for_the_grace_period(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.answers = [SILENT]
    ticket = world.hold(check=world.check(grace_sec=0.2))
    (entry,) = world.shown()
    await until(lambda: entry.waits_for.startswith("HTTP status 401 (for 0 s, held for at most 0.2 s"))

    await left(ticket)

    assert world.ends == [("comfyui", "no_answer")]
    assert "gave no usable answer within busy_grace_sec (HTTP status 401)" in caplog.text


async def test_busy_check_that_fails_gives_no_answer_and_does_not_hold_the_lease_forever(world: World) -> None:
    world.answers = [0, ValueError("no usable URL"), 0]
    await left(world.hold())
    assert (world.asked, world.ends) == (4, [("comfyui", "idle")])


async def test_job_of_a_server_that_is_gone_ends_at_once(world: World) -> None:
    world.answers = [BusyReport(None, refused=True, error="connection refused")]
    await left(world.hold())
    assert (world.asked, world.ends) == (2, [("comfyui", "gone")])


async def test_job_is_held_for_the_configured_maximum_although_the_server_stays_busy(world: World) -> None:
    await left(world.hold(check=world.check(max_sec=0.1)))
    assert world.ends == [("comfyui", "too_long")]


async def test_age_from_an_earlier_process_counts_for_the_maximum(world: World) -> None:
    ticket = FakeTicket()
    world.jobs.hold(JOB, cast(Any, ticket), world.check(max_sec=3600), Client("alice"), age_sec=3601)
    await left(ticket)
    assert world.ends == [("comfyui", "too_long")]


async def test_number_of_held_jobs_is_limited_to_the_newest(world: World) -> None:
    tickets = [world.hold(replace(JOB, id=str(number))) for number in range(MAX_JOBS + 2)]
    assert [one.left.is_set() for one in tickets[:3]] == [True, True, False]
    assert (world.jobs.count("comfyui"), len(world.table)) == (MAX_JOBS, MAX_JOBS)
    await world.jobs.close()


async def test_end_of_the_process_keeps_the_leases_and_the_records(world: World) -> None:
    ticket = world.hold()
    await world.jobs.close()

    assert not ticket.left.is_set()
    assert world.jobs.lease_ids() == {"l1"}
    assert await world.records() == (JOB,)


@pytest.mark.parametrize("reason", ["revoked", "released", "shutdown"])
async def test_job_whose_lease_was_ended_on_purpose_is_no_longer_held(world: World, reason: str) -> None:
    ticket = world.hold()
    ticket.lost = reason
    await left(ticket)
    assert (world.ends, world.calls) == ([("comfyui", "lease_ended")], [])


@pytest.mark.parametrize("reason", ["expired", ""])
async def test_lost_lease_is_acquired_again_while_the_server_works(world: World, reason: str) -> None:
    first, second = world.hold(), world.hold(replace(JOB, id="b2"))
    first.lost = second.lost = reason
    (entry, _) = world.shown()
    await until(lambda: "its lease was lost" in entry.waits_for)
    assert world.jobs.lease_ids() == frozenset()

    world.grants.append(Grant("l2", "comfyui", "0", "", (), False, 0.0, None))

    await until(lambda: world.adopted)
    assert world.calls[-2:] == ["acquire comfyui: gateway: alice POST /prompt", "adopt comfyui l2 2"]
    await until(lambda: "its lease was lost" not in entry.waits_for)
    assert world.jobs.lease_ids() == {"l2"}
    assert {one.lease for one in await world.records()} == {"l2"}
    world.answers = [0]
    await left(*world.adopted)


async def test_lost_lease_is_not_acquired_for_a_server_that_is_idle(world: World) -> None:
    ticket = world.hold()
    world.answers = [0]
    ticket.lost = "expired"
    await until(lambda: world.ends)
    assert (world.ends, world.calls) == ([("comfyui", "idle")], [])


def fail_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the watch fail at the next lease that it acquires."""
    acquire = world.jobs._acquire

    async def fail(consumer: str, reason: str) -> Grant:
        monkeypatch.setattr(world.jobs, "_acquire", acquire)
        raise RuntimeError("a mistake")

    monkeypatch.setattr(world.jobs, "_acquire", fail)


async def test_job_whose_watch_has_failed_ends_after_the_grace(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fail_once(world, monkeypatch)
    first = world.hold(check=world.check(grace_sec=0.05))
    second = world.hold(replace(JOB, id="b2"), world.check(grace_sec=0.05))
    first.lost = "expired"

    await left(second)

    assert world.ends == [("comfyui", "no_answer")] * 2
    assert world.shown() == []
    assert await world.records() == ()
    assert "comfyui: its jobs are not watched any more, and end after busy_grace_sec (0.05 s)" in caplog.text
    assert "a mistake" in caplog.text


async def test_next_job_is_watched_again_after_a_watch_that_has_failed(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fail_once(world, monkeypatch)
    world.hold().lost = "expired"
    await until(lambda: "not watched any more" in caplog.text)
    world.answers = [1]
    second = world.hold(replace(JOB, id="b2"))
    assert world.jobs._held["comfyui"].unwatched is None
    world.answers = [0]

    await left(second)

    assert world.ends == [("comfyui", "idle")] * 2


async def test_jobs_whose_watch_has_failed_stay_in_the_file_when_the_gateway_ends(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fail_once(world, monkeypatch)
    world.hold().lost = "expired"
    await until(lambda: "not watched any more" in caplog.text)
    timer = world.jobs._held["comfyui"].unwatched

    await world.jobs.close()

    assert timer is not None
    assert timer.cancelled()
    assert await world.records() == (JOB,)


# -- the next process --------------------------------------------------------------------------------------------------


async def taken_over(world: World, renewals: list[Exception | None]) -> tuple[World, TakeOver, list[str]]:
    """The next process, with the results of its calls of Renew, and these calls."""
    following, renewed = World(world.folder), []

    async def renew(lease: str) -> None:
        renewed.append(lease)
        if renewals and (error := renewals.pop(0)) is not None:
            raise error

    async def check_for(record: JobRecord) -> BusyCheck:
        return following.check()

    over = TakeOver(following.jobs, renew, cast(Any, following.adopt), check_for)
    await over.start(following.store)
    return following, over, renewed


async def test_next_process_holds_the_jobs_again_with_their_lease(world: World) -> None:
    world.hold()
    world.hold(replace(JOB, id="b2"))
    world.hold(replace(JOB, id="c3", consumer="forge", lease="l3"))
    await world.jobs.close()

    following, _, renewed = await taken_over(world, [])

    assert sorted(renewed) == ["l1", "l3"]
    assert sorted(following.calls) == ["adopt comfyui l1 2", "adopt forge l3 1"]
    assert (following.jobs.count("comfyui"), following.jobs.count("forge")) == (2, 1)
    assert {one.client.name for one in following.shown()} == {"alice"}
    assert len(await following.records()) == 3
    following.answers = [0]
    await left(*following.adopted)
    assert await following.records() == ()


async def test_next_process_acquires_a_lease_for_work_whose_lease_has_expired(world: World) -> None:
    world.hold()
    await world.jobs.close()

    following, _, _ = await taken_over(world, [NoSuchLease("l1")])
    following.grants.append(Grant("l2", "comfyui", "0", "", (), False, 0.0, None))

    await until(lambda: following.adopted)
    assert following.calls[-1] == "adopt comfyui l2 1"
    await following.jobs.close()


async def test_jobs_are_taken_over_when_gpumand_is_back(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    monkeypatch.setattr(job_holder, "RETRY_SEC", 0.0)
    monkeypatch.setattr(job_holder, "TAKE_OVER_SEC", 30.0)
    world.hold()
    await world.jobs.close()

    following, _, renewed = await taken_over(world, [NotRunning("away"), NotRunning("away"), None])

    assert (renewed, following.calls) == (["l1"] * 3, ["adopt comfyui l1 1"])
    await following.jobs.close()


async def test_unexpected_failure_of_the_take_over_is_logged_and_leaves_the_job_in_the_file(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.hold()
    await world.jobs.close()

    following, over, _ = await taken_over(world, [RuntimeError("a mistake")])

    (logged,) = [one for one in caplog.records if one.levelname == "ERROR"]
    assert "comfyui: jobs of the last process are not held again" in logged.message
    assert "a mistake" in logged.message
    await over.close()
    assert await following.records() == (JOB,)


async def test_number_of_jobs_that_are_taken_over_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.hold()
    world.hold(replace(JOB, id="c3", consumer="forge", lease="l3"))
    world.hold(replace(JOB, id="d4", consumer="forge", lease="l3"))
    await world.jobs.close()

    with caplog.at_level("INFO", "gpumand.gateway.job_holder"):
        following, _, _ = await taken_over(world, [])

    assert "comfyui: 1 job of the last process is held again" in caplog.text
    assert "forge: 2 jobs of the last process are held again" in caplog.text
    await following.jobs.close()


async def test_jobs_that_could_not_be_taken_over_stay_in_the_file(
    monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    monkeypatch.setattr(job_holder, "TAKE_OVER_SEC", 0.01)
    world.hold()
    await world.jobs.close()

    following, over, _ = await taken_over(world, [NotRunning("away")] * 1000)
    await over.close()

    assert (following.calls, await following.records()) == ([], (JOB,))
