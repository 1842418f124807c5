"""A leased server loses its model: the real daemon informs the holder everywhere, and loads it again on request."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import aiohttp

from gpumand.client import lease, lease_sync
from tests.integration.cli.world import world
from tests.integration.live import LiveHost, wait_until

LIMIT_SEC = 30.0
FAST = "concurrent_leases = 0\nhealth_interval_sec = 0.5"
LOST = "llm has lost its model or its process"


async def lose_model(host: LiveHost) -> None:
    """Unload the model behind gpumand's back."""
    async with aiohttp.ClientSession() as session:
        await session.post(f"{host.consumers['llm'].url}/api/admin/unload")


async def test_the_async_client_is_informed_and_the_model_is_loaded_again(tmp_path: Path) -> None:
    async with world(tmp_path, scheduler=FAST) as (host, ctl), asyncio.timeout(2 * LIMIT_SEC):
        monitor = await ctl.start("monitor", "--json")
        assert monitor.stdout is not None
        listener = await host.client(listen=True)
        async with lease("llm", restore=True, bus=host.bus.address) as held:
            changes: list[str] = []
            held.degraded.on_change(changes.append)
            assert not held.degraded.is_set()
            await lose_model(host)
            reason = await held.degraded.wait()
            await held.degraded.wait_restored()

            consumer = await listener.consumer("llm")
            (entry,) = (await listener.status())["leases"]
            while json.loads(await monitor.stdout.readline())["signal"] != "LeaseDegraded":
                continue
        await listener.close()
        monitor.kill()
        await monitor.wait()

    assert reason == LOST
    assert changes == [LOST, ""]
    assert consumer["residency"] == "resident"
    assert (entry["restore"], "degraded" in entry) == (True, False)
    assert listener.received("LeaseDegraded") == [(held.id, "llm", LOST)]
    assert listener.received("LeaseRestored") == [(held.id, "llm")]


async def test_the_sync_client_is_informed(tmp_path: Path) -> None:
    async with world(tmp_path, scheduler=FAST) as (host, _):

        def hold(loop: asyncio.AbstractEventLoop) -> tuple[str, bool, str]:
            with lease_sync("llm", restore=True, bus=host.bus.address) as held:
                early = held.degraded.wait(0.1)
                asyncio.run_coroutine_threadsafe(lose_model(host), loop).result(LIMIT_SEC)
                return early + held.degraded.wait(LIMIT_SEC), held.degraded.wait_restored(LIMIT_SEC), held.id

        reason, is_back, _ = await asyncio.to_thread(hold, asyncio.get_running_loop())

    assert (reason, is_back) == (LOST, True)


async def test_run_warns_and_the_command_goes_on(tmp_path: Path) -> None:
    async with world(tmp_path, scheduler=FAST) as (host, ctl), asyncio.timeout(2 * LIMIT_SEC):
        process = await ctl.start("run", "--restore", "llm", "--", "sh", "-c", "echo up; exec sleep 60")
        assert process.stdout is not None
        assert process.stderr is not None
        await process.stdout.readline()
        await lose_model(host)
        lines = [(await process.stderr.readline()).decode(), (await process.stderr.readline()).decode()]
        is_running = process.returncode is None
        process.terminate()
        await process.wait()

    assert lines == [f"gpumanctl: warning: {LOST}; the lease stays\n", "gpumanctl: llm is resident again\n"]
    assert is_running


async def test_the_request_to_restore_survives_a_killed_daemon(tmp_path: Path) -> None:
    async with world(tmp_path, scheduler=FAST) as (host, ctl):
        assert (await ctl("acquire", "llm", "--restore")).code == 0
        await host.end(signal.SIGKILL)
        await lose_model(host)
        await host.start()
        client = await host.client()

        async def is_back() -> bool:
            return bool((await client.consumer("llm"))["residency"] == "resident")

        await wait_until("llm is loaded again", is_back)
        (entry,) = (await client.status())["leases"]
        await client.close()

    assert entry["restore"]
