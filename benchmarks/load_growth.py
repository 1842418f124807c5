"""How the cost of a lease grows with the number of callers at the same time, and with the number of waiting requests.

The cost is the CPU time of the daemon by the kernel's accounting for one ``Acquire`` and ``Release`` of a resident
consumer. All numbers are from one run; other work on the host changes them.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from dbus_fast import Variant
from dbus_fast.aio import MessageBus

from benchmarks import concurrency
from benchmarks.cpu_time import cpu_msec
from benchmarks.environment import Client, RunningDaemon, announcement_folder, consumer_table, running_daemon
from benchmarks.table import Row, median
from gpumand.testing.consumer_process import consumer_process

CALLERS, WAITING = (1, 8, 32, 64), (0, 10, 100, 500)
PAIRS, ROUNDS = 512, 6
POLICY, KIND = "lru", "mixed"
"""Waiting requests for ten consumers, which is the more expensive kind."""


async def measure(folder: Path) -> list[Row]:
    """Rows by the number of callers, and by the number of waiting requests with one caller."""
    (where := folder / "load").mkdir()
    async with (
        consumer_process("tts", 1024, announcement_folder(where), "--loaded-at-start") as tts,
        running_daemon(where, consumer_table(tts, 1024)) as running,
    ):
        rows = await _by_callers(running)
    async with concurrency.daemon_with_held_memory(where / "crowd", POLICY, KIND) as running:
        return rows + [await _with_waiting(running, count) for count in WAITING]


async def _by_callers(running: RunningDaemon) -> list[Row]:
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for _ in range(max(CALLERS)):
            bus = await MessageBus(bus_address=running.address).connect()
            stack.callback(bus.disconnect)
            clients.append(Client(bus))
        took: dict[int, list[float]] = {count: [] for count in CALLERS}
        for _ in range(ROUNDS):  # in alternating rounds, so that other work slows all of them down alike
            for count in CALLERS:
                took[count].append(await _pair_msec(running, clients[:count]))
    return [Row(f"Acquire + Release, {count} callers, CPU", f"{median(took[count]):.2f} ms") for count in CALLERS]


async def _with_waiting(running: RunningDaemon, count: int) -> Row:
    async with contextlib.AsyncExitStack() as stack:
        if count:
            await stack.enter_async_context(concurrency.waiting_requests(running, concurrency.WANTED[KIND], count))
        took = [await _pair_msec(running, [running.client]) for _ in range(ROUNDS)]
    return Row(f"Acquire + Release, {count} requests wait, CPU", f"{median(took):.2f} ms")


async def _pair_msec(running: RunningDaemon, clients: list[Client]) -> float:
    before = cpu_msec(running.pid)
    await asyncio.gather(*(_pairs(client, PAIRS // len(clients)) for client in clients))
    return (cpu_msec(running.pid) - before) / PAIRS


async def _pairs(client: Client, count: int) -> None:
    for _ in range(count):
        await client.release(await client.acquire("tts", priority=Variant("i", concurrency.PRIORITY[KIND])))
