"""How long a request waits for the turns of others, and the queue passes at their ends."""

from __future__ import annotations

import asyncio

from gpumand.arbiter.background import BackgroundTasks
from gpumand.arbiter.turn_waits import TurnWaits
from gpumand.arbiter.waiting_request import SharedWait, WaitingRequest
from gpumand.domain.consumer import SchedulerSettings
from gpumand.domain.request import AcquireOptions, Request
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import routed

BUDGET_SEC = 30.0


class Setup:
    def __init__(self) -> None:
        scheduler = SchedulerSettings(overtake_budget_sec=BUDGET_SEC)
        self.world = FakeWorld([routed("a", 9000)], scheduler=scheduler)
        self.clock, self.background = self.world.clock, BackgroundTasks()
        self.passes: list[float] = []
        self.waits = TurnWaits(
            self.world.arbiter.state, self.background, lambda: self.passes.append(self.clock.monotonic())
        )

    async def request(self, timeout_sec: float) -> WaitingRequest:
        await self.world.start()
        options = AcquireOptions(timeout_sec=timeout_sec)
        request = Request(1, "a", client(), options, priority=0, arrived_at=self.clock.monotonic())
        return WaitingRequest(request, (), asyncio.get_running_loop().create_future())

    def ignores_turns(self, entry: WaitingRequest, overtaken_sec: float) -> bool:
        self.waits.refresh(entry, overtaken_sec)
        return entry.ignores_turns


async def test_request_waits_for_turns_until_its_budget_or_its_own_load_ends_that() -> None:
    setup = Setup()
    entry = await setup.request(timeout_sec=600.0)
    assert not setup.ignores_turns(entry, overtaken_sec=BUDGET_SEC - 1)
    assert setup.ignores_turns(entry, overtaken_sec=BUDGET_SEC)

    assert not setup.ignores_turns(entry, overtaken_sec=0.0)
    await setup.clock.sleep(599.5)
    assert setup.ignores_turns(entry, overtaken_sec=0.0)


async def test_queue_passes_run_once_at_the_end_of_a_turn() -> None:
    setup = Setup()
    entry = await setup.request(timeout_sec=600.0)
    ends_at = setup.clock.monotonic() + 12.0
    for _ in range(50):
        setup.waits.decide_again(entry, ends_at)
    await setup.clock.sleep(60.0)

    (passed_at,) = setup.passes
    assert ends_at <= passed_at < ends_at + 0.01


async def test_request_that_would_time_out_gets_its_pass_before_the_turn_ends() -> None:
    setup = Setup()
    entry = await setup.request(timeout_sec=20.0)
    setup.waits.decide_again(entry, setup.clock.monotonic() + 100.0)
    deadline = setup.clock.monotonic() + 20.0
    await setup.clock.sleep(60.0)

    (passed_at,) = setup.passes
    assert passed_at < deadline


async def test_turn_that_has_ended_already_causes_a_pass_and_no_endless_loop() -> None:
    setup = Setup()
    entry = await setup.request(timeout_sec=600.0)
    setup.waits.decide_again(entry, setup.clock.monotonic() - 5.0)
    await setup.clock.sleep(10.0)
    assert len(setup.passes) == 1


async def test_limit_that_has_passed_causes_no_further_passes() -> None:
    setup = Setup()
    entry = await setup.request(timeout_sec=20.0)
    ends_at = setup.clock.monotonic() + 100.0
    await setup.clock.sleep(20.0)
    setup.waits.decide_again(entry, ends_at)
    await setup.clock.sleep(60.0)
    assert not setup.passes

    await setup.clock.sleep(60.0)
    (passed_at,) = setup.passes
    assert ends_at <= passed_at < ends_at + 0.01


async def test_deadlines_of_a_group_are_those_of_the_requests_that_still_wait() -> None:
    setup = Setup()
    requests = [await setup.request(timeout_sec) for timeout_sec in (5.0, 20.0, 60.0)]
    now = setup.clock.monotonic()
    group = SharedWait(requests[0].requirement, requests[0].progress)
    for one in requests:
        group.add(one)
    assert (group.first_deadline, group.last_deadline) == (now + 5.0, now + 60.0)

    requests[0].leave_group()
    assert (group.first_deadline, group.last_deadline) == (now + 20.0, now + 60.0)
    requests[2].leave_group()
    assert (group.first_deadline, group.last_deadline) == (now + 20.0, now + 20.0)
    group.add(requests[0])
    assert group.first_deadline == now + 5.0
