"""``gpumanctl status``, the whole process, against ``busctl call … GetStatus``."""

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
from gpumand.testing.consumer_process import consumer_process

RUNS = 15


async def measure(folder: Path) -> list[Row]:
    """One row, or none where there is no busctl."""
    busctl = shutil.which("busctl")
    if busctl is None:
        return [Row("gpumanctl status", "", "busctl is not installed")]
    async with contextlib.AsyncExitStack() as stack:
        where = simulator(folder)
        consumers = [await stack.enter_async_context(consumer_process(f"c{n}", 1024, where)) for n in range(4)]
        running = await stack.enter_async_context(world(folder, "".join(table_of(one, 1024) for one in consumers)))
        theirs = [busctl, f"--address={running.address}", "call", NAME, PATH, MANAGER, "GetStatus"]
        ours = [*_gpumanctl(), "--bus-address", running.address, "status"]
        pairs = [(await _seconds(theirs), await _seconds(ours)) for _ in range(RUNS)]
    plain, mine = median([pair[0] for pair in pairs]) * 1e3, median([pair[1] for pair in pairs]) * 1e3
    return [Row("gpumanctl status, whole process", f"{mine:.0f} ms", f"busctl call: {plain:.0f} ms", mine / plain)]


def _gpumanctl() -> list[str]:
    beside = Path(sys.executable).with_name("gpumanctl")
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "gpumand.cli"]


async def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(*command, stdout=DEVNULL)
    if await process.wait() != 0:
        raise RuntimeError(f"{command[0]} ended with status {process.returncode}")
    return time.perf_counter() - started
