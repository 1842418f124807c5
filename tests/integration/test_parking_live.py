"""The real daemon with a consumer that is parked with its weights in host RAM, using this host's memory values."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from tests.integration.live import Client, LiveHost, bare_host, error_of, table, wait_until

QUICK = ("--load-sec", "0.05", "--load-steps", "2", "--unload-sec", "0.02")
MORE_THAN_THERE_IS_MIB = 15 * 1024 * 1024


@contextlib.asynccontextmanager
async def host_with_sleeper(folder: Path, host_mib: int) -> AsyncIterator[LiveHost]:
    """A host on which ``sleeper`` is loaded and ``other`` needs its memory."""
    async with bare_host(folder) as host:
        await asyncio.gather(
            host.launch("sleeper", 14000, *QUICK, "--residual-mib", "600", "--loaded-at-start"),
            host.launch("other", 14000, *QUICK),
        )
        parks = {"parks": "true", "residual_mib": "600", "parked_host_mib": str(host_mib)}
        tables = [table(host.consumers["sleeper"], 14000, **parks), table(host.consumers["other"], 14000)]
        host.configure("".join(tables), "concurrent_leases = 1\nhealth_interval_sec = 0.3\nhost_ram_reserve_mib = 0")
        await host.start()
        yield host


async def residency(client: Client) -> str:
    return str((await client.consumer("sleeper"))["residency"])


async def is_residency(client: Client, wanted: str) -> bool:
    return await residency(client) == wanted


async def test_consumer_is_parked_reported_and_woken(tmp_path: Path) -> None:
    async with host_with_sleeper(tmp_path, host_mib=1) as host:
        client = await host.client(listen=True)
        (plan,) = await client.call("Plan", "sa{sv}", "other", {})
        assert [(one["consumer"], one["parks"]) for one in plan["evictions"]] == [("sleeper", True)]

        lease, grant = await client.acquire("other")

        assert (grant["evicted"], await residency(client)) == (["sleeper"], "parked")
        assert client.received("EvictionOccurred")[-1][:4] == ("sleeper", "0", 13400, "http")
        await host.end()
        await host.start()
        await wait_until("it is parked after a restart, too", is_residency, client, "parked")
        await client.release(lease)
        _, grant = await client.acquire("sleeper")
        assert (grant["evicted"], grant["loaded"]) == (["other"], True)
        assert await residency(client) == "resident"
        await client.close()


async def test_consumer_is_not_parked_without_room_in_host_ram(tmp_path: Path) -> None:
    async with host_with_sleeper(tmp_path, host_mib=MORE_THAN_THERE_IS_MIB) as host:
        client = await host.client()

        error = await error_of(client.acquire("other"))

        assert error.name == "org.gpumand1.Error.InsufficientVram"
        assert "; host RAM has no room to park sleeper." in error.message
        assert await residency(client) == "resident"
        assert await host.consumers["sleeper"].events("unload-called") == []
        await client.close()
