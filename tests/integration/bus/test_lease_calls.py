"""The daemon's work for a lease of a resident consumer does not grow: calls of functions, of Python and of C.

``python -m benchmarks.speed instructions`` counts instructions; the goals are 1,900 and 1,000 thousand with one caller
and with 32. That takes valgrind and a minute, and its counts differ by a tenth and more while other programs keep the
host busy. Calls of functions differ by a hundredth. One call stands for 1,100 to 1,200 instructions on average.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from benchmarks.environment import RunningDaemon, announcement_folder, consumer_table, running_daemon, workspace
from gpumand.testing.consumer_process import consumer_process

MAX_CALLS = {1: 1450, 32: 900}
"""Calls for an Acquire with its Release, by the number of callers at a time: a tenth more than they were at last."""

PAIRS, ROUNDS = 128, 5
CONSUMER = "tts"
QUIET = "concurrent_leases = 0\nhealth_interval_sec = 600"
LAUNCHER = Path(__file__).with_name("counted_daemon.py")


async def lease_all(running: RunningDaemon, callers: int) -> None:
    async def caller() -> None:
        for _ in range(PAIRS // callers):
            await running.client.release(await running.client.acquire(CONSUMER))

    await asyncio.gather(*(caller() for _ in range(callers)))


async def calls_so_far(running: RunningDaemon, file: Path) -> int:
    file.unlink(missing_ok=True)  # noqa: ASYNC240  # in memory
    os.kill(running.pid, signal.SIGUSR2)
    async with asyncio.timeout(30):
        while not file.exists():  # noqa: ASYNC110, ASYNC240  # the daemon sends no signal for it
            await asyncio.sleep(0.01)
    return int(file.read_text())  # noqa: ASYNC240


async def fewest_calls(running: RunningDaemon, file: Path, callers: int) -> float:
    """Calls for a lease in the round with the fewest: a reading or a collection of garbage may fall into a round."""
    counts: list[float] = []
    while len(counts) < ROUNDS and min(counts, default=sys.maxsize) > MAX_CALLS[callers]:
        before = await calls_so_far(running, file)
        await lease_all(running, callers)
        counts.append((await calls_so_far(running, file) - before) / PAIRS)
    return min(counts)


@pytest.mark.timeout(300)
async def test_a_lease_takes_no_more_calls_than_before() -> None:
    with workspace() as folder:
        file = folder / "calls"
        prefix = (sys.executable, str(LAUNCHER), str(file))
        async with consumer_process(CONSUMER, 1024, announcement_folder(folder), "--loaded-at-start") as consumer:
            daemon = running_daemon(folder, consumer_table(consumer, 1024), QUIET, command_prefix=prefix)
            async with daemon as running:
                for callers in MAX_CALLS:
                    await lease_all(running, callers)  # the first ones import modules and fill caches
                calls = {callers: await fewest_calls(running, file, callers) for callers in MAX_CALLS}
    assert all(0 < count <= MAX_CALLS[callers] for callers, count in calls.items()), calls
