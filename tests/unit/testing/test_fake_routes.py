"""FakeRoutes: consumers behave as their fields say, on the virtual clock."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.consumer import ConsumerSpec, HealthRoute, Route
from gpumand.ports import ConsumerRoutes, RouteFailed
from gpumand.testing.clock import FakeClock
from gpumand.testing.routes import FakeRoutes
from gpumand.testing.vram import FakeVram

SPEC = ConsumerSpec(
    "tts",
    4096,
    url="http://127.0.0.1:1",
    health=HealthRoute("/health", "/loaded"),
    load=Route("/load"),
    unload=Route("/unload", timeout_sec=10),
)


def _world() -> tuple[FakeClock, FakeVram, FakeRoutes]:
    clock = FakeClock(autojump=True, start_sec=100)
    vram = FakeVram(clock, 8192)
    return clock, vram, FakeRoutes(clock, vram, {0: 8192})


async def _free_mib(vram: FakeVram) -> int | None:
    return (await vram.read()).devices[0].free_mib


async def test_load_and_unload_take_time_and_change_memory() -> None:
    clock, vram, fake = _world()
    routes: ConsumerRoutes = fake
    await routes.load(SPEC)
    assert (clock.monotonic(), await _free_mib(vram)) == (102.0, 4096)
    assert (await routes.probe_health(SPEC)).loaded is True
    await routes.unload(SPEC)
    assert (clock.monotonic(), await _free_mib(vram)) == (102.5, 8192)
    assert (await routes.probe_health(SPEC)).loaded is False
    assert [(call.at, call.verb) for call in fake.calls][:3] == [
        (100.0, "load"),
        (102.0, "probe_health"),
        (102.0, "unload"),
    ]


async def test_memory_grows_in_steps() -> None:
    clock, vram, routes = _world()
    routes.consumer("tts").load_steps = 4
    task = asyncio.create_task(routes.load(SPEC))
    await clock.advance(1)
    assert await _free_mib(vram) == 8192 - 2048
    await task
    assert await _free_mib(vram) == 4096


async def test_lying_unload_frees_nothing() -> None:
    _, vram, routes = _world()
    routes.place("tts", 5000).lies = True
    await routes.unload(SPEC)
    assert await _free_mib(vram) == 3192


async def test_residual_memory_stays() -> None:
    _, vram, routes = _world()
    routes.place("tts", 5000).residual_mib = 192
    await routes.unload(SPEC)
    assert await _free_mib(vram) == 8000


async def test_early_answer_comes_before_the_memory_changes() -> None:
    clock, vram, routes = _world()
    consumer = routes.place("tts", 5000)
    consumer.early_unload, consumer.unload_sec = True, 3.0
    await routes.unload(SPEC)
    assert (clock.monotonic(), await _free_mib(vram)) == (100.0, 3192)
    await clock.advance(3)
    assert await _free_mib(vram) == 8192


async def test_hang_ends_with_the_timeout_of_the_route() -> None:
    clock, _, routes = _world()
    routes.place("tts", 5000).hangs = True
    with pytest.raises(RouteFailed, match="within 10 s"):
        await routes.unload(SPEC)
    assert clock.monotonic() == 110.0
    health = await routes.probe_health(SPEC)
    assert (clock.monotonic(), health.reachable, health.refused) == (115.0, False, False)
    await routes.close()


async def test_work_continues_after_the_caller_timed_out() -> None:
    clock, vram, routes = _world()
    routes.place("tts", 5000).unload_sec = 12.0
    with pytest.raises(RouteFailed):
        await routes.unload(SPEC)
    await clock.advance(2)
    assert await _free_mib(vram) == 8192


async def test_ended_consumer_holds_nothing_and_refuses_connections() -> None:
    _, vram, routes = _world()
    routes.place("tts", 5000)
    routes.die("tts")
    assert await _free_mib(vram) == 8192
    assert (await routes.probe_health(SPEC)).refused
    with pytest.raises(RouteFailed, match="refused") as failure:
        await routes.load(SPEC)
    assert failure.value.refused


async def test_load_that_does_not_fit_fails_and_is_counted() -> None:
    _, vram, routes = _world()
    routes.place("other", 5000)
    with pytest.raises(RouteFailed, match="out of memory"):
        await routes.load(SPEC)
    assert routes.consumer("tts").ooms == 1
    assert await _free_mib(vram) == 3192


async def test_configured_errors_and_answers_are_returned() -> None:
    _, _, routes = _world()
    consumer = routes.place("tts", 5000, last_used_usec=7)
    consumer.unload_error, consumer.says_loaded, consumer.says_last_used = "busy", None, True
    with pytest.raises(RouteFailed, match=r"500.*busy"):
        await routes.unload(SPEC)
    health = await routes.probe_health(SPEC)
    assert (health.reachable, health.loaded, health.last_used_usec) == (True, None, 7)
    consumer.says_loaded = False
    assert (await routes.probe_health(SPEC)).loaded is False


async def test_work_loads_the_model_and_sets_last_used() -> None:
    clock, vram, routes = _world()
    await routes.work(SPEC, 5)
    assert (clock.monotonic(), await _free_mib(vram)) == (107.0, 4096)
    assert routes.consumer("tts").last_used_usec == clock.realtime_usec()
    assert routes.called("load") == []


async def test_close_cancels_background_work() -> None:
    clock, _, routes = _world()
    routes.place("tts", 100).hangs = True
    task = asyncio.create_task(routes.unload(SPEC))
    await clock.advance(1)
    await routes.close()
    assert routes.closed
    with pytest.raises(asyncio.CancelledError):
        await task
