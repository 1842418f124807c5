"""The real daemon with consumers that work without a lease, and with foreign processes that hold VRAM."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
from collections.abc import AsyncIterator
from pathlib import Path

from gpumand.testing.consumer_process import ConsumerProcess
from tests.integration.live import Client, LiveHost, bare_host, error_of, table, wait_until

QUICK = ("--load-sec", "0.05", "--load-steps", "2", "--unload-sec", "0.02")
SCHEDULER = "concurrent_leases = 0\nhealth_interval_sec = 0.2\nsettle_timeout_sec = 2"
BUSY = '{ path = "/queue", pointers = ["/queue_running", "/queue_pending"] }'
ERROR = "org.gpumand1.Error."


@contextlib.asynccontextmanager
async def at_work(
    folder: Path, seconds: float, **more: str
) -> AsyncIterator[tuple[LiveHost, Client, asyncio.Task[object]]]:
    """A host on which ``image`` works without a lease and ``llm`` needs its memory."""
    async with bare_host(folder) as host:
        image, llm = await host.launch("image", 13000, *QUICK), await host.launch("llm", 14000, *QUICK)
        host.configure(table(image, 13000, busy=BUSY, **more) + table(llm, 14000), SCHEDULER)
        await host.start()
        client = await host.client(listen=True)
        await client.call("Load", "sa{sv}", "image", {})
        work = asyncio.create_task(image.post("/work", seconds=seconds))
        await wait_until("image works", lambda: _is_working(image))
        try:
            yield host, client, work
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
            await client.close()


async def _is_working(image: ConsumerProcess) -> bool:
    return bool((await image.get("/queue"))["queue_running"])


async def test_work_without_a_lease_is_not_interrupted(tmp_path: Path) -> None:
    async with at_work(tmp_path, 3.0) as (host, client, work):
        asking = client.start_acquire("llm")
        await wait_until("the reason for waiting is reported", lambda: _waits_for(client, "image is busy (1 job)"))
        assert not work.done()

        _, grant = await asking

        assert work.done()
        assert grant["evicted"] == ["image"]
        assert (await host.consumers["image"].health())["interrupted"] == 0


async def test_busy_consumer_is_evicted_by_force_or_after_its_grace_period(tmp_path: Path) -> None:
    async with at_work(tmp_path, 600.0, busy_after='"evict"', busy_grace_sec="2") as (host, client, _):
        refused = await error_of(client.call("Evict", "sa{sv}", "image", {}))
        assert (refused.name, "image is busy (1 job)" in refused.message) == (ERROR + "Busy", True)
        assert client.received("EvictionOccurred") == []

        _, grant = await client.acquire("llm")

        assert grant["evicted"] == ["image"]
        assert grant["waited_usec"] >= 2_000_000
        assert (await host.consumers["image"].health())["interrupted"] == 1


async def test_requests_are_refused_after_the_grace_period(tmp_path: Path) -> None:
    async with at_work(tmp_path, 600.0, busy_after='"refuse"', busy_grace_sec="1") as (host, client, _):
        refused = await error_of(client.acquire("llm"))

        assert refused.name == ERROR + "Busy"
        assert "after its busy_grace_sec of" in refused.message
        assert (await host.consumers["image"].health())["interrupted"] == 0


async def _waits_for(client: Client, words: str) -> bool:
    return any(words in one["waiting_for"] for one in (await client.status())["queue"])


async def test_foreign_process_is_reported_with_its_user(tmp_path: Path) -> None:
    async with bare_host(tmp_path) as host:
        stranger = await host.launch("game", 20000, "--loaded-at-start", "--anonymous", *QUICK)
        llm = await host.launch("llm", 14000, *QUICK)
        host.configure(table(llm, 14000), SCHEDULER)
        await host.start()
        client = await host.client()

        refused = await error_of(client.acquire("llm"))
        (device,) = (await client.status())["devices"]

        user, pid = getpass.getuser(), stranger.pid
        assert refused.name == ERROR + "InsufficientVram"
        assert f"19.5 GiB by game (user {user}, pid {pid})" in refused.message
        (foreign,) = device["foreign"]
        assert foreign == {"pid": pid, "name": "game", "unit": "", "uid": os.getuid(), "user": user, "used_mib": 20000}
        assert device["foreign_mib"] == 20000
        await client.close()


async def test_hanging_directory_service_does_not_delay_the_end_of_the_daemon(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    hangs = "import pwd, time\npwd.getpwuid = lambda uid: time.sleep(600)\n"
    (tmp_path / "site" / "sitecustomize.py").write_text(hangs, encoding="utf-8")
    async with bare_host(tmp_path) as host:
        host.environ["PYTHONPATH"] = str(tmp_path / "site")
        image = await host.launch("image", 13000, *QUICK)
        host.configure(table(image, 13000), SCHEDULER)
        await host.start()
        client = await host.client()
        await client.call("Load", "sa{sv}", "image", {})
        await wait_until("its processes are looked up", lambda: _holds(client, "image"))

        assert await host.end() == 0
        await client.close()


async def _holds(client: Client, name: str) -> bool:
    return bool((await client.consumer(name)).get("used_mib"))
