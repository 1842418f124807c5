"""The real daemon with servers that several consumers share, and whose answers are not what their status says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gpumand.bus.connection_errors import BusError
from tests.integration.consumers.servers import web_server
from tests.integration.live import LiveHost, bare_host, wait_until

from .known_servers import TABBY_FAILED, TABBY_FINISHED, TABBY_PROGRESS


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[LiveHost]:
    async with bare_host(tmp_path) as made:
        yield made


class Ollama:
    """A server with several models, which lists a model without a tag as latest."""

    def __init__(self, *loaded: str) -> None:
        self.loaded = list(loaded)
        self.sizes = {"size": 2**33, "size_vram": 2**33}
        self.calls: list[tuple[str, Any]] = []

    async def handle(self, request: web.Request) -> web.Response:
        """Answer /api/ps and /api/generate."""
        if request.path == "/api/ps":
            return web.json_response({"models": [{"name": one} | self.sizes for one in self.loaded]})
        body = json.loads(await request.read())
        name = body["model"] if ":" in body["model"] else body["model"] + ":latest"
        self.calls.append((body["model"], body.get("keep_alive")))
        self.loaded = [one for one in self.loaded if one != name] + ([name] if body.get("keep_alive") != 0 else [])
        return web.json_response({"model": body["model"], "done": True})


NO_READINGS = 'source = "none"\ntotal_mib = 24564'
"""The servers here hold no VRAM that a source could show, so that only their answers count."""


def ollama_table(name: str, model: str, url: str) -> str:
    return f'[consumers.{name}]\npreset = "ollama"\nmodel = "{model}"\nurl = "{url}"\nvram_resident_mib = 4000\n'


async def test_second_model_of_an_ollama_is_loaded_although_the_first_one_is_in_memory(host: LiveHost) -> None:
    server = Ollama("llama3:latest")
    async with web_server(server.handle) as url:
        host.configure(ollama_table("chat", "llama3", url) + ollama_table("code", "qwen3:8b", url), gpu=NO_READINGS)
        await host.start()
        client = await host.client()

        async def residency(name: str, wanted: str) -> bool:
            return bool((await client.consumer(name))["residency"] == wanted)

        await wait_until("chat is resident", residency, "chat", "resident")
        assert (await client.consumer("code"))["residency"] != "resident"
        await client.acquire("code")
        assert server.calls == [("qwen3:8b", None)]
        await client.acquire("chat")
        assert server.calls == [("qwen3:8b", None)]
        await client.close()


async def test_model_of_ollama_that_is_partly_on_the_cpu_is_granted_with_a_warning(host: LiveHost) -> None:
    server = Ollama()
    server.sizes = {"size": 2**33, "size_vram": 2**32}
    async with web_server(server.handle) as url:
        host.configure(ollama_table("chat", "llama3", url), "health_interval_sec = 0.3", gpu=NO_READINGS)
        await host.start()
        client = await host.client()
        await client.acquire("chat")

        error = (await client.consumer("chat"))["error"]
        assert error.startswith("only 50 % of its model is in VRAM (4.0 GiB of 8.0 GiB)")
        assert "Set vram_resident_mib to at least 8192" in error
        assert f"consumer chat: {error}" in host.log

        server.sizes["size_vram"] = 2**33

        async def is_whole() -> bool:
            return not (await client.consumer("chat")).get("error")

        await wait_until("the warning ends", is_whole)
        await client.close()


@pytest.mark.parametrize("last", [TABBY_FINISHED, TABBY_FAILED])
async def test_last_event_of_tabbyapi_decides_whether_there_is_a_lease(host: LiveHost, last: bytes) -> None:
    loaded = False

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal loaded
        if request.path == "/v1/model":
            card = {"id": "llama"} if loaded else {"detail": "No models are currently loaded."}
            return web.json_response(card, status=200 if loaded else 503)
        if request.path == "/v1/model/unload":
            return web.json_response(None)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(TABBY_PROGRESS * 3 + last)
        loaded = last == TABBY_FINISHED
        return response

    async with web_server(handle) as url:
        keys = f'preset = "tabbyapi"\nmodel = "llama"\nurl = "{url}"\nvram_resident_mib = 4000\n'
        host.configure(f"[consumers.tabby]\n{keys}", gpu=NO_READINGS)
        await host.start()
        client = await host.client()
        if last == TABBY_FINISHED:
            await client.acquire("tabby")
        else:
            with pytest.raises(BusError, match=r"CUDA out of memory\. Tried to allocate 2\.00 GiB") as failed:
                await client.acquire("tabby")
            assert failed.value.name.endswith("LoadFailed")
            assert (await client.consumer("tabby"))["residency"] != "resident"
            assert (await client.status())["leases"] == []
        await client.close()
