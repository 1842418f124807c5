"""The cost of an idle daemon: its memory with and without HTTP routes, and its processor time.

The memory is the proportional set size (PSS): private pages, and the daemon's share of those that other processes use
too. The daemon runs without a command line to parse, as in the system unit.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE
from dataclasses import replace
from pathlib import Path

from benchmarks.cpu_time import cpu_msec
from benchmarks.environment import announcement_folder, consumer_table, running_daemon
from benchmarks.table import Row
from gpumand.testing.consumer_process import consumer_process

SETTLE_SEC = 6.0
DRIVER_CLOSED_SEC = 66.0
"""Without consumers, the driver is closed after ``[gpu] idle_release_sec`` (60 s), and readings end."""

WATCH_SEC = 60.0
MAX_MIB, MAX_HTTP_MIB = 24.0, 30.0
MAX_CPU_PERCENT = 0.05

_BARE = """
import asyncio, sys
from dbus_fast.aio import MessageBus
async def main():
    bus = await MessageBus(bus_address=sys.argv[1]).connect()
    print("up", flush=True)
    await bus.wait_for_disconnect()
asyncio.run(main())
"""
"""The reference: Python, its event loop, and an unused bus connection."""

_WITHOUT_ROUTES = '[consumers.llm]\nvram_resident_mib = 1024\nunit = "llm.service"\n'


async def measure(folder: Path) -> list[Row]:
    """Memory compared with a bare service, and processor time: without consumers, without routes, and with four."""
    rows: list[Row] = []
    for name, tables, goal_mib in (("no consumer", "", None), ("no route", _WITHOUT_ROUTES, MAX_MIB)):
        (folder / name).mkdir()
        rows += await _measure(folder / name, name, tables, goal_mib)
    (folder / "routes").mkdir()
    async with contextlib.AsyncExitStack() as stack:
        where = announcement_folder(folder / "routes")
        consumers = [await stack.enter_async_context(consumer_process(f"c{n}", 1024, where)) for n in range(4)]
        tables = "".join(consumer_table(consumer, 1024) for consumer in consumers)
        rows += await _measure(folder / "routes", "4 consumers with routes", tables, MAX_HTTP_MIB)
    return rows


async def _measure(folder: Path, name: str, tables: str, goal_mib: float | None) -> list[Row]:
    prefix = (sys.executable, "-m", "benchmarks.launcher", str(folder / "pauses"))
    async with running_daemon(folder, tables, command_prefix=prefix) as running:
        bare_mib = await _bare_mib(running.address)
        await asyncio.sleep(SETTLE_SEC if tables else DRIVER_CLOSED_SEC)
        before_msec = cpu_msec(running.pid)
        await asyncio.sleep(WATCH_SEC)
        percent = (cpu_msec(running.pid) - before_msec) / WATCH_SEC / 10
        mib = proportional_mib(running.pid)
    memory = Row(
        f"idle, {name}: memory (PSS)", f"{mib:.1f} MiB", f"bare bus service: {bare_mib:.1f} MiB", mib / bare_mib
    )
    if goal_mib is not None:
        memory = replace(memory, goal=f"{goal_mib:g} MiB or less", met=mib <= goal_mib)
    used = Row(f"idle, {name}: processor over a minute", f"{percent:.3f} % of one core")
    if not tables:
        used = replace(used, goal=f"less than {MAX_CPU_PERCENT:g} %", met=percent < MAX_CPU_PERCENT)
    return [memory, used]


async def _bare_mib(address: str) -> float:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _BARE, address, stdout=PIPE)
    try:
        assert process.stdout is not None
        await process.stdout.readline()
        return proportional_mib(process.pid)
    finally:
        process.kill()
        await process.communicate()


def proportional_mib(pid: int) -> float:
    """The proportional set size of a process in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))


def resident_mib(pid: int) -> float:
    """MiB of a process that are in RAM (VmRSS)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))
