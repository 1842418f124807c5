"""The time of ``gpumanctl status`` and ``version``, compared with ``busctl call`` and with importing click."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import time
from asyncio.subprocess import DEVNULL
from pathlib import Path

from benchmarks.environment import MANAGER, NAME, PATH, announcement_folder, consumer_table, running_daemon
from benchmarks.table import Row, known_miss, median
from gpumand.testing.consumer_process import consumer_process

RUNS = 31
"""Pairs of runs: while the host is busy, a single ratio is a third too large or too small."""

MAX_RATIOS = {"status": 1.9, "version": 1.3}
"""How many times as long as importing click a whole command, with its D-Bus call, may take."""

KNOWN_RATIOS = {"version": 1.4}
"""What docs/performance.md documents for a busy host."""


async def measure(folder: Path) -> list[Row]:
    """A row compared with busctl, if it is installed, and a row compared with click for each command."""
    async with contextlib.AsyncExitStack() as stack:
        where = announcement_folder(folder)
        consumers = [await stack.enter_async_context(consumer_process(f"c{n}", 1024, where)) for n in range(4)]
        running = await stack.enter_async_context(
            running_daemon(folder, "".join(consumer_table(one, 1024) for one in consumers))
        )
        ours = [*_gpumanctl(), "--bus-address", running.address]
        rows = [await _against_busctl([*ours, "status"], running.address)]
        return rows + [await _against_click(ours, command) for command in MAX_RATIOS]


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


async def _against_click(gpumanctl: list[str], command: str) -> Row:
    ours = [*gpumanctl, command]
    click = [sys.executable, "-c", "import click"]
    pairs = [(await _seconds(click), await _seconds(ours)) for _ in range(RUNS)]
    base_msec, whole_msec = (median([pair[place] for pair in pairs]) * 1e3 for place in range(2))
    ratio = median([whole / base for base, whole in pairs])
    return Row(
        f"gpumanctl {command}, whole process",
        f"{whole_msec:.0f} ms",
        f"import click: {base_msec:.0f} ms",
        ratio,
        f"{MAX_RATIOS[command]:g} or less",
        ratio <= MAX_RATIOS[command],
        known_miss(ratio, KNOWN_RATIOS.get(command)),
    )


def _gpumanctl() -> list[str]:
    installed = Path(sys.executable).with_name("gpumanctl")
    return [str(installed)] if installed.exists() else [sys.executable, "-m", "gpumand.cli"]


async def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(*command, stdout=DEVNULL)
    if await process.wait() != 0:
        raise RuntimeError(f"{command[0]} exited with status {process.returncode}")
    return time.perf_counter() - started
