"""``gpumanctl status``, the whole process, against ``busctl call … GetStatus`` and against importing click."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import time
from asyncio.subprocess import DEVNULL
from pathlib import Path

from benchmarks.table import Row, median
from benchmarks.world import MANAGER, NAME, PATH, simulator, table_of, world
from gpumand.bus.connection import BusConnection
from gpumand.cli.client import Client
from gpumand.testing.consumer_process import consumer_process

RUNS = 15

MOST = 3.0
"""Starting up may take so many times as long as importing click takes, and the round trip besides."""


async def measure(folder: Path) -> list[Row]:
    """A row against click; and one against busctl, where there is one."""
    async with contextlib.AsyncExitStack() as stack:
        where = simulator(folder)
        consumers = [await stack.enter_async_context(consumer_process(f"c{n}", 1024, where)) for n in range(4)]
        running = await stack.enter_async_context(world(folder, "".join(table_of(one, 1024) for one in consumers)))
        ours = [*_gpumanctl(), "--bus-address", running.address, "status"]
        return [await _against_busctl(ours, running.address), await _against_click(ours, running.address)]


async def _against_busctl(ours: list[str], address: str) -> Row:
    busctl = shutil.which("busctl")
    if busctl is None:
        return Row("gpumanctl status", "", "busctl is not installed")
    theirs = [busctl, f"--address={address}", "call", NAME, PATH, MANAGER, "GetStatus"]
    pairs = [(await _seconds(theirs), await _seconds(ours)) for _ in range(RUNS)]
    plain, mine = median([pair[0] for pair in pairs]) * 1e3, median([pair[1] for pair in pairs]) * 1e3
    return Row("gpumanctl status, whole process", f"{mine:.0f} ms", f"busctl call: {plain:.0f} ms", mine / plain)


async def _against_click(ours: list[str], address: str) -> Row:
    """What starting up costs: the whole process without the conversation on the bus."""
    click = [sys.executable, "-c", "import click"]
    runs = [(await _seconds(click), await _seconds(ours), await _conversation(address)) for _ in range(RUNS)]
    base, whole, trip = (median([run[place] for run in runs]) * 1e3 for place in range(3))
    ratio = (whole - trip) / base
    against = f"import click: {base:.0f} ms, round trip: {trip:.0f} ms"
    return Row(
        "gpumanctl status, start-up", f"{whole - trip:.0f} ms", against, ratio, f"{MOST:g} or less", ratio <= MOST
    )


async def _conversation(address: str) -> float:
    """Connect, ask, leave, in a process that has everything imported."""
    started = time.perf_counter()
    connection = await BusConnection.connect(address)
    await Client(connection).status()
    await connection.close()
    return time.perf_counter() - started


def _gpumanctl() -> list[str]:
    beside = Path(sys.executable).with_name("gpumanctl")
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "gpumand.cli"]


async def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(*command, stdout=DEVNULL)
    if await process.wait() != 0:
        raise RuntimeError(f"{command[0]} ended with status {process.returncode}")
    return time.perf_counter() - started
