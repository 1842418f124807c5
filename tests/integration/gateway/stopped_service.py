"""A gateway in front of a consumer whose unit is stopped, and starts a simulated service."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.integration.gateway.live_gateway import LiveGateway, free_port, live_gateway
from tests.integration.live import Client, bare_host
from tests.integration.service_manager.host import FakeHost


@asynccontextmanager
async def stopped_service(folder: Path, preset: str = "") -> AsyncIterator[tuple[LiveGateway, Client]]:
    """Start daemon and gateway for the consumer llm.

    Args:
        folder: a folder of its own.
        preset: text below the gateway's table of the consumer.

    Yields:
        The gateway, and a client of the daemon.
    """
    async with bare_host(folder) as host:
        port = free_port()
        flags = ["--name", "llm", "--mib", "14000", "--port", str(port), "--simulator-dir", str(host.simulator)]
        command = [sys.executable, "-m", "gpumand.testing.consumer", *flags, "--loaded-at-start"]
        control = await host.client()
        systemd = FakeHost(host.bus, control.bus, folder)
        await systemd.boot({"llm.service": {"argv": command}})
        keys = ["[consumers.llm]", 'unit = "llm.service"', "vram_resident_mib = 14000"]
        keys += [f'url = "http://127.0.0.1:{port}"', 'health = { path = "/health", loaded = "/model_loaded" }']
        host.configure("\n".join(keys))
        await host.start()
        try:
            async with live_gateway(host, {"llm": preset}) as gateway:
                yield gateway, control
        finally:
            await host.end()
            await systemd.halt()
