"""Acquire and Release of a resident consumer while 500 others wait for one that cannot be had, and what that costs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

from dbus_fast import Variant
from dbus_fast.aio import MessageBus

from benchmarks.idle import resident_mib
from benchmarks.table import Row, percentile
from benchmarks.world import Client, Failed, World, plain, simulator, table_of, world
from gpumand.testing.consumer_process import consumer_process

WAITING = 500
CONNECTIONS = 20
CALLS = 400
SETTLE_SEC, POLL_SEC = 60.0, 0.2
WAIT_USEC = 600_000_000
HELD_MIB, WANTED_MIB = 14000, 9400
SCHEDULERS = ("lru", "adaptive")


async def measure(folder: Path) -> list[Row]:
    """Rows for each policy."""
    return [row for policy in SCHEDULERS for row in await _measure(folder, policy)]


async def _measure(folder: Path, policy: str) -> list[Row]:
    async with contextlib.AsyncExitStack() as stack:
        where = simulator(folder)
        tts = await stack.enter_async_context(consumer_process("tts", 1024, where, "--loaded-at-start"))
        held = await stack.enter_async_context(consumer_process("held", HELD_MIB, where))
        wanted = await stack.enter_async_context(consumer_process("wanted", WANTED_MIB, where))
        # Pinned, and with room for all three but for the cushion: it is not what the others wait for, and may pass.
        tables = table_of(tts, 1024) + "pinned = true\n" + table_of(held, HELD_MIB) + table_of(wanted, WANTED_MIB)
        lines = f'concurrent_leases = 0\npolicy = "{policy}"'
        running = await stack.enter_async_context(world(folder, tables, lines))
        await running.client.acquire("held", timeout_usec=Variant("t", WAIT_USEC))
        alone, alone_mib = await _took(running.client), resident_mib(running.pid)
        async with _crowd(running):
            beside, beside_mib = await _took(running.client), resident_mib(running.pid)
    return _rows(policy, alone, beside, beside_mib - alone_mib)


@contextlib.asynccontextmanager
async def _crowd(running: World) -> AsyncIterator[None]:
    """Have so many requests wait."""
    buses = [await MessageBus(bus_address=running.address).connect() for _ in range(CONNECTIONS)]
    waiting = [asyncio.create_task(_wait(Client(bus))) for bus in buses for _ in range(WAITING // CONNECTIONS)]
    try:
        async with asyncio.timeout(SETTLE_SEC):
            await _filled(running.client)
        yield
    finally:
        for task in waiting:
            task.cancel()
        for bus in buses:
            bus.disconnect()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _wait(client: Client) -> None:
    with contextlib.suppress(Failed):
        await client.acquire("wanted", timeout_usec=Variant("t", WAIT_USEC))


async def _filled(client: Client) -> None:
    """Return when all of them wait."""
    for _ in range(int(SETTLE_SEC / POLL_SEC)):
        if await _queue_length(client) >= WAITING:
            return
        await asyncio.sleep(POLL_SEC)


async def _queue_length(client: Client) -> int:
    (status,) = await client.call("GetStatus")
    return len(plain(status)["queue"])


async def _took(client: Client) -> list[float]:
    """Seconds that each Acquire of the resident consumer took; each is released again."""
    took: list[float] = []
    for _ in range(CALLS):
        began = time.perf_counter()
        lease = await client.acquire("tts")
        took.append(time.perf_counter() - began)
        await client.release(lease)
    return took


def _rows(policy: str, alone: list[float], beside: list[float], grown_mib: float) -> list[Row]:
    def row(percent: int) -> Row:
        ours, yardstick = percentile(beside, percent) * 1e3, percentile(alone, percent) * 1e3
        what = f"Acquire, resident, {WAITING} waiting ({policy}) p{percent}"
        return Row(what, f"{ours:.1f} ms", f"nobody waiting: {yardstick:.2f} ms", ours / yardstick)

    # An Acquire and its Release each have the queue looked at: the pair takes about twice as long.
    per_sec = len(beside) / (2 * sum(beside))
    grants = Row(f"Grants by one caller, {WAITING} waiting ({policy})", f"{per_sec:.0f} / s")
    return [row(50), row(99), grants, Row(f"Memory for {WAITING} waiting ({policy})", f"{grown_mib:.1f} MiB")]
