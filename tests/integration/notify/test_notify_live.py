"""gpumand-notify with a running daemon: the process, its hooks, a restart of the daemon, and no daemon at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from tests.integration.cli.world import world
from tests.integration.live import LiveHost

HOOK = """
[hooks.all]
events = ["eviction", "load", "load-failed", "long-wait"]
command = ["/bin/sh", "-c", 'cat >> "$0"; echo >> "$0"', "{path}"]
wait_sec = 1
min_interval_sec = 0
max_per_hour = 1000
"""
DEADLINE_SEC = 40


class Notices:
    """The notices that the hook has written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def all(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        deliveries = [json.loads(line) for line in self.path.read_text().splitlines() if line]
        return [event for one in deliveries for event in one["events"]]

    async def until(self, found: Callable[[dict[str, Any]], bool]) -> None:
        async with asyncio.timeout(DEADLINE_SEC):
            while not any(map(found, self.all())):  # noqa: ASYNC110
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def notifying(host: LiveHost, folder: Path) -> AsyncIterator[Notices]:
    """Run gpumand-notify."""
    notices = Notices(folder / "notices")
    config = folder / "notify.toml"
    config.write_text(HOOK.format(path=notices.path))
    code = "import sys; from gpumand.notify.service import main; sys.exit(main())"
    arguments = ["-c", code, "--config", str(config), "--bus", host.bus.address]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, env=dict(os.environ))
    try:
        yield notices
        assert process.returncode is None, "the process has ended by itself"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        async with asyncio.timeout(DEADLINE_SEC):
            assert await process.wait() == 0


async def test_loads_evictions_and_long_waits_reach_the_hook_once(tmp_path: Path) -> None:
    async with world(tmp_path) as (host, ctl), notifying(host, tmp_path) as notices:
        # The process reports what happens after its start, and loads take long enough to be noticed by a waiting test.
        while not notices.all():
            assert (await ctl("load", "comfyui")).code == 0
            assert (await ctl("evict", "comfyui")).code == 0
            await asyncio.sleep(0.2)
        lease = (await ctl("acquire", "comfyui", "--ttl=2min")).out.strip()
        waiting = asyncio.create_task(ctl("acquire", "llm", "--timeout=60s"))
        await notices.until(lambda one: (one["event"], one["consumer"]) == ("long-wait", "llm"))
        await ctl("release", lease)
        assert (await waiting).code == 0
        await notices.until(lambda one: one["text"].startswith("comfyui was evicted for llm: "))
        await notices.until(lambda one: one["text"].startswith("llm was loaded in "))
        assert [one["event"] for one in notices.all()].count("long-wait") == 1
        llm = [one for one in notices.all() if one["consumer"] == "llm" and one["event"] == "load"]
        assert len(llm) == 1


async def test_the_process_waits_for_a_daemon_and_does_not_start_it(tmp_path: Path) -> None:
    async with world(tmp_path) as (host, ctl):
        await host.end()
        async with notifying(host, tmp_path) as notices:
            await host.start()
            while not notices.all():
                assert (await ctl("load", "mvoice")).code == 0
                assert (await ctl("evict", "mvoice")).code == 0
                await asyncio.sleep(0.2)
