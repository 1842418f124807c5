"""Acquire and Release of a resident consumer, compared with two Pings of the same daemon on the same connection."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from dbus_fast import Variant

from benchmarks.environment import Client, announcement_folder, consumer_table, running_daemon
from benchmarks.table import Row, known_miss, median, percentile
from gpumand.testing.consumer_process import consumer_process

GOALS = {1: 2.2, 32: 4.0}
"""How many times as long as two Pings the median may take, by number of callers."""

P99_GOAL = 3.0

KNOWN_RATIOS = {(1, 50): 4.5, (1, 99): 4.5, (32, 50): 6.5, (32, 99): 6.5}
"""The ratios up to which docs/performance.md documents that a goal is missed, by callers and percentile."""

ROUNDS = 32
CALLS = 128
"""Calls in a round, for one caller and for many alike: short, so that other load on the host affects both alike."""

Operation = Callable[[], Awaitable[None]]


async def measure(folder: Path) -> list[Row]:
    """Rows for one and for 32 callers."""
    async with contextlib.AsyncExitStack() as stack:
        flags = (announcement_folder(folder), "--loaded-at-start")
        consumer = await stack.enter_async_context(consumer_process("tts", 1024, *flags))
        running = await stack.enter_async_context(running_daemon(folder, consumer_table(consumer, 1024)))
        rows = await _compare(running.client, "ttl", 1)
        rows += await _compare(running.client, "connection", 1)
        return rows + await _compare(running.client, "ttl", 32)


async def _compare(client: Client, lifetime: str, callers: int) -> list[Row]:
    async def lease() -> None:
        await _lease(client, lifetime)

    async def pings() -> None:
        await client.ping()
        await client.ping()

    await _round(lease, callers)
    rounds = [(await _round(pings, callers), await _round(lease, callers)) for _ in range(ROUNDS)]
    variant = f"{lifetime}, {callers} caller{'s' * (callers > 1)}"
    goals = ((50, GOALS[callers]), (99, P99_GOAL))
    return [_row(variant, percent, goal, KNOWN_RATIOS[callers, percent], rounds) for percent, goal in goals]


async def _lease(client: Client, lifetime: str = "ttl") -> None:
    lease = await client.acquire("tts", lifetime=Variant("s", lifetime))
    await client.release(lease)


async def _round(operation: Operation, callers: int) -> list[float]:
    """Seconds of each operation, with ``callers`` of them running at a time."""
    took: list[float] = []

    async def caller() -> None:
        for _ in range(CALLS // callers):
            started = time.perf_counter()
            await operation()
            took.append(time.perf_counter() - started)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return took


def _row(variant: str, percent: int, goal: float, known: float, rounds: list[tuple[list[float], list[float]]]) -> Row:
    """A row with the median round of each operation, and the median of the rounds' ratios."""
    ping_usec, lease_usec = (
        median([percentile(took, percent) for took in one]) * 1e6 for one in zip(*rounds, strict=True)
    )
    ratio = median([percentile(ours, percent) / percentile(reference, percent) for reference, ours in rounds])
    return Row(
        f"Acquire + Release, resident ({variant}) p{percent}",
        f"{lease_usec:.0f} µs",
        f"two Peer.Pings: {ping_usec:.0f} µs",
        ratio,
        f"≤ {goal:g} times",
        ratio <= goal,
        known_miss(ratio, known),
    )
