"""A hundred clients, some killed at random, use ten consumers on one device of 24 GiB for a minute."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gpumand.state.spare_files import MAX_OPEN
from tests.integration.live import TOTAL_MIB, Client, LiveHost, live_host, wait_until

SIZES = {f"c{number}": mib for number, mib in enumerate([13312, 2867, 9000, 4000, 6144, 3000, 5000, 8000, 2000, 11000])}
FLAGS = ("--load-sec", "0.04", "--load-steps", "2", "--unload-sec", "0.02")
CLIENTS = 100


@pytest.fixture
async def host(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[LiveHost]:
    slots, policy = request.param
    scheduler = f"concurrent_leases = {slots}\nlease_ttl_sec = 5\n{policy}"
    async with live_host(tmp_path, SIZES, *FLAGS, scheduler=scheduler) as made:
        yield made


async def watch(client: Client, slots: int, wrongs: list[str]) -> None:
    """Read the status repeatedly and check that leased and loading consumers never exceed the device."""
    while True:
        status = await client.status()
        busy = [one for one in status["consumers"] if one["leases"] or one["residency"] == "loading"]
        promised_mib = sum(one["vram_resident_mib"] for one in busy)
        if promised_mib > TOTAL_MIB:
            wrongs.append(f"{promised_mib} MiB promised: {[one['name'] for one in busy]}")
        if slots and len(status["leases"]) > slots:
            wrongs.append(f"{len(status['leases'])} leases in {slots} slots")
        await asyncio.sleep(0.05)


async def storm(host: LiveHost, seconds: float, seed: int) -> dict[str, Any]:
    words = ["--address", host.bus.address, "--folder", str(host.folder), "--seconds", str(seconds)]
    words += ["--clients", str(CLIENTS), "--seed", str(seed), "--consumers", ",".join(SIZES)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.storm_clients", *words, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return dict(json.loads(output.splitlines()[-1]))


def open_files(host: LiveHost) -> int:
    assert host.daemon is not None
    return len(os.listdir(f"/proc/{host.daemon.pid}/fd"))


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "host",
    [(1, ""), (0, ""), (1, 'policy = "adaptive"\noverlap = "on"')],
    indirect=True,
    ids=["one-lease-at-a-time", "as-many-as-fit", "adaptive-with-loads-during-leases"],
)
async def test_all_clients_are_served_without_double_reservation_or_leaks(
    host: LiveHost, request: pytest.FixtureRequest
) -> None:
    slots, _ = request.node.callspec.params["host"]
    seed = random.randrange(2**32)
    print("seed", seed)
    observer = await host.client(listen=True)
    await observer.acquire("c0")  # warm: connections to consumers are open, caches are filled
    await observer.release((await observer.status())["leases"][0]["id"])
    files_before = open_files(host)
    wrongs: list[str] = []
    watching = asyncio.create_task(watch(await host.client(), slots, wrongs))

    counts = await storm(host, 30.0, seed)
    watching.cancel()
    print(counts)

    assert wrongs == []
    for consumer in host.consumers.values():
        assert (await consumer.health())["oom"] == 0, f"{consumer.name} ran out of memory"
    ended = sum(count for what, count in counts.items() if what.startswith(("granted", "refused")))
    assert counts["killed"] > 30
    assert counts["failed"] == 0
    assert not [what for what in counts if what.startswith(("refused", "lost"))], "all consumers were served"
    assert 0 <= counts["asked"] - ended <= counts["killed"], "every client that was not killed got an answer"
    assert counts["granted"] >= 150

    await wait_until("no lease remains", lambda: is_quiet(observer), within_sec=20)
    status = await observer.status()
    evictions = [signal for signal in observer.signals if signal.member == "EvictionOccurred"]
    assert len(evictions) == status["stats"]["evictions"] > 0
    assert all(signal.body[2] > 0 for signal in evictions), "every lease was counted"
    granted = {signal.body[0] for signal in observer.signals if signal.member == "LeaseGranted"}
    ended_leases = [signal.body[0] for signal in observer.signals if signal.member == "LeaseEnded"]
    assert granted == set(ended_leases)
    assert len(ended_leases) == len(set(ended_leases)), "every lease ended once"
    assert list((host.folder / "state" / "leases").iterdir()) == []
    assert open_files(host) <= files_before + 12 + MAX_OPEN
    assert "Traceback" not in host.log, host.log[-4000:]


async def is_quiet(client: Client) -> bool:
    status = await client.status()
    return not status["leases"] and not status["queue"]
