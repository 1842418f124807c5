"""The real daemon with a server that has no busy check and works for a client that connects to it directly."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.integration.consumers.servers import web_server
from tests.integration.consumers.test_deferred_unloads_live import KEYS, SETTINGS, Deferring, announcement
from tests.integration.live import bare_host, table, wait_until


async def test_server_is_not_unloaded_while_a_client_is_connected_and_it_computes(tmp_path: Path) -> None:
    async with bare_host(tmp_path) as host:
        server = Deferring(announcement(host, sys.executable, "-c", "while True: pass"))
        async with web_server(server.handle) as url:
            llm = f'[consumers.llm]\nurl = "{url}"\nvram_resident_mib = 14000\n{KEYS}'
            image = await host.launch("image", 14000)
            host.configure(llm + table(image, 14000), SETTINGS)
            await host.start()
            client = await host.client()
            lease, _ = await client.acquire("llm")
            await client.release(lease)
            _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            acquiring = client.start_acquire("image")

            async def is_waited_for() -> bool:
                queue = (await client.status())["queue"]
                return any("llm is busy (1 client connection)" in one["waiting_for"] for one in queue)

            await wait_until("the request waits for the work", is_waited_for)
            was_asked = server.wants_unload
            assert not was_asked
            writer.close()

            _, grant = await acquiring
            assert grant["evicted"] == ["llm"]
            assert server.wants_unload
            await client.close()
