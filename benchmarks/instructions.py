"""Instructions that the daemon executes for one Acquire with its Release, counted by callgrind of valgrind.

Counts depend less on other programs than times do. On a busy host, the lowest of ten counts was still a fifth below the
highest with one caller, and a quarter with 32. The daemon also takes readings, checks the health of consumers and
writes its history, by the clock: what it executes in as much time without any call is subtracted, since valgrind makes
that time fifty times as long. Without valgrind there are no rows.

The start of the daemon is not counted, and runs ten times as fast under valgrind for that reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

from benchmarks.environment import RunningDaemon, announcement_folder, consumer_table, running_daemon
from benchmarks.table import Row, known_miss
from gpumand.testing.consumer_process import consumer_process

CALLS = 128
QUIET = "concurrent_leases = 0\nhealth_interval_sec = 600"
"""Settings of a daemon that checks the health of no consumer meanwhile."""

CALLERS = (1, 32)
GOAL_THOUSANDS = {1: 1900, 32: 1000}
KNOWN_THOUSANDS = {32: 1050}
"""What was counted on a busy host: more readings fall into the time that valgrind stretches."""

CONSUMER = "tts"

Operation = Callable[[], Awaitable[object]]


async def measure(folder: Path) -> list[Row]:
    """Rows for one caller and for 32, or none if valgrind is not installed."""
    if shutil.which("valgrind") is None:
        return []
    async with counted_daemon(folder) as running:
        return [await _row(running, folder, callers) for callers in CALLERS]


@contextlib.asynccontextmanager
async def counted_daemon(folder: Path, scheduler: str = "concurrent_leases = 0") -> AsyncIterator[RunningDaemon]:
    """A daemon under callgrind with a resident consumer, whose instructions are counted from now on.

    Args:
        folder: its files, and the counts.
        scheduler: the lines of the ``[scheduler]`` table.
    """
    async with contextlib.AsyncExitStack() as stack:
        flags = (announcement_folder(folder), "--loaded-at-start")
        consumer = await stack.enter_async_context(consumer_process(CONSUMER, 1024, *flags))
        output = f"--callgrind-out-file={folder}/callgrind.out"
        prefix = ("valgrind", "--tool=callgrind", "-q", "--instr-atstart=no", output)
        daemon = running_daemon(folder, consumer_table(consumer, 1024), scheduler, command_prefix=prefix)
        running = await stack.enter_async_context(daemon)
        await _control(folder, running.pid, "--instr=on")
        yield running


async def lease_thousands(running: RunningDaemon, folder: Path, callers: int, calls: int) -> float:
    """Thousands of instructions for an Acquire with its Release, counted over this many of them.

    Args:
        running, folder: the daemon, see ``counted_daemon``.
        callers: how many of them run at a time.
        calls: how many are counted; a multiple of ``callers``.
    """
    return await _thousands(running.pid, folder, partial(_lease, running), callers, calls)


async def _lease(running: RunningDaemon) -> None:
    await running.client.release(await running.client.acquire(CONSUMER))


async def _two_pings(running: RunningDaemon) -> None:
    await running.client.ping()
    await running.client.ping()


async def _row(running: RunningDaemon, folder: Path, callers: int) -> Row:
    ours = await lease_thousands(running, folder, callers, CALLS)
    reference = await _thousands(running.pid, folder, partial(_two_pings, running), callers, CALLS)
    goal = GOAL_THOUSANDS[callers]
    what = f"Instructions of Acquire + Release, resident, {callers} caller{'s' * (callers > 1)}"
    return Row(
        what,
        f"{ours:.0f} k",
        f"two Peer.Pings: {reference:.0f} k",
        ours / reference,
        f"≤ {goal} k",
        ours <= goal,
        known_miss(ours, KNOWN_THOUSANDS.get(callers), " k"),
    )


async def _thousands(pid: int, folder: Path, operation: Operation, callers: int, calls: int) -> float:
    """Thousands of instructions per operation, after as many operations that are not counted."""
    await _repeat(operation, callers, calls)
    started = time.monotonic()
    busy = await _counted(pid, folder, _repeat(operation, callers, calls))
    idle = await _counted(pid, folder, asyncio.sleep(time.monotonic() - started))
    return (busy - idle) / calls / 1000


async def _counted(pid: int, folder: Path, work: Awaitable[object]) -> int:
    """Instructions of the daemon while some work is done."""
    await _control(folder, pid, "--zero")
    await work
    before = _dumps(folder)
    await _control(folder, pid, "--dump")
    (dump,) = _dumps(folder) - before
    return _total(dump)


def _dumps(folder: Path) -> set[Path]:
    return set(folder.glob("callgrind.out.*"))


async def _repeat(operation: Operation, callers: int, calls: int) -> None:
    async def caller() -> None:
        for _ in range(calls // callers):
            await operation()

    await asyncio.gather(*(caller() for _ in range(callers)))


async def _control(folder: Path, pid: int, command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "callgrind_control", command, str(pid), cwd=folder, stdout=DEVNULL, stderr=DEVNULL
    )
    if await process.wait():
        raise RuntimeError(f"callgrind_control {command} failed")


def _total(dump: Path) -> int:
    """The instructions in a dump, which ends with a line ``totals: NUMBER``."""
    lines = [line for line in dump.read_text().splitlines() if line.startswith("totals:")]
    return int(lines[-1].split()[1])
