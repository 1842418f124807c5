"""A job keeps its lease until the server has said twice that it is idle."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from gpumand.domain.consumer import BusyReport
from gpumand.gateway.jobs import Jobs


class FakeTicket:
    def __init__(self) -> None:
        self.left = asyncio.Event()

    def leave(self) -> None:
        self.left.set()


async def answers_until_left(*jobs: int | None, grace_sec: float = 60.0) -> int:
    """The number of busy checks until the job is let go."""
    left, asked, ticket, jobs_held = list(jobs), 0, FakeTicket(), Jobs(poll_sec=0)

    async def probe() -> BusyReport:
        nonlocal asked
        asked += 1
        return BusyReport(left.pop(0) if left else 0)

    jobs_held.hold("comfyui", cast(Any, ticket), probe, grace_sec)
    assert jobs_held.count("comfyui") == 1
    async with asyncio.timeout(5):
        await ticket.left.wait()
    assert jobs_held.count("comfyui") == 0
    return asked


async def test_two_idle_answers_in_a_row_end_a_job() -> None:
    assert await answers_until_left(0, 0) == 2
    assert await answers_until_left(2, 1, 0, 0) == 4
    assert await answers_until_left(0, 1, 0, 0) == 4


async def test_missing_answer_is_no_idle_answer() -> None:
    assert await answers_until_left(0, None, 0, 0) == 4


async def test_busy_check_that_fails_gives_no_answer_and_does_not_hold_the_lease_forever() -> None:
    jobs, ticket, asked = Jobs(poll_sec=0), FakeTicket(), 0

    async def probe() -> BusyReport:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise ValueError("no usable URL")
        return BusyReport(0)

    jobs.hold("comfyui", cast(Any, ticket), probe, 60.0)
    async with asyncio.timeout(30):
        await ticket.left.wait()

    assert (asked, jobs.count("comfyui")) == (4, 0)


async def test_job_is_let_go_when_the_busy_check_gives_no_answer_for_too_long() -> None:
    assert await answers_until_left(*[None] * 100000, grace_sec=0.05) < 100000


async def test_new_job_needs_idle_answers_of_its_own_and_all_are_let_go_together() -> None:
    jobs, first, second, asked = Jobs(poll_sec=0.01), FakeTicket(), FakeTicket(), 0

    async def probe() -> BusyReport:
        nonlocal asked
        asked += 1
        if asked == 1:
            jobs.hold("comfyui", cast(Any, second), probe, 60)
        return BusyReport(0)

    jobs.hold("comfyui", cast(Any, first), probe, 60)
    async with asyncio.timeout(5):
        await second.left.wait()

    assert first.left.is_set()
    assert asked == 3


async def test_end_of_the_process_lets_all_jobs_go() -> None:
    jobs, ticket = Jobs(), FakeTicket()

    async def probe() -> BusyReport:
        return BusyReport(1)

    jobs.hold("comfyui", cast(Any, ticket), probe, 60)
    await jobs.close()

    assert ticket.left.is_set()
