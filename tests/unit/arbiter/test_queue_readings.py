"""Readings for waiting requests: one at a time, with pauses while many requests wait, and another after a failure."""

from __future__ import annotations

import pytest

from gpumand.arbiter.background import BackgroundTasks
from gpumand.arbiter.queue_readings import CROWD, CROWD_PAUSE_SEC, MAX_PAUSE_SEC, PASSES, QueueReadings
from gpumand.testing.world import FakeWorld


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
        (CROWD, 0.0, CROWD_PAUSE_SEC),
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
    await world.clock.sleep(CROWD_PAUSE_SEC)
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
