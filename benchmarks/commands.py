"""The time of ``gpumanctl status``, compared with ``busctl call … GetStatus`` and with importing click."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import time
from asyncio.subprocess import DEVNULL
from pathlib import Path

from benchmarks.environment import MANAGER, NAME, PATH, announcement_folder, consumer_table, running_daemon
from benchmarks.table import Row, median
from gpumand.bus.connection import BusConnection
from gpumand.cli.client import Client
from gpumand.testing.consumer_process import consumer_process

RUNS = 15

MAX_RATIO = 3.0
"""The start-up, without the D-Bus calls, may take this many times as long as importing click."""


async def measure(folder: Path) -> list[Row]:
    """A row compared with busctl, if it is installed, and a row compared with click."""
    async with contextlib.AsyncExitStack() as stack:
        where = announcement_folder(folder)
        consumers = [await stack.enter_async_context(consumer_process(f"c{n}", 1024, where)) for n in range(4)]
        running = await stack.enter_async_context(
            running_daemon(folder, "".join(consumer_table(one, 1024) for one in consumers))
        )
        ours = [*_gpumanctl(), "--bus-address", running.address, "status"]
        return [await _against_busctl(ours, running.address), await _against_click(ours, running.address)]


async def _against_busctl(ours: list[str], address: str) -> Row:
    busctl = shutil.which("busctl")
    if busctl is None:
        return Row("gpumanctl status", "", "busctl is not installed")
    theirs = [busctl, f"--address={address}", "call", NAME, PATH, MANAGER, "GetStatus"]
    pairs = [(await _seconds(theirs), await _seconds(ours)) for _ in range(RUNS)]
    theirs_msec, ours_msec = median([pair[0] for pair in pairs]) * 1e3, median([pair[1] for pair in pairs]) * 1e3
    return Row(
        "gpumanctl status, whole process",
        f"{ours_msec:.0f} ms",
        f"busctl call: {theirs_msec:.0f} ms",
        ours_msec / theirs_msec,
    )


async def _against_click(ours: list[str], address: str) -> Row:
    """The cost of the start-up: the whole process without its D-Bus calls."""
    click = [sys.executable, "-c", "import click"]
    runs = [(await _seconds(click), await _seconds(ours), await _round_trip(address)) for _ in range(RUNS)]
    base, whole, trip = (median([run[place] for run in runs]) * 1e3 for place in range(3))
    ratio = (whole - trip) / base
    against = f"import click: {base:.0f} ms, round trip: {trip:.0f} ms"
    return Row(
        "gpumanctl status, start-up",
        f"{whole - trip:.0f} ms",
        against,
        ratio,
        f"{MAX_RATIO:g} or less",
        ratio <= MAX_RATIO,
    )


async def _round_trip(address: str) -> float:
    """Seconds to connect, get the status and disconnect, in a process that has imported everything already."""
    started = time.perf_counter()
    connection = await BusConnection.connect(address)
    await Client(connection).status()
    await connection.close()
    return time.perf_counter() - started


def _gpumanctl() -> list[str]:
    installed = Path(sys.executable).with_name("gpumanctl")
    return [str(installed)] if installed.exists() else [sys.executable, "-m", "gpumand.cli"]


async def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(*command, stdout=DEVNULL)
    if await process.wait() != 0:
        raise RuntimeError(f"{command[0]} exited with status {process.returncode}")
    return time.perf_counter() - started
