"""The waiting page in a real browser shows why a stopped service is not there yet, until the real page can be shown."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpumand.testing.vram_announcement import Announcement
from tests.integration.gateway.browser import Tab, browser_tab, needs_browser
from tests.integration.gateway.fake_service import FakeService, fake_service
from tests.integration.gateway.live_gateway import LiveGateway, free_port, live_gateway
from tests.integration.live import Client, LiveHost, bare_host, wait_until
from tests.integration.service_manager.host import FakeHost

pytestmark = [needs_browser, pytest.mark.timeout(240)]

PAGE = "<!DOCTYPE html><html lang='en'><title>Painter</title><body><h1>Paint a picture</h1></body></html>"
SERVER = """
import functools, http.server, sys
from gpumand.testing.vram_announcement import Announcement
port, site, simulator, mib = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
Announcement(simulator, "painter").set(mib)
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site)
http.server.ThreadingHTTPServer(("127.0.0.1", port), handler).serve_forever()
"""
MIB = {"painter": 14000, "nightly": 20000}


@dataclass
class Stopped:
    """A gateway in front of a stopped unit, a second consumer that leaves no room for it, and a browser.

    Attributes:
        nightly: the server of the second consumer, which frees its memory only when the test does.
        memory: the memory of the second consumer.
    """

    host: LiveHost
    gateway: LiveGateway
    control: Client
    nightly: FakeService
    memory: Announcement
    tab: Tab

    async def painter(self) -> str:
        """The residency of the service."""
        return str((await self.control.consumer("painter"))["residency"])

    async def is_resident(self) -> bool:
        return await self.painter() == "resident"

    async def shows_the_real_page(self) -> bool:
        # Between two pages there is nothing that could be asked.
        with contextlib.suppress(AssertionError):
            return await self.tab.text("h1") == "Paint a picture"
        return False

    async def is_asked_to_unload(self) -> bool:
        return "POST /unload" in self.nightly.paths()


def consumers(port: int, nightly: FakeService) -> str:
    """The tables of both consumers."""
    painter = f'[consumers.painter]\nunit = "painter.service"\nvram_resident_mib = {MIB["painter"]}\n'
    painter += f'url = "http://127.0.0.1:{port}"\nhealth = {{ path = "/" }}\n'
    second = f'[consumers.nightly]\nvram_resident_mib = {MIB["nightly"]}\nurl = "{nightly.url}"\n'
    return painter + second + 'unload = { path = "/unload" }\n'


@contextlib.asynccontextmanager
async def stopped_service(folder: Path) -> AsyncIterator[Stopped]:
    """A running gateway whose service is a stopped unit."""
    site, port = folder / "site", free_port()
    site.mkdir()
    (site / "index.html").write_text(PAGE, encoding="utf-8")
    async with bare_host(folder) as host, fake_service() as nightly:
        command = [sys.executable, "-c", SERVER, str(port), str(site), str(host.simulator), str(MIB["painter"])]
        control = await host.client()
        systemd = FakeHost(host.bus, control.bus, folder)
        await systemd.boot({"painter.service": {"argv": command}})
        host.configure(consumers(port, nightly), scheduler="concurrent_leases = 0\nsettle_timeout_sec = 120")
        await host.start()
        try:
            async with live_gateway(host, {"painter": 'preset = "comfyui"'}) as gateway, browser_tab(folder) as tab:
                memory = Announcement(host.simulator, "nightly")
                yield Stopped(host, gateway, control, nightly, memory, tab)
                memory.clear()
        finally:
            await host.end()
            await systemd.halt()
            await control.close()


async def test_page_of_a_stopped_service_shows_its_place_and_becomes_the_real_page_by_itself(tmp_path: Path) -> None:
    async with stopped_service(tmp_path) as made:
        tab = made.tab
        lease, _ = await made.control.acquire("nightly", timeout_usec=("t", 20_000_000), reason=("s", "video of Anna"))
        made.memory.set(MIB["nightly"])
        assert await made.painter() == "unloaded"

        await tab.open(f"{made.gateway.url('painter')}/")

        await tab.until_text("h1", "painter is being loaded")
        await tab.until_text("dl", "Place in the queue")
        shown = await tab.text("dl")
        assert "1 of 1" in shown
        assert "nightly" in shown
        assert "video of Anna" in shown
        assert await made.painter() == "unloaded"
        await save_picture(tab, "waiting-queue")
        await tab.evaluate("window.opened = true")

        await made.control.release(lease)

        await wait_until("the second consumer is asked to unload", made.is_asked_to_unload)
        await tab.until_text("dl", "Being unloaded")
        assert "nightly" in await tab.text("dl")
        assert await tab.evaluate("window.opened"), "the waiting page renews its text without a reload"
        await save_picture(tab, "waiting-unload")
        assert await tab.evaluate("violations") == []

        made.memory.clear()

        await wait_until("the real page is shown", made.shows_the_real_page)
        await wait_until("the service is loaded", made.is_resident)
        assert tab.problems == []


async def save_picture(tab: Tab, name: str) -> None:
    """Keep a picture where GPUMAND_PICTURES is set."""
    if folder := os.environ.get("GPUMAND_PICTURES"):
        await tab.picture(Path(folder) / f"{name}.png")
