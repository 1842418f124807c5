"""Acquire and Release of a resident consumer while 500 requests wait for another consumer, and their memory."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

from dbus_fast import Variant
from dbus_fast.aio import MessageBus

from benchmarks.cpu_time import cpu_msec
from benchmarks.environment import (
    CallFailed,
    Client,
    RunningDaemon,
    announcement_folder,
    consumer_table,
    running_daemon,
    unwrap,
)
from benchmarks.idle import resident_mib
from benchmarks.table import Row, percentile
from gpumand.testing.consumer_process import consumer_process

WAITING = 500
CONNECTIONS = 20
CALLS = 400
SETTLE_SEC, POLL_SEC = 60.0, 0.2
WAIT_USEC = 600_000_000
GOAL_RATIO, GOAL_FILL_MSEC = 2.0, 300.0
HELD_MIB, WANTED_MIB = 14000, 9400
SCHEDULERS = ("lru", "adaptive")


async def measure(folder: Path) -> list[Row]:
    """Rows for each policy."""
    return [row for policy in SCHEDULERS for row in await _measure(folder, policy)]


async def _measure(folder: Path, policy: str) -> list[Row]:
    async with contextlib.AsyncExitStack() as stack:
        where = announcement_folder(folder)
        tts = await stack.enter_async_context(consumer_process("tts", 1024, where, "--loaded-at-start"))
        held = await stack.enter_async_context(consumer_process("held", HELD_MIB, where))
        wanted = await stack.enter_async_context(consumer_process("wanted", WANTED_MIB, where))
        # tts is pinned, and all three fit but for the cushion: the waiting requests do not need its VRAM, so that
        # requests for it may be served before them.
        tables = (
            consumer_table(tts, 1024)
            + "pinned = true\n"
            + consumer_table(held, HELD_MIB)
            + consumer_table(wanted, WANTED_MIB)
        )
        lines = f'concurrent_leases = 0\npolicy = "{policy}"'
        running = await stack.enter_async_context(running_daemon(folder, tables, lines))
        await running.client.acquire("held", timeout_usec=Variant("t", WAIT_USEC))
        await _acquire_seconds(running.client)
        idle_sec, idle_msec, idle_mib = await _measure_leases(running)
        before_msec = cpu_msec(running.pid)
        async with _waiting_requests(running):
            fill_msec = cpu_msec(running.pid) - before_msec
            await _acquire_seconds(running.client)
            crowded_sec, crowded_msec, crowded_mib = await _measure_leases(running)
    rows = _rows(policy, idle_sec, crowded_sec, crowded_mib - idle_mib)
    return [*rows, *_cpu_rows(policy, idle_msec, crowded_msec, fill_msec)]


async def _measure_leases(running: RunningDaemon) -> tuple[list[float], float, float]:
    """Seconds of each Acquire, milliseconds of the daemon's CPU for each with its Release, and the daemon's MiB."""
    before = cpu_msec(running.pid)
    took = await _acquire_seconds(running.client)
    return took, (cpu_msec(running.pid) - before) / len(took), resident_mib(running.pid)


def _cpu_rows(policy: str, idle_msec: float, crowded_msec: float, fill_msec: float) -> list[Row]:
    ratio = crowded_msec / idle_msec
    return [
        Row(
            f"Acquire + Release, resident, {WAITING} waiting ({policy}), CPU",
            f"{crowded_msec:.2f} ms",
            f"empty queue: {idle_msec:.2f} ms",
            ratio,
            f"≤ {GOAL_RATIO:g}",
            ratio <= GOAL_RATIO,
        ),
        Row(
            f"{WAITING} requests that begin to wait ({policy}), CPU",
            f"{fill_msec:.0f} ms",
            goal=f"≤ {GOAL_FILL_MSEC:g} ms",
            met=fill_msec <= GOAL_FILL_MSEC,
        ),
    ]


@contextlib.asynccontextmanager
async def _waiting_requests(running: RunningDaemon) -> AsyncIterator[None]:
    """Keep ``WAITING`` requests in the queue."""
    buses = [await MessageBus(bus_address=running.address).connect() for _ in range(CONNECTIONS)]
    waiting = [
        asyncio.create_task(_acquire_and_wait(Client(bus))) for bus in buses for _ in range(WAITING // CONNECTIONS)
    ]
    try:
        async with asyncio.timeout(SETTLE_SEC):
            await _wait_until_queued(running.client)
        yield
    finally:
        for task in waiting:
            task.cancel()
        for bus in buses:
            bus.disconnect()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _acquire_and_wait(client: Client) -> None:
    with contextlib.suppress(CallFailed):
        await client.acquire("wanted", timeout_usec=Variant("t", WAIT_USEC))


async def _wait_until_queued(client: Client) -> None:
    """Return once all requests are in the queue."""
    for _ in range(int(SETTLE_SEC / POLL_SEC)):
        if await _queue_length(client) >= WAITING:
            return
        await asyncio.sleep(POLL_SEC)


async def _queue_length(client: Client) -> int:
    (status,) = await client.call("GetStatus")
    return len(unwrap(status)["queue"])


async def _acquire_seconds(client: Client) -> list[float]:
    """Seconds of each Acquire of the resident consumer; each lease is released again."""
    took: list[float] = []
    for _ in range(CALLS):
        started = time.perf_counter()
        lease = await client.acquire("tts")
        took.append(time.perf_counter() - started)
        await client.release(lease)
    return took


def _rows(policy: str, idle_sec: list[float], crowded_sec: list[float], grown_mib: float) -> list[Row]:
    def row(percent: int) -> Row:
        ours, yardstick = percentile(crowded_sec, percent) * 1e3, percentile(idle_sec, percent) * 1e3
        what = f"Acquire, resident, {WAITING} waiting ({policy}) p{percent}"
        return Row(what, f"{ours:.1f} ms", f"empty queue: {yardstick:.2f} ms", ours / yardstick)

    # Acquire and Release each cause a pass over the queue, so that the pair takes about twice as long.
    per_sec = len(crowded_sec) / (2 * sum(crowded_sec))
    grants = Row(f"Grants by one caller, {WAITING} waiting ({policy})", f"{per_sec:.0f} / s")
    return [row(50), row(99), grants, Row(f"Memory for {WAITING} waiting ({policy})", f"{grown_mib:.1f} MiB")]
