"""A host with two services that have models, and the entrance of a gateway in front of them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from gpumand.gateway.entrance_config import GATEWAY
from tests.integration.gateway.live_gateway import LiveGateway, free_port, http
from tests.integration.gateway.model_service import ModelService, model_service
from tests.integration.live import Client, LiveHost, bare_host, wait_until


@dataclass
class Entrance:
    """An entrance in front of the consumers llama and ollama.

    Attributes:
        url: the address of the entrance.
    """

    host: LiveHost
    gateway: LiveGateway
    llama: ModelService
    ollama: ModelService
    control: Client
    session: aiohttp.ClientSession
    url: str

    async def get(self, path: str, **more: Any) -> tuple[int, Any]:
        async with self.session.get(self.url + path, **more) as answer:
            return answer.status, await answer.json(content_type=None)

    async def post(self, path: str, body: Any, **more: Any) -> tuple[int, Any]:
        async with self.session.post(self.url + path, json=body, **more) as answer:
            return answer.status, await answer.json(content_type=None)

    async def block(self) -> str:
        """Lease the whole device, so that requests wait; returns the lease."""
        lease, _ = await self.control.acquire("blocker", timeout_usec=("t", 20_000_000))
        return lease

    async def wait_for_queue(self, count: int = 1) -> None:
        async def waits() -> bool:
            return len((await self.control.status())["queue"]) >= count

        await wait_until("the requests wait", waits)


@contextlib.asynccontextmanager
async def entrance(
    folder: Path,
    keys: str = "",
    tables: str = "",
    *,
    has_state: bool = True,
    llama_keys: str = "",
    model_mib: int = 9000,
) -> AsyncIterator[Entrance]:
    """A running entrance.

    Args:
        folder: an empty folder.
        keys: keys of ``[gateway]``, as TOML.
        tables: further tables, as TOML.
        has_state: whether there is a state directory.
        llama_keys: keys of the listener of llama, as TOML.
        model_mib: memory that llama and ollama need, each.
    """
    state = folder / "gateway-state"
    if has_state:
        state.mkdir(parents=True)
    async with (
        bare_host(folder) as host,
        model_service("qwen3", "org/phi-4") as llama,
        model_service("gemma3:latest", "qwen3:8b") as ollama,
        http() as session,
    ):
        blocker = await host.launch("blocker", 20000)
        size = f"vram_resident_mib = {model_mib}"
        table = f'[consumers.llama]\n{size}\nurl = "{llama.url}"\nunload = {{ path = "/unload" }}\n'
        table += f'[consumers.ollama]\n{size}\nurl = "{ollama.url}"\nunload = {{ path = "/unload" }}\n'
        table += f'[consumers.blocker]\nvram_resident_mib = 20000\nurl = "{blocker.url}"\n'
        table += 'health = { path = "/health", loaded = "/model_loaded" }\nload = { path = "/api/admin/load" }\n'
        host.configure(table + 'unload = { path = "/api/admin/unload" }\n')
        await host.start()
        port = free_port()
        own = f'listen = "127.0.0.1:{port}"\nstate_dir = "{state}"\n{keys}\n'
        own += f'[gateway.listeners.llama]\npreset = "llama-server"\n{llama_keys}\n'
        own += '[gateway.listeners.ollama]\npreset = "ollama"\n'
        gateway = LiveGateway(host, {}, own + tables)
        gateway.ports[GATEWAY] = port
        control = await host.client()
        await gateway.start()
        try:
            yield Entrance(host, gateway, llama, ollama, control, session, gateway.url(GATEWAY))
        finally:
            await gateway.end()
            await control.close()
    assert "Traceback" not in gateway.log, gateway.log[-6000:]
