"""FakeClock is exact, wakes tasks in order, and runs all ready tasks before time passes."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.host.clock import SystemClock
from gpumand.ports import Clock
from gpumand.testing.clock import FakeClock


async def _record(clock: Clock, log: list[str], name: str, seconds: float) -> None:
    await clock.sleep(seconds)
    log.append(f"{name}@{clock.monotonic():g}")


async def test_time_stands_still_until_advanced() -> None:
    clock = FakeClock(start_sec=0)
    log: list[str] = []
    task = asyncio.create_task(_record(clock, log, "a", 5))
    await clock.advance(4.999)
    assert (log, clock.waiting) == ([], 1)
    await clock.advance(0.001)
    assert (log, task.done(), clock.waiting) == (["a@5"], True, 0)


async def test_deadlines_fire_in_order_at_their_own_time() -> None:
    clock = FakeClock(start_sec=0)
    log: list[str] = []
    tasks = [asyncio.create_task(_record(clock, log, name, sec)) for name, sec in (("c", 3), ("a", 1), ("b", 1))]
    await clock.advance(10)
    assert log == ["a@1", "b@1", "c@3"]
    assert clock.monotonic() == 10
    await asyncio.gather(*tasks)


async def test_ten_tenths_are_one_second_exactly() -> None:
    clock = FakeClock(start_sec=0)
    woke: list[float] = []

    async def tick() -> None:
        for _ in range(10):
            await clock.sleep(0.1)
        woke.append(clock.monotonic())

    task = asyncio.create_task(tick())
    await clock.advance(1)
    assert woke == [1.0]
    await task


async def test_chains_of_tasks_finish_before_time_passes() -> None:
    clock = FakeClock(start_sec=0)
    first, second = asyncio.Event(), asyncio.Event()
    log: list[float] = []

    async def relay() -> None:
        await first.wait()
        await asyncio.gather(*(asyncio.sleep(0) for _ in range(20)))
        second.set()

    async def start() -> None:
        await clock.sleep(1)
        first.set()

    async def end() -> None:
        await second.wait()
        log.append(clock.monotonic())

    tasks = [asyncio.create_task(one()) for one in (relay, start, end)]
    await clock.advance(60)
    assert log == [1.0]
    await asyncio.gather(*tasks)


async def test_cancelled_task_is_removed() -> None:
    clock = FakeClock(autojump=True, start_sec=0)
    log: list[str] = []
    task = asyncio.create_task(_record(clock, log, "gone", 1))
    await asyncio.sleep(0)
    task.cancel()
    await clock.sleep(2)
    assert (log, clock.monotonic(), clock.waiting) == ([], 2.0, 0)
    assert task.cancelled()


async def test_autojump_takes_no_real_time() -> None:
    clock = FakeClock(autojump=True, start_sec=0)
    log: list[str] = []
    started = SystemClock().monotonic()
    await asyncio.gather(*(_record(clock, log, str(sec), sec) for sec in (3600, 60, 86400)))
    assert log == ["60@60", "3600@3600", "86400@86400"]
    assert SystemClock().monotonic() - started < 5


async def test_autojump_waits_for_ready_tasks() -> None:
    clock = FakeClock(autojump=True, start_sec=0)
    log: list[str] = []

    async def busy() -> None:
        for _ in range(200):
            await asyncio.sleep(0)
        log.append(f"busy@{clock.monotonic():g}")

    await asyncio.gather(_record(clock, log, "timer", 1), busy())
    assert log == ["busy@0", "timer@1"]


async def test_autojump_clock_can_be_advanced() -> None:
    clock = FakeClock(autojump=True, start_sec=0)
    log: list[str] = []
    tasks = [asyncio.create_task(_record(clock, log, str(sec), sec)) for sec in (1, 5)]
    await clock.advance(2)
    assert (log, clock.monotonic()) == (["1@1"], 2.0)
    await asyncio.gather(*tasks)
    assert (log, clock.monotonic()) == (["1@1", "5@5"], 5.0)


async def test_sleep_of_zero_lets_other_tasks_run() -> None:
    clock = FakeClock(start_sec=7)
    log: list[str] = []
    task = asyncio.create_task(_record(clock, log, "other", 0))
    await clock.sleep(0)
    await clock.sleep(-1)
    assert log == ["other@7"]
    await task


async def test_deadline_is_reached_despite_rounding_errors() -> None:
    clock = FakeClock(autojump=True)
    deadline = clock.monotonic() + 1e-10
    assert deadline > clock.monotonic()
    async with asyncio.timeout(30):
        while clock.monotonic() < deadline:
            await clock.sleep(deadline - clock.monotonic())


async def test_wall_clock_advances_and_can_be_set() -> None:
    clock = FakeClock(start_usec=1_000_000)
    await clock.advance(2.5)
    assert clock.realtime_usec() == 3_500_000
    before = clock.monotonic()
    clock.step_realtime(-3600)
    assert clock.realtime_usec() == 3_500_000 - 3_600_000_000
    assert clock.monotonic() == before


async def test_advance_until_stops_at_the_first_deadline_that_fulfils_the_condition() -> None:
    clock = FakeClock(start_sec=0)
    log: list[str] = []
    tasks = [asyncio.create_task(_record(clock, log, str(sec), sec)) for sec in (1, 2, 3)]
    await clock.advance_until(lambda: "2@2" in log)
    assert clock.monotonic() == 2
    with pytest.raises(TimeoutError, match=r"0\.5 virtual seconds"):
        await clock.advance_until(lambda: "3@3" in log, within_sec=0.5)
    await clock.advance_until(lambda: "3@3" in log)
    with pytest.raises(TimeoutError):
        await clock.advance_until(lambda: False)
    await asyncio.gather(*tasks)


async def test_event_loop_that_never_becomes_idle_is_an_error() -> None:
    clock = FakeClock()

    loop = asyncio.get_running_loop()
    turns: list[asyncio.Handle] = []

    def circle() -> None:
        turns[:] = [loop.call_soon(circle)]

    circle()
    with pytest.raises(RuntimeError, match="still busy"):
        await clock.settle()
    turns[0].cancel()


async def test_system_clock_advances() -> None:
    clock = SystemClock()
    before, wall = clock.monotonic(), clock.realtime_usec()
    await clock.sleep(0.01)
    await clock.sleep(-1)
    assert clock.monotonic() - before >= 0.009
    assert clock.realtime_usec() >= wall
    assert wall > 1_600_000_000_000_000
    assert clock.suspended_sec() > -0.1


async def test_suspend_advances_only_the_wall_clock() -> None:
    clock, woken = FakeClock(), False

    async def nap() -> None:
        nonlocal woken
        await clock.sleep(10)
        woken = True

    task = asyncio.create_task(nap())
    await clock.settle()
    before_usec = clock.realtime_usec()
    clock.suspend(3600)
    await clock.advance(9)
    assert not woken
    assert (clock.realtime_usec() - before_usec, clock.suspended_sec()) == (3609_000_000, 3600.0)
    await clock.advance(1)
    await task
