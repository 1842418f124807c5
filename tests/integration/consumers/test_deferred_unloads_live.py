"""The real daemon with a server whose unload waits for its running requests, as Ollama's does."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import aiohttp
from aiohttp import web

from gpumand.testing.vram_announcement import Announcement
from tests.integration.consumers.servers import web_server
from tests.integration.live import LiveHost, bare_host, table, wait_until
from tests.integration.service_manager.host import FakeHost

SETTINGS = "concurrent_leases = 0\nsettle_timeout_sec = 0.5\nhealth_interval_sec = 0.3"
KEYS = 'health = { path = "/health", loaded = "/loaded" }\nload = { path = "/load" }\nunload = { path = "/unload" }\n'


class Deferring:
    """A server that answers an unload at once and carries it out when its last request has ended."""

    def __init__(self, memory: Announcement) -> None:
        self.memory, self.loaded, self.wants_unload = memory, False, False
        self.chats, self.end = 0, asyncio.Event()
        self.is_cut = False

    async def handle(self, request: web.Request) -> web.Response:
        """Answer health, load, unload and chat."""
        if request.path == "/load":
            self.memory.set(14000)
            self.loaded, self.wants_unload = True, False
        elif request.path == "/unload":
            self.wants_unload = True
            self.unload_if_idle()
        elif request.path == "/chat":
            self.chats += 1
            await self.end.wait()
            self.chats -= 1
            self.unload_if_idle()
        return web.json_response({"loaded": self.loaded})

    def unload_if_idle(self) -> None:
        """Free the memory unless a request runs."""
        if self.wants_unload and not self.chats:
            self.memory.clear()
            self.loaded = False


def announcement(host: LiveHost, *command: str) -> Announcement:
    """The memory of a process of its own, which sleeps or runs a command, and ends with the host."""
    process = subprocess.Popen(command or ["sleep", "1000"])
    host.stack.callback(process.wait)
    host.stack.callback(process.kill)
    return Announcement(host.simulator, "llm", pid=process.pid)


async def test_unit_is_not_stopped_under_a_request_that_the_unload_waits_for(tmp_path: Path) -> None:
    async with bare_host(tmp_path) as host:
        server = Deferring(announcement(host))
        client = await host.client(listen=True)
        systemd = FakeHost(host.bus, client.bus, tmp_path)
        await systemd.boot({"llm.service": {"argv": ["sleep", "1000"]}})
        host.stack.push_async_callback(systemd.halt)
        async with web_server(server.handle) as url, aiohttp.ClientSession() as session:
            llm = f'[consumers.llm]\nunit = "llm.service"\nurl = "{url}"\nvram_resident_mib = 14000\n{KEYS}'
            image = await host.launch("image", 14000)
            host.configure(llm + table(image, 14000), SETTINGS)
            await host.start()
            lease, _ = await client.acquire("llm")
            await client.release(lease)
            chatting = asyncio.create_task(session.post(f"{url}/chat"))

            async def is_asked() -> bool:
                return server.wants_unload

            async def is_chatting() -> bool:
                return server.chats == 1

            await wait_until("the chat has begun", is_chatting)
            acquiring = client.start_acquire("image")
            await wait_until("the unload is requested", is_asked)
            await asyncio.sleep(3 * 0.5)  # several times the settle time: nothing marks that a stop does not happen
            server.end.set()
            assert (await chatting).status == 200

            _, grant = await acquiring
            assert grant["evicted"] == ["llm"]
            [(_, _, _, method, _, _)] = client.received("EvictionOccurred")
            assert method == "http"
            assert client.received("EvictionFailed") == []
            await host.end()
            await client.close()


async def test_free_victim_is_evicted_instead_of_one_whose_client_is_connected(tmp_path: Path) -> None:
    async with bare_host(tmp_path) as host:
        chat, voice, image = [await host.launch(name, 9000) for name in ("chat", "voice", "image")]
        host.configure("".join(table(one, 9000) for one in (chat, voice, image)), "health_interval_sec = 0.3")
        await host.start()
        client = await host.client(listen=True)
        for name in ("chat", "voice"):
            lease, _ = await client.acquire(name)
            await client.release(lease)
        await chat.fault("lying-unload")
        port = int(chat.url.rpartition(":")[2])
        _, connected = await asyncio.open_connection("127.0.0.1", port)
        host.stack.callback(connected.close)

        lease, grant = await client.acquire("image", timeout_usec=("t", 30_000_000))

        assert grant["evicted"] == ["voice"]
        assert len(await chat.events("unload-called")) == 1
        assert client.received("EvictionFailed") == []
        assert "chat: it accepted the unload and has freed 0 of" in host.log
        await client.release(lease)
        await client.close()
