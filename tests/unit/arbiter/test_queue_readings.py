"""Readings for waiting requests: one at a time, with pauses while many requests wait, and another after a failure."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.arbiter.background import BackgroundTasks
from gpumand.arbiter.queue_readings import CROWD, MAX_PAUSE_SEC, PASSES, PAUSE_SEC, QueueReadings
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import routed


class Queue:
    """A queue of a size, whose passes take time; ``passes`` has the times at which they began."""

    def __init__(self, world: FakeWorld, waiting: int, pass_sec: float = 0.0) -> None:
        self.world, self.waiting, self.pass_sec = world, waiting, pass_sec
        self.passes: list[float] = []
        self.background = BackgroundTasks()
        self.readings = QueueReadings(world.arbiter.state, self, self.background, self._decide)

    def __len__(self) -> int:
        return self.waiting

    def _decide(self) -> None:
        self.passes.append(self.world.clock.monotonic())
        # A pass does not await, so that nothing but the pass itself takes the time.
        self.world.clock._now_nsec += round(self.pass_sec * 1e9)


async def started(waiting: int = 1, *, read_sec: float = 0.0, pass_sec: float = 0.0) -> tuple[FakeWorld, Queue]:
    world = FakeWorld([])
    await world.start()
    world.vram.read_sec = read_sec
    world.vram.reads = 0
    return world, Queue(world, waiting, pass_sec)


async def test_requests_that_come_during_a_reading_share_its_queue_pass() -> None:
    world, queue = await started(read_sec=0.5)
    for _ in range(3):
        queue.readings.request()
        await world.clock.sleep(0.1)
    await world.clock.sleep(1.0)
    assert (world.vram.reads, len(queue.passes)) == (1, 1)


async def test_request_of_the_queue_pass_itself_takes_another_reading() -> None:
    world, queue = await started()

    def decide() -> None:
        queue.passes.append(world.clock.monotonic())
        if len(queue.passes) < 3:
            queue.readings.request()

    queue.readings._after_reading = decide
    queue.readings.request()
    await world.clock.sleep(1.0)
    assert (world.vram.reads, len(queue.passes)) == (3, 3)


@pytest.mark.parametrize(
    ("waiting", "pass_sec", "pause_sec"),
    [
        (CROWD - 1, 0.0, 0.0),
        (CROWD, 0.0, PAUSE_SEC),
        (CROWD, 0.005, PASSES * 0.005),
        (CROWD, 3.0, MAX_PAUSE_SEC),
    ],
)
async def test_readings_of_a_crowd_begin_with_a_pause_after_each_other(
    waiting: int, pass_sec: float, pause_sec: float
) -> None:
    world, queue = await started(waiting, pass_sec=pass_sec)
    queue.readings.request()
    await world.clock.sleep(5.0)
    # A reading that somebody else took: the next of the queue keeps its distance from it.
    await world.arbiter.state.sample()
    began = world.clock.monotonic()
    queue.readings.request()
    await world.clock.sleep(5.0)
    assert queue.passes[1] - began == pytest.approx(pause_sec)


async def test_pause_counts_from_the_last_reading() -> None:
    world, queue = await started(CROWD)
    await world.arbiter.state.sample()
    await world.clock.sleep(PAUSE_SEC)
    began = world.clock.monotonic()
    queue.readings.request()
    await world.clock.sleep(1.0)
    assert queue.passes == [pytest.approx(began, abs=1e-6)]


async def test_another_attempt_after_a_failed_reading_waits_its_own_pause() -> None:
    world, queue = await started()
    began = world.clock.monotonic()
    queue.readings.request(pause_sec=2.0)
    queue.readings.request()  # the attempt is under way already
    await world.clock.sleep(5.0)
    assert queue.passes == [began + 2.0]


async def test_reading_that_fails_unexpectedly_does_not_prevent_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    world, queue = await started()

    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a fault of a source")

    with monkeypatch.context() as patch:
        patch.setattr(world.arbiter.state, "sample", fail)
        queue.readings.request()
        (task,) = queue.background._tasks
        with pytest.raises(RuntimeError):
            await task
    queue.readings.request()
    await world.clock.sleep(1.0)
    assert len(queue.passes) == 1


async def test_cancelled_reading_does_not_decide_and_does_not_prevent_the_next_one() -> None:
    world, queue = await started(read_sec=10.0)
    queue.readings.request()
    await world.clock.sleep(1.0)
    await queue.background.close()
    assert queue.passes == []
    queue.readings.request()
    await world.clock.sleep(20.0)
    assert len(queue.passes) == 1


async def test_ends_of_leases_that_change_nothing_share_a_reading_after_a_pause() -> None:
    world, queue = await started()
    await world.clock.sleep(5.0)
    began = world.clock.monotonic()
    for _ in range(10):
        queue.readings.request_soon()
        await world.clock.sleep(PAUSE_SEC / 20)
    await world.clock.sleep(5.0)
    # The first is read at once, and a pass follows the pause for the others.
    assert queue.passes == [pytest.approx(began), pytest.approx(began + PAUSE_SEC)]


@pytest.mark.parametrize(("waiting", "is_at_once"), [(1, True), (CROWD - 1, True), (CROWD, False)])
async def test_change_during_a_pause_is_read_at_once_while_few_requests_wait(waiting: int, is_at_once: bool) -> None:
    world, queue = await started(waiting)
    await world.arbiter.state.sample()
    began = world.clock.monotonic()
    queue.readings.request_soon()
    await world.clock.sleep(PAUSE_SEC / 4)
    queue.readings.request()
    await world.clock.sleep(5.0)
    assert queue.passes == [pytest.approx(began + PAUSE_SEC / (4 if is_at_once else 1))]


async def test_another_attempt_during_a_pause_leaves_its_reading_where_it_is() -> None:
    world, queue = await started()
    await world.arbiter.state.sample()
    began = world.clock.monotonic()
    queue.readings.request_soon()
    await world.clock.sleep(PAUSE_SEC / 4)
    queue.readings.request(pause_sec=2.0)
    await world.clock.sleep(5.0)
    assert queue.passes == [pytest.approx(began + PAUSE_SEC)]


async def test_reading_cancelled_during_a_pause_does_not_prevent_the_next_one() -> None:
    world, queue = await started()
    await world.arbiter.state.sample()
    queue.readings.request_soon()
    await world.clock.settle()
    await queue.background.close()
    queue.readings.request()
    await world.clock.sleep(1.0)
    assert len(queue.passes) == 1


LEASES, LEASE_SEC = 100, 0.001


@pytest.mark.parametrize("waiting", [1, 4, CROWD - 1])
async def test_leases_of_a_resident_consumer_take_few_readings_while_few_requests_wait(waiting: int) -> None:
    specs = [routed("tts", 1000, pinned=True), routed("held", 14000)]
    world = FakeWorld([*specs, *(routed(f"w{number}", 9400) for number in range(4))], total_mib=(24564,))
    world.routes.place("tts", 1000)
    await world.start()
    held = await world.arbiter.acquire(client(1), "held", AcquireOptions(timeout_sec=60.0))
    requests = [
        asyncio.create_task(world.arbiter.acquire(client(2 + at), f"w{at % 4}", AcquireOptions(timeout_sec=600.0)))
        for at in range(waiting)
    ]
    await world.clock.sleep(30.0)  # its turn is over
    world.vram.reads = 0
    for _ in range(LEASES):
        lease = (await world.arbiter.acquire(client(), "tts", AcquireOptions(priority=100))).lease
        await world.clock.sleep(LEASE_SEC / 2)
        await world.arbiter.release(lease.id)
        await world.clock.sleep(LEASE_SEC / 2)
    assert world.vram.reads <= 2 + LEASES * LEASE_SEC / PAUSE_SEC
    assert len(world.arbiter.scheduler) == waiting

    # The end of the lease that they wait for falls into a pause, and is not delayed by it.
    ended_at = world.clock.monotonic()
    await world.arbiter.release(held.lease.id)
    await world.clock.settle()
    assert world.clock.monotonic() == ended_at
    assert world.arbiter.state.ledger.jobs
    for request in requests:
        request.cancel()
    await asyncio.gather(*requests, return_exceptions=True)
