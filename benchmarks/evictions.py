"""From a victim's memory being free to the next consumer's load route being called, by the consumers' own clocks."""

from __future__ import annotations

import contextlib
from pathlib import Path

from benchmarks.table import Row, median, percentile
from benchmarks.world import Client, simulator, table_of, world
from gpumand.testing.consumer_process import ConsumerProcess, consumer_process

GOAL_MSEC = 100.0
SWAPS = 20
MIB = 13312


async def measure(folder: Path) -> list[Row]:
    """One row for an unload route that answers when it is done, one for a route that answers before."""
    rows = []
    for flag, how in (((), "answers when freed"), (("--async-unload",), "answers before")):
        flags = ("--load-sec", "0.05", "--unload-sec", "0.33", *flag)
        rows.append(_row(how, await _swaps(folder, flags)))
    return rows


async def _swaps(folder: Path, flags: tuple[str, ...]) -> list[float]:
    async with contextlib.AsyncExitStack() as stack:
        where = simulator(folder)
        one, two = [await stack.enter_async_context(consumer_process(n, MIB, where, *flags)) for n in ("one", "two")]
        tables = table_of(one, MIB) + table_of(two, MIB)
        running = await stack.enter_async_context(world(folder, tables, "concurrent_leases = 1"))
        await _use(running.client, one)
        pairs = [(one, two), (two, one)] * (SWAPS // 2)
        return [await _swap(running.client, leaving, coming) for leaving, coming in pairs]


async def _swap(client: Client, leaving: ConsumerProcess, coming: ConsumerProcess) -> float:
    """Milliseconds from the one's memory being free to the other's load being called."""
    await _use(client, coming)
    freed, called = await leaving.events("freed"), await coming.events("load-called")
    return (called[-1] - freed[-1]) * 1e3


async def _use(client: Client, consumer: ConsumerProcess) -> None:
    await client.release(await client.acquire(consumer.name))


def _row(how: str, gaps_msec: list[float]) -> Row:
    middle, worst = median(gaps_msec), percentile(gaps_msec, 99)
    ours = f"{middle:.0f} ms, worst {worst:.0f} ms"
    return Row(f"memory free to next load called ({how})", ours, "", None, f"≤ {GOAL_MSEC:g} ms", worst <= GOAL_MSEC)
