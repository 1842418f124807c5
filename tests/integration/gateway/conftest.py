"""A host with one fake service, whose consumer is called fake, and a gateway in front of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from tests.integration.gateway.entrance import Entrance, entrance
from tests.integration.gateway.fake_service import FakeService, fake_service
from tests.integration.gateway.live_gateway import LiveGateway, http, live_gateway
from tests.integration.live import Client, LiveHost, bare_host


@dataclass
class Front:
    """A gateway in front of a fake service.

    Attributes:
        url: where clients find the service.
        blocker: name of a consumer that leaves no room for the service.
    """

    host: LiveHost
    gateway: LiveGateway
    service: FakeService
    control: Client
    session: aiohttp.ClientSession
    url: str
    blocker: str = "blocker"

    async def block(self) -> str:
        """Lease the whole device, so that requests to the service wait; returns the lease."""
        lease, _ = await self.control.acquire(self.blocker, timeout_usec=("t", 20_000_000))
        return lease


@contextlib.asynccontextmanager
async def front(
    folder: Path, listener: str = "", keys: str = "", consumer: str = "", scheme: str = "http"
) -> AsyncIterator[Front]:
    """A running gateway.

    Args:
        folder: an empty folder.
        listener: keys of the listener, as TOML.
        keys: keys of ``[gateway]``, as TOML.
        consumer: further keys of the consumer, as TOML.
        scheme: of the consumer's URL; the service speaks no TLS.
    """
    async with bare_host(folder) as host, fake_service() as service, http() as session:
        blocker = await host.launch("blocker", 20000)
        url = service.url.replace("http:", f"{scheme}:")
        table = f'[consumers.fake]\nvram_resident_mib = 14000\nurl = "{url}"\n'
        table += f'unload = {{ path = "/unload" }}\n{consumer}\n'
        table += f'[consumers.blocker]\nvram_resident_mib = 20000\nurl = "{blocker.url}"\n'
        table += 'health = { path = "/health", loaded = "/model_loaded" }\nload = { path = "/api/admin/load" }\n'
        host.configure(table + 'unload = { path = "/api/admin/unload" }\n')
        await host.start()
        async with live_gateway(host, {"fake": listener}, keys) as gateway:
            control = await host.client()
            yield Front(host, gateway, service, control, session, gateway.url("fake"))
            await control.close()


@pytest.fixture
async def fake_front(tmp_path: Path) -> AsyncIterator[Front]:
    """A gateway with default settings in front of a fake service."""
    async with front(tmp_path) as made:
        yield made


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Entrance]:
    """An entrance with default settings; the lists of the services are known."""
    async with entrance(tmp_path) as made:
        await made.get("/v1/models")
        yield made
