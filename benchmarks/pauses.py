"""The longest garbage collection of a daemon that serves leases: no call is answered while one lasts."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

from dbus_fast import Variant

from benchmarks.environment import announcement_folder, consumer_table, running_daemon
from benchmarks.table import Row
from gpumand.testing.consumer_process import consumer_process

PAIRS = 4000
STATUS_EVERY = 20
OTHER_CONSUMERS = 300
"""Consumers that make the answers to GetStatus large: leases alone cause no collection."""

MAX_PAUSE_MSEC = 5.0


async def measure(folder: Path) -> list[Row]:
    """One row: collections after the start, and the longest of them."""
    file = folder / "pauses"
    async with contextlib.AsyncExitStack() as stack:
        where = announcement_folder(folder)
        start = consumer_process("llm", 1024, where, "--loaded-at-start")
        consumer = await stack.enter_async_context(start)
        prefix = (sys.executable, "-m", "benchmarks.launcher", str(file))
        running = await stack.enter_async_context(
            running_daemon(folder, consumer_table(consumer, 1024) + _other_consumers(), command_prefix=prefix)
        )
        ready_sec = time.monotonic()
        for number in range(PAIRS):
            await running.client.release(await running.client.acquire("llm", lifetime=Variant("s", "ttl")))
            if number % STATUS_EVERY == 0:
                await running.client.call("GetStatus")
        ended_sec = time.monotonic()
    collections = [[float(part) for part in line.split()] for line in file.read_text().splitlines()]
    first_msec = max(lasted * 1e3 for at, lasted, _ in collections if at < ready_sec)
    pauses = [lasted * 1e3 for at, lasted, _ in collections if ready_sec <= at <= ended_sec]
    longest_msec = max(pauses, default=0.0)
    return [
        Row(
            f"longest garbage collection in {PAIRS} leases",
            f"{longest_msec:.1f} ms of {len(pauses)} collections; at the start {first_msec:.0f} ms",
            goal=f"{MAX_PAUSE_MSEC:g} ms or less",
            met=longest_msec <= MAX_PAUSE_MSEC,
        )
    ]


def _other_consumers() -> str:
    tables = (f'[consumers.c{n}]\nvram_resident_mib = 1024\nunit = "c{n}.service"\n' for n in range(OTHER_CONSUMERS))
    return "".join(tables)
