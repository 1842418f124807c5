"""The simulated consumer process: its announcements, faults and exit, and how HttpRoutes handles them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from gpumand.consumers.routes import HttpRoutes
from gpumand.domain.consumer import ConsumerSpec, Health, HealthRoute, Route
from gpumand.host.clock import SystemClock
from gpumand.ports import RouteFailed
from gpumand.testing.consumer_process import ConsumerProcess, consumer_process

LOAD, UNLOAD = "/api/admin/load", "/api/admin/unload"


def _announced(directory: Path, consumer: ConsumerProcess) -> int:
    path = directory / str(consumer.pid)
    return int(json.loads(path.read_text())["mib"]) if path.exists() else 0


def _spec(consumer: ConsumerProcess, timeout_sec: float = 2.0) -> ConsumerSpec:
    return ConsumerSpec(
        consumer.name,
        1000,
        url=consumer.url,
        health=HealthRoute("/health", "/model_loaded", last_used="/last_used", timeout_sec=timeout_sec),
        load=Route(LOAD, timeout_sec=timeout_sec),
        unload=Route(UNLOAD, timeout_sec=timeout_sec),
    )


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + 10
    while not await condition():
        assert time.monotonic() < deadline
        await SystemClock().sleep(0.01)


@pytest.fixture
async def routes() -> AsyncIterator[HttpRoutes]:
    routes = HttpRoutes(SystemClock())
    yield routes
    await routes.close()


async def test_load_work_and_unload(tmp_path: Path, routes: HttpRoutes) -> None:
    async with consumer_process("tts", 1000, tmp_path, "--residual-mib", "100") as consumer:
        spec = _spec(consumer)
        assert await routes.probe_health(spec) == Health(reachable=True, loaded=False, status=200)
        await routes.load(spec)
        assert _announced(tmp_path, consumer) == 1000
        assert (await routes.probe_health(spec)).loaded is True
        assert (await consumer.post("/work", seconds=0.01))[0] == 200
        used = (await routes.probe_health(spec)).last_used_usec
        assert used is not None
        assert abs(used / 1e6 - time.time()) < 10
        await routes.unload(spec)
        assert _announced(tmp_path, consumer) == 100
        assert (await routes.probe_health(spec)).loaded is False
        assert await consumer.stop() == 0
        assert _announced(tmp_path, consumer) == 0
        assert (await routes.probe_health(spec)).refused


async def test_memory_grows_during_a_load(tmp_path: Path) -> None:
    flags = ("--load-sec", "0.4", "--load-steps", "4", "--async-load", "--async-unload")
    async with consumer_process("tts", 1000, tmp_path, *flags) as consumer:
        seen = set()
        await consumer.post(LOAD)

        async def is_loaded() -> bool:
            seen.add(_announced(tmp_path, consumer))
            return bool((await consumer.health())["model_loaded"])

        await _until(is_loaded)
        assert len(seen & {250, 500, 750, 1000}) >= 2
        await consumer.post(UNLOAD)
        assert (await consumer.events("freed")) == []
        await _until(lambda: _is(_announced(tmp_path, consumer), 0))
        called, freed = await consumer.events("unload-called"), await consumer.events("freed")
        assert called < freed


async def _is(value: int, expected: int) -> bool:
    return value == expected


async def test_loaded_at_start_is_announced_before_ready(tmp_path: Path) -> None:
    async with consumer_process("tts", 1000, tmp_path, "--loaded-at-start", "--anonymous", "--device", "1") as consumer:
        announced = json.loads((tmp_path / str(consumer.pid)).read_text())
        assert announced == {"mib": 1000, "device": 1, "name": "tts"}


async def test_lazy_consumer_loads_with_its_first_work(tmp_path: Path, routes: HttpRoutes) -> None:
    async with consumer_process("comfyui", 1000, tmp_path, "--lazy", "--last-used", "seconds") as consumer:
        with pytest.raises(RouteFailed, match="404"):
            await routes.load(_spec(consumer))
        await consumer.post("/work")
        assert _announced(tmp_path, consumer) == 1000
        assert (await routes.probe_health(_spec(consumer))).last_used_usec is not None


async def test_routes_of_comfyui(tmp_path: Path) -> None:
    async with consumer_process("comfyui", 1000, tmp_path, "--device-total", "4000") as consumer:
        work = asyncio.create_task(consumer.post("/work", seconds=0.3))
        await _until(lambda: _has_queue(consumer, 1))
        await _until(lambda: _is(_announced(tmp_path, consumer), 1000))
        assert (await consumer.post("/free", unload_models=True, free_memory=True))[0] == 200
        assert _announced(tmp_path, consumer) == 1000  # not before the work is done
        stats = await consumer.get("/system_stats")
        assert stats["devices"][0]["vram_free"] == 3000 << 20
        await work
        await _until(lambda: _is(_announced(tmp_path, consumer), 0))
        assert await _has_queue(consumer, 0)


async def _has_queue(consumer: ConsumerProcess, length: int) -> bool:
    return len((await consumer.get("/queue"))["queue_running"]) == length


async def test_unload_during_work_is_counted(tmp_path: Path) -> None:
    async with consumer_process("tts", 1000, tmp_path, "--load-sec", "0") as consumer:
        work = asyncio.create_task(consumer.post("/work", seconds=0.3))
        await _until(lambda: _has_queue(consumer, 1))
        await consumer.post(UNLOAD)
        await work
        assert (await consumer.health())["interrupted"] == 1


async def test_second_load_that_does_not_fit_fails(tmp_path: Path) -> None:
    flags = ("--device-total", "1500", "--load-steps", "10")
    async with (
        consumer_process("a", 1000, tmp_path, *flags) as first,
        consumer_process("b", 1000, tmp_path, *flags) as second,
    ):
        answers = await asyncio.gather(first.post(LOAD), second.post(LOAD))
        assert 500 in [status for status, _ in answers]
        ooms = (await first.health())["oom"] + (await second.health())["oom"]
        assert ooms == [status for status, _ in answers].count(500)
        assert _announced(tmp_path, first) + _announced(tmp_path, second) <= 1500


async def test_memory_of_a_killed_process_is_free_although_its_file_remains(tmp_path: Path) -> None:
    flags = ("--device-total", "1500", "--loaded-at-start")
    async with consumer_process("a", 1000, tmp_path, *flags) as first:
        await first.kill()
        assert _announced(tmp_path, first) == 1000
        async with consumer_process("b", 1000, tmp_path, *flags) as second:
            assert (await second.health())["oom"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_process_terminates_although_requests_hang(tmp_path: Path, number: signal.Signals) -> None:
    async with consumer_process("tts", 1000, tmp_path, "--loaded-at-start", "--fault", "hang:on=health") as consumer:
        hung = asyncio.create_task(consumer.health())
        assert _announced(tmp_path, consumer) == 1000
        await asyncio.wait({hung}, timeout=0.1)
        consumer.process.send_signal(number)
        assert await asyncio.wait_for(consumer.process.wait(), 30) == 0
        assert _announced(tmp_path, consumer) == 0
        with pytest.raises(aiohttp.ClientError):
            await hung


async def test_lying_unload_frees_nothing(tmp_path: Path, routes: HttpRoutes) -> None:
    async with consumer_process("tts", 1000, tmp_path, "--loaded-at-start") as consumer:
        await consumer.fault("lying-unload")
        await routes.unload(_spec(consumer))
        assert (await routes.probe_health(_spec(consumer))).loaded is False
        assert _announced(tmp_path, consumer) == 1000
        await consumer.fault("none")
        await routes.unload(_spec(consumer))
        assert _announced(tmp_path, consumer) == 0


async def test_partial_unload_frees_a_part(tmp_path: Path, routes: HttpRoutes) -> None:
    flags = ("--loaded-at-start", "--fault", "partial-unload:mib=300")
    async with consumer_process("tts", 1000, tmp_path, *flags) as consumer:
        await routes.unload(_spec(consumer))
        assert _announced(tmp_path, consumer) == 700


async def test_stuck_loaded_always_reports_loaded(tmp_path: Path, routes: HttpRoutes) -> None:
    async with consumer_process("tts", 1000, tmp_path, "--loaded-at-start", "--fault", "stuck-loaded") as consumer:
        await routes.unload(_spec(consumer))
        assert _announced(tmp_path, consumer) == 0
        assert (await routes.probe_health(_spec(consumer))).loaded is True


@pytest.mark.parametrize(("verb", "left"), [("load", 250), ("unload", 1000)])
async def test_crash_during_load_and_unload(tmp_path: Path, routes: HttpRoutes, verb: str, left: int) -> None:
    flags = ["--loaded-at-start"] if verb == "unload" else []
    async with consumer_process("tts", 1000, tmp_path, *flags) as consumer:
        await consumer.fault("crash", on=verb)
        with pytest.raises(RouteFailed, match=r"closed the connection|reset"):
            await getattr(routes, verb)(_spec(consumer))
        assert await consumer.process.wait() == 70
        assert _announced(tmp_path, consumer) == left


@pytest.mark.parametrize(
    ("fault", "message_part"),
    [
        ({"kind": "refuse-load"}, "answered 500"),
        ({"kind": "error-500"}, "answered 500"),
        ({"kind": "hang"}, "no answer within 2 s"),
        ({"kind": "slow", "seconds": 30}, "no answer within 2 s"),
        ({"kind": "redirect", "url": "http://127.0.0.1:1/"}, "redirects are not followed"),
    ],
)
async def test_failing_loads_are_reported(
    tmp_path: Path, routes: HttpRoutes, fault: dict[str, object], message_part: str
) -> None:
    async with consumer_process("tts", 1000, tmp_path) as consumer:
        await consumer.fault(**fault)  # type: ignore[arg-type]  # parametrized
        with pytest.raises(RouteFailed, match=message_part):
            await routes.load(_spec(consumer, timeout_sec=2 if "within" in message_part else 30))
        was_done = fault["kind"] == "slow"
        assert (_announced(tmp_path, consumer) == 1000) is was_done


@pytest.mark.parametrize("kind", ["endless", "huge-json", "garbage"])
async def test_faulty_answers_do_not_prevent_the_work(tmp_path: Path, routes: HttpRoutes, kind: str) -> None:
    async with consumer_process("tts", 1000, tmp_path, "--fault", kind) as consumer:
        await routes.load(_spec(consumer))
        assert _announced(tmp_path, consumer) == 1000
        assert await routes.probe_health(_spec(consumer)) == Health(reachable=True, status=200)
        await routes.unload(_spec(consumer))
        assert _announced(tmp_path, consumer) == 0


@pytest.mark.parametrize("fields", [{"kind": "boredom"}, {"kind": "slow", "seconds": "x"}, {"kind": "hang", "on": "x"}])
async def test_unknown_faults_are_refused(tmp_path: Path, fields: dict[str, str]) -> None:
    async with consumer_process("tts", 1000, tmp_path) as consumer:
        with pytest.raises(ValueError, match="no such"):
            await consumer.fault(**fields)


async def test_unknown_fault_flag_ends_the_process(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="did not start"):
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(consumer_process("tts", 1000, tmp_path, "--fault", "boredom"))
