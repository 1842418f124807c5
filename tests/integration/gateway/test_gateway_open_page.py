"""A page of ComfyUI that stays open: its WebSocket and its polls neither keep the service in memory nor wake it.

A short form runs with all tests; ``make page`` keeps the page open for ten minutes.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import aiohttp
import pytest

from gpumand.testing.vram_announcement import Announcement
from tests.integration.gateway.conftest import Front, front
from tests.integration.live import wait_until

OPEN_SEC = 600.0 if os.environ.get("GPUMAND_FULL_LENGTH") else 6.0
"""How long the page is open: a third of it with the service loaded, a third while another one uses the GPU, and a third
after the server was stopped."""

COMFYUI = 'preset = "comfyui"'
POLLS = ("/queue", "/prompt", "/system_stats", "/api/history?max_items=64", "/api/userdata?dir=workflows", "/view?x=1")

pytestmark = pytest.mark.timeout(OPEN_SEC + 240)


class Page:
    """The requests of an open page, once a second, on its WebSocket and as polls."""

    def __init__(self, made: Front) -> None:
        self._made = made
        self.statuses: list[int] = []

    async def stay_open(self, seconds: float) -> None:
        """Poll for a while; a connection that is lost is opened again, as the page does."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until:
            try:
                async with self._made.session.ws_connect(f"{self._made.url}/ws?clientId=a") as socket:
                    await self._poll_until(until, socket)
            except (aiohttp.ClientError, ConnectionError):
                await self._poll()
                await asyncio.sleep(1.0)

    async def _poll_until(self, until: float, socket: aiohttp.ClientWebSocketResponse) -> None:
        while asyncio.get_running_loop().time() < until and not socket.closed:
            await socket.send_str("ping")
            message = await socket.receive()
            if message.type is not aiohttp.WSMsgType.TEXT:
                return
            await self._poll()
            await asyncio.sleep(1.0)

    async def _poll(self) -> None:
        for path in POLLS:
            async with self._made.session.get(self._made.url + path, headers={"Accept": "*/*"}) as answer:
                await answer.read()
                self.statuses.append(answer.status)


async def residency(made: Front) -> str:
    return str((await made.control.consumer("fake"))["residency"])


async def loads(made: Front) -> int:
    """How many consumers were loaded so far."""
    return int((await made.control.status())["stats"]["loads"])


async def free_when_unloaded(made: Front, memory: Announcement) -> None:
    """Free the memory of the service when it gets the request that unloads its model."""

    async def is_asked() -> bool:
        return "POST /unload" in made.service.paths()

    await wait_until("the service is asked to unload", is_asked)
    memory.clear()


async def test_open_page_leaves_the_service_evictable_and_does_not_wake_it(tmp_path: Path) -> None:
    async with front(tmp_path, COMFYUI, keys="linger_sec = 0.2") as made:
        async with made.session.post(f"{made.url}/prompt", json={"prompt": {}}) as answer:
            assert answer.status == 200
        memory = Announcement(made.host.simulator, "fake")
        memory.set(14000)
        made.service.jobs = 0

        async def is_released() -> bool:
            return not (await made.control.status())["leases"]

        await wait_until("the job has ended", is_released)
        assert await residency(made) == "resident"
        page = Page(made)

        await page.stay_open(OPEN_SEC / 3)
        assert set(page.statuses) == {200}
        assert await is_released()

        assert await residency(made) == "resident"
        freed = asyncio.create_task(free_when_unloaded(made, memory))
        lease = await made.block()  # evicts the service, or fails after its own limit
        await freed
        await page.stay_open(OPEN_SEC / 3)
        status = await made.control.status()
        assert (len(status["leases"]), list(status["queue"])) == (1, [])
        assert await residency(made) == "unloaded"
        await made.control.release(lease)

        await made.service.stop()
        before = await loads(made)
        page.statuses.clear()
        await page.stay_open(OPEN_SEC / 3)
        status = await made.control.status()
        assert (list(status["leases"]), list(status["queue"])) == ([], [])
        assert (await loads(made), await residency(made)) == (before, "unloaded")
        assert {200, 503} == set(page.statuses), "lists come from memory, all else says that the service is stopped"
