"""Containers where units could stand: their states, their runs, and their changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gpumand.containers.services import UnitsAndContainers, unit_state
from gpumand.domain.consumer import UnitActivity, UnitState
from gpumand.domain.container import ContainerState
from gpumand.ports import ContainerFailed, UnitFailed
from gpumand.testing.clock import FakeClock
from gpumand.testing.containers import FakeContainers
from gpumand.testing.units import FakeUnit, FakeUnits

SERVICE = "container comfyui"


def container(**more: Any) -> ContainerState:
    fields: dict[str, Any] = {"status": "running", "running": True, "started_at": "2026-11-30T09:00:00.5Z"}
    return ContainerState("docker", "a" * 64, "comfyui", **(fields | more))


class World:
    def __init__(self, *states: ContainerState) -> None:
        self.clock = FakeClock()
        self.units = FakeUnits(self.clock, [FakeUnit("llama.service")])
        self.containers = FakeContainers(states)
        self.pids = {4321}
        self.services = UnitsAndContainers(self.units, self.containers, self.clock, lambda pid: pid in self.pids)
        self.reported: list[UnitState] = []

    async def settle(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110, the condition is a list that callbacks fill
                await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("changes", "activity", "result"),
    [
        ({}, UnitActivity.ACTIVE, ""),
        ({"status": "paused"}, UnitActivity.ACTIVE, ""),
        ({"status": "restarting"}, UnitActivity.ACTIVATING, ""),
        ({"status": "created", "running": False, "exit_code": 0}, UnitActivity.INACTIVE, "exit status 0"),
        ({"status": "exited", "running": False, "exit_code": 0}, UnitActivity.INACTIVE, "exit status 0"),
        ({"status": "exited", "running": False, "exit_code": 143}, UnitActivity.INACTIVE, "exit status 143"),
        ({"status": "exited", "running": False, "exit_code": 1}, UnitActivity.FAILED, "exit status 1"),
        ({"status": "exited", "running": False, "exit_code": None}, UnitActivity.INACTIVE, "it is exited"),
        (
            {"status": "exited", "running": False, "exit_code": 137, "oom_killed": True},
            UnitActivity.FAILED,
            "killed because memory was exhausted",
        ),
        ({"status": "created", "running": False, "error": "no such device"}, UnitActivity.FAILED, "no such device"),
        ({"status": "removing", "running": False}, UnitActivity.DEACTIVATING, "it is removing"),
    ],
)
def test_state_of_a_container_as_that_of_a_unit(changes: dict[str, Any], activity: UnitActivity, result: str) -> None:
    state = unit_state("comfyui", container(**changes), FakeClock())
    assert (state.unit, state.activity, state.result) == (SERVICE, activity, result)


@pytest.mark.parametrize(
    ("started_at", "active_since"),
    [
        ("2023-11-14T22:12:20.123456789Z", 940.123456),
        ("2023-11-14T23:13:10.5+01:00", 990.5),
        ("2023-11-14T22:13:10", 990.0),
        ("2023-11-14T23:13:20Z", 1000.0),  # later than now: the clock was set back
        ("2023-11-14T20:13:20Z", None),  # before the host was booted: the clock was set forward
        ("0001-01-01T00:00:00Z", None),
        ("", None),
        ("yesterday", None),
    ],
)
def test_start_of_a_container_on_the_daemons_clock(started_at: str, active_since: float | None) -> None:
    state = unit_state("comfyui", container(started_at=started_at), FakeClock())
    assert state.active_since == (None if active_since is None else pytest.approx(active_since, abs=1e-5))


def test_sleep_of_the_host_makes_no_container_older() -> None:
    clock = FakeClock()
    clock.suspend(8 * 3600.0)
    state = unit_state("comfyui", container(started_at="2023-11-14T22:12:20Z"), clock)
    assert state.active_since == pytest.approx(940.0)


async def test_calls_reach_the_unit_or_the_container() -> None:
    world = World(container(running=False, status="exited"))
    await world.services.start(SERVICE, 5.0)
    await world.services.start("llama.service", 5.0)
    await world.services.stop(SERVICE, 5.0)
    assert world.containers.calls == [("start", "comfyui"), ("stop", "comfyui")]
    assert world.units.calls == [("start", "llama.service")]
    assert (await world.services.state("llama.service")).activity is UnitActivity.ACTIVE


async def test_absent_container_is_not_found_and_inactive() -> None:
    state = await World().services.state(SERVICE)
    assert (state.activity, state.load_state) == (UnitActivity.INACTIVE, "not-found")


async def test_failures_keep_their_reason() -> None:
    world = World(container())
    world.containers.failure = ContainerFailed("container comfyui: the container helper does not run", "unavailable")
    for call in (world.services.state(SERVICE), world.services.start(SERVICE, 1.0), world.services.stop(SERVICE, 1.0)):
        with pytest.raises(UnitFailed, match="helper does not run") as failed:
            await call
        assert failed.value.reason == "unavailable"


async def test_log_of_a_run_ends_where_the_next_run_begins() -> None:
    world = World(container(started_at="2026-11-30T10:00:00Z"))
    world.containers.lines = ("out of memory",)
    lines = await world.services.failure_lines(SERVICE, f"{'a' * 12} 2026-11-30T09:00:00Z")
    await world.services.failure_lines(SERVICE)
    assert lines == ("out of memory",)
    assert world.containers.log_requests == [
        ("comfyui", "2026-11-30T09:00:00Z", "2026-11-30T10:00:00Z"),
        ("comfyui", "2026-11-30T10:00:00Z", ""),
    ]
    world.containers.failure = ContainerFailed("gone", "not-found")
    assert await world.services.failure_lines(SERVICE) == ()


async def test_changes_of_watched_containers_are_reported_once() -> None:
    world = World(container())
    await world.services.watch([SERVICE, "llama.service"], world.reported.append)
    await world.settle(lambda: len(world.reported) == 2)
    world.containers.become("comfyui", running=False, status="exited", exit_code=143)
    for _ in range(20):
        await world.clock.advance(1.0)
    await world.settle(lambda: len(world.reported) == 3)
    assert [one.activity for one in world.reported if one.unit == SERVICE] == ["active", "inactive"]
    await world.services.close()


async def test_unavailable_helper_reports_no_state_until_it_answers(caplog: pytest.LogCaptureFixture) -> None:
    world = World(container())
    world.containers.failure = ContainerFailed("container comfyui: no helper", "unavailable")
    await world.services.watch([SERVICE], world.reported.append)
    for _ in range(30):
        await world.clock.advance(1.0)
    assert world.reported == []
    assert caplog.text.count("no helper") == 1
    world.containers.failure = None
    for _ in range(11):
        await world.clock.advance(1.0)
    await world.settle(lambda: len(world.reported) == 1)
    await world.services.close()


async def test_engine_is_asked_rarely_while_the_main_process_runs_and_at_once_when_it_ends() -> None:
    world = World(container(pid=4321))
    await world.services.watch([SERVICE], world.reported.append)
    for _ in range(50):
        await world.clock.advance(1.0)
    assert len(world.containers.inspected) == 1
    world.containers.become("comfyui", running=False, status="exited", exit_code=1, pid=0)
    world.pids.clear()
    for _ in range(2):
        await world.clock.advance(1.0)
    assert world.reported[-1].activity is UnitActivity.FAILED
    await world.services.close()


async def test_no_container_means_no_periodic_request() -> None:
    world = World(container())
    await world.services.watch(["llama.service"], world.reported.append)
    assert world.services._watching is None
