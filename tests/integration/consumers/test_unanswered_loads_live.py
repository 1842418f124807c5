"""The real daemon with servers whose load succeeds, although their load route does not say so, or in an unusual way."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web

from gpumand.testing.vram_announcement import Announcement
from tests.integration.consumers.servers import web_server
from tests.integration.live import LiveHost, bare_host

from .known_servers import TABBY_FINISHED

MIB = 8000
ROUTES = 'health = { path = "/health", loaded = "/loaded" }\nload = { path = "/load", timeout_sec = 300 }\n'


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[LiveHost]:
    async with bare_host(tmp_path) as made:
        yield made


class LoadingServer:
    """A server whose model grows step by step in a process of its own, whatever its load route answers."""

    def __init__(self, host: LiveHost) -> None:
        self._process = subprocess.Popen(["sleep", "1000"])
        self._announcement = Announcement(host.simulator, "llm", pid=self._process.pid)
        self._growing: asyncio.Task[None] | None = None
        self.loaded = False

    def begin(self, sec: float) -> asyncio.Task[None]:
        """Begin to load, unless a load runs already."""
        self._growing = self._growing or asyncio.create_task(self._grow(sec))
        return self._growing

    async def _grow(self, sec: float) -> None:
        for step in range(1, 6):
            await asyncio.sleep(sec / 5)
            self._announcement.set(MIB * step // 5)
        self.loaded = True

    def end(self) -> None:
        """Release the memory."""
        self._process.kill()
        self._process.wait()


async def grant(host: LiveHost, keys: str, handle: Callable[[web.Request], object]) -> bool:
    """Whether an Acquire with the default timeout loads the consumer."""
    async with web_server(handle) as url:  # type: ignore[arg-type]  # each returns a response
        host.configure(f'[consumers.llm]\nurl = "{url}"\nvram_resident_mib = {MIB}\n{keys}')
        await host.start()
        client = await host.client()
        _, granted = await client.acquire("llm")
        await client.close()
    return bool(granted["loaded"])


@pytest.mark.parametrize("answer", [504, 503, 0], ids=["gateway-timeout", "loading", "no-answer"])
async def test_load_that_goes_on_without_a_useful_answer_of_its_route_is_granted(host: LiveHost, answer: int) -> None:
    server = LoadingServer(host)

    async def handle(request: web.Request) -> web.Response:
        if request.path == "/health":
            return web.json_response({"loaded": server.loaded})
        server.begin(2.0)
        await asyncio.sleep(0.5 if answer else 1000)
        return web.Response(status=answer, text="the model is loading")

    assert await grant(host, ROUTES, handle)
    assert server.loaded
    server.end()


async def test_stream_of_events_that_does_not_end_after_the_last_one_is_not_waited_for(host: LiveHost) -> None:
    server = LoadingServer(host)

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.path == "/v1/model":
            return web.json_response({"id": "llama"} if server.loaded else {}, status=200 if server.loaded else 503)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await server.begin(0.5)
        await response.write(TABBY_FINISHED)
        await asyncio.sleep(1000)
        return response

    assert await grant(host, 'preset = "tabbyapi"\nmodel = "llama"\n', handle)
    server.end()


async def test_answers_that_a_proxy_compresses_are_read(host: LiveHost) -> None:
    server = LoadingServer(host)

    async def handle(request: web.Request) -> web.Response:
        if request.path == "/load":
            await server.begin(0.2)
        body = gzip.compress(json.dumps({"loaded": server.loaded}).encode())
        return web.Response(body=body, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})

    assert await grant(host, ROUTES, handle)
    server.end()
