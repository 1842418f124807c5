"""A request waits for a lease: the real daemon informs the holder over the bus, in Python and by gpumanctl."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from gpumand.client import lease, lease_sync
from tests.integration.cli.world import world
from tests.integration.live import wait_until
from tests.waiting import until

LIMIT_SEC = 30.0
FAST = "concurrent_leases = 1\nhealth_interval_sec = 0.5"


async def test_holder_and_monitor_learn_which_request_waits(tmp_path: Path) -> None:
    async with world(tmp_path, scheduler=FAST) as (host, ctl), asyncio.timeout(2 * LIMIT_SEC):
        monitor = await ctl.start("monitor", "--json")
        assert monitor.stdout is not None
        listener = await host.client(listen=True)
        first = asyncio.create_task(monitor.stdout.readline())
        while not first.done():  # until the monitor has subscribed
            await listener.call("Pin", "s", "mvoice")
            await listener.call("Unpin", "s", "mvoice")
            await asyncio.wait([first], timeout=0.1)
        async with lease("llm", bus=host.bus.address) as held:
            asked: list[str] = []
            held.wanted.on_request(asked.append)
            assert not held.wanted.is_set()
            waiting = listener.start_acquire("comfyui")
            by = await held.wanted.wait()
            while (event := json.loads(await monitor.stdout.readline()))["signal"] != "LeaseWanted":
                continue
            await until(lambda: listener.received("LeaseWanted"), "the listener has the signal too")
            signals = listener.received("LeaseWanted")
        await waiting
        await listener.close()
        monitor.kill()
        await monitor.wait()

    assert (by, asked, held.wanted.by) == ("comfyui", ["comfyui"], ("comfyui",))
    [(lease_id, name, since_usec)] = signals
    assert (lease_id, name) == (held.id, "comfyui")
    assert (event["lease"], event["by"], event["since_usec"]) == (held.id, "comfyui", since_usec)


async def test_the_sync_client_waits_for_a_request(tmp_path: Path) -> None:
    async with world(tmp_path, scheduler=FAST) as (host, _):
        other = await host.client()

        def hold(loop: asyncio.AbstractEventLoop) -> tuple[bool, bool, tuple[str, ...]]:
            with lease_sync("llm", bus=host.bus.address) as held:
                early = held.wanted.wait(0.1)
                future = asyncio.run_coroutine_threadsafe(
                    other.acquire("comfyui", timeout_usec=("t", 60_000_000)), loop
                )
                is_wanted = held.wanted.wait(LIMIT_SEC)
            future.result(LIMIT_SEC)
            return early, is_wanted, held.wanted.by

        result = await asyncio.to_thread(hold, asyncio.get_running_loop())
        await other.close()

    assert result == (False, True, ("comfyui",))


async def test_run_reports_the_request_and_its_command_goes_on(tmp_path: Path) -> None:
    async with world(tmp_path, scheduler=FAST) as (host, ctl), asyncio.timeout(2 * LIMIT_SEC):
        process = await ctl.start("run", "llm", "--", "sh", "-c", "echo up; exec sleep 60")
        assert process.stdout is not None
        assert process.stderr is not None
        await process.stdout.readline()
        other = await host.client()
        waiting = other.start_acquire("comfyui")
        line = (await process.stderr.readline()).decode()
        is_running = process.returncode is None
        process.terminate()
        await process.wait()
        await waiting

        async def is_leased() -> bool:
            return [one["consumer"] for one in (await other.status())["leases"]] == ["comfyui"]

        await wait_until("comfyui is leased", is_leased)
        await other.close()

    assert line == "gpumanctl: a request for comfyui waits for the end of this lease\n"
    assert is_running
