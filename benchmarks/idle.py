"""The cost of an idle daemon: four consumers are probed, the device is sampled, and no requests arrive."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from benchmarks.environment import announcement_folder, consumer_table, running_daemon
from benchmarks.table import Row
from gpumand.testing.consumer_process import consumer_process

WATCH_SEC = 60.0

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


async def measure(folder: Path) -> list[Row]:
    """Memory compared with a bare service, and processor time."""
    async with contextlib.AsyncExitStack() as stack:
        where = announcement_folder(folder)
        consumers = [await stack.enter_async_context(consumer_process(f"c{n}", 1024, where)) for n in range(4)]
        tables = "".join(consumer_table(consumer, 1024) for consumer in consumers)
        running = await stack.enter_async_context(running_daemon(folder, tables))
        bare_mib = await _bare_mib(running.address)
        before_sec = _cpu_sec(running.pid)
        await asyncio.sleep(WATCH_SEC)
        used = (_cpu_sec(running.pid) - before_sec) / WATCH_SEC * 100
        mib = resident_mib(running.pid)
        return [
            Row("idle daemon: memory (RSS)", f"{mib:.1f} MiB", f"bare bus service: {bare_mib:.1f} MiB", mib / bare_mib),
            Row("idle daemon: processor over a minute", f"{used:.2f} % of one core"),
        ]


async def _bare_mib(address: str) -> float:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _BARE, address, stdout=PIPE)
    try:
        assert process.stdout is not None
        await process.stdout.readline()
        return resident_mib(process.pid)
    finally:
        process.kill()
        await process.communicate()


def resident_mib(pid: int) -> float:
    """MiB of a process that are in RAM (VmRSS)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def _cpu_sec(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
