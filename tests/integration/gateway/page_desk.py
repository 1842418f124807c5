"""A host with services, a gateway and a browser, for tests of the page."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.integration.gateway.browser import Tab, browser_tab
from tests.integration.gateway.console_stub import Invented
from tests.integration.gateway.live_gateway import LiveGateway, free_port, http, live_gateway, work
from tests.integration.live import Client, LiveHost, bare_host, table

MIB = {"llm": 14000, "comfyui": 9000, "whisper": 3000, "tts": 2500}
KEY, WEAK = "gpumand-anna", "gpumand-script"

HOSTILE = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>'


@dataclass
class Desk:
    """A host with four services, a gateway in front of them, and a browser.

    Attributes:
        url: address of the page.
    """

    host: LiveHost
    gateway: LiveGateway
    control: Client
    session: aiohttp.ClientSession
    tab: Tab
    url: str

    async def start_requests(self, consumer: str, count: int = 1, seconds: float = 60.0) -> list[asyncio.Task[int]]:
        """Start requests to a service."""
        url = self.gateway.url(consumer)
        return [asyncio.create_task(work(self.session, url, seconds)) for _ in range(count)]

    async def open(self) -> None:
        """Open the page and wait until it shows the state."""
        await self.tab.open(self.url)
        await self.tab.until_text("#connection", "Live")

    async def check(self) -> None:
        """Check that the page had no error, broke no rule of its policy, and loaded nothing from elsewhere."""
        assert self.tab.problems == []
        assert await self.tab.evaluate("violations") == []
        assert await self.tab.evaluate("window.hit") is None
        own = self.url.removesuffix("/gateway/")
        assert [one for one in self.tab.requests if not one.startswith((own, "about:"))] == []


@contextlib.asynccontextmanager
async def desk(folder: Path, consumers: dict[str, int], keys: str = "") -> AsyncIterator[Desk]:
    """A running desk."""
    async with bare_host(folder) as host, http() as session:
        tables = [table(await host.launch(name, mib), mib) for name, mib in consumers.items()]
        host.configure("".join(tables))
        await host.start()
        port = free_port()
        # Requests in flight need not end before the gateway is stopped.
        keys += "drain_sec = 0\n"
        own = f'listen = ["127.0.0.1:{port}", "unix:{folder / "own.sock"}"]\n'
        async with live_gateway(host, dict.fromkeys(consumers, ""), own + keys) as gateway, browser_tab(folder) as tab:
            control = await host.client()
            yield Desk(host, gateway, control, session, tab, f"http://127.0.0.1:{port}/gateway/")
            await control.close()


def pictures(folder: Path) -> Path:
    """The folder of pictures: GPUMAND_PICTURES keeps them."""
    path = Path(os.environ.get("GPUMAND_PICTURES", folder / "pictures"))
    path.mkdir(parents=True, exist_ok=True)
    return path


SIZES = {"desktop": (1280, 900, False), "phone": (390, 844, True)}


@contextlib.asynccontextmanager
async def page_of_root(path: Path) -> AsyncIterator[str]:
    """The page over the Unix socket, where the kernel names the user root; yields its address for a browser."""

    async def pipe(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        target.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            other = await asyncio.open_unix_connection(path)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pipe(reader, other[1]), pipe(other[0], writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/gateway/"
    finally:
        server.close()


async def is_resident(control: Client, consumer: str, wanted: str = "resident") -> bool:
    return bool((await control.consumer(consumer))["residency"] == wanted)


def host_of_fleet(name: str, state: str = "up", loaded: str = "llm", why: str = "") -> dict[str, Any]:
    """A host as gpumand-fleet shows it."""
    consumers = {loaded: {"r": "resident", "leases": 2}, "parked": {"r": "parked"}, "away": {"r": "unloaded"}}
    row = {"id": name, "name": name, "gpus": [{"uuid": "a", "total": 24564, "free": 1024}, {"uuid": "b"}]}
    return {"state": state, "local": name == "gpu1", "why": why, "row": row | {"consumers": consumers, "queue": 3}}


def invented() -> Invented:
    """A status, a history and a plan with markup in every text."""
    text = HOSTILE
    device = {
        "index": 0,
        "uuid": text,
        "name": text,
        "source": text,
        "total_mib": 24564,
        "used_mib": 20000,
        "free_mib": 4564,
        "reserved_mib": 100,
        "foreign_mib": 300,
        "unnamed_mib": 200,
        "error": text,
        "foreign": [{"pid": 1, "name": text, "unit": text, "user": text, "used_mib": 5, "container": text}],
        "utilization_percent": 71,
        "temperature_celsius": 64,
        "power_watts": 211.4,
        "history": {"used_mib": [1000, -1, 20000]},
    }
    unread = {"index": 1, "uuid": "u", "name": "Unread", "source": "none", "error": "cannot be read", "foreign": []}
    words = ("name", "residency", "device", "unit", "error", "doing", "endpoint", "preset", "unit_state")
    consumer = dict.fromkeys(words, text) | {"used_by_device": {"0": 9000}, "leases": 1, "pinned": True}
    odd = [
        consumer | {"name": name, "error": "", "residency": name} for name in ("constructor", "__proto__", "toString")
    ]
    waiting = {"consumer": text, "position": 1, "waited_usec": 5, "waiting_for": text, "reason": text, "priority": 3}
    status = {"version": text, "degraded": text, "devices": [device, unread], "leases": [], "stats": {}}
    status |= {"consumers": [consumer, *odd], "queue": [waiting], "driver_state": text}
    kinds = (text, "constructor", "load")
    entries = [{"at_usec": 5, "kind": kind, "consumer": text, "trigger": text, "detail": text} for kind in kinds]
    victim = {"consumer": text, "expected_mib": 5, "why": text, "parks": True}
    plan = {"consumer": text, "verdict": text, "device": text, "load": True, "message": text, "evictions": [victim]}
    return Invented(status, entries, plan | {"spared": [{"consumer": text, "why": text}]})
