"""The real daemon with a consumer on two simulated devices, including a restart."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from tests.integration.live import LiveHost, bare_host, error_of, table

TOTAL_MIB = 16384
QUICK = ("--load-sec", "0.05", "--load-steps", "2", "--unload-sec", "0.02")


@contextlib.asynccontextmanager
async def two_devices(folder: Path) -> AsyncIterator[LiveHost]:
    """``left`` and ``right`` hold one device each, ``wide`` needs both."""
    async with bare_host(folder) as host:
        await asyncio.gather(
            host.launch("left", 8000, *QUICK, "--device", "0", "--loaded-at-start"),
            host.launch("right", 9000, *QUICK, "--device", "1", "--loaded-at-start"),
            host.launch("wide", 12000, *QUICK, "--device", "0", "--also-device", "1"),
        )
        tables = [
            table(host.consumers["left"], 8000, device="0"),
            table(host.consumers["right"], 9000, device="1"),
            table(host.consumers["wide"], 12000, device="[0, 1]"),
        ]
        sizes = [TOTAL_MIB, TOTAL_MIB]
        gpu = f'source = "simulated"\nsimulated_total_mib = {sizes}\nsimulated_dir = "{host.simulator}"'
        host.configure("".join(tables), "concurrent_leases = 1\nhealth_interval_sec = 0.3", gpu)
        await host.start()
        yield host


async def test_both_devices_are_freed_and_leased_together(tmp_path: Path) -> None:
    async with two_devices(tmp_path) as host:
        client = await host.client(listen=True)

        lease, grant = await client.acquire("wide")

        assert (grant["device"], sorted(grant["evicted"])) == ("0,1", ["left", "right"])
        status = await client.status()
        assert [one["used_mib"] for one in status["devices"]] == [12000, 12000]
        assert (await client.consumer("wide"))["device"] == "0,1"
        evicted = {consumer: device for consumer, device, *_ in client.received("EvictionOccurred")}
        assert evicted == {"left": "0", "right": "1"}
        assert (await error_of(client.acquire("right", timeout_usec=("t", 0)))).name.endswith(".Busy")

        waiting = client.start_acquire("right")
        await client.release(lease)
        _, grant = await waiting
        assert (grant["device"], grant["evicted"]) == ("1", ["wide"])
        assert client.received("EvictionOccurred")[-1][:3] == ("wide", "0,1", 24000)
        await client.close()


async def test_lease_on_two_devices_survives_a_restart(tmp_path: Path) -> None:
    async with two_devices(tmp_path) as host:
        client = await host.client()
        lease, _ = await client.acquire("wide")
        await host.end(signal.SIGKILL)
        await host.start()

        [kept] = (await client.status())["leases"]

        assert (kept["id"], kept["device"]) == (lease, "0,1")
        assert (await error_of(client.acquire("left", timeout_usec=("t", 0)))).name.endswith(".Busy")
        await client.close()


async def test_request_for_too_many_devices_is_refused(tmp_path: Path) -> None:
    async with two_devices(tmp_path) as host:
        client = await host.client()

        error = await error_of(client.acquire("left", device=("s", "0,1")))

        assert (error.name, error.message) == (
            "org.freedesktop.DBus.Error.InvalidArgs",
            "left runs on 1 device, not on 2",
        )
        await client.close()
