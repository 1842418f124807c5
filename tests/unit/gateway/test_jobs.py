"""A job keeps its lease until the server is idle, is shown meanwhile, and can be released."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from gpumand.client.values import Grant
from gpumand.domain.consumer import BusyReport
from gpumand.gateway.jobs import MAX_JOBS, BusyCheck
from gpumand.gateway.requests import Client, State
from gpumand.gateway.routes.classes import RouteClass
from tests.unit.gateway.job_setup import JOB, SILENT, FakeTicket, World, left
from tests.waiting import until


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


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
