"""Every preset against a fake of its server, over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from gpumand.config import load
from gpumand.config.presets import preset, preset_names
from gpumand.consumers.routes import HttpRoutes
from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.partial_load import PartialLoad
from gpumand.host.clock import SystemClock
from gpumand.ports import RouteFailed

from .known_servers import FACTS, KEY, MODEL, TABBY_FAILED, TABBY_PROGRESS, Server, serving
from .servers import web_server

KEYS = {name: preset(name).document.table["consumer"].keys() for name in preset_names()}

WITH_ROUTES = [name for name, keys in KEYS.items() if {"health", "busy", "unload"} & keys]
WITH_HEALTH = [name for name, keys in KEYS.items() if "health" in keys]
BY_CONNECTIONS = {"infinity", "tei", "whisper-cpp"}
"""Busy checks by connections need a server in another process: test_busy_connections.py has them."""

WITH_BUSY = [name for name, keys in KEYS.items() if "busy" in keys and name not in BY_CONNECTIONS]
WITH_KEY = [name for name in WITH_ROUTES if FACTS[name].key]


@pytest.fixture
async def routes() -> AsyncIterator[HttpRoutes]:
    routes = HttpRoutes(SystemClock())
    yield routes
    await routes.close()


def spec_of(name: str, url: str, folder: Path, *, key: str = KEY, more: str = "", model: str = MODEL) -> ConsumerSpec:
    """Return a consumer that uses a preset, as an administrator would configure it."""
    (folder / "key").write_text(f"{key}\n")
    lines = [f"[consumers.{name}]", f'preset = "{name}"', "vram_resident_mib = 8000", f'url = "{url}"', more]
    lines.append(f'unit = "{name}.service"')
    lines += [f'model = "{model}"'] if preset(name).about.model != "none" else []
    lines += [f'key_file = "{folder}/key"'] if FACTS[name].key else []
    file = folder / "gpumand.toml"
    file.write_text("\n".join(lines))
    return load(file).consumers[name]


def test_every_preset_has_a_fake_server() -> None:
    assert set(FACTS) == set(preset_names())
    assert {name for name, facts in FACTS.items() if facts.is_async} == {
        name for name in preset_names() if preset(name).about.async_unload
    }


@pytest.mark.parametrize("name", WITH_ROUTES)
async def test_routes_of_the_preset_work(name: str, routes: HttpRoutes, tmp_path: Path) -> None:
    server = Server(FACTS[name])
    async with serving(server) as url:
        spec = spec_of(name, url, tmp_path)
        expected = []
        if spec.unload is not None:
            await routes.unload(spec)
            expected.append("unload")
        if spec.load is not None:
            await routes.load(spec)
            expected.append("load")
        if spec.health is not None:
            assert (await routes.probe_health(spec)).reachable
        if spec.busy is not None and not spec.busy.connections:
            assert (await routes.probe_busy(spec)).jobs is not None

    assert server.done == expected
    assert server.unknown_requests == []


@pytest.mark.parametrize("name", WITH_HEALTH)
async def test_health_route_reports_the_state_of_the_server(name: str, routes: HttpRoutes, tmp_path: Path) -> None:
    server = Server(FACTS[name])
    async with serving(server) as url:
        spec = spec_of(name, url, tmp_path)
        loaded = await routes.probe_health(spec)
        server.loaded = False
        unloaded = await routes.probe_health(spec)

    assert (loaded.reachable, unloaded.reachable) == (True, True)
    assert (loaded.loaded, unloaded.loaded) == ((True, False) if FACTS[name].reports_loaded else (None, None))
    if name == "lemonade":
        assert (loaded.last_used_usec, unloaded.last_used_usec) == (1_770_000_000_000_000, None)


@pytest.mark.parametrize("name", WITH_BUSY)
async def test_busy_route_distinguishes_busy_from_idle(name: str, routes: HttpRoutes, tmp_path: Path) -> None:
    server = Server(FACTS[name])
    async with serving(server) as url:
        spec = spec_of(name, url, tmp_path)
        idle = await routes.probe_busy(spec)
        server.jobs = 2
        busy = await routes.probe_busy(spec)
    stopped = await routes.probe_busy(spec)

    assert idle.jobs == 0
    assert busy.jobs in (1, 2, 3), "the web interfaces report a number of jobs and the name of one"
    assert (stopped.jobs, stopped.refused) == (None, True)


@pytest.mark.parametrize("name", WITH_KEY)
async def test_wrong_key_is_reported_without_the_key(name: str, routes: HttpRoutes, tmp_path: Path) -> None:
    async with serving(Server(FACTS[name])) as url:
        spec = spec_of(name, url, tmp_path, key="wr0ng")
        if spec.unload is not None:
            with pytest.raises(RouteFailed, match="unload route answered 401") as refused:
                await routes.unload(spec)
            assert "wr0ng" not in str(refused.value)
        else:
            assert "401" in (await routes.probe_health(spec)).error


async def test_koboldcpp_reports_a_failure_with_status_200(routes: HttpRoutes, tmp_path: Path) -> None:
    server = Server(FACTS["koboldcpp"], refuses=(200, {"success": False}))
    async with serving(server) as url:
        with pytest.raises(RouteFailed, match="answered 200, but reports a failure"):
            await routes.unload(spec_of("koboldcpp", url, tmp_path))


async def test_tabbyapi_reports_a_failed_load_as_the_last_event(routes: HttpRoutes, tmp_path: Path) -> None:
    facts = FACTS["tabbyapi"]
    failing = replace(facts, load_answer=(200, TABBY_PROGRESS * 40 + TABBY_FAILED))
    unfinished = replace(facts, load_answer=(200, TABBY_PROGRESS * 40))
    for server, message in ((failing, "reports a failure: CUDA out of memory"), (unfinished, "processing")):
        async with serving(Server(server)) as url:
            with pytest.raises(RouteFailed, match=message):
                await routes.load(spec_of("tabbyapi", url, tmp_path))


async def test_tabbyapi_that_holds_another_model_has_not_loaded_this_one(routes: HttpRoutes, tmp_path: Path) -> None:
    async with serving(Server(FACTS["tabbyapi"])) as url:
        other = spec_of("tabbyapi", url, tmp_path, model="other")
        health = await routes.probe_health(other)
    assert (health.reachable, health.loaded) == (True, False)
    assert health.answer == f'answered 200, /id is "{MODEL}"'


async def test_ollama_reports_which_part_of_a_model_is_in_vram(routes: HttpRoutes, tmp_path: Path) -> None:
    server = Server(FACTS["ollama"])
    async with serving(server) as url:
        spec = spec_of("ollama", url, tmp_path)
        whole = await routes.probe_health(spec)
        server.state = "partly on the CPU"
        half = await routes.probe_health(spec)

    assert (whole.loaded, whole.partial) == (True, None)
    assert (half.loaded, half.partial) == (True, PartialLoad(size_mib=12288, vram_mib=4096))


async def test_router_reports_how_a_load_failed_and_that_a_model_sleeps(routes: HttpRoutes, tmp_path: Path) -> None:
    server = Server(FACTS["llama-cpp-router"])
    async with serving(server) as url:
        spec = spec_of("llama-cpp-router", url, tmp_path)
        server.state = {"value": "loading"}
        loading = await routes.probe_health(spec)
        server.state = {"value": "unloaded", "failed": True, "exit_code": 1}
        failed = await routes.probe_health(spec)
        server.state = {"value": "sleeping"}
        sleeping = await routes.probe_health(spec)

    assert (loading.loaded, loading.failed, loading.sleeping) == (False, "", False)
    assert (failed.loaded, failed.failed) == (False, "the server reports a failed load: exit_code 1")
    assert (sleeping.loaded, sleeping.failed, sleeping.sleeping) == (False, "", True)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("llama-cpp-router", (400, {"error": {"message": "model is not running"}})),
        ("tabbyapi", (503, {"detail": "No models are currently loaded."})),
        ("localai", (404, {"error": {"message": "model not loaded"}})),
        ("speaches", (404, {"detail": "not loaded"})),
    ],
)
async def test_unload_of_a_model_that_is_not_loaded_is_no_failure(
    name: str, answer: tuple[int, object], routes: HttpRoutes, tmp_path: Path
) -> None:
    # As a failure it would make gpumand stop the unit, and with it the other models of the server.
    server = Server(FACTS[name], loaded=False, refuses=answer)
    async with serving(server) as url:
        spec = spec_of(name, url, tmp_path)
        await routes.unload(spec)
        server.loaded = True
        with pytest.raises(RouteFailed, match=f"unload route answered {answer[0]}"):
            await routes.unload(spec)


async def test_llama_server_that_sleeps_is_recognised_without_being_woken(routes: HttpRoutes, tmp_path: Path) -> None:
    server = Server(FACTS["llama-server"])
    async with serving(server) as url:
        spec = spec_of("llama-server", url, tmp_path)
        awake = await routes.probe_health(spec)
        server.state = "sleeping"
        asleep = await routes.probe_health(spec)
    without_props = replace(FACTS["llama-server"], reads={"/health": lambda _: (200, {"status": "ok"})})
    async with serving(Server(without_props)) as url:
        older = await routes.probe_health(spec_of("llama-server", url, tmp_path))

    assert (awake.reachable, awake.loaded, awake.sleeping) == (True, None, False)
    assert (asleep.reachable, asleep.loaded, asleep.sleeping) == (True, False, True)
    assert (older.reachable, older.loaded, older.sleeping) == (True, None, False)


@pytest.mark.parametrize(("model", "loaded"), [("llama3", True), ("llama3:latest", True), ("llama3:8b", False)])
async def test_two_consumers_of_one_ollama_are_distinguished(
    model: str, loaded: bool, routes: HttpRoutes, tmp_path: Path
) -> None:
    listed = {"models": [{"name": "llama3:latest", "size_vram": 1}]}
    async with serving(Server(replace(FACTS["ollama"], reads={"/api/ps": lambda _: (200, listed)}))) as url:
        health = await routes.probe_health(spec_of("ollama", url, tmp_path, model=model))

    assert (health.reachable, health.loaded) == (True, loaded)


async def test_koboldcpp_answers_a_load_early_and_declares_it(tmp_path: Path) -> None:
    spec = spec_of("koboldcpp", "http://127.0.0.1:1", tmp_path)
    assert spec.load is not None
    assert spec.load.async_load


async def test_success_equals_detects_an_incomplete_unload(routes: HttpRoutes, tmp_path: Path) -> None:
    # Docker Model Runner has no preset, because its routes are not verified. An administrator can configure them.
    text = """
        [consumers.runner]
        vram_resident_mib = 8000
        url = "URL"
        [consumers.runner.unload]
        path = "/engines/unload"
        json = { models = ["ai/qwen"] }
        success = "/unloaded_runners"
        success_equals = 1
    """
    count = 0

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"unloaded_runners": count})

    async with web_server(answer) as url:
        file = tmp_path / "gpumand.toml"
        file.write_text(text.replace("URL", url))
        spec = load(file).consumers["runner"]
        with pytest.raises(RouteFailed, match=r"reports a failure: .*unloaded_runners"):
            await routes.unload(spec)
        count = 1
        await routes.unload(spec)
