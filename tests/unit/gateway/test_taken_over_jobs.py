"""Held jobs over a restart of the gateway: the next process takes them over with their leases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from gpumand.client.errors import NoSuchLease, NotRunning
from gpumand.client.values import Grant
from gpumand.gateway import job_holder
from gpumand.gateway.job_holder import TakeOver
from gpumand.gateway.job_records import JobRecord
from gpumand.gateway.jobs import BusyCheck
from tests.unit.gateway.job_setup import JOB, World, left
from tests.waiting import until


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


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
