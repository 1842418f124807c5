"""A reload that changes the VRAM source."""

from __future__ import annotations

from pathlib import Path

from tests.integration.live import Client, live_host, table, wait_until


async def degraded(client: Client) -> str:
    return str((await client.status())["degraded"])


async def test_reload_changes_the_source_and_keeps_leases(tmp_path: Path) -> None:
    async with live_host(tmp_path, {"voice": 2867}) as host:
        client = await host.client()
        lease, _ = await client.acquire("voice")
        consumers = table(host.consumers["voice"], 2867)

        host.configure(consumers, gpu='source = "none"\ntotal_mib = 24564\nsample_interval_sec = 0.2')
        await client.call("Reload")

        async def is_degraded() -> bool:
            return (await degraded(client)).startswith("no-source")

        await wait_until("the daemon reports that it cannot read VRAM", is_degraded)
        status = await client.status()
        assert [one["id"] for one in status["leases"]] == [lease]
        assert "free_mib" not in status["devices"][0]

        host.configure(consumers)
        await client.call("Reload")

        async def is_well() -> bool:
            return not await degraded(client)

        await wait_until("VRAM can be read again", is_well)
        assert (await client.consumer("voice"))["used_mib"] == 2867
        await client.release(lease)
        assert "Traceback" not in host.log
