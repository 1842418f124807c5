"""PrivateGpumand, the private daemon for tests of client programs."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from gpumand.client import BusUnavailable, Client, NotRunning, SyncClient
from gpumand.testing.daemon import PrivateGpumand
from gpumand.testing.vram_announcement import Announcement

RULES = """[scheduler]
concurrent_leases = 1
[consumers.extra]
vram_resident_mib = 512
url = "http://127.0.0.1:9"
unload = { path = "/unload" }
"""


async def test_async_form_serves_and_removes_everything() -> None:
    async with PrivateGpumand({"a.b": 1024}, total_mib=2048, config=RULES) as gpumand:
        async with Client(gpumand.address) as client:
            status = await client.status()
            assert [one.name for one in status.consumers] == ["a.b", "extra"]
            assert status.devices[0].total_mib == 2048
            async with client.lease("a.b") as held:
                assert held.endpoint == gpumand.urls["a.b"]
        folder, bus = gpumand.folder, gpumand.address
    assert not folder.exists()
    with pytest.raises(BusUnavailable):
        await Client(bus).connect()


def test_tools_use_its_bus_as_the_system_bus() -> None:
    with PrivateGpumand({}) as gpumand:
        call = ["busctl", "call", "org.gpumand1", "/org/gpumand1", "org.gpumand1.Manager", "GetStatus"]
        done = subprocess.run(call, capture_output=True, text=True, env=os.environ | gpumand.environ, check=False)
        assert '"version" s ' in done.stdout, done.stderr


def test_announced_memory_of_other_processes_is_shown() -> None:
    with PrivateGpumand({}, total_mib=8192) as gpumand, Announcement(gpumand.simulated_dir, name="game") as game:
        game.set(3000)
        with SyncClient(gpumand.address) as client:
            assert _holder_of(client, 3000) == "game"


def _holder_of(client: SyncClient, mib: int) -> str:
    """Return the consumer whose process holds this many MiB."""
    deadline = time.monotonic() + 20
    while not (seen := [one for one in client.status().devices[0].foreign if one.used_mib == mib]):
        assert time.monotonic() < deadline, "no process holds it"
        time.sleep(0.05)
    return seen[0].name


def test_daemon_can_be_stopped_and_started_again() -> None:
    with PrivateGpumand({}) as gpumand, SyncClient(gpumand.address) as client:
        assert gpumand.stop_daemon() == 0
        with pytest.raises(NotRunning):
            client.status()
        with pytest.raises(RuntimeError, match="not running"):
            gpumand.stop_daemon()
        gpumand.start_daemon()
        assert client.status().version


def test_invalid_configuration_is_reported_with_the_log_of_the_daemon() -> None:
    gpumand = PrivateGpumand({}, config="[consumers.x]\ncolour = 1\n")
    with pytest.raises(RuntimeError, match=r"consumers\.x\.colour"):
        gpumand.start()
    assert not gpumand.folder.exists()
    gpumand.close()
