"""The time from the release of a victim's memory to the next consumer's load, by the consumers' own clocks."""

from __future__ import annotations

import contextlib
from pathlib import Path

from benchmarks.environment import Client, announcement_folder, consumer_table, running_daemon
from benchmarks.table import Row, median, percentile
from gpumand.testing.consumer_process import ConsumerProcess, consumer_process

GOAL_MSEC = 100.0
SWAPS = 20
MIB = 13312


async def measure(folder: Path) -> list[Row]:
    """One row for an unload route that answers when the memory is free, one for a route that answers before."""
    rows = []
    for flag, variant in (((), "answers when freed"), (("--async-unload",), "answers before")):
        flags = ("--load-sec", "0.05", "--unload-sec", "0.33", *flag)
        rows.append(_row(variant, await _swaps(folder, flags)))
    return rows


async def _swaps(folder: Path, flags: tuple[str, ...]) -> list[float]:
    async with contextlib.AsyncExitStack() as stack:
        where = announcement_folder(folder)
        one, two = [await stack.enter_async_context(consumer_process(n, MIB, where, *flags)) for n in ("one", "two")]
        tables = consumer_table(one, MIB) + consumer_table(two, MIB)
        running = await stack.enter_async_context(running_daemon(folder, tables, "concurrent_leases = 1"))
        await _use(running.client, one)
        pairs = [(one, two), (two, one)] * (SWAPS // 2)
        return [await _swap(running.client, leaving, coming) for leaving, coming in pairs]


async def _swap(client: Client, leaving: ConsumerProcess, coming: ConsumerProcess) -> float:
    """Milliseconds from the release of one consumer's memory to the call of the other's load route."""
    await _use(client, coming)
    freed, called = await leaving.events("freed"), await coming.events("load-called")
    return (called[-1] - freed[-1]) * 1e3


async def _use(client: Client, consumer: ConsumerProcess) -> None:
    await client.release(await client.acquire(consumer.name))


def _row(variant: str, gaps_msec: list[float]) -> Row:
    middle, worst = median(gaps_msec), percentile(gaps_msec, 99)
    ours = f"{middle:.0f} ms, worst {worst:.0f} ms"
    return Row(
        f"memory free to next load called ({variant})", ours, "", None, f"≤ {GOAL_MSEC:g} ms", worst <= GOAL_MSEC
    )
