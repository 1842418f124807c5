"""FakeVram: readings show exactly what a test has set."""

from __future__ import annotations

import asyncio

from gpumand.testing.clock import FakeClock
from gpumand.testing.vram import FakeVram


async def test_readings_show_held_memory() -> None:
    vram = FakeVram(FakeClock(), 24000, 8000)
    vram.reserve(500)
    vram.hold(10, 4000, consumer="a", unit="a.service", name="python3")
    vram.hold(11, 1000, device=1)
    first, second = (await vram.read()).devices
    assert (first.total_mib, first.used_mib, first.free_mib) == (24000, 4000, 19500)
    assert (second.used_mib, second.free_mib) == (1000, 7000)
    assert first.held_by("a") == 4000
    vram.hold(10, 1000, consumer="a")
    assert (await vram.read()).devices[0].used_mib == 1000
    vram.release_consumer("a")
    first, second = (await vram.read()).devices
    assert (first.used_mib, first.processes, first.held_by("a")) == (0, (), 0)
    assert second.used_mib == 1000


async def test_unknown_memory_is_not_zero() -> None:
    vram = FakeVram(FakeClock())
    vram.hold(10, None, consumer="a")
    [sample] = (await vram.read()).devices
    assert (sample.attributed, sample.held_by("a")) == (False, None)


async def test_changes_can_be_delayed() -> None:
    clock = FakeClock()
    vram = FakeVram(clock)
    vram.hold(10, 100, after_sec=1.0)
    assert (await vram.read()).devices[0].used_mib == 0
    await clock.advance(1.0)
    assert (await vram.read()).devices[0].used_mib == 100
    vram.release(10, after_sec=0.5)
    assert (await vram.read()).devices[0].used_mib == 100
    await clock.advance(0.5)
    assert (await vram.read()).devices[0].used_mib == 0


async def test_reading_takes_time_and_has_the_time_of_its_start() -> None:
    clock = FakeClock(autojump=True, start_sec=100.0)
    vram = FakeVram(clock)
    vram.read_sec = 2.0
    [sample] = (await vram.read()).devices
    assert (sample.taken_at, clock.monotonic(), vram.reads) == (100.0, 102.0, 1)


async def test_failures_start_and_end() -> None:
    vram = FakeVram(FakeClock(), 1000, 1000)
    vram.fail_device(1, "gpu-lost: x", lost=True)
    reading = await vram.read()
    assert (reading.error, reading.devices[0].error) == ("", "")
    assert (reading.devices[1].lost, reading.devices[1].free_mib) == (True, None)
    vram.fail("driver-mismatch: x")
    reading = await vram.read()
    assert reading.error == "driver-mismatch: x"
    assert [sample.free_mib for sample in reading.devices] == [None, None]
    vram.fail("")
    vram.fail_device(1, "")
    assert all(sample.is_measured and not sample.lost for sample in (await vram.read()).devices)


async def test_hang_is_reported_after_the_timeout_then_at_once() -> None:
    clock = FakeClock(autojump=True, start_sec=100.0)
    vram = FakeVram(clock)
    vram.hang(5.0)
    assert (await vram.read()).error.startswith("nvml-hangs: ")
    assert clock.monotonic() == 105.0
    assert (await vram.read()).error.startswith("nvml-hangs: ")
    assert clock.monotonic() == 105.0
    vram.resume()
    assert (await vram.read()).error == ""


async def test_hang_may_end_during_a_reading() -> None:
    clock = FakeClock()
    vram = FakeVram(clock)
    vram.hang(5.0)
    task = asyncio.create_task(vram.read())
    await clock.advance(1.0)
    vram.resume()
    await clock.advance(4.0)
    assert (await task).error == ""
    await vram.close()
    assert vram.closed
